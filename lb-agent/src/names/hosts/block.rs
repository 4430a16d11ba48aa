//! The marked block in the text of a hosts file: finding it, replacing it, taking it out.
//!
//! Pure, on bytes: what is not the block is not ours, and comes out as it went in, byte for byte. A
//! file that ends within a line gets the block at its beginning, since after that line there would
//! have to be a line end that nobody could tell from the owner's.

use crate::names::records::Records;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

/// How the block's first line begins, and its last.
const BEGIN: &str = "# BEGIN lb-agent";
const END: &str = "# END lb-agent";

/// Why a file's block can't be told from the rest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error(
        "the block that begins on line {0} does not end: put `{END}` after its last line, or \
         remove line {0}"
    )]
    Unended(usize),
    #[error("line {0} ends a block that did not begin: remove it")]
    Unbegun(usize),
    #[error(
        "a second block begins on line {second}, the first on line {first}: remove one of them"
    )]
    Second { first: usize, second: usize },
}

/// The block for these names. Until all is known (`complete`), names that stood in the block before
/// stay in it: what is missing may only be late.
pub(super) fn render(records: &Records, before: Option<&[u8]>, complete: bool) -> String {
    let mut block = format!("{BEGIN}: names of services, kept by lb-agent; edits here are lost\n");
    for (name, entry) in records.names() {
        for address in entry.addresses() {
            // Writing to a string succeeds.
            let _ = writeln!(block, "{address} {name}");
        }
    }
    if let Some(before) = before.filter(|_| !complete) {
        let known: BTreeSet<&str> = records.names().map(|(name, _)| name).collect();
        let before = String::from_utf8_lossy(before);
        for line in before.lines().filter(|line| !line.starts_with('#')) {
            if line.split_whitespace().nth(1).is_some_and(|name| !known.contains(name)) {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    block.push_str(END);
    block.push('\n');
    block
}

/// The block that stands in the file.
pub(super) fn find(text: &[u8]) -> Result<Option<Range<usize>>, Damage> {
    let mut begin: Option<(usize, usize)> = None;
    let mut found: Option<(usize, Range<usize>)> = None;
    let mut at = 0;
    for (number, line) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
        let end = at + line.len();
        if is_marker(line, BEGIN) {
            let first = begin.map(|(first, _)| first).or(found.as_ref().map(|(first, _)| *first));
            if let Some(first) = first {
                return Err(Damage::Second { first, second: number });
            }
            begin = Some((number, at));
        } else if is_marker(line, END) {
            let (first, start) = begin.take().ok_or(Damage::Unbegun(number))?;
            found = Some((first, start..end));
        }
        at = end;
    }
    match begin {
        Some((number, _)) => Err(Damage::Unended(number)),
        None => Ok(found.map(|(_, range)| range)),
    }
}

/// The text with this block in place of the one it has, or with none.
pub(super) fn replace(text: &[u8], block: Option<&str>) -> Result<Vec<u8>, Damage> {
    let block = block.unwrap_or_default().as_bytes();
    let range = match find(text)? {
        Some(range) => range,
        None if text.is_empty() || text.ends_with(b"\n") => text.len()..text.len(),
        None => 0..0,
    };
    Ok([&text[..range.start], block, &text[range.end..]].concat())
}

/// Whether the line is this marker, whatever follows it after a space or a colon.
fn is_marker(line: &[u8], marker: &str) -> bool {
    let rest = line.trim_ascii().strip_prefix(marker.as_bytes());
    rest.is_some_and(|rest| rest.first().is_none_or(|byte| b" \t:".contains(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::records::tests::records;
    use proptest::prelude::*;

    const BLOCK: &str = "# BEGIN lb-agent: x\n10.0.0.1 web.lb.internal\n# END lb-agent\n";

    #[test]
    fn a_block_has_every_address_of_every_name() {
        let records = records(&[
            ("team/db", &["10.0.0.2:1", "[fd00::2]:1"]),
            ("web", &["10.0.0.1:80", "10.0.0.1:443"]),
        ]);
        let lines = "10.0.0.2 db.team.lb.internal\nfd00::2 db.team.lb.internal\n\
                     10.0.0.1 web.lb.internal\n";
        let block = |middle: &str| {
            let first =
                "# BEGIN lb-agent: names of services, kept by lb-agent; edits here are lost";
            format!("{first}\n{middle}# END lb-agent\n")
        };
        assert_eq!(render(&records, None, true), block(lines));
        // What is not known yet stays; what is known is as it is now.
        let before = block("10.0.0.9 web.lb.internal\n10.0.0.8 old.lb.internal\nnonsense\n");
        assert_eq!(render(&records, Some(before.as_bytes()), true), block(lines));
        let kept = block(&format!("{lines}10.0.0.8 old.lb.internal\n"));
        assert_eq!(render(&records, Some(before.as_bytes()), false), kept);
    }

    #[test]
    fn the_block_goes_where_it_was_or_to_the_end() {
        let table: &[(&str, &str)] = &[
            ("", BLOCK),
            ("127.0.0.1 localhost\n", "127.0.0.1 localhost\nBLOCK"),
            ("127.0.0.1 localhost\r\n", "127.0.0.1 localhost\r\nBLOCK"),
            ("127.0.0.1 localhost", "BLOCK127.0.0.1 localhost"),
            ("a\n# BEGIN lb-agent\nb\n# END lb-agent\nc", "a\nBLOCKc"),
            ("a\r\n# BEGIN lb-agent: y\r\n# END lb-agent\r\n\r\nc\r\n", "a\r\nBLOCK\r\nc\r\n"),
            ("a\n  # BEGIN lb-agent x\n\t# END lb-agent", "a\nBLOCK"),
            // Others' blocks, some of which look alike.
            (
                "# BEGIN ANSIBLE\n1\n# END ANSIBLE\n# BEGIN lb-agent-2\n# END lb-agents\n",
                "# BEGIN ANSIBLE\n1\n# END ANSIBLE\n# BEGIN lb-agent-2\n# END lb-agents\nBLOCK",
            ),
            ("## BEGIN lb-agent\nx # END lb-agent\n", "## BEGIN lb-agent\nx # END lb-agent\nBLOCK"),
        ];
        for (before, after) in table {
            let after = after.replace("BLOCK", BLOCK);
            let replaced = replace(before.as_bytes(), Some(BLOCK)).unwrap();
            assert_eq!(String::from_utf8_lossy(&replaced), after, "{before:?}");
            assert_eq!(replace(&replaced, Some(BLOCK)).unwrap(), replaced, "{before:?}");
        }
    }

    #[test]
    fn a_damaged_block_is_refused() {
        for (text, damage) in [
            ("a\n# BEGIN lb-agent\nb\n", Damage::Unended(2)),
            ("# END lb-agent\n", Damage::Unbegun(1)),
            ("# END lb-agent\n# BEGIN lb-agent\n", Damage::Unbegun(1)),
            ("# BEGIN lb-agent\n\n# BEGIN lb-agent\n", Damage::Second { first: 1, second: 3 }),
            (&format!("{BLOCK}{BLOCK}"), Damage::Second { first: 1, second: 4 }),
            (&format!("{BLOCK}# END lb-agent"), Damage::Unbegun(4)),
        ] {
            for block in [Some(BLOCK), None] {
                assert_eq!(replace(text.as_bytes(), block), Err(damage.clone()), "{text:?}");
            }
        }
        assert!(Damage::Unended(7).to_string().contains("`# END lb-agent` after its last line"));
    }

    /// Files of others' lines, blocks that look like ours, and bytes without sense.
    fn file() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just(b"127.0.0.1 localhost".to_vec()),
            Just(b"# BEGIN lb-agent2".to_vec()),
            Just(b"# END other".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..8),
        ];
        let end = prop_oneof![Just(b"\n".to_vec()), Just(b"\r\n".to_vec())];
        let lines = proptest::collection::vec((line, end), 0..6);
        (lines, proptest::collection::vec(any::<u8>(), 0..6)).prop_map(|(lines, rest)| {
            let mut text: Vec<u8> = lines.into_iter().flat_map(|(l, e)| [l, e].concat()).collect();
            text.extend(rest);
            text
        })
    }

    proptest! {
        /// Whatever the file: the block comes and changes and goes, and every other byte stays.
        #[test]
        fn all_else_stays(text in file()) {
            let with = replace(&text, Some(BLOCK)).unwrap();
            let range = find(&with).unwrap().unwrap();
            prop_assert_eq!(&with[range.clone()], BLOCK.as_bytes());
            prop_assert_eq!([&with[..range.start], &with[range.end..]].concat(), text.clone());
            let other = BLOCK.replace("10.0.0.1", "10.0.0.2");
            let changed = replace(&with, Some(&other)).unwrap();
            prop_assert_eq!(changed.len(), with.len());
            prop_assert_eq!(replace(&changed, None).unwrap(), text);
        }

        /// With one block of ours between any others, only that is replaced.
        #[test]
        fn only_ours_is_replaced(before in file(), after in file()) {
            let cut = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let before = &before[..cut];
            let text = [before, BLOCK.as_bytes(), &after].concat();
            let other = BLOCK.replace("web", "other");
            let replaced = replace(&text, Some(&other)).unwrap();
            prop_assert_eq!(replaced, [before, other.as_bytes(), &after].concat());
            prop_assert_eq!(replace(&text, None).unwrap(), [before, &after].concat());
        }
    }
}
