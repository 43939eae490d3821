//! The progress that is printed while a load runs.

use indicatif::{ProgressBar, ProgressStyle};

use super::{Point, count, duration};

/// A bar with the current rate, hit ratio and 99th percentile; hidden if standard error is not a terminal.
pub(crate) struct ProgressDisplay(ProgressBar);

impl ProgressDisplay {
    /// A bar of `length` parts behind `name`. Without a length, it shows only the time until it gets one.
    pub(crate) fn new(name: &'static str, length: Option<u64>, shown: bool) -> ProgressDisplay {
        if !shown {
            return ProgressDisplay(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{prefix:10} {elapsed:>4} [{bar:30}] {percent:>3} %  {msg}");
        let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new).with_prefix(name);
        ProgressDisplay(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    /// Returns the bar, to set its position.
    pub(crate) fn bar(&self) -> &ProgressBar {
        &self.0
    }

    /// Shows the figures of an interval.
    pub(crate) fn show(&self, point: &Point) {
        let hits = point.hit_ratio.map_or_else(String::new, |ratio| format!("  hits {:.1} %", ratio * 100.0));
        let errors = if point.errors > 0 { format!("  errors {}", count(point.errors)) } else { String::new() };
        let rate = count(point.per_second as u64);
        self.0.set_message(format!("{rate}/s{hits}  p99 {}{errors}", duration(point.p99)));
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
