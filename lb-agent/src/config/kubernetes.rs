//! Settings of a source in a Kubernetes cluster. Pure.

use super::{parse_range, read_path};
use crate::keys::KUBERNETES;
use crate::model::Scope;
use crate::source::kubernetes::cluster::{NodePortAddresses, NodePorts, Pods};
use crate::yaml::{Item, Reader};
use ipnet::IpNet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest name of a source, and of a node, in bytes.
const MAX_TEXT: usize = 253;

/// The services of a cluster, as this node's kube-proxy would serve them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSource {
    /// The source's name: `kubernetes`, or `kubernetes:NAME`.
    pub name: Arc<str>,
    /// How to reach the API server; without it, as a pod does.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's URL, in place of what kubeconfig or the pod's environment say.
    pub server: Option<String>,
    /// The name of this node; without it, the host's name.
    pub node: Option<String>,
    /// Where NodePorts are served.
    pub node_ports: NodePorts,
    /// Whose sockets the cluster's addresses are for.
    pub scope: Scope,
    /// How pods are told from others.
    pub pods: Pods,
    /// Whether this node's address takes the place of every client's of a cluster address.
    pub masquerade_all: bool,
}

// === impl KubernetesSource ===

impl Default for KubernetesSource {
    fn default() -> Self {
        Self {
            name: "kubernetes".into(),
            kubeconfig: None,
            server: None,
            node: None,
            node_ports: NodePorts { addresses: NodePortAddresses::All, localhost: true },
            scope: Scope::Everywhere,
            pods: Pods::Unknown,
            masquerade_all: false,
        }
    }
}

/// Reads the source under `kubernetes:`.
pub(super) fn read_source(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    directory: &Path,
) -> Option<KubernetesSource> {
    let before = reader.count();
    let mut source = KubernetesSource::default();
    let what = "a mapping for `kubernetes` (`kubernetes: {}` takes the defaults)";
    for field in reader.fields(item, what, &KUBERNETES) {
        let (key, item) = (field.key, field.item);
        match key {
            "name" => {
                let name = reader.parse(item, "a name for `name`", parse_name);
                source.name = name.unwrap_or(source.name);
            }
            "kubeconfig" => source.kubeconfig = read_path(reader, item, key, directory),
            "server" => {
                source.server = reader.parse(item, "a URL for `server`", parse_server);
            }
            "node" => source.node = reader.parse(item, "a name for `node`", parse_node),
            "node_port_addresses" => source.node_ports.addresses = read_addresses(reader, item),
            "localhost_node_ports" => source.node_ports.localhost = reader.flag(item, key),
            "pod_ranges" => source.pods = read_pods(reader, item),
            "masquerade_all" => source.masquerade_all = reader.flag(item, key),
            _ => {
                source.scope = match reader.word::<String>(field).as_deref() {
                    Some("host") => Scope::Host,
                    _ => Scope::Everywhere,
                };
            }
        }
    }
    (reader.count() == before).then_some(source)
}

fn parse_name(text: &str) -> Result<Arc<str>, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._/:".contains(c);
    if text.len() <= MAX_TEXT && text.chars().all(good) {
        return Ok(format!("kubernetes:{text}").into());
    }
    Err(format!("`{text}` can't name a source; use up to {MAX_TEXT} letters, digits and - . _ / :"))
}

fn parse_server(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    match host {
        Some(host) if host.contains('@') => {
            Err("`server` must not hold a user or a password; use a kubeconfig for these".into())
        }
        Some(host) if !host.is_empty() && !text.contains(char::is_whitespace) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(format!("`{text}` is not a URL; write it as https://10.0.0.1:6443")),
    }
}

/// Node names are DNS names.
fn parse_node(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if text.len() <= MAX_TEXT && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` can't name a node; use its name as in `kubectl get nodes`: lower-case letters, \
         digits, - and ."
    ))
}

fn read_addresses(reader: &mut Reader<'_>, item: Item<'_>) -> NodePortAddresses {
    match item.text() {
        Some("all") => return NodePortAddresses::All,
        Some("primary") => return NodePortAddresses::Primary,
        _ => {}
    }
    let what = "`all`, `primary` or a list of ranges for `node_port_addresses`";
    let items: Vec<_> = reader.list(item, what).collect();
    let read = |item| reader.parse(item, "a range such as 10.0.0.0/16", parse_range);
    let ranges: Vec<IpNet> = items.into_iter().filter_map(read).collect();
    if ranges.is_empty() { NodePortAddresses::All } else { NodePortAddresses::Ranges(ranges) }
}

fn read_pods(reader: &mut Reader<'_>, item: Item<'_>) -> Pods {
    if item.text() == Some("node") {
        return Pods::OfNode;
    }
    let what = "`node` or a list of ranges for `pod_ranges`";
    let items: Vec<_> = reader.list(item, what).collect();
    let read = |item| reader.parse(item, "a range such as 10.244.0.0/16", parse_range);
    let ranges: Vec<IpNet> = items.into_iter().filter_map(read).collect();
    if ranges.is_empty() { Pods::Unknown } else { Pods::Ranges(ranges) }
}
