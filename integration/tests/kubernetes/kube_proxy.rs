//! `lb-agent kube-proxy` with kubeadm's arguments: ports, metrics, events, and when it ends.

use integration::apiserver::ApiServer;
use integration::client::dial;
use integration::http::{Answer, ask};
use integration::lab::{self, Lab};
use integration::netns;
use integration::process::{Finished, binary, exit_of, kill};
use integration::server::Backends;
use integration::wait::{eventually, within};
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// The address of the node in these tests.
const NODE: &str = "192.0.2.10";

const HEALTH: &str = "127.0.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";

/// A running kube-proxy; killed on drop.
struct Proxy<'a> {
    lab: &'a Lab,
    child: Child,
}

impl<'a> Proxy<'a> {
    /// Starts one as kubeadm does, with `settings` in its configuration.
    fn start(lab: &'a Lab, api: &ApiServer, settings: &str) -> Self {
        write_config(lab, api, settings);
        let log = OpenOptions::new().create(true).append(true).open(lab.log_file());
        let log = log.expect("the scratch directory is writable");
        let child = Command::new(binary("lb-agent"))
            .arg("kube-proxy")
            .args(arguments(lab))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("the agent was built before the tests");
        Self { lab, child }
    }

    /// Waits until the cluster is known and served.
    #[track_caller]
    fn wait_ready(&mut self) {
        self.until("readiness", |_| get(METRICS, "/proxyMode").is_some_and(|a| a.0 == 200));
        self.until("the first list", |lab| lab.lbctl(&["status"]).stdout.contains("kubernetes"));
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Lab) -> bool) {
        let reached = within(DEADLINE, || {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("the proxy ended with {status}; it logged\n{}", self.log());
            }
            holds(self.lab).then_some(())
        });
        assert!(reached.is_some(), "still waiting for {what}; the log:\n{}", self.log());
    }

    /// Waits for the end, and returns the exit code.
    #[track_caller]
    fn ended(&mut self) -> Option<i32> {
        let status = exit_of(&mut self.child, DEADLINE);
        status.unwrap_or_else(|| panic!("the proxy does not end; it logged\n{}", self.log())).code()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.lab.log_file()).unwrap_or_default()
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

fn write_config(lab: &Lab, api: &ApiServer, settings: &str) {
    let kubeconfig = lab.scratch().join("kubeconfig.conf");
    api.kubeconfig(&kubeconfig, None);
    let text = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         clientConnection: {{kubeconfig: {}}}\nclusterCIDR: 10.244.0.0/16\n{settings}",
        kubeconfig.display()
    );
    lab.write_by_rename(&lab.scratch().join("config.conf"), &text);
}

fn arguments(lab: &Lab) -> Vec<String> {
    let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
    vec![
        flag("config", &lab.scratch().join("config.conf")),
        "--hostname-override=node-1".to_owned(),
        flag("cgroup", lab.cgroup().path()),
        flag("pin-dir", lab.pin_dir()),
        flag("state-dir", &lab.state_dir()),
        flag("socket", &lab.socket()),
    ]
}

/// Code, head and body, if somebody answers.
fn get(address: &str, path: &str) -> Option<(u16, String, String)> {
    let address = address.parse().expect("an address and a port");
    let Answer { code, head, body } = ask(address, &format!("GET {path}"), "").ok()?;
    Some((code, head, body))
}

fn code(address: &str, path: &str) -> Option<u16> {
    get(address, path).map(|answer| answer.0)
}

fn node(taints: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
        "spec": {"taints": taints},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE}]},
    })
}

/// A cluster with a node and a service `web` of which one endpoint, `at`, is on the node.
fn cluster(at: SocketAddr, health_port: u16) -> ApiServer {
    let api = ApiServer::start();
    api.put(node(json!([])));
    api.put_service(
        "web",
        json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": health_port, "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
        }),
    );
    put_endpoint(&api, at, true);
    api
}

fn put_endpoint(api: &ApiServer, at: SocketAddr, ready: bool) {
    put_conditions(api, at, json!({"ready": ready, "serving": ready}));
}

fn put_conditions(api: &ApiServer, at: SocketAddr, conditions: Value) {
    let now = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
    api.put(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": now},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": at.port(), "protocol": "TCP"}],
        "endpoints": [{
            "addresses": [at.ip().to_string()], "nodeName": "node-1",
            "conditions": conditions,
        }],
    }));
}

