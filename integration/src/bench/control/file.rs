//! Services in a file, of which one is changed: the file is written and read as a whole each time.

use crate::agent::Agent;
use crate::lab::Lab;
use crate::large::{EACH, Seen, nowhere, seen, vip};
use crate::server::Backends;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A file with so many services and one more, which is changed.
pub(super) struct InFile<'a> {
    lab: &'a Lab,
    services: u32,
    many: String,
    servers: Backends,
}

// === impl InFile ===

impl<'a> InFile<'a> {
    pub(super) fn fill(lab: &'a Lab, services: u32) -> Self {
        let mut many = "services:\n".to_owned();
        for number in 0..services {
            let first = number * EACH;
            let backends = (first..first + EACH).map(nowhere);
            service(&mut many, &format!("s{number}"), vip(number), backends);
        }
        let servers = Backends::tcp("127.0.0.1", ["0", "1"]);
        Self { lab, services, many, servers }
    }

    /// Starts an agent with further top-level settings; how long it took to be ready.
    pub(super) fn start_agent(&self, top: &str) -> (Agent<'a>, Duration) {
        self.lab.set_settings(top);
        Agent::start_large(self.lab, &self.text(0))
    }

    /// Moves the last service's only backend to the other server, and waits until connects go there.
    pub(super) fn change(&self, turn: usize) -> Seen {
        let text = self.text(turn % 2);
        let asked = Instant::now();
        self.lab.write_config(&text);
        seen(asked, Instant::now(), vip(self.services), turn % 2)
    }

    fn text(&self, server: usize) -> String {
        let mut text = self.many.clone();
        service(&mut text, "probe", vip(self.services), [self.servers.at(server)].into_iter());
        text
    }
}

fn service(
    text: &mut String,
    name: &str,
    vip: SocketAddr,
    backends: impl Iterator<Item = SocketAddr>,
) {
    let backends: Vec<String> = backends.map(|address| format!("\"{address}\"")).collect();
    let backends = backends.join(", ");
    write!(text, "  - name: {name}\n    frontends: [\"{vip}\"]\n    backends: [{backends}]\n")
        .expect("writing to a string succeeds");
}
