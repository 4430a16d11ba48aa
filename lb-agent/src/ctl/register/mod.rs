//! `register`: keeps a backend's key in etcd for as long as a command, or this process, runs.
//!
//! This file decides the command line. What happens when is [`session`]'s; whether the key is ours
//! to take is [`claim`]'s; the command is [`child`]'s and the checks are [`check`]'s. Keeping the key
//! alive on its lease is left to [`crate::etcd::Keeper`].

mod check;
mod child;
mod claim;
mod keeping;
mod record;
mod session;
mod signals;
mod told;

use self::check::{Check, Checks};
pub(super) use self::record::Traces;

use self::record::Record;
use self::session::Session;
use super::store::{Misused, Place, parse_id};
use crate::model::{ServiceName, parse_socket_addr};
use clap::Args;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Shortest lease that stores give, and longest that makes sense.
const TTL: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(24 * 3600)];

/// What to register, and for how long.
#[derive(Debug, Args)]
pub(super) struct Register {
    /// The service it is a backend of
    #[arg(long, value_name = "NAME")]
    service: ServiceName,
    /// Where the backend listens, as the clients' hosts reach it
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    address: SocketAddr,
    /// Its name among the service's backends [default: the address]
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: Option<String>,
    /// Its share of new connections relative to the others
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    weight: u16,
    /// The zone it runs in
    #[arg(long, value_name = "ZONE")]
    zone: Option<Arc<str>>,
    /// How long the registration outlives a registrar that dies without a word
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_ttl)]
    ttl: Duration,
    /// Register only while this passes: tcp, http://HOST:PORT/PATH or exec:COMMAND; may be repeated
    #[arg(long = "check", value_name = "CHECK")]
    checks: Vec<Check>,
    /// From one check to the next
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = parse_span)]
    check_interval: Duration,
    /// How long a check may take
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_span)]
    check_timeout: Duration,
    /// How long to stay registered as draining when asked to stop, before the key is removed
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = humantime::parse_duration)]
    drain_wait: Duration,
    #[command(flatten)]
    place: Place,
    /// Run this, and stay registered for as long as it runs
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

// === impl Register ===

impl Register {
    /// All of it.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Self {
            service,
            address,
            id,
            weight,
            zone,
            ttl,
            checks,
            check_interval,
            check_timeout,
            drain_wait,
            place,
            command,
        } = self;
        let store = match place.store() {
            Ok(store) => store,
            Err(misused) => return Ok(misused.tell()),
        };
        if zone.as_deref().is_some_and(str::is_empty) {
            return Ok(Misused::because("--zone is empty; name one or leave it out").tell());
        }
        let checks =
            Checks { list: checks, address, interval: check_interval, timeout: check_timeout };
        let session = Session {
            key: store.backend(&service, &id.unwrap_or_else(|| address.to_string())),
            record: Record::new(address, weight, zone),
            ttl,
            drain_wait,
            settings: store.settings,
        };
        session.run(&command, checks).await
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let address = parse_socket_addr(text).map_err(|error| error.to_string())?;
    if address.ip().is_unspecified() {
        return Err(format!(
            "`{text}` is no address that others reach; write one of this host's, such as \
             10.0.0.5:{}",
            address.port()
        ));
    }
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let [shortest, longest] = TTL;
    humantime::parse_duration(text)
        .ok()
        .filter(|ttl| (shortest..=longest).contains(ttl) && ttl.subsec_nanos() == 0)
        .ok_or_else(|| format!("`{text}` is not a time from 2s to 24h in whole seconds; write 10s"))
}

fn parse_span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let sensible = Duration::from_millis(10)..=Duration::from_secs(3600);
    if sensible.contains(&span) {
        return Ok(span);
    }
    Err(format!("`{text}` is not a time from 10ms to 1h; write 2s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_such_that_others_reach() {
        for (text, read) in [
            ("10.0.0.5:8080", "10.0.0.5:8080"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[::ffff:10.0.0.5]:80", "10.0.0.5:80"),
        ] {
            assert_eq!(parse_address(text).map(|a| a.to_string()), Ok(read.to_owned()));
        }
        for (text, part) in [
            ("10.0.0.5", "port"),
            ("10.0.0.5:0", "port 0"),
            ("0.0.0.0:80", "no address that others reach; write one of this host's"),
            ("[::]:80", "no address that others reach"),
            ("web:80", "web:80"),
        ] {
            let error = parse_address(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_sensible() {
        assert_eq!(parse_ttl("1m"), Ok(Duration::from_secs(60)));
        for text in ["1s", "2500ms", "25h", "x", ""] {
            assert!(parse_ttl(text).unwrap_err().contains("2s to 24h"), "{text}");
        }
        assert_eq!(parse_span("500ms"), Ok(Duration::from_millis(500)));
        for text in ["0s", "2h"] {
            assert!(parse_span(text).unwrap_err().contains("10ms to 1h"), "{text}");
        }
    }
}
