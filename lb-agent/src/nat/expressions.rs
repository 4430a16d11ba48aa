//! The kernel's expressions that rules are made of, with their attributes. Pure.
//!
//! Numbers of attributes and keys are those of `linux/netfilter/nf_tables.h`.

use super::Family;
use super::sets::Set;
use netlink_packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED};

/// An expression: its name and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// The kernel's name for it.
    pub name: &'static str,
    /// Its attributes.
    pub attributes: Vec<DefaultNla>,
}

/// The register of verdicts.
const VERDICT: u32 = 0;
/// The first register of 4 bytes; there are 16.
pub(super) const FIRST: u32 = 8;

/// Bits of the state of a connection.
pub(super) const STATE_INVALID: u32 = 1;
pub(super) const STATE_NEW: u32 = 8;
/// The bit of a connection's status that says that its destination was translated.
pub(super) const STATUS_DNAT: u32 = 32;

/// What of a connection is loaded.
#[derive(Clone, Copy)]
pub(super) enum Connection {
    State,
    Status,
    Protocol,
    DestinationPort,
    Destination,
}

/// Whose address is asked about.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Source,
    Destination,
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

fn value(kind: u16, bytes: &[u8]) -> DefaultNla {
    nested(kind, &[DefaultNla::new(1, bytes.to_vec())])
}

/// An address of the packet into the registers from `to`.
pub(super) fn address(family: Family, side: Side, to: u32) -> Expression {
    let offset = match (family, side) {
        (Family::V4, Side::Source) => 12,
        (Family::V4, Side::Destination) => 16,
        (Family::V6, Side::Source) => 8,
        (Family::V6, Side::Destination) => 24,
    };
    payload(1, offset, family.address_len(), to)
}

/// The source port into a register.
pub(super) fn source_port(to: u32) -> Expression {
    payload(2, 0, 2, to)
}

/// The destination port into a register.
pub(super) fn destination_port(to: u32) -> Expression {
    payload(2, 2, 2, to)
}

fn payload(base: u32, offset: u32, length: u32, to: u32) -> Expression {
    let attributes = vec![number(1, to), number(2, base), number(3, offset), number(4, length)];
    Expression { name: "payload", attributes }
}

/// The protocol into a register.
pub(super) fn protocol(to: u32) -> Expression {
    Expression { name: "meta", attributes: vec![number(2, 16), number(1, to)] }
}

/// The packet's mark into a register.
pub(super) fn mark(to: u32) -> Expression {
    Expression { name: "meta", attributes: vec![number(2, 3), number(1, to)] }
}

/// The name of the interface by which the packet came in, into the 4 registers from `to`: nothing for what
/// this host sends.
pub(super) fn incoming_interface(to: u32) -> Expression {
    Expression { name: "meta", attributes: vec![number(2, 6), number(1, to)] }
}

/// Something of the packet's connection, as its first packet was when it came, into registers.
pub(super) fn connection(family: Family, what: Connection, to: u32) -> Expression {
    let (key, directed) = match what {
        Connection::State => (0, false),
        Connection::Status => (2, false),
        Connection::Protocol => (10, false),
        Connection::DestinationPort => (12, true),
        Connection::Destination => (if family.is_v4() { 20 } else { 22 }, true),
    };
    let mut attributes = vec![number(1, to), number(2, key)];
    if directed {
        attributes.push(DefaultNla::new(3, vec![0]));
    }
    Expression { name: "ct", attributes }
}

/// Keeps the bits of `mask` of the registers from `from`, in those from `to`.
pub(super) fn keep_bits(from: u32, to: u32, mask: &[u8]) -> Expression {
    let zeros = vec![0; mask.len()];
    let length = u32::try_from(mask.len()).unwrap_or_default();
    let attributes =
        vec![number(1, from), number(2, to), number(3, length), value(4, mask), value(5, &zeros)];
    Expression { name: "bitwise", attributes }
}

/// Goes on if the registers from `from` hold `bytes`, or if they don't.
pub(super) fn compare(from: u32, equal: bool, bytes: &[u8]) -> Expression {
    let operator = u32::from(!equal);
    let attributes = vec![number(1, from), number(2, operator), value(3, bytes)];
    Expression { name: "cmp", attributes }
}

