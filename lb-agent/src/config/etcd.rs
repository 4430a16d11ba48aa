//! Settings of etcd: how a cluster is reached, and what a source in it is. Pure.

use super::read_path;
use super::read_ranges;
use crate::claims::Claims;
use crate::etcd::{Endpoint, Settings, Tls, User};
use crate::keys::{ETCD, TLS, USER};
use crate::source::etcd::layout::LayoutKind;
use crate::yaml::{Item, Reader};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_GRACE: Duration = Duration::from_secs(30);
const LONGEST_GRACE: Duration = Duration::from_secs(3600);

/// Longest name or prefix, in bytes.
const MAX_TEXT: usize = 253;

/// Services or backends kept in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSource {
    /// The source's name: `etcd:registry`.
    pub name: Arc<str>,
    /// How the cluster is reached.
    pub settings: Arc<Settings>,
    /// What its keys begin with; ends in `/`.
    pub prefix: String,
    /// What its keys and values mean.
    pub layout: LayoutKind,
    /// How long to disbelieve removals that may be a mishap.
    pub removal_grace: Duration,
    /// Where `vip: auto` takes addresses from.
    pub vip_pool: Vec<IpNet>,
    /// What its services may claim; layouts without services claim nothing.
    pub vip_ranges: Vec<IpNet>,
    /// Whether their checks may run programs.
    pub allow_exec: bool,
}

// === impl EtcdSource ===

impl EtcdSource {
    /// What its services may claim. Whoever can write to a store is not who configures the host, so
    /// the host's own addresses need a range that means them.
    pub fn claims(&self, host_addresses: Vec<IpAddr>) -> Claims {
        Claims {
            ranges: Some(self.vip_ranges.clone()),
            host_addresses,
            strict: true,
            exec: self.allow_exec,
        }
    }
}

