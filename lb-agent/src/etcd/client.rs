//! The store as its callers see it: calls that find a member that answers.

mod list;

pub(super) use self::list::Listed;
use super::connection::{Connection, Failure};
use super::error::{At, EtcdError};
use super::kv::{Condition, KeyValue, Listing, Operation, put_options, transaction};
use super::settings::{CALL_TIMEOUT, Settings};
use etcd_client::{GetOptions, GetResponse, Txn, TxnResponse};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Talks to one member at a time. A call that fails because of the member is tried with each of the
/// others once before it fails; one that is refused is tried again after a new login, if there was
/// one before. So a call may be made twice without our knowing of the first: a put, a delete, and a
/// revoke then say the same again; of two grants one is left to expire; a transaction's conditions
/// guard it, and `false` then means "look again".
#[derive(Clone)]
pub struct Client {
    settings: Arc<Settings>,
    connection: Option<Connection>,
    /// The member to use next.
    member: usize,
    patience: Duration,
}

// === impl Client ===

impl Client {
    /// Nothing is connected before the first call.
    pub fn new(settings: Arc<Settings>) -> Self {
        let member = rand::random_range(0..settings.endpoints.len().max(1));
        Self { settings, connection: None, member, patience: CALL_TIMEOUT }
    }

    /// With another limit to how long a member may take to answer.
    pub(super) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// All keys that begin with `prefix`, at one revision.
    ///
    /// # Errors
    ///
    /// As [`Self::get`]; and if one key alone is larger than a message may be ([`EtcdError::TooLarge`]), the store
    /// forgets the revision again and again while it is read ([`EtcdError::Compacted`]), or members that answer
    /// belong to two clusters ([`EtcdError::WentBack`]).
    pub async fn list(&mut self, prefix: &str) -> Result<Listing, EtcdError> {
        Ok(self.listed(prefix).await?.listing)
    }

    /// A key.
    ///
    /// # Errors
    ///
    /// If no member answers in time ([`EtcdError::Unreachable`]), one side does not take the other's certificate
    /// ([`EtcdError::Certificate`]), or the store does not know us or does not let us ([`EtcdError::Refused`]).
    /// Each is one line that says where, what, and what to do.
    pub async fn get(&mut self, key: &str) -> Result<Option<KeyValue>, EtcdError> {
        let mut answer = self.page(&format!("read {key}"), key, GetOptions::new()).await?;
        Ok(answer.take_kvs().into_iter().next().map(KeyValue::taken))
    }

    /// A key as it was at a revision.
    pub(super) async fn get_at(
        &mut self,
        key: &str,
        revision: i64,
    ) -> Result<(Option<KeyValue>, u64), EtcdError> {
        let options = GetOptions::new().with_revision(revision);
        let mut answer = self.page(&format!("read {key}"), key, options).await?;
        let cluster = answer.header().map_or(0, |header| header.cluster_id());
        Ok((answer.take_kvs().into_iter().next().map(KeyValue::taken), cluster))
    }

    /// Writes a key; returns the revision of that.
    ///
    /// # Errors
    ///
    /// As [`Self::get`]; and if the value is larger than the store takes ([`EtcdError::TooLarge`]), `lease` has
    /// ended ([`EtcdError::LeaseGone`]), or the store is full. Where no answer came, the key may have been written.
    pub async fn put(
        &mut self,
        key: &str,
        value: Vec<u8>,
        lease: Option<i64>,
    ) -> Result<i64, EtcdError> {
        let answer = self
            .call(&format!("write {key}"), |mut connection| {
                let value = value.clone();
                async move { Ok(connection.kv.put(key, value, put_options(lease)).await?) }
            })
            .await?;
        Ok(answer.header().map_or(0, |header| header.revision()))
    }

    /// Deletes a key; whether it was there.
    ///
    /// # Errors
    ///
    /// As [`Self::get`]. Where no answer came, the key may have been deleted.
    pub async fn delete(&mut self, key: &str) -> Result<bool, EtcdError> {
        let answer = self
            .call(&format!("delete {key}"), |mut connection| async move {
                Ok(connection.kv.delete(key, None).await?)
            })
            .await?;
        Ok(answer.deleted() > 0)
    }

    /// Does all of `then` at one revision if all of `when` holds; whether it did. The store takes
    /// 128 operations at once unless it is configured otherwise.
    ///
    /// # Errors
    ///
    /// As [`Self::put`]; and if there are more operations than the store takes ([`EtcdError::Other`]). Either all
    /// of `then` was done or nothing; where no answer came, it may have been.
    pub async fn transact(
        &mut self,
        when: &[Condition],
        then: &[Operation],
    ) -> Result<bool, EtcdError> {
        let about = then.first().map(|first| match first {
            Operation::Put { key, .. } | Operation::Delete(key) => key.as_str(),
        });
        let doing = format!("write {}", about.unwrap_or("nothing"));
        Ok(self.transaction(&doing, transaction(when, then)).await?.succeeded())
    }

