//! Names for the services: an address nobody can look up is half a service.
//!
//! Follows what the reconcile loop publishes, and hands the names of what the kernel serves, as a
//! whole, to whoever was asked for: a block in a hosts file, a DNS responder, records for CoreDNS.
//! Names never hold up anything else: what is wrong with them is shown, and tried again.

mod coredns;
pub(crate) mod dns;
mod hosts;
pub mod records;

use self::records::Records;
use crate::config;
use crate::status::{AgentStatus, NamesKind, NamesStatus, Published, State};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch::{self, Receiver, Sender};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

/// What there is to look up at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Grows with every change, across starts too.
    pub serial: u32,
    /// Every source has delivered. Before that, what is missing may only be late.
    pub complete: bool,
    /// The names.
    pub records: Records,
}

/// The tasks that keep the names. Dropping it ends them; what they have told others stays.
#[derive(Debug)]
pub struct Names {
    settings: config::Names,
    status: Receiver<Vec<NamesStatus>>,
    follow: Option<AbortHandle>,
    hosts: Option<JoinHandle<()>>,
    tasks: JoinSet<()>,
    coredns: Option<coredns::Writer>,
}

/// Where a task says how it fares.
#[derive(Clone, Debug)]
struct Report {
    index: usize,
    all: Arc<Sender<Vec<NamesStatus>>>,
}

// === impl Names ===

impl Names {
    /// Begins to keep the names, if any are asked for. Must be called within a tokio runtime.
    /// `agent` tells this agent from others on the same host.
    pub fn spawn(
        settings: config::Names,
        published: Receiver<Arc<Published>>,
        agent: &Path,
    ) -> Self {
        let all = Arc::new(Sender::new(Vec::new()));
        let report = |kind, place: String| {
            let mut index = 0;
            all.send_modify(|all| {
                index = all.len();
                all.push(NamesStatus::new(kind, place));
            });
            Report { index, all: Arc::clone(&all) }
        };
        let mut tasks = JoinSet::new();
        let (sender, facts) = watch::channel(None);
        let config::Names { zone, hosts, dns, coredns } = settings.clone();
        let follow = (!settings.is_nothing()).then(|| {
            let told = report(NamesKind::Zone, zone.to_string());
            tasks.spawn(follow(zone, published, sender, told))
        });
        let hosts = hosts.map(|path| {
            let told = report(NamesKind::Hosts, path.display().to_string());
            tokio::spawn(hosts::keep(path, facts.clone(), told))
        });
        for server in dns.map(dns::servers).into_iter().flatten() {
            let told = report(NamesKind::Dns, server.address().to_string());
            tasks.spawn(server.serve(facts.clone(), told));
        }
        let coredns = coredns.map(|settings| {
            let told = report(NamesKind::Coredns, settings.place());
            coredns::Writer::spawn(&mut tasks, settings, agent, facts.clone(), told)
        });
        Self { settings, status: all.subscribe(), follow, hosts, tasks, coredns }
    }

    /// How the tasks fare.
    pub fn status(&self) -> Receiver<Vec<NamesStatus>> {
        self.status.clone()
    }

    /// Ends the tasks. The names stay where they are, as the services go on without the agent;
    /// with `detached` they are taken away, as the services are.
    pub async fn stop(mut self, detached: bool) {
        // Whoever writes is told by the end of the facts, so that nobody is still writing then.
        self.follow.iter().for_each(AbortHandle::abort);
        if let Some(hosts) = self.hosts
            && let Err(error) = hosts.await
        {
            tracing::error!(%error, "the keeper of the hosts file failed");
        }
        self.tasks.shutdown().await;
        if let Some(writer) = self.coredns {
            writer.stop(detached).await;
        }
        if detached && let Err(error) = remove(&self.settings) {
            tracing::error!(%error, "the names were not removed");
        }
    }
}

/// Takes names away that outlive the agent: those in a hosts file. Returns whether there were any.
/// Blocks.
///
/// # Errors
///
/// One line that says what to do: the hosts file can't be read or written, is no regular file or too long, its
/// block can't be told from the rest, or others keep writing it. The file stays whole, unless it is a mount point,
/// which is written in place.
pub fn remove(settings: &config::Names) -> Result<bool, String> {
    settings.hosts.as_deref().map_or(Ok(false), hosts::remove)
}

/// Turns what is published into names, whenever it has changed.
async fn follow(
    zone: records::Zone,
    mut published: Receiver<Arc<Published>>,
    sender: Sender<Option<Arc<Facts>>>,
    report: Report,
) {
    let mut last: Option<(Arc<State>, Arc<Facts>)> = None;
    loop {
        let now = Arc::clone(&published.borrow_and_update());
        let Published { agent: AgentStatus { hooks, ready, .. }, state } = &*now;
        let same = last.as_ref().is_some_and(|(before, facts)| {
            facts.complete == *ready && says_the_same(before, state)
        });
        // Before the programs are attached nothing is known.
        if !hooks.is_empty() && !same {
            let records = Records::new(&zone, state.services.iter().map(|service| &**service));
            report.update(|status| {
                status.records = records.len();
                status.problems = records.problems().to_vec();
            });
            let serial = last.as_ref().map_or_else(now_serial, |(_, facts)| after(facts.serial));
            let facts = Arc::new(Facts { serial, complete: *ready, records });
            last = Some((Arc::clone(state), Arc::clone(&facts)));
            sender.send_replace(Some(facts));
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// Whether two states have the same names: backends come and go without names noticing.
fn says_the_same(before: &Arc<State>, now: &Arc<State>) -> bool {
    Arc::ptr_eq(before, now)
        || before.services.len() == now.services.len()
            && before.services.iter().zip(&now.services).all(|(before, now)| {
                Arc::ptr_eq(before, now)
                    || before.name == now.name
                        && before.frontends.iter().zip(&now.frontends).all(|(before, now)| {
                            before.frontend == now.frontend && before.installed == now.installed
                        })
                        && before.frontends.len() == now.frontends.len()
            })
}

/// The serial after this one: the time in tenths of a second, so that it grows across starts too.
fn after(serial: u32) -> u32 {
    let now = now_serial();
    // Serials wrap around; what is less than half of them ahead is later.
    let ahead = now.wrapping_sub(serial);
    if (1..1 << 31).contains(&ahead) { now } else { serial.wrapping_add(1) }
}

fn now_serial() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() / 100;
    u32::try_from(now & u128::from(u32::MAX)).unwrap_or_default()
}

// === impl Report ===

impl Report {
    fn update(&self, change: impl FnOnce(&mut NamesStatus)) {
        self.all.send_if_modified(|all| {
            let Some(status) = all.get_mut(self.index) else { return false };
            let before = status.clone();
            change(status);
            let NamesStatus { kind, place, error, .. } = &*status;
            match (&before.error, error) {
                (before, Some(error)) if before.as_ref() != Some(error) => {
                    tracing::warn!(?kind, place, "names: {error}");
                }
                (Some(_), None) => tracing::info!(?kind, place, "names: good again"),
                _ => {}
            }
            before != *status
        });
    }
}

#[cfg(test)]
mod tests;
