//! The dataplane that is the kernel.

use super::attach::Held;
use super::collect::Sweeper;
use super::exclude::Excluded;
use super::generations::Generation;
use super::selftest::Remembered;
use super::tables::{self, Shape, TableError, Tables, chain, is_absent};
use super::{
    AttachError, Attached, Checked, Dataplane, DataplaneError, Destroy, Doomed, Grace, Sweep,
    attach, destroy, generations, inherit, sys,
};
use crate::config::TableSizes;
use crate::plan::block::Block;
use crate::plan::{Action, Observed};
use aya::maps::{Map, MapData, PerCpuValues};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use lb_common::rows::{BackendCounters, BackendOutcomes, FrontendKey};
use lb_common::{LAYOUT_VERSION, MEMORY_VERSION, control, features, filter, since};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The object that `build.rs` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-bpf.o"));
/// The one for kernels without [`features::ATOMICS`].
static NO_FETCH: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-bpf-no-fetch.o"));

/// From this many insertions on, a batch is cheaper than a call each.
const BATCH: usize = 64;

/// What the programs and tables are made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sizes of the tables.
    pub sizes: TableSizes,
    /// Bits of [`lb_common::features`].
    pub features: u32,
    /// Cookie of the host's network namespace, or 0.
    pub netns: u64,
    /// Where `struct sock` has `sk_err`, for [`lb_common::features::OUTCOMES`].
    pub sk_err: u32,
    /// Cgroups whose sockets are left alone.
    pub excluded: Excluded,
}

/// Tables and programs below one pin directory.
pub struct Kernel {
    tables: Tables,
    pub(super) object: Ebpf,
    pub(super) pins: PathBuf,
    pub(super) cgroup: PathBuf,
    /// What is attached, in the order of [`attach::HOOKS`].
    pub(super) links: Vec<Held>,
    /// The tables, by name, with their ids.
    pub(super) table_ids: Vec<(&'static str, u32)>,
    pub(super) remembered: Remembered,
    /// What agents of other versions left.
    pub(super) generations: Vec<Generation>,
    /// When it was last attached: [`since`]. What closed before may not have been seen.
    pub(super) attached: u32,
    /// Whether the tables were made by this very process.
    fresh: bool,
    /// Whether what is counted is another layout's, whose programs serve until ours are attached.
    inherited: bool,
    /// What the programs can't do after all.
    warning: Option<String>,
}

impl Kernel {
    /// Opens the tables below `pin_dir`, or makes them, and hands the programs to the verifier.
    /// Nothing is attached to `cgroup` yet.
    ///
    /// # Errors
    ///
    /// If the tables there are of another version or shape, an agent of another layout runs
    /// ([`AttachError::Locked`]), or the kernel refuses a table or a program. Tables that were made by then stay
    /// pinned, for the next start.
    pub fn open(pin_dir: &Path, cgroup: &Path, settings: &Settings) -> Result<Self, AttachError> {
        let pins = pin_dir.join(LAYOUT_VERSION.to_string());
        let shapes = tables::shapes(&settings.sizes);
        let failed = |e: TableError| AttachError::Failed {
            what: "opening the tables".to_owned(),
            reason: e.to_string(),
        };
        inherit::check_version(&pins).map_err(failed)?;
        let mut generations = generations::find(pin_dir)?;
        let inherited = inherit::inherit(&pins, &mut generations, &shapes).map_err(failed)?;
        let fresh = !check_pins(&pins, &shapes).map_err(failed)? && !inherited;
        let paths: Vec<(&str, PathBuf)> =
            shapes.iter().map(|shape| (shape.name, pins.join(shape.name))).collect();

        let mask = settings.sizes.connections - 1;
        let Excluded { count, levels, ids } = settings.excluded;
        let mut loader = EbpfLoader::new();
        loader
            .override_global("CONNECTIONS_MASK", &mask, true)
            .override_global("FEATURES", &settings.features, true)
            .override_global("HOST_NETNS", &settings.netns, true)
            .override_global("SK_ERR_OFFSET", &settings.sk_err, true)
            .override_global("EXCLUDED", &count, true)
            .override_global("EXCLUDED_LEVELS", &levels, true)
            .override_global("EXCLUDED_IDS", &ids, true);
        for ((name, path), shape) in paths.iter().zip(&shapes) {
            loader.map_pin_path(name, path.as_path());
            if shape.entries != 0 {
                loader.map_max_entries(name, shape.entries);
            }
        }
        let bytes = if settings.features & features::ATOMICS == 0 { NO_FETCH } else { OBJECT };
        let mut object = loader.load(bytes).map_err(|e| AttachError::Failed {
            what: "making the tables".to_owned(),
            reason: chain(&e),
        })?;
        let warning = attach::load_programs(&mut object, settings.features)?;
        let tables = Tables::open(&pins, true).map_err(failed)?;
        if !tables.control.set(control::MEMORY, MEMORY_VERSION) {
            let reason = "CONTROL is too short; report this with the log".to_owned();
            return Err(failed(TableError::Failed { name: "CONTROL", reason }));
        }
        let id = |shape: &Shape| {
            Ok((shape.name, shape.open(&pins)?.info().map_err(|e| shape.failed(e))?.id()))
        };
        let table_ids = shapes.iter().map(id).collect::<Result<_, _>>().map_err(failed)?;
        let mut kernel = Self {
            tables,
            object,
            pins,
            cgroup: cgroup.to_owned(),
            links: Vec::new(),
            table_ids,
            remembered: Remembered::default(),
            generations,
            attached: 0,
            fresh,
            inherited,
            warning,
        };
        kernel.remember_directory();
        Ok(kernel)
    }

