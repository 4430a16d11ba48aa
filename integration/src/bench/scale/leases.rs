//! What it costs a store to keep backends registered: each on a lease of its own, as `lbctl register`
//! has them, beside many on one lease.

use super::hosts::{PREFIX, Used, backend, settings};
use crate::etcd::Etcd;
use crate::process::Memory;
use crate::wait::{let_pass, wait_for};
use lb_agent::etcd::lease::Wanted;
use lb_agent::etcd::{Keeper, TakeOver};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::watch::{Sender, channel};

/// How long a lease lives on if it is not renewed: what `lbctl register` takes. It is renewed three
/// times as often.
pub(super) const TTL: Duration = Duration::from_secs(10);
/// How long all may take to be registered.
const DEADLINE: Duration = Duration::from_secs(60);
/// Those that register together.
const WAVE: usize = 50;

/// What registrations cost the store.
pub(super) struct Renewals {
    /// Seconds on a CPU for each renewal, the look at the lease's keys included.
    pub(super) cpu: f64,
    /// Bytes that it keeps for each registrar: lease, keys and connection.
    pub(super) memory: f64,
}

/// Keeps so many leases with so many keys each alive for a while.
pub(super) fn renewals(
    etcd: &Etcd,
    leases: usize,
    keys: usize,
    span: Duration,
) -> anyhow::Result<Renewals> {
    let settings = settings(&etcd.endpoint())?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let empty = Memory::of(etcd.process_id()).now;
    let mut keepers: Vec<(Sender<Wanted>, Keeper)> = Vec::new();
    let wanted = |lease: usize| -> BTreeMap<String, Vec<u8>> {
        let key = |key: usize| format!("{PREFIX}backends/kept/{keys}-{lease}-{key}");
        (0..keys).map(|number| (key(number), backend(number).into_bytes())).collect()
    };
    while keepers.len() < leases {
        let _inside = runtime.enter();
        let begin = keepers.len();
        for lease in begin..leases.min(begin + WAVE) {
            let (sender, receiver) = channel(Arc::new(wanted(lease)));
            let settings = Arc::clone(&settings);
            keepers.push((sender, Keeper::spawn(settings, TTL, receiver, TakeOver::Any)));
        }
        wait_for("all leases to be there", DEADLINE, || {
            let mut all = keepers[begin..].iter();
            all.all(|(_, keeper)| keeper.state().borrow().registered).then_some(())
        });
    }
    // Each is renewed at times of its own, since they were made one after the other.
    let before = Used::by(etcd)?;
    let_pass(span);
    let spent = Used::by(etcd)?.since(before);
    let renewed = leases as f64 * spent.seconds / (TTL / 3).as_secs_f64();
    let grown = Memory::of(etcd.process_id()).now.saturating_sub(empty);
    // They end their leases when nobody wants the keys any more.
    let (senders, keepers): (Vec<_>, Vec<_>) = keepers.into_iter().unzip();
    drop(senders);
    runtime.block_on(async {
        for keeper in keepers {
            keeper.ended().await;
        }
    });
    Ok(Renewals { cpu: spent.cpu / renewed, memory: grown as f64 * 1024.0 / leases as f64 })
}
