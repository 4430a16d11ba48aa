//! A small Kubernetes API server: objects in memory, lists in pages, watches, selectors, conflicts,
//! patches, discovery, and faults on demand. It knows no schema, sets no defaults and starts nothing.
//!
//! [`ApiServer::start`] listens on loopback of the calling thread's network namespace. `kubectl` and
//! clients reach it by [`ApiServer::kubeconfig`]; a test changes objects with [`ApiServer::put`] and
//! [`ApiServer::delete`], which need no connection.
//!
//! ```no_run
//! # use serde_json::json;
//! let api = integration::apiserver::ApiServer::start();
//! api.put(json!({
//!     "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
//!     "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
//! }));
//! api.delete("services", "default", "web");
//! ```

mod apply;
mod discovery;
mod faults;
mod kinds;
mod listen;
mod patch;
mod selector;
mod serve;
mod store;
mod watching;

use self::kinds::Kind;
use self::listen::Running;
use self::selector::Selector;
use self::serve::Shared;
use crate::etcd::pki::{Pair, Pki};
use crate::process::{self, Finished};
use crate::wait::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// How long it may take until an address that was given up is free.
const REBIND: Duration = Duration::from_secs(20);

/// A server; stopped on drop.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: Option<Secured>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Secured {
    authority: PathBuf,
    pair: Pair,
    /// Whether clients must show a certificate of that authority.
    mutual: bool,
}

impl ApiServer {
    /// An empty server on a free port of 127.0.0.1, without TLS.
    pub fn start() -> Self {
        Self::start_at(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))
    }

    /// An empty server at an address of the calling thread's network namespace; port 0 means a free
    /// one.
    pub fn start_at(address: SocketAddr) -> Self {
        Self::create(address, None)
    }

    /// An empty server on a free port of 127.0.0.1, with a certificate of this authority.
    pub fn start_tls(authority: &Pki) -> Self {
        Self::start_secured(authority, false)
    }

    /// As [`ApiServer::start_tls`], for clients that have a certificate of this authority, too.
    pub fn start_mutual_tls(authority: &Pki) -> Self {
        Self::start_secured(authority, true)
    }

    fn start_secured(authority: &Pki, mutual: bool) -> Self {
        let secured = Secured { authority: authority.ca(), pair: authority.server(), mutual };
        Self::create(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), Some(secured))
    }

    fn create(address: SocketAddr, tls: Option<Secured>) -> Self {
        let listener = bind(address);
        let address = listener.local_addr().expect("a socket that is bound has an address");
        let mut server = Self { shared: Arc::default(), address, tls, running: None };
        server.serve(listener);
        server
    }

    /// `http://127.0.0.1:34567`.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig for this server. `token` is a token file that the client is to read.
    pub fn kubeconfig(&self, path: &Path, token: Option<&Path>) {
        let user = token.map_or_else(|| json!({}), |file| json!({"tokenFile": file}));
        self.kubeconfig_of(path, user);
    }

    /// Writes a kubeconfig for this server, with this user.
    pub fn kubeconfig_of(&self, path: &Path, user: Value) {
        let mut cluster = json!({"server": self.url()});
        if let Some(tls) = &self.tls {
            cluster["certificate-authority"] = json!(tls.authority);
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(path, config.to_string()).expect("the scratch directory is writable");
    }

    /// Runs kubectl against this server to its end. Its kubeconfig and caches are in `scratch`.
    pub fn kubectl(&self, scratch: &Path, arguments: &[&str]) -> Finished {
        let kubeconfig = scratch.join("kubectl.conf");
        self.kubeconfig(&kubeconfig, None);
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(kubeconfig).args(arguments).env("HOME", scratch);
        process::run(&mut command, scratch)
    }

    // === objects ===

    /// Makes or replaces an object, which says its `apiVersion` and `kind`. Without a namespace it
    /// is in `default`. Returns its resourceVersion.
    #[track_caller]
    pub fn put(&self, object: Value) -> u64 {
        self.put_all([object])
    }

    /// Makes or replaces objects at one moment, as [`put`](Self::put) does: watches see them
    /// together. Returns the last one's resourceVersion.
    #[track_caller]
    pub fn put_all(&self, objects: impl IntoIterator<Item = Value>) -> u64 {
        let put = self.shared.change(|store| {
            let mut version = store.version();
            for object in objects {
                let (api, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
                let kind = Kind::of(api, kind).ok_or_else(|| format!("no kind {api} {kind}"))?;
                let metadata = &object["metadata"];
                let namespace = if kind.namespaced {
                    metadata["namespace"].as_str().unwrap_or("default")
                } else {
                    ""
                };
                let written = match store.get(kind, namespace, text(&metadata["name"])) {
                    Ok(_) => store.update(kind, object),
                    Err(_) => store.create(kind, object),
                };
                let written = written.map_err(|refusal| refusal.message)?;
                version = version_of(&written);
            }
            Ok::<_, String>(version)
        });
        put.expect("the object is good")
    }

    /// Removes an object of a kind (`Service` or `services`); `namespace` is empty for kinds without.
    /// Returns the resourceVersion of the removal; `None` if there was no such object.
    #[track_caller]
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Option<u64> {
        let kind = known(kind);
        let gone = self.shared.change(|store| store.delete(kind, namespace, name)).ok()?;
        Some(version_of(&gone))
    }

    /// An object.
    #[track_caller]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let found = self.shared.store().get(known(kind), namespace, name).ok()?;
        Some((*found).clone())
    }

    /// All objects of a kind, in order of namespace and name.
    #[track_caller]
    pub fn list(&self, kind: &str) -> Vec<Value> {
        objects(&self.shared, known(kind))
    }

    /// The Events that clients have written, of both API groups.
    pub fn events(&self) -> Vec<Value> {
        let kinds = kinds::KINDS.iter().filter(|kind| kind.kind == "Event");
        kinds.flat_map(|kind| objects(&self.shared, kind)).collect()
    }

    /// The requests so far: `GET /api/v1/services?limit=500`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests()
    }

    // === faults ===

    /// Stops: connections are dropped, new ones refused, until [`resume`](Self::resume). Objects stay.
    pub fn stop(&mut self) {
        drop(self.running.take());
    }

    /// Ends [`stop`](Self::stop), at the same address.
    pub fn resume(&mut self) {
        if self.running.is_none() {
            self.serve(bind_again(self.address));
        }
    }

    /// [`stop`](Self::stop) and [`resume`](Self::resume).
    pub fn restart(&mut self) {
        self.stop();
        self.resume();
    }

    /// Forgets old changes: who asks for what happened before now is told 410 Gone.
    pub fn compact(&self) {
        self.shared.change(|store| store.compact(false));
    }

    /// Drops all connections, and no client can go on where it was: 410 Gone.
    pub fn restart_with_amnesia(&mut self) {
        self.stop();
        self.shared.change(|store| store.compact(true));
        self.resume();
    }

    /// From now on, who does not show this token is told 401.
    pub fn require_token(&self, token: Option<&str>) {
        self.shared.set_faults(|faults| faults.token = token.map(str::to_owned));
    }

    /// From now on, requests for a resource (`servicecidrs`) are refused with this code; `None` ends
    /// that. Watches that run go on.
    pub fn refuse(&self, plural: &str, code: Option<u16>) {
        self.shared.set_faults(|faults| {
            faults.codes.retain(|(refused, _)| refused != plural);
            faults.codes.extend(code.map(|code| (plural.to_owned(), code)));
        });
    }

    /// From now on, every response waits so long before it begins.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.set_faults(|faults| faults.delay = delay);
    }

    /// From now on, or no longer, watches say nothing and don't end; connections stay.
    pub fn set_silent(&self, silent: bool) {
        self.shared.set_faults(|faults| faults.silent = silent);
    }

    /// From now on, watches can't begin with a list, as on servers before 1.32.
    pub fn forbid_streaming_lists(&self) {
        self.shared.set_faults(|faults| faults.no_streaming_lists = true);
    }

    /// How often watches that begin from now on are sent bookmarks; a minute at the start.
    pub fn set_bookmark_interval(&self, interval: Duration) {
        self.shared.set_bookmark_interval(interval);
    }

    fn serve(&mut self, listener: TcpListener) {
        let running = Running::start(listener, self.tls.as_ref(), Arc::clone(&self.shared));
        self.running = Some(running);
    }
}

