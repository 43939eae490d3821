//! Who may serve a key while a cluster changes: the rules, as pure functions of views and acknowledgements.
//!
//! They are what the [model](super::model) searches to the end, so they know no ring and no key: of a key they are given
//! its owner under the view, and its owner under the view before.

use larder_protocol::peer::{State, View};

/// Members by their place among the live members of a view, in the order of their ids: a bit for each.
pub(crate) type Members = u64;

/// Where a member stands among the live members of a view.
pub(crate) type Place = u8;

/// Whose acknowledgement a new owner needs before it serves, and from whom it takes what it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// One member took one step: the previous owner's.
    PreviousOwner,
    /// Somebody died, or several changes overlap: those of all live members. A previous owner's alone is not enough, since
    /// another one may have owned the key in a view between.
    Everybody,
}

/// The greatest view that the node itself and all live members are known to have come to. `known` gives what a member last
/// acknowledged; the node's own view is `view`.
pub(crate) fn common<'a>(view: &View, known: impl Iterator<Item = Option<&'a View>>) -> View {
    let mut common = view.clone();
    for known in known {
        match known {
            Some(known) if known.founding == view.founding => common.members.retain(|id, member| {
                let Some(older) = known.members.get(id) else { return false };
                if older < member {
                    *member = older.clone();
                }
                true
            }),
            _ => common.members.clear(),
        }
    }
    common
}

/// The rule for the change from `before`, which all live members are known to have come to, to `view`.
pub(crate) fn rule(before: &View, view: &View) -> Rule {
    let mut changed = view.members.iter().filter(|(id, member)| before.members.get(*id) != Some(member));
    let (Some((id, now)), None) = (changed.next(), changed.next()) else { return Rule::Everybody };
    let was = before.members.get(id);
    let one_step = match now.state {
        State::Joining => was.is_none(),
        State::Active => was.is_some_and(|was| was.state == State::Joining),
        State::Leaving => was.is_some_and(|was| was.state == State::Active),
        State::Gone => false,
    };
    let same = was.is_none_or(|was| was.generation == now.generation);
    if one_step && same { Rule::PreviousOwner } else { Rule::Everybody }
}

/// Whether a node may declare silent members dead. `heard`: which live members it hears, itself among them, in the order
/// of their ids. It is the first of those, and they are most of all; of two halves, the one with the first member of
/// all. So where a network falls apart, one side at most does so.
pub(crate) fn may_eject(heard: &[bool], me: Place) -> bool {
    let count = heard.iter().filter(|&&heard| heard).count();
    let first = heard.iter().position(|&heard| heard);
    first == Some(me.into()) && (2 * count > heard.len() || 2 * count == heard.len() && heard[0])
}

/// What a node knows about one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knowledge {
    /// The node itself.
    pub(crate) me: Place,
    /// The key's owner under the view.
    pub(crate) owner: Option<Place>,
    /// The node was the key's authority under the view before, and nobody else has been since.
    pub(crate) kept: bool,
    /// The members whose acknowledgements are needed, and that may hold the item: see [`sources`].
    pub(crate) sources: Members,
    /// The members that acknowledged the view.
    pub(crate) acknowledged: Members,
    /// The sources that hold nothing of the node's any more, or are never asked again.
    pub(crate) closed: Members,
}

/// The members that may hold an item whose owner was `before`, as far as they are live.
pub(crate) fn sources(rule: Rule, before: Option<Place>, me: Place, live: Members) -> Members {
    let may_hold = match (rule, before) {
        (Rule::PreviousOwner, Some(owner)) => 1 << owner,
        (Rule::PreviousOwner, None) => 0,
        (Rule::Everybody, _) => live,
    };
    may_hold & live & !(1 << me)
}

/// Where a command on a key may be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Here and now.
    Mine,
    /// Here, once an absent item was asked for at these members.
    Take(Members),
    /// At this member.
    Elsewhere(Place),
    /// Nowhere yet: acknowledgements are missing.
    Between,
}

/// Where a command on the key may be carried out.
pub(crate) fn standing(key: &Knowledge) -> Standing {
    match key.owner {
        None => Standing::Between,
        Some(owner) if owner != key.me => Standing::Elsewhere(owner),
        Some(_) if key.kept => Standing::Mine,
        Some(_) if key.sources & !key.acknowledged != 0 => Standing::Between,
        Some(_) => match key.sources & !key.closed {
            0 => Standing::Mine,
            open => Standing::Take(open),
        },
    }
}

impl Standing {
    /// Whether the node is the key's authority: nobody else may carry out a command on it.
    pub(crate) fn is_authority(self) -> bool {
        matches!(self, Standing::Mine | Standing::Take(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_sides_that_hear_each_other_one_at_most_ejects_the_rest_and_one_of_its_nodes_does() {
        for nodes in 1..=7u32 {
            // Each member is on one of two sides.
            for sides in 0..1u32 << nodes {
                let ejecting = (0..nodes).filter(|me| {
                    let heard: Vec<bool> = (0..nodes).map(|other| sides >> other & 1 == sides >> me & 1).collect();
                    may_eject(&heard, *me as Place)
                });
                assert_eq!(ejecting.count(), 1, "{nodes} nodes, {sides:b}");
            }
        }
        // Where three sides do not hear each other, none is most.
        assert!(!may_eject(&[true, false, false], 0));
    }
}
