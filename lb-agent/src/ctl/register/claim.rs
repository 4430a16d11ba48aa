//! Whether a key is ours to take. Two registrars with one id and two addresses would each overwrite
//! what the other wrote, so the second one must not begin. What is left of a registrar that died is
//! waited out.

use super::super::say;
use super::record::Traces;
use crate::etcd::{Client, EtcdError, KeyValue};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a lease is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often a store that is away, or a key that is taken, is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

/// How much longer than announced a lease may last: it is counted in whole seconds, and ended when
/// the store gets to it.
const SLACK: Duration = Duration::from_secs(2);

/// A lease, as it was seen last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    lease: i64,
    left: Duration,
    /// When it must be gone if nobody renews it.
    ends: Instant,
}

/// What a look at the key has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nobody has it, or somebody with our own address, whose last change was at this revision. It
    /// is ours to take as long as that is so.
    Free(Option<i64>),
    /// It is another's; who, and what to do.
    Taken(String),
}

// === impl Seen ===

impl Seen {
    /// Whether somebody keeps the key, now that its lease has `left`. A short lease is renewed so
    /// often that the seconds left stay the same.
    fn renewed(&mut self, lease: i64, left: Duration, now: Instant) -> bool {
        let renewed = lease != self.lease || left > self.left || now > self.ends;
        self.left = left;
        renewed
    }
}

/// Looks until it is clear whose the key is; a lease that nobody renews is waited out, which is
/// `announced` if that has not happened yet.
pub(super) async fn look(
    client: &mut Client,
    key: &str,
    ours: SocketAddr,
    announced: &mut bool,
) -> Result<Claim, EtcdError> {
    let mut seen: Option<Seen> = None;
    loop {
        let Some(found) = client.get(key).await? else {
            return Ok(Claim::Free(None));
        };
        let traces = Traces::of(&found.value);
        if traces.address() == Some(ours) {
            return Ok(Claim::Free(Some(found.modified)));
        }
        let Some(lease) = found.lease else {
            return Ok(taken(&found, &traces, "it hangs on no lease"));
        };
        let left = client.lease_left(lease).await?;
        let now = Instant::now();
        match (&mut seen, left) {
            (Some(seen), Some(left)) => {
                if seen.renewed(lease, left, now) {
                    return Ok(taken(&found, &traces, "its lease is being renewed"));
                }
            }
            (None, Some(left)) => {
                let whose = whose(&traces);
                if !std::mem::replace(announced, true) {
                    say(&format!("{key} is held by {whose}; its lease has {left:?} left, waiting"));
                }
                seen = Some(Seen { lease, left, ends: now + left + SLACK });
            }
            (_, None) => {}
        }
        sleep(LOOK).await;
    }
}

/// Looks until the key is ours to take, and returns the revision at which it is; says each reason
/// why it is not, once. `told` was said already.
pub(super) async fn settle(
    mut client: Client,
    key: String,
    ours: SocketAddr,
    mut told: Option<String>,
) -> Option<i64> {
    let mut announced = false;
    loop {
        let reason = match look(&mut client, &key, ours, &mut announced).await {
            Ok(Claim::Free(modified)) => return modified,
            Ok(Claim::Taken(reason)) => reason,
            Err(error) => error.to_string(),
        };
        if told.as_ref() != Some(&reason) {
            say(&format!("not registered yet: {reason}"));
            told = Some(reason);
        }
        sleep(AGAIN).await;
    }
}

/// What is said when somebody else has taken the key while we had it.
pub(super) fn lost(found: &KeyValue, ours: SocketAddr) -> String {
    let KeyValue { key, value, .. } = found;
    let traces = Traces::of(value);
    let whose = whose(&traces);
    let what_now = if traces.address() == Some(ours) {
        "it is left to that registrar, and put again when it is free"
    } else {
        "it is put again when it is free; give one of the two another --id"
    };
    format!("{key} was taken over by {whose}; {what_now}")
}

fn taken(found: &KeyValue, traces: &Traces, why: &str) -> Claim {
    let KeyValue { key, .. } = found;
    let whose = whose(traces);
    Claim::Taken(format!(
        "{key} is held by {whose} ({why}); give this backend another --id, or remove the other with \
         `lbctl deregister`"
    ))
}

fn whose(traces: &Traces) -> String {
    let address = traces
        .address()
        .map_or_else(|| "a value that names no address".to_owned(), |address| address.to_string());
    match &traces.registered_by {
        Some(by) => format!("{address}, registered by {by}"),
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_somebody_renews_is_told_from_one_that_runs_out() {
        let start = Instant::now();
        let second = Duration::from_secs;
        let looks = |looks: &[(i64, u64, u64)]| {
            let mut seen = Seen { lease: 1, left: second(3), ends: start + second(3) + SLACK };
            let renewed = |(lease, left, at): &(i64, u64, u64)| {
                seen.renewed(*lease, second(*left), start + second(*at))
            };
            looks.iter().map(renewed).collect::<Vec<_>>()
        };
        assert_eq!(looks(&[(1, 3, 0), (1, 2, 1), (1, 0, 3), (1, 0, 4)]), [false; 4]);
        assert_eq!(looks(&[(1, 2, 1), (1, 3, 2)]), [false, true]);
        assert_eq!(looks(&[(1, 3, 1), (1, 3, 6)]), [false, true]);
        assert_eq!(looks(&[(2, 1, 1)]), [true]);
    }
}
