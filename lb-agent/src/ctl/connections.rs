//! What `connections` looks like. Pure.

use super::human::{age, moment};
use super::render::Look;
use super::table::Table;
use crate::shown::clean;
use crate::sockets::{Holder, Listing, Netns, OpenSocket, Transport};

/// Characters of a process's name: the kernel keeps 15.
const LONGEST: usize = 60;

/// As a table.
pub(super) fn text(listing: &Listing, look: Look) -> String {
    let more: &[_] = if look.wide { &["UID", "BACKEND-ID", "COOKIE"] } else { &[] };
    let aged = if look.wide { "SINCE" } else { "AGE" };
    let usual = ["SERVICE", "PROTOCOL", "FRONTEND", "BACKEND", aged, "NETNS", "PROCESS"];
    let mut table = Table::new(usual.iter().chain(more).copied());
    for socket in &listing.sockets {
        let OpenSocket { service, frontend, backend, backend_id, cookie, transport, .. } = socket;
        let transport = transport.map(|transport| match transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Mptcp => "mptcp",
        });
        let mut cells = vec![
            or_none(service.clone()),
            transport.unwrap_or("-").to_owned(),
            frontend.to_string(),
            backend.to_string(),
            if look.wide { moment(socket.since) } else { age(socket.since, look.now) },
            or_none(socket.netns.as_ref().map(netns)),
            processes(&socket.processes, look),
        ];
        if look.wide {
            let uid = or_none(socket.uid.map(|uid| uid.to_string()));
            cells.extend([uid, backend_id.to_string(), cookie.to_string()]);
        }
        table.push(cells);
    }
    table.text(look.headers, 0)
}

/// `SERVICE/COOKIE`, one per line.
pub(super) fn name(listing: &Listing) -> String {
    let named = listing
        .sockets
        .iter()
        .map(|socket| format!("{}/{}\n", or_none(socket.service.clone()), socket.cookie));
    named.collect()
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn netns(netns: &Netns) -> String {
    match netns {
        Netns { name: Some(name), .. } => clean(name, LONGEST),
        Netns { own: true, .. } => "host".to_owned(),
        Netns { inode, .. } => inode.to_string(),
    }
}

fn processes(holders: &[Holder], look: Look) -> String {
    let name = |holder: &Holder| format!("{}/{}", clean(&holder.comm, LONGEST), holder.pid);
    match holders {
        [] => "-".to_owned(),
        [only] => name(only),
        all if look.wide => all.iter().map(name).collect::<Vec<_>>().join(","),
        [first, others @ ..] => format!("{} +{}", name(first), others.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn hostile_names_and_what_is_not_known() {
        let holder = |pid, comm: &str| Holder { pid, comm: comm.to_owned() };
        let unseen = OpenSocket {
            service: None,
            frontend: "10.96.0.1:80".parse().unwrap(),
            backend: "10.0.0.1:80".parse().unwrap(),
            backend_id: 1,
            cookie: 77,
            since: None,
            transport: None,
            netns: None,
            uid: None,
            processes: Vec::new(),
        };
        let seen = OpenSocket {
            service: Some("web".to_owned()),
            transport: Some(Transport::Tcp),
            netns: Some(Netns { inode: 4_026_531_840, name: None, own: false }),
            uid: Some(0),
            since: Some(SystemTime::UNIX_EPOCH),
            processes: vec![holder(1, "a\n\u{1b}[2J"), holder(2, "b")],
            ..unseen.clone()
        };
        let listing = Listing { sockets: vec![unseen, seen], total: 2, problems: Vec::new() };
        let look = |wide| Look {
            wide,
            headers: false,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(192),
        };
        let cells = |wide| -> Vec<Vec<String>> {
            let text = text(&listing, look(wide));
            assert!(!text.contains('\u{1b}'), "{text}");
            let cells = |line: &str| -> Vec<String> {
                let cells = line.split("   ").map(|cell| cell.trim().to_owned());
                cells.filter(|cell| !cell.is_empty()).collect()
            };
            text.lines().map(cells).collect()
        };
        let lines = cells(false);
        assert_eq!(lines[0], ["-", "-", "10.96.0.1:80", "10.0.0.1:80", "-", "-", "-"]);
        assert_eq!(lines[1][4..], ["3m12s", "4026531840", "a\\n\\u{1b}[2J/1 +1"]);
        assert_eq!(cells(true)[1][6..], ["a\\n\\u{1b}[2J/1,b/2", "0", "1", "77"]);
        assert_eq!(name(&listing), "-/77\nweb/77\n");
    }
}
