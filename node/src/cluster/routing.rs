//! Where keys are at home: the rules of [`ownership`](super::ownership) over real rings.

use std::sync::Arc;

use larder_protocol::peer::{LOCAL_KEYS, State, View};
use larder_protocol::ring::{Hashing, Ring, Server};

use super::ownership::{self, Knowledge, Members, Place, Rule, Standing};
use super::peers::Peer;

/// The members that own keys under a view, and the ring over them.
pub(crate) struct Owners {
    ring: Ring,
    ids: Vec<String>,
}

impl Owners {
    fn of(view: &View, hashing: Hashing) -> Option<Owners> {
        let (ids, servers): (Vec<String>, Vec<Server>) = view
            .in_state(State::Active)
            .map(|(id, member)| {
                (id.to_owned(), Server { host: member.name.clone(), port: member.port, weight: 1, name: None })
            })
            .unzip();
        (!ids.is_empty()).then(|| Owners { ring: Ring::new(&servers, hashing), ids })
    }

    fn is(&self, id: &str, key: &[u8]) -> bool {
        self.ids[self.ring.owner(key)] == id
    }
}

/// How a node stands to all keys under one view. It does not change; another one takes its place.
pub(crate) struct Routing {
    /// Another number for every other one of a node.
    pub(crate) epoch: u64,
    pub(crate) view: Arc<View>,
    /// The live members, in the order of their ids.
    pub(crate) members: Vec<Arc<Peer>>,
    me: Option<Place>,
    owners: Option<Arc<Owners>>,
    /// Of the owners, among the members.
    places: Vec<Place>,
    /// What is open of the change to this view. Where there is nothing, every item that is here is the node's own.
    pub(crate) moving: Option<Moving>,
}

/// A change that is open.
#[derive(Clone)]
pub(crate) struct Moving {
    rule: Rule,
    before: Option<Arc<Owners>>,
    /// Of the owners before, among the members.
    before_places: Vec<Option<Place>>,
    kept: Kept,
    /// Every member that may hold an item of the node's.
    pub(crate) sources: Members,
    pub(crate) acknowledged: Members,
    pub(crate) closed: Members,
    /// Nothing is left of what the node owned before and does not now.
    pub(crate) swept: bool,
}

impl Moving {
    /// The members that are asked for the node's items.
    pub(crate) fn open(&self) -> Members {
        let acknowledged = self.sources & self.acknowledged;
        match self.rule {
            Rule::PreviousOwner => acknowledged & !self.closed,
            Rule::Everybody if acknowledged == self.sources => acknowledged & !self.closed,
            Rule::Everybody => 0,
        }
    }

    /// As this one, with these asked for nothing any more.
    pub(crate) fn closing(&self, members: Members) -> Moving {
        Moving { closed: self.closed | members, ..self.clone() }
    }

    /// The members whose acknowledgements are missing, and those that are asked for items.
    pub(crate) fn waits_for(&self) -> (Members, Members) {
        (self.sources & !self.acknowledged, self.open())
    }

    /// Whether the node waits for no item of another.
    pub(crate) fn is_complete(&self) -> bool {
        self.sources & !(self.acknowledged & self.closed) == 0
    }
}

/// The keys whose authority the node was before.
#[derive(Clone)]
enum Kept {
    Nothing,
    /// Those that it owned.
    Owned(Arc<Owners>),
    /// Those that it had come to be the authority of.
    Under(Arc<Routing>),
}

/// Changes that overlap, each before the node is the authority of all it owns: with more of them it lets go of everything.
const OVERLAPS_MAX: u32 = 8;

impl Routing {
    /// Of a node that is in no cluster yet.
    pub(crate) fn outside(view: Arc<View>) -> Routing {
        Routing { epoch: 0, view, members: Vec::new(), me: None, owners: None, places: Vec::new(), moving: None }
    }

