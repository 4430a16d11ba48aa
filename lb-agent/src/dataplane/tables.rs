//! The kernel tables: what each must look like, opening those that are pinned, and typed access.

use super::DataplaneError;
use super::sys::Mapped;
use crate::config::TableSizes;
use crate::plan::block::Block;
use aya::maps::{HashMap, Map, MapData, MapError, MapType, PerCpuArray};
use bytemuck::Zeroable;
use lb_common::rows::{
    AffinityKey, BackendCounters, BackendOutcomes, BackendRow, BlockHeader, BlockWord,
    ConnectionRow, FrontendKey, ServiceCounters,
};
use lb_common::{MEMORY_VERSION, control, filter};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Shape of a table. `entries` of 0 means that the kernel decides.
pub(super) struct Shape {
    pub(super) name: &'static str,
    kind: MapType,
    pub(super) kind_name: &'static str,
    key_size: u32,
    value_size: u32,
    pub(super) entries: u32,
    /// The key of `tables` in the configuration that says `entries`.
    setting: Option<&'static str>,
}

/// Bytes of the `EVENTS` ring.
const EVENT_BYTES: u32 = 262_144;
/// Bytes of the `FAILURES` ring: 2048 records. It is read at once; what a flood loses is in the rows.
const FAILURE_BYTES: u32 = 65_536;

/// Why the tables could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A pinned table is of another shape.
    #[error(
        "{path} has {what} {found} where {wanted} is needed; {remedy}, or run `lb-agent detach` to \
         start afresh (connections that are open lose their peer name)"
    )]
    Shape {
        /// The pin.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
        /// What else to do.
        remedy: String,
    },
    /// Pinned tables have rows of another form.
    #[error(
        "{directory} has tables of version {found} where {MEMORY_VERSION} is needed; what is attached \
         serves on. Start the version of lb-agent that made them, or run `lb-agent detach` to start \
         afresh (connections that are open lose their peer name)"
    )]
    Version {
        /// Where they are pinned.
        directory: PathBuf,
        /// Their version.
        found: u64,
    },
    /// The kernel refused.
    #[error("table {name}: {reason}")]
    Failed {
        /// The table.
        name: &'static str,
        /// What the kernel said.
        reason: String,
    },
}

/// Base, header, and all rows (resting ones included).
pub(super) type LiveBlock = (u32, BlockHeader, Vec<BackendRow>);

/// All tables that the agent reads or writes.
pub(super) struct Tables {
    pub(super) frontends: HashMap<MapData, [u8; 20], u32>,
    pub(super) blocks: Mapped<u64>,
    pub(super) backends: Mapped<BackendRow>,
    pub(super) control: Mapped<u64>,
    pub(super) affinity: HashMap<MapData, [u8; 16], u64>,
    /// Most entries that it can have.
    pub(super) affinity_room: usize,
    pub(super) backend_stats: Mapped<BackendCounters>,
    pub(super) backend_filter: Mapped<u64>,
    pub(super) service_stats: PerCpuArray<MapData, [u8; 24]>,
    /// `None` where the tables were made before there was this one.
    pub(super) outcomes: Option<Mapped<BackendOutcomes>>,
}

