//! The rules of a table: what packets go through. They do not grow with what is served, but for a
//! chain for each number of slots that there is. Pure.
//!
//! New connections only: `filter-*` drop and refuse before anything is translated, `nat-*` translate,
//! and what follows goes the same way by itself. A pod's or this host's connection finds its
//! frontend in `frontends`; another's first in `outside`. Either leads to the number of slots, that to
//! a chain which draws one and finds its backend. A change may come between two looks: the slot that
//! was drawn may be gone, and the first slot, which every list has, serves then.

use super::Family;
use super::expressions::{
    Connection, Expression, FIRST, LOCAL, STATE_NEW, STATUS_DNAT, Side, accept, address, compare,
    connection, destination_port, dispatch, drop_packet, find, forget, goto, is_in, keep_bits,
    kind_of_address, mark, masquerade, number_key, protocol, put, random, reject, remember, translate,
};
use super::rows::{DROP, Draw, Key, REFUSE, Value};
use super::sets::Set;
use ipnet::IpNet;
use lb_common::PROBE_MARK;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What the rules have to know besides the services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The addresses of pods, as far as they can be told by their addresses.
    pub pods: BTreeSet<IpNet>,
    /// Ranges of service addresses: what is in them and nobody's is dropped.
    pub services: BTreeSet<IpNet>,
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
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// Where destinations are translated, and before that.
const DESTINATION: i32 = -100;
const BEFORE: i32 = DESTINATION - 10;
/// Where sources are translated.
const SOURCE: i32 = 100;

/// Chains that elements lead to.
const REFUSED: &str = "refuse";
const DROPPED: &str = "drop";
const MASQUERADE: &str = "masquerade";
const HAIRPIN: &str = "hairpin";
const UNLESS_POD: &str = "masquerade-unless-pod";
const IF_LOCAL: &str = "masquerade-if-local";

/// The elements that are always there.
pub(super) fn fixed_elements() -> Vec<(Key, Value)> {
    let row = |set, number, chain: &str| (number_key(set, &[number]), Value::Chain(chain.into()));
    vec![
        row(Set::Verdicts, REFUSE, REFUSED),
        row(Set::Verdicts, DROP, DROPPED),
        row(Set::Masquerades, 0, HAIRPIN),
        row(Set::Masquerades, 1, UNLESS_POD),
        row(Set::Masquerades, 2, IF_LOCAL),
        row(Set::Masquerades, 3, MASQUERADE),
    ]
}

/// The element that leads to the chain of a draw.
pub(super) fn draw_element(draw: Draw) -> (Key, Value) {
    let set = if draw.outside { Set::SizesOutside } else { Set::Sizes };
    (number_key(set, &[draw.slots, draw.affinity]), Value::Chain(draw_chain(draw)))
}

fn draw_chain(Draw { outside, slots, affinity }: Draw) -> String {
    let who = if outside { "outside-" } else { "" };
    match affinity {
        0 => format!("draw-{who}{slots}"),
        seconds => format!("draw-{who}{slots}-stay-{seconds}"),
    }
}

/// The draw that a chain is for, if it is for one.
pub(super) fn draw_of(chain: &str) -> Option<Draw> {
    let rest = chain.strip_prefix("draw-")?;
    let (outside, rest) = match rest.strip_prefix("outside-") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (slots, affinity) = match rest.split_once("-stay-") {
        Some((slots, seconds)) => (slots, seconds.parse().ok()?),
        None => (rest, 0),
    };
    Some(Draw { outside, slots: slots.parse().ok()?, affinity })
}

