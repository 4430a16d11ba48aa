//! Publishing under load: clients that never stop dialling meet no half-made change, while backends
//! and frontends come and go as fast as the agent can take it.

use integration::agent::Agent;
use integration::client::{ask, dial, udp};
use integration::lab::{self, Lab};
use integration::server::{Backends, Kind};
use integration::spec::{service, services};
use integration::wait::{patience, within};
use lb_agent::status::ServiceStatus;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SPAN: Duration = Duration::from_secs(20);
/// Connects and datagrams.
const ENOUGH: u64 = 10_000;
const ENOUGH_ROUNDS: u32 = 40;
const DEADLINE: Duration = Duration::from_secs(20);
const NAMES: [&str; 2] = ["a", "b"];
/// Backends that each service may have, of each family.
const POOL: usize = 12;
/// Frontends that stay, of each service: v4 and v6.
const STABLE: [[&str; 2]; 2] =
    [["10.96.0.1:80", "[fd00:96::1]:80"], ["10.96.0.2:80", "[fd00:96::2]:80"]];
/// Frontends that come, go, and move from one service to the other.
const ROAMING: [&str; 4] = ["10.96.1.1:80", "10.96.1.2:80", "[fd00:96::1:1]:80", "10.96.1.4:80"];

/// What is true of a roaming frontend now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The kernel has it: this service's.
    Service(usize),
    /// The kernel does not have it.
    Nobody,
    /// It is on its way from one service to another: one of them must answer.
    Moving,
    /// It is coming or going.
    Unknown,
}

/// A place where a backend is served; the same address is removed and listed again many times.
struct Place {
    address: SocketAddr,
    service: usize,
    listed: AtomicBool,
    /// When its last removal was complete (the agent had said so); 0 while it may be chosen.
    removed: AtomicU64,
}

/// A frontend that changes hands. The version tells a client whether it did while it was dialling.
struct Roaming {
    address: SocketAddr,
    state: Mutex<(u64, Owner)>,
}

/// Everything the clients and the writer share.
struct World {
    start: Instant,
    places: Vec<Place>,
    roaming: Vec<Roaming>,
    done: AtomicBool,
    dialled: AtomicU64,
    violations: Mutex<Vec<String>>,
}

impl World {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("a test of less than 500 years")
    }

    fn violation(&self, text: String) {
        self.violations.lock().expect("no client has panicked").push(text);
    }

    /// Dials and judges what came of it.
    fn dial(&self, to: SocketAddr, owner: Owner, datagram: bool, unchanged: impl Fn() -> bool) {
        let begin = self.now();
        let outcome = reach(to, datagram);
        self.dialled.fetch_add(1, Ordering::Relaxed);
        // What has changed meanwhile can't be judged by what was true before.
        let owner = if unchanged() { owner } else { Owner::Unknown };
        let form = if datagram { "UDP" } else { "TCP" };
        let case = || format!("{form} {to} ({owner:?}), begun at {begin}");
        match (outcome, owner) {
            (Ok(tag), Owner::Nobody) => self.violation(format!("{}: {tag} answered", case())),
            (Ok(tag), owner) => self.judge_backend(&tag, owner, begin, &case),
            (Err(error), Owner::Service(_) | Owner::Moving) => {
                self.violation(format!("{}: {error}", case()));
            }
            (Err(_), Owner::Nobody | Owner::Unknown) => {}
        }
    }

    fn judge_backend(&self, tag: &str, owner: Owner, begin: u64, case: &dyn Fn() -> String) {
        let index: usize = tag.parse().expect("tags are numbers");
        let place = &self.places[index];
        if matches!(owner, Owner::Service(service) if service != place.service) {
            self.violation(format!("{}: answered by service {}", case(), NAMES[place.service]));
        }
        let removed = place.removed.load(Ordering::SeqCst);
        if removed != 0 && removed < begin {
            self.violation(format!("{}: backend {tag} was removed at {removed}", case()));
        }
    }

    fn client(&self, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while !self.done.load(Ordering::Relaxed) {
            let datagram = random.random_bool(0.3);
            if random.random_bool(0.6) {
                let service = random.random_range(0..NAMES.len());
                let to = STABLE[service].choose(&mut random).expect("there are two");
                let to = to.parse().expect("an address");
                self.dial(to, Owner::Service(service), datagram, || true);
            } else {
                let roaming = self.roaming.choose(&mut random).expect("there are four");
                let before = roaming.state();
                self.dial(roaming.address, before.1, datagram, || roaming.state() == before);
            }
        }
    }

    /// The addresses of a service's frontends.
    fn frontends(
        &self,
        index: usize,
        owners: &[Option<usize>],
    ) -> impl Iterator<Item = SocketAddr> {
        let own = self.roaming.iter().zip(owners).filter(move |(_, owner)| **owner == Some(index));
        let stable = STABLE[index].map(|text| text.parse().expect("an address"));
        stable.into_iter().chain(own.map(|(roaming, _)| roaming.address))
    }

    /// The file that lists what is listed, with roaming frontends given to `owners`.
    fn file(&self, owners: &[Option<usize>]) -> String {
        let specs = [0, 1].map(|index| {
            let spec =
                self.frontends(index, owners).fold(service(NAMES[index]), |spec, frontend| {
                    spec.frontend(frontend).udp(frontend)
                });
            let listed = self.places.iter().filter(|place| place.service == index);
            spec.backends(listed.filter(|place| place.is_listed()).map(|place| place.address))
        });
        services(&specs)
    }

    /// Lists and unlists some backends; each service keeps one of each family.
    fn shuffle(&self, random: &mut StdRng) {
        for _ in 0..random.random_range(1..8) {
            let place = self.places.choose(random).expect("there are some");
            if place.is_listed() {
                let alike = self.places.iter().filter(|other| {
                    other.service == place.service
                        && other.address.is_ipv4() == place.address.is_ipv4()
                });
                if alike.filter(|other| other.is_listed()).count() > 1 {
                    place.listed.store(false, Ordering::SeqCst);
                }
            } else {
                place.removed.store(0, Ordering::SeqCst);
                place.listed.store(true, Ordering::SeqCst);
            }
        }
    }
}

