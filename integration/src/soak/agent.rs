//! The agent's loop over the real tables, on a thread of its own, with a source that says what the
//! soak wants; and a dataplane that does wrong when it is told to.

use super::Fault;
use super::world::{line_of, stranger_to};
use crate::lab::Lab;
use crate::wait::let_pass;
use lb_agent::config::TableSizes;
use lb_agent::dataplane::exclude::Excluded;
use lb_agent::dataplane::{
    Attached, Checked, Dataplane, DataplaneError, Destroy, Doomed, Grace, Kernel, Settings, Sweep,
    preflight,
};
use lb_agent::model::Snapshot;
use lb_agent::monitor::Monitor;
use lb_agent::plan::block::Block;
use lb_agent::plan::{Action, Limits, Observed};
use lb_agent::reconcile::{Files, Reconciler};
use lb_agent::report::Identity;
use lb_agent::source::SourceState;
use lb_agent::status;
use lb_common::rows::FrontendKey;
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);
/// How long after its publication a block is written that is late.
const LATE: Duration = Duration::from_millis(2);

/// The running loop; stopped on drop, its programs stay until the lab's pins are removed.
pub(super) struct Loop {
    runtime: Arc<Runtime>,
    source: watch::Sender<SourceState>,
    published: watch::Receiver<Arc<status::Published>>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// What the loop has said last.
pub(super) struct Published(Arc<status::Published>);

/// The tables, wrongly written now and then.
struct Faulty {
    kernel: Kernel,
    fault: Option<Fault>,
    /// Opportunities so far.
    seen: u32,
    /// Frontends that were not inserted, and so can't be deleted.
    lost: HashSet<FrontendKey>,
}

// === impl Loop ===

impl Loop {
    /// Begins with this state, and waits until it is served.
    pub(super) fn start(lab: &Lab, fault: Option<Fault>, snapshot: Arc<Snapshot>) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        let runtime = Arc::new(runtime.expect("a runtime can be made"));
        let (source, feed) = watch::channel(SourceState::new("soak".into(), None));
        let files = Files::in_directory(lab.scratch());
        let (pins, cgroup) = (lab.pin_dir().to_owned(), lab.cgroup().path().to_owned());
        let stop = Arc::new(Notify::new());
        let (sender, receiver) = mpsc::channel();
        let (own, stopped) = (Arc::clone(&runtime), Arc::clone(&stop));
        let body = move || {
            let _runtime = own.enter();
            let host = preflight::check(Some(&cgroup), &pins).expect("the host is fit");
            let sizes = TableSizes::default();
            let settings = Settings {
                sizes,
                features: host.features,
                netns: host.netns,
                sk_err: host.sk_err,
                excluded: Excluded::default(),
            };
            let kernel = Kernel::open(&pins, &cgroup, &settings).expect("the tables open");
            let dataplane = Faulty { kernel, fault, seen: 0, lost: HashSet::new() };
            let TableSizes { frontends, services, rows, backends, .. } = sizes;
            let limits = Limits { frontends, services, rows, backends };
            let identity = Identity { cgroup, pin_dir: pins, warnings: Vec::new() };
            let monitor = Monitor::deaf();
            let mut reconciler =
                Reconciler::new(dataplane, limits, vec![feed], identity, files, monitor)
                    .expect("empty tables are adopted");
            sender.send(reconciler.published()).expect("somebody waits for it");
            let run = reconciler.run(async move { stopped.notified().await });
            own.block_on(run).expect("the programs can be attached");
        };
        let thread = thread::Builder::new().name("loop".to_owned()).spawn(body);
        let thread = Some(thread.expect("a thread can be started"));
        let published = receiver.recv().expect("the loop begins");
        let mut this = Self { runtime, source, published, stop, thread };
        this.say(snapshot);
        this.wait(|published| published.agent.ready);
        this
    }

    /// Has the source say this.
    pub(super) fn say(&self, snapshot: Arc<Snapshot>) {
        self.source.send_modify(|state| {
            state.snapshot = Some(snapshot);
            state.synced = true;
            state.revision += 1;
        });
    }

    /// Waits until the loop has applied what was said last.
    pub(super) fn published(&mut self) -> Published {
        let revision = self.source.borrow().revision;
        self.wait(|published| {
            let source = published.agent.sources.first();
            source.is_some_and(|source| source.revision == revision)
        })
    }

    /// Waits until the kernel has both protocols of all these frontends: some wait for a grace period.
    pub(super) fn caught_up(&mut self, lines: &[usize]) -> Published {
        self.wait(|published| lines.iter().all(|line| is_installed(published, *line)))
    }

