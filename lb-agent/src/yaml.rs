//! YAML documents as nodes that know their line. What the parser would silently ignore, or not
//! survive, is refused here.
//!
//! Values are read out of the nodes by [`reader`]; what they mean is left to [`crate::config`] and
//! [`crate::source::spec`].

mod reader;
mod tree;

pub(crate) use self::reader::{Field, Reader};

use self::tree::{Tree, Value};
use crate::model::Rejection;
use crate::shown::line;
use serde_json::Value as Json;
use std::fmt;

/// Deepest indentation accepted: no document means to go deeper.
const MAX_INDENT: usize = 256;

/// A line and a column, counted from 1; all zero if unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The line.
    pub(crate) line: usize,
    /// The column, in characters.
    pub(crate) column: usize,
}

/// A YAML document whose top level is a mapping.
#[derive(Debug)]
pub(crate) struct Document {
    tree: Tree,
}

/// A value and the place to name when it is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'n> {
    value: Value<'n>,
    /// Where it stands.
    pub(crate) place: Place,
}

// === impl Place ===

impl Place {
    /// `origin:line:column`.
    pub(crate) fn within(self, origin: &str) -> String {
        if self.line == 0 { origin.to_owned() } else { format!("{origin}:{self}") }
    }

    /// ", first on line 7", of what stands twice.
    pub(crate) fn first(self) -> String {
        if self.line == 0 { String::new() } else { format!(", first on line {}", self.line) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

// === impl Document ===

impl Document {
    /// Parses one document. `origin` names it in the rejection.
    pub(crate) fn parse(origin: &str, text: &str) -> Result<Self, Rejection> {
        let reject = |place: Place, reason: String| Rejection {
            origin: place.within(origin),
            service: None,
            // Keys are in it.
            reason: line(&reason).into_owned(),
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if let Some((place, reason)) = unsupported(text) {
            return Err(reject(place, reason.to_owned()));
        }
        // The parser guards some of its states with assertions; a file must not end the agent.
        match std::panic::catch_unwind(|| Tree::parse(text)) {
            Ok(Ok(tree)) => Ok(Self { tree }),
            Ok(Err((place, reason))) => Err(reject(place, reason)),
            Err(_) => Err(reject(
                Place::default(),
                "the YAML parser gave up on this file; simplify it".to_owned(),
            )),
        }
    }

    /// Parses a JSON object. A field that is `null` is left out.
    pub(crate) fn from_json(text: &[u8]) -> Result<Self, String> {
        Tree::from_json(text).map(|tree| Self { tree })
    }

    /// The whole document as a value.
    pub(crate) fn item(&self) -> Item<'_> {
        Item::new(self.tree.root())
    }

    /// The items of the list under a top-level key. `Err` is the place of something that is no list.
    pub(crate) fn list(
        &self,
        key: &str,
    ) -> Option<Result<impl Iterator<Item = Item<'_>> + use<'_>, Place>> {
        let mut fields = self.tree.root().fields()?;
        let (key, value) = fields.find(|(k, _)| k.text() == Some(key))?;
        Some(value.items().map(|items| items.map(Item::new)).ok_or(key.place()))
    }
}

/// What the parser would silently ignore or not survive.
fn unsupported(text: &str) -> Option<(Place, &'static str)> {
    let mut begun = false;
    for (number, line) in text.lines().enumerate() {
        let place = Place { line: number + 1, column: 1 };
        let marker =
            |m: &str| line.strip_prefix(m).is_some_and(|r| r.is_empty() || r.starts_with(' '));
        if begun && (marker("---") || marker("...")) {
            return Some((place, "one YAML document per file; remove this line and what follows"));
        }
        let content = line.trim_start_matches([' ', '-', '?', ':', '\t']);
        if line.len() - content.len() > MAX_INDENT {
            return Some((place, "nested too deeply; indent by two spaces"));
        }
        let comment = line.trim_start().starts_with('#') || line.starts_with('%');
        begun |= marker("---") || !(line.trim().is_empty() || comment);
    }
    None
}

// === impl Item ===

impl<'n> Item<'n> {
    /// A value by itself, such as a list item.
    fn new(value: Value<'n>) -> Self {
        // The parser marks a block mapping at its first colon; its first key is where people look.
        let first_key = value.fields().and_then(|mut fields| fields.next()).map(|(key, _)| key);
        Self { value, place: first_key.unwrap_or(value).place() }
    }

    fn of_key(key: Value<'n>, value: Value<'n>) -> Self {
        // An empty value is marked where the next token begins, which may be lines further down.
        match value.text() {
            Some(text) if !text.is_empty() => Self::new(value),
            _ => Self { value, place: key.place() },
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&'n str> {
        self.value.text()
    }

    /// The value under a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<Item<'n>> {
        let mut fields = self.value.fields()?;
        fields.find(|(k, _)| k.text() == Some(key)).map(|(k, v)| Self::of_key(k, v))
    }

    /// The keys of a mapping with their values; none if it is none.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'n str, Item<'n>)> + use<'n> {
        let fields = self.value.fields().into_iter().flatten();
        fields.map(|(key, value)| (key.text().unwrap_or_default(), Self::of_key(key, value)))
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Option<impl Iterator<Item = Item<'n>> + use<'n>> {
        self.value.items().map(|items| items.map(Self::new))
    }

    /// Whether this is a mapping.
    pub(crate) fn is_mapping(&self) -> bool {
        self.value.fields().is_some()
    }

    /// The same as JSON. Of what is not in quotes, whole numbers, `true`, `false` and `null` are such;
    /// all else is text, so that nothing is lost of a `1.10`.
    pub(crate) fn json(&self) -> Json {
        if let Some(fields) = self.value.fields() {
            let field = |(key, value): (Value<'n>, Value<'n>)| {
                (key.text().unwrap_or_default().to_owned(), Self::new(value).json())
            };
            return Json::Object(fields.map(field).collect());
        }
        if let Some(items) = self.value.items() {
            return Json::Array(items.map(|value| Self::new(value).json()).collect());
        }
        let text = self.text().unwrap_or_default();
        match self.value.plain() {
            Some("" | "~" | "null") => Json::Null,
            Some("true") => Json::Bool(true),
            Some("false") => Json::Bool(false),
            Some(plain) => match plain.parse::<i64>() {
                // Not `007` and `+7`: they would be read as other text.
                Ok(number) if number.to_string() == plain => number.into(),
                _ => Json::from(text),
            },
            None => Json::from(text),
        }
    }

    /// What it is, for an error.
    fn describe(&self) -> String {
        match (self.value.plain(), self.text()) {
            (Some("" | "~" | "null"), _) => "nothing".to_owned(),
            (_, Some(text)) => format!("`{text}`"),
            (_, None) if self.is_mapping() => "a mapping".to_owned(),
            (_, None) => "a list".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_documents_name_the_place() {
        let deep = format!("a:\n {}x", "- ".repeat(100_000));
        let flow = format!("a: {}", "[".repeat(100_000));
        for (text, origin, part) in [
            ("a: [1\nb: 2", "f:2:2", "not valid YAML: illegal placement of ':'"),
            ("a: 1\nb: 'x", "f:2:4", "unexpected end of stream"),
            ("a: b: c", "f:1:5", "mapping values are not allowed"),
            ("a: 1\nb: 2\na: 3", "f:3:1", "key `a` stands twice, first on line 1"),
            ("- a", "f:1:1", "the top level must be"),
            ("a: &x 1", "f:1:7", "anchors"),
            ("a: *x", "f:1:4", "unknown anchor"),
            ("a: !!str b", "f:1:10", "tags"),
            ("? [a]\n: b", "f:1:3", "a key must be a word"),
            ("# x\n---\na: 1\n---\nb: 2", "f:4:1", "one YAML document per file"),
            ("a: 1\n...\nb: 2", "f:2:1", "one YAML document per file"),
            (&deep, "f:2:1", "nested too deeply"),
            (&flow, "f:1:259", "recursion limit"),
        ] {
            let error = Document::parse("f", text).unwrap_err();
            let short = text.get(..40).unwrap_or(text);
            assert_eq!(error.origin, origin, "{short}: {}", error.reason);
            assert!(error.reason.contains(part), "{short}: {}", error.reason);
        }
    }

    #[test]
    fn a_document_is_json_as_well() {
        let text = "a: [1, -2, \"3\", 1.10, 007, 0x10]\nb: {c: true, d: 'true', e: ~, f: }\ng: x\n";
        let document = Document::parse("f", text).unwrap();
        let expected = serde_json::json!({
            "a": [1, -2, "3", "1.10", "007", "0x10"],
            "b": {"c": true, "d": "true", "e": null, "f": null},
            "g": "x"
        });
        assert_eq!(document.item().json(), expected);
        let again = Document::parse("f", &expected.to_string()).unwrap();
        assert_eq!(again.item().json(), expected);
    }

    #[test]
    fn a_byte_order_mark_a_directive_and_json_are_read() {
        for text in ["\u{feff}a: 1", "%YAML 1.2\n---\na: 1", "{\n\t\"a\": \"1\"\n}"] {
            let document = Document::parse("f", text).unwrap();
            assert_eq!(document.item().get("a").and_then(|a| a.text()), Some("1"), "{text}");
        }
    }
}
