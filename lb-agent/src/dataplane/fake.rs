//! A dataplane in memory, for tests of everything above it. It can be told to fail at the n-th
//! action, when it is observed, and when a grace period is waited for, and it is stricter than the kernel: whatever would let a reader see a half-made change is
//! an error here.

use super::{
    Attached, Checked, Dataplane, DataplaneError, Destroy, Destroyed, Doomed, Grace, Sweep,
};
use crate::plan::block::Block;
use crate::plan::{Action, Observed};
use lb_common::rows::{BlockWord, FrontendKey};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    frontends: HashMap<FrontendKey, u32>,
    words: HashMap<u32, BlockWord>,
    blocks: BTreeMap<u32, Arc<Block>>,
    /// Rows (first, length) that a reader may still hold.
    held_rows: Vec<(u32, u32)>,
    /// Deleted elements that a reader may still hold.
    held_elements: usize,
    active: BTreeSet<u32>,
    fail_after: Option<usize>,
    fail_observe: usize,
    fail_grace: usize,
    applied: usize,
    /// How many frontends there were when the programs were attached, each time.
    attached: Vec<usize>,
    /// Every action that was applied.
    log: Vec<Action>,
    /// Whose sockets were to be ended, each time.
    destroyed: Vec<Vec<Doomed>>,
    /// What a self-test finds.
    checked: Checked,
    /// Ids and counts are another layout's, until the programs are attached.
    inherited: bool,
}

impl Fake {
    /// The `steps`-th action from now on fails, once.
    pub fn fail_after(&self, steps: usize) {
        self.with(|state| state.fail_after = Some(state.applied + steps));
    }

    /// Whether that step is still to come.
    pub fn is_to_fail(&self) -> bool {
        self.with(|state| state.fail_after.is_some())
    }

    /// The next so many observations fail.
    pub fn fail_observe(&self, times: usize) {
        self.with(|state| state.fail_observe = times);
    }

    /// The next so many waits for a grace period fail.
    pub fn fail_grace(&self, times: usize) {
        self.with(|state| state.fail_grace = times);
    }

    /// How many frontends there were when the programs were attached, each time.
    pub fn attached(&self) -> Vec<usize> {
        self.with(|state| state.attached.clone())
    }

    /// Self-tests find this from now on.
    pub fn set_checked(&self, checked: Checked) {
        self.with(|state| state.checked = checked);
    }

    /// Says that sockets name these backend ids.
    pub fn set_active(&self, ids: BTreeSet<u32>) {
        self.with(|state| state.active = ids);
    }

    /// What is counted comes with tables of another layout, whose programs serve.
    pub fn set_inherited(&self) {
        self.with(|state| state.inherited = true);
    }

    /// The actions applied since the last call.
    pub fn take_log(&self) -> Vec<Action> {
        self.with(|state| std::mem::take(&mut state.log))
    }

    /// Whose sockets were to be ended, each time. One UDP socket of each was.
    pub fn destroyed(&self) -> Vec<Vec<Doomed>> {
        self.with(|state| state.destroyed.clone())
    }

    /// What a connect to `key` would find: none if it is no frontend.
    pub fn lookup(&self, key: &FrontendKey) -> Option<Arc<Block>> {
        self.with(|state| {
            let word = state.words.get(state.frontends.get(key)?)?;
            state.blocks.get(&word.base()).cloned()
        })
    }

