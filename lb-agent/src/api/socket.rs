//! Decides whether the API's socket may be created at a path, and creates it so that at no moment
//! anybody but its owner and group can connect. Serving on it is left to [`super::serve`].

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, chown, getegid};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixSocket};

/// Owner and group may read and write: on a socket, that is who may connect.
const MODE: u32 = 0o660;

/// Connections the kernel keeps waiting; people and scrapers, so a few are plenty.
const BACKLOG: u32 = 64;

/// Why there is no API socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path has no directory and none can be made.
    #[error("cannot create the directory {}: {source}; create it, or set `socket` to a path elsewhere", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process listens there.
    #[error("{} is in use: another process answers on it; stop that one, or set `socket` to another path", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there, and is not ours to remove.
    #[error("{} exists and is not a socket; move it away, or set `socket` to another path", .0.display())]
    NotASocket(PathBuf),
    /// Longer than the kernel's socket addresses are.
    #[error("{} is too long for a socket ({} bytes, 107 at most); set `socket` to a shorter path", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    /// There is no such group.
    #[error(
        "socket_group: there is no group `{0}`{1}; make it with `groupadd --system {0}`, or name another"
    )]
    NoGroup(String, String),
    /// The socket can't be given to the group.
    #[error("socket_group: {} can't be given to group `{group}`: {source}; make the agent's user a member of it (`SupplementaryGroups=` of its unit)", .path.display())]
    Group {
        /// The socket's path.
        path: PathBuf,
        /// The group, as configured.
        group: String,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else the system refuses.
    #[error("cannot listen on {}: {source}; check the permissions of its directory, or set `socket` to another path", .path.display())]
    Refused {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Bound {
    pub(super) listener: UnixListener,
    /// Whose members may connect.
    pub(super) group: Gid,
}

/// A listening socket at `path`, mode 0660, of this group or else of the process's own. Creates the directory (0755)
/// if it is missing and replaces a socket that a dead process left. Needs a tokio runtime.
///
/// # Errors
///
/// If the path is too long, there is no such group, the directory can't be made, another process answers at the
/// path, something there is no socket, or the system refuses. Only a dead process's socket is ever removed. After
/// [`BindError::Group`], a socket stays that nobody listens on.
pub fn bind(path: &Path, group: Option<&str>) -> Result<Bound, BindError> {
    if path.as_os_str().len() > 107 {
        return Err(BindError::TooLong(path.to_owned()));
    }
    let asked = group.map(|name| find_group(name).map(|gid| (name, gid))).transpose()?;
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|source| BindError::Directory { path: directory.to_owned(), source })?;
    }
    clear(path)?;
    let socket = prepare(path).map_err(|source| refused(path, source))?;
    if let Some((name, gid)) = asked {
        // Nobody can connect before somebody listens.
        chown(path, None, Some(gid)).map_err(|errno| {
            let (path, group) = (path.to_owned(), name.to_owned());
            BindError::Group { path, group, source: errno.into() }
        })?;
    }
    let listener = socket.listen(BACKLOG).map_err(|source| refused(path, source))?;
    Ok(Bound { listener, group: asked.map_or_else(getegid, |(_, gid)| gid) })
}

/// A group by its name or number.
fn find_group(name: &str) -> Result<Gid, BindError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(BindError::NoGroup(name.to_owned(), String::new())),
        Err(errno) => Err(BindError::NoGroup(name.to_owned(), format!(" ({})", errno.desc()))),
    }
}

/// Removes what a dead process left at `path`, and nothing else.
fn clear(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(path, error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // Only this says for certain that nobody listens.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| refused(path, source))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(BindError::InUse(path.to_owned()))
        }
        Err(error) => Err(refused(path, error)),
        Ok(_) => Err(BindError::InUse(path.to_owned())),
    }
}

/// A socket that nobody listens on yet.
fn prepare(path: &Path) -> io::Result<UnixSocket> {
    let socket = UnixSocket::new_stream()?;
    // bind(2) gives the path this mode less the umask, so it is never wider than asked, not even
    // between the two calls; the second one undoes the umask.
    fchmod(socket.as_fd(), Mode::from_bits_truncate(MODE))?;
    socket.bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(socket)
}

fn refused(path: &Path, source: io::Error) -> BindError {
    BindError::Refused { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::{BindError, bind};
    use nix::unistd::{Group, getegid, geteuid};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn makes_the_directory_and_admits_owner_and_group_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lb/agent.sock");
        let _bound = bind(&path, None).unwrap();
        assert_eq!(mode(&path), 0o660);
        assert_eq!(mode(path.parent().unwrap()), 0o755);
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_live_socket_is_left_alone_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let first = bind(&path, None).unwrap();
        let error = bind(&path, None).unwrap_err();
        assert!(matches!(error, BindError::InUse(_)), "{error}");
        UnixStream::connect(&path).expect("the first still answers");
        drop(first);
        UnixStream::connect(&path).expect_err("dropped");
        let _second = bind(&path, None).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn it_is_of_the_group_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let gid = |path: &Path| fs::metadata(path).unwrap().gid();
        let bound = bind(&path, None).unwrap();
        assert_eq!((gid(&path), bound.group), (getegid().as_raw(), getegid()));
        drop(bound);
        let error = bind(&path, Some("no-such-group")).unwrap_err();
        assert!(matches!(error, BindError::NoGroup(..)), "{error}");
        assert!(error.to_string().contains("no group `no-such-group`; make it"), "{error}");
        // Anybody may give a file to a group of their own, root to any.
        let ours = getegid().as_raw();
        let other = if geteuid().is_root() { 64_998 } else { ours };
        let bound = bind(&path, Some(&other.to_string())).unwrap();
        assert_eq!((gid(&path), bound.group.as_raw(), mode(&path)), (other, other, 0o660));
        drop(bound);
        let own = Group::from_gid(getegid()).unwrap().expect("our group has a name");
        let bound = bind(&path, Some(&own.name)).unwrap();
        assert_eq!((gid(&path), bound.group.as_raw()), (ours, ours));
    }

    #[tokio::test]
    async fn what_is_not_ours_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("precious");
        fs::write(&file, "text").unwrap();
        for (path, part) in [
            (file.clone(), "is not a socket"),
            (dir.path().to_owned(), "is not a socket"),
            (file.join("agent.sock"), "cannot create the directory"),
            (dir.path().join("x".repeat(100)), "too long"),
        ] {
            let error = bind(&path, None).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(error.contains("set `socket`"), "no remedy: {error}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
    }
}
