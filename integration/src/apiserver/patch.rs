//! Patches: what `kubectl apply` sends from the client's side, and merge patches. Good enough for the kinds there are.

use serde_json::{Map, Value};

/// How a patch is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Lists are replaced.
    Merge,
    /// Lists of some fields are merged item by item.
    Strategic,
    /// Who patches says all he wants; an object that is not there is made.
    Apply,
}

/// Lists whose items are merged, by the field that tells items apart.
const KEYED: [(&str, &str); 6] = [
    ("conditions", "type"),
    ("addresses", "type"),
    ("taints", "key"),
    ("containers", "name"),
    ("volumes", "name"),
    ("ownerReferences", "uid"),
];

// === impl Style ===

impl Style {
    /// By the request's content type.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        match content_type {
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Changes `target` as the patch says.
pub(super) fn apply(target: &mut Value, patch: &Value, style: Style) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if patch.get("$patch").is_some_and(|how| how == "replace") {
        *target = Value::Object(without_directives(patch));
        return;
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if key.starts_with('$') {
            continue;
        }
        match value {
            Value::Null => drop(fields.remove(key)),
            Value::Array(items) if style == Style::Strategic => {
                let ordered = patch.contains_key(&format!("$setElementOrder/{key}"));
                let old = fields.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new()));
                match identity(key, items, ordered) {
                    Some(identity) => merge_items(old, items, identity, style),
                    None => *old = value.clone(),
                }
            }
            value => apply(fields.entry(key.clone()).or_insert(Value::Null), value, style),
        }
    }
}

/// What tells the items of a list apart, if they are to be merged. The ports of an EndpointSlice are
/// replaced; those of a Service are not, and come with their order.
fn identity(list: &str, items: &[Value], ordered: bool) -> Option<&'static [&'static str]> {
    if list == "ports" {
        let service = ordered || items.iter().any(|item| item.get("$patch").is_some());
        return service.then_some(&["port", "protocol"]);
    }
    let (_, key) = KEYED.iter().find(|(name, _)| *name == list)?;
    let all = items.iter().all(|item| item.get(*key).is_some());
    all.then_some(std::slice::from_ref(key))
}

fn merge_items(old: &mut Value, items: &[Value], identity: &[&str], style: Style) {
    let mut kept = old.as_array().cloned().unwrap_or_default();
    for item in items {
        let same = |other: &Value| {
            identity.iter().all(|key| match (&other[*key], &item[*key]) {
                // What is left out means any: `protocol` has a default.
                (Value::Null, _) | (_, Value::Null) => true,
                (a, b) => a == b,
            })
        };
        let place = kept.iter().position(same);
        match (place, item.get("$patch").is_some_and(|how| how == "delete")) {
            (Some(place), true) => drop(kept.remove(place)),
            (None, true) => {}
            (Some(place), false) => apply(&mut kept[place], item, style),
            (None, false) => kept.push(item.clone()),
        }
    }
    *old = Value::Array(kept);
}

fn without_directives(fields: &Map<String, Value>) -> Map<String, Value> {
    let kept = fields.iter().filter(|(key, _)| !key.starts_with('$'));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_patches_do() {
        let service = json!({"spec": {"a": 1, "b": {"c": 2}, "ports": [
            {"port": 80, "protocol": "TCP", "targetPort": 1}, {"port": 53, "protocol": "UDP"}
        ]}, "l": [1, 2]});
        for (style, patch, pointer, expected) in [
            (Style::Merge, json!({"spec": {"a": null}}), "/spec/a", None),
            (
                Style::Merge,
                json!({"spec": {"b": {"d": 3}}}),
                "/spec/b",
                Some(json!({"c": 2, "d": 3})),
            ),
            (Style::Strategic, json!({"l": [3]}), "/l", Some(json!([3]))),
            (
                Style::Merge,
                json!({"spec": {"ports": [{"port": 1}]}}),
                "/spec/ports",
                Some(json!([{"port": 1}])),
            ),
            (
                Style::Strategic,
                json!({"spec": {"$setElementOrder/ports": [], "ports": [
                    {"port": 80, "targetPort": 9}, {"port": 53, "$patch": "delete"}]}}),
                "/spec/ports",
                Some(json!([{"port": 80, "protocol": "TCP", "targetPort": 9}])),
            ),
            (
                Style::Strategic,
                json!({"spec": {"$patch": "replace", "z": 1}}),
                "/spec",
                Some(json!({"z": 1})),
            ),
        ] {
            let mut changed = service.clone();
            apply(&mut changed, &patch, style);
            assert_eq!(changed.pointer(pointer), expected.as_ref(), "{style:?} {patch}");
        }
    }
}
