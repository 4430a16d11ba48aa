//! `kube-proxy --cleanup` against real nftables and iptables, in a namespace of the test's own.

use integration::lab::{self, Lab};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// Runs a tool, which must succeed; what it printed.
#[track_caller]
fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output().unwrap_or_else(|error| {
        panic!("can't run {name} ({error}): install nftables and iptables (make setup-tests)")
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("the tools print UTF-8")
}

/// What kube-proxy's iptables mode and others leave in a table.
fn fill(iptables: &str) {
    let nat =
        |arguments: &[&str]| drop(tool(iptables, &[&["-w", "-t", "nat"], arguments].concat()));
    for chain in ["KUBE-SERVICES", "KUBE-SVC-TCOU7JCQXEZGVUNU", "KUBE-KUBELET-CANARY", "MINE"] {
        nat(&["-N", chain]);
    }
    let portals = ["-m", "comment", "--comment", "kubernetes service portals"];
    for chain in ["PREROUTING", "OUTPUT"] {
        nat(&[&["-A", chain], &portals[..], &["-j", "KUBE-SERVICES"]].concat());
    }
    nat(&["-A", "PREROUTING", "-j", "MINE"]);
    nat(&["-A", "MINE", "-p", "tcp", "-j", "KUBE-SERVICES"]);
    nat(&[
        "-A",
        "KUBE-SERVICES",
        "-p",
        "tcp",
        "-m",
        "tcp",
        "--dport",
        "80",
        "-j",
        "KUBE-SVC-TCOU7JCQXEZGVUNU",
    ]);
    // As CRI-O does for a host port.
    for chain in ["KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-HP-A1"] {
        nat(&["-N", chain]);
    }
    nat(&["-A", "KUBE-MARK-MASQ", "-j", "MARK", "--or-mark", "0x4000"]);
    nat(&["-A", "POSTROUTING", "-j", "KUBE-POSTROUTING"]);
    nat(&["-A", "KUBE-HP-A1", "-j", "KUBE-MARK-MASQ"]);
    nat(&["-A", "KUBE-SVC-TCOU7JCQXEZGVUNU", "-j", "KUBE-MARK-MASQ"]);
    tool(iptables, &["-w", "-N", "KUBE-FIREWALL"]);
    tool(iptables, &["-w", "-A", "INPUT", "-j", "KUBE-FIREWALL"]);
    tool(iptables, &["-w", "-N", "KUBE-FORWARD"]);
    tool(iptables, &["-w", "-A", "FORWARD", "-j", "KUBE-FORWARD"]);
}

/// Nothing of kube-proxy's is left, everything of others is.
#[track_caller]
fn check(iptables: &str) {
    let saved = tool(&format!("{iptables}-save"), &[]);
    for gone in ["KUBE-SERVICES", "KUBE-SVC", "KUBE-FORWARD"] {
        assert!(!saved.contains(gone), "{gone} is left:\n{saved}");
    }
    for kept in [
        ":KUBE-KUBELET-CANARY",
        ":MINE",
        "-A PREROUTING -j MINE",
        "-A INPUT -j KUBE-FIREWALL",
        "-A KUBE-HP-A1 -j KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK",
        "-A POSTROUTING -j KUBE-POSTROUTING",
    ] {
        assert!(saved.contains(kept), "{kept} is gone:\n{saved}");
    }
}

#[track_caller]
fn clean_up(lab: &Lab) -> String {
    let pins = format!("--pin-dir={}", lab.pin_dir().display());
    let finished = lab.lb_agent(&["kube-proxy", "--cleanup", "--cleanup-lb", &pins]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished.stdout
}

#[test]
fn what_kube_proxy_left_goes_and_nothing_else() {
    lab::run("cleanup", |lab| {
        let kinds = ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"];
        kinds.iter().for_each(|kind| fill(kind));
        for family in ["ip", "ip6"] {
            tool("nft", &["add", "table", family, "kube-proxy"]);
            tool("nft", &["add", "chain", family, "kube-proxy", "services"]);
            tool("nft", &["add", "table", family, "mine"]);
        }
        let said = clean_up(lab);
        for line in [
            "lb-agent: nothing was attached\n",
            "removed: nftables table ip kube-proxy\n",
            "removed: nftables table ip6 nat: 2 chains, 3 rules that jump to them\n",
            "removed: nftables table ip filter: 1 chains, 1 rules that jump to them\n",
            "removed: iptables-legacy table nat: 2 chains, 3 rules that jump to them\n",
            "kept: nftables table ip nat: KUBE-MARK-MASQ: \"KUBE-HP-A1\", which is not kube-proxy's",
            "kept: ip6tables-legacy table nat: KUBE-POSTROUTING: \"KUBE-HP-A1\"",
            "removed: ip6tables-legacy table filter: 1 chains, 1 rules that jump to them\n",
        ] {
            assert!(said.contains(line), "{line}\n{said}");
        }
        kinds.iter().for_each(|kind| check(kind));
        let tables = tool("nft", &["list", "tables"]);
        assert!(!tables.contains("kube-proxy") && tables.contains("table ip6 mine"), "{tables}");
        let again = clean_up(lab);
        assert!(again.contains("kube-proxy left nothing here that could be removed"), "{again}");
    });
}

#[test]
fn a_tool_that_fails_hides_nothing_and_stops_no_other() {
    lab::run("cleanup-fails", |lab| {
        fill("iptables-legacy");
        let bin = lab.scratch().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("nft"), "#!/bin/sh\necho no such luck >&2\nexit 1\n").unwrap();
        fs::set_permissions(bin.join("nft"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(integration::process::binary("lb-agent"));
        command.args(["kube-proxy", "--cleanup"]).env("PATH", path);
        let finished = integration::process::run(&mut command, lab.scratch());
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("nft -j list tables failed: "), "{finished:?}");
        assert!(finished.stderr.contains("no such luck"), "{finished:?}");
        let line = "removed: iptables-legacy table nat: 2 chains, 3 rules that jump to them\n";
        assert!(finished.stdout.contains(line), "{finished:?}");
        check("iptables-legacy");
    });
}

#[test]
fn without_tools_that_is_said() {
    lab::run("cleanup-tools", |lab| {
        let mut command = Command::new(integration::process::binary("lb-agent"));
        command.args(["kube-proxy", "--cleanup"]).env("PATH", lab.scratch());
        let finished = integration::process::run(&mut command, lab.scratch());
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let line = "neither nft nor iptables-save is on the PATH";
        assert!(finished.stderr.contains(line), "{finished:?}");
    });
}
