//! What this node does with what the command line and the configuration file say.
//!
//! Pure.

use super::config::{self, File};
use super::flags::Given;
use super::table::{Kind, ROWS, Standing};
use super::values;
use crate::config::PacketPath;
use crate::model::Scope;
use crate::source::kubernetes::cluster::{NodePortAddresses, NodePorts, PodInterface, Pods};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// kube-proxy's ports.
const HEALTHZ_PORT: u16 = 10_256;
const METRICS_PORT: u16 = 10_249;

/// The mode in which kube-proxy tells this node's pods by the Node's podCIDRs.
const NODE_RANGES: &str = "NodeCIDR";
/// Longest name of a network interface.
const LONGEST_INTERFACE: usize = 15;

/// How kube-proxy may tell them.
const DETECT_LOCAL: [&str; 5] =
    ["", "ClusterCIDR", NODE_RANGES, "BridgeInterface", "InterfaceNamePrefix"];

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// The kubeconfig file; the pod's own service account if there is none.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's URL, over the kubeconfig's.
    pub server: Option<String>,
    /// The name of the Node; the host's if there is none.
    pub node: Option<String>,
    /// The proxy mode, as `/proxyMode` says it.
    pub mode: Mode,
    /// Where NodePorts are served.
    pub node_ports: NodePorts,
    /// Whose sockets are translated.
    pub scope: Scope,
    /// cgroup subtrees whose sockets are left alone.
    pub exclude_cgroups: Vec<PathBuf>,
    /// Whether connections that come as packets are served.
    pub packet_path: PacketPath,
    /// How pods are told from others.
    pub pods: Pods,
    /// Whether this node's address takes the place of every client's of a cluster address.
    pub masquerade_all: bool,
    /// Where `/healthz` is served.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` is served.
    pub metrics: Option<SocketAddr>,
    /// Whether to end if one of them can't be bound.
    pub hard_fail: bool,
    /// How long an update may wait before the proxy is unhealthy.
    pub unhealthy_after: Duration,
    /// The process's oom_score_adj.
    pub oom_score_adj: i64,
    /// How much is logged, as kube-proxy counts it.
    pub verbosity: i64,
    /// Whether log lines are JSON.
    pub json_logs: bool,
    /// Whether a change of the Node's podCIDRs is a reason to begin anew.
    pub watch_pod_ranges: bool,
    /// All flags and their values: `/flagz`.
    pub flags: BTreeMap<&'static str, String>,
    /// The configuration as it counts: `/configz`.
    pub document: Value,
    /// What to tell the operator, one line each.
    pub warnings: Vec<String>,
}

/// The proxy modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The default.
    Iptables,
    /// The one with IPVS.
    Ipvs,
    /// The one with nftables.
    Nftables,
}

/// Reads settings, and collects what is wrong with them.
struct Settings {
    given: Given,
    problems: Vec<String>,
}

/// Decides. `file` is what the file of `--config` says.
///
/// # Errors
///
/// The problems, one line each, never empty: settings that are refused since they can't be honoured, and values
/// that can't be used.
pub fn decide(flags: &Given, file: Option<&File>) -> Result<Decided, Vec<String>> {
    let mut warnings = Vec::new();
    let mut given = flags.clone();
    if let Some(file) = file {
        warnings.extend(file.warnings.iter().cloned());
        let ignored = ROWS.iter().filter(|row| {
            flags.contains_key(row.key()) && !row.beside_config() && !row.flag.is_empty()
        });
        let ignored: Vec<_> = ignored.map(|row| row.dashed()).collect();
        if !ignored.is_empty() {
            let flags = ignored.join(", ");
            warnings.push(format!("the file of --config counts, not {flags}; set it there"));
        }
        given = file.given.clone();
        let counts = |row: &&super::table::Row| row.beside_config();
        for row in ROWS.iter().filter(counts) {
            // An empty name is none.
            let value = flags.get(row.key()).filter(|value| !values::is_unset(value));
            if let Some(value) = value {
                given.insert(row.key(), value.clone());
            }
        }
    }
    let mut settings = Settings { given, problems: Vec::new() };
    warnings.extend(settings.without_effect());
    let mut decided = settings.decide(file.is_some());
    decided.warnings = values::lines(warnings);
    decided.flags = shown(flags);
    if settings.problems.is_empty() { Ok(decided) } else { Err(values::lines(settings.problems)) }
}

