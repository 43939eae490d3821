//! The size, time to live and content of values.

use std::str::FromStr;

use anyhow::{Context, bail, ensure};

/// Sizes of values in bytes: `64`, `100-1000`, `64:80,1024:15,65536:5` (size:weight) or `etc`.
///
/// The size is a function of the key's number: a key has the same size in every write.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueSize {
    /// One size.
    Fixed(usize),
    /// Uniform between two sizes, inclusive.
    Range(usize, usize),
    /// Several sizes, each with its cumulative share of the keys.
    Histogram(Vec<(usize, f64)>),
    /// Facebook's ETC pool.
    Etc,
}

impl FromStr for ValueSize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text == "etc" {
            return Ok(ValueSize::Etc);
        }
        if text.contains(':') {
            let mut sizes = Vec::new();
            let mut sum = 0.0;
            for part in text.split(',') {
                let Some((size, weight)) = part.split_once(':') else { bail!("`{part}`: expected SIZE:WEIGHT") };
                let weight: f64 = weight.parse().with_context(|| format!("`{weight}` is not a weight"))?;
                ensure!(weight >= 0.0 && weight.is_finite(), "a weight is 0 or more");
                sum += weight;
                sizes.push((parse_size(size)?, sum));
            }
            ensure!(sum > 0.0, "at least one weight must be above 0");
            sizes.iter_mut().for_each(|(_, share)| *share /= sum);
            return Ok(ValueSize::Histogram(sizes));
        }
        if let Some((low, high)) = text.split_once('-') {
            let (low, high) = (parse_size(low)?, parse_size(high)?);
            ensure!(low <= high, "the smaller size comes first");
            return Ok(ValueSize::Range(low, high));
        }
        Ok(ValueSize::Fixed(parse_size(text)?))
    }
}

/// Parses a size in bytes; `k` and `m` are KiB and MiB.
fn parse_size(text: &str) -> anyhow::Result<usize> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => match text.strip_suffix(['m', 'M']) {
            Some(digits) => (digits, 1024 * 1024),
            None => (text, 1),
        },
    };
    let size = digits.parse::<usize>().ok().and_then(|size| size.checked_mul(unit));
    let size = size.with_context(|| format!("`{text}` is not a size (64, 4k, 1m)"))?;
    ensure!(size <= VALUE_MAX, "a value is at most {VALUE_MAX} bytes");
    Ok(size)
}

/// The largest value: the largest that the servers' -I allows.
pub const VALUE_MAX: usize = 128 * 1024 * 1024;

