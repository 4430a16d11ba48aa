//! Sockets that close while nothing is attached: their rows are collected, and only theirs.

use aya::programs::loaded_programs;
use integration::client::{Call, cookie, dial, udp};
use integration::confine::scene::{OTHER_NAMESPACES, Scene};
use integration::lab;
use integration::netns;
use integration::process;
use integration::server::{self, Backends};
use integration::spec::{service, services};
use integration::wait::eventually;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::fs;
use std::io::{IoSlice, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
const REFUSED: &str = "10.96.0.11:80";
/// Two looks with ten seconds between them, and whatever a loaded machine adds.
const DEADLINE: Duration = Duration::from_secs(60);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn connected() -> UdpSocket {
    let socket = udp("0.0.0.0:0");
    socket.connect(addr(VIP)).expect("a backend is there");
    socket
}

/// A connected socket of a thread that is in a namespace of its own until `done` says so.
fn elsewhere(done: mpsc::Receiver<()>) -> (UdpSocket, JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        netns::enter_new();
        sender.send(connected()).expect("somebody waits for it");
        // Who waits for nothing closes the channel.
        let _ = done.recv();
    });
    (receiver.recv().expect("the thread connects"), thread)
}

/// Another process with a connection; it closes it when nothing keeps its standard input open.
fn other_process() -> Child {
    let vip = addr(VIP);
    let script = format!("exec 3<>/dev/tcp/{}/{} && echo ready && read", vip.ip(), vip.port());
    let mut child = Command::new("bash")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("bash can be run");
    let mut ready = [0; 5];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut ready).expect("it connects");
    child
}

/// A socket that no process has open: it waits to be taken from the one that is returned.
fn in_flight() -> (UnixDatagram, u64) {
    let (from, to) = UnixDatagram::pair().expect("a pair of sockets");
    let socket = connected();
    let passed = [socket.as_raw_fd()];
    let (text, rights) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&passed)]);
    sendmsg::<()>(from.as_raw_fd(), &text, &rights, MsgFlags::empty(), None).expect("it is passed");
    (to, cookie(&socket))
}

#[test]
fn rows_are_collected_and_only_those() {
    lab::run("faults-unseen", |lab| {
        // Most rows are in the overflow table.
        lab.set_settings("tables: {connections: 4}");
        let tcp = Backends::tcp("127.0.0.1", ["t"]);
        let datagrams = Backends::udp("127.0.0.1", ["u"]);
        lab.write_config(&services(&[
            service("t").frontend(VIP).backend(tcp.at(0)),
            service("u").udp(VIP).backend(datagrams.at(0)),
            service("refused").frontend(REFUSED).backend(server::closed("127.0.0.1")),
        ]));
        // As a service that may do what this takes, and no more.
        let scene = Scene::new(lab).with(OTHER_NAMESPACES).seeing_all();
        let agent = scene.start();
        let mut calls: Vec<Call> = (0..8).map(|_| dial(addr(VIP)).unwrap()).collect();
        let mut sockets: Vec<UdpSocket> = (0..4).map(|_| connected()).collect();
        // The kernel lists no socket that was refused, but it is open, and is remembered: as one is that
        // was translated and is not in the kernel's tables yet.
        let refused = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        refused.connect(&addr(REFUSED).into()).unwrap_err();
        let (stay, done) = mpsc::channel();
        let (listed_there, thread) = elsewhere(done);
        // Nothing leads to its namespace any more.
        let (unlisted, gone) = elsewhere(mpsc::channel().1);
        gone.join().unwrap();
        let (passing, passed) = in_flight();
        let tables = agent.tables();
        let cookies = || -> BTreeSet<u64> {
            let rows = tables.connections().into_iter().chain(tables.overflow());
            rows.map(|row| row.cookie).collect()
        };
        let before = cookies();
        let mut child = other_process();
        agent.expect_active(17);
        let of_child = *cookies().difference(&before).next().unwrap();
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
        assert_eq!(cookies().len(), 17, "nobody saw them close");
        let agent = scene.start();
        assert_eq!(agent.active(), 17);
        let later = dial(addr(VIP)).unwrap();
        eventually("rows to be collected", DEADLINE, || {
            assert!(!agent.log().contains("stay, because"), "{}", agent.log());
            agent.active() == 12
        });
        assert_eq!(cookies().len(), 12);
        for call in calls.iter().chain([&later]) {
            assert_eq!(call.peer(), addr(VIP));
            assert!(tables.connection(cookie(&call.stream)).is_some());
        }
        for socket in &sockets {
            assert_eq!(socket.peer_addr().unwrap(), addr(VIP));
        }
        for (what, cookie) in [
            ("refused", cookie(&refused)),
            ("in another namespace", cookie(&listed_there)),
            ("in a namespace without processes", cookie(&unlisted)),
            ("of another process", of_child),
            ("on its way to another process", passed),
        ] {
            assert!(tables.connection(cookie).is_some(), "{what}");
        }
        eventually("word of it", DEADLINE, || agent.log().contains("collected rows"));
        drop(stay);
        thread.join().unwrap();
        process::kill(&mut child);
        drop((calls, sockets, later, refused, listed_there, unlisted, passing));
        agent.expect_no_connections();
    });
}
