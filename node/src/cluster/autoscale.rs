//! How many nodes a cluster should have: a rule over its figures.
//!
//! One node more where the workers are busy, or where its memory would save enough reads of the datastore; one less where
//! neither would be so without it. After a step up at 65 % the test for a step down sees 65 % again, and asks for less than
//! 45 %: so steps do not alternate, as long as the second limit is well below the first.

use std::time::Duration;

/// When steps are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Fewest nodes.
    pub min: usize,
    /// Most nodes.
    pub max: usize,
    /// Reads of the datastore a second that one node is worth; `None`: only the processors count.
    pub worth: Option<f64>,
    /// Above this share of the workers' time, 0 to 1, there is one node more.
    pub busy: f64,
    /// Below this share, once it is spread over one node less, there is one less.
    pub idle: f64,
    /// How long the reason for one node more must last.
    pub up_after: Duration,
    /// How long the reason for one node less must last.
    pub down_after: Duration,
    /// Nothing is decided for so long after a step up.
    pub rest_after_up: Duration,
    /// Nothing is decided for so long after a step down.
    pub rest_after_down: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            min: 1,
            max: 8,
            worth: None,
            busy: 0.65,
            idle: 0.45,
            up_after: Duration::from_secs(120),
            down_after: Duration::from_secs(900),
            rest_after_up: Duration::from_secs(60),
            rest_after_down: Duration::from_secs(300),
        }
    }
}

/// A cluster at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Active nodes.
    pub nodes: usize,
    /// A change is under way.
    pub changing: bool,
    /// Share of the workers' time in use, 0 to 1, the mean over nodes.
    pub cpu: f64,
    /// Reads of the datastore a second that one node more would save.
    pub gain: f64,
    /// Reads of the datastore a second that one node less would cost.
    pub loss: f64,
    /// The hottest key's share of its node's commands, 0 to 1.
    pub hottest: f64,
}

/// What is to be done, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// How many nodes there should be.
    pub wanted: usize,
    /// In words.
    pub reason: String,
}

/// One key with more of a node's commands than this: a node more does not help.
const HOT: f64 = 0.2;

/// The rule, with what it remembers.
#[derive(Debug, Clone)]
pub struct Autoscaler {
    limits: Limits,
    up_since: Option<Duration>,
    down_since: Option<Duration>,
    rests_until: Duration,
    advised: Option<Decision>,
}

impl Autoscaler {
    /// A rule that has seen nothing yet.
    pub fn new(limits: Limits) -> Autoscaler {
        Autoscaler { limits, up_since: None, down_since: None, rests_until: Duration::ZERO, advised: None }
    }

    /// Decides at `now`, a time since some beginning. A step is taken once: the figures show it from then on.
    pub fn decide(&mut self, now: Duration, figures: &Figures) -> Decision {
        let Limits { min, max, worth, busy, idle, .. } = self.limits;
        let nodes = figures.nodes;
        let stay = |reason: String| Decision { wanted: nodes, reason };
        if nodes < min {
            return Decision { wanted: min, reason: format!("fewer than {min} nodes") };
        }
        let saves = worth.is_some_and(|worth| figures.gain >= worth);
        let up = (figures.cpu > busy && figures.hottest <= HOT || saves) && nodes < max;
        let spread = figures.cpu * nodes as f64 / nodes.saturating_sub(1).max(1) as f64;
        let cheap = worth.is_none_or(|worth| figures.loss < worth / 2.0);
        let down = nodes > min && spread < idle && cheap;
        let since = |since: &mut Option<Duration>, holds: bool| {
            *since = holds.then(|| since.unwrap_or(now));
            since.map(|since| now.saturating_sub(since))
        };
        let (up_for, down_for) = (since(&mut self.up_since, up), since(&mut self.down_since, down));
        let percent = |share: f64| (share * 100.0).round();
        if figures.changing {
            return stay("a change is under way".to_owned());
        }
        if now < self.rests_until {
            return stay(format!("resting after a step, {} s more", (self.rests_until - now).as_secs()));
        }
        if let Some(lasting) = up_for {
            let reason = match saves {
                true => format!("one node more saves {:.0} reads of the datastore a second", figures.gain),
                false => format!("workers are busy {} % of their time", percent(figures.cpu)),
            };
            if lasting < self.limits.up_after {
                return stay(format!("{reason}, for {} s so far", lasting.as_secs()));
            }
            self.step(now + self.limits.rest_after_up);
            return Decision { wanted: nodes + 1, reason };
        }
        if let Some(lasting) = down_for {
            let reason = format!("one node less would be busy {} % of its time", percent(spread));
            if lasting < self.limits.down_after {
                return stay(format!("{reason}, for {} s so far", lasting.as_secs()));
            }
            self.step(now + self.limits.rest_after_down);
            return Decision { wanted: nodes - 1, reason };
        }
        stay(match figures.cpu > busy {
            true if figures.hottest > HOT => format!(
                "one key has {} % of a node's commands: a node more does not help, a near cache in clients does",
                percent(figures.hottest)
            ),
            true => format!("busy {} %, and there are {max} nodes already", percent(figures.cpu)),
            false => format!("workers are busy {} % of their time", percent(figures.cpu)),
        })
    }

