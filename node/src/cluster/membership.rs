//! Who is in the cluster: one task that hears views, adopts them, and takes this node's own steps.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_protocol::peer::{Founding, MEMBERS_MAX, Member, Message, Purpose, State, Status, View};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use super::link::{Incoming, Outgoing, Remote};
use super::ownership::{Members, Place, common, may_eject};
use super::peers::Peer;
use super::routing::Routing;
use super::{Advice, Autoscaler, Cluster, Counts, Figures, Limits, Opened, moves};
use crate::log::Seldom;
use crate::net::acceptor::Work;
use crate::shared::Shared;
use crate::statistics::counters::Totals;
use crate::store::Cursor;

/// What the task is told.
pub(crate) enum Event {
    /// A view came. `from` is who adopted it, where it is known to be a member's own.
    Heard { from: Option<String>, view: View, done: oneshot::Sender<()> },
    /// A member said how it is.
    Pinged,
    /// An old owner is asked for nothing any more, under this view.
    Closed { view: Arc<View>, place: Place },
    /// No old owner is to be asked any more: everything is flushed.
    Sever(oneshot::Sender<()>),
    /// The seeds were asked.
    Sought(Vec<Seed>),
    /// The node is to leave.
    Leave(Option<oneshot::Sender<()>>),
    /// A member is dead: an operator says so.
    Forget { id: String, done: oneshot::Sender<String> },
}

/// What a seed answered.
pub(crate) struct Seed {
    id: String,
    process: u64,
    view: View,
}

/// A member that was not heard of for so long is not asked.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// Between pings.
const PING: Duration = Duration::from_secs(1);

/// Between looks at what is due, while something changes.
const TICK: Duration = Duration::from_millis(50);

/// Between looks at what is due, of a node that is active and settled.
const SETTLED_TICK: Duration = Duration::from_millis(250);

/// So long seeds may take to answer before another one founds the cluster.
const FOUNDING_PATIENCE: Duration = Duration::from_secs(3);

/// So often a member asks seeds that are no members: they may have founded another cluster.
const SEEK_AGAIN: Duration = Duration::from_secs(10);

/// A node waits so long for another change to be over. Safety does not need it.
const POLITENESS: Duration = Duration::from_secs(10);

/// A node that goes waits so long until others know. After that they find that it is silent.
const LAST_WORD: Duration = Duration::from_secs(10);

/// A member that left its keys and is silent for so long is gone: it was killed, or its last word was lost.
const LEAVER_SILENCE: Duration = Duration::from_secs(10);

/// Links that are not through their handshake, at a time.
const GREETINGS: usize = 64;

/// Unix time of the beginning of 2020.
const YEAR_2020: u64 = 1_577_836_800;

/// What the node is doing.
enum Phase {
    /// It looks for a cluster, or for founding one.
    Seeking {
        since: Instant,
    },
    /// It is in a view as joining, and waits until all know it.
    Joining {
        since: Instant,
    },
    Active,
    /// It owns nothing any more; after the second time it goes.
    Leaving {
        since: Instant,
        until: Option<Instant>,
    },
    /// It is gone, and waits until somebody knows.
    Going {
        since: Instant,
    },
    Left,
}

/// Runs the node's part in the cluster until the server stops.
pub(crate) async fn run(shared: Arc<Shared>, opened: Opened, workers: Vec<UnboundedSender<Work>>) {
    let cluster = shared.cluster.clone().expect("a cluster was opened");
    let listener = match TcpListener::from_std(opened.listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "members cannot be listened to"),
    };
    tracing::info!(address = cluster.peer, cluster = cluster.identity.cluster, "listening for members");
    tokio::spawn(accept(listener, shared.clone(), cluster.clone(), workers));
    let mut stop = shared.stop.clone();
    let mut membership = Membership::new(shared, cluster);
    let mut events = opened.events;
    tokio::select! {
        () = membership.run(&mut events) => {}
        _ = stop.wait_for(|&stopping| stopping) => {}
    }
}

struct Membership {
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    phase: Phase,
    view: Arc<View>,
    /// The last view that each member is known to have adopted.
    known: HashMap<String, View>,
    routing: Arc<Routing>,
    peers: HashMap<String, Arc<Peer>>,
    controls: HashMap<String, (Arc<Peer>, JoinHandle<()>)>,
    views: watch::Sender<Arc<View>>,
    seeking: bool,
    sought: Instant,
    figures: Sampler,
    rule: Autoscaler,
    began: Instant,
    /// The node looked at what is due then, and has done so without a break since the second time.
    looked: Instant,
    awake: Instant,
    /// Lists were served up to this number: no lower one may follow.
    served: u32,
    left: Vec<oneshot::Sender<()>>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        for (_, control) in self.controls.values() {
            control.abort();
        }
    }
}

