//! The command line of kube-proxy, read as its own flag library reads it: `--flag=value`,
//! `--flag value`, `-v=2`, `-v 2`, `-v2`, and switches without a value.
//!
//! Pure.

use super::table::{self, Kind, ROWS, Row};
use super::values;
use crate::api::closest;
use serde_json::Value;
use std::collections::BTreeMap;

/// Settings by [`Row::key`], as far as they were given.
pub type Given = BTreeMap<&'static str, Value>;

/// Reads the arguments that follow `kube-proxy`.
///
/// # Errors
///
/// The problems, one line each, never empty: an argument that is no flag, a flag that is unknown or lacks its
/// value, or a value that is not of the flag's type.
pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Given, Vec<String>> {
    let (mut given, mut problems) = (Given::new(), Vec::new());
    let mut rest = arguments.iter().map(AsRef::as_ref);
    while let Some(argument) = rest.next() {
        match one(argument, &mut rest) {
            Ok((row, value)) => {
                let value = values::add(row.kind, given.remove(row.key()), value);
                given.insert(row.key(), value);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(given) } else { Err(values::lines(problems)) }
}

fn one<'a>(
    argument: &'a str,
    rest: &mut impl Iterator<Item = &'a str>,
) -> Result<(&'static Row, Value), String> {
    let (name, value) = split(argument)?;
    let row = table::flag(name).ok_or_else(|| unknown(argument, name))?;
    let value = match (value, row.kind) {
        (Some(value), _) => value,
        (None, Kind::Flag) => "true",
        (None, _) => rest.next().ok_or_else(|| {
            let flag = row.dashed();
            format!("{flag} needs a value: write {flag}=VALUE")
        })?,
    };
    match values::read(row.kind, value) {
        Ok(value) => Ok((row, value)),
        Err(problem) => Err(format!("{}: {problem}", row.dashed())),
    }
}

/// Name and, if it stands in the same argument, value.
fn split(argument: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(long) = argument.strip_prefix("--").filter(|long| !long.is_empty()) {
        return Ok(long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value))));
    }
    match argument.strip_prefix('-').and_then(|short| short.split_at_checked(1)) {
        Some(("h", "")) => Ok(("help", None)),
        Some(("-", _)) | None => {
            Err(format!("kube-proxy takes flags only, not `{argument}`; remove it"))
        }
        Some((name, "")) => Ok((name, None)),
        Some((name, value)) => Ok((name, Some(value.strip_prefix('=').unwrap_or(value)))),
    }
}

fn unknown(argument: &str, name: &str) -> String {
    if !argument.starts_with("--") && argument.len() > 2 {
        return format!("unknown flag `{argument}`; names of more than one letter take two dashes");
    }
    match closest(name, ROWS.iter().map(|row| row.flag).filter(|flag| flag.len() > 1)) {
        Some(other) => format!("unknown flag `--{name}`; did you mean `--{other}`?"),
        None => format!("unknown flag `{argument}`; see `lb-agent kube-proxy --help`"),
    }
}

/// The text of `--help`.
pub fn help() -> String {
    use table::Standing::{Honoured, NoEffect, Refused};
    let mut text = String::from(
        "Serves the Services of a Kubernetes cluster on this node, in kube-proxy's place\n\n\
         Usage: lb-agent kube-proxy --config=FILE [--hostname-override=NAME] [FLAGS]\n\nFlags:\n",
    );
    for row in ROWS.iter().filter(|row| !row.flag.is_empty()) {
        let what = match row.standing {
            Honoured(what) => what.to_owned(),
            NoEffect(why) => format!("no effect: {why}"),
            Refused(why) => format!("refused: {why}"),
        };
        text.push_str(&format!("  {:<36} {what}\n", row.dashed()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments() {
        for (arguments, expected) in [
            (
                vec!["--config=/a", "--hostname-override=n"],
                json!({"config": "/a", "hostnameOverride": "n"}),
            ),
            (vec!["--config", "/a"], json!({"config": "/a"})),
            (vec!["--kubeconfig="], json!({"clientConnection.kubeconfig": ""})),
            (vec!["-v=4"], json!({"logging.verbosity": 4})),
            (vec!["-v", "4"], json!({"logging.verbosity": 4})),
            (vec!["-v4"], json!({"logging.verbosity": 4})),
            (vec!["--v=4"], json!({"logging.verbosity": 4})),
            (vec!["--cleanup"], json!({"cleanup": true})),
            (vec!["--cleanup=false"], json!({"cleanup": false})),
            (
                vec!["--profiling", "--v=1"],
                json!({"enableProfiling": true, "logging.verbosity": 1}),
            ),
            (
                vec!["--nodeport-addresses=10.0.0.0/8", "--nodeport-addresses", "fd00::/8,::1/128"],
                json!({"nodePortAddresses": ["10.0.0.0/8", "fd00::/8", "::1/128"]}),
            ),
            (
                vec!["--exclude-cgroup", "/a,b", "--exclude-cgroup=/c"],
                json!({"exclude-cgroup": ["/a,b", "/c"]}),
            ),
            (vec!["--proxy-mode=ipvs", "--proxy-mode=nftables"], json!({"mode": "nftables"})),
            (vec!["-h"], json!({"help": true})),
            (vec![], json!({})),
        ] {
            let given = parse(&arguments).unwrap();
            assert_eq!(serde_json::to_value(given).unwrap(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn mistakes() {
        for (argument, problem) in [
            ("x", "kube-proxy takes flags only, not `x`; remove it"),
            (
                "--hostname-overide=n",
                "unknown flag `--hostname-overide`; did you mean `--hostname-override`?",
            ),
            ("--xyzzy-plugh", "unknown flag `--xyzzy-plugh`; see `lb-agent kube-proxy --help`"),
            (
                "-config=/a",
                "unknown flag `-config=/a`; names of more than one letter take two dashes",
            ),
            ("--config", "--config needs a value: write --config=VALUE"),
            ("-v=x", "-v: expected a whole number from 0 to 4294967295, found `x`"),
            ("--cleanup=maybe", "--cleanup: expected true or false, found `maybe`"),
            ("--", "kube-proxy takes flags only, not `--`; remove it"),
        ] {
            assert_eq!(parse(&[argument]).unwrap_err(), [problem], "{argument}");
        }
        assert_eq!(parse(&["a", "--cleanup", "-v=x"]).unwrap_err().len(), 2, "all are named");
    }

    #[test]
    fn help_names_every_flag() {
        let text = help();
        assert!(ROWS.iter().all(|row| text.contains(row.flag)));
    }
}
