//! Ends flows in the kernel's table of connections.

use super::Family;
use super::flows::{Flow, Flows};
use super::kernel::{Nat, NatError};
use super::messages::{append, header, parts};
use crate::model::Protocol;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST,
    NlasIterator,
};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage};
use std::net::{IpAddr, SocketAddr};

impl Nat {
    /// Ends the flows of a family that lead nowhere. Returns how many there were.
    ///
    /// # Errors
    ///
    /// If the kernel does not list its connections or an answer can't be read, and nothing is ended then; or if it
    /// refuses to end one, and those before it are ended. That a flow ended meanwhile is no error.
    pub fn end_stale(&self, family: Family, flows: &Flows) -> Result<u64, NatError> {
        let mut doomed = Vec::new();
        self.list("listing connections", &list_connections(family), |payload| {
            let connection = connection(payload)?;
            let stale = || {
                let protocol = Protocol::from_number(connection.protocol?)?;
                let (destination, answers) = (connection.destination?, connection.answers?);
                Some(flows.is_stale(&Flow { protocol, destination, answers }))
            };
            if stale() == Some(true) {
                doomed.push(connection.name);
            }
            Ok(())
        })?;
        let mut ended = 0;
        for name in doomed {
            ended += u64::from(self.about_one("ending a flow", &end_connection(family, name))?);
        }
        Ok(ended)
    }

    /// Tries whether the kernel answers for its connections: asks for one that nobody can have.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer or does not let us ask; that there is no such connection is no error.
    pub fn try_connections(&self, family: Family) -> Result<(), NatError> {
        self.about_one("asking for a connection", &ask_connection(family))?;
        Ok(())
    }
}

/// A connection as far as it matters.
#[derive(Debug, Default)]
struct Connection {
    protocol: Option<u8>,
    destination: Option<SocketAddr>,
    /// Where answers come from.
    answers: Option<SocketAddr>,
    /// What the kernel tells it by.
    name: Vec<DefaultNla>,
}

/// Asks for the connections of a family.
fn list_connections(family: Family) -> Vec<u8> {
    let message = NetfilterMessage::new(header(family), ConntrackMessage::Get(Vec::new()));
    let mut bytes = Vec::new();
    append(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP, 1);
    bytes
}

/// Asks for the connection from nobody to nobody.
fn ask_connection(family: Family) -> Vec<u8> {
    let nested = |kind, parts: &[DefaultNla]| {
        let mut bytes = vec![0; parts.buffer_len()];
        parts.emit(&mut bytes);
        DefaultNla::new(kind | NLA_F_NESTED, bytes)
    };
    let nobody = || vec![0; family.address_len() as usize];
    let [source, destination] = if family.is_v4() { [1, 2] } else { [3, 4] };
    let addresses = [DefaultNla::new(source, nobody()), DefaultNla::new(destination, nobody())];
    let port = |kind| DefaultNla::new(kind, vec![0; 2]);
    let number = DefaultNla::new(1, vec![lb_common::protocol::UDP]);
    let tuple = nested(1, &[nested(1, &addresses), nested(2, &[number, port(2), port(3)])]);
    let message = ConntrackMessage::Get(vec![ConntrackAttribute::Other(tuple)]);
    let mut bytes = Vec::new();
    append(&mut bytes, NetfilterMessage::new(header(family), message), NLM_F_REQUEST, 1);
    bytes
}

/// Ends a connection that is told by this.
fn end_connection(family: Family, name: Vec<DefaultNla>) -> Vec<u8> {
    let name = name.into_iter().map(ConntrackAttribute::Other).collect();
    let message = NetfilterMessage::new(header(family), ConntrackMessage::Delete(name));
    let mut bytes = Vec::new();
    append(&mut bytes, message, NLM_F_REQUEST | NLM_F_ACK, 1);
    bytes
}

/// A connection, in what a message has.
fn connection(payload: &[u8]) -> Result<Connection, DecodeError> {
    let mut connection = Connection::default();
    for attribute in NlasIterator::new(payload.get(4..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            // As its first packet was.
            1 => {
                let (_, destination, protocol) = ends(attribute.value())?;
                connection.destination = destination;
                connection.protocol = protocol;
                let tuple = DefaultNla::new(1 | NLA_F_NESTED, attribute.value().to_vec());
                connection.name.push(tuple);
            }
            2 => connection.answers = ends(attribute.value())?.0,
            // Its number and its zone.
            kind @ (12 | 18) => {
                connection.name.push(DefaultNla::new(kind, attribute.value().to_vec()));
            }
            _ => {}
        }
    }
    Ok(connection)
}

/// Source, destination and protocol of a direction. Not every protocol has ports.
type Ends = (Option<SocketAddr>, Option<SocketAddr>, Option<u8>);

fn ends(tuple: &[u8]) -> Result<Ends, DecodeError> {
    let addresses = parts(tuple, 1).next().transpose()?.unwrap_or_default();
    let protocol = parts(tuple, 2).next().transpose()?.unwrap_or_default();
    let address = |v4, v6| -> Result<Option<IpAddr>, DecodeError> {
        let v4 = parts(addresses, v4).next().transpose()?;
        let v6 = parts(addresses, v6).next().transpose()?;
        let v4 = v4.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from);
        Ok(v4.or(v6.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from)))
    };
    let number = parts(protocol, 1).next().transpose()?.and_then(|bytes| bytes.first().copied());
    let port = |kind| -> Result<Option<u16>, DecodeError> {
        let bytes = parts(protocol, kind).next().transpose()?;
        Ok(bytes.and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?))))
    };
    let end = |(address, port): (Option<IpAddr>, Option<u16>)| {
        address.zip(port).map(|(address, port)| SocketAddr::new(address, port))
    };
    let source = end((address(1, 3)?, port(2)?));
    let destination = end((address(2, 4)?, port(3)?));
    Ok((source, destination, number))
}
