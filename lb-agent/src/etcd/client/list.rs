//! Lists of any length: page by page, all at the revision of the first.

use super::super::error::EtcdError;
use super::super::kv::{KeyValue, Listing};
use super::Client;
use etcd_client::GetOptions;

/// Keys on the first page.
const FIRST_PAGE: i64 = 1000;
/// Keys on a page at most.
const LONGEST_PAGE: i64 = 20_000;
/// What a page should weigh. For each page the store walks over all keys that are left, so small
/// pages make a long list slow; one large page keeps others waiting.
const PAGE_BYTES: usize = 2 << 20;
/// How often a list is begun anew because what it was reading was compacted.
const LISTS: usize = 5;

/// A list, and whose it is.
#[derive(Debug)]
pub(in super::super) struct Listed {
    pub(in super::super) listing: Listing,
    pub(in super::super) cluster: u64,
}

// === impl Client ===

impl Client {
    /// All keys that begin with `prefix`, and the cluster's name for itself.
    pub(in super::super) async fn listed(&mut self, prefix: &str) -> Result<Listed, EtcdError> {
        let doing = format!("list {prefix}");
        let mut tried = 1;
        loop {
            match self.list_once(&doing, prefix).await {
                // Compacted while we were reading, or continued with a member of another store.
                Err(EtcdError::Compacted(_) | EtcdError::WentBack(_)) if tried < LISTS => {
                    tried += 1;
                }
                listed => return listed,
            }
        }
    }

    async fn list_once(&mut self, doing: &str, prefix: &str) -> Result<Listed, EtcdError> {
        let end = prefix_end(prefix.as_bytes());
        let mut from = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
        let mut limit = FIRST_PAGE;
        let mut listed = Listed { listing: Listing::default(), cluster: 0 };
        loop {
            let revision = listed.listing.revision;
            let options = GetOptions::new().with_range(end.clone()).with_limit(limit);
            let options = options.with_revision(revision);
            let mut page = match self.page(doing, from.clone(), options).await {
                Err(EtcdError::TooLarge(_)) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                page => page?,
            };
            let (now, cluster) =
                page.header().map_or((0, 0), |header| (header.revision(), header.cluster_id()));
            if revision == 0 {
                (listed.listing.revision, listed.cluster) = (now, cluster);
            } else if listed.cluster != cluster {
                let line = "two members that were asked belong to two clusters; check `endpoints`";
                return Err(EtcdError::WentBack(line.to_owned()));
            }
            let more = page.more();
            let keys = page.take_kvs();
            let Some(last) = keys.last().filter(|_| more) else {
                listed.listing.keys.extend(keys.into_iter().map(KeyValue::taken));
                return Ok(listed);
            };
            from = last.key().to_vec();
            from.push(0);
            let bytes = keys.iter().map(|key| key.key().len() + key.value().len()).sum();
            limit = next_limit(keys.len(), bytes);
            listed.listing.keys.extend(keys.into_iter().map(KeyValue::taken));
        }
    }
}

/// How many keys like these make a page.
fn next_limit(keys: usize, bytes: usize) -> i64 {
    let fit = keys.saturating_mul(PAGE_BYTES) / bytes.max(1);
    i64::try_from(fit).unwrap_or(LONGEST_PAGE).clamp(1, LONGEST_PAGE)
}

/// The first key after all those that begin with `prefix`; a zero byte stands for the end.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let kept = prefix.iter().rposition(|byte| *byte < 0xff).map_or(0, |at| at + 1);
    let mut end = prefix[..kept].to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end() {
        for (prefix, end) in
            [(&b"/lb/"[..], &b"/lb0"[..]), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")]
        {
            assert_eq!(prefix_end(prefix), end, "{prefix:?}");
        }
    }

    #[test]
    fn pages_are_as_long_as_keys_are_small() {
        assert_eq!(next_limit(1000, 200_000), 10_485);
        assert_eq!(next_limit(1000, 10_000), LONGEST_PAGE);
        assert_eq!(next_limit(1000, 100 << 20), 20);
        assert_eq!(next_limit(1, 100 << 20), 1);
        assert_eq!(next_limit(1, 0), LONGEST_PAGE);
    }
}
