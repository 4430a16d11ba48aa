//! Reads plain values out of nodes, and collects everything that is wrong with them instead of
//! stopping at the first problem.
//!
//! Reading goes on after a problem with a stand-in value: whoever asks for an item compares
//! [`Reader::count`] before and after, and drops the item if it grew.

use super::{Item, Place};
use crate::keys::{Form, Key, Mapping};
use crate::model::Rejection;
use crate::shown::clean;
use serde::de::DeserializeOwned;
use serde::de::value::{Error as WordError, StrDeserializer};
use std::fmt;

/// Longest reason, in bytes.
const LONGEST_REASON: usize = 4096;

/// A key of a mapping with its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'n> {
    /// The key.
    pub(crate) key: &'static str,
    /// The value.
    pub(crate) item: Item<'n>,
    /// What it shall look like.
    form: &'static Form,
}

/// Reads values out of nodes and collects what is wrong with them.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    origin: &'a str,
    /// The service that problems are reported for.
    pub(crate) service: Option<String>,
    /// What was wrong so far.
    pub(crate) rejections: Vec<Rejection>,
    /// Fields that were ignored, if that is the way here.
    pub(crate) ignored: Option<Vec<String>>,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// A reader of the document called `origin`.
    pub(crate) fn new(origin: &'a str) -> Self {
        Self { origin, service: None, rejections: Vec::new(), ignored: None }
    }

    /// A reader that ignores unknown fields, and notes them.
    pub(crate) fn tolerant(origin: &'a str) -> Self {
        Self { ignored: Some(Vec::new()), ..Self::new(origin) }
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
            // There may be any text of the file in it.
            reason: clean(&reason.into(), LONGEST_REASON),
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
        mapping: &Mapping,
    ) -> Vec<Field<'n>> {
        let Some(found) = item.value.fields() else {
            self.mismatch(item, what);
            return Vec::new();
        };
        let mut fields = Vec::new();
        for (key, value) in found {
            let name = key.text().unwrap_or_default();
            if let Some(Key { name, form, .. }) = mapping.key(name) {
                fields.push(Field { key: name, item: Item::of_key(key, value), form });
            } else {
                let allowed: Vec<&str> = mapping.keys().map(|key| key.name).collect();
                let use_these = one_of(&allowed);
                match &mut self.ignored {
                    None => {
                        let reason = format!("unknown field `{name}`; use {use_these}");
                        self.reject(key.place(), reason);
                    }
                    Some(ignored) => {
                        ignored.push(format!("unknown field `{name}` is ignored; use {use_these}"))
                    }
                }
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
        let items = item.value.items();
        if items.is_none() {
            self.mismatch(item, what);
        }
        items.into_iter().flatten().map(Item::new)
    }

    /// The items of a list, or the one item that stands in its place.
    pub(crate) fn one_or_more<'n>(&mut self, item: Item<'n>) -> Vec<Item<'n>> {
        match item.value.items() {
            Some(items) => items.map(Item::new).collect(),
            None => vec![item],
        }
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

    /// A whole number within the key's range; the lowest if it is none.
    pub(crate) fn number(&mut self, field: Field<'_>) -> u32 {
        let Field { key, item, form } = field;
        let Form::Number(low, high) = *form else {
            unreachable!("`{key}` is no number in the list of keys")
        };
        let number = item.text().and_then(|text| text.parse::<u32>().ok());
        if let Some(number) = number.filter(|n| (low..=high).contains(n)) {
            return number;
        }
        self.mismatch(item, &format!("a whole number from {low} to {high} for `{key}`"));
        low
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, item: Item<'_>, key: &str) -> bool {
        match item.value.plain() {
            Some("true" | "True" | "TRUE") => return true,
            Some("false" | "False" | "FALSE") => {}
            _ => self.mismatch(item, &format!("true or false for `{key}`")),
        }
        false
    }

    /// One of the key's words.
    pub(crate) fn word<T: DeserializeOwned>(&mut self, field: Field<'_>) -> Option<T> {
        let Field { key, item, form } = field;
        let Form::Words(words) = *form else {
            unreachable!("`{key}` has no words in the list of keys")
        };
        let known = item.text().filter(|text| words.contains(text));
        let read = |text| T::deserialize(StrDeserializer::<WordError>::new(text)).ok();
        let word = known.and_then(read);
        if word.is_none() {
            self.mismatch(item, &format!("{} for `{key}`", one_of(words)));
        }
        word
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
