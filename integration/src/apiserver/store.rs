//! The objects, and every change of them since the last compaction.

use super::apply::Owners;
use super::kinds::Kind;
use super::patch::{self, Style};
use super::selector::Selector;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

/// Kind, namespace (empty if there is none) and name.
type Key = (&'static str, &'static str, String, String);

/// A refusal: code, reason and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A change.
#[derive(Clone, Debug)]
struct Change {
    version: u64,
    kind: &'static Kind,
    before: Option<Arc<Value>>,
    /// With the version of the change, also if it is a deletion.
    now: Arc<Value>,
    deleted: bool,
}

/// What a watch is to be sent.
#[derive(Clone, Debug)]
pub(super) struct News {
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(super) what: &'static str,
    pub(super) object: Arc<Value>,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) version: u64,
    pub(super) items: Vec<Arc<Value>>,
    pub(super) next: Option<String>,
    pub(super) remaining: usize,
}

/// Lists that are being read page by page, by number: version and what is left.
type Lists = HashMap<u64, (u64, VecDeque<Arc<Value>>)>;

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Of the last change.
    version: u64,
    /// Changes up to this one are forgotten.
    compacted: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    /// Of the objects that somebody has applied.
    owners: HashMap<Key, Owners>,
    history: VecDeque<Change>,
    lists: Lists,
    numbers: u64,
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(code: u16, message: impl Into<String>) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            409 => "Conflict",
            410 => "Expired",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            _ => "InternalError",
        };
        Self { code, reason, message: message.into() }
    }

    fn expired() -> Self {
        Self::new(410, "The provided resource version is too old.")
    }

    /// As the API has it.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}

