//! When flows are looked through, and for what. Each look reads the kernel's whole table of connections:
//! where that takes long, changes that follow each other share one. Pure.

use super::contents::Services;
use super::flows::{Flows, is_concerned};
use crate::model::{Frontend, OnRemoval};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Looks take one part of so many of the time at most: until there is one, a client that uses its port again
/// may be led to who has left.
const SHARE: u32 = 4;
/// Flows that began while a change was made are there when so much time has passed.
const LATER: Duration = Duration::from_secs(1);

/// What is to be looked for, and how often.
#[derive(Debug, Default)]
pub struct Passes {
    /// The services of which flows may be ended, as they are now.
    services: Services,
    /// What such services do not have any more, and when it was first looked for.
    left: BTreeMap<Frontend, Option<Duration>>,
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
                let left = before.frontends.keys().filter(|_| reset);
                self.left.extend(left.map(|frontend| (*frontend, None)));
            }
        }
        self.services = now;
        self.due = 2;
    }

    /// Has all looked through again: flows may have begun while there was no table.
    pub const fn again(&mut self) {
        self.due = 2;
    }

    /// When the next look is due, if any is.
    pub fn due(&self) -> Option<Duration> {
        match (self.due, self.last) {
            (0, _) => None,
            (_, None) => Some(Duration::ZERO),
            (1, Some((begun, ended))) => Some(ended + LATER.max((ended - begun) * (SHARE - 1))),
            (_, Some((begun, ended))) => Some(ended + (ended - begun) * (SHARE - 1)),
        }
    }

    /// What is to be looked for now, if anything is; `all` is served, and so much time has passed since
    /// the moment that is counted from.
    pub fn next(&mut self, all: &Services, now: Duration) -> Option<Flows> {
        if now < self.due()? {
            return None;
        }
        let flows = Flows::of(all, &self.left.keys().copied().collect());
        if flows.is_empty() {
            self.due = 0;
            self.left.clear();
            return None;
        }
        self.last = Some((now, now));
        Some(flows)
    }

    /// Takes that the look is over, and that it saw everything. One of which this is not told is made
    /// again.
    pub fn looked(&mut self, now: Duration) {
        let Some((begun, ended)) = &mut self.last else { return };
        *ended = now;
        let begun = *begun;
        self.due = self.due.saturating_sub(1);
        // Each is looked for until a look has begun that late, however often others make looks due.
        self.left.retain(|_, first| begun < *first.get_or_insert(begun) + LATER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Claims;
    use crate::nat::flows::Flow;
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
        assert!((100..=125).contains(&during.len()), "{during:?}");
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

    /// Two services with `on_removal: reset`, one of which is gone if there is no `web`.
    fn resetting(backend: u8, web: bool) -> Services {
        let claims = Claims { ranges: None, host_addresses: vec![], strict: false, exec: false };
        let service = |name: &str, number: u8, backend: u8| {
            format!(
                "{{name: {name}, expose: true, on_removal: reset, \
                 frontends: ['10.96.0.{number}:80'], backends: ['10.1.0.{backend}:80']}}"
            )
        };
        let web = if web { service("web", 1, 1) } else { String::new() };
        let text = format!("services: [{}, {web}]", service("other", 2, backend));
        spec::translate("x", &text, &claims, true).unwrap().snapshot.services
    }

    /// A connection to what is gone without `web`.
    fn to_web() -> Flow {
        let Frontend { address, protocol } = "10.96.0.1:80".parse().unwrap();
        Flow { protocol, destination: address, answers: "10.1.0.1:80".parse().unwrap() }
    }

    #[test]
    fn what_was_left_is_looked_for_again_after_a_look_that_failed() {
        let mut passes = Passes::default();
        passes.take(&resetting(1, true));
        let all = resetting(1, false);
        passes.take(&all);
        let mut now = Duration::ZERO;
        for turn in 0..3 {
            // It can't be told that these are over.
            let flows = passes.next(&all, now).unwrap();
            assert!(flows.is_stale(&to_web()), "{turn}");
            passes.again();
            now += LATER;
        }
        for turn in 0..2 {
            let flows = passes.next(&all, now).unwrap();
            assert!(flows.is_stale(&to_web()), "{turn}");
            passes.looked(now);
            now += LATER;
        }
        assert!(passes.next(&all, now).is_none());
    }

    #[test]
    fn what_was_left_is_forgotten_however_often_others_change() {
        let mut passes = Passes::default();
        passes.take(&resetting(0, true));
        let step = LATER / 10;
        for turn in 0..20 {
            let all = resetting(turn, false);
            passes.take(&all);
            let now = step * u32::from(turn);
            let flows = passes.next(&all, now).unwrap();
            passes.looked(now);
            assert_eq!(flows.is_stale(&to_web()), turn <= 10, "{turn}");
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