/// The shapes of all tables, in the order of the contract.
pub(super) fn shapes(sizes: &TableSizes) -> Vec<Shape> {
    let TableSizes { frontends, services, rows, backends, connections, overflow, affinity } =
        *sizes;
    let shape = |name, kind, kind_name, key_size, value: usize, entries, setting| Shape {
        name,
        kind,
        kind_name,
        key_size,
        value_size: u32::try_from(value).unwrap_or(u32::MAX),
        entries,
        setting,
    };
    let row = size_of::<ConnectionRow>();
    vec![
        shape("FRONTENDS", MapType::Hash, "hash", 20, 4, frontends, Some("frontends")),
        shape("BLOCKS", MapType::Array, "array", 4, 8, frontends, Some("frontends")),
        shape("BACKENDS", MapType::Array, "array", 4, 32, rows, Some("rows")),
        shape("CONNECTIONS", MapType::Array, "array", 4, row, connections, Some("connections")),
        shape("CONNECTIONS_OVERFLOW", MapType::Hash, "hash", 8, row, overflow, Some("overflow")),
        shape("CONNECTION_TIMES", MapType::Array, "array", 4, 4, connections, Some("connections")),
        shape("OVERFLOW_TIMES", MapType::Hash, "hash", 8, 4, overflow, Some("overflow")),
        shape(
            "SOCKETS",
            MapType::SkStorage,
            "sk_storage",
            4,
            row * lb_common::SOCKET_PAIRS,
            0,
            None,
        ),
        shape("AFFINITY", MapType::LruHash, "lru_hash", 16, 8, affinity, Some("affinity")),
        shape("BACKEND_STATS", MapType::Array, "array", 4, 16, backends, Some("backends")),
        shape("BACKEND_FILTER", MapType::Array, "array", 4, 8, filter::WORDS, None),
        shape(
            "SERVICE_STATS",
            MapType::PerCpuArray,
            "percpu_array",
            4,
            24,
            services,
            Some("services"),
        ),
        shape("CONTROL", MapType::Array, "array", 4, 8, control::ENTRIES, None),
        shape("EVENTS", MapType::RingBuf, "ringbuf", 0, 0, EVENT_BYTES, None),
        shape("BACKEND_OUTCOMES", MapType::Array, "array", 4, 64, backends, Some("backends")),
        shape("FAILURES", MapType::RingBuf, "ringbuf", 0, 0, FAILURE_BYTES, None),
    ]
}

impl Shape {
    /// Compares a table that is pinned with what it must be. The library would reuse it unseen.
    pub(super) fn check(&self, path: &Path, map: &MapData) -> Result<(), TableError> {
        let info = map.info().map_err(|e| self.failed(e))?;
        let differs = |what, found: String, wanted: String, remedy: String| {
            Err(TableError::Shape { path: path.to_owned(), what, found, wanted, remedy })
        };
        let other = "it was made by another version".to_owned();
        let kind = info.map_type().map_err(|e| self.failed(e))?;
        if kind != self.kind {
            return differs("type", format!("{kind:?}"), format!("{:?}", self.kind), other);
        }
        for (what, found, wanted) in [
            ("a key size of", info.key_size(), self.key_size),
            ("a value size of", info.value_size(), self.value_size),
        ] {
            if found != wanted {
                return differs(what, found.to_string(), wanted.to_string(), other);
            }
        }
        let flags = self.flags();
        if info.map_flags() != flags {
            let (found, wanted) = (format!("{:#x}", info.map_flags()), format!("{flags:#x}"));
            return differs("flags", found, wanted, other);
        }
        if self.entries != 0 && info.max_entries() != self.entries {
            let (found, wanted) = (info.max_entries(), self.entries);
            let remedy = match self.setting {
                Some(setting) => format!("set tables.{setting}: {found} in the configuration"),
                None => other,
            };
            return differs("max_entries", found.to_string(), wanted.to_string(), remedy);
        }
        Ok(())
    }

    /// The flags that lb-bpf makes the table with.
    fn flags(&self) -> u32 {
        const NO_PREALLOC: u32 = 1;
        const MMAPABLE: u32 = 1 << 10;
        match self.name {
            "BLOCKS" | "BACKENDS" | "BACKEND_STATS" | "BACKEND_FILTER" | "CONTROL"
            | "BACKEND_OUTCOMES" => MMAPABLE,
            "SOCKETS" | "OVERFLOW_TIMES" => NO_PREALLOC,
            _ => 0,
        }
    }

