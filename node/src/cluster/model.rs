//! One key in a changing cluster of three nodes, searched to the end: what is checked is what runs.
//!
//! The owner of the key is the first active one of N, A, B. Views travel, nodes join, leave, crash and are declared dead;
//! up to two clients' commands are under way, each at any node and forwarded once; items are taken, pulled in batches over
//! links in order, evicted; links are severed. Views, their merging, and the rules are the node's own: [`View`] and
//! [`ownership`](super::ownership). In every state there is one authority at most, and a read returns what the last executed
//! write left, or nothing. That a broken rule is found shows that the model can.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use larder_protocol::peer::{Founding, Member, State, View};

use super::ownership::{Knowledge, Members, Place, Rule, Standing, common, rule, sources, standing};

const NODES: usize = 3;
const IDS: [&str; NODES] = ["a", "b", "n"];
/// The owner is the first of these that is active.
const PREFERENCE: [usize; NODES] = [2, 0, 1];

/// How the protocol is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Broken {
    Nothing,
    CopiesInsteadOfMoves,
    SetsWithoutTaking,
    DeletesWithoutTaking,
    RepliesOutOfOrder,
    ServesBeforeTheAck,
    OldOwnerServesOn,
    KeepsLeftovers,
    OneAckUnderOverlap,
    DeclaresTheLivingDead,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    commands: usize,
    writes: u8,
    reads: u8,
    evictions: u8,
    crashes: u8,
    pulls: u8,
    transitions: u8,
    severs: u8,
}

/// A view by its number in [`Views`].
type ViewId = u8;

/// Every view met, with what the node's own functions say about it. A state then holds numbers.
#[derive(Default)]
struct Views {
    all: Vec<View>,
    numbers: HashMap<View, ViewId>,
    merged: HashMap<(ViewId, ViewId), ViewId>,
    commons: HashMap<(ViewId, [ViewId; NODES]), (ViewId, Rule)>,
}

impl Views {
    fn number(&mut self, view: View) -> ViewId {
        if let Some(&number) = self.numbers.get(&view) {
            return number;
        }
        let number = ViewId::try_from(self.all.len()).expect("few views");
        self.all.push(view.clone());
        self.numbers.insert(view, number);
        number
    }

    fn merge(&mut self, a: ViewId, b: ViewId) -> ViewId {
        if let Some(&merged) = self.merged.get(&(a, b)) {
            return merged;
        }
        let merged = self.number(self.all[a as usize].merge(&self.all[b as usize]));
        self.merged.insert((a, b), merged);
        merged
    }

    fn covers(&mut self, a: ViewId, b: ViewId) -> bool {
        self.merge(a, b) == a
    }

    fn state(&self, view: ViewId, node: usize) -> Option<State> {
        self.all[view as usize].state(IDS[node])
    }

    fn is_live(&self, view: ViewId, node: usize) -> bool {
        self.state(view, node).is_some_and(|state| state != State::Gone)
    }

    fn live(&self, view: ViewId) -> Members {
        (0..NODES).filter(|&node| self.is_live(view, node)).map(|node| 1 << node).sum()
    }

    fn owner(&self, view: ViewId) -> Option<usize> {
        PREFERENCE.into_iter().find(|&node| self.state(view, node) == Some(State::Active))
    }

    /// With a member in another state.
    fn with(&mut self, view: ViewId, node: usize, state: State) -> ViewId {
        let mut view = self.all[view as usize].clone();
        view.members.insert(IDS[node].to_owned(), member(node, state));
        self.number(view)
    }

    /// The view before and the rule for the change, from what a node knows of the live members.
    fn before(&mut self, view: ViewId, known: [ViewId; NODES], me: usize) -> (ViewId, Rule) {
        if let Some(&before) = self.commons.get(&(view, known)) {
            return before;
        }
        let others = (0..NODES).filter(|&node| node != me && self.is_live(view, node));
        let known_views = others.map(|node| Some(&self.all[known[node] as usize]));
        let before = common(&self.all[view as usize], known_views);
        let rule = rule(&before, &self.all[view as usize]);
        let before = self.number(before);
        self.commons.insert((view, known), (before, rule));
        (before, rule)
    }
}

