//! Foreign text on its way to somebody who looks. Pure.

use std::borrow::Cow;

/// The text on one line, without anything a terminal would act on or that turns the order of what
/// follows, and at most `longest` bytes and a mark of what is left out.
pub(crate) fn clean(text: &str, longest: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(longest.saturating_add(4)));
    for c in text.chars() {
        if shown.len() >= longest {
            shown.push_str("...");
            break;
        }
        if acts(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The same of any length.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    // Nearly all are plain, and there are hundreds of thousands in an answer.
    let is_plain = text.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    if is_plain || !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(clean(text, usize::MAX))
}

/// The first `most` characters on one line, and a mark of what is left out. What a terminal would act on
/// becomes a space: for what programs print, of which that is no part that anybody misses.
pub(crate) fn flat(text: &str, most: usize) -> String {
    let cut = text.char_indices().nth(most).map(|(at, _)| at);
    let kept = cut.map_or(text, |at| &text[..at]);
    let mut flat: String = kept.chars().map(|c| if acts(c) { ' ' } else { c }).collect();
    if cut.is_some() {
        flat.push_str("...");
    }
    flat
}

/// The same text, its lines as they are, with everything else that a terminal would act on written out
/// as JSON and YAML write it in a string.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c != '\n' && acts(c);
    // Most texts are plain, and that is seen fastest by many bytes at a time, without a branch for each.
    let is_plain = |byte: &u8| *byte == b'\n' || (b' '..0x7f).contains(byte);
    let all_plain = |bytes: &[u8]| bytes.iter().fold(true, |plain, byte| plain & is_plain(byte));
    if text.as_bytes().chunks(256).all(all_plain) || !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn acts(c: char) -> bool {
    c.is_control() || is_invisible(c)
}

/// Line separators, marks and overrides of direction, and what has no width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::{clean, flat, line, printable};
    use proptest::prelude::*;

    #[test]
    fn what_acts_is_written_out() {
        for (text, longest, expected) in [
            ("größer", 40, "größer"),
            ("a\nb\x1b[2J", 40, "a\\nb\\u{1b}[2J"),
            ("a\u{202e}b\u{200b}\u{2066}", 40, "a\\u{202e}b\\u{200b}\\u{2066}"),
            ("0123456789abc", 10, "0123456789..."),
            ("<b>", 40, "<b>"),
        ] {
            assert_eq!(clean(text, longest), expected);
        }
    }

    #[test]
    fn labels_are_of_any_length() {
        let long = "x".repeat(100_000);
        assert_eq!(line(&long), long);
        assert_eq!(line("file:/etc/lb \"x\"\\"), "file:/etc/lb \"x\"\\");
        assert_eq!(line("a\n\x1b[2J\u{9b}\u{202e}b"), "a\\n\\u{1b}[2J\\u{9b}\\u{202e}b");
    }

    #[test]
    fn what_programs_print_is_cut_and_flat() {
        assert_eq!(flat("L7OK 200", 8), "L7OK 200");
        assert_eq!(flat("a\x1b[31mb\r\nc\u{9b}d\u{202e}", 100), "a [31mb  c d ");
        assert_eq!(flat("\u{e4}\u{f6}\u{fc}", 2), "\u{e4}\u{f6}...");
    }

    #[test]
    fn lines_stay_lines_and_json_stays_json() {
        assert_eq!(printable("größer\n  b\n"), "größer\n  b\n");
        let hostile = "a\u{9b}2J\u{7f}\u{202e}\u{feff}\u{1b}";
        assert_eq!(printable(hostile), "a\\u009b2J\\u007f\\u202e\\ufeff\\u001b");
        let written = serde_json::to_string(hostile).unwrap();
        let shown = printable(&written);
        assert!(!shown.contains(|c: char| c.is_control() || c == '\u{202e}'), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), hostile);
    }

    proptest! {
        #[test]
        fn nothing_acts_and_nothing_is_endless(text in any::<String>(), longest in 0usize..50) {
            let shown = clean(&text, longest);
            prop_assert!(!shown.contains(char::is_control));
            // One character that is written out, and the mark.
            prop_assert!(shown.len() <= longest + 10 + 3);
        }
    }
}
