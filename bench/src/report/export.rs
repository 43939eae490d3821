//! Reports for other programs: CSV, and HdrHistogram's percentile distribution.

use std::fmt::Write;

use anyhow::Result;

use super::{Figures, Report};

impl Report {
    /// Renders the figures as CSV: a line for each operation, for all, and for each server.
    ///
    /// # Errors
    ///
    /// The CSV cannot be written.
    pub fn to_csv(&self) -> Result<String> {
        let mut lines = csv::Writer::from_writer(Vec::new());
        let figures = ["requests", "keys", "per_second", "hits", "misses", "errors"];
        let latency = ["min_us", "mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "p9999_us", "max_us"];
        lines.write_record(["of", "name"].iter().chain(&figures).chain(&latency))?;
        let operations = self.operations.iter().map(|entry| ("operation", entry.operation.name(), &entry.figures));
        let servers = self.servers.iter().map(|server| ("server", server.address.as_str(), &server.figures));
        for (of, name, figures) in operations.chain([("all", "", &self.total)]).chain(servers) {
            lines.write_record([of.to_owned(), name.to_owned()].into_iter().chain(columns(figures)))?;
        }
        Ok(String::from_utf8(lines.into_inner()?)?)
    }

    /// Renders the figures over time as CSV: a line for each interval.
    ///
    /// # Errors
    ///
    /// The CSV cannot be written.
    pub fn series_to_csv(&self) -> Result<String> {
        let mut lines = csv::Writer::from_writer(Vec::new());
        lines.write_record([
            "seconds",
            "per_second",
            "hit_ratio",
            "errors",
            "p50_us",
            "p99_us",
            "p999_us",
            "max_us",
        ])?;
        for point in &self.series {
            let hit_ratio = point.hit_ratio.map_or_else(String::new, |ratio| ratio.to_string());
            let [at, per_second] = [point.at, point.per_second].map(|number| number.to_string());
            let latency = [point.p50, point.p99, point.p999, point.max].map(|number| number.to_string());
            let front = [at, per_second, hit_ratio, point.errors.to_string()];
            lines.write_record(front.into_iter().chain(latency))?;
        }
        Ok(String::from_utf8(lines.into_inner()?)?)
    }

    /// Renders the latency of all requests as a percentile distribution in milliseconds, in the form of HdrHistogram's
    /// `outputPercentileDistribution` with five steps a half distance (hdrhistogram.org plots such `.hgrm` files).
    ///
    /// # Errors
    ///
    /// The report holds no valid histogram.
    pub fn to_hgrm(&self) -> Result<String> {
        let histogram = self.total.latency.decode()?;
        let mut out =
            format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
        let mut count = 0;
        for step in histogram.iter_quantiles(5) {
            count += step.count_since_last_iteration();
            let (value, quantile) = (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
            // Writing to a String cannot fail.
            let _ = write!(out, "{value:12.3} {quantile:14.12} {count:10}");
            let _ = if quantile < 1.0 { writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(out) };
        }
        let [mean, deviation, max] =
            [histogram.mean(), histogram.stdev(), histogram.max() as f64].map(|nanoseconds| nanoseconds / 1e6);
        let total = histogram.len();
        let (buckets, sub_buckets) =
            (histogram.buckets(), (2 * 10u64.pow(histogram.sigfig().into())).next_power_of_two());
        let _ = writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
        let _ = writeln!(out, "#[Max     = {max:12.3}, Total count    = {total:12}]");
        let _ = writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]");
        Ok(out)
    }
}

fn columns(figures: &Figures) -> impl Iterator<Item = String> {
    let latency = &figures.latency;
    let counts = [figures.requests, figures.keys].map(|count| count.to_string());
    let found = [figures.hits, figures.misses, figures.errors].map(|count| count.to_string());
    let times =
        [latency.min, latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.p9999, latency.max];
    let times = times.map(|time| time.to_string());
    counts.into_iter().chain([figures.per_second.to_string()]).chain(found).chain(times)
}
