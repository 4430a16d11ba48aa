//! The keys of configuration files and of values in etcd: the one list of them.
//!
//! The parser takes names, words and numbers from it and knows no others; the JSON schemas and the
//! tables of keys in docs/ are made of it. Pure.

mod agent;
mod health;
mod schema;
mod services;
mod stores;
mod words;

pub(crate) use self::agent::{
    COREDNS, DNS, FILE_OF_SERVICES, MAIN, METRICS, NAMES, SOURCE, TABLES,
};
pub(crate) use self::health::{CHECK, EJECTION, EXEC, GRPC, HTTP, HTTPS, OF_SERVICE, TCP, TIMING};
pub(crate) use self::services::{
    AFFINITY, BACKEND, BACKEND_VALUE, FRONTEND, POOL, SERVICE, SERVICE_VALUE,
};
pub(crate) use self::stores::{ETCD, KUBERNETES, TLS, USER};

use serde_json::Value as Json;
use std::time::Duration;

/// A mapping of a document.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// What its schema is called.
    pub(crate) id: &'static str,
    /// Its keys; a group may be part of several mappings.
    pub(crate) groups: &'static [&'static Group],
    /// Which keys must be there, besides those that are required.
    pub(crate) needs: Needs,
}

/// Keys that are explained together.
#[derive(Debug)]
pub(crate) struct Group {
    /// What pages ask for it by.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is a test that makes the tables"))]
    pub(crate) id: &'static str,
    /// In the order of the pages.
    pub(crate) keys: &'static [Key],
}

/// A key.
#[derive(Debug)]
pub(crate) struct Key {
    /// As it is written.
    pub(crate) name: &'static str,
    /// What its value looks like.
    pub(crate) form: Form,
    /// What holds without it.
    pub(crate) otherwise: Otherwise,
    /// One line of Markdown; links are those of a page in docs/.
    pub(crate) meaning: &'static str,
}

/// What a value looks like.
#[derive(Debug)]
pub(crate) enum Form {
    /// Any text but none.
    Text,
    /// At most 253 bytes of it.
    Short,
    /// Of a file, directory or cgroup.
    Path,
    /// What services and sources may be called.
    Name,
    /// Text of a shape that these words describe.
    Said(&'static str),
    /// `true` or `false`.
    Flag,
    /// `off`, which YAML may read as `false`.
    Off,
    /// One of these.
    Words(&'static [&'static str]),
    /// A whole number, from and to; it may stand in quotes.
    Number(u32, u32),
    /// A whole number from this one to 100, with `%` behind it or without.
    Percent(u8),
    /// A time, from and to.
    Time(Duration, Duration),
    /// A port, with a protocol or without: `80`, `"53/udp"`.
    Port,
    /// So many values or more of one form; the words describe the list.
    List(&'static Form, usize, &'static str),
    /// One value, or a list of them that is not empty.
    OneOrMore(&'static Form, &'static str),
    /// A mapping of its own.
    Map(&'static Mapping),
    /// Any of these.
    Or(&'static [Form]),
}

/// What holds without a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Otherwise {
    /// The mapping is no good without it.
    Required,
    /// Nothing.
    None,
    /// The same as if this was written.
    Is(&'static str),
    /// What these words say, in Markdown.
    Says(&'static str),
}

/// Which keys must be there, besides those that are required.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Needs {
    /// None.
    Nothing,
    /// Those of one of the alternatives, or of several.
    Any(&'static [Alternative]),
    /// Those of exactly one of the alternatives.
    One(&'static [Alternative]),
}

/// Keys that belong together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alternative {
    /// They are there,
    pub(crate) with: &'static [&'static str],
    /// and these are not.
    pub(crate) without: &'static [&'static str],
}

/// The schemas, by the names of their files: of the main file, and of values in etcd.
pub(crate) fn schemas() -> [(&'static str, Json); 2] {
    [
        ("configuration.schema.json", schema::configuration()),
        ("etcd-native.schema.json", schema::values()),
    ]
}

/// A key's row.
const fn key(name: &'static str, form: Form, otherwise: Otherwise, meaning: &'static str) -> Key {
    Key { name, form, otherwise, meaning }
}

/// Keys that are there together.
const fn with(keys: &'static [&'static str]) -> Alternative {
    Alternative { with: keys, without: &[] }
}

/// A range in a list.
const RANGES: Form = Form::List(&Form::Said("range"), 0, "list of ranges");

/// Ports of TCP and UDP.
const PORT_NUMBER: Form = Form::Number(1, 65_535);

// === impl Mapping ===

impl Mapping {
    /// The key of that name.
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }

    /// All keys, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.groups.iter().flat_map(|group| group.keys)
    }
}

// === impl Group ===

impl Group {
    /// Whether the key is one of these.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }
}

#[cfg(test)]
mod tests;