// === impl Store ===

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, Refusal> {
        let found = self.objects.get(&key(kind, namespace, name));
        found.cloned().ok_or_else(|| not_found(kind, name))
    }

    /// All objects that are selected, in order.
    pub(super) fn select(&self, kind: &Kind, selector: &Selector) -> Vec<Arc<Value>> {
        let first = key(kind, "", "");
        let of_kind = self.objects.range(first..);
        let of_kind = of_kind
            .take_while(|((group, plural, ..), _)| *group == kind.group && *plural == kind.plural);
        let objects = of_kind.map(|(_, object)| object);
        objects.filter(|object| selector.matches(object)).cloned().collect()
    }

    /// A page of a list; `next` is what an earlier page said.
    pub(super) fn list(
        &mut self,
        kind: &Kind,
        selector: &Selector,
        limit: usize,
        next: &str,
    ) -> Result<Page, Refusal> {
        let (number, version, mut left) = if next.is_empty() {
            self.numbers += 1;
            (self.numbers, self.version, self.select(kind, selector).into())
        } else {
            let number =
                next.parse().map_err(|_| Refusal::new(400, "continue key is not valid"))?;
            let (version, left) = self.lists.remove(&number).ok_or_else(Refusal::expired)?;
            (number, version, left)
        };
        let limit = if limit == 0 { left.len() } else { limit.min(left.len()) };
        let items = left.drain(..limit).collect();
        let remaining = left.len();
        let next = (remaining > 0).then(|| {
            self.lists.insert(number, (version, left));
            number.to_string()
        });
        Ok(Page { version, items, next, remaining })
    }

    /// Makes an object that must not be there yet.
    pub(super) fn create(
        &mut self,
        kind: &'static Kind,
        mut object: Value,
    ) -> Result<Arc<Value>, Refusal> {
        let (namespace, name) = self.place(kind, &mut object)?;
        if self.get(kind, &namespace, &name).is_ok() {
            let message = format!("{} \"{name}\" already exists", kind.plural);
            return Err(Refusal { reason: "AlreadyExists", ..Refusal::new(409, message) });
        }
        self.numbers += 1;
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.numbers));
        metadata["creationTimestamp"] = json!(now());
        metadata["generation"] = json!(1);
        Ok(self.put(kind, &namespace, &name, object))
    }

    /// Replaces an object; one that says which version it means must mean the present one.
    pub(super) fn update(
        &mut self,
        kind: &'static Kind,
        mut object: Value,
    ) -> Result<Arc<Value>, Refusal> {
        let (namespace, name) = self.place(kind, &mut object)?;
        let before = self.get(kind, &namespace, &name)?;
        check_version(kind, &before, &object)?;
        for field in ["uid", "creationTimestamp", "generation"] {
            object["metadata"][field] = before["metadata"][field].clone();
        }
        if object["spec"] != before["spec"] {
            let generation = before["metadata"]["generation"].as_u64().unwrap_or_default();
            object["metadata"]["generation"] = json!(generation + 1);
        }
        let mut compared = object.clone();
        compared["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        if compared == *before {
            return Ok(before);
        }
        Ok(self.put(kind, &namespace, &name, object))
    }

    /// Changes an object.
    pub(super) fn patch(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        change: &Value,
        style: Style,
    ) -> Result<Arc<Value>, Refusal> {
        let before = self.get(kind, namespace, name)?;
        check_version(kind, &before, change)?;
        let mut object = (*before).clone();
        patch::apply(&mut object, change, style);
        self.update(kind, object)
    }

    /// Makes or changes an object so that it is as `manager` says, who says all he wants.
    pub(super) fn apply(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        said: &Value,
        (manager, force): (&str, bool),
    ) -> Result<Arc<Value>, Refusal> {
        let key = key(kind, namespace, name);
        let before = self.objects.get(&key).cloned();
        let mut object = before.as_deref().cloned().unwrap_or_else(|| {
            let mut metadata = json!({"name": name});
            if kind.namespaced {
                metadata["namespace"] = json!(namespace);
            }
            json!({ "metadata": metadata })
        });
        let known = self.owners.get(&key).cloned();
        let mut owners = match &before {
            Some(before) => known.unwrap_or_else(|| Owners::of(before)),
            None => Owners::default(),
        };
        owners.apply(manager, &mut object, said, force).map_err(|fields| {
            let count = fields.len();
            let fields = fields.join(", ");
            Refusal::new(409, format!("Apply failed with {count} conflicts: {fields}"))
        })?;
        let written = match before {
            Some(before) => {
                check_version(kind, &before, said)?;
                self.update(kind, object)
            }
            None => self.create(kind, object),
        }?;
        self.owners.insert(key, owners);
        Ok(written)
    }

    pub(super) fn delete(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, Refusal> {
        let key = key(kind, namespace, name);
        self.owners.remove(&key);
        let before = self.objects.remove(&key);
        let before = before.ok_or_else(|| not_found(kind, name))?;
        self.version += 1;
        let now = Arc::new(versioned((*before).clone(), self.version));
        let change = Change {
            version: self.version,
            kind,
            before: Some(before),
            now: Arc::clone(&now),
            deleted: true,
        };
        self.history.push_back(change);
        Ok(now)
    }

    /// What a watch that has seen everything up to `since` has not seen yet.
    pub(super) fn since(
        &self,
        kind: &Kind,
        selector: &Selector,
        since: u64,
    ) -> Result<Vec<News>, Refusal> {
        if since < self.compacted || since > self.version {
            return Err(Refusal::expired());
        }
        let first = self.history.partition_point(|change| change.version <= since);
        let changes = self.history.range(first..).filter(|change| change.kind == kind);
        Ok(changes.filter_map(|change| change.for_watch(selector)).collect())
    }

    /// Forgets all changes up to now. With `skip`, even those who have seen everything are too old.
    pub(super) fn compact(&mut self, skip: bool) {
        self.version += u64::from(skip);
        self.compacted = self.version;
        self.history.clear();
        self.lists.clear();
    }

    fn put(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        object: Value,
    ) -> Arc<Value> {
        self.version += 1;
        let now = Arc::new(versioned(object, self.version));
        let key = key(kind, namespace, name);
        if let (Some(owners), Some(before)) = (self.owners.get_mut(&key), self.objects.get(&key)) {
            owners.written(before, &now);
        }
        let before = self.objects.insert(key, Arc::clone(&now));
        let version = self.version;
        let change = Change { version, kind, before, now: Arc::clone(&now), deleted: false };
        self.history.push_back(change);
        now
    }

    /// Namespace and name, and the object with what it may leave out.
    fn place(&mut self, kind: &Kind, object: &mut Value) -> Result<(String, String), Refusal> {
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        let metadata = &mut object["metadata"];
        if metadata["name"].is_null()
            && let Some(prefix) = metadata["generateName"].as_str().map(str::to_owned)
        {
            self.numbers += 1;
            metadata["name"] = json!(format!("{prefix}{:05}", self.numbers));
        }
        let Some(name) = metadata["name"].as_str().filter(|name| !name.is_empty()) else {
            return Err(Refusal::new(422, "metadata.name: Required value"));
        };
        let name = name.to_owned();
        if !kind.namespaced {
            return Ok((String::new(), name));
        }
        let namespace = metadata["namespace"].as_str().unwrap_or("default").to_owned();
        metadata["namespace"] = json!(namespace);
        Ok((namespace, name))
    }
}

