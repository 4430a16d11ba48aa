//! Services from a file or a store that are exposed: this host serves them to others.

use integration::agent::Agent;
use integration::client::dial_within;
use integration::etcd::Etcd;
use integration::kubernetes::{PACKETS, TCP, nobody, reaches, reaches_as, refused};
use integration::lab::{self, Lab};
use integration::packets::nft::tables;
use integration::packets::outsider;
use integration::pods::{Node, Pair, Place, Pod, Way};
use integration::server::Kind;
use integration::spec::{Spec, service, services};
use integration::stats::assert_shares;
use integration::wait::eventually;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

const VIP: Pair =
    Pair { v4: Ipv4Addr::new(10, 96, 0, 20), v6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x20) };
const WAYS: &[Way] = &[Way::Tcp, Way::Connected];
const DEADLINE: Duration = Duration::from_secs(20);

/// A router with backends behind it and a client before it.
struct Gateway {
    backends: [Pod; 2],
    client: Node,
    node: Node,
}

impl Gateway {
    fn in_lab(lab: &Lab) -> Self {
        let node = Node::here(lab, "gateway");
        let client = outsider(&node, lab, 9, "client");
        let backends = ["a", "b"].map(|name| {
            let pod = node.pod(name);
            [Kind::Tcp, Kind::Udp].into_iter().for_each(|kind| pod.serve(kind, 8080));
            pod
        });
        Self { backends, client, node }
    }

    fn at(&self, index: usize) -> [SocketAddr; 2] {
        self.backends[index].addresses().at(8080)
    }

    /// A service in both families and protocols, with both backends.
    fn web(&self) -> Spec {
        let web =
            VIP.at(80).into_iter().fold(service("web"), |web, vip| web.frontend(vip).udp(vip));
        web.backends(self.at(0)).backends(self.at(1))
    }
}

#[track_caller]
fn becomes(from: &Place, ways: &[Way], to: [SocketAddr; 2], tag: &str) {
    for to in to {
        for way in ways {
            let patience = Duration::from_millis(300);
            eventually(&format!("{tag} alone to answer at {to}"), DEADLINE, || {
                (0..10).all(|_| {
                    from.ask_within(*way, to, patience).is_ok_and(|asked| asked.tag == tag)
                })
            });
        }
    }
}

#[track_caller]
fn becomes_served(gateway: &Gateway) {
    for to in VIP.at(80) {
        eventually("the exposed service", DEADLINE, || {
            gateway.client.ask_within(Way::Tcp, to, Duration::from_millis(300)).is_ok()
        });
    }
}

#[test]
fn an_exposed_service_of_a_file() {
    lab::run("exposed-file", |lab| {
        let gateway = Gateway::in_lab(lab);
        let hidden = service("hidden").frontend("10.96.0.21:80").backends(gateway.at(0).first());
        let exposed = gateway.web().with("expose: true");
        let agent = Agent::start(lab, &services(&[exposed, hidden.clone()]));
        becomes_served(&gateway);
        reaches(&gateway.client, WAYS, VIP.at(80), &["a", "b"]);
        // The host itself is served as ever, and others only what is exposed.
        reaches(&gateway.node, WAYS, VIP.at(80), &["a", "b"]);
        let other: [SocketAddr; 1] = ["10.96.0.21:80".parse().expect("an address")];
        reaches(&gateway.node, &WAYS[..1], other, &["a"]);
        nobody(&gateway.client, &WAYS[..1], other);

        // Without anything exposed no packet is looked at any more.
        agent.reload(&services(&[gateway.web(), hidden]));
        for to in VIP.at(80) {
            eventually("the service to be this host's alone", DEADLINE, || {
                gateway.client.ask_within(Way::Tcp, to, Duration::from_millis(300)).is_err()
            });
        }
        reaches(&gateway.node, WAYS, VIP.at(80), &["a", "b"]);
    });
}

