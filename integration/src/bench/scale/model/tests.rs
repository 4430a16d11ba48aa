use super::*;

const COSTS: Costs = Costs {
    quiet_cpu: 1e-4,
    quiet_bytes: 500.0,
    host_memory: 1e5,
    change_cpu: 2e-5,
    change_bytes: 300.0,
    listed_cpu: 2e-6,
    listed_bytes: 200.0,
    renewal_cpu: 1e-4,
    registrar_memory: 5e4,
    check_cpu: 4e-5,
};
const FLEET: Fleet = Fleet {
    keys: 120_000.0,
    backends: 100_000.0,
    changes: 10.0,
    relist: 600.0,
    leases: 1_000.0,
    renewal: 4.0,
    interval: 2.0,
};
const ROOM: Room =
    Room { members: 1.0, cores: 4.0, network: 1e8, memory: 1e9, checking: 0.1, checked: 0.01 };

fn demand(of: Resource, costs: &Costs, fleet: &Fleet, room: &Room) -> Demand {
    demands(costs, fleet, room).into_iter().find(|demand| demand.resource == of).unwrap()
}

fn near(found: f64, wanted: f64) {
    assert!((found - wanted).abs() <= wanted.abs() * 1e-9, "{found}, not {wanted}");
}

#[test]
fn every_demand_by_hand() {
    for (of, fixed, per_host, room) in [
        // 250 renewals a second; 200 keys a second are listed for each host.
        (Resource::StoreCpu, 0.025, 1e-4 + 2e-4 + 4e-4, 4.0),
        (Resource::StoreNetwork, 0.0, 500.0 + 3_000.0 + 40_000.0, 1e8),
        (Resource::StoreMemory, 5e7, 1e5, 1e9),
        // 50,000 checks a second by each host; each backend has one of every host in two seconds.
        (Resource::Checking, 2.0, 0.0, 0.1),
        (Resource::BeingChecked, 0.0, 2e-5, 0.01),
    ] {
        let found = demand(of, &COSTS, &FLEET, &ROOM);
        near(found.fixed, fixed);
        near(found.per_host, per_host);
        near(found.room, room);
    }
}

#[test]
fn shares_and_hosts_are_two_sides_of_one_line() {
    for demand in demands(&COSTS, &FLEET, &ROOM) {
        let Some(hosts) = demand.hosts_at(0.7).filter(|hosts| *hosts > 0.0) else { continue };
        assert!(demand.share(hosts) <= 0.7 + 1e-9, "{demand:?}");
        assert!(demand.share(hosts + 2.0) > 0.7, "{demand:?}: {hosts}");
    }
    let checked = demand(Resource::BeingChecked, &COSTS, &FLEET, &ROOM).hosts_at(1.001);
    assert_eq!(checked, Some(500.0));
}

#[test]
fn what_no_number_of_hosts_changes() {
    let checking = demand(Resource::Checking, &COSTS, &FLEET, &ROOM);
    near(checking.share(1.0), 20.0);
    near(checking.share(5_000.0), 20.0);
    assert_eq!(checking.hosts_at(0.7), Some(0.0), "already too much");
    let few = Fleet { backends: 1_000.0, ..FLEET };
    assert_eq!(demand(Resource::Checking, &COSTS, &few, &ROOM).hosts_at(0.7), None);
    let unchecked = Fleet { interval: f64::INFINITY, ..FLEET };
    for of in [Resource::Checking, Resource::BeingChecked] {
        let none = demand(of, &COSTS, &unchecked, &ROOM);
        assert_eq!((none.share(5_000.0), none.hosts_at(0.7)), (0.0, None));
    }
}

#[test]
fn members_share_hosts_but_not_leases() {
    let three = Room { members: 3.0, ..ROOM };
    let (alone, shared) = (
        demand(Resource::StoreCpu, &COSTS, &FLEET, &ROOM),
        demand(Resource::StoreCpu, &COSTS, &FLEET, &three),
    );
    near(shared.per_host, alone.per_host / 3.0);
    near(shared.fixed, alone.fixed);
    let checked = |room| demand(Resource::BeingChecked, &COSTS, &FLEET, room);
    assert_eq!(checked(&ROOM), checked(&three));
}

#[test]
fn a_cold_start_waits_for_what_is_scarcer() {
    // 1,000 hosts: 24 GB at 100 MB/s, and 240 s of CPU on four cores.
    near(cold_start(&COSTS, &FLEET, &ROOM, 1_000.0), 240.0);
    let fast = Room { network: 1e9, ..ROOM };
    near(cold_start(&COSTS, &FLEET, &fast, 1_000.0), 60.0);
    near(cold_start(&COSTS, &FLEET, &Room { members: 3.0, ..fast }, 1_000.0), 20.0);
}

#[test]
fn lines() {
    for (points, at_zero, slope) in [
        (&[(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)][..], 3.0, 2.0),
        // The best line through a square's corners lies flat.
        (&[(0.0, 0.0), (0.0, 2.0), (1.0, 0.0), (1.0, 2.0)], 1.0, 0.0),
        (&[(10.0, 5.0)], 0.0, 0.5),
        (&[(0.0, 5.0)], 0.0, 0.0),
    ] {
        let (found, rise) = line(points);
        near(found, at_zero);
        near(rise, slope);
    }
}
