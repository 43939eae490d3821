//! The workload: keys, values, times to live, and the mix of operations.

mod keys;
mod values;

use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use rand::RngExt;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};

pub use keys::*;
pub use values::*;

/// Kinds of operation, in the order of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Read one key or several.
    Get,
    /// Write a value.
    Set,
    /// Remove a key.
    Delete,
    /// Change a key's time to live.
    Touch,
    /// Add 1 to a number.
    Incr,
}

impl Operation {
    /// All operations.
    pub const ALL: [Operation; 5] =
        [Operation::Get, Operation::Set, Operation::Delete, Operation::Touch, Operation::Incr];

    /// The name on command lines and in reports.
    pub fn name(self) -> &'static str {
        ["get", "set", "delete", "touch", "incr"][self as usize]
    }
}

/// Shares of operations, `get:9,set:1`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// Cumulative shares of the operations, in the order of [`Operation::ALL`].
    shares: [f64; 5],
}

impl FromStr for Mix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut weights = [0.0; 5];
        for part in text.split(',') {
            let (name, weight) = part.split_once(':').unwrap_or((part, "1"));
            let Some(operation) = Operation::ALL.iter().find(|operation| operation.name() == name) else {
                bail!("`{name}` is not an operation: use get, set, delete, touch, incr, as in get:9,set:1");
            };
            let weight: f64 = weight.parse().with_context(|| format!("`{weight}` is not a weight"))?;
            ensure!(weight >= 0.0 && weight.is_finite(), "a weight is 0 or more");
            weights[*operation as usize] += weight;
        }
        let sum: f64 = weights.iter().sum();
        ensure!(sum > 0.0, "at least one weight must be above 0");
        let mut share = 0.0;
        let shares = weights.map(|weight| {
            share += weight / sum;
            share
        });
        Ok(Mix { shares })
    }
}

impl Mix {
    /// Draws an operation.
    #[inline]
    pub fn draw(&self, rng: &mut SmallRng) -> Operation {
        if self.shares[0] >= 1.0 {
            return Operation::Get;
        }
        let u: f64 = rng.random();
        Operation::ALL[self.shares.iter().position(|share| u < *share).unwrap_or(0)]
    }

    /// Whether `operation` occurs.
    pub fn has(&self, operation: Operation) -> bool {
        let index = operation as usize;
        self.shares[index] > if index == 0 { 0.0 } else { self.shares[index - 1] }
    }
}

/// Named workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// Facebook's general-purpose ETC pool: sizes as published, 30 reads to a write, Zipf 0.99, read-through
    Etc,
    /// Sessions: 300 to 3000 bytes, read 3 times for each write, 30 minutes to live, a hot tenth
    SessionStore,
    /// Rendered parts of pages: 1 to 64 KiB, nearly all reads, Zipf 1.1, a minute to an hour to live, read-through
    PageFragments,
}

/// The options that describe a workload. What a preset sets, an option given beside it overrides.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Workload")]
pub struct WorkloadArgs {
    /// A named workload to start from
    #[arg(long, value_enum, value_name = "NAME")]
    pub preset: Option<Preset>,
    /// Share of each operation: get, set, delete, touch, incr [default: get:9,set:1]
    #[arg(long, value_name = "OP:WEIGHT,…")]
    pub mix: Option<Mix>,
    /// Number of distinct keys [default: 100000]
    #[arg(long, value_name = "COUNT")]
    pub keys: Option<u64>,
    /// How requests spread over keys: uniform, zipf:EXPONENT, hot:SHARE:PART, sequential [default: uniform]
    #[arg(long, value_name = "DISTRIBUTION")]
    pub key_distribution: Option<KeyDistribution>,
    /// Length of a key in bytes, or `etc` [default: 24]
    #[arg(long, value_name = "BYTES")]
    pub key_size: Option<KeySize>,
    /// Prefix of the keys
    #[arg(long, value_name = "TEXT", default_value = "key:")]
    pub key_prefix: String,
    /// Size of values: 64, 100-4k, 64:80,1k:15,64k:5 (size:weight) or `etc` [default: 100]
    #[arg(long, value_name = "SIZE")]
    pub value_size: Option<ValueSize>,
    /// Time to live in seconds: 0 never expires; 60-3600 and 60:9,0:1 (seconds:weight) are drawn at random [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<Ttl>,
    /// Keys in one get
    #[arg(long, value_name = "KEYS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub multiget: u32,
    /// Read through: set a key after a get has missed it
    #[arg(long)]
    pub fill: bool,
    /// Seed of every random choice: the same seed gives the same keys
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

/// A complete workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Shares of operations.
    pub mix: Mix,
    /// The keys.
    pub keys: KeySpace,
    /// How requests spread over them.
    pub distribution: KeyDistribution,
    /// Sizes of values.
    pub value_size: ValueSize,
    /// Lower bound of all value sizes.
    pub value_min: usize,
    /// Times to live.
    pub ttl: Ttl,
    /// Keys in one get.
    pub multiget: u32,
    /// Whether a miss is followed by a set.
    pub fill: bool,
    /// Seed of every random choice.
    pub seed: u64,
}