/// The chains of a table.
pub fn chains(family: Family, around: &Surroundings, draws: &BTreeSet<Draw>) -> Chains {
    let builder = Builder { family, words: family.address_len() / 4 };
    let own = |ranges: &BTreeSet<IpNet>| -> Vec<IpNet> {
        let own = ranges.iter().filter(|range| range.addr().is_ipv4() == family.is_v4());
        IpNet::aggregate(&own.copied().collect())
    };
    let (pods, services) = (own(&around.pods), own(&around.services));
    let mut chains = Chains::new();
    let hook = |kind, number, priority| Some(Hook { kind, number, priority });
    let mut put = |name: &str, hook, rules| {
        chains.insert(name.to_owned(), Chain { hook, rules });
    };
    put(
        "filter-prerouting",
        hook("filter", PREROUTING, BEFORE),
        builder.filter_prerouting(&pods),
    );
    put("filter-output", hook("filter", OUTPUT, BEFORE), builder.filter_output());
    put("filter-inside", None, builder.filter_inside(&services));
    put(REFUSED, None, builder.refuse());
    put(DROPPED, None, vec![vec![drop_packet()]]);
    put("nat-prerouting", hook("nat", PREROUTING, DESTINATION), builder.nat_prerouting(&pods));
    put("nat-output", hook("nat", OUTPUT, DESTINATION), builder.nat_output());
    let frontend = builder.frontend(Set::Frontends);
    put("nat-inside", None, vec![with(frontend, [dispatch(Set::Sizes, builder.slots())])]);
    put("nat-postrouting", hook("nat", POSTROUTING, SOURCE), builder.nat_postrouting());
    put(MASQUERADE, None, vec![vec![masquerade()]]);
    put(HAIRPIN, None, builder.hairpin());
    let mut unless_pod = builder.ranges(Side::Source, &pods, &[], HAIRPIN);
    unless_pod.push(vec![goto(MASQUERADE)]);
    put(UNLESS_POD, None, unless_pod);
    let local = vec![
        kind_of_address(Side::Source, FIRST),
        compare(FIRST, true, &LOCAL.to_ne_bytes()),
        goto(MASQUERADE),
    ];
    put(IF_LOCAL, None, vec![local, vec![goto(HAIRPIN)]]);
    for draw in draws {
        put(&draw_chain(*draw), None, builder.draw(*draw));
    }
    chains
}

/// Makes rules of a family. The registers: the frontend's key from [`FIRST`], what it leads to after it.
#[derive(Clone, Copy)]
struct Builder {
    family: Family,
    /// Registers that an address takes.
    words: u32,
}

impl Builder {
    /// Where what a frontend leads to begins: the pool, 2 registers.
    const fn pool(self) -> u32 {
        FIRST + self.words + 2
    }

    /// Its number of slots, followed by affinity's seconds.
    const fn slots(self) -> u32 {
        self.pool() + 2
    }

    /// Its masquerade rule.
    const fn masquerade(self) -> u32 {
        self.pool() + 4
    }

    /// Loads the key of the frontend that a packet comes for.
    fn key(self) -> Rule {
        vec![
            address(self.family, Side::Destination, FIRST),
            protocol(FIRST + self.words),
            destination_port(FIRST + self.words + 1),
        ]
    }

    /// Loads what the frontend leads to that a packet comes for; ends the rule if there is none.
    fn frontend(self, set: Set) -> Rule {
        with(self.key(), [find(set, FIRST, self.pool())])
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
        let client = address(self.family, Side::Source, FIRST + self.words + 2);
        let restricted = is_in(Set::Restricted, FIRST, true);
        let blocked = is_in(Set::Allowed, FIRST, false);
        with(self.key(), [client, restricted, blocked, drop_packet()])
    }

    /// A rule for each range: from there, or to there, to a chain. `also` has to hold, too.
    fn ranges(self, side: Side, ranges: &[IpNet], also: &[Expression], chain: &str) -> Vec<Rule> {
        let rule = |range: &IpNet| {
            let mut rule = vec![address(self.family, side, FIRST)];
            if range.prefix_len() < range.max_prefix_len() {
                rule.push(keep_bits(FIRST, FIRST, &bytes(range.netmask())));
            }
            rule.push(compare(FIRST, true, &bytes(range.network())));
            rule.extend_from_slice(also);
            rule.push(goto(chain));
            rule
        };
        ranges.iter().map(rule).collect()
    }

    fn filter_prerouting(self, pods: &[IpNet]) -> Vec<Rule> {
        let outside = || self.frontend(Set::Outside);
        let mut rules = vec![self.unless_new(), self.restricted()];
        rules.extend(self.ranges(Side::Source, pods, &[], "filter-inside"));
        rules.push(with(outside(), [dispatch(Set::Verdicts, self.slots())]));
        rules.push(with(outside(), [accept()]));
        rules.push(vec![goto("filter-inside")]);
        rules
    }

    fn filter_output(self) -> Vec<Rule> {
        vec![
            self.unless_new(),
            self.unless_probe(),
            self.restricted(),
            vec![goto("filter-inside")],
        ]
    }

