//! The one HTTP server, HTTP/1 only, of all that listens. Clients are not trusted: heads are small and complete in
//! time, answers are taken in time, and connections are few.

mod patience;

pub(crate) use patience::Endless;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use patience::Patient;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Most connections at a time, on each listener.
const CONNECTIONS: usize = 64;
/// Where fewer are free than this, a connection is for one request: those that are kept for the next one leave
/// room for whoever comes.
const ROOM: usize = CONNECTIONS / 2;
/// Connections beyond these for those who have precedence.
const RESERVED: usize = 8;
/// Most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Before the next attempt to accept, when there is nothing to accept with.
const PAUSE: Duration = Duration::from_millis(200);

/// For how long is waited for a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the head of a request, from the end of the answer before it.
    pub(crate) head: Duration,
    /// Until the client has taken what was written to it.
    pub(crate) take: Duration,
    /// How long answers that are under way may take once a stop was asked for.
    pub(crate) last_answers: Duration,
}

/// Who gets a connection when there are too many.
pub(crate) enum Precedence<S> {
    /// Who comes first: the others wait in the kernel's queue.
    Turns,
    /// Those of whom this holds; the others are turned away.
    Of(fn(&S) -> bool),
}

/// Where connections come from.
pub(crate) trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A connection, whatever it is made of: hyper's machine is in the program once.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

/// Answers requests on `listener` until `shutdown` completes. The listener is closed then, and answers that are
/// under way get a moment to finish.
pub(crate) async fn serve<L: Listener>(
    listener: L,
    router: Router,
    patience: Patience,
    shutdown: impl Future<Output = ()>,
) {
    serve_each(listener, |_| router.clone(), Precedence::Turns, patience, shutdown).await;
}

/// As [`serve`], each connection by the router that `router` has for it.
pub(crate) async fn serve_each<L: Listener>(
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
                let again = free.available_permits() >= ROOM;
                let stream = Box::new(stream);
                connections.spawn(answer(stream, router, patience, again, stopped.clone(), permit));
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

/// Answers one request, or if they may come `again` all that do.
async fn answer(
    stream: Box<dyn Stream>,
    router: Router,
    patience: Patience,
    again: bool,
    mut stopped: watch::Receiver<()>,
    _permit: Option<OwnedSemaphorePermit>,
) {
    let endless = Endless::default();
    let router = router.layer(Extension(endless.clone()));
    let stream = Patient::new(stream, patience.take, endless);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(again)
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

// === impl Stream ===

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

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

#[cfg(test)]
pub(crate) mod tests;