/// Every flag with what it was given, or its default.
fn shown(flags: &Given) -> BTreeMap<&'static str, String> {
    let text = |row: &super::table::Row| {
        let default = || serde_json::from_str(row.default).unwrap_or_default();
        match flags.get(row.key()).cloned().unwrap_or_else(default) {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        }
    };
    ROWS.iter().filter(|row| !row.flag.is_empty()).map(|row| (row.flag, text(row))).collect()
}

// === impl Settings ===

impl Settings {
    /// One line for all that is accepted and does nothing; refusals are problems.
    fn without_effect(&mut self) -> Option<String> {
        let mut without = Vec::new();
        for row in &ROWS {
            let Some(value) = self.given.get(row.key()) else { continue };
            let default = serde_json::from_str::<Value>(row.default).unwrap_or_default();
            if values::is_unset(value) || *value == default {
                continue;
            }
            let name = if row.field.is_empty() { row.dashed() } else { row.field.to_owned() };
            match row.standing {
                Standing::NoEffect(_) => without.push(name),
                Standing::Refused(why) => self.problems.push(format!("`{name}`: {why}")),
                Standing::Honoured(_) => {}
            }
        }
        let names = without.join(", ");
        (!without.is_empty())
            .then(|| format!("accepted without effect (docs/kubernetes.md says why): {names}"))
    }

