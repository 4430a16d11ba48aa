//! What goes wrong, and how the user is told: one line with the remedy, and the exit code.

use crate::fixture::{Agent, Ran, lbctl, rejection};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

#[track_caller]
fn fails(ran: &Ran, code: i32, expected: &str) {
    assert_eq!((ran.err.as_str(), ran.code), (expected, Some(code)));
    assert_eq!(ran.out, "");
}

#[test]
fn bad_usage_is_64_and_help_is_0() {
    let agent = Agent::start();
    for (arguments, part) in [
        (&["backend"] as &[_], "a similar subcommand exists: 'backends'"),
        (&[], "requires a subcommand"),
        (&["services", "-o", "xml"], "invalid value 'xml'"),
        (&["describe"], "Usage: lbctl describe [OPTIONS] <SERVICE>"),
        (&["describe", "a b"], "`a b` is not a service name"),
        (&["maps", "--frobnicate"], "unexpected argument '--frobnicate'"),
    ] {
        let ran = agent.lbctl(arguments);
        assert_eq!((ran.out.as_str(), ran.code), ("", Some(64)), "{arguments:?}");
        assert!(ran.err.contains(part), "{arguments:?}: {}", ran.err);
    }
    for (arguments, part) in [("--help", "Usage: lbctl"), ("--version", "lbctl ")] {
        let ran = agent.lbctl(&[arguments]);
        assert_eq!((ran.err.as_str(), ran.code), ("", Some(0)));
        assert!(ran.out.contains(part), "{}", ran.out);
    }
}

#[test]
fn an_unknown_service_is_1_and_the_closest_is_named() {
    let agent = Agent::start();
    agent.change(|status, _| status.rejections.push(rejection("shop")));
    for (verb, name, expected) in [
        ("describe", "wbe", "lbctl: no service `wbe`; did you mean `web`?\n"),
        ("backends", "dns", "lbctl: no service `dns`; did you mean `default/dns:udp`?\n"),
        ("backends", "payments", "lbctl: no service `payments`\n"),
        (
            "describe",
            "shop",
            "lbctl: service `shop` was refused: lb.yaml:12:5: weight 0 is not a weight; use 1 to \
             65535\n",
        ),
    ] {
        fails(&agent.lbctl(&[verb, name]), 1, expected);
    }
}

#[test]
fn status_of_an_agent_that_is_not_ready_is_1() {
    let agent = Agent::start();
    agent.change(|status, _| {
        status.ready = false;
        status.pending = vec!["source file:/etc/lb/lb.yaml has not delivered".to_owned()];
    });
    let ran = agent.lbctl(&["status"]);
    assert_eq!((ran.err.as_str(), ran.code), ("", Some(1)));
    let pending = "\n\nPending:\n  source file:/etc/lb/lb.yaml has not delivered\n\n";
    assert!(ran.out.starts_with("Agent:       not ready\n"), "{}", ran.out);
    assert!(ran.out.contains(pending), "{}", ran.out);
    let ran = agent.lbctl(&["status", "-o", "name"]);
    assert_eq!((ran.out.as_str(), ran.code), ("pending\n", Some(1)));
}

#[test]
fn without_an_agent_and_without_tables_one_line_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let pins = dir.path().join("pins");
    let (shown, pins) = (socket.display(), pins.display());
    let missing = format!("no agent answers on {shown}: no such socket");
    let dead = format!("no agent answers on {shown}: nobody listens");
    for reason in [&missing, &dead] {
        if reason == &dead {
            drop(UnixListener::bind(&socket).unwrap());
        }
        for verb in ["services", "backends", "maps"] {
            let ran = run(&mut lbctl(&socket, dir.path(), &[verb]));
            assert_eq!((ran.out.as_str(), ran.code), ("", Some(1)), "{verb}");
            assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
            assert!(ran.err.starts_with(&format!("lbctl: {reason}, and ")), "{}", ran.err);
            assert!(ran.err.contains(&pins.to_string()), "{}", ran.err);
            assert!(ran.err.contains("start the agent with `lb-agent run -c FILE`"), "{}", ran.err);
        }
        let ran = run(&mut lbctl(&socket, dir.path(), &["status"]));
        assert_eq!((ran.err.as_str(), ran.code), ("", Some(1)));
        assert!(ran.out.starts_with("Agent:    absent\n"), "{}", ran.out);
        assert!(ran.out.ends_with(&format!("\nPending:\n  {reason}\n")), "{}", ran.out);
        let ran = run(&mut lbctl(&socket, dir.path(), &["status", "-o", "name"]));
        assert_eq!((ran.out.as_str(), ran.code), ("absent\n", Some(1)));
    }
}

