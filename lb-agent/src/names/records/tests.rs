use super::*;
use crate::model::{NoBackend, Policy, Reach, Scope};
use crate::status::{FrontendStatus, ServiceCounts};
use proptest::prelude::*;

pub(in crate::names) fn service(name: &str, frontends: &[&str]) -> ServiceStatus {
    let frontend = |text: &&str| FrontendStatus {
        frontend: text.trim_start_matches('!').parse().unwrap(),
        scope: Scope::Everywhere,
        reach: Reach::default(),
        comes: Default::default(),
        installed: !text.starts_with('!'),
        usable: 0,
    };
    ServiceStatus {
        name: name.to_owned(),
        id: None,
        source: "file:x".to_owned(),
        frontends: frontends.iter().map(frontend).collect(),
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        no_node_backend: None,
        fails_open: false,
        backends: Vec::new(),
        counters: ServiceCounts::default(),
    }
}

pub(in crate::names) fn records(services: &[(&str, &[&str])]) -> Records {
    let services: Vec<_> = services.iter().map(|(n, f)| service(n, f)).collect();
    Records::new(&Zone::default(), &services)
}

/// Names with their addresses, as `web 10.96.0.10`.
fn listed(records: &Records) -> Vec<String> {
    let line = |(name, entry): (&str, &Entry)| {
        let addresses: Vec<_> = entry.addresses().iter().map(|a| a.to_string()).collect();
        format!("{} {}", name.strip_suffix(".lb.internal").unwrap(), addresses.join(" "))
    };
    records.names().map(line).collect()
}

#[test]
fn services_become_names() {
    for (services, names) in [
        (vec![("web", ["10.0.0.1:80"].as_slice())], vec!["web 10.0.0.1"]),
        (vec![("team/web", &["10.0.0.1:80"])], vec!["web.team 10.0.0.1"]),
        (vec![("Team/Web", &["[fd00::1]:80"])], vec!["web.team fd00::1"]),
        (vec![("web.api", &["10.0.0.1:80"])], vec!["web.api 10.0.0.1"]),
        (vec![("my_db", &["127.0.0.1:80"])], vec!["my_db 127.0.0.1"]),
        // Several frontends and families, each address once.
        (
            vec![("web", &["10.0.0.2:80", "10.0.0.1:80", "10.0.0.1:53/udp", "[fd00::1]:80"])],
            vec!["web 10.0.0.1 10.0.0.2 fd00::1"],
        ),
        // The ports of one service.
        (
            vec![
                ("a/web:http", &["10.0.0.1:80"]),
                ("a/web:https", &["10.0.0.1:443", "10.0.0.2:443"]),
            ],
            vec!["web.a 10.0.0.1 10.0.0.2"],
        ),
        // Only what the kernel serves.
        (vec![("web", &["!10.0.0.1:80", "10.0.0.2:80"])], vec!["web 10.0.0.2"]),
        (vec![("web", &["!10.0.0.1:80"]), ("x", &[])], vec![]),
    ] {
        let records = records(&services);
        assert_eq!(listed(&records), names);
        assert_eq!(records.problems(), [""; 0]);
    }
}

#[test]
fn what_can_have_no_name_is_listed() {
    let long = "x".repeat(64);
    let longer = format!("{}a", "x.".repeat(125));
    for (name, part) in [
        ("a/b/c", "only NAME and NAMESPACE/NAME"),
        ("-web", "`-web` is no label"),
        ("web-", "`web-` is no label"),
        ("_tcp", "`_tcp` is no label"),
        ("a..b", "`` is no label"),
        ("/web", "`` is no label"),
        (&long, "is no label (1 to 63"),
        (&longer, "it has 263 bytes"),
    ] {
        let records = records(&[(name, &["10.0.0.1:80"]), ("web", &["10.0.0.2:80"])]);
        assert_eq!(listed(&records), ["web 10.0.0.2"], "{name}");
        let [problem] = records.problems() else { panic!("{name}: {:?}", records.problems()) };
        assert!(problem.contains(part) && problem.contains(name), "{name}: {problem}");
    }
    // A port's name is less than the name.
    let records = records(&[("web:a_", &["10.0.0.1:80"])]);
    assert_eq!(listed(&records), ["web 10.0.0.1"]);
    assert!(records.problems()[0].contains("`a_` can't be a label"), "{:?}", records.problems());
    let many: Vec<_> = (0..150).map(|n| service(&format!("a/b/{n}"), &["10.0.0.1:80"])).collect();
    let records = Records::new(&Zone::default(), &many);
    assert_eq!(records.problems().len(), LISTED + 1);
    assert!(records.problems()[LISTED].starts_with("50 more"), "{:?}", records.problems()[LISTED]);
}

