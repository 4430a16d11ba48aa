//! The servers of healthCheckNodePorts: one for each service that has such a port, where load
//! balancers outside ask whether this node has endpoints of it.

use super::applied::Applied;
use super::health::ServiceHealth;
use super::servers::code;
use crate::addresses::Addresses;
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
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

/// How long to wait before a port that was taken is tried again.
const PAUSE: Duration = Duration::from_secs(30);

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

/// The servers of a service.
#[derive(Debug)]
struct Running {
    on: BTreeSet<SocketAddr>,
    /// Dropped, they end.
    _stop: Vec<oneshot::Sender<()>>,
}

/// Keeps the servers as the cluster wants them, for ever.
pub async fn run(settings: Settings) {
    run_every(PAUSE, settings).await;
}

async fn run_every(pause: Duration, settings: Settings) {
    let (mut facts, mut addresses) = (settings.facts.clone(), settings.addresses.clone());
    let mut running: BTreeMap<Name, Running> = BTreeMap::new();
    let mut refused: BTreeMap<Name, BTreeSet<SocketAddr>> = BTreeMap::new();
    loop {
        let wanted = wanted(&settings, &facts.borrow_and_update(), &addresses.borrow_and_update());
        running.retain(|name, running| wanted.get(name) == Some(&running.on));
        refused.retain(|name, on| wanted.get(name) == Some(on));
        // A server that was stopped gives its port back on its own task.
        tokio::task::yield_now().await;
        for (name, on) in wanted.into_iter().filter(|(_, on)| !on.is_empty()) {
            if running.contains_key(&name) {
                continue;
            }
            match start(&settings, &name, &on) {
                Ok(server) => {
                    refused.remove(&name);
                    running.insert(name, server);
                }
                Err((at, error)) => {
                    if refused.get(&name) != Some(&on) {
                        complain(&settings, &name, at, &error);
                    }
                    refused.insert(name, on);
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
fn wanted(
    settings: &Settings,
    facts: &Facts,
    local: &BTreeSet<IpAddr>,
) -> BTreeMap<Name, BTreeSet<SocketAddr>> {
    let node = facts.node.as_ref().map(|node| node.addresses.as_slice()).unwrap_or_default();
    let addresses = listen_on(&settings.node_ports.addresses, node, local);
    let at = |port| addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    facts.health_checks.iter().map(|(name, check)| (name.clone(), at(check.port))).collect()
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
            NodePortAddresses::Primary => {
                node.iter().copied().find(of_family(any)).into_iter().collect()
            }
            NodePortAddresses::PrimaryIs(first) => {
                let all = std::iter::once(first).chain(node).copied();
                all.filter(of_family(any)).take(1).collect()
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

fn start(
    settings: &Settings,
    name: &Name,
    on: &BTreeSet<SocketAddr>,
) -> Result<Running, (SocketAddr, io::Error)> {
    let mut listeners = Vec::new();
    for address in on {
        match bind(*address) {
            Ok(listener) => listeners.push(listener),
            // A host without IPv6 serves the other family.
            Err(error) if address.ip().is_unspecified() && is_no_family(&error) => {}
            Err(error) => return Err((*address, error)),
        }
    }
    let server = Router::new().fallback(answer).with_state((settings.clone(), name.clone()));
    let serve = |listener| {
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = axum::serve(listener, server.clone()).with_graceful_shutdown(async move {
            // The sender is dropped, which is the signal.
            drop(stopped.await);
        });
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::warn!(%error, "a healthCheckNodePort is not served any more");
            }
        });
        stop
    };
    Ok(Running { on: on.clone(), _stop: listeners.into_iter().map(serve).collect() })
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
    let healthy = settings.applied.standing(SystemTime::now()).is_healthy();
    let health = ServiceHealth::new(&name.0, &name.1, local, healthy);
    let headers = [
        (X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff".to_owned()),
        ("x-load-balancing-endpoint-weight", local.to_string()),
    ];
    (code(health.is_good()), headers, axum::Json(health)).into_response()
}

#[cfg(test)]
mod tests;
