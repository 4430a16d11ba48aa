//! Decides which known name a misspelt one was probably meant to be. Pure.

/// Longest text, in characters, that anything is suggested for; longer ones are no slips, and comparing
/// them with thousands of names would take seconds.
const LONGEST: usize = 300;

/// The name closest to `wanted`, if one is close enough to be worth suggesting: one that contains
/// it (`kubernetes` for `default/kubernetes:https`), or one with few edits between them.
pub(crate) fn closest<'a>(
    wanted: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = wanted.chars().count();
    if length > LONGEST {
        return None;
    }
    let folded = wanted.to_ascii_lowercase();
    let most_edits = (length / 3).max(1);
    names
        .into_iter()
        .filter_map(|name| {
            let other = name.to_ascii_lowercase();
            let contains = folded.len() >= 3 && other.contains(&folded);
            if !contains && other.chars().count().abs_diff(length) > most_edits {
                return None;
            }
            let edits = edits(&folded, &other);
            (edits <= most_edits || contains).then_some((edits, name))
        })
        // The name itself breaks ties, so that the answer does not depend on the order.
        .min()
        .map(|(_, name)| name)
}

/// Least number of insertions, deletions, replacements and swaps of neighbours that turn `a` into
/// `b` (optimal string alignment): a swap is the commonest slip of fingers, so it counts as one.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // row[j]: edits between the part of `a` seen so far and the first j characters of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut above = Vec::new();
    let mut last = None;
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replaced = row[j] + usize::from(from != *to);
            let mut least = replaced.min(row[j + 1] + 1).min(next[j] + 1);
            if j > 0 && last == Some(*to) && b[j - 1] == from {
                least = least.min(above[j - 1] + 1);
            }
            next.push(least);
        }
        last = Some(from);
        above = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, closest, edits};
    use proptest::prelude::*;

    #[test]
    fn suggestions() {
        let names = ["dns", "web", "web-internal", "default/kubernetes:https"];
        for (wanted, expected) in [
            ("wbe-internal", Some("web-internal")),
            ("wev", Some("web")),
            ("wbe", Some("web")),
            ("WEB", Some("web")),
            ("kubernetes", Some("default/kubernetes:https")),
            ("internal", Some("web-internal")),
            ("payments", None),
            ("x", None),
        ] {
            assert_eq!(closest(wanted, names), expected, "{wanted}");
        }
        let long = "web".repeat(LONGEST);
        assert_eq!(closest(&long, [long.as_str()]), None);
    }

    #[test]
    fn known_distances() {
        for (a, b, distance) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!(edits(a, b), distance, "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn distance_has_its_bounds(a in "[abc]{0,6}", b in "[abc]{0,6}") {
            let distance = edits(&a, &b);
            prop_assert_eq!(distance, edits(&b, &a));
            prop_assert_eq!(distance == 0, a == b);
            prop_assert!(distance >= a.len().abs_diff(b.len()));
            prop_assert!(distance <= a.len().max(b.len()));
        }
    }
}
