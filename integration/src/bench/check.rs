//! The shortened run: enough to see that no ratio has collapsed, in less than a minute.

use super::hooks;
use super::{Extent, Plan, Report, after, connect};
use std::time::Duration;

/// So many services that a rule for each is felt.
pub const SERVICES: u32 = 3000;

/// Measures a few of all sections' figures, for [`super::verdict::collapsed`] if there are
/// [`SERVICES`].
///
/// # Errors
///
/// What the first section fails with that can't be set up or measured. The figures of those before it are in the
/// report.
pub fn run(services: u32, seed: u64, report: &mut Report) -> anyhow::Result<()> {
    let plan = Plan { extent: Extent::Quick, seed };
    hooks::check(hooks::Effort { turns: 4, calls: 2000 }, seed, report)?;
    let services = vec![1, services];
    let effort = connect::Effort { services, ours_alone: Vec::new(), turns: 8, connects: 200 };
    connect::measure(&plan, &effort, report)?;
    let effort = after::Effort { turns: 8, span: Duration::from_millis(40) };
    let loads = [after::Load::TcpRequests, after::Load::UdpRequests, after::Load::TcpBulk];
    after::measure(&plan, effort, &loads, report)
}
