//! The values of a document, made from the parser's events. What is no tree of plain values is
//! refused here; what the values mean is left to whoever reads them.
//!
//! A file of 100,000 backends is some 700,000 values. Nodes that each own memory would take
//! hundreds of megabytes, which the allocator does not give back afterwards; here they share two
//! pieces, one of nodes and one of text.

mod json;

use super::Place;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::scanner::{Marker, TScalarStyle};

/// Longest text accepted: neither its values nor their characters can be more than fit in 32 bits.
const MAX_BYTES: usize = 1 << 30;

/// All values of a document; the top level, a mapping, comes first. There are none in an empty one.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    text: String,
}

/// A value, or the key of one.
#[derive(Clone, Copy, Debug)]
struct Node {
    line: u32,
    column: u32,
    kind: Kind,
}

/// What a value is. What a list or a mapping holds follows it, up to the node `end`; keys and
/// values of a mapping take turns.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `begin..end` of the text; `plain` if it is not in quotes.
    Scalar {
        begin: u32,
        end: u32,
        plain: bool,
    },
    List {
        end: u32,
    },
    Mapping {
        end: u32,
    },
}

/// One value of a tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'t> {
    tree: &'t Tree,
    index: u32,
    node: Node,
}

/// Values that stand side by side.
#[derive(Debug)]
pub(super) struct Values<'t> {
    tree: &'t Tree,
    next: u32,
    end: u32,
}

/// Why there is no tree: where, and what is wrong there.
pub(super) type Problem = (Place, String);

/// A list or a mapping whose end has not come yet.
struct Open {
    index: usize,
    /// Of a mapping: the keys so far, with their lines.
    keys: Option<BTreeMap<String, usize>>,
    /// Whether the last key waits for its value.
    keyed: bool,
}

/// A tree that grows.
struct Builder {
    tree: Tree,
    open: Vec<Open>,
}

// === impl Tree ===

impl Tree {
    /// Reads a document.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_BYTES {
            let reason = "larger than 1 GiB; split it into several files";
            return Err((Place::default(), reason.to_owned()));
        }
        // Events are pulled one by one: the parser's own loop calls itself for every level.
        let mut parser = Parser::new_from_str(text);
        let mut builder =
            Builder { tree: Self { nodes: Vec::new(), text: String::new() }, open: Vec::new() };
        loop {
            let (event, marker) = parser.next_token().map_err(|error| {
                (place_of(error.marker()), format!("not valid YAML: {}", error.info()))
            })?;
            if matches!(event, Event::StreamEnd | Event::DocumentEnd) {
                return Ok(builder.tree);
            }
            let place = place_of(&marker);
            builder.absorb(event, place).map_err(|reason| (place, reason))?;
        }
    }

    /// The top level.
    pub(super) fn root(&self) -> Value<'_> {
        let empty = Node::new(Place::default(), Kind::Mapping { end: 0 });
        Value { tree: self, index: 0, node: self.nodes.first().copied().unwrap_or(empty) }
    }

    fn value(&self, index: u32) -> Option<Value<'_>> {
        self.nodes.get(index as usize).map(|node| Value { tree: self, index, node: *node })
    }
}

// === impl Node ===

impl Node {
    fn new(Place { line, column }: Place, kind: Kind) -> Self {
        Self { line: narrow(line), column: narrow(column), kind }
    }
}

// === impl Value ===

impl<'t> Value<'t> {
    /// Where it begins.
    pub(super) fn place(&self) -> Place {
        Place { line: self.node.line as usize, column: self.node.column as usize }
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&'t str> {
        match self.node.kind {
            Kind::Scalar { begin, end, .. } => self.tree.text.get(begin as usize..end as usize),
            Kind::List { .. } | Kind::Mapping { .. } => None,
        }
    }

    /// The text of a scalar that is not in quotes: only such can be something else than text.
    pub(super) fn plain(&self) -> Option<&'t str> {
        self.text().filter(|_| matches!(self.node.kind, Kind::Scalar { plain: true, .. }))
    }

    /// The values in a list.
    pub(super) fn items(&self) -> Option<Values<'t>> {
        match self.node.kind {
            Kind::List { end } => Some(Values { tree: self.tree, next: self.index + 1, end }),
            Kind::Scalar { .. } | Kind::Mapping { .. } => None,
        }
    }

    /// The keys of a mapping with their values.
    pub(super) fn fields(&self) -> Option<impl Iterator<Item = (Self, Self)> + use<'t>> {
        let Kind::Mapping { end } = self.node.kind else { return None };
        let mut values = Values { tree: self.tree, next: self.index + 1, end };
        Some(std::iter::from_fn(move || Some((values.next()?, values.next()?))))
    }
}

impl<'t> Iterator for Values<'t> {
    type Item = Value<'t>;

