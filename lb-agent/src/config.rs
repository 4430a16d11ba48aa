//! The main configuration file: typed settings with their defaults, and which files are sources.
//!
//! Pure: text in, settings or a list of everything that is wrong out. The services that may stand
//! in the same file are read by [`crate::source::spec`].

use crate::claims::Claims;
use crate::keys::{MAIN, SOURCE, TABLES};
use crate::model::Rejection;
use crate::source::spec::parse_zone;
use crate::yaml::{Document, Item, Place, Reader};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod etcd;
mod kubernetes;
mod names;
mod observe;

pub use self::etcd::EtcdSource;
pub use self::kubernetes::KubernetesSource;
pub use self::names::{Coredns, Dns, Names};
pub use self::observe::{Http, Metrics};

/// The kinds of sources.
const KINDS: [&str; 3] = ["file", "etcd", "kubernetes"];

/// Longest path of a Unix socket that the kernel takes.
const MAX_SOCKET_PATH: usize = 107;

/// The settings of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cgroup to attach to; by default the root of the cgroup2 hierarchy.
    pub cgroup: Option<PathBuf>,
    /// Cgroups below it whose sockets are left alone; what is not absolute starts at the root of the
    /// cgroup2 hierarchy.
    pub exclude_cgroups: Vec<PathBuf>,
    /// Where tables and links are pinned; the layout version is appended.
    pub pin_dir: PathBuf,
    /// Where the state file and the snapshot cache live.
    pub state_dir: PathBuf,
    /// The Unix socket of the API.
    pub socket: PathBuf,
    /// The group whose members may use it, by name or number; by default the agent's own.
    pub socket_group: Option<Arc<str>>,
    /// Where metrics and the status page are served.
    pub http: Http,
    /// What `/metrics` has.
    pub metrics: Metrics,
    /// Whether a graceful stop also detaches the programs.
    pub detach_on_exit: bool,
    /// What the services of this file may claim.
    pub vip_ranges: Option<Vec<IpNet>>,
    /// Whether checks of the services of this file may run programs.
    pub allow_exec: bool,
    /// This host's zone.
    pub zone: Option<Arc<str>>,
    /// Sizes of the kernel tables.
    pub tables: TableSizes,
    /// Further sources, by precedence after this one.
    pub sources: Vec<Source>,
    /// Where services can be looked up by name.
    pub names: Names,
    /// Whether connections that come as packets are served.
    pub packet_path: PacketPath,
    /// How often the agent looks whether its programs are attached and pinned as they should be.
    pub self_test: Duration,
    /// Whether this file is itself a source: it has `services:`.
    pub has_services: bool,
}

/// Whether connections that come as packets are served: from other hosts, and from guests without
/// sockets here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PacketPath {
    /// If there is a cluster, or a service that is exposed; as far as the kernel can.
    #[default]
    Auto,
    /// Yes, or the agent does not start.
    On,
    /// No: nftables are left alone.
    Off,
}

/// Most entries of each kernel table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Frontends.
    pub frontends: u32,
    /// Services.
    pub services: u32,
    /// Rows of all blocks, those that await their grace period included.
    pub rows: u32,
    /// Backends, counted once per service they are in.
    pub backends: u32,
    /// Open sockets in the direct-mapped table; a power of two.
    pub connections: u32,
    /// Open sockets that found their place there taken.
    pub overflow: u32,
    /// Clients with affinity.
    pub affinity: u32,
}

/// A further source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of services.
    File(FileSource),
    /// A prefix of an etcd cluster.
    Etcd(Arc<EtcdSource>),
    /// A Kubernetes cluster.
    Kubernetes(Arc<KubernetesSource>),
}

/// A further file of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSource {
    /// The file.
    pub path: PathBuf,
    /// What its services may claim.
    pub vip_ranges: Option<Vec<IpNet>>,
    /// Whether their checks may run programs.
    pub allow_exec: bool,
}

// === impl Config ===