fn member(node: usize, state: State) -> Member {
    let id = IDS[node].to_owned();
    Member { generation: 1, state, slot: node as u8, host: id.clone(), port: 1, name: id.clone(), peer: id }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    alive: bool,
    view: ViewId,
    known: [ViewId; NODES],
    /// The item, by the number of the write that made it; 0 is none.
    copy: u8,
    kept: bool,
    sources: Members,
    acknowledged: Members,
    closed: Members,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Get,
    Set(u8),
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    At,
    Forwarded { to: usize, view: ViewId },
    Taking { pending: Members },
    Taken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Command {
    kind: Kind,
    node: usize,
    stage: Stage,
    forwarded: bool,
}

/// What a take is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asker {
    Command(usize),
    Pull,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reply {
    Item(Asker, u8),
    Done,
}

/// From who takes (first index) to who is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Link {
    asked: Vec<(Asker, ViewId)>,
    replies: Vec<Reply>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    nodes: [Node; NODES],
    links: [[Link; NODES]; NODES],
    commands: [Option<Command>; 2],
    /// What the last executed write left.
    truth: u8,
    writes: u8,
    reads: u8,
    evictions: u8,
    crashes: u8,
    pulls: u8,
    transitions: u8,
    severs: u8,
}

type Violation = String;

struct Model {
    views: Views,
    bounds: Bounds,
    broken: Broken,
}

impl Model {
    fn new(bounds: Bounds, broken: Broken) -> (Model, World) {
        let mut views = Views::default();
        let founding = Founding { second: 1, token: 1 };
        let members = |states: &[State]| View {
            founding,
            base: 1,
            members: states
                .iter()
                .enumerate()
                .map(|(node, &state)| (IDS[node].to_owned(), member(node, state)))
                .collect(),
        };
        let base = views.number(members(&[State::Active; 2]));
        let joining = views.number(members(&[State::Active, State::Active, State::Joining]));
        let node = |kept, copy| Node {
            alive: true,
            view: base,
            known: [base; NODES],
            copy,
            kept,
            sources: 0,
            acknowledged: 0,
            closed: 0,
        };
        let mut nodes = [node(true, 1), node(false, 0), node(false, 0)];
        (nodes[2].view, nodes[2].known[2]) = (joining, joining);
        let world = World {
            nodes,
            links: Default::default(),
            commands: [None; 2],
            truth: 1,
            writes: 0,
            reads: 0,
            evictions: 0,
            crashes: 0,
            pulls: 0,
            transitions: 0,
            severs: 0,
        };
        (Model { views, bounds, broken }, world)
    }

    fn standing(&self, world: &World, me: usize) -> Standing {
        let node = &world.nodes[me];
        let acknowledged = if self.broken == Broken::ServesBeforeTheAck { Members::MAX } else { node.acknowledged };
        standing(&Knowledge {
            me: me as Place,
            owner: self.views.owner(node.view).map(|owner| owner as Place),
            kept: node.kept,
            sources: node.sources,
            acknowledged,
            closed: node.closed,
        })
    }

    fn is_authority(&self, world: &World, me: usize) -> bool {
        world.nodes[me].alive
            && (self.standing(world, me).is_authority()
                || (self.broken == Broken::OldOwnerServesOn && world.nodes[me].kept))
    }

    /// `from` shows its view to `me`, which merges it. `acknowledges`: over the control link, or before a request.
    fn hear(&mut self, world: &mut World, me: usize, from: Option<usize>, view: ViewId) {
        if let Some(from) = from {
            world.nodes[me].known[from] = self.views.merge(world.nodes[me].known[from], view);
        }
        let old = world.nodes[me].view;
        let new = self.views.merge(old, view);
        if new != old {
            let was = self.is_authority(world, me);
            let node = &mut world.nodes[me];
            (node.view, node.known[me]) = (new, new);
            let is_owner = self.views.owner(new) == Some(me);
            let ceded = was && !is_owner;
            if !was && self.broken != Broken::KeepsLeftovers {
                node.copy = 0;
            }
            node.kept = was && (is_owner || (ceded && self.broken == Broken::OldOwnerServesOn));
            let known = node.known;
            let (before, mut rule) = self.views.before(new, known, me);
            if self.broken == Broken::OneAckUnderOverlap {
                rule = Rule::PreviousOwner;
            }
            let live = self.views.live(new);
            let previous = self.views.owner(before).map(|owner| owner as Place);
            let node = &mut world.nodes[me];
            node.sources = sources(rule, previous, me as Place, live);
            node.closed = 0;
            // The moves of the older view end.
            for link in &mut world.links[me] {
                *link = Link::default();
            }
            for command in world.commands.iter_mut().flatten() {
                if command.node == me && matches!(command.stage, Stage::Taking { .. } | Stage::Taken) {
                    command.stage = Stage::At;
                }
            }
        }
        let view = world.nodes[me].view;
        let known = world.nodes[me].known;
        world.nodes[me].acknowledged =
            (0..NODES).filter(|&node| self.views.covers(known[node], view)).map(|node| 1 << node).sum();
    }

