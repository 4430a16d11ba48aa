//! Foreign text, made fit to be shown.

/// The text on one line, without anything a terminal would act on, and at most `longest` bytes and
/// a mark of what is left out.
pub(super) fn clean(text: &str, longest: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(longest + 4));
    for c in text.chars() {
        if shown.len() >= longest {
            shown.push_str("...");
            break;
        }
        if c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}
