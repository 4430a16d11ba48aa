//! Addresses for services that ask for one (`vip: auto`): what to write so that each has its own,
//! the same on every host.
//!
//! The store decides: `vips/<address>` names the service that has an address and
//! `allocations/<service>` the addresses that a service has; both are written by one transaction,
//! which happens only if nobody else was faster. So any number of hosts may plan the same.
//! Pure; the transactions are sent by [`super::allocate`].

mod choice;
mod view;

pub use self::view::{Addresses, Allocation, Asking, Asks};

use self::choice::{Choice, Family};
use crate::claims::Claims;
use crate::etcd::{Condition, Operation};
use crate::model::{Frontend, Protocol, Rejection};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a freed address is left alone while others are free: clients may remember it.
const REST: Duration = Duration::from_secs(600);

/// Hands out the addresses of the operator's ranges.
#[derive(Debug)]
pub struct Pool {
    prefix: String,
    ranges: Vec<IpNet>,
    /// Its family is what `auto` means.
    first: Option<IpNet>,
    claims: Claims,
    /// Who had which address at the last look.
    before: HashSet<IpAddr>,
    /// When an address was freed.
    freed: HashMap<IpAddr, Instant>,
    /// How long a service must be gone before its address is free: one that is deleted and written
    /// again, or whose store is being filled again, keeps it.
    grace: Duration,
    /// Since when a service that has addresses is gone.
    gone: HashMap<Arc<str>, Instant>,
}

/// What to do, and what can't be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Transactions, each for one service.
    pub steps: Vec<Step>,
    /// Services that get no address.
    pub rejections: Vec<Rejection>,
    /// When there may be more to do, whatever happens until then.
    pub again: Option<Instant>,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The service.
    pub service: Arc<str>,
    /// The key that this is about, with its revision.
    pub origin: String,
    /// What it gets, for the log.
    pub gets: Vec<IpAddr>,
    /// What it gives back, for the log.
    pub gives: Vec<IpAddr>,
    /// What must be so.
    pub when: Vec<Condition>,
    /// What is written.
    pub then: Vec<Operation>,
}

/// What is planned so far.
struct Draft<'a> {
    view: &'a Addresses,
    missing: &'a BTreeSet<Arc<str>>,
    choice: Choice<'a>,
    /// Addresses by who has them.
    by_owner: HashMap<&'a str, Vec<IpAddr>>,
    plan: Plan,
}

// === impl Pool ===

impl Pool {
    /// A pool that writes below `prefix` and gives away what lies in `ranges` and may be claimed.
    /// What a service had is free when it has been gone for `grace`.
    pub fn new(prefix: String, ranges: &[IpNet], grace: Duration, claims: Claims) -> Self {
        let first = ranges.first().copied();
        let mut ranges = IpNet::aggregate(&ranges.to_vec());
        ranges.sort();
        Self {
            prefix,
            ranges,
            first,
            claims,
            before: HashSet::new(),
            freed: HashMap::new(),
            grace,
            gone: HashMap::new(),
        }
    }

    /// What to write now. `missing` are keys that the view has and the store does not, which are
    /// held back: until there are none, nothing is given back, and what a service had is written
    /// again for it.
    pub fn plan(&mut self, view: &Addresses, missing: &BTreeSet<Arc<str>>, now: Instant) -> Plan {
        self.remember(view, now);
        let mut by_owner: HashMap<&str, Vec<IpAddr>> = HashMap::new();
        for (address, owner) in &view.vips {
            by_owner.entry(owner).or_default().push(*address);
        }
        let choice = Choice::new(&self.ranges, self.unavailable(view), &self.freed);
        let mut draft = Draft { view, missing, choice, by_owner, plan: Plan::default() };
        for (service, asking) in &view.services {
            // While its key is missing nobody asks.
            if !missing.contains(self.service_key(service).as_str()) {
                self.serve(service, *asking, &mut draft);
            }
        }
        let mut plan = draft.plan;
        self.bury_all(view, missing, now, &mut plan);
        if self.ranges.is_empty() {
            // Without a pool this host only watches what the others do.
            plan.steps.clear();
            plan.again = None;
        }
        plan
    }

