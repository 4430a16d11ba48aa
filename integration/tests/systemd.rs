//! The unit, and the package, under systemd itself, as the first process of a host of its own.

use integration::process::binary;
use integration::server::{Backends, Kind};
use integration::spec::{service, services};
use integration::systemd::Systemd;
use integration::wait::{eventually, within};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const UNIT: &str = "lb-agent.service";
const VIP: &str = "10.96.0.10:80";
const BACKEND: &str = "127.0.0.1:8080";
const DEADLINE: Duration = Duration::from_secs(60);

/// Connects again and again, and fails for good with the first connect that does.
const CLIENT: &str = "[Service]
ExecStart=/bin/bash -c 'n=0; while exec 3<>/dev/tcp/10.96.0.10/80 && read -r -u 3 tag _ && [ \"$$tag\" = web ]; \
do exec 3<&-; n=$$((n+1)); echo $$n > /run/count; sleep 0.01; done; exit 1'
";

fn configuration() -> String {
    let web = service("web").frontend(VIP).backend(BACKEND);
    services(&[web]) + "vip_ranges: [10.96.0.0/12]\n"
}

fn serve(host: &Systemd) -> Backends {
    host.in_its_network(|| {
        Backends::start(Kind::Tcp, [(BACKEND.parse().expect("an address"), "web")])
    })
}

#[track_caller]
fn begin_to_connect(host: &Systemd) {
    fs::write(host.file("run/systemd/system/client.service"), CLIENT).expect("writable");
    host.systemctl(&["daemon-reload"]);
    host.systemctl(&["start", "client.service"]);
    connects_go_on(host);
}

/// Waits until the client has connected some more.
#[track_caller]
fn connects_go_on(host: &Systemd) {
    let count =
        || -> Option<u64> { fs::read_to_string(host.file("run/count")).ok()?.trim().parse().ok() };
    let before = within(DEADLINE, count).expect("the client counts");
    eventually("more connects", DEADLINE, || {
        let state = host.property("client.service", "ActiveState");
        assert_eq!(state, "active", "{}", host.journal());
        count() > Some(before + 5)
    });
}

/// The agent's process, once it serves.
#[track_caller]
fn serves(host: &Systemd, before: Option<&str>) -> String {
    let found = within(DEADLINE, || {
        let pid = host.property(UNIT, "MainPID");
        let ready = || host.run(&["lbctl", "status", "-o", "name"]).1.trim() == "serving";
        (pid != "0" && Some(&*pid) != before && ready()).then_some(pid)
    });
    found.unwrap_or_else(|| panic!("the agent does not serve: {}", host.journal()))
}

#[test]
fn the_unit_starts_restarts_and_stops() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd");
    let unit = fs::read_to_string(examples.join(UNIT)).expect("the unit is there");
    let scratch = tempfile::tempdir().expect("a directory can be made");
    let config = scratch.path().join("lb-agent.yaml");
    fs::write(&config, configuration()).expect("writable");
    let [agent, lbctl] = ["lb-agent", "lbctl"].map(binary);
    let files = [
        ("usr/sbin/lb-agent", &*agent),
        ("usr/sbin/lbctl", &*lbctl),
        ("etc/lb-agent/lb-agent.yaml", &*config),
    ];
    let host = Systemd::start("systemd", &files, &[(UNIT, unit)]);
    let _server = serve(&host);
    let first = serves(&host, None);
    begin_to_connect(&host);

    let status = fs::read_to_string(host.process(&first).join("status")).expect("it runs");
    let line = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel says");
        line.trim().to_owned()
    };
    // CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF.
    assert_eq!(line("CapEff:"), format!("{:016x}", 1u64 << 12 | 1 << 38 | 1 << 39));
    assert_eq!((&*line("CapAmb:"), &*line("NoNewPrivs:")), ("0000000000000000", "1"));
    assert_eq!(line("Seccomp:"), "2");
    assert_ne!(line("Uid:").split_whitespace().next(), Some("0"));

    host.systemctl(&["restart", UNIT]);
    let second = serves(&host, Some(&first));
    connects_go_on(&host);
    // Whatever ends it, it comes back.
    host.systemctl(&["kill", "--signal=KILL", UNIT]);
    let third = serves(&host, Some(&second));
    connects_go_on(&host);
    host.systemctl(&["stop", UNIT]);
    assert_eq!(host.property(UNIT, "ActiveState"), "inactive", "{}", host.journal());
    assert_eq!(host.property(UNIT, "Result"), "success");
    connects_go_on(&host);
    host.systemctl(&["start", UNIT]);
    serves(&host, Some(&third));
    connects_go_on(&host);
}

