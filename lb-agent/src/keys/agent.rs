//! Keys of the main file: the agent's settings.

use super::Form::{Flag, Map, Number, Off, OneOrMore, Or, Path, Said, Short, Text, Time, Words};
use super::Otherwise::{Is, None, Required, Says};
use super::{
    Alternative, ETCD, Form, Group, KUBERNETES, Mapping, Needs, RANGES, SERVICE, key, stores, with,
};
use std::time::Duration;

/// Most entries a table may be given: 64 Mi, beyond any host's memory for the larger rows.
const MAX_ENTRIES: u32 = 1 << 26;
const ENTRIES: Form = Number(1, MAX_ENTRIES);

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

const SERVICES: Form = Form::List(&Map(&SERVICE), 0, "list");

/// The main file.
pub(crate) static MAIN: Mapping = Mapping {
    id: "main",
    groups: &[&Group {
        id: "main",
        keys: &[
            key(
                "cgroup",
                Path,
                Says("root of the cgroup2 hierarchy"),
                "processes in this cgroup and below it are served",
            ),
            key(
                "exclude_cgroups",
                Form::List(&Path, 0, "list of at most 4 paths"),
                None,
                "[cgroups](configuration.md#cgroups-that-are-left-alone) below that one whose \
                 processes are not served",
            ),
            key(
                "pin_dir",
                Path,
                Is("/sys/fs/bpf/lb"),
                "where tables and links are pinned; the table layout's version is appended",
            ),
            key("state_dir", Path, Is("/var/lib/lb-agent"), "state file and snapshot cache"),
            key(
                "socket",
                Said("path, at most 107 bytes"),
                Is("/run/lb-agent/agent.sock"),
                "Unix socket of the API, which `lbctl` uses",
            ),
            key(
                "socket_group",
                Or(&[Said("name"), Number(0, u32::MAX)]),
                Says("the agent's own group"),
                "whose members may use the socket; see [running.md](running.md#who-may-ask)",
            ),
            key(
                "http",
                Or(&[Said("address with port"), Off]),
                Is("127.0.0.1:9777"),
                "where [metrics and the status page](observability.md#http) are served. Who can \
                 reach it can read everything",
            ),
            key("metrics", Map(&METRICS), None, "what `/metrics` has"),
            key(
                "detach_on_exit",
                Flag,
                Is("false"),
                "whether a graceful stop also detaches the programs; otherwise services go on \
                 without the agent",
            ),
            key(
                "vip_ranges",
                RANGES,
                Says("see [below](configuration.md#who-may-claim-what)"),
                "which frontends the services in this file may claim",
            ),
            key(
                "tables",
                Map(&TABLES),
                Says("see [below](configuration.md#tables)"),
                "sizes of the kernel tables",
            ),
            key("zone", Short, None, "this host's zone; see [health](health.md#the-rule)"),
            key(
                "allow_exec",
                Flag,
                Is("false"),
                "whether the services in this file may have [checks that run \
                 programs](health.md#programs); sources have a setting of their own",
            ),
            key(
                "names",
                Map(&NAMES),
                None,
                "where services can be looked up by name: [names.md](names.md)",
            ),
            key(
                "packet_path",
                Words(&["auto", "on", "off"]),
                Is("auto"),
                "whether connections from other hosts are served, by nftables: \
                 [packet-path.md](packet-path.md)",
            ),
            key(
                "self_test",
                Time(SECOND, HOUR),
                Is("1m"),
                "how often the agent looks whether its programs are still attached and pinned: \
                 [self-test](faults.md#self-test)",
            ),
            key(
                "sources",
                Form::List(&Map(&SOURCE), 0, "list"),
                None,
                "further [sources](configuration.md#sources), by precedence: files, prefixes in \
                 etcd, Kubernetes clusters",
            ),
            key("services", SERVICES, None, "the services in this file"),
        ],
    }],
    needs: Needs::Any(&[with(&["services"]), with(&["sources"])]),
};

/// A further file.
pub(crate) static FILE_OF_SERVICES: Mapping = Mapping {
    id: "file",
    groups: &[&Group {
        id: "file",
        keys: &[key("services", SERVICES, Required, "the services in this file")],
    }],
    needs: Needs::Nothing,
};

