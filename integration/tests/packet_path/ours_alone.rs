//! Tables of ours: nobody else's rules are touched, ours come back when somebody takes them away, and
//! they go when that is asked for.

use integration::agent::Agent;
use integration::client::{ask_connected, dial, udp};
use integration::kubernetes::{NEAR, TCP, UDP, endpoint, reaches, refused, settings_of};
use integration::lab::{self, Lab};
use integration::packets::nft::{apply, nft, table, tables};
use integration::packets::{self, BALANCER, NODE_PORT, PODS, Scene, said};
use integration::pods::{Pod, Way};
use integration::process::{run, without};
use integration::wait::{eventually, wait_for};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Within this, what somebody did to our tables is undone.
const REPAIR: Duration = Duration::from_secs(10);

const OTHERS: &str = "
table ip mine {
    set some {
        type ipv4_addr
        elements = { 192.0.2.1 }
    }
    chain pre {
        type nat hook prerouting priority dstnat + 10
        tcp dport 9 accept
    }
    chain marks {
        type filter hook forward priority filter
        meta mark set mark
    }
}
table inet lb {
    chain forward {
        type filter hook forward priority 0
        accept
    }
}
table ip6 lb2 {
    chain x {
    }
}
";

fn others() -> [String; 3] {
    [("ip", "mine"), ("inet", "lb"), ("ip6", "lb2")].map(|(family, name)| table(family, name))
}

/// A service of one endpoint that is reached.
#[track_caller]
fn served(scene: &Scene<'_>) -> Pod {
    let a = scene.pod("a", 8080);
    scene.put(&Scene::web(), &[endpoint(&a)]);
    reaches(&scene.client, TCP, scene.doors(), &["a"]);
    a
}

#[track_caller]
fn answers_again(scene: &Scene<'_>, what: &str) {
    for to in scene.doors() {
        eventually(&format!("{to} to be served again after {what}"), REPAIR, || {
            scene.client.ask_within(Way::Tcp, to, Duration::from_millis(300)).is_ok()
        });
    }
}

/// Whether sets may have an element that stands for all others: since Linux 5.13.
fn knows_all_others() -> bool {
    let script = "add table ip probe; add set ip probe numbers { type ipv4_addr; }; \
                  add element ip probe numbers { * }";
    let tried = Command::new("nft").args(["--check", script]).output();
    tried.expect("nft is installed (make setup-tests)").status.success()
}

