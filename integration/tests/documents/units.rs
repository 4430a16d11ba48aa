//! Units of systemd that pages and examples show are good to systemd, and what they start to us.

use crate::page::{page, pages};
use integration::process::{binary, run};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

#[test]
fn units_are_good() {
    let scratch = TempDir::with_prefix("lb-").expect("a directory can be made");
    // What one of them is bound to, and what another reads.
    let other = "[Service]\nExecStart=/bin/true\n";
    fs::write(scratch.path().join("postgresql.service"), other).expect("it is writable");
    let mut units: Vec<(String, String)> =
        ["examples/etcd/web.service"].map(|name| (name.to_owned(), page(name).text)).into();
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| block.language == "ini") {
            units.push((format!("{}:{}", page.name, block.line), block.text));
        }
    }
    assert!(units.len() > 2, "{units:?}");
    let lbctl = binary("lbctl");
    for (place, text) in units {
        let start =
            text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/lbctl "));
        let arguments = start.unwrap_or_else(|| panic!("{place} does not start lbctl"));
        let (own, _) = arguments.split_once(" -- ").unwrap_or((arguments, ""));
        let own = own.replace("${LB_ADDRESS}", "10.0.0.5:8080");
        let mut command = Command::new(&lbctl);
        let finished = run(command.args(own.split_whitespace()).arg("--help"), scratch.path());
        assert_eq!(finished.code, Some(0), "{place}: {finished:?}");
        let text = text
            .replace("/usr/local/bin/lbctl", &lbctl.display().to_string())
            .replace("/usr/local/bin/myserver", "/bin/true");
        let file = scratch.path().join("shown.service");
        fs::write(&file, text).expect("it is writable");
        expect_good(&file, &place, scratch.path());
    }
    // The agent's own, with what may be added to it.
    let [unit, added] = ["lb-agent.service", "other-namespaces.conf"]
        .map(|name| page(&format!("examples/systemd/{name}")).text);
    let beside = scratch.path().join("shown.service.d");
    fs::create_dir(&beside).expect("it is writable");
    fs::write(beside.join("other-namespaces.conf"), added).expect("it is writable");
    let unit = unit.replace("/usr/sbin/lb-agent", &binary("lb-agent").display().to_string());
    let file = scratch.path().join("shown.service");
    fs::write(&file, unit).expect("it is writable");
    expect_good(&file, "examples/systemd", scratch.path());
}

#[track_caller]
fn expect_good(unit: &Path, place: &str, scratch: &Path) {
    let mut command = Command::new("systemd-analyze");
    let finished = run(command.args(["--man=no", "verify"]).arg(unit), scratch);
    // What is wrong with other units of this host is not about ours.
    let said = finished.stderr.lines().find(|line| line.contains("shown.service"));
    assert_eq!(said, None, "{place}: {finished:?}");
}