#[test]
fn the_first_has_the_name() {
    let at = ["10.0.0.1:80"].as_slice();
    let other = ["10.0.0.2:80"].as_slice();
    for (services, problem) in [
        (
            [("Web", at), ("web", other)],
            "service `web`: the name web.lb.internal belongs to service `Web`",
        ),
        (
            [("b.a", at), ("a/b", other)],
            "service `a/b`: the name b.a.lb.internal belongs to service `b.a`",
        ),
        ([("a/W:x", at), ("a/w:x", other)], "service `a/w:x`: the name w.a.lb.internal belongs"),
    ] {
        let records = records(&services);
        assert_eq!(records.len(), 1);
        assert!(records.problems()[0].starts_with(problem), "{:?}", records.problems());
        assert!(listed(&records)[0].ends_with("10.0.0.1"), "{:?}", listed(&records));
    }
}

/// Addresses, then `port@target`; `-` for an empty non-terminal; nothing if there is no such name.
fn told(records: &Records, name: &str) -> String {
    let full =
        if name.is_empty() { "lb.internal".to_owned() } else { format!("{name}.lb.internal") };
    let Some(Found { addresses, services }) = records.find(&full) else { return String::new() };
    let short = |target: &str| target.strip_suffix(".lb.internal").unwrap().to_owned();
    let addresses = addresses.iter().map(IpAddr::to_string);
    let services = services.iter().map(|s| format!("{}@{}", s.port, short(&s.target)));
    let all: Vec<String> = addresses.chain(services).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(" ") }
}

#[test]
fn names_are_found() {
    let records = records(&[
        ("dns", &["10.0.0.53:53/udp", "10.0.0.53:53"]),
        ("split", &["10.0.0.7:80", "[fd00::7]:81", "10.0.0.7:9/udp", "[fd00::7]:9/udp"]),
        ("team/web:http", &["10.0.0.1:80"]),
        ("team/web:https", &["10.0.0.1:443"]),
        ("udp-only", &["10.0.0.9:1/udp"]),
        ("web", &["10.0.0.2:80"]),
    ]);
    for (name, expected) in [
        ("", "-"),
        ("nope", ""),
        ("web", "10.0.0.2 80@web"),
        ("dns", "10.0.0.53 53@dns"),
        ("web.team", "10.0.0.1 80@web.team 443@web.team"),
        ("team", "-"),
        ("web.web", ""),
        ("tea", ""),
        ("_tcp.web", "80@web"),
        ("_udp.web", ""),
        ("_tcp.dns", "53@dns"),
        ("_udp.dns", "53@dns"),
        ("_http._tcp.web.team", "80@web.team"),
        ("_https._tcp.web.team", "443@web.team"),
        ("_http._udp.web.team", ""),
        ("_ftp._tcp.web.team", ""),
        ("_tcp.web.team", "80@web.team 443@web.team"),
        ("_web._tcp.team", "80@web.team 443@web.team"),
        ("_web._tcp", "80@web"),
        ("_web._udp", ""),
        ("_tcp", "-"),
        ("_udp", "-"),
        ("_tcp.team", "-"),
        ("_udp.team", ""),
        ("_sctp.web", ""),
        ("_tcp.nope", ""),
        ("_tcp.udp-only", ""),
        // A target leads to where the port is served, and nowhere else.
        ("split", "10.0.0.7 fd00::7 9@split 80@10-0-0-7.split 81@fd00-0-0-0-0-0-0-7.split"),
        ("10-0-0-7.split", "10.0.0.7"),
        ("fd00-0-0-0-0-0-0-7.split", "fd00::7"),
        ("10-0-0-8.split", ""),
        ("10-0-0-7.web", ""),
        ("x.10-0-0-7.split", ""),
    ] {
        assert_eq!(told(&records, name), expected, "{name}");
    }
    assert_eq!(records.find("internal"), None);
    assert_eq!(records.find("web"), None);
    assert_eq!(records.find(""), None);
}

