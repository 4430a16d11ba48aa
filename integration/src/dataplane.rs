//! The programs and tables without an agent, in the test's own process: nobody else reads what they
//! report, and nothing changes unless the test does it.

use crate::host;
use crate::lab::{self, Lab};
use crate::wait::patience;
use aya::programs::loaded_programs;
use lb_agent::config::TableSizes;
use lb_agent::dataplane::exclude::Excluded;
use lb_agent::dataplane::{
    Dataplane as _, Failure, FailureReader, Kernel, Outcomes, Settings, preflight,
};
use lb_agent::desired::{Desired, Entry};
use lb_agent::model::{Backend, Frontend, NoBackend, Policy, Protocol, Scope, Service};
use lb_agent::plan::{Limits, Planner};
use lb_agent::status::HookStatus;
use lb_common::rows::BackendOutcomes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// TCP services of one frontend each, attached to the lab's cgroup until the lab ends.
pub struct Dataplane {
    kernel: Kernel,
    planner: Planner,
    hooks: Vec<HookStatus>,
    outcomes: Outcomes,
    ids: BTreeMap<SocketAddr, u32>,
}

/// Reads the failures, as an agent does.
pub struct Failures {
    runtime: tokio::runtime::Runtime,
    reader: FailureReader,
}

// === impl Dataplane ===

impl Dataplane {
    /// Serves these frontends with one backend each. A backend may be in one service only.
    pub fn serve(lab: &Lab, services: &[(SocketAddr, SocketAddr)]) -> Self {
        Self::sized(lab, lab.cgroup().path(), lab::table_sizes(), services)
    }

    /// With tables of these sizes, on a cgroup of the test's choice.
    pub fn sized(
        lab: &Lab,
        cgroup: &Path,
        sizes: TableSizes,
        services: &[(SocketAddr, SocketAddr)],
    ) -> Self {
        Self::desired(lab, cgroup, (sizes, u32::MAX), &desired(services))
    }

    /// Serves a service of the test's own making.
    pub fn one(lab: &Lab, service: Service) -> Self {
        Self::lacking(lab, u32::MAX, service)
    }

    /// As [`Dataplane::one`], on a kernel that has no more than these [`lb_common::features`].
    pub fn lacking(lab: &Lab, has: u32, service: Service) -> Self {
        let made_with = (lab::table_sizes(), has);
        Self::desired(lab, lab.cgroup().path(), made_with, &only(service))
    }

    fn desired(
        lab: &Lab,
        cgroup: &Path,
        (sizes, has): (TableSizes, u32),
        desired: &Desired,
    ) -> Self {
        let host = preflight::check(Some(cgroup), lab.pin_dir()).expect("the host is fit");
        let (features, netns, sk_err) = (host.features & has, host.netns, host.sk_err);
        let excluded = Excluded::default();
        let settings = Settings { sizes, features, netns, sk_err, excluded };
        let mut kernel = Kernel::open(lab.pin_dir(), cgroup, &settings).expect("the tables open");
        let refused = host.warnings.iter().map(String::as_str).chain(kernel.warning());
        assert_eq!(refused.collect::<Vec<_>>(), host::warnings(), "this kernel refuses something");
        let TableSizes { frontends, services: names, rows, backends, .. } = sizes;
        let limits = Limits { frontends, services: names, rows, backends };
        let observed = kernel.observe().expect("the tables can be read");
        let mut planner = Planner::adopt(limits, observed).expect("the tables are sound");
        let plan = planner.plan(desired);
        assert!(plan.rejections.is_empty(), "{:?}", plan.rejections);
        kernel.apply(&plan.actions).expect("the tables can be written");
        let hooks = kernel.attach().expect("the programs can be attached");
        let outcomes = Outcomes::open(lab.pin_dir()).expect("the outcomes can be read");
        let names = desired.services.keys();
        let ids = names.filter_map(|name| planner.backend_ids(name).cloned()).flatten().collect();
        Self { kernel, planner, hooks, outcomes, ids }
    }

    /// What [`Dataplane::one`] serves is this from now on. Returns the backends that have left it.
    pub fn change(&mut self, service: Service) -> Vec<SocketAddr> {
        let plan = self.planner.plan(&only(service));
        assert!(plan.rejections.is_empty() && plan.deferred.is_empty(), "{plan:?}");
        self.kernel.apply(&plan.actions).expect("the tables can be written");
        self.planner.start_grace();
        (self.kernel.grace())().expect("programs end");
        self.planner.end_grace();
        plan.left.into_iter().map(|left| left.address).collect()
    }

    /// The tables, to be changed.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// A backend's id.
    #[track_caller]
    pub fn id(&self, backend: SocketAddr) -> u32 {
        *self.ids.get(&backend).unwrap_or_else(|| panic!("{backend} is no backend"))
    }

    /// What became of connects to a backend.
    #[track_caller]
    pub fn outcomes(&self, backend: SocketAddr) -> BackendOutcomes {
        self.outcomes.outcomes(&[self.id(backend)])[0]
    }

    /// How long the program of a hook has run so far, and how often; counted while somebody has
    /// enabled the kernel's statistics.
    pub fn runs(&self, hook: &str) -> (Duration, u64) {
        let hook = self.hooks.iter().find(|known| known.hook == hook).expect("a hook");
        let mut programs = loaded_programs().filter_map(Result::ok);
        let program = programs.find(|info| info.id() == hook.program_id);
        let program = program.expect("the program is loaded");
        (program.run_time(), program.run_count())
    }
}

fn name(number: usize) -> String {
    format!("service{number}")
}

fn only(service: Service) -> Desired {
    let entry = Entry::new(Arc::new(service), "test".into());
    let services = [("service".parse().expect("a name"), entry)].into();
    Desired { complete: true, services, ..Desired::default() }
}

/// A service with these backends, chosen at random.
pub fn service(
    frontends: impl IntoIterator<Item = Frontend>,
    backends: impl IntoIterator<Item = (SocketAddr, Backend)>,
) -> Service {
    Service {
        frontends: frontends.into_iter().map(|at| (at, Scope::Everywhere.into())).collect(),
        backends: backends.into_iter().collect(),
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        no_node_backend: Default::default(),
        backends_from: Vec::new(),
        source_ranges: Vec::new(),
        health: Default::default(),
    }
}

fn desired(services: &[(SocketAddr, SocketAddr)]) -> Desired {
    let mut desired = Desired { complete: true, ..Desired::default() };
    for (number, (frontend, backend)) in services.iter().enumerate() {
        let frontend = Frontend::new(frontend.ip(), frontend.port(), Protocol::Tcp);
        let service = service([frontend], [(*backend, Backend::default())]);
        let entry = Entry::new(Arc::new(service), "test".into());
        desired.services.insert(name(number).parse().expect("a name"), entry);
    }
    desired
}

// === impl Failures ===

impl Failures {
    /// From now on.
    pub fn listen(lab: &Lab) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let reader = {
            let _runtime = runtime.enter();
            FailureReader::open(lab.pin_dir()).expect("the ring can be opened")
        };
        Self { runtime, reader }
    }

    /// The next failures, if there are any before the deadline.
    pub fn next(&mut self, deadline: Duration) -> Option<Vec<Failure>> {
        let deadline = deadline * patience();
        let next = async { tokio::time::timeout(deadline, self.reader.next()).await.ok() };
        self.runtime.block_on(next).map(|failures| failures.expect("the ring can be read"))
    }

    /// That there are none now.
    #[track_caller]
    pub fn expect_none(&mut self) {
        let span = Duration::from_millis(20);
        assert_eq!(self.next(span), None);
    }
}
