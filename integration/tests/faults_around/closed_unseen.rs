//! Sockets that close while nothing is attached: their rows are collected, and only theirs.

use aya::programs::loaded_programs;
use integration::agent::Agent;
use integration::client::{Call, cookie, dial, udp};
use integration::lab::{self, Lab};
use integration::process::binary;
use integration::server::{self, Backends};
use integration::spec::{service, services};
use integration::wait::eventually;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
const REFUSED: &str = "10.96.0.11:80";
/// Two looks with ten seconds between them, and whatever a loaded machine adds.
const DEADLINE: Duration = Duration::from_secs(60);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// An agent that may look at every process. On some machines not even root may look at the first, which has
/// none of the test's sockets: there the agent has another view of it.
fn all_seeing(lab: &Lab) -> Command {
    let mut command = Command::new("unshare");
    let hide = r#"[ -e /proc/1/ns/net ] || mount -t tmpfs none /proc/1; exec "$@""#;
    command.args(["--mount", "sh", "-c", hide, "sh"]).arg(binary("lb-agent"));
    command.args(["run", "-c"]).arg(lab.config_file());
    command
}

#[test]
fn rows_are_collected_and_only_those() {
    lab::run("faults-unseen", |lab| {
        // Most rows are in the overflow table.
        lab.set_settings("tables: {connections: 4}");
        let tcp = Backends::tcp("127.0.0.1", ["t"]);
        let datagrams = Backends::udp("127.0.0.1", ["u"]);
        let agent = Agent::start(
            lab,
            &services(&[
                service("t").frontend(VIP).backend(tcp.at(0)),
                service("u").udp(VIP).backend(datagrams.at(0)),
                service("refused").frontend(REFUSED).backend(server::closed("127.0.0.1")),
            ]),
        );
        let connect = || -> UdpSocket {
            let socket = udp("0.0.0.0:0");
            socket.connect(addr(VIP)).unwrap();
            socket
        };
        let mut calls: Vec<Call> = (0..8).map(|_| dial(addr(VIP)).unwrap()).collect();
        let mut sockets: Vec<UdpSocket> = (0..4).map(|_| connect()).collect();
        // The kernel lists no socket that was refused, but it is open, and is remembered: as one is that
        // was translated and is not in the kernel's tables yet.
        let refused = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        refused.connect(&addr(REFUSED).into()).unwrap_err();
        agent.expect_active(13);
        let tables = agent.tables();
        let pins = agent.status().pin_dir;
        let programs: BTreeSet<u32> =
            agent.status().hooks.iter().map(|hook| hook.program_id).collect();
        agent.kill9();
        for entry in fs::read_dir(&pins).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("link_") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        // The kernel takes its time.
        eventually("the programs to be gone", DEADLINE, || {
            let mut loaded = loaded_programs().filter_map(Result::ok);
            !loaded.any(|program| programs.contains(&program.id()))
        });
        calls.truncate(4);
        sockets.truncate(2);
        let rows = || tables.connections().len() + tables.overflow().len();
        assert_eq!(rows(), 13, "nobody saw them close");
        let mut agent = Agent::spawn_by(lab, &mut all_seeing(lab));
        agent.wait_ready();
        assert_eq!(agent.active(), 13);
        let later = dial(addr(VIP)).unwrap();
        eventually("rows to be collected", DEADLINE, || {
            assert!(!agent.log().contains("stay, because"), "{}", agent.log());
            agent.active() == 8
        });
        assert_eq!(rows(), 8);
        for call in calls.iter().chain([&later]) {
            assert_eq!(call.peer(), addr(VIP));
            assert!(tables.connection(cookie(&call.stream)).is_some());
        }
        for socket in &sockets {
            assert_eq!(socket.peer_addr().unwrap(), addr(VIP));
        }
        assert!(tables.connection(cookie(&refused)).is_some());
        assert!(agent.log().contains("collected rows"), "{}", agent.log());
        drop((calls, sockets, later, refused));
        agent.expect_no_connections();
    });
}
