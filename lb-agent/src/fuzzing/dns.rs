//! Messages that come to the DNS responder, from anybody.

use crate::model::{NoBackend, Policy, Reach, Scope};
use crate::names::Facts;
use crate::names::dns::try_answer;
use crate::names::records::{Records, Zone};
use crate::status::{FrontendStatus, ServiceCounts, ServiceStatus};
use hickory_server::proto::op::Message;
use hickory_server::proto::serialize::binary::BinDecodable as _;
use std::sync::LazyLock;

/// Largest datagram that is sent: fits into the smallest packet that every IPv6 network carries.
const DATAGRAM: usize = 1232;

/// A message, to a responder that knows some services and to one that knows nothing yet.
pub fn dns(data: &[u8]) {
    static FACTS: LazyLock<Facts> = LazyLock::new(facts);
    for facts in [Some(&*FACTS), None] {
        let [datagram, stream] = try_answer(data, facts);
        assert_eq!(datagram.is_some(), stream.is_some(), "it depends on the way");
        let Some((datagram, stream)) = datagram.zip(stream) else { continue };
        assert_eq!(data[2] & 0x80, 0, "an answer was answered");
        assert!(datagram.len() <= DATAGRAM && stream.len() <= usize::from(u16::MAX));
        let [short, whole] = [&datagram, &stream].map(|answer| {
            assert_eq!(answer[..2], data[..2], "the answer to another message");
            assert_ne!(answer[2] & 0x80, 0, "a query was asked back");
            Message::from_bytes(answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
        });
        let codes = [&short, &whole].map(|answer| answer.metadata.response_code);
        assert_eq!(codes[0], codes[1], "it depends on the way");
        assert!(!whole.metadata.truncation, "there is no other way to ask");
        if short.metadata.truncation {
            assert!(short.answers.is_empty(), "half an answer");
        } else {
            assert_eq!(short.answers, whole.answers, "it depends on the way");
        }
        assert!(facts.is_some() || whole.answers.is_empty(), "nothing is known yet");
    }
}

fn facts() -> Facts {
    let many: Vec<String> = (1..=100).map(|host| format!("10.96.1.{host}:80")).collect();
    let services = [
        service("dns", &["10.96.0.53:53/udp"]),
        service("split", &["10.96.0.7:80", "[fd00::7]:81"]),
        service("team/web:http", &["10.96.0.10:80", "[fd00::10]:80"]),
        service("many", &many),
    ];
    Facts { serial: 77, complete: true, records: Records::new(&Zone::default(), &services) }
}

fn service(name: &str, frontends: &[impl AsRef<str>]) -> ServiceStatus {
    let frontends = frontends.iter().filter_map(|text| text.as_ref().parse().ok());
    let frontends = frontends.map(|frontend| FrontendStatus {
        frontend,
        scope: Scope::Everywhere,
        reach: Reach::default(),
        comes: Default::default(),
        installed: true,
        usable: 0,
    });
    ServiceStatus {
        name: name.to_owned(),
        id: None,
        source: "file:fuzz".to_owned(),
        frontends: frontends.collect(),
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        no_node_backend: None,
        fails_open: false,
        backends: Vec::new(),
        counters: ServiceCounts::default(),
    }
}