    /// All frontends that the tables hold.
    pub fn frontends(&self) -> Vec<FrontendKey> {
        self.with(|state| state.frontends.keys().copied().collect())
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl State {
    fn apply(&mut self, action: &Action) -> Result<(), String> {
        if self.fail_after == Some(self.applied) {
            self.fail_after = None;
            return Err("told to fail".to_owned());
        }
        match action {
            Action::ResetBackend { id } if self.active.contains(id) => {
                return Err(format!("backend id {id} is named by sockets"));
            }
            Action::ResetBackend { id } if self.readable().any(|b| b.names_backend(*id)) => {
                return Err(format!("backend id {id} is named by a block that may be read"));
            }
            Action::ResetService { id } if self.readable().any(|b| b.header.service_id == *id) => {
                return Err(format!("service id {id} is named by a block that may be read"));
            }
            Action::ResetBackend { .. } | Action::ResetService { .. } => {}
            Action::WriteBlock { base, block } => self.write(*base, block)?,
            Action::Publish { index, word } => self.publish(*index, *word)?,
            Action::InsertFrontend { key, index } => self.insert(*key, *index)?,
            Action::DeleteFrontend { key } => {
                let index =
                    self.frontends.remove(key).ok_or("deleted a frontend that is absent")?;
                self.held_elements += 1;
                // The word stays: a reader that found the element may still load it.
                self.retire(self.words.get(&index).copied());
            }
        }
        self.applied += 1;
        self.log.push(action.clone());
        Ok(())
    }

    fn write(&mut self, base: u32, block: &Arc<Block>) -> Result<(), String> {
        let end = base + block.length();
        if base == 0 {
            return Err("row 0 belongs to no block".to_owned());
        }
        let overlaps = |first: u32, length: u32| base < first + length && first < end;
        if self.held_rows.iter().any(|(first, length)| overlaps(*first, *length)) {
            return Err(format!("rows {base}..{end} may still be read"));
        }
        let reachable = self.reachable();
        if self
            .blocks
            .iter()
            .any(|(first, block)| reachable.contains(first) && overlaps(*first, block.length()))
        {
            return Err(format!("rows {base}..{end} are live"));
        }
        self.blocks.retain(|first, block| !overlaps(*first, block.length()));
        self.blocks.insert(base, block.clone());
        Ok(())
    }

    fn publish(&mut self, index: u32, word: BlockWord) -> Result<(), String> {
        match self.blocks.get(&word.base()) {
            Some(block) if block.word(word.base()) == word => {}
            Some(_) => return Err("published a word that does not fit its block".to_owned()),
            None => return Err("published a block that was not written".to_owned()),
        }
        let old = self.words.insert(index, word);
        // A word that no frontend leads to has no readers.
        if self.frontends.values().any(|other| *other == index) {
            self.retire(old);
        }
        Ok(())
    }

    fn insert(&mut self, key: FrontendKey, index: u32) -> Result<(), String> {
        if self.held_elements > 0 {
            return Err("inserted while a deleted element may still be held".to_owned());
        }
        if !self.words.contains_key(&index) {
            return Err("inserted a frontend before its block was published".to_owned());
        }
        if self.frontends.values().any(|other| *other == index) {
            return Err(format!("index {index} is in use"));
        }
        if self.frontends.insert(key, index).is_some() {
            return Err("overwrote a frontend".to_owned());
        }
        Ok(())
    }

    fn retire(&mut self, word: Option<BlockWord>) {
        if let Some(word) = word
            && !self.reachable().contains(&word.base())
            && let Some(block) = self.blocks.get(&word.base())
        {
            self.held_rows.push((word.base(), block.length()));
        }
    }

    /// Blocks that are live, or that a reader may still hold.
    fn readable(&self) -> impl Iterator<Item = &Arc<Block>> {
        let mut bases = self.reachable();
        bases.extend(self.held_rows.iter().map(|(base, _)| *base));
        self.blocks.iter().filter(move |(base, _)| bases.contains(base)).map(|(_, block)| block)
    }

    fn reachable(&self) -> BTreeSet<u32> {
        self.frontends.values().filter_map(|i| self.words.get(i)).map(|w| w.base()).collect()
    }
}

impl Dataplane for Fake {
    fn observe(&mut self) -> Result<Observed, DataplaneError> {
        self.with(|state| {
            told_to_fail("observing", &mut state.fail_observe)?;
            let reachable = state.reachable();
            let blocks = state.blocks.iter().filter(|(base, _)| reachable.contains(base));
            let word = |index: &u32| state.words.get(index).map(|word| word.base());
            Ok(Observed {
                frontends: state.frontends.iter().map(|(k, i)| (*k, *i, word(i))).collect(),
                blocks: blocks.map(|(base, block)| (*base, (**block).clone())).collect(),
                active: state.active.clone(),
                fresh: state.applied == 0 && !state.inherited,
                inherited: state.inherited,
                recalled: BTreeMap::new(),
            })
        })
    }

    fn apply(&mut self, actions: &[Action]) -> Result<(), DataplaneError> {
        self.with(|state| {
            for action in actions {
                state
                    .apply(action)
                    .map_err(|reason| DataplaneError::new(format!("{action:?}"), reason))?;
            }
            Ok(())
        })
    }

    fn idle(&mut self, ids: &[u32]) -> Result<BTreeSet<u32>, DataplaneError> {
        let idle = |state: &mut State| {
            ids.iter().filter(|id| !state.active.contains(id)).copied().collect()
        };
        Ok(self.with(idle))
    }

    fn others_serve(&self) -> bool {
        self.with(|state| state.inherited)
    }

    fn attach(&mut self) -> Result<Attached, DataplaneError> {
        self.with(|state| {
            state.inherited = false;
            state.attached.push(state.frontends.len());
        });
        Ok(Vec::new())
    }

    fn self_test(&mut self) -> Checked {
        self.with(|state| state.checked.clone())
    }

    fn sweep(&self, _: Option<BTreeSet<u64>>) -> Option<Sweep> {
        None
    }

    fn grace(&self) -> Grace {
        // What is held when the wait begins is released when it ends; later deletions are not.
        let (rows, elements) = self.with(|state| (state.held_rows.clone(), state.held_elements));
        let state = self.state.clone();
        Box::new(move || {
            let mut state = state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            told_to_fail("waiting for programs", &mut state.fail_grace)?;
            state.held_rows.retain(|held| !rows.contains(held));
            state.held_elements -= elements;
            Ok(())
        })
    }

    fn destroy(&self, mut doomed: Vec<Doomed>) -> Option<Destroy> {
        self.with(|state| doomed.retain(|doomed| state.active.contains(&doomed.id)));
        if doomed.is_empty() {
            return None;
        }
        let udp = doomed.len() as u64;
        self.with(|state| state.destroyed.push(doomed));
        Some(Box::new(move || Ok(Destroyed { udp, ..Destroyed::default() })))
    }
}

fn told_to_fail(what: &str, times: &mut usize) -> Result<(), DataplaneError> {
    if *times == 0 {
        return Ok(());
    }
    *times -= 1;
    Err(DataplaneError::new(what, "told to fail"))
}
