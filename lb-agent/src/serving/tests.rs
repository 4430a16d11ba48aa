//! Real sockets.

use super::*;
use axum::routing::get;
use std::future::pending;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, oneshot};

const DEADLINE: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HALF: &[u8] = b"GET / HTTP/1.1\r\nHost: a";
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);
const PATIENCE: Patience = Patience { head: LONG, take: LONG, last_answers: LONG };

/// The same, but next to none for heads.
pub(crate) fn short(patience: Patience) -> Patience {
    Patience { head: Duration::from_millis(200), ..patience }
}

/// Sends half a head: the connection is closed, without a word.
pub(crate) async fn expect_let_go(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    stream.write_all(HALF).await.unwrap();
    assert_eq!(until_closed(stream).await, "");
}

/// What comes until the connection is closed.
async fn until_closed(mut stream: impl AsyncRead + Unpin) -> String {
    let mut text = String::new();
    let read = timeout(DEADLINE, stream.read_to_string(&mut text)).await;
    read.expect("the connection is closed").unwrap();
    text
}

/// Asks, without end of the connection; what the head of the answer says.
async fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(REQUEST).await.unwrap();
    head(stream).await
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    };
    timeout(DEADLINE, read).await.expect("an answer");
    String::from_utf8(head).unwrap()
}

/// Answers with a head alone.
fn router() -> Router {
    Router::new().route("/", get(async || ()))
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn who_sends_half_a_head_or_nothing_more_is_let_go() {
    let (listener, address) = bind().await;
    // It has asked before anybody is impatient.
    let mut once = TcpStream::connect(address).await.unwrap();
    once.write_all(REQUEST).await.unwrap();
    let serving = tokio::spawn(serve(listener, router(), short(PATIENCE), pending()));
    let answer = until_closed(once).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("connection: close"), "{answer}");
    expect_let_go(TcpStream::connect(address).await.unwrap()).await;
    serving.abort();

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(serve(listener, router(), short(PATIENCE), pending()));
    expect_let_go(UnixStream::connect(&path).await.unwrap()).await;
    serving.abort();
}

#[tokio::test]
async fn connections_that_are_kept_leave_room_and_who_is_too_many_waits() {
    let (listener, address) = bind().await;
    let serving = tokio::spawn(serve(listener, router(), PATIENCE, pending()));
    let mut kept = Vec::new();
    for _ in 0..CONNECTIONS - ROOM {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = ask(&mut stream).await;
        assert!(!head.contains("connection: close"), "{head}");
        kept.push(stream);
    }
    // However many come now.
    for _ in 0..2 * CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = ask(&mut stream).await;
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(until_closed(stream).await, "");
    }
    let mut halves = Vec::new();
    for _ in 0..ROOM {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(HALF).await.unwrap();
        halves.push(stream);
    }
    let mut one_more = TcpStream::connect(address).await.unwrap();
    one_more.write_all(REQUEST).await.unwrap();
    // The server goes on meanwhile.
    for stream in &mut kept {
        ask(stream).await;
    }
    let early = one_more.try_read(&mut [0]);
    assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    halves.pop();
    let head = head(&mut one_more).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    serving.abort();
}

#[tokio::test]
async fn at_the_end_the_port_is_free_while_an_answer_is_under_way() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        async move || {
            begun.notify_one();
            go_on.notified().await;
        }
    };
    let (listener, address) = bind().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async { drop(stopped.await) };
    let router = Router::new().route("/", get(slow));
    let serving = tokio::spawn(serve(listener, router, PATIENCE, stopped));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    timeout(DEADLINE, begun.notified()).await.unwrap();
    drop(stop);
    let free = async {
        while TcpListener::bind(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, free).await.expect("the port is free");
    go_on.notify_one();
    let answer = until_closed(client).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    timeout(DEADLINE, serving).await.expect("the server ends").unwrap();
}