/// Reads the source under `etcd:`; `ranges` is what stands under `vip_ranges` beside it.
pub(super) fn read_source(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    ranges: Option<(Item<'_>, Vec<IpNet>)>,
    directory: &Path,
) -> Option<EtcdSource> {
    let before = reader.count();
    let (mut name, mut prefix, mut layout, mut grace) = (None, None, None, DEFAULT_GRACE);
    let mut vip_pool = None;
    for field in reader.fields(item, "a mapping for `etcd` with `endpoints:`", &ETCD) {
        let (key, item) = (field.key, field.item);
        match key {
            "name" => name = reader.parse(item, "a name for `name`", parse_name),
            "prefix" => prefix = read_prefix(reader, item),
            "layout" => {
                layout = reader.parse(item, "a layout such as native", str::parse);
            }
            "removal_grace" => {
                grace = reader
                    .parse(item, "a time for `removal_grace`, such as 30s", parse_grace)
                    .unwrap_or(grace);
            }
            "vip_pool" => vip_pool = Some((item, read_ranges(reader, item, key))),
            _ => {}
        }
    }
    if !item.is_mapping() {
        return None;
    }
    let settings = read_settings(reader, item, directory);
    if reader.count() > before {
        return None;
    }
    let layout = layout.unwrap_or_default();
    let vip_ranges = check_ranges(reader, item, layout, ranges);
    let vip_pool = check_pool(reader, layout, vip_pool, &vip_ranges);
    let Some(prefix) = prefix.or_else(|| layout.default_prefix().map(str::to_owned)) else {
        reader.reject(item.place, "this layout needs a `prefix`: what its keys begin with");
        return None;
    };
    if reader.count() > before {
        return None;
    }
    Some(EtcdSource {
        name: format!("etcd:{}", name.as_ref().unwrap_or(&prefix)).into(),
        settings: Arc::new(settings?),
        prefix,
        layout,
        removal_grace: grace,
        vip_pool,
        vip_ranges,
        allow_exec: false,
    })
}

/// Reads how a cluster is reached from `endpoints`, `tls` and `user` of a mapping; other keys are for
/// the caller.
pub(super) fn read_settings(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    directory: &Path,
) -> Option<Settings> {
    let before = reader.count();
    let endpoints = match item.get("endpoints") {
        Some(list) => read_endpoints(reader, list),
        None => {
            let reason = "`endpoints` is missing; add endpoints: [http://HOST:2379]";
            reader.reject(item.place, reason);
            return None;
        }
    };
    let tls = item.get("tls").map(|tls| (tls, read_tls(reader, tls, directory)));
    let user = item.get("user").and_then(|user| read_user(reader, user, directory));
    if let Some((tls, _)) = &tls
        && let Some(plain) = endpoints.iter().find(|endpoint| !endpoint.tls)
    {
        reader.reject(
            tls.place,
            format!("`tls` is for https endpoints, and {plain} is not one; write https:// there"),
        );
    }
    let tls = tls.map(|(_, tls)| tls).unwrap_or_default();
    (reader.count() == before).then_some(Settings { endpoints, tls, user })
}

/// A prefix with its `/` at the end.
pub(super) fn read_prefix(reader: &mut Reader<'_>, item: Item<'_>) -> Option<String> {
    reader.parse(item, "a prefix such as /lb/", |text| {
        if text.len() > MAX_TEXT {
            return Err(format!("the prefix has {} bytes; use at most {MAX_TEXT}", text.len()));
        }
        Ok(if text.ends_with('/') { text.to_owned() } else { format!("{text}/") })
    })
}

fn read_endpoints(reader: &mut Reader<'_>, list: Item<'_>) -> Vec<Endpoint> {
    let before = reader.count();
    let items = reader.list(list, "a list for `endpoints`, such as [http://10.0.0.1:2379]");
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for item in items {
        let read = reader.parse(item, "an endpoint such as http://10.0.0.1:2379", str::parse);
        let Some(endpoint) = read else {
            continue;
        };
        if endpoints.contains(&endpoint) {
            reader.reject(item.place, format!("endpoint {endpoint} stands twice; remove one"));
        } else {
            endpoints.push(endpoint);
        }
    }
    if endpoints.is_empty() && reader.count() == before {
        reader.reject(list.place, "`endpoints` is empty; name a member: [http://HOST:2379]");
    }
    endpoints
}

fn read_tls(reader: &mut Reader<'_>, item: Item<'_>, directory: &Path) -> Tls {
    let mut tls = Tls::default();
    for field in reader.fields(item, "a mapping for `tls`", &TLS) {
        let (key, item) = (field.key, field.item);
        let mut path = || read_path(reader, item, key, directory);
        match key {
            "ca" => tls.ca = path(),
            "cert" => tls.cert = path(),
            "key" => tls.key = path(),
            _ => tls.server_name = reader.parse(item, "a name for `server_name`", same),
        }
    }
    let (has, needs) = match (item.get("cert"), item.get("key")) {
        (Some(_), None) => ("cert", "key"),
        (None, Some(_)) => ("key", "cert"),
        _ => return tls,
    };
    reader
        .reject(item.place, format!("`{has}` needs `{needs}` beside it; add the path of its file"));
    tls
}

fn read_user(reader: &mut Reader<'_>, item: Item<'_>, directory: &Path) -> Option<User> {
    let (mut name, mut password_file) = (None, None);
    let what = "a mapping for `user` with `name:` and `password_file:`";
    for field in reader.fields(item, what, &USER) {
        if field.key == "name" {
            name = reader.parse(field.item, "a user's name", same);
        } else {
            password_file = read_path(reader, field.item, field.key, directory);
        }
    }
    for key in ["name", "password_file"] {
        if item.is_mapping() && item.get(key).is_none() {
            reader.reject(item.place, format!("`user` needs a `{key}`"));
        }
    }
    Some(User { name: name?, password_file: password_file? })
}

/// Services need ranges; layouts without services have no use for them.
fn check_ranges(
    reader: &mut Reader<'_>,
    source: Item<'_>,
    layout: LayoutKind,
    ranges: Option<(Item<'_>, Vec<IpNet>)>,
) -> Vec<IpNet> {
    match (layout, ranges) {
        (LayoutKind::Native, Some((_, ranges))) => ranges,
        (LayoutKind::Native, None) => {
            let reason = "an etcd source needs `vip_ranges` beside `etcd`, such as \
                          `vip_ranges: [10.96.0.0/12]`: whoever can write to the store could \
                          otherwise redirect any connection of this host";
            reader.reject(source.place, reason);
            Vec::new()
        }
        (_, None) => Vec::new(),
        (_, Some((item, _))) => {
            let reason = "this layout has backends only, which claim no address; remove \
                          `vip_ranges`";
            reader.reject(item.place, reason);
            Vec::new()
        }
    }
}

/// Addresses to give away must be ours to claim.
fn check_pool(
    reader: &mut Reader<'_>,
    layout: LayoutKind,
    pool: Option<(Item<'_>, Vec<IpNet>)>,
    vip_ranges: &[IpNet],
) -> Vec<IpNet> {
    let Some((item, pool)) = pool else {
        return Vec::new();
    };
    if layout != LayoutKind::Native {
        reader.reject(item.place, "`vip_pool` is for the native layout; remove it");
    }
    for range in &pool {
        if layout == LayoutKind::Native && !vip_ranges.iter().any(|outer| outer.contains(range)) {
            let reason = format!(
                "`vip_pool` {range} is outside `vip_ranges`; add it there or choose another pool"
            );
            reader.reject(item.place, reason);
        }
    }
    pool
}

fn parse_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._/:".contains(c);
    if text.len() <= MAX_TEXT && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` can't name a source; use up to {MAX_TEXT} letters, digits and - . _ / :"))
}

fn parse_grace(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).ok().filter(|grace| *grace <= LONGEST_GRACE).ok_or_else(|| {
        format!("`{text}` is not a time from 0s to 1h for `removal_grace`; write 30s")
    })
}

fn same(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}
