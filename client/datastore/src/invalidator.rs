//! Delivers what is in the outbox to every node, and makes the beats.
//!
//! One task reads the outbox, and one for each node delivers there and counts, so that a node that hangs holds up
//! nobody else. A node that is new, or was given up, is noted first, so that rows are kept for it, and then flushed:
//! what it holds may be older than any row. Only then does it get beats.
//!
//! Two invalidators at once do no harm: deletes may come twice, and a beat has one writer by its CAS unique. The lead
//! only saves work.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_client::{Client, OneNode, Stored};
use metrics::{counter, gauge};
use parking_lot::Mutex;
use sqlx::Pool;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::beat::{Beat, PACE, beat_key};
use crate::check::Checker;
use crate::outbox::{Backend, Member, OWN_MAX, Row};
use crate::rule::{EVERYTHING, cache_key};

/// How long a writer that is alive may take to clean up after itself.
const YOUNG: Duration = Duration::from_millis(50);

/// More keys than this are not deleted one by one: the node is flushed.
const FLUSH_ABOVE: usize = 100_000;

/// A node that has missed so many rows, or for so long, is given up: it is flushed when it comes back.
const ROWS_MAX: usize = 1_000_000;
const AGE_MAX: Duration = Duration::from_secs(3600);

/// A node that is in nobody's list any more gets deletes for so long.
const GONE_MAX: Duration = Duration::from_secs(60);

/// What an invalidator works on.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The name of the datastore, for its beats and its lead.
    pub store: String,
    /// What all keys begin with.
    pub prefix: String,
}

/// Sweeps an outbox: [`Datastore`](crate::Datastore) has one inside, `larder-tail` is one.
#[derive(Debug)]
pub struct Invalidator<DB: Backend> {
    pool: Pool<DB>,
    cache: Client,
    setup: Setup,
    shared: Arc<Shared>,
    checker: Option<Arc<Checker<DB>>>,
    /// Whether a node is flushed before rows count for it; only `larder-bench coherence` leaves that out.
    pub(crate) flushes: bool,
}

/// What all tasks know.
#[derive(Debug, Default)]
struct Shared {
    /// Scans that have begun.
    begun: AtomicU64,
    pending: Mutex<BTreeMap<i64, Pending>>,
}

/// A row that is there, and not yet everywhere.
#[derive(Debug)]
struct Pending {
    /// The keys to delete; `None` for all there are.
    keys: Option<Vec<Vec<u8>>>,
    since: Instant,
    /// Nodes that have deleted them.
    taken: HashSet<Arc<str>>,
}

/// A scan that is over.
#[derive(Debug, Clone, Default)]
struct Scanned {
    number: u64,
    members: Arc<HashMap<String, Member>>,
}

impl<DB: Backend> Invalidator<DB> {
    /// An invalidator of the outbox behind `pool` for all nodes of `cache`.
    pub fn new(pool: Pool<DB>, cache: Client, setup: Setup) -> Invalidator<DB> {
        Invalidator { pool, cache, setup, shared: Arc::default(), checker: None, flushes: true }
    }

    /// Compares some of the keys that were invalidated with the datastore.
    pub fn with_checker(mut self, checker: Checker<DB>) -> Self {
        self.checker = Some(Arc::new(checker));
        self
    }

