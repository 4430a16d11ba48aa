//! What `lbctl maps` shows of the tables.

use super::sys::Mapped;
use super::tables::{TableError, Tables, shapes};
use crate::config::TableSizes;
use crate::status::TableStatus;
use aya::maps::{Array, Map, MapData};
use lb_common::control;
use lb_common::rows::{BackendCounters, BackendOutcomes, ConnectionRow};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// What `lbctl maps` shows of the tables pinned below `pins`.
pub(super) fn describe(pins: &Path, tables: &Tables) -> Result<Vec<TableStatus>, TableError> {
    let connections = || -> Option<u64> {
        let map = MapData::from_pin(pins.join("CONNECTIONS")).ok()?;
        let rows = Array::<_, [u8; size_of::<ConnectionRow>()]>::try_from(Map::Array(map)).ok()?;
        let used = rows.iter().filter(|row| row.as_ref().is_ok_and(|row| row[..8] != [0; 8]));
        u64::try_from(used.count()).ok()
    };
    shapes(&TableSizes::default())
        .into_iter()
        .filter(|shape| !shape.is_missing(pins))
        .map(|shape| {
            let map = shape.open(pins)?;
            let info = map.info().map_err(|e| shape.failed(e))?;
            let used = match shape.name {
                "FRONTENDS" => Some(tables.frontends.keys().count() as u64),
                "BLOCKS" => Some(tables.frontends.keys().count() as u64),
                "BACKENDS" => rows_in_use(tables),
                "CONNECTIONS" => connections(),
                "CONNECTIONS_OVERFLOW" => tables.control.get(control::OVERFLOW_ROWS),
                "AFFINITY" => Some(tables.affinity.keys().count() as u64),
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
                memory: memory(&map).ok(),
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

/// Rows of live blocks, each block counted once.
fn rows_in_use(tables: &Tables) -> Option<u64> {
    let frontends = tables.frontends().ok()?;
    let blocks: std::collections::BTreeMap<u32, u64> = frontends
        .iter()
        .filter_map(|(_, index)| tables.block(*index))
        .map(|(base, _, rows)| (base, rows.len() as u64 + 1))
        .collect();
    Some(blocks.values().sum())
}

/// What the kernel charges for a table.
fn memory(map: &MapData) -> io::Result<u64> {
    let fd = map.fd().as_fd().as_raw_fd();
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