#[test]
fn no_permission_names_the_group() {
    let agent = Agent::start();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(agent.dir(), 0o755).unwrap();
    open(&agent.socket(), 0o000).unwrap();
    // Root is denied nothing, so somebody else asks, with a binary they can reach.
    let mut command = agent.command(&["services"]);
    if nix::unistd::geteuid().is_root() {
        let copy = agent.dir().join("lbctl");
        // A child does so: what this process has open for writing, another thread's child has, too, for a
        // moment, and then it can't be run.
        let copied = Command::new("cp").arg(command.get_program()).arg(&copy).status().unwrap();
        assert!(copied.success());
        let settings: Vec<_> =
            command.get_envs().map(|(k, v)| (k.to_owned(), v.map(Into::into))).collect();
        command = Command::new(copy);
        command.arg("services").uid(65534).gid(65534);
        for (key, value) in settings {
            let value: std::ffi::OsString = value.unwrap();
            command.env(key, value);
        }
    }
    let group = nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap().name;
    let expected = format!(
        "lbctl: permission denied on {}: run lbctl as root or as a member of group `{group}`\n",
        agent.socket().display()
    );
    fails(&run(&mut command), 1, &expected);
}

#[test]
fn an_error_of_the_agent_is_shown_and_the_tables_are_left_alone() {
    let agent = Agent::start();
    agent.kernel.broken.store(true, Ordering::SeqCst);
    for verb in ["services", "maps"] {
        let expected = "lbctl: cannot read the kernel tables: the table is gone\n";
        fails(&agent.lbctl(&[verb]), 1, expected);
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_1() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    });
    let ran = run(&mut lbctl(&socket, dir.path(), &["services"]));
    server.join().unwrap();
    assert_eq!((ran.out.as_str(), ran.code), ("", Some(1)));
    assert!(ran.err.contains("use the lbctl of the agent's version"), "{}", ran.err);
}

#[test]
fn a_table_that_breaks_off_is_1_and_shown_as_far_as_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nSERVICE\nweb\n").unwrap();
    });
    let ran = run(&mut lbctl(&socket, dir.path(), &["backends"]));
    server.join().unwrap();
    assert_eq!((ran.out.as_str(), ran.code), ("SERVICE\nweb\n", Some(1)));
    assert!(ran.err.contains("broke off") && ran.err.contains("ask again"), "{}", ran.err);
}

#[test]
fn an_older_agent_that_draws_no_tables_is_asked_for_what_it_knows() {
    let agent = Agent::start();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let newer = agent.socket();
    let older = std::thread::spawn(move || {
        for asked in ["GET /v1/backends?", "GET /v1/services"] {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = client.read(&mut request).unwrap();
            assert!(request.starts_with(asked.as_bytes()));
            if asked.contains("backends") {
                let error = "{\"error\": \"no endpoint\"}";
                let length = error.len();
                let head = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {length}\r\n\r\n");
                client.write_all((head + error).as_bytes()).unwrap();
                continue;
            }
            let mut behind = UnixStream::connect(&newer).unwrap();
            // It ends with its answer.
            let request = std::str::from_utf8(&request[..length]).unwrap();
            behind.write_all(request.replace("HTTP/1.1", "HTTP/1.0").as_bytes()).unwrap();
            std::io::copy(&mut behind, &mut client).unwrap();
        }
    });
    let ran = run(&mut lbctl(&socket, dir.path(), &["backends"]));
    older.join().unwrap();
    let expected = agent.lbctl(&["backends"]);
    assert_eq!((ran.out, ran.err, ran.code), (expected.out, String::new(), Some(0)));
}

#[test]
fn an_agent_that_never_answers_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    let ran = run(&mut lbctl(&socket, dir.path(), &["services"]));
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("no answer within 5s"), "{}", ran.err);
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    let agent = Agent::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = agent.command(&["services"]);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    fails(&Ran::from(output), 0, "");
}

fn run(command: &mut Command) -> Ran {
    Ran::from(command.output().unwrap())
}