impl Place {
    fn is_listed(&self) -> bool {
        self.listed.load(Ordering::SeqCst)
    }
}

impl Roaming {
    fn state(&self) -> (u64, Owner) {
        *self.state.lock().expect("no client has panicked")
    }

    fn set(&self, owner: Owner) {
        let mut state = self.state.lock().expect("no client has panicked");
        *state = (state.0 + 1, owner);
    }
}

/// Who answers at an address.
fn reach(to: SocketAddr, datagram: bool) -> io::Result<String> {
    if !datagram {
        return Ok(dial(to)?.tag);
    }
    let reply = ask(&udp(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }), to)?;
    assert_eq!(reply.source, to, "source of the reply");
    Ok(reply.tag)
}

/// One round: change the lists and the owners, wait until the agent says it is done, and only then
/// declare what is certain. `last` is the file as applied before and after.
fn round(
    world: &World,
    lab: &Lab,
    agent: &Agent<'_>,
    owners: &mut [Option<usize>],
    last: &mut String,
    random: &mut StdRng,
) {
    let old = owners.to_vec();
    for owner in owners.iter_mut() {
        if random.random_bool(0.5) {
            *owner = *[None, Some(0), Some(1)].choose(random).expect("there are three");
        }
    }
    for (roaming, (old, new)) in world.roaming.iter().zip(old.iter().zip(owners.iter())) {
        match (old, new) {
            (old, new) if old == new => {}
            (Some(_), Some(_)) => roaming.set(Owner::Moving),
            _ => roaming.set(Owner::Unknown),
        }
    }
    // Often two versions in a row, so that one is skipped or overtaken.
    if random.random_bool(0.3) {
        world.shuffle(random);
        lab.write_config(&world.file(&old));
    }
    // The last one differs from what is applied now, so that its arrival can be seen.
    let file = loop {
        world.shuffle(random);
        let file = world.file(owners);
        if file != *last {
            break file;
        }
    };
    lab.write_config(&file);
    let applied = within(DEADLINE, || is_applied(world, agent, owners).then_some(()));
    assert!(applied.is_some(), "not applied: {file}\n{:#?}", agent.services());
    let now = world.now();
    for place in world.places.iter().filter(|place| !place.is_listed()) {
        // A removal that was complete earlier keeps its time.
        let _ = place.removed.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
    }
    for (roaming, owner) in world.roaming.iter().zip(owners) {
        let owner = owner.map_or(Owner::Nobody, Owner::Service);
        if roaming.state().1 != owner {
            roaming.set(owner);
        }
    }
    *last = file;
}

