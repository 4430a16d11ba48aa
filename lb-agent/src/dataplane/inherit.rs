//! What outlives a change of the layout: the tables that the programs write. They bear a version of their
//! own, and where that is ours, the tables themselves are taken over: pinned beside our own, so that
//! our programs go on with every row, count and affinity where those of the other layout are replaced.
//!
//! The tables that the agent writes are made anew. What the ids in those taken over stand for is told by
//! the state that the other agent has saved.

use super::attach::{HOOKS, pin_of};
use super::generations::Generation;
use super::tables::{Shape, TableError, chain, open_control};
use aya::maps::MapData;
use lb_common::{MEMORY_VERSION, control};
use std::path::Path;
use std::{fs, io};

/// Tables that the agent writes, and rings, whose records nobody reads later.
const OWN: [&str; 5] = ["FRONTENDS", "BLOCKS", "BACKENDS", "EVENTS", "FAILURES"];

/// Pins the tables of the generation that serves below `pins`, if they are such as ours; false if there
/// is no such generation. To be called again after a start that was interrupted: it goes on there.
pub(super) fn inherit(
    pins: &Path,
    generations: &mut [Generation],
    shapes: &[Shape],
) -> Result<bool, TableError> {
    let Some(giver) = generations.iter_mut().find(|generation| generation.translates()) else {
        return Ok(false);
    };
    let memory = || shapes.iter().filter(|shape| !OWN.contains(&shape.name));
    if !is_ours(giver.directory(), memory()) {
        return Ok(false);
    }
    if !HOOKS.iter().any(|hook| hook.begins && pin_of(pins, hook).exists()) {
        // Left by a start that was interrupted, or from before the other layout came: no program of ours
        // goes by them, and their ids need not be what the other layout's mean.
        for name in OWN {
            match fs::remove_file(pins.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(TableError::Failed { name, reason: error.to_string() });
                }
                _ => {}
            }
        }
    }
    let mut missing = Vec::new();
    for shape in memory().filter(|shape| giver.directory().join(shape.name).exists()) {
        let theirs = shape.open(giver.directory())?;
        let pin = pins.join(shape.name);
        if !pin.exists() {
            missing.push((shape, pin, theirs));
        } else if id_of(shape, &shape.open(pins)?)? != id_of(shape, &theirs)? {
            // We had served before, and there are connections in our tables.
            return Ok(false);
        }
    }
    for (shape, pin, table) in missing {
        if let Some(directory) = pin.parent() {
            fs::create_dir_all(directory).map_err(|e| shape.failed(e))?;
        }
        table.pin(&pin).map_err(|e| shape.failed(chain(&e)))?;
    }
    giver.note_inherited();
    Ok(true)
}

/// Whether the tables pinned in a directory are what ours would be.
fn is_ours<'a>(directory: &Path, mut shapes: impl Iterator<Item = &'a Shape>) -> bool {
    let version = open_control(directory).ok().and_then(|control| control.get(control::MEMORY));
    version == Some(MEMORY_VERSION)
        && shapes.all(|shape| {
            let fits = |map: MapData| shape.check(&directory.join(shape.name), &map).is_ok();
            shape.is_missing(directory) || shape.open(directory).is_ok_and(fits)
        })
}

fn id_of(shape: &Shape, map: &MapData) -> Result<u32, TableError> {
    Ok(map.info().map_err(|e| shape.failed(e))?.id())
}
