//! Servers at the end of a wire: as little as there can be, since what they cost is in everything
//! that is measured.

use super::scene::SERVED;
use super::station::served;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// First byte of what is to be sent back.
pub(super) const ECHO: u8 = b'e';
/// First byte of what is to be counted and thrown away.
pub(super) const SINK: u8 = b's';

/// How often a server that nobody talks to looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Buffers of the UDP server, so that little is lost while it does not run.
const BUFFER: usize = 4 << 20;

/// Serves until it is dropped.
#[derive(Debug)]
pub(super) struct Servers {
    stop: Arc<AtomicBool>,
    sunk: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

// === impl Servers ===

impl Servers {
    /// Accepts TCP connections and closes them.
    #[track_caller]
    pub(super) fn accepting() -> Self {
        let mut servers = Self::none();
        let (listener, stop) = (listen(), Arc::clone(&servers.stop));
        servers.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                drop(listener.accept());
            }
        }));
        servers
    }

    /// Answers or swallows, on TCP and UDP, as the first byte says: of a connection, or of each
    /// datagram.
    #[track_caller]
    pub(super) fn talking() -> Self {
        let mut servers = Self::none();
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket can be made");
        socket.set_recv_buffer_size(BUFFER).expect("an option of all sockets");
        socket.set_read_timeout(Some(LOOK)).expect("an option of all sockets");
        socket.bind(&SockAddr::from(served(SERVED))).expect("an address of the server");
        let socket = UdpSocket::from(socket);
        let (stop, sunk) = (Arc::clone(&servers.stop), Arc::clone(&servers.sunk));
        servers.threads.push(thread::spawn(move || datagrams(&socket, &stop, &sunk)));
        let listener = listen();
        let (stop, sunk) = (Arc::clone(&servers.stop), Arc::clone(&servers.sunk));
        servers.threads.push(thread::spawn(move || {
            let mut calls = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Ok((call, _)) = listener.accept() else { continue };
                let (stop, sunk) = (Arc::clone(&stop), Arc::clone(&sunk));
                calls.retain(|call: &JoinHandle<()>| !call.is_finished());
                calls.push(thread::spawn(move || {
                    // An error is the client's leaving.
                    let _ = talk(call.into(), &stop, &sunk);
                }));
            }
            // One that panicked has said so.
            calls.into_iter().for_each(|call| drop(call.join()));
        }));
        servers
    }

    /// Bytes that were swallowed so far.
    pub(super) fn sunk(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sunk)
    }

    fn none() -> Self {
        Self { stop: Arc::default(), sunk: Arc::default(), threads: Vec::new() }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        if ended.iter().any(Result::is_err) && !thread::panicking() {
            panic!("a server panicked");
        }
    }
}

fn listen() -> Socket {
    let listener =
        Socket::from(TcpListener::bind(served(SERVED)).expect("an address of the server"));
    listener.set_read_timeout(Some(LOOK)).expect("an option of all sockets");
    listener.listen(4096).expect("a bound socket can listen");
    listener
}

fn talk(mut call: TcpStream, stop: &AtomicBool, sunk: &AtomicU64) -> std::io::Result<()> {
    call.set_nodelay(true)?;
    call.set_read_timeout(Some(LOOK))?;
    let mut data = vec![0; 256 * 1024];
    let mut sinks = None;
    while !stop.load(Ordering::Relaxed) {
        let length = match call.read(&mut data) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if *sinks.get_or_insert(data[0] == SINK) {
            sunk.fetch_add(length as u64, Ordering::Relaxed);
        } else {
            call.write_all(&data[..length])?;
        }
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket, stop: &AtomicBool, sunk: &AtomicU64) {
    let mut data = vec![0; 64 * 1024];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut data) else { continue };
        if data[0] == SINK {
            sunk.fetch_add(length as u64, Ordering::Relaxed);
        } else {
            // Whoever has asked waits no longer than it likes.
            let _ = socket.send_to(&data[..length], client);
        }
    }
}
