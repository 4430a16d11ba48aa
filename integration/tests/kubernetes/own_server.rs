//! The agent's own way to the API server, whatever its tables say of that address: its sockets are in the
//! cgroup that it serves, as they are on a node.

use integration::kubernetes::{Svc, TCP, World, endpoint, reaches, refused, run};
use integration::wait::eventually;
use std::net::SocketAddr;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);

/// Another service is followed: the agent hears of an endpoint that takes another's place.
#[track_caller]
fn follows(world: &World<'_>, names: [&str; 2]) {
    let web = Svc::new("web", 10).tcp("http", 80, 8080);
    let client = world.node.pod("client");
    for name in names {
        let pod = world.pod(name, 8080);
        world.put(&web, &[endpoint(&pod)]);
        reaches(&client, TCP, web.at(80), &[name]);
    }
}

#[test]
fn a_frontend_at_its_address_leads_nowhere() {
    run("k8s-own-server", |world| {
        let server = world.api.address();
        // A service whose NodePort is the server's own address, with an endpoint that is dead.
        let wrong = || Svc::new("kubernetes", 1).tcp("https", 443, 1).node_port(server.port());
        let nobody = world.node.pod("nobody");
        let is_wrong = |world: &World<'_>| {
            refused(&world.node, TCP, [server]);
            refused(&nobody, TCP, wrong().at(443));
        };
        reached(world, server);
        world.put(&wrong(), &[endpoint(&nobody)]);
        is_wrong(world);
        follows(world, ["a", "b"]);

        // What it has open is dropped, and it dials again.
        world.api.restart();
        follows(world, ["c", "d"]);
        world.api.restart_with_amnesia();
        follows(world, ["e", "f"]);
        is_wrong(world);

        // It dials for the first time while the tables are as the one before it left them.
        assert!(world.take_agent().stop().success());
        is_wrong(world);
        world.start_agent();
        is_wrong(world);
        follows(world, ["g", "h"]);

        // So it hears of what puts it right.
        world.remove(&wrong());
        reached(world, server);
    });
}

/// Without endpoints at all, the address refuses everybody.
#[test]
fn a_frontend_at_its_address_refuses() {
    run("k8s-own-refused", |world| {
        let server = world.api.address();
        let wrong = Svc::new("kubernetes", 1).tcp("https", 443, 1).node_port(server.port());
        world.put(&wrong, &[]);
        refused(&world.node, TCP, [server]);
        world.api.restart();
        follows(world, ["a", "b"]);
        refused(&world.node, TCP, [server]);
    });
}

/// Whoever is on the node gets through to the server.
#[track_caller]
fn reached(world: &World<'_>, server: SocketAddr) {
    eventually("the server to be reached", DEADLINE, || {
        world.node.run(|| std::net::TcpStream::connect_timeout(&server, DEADLINE)).is_ok()
    });
}
