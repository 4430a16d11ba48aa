//! Section `ipvs`: connects by IPVS, beside ours and nftables, in a Linux 6.1 that is emulated: it has IPVS
//! wherever this runs. An emulated processor's times say nothing, so only ratios come out of it.

use super::connect::{self, Effort};
use super::scene::Subject;
use super::{Extent, Figure, Plan, Ratio, Report};
use crate::kernels::report::Figures;
use anyhow::{Context as _, bail, ensure};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The group of these figures.
pub(super) const GROUP: &str = "ipvs";
/// Which kernel, by its name in [`crate::kernels::KERNELS`].
const KERNEL: &str = "6.1";
/// Beside each other in the guest.
const SUBJECTS: [Subject; 4] = [Subject::None, Subject::Ours, Subject::Nftables, Subject::Ipvs];

/// Has `kernels`, which lies beside this program, measure in a guest. Where there is no guest to be had,
/// says so and has no figures.
pub(super) fn run(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("where is this program?")?;
    let kernels = own.with_file_name("kernels");
    let mut command = Command::new(&kernels);
    command.args(["--kernels", KERNEL, "--json", "--ipvs", "--seed", &plan.seed.to_string()]);
    if plan.extent != Extent::Full {
        command.arg("--short");
    }
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| {
        format!("can't run {}: `make bench` builds it beside this program", kernels.display())
    })?;
    ensure!(output.status.success(), "{}: {}", kernels.display(), output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().next().context("`kernels` said nothing")?;
    match serde_json::from_str(said).context("reading what `kernels` says")? {
        Figures::Skipped { reason } => {
            // Nobody may be reading that; the tables lack the section, too.
            let _ = writeln!(std::io::stderr().lock(), "{GROUP}: skipped: {reason}");
        }
        Figures::Measured { release, figures } => {
            ratios(&release, &figures)?.into_iter().for_each(|figure| report.figure(figure));
        }
    }
    Ok(())
}

/// Measures in this kernel, which must have IPVS: what runs in the guest.
///
/// # Errors
///
/// If this kernel has no IPVS, or something to be measured can't be set up or dialled. The figures before that are
/// in the report.
pub fn here(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    ensure!(
        Path::new("/proc/net/ip_vs").exists(),
        "this kernel has no IPVS: `modprobe ip_vs`, or `make bench SECTIONS=ipvs` in an emulated one"
    );
    let services = vec![1, 100, 1000];
    let (turns, connects) = plan.choose((2, 10), (10, 50), (30, 100));
    let effort = Effort { services, ours_alone: Vec::new(), turns, connects };
    connect::beside(plan, &effort, &SUBJECTS, report)
}

/// The ratios of figures as figures: no absolute time is left.
fn ratios(release: &str, figures: &[Figure]) -> anyhow::Result<Vec<Figure>> {
    let mut ratios = Vec::new();
    for figure in figures {
        // What the others are compared with has none.
        let Some(Ratio { to, value, interval }) = &figure.ratio else { continue };
        let unit = format!("of {to}");
        let mut ratio = Figure::new(GROUP, &figure.subject, &figure.metric, *value, &unit);
        ratio.case = figure.case.clone();
        ratio.interval = *interval;
        ratios.push(ratio.case("kernel", format!("{release}, emulated")));
    }
    if ratios.is_empty() {
        bail!("the guest measured nothing");
    }
    Ok(ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ratios_are_left() {
        let figure =
            |subject| Figure::new("connect", subject, "p50", 900.0, "us").case("services", 1);
        let figures = [figure("none"), figure("ipvs").ratio_within("none", 1.5, Some([1.4, 1.6]))];
        let ratios = ratios("6.1.0-x", &figures).unwrap();
        let expected = Figure::new("ipvs", "ipvs", "p50", 1.5, "of none").case("services", 1);
        assert_eq!(ratios, [expected.case("kernel", "6.1.0-x, emulated").interval([1.4, 1.6])]);
        assert!(super::ratios("6.1.0-x", &figures[..1]).is_err(), "nothing was measured");
    }
}
