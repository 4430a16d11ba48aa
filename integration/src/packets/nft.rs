//! nftables, as an operator sees it, in the calling thread's namespace.

use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs `nft` with these arguments, which must succeed; what it printed.
#[track_caller]
pub fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("can't run `nft` ({error}): install nftables"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {}: {stderr}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("nft prints UTF-8")
}

/// Applies a script, in one transaction.
#[track_caller]
pub fn apply(script: &str) {
    let child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn();
    let mut child =
        child.unwrap_or_else(|error| panic!("can't run `nft` ({error}): install nftables"));
    let written = child.stdin.take().expect("a pipe").write_all(script.as_bytes());
    let status = child.wait().expect("a child can be waited for");
    assert!(status.success(), "nft -f: {status}");
    written.expect("nft reads all");
}

/// The tables there are: `ip lb`, sorted.
#[track_caller]
pub fn tables() -> Vec<String> {
    let listed: Value = serde_json::from_str(&nft(&["-j", "list", "tables"])).expect("JSON");
    let items = listed["nftables"].as_array().expect("a list");
    let mut tables: Vec<String> = items
        .iter()
        .filter_map(|item| {
            let table = item.get("table")?;
            Some(format!("{} {}", table["family"].as_str()?, table["name"].as_str()?))
        })
        .collect();
    tables.sort();
    tables
}

/// A table as text.
#[track_caller]
pub fn table(family: &str, name: &str) -> String {
    nft(&["list", "table", family, name])
}
