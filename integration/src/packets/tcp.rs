//! A TCP segment outside its connection's window, as an endpoint may send one now and then, written by
//! hand.

use crate::sctp::{payload, raw};
use crate::wait::wait_for;
use socket2::{SockAddr, Socket};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const PROTOCOL: u8 = 6;
const HEADER: usize = 20;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const DEADLINE: Duration = Duration::from_secs(10);

/// An endpoint's second pair of eyes: sees what it is sent.
#[derive(Debug)]
pub struct Tap {
    socket: UdpSocket,
    at: SocketAddr,
}

impl Tap {
    /// On an address of the calling thread's namespace.
    #[track_caller]
    pub fn at(at: SocketAddr) -> Self {
        let socket = raw(at, PROTOCOL.into()).expect("a raw socket can be made");
        let bound = socket.try_clone().expect("a socket can be duplicated");
        let address = SockAddr::from(SocketAddr::new(at.ip(), 0));
        Socket::from(bound).bind(&address).expect("an address of this place");
        socket.set_nonblocking(true).expect("a socket can be non-blocking");
        Self { socket, at }
    }

    /// Waits for data of this client's, and sends it a segment far beyond its window, which acknowledges
    /// what it has sent.
    #[track_caller]
    pub fn send_astray(&self, client: SocketAddr) {
        let mut buffer = [0; 2048];
        let (sequence, acknowledged) = wait_for("data of the client's", DEADLINE, || {
            let (length, sender) = self.socket.recv_from(&mut buffer).ok()?;
            let segment = payload(&buffer[..length], sender);
            let word = |at: usize| Some(u32::from_be_bytes(*segment.get(at..)?.first_chunk()?));
            let ports = (self.at.port(), client.port());
            let ours = word(0)? == u32::from(ports.1) << 16 | u32::from(ports.0);
            let data = segment.len() - usize::from(segment.get(12)? >> 4) * 4;
            let data = u32::try_from(data).expect("a short segment");
            (ours && sender.ip() == client.ip() && data > 0)
                .then_some((word(8)?, word(4)?.wrapping_add(data)))
        });
        let segment = self.segment(client, sequence.wrapping_add(1_000_000_000), acknowledged);
        let to = SocketAddr::new(client.ip(), 0);
        self.socket.send_to(&segment, to).expect("there is a way to the client");
    }

    fn segment(&self, client: SocketAddr, sequence: u32, acknowledged: u32) -> Vec<u8> {
        let mut segment = Vec::with_capacity(HEADER + 4);
        segment.extend(self.at.port().to_be_bytes());
        segment.extend(client.port().to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        // Length of the header in words; flags; window; checksum; no urgent data.
        segment.extend([(HEADER as u8 / 4) << 4, ACK | PSH]);
        segment.extend(1024u16.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(b"lost");
        let checksum = checksum(self.at.ip(), client.ip(), &segment);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        segment
    }
}

/// Of a segment whose checksum is 0, with the addresses before it.
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend(u32::try_from(segment.len()).expect("a short segment").to_be_bytes());
    bytes.extend([0, 0, 0, PROTOCOL]);
    bytes.extend(segment);
    let pairs = bytes.chunks(2);
    let sum: u32 = pairs
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice")
}
