//! A lab that is fit for the agent's own unit: paths and user of the unit's file are replaced by the lab's, all else
//! is as it is.

use crate::agent::Agent;
use crate::lab::Lab;
use crate::process::{self, Finished, binary, copy_program};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

/// Part of the program, which runs where the file is not, too.
const UNIT: &str = include_str!("../../../examples/systemd/lb-agent.service");
/// As [`UNIT`]: what may be added to it.
pub const OTHER_NAMESPACES: &str = include_str!("../../../examples/systemd/other-namespaces.conf");
/// Who runs the agent: nobody's on any machine.
pub const USER: u32 = 64_131;

/// A lab, and what is run in it.
#[derive(Debug)]
pub struct Scene<'a> {
    lab: &'a Lab,
    unit: String,
    sees_all: bool,
}

impl<'a> Scene<'a> {
    /// The unit as it is shipped.
    pub fn new(lab: &'a Lab) -> Self {
        let scratch = lab.scratch();
        fs::set_permissions(scratch, Permissions::from_mode(0o755))
            .expect("the scratch directory is writable");
        let program = scratch.join("lb-agent");
        copy_program(&binary("lb-agent"), &program);
        // The lab looks for it in another place.
        symlink("run/lb-agent/agent.sock", lab.socket())
            .expect("the scratch directory is writable");
        let mut unit = UNIT.to_owned();
        let start = format!(
            "ExecStart={} run -c {} --state-dir {2}/state/lb-agent --socket {2}/run/lb-agent/agent.sock",
            program.display(),
            lab.config_file().display(),
            scratch.display()
        );
        for (from, to) in [
            ("ExecStart=/usr/sbin/lb-agent run -c /etc/lb-agent/lb-agent.yaml", &*start),
            ("User=lb-agent", &format!("User={USER}")),
            ("Group=lb-agent", &format!("Group={USER}")),
            ("-o lb-agent -g lb-agent", &format!("-o {USER} -g {USER}")),
            ("lb-agent:lb-agent", &format!("{USER}:{USER}")),
            ("/sys/fs/bpf/lb\n", &format!("{}\n", lab.pin_dir().display())),
        ] {
            assert!(unit.contains(from), "the unit has no `{from}`");
            unit = unit.replace(from, to);
        }
        Self { lab, unit, sees_all: false }
    }

    /// With a file of settings beside it, which come after its own.
    #[must_use]
    pub fn with(mut self, beside: &str) -> Self {
        self.unit += beside;
        self
    }

    /// On some machines not even root may look at the first process, which has none of the test's sockets: there
    /// the agent has another view of it.
    #[must_use]
    pub fn seeing_all(self) -> Self {
        Self { sees_all: true, ..self }
    }

    /// The unit's text.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// What becomes the program of a unit.
    pub fn command(&self, unit: &str) -> Command {
        let scratch = self.lab.scratch();
        let file = scratch.join("unit");
        fs::write(&file, unit).expect("the scratch directory is writable");
        let mut command = if self.sees_all {
            let mut command = Command::new("unshare");
            let hide = r#"[ -e /proc/1/ns/net ] || mount -t tmpfs none /proc/1; exec "$@""#;
            command.args(["--mount", "sh", "-c", hide, "sh"]).arg(binary("confined"));
            command
        } else {
            Command::new(binary("confined"))
        };
        command.args([&file, &scratch.join("state"), &scratch.join("run"), &scratch.to_path_buf()]);
        command
    }

    /// Runs another program under the unit's limits.
    #[track_caller]
    pub fn run(&self, program: &str) -> Finished {
        let mut lines = self.unit.lines();
        let line = lines.find(|line| line.starts_with("ExecStart=")).expect("it starts something");
        let unit = self.unit.replace(line, &format!("ExecStart={program}"));
        process::run(&mut self.command(&unit), self.lab.scratch())
    }

    /// Starts the agent and waits until it is ready.
    #[track_caller]
    pub fn start(&self) -> Agent<'a> {
        let mut agent = Agent::spawn_by(self.lab, &mut self.command(&self.unit));
        agent.wait_ready();
        agent
    }
}
