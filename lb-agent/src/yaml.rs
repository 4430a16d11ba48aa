//! YAML documents as nodes that know their line. What the parser would silently ignore, or not
//! survive, is refused here.
//!
//! Values are read out of the nodes by [`reader`]; what they mean is left to [`crate::config`] and
//! [`crate::source::spec`].

mod reader;

pub(crate) use self::reader::Reader;

use crate::model::Rejection;
use marked_yaml::types::{MarkedMappingNode, MarkedScalarNode};
use marked_yaml::{LoadError, LoaderOptions, Marker, Node, Span};
use std::fmt;

/// Deepest indentation accepted. The parser calls itself for every level, and a stack that
/// overflows takes the whole agent down.
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
    root: Node,
}

/// A value and the place to name when it is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'n> {
    node: &'n Node,
    /// Where it stands.
    pub(crate) place: Place,
}

// === impl Place ===

impl Place {
    fn of_marker(marker: Option<&Marker>) -> Self {
        marker.map_or_else(Self::default, |m| Self { line: m.line(), column: m.column() })
    }

    fn of_span(span: &Span) -> Self {
        Self::of_marker(span.start())
    }

    /// `origin:line:column`.
    pub(crate) fn within(self, origin: &str) -> String {
        if self.line == 0 { origin.to_owned() } else { format!("{origin}:{self}") }
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
            reason,
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if let Some((place, reason)) = unsupported(text) {
            return Err(reject(place, reason.to_owned()));
        }
        let options = LoaderOptions::default().prevent_coercion(true).error_on_duplicate_keys(true);
        // The parser guards some of its states with assertions; a file must not end the agent.
        let parsed =
            std::panic::catch_unwind(|| marked_yaml::parse_yaml_with_options(0, text, options));
        match parsed {
            Ok(Ok(root)) => Ok(Self { root }),
            Ok(Err(error)) => {
                let (place, reason) = explain(&error);
                Err(reject(place, reason))
            }
            Err(_) => Err(reject(
                Place::default(),
                "the YAML parser gave up on this file; simplify it".to_owned(),
            )),
        }
    }

    /// The whole document as a value.
    pub(crate) fn item(&self) -> Item<'_> {
        Item::new(&self.root)
    }

    /// Takes the list under a top-level key out of the document, so that its nodes, which are many
    /// times larger than the text, can be dropped one by one. `Err` is the place of something that
    /// is no list.
    pub(crate) fn take_list(&mut self, key: &str) -> Option<Result<Vec<Node>, Place>> {
        let root = self.root.as_mapping_mut()?;
        let key_place = root.keys().find(|k| k.as_str() == key).map(|k| Place::of_span(k.span()));
        match root.get_mut(key)? {
            Node::Sequence(list) => Some(Ok(std::mem::take(&mut **list))),
            other => Some(Err(key_place.unwrap_or_else(|| Item::new(other).place))),
        }
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

fn explain(error: &LoadError) -> (Place, String) {
    let (marker, reason) = match error {
        LoadError::ScanError(at, scan) => (at, format!("not valid YAML: {}", scan.info())),
        LoadError::TopLevelMustBeMapping(at) | LoadError::TopLevelMustBeSequence(at) => {
            (at, "the top level must be `key: value` lines, such as `services:`".to_owned())
        }
        LoadError::UnexpectedAnchor(at) => {
            (at, "YAML anchors (&name, *name) are not supported; write the value out".to_owned())
        }
        LoadError::MappingKeyMustBeScalar(at) => {
            (at, "a key must be a word, not a list or a mapping".to_owned())
        }
        LoadError::UnexpectedTag(at) => {
            (at, "YAML tags (!name) are not supported; remove the tag".to_owned())
        }
        LoadError::DuplicateKey(keys) => {
            let first = Place::of_span(keys.prev_key.span()).line;
            let reason = format!(
                "key `{}` stands twice, first on line {first}; remove one",
                keys.key.as_str()
            );
            return (Place::of_span(keys.key.span()), reason);
        }
    };
    (Place::of_marker(Some(marker)), reason)
}

// === impl Item ===

impl<'n> Item<'n> {
    /// A value by itself, such as a list item.
    pub(crate) fn new(node: &'n Node) -> Self {
        // The parser marks a block mapping at its first colon; its first key is where people look.
        let first_key = node.as_mapping().and_then(|map| map.keys().next());
        let span = first_key.map_or_else(|| node.span(), MarkedScalarNode::span);
        Self { node, place: Place::of_span(span) }
    }

    fn of_key(key: &'n MarkedScalarNode, node: &'n Node) -> Self {
        // An empty value is marked where the next token begins, which may be lines further down.
        match node {
            Node::Scalar(text) if !text.is_empty() => Self::new(node),
            _ => Self { node, place: Place::of_span(key.span()) },
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&'n str> {
        self.node.as_scalar().map(MarkedScalarNode::as_str)
    }

    /// The value under a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<Item<'n>> {
        let map = self.node.as_mapping()?;
        map.iter().find(|(k, _)| k.as_str() == key).map(|(k, v)| Self::of_key(k, v))
    }

    /// What it is, for an error.
    fn describe(&self) -> String {
        match self.node {
            Node::Scalar(text)
                if text.may_coerce() && matches!(text.as_str(), "" | "~" | "null") =>
            {
                "nothing".to_owned()
            }
            Node::Scalar(text) => format!("`{}`", text.as_str()),
            Node::Mapping(_) => "a mapping".to_owned(),
            Node::Sequence(_) => "a list".to_owned(),
        }
    }

    fn mapping(&self) -> Option<&'n MarkedMappingNode> {
        self.node.as_mapping()
    }

    /// Whether this is a mapping.
    pub(crate) fn is_mapping(&self) -> bool {
        self.mapping().is_some()
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
    fn a_byte_order_mark_a_directive_and_json_are_read() {
        for text in ["\u{feff}a: 1", "%YAML 1.2\n---\na: 1", "{\n\t\"a\": \"1\"\n}"] {
            let document = Document::parse("f", text).unwrap();
            assert_eq!(document.item().get("a").and_then(|a| a.text()), Some("1"), "{text}");
        }
    }
}
