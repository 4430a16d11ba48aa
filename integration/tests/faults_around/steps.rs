//! Tables that an agent has left in the middle of a plan, after each of its actions.

use integration::client::dial;
use integration::dataplane::service;
use integration::lab::{self, Lab};
use integration::server::Backends;
use integration::wait::patience;
use lb_agent::config::TableSizes;
use lb_agent::dataplane::exclude::Excluded;
use lb_agent::dataplane::{Dataplane as _, Kernel, Settings, preflight};
use lb_agent::desired::{Desired, Entry};
use lb_agent::model::{Backend, Frontend, Protocol};
use lb_agent::plan::{Limits, Planner};
use std::net::SocketAddr;
use std::sync::Arc;

/// One service of eight frontends and nineteen backends fills them.
const LIMITS: Limits = Limits { frontends: 8, services: 8, rows: 21, backends: 20 };

/// Planner and tables without a process around them: what ends where it is dropped.
struct Loop {
    kernel: Kernel,
    planner: Planner,
}

impl Loop {
    /// Takes over what the one before has left.
    fn adopt(lab: &Lab) -> Self {
        let Limits { frontends, services, rows, backends } = LIMITS;
        let sizes = TableSizes { frontends, services, rows, backends, ..lab::table_sizes() };
        let cgroup = lab.cgroup().path();
        let host = preflight::check(Some(cgroup), lab.pin_dir()).expect("the host is fit");
        let (features, netns, sk_err) = (host.features, host.netns, host.sk_err);
        let excluded = Excluded::default();
        let settings = Settings { sizes, features, netns, sk_err, excluded };
        let mut kernel = Kernel::open(lab.pin_dir(), cgroup, &settings).expect("the tables open");
        kernel.grace()().expect("programs end");
        let observed = kernel.observe().expect("the tables can be read");
        let planner = Planner::adopt(LIMITS, observed).expect("the tables are sound");
        Self { kernel, planner }
    }

    /// Until nothing is left to do.
    fn settle(&mut self, desired: &Desired) {
        for _ in 0..5 {
            let plan = self.planner.plan(desired);
            assert_eq!(plan.rejections, []);
            if plan.actions.is_empty() && plan.deferred.is_empty() {
                return;
            }
            self.kernel.apply(&plan.actions).expect("the tables can be written");
            self.planner.start_grace();
            self.kernel.grace()().expect("programs end");
            self.planner.end_grace();
            let idle = self.kernel.idle(&self.planner.resting_backends());
            self.planner.free_backends(&idle.expect("affinity can be read"));
        }
        panic!("it does not come to an end");
    }
}

fn desired<const N: usize>(services: [(&str, &[&str], &[SocketAddr]); N]) -> Desired {
    let entry = |(name, frontends, backends): (&str, &[&str], &[SocketAddr])| {
        let frontend = |text: &&str| {
            let at: SocketAddr = text.parse().expect("an address");
            Frontend::new(at.ip(), at.port(), Protocol::Tcp)
        };
        let backends = backends.iter().map(|at| (*at, Backend::default()));
        let service = service(frontends.iter().map(frontend), backends);
        (name.parse().expect("a name"), Entry::new(Arc::new(service), "test".into()))
    };
    let services = services.into_iter().map(entry).collect();
    Desired { complete: true, services, ..Desired::default() }
}

/// After any number of a plan's actions the tables may be left alone: everybody reaches what was right before
/// the plan or after it, and whoever adopts them completes it.
#[test]
fn a_plan_may_end_after_any_action() {
    lab::run("faults-steps", |lab| {
        let servers = Backends::tcp("127.0.0.1", ["0", "1", "2", "3"]);
        let at: Vec<SocketAddr> = servers.addresses().collect();
        let [stays, moves, goes, comes] =
            ["10.96.0.10:80", "10.96.0.20:80", "10.96.0.30:80", "10.96.0.40:80"];
        let before = desired([
            ("web", &[stays], &at[..2]),
            ("moves", &[moves], &at[2..3]),
            ("goes", &[goes], &at[2..3]),
        ]);
        let after =
            desired([("web", &[stays, moves], &[at[1], at[3]]), ("comes", &[comes], &at[..1])]);
        // Who may answer before and after; none where it is no frontend.
        let right: [(&str, [&[&str]; 2]); 4] = [
            (stays, [&["0", "1"], &["1", "3"]]),
            (moves, [&["2"], &["1", "3"]]),
            (goes, [&["2"], &[]]),
            (comes, [&[], &["0"]]),
        ];
        let check = |states: &[usize], done: usize| {
            for (vip, tags) in right {
                let tags: Vec<&[&str]> = states.iter().map(|state| tags[*state]).collect();
                for _ in 0..8 {
                    let call = dial(vip.parse().expect("an address"));
                    let fits = match &call {
                        Ok(call) => tags.iter().any(|tags| tags.contains(&call.tag.as_str())),
                        Err(_) => tags.contains(&[].as_slice()),
                    };
                    assert!(fits, "{vip} after {done} actions: {call:?} is none of {tags:?}");
                }
            }
        };
        let mut agent = Loop::adopt(lab);
        agent.settle(&before);
        agent.kernel.attach().expect("the programs can be attached");
        let mut done = 0;
        loop {
            check(&[0], 0);
            let actions = agent.planner.plan(&after).actions;
            done = done.min(actions.len());
            agent.kernel.apply(&actions[..done]).expect("the tables can be written");
            drop(agent);
            check(&[0, 1], done);
            agent = Loop::adopt(lab);
            agent.settle(&after);
            check(&[1], done);
            if done == actions.len() {
                break;
            }
            agent.settle(&before);
            // Each takes seconds on an emulated machine.
            let step = if patience() > 1 { 3 } else { 1 };
            done += step;
        }
        // Two blocks are written and published, a frontend comes and one goes.
        assert!(done >= 6, "{done} actions");
        // Nothing has leaked: there is room to the last frontend and row.
        agent.settle(&desired([]));
        let frontends: Vec<String> = (0..8).map(|host| format!("10.97.0.{host}:80")).collect();
        let frontends: Vec<&str> = frontends.iter().map(String::as_str).collect();
        let many: Vec<SocketAddr> =
            (0..19).map(|host| SocketAddr::from(([10, 1, 0, host], 80))).collect();
        agent.settle(&desired([("full", &frontends, &many)]));
        assert_eq!(agent.kernel.observe().expect("the tables can be read").frontends.len(), 8);
    });
}