    fn filter_inside(self, services: &[IpNet]) -> Vec<Rule> {
        let frontend = || self.frontend(Set::Frontends);
        // Who listens on such an address is on this host.
        let not_here = [
            kind_of_address(Side::Destination, FIRST),
            compare(FIRST, false, &LOCAL.to_ne_bytes()),
        ];
        let known = [
            address(self.family, Side::Destination, FIRST),
            is_in(Set::Addresses, FIRST, true),
        ];
        let mut rules = vec![
            with(frontend(), [dispatch(Set::Verdicts, self.slots())]),
            with(frontend(), [accept()]),
            [&known[..], &not_here, &[goto(REFUSED)]].concat(),
        ];
        rules.extend(self.ranges(Side::Destination, services, &not_here, DROPPED));
        rules
    }

    fn refuse(self) -> Vec<Rule> {
        let tcp = compare(FIRST, true, &[lb_common::protocol::TCP]);
        vec![
            vec![protocol(FIRST), tcp, reject(self.family, true)],
            vec![reject(self.family, false)],
        ]
    }

    fn nat_prerouting(self, pods: &[IpNet]) -> Vec<Rule> {
        let outside = || self.frontend(Set::Outside);
        let mut rules = self.ranges(Side::Source, pods, &[], "nat-inside");
        rules.push(with(outside(), [dispatch(Set::SizesOutside, self.slots())]));
        rules.push(with(outside(), [accept()]));
        rules.push(vec![goto("nat-inside")]);
        rules
    }

    fn nat_output(self) -> Vec<Rule> {
        vec![self.unless_probe(), vec![goto("nat-inside")]]
    }

    /// By what the connection was before it was translated: is it one of ours, and which.
    fn nat_postrouting(self) -> Vec<Rule> {
        vec![vec![
            connection(self.family, Connection::Status, FIRST),
            keep_bits(FIRST, FIRST, &STATUS_DNAT.to_ne_bytes()),
            compare(FIRST, false, &0u32.to_ne_bytes()),
            connection(self.family, Connection::Destination, FIRST),
            connection(self.family, Connection::Protocol, FIRST + self.words),
            connection(self.family, Connection::DestinationPort, FIRST + self.words + 1),
            find(Set::Frontends, FIRST, self.pool()),
            dispatch(Set::Masquerades, self.masquerade()),
        ]]
    }

    fn hairpin(self) -> Vec<Rule> {
        vec![vec![
            address(self.family, Side::Source, FIRST),
            address(self.family, Side::Destination, FIRST + self.words),
            is_in(Set::Hairpin, FIRST, true),
            goto(MASQUERADE),
        ]]
    }

    fn draw(self, draw: Draw) -> Vec<Rule> {
        let set = if draw.outside { Set::Outside } else { Set::Frontends };
        let frontend = || self.frontend(set);
        // The slot stands behind the pool, and what they lead to takes the slot's place.
        let target = self.slots();
        let found = [
            find(Set::Backends, self.pool(), target),
            translate(self.family, target, target + self.words),
        ];
        let mut rules = Vec::new();
        if draw.affinity != 0 {
            // The service, whatever the list, and its client.
            let who = [
                keep_bits(self.pool(), FIRST, &service_mask()),
                address(self.family, Side::Source, FIRST + 2),
            ];
            let seconds = draw.affinity;
            let remember = || remember(Set::Affinity, FIRST, target, seconds);
            let translate = || translate(self.family, target, target + self.words);
            let mut known = with(frontend(), who.clone());
            known.extend([
                find(Set::Affinity, FIRST, target),
                is_in(Set::Members, self.pool(), true),
                remember(),
                translate(),
            ]);
            rules.push(known);
            let mut first = with(frontend(), who);
            first.extend([
                random(draw.slots, target),
                find(Set::Backends, self.pool(), target),
                forget(Set::Affinity, FIRST, target),
                remember(),
                translate(),
            ]);
            rules.push(first);
        }
        let drawn = with(frontend(), [random(draw.slots, target)]);
        rules.push(with(drawn, found.clone()));
        let first = with(frontend(), [put(&0u32.to_ne_bytes(), target)]);
        rules.push(with(first, found));
        rules.push(vec![drop_packet()]);
        rules
    }
}

/// All bits of a pool but the one that tells the lists apart.
fn service_mask() -> [u8; 8] {
    (!1u64).to_ne_bytes()
}

fn with<const N: usize>(mut rule: Rule, more: [Expression; N]) -> Rule {
    rule.extend(more);
    rule
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