/// Goes on if the key in the registers from `from` is in a set or, if so wanted, is not.
pub(super) fn is_in(set: Set, from: u32, wanted: bool) -> Expression {
    let mut attributes = vec![text(1, set.name()), number(2, from)];
    if !wanted {
        attributes.push(number(5, 1));
    }
    Expression { name: "lookup", attributes }
}

/// What the key in the registers from `from` leads to, into those from `to`. Ends the rule if there
/// is no such key.
pub(super) fn find(set: Set, from: u32, to: u32) -> Expression {
    let attributes = vec![text(1, set.name()), number(2, from), number(3, to)];
    Expression { name: "lookup", attributes }
}

/// Goes to the chain that the key in the registers from `from` leads to.
pub(super) fn dispatch(set: Set, from: u32) -> Expression {
    find(set, from, VERDICT)
}

/// A random number below `below` into a register.
pub(super) fn random(below: u32, to: u32) -> Expression {
    let attributes = vec![number(1, to), number(2, below), number(3, 1)];
    Expression { name: "numgen", attributes }
}

/// Puts these bytes into registers.
pub(super) fn put(bytes: &[u8], to: u32) -> Expression {
    Expression { name: "immediate", attributes: vec![number(1, to), value(2, bytes)] }
}

fn verdict(code: i32, chain: Option<&str>) -> Expression {
    let mut verdict = vec![DefaultNla::new(1, code.to_be_bytes().to_vec())];
    verdict.extend(chain.map(|chain| text(2, chain)));
    let data = nested(2, &[nested(2, &verdict)]);
    Expression { name: "immediate", attributes: vec![number(1, VERDICT), data] }
}

/// The code of a jump for good.
pub(super) const GOTO: i32 = -4;

/// On to a chain, for good.
pub(super) fn goto(chain: &str) -> Expression {
    verdict(GOTO, Some(chain))
}

/// No rule of this hook concerns the packet any more.
pub(super) fn accept() -> Expression {
    verdict(1, None)
}

/// Ends the packet.
pub(super) fn drop_packet() -> Expression {
    verdict(0, None)
}

/// Whether an address is one of this host's, into a register: the kind of its route.
pub(super) fn kind_of_address(side: Side, to: u32) -> Expression {
    let flags = match side {
        Side::Source => 1,
        Side::Destination => 2,
    };
    Expression { name: "fib", attributes: vec![number(1, to), number(2, 3), number(3, flags)] }
}

/// The kind of route of an address of this host.
pub(super) const LOCAL: u32 = 2;

/// Sends the connection to the address and the port in these registers.
pub(super) fn translate(family: Family, address: u32, port: u32) -> Expression {
    let number_of = if family.is_v4() { 2 } else { 10 };
    let attributes = vec![number(1, 1), number(2, number_of), number(3, address), number(5, port)];
    Expression { name: "nat", attributes }
}

/// Puts this host's address in the place of the client's, with a port at random.
pub(super) fn masquerade() -> Expression {
    Expression { name: "masq", attributes: vec![number(1, 16)] }
}

/// Refuses with a TCP reset, or by ICMP: port unreachable.
pub(super) fn reject(family: Family, reset: bool) -> Expression {
    let code = if family.is_v4() { 3 } else { 4 };
    let attributes =
        if reset { vec![number(1, 1)] } else { vec![number(1, 0), DefaultNla::new(2, vec![code])] };
    Expression { name: "reject", attributes }
}

/// Remembers for so many seconds from now that the key in the registers from `key` leads to what is
/// in those from `data`. If it leads elsewhere already, only the time is another. Ends the rule if the
/// map is full.
pub(super) fn remember(map: Set, key: u32, data: u32, seconds: u32) -> Expression {
    let milliseconds = u64::from(seconds) * 1000;
    let attributes = vec![
        text(1, map.name()),
        number(3, 1),
        number(4, key),
        number(5, data),
        DefaultNla::new(6, milliseconds.to_be_bytes().to_vec()),
    ];
    Expression { name: "dynset", attributes }
}

/// Forgets the key in the registers from `key`, which leads to what is in those from `data`.
pub(super) fn forget(map: Set, key: u32, data: u32) -> Expression {
    let attributes = vec![text(1, map.name()), number(3, 2), number(4, key), number(5, data)];
    Expression { name: "dynset", attributes }
}