/// Returns a number from 0 to 1 that depends on `index` and `salt` alone.
fn unit(index: u64, salt: u64) -> f64 {
    (mix(index ^ salt.rotate_left(32)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Mixes a number over 64 bits (the finaliser of splitmix64: Steele, Lea, Flood, OOPSLA 2014).
#[inline]
pub fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Returns the length of key `index` in the ETC pool: generalised extreme value, Atikoglu et al. 2012, section 5.
pub(crate) fn etc_key_size(index: u64) -> usize {
    let (location, scale, shape) = (30.7984, 8.20449, 0.078688);
    let u = unit(index, 1).max(1e-12);
    let size = location + scale * ((-u.ln()).powf(-shape) - 1.0) / shape;
    (size as usize).clamp(1, larder_protocol::KEY_MAX_LEN)
}

/// Shares of values of 0 to 14 bytes in the ETC pool (Atikoglu et al. 2012, section 5). Larger values follow a
/// generalised Pareto distribution.
const ETC_SMALL: [f64; 15] = [
    0.00536, 0.00047, 0.17820, 0.09239, 0.00018, 0.02740, 0.00065, 0.00606, 0.00023, 0.00837, 0.00837, 0.08989,
    0.00092, 0.00326, 0.01980,
];

fn etc_value_size(index: u64) -> usize {
    let mut rest = unit(index, 2);
    for (size, share) in ETC_SMALL.iter().enumerate() {
        if rest < *share {
            return size;
        }
        rest -= share;
    }
    let (scale, shape) = (214.476, 0.348238);
    let u = unit(index, 3);
    (15.0 + scale * ((1.0 - u).powf(-shape) - 1.0) / shape).min(1_000_000.0) as usize
}

impl ValueSize {
    /// Returns the size of the value of key `index`.
    #[inline]
    pub fn of(&self, index: u64) -> usize {
        match self {
            ValueSize::Fixed(size) => *size,
            ValueSize::Range(low, high) => low + (mix(index) % (high - low + 1) as u64) as usize,
            ValueSize::Histogram(sizes) => {
                let u = unit(index, 4);
                sizes.iter().find(|(_, share)| u < *share).or(sizes.last()).map_or(0, |(size, _)| *size)
            }
            ValueSize::Etc => etc_value_size(index),
        }
    }

    /// Returns an upper bound of all sizes.
    pub fn largest(&self) -> usize {
        match self {
            ValueSize::Fixed(size) | ValueSize::Range(_, size) => *size,
            ValueSize::Histogram(sizes) => sizes.iter().map(|(size, _)| *size).max().unwrap_or(0),
            ValueSize::Etc => 1_000_000,
        }
    }
}

/// Seconds in 30 days. Servers read a larger time to live as seconds since 1970 (memcached's protocol.txt, "Expiration
/// times").
const TTL_MAX: u32 = 30 * 24 * 60 * 60;

/// Times to live in seconds: `0` (never expires), `60`, `60-3600`, or `60:9,0:1` (seconds:weight).
#[derive(Debug, Clone, PartialEq)]
pub struct Ttl(Vec<(u32, u32, f64)>);

impl FromStr for Ttl {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let seconds = |word: &str| -> anyhow::Result<u32> {
            let seconds = word.parse().with_context(|| format!("`{word}` is not a number of seconds"))?;
            ensure!(seconds <= TTL_MAX, "servers take more than 30 days ({TTL_MAX} seconds) for a date");
            Ok(seconds)
        };
        let mut parts = Vec::new();
        let mut sum = 0.0;
        for part in text.split(',') {
            let (range, weight) = part.split_once(':').unwrap_or((part, "1"));
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let weight: f64 = weight.parse().with_context(|| format!("`{weight}` is not a weight"))?;
            ensure!(weight >= 0.0 && weight.is_finite(), "a weight is 0 or more");
            let (low, high) = (seconds(low)?, seconds(high)?);
            ensure!(low <= high, "the shorter time comes first");
            sum += weight;
            parts.push((low, high, sum));
        }
        ensure!(sum > 0.0, "at least one weight must be above 0");
        parts.iter_mut().for_each(|(_, _, share)| *share /= sum);
        Ok(Ttl(parts))
    }
}

impl Ttl {
    /// Returns a time to live in seconds, drawn with a random number.
    #[inline]
    pub fn draw(&self, random: u64) -> u32 {
        if let [(low, high, _)] = self.0[..]
            && low == high
        {
            return low;
        }
        let u = unit(random, 5);
        let found = self.0.iter().find(|(_, _, share)| u < *share).or(self.0.last());
        found.map_or(0, |(low, high, _)| low + (mix(random) % u64::from(high - low + 1)) as u32)
    }

    /// Whether no key expires.
    pub fn is_never(&self) -> bool {
        self.0.iter().all(|(_, high, _)| *high == 0)
    }
}

/// Bytes that values are cut from, so that no value is generated while latency is measured.
#[derive(Debug)]
pub struct Filler(Vec<u8>);

/// Number of offsets at which values can begin.
const FILLER_OFFSETS: usize = 1024;

/// Bytes at the front of a verified value: the key's number and the version.
pub const HEADER_LEN: usize = 16;

impl Filler {
    /// Bytes for values of up to `largest` bytes.
    pub fn new(largest: usize) -> Filler {
        let letters = b"abcdefghijklmnopqrstuvwxyz012345";
        let bytes = (0..(largest + FILLER_OFFSETS) as u64).map(|i| letters[(mix(i) % 32) as usize]).collect();
        Filler(bytes)
    }

    /// Returns `len` bytes that depend on `seed`.
    #[inline]
    pub fn slice(&self, seed: u64, len: usize) -> &[u8] {
        let start = (mix(seed) % FILLER_OFFSETS as u64) as usize;
        &self.0[start..start + len]
    }

    /// Writes to `out` the value of `key` in `version`, of `len` bytes (at least [`HEADER_LEN`]).
    pub fn write(&self, key: u64, version: u64, len: usize, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&key.to_be_bytes());
        out.extend_from_slice(&version.to_be_bytes());
        out.extend_from_slice(self.slice(key ^ version.rotate_left(40), len - HEADER_LEN));
    }

    /// Returns the version of a value that is whole and belongs to `key`; `None` for any other bytes.
    pub fn version(&self, key: u64, len: usize, value: &[u8]) -> Option<u64> {
        let (header, filling) = value.split_first_chunk::<HEADER_LEN>()?;
        let version = u64::from_be_bytes(header[8..].try_into().ok()?);
        let whole = value.len() == len
            && header[..8] == key.to_be_bytes()
            && filling == self.slice(key ^ version.rotate_left(40), len - HEADER_LEN);
        whole.then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_words() {
        assert_eq!("4k".parse::<ValueSize>().expect("valid"), ValueSize::Fixed(4096));
        assert_eq!("10-20".parse::<ValueSize>().expect("valid"), ValueSize::Range(10, 20));
        let histogram = ValueSize::Histogram(vec![(64, 0.75), (1024, 1.0)]);
        assert_eq!("64:3,1k:1".parse::<ValueSize>().expect("valid"), histogram);
        for bad in ["", "x", "20-10", "1g", "64:x", "64:0"] {
            assert!(bad.parse::<ValueSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_histogram_of_sizes_is_kept_over_many_keys() {
        let sizes: ValueSize = "64:3,1k:1".parse().expect("valid");
        let small = (0..100_000).filter(|&key| sizes.of(key) == 64).count();
        assert!((74_000..76_000).contains(&small), "{small}");
    }

    #[test]
    fn etc_sizes_have_the_distributions_of_the_paper() {
        let count = 200_000u64;
        let two_bytes = (0..count).filter(|&key| ValueSize::Etc.of(key) == 2).count() as f64 / count as f64;
        assert!((two_bytes - 0.1782).abs() < 0.005, "{two_bytes}");
        let mut values: Vec<usize> = (0..count).map(|key| ValueSize::Etc.of(key)).filter(|&size| size >= 15).collect();
        values.sort_unstable();
        let mut keys: Vec<usize> = (0..count).map(etc_key_size).collect();
        keys.sort_unstable();
        let quantile = |sorted: &[usize], q: f64| sorted[(sorted.len() as f64 * q) as usize] as f64;
        for q in [0.1, 0.5, 0.9, 0.99f64] {
            // The inverses of both distribution functions, with the parameters of the paper's section 5.
            let key = 30.7984 + 8.20449 * ((-q.ln()).powf(-0.078688) - 1.0) / 0.078688;
            assert!((quantile(&keys, q) - key.floor()).abs() <= 1.0, "{q}: {} not {key}", quantile(&keys, q));
            let value = 15.0 + 214.476 * ((1.0 - q).powf(-0.348238) - 1.0) / 0.348238;
            assert!((quantile(&values, q) / value - 1.0).abs() < 0.05, "{q}: {} not {value}", quantile(&values, q));
        }
    }

    #[test]
    fn times_to_live_follow_their_weights() {
        let ttl: Ttl = "60-100:9,0:1".parse().expect("valid");
        let never = (0..10_000).filter(|&i| ttl.draw(i) == 0).count();
        assert!((900..1100).contains(&never), "{never}");
        assert!((0..10_000).all(|i| matches!(ttl.draw(i), 0 | 60..=100)));
        assert!("0".parse::<Ttl>().expect("valid").is_never());
        assert!("2592000".parse::<Ttl>().is_ok() && "2592001".parse::<Ttl>().is_err());
    }

    #[test]
    fn a_value_tells_its_version_only_when_whole() {
        let filler = Filler::new(100);
        let mut value = Vec::new();
        filler.write(7, 3, 100, &mut value);
        assert_eq!(filler.version(7, 100, &value), Some(3));
        assert_eq!(filler.version(8, 100, &value), None);
        assert_eq!(filler.version(7, 100, &value[..99]), None);
        value[50] ^= 1;
        assert_eq!(filler.version(7, 100, &value), None);
    }
}
