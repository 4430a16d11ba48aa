//! `<service>/<id>` is `10.0.0.1:8080`: what go-zero registers, what confd's templates read, and
//! what people put by hand. `{"IP":"10.0.0.1","Port":8080}`, which confd's examples also have, is
//! read too.

use super::build::Build;
use super::grpc::build_dir;
use super::notes::Note;
use super::pools::{Place, Reading, name_of_prefix, place_of_id};
use super::text;
use super::tree::Tree;
use serde::Deserialize;
use std::net::SocketAddr;

/// Reads addresses.
pub(super) struct Plain {
    /// The pool of keys directly under the prefix.
    own: String,
}

/// An address in two fields.
#[derive(Deserialize)]
struct Fields {
    #[serde(alias = "IP", alias = "Ip")]
    ip: String,
    #[serde(alias = "Port", deserialize_with = "text::number")]
    port: Option<i64>,
}

// === impl Plain ===

impl Plain {
    pub(super) fn new(prefix: &str) -> Self {
        Self { own: name_of_prefix(prefix) }
    }
}

impl Reading for Plain {
    type Item = SocketAddr;

    fn place<'k>(&self, path: &'k str) -> Place<'k> {
        place_of_id(path)
    }

    fn read(&self, _: (&str, &str), value: &[u8], notes: &mut Vec<Note>) -> Option<SocketAddr> {
        address(value).map_err(|reason| notes.push(Note::refusal(reason))).ok()
    }

    fn pools(&self, (dir, _): (&str, &str), _: &SocketAddr, into: &mut Vec<String>) {
        into.push(if dir.is_empty() { self.own.clone() } else { dir.to_owned() });
    }

    fn build<'t>(&'t self, tree: &'t Tree<SocketAddr>, pool: &str, build: &mut Build<'t>) -> bool {
        build_dir(tree, &self.own, pool, build)
    }
}

fn address(value: &[u8]) -> Result<SocketAddr, String> {
    if value.trim_ascii_start().starts_with(b"{") {
        let fields: Fields = text::object(value)?;
        let port = fields.port.ok_or("there is no `Port`; put the value again")?;
        return Ok(SocketAddr::new(text::ip(&fields.ip)?, text::port(port)?));
    }
    let text = std::str::from_utf8(value)
        .map_err(|_| "the value is not text; write an address such as 10.0.0.1:80")?;
    text::address(text)
}

#[cfg(test)]
mod tests;
