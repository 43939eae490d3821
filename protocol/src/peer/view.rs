//! Who is in a cluster: a view, and how two views become one.

use std::collections::BTreeMap;

/// What a member is doing. Later states come later in the order: a member never goes back, but for a higher generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// It is known and owns no key yet.
    Joining = 1,
    /// It owns keys.
    Active = 2,
    /// It owns no key any more, and hands on those that it holds.
    Leaving = 3,
    /// It left, or somebody knows that it is dead.
    Gone = 4,
}

impl State {
    pub(super) fn of(byte: u8) -> Option<State> {
        [State::Joining, State::Active, State::Leaving, State::Gone].into_iter().find(|&state| state as u8 == byte)
    }

    /// The name that operators see.
    pub fn name(self) -> &'static str {
        match self {
            State::Joining => "joining",
            State::Active => "active",
            State::Leaving => "leaving",
            State::Gone => "gone",
        }
    }
}

/// A member of a cluster. The derived order is that of [`View::merge`]: generation first, then state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Counts the times that this id joined, from 1. A higher generation replaces a lower one, whatever its state.
    pub generation: u32,
    /// What it is doing.
    pub state: State,
    /// Its part of the CAS uniques, below [`MEMBERS_MAX`].
    pub slot: u8,
    /// The address that clients use: the host without brackets, and the port.
    pub host: String,
    /// TCP port for clients.
    pub port: u16,
    /// The name of the host in lists for clients; mostly the host itself.
    pub name: String,
    /// Where other members reach it, `host:port`.
    pub peer: String,
}

/// When and by whom a cluster was founded. Of two clusters that meet, the one with the lower founding stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Founding {
    /// Seconds since 2020 began.
    pub second: u32,
    /// Random, so that two foundings in one second differ.
    pub token: u32,
}

impl Founding {
    /// Of a view without a cluster: any other is lower.
    pub const NONE: Founding = Founding { second: u32::MAX, token: u32::MAX };
}

/// Members that are not gone: at most so many.
pub const MEMBERS_MAX: usize = 64;

/// What one node knows of a cluster. [`View::merge`] makes views a join-semilattice, so that the order in which they
/// arrive, and how often, does not matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    /// Of the cluster.
    pub founding: Founding,
    /// Where the numbers of lists begin: the second of the latest founding that took part.
    pub base: u32,
    /// The members by id, those that are gone included.
    pub members: BTreeMap<String, Member>,
}

impl Default for View {
    fn default() -> Self {
        View { founding: Founding::NONE, base: 0, members: BTreeMap::new() }
    }
}

impl View {
    /// The cluster of one active member.
    pub fn found(founding: Founding, id: &str, member: Member) -> View {
        View { founding, base: founding.second, members: BTreeMap::from([(id.to_owned(), member)]) }
    }

    /// Whether there is a cluster.
    pub fn is_founded(&self) -> bool {
        self.founding != Founding::NONE
    }

    /// The least view that [covers](View::covers) both. Members of a cluster that was founded later are dropped whole.
    pub fn merge(&self, other: &View) -> View {
        let (first, second) = if self.founding <= other.founding { (self, other) } else { (other, self) };
        let mut merged = View { base: self.base.max(other.base), ..first.clone() };
        if first.founding == second.founding {
            for (id, member) in &second.members {
                match merged.members.get_mut(id) {
                    Some(known) if *known < *member => *known = member.clone(),
                    Some(_) => {}
                    None => drop(merged.members.insert(id.clone(), member.clone())),
                }
            }
        }
        merged
    }

    /// Whether merging `other` would change nothing.
    pub fn covers(&self, other: &View) -> bool {
        let known = |(id, member)| self.members.get(id).is_some_and(|known| known >= member);
        self.base >= other.base
            && (self.founding < other.founding || self.founding == other.founding && other.members.iter().all(known))
    }

    /// A member's state; `None` where it was never heard of.
    pub fn state(&self, id: &str) -> Option<State> {
        self.members.get(id).map(|member| member.state)
    }

    /// The members in this state, in the order of their ids.
    pub fn in_state(&self, state: State) -> impl Iterator<Item = (&str, &Member)> {
        self.live().filter(move |(_, member)| member.state == state)
    }

    /// The members that are not gone, in the order of their ids.
    pub fn live(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members.iter().filter(|(_, member)| member.state != State::Gone).map(|(id, member)| (&**id, member))
    }

    /// The number of the list of active members: equal views have equal ones, and any change of a member makes it
    /// greater. It fits a signed 32-bit number, as some clients need.
    pub fn version(&self) -> u32 {
        let steps = self
            .members
            .values()
            .map(|member| u64::from(member.generation.saturating_sub(1)) * State::Gone as u64 + member.state as u64);
        let version = u64::from(self.base).saturating_add(steps.fold(0, u64::saturating_add));
        version.min(i32::MAX as u64) as u32
    }
}
