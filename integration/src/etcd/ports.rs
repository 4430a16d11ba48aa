//! Ports for servers, which keep them over restarts.

use super::HERE;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports the kernel gives to clients, so that none sits on a killed server's port.
const FIRST_PORT: u16 = 12_000;
const LAST_PORT: u16 = 32_000;

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// For the agent under test, with TLS if that is wanted.
    pub(super) client: u16,
    /// For the tests' own client: never with TLS, never behind a cut wire.
    pub(super) door: u16,
    pub(super) peer: u16,
}

// === impl Ports ===

impl Ports {
    /// Ports of nobody's.
    pub(super) fn free() -> Self {
        Self { client: free_port(), door: free_port(), peer: free_port() }
    }

    /// The URL for the other members.
    pub(super) fn peer_url(self) -> String {
        format!("http://{HERE}:{}", self.peer)
    }
}

/// A port that nobody listens on and that no other server of this process has been given.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = LAST_PORT - FIRST_PORT;
    // Test processes that run beside each other begin at different places.
    let start = u16::try_from(std::process::id() * 97 % u32::from(span)).expect("below the span");
    let found = (0..span).find_map(|_| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % span;
        let port = FIRST_PORT + (start + step) % span;
        TcpListener::bind((HERE, port)).ok().map(|_| port)
    });
    found.expect("a port is free")
}
