//! Beside others: what they have stays as it is, while we are there and afterwards.

use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET_SOCK_RELEASE, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME,
    BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_SOCK_OPS,
    BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_RECVMSG,
    BPF_CGROUP_UDP6_SENDMSG,
};
use integration::agent::Agent;
use integration::client::{ask, ask_connected, dial, udp};
use integration::empty_program::EmptyProgram;
use integration::http;
use integration::lab::{self, Lab};
use integration::netns::own_network;
use integration::server::{Backends, Kind};
use integration::spec::{service, services};
use integration::translation::{self, Translation};
use integration::wait::{eventually, wait_for};
use lb_agent::status::{OtherProgram, Place};
use serde::Deserialize;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

/// Addresses of a family.
struct Addresses {
    host: &'static str,
    ours: &'static str,
    /// Another owner's.
    theirs: &'static str,
    /// Ours and the other's, with different backends.
    both: &'static str,
    /// With the other it leads to `ours`.
    chained: &'static str,
}

const V4: Addresses = Addresses {
    host: "127.0.0.1",
    ours: "10.96.0.10:80",
    theirs: "10.96.0.20:80",
    both: "10.96.0.30:80",
    chained: "10.96.0.40:80",
};
const V6: Addresses = Addresses {
    host: "::1",
    ours: "[fd00:96::10]:80",
    theirs: "[fd00:96::20]:80",
    both: "[fd00:96::30]:80",
    chained: "[fd00:96::40]:80",
};

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Rules as kube-proxy has them: a service of its own that leads to our second backend, and the address
/// that we serve, too, which leads nowhere.
fn rules(ours: SocketAddr, theirs: SocketAddr, backend: SocketAddr) -> String {
    let nowhere = SocketAddr::new(backend.ip(), 9);
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-A - [0:0]\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A KUBE-SERVICES -d {} -p tcp -m tcp --dport 80 -j KUBE-SVC-A\n\
         -A KUBE-SERVICES -d {} -p tcp -m tcp --dport 80 -j DNAT --to-destination {nowhere}\n\
         -A KUBE-SVC-A -j KUBE-SEP-A\n\
         -A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination {backend}\nCOMMIT\n",
        theirs.ip(),
        ours.ip()
    )
}

fn load(tool: &str, rules: &str) {
    let mut child = Command::new(tool).stdin(Stdio::piped()).spawn();
    let child = child.as_mut().expect("iptables is installed (make setup-tests)");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(rules.as_bytes()).expect("the rules can be written");
    drop(input);
    assert!(child.wait().expect("it ends").success());
}

fn ruleset() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().expect("nft is installed");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("nft prints UTF-8");
    // What has been counted is not what is compared.
    let mut count = false;
    let words = text
        .split_inclusive([' ', '\n'])
        .filter(|word| !std::mem::replace(&mut count, ["packets", "bytes"].contains(&word.trim())));
    words.collect()
}

#[test]
fn programs_and_rules_of_others() {
    lab::run("faults-beside", |lab| {
        let mut web = service("web");
        let mut servers = Vec::new();
        for (tool, addresses) in [("iptables-restore", V4), ("ip6tables-restore", V6)] {
            let Addresses { host, ours, theirs, .. } = addresses;
            let backends = Backends::tcp(host, ["ours", "theirs"]);
            load(tool, &rules(addr(ours), addr(theirs), backends.at(1)));
            web = web.frontend(ours).backend(backends.at(0));
            servers.push(backends);
        }
        ["10.96.0.0/16", "fd00:96::/64"].into_iter().for_each(own_network);
        let others = ruleset();
        let theirs = || {
            for at in [V4.theirs, V6.theirs] {
                assert_eq!(dial(addr(at)).expect("their service").tag, "theirs", "{at}");
            }
        };
        theirs();
        let cgroup = lab.cgroup().path();
        let before = EmptyProgram::on_connect4(cgroup).unwrap();
        let agent = Agent::start(lab, &services(&[web]));
        let after = EmptyProgram::on_connect4(cgroup).unwrap();
        for ours in [V4.ours, V6.ours] {
            let call = dial(addr(ours)).unwrap();
            assert_eq!((call.tag.as_str(), call.peer()), ("ours", addr(ours)));
        }
        theirs();
        assert_eq!(ruleset(), others);
        // Gone, and everything is as before.
        assert_eq!(agent.stop().code(), Some(0));
        assert_eq!(lab.lb_agent_on_config("detach").code, Some(0));
        for ours in [V4.ours, V6.ours] {
            assert!(dial(addr(ours)).is_err(), "{ours}: their rules decide again");
        }
        theirs();
        assert_eq!(ruleset(), others);
        let attached = EmptyProgram::attached(cgroup, BPF_CGROUP_INET4_CONNECT).unwrap();
        assert_eq!(attached, [before.id().unwrap(), after.id().unwrap()]);
    });
}

