//! Cgroups of threads. The kernel chooses a socket's programs by the cgroup of the thread that
//! creates the socket, so a test needs a *threaded* cgroup (cgroup-v2.rst, "Threads"): its thread
//! and every thread and process begun by it belong there, the rest of the test process does not.

use crate::wait::within;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A threaded cgroup, removed on drop. Threads in it must have ended by then.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates `name` under the cgroup of the test process; never uses that one itself.
    pub fn create(name: &str) -> Self {
        Self::create_under(&own_cgroup(), name)
    }

    /// Creates `name` under this cgroup.
    pub fn child(&self, name: &str) -> Self {
        Self::create_under(&self.path, name)
    }

    fn create_under(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| {
            panic!("can't create cgroup {}: {error}; run the tests as root", path.display())
        });
        // From here on the directory is removed whatever happens.
        let cgroup = Self { path };
        cgroup.write("cgroup.type", "threaded").unwrap_or_else(|error| {
            panic!(
                "{} can't be a threaded cgroup: {error}; run the tests from a cgroup without \
                 domain controllers in cgroup.subtree_control (the root will do)",
                cgroup.path.display()
            )
        });
        cgroup
    }

    /// Moves the calling thread here.
    pub fn enter(&self) {
        let tid = nix::unistd::gettid().to_string();
        self.write("cgroup.threads", &tid).unwrap_or_else(|error| {
            panic!("can't move thread {tid} into cgroup {}: {error}", self.path.display())
        });
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.path.join(file), text)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A joined thread leaves its cgroup a moment after the join.
        let removed = within(Duration::from_secs(10), || fs::remove_dir(&self.path).ok());
        if removed.is_none() && !std::thread::panicking() {
            let threads = fs::read_to_string(self.path.join("cgroup.threads"));
            panic!("cgroup {} is still in use by threads {threads:?}", self.path.display());
        }
    }
}

/// Where the cgroup2 hierarchy is mounted.
pub fn mount_point() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .expect("no cgroup2 hierarchy in /proc/self/mounts: mount -t cgroup2 none /sys/fs/cgroup")
}

pub(crate) fn own_cgroup() -> PathBuf {
    let own = fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .expect("the process is in no cgroup2 (no `0::` line in /proc/self/cgroup)");
    mount_point().join(path)
}
