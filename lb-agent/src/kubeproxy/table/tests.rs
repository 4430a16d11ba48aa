//! The table agrees with itself and with the documentation.

use super::Standing::{Honoured, NoEffect, Refused};
use super::*;
use std::collections::BTreeSet;

#[test]
fn nothing_stands_twice_and_defaults_are_of_their_kind() {
    let keys: BTreeSet<_> = ROWS.iter().map(Row::key).collect();
    assert_eq!(keys.len(), ROWS.len());
    let flags: Vec<_> = ROWS.iter().filter(|row| !row.flag.is_empty()).collect();
    let names: BTreeSet<_> = flags.iter().map(|row| row.flag).collect();
    assert_eq!(names.len(), flags.len());
    for row in &ROWS {
        let default: serde_json::Value = serde_json::from_str(row.default).unwrap();
        let taken = crate::kubeproxy::values::take(row.kind, &default);
        assert!(taken.is_ok(), "{}: {taken:?}", row.key());
        assert!(!is_group(row.key()), "{}", row.key());
    }
}

#[test]
fn the_documentation_has_the_same_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kubernetes.md");
    let text = std::fs::read_to_string(path).unwrap();
    let quoted = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
    let mut wanted = String::new();
    for row in &ROWS {
        let flag = if row.flag.is_empty() { String::new() } else { row.dashed() };
        let (standing, what) = match row.standing {
            Honoured(what) => ("honoured", what),
            NoEffect(why) => ("no effect", why),
            Refused(why) => ("refused", why),
        };
        let (flag, field) = (quoted(flag), quoted(row.field.to_owned()));
        wanted.push_str(&format!("| {flag} | {field} | {standing} | {what} |\n"));
    }
    assert!(text.contains(&wanted), "docs/kubernetes.md lacks this table:\n{wanted}");
}