#[test]
fn what_somebody_does_to_our_tables_is_undone_and_told() {
    packets::run("packets-repair", PODS, |scene| {
        let _a = served(scene);
        // With a claim where the kernel knows owners of tables, since Linux 5.12.
        let ours = tables();
        assert!(
            ours == ["ip lb", "ip lb-claim", "ip6 lb"] || ours == ["ip lb", "ip6 lb"],
            "{ours:?}"
        );
        apply(OTHERS);
        let before = others();
        let repairs = || scene.said()["repairs"].as_u64().expect("a number of repairs");
        let first_chain = |family: &str| {
            let text = table(family, "lb");
            let found = text.lines().find_map(|line| {
                line.trim().strip_prefix("chain ")?.strip_suffix(" {").map(str::to_owned)
            });
            found.expect("our table has chains")
        };
        // At once, or the agent is between.
        let instead = |family: &str, chain: &str, script: &str| {
            apply(&format!(
                "flush chain {family} lb {chain}\ndelete chain {family} lb {chain}\n{script}"
            ));
        };
        // Each with the number of tables that it spoils.
        let actions: [(&str, u64, &dyn Fn()); 7] = [
            ("deletion of a table", 1, &|| drop(nft(&["delete", "table", "ip", "lb"]))),
            ("deletion of the other", 1, &|| drop(nft(&["delete", "table", "ip6", "lb"]))),
            ("a flush of both", 2, &|| {
                drop(nft(&["flush", "table", "ip", "lb"]));
                drop(nft(&["flush", "table", "ip6", "lb"]));
            }),
            ("a rule of somebody's", 1, &|| {
                drop(nft(&["insert", "rule", "ip", "lb", &first_chain("ip"), "counter", "drop"]));
            }),
            ("a policy of somebody's, and sleep", 2, &|| {
                drop(nft(&["chain", "ip", "lb", "filter-forward", "{ policy drop ; }"]));
                drop(nft(&["add", "table", "ip6", "lb", "{ flags dormant ; }"]));
            }),
            ("another priority, and deletion of a chain that packets come into", 2, &|| {
                let change = "add chain ip6 lb nat-prerouting \
                              { type nat hook prerouting priority -50; }\n\
                              add rule ip6 lb nat-prerouting goto nat-inside";
                instead("ip6", "nat-prerouting", change);
                instead("ip", "nat-prerouting", "");
            }),
            ("deletion of a set, and an element for all others", 2, &|| {
                instead("ip", "filter-forward", "delete set ip lb targets");
                if knows_all_others() {
                    drop(nft(&["add", "element", "ip6", "lb", "dropped", "{ * }"]));
                } else {
                    drop(nft(&["flush", "chain", "ip6", "lb", &first_chain("ip6")]));
                }
            }),
        ];
        for (what, spoilt, action) in actions {
            let so_far = repairs();
            let said = || scene.world.agent().log().matches("somebody changed the table").count();
            let said_so_far = said();
            action();
            wait_for(&format!("a repair after {what}"), REPAIR, || {
                (repairs() >= so_far + spoilt).then_some(())
            });
            // Once for each table.
            assert_eq!(said() - said_so_far, spoilt as usize, "after {what}");
            answers_again(scene, what);
            scene.settle();
        }
        assert_eq!(others(), before, "others' rules");
        let log = scene.world.agent().log();
        assert!(log.contains("repair"), "{log}");
        // `nft flush ruleset` takes everybody's.
        nft(&["flush", "ruleset"]);
        answers_again(scene, "a flush of everything");
        assert_eq!(tables(), ours);
    });
}

/// Nobody's change but ours is a reason to do anything.
#[test]
fn nobody_elses_rules_are_touched() {
    packets::run("packets-others", PODS, |scene| {
        apply(OTHERS);
        let before = others();
        let a = served(scene);
        scene.put(&Scene::web(), &[]);
        scene.put(&Scene::web(), &[endpoint(&a)]);
        assert_eq!(scene.said()["repairs"], 0);
        drop(scene.world.take_agent());
        scene.world.start_agent();
        scene.settle();
        assert_eq!(others(), before);
        assert_eq!(scene.world.take_agent().stop().code(), Some(0));
        let finished = scene.world.lab.lb_agent_on_config("detach");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert_eq!(others(), before);
        assert_eq!(tables(), ["inet lb", "ip mine", "ip6 lb2"]);
    });
}

/// Rules stay when the agent stops, and go when it is detached.
#[test]
fn detach_removes_our_tables() {
    packets::run("packets-detach", PODS, |scene| {
        let _a = served(scene);
        assert_eq!(scene.world.take_agent().stop().code(), Some(0));
        reaches(&scene.client, TCP, scene.doors(), &["a"]);
        let finished = scene.world.lab.lb_agent_on_config("detach");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert_eq!(tables(), [""; 0]);
        refused(&scene.client, TCP, scene.world.node.addresses().at(NODE_PORT));
        // A second time there is nothing to do.
        let finished = scene.world.lab.lb_agent_on_config("detach");
        assert_eq!(finished.code, Some(0), "{finished:?}");
    });
}

#[test]
fn cleanup_removes_our_tables() {
    packets::run("packets-cleanup", PODS, |scene| {
        let _a = served(scene);
        assert_eq!(scene.world.take_agent().stop().code(), Some(0));
        let clean_up = |more: &[&str]| {
            let pins = format!("--pin-dir={}", scene.world.lab.pin_dir().display());
            let arguments = [&["kube-proxy", "--cleanup", &pins], more].concat();
            let finished = scene.world.lab.lb_agent(&arguments);
            assert_eq!(finished.code, Some(0), "{finished:?}");
        };
        // A predecessor's go on until the next agent takes over, if that is asked for.
        clean_up(&["--cleanup-lb=false"]);
        assert_eq!(tables(), ["ip lb", "ip6 lb"]);
        reaches(&scene.client, TCP, scene.doors(), &["a"]);
        clean_up(&[]);
        assert_eq!(tables(), [""; 0]);
        scene.world.start_agent();
        scene.settle();
        // Those of an agent that runs stay.
        clean_up(&[]);
        reaches(&scene.client, TCP, scene.doors(), &["a"]);
        assert_eq!(scene.world.take_agent().stop().code(), Some(0));
        clean_up(&["--cleanup-lb"]);
        assert_eq!(tables(), [""; 0]);
    });
}

