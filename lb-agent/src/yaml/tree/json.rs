//! JSON as the same tree, for sources whose values are JSON and nothing else. Values have no place:
//! a key is place enough.

use super::{Builder, Kind, Node, Tree, narrow};
use crate::yaml::Place;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Reads one value into the tree; whether it was anything else than `null`.
struct Onto<'b>(&'b mut Builder);

// === impl Tree ===

impl Tree {
    /// Reads an object.
    pub(in crate::yaml) fn from_json(text: &[u8]) -> Result<Self, String> {
        if !text.trim_ascii_start().starts_with(b"{") {
            return Err("the value is no JSON object, {...}; put it again".to_owned());
        }
        let tree = Self { nodes: Vec::new(), text: String::new() };
        let mut builder = Builder { tree, open: Vec::new() };
        let mut json = serde_json::Deserializer::from_slice(text);
        let read = Onto(&mut builder).deserialize(&mut json).and_then(|_| json.end());
        match read {
            Ok(()) => Ok(builder.tree),
            Err(error) if error.is_data() => Err(format!("{error}; correct the value")),
            Err(error) => Err(format!("not valid JSON: {error}; put the value again")),
        }
    }
}

// === impl Onto ===

impl Onto<'_> {
    fn scalar<E: Error>(self, text: &str, plain: bool) -> Result<bool, E> {
        self.0.scalar(text, plain, Place::default()).map_err(E::custom)?;
        Ok(true)
    }
}

impl<'de> DeserializeSeed<'de> for Onto<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Onto<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        self.scalar(if value { "true" } else { "false" }, true)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        self.scalar(&value.to_string(), true)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        self.scalar(&value.to_string(), true)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        self.scalar(&value.to_string(), true)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
        self.scalar(value, false)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let builder = self.0;
        builder.begin(Place::default(), None).map_err(A::Error::custom)?;
        while let Some(present) = items.next_element_seed(Onto(builder))? {
            if !present {
                // In a list it is no field that can be left out.
                builder.scalar("null", true, Place::default()).map_err(A::Error::custom)?;
            }
        }
        builder.end();
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<bool, A::Error> {
        let builder = self.0;
        builder.begin(Place::default(), Some(BTreeMap::new())).map_err(A::Error::custom)?;
        while let Some(key) = fields.next_key::<std::borrow::Cow<'de, str>>()? {
            let (nodes, text) = (builder.tree.nodes.len(), builder.tree.text.len());
            builder.scalar(&key, false, Place::default()).map_err(A::Error::custom)?;
            if !fields.next_value_seed(Onto(builder))? {
                builder.tree.nodes.truncate(nodes);
                builder.tree.text.truncate(text);
                builder.leave_out();
            }
        }
        builder.end();
        Ok(true)
    }
}

// === impl Builder ===

impl Builder {
    /// A key or a value.
    pub(super) fn scalar(&mut self, text: &str, plain: bool, place: Place) -> Result<(), String> {
        self.key_or_value(Some(text), place)?;
        let begin = narrow(self.tree.text.len());
        self.tree.text.push_str(text);
        let end = narrow(self.tree.text.len());
        self.tree.nodes.push(Node::new(place, Kind::Scalar { begin, end, plain }));
        Ok(())
    }

    /// The value that would come now does not.
    fn leave_out(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.keyed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::yaml::Document;

    fn get(text: &str, key: &str) -> Option<String> {
        let document = Document::from_json(text.as_bytes()).unwrap();
        document.item().get(key).and_then(|item| item.text().map(str::to_owned))
    }

    #[test]
    fn scalars_of_every_kind() {
        let text = r#" {"a":"x\/\ud83d\ude00\"","b":-3,"c":1.5,"d":true,"e":null,"f":18446744073709551615,"g":""} "#;
        let found = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|key| get(text, key));
        let expected =
            [Some("x/\u{1f600}\""), Some("-3"), Some("1.5"), Some("true"), None].map(|text| text);
        assert_eq!(found[..5], expected.map(|text| text.map(str::to_owned)));
        assert_eq!(found[5].as_deref(), Some("18446744073709551615"));
        assert_eq!((found[6].as_deref(), found[7].as_deref()), (Some(""), None));
    }

    #[test]
    fn nothing_is_left_out_between_fields_and_kept_in_lists() {
        let text = r#"{"a":null,"b":{"c":null},"d":[null,1],"e":"f"}"#;
        assert_eq!(get(text, "e").as_deref(), Some("f"));
        let document = Document::from_json(text.as_bytes()).unwrap();
        let mut reader = crate::yaml::Reader::new("k");
        let d = document.item().get("d").unwrap();
        assert_eq!(reader.list(d, "a list").count(), 2);
        let b = document.item().get("b").unwrap();
        assert!(reader.fields(b, "a mapping", &crate::keys::METRICS).is_empty());
        assert_eq!(reader.count(), 0);
    }

    #[test]
    fn what_is_no_object() {
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        for (text, part) in [
            ("", "no JSON object"),
            ("[1]", "no JSON object"),
            ("null", "no JSON object"),
            ("{", "not valid JSON: EOF while parsing"),
            ("{a: 1}", "not valid JSON: key must be a string at line 1 column 2"),
            ("{} x", "not valid JSON: trailing characters"),
            ("{\"a\":1,\"a\":2}", "`a` stands twice"),
            ("{\"a\":null,\"a\":2}", "`a` stands twice"),
            (&deep, "not valid JSON: recursion limit exceeded"),
        ] {
            let error = Document::from_json(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(Document::from_json(b"{\"a\":\"\xff\"}").unwrap_err().contains("not valid JSON"));
    }
}
