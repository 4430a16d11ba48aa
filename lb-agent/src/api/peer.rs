//! Who is at the other end of the Unix socket. Whoever can connect may look; something is changed for root, the
//! agent's own user and the members of the socket's group only, should the socket be open to others one day.

use super::Failure;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use nix::unistd::{Gid, getegid, geteuid};
use std::fs;
use tokio::net::UnixStream;

/// The process that connected, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    uid: u32,
    gid: u32,
    /// Unknown in a PID namespace that does not see it.
    pid: Option<i32>,
}

/// Who may change something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    user: u32,
    group: u32,
}

/// Lets those change something who may. `GET` and `HEAD` change nothing.
pub(super) async fn checked(
    State(rights): State<Rights>,
    request: Request,
    next: Next,
) -> Response {
    let looks = [Method::GET, Method::HEAD].contains(request.method());
    let peer = request.extensions().get::<Peer>().copied();
    if looks || peer.is_some_and(|peer| rights.admit(peer, &groups(peer))) {
        if let Some(Peer { uid, gid, pid }) = peer.filter(|_| !looks) {
            tracing::info!(uid, gid, pid, path = request.uri().path(), "a change is asked for");
        }
        return next.run(request).await;
    }
    let who = peer.map_or("who is not known".to_owned(), |peer| format!("user {}", peer.uid));
    let Rights { user, group } = rights;
    let error = format!(
        "{who} may look and not change anything: that is for root, user {user} and the members of \
         group {group}"
    );
    Failure { status: StatusCode::FORBIDDEN, error }.into_response()
}

/// The further groups of the process. Its number may be another's by now, who counts only if it is of the
/// same user, and could have asked as well.
fn groups(peer: Peer) -> Vec<u32> {
    let status = peer.pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    status.map_or_else(Vec::new, |status| groups_of(&status, peer.uid))
}

/// What `/proc/PID/status` says, if the process is of this effective user.
fn groups_of(status: &str, uid: u32) -> Vec<u32> {
    let numbers = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let words = line.unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect::<Vec<u32>>()
    };
    if numbers("Uid:").get(1) == Some(&uid) { numbers("Groups:") } else { Vec::new() }
}

// === impl Peer ===

impl Peer {
    /// This very process.
    pub(super) fn own() -> Self {
        let pid = i32::try_from(std::process::id()).ok();
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw(), pid }
    }

    /// Whether it is root's, or of the agent's own user.
    pub(super) fn is_ours(self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }

    /// `None` if the kernel does not tell.
    pub(super) fn of(stream: &UnixStream) -> Option<Self> {
        let told = stream.peer_cred().ok()?;
        Some(Self { uid: told.uid(), gid: told.gid(), pid: told.pid() })
    }
}

// === impl Rights ===

impl Rights {
    /// Those of this process's user, and of the members of a group.
    pub(super) fn new(group: Gid) -> Self {
        Self { user: geteuid().as_raw(), group: group.as_raw() }
    }

    fn admit(self, peer: Peer, groups: &[u32]) -> bool {
        let Self { user, group } = self;
        peer.uid == 0 || peer.uid == user || peer.gid == group || groups.contains(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::{Peer, Rights, checked, groups, groups_of};
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use axum::{Extension, Router};
    use tower::ServiceExt as _;

    const STATUS: &str = "Name:\tx\nUid:\t0\t1000\t0\t0\nGid:\t5\t5\t5\t5\nGroups:\t4 27 998 \n";

    #[test]
    fn root_the_agent_and_the_group() {
        let rights = Rights { user: 500, group: 998 };
        let peer = |uid, gid| Peer { uid, gid, pid: None };
        assert!(rights.admit(peer(0, 0), &[]));
        assert!(rights.admit(peer(500, 1), &[]));
        assert!(rights.admit(peer(1000, 998), &[]));
        assert!(rights.admit(peer(1000, 1), &groups_of(STATUS, 1000)));
        assert!(!rights.admit(peer(1000, 1), &[4, 27]));
        assert!(!rights.admit(peer(998, 500), &[0, 500]), "numbers of users are none of groups");
    }

    #[test]
    fn groups_are_those_of_the_same_user() {
        assert_eq!(groups_of(STATUS, 1000), [4, 27, 998]);
        assert!(groups_of(STATUS, 0).is_empty(), "the effective user counts");
        assert!(groups_of("", 0).is_empty());
        let ours: Vec<u32> =
            nix::unistd::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        assert_eq!(groups(Peer::own()), ours);
    }

    #[tokio::test]
    async fn others_look_and_change_nothing() {
        let rights = Rights { user: 500, group: 998 };
        let ask = async |method: &str, peer: Option<Peer>| {
            let router = Router::new()
                .route("/", get(|| async {}).post(|| async {}).delete(|| async {}))
                .layer(from_fn_with_state(rights, checked));
            let router = match peer {
                Some(peer) => router.layer(Extension(peer)),
                None => router,
            };
            let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
            router.oneshot(request).await.unwrap().status()
        };
        let (other, own) =
            (Peer { uid: 7, gid: 7, pid: None }, Peer { uid: 500, gid: 7, pid: None });
        for peer in [Some(other), None] {
            assert_eq!(ask("GET", peer).await, StatusCode::OK);
            for method in ["POST", "DELETE", "BREW"] {
                assert_eq!(ask(method, peer).await, StatusCode::FORBIDDEN, "{method}");
            }
        }
        assert_eq!(ask("POST", Some(own)).await, StatusCode::OK);
    }
}
