//! The chains that choose a backend: one for each number of slots that there is, whichever services
//! have so many, and for each time for which clients stay with theirs. What they look up is elements.
//! Pure.
//!
//! A change may come between two looks: the slot that was drawn may be gone, and the first slot, which
//! every list has, serves then.

use super::Family;
use super::chains::Rule;
use super::expressions::{
    FIRST, Side, address, destination_port, drop_packet, find, forget, protocol, put, random,
    remember, translate,
};
use super::rows::Draw;
use super::sets::Set;
use crate::model::Reach;

/// The name of the chain of a draw.
pub(super) fn draw_chain(draw: Draw) -> String {
    match draw {
        Draw::Any { outside: false, slots } => format!("draw-{slots}"),
        Draw::Any { outside: true, slots } => format!("draw-outside-{slots}"),
        Draw::Stay { reach: Reach::Cluster, seconds, slots } => format!("stay-{seconds}-{slots}"),
        Draw::Stay { reach: Reach::Node, seconds, slots } => format!("stay-here-{seconds}-{slots}"),
    }
}

/// The draw that a chain is for, if it is for one.
pub(super) fn draw_of(chain: &str) -> Option<Draw> {
    if let Some(rest) = chain.strip_prefix("draw-") {
        let (outside, slots) = match rest.strip_prefix("outside-") {
            Some(slots) => (true, slots),
            None => (false, rest),
        };
        return Some(Draw::Any { outside, slots: slots.parse().ok()? });
    }
    let rest = chain.strip_prefix("stay-")?;
    let (reach, rest) = match rest.strip_prefix("here-") {
        Some(rest) => (Reach::Node, rest),
        None => (Reach::Cluster, rest),
    };
    let (seconds, slots) = rest.split_once('-')?;
    Some(Draw::Stay { reach, seconds: seconds.parse().ok()?, slots: slots.parse().ok()? })
}

/// The number of a list in keys of [`Set::Stays`], and who is in it.
pub(super) const fn list_of(reach: Reach) -> (u32, Set) {
    match reach {
        Reach::Cluster => (0, Set::Members),
        Reach::Node => (1, Set::MembersHere),
    }
}

/// The rules of a draw's chain.
pub(super) fn rules(family: Family, draw: Draw) -> Vec<Rule> {
    let looks = Looks { family, words: family.address_len() / 4 };
    match draw {
        Draw::Any { outside, slots } => looks.any(outside, slots),
        Draw::Stay { reach, seconds, slots } => looks.stay(reach, seconds, slots),
    }
}

/// Loads the key of the frontend that a packet comes for.
pub(super) fn frontend(family: Family) -> Rule {
    frontend_at(family, FIRST)
}

fn frontend_at(family: Family, at: u32) -> Rule {
    let words = family.address_len() / 4;
    vec![
        address(family, Side::Destination, at),
        protocol(at + words),
        destination_port(at + words + 1),
    ]
}

#[derive(Clone, Copy)]
struct Looks {
    family: Family,
    /// Registers that an address takes.
    words: u32,
}

impl Looks {
    fn any(self, outside: bool, slots: u32) -> Vec<Rule> {
        let set = if outside { Set::BackendsOutside } else { Set::Backends };
        let slot = FIRST + self.words + 2;
        let rule = |slots| {
            let translated = translate(self.family, FIRST, FIRST + self.words);
            let target = vec![random(slots, slot), find(set, FIRST, FIRST), translated];
            [frontend(self.family), target].concat()
        };
        vec![rule(slots), rule(1), vec![drop_packet()]]
    }

    /// First it is asked whether the client has a backend that is still among them, then one is drawn
    /// and remembered. Service and client lead to a backend, which leads to address and port.
    fn stay(self, reach: Reach, seconds: u32, slots: u32) -> Vec<Rule> {
        let (list, members) = list_of(reach);
        // What is found has 3 registers, the first of which is padding.
        let (service_at, client) = (FIRST + 1, FIRST + 3);
        let member = client + self.words;
        let target = member + 3;
        let service =
            || [frontend_at(self.family, client), found(Set::Groups, client, FIRST)].concat();
        let known = || {
            let client = vec![address(self.family, Side::Source, client)];
            [client, found(Set::Affinity, service_at, member)].concat()
        };
        let remembered = || remember(Set::Affinity, service_at, member, seconds);
        let serves = || vec![find(members, member + 1, target)];
        let translated = || vec![translate(self.family, target, target + self.words)];
        let drawn = |slots| {
            let slot = vec![put(&list.to_ne_bytes(), client), random(slots, client + 1)];
            [service(), slot, found(Set::Stays, service_at, member)].concat()
        };
        // Of two connections of a client at the same time, the first decides for both.
        let noted = |slots| {
            let noted = vec![address(self.family, Side::Source, client), remembered()];
            [drawn(slots), noted, known(), serves(), translated()].concat()
        };
        // Where nothing more can be remembered, a connection still gets one that is drawn.
        let only = |slots| [drawn(slots), serves(), translated()].concat();
        vec![
            [service(), known(), serves(), vec![remembered()], translated()].concat(),
            [service(), known(), vec![forget(Set::Affinity, service_at, member)]].concat(),
            noted(slots),
            noted(1),
            only(slots),
            only(1),
            vec![drop_packet()],
        ]
    }
}

/// What a key leads to, into three registers: padding, and what may be part of a key itself. `nft` (1.0.6)
/// aborts where a key has what was looked up, but of that it knows the first register only. So the first is
/// not used, and it shows zeros where the others are.
fn found(map: Set, from: u32, to: u32) -> Rule {
    let zero = |at| put(&[0; 4], at);
    vec![zero(to + 1), zero(to + 2), find(map, from, to), zero(to)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let reaches = [Reach::Cluster, Reach::Node];
        let any = [true, false].map(|outside| Draw::Any { outside, slots: 7 });
        let stay = reaches.map(|reach| Draw::Stay { reach, seconds: 60, slots: 3 });
        for draw in any.into_iter().chain(stay) {
            assert_eq!(draw_of(&draw_chain(draw)), Some(draw));
        }
        for other in ["draw-", "draw-x", "stay-3", "stay-0123456789abcdef-cluster", "refuse"] {
            assert_eq!(draw_of(other), None, "{other}");
        }
    }

    #[test]
    fn rules_do_not_grow_with_slots() {
        for family in Family::ALL {
            let stay = |slots| Draw::Stay { reach: Reach::Cluster, seconds: 60, slots };
            let count = |draw| rules(family, draw).iter().map(Vec::len).sum::<usize>();
            assert_eq!(count(stay(2)), count(stay(100_000)));
        }
    }
}
