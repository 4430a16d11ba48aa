//! `lb-agent kube-proxy`, seen from another host: what its configuration says of pods, and its health
//! checks for balancers.

use integration::apiserver::ApiServer;
use integration::http;
use integration::kubernetes::{Endpoint, PACKETS, endpoint, node_in, reaches_as};
use integration::lab::{self, Lab};
use integration::packets::nft::table;
use integration::packets::{ALL_KINDS, NODE_PORT, Scene, outsider, route_by};
use integration::pods::{Node, Place, Way};
use integration::process::{binary, kill};
use integration::wait::{eventually, wait_for};
use serde_json::json;
use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);
const HEALTH_PORT: u16 = 30_999;

/// A running kube-proxy; killed on drop.
struct Proxy(Child);

impl Proxy {
    fn start(lab: &Lab, api: &ApiServer, settings: &str) -> Self {
        let (config, kubeconfig) = (lab.scratch().join("config.conf"), lab.scratch().join("api"));
        api.kubeconfig(&kubeconfig, None);
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: nftables\nclientConnection: {{kubeconfig: {}}}\n{settings}\n",
            kubeconfig.display()
        );
        lab.write_by_rename(&config, &text);
        let log = File::create(lab.log_file()).expect("the scratch directory is writable");
        let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
        let child = Command::new(binary("lb-agent"))
            .args(["kube-proxy", "--hostname-override=near", "--packet-path=on"])
            .arg(flag("config", &config))
            .arg(flag("cgroup", lab.cgroup().path()))
            .arg(flag("pin-dir", lab.pin_dir()))
            .arg(flag("state-dir", &lab.state_dir()))
            .arg(flag("socket", &lab.socket()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.expect("the agent was built before the tests"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        kill(&mut self.0);
    }
}

/// Code of the answer to `GET /healthz`, if there is one.
fn health(from: &Place, to: SocketAddr) -> Option<u16> {
    from.run(|| http::ask(to, "GET /healthz", "")).ok().map(|answer| answer.code)
}

/// A node, a client and a service whose policy is `Local`, with these endpoints.
fn put(api: &ApiServer, endpoints: &[Endpoint]) {
    let web = Scene::web()
        .with("externalTrafficPolicy", json!("Local"))
        .with("healthCheckNodePort", json!(HEALTH_PORT));
    api.put_all([web.object()].into_iter().chain(web.slices(endpoints)));
}

#[track_caller]
fn served(client: &Place, node: &Node) {
    for to in node.addresses().at(NODE_PORT) {
        eventually(&format!("{to} to be served"), DEADLINE, || {
            client.ask_within(Way::Tcp, to, Duration::from_millis(300)).is_ok()
        });
    }
}

/// The traffic of those who have it goes on, while balancers learn that they had better not send more.
#[test]
fn the_health_check_node_port_fails_if_there_are_only_terminating_endpoints() {
    lab::run("packets-health", |lab| {
        let node = Node::here(lab, "near");
        let client = outsider(&node, lab, 9, "client");
        let a = node.pod("a");
        ALL_KINDS.into_iter().for_each(|kind| a.serve(kind, 8080));
        let api = ApiServer::start();
        api.put(node_in(&node, "z1"));
        put(&api, &[endpoint(&a)]);
        let _proxy = Proxy::start(lab, &api, "clusterCIDR: \"10.244.0.0/16,fd00:244::/32\"");
        served(&client, &node);
        let checks = node.addresses().at(HEALTH_PORT);
        let seen = [("a", client.addresses())];
        for (endpoint, code) in
            [(endpoint(&a), 200), (endpoint(&a).terminating(), 503), (endpoint(&a), 200)]
        {
            put(&api, &[endpoint]);
            for to in checks {
                wait_for(&format!("{code} from {to}"), DEADLINE, || {
                    (health(&client, to) == Some(code)).then_some(())
                });
            }
            reaches_as(&client, PACKETS, node.addresses().at(NODE_PORT), &seen);
        }
    });
}

/// `clusterCIDR` says who is a pod, or how their packets come in; `masqueradeAll` that nobody is spared.
#[test]
fn what_the_configuration_says_of_pods() {
    for (settings, name) in [
        ("clusterCIDR: \"10.244.0.0/16,fd00:244::/32\"", "packets-proxy-cidr"),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: pods}",
            "packets-proxy-bridge",
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: pod}",
            "packets-proxy-prefix",
        ),
        ("nftables: {masqueradeAll: true}", "packets-proxy-all"),
    ] {
        lab::run(name, |lab| {
            let node = Node::here(lab, "near");
            let client = outsider(&node, lab, 9, "client");
            let (a, guest) = (node.pod("a"), node.guest(lab, "guest"));
            ALL_KINDS.into_iter().for_each(|kind| a.serve(kind, 8080));
            let api = ApiServer::start();
            api.put(node_in(&node, "z1"));
            put(&api, &[endpoint(&a)]);
            let _proxy = Proxy::start(lab, &api, settings);
            served(&client, &node);
            let all = settings.contains("masqueradeAll");
            let of_guest = if all { node.gateway() } else { guest.addresses() };
            reaches_as(&guest, PACKETS, Scene::web().at(80), &[("a", of_guest)]);
            reaches_as(&client, PACKETS, Scene::web().at(80), &[("a", node.gateway())]);
            if settings.starts_with("detectLocalMode") {
                // What the node itself sends comes in by no interface.
                let stranger = node.stranger(lab, "stranger");
                route_by(&node, &client);
                reaches_as(&stranger, PACKETS, Scene::web().at(80), &[("a", node.gateway())]);
                let listed = node.run(|| table("ip", "lb"));
                assert!(listed.contains("iifname \"pod"), "{listed}");
            }
        });
    }
}
