//! Every verb in every form, whole outputs compared.

use crate::fixture::{Agent, rejection};
use lb_agent::model::{Lists, NoBackend, Reach};
use lb_agent::status::{
    EarlierTables, NamesKind, NamesStatus, OtherProgram, PacketPathState, PacketPathStatus, Place,
    Repair, SelfTestStatus,
};
use std::time::{Duration, SystemTime};

/// `lbctl` with these arguments prints exactly `expected` and succeeds. `THEN` stands for the moment
/// that the fixture dates from.
#[track_caller]
fn prints(agent: &Agent, arguments: &str, expected: &str) {
    let ran = agent.lbctl(&arguments.split_whitespace().collect::<Vec<_>>());
    let then = humantime::format_rfc3339_seconds(agent.then).to_string();
    assert_eq!(ran.out, expected.replace("THEN", &then), "lbctl {arguments}");
    assert_eq!((ran.err.as_str(), ran.code), ("", Some(0)), "lbctl {arguments}");
}

#[test]
fn services() {
    let agent = Agent::start();
    prints(
        &agent,
        "services",
        "\
NAME              FRONTENDS              BACKENDS   POLICY              AFFINITY   NO-BACKEND   ACTIVE   CONNECTS   REFUSED   SOURCE
default/dns:udp   127.0.0.53:53/udp      0/1        least_connections   -          pass         0        0          0         file:more.yaml
web               10.96.0.10:80/tcp +2   3/4        random              netns/3h   refuse       18       2000       2         file:/etc/lb/lb.yaml
",
    );
    prints(
        &agent,
        "services -o wide",
        "\
NAME              FRONTENDS                                                BACKENDS   POLICY              AFFINITY   NO-BACKEND   ACTIVE   CONNECTS   REFUSED   SOURCE                 UNTRACKED   ID
default/dns:udp   127.0.0.53:53/udp                                        0/1        least_connections   -          pass         0        0          0         file:more.yaml         0           -
web               10.96.0.10:80/tcp,10.96.0.10:443/tcp,[fd00::96]:80/tcp   3/4        random              netns/3h   refuse       18       2000       2         file:/etc/lb/lb.yaml   0           2
",
    );
    prints(&agent, "services -o name", "default/dns:udp\nweb\n");
    // Without column names, columns are as narrow as their cells.
    prints(
        &agent,
        "--no-headers services",
        "\
default/dns:udp   127.0.0.53:53/udp      0/1   least_connections   -          pass     0    0      0   file:more.yaml
web               10.96.0.10:80/tcp +2   3/4   random              netns/3h   refuse   18   2000   2   file:/etc/lb/lb.yaml
",
    );
}

#[test]
fn backends() {
    let agent = Agent::start();
    prints(
        &agent,
        "backends",
        "\
SERVICE           FRONTEND               BACKEND          STATE      WEIGHT   HEALTH   ACTIVE   CONNECTS   SOURCE                 SINCE
default/dns:udp   127.0.0.53:53/udp      10.0.0.53:53     disabled   1        -        0        0          file:more.yaml         -
web               10.96.0.10:80/tcp +1   10.0.0.5:8080    ready      1        -        3        300        file:/etc/lb/lb.yaml   2d3h
web               10.96.0.10:80/tcp +1   10.0.0.6:8080    ready      3        -        4        400        file:/etc/lb/lb.yaml   2d3h
web               10.96.0.10:80/tcp +1   10.0.0.7:8080    drain      9        -        5        500        file:/etc/lb/lb.yaml   2d3h
web               [fd00::96]:80/tcp      [fd00::1]:8080   ready      1        -        6        600        file:/etc/lb/lb.yaml   2d3h
",
    );
    agent.change(|_, services| {
        // In the fixture's order, which is not the one shown.
        services[1].backends[2].zone = Some("a".into());
    });
    prints(
        &agent,
        "backends web -o wide",
        "\
SERVICE   FRONTEND                               BACKEND          STATE   WEIGHT   HEALTH   ACTIVE   CONNECTS   SOURCE                 SINCE                  SHARE    FAILURES   RTT   ID   ZONE   LEASE
web       10.96.0.10:80/tcp,10.96.0.10:443/tcp   10.0.0.5:8080    ready   1        -        3        300        file:/etc/lb/lb.yaml   THEN   25.0%    -          -     3    -      -
web       10.96.0.10:80/tcp,10.96.0.10:443/tcp   10.0.0.6:8080    ready   3        -        4        400        file:/etc/lb/lb.yaml   THEN   75.0%    -          -     4    a      -
web       10.96.0.10:80/tcp,10.96.0.10:443/tcp   10.0.0.7:8080    drain   9        -        5        500        file:/etc/lb/lb.yaml   THEN   0.0%     -          -     5    -      -
web       [fd00::96]:80/tcp                      [fd00::1]:8080   ready   1        -        6        600        file:/etc/lb/lb.yaml   THEN   100.0%   -          -     6    -      -
",
    );
    prints(
        &agent,
        "backends web --output=name",
        "web/10.0.0.5:8080\nweb/10.0.0.6:8080\nweb/10.0.0.7:8080\nweb/[fd00::1]:8080\n",
    );
    agent.change(|_, services| services.retain(|service| service.name != "web"));
    prints(
        &agent,
        "backends -o json",
        r#"[
  {
    "service": "default/dns:udp",
    "frontends": [
      "127.0.0.53:53/udp"
    ],
    "address": "10.0.0.53:53",
    "id": null,
    "state": "disabled",
    "weight": 1,
    "share_percent": 0.0,
    "active": 0,
    "connects": 0,
    "source": "file:more.yaml",
    "since": null
  }
]
"#,
    );
    prints(
        &agent,
        "backends -o yaml",
        "\
- service: default/dns:udp
  frontends:
  - 127.0.0.53:53/udp
  address: 10.0.0.53:53
  id: null
  state: disabled
  weight: 1
  share_percent: 0.0
  active: 0
  connects: 0
  source: file:more.yaml
  since: null
",
    );
}