#[test]
fn addresses_have_names() {
    let records = records(&[
        ("a", &["10.0.0.1:80", "127.0.0.1:80"]),
        ("b", &["10.0.0.1:81", "[::1]:80", "[fd00::1]:80"]),
        ("local", &["127.0.0.2:80"]),
    ]);
    for (address, names) in [
        ("10.0.0.1", vec!["a.lb.internal", "b.lb.internal"]),
        ("fd00::1", vec!["b.lb.internal"]),
        ("127.0.0.2", vec!["local.lb.internal"]),
        ("127.0.0.1", vec![]),
        ("::1", vec![]),
        ("10.0.0.2", vec![]),
    ] {
        assert_eq!(records.names_of(&address.parse().unwrap()).collect::<Vec<_>>(), names);
    }
}

#[test]
fn zones() {
    for (text, zone) in
        [("lb.internal", "lb.internal"), ("Svc.Example.COM.", "svc.example.com"), ("x", "x")]
    {
        assert_eq!(text.parse::<Zone>().unwrap().as_str(), zone);
    }
    for text in ["", ".", "a..b", ".a", "a b", "-a.b", "ä.b", "a.b..", "*.b"] {
        assert!(text.parse::<Zone>().unwrap_err().contains("is not a domain"), "{text}");
    }
    let records = Records::new(&"x.y".parse().unwrap(), &[service("web", &["10.0.0.1:80"])]);
    assert!(records.find("web.x.y").is_some() && records.find("x.y").is_some());
    assert!(records.find("y").is_none());
}

proptest! {
    /// Whatever services are called: each has a name, shares that of an earlier one, or is listed;
    /// every target leads to an address that serves the port; every name leads back from its address.
    #[test]
    fn nothing_is_lost(names in proptest::collection::btree_set("[aB._/:-]{1,6}", 0..8)) {
        let services: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(n, name)| service(name, &[&format!("10.0.{n}.1:{}", n + 1), "[fd00::1]:9"]))
            .collect();
        let records = Records::new(&Zone::default(), &services);
        let told = |name: &str| {
            records.problems().iter().any(|p| p.starts_with(&format!("service `{name}`: ")))
        };
        for (n, service) in services.iter().enumerate() {
            let address: IpAddr = format!("10.0.{n}.1").parse().unwrap();
            let named = records.names_of(&address).count();
            prop_assert!(named == 1 || told(&service.name), "{}", service.name);
            prop_assert!(named <= 1);
        }
        for (name, entry) in records.names() {
            prop_assert_eq!(domain(name), Ok(()));
            let found = records.find(name).unwrap();
            prop_assert_eq!(found.addresses.len(), entry.addresses().len());
            for Srv { port, target } in found.services {
                let at = records.find(&target).unwrap().addresses;
                prop_assert!(!at.is_empty());
                for address in at {
                    prop_assert!(entry.ports.iter().any(|p| p.address == address && p.number == port));
                }
            }
            let mut above = name;
            while let Some((_, rest)) = above.split_once('.') {
                above = rest;
                prop_assert_eq!(records.find(above).is_some(), above.ends_with("lb.internal"));
            }
        }
    }
}
