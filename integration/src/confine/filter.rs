//! The filters of system calls. Which calls a set has is asked of systemd itself.

use super::unit::Unit;
use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Namespaces that clone(2) may make.
const NAMESPACES: [(&str, u64); 7] = [
    ("mnt", 0x2_0000),
    ("cgroup", 0x200_0000),
    ("uts", 0x400_0000),
    ("ipc", 0x800_0000),
    ("user", 0x1000_0000),
    ("pid", 0x2000_0000),
    ("net", 0x4000_0000),
];
/// SCHED_FIFO, SCHED_RR, SCHED_DEADLINE.
const REALTIME: [u64; 3] = [1, 2, 6];

/// The filters, in the order in which they are to be set: the last one lets no more of them be set.
pub(super) fn compile(unit: &Unit) -> anyhow::Result<Vec<BpfProgram>> {
    ensure!(unit.one("SystemCallArchitectures")? == "native", "one architecture only");
    ensure!(unit.one("SystemCallErrorNumber")? == "EPERM", "another error than EPERM");
    let allowed = allowed(unit)?;
    let rules = allowed.iter().filter(|name| is_known(name)).map(|name| json!({ "syscall": name }));
    let refusal = refuse(Errno::EPERM);
    let mut filters = Vec::new();
    for (errno, rules) in refused(unit)? {
        filters.push(program(&json!("allow"), &refuse(errno), rules)?);
    }
    filters.push(program(&refusal, &json!("allow"), rules.collect())?);
    Ok(filters)
}

fn refuse(errno: Errno) -> Value {
    json!({ "errno": errno as i32 })
}

fn program(otherwise: &Value, then: &Value, rules: Vec<Value>) -> anyhow::Result<BpfProgram> {
    let filter = json!({ "mismatch_action": otherwise, "match_action": then, "filter": rules });
    let text = json!({ "it": filter }).to_string();
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    compile_from_json(text.as_bytes(), arch)?.remove("it").context("the filter")
}

/// Whether the compiler knows a call by this name, on this architecture.
fn is_known(name: &str) -> bool {
    program(&json!("allow"), &json!("trap"), vec![json!({ "syscall": name })]).is_ok()
}

/// The calls that `SystemCallFilter` leaves.
fn allowed(unit: &Unit) -> anyhow::Result<BTreeSet<String>> {
    let sets = sets()?;
    let mut allowed = BTreeSet::new();
    expand("@default", &sets, &mut allowed)?;
    for (number, line) in unit.all("SystemCallFilter").enumerate() {
        let (line, away) = line.strip_prefix('~').map_or((line, false), |line| (line, true));
        ensure!(number > 0 || !away, "a list of what is allowed begins it");
        let mut calls = BTreeSet::new();
        for name in line.split_whitespace() {
            expand(name, &sets, &mut calls)?;
        }
        if away {
            allowed.retain(|name| !calls.contains(name));
        } else {
            allowed.append(&mut calls);
        }
    }
    Ok(allowed)
}

type Sets = BTreeMap<String, Vec<String>>;

/// What systemd's sets hold: calls, and other sets.
fn sets() -> anyhow::Result<Sets> {
    let output = Command::new("systemd-analyze").args(["syscall-filter", "--no-pager"]).output();
    let output = output.context("running systemd-analyze; `make setup-tests` installs it")?;
    ensure!(output.status.success(), "systemd-analyze: {output:?}");
    let mut sets = Sets::new();
    let mut current = None;
    for line in String::from_utf8(output.stdout)?.lines() {
        let name = line.trim();
        if name.is_empty() || name.starts_with('#') {
            continue;
        }
        if line.starts_with('@') {
            current = Some(sets.entry(name.to_owned()).or_default());
        } else if let Some(set) = current.as_mut().filter(|_| line.starts_with(' ')) {
            set.push(name.to_owned());
        } else {
            // What follows the sets is about the kernel.
            current = None;
        }
    }
    Ok(sets)
}

fn expand(name: &str, sets: &Sets, into: &mut BTreeSet<String>) -> anyhow::Result<()> {
    if !name.starts_with('@') {
        into.insert(name.to_owned());
        return Ok(());
    }
    let Some(set) = sets.get(name) else { bail!("systemd knows no set {name}") };
    set.iter().try_for_each(|name| expand(name, sets, into))
}

/// What further settings refuse, by the error that they refuse it with.
fn refused(unit: &Unit) -> anyhow::Result<Vec<(Errno, Vec<Value>)>> {
    let compare = |index: u8, op: Value, value: u64| json!({ "index": index, "type": "dword", "op": op, "val": value });
    let rule = |call: &str, conditions: Vec<Value>| json!({ "syscall": call, "args": conditions });
    let bits = |index, mask: u64| compare(index, json!({ "masked_eq": mask }), mask);
    let mut rules = Vec::new();
    if unit.is_on("MemoryDenyWriteExecute")? {
        let (executable, both) = (4, 2 | 4);
        rules.push(rule("mmap", vec![bits(2, both)]));
        rules.push(rule("mprotect", vec![bits(2, executable)]));
        rules.push(rule("pkey_mprotect", vec![bits(2, executable)]));
        rules.push(rule("shmat", vec![bits(2, 0o100_000)]));
    }
    let words = unit.words("RestrictNamespaces")?;
    let (first, left) = words.split_first().context("RestrictNamespaces is empty")?;
    ensure!(*first == "yes", "RestrictNamespaces: only yes, and namespaces after it, are known");
    let known = |name| NAMESPACES.iter().any(|(namespace, _)| namespace == name);
    ensure!(left.iter().all(known), "RestrictNamespaces={left:?}");
    for (_, flag) in NAMESPACES.iter().filter(|(name, _)| !left.contains(name)) {
        rules.push(rule("clone", vec![bits(0, *flag)]));
        if !left.is_empty() {
            rules.push(rule("unshare", vec![bits(0, *flag)]));
            rules.push(rule("setns", vec![bits(1, *flag)]));
        }
    }
    if left.is_empty() {
        rules.extend(["unshare", "setns"].map(|call| json!({ "syscall": call })));
    } else {
        // With 0 it would enter whatever namespace it is given.
        rules.push(rule("setns", vec![compare(1, json!("eq"), 0)]));
    }
    if unit.is_on("RestrictRealtime")? {
        let equal = |policy| compare(1, json!("eq"), policy);
        rules.extend(REALTIME.map(|policy| rule("sched_setscheduler", vec![equal(policy)])));
    }
    if unit.is_on("LockPersonality")? {
        let other = |value| compare(0, json!("ne"), value);
        rules.push(rule("personality", vec![other(0), other(0xffff_ffff)]));
    }
    let families = unit.one("RestrictAddressFamilies")?.split_whitespace();
    let families = families.map(|name| match name {
        "AF_UNIX" => Ok(compare(0, json!("ne"), 1)),
        "AF_INET" => Ok(compare(0, json!("ne"), 2)),
        "AF_INET6" => Ok(compare(0, json!("ne"), 10)),
        "AF_NETLINK" => Ok(compare(0, json!("ne"), 16)),
        other => bail!("the family {other} is not known"),
    });
    let socket = rule("socket", families.collect::<anyhow::Result<_>>()?);
    // Its flags are in memory, where no filter can look.
    let clone3 = json!({ "syscall": "clone3" });
    Ok(vec![
        (Errno::EPERM, rules),
        (Errno::EAFNOSUPPORT, vec![socket]),
        (Errno::ENOSYS, vec![clone3]),
    ])
}