    /// Whether the layout had tables before it had this one. Such a table holds nothing that the
    /// others rely on, so it is made beside them when it is missing.
    pub(super) fn is_additional(&self) -> bool {
        matches!(self.name, "BACKEND_OUTCOMES" | "FAILURES" | "CONNECTION_TIMES" | "OVERFLOW_TIMES")
    }

    /// Whether the table is missing, and may be.
    pub(super) fn is_missing(&self, pins: &Path) -> bool {
        self.is_additional() && !pins.join(self.name).exists()
    }

    pub(super) fn failed(&self, reason: impl std::fmt::Display) -> TableError {
        TableError::Failed { name: self.name, reason: reason.to_string() }
    }

    pub(super) fn open(&self, pins: &Path) -> Result<MapData, TableError> {
        MapData::from_pin(pins.join(self.name)).map_err(|e| self.failed(chain(&e)))
    }
}

/// Whether a table has no such element. To delete it says so in its own way.
pub(super) fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

/// An error with its causes, which aya keeps out of the text.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn find<'a>(shapes: &'a [Shape], name: &'static str) -> Result<&'a Shape, TableError> {
    let unknown = TableError::Failed { name, reason: "not in the contract".to_owned() };
    shapes.iter().find(|shape| shape.name == name).ok_or(unknown)
}

fn mapped<T: bytemuck::Pod>(
    shape: &Shape,
    pins: &Path,
    writable: bool,
) -> Result<Mapped<T>, TableError> {
    let map = shape.open(pins)?;
    let entries = map.info().map_err(|e| shape.failed(e))?.max_entries();
    Mapped::new(map.fd().as_fd(), entries, writable).map_err(|e| shape.failed(e))
}

/// `BACKEND_OUTCOMES` alone.
pub(super) fn open_outcomes(
    pins: &Path,
    writable: bool,
) -> Result<Mapped<BackendOutcomes>, TableError> {
    mapped(find(&shapes(&TableSizes::default()), "BACKEND_OUTCOMES")?, pins, writable)
}

/// `BACKEND_STATS` alone, of whatever layout: its name, kind and rows are the same in all of them.
pub(super) fn open_stats(pins: &Path) -> Result<Mapped<BackendCounters>, TableError> {
    let shapes = shapes(&TableSizes::default());
    let shape = find(&shapes, "BACKEND_STATS")?;
    let map = shape.open(pins)?;
    let entries = map.info().map_err(|e| shape.failed(e))?.max_entries();
    Shape { entries, ..*shape }.check(&pins.join(shape.name), &map)?;
    Mapped::new(map.fd().as_fd(), entries, false).map_err(|e| shape.failed(e))
}

/// `CONTROL` alone.
pub(super) fn open_control(pins: &Path) -> Result<Mapped<u64>, TableError> {
    mapped(find(&shapes(&TableSizes::default()), "CONTROL")?, pins, true)
}

impl Tables {
    /// Opens the tables pinned below `pins`.
    pub(super) fn open(pins: &Path, writable: bool) -> Result<Self, TableError> {
        let shapes = shapes(&TableSizes::default());
        let find = |name| find(&shapes, name);
        let outcomes = find("BACKEND_OUTCOMES")?;
        let outcomes = match outcomes.is_missing(pins) {
            true => None,
            false => Some(mapped(outcomes, pins, writable)?),
        };
        let frontends = find("FRONTENDS")?;
        let affinity = find("AFFINITY")?;
        let service_stats = find("SERVICE_STATS")?;
        let affinity_map = affinity.open(pins)?;
        let room = affinity_map.info().map_err(|e| affinity.failed(e))?.max_entries();
        Ok(Self {
            frontends: HashMap::try_from(Map::HashMap(frontends.open(pins)?))
                .map_err(|e| frontends.failed(e))?,
            blocks: mapped(find("BLOCKS")?, pins, writable)?,
            backends: mapped(find("BACKENDS")?, pins, writable)?,
            backend_stats: mapped(find("BACKEND_STATS")?, pins, writable)?,
            backend_filter: mapped(find("BACKEND_FILTER")?, pins, writable)?,
            control: mapped(find("CONTROL")?, pins, writable)?,
            affinity: HashMap::try_from(Map::LruHashMap(affinity_map))
                .map_err(|e| affinity.failed(e))?,
            affinity_room: usize::try_from(room).unwrap_or(usize::MAX),
            service_stats: PerCpuArray::try_from(Map::PerCpuArray(service_stats.open(pins)?))
                .map_err(|e| service_stats.failed(e))?,
            outcomes,
        })
    }

