//! The rule where a service has two lists of backends: applied to each by itself, and put together again
//! so that a backend stands in the lists that it serves in. Pure.

use super::effective::{Member, Share, fit, shares, weigh};
use crate::model::{Lists, Reach, Service};

/// What a backend gets, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// What it gets in the lists it serves in.
    pub(super) share: Share,
    /// Which those are; those that the source says, if it serves in none.
    pub(super) lists: Lists,
}

/// The parts of a service's backends of one family, in their order, and whether any list fails open.
pub(super) fn parts(members: &[(Lists, Member)], service: &Service) -> (Vec<Part>, bool) {
    let rule = service.health.rule;
    let used = |reach| {
        service.frontends.values().any(|exposure| {
            let outside = exposure.passage().map(|passage| passage.outside);
            exposure.reach == reach || outside == Some(reach)
        })
    };
    if !used(Reach::Node) {
        let all: Vec<Member> = members.iter().map(|(_, member)| *member).collect();
        let (shares, fail_open) = shares(&all, rule);
        let part = |(share, (lists, _)): (Share, &(Lists, Member))| Part { share, lists: *lists };
        return (shares.into_iter().zip(members).map(part).collect(), fail_open);
    }
    let list = |reach| -> Vec<Member> {
        let there = members.iter().filter(|(lists, _)| lists.contains(reach));
        there.map(|(_, member)| *member).collect()
    };
    let (mut weighed, opens) = weigh(&list(Reach::Cluster), rule);
    let split = weighed.len();
    let (own, own_opens) = weigh(&list(Reach::Node), rule);
    weighed.extend(own);
    // On one scale: a backend that is in both has one weight.
    let mut shares = fit(weighed);
    let mut node = shares.split_off(split).into_iter();
    let mut cluster = shares.into_iter();
    let in_cluster = used(Reach::Cluster);
    let part = |(lists, _): &(Lists, Member)| {
        let of = |reach, shares: &mut dyn Iterator<Item = Share>| {
            if lists.contains(reach) { shares.next() } else { None }
        };
        // What no frontend leads by has no say.
        let there = of(Reach::Cluster, &mut cluster);
        let here = of(Reach::Node, &mut node);
        put_together(*lists, there.filter(|_| in_cluster || here.is_none()), here)
    };
    (members.iter().filter_map(part).collect(), own_opens || (opens && in_cluster))
}

fn put_together(said: Lists, cluster: Option<Share>, node: Option<Share>) -> Option<Part> {
    let serves = |share: &Share| share.weight > 0;
    Some(match (cluster.filter(serves), node.filter(serves)) {
        (Some(share), Some(_)) => Part { share, lists: Lists::Both },
        (Some(share), None) => Part { share, lists: Lists::Cluster },
        (None, Some(share)) if cluster.is_none() => Part { share, lists: said },
        (None, Some(share)) => Part { share, lists: Lists::Node },
        (None, None) => Part { share: cluster.or(node)?, lists: said },
    })
}

#[cfg(test)]
mod tests;
