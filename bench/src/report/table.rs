//! Reports as text.

use std::fmt::Write;

use larder_cli::format::{bytes, count, duration, percent, rate, table};

use super::{Figures, OperationFigures, Report, ServerFigures, Threshold, Unit, Verdict};

/// Returns the row of a table for `figures`.
pub(super) fn row(name: &str, figures: &Figures) -> Vec<String> {
    let latency = &figures.latency;
    let mut cells = vec![
        name.to_owned(),
        count(figures.requests),
        rate(figures.per_second),
        figures.hit_ratio().map_or_else(|| "-".to_owned(), percent),
        count(figures.errors),
    ];
    let show = |time| if figures.requests > 0 { duration(time) } else { "-".to_owned() };
    cells.extend([latency.p50, latency.p99, latency.p999, latency.max].map(show));
    cells
}

/// The headings of [`row`].
pub(super) const HEADINGS: [&str; 9] = ["", "requests", "per second", "hits", "errors", "p50", "p99", "p99.9", "max"];

/// Returns a row for each operation, and one for all if there are several.
pub(super) fn rows(operations: &[OperationFigures], total: &Figures) -> Vec<Vec<String>> {
    let mut rows: Vec<_> = operations.iter().map(|entry| row(entry.operation.name(), &entry.figures)).collect();
    if rows.len() != 1 {
        rows.push(row("all", total));
    }
    rows
}

impl Threshold {
    /// Returns option, bound, result and measured value as a sentence.
    pub(super) fn to_text(&self) -> String {
        let show = |value: f64| match self.unit {
            Unit::Count => count(value as u64),
            Unit::Microseconds => duration(value),
            Unit::PerSecond => format!("{}/s", rate(value)),
            Unit::Share => percent(value),
        };
        let word = if self.holds { "holds" } else { "FAILS" };
        let measured =
            self.measured.map_or("nothing was measured".to_owned(), |value| format!("measured {}", show(value)));
        format!("{} {}: {word}, {measured}.", self.name, show(self.bound))
    }
}

impl ServerFigures {
    /// Returns the processor microseconds that the server spent on a request it served; `None` without its statistics,
    /// and where it served none.
    pub(super) fn cpu_per_request(&self) -> Option<f64> {
        let served = self.figures.requests.saturating_sub(self.figures.errors);
        let used = self.used.as_ref().filter(|_| served > 0)?;
        Some(used.cpu_seconds * 1e6 / served as f64)
    }

    /// Returns what the run cost the server as a sentence; `None` if it did not answer `stats`.
    fn use_to_text(&self) -> Option<String> {
        let used = self.used.as_ref()?;
        Some(format!(
            "{} ({}): {:.2} s of CPU{}; {} evictions; {} items in {} of {}.",
            self.address,
            used.version,
            used.cpu_seconds,
            self.cpu_per_request().map_or_else(String::new, |micros| format!(", {micros:.2} µs a request")),
            count(used.evictions),
            count(used.items),
            bytes(used.bytes),
            bytes(used.memory_limit),
        ))
    }
}

impl Report {
    /// Renders the report as it is printed at the end of a run.
    pub fn to_text(&self) -> String {
        let mut lines = vec![HEADINGS.map(str::to_owned).to_vec()];
        lines.extend(rows(&self.operations, &self.total));
        if self.servers.len() > 1 {
            lines.extend(self.servers.iter().map(|server| row(&server.address, &server.figures)));
        }
        let mut out = table(&lines);
        let _ = writeln!(
            out,
            "\n{:.1} s, {} keys; this load generator spent {:.2} µs of CPU a request.",
            self.seconds,
            count(self.total.keys),
            self.client_cpu_per_request(),
        );
        for note in self.notes().into_iter().chain(self.servers.iter().filter_map(ServerFigures::use_to_text)) {
            let _ = writeln!(out, "{note}");
        }
        for example in self.verdict.iter().flat_map(|verdict| &verdict.examples) {
            let _ = writeln!(out, "  {example}");
        }
        for threshold in &self.thresholds {
            let _ = writeln!(out, "{}", threshold.to_text());
        }
        out
    }

    /// Says how to log in if a server has asked for it.
    fn login_hint(&self) -> Option<&'static str> {
        let asks = |fault: &String| fault.contains("authenticat") || fault.contains("Auth failure");
        self.faults.iter().any(asks).then_some("A server demands a login: --user and --password.")
    }

    /// Returns the faults as one text, for a run that has no report.
    pub(crate) fn faults_to_text(&self) -> String {
        let faults = self.faults.iter().map(String::as_str).chain(self.login_hint());
        faults.collect::<Vec<_>>().join("; ")
    }

    /// Returns the sentences beside the figures: rate, faults, search and checks.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.interrupted {
            notes.push(format!("The run was cut short: these are the figures of its first {:.1} s.", self.seconds));
        }
        if let Some(asked) = self.rate_asked {
            let (kept, share) = (rate(self.rate_kept), 100.0 * self.rate_kept / asked);
            notes.push(format!("Rate asked: {}/s; kept: {kept}/s, {share:.2} %.", rate(asked)));
        }
        if self.unsent > 0 {
            let unsent = count(self.unsent);
            let why = "the servers were behind, or --connections and --pipeline allow too few at once";
            notes.push(format!("{unsent} requests came due and were never sent: {why}."));
        }
        if self.fills > 0 {
            notes.push(format!("{} of the sets filled a miss, on top of the requests asked for.", count(self.fills)));
        }
        notes.extend(self.faults.iter().map(|fault| format!("Error: {fault}.")));
        notes.extend(self.login_hint().map(str::to_owned));
        if !self.steps.is_empty() {
            let best = self.steps.iter().filter(|step| step.holds).map(|step| step.rate).fold(0.0, f64::max);
            notes.push(match best {
                0.0 => "No rate that was tried keeps the bound.".to_owned(),
                best => format!("Highest rate that keeps the bound: {}/s.", count(best as u64)),
            });
        }
        if let Some(Verdict { checked, wrong, stale, lost, .. }) = &self.verdict {
            notes.push(format!("Checked {} answers: {wrong} wrong, {stale} stale, {lost} lost.", count(*checked)));
        }
        notes
    }
}