    /// What the verifier has refused of that which is dispensable, and what that means.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    fn reset_backend(&self, id: u32) -> Result<(), DataplaneError> {
        let outcomes = self.tables.outcomes.as_ref();
        let reset = self.tables.backend_stats.set(id, BackendCounters::default())
            && outcomes.is_none_or(|outcomes| outcomes.set(id, BackendOutcomes::default()));
        let what = "writing BACKEND_STATS and BACKEND_OUTCOMES";
        let missing = || DataplaneError::new(what, format!("there is no id {id}"));
        reset.then_some(()).ok_or_else(missing)
    }

    /// Notes which addresses are backends' own.
    fn mark_backends(&self, block: &Block) {
        for row in &block.rows {
            let (word, bit) = filter::position(&row.address, row.port);
            if let Some(bits) = self.tables.backend_filter.get(word) {
                self.tables.backend_filter.set(word, bits | bit);
            }
        }
    }

    fn write_block(&self, base: u32, block: &Block) -> Result<(), DataplaneError> {
        self.mark_backends(block);
        let header = bytemuck::cast(block.header);
        for (row, value) in (base..).zip(std::iter::once(&header).chain(&block.rows)) {
            if !self.tables.backends.set(row, *value) {
                return Err(DataplaneError::new(
                    "writing BACKENDS",
                    format!("there is no row {row}"),
                ));
            }
        }
        Ok(())
    }

    fn insert(&mut self, new: &[(FrontendKey, u32)]) -> Result<(), DataplaneError> {
        let failed = |reason: String| DataplaneError::new("inserting into FRONTENDS", reason);
        if new.len() < BATCH {
            for (key, index) in new {
                // Never an overwrite: the kernel reuses an overwritten element at once.
                const BPF_NOEXIST: u64 = 1;
                let key: [u8; 20] = bytemuck::cast(*key);
                self.tables
                    .frontends
                    .insert(key, index, BPF_NOEXIST)
                    .map_err(|e| failed(chain(&e)))?;
            }
            return Ok(());
        }
        let (keys, indexes): (Vec<FrontendKey>, Vec<u32>) = new.iter().copied().unzip();
        let Some(Map::HashMap(map)) = self.object.map("FRONTENDS") else {
            return Err(failed("the object has no such table".to_owned()));
        };
        sys::batch::insert_batch(map.fd().as_fd(), &keys, &indexes)
            .map_err(|e| failed(e.to_string()))
    }

    fn delete(&mut self, key: FrontendKey) -> Result<(), DataplaneError> {
        let key: [u8; 20] = bytemuck::cast(key);
        match self.tables.frontends.remove(&key) {
            Ok(()) => Ok(()),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(DataplaneError::new("deleting from FRONTENDS", chain(&error))),
        }
    }

    fn reset<const N: usize>(
        table: &mut aya::maps::PerCpuArray<MapData, [u8; N]>,
        id: u32,
    ) -> Result<(), DataplaneError> {
        let what = || DataplaneError::new("resetting counters", format!("id {id}"));
        let cpus = nr_cpus().map_err(|(path, e)| DataplaneError::new(path, e))?;
        let zeros = PerCpuValues::try_from(vec![[0; N]; cpus]).map_err(|_| what())?;
        table.set(id, zeros, 0).map_err(|_| what())
    }
}

/// Compares pinned tables with their shapes; whether all were there that ids are counted in. A start
/// that was interrupted may have left some, which serve as well as new ones.
fn check_pins(pins: &Path, shapes: &[Shape]) -> Result<bool, TableError> {
    let mut all = true;
    for shape in shapes {
        let path = pins.join(shape.name);
        if !path.exists() {
            all &= shape.is_additional();
            continue;
        }
        let map = MapData::from_pin(&path)
            .map_err(|e| TableError::Failed { name: shape.name, reason: chain(&e) })?;
        shape.check(&path, &map)?;
    }
    Ok(all)
}

