//! Walks the tables as a program does for one address: from the frontend to the rows of its block.

use super::pinned::{Pinned, affinity_of, no_backend_of, policy_of, scope_of};
use super::sys;
use super::tables::chain;
use crate::explain::{Candidate, Walk, least_connections_shares};
use crate::model::{Frontend, Policy, Protocol};
use anyhow::Context as _;
use lb_common::pick::{Slot, shares};
use lb_common::rows::{AffinityKey, AffinityWord, BackendRow, BlockHeader, FrontendKey};
use std::collections::BTreeMap;
use std::net::SocketAddr;

impl Pinned {
    /// What a socket that dials this address meets; `None` if it is left alone, because the address
    /// is no frontend or nothing is published for it.
    ///
    /// # Errors
    ///
    /// If the tables can't be read, the block is replaced again and again meanwhile (ask again), or it names a row
    /// that it does not have.
    pub fn walk(&self, frontend: Frontend) -> anyhow::Result<Option<Walk>> {
        let Frontend { address, protocol } = frontend;
        let key = FrontendKey::new(address.ip(), address.port(), protocol.number());
        let index = match self.tables.frontends.get(&bytemuck::cast(key), 0) {
            Ok(index) => index,
            Err(aya::maps::MapError::KeyNotFound) => return Ok(None),
            Err(error) => anyhow::bail!("reading FRONTENDS: {}", chain(&error)),
        };
        let Some((block, header, rows)) = self.tables.settled_block(index)? else {
            return Ok(None);
        };
        let usable = rows.len().saturating_sub(header.resting as usize);
        let (picked, resting) = rows.split_at(usable);
        let clients = self.clients(&header).context("reading AFFINITY")?;
        let policy = policy_of(&header);
        let active = |row: &BackendRow| self.tables.active(row.id).unwrap_or(0);
        let slots: Vec<Slot> =
            picked.iter().map(|row| Slot { threshold: row.threshold, alias: row.alias }).collect();
        anyhow::ensure!(
            slots.iter().all(|slot| (slot.alias as usize) < slots.len()),
            "the block of this frontend names a row that it does not have; restart the agent, \
             which writes it anew"
        );
        let drawn = if slots.is_empty() { Vec::new() } else { shares(&slots) };
        let drawn = match policy {
            Policy::Random => drawn,
            Policy::LeastConnections => {
                let loads: Vec<_> = picked.iter().map(|row| (active(row), row.weight)).collect();
                least_connections_shares(&drawn, &loads)
            }
        };
        let candidate = |row: &BackendRow, share: f64| Candidate {
            address: SocketAddr::new(row.address.into(), u16::from_be(row.port)),
            id: row.id,
            weight: row.weight,
            share_percent: 100.0 * share,
            active: active(row),
            clients: header_has_affinity(&header)
                .then(|| clients.get(&row.id).copied().unwrap_or(0)),
        };
        Ok(Some(Walk {
            index,
            block,
            service_id: header.service_id,
            policy,
            no_backend: no_backend_of(&header),
            affinity: affinity_of(&header),
            scope: scope_of(&header),
            candidates: picked.iter().zip(drawn).map(|(row, s)| candidate(row, s)).collect(),
            resting: resting.iter().map(|row| candidate(row, 0.0)).collect(),
        }))
    }

    /// Every frontend that the kernel has, with its service's id.
    ///
    /// # Errors
    ///
    /// If `FRONTENDS` can't be read, or a block is replaced again and again meanwhile: ask again.
    pub fn all_frontends(&self) -> anyhow::Result<Vec<(Frontend, u32)>> {
        let frontends = self.tables.frontends()?;
        let mut named = Vec::with_capacity(frontends.len());
        for (key, index) in frontends {
            let Some((_, header, _)) = self.tables.settled_block(index)? else { continue };
            let Some(protocol) = Protocol::from_number(key.protocol) else { continue };
            let address = key.socket_addr();
            let frontend = Frontend::new(address.ip(), address.port(), protocol);
            named.push((frontend, header.service_id));
        }
        Ok(named)
    }

    /// How many clients stay with each backend for now.
    fn clients(&self, header: &BlockHeader) -> anyhow::Result<BTreeMap<u32, u64>> {
        let mut counts = BTreeMap::new();
        if !header_has_affinity(header) {
            return Ok(counts);
        }
        let now = sys::monotonic_now().as_secs();
        let mut stays_with = BTreeMap::new();
        // While entries come and go, the kernel may begin again with those that were read already:
        // each client counts once, and the walk ends all the same.
        for entry in self.tables.affinity.iter().take(self.tables.affinity_room) {
            // One that is evicted while they are read is not an error.
            let Ok((key, word)) = entry else { continue };
            let (key, word): (AffinityKey, _) = (bytemuck::cast(key), AffinityWord(word));
            let same = key.group == header.affinity_group && key.kind == u32::from(header.affinity);
            if same && u64::from(word.deadline()) > now {
                stays_with.insert(key.client, word.backend_id());
            }
        }
        for backend in stays_with.into_values() {
            *counts.entry(backend).or_insert(0) += 1;
        }
        Ok(counts)
    }
}

fn header_has_affinity(header: &BlockHeader) -> bool {
    header.affinity != lb_common::affinity::NONE
}
