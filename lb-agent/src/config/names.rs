//! Settings of names: where services can be looked up. Pure.

use super::etcd::{read_prefix, read_settings};
use super::read_path;
use crate::etcd::Settings;
use crate::keys::{COREDNS, DNS, NAMES};
use crate::names::records::Zone;
use crate::yaml::{Item, Reader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the responder listens if nothing is said.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5354);
const DNS_TTL: Duration = Duration::from_secs(5);
const COREDNS_TTL: Duration = Duration::from_secs(30);
/// Shorter leases would be lost by every hiccup of the store.
const SHORTEST_LEASE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);

/// Where services can be looked up by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The domain that the names are in.
    pub zone: Zone,
    /// A hosts file.
    pub hosts: Option<PathBuf>,
    /// The responder.
    pub dns: Option<Dns>,
    /// Records for CoreDNS.
    pub coredns: Option<Coredns>,
}

/// A DNS responder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Where it listens, by UDP and TCP. Never empty.
    pub listen: Vec<SocketAddr>,
    /// How long its answers may be remembered; whole seconds.
    pub ttl: Duration,
}

/// Records in etcd, as CoreDNS reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coredns {
    /// How the cluster is reached.
    pub settings: Arc<Settings>,
    /// What the keys begin with; ends in `/`.
    pub prefix: String,
    /// How long answers may be remembered, and how long records outlive the last agent; whole
    /// seconds.
    pub ttl: Duration,
}

// === impl Names ===

impl Names {
    /// Whether none are asked for.
    pub fn is_nothing(&self) -> bool {
        let Self { zone: _, hosts, dns, coredns } = self;
        hosts.is_none() && dns.is_none() && coredns.is_none()
    }
}

// === impl Dns ===

impl Default for Dns {
    fn default() -> Self {
        Self { listen: vec![LISTEN], ttl: DNS_TTL }
    }
}

// === impl Coredns ===

impl Coredns {
    /// The cluster and the prefix, for people.
    pub fn place(&self) -> String {
        let endpoints: Vec<_> = self.settings.endpoints.iter().map(ToString::to_string).collect();
        format!("{} {}", endpoints.join(","), self.prefix)
    }
}

/// Reads the mapping under `names:`.
pub(super) fn read(reader: &mut Reader<'_>, item: Item<'_>, directory: &Path) -> Names {
    let before = reader.count();
    let mut names = Names::default();
    for field in reader.fields(item, "a mapping for `names`, such as `dns: true`", &NAMES) {
        let (key, item) = (field.key, field.item);
        match key {
            "zone" => {
                let zone =
                    reader.parse(item, "a domain for `zone`, such as lb.internal", str::parse);
                names.zone = zone.unwrap_or_default();
            }
            "hosts" => names.hosts = read_path(reader, item, key, directory),
            "dns" => names.dns = read_dns(reader, item),
            _ => names.coredns = read_coredns(reader, item, directory),
        }
    }
    let off = item.get("dns").is_some();
    if reader.count() == before && names.is_nothing() && !off {
        let reason = "`names` says nothing of where to; add `hosts`, `dns` or `coredns`";
        reader.reject(item.place, reason);
    }
    names
}

/// `true`, `false`, or a mapping.
fn read_dns(reader: &mut Reader<'_>, item: Item<'_>) -> Option<Dns> {
    if item.text().is_some() {
        return reader.flag(item, "dns").then(Dns::default);
    }
    let mut dns = Dns::default();
    for field in reader.fields(item, "true or a mapping for `dns`", &DNS) {
        if field.key == "listen" {
            dns.listen = read_listen(reader, field.item);
        } else {
            dns.ttl = read_ttl(reader, field.item, Duration::ZERO).unwrap_or(dns.ttl);
        }
    }
    Some(dns)
}

