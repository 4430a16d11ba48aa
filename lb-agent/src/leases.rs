//! How long the leases that backends hang on have left: asked of their stores when somebody looks.
//!
//! Decides how much may be asked and how long that may take: who looks must not be kept waiting by a
//! store that is away, nor a store be kept busy by who looks. What a lease means is left to others.

use crate::etcd::{Client, Settings};
use crate::model::Lease;
use crate::status::{BackendStatus, ServiceStatus};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Most leases asked about at a time.
const MOST: usize = 1000;
/// Most questions under way at once.
const AT_ONCE: usize = 16;
/// How long all of them together may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);

/// The stores of the sources that have leases, by the source's name.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    stores: Arc<BTreeMap<Arc<str>, Arc<Settings>>>,
    answers: Arc<Mutex<HashMap<Lease, Answer>>>,
    /// A client of each store, connected since the last look.
    clients: Arc<Mutex<HashMap<Arc<str>, Client>>>,
}

/// What a store said, and when. Nothing is left of a lease that is gone.
#[derive(Clone, Copy, Debug)]
struct Answer {
    left: Duration,
    at: Instant,
}

/// What the questions of one look have in common.
#[derive(Debug, Default)]
struct Look {
    open: Vec<Lease>,
    answers: HashMap<Lease, Duration>,
    /// Sources whose store does not answer, and why.
    away: BTreeMap<Arc<str>, String>,
}

// === impl Leases ===

impl Leases {
    /// Asks these stores.
    pub fn new(stores: BTreeMap<Arc<str>, Arc<Settings>>) -> Self {
        Self { stores: Arc::new(stores), answers: Arc::default(), clients: Arc::default() }
    }

    /// Fills `lease_left` of every backend whose store answers in time. Returns a line about each
    /// reason for which others were left empty.
    pub async fn fill(&self, services: &mut [ServiceStatus]) -> Vec<String> {
        let mut wanted: BTreeSet<Lease> =
            backends(services).filter_map(|backend| backend.lease.clone()).collect();
        let mut known = self.fresh();
        wanted.retain(|lease| !known.contains_key(lease));
        let mut notes = Vec::new();
        if wanted.len() > MOST {
            notes.push(format!(
                "{} leases are too many to ask about at once, {MOST} were; name a service",
                wanted.len()
            ));
        }
        wanted = wanted.into_iter().take(MOST).collect();
        if !wanted.is_empty() {
            let Look { open: _, answers, away } = self.ask(wanted.iter().cloned().collect()).await;
            wanted.retain(|l| !answers.contains_key(l) && !away.contains_key(&l.source));
            self.keep(&answers);
            known.extend(answers);
            let why = |(source, error)| format!("{source}: no lease times: {error}");
            notes.extend(away.into_iter().map(why));
        }
        if !wanted.is_empty() {
            notes.push(format!("no answer about {} leases within {PATIENCE:?}", wanted.len()));
        }
        for backend in backends(services) {
            backend.lease_left = backend.lease.as_ref().and_then(|l| known.get(l)).copied();
        }
        notes
    }

    async fn ask(&self, open: Vec<Lease>) -> Look {
        let number = open.len().min(AT_ONCE);
        let look = Arc::new(Mutex::new(Look { open, ..Look::default() }));
        let mut workers = JoinSet::new();
        for _ in 0..number {
            workers.spawn(self.clone().work(Arc::clone(&look)));
        }
        let all = async { while workers.join_next().await.is_some() {} };
        // What has not been answered by then is left open; dropping the set ends the workers.
        let _ = tokio::time::timeout(PATIENCE, all).await;
        drop(workers);
        std::mem::take(&mut *lock(&look))
    }

    /// Takes one lease after the other and asks the store of its source, until none is left.
    async fn work(self, look: Arc<Mutex<Look>>) {
        let mut clients = HashMap::new();
        loop {
            let Some(lease) = lock(&look).open.pop() else {
                break;
            };
            let Lease { source, id } = &lease;
            // A store that is away for one is away for all.
            if lock(&look).away.contains_key(source) {
                continue;
            }
            let answer = match self.stores.get(source) {
                None => Err("the agent knows no store of this source".to_owned()),
                Some(settings) => {
                    let connected = || lock(&self.clients).get(source).cloned();
                    let new = || Client::new(Arc::clone(settings));
                    let client = clients
                        .entry(Arc::clone(source))
                        .or_insert_with(|| connected().unwrap_or_else(new));
                    client.lease_left(*id).await.map_err(|error| error.to_string())
                }
            };
            match answer {
                Ok(left) => drop(lock(&look).answers.insert(lease, left.unwrap_or_default())),
                Err(error) => drop(lock(&look).away.insert(Arc::clone(source), error)),
            }
        }
        lock(&self.clients).extend(clients);
    }

