//! Services and backends kept in etcd.

pub mod keys;
pub mod vips;
