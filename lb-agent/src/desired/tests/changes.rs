//! Any history of inputs leads to what merging the last of them from scratch leads to, and that is
//! what the rules, written down once more in the plainest way, say.

use super::*;
use crate::model::{Pool, PoolRef};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

const SOURCES: usize = 3;

/// Few names, addresses and pools, so that conflicts are the rule.
fn any_service() -> impl Strategy<Value = Service> {
    let address = |net: u8, n: u8| format!("10.{net}.0.{n}:80").parse::<SocketAddr>().unwrap();
    let frontend = (0u8..8, any::<bool>()).prop_map(move |(n, tcp)| Frontend {
        address: address(96, n),
        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
    });
    // Some are frontends.
    let backend = (prop_oneof![3 => Just(0u8), 1 => Just(96)], 0u8..8)
        .prop_map(move |(net, n)| (address(net, n), Backend::default()));
    let reference = (0..=SOURCES, 0u8..3, option::of(Just(81))).prop_map(|(source, pool, port)| {
        PoolRef { source: format!("s{source}").into(), pool: format!("p{pool}").into(), port }
    });
    let references = prop_oneof![2 => Just(vec![]), 1 => vec(reference, 1..3)];
    (btree_set(frontend, 0..3), vec(backend, 0..3), references).prop_map(
        |(frontends, backends, backends_from)| Service {
            frontends: frontends.into_iter().map(|f| (f, Scope::Everywhere.into())).collect(),
            backends: backends.into_iter().collect(),
            backends_from,
            ..Service::clone(&service(&[], &[]))
        },
    )
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let name = (0u8..6).prop_map(|n| format!("n{n}").parse().unwrap());
    let services = btree_map(name, any_service().prop_map(Arc::new), 0..5);
    let backend = (0u8..4, prop_oneof![Just(0u16), Just(80)])
        .prop_map(|(n, port)| (SocketAddr::new([10, 0, 0, n].into(), port), Backend::default()));
    let pool = vec(backend, 0..3)
        .prop_map(|backends| Arc::new(Pool { backends: backends.into_iter().collect() }));
    let pools = btree_map((0u8..3).prop_map(|n| format!("p{n}").into()), pool, 0..3);
    (services, pools).prop_map(|(services, pools)| Snapshot {
        services,
        pools,
        ..Snapshot::default()
    })
}

/// A change of one source: what it says now, and of which services only.
type Step = (usize, Snapshot, Option<usize>, bool);

fn any_history() -> impl Strategy<Value = Vec<Step>> {
    vec((0..SOURCES, any_snapshot(), option::weighted(0.7, 0usize..5), any::<bool>()), 1..12)
}

/// Applies a step as sources do: what is as before is the very same, or at times an equal one.
fn apply(inputs: &mut [Input], (index, new, only, synced): &Step) {
    let input = &mut inputs[*index];
    let mut now = input.snapshot.as_deref().cloned().unwrap_or_default();
    match only.and_then(|only| new.services.iter().nth(only)) {
        Some((name, service)) if now.services.get(name) == Some(service) => {
            now.services.remove(name);
        }
        Some((name, service)) => drop(now.services.insert(name.clone(), Arc::clone(service))),
        None => now = new.clone(),
    }
    input.snapshot = Some(Arc::new(now));
    input.synced |= *synced;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_history_leads_to_what_its_end_says(history in any_history()) {
        let mut said = inputs(&[const { None }; SOURCES]);
        let mut merger = Merger::default();
        for step in &history {
            apply(&mut said, step);
            let before = merger.desired().clone();
            merger.merge(said.clone());
            let fresh = merge(said.clone());
            prop_assert_eq!(merger.desired(), &fresh);
            prop_assert_eq!(&fresh, &plainly(&said));
            let names = [&before, &fresh].map(|d| d.services.keys().chain(d.waiting.keys()));
            let others = names.into_iter().flatten().filter(|name| {
                let waits = [&before, &fresh].map(|desired| desired.waiting.contains_key(*name));
                before.services.get(*name) != fresh.services.get(*name) || waits[0] != waits[1]
            });
            prop_assert_eq!(merger.take_changed(), others.cloned().collect());
            for (name, entry) in &before.services {
                if let Some(now) = fresh.services.get(name).filter(|now| *now == entry) {
                    let kept = &merger.desired().services[name].service;
                    prop_assert!(Arc::ptr_eq(kept, &entry.service), "{}: {:?}", name, now);
                }
            }
        }
    }
}

/// The rules, one after the other.
fn plainly(inputs: &[Input]) -> Desired {
    let mut desired = Desired {
        complete: inputs.iter().all(|input| input.synced),
        synced: inputs.iter().filter(|i| i.synced).map(|i| Arc::clone(&i.source)).collect(),
        ..Desired::default()
    };
    // Everybody who asks, in order of precedence, gets what nobody before it has.
    let mut owners: BTreeMap<Frontend, (ServiceName, Arc<str>)> = BTreeMap::new();
    let mut served: BTreeMap<ServiceName, (&Input, Service)> = BTreeMap::new();
    for input in inputs {
        let source = &input.source;
        for (name, service) in input.snapshot.iter().flat_map(|snapshot| &snapshot.services) {
            if let Some((first, _)) = served.get(name) {
                let first = &first.source;
                let reason = format!(
                    "service `{name}` of {source} is also defined by {first}, which comes first; \
                     rename or remove one"
                );
                desired.rejections.push(rejection(source, name, reason));
                continue;
            }
            let lost: Vec<Frontend> =
                service.frontends.keys().copied().filter(|f| owners.contains_key(f)).collect();
            let none_left = !lost.is_empty() && lost.len() == service.frontends.len();
            for frontend in &lost {
                let (first, first_source) = &owners[frontend];
                let outcome = if none_left { "; it has no other and is not served" } else { "" };
                let reason = format!(
                    "frontend {frontend} of service `{name}` ({source}) belongs to service \
                     `{first}` ({first_source}), which comes first; remove one{outcome}"
                );
                desired.rejections.push(rejection(source, name, reason));
            }
            let mut service = Service::clone(service);
            service.frontends.retain(|frontend, _| !lost.contains(frontend));
            let own = (name.clone(), Arc::clone(source));
            owners.extend(service.frontends.keys().map(|frontend| (*frontend, own.clone())));
            if !none_left {
                served.insert(name.clone(), (input, service));
            }
        }
    }
    for (name, (input, mut service)) in served {
        let source = Arc::clone(&input.source);
        let found = pools::backends(&name, &service, input, inputs, &mut desired.rejections);
        match found {
            Ok(found) => service.backends = found,
            Err(late) => {
                desired.waiting.insert(name, late);
                continue;
            }
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for address in service.backends.keys() {
                let owner = owners.get(&Frontend { address: *address, protocol });
                let speaks = service.frontends.keys().any(|f| f.protocol == protocol);
                if let Some((other, _)) = owner.filter(|_| speaks) {
                    let reason = format!(
                        "backend {address} of service `{name}` is itself a frontend (of `{other}`): \
                         connections are translated once and reach it directly; probably a \
                         mistake, name the backends behind it"
                    );
                    desired.rejections.push(rejection(&source, &name, reason));
                }
            }
        }
        desired.services.insert(name, Entry::new(Arc::new(service), source));
    }
    desired
}
