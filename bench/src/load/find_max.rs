//! `--find-max`: searches for the highest rate at which the 99th percentile keeps its bound.

use std::time::Duration;

use super::args::LoadArgs;
use super::plan::{Schedule, Stop};
use super::session::Session;
use crate::report::{Report, Step, count, duration};

/// The search ends when the lowest rate that fails is at most this factor above the highest rate that holds.
const PRECISION: f64 = 1.05;
/// The search ends after this many steps in any case.
const STEPS_MAX: usize = 24;
/// Tries before a rate has failed: one disturbance by other work on the machine says nothing about the server.
const TRIES: usize = 2;
/// Fewer requests than this have no meaningful 99th percentile.
const REQUESTS_MIN: f64 = 100.0;

/// The options of a search.
pub(super) struct Search {
    /// The first rate to try, in requests a second.
    first_rate: f64,
    /// The bound on the 99th percentile, in microseconds.
    p99: f64,
    poisson: bool,
    warmup: Duration,
    /// The length of a step.
    stop: Stop,
}

impl Search {
    /// The search that `--find-max` asks for; `None` without it.
    pub(super) fn of(args: &LoadArgs) -> Option<Search> {
        let p99 = args.output.p99.filter(|_| args.find_max)?.as_secs_f64() * 1e6;
        let (warmup, stop) = (args.warmup, args.stop());
        Some(Search { first_rate: args.rate.unwrap_or(1000.0), p99, poisson: args.poisson, warmup, stop })
    }
}

/// Returns the next rate to try: a rate that has failed once, again; twice the best rate while none has failed; then
/// the geometric mean of the best rate and the lowest that failed. `None` ends the search. No rate is below `least`.
fn next_rate(steps: &[Step], first: f64, least: f64) -> Option<f64> {
    if steps.len() >= STEPS_MAX {
        return None;
    }
    let failures = |rate: f64| steps.iter().filter(|step| !step.holds && step.rate == rate).count();
    if let Some(last) = steps.last().filter(|last| !last.holds && failures(last.rate) < TRIES) {
        return Some(last.rate);
    }
    let best = steps.iter().filter(|step| step.holds).map(|step| step.rate).fold(0.0, f64::max);
    let failed = steps.iter().filter(|step| failures(step.rate) >= TRIES).map(|step| step.rate);
    let worst = failed.fold(f64::INFINITY, f64::min);
    if best == 0.0 && worst < 2.0 * least {
        return None;
    }
    match (best, worst) {
        (0.0, worst) if worst.is_finite() => Some(worst / 2.0),
        (0.0, _) => Some(first),
        (best, worst) if worst.is_infinite() => Some(best * 2.0),
        (best, worst) if worst / best > PRECISION => Some((best * worst).sqrt()),
        _ => None,
    }
}

/// Runs steps until the rate is known. The report is that of the best step, or of the first if none held.
pub(super) fn run(session: &Session, search: &Search) -> anyhow::Result<Report> {
    let mut steps: Vec<Step> = Vec::new();
    let mut best: Option<Report> = None;
    let length = match search.stop {
        Stop::After(duration) => duration.as_secs_f64(),
        Stop::Requests(_) => 1.0,
    };
    while let Some(rate) = next_rate(&steps, search.first_rate, REQUESTS_MIN / length) {
        let schedule = Schedule::Open { per_second: rate, poisson: search.poisson };
        let report = session.run(search.warmup, search.stop, schedule)?;
        if session.is_interrupted() {
            // A step that was cut short says nothing of its rate.
            best = best.or(Some(report));
            break;
        }
        let p99 = report.total.latency.p99;
        let holds = p99 <= search.p99 && report.total.errors + report.unsent == 0 && report.total.requests > 0;
        if session.shows_progress() {
            let word = if holds { "holds" } else { "fails" };
            eprintln!("{:>12}/s  p99 {:>10}  {word}", count(rate as u64), duration(p99));
        }
        steps.push(Step { rate, p99, holds });
        if holds || best.is_none() {
            best = Some(report);
        }
    }
    let mut report = best.ok_or_else(|| anyhow::anyhow!("--find-max: not one step was run"))?;
    report.steps = steps;
    report.interrupted = session.is_interrupted();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches with a server that keeps the bound up to `limit` requests a second.
    fn search(limit: f64) -> f64 {
        let mut steps = Vec::new();
        while let Some(rate) = next_rate(&steps, 1000.0, 100.0) {
            steps.push(Step { rate, p99: 0.0, holds: rate <= limit });
        }
        steps.iter().filter(|step| step.holds).map(|step| step.rate).fold(0.0, f64::max)
    }

    #[test]
    fn the_search_comes_within_five_percent_from_above_and_below() {
        for limit in [130.0, 1000.0, 77_777.0, 1_500_000.0] {
            let found = search(limit);
            assert!(found <= limit && found * PRECISION >= limit, "{limit}: {found}");
        }
    }

    #[test]
    fn one_failure_does_not_end_the_search() {
        let step = |rate, holds| Step { rate, p99: 0.0, holds };
        let next = |steps: &[Step]| next_rate(steps, 1000.0, 100.0);
        assert_eq!(next(&[step(1000.0, false)]), Some(1000.0));
        assert_eq!(next(&[step(1000.0, false), step(1000.0, true)]), Some(2000.0));
        assert_eq!(next(&[step(1000.0, false), step(1000.0, false)]), Some(500.0));
    }

    #[test]
    fn the_search_gives_up_where_nothing_holds() {
        assert_eq!(search(0.0), 0.0);
    }
}