/// Reads the main file.
///
/// # Errors
///
/// Every problem, with line and column where it has a place; never empty: text that is no YAML, keys that are
/// unknown or missing, values that can't be used, a source that is there twice, or nothing to serve.
pub fn parse(path: &Path, text: &str) -> Result<Config, Vec<Rejection>> {
    let document =
        Document::parse(&path.display().to_string(), text).map_err(|problem| vec![problem])?;
    from_document(path, &document)
}

/// [`parse`] for a document that is already parsed.
pub(crate) fn from_document(path: &Path, document: &Document) -> Result<Config, Vec<Rejection>> {
    let origin = path.display().to_string();
    let mut reader = Reader::new(&origin);
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut config = Config::default();
    for field in reader.fields(document.item(), "`key: value` lines", &MAIN) {
        let (key, item) = (field.key, field.item);
        let mut path = |default| read_path(&mut reader, item, key, directory).unwrap_or(default);
        match key {
            "cgroup" => config.cgroup = Some(path(PathBuf::new())),
            "pin_dir" => config.pin_dir = path(config.pin_dir),
            "state_dir" => config.state_dir = path(config.state_dir),
            "socket" => {
                config.socket = path(config.socket);
                let length = config.socket.as_os_str().len();
                if length > MAX_SOCKET_PATH {
                    reader.reject(
                        item.place,
                        format!(
                            "the socket's path has {length} bytes; the kernel takes \
                             {MAX_SOCKET_PATH}, use a shorter one"
                        ),
                    );
                }
            }
            "socket_group" => {
                let group = |text: &str| Ok::<_, String>(text.into());
                config.socket_group = reader.parse(item, "a group's name", group);
            }
            "http" => config.http = observe::read_http(&mut reader, item).unwrap_or_default(),
            "metrics" => config.metrics = observe::read_metrics(&mut reader, item),
            "detach_on_exit" => config.detach_on_exit = reader.flag(item, key),
            "vip_ranges" => config.vip_ranges = Some(read_ranges(&mut reader, item, key)),
            "allow_exec" => config.allow_exec = reader.flag(item, key),
            "zone" => {
                config.zone = reader.parse(item, "the name of this host's zone", parse_zone);
            }
            "exclude_cgroups" => config.exclude_cgroups = read_excluded(&mut reader, item),
            "tables" => config.tables = read_tables(&mut reader, item),
            "sources" => config.sources = read_sources(&mut reader, item, directory),
            "packet_path" => {
                config.packet_path = reader.word(field).unwrap_or_default();
            }
            "self_test" => {
                let what = "a time for `self_test`, such as 1m";
                config.self_test = reader.parse(item, what, self_test).unwrap_or(config.self_test);
            }
            "names" => config.names = names::read(&mut reader, item, directory),
            _ => config.has_services = true,
        }
    }
    repeated_sources(&mut reader, document, path, &config);
    if !config.has_services && document.item().get("sources").is_none() {
        let reason =
            "nothing to serve: add `services:` (`services: []` for none yet) or `sources:`";
        reader.reject(Place::default(), reason);
    }
    if reader.rejections.is_empty() { Ok(config) } else { Err(reader.rejections) }
}

fn self_test(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_secs(1)..=Duration::from_secs(3600);
    let time = humantime::parse_duration(text).ok().filter(|time| allowed.contains(time));
    time.ok_or_else(|| format!("`{text}` is not a `self_test` from 1s to 1h; write 1m"))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cgroup: None,
            exclude_cgroups: Vec::new(),
            pin_dir: "/sys/fs/bpf/lb".into(),
            state_dir: "/var/lib/lb-agent".into(),
            socket: "/run/lb-agent/agent.sock".into(),
            socket_group: None,
            http: Http::default(),
            metrics: Metrics::default(),
            detach_on_exit: false,
            vip_ranges: None,
            allow_exec: false,
            zone: None,
            tables: TableSizes::default(),
            sources: Vec::new(),
            names: Names::default(),
            packet_path: PacketPath::default(),
            self_test: Duration::from_secs(60),
            has_services: false,
        }
    }
}

