//! The document of a run: `results.json`.

use super::Figure;
use super::machine::Machine;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// The file's name in the directory of a run.
pub const FILE: &str = "results.json";

/// All that a run found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// Seconds since 1970 at the end of the run.
    pub finished: u64,
    /// It was a shortened run.
    pub quick: bool,
    /// Of everything that was chosen at random.
    pub seed: u64,
    /// What could not be measured, and why: such a run is not published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// In the order in which they were measured.
    pub figures: Vec<Figure>,
}

// === impl Results ===

impl Results {
    /// Writes the document into a directory, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// If the directory can't be made or the file not be written.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(directory)
            .with_context(|| format!("can't make {}", directory.display()))?;
        let file = directory.join(FILE);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))
    }

    /// Reads the document of a run.
    ///
    /// # Errors
    ///
    /// If there is no such file, as before the first run, it can't be read, or it is of another version.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let file = directory.join(FILE);
        let text = fs::read_to_string(&file)
            .with_context(|| format!("can't read {}: run `make bench` first", file.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!("{} is of another version: run `make bench` again", file.display())
        })
    }
}
