//! How an etcd cluster is reached. Holds where secrets are, never secrets, so that it can be shown
//! and compared.
//!
//! Pure.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How to reach a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its members, in no order; one is used at a time. Never empty.
    pub endpoints: Vec<Endpoint>,
    /// How to trust the members, and how to show who we are. Used with `https` endpoints only.
    pub tls: Tls,
    /// Who we are, where the cluster asks.
    pub user: Option<User>,
}

/// A member: `https://10.0.0.1:2379`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Files are read again whenever they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the authorities that members' certificates must come from.
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate and its chain.
    pub cert: Option<PathBuf>,
    /// PEM file of our key.
    pub key: Option<PathBuf>,
    /// The name that members' certificates must have, if it is not the endpoint's host.
    pub server_name: Option<String>,
}

/// A user of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The file with the password; read again when it changes. One line end at its end is not part
    /// of it.
    pub password_file: PathBuf,
}

/// Longest a member may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest a member may take to answer a call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);

// === impl Endpoint ===

/// `http://host:port`, `https://host:port`, or `host:port` for `http`; the port is 2379 if left out.
impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Before anything is shown: a password may have any characters.
        if let Some((_, after)) = text.rsplit_once('@') {
            return Err(format!(
                "`...@{after}`: an endpoint has no name and password; put them under `user`, \
                 the password in a file"
            ));
        }
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => {
                return Err(format!(
                    "`{text}`: `{scheme}` is no scheme of etcd; write http://HOST:2379 or \
                     https://HOST:2379"
                ));
            }
            None => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let bad = || format!("`{text}` is not an endpoint; write http://HOST:2379");
        let host_ends = rest.find(']').map_or(0, |at| at + 1);
        let (host, port) = match rest[host_ends..].rsplit_once(':') {
            None => (rest, 2379),
            Some((_, port)) => {
                let host = &rest[..rest.len() - port.len() - 1];
                (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?)
            }
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let good = match bare {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(plain),
        };
        if !good {
            return Err(bad());
        }
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_and_print() {
        for (text, printed) in [
            ("10.0.0.1:2379", "http://10.0.0.1:2379"),
            ("http://etcd-1", "http://etcd-1:2379"),
            ("https://etcd.example.com:4001/", "https://etcd.example.com:4001"),
            ("https://[fd00::1]:2379", "https://[fd00::1]:2379"),
            ("[::1]", "http://[::1]:2379"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), printed, "{text}");
        }
        for (text, part) in [
            ("ftp://x:1", "no scheme of etcd"),
            ("http://", "not an endpoint"),
            ("http://x:0", "not an endpoint"),
            ("http://x:y", "not an endpoint"),
            ("fd00::1:2379", "not an endpoint"),
            ("http://[x]:2379", "not an endpoint"),
        ] {
            assert!(text.parse::<Endpoint>().unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for text in [
            "http://user:secret@x:2379",
            "https://secret@x",
            "user:secret@x:2379",
            "ftp://user:secret@x",
            "http://user:secret/?#secret@x:2379",
            "http://user:secret@secret@x",
            "secret://secret@x",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains("put them under `user`"), "{text}: {error}");
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }
}