/// The endpoint is ready, and on another node.
fn put_elsewhere(api: &ApiServer, at: SocketAddr) {
    put_endpoint(api, at, true);
    let mut slice = api.get("endpointslices", "default", "web-1").expect("it is there");
    slice["endpoints"][0]["nodeName"] = json!("node-2");
    api.put(slice);
}

/// The value of a metric with exactly this name and these labels.
fn metric(name: &str) -> f64 {
    let (_, _, text) = get(METRICS, "/metrics").expect("the server answers");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
}

#[test]
fn ports_metrics_and_events_are_kube_proxys() {
    lab::run("kube-proxy", |lab| {
        netns::add_address(NODE);
        let backends = Backends::tcp(NODE, ["a"]);
        let api = cluster(backends.at(0), 30_999);
        let mut proxy = Proxy::start(lab, &api, "mode: nftables\nconfigSyncPeriod: 15m\nnew: 1\n");
        proxy.wait_ready();
        proxy.until("a connect", |_| dial("10.96.0.10:80".parse().unwrap()).is_ok());
        let node_port = |_: &Lab| dial(format!("{NODE}:30080").parse().unwrap()).is_ok();
        proxy.until("a connect to the NodePort", node_port);

        // Tasks of their own take in what the loop did.
        proxy.until("health", |_| {
            get(HEALTH, "/healthz").is_some_and(|(status, head, body)| {
                let body: Value = serde_json::from_str(&body).unwrap_or_default();
                status == 200
                    && head.contains("content-type: application/json")
                    && body["nodeEligible"] == true
                    && body["status"]["IPv4"]["healthy"] == true
            })
        });
        assert_eq!(code(HEALTH, "/livez"), Some(200));
        assert_eq!(get(METRICS, "/proxyMode").unwrap().2, "nftables");
        assert_eq!(get(METRICS, "/healthz").unwrap().2, "ok");
        let configz: Value = serde_json::from_str(&get(METRICS, "/configz").unwrap().2).unwrap();
        assert_eq!(configz["kubeproxy.config.k8s.io"]["clusterCIDR"], "10.244.0.0/16");

        for (path, part) in [
            ("/metrics/slis", "kubernetes_healthchecks_total{"),
            ("/flagz", "\nhostname-override=node-1\n"),
            ("/statusz", "\nBinary version: lb-agent "),
            ("/metrics", "\nrest_client_requests_total{"),
            ("/metrics", "\nrest_client_request_duration_seconds_bucket{"),
        ] {
            let (status, _, body) = get(METRICS, path).unwrap();
            assert!(status == 200 && body.contains(part), "{path}: {body}");
        }
        let (_, _, body) = get(METRICS, "/metrics").unwrap();
        let host = format!("host=\"{}\"", api.address());
        let watched = |line: &str| {
            let labels = ["code=\"200\"", "method=\"GET\"", host.as_str()];
            line.starts_with("rest_client_requests_total{")
                && labels.iter().all(|label| line.contains(label))
        };
        assert!(body.lines().any(watched), "{host}: {body}");
        assert_eq!(code(METRICS, "/debug/pprof/"), Some(404));

        let health = format!("{NODE}:30999");
        proxy.until("the healthCheckNodePort", |_| code(&health, "/healthz") == Some(200));
        let (status, head, body) = get(&health, "/healthz").unwrap();
        assert_eq!(status, 200, "{body}");
        assert!(head.contains("x-load-balancing-endpoint-weight: 1"), "{head}");
        assert_eq!(
            body,
            r#"{"service":{"namespace":"default","name":"web"},"localEndpoints":1,"serviceProxyHealthy":true}"#
        );

        let before = metric("kubeproxy_sync_proxy_rules_endpoint_changes_total");
        let programmed = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
        let count = metric(programmed);
        let terminating = json!({"ready": false, "serving": true, "terminating": true});
        put_conditions(&api, backends.at(0), terminating);
        proxy.until("503", |_| code(&health, "/") == Some(503));
        let served = dial("10.96.0.10:80".parse().unwrap());
        assert!(served.is_ok(), "one that terminates serves while there is no other");
        let lacking = "kubeproxy_sync_proxy_rules_no_local_endpoints_total\
                       {ip_family=\"IPv4\",traffic_policy=\"external\"}";
        assert_eq!(metric(lacking), 0.0);
        put_elsewhere(&api, backends.at(0));
        proxy.until("a port without an endpoint here", |_| metric(lacking) == 1.0);
        put_endpoint(&api, backends.at(0), false);
        proxy.until("a port without an endpoint anywhere", |_| metric(lacking) == 0.0);
        // What lacks is told with what was heard, which is in the tables a moment later.
        let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
        proxy.until("nothing to be under way", |_| metric(pending) == 0.0);
        assert!(metric(programmed) > count);
        assert!(metric("kubeproxy_sync_proxy_rules_endpoint_changes_total") > before);
        assert!(
            metric("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}") > 1.0
        );

        let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
        api.put(node(taint));
        proxy.until("a node that leaves to be told", |_| code(HEALTH, "/healthz") == Some(503));
        assert_eq!(code(HEALTH, "/livez"), Some(200));

        eventually("the event of the start", DEADLINE, || {
            api.events().iter().any(|event| {
                event["reason"] == "Starting"
                    && event["reportingController"] == "kube-proxy"
                    && event["regarding"]["name"] == "node-1"
            })
        });
        let log = proxy.log();
        assert!(log.contains("unknown field `new` is ignored"), "{log}");
        assert!(
            log.contains("accepted without effect (docs/kubernetes.md says why): configSyncPeriod"),
            "{log}"
        );

        let pid = Pid::from_raw(proxy.child.id().cast_signed());
        signal(pid, Signal::SIGTERM).unwrap();
        assert_eq!(proxy.ended(), Some(0));
    });
}