impl Membership {
    fn new(shared: Arc<Shared>, cluster: Arc<Cluster>) -> Membership {
        let view: Arc<View> = Arc::default();
        let routing = cluster.routing.borrow().clone();
        let worth = cluster.options.worth;
        Membership {
            shared,
            phase: Phase::Seeking { since: Instant::now() },
            known: HashMap::new(),
            routing,
            peers: HashMap::new(),
            controls: HashMap::new(),
            views: watch::Sender::new(view.clone()),
            view,
            cluster,
            seeking: false,
            sought: Instant::now(),
            figures: Sampler::default(),
            rule: Autoscaler::new(Limits { max: MEMBERS_MAX, worth, ..Limits::default() }),
            began: Instant::now(),
            looked: Instant::now(),
            awake: Instant::now(),
            served: 0,
            left: Vec::new(),
        }
    }

    fn me(&self) -> &str {
        &self.cluster.identity.id
    }

    async fn run(&mut self, events: &mut UnboundedReceiver<Event>) {
        loop {
            let is_settled = matches!(self.phase, Phase::Active) && self.routing.moving.is_none();
            let due = self.looked + if is_settled { SETTLED_TICK } else { TICK };
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => return,
                },
                () = tokio::time::sleep_until(due.into()) => self.step().await,
            }
            self.progress().await;
            self.begin_moves();
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Heard { from, view, done } => {
                if let Some(from) = from {
                    let known = self.known.entry(from).or_default();
                    *known = known.merge(&view);
                }
                if !matches!(self.phase, Phase::Seeking { .. } | Phase::Left) {
                    self.adopt(&view).await;
                }
                let _ = done.send(());
            }
            Event::Pinged => {}
            Event::Closed { view, place } => {
                if Arc::ptr_eq(&view, &self.view)
                    && let Some(moving) = &self.routing.moving
                {
                    let moving = moving.closing(1 << place);
                    let routing = self.routing.with(moving);
                    self.publish(routing);
                }
            }
            Event::Sever(done) => {
                self.cluster.end_moves();
                if let Some(moving) = &self.routing.moving {
                    let moving = moving.closing(moving.sources);
                    let routing = self.routing.with(moving);
                    self.publish(routing);
                }
                let _ = done.send(());
            }
            Event::Sought(seeds) => {
                self.seeking = false;
                self.sought(seeds).await;
            }
            Event::Leave(done) => {
                self.left.extend(done);
                match self.phase {
                    Phase::Leaving { since, .. } => {
                        tracing::warn!("asked a second time: the node goes without handing its items on");
                        self.phase = Phase::Leaving { since, until: Some(Instant::now()) };
                    }
                    Phase::Left => self.left.drain(..).for_each(|done| _ = done.send(())),
                    _ => self.leave().await,
                }
            }
            Event::Forget { id, done } => {
                let _ = done.send(self.forget(&id).await);
            }
        }
    }

    /// What is due.
    async fn step(&mut self) {
        let active = self.view.in_state(State::Active).count();
        if self.figures.sample(&self.shared, active) {
            self.figures.status.hottest = self.cluster.hot_keys.lock().share();
            self.advise(active);
            self.say_status();
        }
        for peer in &self.routing.members {
            if peer.id != self.me() && peer.last().0.elapsed() > SILENCE {
                peer.set_reachable(false);
            }
        }
        // Whom a node did not hear while it was stopped itself, it does not count as silent.
        if self.looked.elapsed() > PING {
            self.awake = Instant::now();
        }
        self.looked = Instant::now();
        if matches!(self.phase, Phase::Active) {
            self.bury_leavers().await;
            if let Some(seconds) = self.cluster.options.eject_after {
                self.eject(Duration::from_secs(seconds)).await;
            }
        }
        match self.phase {
            Phase::Seeking { .. } if !self.seeking => self.seek(),
            Phase::Active if !self.seeking && self.sought.elapsed() > SEEK_AGAIN => self.seek(),
            Phase::Joining { since } => {
                let everybody_knows = self.routing.members.iter().all(|peer| {
                    peer.id == self.me() || self.known.get(&peer.id).is_some_and(|known| known.covers(&self.view))
                });
                if everybody_knows && (self.is_quiet() || since.elapsed() > POLITENESS) {
                    self.become_(State::Active).await;
                    self.phase = Phase::Active;
                    tracing::info!(version = self.view.version(), "in the cluster");
                }
            }
            Phase::Leaving { since, until: None } => {
                let limit = Duration::from_secs(self.cluster.options.drain_limit);
                if self.routing.moving.is_none() || since.elapsed() > limit {
                    let linger = Duration::from_secs(self.cluster.options.linger);
                    tracing::info!("the node owns and holds nothing any more, and forwards for {linger:?}");
                    self.phase = Phase::Leaving { since, until: Some(Instant::now() + linger) };
                }
            }
            Phase::Leaving { until: Some(until), .. } if until <= Instant::now() => {
                self.go().await;
            }
            Phase::Going { since } if self.is_known_to_be_gone() || since.elapsed() > LAST_WORD => {
                self.phase = Phase::Left;
                self.left.drain(..).for_each(|done| _ = done.send(()));
            }
            _ => {}
        }
    }

    /// The node is a member no more. It stays until others know: a member that is not known to be gone, and is silent,
    /// would hold up every later change.
    async fn go(&mut self) {
        self.phase = Phase::Going { since: Instant::now() };
        self.become_(State::Gone).await;
    }

    /// Whether the others that can be reached know that this node is gone, and one at least does: it tells the rest.
    fn is_known_to_be_gone(&self) -> bool {
        let knows = |peer: &Peer| self.known.get(&peer.id).is_some_and(|known| known.covers(&self.view));
        let others: Vec<&Arc<Peer>> = self.routing.members.iter().filter(|peer| peer.id != self.me()).collect();
        others.is_empty()
            || others.iter().any(|peer| knows(peer)) && others.iter().all(|peer| knows(peer) || !peer.is_reachable())
    }

    /// Counts members as gone that left their keys and are silent. They serve no key any more, so nobody sees an old
    /// value where one of them lives; what it still held is lost.
    async fn bury_leavers(&mut self) {
        for id in self.silent(LEAVER_SILENCE) {
            if self.view.state(&id) == Some(State::Leaving) {
                tracing::warn!(id, "the member was leaving and is silent: it is gone");
                self.forget(&id).await;
            }
        }
    }

    /// The others that were not heard for so long; none where this node was stopped itself meanwhile.
    fn silent(&self, after: Duration) -> Vec<String> {
        if self.awake.elapsed() <= after {
            return Vec::new();
        }
        let silent =
            |peer: &&Arc<Peer>| peer.id != self.me() && !peer.is_reachable() && peer.last().0.elapsed() > after;
        self.routing.members.iter().filter(silent).map(|peer| peer.id.clone()).collect()
    }

    /// Whether no other member is in the middle of a change. Of several that join, the one with the lowest id goes first.
    fn is_quiet(&self) -> bool {
        self.routing.members.iter().all(|peer| {
            let state = self.view.state(&peer.id);
            match state {
                _ if peer.id == self.me() => true,
                Some(State::Joining) => *peer.id > *self.me(),
                Some(State::Leaving) => false,
                _ => {
                    let (_, status) = peer.last();
                    status.settled && status.version == self.view.version()
                }
            }
        })
    }

    /// Asks all seeds that are no members, in the background.
    fn seek(&mut self) {
        (self.seeking, self.sought) = (true, Instant::now());
        let cluster = self.cluster.clone();
        let members: Vec<String> = self.view.live().map(|(_, member)| member.peer.clone()).collect();
        tokio::spawn(async move {
            let mut addresses = Vec::new();
            for seed in &cluster.options.seeds {
                match tokio::net::lookup_host(seed.strip_prefix("dns:").unwrap_or(seed)).await {
                    Ok(found) => addresses.extend(found.map(|address| address.to_string())),
                    Err(error) => tracing::warn!(seed, %error, "the seed has no address"),
                }
            }
            addresses.sort_unstable();
            addresses.dedup();
            addresses.retain(|address| !members.contains(address));
            let answers = addresses.iter().map(|address| ask_seed(&cluster, address));
            let seeds = futures_util::future::join_all(answers).await.into_iter().flatten().collect();
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = cluster.events.send(Event::Sought(seeds));
        });
    }

    /// Joins the cluster that a seed knows, or founds one.
    async fn sought(&mut self, seeds: Vec<Seed>) {
        let Phase::Seeking { since } = self.phase else {
            // Nodes that did not reach each other at the start have founded a cluster each: those of the younger one join.
            let older = |seed: &&Seed| seed.view.founding < self.view.founding;
            if matches!(self.phase, Phase::Active)
                && let Some(other) = seeds.iter().find(older)
            {
                self.adopt(&other.view).await;
            }
            return;
        };
        let own = self.cluster.identity.process;
        if let Some(other) = seeds.iter().find(|seed| seed.id == self.me() && seed.process != own) {
            tracing::error!(id = other.id, "another process has the id of this node: give each its own --node-id");
            return;
        }
        let view = seeds.iter().fold(View::default(), |view, seed| view.merge(&seed.view));
        if view.is_founded() {
            return self.join(view).await;
        }
        let asked = self.cluster.options.seeds.len();
        let answered: Vec<&str> = seeds.iter().map(|seed| &*seed.id).collect();
        let is_seed = asked == 0 || seeds.iter().any(|seed| seed.process == own);
        let is_lowest = answered.iter().all(|&id| id >= self.me());
        let patient = (answered.len() >= asked && asked > 0) || since.elapsed() > FOUNDING_PATIENCE || asked == 0;
        if is_seed && is_lowest && patient || since.elapsed() > 5 * FOUNDING_PATIENCE && is_seed {
            let second = self.now_since_2020();
            let token = super::link::random().unwrap_or_default() as u32;
            let mut view = View::found(Founding { second, token }, self.me(), self.member(1, State::Active, 0));
            raise(&mut view, self.served);
            self.phase = Phase::Active;
            tracing::info!(cluster = self.cluster.identity.cluster, "founded");
            self.enter(view).await;
        }
    }

    fn now_since_2020(&self) -> u32 {
        u64::from(self.shared.clock.now().0).saturating_sub(YEAR_2020) as u32
    }

    fn member(&self, generation: u32, state: State, slot: u8) -> Member {
        Member {
            generation,
            state,
            slot,
            host: self.cluster.host.clone(),
            port: self.cluster.port,
            name: self.cluster.name.clone(),
            peer: self.cluster.peer.clone(),
        }
    }

    async fn join(&mut self, mut view: View) {
        if view.live().filter(|(id, _)| *id != self.me()).count() >= MEMBERS_MAX {
            return tracing::error!("the cluster has {MEMBERS_MAX} members, and can have no more");
        }
        let slot = free_slot(&view, self.me());
        let generation = view.members.get(self.me()).map_or(0, |known| known.generation) + 1;
        view.members.insert(self.me().to_owned(), self.member(generation, State::Joining, slot));
        raise(&mut view, self.served);
        self.phase = Phase::Joining { since: Instant::now() };
        tracing::info!(generation, "joining the cluster");
        self.enter(view).await;
    }

    /// The node is in a cluster from now on, and holds nothing of an earlier one.
    async fn enter(&mut self, view: View) {
        let now = self.shared.clock.now();
        self.shared.store.flush_all(now, now);
        let slot = view.members.get(self.me()).map_or(0, |member| member.slot);
        self.shared.store.start_cas(slot, now);
        let outside = Arc::new(Routing::outside(Arc::default()));
        self.routing = outside;
        self.known.clear();
        self.adopt(&view).await;
    }

    async fn become_(&mut self, state: State) {
        let mut view = View::clone(&self.view);
        if let Some(member) = view.members.get_mut(self.cluster.identity.id.as_str()) {
            member.state = state;
        }
        self.adopt(&view).await;
    }

    async fn leave(&mut self) {
        let others = self.view.in_state(State::Active).any(|(id, _)| id != self.me());
        if matches!(self.phase, Phase::Active) && others {
            let begun = Instant::now();
            self.become_(State::Leaving).await;
            tracing::info!("leaving the cluster");
            self.phase = Phase::Leaving { since: begun, until: None };
        } else {
            if matches!(self.phase, Phase::Joining { .. }) {
                return self.go().await;
            }
            self.phase = Phase::Left;
            self.left.drain(..).for_each(|done| _ = done.send(()));
        }
    }

    /// Declares members dead that were silent for so long.
    async fn eject(&mut self, after: Duration) {
        let members = &self.routing.members;
        let is_me = |peer: &Peer| peer.id == self.me();
        let heard: Vec<bool> = members.iter().map(|peer| is_me(peer) || peer.is_reachable()).collect();
        let Some(me) = members.iter().position(|peer| is_me(peer)) else { return };
        let silent = self.silent(after);
        if silent.is_empty() || !may_eject(&heard, me as Place) {
            return;
        }
        for id in silent {
            tracing::warn!(id, "the member was silent for --eject-after: it is declared dead");
            self.forget(&id).await;
        }
    }

    async fn forget(&mut self, id: &str) -> String {
        match self.view.state(id) {
            None | Some(State::Gone) => format!("there is no member {id}"),
            Some(_) if id == self.me() => "a node does not forget itself: drain it".to_owned(),
            Some(_) => {
                let mut view = View::clone(&self.view);
                if let Some(member) = view.members.get_mut(id) {
                    member.state = State::Gone;
                }
                self.adopt(&view).await;
                tracing::warn!(id, "the member is forgotten");
                format!("{id} is forgotten")
            }
        }
    }

    /// Merges a view into the node's own. Once this returns, no command runs under the old one, and all others are told.
    async fn adopt(&mut self, incoming: &View) {
        if self.view.covers(incoming) {
            return;
        }
        let view = self.view.merge(incoming);
        let mine = |view: &View| view.members.get(self.me()).map(|member| (member.generation, member.state));
        let is_mine = match (mine(&self.view), mine(&view)) {
            _ if self.view.is_founded() && self.view.founding != view.founding => false,
            (Some((old, _)), Some((new, state))) => {
                // A node that leaves is gone once it says so, or others do, since it was silent.
                let may_go = matches!(self.phase, Phase::Leaving { .. } | Phase::Going { .. });
                old == new && (state != State::Gone || may_go)
            }
            (None, Some(_)) => true,
            (_, None) => !self.view.is_founded(),
        };
        if !is_mine {
            return self.expelled(&view);
        }
        // The moves of the older view end. What is left of them must not be mistaken for the node's own.
        self.cluster.end_moves();
        self.sweep().await;
        self.view = Arc::new(view);
        let members: Vec<Arc<Peer>> =
            self.view.live().map(|(id, member)| known_peer(&self.peers, id, member)).collect();
        self.peers = members.iter().map(|peer| (peer.id.clone(), peer.clone())).collect();
        let others = members.iter().filter(|peer| peer.id != self.cluster.identity.id);
        let before = common(&self.view, others.map(|peer| self.known.get(&peer.id)));
        let hashing = self.cluster.options.cluster_hashing.hashing;
        let (routing, lets_go) =
            Routing::after(&self.routing, self.view.clone(), &before, members, &self.cluster.identity.id, hashing);
        self.publish(routing);
        if lets_go {
            let now = self.shared.clock.now();
            self.shared.store.flush_all(now, now);
        }
        self.served = self.served.max(self.view.version());
        tracing::debug!(version = self.view.version(), "adopted a view");
        self.views.send_replace(self.view.clone());
        self.connect();
    }

    fn publish(&mut self, routing: Routing) {
        self.routing = Arc::new(routing);
        self.cluster.publish(&self.routing);
        self.say_status();
    }

    /// Finds how many nodes there should be. All members do so; what the first one finds counts, and all show it.
    fn advise(&mut self, active: usize) {
        let own = self.figures.status;
        let peers = self.routing.members.iter();
        let of_members: Vec<(&str, Status)> = peers
            .filter(|peer| self.view.state(&peer.id) == Some(State::Active))
            .map(|peer| (&*peer.id, if peer.id == self.me() { own } else { peer.last().1 }))
            .collect();
        let Some((first, of_first)) = of_members.first() else { return };
        let is_settled = self.routing.moving.is_none();
        let sum =
            |figure: fn(&Status) -> f32| of_members.iter().map(|(_, status)| f64::from(figure(status))).sum::<f64>();
        let figures = Figures {
            nodes: active,
            changing: !is_settled
                || self.view.in_state(State::Joining).chain(self.view.in_state(State::Leaving)).next().is_some()
                || of_members.iter().any(|(id, status)| *id != self.me() && !status.settled),
            cpu: sum(|status| status.cpu) / of_members.len() as f64,
            gain: sum(|status| status.gain),
            loss: sum(|status| status.loss),
            hottest: of_members.iter().map(|(_, status)| f64::from(status.hottest)).fold(0.0, f64::max),
        };
        let decision = self.rule.advise(self.began.elapsed(), &figures);
        self.figures.status.wanted = decision.wanted as u16;
        let advice = match *first == self.me() || of_first.wanted == 0 {
            true => Advice { wanted: decision.wanted as u16, figures, reason: decision.reason },
            false => Advice { wanted: of_first.wanted, figures, reason: format!("{first} counts for all: see there") },
        };
        self.cluster.advice.send_replace(advice);
    }

    fn say_status(&self) {
        let moving = self.routing.moving.as_ref();
        let status = Status {
            version: self.view.version(),
            complete: moving.is_none_or(|moving| moving.is_complete()),
            settled: moving.is_none(),
            ..self.figures.status
        };
        self.cluster.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }

    /// Another cluster's founding, a higher generation or a death of this node's id came: it serves nothing until it has
    /// joined anew.
    fn expelled(&mut self, view: &View) {
        tracing::warn!("the others count this node as dead, or their cluster as the older one: it joins anew, empty");
        self.view = Arc::default();
        self.publish(Routing::outside(Arc::new(View { members: Default::default(), ..view.clone() })));
        let now = self.shared.clock.now();
        self.shared.store.flush_all(now, now);
        self.known.clear();
        self.connect();
        self.phase = Phase::Seeking { since: Instant::now() };
    }

    /// Notes who has acknowledged, whose items have come, and whether the change is over.
    async fn progress(&mut self) {
        let Some(moving) = &self.routing.moving else { return };
        let mut moving = moving.clone();
        let all: Members = (0u8..)
            .zip(&self.routing.members)
            .filter(|(_, peer)| self.known.get(&peer.id).is_some_and(|known| known.covers(&self.view)))
            .map(|(place, _)| 1 << place)
            .sum();
        let old = (moving.acknowledged, moving.closed, moving.swept);
        moving.acknowledged = all;
        if !moving.swept && self.others_are_complete() {
            self.sweep().await;
            moving.swept = true;
        }
        let over = moving.is_complete() && moving.swept;
        if over || (moving.acknowledged, moving.closed, moving.swept) != old {
            let routing = self.routing.with(moving);
            self.publish(routing);
            if self.routing.moving.is_none() {
                self.cluster.end_moves();
                tracing::info!(version = self.view.version(), "settled");
            }
        }
    }

    /// Gets items from the old owners that have acknowledged.
    fn begin_moves(&self) {
        let Some(moving) = &self.routing.moving else { return };
        let open = moving.open();
        for place in (0..self.routing.members.len() as Place).filter(|place| open >> place & 1 == 1) {
            self.cluster.begin_move(&self.shared, &self.routing, place, moving.sources.count_ones());
        }
    }

    /// Whether no active member waits for an item that this node may hold.
    fn others_are_complete(&self) -> bool {
        self.view.in_state(State::Active).filter(|(id, _)| *id != self.me()).all(|(id, _)| {
            let status = self.peers.get(id).map(|peer| peer.last().1).unwrap_or_default();
            status.complete && status.version == self.view.version()
        })
    }

    /// Removes every item that the node is not the authority of.
    async fn sweep(&mut self) {
        if self.routing.moving.as_ref().is_none_or(|moving| moving.swept) {
            return;
        }
        let store = &self.shared.store;
        let now = self.shared.clock.now();
        let mut cursor = Cursor::default();
        let mut strangers: Vec<Vec<u8>> = Vec::new();
        loop {
            let routing = &self.routing;
            let more = store.scan(&mut cursor, now, |item| {
                if !routing.standing(item.key).is_authority() {
                    strangers.push(item.key.to_vec());
                }
            });
            Counts::add(&self.cluster.counts.swept, strangers.len() as u64);
            for key in strangers.drain(..) {
                store.entry(&key, store.hash(&key), now).remove();
            }
            if !more {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// A control link to every other live member, and to nobody else.
    fn connect(&mut self) {
        let peers = &self.peers;
        let alive = !self.view.members.is_empty();
        self.controls.retain(|id, (peer, control)| {
            let stays = alive && peers.get(id).is_some_and(|known| Arc::ptr_eq(known, peer));
            if !stays {
                peer.depart();
                // A moment later: it may carry this node's last word.
                let control = control.abort_handle();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    control.abort();
                });
            }
            stays
        });
        for (id, peer) in &self.peers {
            if alive && *id != self.cluster.identity.id && !self.controls.contains_key(id) {
                let control = tokio::spawn(control(self.cluster.clone(), peer.clone(), self.views.subscribe()));
                self.controls.insert(id.clone(), (peer.clone(), control));
            }
        }
    }
}

