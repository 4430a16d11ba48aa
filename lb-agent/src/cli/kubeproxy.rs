//! `lb-agent kube-proxy`: takes kube-proxy's command line, and does what it says.

use crate::app::kubeproxy::{self, ConfigFile};
use crate::app::{self, Failure, Overrides};
use crate::config::PacketPath;
use crate::dataplane;
use crate::kubeproxy::cleanup::{self, Cleaned};
use crate::kubeproxy::config;
use crate::kubeproxy::decision::{Decided, decide, is_off, is_on, text_of};
use crate::kubeproxy::flags::{self, Given};
use crate::telemetry::{self, LogFormat};
use crate::version::VERSION;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Runs it.
pub(super) fn execute(arguments: &[String]) -> Result<(), Failure> {
    let flags = flags::parse(arguments).map_err(Failure::Configuration)?;
    if is_on(&flags, "help") {
        return say(flags::help().trim_end());
    }
    if is_on(&flags, "version") {
        return say(&format!("lb-agent {VERSION}"));
    }
    if let Some(path) = text_of(&flags, "write-config-to") {
        return write_defaults(Path::new(path));
    }
    if is_on(&flags, "cleanup") {
        return clean_up(&flags);
    }
    if is_on(&flags, "cleanup-lb") {
        let problem = "--cleanup-lb goes with --cleanup; `lb-agent detach` does it alone";
        return Err(Failure::Configuration(vec![problem.to_owned()]));
    }
    if is_on(&flags, "init-only") {
        return say("nothing to prepare: lb-agent needs its privileges for as long as it runs");
    }
    run(&flags)
}

fn run(flags: &Given) -> Result<(), Failure> {
    let file = text_of(flags, "config").map(read).transpose()?;
    let parsed = match &file {
        Some(file) => {
            let parsed = config::parse(&file.path.display().to_string(), &file.text);
            Some(parsed.map_err(Failure::Configuration)?)
        }
        None => None,
    };
    let decided = decide(flags, parsed.as_ref()).map_err(Failure::Configuration)?;
    let format = if decided.json_logs { LogFormat::Json } else { LogFormat::Text };
    telemetry::start(format, level(&decided))?;
    for warning in &decided.warnings {
        tracing::warn!("{warning}");
    }
    dataplane::share_one_heap();
    dataplane::preflight::keep_capabilities()?;
    let overrides = overrides(flags, decided.exclude_cgroups.clone(), Some(decided.packet_path));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(kubeproxy::run(decided, &overrides, file))
}

fn read(path: &str) -> Result<ConfigFile, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::Configuration(vec![format!("--config: {path}: {error}; name a readable file")])
    })?;
    Ok(ConfigFile { path: path.into(), text })
}

fn level(decided: &Decided) -> &'static str {
    match decided.verbosity {
        ..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    }
}

fn overrides(
    flags: &Given,
    exclude_cgroups: Vec<PathBuf>,
    packet_path: Option<PacketPath>,
) -> Overrides {
    let path = |name| text_of(flags, name).map(PathBuf::from);
    Overrides {
        cgroup: path("cgroup"),
        exclude_cgroups,
        pin_dir: path("pin-dir"),
        state_dir: path("state-dir"),
        socket: path("socket"),
        http: None,
        packet_path,
        detach_on_exit: false,
    }
}

fn write_defaults(path: &Path) -> Result<(), Failure> {
    let document: Value = config::document(&Given::new());
    let text = serde_saphyr::to_string(&document)?;
    std::fs::write(path, text).map_err(|error| {
        anyhow::anyhow!("--write-config-to: {}: {error}; name a file to write", path.display())
    })?;
    say(&format!("the defaults are in {}", path.display()))
}

fn clean_up(flags: &Given) -> Result<(), Failure> {
    let cleaned = cleanup::run();
    report(&cleaned)?;
    let mut failures: Vec<String> = cleaned.failures.iter().map(ToString::to_string).collect();
    // Who wants everything of kube-proxy's gone can't mean that ours go on, unless it says so: the next
    // agent takes over what its predecessor left.
    if !is_off(flags, "cleanup-lb") && !is_on(flags, "cleanup-lb") {
        match app::remove_packet_path() {
            Ok((found, left)) => {
                if found {
                    say("removed: the tables of lb-agent's packet path")?;
                }
                left.iter().try_for_each(|line| say(&format!("left: {line}")))?;
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    if is_on(flags, "cleanup-lb") {
        match app::detach_all(None, &overrides(flags, Vec::new(), None)) {
            Ok((found, left)) => {
                let text = if found { "detached" } else { "nothing was attached" };
                say(&format!("lb-agent: {text}"))?;
                left.iter().try_for_each(|line| say(&format!("left: {line}")))?;
            }
            Err(Failure::Other(error)) => failures.push(format!("{error:#}")),
            Err(failure) => return Err(failure),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failures.join("; ")).into()) }
}

fn report(cleaned: &Cleaned) -> Result<(), Failure> {
    for line in &cleaned.removed {
        say(&format!("removed: {line}"))?;
    }
    if cleaned.removed.is_empty() && cleaned.failures.is_empty() {
        say("kube-proxy left nothing here that could be removed")?;
    }
    cleaned.kept.iter().try_for_each(|line| say(&format!("kept: {line}")))?;
    cleaned.left.iter().try_for_each(|line| say(&format!("left: {line}")))
}

fn say(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