    fn execute(&self, world: &mut World, number: usize) -> Result<(), Violation> {
        let command = world.commands[number].take().expect("it is under way");
        let copy = &mut world.nodes[command.node].copy;
        match command.kind {
            Kind::Get if *copy != 0 && *copy != world.truth => {
                return Err(format!("{} returned {copy}, the last write left {}", IDS[command.node], world.truth));
            }
            Kind::Get => {}
            Kind::Set(value) => (*copy, world.truth) = (value, value),
            Kind::Delete => (*copy, world.truth) = (0, 0),
        }
        Ok(())
    }

    /// All worlds that are one step away, or what is wrong with this one.
    fn steps(&mut self, world: &World) -> Result<Vec<(&'static str, World)>, Violation> {
        if (0..NODES).filter(|&node| self.is_authority(world, node)).count() > 1 {
            return Err("two authorities".to_owned());
        }
        let mut next = Vec::new();
        self.membership(world, &mut next);
        self.accidents(world, &mut next);
        self.clients(world, &mut next)?;
        self.moves(world, &mut next);
        Ok(next)
    }

    fn membership(&mut self, world: &World, next: &mut Vec<(&'static str, World)>) {
        for from in 0..NODES {
            for to in 0..NODES {
                let view = world.nodes[from].view;
                if from != to
                    && world.nodes[to].alive
                    && !(self.views.covers(world.nodes[to].known[from], view)
                        && self.views.covers(world.nodes[to].view, view))
                {
                    let mut world = world.clone();
                    self.hear(&mut world, to, Some(from), view);
                    next.push(("a view travels", world));
                }
            }
        }
        if world.transitions >= self.bounds.transitions {
            return;
        }
        let mut become_ = |model: &mut Model, by: usize, whom: usize, state: State, name| {
            let view = model.views.with(world.nodes[by].view, whom, state);
            if model.views.owner(view).is_some() {
                let mut world = world.clone();
                world.transitions += 1;
                model.hear(&mut world, by, None, view);
                next.push((name, world));
            }
        };
        for me in 0..NODES {
            let node = &world.nodes[me];
            if !node.alive {
                continue;
            }
            let everybody_knows = (0..NODES).all(|other| {
                other == me || !self.views.is_live(node.view, other) || self.views.covers(node.known[other], node.view)
            });
            match self.views.state(node.view, me) {
                None => become_(self, me, me, State::Joining, "a node joins"),
                Some(State::Joining) if everybody_knows => {
                    become_(self, me, me, State::Active, "a node becomes active")
                }
                Some(State::Active) => become_(self, me, me, State::Leaving, "a node leaves"),
                _ => {}
            }
            for other in 0..NODES {
                // One that leaves may live: it was silent.
                let dies = !world.nodes[other].alive
                    || self.views.state(node.view, other) == Some(State::Leaving)
                    || self.broken == Broken::DeclaresTheLivingDead;
                if other != me && dies && self.views.is_live(node.view, other) {
                    become_(self, me, other, State::Gone, "a node is declared dead");
                }
            }
        }
    }

    fn accidents(&mut self, world: &World, next: &mut Vec<(&'static str, World)>) {
        for me in 0..NODES {
            let node = &world.nodes[me];
            if world.crashes < self.bounds.crashes && node.alive && self.views.state(node.view, me).is_some() {
                let mut world = world.clone();
                world.crashes += 1;
                (world.nodes[me].alive, world.nodes[me].copy) = (false, 0);
                world.links[me] = Default::default();
                for command in &mut world.commands {
                    if command.is_some_and(|command| command.node == me) {
                        *command = None;
                    }
                }
                next.push(("a node crashes", world));
            }
            if world.evictions < self.bounds.evictions && node.copy != 0 {
                let mut world = world.clone();
                world.evictions += 1;
                world.nodes[me].copy = 0;
                next.push(("an item is evicted", world));
            }
        }
    }

    fn clients(&mut self, world: &World, next: &mut Vec<(&'static str, World)>) -> Result<(), Violation> {
        if let Some(free) = (0..self.bounds.commands).find(|&number| world.commands[number].is_none()) {
            for me in 0..NODES {
                let state = self.views.state(world.nodes[me].view, me);
                if !world.nodes[me].alive || state.is_none_or(|state| state == State::Joining) {
                    continue;
                }
                for kind in [Kind::Get, Kind::Set(world.writes + 2), Kind::Delete] {
                    let mut world = world.clone();
                    let (count, most) = match kind {
                        Kind::Get => (&mut world.reads, self.bounds.reads),
                        Kind::Set(_) | Kind::Delete => (&mut world.writes, self.bounds.writes),
                    };
                    if *count < most {
                        *count += 1;
                        world.commands[free] = Some(Command { kind, node: me, stage: Stage::At, forwarded: false });
                        next.push(("a client sends a command", world));
                    }
                }
            }
        }
        for number in 0..world.commands.len() {
            let Some(command) = world.commands[number] else { continue };
            let me = command.node;
            match command.stage {
                Stage::At => {
                    let mut lost = world.clone();
                    lost.commands[number] = None;
                    next.push(("a command is given up", lost));
                    self.carry_out(world, number, next)?;
                }
                Stage::Forwarded { to, view } => {
                    let mut lost = world.clone();
                    lost.commands[number] = None;
                    next.push(("a command is lost", lost));
                    if world.nodes[to].alive {
                        let mut world = world.clone();
                        world.commands[number] =
                            Some(Command { node: to, stage: Stage::At, forwarded: true, ..command });
                        self.hear(&mut world, to, Some(me), view);
                        next.push(("a forwarded command arrives", world));
                    }
                }
                Stage::Taking { .. } => {}
                Stage::Taken => {
                    let mut world = world.clone();
                    if self.is_authority(&world, me) {
                        self.execute(&mut world, number)?;
                    } else {
                        world.commands[number] = Some(Command { stage: Stage::At, ..command });
                    }
                    next.push(("a command is carried out after its take", world));
                }
            }
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        world: &World,
        number: usize,
        next: &mut Vec<(&'static str, World)>,
    ) -> Result<(), Violation> {
        let command = world.commands[number].expect("it is under way");
        let me = command.node;
        let skips_take = match command.kind {
            Kind::Get => false,
            Kind::Set(_) => self.broken == Broken::SetsWithoutTaking,
            Kind::Delete => self.broken == Broken::DeletesWithoutTaking,
        };
        let mut world = world.clone();
        match self.standing(&world, me) {
            _ if self.broken == Broken::OldOwnerServesOn && world.nodes[me].kept => {
                self.execute(&mut world, number)?;
                next.push(("the old owner carries out a command", world));
            }
            Standing::Take(open) if world.nodes[me].copy == 0 && !skips_take => {
                let asked: Vec<usize> = (0..NODES).filter(|&node| open >> node & 1 == 1).collect();
                if asked.iter().all(|&node| world.links[me][node].asked.len() < 2) {
                    for node in asked {
                        world.links[me][node].asked.push((Asker::Command(number), world.nodes[me].view));
                    }
                    world.commands[number] = Some(Command { stage: Stage::Taking { pending: open }, ..command });
                    next.push(("a command takes", world));
                }
            }
            Standing::Mine | Standing::Take(_) => {
                self.execute(&mut world, number)?;
                next.push(("a command is carried out", world));
            }
            Standing::Elsewhere(owner) if !command.forwarded => {
                let stage = Stage::Forwarded { to: owner.into(), view: world.nodes[me].view };
                world.commands[number] = Some(Command { stage, ..command });
                next.push(("a command is forwarded", world));
            }
            Standing::Elsewhere(_) | Standing::Between => {}
        }
        Ok(())
    }

    fn moves(&mut self, world: &World, next: &mut Vec<(&'static str, World)>) {
        for to in 0..NODES {
            for from in (0..NODES).filter(|&from| from != to) {
                let link = &world.links[to][from];
                if !link.asked.is_empty() && world.nodes[from].alive && link.replies.len() < 3 {
                    let mut world = world.clone();
                    let (asker, view) = world.links[to][from].asked.remove(0);
                    self.hear(&mut world, from, Some(to), view);
                    let may = self.may_give(&world, from, to);
                    let copy = &mut world.nodes[from].copy;
                    let item = if may { *copy } else { 0 };
                    if may && self.broken != Broken::CopiesInsteadOfMoves {
                        *copy = 0;
                    }
                    world.links[to][from].replies.push(Reply::Item(asker, item));
                    next.push(("a take is answered", world));
                }
                let replies = match link.replies.len() {
                    0 => 0..0,
                    len if self.broken == Broken::RepliesOutOfOrder => 0..len,
                    _ => 0..1,
                };
                for at in replies {
                    let mut world = world.clone();
                    match world.links[to][from].replies.remove(at) {
                        Reply::Done => world.nodes[to].closed |= 1 << from,
                        Reply::Item(asker, item) => {
                            if item != 0 && self.is_authority(&world, to) && world.nodes[to].copy == 0 {
                                world.nodes[to].copy = item;
                            }
                            if let Asker::Command(number) = asker {
                                answered(&mut world, number, to, from);
                            }
                        }
                    }
                    next.push(("a reply arrives", world));
                }
                self.pull(world, to, from, next);
            }
        }
    }

    /// Whether `from` hands `to` what it holds.
    fn may_give(&self, world: &World, from: usize, to: usize) -> bool {
        self.views.owner(world.nodes[from].view) == Some(to)
            && (!self.is_authority(world, from) || self.broken == Broken::OldOwnerServesOn)
    }

    fn pull(&mut self, world: &World, to: usize, from: usize, next: &mut Vec<(&'static str, World)>) {
        let link = &world.links[to][from];
        let open = matches!(self.standing(world, to), Standing::Take(open) if open >> from & 1 == 1);
        if !open || !world.nodes[to].alive {
            return;
        }
        if world.pulls < self.bounds.pulls && link.asked.len() < 2 {
            let mut world = world.clone();
            world.pulls += 1;
            let view = world.nodes[to].view;
            world.links[to][from].asked.push((Asker::Pull, view));
            next.push(("a node pulls", world));
        }
        if world.severs < self.bounds.severs {
            let mut world = world.clone();
            world.severs += 1;
            world.nodes[to].closed |= 1 << from;
            world.links[to][from] = Link::default();
            for number in 0..world.commands.len() {
                answered(&mut world, number, to, from);
            }
            next.push(("a node severs another", world));
        }
        let settled = world.nodes[from].view == world.nodes[to].view && self.may_give(world, from, to);
        if world.nodes[from].alive
            && settled
            && link.asked.is_empty()
            && link.replies.len() < 3
            && !link.replies.contains(&Reply::Done)
        {
            let mut world = world.clone();
            world.nodes[from].copy = 0;
            world.links[to][from].replies.push(Reply::Done);
            next.push(("a node is done", world));
        }
    }
}

/// The command waits no longer for this member.
fn answered(world: &mut World, number: usize, to: usize, from: usize) {
    if let Some(Command { node, stage: Stage::Taking { pending }, kind, forwarded }) = world.commands[number]
        && node == to
    {
        let pending = pending & !(1 << from);
        let stage = if pending == 0 { Stage::Taken } else { Stage::Taking { pending } };
        world.commands[number] = Some(Command { kind, node, stage, forwarded });
    }
}

/// Looks at the worlds that can be reached, the nearest first, until there are `most`; how many it saw and whether that was all,
/// or the first violation.
fn search(bounds: Bounds, broken: Broken, most: usize) -> Result<(usize, bool), Violation> {
    let (mut model, start) = Model::new(bounds, broken);
    // Of a world its hash is kept: of some million worlds two are alike with a chance of one in a million.
    let fingerprint = |world: &World| {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        hasher.finish()
    };
    let mut seen = HashSet::from([fingerprint(&start)]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        for (_, next) in model.steps(&world)? {
            if seen.insert(fingerprint(&next)) {
                queue.push_back(next);
            }
        }
        if seen.len() > most {
            return Ok((seen.len(), false));
        }
    }
    Ok((seen.len(), true))
}

/// Goes at random through worlds that are too many to look at all of them.
fn walk(bounds: Bounds, broken: Broken, walks: u64) -> Result<(), Violation> {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    let (mut model, start) = Model::new(bounds, broken);
    for seed in 0..walks {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = start.clone();
        let mut way = Vec::new();
        for _ in 0..120 {
            let mut steps = match model.steps(&world) {
                Ok(steps) => steps,
                Err(violation) => return Err(format!("{violation} after {way:?}")),
            };
            if steps.is_empty() {
                break;
            }
            // What ends things is less likely, so that walks come far.
            let ends = [
                "a command is given up",
                "a command is lost",
                "a node crashes",
                "a node severs another",
                "a node is done",
                "an item is evicted",
                "a node joins",
                "a node becomes active",
                "a node leaves",
            ];
            let mut chosen = random.random_range(0..steps.len());
            for _ in 0..6 {
                if !ends.contains(&steps[chosen].0) {
                    break;
                }
                chosen = random.random_range(0..steps.len());
            }
            let (name, next) = steps.swap_remove(chosen);
            way.push(name);
            world = next;
        }
    }
    Ok(())
}

const ONE_AT_A_TIME: Bounds =
    Bounds { commands: 1, writes: 1, reads: 1, evictions: 0, crashes: 0, pulls: 0, transitions: 1, severs: 0 };

const FAR: Bounds =
    Bounds { commands: 2, writes: 8, reads: 20, evictions: 3, crashes: 0, pulls: 3, transitions: 4, severs: 2 };

/// Breadth first, as far as a debug build comes in some seconds; the ignored test below goes to the end.
const NEAR: usize = 25_000;

#[test]
fn a_join_or_a_leave_never_serves_an_old_value() {
    search(Bounds { pulls: 1, severs: 1, ..ONE_AT_A_TIME }, Broken::Nothing, NEAR).unwrap();
}

#[test]
fn a_death_never_serves_an_old_value() {
    search(Bounds { crashes: 1, ..ONE_AT_A_TIME }, Broken::Nothing, NEAR).unwrap();
}

#[test]
fn long_histories_of_many_changes_never_serve_an_old_value() {
    walk(FAR, Broken::Nothing, 100).unwrap();
    walk(Bounds { crashes: 1, ..FAR }, Broken::Nothing, 100).unwrap();
}

#[test]
fn a_broken_protocol_is_found() {
    for broken in [
        Broken::CopiesInsteadOfMoves,
        Broken::SetsWithoutTaking,
        Broken::DeletesWithoutTaking,
        Broken::RepliesOutOfOrder,
        Broken::ServesBeforeTheAck,
        Broken::OldOwnerServesOn,
        Broken::KeepsLeftovers,
        Broken::OneAckUnderOverlap,
        Broken::DeclaresTheLivingDead,
    ] {
        let found =
            walk(FAR, broken, 20_000).err().or_else(|| walk(Bounds { crashes: 1, ..FAR }, broken, 20_000).err());
        println!("{broken:?}: {found:?}");
        assert!(found.is_some(), "{broken:?} was not found");
    }
}

/// The large bounds, for a release build: minutes.
#[test]
#[ignore = "takes minutes: cargo test --release -p larder-node --lib cluster::model -- --ignored --nocapture"]
fn larger_bounds_never_serve_an_old_value() {
    for bounds in [
        Bounds { commands: 2, ..ONE_AT_A_TIME },
        Bounds { writes: 2, reads: 2, evictions: 1, pulls: 1, severs: 1, ..ONE_AT_A_TIME },
        Bounds { crashes: 1, transitions: 2, ..ONE_AT_A_TIME },
    ] {
        let (worlds, all) = search(bounds, Broken::Nothing, 60_000_000).unwrap();
        println!("{bounds:?}: {worlds} worlds, {}", if all { "which are all" } else { "and there are more" });
    }
    walk(FAR, Broken::Nothing, 400_000).unwrap();
}
