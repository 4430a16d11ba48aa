//! What the store holds and what can be asked of it, without `etcd_client`'s types, and the way
//! from those to these.

use etcd_client::{
    Compare, CompareOp, EventType, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

/// A key and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key; bytes that are not UTF-8 are replaced.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision at which the key came to be.
    pub created: i64,
    /// The revision of its last change.
    pub modified: i64,
    /// The lease it hangs on.
    pub lease: Option<i64>,
}

/// All keys under a prefix at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The revision.
    pub revision: i64,
    /// The keys, in order.
    pub keys: Vec<KeyValue>,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was created or changed.
    Put(KeyValue),
    /// It was deleted, or its lease ended.
    Delete {
        /// The key.
        key: String,
        /// The revision at which that happened.
        modified: i64,
    },
}

/// What must be so for a transaction to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no such key.
    Absent(String),
    /// The key is as it was at its last change.
    Unchanged {
        /// The key.
        key: String,
        /// The revision of that change.
        modified: i64,
    },
    /// The key has this value.
    Equals {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
    },
    /// The key hangs on this lease.
    OnLease {
        /// The key.
        key: String,
        /// The lease.
        lease: i64,
    },
}

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The lease it is to hang on.
        lease: Option<i64>,
    },
    /// Deletes a key, if it is there.
    Delete(String),
}

// === impl KeyValue ===

impl KeyValue {
    /// Takes the bytes over where that is possible.
    pub(super) fn taken(from: etcd_client::KeyValue) -> Self {
        let (created, modified) = (from.create_revision(), from.mod_revision());
        let lease = Some(from.lease()).filter(|lease| *lease != 0);
        let (key, value) = from.into_key_value();
        let key = String::from_utf8(key)
            .unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned());
        Self { key, value, created, modified, lease }
    }
}

// === impl Change ===

impl Change {
    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(put) => &put.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision at which it happened.
    pub fn modified(&self) -> i64 {
        match self {
            Self::Put(put) => put.modified,
            Self::Delete { modified, .. } => *modified,
        }
    }

    /// `None` for an event without a key, which there is not.
    pub(super) fn seen(event: &etcd_client::Event) -> Option<Self> {
        let about = event.kv()?;
        Some(match event.event_type() {
            EventType::Put => Self::Put(KeyValue::taken(about.clone())),
            EventType::Delete => Self::Delete {
                key: String::from_utf8_lossy(about.key()).into_owned(),
                modified: about.mod_revision(),
            },
        })
    }
}

// === impl Condition ===

impl Condition {
    fn compare(&self) -> Compare {
        match self {
            Self::Absent(key) => Compare::version(key.as_str(), CompareOp::Equal, 0),
            Self::Unchanged { key, modified } => {
                Compare::mod_revision(key.as_str(), CompareOp::Equal, *modified)
            }
            Self::Equals { key, value } => {
                Compare::value(key.as_str(), CompareOp::Equal, value.clone())
            }
            Self::OnLease { key, lease } => Compare::lease(key.as_str(), CompareOp::Equal, *lease),
        }
    }
}

// === impl Operation ===

impl Operation {
    fn op(&self) -> TxnOp {
        match self {
            Self::Put { key, value, lease } => {
                TxnOp::put(key.as_str(), value.clone(), put_options(*lease))
            }
            Self::Delete(key) => TxnOp::delete(key.as_str(), None),
        }
    }
}

/// How to put a key on a lease.
pub(super) fn put_options(lease: Option<i64>) -> Option<PutOptions> {
    lease.map(|lease| PutOptions::new().with_lease(lease))
}

/// A transaction that does `then` if `when` holds.
pub(super) fn transaction(when: &[Condition], then: &[Operation]) -> Txn {
    let when: Vec<Compare> = when.iter().map(Condition::compare).collect();
    let then: Vec<TxnOp> = then.iter().map(Operation::op).collect();
    Txn::new().when(when).and_then(then)
}

/// A transaction that does `then` if `when` holds, and reads `key` otherwise.
pub(super) fn transaction_or_read(when: &Condition, then: &Operation, key: &str) -> Txn {
    let read = vec![TxnOp::get(key, None)];
    transaction(std::slice::from_ref(when), std::slice::from_ref(then)).or_else(read)
}

/// What stood in the way of a [`transaction_or_read`]; `None`: it was done.
pub(super) fn in_the_way(answer: &TxnResponse) -> Option<Option<KeyValue>> {
    if answer.succeeded() {
        return None;
    }
    let found = answer.op_responses().into_iter().find_map(|read| match read {
        TxnOpResponse::Get(mut read) => read.take_kvs().into_iter().next(),
        _ => None,
    });
    Some(found.map(KeyValue::taken))
}

/// A transaction that deletes each key if it hangs on this lease.
pub(super) fn release<'a>(keys: impl Iterator<Item = &'a str>, lease: i64) -> Txn {
    let each = keys.map(|key| {
        let ours = vec![Compare::lease(key, CompareOp::Equal, lease)];
        TxnOp::txn(Txn::new().when(ours).and_then(vec![TxnOp::delete(key, None)]))
    });
    Txn::new().and_then(each.collect::<Vec<_>>())
}