    /// Gives back what services had that have been gone for long enough.
    fn bury_all(
        &mut self,
        view: &Addresses,
        missing: &BTreeSet<Arc<str>>,
        now: Instant,
        plan: &mut Plan,
    ) {
        let is_gone = |service: &Arc<str>| {
            view.allocations.contains_key(service) && !view.services.contains_key(service)
        };
        self.gone.retain(|service, _| is_gone(service));
        for (service, has) in view.allocations.iter().filter(|(service, _)| is_gone(service)) {
            let since = *self.gone.entry(Arc::clone(service)).or_insert(now);
            let due = since + self.grace;
            if due > now {
                plan.again = plan.again.into_iter().chain([due]).min();
            } else if missing.is_empty() {
                plan.steps.push(self.bury(view, service, has));
            }
        }
    }

    /// Notes which addresses were freed since the last look.
    fn remember(&mut self, view: &Addresses, now: Instant) {
        let owned: HashSet<IpAddr> = view.vips.keys().copied().collect();
        self.freed.retain(|address, at| {
            !owned.contains(address) && now.saturating_duration_since(*at) < REST
        });
        self.freed.extend(self.before.difference(&owned).map(|address| (*address, now)));
        self.before = owned;
    }

    /// What has an owner, and what may not be a service's address at all.
    fn unavailable(&self, view: &Addresses) -> HashSet<IpAddr> {
        let refused = |address: &IpAddr| {
            self.claims.check(&Frontend::new(*address, 1, Protocol::Tcp)).is_err()
        };
        let special = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V4(Ipv4Addr::BROADCAST),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        let own = self.claims.host_addresses.iter().map(IpAddr::to_canonical);
        let special = special.into_iter().chain(own).filter(refused);
        view.vips.keys().chain(&view.named).copied().chain(special).collect()
    }

    /// Brings what a service has to what it asks for.
    fn serve(&self, service: &Arc<str>, asking: Asking, draft: &mut Draft<'_>) {
        let has = draft.view.allocations.get(service);
        let Some(wanted) = self.wanted(asking.asks, has) else {
            return;
        };
        let key = self.service_key(service);
        let mut step = Step::new(service, &key, asking.modified);
        step.when.push(Condition::Unchanged { key, modified: asking.modified });
        let key = self.allocation_key(service);
        let lost = has.is_some() && draft.missing.contains(key.as_str());
        step.when.push(match has {
            Some(has) if !lost => Condition::Unchanged { key: key.clone(), modified: has.modified },
            _ => Condition::Absent(key.clone()),
        });
        let mut result = Allocation::default();
        for (family, wanted) in [Family::V4, Family::V6].into_iter().zip(wanted) {
            let old = has.and_then(|has| has.get(family));
            if wanted {
                let address = self.provide(&mut step, family, old, draft);
                result.set(address);
            } else if let Some(old) = old {
                if draft.missing.is_empty() {
                    self.give_back(&mut step, draft.view, old);
                } else {
                    result.set(Some(old));
                }
            }
        }
        let same = has.is_some_and(|has| (has.v4, has.v6) == (result.v4, result.v6));
        let nothing = has.is_none() && result == Allocation::default();
        if nothing || (same && !lost && step.then.is_empty()) {
            return;
        }
        step.then.push(if result == Allocation::default() {
            Operation::Delete(key)
        } else {
            Operation::Put { key, value: result.to_json(), lease: None }
        });
        draft.plan.steps.push(step);
    }

    /// Whether IPv4, whether IPv6; `None` if the service is to be left alone.
    fn wanted(&self, asks: Asks, has: Option<&Allocation>) -> Option<[bool; 2]> {
        Some(match asks {
            Asks::Unknown => return None,
            Asks::Nothing => [false, false],
            Asks::V4 => [true, false],
            Asks::V6 => [false, true],
            Asks::Both => [true, true],
            // What it has will do, so that hosts with different pools don't take turns.
            Asks::Any => match has {
                Some(has) if has.v4.is_some() || has.v6.is_some() => {
                    [has.v4.is_some(), has.v6.is_some()]
                }
                _ => {
                    let v4 = self.first.is_none_or(|range| range.addr().is_ipv4());
                    [v4, !v4]
                }
            },
        })
    }

