//! Where to listen, as a table; and real servers on loopback.

use super::*;
use crate::kubeproxy::applied::tests::applied;
use crate::kubeproxy::servers::tests::get;
use crate::serving::tests::{expect_let_go, short};
use crate::source::kubernetes::cluster::{HealthCheck, NodeFacts};
use crate::source::kubernetes::events;
use std::net::TcpListener as StdListener;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
        (NodePortAddresses::PrimaryIs("10.0.0.9".parse().unwrap()), vec!["fd00::1"]),
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
    TcpStream::connect(address).await.is_ok()
}

/// Settings for servers on 127.0.0.0/8.
fn on_loopback(
    facts: watch::Receiver<Arc<Facts>>,
    addresses: Addresses,
    events: Events,
) -> Settings {
    let ranges = ["127.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).into();
    Settings {
        node: "n1".to_owned(),
        node_ports: NodePorts { addresses: NodePortAddresses::Ranges(ranges), localhost: true },
        facts,
        addresses,
        applied: applied().0,
        events,
    }
}

#[tokio::test]
async fn servers_come_move_and_go_with_their_services() {
    let (tell, facts_now) = watch::channel(facts(&[]));
    let (_addresses, addresses) =
        watch::channel(Arc::new(ips(&["127.0.0.1"]).into_iter().collect()));
    let (events, mut heard) = events::channel();
    let settings = on_loopback(facts_now, addresses, events);
    let serving = tokio::spawn(run_with(Duration::from_millis(20), PATIENCE, settings));
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

/// What is answered, if anything is.
async fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_goes_from_one_service_to_another_without_a_gap_to_speak_of() {
    let (tell, facts_now) = watch::channel(facts(&[]));
    let local = |texts: &[&str]| Arc::new(ips(texts).into_iter().collect());
    let (tell_addresses, addresses) = watch::channel(local(&["127.0.0.1"]));
    let (events, mut heard) = events::channel();
    // A port that is refused would be tried again only much later.
    let settings = on_loopback(facts_now, addresses, events);
    let serving = tokio::spawn(run_with(PAUSE, PATIENCE, settings));
    let port = free_port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    tell.send_replace(facts(&[("a", port, 1)]));
    until("the first service", async || is_open(at).await).await;
    for turn in 0..20 {
        // It holds the old server, but not its port.
        let open = TcpStream::connect(at).await.unwrap();
        let name = if turn % 2 == 0 { "b" } else { "a" };
        tell.send_replace(facts(&[(name, port, 1)]));
        let by = format!("\"{name}\"");
        let answered = async || ask(at).await.is_ok_and(|text| text.contains(&by));
        let soon = tokio::time::timeout(Duration::from_secs(5), until("the other", answered));
        soon.await.expect("the port is served again within 5 s");
        drop(open);
    }
    // One that stays is not touched by one that comes or goes.
    let mut kept = TcpStream::connect(at).await.unwrap();
    let second = SocketAddr::from(([127, 0, 0, 2], port));
    tell_addresses.send_replace(local(&["127.0.0.1", "127.0.0.2"]));
    until("the second address", async || is_open(second).await).await;
    tell_addresses.send_replace(local(&["127.0.0.1"]));
    until("the second address to be closed", async || !is_open(second).await).await;
    let mut byte = [0];
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(kept.read(&mut byte).await.unwrap(), 1);
    assert!(heard.try_recv().is_err(), "nothing went wrong");
    drop(tell);
    serving.await.unwrap();
}

#[tokio::test]
async fn who_sends_half_a_head_is_let_go() {
    let port = free_port();
    let (tell, facts_now) = watch::channel(facts(&[("web", port, 1)]));
    let (_addresses, addresses) =
        watch::channel(Arc::new(ips(&["127.0.0.1"]).into_iter().collect()));
    let (events, _heard) = events::channel();
    let settings = on_loopback(facts_now, addresses, events);
    // A port that another test has just taken is tried again.
    let serving = tokio::spawn(run_with(Duration::from_millis(20), short(PATIENCE), settings));
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    until("the port", async || is_open(at).await).await;
    expect_let_go(TcpStream::connect(at).await.unwrap()).await;
    drop(tell);
    serving.await.unwrap();
}
