//! The DNS responder: sockets, and what they may cost.
//!
//! Messages are read and written by hickory-server's types. The sockets are ours, because its own
//! server takes a task per datagram and any number of connections: here a datagram is answered before
//! the next one is read, and connections are counted, so that a flood is the kernel's to drop. What
//! is answered is left to [`answer`].

mod answer;

use self::answer::{Server as Answers, Way};
use super::{Facts, Report};
use crate::config;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Between attempts to listen.
const RETRY: Duration = Duration::from_secs(2);
/// After an error that may come again at once.
const PAUSE: Duration = Duration::from_millis(100);
/// Open connections; a further one is closed.
const CONNECTIONS: usize = 64;
/// From one query on a connection to the end of the next one.
const IDLE: Duration = Duration::from_secs(10);
/// Longest query read.
const LONGEST: usize = 4096;

type Names = Receiver<Option<Arc<Facts>>>;

/// A responder on one address.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    answers: Arc<Answers>,
}

/// One for each address.
pub(super) fn servers(settings: config::Dns) -> impl Iterator<Item = Server> {
    let config::Dns { listen, ttl } = settings;
    let answers = Arc::new(Answers::new(&listen, ttl));
    listen.into_iter().map(move |address| Server { address, answers: Arc::clone(&answers) })
}

/// What a message is answered with by a responder at the loopback address: in a datagram, and over TCP.
pub(crate) fn try_answer(message: &[u8], facts: Option<&Facts>) -> [Option<Vec<u8>>; 2] {
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
    let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
    let answers = Answers::new(&[own], Duration::from_secs(5));
    [Way::Udp, Way::Tcp].map(|way| answers.answer(message, client, way, facts))
}

// === impl Server ===

impl Server {
    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is dropped. Failing to listen is told, and tried again.
    pub(super) async fn serve(self, facts: Names, report: Report) {
        let listening = async {
            loop {
                let error = match self.bind().await {
                    Ok((udp, tcp)) => {
                        report.update(|status| status.error = None);
                        self.answer(&udp, &tcp, &facts).await
                    }
                    Err(error) => error,
                };
                report.update(|status| status.error = Some(explain(self.address, &error)));
                sleep(RETRY).await;
            }
        };
        let mut seen = facts.clone();
        let counting = async {
            loop {
                let records = seen.borrow_and_update().as_ref().map_or(0, |now| now.records.len());
                report.update(|status| status.records = records);
                if seen.changed().await.is_err() {
                    return std::future::pending::<()>().await;
                }
            }
        };
        tokio::join!(listening, counting);
    }

    async fn bind(&self) -> io::Result<(UdpSocket, TcpListener)> {
        Ok((UdpSocket::bind(self.address).await?, TcpListener::bind(self.address).await?))
    }

    /// Answers until a socket fails.
    async fn answer(&self, udp: &UdpSocket, tcp: &TcpListener, facts: &Names) -> io::Error {
        tokio::select! {
            error = self.datagrams(udp, facts) => error,
            error = self.connections(tcp, facts) => error,
        }
    }

    async fn datagrams(&self, socket: &UdpSocket, facts: &Names) -> io::Error {
        let mut buffer = [0; LONGEST];
        loop {
            let (length, source) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) if is_passing(&error) => {
                    sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return error,
            };
            let query = buffer.get(..length).unwrap_or_default();
            let Some(answer) = reply(&self.answers, query, source, Way::Udp, facts) else {
                continue;
            };
            if let Err(error) = socket.send_to(&answer, source).await {
                tracing::debug!(%error, %source, "an answer could not be sent");
            }
        }
    }

    async fn connections(&self, listener: &TcpListener, facts: &Names) -> io::Error {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        // They end with this function.
        let mut open = JoinSet::new();
        loop {
            let (stream, source) = match listener.accept().await {
                Ok(accepted) => accepted,
                // Most are about the one connection, or pass when others are closed.
                Err(error) => {
                    tracing::debug!(%error, "no connection accepted");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            while open.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let (answers, facts) = (Arc::clone(&self.answers), facts.clone());
            open.spawn(async move {
                if let Err(error) = converse(stream, source, &answers, &facts).await {
                    tracing::debug!(%error, %source, "a connection ended");
                }
                drop(place);
            });
        }
    }
}

/// Answers the queries of a connection, one after the other.
async fn converse(
    mut stream: TcpStream,
    source: SocketAddr,
    answers: &Answers,
    facts: &Names,
) -> io::Result<()> {
    loop {
        let query = timeout(IDLE, async {
            let length = usize::from(stream.read_u16().await?);
            if length > LONGEST {
                return Err(io::Error::other(format!("a query of {length} bytes")));
            }
            let mut query = vec![0; length];
            stream.read_exact(&mut query).await.map(|_| query)
        });
        let query = query.await.map_err(|_| io::ErrorKind::TimedOut)??;
        let Some(answer) = reply(answers, &query, source, Way::Tcp, facts) else {
            return Ok(());
        };
        // An answer is cut to what a length can say.
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(IDLE, stream.write_all(&message)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
}

/// The answer, if there is to be one.
fn reply(
    answers: &Answers,
    query: &[u8],
    source: SocketAddr,
    way: Way,
    facts: &Names,
) -> Option<Vec<u8>> {
    let facts = facts.borrow().clone();
    // Messages come from anybody; one that trips over an assertion must not end the responder.
    let answer =
        catch_unwind(AssertUnwindSafe(|| answers.answer(query, source, way, facts.as_deref())));
    answer.unwrap_or_else(|_| {
        tracing::debug!(%source, "a query could not be answered");
        None
    })
}

/// What a datagram sent before may have come to, as opposed to the socket being broken.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable};
    let out_of_memory = [io::ErrorKind::OutOfMemory, io::ErrorKind::WouldBlock];
    matches!(error.kind(), ConnectionRefused | HostUnreachable | Interrupted | NetworkUnreachable)
        || out_of_memory.contains(&error.kind())
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another",
        io::ErrorKind::AddrNotAvailable => {
            "the host does not have this address: add it, or choose another"
        }
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 needs CAP_NET_BIND_SERVICE: grant it, or choose another"
        }
        _ => "choose another",
    };
    format!("can't listen on {address}: {error}; {remedy} in `names.dns.listen`")
}

#[cfg(test)]
mod tests;
