//! Reports as pages: one file of HTML that loads nothing else.

use std::time::{Duration, UNIX_EPOCH};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{CHART_STYLE, FIGURE_SCRIPT, FIGURE_STYLE};
use super::table::{HEADINGS, row, rows};
use super::{
    Axis, Chart, Figures, LINES_MAX, Line, Point, Report, Scale, bytes, count, duration, percent, rate, short,
    short_duration,
};

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 920px; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin-bottom: .5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--grid); }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; }
code { background: var(--panel); padding: .15rem .35rem; border-radius: 4px; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } th, td { white-space: nowrap; }
td.words { white-space: normal; min-width: 12rem; }
@media (max-width: 640px) { table, tbody { display: block; } tr:has(th) { display: none; }
  tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; background: var(--panel); border-radius: 8px;
    padding: .5rem .7rem; margin: .6rem 0; }
  td, td:first-child { display: flex; justify-content: space-between; gap: .5rem; border: 0; padding: .1rem 0; }
  td.words { min-width: 0; grid-column: 1 / -1; text-align: left; }
  td:first-child { grid-column: 1 / -1; font-weight: 600; }
  td:not(:first-child):not(.words)::before { content: attr(data-heading); color: var(--soft); } }
.soft { color: var(--soft); } .fails { color: var(--c1); font-weight: 600; } .holds { color: var(--c2); }
.fails::before { content: '✗ '; } .holds::before { content: '✓ '; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tiles div { background: var(--panel); border-radius: 8px; padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; } .tiles span { color: var(--soft); }
";

/// Returns a page with the style and the script of all reports. `title` names it among others.
pub(crate) fn page(title: &str, heading: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (title) }
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href="data:,";
                style { (PreEscaped(CHART_STYLE)) (PreEscaped(FIGURE_STYLE)) (PreEscaped(STYLE)) }
            }
            body {
                h1 { (heading) }
                (body)
                script { (PreEscaped(FIGURE_SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// Returns a table. On a narrow screen, each row is a card with the headings beside its cells.
pub(crate) fn html_table(headings: &[&str], rows: &[Vec<String>]) -> Markup {
    html! {
        div.scroll {
            table {
                tr { @for heading in headings { th { (heading) } } }
                @for row in rows {
                    tr {
                        @for (cell, heading) in row.iter().zip(headings) {
                            td.words[cell.len() > 40] data-heading=(heading) { (cell) }
                        }
                    }
                }
            }
        }
    }
}

const SECONDS: Axis = Axis { label: "seconds", unit: "s", scale: Scale::Linear, show: short };
const LATENCY: Axis = Axis { label: "latency", unit: "", scale: Scale::Log, show: short_duration };

fn short_percent(share: f64) -> String {
    // Enough digits for 99.9999 %, without trailing zeros.
    format!("{} %", (share * 1e8).round() / 1e6)
}

/// Returns the latency at each quantile, in finer steps towards 1.
fn quantiles(name: &str, figures: &Figures) -> Line {
    let mut line = Line { name: name.to_owned(), ..Line::default() };
    let Some(histogram) = figures.latency.decode().ok().filter(|histogram| !histogram.is_empty()) else { return line };
    let at = |quantile: f64| (quantile, histogram.value_at_quantile(quantile) as f64 / 1e3);
    let nines = (histogram.len() as f64).log10();
    let steps = (nines * 40.0).ceil().max(1.0) as usize;
    line.points = (0..=steps).map(|step| at(1.0 - 10f64.powf(-(step as f64) / 40.0))).collect();
    let marks = [0.5f64, 0.9, 0.99, 0.999, 0.9999, 0.99999];
    line.dots = marks.into_iter().filter(|mark| -(1.0 - mark).log10() <= nines).map(at).collect();
    line
}

fn by_quantile(title: &'static str, lines: Vec<Line>) -> Markup {
    let label = "share of the requests that were as fast or faster";
    let x = Axis { label, unit: "of the requests", scale: Scale::Quantile, show: short_percent };
    Chart { title, x, y: LATENCY, lines, level: None }.to_figure()
}

impl Report {
    /// Renders the report as a page with plots.
    pub fn to_html(&self) -> String {
        let lines = self.operations.iter().map(|entry| quantiles(entry.operation.name(), &entry.figures)).collect();
        let body = html! {
            (self.summary())
            (html_table(&HEADINGS, &rows(&self.operations, &self.total)))
            @if !self.steps.is_empty() {
                h2 { "Search for the highest rate" }
                (self.steps_chart())
            }
            h2 { "Latency" }
            (by_quantile("Latency by percentile", lines))
            h2 { "Over time" }
            (self.charts_over_time())
            (self.server_part())
        };
        let heading = self.command.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" ");
        let servers = match &self.servers[..] {
            [server] => server.address.clone(),
            servers => format!("{} servers", servers.len()),
        };
        page(&format!("{heading}: {servers}, {}", self.began()), &heading, &body)
    }

    /// When the run began, as text.
    fn began(&self) -> String {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.started)).to_string()
    }

    /// Renders the command, the machine, the main figures and the bounds.
    fn summary(&self) -> Markup {
        let (machine, total, latency) = (&self.machine, &self.total, &self.total.latency);
        let hits = self.hit_ratio().map(|ratio| ("of the keys read found", percent(ratio)));
        let tiles = [("requests a second", rate(total.per_second))].into_iter().chain([
            ("p50", duration(latency.p50)),
            ("p99", duration(latency.p99)),
            ("p99.9", duration(latency.p999)),
        ]);
        html! {
            p { code { (self.command.join(" ")) } }
            p.soft {
                (self.began()) "; " (format!("{:.1}", self.seconds)) " s measured; " (machine.cpus) " CPUs ("
                (machine.processor) "), " (count(machine.memory_mebibytes)) " MiB, " (machine.kernel)
                "; larder-bench " (self.version) " spent " (format!("{:.2}", self.client_cpu_per_request()))
                " µs of CPU a request."
            }
            div.tiles {
                @for (name, value) in tiles.chain(hits).chain([("errors", count(total.errors))]) {
                    div { b { (value) } span { (name) } }
                }
            }
            @for note in self.notes() { p { (note) } }
            @for threshold in &self.thresholds {
                p class=(if threshold.holds { "holds" } else { "fails" }) { (threshold.to_text()) }
            }
        }
    }

    fn steps_chart(&self) -> Markup {
        let mut points: Vec<_> = self.steps.iter().map(|step| (step.rate, step.p99)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let x = Axis { label: "requests a second", unit: "a second", scale: Scale::Linear, show: short };
        let bound = self.thresholds.iter().find(|threshold| threshold.name.split(' ').next() == Some("--p99"));
        let lines = vec![Line { name: "p99".to_owned(), dots: points.clone(), points }];
        let level = bound.map(|threshold| ("bound", threshold.bound));
        Chart { title: "99th percentile by rate tried", x, y: LATENCY, lines, level }.to_figure()
    }

    fn charts_over_time(&self) -> Markup {
        let line = |name: &str, field: &dyn Fn(&Point) -> f64| {
            let points: Vec<_> = self.series.iter().map(|point| (point.at, field(point))).collect();
            // More dots would hide the line.
            let dots = if points.len() <= 60 { points.clone() } else { Vec::new() };
            Line { name: name.to_owned(), points, dots }
        };
        // An interval without an answer has no latency.
        let latency = |name: &str, field: fn(&Point) -> f64| {
            line(name, &|point| if point.max > 0.0 { field(point) } else { f64::NAN })
        };
        let over_time = |title, label, lines, level| {
            let y = Axis { label, unit: "", scale: Scale::Linear, show: short };
            Chart { title, x: SECONDS, y, lines, level }.to_figure()
        };
        let requests = vec![line("rate", &|point| point.per_second)];
        let level = self.rate_asked.map(|rate| ("asked:", rate));
        let latencies = vec![
            latency("p50", |point| point.p50),
            latency("p99", |point| point.p99),
            latency("p99.9", |point| point.p999),
        ];
        let hits: Vec<f64> = self.series.iter().filter_map(|point| point.hit_ratio).collect();
        let (lowest, highest) = (hits.iter().copied().fold(1.0, f64::min), hits.iter().copied().fold(0.0, f64::max));
        html! {
            (over_time("Requests a second", "requests a second", requests, level))
            (Chart { title: "Latency over time", x: SECONDS, y: LATENCY, lines: latencies, level: None }.to_figure())
            @if self.series.iter().any(|point| point.errors > 0) {
                (over_time("Errors", "failed requests", vec![line("errors", &|point| point.errors as f64)], None))
            }
            // A flat line needs no chart.
            @if highest - lowest > 0.001 {
                @let y = Axis { label: "of the keys read", unit: "", scale: Scale::Linear, show: short_percent };
                @let lines = vec![line("hit ratio", &|point| point.hit_ratio.unwrap_or(f64::NAN))];
                (Chart { title: "Hit ratio", x: SECONDS, y, lines, level: None }.to_figure())
            } @else if !hits.is_empty() {
                p { "Hit ratio: " (percent(lowest)) " in every interval." }
            }
        }
    }

    /// Renders the figures of each server, if there are several, and what the run cost them.
    fn server_part(&self) -> Markup {
        let figures: Vec<_> = self.servers.iter().map(|server| row(&server.address, &server.figures)).collect();
        let mut slowest: Vec<_> = self.servers.iter().collect();
        slowest.sort_by(|a, b| b.figures.latency.p99.total_cmp(&a.figures.latency.p99));
        slowest.truncate(LINES_MAX);
        let used: Vec<Vec<String>> = self
            .servers
            .iter()
            .filter_map(|server| Some((server, server.used.as_ref()?)))
            .map(|(server, used)| {
                vec![
                    server.address.clone(),
                    used.version.clone(),
                    format!("{:.2} s", used.cpu_seconds),
                    server.cpu_per_request().map_or_else(|| "-".to_owned(), |micros| format!("{micros:.2} µs")),
                    count(used.evictions),
                    count(used.items),
                    bytes(used.bytes),
                    bytes(used.memory_limit),
                ]
            })
            .collect();
        html! {
            @if figures.len() > 1 || !used.is_empty() {
                h2 { "Servers" }
            }
            @if figures.len() > 1 {
                (html_table(&HEADINGS, &figures))
                @if figures.len() > LINES_MAX {
                    p.soft { "The plot has the slowest, by their 99th percentile." }
                }
                (by_quantile(
                    "Latency by server",
                    slowest.iter().map(|server| quantiles(&server.address, &server.figures)).collect(),
                ))
            }
            @if !used.is_empty() {
                (html_table(&USE_HEADINGS, &used))
            }
        }
    }
}

/// The headings over what a run cost the servers.
const USE_HEADINGS: [&str; 8] =
    ["", "version", "CPU", "CPU a request", "evictions", "items", "memory used", "memory limit"];
