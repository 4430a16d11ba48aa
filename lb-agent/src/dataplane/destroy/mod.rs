//! Ends the sockets that are connected to backends which are gone: an application that talks to
//! nobody sees an error at its next call, and connects again.
//!
//! A socket is ended only if what is remembered of it *and* the peer it has now both name the
//! backend. The kernel is asked for sockets with that peer, in every network namespace, and the few
//! it finds are looked up by their cookies. It is told to end the socket with this very cookie and
//! this very peer, so one that went elsewhere in between stays. Which backends are gone is
//! [`crate::plan`]'s to say, and when, [`crate::reconcile`]'s.

pub(super) mod diag;
pub(super) mod namespaces;

use super::DataplaneError;
use super::tables::chain;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use caps::{CapSet, Capability};
use diag::{Diag, Found, Question};
use lb_common::protocol;
use lb_common::rows::ConnectionRow;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Up to so many ports the kernel is asked for each by itself, rather than for all its sockets.
const PORTS: usize = 4;

type RawRow = [u8; size_of::<ConnectionRow>()];

/// A backend whose sockets are to be ended: connected UDP always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Its id.
    pub id: u32,
    /// Its address.
    pub backend: SocketAddr,
    /// Whether TCP connections are ended too.
    pub tcp: bool,
}

/// What was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// Connected UDP sockets.
    pub udp: u64,
    /// TCP connections; an MPTCP connection counts once for each of its subflows.
    pub tcp: u64,
    /// What could not be looked through or ended, and what to do about it.
    pub problems: BTreeSet<String>,
}

/// The backends, by address.
#[derive(Debug)]
struct Wanted(BTreeMap<SocketAddr, Vec<Doomed>>);

/// The tables that say where a socket went.
pub(super) struct Rows {
    connections: Array<MapData, RawRow>,
    mask: u32,
    /// `None` where the tables were made before there was this one.
    times: Option<Array<MapData, u32>>,
    overflow: HashMap<MapData, u64, RawRow>,
    overflow_times: Option<HashMap<MapData, u64, u32>>,
    sockets: MapData,
    sockets_id: u32,
}

/// What is remembered of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) row: ConnectionRow,
    /// Since when that is so: [`lb_common::since`].
    pub(super) since: u32,
}