/// One address, or a list of them.
fn read_listen(reader: &mut Reader<'_>, item: Item<'_>) -> Vec<SocketAddr> {
    let before = reader.count();
    let items: Vec<Item<'_>> = match item.text() {
        Some(_) => vec![item],
        None => reader.list(item, "an address for `listen`, such as 127.0.0.1:5354").collect(),
    };
    let mut listen: Vec<SocketAddr> = Vec::new();
    for item in items {
        match reader.parse(item, "an address such as 127.0.0.1:5354", parse_listen) {
            Some(address) if listen.contains(&address) => {
                reader.reject(item.place, format!("{address} stands twice; remove one"));
            }
            address => listen.extend(address),
        }
    }
    if listen.is_empty() && reader.count() == before {
        reader.reject(item.place, "`listen` is empty; name an address such as 127.0.0.1:5354");
    }
    listen
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let address = crate::model::parse_socket_addr(text).map_err(|error| error.to_string())?;
    if address.ip().is_unspecified() {
        // Who asks drops answers that come from another address than was asked.
        return Err(format!(
            "`{text}`: an answer could come from another of the host's addresses than was asked; \
             list the addresses to listen on"
        ));
    }
    if address.ip().is_multicast() {
        return Err(format!("`{text}` is a multicast address; use one of the host's own"));
    }
    Ok(address)
}

fn read_coredns(reader: &mut Reader<'_>, item: Item<'_>, directory: &Path) -> Option<Coredns> {
    let before = reader.count();
    let (mut prefix, mut ttl) = (None, None);
    for field in reader.fields(item, "a mapping for `coredns` with `endpoints:`", &COREDNS) {
        match field.key {
            "prefix" => prefix = read_prefix(reader, field.item),
            "ttl" => ttl = read_ttl(reader, field.item, SHORTEST_LEASE),
            _ => {}
        }
    }
    if !item.is_mapping() {
        return None;
    }
    let settings = read_settings(reader, item, directory);
    if reader.count() > before {
        return None;
    }
    Some(Coredns {
        settings: Arc::new(settings?),
        prefix: prefix.unwrap_or_else(|| "/skydns/".to_owned()),
        ttl: ttl.unwrap_or(COREDNS_TTL),
    })
}

