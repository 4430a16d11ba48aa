//! Tables: what comes of flags and files.

use super::*;
use crate::kubeproxy::{config, flags};
use serde_json::json;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn by_flags(arguments: &[&str]) -> Result<Decided, Vec<String>> {
    decide(&flags::parse(arguments).unwrap(), None)
}

fn by_file(text: &str, arguments: &[&str]) -> Result<Decided, Vec<String>> {
    let file = config::parse("config.conf", &format!("{HEAD}{text}")).unwrap();
    decide(&flags::parse(arguments).unwrap(), Some(&file))
}

fn address(text: &str) -> Option<SocketAddr> {
    (!text.is_empty()).then(|| text.parse().unwrap())
}

#[test]
fn nothing_given_is_kube_proxys_default() {
    let decided = by_flags(&[]).unwrap();
    let (document, flags) = (decided.document.clone(), decided.flags.clone());
    let expected = Decided {
        kubeconfig: None,
        server: None,
        node: None,
        mode: Mode::Iptables,
        node_ports: NodePorts { addresses: NodePortAddresses::All, localhost: true },
        scope: Scope::Everywhere,
        exclude_cgroups: Vec::new(),
        packet_path: PacketPath::Auto,
        pods: Pods::Unknown,
        masquerade_all: false,
        healthz: address("0.0.0.0:10256"),
        metrics: address("127.0.0.1:10249"),
        hard_fail: false,
        unhealthy_after: Duration::from_secs(60),
        oom_score_adj: -999,
        verbosity: 0,
        json_logs: false,
        watch_pod_ranges: false,
        flags,
        document,
        warnings: Vec::new(),
    };
    assert_eq!(decided, expected);
    assert_eq!(decided.document["mode"], json!("iptables"));
    assert_eq!(by_file("", &[]).unwrap(), expected);
}

#[test]
fn ranges_of_pods_are_watched_where_pods_are_told_by_them() {
    for (mode, watched) in [
        ("", false),
        ("ClusterCIDR", false),
        ("NodeCIDR", true),
        ("BridgeInterface", false),
        ("InterfaceNamePrefix", false),
    ] {
        let mode_flag = format!("--detect-local-mode={mode}");
        let flags = [&*mode_flag, "--pod-bridge-interface=br0", "--pod-interface-name-prefix=veth"];
        assert_eq!(by_flags(&flags).unwrap().watch_pod_ranges, watched, "{mode}");
        let fields = format!(
            "detectLocalMode: \"{mode}\"\n\
             detectLocal: {{bridgeInterface: br0, interfaceNamePrefix: veth}}\n"
        );
        assert_eq!(by_file(&fields, &[]).unwrap().watch_pod_ranges, watched, "{mode}");
    }
    let problems = by_flags(&["--detect-local-mode=NodeCidr"]).unwrap_err();
    let known = "ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix";
    let problem = format!("`detectLocalMode`: `NodeCidr` is not possible; use one of: {known}");
    assert_eq!(problems, [problem]);
}

#[test]
fn flags_are_shown_with_their_defaults() {
    let arguments = ["--config=/c.conf", "-v=2", "--nodeport-addresses=10.0.0.0/8,fd00::/8"];
    let flags = by_file("mode: nftables\n", &arguments).unwrap().flags;
    for (name, value) in [
        ("config", "/c.conf"),
        ("v", "2"),
        ("nodeport-addresses", "[\"10.0.0.0/8\",\"fd00::/8\"]"),
        ("proxy-mode", ""),
        ("oom-score-adj", "-999"),
        ("cleanup", "false"),
    ] {
        assert_eq!(flags[name], value, "{name}");
    }
}

