//! The Unix socket: who may do what on it, and that nobody can hold up the others.

use integration::agent::Agent;
use integration::client::dial;
use integration::http::{Answer, ask, get};
use integration::lab::{self, Lab};
use integration::process::{self, Finished, binary};
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::wait_for;
use nix::unistd::{Gid, chown};
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);
const VIP: &str = "10.96.0.10:80";
/// Nobody's on any machine.
const USER: u32 = 64_131;
const GROUP: u32 = 64_132;
const OTHER: u32 = 64_133;

/// Connected to the agent's socket.
fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("somebody listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stream
}

/// What is answered to these bytes.
fn exchange(socket: &Path, request: &[u8]) -> std::io::Result<String> {
    let mut stream = connect(socket);
    // Who refuses a request may close before it has all of it.
    let sent = stream.write_all(request);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    if answer.is_empty() {
        sent.and(read.map(drop))?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Nobody else's business keeps root from being answered, by far sooner than `lbctl` gives up.
#[track_caller]
fn expect_answers(socket: &Path, at: SocketAddr) {
    let begin = Instant::now();
    assert_eq!(get(socket, "/livez").expect("an answer").0, 200);
    assert_eq!(ask(at, "GET /livez", "").map(|Answer { code, .. }| code).ok(), Some(200));
    assert!(begin.elapsed() < DEADLINE, "after {:?}", begin.elapsed());
}

/// A script of a member of the socket's group. Root's own connections would count as root's.
fn member(lab: &Lab, script: &str) -> Child {
    fs::set_permissions(lab.scratch(), Permissions::from_mode(0o755)).expect("it is ours");
    // It ends with what it is connected to.
    Command::new("setpriv")
        .args([&format!("--reuid={USER}"), &format!("--regid={GROUP}"), "--clear-groups", "--"])
        .args(["/usr/bin/perl", "-MIO::Socket::UNIX", "-e", &format!("$| = 1; {script}")])
        .env("LB_SOCKET", lab.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("perl can be run")
}

/// Waits until a script has printed `ready`.
#[track_caller]
fn expect_ready(script: &mut Child) {
    let mut ready = [0; 5];
    script.stdout.as_mut().expect("a pipe").read_exact(&mut ready).expect("the script runs");
    assert_eq!(&ready, b"ready");
}

#[test]
fn members_of_the_group_change_things_and_others_do_not() {
    lab::run("socket-group", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["a"]);
        let web = service("web").frontend(VIP).backend(backends.at(0));
        lab.set_settings(&format!("socket_group: {GROUP}"));
        let agent = Agent::start(lab, &services(&[web]));
        let found = fs::metadata(lab.socket()).unwrap();
        assert_eq!((found.gid(), found.mode() & 0o7777), (GROUP, 0o660));

        let lbctl = lab.scratch().join("lbctl");
        process::copy_program(&binary("lbctl"), &lbctl);
        fs::set_permissions(&lbctl, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(lab.scratch(), Permissions::from_mode(0o755)).unwrap();
        let run = |gid: u32, groups: &[u32], arguments: &[&str]| -> Finished {
            let groups = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            let groups = if groups.is_empty() {
                "--clear-groups".into()
            } else {
                format!("--groups={groups}")
            };
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={USER}"), &format!("--regid={gid}"), &groups, "--"]);
            command.arg(&lbctl).args(arguments).env("LB_SOCKET", lab.socket());
            process::run(&mut command, lab.scratch())
        };
        let backend = format!("web/{}", backends.at(0));
        let (drain, undrain) = (["drain", &backend], ["undrain", &backend]);
        let said = || agent.backend("web", backends.at(0)).said.is_some();

        let refused = run(OTHER, &[], &drain);
        assert_ne!(refused.code, Some(0), "{refused:?}");
        let named = format!("group {GROUP}");
        assert!(
            refused.stderr.contains("permission denied") && refused.stderr.contains(&named),
            "{refused:?}"
        );
        for (gid, groups) in [(GROUP, &[][..]), (OTHER, &[OTHER, GROUP])] {
            let done = run(gid, groups, &drain);
            assert_eq!((done.code, said()), (Some(0), true), "{done:?}");
            let done = run(gid, groups, &undrain);
            assert_eq!((done.code, said()), (Some(0), false), "{done:?}");
        }
        // Should the socket be open to everybody, they may look.
        fs::set_permissions(lab.socket(), Permissions::from_mode(0o666)).unwrap();
        let looked = run(OTHER, &[OTHER], &["services"]);
        assert!(looked.code == Some(0) && looked.stdout.contains("web"), "{looked:?}");
        let refused = run(OTHER, &[OTHER], &drain);
        assert!(refused.code != Some(0) && !said(), "{refused:?}");
        let words = ["may look and not change anything", &named, "root"];
        assert!(words.iter().all(|word| refused.stderr.contains(word)), "{refused:?}");
        let level = run(OTHER, &[OTHER], &["log-level", "debug"]);
        assert!(level.stderr.contains("may look and not change anything"), "{level:?}");
        // A file's group says who may connect, the configured one who may change something.
        chown(&lab.socket(), None, Some(Gid::from_raw(OTHER))).unwrap();
        assert!(!run(OTHER, &[], &drain).stderr.is_empty() && !said());
        let done = lab.lbctl(&drain);
        assert_eq!((done.code, said()), (Some(0), true), "root: {done:?}");
    });
}

#[test]
fn a_group_that_does_not_exist_is_a_mistake_in_the_file() {
    lab::run("socket-no-group", |lab| {
        lab.set_settings("socket_group: no-such-group-here");
        lab.write_config("services: []\n");
        let finished = lab.lb_agent_on_config("run");
        assert_eq!(finished.code, Some(64), "{finished:?}");
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("no group `no-such-group-here`; make it"), "{finished:?}");
    });
}

#[test]
fn large_and_broken_requests_are_refused() {
    lab::run("socket-large", |lab| {
        let _agent = Agent::start(lab, "services: []\n");
        let socket = lab.socket();
        let long = "x".repeat(100_000);
        let many: String = (0..200).map(|number| format!("H{number}: x\r\n")).collect();
        let json = "Content-Type: application/json\r\n";
        for (request, codes) in [
            (format!("GET /{long} HTTP/1.0\r\n\r\n"), [414, 431]),
            (format!("GET / HTTP/1.0\r\nA: {long}\r\n\r\n"), [431, 431]),
            (format!("GET / HTTP/1.0\r\n{many}\r\n"), [431, 431]),
            (
                format!(
                    "POST /v1/overrides HTTP/1.0\r\n{json}Content-Length: 100000\r\n\r\n{long}"
                ),
                [413, 413],
            ),
            (
                format!(
                    "POST /v1/overrides HTTP/1.0\r\n{json}Content-Length: 99999999999\r\n\r\n{long}"
                ),
                [413, 413],
            ),
            (
                format!(
                    "POST /v1/log-level HTTP/1.1\r\n{json}Transfer-Encoding: chunked\r\n\r\n186a0\r\n{long}\r\n0\r\n\r\n"
                ),
                [413, 413],
            ),
            (format!("GET /livez HTTP/1.0\r\nContent-Length: 100000\r\n\r\n{long}"), [413, 413]),
            ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), [400, 400]),
            // No more comes than this.
            (
                format!("POST /v1/overrides HTTP/1.0\r\n{json}Content-Length: 10\r\n\r\n{{"),
                [408, 408],
            ),
        ] {
            let short: String = request.chars().take(60).collect();
            match exchange(&socket, request.as_bytes()) {
                Ok(answer) => {
                    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
                    assert!(code.is_some_and(|code| codes.contains(&code)), "{short}: {answer}");
                }
                // What was sent beyond the limit may reset the connection before the answer is read.
                Err(error) => {
                    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                    assert!(kinds.contains(&error.kind()), "{short}: {error}");
                }
            }
        }
        assert_eq!(get(&socket, "/livez").unwrap().0, 200);
    });
}

