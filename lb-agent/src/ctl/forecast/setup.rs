//! How the node that is asked about is set up: by its configuration file, and by what is given over it.

use crate::config::{self, Source};
use crate::kubeproxy::config::File;
use crate::kubeproxy::decision::{Decided, decide};
use crate::kubeproxy::flags::Given;
use crate::model::Scope;
use crate::source::kubernetes::cluster::{NodePortAddresses, NodePorts};
use crate::yaml::Document;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// The key of the ranges in kube-proxy's configuration.
const ADDRESSES: &str = "nodePortAddresses";

/// How the node is set up.
#[derive(Debug, Args)]
pub(super) struct Setup {
    /// The node's configuration: kube-proxy's own (`KubeProxyConfiguration`), or the file of `lb-agent run`
    #[arg(long, value_name = "FILE", requires = "manifests")]
    config: Option<PathBuf>,
    /// Where it serves NodePorts, if not where its configuration says: `all`, `primary`, or ranges with
    /// commas between them
    #[arg(long, value_name = "WHERE", requires = "manifests")]
    nodeport_addresses: Option<String>,
    /// Whose sockets it serves, if not those that its configuration says
    #[arg(long, value_enum, value_name = "WHOSE", requires = "manifests")]
    socket_scope: Option<SocketScope>,
}

/// Whose sockets are served.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SocketScope {
    /// Those of pods and of the node itself
    Everywhere,
    /// Those of the node's own network namespace
    Host,
}

/// What that comes to.
pub(super) struct Settings {
    /// The node's name, if the configuration has it.
    pub(super) node: Option<String>,
    /// Where NodePorts are served.
    pub(super) node_ports: NodePorts,
    /// Whose sockets are.
    pub(super) scope: Scope,
}

// === impl Setup ===

impl Setup {
    /// Reads the file. The problems, one line each, are never empty.
    pub(super) fn read(&self) -> Result<Settings, Vec<String>> {
        let wanted = self.nodeport_addresses.as_deref().map(where_to).transpose();
        let wanted = wanted.map_err(|problem| vec![problem])?;
        let mut settings = match &self.config {
            None => as_kube_proxy(File::default(), wanted)?,
            Some(path) => from_file(path, wanted)?,
        };
        match self.socket_scope {
            Some(SocketScope::Everywhere) => settings.scope = Scope::Everywhere,
            Some(SocketScope::Host) => settings.scope = Scope::Host,
            None => {}
        }
        Ok(settings)
    }
}

fn from_file(path: &Path, wanted: Option<NodePortAddresses>) -> Result<Settings, Vec<String>> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path)
        .map_err(|error| vec![format!("{name}: {error}; name a readable file of text")])?;
    let line =
        |problem: &crate::model::Rejection| format!("{}: {}", problem.origin, problem.reason);
    let document = Document::parse(&name, &text).map_err(|problem| vec![line(&problem)])?;
    // Only kube-proxy's has a kind.
    if document.item().get("kind").is_some() {
        return as_kube_proxy(crate::kubeproxy::config::parse(&name, &text)?, wanted);
    }
    let config = config::parse(path, &text)
        .map_err(|problems| problems.iter().map(line).collect::<Vec<_>>())?;
    let mut clusters = config.sources.into_iter().filter_map(|source| match source {
        Source::Kubernetes(source) => Some(source),
        Source::File(_) | Source::Etcd(_) => None,
    });
    let (Some(cluster), None) = (clusters.next(), clusters.next()) else {
        let wanted = "one source `kubernetes` is needed";
        return Err(vec![format!("{name}: {wanted}; name the configuration of a node, or none")]);
    };
    let mut node_ports = cluster.node_ports.clone();
    if let Some(addresses) = wanted {
        node_ports.addresses = addresses;
    }
    Ok(Settings { node: cluster.node.clone(), node_ports, scope: cluster.scope })
}

/// What kube-proxy's settings come to, with these addresses in place of theirs.
fn as_kube_proxy(
    mut file: File,
    wanted: Option<NodePortAddresses>,
) -> Result<Settings, Vec<String>> {
    match &wanted {
        None => {}
        Some(NodePortAddresses::Ranges(ranges)) => {
            let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            file.given.insert(ADDRESSES, json!(ranges));
        }
        Some(NodePortAddresses::Primary | NodePortAddresses::PrimaryIs(_)) => {
            file.given.insert(ADDRESSES, json!(["primary"]));
        }
        Some(NodePortAddresses::All) => drop(file.given.remove(ADDRESSES)),
    }
    let Decided { node, mut node_ports, scope, .. } = decide(&Given::new(), Some(&file))?;
    if wanted == Some(NodePortAddresses::All) {
        // Not what the mode does by default.
        node_ports.addresses = NodePortAddresses::All;
    }
    Ok(Settings { node, node_ports, scope })
}

fn where_to(text: &str) -> Result<NodePortAddresses, String> {
    match text.trim() {
        "all" => return Ok(NodePortAddresses::All),
        "primary" => return Ok(NodePortAddresses::Primary),
        _ => {}
    }
    let range = |text: &str| {
        let text = text.trim();
        text.parse::<IpNet>().map(|range| range.trunc()).map_err(|_| {
            format!(
                "--nodeport-addresses: `{text}` is not a range such as 10.0.0.0/8; write ranges with \
                 commas between them, or `all` or `primary` alone"
            )
        })
    };
    text.split(',').map(range).collect::<Result<_, _>>().map(NodePortAddresses::Ranges)
}
