//! Ends flows in the kernel's table of connections.

use super::Family;
use super::flows::{Flow, Flows};
use super::kernel::{Nat, NatError};
use super::messages::{self, UDP_FLOW};
use std::net::{IpAddr, SocketAddr};

impl Nat {
    /// Ends the UDP flows of a family that lead nowhere. Returns how many there were.
    pub fn end_stale(&self, family: Family, flows: &Flows) -> Result<u64, NatError> {
        let mut doomed = Vec::new();
        self.list("listing connections", &messages::list_connections(family), |payload| {
            let Some(connection) = messages::connection(payload)? else { return Ok(()) };
            let stale = || {
                let (address, port) = (connection.destination?, connection.port?);
                let destination = SocketAddr::new(address, port);
                let flow = Flow { destination, answers: connection.answers? };
                Some(flows.is_stale(&flow))
            };
            if connection.protocol == Some(UDP_FLOW) && stale() == Some(true) {
                doomed.push(connection.name);
            }
            Ok(())
        })?;
        let mut ended = 0;
        for name in doomed {
            ended += u64::from(self.end("ending a flow", family, name)?);
        }
        Ok(ended)
    }
}

/// A connection as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) protocol: Option<u8>,
    pub(super) destination: Option<IpAddr>,
    pub(super) port: Option<u16>,
    /// Where answers come from.
    pub(super) answers: Option<IpAddr>,
    /// What the kernel tells it by.
    pub(super) name: Vec<netlink_packet_core::DefaultNla>,
}
