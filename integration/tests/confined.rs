//! The agent under the limits of `examples/systemd/lb-agent.service`: as its own user, with few capabilities, system
//! calls and places to write to. Paths and user of the unit's file are replaced by the lab's, all else is as it is.

use integration::agent::Agent;
use integration::client::dial;
use integration::confine::scene::{Scene, USER};
use integration::exposition::Exposition;
use integration::lab;
use integration::process;
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::eventually;
use lb_agent::status::PacketPathState;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF, as /proc shows them.
const CAPABILITIES: &str = "000000c000001000";

fn who() -> String {
    let vip: SocketAddr = VIP.parse().expect("an address");
    dial(vip).expect("somebody answers").tag
}

/// A line of `/proc/PID/status`.
fn of_process(pid: u32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.expect("a known field").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn all_of_it_works_under_the_limits() {
    lab::run("confined", |lab| {
        let scene = Scene::new(lab);
        let backends = Backends::tcp("127.0.0.1", ["a", "b"]);
        let to = |index| services(&[service("web").frontend(VIP).backend(backends.at(index))]);
        lab.set_settings("packet_path: on");
        lab.write_config(&to(0));
        let agent = scene.start();
        let pid = agent.pid();
        let user = vec![USER.to_string(); 4].join(" ");
        for (key, expected) in [
            ("Name:", "lb-agent"),
            ("Uid:", &*user),
            ("Gid:", &user),
            ("Groups:", ""),
            ("CapEff:", CAPABILITIES),
            ("CapPrm:", CAPABILITIES),
            ("CapBnd:", CAPABILITIES),
            // What it runs for a check gets none of them.
            ("CapAmb:", "0000000000000000"),
            ("NoNewPrivs:", "1"),
            ("Seccomp:", "2"),
            ("Umask:", "0027"),
        ] {
            assert_eq!(of_process(pid, key), expected, "{key}");
        }

        assert_eq!(who(), "a");
        let status = agent.status();
        let warnings: Vec<_> =
            status.warnings.iter().filter(|warning| !warning.contains("this kernel")).collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("CAP_SYS_ADMIN"), "{warnings:?}");
        let bad = [PacketPathState::Failing, PacketPathState::Unavailable];
        assert!(!bad.contains(&status.packet_path.state), "{:?}", status.packet_path);
        agent.reload(&to(1));
        assert_eq!(who(), "b");
        let backend = format!("web/{}", backends.at(1));
        for arguments in [
            &["drain", &backend][..],
            &["undrain", &backend],
            &["explain", VIP],
            &["connections"],
            &["maps"],
        ] {
            let finished = lab.lbctl(arguments);
            assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        }

        // Root itself could not write elsewhere in the agent's view of the file system.
        let write = |path: PathBuf| {
            let mut command = Command::new("nsenter");
            command.arg(format!("--mount=/proc/{pid}/ns/mnt")).arg("touch").arg(path);
            process::run(&mut command, lab.scratch())
        };
        let scratch = lab.scratch();
        for path in
            ["/etc", "/usr", "/var/lib", "/run", "/", "/sys/fs/bpf", "/root", "/proc/sys/net"]
        {
            let finished = write(PathBuf::from(path).join("lb-test-written"));
            assert_ne!(finished.code, Some(0), "{path} can be written to");
            assert!(!PathBuf::from(path).join("lb-test-written").exists(), "{path}");
        }
        assert_ne!(write(scratch.join("x")).code, Some(0), "beside its directories");
        for path in [scratch.join("state/lb-agent/x"), scratch.join("run/lb-agent/x")] {
            let finished = write(path.clone());
            assert_eq!(finished.code, Some(0), "{finished:?}");
            assert!(path.exists());
        }

        assert!(agent.stop().success());
        assert!(scratch.join("state/lb-agent/state.json").exists());
        assert_eq!(who(), "b", "what is attached goes on");
        // The next one takes over what this one left, and takes it down at last. It can't know whether others have
        // closed unseen; that is no error.
        let held = dial(VIP.parse().unwrap()).unwrap();
        let last = scene.unit().replace(" run -c", " run --detach-on-exit -c");
        let mut agent = Agent::spawn_by(lab, &mut scene.command(&last));
        agent.wait_ready();
        assert_eq!(who(), "b");
        eventually("a word on sockets that closed unseen", Duration::from_secs(20), || {
            agent.log().contains("if sockets have closed while no program was attached")
        });
        let errors = Exposition::of_agent().value("lb_errors_total", &[("kind", "read")]);
        assert_eq!(errors, Some(0.0));
        drop(held);
        let log = agent.log();
        for trouble in ["not permitted", "ermission denied", "ead-only file system"] {
            assert!(!log.contains(trouble), "{log}");
        }
        assert!(agent.stop().success());
        assert_eq!(
            fs::read_dir(lab.pin_dir()).unwrap().count(),
            0,
            "it took down what was its own"
        );
    });
}

/// None of the capabilities is given in vain, and who lacks one is told.
#[test]
fn without_one_of_its_capabilities_it_says_so() {
    lab::run("confined-less", |lab| {
        let scene = Scene::new(lab);
        lab.write_config("services: []\n");
        for capability in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"] {
            let mut unit = String::new();
            for line in scene.unit().lines() {
                let capabilities = line.contains("Capabilit") && !line.starts_with('#');
                let line =
                    if capabilities { line.replace(capability, "") } else { line.to_owned() };
                unit += &(line + "\n");
            }
            let finished = process::run(&mut scene.command(&unit), lab.scratch());
            assert_eq!(finished.code, Some(1), "{capability}: {finished:?}");
            let last = finished.stderr.lines().last().unwrap_or_default();
            assert!(
                last.contains(capability) && last.contains("AmbientCapabilities"),
                "{finished:?}"
            );
        }
    });
}

/// The limits are there: what they forbid can't be done.
#[test]
fn the_limits_hold() {
    lab::run("confined-limits", |lab| {
        let scene = Scene::new(lab);
        lab.write_config("services: []\n");
        assert_eq!(scene.run("/usr/bin/id").code, Some(0));
        for (program, part) in [
            ("/usr/bin/touch /etc/lb-test-written", "Read-only file system"),
            ("/usr/bin/ls /root", "Permission denied"),
            ("/usr/bin/unshare --user /bin/true", "Operation not permitted"),
            ("/usr/bin/nsenter --net=/proc/self/ns/net /bin/true", "Operation not permitted"),
            ("/usr/bin/chrt --fifo 1 /bin/true", "Operation not permitted"),
            ("/usr/bin/setarch --addr-no-randomize /bin/true", "Operation not permitted"),
            ("/usr/bin/setpriv --reuid=0 /bin/true", "Operation not permitted"),
            ("/usr/bin/nice -n 5 /bin/true", "cannot set niceness"),
        ] {
            let finished = scene.run(program);
            let said = finished.stderr.contains(part);
            assert!(said, "{program}: {finished:?}");
        }
        assert!(!PathBuf::from("/etc/lb-test-written").exists());
    });
}
