//! Open sockets that were translated, for people and programs. Pure.

use crate::model::Frontend;
use crate::status::ServiceStatus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Most sockets in an answer: what a person can look at, and an answer that stays small.
pub const MOST: usize = 10_000;

/// Sockets that are open, and what could not be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The sockets, by service, frontend, backend and cookie; [`MOST`] at most.
    pub sockets: Vec<OpenSocket>,
    /// How many there are.
    pub total: usize,
    /// What could not be looked at, and what to do about it.
    pub problems: Vec<String>,
}

/// A socket that went to a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OpenSocket {
    /// Whose frontend it dialled; absent if nobody has that frontend any more.
    pub service: Option<String>,
    /// What it dialled.
    pub frontend: SocketAddr,
    /// Where it went.
    pub backend: SocketAddr,
    /// The backend's id.
    pub backend_id: u32,
    /// The socket's cookie.
    pub cookie: u64,
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
    pub fn named(mut self, services: &[ServiceStatus], wanted: Option<&str>) -> Self {
        let mut names: BTreeMap<(SocketAddr, Option<&str>), &str> = BTreeMap::new();
        for service in services {
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
            let name = names.get(&(socket.frontend, transport));
            socket.service = name.map(|name| (*name).to_owned());
        }
        if let Some(wanted) = wanted {
            self.sockets.retain(|socket| socket.service.as_deref() == Some(wanted));
        }
        self.sockets.sort();
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
            let named = listing.clone().named(&services, wanted);
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
        let named = listing.named(&[], None);
        assert_eq!((named.sockets.len(), named.total), (MOST, MOST + 5));
    }
}
