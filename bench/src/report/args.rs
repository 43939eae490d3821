//! The part of a command line that is about the report: its bounds and its files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::{Report, Threshold, Verdict, print, write};

/// Where the report goes, and the bounds that the run must keep.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ReportArgs {
    /// Exit status 1 if the 99th percentile of latency is above this
    #[arg(long, value_parser = parse_duration, value_name = "TIME", help_heading = "Checks")]
    pub p99: Option<Duration>,
    /// Exit status 1 if the 99.9th percentile of latency is above this
    #[arg(long, value_parser = parse_duration, value_name = "TIME", help_heading = "Checks")]
    pub p999: Option<Duration>,
    /// Exit status 1 below this many requests a second
    #[arg(long, value_name = "PER_SECOND", help_heading = "Checks")]
    pub min_rate: Option<f64>,
    /// Exit status 1 if the share of the read keys that are found is lower: 0 to 1
    #[arg(long, value_name = "RATIO", help_heading = "Checks")]
    pub min_hit_ratio: Option<f64>,
    /// Exit status 1 above this many errors; requests never sent count too
    #[arg(long, value_name = "COUNT", help_heading = "Checks")]
    pub max_errors: Option<u64>,
    /// Write the report with its histograms to a file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write the report as a page with plots
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,
    /// Print nothing but the report
    #[arg(long, help_heading = "Output")]
    pub no_progress: bool,
}

impl ReportArgs {
    /// Checks that the folders of the files exist, before a run that may be long.
    ///
    /// # Errors
    ///
    /// A folder does not exist.
    pub fn check(&self) -> anyhow::Result<()> {
        for path in [&self.json, &self.html].into_iter().flatten() {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            ensure!(folder.is_none_or(Path::is_dir), "cannot write {}: there is no such folder", path.display());
        }
        Ok(())
    }

    /// Checks the bounds, writes the report's files and prints it. Returns exit status 1 if a bound does not hold, a value
    /// was wrong or stale, or no request was served; otherwise `interrupted`, the exit status of a run that a signal
    /// ended; otherwise 0.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn finish(&self, mut report: Report, interrupted: Option<u8>) -> anyhow::Result<ExitCode> {
        report.thresholds = self.thresholds(&report);
        // Every way to the reader is tried, even if another one fails.
        let json = self.json.as_ref().map(|path| write(path, &serde_json::to_string_pretty(&report)?));
        let html = self.html.as_ref().map(|path| write(path, &report.to_html()));
        print(&report.to_text())?;
        [json, html].into_iter().flatten().collect::<anyhow::Result<()>>()?;
        let total = &report.total;
        let fine = report.thresholds.iter().all(|threshold| threshold.holds)
            && !report.verdict.as_ref().is_some_and(Verdict::is_bad)
            && (total.requests == 0 || total.errors < total.requests);
        Ok(ExitCode::from(if fine { interrupted.unwrap_or(0) } else { 1 }))
    }

    fn thresholds(&self, report: &Report) -> Vec<Threshold> {
        let total = &report.total;
        let anything = total.requests + report.unsent > 0;
        let threshold = |name: &str, bound: Option<f64>, measured: Option<f64>, keeps: fn(f64, f64) -> bool| {
            let measured = measured.filter(|_| anything);
            let holds = |bound| measured.is_some_and(|measured| keeps(measured, bound));
            bound.map(|bound| Threshold { name: name.to_owned(), bound, measured, holds: holds(bound) })
        };
        let at_most = |measured: f64, bound: f64| measured <= bound;
        let at_least = |measured: f64, bound: f64| measured >= bound;
        let microseconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e6);
        let errors = (total.errors + report.unsent) as f64;
        [
            threshold("--p99 (us)", microseconds(self.p99), Some(total.latency.p99), at_most),
            threshold("--p999 (us)", microseconds(self.p999), Some(total.latency.p999), at_most),
            threshold("--min-rate", self.min_rate, Some(total.per_second), at_least),
            threshold("--min-hit-ratio", self.min_hit_ratio, report.found_ratio(), at_least),
            threshold("--max-errors", self.max_errors.map(|count| count as f64), Some(errors), at_most),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The longest time, in seconds.
const TIME_MAX: f64 = 10_000.0 * 3600.0;

/// Parses a time: `10s`, `500ms`, `250us`, `2m`, `1h`. A number without a unit is in seconds.
pub(crate) fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().with_context(|| format!("`{text}` is not a time (10s, 500ms, 2m)"))?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" | "" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => bail!("`{unit}` is no unit of time: use us, ms, s, m or h"),
    };
    ensure!(seconds <= TIME_MAX, "`{text}` is too long: a time is at most 10,000 hours");
    Ok(Duration::try_from_secs_f64(seconds)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_take_units() {
        let cases = [("10s", 10_000_000), ("500ms", 500_000), ("250us", 250), ("1.5m", 90_000_000), ("2", 2_000_000)];
        for (text, microseconds) in cases {
            assert_eq!(parse_duration(text).expect("valid"), Duration::from_micros(microseconds), "{text}");
        }
        assert!(parse_duration("5 parsecs").is_err());
        for wrong in ["-1s", "nan", "inf", "1e9", "999999999999h", "99999999999999999999999s", "", "s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