    /// Decides, and stays with a step until it is taken, or until there could be another one: for actuators that look
    /// less often than the rule does.
    pub(crate) fn advise(&mut self, now: Duration, figures: &Figures) -> Decision {
        let decision = self.decide(now, figures);
        if decision.wanted != figures.nodes {
            self.advised = Some(decision.clone());
        } else if now >= self.rests_until {
            self.advised = None;
        }
        match &self.advised {
            Some(step) if step.wanted != figures.nodes => step.clone(),
            _ => decision,
        }
    }

    fn step(&mut self, rests_until: Duration) {
        (self.up_since, self.down_since, self.rests_until) = (None, None, rests_until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(nodes: usize, cpu: f64) -> Figures {
        Figures { nodes, cpu, ..Figures::default() }
    }

    /// What is wanted once the same figures have lasted for so many seconds.
    fn after(seconds: u64, limits: Limits, figures: Figures) -> usize {
        let mut rule = Autoscaler::new(limits);
        let decisions = (0..=seconds / 10).map(|ten| rule.decide(Duration::from_secs(ten * 10), &figures).wanted);
        decisions.last().unwrap()
    }

    #[test]
    fn figures_that_last_make_steps_of_one() {
        let limits = Limits { min: 2, max: 4, ..Limits::default() };
        let worth = Limits { worth: Some(1000.0), ..limits };
        for (seconds, limits, figures, wanted) in [
            (110, limits, figures(2, 0.7), 2),
            (120, limits, figures(2, 0.7), 3),
            (120, limits, figures(4, 0.9), 4),
            (120, limits, Figures { hottest: 0.3, ..figures(2, 0.9) }, 2),
            (120, limits, Figures { changing: true, ..figures(2, 0.9) }, 2),
            (120, limits, Figures { gain: 5000.0, ..figures(2, 0.1) }, 2),
            (120, worth, Figures { gain: 5000.0, ..figures(2, 0.1) }, 3),
            (120, worth, Figures { gain: 900.0, ..figures(2, 0.1) }, 2),
            (0, limits, figures(1, 0.0), 2),
            (890, limits, figures(3, 0.25), 3),
            (900, limits, figures(3, 0.25), 2),
            (900, limits, figures(3, 0.31), 3),
            (900, limits, figures(2, 0.0), 2),
            (900, worth, Figures { loss: 400.0, ..figures(3, 0.1) }, 2),
            (900, worth, Figures { loss: 600.0, ..figures(3, 0.1) }, 3),
        ] {
            assert_eq!(after(seconds, limits, figures), wanted, "{figures:?} for {seconds} s");
        }
    }

    #[test]
    fn advice_lasts_until_it_is_taken_or_another_step_could_be() {
        let mut rule = Autoscaler::new(Limits { min: 2, ..Limits::default() });
        let mut wanted = |second, nodes, cpu| rule.advise(Duration::from_secs(second), &figures(nodes, cpu)).wanted;
        assert_eq!([0, 60, 120, 130, 170].map(|second| wanted(second, 2, 0.7)), [2, 2, 3, 3, 3]);
        assert_eq!(wanted(175, 3, 0.7), 3);
        assert_eq!([180, 240, 250, 300].map(|second| wanted(second, 3, 0.7)), [3, 3, 4, 4]);
        // Load fell before anybody took it.
        assert_eq!([305, 310].map(|second| wanted(second, 3, 0.5)), [4, 3]);
    }

    #[test]
    fn a_short_burst_changes_nothing() {
        let mut rule = Autoscaler::new(Limits { min: 2, ..Limits::default() });
        for second in (0..3600).step_by(10) {
            let cpu = if second % 600 < 90 { 0.9 } else { 0.5 };
            assert_eq!(rule.decide(Duration::from_secs(second), &figures(2, cpu)).wanted, 2);
        }
    }

    /// A day goes from little load to much and back, with noise: the nodes follow, and no step is taken back within the hour.
    #[test]
    fn a_days_wave_is_followed_without_steps_to_and_fro() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};

        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut rule = Autoscaler::new(Limits { min: 2, max: 8, ..Limits::default() });
            let (mut nodes, mut steps) = (2, Vec::new());
            for second in (0..3 * 86_400).step_by(10) {
                let day = f64::from(second) / 86_400.0 * std::f64::consts::TAU;
                let load = 15_000.0 + 245_000.0 * (0.5 - 0.5 * day.cos());
                let cpu = load * random.random_range(0.7..1.3) / nodes as f64 / 100_000.0;
                let wanted = rule.decide(Duration::from_secs(second as u64), &figures(nodes, cpu)).wanted;
                if wanted != nodes {
                    steps.push((second, wanted > nodes));
                    nodes = wanted;
                }
            }
            let reversals = steps.windows(2).filter(|pair| pair[0].1 != pair[1].1 && pair[1].0 - pair[0].0 < 3600);
            assert_eq!(reversals.count(), 0, "{steps:?}");
            assert!((6..60).contains(&steps.len()), "{steps:?}");
        }
    }
}
