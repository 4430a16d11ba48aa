//! Server-side apply: who says which fields, and what follows if somebody says others.
//!
//! By the API's documented rules: a field belongs to those who set it; who applies says all he wants,
//! so what he said before, does not say now and nobody else says is removed; what others say
//! otherwise is a conflict, unless it is taken from them by force.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The way to a field: keys of objects and, in lists of items that are told apart, what tells them
/// apart.
type Path = Vec<Step>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Field(String),
    /// The item that has these values.
    Item(Vec<(&'static str, String)>),
}

/// Who says which fields of an object that somebody has applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owners(BTreeMap<String, BTreeSet<Path>>);

/// Lists of items that are told apart, and by what. The others are values as a whole.
const KEYED: [(&str, &[&str]); 9] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("imagePullSecrets", &["name"]),
    ("conditions", &["type"]),
    ("ownerReferences", &["uid"]),
    ("ports", &["port", "containerPort", "protocol"]),
];
/// Objects that are values as a whole.
const WHOLE: [&str; 4] = ["selector", "nodeSelector", "fieldRef", "roleRef"];
/// All who write without applying.
const OTHERS: &str = "";
/// What the server writes itself.
const SERVERS: [&str; 5] =
    ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"];

// === impl Owners ===

impl Owners {
    /// Of an object that nobody has applied so far.
    pub(super) fn of(object: &Value) -> Self {
        let mut owners = Self::default();
        owners.written(&Value::Null, object);
        owners
    }

    /// Somebody who does not apply has written the whole object: what is not as it was is his.
    pub(super) fn written(&mut self, before: &Value, now: &Value) {
        let (before, now) = (leaves(before), leaves(now));
        for paths in self.0.values_mut() {
            paths.retain(|path| now.contains_key(path) && now.get(path) == before.get(path));
        }
        let changed = now.into_iter().filter(|(path, value)| before.get(path) != Some(value));
        self.0.entry(OTHERS.to_owned()).or_default().extend(changed.map(|(path, _)| path));
    }

    /// Somebody applies: changes `object` accordingly. Fails with the fields that others say
    /// otherwise, unless `force`d.
    pub(super) fn apply(
        &mut self,
        manager: &str,
        object: &mut Value,
        said: &Value,
        force: bool,
    ) -> Result<(), Vec<String>> {
        let (there, said_leaves) = (leaves(object), leaves(said));
        let others = self.0.iter().filter(|(other, _)| *other != manager);
        let conflicts: BTreeSet<Path> = others
            .flat_map(|(_, paths)| paths)
            .filter(|path| said_leaves.get(*path).is_some_and(|new| there.get(*path) != Some(new)))
            .cloned()
            .collect();
        if !conflicts.is_empty() && !force {
            return Err(conflicts.iter().map(shown).collect());
        }
        for paths in self.0.values_mut() {
            paths.retain(|path| !conflicts.contains(path));
        }
        let now: BTreeSet<Path> = said_leaves.into_keys().collect();
        let before = self.0.insert(manager.to_owned(), now).unwrap_or_default();
        merge(object, said, "");
        // Who says something in an item says the item as well.
        let said_by_any =
            |path: &Path| self.0.values().flatten().any(|known| known.starts_with(path.as_slice()));
        let mut gone: Vec<&Path> =
            before.iter().filter(|path| !tells_apart(path) && !said_by_any(path)).collect();
        // An item goes with all that is in it.
        gone.sort_by_key(|path| path.len());
        gone.into_iter().for_each(|path| remove(object, path, ""));
        Ok(())
    }
}

/// What tells the items of a list apart, if all of them have it.
fn identity(list: &str, items: &[Value]) -> Option<&'static [&'static str]> {
    let (_, keys) = KEYED.iter().find(|(name, _)| *name == list)?;
    // Those of an EndpointSlice have no key, and its endpoints are a value as a whole.
    let number = |item: &Value| item["port"].is_u64() && item.get("targetPort").is_some();
    let ports = *list == *"ports";
    let told = |item: &Value| match ports {
        true => number(item) || item["containerPort"].is_u64(),
        false => keys.iter().all(|key| item[*key].is_string()),
    };
    items.iter().all(told).then_some(keys)
}

fn item_of(keys: &[&'static str], item: &Value) -> Step {
    let value = |key: &&'static str| match &item[*key] {
        Value::Null if *key == "protocol" => Some((*key, "TCP".to_owned())),
        Value::Null => None,
        Value::String(text) => Some((*key, text.clone())),
        other => Some((*key, other.to_string())),
    };
    Step::Item(keys.iter().filter_map(value).collect())
}

/// Whether it is what its item is known by, and goes only with that.
fn tells_apart(path: &Path) -> bool {
    match path.as_slice() {
        [.., Step::Item(keys), Step::Field(name)] => keys.iter().any(|(key, _)| key == name),
        _ => false,
    }
}

/// The fields that have a value as a whole, and the items of lists, which have none.
fn leaves(object: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    collect(object, "", &mut Vec::new(), &mut found);
    found.retain(|path, _| !is_servers(path));
    found
}

