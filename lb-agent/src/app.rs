//! Wiring only: builds the parts in the order of a start, joins them, and takes them down.

mod health;
pub mod kubeproxy;
mod packets;

use crate::addresses::{self, Addresses};
use crate::admin::{self, Admin};
use crate::api::{self, BindError};
use crate::config::{self, Config, Source};
use crate::dataplane::exclude;
use crate::dataplane::pinned::Pinned;
use crate::dataplane::preflight::{self, PreflightError};
use crate::dataplane::{Kernel, PinLock, Settings, detach, trace};
use crate::desired::{self, Input};
use crate::inspect::Inspector;
use crate::leases::Leases;
use crate::model::{Rejection, Snapshot};
use crate::monitor::WithHealth;
use crate::names::{self, Names};
use crate::plan::{Limits, Observed, Planner};
use crate::reconcile::{Files, Reconciler};
use crate::report::Identity;
use crate::source::etcd::layout::LayoutKind;
use crate::source::{Feed, etcd, file, kubernetes};
use crate::status::Published;
use crate::store;
use anyhow::Context;
use lb_common::LAYOUT_VERSION;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Settings that the command line may give in place of the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// Attach to this cgroup2 directory instead of the root of the hierarchy
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Leave the sockets of this cgroup2 directory and those below it alone; may be given 4 times
    #[arg(long = "exclude-cgroup", value_name = "PATH")]
    pub exclude_cgroups: Vec<PathBuf>,
    /// Pin tables and links below this directory of bpffs
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Keep state file and snapshot cache here
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Serve the API on this Unix socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Serve metrics and the status page on this address, or `off`
    #[arg(long, value_name = "ADDR")]
    pub http: Option<config::Http>,
    /// Serve connections from other hosts by nftables (auto: with a cluster or exposed services)
    #[arg(long, value_enum, value_name = "WHEN")]
    pub packet_path: Option<config::PacketPath>,
    /// Detach the programs and remove the tables when stopped
    #[arg(long)]
    pub detach_on_exit: bool,
}

/// Why a command failed, as far as the exit code is concerned.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong: every problem, one line each. Exit code 64.
    Configuration(Vec<String>),
    /// Anything else. Exit code 1.
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Reads the configuration; nothing is touched yet.
fn read_config(path: &Path, overrides: &Overrides) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::Configuration(vec![format!("{}: {error}; name a readable file", path.display())])
    })?;
    let config = config::parse(path, &text)
        .map_err(|problems| Failure::Configuration(problems.iter().map(one_line).collect()))?;
    Ok(overridden(config, overrides))
}

/// The configuration with what the command line says.
fn overridden(mut config: Config, overrides: &Overrides) -> Config {
    let Overrides {
        cgroup,
        exclude_cgroups,
        pin_dir,
        state_dir,
        socket,
        http,
        packet_path,
        detach_on_exit,
    } = overrides.clone();
    config.cgroup = cgroup.or(config.cgroup);
    if !exclude_cgroups.is_empty() {
        config.exclude_cgroups = exclude_cgroups;
    }
    config.pin_dir = pin_dir.unwrap_or(config.pin_dir);
    config.state_dir = state_dir.unwrap_or(config.state_dir);
    config.socket = socket.unwrap_or(config.socket);
    config.http = http.unwrap_or(config.http);
    config.packet_path = packet_path.unwrap_or(config.packet_path);
    config.detach_on_exit |= detach_on_exit;
    config
}

/// `origin: service: reason`.
fn one_line(rejection: &Rejection) -> String {
    let Rejection { origin, service, reason } = rejection;
    match service {
        Some(service) => format!("{origin}: service {service}: {reason}"),
        None => format!("{origin}: {reason}"),
    }
}

/// `lb-agent run`.
///
/// # Errors
///
/// [`Failure::Configuration`] if the file can't be read, it has settings that can't be used, or the host lacks what
/// they name: a cgroup, a place on bpffs, a group. [`Failure::Other`] if the host or the process is not fit,
/// another agent has the pin directory or the socket, an address can't be listened on, the kernel refuses tables or
/// programs, or the packet path is `on` and can't be. What was attached serves on, unless it fails while it
/// detaches at its end.
pub async fn run(path: &Path, overrides: &Overrides) -> Result<(), Failure> {
    let config = read_config(path, overrides)?;
    let terminated = terminated()?;
    serve(Some(path), &config, |_| async {
        terminated.await;
        Ok(())
    })
    .await
}

