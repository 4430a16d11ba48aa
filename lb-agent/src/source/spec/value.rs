//! Services and backends that are each a value of their own, as JSON under a key.
//!
//! A field that is not known is ignored, with a warning: whoever wrote it may be newer than this
//! agent, and the service beside it must not stop for that.

use super::backends::read_backend;
use super::service::{Draft, draft};
use super::vip::{Asked, Port};
use crate::claims::Claims;
use crate::keys::BACKEND_VALUE;
use crate::model::{Backend, Exposure, Service, ServiceName, Way};
use crate::yaml::{Document, Reader};
use std::net::SocketAddr;

/// What became of a value.
#[derive(Debug)]
pub(crate) struct Reading<T> {
    /// What it says; `None` if there are problems.
    pub(crate) value: Option<T>,
    /// What is wrong with it.
    pub(crate) problems: Vec<String>,
    /// What is odd about it and costs nothing, or only a part of it.
    pub(crate) warnings: Vec<String>,
}

/// What a service says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Declaration {
    /// The service, with the frontends that it names.
    pub(crate) service: Service,
    /// Who finds the frontends of those that it is given.
    pub(crate) way: Way,
    /// Addresses that it asks for.
    pub(crate) asked: Asked,
    /// The ports that those shall have.
    pub(crate) ports: Vec<Port>,
}

// === impl Reading ===

impl<T> Reading<T> {
    fn of(reader: Reader<'_>, value: Option<T>) -> Self {
        let problems: Vec<_> = reader.rejections.into_iter().map(|r| r.reason).collect();
        let value = value.filter(|_| problems.is_empty());
        Self { value, problems, warnings: reader.ignored.unwrap_or_default() }
    }

    fn broken(reason: String) -> Self {
        Self { value: None, problems: vec![reason], warnings: Vec::new() }
    }
}

/// Reads the service that has its own key.
pub(crate) fn service(name: &ServiceName, text: &[u8], claims: &Claims) -> Reading<Declaration> {
    let document = match Document::from_json(text) {
        Ok(document) => document,
        Err(reason) => return Reading::broken(reason),
    };
    let mut reader = Reader::tolerant("");
    let draft = draft(&mut reader, document.item(), claims, Some(name));
    let Some(Draft { frontends, doubles, mut service, way, asked, ports, .. }) = draft else {
        return Reading::of(reader, None);
    };
    let mut warnings: Vec<_> = doubles.into_iter().map(|(_, reason)| reason).collect();
    for (frontend, scope, _) in frontends {
        if service.frontends.insert(frontend, Exposure { way, ..scope.into() }).is_some() {
            warnings.push(format!("frontend {frontend} stands twice; remove one"));
        }
    }
    let mut reading = Reading::of(reader, Some(Declaration { service, way, asked, ports }));
    reading.warnings.append(&mut warnings);
    reading
}

/// Reads the backend that has its own key.
pub(crate) fn backend(text: &[u8]) -> Reading<(SocketAddr, Backend)> {
    let document = match Document::from_json(text) {
        Ok(document) => document,
        Err(reason) => return Reading::broken(reason),
    };
    let mut reader = Reader::tolerant("");
    let backend = read_backend(&mut reader, document.item(), &BACKEND_VALUE);
    Reading::of(reader, backend)
}

#[cfg(test)]
mod tests;