fn collect(value: &Value, name: &str, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(fields) if !WHOLE.contains(&name) && !fields.is_empty() => {
            for (key, value) in fields {
                path.push(Step::Field(key.clone()));
                collect(value, key, path, found);
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => match identity(name, items) {
            Some(keys) => {
                for item in items {
                    path.push(item_of(keys, item));
                    found.insert(path.clone(), Value::Null);
                    collect(item, "", path, found);
                    path.pop();
                }
            }
            None => drop(found.insert(path.clone(), value.clone())),
        },
        value => drop(found.insert(path.clone(), value.clone())),
    }
}

/// What the server writes, and what says which object it is.
fn is_servers(path: &Path) -> bool {
    let field = |at: usize| match path.get(at) {
        Some(Step::Field(name)) => Some(name.as_str()),
        _ => None,
    };
    match field(0) {
        Some("metadata") => field(1)
            .is_some_and(|name| SERVERS.contains(&name) || ["name", "namespace"].contains(&name)),
        first => first.is_some_and(|name| ["apiVersion", "kind", "status"].contains(&name)),
    }
}

fn merge(object: &mut Value, said: &Value, name: &str) {
    match (&mut *object, said) {
        (Value::Object(fields), Value::Object(said)) if !WHOLE.contains(&name) => {
            for (key, value) in said {
                match fields.get_mut(key) {
                    Some(known) => merge(known, value, key),
                    None => drop(fields.insert(key.clone(), value.clone())),
                }
            }
        }
        (Value::Array(items), Value::Array(said)) => {
            match identity(name, said).filter(|_| identity(name, items).is_some()) {
                Some(keys) => merge_items(items, said, keys),
                None => *object = json!(said),
            }
        }
        (object, said) => *object = said.clone(),
    }
}

fn merge_items(items: &mut Vec<Value>, said: &[Value], keys: &[&'static str]) {
    for one in said {
        let step = item_of(keys, one);
        match items.iter_mut().find(|item| item_of(keys, item) == step) {
            Some(item) => merge(item, one, ""),
            None => items.push(one.clone()),
        }
    }
}

/// Takes away what is at this path, if it is there.
fn remove(value: &mut Value, path: &[Step], name: &str) {
    let [step, rest @ ..] = path else { return };
    match (step, value) {
        (Step::Field(key), Value::Object(fields)) => {
            if rest.is_empty() {
                fields.remove(key);
            } else if let Some(inner) = fields.get_mut(key) {
                remove(inner, rest, key);
                drop_empty(fields, key);
            }
        }
        (item @ Step::Item(_), Value::Array(items)) => {
            let Some(keys) = identity(name, items) else { return };
            let Some(at) = items.iter().position(|one| item_of(keys, one) == *item) else { return };
            match rest {
                [] => drop(items.remove(at)),
                rest => remove(&mut items[at], rest, ""),
            }
        }
        _ => {}
    }
}

/// An object or list that has lost its last is gone as well.
fn drop_empty(fields: &mut Map<String, Value>, key: &str) {
    let empty = match fields.get(key) {
        Some(Value::Object(inner)) => inner.is_empty(),
        Some(Value::Array(inner)) => inner.is_empty(),
        _ => false,
    };
    if empty {
        fields.remove(key);
    }
}

fn shown(path: &Path) -> String {
    let step = |step: &Step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::Item(keys) => {
            let keys = keys.iter().map(|(key, value)| format!("{key}={value:?}"));
            format!("[{}]", keys.collect::<Vec<_>>().join(","))
        }
    };
    path.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(image: &str, mounts: &[&str]) -> Value {
        let mounts = mounts.iter().map(|path| json!({"mountPath": path, "name": "v"}));
        json!({"spec": {"tolerations": [{"key": image}], "containers": [{
            "name": "c", "image": image, "command": [image], "volumeMounts": mounts.collect::<Vec<_>>(),
        }]}})
    }

    #[test]
    fn who_says_what_decides() {
        let mut live = pod("old", &["/a"]);
        let mut owners = Owners::of(&live);
        let conflicts = owners.apply("us", &mut live, &pod("new", &["/b"]), false).unwrap_err();
        let of = ".spec.containers[name=\"c\"]";
        let expected = [".command", ".image"].map(|field| format!("{of}{field}"));
        assert_eq!(conflicts, [&expected[..], &[".spec.tolerations".to_owned()]].concat());
        assert_eq!(live, pod("old", &["/a"]));

        // Items are added, lists without keys and values replaced.
        owners.apply("us", &mut live, &pod("new", &["/b"]), true).unwrap();
        assert_eq!(live, pod("new", &["/a", "/b"]));
        // Now they are ours, until somebody else writes them.
        owners.apply("us", &mut live, &pod("newer", &["/b"]), false).unwrap();
        let before = std::mem::replace(&mut live, pod("other", &["/a", "/b"]));
        owners.written(&before, &live);
        owners.apply("us", &mut live, &pod("newer", &["/b"]), false).unwrap_err();

        // What is ours alone goes when we are silent about it, what others say stays.
        owners.apply("us", &mut live, &pod("newer", &["/a"]), true).unwrap();
        assert_eq!(live, pod("newer", &["/a"]));
        owners.apply("us", &mut live, &json!({}), true).unwrap();
        let left = json!({"spec": {"containers": [{"name": "c", "volumeMounts": [
            {"mountPath": "/a", "name": "v"}]}]}});
        assert_eq!(live, left);
    }

    #[test]
    fn ports_are_told_apart_by_number_and_protocol() {
        let port = |number: u16, target: u16| json!({"port": number, "targetPort": target});
        let mut live = json!({"ports": [port(80, 1)]});
        let mut owners = Owners::of(&live);
        let tcp = json!({"port": 80, "protocol": "TCP", "targetPort": 1});
        let udp = json!({"port": 80, "protocol": "UDP", "targetPort": 1});
        owners.apply("us", &mut live, &json!({"ports": [tcp, udp]}), false).unwrap();
        assert_eq!(live, json!({"ports": [tcp, udp]}));
        // Those of an EndpointSlice are one value.
        let mut live = json!({"ports": [{"port": 1}]});
        let mut owners = Owners::of(&live);
        owners.apply("us", &mut live, &json!({"ports": [{"port": 2}]}), true).unwrap();
        assert_eq!(live, json!({"ports": [{"port": 2}]}));
    }
}
