//! Many elements of a table in one call: one by one, most of the time goes into the calls.

use super::{bpf, raw};
use aya_obj::generated::bpf_cmd;
use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;

/// Elements that are read in one call.
const AT_ONCE: usize = 4096;

#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// The kernel answers here how many there were.
    count: Cell<u32>,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Inserts many elements at once. The kernel stops at the first that fails.
pub(crate) fn insert_batch<K: bytemuck::Pod, V: bytemuck::Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    let count = u32::try_from(keys.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attributes = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: count.into(),
        map: raw(map),
        ..Batch::default()
    };
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &attributes).map(drop)
}

/// Reads all elements of a table, whose keys and values have the sizes of `K` and `V`, and hands on the
/// values. What changes meanwhile may be missed, or be seen twice.
pub(crate) fn read_values<K: bytemuck::Pod, V: bytemuck::Pod>(
    map: BorrowedFd<'_>,
    mut take: impl FnMut(&[V]),
) -> io::Result<()> {
    let mut keys = vec![K::zeroed(); AT_ONCE];
    let mut values = vec![V::zeroed(); AT_ONCE];
    let room = u32::try_from(AT_ONCE).map_err(|_| io::ErrorKind::InvalidInput)?;
    // A key of an array, or the number of a bucket: never more than this.
    let (mut place, mut next) = (0u64, 0u64);
    let mut begun = false;
    loop {
        let attributes = Batch {
            in_batch: if begun { &raw const place as u64 } else { 0 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room.into(),
            map: raw(map),
            ..Batch::default()
        };
        let at_end = match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &attributes) {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = attributes.count.get() as usize;
        take(values.get(..count).unwrap_or_default());
        if at_end || count == 0 {
            return Ok(());
        }
        (place, begun) = (next, true);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MapCreate, new_fd};
    use super::*;
    use std::os::fd::{AsFd, OwnedFd};

    const HASH: u32 = 1;
    const ARRAY: u32 = 2;
    const LRU_HASH: u32 = 9;

    fn table(kind: u32, key_size: u32, entries: u32) -> OwnedFd {
        let shape = MapCreate {
            map_type: kind,
            key_size,
            value_size: 8,
            max_entries: entries,
            ..MapCreate::default()
        };
        new_fd(bpf(bpf_cmd::BPF_MAP_CREATE, &shape).unwrap()).unwrap()
    }

    fn read<K: bytemuck::Pod>(map: &OwnedFd) -> Vec<u64> {
        let mut all: Vec<u64> = Vec::new();
        read_values::<K, u64>(map.as_fd(), |values| all.extend(values)).unwrap();
        all.sort_unstable();
        all
    }

    #[test]
    fn everything_is_read_once() {
        let most = u32::try_from(3 * AT_ONCE + 7).unwrap();
        for count in [0, 1, u32::try_from(AT_ONCE).unwrap(), most] {
            let values: Vec<u64> = (1..=count.into()).collect();
            for kind in [HASH, LRU_HASH] {
                // An LRU table keeps elements aside for each CPU.
                let map = table(kind, 16, 4 * most);
                let keys: Vec<[u64; 2]> = values.iter().map(|value| [7, *value]).collect();
                if count > 0 {
                    insert_batch(map.as_fd(), &keys, &values).unwrap();
                }
                assert_eq!(read::<[u64; 2]>(&map), values, "{kind}: {count}");
            }
        }
        let map = table(ARRAY, 4, most);
        let (keys, values) = ((3..10).collect::<Vec<u32>>(), (1..8).collect::<Vec<u64>>());
        insert_batch(map.as_fd(), &keys, &values).unwrap();
        let read = read::<u32>(&map);
        assert_eq!(read.len(), most as usize);
        assert_eq!(read.iter().filter(|value| **value != 0).copied().collect::<Vec<_>>(), values);
    }
}
