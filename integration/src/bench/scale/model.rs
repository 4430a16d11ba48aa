//! What many hosts ask of one store, of each other's backends and of themselves: every demand is a
//! line over the number of hosts, made of what was measured on few of them.
//!
//! Pure.

/// What was measured. Times are seconds on a CPU, sizes bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Of the store, for a host that follows it while nothing changes, in each second.
    pub quiet_cpu: f64,
    /// On the wire for it, both ways, in each second.
    pub quiet_bytes: f64,
    /// What the store keeps for a host.
    pub host_memory: f64,
    /// Of the store, to tell one host of one change.
    pub change_cpu: f64,
    /// On the wire for it.
    pub change_bytes: f64,
    /// Of the store, for one key in a list.
    pub listed_cpu: f64,
    /// On the wire for it.
    pub listed_bytes: f64,
    /// Of the store, to renew one lease and look at its keys.
    pub renewal_cpu: f64,
    /// What the store keeps for a registrar: a lease, its keys and a connection.
    pub registrar_memory: f64,
    /// Of the host that checks, for one check.
    pub check_cpu: f64,
}

/// What is served, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fleet {
    /// Keys that each host reads.
    pub keys: f64,
    /// Backends; each is checked by each host.
    pub backends: f64,
    /// Changes of a key, in each second.
    pub changes: f64,
    /// Seconds between two lists for safety of a host.
    pub relist: f64,
    /// Leases that are kept alive.
    pub leases: f64,
    /// Seconds between two renewals of a lease.
    pub renewal: f64,
    /// Seconds between two checks of a backend by a host; infinite if hosts don't check.
    pub interval: f64,
}

/// What there is of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Members of the store, on which the hosts are spread.
    pub members: f64,
    /// Cores of each.
    pub cores: f64,
    /// Bytes a second on the network of each, both ways.
    pub network: f64,
    /// Memory of each for its clients, in bytes.
    pub memory: f64,
    /// Share of a core that a host may spend on checks.
    pub checking: f64,
    /// Share of a core that a backend may spend on being checked.
    pub checked: f64,
}

/// What may run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Cores of the member that leads, which renews the leases alone.
    StoreCpu,
    /// The network of a member.
    StoreNetwork,
    /// A member's memory.
    StoreMemory,
    /// A core of each host, for checks of all backends.
    Checking,
    /// A core of each backend, for checks by all hosts.
    BeingChecked,
}

/// How much of a resource is asked for: a line over the number of hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Of what.
    pub resource: Resource,
    /// However many hosts there are.
    pub fixed: f64,
    /// For each host.
    pub per_host: f64,
    /// What there is.
    pub room: f64,
}

/// All demands.
pub fn demands(costs: &Costs, fleet: &Fleet, room: &Room) -> [Demand; 5] {
    let Costs {
        quiet_cpu,
        quiet_bytes,
        host_memory,
        change_cpu,
        change_bytes,
        listed_cpu,
        listed_bytes,
        renewal_cpu,
        registrar_memory,
        check_cpu,
    } = *costs;
    let Fleet { keys, backends, changes, relist, leases, renewal, interval } = *fleet;
    let Room { members, cores, network, memory, checking, checked } = *room;
    let listed = keys / relist;
    [
        Demand {
            resource: Resource::StoreCpu,
            fixed: leases / renewal * renewal_cpu,
            per_host: (quiet_cpu + changes * change_cpu + listed * listed_cpu) / members,
            room: cores,
        },
        Demand {
            resource: Resource::StoreNetwork,
            fixed: 0.0,
            per_host: (quiet_bytes + changes * change_bytes + listed * listed_bytes) / members,
            room: network,
        },
        Demand {
            resource: Resource::StoreMemory,
            fixed: leases * registrar_memory / members,
            per_host: host_memory / members,
            room: memory,
        },
        Demand {
            resource: Resource::Checking,
            fixed: backends / interval * check_cpu,
            per_host: 0.0,
            room: checking,
        },
        Demand {
            resource: Resource::BeingChecked,
            fixed: 0.0,
            // On the loopback device, who asks pays for the answer as well.
            per_host: check_cpu / interval,
            room: checked,
        },
    ]
}

/// Seconds until all hosts have listed everything, if they begin at the same moment.
pub fn cold_start(costs: &Costs, fleet: &Fleet, room: &Room, hosts: f64) -> f64 {
    let keys = fleet.keys * hosts / room.members;
    (keys * costs.listed_cpu / room.cores).max(keys * costs.listed_bytes / room.network)
}

/// The line through these points with the least squares: its value at 0 and its slope. A single point
/// gives a line through 0.
pub fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if spread == 0.0 {
        return (0.0, if x == 0.0 { 0.0 } else { y / x });
    }
    let common: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let slope = common / spread;
    (y - slope * x, slope)
}

// === impl Demand ===

impl Demand {
    /// The share of what there is that so many hosts take.
    pub fn share(&self, hosts: f64) -> f64 {
        (self.fixed + self.per_host * hosts) / self.room
    }

    /// How many hosts take this share of what there is; `None`: never.
    pub fn hosts_at(&self, share: f64) -> Option<f64> {
        let left = share * self.room - self.fixed;
        if left < 0.0 {
            return Some(0.0);
        }
        (self.per_host > 0.0).then(|| (left / self.per_host).floor())
    }
}

// === impl Resource ===

impl Resource {
    /// How figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StoreCpu => "store cpu",
            Self::StoreNetwork => "store network",
            Self::StoreMemory => "store memory",
            Self::Checking => "host cpu, checks",
            Self::BeingChecked => "backend cpu, checks",
        }
    }
}

#[cfg(test)]
mod tests;
