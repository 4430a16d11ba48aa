//! Whose programs are measured, each on a cgroup of its own.

use super::loads::{Call, Load};
use super::services::{Family, all};
use super::tracing::Tracing;
use super::{EMPTY, shapes};
use crate::bench::ours::Ours;
use crate::cgroup::Cgroup;
use crate::empty_program::EmptyProgram;
use crate::lab::Lab;
use anyhow::{Context as _, bail};
use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET_SOCK_RELEASE, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME,
    BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_UDP4_RECVMSG,
    BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_RECVMSG, BPF_CGROUP_UDP6_SENDMSG,
};
use lb_agent::config::TableSizes;
use lb_common::features::{UNCOUNTED, UNTRACKED};
use std::rc::Rc;

/// The hooks that the empty program is on.
const HOOKS: [(&str, bpf_attach_type); 9] = [
    ("connect4", BPF_CGROUP_INET4_CONNECT),
    ("connect6", BPF_CGROUP_INET6_CONNECT),
    ("sendmsg4", BPF_CGROUP_UDP4_SENDMSG),
    ("sendmsg6", BPF_CGROUP_UDP6_SENDMSG),
    ("recvmsg4", BPF_CGROUP_UDP4_RECVMSG),
    ("recvmsg6", BPF_CGROUP_UDP6_RECVMSG),
    ("getpeername4", BPF_CGROUP_INET4_GETPEERNAME),
    ("getpeername6", BPF_CGROUP_INET6_GETPEERNAME),
    ("sock_release", BPF_CGROUP_INET_SOCK_RELEASE),
];
/// Those that the shapes of others are on.
const SHAPED: [(&str, bpf_attach_type); 2] =
    [("connect4", BPF_CGROUP_INET4_CONNECT), ("sendmsg4", BPF_CGROUP_UDP4_SENDMSG)];

/// All subjects.
pub(super) struct Subjects {
    empty: Subject,
    ours: Subject,
    /// Ours, with services of the other family.
    ours6: Subject,
    /// Ours with something left out or added.
    variants: Vec<Subject>,
    shapes: Vec<Subject>,
}

/// Programs that are compared.
pub(super) struct Subject {
    name: &'static str,
    programs: Programs,
    cgroup: Rc<Cgroup>,
    traced: bool,
}

enum Programs {
    /// By the name of the hook.
    ByHand(Vec<(&'static str, EmptyProgram)>),
    Ours(Rc<Ours>),
}

// === impl Subjects ===

impl Subjects {
    /// Loads and attaches all of them.
    pub(super) fn attach(lab: &Lab) -> anyhow::Result<Self> {
        let cgroup = lab.cgroup().child(EMPTY);
        let empty = |(hook, kind)| Ok((hook, EmptyProgram::on(cgroup.path(), kind)?));
        let empties = HOOKS.into_iter().map(empty).collect::<std::io::Result<_>>();
        let empties = empties.context("loading the empty program")?;
        let empty = Subject::new(EMPTY, Programs::ByHand(empties), cgroup);
        let ours = |name, family, affinity, without| {
            let cgroup = lab.cgroup().child(name);
            let (sizes, services) = (TableSizes::default(), all(family, affinity)?);
            let ours = Ours::load(lab, &cgroup, name, sizes, without, &services)?;
            anyhow::Ok(Subject::new(name, Programs::Ours(Rc::new(ours)), cgroup))
        };
        let base = ours("ours", Family::V4, false, 0)?;
        let mut ours6 = ours("ours6", Family::V6, false, 0)?;
        ours6.name = base.name;
        let traced = base.traced("ours, tracing");
        let variants = vec![
            ours("ours, no connection table", Family::V4, false, UNTRACKED)?,
            ours("ours, no counters", Family::V4, false, UNCOUNTED)?,
            ours("ours, neither", Family::V4, false, UNTRACKED | UNCOUNTED)?,
            ours("ours, affinity", Family::V4, true, 0)?,
            traced,
        ];
        let shape = |name, load: Shape| {
            let cgroup = lab.cgroup().child(name);
            let made = |(hook, kind)| Ok((hook, load(cgroup.path(), kind)?));
            let programs = SHAPED.into_iter().map(made).collect::<anyhow::Result<_>>()?;
            anyhow::Ok(Subject::new(name, Programs::ByHand(programs), cgroup))
        };
        let shapes = vec![
            shape("three hashes and an LRU write", shapes::three_hashes)?,
            shape("prefix match, hash and an LRU write", shapes::prefix)?,
        ];
        Ok(Self { empty, ours: base, ours6, variants, shapes })
    }

    /// Those that are compared on connect4, the empty program first.
    pub(super) fn on_connect4(&self) -> Vec<&Subject> {
        let first = [&self.empty, &self.ours].into_iter();
        first.chain(&self.variants).chain(&self.shapes).collect()
    }

    /// Those that are compared with another load, the empty program first.
    pub(super) fn elsewhere(&self, load: &Load) -> Vec<&Subject> {
        match (load.family, load.call) {
            (Family::V4, Call::Send) => {
                [&self.empty, &self.ours].into_iter().chain(&self.shapes).collect()
            }
            (Family::V4, _) => vec![&self.empty, &self.ours],
            (Family::V6, _) => vec![&self.empty, &self.ours6],
        }
    }
}

/// Loads a program of a shape onto a hook.
type Shape = fn(&std::path::Path, bpf_attach_type) -> anyhow::Result<EmptyProgram>;

// === impl Subject ===

impl Subject {
    fn new(name: &'static str, programs: Programs, cgroup: Cgroup) -> Self {
        Self { name, programs, cgroup: Rc::new(cgroup), traced: false }
    }

    /// The same while somebody traces.
    fn traced(&self, name: &'static str) -> Self {
        let programs = match &self.programs {
            Programs::Ours(ours) => Programs::Ours(Rc::clone(ours)),
            Programs::ByHand(_) => Programs::ByHand(Vec::new()),
        };
        Self { name, programs, cgroup: Rc::clone(&self.cgroup), traced: true }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What is for a frontend goes to a backend.
    pub(super) fn translates(&self) -> bool {
        self.name != EMPTY
    }

    /// The id of the program on a hook.
    pub(super) fn program(&self, hook: &str) -> anyhow::Result<u32> {
        match &self.programs {
            Programs::Ours(ours) => ours.program(hook),
            Programs::ByHand(programs) => {
                let found = programs.iter().find(|(name, _)| *name == hook);
                let Some((_, program)) = found else { bail!("{} has no {hook}", self.name) };
                Ok(program.id()?)
            }
        }
    }

    /// Somebody traces, if that is what is measured.
    pub(super) fn trace(&self) -> anyhow::Result<Option<Tracing>> {
        match &self.programs {
            Programs::Ours(ours) if self.traced => Tracing::start(ours.pins()).map(Some),
            _ => Ok(None),
        }
    }
}
