//! The manifests in `examples/kubernetes` are what the API takes, and what they pass is understood
//! here.

use super::decision::decide;
use super::flags;
use crate::yaml::Document;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

fn manifests() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/kubernetes"))
}

/// All documents of a file.
fn documents(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(manifests().join(file)).unwrap();
    let parse = |text: &str| Document::parse(file, text).unwrap().item().json();
    text.split("\n---\n").map(parse).collect()
}

/// A document as the API's type. Nothing in it is unknown to that: it reads back as it was.
fn typed<T: DeserializeOwned + serde::Serialize>(document: &Value) -> T {
    let object: T = serde_json::from_value(document.clone()).unwrap();
    let again = serde_json::to_value(&object).unwrap();
    assert_covers(&again, document, "");
    object
}

fn assert_covers(whole: &Value, part: &Value, path: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, value) in part {
                let path = format!("{path}.{key}");
                let found = whole.get(key).unwrap_or_else(|| panic!("{path} is not a field"));
                assert_covers(found, value, &path);
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            for (whole, part) in whole.iter().zip(part) {
                assert_covers(whole, part, path);
            }
        }
        _ => assert_eq!(whole, part, "{path}"),
    }
}

fn daemon_set() -> DaemonSet {
    typed(&documents("daemonset.yaml")[0])
}

/// The flags of a container that runs `lb-agent kube-proxy`.
fn flags_of(container: &Container) -> flags::Given {
    let command = container.command.as_deref().unwrap();
    let [program, verb, arguments @ ..] = command else { panic!("{command:?}") };
    assert_eq!((program.as_str(), verb.as_str()), ("/usr/local/sbin/lb-agent", "kube-proxy"));
    let known = |argument: &String| argument.replace("$(NODE_NAME)", "node-1");
    flags::parse(&arguments.iter().map(known).collect::<Vec<_>>()).unwrap()
}

#[test]
fn the_daemon_set_takes_the_place_of_kubeadms() {
    let set = daemon_set();
    assert_eq!(set.metadata.name.as_deref(), Some("kube-proxy"));
    let spec = set.spec.unwrap();
    let label = ("k8s-app".to_owned(), "kube-proxy".to_owned());
    assert_eq!(spec.selector.match_labels, Some([label.clone()].into()));
    assert_eq!(spec.template.metadata.unwrap().labels, Some([label].into()));
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.service_account_name.as_deref(), Some("kube-proxy"));
    assert_eq!((pod.host_network, pod.host_pid), (Some(true), Some(true)));
    assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
    let volumes = pod.volumes.unwrap();
    let has = |name: &str| volumes.iter().any(|volume| volume.name == name);
    let containers = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    for mount in containers.flat_map(|container| container.volume_mounts.iter().flatten()) {
        assert!(has(&mount.name), "no volume {}", mount.name);
    }
    let config = volumes.iter().find_map(|volume| volume.config_map.as_ref()).unwrap();
    assert_eq!(config.name, "kube-proxy");
    let [proxy] = <[Container; 1]>::try_from(pod.containers).unwrap();
    assert_eq!(proxy.name, "kube-proxy");
    let bpf = |mount: &&k8s_openapi::api::core::v1::VolumeMount| mount.mount_path == "/sys/fs/bpf";
    let mounts = proxy.volume_mounts.unwrap();
    let bpf = mounts.iter().find(bpf).unwrap();
    assert_eq!(bpf.mount_propagation.as_deref(), Some("Bidirectional"));
    let probe = proxy.liveness_probe.unwrap().http_get.unwrap();
    assert_eq!(probe.path.as_deref(), Some("/livez"));
}

#[test]
fn what_the_pods_pass_is_understood() {
    let pod = daemon_set().spec.unwrap().template.spec.unwrap();
    let given = flags_of(&pod.containers[0]);
    assert_eq!(given["config"], "/var/lib/kube-proxy/config.conf");
    let decided = decide(&given, None).unwrap();
    assert_eq!(decided.node.as_deref(), Some("node-1"));
    assert_eq!(decided.warnings, [""; 0]);
    let cleanup = flags_of(&pod.init_containers.unwrap()[0]);
    assert_eq!(cleanup["cleanup"], true);
    // While the next agent is not there yet, packets are to be translated all the same.
    assert_eq!(cleanup["cleanup-lb"], false);
}

#[test]
fn the_role_allows_what_is_watched_and_told() {
    let documents = documents("rbac.yaml");
    let account: ServiceAccount = typed(&documents[0]);
    let role: ClusterRole = typed(&documents[1]);
    let binding: ClusterRoleBinding = typed(&documents[2]);
    assert_eq!(binding.role_ref.name, role.metadata.name.unwrap());
    let subject = &binding.subjects.unwrap()[0];
    assert_eq!(Some(&subject.name), account.metadata.name.as_ref());
    let rules = role.rules.unwrap();
    for (group, resource, verbs) in [
        ("", "services", &["list", "watch"][..]),
        ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
        ("networking.k8s.io", "servicecidrs", &["list", "watch"]),
        ("", "nodes", &["list", "watch"]),
        ("events.k8s.io", "events", &["create", "patch"]),
    ] {
        let has =
            |list: &Option<Vec<String>>, text: &str| list.iter().flatten().any(|item| item == text);
        let allows = rules.iter().any(|rule| {
            has(&rule.api_groups, group)
                && has(&rule.resources, resource)
                && verbs.iter().all(|verb| rule.verbs.iter().any(|allowed| allowed == verb))
        });
        assert!(allows, "{group}/{resource}: {verbs:?}");
    }
}
