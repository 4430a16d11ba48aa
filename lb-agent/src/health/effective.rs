//! The rule: which backends of a service get new connections, with what share, and why.
//!
//! New connections go to backends that are ready and healthy; if there are none, or too few
//! (`panic_threshold`), to all that are ready: fail open overrides checks, never what the operator or
//! the source says. Among them the lowest priority level serves, and in it the own zone as far as
//! enough of it is up. Backends of the two families never stand in for each other, nor do those of a
//! service's two lists, so the rule is applied to each by itself.

use crate::model::{AdminState, Rule};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Full speed, in the steps of [`ramp`].
pub const FULL: u16 = 20;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the operator and the source say.
    pub admin: AdminState,
    /// What checks and real connects say.
    pub health: Health,
    /// Its share beside the others; never 0.
    pub weight: u16,
    /// Its level: the lowest that has anybody serves.
    pub priority: u8,
    /// Whether it is in this host's zone.
    pub own_zone: bool,
    /// How far it is in its slow start: 1 to [`FULL`].
    pub ramp: u16,
}

/// What checks and real connects say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing against it.
    Up,
    /// A check says that it is down.
    Down,
    /// Connects to it failed.
    Ejected,
}

/// What a backend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its share of new connections beside the others'; 0: none.
    pub weight: u16,
    /// Why.
    pub why: Why,
}

/// Why a backend gets new connections or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It gets its share.
    Serving,
    /// It is not healthy, but nor are enough others: it gets its share all the same.
    FailOpen,
    /// The operator or the source drains it.
    Draining,
    /// The operator took it out.
    Disabled,
    /// A check says that it is down.
    Failing,
    /// Connects to it failed.
    Ejected,
    /// Backends of a lower priority level serve.
    Standby,
    /// Backends of this host's zone serve.
    OtherZone,
}

impl Why {
    /// All there are, in their order.
    pub const ALL: [Self; 8] = [
        Self::Serving,
        Self::FailOpen,
        Self::Draining,
        Self::Disabled,
        Self::Failing,
        Self::Ejected,
        Self::Standby,
        Self::OtherZone,
    ];

    /// In a word or two, for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::FailOpen => "fail-open",
            Self::OtherZone => "other-zone",
            other => other.label(),
        }
    }

    /// As a label of a metric, and in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::FailOpen => "fail_open",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::Failing => "failing",
            Self::Ejected => "ejected",
            Self::Standby => "standby",
            Self::OtherZone => "other_zone",
        }
    }

    /// What follows "backend is".
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::FailOpen => "serving, though not healthy, for want of others",
            Self::Standby => "on standby",
            Self::OtherZone => "left to its own zone",
            other => other.label(),
        }
    }
}

/// The shares of a service's backends of one family, in their order, and whether it fails open.
pub fn shares(members: &[Member], rule: Rule) -> (Vec<Share>, bool) {
    let (weighed, fail_open) = weigh(members, rule);
    (fit(weighed), fail_open)
}

/// [`shares`] before they have the size that rows have. Those of several lists are on one scale.
pub fn weigh(members: &[Member], rule: Rule) -> (Vec<(u64, Why)>, bool) {
    let ready = |m: &&Member| m.admin == AdminState::Ready;
    let healthy = |m: &&Member| ready(m) && m.health == Health::Up;
    let count = members.iter().filter(ready).count();
    let up = members.iter().filter(healthy).count();
    let fail_open = count > 0 && (up == 0 || up * 100 < count * usize::from(rule.panic_threshold));
    let candidate = |m: &&Member| if fail_open { ready(m) } else { healthy(m) };

    let level = members.iter().filter(candidate).map(|m| m.priority).min();
    let in_level = |m: &&Member| candidate(m) && Some(m.priority) == level;
    // Whoever fails open has no choice left to make.
    let zones = rule.min_zone_healthy.filter(|_| !fail_open);
    let scale = Scale::of(members, level, in_level, zones);
    let weighed = members.iter().map(|member| {
        let weight = if in_level(&member) { scale.weight(member) } else { 0 };
        let why = match (weight > 0, member.admin, member.health) {
            (true, _, Health::Up) => Why::Serving,
            (true, ..) => Why::FailOpen,
            (false, AdminState::Drain, _) => Why::Draining,
            (false, AdminState::Disabled, _) => Why::Disabled,
            (false, _, Health::Down) if !fail_open => Why::Failing,
            (false, _, Health::Ejected) if !fail_open => Why::Ejected,
            (false, ..) if Some(member.priority) != level => Why::Standby,
            (false, ..) => Why::OtherZone,
        };
        (weight, why)
    });
    (weighed.collect(), fail_open)
}

/// How far a backend that came back `elapsed` ago is in a slow start of `whole`.
pub fn ramp(elapsed: Duration, whole: Duration) -> u16 {
    if elapsed >= whole {
        return FULL;
    }
    let steps = elapsed.as_nanos() * u128::from(FULL) / whole.as_nanos();
    u16::try_from(steps).unwrap_or(FULL).max(1)
}

/// By how much the weights of the own zone and of the others are multiplied.
#[derive(Clone, Copy)]
struct Scale {
    own: u64,
    other: u64,
}

impl Scale {
    fn of(
        members: &[Member],
        level: Option<u8>,
        in_level: impl Fn(&&Member) -> bool,
        min_healthy: Option<u8>,
    ) -> Self {
        let even = Self { own: 1, other: 1 };
        let Some(wanted) = min_healthy else { return even };
        let wanted = u64::from(wanted.clamp(1, 100));
        let sum = |own: bool| -> u64 {
            let there = members.iter().filter(|m| in_level(m) && m.own_zone == own);
            there.map(|m| u64::from(m.weight) * u64::from(m.ramp)).sum()
        };
        let zone =
            |m: &&Member| m.own_zone && m.admin == AdminState::Ready && Some(m.priority) == level;
        let there = members.iter().filter(zone).count() as u64;
        let up = members.iter().filter(|m| zone(m) && m.health == Health::Up).count() as u64;
        let (own, other) = (sum(true), sum(false));
        // A zone without backends has no preference; one without the others has no choice.
        if own == 0 || other == 0 {
            return even;
        }
        // The own zone takes `up / there` of what it should, the others the rest.
        let (part, whole) = (up * 100, there * wanted);
        if part >= whole {
            return Self { own: 1, other: 0 };
        }
        Self { own: other * part, other: own * (whole - part) }
    }

    fn weight(self, member: &Member) -> u64 {
        let scale = if member.own_zone { self.own } else { self.other };
        u64::from(member.weight) * u64::from(member.ramp) * scale
    }
}

/// Weights as rows have them: what is not 0 stays above 0.
pub fn fit(weighed: Vec<(u64, Why)>) -> Vec<Share> {
    let weights = || weighed.iter().map(|(weight, _)| *weight);
    let divisor = weights().reduce(gcd).unwrap_or(1).max(1);
    let most = weights().map(|w| w / divisor).max().unwrap_or(0);
    let shrink = |weight: u64| -> u16 {
        let weight = weight / divisor;
        if most <= u64::from(u16::MAX) {
            return u16::try_from(weight).unwrap_or(u16::MAX);
        }
        let scaled = u128::from(weight) * u128::from(u16::MAX) / u128::from(most);
        u16::try_from(scaled).unwrap_or(u16::MAX).max(u16::from(weight > 0))
    };
    weighed.iter().map(|(weight, why)| Share { weight: shrink(*weight), why: *why }).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
