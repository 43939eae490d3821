//! Keys and their popularity.

use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use larder_protocol::KEY_MAX_LEN;
use rand::RngExt;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};

use super::values;

/// How requests spread over the keys: `uniform`, `zipf:EXPONENT`, `hot:SHARE:PART`, `sequential`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KeyDistribution {
    /// Every key is equally likely.
    Uniform,
    /// The probability of the key of rank r is in proportion to r^-exponent.
    Zipf {
        /// The exponent: 0 is uniform; caches see 0.8 to 1.2.
        exponent: f64,
    },
    /// A share of the requests goes to a part of the keys, the rest to the other keys.
    HotSet {
        /// Share of the requests, 0 to 1.
        share: f64,
        /// Part of the keys, 0 to 1.
        part: f64,
    },
    /// One key after the other; after the last, the first again.
    Sequential,
}

impl FromStr for KeyDistribution {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let number = |word: &str| word.parse::<f64>().with_context(|| format!("`{word}` is not a number"));
        let mut words = text.split(':');
        let name = words.next().unwrap_or_default();
        let arguments: Vec<f64> = words.map(number).collect::<Result<_, _>>()?;
        Ok(match (name, arguments.as_slice()) {
            ("uniform", []) => KeyDistribution::Uniform,
            ("sequential", []) => KeyDistribution::Sequential,
            ("zipf", []) => KeyDistribution::Zipf { exponent: 0.99 },
            ("zipf", &[exponent]) => {
                ensure!(exponent >= 0.0 && exponent.is_finite(), "a Zipf exponent is 0 or more");
                KeyDistribution::Zipf { exponent }
            }
            ("hot", &[share, part]) => {
                ensure!((0.0..=1.0).contains(&share) && part > 0.0 && part <= 1.0, "shares are between 0 and 1");
                KeyDistribution::HotSet { share, part }
            }
            _ => bail!("expected uniform, sequential, zipf:EXPONENT or hot:SHARE:PART (hot:0.9:0.1)"),
        })
    }
}

/// How long keys are: a number of bytes, or `etc` for the lengths of Facebook's ETC pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySize {
    /// One length.
    Fixed(usize),
    /// Atikoglu et al., "Workload Analysis of a Large-Scale Key-Value Store", SIGMETRICS 2012, section 5.
    Etc,
}

impl FromStr for KeySize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text == "etc" {
            return Ok(KeySize::Etc);
        }
        let size: usize = text.parse().context("a key size is a number of bytes, or `etc`")?;
        ensure!((8..=KEY_MAX_LEN).contains(&size), "a key size is between 8 and {KEY_MAX_LEN} bytes");
        Ok(KeySize::Fixed(size))
    }
}

/// The keys of a run: numbers from 0 to `count`, and their names.
#[derive(Debug, Clone)]
pub struct KeySpace {
    /// Number of keys.
    pub count: u64,
    /// Prefix of every name.
    pub prefix: String,
    /// Length of the names.
    pub size: KeySize,
}

/// A buffer for a key's name.
pub type KeyBuffer = [u8; KEY_MAX_LEN];

impl KeySpace {
    /// Checks that all names are valid keys of the wanted length.
    ///
    /// # Errors
    ///
    /// There is no key, or prefix and number are too long or hold a forbidden character.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.count > 0, "--keys: at least one key is needed");
        let bad = self.prefix.bytes().any(|byte| byte <= b' ' || byte == 0x7f);
        ensure!(!bad, "--key-prefix: blanks and control characters cannot stand in a key");
        let digits = (self.count - 1).max(1).ilog10() as usize + 1;
        let least = self.prefix.len() + digits;
        if let KeySize::Fixed(size) = self.size {
            ensure!(least <= size, "--key-size: prefix and number take {least} bytes, more than {size}");
        }
        ensure!(least <= KEY_MAX_LEN, "--key-prefix: too long");
        Ok(())
    }

    /// Writes the name of key `index`: prefix, zeros, number.
    #[inline]
    pub fn name<'b>(&self, index: u64, buffer: &'b mut KeyBuffer) -> &'b [u8] {
        let size = match self.size {
            KeySize::Fixed(size) => size,
            KeySize::Etc => values::etc_key_size(index),
        };
        let mut at = buffer.len();
        let mut rest = index;
        loop {
            at -= 1;
            buffer[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let digits = buffer.len() - at;
        let size = size.clamp(self.prefix.len() + digits, buffer.len());
        let start = buffer.len() - size;
        let zeros = start + self.prefix.len();
        buffer[zeros..at].fill(b'0');
        buffer[start..zeros].copy_from_slice(self.prefix.as_bytes());
        &buffer[start..]
    }
}

