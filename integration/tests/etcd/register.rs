//! `lbctl register`: a key for as long as a command runs, whatever happens to either side.

use integration::clock::Clock;
use integration::etcd::Etcd;
use integration::lab::{self, Lab};
use integration::process::{binary, exit_of, kill};
use integration::wait::{eventually, let_pass, wait_for, within};
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take that is not itself a wait.
const SOON: Duration = Duration::from_secs(20);
/// The lease of the registrations.
const TTL: Duration = Duration::from_secs(4);
const ADDRESS: &str = "10.0.0.5:8080";
const KEY: &str = "/lb/backends/web/10.0.0.5:8080";

/// A running `lbctl register`; killed on drop.
pub(crate) struct Registrar {
    child: Child,
    log: PathBuf,
}

// === impl Registrar ===

impl Registrar {
    /// Registers [`ADDRESS`] for `web`, with these arguments besides.
    pub(crate) fn start(lab: &Lab, etcd: &Etcd, arguments: &[&str]) -> Self {
        Self::of(lab, etcd, ADDRESS, arguments)
    }

    /// The same for another address.
    pub(crate) fn of(lab: &Lab, etcd: &Etcd, address: &str, arguments: &[&str]) -> Self {
        Self::spawn(lab, etcd, address, arguments, &mut Command::new(binary("lbctl")))
    }

    /// The same where a clock may jump.
    pub(crate) fn under(
        clock: &Clock,
        lab: &Lab,
        etcd: &Etcd,
        address: &str,
        arguments: &[&str],
    ) -> Self {
        let mut command = Command::new(binary("lbctl"));
        clock.rules(&mut command);
        Self::spawn(lab, etcd, address, arguments, &mut command)
    }

    fn spawn(
        lab: &Lab,
        etcd: &Etcd,
        address: &str,
        arguments: &[&str],
        command: &mut Command,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = lab.scratch().join(format!("registrar-{number}.log"));
        let child = command
            .args(["register", "--service", "web", "--address", address, "--ttl", "2s"])
            .args(["--check-interval", "20ms"])
            .args(arguments)
            .env("LB_ETCD_ENDPOINTS", etcd.endpoint())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("the scratch directory is writable"))
            .spawn()
            .expect("lbctl can be started");
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    fn says(&self, part: &str) {
        let said = within(SOON, || self.log().contains(part).then_some(()));
        assert!(said.is_some(), "not `{part}` but {}", self.log());
    }

    fn signal(&self, which: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        signal(pid, which).expect("a child can be signalled");
    }

    #[track_caller]
    fn end(&mut self) -> ExitStatus {
        let status = exit_of(&mut self.child, SOON);
        status.unwrap_or_else(|| panic!("the registrar does not end; it said {}", self.log()))
    }

