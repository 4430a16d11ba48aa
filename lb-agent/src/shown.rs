//! Foreign text on its way to somebody who looks. Pure.

/// The text on one line, without anything a terminal would act on or that turns the order of what
/// follows, and at most `longest` bytes and a mark of what is left out.
pub(crate) fn clean(text: &str, longest: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(longest + 4));
    for c in text.chars() {
        if shown.len() >= longest {
            shown.push_str("...");
            break;
        }
        if c.is_control() || is_invisible(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Line separators, marks and overrides of direction, and what has no width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::clean;
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