#[test]
fn describe() {
    let agent = Agent::start();
    agent.change(|status, services| {
        status.rejections = vec![rejection("web"), rejection("another")];
        services[1].backends.truncate(2);
    });
    prints(
        &agent,
        "describe web",
        "\
Name:         web
Source:       file:/etc/lb/lb.yaml
ID:           2
Policy:       random
Affinity:     netns for 3h
No backend:   refuse
Active:       11
Connects:     2000
Refused:      2
Untracked:    0

Frontends:
  FRONTEND             SCOPE        INSTALLED   USABLE
  10.96.0.10:80/tcp    everywhere   yes         2
  10.96.0.10:443/tcp   everywhere   yes         2
  [fd00::96]:80/tcp    everywhere   yes         1

Backends:
  BACKEND          STATE   WEIGHT   SHARE    ACTIVE   CONNECTS   SINCE   ID
  10.0.0.7:8080    drain   9        0.0%     5        500        2d3h    5
  [fd00::1]:8080   ready   1        100.0%   6        600        2d3h    6

Rejected:
  ORIGIN         SERVICE   REASON
  lb.yaml:12:5   web       weight 0 is not a weight; use 1 to 65535
",
    );
    prints(
        &agent,
        "describe default/dns:udp --no-headers",
        "\
Name:         default/dns:udp
Source:       file:more.yaml
ID:           -
Policy:       least_connections
Affinity:     none
No backend:   pass
Active:       0
Connects:     0
Refused:      0
Untracked:    0

Frontends:
  127.0.0.53:53/udp   host   yes   0

Backends:
  10.0.0.53:53   disabled   1   0.0%   0   0   -   -
",
    );
    prints(
        &agent,
        "describe web -o yaml",
        r#"name: web
id: 2
source: file:/etc/lb/lb.yaml
frontends:
- frontend: 10.96.0.10:80/tcp
  scope: everywhere
  installed: true
  usable: 2
- frontend: 10.96.0.10:443/tcp
  scope: everywhere
  installed: true
  usable: 2
- frontend: "[fd00::96]:80/tcp"
  scope: everywhere
  installed: true
  usable: 1
policy: random
affinity:
  client: netns
  timeout_seconds: 10800
no_backend: refuse
fails_open: false
backends:
- address: 10.0.0.7:8080
  id: 5
  state: drain
  weight: 9
  since: "THEN"
  active: 5
  connects: 500
- address: "[fd00::1]:8080"
  id: 6
  state: ready
  weight: 1
  since: "THEN"
  active: 6
  connects: 600
counters:
  connects: 2000
  no_backend: 2
  untracked: 0
rejections:
- origin: lb.yaml:12:5
  service: web
  reason: weight 0 is not a weight; use 1 to 65535
"#,
    );
    prints(&agent, "describe web -o name", "web\n");
}

