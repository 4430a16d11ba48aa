//! Threads with a network namespace of their own, which do what they are told: the two ends of a wire
//! that nobody else uses.

use crate::cgroup::Cgroup;
use crate::netns::{self, ip, ip_batch};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

/// Where the client is.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Where the server is.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a namespace of its own, and in a cgroup if it has one. Threads that it starts belong
/// there, too.
#[derive(Debug)]
pub(super) struct Station {
    tid: i32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// A client, and a server at the other end of its wire.
#[derive(Debug)]
pub(super) struct Wire {
    // Fields are dropped in this order: the client's jobs wait for the server's answers.
    client: Station,
    server: Station,
}

// === impl Station ===

impl Station {
    /// Starts the thread.
    pub(super) fn start(cgroup: Option<Arc<Cgroup>>) -> Self {
        let (jobs, todo) = channel::<Job>();
        let (started, tid) = channel();
        let thread = thread::spawn(move || {
            if let Some(cgroup) = cgroup {
                cgroup.enter();
            }
            netns::enter_new();
            // Whoever started this waits for it.
            let _ = started.send(nix::unistd::gettid().as_raw());
            todo.into_iter().for_each(|job| job());
        });
        let tid = tid.recv().expect("a thread can enter a namespace");
        Self { tid, jobs: Some(jobs), thread: Some(thread) }
    }

    /// Has something done there, and waits for it.
    pub(super) fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = move || {
            // The caller gets the panic; this thread lives on.
            let _ = done.send(catch_unwind(AssertUnwindSafe(what)));
        };
        let jobs = self.jobs.as_ref().expect("jobs are taken until the end");
        jobs.send(Box::new(job)).expect("the thread takes jobs");
        match result.recv().expect("the thread says what came of it") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.jobs = None;
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) && !thread::panicking() {
            panic!("a station panicked");
        }
    }
}

// === impl Wire ===

impl Wire {
    /// Joins a client, in this cgroup, and a server; the client sends all that it has no other way
    /// for to the server, which forwards nothing.
    pub(super) fn join(cgroup: &Arc<Cgroup>) -> Self {
        let client = Station::start(Some(Arc::clone(cgroup)));
        let server = Station::start(None);
        let other = server.tid.to_string();
        client.run(move || {
            let peer = ["type", "veth", "peer", "name", "wire", "netns", &other];
            ip(&[&["link", "add", "wire"][..], &peer].concat());
        });
        for (station, own) in [(&server, SERVER), (&client, CLIENT)] {
            station.run(move || {
                ip_batch(&format!("address add {own}/24 dev wire\nlink set wire up"));
            });
        }
        client.run(|| netns::add_route("default", &SERVER.to_string()));
        Self { client, server }
    }

    /// The client's end.
    pub(super) fn client(&self) -> &Station {
        &self.client
    }

    /// The server's end.
    pub(super) fn server(&self) -> &Station {
        &self.server
    }
}

/// An address of the server.
pub(super) fn served(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(SERVER, port)
}
