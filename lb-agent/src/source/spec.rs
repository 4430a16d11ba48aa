//! From the text of a services document to the model: which services are good, and for every other
//! item the line, what is wrong, and what to do.
//!
//! Pure. Reading the file, keeping its last good snapshot and logging are left to the source. JSON
//! is YAML, so a source that is given JSON values can use the same reader.

mod backends;
mod health;
pub(crate) mod service;
pub(crate) mod value;
mod vip;

pub(crate) use self::backends::parse_zone;
use self::service::{Draft, draft, name_of};
use crate::claims::Claims;
use crate::keys::FILE_OF_SERVICES;
use crate::model::{Exposure, Frontend, Rejection, Service, ServiceName, Snapshot};
use crate::yaml::{Document, Place, Reader};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A document in terms of the model.
#[derive(Debug, Default)]
pub struct Translation {
    /// The services that are good.
    pub snapshot: Snapshot,
    /// Everything that was wrong, in the order of the document.
    pub rejections: Vec<Rejection>,
    /// Services that the document names but that were refused.
    pub refused: BTreeSet<ServiceName>,
}

/// What the services before this one have taken, and on which line.
#[derive(Default)]
struct Taken {
    names: HashMap<ServiceName, usize>,
    frontends: HashMap<Frontend, usize>,
}

/// Translates a file that has `services:` at its top level; in the main configuration file (`main`)
/// the other keys are settings, which [`crate::config`] reads.
///
/// # Errors
///
/// If the text is no YAML or has no list `services`, with line and column where there is a place. A service that
/// can't be used is no error but one of the `rejections`.
pub fn translate(
    origin: &str,
    text: &str,
    claims: &Claims,
    main: bool,
) -> Result<Translation, Rejection> {
    Document::parse(origin, text).and_then(|doc| from_document(origin, &doc, claims, main))
}

/// [`translate`] for a document that is already parsed.
pub(crate) fn from_document(
    origin: &str,
    document: &Document,
    claims: &Claims,
    main: bool,
) -> Result<Translation, Rejection> {
    let mut reader = Reader::new(origin);
    if !main {
        reader.fields(document.item(), "a mapping with `services:`", &FILE_OF_SERVICES);
    }
    let refuse = |place: Place, reason: &str| {
        let reason = format!("{reason}; write `services: []` to serve none");
        Err(Rejection { origin: place.within(origin), service: None, reason })
    };
    // A file that lost its end must not empty the tables, so nothing is never taken for none.
    let items = match document.list("services") {
        None => return refuse(Place::default(), "there is no `services:` in this file"),
        Some(Err(place)) => return refuse(place, "`services:` must be a list of services"),
        Some(Ok(items)) => items,
    };
    let mut translation = Translation::default();
    let mut taken = Taken::default();
    for item in items {
        reader.service = None;
        let before = reader.count();
        let draft = draft(&mut reader, item, claims, None);
        let name = draft.as_ref().map(|draft| draft.name.clone()).or_else(|| name_of(item));
        let service = draft
            .filter(|_| reader.count() == before)
            .and_then(|draft| settle(&mut reader, draft, &mut taken));
        match (name, service) {
            (Some(name), Some(service)) => {
                translation.snapshot.services.insert(name, Arc::new(service));
            }
            (Some(name), None) => {
                translation.refused.insert(name);
            }
            (None, _) => {}
        }
    }
    translation.refused.retain(|name| !translation.snapshot.services.contains_key(name));
    translation.rejections = reader.rejections;
    Ok(translation)
}

