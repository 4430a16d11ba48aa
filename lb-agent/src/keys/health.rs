//! Keys that say which backends are healthy, and what follows.

use super::Form::{Flag, List, Map, Number, Off, Or, Path, Percent, Said, Text, Time, Words};
use super::Otherwise::{Is, None, Required, Says};
use super::{Group, Key, Mapping, Needs, PORT_NUMBER, key, with};
use std::time::Duration;

/// Shortest interval: below it a check is a load test.
const SHORTEST: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Those of a service.
pub(crate) static OF_SERVICE: Group = Group {
    id: "service.health",
    keys: &[
        key(
            "checks",
            List(&Or(&[Words(&["tcp", "grpc"]), Map(&CHECK)]), 0, "list"),
            None,
            "which backends are up: [checks](health.md#checks), all of which must say so",
        ),
        key(
            "ejection",
            Or(&[Map(&EJECTION), Off]),
            Says("on"),
            "what takes a backend out when [real connects fail](health.md#real-connects-that-fail)",
        ),
        key(
            "panic_threshold",
            Percent(0),
            Is("0"),
            "[fail open](health.md#the-rule) when less than this much of the backends is up",
        ),
        key(
            "min_zone_healthy",
            Percent(1),
            Says("off"),
            "how much of the [own zone](health.md#the-rule) must be up to serve alone",
        ),
        key(
            "slow_start",
            Time(Duration::ZERO, DAY),
            Is("0s"),
            "over how long the share of a backend that came back grows; not at the start",
        ),
        key(
            "on_removal",
            Words(&["drain", "reset"]),
            Is("drain"),
            "TCP connections to a backend that is removed or disabled: left alone, or `reset` \
             (those that came by packets when their client sends next)",
        ),
    ],
};

/// An item of `checks`.
pub(crate) static CHECK: Mapping = Mapping {
    id: "check",
    groups: &[&Group {
        id: "check",
        keys: &[
            key("tcp", Map(&TCP), None, "a connection is accepted"),
            key("http", Map(&HTTP), None, "the status is expected, and the body if it is given"),
            key("https", Map(&HTTPS), None, "the same by TLS"),
            key("grpc", Map(&GRPC), None, "the standard health service says `SERVING`"),
            key(
                "exec",
                Map(&EXEC),
                None,
                "the program ends with 0; 1 passes with a warning; needs `allow_exec`",
            ),
        ],
    }],
    needs: Needs::One(&[
        with(&["tcp"]),
        with(&["http"]),
        with(&["https"]),
        with(&["grpc"]),
        with(&["exec"]),
    ]),
};

/// What every check may say.
pub(crate) static TIMING: Group = Group {
    id: "timing",
    keys: &[
        key(
            "port",
            PORT_NUMBER,
            Says("the backend's"),
            "where it is tried. Services with UDP frontends only need it, except for `exec`",
        ),
        key(
            "interval",
            Time(SHORTEST, DAY),
            Is("2s"),
            "from the begin of one try to the begin of the next",
        ),
        key(
            "fast_interval",
            Time(SHORTEST, DAY),
            Is("500ms"),
            "the same while results in a row are being counted",
        ),
        key(
            "timeout",
            Time(SHORTEST, DAY),
            Is("1s"),
            "when a try has failed; not above `interval`",
        ),
        key("rise", Number(1, 100), Is("2"), "successes in a row that bring a backend back"),
        key("fall", Number(1, 100), Is("3"), "failures in a row that take it out"),
        key(
            "initial",
            Words(&["up", "down"]),
            Is("up"),
            "what holds before the first result, which decides by itself; `down`: no connections \
             until then",
        ),
        key("jitter", Percent(0), Is("10%"), "by how much intervals vary"),
    ],
};

/// A check by connecting.
pub(crate) static TCP: Mapping = Mapping { id: "tcp", groups: &[&TIMING], needs: Needs::Nothing };

static REQUEST: Group = Group {
    id: "http",
    keys: &[
        key("path", Said("path"), Required, "what is asked for: `/healthz?full=1`"),
        key("method", Said("method"), Is("GET"), "how: `HEAD`"),
        key("host", Text, Says("the address"), "the header `Host`"),
        key(
            "status",
            Or(&[Number(100, 599), Said("set of them")]),
            Is("200-399"),
            "which statuses are expected: `200`, `200-299,404`",
        ),
        key("body", Text, None, "text that the first 64 KiB of the answer must contain"),
    ],
};

/// A check by a request.
pub(crate) static HTTP: Mapping =
    Mapping { id: "http", groups: &[&REQUEST, &TIMING], needs: Needs::Nothing };

static CERTIFICATE: Group = Group {
    id: "certificate",
    keys: &[
        key("verify", Flag, Is("true"), "whether the certificate is looked at"),
        key("server_name", Text, Says("`host`, else the address"), "the name that it must have"),
        key("ca", Path, Says("the system's"), "the whole path of a PEM file with the authorities"),
    ],
};

/// A check by a request, by TLS.
pub(crate) static HTTPS: Mapping =
    Mapping { id: "https", groups: &[&REQUEST, &CERTIFICATE, &TIMING], needs: Needs::Nothing };

const OF_GRPC: [Key; 2] = [
    key("service", Text, Says("the server as a whole"), "whose health is asked for"),
    key("tls", Flag, Is("false"), "whether it speaks TLS"),
];

/// A check by the health service of gRPC.
pub(crate) static GRPC: Mapping = Mapping {
    id: "grpc",
    groups: &[&Group { id: "grpc", keys: &OF_GRPC }, &CERTIFICATE, &TIMING],
    needs: Needs::Nothing,
};

/// A check by a program.
pub(crate) static EXEC: Mapping = Mapping {
    id: "exec",
    groups: &[
        &Group {
            id: "exec",
            keys: &[key(
                "command",
                List(&Text, 1, "list, at least one"),
                Required,
                "the program and its arguments",
            )],
        },
        &TIMING,
    ],
    needs: Needs::Nothing,
};

/// When real connects take a backend out.
pub(crate) static EJECTION: Mapping = Mapping {
    id: "ejection",
    groups: &[&Group {
        id: "ejection",
        keys: &[
            key("failures", Number(1, 1000), Is("5"), "failed connects in a row"),
            key("time", Time(SECOND, DAY), Is("30s"), "for how long, doubling each further time"),
            key("max_time", Time(SECOND, DAY), Is("300s"), "for how long at most"),
            key(
                "max_ejected",
                Percent(1),
                Is("50%"),
                "of the service's backends at once; one always may be",
            ),
        ],
    }],
    needs: Needs::Nothing,
};
