//! How long packets from outside take to find a service, and how soon they find a change.

use crate::client::dial_within;
use crate::pods::Place;
use crate::wait::wait_for;
use socket2::SockRef;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_millis(200);

/// How long connections take that are made one after the other: the first packet and the answer to it.
#[track_caller]
pub fn first_packets(client: &Place, to: SocketAddr, number: usize) -> Vec<Duration> {
    client.run(|| {
        let connect = |_| {
            let begun = Instant::now();
            let stream = TcpStream::connect(to).expect("the service answers");
            let took = begun.elapsed();
            // A reset leaves no port in TIME_WAIT.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option of TCP");
            took
        };
        (0..number).map(connect).collect()
    })
}

/// Waits until the service answers connections from outside; how long after `begun` that is.
#[track_caller]
pub fn loaded(client: &Place, begun: Instant, to: SocketAddr) -> Duration {
    client.run(|| {
        wait_for("the services to be loaded", DEADLINE, || dial_within(to, PATIENCE).ok());
        begun.elapsed()
    })
}

/// Dials from outside without a pause, until the server of this name answers; how long after `begun`
/// that is.
#[track_caller]
pub fn changed(client: &Place, begun: Instant, to: SocketAddr, tag: &str) -> Duration {
    client.run(|| {
        while begun.elapsed() < DEADLINE {
            if dial_within(to, PATIENCE).is_ok_and(|call| call.tag == tag) {
                return begun.elapsed();
            }
        }
        panic!("no connection has ended up at server {tag} after {DEADLINE:?}");
    })
}
