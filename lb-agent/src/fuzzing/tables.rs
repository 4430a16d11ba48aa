//! Pinned tables as they are found at a start.

use crate::desired::{Desired, Entry};
use crate::model::{
    Backend, Exposure, Frontend, HealthPolicy, NoBackend, Policy, Protocol, Service, ServiceName,
};
use crate::plan::block::Block;
use crate::plan::{Action, Limits, Observed, Planner};
use lb_common::rows::{BackendRow, BlockWord, FrontendKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

const LIMITS: Limits = Limits { frontends: 8, services: 8, rows: 32, backends: 16 };
/// Enough for any order of waiting.
const ROUNDS: usize = 12;

type Key = [u8; size_of::<FrontendKey>()];

/// What the kernel would hold.
struct Held {
    frontends: BTreeMap<Key, u32>,
    words: Vec<BlockWord>,
    rows: Vec<BackendRow>,
}

/// The tables' bytes: `FRONTENDS` (keys, each with its index), a bit for each backend that sockets are open to,
/// `BLOCKS` and `BACKENDS`, one after the other; what lacks is 0. An agent adopts them, or says why it does not.
pub fn tables(data: &[u8]) {
    let (mut held, active) = Held::read(data);
    let mut observed = Observed::default();
    for (key, index) in &held.frontends {
        observed.add(bytemuck::cast(*key), *index, held.block(*index));
    }
    observed.active = (0..LIMITS.backends).filter(|id| active >> id & 1 == 1).collect();
    let mut planner = match Planner::adopt(LIMITS, observed) {
        Ok(planner) => planner,
        Err(error) => return assert!(error.to_string().contains("run `lb-agent detach`")),
    };
    let desired = desired();
    for _ in 0..ROUNDS {
        let plan = planner.plan(&desired);
        plan.actions.iter().for_each(|action| held.apply(action));
        if planner.needs_grace() {
            planner.start_grace();
            planner.end_grace();
            let resting: BTreeSet<u32> = planner.resting_backends().into_iter().collect();
            planner.free_backends(&resting);
        } else if plan.actions.is_empty() && plan.deferred.is_empty() {
            let said: BTreeSet<_> =
                plan.rejections.iter().filter_map(|rejection| rejection.service.clone()).collect();
            return held.check(&desired, &said);
        }
    }
    panic!("no end after {ROUNDS} rounds");
}

/// Two services, of both families.
fn desired() -> Desired {
    let mut desired = Desired { complete: true, ..Desired::default() };
    for (name, frontends, backends) in [
        ("dns", ["10.96.0.10:53", "[fd00::10]:53"], ["10.0.0.1:53", "[fd00::1]:53"]),
        ("web", ["10.96.0.11:80", "[fd00::11]:80"], ["10.0.0.1:80", "10.0.0.2:80"]),
    ] {
        let Ok(name) = name.parse::<ServiceName>() else { panic!("{name} is a name") };
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        let frontends = frontends.into_iter().filter_map(address);
        let frontends = frontends.map(|at| Frontend::new(at.ip(), at.port(), Protocol::Tcp));
        let backends = backends.into_iter().filter_map(address);
        let service = Service {
            frontends: frontends.map(|frontend| (frontend, Exposure::default())).collect(),
            backends: backends.map(|backend| (backend, Backend::default())).collect(),
            backends_from: Vec::new(),
            policy: Policy::Random,
            affinity: None,
            no_backend: NoBackend::Refuse,
            no_node_backend: NoBackend::Refuse,
            health: HealthPolicy::default(),
            source_ranges: Vec::new(),
        };
        desired.services.insert(name, Entry::new(Arc::new(service), "fuzz".into()));
    }
    desired
}

// === impl Held ===

impl Held {
    /// The tables, and the bits of backends that are in use.
    fn read(data: &[u8]) -> (Self, u32) {
        let mut bytes = data.iter().copied().chain(std::iter::repeat(0));
        let mut take = |length: usize| bytes.by_ref().take(length).collect::<Vec<u8>>();
        let mut frontends = BTreeMap::new();
        for _ in 0..LIMITS.frontends {
            let key: Key = bytemuck::pod_read_unaligned(&take(size_of::<Key>()));
            let index = bytemuck::pod_read_unaligned(&take(4));
            if key != Key::default() {
                frontends.insert(key, index);
            }
        }
        let active = bytemuck::pod_read_unaligned(&take(4));
        let word = |bytes: Vec<u8>| BlockWord(bytemuck::pod_read_unaligned(&bytes));
        let words = (0..LIMITS.frontends).map(|_| word(take(8))).collect();
        let rows = (0..LIMITS.rows).map(|_| bytemuck::pod_read_unaligned(&take(32))).collect();
        (Self { frontends, words, rows }, active)
    }

    fn block(&self, index: u32) -> Option<(u32, Block)> {
        let word = *self.words.get(index as usize)?;
        Block::read(word, LIMITS.rows, |row| self.rows.get(row as usize).copied())
    }

    /// Takes a step, which must not touch what programs may read.
    fn apply(&mut self, action: &Action) {
        match action {
            Action::ResetBackend { id } => assert!(*id < LIMITS.backends),
            Action::ResetService { id } => assert!(*id < LIMITS.services),
            Action::WriteBlock { base, block } => {
                let end = base + block.length();
                assert!(*base > 0 && end <= LIMITS.rows, "rows {base}..{end}");
                for (live, found) in self.frontends.values().filter_map(|index| self.block(*index))
                {
                    let apart = live + found.length() <= *base || end <= live;
                    assert!(apart, "rows {base}..{end} are live");
                }
                let header = bytemuck::cast(block.header);
                let rows = std::iter::once(&header).chain(&block.rows);
                for (place, row) in self.rows[*base as usize..].iter_mut().zip(rows) {
                    *place = *row;
                }
            }
            Action::Publish { index, word } => self.words[*index as usize] = *word,
            Action::InsertFrontend { key, index } => {
                assert!(self.block(*index).is_some(), "inserted before its block");
                let old = self.frontends.insert(bytemuck::cast(*key), *index);
                assert_eq!(old, None, "overwritten");
            }
            Action::DeleteFrontend { key } => {
                let old = self.frontends.remove::<Key>(&bytemuck::cast(*key));
                assert!(old.is_some(), "deleted twice");
            }
        }
    }

    /// All that is desired is served, but for what is said not to fit.
    fn check(&self, desired: &Desired, said: &BTreeSet<String>) {
        for (name, entry) in &desired.services {
            let there = entry.service.frontends.keys().all(|frontend| self.serves(frontend, entry));
            assert!(there || said.contains(name.as_str()), "{name} is not served");
        }
        if said.is_empty() {
            let wanted = desired.services.values().map(|entry| entry.service.frontends.len());
            assert_eq!(self.frontends.len(), wanted.sum::<usize>(), "some that nobody wants");
        }
    }

    fn serves(&self, frontend: &Frontend, entry: &Entry) -> bool {
        let at = frontend.address;
        let key = FrontendKey::new(at.ip(), at.port(), frontend.protocol.number());
        let index = self.frontends.get::<Key>(&bytemuck::cast(key));
        let Some((_, block)) = index.and_then(|index| self.block(*index)) else { return false };
        let wanted = entry.service.backends_for(frontend).count();
        block.rows.len() == wanted && block.header.resting == 0
    }
}