#[test]
fn where_node_ports_are_served() {
    use NodePortAddresses::{All, Primary, PrimaryIs, Ranges};
    let ranges = |texts: &[&str]| Ranges(texts.iter().map(|text| text.parse().unwrap()).collect());
    for (arguments, addresses, localhost) in [
        (vec!["--proxy-mode=iptables"], All, true),
        (vec!["--proxy-mode=ipvs"], All, true),
        (vec!["--proxy-mode=nftables"], Primary, false),
        (vec!["--iptables-localhost-nodeports=false"], All, false),
        (vec!["--nodeport-addresses=primary"], Primary, false),
        (
            vec!["--nodeport-addresses=primary", "--bind-address=192.0.2.1"],
            PrimaryIs("192.0.2.1".parse().unwrap()),
            false,
        ),
        (vec!["--proxy-mode=nftables", "--bind-address=::"], Primary, false),
        (vec!["--nodeport-addresses=10.1.2.3/8"], ranges(&["10.0.0.0/8"]), false),
        (vec!["--nodeport-addresses=127.0.0.0/8"], ranges(&["127.0.0.0/8"]), true),
        (vec!["--nodeport-addresses=0.0.0.0/0"], ranges(&["0.0.0.0/0"]), true),
        (vec!["--nodeport-addresses=fd00::/8"], ranges(&["fd00::/8"]), true),
        (
            vec!["--nodeport-addresses=0.0.0.0/0", "--proxy-mode=nftables"],
            ranges(&["0.0.0.0/0"]),
            false,
        ),
        (
            vec!["--nodeport-addresses=127.0.0.0/8", "--iptables-localhost-nodeports=false"],
            ranges(&["127.0.0.0/8"]),
            false,
        ),
    ] {
        let decided = by_flags(&arguments).unwrap();
        assert_eq!(decided.node_ports, NodePorts { addresses, localhost }, "{arguments:?}");
    }
}

#[test]
fn where_the_servers_listen() {
    for (arguments, healthz, metrics) in [
        (vec!["--bind-address=::"], "[::]:10256", "[::1]:10249"),
        (vec!["--bind-address=192.0.2.1"], "0.0.0.0:10256", "127.0.0.1:10249"),
        (vec!["--healthz-bind-address=", "--metrics-bind-address="], "", ""),
        (vec!["--healthz-bind-address=10.0.0.1:0", "--metrics-port=0"], "", ""),
        (vec!["--healthz-port=1", "--metrics-port=2"], "0.0.0.0:1", "127.0.0.1:2"),
        (
            vec!["--healthz-bind-address=10.0.0.1", "--metrics-bind-address=[::]:9"],
            "10.0.0.1:10256",
            "[::]:9",
        ),
        (vec!["--healthz-bind-address=::1"], "[::1]:10256", "127.0.0.1:10249"),
    ] {
        let decided = by_flags(&arguments).unwrap();
        let found = (decided.healthz, decided.metrics);
        assert_eq!(found, (address(healthz), address(metrics)), "{arguments:?}");
    }
    let text = "healthzBindAddress: ''\nmetricsBindAddress: 0.0.0.0:0";
    let decided = by_file(text, &[]).unwrap();
    assert_eq!((decided.healthz, decided.metrics), (address("0.0.0.0:10256"), None));
    assert_eq!(decided.document["metricsBindAddress"], json!(""));
}

