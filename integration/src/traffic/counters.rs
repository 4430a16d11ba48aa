//! What the kernel has counted in a network namespace of packets that came to nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

type Counts = BTreeMap<String, u64>;
/// How the counts of a file are read.
type Read = fn(&str) -> Counts;

/// Ends of the names of what is told; all else is counted in good times, too.
const TELLING: [&str; 10] = [
    "NoPorts",
    "InErrors",
    "RcvbufErrors",
    "SndbufErrors",
    "Discards",
    "NoRoutes",
    "insert_failed",
    "early_drop",
    " drop",
    "invalid",
];

/// The counters of a network namespace, as they were at some time. It stays open.
#[derive(Debug)]
pub(super) struct Counters {
    name: String,
    namespace: u64,
    /// By how they are read. A kernel without IPv6 or connection tracking lacks some.
    files: Vec<(Read, File)>,
    before: Counts,
}

impl Counters {
    /// Those of the calling thread's namespace.
    pub(super) fn of(name: String) -> Self {
        let sources: [(&str, Read); 3] =
            [("snmp", pairs), ("snmp6", lines), ("stat/nf_conntrack", columns)];
        let open = |(file, read): (&str, Read)| {
            Some((read, File::open(format!("/proc/thread-self/net/{file}")).ok()?))
        };
        let files = sources.into_iter().filter_map(open).collect();
        let mut counters = Self { name, namespace: current(), files, before: Counts::new() };
        counters.before = counters.now();
        counters
    }

    /// Whether they are those of the calling thread's namespace.
    pub(super) fn are_here(&self) -> bool {
        self.namespace == current()
    }

    /// What was counted since, in a line; nothing if there was nothing.
    pub(super) fn told(&self) -> Option<String> {
        let now = self.now();
        let more = now.into_iter().filter_map(|(name, count)| {
            let more = count.wrapping_sub(self.before.get(&name).copied().unwrap_or_default());
            let tells = TELLING.iter().any(|end| name.ends_with(end));
            (tells && more > 0).then(|| format!("{name} {more}"))
        });
        let more: Vec<_> = more.collect();
        (!more.is_empty()).then(|| format!("{}: {}", self.name, more.join(", ")))
    }

    fn now(&self) -> Counts {
        let mut all = Counts::new();
        for (read, file) in &self.files {
            let mut text = vec![0; 1 << 16];
            // Such files are read again from their beginning, and in one piece. What can't be read is not told: it
            // only helps to explain a complaint.
            let length = file.read_at(&mut text, 0).unwrap_or_default();
            all.extend(read(&String::from_utf8_lossy(&text[..length])));
        }
        all
    }
}

/// The number of the calling thread's namespace.
fn current() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").map_or(0, |namespace| namespace.ino())
}

/// A line of names and a line of counts, both with what they are about before them.
fn pairs(text: &str) -> Counts {
    let mut counts = Counts::new();
    let all: Vec<_> = text.lines().collect();
    for pair in all.chunks_exact(2) {
        let about = pair[0].split(':').next().unwrap_or_default();
        let words = pair.iter().map(|line| line.split_whitespace().skip(1));
        let [names, values] = words.collect::<Vec<_>>().try_into().expect("a pair");
        let named = names.zip(values);
        counts
            .extend(named.filter_map(|(name, value)| {
                Some((format!("{about} {name}"), value.parse().ok()?))
            }));
    }
    counts
}

/// A name and a count in each line.
fn lines(text: &str) -> Counts {
    let line = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// A line of names, and one for each processor with counts in base 16.
fn columns(text: &str) -> Counts {
    let mut counts = Counts::new();
    let mut rows = text.lines();
    let names: Vec<_> = rows.next().unwrap_or_default().split_whitespace().collect();
    for row in rows {
        for (name, value) in names.iter().zip(row.split_whitespace()) {
            let value = u64::from_str_radix(value, 16).unwrap_or_default();
            *counts.entry(format!("connection tracking {name}")).or_default() += value;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<const N: usize>(counts: [(&str, u64); N]) -> Counts {
        counts.map(|(name, count)| (name.to_owned(), count)).into()
    }

    #[test]
    fn each_kind_of_file_is_read() {
        let text = "Ip: Forwarding OutDiscards\nIp: 1 4\nUdp: InErrors RcvbufErrors\nUdp: 7 8\n";
        let expected = [
            ("Ip Forwarding", 1),
            ("Ip OutDiscards", 4),
            ("Udp InErrors", 7),
            ("Udp RcvbufErrors", 8),
        ];
        assert_eq!(pairs(text), named(expected));
        let text = "Ip6InDiscards                   \t3\nUdp6NoPorts \t0\n";
        assert_eq!(lines(text), named([("Ip6InDiscards", 3), ("Udp6NoPorts", 0)]));
        let text =
            "entries  drop early_drop\n00000001  0000000a 00000002\n00000001  00000001 00000000\n";
        let expected = [
            ("connection tracking entries", 2),
            ("connection tracking drop", 11),
            ("connection tracking early_drop", 2),
        ];
        assert_eq!(columns(text), named(expected));
    }
}
