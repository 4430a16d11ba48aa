//! Tables of ours: nobody else's rules are touched, ours come back when somebody takes them away, and
//! they go when that is asked for.

use integration::agent::Agent;
use integration::client::{ask_connected, dial, udp};
use integration::kubernetes::{NEAR, TCP, UDP, endpoint, reaches, refused, settings_of};
use integration::lab::Lab;
use integration::packets::nft::{apply, nft, table, tables};
use integration::packets::{self, NODE_PORT, PODS, Scene, said};
use integration::pods::{Pod, Way};
use integration::wait::{eventually, wait_for};
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

#[test]
fn what_somebody_does_to_our_tables_is_undone_and_told() {
    packets::run("packets-repair", PODS, |scene| {
        let _a = served(scene);
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
        let actions: [(&str, &dyn Fn()); 4] = [
            ("deletion of a table", &|| drop(nft(&["delete", "table", "ip", "lb"]))),
            ("deletion of the other", &|| drop(nft(&["delete", "table", "ip6", "lb"]))),
            ("a flush of both", &|| {
                drop(nft(&["flush", "table", "ip", "lb"]));
                drop(nft(&["flush", "table", "ip6", "lb"]));
            }),
            ("a rule of somebody's", &|| {
                drop(nft(&["insert", "rule", "ip", "lb", &first_chain("ip"), "counter", "drop"]));
            }),
        ];
        for (what, action) in actions {
            let so_far = repairs();
            action();
            wait_for(&format!("a repair after {what}"), REPAIR, || {
                (repairs() > so_far).then_some(())
            });
            answers_again(scene, what);
            scene.settle();
        }
        assert_eq!(others(), before, "others' rules");
        let log = scene.world.agent().log();
        assert!(log.contains("repair"), "{log}");
        // `nft flush ruleset` takes everybody's.
        nft(&["flush", "ruleset"]);
        answers_again(scene, "a flush of everything");
        assert_eq!(tables(), ["ip lb", "ip6 lb"]);
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
        // What is ours only goes if it is asked for.
        clean_up(&[]);
        assert_eq!(tables(), ["ip lb", "ip6 lb"]);
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
        let said = said(&lab);
        assert_eq!(said["state"], "unavailable", "{said}");
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
