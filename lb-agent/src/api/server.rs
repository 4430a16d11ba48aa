//! Answers requests on a listener whose clients are not trusted: heads are small and complete in time, answers
//! are taken in time, and connections are few.

use super::patience::{Endless, Patient};
use axum::{Extension, Router};
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

/// Most connections at a time.
const CONNECTIONS: usize = 64;
/// Connections beyond these for those who have precedence.
const RESERVED: usize = 8;
/// Most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Before the next attempt to accept, when there is nothing to accept with.
const PAUSE: Duration = Duration::from_millis(200);

/// For how long is waited for a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the head of a request, and between two requests.
    pub(super) head: Duration,
    /// Until the client has taken what was written to it.
    pub(super) take: Duration,
    /// How long answers that are under way may take once a stop was asked for.
    pub(super) last_answers: Duration,
}

/// Who gets a connection when there are too many.
pub(super) enum Precedence<S> {
    /// Who comes first: the others wait in the kernel's queue.
    Turns,
    /// Those of whom this holds; the others are turned away.
    Of(fn(&S) -> bool),
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
    precedence: Precedence<L::Stream>,
    patience: Patience,
    shutdown: impl Future<Output = ()>,
) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let reserved = Arc::new(Semaphore::new(RESERVED));
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (stream, permit) = accept(&listener, &precedence, &free, &reserved) => {
                let router = router(&stream);
                connections.spawn(answer(stream, router, patience, stopped.clone(), permit));
            }
        }
    }
    drop(listener);
    drop(stop);
    let ended = async { while connections.join_next().await.is_some() {} };
    // Those that are not done by then are dropped with the set.
    drop(timeout(patience.last_answers, ended).await);
}

/// The next connection, once there may be one more. Nobody closes the semaphores.
async fn accept<L: Listener>(
    listener: &L,
    precedence: &Precedence<L::Stream>,
    free: &Arc<Semaphore>,
    reserved: &Arc<Semaphore>,
) -> (L::Stream, Option<OwnedSemaphorePermit>) {
    let is_first = match precedence {
        Precedence::Turns => {
            let permit = Arc::clone(free).acquire_owned().await.ok();
            return (next(listener).await, permit);
        }
        Precedence::Of(is_first) => is_first,
    };
    loop {
        let stream = next(listener).await;
        if let Ok(permit) = Arc::clone(free).try_acquire_owned() {
            return (stream, Some(permit));
        }
        if is_first(&stream)
            && let Ok(permit) = Arc::clone(reserved).try_acquire_owned()
        {
            return (stream, Some(permit));
        }
        tracing::debug!("a connection was turned away: there are too many");
    }
}

async fn next<L: Listener>(listener: &L) -> L::Stream {
    loop {
        match listener.next().await {
            Ok(stream) => return stream,
            // What one client did is its own affair, what the host lacks may be there again soon.
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    patience: Patience,
    mut stopped: watch::Receiver<()>,
    _permit: Option<OwnedSemaphorePermit>,
) {
    let endless = Endless::default();
    let router = router.layer(Extension(endless.clone()));
    let stream = Patient::new(stream, patience.take, endless);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.head)
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