    /// Every frontend with its index.
    pub(super) fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DataplaneError> {
        let failed = |e| DataplaneError::new("reading FRONTENDS", chain(&e));
        self.frontends
            .iter()
            .map(|entry| entry.map(|(key, index)| (bytemuck::cast(key), index)).map_err(failed))
            .collect()
    }

    /// The live block of a frontend's index, for whoever reads while another process publishes:
    /// what is still live after it was read was not written to meanwhile, since a block that is
    /// replaced is written again a grace period later only. An error if it is replaced again and
    /// again.
    pub(super) fn settled_block(&self, index: u32) -> Result<Option<LiveBlock>, DataplaneError> {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let before = self.blocks.get(index);
            let block = self.block(index);
            std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
            if self.blocks.get(index) == before {
                return Ok(block);
            }
        }
        let reason = "the block was replaced while it was read; ask again";
        Err(DataplaneError::new("reading BACKENDS", reason))
    }

    /// The live block of a frontend's index.
    pub(super) fn block(&self, index: u32) -> Option<LiveBlock> {
        let word = BlockWord(self.blocks.get(index)?);
        let row = |row| self.backends.get(row);
        let (base, Block { header, rows }) = Block::read(word, self.backends.entries(), row)?;
        Some((base, header, rows))
    }

    /// Base, header, and where the rows are (resting ones included), of the live block of a frontend's
    /// index.
    pub(super) fn block_place(&self, index: u32) -> Option<(u32, BlockHeader, Range<u32>)> {
        let word = BlockWord(self.blocks.get(index)?);
        Block::place(word, self.backends.entries(), |row| self.backends.get(row))
    }

    /// Sockets that are open to a backend; `None` if there is no such id.
    pub(super) fn active(&self, id: u32) -> Option<u64> {
        self.backend_stats.get(id).map(|counters| counters.active())
    }

    pub(super) fn service_counters(&self, id: u32) -> Result<ServiceCounters, DataplaneError> {
        let failed = |e| DataplaneError::new(format!("reading SERVICE_STATS[{id}]"), chain(&e));
        let values = self.service_stats.get(&id, 0).map_err(failed)?;
        Ok(values.iter().fold(ServiceCounters::zeroed(), |sum, cpu| {
            let ServiceCounters { connects, no_backend, untracked } = bytemuck::cast(*cpu);
            ServiceCounters {
                connects: sum.connects + connects,
                no_backend: sum.no_backend + no_backend,
                untracked: sum.untracked + untracked,
            }
        }))
    }

    /// Removes the affinity entries that `named` says yes to.
    pub(super) fn forget_affinity(
        &mut self,
        named: impl Fn(&AffinityKey, u64) -> bool,
    ) -> Result<(), DataplaneError> {
        let failed = |e| DataplaneError::new("reading AFFINITY", chain(&e));
        let mut stale = Vec::new();
        for entry in self.affinity.iter() {
            let (key, word) = entry.map_err(failed)?;
            if named(&bytemuck::cast(key), word) {
                stale.push(key);
            }
        }
        for key in stale {
            match self.affinity.remove(&key) {
                // The kernel evicts entries of its own accord.
                Ok(()) => {}
                Err(error) if is_absent(&error) => {}
                Err(error) => {
                    return Err(DataplaneError::new("removing from AFFINITY", chain(&error)));
                }
            }
        }
        Ok(())
    }
}
