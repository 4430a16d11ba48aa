//! Keys of sources that are stores of their own: etcd and Kubernetes.

use super::Form::{Flag, List, Map, Name, Or, Path, Said, Text, Time, Words};
use super::Otherwise::{Is, None, Required, Says};
use super::{Group, Mapping, Needs, RANGES, key};
use std::time::Duration;

/// How an etcd cluster is reached.
pub(super) static CLUSTER: Group = Group {
    id: "cluster",
    keys: &[
        key(
            "endpoints",
            List(&Said("URL"), 1, "list, at least one"),
            Required,
            "members of the cluster: `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT` for \
             http; port 2379 if left out. One is used at a time, another when it fails",
        ),
        key("tls", Map(&TLS), None, "for https, which all endpoints must be then"),
        key("user", Map(&USER), None, "who we are"),
    ],
};

/// A prefix in etcd.
pub(crate) static ETCD: Mapping = Mapping {
    id: "etcd",
    groups: &[
        &CLUSTER,
        &Group {
            id: "etcd",
            keys: &[
                key(
                    "name",
                    Name,
                    Says("the prefix"),
                    "the source is called `etcd:NAME`; two sources can't have one name",
                ),
                key(
                    "prefix",
                    Text,
                    Says(
                        "`native` `/lb/`, `coredns` `/skydns/`, `kratos` `/microservices/`, \
                         `patroni` `/service/`; the others need one",
                    ),
                    "what the keys begin with; a `/` is added if it does not end in one",
                ),
                key(
                    "layout",
                    Words(&["native", "grpc", "coredns", "plain", "kratos", "patroni"]),
                    Is("native"),
                    "what keys and values mean: ours, or another program's",
                ),
                key(
                    "removal_grace",
                    Time(Duration::ZERO, Duration::from_secs(3600)),
                    Is("30s"),
                    "how long a removal that may be a mishap is not believed; see below",
                ),
                key(
                    "vip_pool",
                    RANGES,
                    None,
                    "`native` only: where `vip: auto` takes addresses from; inside `vip_ranges`",
                ),
            ],
        },
    ],
    needs: Needs::Nothing,
};

/// Certificates of an etcd cluster.
pub(crate) static TLS: Mapping = Mapping {
    id: "tls",
    groups: &[&Group {
        id: "tls",
        keys: &[
            key("ca", Path, Says("the system's"), "PEM file with the authorities"),
            key("cert", Path, None, "PEM file with our certificate; needs `key`"),
            key("key", Path, None, "PEM file with its key; needs `cert`"),
            key(
                "server_name",
                Text,
                Says("the endpoint's"),
                "the name that certificates must have",
            ),
        ],
    }],
    needs: Needs::Nothing,
};

/// A user of an etcd cluster.
pub(crate) static USER: Mapping = Mapping {
    id: "user",
    groups: &[&Group {
        id: "user",
        keys: &[
            key("name", Text, Required, "the user"),
            key("password_file", Path, Required, "the file that has the password"),
        ],
    }],
    needs: Needs::Nothing,
};

/// A Kubernetes cluster.
pub(crate) static KUBERNETES: Mapping = Mapping {
    id: "kubernetes",
    groups: &[&Group {
        id: "kubernetes",
        keys: &[
            key("name", Name, None, "the source is called `kubernetes`, or `kubernetes:NAME`"),
            key(
                "kubeconfig",
                Path,
                Says("the pod's service account"),
                "how to reach the API server, and who we are",
            ),
            key(
                "server",
                Said("URL"),
                Says(
                    "what `kubeconfig` says, or `KUBERNETES_SERVICE_HOST` and \
                     `KUBERNETES_SERVICE_PORT`",
                ),
                "the API server: `https://10.0.0.1:6443`",
            ),
            key(
                "node",
                Said("a node's name"),
                Says("this host's name, in lower case"),
                "which node this is",
            ),
            key(
                "node_port_addresses",
                Or(&[Words(&["all", "primary"]), RANGES]),
                Is("all"),
                "where NodePorts are served: on all addresses of this host, on the node's primary \
                 address of each family, or on those in the ranges (of a family without a range, \
                 on all)",
            ),
            key(
                "localhost_node_ports",
                Flag,
                Is("true"),
                "whether the node's own processes reach NodePorts on 127.0.0.1 and ::1",
            ),
            key(
                "pod_ranges",
                Or(&[Words(&["node"]), RANGES]),
                None,
                "for the [packet path](packet-path.md): the addresses that pods have, or those \
                 that the Node object says",
            ),
            key(
                "masquerade_all",
                Flag,
                Is("false"),
                "for the packet path: backends see this node's address instead of that of any \
                 packet to a cluster address",
            ),
            key(
                "socket_scope",
                Words(&["everywhere", "host"]),
                Is("everywhere"),
                "`host`: only sockets in the host's network namespace are translated; for meshes \
                 whose sidecars must see the service's address",
            ),
        ],
    }],
    needs: Needs::Nothing,
};
