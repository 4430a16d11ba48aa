//! `explain --manifests`: reads manifests and shows what a node would do with a connection. No agent is asked, no
//! kernel and no cluster: [`crate::forecast`] decides.

mod setup;

use self::setup::{Settings, Setup};
use super::details::{labelled, lines, section};
use super::human::span;
use super::render::Look;
use super::table::Table;
use super::{BAD_USAGE, Form, Output, say, show};
use crate::forecast::manifests::Objects;
use crate::forecast::{Answer, Caller, Dialled, Kind, ListName, Place, Used, Verdict, View};
use crate::model::Frontend;
use crate::source::kubernetes::topology::Rule;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

/// The name of standard input among the manifests.
const STDIN: &str = "-";

/// What a cluster would say, and who would be asked.
#[derive(Debug, Args)]
pub(super) struct Manifests {
    /// Manifests of Services, EndpointSlices, Nodes and ServiceCIDRs, in YAML or JSON; `-`: standard
    /// input. May be given several times
    #[arg(long, value_name = "FILE")]
    manifests: Vec<PathBuf>,
    /// The node that is asked about, if not the one that its configuration names
    #[arg(long, value_name = "NAME", requires = "manifests")]
    node: Option<String>,
    /// Its zone, if not the one that its Node object has
    #[arg(long, value_name = "ZONE", requires = "manifests")]
    zone: Option<String>,
    /// One of its addresses, if they are not those that its Node object has; the first of a family is the
    /// primary one. May be given several times
    #[arg(long, value_name = "IP", requires = "manifests")]
    node_ip: Vec<IpAddr>,
    #[command(flatten)]
    setup: Setup,
    /// Who dials
    #[arg(long, value_enum, default_value_t, value_name = "WHO", requires = "manifests")]
    from: From,
}

/// Who dials.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum From {
    /// A pod on the node
    #[default]
    Pod,
    /// A process in the node's own network namespace
    Node,
    /// Somebody whose packets arrive at the node
    Outside,
}

// === impl Manifests ===

impl Manifests {
    /// Whether it is manifests that are asked about.
    pub(super) fn are_given(&self) -> bool {
        !self.manifests.is_empty()
    }

