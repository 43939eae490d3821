//! Reports as pages: one file of HTML that loads nothing else.

use std::fmt::Write;

use std::time::{Duration, UNIX_EPOCH};

use super::table::{HEADINGS, rows};
use super::{
    Axis, CHART_STYLE, Chart, Figures, LINES_MAX, Line, Point, Report, Scale, count, duration, escape, rate, short,
    short_duration,
};

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 920px; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; margin-bottom: .5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--grid); }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; }
code { background: var(--panel); padding: .15rem .35rem; border-radius: 4px; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; margin: 1rem 0; }
.soft { color: var(--soft); } .fails { color: var(--c1); font-weight: 600; } .holds { color: var(--c2); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tiles div { background: var(--panel); border-radius: 8px; padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; } .tiles span { color: var(--soft); }
";

/// Returns a page with the style of all reports.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"icon\" href=\"data:,\">\
         <style>{CHART_STYLE}{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}</body></html>\n",
        title = escape(title)
    )
}

/// Returns a table with escaped cells.
pub(crate) fn html_table(headings: &[&str], rows: &[Vec<String>]) -> String {
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

const SECONDS: Axis = Axis { label: "seconds", scale: Scale::Linear, show: short };
const LATENCY: Axis = Axis { label: "latency", scale: Scale::Log, show: short_duration };

fn percent(share: f64) -> String {
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

fn by_quantile(title: &'static str, lines: Vec<Line>) -> String {
    let x = Axis { label: "share of the requests that were as fast or faster", scale: Scale::Quantile, show: percent };
    Chart { title, x, y: LATENCY, lines, level: None }.to_svg()
}

impl Report {
    /// Renders the report as a page with plots.
    pub fn to_html(&self) -> String {
        let mut body = self.summary();
        body.push_str(&html_table(&HEADINGS, &rows(&self.operations, &self.total)));
        if !self.steps.is_empty() {
            body.push_str("<h2>Search for the highest rate</h2>\n");
            body.push_str(&self.steps_chart());
        }
        body.push_str("<h2>Latency</h2>\n");
        let lines = self.operations.iter().map(|entry| quantiles(entry.operation.name(), &entry.figures)).collect();
        body.push_str(&by_quantile("Latency by percentile", lines));
        body.push_str("<h2>Over time</h2>\n");
        body.push_str(&self.charts_over_time());
        body.push_str("<h2>Servers</h2>\n");
        let rows: Vec<_> =
            self.servers.iter().map(|server| super::table::row(&server.address, &server.figures)).collect();
        body.push_str(&html_table(&HEADINGS, &rows));
        if self.servers.len() > 1 {
            let mut slowest: Vec<_> = self.servers.iter().collect();
            if slowest.len() > LINES_MAX {
                slowest.sort_by(|a, b| b.figures.latency.p99.total_cmp(&a.figures.latency.p99));
                slowest.truncate(LINES_MAX);
                body.push_str("<p class=\"soft\">The plot has the slowest, by their 99th percentile.</p>\n");
            }
            let lines = slowest.iter().map(|server| quantiles(&server.address, &server.figures)).collect();
            body.push_str(&by_quantile("Latency by server", lines));
        }
        page(&self.command.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" "), &body)
    }

    /// Renders the command, the machine, the main figures and the bounds.
    fn summary(&self) -> String {
        let mut body = String::new();
        let machine = &self.machine;
        // Writing to a String cannot fail.
        let _ = writeln!(
            body,
            "<p><code>{}</code></p>\n<p class=\"soft\">{}; {:.1} s measured; {} CPUs ({}), {} MiB, {}; larder-bench {} \
             spent {:.2} us of CPU a request.</p>",
            escape(&self.command.join(" ")),
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.started)),
            self.seconds,
            machine.cpus,
            escape(&machine.processor),
            count(machine.memory_mebibytes),
            escape(&machine.kernel),
            escape(&self.version),
            self.client_cpu_per_request()
        );
        let (total, latency) = (&self.total, &self.total.latency);
        let hits = self.hit_ratio().map(|ratio| ("of the keys read found", format!("{:.2} %", ratio * 100.0)));
        let tiles = [("requests a second", rate(total.per_second))].into_iter().chain([
            ("p50", duration(latency.p50)),
            ("p99", duration(latency.p99)),
            ("p99.9", duration(latency.p999)),
        ]);
        body.push_str("<div class=\"tiles\">");
        for (name, value) in tiles.chain(hits).chain([("errors", count(total.errors))]) {
            let _ = write!(body, "<div><b>{value}</b><span>{name}</span></div>");
        }
        body.push_str("</div>\n");
        for note in self.notes() {
            let _ = writeln!(body, "<p>{}</p>", escape(&note));
        }
        for threshold in &self.thresholds {
            let (class, word) = if threshold.holds { ("holds", "holds") } else { ("fails", "fails") };
            let (name, bound, measured) = (escape(&threshold.name), threshold.bound, threshold.in_words());
            let _ = writeln!(body, "<p class=\"{class}\">{name} {bound} {word}: {measured}</p>");
        }
        body
    }

    fn steps_chart(&self) -> String {
        let mut points: Vec<_> = self.steps.iter().map(|step| (step.rate, step.p99)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let x = Axis { label: "requests a second", scale: Scale::Linear, show: short };
        let bound = self.thresholds.iter().find(|threshold| threshold.name.starts_with("--p99 "));
        let lines = vec![Line { name: "p99".to_owned(), dots: points.clone(), points }];
        let level = bound.map(|threshold| ("bound", threshold.bound));
        Chart { title: "99th percentile by rate tried", x, y: LATENCY, lines, level }.to_svg()
    }

    fn charts_over_time(&self) -> String {
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
        let rate = Axis { label: "requests a second", scale: Scale::Linear, show: short };
        let requests = vec![line("rate", &|point| point.per_second)];
        let level = self.rate_asked.map(|rate| ("asked", rate));
        let latencies = vec![
            latency("p50", |point| point.p50),
            latency("p99", |point| point.p99),
            latency("p99.9", |point| point.p999),
        ];
        let mut out = Chart { title: "Requests a second", x: SECONDS, y: rate, lines: requests, level }.to_svg();
        let chart = Chart { title: "Latency over time", x: SECONDS, y: LATENCY, lines: latencies, level: None };
        out.push_str(&chart.to_svg());
        if self.series.iter().any(|point| point.hit_ratio.is_some()) {
            let y = Axis { label: "of the keys read", scale: Scale::Linear, show: percent };
            let lines = vec![line("hit ratio", &|point| point.hit_ratio.unwrap_or(f64::NAN))];
            out.push_str(&Chart { title: "Hit ratio", x: SECONDS, y, lines, level: None }.to_svg());
        }
        out
    }
}