/// Draws keys from a distribution.
#[derive(Debug, Clone)]
pub struct KeySampler {
    count: u64,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Uniform,
    Zipf(Zipf<f64>),
    HotSet { share: f64, hot: u64 },
    Sequential { next: u64, step: u64 },
}

impl KeySampler {
    /// A sampler over `count` keys for thread `thread` of `threads` (they share a sequence between them).
    pub fn new(distribution: KeyDistribution, count: u64, thread: u64, threads: u64) -> anyhow::Result<KeySampler> {
        let kind = match distribution {
            KeyDistribution::Uniform => Kind::Uniform,
            KeyDistribution::Zipf { exponent } => Kind::Zipf(Zipf::new(count as f64, exponent)?),
            KeyDistribution::HotSet { share, part } => {
                Kind::HotSet { share, hot: ((count as f64 * part) as u64).clamp(1, count) }
            }
            KeyDistribution::Sequential => Kind::Sequential { next: thread % count, step: threads },
        };
        Ok(KeySampler { count, kind })
    }

    /// Returns the number of the next key.
    #[inline]
    pub fn next(&mut self, rng: &mut SmallRng) -> u64 {
        match &mut self.kind {
            Kind::Uniform => rng.random_range(0..self.count),
            Kind::Zipf(zipf) => (zipf.sample(rng) as u64).clamp(1, self.count) - 1,
            Kind::HotSet { share, hot } => {
                if *hot == self.count || rng.random_bool(*share) {
                    rng.random_range(0..*hot)
                } else {
                    rng.random_range(*hot..self.count)
                }
            }
            Kind::Sequential { next, step } => {
                let key = *next;
                *next = (key + *step) % self.count;
                key
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn names_are_of_the_size_asked_and_distinct() {
        let keys = KeySpace { count: 2000, prefix: "p:".to_owned(), size: KeySize::Fixed(16) };
        keys.check().expect("fits");
        let mut buffer = [0; KEY_MAX_LEN];
        assert_eq!(keys.name(0, &mut buffer), b"p:00000000000000");
        assert_eq!(keys.name(1999, &mut buffer), b"p:00000000001999");
        assert!(KeySpace { size: KeySize::Fixed(8), count: 10_000_000, ..keys }.check().is_err());
    }

    #[test]
    fn zipf_draws_each_rank_as_often_as_its_power_says() {
        let (count, draws) = (1000u64, 200_000);
        for exponent in [0.0, 0.5, 0.99, 1.0, 1.2, 2.5] {
            let mut sampler = KeySampler::new(KeyDistribution::Zipf { exponent }, count, 0, 1).expect("valid");
            let mut rng = SmallRng::seed_from_u64(7);
            let mut seen = vec![0u32; count as usize];
            (0..draws).for_each(|_| seen[sampler.next(&mut rng) as usize] += 1);
            let norm: f64 = (1..=count).map(|rank| (rank as f64).powf(-exponent)).sum();
            for rank in [1usize, 2, 10, 100, 1000] {
                let expected = f64::from(draws) * (rank as f64).powf(-exponent) / norm;
                let got = f64::from(seen[rank - 1]);
                assert!(
                    (got - expected).abs() < 6.0 * expected.sqrt().max(1.0),
                    "{exponent}, {rank}: {got}, {expected}"
                );
            }
        }
    }

    #[test]
    fn a_hot_set_gets_its_share() {
        let mut sampler =
            KeySampler::new(KeyDistribution::HotSet { share: 0.9, part: 0.1 }, 1000, 0, 1).expect("valid");
        let mut rng = SmallRng::seed_from_u64(7);
        let hot = (0..10_000).filter(|_| sampler.next(&mut rng) < 100).count();
        assert!((8800..9200).contains(&hot), "{hot}");
    }

    #[test]
    fn threads_share_a_sequence() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut seen: Vec<u64> = (0..2)
            .flat_map(|thread| {
                let mut sampler = KeySampler::new(KeyDistribution::Sequential, 10, thread, 2).expect("valid");
                (0..5).map(|_| sampler.next(&mut rng)).collect::<Vec<_>>()
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn distributions_are_read_from_words() {
        assert_eq!("zipf:1.2".parse::<KeyDistribution>().expect("valid"), KeyDistribution::Zipf { exponent: 1.2 });
        let hot = KeyDistribution::HotSet { share: 0.9, part: 0.1 };
        assert_eq!("hot:0.9:0.1".parse::<KeyDistribution>().expect("valid"), hot);
        assert!("zipf:-1".parse::<KeyDistribution>().is_err());
        assert!("hot:2:0.1".parse::<KeyDistribution>().is_err());
        assert!("gauss".parse::<KeyDistribution>().is_err());
    }
}