    /// After a change to `view`, of which all live members are known to have come to `before`. `me` is the node's id. The
    /// second result: the node must let go of all items.
    pub(crate) fn after(
        old: &Arc<Routing>,
        view: Arc<View>,
        before: &View,
        members: Vec<Arc<Peer>>,
        me: &str,
        hashing: Hashing,
    ) -> (Routing, bool) {
        let place = |id: &str| members.iter().position(|peer| peer.id == id).map(|place| place as Place);
        let same_owners = |view: &View| {
            let active = |view: &View| -> Vec<(String, String, u16)> {
                let nodes = view.in_state(State::Active);
                nodes.map(|(id, member)| (id.to_owned(), member.name.clone(), member.port)).collect()
            };
            active(view) == active(&old.view)
        };
        let owners = match &old.owners {
            Some(owners) if same_owners(&view) => Some(owners.clone()),
            _ => Owners::of(&view, hashing).map(Arc::new),
        };
        let my_place = place(me);
        let was_owner = old.owners.as_ref().is_some_and(|owners| owners.ids.iter().any(|id| id == me));
        let nothing_changes = old.moving.is_none() && old.view.founding == view.founding && same_owners(&view);
        let too_many = old.overlaps() >= OVERLAPS_MAX;
        let moving = (!nothing_changes).then(|| {
            let kept = match &old.owners {
                _ if too_many || old.view.founding != view.founding => Kept::Nothing,
                Some(owners) if was_owner && old.moving.as_ref().is_none_or(Moving::is_complete) => {
                    Kept::Owned(owners.clone())
                }
                Some(_) if was_owner => Kept::Under(old.clone()),
                _ => Kept::Nothing,
            };
            let rule = ownership::rule(before, &view);
            let before = Owners::of(before, hashing).map(Arc::new);
            let before_places: Vec<_> = before.iter().flat_map(|before| &before.ids).map(|id| place(id)).collect();
            let live = live(members.len());
            let is_owner = owners.as_ref().is_some_and(|owners| owners.ids.iter().any(|id| id == me));
            let sources = match my_place {
                Some(me) if is_owner => {
                    let each = |&before: &Option<Place>| ownership::sources(rule, before, me, live);
                    match rule {
                        Rule::Everybody => ownership::sources(rule, None, me, live),
                        Rule::PreviousOwner => before_places.iter().map(each).fold(0, |all, one| all | one),
                    }
                }
                _ => 0,
            };
            Moving { rule, before, before_places, kept, sources, acknowledged: 0, closed: 0, swept: !was_owner }
        });
        let places = owners.iter().flat_map(|owners| &owners.ids).filter_map(|id| place(id)).collect();
        (Routing { epoch: old.epoch + 1, view, members, me: my_place, owners, places, moving }, too_many)
    }

    /// As this one, with the change further on; without it once it is over.
    pub(crate) fn with(&self, moving: Moving) -> Routing {
        let over = moving.is_complete() && moving.swept;
        Routing {
            epoch: self.epoch + 1,
            view: self.view.clone(),
            members: self.members.clone(),
            me: self.me,
            owners: self.owners.clone(),
            places: self.places.clone(),
            moving: (!over).then_some(moving),
        }
    }

    fn overlaps(&self) -> u32 {
        match &self.moving {
            Some(Moving { kept: Kept::Under(before), .. }) => 1 + before.overlaps(),
            _ => 0,
        }
    }

    /// Where a command on `key` may be carried out.
    pub(crate) fn standing(&self, key: &[u8]) -> Standing {
        if key.starts_with(LOCAL_KEYS.as_bytes()) {
            return Standing::Mine;
        }
        let Some(owners) = &self.owners else { return Standing::Between };
        let owner = self.places[owners.ring.owner(key)];
        let Some(me) = self.me.filter(|&me| me == owner) else { return Standing::Elsewhere(owner) };
        let Some(moving) = &self.moving else { return Standing::Mine };
        let kept = match &moving.kept {
            Kept::Nothing => false,
            Kept::Owned(owners) => owners.is(&self.members[me as usize].id, key),
            Kept::Under(routing) => routing.standing(key).is_authority(),
        };
        let previous = match (moving.rule, &moving.before) {
            (Rule::PreviousOwner, Some(before)) if !kept => moving.before_places[before.ring.owner(key)],
            _ => None,
        };
        ownership::standing(&Knowledge {
            me,
            owner: Some(owner),
            kept,
            sources: ownership::sources(moving.rule, previous, me, live(self.members.len())),
            acknowledged: moving.acknowledged,
            closed: moving.closed,
        })
    }

    /// The member that owns `key`.
    pub(crate) fn owner(&self, key: &[u8]) -> Option<Place> {
        self.owners.as_ref().map(|owners| self.places[owners.ring.owner(key)])
    }

    /// Where a member stands in this view.
    pub(crate) fn place(&self, id: &str) -> Option<Place> {
        self.members.iter().position(|peer| peer.id == id).map(|place| place as Place)
    }

    /// The member at a place.
    pub(crate) fn member(&self, place: Place) -> &Arc<Peer> {
        &self.members[place as usize]
    }
}

fn live(members: usize) -> Members {
    if members >= 64 { Members::MAX } else { (1 << members) - 1 }
}

impl std::fmt::Debug for Routing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routing").field("epoch", &self.epoch).field("view", &self.view).finish_non_exhaustive()
    }
}