    #[track_caller]
    fn ends_with(&mut self, code: i32) {
        assert_eq!(self.end().code(), Some(code), "{}", self.log());
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// Waits until the key says that the backend is in this state; returns its value.
#[track_caller]
fn is(etcd: &Etcd, state: &str) -> serde_json::Value {
    wait_for(&format!("{KEY} to be {state}"), SOON, || {
        let value: serde_json::Value = serde_json::from_str(&etcd.get(KEY)?).expect("JSON");
        (value["state"] == state).then_some(value)
    })
}

#[track_caller]
fn is_gone(etcd: &Etcd) {
    eventually(&format!("{KEY} to be gone"), SOON, || etcd.get(KEY).is_none());
}

/// A command that goes on until `file` is there.
fn until(file: &Path) -> String {
    format!("until [ -e {} ]; do sleep 0.02; done", file.display())
}

#[test]
fn a_command_is_registered_while_it_runs() {
    lab::run("register-command", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let stop = lab.scratch().join("stop");
        let script = format!("{}; exit 3", until(&stop));
        let options = ["--weight", "3", "--zone", "a", "--", "sh", "-c", &script];
        let mut registrar = Registrar::start(lab, &etcd, &options);
        let value = is(&etcd, "ready");
        let by = value["registered_by"].as_str().unwrap();
        assert!(by.ends_with(&format!("/{}", registrar.child.id())), "{by}");
        assert_eq!(
            value,
            serde_json::json!({
                "address": ADDRESS, "weight": 3, "zone": "a", "state": "ready", "registered_by": by
            })
        );
        assert!(etcd.lease_of(KEY).is_some());
        registrar.says(&format!("lbctl: registered: {KEY}, lease "));
        fs::write(&stop, "").unwrap();
        registrar.ends_with(3);
        assert_eq!(etcd.get(KEY), None);

        for (command, code) in
            [(&["sh", "-c", "kill -KILL $$"] as &[_], 137), (&["/nonexistent"], 127)]
        {
            let arguments = [&["--id", "b", "--"], command].concat();
            let mut registrar = Registrar::start(lab, &etcd, &arguments);
            registrar.ends_with(code);
        }
        assert_eq!(etcd.list("/lb/"), []);
    });
}

#[test]
fn signals_are_the_commands_and_a_stop_drains_first() {
    lab::run("register-signals", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let heard = lab.scratch().join("heard");
        let traps: String = ["HUP", "USR1", "USR2", "QUIT"]
            .map(|name| format!("trap 'echo {name} >>{}' {name};", heard.display()))
            .concat();
        let traps = format!("{traps} trap 'echo TERM >>{}; exit 7' TERM", heard.display());
        let script = format!("{traps}; while :; do sleep 0.02; done");
        let options = ["--drain-wait", "5s", "--", "sh", "-c", &script];
        let mut registrar = Registrar::start(lab, &etcd, &options);
        registrar.says("registered");
        let heard = || fs::read_to_string(&heard).unwrap_or_default();
        for (which, name) in [
            (Signal::SIGHUP, "HUP"),
            (Signal::SIGUSR1, "USR1"),
            (Signal::SIGUSR2, "USR2"),
            (Signal::SIGQUIT, "QUIT"),
        ] {
            registrar.signal(which);
            eventually(&format!("{name} to be heard"), SOON, || heard().contains(name));
        }
        is(&etcd, "ready");
        registrar.signal(Signal::SIGTERM);
        let asked = Instant::now();
        is(&etcd, "drain");
        assert!(!heard().contains("TERM"), "the command was told before the clients");
        eventually("TERM to be heard", SOON, || heard().contains("TERM"));
        assert!(asked.elapsed() >= Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(etcd.get(KEY), None);
        registrar.ends_with(7);
    });
}

#[test]
fn whoever_asks_twice_does_not_wait() {
    lab::run("register-twice", |lab| {
        let etcd = Etcd::start(lab.scratch());
        for (command, code) in [(&[] as &[_], 0), (&["--", "sleep", "600"], 128 + 2)] {
            let options = [&["--drain-wait", "1h"], command].concat();
            let mut registrar = Registrar::start(lab, &etcd, &options);
            registrar.says("registered");
            registrar.signal(Signal::SIGINT);
            is(&etcd, "drain");
            registrar.signal(Signal::SIGINT);
            registrar.ends_with(code);
            assert_eq!(etcd.get(KEY), None);
        }
    });
}

#[test]
fn without_a_command_it_drains_and_goes() {
    lab::run("register-alone", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let mut registrar = Registrar::start(lab, &etcd, &["--drain-wait", "5s"]);
        is(&etcd, "ready");
        registrar.says("registered");
        registrar.signal(Signal::SIGTERM);
        is(&etcd, "drain");
        registrar.ends_with(0);
        assert_eq!(etcd.get(KEY), None);
    });
}

