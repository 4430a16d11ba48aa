//! `deregister`: removes registrations from etcd. One that a registrar keeps alive comes back, which
//! is said.

use super::register::Traces;
use super::store::{Misused, Place, parse_id};
use super::{Reader, say, show};
use crate::etcd::{Condition, KeyValue, Operation};
use crate::model::{ServiceName, parse_socket_addr};
use clap::Args;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Whose registration to remove.
#[derive(Debug, Args)]
pub(super) struct Deregister {
    /// The service it is a backend of
    #[arg(long, value_name = "NAME")]
    service: ServiceName,
    /// Its name among the service's backends
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: Option<String>,
    /// Where it listens; all that are registered with this address are removed
    #[arg(long, value_name = "ADDRESS", value_parser = parse_socket_addr, conflicts_with = "id")]
    address: Option<SocketAddr>,
    #[command(flatten)]
    place: Place,
}

// === impl Deregister ===

impl Deregister {
    /// All of it.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { service, id, address, place } = self;
        let store = match place.store() {
            Ok(store) => store,
            Err(misused) => return Ok(misused.tell()),
        };
        let mut client = store.client();
        let prefix = store.backends_of(&service);
        let listing = client.list(&prefix).await?;
        let id_of = |key: &KeyValue| key.key.strip_prefix(&prefix).map(str::to_owned);
        let mut all: Vec<(String, KeyValue)> = listing
            .keys
            .into_iter()
            .filter_map(|key| Some((id_of(&key)?, key)))
            .filter(|(id, _)| !id.contains('/'))
            .collect();
        let ids = all.iter().map(|(id, _)| format!("`{id}`")).collect::<Vec<_>>().join(", ");
        match (&id, address) {
            (Some(wanted), _) => all.retain(|(id, _)| id == wanted),
            (None, Some(wanted)) => {
                all.retain(|(_, key)| Traces::of(&key.value).address() == Some(wanted));
            }
            (None, None) if all.len() > 1 => {
                let reason = format!("`{service}` has several backends, name one with --id: {ids}");
                return Ok(Misused::because(reason).tell());
            }
            (None, None) => {}
        }
        if all.is_empty() {
            let there =
                if ids.is_empty() { "it has none".to_owned() } else { format!("it has {ids}") };
            anyhow::bail!("no such backend of `{service}` is registered ({there})");
        }
        for (id, found) in all {
            let KeyValue { key, modified, lease, ref value, .. } = found;
            // What was written since may be another's.
            let unchanged = Condition::Unchanged { key: key.clone(), modified };
            let deleted = client.transact(&[unchanged], &[Operation::Delete(key.clone())]).await?;
            // An answer may have been lost, and the same been asked for again.
            anyhow::ensure!(
                deleted || client.get(&key).await?.is_none(),
                "{key} was changed at the same moment; look and try again"
            );
            if show(&format!("{service}/{id} deregistered\n"))? == Reader::Gone {
                break;
            }
            if let (Some(_), Some(by)) = (lease, Traces::of(value).registered_by) {
                say(&format!(
                    "{key} was registered by {by}: if that still runs, it registers again; stop it \
                     to keep it out"
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
