//! The rules of a table: what packets go through. They do not grow with what is served, but for the
//! chains of [`draws`](super::draws). Pure.
//!
//! New connections only: `filter-*` drop and refuse before anything is translated, `nat-*` translate,
//! and what follows goes the same way by itself. A connection from outside looks for its frontend in
//! `frontends-outside` first, where those have something else, then like all others in `frontends`, and
//! goes to a chain that finds a backend.
//!
//! Keys are made of what a packet has and of numbers, so that `nft` shows such rules.

use super::Family;
use super::draws::{draw_chain, frontend, rules};
use super::expressions::{
    Connection, Expression, FIRST, LOCAL, STATE_INVALID, STATE_NEW, STATUS_DNAT, Side, accept,
    address, compare, connection, dispatch, drop_packet, goto, incoming_interface, is_in,
    keep_bits, kind_of_address, mark, masquerade, protocol, reject, source_port,
};
use super::rows::{Draw, octets};
use super::sets::Set;
use crate::source::kubernetes::cluster::PodInterface;
use ipnet::IpNet;
use lb_common::PROBE_MARK;
use std::collections::{BTreeMap, BTreeSet};

/// What the rules have to know besides the services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The addresses of pods, as far as they can be told by their addresses.
    pub pods: BTreeSet<IpNet>,
    /// The interfaces by which packets of pods come in, as far as they can be told by them.
    pub interfaces: BTreeSet<PodInterface>,
    /// Ranges of service addresses: what is in them and nobody's is dropped.
    pub services: BTreeSet<IpNet>,
    /// Whether a cluster has not told those yet.
    pub services_are_late: bool,
}

/// Where packets come into a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// The kernel's number of the hook.
    pub number: u32,
    /// The lower the earlier.
    pub priority: i32,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come into it; `None`: from other chains.
    pub hook: Option<Hook>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A rule: what is done in order, until something does not hold.
pub type Rule = Vec<Expression>;

/// All chains of a table, by name.
pub type Chains = BTreeMap<String, Chain>;

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// Where destinations are translated, and before that.
const DESTINATION: i32 = -100;
const BEFORE: i32 = DESTINATION - 10;
/// Where sources are translated.
const SOURCE: i32 = 100;

/// Bytes of an interface's name, filled up with zeros.
const INTERFACE_NAME: usize = 16;

const FILTER_PREROUTING: &str = "filter-prerouting";
const FILTER_INSIDE: &str = "filter-inside";
const NAT_PREROUTING: &str = "nat-prerouting";
const UNLESS_POD: &str = "unless-pod";
const REFUSED: &str = "refuse";
/// `masquerade` is a word of nft's own.
const MASQUERADE: &str = "masqueraded";
const HAIRPIN: &str = "hairpin";

/// The protocols that have ports, as [`crate::model::Protocol`] has them.
const PROTOCOLS: [u8; 3] = [lb_common::protocol::TCP, lb_common::protocol::UDP, 132];

/// The chains that are not yet what they will be, if it is not known where pods are, or which addresses
/// are services'. When services are `complete`, pods are known, too.
pub(super) fn late(around: &Surroundings, complete: bool) -> BTreeSet<&'static str> {
    let mut late = BTreeSet::new();
    if !complete && around.pods.is_empty() && around.interfaces.is_empty() {
        late.extend([FILTER_PREROUTING, NAT_PREROUTING, UNLESS_POD]);
    }
    if around.services.is_empty() && (!complete || around.services_are_late) {
        late.insert(FILTER_INSIDE);
    }
    late
}

