//! The kernel side as `build.rs` has compiled and packed it: it is on every host, and packed a quarter as large.

use super::AttachError;
use super::attach::failed;
use lb_common::features;
use miniz_oxide::inflate::decompress_to_vec_zlib;

static USUAL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lb-bpf.o.z"));
/// The one for kernels without [`features::ATOMICS`].
static NO_FETCH: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lb-bpf-no-fetch.o.z"));

/// An object of programs, tables and their types.
pub(super) struct Unpacked {
    /// The loader reads numbers of eight bytes in place.
    words: Vec<u64>,
    length: usize,
}

/// The object for a kernel with these features, bits of [`lb_common::features`].
pub(super) fn unpack(features: u32) -> Result<Unpacked, AttachError> {
    let packed = if features & features::ATOMICS == 0 { NO_FETCH } else { USUAL };
    let bytes = decompress_to_vec_zlib(packed)
        .map_err(failed("unpacking the embedded object; build lb-agent again from a clean tree"))?;
    Ok(Unpacked::from(&*bytes))
}

// === impl Unpacked ===

impl Unpacked {
    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.length]
    }
}

impl From<&[u8]> for Unpacked {
    fn from(bytes: &[u8]) -> Self {
        let mut words = vec![0_u64; bytes.len().div_ceil(size_of::<u64>())];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self { words, length: bytes.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_as_it_was_before_it_was_packed() {
        for features in [0, features::ATOMICS] {
            let unpacked = unpack(features).unwrap();
            assert!(unpacked.bytes().starts_with(b"\x7fELF"));
            assert!(unpacked.bytes().as_ptr().cast::<u64>().is_aligned());
        }
        for length in 0..20_u8 {
            let bytes: Vec<u8> = (1..=length).collect();
            assert_eq!(Unpacked::from(&*bytes).bytes(), bytes);
        }
    }
}
