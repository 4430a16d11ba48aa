//! Every flag of kube-proxy and every field of `KubeProxyConfiguration` v1alpha1: what kind of value
//! it takes, what it is by default, and what becomes of it here.
//!
//! Pure data. docs/kubernetes.md shows the same table; a test compares them.

/// A flag, a field, or a flag that sets a field.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The flag without dashes; empty if there is only a field.
    pub flag: &'static str,
    /// The path of the field, with dots; empty if there is only a flag.
    pub field: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What it is unless it is set, as JSON.
    pub default: &'static str,
    /// What becomes of it.
    pub standing: Standing,
}

/// Kinds of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; as a flag it needs no value.
    Flag,
    /// Any text.
    Text,
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// A number.
    Fraction,
    /// A duration such as `1m30s`.
    Duration,
    /// Several texts; as a flag, with commas between them, or the flag several times.
    List,
    /// Several texts, the flag once for each.
    Repeated,
    /// `name=true` pairs; a mapping in the file.
    Switches,
    /// Not looked at.
    Anything,
}

/// What becomes of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does this.
    Honoured(&'static str),
    /// It is accepted and does nothing, for this reason.
    NoEffect(&'static str),
    /// Set to anything but its default, it is an error, for this reason.
    Refused(&'static str),
}

mod rows;

pub use self::rows::ROWS;

// === impl Row ===

impl Row {
    /// What its value is filed under: the field, or the flag where there is none.
    pub const fn key(&self) -> &'static str {
        if self.field.is_empty() { self.flag } else { self.field }
    }

    /// How it is written on the command line: `-v`, `--config`.
    pub fn dashed(&self) -> String {
        if self.flag.len() == 1 { format!("-{}", self.flag) } else { format!("--{}", self.flag) }
    }

    /// Whether the flag also counts where there is a configuration file.
    pub fn beside_config(&self) -> bool {
        let old = ["healthz-port", "metrics-port"];
        (self.field.is_empty() && !old.contains(&self.flag))
            || self.field == "hostnameOverride"
            || self.field.starts_with("logging.")
    }
}

/// The row of a flag.
pub fn flag(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| !row.flag.is_empty() && row.flag == name)
}

/// The row of a field.
pub fn field(path: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| !row.field.is_empty() && row.field == path)
}

/// Whether fields stand below this path.
pub fn is_group(path: &str) -> bool {
    let below = |row: &Row| row.field.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    ROWS.iter().any(below)
}

#[cfg(test)]
mod tests;