/// What is there once the sources are followed, for what runs beside the loop.
struct Started {
    published: watch::Receiver<Arc<Published>>,
    clusters: Vec<kubernetes::Running>,
    /// The host's addresses, if a source needs them.
    addresses: Option<Addresses>,
}

/// SIGTERM or SIGINT, which from this call on don't end the process by themselves: what has been attached is to be
/// left in order.
fn terminated() -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Serves until what `beside` makes ends; then the agent stops in order, and ends as that did. `path`
/// is the main file.
async fn serve<F: Future<Output = anyhow::Result<()>>>(
    path: Option<&Path>,
    config: &Config,
    beside: impl FnOnce(Started) -> F,
) -> Result<(), Failure> {
    let host =
        preflight::check(config.cgroup.as_deref(), &config.pin_dir).map_err(|e| match e {
            PreflightError::Configuration(problem) => Failure::Configuration(vec![problem]),
            PreflightError::Host(problem) => Failure::Other(anyhow::anyhow!(problem)),
        })?;
    let excluded = exclude::resolve(&config.exclude_cgroups, &host.cgroup)
        .map_err(|problem| Failure::Configuration(vec![problem]))?;
    host.warn();
    let pins = config.pin_dir.join(LAYOUT_VERSION.to_string());
    let lock = PinLock::acquire(&pins)?;
    let bound = api::bind(&config.socket, config.socket_group.as_deref()).map_err(|e| match e {
        BindError::NoGroup(..) => Failure::Configuration(vec![e.to_string()]),
        e => e.into(),
    })?;
    let (http, http_warning) = api::http::bind(config.http)?;

    let settings = Settings {
        sizes: config.tables,
        features: host.features,
        netns: host.netns,
        sk_err: host.sk_err,
        excluded,
    };
    let kernel = Kernel::open(&config.pin_dir, &host.cgroup, &settings)?;
    let packets = packets::prepare(config)?;
    let mut warnings = host.warnings;
    if let Some(warning) = http_warning {
        tracing::warn!("{warning}");
        warnings.push(warning);
    }
    if let Some(warning) = kernel.warning() {
        tracing::warn!("{warning}");
        warnings.push(warning.to_owned());
    }
    let files = Files::in_directory(&config.state_dir);
    let (feeds, clusters, addresses) = spawn_sources(path, config, &files);
    let identity = Identity { cgroup: host.cgroup, pin_dir: pins.clone(), warnings };
    let overrides_file = config.state_dir.join("overrides.json");
    let (own, overrides) = watch::channel(Arc::new(admin::load(&overrides_file)));
    let monitor = health::start(config, overrides);
    let board = monitor.board();
    let admin = Admin::new(overrides_file, own, own_stores(config), Arc::clone(&board));
    let mut reconciler = Reconciler::new(kernel, limits(config), feeds, identity, files, monitor)?;
    reconciler.test_every(config.self_test);
    let (packets, following) = packets::start(packets, reconciler.packets(), &clusters);

    let names = Names::spawn(config.names.clone(), reconciler.published(), &pins);
    let inner = Arc::new(Pinned::open(&config.pin_dir)?);
    let counters = Arc::new(WithHealth { inner, board });
    let (stop_api, mut api_stopped) = watch::channel(());
    let mut http_stopped = api_stopped.clone();
    let inspector = Arc::new(Inspector::new(&config.pin_dir, reconciler.published()));
    // An agent that died may have left it on.
    trace::switch_off(&config.pin_dir)?;
    let parts = api::Parts {
        published: reconciler.published(),
        counters,
        leases: leases(config),
        admin: Arc::new(admin),
        names: names.status(),
        packets: packets.clone(),
        wanted: reconciler.packets(),
        pulse: reconciler.pulse(),
        inspector: Arc::clone(&inspector),
    };
    let http = http.map(|listener| {
        let page = api::Page::new(parts.clone());
        let router = api::http::router(parts.clone(), config.metrics, &page);
        tokio::spawn(api::http::serve(listener, router, async move {
            drop(http_stopped.changed().await);
            page.close();
        }))
    });
    let api = tokio::spawn(api::serve(bound, parts, async move {
        // The sender is dropped when the loop has ended, which is the signal.
        drop(api_stopped.changed().await);
    }));

    let started = Started { published: reconciler.published(), clusters, addresses };
    let mut outcome = Ok(());
    let ended = reconciler.run(async { outcome = beside(started).await }).await;
    inspector.tracer().stop();
    drop(stop_api);
    api.await.context("the API's task")?;
    if let Some(http) = http {
        http.await.context("the task of the HTTP listener")?;
    }
    ended?;
    // A socket that nobody listens on would only puzzle; the next agent would replace it anyway.
    if let Err(error) = std::fs::remove_file(&config.socket) {
        tracing::warn!(%error, socket = %config.socket.display(), "the socket was not removed");
    }
    // The tables are unmapped before their pins go.
    drop(reconciler);
    if let Some(following) = following {
        // Nobody makes tables any more when they are removed.
        following.await.context("the task of the packet path")?;
    }
    names.stop(config.detach_on_exit).await;
    if config.detach_on_exit {
        if let (_, Some(line)) = packets::remove(config)? {
            tracing::warn!("{line}");
        }
        detach(&config.pin_dir)?;
        tracing::info!("detached: nothing is translated any more");
    } else {
        tracing::info!("stopped: the programs stay attached (`lb-agent detach` removes them)");
    }
    drop(lock);
    Ok(outcome?)
}

