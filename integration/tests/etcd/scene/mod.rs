//! What every fault is played against: services in a store, an agent that follows it, clients that
//! never rest, and rounds of changes that must be in the kernel soon after.

mod servers;

pub(crate) use self::servers::{MOVED, NEW, OLD, vip};

use self::servers::Servers;
use integration::agent::Agent;
use integration::client::dial;
use integration::etcd::far::Far;
use integration::etcd::{Etcd, Setup};
use integration::lab::Lab;
use integration::traffic::{Traffic, Way};
use integration::wait::{eventually, let_pass, wait_for, within};
use lb_agent::status::{Held, SourceStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The source's `removal_grace`.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// How long the agent may take for a change once the store is back.
pub(crate) const BOUND: Duration = Duration::from_secs(10);
/// How long the start of an agent may take, which is not optimised.
pub(crate) const START: Duration = Duration::from_secs(20);

const WEB4: &str = "10.96.0.10:80";
const WEB6: &str = "[fd00:96::10]:80";
const DNS4: &str = "10.96.0.20:53";
const DNS6: &str = "[fd00:96::20]:53";

/// A store with services, an agent and clients. The store itself belongs to the test, which does to
/// it what it likes.
pub(crate) struct Scene<'a> {
    agent: Option<Agent<'a>>,
    pub(crate) traffic: Traffic,
    lab: &'a Lab,
    servers: Servers,
    /// All that the store should hold.
    content: BTreeMap<String, String>,
}

/// The changes of a round; their removals have not been seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    number: usize,
    /// When it was written.
    pub(crate) written: Instant,
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// What the service at `vip` says: who answers, or the error.
pub(crate) fn who(vip: &str) -> Result<String, io::ErrorKind> {
    dial(addr(vip)).map(|call| call.tag).map_err(|error| error.kind())
}

/// A source's settings with what the test adds to it, as lines at the depth of `endpoints:`.
pub(crate) fn source(endpoints: &[String], more: &str) -> String {
    let more: String = more.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "sources:\n  - etcd:\n      endpoints: [{}]\n      removal_grace: {}s\n{more}    \
         vip_ranges: [10.96.0.0/12, \"fd00:96::/64\"]\n",
        endpoints.join(", "),
        GRACE.as_secs(),
    )
}

pub(crate) fn service_key(name: &str) -> String {
    format!("/lb/services/{name}")
}

pub(crate) fn backend_key(service: &str, id: &str) -> String {
    format!("/lb/backends/{service}/{id}")
}

pub(crate) fn frontends(frontends: &[&str]) -> String {
    serde_json::json!({ "frontends": frontends }).to_string()
}

pub(crate) fn backend(address: SocketAddr) -> String {
    serde_json::json!({ "address": address }).to_string()
}

/// Says how long something took, for who reads the tests' output.
#[expect(clippy::print_stdout, reason = "what a test measures without judging it")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// A store of one member, and the settings of its source.
pub(crate) fn one(lab: &Lab) -> (Etcd, String) {
    let etcd = Etcd::start(lab.scratch());
    let settings = source(&[etcd.endpoint()], "");
    (etcd, settings)
}

/// A store behind a wire that can be cut, and the settings of its source.
pub(crate) fn behind_a_wire(lab: &Lab) -> (Arc<Far>, Etcd, String) {
    let far = Far::create();
    let etcd = Setup::default().far(&far).start(lab.scratch());
    let settings = source(&[etcd.endpoint()], "");
    (far, etcd, settings)
}

// === impl Scene ===