impl Dataplane for Kernel {
    fn observe(&mut self) -> Result<Observed, DataplaneError> {
        let mut observed = Observed::default();
        for (key, index) in self.tables.frontends()? {
            let block = self.tables.block(index);
            observed.add(
                key,
                index,
                block.map(|(base, header, rows)| (base, Block { header, rows })),
            );
        }
        let in_use = |id: &u32| self.tables.active(*id).is_some_and(|sockets| sockets != 0);
        observed.active = (0..self.tables.backend_stats.entries()).filter(in_use).collect();
        // Whoever made the blocks has marked their backends, unless it was stopped in between.
        for block in observed.blocks.values() {
            self.mark_backends(block);
        }
        (observed.fresh, observed.inherited) = (std::mem::take(&mut self.fresh), self.inherited);
        Ok(observed)
    }

    fn apply(&mut self, actions: &[Action]) -> Result<(), DataplaneError> {
        let mut rest = actions;
        while let Some((action, others)) = rest.split_first() {
            rest = others;
            match action {
                Action::ResetBackend { id } => self.reset_backend(*id)?,
                Action::ResetService { id } => {
                    Self::reset(&mut self.tables.service_stats, *id)?;
                }
                Action::WriteBlock { base, block } => self.write_block(*base, block)?,
                Action::Publish { index, word } => {
                    if !self.tables.blocks.publish(*index, word.0) {
                        let reason = format!("there is no index {index}");
                        return Err(DataplaneError::new("writing BLOCKS", reason));
                    }
                }
                Action::InsertFrontend { key, index } => {
                    let mut new = vec![(*key, *index)];
                    while let Some((Action::InsertFrontend { key, index }, others)) =
                        rest.split_first()
                    {
                        new.push((*key, *index));
                        rest = others;
                    }
                    self.insert(&new)?;
                }
                Action::DeleteFrontend { key } => self.delete(*key)?,
            }
        }
        Ok(())
    }

    fn idle(&mut self, ids: &[u32]) -> Result<BTreeSet<u32>, DataplaneError> {
        let idle: BTreeSet<u32> =
            ids.iter().filter(|id| self.tables.active(**id) == Some(0)).copied().collect();
        if !idle.is_empty() {
            let named = |word| lb_common::rows::AffinityWord(word).backend_id();
            self.tables.forget_affinity(|_, word| idle.contains(&named(word)))?;
        }
        Ok(idle)
    }

    fn others_serve(&self) -> bool {
        self.links.is_empty() && self.generations.iter().any(|theirs| theirs.newest().is_some())
    }

    fn attach(&mut self) -> Result<Attached, DataplaneError> {
        let failed = |error| DataplaneError::new("attaching the programs", error);
        self.attached = since::stamp(sys::monotonic_nanoseconds());
        self.links = attach::attach(&self.object, &self.cgroup, &self.pins, &self.generations)
            .map_err(failed)?;
        if std::mem::take(&mut self.inherited) {
            // After this, no program of theirs uses an id that ours may give to another.
            self.grace()()?;
        }
        attach::statuses(&self.links).map_err(failed)
    }

    fn sweep(&self, suspects: Option<BTreeSet<u64>>) -> Option<Sweep> {
        let mut ids = 0..self.tables.backend_stats.entries();
        if !ids.any(|id| self.tables.active(id) != Some(0)) {
            return None;
        }
        let program = self.object.program(attach::COLLECTOR)?.fd().ok()?;
        let program = program.as_fd().try_clone_to_owned();
        let (pins, attached) = (self.pins.clone(), self.attached);
        Some(Box::new(move || {
            let program = program.map_err(|e| DataplaneError::new("opening a program again", e))?;
            Sweeper { pins, program, attached }.run(suspects.as_ref())
        }))
    }

    fn self_test(&mut self) -> Checked {
        self.check()
    }

    fn grace(&self) -> Grace {
        Box::new(|| {
            sys::wait_for_programs().map_err(|e| DataplaneError::new("waiting for programs", e))
        })
    }

    fn destroy(&self, mut doomed: Vec<Doomed>) -> Option<Destroy> {
        // What nobody counts on is not worth a look into every namespace.
        doomed.retain(|doomed| self.tables.active(doomed.id) != Some(0));
        let pins = self.pins.clone();
        (!doomed.is_empty()).then(|| -> Destroy { Box::new(move || destroy::run(&pins, &doomed)) })
    }
}