#[test]
fn without_anything_exposed_no_table_is_made() {
    lab::run("exposed-none", |lab| {
        let gateway = Gateway::in_lab(lab);
        let _agent = Agent::start(lab, &services(&[gateway.web()]));
        reaches(&gateway.node, WAYS, VIP.at(80), &["a", "b"]);
        assert_eq!(tables(), [""; 0]);
    });
}

/// What an agent left is not left to itself by the next one, though that has nothing to serve.
#[test]
fn what_was_exposed_before_a_restart_is_not_served_for_ever() {
    lab::run("exposed-left", |lab| {
        let gateway = Gateway::in_lab(lab);
        let agent = Agent::start(lab, &services(&[gateway.web().with("expose: true")]));
        becomes_served(&gateway);
        assert_eq!(agent.stop().code(), Some(0));
        let agent = Agent::start(lab, &services(&[gateway.web()]));
        for to in VIP.at(80) {
            eventually("the service to be this host's alone", DEADLINE, || {
                gateway.client.ask_within(Way::Tcp, to, Duration::from_millis(300)).is_err()
            });
        }
        drop(agent);
    });
}

/// Shares of new connections are what the weights say, and who is drained gets none.
#[test]
fn weights_and_drain_of_an_exposed_service() {
    lab::run("exposed-weights", |lab| {
        let gateway = Gateway::in_lab(lab);
        let weighted = |weight: u32| {
            let [a, b] = [0, 1].map(|index| gateway.at(index)[0]);
            let web = service("web").frontend(VIP.at(80)[0]).udp(VIP.at(80)[0]);
            web.backend(a).backend_with(b, format!("weight: {weight}")).with("expose: true")
        };
        let agent = Agent::start(lab, &services(&[weighted(3)]));
        let to = VIP.at(80)[0];
        eventually("the exposed service", DEADLINE, || {
            gateway.client.ask_within(Way::Tcp, to, Duration::from_millis(300)).is_ok()
        });
        let mut counts = [0u64; 2];
        for _ in 0..800 {
            let asked = gateway.client.ask(Way::Unconnected, to).expect("an answer");
            counts[usize::from(asked.tag == "b")] += 1;
        }
        assert_shares("weights 1 and 3", &counts, &[1, 3]);

        let [a, b] = [0, 1].map(|index| format!("web/{}", gateway.at(index)[0]));
        let lbctl = |arguments: &[&str]| {
            let finished = lab.lbctl(arguments);
            assert_eq!(finished.code, Some(0), "{finished:?}");
        };
        let only = |tag: &str| {
            eventually(&format!("{tag} alone"), DEADLINE, || {
                (0..20)
                    .all(|_| gateway.client.ask(Way::Tcp, to).is_ok_and(|asked| asked.tag == tag))
            });
        };
        lbctl(&["drain", &b]);
        only("a");
        lbctl(&["undrain", &b]);
        lbctl(&["drain", &a]);
        only("b");
        lbctl(&["undrain", &a]);
        eventually("both again", DEADLINE, || {
            (0..20).any(|_| gateway.client.ask(Way::Tcp, to).is_ok_and(|asked| asked.tag == "a"))
        });
        drop(agent);
    });
}

/// Affinity, and the sort of client a backend sees: not itself where it would answer itself.
#[test]
fn affinity_and_hairpin_of_an_exposed_service() {
    lab::run("exposed-affinity", |lab| {
        let gateway = Gateway::in_lab(lab);
        let guest = gateway.node.guest(lab, "guest");
        [Kind::Tcp, Kind::Udp].into_iter().for_each(|kind| guest.serve(kind, 8080));
        let sticky = gateway.web().with("expose: true").with("affinity: {}");
        let own =
            VIP.at(81).into_iter().fold(service("own"), |own, vip| own.frontend(vip).udp(vip));
        let own = own.backends(guest.addresses().at(8080)).with("expose: true");
        let _agent = Agent::start(lab, &services(&[sticky, own]));
        for to in VIP.at(80) {
            for way in WAYS {
                eventually("the exposed service", DEADLINE, || {
                    gateway.client.ask_within(*way, to, Duration::from_millis(300)).is_ok()
                });
                let first = gateway.client.ask(*way, to).expect("an answer").tag;
                for _ in 0..20 {
                    let asked = gateway.client.ask(*way, to).expect("an answer");
                    assert_eq!(asked.tag, first, "{way:?} to {to}");
                }
            }
        }
        reaches_as(&guest, WAYS, VIP.at(81), &[("guest", gateway.node.gateway())]);
    });
}

