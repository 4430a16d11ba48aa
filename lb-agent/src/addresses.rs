//! The addresses of this host's interfaces, as they come and go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// The addresses as they are now.
pub type Addresses = watch::Receiver<Arc<BTreeSet<IpAddr>>>;
