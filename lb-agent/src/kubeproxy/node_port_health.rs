//! The servers of healthCheckNodePorts: for each service that has such a port, where load
//! balancers outside ask whether this node has endpoints of it.

use super::applied::Applied;
use super::health::ServiceHealth;
use super::listen::PATIENCE;
use super::servers::code;
use crate::addresses::Addresses;
use crate::serving::{self, Listener, Patience};
use crate::source::kubernetes::cluster::{Facts, NodePortAddresses, NodePorts};
use crate::source::kubernetes::events::{Event, Events};
use axum::Router;
use axum::extract::State;
use axum::http::header::X_CONTENT_TYPE_OPTIONS;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// How long to wait before a port that was taken is tried again.
const PAUSE: Duration = Duration::from_secs(30);

/// How long a server that ends may take to give its port back.
const CLOSING: Duration = Duration::from_secs(1);

/// Connections the kernel keeps waiting.
const BACKLOG: i32 = 128;

/// Namespace and name of a service.
type Name = (Arc<str>, Arc<str>);

/// What the servers need to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name, for messages.
    pub node: String,
    /// Where NodePorts are served.
    pub node_ports: NodePorts,
    /// What the cluster says.
    pub facts: watch::Receiver<Arc<Facts>>,
    /// This node's addresses.
    pub addresses: Addresses,
    /// Where things stand.
    pub applied: Arc<Applied>,
    /// Who hears of a port that can't be had.
    pub events: Events,
}

/// A server of a service.
type Server = (Name, SocketAddr);

/// What ends a server.
#[derive(Debug)]
struct Running {
    /// Dropped, it ends.
    _stop: oneshot::Sender<()>,
    /// Fails once its port is free again.
    closed: oneshot::Receiver<()>,
}

/// A listener that tells when it is gone. The server itself lasts longer: until its last connection
/// has ended.
struct Listening {
    listener: TcpListener,
    /// Dropped after the listener.
    _closed: oneshot::Sender<()>,
}

// === impl Listening ===

impl Listener for Listening {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.listener.next().await
    }
}

/// Keeps the servers as the cluster wants them, for ever.
pub async fn run(settings: Settings) {
    run_with(PAUSE, PATIENCE, settings).await;
}

async fn run_with(pause: Duration, patience: Patience, settings: Settings) {
    let (mut facts, mut addresses) = (settings.facts.clone(), settings.addresses.clone());
    let mut running: BTreeMap<Server, Running> = BTreeMap::new();
    let mut refused: BTreeSet<Server> = BTreeSet::new();
    loop {
        let wanted = wanted(&settings, &facts.borrow_and_update(), &addresses.borrow_and_update());
        refused.retain(|server| wanted.contains(server));
        // Another server may want the port of one that ends.
        stop(running.extract_if(.., |server, _| !wanted.contains(server)).collect()).await;
        for server in wanted {
            if running.contains_key(&server) {
                continue;
            }
            let (name, at) = &server;
            match bind(*at) {
                Ok(listener) => {
                    refused.remove(&server);
                    let started = start(&settings, name, listener, patience);
                    running.insert(server, started);
                }
                // A host without IPv6 serves the other family.
                Err(error) if at.ip().is_unspecified() && is_no_family(&error) => {}
                Err(error) => {
                    if !refused.contains(&server) {
                        complain(&settings, name, *at, &error);
                    }
                    refused.insert(server);
                }
            }
        }
        let retry = async {
            match refused.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(pause).await,
            }
        };
        let (facts, addresses) = tokio::select! {
            changed = facts.changed() => (changed, Ok(())),
            changed = addresses.changed() => (Ok(()), changed),
            () = retry => (Ok(()), Ok(())),
        };
        if facts.is_err() || addresses.is_err() {
            return;
        }
    }
}

/// Stops these servers, and waits until their ports are free.
async fn stop(servers: BTreeMap<Server, Running>) {
    let closed: Vec<_> = servers.into_values().map(|running| running.closed).collect();
    let all = async {
        for closed in closed {
            // Its sender is dropped, which is the signal.
            drop(closed.await);
        }
    };
    if tokio::time::timeout(CLOSING, all).await.is_err() {
        tracing::warn!("a healthCheckNodePort is slow to close");
    }
}

