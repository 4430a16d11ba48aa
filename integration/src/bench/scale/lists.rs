//! What it costs a store to be read whole: by one host after the other, as the periodic lists for
//! safety come, and by many at once, as after a power cut.

use super::hosts::{Hosts, PREFIX, Used, backend, settings};
use crate::etcd::Etcd;
use lb_agent::etcd::Client;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

/// Backends of a service.
const EACH: usize = 10;
/// What one call that fills the store writes.
const PART: usize = 10_000;

/// Lists one after the other.
pub(super) struct Lists {
    /// Keys in the store.
    pub(super) keys: usize,
    /// Of the store for each key, in seconds on a CPU.
    pub(super) cpu: f64,
    /// On the wire for each key.
    pub(super) bytes: f64,
    /// How long each list took.
    pub(super) took: Vec<Duration>,
}

/// Fills a store with so many services of 10 backends.
pub(super) fn fill(etcd: &Etcd, services: usize) {
    let service = |number: usize| {
        let [high, low] = [number / 250, number % 250];
        let value = format!("{{\"frontends\":[\"10.96.{high}.{low}:80\"]}}");
        (format!("{PREFIX}services/s{number}"), value)
    };
    etcd.put_many((0..services).map(service));
    let backend = |number: usize| {
        let key = format!("{PREFIX}backends/s{}/{}", number / EACH, number % EACH);
        (key, backend(number))
    };
    let all = services * EACH;
    for begin in (0..all).step_by(PART) {
        etcd.put_many((begin..all.min(begin + PART)).map(backend));
    }
}

/// Reads all of it so often.
pub(super) fn one_by_one(etcd: &Etcd, times: usize) -> anyhow::Result<Lists> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut client = Client::new(settings(&etcd.endpoint())?);
    let mut list = || runtime.block_on(client.list(PREFIX));
    // The first one connects.
    let keys = list()?.keys.len();
    let before = Used::by(etcd)?;
    let took: Result<Vec<Duration>, anyhow::Error> = (0..times)
        .map(|_| {
            let begun = Instant::now();
            list()?;
            Ok(begun.elapsed())
        })
        .collect();
    let spent = Used::by(etcd)?.since(before);
    let each = (keys * times) as f64;
    Ok(Lists { keys, cpu: spent.cpu / each, bytes: spent.bytes / each, took: took? })
}

/// Starts so many hosts at once; how long until each has read it, and how often one has given up a
/// try.
pub(super) fn at_once(etcd: &Etcd, hosts: usize) -> anyhow::Result<(Vec<Duration>, usize)> {
    let mut all = Hosts::at(&etcd.endpoint())?;
    let took = all.start(hosts)?;
    Ok((took, all.interruptions()))
}
