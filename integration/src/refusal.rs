//! How somebody is refused: by a TCP reset or by ICMP, which a socket does not tell apart.

use crate::pods::{Place, Way};
use crate::sctp::{payload, raw};
use crate::wait::within;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const TCP: u8 = 6;
const ICMP: i32 = 1;
const ICMP_V6: i32 = 58;
const RST: u8 = 0x04;
/// What says so is there when the socket hears of it.
const DEADLINE: Duration = Duration::from_secs(5);

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A segment that resets the connection.
    Reset,
    /// ICMP: nobody has this port.
    PortUnreachable,
}

/// Asks, and looks at what comes back: the error that the socket reports, and what is behind it.
#[track_caller]
pub fn refusal(from: &Place, way: Way, to: SocketAddr) -> (io::Error, Refusal) {
    from.run(|| {
        let open = |protocol| {
            let socket = raw(to, protocol).expect("a raw socket can be made");
            socket.set_nonblocking(true).expect("a socket can be non-blocking");
            socket
        };
        let segments = open(TCP.into());
        let messages = open(if to.is_ipv4() { ICMP } else { ICMP_V6 });
        let error = match way.ask(to) {
            Ok(asked) => panic!("{way:?} to {to}: {} answered", asked.tag),
            Err(error) => error,
        };
        let came = within(DEADLINE, || {
            next(&segments, to, |segment| is_reset(segment, to)).then_some(Refusal::Reset).or_else(
                || {
                    next(&messages, to, |message| is_unreachable(message, to))
                        .then_some(Refusal::PortUnreachable)
                },
            )
        });
        (error, came.unwrap_or_else(|| panic!("{way:?} to {to}: nothing came back")))
    })
}

/// Whether one of those that wait is such a one.
fn next(socket: &UdpSocket, to: SocketAddr, is: impl Fn(&[u8]) -> bool) -> bool {
    let mut buffer = [0; 2048];
    while let Ok(length) = socket.recv(&mut buffer) {
        if is(payload(&buffer[..length], to)) {
            return true;
        }
    }
    false
}

fn is_reset(segment: &[u8], to: SocketAddr) -> bool {
    port(segment, 0) == Some(to.port()) && segment.get(13).is_some_and(|flags| flags & RST != 0)
}

/// Whether it says that the port is nobody's, of a packet that went there.
fn is_unreachable(message: &[u8], to: SocketAddr) -> bool {
    let kind: &[u8] = if to.is_ipv4() { &[3, 3] } else { &[1, 4] };
    let quoted = message.get(8..).unwrap_or_default();
    let header = if to.is_ipv4() { 20 } else { 40 };
    message.starts_with(kind) && port(quoted, header + 2) == Some(to.port())
}

fn port(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