#[test]
fn switched_off_it_touches_nothing() {
    packets::run_with("packets-off", "packet_path: off", PODS, |scene| {
        apply(OTHERS);
        let all = tables();
        let a = scene.pod("a", 8080);
        scene.world.put(&Scene::web(), &[endpoint(&a)]);
        let pod = scene.world.node.pod("pod");
        reaches(&pod, TCP, Scene::web().at(80), &["a"]);
        refused(&scene.client, TCP, scene.world.node.addresses().at(NODE_PORT));
        assert_eq!(tables(), all);
        assert_eq!(scene.said()["state"], "off");
        let status = scene.world.lab.lbctl(&["status"]);
        assert!(status.stdout.contains("Packet path:\n  off\n"), "{}", status.stdout);
    });
}

/// One agent has the packet path of a network namespace. Another says so, and translates sockets all
/// the same.
#[test]
fn a_second_agent_in_the_namespace_leaves_packets_alone() {
    packets::run("packets-second", PODS, |scene| {
        let _a = served(scene);
        let lab = Lab::another("packets-second-agent");
        lab.set_settings(&settings_of(&scene.world.api, NEAR.0, "packet_path: on", PODS));
        lab.write_config("");
        let finished = lab.lb_agent_on_config("run");
        assert_ne!(finished.code, Some(0), "{finished:?}");
        let line = finished.stderr.lines().find(|line| line.contains("packet path"));
        let line = line.unwrap_or_else(|| panic!("{finished:?}"));
        assert!(line.contains("packet_path: off"), "what to do: {line}");

        lab.set_settings(&settings_of(&scene.world.api, NEAR.0, "packet_path: auto", PODS));
        let second = Agent::start(&lab, "");
        // It tries when there is something to serve, which sockets may find before that.
        eventually("the packet path to be another's", REPAIR, || {
            said(&lab)["state"] == "unavailable"
        });
        let status = lab.lbctl(&["status"]);
        assert!(status.stdout.contains("another agent's"), "{}", status.stdout);
        let dialled = thread::scope(|scope| {
            let dial = || {
                lab.cgroup().enter();
                Scene::web().at(80).map(|to| dial(to).map(|call| call.tag))
            };
            scope.spawn(dial).join().expect("dialling does not panic")
        });
        for tag in dialled {
            assert_eq!(tag.expect("an answer"), "a");
        }
        assert_eq!(second.stop().code(), Some(0));
        let finished = lab.lb_agent_on_config("detach");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(finished.stderr.contains("its tables stay"), "{finished:?}");
        reaches(&scene.client, TCP, scene.doors(), &["a"]);
        assert_eq!(scene.said()["repairs"], 0);
    });
}

/// UDP, too: who is refused must not be remembered as somebody else's flow.
#[test]
fn a_table_that_comes_back_serves_udp() {
    packets::run("packets-udp-back", PODS, |scene| {
        let _a = served(scene);
        // Somebody's table keeps connection tracking at work meanwhile.
        apply(
            "table ip mine {
                chain pre {
                    type filter hook prerouting priority filter
                    ct state new counter
                }
            }",
        );
        let [to, _] = scene.world.node.addresses().at(NODE_PORT);
        let socket = scene.client.run(|| {
            let socket = udp("0.0.0.0:0");
            socket.connect(to).expect("a UDP socket connects");
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
            socket
        });
        nft(&["delete", "table", "ip", "lb"]);
        // Its datagrams go on all the time, so what they were tracked as would never end by itself.
        eventually("an answer to who began meanwhile", 2 * REPAIR, || {
            ask_connected(&socket).is_ok()
        });
        answers_again(scene, "deletion of a table");
        scene.settle();
        reaches(&scene.client, UDP, scene.doors(), &["a"]);
    });
}