#[test]
fn it_ends_when_it_must_begin_anew() {
    lab::run("kube-proxy-ends", |lab| {
        netns::add_address(NODE);
        let backends = Backends::tcp(NODE, ["a"]);
        let api = cluster(backends.at(0), 30_999);
        let mut proxy = Proxy::start(lab, &api, "");
        proxy.wait_ready();
        proxy.until("the node", |_| code(HEALTH, "/healthz") == Some(200));
        api.put_node("node-1", &["192.0.2.11"]);
        assert_eq!(proxy.ended(), Some(1));
        let log = proxy.log();
        let told = "the addresses of the Node have changed from 192.0.2.10 to 192.0.2.11";
        assert!(log.contains(told), "{log}");

        let mut proxy = Proxy::start(lab, &api, "");
        proxy.until("the node", |_| code(HEALTH, "/healthz") == Some(200));
        api.delete("Node", "", "node-1").unwrap();
        assert_eq!(proxy.ended(), Some(1));
        assert!(proxy.log().contains("the Node object is gone"), "{}", proxy.log());

        let ranges = |ranges: &[&str]| {
            let mut node = node(json!([]));
            node["spec"]["podCIDRs"] = json!(ranges);
            api.put(node)
        };
        ranges(&["10.244.1.0/24"]);
        let mut proxy = Proxy::start(lab, &api, "detectLocalMode: NodeCIDR\n");
        proxy.until("the node", |_| code(HEALTH, "/healthz") == Some(200));
        ranges(&["10.244.2.0/24"]);
        assert_eq!(proxy.ended(), Some(1));
        let told = "the podCIDRs of the Node have changed from 10.244.1.0/24 to 10.244.2.0/24";
        assert!(proxy.log().contains(told), "{}", proxy.log());

        let mut proxy = Proxy::start(lab, &api, "");
        proxy.until("the node", |_| code(HEALTH, "/healthz") == Some(200));
        write_config(lab, &api, "mode: ipvs\n");
        assert_eq!(proxy.ended(), Some(0));
        assert!(proxy.log().contains("config.conf has changed"), "{}", proxy.log());
        assert!(dial("10.96.0.10:80".parse().unwrap()).is_ok(), "the programs stay");
    });
}

/// A node that joins after its proxy has started: services are served at once, and the rest follows.
#[test]
fn the_node_may_come_later() {
    lab::run("kube-proxy-node-later", |lab| {
        netns::add_address(NODE);
        let backends = Backends::tcp(NODE, ["a"]);
        let api = cluster(backends.at(0), 30_999);
        api.delete("Node", "", "node-1").unwrap();
        let mut proxy = Proxy::start(lab, &api, "mode: nftables\n");
        proxy.until("a connect", |_| dial("10.96.0.10:80".parse().unwrap()).is_ok());
        proxy.until("an answer", |_| code(HEALTH, "/healthz") == Some(503));
        assert_eq!(code(HEALTH, "/livez"), Some(200));
        let node_port = format!("{NODE}:30080").parse().unwrap();
        assert!(dial(node_port).is_err(), "the primary address is not known");
        api.put(node(json!([])));
        proxy.until("a connect to the NodePort", |_| dial(node_port).is_ok());
        proxy.until("the node", |_| code(HEALTH, "/healthz") == Some(200));
        api.delete("Node", "", "node-1").unwrap();
        assert_eq!(proxy.ended(), Some(1));
    });
}

