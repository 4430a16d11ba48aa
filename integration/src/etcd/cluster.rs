//! Several servers that keep one store together.

use super::{Etcd, Ports, READY, Setup};
use crate::wait::{eventually, wait_for};
use std::path::Path;

/// The members of one cluster.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Etcd>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts `count` members and waits until each of them answers.
    #[track_caller]
    pub fn start(directory: &Path, count: usize) -> Self {
        Self::start_with(directory, count, &Setup::default())
    }

    /// Starts `count` members, all set up alike.
    #[track_caller]
    pub fn start_with(directory: &Path, count: usize, setup: &Setup) -> Self {
        let ports: Vec<Ports> = (0..count).map(|_| Ports::free()).collect();
        let name = |ports: &Ports| format!("etcd-{}", ports.client);
        let all = ports.iter().map(|ports| format!("{}={}", name(ports), ports.peer_url()));
        let all = all.collect::<Vec<_>>().join(",");
        let member =
            |ports: &Ports| Etcd::new(setup.clone(), directory, name(ports), *ports, all.clone());
        let mut members: Vec<Etcd> = ports.iter().map(member).collect();
        members.iter_mut().for_each(Etcd::spawn);
        // Who asks one asks all: the passwords are the cluster's.
        let login = members.first().map(|first| first.login.clone()).unwrap_or_default();
        members.iter_mut().for_each(|member| member.login = login.clone());
        for member in &mut members {
            assert!(member.answers_or_ends(), "etcd does not start: {}", member.log());
        }
        Self { members }
    }

    /// The members' URLs, for the agent under test.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// A member.
    pub fn member(&self, index: usize) -> &Etcd {
        &self.members[index]
    }

    /// A member, to do something to its process.
    pub fn member_mut(&mut self, index: usize) -> &mut Etcd {
        &mut self.members[index]
    }

    /// A member that answers reads and writes, to use the store by.
    #[track_caller]
    pub fn any(&self) -> &Etcd {
        wait_for("a member to answer", READY, || {
            self.members.iter().find(|member| member.child.is_some() && member.answers())
        })
    }

    /// Waits until every member that runs answers.
    #[track_caller]
    pub fn wait_ready(&self) {
        for member in self.members.iter().filter(|member| member.child.is_some()) {
            member.wait_ready();
        }
    }

    /// Waits until no member answers what needs a quorum.
    #[track_caller]
    pub fn wait_without_quorum(&self) {
        let running = || self.members.iter().filter(|member| member.child.is_some());
        eventually("the quorum to be lost", READY, || !running().any(Etcd::answers));
    }
}