    fn wait(&mut self, fits: impl Fn(&status::Published) -> bool) -> Published {
        let Self { runtime, published, .. } = self;
        let wait = published.wait_for(|published| {
            let status::AgentStatus { work, rejections, .. } = &published.agent;
            assert!(work.last_error.is_none(), "{work:?}");
            assert!(rejections.is_empty(), "{rejections:?}");
            fits(published)
        });
        let found = runtime.block_on(async { timeout(DEADLINE, wait).await });
        let found = found.expect("the loop comes to it in time").expect("the loop runs");
        Published(Arc::clone(&found))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.stop.notify_one();
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) && !thread::panicking() {
            panic!("the loop panicked");
        }
    }
}

// === impl Published ===

impl Published {
    /// Whether the kernel has a frontend, with both protocols.
    pub(super) fn is_installed(&self, line: usize) -> bool {
        is_installed(&self.0, line)
    }

    pub(super) fn publishes(&self) -> u64 {
        self.0.agent.work.publishes
    }

    pub(super) fn grace_periods(&self) -> u64 {
        self.0.agent.work.grace_periods
    }
}

fn is_installed(published: &status::Published, line: usize) -> bool {
    let services = published.state.services.iter();
    let all = services.flat_map(|service| &service.frontends);
    let own = all.filter(|known| line_of(&known.frontend.address) == line);
    own.filter(|known| known.installed).count() == 2
}

// === impl Faulty ===

impl Faulty {
    /// One of so many opportunities for the fault is taken.
    const EVERY: u32 = 20;

    fn is_turn(&mut self, fault: Fault) -> bool {
        self.seen += u32::from(self.fault == Some(fault));
        self.fault == Some(fault) && self.seen.is_multiple_of(Self::EVERY)
    }

    /// Takes the steps in order, but for blocks that are written late.
    fn apply_late(&mut self, actions: &[Action]) -> Result<(), DataplaneError> {
        let (late, in_time): (Vec<Action>, Vec<Action>) =
            actions.iter().cloned().partition(|action| {
                matches!(action, Action::WriteBlock { .. }) && self.is_turn(Fault::PublishFirst)
            });
        self.kernel.apply(&in_time)?;
        if late.is_empty() {
            return Ok(());
        }
        let_pass(LATE);
        self.kernel.apply(&late)
    }

    /// What is done in place of an action.
    fn distorted(&mut self, action: &Action) -> Option<Action> {
        match action {
            Action::WriteBlock { base, block }
                if block.usable() > 0 && self.is_turn(Fault::WrongRow) =>
            {
                Some(Action::WriteBlock { base: *base, block: Arc::new(misled(block)) })
            }
            Action::Publish { .. } if self.is_turn(Fault::StaleBlock) => None,
            Action::InsertFrontend { key, .. } if self.is_turn(Fault::LostFrontend) => {
                self.lost.insert(*key);
                None
            }
            Action::DeleteFrontend { key } if self.lost.remove(key) => None,
            action => Some(action.clone()),
        }
    }
}

/// The block with another service's backend in its first row.
fn misled(block: &Block) -> Block {
    let mut block = block.clone();
    if let Some(row) = block.rows.first_mut()
        && let Some(stranger) = stranger_to(row.address.into())
    {
        row.address = stranger.ip().into();
    }
    block
}

impl Dataplane for Faulty {
    fn observe(&mut self) -> Result<Observed, DataplaneError> {
        self.kernel.observe()
    }

    fn apply(&mut self, actions: &[Action]) -> Result<(), DataplaneError> {
        if self.fault.is_none() {
            return self.kernel.apply(actions);
        }
        let actions: Vec<Action> =
            actions.iter().filter_map(|action| self.distorted(action)).collect();
        self.apply_late(&actions)
    }

    fn idle(&mut self, ids: &[u32]) -> Result<BTreeSet<u32>, DataplaneError> {
        self.kernel.idle(ids)
    }

    fn others_serve(&self) -> bool {
        self.kernel.others_serve()
    }

    fn attach(&mut self) -> Result<Attached, DataplaneError> {
        self.kernel.attach()
    }

    fn sweep(&self, suspects: Option<BTreeSet<u64>>) -> Option<Sweep> {
        self.kernel.sweep(suspects)
    }

    fn self_test(&mut self) -> Checked {
        self.kernel.self_test()
    }

    fn grace(&self) -> Grace {
        self.kernel.grace()
    }

    fn destroy(&self, doomed: Vec<Doomed>) -> Option<Destroy> {
        self.kernel.destroy(doomed)
    }
}