    /// Sweeps, for as long as it is polled: as the leader, or in wait of the lead.
    pub async fn run(self) {
        let mut lead = None;
        loop {
            match DB::lead(&self.pool, &self.setup.store, &mut lead).await {
                Ok(true) => {
                    if let Err(error) = self.sweep(&mut lead).await {
                        tracing::warn!(%error, "the outbox cannot be read; trying again");
                    }
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lead cannot be asked for; trying again"),
            }
            tokio::time::sleep(2 * PACE).await;
        }
    }

    /// Sweeps until the lead is lost, or the datastore.
    async fn sweep(&self, lead: &mut Option<DB::Lead>) -> sqlx::Result<()> {
        tracing::debug!("sweeping the outbox");
        self.shared.pending.lock().clear();
        let (scans, scanned) = watch::channel(Scanned::default());
        let mut tasks: HashMap<Arc<str>, tokio::task::AbortHandle> = HashMap::new();
        let mut set = JoinSet::new();
        let mut gone: HashMap<String, Instant> = HashMap::new();
        let mut since: Option<String> = None;
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            if !DB::lead(&self.pool, &self.setup.store, lead).await? {
                return Ok(());
            }
            let nodes = self.cache.every_node();
            tasks.retain(|address, task| {
                let stays = nodes.iter().any(|node| node.address() == address);
                if !stays {
                    task.abort();
                }
                stays
            });
            for node in nodes {
                tasks.entry(node.address().clone()).or_insert_with(|| {
                    let keeper = Keeper {
                        pool: self.pool.clone(),
                        node,
                        key: beat_key(&self.setup.store),
                        shared: self.shared.clone(),
                        scans: scanned.clone(),
                        flushes: self.flushes,
                    };
                    set.spawn(keeper.keep())
                });
            }
            let number = self.shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let scan = DB::scan(&self.pool, since.as_deref()).await?;
            since = Some(scan.next);
            let young = self.take_in(scan.rows);
            if !young.is_empty() {
                tokio::time::sleep(YOUNG).await;
                let there: HashSet<i64> = DB::remaining(&self.pool, &young).await?.into_iter().collect();
                let mut pending = self.shared.pending.lock();
                young.iter().filter(|id| !there.contains(id)).for_each(|id| _ = pending.remove(id));
            }
            let members = Arc::new(scan.members);
            scans.send_replace(Scanned { number, members: members.clone() });
            self.clean_up(&members).await?;
            self.give_up(&members, &tasks, &mut gone).await?;
        }
    }

    /// Notes rows, and returns those that were not known.
    fn take_in(&self, rows: Vec<Row>) -> Vec<i64> {
        let now = Instant::now();
        let mut pending = self.shared.pending.lock();
        let mut young = Vec::new();
        for row in rows {
            pending.entry(row.id).or_insert_with(|| {
                young.push(row.id);
                let keys = keys_of(&self.setup.prefix, std::slice::from_ref(&row));
                if let Some(checker) = &self.checker {
                    checker.sample(&self.cache, &self.setup.prefix, &row);
                }
                Pending { keys, since: now, taken: HashSet::new() }
            });
        }
        let oldest = pending.values().next().map_or(0.0, |row| row.since.elapsed().as_secs_f64());
        gauge!("larder_outbox_rows").set(pending.len() as f64);
        gauge!("larder_outbox_oldest_seconds").set(oldest);
        young
    }

    /// Removes the rows that all members have taken.
    async fn clean_up(&self, members: &HashMap<String, Member>) -> sqlx::Result<()> {
        let everywhere = |row: &Pending| members.keys().all(|member| row.taken.contains(member.as_str()));
        let done: Vec<i64> = {
            let pending = self.shared.pending.lock();
            pending.iter().filter(|(_, row)| everywhere(row)).map(|(id, _)| *id).collect()
        };
        for ids in done.chunks(10_000) {
            let answered: Vec<&str> = members.keys().map(String::as_str).collect();
            DB::remove(&self.pool, ids, &answered).await?;
            // A node that joined meanwhile keeps them there.
            let kept: HashSet<i64> = DB::remaining(&self.pool, ids).await?.into_iter().collect();
            let mut pending = self.shared.pending.lock();
            ids.iter().filter(|id| !kept.contains(id)).for_each(|id| _ = pending.remove(id));
        }
        counter!("larder_outbox_removed_total").increment(done.len() as u64);
        Ok(())
    }

    /// Keeps no more rows for nodes that have missed too many, or that are in no list any more.
    async fn give_up(
        &self,
        members: &HashMap<String, Member>,
        known: &HashMap<Arc<str>, tokio::task::AbortHandle>,
        gone: &mut HashMap<String, Instant>,
    ) -> sqlx::Result<()> {
        gone.retain(|address, _| members.contains_key(address) && !known.contains_key(address.as_str()));
        for address in members.keys() {
            if !known.contains_key(address.as_str()) {
                gone.entry(address.clone()).or_insert_with(Instant::now);
            }
            let hopeless = {
                let pending = self.shared.pending.lock();
                let full = pending.len() > ROWS_MAX;
                let old = pending.values().next().is_some_and(|row| row.since.elapsed() > AGE_MAX);
                (full || old) && pending.values().next().is_some_and(|row| !row.taken.contains(address.as_str()))
            };
            if hopeless || gone.get(address).is_some_and(|since| since.elapsed() > GONE_MAX) {
                tracing::warn!(node = %address, "given up; it is flushed when it comes back");
                DB::set_member(&self.pool, address, None).await?;
            }
        }
        Ok(())
    }
}

