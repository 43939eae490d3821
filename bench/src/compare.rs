//! `larder-bench compare`: compares reports of `load`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;

use crate::report::{Point, Report, Spread, count, duration, table};

/// Options of `larder-bench compare`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
A ratio is that of the medians. The spread beside it is between runs where a side has several reports of the same load, and \
otherwise between the stretches of time within the run: from the 10th to the 90th percentile of B's over A's median.

Examples:
  larder-bench compare before.json after.json
  larder-bench compare before-1.json,before-2.json,before-3.json after-1.json,after-2.json,after-3.json --max-p99-ratio 1.2")]
pub struct CompareArgs {
    /// Reports of the baseline (load --json FILE)
    #[arg(value_delimiter = ',', required = true, num_args = 1, value_name = "A.json,…")]
    pub baseline: Vec<PathBuf>,
    /// Reports to compare with it
    #[arg(value_delimiter = ',', required = true, num_args = 1, value_name = "B.json,…")]
    pub candidate: Vec<PathBuf>,
    /// Exit status 1 if the ratio of the 99th percentiles is above this
    #[arg(long, value_name = "RATIO")]
    pub max_p99_ratio: Option<f64>,
    /// Exit status 1 if the ratio of the rates is below this
    #[arg(long, value_name = "RATIO")]
    pub min_rate_ratio: Option<f64>,
}

/// A figure of a report.
struct Measure {
    name: &'static str,
    of: fn(&Report) -> f64,
    /// The same figure of one interval of the run, if intervals have it.
    within: Option<fn(&Point) -> f64>,
    show: fn(f64) -> String,
}

/// A figure of `report`; not a number if it has no requests.
fn measured(report: &Report, figure: f64) -> f64 {
    if report.total.requests + report.unsent > 0 { figure } else { f64::NAN }
}

const RATE: Measure = Measure {
    name: "requests/s",
    of: |report| measured(report, report.total.per_second),
    within: Some(|point| point.per_second),
    show: |value| count(value as u64),
};
const P99: Measure =
    Measure { name: "p99", of: |r| measured(r, r.total.latency.p99), within: Some(|point| point.p99), show: duration };
const MEASURES: [Measure; 7] = [
    RATE,
    Measure {
        name: "hits",
        of: |report| report.hit_ratio().unwrap_or(f64::NAN),
        within: Some(|point| point.hit_ratio.unwrap_or(f64::NAN)),
        show: |ratio| if ratio.is_nan() { "-".to_owned() } else { format!("{:.2} %", ratio * 100.0) },
    },
    Measure { name: "errors", of: |r| (r.total.errors + r.unsent) as f64, within: None, show: |v| count(v as u64) },
    Measure { name: "mean", of: |r| measured(r, r.total.latency.mean), within: None, show: duration },
    Measure { name: "p50", of: |r| measured(r, r.total.latency.p50), within: Some(|point| point.p50), show: duration },
    P99,
    Measure {
        name: "p99.9",
        of: |r| measured(r, r.total.latency.p999),
        within: Some(|point| point.p999),
        show: duration,
    },
];

impl Measure {
    /// Returns the median and spread of several reports. Of a single report, the spread is that of its intervals,
    /// without the lowest and the highest tenth.
    fn spread(&self, reports: &[Report]) -> Spread {
        let spread = Spread::of(reports.iter().map(self.of));
        let ([report], Some(within)) = (reports, self.within) else { return spread };
        let mut values: Vec<f64> = report.series.iter().map(within).filter(|value| value.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let cut = values.len() / 10;
        let middle = &values[cut..values.len() - cut];
        match middle {
            [] => spread,
            [min, ..] => Spread { min: *min, median: spread.median, max: middle[middle.len() - 1] },
        }
    }

    /// Whether there is a spread to show.
    fn is_spread(&self, reports: &[Report]) -> bool {
        reports.len() > 1 || self.within.is_some()
    }

    fn ratio(&self, a: &[Report], b: &[Report]) -> Spread {
        ratio(self.spread(a), self.spread(b))
    }
}

/// Returns B over A: of the medians, and of the ends that lie furthest apart.
fn ratio(a: Spread, b: Spread) -> Spread {
    Spread { min: b.min / a.max, median: b.median / a.median, max: b.max / a.min }
}

/// Runs `larder-bench compare`. Returns exit status 1 if a bound does not hold.
pub fn run(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let read = |paths: &[PathBuf]| paths.iter().map(|path| Report::read(path)).collect::<anyhow::Result<Vec<_>>>();
    let (a, b) = (read(&args.baseline)?, read(&args.candidate)?);
    ensure!(!a.is_empty() && !b.is_empty(), "a report for each side is needed");
    print!("{}", to_text(&a, &b));
    let (rate, p99) = (RATE.ratio(&a, &b).median, P99.ratio(&a, &b).median);
    // A ratio to or of nothing is not a number, and holds no bound.
    let holds =
        args.max_p99_ratio.is_none_or(|bound| p99 <= bound) && args.min_rate_ratio.is_none_or(|bound| rate >= bound);
    let fails = !holds;
    if fails {
        eprintln!("error: a bound does not hold: rate ratio {rate:.3}, p99 ratio {p99:.3}");
    }
    Ok(if fails { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn to_text(a: &[Report], b: &[Report]) -> String {
    let mut rows = vec![["", "A", "B", "B/A", "spread"].map(str::to_owned).to_vec()];
    let shown = |value: f64| if value.is_finite() { format!("{value:.3}") } else { "-".to_owned() };
    for measure in MEASURES {
        let Spread { min, median, max } = measure.ratio(a, b);
        let is_spread = measure.is_spread(a) && measure.is_spread(b) && median.is_finite();
        let range = if is_spread { format!("{}-{}", shown(min), shown(max)) } else { String::new() };
        let medians = [a, b].map(|reports| (measure.show)(measure.spread(reports).median));
        let [before, after] = medians;
        rows.push(vec![measure.name.to_owned(), before, after, shown(median), range]);
    }
    let mut out = table(&rows);
    out.push('\n');
    for (name, reports) in [("A", a), ("B", b)] {
        let of = match reports.len() {
            1 => "one run, spread over its time".to_owned(),
            runs => format!("{runs} runs"),
        };
        out.push_str(&format!("{name}: {of}: {}\n", reports[0].command.join(" ")));
        let cut_short = reports.iter().filter(|report| report.interrupted).count();
        if cut_short > 0 {
            out.push_str(&format!("{name}: {cut_short} of these were cut short.\n"));
        }
    }
    let machine = |reports: &[Report]| (reports[0].machine.processor.clone(), reports[0].machine.kernel.clone());
    if machine(a) != machine(b) {
        out.push_str("These reports are of different machines: ratios between them say little.\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_spans_the_ends_that_lie_furthest_apart() {
        let spread = ratio(Spread::of([1.0, 2.0, 4.0]), Spread::of([2.0, 3.0, 4.0]));
        assert_eq!((spread.min, spread.median, spread.max), (0.5, 1.5, 4.0));
    }
}
