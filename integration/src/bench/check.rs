//! The shortened run: enough to see that no ratio has collapsed, in less than a minute.

use super::hooks;
use super::{Plan, Report, after, connect};
use std::time::Duration;

/// Measures a few of all sections' figures, for [`super::verdict::collapsed`].
pub fn run(seed: u64, report: &mut Report) -> anyhow::Result<()> {
    let plan = Plan { quick: true, seed };
    hooks::check(hooks::Effort { turns: 4, calls: 2000 }, seed, report)?;
    let services = vec![1, 3000];
    let effort = connect::Effort { services, ours_alone: Vec::new(), turns: 8, connects: 200 };
    connect::measure(&plan, &effort, report)?;
    let effort = after::Effort { turns: 8, span: Duration::from_millis(40) };
    let loads = [after::Load::TcpRequests, after::Load::UdpRequests, after::Load::TcpBulk];
    after::measure(&plan, effort, &loads, report)
}