/// The keys that rows ask to be deleted, each once; `None` for all there are.
pub(crate) fn keys_of(prefix: &str, rows: &[Row]) -> Option<Vec<Vec<u8>>> {
    if rows.len() > OWN_MAX {
        return None;
    }
    let mut keys = HashSet::new();
    for (rule, values) in rows.iter().flat_map(Row::keys) {
        if rule == EVERYTHING {
            return None;
        }
        keys.insert(cache_key(prefix, &rule, &values));
    }
    Some(keys.into_iter().collect())
}

/// Deletes keys at a node, or all it has for `None`.
pub(crate) async fn delete_at(node: &OneNode, keys: Option<&[Vec<u8>]>) -> larder_client::Result<()> {
    match keys {
        Some(keys) if keys.len() <= FLUSH_ABOVE => node.delete_many(keys).await,
        _ => node.flush_all().await,
    }
}

/// Looks after one node.
struct Keeper<DB: Backend> {
    pool: Pool<DB>,
    node: OneNode,
    key: String,
    shared: Arc<Shared>,
    scans: watch::Receiver<Scanned>,
    flushes: bool,
}

impl<DB: Backend> Keeper<DB> {
    async fn keep(mut self) {
        let age = gauge!("larder_beat_age_seconds", "node" => self.node.address().to_string());
        let mut last = Instant::now();
        loop {
            match self.beat().await {
                Ok(true) => last = Instant::now(),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(node = %self.node.address(), %error, "no beat");
                    tokio::time::sleep(PACE).await;
                }
            }
            age.set(last.elapsed().as_secs_f64());
        }
    }

    /// One beat, if nothing comes between.
    async fn beat(&mut self) -> crate::Result<bool> {
        let node = &self.node;
        let found = node.peek(&self.key).await?;
        // The outbox must be read after the beat was.
        let number = self.shared.begun.load(Ordering::SeqCst) + 1;
        let Ok(scanned) = self.scans.wait_for(|scanned| scanned.number >= number).await.map(|scanned| scanned.clone())
        else {
            return std::future::pending().await;
        };
        match scanned.members.get(&**node.address()) {
            None => {
                DB::set_member(&self.pool, node.address(), Some(Member::Joining)).await?;
                return Ok(false);
            }
            Some(Member::Joining) => {
                tracing::info!(node = %node.address(), "flushed, since what it holds may be older than the outbox");
                if self.flushes {
                    node.flush_all().await?;
                }
                DB::set_member(&self.pool, node.address(), Some(Member::Covered)).await?;
                return Ok(false);
            }
            Some(Member::Covered) => {}
        }
        self.deliver().await?;
        let week = Duration::from_secs(7 * 86_400);
        let stored = match &found {
            None => node.add(&self.key, Beat::first().to_string(), week).await?,
            Some(item) => {
                let next = Beat::parse(&item.value).map_or_else(Beat::first, Beat::next);
                node.cas(&self.key, next.to_string(), week, item.cas).await?
            }
        };
        Ok(stored == Stored::Yes)
    }

    /// Deletes what this node has not yet deleted.
    async fn deliver(&self) -> larder_client::Result<()> {
        let address = self.node.address();
        let (mut ids, mut keys, mut everything) = (Vec::new(), Vec::new(), false);
        for (id, row) in self.shared.pending.lock().iter().filter(|(_, row)| !row.taken.contains(address)) {
            ids.push(*id);
            match &row.keys {
                Some(some) => keys.extend_from_slice(some),
                None => everything = true,
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        delete_at(&self.node, (!everything).then_some(&keys)).await?;
        counter!("larder_delivered_total", "node" => address.to_string()).increment(ids.len() as u64);
        let mut pending = self.shared.pending.lock();
        for id in ids {
            if let Some(row) = pending.get_mut(&id) {
                row.taken.insert(address.clone());
            }
        }
        Ok(())
    }
}