#[test]
fn an_exposed_service_of_a_store() {
    lab::run("exposed-store", |lab| {
        let gateway = Gateway::in_lab(lab);
        let etcd = Etcd::start(lab.scratch());
        let [a, b] = [0, 1].map(|index| gateway.at(index).map(|address| format!("\"{address}\"")));
        let web = |expose: bool, backends: &str| {
            let [v4, v6] = VIP.at(80);
            etcd.put(
                "/lb/services/web",
                format!(
                    "{{\"frontends\": [\"{v4}\", \"{v6}\", \"{v4}/udp\", \"{v6}/udp\"], \
                     \"backends\": [{backends}], \"expose\": {expose}}}"
                ),
            );
        };
        web(true, &a.join(", "));
        lab.set_settings(&format!(
            "packet_path: auto\nsources:\n  - etcd: {{endpoints: [\"{}\"]}}\n    \
             vip_ranges: [10.96.0.0/16, \"fd00:96::/64\"]\n",
            etcd.endpoint()
        ));
        let _agent = Agent::start(lab, "");
        becomes(&gateway.client, WAYS, VIP.at(80), "a");
        web(true, &b.join(", "));
        becomes(&gateway.client, WAYS, VIP.at(80), "b");
        web(true, "");
        for to in VIP.at(80) {
            eventually("a refusal", DEADLINE, || {
                let asked = gateway.client.ask_within(Way::Tcp, to, Duration::from_millis(300));
                asked.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
            });
        }
        refused(&gateway.client, &PACKETS[..2], VIP.at(80));
        web(false, &b.join(", "));
        for to in VIP.at(80) {
            eventually("the service to be this host's alone", DEADLINE, || {
                let asked = gateway.client.ask_within(Way::Tcp, to, Duration::from_millis(300));
                asked.is_err_and(|error| error.kind() != std::io::ErrorKind::ConnectionRefused)
            });
        }
        reaches(&gateway.node, WAYS, VIP.at(80), &["b"]);
    });
}

/// What comes by packets is ended as sockets are, where the service says so, and else goes on.
#[test]
fn connections_to_removed_backends_are_reset_if_asked() {
    lab::run("exposed-reset", |lab| {
        let gateway = Gateway::in_lab(lab);
        let state = |setting: &str, backend: usize| {
            let mut web =
                service("web").with("expose: true").with(format!("on_removal: {setting}"));
            web = VIP.at(80).into_iter().fold(web, |web, vip| web.frontend(vip));
            services(&[web.backends(gateway.at(backend))])
        };
        let agent = Agent::start(lab, &state("drain", 0));
        becomes_served(&gateway);
        let dial = || {
            VIP.at(80)
                .map(|to| gateway.client.run(|| dial_within(to, DEADLINE)).expect("an answer"))
        };
        let mut stay = dial();
        agent.reload(&state("drain", 1));
        becomes(&gateway.client, TCP, VIP.at(80), "b");
        assert!(stay.iter_mut().all(|call| call.echoes("still there")), "told to drain");
        agent.reload(&state("reset", 1));
        let mut go = dial();
        agent.reload(&state("reset", 0));
        for call in &mut go {
            eventually("a connection to end", DEADLINE, || !call.echoes("still there"));
        }
        becomes(&gateway.client, TCP, VIP.at(80), "a");
    });
}
