//! Services and backends kept in etcd.
//!
//! What keys and values mean is decided in [`layout`].

pub mod keys;
pub mod layout;
pub mod vips;
