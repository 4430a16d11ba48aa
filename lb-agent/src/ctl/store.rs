//! How the verbs that work on etcd reach it, and the keys of the native layout. Decides what the
//! command line, the environment and an agent's configuration say about the store; nothing about
//! what is kept there.

use super::{BAD_USAGE, say};
use crate::config::{self, Config, Source};
use crate::etcd::{Client, Endpoint, Settings, Tls, User};
use crate::model::ServiceName;
use crate::source::etcd::layout::LayoutKind;
use clap::Args;
use ipnet::IpNet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// What the keys begin with unless somebody says otherwise.
const PREFIX: &str = "/lb/";

/// Where etcd is.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "etcd")]
pub(super) struct Place {
    /// Its members, such as http://10.0.0.1:2379; several are separated by commas
    // Read by us: clap would show what it can't read, and in the help what the environment says, and
    // there may be a password in it.
    #[arg(long, env = "LB_ETCD_ENDPOINTS", hide_env_values = true, value_name = "URL")]
    #[arg(value_delimiter = ',')]
    endpoints: Vec<String>,
    /// What the keys begin with [default: /lb/]
    #[arg(long, env = "LB_ETCD_PREFIX", value_name = "PREFIX")]
    prefix: Option<String>,
    /// PEM file of the authorities that the members' certificates must come from
    #[arg(long, env = "LB_ETCD_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// PEM file of our certificate
    #[arg(long, env = "LB_ETCD_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// PEM file of our key
    #[arg(long, env = "LB_ETCD_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// The name that the members' certificates must have, if it is not the endpoint's host
    #[arg(long, env = "LB_ETCD_SERVER_NAME", value_name = "NAME")]
    server_name: Option<String>,
    /// Who we are
    #[arg(long, env = "LB_ETCD_USER", value_name = "NAME")]
    user: Option<String>,
    /// The file with the user's password
    #[arg(long, env = "LB_ETCD_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Take all of this from an agent's configuration: its first etcd source in the native layout
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A store in the native layout.
#[derive(Clone, Debug)]
pub(super) struct Store {
    /// How it is reached.
    pub(super) settings: Arc<Settings>,
    /// What its keys begin with; ends in `/`.
    pub(super) prefix: String,
    /// What its services may claim, if that is known.
    pub(super) vip_ranges: Option<Vec<IpNet>>,
}

/// Wrong usage: everything that is wrong, a line each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misused(pub(super) Vec<String>);

// === impl Place ===

impl Place {
    /// The store that is meant.
    pub(super) fn store(self) -> Result<Store, Misused> {
        // What the command line says goes before the environment, which may be there for others.
        match &self.config {
            Some(file) => configured(file),
            None => self.spelt_out(),
        }
    }

