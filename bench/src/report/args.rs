//! The part of a command line that is about the report: its bounds and its files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use larder_cli::format::parse_duration;

use super::{Report, Threshold, Unit, Verdict, print, write};

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
    /// Exit status 1 if the share of the read keys that are found is lower: 95% or 0.95
    #[arg(long, value_parser = parse_share, value_name = "SHARE", help_heading = "Checks")]
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
    /// Write the figures by operation and server as CSV
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub csv: Option<PathBuf>,
    /// Write the figures over time as CSV
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub csv_series: Option<PathBuf>,
    /// Write the latencies of all requests as HdrHistogram's percentile distribution, in milliseconds
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub hgrm: Option<PathBuf>,
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
        let files = [&self.json, &self.html, &self.csv, &self.csv_series, &self.hgrm];
        for path in files.into_iter().flatten() {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            ensure!(folder.is_none_or(Path::is_dir), "cannot write {}: there is no such folder", path.display());
        }
        Ok(())
    }

    /// Checks the bounds, writes the report's files and prints it. Returns exit status 1 if a bound does not hold, a
    /// value was wrong or stale, or no request was served; otherwise `interrupted`, the exit status of a run that a
    /// signal ended; otherwise 0.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn finish(&self, mut report: Report, interrupted: Option<u8>) -> anyhow::Result<ExitCode> {
        report.thresholds = self.thresholds(&report);
        // Every way to the reader is tried, even if another one fails.
        let file = |path: &Option<PathBuf>, render: &dyn Fn() -> anyhow::Result<String>| {
            path.as_ref().map_or(Ok(()), |path| write(path, &render()?))
        };
        let written = [
            file(&self.json, &|| Ok(serde_json::to_string_pretty(&report)?)),
            file(&self.html, &|| Ok(report.to_html())),
            file(&self.csv, &|| report.to_csv()),
            file(&self.csv_series, &|| report.series_to_csv()),
            file(&self.hgrm, &|| report.to_hgrm()),
        ];
        print(&report.to_text())?;
        written.into_iter().collect::<anyhow::Result<()>>()?;
        let total = &report.total;
        let fine = report.thresholds.iter().all(|threshold| threshold.holds)
            && !report.verdict.as_ref().is_some_and(Verdict::is_bad)
            && (total.requests == 0 || total.errors < total.requests);
        Ok(ExitCode::from(if fine { interrupted.unwrap_or(0) } else { 1 }))
    }

    fn thresholds(&self, report: &Report) -> Vec<Threshold> {
        let total = &report.total;
        let anything = total.requests + report.unsent > 0;
        let threshold = |name: &str, unit: Unit, bound: Option<f64>, measured: Option<f64>| {
            let (bound, measured) = (bound?, measured.filter(|_| anything));
            let is_lowest = matches!(unit, Unit::PerSecond | Unit::Share);
            let holds = measured.is_some_and(|measured| if is_lowest { measured >= bound } else { measured <= bound });
            Some(Threshold { name: name.to_owned(), unit, bound, measured, holds })
        };
        let microseconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e6);
        let errors = (total.errors + report.unsent) as f64;
        [
            threshold("--p99", Unit::Microseconds, microseconds(self.p99), Some(total.latency.p99)),
            threshold("--p999", Unit::Microseconds, microseconds(self.p999), Some(total.latency.p999)),
            threshold("--min-rate", Unit::PerSecond, self.min_rate, Some(total.per_second)),
            threshold("--min-hit-ratio", Unit::Share, self.min_hit_ratio, report.found_ratio()),
            threshold("--max-errors", Unit::Count, self.max_errors.map(|count| count as f64), Some(errors)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Parses a percentage: `10` or `10%`.
pub(crate) fn parse_percent(text: &str) -> anyhow::Result<f64> {
    let number: f64 =
        text.strip_suffix('%').unwrap_or(text).trim_end().parse().context("expected a percentage (10%)")?;
    ensure!(number >= 0.0 && number.is_finite(), "a percentage is 0 or more");
    Ok(number)
}

/// Parses a share: `95%` or `0.95`.
pub(crate) fn parse_share(text: &str) -> anyhow::Result<f64> {
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |number| (number.trim_end(), 100.0));
    let share = number.parse::<f64>().with_context(|| format!("`{text}` is not a share (95%, 0.95)"))? / whole;
    ensure!((0.0..=1.0).contains(&share), "a share is from 0 to 1, or from 0% to 100%");
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_may_have_their_sign() {
        assert_eq!(["10", "10%", "0.5 %"].map(|text| parse_percent(text).expect("valid")), [10.0, 10.0, 0.5]);
        assert!(["-1", "nan", "inf%", "%"].iter().all(|text| parse_percent(text).is_err()));
    }

    #[test]
    fn shares_are_numbers_or_percent() {
        for (text, share) in [("0.95", 0.95), ("95%", 0.95), ("95 %", 0.95), ("0", 0.0), ("1", 1.0), ("100%", 1.0)] {
            assert_eq!(parse_share(text).expect("valid"), share, "{text}");
        }
        for wrong in ["95", "-1%", "101%", "nan", "%", ""] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }
}
