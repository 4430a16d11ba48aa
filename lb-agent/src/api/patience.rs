//! Streams that give up on a peer who does not take what is written to it, be it by reading nothing or by
//! reading a byte now and then; and a listener whose streams do.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};

/// Until a client has taken what was written to it.
pub(super) const TAKE_TIME: Duration = Duration::from_secs(30);

/// Where clients connect who have `limit` to take what is written to them.
pub(super) struct Patiently {
    pub(super) listener: UnixListener,
    pub(super) limit: Duration,
}

/// Of a connection, for whoever answers on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience(Arc<AtomicBool>);

/// A stream whose peer has `limit` to take what is written before the next flush.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    patience: Patience,
    /// Runs while the peer is behind.
    overdue: Option<Pin<Box<Sleep>>>,
}

// === impl Patience ===

impl Patience {
    /// The client is waited for however long it takes: for answers of which little waits.
    pub(super) fn never_end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_endless(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Connected<IncomingStream<'_, Patiently>> for Patience {
    fn connect_info(stream: IncomingStream<'_, Patiently>) -> Self {
        stream.io().patience.clone()
    }
}

// === impl Patiently ===

impl Listener for Patiently {
    type Io = Patient<UnixStream>;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Patient::new(stream, self.limit), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

// === impl Patient ===

impl<S> Patient<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, patience: Patience::default(), overdue: None }
    }

    /// The stream takes no more at present.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.patience.is_endless() {
            return Poll::Pending;
        }
        let limit = self.limit;
        let overdue = self.overdue.get_or_insert_with(|| Box::pin(sleep(limit)));
        match overdue.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => self.wait(cx),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, bufs) {
            Poll::Pending => self.wait(cx),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => self.wait(cx),
            flushed => {
                self.overdue = None;
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{Patience, Patient, Patiently};
    use crate::api::budget::{self, Budget};
    use axum::Router;
    use axum::body::Body;
    use axum::extract::ConnectInfo;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use futures_util::stream;
    use hyper::body::Bytes;
    use std::convert::Infallible;
    use std::io::ErrorKind;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::time::{Instant, timeout};

    const LIMIT: Duration = Duration::from_millis(200);
    const DEADLINE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn who_reads_is_waited_for_and_who_does_not_or_barely_is_not() {
        // What is taken in time may follow each other for longer than the limit.
        let (ours, mut theirs) = duplex(16);
        let mut ours = Patient::new(ours, LIMIT);
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.map(|_| all.len())
        });
        let begin = Instant::now();
        let mut written = 0;
        while begin.elapsed() < 2 * LIMIT {
            ours.write_all(&[0; 64]).await.unwrap();
            ours.flush().await.unwrap();
            written += 64;
        }
        drop(ours);
        assert_eq!(reader.await.unwrap().unwrap(), written);

        let (ours, silent) = duplex(16);
        let mut ours = Patient::new(ours, LIMIT);
        let result = timeout(DEADLINE, ours.write_all(&[0; 64])).await.expect("it gives up");
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(silent);

        let (ours, mut slow) = duplex(16);
        let mut ours = Patient::new(ours, LIMIT);
        let reader = tokio::spawn(async move {
            let mut tick = tokio::time::interval(LIMIT / 10);
            let mut byte = [0];
            while slow.read(&mut byte).await.is_ok_and(|count| count > 0) {
                tick.tick().await;
            }
        });
        let result = timeout(DEADLINE, ours.write_all(&[0; 64 * 1024])).await.expect("it gives up");
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(ours);
        reader.await.unwrap();
    }

    /// Asks, and reads no more of the answer than its status.
    async fn ask(path: &std::path::Path, what: &str) -> (UnixStream, String) {
        let mut client = UnixStream::connect(path).await.unwrap();
        client.write_all(format!("GET {what} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut status = [0; 12];
        client.read_exact(&mut status).await.unwrap();
        (client, String::from_utf8(status[9..].to_vec()).unwrap())
    }

    #[tokio::test]
    async fn who_never_reads_keeps_room_from_others_for_a_while_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = Patiently { listener: UnixListener::bind(&path).unwrap(), limit: LIMIT };
        // Pieces without end, of which one waits.
        let endless = |ConnectInfo(patience): ConnectInfo<Patience>| async move {
            patience.never_end();
            let piece = Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 64 * 1024]));
            Body::from_stream(stream::repeat(piece))
        };
        let router = Router::new()
            .route("/large", get(|| async { vec![0u8; 40 << 20] }))
            .route("/endless", get(endless))
            .layer(from_fn_with_state(Budget::new(), budget::counted))
            .into_make_service_with_connect_info::<Patience>();
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let (mut waited_for, status) = ask(&path, "/endless").await;
        assert_eq!(status, "200");
        let begin = Instant::now();
        let (stopped, status) = ask(&path, "/large").await;
        assert_eq!(status, "200");
        let room = async {
            loop {
                match ask(&path, "/large").await {
                    (_, status) if status == "503" => tokio::time::sleep(LIMIT / 10).await,
                    (_, status) => return status,
                }
            }
        };
        assert_eq!(timeout(DEADLINE, room).await.expect("there is room again"), "200");
        assert!(begin.elapsed() >= LIMIT, "not at once");
        drop(stopped);
        // More than the kernel holds for it: it was not cut off.
        let mut taken = vec![0; 16 << 20];
        let read = timeout(DEADLINE, waited_for.read_exact(&mut taken)).await;
        assert_eq!(read.expect("it goes on").unwrap(), taken.len());
        server.abort();
    }
}
