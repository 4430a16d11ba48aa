//! Reads plain values out of nodes, and collects everything that is wrong with them instead of
//! stopping at the first problem.
//!
//! Reading goes on after a problem with a stand-in value: whoever asks for an item compares
//! [`Reader::count`] before and after, and drops the item if it grew.

use super::{Item, Place};
use crate::model::Rejection;
use marked_yaml::types::MarkedScalarNode;
use std::fmt;
use std::ops::RangeInclusive;

/// A key of a mapping with its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'n> {
    /// The key.
    pub(crate) key: &'n str,
    /// The value.
    pub(crate) item: Item<'n>,
}

/// Reads values out of nodes and collects what is wrong with them.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    origin: &'a str,
    /// The service that problems are reported for.
    pub(crate) service: Option<String>,
    /// What was wrong so far.
    pub(crate) rejections: Vec<Rejection>,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// A reader of the document called `origin`.
    pub(crate) fn new(origin: &'a str) -> Self {
        Self { origin, service: None, rejections: Vec::new() }
    }

    /// Problems so far.
    pub(crate) fn count(&self) -> usize {
        self.rejections.len()
    }

    /// Notes a problem.
    pub(crate) fn reject(&mut self, place: Place, reason: impl Into<String>) {
        self.rejections.push(Rejection {
            origin: place.within(self.origin),
            service: self.service.clone(),
            reason: reason.into(),
        });
    }

    /// Notes that `item` is not `what`.
    pub(crate) fn mismatch(&mut self, item: Item<'_>, what: &str) {
        self.reject(item.place, format!("expected {what}, found {}", item.describe()));
    }

    /// The fields of a mapping; unknown ones are noted with the allowed ones, and left out.
    pub(crate) fn fields<'n>(
        &mut self,
        item: Item<'n>,
        what: &str,
        allowed: &[&str],
    ) -> Vec<Field<'n>> {
        let Some(map) = item.mapping() else {
            self.mismatch(item, what);
            return Vec::new();
        };
        let mut fields = Vec::with_capacity(map.len());
        for (key, node) in map.iter() {
            if allowed.contains(&key.as_str()) {
                fields.push(Field { key: key.as_str(), item: Item::of_key(key, node) });
            } else {
                let reason = format!("unknown field `{}`; use {}", key.as_str(), one_of(allowed));
                self.reject(Place::of_span(key.span()), reason);
            }
        }
        fields
    }

    /// The items of a list.
    pub(crate) fn list<'n>(
        &mut self,
        item: Item<'n>,
        what: &str,
    ) -> impl Iterator<Item = Item<'n>> + use<'n> {
        let list = item.node.as_sequence();
        if list.is_none() {
            self.mismatch(item, what);
        }
        list.into_iter().flat_map(|list| list.iter()).map(Item::new)
    }

    /// A value parsed from text.
    pub(crate) fn parse<T, E: fmt::Display>(
        &mut self,
        item: Item<'_>,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match item.text().filter(|text| !text.is_empty()).map(parse) {
            Some(Ok(value)) => return Some(value),
            Some(Err(error)) => self.reject(item.place, error.to_string()),
            None => self.mismatch(item, what),
        }
        None
    }

    /// A whole number within `range`; the lowest if it is none.
    pub(crate) fn number(&mut self, item: Item<'_>, key: &str, range: RangeInclusive<u32>) -> u32 {
        let number = item.text().and_then(|text| text.parse::<u32>().ok());
        if let Some(number) = number.filter(|n| range.contains(n)) {
            return number;
        }
        let (low, high) = (range.start(), range.end());
        self.mismatch(item, &format!("a whole number from {low} to {high} for `{key}`"));
        *low
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, item: Item<'_>, key: &str) -> bool {
        let flag = item.node.as_scalar().and_then(MarkedScalarNode::as_bool);
        if flag.is_none() {
            self.mismatch(item, &format!("true or false for `{key}`"));
        }
        flag.unwrap_or(false)
    }

    /// One of a few words; the default if it is none of them.
    pub(crate) fn word<T>(&mut self, item: Item<'_>, key: &str, words: &[&str]) -> T
    where
        T: serde::de::DeserializeOwned + Default,
    {
        let known = item.text().is_some_and(|text| words.contains(&text));
        if let Some(word) = known.then(|| marked_yaml::from_node(item.node).ok()).flatten() {
            return word;
        }
        self.mismatch(item, &format!("{} for `{key}`", one_of(words)));
        T::default()
    }
}

/// "`a`, `b` or `c`".
fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_words() {
        assert_eq!(one_of(&["a"]), "`a`");
        assert_eq!(one_of(&["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
