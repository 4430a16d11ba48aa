//! The ring of decisions: silent while nobody traces, a record per decision while somebody does.

use aya::maps::{Array, Map, MapData, RingBuf};
use integration::agent::Agent;
use integration::client::dial;
use integration::lab::{self, Lab};
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::wait_for;
use lb_common::rows::Event;
use lb_common::{LAYOUT_VERSION, control};
use std::net::SocketAddr;
use std::time::Duration;

const FRONTEND: &str = "10.96.0.1:80";
const EMPTY: &str = "10.96.0.2:80";

fn open(lab: &Lab, table: &str) -> MapData {
    let pin = lab.pin_dir().join(LAYOUT_VERSION.to_string()).join(table);
    MapData::from_pin(pin).expect("the table is pinned")
}

/// The next decision; what became of the last one is passed over.
fn next(ring: &mut RingBuf<MapData>) -> Option<Event> {
    while let Some(record) = ring.next() {
        if let Ok(event) = bytemuck::try_pod_read_unaligned(&record) {
            return Some(event);
        }
    }
    None
}

#[test]
fn a_record_per_decision_while_somebody_traces() {
    lab::run("events", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web/1"]);
        let backend = backends.at(0);
        let _agent = Agent::start(
            lab,
            &services(&[
                service("web").frontend(FRONTEND).backend(backend),
                service("none").frontend(EMPTY),
            ]),
        );
        let frontend: SocketAddr = FRONTEND.parse().unwrap();
        let empty: SocketAddr = EMPTY.parse().unwrap();
        let mut ring = RingBuf::try_from(Map::RingBuf(open(lab, "EVENTS"))).unwrap();
        let mut switches = Array::try_from(Map::Array(open(lab, "CONTROL"))).unwrap();

        dial(frontend).unwrap();
        assert!(next(&mut ring).is_none(), "a record although nobody traces");

        switches.set(control::TRACING, u64::MAX, 0).unwrap();
        let call = dial(frontend).unwrap();
        let mut take = || wait_for("a record", Duration::from_secs(5), || next(&mut ring));
        let event = take();
        assert_eq!(event.frontend.socket_addr(), frontend);
        assert_eq!(event.frontend.protocol, lb_common::protocol::TCP);
        let went = SocketAddr::new(event.backend.into(), u16::from_be(event.backend_port));
        assert_eq!((went, event.translated), (backend, 1));
        assert_eq!(event.cookie, integration::client::cookie(&call.stream));
        assert_eq!(event.pid_tgid >> 32, u64::from(std::process::id()));
        assert!(event.time_ns > 0);
        assert!((1..1_000_000_000).contains(&event.took_ns), "{} ns", event.took_ns);
        let (comm, uid) = (event.comm.trim_ascii_end(), nix::unistd::geteuid().as_raw());
        assert!(comm.starts_with(b"events"), "the thread is called otherwise: {comm:?}");
        assert_eq!(event.uid, uid);
        let cgroup = std::fs::metadata(lab.cgroup().path()).unwrap();
        assert_eq!(event.cgroup, std::os::unix::fs::MetadataExt::ino(&cgroup));

        dial(empty).unwrap_err();
        let event = take();
        assert_eq!(event.frontend.socket_addr(), empty);
        assert_eq!((event.translated, event.no_backend), (0, lb_common::no_backend::REFUSE));

        switches.set(control::TRACING, 0u64, 0).unwrap();
        dial(frontend).unwrap();
        assert!(next(&mut ring).is_none(), "a record although nobody traces any more");
        assert_eq!(switches.get(&control::LOST_EVENTS, 0).unwrap(), 0);
    });
}
