use super::*;
use crate::names::records::tests::records;
use crate::status::{NamesKind, NamesStatus};
use tokio::sync::watch;

/// A query for the addresses of `web.lb.internal`.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x02lb\x08internal\x00\x00\x01\x00\x01";

fn some_facts(address: &str) -> Option<Arc<Facts>> {
    let records = records(&[("web", &[&format!("{address}:80")])]);
    Some(Arc::new(Facts { serial: 1, complete: true, records }))
}

/// A responder on a port that is free, and where it tells how it fares.
fn start(
    address: SocketAddr,
    facts: &watch::Sender<Option<Arc<Facts>>>,
) -> (tokio::task::JoinHandle<()>, Receiver<Vec<NamesStatus>>) {
    let status = NamesStatus::new(NamesKind::Dns, address.to_string());
    let all = Arc::new(watch::Sender::new(vec![status]));
    let told = all.subscribe();
    let settings = config::Dns { listen: vec![address], ..config::Dns::default() };
    let server = servers(settings).next().unwrap();
    (tokio::spawn(server.serve(facts.subscribe(), Report { index: 0, all })), told)
}

fn free_address() -> SocketAddr {
    // Taken from the ports that connections get; good enough for a test that retries.
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn ask(address: SocketAddr) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut answer = vec![0; 1500];
    for _ in 0..100 {
        socket.send_to(QUERY, address).await.unwrap();
        if let Ok(received) = timeout(PAUSE, socket.recv_from(&mut answer)).await {
            answer.truncate(received.unwrap().0);
            return answer;
        }
    }
    panic!("no answer from {address}");
}

#[tokio::test]
async fn a_change_is_answered_at_once_and_floods_are_survived() {
    let facts = watch::Sender::new(some_facts("10.0.0.1"));
    let address = free_address();
    let (server, _told) = start(address, &facts);
    assert!(ask(address).await.ends_with(&[10, 0, 0, 1]));
    facts.send_replace(some_facts("10.0.0.2"));
    assert!(ask(address).await.ends_with(&[10, 0, 0, 2]));
    // More connections than there are places: the surplus is closed, the rest goes on.
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[0]).await.unwrap();
        open.push(stream);
    }
    let mut surplus = TcpStream::connect(address).await.unwrap();
    assert!(matches!(surplus.read(&mut [0]).await, Ok(0) | Err(_)));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for junk in 0..5000u32 {
        socket.send_to(&junk.to_be_bytes().repeat(5), address).await.unwrap();
    }
    assert!(ask(address).await.ends_with(&[10, 0, 0, 2]));
    // On a connection several queries, one after the other.
    drop(open);
    let mut answers = 0;
    for _ in 0..100 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let message = [&[0, 33], QUERY].concat();
        stream.write_all(&message.repeat(3)).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap_or(0))];
        if !answer.is_empty() {
            stream.read_exact(&mut answer).await.unwrap();
            assert!(answer.ends_with(&[10, 0, 0, 2]));
            answers += 1;
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(answers, 1, "places are given back");
    server.abort();
}

#[tokio::test]
async fn a_taken_address_is_told_and_taken_when_free() {
    let facts = watch::Sender::new(some_facts("10.0.0.1"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (server, mut told) = start(address, &facts);
    let status = told.wait_for(|all| all[0].error.is_some()).await.unwrap()[0].clone();
    let error = status.error.unwrap();
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(error.contains("another program listens there"), "{error}");
    drop(taken);
    told.wait_for(|all| all[0].error.is_none() && all[0].records == 1).await.unwrap();
    assert!(ask(address).await.ends_with(&[10, 0, 0, 1]));
    server.abort();
}