/// What a preset sets; texts are spelled as on the command line.
struct Defaults {
    mix: &'static str,
    distribution: KeyDistribution,
    key_size: KeySize,
    value_size: &'static str,
    ttl: &'static str,
    keys: u64,
    fill: bool,
}

impl Defaults {
    /// The defaults of `preset`; without one, those that `--help` names.
    fn of(preset: Option<Preset>) -> Defaults {
        match preset {
            None => Defaults {
                mix: "get:9,set:1",
                distribution: KeyDistribution::Uniform,
                key_size: KeySize::Fixed(24),
                value_size: "100",
                ttl: "0",
                keys: 100_000,
                fill: false,
            },
            Some(Preset::Etc) => Defaults {
                mix: "get:30,set:1",
                distribution: KeyDistribution::Zipf { exponent: 0.99 },
                key_size: KeySize::Etc,
                value_size: "etc",
                ttl: "0",
                keys: 1_000_000,
                fill: true,
            },
            Some(Preset::SessionStore) => Defaults {
                mix: "get:3,set:1,delete:0.02,touch:0.5",
                distribution: KeyDistribution::HotSet { share: 0.9, part: 0.1 },
                key_size: KeySize::Fixed(40),
                value_size: "300-3000",
                ttl: "1800",
                keys: 200_000,
                fill: true,
            },
            Some(Preset::PageFragments) => Defaults {
                mix: "get:200,set:1",
                distribution: KeyDistribution::Zipf { exponent: 1.1 },
                key_size: KeySize::Fixed(60),
                value_size: "1k:30,4k:40,16k:25,64k:5",
                ttl: "60-3600",
                keys: 20_000,
                fill: true,
            },
        }
    }
}

impl WorkloadArgs {
    /// The workload: options first, then the preset, then the defaults.
    ///
    /// # Errors
    ///
    /// The names of so many keys do not fit the length of a key.
    pub fn resolve(&self) -> anyhow::Result<Workload> {
        let defaults = Defaults::of(self.preset);
        let workload = Workload {
            mix: self.mix.clone().map_or_else(|| defaults.mix.parse(), Ok)?,
            keys: KeySpace {
                count: self.keys.unwrap_or(defaults.keys),
                prefix: self.key_prefix.clone(),
                size: self.key_size.unwrap_or(defaults.key_size),
            },
            distribution: self.key_distribution.unwrap_or(defaults.distribution),
            value_size: self.value_size.clone().map_or_else(|| defaults.value_size.parse(), Ok)?,
            value_min: 0,
            ttl: self.ttl.clone().map_or_else(|| defaults.ttl.parse(), Ok)?,
            multiget: self.multiget,
            fill: self.fill || defaults.fill,
            seed: self.seed,
        };
        workload.keys.check()?;
        Ok(workload)
    }
}

impl Workload {
    /// Returns the size of the value of key `index`.
    #[inline]
    pub fn value_len(&self, index: u64) -> usize {
        self.value_size.of(index).max(self.value_min)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_mix_is_drawn_by_its_weights() {
        let mix: Mix = "get:3,incr:1".parse().expect("valid");
        let mut rng = SmallRng::seed_from_u64(1);
        let gets = (0..10_000).filter(|_| mix.draw(&mut rng) == Operation::Get).count();
        assert!((7300..7700).contains(&gets), "{gets}");
        assert!(mix.has(Operation::Incr) && !mix.has(Operation::Set));
        assert!("get:9,put:1".parse::<Mix>().is_err());
        assert!("get:0".parse::<Mix>().is_err());
    }
}