    fn decide(&mut self, from_file: bool) -> Decided {
        let mode = self.mode();
        let primary = self.bind_address();
        let v6 = primary.is_some_and(|address| address.is_ipv6());
        let any =
            if v6 { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
        let loopback =
            if v6 { Ipv6Addr::LOCALHOST.into() } else { IpAddr::from(Ipv4Addr::LOCALHOST) };
        let healthz = SocketAddr::new(any, HEALTHZ_PORT);
        let healthz = self.listen("healthzBindAddress", "healthz-port", healthz, from_file);
        let metrics = SocketAddr::new(loopback, METRICS_PORT);
        let metrics = self.listen("metricsBindAddress", "metrics-port", metrics, from_file);
        let period = match mode {
            Mode::Iptables => "iptables.syncPeriod",
            Mode::Ipvs => "ipvs.syncPeriod",
            Mode::Nftables => "nftables.syncPeriod",
        };
        let period = values::duration(&self.text(period)).filter(|period| !period.is_zero());
        let json_logs = self.word("logging.format", &["", "text", "json"]) == "json";
        let local = self.word("detectLocalMode", &DETECT_LOCAL);
        let scope = self.word("socket-scope", &["", "everywhere", "host"]);
        let packet_path = self.word("packet-path", &["", "auto", "on", "off"]);
        let pods = self.pods(&local);
        let masquerade_all = self.flag(match mode {
            Mode::Nftables => "nftables.masqueradeAll",
            Mode::Iptables | Mode::Ipvs => "iptables.masqueradeAll",
        });
        let path = |text: String| (!text.is_empty()).then(|| PathBuf::from(text));
        let server = self.server();
        let mut document = self.given.clone();
        let shown = |address: Option<SocketAddr>| {
            Value::from(address.map_or(String::new(), |address| address.to_string()))
        };
        document.insert("healthzBindAddress", shown(healthz));
        document.insert("metricsBindAddress", shown(metrics));
        document.insert("mode", mode.name().into());
        Decided {
            kubeconfig: path(self.text("clientConnection.kubeconfig")),
            server,
            node: self.node(),
            mode,
            node_ports: self.node_ports(mode, primary.filter(|address| !address.is_unspecified())),
            scope: if scope == "host" { Scope::Host } else { Scope::Everywhere },
            exclude_cgroups: self.list("exclude-cgroup").into_iter().map(PathBuf::from).collect(),
            packet_path: match packet_path.as_str() {
                "on" => PacketPath::On,
                "off" => PacketPath::Off,
                _ => PacketPath::Auto,
            },
            pods,
            masquerade_all,
            healthz,
            metrics,
            hard_fail: self.flag("bindAddressHardFail"),
            unhealthy_after: 2 * period.unwrap_or(Duration::from_secs(30)),
            oom_score_adj: self.number("oomScoreAdj"),
            verbosity: self.number("logging.verbosity"),
            json_logs,
            watch_pod_ranges: local == NODE_RANGES,
            flags: BTreeMap::new(),
            document: config::document(&document),
            warnings: Vec::new(),
        }
    }

    fn mode(&mut self) -> Mode {
        match self.word("mode", &["", "iptables", "ipvs", "nftables"]).as_str() {
            "ipvs" => Mode::Ipvs,
            "nftables" => Mode::Nftables,
            _ => Mode::Iptables,
        }
    }

    fn server(&mut self) -> Option<String> {
        let text = self.text("master");
        if text.is_empty() {
            return None;
        }
        if !["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
            let problem =
                format!("`--master`: `{text}` is no URL; write it as https://10.0.0.1:6443");
            self.problems.push(problem);
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    fn node(&mut self) -> Option<String> {
        let text = self.text("hostnameOverride");
        if text.is_empty() {
            return None;
        }
        let name = text.trim().to_lowercase();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)) {
            let what = "the name of a Node has letters, digits, `-` and `.` only";
            self.problems.push(format!("`hostnameOverride`: `{text}` is no name; {what}"));
        }
        Some(name)
    }

    /// The primary address of the node, or the unspecified one of its family.
    fn bind_address(&mut self) -> Option<IpAddr> {
        let text = self.text("bindAddress");
        if text.is_empty() {
            return None;
        }
        let parsed = text.parse();
        if parsed.is_err() {
            self.problems.push(format!("`bindAddress`: `{text}` is not an IP address; write one"));
        }
        parsed.ok()
    }

    /// Where a server listens. An empty address in a file is the default, as a flag it is none.
    fn listen(
        &mut self,
        key: &'static str,
        port: &'static str,
        default: SocketAddr,
        from_file: bool,
    ) -> Option<SocketAddr> {
        let port = match self.given.get(port).filter(|_| !from_file) {
            Some(port) => port.as_u64().and_then(|port| u16::try_from(port).ok()),
            None => None,
        };
        if port == Some(0) {
            return None;
        }
        let default = SocketAddr::new(default.ip(), port.unwrap_or(default.port()));
        let address = match self.given.get(key).and_then(Value::as_str) {
            None => default,
            Some("") if from_file => default,
            Some("") => return None,
            Some(text) => match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
                (Ok(ip), _) => SocketAddr::new(ip, default.port()),
                (_, Ok(address)) => address,
                _ => {
                    let problem = format!(
                        "`{key}`: `{text}` is no address; write it as 0.0.0.0:{0} or [::]:{0}",
                        default.port()
                    );
                    self.problems.push(problem);
                    default
                }
            },
        };
        Some(address).filter(|address| address.port() != 0)
    }

    fn node_ports(&mut self, mode: Mode, primary: Option<IpAddr>) -> NodePorts {
        let wanted = self.list("nodePortAddresses");
        let nftables = mode == Mode::Nftables;
        let loopback = !nftables && self.flag("iptables.localhostNodePorts");
        let primary = primary.map_or(NodePortAddresses::Primary, NodePortAddresses::PrimaryIs);
        match wanted.as_slice() {
            [] if nftables => NodePorts { addresses: primary, localhost: false },
            [] => NodePorts { addresses: NodePortAddresses::All, localhost: loopback },
            [word] if word == "primary" => NodePorts { addresses: primary, localhost: false },
            _ => {
                let ranges: Vec<IpNet> =
                    wanted.iter().filter_map(|text| self.range(text)).collect();
                let v4 = || ranges.iter().filter(|range| matches!(range, IpNet::V4(_)));
                let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
                // A family without a range is not restricted.
                let inside = v4().next().is_none() || v4().any(|range| range.contains(&localhost));
                NodePorts {
                    addresses: NodePortAddresses::Ranges(ranges),
                    localhost: loopback && inside,
                }
            }
        }
    }

