//! What there is, for clients that ask.

use super::kinds::{KINDS, Kind};
use serde_json::{Map, Value, json};

/// Answers `GET path`, if it is about the API itself.
pub(super) fn answer(path: &str) -> Option<Value> {
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    Some(match segments.as_slice() {
        ["version"] => json!({
            "major": "1", "minor": "35", "gitVersion": "v1.35.0-lb-test", "platform": "linux/amd64"
        }),
        ["api"] => json!({"kind": "APIVersions", "apiVersion": "v1", "versions": ["v1"]}),
        ["apis"] => {
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups()})
        }
        ["api", "v1"] => resources("", "v1")?,
        ["apis", group] => groups().into_iter().find(|known| known["name"] == *group)?,
        ["apis", group, version] => resources(group, version)?,
        ["openapi", "v3"] => json!({"paths": documents()}),
        ["openapi", "v3", "api", version] => document("", version),
        ["openapi", "v3", "apis", group, version] => document(group, version),
        _ => return None,
    })
}

/// Where each version of a group is described.
fn documents() -> Map<String, Value> {
    let document = |kind: &Kind| {
        let path = root(kind).trim_start_matches('/').to_owned();
        let url = format!("/openapi/v3/{path}");
        (path, json!({"serverRelativeURL": url}))
    };
    KINDS.iter().map(document).collect()
}

/// Says no more than that the server itself checks what it is sent, so that clients don't ask for
/// schemas.
fn document(group: &str, version: &str) -> Value {
    let path = |kind: &Kind| {
        let path = format!("{}/{}/{{name}}", root(kind), kind.plural);
        let patch = json!({
            "parameters": [{"name": "fieldValidation", "in": "query"}],
            "x-kubernetes-group-version-kind": {
                "group": kind.group, "version": kind.version, "kind": kind.kind,
            },
        });
        (path, json!({"patch": patch}))
    };
    let here = KINDS.iter().filter(|kind| kind.group == group && kind.version == version);
    json!({"openapi": "3.0.0", "paths": here.map(path).collect::<Map<_, _>>()})
}

fn root(kind: &Kind) -> String {
    let root = if kind.group.is_empty() { "api" } else { "apis" };
    format!("/{root}/{}", kind.api_version())
}

fn groups() -> Vec<Value> {
    let mut groups: Vec<&Kind> = KINDS.iter().filter(|kind| !kind.group.is_empty()).collect();
    groups.dedup_by_key(|kind| kind.group);
    let group = |kind: &&Kind| {
        let version = json!({"groupVersion": kind.api_version(), "version": kind.version});
        json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": kind.group,
            "versions": [version], "preferredVersion": version,
        })
    };
    groups.iter().map(group).collect()
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
        let short: Vec<&str> = [kind.short].into_iter().filter(|name| !name.is_empty()).collect();
        resources.push(json!({
            "name": kind.plural, "singularName": kind.kind.to_lowercase(), "kind": kind.kind,
            "namespaced": kind.namespaced, "shortNames": short,
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        }));
        resources.push(json!({
            "name": format!("{}/status", kind.plural), "singularName": "", "kind": kind.kind,
            "namespaced": kind.namespaced, "verbs": ["get", "patch", "update"],
        }));
    }
    let group_version =
        if group.is_empty() { version.into() } else { format!("{group}/{version}") };
    (!resources.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
            "resources": resources,
        })
    })
}