/// Figures of the node, taken now and then.
#[derive(Default)]
struct Sampler {
    last: Option<(Instant, f64, Totals)>,
    /// Hits more than there were, with half and with twice the memory.
    other: [f64; 2],
    status: Status,
}

/// How much one sample counts in a mean: estimates come in steps.
const SMOOTHING: f32 = 1.0 / 30.0;

/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(1);

impl Sampler {
    /// Takes a sample if it is time to, in a cluster of so many nodes.
    fn sample(&mut self, shared: &Shared, nodes: usize) -> bool {
        let now = Instant::now();
        if self.last.is_some_and(|(last, ..)| now - last < SAMPLE) {
            return false;
        }
        let totals = Totals::of(shared.workers.iter().map(|worker| &**worker));
        let busy = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
            let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            seconds(usage.user_time()) + seconds(usage.system_time())
        });
        if let Some((last, busy_before, before)) = self.last {
            let seconds = (now - last).as_secs_f64();
            let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as f32;
            let operations = |totals: &Totals| totals.cmd_get + totals.cmd_set + totals.cmd_touch;
            let bytes = |totals: &Totals| totals.bytes_read + totals.bytes_written;
            let store = &shared.store;
            let other = store.hits_with_other_memory();
            let hits = |factor: f64| other.iter().find(|other| other.factor == factor).map_or(0.0, |other| other.hits);
            let [half, twice] = [hits(0.5), hits(2.0)];
            let smooth = |before: f32, count: f64| before + SMOOTHING * ((count / seconds) as f32 - before);
            let (status, nodes) = (self.status, nodes.max(1) as f64);
            // With one node more each has fewer keys, as if its memory were (n+1)/n times as large. Between the sizes
            // that are estimated, hits are taken to grow as the logarithm of memory.
            let gain = (twice - self.other[1]).max(0.0) * ((nodes + 1.0) / nodes).log2();
            let loss = (self.other[0] - half).max(0.0) * (nodes / (nodes - 1.0).max(0.5)).log2();
            self.other = [half, twice];
            self.status = Status {
                cpu: ((busy - busy_before) / seconds / f64::from(shared.settings.threads)) as f32,
                operations: rate(operations(&totals), operations(&before)),
                misses: rate(totals.get_misses, before.get_misses),
                bytes: rate(bytes(&totals), bytes(&before)),
                memory: (store.statistics().memory_used as f64 / store.memory_limit() as f64) as f32,
                gain: smooth(status.gain, gain),
                loss: smooth(status.loss, loss),
                ..status
            };
        }
        self.last = Some((now, busy, totals));
        true
    }
}

