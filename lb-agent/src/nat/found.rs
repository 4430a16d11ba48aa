//! A table as the kernel has it, as far as it can be compared with what it should be. No I/O.

use super::chains::{Chains, Hook};
use super::draws::draw_of;
use super::rows::{Draw, Key, Value};
use super::sets::{Data, Set, length};
use super::{Family, TABLE, messages};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, Hook as HookAttribute, HookNumber, SetAttribute, TableAttribute, TableFlags,
};
use std::collections::{BTreeMap, HashMap};

/// The policy of a chain that drops.
const DROP: u32 = 0;

/// A table as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether it is there.
    pub exists: bool,
    /// Whether something is about it that no change of ours makes good: it sleeps, or what has no key in a
    /// map of ours leads somewhere.
    pub(super) spoilt: bool,
    /// Lengths of keys and data, and flags, of each set. Verdicts have no length.
    pub(super) sets: BTreeMap<String, (u32, u32, u32)>,
    pub(super) chains: BTreeMap<String, FoundChain>,
    /// The elements, but for those that packets write.
    pub elements: HashMap<Key, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FoundChain {
    hook: Option<(String, u32, i32)>,
    /// Whether what no rule decides about is dropped.
    drops: bool,
    /// What each rule is known by.
    pub(super) comments: Vec<Vec<u8>>,
}

// === impl Found ===

impl Found {
    /// The ways to slots that it has.
    pub fn draws(&self) -> impl Iterator<Item = Draw> {
        self.chains.keys().filter_map(|name| draw_of(name))
    }

    /// Whether the table is awake, has the sets that it needs and no others, and no chain that packets come
    /// into in another way than they should, or that drops what no rule decides about.
    pub(super) fn fits(&self, family: Family, chains: &Chains) -> bool {
        let wanted = Set::ALL.into_iter().map(|set| {
            let data = match set.data() {
                Data::Fields(fields) => length(fields, family),
                Data::None | Data::Verdict => 0,
            };
            let flags = messages::flags(set).bits();
            (set.name().to_owned(), (set.key_len(family), data, flags))
        });
        let hook = |name: &String, chain: &FoundChain| match (&chain.hook, chains.get(name)) {
            _ if chain.drops => false,
            (None, None) => true,
            (Some(_), None) => false,
            (found, Some(wanted)) => {
                let wanted = wanted
                    .hook
                    .map(|Hook { kind, number, priority }| (kind.to_owned(), number, priority));
                *found == wanted
            }
        };
        self.exists
            && !self.spoilt
            && self.sets == wanted.collect()
            && self.chains.iter().all(|(name, chain)| hook(name, chain))
    }

    /// Whether packets that go through it are translated by somebody's rules, whichever build's they are.
    pub(super) fn serves(&self) -> bool {
        self.exists
            && !self.spoilt
            && self.chains.values().any(|chain| chain.hook.is_some())
            && !self.chains.values().any(|chain| chain.drops)
    }

    pub(super) fn take_table(&mut self, attributes: &[TableAttribute]) {
        if attributes.contains(&TableAttribute::Name(TABLE.into())) {
            self.exists = true;
            self.spoilt |= attributes.iter().any(|attribute| {
                matches!(attribute, TableAttribute::Flags(flags) if flags.contains(TableFlags::Dormant))
            });
        }
    }

    /// Takes elements, the keys of which are missing where one stands for all others.
    pub(super) fn take_elements(&mut self, elements: Vec<(Option<Key>, Value)>) {
        for (key, value) in elements {
            match key {
                Some(key) => drop(self.elements.insert(key, value)),
                None => self.spoilt = true,
            }
        }
    }

    pub(super) fn take_set(&mut self, attributes: &[SetAttribute]) {
        let (mut name, mut key, mut data, mut flags) = (None, 0, 0, 0);
        let verdict = attributes.contains(&SetAttribute::DataType(messages::VERDICT));
        for attribute in attributes {
            match attribute {
                SetAttribute::Name(text) => name = Some(text.clone()),
                SetAttribute::KeyLen(length) => key = *length,
                SetAttribute::DataLen(length) if !verdict => data = *length,
                SetAttribute::Flags(bits) => flags = bits.bits(),
                _ => {}
            }
        }
        self.sets.extend(name.map(|name| (name, (key, data, flags))));
    }

    pub(super) fn take_chain(&mut self, attributes: &[ChainAttribute]) {
        let (mut table, mut name, mut kind, mut place) = (None, None, None, None);
        let drops = attributes.contains(&ChainAttribute::Policy(DROP));
        for attribute in attributes {
            match attribute {
                ChainAttribute::Table(text) => table = Some(text),
                ChainAttribute::Name(text) => name = Some(text),
                ChainAttribute::Type(text) => kind = Some(text),
                ChainAttribute::Hook(parts) => place = Some(parts),
                _ => {}
            }
        }
        let hook = place.map(|parts| {
            let (mut number, mut priority) = (u32::MAX, 0);
            for part in parts {
                match part {
                    HookAttribute::Number(HookNumber::Inet(hook)) => number = u32::from(*hook),
                    HookAttribute::Priority(value) => priority = value.cast_signed(),
                    _ => {}
                }
            }
            (kind.cloned().unwrap_or_default(), number, priority)
        });
        if let Some(name) = name.filter(|_| table.is_some_and(|table| table == TABLE)) {
            let chain = self.chains.entry(name.clone()).or_default();
            (chain.hook, chain.drops) = (hook, drops);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_another_layout_serves_unless_it_sleeps_or_has_no_rules() {
        let hook = |hook| FoundChain { hook, ..FoundChain::default() };
        let nat = || hook(Some(("nat".to_owned(), 0, -100)));
        let drops = || FoundChain { drops: true, ..nat() };
        for (exists, spoilt, chains, serves) in [
            (true, false, vec![nat(), hook(None)], true),
            (true, true, vec![nat()], false),
            (true, false, vec![hook(None)], false),
            (true, false, vec![nat(), drops()], false),
            (true, false, vec![], false),
            (false, false, vec![], false),
        ] {
            let chains =
                (0..).zip(chains).map(|(number, chain): (u8, _)| (number.to_string(), chain));
            let found = Found { exists, spoilt, chains: chains.collect(), ..Found::default() };
            assert_eq!(found.serves(), serves, "{found:?}");
            assert!(!found.fits(Family::V4, &Chains::new()), "it has none of the sets");
        }
    }
}
