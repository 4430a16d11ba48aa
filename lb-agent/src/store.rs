//! Documents on disk that survive the agent: written whole or not at all, so that a crash at any
//! moment leaves the old version or the new one.
//!
//! What the documents mean is left to the caller, and so is what to do when one can't be read.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Why a document could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be written.
    #[error(
        "cannot write {}: make its directory writable for the agent, on a disk that is not full",
        path.display()
    )]
    Write {
        /// The document.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It can't be read.
    #[error("cannot read {}: make it readable for the agent", path.display())]
    Read {
        /// The document.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what the agent wrote.
    #[error(
        "{} is damaged or of another version: remove it, the agent writes a new one",
        path.display()
    )]
    Damaged {
        /// The document.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
}

/// Saves a document as JSON, atomically and durably; its directory is created if absent. One writer
/// per document: the lock on the pin directory sees to that.
///
/// # Errors
///
/// [`StoreError::Write`] if the directory can't be made or the file not be written, put on disk and renamed. The
/// earlier document stays whole until the new one replaces it.
pub fn save<T: Serialize>(path: &Path, document: &T) -> Result<(), StoreError> {
    write(path, document).map_err(|source| StoreError::Write { path: path.to_owned(), source })
}

/// Loads a document; `None` if there is none.
///
/// # Errors
///
/// [`StoreError::Read`] if it can't be opened or read, [`StoreError::Damaged`] if it is no JSON of this type.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StoreError::Read { path: path.to_owned(), source });
        }
    };
    match serde_json::from_reader(BufReader::new(file)) {
        Ok(document) => Ok(Some(document)),
        Err(error) if error.is_io() => {
            Err(StoreError::Read { path: path.to_owned(), source: error.into() })
        }
        Err(source) => Err(StoreError::Damaged { path: path.to_owned(), source }),
    }
}

fn write<T: Serialize>(path: &Path, document: &T) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    // In the same directory, since a rename is atomic only within a file system.
    let temporary = directory.join(hidden);
    let mut writer = BufWriter::new(File::create(&temporary)?);
    serde_json::to_writer(&mut writer, document)?;
    writer.flush()?;
    writer.get_ref().sync_all()?;
    fs::rename(&temporary, path)?;
    // Until the directory is on disk too, a power cut may bring the old document back.
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Snapshot;
    use std::collections::BTreeMap;

    #[test]
    fn a_document_survives_and_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/snapshots.json");
        assert!(load::<Vec<u32>>(&path).unwrap().is_none());
        save(&path, &vec![1, 2, 3]).unwrap();
        save(&path, &vec![4]).unwrap();
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), Some(vec![4]));
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "the temporary file is gone");
        let snapshots = BTreeMap::from([("file:x".to_owned(), Snapshot::default())]);
        save(&path, &snapshots).unwrap();
        assert_eq!(load(&path).unwrap(), Some(snapshots));
    }

    #[test]
    fn a_failed_save_leaves_the_old_document() {
        struct Fails;
        impl Serialize for Fails {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("half way"))
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        save(&path, &7).unwrap();
        assert!(matches!(save(&path, &Fails), Err(StoreError::Write { .. })));
        assert_eq!(load::<u32>(&path).unwrap(), Some(7));
    }

    #[test]
    fn errors_say_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for damaged in ["", "{\"services\":", "[]x"] {
            fs::write(&path, damaged).unwrap();
            let error = load::<Vec<u32>>(&path).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("state.json is damaged or of another version: remove it")
            );
        }
        let error = load::<u32>(directory.path()).unwrap_err().to_string();
        assert!(error.contains("make it readable"), "{error}");
        let error = save(&path.join("x"), &1).unwrap_err().to_string();
        assert!(error.contains("make its directory writable"), "{error}");
    }
}
