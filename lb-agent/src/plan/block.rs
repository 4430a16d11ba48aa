//! A service as the kernel reads it: header and rows. Pure encoding.

use crate::model::{
    AdminState, Client, Exposure, Frontend, NoBackend, Policy, Reach, Scope, Service,
};
use lb_common::pick::alias_table;
use lb_common::rows::{Address, BackendRow, BlockHeader, BlockWord};
use lb_common::{affinity, no_backend, policy, scope};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

/// A header row and the backend rows after it: first those that may be picked, by id, then those
/// that rest, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The header; its `resting` counts the tail of `rows`.
    pub header: BlockHeader,
    /// The backends.
    pub rows: Vec<BackendRow>,
}

/// Which block of a service a frontend uses: frontends that are alike in this share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    /// IPv4 backends, or IPv6 ones.
    pub v4: bool,
    /// Whose sockets it is for.
    pub scope: Scope,
    /// Which backends it leads to.
    pub reach: Reach,
}

impl Variant {
    /// The variant that `frontend` uses when it is offered as `asked`.
    pub fn of(frontend: &Frontend, asked: Exposure) -> Self {
        let Exposure { scope, reach, way: _ } = frontend.exposure(asked);
        Self { v4: frontend.address.is_ipv4(), scope, reach }
    }

    /// What a client's choice is remembered by. Variants with other backends must not share it: each
    /// connection through one would take the client from the backend that it has in the other. There
    /// are fewer services than the bits above them.
    fn affinity_group(self, service_id: u32) -> u32 {
        let reach = match self.reach {
            Reach::Cluster => 0,
            Reach::Node => 1 << 30,
        };
        service_id | reach | if self.v4 { 0 } else { 1 << 31 }
    }
}

impl Block {
    /// Encodes one variant of a service, `ids` being its backends' ids.
    pub fn encode(
        service: &Service,
        service_id: u32,
        ids: &BTreeMap<SocketAddr, u32>,
        variant: Variant,
    ) -> Self {
        // What others keep is among the backends by now.
        let Service {
            frontends: _,
            backends,
            backends_from: _,
            policy,
            affinity,
            no_backend,
            no_node_backend,
            health: _,
            source_ranges: _,
        } = service;
        let mut usable = Vec::new();
        let mut resting = Vec::new();
        for (address, backend) in backends {
            if address.is_ipv4() != variant.v4 || !backend.lists.contains(variant.reach) {
                continue;
            }
            let Some(id) = ids.get(address).copied() else { continue };
            let row = BackendRow {
                address: Address::from(address.ip()),
                port: address.port().to_be(),
                weight: backend.weight,
                id,
                threshold: 0,
                alias: 0,
            };
            match backend.state {
                AdminState::Ready => usable.push(row),
                AdminState::Drain | AdminState::Disabled => resting.push(row),
            }
        }
        usable.sort_unstable_by_key(|row| row.id);
        resting.sort_unstable_by_key(|row| row.id);
        let weights: Vec<u16> = usable.iter().map(|row| row.weight).collect();
        for (row, slot) in usable.iter_mut().zip(alias_table(&weights)) {
            row.threshold = slot.threshold;
            row.alias = slot.alias;
        }
        let verdict = match variant.reach {
            Reach::Cluster => no_backend,
            Reach::Node => no_node_backend,
        };
        let header = BlockHeader {
            policy: match policy {
                Policy::Random => policy::RANDOM,
                Policy::LeastConnections => policy::LEAST_CONNECTIONS,
            },
            no_backend: match verdict {
                NoBackend::Refuse => no_backend::REFUSE,
                NoBackend::Unreachable => no_backend::UNREACHABLE,
                NoBackend::Pass => no_backend::PASS,
            },
            affinity: affinity.map_or(affinity::NONE, |affinity| match affinity.client {
                Client::Netns => affinity::NETNS,
                Client::Uid => affinity::UID,
                Client::Cgroup => affinity::CGROUP,
                Client::Process => affinity::PROCESS,
            }),
            scope: match variant.scope {
                Scope::Everywhere => scope::EVERYWHERE,
                Scope::Host => scope::HOST,
            },
            affinity_timeout: affinity.map_or(0, |affinity| affinity.timeout_seconds),
            affinity_group: variant.affinity_group(service_id),
            service_id,
            resting: u32::try_from(resting.len()).unwrap_or(u32::MAX),
            reserved: [0; 3],
        };
        usable.append(&mut resting);
        Self { header, rows: usable }
    }

    /// The block that `word` makes live in a table of `entries` rows, and the row it begins at. None if there is
    /// none, or what is there is no block.
    pub fn read(
        word: BlockWord,
        entries: u32,
        row: impl Fn(u32) -> Option<BackendRow>,
    ) -> Option<(u32, Self)> {
        let (base, header, rows) = Self::place(word, entries, &row)?;
        Some((base, Self { header, rows: rows.filter_map(row).collect() }))
    }