#[test]
fn beside_a_file_most_flags_do_not_count() {
    let arguments = [
        "--config=config.conf",
        "--hostname-override=Worker-1 ",
        "--proxy-mode=ipvs",
        "--oom-score-adj=5",
        "--master=https://10.0.0.1:6443",
        "--socket-scope=host",
        "--exclude-cgroup=/a",
        "--exclude-cgroup=/b",
        "-v=4",
    ];
    let text = "hostnameOverride: other\nmode: nftables\niptables: {masqueradeBit: 3}\nx: 1";
    let decided = by_file(text, &arguments).unwrap();
    assert_eq!(decided.node.as_deref(), Some("worker-1"));
    assert_eq!((decided.mode, decided.oom_score_adj), (Mode::Nftables, -999));
    assert_eq!(decided.server.as_deref(), Some("https://10.0.0.1:6443"));
    assert_eq!((decided.scope, decided.verbosity), (Scope::Host, 4));
    assert_eq!(decided.exclude_cgroups, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(
        decided.warnings,
        [
            "config.conf:6:4: unknown field `x` is ignored; remove it",
            "the file of --config counts, not --proxy-mode, --oom-score-adj; set it there",
            "accepted without effect (docs/kubernetes.md says why): iptables.masqueradeBit",
        ]
    );
    let file_name = by_file("hostnameOverride: other", &["--hostname-override="]).unwrap();
    assert_eq!(file_name.node.as_deref(), Some("other"), "an empty name overrides nothing");
}

#[test]
fn an_update_may_wait_for_two_periods_of_its_mode() {
    for (text, seconds) in [
        ("mode: ipvs\nipvs: {syncPeriod: 10s}\niptables: {syncPeriod: 1h}", 20),
        ("mode: nftables\nnftables: {syncPeriod: 1m}", 120),
        ("iptables: {syncPeriod: 0s}", 60),
    ] {
        let after = by_file(text, &[]).unwrap().unhealthy_after;
        assert_eq!(after, Duration::from_secs(seconds), "{text}");
    }
}

#[test]
fn what_kubeadm_passes_is_told_in_one_line() {
    let arguments = ["--config=/x", "--hostname-override=n1"];
    let text = "clusterCIDR: 10.244.0.0/16\nconntrack: {maxPerCore: 1, min: 131072}\nportRange: ''";
    let decided = by_file(text, &arguments).unwrap();
    let line = "accepted without effect (docs/kubernetes.md says why): conntrack.maxPerCore";
    assert_eq!(decided.warnings, [line]);
}

#[test]
fn mistakes() {
    for (arguments, problem) in [
        (
            vec!["--proxy-mode=kernelspace"],
            "`mode`: `kernelspace` is not possible; use one of: iptables, ipvs, nftables",
        ),
        (
            vec!["--socket-scope=pod"],
            "`socket-scope`: `pod` is not possible; use one of: everywhere, host",
        ),
        (
            vec!["--logging-format=xml"],
            "`logging.format`: `xml` is not possible; use one of: text, json",
        ),
        (vec!["--bind-address=here"], "`bindAddress`: `here` is not an IP address; write one"),
        (
            vec!["--healthz-bind-address=x:1"],
            "`healthzBindAddress`: `x:1` is no address; write it as 0.0.0.0:10256 or [::]:10256",
        ),
        (
            vec!["--nodeport-addresses=primary,10.0.0.0/8"],
            "`nodePortAddresses`: `primary` is not a range such as 10.0.0.0/8; write ranges, or the word `primary` alone",
        ),
        (
            vec!["--nodeport-addresses=10.0.0.1"],
            "`nodePortAddresses`: `10.0.0.1` is not a range such as 10.0.0.0/8; write ranges, or the word `primary` alone",
        ),
        (
            vec!["--hostname-override=a b"],
            "`hostnameOverride`: `a b` is no name; the name of a Node has letters, digits, `-` and `.` only",
        ),
        (
            vec!["--enable-dsr"],
            "`winkernel.enableDSR`: it is for Windows, this is Linux; remove it",
        ),
    ] {
        assert_eq!(by_flags(&arguments).unwrap_err(), [problem], "{arguments:?}");
    }
    let text = "mode: userspace\nbindAddress: x\nwinkernel: {sourceVip: 10.0.0.1}";
    assert_eq!(by_file(text, &[]).unwrap_err().len(), 3, "all are named");
}

#[test]
fn how_pods_are_told() {
    let ranges = |texts: &[&str]| Pods::Ranges(texts.iter().map(|t| t.parse().unwrap()).collect());
    for (arguments, expected) in [
        (vec!["--cluster-cidr=10.244.0.0/16"], ranges(&["10.244.0.0/16"])),
        (
            vec!["--cluster-cidr=10.244.0.0/16, fd00::/48", "--detect-local-mode=ClusterCIDR"],
            ranges(&["10.244.0.0/16", "fd00::/48"]),
        ),
        (vec!["--cluster-cidr="], Pods::Unknown),
        (vec!["--detect-local-mode=NodeCIDR", "--cluster-cidr=10.0.0.0/8"], Pods::OfNode),
        (
            vec!["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"],
            Pods::By(PodInterface::Named("cni0".to_owned())),
        ),
        (
            vec!["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"],
            Pods::By(PodInterface::Beginning("cali".to_owned())),
        ),
        // A name that is not asked for says nothing.
        (vec!["--pod-bridge-interface=cni0"], Pods::Unknown),
    ] {
        assert_eq!(by_flags(&arguments).unwrap().pods, expected, "{arguments:?}");
    }
    let problems = by_flags(&["--cluster-cidr=10.244.0.0"]).unwrap_err();
    assert!(problems[0].starts_with("`clusterCIDR`: `10.244.0.0` is not a range"), "{problems:?}");
    for (name, said) in [("", "``"), ("a/b", "`a/b`"), ("sixteen-letters-", "`sixteen-letters-`")] {
        let interface = format!("--pod-bridge-interface={name}");
        let problems = by_flags(&["--detect-local-mode=BridgeInterface", &interface]).unwrap_err();
        let told = format!("`detectLocal.bridgeInterface`: {said} names no network interface");
        assert!(problems.len() == 1 && problems[0].starts_with(&told), "{problems:?}");
    }
    for (arguments, expected) in [
        (vec!["--masquerade-all"], true),
        (vec!["--masquerade-all", "--proxy-mode=nftables"], false),
    ] {
        assert_eq!(by_flags(&arguments).unwrap().masquerade_all, expected, "{arguments:?}");
    }
    let off = by_flags(&["--packet-path=off"]).unwrap();
    assert_eq!(off.packet_path, PacketPath::Off);
    assert!(by_flags(&["--packet-path=no"]).is_err());
}