// What most tests put.
impl ApiServer {
    /// A Service: `spec` is as in the API. It is in the namespace `default`.
    #[track_caller]
    pub fn put_service(&self, name: &str, spec: Value) -> u64 {
        self.put(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec,
        }))
    }

    /// An EndpointSlice `name` of a service in `default`: its family is that of the endpoints
    /// (`["10.1.0.1"]`), its ports are `(name, number, protocol)`. All endpoints are ready.
    #[track_caller]
    pub fn put_slice(
        &self,
        service: &str,
        name: &str,
        ports: &[(&str, u16, &str)],
        endpoints: &[&str],
    ) -> u64 {
        let v6 = endpoints.iter().any(|endpoint| endpoint.contains(':'));
        let ports = ports.iter().map(
            |(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}),
        );
        let endpoints = endpoints
            .iter()
            .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}));
        self.put(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "ports": ports.collect::<Vec<_>>(), "endpoints": endpoints.collect::<Vec<_>>(),
        }))
    }

    /// A Node with these internal addresses.
    #[track_caller]
    pub fn put_node(&self, name: &str, addresses: &[&str]) -> u64 {
        let addresses =
            addresses.iter().map(|address| json!({"type": "InternalIP", "address": address}));
        self.put(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {},
            "status": {"addresses": addresses.collect::<Vec<_>>()},
        }))
    }
}

fn bind(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).unwrap_or_else(|error| panic!("can't listen on {address}: {error}"))
}

/// A process that another test starts at this moment has a copy of each of our sockets until it executes its
/// program, so the address may be taken for a moment longer.
fn bind_again(address: SocketAddr) -> TcpListener {
    wait_for(&format!("{address} to be free again"), REBIND, || {
        TcpListener::bind(address).map_or_else(
            |error| {
                let taken = error.kind() == ErrorKind::AddrInUse;
                assert!(taken, "can't listen on {address}: {error}");
                None
            },
            Some,
        )
    })
}

#[track_caller]
fn known(kind: &str) -> &'static Kind {
    Kind::named(kind).unwrap_or_else(|| panic!("the API server knows no kind {kind}"))
}

fn objects(shared: &Shared, kind: &Kind) -> Vec<Value> {
    let found = shared.store().select(kind, &Selector::default());
    found.iter().map(|object| (**object).clone()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn version_of(object: &Value) -> u64 {
    text(&object["metadata"]["resourceVersion"]).parse().expect("versions are numbers here")
}