    /// Answers; exit code 0 if the connection would come about.
    pub(super) fn run(self, to: Frontend, output: &Output) -> anyhow::Result<ExitCode> {
        let settings = match self.setup.read() {
            Ok(settings) => settings,
            Err(problems) => {
                problems.iter().for_each(|problem| say(problem));
                return Ok(BAD_USAGE.into());
            }
        };
        let Settings { node, node_ports, scope } = settings;
        let Some(node) = self.node.or(node) else {
            say("explain needs --node NAME: which endpoints are used depends on the node");
            return Ok(BAD_USAGE.into());
        };
        let mut objects = Objects::default();
        let mut good = true;
        for file in &self.manifests {
            if let Err(problem) = read(&mut objects, file) {
                say(&problem);
                good = false;
            }
        }
        if !good {
            return Ok(BAD_USAGE.into());
        }
        let addresses = self.node_ip.iter().map(IpAddr::to_canonical).collect();
        let place = Place { node, zone: self.zone, addresses, node_ports, scope };
        let mut view = View::new(objects, place);
        let from = match self.from {
            From::Pod => Caller::Pod,
            From::Node => Caller::Node,
            From::Outside => Caller::Outside,
        };
        let answer = view.explain(to, from);
        show(&match output.form {
            Form::Table | Form::Wide => text(&answer, output),
            Form::Json => {
                serde_json::to_string_pretty(&answer).context("cannot write this as JSON")? + "\n"
            }
            Form::Yaml => serde_saphyr::to_string(&answer).context("cannot write this as YAML")?,
            Form::Name => {
                answer.endpoints.iter().map(|used| format!("{}\n", used.address)).collect()
            }
        })?;
        let connects = answer.verdict == Verdict::Connects;
        Ok(if connects { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn read(objects: &mut Objects, file: &Path) -> Result<(), String> {
    let name = file.display().to_string();
    let mut text = String::new();
    let read = if name == STDIN {
        io::stdin().read_to_string(&mut text).map(drop)
    } else {
        fs::read_to_string(file).map(|read| text = read)
    };
    read.map_err(|error| format!("{name}: {error}; name a readable file of text"))?;
    objects.add(&name, &text)
}

fn text(answer: &Answer, output: &Output) -> String {
    let look = Look { wide: false, headers: !output.no_headers, now: SystemTime::UNIX_EPOCH };
    let who = match answer.from {
        Caller::Pod => "a pod on node",
        Caller::Node => "node",
        Caller::Outside => "outside, by way of node",
    };
    let zone = answer.zone.as_deref().map(|zone| format!(" (zone {zone})")).unwrap_or_default();
    let mut pairs = vec![
        ("To:", answer.to.to_string()),
        ("From:", format!("{who} {}{zone}", answer.node)),
        ("Verdict:", verdict(answer)),
    ];
    if !answer.why.is_empty() {
        pairs.push(("Because:", answer.why.clone()));
    }
    if answer.by_packet {
        pairs.push((
            "Done by:",
            "the packet path; nothing is translated when it connects".to_owned(),
        ));
    }
    if let Some(dialled) = &answer.service {
        pairs.extend(service(dialled));
    }
    let mut text = labelled(pairs);
    let or_none = |word: &Option<Arc<str>>| word.as_deref().unwrap_or("-").to_owned();
    let cells = |Used { address, node, zone }: &Used| {
        let shown = match address.port() {
            0 => address.ip().to_string(),
            _ => address.to_string(),
        };
        [shown, or_none(node), or_none(zone)]
    };
    let mut used = Table::new(["ENDPOINT", "NODE", "ZONE"]);
    answer.endpoints.iter().for_each(|endpoint| used.push(cells(endpoint)));
    section(&mut text, "Endpoints", &used, look);
    let mut left = Table::new(["ENDPOINT", "NODE", "ZONE", "RULE"]);
    for out in &answer.left_out {
        left.push(cells(&out.endpoint).into_iter().chain([out.reason.to_string()]));
    }
    section(&mut text, "Left out", &left, look);
    lines(&mut text, "Notes", &answer.notes);
    text
}

fn verdict(answer: &Answer) -> String {
    match (answer.verdict, answer.by_packet, answer.endpoints.len()) {
        (Verdict::Connects, _, 1) => "connects to the only endpoint".to_owned(),
        (Verdict::Connects, _, count) => format!("connects to one of {count} endpoints"),
        (Verdict::Refused, false, _) => "refused (ECONNREFUSED)".to_owned(),
        (Verdict::Refused, true, _) => "refused (a reset, or ICMP port unreachable)".to_owned(),
        (Verdict::Unreachable, ..) => "fails at once (EHOSTUNREACH)".to_owned(),
        (Verdict::Dropped, ..) => "dropped: no answer".to_owned(),
        (Verdict::LeftAlone, ..) => "left alone".to_owned(),
    }
}

fn service(dialled: &Dialled) -> [(&'static str, String); 5] {
    let port =
        if dialled.port.is_empty() { String::new() } else { format!(", port {}", dialled.port) };
    let kind = match dialled.kind {
        Kind::ClusterIp => "ClusterIP",
        Kind::ExternalIp => "externalIP",
        Kind::LoadBalancer => "load balancer",
        Kind::NodePort => "NodePort",
    };
    let rule = match dialled.rule {
        Rule::Ready => "those that are ready",
        Rule::SameNode => "those that are ready and have hints for this node",
        Rule::SameZone => "those that are ready and have hints for this zone",
        Rule::Terminating => "those that terminate and still serve: none is ready",
    };
    let affinity = match dialled.affinity_seconds {
        None => "none".to_owned(),
        Some(seconds) => format!("a client stays with its endpoint for {}", span(seconds)),
    };
    [
        ("Service:", format!("{}{port}", dialled.name)),
        ("Address:", kind.to_owned()),
        ("Policy:", dialled.policy.clone()),
        ("Uses:", format!("{rule}{}", on_node(dialled))),
        ("Affinity:", affinity),
    ]
}

fn on_node(dialled: &Dialled) -> &'static str {
    match dialled.list {
        ListName::Cluster => "",
        ListName::Local => ", on this node",
    }
}
