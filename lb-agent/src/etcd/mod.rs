//! etcd as a store: how it is reached, read, watched and written. The only place that names
//! `etcd_client`; what keys mean is for [`crate::source`], [`crate::names`] and [`crate::ctl`] to
//! say.

pub mod settings;

pub use self::settings::{Endpoint, Settings, Tls, User};