/// Whether looking into other network namespaces is allowed.
pub(super) fn may_enter_namespaces() -> bool {
    // Not to be able to tell is as good as not to be allowed to.
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

/// Ends what is connected to `doomed`. Takes its time: to be called off the loop.
pub(super) fn run(pins: &Path, doomed: &[Doomed]) -> Result<Destroyed, DataplaneError> {
    let wanted = Wanted::new(doomed);
    let rows = Rows::open(pins)?;
    let total = Mutex::new(Destroyed::default());
    let problems = namespaces::in_each(may_enter_namespaces(), |_| {
        let part = look_through(&wanted, &rows);
        total.lock().unwrap_or_else(PoisonError::into_inner).add(part);
    })?;
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.problems.extend(problems);
    Ok(total)
}

/// The calling thread's namespace.
fn look_through(wanted: &Wanted, rows: &Rows) -> Destroyed {
    let mut done = Destroyed::default();
    let diag = Diag::open();
    let look = || -> nix::Result<()> {
        let mut diag = diag?;
        let found = wanted.sockets(&mut diag, rows, protocol::UDP)?;
        done.udp = end(&mut diag, protocol::UDP, found)?;
        if wanted.all().any(|doomed| doomed.tcp) {
            let found = wanted.sockets(&mut diag, rows, protocol::TCP)?;
            done.tcp = end(&mut diag, protocol::TCP, found)?;
        }
        Ok(())
    };
    if let Err(errno) = look() {
        done.problems.insert(match errno {
            Errno::ENOENT | Errno::EOPNOTSUPP => {
                "this kernel can't end sockets from outside (it needs CONFIG_INET_DIAG, \
                 CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY)"
                    .to_owned()
            }
            errno => format!("the sockets of a network namespace can't be ended: {}", errno.desc()),
        });
    }
    done
}

/// Ends these sockets; how many of them were still there.
fn end(diag: &mut Diag, protocol: u8, found: Vec<Found>) -> nix::Result<u64> {
    let mut ended = 0;
    for socket in found {
        match diag.destroy(protocol, &socket) {
            Ok(()) => ended += 1,
            // Closed, or connected elsewhere meanwhile.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(ended)
}

// === impl Wanted ===

impl Wanted {
    fn new(doomed: &[Doomed]) -> Self {
        let mut wanted: BTreeMap<SocketAddr, Vec<Doomed>> = BTreeMap::new();
        for doomed in doomed {
            wanted.entry(doomed.backend).or_default().push(*doomed);
        }
        Self(wanted)
    }

    fn all(&self) -> impl Iterator<Item = &Doomed> {
        self.0.values().flatten()
    }

    /// Whether a socket is to be ended that has this peer, and of which this is remembered.
    fn includes(&self, protocol: u8, peer: SocketAddr, row: &ConnectionRow) -> bool {
        let named = SocketAddr::new(row.backend.into(), u16::from_be(row.backend_port));
        let doomed = || self.0.get(&peer).into_iter().flatten();
        let fits = |doomed: &Doomed| {
            doomed.id == row.backend_id && (protocol == protocol::UDP || doomed.tcp)
        };
        named == peer && doomed().any(fits)
    }

    /// The ports to ask the kernel for; `None`: all of them.
    fn ports(&self, protocol: u8) -> Vec<Option<u16>> {
        let all = self.all().filter(|doomed| protocol == protocol::UDP || doomed.tcp);
        let ports: BTreeSet<u16> = all.map(|doomed| doomed.backend.port()).collect();
        if ports.len() > PORTS { vec![None] } else { ports.into_iter().map(Some).collect() }
    }

    /// The sockets of the calling thread's namespace that are to be ended.
    fn sockets(&self, diag: &mut Diag, rows: &Rows, protocol: u8) -> nix::Result<Vec<Found>> {
        let mut chosen = Vec::new();
        let tokens = match protocol {
            protocol::TCP => self.mptcp_tokens(diag, rows)?,
            _ => BTreeSet::new(),
        };
        for port in self.ports(protocol) {
            let question = Question { protocol: protocol.into(), port, token: !tokens.is_empty() };
            diag.dump(&question, None, |found| {
                let of_mptcp = found.token.is_some_and(|token| tokens.contains(&token));
                let row = || self.0.contains_key(&found.peer).then(|| rows.of(found.cookie))?;
                if of_mptcp || row().is_some_and(|row| self.includes(protocol, found.peer, &row)) {
                    chosen.push(found);
                }
            })?;
        }
        Ok(chosen)
    }

    /// MPTCP connections to be ended. Their rows are kept on the sockets, and it is their subflows
    /// that can be ended, which bear their tokens.
    fn mptcp_tokens(&self, diag: &mut Diag, rows: &Rows) -> nix::Result<BTreeSet<u32>> {
        let mut tokens = BTreeSet::new();
        for port in self.ports(protocol::TCP) {
            let question = Question { protocol: protocol::MPTCP, port, token: true };
            let asked = diag.dump(&question, Some((&rows.sockets, rows.sockets_id)), |found| {
                let row = found.row.filter(|row| self.includes(protocol::TCP, found.peer, row));
                tokens.extend(row.and(found.token));
            });
            match asked {
                // A kernel without MPTCP.
                Err(Errno::ENOENT) => break,
                asked => asked?,
            }
        }
        Ok(tokens)
    }
}

// === impl Rows ===

impl Rows {
    pub(super) fn open(pins: &Path) -> Result<Self, DataplaneError> {
        let open = |name: &'static str| {
            MapData::from_pin(pins.join(name))
                .map_err(|e| DataplaneError::new(format!("opening {name}"), chain(&e)))
        };
        let failed = |name: &'static str, e: MapError| {
            DataplaneError::new(format!("reading {name}"), chain(&e))
        };
        let connections = Array::try_from(Map::Array(open("CONNECTIONS")?))
            .map_err(|e| failed("CONNECTIONS", e))?;
        let overflow = HashMap::try_from(Map::HashMap(open("CONNECTIONS_OVERFLOW")?))
            .map_err(|e| failed("CONNECTIONS_OVERFLOW", e))?;
        let times = match pins.join("CONNECTION_TIMES").exists() {
            true => Some(
                Array::try_from(Map::Array(open("CONNECTION_TIMES")?))
                    .map_err(|e| failed("CONNECTION_TIMES", e))?,
            ),
            false => None,
        };
        let overflow_times = match pins.join("OVERFLOW_TIMES").exists() {
            true => Some(
                HashMap::try_from(Map::HashMap(open("OVERFLOW_TIMES")?))
                    .map_err(|e| failed("OVERFLOW_TIMES", e))?,
            ),
            false => None,
        };
        let sockets = open("SOCKETS")?;
        let sockets_id =
            sockets.info().map_err(|e| DataplaneError::new("reading SOCKETS", chain(&e)))?.id();
        let mask = connections.len().saturating_sub(1);
        Ok(Self { connections, mask, times, overflow, overflow_times, sockets, sockets_id })
    }

    /// What is remembered of all sockets but MPTCP's, by cookie.
    pub(super) fn all(&self) -> Result<BTreeMap<u64, Memory>, DataplaneError> {
        let mut all = BTreeMap::new();
        let parse = |row: RawRow| bytemuck::pod_read_unaligned::<ConnectionRow>(&row);
        // A time is read after its row and written before it: it is that of who holds the row, or of
        // a later holder, and then this one is gone.
        for row in self.connections.iter() {
            let row = row.map_err(|e| DataplaneError::new("reading CONNECTIONS", chain(&e)))?;
            let row = parse(row);
            if row.cookie != 0 {
                let slot = self.slot(row.cookie);
                let since = self.times.as_ref().and_then(|times| times.get(&slot, 0).ok());
                all.insert(row.cookie, Memory { row, since: since.unwrap_or(0) });
            }
        }
        // A row that goes while they are read is not an error.
        for (cookie, row) in self.overflow.iter().filter_map(Result::ok) {
            let row = parse(row);
            let since = self.overflow_times.as_ref().and_then(|times| times.get(&cookie, 0).ok());
            all.insert(row.cookie, Memory { row, since: since.unwrap_or(0) });
        }
        Ok(all)
    }

    fn slot(&self, cookie: u64) -> u32 {
        let [low, _]: [u32; 2] = bytemuck::cast(cookie.to_le());
        u32::from_le(low) & self.mask
    }

    /// Whether a row is still what it was.
    pub(super) fn remembers(&self, row: &ConnectionRow) -> bool {
        self.of(row.cookie).as_ref() == Some(row)
    }

    /// The table that is kept on sockets, and its id.
    pub(super) fn storage(&self) -> (&MapData, u32) {
        (&self.sockets, self.sockets_id)
    }

    /// What is remembered of the socket with this cookie.
    fn of(&self, cookie: u64) -> Option<ConnectionRow> {
        let parse = |row: RawRow| bytemuck::pod_read_unaligned::<ConnectionRow>(&row);
        let is_its = |row: &ConnectionRow| row.cookie == cookie;
        // A table that can't be read remembers nothing: the socket stays as it is.
        let slot = self.connections.get(&self.slot(cookie), 0).ok().map(parse);
        slot.filter(is_its).or_else(|| self.overflow.get(&cookie, 0).ok().map(parse).filter(is_its))
    }
}

// === impl Destroyed ===

impl Destroyed {
    fn add(&mut self, other: Self) {
        let Self { udp, tcp, problems } = other;
        self.udp += udp;
        self.tcp += tcp;
        self.problems.extend(problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::rows::Address;

    const ONE: &str = "10.0.0.1:53";
    const TWO: &str = "10.0.0.2:53";
    const SIX: &str = "[fd00::1]:53";

    fn doomed(id: u32, backend: &str, tcp: bool) -> Doomed {
        Doomed { id, backend: backend.parse().unwrap(), tcp }
    }

    fn row(id: u32, backend: &str) -> ConnectionRow {
        let backend: SocketAddr = backend.parse().unwrap();
        ConnectionRow {
            cookie: 9,
            backend: Address::from(backend.ip()),
            backend_port: backend.port().to_be(),
            backend_id: id,
            ..ConnectionRow::default()
        }
    }

    #[test]
    fn only_what_row_and_peer_both_name() {
        let wanted =
            Wanted::new(&[doomed(1, ONE, false), doomed(2, ONE, true), doomed(3, SIX, false)]);
        let (udp, tcp) = (protocol::UDP, protocol::TCP);
        for (protocol, peer, row, expected) in [
            (udp, ONE, row(1, ONE), true),
            (udp, SIX, row(3, SIX), true),
            // TCP where the service says so only.
            (tcp, ONE, row(1, ONE), false),
            (tcp, ONE, row(2, ONE), true),
            // The same address as a backend of another service that stays.
            (udp, ONE, row(4, ONE), false),
            // An id that belongs to another address.
            (udp, ONE, row(3, ONE), false),
            // It went elsewhere since.
            (udp, TWO, row(1, ONE), false),
            (udp, ONE, row(1, TWO), false),
            (udp, TWO, row(1, TWO), false),
            (udp, "10.0.0.1:54", row(1, ONE), false),
        ] {
            let peer: SocketAddr = peer.parse().unwrap();
            assert_eq!(
                wanted.includes(protocol, peer, &row),
                expected,
                "{protocol} {peer} {row:?}"
            );
        }
    }

    #[test]
    fn few_ports_are_asked_for_by_themselves() {
        let backends = |ports: std::ops::Range<u16>| -> Vec<Doomed> {
            let tcp = |port: u16| port == 1;
            ports.map(|port| doomed(7, &format!("10.0.0.1:{port}"), tcp(port))).collect()
        };
        let few = Wanted::new(&backends(1..4));
        assert_eq!(few.ports(protocol::UDP), [Some(1), Some(2), Some(3)]);
        assert_eq!(few.ports(protocol::TCP), [Some(1)]);
        let many = Wanted::new(&backends(1..9));
        assert_eq!(many.ports(protocol::UDP), [None]);
        assert_eq!(many.ports(protocol::TCP), [Some(1)]);
    }
}
