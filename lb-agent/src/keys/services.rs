//! Keys of a service, in a file or in etcd.

use super::Form::{
    Flag, List, Map, Name, Number, OneOrMore, Or, Port, Said, Short, Text, Time, Words,
};
use super::Otherwise::{Is, None, Required, Says};
use super::{Alternative, Group, Key, Mapping, Needs, OF_SERVICE, PORT_NUMBER, key};
use std::time::Duration;

const ADDRESSES: Needs = Needs::One(&[
    Alternative { with: &["frontends"], without: &["vip"] },
    Alternative { with: &["vip", "ports"], without: &["frontends"] },
]);

const fn name(otherwise: super::Otherwise, meaning: &'static str) -> Key {
    key("name", Name, otherwise, meaning)
}

/// All of a service but its name and what concerns health.
static OWN: Group = Group {
    id: "service",
    keys: &[
        key(
            "frontends",
            List(&Or(&[Map(&FRONTEND), Said("`ADDRESS:PORT`")]), 1, "list, at least one"),
            Says("required, or `vip`"),
            "what clients dial: see [below](configuration.md#frontends)",
        ),
        key(
            "vip",
            OneOrMore(&Said("address"), "address, or a list of them"),
            None,
            "the same, apart from `ports`; instead of `frontends`. In etcd `auto`, `auto4`, \
             `auto6` too: an address [of the pool](etcd.md#a-service)",
        ),
        key(
            "ports",
            OneOrMore(&Port, "port, or a list of them"),
            None,
            "of each address of `vip`: `80`, or `\"53/udp\"`",
        ),
        key(
            "backends",
            List(&Or(&[Map(&BACKEND), Said("`ADDRESS:PORT`")]), 0, "list"),
            None,
            "where they end up: see [below](configuration.md#backends)",
        ),
        key(
            "backends_from",
            OneOrMore(&Map(&POOL), "mapping, or a list of them"),
            None,
            "backends that a source in etcd keeps: \
             [etcd.md](etcd.md#backends-of-another-source)",
        ),
        key(
            "policy",
            Words(&["random", "least_connections"]),
            Is("random"),
            "how a backend is chosen",
        ),
        key(
            "affinity",
            Map(&AFFINITY),
            None,
            "keep a client on one backend: see [below](configuration.md#affinity)",
        ),
        key(
            "expose",
            Flag,
            Is("false"),
            "serve it to other hosts, too, by the [packet path](packet-path.md)",
        ),
        key(
            "no_backend",
            Words(&["refuse", "unreachable", "pass"]),
            Is("refuse"),
            "what a client sees [when no backend is \
             usable](configuration.md#when-no-backend-is-usable)",
        ),
    ],
};

/// A service in a file.
pub(crate) static SERVICE: Mapping = Mapping {
    id: "service",
    groups: &[&Group { id: "service.name", keys: &[name(Required, "unique")] }, &OWN, &OF_SERVICE],
    needs: ADDRESSES,
};

/// A service with a key of its own.
pub(crate) static SERVICE_VALUE: Mapping = Mapping {
    id: "service_value",
    groups: &[
        &Group {
            id: "service_value.name",
            keys: &[name(Says("the name in the key"), "the same as in the key")],
        },
        &OWN,
        &OF_SERVICE,
    ],
    needs: ADDRESSES,
};

/// A frontend.
pub(crate) static FRONTEND: Mapping = Mapping {
    id: "frontend",
    groups: &[&Group {
        id: "frontend",
        keys: &[
            key("address", Said("`ADDRESS:PORT`"), Required, "`10.96.0.10:80`, `[fd00:96::10]:80`"),
            key("protocol", Words(&["tcp", "udp"]), Is("tcp"), "what clients speak to it"),
            key(
                "scope",
                Words(&["everywhere", "host"]),
                Is("everywhere"),
                "`host`: only for sockets in the host's network namespace. Loopback frontends \
                 always are: a container's loopback is another one",
            ),
        ],
    }],
    needs: Needs::Nothing,
};

/// What is said of a backend besides its address.
static TRAITS: Group = Group {
    id: "backend.traits",
    keys: &[
        key(
            "weight",
            Number(1, 65_535),
            Is("1"),
            "share of new connections, relative to the other backends",
        ),
        key(
            "state",
            Words(&["ready", "drain", "disabled"]),
            Is("ready"),
            "`drain`: no new connections, open ones live on; `disabled`: out of service",
        ),
        key("zone", Short, None, "[the zone](health.md#the-rule) it runs in"),
        key(
            "priority",
            Number(0, 255),
            Is("0"),
            "backends with a lower one come first; the others are for when none of these can be \
             used",
        ),
    ],
};

const ADDRESS: &str = "`10.0.0.5:8080`, `[fd00::5]:8080`";

/// A backend of a service.
pub(crate) static BACKEND: Mapping = Mapping {
    id: "backend",
    groups: &[
        &Group {
            id: "backend",
            keys: &[key("address", Said("`ADDRESS:PORT`"), Required, ADDRESS)],
        },
        &TRAITS,
    ],
    needs: Needs::Nothing,
};

/// A backend with a key of its own.
pub(crate) static BACKEND_VALUE: Mapping = Mapping {
    id: "backend_value",
    groups: &[
        &Group {
            id: "backend_value",
            keys: &[
                key("address", Said("`ADDRESS:PORT`"), Says("required, or the next two"), ADDRESS),
                key("host", Said("address"), None, "with `port`, instead of `address`"),
                key("port", PORT_NUMBER, None, "with `host`, instead of `address`"),
            ],
        },
        &TRAITS,
        &Group {
            id: "backend_value.by",
            keys: &[key("registered_by", Text, None, "who wrote the key; for people")],
        },
    ],
    needs: Needs::One(&[
        Alternative { with: &["address"], without: &["host", "port"] },
        Alternative { with: &["host", "port"], without: &["address"] },
    ]),
};

/// Backends that another source keeps.
pub(crate) static POOL: Mapping = Mapping {
    id: "pool",
    groups: &[&Group {
        id: "pool",
        keys: &[
            key("source", Text, Required, "the name of a source of this agent: `etcd:registry`"),
            key("service", Text, Required, "what it is called there, see the table below"),
            key("port", PORT_NUMBER, None, "the port of backends that come without one"),
        ],
    }],
    needs: Needs::Nothing,
};

/// Who stays on a backend, and for how long.
pub(crate) static AFFINITY: Mapping = Mapping {
    id: "affinity",
    groups: &[&Group {
        id: "affinity",
        keys: &[
            key(
                "client",
                Words(&["netns", "uid", "cgroup", "process"]),
                Is("netns"),
                "who counts as one client: a network namespace (a pod), a user, a cgroup, a \
                 process",
            ),
            key(
                "timeout",
                Time(Duration::from_secs(1), Duration::from_secs(u32::MAX as u64)),
                Is("3h"),
                "how long after its last connection a client is remembered, in whole seconds: \
                 `90s`, `10m`, `1h 30m`",
            ),
        ],
    }],
    needs: Needs::Nothing,
};
