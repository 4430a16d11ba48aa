//! One round of keeping keys: renew the lease, look what hangs on it, do what is missing.

use super::super::client::Client;
use super::super::error::EtcdError;
use super::super::kv::{
    Condition, KeyValue, Operation, in_the_way, release, transaction, transaction_or_read,
};
use super::TakeOver;
use etcd_client::LeaseTimeToLiveOptions;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Operations per transaction; the store takes 128 unless it is told otherwise.
const BATCH: usize = 60;
/// Bytes per transaction; the store takes 1.5 MiB unless it is told otherwise.
const BATCH_BYTES: usize = 512 << 10;
/// Bytes of keys that an answer about a lease may have: the client takes no answer above 4 MiB.
const LISTED_BYTES: usize = 2 << 20;
/// How often a key that changes at the same moment is tried at once.
const GUESSES: usize = 4;
/// The shortest lease.
const SHORTEST: Duration = Duration::from_secs(1);

/// A lease and what hangs on it.
#[derive(Debug)]
pub(super) struct Round {
    client: Client,
    ttl: Duration,
    lease: Option<i64>,
    /// What we have put on the lease.
    kept: BTreeMap<String, Vec<u8>>,
    /// Which keys of others we may overwrite.
    take_over: TakeOver,
    /// The keys that are wanted, but another's.
    taken: BTreeMap<String, KeyValue>,
    /// When the store was last asked to renew it, and did.
    renewed: Instant,
    /// Whether the keys on a lease can't be read, and that was said.
    blind: bool,
}

/// Some of the keys, small enough for one transaction.
type Batch<'a> = Vec<(&'a str, &'a [u8])>;

// === impl Round ===

impl Round {
    pub(super) fn new(client: Client, ttl: Duration, take_over: TakeOver) -> Self {
        // The store makes none shorter than that, nor do we ask it more often.
        let ttl = ttl.max(SHORTEST);
        let (kept, taken, renewed) = (BTreeMap::new(), BTreeMap::new(), Instant::now());
        Self { client, ttl, lease: None, kept, take_over, taken, renewed, blind: false }
    }

    /// Does what is missing.
    pub(super) async fn go(&mut self, wanted: &BTreeMap<String, Vec<u8>>) -> Result<(), EtcdError> {
        let done = self.attempt(wanted).await;
        if let Err(EtcdError::LeaseGone(why)) = &done {
            tracing::info!(%why, "the lease is gone; making another");
            self.lease = None;
            self.kept.clear();
            return self.attempt(wanted).await;
        }
        done
    }

