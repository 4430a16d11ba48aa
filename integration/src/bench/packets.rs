//! Section `packets`: what the first packet of a connection from another host takes, by the number of
//! services; how soon services and changes of an endpoint are in effect. Beside it the same in rules of
//! kube-proxy's shape, and without any rules.

use super::statistics::tail;
use super::{Figure, Plan, Report};
use crate::kubernetes::large::{Large, address_of, serve, vip};
use crate::lab::{self, Lab};
use crate::large::percentile;
use crate::netns;
use crate::packets::measure::{changed, first_packets, loaded};
use crate::packets::{chains, outsider};
use crate::pods::Node;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const GROUP: &str = "packets";
/// What the servers call themselves.
const TAGS: [&str; 2] = ["0", "1"];

/// Whose rules.
#[derive(Clone, Copy)]
enum Rules {
    /// None; the server itself is dialled.
    None,
    /// A chain per service and per endpoint, as kube-proxy has them.
    Chains,
    /// The agent's.
    Ours,
}

/// How much is done.
#[derive(Clone, Copy)]
struct Amount {
    services: u32,
    /// Connections whose first packet is timed.
    connections: usize,
    /// Changes of an endpoint.
    changes: usize,
}

/// Measures all rules at each number of services.
pub(super) fn run(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let numbers: &[u32] = plan.choose(&[1, 10][..], &[1, 100, 1_000], &[1, 100, 1_000, 10_000]);
    let (connections, changes) = plan.choose((50, 3), (500, 20), (2_000, 100));
    for services in numbers.iter().copied() {
        for rules in [Rules::None, Rules::Chains, Rules::Ours] {
            let amount = Amount { services, connections, changes };
            lab::run("bench-packets", |lab| measure(lab, amount, rules, report));
        }
    }
    Ok(())
}

fn measure(lab: &Lab, amount: Amount, rules: Rules, report: &mut Report) {
    let Amount { services, connections, changes } = amount;
    let node = Node::here(lab, "near");
    let client = outsider(&node, lab, 9, "client");
    let rest = services - 1;
    let mut say = |what: &str, times: &[Duration], shares: &[(&str, f64)]| {
        for (name, share) in shares {
            let value = percentile(times.to_vec(), *share).as_secs_f64() * 1e6;
            let metric = format!("{what} {name}");
            let metric = metric.trim_end();
            let figure = Figure::new(GROUP, rules.name(), metric, value, "us");
            report.figure(figure.case("services", services));
        }
    };
    let mut row = |to: SocketAddr, load: Option<Duration>, change: &dyn Fn(usize) -> Duration| {
        let times = first_packets(&client, to, connections);
        say("first packet", &times, &[("p50", 0.5), tail(times.len())]);
        if let Some(load) = load {
            say("load", &[load], &[("", 0.5)]);
            let times: Vec<Duration> = (1..=changes).map(change).collect();
            say("change", &times, &[("p50", 0.5), tail(times.len())]);
        }
    };
    match rules {
        Rules::None => {
            let _servers = serve();
            let to = address_of(0);
            let via = node.addresses().v4.to_string();
            client.run(|| netns::add_route(&format!("{}/32", to.ip()), &via));
            row(to, None, &|_| Duration::ZERO);
        }
        Rules::Chains => {
            let _servers = serve();
            let begun = Instant::now();
            chains::load(rest);
            let load = begun.elapsed();
            row(vip(rest), Some(load), &|turn| {
                let begun = Instant::now();
                chains::change(rest, (turn + 1) % 2, turn % 2);
                changed(&client, begun, vip(rest), TAGS[turn % 2])
            });
        }
        Rules::Ours => {
            let large = Large::fill_with(lab, rest);
            let begun = Instant::now();
            let _agent = large.start_agent_with("packet_path: on");
            let load = loaded(&client, begun, large.probe());
            row(large.probe(), Some(load), &|turn| {
                let asked = large.move_to(turn % 2);
                changed(&client, asked, large.probe(), TAGS[turn % 2])
            });
        }
    }
}

// === impl Rules ===

impl Rules {
    /// How figures call it.
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ours => "ours",
            Self::Chains => "chains",
        }
    }
}
