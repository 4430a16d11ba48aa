//! Beside others: what they have stays as it is, while we are there and afterwards.

use integration::agent::Agent;
use integration::client::dial;
use integration::empty_program::EmptyProgram;
use integration::lab;
use integration::server::Backends;
use integration::spec::{service, services};
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

const VIP: &str = "10.96.0.10:80";

/// Rules as kube-proxy has them: a service of its own that leads to our second backend, and the address
/// that we serve, too, which leads nowhere.
fn rules(backend: SocketAddr) -> String {
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-A - [0:0]\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A\n\
         -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:9\n\
         -A KUBE-SVC-A -j KUBE-SEP-A\n\
         -A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination {backend}\nCOMMIT\n"
    )
}

fn load(rules: &str) {
    let mut child = Command::new("iptables-restore").stdin(Stdio::piped()).spawn();
    let child = child.as_mut().expect("iptables is installed (make setup)");
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
        let addr = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        let backends = Backends::tcp("127.0.0.1", ["ours", "theirs"]);
        load(&rules(backends.at(1)));
        integration::netns::own_network("10.96.0.0/16");
        let others = ruleset();
        let theirs = || dial(addr("10.96.0.20:80")).expect("their service").tag;
        assert_eq!(theirs(), "theirs");
        let cgroup = lab.cgroup().path();
        let before = EmptyProgram::on_connect4(cgroup).unwrap();
        let web = service("web").frontend(VIP).backend(backends.at(0));
        let agent = Agent::start(lab, &services(&[web]));
        let after = EmptyProgram::on_connect4(cgroup).unwrap();
        let call = dial(addr(VIP)).unwrap();
        assert_eq!((call.tag.as_str(), call.peer()), ("ours", addr(VIP)));
        assert_eq!((theirs(), ruleset()), ("theirs".to_owned(), others.clone()));
        // Gone, and everything is as before.
        assert_eq!(agent.stop().code(), Some(0));
        assert_eq!(lab.lb_agent_on_config("detach").code, Some(0));
        assert!(dial(addr(VIP)).is_err(), "their rules decide again");
        assert_eq!((theirs(), ruleset()), ("theirs".to_owned(), others));
        let attached = EmptyProgram::attached_to_connect4(cgroup).unwrap();
        assert_eq!(attached, [before.id().unwrap(), after.id().unwrap()]);
    });
}
