//! `service`: writes, lists and deletes the services in etcd.
//!
//! This file decides the command line and does the I/O of `ls` and `delete`; what `apply` writes is
//! [`apply`]'s, and what the keys of a listing mean is [`stored`]'s.

mod apply;
mod stored;

pub(super) use self::stored::Stored;

use super::report::Report;
use super::store::{Place, Store};
use super::{Output, Reader, render, say, show};
use crate::api::closest;
use crate::etcd::{Client, Operation};
use crate::model::ServiceName;
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

/// Operations in one transaction; the store takes 128.
const BATCH: usize = 100;

/// What to do with the services in etcd.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Write services from files, all or none
    Apply(Apply),
    /// List the services that are there
    Ls(Ls),
    /// Delete services
    #[command(override_usage = "lbctl service delete [OPTIONS] <NAME>...")]
    Delete(Delete),
}

/// What to write.
#[derive(Debug, Args)]
#[command(override_usage = "lbctl service apply [OPTIONS] -f <FILE>...")]
pub(super) struct Apply {
    /// YAML or JSON: one service, or a list under `services:`; `-` is standard input
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

/// Where to look.
#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    place: Place,
}

/// What to delete.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The services' names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<ServiceName>,
    /// Delete the keys of their backends as well
    #[arg(long)]
    backends: bool,
    #[command(flatten)]
    place: Place,
}

// === impl Verb ===

impl Verb {
    /// All of it.
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let place = match &self {
            Self::Apply(Apply { place, .. }) => place,
            Self::Ls(Ls { place }) => place,
            Self::Delete(Delete { place, .. }) => place,
        };
        let store = match place.clone().store() {
            Ok(store) => store,
            Err(misused) => return Ok(misused.tell()),
        };
        match self {
            Self::Apply(Apply { files, dry_run, place: _ }) => {
                apply::apply(&store, &files, dry_run).await
            }
            Self::Ls(_) => list(&store, output).await,
            Self::Delete(Delete { names, backends, place: _ }) => {
                delete(&store, &names, backends).await
            }
        }
    }
}

async fn list(store: &Store, output: &Output) -> anyhow::Result<ExitCode> {
    let mut client = store.client();
    let services = client.list(&store.services()).await?;
    let backends = client.list(&store.backends()).await?;
    let allocations = client.list(&store.allocations()).await?;
    let stored = stored::read(store, &services.keys, &backends.keys, &allocations.keys);
    for Stored { name, problem, .. } in &stored {
        if let Some(problem) = problem {
            say(&format!("{}{name}: {problem}", store.services()));
        }
    }
    show(&render::render(&Report::Stored(stored), output, SystemTime::now())?)?;
    Ok(ExitCode::SUCCESS)
}

async fn delete(store: &Store, names: &[ServiceName], backends: bool) -> anyhow::Result<ExitCode> {
    let mut client = store.client();
    let prefix = store.services();
    let there = client.list(&prefix).await?;
    let there: BTreeSet<&str> =
        there.keys.iter().filter_map(|found| found.key.strip_prefix(&prefix)).collect();
    let mut missing = false;
    for name in names.iter().filter(|name| !there.contains(name.as_str())) {
        let hint = match closest(name.as_str(), there.iter().copied()) {
            Some(other) => format!("; did you mean `{other}`?"),
            None => String::new(),
        };
        say(&format!("no service `{name}` in {prefix}{hint}"));
        missing = true;
    }
    if missing {
        say("nothing was deleted");
        return Ok(ExitCode::FAILURE);
    }
    // Each once, however often it is named.
    for name in names.iter().collect::<BTreeSet<_>>() {
        client.delete(&store.service(name)).await?;
        let count = if backends { delete_backends(store, &mut client, name).await? } else { 0 };
        let told = match count {
            0 => format!("{name} deleted\n"),
            1 => format!("{name} deleted, and 1 backend\n"),
            n => format!("{name} deleted, and {n} backends\n"),
        };
        if show(&told)? == Reader::Gone {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete_backends(
    store: &Store,
    client: &mut Client,
    name: &ServiceName,
) -> anyhow::Result<usize> {
    let prefix = store.backends_of(name);
    let found = client.list(&prefix).await?;
    let deletions: Vec<Operation> = found
        .keys
        .into_iter()
        .filter(|found| found.key.strip_prefix(&prefix).is_some_and(|id| !id.contains('/')))
        .map(|found| Operation::Delete(found.key))
        .collect();
    for batch in deletions.chunks(BATCH) {
        client.transact(&[], batch).await?;
    }
    Ok(deletions.len())
}