#[test]
fn one_that_dies_is_forgotten_when_its_lease_ends() {
    lab::run("register-dies", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let registrar = Registrar::start(lab, &etcd, &[]);
        is(&etcd, "ready");
        // Longer than the lease would last by itself.
        let_pass(TTL * 2);
        assert!(etcd.get(KEY).is_some(), "{}", registrar.log());
        drop(registrar);
        assert!(etcd.get(KEY).is_some());
        is_gone(&etcd);
    });
}

#[test]
fn outages_end_with_the_key_back() {
    lab::run("register-outage", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        let registrar = Registrar::start(lab, &etcd, &[]);
        registrar.says("registered: ");
        etcd.kill9();
        registrar.says("registration lost: ");
        let_pass(Duration::from_secs(5));
        etcd.restart();
        registrar.says("registered again: ");
        let_pass(TTL * 2);
        is(&etcd, "ready");

        etcd.wipe();
        is(&etcd, "ready");
        let_pass(TTL * 2);
        assert!(etcd.lease_of(KEY).is_some(), "{}", registrar.log());
        assert!(etcd.delete(KEY));
        is(&etcd, "ready");
    });
}

#[test]
fn a_store_that_is_away_keeps_no_command_from_running() {
    lab::run("register-later", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        etcd.kill9();
        let (started, stop) = (lab.scratch().join("started"), lab.scratch().join("stop"));
        let script = format!("touch {}; {}", started.display(), until(&stop));
        let mut registrar = Registrar::start(lab, &etcd, &["--", "sh", "-c", &script]);
        eventually("the command to run", SOON, || started.exists());
        registrar.says("not registered yet: ");
        etcd.restart();
        is(&etcd, "ready");
        // Nor does it keep one from ending.
        etcd.kill9();
        fs::write(&stop, "").unwrap();
        registrar.ends_with(0);
    });
}

#[test]
fn what_fails_its_check_is_withdrawn() {
    lab::run("register-check", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let good = lab.scratch().join("good");
        let check = format!("exec:test -e {}", good.display());
        let mut registrar = Registrar::start(lab, &etcd, &["--check", &check]);
        registrar.says("not registered: check exec:test -e ");
        assert_eq!(etcd.get(KEY), None);
        for _ in 0..2 {
            fs::write(&good, "").unwrap();
            is(&etcd, "ready");
            fs::remove_file(&good).unwrap();
            is_gone(&etcd);
        }
        registrar.says("registered again: ");
        registrar.says("withdrawn: check exec:");
        // There is nothing to drain.
        registrar.signal(Signal::SIGTERM);
        registrar.ends_with(0);
    });
}

#[test]
fn a_key_that_is_anothers_is_not_taken() {
    lab::run("register-conflict", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let other = "10.0.0.6:8080";
        let first = Registrar::start(lab, &etcd, &["--id", ADDRESS]);
        first.says("registered");
        let run = lab.scratch().join("run");
        let script = format!("touch {}", run.display());
        let options = ["--id", ADDRESS, "--", "sh", "-c", &script];
        let mut second = Registrar::of(lab, &etcd, other, &options);
        second.ends_with(1);
        let expected = format!("{KEY} is held by {ADDRESS}, registered by ");
        assert!(second.log().contains(&expected), "{}", second.log());
        assert!(second.log().contains("give this backend another --id"), "{}", second.log());
        assert!(!run.exists());

        // What is left of one that died is waited out.
        drop(first);
        let third = Registrar::of(lab, &etcd, other, &["--id", ADDRESS]);
        third.says("registered: ");
        assert!(etcd.get(KEY).unwrap().contains(other));
        drop(third);
        is_gone(&etcd);

        etcd.put(KEY, r#"{"host":"10.0.0.9","port":"80"}"#);
        let mut fourth = Registrar::start(lab, &etcd, &[]);
        fourth.ends_with(1);
        let expected = "is held by 10.0.0.9:80 (it hangs on no lease)";
        assert!(fourth.log().contains(expected), "{}", fourth.log());
    });
}