// === impl Change ===

impl Change {
    /// An object that comes to be selected, or ceases to be, comes or goes for who watches.
    fn for_watch(&self, selector: &Selector) -> Option<News> {
        let before = self.before.as_ref().is_some_and(|before| selector.matches(before));
        let now = !self.deleted && selector.matches(&self.now);
        let what = match (before, now) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        let object = match &self.before {
            // As it was when it was selected, with the version of the change.
            Some(before) if what == "DELETED" => {
                Arc::new(versioned((**before).clone(), self.version))
            }
            _ => Arc::clone(&self.now),
        };
        Some(News { what, object })
    }
}

fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
    (kind.group, kind.plural, namespace.to_owned(), name.to_owned())
}

fn not_found(kind: &Kind, name: &str) -> Refusal {
    Refusal::new(404, format!("{} \"{name}\" not found", kind.plural))
}

fn check_version(kind: &Kind, before: &Value, object: &Value) -> Result<(), Refusal> {
    let wanted = &object["metadata"]["resourceVersion"];
    if wanted.is_null() || *wanted == "" || *wanted == before["metadata"]["resourceVersion"] {
        return Ok(());
    }
    let name = before["metadata"]["name"].as_str().unwrap_or_default();
    let message = format!(
        "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please \
         apply your changes to the latest version and try again",
        kind.plural
    );
    Err(Refusal::new(409, message))
}

fn versioned(mut object: Value, version: u64) -> Value {
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object
}

/// The time as the API writes it.
fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, labels: Value) -> Value {
        json!({"metadata": {"name": name, "labels": labels}, "spec": {}})
    }

    #[test]
    fn a_watch_sees_what_comes_and_goes_by_its_selector() {
        let kind = Kind::named("services").unwrap();
        let selector = Selector::parse(None, "!hidden", "").unwrap();
        let mut store = Store::default();
        store.create(kind, service("a", json!({}))).unwrap();
        let start = store.version();
        store.create(kind, service("b", json!({"hidden": "x"}))).unwrap();
        store.update(kind, service("b", json!({}))).unwrap();
        store.update(kind, service("a", json!({"hidden": "y"}))).unwrap();
        store.delete(kind, "default", "a").unwrap();
        store.delete(kind, "default", "b").unwrap();
        let news = store.since(kind, &selector, start).unwrap();
        let seen: Vec<_> = news
            .iter()
            .map(|news| format!("{} {}", news.what, news.object["metadata"]["name"]))
            .collect();
        assert_eq!(seen, ["ADDED \"b\"", "DELETED \"a\"", "DELETED \"b\""]);
        store.compact(false);
        assert!(store.since(kind, &selector, store.version()).unwrap().is_empty());
        assert_eq!(store.since(kind, &selector, start).unwrap_err().code, 410);
        let newest = store.version();
        store.compact(true);
        assert_eq!(store.since(kind, &selector, newest).unwrap_err().code, 410);
    }

    #[test]
    fn conflicts_and_pages() {
        let kind = Kind::named("Service").unwrap();
        let mut store = Store::default();
        for i in 0..5 {
            store.create(kind, service(&format!("s{i}"), json!({}))).unwrap();
        }
        assert_eq!(store.create(kind, service("s0", json!({}))).unwrap_err().code, 409);
        let mut stale = (*store.get(kind, "default", "s0").unwrap()).clone();
        store.update(kind, service("s0", json!({"a": "b"}))).unwrap();
        stale["spec"] = json!({"x": 1});
        assert_eq!(store.update(kind, stale).unwrap_err().code, 409);
        let all = Selector::default();
        let page = store.list(kind, &all, 2, "").unwrap();
        assert_eq!((page.items.len(), page.remaining), (2, 3));
        let next = page.next.unwrap();
        // A list is of one moment.
        store.delete(kind, "default", "s4").unwrap();
        let page = store.list(kind, &all, 9, &next).unwrap();
        assert_eq!((page.items.len(), page.next), (3, None));
        assert_eq!(store.list(kind, &all, 9, &next).unwrap_err().code, 410);
    }
}
