//! Applications that give up a connect before it is decided: never a failure of the backend, however
//! they do it.

use integration::client::{begin, stream};
use integration::dataplane::{Dataplane, Failures};
use integration::host;
use integration::lab;
use integration::netns;
use integration::router::{Router, silent};
use integration::sys;
use integration::wait::eventually;
use lb_agent::dataplane::FailureKind;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Protocol;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
const VIP6: &str = "[fd00:96::10]:80";
const MAPPED: &str = "[::ffff:10.96.0.10]:80";

const MOMENT: Duration = Duration::from_secs(5);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Sockets of this namespace whose first packet is out.
fn dialling() -> usize {
    let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    let [v4, v6] = ["tcp", "tcp6"].map(|file| read(file).expect("/proc is mounted"));
    let state = |line: &str| line.split_whitespace().nth(3).map(|state| state == "02");
    v4.lines().chain(v6.lines()).filter(|line| state(line) == Some(true)).count()
}

/// Gives up in some way, in every family, with TCP and MPTCP, and looks at what was counted: once
/// as given up, and never as a failure.
fn each(name: &str, gives_up: impl Fn(SocketAddr, Protocol) + Sync) {
    lab::run(name, |lab| {
        let protocols = host::stream_protocols();
        let _router = Router::start();
        let services = [(addr(VIP), silent(true)), (addr(VIP6), silent(false))];
        let dataplane = Dataplane::serve(lab, &services);
        let mut failures = Failures::listen(lab);
        let repeated = || netns::counter("TcpExt", "TCPSynRetrans");
        for dialled in [VIP, VIP6, MAPPED] {
            for &protocol in &protocols {
                let what = format!("{dialled} {protocol:?}");
                let outcomes = || dataplane.outcomes(services[usize::from(dialled == VIP6)].1);
                // Not before the first packet is repeated: then it would be no answer that was had.
                eventually(&format!("{what} to be given up in time"), 10 * MOMENT, || {
                    let (before, sent) = (outcomes(), repeated());
                    gives_up(addr(dialled), protocol);
                    eventually(&format!("{what} to be over"), MOMENT, || dialling() == 0);
                    if repeated() > sent {
                        let heard = failures.next(MOMENT).expect("word of that");
                        assert_eq!(heard[0].kind, FailureKind::Unanswered, "{what}");
                        return false;
                    }
                    let mut expected = before;
                    expected.abandoned += 1;
                    assert_eq!(outcomes(), expected, "{what}");
                    true
                });
            }
        }
        failures.expect_none();
    });
}

#[test]
fn by_close() {
    each("given-up-close", |to, protocol| drop(begin(to, protocol)));
}

#[test]
fn by_close_after_a_while() {
    each("given-up-poll", |to, protocol| {
        let socket = begin(to, protocol);
        let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        assert_eq!(poll(&mut watched, PollTimeout::from(100u8)), Ok(0), "there is an answer");
    });
}

/// A blocking connect with a time limit.
#[test]
fn by_a_time_limit() {
    each("given-up-limit", |to, protocol| {
        let socket = stream(to, protocol);
        socket.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        socket.connect(&to.into()).unwrap_err();
    });
}

/// Closing with a reset.
#[test]
fn by_abort() {
    each("given-up-linger", |to, protocol| {
        let socket = begin(to, protocol);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    });
}

/// The socket lives on, and can dial again.
#[test]
fn by_disconnecting() {
    each("given-up-unspec", |to, protocol| {
        let socket = begin(to, protocol);
        sys::disconnect(&socket).unwrap();
        assert_eq!(dialling(), 0);
    });
}

#[test]
fn by_shutdown() {
    each("given-up-shutdown", |to, protocol| {
        let socket = begin(to, protocol);
        // Nothing is connected yet, and some versions of the kernel say so.
        drop(socket.shutdown(Shutdown::Both));
    });
}

/// The operator's way.
#[test]
fn by_ss_kill() {
    each("given-up-ss", |to, protocol| {
        let socket = begin(to, protocol);
        let port = format!(":{}", to.port());
        let mut ss = Command::new("ss");
        ss.args(["-K", "-t", "state", "syn-sent", "dport", "=", &port]);
        assert!(ss.output().unwrap().status.success());
        eventually("the socket to be killed", MOMENT, || dialling() == 0);
        drop(socket);
    });
}

/// Closed by the kernel, since its process is gone.
#[test]
fn by_sigkill() {
    each("given-up-kill", |to, protocol| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "dials_and_waits", "--ignored"])
            .env("LB_TEST_DIAL", to.to_string())
            .env("LB_TEST_PROTOCOL", i32::from(protocol).to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the child to dial", MOMENT, || dialling() == 1);
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
#[ignore = "the process that by_sigkill kills"]
fn dials_and_waits() {
    let to = addr(&std::env::var("LB_TEST_DIAL").unwrap());
    let protocol: i32 = std::env::var("LB_TEST_PROTOCOL").unwrap().parse().unwrap();
    stream(to, protocol.into()).connect(&to.into()).unwrap_err();
}
