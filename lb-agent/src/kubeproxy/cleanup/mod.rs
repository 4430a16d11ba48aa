//! Removes what kube-proxy left in this network namespace: its nftables tables, and its chains in the
//! tables of iptables with the rules that jump to them.
//!
//! `nft` and iptables' own tools are run, never through a shell. What goes into their batches is
//! decided by [`nft`] and [`iptables`] (pure), and each removes all of a table or nothing.

pub(crate) mod iptables;
pub(crate) mod names;
pub(crate) mod nft;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// What was done.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// What was removed, one line each.
    pub removed: Vec<String>,
    /// What is left and what to do about it, one line each.
    pub left: Vec<String>,
    /// What stays because others use it, one line each.
    pub kept: Vec<String>,
    /// What went wrong; the rest was done all the same.
    pub failures: Vec<CleanupError>,
}

/// Why it was not.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// There is nothing to look with.
    #[error(
        "neither nft nor iptables-save is on the PATH: nobody knows what kube-proxy left; install \
         nftables and iptables"
    )]
    NoTools,
    /// A tool failed.
    #[error("{command} failed: {said}; remove what is left by hand")]
    Failed {
        /// What was run.
        command: String,
        /// What it said.
        said: String,
    },
    /// What a tool prints makes no sense.
    #[error("{command} printed something unexpected: {source}; install another version of it")]
    Garbled {
        /// What was run.
        command: String,
        /// Where it makes no sense.
        source: serde_json::Error,
    },
}

/// What kube-proxy's IPVS mode hangs its addresses on.
const IPVS_DEVICE: &str = "/sys/class/net/kube-ipvs0";

/// Tables that the kernel has of iptables-legacy, one a line.
const LEGACY_TABLES: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Removes it. Needs CAP_NET_ADMIN.
pub fn run() -> Cleaned {
    let mut cleaned = Cleaned::default();
    let nft = with_nft(&mut cleaned);
    // One that fails is there as well.
    let mut any = nft || !cleaned.failures.is_empty();
    for (tool, legacy_tables) in ["iptables", "ip6tables"].into_iter().zip(LEGACY_TABLES) {
        let legacy = with_iptables(&format!("{tool}-legacy"), &mut cleaned);
        // nft has seen what is in nftables, whoever made it.
        let other = !nft && with_iptables(&format!("{tool}-nft"), &mut cleaned);
        // Where there is one kind only, it has the plain name.
        let plain = !nft && !legacy && !other && with_iptables(tool, &mut cleaned);
        any |= legacy || other || plain;
        let used = std::fs::read_to_string(legacy_tables).is_ok_and(|text| !text.is_empty());
        if used && !legacy && !plain {
            cleaned.left.push(format!(
                "{tool}-legacy has tables here and is not installed: install iptables and try again"
            ));
        }
    }
    if Path::new(IPVS_DEVICE).exists() {
        let what = "IPVS services and kube-ipvs0 are left: `ipvsadm --clear` removes all of IPVS, \
                    `ip link delete kube-ipvs0` the device";
        cleaned.left.push(what.to_owned());
    }
    if !any {
        cleaned.failures.push(CleanupError::NoTools);
    }
    cleaned
}

// === impl Cleaned ===

impl Cleaned {
    /// What this led to, if it did not fail. A failure is kept, and what comes next goes on.
    fn or_failure<T>(&mut self, result: Result<T, CleanupError>) -> Option<T> {
        result.map_err(|failure| self.failures.push(failure)).ok()
    }
}

/// Whether there is an nft that lists what there is.
fn with_nft(cleaned: &mut Cleaned) -> bool {
    let listed = output("nft", &["-j", "list", "tables"], None);
    let Some(Some(text)) = cleaned.or_failure(listed) else { return false };
    let tables = nft::tables(&text).map_err(garbled);
    let Some(tables) = cleaned.or_failure(tables) else { return false };
    for table in tables {
        let done = clean_nft(table, cleaned);
        cleaned.or_failure(done);
    }
    true
}

fn clean_nft(table: nft::Table, cleaned: &mut Cleaned) -> Result<(), CleanupError> {
    let nft::Table { family, name, whole } = table;
    let place = format!("nftables table {family} {name}");
    if whole {
        let commands = format!("delete table {family} {name}\n");
        output("nft", &["-f", "-"], Some(&commands))?;
        cleaned.removed.push(place);
        return Ok(());
    }
    let Some(text) = output("nft", &["-j", "list", "table", family, name], None)? else {
        return Ok(());
    };
    let batch = nft::batch(table, &text).map_err(garbled)?;
    cleaned.left.extend(batch.left);
    cleaned.kept.extend(batch.kept.iter().map(|line| format!("{place}: {line}")));
    if !batch.commands.is_empty() {
        output("nft", &["-f", "-"], Some(&batch.commands))?;
        cleaned.removed.push(removed(&place, batch.chains, batch.rules));
    }
    Ok(())
}

fn garbled(source: serde_json::Error) -> CleanupError {
    CleanupError::Garbled { command: "nft -j".to_owned(), source }
}

/// Whether there is such a tool.
fn with_iptables(tool: &str, cleaned: &mut Cleaned) -> bool {
    let saved = output(&format!("{tool}-save"), &[], None);
    let Some(text) = cleaned.or_failure(saved) else { return true };
    let Some(text) = text else { return false };
    for batch in iptables::batches(&text) {
        let place = format!("{tool} table {}", batch.table);
        cleaned.left.extend(batch.left.iter().map(|line| format!("{place}: {line}")));
        cleaned.kept.extend(batch.kept.iter().map(|line| format!("{place}: {line}")));
        if batch.commands.is_empty() {
            continue;
        }
        let restore = format!("{tool}-restore");
        let done = output(&restore, &["--noflush", "--wait", "10"], Some(&batch.commands));
        if cleaned.or_failure(done).is_some() {
            cleaned.removed.push(removed(&place, batch.chains, batch.rules));
        }
    }
    true
}

fn removed(place: &str, chains: usize, rules: usize) -> String {
    format!("{place}: {chains} chains, {rules} rules that jump to them")
}

/// Runs a tool with this input; `None` if it is not installed.
fn output(
    tool: &str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<Option<String>, CleanupError> {
    let failed = |said: String| {
        let command = [&[tool], arguments].concat().join(" ");
        CleanupError::Failed { command, said }
    };
    let spawned = Command::new(tool)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    // It reads all of its input before it prints, so neither waits for the other.
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        match pipe.write_all(input.as_bytes()) {
            // It has ended early, and says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(|error| failed(error.to_string()))?,
        }
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(failed(format!("{}: {}", output.status, said.trim())))
}
