//! What matters of the cluster's objects, in a small form, and what is wrong with them.
//!
//! Pure. A port or an address that is no good costs itself only, and a word that is not known is
//! taken as the field's default. What is read over is told in one line each.

mod node;
mod service;
mod slice;
mod text;

pub use self::node::{node, service_cidrs};
pub use self::service::{Service, ServicePort, Traffic, service};
pub use self::slice::{Endpoint, Hints, Slice, SlicePort, slice, trigger};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::net::IpAddr;
use std::sync::Arc;

/// An object as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    /// What matters of it; `None`: nothing.
    pub value: Option<T>,
    /// What of it was refused, and what to do, in one line each.
    pub problems: Vec<String>,
}

/// An address family. Services and endpoints of one have nothing to do with those of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

// === impl Reading ===

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Self { value: None, problems: Vec::new() }
    }
}

impl<T> Reading<T> {
    /// Whether there is nothing to keep and nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.value.is_none() && self.problems.is_empty()
    }
}

// === impl Family ===

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The cluster's word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.word() == word)
    }
}

/// What an object is known by: `namespace/name`, or `name` if its kind has no namespaces.
pub fn key(meta: &ObjectMeta) -> Arc<str> {
    let name = meta.name.as_deref().unwrap_or_default();
    match &meta.namespace {
        Some(namespace) => format!("{namespace}/{name}").into(),
        None => name.into(),
    }
}

fn has_label(meta: &ObjectMeta, label: &str) -> bool {
    meta.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

#[cfg(test)]
mod tests;