    fn spelt_out(self) -> Result<Store, Misused> {
        let Self {
            endpoints,
            prefix,
            cacert,
            cert,
            key,
            server_name,
            user,
            password_file,
            config: _,
        } = self;
        let mut wrong = Vec::new();
        let (endpoints, bad) = read_endpoints(&endpoints);
        if !bad.is_empty() {
            wrong.extend(bad.into_iter().map(|reason| format!("--endpoints: {reason}")));
        } else if endpoints.is_empty() {
            wrong.push(
                "where is etcd? name it with --endpoints http://HOST:2379 or LB_ETCD_ENDPOINTS, or \
                 name an agent's configuration with -c FILE"
                    .to_owned(),
            );
        }
        let trust = cacert.is_some() || cert.is_some() || key.is_some() || server_name.is_some();
        if let Some(plain) = endpoints.iter().find(|endpoint| trust && !endpoint.tls) {
            wrong.push(format!(
                "--cacert, --cert, --key and --server-name are for https endpoints, and {plain} is \
                 not one; write https:// there"
            ));
        }
        if cert.is_some() != key.is_some() {
            wrong.push("--cert and --key need each other; name both files".to_owned());
        }
        let user = match (user, password_file) {
            (Some(name), _) if name.contains(':') => {
                let reason = "--user takes a name alone: anybody can read a command line; put the \
                              password into a file and name it with --password-file";
                wrong.push(reason.to_owned());
                None
            }
            (Some(name), Some(password_file)) => Some(User { name, password_file }),
            (None, None) => None,
            (Some(_), None) => {
                let reason = "--user needs --password-file, the file with the password";
                wrong.push(reason.to_owned());
                None
            }
            (None, Some(_)) => {
                wrong.push("--password-file needs --user, whose password it is".to_owned());
                None
            }
        };
        let mut prefix = prefix.unwrap_or_else(|| PREFIX.to_owned());
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        if !wrong.is_empty() {
            return Err(Misused(wrong));
        }
        let tls = Tls { ca: cacert, cert, key, server_name };
        Ok(Store {
            settings: Arc::new(Settings { endpoints, tls, user }),
            prefix,
            vip_ranges: None,
        })
    }
}

/// The endpoints, and what is wrong with those that are none.
fn read_endpoints(texts: &[String]) -> (Vec<Endpoint>, Vec<String>) {
    let secret = texts.iter().any(|text| text.contains('@'));
    let (mut endpoints, mut wrong) = (Vec::new(), Vec::new());
    for text in texts {
        match text.parse() {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(reason) => wrong.push(reason),
        }
    }
    // A comma may be a part of a password, and then so is what stands before it.
    if secret {
        let reason = "an endpoint has no name and password; use --user and --password-file";
        wrong = vec![reason.to_owned()];
    }
    (endpoints, wrong)
}

/// The first etcd source in the native layout of an agent's configuration.
fn configured(file: &Path) -> Result<Store, Misused> {
    let misused = |reason| Misused(vec![format!("{}: {reason}", file.display())]);
    let text = std::fs::read_to_string(file)
        .map_err(|error| misused(format!("{error}; name a readable file")))?;
    let Config { sources, .. } = config::parse(file, &text).map_err(|problems| {
        Misused(problems.into_iter().map(|p| format!("{}: {}", p.origin, p.reason)).collect())
    })?;
    let native = sources.into_iter().find_map(|source| match source {
        Source::Etcd(etcd) if etcd.layout == LayoutKind::Native => Some(etcd),
        _ => None,
    });
    let found = native.ok_or_else(|| {
        misused("it has no etcd source in the native layout; name etcd with --endpoints".to_owned())
    })?;
    Ok(Store {
        settings: Arc::clone(&found.settings),
        prefix: found.prefix.clone(),
        vip_ranges: Some(found.vip_ranges.clone()),
    })
}

// === impl Store ===

impl Store {
    /// A connection of its own.
    pub(super) fn client(&self) -> Client {
        Client::new(Arc::clone(&self.settings))
    }

    /// The key of a service.
    pub(super) fn service(&self, name: &ServiceName) -> String {
        format!("{}{name}", self.services())
    }

    /// What the keys of all services begin with.
    pub(super) fn services(&self) -> String {
        format!("{}services/", self.prefix)
    }

    /// The key of a backend.
    pub(super) fn backend(&self, service: &ServiceName, id: &str) -> String {
        format!("{}{id}", self.backends_of(service))
    }

    /// What the keys of a service's backends begin with. Those of a service whose name goes on after
    /// a `/` begin so as well: the id is the last segment, and has none.
    pub(super) fn backends_of(&self, service: &ServiceName) -> String {
        format!("{}{service}/", self.backends())
    }

    /// What the keys of all backends begin with.
    pub(super) fn backends(&self) -> String {
        format!("{}backends/", self.prefix)
    }

    /// What the keys of all allocated addresses begin with.
    pub(super) fn allocations(&self) -> String {
        format!("{}allocations/", self.prefix)
    }
}

// === impl Misused ===

impl Misused {
    /// One thing that is wrong.
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self(vec![reason.into()])
    }

    /// Says all of it, and with which exit code.
    pub(super) fn tell(self) -> ExitCode {
        self.0.iter().for_each(|reason| say(reason));
        BAD_USAGE.into()
    }
}