impl<'a> Scene<'a> {
    /// Fills the store, starts an agent on `settings`, waits until it serves and begins to dial.
    #[track_caller]
    pub(crate) fn begin(lab: &'a Lab, store: &Etcd, settings: &str) -> Self {
        let servers = Servers::start();
        let content = servers.content();
        store.put_many(content.clone());
        lab.set_settings(settings);
        let agent = Some(Agent::start(lab, "services: []\n"));
        let mut scene = Self { agent, traffic: Traffic::default(), lab, servers, content };
        for (to, ways) in [
            (WEB4, [Way::Tcp, Way::Tcp]),
            (WEB6, [Way::Tcp, Way::Tcp]),
            (DNS4, [Way::Connected, Way::Kept]),
            (DNS6, [Way::Unconnected, Way::Kept]),
        ] {
            let to = addr(to);
            for tag in scene.servers.steady(to) {
                scene.traffic.joins(to, tag);
            }
            ways.into_iter().for_each(|way| scene.traffic.dial(way, to));
        }
        scene.traffic.goes_on(5);
        scene
    }

    /// Writes a round of changes.
    #[track_caller]
    pub(crate) fn change(&mut self, store: &Etcd, number: usize) -> Round {
        let round = self.intend(number);
        let (put, deleted) = self.servers.round(number);
        store.put_many(put);
        store.delete_many(deleted);
        Round { written: Instant::now(), ..round }
    }

    /// Makes a round of changes to what the store should hold, without telling the store.
    pub(crate) fn intend(&mut self, number: usize) -> Round {
        for to in [WEB4, WEB6] {
            self.traffic.joins(addr(to), format!("added-{number}"));
        }
        let (put, deleted) = self.servers.round(number);
        self.content.extend(put);
        self.content.retain(|key, _| !deleted.contains(key));
        Round { number, written: Instant::now() }
    }

    /// Writes all that the store should hold.
    #[track_caller]
    pub(crate) fn refill(&self, store: &Etcd) {
        store.put_many(self.content.clone());
    }

    /// Waits until a round is in the kernel: additions and changes at most [`BOUND`] after the
    /// store's return, removals at most [`GRACE`] later.
    #[track_caller]
    pub(crate) fn arrives(&self, round: Round, returned: Instant) {
        self.comes(round, returned);
        self.goes(round, returned + GRACE + BOUND);
    }

    /// Waits until the additions and changes of a round are in the kernel.
    #[track_caller]
    pub(crate) fn comes(&self, round: Round, returned: Instant) {
        let Round { number, .. } = round;
        let (new, moved) = (vip(number, NEW), vip(number, MOVED));
        let what = format!("the additions and changes of round {number}");
        let left = (returned + BOUND).saturating_duration_since(Instant::now());
        let mut missing = Vec::new();
        let arrived = within(left, || {
            missing.clear();
            let mut see = |what: &str, seen: bool| {
                if !seen {
                    missing.push(what.to_owned());
                }
            };
            see("a new service", who(&new).as_deref() == Ok("new"));
            let answers: BTreeSet<_> = (0..8).map(|_| who(&moved)).collect();
            see("a moved backend", answers == BTreeSet::from([Ok("moved-to".to_owned())]));
            for web in [WEB4, WEB6] {
                let added = Ok(format!("added-{number}"));
                see("a new backend", (0..16).any(|_| who(web) == added));
            }
            missing.is_empty().then_some(())
        });
        say(&format!("{what}: {:.2?} after the return", returned.elapsed()));
        assert!(
            arrived.is_some(),
            "{what} are not there {BOUND:?} after the store's return: {missing:?}; {:#?}",
            self.source()
        );
        self.traffic.expect_no_complaint();
    }

    /// Waits until the removals of a round are in the kernel; the clients see to it that what is
    /// gone stays away.
    #[track_caller]
    pub(crate) fn goes(&self, round: Round, bound: Instant) {
        let Round { number, written } = round;
        let gone = format!("gone-{number}");
        let old = vip(number, OLD);
        let left = bound.saturating_duration_since(Instant::now());
        wait_for(&format!("the removals of round {number}"), left, || {
            let gone_from = |web| (0..32).all(|_| who(web).is_ok_and(|tag| tag != gone));
            let all = who(&old).is_err() && gone_from(WEB4) && gone_from(WEB6);
            all.then_some(())
        });
        // From here on, who is answered by them has a complaint.
        for to in [WEB4, WEB6] {
            self.traffic.leaves(addr(to), &gone, Instant::now());
        }
        say(&format!("the removals of round {number}: {:.2?} after them", written.elapsed()));
        let left = self.servers.gone(number);
        // It may be a moment behind the kernel.
        eventually("the API to say so", BOUND, || {
            let services = self.agent().services();
            let mut backends = services.iter().flat_map(|service| &service.backends);
            backends.all(|backend| !left.contains(&backend.address))
                && services.iter().all(|service| service.name != format!("old-{number}"))
        });
    }

