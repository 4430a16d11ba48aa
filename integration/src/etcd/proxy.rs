//! `etcd grpc-proxy` before a server, as a child process on loopback.

use super::ports::Ports;
use super::{Etcd, HERE, READY};
use crate::process::kill;
use crate::sys;
use crate::wait::wait_for;
use std::fs::OpenOptions;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A proxy; killed on drop, and with the thread that started it.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    port: u16,
}

// === impl Proxy ===

impl Proxy {
    /// Starts one with its files in `directory`, and waits until it takes connections.
    #[track_caller]
    pub fn before(etcd: &Etcd, directory: &Path) -> Self {
        let port = Ports::free().client;
        let log = OpenOptions::new().create(true).append(true).open(directory.join("proxy.log"));
        let log = log.expect("the scratch directory is writable");
        let mut command = Command::new("etcd");
        command
            .args(["grpc-proxy", "start"])
            .arg(format!("--endpoints={}", etcd.endpoint()))
            .arg(format!("--listen-addr={HERE}:{port}"))
            .arg(format!("--data-dir={}", directory.join("proxy").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log);
        sys::die_with_parent(&mut command);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("can't run `etcd grpc-proxy` ({error}): run `make setup-tests`");
        });
        let proxy = Self { child, port };
        wait_for("the proxy to listen", READY, || TcpStream::connect((HERE, port)).ok());
        proxy
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://{HERE}:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}