fn limits(config: &Config) -> Limits {
    let config::TableSizes { frontends, services, rows, backends, .. } = config.tables;
    Limits { frontends, services, rows, backends }
}

/// The stores that have a place for what operators say.
fn own_stores(config: &Config) -> BTreeMap<Arc<str>, admin::Store> {
    let stores = config.sources.iter().filter_map(|source| match source {
        Source::Etcd(source) if source.layout == LayoutKind::Native => {
            let settings = Arc::clone(&source.settings);
            let store = admin::Store { settings, prefix: source.prefix.clone() };
            Some((Arc::clone(&source.name), store))
        }
        _ => None,
    });
    stores.collect()
}

/// The stores whose leases can be asked about.
fn leases(config: &Config) -> Leases {
    let stores = config.sources.iter().filter_map(|source| match source {
        Source::Etcd(source) => Some((Arc::clone(&source.name), Arc::clone(&source.settings))),
        Source::File(_) | Source::Kubernetes(_) => None,
    });
    Leases::new(stores.collect())
}

/// The sources, in order of precedence: the main file first if it has services.
fn spawn_sources(
    path: Option<&Path>,
    config: &Config,
    files: &Files,
) -> (Vec<Feed>, Vec<kubernetes::Running>, Option<Addresses>) {
    let mut cached: BTreeMap<String, Arc<Snapshot>> =
        store::load(&files.snapshots).ok().flatten().unwrap_or_else(|| {
            tracing::debug!("no cached snapshots");
            BTreeMap::new()
        });
    let addresses = host_addresses();
    let mut take = |name: &str| cached.remove(name);
    let (mut feeds, mut clusters) = (Vec::new(), Vec::new());
    let mut followed = None;
    if let Some(path) = path.filter(|_| config.has_services || config.sources.is_empty()) {
        let cached = take(&file::source_name(path));
        let claims = config.claims(addresses.clone());
        feeds.push(file::spawn(path.to_owned(), claims, true, cached));
    }
    for source in &config.sources {
        feeds.push(match source {
            Source::File(source) => {
                let cached = take(&file::source_name(&source.path));
                let claims = source.claims(addresses.clone());
                file::spawn(source.path.clone(), claims, false, cached)
            }
            Source::Etcd(source) => {
                let claims = source.claims(addresses.clone());
                etcd::spawn(Arc::clone(source), claims, take(&source.name))
            }
            Source::Kubernetes(source) => {
                let node = source.node.clone().unwrap_or_else(host_name);
                let cached = take(&source.name);
                let addresses = followed.get_or_insert_with(addresses::follow).clone();
                let running = kubernetes::spawn(Arc::clone(source), node, addresses, cached);
                let feed = running.feed.clone();
                clusters.push(running);
                feed
            }
        });
    }
    (feeds, clusters, followed)
}

/// Addresses of this host's interfaces. A failure only means that none is protected from being
/// claimed by mistake.
fn host_addresses() -> Vec<IpAddr> {
    match addresses::now() {
        Ok(addresses) => addresses.into_iter().collect(),
        Err(error) => {
            tracing::warn!(%error, "the host's own addresses are not known");
            Vec::new()
        }
    }
}