    /// Looks for a time that what is removed in a round still serves, and says how it was seen.
    #[track_caller]
    pub(crate) fn still_serves(&self, round: Round, until: Instant) {
        let (old, gone) = (vip(round.number, OLD), format!("gone-{}", round.number));
        while Instant::now() < until {
            // What is seen after the time is up counts neither way.
            let (served, kept) = (who(&old), (0..256).any(|_| who(WEB4) == Ok(gone.clone())));
            if Instant::now() < until {
                assert_eq!(served.as_deref(), Ok("old"), "{:#?}", self.source());
                assert!(kept, "{gone} is gone before its time: {:#?}", self.source());
            }
            let_pass(Duration::from_millis(50));
        }
    }

    /// Waits until the removals of a round are shown as held, by the API and by `lbctl`.
    #[track_caller]
    pub(crate) fn holds(&self, round: Round) -> Vec<Held> {
        let number = round.number;
        let (_, deleted) = self.servers.round(number);
        let held = wait_for("the removals to be held", BOUND, || {
            let held = self.source().held;
            let items: BTreeSet<&str> = held.iter().map(|held| held.item.as_str()).collect();
            deleted.iter().all(|key| items.contains(key.as_str())).then_some(held)
        });
        let shown = self.lab.lbctl(&["status", "-o", "wide"]);
        let all = deleted.iter().all(|key| shown.stdout.contains(key.as_str()));
        assert!(all, "`lbctl status` does not show {deleted:?} as held: {}", shown.stdout);
        held
    }

    /// Kills the agent and starts another on what it has left.
    #[track_caller]
    pub(crate) fn restart_agent(&mut self) {
        // The next one is refused while the first holds the tables.
        drop(self.agent.take());
        self.agent = Some(Agent::spawn(self.lab, &[]));
        eventually("the next agent", START, || self.agent().try_status().is_some());
    }

    /// Waits until the agent says that it can't follow the store, and returns what it says.
    #[track_caller]
    pub(crate) fn notices(&self, deadline: Duration) -> String {
        wait_for("the agent to notice", deadline, || self.source().error)
    }

    /// Waits until the agent says that it follows the store again.
    #[track_caller]
    pub(crate) fn follows(&self, deadline: Duration) {
        wait_for("the agent to follow again", deadline, || {
            self.source().error.is_none().then_some(())
        });
    }

    /// The TCP frontends that are dialled all the time.
    pub(crate) fn webs(&self) -> [SocketAddr; 2] {
        [WEB4, WEB6].map(addr)
    }

    /// The agent.
    pub(crate) fn agent(&self) -> &Agent<'a> {
        self.agent.as_ref().expect("an agent runs")
    }

    /// What the agent says about the source.
    #[track_caller]
    pub(crate) fn source(&self) -> SourceStatus {
        let sources = self.agent().status().sources;
        let found = sources.into_iter().find(|source| source.name.starts_with("etcd:"));
        found.expect("the agent has an etcd source")
    }

    /// Ends the scene: all is well, and every client has been answered to the last.
    #[track_caller]
    pub(crate) fn end(self) {
        self.traffic.goes_on(20);
        self.follows(BOUND);
        assert_eq!(self.agent().status().rejections, []);
        self.traffic.expect_no_complaint();
        say(&self.traffic.to_string());
    }
}
