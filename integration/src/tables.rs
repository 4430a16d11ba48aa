//! The pinned kernel tables as they are, past the agent.

use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::rows::{AffinityKey, AffinityWord, ConnectionRow};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

type RawRow = [u8; size_of::<ConnectionRow>()];
type RawKey = [u8; size_of::<AffinityKey>()];

/// The tables of one agent.
#[derive(Clone, Debug)]
pub struct Tables {
    directory: PathBuf,
}

impl Tables {
    /// The tables pinned in `directory`, which ends with the layout version.
    pub fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Rows in use of `CONNECTIONS`.
    #[track_caller]
    pub fn connections(&self) -> Vec<ConnectionRow> {
        let table: Array<MapData, RawRow> =
            self.open("CONNECTIONS").try_into().expect("CONNECTIONS is an array of 48-byte rows");
        let rows = table.iter().map(|row| row.expect("CONNECTIONS can be read"));
        rows.map(parse).filter(|row| row.cookie != 0).collect()
    }

    /// Rows of `CONNECTIONS_OVERFLOW`.
    #[track_caller]
    pub fn overflow(&self) -> Vec<ConnectionRow> {
        let table: HashMap<MapData, u64, RawRow> =
            self.open("CONNECTIONS_OVERFLOW").try_into().expect("CONNECTIONS_OVERFLOW is a hash");
        // A row that is deleted while they are read is not an error.
        table.iter().filter_map(Result::ok).map(|(_, row)| parse(row)).collect()
    }

    /// The row of a socket, wherever it is.
    #[track_caller]
    pub fn connection(&self, cookie: u64) -> Option<ConnectionRow> {
        let mut rows = self.connections().into_iter().chain(self.overflow());
        rows.find(|row| row.cookie == cookie)
    }

    /// The backend that a socket was sent to.
    #[track_caller]
    pub fn backend_of(&self, cookie: u64) -> Option<SocketAddr> {
        let row = self.connection(cookie)?;
        Some(SocketAddr::new(row.backend.into(), u16::from_be(row.backend_port)))
    }

    /// `AFFINITY`: clients as the tables know them (a cgroup by its number), and what is kept on each.
    #[track_caller]
    pub fn affinity(&self) -> BTreeMap<u64, AffinityWord> {
        let table: HashMap<MapData, RawKey, u64> =
            self.open("AFFINITY").try_into().expect("AFFINITY is a hash");
        // An entry that makes room for another while they are read is not an error.
        let entries = table.iter().filter_map(Result::ok);
        let client = |key: RawKey| bytemuck::pod_read_unaligned::<AffinityKey>(&key).client;
        entries.map(|(key, word)| (client(key), AffinityWord(word))).collect()
    }

    /// Writes a word of `CONTROL`.
    #[track_caller]
    pub fn set_control(&self, index: u32, word: u64) {
        let mut table: Array<MapData, u64> =
            self.open("CONTROL").try_into().expect("CONTROL is an array of words");
        table.set(index, word, 0).expect("CONTROL can be written");
    }

    /// Pins a table below another directory, too.
    #[track_caller]
    pub fn share(&self, name: &str, with: &Path) {
        let table = MapData::from_pin(self.directory.join(name)).expect("the table is pinned");
        table.pin(with.join(name)).expect("the other directory is there, and lacks it");
    }

    #[track_caller]
    fn open(&self, name: &str) -> Map {
        let path = self.directory.join(name);
        let data = MapData::from_pin(&path)
            .unwrap_or_else(|error| panic!("can't open the pin {}: {error:?}", path.display()));
        Map::from_map_data(data).expect("aya knows the types of our tables")
    }
}

/// The frontend of a row.
pub fn frontend_of(row: &ConnectionRow) -> SocketAddr {
    SocketAddr::new(row.frontend.into(), u16::from_be(row.frontend_port))
}

fn parse(row: RawRow) -> ConnectionRow {
    bytemuck::pod_read_unaligned(&row)
}