/// What changes while a table is away or is being repaired is in it afterwards.
#[test]
fn a_change_during_a_repair() {
    packets::run("packets-repair-change", PODS, |scene| {
        let a = served(scene);
        let b = scene.pod("b", 8080);
        for turn in 0..3 {
            nft(&["delete", "table", "ip", "lb"]);
            nft(&["flush", "table", "ip6", "lb"]);
            let (pod, name) = if turn % 2 == 0 { (&b, "b") } else { (&a, "a") };
            scene.world.put(&Scene::web(), &[endpoint(pod)]);
            answers_again(scene, "a change during a repair");
            scene.settle();
            reaches(&scene.client, TCP, scene.doors(), &[name]);
        }
        assert_eq!(scene.said()["state"], "on");
    });
}

#[test]
fn detach_on_exit_removes_our_tables() {
    packets::run_with("packets-exit", "packet_path: on\ndetach_on_exit: true", PODS, |scene| {
        let _a = served(scene);
        assert_eq!(scene.world.take_agent().stop().code(), Some(0));
        assert_eq!(tables(), [""; 0]);
    });
}

/// Switched off, an agent says that its predecessor's tables go on.
#[test]
fn tables_that_are_left_are_a_warning_when_it_is_off() {
    packets::run("packets-off-left", PODS, |scene| {
        let _a = served(scene);
        assert_eq!(scene.world.take_agent().stop().code(), Some(0));
        let lab = Lab::another("packets-off-left-agent");
        lab.set_settings(&settings_of(&scene.world.api, NEAR.0, "packet_path: off", PODS));
        let agent = Agent::start(&lab, "");
        let log = agent.log();
        let line = log.lines().find(|line| line.contains("nft delete table ip lb"));
        assert!(line.is_some_and(|line| line.contains("WARN")), "{log}");
        assert_eq!(tables(), ["ip lb", "ip6 lb"]);
        reaches(&scene.client, TCP, scene.doors(), &["a"]);
    });
}

/// Without the right to change tables there is none to attach programs either: the agent does not
/// start, and says what is missing.
#[test]
fn without_the_right_to_change_tables() {
    lab::run("packets-right", |lab| {
        for setting in ["on", "auto"] {
            lab.set_settings(&format!("packet_path: {setting}"));
            lab.write_config("services: []\n");
            let config = lab.config_file();
            let mut command = without("net_admin");
            let finished = run(command.args(["run", "-c"]).arg(&config), lab.scratch());
            assert_ne!(finished.code, Some(0), "{finished:?}");
            assert!(finished.stderr.contains("CAP_NET_ADMIN"), "what to do: {finished:?}");
        }
        assert_eq!(tables(), [""; 0]);
    });
}

/// What comes by packets is shown, and by which way it comes.
#[test]
fn frontends_of_packets_are_shown() {
    packets::run("packets-shown", PODS, |scene| {
        let a = scene.pod("a", 8080);
        let ranges = serde_json::json!(["192.0.2.0/24"]);
        scene.put(&Scene::web().with("loadBalancerSourceRanges", ranges), &[endpoint(&a)]);
        let services = scene.world.lab.lbctl(&["services"]);
        assert!(services.stdout.contains("/web:sctp"), "{}", services.stdout);
        let shown = |port: &str| {
            let name = format!("default/web:{port}");
            let finished = scene.world.lab.lbctl(&["describe", &name]);
            assert_eq!(finished.code, Some(0), "{finished:?}");
            finished.stdout
        };
        let way = |text: &str, frontend: &str| {
            let line = text.lines().find(|line| line.trim().starts_with(frontend));
            let line = line.unwrap_or_else(|| panic!("{frontend}: {text}"));
            line.split_whitespace().last().expect("a word").to_owned()
        };
        let [cluster, _] = Scene::web().at(80);
        let [balancer, _] = BALANCER.at(80);
        assert_eq!(way(&shown("sctp"), &format!("{cluster}/sctp")), "packets");
        let tcp = shown("tcp");
        assert_eq!(way(&tcp, &format!("{cluster}/tcp")), "both");
        assert_eq!(way(&tcp, &format!("{balancer}/tcp")), "packets");
    });
}