/// The API server is away, so the Node can't be read: that must take no node away from a balancer that serves.
#[test]
fn a_node_that_serves_what_was_known_is_healthy() {
    lab::run("kube-proxy-cache", |lab| {
        netns::add_address(NODE);
        let backends = Backends::tcp(NODE, ["a"]);
        let mut api = cluster(backends.at(0), 30_999);
        let mut proxy = Proxy::start(lab, &api, "");
        proxy.until("a connect", |_| dial("10.96.0.10:80".parse().unwrap()).is_ok());
        let pid = Pid::from_raw(proxy.child.id().cast_signed());
        signal(pid, Signal::SIGTERM).unwrap();
        assert_eq!(proxy.ended(), Some(0));
        api.stop();
        let mut proxy = Proxy::start(lab, &api, "");
        proxy.until("health on the cache", |_| code(HEALTH, "/healthz") == Some(200));
        assert_eq!(code(HEALTH, "/livez"), Some(200));
        let (_, _, body) = get(HEALTH, "/healthz").unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["nodeEligible"], &body["healthy"]), (&json!(true), &json!(true)));
        proxy.until("the cache to serve", |_| {
            let status = lab.lbctl(&["status"]);
            status.code == Some(0) && status.stdout.contains("cached")
        });
        assert!(dial("10.96.0.10:80".parse().unwrap()).is_ok());

        // Once the cluster can be read, it counts.
        let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
        api.put(node(taint));
        api.resume();
        proxy.until("a node that leaves to be told", |_| code(HEALTH, "/healthz") == Some(503));
        assert_eq!(code(HEALTH, "/livez"), Some(200));
    });
}

#[test]
fn a_port_that_is_taken_is_told_and_tried_again() {
    lab::run("kube-proxy-taken", |lab| {
        netns::add_address(NODE);
        let backends = Backends::tcp(NODE, ["a"]);
        let api = cluster(backends.at(0), 30_999);
        let taken = TcpListener::bind("0.0.0.0:10256").unwrap();
        let service = TcpListener::bind(format!("{NODE}:30999")).unwrap();
        let told = |reason: &str| api.events().iter().any(|event| event["reason"] == reason);
        let mut proxy = Proxy::start(lab, &api, "bindAddressHardFail: true\n");
        assert_eq!(proxy.ended(), Some(1));
        let line = "the health server can't listen on 0.0.0.0:10256";
        assert!(proxy.log().contains(line), "{}", proxy.log());

        let mut proxy = Proxy::start(lab, &api, "");
        proxy.wait_ready();
        eventually("events", DEADLINE, || {
            told("FailedToStartProxierHealthcheck") && told("FailedToStartServiceHealthcheck")
        });
        drop((taken, service));
        proxy.until("health", |_| code(HEALTH, "/livez") == Some(200));
    });
}

#[test]
fn mistakes_are_told_in_one_line_each() {
    lab::run("kube-proxy-mistakes", |lab| {
        let file = lab.scratch().join("config.conf");
        let config = format!("--config={}", file.display());
        let proxy = |arguments: &[&str]| -> Finished {
            lab.lb_agent(&[&["kube-proxy"], arguments].concat())
        };
        for (text, line) in [
            ("a: b: c", "not valid YAML"),
            (
                "kind: Config\napiVersion: v1\n",
                "`kind` must be KubeProxyConfiguration, not `Config`",
            ),
            (
                "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nmode: x\n",
                "`mode`: `x` is not possible; use one of: iptables, ipvs, nftables",
            ),
        ] {
            fs::write(&file, text).unwrap();
            let finished = proxy(&[&config]);
            assert_eq!(finished.code, Some(64), "{finished:?}");
            assert!(finished.stderr.contains(line), "{finished:?}");
        }
        let finished = proxy(&["--hostname-overide=x", "y"]);
        assert_eq!(finished.code, Some(64));
        assert_eq!(
            finished.stderr,
            "lb-agent: unknown flag `--hostname-overide`; did you mean `--hostname-override`?\n\
             lb-agent: kube-proxy takes flags only, not `y`; remove it\n"
        );
        let written = lab.scratch().join("written.conf");
        let finished = proxy(&[&format!("--write-config-to={}", written.display())]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(fs::read_to_string(written).unwrap().contains("metricsBindAddress: "));
        assert_eq!(proxy(&["--init-only"]).code, Some(0));
        assert!(proxy(&["--version"]).stdout.starts_with("lb-agent "));
    });
}