    /// The same without the rows: where they are, resting ones included.
    pub fn place(
        word: BlockWord,
        entries: u32,
        row: impl Fn(u32) -> Option<BackendRow>,
    ) -> Option<(u32, BlockHeader, Range<u32>)> {
        if word.0 == 0 {
            return None;
        }
        let header: BlockHeader = bytemuck::cast(row(word.base())?);
        let first = word.base().checked_add(1)?;
        let end = first.checked_add(word.rows())?.checked_add(header.resting)?;
        (end <= entries).then_some((word.base(), header, first..end))
    }

    /// Rows in `BACKENDS`, the header's included.
    pub fn length(&self) -> u32 {
        u32::try_from(self.rows.len()).map_or(u32::MAX, |rows| rows.saturating_add(1))
    }

    /// Whether a backend's id occurs in it.
    pub fn names_backend(&self, id: u32) -> bool {
        self.rows.iter().any(|row| row.id == id)
    }

    /// Backends that may be picked.
    pub fn usable(&self) -> u32 {
        self.length() - 1 - self.header.resting
    }

    /// The word that makes this block live when it lies at `base`.
    pub fn word(&self, base: u32) -> BlockWord {
        BlockWord::new(base, self.usable())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Affinity, Backend, Lists};

    fn service() -> Service {
        let backend = |weight, state| Backend { weight, state, ..Backend::default() };
        Service {
            frontends: BTreeMap::new(),
            backends: [
                ("10.0.0.1:80".parse().unwrap(), backend(1, AdminState::Ready)),
                ("10.0.0.2:80".parse().unwrap(), backend(3, AdminState::Ready)),
                ("10.0.0.3:80".parse().unwrap(), backend(2, AdminState::Drain)),
                ("[fd00::1]:80".parse().unwrap(), backend(1, AdminState::Ready)),
            ]
            .into(),
            policy: Policy::LeastConnections,
            affinity: Some(Affinity { client: Client::Cgroup, timeout_seconds: 60 }),
            no_backend: NoBackend::Unreachable,
            no_node_backend: NoBackend::Refuse,
            backends_from: Vec::new(),
            health: Default::default(),
            source_ranges: Vec::new(),
        }
    }

    #[test]
    fn rows_are_usable_first_and_sorted_by_id() {
        let service = service();
        let ids: BTreeMap<_, _> = service.backends.keys().copied().zip((2..6).rev()).collect();
        let variant = Variant { v4: true, scope: Scope::Host, reach: Reach::Cluster };
        let block = Block::encode(&service, 9, &ids, variant);
        let summary: Vec<_> = block.rows.iter().map(|r| (r.id, r.weight)).collect();
        assert_eq!(summary, [(4, 3), (5, 1), (3, 2)]);
        assert_eq!((block.length(), block.usable(), block.header.resting), (4, 2, 1));
        assert_eq!(block.word(10), BlockWord::new(10, 2));
        let header = BlockHeader {
            policy: policy::LEAST_CONNECTIONS,
            no_backend: no_backend::UNREACHABLE,
            affinity: affinity::CGROUP,
            scope: scope::HOST,
            affinity_timeout: 60,
            affinity_group: 9,
            service_id: 9,
            resting: 1,
            reserved: [0; 3],
        };
        assert_eq!(block.header, header);
        let variants = [(true, Reach::Cluster), (false, Reach::Cluster), (true, Reach::Node)];
        let groups = variants.map(|(v4, reach)| {
            let variant = Variant { v4, scope: Scope::Everywhere, reach };
            Block::encode(&service, 9, &ids, variant).header.affinity_group
        });
        assert_eq!(groups, [9, 9 | 1 << 31, 9 | 1 << 30]);

        let variant = Variant { v4: false, scope: Scope::Everywhere, reach: Reach::Cluster };
        let v6 = Block::encode(&service, 9, &ids, variant);
        assert_eq!((v6.length(), v6.usable(), v6.header.scope), (2, 1, scope::EVERYWHERE));
    }

    #[test]
    fn each_reach_has_its_backends_and_its_verdict() {
        let mut service = service();
        let lists = [Lists::Cluster, Lists::Both, Lists::Node];
        for (backend, lists) in service.backends.values_mut().zip(lists) {
            backend.lists = lists;
        }
        let ids: BTreeMap<_, _> = service.backends.keys().copied().zip(2..6).collect();
        let block = |reach| {
            let variant = Variant { v4: true, scope: Scope::Everywhere, reach };
            let block = Block::encode(&service, 9, &ids, variant);
            let rows: Vec<u32> = block.rows.iter().map(|row| row.id).collect();
            (rows, block.usable(), block.header.no_backend)
        };
        assert_eq!(block(Reach::Cluster), (vec![2, 3], 2, no_backend::UNREACHABLE));
        assert_eq!(block(Reach::Node), (vec![3, 4], 1, no_backend::REFUSE));
    }
}