/// Who answers at an address, if anybody does. The same has to hold for all ways to ask, each of which is told
/// that it speaks with this very address.
#[track_caller]
fn answers(at: &str) -> Option<String> {
    let at = addr(at);
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let connected = udp(any);
    let asked = connected.connect(at).and_then(|()| ask_connected(&connected));
    match (dial(at), asked, ask(&udp(any), at)) {
        (Ok(call), Ok(first), Ok(second)) => {
            assert_eq!((call.peer(), connected.peer_addr().expect("it is connected")), (at, at));
            assert_eq!((first.source, second.source), (at, at));
            assert_eq!((&first.tag, &second.tag), (&call.tag, &call.tag));
            Some(call.tag)
        }
        (Err(_), Err(_), Err(_)) => None,
        mixed => panic!("{at}: {mixed:?}"),
    }
}

#[track_caller]
fn expect_answers(expected: [(&str, Option<&str>); 3]) {
    for (at, tag) in expected {
        assert_eq!(answers(at).as_deref(), tag, "{at}");
    }
}

/// What `/readyz` answers.
#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    others: Vec<OtherProgram>,
}

/// The other's programs are named with their place wherever the agent tells how it is, and are no fault.
#[track_caller]
fn expect_named(lab: &Lab, agent: &Agent<'_>, theirs: &[Translation], place: Place) {
    let programs = theirs.iter().flat_map(Translation::programs);
    let wanted: Vec<OtherProgram> = programs
        .map(|(hook, program)| OtherProgram {
            hook: hook.to_owned(),
            program_id: program.id().expect("/proc is mounted"),
            name: Some(translation::NAME.to_owned()),
            place,
        })
        .collect();
    // Programs of cgroups above may be there as well.
    let all_in = |found: &[OtherProgram]| wanted.iter().all(|other| found.contains(other));
    wait_for("all their programs", DEADLINE, || {
        all_in(&agent.status().self_test.others).then_some(())
    });
    let (code, body) = http::get(&lab.socket(), "/readyz").expect("the agent answers");
    let Readiness { ready, others } = serde_json::from_str(&body).expect("an answer of its form");
    assert!(code == 200 && ready && all_in(&others), "{code} {body}");
    let shown = lab.lbctl(&["status"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for other in &wanted {
        assert!(shown.stdout.contains(&other.to_string()), "{other} is not in {shown:?}");
    }
}

/// Another owner translates, too. Who comes first decides on an address that both have, each undoes what is its
/// own, and whoever goes leaves what the other has as it is.
fn translations_of_others(name: &str, addresses: &Addresses) {
    lab::run(name, |lab| {
        let &Addresses { host, ours: vip, theirs: their_vip, both: both_vip, chained } = addresses;
        lab.set_settings("self_test: 1s");
        let tcp = Backends::tcp(host, ["ours", "theirs", "both-ours", "both-theirs"]);
        let at = |index: usize| tcp.at(index);
        let _udp = Backends::start(
            Kind::Udp,
            [(at(0), "ours"), (at(1), "theirs"), (at(2), "both-ours"), (at(3), "both-theirs")],
        );
        let ours = [("web", vip, at(0)), ("both", both_vip, at(2))]
            .map(|(name, vip, backend)| service(name).frontend(vip).udp(vip).backend(backend));
        lab.write_config(&services(&ours));
        let cgroup = lab.cgroup().path();
        let attach_theirs = || {
            let translations = [
                Translation::attach(cgroup, addr(their_vip), at(1)),
                Translation::attach(cgroup, addr(both_vip), at(3)),
                Translation::forth(cgroup, addr(chained), addr(vip)),
            ];
            translations.map(|translation| translation.expect("the kernel takes it"))
        };
        let attached =
            || HOOKS.map(|hook| EmptyProgram::attached(cgroup, hook).expect("the cgroup is there"));
        let nothing = attached();
        let chained = || dial(addr(chained)).ok();

        let of = |ours, theirs, both| [(vip, ours), (their_vip, theirs), (both_vip, both)];
        let alone = of(None, Some("theirs"), Some("both-theirs"));
        let we_alone = of(Some("ours"), None, Some("both-ours"));
        let both = |winner| of(Some("ours"), Some("theirs"), Some(winner));

        let theirs = attach_theirs();
        expect_answers(alone);
        let agent = Agent::adopt(lab);
        // They see the frontend, and ours see what they make of it.
        expect_named(lab, &agent, &theirs, Place::Before);
        expect_answers(both("both-theirs"));
        let call = chained().expect("their address leads to ours");
        assert_eq!((call.tag.as_str(), call.peer()), ("ours", addr(vip)));
        let mut held = dial(addr(vip)).expect("the service is there");
        drop((call, theirs));
        let only_ours = || attached().iter().all(|programs| programs.len() == 1);
        // The kernel lets go of links a moment later.
        eventually("their programs to go", DEADLINE, only_ours);
        expect_answers(we_alone);

        let theirs = attach_theirs();
        // They see the backend.
        expect_named(lab, &agent, &theirs, Place::After);
        expect_answers(both("both-ours"));
        assert!(chained().is_none(), "nobody translates what they make of it");
        assert!(held.peer() == addr(vip) && held.echoes("still here"));
        agent.expect_active(1);
        drop(theirs);
        eventually("their programs to go", DEADLINE, only_ours);
        expect_answers(we_alone);
        drop(held);
        agent.expect_no_connections();

        // Whoever is first at their hooks, it is we who go now.
        let theirs = attach_theirs();
        let mut held = dial(addr(their_vip)).expect("their service");
        let of_theirs = |programs: [Vec<u32>; 10]| programs.map(|ids| ids[1..].to_vec());
        let expected = of_theirs(attached());
        let mut go = |agent: Agent<'_>| {
            assert_eq!(agent.stop().code(), Some(0));
            assert_eq!(lab.lb_agent_on_config("detach").code, Some(0));
            assert_eq!(attached(), expected);
            expect_answers(alone);
            assert_eq!(held.peer(), addr(their_vip));
            assert!(held.echoes("still here"));
        };
        go(agent);
        let agent = Agent::adopt(lab);
        expect_answers(both("both-theirs"));
        go(agent);
        drop(theirs);
        eventually("their programs to go", DEADLINE, || attached() == nothing);
    });
}

#[test]
fn translations_of_others_over_ipv4() {
    translations_of_others("faults-translations4", &V4);
}

#[test]
fn translations_of_others_over_ipv6() {
    translations_of_others("faults-translations6", &V6);
}

/// All hooks of ours.
const HOOKS: [bpf_attach_type; 10] = [
    BPF_CGROUP_INET_SOCK_RELEASE,
    BPF_CGROUP_INET4_GETPEERNAME,
    BPF_CGROUP_INET6_GETPEERNAME,
    BPF_CGROUP_UDP4_RECVMSG,
    BPF_CGROUP_UDP6_RECVMSG,
    BPF_CGROUP_SOCK_OPS,
    BPF_CGROUP_UDP4_SENDMSG,
    BPF_CGROUP_UDP6_SENDMSG,
    BPF_CGROUP_INET4_CONNECT,
    BPF_CGROUP_INET6_CONNECT,
];
