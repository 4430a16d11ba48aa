//! The manifests in `examples/kubernetes`: as kubectl builds them, and applied in a cluster that
//! kubeadm made.

use integration::apiserver::ApiServer;
use lb_agent::kubeproxy::decision::{decide, text_of};
use lb_agent::kubeproxy::{config, flags};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use tempfile::TempDir;

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/kubernetes");
const KUBEADM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubernetes/kubeadm.yaml");
const DOCUMENT: &str = include_str!("../../../docs/kubernetes.md");
const NAMESPACE: &str = "kube-system";

#[test]
fn kubectl_builds_them() {
    let output = Command::new("kubectl").args(["kustomize", MANIFESTS]).output();
    let output =
        output.unwrap_or_else(|error| panic!("can't run kubectl ({error}): make setup-tests"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"] {
        assert!(text.contains(&format!("\nkind: {kind}\n")), "{kind}\n{text}");
    }
    assert_eq!(text.matches("image: lb-agent:").count(), 2, "{text}");
    assert_eq!(text.matches("namespace: kube-system").count(), 3, "{text}");
}

/// A cluster in which kubeadm has put kube-proxy.
struct Cluster {
    api: ApiServer,
    scratch: TempDir,
}

impl Cluster {
    #[track_caller]
    fn start() -> Self {
        let cluster = Self {
            api: ApiServer::start(),
            scratch: TempDir::with_prefix("lb-").expect("a directory can be made"),
        };
        cluster.kubectl(&["create", "-f", KUBEADM]);
        cluster
    }

    /// Runs kubectl, which must succeed; what it printed.
    #[track_caller]
    fn kubectl(&self, arguments: &[&str]) -> String {
        let finished = self.api.kubectl(self.scratch.path(), arguments);
        assert_eq!(finished.code, Some(0), "kubectl {arguments:?}: {finished:?}");
        finished.stdout
    }

    /// Runs a command of the documentation, the one that begins with this.
    #[track_caller]
    fn documented(&self, begin: &str) -> String {
        let line = DOCUMENT.lines().find(|line| line.starts_with(begin));
        let line = line.unwrap_or_else(|| panic!("docs/kubernetes.md has no command {begin}"));
        let words = line.split_whitespace().skip(1);
        let words: Vec<_> = words
            .map(|word| if word == "examples/kubernetes" { MANIFESTS } else { word })
            .collect();
        self.kubectl(&words)
    }

    #[track_caller]
    fn get(&self, kind: &str, namespace: &str, name: &str) -> Value {
        self.api.get(kind, namespace, name).unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    #[track_caller]
    fn daemon_set(&self) -> Value {
        self.get("daemonsets", NAMESPACE, "kube-proxy")
    }
}

fn names<'v>(list: &'v Value, field: &str) -> Vec<&'v str> {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| item[field].as_str().unwrap_or_default()).collect()
}

/// What a pod of this template would be refused or would not start for.
#[track_caller]
fn is_sound(pod: &Value) {
    let volumes = names(&pod["volumes"], "name");
    let unique: BTreeSet<_> = volumes.iter().collect();
    assert_eq!(unique.len(), volumes.len(), "{volumes:?}");
    let lists = [&pod["containers"], &pod["initContainers"]];
    for container in lists.into_iter().flat_map(|list| list.as_array().into_iter().flatten()) {
        let mounts = &container["volumeMounts"];
        let places = names(mounts, "mountPath");
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), places.len(), "{places:?}");
        for volume in names(mounts, "name") {
            assert!(unique.contains(&volume), "{volume} is none of {volumes:?}");
        }
        let variables = names(&container["env"], "name");
        assert_eq!(variables.iter().collect::<BTreeSet<_>>().len(), variables.len());
    }
}

