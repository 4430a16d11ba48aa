//! Checks that are programs.

use crate::trial::{check, says, tried};
use integration::lab;
use integration::wait::eventually;
use lb_agent::health::board::CheckResult::{Failing, Passing, Warning};
use lb_agent::model::check::{Check, ExecProbe, Probe};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

fn program(command: &[&str]) -> Probe {
    Probe::Exec(ExecProbe { command: command.iter().map(|&word| word.to_owned()).collect() })
}

fn script(text: &str) -> Probe {
    program(&["/bin/sh", "-c", text])
}

/// Whether a process lives; one that is dead but not yet buried does not.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

#[test]
fn exit_codes_and_output() {
    lab::run("probe-exec", |lab| {
        let no_program = lab.scratch().join("no-program").display().to_string();
        fs::write(&no_program, "").unwrap();
        let denied = format!("EXEC {no_program}: Permission denied*");
        let at: SocketAddr = "10.0.0.5:8080".parse().unwrap();
        let expected = [
            (script("echo fine"), Passing, "EXEC 0: fine"),
            (script("exit 0"), Passing, "EXEC 0"),
            (script("echo one; echo two; exit 1"), Warning, "EXEC 1: one | two"),
            (script("echo broken >&2; exit 2"), Failing, "EXEC 2: broken"),
            (script("echo said; echo also >&2; exit 77"), Failing, "EXEC 77: said"),
            (script("kill -9 $$"), Failing, "EXEC killed"),
            (
                script("echo $LB_BACKEND $LB_ADDRESS $LB_PORT"),
                Passing,
                "EXEC 0: 10.0.0.5:8080 10.0.0.5 8080",
            ),
            (script("printf 'a\\033[31mb'"), Passing, "EXEC 0: a [31mb"),
            (script("yes | head -c 20000000"), Passing, "EXEC 0: y | y | y*"),
            (script("cat"), Passing, "EXEC 0"),
            (program(&["/no/such/program"]), Failing, "EXEC /no/such/program: No such file*"),
            (program(&[&no_program]), Failing, &denied),
        ];
        let cases: Vec<(Check, SocketAddr)> =
            expected.iter().map(|(probe, ..)| (check(probe.clone()), at)).collect();
        for (report, (_, result, text)) in tried(&cases).iter().zip(&expected) {
            says(report, *result, text);
            assert!(report.text.chars().count() < 5000, "{} characters", report.text.len());
        }
    });
}

#[test]
fn nothing_that_a_program_started_outlives_it() {
    lab::run("probe-group", |lab| {
        let at: SocketAddr = "10.0.0.5:8080".parse().unwrap();
        let file = |name: &str| lab.scratch().join(name).display().to_string();
        let (slow, left, far) = (file("slow"), file("left"), file("far"));
        let cases = [
            // It, its child and its grandchild are still there when the time is over.
            (
                Check {
                    timeout: Duration::from_secs(3),
                    ..check(script(&format!(
                        "(sleep 600 & echo $! >>{slow}; wait) & echo $! >>{slow}; echo $$ >>{slow}; wait"
                    )))
                },
                at,
            ),
            // It has ended; what it left holds the pipe.
            (check(script(&format!("sleep 600 & echo $! >>{left}; echo started"))), at),
            // As before, but out of reach: it must not hold up the result.
            (
                check(script(&format!(
                    "setsid sh -c 'echo $$ >>{far}; exec sleep 20' & sleep 0.2; echo away"
                ))),
                at,
            ),
        ];
        let reports = tried(&cases);
        says(&reports[0], Failing, "EXEC killed, no end within 3s");
        says(&reports[1], Passing, "EXEC 0: started");
        says(&reports[2], Passing, "EXEC 0: away");
        assert!(reports[1].took < Duration::from_secs(5), "{:?}", reports[1]);
        assert!(reports[2].took < Duration::from_secs(5), "{:?}", reports[2]);
        for (name, least) in [(&slow, 3), (&left, 1)] {
            let text = fs::read_to_string(name).unwrap();
            let pids: Vec<&str> = text.split_whitespace().collect();
            assert!(pids.len() >= least, "{name}: {pids:?}");
            eventually("all of them to be dead", Duration::from_secs(5), || {
                !pids.iter().any(|pid| lives(pid))
            });
        }
        // What has left the group is this test's to end.
        for pid in fs::read_to_string(&far).unwrap_or_default().split_whitespace() {
            let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
}
