//! Where a structure of the running kernel has a member, from the kernel's own description of its
//! types. The kernel library reads this format, too, but keeps what it finds to itself.

use std::fs;
use std::io;
use std::path::Path;

/// The kernel's description of its types.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offset in bytes of the 32-bit number `member` of `structure`, in the description at `path`.
pub(super) fn offset_of_u32(path: &Path, structure: &str, member: &str) -> Result<u32, String> {
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "it has no CONFIG_DEBUG_INFO_BTF".to_owned(),
        _ => format!("{}: {error}", path.display()),
    })?;
    let damaged = || format!("{}: not in the format that is known", path.display());
    let btf = Btf::parse(&bytes).ok_or_else(damaged)?;
    match btf.find(structure, member).ok_or_else(damaged)? {
        Some(offset) => Ok(offset),
        None => Err(format!("it has no 32-bit number `{member}` in a `struct {structure}`")),
    }
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// A type: its header, and what follows it.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Bitfields may be among the members, and the offsets hold their widths.
    has_bitfields: bool,
    size: u32,
    rest: &'a [u8],
}

struct Member {
    name: u32,
    kind: u32,
    /// In bits.
    offset: u32,
    /// In bits; 0 if it is no bitfield.
    width: u32,
}

const INT: u32 = 1;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// How deep anonymous structures are nested at most.
const DEPTH: u32 = 8;

// === impl Btf ===

impl<'a> Btf<'a> {
    /// `None` if the format is not what it should be.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        const MAGIC: u16 = 0xeb9f;
        if bytes.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let body = bytes.get(word(bytes, 1)? as usize..)?;
        let section = |offset: usize| {
            let first = word(bytes, offset)? as usize;
            body.get(first..first.checked_add(word(bytes, offset + 1)? as usize)?)
        };
        Some(Self { types: section(2)?, strings: section(4)? })
    }

    /// Where the member is; the outer `None` if the description is damaged.
    fn find(&self, structure: &str, member: &str) -> Option<Option<u32>> {
        let mut rest = self.types;
        while !rest.is_empty() {
            let (found, others) = Type::parse(rest)?;
            rest = others;
            if found.kind == STRUCT && self.is_named(found.name, structure) {
                let bits = self.find_in(found, member, DEPTH)?;
                return Some(bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8));
            }
        }
        Some(None)
    }

    /// Where in `structure`, in bits; members of anonymous structures are its own.
    fn find_in(&self, structure: Type<'_>, name: &str, depth: u32) -> Option<Option<u32>> {
        for bytes in structure.rest.chunks_exact(12) {
            let member = Member::parse(bytes, structure.has_bitfields)?;
            if self.is_named(member.name, name) {
                let of = self.by_id(member.kind)?;
                let fits = of.kind == INT && of.size == 4 && member.width == 0;
                return Some(fits.then_some(member.offset));
            }
            if self.is_named(member.name, "") && depth > 0 {
                let inner = self.by_id(member.kind)?;
                if [STRUCT, UNION].contains(&inner.kind)
                    && let Some(offset) = self.find_in(inner, name, depth - 1)?
                {
                    return Some(member.offset.checked_add(offset));
                }
            }
        }
        Some(None)
    }

    /// Type 1 is the first; 0 is `void`, which is never asked for here.
    fn by_id(&self, id: u32) -> Option<Type<'a>> {
        let mut rest = self.types;
        for _ in 1..id {
            rest = Type::parse(rest)?.1;
        }
        Some(Type::parse(rest)?.0)
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let text = self.strings.get(offset as usize..).unwrap_or_default();
        text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

// === impl Type ===

