//! etcd as a store: how it is reached, read, watched and written. The only place that names
//! `etcd_client`; what keys mean is for [`crate::source`], [`crate::names`] and [`crate::ctl`] to
//! say.

mod backoff;
pub mod client;
mod connection;
mod credentials;
pub mod error;
pub mod kv;
pub mod lease;
mod position;
pub mod settings;
mod tls;
pub mod watch;

pub use self::client::Client;
pub use self::error::EtcdError;
pub use self::kv::{Change, Condition, KeyValue, Listing, Operation};
pub use self::lease::{Keeper, KeeperState, TakeOver};
pub use self::settings::{Endpoint, Settings, Tls, User};
pub use self::watch::{Event, follow};