impl Config {
    /// What the services in the main file may claim.
    pub fn claims(&self, host_addresses: Vec<IpAddr>) -> Claims {
        Claims {
            ranges: self.vip_ranges.clone(),
            host_addresses,
            strict: false,
            exec: self.allow_exec,
        }
    }

    /// The keys whose values differ, other than `services`.
    pub fn changed_settings(&self, now: &Self) -> Vec<&'static str> {
        // In full, so that a new setting can't be forgotten.
        let Self {
            cgroup,
            exclude_cgroups,
            pin_dir,
            state_dir,
            socket,
            socket_group,
            http,
            metrics,
            detach_on_exit,
            vip_ranges,
            allow_exec,
            zone,
            tables,
            sources,
            names,
            packet_path,
            self_test,
            has_services: _,
        } = self;
        [
            ("cgroup", *cgroup == now.cgroup),
            ("exclude_cgroups", *exclude_cgroups == now.exclude_cgroups),
            ("pin_dir", *pin_dir == now.pin_dir),
            ("state_dir", *state_dir == now.state_dir),
            ("socket", *socket == now.socket),
            ("socket_group", *socket_group == now.socket_group),
            ("http", *http == now.http),
            ("metrics", *metrics == now.metrics),
            ("detach_on_exit", *detach_on_exit == now.detach_on_exit),
            ("vip_ranges", *vip_ranges == now.vip_ranges),
            ("allow_exec", *allow_exec == now.allow_exec),
            ("zone", *zone == now.zone),
            ("tables", *tables == now.tables),
            ("sources", *sources == now.sources),
            ("names", *names == now.names),
            ("packet_path", *packet_path == now.packet_path),
            ("self_test", *self_test == now.self_test),
        ]
        .into_iter()
        .filter_map(|(key, same)| (!same).then_some(key))
        .collect()
    }
}

// === impl TableSizes ===

impl Default for TableSizes {
    fn default() -> Self {
        Self {
            frontends: 65_536,
            services: 65_536,
            rows: 262_144,
            backends: 262_144,
            connections: 262_144,
            overflow: 65_536,
            affinity: 65_536,
        }
    }
}

// === impl Source ===

impl Source {
    /// Its name, if it has one that could be another's; files are told apart by their paths.
    fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::File(_) => None,
            Self::Etcd(source) => Some(&source.name),
            Self::Kubernetes(source) => Some(&source.name),
        }
    }
}

// === impl FileSource ===

impl FileSource {
    /// What the services in this file may claim.
    pub fn claims(&self, host_addresses: Vec<IpAddr>) -> Claims {
        Claims {
            ranges: self.vip_ranges.clone(),
            host_addresses,
            strict: false,
            exec: self.allow_exec,
        }
    }
}

fn read_path(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    key: &str,
    directory: &Path,
) -> Option<PathBuf> {
    let what = format!("a path for `{key}`");
    reader.parse(item, &what, |text| Ok::<_, String>(directory.join(text)))
}

fn read_excluded(reader: &mut Reader<'_>, list: Item<'_>) -> Vec<PathBuf> {
    let items = reader.list(list, "a list for `exclude_cgroups`, such as [system.slice]");
    let path = |text: &str| Ok::<_, String>(PathBuf::from(text));
    items.filter_map(|item| reader.parse(item, "the path of a cgroup", path)).collect()
}

fn read_ranges(reader: &mut Reader<'_>, list: Item<'_>, key: &str) -> Vec<IpNet> {
    let what = format!("a list for `{key}`, such as [10.96.0.0/12]");
    let items = reader.list(list, &what);
    items
        .filter_map(|item| reader.parse(item, "a range such as 10.96.0.0/12", parse_range))
        .collect()
}

fn parse_range(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let length = if address.is_ipv4() { 32 } else { 128 };
        return Err(format!("`{text}` is an address, not a range; write {text}/{length}"));
    }
    let range: IpNet = text
        .parse()
        .map_err(|_| format!("`{text}` is not a range; write it as 10.96.0.0/12 or fd00::/8"))?;
    match range {
        // Frontends are compared as IPv4 then, so such a range would allow nothing.
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            Err(format!("`{text}` is IPv4 in IPv6 clothes; write it as 10.96.0.0/12"))
        }
        range => Ok(range.trunc()),
    }
}