#[test]
fn slow_clients_hold_nobody_up() {
    lab::run("socket-slow", |lab| {
        lab.set_settings(&format!("socket_group: {GROUP}"));
        let backends = Backends::tcp("127.0.0.1", ["a"]);
        let web = service("web").frontend(VIP).backend(backends.at(0));
        let agent = Agent::start(lab, &services(&[web]));
        let (socket, at) = (lab.socket(), SocketAddr::from(([127, 0, 0, 1], 9777)));

        // Half a head, and half a body, on more connections than there may be.
        let mut slow = member(
            lab,
            r#"$SIG{PIPE} = 'IGNORE';
            for my $number (1..120) {
                my $stream = IO::Socket::UNIX->new($ENV{LB_SOCKET}) or die "connect: $!";
                syswrite $stream, $number % 2 ? "GET /livez HTTP/1.1\r\nHost: a"
                    : "POST /v1/overrides HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                        . "Content-Length: 9\r\n\r\n{";
                push @held, $stream;
            }
            print "ready";
            for my $stream (@held) {
                my $answer = '';
                1 while sysread $stream, $answer, 1024, length $answer;
                $told++ if $answer =~ m{^HTTP/1.1 408 };
            }
            print " $told";"#,
        );
        expect_ready(&mut slow);
        expect_answers(&socket, at);
        // Each is told, or closed, before long.
        assert!(process::exit_of(&mut slow, DEADLINE).is_some_and(|status| status.success()));
        let mut told = String::new();
        slow.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        let told: u32 = told.trim().parse().unwrap();
        // Of the 64 that there may be half have begun a body; the others were turned away.
        assert!((16..60).contains(&told), "{told}");

        // Those who trace, and those who look at the page, and never read.
        let mut never: Vec<UnixStream> = Vec::new();
        for _ in 0..16 {
            let mut stream = connect(&socket);
            stream.write_all(b"GET /v1/trace HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            // The head of the answer, and no more.
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            never.push(stream);
        }
        let mut pages: Vec<TcpStream> = Vec::new();
        for _ in 0..16 {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            pages.push(stream);
        }
        for _ in 0..5_000 {
            assert_eq!(dial(VIP.parse().unwrap()).unwrap().tag, "a");
        }
        expect_answers(&socket, at);
        let (code, body) = get(&socket, "/v1/trace").unwrap();
        assert!(code == 503 && body.contains("others trace already"), "{code}: {body}");
        drop(never);
        // Their places are free again.
        wait_for("a place", DEADLINE, || {
            let mut stream = connect(&socket);
            stream.write_all(b"GET /v1/trace HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).ok()?;
            (&head == b"HTTP/1.1 200").then_some(())
        });
        let begin = Instant::now();
        assert!(agent.stop().success());
        assert!(begin.elapsed() < Duration::from_secs(15), "stopped after {:?}", begin.elapsed());
        drop(pages);
    });
}

#[test]
fn a_flood_of_a_group_member_does_not_keep_root_out() {
    lab::run("socket-flood", |lab| {
        lab.set_settings(&format!("socket_group: {GROUP}"));
        let _agent = Agent::start(lab, "services: []\n");
        let mut flood = member(
            lab,
            "push @held, IO::Socket::UNIX->new($ENV{LB_SOCKET}) for 1..120; print 'ready'; <STDIN>",
        );
        expect_ready(&mut flood);
        for _ in 0..20 {
            assert_eq!(get(&lab.socket(), "/livez").unwrap().0, 200);
        }
        process::kill(&mut flood);
    });
}
