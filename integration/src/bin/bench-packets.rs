//! `make bench-packets`: what the first packet of a connection from another host takes, by the number
//! of services; how soon services and changes of an endpoint are in effect. Beside it the same in
//! rules of kube-proxy's shape, and without any rules.

use anyhow::Context;
use clap::{Parser, ValueEnum};
use integration::kubernetes::large::{Large, address_of, serve, vip};
use integration::lab::{self, Lab};
use integration::large::{EACH, percentile};
use integration::netns;
use integration::packets::measure::{changed, first_packets, loaded};
use integration::packets::{chains, outsider};
use integration::pods::Node;
use serde::Serialize;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What the servers call themselves.
const TAGS: [&str; 2] = ["0", "1"];

#[derive(Parser)]
struct Cli {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Numbers of services
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1_000, 10_000])]
    services: Vec<u32>,
    /// Whose rules
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Rules::None, Rules::Chains, Rules::Ours])]
    rules: Vec<Rules>,
    /// Connections whose first packet is timed
    #[arg(long, default_value_t = 2_000)]
    connections: usize,
    /// Changes of an endpoint
    #[arg(long, default_value_t = 100)]
    changes: usize,
}

/// Times of one way to translate, in microseconds.
#[derive(Serialize)]
struct Row {
    services: u32,
    rules: &'static str,
    first_packet_p50: f64,
    first_packet_p99: f64,
    /// All services loaded: from the start of the agent, or of `nft`.
    load: Option<f64>,
    change_p50: Option<f64>,
    change_p99: Option<f64>,
}

/// Whose rules.
#[derive(Clone, Copy, ValueEnum)]
enum Rules {
    /// None; the server itself is dialled.
    None,
    /// A chain per service and per endpoint, as kube-proxy has them.
    Chains,
    /// The agent's.
    Ours,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let mut out = std::io::stdout().lock();
    if !cli.json {
        writeln!(
            out,
            "{EACH} endpoints a service; {} connections from another host, {} changes\n\n{:<10}{:<10}{:>14}{:>14}{:>12}{:>14}{:>14}",
            cli.connections,
            cli.changes,
            "SERVICES",
            "RULES",
            "1ST PKT P50",
            "P99",
            "LOAD",
            "CHANGE P50",
            "P99"
        )?;
    }
    for services in &cli.services {
        for &rules in &cli.rules {
            let mut row = None;
            lab::run("bench-packets", |lab| row = Some(measure(lab, &cli, *services, rules)));
            let row = row.context("the lab did not run")?;
            if cli.json {
                writeln!(out, "{}", serde_json::to_string(&row)?)?;
            } else {
                let Row {
                    first_packet_p50, first_packet_p99, load, change_p50, change_p99, ..
                } = row;
                writeln!(
                    out,
                    "{services:<10}{:<10}{:>14}{:>14}{:>12}{:>14}{:>14}",
                    row.rules,
                    micros(first_packet_p50),
                    micros(first_packet_p99),
                    load.map_or_else(|| "-".to_owned(), millis),
                    change_p50.map_or_else(|| "-".to_owned(), millis),
                    change_p99.map_or_else(|| "-".to_owned(), millis),
                )?;
            }
        }
    }
    Ok(())
}

fn measure(lab: &Lab, cli: &Cli, services: u32, rules: Rules) -> Row {
    let node = Node::here(lab, "near");
    let client = outsider(&node, lab, 9, "client");
    let rest = services - 1;
    let row = |to: SocketAddr, load: Option<Duration>, change: &dyn Fn(usize) -> Duration| {
        let first = first_packets(&client, to, cli.connections);
        let changes = if load.is_some() { cli.changes } else { 0 };
        let changes: Vec<Duration> = (1..=changes).map(change).collect();
        let of_changes = |share| Some(&changes).filter(|c| !c.is_empty()).map(|c| us(c, share));
        Row {
            services,
            rules: rules.name(),
            first_packet_p50: us(&first, 0.5),
            first_packet_p99: us(&first, 0.99),
            load: load.map(|load| us(&[load], 0.5)),
            change_p50: of_changes(0.5),
            change_p99: of_changes(0.99),
        }
    };
    match rules {
        Rules::None => {
            let _servers = serve();
            let to = address_of(0);
            let via = node.addresses().v4.to_string();
            client.run(|| netns::add_route(&format!("{}/32", to.ip()), &via));
            row(to, None, &|_| Duration::ZERO)
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
            })
        }
        Rules::Ours => {
            let large = Large::fill_with(lab, rest);
            let begun = Instant::now();
            let _agent = large.start_agent_with("packet_path: on");
            let load = loaded(&client, begun, large.probe());
            row(large.probe(), Some(load), &|turn| {
                let asked = large.move_to(turn % 2);
                changed(&client, asked, large.probe(), TAGS[turn % 2])
            })
        }
    }
}

fn us(times: &[Duration], share: f64) -> f64 {
    percentile(times.to_vec(), share).as_secs_f64() * 1e6
}

fn millis(micros: f64) -> String {
    format!("{:.1} ms", micros / 1e3)
}

fn micros(micros: f64) -> String {
    format!("{micros:.0} us")
}

// === impl Rules ===

impl Rules {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ours => "ours",
            Self::Chains => "chains",
        }
    }
}