fn read_tables(reader: &mut Reader<'_>, item: Item<'_>) -> TableSizes {
    let mut sizes = TableSizes::default();
    for field in reader.fields(item, "a mapping for `tables`", &TABLES) {
        let (key, item) = (field.key, field.item);
        let size = reader.number(field);
        match key {
            "frontends" => sizes.frontends = size,
            "services" => sizes.services = size,
            "rows" => sizes.rows = size,
            "backends" => sizes.backends = size,
            "overflow" => sizes.overflow = size,
            "affinity" => sizes.affinity = size,
            _ => {
                sizes.connections = size;
                if !size.is_power_of_two() {
                    let next = size.next_power_of_two();
                    let reason =
                        format!("`connections` must be a power of two, not {size}; use {next}");
                    reader.reject(item.place, reason);
                }
            }
        }
    }
    sizes
}

fn read_sources(reader: &mut Reader<'_>, list: Item<'_>, directory: &Path) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for item in reader.list(list, "a list for `sources`, such as `- file: more.yaml`") {
        let what = "a source such as `file: more.yaml`";
        let (mut path, mut ranges, mut allow_exec) = (None, None, false);
        for field in reader.fields(item, what, &SOURCE) {
            match field.key {
                "file" => path = read_path(reader, field.item, "file", directory),
                "allow_exec" => allow_exec = reader.flag(field.item, "allow_exec"),
                "vip_ranges" => {
                    ranges = Some((field.item, read_ranges(reader, field.item, field.key)));
                }
                _ => {}
            }
        }
        let kinds = KINDS.map(|kind| item.get(kind).map(|item| (kind, item)));
        let mut kinds = kinds.into_iter().flatten();
        let (first, second) = (kinds.next(), kinds.next());
        if let Some((_, second)) = second {
            let reason = "a source is a `file`, `etcd` or `kubernetes`; make two items of it";
            reader.reject(second.place, reason);
            continue;
        }
        let read = match first {
            Some(("file", _)) => path.map(|path| {
                let vip_ranges = ranges.map(|(_, ranges)| ranges);
                Source::File(FileSource { path, vip_ranges, allow_exec })
            }),
            Some(("etcd", etcd)) => etcd::read_source(reader, etcd, ranges, directory)
                .map(|source| Source::Etcd(Arc::new(EtcdSource { allow_exec, ..source }))),
            Some((_, kubernetes)) => {
                for key in ["vip_ranges", "allow_exec"] {
                    if let Some(item) = item.get(key) {
                        let reason = format!(
                            "`{key}` is not for `kubernetes`: its services claim what the \
                             cluster gives them, and have no checks; remove it"
                        );
                        reader.reject(item.place, reason);
                    }
                }
                kubernetes::read_source(reader, kubernetes, directory)
                    .map(|source| Source::Kubernetes(Arc::new(source)))
            }
            None => {
                if item.is_mapping() {
                    reader.reject(item.place, "a source needs a `file`, `etcd` or `kubernetes`");
                }
                None
            }
        };
        let Some(source) = read else {
            continue;
        };
        if let Some(name) = source.name()
            && sources.iter().any(|other| other.name() == Some(name))
            && let Some((_, place)) = first
        {
            let reason = format!("source `{name}` stands twice; give one another `name`");
            reader.reject(place.place, reason);
        }
        sources.push(source);
    }
    sources
}

/// A file twice would be in conflict with itself.
fn repeated_sources(reader: &mut Reader<'_>, document: &Document, main: &Path, config: &Config) {
    let mut seen = vec![main];
    for source in &config.sources {
        let Source::File(source) = source else {
            continue;
        };
        if seen.contains(&source.path.as_path()) {
            let place = document.item().get("sources").map(|item| item.place).unwrap_or_default();
            let file = source.path.display();
            reader
                .reject(place, format!("source `{file}` stands twice, or is this file; remove it"));
        }
        seen.push(&source.path);
    }
}

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