/// The same package as a later version.
fn later(package: &Path, scratch: &Path) -> PathBuf {
    let (files, later) = (scratch.join("files"), scratch.join("later.deb"));
    let dpkg_deb = |arguments: &[&str], paths: [&Path; 2]| {
        let done = Command::new("dpkg-deb").args(arguments).args(paths).output();
        let done = done.expect("dpkg-deb can be run");
        assert!(done.status.success(), "{done:?}");
    };
    dpkg_deb(&["-R"], [package, &files]);
    let control = files.join("DEBIAN/control");
    let text = fs::read_to_string(&control).expect("a package has one");
    let line = text.lines().find(|line| line.starts_with("Version: ")).expect("it has a version");
    fs::write(&control, text.replace(line, "Version: 9.9.9-1")).expect("writable");
    dpkg_deb(&["-Zgzip", "-z1", "-b"], [&files, &later]);
    later
}

#[test]
#[ignore = "takes a package, by LB_PACKAGE: packages/test.sh"]
fn the_package_starts_upgrades_and_goes() {
    let package = PathBuf::from(std::env::var_os("LB_PACKAGE").expect("LB_PACKAGE is a package"));
    let scratch = tempfile::tempdir().expect("a directory can be made");
    let later = later(&package, scratch.path());
    let files = [("opt/first.deb", &*package), ("opt/later.deb", &*later)];
    let host = Systemd::start("package", &files, &[]);
    let _server = serve(&host);
    // Neither what keeps packages from starting anything, nor our user, who is the package's to make.
    for command in [&["rm", "-f", "/usr/sbin/policy-rc.d"][..], &["userdel", "lb-agent"]] {
        let (done, said) = host.run(command);
        assert!(done, "{command:?}: {said}");
    }
    let dpkg = |arguments: &[&str]| {
        let (done, said) = host.run(&[&["dpkg", "--force-confold"], arguments].concat());
        assert!(done, "dpkg {arguments:?}: {said}\n{}", host.journal());
    };
    dpkg(&["-i", "/opt/first.deb"]);
    serves(&host, None);
    assert_eq!(host.systemctl(&["is-enabled", UNIT]).trim(), "enabled");
    let config = host.file("etc/lb-agent/lb-agent.yaml");
    fs::write(&config, configuration()).expect("writable");
    host.systemctl(&["restart", UNIT]);
    let first = serves(&host, None);
    begin_to_connect(&host);

    dpkg(&["-i", "/opt/later.deb"]);
    serves(&host, Some(&first));
    connects_go_on(&host);
    assert_eq!(fs::read_to_string(&config).expect("it is there"), configuration());

    host.systemctl(&["stop", "client.service"]);
    dpkg(&["--purge", "lb-agent"]);
    assert_eq!(host.property(UNIT, "LoadState"), "not-found", "{}", host.journal());
    for gone in ["sys/fs/bpf/lb", "var/lib/lb-agent", "etc/lb-agent", "run/lb-agent"] {
        assert!(!host.file(gone).exists(), "{gone}");
    }
    assert!(!host.run(&["getent", "passwd", "lb-agent"]).0, "the user is still there");
}
