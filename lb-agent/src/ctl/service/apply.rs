//! `service apply`: reads services from files and writes them to the store, all or none. Decides
//! what is wrong with them before anything is written: by the very translation that agents do.

use super::super::store::{Misused, Store};
use super::super::{Reader, show};
use super::BATCH;
use crate::claims::Claims;
use crate::etcd::{Condition, KeyValue, Operation};
use crate::model::{Rejection, ServiceName};
use crate::source::etcd::layout::{LayoutKind, Translator};
use crate::yaml::{Document, Item, Place};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How often it is tried again because somebody wrote at the same moment.
const TRIES: usize = 5;

/// A service as a file has it.
#[derive(Clone, Debug, PartialEq)]
struct Proposal {
    name: ServiceName,
    /// Where it stands: `web.yaml:3:5`.
    origin: String,
    /// What its key is to hold.
    spec: Value,
}

/// What is to become of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Created,
    Configured,
    Unchanged,
}

/// Writes the services of these files.
pub(super) async fn apply(
    store: &Store,
    files: &[PathBuf],
    dry_run: bool,
) -> anyhow::Result<ExitCode> {
    let mut wrong = Vec::new();
    let mut proposals = Vec::new();
    for file in files {
        match read(file) {
            Ok((origin, text)) => parse(&origin, &text, &mut proposals, &mut wrong),
            Err(problem) => wrong.push(problem),
        }
    }
    wrong.extend(doubles(&proposals));
    wrong.extend(judge(store, &proposals));
    if !wrong.is_empty() {
        wrong.push("nothing was written".to_owned());
        return Ok(Misused(wrong).tell());
    }
    let mut client = store.client();
    let mut tried: Vec<Fate> = Vec::new();
    for tries in 1.. {
        let there = client.list(&store.services()).await?;
        let there: BTreeMap<&str, &KeyValue> =
            there.keys.iter().map(|key| (key.key.as_str(), key)).collect();
        let fates: Vec<_> = proposals.iter().map(|p| fate(store, p, &there)).collect();
        if !dry_run && !write(store, &mut client, &proposals, &fates, &there).await? {
            anyhow::ensure!(
                tries < TRIES,
                "others write the same services all the time; try again"
            );
            tried = told(&fates, &tried);
            continue;
        }
        let note = if dry_run { " (dry run)" } else { "" };
        let line = |(proposal, fate): (&Proposal, &Fate)| {
            format!("{} {}{note}\n", proposal.name, fate.word())
        };
        let fates = told(&fates, &tried);
        let lines: String = proposals.iter().zip(&fates).map(line).collect();
        let (Reader::Listening | Reader::Gone) = show(&lines)?;
        break;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes what is new, all of it at once as far as a transaction goes; false if somebody else has
/// written since the look.
async fn write(
    store: &Store,
    client: &mut crate::etcd::Client,
    proposals: &[Proposal],
    fates: &[Fate],
    there: &BTreeMap<&str, &KeyValue>,
) -> anyhow::Result<bool> {
    let mut steps = Vec::new();
    for (proposal, fate) in proposals.iter().zip(fates) {
        if *fate == Fate::Unchanged {
            continue;
        }
        let key = store.service(&proposal.name);
        let condition = match there.get(key.as_str()) {
            None => Condition::Absent(key.clone()),
            Some(found) => Condition::Unchanged { key: key.clone(), modified: found.modified },
        };
        let value = serde_json::to_vec(&proposal.spec)?;
        steps.push((condition, Operation::Put { key, value, lease: None }));
    }
    for batch in steps.chunks(BATCH) {
        let (when, then): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
        if !client.transact(&when, &then).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is said of each, after tries that were said to have come to nothing: one may have been done,
/// in part or its answer lost, and what it was to write is there.
fn told(now: &[Fate], tried: &[Fate]) -> Vec<Fate> {
    let before = tried.iter().copied().chain(std::iter::repeat(Fate::Unchanged));
    let one = |(now, before): (&Fate, Fate)| if *now == Fate::Unchanged { before } else { *now };
    now.iter().zip(before).map(one).collect()
}

fn fate(store: &Store, proposal: &Proposal, there: &BTreeMap<&str, &KeyValue>) -> Fate {
    let Some(found) = there.get(store.service(&proposal.name).as_str()) else {
        return Fate::Created;
    };
    match serde_json::from_slice::<Value>(&found.value) {
        Ok(value) if value == proposal.spec => Fate::Unchanged,
        _ => Fate::Configured,
    }
}

fn read(file: &Path) -> Result<(String, String), String> {
    let mut text = String::new();
    let (origin, read) = if file == Path::new("-") {
        ("standard input".to_owned(), std::io::stdin().read_to_string(&mut text))
    } else {
        let opened = std::fs::File::open(file);
        (file.display().to_string(), opened.and_then(|mut file| file.read_to_string(&mut text)))
    };
    match read {
        Ok(_) => Ok((origin, text)),
        Err(error) => Err(format!("{origin}: {error}; name a readable file of UTF-8 text")),
    }
}

/// The services of a document: those under `services:`, or the only one that it is. What is wrong
/// with one keeps nobody from looking at the others.
fn parse(origin: &str, text: &str, proposals: &mut Vec<Proposal>, wrong: &mut Vec<String>) {
    let document = match Document::parse(origin, text) {
        Ok(document) => document,
        Err(rejection) => return wrong.push(one_line(&rejection)),
    };
    let whole = document.item();
    let items: Vec<Item<'_>> = match document.list("services") {
        Some(Ok(items)) => items.collect(),
        Some(Err(place)) => {
            let reason = "`services:` must be a list of services";
            return wrong.push(format!("{}: {reason}", place.within(origin)));
        }
        None => vec![whole],
    };
    if whole.get("services").is_some()
        && let Value::Object(fields) = whole.json()
    {
        let others = fields.keys().filter(|key| *key != "services");
        wrong.extend(others.map(|key| {
            let place = whole.get(key).map(|item| item.place).unwrap_or_default();
            format!("{}: `{key}` is no service; leave only `services:`", place.within(origin))
        }));
    }
    for item in items {
        match propose(origin, item) {
            Ok(proposal) => proposals.push(proposal),
            Err(problem) => wrong.push(problem),
        }
    }
}

fn propose(origin: &str, item: Item<'_>) -> Result<Proposal, String> {
    let at = |place: Place, reason: String| format!("{}: {reason}", place.within(origin));
    let Value::Object(mut fields) = item.json() else {
        return Err(at(item.place, "expected a service (a mapping with `name:`)".to_owned()));
    };
    // The key says it.
    fields.remove("name");
    let Some(name) = item.get("name") else {
        return Err(at(item.place, "a service needs a `name`".to_owned()));
    };
    let text = name.text().unwrap_or_default();
    let parsed: Result<ServiceName, _> = text.parse();
    let name = parsed.map_err(|error| at(name.place, error.to_string()))?;
    Ok(Proposal { name, origin: item.place.within(origin), spec: Value::Object(fields) })
}

fn doubles(proposals: &[Proposal]) -> Vec<String> {
    let mut seen: BTreeMap<&ServiceName, &str> = BTreeMap::new();
    let mut wrong = Vec::new();
    for Proposal { name, origin, .. } in proposals {
        match seen.get(name) {
            Some(first) => wrong.push(format!(
                "{origin}: service `{name}` stands twice, first at {first}; rename or remove one"
            )),
            None => drop(seen.insert(name, origin)),
        }
    }
    wrong
}

/// What an agent that reads these services would say of them.
fn judge(store: &Store, proposals: &[Proposal]) -> Vec<String> {
    let claims = Claims { ranges: store.vip_ranges.clone(), ..Claims::default() };
    let source = "lbctl".into();
    let mut translator = Translator::new(LayoutKind::Native, source, store.prefix.clone(), claims);
    let mut origins = BTreeMap::new();
    // By its revision a rejection tells which proposal it is about.
    for (number, Proposal { name, origin, spec }) in (1..).zip(proposals) {
        let key = store.service(name);
        let value = spec.to_string().into_bytes();
        let found = KeyValue { key, value, created: number, modified: number, lease: None };
        translator.set(&found.key, Some(&found));
        origins.insert(format!("{} (revision {number})", found.key), origin);
    }
    let told = translator.rejections();
    told.iter()
        .map(|rejection| {
            let Rejection { origin, service, reason } = rejection;
            let origin = origins.get(origin).map_or(origin.as_str(), |origin| origin.as_str());
            match service {
                Some(service) => format!("{origin}: service `{service}`: {reason}"),
                None => format!("{origin}: {reason}"),
            }
        })
        .collect()
}

fn one_line(Rejection { origin, reason, .. }: &Rejection) -> String {
    format!("{origin}: {reason}")
}

// === impl Fate ===

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

#[cfg(test)]
mod tests;
