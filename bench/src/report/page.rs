//! Reports as pages: one file of HTML, nothing to load from elsewhere.

use std::fmt::Write;

use super::{Figures, Line, Report, XAxis, bars, count, duration, escape, lines};
use crate::versus::{Comparison, LoadComparison, Run, Spread};

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2rem auto; padding: 0 1rem; color: #1f2937; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid #e5e7eb; }
th:first-child, td:first-child { text-align: left; }
code { background: #f3f4f6; padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; margin: .8rem 0; }
svg .title { font-size: 14px; font-weight: 600; } svg .tick { font-size: 11px; fill: #4b5563; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .grid { stroke: #e5e7eb; } svg .line { fill: none; stroke-width: 2; }
.fails { color: #b91c1c; font-weight: 600; }
";

fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}</body></html>\n",
        title = escape(title)
    )
}

fn html_table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(&cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let mut out = String::from("<table>\n");
    out.push_str(&cells("th", &mut headings.iter().map(|&heading| heading.to_owned())));
    rows.iter().for_each(|row| out.push_str(&cells("td", &mut row.iter().cloned())));
    out.push_str("</table>\n");
    out
}

/// Latency at each quantile, finer towards 1.
fn quantiles(figures: &Figures) -> Vec<(f64, f64)> {
    let Ok(histogram) = figures.latency.decode() else { return Vec::new() };
    if histogram.is_empty() {
        return Vec::new();
    }
    let last = (histogram.len() as f64).log10();
    let steps = (last * 40.0).ceil().max(1.0) as usize;
    let points = (0..=steps).map(|step| 1.0 - 10f64.powf(-(step as f64) / 40.0));
    points.map(|quantile| (quantile, histogram.value_at_quantile(quantile) as f64 / 1e3)).collect()
}

impl Report {
    /// The report as a page with its plots.
    pub fn to_html(&self) -> String {
        let mut body = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(body, "<p><code>{}</code></p>", escape(&self.command.join(" ")));
        let machine = &self.machine;
        let _ = writeln!(
            body,
            "<p>{:.1} s measured; {} CPUs ({}), {} MiB, {}; the load generator spent {:.2} us of CPU a request.</p>",
            self.seconds,
            machine.cpus,
            escape(&machine.processor),
            count(machine.memory_mebibytes),
            escape(&machine.kernel),
            self.client_cpu_per_request()
        );
        if let Some(verdict) = &self.verdict {
            let (wrong, stale, lost) = (verdict.wrong, verdict.stale, verdict.lost);
            let checked = count(verdict.checked);
            let _ = writeln!(body, "<p>Checked {checked} answers: {wrong} wrong, {stale} stale, {lost} lost.</p>");
        }
        for threshold in &self.thresholds {
            let (class, word) = if threshold.holds { ("", "holds") } else { ("fails", "fails") };
            let (name, bound, measured) = (escape(&threshold.name), threshold.bound, threshold.measured);
            let _ = writeln!(body, "<p class=\"{class}\">{name} {bound} {word}: measured {measured:.4}</p>");
        }
        let headings = ["", "requests", "per second", "hits", "errors", "p50", "p99", "p99.9", "max"];
        let mut rows: Vec<_> =
            self.operations.iter().map(|entry| super::table::row(entry.operation.name(), &entry.figures)).collect();
        rows.push(super::table::row("all", &self.total));
        body.push_str(&html_table(&headings, &rows));
        let by_operation = self
            .operations
            .iter()
            .map(|entry| Line { name: entry.operation.name().to_owned(), points: quantiles(&entry.figures) });
        let by_operation: Vec<Line> = by_operation.collect();
        body.push_str("<h2>Latency</h2>\n");
        body.push_str(&lines("Latency by percentile", "us", "share of requests", XAxis::Quantile, &by_operation));
        body.push_str("<h2>Over time</h2>\n");
        let over_time = |name: &str, field: fn(&super::Point) -> f64| Line {
            name: name.to_owned(),
            points: self.series.iter().map(|point| (point.at, field(point))).collect(),
        };
        let rate = [over_time("requests", |point| point.per_second)];
        body.push_str(&lines("Requests a second", "1/s", "seconds", XAxis::Linear, &rate));
        let latencies = [over_time("p50", |p| p.p50), over_time("p99", |p| p.p99), over_time("p99.9", |p| p.p999)];
        body.push_str(&lines("Latency", "us", "seconds", XAxis::Linear, &latencies));
        if self.series.iter().any(|point| point.hit_ratio.is_some()) {
            let hits = [over_time("hit ratio", |point| point.hit_ratio.unwrap_or(0.0))];
            body.push_str(&lines("Hit ratio", "", "seconds", XAxis::Linear, &hits));
        }
        body.push_str("<h2>Servers</h2>\n");
        let rows: Vec<_> =
            self.servers.iter().map(|server| super::table::row(&server.address, &server.figures)).collect();
        body.push_str(&html_table(&headings, &rows));
        if self.servers.len() > 1 {
            let by_server = self
                .servers
                .iter()
                .map(|server| Line { name: server.address.clone(), points: quantiles(&server.figures) });
            let by_server: Vec<Line> = by_server.collect();
            body.push_str(&lines("Latency by server", "us", "share of requests", XAxis::Quantile, &by_server));
        }
        page("larder-bench load", &body)
    }
}