    /// The service's address of a family: the one it has, one that is reserved for it, or a free one.
    fn provide(
        &self,
        step: &mut Step,
        family: Family,
        old: Option<IpAddr>,
        draft: &mut Draft<'_>,
    ) -> Option<IpAddr> {
        let Draft { view, missing, choice, by_owner, plan } = draft;
        let service = Arc::clone(&step.service);
        let owner = |address: &IpAddr| view.vips.get(address);
        // Of another's address nothing is left to keep.
        let old = old.filter(|old| owner(old).is_none_or(|owner| *owner == service));
        let reserved = || {
            let own = by_owner.get(&*service)?;
            own.iter().find(|address| family.is_of(address)).copied()
        };
        if let Some(address) = old.or_else(reserved) {
            let key = self.vip_key(address);
            if owner(&address).is_none() || missing.contains(key.as_str()) {
                step.take(key, address);
                choice.take(address);
            } else if Some(address) != old {
                let value = service.as_bytes().to_vec();
                step.when.push(Condition::Equals { key, value });
                step.gets.push(address);
            }
            return Some(address);
        }
        let Some(address) = choice.choose(&service, family) else {
            plan.rejections.push(self.refusal(step, family, view.vips.len()));
            return None;
        };
        step.take(self.vip_key(address), address);
        Some(address)
    }

    fn refusal(&self, step: &Step, family: Family, taken: usize) -> Rejection {
        let reason = if self.ranges.is_empty() {
            "the service asks for an address and nobody has given it one: this agent has no \
             `vip_pool`; add one, or name an address in `vip`"
                .to_owned()
        } else if !self.ranges.iter().any(|range| family.is_of(&range.addr())) {
            format!(
                "the service asks for an {family} address and `vip_pool` has no {family} range; \
                 add one, or name an address in `vip`"
            )
        } else {
            let ranges: Vec<_> = self.ranges.iter().map(ToString::to_string).collect();
            format!(
                "the service gets no address: all {family} addresses of `vip_pool` ({}) are taken, \
                 {taken} in all; add a range to it, or delete services that need none any more",
                ranges.join(", ")
            )
        };
        Rejection { origin: step.origin.clone(), service: Some(step.service.to_string()), reason }
    }

    fn give_back(&self, step: &mut Step, view: &Addresses, address: IpAddr) {
        step.gives.push(address);
        if view.vips.get(&address).is_some_and(|owner| *owner == step.service) {
            let key = self.vip_key(address);
            let value = step.service.as_bytes().to_vec();
            step.when.push(Condition::Equals { key: key.clone(), value });
            step.then.push(Operation::Delete(key));
        }
    }

    /// Gives back all that a service had that is no more.
    fn bury(&self, view: &Addresses, service: &Arc<str>, has: &Allocation) -> Step {
        let key = self.allocation_key(service);
        let mut step = Step::new(service, &key, has.modified);
        step.when.push(Condition::Absent(self.service_key(service)));
        step.when.push(Condition::Unchanged { key: key.clone(), modified: has.modified });
        for address in [Family::V4, Family::V6].into_iter().filter_map(|family| has.get(family)) {
            self.give_back(&mut step, view, address);
        }
        step.then.push(Operation::Delete(key));
        step
    }

    fn service_key(&self, service: &str) -> String {
        format!("{}services/{service}", self.prefix)
    }

    fn allocation_key(&self, service: &str) -> String {
        format!("{}allocations/{service}", self.prefix)
    }

    fn vip_key(&self, address: IpAddr) -> String {
        format!("{}vips/{address}", self.prefix)
    }
}

// === impl Step ===

impl Step {
    fn new(service: &Arc<str>, key: &str, modified: i64) -> Self {
        Self {
            service: Arc::clone(service),
            origin: format!("{key} (revision {modified})"),
            gets: Vec::new(),
            gives: Vec::new(),
            when: Vec::new(),
            then: Vec::new(),
        }
    }

    /// An address that nobody has becomes the service's.
    fn take(&mut self, key: String, address: IpAddr) {
        self.when.push(Condition::Absent(key.clone()));
        let value = self.service.as_bytes().to_vec();
        self.then.push(Operation::Put { key, value, lease: None });
        self.gets.push(address);
    }
}

#[cfg(test)]
mod tests;
