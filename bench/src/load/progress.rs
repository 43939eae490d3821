//! What is seen while a load runs.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::{Point, count, duration};

/// A bar with the rate, hit ratio and 99th percentile of the moment; hidden where standard error is no terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(length: Option<Duration>, shown: bool) -> Progress {
        if !shown {
            return Progress(ProgressBar::hidden());
        }
        let bar = match length {
            Some(length) => ProgressBar::new(length.as_millis() as u64),
            None => ProgressBar::no_length(),
        };
        let style = ProgressStyle::with_template("{elapsed:>4} [{bar:30}] {msg}");
        Progress(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    pub(super) fn show(&self, point: &Point) {
        let hits = point.hit_ratio.map_or_else(String::new, |ratio| format!("  hits {:.1} %", ratio * 100.0));
        let errors = if point.errors > 0 { format!("  errors {}", count(point.errors)) } else { String::new() };
        let rate = count(point.per_second as u64);
        self.0.set_position((point.at * 1000.0) as u64);
        self.0.set_message(format!("{rate}/s{hits}  p99 {}{errors}", duration(point.p99)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