/// Puts back the last good version of services that were refused, as far as nothing else in the
/// new snapshot has taken their frontends: a typing error must not end a service that is serving.
pub fn keep_last_good(translation: &mut Translation, last: &Snapshot, claims: &Claims) {
    let Translation { snapshot, rejections, refused } = translation;
    if !refused.iter().any(|name| last.services.contains_key(name)) {
        return;
    }
    let mut taken: BTreeSet<Frontend> =
        snapshot.services.values().flat_map(|s| s.frontends.keys().copied()).collect();
    let mut kept = BTreeSet::new();
    for name in refused.iter() {
        let Some(service) = last.services.get(name) else {
            continue;
        };
        let allowed = |f: &Frontend| !taken.contains(f) && claims.check(f).is_ok();
        let Some(service) = restrict(service, allowed) else {
            continue;
        };
        taken.extend(service.frontends.keys().copied());
        snapshot.services.insert(name.clone(), service);
        kept.insert(name.as_str());
    }
    for rejection in rejections.iter_mut() {
        if rejection.service.as_deref().is_some_and(|name| kept.contains(name)) {
            rejection.reason.push_str(" (the last good version of this service keeps serving)");
        }
    }
}

/// Puts the last version of every service that did not change in the place of the new one, so that
/// it is kept once, and found unchanged at a glance.
pub fn share_unchanged(snapshot: &mut Snapshot, last: &Snapshot) {
    for (name, service) in &mut snapshot.services {
        if let Some(last) = last.services.get(name).filter(|last| *last == service) {
            *service = Arc::clone(last);
        }
    }
}

/// What of a cached snapshot the source may still claim: the ranges may have changed since.
pub fn allowed(cached: &Snapshot, claims: &Claims) -> Snapshot {
    let keep = |(name, service): (&ServiceName, &Arc<Service>)| {
        Some((name.clone(), restrict(service, |f| claims.check(f).is_ok())?))
    };
    Snapshot {
        services: cached.services.iter().filter_map(keep).collect(),
        pools: cached.pools.clone(),
        overrides: cached.overrides.clone(),
    }
}

/// The service with only the frontends that pass; `None` if it had some and none is left.
fn restrict(service: &Arc<Service>, pass: impl Fn(&Frontend) -> bool) -> Option<Arc<Service>> {
    if service.frontends.keys().all(&pass) {
        return Some(Arc::clone(service));
    }
    let mut rest = Service::clone(service);
    rest.frontends.retain(|frontend, _| pass(frontend));
    (!rest.frontends.is_empty()).then(|| Arc::new(rest))
}

/// Compares a draft with the services before it. `None` if nothing is left to serve.
fn settle(reader: &mut Reader<'_>, draft: Draft, taken: &mut Taken) -> Option<Service> {
    let Draft { name, place, frontends, doubles, mut service, way, .. } = draft;
    if let Some(line) = taken.names.get(&name) {
        reader.reject(
            place,
            format!("service `{name}` stands twice, first on line {line}; rename or remove one"),
        );
        return None;
    }
    let mut kept = Vec::with_capacity(frontends.len());
    for (frontend, scope, place) in frontends {
        if let Some(line) = taken.frontends.get(&frontend) {
            reader.reject(
                place,
                format!("frontend {frontend} stands twice, first on line {line}; remove one"),
            );
            continue;
        }
        taken.frontends.insert(frontend, place.line);
        service.frontends.insert(frontend, Exposure { way, ..scope.into() });
        kept.push((frontend, place));
    }
    if service.frontends.is_empty() {
        return None;
    }
    taken.names.insert(name, place.line);
    for (place, reason) in doubles {
        reader.reject(place, reason);
    }
    let has = |v4: bool| service.backends.keys().any(|address| address.is_ipv4() == v4);
    let (v4, v6) = (has(true), has(false));
    for (frontend, place) in kept {
        let (own, family) = if frontend.address.is_ipv4() { (v4, "IPv4") } else { (v6, "IPv6") };
        if !own && !service.backends.is_empty() && service.backends_from.is_empty() {
            reader.reject(
                place,
                format!(
                    "frontend {frontend} has no {family} backend, so its callers find none; \
                     add one or remove the frontend"
                ),
            );
        }
    }
    Some(service)
}

#[cfg(test)]
mod tests;
