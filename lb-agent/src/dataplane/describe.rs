//! What `lbctl maps` shows of the tables.

use super::sys::Mapped;
use super::sys::batch::read_values;
use super::tables::{Shape, TableError, Tables, shapes};
use crate::config::TableSizes;
use crate::status::TableStatus;
use aya::maps::{IterableMap as _, MapData};
use lb_common::control;
use lb_common::rows::{BackendCounters, BackendOutcomes, ConnectionRow, FrontendKey};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Every table, held open: what becomes of its pin does not matter.
pub(super) struct Opened(Vec<(Shape, MapData)>);

impl Opened {
    /// Opens the tables pinned below `pins`.
    pub(super) fn open(pins: &Path) -> Result<Self, TableError> {
        let all = shapes(&TableSizes::default()).into_iter();
        let there = all.filter(|shape| !shape.is_missing(pins));
        there
            .map(|shape| shape.open(pins).map(|map| (shape, map)))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// What `lbctl maps` shows of the tables.
pub(super) fn describe(opened: &Opened, tables: &Tables) -> Result<Vec<TableStatus>, TableError> {
    let indexes = indexes(tables).ok();
    let Opened(maps) = opened;
    maps.iter()
        .map(|(shape, map)| {
            let info = map.info().map_err(|e| shape.failed(e))?;
            let used = match shape.name {
                "FRONTENDS" | "BLOCKS" => indexes.as_ref().map(|indexes| indexes.len() as u64),
                "BACKENDS" => indexes.as_ref().map(|indexes| rows_in_use(tables, indexes)),
                "CONNECTIONS" => count::<u32, ConnectionRow>(map, |row| row.cookie != 0).ok(),
                "CONNECTIONS_OVERFLOW" => tables.control.get(control::OVERFLOW_ROWS),
                "AFFINITY" => count::<[u8; 16], u64>(map, |_| true).ok(),
                "BACKEND_STATS" => Some(backends_in_use(&tables.backend_stats)),
                "BACKEND_OUTCOMES" => tables.outcomes.as_ref().map(outcomes_in_use),
                _ => None,
            };
            Ok(TableStatus {
                name: shape.name.to_owned(),
                kind: shape.kind_name.to_owned(),
                id: info.id(),
                key_size: info.key_size(),
                value_size: info.value_size(),
                max_entries: info.max_entries(),
                used,
                memory: memory(map).ok(),
            })
        })
        .collect()
}

/// Backend ids that have ever been connected to.
fn backends_in_use(stats: &Mapped<BackendCounters>) -> u64 {
    let used = |id: &u32| stats.get(*id).is_some_and(|counters| counters.connects != 0);
    (0..stats.entries()).filter(used).count() as u64
}

/// Backend ids of which a connect's outcome is known.
fn outcomes_in_use(outcomes: &Mapped<BackendOutcomes>) -> u64 {
    let unused = BackendOutcomes::default();
    let used = |id: &u32| outcomes.get(*id).is_some_and(|row| row != unused);
    (0..outcomes.entries()).filter(used).count() as u64
}

/// The indexes of all frontends.
fn indexes(tables: &Tables) -> io::Result<Vec<u32>> {
    let mut indexes = Vec::new();
    let map = tables.frontends.map().fd().as_fd();
    read_values::<FrontendKey, u32>(map, |some| indexes.extend_from_slice(some))?;
    Ok(indexes)
}

/// Elements of which this is true.
fn count<K: bytemuck::Pod, V: bytemuck::Pod>(
    map: &MapData,
    is_used: impl Fn(&V) -> bool,
) -> io::Result<u64> {
    let mut used = 0;
    let take = |values: &[V]| used += values.iter().filter(|value| is_used(value)).count() as u64;
    read_values::<K, V>(map.fd().as_fd(), take)?;
    Ok(used)
}

/// Rows of live blocks, each block counted once.
fn rows_in_use(tables: &Tables, indexes: &[u32]) -> u64 {
    let blocks: BTreeMap<u32, u32> = indexes
        .iter()
        .filter_map(|index| tables.block_place(*index))
        .map(|(base, _, rows)| (base, rows.end - base))
        .collect();
    blocks.into_values().map(u64::from).sum()
}

/// What the kernel charges for a table.
fn memory(map: &MapData) -> io::Result<u64> {
    let fd = map.fd().as_fd().as_raw_fd();
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