#[test]
fn one_that_was_frozen_does_not_take_its_key_back() {
    lab::run("register-frozen", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let other = "10.0.0.6:8080";
        let options = ["--id", ADDRESS, "--drain-wait", "0s", "--", "sleep", "600"];
        let mut first = Registrar::start(lab, &etcd, &options);
        first.says("registered");
        first.signal(Signal::SIGSTOP);
        is_gone(&etcd);
        let second = Registrar::of(lab, &etcd, other, &["--id", ADDRESS]);
        second.says("registered: ");
        let revision = etcd.revision();
        first.signal(Signal::SIGCONT);
        let line = format!("registration lost: {KEY} was taken over by {other}, registered by ");
        first.says(&line);
        let_pass(TTL * 3);
        assert_eq!(etcd.revision(), revision, "they fight");
        assert!(etcd.get(KEY).unwrap().contains(other));
        assert_eq!(first.log().matches("taken over").count(), 1, "{}", first.log());
        assert!(!second.log().contains("lost"), "{}", second.log());
        // It is ours again as soon as it is free.
        drop(second);
        first.says("registered again: ");
        is(&etcd, "ready");
        first.signal(Signal::SIGTERM);
        first.ends_with(128 + 15);
        assert_eq!(etcd.get(KEY), None);
    });
}

#[test]
fn a_rolling_restart_keeps_the_key() {
    lab::run("register-rolling", |lab| {
        let etcd = Etcd::start(lab.scratch());
        for seen in [false, true] {
            let mut first = Registrar::start(lab, &etcd, &["--drain-wait", "1s"]);
            first.says("registered");
            let mut second = Registrar::start(lab, &etcd, &["--drain-wait", "0s"]);
            second.says("registered: ");
            let revision = etcd.revision();
            if seen {
                first.says(&format!("{KEY} was taken over by {ADDRESS}, registered by "));
            }
            first.signal(Signal::SIGTERM);
            first.ends_with(0);
            let_pass(TTL);
            let by = format!("/{}", second.child.id());
            let value = is(&etcd, "ready");
            assert!(value["registered_by"].as_str().unwrap().ends_with(&by), "{value}");
            assert_eq!(etcd.revision(), revision, "the old one wrote over the new one's key");
            assert!(!second.log().contains("lost"), "{}", second.log());
            second.signal(Signal::SIGTERM);
            second.ends_with(0);
            assert_eq!(etcd.get(KEY), None);
        }
    });
}

#[test]
fn an_end_while_anothers_lease_is_waited_for() {
    lab::run("register-waits", |lab| {
        let etcd = Etcd::start(lab.scratch());
        for (command, code) in [(&["--", "true"] as &[_], 128 + 15), (&[], 0)] {
            etcd.put_leased(KEY, r#"{"address":"10.0.0.9:80"}"#, TTL * 30);
            let options = [&["--id", ADDRESS], command].concat();
            let mut second = Registrar::of(lab, &etcd, "10.0.0.6:8080", &options);
            second.says("waiting");
            second.signal(Signal::SIGTERM);
            second.ends_with(code);
            assert!(etcd.delete(KEY));
        }
    });
}

#[test]
fn a_store_that_asks_who_we_are() {
    lab::run("register-auth", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let secret = lab.scratch().join("password");
        fs::write(&secret, "opensesame\n").unwrap();
        etcd.enable_auth("lb", "opensesame");
        let file = secret.to_string_lossy();
        let options = ["--user", "lb", "--password-file", &file];
        let registrar = Registrar::start(lab, &etcd, &options);
        registrar.says("registered: ");
        is(&etcd, "ready");
        assert!(!registrar.log().contains("opensesame"));
        drop(registrar);
        fs::write(&secret, "swordfish").unwrap();
        let refused = Registrar::start(lab, &etcd, &options);
        refused.says("not registered yet: ");
        assert!(!refused.log().contains("swordfish"), "{}", refused.log());
    });
}