impl<'a> Type<'a> {
    /// The first type of `bytes`, and what comes after it.
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let info = word(bytes, 1)?;
        let (kind, members) = (info >> 24 & 0x1f, info as usize & 0xffff);
        let length = match kind {
            // Pointers, forward declarations, typedefs, qualifiers, functions, floats, tags of types.
            2 | 7..=12 | 16 | 18 => 0,
            // Integers, variables, tags of declarations.
            INT | 14 | 17 => 4,
            // Arrays.
            3 => 12,
            // Enumerations of 32 bits, prototypes.
            6 | 13 => members * 8,
            // Structures, unions, sections, enumerations of 64 bits.
            STRUCT | UNION | 15 | 19 => members * 12,
            _ => return None,
        };
        let (rest, others) = bytes.get(12..)?.split_at_checked(length)?;
        let (name, size) = (word(bytes, 0)?, word(bytes, 2)?);
        Some((Self { name, kind, has_bitfields: info >> 31 == 1, size, rest }, others))
    }
}

// === impl Member ===

impl Member {
    fn parse(bytes: &[u8], has_bitfields: bool) -> Option<Self> {
        let (name, kind, offset) = (word(bytes, 0)?, word(bytes, 1)?, word(bytes, 2)?);
        let (offset, width) =
            if has_bitfields { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
        Some(Self { name, kind, offset, width })
    }
}

/// The 32-bit word number `index`.
fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let bytes = bytes.get(index * 4..index * 4 + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[u8] = b"\0int\0sock\0a\0sk_err\0deep\0bits\0short\0";

    fn name(text: &str) -> u32 {
        let wanted = [b"\0", text.as_bytes(), b"\0"].concat();
        let at = NAMES.windows(wanted.len()).position(|window| window == wanted).unwrap();
        u32::try_from(at + 1).unwrap()
    }

    /// struct sock { struct {} *a; union { int deep; }; int sk_err; int bits: 3; short short; };
    fn description() -> Vec<u8> {
        let kind = |kind: u32, members: u32| kind << 24 | members;
        let types: Vec<u32> = [
            vec![name("int"), kind(INT, 0), 4, 32],
            vec![name("short"), kind(INT, 0), 2, 16],
            vec![0, kind(2, 0), 1],
            vec![0, kind(UNION, 1), 4, name("deep"), 1, 0],
            vec![0, kind(UNION, 0), 0],
            vec![name("sock"), kind(STRUCT, 5) | 1 << 31, 24],
            vec![name("a"), 3, 0],
            vec![0, 4, 64],
            vec![name("sk_err"), 1, 96],
            vec![name("bits"), 1, 3 << 24 | 128],
            vec![name("short"), 2, 160],
        ]
        .concat();
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let types: Vec<u8> = words(&types);
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let mut bytes = [0xeb9f_u16.to_ne_bytes(), [1, 0]].concat();
        let header: Vec<u8> = words(&[24, 0, length(&types), length(&types), length(NAMES)]);
        bytes.extend([header, types, NAMES.to_vec()].concat());
        bytes
    }

    #[test]
    fn members_are_found_where_they_are() {
        let bytes = description();
        let btf = Btf::parse(&bytes).unwrap();
        for (member, offset) in [
            ("sk_err", Some(12)),
            ("deep", Some(8)),
            ("bits", None),
            ("short", None),
            ("a", None),
            ("absent", None),
        ] {
            assert_eq!(btf.find("sock", member), Some(offset), "{member}");
        }
        assert_eq!(btf.find("socket", "sk_err"), Some(None));
    }

    #[test]
    fn damage_is_no_panic() {
        let bytes = description();
        for length in 0..bytes.len() {
            if let Some(btf) = Btf::parse(&bytes[..length]) {
                btf.find("sock", "sk_err");
            }
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0xff;
            if let Some(btf) = Btf::parse(&bytes) {
                btf.find("sock", "sk_err");
            }
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let absent = offset_of_u32(Path::new("/does/not/exist"), "sock", "sk_err").unwrap_err();
        assert!(absent.contains("CONFIG_DEBUG_INFO_BTF"), "{absent}");
        let other = offset_of_u32(Path::new("/proc/self/maps"), "sock", "sk_err").unwrap_err();
        assert!(other.contains("/proc/self/maps: not in the format"), "{other}");
    }
}