    async fn attempt(&mut self, wanted: &BTreeMap<String, Vec<u8>>) -> Result<(), EtcdError> {
        if let Some(lease) = self.lease
            && self.until_due().is_zero()
        {
            self.renew(lease).await?;
            self.look(lease).await?;
        }
        if let Some(lease) = self.lease {
            self.remove(lease, wanted).await?;
        }
        self.taken.retain(|key, _| wanted.contains_key(key));
        let missing: Batch<'_> = wanted
            .iter()
            .filter(|(key, value)| self.kept.get(*key) != Some(value))
            .map(|(key, value)| (key.as_str(), value.as_slice()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let lease = match self.lease {
            Some(lease) => lease,
            None => {
                let asked = Instant::now();
                let lease = self.client.grant(self.ttl).await?;
                (self.lease, self.renewed) = (Some(lease), asked);
                lease
            }
        };
        self.put(lease, missing).await
    }

    async fn renew(&mut self, lease: i64) -> Result<(), EtcdError> {
        let asked = Instant::now();
        self.client
            .call("keep a lease alive", |mut connection| async move {
                // A stream for each time: nothing that could break unnoticed in between.
                Ok(connection.lease.keep_alive(lease).await.map(drop)?)
            })
            .await?;
        self.renewed = asked;
        Ok(())
    }

    /// Forgets keys that no longer hang on the lease.
    async fn look(&mut self, lease: i64) -> Result<(), EtcdError> {
        let listed = self.kept.keys().map(String::len).sum::<usize>() < LISTED_BYTES;
        let answer = self
            .client
            .call("read the keys of a lease", |mut connection| async move {
                let options = listed.then(|| LeaseTimeToLiveOptions::new().with_keys());
                Ok(connection.lease.time_to_live(lease, options).await?)
            })
            .await;
        let found: BTreeSet<Vec<u8>> = match answer {
            Ok(answer) if answer.ttl() < 0 => {
                return Err(EtcdError::LeaseGone(format!("no lease {lease:x}")));
            }
            Ok(_) if !listed => {
                self.go_blind("there are too many for one answer");
                return Ok(());
            }
            Ok(answer) => answer.keys().iter().cloned().collect(),
            // Who may write a key need not be allowed to read it.
            Err(EtcdError::Refused(why)) => {
                self.go_blind(&why);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.blind = false;
        self.kept.retain(|key, _| {
            let there = found.contains(key.as_bytes());
            if !there {
                tracing::warn!(key, "deleted or taken over by somebody else");
            }
            there
        });
        Ok(())
    }

    fn go_blind(&mut self, why: &str) {
        if !std::mem::replace(&mut self.blind, true) {
            tracing::warn!(why, "keys that others delete will not be put again");
        }
    }

    /// Deletes what is no longer wanted, unless it is another's by now.
    async fn remove(
        &mut self,
        lease: i64,
        wanted: &BTreeMap<String, Vec<u8>>,
    ) -> Result<(), EtcdError> {
        let left: Vec<String> =
            self.kept.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for batch in left.chunks(BATCH) {
            let doing = format!("delete {}", batch.first().map_or("", String::as_str));
            let deletes = release(batch.iter().map(String::as_str), lease);
            self.client.transaction(&doing, deletes).await?;
            for key in batch {
                self.kept.remove(key);
            }
        }
        Ok(())
    }

    /// Puts keys; one that is too large does not keep the others out.
    async fn put(&mut self, lease: i64, missing: Batch<'_>) -> Result<(), EtcdError> {
        let mut too_large = None;
        for batch in batches(missing) {
            match self.put_batch(lease, &batch).await {
                Err(EtcdError::TooLarge(_)) if batch.len() > 1 => {
                    for one in batch {
                        match self.put_batch(lease, &[one]).await {
                            Err(error @ EtcdError::TooLarge(_)) => too_large = Some(error),
                            done => done?,
                        }
                    }
                }
                Err(error @ EtcdError::TooLarge(_)) => too_large = Some(error),
                done => done?,
            }
        }
        too_large.map_or(Ok(()), Err)
    }

    async fn put_batch(&mut self, lease: i64, batch: &[(&str, &[u8])]) -> Result<(), EtcdError> {
        if self.take_over != TakeOver::Any {
            for (key, value) in batch {
                self.put_if_free(lease, key, value).await?;
            }
            return Ok(());
        }
        let puts: Vec<Operation> = batch
            .iter()
            .map(|(key, value)| Operation::Put {
                key: (*key).to_owned(),
                value: value.to_vec(),
                lease: Some(lease),
            })
            .collect();
        let doing = format!("write {}", batch.first().map_or("", |(key, _)| key));
        self.client.transaction(&doing, transaction(&[], &puts)).await?;
        let put = batch.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec()));
        self.kept.extend(put);
        Ok(())
    }

    /// Puts a key unless it is another's. One key at a time, without transactions in transactions:
    /// members before 3.4.42 ask nobody for permission there.
    async fn put_if_free(&mut self, lease: i64, key: &str, value: &[u8]) -> Result<(), EtcdError> {
        let put = Operation::Put { key: key.to_owned(), value: value.to_vec(), lease: Some(lease) };
        let doing = format!("write {key}");
        let mut when = match self.kept.get(key) {
            Some(_) => Condition::OnLease { key: key.to_owned(), lease },
            None => Condition::Absent(key.to_owned()),
        };
        for _ in 0..GUESSES {
            let guarded = transaction_or_read(&when, &put, key);
            let answer = self.client.transaction(&doing, guarded).await?;
            let Some(found) = in_the_way(&answer) else {
                self.taken.remove(key);
                self.kept.insert(key.to_owned(), value.to_vec());
                return Ok(());
            };
            when = match found {
                None => Condition::Absent(key.to_owned()),
                // Ours: an answer was lost, or the value is to change.
                Some(found) if found.lease == Some(lease) => {
                    Condition::OnLease { key: key.to_owned(), lease }
                }
                Some(found) if self.may_take(&found) => {
                    Condition::Unchanged { key: key.to_owned(), modified: found.modified }
                }
                Some(found) => {
                    self.kept.remove(key);
                    self.taken.insert(key.to_owned(), found);
                    return Ok(());
                }
            };
        }
        Err(EtcdError::Other(format!("{key} changes all the time; see who else writes it")))
    }

    fn may_take(&self, found: &KeyValue) -> bool {
        match &self.take_over {
            TakeOver::Any => true,
            TakeOver::At(revisions) => revisions.get(&found.key) == Some(&found.modified),
        }
    }

    /// How long there is nothing to do, if nothing changes.
    pub(super) fn until_due(&self) -> Duration {
        let pause = self.ttl / 3;
        match self.lease {
            Some(_) => pause.saturating_sub(self.renewed.elapsed()),
            None => pause,
        }
    }

    /// Whether the lease lives, as far as can be known without asking.
    pub(super) fn lives(&self) -> bool {
        self.lease.is_none() || self.renewed.elapsed() < self.ttl
    }

    pub(super) fn lease(&self) -> Option<i64> {
        self.lease
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) fn kept(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.kept
    }

    /// A wanted key that is another's.
    pub(super) fn taken(&self) -> Option<&KeyValue> {
        self.taken.values().next()
    }

    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Whether all that is wanted is there.
pub(super) fn is_kept(
    wanted: &BTreeMap<String, Vec<u8>>,
    kept: &BTreeMap<String, Vec<u8>>,
) -> bool {
    wanted.iter().all(|(key, value)| kept.get(key) == Some(value))
}

/// Cuts keys into transactions that the store takes.
fn batches(keys: Batch<'_>) -> Vec<Batch<'_>> {
    let mut batches: Vec<Batch<'_>> = Vec::new();
    let mut room = 0;
    for (key, value) in keys {
        let size = key.len() + value.len();
        match batches.last_mut() {
            Some(batch) if size <= room && batch.len() < BATCH => {
                batch.push((key, value));
                room -= size;
            }
            _ => {
                batches.push(vec![(key, value)]);
                room = BATCH_BYTES.saturating_sub(size);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_small() {
        let small = vec![("k", &b"v"[..]); BATCH * 2 + 1];
        let sizes = |keys| batches(keys).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(small), [BATCH, BATCH, 1]);
        let half = vec![0; BATCH_BYTES / 2];
        let large = vec![0; BATCH_BYTES * 2];
        let keys = vec![("a", &half[..]), ("b", &half[..]), ("c", &large[..]), ("d", b"")];
        assert_eq!(sizes(keys), [1, 1, 1, 1]);
        assert_eq!(sizes(Vec::new()), [0; 0]);
    }
}