fn known_peer(peers: &HashMap<String, Arc<Peer>>, id: &str, member: &Member) -> Arc<Peer> {
    match peers.get(id) {
        Some(peer) if peer.generation == member.generation && peer.address == member.peer => peer.clone(),
        _ => Arc::new(Peer::new(id, member)),
    }
}

/// No list's number may be at most one that was served before.
fn raise(view: &mut View, served: u32) {
    let version = view.version();
    if version <= served {
        view.base = view.base.saturating_add(served - version + 1);
    }
}

/// The lowest slot that no other live member has.
fn free_slot(view: &View, me: &str) -> u8 {
    let taken: Vec<u8> = view.live().filter(|(id, _)| *id != me).map(|(_, member)| member.slot).collect();
    (0..MEMBERS_MAX as u8).find(|slot| !taken.contains(slot)).unwrap_or_default()
}

async fn ask_seed(cluster: &Cluster, address: &str) -> Option<Seed> {
    let asked = async {
        let (mut incoming, _write, remote) = cluster.identity.dial(address, Purpose::Control).await?;
        loop {
            match incoming.next()?.map(|frame| frame.message) {
                Some(Message::View(view)) => return Ok(Seed { id: remote.id, process: remote.process, view }),
                Some(_) => {}
                None => incoming.fill().await?,
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(3), asked).await {
        Ok(Ok(seed)) => Some(seed),
        Ok(Err(error)) => {
            let error: io::Error = error;
            match error.kind() {
                io::ErrorKind::PermissionDenied => tracing::error!(address, %error, "the seed refuses"),
                _ => tracing::debug!(address, %error, "the seed does not answer"),
            }
            None
        }
        Err(_) => None,
    }
}

/// Keeps a control link to a member: its views before anything later, and pings.
async fn control(cluster: Arc<Cluster>, peer: Arc<Peer>, mut views: watch::Receiver<Arc<View>>) {
    loop {
        match cluster.identity.dial(&peer.address, Purpose::Control).await {
            Ok((incoming, write, remote)) if remote.id == peer.id => {
                let ended = keep(&cluster, &peer, &mut views, incoming, write).await;
                tracing::debug!(member = peer.id, error = ?ended.err(), "the link broke");
            }
            Ok((_, _, remote)) => tracing::warn!(member = peer.id, found = remote.id, "another node is where it was"),
            Err(error) => tracing::debug!(member = peer.id, %error, "no link"),
        }
        peer.set_reachable(false);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn keep(
    cluster: &Cluster,
    peer: &Peer,
    views: &mut watch::Receiver<Arc<View>>,
    mut incoming: Incoming,
    mut write: Outgoing,
) -> io::Result<()> {
    let mut status = cluster.status.subscribe();
    let mut ping = tokio::time::interval(PING);
    let mut out = Vec::new();
    views.mark_changed();
    loop {
        tokio::select! {
            biased;
            changed = views.changed() => {
                changed.map_err(io::Error::other)?;
                let view = View::clone(&views.borrow_and_update());
                Message::View(view).encode(0, &mut out);
            }
            changed = status.changed() => {
                changed.map_err(io::Error::other)?;
                let status = *status.borrow_and_update();
                Message::Ping(status).encode(0, &mut out);
                ping.reset();
            }
            _ = ping.tick() => {
                let status = *cluster.status.borrow();
                Message::Ping(status).encode(0, &mut out);
            }
            filled = incoming.fill() => filled?,
        }
        if !out.is_empty() {
            write.write_all(&out).await?;
            out.clear();
        }
        while let Some(frame) = incoming.next()? {
            match frame.message {
                Message::Pong(status) => {
                    peer.heard(status);
                    let _ = cluster.events.send(Event::Pinged);
                }
                Message::View(view) => cluster.hear(Some(peer.id.clone()), view).await,
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// Takes links of other members.
async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    workers: Vec<UnboundedSender<Work>>,
) {
    let greetings = Arc::new(Semaphore::new(GREETINGS));
    let mut turn = 0;
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                static REFUSED: Seldom = Seldom::new();
                if REFUSED.is_due() {
                    tracing::warn!(%error, "no member is accepted for now");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(greeting) = greetings.clone().try_acquire_owned() else { continue };
        turn += 1;
        let (shared, cluster, worker) = (shared.clone(), cluster.clone(), workers[turn % workers.len()].clone());
        tokio::spawn(async move {
            let welcomed = cluster.identity.welcome(stream).await;
            drop(greeting);
            let ended = match welcomed {
                Ok((incoming, write, remote)) if remote.purpose == Purpose::Forward => {
                    incoming.into_socket(write).map(|(socket, rest)| {
                        let _ = worker.send(Work::Peer(socket, rest, remote.id));
                    })
                }
                Ok((incoming, write, remote)) if remote.purpose == Purpose::Move => {
                    moves::give(&shared, &cluster, incoming, write, remote).await
                }
                Ok((incoming, write, remote)) => converse(&cluster, incoming, write, remote).await,
                Err(error) => {
                    Counts::add(&cluster.counts.links_refused, 1);
                    static REFUSED: Seldom = Seldom::new();
                    if REFUSED.is_due() {
                        tracing::warn!(%from, %error, "a link is refused");
                    }
                    return;
                }
            };
            tracing::debug!(%from, error = ?ended.err(), "a link ended");
        });
    }
}

/// Answers on a control link, or to an operator.
async fn converse(cluster: &Cluster, mut incoming: Incoming, mut write: Outgoing, remote: Remote) -> io::Result<()> {
    let mut out = Vec::new();
    let view = cluster.routing.borrow().view.clone();
    Message::View(View::clone(&view)).encode(0, &mut out);
    loop {
        write.write_all(&out).await?;
        out.clear();
        while let Some(frame) = incoming.next()? {
            let id = frame.id;
            match frame.message {
                Message::View(view) if remote.purpose == Purpose::Control => {
                    cluster.hear(Some(remote.id.clone()), view).await;
                }
                Message::Ping(status) => {
                    if remote.purpose == Purpose::Control
                        && let Some(peer) = cluster.peer(&remote.id)
                    {
                        peer.heard(status);
                        let _ = cluster.events.send(Event::Pinged);
                    }
                    Message::Pong(*cluster.status.borrow()).encode(id, &mut out);
                }
                Message::Forget { id: member } if remote.purpose == Purpose::Operator => {
                    let (done, told) = oneshot::channel();
                    let _ = cluster.events.send(Event::Forget { id: member.to_owned(), done });
                    let told = told.await.unwrap_or_else(|_| "the node stops".to_owned());
                    Message::Told(&told).encode(id, &mut out);
                }
                Message::Drain if remote.purpose == Purpose::Operator => {
                    let _ = cluster.events.send(Event::Leave(None));
                    Message::Told("the node leaves").encode(id, &mut out);
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        if out.is_empty() {
            incoming.fill().await?;
        }
    }
}
