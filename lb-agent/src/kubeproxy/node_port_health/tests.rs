//! Where to listen, as a table; and real servers on loopback.

use super::*;
use crate::kubeproxy::applied::tests::applied;
use crate::kubeproxy::servers::tests::get;
use crate::source::kubernetes::cluster::{HealthCheck, NodeFacts};
use crate::source::kubernetes::events;
use std::net::TcpListener as StdListener;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn where_to_listen() {
    let local: BTreeSet<IpAddr> =
        ips(&["127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "fd00::1", "fe80::1"])
            .into_iter()
            .collect();
    let node = ips(&["192.0.2.1", "192.0.2.2", "fd00::1"]);
    let ranges = |texts: &[&str]| {
        NodePortAddresses::Ranges(texts.iter().map(|text| text.parse().unwrap()).collect())
    };
    for (wanted, expected) in [
        (NodePortAddresses::All, vec!["0.0.0.0", "::"]),
        (NodePortAddresses::Primary, vec!["192.0.2.1", "fd00::1"]),
        (NodePortAddresses::PrimaryIs("10.0.0.1".parse().unwrap()), vec!["10.0.0.1", "fd00::1"]),
        (ranges(&["10.0.0.0/8"]), vec!["10.0.0.1", "::"]),
        (ranges(&["10.0.0.0/8", "fd00::/8"]), vec!["10.0.0.1", "fd00::1"]),
        (ranges(&["0.0.0.0/0", "::/0"]), vec!["0.0.0.0", "::"]),
        (ranges(&["203.0.113.0/24", "fe80::/10"]), vec![]),
    ] {
        let found = listen_on(&wanted, &node, &local);
        assert_eq!(found, ips(&expected).into_iter().collect(), "{wanted:?}");
    }
}

/// A port that is free on loopback now.
fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn facts(services: &[(&str, u16, usize)]) -> Arc<Facts> {
    let check = |(name, port, local_endpoints): &(&str, u16, usize)| {
        (
            ("ns".into(), (*name).into()),
            HealthCheck { port: *port, local_endpoints: *local_endpoints },
        )
    };
    let health_checks = services.iter().map(check).collect();
    Arc::new(Facts { node: Some(NodeFacts::default()), health_checks, ..Facts::default() })
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.unwrap_or_else(|_| panic!("still waiting for {what}"));
}

async fn is_open(address: SocketAddr) -> bool {
    tokio::net::TcpStream::connect(address).await.is_ok()
}

#[tokio::test]
async fn servers_come_move_and_go_with_their_services() {
    let (applied, ..) = applied();
    let (tell, facts_now) = watch::channel(facts(&[]));
    let (_addresses, addresses) =
        watch::channel(Arc::new(ips(&["127.0.0.1"]).into_iter().collect()));
    let (events, mut heard) = events::channel();
    let ranges = ["127.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).into();
    let settings = Settings {
        node: "n1".to_owned(),
        node_ports: NodePorts { addresses: NodePortAddresses::Ranges(ranges), localhost: true },
        facts: facts_now,
        addresses,
        applied,
        events,
    };
    let serving = tokio::spawn(run_every(Duration::from_millis(20), settings));
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));

    let first = free_port();
    tell.send_replace(facts(&[("web", first, 2)]));
    until("the first port", async || is_open(at(first)).await).await;
    let (code, head, body) = get(at(first), "/healthz").await;
    assert_eq!(code, 200, "{body}");
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
    ] {
        assert!(head.contains(header), "{head}");
    }
    assert_eq!(
        body,
        r#"{"service":{"namespace":"ns","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#
    );

    tell.send_replace(facts(&[("web", first, 0)]));
    until("no endpoint", async || get(at(first), "/").await.0 == 503).await;

    let taken = StdListener::bind("127.0.0.1:0").unwrap();
    let second = taken.local_addr().unwrap().port();
    tell.send_replace(facts(&[("web", second, 1)]));
    until("the first port to be closed", async || !is_open(at(first)).await).await;
    let event = heard.recv().await.unwrap();
    assert_eq!(event.reason, "FailedToStartServiceHealthcheck");
    assert!(event.note.contains(&format!("\"ns/web\" on port {second}")), "{}", event.note);
    drop(taken);
    until("the second port", async || is_open(at(second)).await).await;
    assert_eq!(get(at(second), "/any/path").await.0, 200);
    assert!(heard.try_recv().is_err(), "one event for one failure");

    tell.send_replace(facts(&[]));
    until("the second port to be closed", async || !is_open(at(second)).await).await;
    drop(tell);
    serving.await.unwrap();
}
