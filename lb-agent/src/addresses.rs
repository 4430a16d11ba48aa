//! The addresses of this host's interfaces, as they come and go.
//!
//! The kernel tells of changes; what there is then is asked anew each time, and every minute in
//! case something was not told. Where it can't tell, the minute is all there is, and a warning.

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The addresses as they are now.
pub type Addresses = watch::Receiver<Arc<BTreeSet<IpAddr>>>;

/// Where kube-proxy in IPVS mode keeps all service addresses, and leaves them when it ends. They are
/// none of the host's own: no NodePort is served there.
const IPVS_DUMMY: &str = "kube-ipvs0";

/// How long not to rely on being told.
const SAFETY: Duration = Duration::from_secs(60);

/// Being told of changes, for as long as it lasts.
struct Told {
    changes: BoxStream<'static, ()>,
    connection: Option<JoinHandle<()>>,
}

/// Follows the addresses of the calling thread's network namespace. Must be called within a tokio
/// runtime all of whose threads are in that namespace; ends when nobody holds what it returns.
pub fn follow() -> Addresses {
    let (sender, addresses) = watch::channel(Arc::new(now().unwrap_or_default()));
    tokio::spawn(keep(sender, SAFETY));
    addresses
}

/// What there is now.
///
/// # Errors
///
/// If no netlink socket can be had to ask the kernel with: the process may open none, or has too many files open.
pub fn now() -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let interfaces = interfaces.filter(|interface| interface.interface_name != IPVS_DUMMY);
    Ok(interfaces.filter_map(|interface| address(&interface)).collect())
}

fn address(interface: &nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

async fn keep(sender: watch::Sender<Arc<BTreeSet<IpAddr>>>, safety: Duration) {
    let mut unheard = false;
    loop {
        // First listen, then look: what happens in between is told.
        let mut told = match Told::begin() {
            Ok(told) => {
                unheard = false;
                told
            }
            Err(error) => {
                if !std::mem::replace(&mut unheard, true) {
                    tracing::warn!(%error, "the kernel can't tell of changed addresses; they are \
                        looked at every {safety:?}; see that the agent may use netlink sockets");
                }
                Told::never()
            }
        };
        loop {
            look(&sender).await;
            let more = tokio::select! {
                () = sender.closed() => return,
                more = timeout(safety, told.next()) => more.unwrap_or(!unheard),
            };
            // Listening has failed, most likely because changes came faster than they were read.
            if !more {
                break;
            }
        }
    }
}

/// Looks at the addresses, and publishes them if they have changed.
async fn look(sender: &watch::Sender<Arc<BTreeSet<IpAddr>>>) {
    let looked = tokio::task::spawn_blocking(now).await;
    let found = match looked.map_err(io::Error::from).flatten() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the host's addresses can't be read; those known are kept");
            return;
        }
    };
    sender.send_if_modified(|known| {
        let changed = **known != found;
        if changed {
            tracing::info!(addresses = found.len(), "the host's addresses have changed");
            *known = Arc::new(found);
        }
        changed
    });
}

// === impl Told ===

impl Told {
    fn begin() -> io::Result<Self> {
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, _, messages) = new_multicast_connection(&groups)?;
        let connection = tokio::spawn(connection);
        Ok(Self { changes: messages.map(drop).boxed(), connection: Some(connection) })
    }

    /// Nothing is ever told.
    fn never() -> Self {
        Self { changes: stream::pending().boxed(), connection: None }
    }

    /// Waits for a change, and takes those that came with it. False if there will be no more.
    async fn next(&mut self) -> bool {
        if self.changes.next().await.is_none() {
            return false;
        }
        // What has come by now is seen by one look.
        while let Some(more) = futures_util::FutureExt::now_or_never(self.changes.next()) {
            if more.is_none() {
                return false;
            }
        }
        true
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use std::process::Command;

    fn ip(arguments: &[&str]) {
        let output = Command::new("ip").args(arguments).output().unwrap();
        assert!(output.status.success(), "ip {arguments:?}: {output:?}");
    }

    /// Waits until what is known is exactly this.
    async fn expect(addresses: &mut Addresses, expected: &[&str]) {
        let expected: BTreeSet<IpAddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
        let seen = addresses.wait_for(|now| **now == expected);
        if timeout(Duration::from_secs(20), seen).await.is_err() {
            panic!("{:?}, not {expected:?}", addresses.borrow());
        }
    }

    /// Runs in a network namespace of its own.
    fn apart(test: impl AsyncFnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip(&["link", "set", "lo", "up"]);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(test());
        });
        thread.join().unwrap();
    }

    #[test]
    fn addresses_come_and_go() {
        apart(async || {
            let mut addresses = follow();
            expect(&mut addresses, &["127.0.0.1", "::1"]).await;
            ip(&["address", "add", "192.0.2.7/32", "dev", "lo"]);
            expect(&mut addresses, &["127.0.0.1", "::1", "192.0.2.7"]).await;
            ip(&["address", "add", "2001:db8::7/128", "dev", "lo", "nodad"]);
            expect(&mut addresses, &["127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"]).await;
            ip(&["address", "del", "192.0.2.7/32", "dev", "lo"]);
            ip(&["address", "del", "2001:db8::7/128", "dev", "lo"]);
            expect(&mut addresses, &["127.0.0.1", "::1"]).await;
        });
    }

    #[test]
    fn what_kube_proxy_left_is_none_of_ours() {
        apart(async || {
            // Of another type, which every kernel has.
            ip(&["link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other"]);
            ip(&["address", "add", "10.96.0.1/32", "dev", "kube-ipvs0"]);
            let expected = ["127.0.0.1", "::1"].map(|address| address.parse().unwrap());
            assert_eq!(now().unwrap(), BTreeSet::from(expected));
        });
    }

    #[test]
    fn without_being_told_they_are_looked_at() {
        apart(async || {
            let (sender, mut addresses) = watch::channel(Arc::default());
            let told = Told::never();
            let looking = async {
                let mut told = told;
                loop {
                    look(&sender).await;
                    let _ = timeout(Duration::from_millis(20), told.next()).await;
                }
            };
            let expecting = async {
                expect(&mut addresses, &["127.0.0.1", "::1"]).await;
                ip(&["address", "add", "192.0.2.8/32", "dev", "lo"]);
                expect(&mut addresses, &["127.0.0.1", "::1", "192.0.2.8"]).await;
            };
            tokio::select! { () = looking => {}, () = expecting => {} }
        });
    }

    #[test]
    fn a_flood_loses_nothing_for_good() {
        apart(async || {
            let mut addresses = follow();
            // More than the socket's buffer holds, and nobody reads meanwhile: `ip` blocks the
            // only thread.
            let flood: String = (0..3000)
                .map(|i| format!("address add 198.18.{}.{}/32 dev lo\n", i / 250, i % 250 + 1))
                .collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), flood).unwrap();
            ip(&["-batch", file.path().to_str().unwrap()]);
            let all = addresses.wait_for(|now| now.len() == 3002);
            timeout(Duration::from_secs(30), all).await.unwrap().unwrap();
        });
    }
}
