//! The agent and the API server are restarted while clients dial.

use integration::kubernetes::{Svc, TCP, World, endpoint, reaches, run};
use integration::pods::{Place, Pod};
use integration::traffic::{Traffic, Way};
use integration::wait::{eventually, wait_for};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);

/// A service under traffic from a pod and from the node.
struct Busy {
    traffic: Traffic,
    service: Svc,
    all: Vec<SocketAddr>,
    pods: [Pod; 2],
    _client: Pod,
}

impl Busy {
    fn start(world: &World<'_>) -> Self {
        let service = Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(30080);
        let pods = [world.pod("a", 8080), world.far_pod("c", 8080)];
        let client = world.node.pod("client");
        let all: Vec<SocketAddr> =
            service.at(80).into_iter().chain(world.node.addresses().at(30080)).collect();
        let mut traffic = Traffic::default();
        all.iter().for_each(|&to| traffic.joins(to, "a"));
        world.put(&service, &[endpoint(&pods[0])]);
        let places: [&Place; 2] = [&client, &world.node];
        for from in places {
            from.run(|| {
                for &to in &all {
                    traffic.dial(Way::Tcp, to);
                }
                for way in [Way::Connected, Way::Unconnected, Way::Kept] {
                    traffic.dial(way, all[0]);
                    traffic.dial(way, all[1]);
                }
            });
        }
        traffic.goes_on(3);
        Self { traffic, service, all, pods, _client: client }
    }

    /// One endpoint takes the other's place, and the traffic follows.
    #[track_caller]
    fn moves(&self, world: &World<'_>, to: usize) {
        let (old, new) = (&self.pods[1 - to], &self.pods[to]);
        self.all.iter().for_each(|&at| self.traffic.joins(at, new.name()));
        world.put(&self.service, &[endpoint(old), endpoint(new)]);
        self.traffic.goes_on(3);
        self.all.iter().for_each(|&at| self.traffic.may_leave(at, old.name()));
        world.put(&self.service, &[endpoint(new)]);
        let until = Instant::now();
        self.all.iter().for_each(|&at| self.traffic.leaves(at, old.name(), until));
        self.traffic.goes_on(3);
    }
}

/// In order, and by SIGKILL; what changes while there is no agent is made up for.
#[test]
fn works_after_restarting_kube_proxy() {
    run("k8s-restart", |world| {
        let busy = Busy::start(world);
        assert!(world.take_agent().stop().success());
        busy.traffic.goes_on(3);
        world.start_agent();
        busy.traffic.goes_on(3);
        busy.moves(world, 1);

        world.take_agent().kill9();
        busy.traffic.goes_on(3);
        // Both serve meanwhile, and from now on only the first is to.
        busy.all.iter().for_each(|&at| busy.traffic.joins(at, "a"));
        busy.all.iter().for_each(|&at| busy.traffic.may_leave(at, "c"));
        let only = busy.service.slices(&[endpoint(&busy.pods[0])]);
        world.api.put_all(only);
        busy.traffic.goes_on(3);
        world.start_agent();
        world.settle();
        let until = Instant::now();
        busy.all.iter().for_each(|&at| busy.traffic.leaves(at, "c", until));
        busy.traffic.goes_on(3);
        busy.moves(world, 1);
        busy.traffic.expect_no_complaint();
    });
}

/// Killed as soon as it is ready, and its successor can't reach the API server: it serves all the same.
#[test]
fn works_after_a_kill_while_the_apiserver_is_away() {
    run("k8s-kill-cold", |world| {
        let pods = [world.pod("a", 8080), world.far_pod("c", 8080)];
        let service = Svc::new("web", 10).tcp_and_udp(80, 8080);
        assert!(world.take_agent().stop().success());
        std::fs::remove_file(world.lab.state_dir().join("snapshots.json")).expect("it was saved");
        let slices = service.slices(&[endpoint(&pods[0])]);
        world.api.put_all([service.object()].into_iter().chain(slices));
        world.start_agent();
        world.take_agent().kill9();
        world.api.stop();
        world.start_agent_on_cache();
        let client = world.node.pod("client");
        reaches(&client, TCP, service.at(80), &["a"]);
        let status = world.agent().status();
        assert!(status.sources[0].services > 0 && !status.sources[0].synced, "{status:?}");
        eventually("the agent to be ready", DEADLINE, || world.agent().status().ready);
        // What comes then is served as ever.
        world.api.resume();
        eventually("the cluster to be known", DEADLINE, || {
            world.agent().status().sources[0].synced
        });
        world.put(&service, &[endpoint(&pods[1])]);
        reaches(&client, TCP, service.at(80), &["c"]);
    });
}

/// It forgets nothing; it forgets what came before; it is away while pods change, and while the
/// agent starts.
#[test]
fn works_after_restarting_apiserver() {
    run("k8s-api-restart", |world| {
        let busy = Busy::start(world);
        world.api.restart();
        busy.traffic.goes_on(3);
        busy.moves(world, 1);
        world.api.restart_with_amnesia();
        busy.traffic.goes_on(3);
        busy.moves(world, 0);

        world.api.stop();
        let error = wait_for("the agent to complain", DEADLINE, || {
            world.agent().status().sources[0].error.clone()
        });
        assert!(!error.is_empty());
        busy.traffic.goes_on(3);
        // What was known serves, also after a restart of the agent.
        assert!(world.take_agent().stop().success());
        world.start_agent_on_cache();
        eventually("the agent to be ready all the same", DEADLINE, || world.agent().status().ready);
        let shown = world.lab.lbctl(&["status"]);
        assert!(shown.code == Some(0) && shown.stdout.contains("   cached   "), "{shown:?}");
        busy.traffic.goes_on(3);
        world.api.resume();
        eventually("the agent to be content", DEADLINE, || {
            let status = world.agent().status();
            let source = &status.sources[0];
            source.error.is_none() && source.synced && !source.cached
        });
        busy.moves(world, 1);
        busy.traffic.expect_no_complaint();
    });
}