/// The chains of a table.
pub fn chains(family: Family, around: &Surroundings, draws: &BTreeSet<Draw>) -> Chains {
    let builder = Builder { family, words: family.address_len() / 4 };
    let own = |ranges: &BTreeSet<IpNet>| -> Vec<IpNet> {
        let own = ranges.iter().filter(|range| range.addr().is_ipv4() == family.is_v4());
        IpNet::aggregate(&own.copied().collect())
    };
    let (pods, services) = (own(&around.pods), own(&around.services));
    let from_pod = |verdict: Expression| {
        let mut rules = builder.interfaces(&around.interfaces, &verdict);
        rules.extend(builder.ranges(Side::Source, &pods, &[], verdict));
        rules
    };
    let inside = [from_pod(goto(FILTER_INSIDE)), from_pod(goto("nat-inside"))];
    let mut chains = Chains::new();
    let hook = |kind, number, priority| Some(Hook { kind, number, priority });
    let mut put = |name: &str, hook, rules| {
        chains.insert(name.to_owned(), Chain { hook, rules });
    };
    put(
        FILTER_PREROUTING,
        hook("filter", PREROUTING, BEFORE),
        builder.filter_prerouting(&inside[0]),
    );
    put("filter-output", hook("filter", OUTPUT, BEFORE), builder.filter_output());
    put("filter-forward", hook("filter", FORWARD, 0), builder.filter_forward());
    put(FILTER_INSIDE, None, builder.filter_inside(&services));
    put(REFUSED, None, builder.refuse());
    put(NAT_PREROUTING, hook("nat", PREROUTING, DESTINATION), builder.nat_prerouting(&inside[1]));
    put("nat-output", hook("nat", OUTPUT, DESTINATION), builder.nat_output());
    put("nat-inside", None, vec![with(builder.key(), [dispatch(Set::Frontends, FIRST)])]);
    put("nat-postrouting", hook("nat", POSTROUTING, SOURCE), builder.nat_postrouting());
    put(MASQUERADE, None, vec![vec![masquerade()]]);
    put(HAIRPIN, None, builder.hairpin());
    // What comes from an interface is known here, too; what this host sends comes from none.
    let mut unless_pod = from_pod(goto(HAIRPIN));
    unless_pod.push(vec![goto(MASQUERADE)]);
    put(UNLESS_POD, None, unless_pod);
    let local = vec![
        kind_of_address(Side::Source, FIRST),
        compare(FIRST, true, &LOCAL.to_ne_bytes()),
        goto(MASQUERADE),
    ];
    put("if-local", None, vec![local, vec![goto(HAIRPIN)]]);
    for draw in draws {
        put(&draw_chain(*draw), None, rules(family, *draw));
    }
    chains
}

/// Makes rules of a family. The key of a frontend is in the registers from [`FIRST`].
#[derive(Clone, Copy)]
struct Builder {
    family: Family,
    /// Registers that an address takes.
    words: u32,
}

impl Builder {
    fn key(self) -> Rule {
        frontend(self.family)
    }

    fn unless_new(self) -> Rule {
        vec![
            connection(self.family, Connection::State, FIRST),
            keep_bits(FIRST, FIRST, &STATE_NEW.to_ne_bytes()),
            compare(FIRST, true, &0u32.to_ne_bytes()),
            accept(),
        ]
    }

    /// What the agent itself sends to find out whether a backend is well.
    fn unless_probe(self) -> Rule {
        vec![mark(FIRST), compare(FIRST, true, &PROBE_MARK.to_ne_bytes()), accept()]
    }

    fn restricted(self) -> Rule {
        let restricted = with(self.key(), [is_in(Set::Restricted, FIRST, true)]);
        let client = address(self.family, Side::Source, FIRST + self.words + 2);
        let blocked = [client, is_in(Set::Allowed, FIRST, false), drop_packet()];
        with([restricted, self.key()].concat(), blocked)
    }

    /// A rule for each range: from there, or to there. `also` has to hold, too.
    fn ranges(
        self,
        side: Side,
        ranges: &[IpNet],
        also: &[Expression],
        verdict: Expression,
    ) -> Vec<Rule> {
        let rule = |range: &IpNet| {
            let mut rule = vec![address(self.family, side, FIRST)];
            if range.prefix_len() < range.max_prefix_len() {
                rule.push(keep_bits(FIRST, FIRST, &octets(range.netmask())));
            }
            rule.push(compare(FIRST, true, &octets(range.network())));
            rule.extend_from_slice(also);
            rule.push(verdict.clone());
            rule
        };
        ranges.iter().map(rule).collect()
    }

    /// Refuses what is in one set, and drops what is in the other.
    fn unserved(self, refused: Set, dropped: Set) -> [Rule; 2] {
        let rule = |set, verdict| with(self.key(), [is_in(set, FIRST, true), verdict]);
        [rule(refused, goto(REFUSED)), rule(dropped, drop_packet())]
    }