/// Whether the agent says that the kernel has exactly this.
fn is_applied(world: &World, agent: &Agent<'_>, owners: &[Option<usize>]) -> bool {
    let told = agent.services();
    let right = |service: &ServiceStatus| {
        let index = NAMES.iter().position(|name| service.name == *name);
        let index = index.expect("the agent knows our services only");
        let listed = world.places.iter().filter(|place| place.service == index);
        let listed = listed.filter(|place| place.is_listed()).map(|place| place.address);
        let backends = service.backends.iter().map(|backend| backend.address);
        let has = service.frontends.iter().map(|frontend| frontend.frontend.address);
        backends.collect::<BTreeSet<_>>() == listed.collect()
            && has.collect::<BTreeSet<_>>() == world.frontends(index, owners).collect()
            && service.frontends.iter().all(|frontend| frontend.installed)
    };
    told.len() == NAMES.len() && told.iter().all(right) && agent.status().work.last_error.is_none()
}

#[test]
fn publish_under_load() {
    lab::run("publish", |lab| {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        // A backend's tag is its index; TCP and UDP are served at the same address.
        let kinds = (0..NAMES.len()).flat_map(|service| {
            (0..POOL).flat_map(move |_| [(service, "127.0.0.1:0"), (service, "[::1]:0")])
        });
        let kinds: Vec<(usize, &str)> = kinds.collect();
        let wanted = kinds
            .iter()
            .enumerate()
            .map(|(index, (_, at))| (at.parse().expect("an address"), index.to_string()));
        let tcp = Backends::start(Kind::Tcp, wanted);
        let same = tcp.addresses().enumerate().map(|(index, at)| (at, index.to_string()));
        let _udp = Backends::start(Kind::Udp, same.collect::<Vec<_>>());
        let places = tcp.addresses().zip(&kinds).map(|(address, (service, _))| Place {
            address,
            service: *service,
            listed: AtomicBool::new(true),
            removed: AtomicU64::new(0),
        });
        let roaming = ROAMING.map(|address| Roaming {
            address: address.parse().unwrap(),
            state: Mutex::new((0, Owner::Nobody)),
        });
        let world = World {
            start: Instant::now(),
            places: places.collect(),
            roaming: roaming.into(),
            done: AtomicBool::new(false),
            dialled: AtomicU64::new(0),
            violations: Mutex::default(),
        };
        let mut owners = vec![None; ROAMING.len()];
        let mut last = world.file(&owners);
        let agent = Agent::start(lab, &last);
        let mut rounds = 0;
        thread::scope(|scope| {
            let clients = [1, 2].map(|number| {
                let world = &world;
                scope.spawn(move || world.client(seed.wrapping_add(number)))
            });
            // However a round fails, the clients must end.
            let _stop = Stop(&world.done);
            let mut random = StdRng::seed_from_u64(seed);
            let start = Instant::now();
            // Where all takes longer, it goes on until that is enough.
            let goes_on = |rounds: u32| {
                let dialled = world.dialled.load(Ordering::Relaxed);
                let is_enough = dialled >= ENOUGH && rounds >= ENOUGH_ROUNDS;
                start.elapsed() < if is_enough { SPAN } else { SPAN * patience().max(10) }
            };
            while goes_on(rounds) && clients.iter().all(|client| !client.is_finished()) {
                round(&world, lab, &agent, &mut owners, &mut last, &mut random);
                rounds += 1;
            }
        });
        let dialled = world.dialled.load(Ordering::Relaxed);
        let work = agent.status().work;
        println!("{dialled} connects and datagrams in {rounds} rounds; {work:?}");
        let violations = world.violations.lock().unwrap();
        let some: Vec<&String> = violations.iter().take(20).collect();
        assert!(violations.is_empty(), "{} of {dialled}: {some:#?}", violations.len());
        // A test that hardly did anything has not shown anything.
        assert!(
            rounds >= ENOUGH_ROUNDS && dialled >= ENOUGH,
            "{dialled} connects in {rounds} rounds"
        );
    });
}

/// Ends the clients when it goes out of scope.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
