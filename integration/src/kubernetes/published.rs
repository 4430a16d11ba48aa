//! How long an agent takes to publish what it hears: by its own metrics.

use crate::exposition::{Exposition, Format};
use crate::http::ask;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const FAMILY: &str = "lb_source_publish_seconds";

/// Changes that a source heard of and that are in the tables.
#[derive(Clone, Debug)]
pub struct Published {
    /// How many.
    pub count: u64,
    /// Revisions that the source has delivered.
    pub(super) revisions: u64,
    /// How many of the changes took at most so many seconds, for each bound, shortest first.
    within: Vec<(f64, u64)>,
}

// === impl Published ===

impl Published {
    /// All so far of the agent in the calling thread's network namespace, which has one such source.
    #[track_caller]
    pub(super) fn so_far() -> Self {
        let agent = SocketAddr::from((Ipv4Addr::LOCALHOST, 9777));
        let answer = ask(agent, "GET /metrics", "").expect("the agent answers");
        let metrics =
            Exposition::parse(&answer.body, Format::Prometheus).expect("it is well-formed");
        let of_cluster = |name: &str| {
            let name = name.to_owned();
            metrics.samples().filter(move |sample| {
                let source = sample.labels.get("source");
                sample.name == name && source.is_some_and(|source| source.starts_with("kubernetes"))
            })
        };
        let one = |name: &str| of_cluster(name).map(|sample| whole(sample.value)).sum();
        let bound = |text: &str| text.parse().unwrap_or(f64::INFINITY);
        let within = of_cluster(&format!("{FAMILY}_bucket"))
            .map(|sample| (bound(&sample.labels["le"]), whole(sample.value)));
        Self {
            count: one(&format!("{FAMILY}_count")),
            revisions: one("lb_source_revisions_total"),
            within: within.collect(),
        }
    }

    /// Those since then.
    pub(super) fn since(mut self, before: &Self) -> Self {
        self.count -= before.count;
        for (bound, count) in &mut self.within {
            // A family has no samples before there is the first.
            let known = before.within.iter().find(|(known, _)| known == bound);
            *count -= known.map_or(0, |(_, count)| *count);
        }
        self
    }

    /// What this share of them took at most: the bound of the metric that so many are within.
    pub fn percentile(&self, share: f64) -> Duration {
        let enough = |(_, count): &&(f64, u64)| *count as f64 >= self.count as f64 * share;
        let bound = self.within.iter().find(enough).map(|(bound, _)| *bound);
        bound.filter(|bound| bound.is_finite()).map_or(Duration::MAX, Duration::from_secs_f64)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole numbers that are not negative"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_what_came_since() {
        let published = |within: &[u64]| Published {
            count: within[2],
            revisions: 0,
            within: [0.001, 0.005, f64::INFINITY].into_iter().zip(within.iter().copied()).collect(),
        };
        let since = published(&[60, 210, 211]).since(&published(&[10, 10, 11]));
        assert_eq!(since.count, 200);
        for (share, millis) in [(0.25, 1), (0.26, 5), (1.0, 5)] {
            assert_eq!(since.percentile(share), Duration::from_millis(millis), "{share}");
        }
        assert_eq!(published(&[1, 1, 2]).percentile(0.99), Duration::MAX);
    }
}
