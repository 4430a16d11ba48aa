//! Answers requests on a listener whose clients are not trusted: heads are small and complete in time, answers
//! are taken in time, and connections are few. Whoever is slow holds up nobody but those who wait for a connection.

use super::patience::Patient;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Most connections at a time; who comes then waits in the kernel's queue.
const CONNECTIONS: usize = 64;
/// For the head of a request, and between two requests.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Before the next attempt to accept, when there is nothing to accept with.
const PAUSE: Duration = Duration::from_millis(200);

/// For how long is waited for a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until the client has taken what was written to it.
    pub(super) take: Duration,
    /// How long answers that are under way may take once a stop was asked for.
    pub(super) last_answers: Duration,
}

/// Where connections come from.
pub(super) trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Answers requests on `listener`, each connection by the router that `router` has for it, until `shutdown`
/// completes; answers that are under way then get a moment to finish.
pub(super) async fn serve<L: Listener>(
    listener: L,
    router: impl Fn(&L::Stream) -> Router,
    patience: Patience,
    shutdown: impl Future<Output = ()>,
) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (stream, permit) = accept(&listener, &free) => {
                let router = router(&stream);
                let stream = Patient::new(stream, patience.take);
                connections.spawn(answer(stream, router, stopped.clone(), permit));
            }
        }
    }
    drop(listener);
    drop(stop);
    let ended = async { while connections.join_next().await.is_some() {} };
    // Those that are not done by then are dropped with the set.
    drop(timeout(patience.last_answers, ended).await);
}

/// The next connection, once there may be one more.
async fn accept<L: Listener>(
    listener: &L,
    free: &Arc<Semaphore>,
) -> (L::Stream, Option<OwnedSemaphorePermit>) {
    // Nobody closes the semaphore.
    let permit = Arc::clone(free).acquire_owned().await.ok();
    loop {
        match listener.next().await {
            Ok(stream) => return (stream, permit),
            // What one client did is its own affair, what the host lacks may be there again soon.
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: Patient<S>,
    router: Router,
    mut stopped: watch::Receiver<()>,
    _permit: Option<OwnedSemaphorePermit>,
) {
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    // An error is the client's; it has been told as far as it listens.
    tokio::select! {
        result = &mut connection => return drop(result),
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

// === impl Listener ===

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}