    fn fresh(&self) -> HashMap<Lease, Duration> {
        let mut answers = lock(&self.answers);
        answers.retain(|_, answer| answer.at.elapsed() < FRESH);
        answers.iter().map(|(lease, answer)| (lease.clone(), answer.left)).collect()
    }

    fn keep(&self, answers: &HashMap<Lease, Duration>) {
        let at = Instant::now();
        let new = answers.iter().map(|(lease, left)| (lease.clone(), Answer { left: *left, at }));
        lock(&self.answers).extend(new);
    }
}

fn backends(services: &mut [ServiceStatus]) -> impl Iterator<Item = &mut BackendStatus> {
    services.iter_mut().flat_map(|service| &mut service.backends)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn service(leases: &[Option<(&str, i64)>]) -> ServiceStatus {
        let backends: Vec<_> = leases
            .iter()
            .enumerate()
            .map(|(i, lease)| {
                let lease =
                    lease.map(|(source, id)| serde_json::json!({"source": source, "id": id}));
                serde_json::json!({
                    "address": format!("10.0.0.1:{}", i + 1), "id": null, "state": "ready",
                    "weight": 1, "lease": lease, "since": null, "active": 0, "connects": 0
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "name": "web", "id": null, "source": "x", "frontends": [], "policy": "random",
            "affinity": null, "no_backend": "refuse", "backends": backends,
            "counters": {"connects": 0, "no_backend": 0, "untracked": 0}
        }))
        .unwrap()
    }

    fn stores(endpoint: &str) -> Leases {
        let settings = Settings {
            endpoints: vec![endpoint.parse().unwrap()],
            tls: crate::etcd::Tls::default(),
            user: None,
        };
        Leases::new(BTreeMap::from([("etcd:a".into(), Arc::new(settings))]))
    }

    #[tokio::test]
    async fn without_leases_nobody_is_asked() {
        let mut services = vec![service(&[None, None])];
        let notes = stores("127.0.0.1:1").fill(&mut services).await;
        assert_eq!((notes, services), (Vec::new(), vec![service(&[None, None])]));
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_told_once() {
        let mut services = vec![service(&[Some(("etcd:a", 1)), Some(("etcd:b", 2))]); 30];
        let notes = stores("127.0.0.1:1").fill(&mut services).await;
        let [a, b] = notes.as_slice() else { panic!("{notes:?}") };
        assert!(a.starts_with("etcd:a: no lease times: "), "{a}");
        assert!(b.starts_with("etcd:b: no lease times: the agent knows no store"), "{b}");
        assert!(backends(&mut services).all(|backend| backend.lease_left.is_none()));
    }

    #[tokio::test]
    async fn a_store_that_is_silent_does_not_hold_up_who_looks() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = silent.local_addr().unwrap().to_string();
        let leases: Vec<_> = (1..=1200).map(|id| Some(("etcd:a", id))).collect();
        let mut services = vec![service(&leases)];
        let start = Instant::now();
        let notes = stores(&endpoint).fill(&mut services).await;
        assert!(start.elapsed() < PATIENCE * 2);
        assert!(notes[0].starts_with("1200 leases are too many"), "{notes:?}");
        assert_eq!(notes[1], "no answer about 1000 leases within 2s");
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_a_while() {
        let leases = stores("127.0.0.1:1");
        let lease = Lease { source: "etcd:a".into(), id: 7 };
        leases.keep(&HashMap::from([(lease, Duration::from_secs(7))]));
        let mut services = vec![service(&[Some(("etcd:a", 7))])];
        assert_eq!(leases.fill(&mut services).await, Vec::<String>::new());
        assert_eq!(services[0].backends[0].lease_left, Some(Duration::from_secs(7)));
    }
}