fn complain(settings: &Settings, (namespace, name): &Name, at: SocketAddr, error: &io::Error) {
    let node = &settings.node;
    let note = format!(
        "node {node} failed to start healthcheck \"{namespace}/{name}\" on port {}: {at}: {error}; \
         free that port on the node",
        at.port()
    );
    tracing::error!("{note}");
    let (namespace, name) = (Arc::clone(namespace), Arc::clone(name));
    settings.events.tell(Event::service_healthcheck_failed(namespace, name, note));
}

/// Where each service's servers are to listen.
fn wanted(settings: &Settings, facts: &Facts, local: &BTreeSet<IpAddr>) -> BTreeSet<Server> {
    let node = facts.node.as_ref().map(|node| node.addresses.as_slice()).unwrap_or_default();
    let addresses = listen_on(&settings.node_ports.addresses, node, local);
    let checks = facts.health_checks.iter();
    let servers = checks.flat_map(|(name, check)| {
        addresses.iter().map(|ip| (name.clone(), SocketAddr::new(*ip, check.port)))
    });
    servers.collect()
}

/// The addresses that NodePorts are served on, with the unspecified one for all of a family.
fn listen_on(
    wanted: &NodePortAddresses,
    node: &[IpAddr],
    local: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let of_family = |any: IpAddr| move |ip: &IpAddr| ip.is_ipv4() == any.is_ipv4();
    let family = |any: IpAddr| -> Vec<IpAddr> {
        match wanted {
            NodePortAddresses::All => vec![any],
            // The Node may tell of addresses that no interface here has.
            NodePortAddresses::Primary => {
                let first = node.iter().copied().find(of_family(any));
                first.into_iter().filter(|ip| local.contains(ip)).collect()
            }
            NodePortAddresses::PrimaryIs(first) => {
                let mut all = std::iter::once(first).chain(node).copied();
                let first = all.find(of_family(any));
                first.into_iter().filter(|ip| local.contains(ip)).collect()
            }
            NodePortAddresses::Ranges(ranges) => {
                let ranges: Vec<&IpNet> =
                    ranges.iter().filter(|range| of_family(any)(&range.addr())).collect();
                // One that is everything, or none at all: no address is left out.
                if ranges.iter().all(|range| range.prefix_len() == 0) {
                    return vec![any];
                }
                let inside = |ip: &&IpAddr| ranges.iter().any(|range| range.contains(*ip));
                // An address of the link alone would need the link's number.
                let scoped =
                    |ip: &&IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
                local.iter().filter(inside).filter(|ip| !scoped(ip)).copied().collect()
            }
        }
    };
    any.into_iter().flat_map(family).collect()
}

fn start(settings: &Settings, name: &Name, listener: TcpListener, patience: Patience) -> Running {
    let router = Router::new().fallback(answer).with_state((settings.clone(), name.clone()));
    let (stop, stopped) = oneshot::channel::<()>();
    let (sender, closed) = oneshot::channel::<()>();
    let listener = Listening { listener, _closed: sender };
    // The sender is dropped, which is the signal.
    let stopped = async { drop(stopped.await) };
    tokio::spawn(serving::serve(listener, router, patience, stopped));
    Running { _stop: stop, closed }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // The other family has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is_no_family(error: &io::Error) -> bool {
    let missing = [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| missing.contains(&code))
}

async fn answer(State((settings, name)): State<(Settings, Name)>) -> Response {
    let local = settings.facts.borrow().health_checks.get(&name).map(|check| check.local_endpoints);
    let local = local.unwrap_or_default();
    let healthy = settings.applied.standing(SystemTime::now(), Instant::now()).is_healthy();
    let health = ServiceHealth::new(&name.0, &name.1, local, healthy);
    let headers = [
        (X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff".to_owned()),
        ("x-load-balancing-endpoint-weight", local.to_string()),
    ];
    (code(health.is_good()), headers, axum::Json(health)).into_response()
}

#[cfg(test)]
mod tests;
