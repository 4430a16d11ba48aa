//! Wiring of the packet path.

use super::Failure;
use crate::config::{Config, PacketPath, Source};
use crate::nat::Family;
use crate::nat::contents::Wanted;
use crate::nat::follow::{self, Inputs};
use crate::nat::kernel::Nat;
use crate::nat::preflight::{self, Claim};
use crate::source::kubernetes::Running;
use crate::status::PacketPathStatus;
use anyhow::anyhow;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What is to become of it.
pub(super) enum Prepared {
    /// Nothing.
    Off,
    /// It serves, once there is something to serve, or once it can; for now it can't, if there is a
    /// reason.
    Later(Option<String>),
    /// It serves.
    Now(Claim),
}

/// Finds out whether it can be, where that matters from the start. Must be called in the network
/// namespace that it is for.
pub(super) fn prepare(config: &Config) -> Result<Prepared, Failure> {
    let cluster = config.sources.iter().any(|source| matches!(source, Source::Kubernetes(_)));
    match config.packet_path {
        PacketPath::Off => {
            if abandoned().is_some() {
                tracing::warn!(
                    "tables of the packet path are still there and serve what they did: remove them \
                     by `nft delete table ip lb` and `nft delete table ip6 lb`, or set \
                     `packet_path: auto`"
                );
            }
            return Ok(Prepared::Off);
        }
        PacketPath::Auto if !cluster => {
            return Ok(abandoned().map_or(Prepared::Later(None), Prepared::Now));
        }
        PacketPath::On | PacketPath::Auto => {}
    }
    match preflight::claim() {
        Ok(claim) => Ok(Prepared::Now(claim)),
        Err(problem) if config.packet_path == PacketPath::On => Err(anyhow!(problem).into()),
        Err(problem) => {
            tracing::warn!("{problem}; going on without");
            Ok(Prepared::Later(Some(problem)))
        }
    }
}

/// The claim to tables that an agent left which runs no more, if there are any.
fn abandoned() -> Option<Claim> {
    let has = |family| Nat::open().and_then(|nat| nat.has(family));
    let mut found = false;
    for family in Family::ALL {
        match has(family) {
            Ok(has) => found |= has,
            // Who never had the packet path need not be able to.
            Err(error) => tracing::debug!(%error, "whether there are tables is not known"),
        }
    }
    let claim = found.then(preflight::claim_untried)?;
    claim.unwrap_or_else(|error| {
        tracing::warn!(%error, "the tables of the packet path can't be claimed");
        None
    })
}

/// Starts it. What is returned says how it fares, and is the task that ends when `wanted` has no
/// sender left.
pub(super) fn start(
    prepared: Prepared,
    wanted: watch::Receiver<Arc<Wanted>>,
    clusters: &[Running],
) -> (watch::Receiver<PacketPathStatus>, Option<JoinHandle<()>>) {
    let (status, told) = watch::channel(PacketPathStatus::default());
    let (claim, problem) = match prepared {
        Prepared::Off => return (told, None),
        Prepared::Later(problem) => (None, problem),
        Prepared::Now(claim) => (Some(claim), None),
    };
    let facts = clusters.iter().map(|cluster| {
        let mut facts = cluster.facts.clone();
        // What is known already is looked at, too.
        facts.mark_changed();
        facts
    });
    let inputs = Inputs { wanted, facts: facts.collect(), claim, problem };
    (told, Some(tokio::spawn(follow::follow(inputs, status))))
}

/// Removes the tables that an agent left. Returns whether there were any, and what is to be said of
/// those that stay because an agent that runs has them.
pub(super) fn remove(config: &Config) -> anyhow::Result<(bool, Option<String>)> {
    if config.packet_path == PacketPath::Off {
        return Ok((false, None));
    }
    let claim = preflight::claim_untried()
        .map_err(|error| anyhow!("the packet path can't be claimed: {error}; try again"))?;
    let Some(_claim) = claim else {
        let line = "the packet path of this network namespace is another agent's: its tables stay; \
                    stop that one to remove them";
        return Ok((false, Some(line.to_owned())));
    };
    let mut found = false;
    for family in Family::ALL {
        let removed = Nat::open().and_then(|nat| nat.remove(family));
        found |= removed.map_err(|error| anyhow!("the table `{} lb`: {error}", family.word()))?;
    }
    Ok((found, None))
}
