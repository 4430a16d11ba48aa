//! What happened between two looks, in words. Pure.

use super::{Look, Seen};
use crate::health::effective::Why;
use crate::pairs::side_by_side;
use crate::shown::clean;
use crate::status::{BackendStatus, ServiceStatus, SourceStatus};
use crate::summary::Level;
use serde::Serialize;
use std::collections::BTreeMap;

/// News told of one look; there may be thousands when a source comes or goes.
const TOLD: usize = 40;
/// Bytes of a text.
const LONGEST: usize = 200;

/// Something that happened.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct News {
    pub(super) tone: Tone,
    /// The service it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<String>,
    pub(super) text: String,
}

/// Whether it is for the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tone {
    Good,
    Bad,
    Note,
}

/// The news of `now` for somebody who has seen `before`; `services` is what `now` was taken from.
pub(super) fn tell(before: &Look, now: &Look, services: &[ServiceStatus]) -> Vec<News> {
    let mut news = Vec::new();
    agent(before, now, &mut news);
    // Sought only where something is different.
    let mut status: BTreeMap<&str, &ServiceStatus> = BTreeMap::new();
    for pair in side_by_side(&before.services, &now.services) {
        match pair {
            (None, Some((name, now))) => {
                let text =
                    format!("added, {} of {} backends serve", now.row.usable, now.row.backends);
                news.push(of(name, Tone::Note, text));
            }
            (Some((name, _)), None) => news.push(of(name, Tone::Note, "removed".to_owned())),
            (Some((_, before)), Some((name, now))) => {
                if before.backends != now.backends {
                    if status.is_empty() {
                        status = services.iter().map(|s| (s.name.as_str(), s)).collect();
                    }
                    let status = status.get(name.as_str()).copied();
                    backends(name, before, now, status, &mut news);
                }
                level(name, before, now, &mut news);
            }
            (None, None) => {}
        }
    }
    let more = news.len().saturating_sub(TOLD);
    if more > 0 {
        news.truncate(TOLD);
        news.push(News {
            tone: Tone::Note,
            service: None,
            text: format!("and {more} more changes"),
        });
    }
    news
}

fn agent(before: &Look, now: &Look, news: &mut Vec<News>) {
    let mut say = |tone, text| news.push(News { tone, service: None, text });
    match (before.ready, now.ready) {
        (false, true) => say(Tone::Good, "the agent is ready".to_owned()),
        (true, false) => say(Tone::Bad, "the agent is not ready any more".to_owned()),
        _ => {}
    }
    match now.rejected.cmp(&before.rejected) {
        std::cmp::Ordering::Greater => {
            say(
                Tone::Bad,
                format!("{} items are rejected, {} before", now.rejected, before.rejected),
            );
        }
        std::cmp::Ordering::Less => {
            say(
                Tone::Good,
                format!("{} items are rejected, {} before", now.rejected, before.rejected),
            );
        }
        std::cmp::Ordering::Equal => {}
    }
    for SourceStatus { name, error, held, .. } in &now.sources {
        let Some(before) = before.sources.iter().find(|before| before.name == *name) else {
            continue;
        };
        let name = clean(name, LONGEST);
        match (&before.error, error) {
            (None, Some(error)) => say(Tone::Bad, format!("{name}: {}", clean(error, LONGEST))),
            (Some(_), None) => say(Tone::Good, format!("{name} is well again")),
            _ => {}
        }
        match (before.held.len(), held.len()) {
            (0, 1..) => say(Tone::Note, format!("{name}: {} removals are held", held.len())),
            (1.., 0) => say(Tone::Note, format!("{name}: no removal is held any more")),
            _ => {}
        }
    }
}

fn level(name: &str, before: &Seen, now: &Seen, news: &mut Vec<News>) {
    let row = &now.row;
    let because = if row.why.is_empty() { String::new() } else { format!(": {}", row.why) };
    match (before.row.level, row.level) {
        (before, now) if before == now => {}
        (_, Level::Down) => news.push(of(name, Tone::Bad, format!("is down{because}"))),
        (_, Level::FailOpen) => news.push(of(name, Tone::Bad, row.why.clone())),
        (Level::Down | Level::FailOpen, _) => {
            let text = format!("is served by {} of {} backends again", row.usable, row.backends);
            news.push(of(name, Tone::Good, text));
        }
        // Its backends have been told of.
        _ => {}
    }
}

fn backends(
    name: &str,
    before: &Seen,
    now: &Seen,
    status: Option<&ServiceStatus>,
    news: &mut Vec<News>,
) {
    let sides = |seen: &Seen| seen.backends.clone();
    let (was, is) = (sides(before), sides(now));
    let pairs = side_by_side(was.iter().map(|(a, m)| (a, m)), is.iter().map(|(a, m)| (a, m)));
    for pair in pairs {
        match pair {
            (None, Some((address, why))) => {
                let tone = if tone(*why) == Tone::Bad { Tone::Bad } else { Tone::Note };
                news.push(of(name, tone, format!("{address} added, {}", why.word())));
            }
            (Some((address, _)), None) => {
                news.push(of(name, Tone::Note, format!("{address} removed")));
            }
            (Some((_, was)), Some((address, is))) if was != is => {
                let backend =
                    status.and_then(|s| s.backends.iter().find(|b| b.address == *address));
                let because = backend.and_then(|backend| reason(backend, *is)).unwrap_or_default();
                let text = format!("{address} {}{because}", is.word());
                news.push(of(name, tone(*is), text));
            }
            _ => {}
        }
    }
}

fn tone(why: Why) -> Tone {
    match why {
        Why::Serving => Tone::Good,
        Why::Failing | Why::Ejected | Why::FailOpen => Tone::Bad,
        Why::Draining | Why::Disabled | Why::Standby | Why::OtherZone => Tone::Note,
    }
}

/// What the check said that decided.
fn reason(backend: &BackendStatus, why: Why) -> Option<String> {
    let check = backend.health.as_ref()?.check.as_ref()?;
    let said = check.text.as_ref().filter(|_| why == Why::Failing)?;
    Some(format!(": {} {}", clean(&check.check, LONGEST), clean(said, LONGEST)))
}

fn of(service: &str, tone: Tone, text: String) -> News {
    News { tone, service: Some(clean(service, LONGEST)), text }
}
