//! What outlives a change of the layout: the tables that the programs write. They bear a version of their
//! own, and where that is ours, the tables themselves are taken over: pinned beside our own, so that
//! our programs go on with every row, count and affinity where those of the other layout are replaced.
//!
//! Where there are several other layouts, the tables are those of the one whose programs came last. If a
//! take-over was interrupted, several have the same tables; then all of these have been inherited. Any
//! other tables stay with the programs that follow a translation by them: our programs have one set,
//! and an id stands for something within its set only, so nothing there can get in the way of ours.
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
/// is no such generation, or one of ours has tables of its own. To be called again after a start that was
/// interrupted: it goes on there.
pub(super) fn inherit(
    pins: &Path,
    generations: &mut [Generation],
    shapes: &[Shape],
) -> Result<bool, TableError> {
    // Where several serve, a take-over was interrupted.
    let serving = generations.iter().filter(|generation| generation.translates());
    let Some(giver) = serving.max_by_key(|generation| generation.newest()) else {
        return Ok(false);
    };
    let giver = giver.directory().to_owned();
    let memory = || shapes.iter().filter(|shape| !OWN.contains(&shape.name));
    if !is_ours(&giver, memory()) {
        return Ok(false);
    }
    let mut missing = Vec::new();
    for shape in memory().filter(|shape| giver.join(shape.name).exists()) {
        let theirs = shape.open(&giver)?;
        let pin = pins.join(shape.name);
        if !pin.exists() {
            missing.push((shape, pin, theirs));
        } else if id_of(shape, &shape.open(pins)?)? != id_of(shape, &theirs)? {
            // We had served before, and there are connections in our tables.
            return Ok(false);
        }
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
    for (shape, pin, table) in missing {
        if let Some(directory) = pin.parent() {
            fs::create_dir_all(directory).map_err(|e| shape.failed(e))?;
        }
        table.pin(&pin).map_err(|e| shape.failed(chain(&e)))?;
    }
    for generation in generations {
        if shares(generation.directory(), &giver, memory())? {
            generation.note_inherited();
        }
    }
    Ok(true)
}

/// Whether two directories have a table in common; then they have all that both have.
fn shares<'a>(
    directory: &Path,
    other: &Path,
    shapes: impl Iterator<Item = &'a Shape>,
) -> Result<bool, TableError> {
    for shape in shapes {
        if ![directory, other].iter().all(|place| place.join(shape.name).exists()) {
            continue;
        }
        // What can't be opened is no table.
        if let Ok(theirs) = shape.open(directory)
            && id_of(shape, &theirs)? == id_of(shape, &shape.open(other)?)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses tables of our layout whose rows on sockets and clients are of another form than ours. They
/// may have the same shapes, and programs that serve by them.
pub(super) fn check_version(pins: &Path) -> Result<(), TableError> {
    if !pins.join("CONTROL").exists() {
        return Ok(());
    }
    match open_control(pins)?.get(control::MEMORY) {
        // Nothing was ever told: they were made before there was a version, or by a start that was
        // interrupted.
        Some(0 | MEMORY_VERSION) => Ok(()),
        Some(found) => Err(TableError::Version { directory: pins.to_owned(), found }),
        // Its shape is refused, too, but only after others have been pinned beside it.
        None => {
            let reason =
                "it has fewer words than any version's; run `lb-agent detach` and start again";
            Err(TableError::Failed { name: "CONTROL", reason: reason.to_owned() })
        }
    }
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
