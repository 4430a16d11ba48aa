//! The file of a unit.

use anyhow::{Context as _, bail, ensure};

/// Settings that are looked at by whoever applies them.
const APPLIED: [&str; 29] = [
    "AmbientCapabilities",
    "BindPaths",
    "CapabilityBoundingSet",
    "ExecStart",
    "ExecStartPre",
    "Group",
    "LimitMEMLOCK",
    "LimitNOFILE",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "PrivateTmp",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelTunables",
    "ProtectSystem",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RuntimeDirectory",
    "RuntimeDirectoryMode",
    "StateDirectory",
    "StateDirectoryMode",
    "SystemCallArchitectures",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "TemporaryFileSystem",
    "UMask",
    "User",
];

/// Settings that a run under limits does without: they say when and how often something runs, or take away what
/// a user without the capability for it does not have.
pub const NOT_HERE: [&str; 9] = [
    "KillMode",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "Restart",
    "RestartSec",
    "TimeoutStopSec",
    "Type",
];

/// The settings of `[Service]`, in order.
#[derive(Clone, Debug)]
pub struct Unit(Vec<(String, String)>);

impl Unit {
    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// If a line is no `key=value`, or a key in `[Service]` is neither applied nor known to be left out.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut section = "";
        let mut settings = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name;
                continue;
            }
            let (key, value) = line.split_once('=').with_context(|| format!("`{line}`"))?;
            if section != "Service" {
                continue;
            }
            if !APPLIED.contains(&key) && !NOT_HERE.contains(&key) {
                bail!("{key} is not known: apply it, or say why it is left out");
            }
            settings.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self(settings))
    }

    /// The values of a setting that may stand several times.
    pub fn all<'u>(&'u self, key: &'u str) -> impl Iterator<Item = &'u str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The value of a setting that stands once.
    ///
    /// # Errors
    ///
    /// If it is not there, or stands more than once.
    pub fn one(&self, key: &str) -> anyhow::Result<&str> {
        let mut values = self.0.iter().filter(|(name, _)| name == key);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Ok(value),
            _ => bail!("{key} must stand once"),
        }
    }

    /// The words of a setting whose lines add up.
    ///
    /// # Errors
    ///
    /// If it is not there; or a line is empty, which takes back those before it.
    pub fn words(&self, key: &str) -> anyhow::Result<Vec<&str>> {
        let lines: Vec<_> = self.0.iter().filter(|(name, _)| name == key).collect();
        ensure!(!lines.is_empty(), "{key} must stand somewhere");
        ensure!(lines.iter().all(|(_, line)| !line.is_empty()), "{key} is taken back");
        Ok(lines.into_iter().flat_map(|(_, line)| line.split_whitespace()).collect())
    }

    /// Whether a setting is `yes`.
    ///
    /// # Errors
    ///
    /// As [`Self::one`]; and if the value is neither `yes` nor `no`.
    pub fn is_on(&self, key: &str) -> anyhow::Result<bool> {
        match self.one(key)? {
            "yes" => Ok(true),
            "no" => Ok(false),
            other => bail!("{key}={other}: only yes and no are known"),
        }
    }
}