/// What `/metrics` has.
pub(crate) static METRICS: Mapping = Mapping {
    id: "metrics",
    groups: &[&Group {
        id: "metrics",
        keys: &[key(
            "per_backend",
            Flag,
            Is("false"),
            "[series of each backend](observability.md#metrics), besides those of its service",
        )],
    }],
    needs: Needs::Nothing,
};

/// Sizes of the kernel tables.
pub(crate) static TABLES: Mapping = Mapping {
    id: "tables",
    groups: &[&Group {
        id: "tables",
        keys: &[
            key("frontends", ENTRIES, Is("65536"), "frontends"),
            key("services", ENTRIES, Is("65536"), "services"),
            key(
                "rows",
                ENTRIES,
                Is("262144"),
                "one row per backend and one per distinct set of them, twice over: a changed set \
                 is written beside the old one",
            ),
            key(
                "backends",
                ENTRIES,
                Is("262144"),
                "backends, once per service they are in, and those whose connections are still \
                 open",
            ),
            key(
                "connections",
                Number(2, MAX_ENTRIES),
                Is("262144"),
                "open sockets; a power of two",
            ),
            key(
                "overflow",
                ENTRIES,
                Is("65536"),
                "open sockets that found their place in `connections` taken; before Linux 5.13, \
                 all of them",
            ),
            key("affinity", ENTRIES, Is("65536"), "clients that are kept on a backend"),
        ],
    }],
    needs: Needs::Nothing,
};

/// An item of `sources`.
pub(crate) static SOURCE: Mapping = Mapping {
    id: "source",
    groups: &[&Group {
        id: "source",
        keys: &[
            key("file", Path, None, "a file with services"),
            key("etcd", Map(&ETCD), None, "a prefix in etcd: see [below](configuration.md#etcd)"),
            key(
                "kubernetes",
                Map(&KUBERNETES),
                None,
                "a cluster: see [below](configuration.md#kubernetes)",
            ),
            key(
                "vip_ranges",
                RANGES,
                Says("see [below](configuration.md#who-may-claim-what)"),
                "what its services may claim; etcd's native layout needs it, other layouts and \
                 `kubernetes` refuse it",
            ),
            key(
                "allow_exec",
                Flag,
                Is("false"),
                "whether its services may have [checks that run programs](health.md#programs); \
                 not for `kubernetes`",
            ),
        ],
    }],
    needs: Needs::One(&[
        with(&["file"]),
        with(&["etcd"]),
        Alternative { with: &["kubernetes"], without: &["vip_ranges", "allow_exec"] },
    ]),
};

/// Where services can be looked up.
pub(crate) static NAMES: Mapping = Mapping {
    id: "names",
    groups: &[&Group {
        id: "names",
        keys: &[
            key("zone", Said("domain"), Is("lb.internal"), "what the names end in"),
            key("hosts", Path, None, "a hosts file"),
            key("dns", Or(&[Flag, Map(&DNS)]), Is("false"), "the responder"),
            key("coredns", Map(&COREDNS), None, "the records"),
        ],
    }],
    needs: Needs::Nothing,
};

/// The responder.
pub(crate) static DNS: Mapping = Mapping {
    id: "dns",
    groups: &[&Group {
        id: "dns",
        keys: &[
            key(
                "listen",
                OneOrMore(&Said("address"), "address or list of them"),
                Is("127.0.0.1:5354"),
                "where it listens, by UDP and TCP; no wildcard addresses",
            ),
            key(
                "ttl",
                Time(Duration::ZERO, HOUR),
                Is("5s"),
                "how long answers may be remembered, and that there is none; whole seconds",
            ),
        ],
    }],
    needs: Needs::Nothing,
};

/// Records for CoreDNS.
pub(crate) static COREDNS: Mapping = Mapping {
    id: "coredns",
    groups: &[
        &stores::CLUSTER,
        &Group {
            id: "coredns",
            keys: &[
                key("prefix", Text, Is("/skydns/"), "CoreDNS' `path`"),
                key(
                    "ttl",
                    Time(Duration::from_secs(5), HOUR),
                    Is("30s"),
                    "how long answers may be remembered, and how long records outlive the agent; \
                     whole seconds",
                ),
            ],
        },
    ],
    needs: Needs::Nothing,
};
