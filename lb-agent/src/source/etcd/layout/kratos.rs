//! The registry of Kratos: `<name>/<id>` is an instance,
//! `{"id":"..","name":"helloworld","endpoints":["grpc://127.0.0.1:9000?isSecure=false"]}`.
//!
//! Each scheme of a service is a pool: `helloworld/grpc`.

use super::build::Build;
use super::notes::Note;
use super::pools::{Place, Reading, place_of_id};
use super::text;
use super::tree::Tree;
use crate::model::Backend;
use serde::Deserialize;
use std::net::SocketAddr;

/// Reads instances.
pub(super) struct Kratos;

/// An instance.
#[derive(Debug, PartialEq)]
pub(super) struct Instance {
    /// By scheme; each once.
    endpoints: Vec<(Box<str>, SocketAddr)>,
    weight: u16,
}

/// The value; what else it says is for Kratos.
#[derive(Deserialize)]
struct Value {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    endpoints: Option<Vec<String>>,
    #[serde(default)]
    metadata: serde_json::Value,
}

// === impl Kratos ===

impl Reading for Kratos {
    type Item = Instance;

    fn place<'k>(&self, path: &'k str) -> Place<'k> {
        match place_of_id(path) {
            Place::At("", _) => {
                Place::Outside("not a key of Kratos: write PREFIX/NAME/ID".to_owned())
            }
            place => place,
        }
    }

    fn read(
        &self,
        (dir, _): (&str, &str),
        value: &[u8],
        notes: &mut Vec<Note>,
    ) -> Option<Instance> {
        let value: Value = match text::object(value) {
            Ok(value) => value,
            Err(reason) => {
                notes.push(Note::refusal(reason));
                return None;
            }
        };
        // Kratos itself skips what bears another name than was asked for.
        if let Some(name) = value.name.filter(|name| name != dir) {
            let shown = text::clean(&name, 80);
            let reason = format!("the value is of `{shown}`, the key of `{dir}`; register it anew");
            notes.push(Note::refusal(reason));
            return None;
        }
        let mut endpoints = Vec::new();
        for url in value.endpoints.unwrap_or_default() {
            match endpoint(&url) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(reason) => notes.push(Note::refusal(reason)),
            }
        }
        endpoints.sort();
        endpoints.dedup();
        (!endpoints.is_empty()).then(|| Instance { endpoints, weight: weight(&value.metadata) })
    }

    fn pools(&self, (dir, _): (&str, &str), item: &Instance, into: &mut Vec<String>) {
        into.extend(item.endpoints.iter().map(|(scheme, _)| format!("{dir}/{scheme}")));
    }

    fn build<'t>(&'t self, tree: &'t Tree<Instance>, pool: &str, build: &mut Build<'t>) -> bool {
        let Some((name, scheme)) = pool.rsplit_once('/') else { return false };
        let mut any = false;
        for found in tree.dir(name) {
            let Instance { endpoints, weight } = &found.2.item;
            for (_, address) in endpoints.iter().filter(|(s, _)| &**s == scheme) {
                any = true;
                build.add(found, *address, Backend { weight: *weight, ..Backend::default() });
            }
        }
        any
    }
}

/// The scheme and the address of `grpc://127.0.0.1:9000?isSecure=false`.
fn endpoint(url: &str) -> Result<(Box<str>, SocketAddr), String> {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        let shown = shown(url);
        return Err(format!("endpoint `{shown}` is no URL such as grpc://10.0.0.1:9000"));
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let address = text::address(host).map_err(|reason| {
        let shown = shown(url);
        if url.contains('@') {
            return format!("endpoint `{shown}` names a user; register it without one");
        }
        format!("endpoint `{shown}`: {reason}")
    })?;
    Ok((scheme.to_ascii_lowercase().into(), address))
}

/// An endpoint without what stands before its last `@`: there may be a password, of any characters.
fn shown(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, after)) => format!("...@{}", text::clean(after, 80)),
        None => text::clean(url, 80),
    }
}

fn is_scheme(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// The weight that Kratos' own balancers take: metadata's `weight`, a number in quotes.
fn weight(metadata: &serde_json::Value) -> u16 {
    let weight = &metadata["weight"];
    let number = weight.as_str().and_then(|text| text.parse().ok()).or_else(|| weight.as_u64());
    number.and_then(|number: u64| u16::try_from(number).ok()).filter(|n| *n > 0).unwrap_or(1)
}

#[cfg(test)]
mod tests;
