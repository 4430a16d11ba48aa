//! When flows are looked through, and for what. Each look reads the kernel's whole table of connections:
//! where that takes long, changes that follow each other share one. Pure.

use super::contents::Services;
use super::flows::{Flows, is_concerned};
use crate::model::{Frontend, OnRemoval};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Looks take one part of so many of the time at most.
const SHARE: u32 = 20;
/// Flows that began while a change was made are there when so much time has passed.
const LATER: Duration = Duration::from_secs(1);

/// What is to be looked for, and how often.
#[derive(Debug, Default)]
pub struct Passes {
    /// The services of which flows may be ended, as they are now.
    services: Services,
    /// What such services do not have any more.
    left: BTreeSet<Frontend>,
    /// How many looks are due. After a change there are two: some flows may begin while it is made.
    due: u8,
    /// When the last one began and ended, since some moment.
    last: Option<(Duration, Duration)>,
}

impl Passes {
    /// Takes what is served now.
    pub fn take(&mut self, services: &Services) {
        let concerned = services.iter().filter(|(_, service)| is_concerned(service));
        let now: Services =
            concerned.map(|(name, service)| (name.clone(), Arc::clone(service))).collect();
        let same = now.len() == self.services.len()
            && now
                .iter()
                .zip(&self.services)
                .all(|((name, now), (known, before))| name == known && Arc::ptr_eq(now, before));
        if same {
            return;
        }
        for (name, before) in &self.services {
            if now.get(name).is_none_or(|now| !Arc::ptr_eq(now, before)) {
                let reset = before.health.on_removal == OnRemoval::Reset;
                self.left.extend(before.frontends.keys().filter(|_| reset));
            }
        }
        self.services = now;
        self.due = 2;
    }

    /// Has all looked through again: flows may have begun while there was no table.
    pub const fn again(&mut self) {
        self.due = 2;
    }

    /// What is to be looked for now, if anything is; `all` is served, and so much time has passed since
    /// the moment that is counted from.
    pub fn next(&mut self, all: &Services, now: Duration) -> Option<Flows> {
        let due = match (self.due, self.last) {
            (0, _) => return None,
            (_, None) => Duration::ZERO,
            (1, Some((begun, ended))) => ended + LATER.max((ended - begun) * (SHARE - 1)),
            (_, Some((begun, ended))) => ended + (ended - begun) * (SHARE - 1),
        };
        if now < due {
            return None;
        }
        let flows = Flows::of(all, &self.left);
        self.due -= 1;
        if self.due == 0 || flows.is_empty() {
            self.due = 0;
            self.left.clear();
        }
        if flows.is_empty() {
            return None;
        }
        self.last = Some((now, now));
        Some(flows)
    }

    /// Takes that the look is over.
    pub fn looked(&mut self, now: Duration) {
        if let Some((_, ended)) = &mut self.last {
            *ended = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Claims;
    use crate::source::spec;

    fn services(backend: u32, more: &str) -> Services {
        let claims = Claims { ranges: None, host_addresses: vec![], strict: false, exec: false };
        let address = std::net::Ipv4Addr::from_bits(0x0a01_0000 + backend);
        let text = format!(
            "services: [{{name: dns, expose: true, frontends: ['10.96.0.1:53{more}'], \
             backends: ['{address}:53']}}]"
        );
        spec::translate("x", &text, &claims, true).unwrap().snapshot.services
    }

    /// A change each 20 ms for ten seconds, where a look takes as long.
    #[test]
    fn changes_share_looks_and_two_follow_the_last() {
        let mut passes = Passes::default();
        let step = Duration::from_millis(20);
        let mut looks = Vec::new();
        let mut all = Services::new();
        for turn in 0..750 {
            if turn < 500 {
                all = services(turn, "/udp");
                passes.take(&all);
            }
            let now = step * turn;
            if passes.next(&all, now).is_some() {
                passes.looked(now + step);
                looks.push(now);
            }
        }
        let last_change = step * 499;
        let (during, after): (Vec<Duration>, Vec<_>) =
            looks.into_iter().partition(|look| *look < last_change);
        assert!((20..=25).contains(&during.len()), "{during:?}");
        assert_eq!(after.len(), 2, "{after:?}");
        assert!(after[1] - after[0] >= LATER, "{after:?}");
    }

    /// Where a look takes no time, none waits.
    #[test]
    fn a_change_is_looked_for_at_once() {
        let mut passes = Passes::default();
        for turn in 0..10 {
            let all = services(turn, "/udp");
            passes.take(&all);
            let now = Duration::from_millis(turn.into());
            assert!(passes.next(&all, now).is_some(), "{turn}");
            passes.looked(now);
            assert!(passes.next(&all, now).is_none(), "the second comes later");
        }
    }

    #[test]
    fn nothing_is_looked_for_where_no_flow_is_ended() {
        let mut passes = Passes::default();
        let all = services(1, "");
        passes.take(&all);
        passes.again();
        assert!(passes.next(&all, Duration::ZERO).is_none());
    }
}
