//! Latencies in reports: percentiles for readers, and the whole histogram for programs.

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

/// Latencies in microseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Smallest.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// 99.99th percentile.
    pub p9999: f64,
    /// Largest.
    pub max: f64,
    /// The histogram, values in nanoseconds: HdrHistogram's V2 encoding (hdrhistogram.org) in base64.
    pub histogram: String,
}

impl Latency {
    /// The percentiles of a histogram in nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let quantile = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        let mut bytes = Vec::new();
        // Writing to a Vec cannot fail, and the encoding has room for every histogram.
        let _ = V2Serializer::new().serialize(histogram, &mut bytes);
        Latency {
            min: if histogram.is_empty() { 0.0 } else { histogram.min() as f64 / 1e3 },
            mean: histogram.mean() / 1e3,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            p9999: quantile(0.9999),
            max: histogram.max() as f64 / 1e3,
            histogram: STANDARD.encode(bytes),
        }
    }

    /// Returns the whole histogram, in nanoseconds.
    ///
    /// # Errors
    ///
    /// The report holds no valid histogram.
    pub fn decode(&self) -> anyhow::Result<Histogram<u64>> {
        let bytes = STANDARD.decode(&self.histogram).context("a histogram is not base64")?;
        Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .context("a histogram is not in HdrHistogram's V2 encoding")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_the_way_through_a_report() {
        let mut histogram = Histogram::new(3).expect("valid");
        (1..=10_000u64).for_each(|value| histogram.record(value * 1000).expect("in range"));
        let latency = Latency::of(&histogram);
        assert!((latency.p99 / 9900.0 - 1.0).abs() < 0.001, "{}", latency.p99);
        assert_eq!(latency.decode().expect("decodes"), histogram);
    }
}
