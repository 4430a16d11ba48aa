use super::*;
use crate::names::records::tests::records;
use hickory_server::proto::op::Message;
use proptest::prelude::*;
use std::str::FromStr as _;

const ID: u16 = 4711;

fn facts() -> Facts {
    let records = records(&[
        ("dns", &["10.96.0.53:53/udp"]),
        ("split", &["10.96.0.7:80", "[fd00::7]:81"]),
        ("team/web:http", &["10.96.0.10:80", "[fd00::10]:80"]),
    ]);
    Facts { serial: 77, complete: true, records }
}

fn server() -> Server {
    let listen = ["127.0.0.1:5354", "[::1]:5354", "127.0.0.1:53"].map(|a| a.parse().unwrap());
    Server::new(&listen, Duration::from_secs(5))
}

fn source() -> SocketAddr {
    "127.0.0.1:40000".parse().unwrap()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask_bytes(bytes: &[u8], way: Way, facts: Option<&Facts>) -> Option<Message> {
    let answer = server().answer(bytes, source(), way, facts)?;
    Some(Message::from_bytes(&answer).unwrap())
}

fn ask(message: &Message, way: Way, facts: Option<&Facts>) -> Message {
    ask_bytes(&message.to_bytes().unwrap(), way, facts).unwrap()
}

fn section(records: &[Record]) -> String {
    let text = |r: &Record| format!("{} {} {}", r.name, r.record_type(), r.data);
    records.iter().map(text).collect::<Vec<_>>().join("; ")
}

#[test]
fn names_addresses_ports_and_the_zone_itself() {
    let facts = facts();
    let soa = "lb.internal. SOA ns.dns.lb.internal. hostmaster.lb.internal. 77 3600 600 86400 5";
    for (name, kind, code, answer, rest) in [
        (
            "web.team.lb.internal.",
            RecordType::A,
            "No Error",
            "web.team.lb.internal. A 10.96.0.10",
            "",
        ),
        (
            "web.team.lb.internal.",
            RecordType::AAAA,
            "No Error",
            "web.team.lb.internal. AAAA fd00::10",
            "",
        ),
        (
            "web.team.lb.internal.",
            RecordType::SRV,
            "No Error",
            "web.team.lb.internal. SRV 0 1 80 web.team.lb.internal.",
            "web.team.lb.internal. A 10.96.0.10; web.team.lb.internal. AAAA fd00::10",
        ),
        (
            "_http._tcp.web.team.lb.internal.",
            RecordType::SRV,
            "No Error",
            "_http._tcp.web.team.lb.internal. SRV 0 1 80 web.team.lb.internal.",
            "web.team.lb.internal. A 10.96.0.10; web.team.lb.internal. AAAA fd00::10",
        ),
        (
            "_tcp.split.lb.internal.",
            RecordType::SRV,
            "No Error",
            "_tcp.split.lb.internal. SRV 0 1 80 10-96-0-7.split.lb.internal.; \
             _tcp.split.lb.internal. SRV 0 1 81 fd00-0-0-0-0-0-0-7.split.lb.internal.",
            "10-96-0-7.split.lb.internal. A 10.96.0.7; \
             fd00-0-0-0-0-0-0-7.split.lb.internal. AAAA fd00::7",
        ),
        (
            "10-96-0-7.split.lb.internal.",
            RecordType::A,
            "No Error",
            "10-96-0-7.split.lb.internal. A 10.96.0.7",
            "",
        ),
        // Of another type there is nothing.
        ("dns.lb.internal.", RecordType::AAAA, "No Error", "", soa),
        ("dns.lb.internal.", RecordType::TXT, "No Error", "", soa),
        ("_udp.dns.lb.internal.", RecordType::A, "No Error", "", soa),
        ("team.lb.internal.", RecordType::A, "No Error", "", soa),
        ("_tcp.team.lb.internal.", RecordType::SRV, "No Error", "", soa),
        ("nope.lb.internal.", RecordType::A, "Non-Existent Domain", "", soa),
        ("x.dns.lb.internal.", RecordType::A, "Non-Existent Domain", "", soa),
        ("web.lb.internal.", RecordType::A, "Non-Existent Domain", "", soa),
        (r"dns\.lb.internal.lb.internal.", RecordType::A, "Non-Existent Domain", "", soa),
        // One record set says enough.
        (
            "web.team.lb.internal.",
            RecordType::ANY,
            "No Error",
            "web.team.lb.internal. A 10.96.0.10; web.team.lb.internal. AAAA fd00::10",
            "",
        ),
        (
            "_udp.dns.lb.internal.",
            RecordType::ANY,
            "No Error",
            "_udp.dns.lb.internal. SRV 0 1 53 dns.lb.internal.",
            "dns.lb.internal. A 10.96.0.53",
        ),
        ("lb.internal.", RecordType::SOA, "No Error", soa, ""),
        ("lb.internal.", RecordType::ANY, "No Error", soa, ""),
        ("lb.internal.", RecordType::A, "No Error", "", soa),
        (
            "lb.internal.",
            RecordType::NS,
            "No Error",
            "lb.internal. NS ns.dns.lb.internal.",
            "ns.dns.lb.internal. A 127.0.0.1; ns.dns.lb.internal. AAAA ::1",
        ),
        ("ns.dns.lb.internal.", RecordType::A, "No Error", "ns.dns.lb.internal. A 127.0.0.1", ""),
        (
            "10.0.96.10.in-addr.arpa.",
            RecordType::PTR,
            "No Error",
            "10.0.96.10.in-addr.arpa. PTR web.team.lb.internal.",
            "",
        ),
        (
            "10.0.96.10.in-addr.arpa.",
            RecordType::A,
            "No Error",
            "",
            "10.0.96.10.in-addr.arpa. SOA ns.dns.lb.internal. hostmaster.lb.internal. 77 3600 600 86400 5",
        ),
        ("11.0.96.10.in-addr.arpa.", RecordType::PTR, "Query Refused", "", ""),
        ("96.10.in-addr.arpa.", RecordType::PTR, "Query Refused", "", ""),
        ("1.0.0.127.in-addr.arpa.", RecordType::PTR, "Query Refused", "", ""),
        ("example.org.", RecordType::A, "Query Refused", "", ""),
        ("internal.", RecordType::SOA, "Query Refused", "", ""),
        ("xlb.internal.", RecordType::A, "Query Refused", "", ""),
        (".", RecordType::NS, "Query Refused", "", ""),
        ("lb.internal.", RecordType::AXFR, "Query Refused", "", ""),
    ] {
        for way in [Way::Udp, Way::Tcp] {
            let told = ask(&query(name, kind), way, Some(&facts));
            let says = |what: &str| format!("{name} {kind}: {what}");
            assert_eq!(told.metadata.response_code.to_string(), code, "{}", says("code"));
            assert_eq!(section(&told.answers), answer, "{}", says("answer"));
            let others = [told.authorities.as_slice(), &told.additionals].concat();
            assert_eq!(section(&others), rest, "{}", says("rest"));
            assert_eq!(told.metadata.authoritative, code != "Query Refused", "{}", says("AA"));
            let flags = (told.metadata.recursion_available, told.metadata.recursion_desired);
            assert_eq!((told.metadata.id, flags), (ID, (false, true)));
            assert!(told.all_sections().all(|record| record.ttl == 5));
        }
    }
    let long = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    let told = ask(&query(long, RecordType::PTR), Way::Udp, Some(&facts));
    assert!(section(&told.answers).ends_with("PTR split.lb.internal."), "{told:?}");
}

#[test]
fn letters_stay_as_they_were_asked() {
    let mixed = "WeB.tEAm.lB.InterNAL.";
    let message = query(mixed, RecordType::A);
    let told = ask(&message, Way::Udp, Some(&facts()));
    assert_eq!(told.queries[0].name().to_ascii(), mixed);
    assert_eq!(told.answers[0].name.to_ascii(), mixed);
}

#[test]
fn what_is_not_known_yet_is_not_denied() {
    let message = query("nope.lb.internal.", RecordType::A);
    assert_eq!(ask(&message, Way::Udp, None).metadata.response_code, ResponseCode::ServFail);
    let some = Facts { complete: false, ..facts() };
    assert_eq!(ask(&message, Way::Udp, Some(&some)).metadata.response_code, ResponseCode::ServFail);
    let known = query("dns.lb.internal.", RecordType::A);
    assert_eq!(ask(&known, Way::Udp, Some(&some)).answers.len(), 1);
}

#[test]
fn long_answers_are_cut_to_what_the_client_takes() {
    let frontends: Vec<String> = (1..=200).map(|n| format!("10.0.0.{n}:80")).collect();
    let frontends: Vec<&str> = frontends.iter().map(String::as_str).collect();
    let facts = Facts { records: records(&[("big", &frontends)]), ..facts() };
    let size = |message: &Message, way| {
        let bytes = server().answer(&message.to_bytes().unwrap(), source(), way, Some(&facts));
        let bytes = bytes.unwrap();
        let told = Message::from_bytes(&bytes).unwrap();
        (bytes.len(), told.metadata.truncation, told.answers.len(), told.edns.is_some())
    };
    let mut message = query("big.lb.internal.", RecordType::A);
    let (length, cut, answers, _) = size(&message, Way::Udp);
    assert!(length <= 512 && cut && answers == 0, "{length} {cut} {answers}");
    let (_, cut, answers, edns) = size(&message, Way::Tcp);
    assert_eq!((cut, answers, edns), (false, 200, false));
    for payload in [0, 512, 1232, 65535] {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
        let (length, cut, _, edns) = size(&message, Way::Udp);
        assert!(length <= 1232 && cut && edns, "{payload}: {length}");
    }
    let (_, cut, answers, edns) = size(&message, Way::Tcp);
    assert_eq!((cut, answers, edns), (false, 200, true));
    // What was not asked for is left out before anything else.
    let frontends: Vec<&str> = frontends[..20].to_vec();
    let facts = Facts { records: records(&[("big", &frontends)]), ..facts };
    let message = query("_tcp.big.lb.internal.", RecordType::SRV);
    let told = ask(&message, Way::Udp, Some(&facts));
    assert_eq!((told.answers.len(), told.additionals.len()), (1, 20));
    let frontends: Vec<&str> = frontends.into_iter().cycle().take(20).collect();
    let many: Vec<String> =
        frontends.iter().zip(1..).map(|(f, n)| f.replace(":80", &format!(":{n}"))).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let facts = Facts { records: records(&[("m", &many[..8])]), ..facts };
    let told = ask(&query("_tcp.m.lb.internal.", RecordType::SRV), Way::Udp, Some(&facts));
    assert_eq!((told.answers.len(), told.additionals.len()), (8, 0), "{told:?}");
    assert!(!told.metadata.truncation);
}

#[test]
fn odd_messages() {
    let facts = facts();
    let good = query("dns.lb.internal.", RecordType::A).to_bytes().unwrap();
    let code = |bytes: &[u8]| {
        let told = ask_bytes(bytes, Way::Udp, Some(&facts));
        told.map(|told| told.metadata.response_code)
    };
    assert_eq!(code(&good), Some(ResponseCode::NoError));
    assert_eq!(code(&[]), None);
    assert_eq!(code(&good[..11]), None);
    assert_eq!(code(&good[..13]), Some(ResponseCode::FormErr));
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    // An answer is not answered; other operations are not done.
    assert_eq!(code(&with(2, 0x80)), None);
    assert_eq!(code(&with(2, 0x28)), Some(ResponseCode::NotImp));
    for counts in [4, 5, 6, 7, 8, 9, 10] {
        assert_eq!(code(&with(counts, 0xff)), Some(ResponseCode::FormErr), "{counts}");
    }
    // The first name has nothing to point at: at itself, or at what else comes before it.
    for place in [0, 2, 11, 12] {
        let pointed = [&good[..12], &[0xc0, place], &good[good.len() - 4..]].concat();
        assert_eq!(code(&pointed), Some(ResponseCode::FormErr), "{place}");
    }
    let mut chaos = query("dns.lb.internal.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos.to_bytes().unwrap()), Some(ResponseCode::Refused));
    let mut message = query("dns.lb.internal.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    let told = ask(&message, Way::Udp, Some(&facts));
    // The number has two names.
    let code = u16::from(told.metadata.response_code);
    assert_eq!((code, told.answers.len()), (ResponseCode::BADVERS.into(), 0));
    let from_nowhere = SocketAddr::new(source().ip(), 0);
    assert_eq!(server().answer(&good, from_nowhere, Way::Udp, Some(&facts)), None);
}

#[test]
fn reverse_names() {
    for (name, address) in [
        ("1.2.3.4.in-addr.arpa", Some("4.3.2.1")),
        ("01.2.3.4.in-addr.arpa", None),
        ("256.2.3.4.in-addr.arpa", None),
        ("5.1.2.3.4.in-addr.arpa", None),
        ("in-addr.arpa", None),
        ("x.ip6.arpa", None),
        ("+.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", None),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            Some("fd00::1"),
        ),
    ] {
        assert_eq!(address_of(name), address.map(|a| IpAddr::from_str(a).unwrap()), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever comes in: no panic, and an answer that can be read and fits.
    #[test]
    fn anything_is_survived(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut message = query("_http._tcp.web.team.lb.internal.", RecordType::SRV);
        message.set_edns(Edns::new());
        let mut near = message.to_bytes().unwrap();
        near.truncate(keep.index(near.len()) + 1);
        for (at, byte) in changes {
            let at = at.index(near.len());
            near[at] = byte;
        }
        let facts = facts();
        for bytes in [bytes, near] {
            if let Some(answer) = server().answer(&bytes, source(), Way::Udp, Some(&facts)) {
                prop_assert!(answer.len() <= usize::from(LARGEST));
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(Message::from_bytes(&answer).is_ok());
            }
        }
    }
}