#[test]
fn applied_over_kubeadms_daemon_set() {
    let cluster = Cluster::start();
    let kept = [
        ("configmaps", NAMESPACE, "kube-proxy"),
        ("serviceaccounts", NAMESPACE, "kube-proxy"),
        ("clusterrolebindings", "", "kubeadm:node-proxier"),
    ];
    let before = kept.map(|(kind, space, name)| cluster.get(kind, space, name));
    let kubeadms = cluster.daemon_set();
    cluster.documented("kubectl apply --server-side");

    let ours = cluster.daemon_set();
    let (old, pod) = (&kubeadms["spec"]["template"]["spec"], &ours["spec"]["template"]["spec"]);
    is_sound(pod);
    // The same object, which the controller rolls out: it selects what it selected.
    assert_eq!(ours["metadata"]["uid"], kubeadms["metadata"]["uid"]);
    assert_eq!(ours["metadata"]["generation"], 2, "{ours}");
    for at in ["/spec/selector", "/spec/updateStrategy", "/spec/template/metadata/labels"] {
        assert_eq!(ours.pointer(at), kubeadms.pointer(at), "{at}");
    }
    for field in [
        "hostNetwork",
        "nodeSelector",
        "priorityClassName",
        "serviceAccountName",
        "tolerations",
        "restartPolicy",
        "dnsPolicy",
    ] {
        assert_eq!(pod[field], old[field], "{field}");
    }
    assert_eq!(pod["hostPID"], true);

    assert_eq!(names(&pod["containers"], "name"), ["kube-proxy"], "{pod}");
    assert_eq!(names(&pod["initContainers"], "name"), ["cleanup"], "{pod}");
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "lb-agent:0.1.0");
    assert_eq!(pod["initContainers"][0]["image"], "lb-agent:0.1.0");
    assert_eq!(container["args"], Value::Null);
    let command: Vec<&str> = container["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    assert_eq!(command[..2], ["/usr/local/sbin/lb-agent", "kube-proxy"]);
    // kubeadm's own arguments, by the same variable and the same file.
    let kubeadms_own = old["containers"][0]["command"].as_array().unwrap()[1..].iter();
    for argument in kubeadms_own.map(|word| word.as_str().unwrap()) {
        assert!(command.contains(&argument), "{argument} is none of {command:?}");
    }
    assert_eq!(names(&container["env"], "name"), ["NODE_NAME"]);
    assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    assert_eq!(container["securityContext"], json!({"privileged": true}));
    let places = names(&container["volumeMounts"], "mountPath");
    for needed in [
        "/var/lib/kube-proxy",
        "/sys/fs/bpf",
        "/host/sys/fs/cgroup",
        "/run/lb-agent",
        "/var/lib/lb-agent",
        "/run/netns",
    ] {
        assert!(places.contains(&needed), "{needed} is none of {places:?}");
    }
    let volumes = pod["volumes"].as_array().unwrap();
    let configured = volumes.iter().find(|volume| volume["name"] == "kube-proxy").unwrap();
    assert_eq!(configured["configMap"]["name"], "kube-proxy");
    assert_eq!(kept.map(|(kind, space, name)| cluster.get(kind, space, name)), before);
    let bound = cluster.get("clusterrolebindings", "", "lb-agent:node-proxier");
    assert_eq!(bound["subjects"][0]["name"], pod["serviceAccountName"]);
    assert_eq!(bound["subjects"][0]["namespace"], NAMESPACE);

    takes(&cluster, &command[1..]);

    // Once more: nothing is rolled out.
    cluster.documented("kubectl apply --server-side");
    assert_eq!(cluster.daemon_set(), ours);
}

/// The agent understands these arguments and the `ConfigMap` as it is.
#[track_caller]
fn takes(cluster: &Cluster, arguments: &[&str]) {
    let map = cluster.get("configmaps", NAMESPACE, "kube-proxy");
    let arguments: Vec<_> =
        arguments[1..].iter().map(|word| word.replace("$(NODE_NAME)", "node-1")).collect();
    let flags = flags::parse(&arguments).expect("the flags are known");
    let path = text_of(&flags, "config").expect("a configuration file");
    let file = path.rsplit('/').next().unwrap_or_default();
    let file =
        config::parse(path, map["data"][file].as_str().unwrap_or_default()).expect("it is good");
    let decided = decide(&flags, Some(&file)).expect("they are good");
    assert_eq!(decided.node.as_deref(), Some("node-1"));
    let kubeconfig = decided.kubeconfig.expect("a kubeconfig");
    assert_eq!(kubeconfig.to_str(), Some("/var/lib/kube-proxy/kubeconfig.conf"));
}

/// Fields are kubeadm's until they are taken by force.
#[test]
fn they_take_kubeadms_fields_by_force_only() {
    let cluster = Cluster::start();
    let before = cluster.daemon_set();
    let arguments = ["apply", "--server-side", "-k", MANIFESTS];
    let refused = cluster.api.kubectl(cluster.scratch.path(), &arguments);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("conflict"), "{refused:?}");
    assert!(refused.stderr.contains(".image"), "{refused:?}");
    assert_eq!(cluster.daemon_set(), before);
}

/// The way back brings kubeadm's kube-proxy, and nothing of ours stays in it.
#[test]
fn and_back() {
    let cluster = Cluster::start();
    let kubeadms = cluster.daemon_set();
    let saved = cluster.scratch.path().join("kube-proxy.yaml");
    let get = ["-n", NAMESPACE, "get", "daemonset", "kube-proxy", "-o", "yaml"];
    fs::write(&saved, cluster.kubectl(&get)).unwrap();
    cluster.documented("kubectl apply --server-side");
    cluster.documented("kubectl -n kube-system delete daemonset");
    cluster.kubectl(&["apply", "-f", saved.to_str().unwrap()]);
    assert_eq!(cluster.daemon_set()["spec"], kubeadms["spec"]);
}
