//! `--ipvs`: the guest measures, instead of running tests. Where there is no guest to be had, it is said why.

use crate::build::build;
use crate::pack::{self, installed};
use crate::{Cli, Outcome, Parts, note, run};
use anyhow::{Context, bail};
use integration::bench::{Extent, Plan};
use integration::kernels::Kernel;
use integration::kernels::programs::Job;
use integration::kernels::report::Figures;
use integration::packets::ipvs;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// By which the guest has the program that measures.
const PROGRAM: &str = "ipvs";
/// What not everybody has who builds the rest.
const TOOLS: [&str; 3] = [ipvs::TOOL, "qemu-system-x86_64", "cpio"];

/// Measures in a guest with this kernel, and says in one line what came of it.
pub(crate) fn measure(cli: &Cli, kernel: &Kernel) -> anyhow::Result<()> {
    let figures = match TOOLS.iter().find(|tool| installed(tool).is_none()) {
        Some(tool) => Figures::Skipped {
            reason: format!("no `{tool}` here; `sh lb-bpf/setup.sh benchmark` installs it"),
        },
        None => in_guest(cli, kernel)?,
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&figures)?)?;
    Ok(out.flush()?)
}

fn in_guest(cli: &Cli, kernel: &Kernel) -> anyhow::Result<Figures> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let target = workspace.join("target");
    let place = target.join("kernels");
    fs::create_dir_all(&place)?;
    let mut built = build(workspace, &target, &[])?;
    // The guest's first process is also what measures.
    let program = built.binaries.get("kernels-init").context("cargo did not build it")?.clone();
    built.tests.insert(PROGRAM.to_owned(), program);
    let base = pack::base(&place, &built, &[ipvs::TOOL])?;
    let extent = if cli.short { Extent::Quick } else { Extent::Full };
    let plan = serde_json::to_string(&Plan { extent, seed: cli.seed })?;
    let shares = vec![vec![Job { program: PROGRAM.to_owned(), arguments: vec![plan] }]];
    let limit = Duration::from_secs(cli.limit);
    let parts = Parts { place: &place, base, built, modules: &ipvs::MODULES, shares, limit };
    let guest = match run(kernel, &parts)? {
        Outcome::Skipped(reason) => return Ok(Figures::Skipped { reason }),
        Outcome::Failed(reason) => bail!("Linux {}: {reason}", kernel.name),
        Outcome::Ran(guests) => guests.into_iter().next().context("no guest ran")?,
    };
    let report = guest.report;
    let failed = report.tests.iter().filter(|tests| tests.trouble.is_some());
    let trouble: Vec<_> = failed.map(|tests| tests.output.clone()).chain(guest.trouble).collect();
    if !trouble.is_empty() || report.tests.is_empty() {
        trouble.iter().for_each(|line| note(line));
        bail!("Linux {} did not measure; logs are below {}", kernel.name, place.display());
    }
    Ok(Figures::Measured { release: report.release, figures: report.figures })
}