    fn next(&mut self) -> Option<Value<'t>> {
        if self.next >= self.end {
            return None;
        }
        let value = self.tree.value(self.next)?;
        self.next = match value.node.kind {
            Kind::Scalar { .. } => self.next + 1,
            Kind::List { end } | Kind::Mapping { end } => end,
        };
        Some(value)
    }
}

// === impl Builder ===

impl Builder {
    fn absorb(&mut self, event: Event, place: Place) -> Result<(), String> {
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(anchor, tag)
            | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            Event::Alias(anchor) => (*anchor, false),
            _ => (0, false),
        };
        if tag {
            return Err("YAML tags (!name) are not supported; remove the tag".to_owned());
        }
        if anchor != 0 {
            let reason = "YAML anchors (&name, *name) are not supported; write the value out";
            return Err(reason.to_owned());
        }
        match event {
            Event::Scalar(..) | Event::SequenceStart(..) if self.open.is_empty() => {
                let reason = "the top level must be `key: value` lines, such as `services:`";
                return Err(reason.to_owned());
            }
            Event::Scalar(text, style, ..) => {
                self.scalar(&text, matches!(style, TScalarStyle::Plain), place)?;
            }
            Event::SequenceStart(..) => self.begin(place, None)?,
            Event::MappingStart(..) => self.begin(place, Some(BTreeMap::new()))?,
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            _ => {}
        }
        Ok(())
    }

    /// Whether a scalar with this text, or a list or a mapping, may stand here.
    fn key_or_value(&mut self, scalar: Option<&str>, place: Place) -> Result<(), String> {
        let Some(Open { keys, keyed, .. }) = self.open.last_mut() else { return Ok(()) };
        let Some(keys) = keys else { return Ok(()) };
        *keyed = !*keyed;
        if !*keyed {
            return Ok(());
        }
        let key = scalar.ok_or("a key must be a word, not a list or a mapping")?;
        match keys.entry(key.to_owned()) {
            Entry::Vacant(free) => drop(free.insert(place.line)),
            Entry::Occupied(first) => {
                let first = Place { line: *first.get(), column: 1 }.first();
                return Err(format!("key `{key}` stands twice{first}; remove one"));
            }
        }
        Ok(())
    }

    /// A list or, with an empty set of keys, a mapping begins.
    fn begin(&mut self, place: Place, keys: Option<BTreeMap<String, usize>>) -> Result<(), String> {
        self.key_or_value(None, place)?;
        self.open.push(Open { index: self.tree.nodes.len(), keys, keyed: false });
        // Where it ends is known when it does.
        self.tree.nodes.push(Node::new(place, Kind::List { end: 0 }));
        Ok(())
    }

    fn end(&mut self) {
        let end = narrow(self.tree.nodes.len());
        let Some(Open { index, keys, .. }) = self.open.pop() else { return };
        if let Some(node) = self.tree.nodes.get_mut(index) {
            let is_mapping = keys.is_some();
            node.kind = if is_mapping { Kind::Mapping { end } } else { Kind::List { end } };
        }
    }
}

fn place_of(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

/// [`MAX_BYTES`] sees to it that nothing is cut off.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value as JSON, its keys in order.
    fn json(value: Value<'_>) -> String {
        let join = |parts: Vec<String>| parts.join(",");
        if let Some(items) = value.items() {
            return format!("[{}]", join(items.map(json).collect()));
        }
        if let Some(fields) = value.fields() {
            let field = |(k, v)| format!("{}:{}", json(k), json(v));
            return format!("{{{}}}", join(fields.map(field).collect()));
        }
        let mark = if value.plain().is_some() { "" } else { "\"" };
        format!("{mark}{}{mark}", value.text().unwrap())
    }

    #[test]
    fn values_keep_their_order_and_nesting() {
        for (text, expected) in [
            ("", "{}"),
            ("# nothing", "{}"),
            ("{}", "{}"),
            ("a:", "{a:}"),
            ("a: [b, [], {c: d}, 'e']\nf: {}", "{a:[b,[],{c:d},\"e\"],f:{}}"),
            ("a:\n- b: c\n  d:\n  - e\n- f\ng: \"h\\ti\"", "{a:[{b:c,d:[e]},f],g:\"h\ti\"}"),
            ("a: {b: {a: {b: a}}}", "{a:{b:{a:{b:a}}}}"),
        ] {
            let tree = Tree::parse(text).unwrap();
            assert_eq!(json(tree.root()), expected, "{text}");
        }
    }

    #[test]
    fn depth_and_breadth_cost_no_stack_and_little_time() {
        let deep = format!("a:\n{}", "- ".repeat(3000));
        let wide: String = (0..50_000).map(|key| format!("k{key}: v\n")).collect();
        for text in [deep, wide] {
            assert!(Tree::parse(&text).is_ok());
        }
    }

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node>() <= 20, "{}", size_of::<Node>());
    }
}
