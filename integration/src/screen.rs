//! A terminal that a program runs in and whose screen can be read: tmux.

use crate::wait::within;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// How long anything may take to appear, generously: both CPUs may be busy with load.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the shell asks for its next command with.
pub const PROMPT: &str = "prompt>";

/// A terminal with a shell in it; both end when it is dropped.
#[derive(Debug)]
pub struct Screen {
    server: PathBuf,
}

// === impl Screen ===

impl Screen {
    /// A terminal of this size. Its socket is in `scratch`.
    #[track_caller]
    pub fn open(scratch: &Path, columns: u16, rows: u16) -> Self {
        let screen = Self { server: scratch.join("tmux.sock") };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let shell = format!("env PS1='{PROMPT} ' sh -i");
        screen.tmux(&["new-session", "-d", "-x", &columns, "-y", &rows, &shell]);
        screen.until(PROMPT);
        screen
    }

    /// Types a line.
    #[track_caller]
    pub fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.keys(&["Enter"]);
    }

    /// Presses keys, by the names that tmux has for them: `q`, `Enter`, `Escape`, `C-c`.
    #[track_caller]
    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Makes it another size.
    #[track_caller]
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// What is on it now.
    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    /// Waits until it shows `part`, and returns all that it shows then.
    #[track_caller]
    pub fn until(&self, part: &str) -> String {
        self.until_so(part, |text| text.contains(part))
    }

    /// Waits until `holds` of what it shows.
    #[track_caller]
    pub fn until_so(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let shown = within(DEADLINE, || Some(self.text()).filter(|text| holds(text)));
        shown.unwrap_or_else(|| panic!("no `{what}` after {DEADLINE:?} on\n{}", self.text()))
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.args(["-u", "-f", "/dev/null", "-S"]).arg(&self.server).args(arguments);
        let output = command.output().expect("tmux can be started: `make setup-tests` installs it");
        assert!(output.status.success(), "tmux {arguments:?}: {output:?}");
        output
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        let ended = command.arg("-S").arg(&self.server).arg("kill-server").status();
        // The shell may have ended it before.
        if ended.is_err() && !std::thread::panicking() {
            panic!("the terminal at {} does not end", self.server.display());
        }
    }
}
