//! Our programs without an agent, each set with tables of its own, so that several can be compared
//! in one lab.

use crate::cgroup::Cgroup;
use crate::lab::Lab;
use anyhow::{Context as _, ensure};
use lb_agent::config::TableSizes;
use lb_agent::dataplane::exclude::Excluded;
use lb_agent::dataplane::{Dataplane as _, Kernel, Settings, preflight};
use lb_agent::desired::Desired;
use lb_agent::plan::{Limits, Planner};
use lb_agent::status::HookStatus;
use std::path::{Path, PathBuf};

/// Our programs on a cgroup, as long as the lab lives.
pub struct Ours {
    _kernel: Kernel,
    hooks: Vec<HookStatus>,
    pins: PathBuf,
}

// === impl Ours ===

impl Ours {
    /// Publishes services below a pin directory of this name, and attaches the programs. `without`
    /// are bits of [`lb_common::features`] that leave something out.
    ///
    /// # Errors
    ///
    /// If the host is not fit, as [`preflight::check`] says, the kernel refuses tables or programs, or a service
    /// does not fit into tables of these sizes. Tables that were made by then stay, for the lab to remove.
    pub fn load(
        lab: &Lab,
        cgroup: &Cgroup,
        name: &str,
        sizes: TableSizes,
        without: u32,
        desired: &Desired,
    ) -> anyhow::Result<Self> {
        let pins = lab.pin_dir().join(name);
        let host = preflight::check(Some(cgroup.path()), &pins)?;
        let features = host.features | without;
        let (netns, sk_err, excluded) = (host.netns, host.sk_err, Excluded::default());
        let settings = Settings { sizes, features, netns, sk_err, excluded };
        let mut kernel = Kernel::open(&pins, cgroup.path(), &settings)?;
        let TableSizes { frontends, services, rows, backends, .. } = sizes;
        let limits = Limits { frontends, services, rows, backends };
        let mut planner = Planner::adopt(limits, kernel.observe()?)?;
        let plan = planner.plan(desired);
        ensure!(plan.rejections.is_empty(), "{:?}", plan.rejections);
        kernel.apply(&plan.actions)?;
        let hooks = kernel.attach()?;
        Ok(Self { _kernel: kernel, hooks, pins })
    }

    /// The id of the program on a hook.
    ///
    /// # Errors
    ///
    /// If nothing is attached to it.
    pub fn program(&self, hook: &str) -> anyhow::Result<u32> {
        let found = self.hooks.iter().find(|status| status.hook == hook);
        Ok(found.with_context(|| format!("{hook} is not attached"))?.program_id)
    }

    /// Where its tables are.
    pub fn pins(&self) -> &Path {
        &self.pins
    }
}
