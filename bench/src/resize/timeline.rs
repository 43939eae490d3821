//! What a change of a cluster cost its clients.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Binomial, Distribution};

use super::traffic::Second;

/// Seconds that make one mean: shorter ones are noise.
const MEAN: usize = 5;

/// Runs of chance that are made for a mean.
const CHANCES: u32 = 100;

/// Seconds before a change, and at its end, that count as steady.
const STEADY: usize = 15;

/// A change of the cluster. Times are in whole seconds since the start of the run.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) name: String,
    pub(crate) at: usize,
    /// When the next one began, or the run ended.
    pub(crate) until: usize,
    /// How long it took until all members were settled.
    pub(crate) settled: Option<Duration>,
    /// Items that went from one member to another.
    pub(crate) moved: u64,
}

/// What a change cost one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Points of hit ratio, 0 to 100, that its lowest mean over 5 s lies below the lower of the steady states before
    /// and after; below 0 where none does.
    pub(crate) dip: f64,
    /// The dip that as many reads in as many means have by chance alone, where the hit ratio is steady.
    pub(crate) chance: f64,
    /// Loads a second at their highest, as means over 5 s, over the higher of the steady states.
    pub(crate) loads: f64,
    /// 99th percentile while the change was new to the client, in microseconds.
    pub(crate) p99: f64,
    /// 99th percentile before, in microseconds.
    pub(crate) p99_before: f64,
    pub(crate) errors: u64,
}

/// The cost of a change to a client that saw these seconds, and that took `behind` seconds to learn of it. `None`
/// where too few seconds are before or after it.
pub(crate) fn cost(seconds: &[Second], change: &Change, behind: usize) -> Option<Cost> {
    let until = change.until.min(seconds.len());
    let before = seconds.get(change.at.checked_sub(STEADY.min(change.at).max(MEAN))?..change.at)?;
    let during = seconds.get(change.at..until).filter(|during| during.len() >= 2 * MEAN)?;
    let after = &during[during.len().saturating_sub(STEADY)..];
    let (before, after, all) = (Second::sum(before), Second::sum(after), Second::sum(during));
    let per_second = |sum: &Second, seconds: usize| sum.loads as f64 / seconds as f64;
    let means: Vec<Second> = during.windows(MEAN).map(Second::sum).collect();
    let lowest = means.iter().map(Second::hit_ratio).fold(1.0, f64::min);
    let most = means.iter().map(|mean| per_second(mean, MEAN)).fold(0.0, f64::max);
    let steady = per_second(&before, STEADY.min(change.at)).max(per_second(&after, STEADY.min(during.len())));
    let new = Second::sum(&during[..behind.clamp(MEAN, during.len())]);
    let lower = before.hit_ratio().min(after.hit_ratio());
    Some(Cost {
        dip: 100.0 * (lower - lowest),
        chance: 100.0 * chance(during, lower),
        loads: most / steady.max(1.0),
        p99: new.p99(),
        p99_before: before.p99(),
        errors: all.errors,
    })
}

/// How far the lowest mean of these seconds lies below a hit ratio, on average, where each read hits with this
/// probability.
fn chance(seconds: &[Second], hit_ratio: f64) -> f64 {
    let mut random = StdRng::seed_from_u64(0);
    let mut lowest = || {
        let hits: Vec<u64> = seconds
            .iter()
            .map(|second| Binomial::new(second.reads, hit_ratio.clamp(0.0, 1.0)).expect("a probability"))
            .map(|hits| hits.sample(&mut random))
            .collect();
        let means = seconds.windows(MEAN).zip(hits.windows(MEAN));
        means
            .map(|(seconds, hits)| {
                let reads: u64 = seconds.iter().map(|second| second.reads).sum();
                hits.iter().sum::<u64>() as f64 / reads.max(1) as f64
            })
            .fold(1.0, f64::min)
    };
    hit_ratio - (0..CHANCES).map(|_| lowest()).sum::<f64>() / f64::from(CHANCES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(loads: u64, micros: u64) -> Second {
        let mut second = Second::sum(&[]);
        (second.reads, second.loads) = (1000, loads);
        second.latency.record_n(micros, 1000).unwrap();
        second
    }

    #[test]
    fn a_cost_is_measured_against_the_steady_states_before_and_after() {
        let mut seconds = vec![second(100, 200); 20];
        seconds.extend(vec![second(200, 400); 5]);
        seconds.extend(vec![second(50, 200); 30]);
        let change = Change { name: String::new(), at: 20, until: 55, settled: None, moved: 0 };
        let cost = cost(&seconds, &change, 5).unwrap();
        assert!((cost.dip - 10.0).abs() < 1e-9, "{cost:?}");
        assert!((cost.loads - 2.0).abs() < 1e-9 && (cost.p99 / cost.p99_before - 2.0).abs() < 0.01, "{cost:?}");
        assert_eq!(cost.errors, 0);
    }

    #[test]
    fn few_reads_dip_by_chance_and_many_hardly() {
        let seconds = |reads: u64| vec![Second { reads, loads: reads / 10, ..second(0, 200) }; 60];
        // A mean of n reads has a standard deviation of 0.3 / sqrt(n), and the lowest one lies two below on average.
        let few = chance(&seconds(400), 0.9);
        assert!((0.010..0.017).contains(&few), "{few}");
        let many = chance(&seconds(40_000), 0.9);
        assert!((few / many - 10.0).abs() < 1.0, "{few} {many}");
        assert_eq!(chance(&seconds(400), 1.0), 0.0);
    }
}