impl Comparison {
    /// The comparison as a page with its plots.
    pub fn to_html(&self) -> String {
        let mut body = String::new();
        let _ = writeln!(body, "<p><code>{}</code></p>", escape(&self.command.join(" ")));
        let _ = writeln!(
            body,
            "<p>{} against {}, on {} ({}). Medians of {} pairs of runs.</p>",
            escape(&self.node),
            escape(&self.peer),
            escape(&self.machine.processor),
            escape(&self.machine.kernel),
            self.loads.first().map_or(0, |load| load.node.len())
        );
        let names: Vec<String> = self.loads.iter().map(|load| load.name.clone()).collect();
        let medians = |side: fn(&LoadComparison) -> &Vec<Run>, field: fn(&Run) -> f64| -> Vec<f64> {
            self.loads.iter().map(|load| Spread::of(side(load).iter().map(field)).median).collect()
        };
        let pair = |field: fn(&Run) -> f64| {
            [
                (self.node.clone(), medians(|load| &load.node, field)),
                (self.peer.clone(), medians(|load| &load.peer, field)),
            ]
        };
        let ratios = self.loads.iter().map(|load| load.ratio().median).collect();
        let title = "Server CPU time for an operation, relative to the peer's";
        body.push_str(&bars(title, "ratio", &names, &[(self.node.clone(), ratios)]));
        body.push_str(&bars("Server CPU time for an operation", "us", &names, &pair(|run| run.cpu_us)));
        body.push_str(&bars("Operations a second", "1/s", &names, &pair(|run| run.per_second)));
        body.push_str(&bars("Latency, 99th percentile", "us", &names, &pair(|run| run.p99)));
        let rows: Vec<Vec<String>> = self
            .loads
            .iter()
            .map(|load| {
                let ratio = load.ratio();
                let median = |runs: &[Run], field: fn(&Run) -> f64| Spread::of(runs.iter().map(field)).median;
                vec![
                    format!("{}: {}", load.name, load.about),
                    format!("{:.3}", median(&load.node, |run| run.cpu_us)),
                    format!("{:.3}", median(&load.peer, |run| run.cpu_us)),
                    format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max),
                    duration(median(&load.node, |run| run.p99)),
                    duration(median(&load.peer, |run| run.p99)),
                ]
            })
            .collect();
        body.push_str(&html_table(&["load", "us/op", "peer", "ratio", "p99", "peer"], &rows));
        page("larder-bench versus", &body)
    }
}
