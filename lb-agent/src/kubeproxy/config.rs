//! `KubeProxyConfiguration` v1alpha1, as kube-proxy reads it: a field that it does not know is
//! mentioned and ignored, a value of the wrong kind is an error.
//!
//! Pure.

use super::flags::Given;
use super::table::{self, ROWS};
use super::values;
use crate::yaml::{Document, Item};
use serde_json::{Map, Value};

/// The only kind there is.
const KIND: &str = "KubeProxyConfiguration";
/// The only version there is.
const VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// The settings in it.
    pub given: Given,
    /// What of it is ignored, one line each.
    pub warnings: Vec<String>,
}

/// Reads the text of the file called `origin`.
///
/// # Errors
///
/// The problems, one line each, with line and column where they have a place; never empty: text that is no YAML,
/// another `kind` or `apiVersion`, or a value that is not of its field's type. An unknown field is a warning.
pub fn parse(origin: &str, text: &str) -> Result<File, Vec<String>> {
    let document = Document::parse(origin, text)
        .map_err(|problem| vec![format!("{}: {}", problem.origin, problem.reason)])?;
    let root = document.item();
    let mut problems = Vec::new();
    for (key, wanted) in [("kind", KIND), ("apiVersion", VERSION)] {
        let found = root.get(key);
        let place = found.map(|item| item.place).unwrap_or_default().within(origin);
        match found.and_then(|item| item.text()).filter(|text| !text.is_empty()) {
            Some(found) if found == wanted => {}
            Some(found) => {
                problems.push(format!("{place}: `{key}` must be {wanted}, not `{found}`"))
            }
            None => problems.push(format!("{place}: `{key}: {wanted}` is missing; add it")),
        }
    }
    if !problems.is_empty() {
        return Err(values::lines(problems));
    }
    let mut file = File::default();
    walk(origin, root, "", &mut file, &mut problems);
    file.warnings = values::lines(file.warnings);
    if problems.is_empty() { Ok(file) } else { Err(values::lines(problems)) }
}

fn walk(origin: &str, item: Item<'_>, above: &str, file: &mut File, problems: &mut Vec<String>) {
    for (key, item) in item.entries() {
        let path = if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") };
        let place = item.place.within(origin);
        let head = above.is_empty() && ["kind", "apiVersion", "metadata"].contains(&key);
        if let Some(row) = table::field(&path) {
            match values::take(row.kind, &item.json()) {
                Ok(Value::Null) => {}
                Ok(value) => drop(file.given.insert(row.key(), value)),
                Err(problem) => problems.push(format!("{place}: `{path}`: {problem}")),
            }
        } else if table::is_group(&path) {
            if item.is_mapping() {
                walk(origin, item, &path, file, problems);
            } else if !item.json().is_null() {
                problems.push(format!("{place}: `{path}`: expected a mapping of its fields"));
            }
        } else if !head {
            file.warnings.push(format!("{place}: unknown field `{path}` is ignored; remove it"));
        }
    }
}

/// The configuration as a document: what `given` says of the fields, and the defaults for the rest.
pub fn document(given: &Given) -> Value {
    let mut root = Map::new();
    root.insert("apiVersion".to_owned(), VERSION.into());
    root.insert("kind".to_owned(), KIND.into());
    for row in ROWS.iter().filter(|row| !row.field.is_empty()) {
        let default = || serde_json::from_str(row.default).unwrap_or_default();
        let value = given.get(row.key()).cloned().unwrap_or_else(default);
        let mut group = &mut root;
        let mut segments = row.field.split('.').peekable();
        while let Some(segment) = segments.next() {
            if segments.peek().is_none() {
                group.insert(segment.to_owned(), value);
                break;
            }
            let inner = group.entry(segment).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inner) = inner else { break };
            group = inner;
        }
    }
    Value::Object(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    /// What kubeadm writes.
    pub(super) const KUBEADM: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

    #[test]
    fn what_kubeadm_writes_is_understood_whole() {
        let file = parse("config.conf", KUBEADM).unwrap();
        assert_eq!(file.warnings, [""; 0]);
        let kubeconfig = json!("/var/lib/kube-proxy/kubeconfig.conf");
        assert_eq!(file.given.get("clientConnection.kubeconfig"), Some(&kubeconfig));
        assert_eq!(file.given.get("oomScoreAdj"), None);
        assert_eq!(file.given.get("clusterCIDR"), Some(&json!("10.244.0.0/16")));
    }

    #[test]
    fn unknown_fields_are_named_and_ignored() {
        let text = format!("{HEAD}iptables:\n  quick: true\nmode: ipvs\nnew: {{a: 1}}\n");
        let file = parse("f", &text).unwrap();
        assert_eq!(
            file.warnings,
            [
                "f:4:10: unknown field `iptables.quick` is ignored; remove it",
                "f:6:1: unknown field `new` is ignored; remove it",
            ]
        );
        assert_eq!(file.given.get("mode"), Some(&json!("ipvs")));
    }

    #[test]
    fn mistakes_name_their_place() {
        for (text, problems) in [
            (
                "",
                vec![
                    "f: `kind: KubeProxyConfiguration` is missing; add it",
                    "f: `apiVersion: kubeproxy.config.k8s.io/v1alpha1` is missing; add it",
                ],
            ),
            ("\u{1}garbage", vec![]),
            (
                "kind: Config\napiVersion: v1",
                vec![
                    "f:1:7: `kind` must be KubeProxyConfiguration, not `Config`",
                    "f:2:13: `apiVersion` must be kubeproxy.config.k8s.io/v1alpha1, not `v1`",
                ],
            ),
            (
                &format!("{HEAD}conntrack: {{maxPerCore: many}}"),
                vec![
                    "f:3:25: `conntrack.maxPerCore`: expected a whole number from -2147483648 to 2147483647, found \"many\"",
                ],
            ),
            (
                &format!("{HEAD}iptables: yes"),
                vec!["f:3:11: `iptables`: expected a mapping of its fields"],
            ),
            (
                &format!("{HEAD}nodePortAddresses: 10.0.0.0/8"),
                vec!["f:3:20: `nodePortAddresses`: expected a list of texts, found \"10.0.0.0/8\""],
            ),
            (
                &format!("{HEAD}mode: ipvs\nmode: ipvs"),
                vec!["f:4:1: key `mode` stands twice, first on line 3; remove one"],
            ),
        ] {
            let found = parse("f", text).unwrap_err();
            if !problems.is_empty() {
                assert_eq!(found, problems, "{text}");
            }
        }
    }

    #[test]
    fn the_document_reads_as_itself() {
        let given = parse("f", KUBEADM).unwrap().given;
        let document = document(&given);
        assert_eq!(document["iptables"]["masqueradeBit"], json!(14));
        assert_eq!(
            document["clientConnection"]["kubeconfig"],
            json!("/var/lib/kube-proxy/kubeconfig.conf")
        );
        let again = parse("f", &document.to_string()).unwrap();
        assert_eq!(again.warnings, [""; 0]);
        assert_eq!(super::document(&again.given), document);
    }
}