    fn pods(&mut self, local: &str) -> Pods {
        match local {
            NODE_RANGES => return Pods::OfNode,
            "BridgeInterface" => {
                let name = self.interface("detectLocal.bridgeInterface", local);
                return name.map_or(Pods::Unknown, |name| Pods::By(PodInterface::Named(name)));
            }
            "InterfaceNamePrefix" => {
                let name = self.interface("detectLocal.interfaceNamePrefix", local);
                return name.map_or(Pods::Unknown, |name| Pods::By(PodInterface::Beginning(name)));
            }
            _ => {}
        }
        let text = self.text("clusterCIDR");
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse::<IpNet>() {
                Ok(range) => ranges.push(range.trunc()),
                Err(_) => self.problems.push(format!(
                    "`clusterCIDR`: `{part}` is not a range such as 10.244.0.0/16; write one, or \
                     one of each family with a comma between them"
                )),
            }
        }
        if ranges.is_empty() { Pods::Unknown } else { Pods::Ranges(ranges) }
    }

    /// The name of a network interface, or how some begin.
    fn interface(&mut self, key: &'static str, mode: &str) -> Option<String> {
        let text = self.text(key);
        let good = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
        if (1..=LONGEST_INTERFACE).contains(&text.len()) && text.chars().all(good) {
            return Some(text);
        }
        self.problems.push(format!(
            "`{key}`: `{text}` names no network interface, which `detectLocalMode: {mode}` needs; \
             write 1 to {LONGEST_INTERFACE} letters, digits and signs other than / and :"
        ));
        None
    }

    fn range(&mut self, text: &str) -> Option<IpNet> {
        let parsed = text.parse::<IpNet>();
        if parsed.is_err() {
            let example = if text.contains(':') { "fd00::/8" } else { "10.0.0.0/8" };
            self.problems.push(format!(
                "`nodePortAddresses`: `{text}` is not a range such as {example}; write ranges, or \
                 the word `primary` alone"
            ));
        }
        parsed.ok().map(|range| range.trunc())
    }

    /// A text that is one of these.
    fn word(&mut self, key: &'static str, words: &[&str]) -> String {
        let text = self.text(key);
        if !words.contains(&text.as_str()) {
            let named: Vec<_> = words.iter().filter(|word| !word.is_empty()).copied().collect();
            let named = named.join(", ");
            self.problems.push(format!("`{key}`: `{text}` is not possible; use one of: {named}"));
        }
        text
    }

    fn text(&self, key: &str) -> String {
        self.value(key).as_str().unwrap_or_default().to_owned()
    }

    fn flag(&self, key: &str) -> bool {
        self.value(key).as_bool().unwrap_or_default()
    }

    fn number(&self, key: &str) -> i64 {
        self.value(key).as_i64().unwrap_or_default()
    }

    fn list(&self, key: &str) -> Vec<String> {
        let value = self.value(key);
        let items = value.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// What was given, or the default.
    fn value(&self, key: &str) -> Value {
        let row = || ROWS.iter().find(|row| row.key() == key);
        let default = || row().and_then(|row| serde_json::from_str(row.default).ok());
        match self.given.get(key) {
            Some(value) => value.clone(),
            None => default().unwrap_or_default(),
        }
    }
}

// === impl Mode ===

impl Mode {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        }
    }
}

/// Whether a flag that is a switch is on.
pub fn is_on(flags: &Given, name: &str) -> bool {
    flags.get(name).and_then(Value::as_bool).unwrap_or_default()
}

/// Whether a switch was given, to say no.
pub fn is_off(flags: &Given, name: &str) -> bool {
    flags.get(name).and_then(Value::as_bool) == Some(false)
}

/// The text of a flag that has no field, if it is not empty.
pub fn text_of<'g>(flags: &'g Given, name: &str) -> Option<&'g str> {
    debug_assert!(ROWS.iter().any(|row| row.key() == name && row.kind == Kind::Text));
    flags.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
