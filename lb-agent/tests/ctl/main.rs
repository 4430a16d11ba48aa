//! `lbctl` and the API as their users meet them: the real binary, the real socket.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod api;
mod etcd;
mod explain;
mod failures;
mod fixture;
mod forms;
mod watch;
