//! What clients are to find.

use crate::pods::{Pair, Place, Way};
use crate::refusal::{Refusal, refusal};
use crate::wait::patience;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// How a TCP service is asked.
pub const TCP: &[Way] = &[Way::Tcp];
/// How a UDP service is asked.
pub const UDP: &[Way] = &[Way::Connected, Way::Unconnected];
/// How an SCTP service is asked.
pub const SCTP: &[Way] = &[Way::Sctp];
/// How all three are asked by packets.
pub const PACKETS: &[Way] = &[Way::Tcp, Way::Connected, Way::Sctp];

/// How long a failure may take that is to come at once: the machine may be busy.
const AT_ONCE: Duration = Duration::from_secs(3);
/// How long nothing must be heard of packets that are dropped: an answer is there in milliseconds.
const SILENCE: Duration = Duration::from_millis(700);
/// Most questions until everybody has answered who may: of three, one is missed once in 10^17 times.
const QUESTIONS: usize = 100;
/// Fewest questions, for somebody to answer who may not.
const FEW: usize = 5;

/// Asks each address in each of these ways, until everybody has answered who is to; nobody else may.
/// Each time the client takes the dialled address for its peer.
#[track_caller]
pub fn reaches(from: &Place, ways: &[Way], to: impl IntoIterator<Item = SocketAddr>, who: &[&str]) {
    let who: Vec<_> = who.iter().map(|&tag| (tag, None)).collect();
    answered(from, ways, to, &who);
}

/// [`reaches`], and each of those who answer sees the client at one of the two addresses that stand
/// beside its name.
#[track_caller]
pub fn reaches_as(
    from: &Place,
    ways: &[Way],
    to: impl IntoIterator<Item = SocketAddr>,
    who: &[(&str, Pair)],
) {
    let who: Vec<_> = who.iter().map(|&(tag, source)| (tag, Some(source))).collect();
    answered(from, ways, to, &who);
}

#[track_caller]
fn answered(
    from: &Place,
    ways: &[Way],
    to: impl IntoIterator<Item = SocketAddr>,
    who: &[(&str, Option<Pair>)],
) {
    for (to, way) in each(to, ways) {
        let asks = format!("{}: {way:?} to {to}", from.name());
        let mut answered = BTreeSet::new();
        for question in 0..QUESTIONS {
            if question >= FEW && answered.len() == who.len() {
                break;
            }
            let asked = from.ask(way, to);
            let asked = asked.unwrap_or_else(|error| panic!("{asks} failed: {error}"));
            assert_eq!(asked.peer, to, "{asks}: the peer it sees");
            let tag = asked.tag;
            let expected = who.iter().find(|(name, _)| *name == tag);
            let (_, source) = expected.unwrap_or_else(|| panic!("{asks}: {tag} answered"));
            if let Some(source) = source {
                let seen = asked.seen.ip();
                assert!(source.both().contains(&seen), "{asks}: {tag} sees {seen}, not {source:?}");
            }
            answered.insert(tag);
        }
        let all: BTreeSet<String> = who.iter().map(|(tag, _)| (*tag).to_owned()).collect();
        assert_eq!(answered, all, "{asks}");
    }
}

/// Asks each address in each of these ways, and is refused at once.
#[track_caller]
pub fn refused(from: &Place, ways: &[Way], to: impl IntoIterator<Item = SocketAddr>) {
    fails(from, ways, to, &[libc::ECONNREFUSED]);
}

/// [`refused`] by packets: TCP by a reset, the rest by ICMP, and what is rejected by its own host says
/// EPERM besides.
#[track_caller]
pub fn rejected(from: &Place, ways: &[Way], to: impl IntoIterator<Item = SocketAddr>) {
    for (to, way) in each(to, ways) {
        let asks = format!("{}: {way:?} to {to}", from.name());
        let begun = Instant::now();
        let (error, came) = refusal(from, way, to);
        let took = begun.elapsed();
        let (errors, expected) = match way {
            Way::Tcp => (&[libc::ECONNREFUSED][..], Refusal::Reset),
            _ => (&[libc::ECONNREFUSED, libc::EPERM][..], Refusal::PortUnreachable),
        };
        assert_eq!(came, expected, "{asks}");
        let known = error.raw_os_error().is_some_and(|error| errors.contains(&error));
        assert!(known, "{asks}: {error}");
        assert!(took < AT_ONCE * patience(), "{asks}: it took {took:?}");
    }
}

/// Asks each address in each of these ways, and is told at once that there is no way.
#[track_caller]
pub fn unreachable(from: &Place, ways: &[Way], to: impl IntoIterator<Item = SocketAddr>) {
    fails(from, ways, to, &[libc::EHOSTUNREACH]);
}

/// Asks each address in each of these ways, and nobody answers; how that shows is not said.
#[track_caller]
pub fn nobody(from: &Place, ways: &[Way], to: impl IntoIterator<Item = SocketAddr>) {
    for (to, way) in each(to, ways) {
        if let Ok(asked) = from.ask(way, to) {
            panic!("{}: {way:?} to {to}: {} answered", from.name(), asked.tag);
        }
    }
}

/// Asks each address in each of these ways, and hears nothing: neither an answer nor why not. A
/// datagram that its own host drops says EPERM.
#[track_caller]
pub fn silent(from: &Place, ways: &[Way], to: impl IntoIterator<Item = SocketAddr>) {
    let all: Vec<_> = each(to, ways).collect();
    let ask = |&(to, way)| from.ask_within(way, to, SILENCE);
    // All at once: nothing takes its time.
    let asked: Vec<_> = thread::scope(|scope| {
        let asking: Vec<_> = all.iter().map(|one| scope.spawn(move || ask(one))).collect();
        asking.into_iter().map(|asked| asked.join().expect("asking does not panic")).collect()
    });
    for ((to, way), asked) in all.iter().zip(asked) {
        let error = match asked {
            Ok(asked) => panic!("{}: {way:?} to {to}: {} answered", from.name(), asked.tag),
            Err(error) => error,
        };
        let dropped = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock].contains(&error.kind())
            || error.raw_os_error() == Some(libc::EPERM);
        assert!(dropped, "{}: {way:?} to {to}: {error}", from.name());
    }
}

#[track_caller]
fn fails(from: &Place, ways: &[Way], to: impl IntoIterator<Item = SocketAddr>, errors: &[i32]) {
    for (to, way) in each(to, ways) {
        let begun = Instant::now();
        let asked = from.ask(way, to);
        let took = begun.elapsed();
        let error = asked.map_or_else(|error| error.raw_os_error(), |_| None);
        let expected = error.is_some_and(|error| errors.contains(&error));
        assert!(expected, "{}: {way:?} to {to}: {error:?} after {took:?}", from.name());
        assert!(took < AT_ONCE * patience(), "{}: {way:?} to {to}: it took {took:?}", from.name());
    }
}

fn each(
    to: impl IntoIterator<Item = SocketAddr>,
    ways: &[Way],
) -> impl Iterator<Item = (SocketAddr, Way)> {
    to.into_iter().flat_map(move |to| ways.iter().map(move |&way| (to, way)))
}
