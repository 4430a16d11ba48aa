//! What `/flagz` and `/statusz` say, in the form that the components of Kubernetes give these pages.
//!
//! Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

/// What is said instead of a profile.
pub const NO_PROFILER: &str = "there is no profiler in this process: use `perf record -p PID` on the node, and see /metrics for \
     the durations of rounds\n";

/// The paths of the metrics port.
const PATHS: [&str; 7] =
    ["/configz", "/flagz", "/healthz", "/metrics", "/metrics/slis", "/proxyMode", "/statusz"];

/// How the process was started.
#[derive(Clone, Debug)]
pub struct Start {
    /// When.
    pub at: SystemTime,
    /// All flags that count beside or without a configuration file, and their values.
    pub flags: BTreeMap<&'static str, String>,
}

// === impl Start ===

impl Start {
    /// `/flagz`.
    pub fn flagz(&self) -> String {
        let mut page = head("flags");
        for (name, value) in &self.flags {
            // Writing to a string succeeds.
            let _ = writeln!(page, "{name}={value}");
        }
        page
    }

    /// `/statusz`, asked for at `now`.
    pub fn statusz(&self, now: SystemTime) -> String {
        let mut page = head("statusz");
        let up = now.duration_since(self.at).unwrap_or_default();
        let (hours, minutes) = (up.as_secs() / 3600, up.as_secs() / 60 % 60);
        let up = format!("{hours} hr {minutes:02} min {:02} sec", up.as_secs() % 60);
        for (what, value) in [
            ("Started", humantime::format_rfc3339_seconds(self.at).to_string()),
            ("Up", up),
            ("Binary version", format!("lb-agent {}", env!("CARGO_PKG_VERSION"))),
            ("Paths", PATHS.join(" ")),
        ] {
            let _ = writeln!(page, "{what}: {value}");
        }
        page
    }
}

/// What both begin with.
fn head(what: &str) -> String {
    format!(
        "\nkube-proxy {what}\nWarning: this page is for people; programs must not rely on its form.\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn pages() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let flags = [("v", "2"), ("config", "/etc/k.conf"), ("cleanup", "false")];
        let flags = flags.map(|(name, value)| (name, value.to_owned())).into();
        let start = Start { at, flags };
        let warning = "Warning: this page is for people; programs must not rely on its form.";
        assert_eq!(
            start.flagz(),
            format!("\nkube-proxy flags\n{warning}\n\ncleanup=false\nconfig=/etc/k.conf\nv=2\n")
        );
        let page = start.statusz(at + Duration::from_millis(3_723_500));
        assert!(page.starts_with(&format!("\nkube-proxy statusz\n{warning}\n\n")), "{page}");
        for line in [
            "Started: 1970-01-01T00:01:00Z",
            "Up: 1 hr 02 min 03 sec",
            concat!("Binary version: lb-agent ", env!("CARGO_PKG_VERSION")),
            "Paths: /configz /flagz /healthz /metrics /metrics/slis /proxyMode /statusz",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
