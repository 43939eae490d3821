//! Seconds of a run, and the changes in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_client::Client;
use tokio::task::JoinSet;
use tokio::time::Interval;

use super::timeline::Change;
use super::traffic::{Reader, Second};
use crate::cluster::Figures;

/// Members as they report themselves and each other.
#[derive(Debug, Default)]
struct Look {
    active: BTreeSet<String>,
    settled: bool,
}

/// Looks at a cluster.
struct Watch {
    client: Client,
    active: BTreeSet<String>,
    /// Items that each node took and pulled: the last that it said, since a node that left says nothing.
    moved: BTreeMap<String, u64>,
}

impl Watch {
    async fn look(&mut self) -> Option<Look> {
        let mut look = Look { settled: true, ..Look::default() };
        let mut heard = BTreeSet::new();
        for (_, figures) in self.client.stats("cluster").await {
            let Ok(figures): Result<Figures, _> = figures else { continue };
            let Some(id) = figures.get("id") else { continue };
            let number = |name: &str| figures.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
            self.moved.insert(id.clone(), number("items_taken") + number("items_pulled"));
            look.settled &= figures.get("settled").is_some_and(|settled| settled == "yes");
            // A member that hears of a change last has the old list.
            let of = figures.iter().filter_map(|(name, state)| Some((name.strip_suffix(":state")?, state)));
            let active: BTreeSet<String> =
                of.filter(|(_, state)| *state == "active").map(|(id, _)| id.to_owned()).collect();
            look.settled &= heard.is_empty() || active == look.active;
            look.active = active;
            heard.insert(id.clone());
        }
        // What a new member has taken is known once this client has it in its list.
        look.settled &= look.active.is_subset(&heard);
        (!heard.is_empty()).then_some(look)
    }

    fn moved(&self) -> u64 {
        self.moved.values().sum()
    }
}

fn set_rate(readers: &[Arc<Reader>], per_second: u64) {
    readers.iter().for_each(|reader| reader.set_rate(per_second / readers.len() as u64));
}

/// A run: its clients, its seconds and its changes.
pub(crate) struct Run {
    readers: Vec<Arc<Reader>>,
    tasks: JoinSet<()>,
    watch: Option<Watch>,
    second: Interval,
    count: usize,
    changes: Vec<Change>,
    /// When the last change began, and the items moved until then, while it is not settled.
    open: Option<(Instant, u64)>,
}

impl Run {
    /// Starts the load of all readers, so many requests a second together. Changes of the cluster that `watched` knows
    /// are noted.
    pub(crate) fn start(readers: &[Arc<Reader>], per_second: u64, watched: Option<Client>) -> Run {
        set_rate(readers, per_second);
        let mut tasks = JoinSet::new();
        readers.iter().for_each(|reader| reader.start(&mut tasks));
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        second.reset();
        let watch = watched.map(|client| Watch { client, active: BTreeSet::new(), moved: BTreeMap::new() });
        Run { readers: readers.to_vec(), tasks, watch, second, count: 0, changes: Vec::new(), open: None }
    }

    /// Goes on for so many seconds, and shows each.
    pub(crate) async fn go_on(&mut self, seconds: usize, mut show: impl FnMut(&str)) {
        for _ in 0..seconds {
            self.second.tick().await;
            self.readers.iter().for_each(|reader| reader.turn_second());
            self.count += 1;
            self.look().await;
            show(&self.line());
        }
    }

    /// Sets the requests a second of all readers together.
    pub(crate) fn set_rate(&self, per_second: u64) {
        set_rate(&self.readers, per_second);
    }

    /// A change begins now. It is named by hand where nobody watches the nodes.
    pub(crate) fn begin(&mut self, name: &str) {
        self.end_change();
        let change = Change { name: name.to_owned(), at: self.count, until: usize::MAX, settled: None, moved: 0 };
        self.changes.push(change);
    }

    /// What follows belongs to no change.
    pub(crate) fn end_change(&mut self) {
        if let Some(change) = self.changes.last_mut()
            && change.until > self.count
        {
            change.until = self.count;
        }
    }

    async fn look(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let before = watch.moved();
        let Some(look) = watch.look().await else { return };
        let moved = watch.moved();
        if look.active != watch.active && !watch.active.is_empty() {
            let come = look.active.difference(&watch.active).map(|id| format!("{id} came"));
            let gone = watch.active.difference(&look.active).map(|id| format!("{id} went"));
            let name = come.chain(gone).collect::<Vec<_>>().join(", ");
            watch.active = look.active;
            self.begin(&name);
            self.open = Some((Instant::now(), before));
        } else if !look.active.is_empty() {
            watch.active = look.active;
        }
        if let (Some((began, before)), Some(change)) = (self.open, self.changes.last_mut()) {
            change.moved = moved.saturating_sub(before);
            if look.settled {
                change.settled = Some(began.elapsed());
                self.open = None;
            }
        }
    }

    /// The last second in words.
    fn line(&self) -> String {
        let last: Vec<Second> =
            self.readers.iter().filter_map(|reader| reader.seconds.lock().last().cloned()).collect();
        let sum = Second::sum(&last);
        let change = self.changes.last().filter(|change| change.until > self.count);
        format!(
            "{:>4} s {:>6} reads/s  hit ratio {:>6.2} %  loads {:>5}/s  p99 {:>6.2} ms  errors {:>3}  {}",
            self.count,
            sum.reads,
            100.0 * sum.hit_ratio(),
            sum.loads,
            sum.p99() / 1e3,
            sum.errors,
            change.map_or("", |change| &change.name),
        )
    }

    /// Ends the load, and returns the changes.
    pub(crate) async fn end(mut self) -> Vec<Change> {
        self.end_change();
        self.readers.iter().for_each(|reader| reader.stop());
        // A request under way ends within its time-out.
        let _ = tokio::time::timeout(Duration::from_secs(5), async { while self.tasks.join_next().await.is_some() {} })
            .await;
        self.changes
    }
}