    /// A rule for the packets that came in by each of these.
    fn interfaces(self, interfaces: &BTreeSet<PodInterface>, verdict: &Expression) -> Vec<Rule> {
        let rule = |interface: &PodInterface| {
            let name = match interface {
                PodInterface::Named(name) => {
                    let mut whole = [0; INTERFACE_NAME];
                    whole.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte);
                    whole.to_vec()
                }
                PodInterface::Beginning(name) => name.bytes().collect(),
            };
            vec![incoming_interface(FIRST), compare(FIRST, true, &name), verdict.clone()]
        };
        interfaces.iter().map(rule).collect()
    }

    fn filter_prerouting(self, from_pods: &[Rule]) -> Vec<Rule> {
        // What this host sends to itself comes by here, too.
        let mut rules = vec![self.unless_new(), self.unless_probe(), self.restricted()];
        rules.extend_from_slice(from_pods);
        rules.extend(self.unserved(Set::RefusedOutside, Set::DroppedOutside));
        rules.push(vec![goto(FILTER_INSIDE)]);
        rules
    }

    fn filter_output(self) -> Vec<Rule> {
        vec![self.unless_new(), self.unless_probe(), self.restricted(), vec![goto(FILTER_INSIDE)]]
    }

    /// What a backend sends and connection tracking does not know is not translated back. The client would
    /// refuse it, and with that end the connection that it belongs to.
    fn filter_forward(self) -> Vec<Rule> {
        vec![vec![
            connection(self.family, Connection::State, FIRST),
            keep_bits(FIRST, FIRST, &STATE_INVALID.to_ne_bytes()),
            compare(FIRST, false, &0u32.to_ne_bytes()),
            address(self.family, Side::Source, FIRST),
            protocol(FIRST + self.words),
            source_port(FIRST + self.words + 1),
            is_in(Set::Targets, FIRST, true),
            drop_packet(),
        ]]
    }

    fn filter_inside(self, services: &[IpNet]) -> Vec<Rule> {
        // Who listens on such an address is on this host.
        let not_here = [
            kind_of_address(Side::Destination, FIRST),
            compare(FIRST, false, &LOCAL.to_ne_bytes()),
        ];
        let known =
            [address(self.family, Side::Destination, FIRST), is_in(Set::Addresses, FIRST, true)];
        let mut rules = self.unserved(Set::Refused, Set::Dropped).to_vec();
        rules.push(with(self.key(), [is_in(Set::Served, FIRST, true), accept()]));
        rules.push([&known[..], &not_here, &[goto(REFUSED)]].concat());
        rules.extend(self.ranges(Side::Destination, services, &not_here, drop_packet()));
        rules
    }

    fn refuse(self) -> Vec<Rule> {
        let tcp = compare(FIRST, true, &[lb_common::protocol::TCP]);
        vec![
            vec![protocol(FIRST), tcp, reject(self.family, true)],
            vec![reject(self.family, false)],
        ]
    }

    fn nat_prerouting(self, from_pods: &[Rule]) -> Vec<Rule> {
        let mut rules = from_pods.to_vec();
        rules.push(with(self.key(), [dispatch(Set::Outside, FIRST)]));
        rules.push(vec![goto("nat-inside")]);
        rules
    }

    fn nat_output(self) -> Vec<Rule> {
        vec![self.unless_probe(), vec![goto("nat-inside")]]
    }

    /// By what the connection was before it was translated: is it one of ours, and which.
    fn nat_postrouting(self) -> Vec<Rule> {
        let ways = [
            (Set::Always, MASQUERADE),
            (Set::UnlessPod, UNLESS_POD),
            (Set::IfLocal, "if-local"),
            (Set::Served, HAIRPIN),
        ];
        let rule = |number: u8, set, chain| {
            vec![
                connection(self.family, Connection::Status, FIRST),
                keep_bits(FIRST, FIRST, &STATUS_DNAT.to_ne_bytes()),
                compare(FIRST, false, &0u32.to_ne_bytes()),
                protocol(FIRST),
                compare(FIRST, true, &[number]),
                connection(self.family, Connection::Destination, FIRST),
                connection(self.family, Connection::Protocol, FIRST + self.words),
                connection(self.family, Connection::DestinationPort, FIRST + self.words + 1),
                is_in(set, FIRST, true),
                goto(chain),
            ]
        };
        let rules = |number| ways.iter().map(move |(set, chain)| rule(number, *set, chain));
        PROTOCOLS.into_iter().flat_map(rules).collect()
    }

    fn hairpin(self) -> Vec<Rule> {
        vec![vec![
            address(self.family, Side::Source, FIRST),
            address(self.family, Side::Destination, FIRST + self.words),
            is_in(Set::Hairpin, FIRST, true),
            goto(MASQUERADE),
        ]]
    }
}

fn with<const N: usize>(mut rule: Rule, more: [Expression; N]) -> Rule {
    rule.extend(more);
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_until_it_is_known() {
        let pods = || BTreeSet::from(["10.0.0.0/8".parse().unwrap()]);
        let known = Surroundings { pods: pods(), services: pods(), ..Surroundings::default() };
        let unheard =
            Surroundings { pods: pods(), services_are_late: true, ..Surroundings::default() };
        let heard = Surroundings { services_are_late: false, ..unheard.clone() };
        let all = [FILTER_INSIDE, FILTER_PREROUTING, NAT_PREROUTING, UNLESS_POD];
        for (around, complete, expected) in [
            (Surroundings::default(), false, &all[..]),
            (Surroundings::default(), true, &[]),
            (known.clone(), false, &[]),
            (Surroundings { services_are_late: true, ..known }, true, &[]),
            (unheard.clone(), false, &[FILTER_INSIDE]),
            (unheard, true, &[FILTER_INSIDE]),
            (heard.clone(), false, &[FILTER_INSIDE]),
            (heard, true, &[]),
        ] {
            let late = late(&around, complete);
            assert!(late.iter().eq(expected), "{around:?} {complete}: {late:?}");
        }
    }
}
