//! The backends of a scene, and what the store says of them before and after each round.

use super::{DNS4, DNS6, WEB4, WEB6, backend, backend_key, frontends, service_key};
use integration::server::{Backends, Kind, any_port};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// How many rounds of changes a scene has.
const ROUNDS: usize = 2;

/// The last byte of the address of a service that is new in a round, moves, or goes.
pub(crate) const NEW: u8 = 1;
pub(crate) const MOVED: u8 = 2;
pub(crate) const OLD: u8 = 3;

/// All backends there ever are.
pub(super) struct Servers {
    tcp4: Backends,
    tcp6: Backends,
    udp4: Backends,
    udp6: Backends,
}

/// The address of such a service.
pub(crate) fn vip(round: usize, what: u8) -> String {
    format!("10.96.{}.{what}:80", round + 1)
}

// === impl Servers ===

impl Servers {
    pub(super) fn start() -> Self {
        let rounds = |name: &'static str| (0..ROUNDS).map(move |number| format!("{name}-{number}"));
        let steady = |name: &'static str| (0..3).map(move |number| format!("{name}{number}"));
        let others = ["new", "moved-from", "moved-to", "old"].map(str::to_owned);
        let web = || rounds("added").chain(rounds("gone"));
        let udp =
            |ip, name| Backends::start(Kind::Udp, steady(name).map(|tag| (any_port(ip), tag)));
        Self {
            tcp4: Backends::tcp("127.0.0.1", steady("web4.").chain(web()).chain(others)),
            tcp6: Backends::tcp("::1", steady("web6.").chain(web())),
            udp4: udp("127.0.0.1", "dns4."),
            udp6: udp("::1", "dns6."),
        }
    }

    /// Who answers at a service's address before the first round.
    pub(super) fn steady(&self, to: SocketAddr) -> Vec<String> {
        let family = if to.is_ipv4() { 4 } else { 6 };
        let name = if to.port() == 80 { "web" } else { "dns" };
        let gone = (0..ROUNDS).filter(|_| name == "web").map(|number| format!("gone-{number}"));
        (0..3).map(|number| format!("{name}{family}.{number}")).chain(gone).collect()
    }

    /// The backends that go in a round.
    pub(super) fn gone(&self, number: usize) -> [SocketAddr; 2] {
        let tag = format!("gone-{number}");
        [self.tcp4.tagged(&tag), self.tcp6.tagged(&tag)]
    }

    /// What the store holds before the first round.
    pub(super) fn content(&self) -> BTreeMap<String, String> {
        let mut content = BTreeMap::from([
            (service_key("web"), frontends(&[WEB4, WEB6])),
            (service_key("dns"), frontends(&[&format!("{DNS4}/udp"), &format!("{DNS6}/udp")])),
        ]);
        for number in 0..3 {
            for (service, family, servers) in [
                ("web", 4, &self.tcp4),
                ("web", 6, &self.tcp6),
                ("dns", 4, &self.udp4),
                ("dns", 6, &self.udp6),
            ] {
                let tag = format!("{service}{family}.{number}");
                content.insert(backend_key(service, &tag), backend(servers.tagged(&tag)));
            }
        }
        for number in 0..ROUNDS {
            let [gone4, gone6] = self.gone(number);
            content.insert(backend_key("web", &format!("gone4-{number}")), backend(gone4));
            content.insert(backend_key("web", &format!("gone6-{number}")), backend(gone6));
            for (name, what, tag) in [("moved", MOVED, "moved-from"), ("old", OLD, "old")] {
                let name = format!("{name}-{number}");
                content.insert(service_key(&name), frontends(&[&vip(number, what)]));
                content.insert(backend_key(&name, "0"), backend(self.tcp4.tagged(tag)));
            }
        }
        content
    }

    /// The keys that a round puts, and those it deletes.
    pub(super) fn round(&self, number: usize) -> (BTreeMap<String, String>, BTreeSet<String>) {
        let (new, moved, old) =
            (format!("new-{number}"), format!("moved-{number}"), format!("old-{number}"));
        let added = format!("added-{number}");
        let put = BTreeMap::from([
            (service_key(&new), frontends(&[&vip(number, NEW)])),
            (backend_key(&new, "0"), backend(self.tcp4.tagged("new"))),
            (backend_key(&moved, "0"), backend(self.tcp4.tagged("moved-to"))),
            (backend_key("web", &format!("added4-{number}")), backend(self.tcp4.tagged(&added))),
            (backend_key("web", &format!("added6-{number}")), backend(self.tcp6.tagged(&added))),
        ]);
        let deleted = BTreeSet::from([
            service_key(&old),
            backend_key(&old, "0"),
            backend_key("web", &format!("gone4-{number}")),
            backend_key("web", &format!("gone6-{number}")),
        ]);
        (put, deleted)
    }
}
