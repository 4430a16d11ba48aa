//! The rows themselves.

use super::{Kind, Row, Standing};

use Kind::{Anything, Duration, Flag, Fraction, List, Number, Repeated, Switches, Text};
use Standing::{Honoured, NoEffect, Refused};

const NOT_PACKETS: &str = "it is about marks of packets; none is marked";
const CONNTRACK: &str =
    "sockets need no entry in conntrack; for packets of others set `net.netfilter` yourself";
const IPVS: &str = "there is no IPVS here";
const AT_ONCE: &str = "every change is applied at once";
const API: &str = "the client's own default serves";
const LOGS: &str = "it is about another logger";
const WINDOWS: &str = "it is for Windows, this is Linux; remove it";

const I32: Kind = Number(-2_147_483_648, 2_147_483_647);

const fn row(
    flag: &'static str,
    field: &'static str,
    kind: Kind,
    default: &'static str,
    standing: Standing,
) -> Row {
    Row { flag, field, kind, default, standing }
}

/// The table, in the order of the documentation.
pub const ROWS: [Row; 80] = [
    row(
        "config",
        "",
        Text,
        "\"\"",
        Honoured(
            "the configuration file; followed: a change ends the process, to be started again",
        ),
    ),
    row(
        "hostname-override",
        "hostnameOverride",
        Text,
        "\"\"",
        Honoured("the name of this Node; the flag also counts beside `--config`"),
    ),
    row(
        "kubeconfig",
        "clientConnection.kubeconfig",
        Text,
        "\"\"",
        Honoured("how to reach the API server"),
    ),
    row("master", "", Text, "\"\"", Honoured("the API server's URL, over the kubeconfig's")),
    row(
        "proxy-mode",
        "mode",
        Text,
        "\"\"",
        Honoured(
            "`iptables` (default), `ipvs` or `nftables`: decides only on which addresses NodePorts are served, and what `/proxyMode` says",
        ),
    ),
    row(
        "nodeport-addresses",
        "nodePortAddresses",
        List,
        "null",
        Honoured("`primary` or ranges: where NodePorts and healthCheckNodePorts are served"),
    ),
    row(
        "iptables-localhost-nodeports",
        "iptables.localhostNodePorts",
        Flag,
        "true",
        Honoured("whether NodePorts are served on loopback, in modes other than `nftables`"),
    ),
    row(
        "bind-address",
        "bindAddress",
        Text,
        "\"0.0.0.0\"",
        Honoured(
            "this node's primary address, over the Node object's; its family decides where the servers listen by default",
        ),
    ),
    row(
        "healthz-bind-address",
        "healthzBindAddress",
        Text,
        "\"0.0.0.0:10256\"",
        Honoured("where `/healthz` and `/livez` are served; an empty flag or port 0: nowhere"),
    ),
    row(
        "metrics-bind-address",
        "metricsBindAddress",
        Text,
        "\"127.0.0.1:10249\"",
        Honoured("where `/metrics` is served; an empty flag or port 0: nowhere"),
    ),
    row(
        "bind-address-hard-fail",
        "bindAddressHardFail",
        Flag,
        "false",
        Honoured("end if one of these two can't be bound, instead of trying again"),
    ),
    row(
        "healthz-port",
        "",
        Number(0, 65_535),
        "10256",
        Honoured("deprecated: the port of `--healthz-bind-address`; 0: nowhere"),
    ),
    row(
        "metrics-port",
        "",
        Number(0, 65_535),
        "10249",
        Honoured("deprecated: the port of `--metrics-bind-address`; 0: nowhere"),
    ),
    row(
        "oom-score-adj",
        "oomScoreAdj",
        Number(-1000, 1000),
        "-999",
        Honoured("the process's oom_score_adj"),
    ),
    row(
        "iptables-sync-period",
        "iptables.syncPeriod",
        Duration,
        "\"30s\"",
        Honoured(
            "an update that waits for twice as long makes the proxy unhealthy (mode `iptables`)",
        ),
    ),
    row(
        "ipvs-sync-period",
        "ipvs.syncPeriod",
        Duration,
        "\"30s\"",
        Honoured("the same in mode `ipvs`"),
    ),
    row("", "nftables.syncPeriod", Duration, "\"30s\"", Honoured("the same in mode `nftables`")),
    row(
        "v",
        "logging.verbosity",
        Number(0, 4_294_967_295),
        "0",
        Honoured("4 and above: debug lines; 6 and above: trace lines"),
    ),
    row("logging-format", "logging.format", Text, "\"text\"", Honoured("`text` or `json`")),
    row(
        "detect-local-mode",
        "detectLocalMode",
        Text,
        "\"\"",
        Honoured(
            "how packets of pods are told: `ClusterCIDR` (default), `BridgeInterface`, \
             `InterfaceNamePrefix`, or `NodeCIDR`, which ends the agent when the Node's podCIDRs change",
        ),
    ),
    row("write-config-to", "", Text, "\"\"", Honoured("write the defaults to this file, and end")),
    row(
        "cleanup",
        "",
        Flag,
        "false",
        Honoured("remove what kube-proxy left on this node, and end"),
    ),
    row("init-only", "", Flag, "false", Honoured("nothing to prepare: ends at once")),
    row("version", "", Flag, "false", Honoured("print the version, and end")),
    row("help", "", Flag, "false", Honoured("print the flags, and end")),
    row(
        "cleanup-lb",
        "",
        Flag,
        "false",
        Honoured(
            "ours: with `--cleanup`, detach also what a stopped lb-agent left; `false` keeps even the tables \
             of its packet path",
        ),
    ),
    row(
        "socket-scope",
        "",
        Text,
        "\"everywhere\"",
        Honoured(
            "ours: `host` leaves the sockets of pods alone, for meshes that must see the service's address",
        ),
    ),
    row(
        "packet-path",
        "",
        Text,
        "\"auto\"",
        Honoured(
            "ours: serve connections from other hosts by nftables; `on` ends the start if that can't be, `off` leaves nftables alone",
        ),
    ),
    row(
        "exclude-cgroup",
        "",
        Repeated,
        "null",
        Honoured(
            "ours: leave the sockets of this cgroup subtree alone; may be given several times",
        ),
    ),
    row(
        "cgroup",
        "",
        Text,
        "\"\"",
        Honoured("ours: attach to this cgroup2 directory instead of the root of the hierarchy"),
    ),
    row(
        "pin-dir",
        "",
        Text,
        "\"\"",
        Honoured("ours: pin tables and links below this directory of bpffs"),
    ),
    row("state-dir", "", Text, "\"\"", Honoured("ours: keep state file and snapshot cache here")),
    row(
        "socket",
        "",
        Text,
        "\"\"",
        Honoured("ours: serve the API for `lbctl` on this Unix socket"),
    ),
    row(
        "feature-gates",
        "featureGates",
        Switches,
        "null",
        NoEffect("they switch code that is not here"),
    ),
    row(
        "kube-api-content-type",
        "clientConnection.contentType",
        Text,
        "\"application/vnd.kubernetes.protobuf\"",
        NoEffect(API),
    ),
    row("", "clientConnection.acceptContentTypes", Text, "\"\"", NoEffect(API)),
    row("kube-api-qps", "clientConnection.qps", Fraction, "5", NoEffect(API)),
    row("kube-api-burst", "clientConnection.burst", I32, "10", NoEffect(API)),
    row(
        "config-sync-period",
        "configSyncPeriod",
        Duration,
        "\"15m0s\"",
        NoEffect("lists are repeated when the API server asks for it"),
    ),
    row("profiling", "enableProfiling", Flag, "false", NoEffect("there is no /debug/pprof")),
    row(
        "show-hidden-metrics-for-version",
        "showHiddenMetricsForVersion",
        Text,
        "\"\"",
        NoEffect("no metric is hidden"),
    ),
    row(
        "iptables-masquerade-bit",
        "iptables.masqueradeBit",
        Number(0, 31),
        "14",
        NoEffect(NOT_PACKETS),
    ),
    row(
        "masquerade-all",
        "iptables.masqueradeAll",
        Flag,
        "false",
        Honoured(
            "backends see this node's address instead of that of any packet to a cluster address (modes other than `nftables`)",
        ),
    ),
    row(
        "iptables-min-sync-period",
        "iptables.minSyncPeriod",
        Duration,
        "\"1s\"",
        NoEffect(AT_ONCE),
    ),
    row("ipvs-min-sync-period", "ipvs.minSyncPeriod", Duration, "\"0s\"", NoEffect(AT_ONCE)),
    row("ipvs-scheduler", "ipvs.scheduler", Text, "\"\"", NoEffect(IPVS)),
    row("ipvs-exclude-cidrs", "ipvs.excludeCIDRs", List, "null", NoEffect(IPVS)),
    row("ipvs-strict-arp", "ipvs.strictARP", Flag, "false", NoEffect(IPVS)),
    row("ipvs-tcp-timeout", "ipvs.tcpTimeout", Duration, "\"0s\"", NoEffect(IPVS)),
    row("ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout", Duration, "\"0s\"", NoEffect(IPVS)),
    row("ipvs-udp-timeout", "ipvs.udpTimeout", Duration, "\"0s\"", NoEffect(IPVS)),
    row("", "nftables.masqueradeBit", Number(0, 31), "14", NoEffect(NOT_PACKETS)),
    row("", "nftables.masqueradeAll", Flag, "false", Honoured("the same in mode `nftables`")),
    row("", "nftables.minSyncPeriod", Duration, "\"1s\"", NoEffect(AT_ONCE)),
    row(
        "pod-bridge-interface",
        "detectLocal.bridgeInterface",
        Text,
        "\"\"",
        Honoured(
            "the bridge by which packets of pods come in (`detectLocalMode: BridgeInterface`)",
        ),
    ),
    row(
        "pod-interface-name-prefix",
        "detectLocal.interfaceNamePrefix",
        Text,
        "\"\"",
        Honoured(
            "how the interfaces begin by which packets of pods come in (`detectLocalMode: \
             InterfaceNamePrefix`)",
        ),
    ),
    row(
        "cluster-cidr",
        "clusterCIDR",
        Text,
        "\"\"",
        Honoured("the ranges that pods' addresses are in"),
    ),
    row("conntrack-max-per-core", "conntrack.maxPerCore", I32, "32768", NoEffect(CONNTRACK)),
    row("conntrack-min", "conntrack.min", I32, "131072", NoEffect(CONNTRACK)),
    row(
        "conntrack-tcp-timeout-established",
        "conntrack.tcpEstablishedTimeout",
        Duration,
        "\"24h0m0s\"",
        NoEffect(CONNTRACK),
    ),
    row(
        "conntrack-tcp-timeout-close-wait",
        "conntrack.tcpCloseWaitTimeout",
        Duration,
        "\"1h0m0s\"",
        NoEffect(CONNTRACK),
    ),
    row("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", Flag, "false", NoEffect(CONNTRACK)),
    row("conntrack-udp-timeout", "conntrack.udpTimeout", Duration, "\"0s\"", NoEffect(CONNTRACK)),
    row(
        "conntrack-udp-timeout-stream",
        "conntrack.udpStreamTimeout",
        Duration,
        "\"0s\"",
        NoEffect(CONNTRACK),
    ),
    row("proxy-port-range", "portRange", Text, "\"\"", NoEffect("no port is opened for services")),
    row("vmodule", "logging.vmodule", Anything, "null", NoEffect(LOGS)),
    row("log-flush-frequency", "logging.flushFrequency", Anything, "null", NoEffect(LOGS)),
    row("log-json-info-buffer-size", "", Anything, "null", NoEffect(LOGS)),
    row("log-json-split-stream", "", Flag, "false", NoEffect(LOGS)),
    row("log-text-info-buffer-size", "", Anything, "null", NoEffect(LOGS)),
    row("log-text-split-stream", "", Flag, "false", NoEffect(LOGS)),
    row("", "logging.options", Anything, "null", NoEffect(LOGS)),
    row("boot-id-file", "", Anything, "null", NoEffect("it is not read")),
    row("machine-id-file", "", Anything, "null", NoEffect("it is not read")),
    row("windows-service", "windowsRunAsService", Flag, "false", Refused(WINDOWS)),
    row("network-name", "winkernel.networkName", Text, "\"\"", Refused(WINDOWS)),
    row("source-vip", "winkernel.sourceVip", Text, "\"\"", Refused(WINDOWS)),
    row("enable-dsr", "winkernel.enableDSR", Flag, "false", Refused(WINDOWS)),
    row("root-hnsendpoint-name", "winkernel.rootHnsEndpointName", Text, "\"\"", Refused(WINDOWS)),
    row(
        "forward-healthcheck-vip",
        "winkernel.forwardHealthCheckVip",
        Flag,
        "false",
        Refused(WINDOWS),
    ),
];