    /// Any transaction.
    pub(super) async fn transaction(
        &mut self,
        doing: &str,
        what: Txn,
    ) -> Result<TxnResponse, EtcdError> {
        self.call(doing, |mut connection| {
            let what = what.clone();
            async move { Ok(connection.kv.txn(what).await?) }
        })
        .await
    }

    /// Makes a lease. The store may make it longer than asked for.
    ///
    /// # Errors
    ///
    /// As [`Self::get`]; and if the time is longer than the store grants ([`EtcdError::Other`]). Where no answer
    /// came, a lease may be left, which ends by itself.
    pub async fn grant(&mut self, ttl: Duration) -> Result<i64, EtcdError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let answer = self
            .call("make a lease", |mut connection| async move {
                Ok(connection.lease.grant(seconds, None).await?)
            })
            .await?;
        Ok(answer.id())
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    ///
    /// As [`Self::get`]. That the lease has ended already is no error.
    pub async fn revoke(&mut self, lease: i64) -> Result<(), EtcdError> {
        let revoked = self
            .call("end a lease", |mut connection| async move {
                Ok(connection.lease.revoke(lease).await?)
            })
            .await;
        match revoked {
            Ok(_) | Err(EtcdError::LeaseGone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How long a lease has left; `None` if it has ended.
    ///
    /// # Errors
    ///
    /// As [`Self::get`]. That there is no such lease is no error.
    pub async fn lease_left(&mut self, lease: i64) -> Result<Option<Duration>, EtcdError> {
        let answer = self
            .call("look at a lease", |mut connection| async move {
                Ok(connection.lease.time_to_live(lease, None).await?)
            })
            .await?;
        // -1 says that there is no such lease, 0 that it is in its last second.
        Ok(u64::try_from(answer.ttl()).ok().map(Duration::from_secs))
    }

    async fn page(
        &mut self,
        doing: &str,
        key: impl Into<Vec<u8>>,
        options: GetOptions,
    ) -> Result<GetResponse, EtcdError> {
        let key = key.into();
        self.call(doing, |mut connection| {
            let (key, options) = (key.clone(), options.clone());
            async move { Ok(connection.kv.get(key, Some(options)).await?) }
        })
        .await
    }

    /// Calls until a member answers. See [`Client`] for what may be called twice.
    pub(super) async fn call<T, F>(
        &mut self,
        doing: &str,
        operation: impl Fn(Connection) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let members = self.settings.endpoints.len();
        let mut errors: Vec<EtcdError> = Vec::new();
        loop {
            let used = self.connection.is_some();
            let error = match self.call_once(doing, &operation).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match error {
                // What was good when we connected need not be now.
                EtcdError::Refused(_) | EtcdError::Certificate(_) if used => self.connection = None,
                // It may have hung up while we were idle.
                EtcdError::Unreachable(_) if used && members == 1 => self.connection = None,
                error if error.is_of_the_member() => {
                    self.rotate();
                    if !used {
                        errors.push(error);
                    }
                    if errors.len() == members {
                        return Err(summary(errors));
                    }
                }
                error => return Err(error),
            }
        }
    }

    async fn call_once<T, F>(
        &mut self,
        doing: &str,
        operation: &impl Fn(Connection) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let connection = match &self.connection {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(&self.settings, self.member).await?;
                self.connection.insert(opened)
            }
        };
        let endpoint = &self.settings.endpoints[self.member];
        let at = At { endpoint, settings: &self.settings, doing };
        match timeout(self.patience, operation(connection.clone())).await {
            Ok(answer) => answer.map_err(|failure| failure.at(at)),
            Err(_) => Err(EtcdError::silent(at, self.patience)),
        }
    }

    /// Leaves the present member for the next one.
    pub(super) fn rotate(&mut self) {
        self.connection = None;
        self.member = (self.member + 1) % self.settings.endpoints.len().max(1);
    }

    /// How the store is reached.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = self.settings.endpoints.get(self.member).map(ToString::to_string);
        f.debug_struct("Client").field("member", &member).finish_non_exhaustive()
    }
}

/// One line for what each member has said, each thing once.
fn summary(errors: Vec<EtcdError>) -> EtcdError {
    let mut lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.sort();
    lines.dedup();
    let line = lines.join("; ");
    match errors.into_iter().next_back() {
        Some(EtcdError::Certificate(_)) => EtcdError::Certificate(line),
        _ => EtcdError::Unreachable(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_each_thing_once() {
        let error = |text: &str| EtcdError::Unreachable(text.to_owned());
        let all = summary(vec![error("b: x"), error("a: y"), error("b: x")]);
        assert_eq!(all, error("a: y; b: x"));
    }
}
