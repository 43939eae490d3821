//! `larder-bench compare`: reports of `load` side by side.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;

use crate::report::{Figures, Report, count, duration, table};
use crate::versus::Spread;

/// Options of `larder-bench compare`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Several reports a side show how far runs of the same load lie apart:
  larder-bench compare before-1.json,before-2.json,before-3.json after-1.json,after-2.json,after-3.json --max-p99-ratio 1.2")]
pub struct CompareArgs {
    /// Reports of the baseline (load --json FILE)
    #[arg(value_delimiter = ',', required = true, num_args = 1, value_name = "A.json,…")]
    pub baseline: Vec<PathBuf>,
    /// Reports to compare with it
    #[arg(value_delimiter = ',', required = true, num_args = 1, value_name = "B.json,…")]
    pub candidate: Vec<PathBuf>,
    /// Exit status 1 where the ratio of the 99th percentiles is above this
    #[arg(long, value_name = "RATIO")]
    pub max_p99_ratio: Option<f64>,
    /// Exit status 1 where the ratio of the rates is below this
    #[arg(long, value_name = "RATIO")]
    pub min_rate_ratio: Option<f64>,
}

/// A figure of a report, by name.
struct Measure {
    name: &'static str,
    of: fn(&Figures) -> f64,
    show: fn(f64) -> String,
}

const RATE: Measure = Measure { name: "requests/s", of: |f| f.per_second, show: |value| count(value as u64) };
const P99: Measure = Measure { name: "p99", of: |f| f.latency.p99, show: duration };
const MEASURES: [Measure; 7] = [
    RATE,
    Measure { name: "hits", of: |f| f.hit_ratio().unwrap_or(0.0), show: |ratio| format!("{:.2} %", ratio * 100.0) },
    Measure { name: "errors", of: |f| f.errors as f64, show: |value| count(value as u64) },
    Measure { name: "mean", of: |f| f.latency.mean, show: duration },
    Measure { name: "p50", of: |f| f.latency.p50, show: duration },
    P99,
    Measure { name: "p99.9", of: |f| f.latency.p999, show: duration },
];

fn spread(reports: &[Report], of: fn(&Figures) -> f64) -> Spread {
    Spread::of(reports.iter().map(|report| of(&report.total)))
}

/// B over A: of the medians, and of the ends that lie furthest apart.
fn ratio(a: Spread, b: Spread) -> Spread {
    Spread { min: b.min / a.max, median: b.median / a.median, max: b.max / a.min }
}

/// Runs `larder-bench compare`. A bound that does not hold gives exit status 1.
pub fn run(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let read = |paths: &[PathBuf]| paths.iter().map(|path| Report::read(path)).collect::<anyhow::Result<Vec<_>>>();
    let (a, b) = (read(&args.baseline)?, read(&args.candidate)?);
    ensure!(!a.is_empty() && !b.is_empty(), "a report for each side is needed");
    print!("{}", to_text(&a, &b));
    let rate = ratio(spread(&a, RATE.of), spread(&b, RATE.of)).median;
    let p99 = ratio(spread(&a, P99.of), spread(&b, P99.of)).median;
    let fails =
        args.max_p99_ratio.is_some_and(|bound| p99 > bound) || args.min_rate_ratio.is_some_and(|bound| rate < bound);
    if fails {
        eprintln!("larder-bench: a bound does not hold: rate ratio {rate:.3}, p99 ratio {p99:.3}");
    }
    Ok(if fails { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn to_text(a: &[Report], b: &[Report]) -> String {
    let mut rows = vec![["", "A", "B", "B/A", "spread"].map(str::to_owned).to_vec()];
    for Measure { name, of, show } in MEASURES {
        let (before, after) = (spread(a, of), spread(b, of));
        let ratio = ratio(before, after);
        let shown = |value: f64| if value.is_finite() { format!("{value:.3}") } else { "-".to_owned() };
        let range =
            if a.len() + b.len() > 2 { format!("{}-{}", shown(ratio.min), shown(ratio.max)) } else { String::new() };
        rows.push(vec![name.to_owned(), show(before.median), show(after.median), shown(ratio.median), range]);
    }
    let mut out = table(&rows);
    let machine = |reports: &[Report]| (reports[0].machine.processor.clone(), reports[0].machine.kernel.clone());
    if machine(a) != machine(b) {
        out.push_str("\nThese reports are of different machines: ratios between them say little.\n");
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