/// The name of this host, as Kubernetes writes the names of nodes.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|error| {
        tracing::warn!(%error, "this host's name is not known; set `node` to the node's name");
        String::new()
    });
    name.trim().to_lowercase()
}

/// `lb-agent check`: reads everything that `run` would read on this host, and tries whether it fits.
/// Returns how many services are good, and what was not asked: stores and clusters are not.
///
/// # Errors
///
/// [`Failure::Configuration`] with a line for each problem: a file that can't be read or is no such file, a
/// setting, or a service that `run` would reject.
pub fn check(path: &Path, overrides: &Overrides) -> Result<(usize, Vec<String>), Failure> {
    let config = read_config(path, overrides)?;
    let addresses = host_addresses();
    let mut problems = Vec::new();
    let mut read = |path: &Path, claims, main| {
        let snapshot = match file::read(path, &claims, main) {
            Ok(translation) => {
                problems.extend(translation.rejections.iter().map(one_line));
                Some(Arc::new(translation.snapshot))
            }
            Err(rejection) => {
                problems.push(one_line(&rejection));
                None
            }
        };
        Input { source: file::source_name(path), snapshot, synced: true }
    };
    let (mut inputs, mut unasked) = (Vec::new(), Vec::new());
    if config.has_services || config.sources.is_empty() {
        inputs.push(read(path, config.claims(addresses.clone()), true));
    }
    for source in &config.sources {
        inputs.push(match source {
            Source::File(source) => read(&source.path, source.claims(addresses.clone()), false),
            Source::Etcd(source) => {
                let name = Arc::clone(&source.name);
                unasked.push(format!("{name}: its settings are good; the store is not asked"));
                Input { source: name, snapshot: None, synced: false }
            }
            Source::Kubernetes(source) => {
                let name = Arc::clone(&source.name);
                unasked.push(format!("{name}: its settings are good; the cluster is not asked"));
                Input { source: name, snapshot: None, synced: false }
            }
        });
    }
    let desired = desired::merge(inputs);
    problems.extend(desired.rejections.iter().map(one_line));
    let mut planner =
        Planner::adopt(limits(&config), Observed { fresh: true, ..Observed::default() })?;
    problems.extend(planner.plan(&desired).rejections.iter().map(one_line));
    if problems.is_empty() {
        return Ok((desired.services.len() + desired.waiting.len(), unasked));
    }
    Err(Failure::Configuration(problems))
}

/// Removes the packet path's tables that an agent left. Returns whether there were any, and what is to be
/// said of those that stay.
///
/// # Errors
///
/// If the kernel can't be asked, as without CAP_NET_ADMIN, or refuses to remove a table. That of IPv4 is removed
/// first, and may be gone then.
pub fn remove_packet_path() -> anyhow::Result<(bool, Option<String>)> {
    packets::remove(&Config::default())
}

/// `lb-agent detach`: removes links, tables and names. Returns whether there were any, and what is to
/// be said of what stays.
///
/// # Errors
///
/// [`Failure::Configuration`] if there is a main file and it can't be read or used. [`Failure::Other`] if an agent
/// has the pin directory, and then nothing is removed; or if names, packet path, or links and tables can't be
/// removed, the last also because an agent of another layout runs. Each is tried, whatever becomes of the others.
pub fn detach_all(
    path: Option<&Path>,
    overrides: &Overrides,
) -> Result<(bool, Option<String>), Failure> {
    let config = match (path, &overrides.pin_dir) {
        (Some(path), _) => read_config(path, overrides)?,
        (None, Some(pin_dir)) => Config { pin_dir: pin_dir.clone(), ..Config::default() },
        (None, None) => Config::default(),
    };
    let named = || names::remove(&config.names).map_err(|problem| anyhow::anyhow!(problem));
    let pins = config.pin_dir.join(LAYOUT_VERSION.to_string());
    let lock = pins.is_dir().then(|| PinLock::acquire(&pins)).transpose()?;
    // The services go in any case.
    let named = named();
    let packets = packets::remove(&config);
    let found = detach(&config.pin_dir)?;
    drop(lock);
    let (named, (packets, line)) = (named?, packets?);
    Ok((named || packets || found, line))
}