/// The id of a backend: a segment of a key.
pub(super) fn parse_id(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_graphic() && c != '/';
    if (1..=ServiceName::MAX_LEN).contains(&text.len()) && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is no id: it is the last part of a key, so use 1 to {} printable ASCII \
         characters other than `/`",
        ServiceName::MAX_LEN
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        place: Place,
    }

    fn store(arguments: &str) -> Result<Store, Misused> {
        let words = ["x"].into_iter().chain(arguments.split_whitespace());
        Line::try_parse_from(words).unwrap().place.store()
    }

    #[test]
    fn a_store_is_spelt_out() {
        let found =
            store("--endpoints a:1,https://b --prefix /x").unwrap_or_else(|e| panic!("{e:?}"));
        let shown: Vec<_> = found.settings.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://a:1", "https://b:2379"]);
        let name: ServiceName = "team/web".parse().unwrap();
        assert_eq!(found.service(&name), "/x/services/team/web");
        assert_eq!(found.backend(&name, "a:1"), "/x/backends/team/web/a:1");
        assert_eq!(found.allocations(), "/x/allocations/");

        let line = "--endpoints https://a --cacert ca --cert c --key k --server-name n --user u \
                    --password-file p";
        let found = store(line).unwrap();
        assert_eq!(found.prefix, "/lb/");
        let Settings { tls, user, .. } = &*found.settings;
        let Tls { ca, cert, key, server_name } = tls;
        assert_eq!([ca, cert, key], [&Some("ca".into()), &Some("c".into()), &Some("k".into())]);
        assert_eq!(server_name.as_deref(), Some("n"));
        assert_eq!(*user, Some(User { name: "u".into(), password_file: "p".into() }));
    }

    #[test]
    fn what_is_wrong_with_it_is_said_with_the_remedy() {
        for (line, parts) in [
            ("", &["where is etcd? name it with --endpoints"] as &[_]),
            ("--endpoints a --cacert ca", &["are for https endpoints, and http://a:2379 is not"]),
            ("--endpoints https://a --cert c", &["need each other"]),
            ("--endpoints http://u:secret@a", &["use --user and --password-file"]),
            ("--endpoints http://u:secret,x$secret@a:1", &["use --user and --password-file"]),
            ("--endpoints ftp://a,b:0", &["`ftp` is no scheme", "`b:0` is not an endpoint"]),
            ("--endpoints a --user u", &["needs --password-file"]),
            ("--endpoints a --user u:secret --password-file f", &["a name alone"]),
            ("--password-file f", &["where is etcd?", "needs --user"]),
        ] {
            let Misused(reasons) = store(line).unwrap_err();
            assert_eq!(reasons.len(), parts.len(), "{line}: {reasons:?}");
            for (reason, part) in reasons.iter().zip(parts) {
                assert!(reason.contains(part), "{line}: {reason}");
                assert!(!reason.contains("secret"), "{reason}");
            }
        }
    }

    #[test]
    fn an_agents_configuration_names_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lb.yaml");
        let config = |text: &str| {
            std::fs::write(&file, text).unwrap();
            // What the environment says is for others.
            store(&format!("--endpoints elsewhere -c {}", file.display()))
        };
        let found = config(
            "sources:\n- etcd: {endpoints: [a], layout: grpc, prefix: /g/}\n\
             - etcd: {endpoints: [b], prefix: /x/}\n  vip_ranges: [10.0.0.0/8]\n",
        );
        let found = found.unwrap();
        assert_eq!(found.settings.endpoints[0].host, "b");
        assert_eq!(found.prefix, "/x/");
        for (text, part) in [
            ("services: []", "it has no etcd source in the native layout"),
            ("sources: [{etcd: {}}]", "`endpoints` is missing"),
        ] {
            let Misused(reasons) = config(text).unwrap_err();
            assert!(reasons[0].contains(part), "{reasons:?}");
            assert!(reasons[0].contains("lb.yaml"), "{reasons:?}");
        }
    }

    #[test]
    fn ids_are_segments_of_keys() {
        for id in ["a", "10.0.0.5:8080", "[fd00::1]:80", "web_1~x"] {
            assert_eq!(parse_id(id), Ok(id.to_owned()));
        }
        for id in ["", "a/b", "a b", "größe", "\n", &"x".repeat(254)] {
            assert!(parse_id(id).unwrap_err().contains("last part of a key"), "{id}");
        }
    }
}