fn read_ttl(reader: &mut Reader<'_>, item: Item<'_>, shortest: Duration) -> Option<Duration> {
    reader.parse(item, "a time for `ttl`, such as 5s", |text| {
        let ttl = humantime::parse_duration(text).ok();
        let good = |ttl: &Duration| (shortest..=LONGEST).contains(ttl) && ttl.subsec_nanos() == 0;
        ttl.filter(good).ok_or_else(|| {
            let shortest = shortest.as_secs();
            format!("`{text}` is not a `ttl` of whole seconds from {shortest}s to 1h; write 30s")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn read(names: &str) -> Result<Names, Vec<Rejection>> {
        let text = format!("services: []\nnames:\n{names}\n");
        parse(Path::new("/etc/lb/agent.yaml"), &text).map(|config| config.names)
    }

    #[test]
    fn each_way_is_read() {
        assert!(parse(Path::new("x"), "services: []").unwrap().names.is_nothing());
        let names = read("  zone: Svc.Example.\n  hosts: hosts.lb\n  dns: true").unwrap();
        let zone = "svc.example".parse().unwrap();
        let hosts = Some("/etc/lb/hosts.lb".into());
        assert_eq!(names, Names { zone, hosts, dns: Some(Dns::default()), coredns: None });
        assert_eq!(names.dns.unwrap().listen, ["127.0.0.1:5354".parse().unwrap()]);
        assert!(read("  dns: false").unwrap().is_nothing());
        let names = read("  dns: {listen: '127.0.0.53:53', ttl: 0s}").unwrap();
        let listen = vec!["127.0.0.53:53".parse().unwrap()];
        assert_eq!(names.dns, Some(Dns { listen, ttl: Duration::ZERO }));
        let names = read("  dns: {listen: ['127.0.0.1:53', '[::1]:53'], ttl: 1m}").unwrap();
        let listen = ["127.0.0.1:53", "[::1]:53"].map(|a| a.parse().unwrap()).to_vec();
        assert_eq!(names.dns, Some(Dns { listen, ttl: Duration::from_secs(60) }));
    }

    #[test]
    fn coredns_is_reached_as_other_clusters_are() {
        let names = read(
            "  coredns:\n    endpoints: [https://etcd:2379]\n    prefix: /dns\n    ttl: 10s\n    \
             tls: {ca: ca.pem}\n    user: {name: lb, password_file: p}",
        );
        let coredns = names.unwrap().coredns.unwrap();
        assert_eq!((coredns.prefix.as_str(), coredns.ttl), ("/dns/", Duration::from_secs(10)));
        assert_eq!(coredns.settings.tls.ca, Some("/etc/lb/ca.pem".into()));
        assert_eq!(coredns.settings.user.as_ref().unwrap().name, "lb");
        assert_eq!(coredns.place(), "https://etcd:2379 /dns/");
        let coredns = read("  coredns: {endpoints: [http://a:1]}").unwrap().coredns.unwrap();
        assert_eq!((coredns.prefix.as_str(), coredns.ttl), ("/skydns/", COREDNS_TTL));
    }

    #[test]
    fn the_guides_example_is_good() {
        let guide = include_str!("../../../docs/names.md");
        let text = guide.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
        let text = format!("{}services: []\n", text.unwrap());
        let names = parse(Path::new("/x"), &text).unwrap().names;
        assert!(names.hosts.is_some() && names.dns.is_some() && names.coredns.is_some());
    }

    #[test]
    fn mistakes_name_line_and_remedy() {
        for (names, line, part) in [
            ("  - dns", 2, "expected a mapping for `names`"),
            ("  {}", 2, "add `hosts`, `dns` or `coredns`"),
            ("  zone: a.b", 2, "add `hosts`, `dns` or `coredns`"),
            ("  dns: true\n  zone: a..b", 4, "`a..b` is not a domain"),
            ("  dns: true\n  zone:", 4, "expected a domain for `zone`"),
            ("  host: x", 3, "unknown field `host`; use `zone`, `hosts`, `dns` or `coredns`"),
            ("  hosts: [x]", 3, "expected a path for `hosts`"),
            ("  dns: maybe", 3, "expected true or false for `dns`"),
            ("  dns: [x]", 3, "expected true or a mapping for `dns`"),
            ("  dns: {port: 53}", 3, "unknown field `port`; use `listen` or `ttl`"),
            ("  dns: {listen: '53'}", 3, "`53` is not an address and a port"),
            ("  dns: {listen: '127.0.0.1:0'}", 3, "port 0 is not a port"),
            ("  dns: {listen: '0.0.0.0:53'}", 3, "list the addresses to listen on"),
            ("  dns: {listen: '[::]:53'}", 3, "list the addresses to listen on"),
            ("  dns: {listen: '224.0.0.251:53'}", 3, "is a multicast address"),
            ("  dns: {listen: []}", 3, "`listen` is empty"),
            ("  dns: {listen: ['1.1.1.1:1', '1.1.1.1:1']}", 3, "1.1.1.1:1 stands twice"),
            ("  dns: {ttl: 2h}", 3, "whole seconds from 0s to 1h"),
            ("  dns: {ttl: 1500ms}", 3, "whole seconds"),
            ("  dns: {ttl: soon}", 3, "`soon` is not a `ttl`"),
            ("  coredns: true", 3, "expected a mapping for `coredns`"),
            ("  coredns: {}", 3, "`endpoints` is missing"),
            ("  coredns: {endpoints: [x y]}", 3, "not an endpoint"),
            ("  coredns:\n    endpoints: [http://a:1]\n    ttl: 1s", 5, "from 5s to 1h"),
            ("  coredns:\n    endpoints: [http://a:1]\n    name: x", 5, "unknown field `name`"),
        ] {
            let problems = read(names).unwrap_err();
            let first = problems.first().unwrap();
            let at = format!("/etc/lb/agent.yaml:{line}:");
            assert!(first.origin.starts_with(&at), "{names}: {first:?}");
            assert!(first.reason.contains(part), "{names}: {first:?}");
            assert_eq!(problems.len(), 1, "{names}: {problems:?}");
        }
    }
}
