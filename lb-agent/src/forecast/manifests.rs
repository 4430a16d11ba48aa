//! Objects out of manifests: YAML or JSON, one or many documents, lists of whatever kind.
//!
//! What decides nothing here (Deployments, say) is passed over. A document that can't be read is named
//! by its file and number, the first being 1.

use crate::shown::line;
use crate::yaml::Document;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The namespace of an object that names none.
const NAMESPACE: &str = "default";

/// What the manifests say.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Services.
    pub services: Vec<Service>,
    /// EndpointSlices.
    pub slices: Vec<EndpointSlice>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// ServiceCIDRs.
    pub service_cidrs: Vec<ServiceCIDR>,
}

/// One that was found, by kind.
enum Object {
    Service(Box<Service>),
    Slice(EndpointSlice),
    Node(Box<Node>),
    ServiceCidr(ServiceCIDR),
}

// === impl Objects ===

impl Objects {
    /// Adds what a file says.
    ///
    /// # Errors
    ///
    /// One line that says which document, and what is wrong: it is no YAML, and then nothing is added; or an object
    /// has no kind, apiVersion or name, its fields are not those of its kind, or an EndpointSlice or ServiceCIDR is
    /// of a version that is not known, and then what stands before it is added.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), String> {
        for (number, document) in documents(file, text)? {
            let place = format!("{file}: document {number}");
            self.add_value(document, None)
                .map_err(|problem| line(&format!("{place}: {problem}")).into_owned())?;
        }
        Ok(())
    }

    /// `kind`: of the items of a list that don't name theirs.
    fn add_value(&mut self, mut value: Value, kind: Option<(&str, &str)>) -> Result<(), String> {
        let Some(fields) = value.as_object_mut() else {
            return Err("is no object; write `key: value` lines, with a kind".to_owned());
        };
        if let Some((version, kind)) = kind {
            fields.entry("apiVersion").or_insert_with(|| version.into());
            fields.entry("kind").or_insert_with(|| kind.into());
        }
        let word =
            |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (word("apiVersion"), word("kind"));
        if kind.is_empty() || version.is_empty() {
            return Err("has no apiVersion and kind; add them, or remove it".to_owned());
        }
        if let Some(of) = kind.strip_suffix("List") {
            let inner = (!of.is_empty()).then_some((version.as_str(), of));
            let items = match fields.remove("items") {
                None | Some(Value::Null) => Vec::new(),
                Some(Value::Array(items)) => items,
                Some(_) => return Err(format!("the items of this {kind} are no list; correct it")),
            };
            for (number, item) in (1..).zip(items) {
                self.add_value(item, inner)
                    .map_err(|problem| format!("item {number}: {problem}"))?;
            }
            return Ok(());
        }
        match object(&version, &kind, value)? {
            Some(Object::Service(service)) => self.services.push(*service),
            Some(Object::Slice(slice)) => self.slices.push(slice),
            Some(Object::Node(node)) => self.nodes.push(*node),
            Some(Object::ServiceCidr(cidr)) => self.service_cidrs.push(cidr),
            None => {}
        }
        Ok(())
    }
}

/// The object, if it decides anything.
fn object(version: &str, kind: &str, value: Value) -> Result<Option<Object>, String> {
    Ok(match (version, kind) {
        ("v1", "Service") => {
            let mut service: Box<Service> = read(kind, value)?;
            name_space(&mut service.metadata);
            Some(Object::Service(service))
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            let mut slice: EndpointSlice = read(kind, value)?;
            name_space(&mut slice.metadata);
            Some(Object::Slice(slice))
        }
        ("v1", "Node") => Some(Object::Node(read(kind, value)?)),
        ("networking.k8s.io/v1", "ServiceCIDR") => Some(Object::ServiceCidr(read(kind, value)?)),
        (other, "EndpointSlice" | "ServiceCIDR") => {
            let known = if kind == "ServiceCIDR" { "networking" } else { "discovery" };
            return Err(format!("{kind} of {other} is not known; use {known}.k8s.io/v1"));
        }
        _ => None,
    })
}

fn read<T: DeserializeOwned>(kind: &str, value: Value) -> Result<T, String> {
    let meta = value.get("metadata");
    let field = |key: &str| meta.and_then(|meta| meta.get(key)).and_then(Value::as_str);
    let name = match (field("namespace"), field("name")) {
        (_, None) => return Err(format!("{kind} has no metadata.name; add one")),
        (None, Some(name)) => name.to_owned(),
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
    };
    serde_json::from_value(value).map_err(|error| format!("{kind} {name}: {error}; correct it"))
}

fn name_space(meta: &mut ObjectMeta) {
    meta.namespace.get_or_insert_with(|| NAMESPACE.to_owned());
}

/// The documents of a file, numbered; empty ones are left out.
fn documents(file: &str, text: &str) -> Result<Vec<(usize, Value)>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') {
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let values: Result<Vec<Value>, _> = values.collect();
        // What begins so may still be YAML.
        if let Ok(values) = values {
            return Ok((1..).zip(values).collect());
        }
    }
    let mut found = Vec::new();
    for (number, (first_line, part)) in (1..).zip(parts(text)) {
        if !says_something(&part) {
            continue;
        }
        // Lines before it are empty, so that the parser counts as the reader does.
        let padded = "\n".repeat(first_line) + &part;
        let document = Document::parse(file, &padded).map_err(|rejection| {
            format!("{file}: document {number}: {}: {}", rejection.origin, rejection.reason)
        })?;
        found.push((number, document.item().json()));
    }
    Ok(found)
}

/// The text between lines that part documents, each with the number of lines before it. What says
/// nothing is no document of its own.
fn parts(text: &str) -> Vec<(usize, String)> {
    let mut parts = Vec::new();
    let (mut first, mut part) = (0, String::new());
    for (number, line) in text.lines().enumerate() {
        let marker = |mark: &str| {
            line.strip_prefix(mark).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        let rest = marker("---").or_else(|| marker("...").map(|_| ""));
        if rest.is_some() && says_something(&part) {
            parts.push((first, std::mem::take(&mut part)));
            first = number;
        }
        part.push_str(rest.unwrap_or(line));
        part.push('\n');
    }
    parts.push((first, part));
    parts
}

fn says_something(text: &str) -> bool {
    text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
}

#[cfg(test)]
mod tests;