/// A service whose frontends lead to different backends says which lead where; others are shown as ever.
#[test]
fn two_lists() {
    let agent = Agent::start();
    agent.change(|_, services| {
        let web = &mut services[1];
        web.no_node_backend = Some(NoBackend::Unreachable);
        web.frontends.truncate(2);
        web.frontends[1].reach = Reach::Node;
        web.frontends[1].usable = 0;
        web.backends.truncate(4);
        web.backends[1].lists = Lists::Both;
        web.backends[2].lists = Lists::Node;
    });
    prints(
        &agent,
        "describe web",
        "\
Name:           web
Source:         file:/etc/lb/lb.yaml
ID:             2
Policy:         random
Affinity:       netns for 3h
No backend:     refuse
None on node:   unreachable
Active:         18
Connects:       2000
Refused:        2
Untracked:      0

Frontends:
  FRONTEND             SCOPE        INSTALLED   USABLE   REACH
  10.96.0.10:443/tcp   everywhere   yes         0        node
  [fd00::96]:80/tcp    everywhere   yes         1        cluster

Backends:
  BACKEND          STATE   WEIGHT   SHARE    ACTIVE   CONNECTS   SINCE   ID   LISTS
  10.0.0.5:8080    ready   1        100.0%   3        300        2d3h    3    cluster
  10.0.0.6:8080    ready   3        100.0%   4        400        2d3h    4    node
  10.0.0.7:8080    drain   9        0.0%     5        500        2d3h    5    both
  [fd00::1]:8080   ready   1        100.0%   6        600        2d3h    6    cluster
",
    );
    let ran = agent.lbctl(&["backends", "-o", "wide"]);
    let lists: Vec<_> = ran.out.lines().filter_map(|l| l.split_whitespace().next_back()).collect();
    assert_eq!(lists, ["LISTS", "cluster", "cluster", "node", "both", "cluster"], "{}", ran.out);
    // Only those that lead to it.
    let of = |address: &str| ran.out.lines().find(|l| l.contains(address)).unwrap().to_owned();
    assert!(of("10.0.0.6:8080").contains("10.96.0.10:443/tcp"), "{}", ran.out);
    assert!(!of("10.0.0.5:8080").contains("10.96.0.10:443/tcp"), "{}", ran.out);
    let json = agent.lbctl(&["describe", "web", "-o", "json"]).out;
    for part in [r#""reach": "node""#, r#""lists": "both""#, r#""no_node_backend": "unreachable""#]
    {
        assert!(json.contains(part), "{part}: {json}");
    }
    let json = agent.lbctl(&["describe", "default/dns:udp", "-o", "json"]).out;
    assert!(!["reach", "lists", "no_node"].iter().any(|part| json.contains(part)), "{json}");
}

#[test]
fn status() {
    let agent = Agent::start();
    agent.change(|status, _| {
        status.warnings = vec!["kernel 5.10 has no bpf_set_retval: callers see EPERM".to_owned()];
        status.rejections = vec![rejection("web")];
        status.sources[0].error = Some("lb.yaml:3:1: not YAML".to_owned());
        status.sources[0].error_since = status.sources[0].delivered;
        status.sources[0].refused = 4;
        status.work.last_error = Some("membarrier: refused".to_owned());
        let then = status.started;
        let other = |name: Option<&str>, place| OtherProgram {
            hook: "connect4".to_owned(),
            program_id: 7,
            name: name.map(str::to_owned),
            place,
        };
        status.self_test = SelfTestStatus {
            at: Some(then),
            problems: Vec::new(),
            repairs: 3,
            last_repair: Some(Repair { what: "a pin was missing".to_owned(), at: then }),
            others: vec![other(Some("theirs"), Place::Before), other(None, Place::After)],
            earlier: vec![
                EarlierTables { layout: 7, open: Some(3) },
                EarlierTables { layout: 8, open: None },
            ],
        };
    });
    let zone = NamesStatus {
        problems: vec!["service `a/b/c`: only NAME and NAMESPACE/NAME can be looked up".to_owned()],
        records: 2,
        ..NamesStatus::new(NamesKind::Zone, "lb.internal".to_owned())
    };
    let dns = NamesStatus {
        error: Some("can't listen on 127.0.0.1:5354".to_owned()),
        ..NamesStatus::new(NamesKind::Dns, "127.0.0.1:5354".to_owned())
    };
    agent.names.send_replace(vec![zone, dns]);
    agent.packets.send_replace(PacketPathStatus {
        state: PacketPathState::On,
        since: Some(SystemTime::now() - Duration::from_secs(7410)),
        elements: 37,
        changes: 5,
        last_change: Some(Duration::from_micros(1234)),
        repairs: 1,
        ended_flows: 2,
        kept: Some("the table `ip lb` is another build's".to_owned()),
        ..PacketPathStatus::default()
    });
    prints(
        &agent,
        "status",
        "\
Agent:       serving
Version:     0.1.0
PID:         4242
Started:     THEN (2d3h ago)
Cgroup:      /sys/fs/cgroup
Pinned in:   /sys/fs/bpf/lb/1 (layout 1)

Sources:
  SOURCE                 SYNCED   REVISION   DELIVERED   SERVICES   REFUSED   ERROR
  file:/etc/lb/lb.yaml   yes      3          2d3h        1          4         lb.yaml:3:1: not YAML (for 2d3h)

Hooks:
  HOOK       PROGRAM   LINK
  connect4   101       9

Self-test:
  passed 2d3h ago; repairs: 3
  last repair (2d3h ago): a pin was missing

Tables of other versions:
  layout 7: 3 sockets are open
  layout 8: can't be read; they stay until `lb-agent detach`

Programs of others:
  theirs (program 7) before ours at connect4
  program 7 after ours at connect4

Names:
  KIND   PLACE            NAMES   ERROR
  zone   lb.internal      2       -
  dns    127.0.0.1:5354   0       can't listen on 127.0.0.1:5354

Problems with names:
  zone: service `a/b/c`: only NAME and NAMESPACE/NAME can be looked up

Packet path:
  on for 2h3m: 37 elements; changes: 5, the last in 1.2ms; repairs: 1; failures: 0; flows ended: 2
  the table `ip lb` is another build's

Work:
  Rounds:          3
  Failed rounds:   0
  Publishes:       7
  Grace periods:   2
  Ended sockets:   4 UDP, 1 TCP
  Last round:      850.0us
  Longest round:   12.5ms
  Last error:      membarrier: refused

Warnings:
  kernel 5.10 has no bpf_set_retval: callers see EPERM

Rejected:
  ORIGIN         SERVICE   REASON
  lb.yaml:12:5   web       weight 0 is not a weight; use 1 to 65535
",
    );
    prints(&agent, "status -o name", "serving\n");
    agent.change(|status, _| {
        status.hooks.clear();
        status.self_test = SelfTestStatus::default();
        status.sources.clear();
    });
    agent.names.send_modify(|names| {
        names.remove(0);
    });
    agent.packets.send_replace(PacketPathStatus::default());
    prints(
        &agent,
        "status -o json",
        r#"{
  "version": "0.1.0",
  "pid": 4242,
  "started": "THEN",
  "layout": 1,
  "cgroup": "/sys/fs/cgroup",
  "pin_dir": "/sys/fs/bpf/lb/1",
  "ready": true,
  "pending": [],
  "hooks": [],
  "self_test": {
    "problems": [],
    "repairs": 0,
    "others": []
  },
  "sources": [],
  "names": [
    {
      "kind": "dns",
      "place": "127.0.0.1:5354",
      "records": 0,
      "error": "can't listen on 127.0.0.1:5354",
      "problems": []
    }
  ],
  "packet_path": {
    "state": "off",
    "elements": 0,
    "changes": 0,
    "repairs": 0,
    "failures": 0,
    "ended_flows": 0
  },
  "work": {
    "rounds": 3,
    "publishes": 7,
    "grace_periods": 2,
    "failures": 0,
    "destroyed_udp": 4,
    "destroyed_tcp": 1,
    "last_round_micros": 850,
    "longest_round_micros": 12540,
    "last_error": "membarrier: refused"
  },
  "warnings": [
    "kernel 5.10 has no bpf_set_retval: callers see EPERM"
  ],
  "rejections": [
    {
      "origin": "lb.yaml:12:5",
      "service": "web",
      "reason": "weight 0 is not a weight; use 1 to 65535"
    }
  ]
}
"#,
    );
}

#[test]
fn maps() {
    let agent = Agent::start();
    prints(
        &agent,
        "maps",
        "\
TABLE       USED    MAX     FILL    MEMORY
FRONTENDS   16384   65536   25.0%   5.0MiB
SOCKETS     -       -       -       -
",
    );
    prints(
        &agent,
        "maps -o wide",
        "\
TABLE       USED    MAX     FILL    MEMORY   TYPE         KEY   VALUE   ID
FRONTENDS   16384   65536   25.0%   5.0MiB   hash         20    4       11
SOCKETS     -       -       -       -        sk_storage   4     360     12
",
    );
    prints(&agent, "maps -o name", "FRONTENDS\nSOCKETS\n");
}

#[test]
fn ages_are_to_two_units() {
    let agent = Agent::start();
    agent.change(|_, services| {
        services.remove(0);
        services[0].backends.truncate(1);
        services[0].backends[0].since = Some(SystemTime::now() - Duration::from_secs(192));
    });
    let ran = agent.lbctl(&["backends", "--no-headers"]);
    // The test itself may take a moment.
    assert!(ran.out.contains(" 3m1") || ran.out.contains(" 3m2"), "{}", ran.out);
}
