//! `--watch` as a pipe's reader sees it.

use crate::fixture::{Agent, DEADLINE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A watching `lbctl`, killed when dropped.
struct Watching {
    child: Child,
    out: Option<Receiver<String>>,
    err: Receiver<String>,
}

impl Watching {
    fn start(agent: &Agent, arguments: &[&str]) -> Self {
        let mut command = agent.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        Self { child, out: Some(out), err }
    }

    /// The next `count` lines of standard output.
    fn lines(&self, count: usize) -> Vec<String> {
        let out = self.out.as_ref().unwrap();
        (0..count).map(|_| out.recv_timeout(DEADLINE).expect("a line")).collect()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// How it ended; it must have been given a reason to.
    fn end(mut self) -> ExitStatus {
        // A hang is turned into a failed assertion by the signal, not into a hung test.
        let pid = self.pid();
        let (ended, end) = channel::<()>();
        let guard = std::thread::spawn(move || {
            if end.recv_timeout(DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let status = self.child.wait().unwrap();
        drop(ended);
        guard.join().unwrap();
        status
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream as they come. The stream is closed when the receiver is dropped and one
/// more line came.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (line, lines) = channel();
    std::thread::spawn(move || {
        BufReader::new(stream).lines().map_while(Result::ok).all(|text| line.send(text).is_ok())
    });
    lines
}

/// Waits until the agent has been asked `count` more times.
fn asked(agent: &Agent, count: usize) {
    let (reading, readings) = channel();
    *agent.kernel.watcher.lock().unwrap() = Some(reading);
    for _ in 0..count {
        readings.recv_timeout(DEADLINE).expect("it asks again");
    }
}

#[test]
fn a_block_follows_a_change_and_nothing_else() {
    let agent = Agent::start();
    let watching = Watching::start(&agent, &["backends", "web", "-w", "-o", "name"]);
    let block =
        ["web/10.0.0.5:8080", "web/10.0.0.6:8080", "web/10.0.0.7:8080", "web/[fd00::1]:8080"];
    assert_eq!(watching.lines(4), block);
    asked(&agent, 3);
    agent.change(|_, services| services[1].backends.truncate(1));
    assert_eq!(watching.lines(2), ["", "web/[fd00::1]:8080"]);
    kill(watching.pid(), Signal::SIGINT).unwrap();
    assert_eq!(watching.end().code(), Some(0));
}

#[test]
fn a_restart_of_the_agent_is_told_and_waited_out() {
    let mut agent = Agent::start();
    let watching = Watching::start(&agent, &["services", "--watch", "-o", "name"]);
    assert_eq!(watching.lines(2), ["default/dns:udp", "web"]);
    agent.stop();
    let told = watching.err.recv_timeout(DEADLINE).expect("a line");
    assert!(told.contains("no agent answers"), "{told}");
    agent.change(|_, services| drop(services.remove(0)));
    agent.resume();
    assert_eq!(watching.lines(2), ["", "web"]);
    kill(watching.pid(), Signal::SIGINT).unwrap();
    assert_eq!(watching.end().code(), Some(0));
}

#[test]
fn nothing_to_watch_from_the_start_is_an_error() {
    let agent = Agent::start();
    let watching = Watching::start(&agent, &["backends", "wbe", "-w"]);
    let told = watching.err.recv_timeout(DEADLINE).expect("a line");
    assert_eq!(told, "lbctl: no service `wbe`; did you mean `web`?");
    assert_eq!(watching.end().code(), Some(1));
}

#[test]
fn it_ends_by_itself_when_nobody_reads_any_more() {
    let agent = Agent::start();
    let (reader, writer) = std::io::pipe().unwrap();
    let child = agent.command(&["services", "-w"]).stdout(writer).stderr(Stdio::null()).spawn();
    let child = child.unwrap();
    let mut first = String::new();
    BufReader::new(&reader).read_line(&mut first).unwrap();
    assert!(first.starts_with("NAME"), "{first}");
    drop(reader);
    let watching = Watching { child, out: None, err: channel().1 };
    assert_eq!(watching.end().code(), Some(0));
}

#[test]
fn a_full_pipe_does_not_keep_it_from_ending() {
    let agent = Agent::start();
    agent.change(|_, services| {
        let many = (0..2000).map(|n| {
            let mut service = services[1].clone();
            service.name = format!("service-{n}");
            service
        });
        *services = many.collect();
    });
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = agent.command(&["services", "-w"]).stdout(writer).stderr(Stdio::null()).spawn();
    let watching = Watching { child: child.unwrap(), out: None, err: channel().1 };
    // It has begun to write far more than a pipe holds; it cannot finish.
    reader.read_exact(&mut [0]).unwrap();
    kill(watching.pid(), Signal::SIGINT).unwrap();
    assert_eq!(watching.end().code(), Some(0));
}
