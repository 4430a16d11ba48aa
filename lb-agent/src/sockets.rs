//! Open sockets that were translated, for people and programs. Pure.

use crate::model::Frontend;
use crate::status::ServiceStatus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

/// Most sockets in an answer: what a person can look at, and an answer that stays small.
pub const MOST: usize = 10_000;

/// Sockets that are open, and what could not be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The sockets, in the order that was asked for; [`MOST`] at most.
    pub sockets: Vec<OpenSocket>,
    /// How many there are.
    pub total: usize,
    /// What could not be looked at, and what to do about it.
    pub problems: Vec<String>,
}

/// In which order sockets are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// By service, frontend, backend and cookie.
    #[default]
    Service,
    /// The oldest first; those of an unknown age are older than all others.
    Age,
}

/// A socket that went to a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OpenSocket {
    /// Whose backend it went to; of a backend that is gone, whose frontend it dialled. Absent if
    /// nobody has that frontend any more.
    pub service: Option<String>,
    /// What it dialled.
    pub frontend: SocketAddr,
    /// Where it went.
    pub backend: SocketAddr,
    /// The backend's id.
    pub backend_id: u32,
    /// The socket's cookie.
    pub cookie: u64,
    /// Since when it goes there, about a quarter of a second coarse; absent if an earlier version's
    /// programs sent it there.
    #[serde(default, with = "humantime_serde")]
    pub since: Option<SystemTime>,
    /// What it speaks; absent if the kernel did not show the socket.
    pub transport: Option<Transport>,
    /// Its network namespace; absent if the kernel did not show the socket.
    pub netns: Option<Netns>,
    /// Who made it: a user's id.
    pub uid: Option<u32>,
    /// Processes that have it open, as far as they can be seen; [`HOLDERS`] at most.
    pub processes: Vec<Holder>,
}

/// Most processes that are named for a socket.
pub const HOLDERS: usize = 8;

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP, connected.
    Udp,
    /// MPTCP.
    Mptcp,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Netns {
    /// Its inode number, as `lsns` and `ls -l /proc/*/ns/net` show it.
    pub inode: u64,
    /// Its name in `/run/netns`, if it has one.
    pub name: Option<String>,
    /// Whether it is that of whoever looked: the agent, or `lbctl`.
    pub own: bool,
}

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}

impl Listing {
    /// Names the services, keeps those of `wanted` if one is, and puts all in order.
    pub fn named(mut self, services: &[ServiceStatus], wanted: Option<&str>, order: Order) -> Self {
        let mut by_id: BTreeMap<u32, &str> = BTreeMap::new();
        let mut names: BTreeMap<(SocketAddr, Option<&str>), &str> = BTreeMap::new();
        for service in services {
            let ids = service.backends.iter().filter_map(|backend| backend.id);
            by_id.extend(ids.map(|id| (id, service.name.as_str())));
            for Frontend { address, protocol } in service.frontends.iter().map(|f| f.frontend) {
                let transport = match protocol {
                    crate::model::Protocol::Tcp => "tcp",
                    crate::model::Protocol::Udp => "udp",
                    crate::model::Protocol::Sctp => "sctp",
                };
                names.insert((address, Some(transport)), &service.name);
                names.insert((address, None), &service.name);
            }
        }
        for socket in &mut self.sockets {
            let transport = socket.transport.map(|transport| match transport {
                Transport::Tcp | Transport::Mptcp => "tcp",
                Transport::Udp => "udp",
            });
            // A frontend may have gone to another service since; an id is one service's alone, until
            // its last socket is closed.
            let name = by_id.get(&socket.backend_id);
            let name = name.or_else(|| names.get(&(socket.frontend, transport)));
            socket.service = name.map(|name| (*name).to_owned());
        }
        if let Some(wanted) = wanted {
            self.sockets.retain(|socket| socket.service.as_deref() == Some(wanted));
        }
        self.sockets.sort();
        if order == Order::Age {
            self.sockets.sort_by_key(|socket| socket.since);
        }
        self.total = self.sockets.len();
        self.sockets.truncate(MOST);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NoBackend, Policy, Scope};
    use crate::status::{FrontendStatus, ServiceCounts};

    fn service(name: &str, frontend: &str) -> ServiceStatus {
        let frontend = frontend.parse().unwrap();
        let scope = Scope::Everywhere;
        ServiceStatus {
            name: name.to_owned(),
            id: None,
            source: "-".to_owned(),
            frontends: vec![FrontendStatus {
                frontend,
                scope,
                comes: Default::default(),
                installed: true,
                usable: 1,
                reach: Default::default(),
            }],
            policy: Policy::Random,
            affinity: None,
            no_backend: NoBackend::Refuse,
            no_node_backend: None,
            fails_open: false,
            backends: Vec::new(),
            counters: ServiceCounts::default(),
        }
    }

    fn socket(frontend: &str, transport: Option<Transport>, cookie: u64) -> OpenSocket {
        OpenSocket {
            service: None,
            frontend: frontend.parse().unwrap(),
            backend: "10.0.0.1:80".parse().unwrap(),
            backend_id: 1,
            cookie,
            since: None,
            transport,
            netns: None,
            uid: None,
            processes: Vec::new(),
        }
    }

    #[test]
    fn sockets_are_named_by_what_they_dialled() {
        let services = [service("web", "10.96.0.1:53"), service("dns", "10.96.0.1:53/udp")];
        let sockets = vec![
            socket("10.96.0.1:53", Some(Transport::Tcp), 4),
            socket("10.96.0.1:53", Some(Transport::Udp), 3),
            socket("10.96.0.1:53", Some(Transport::Mptcp), 2),
            socket("10.96.0.9:53", Some(Transport::Tcp), 1),
        ];
        let listing = Listing { sockets, ..Listing::default() };
        let seen = |wanted| -> Vec<(Option<String>, u64)> {
            let named = listing.clone().named(&services, wanted, Order::Service);
            assert_eq!(named.total, named.sockets.len());
            named.sockets.into_iter().map(|socket| (socket.service, socket.cookie)).collect()
        };
        let (web, dns) = (Some("web".to_owned()), Some("dns".to_owned()));
        let all = [(None, 1), (dns.clone(), 3), (web.clone(), 2), (web.clone(), 4)];
        assert_eq!(seen(None), all);
        assert_eq!(seen(Some("dns")), [(dns, 3)]);
        assert_eq!(seen(Some("other")), []);
    }

    #[test]
    fn an_answer_has_its_bounds() {
        let one = socket("10.96.0.1:53", None, 1);
        let listing = Listing { sockets: vec![one; MOST + 5], ..Listing::default() };
        let named = listing.named(&[], None, Order::Age);
        assert_eq!((named.sockets.len(), named.total), (MOST, MOST + 5));
    }
}
