//! What can go wrong with the store, as one line that says where, what, and what to do. No line
//! holds a password, a token or a part of a certificate.
//!
//! What to do next is decided by kind. The kind is read from the status code and, where that leaves
//! it open, from words: the store has one code for many reasons, and the TLS library's errors arrive
//! as text.

use super::settings::{CALL_TIMEOUT, CONNECT_TIMEOUT, Endpoint, Settings};
use std::error::Error as _;

/// Why the store did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// The member can't be reached or can't answer; another one may.
    #[error("{0}")]
    Unreachable(String),
    /// The store does not know us, or does not let us.
    #[error("{0}")]
    Refused(String),
    /// One side does not accept the other's certificate, or a file of ours can't be used.
    #[error("{0}")]
    Certificate(String),
    /// The store no longer knows the revision that was asked for.
    #[error("{0}")]
    Compacted(String),
    /// The store has not reached that revision yet: it is not the one it was.
    #[error("{0}")]
    WentBack(String),
    /// A message is larger than the store or we take.
    #[error("{0}")]
    TooLarge(String),
    /// The lease has ended.
    #[error("{0}")]
    LeaseGone(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Where and during what it happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) settings: &'a Settings,
    /// `read /lb/`.
    pub(super) doing: &'a str,
}

/// gRPC's codes, as numbers: the crate that has names for them is not ours to name.
mod code {
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

// === impl EtcdError ===

impl EtcdError {
    /// Whether another member, or the same one later, may do better.
    pub(super) fn is_of_the_member(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Certificate(_))
    }

    /// No answer in time.
    pub(super) fn silent(at: At<'_>, patience: std::time::Duration) -> Self {
        let At { endpoint, doing, .. } = at;
        Self::Unreachable(format!(
            "{endpoint}: no answer within {patience:?} ({doing}); check that the member runs and \
             that the network lets us through"
        ))
    }

    /// The stream of changes ended without an error.
    pub(super) fn ended(at: At<'_>, why: &str) -> Self {
        let At { endpoint, .. } = at;
        Self::Unreachable(format!("{endpoint}: {why}; check the member's log"))
    }

    /// The reason for which the server ended a watch.
    pub(super) fn cancelled(at: At<'_>, reason: &str) -> Self {
        etcd_says(at, None, reason)
            .unwrap_or_else(|| Self::ended(at, &format!("it cancelled the watch ({reason})")))
    }

    /// From the crate's.
    pub(super) fn of(at: At<'_>, error: &etcd_client::Error) -> Self {
        use etcd_client::Error as E;
        match error {
            E::GRpcStatus(status) => {
                let cause = status.source().map(innermost);
                let cause = cause.as_deref().unwrap_or_else(|| status.message());
                let number = i32::from(status.code());
                etcd_says(at, Some(number), status.message())
                    .unwrap_or_else(|| transport_says(at, cause))
            }
            E::TransportError(error) => transport_says(at, &innermost(error)),
            E::LeaseKeepAliveError(text) if text == "lease not found" => lease_gone(at),
            E::WatchError(text) | E::LeaseKeepAliveError(text) => transport_says(at, text),
            E::IoError(error) => transport_says(at, &error.to_string()),
            other => other_error(at, &other.to_string()),
        }
    }
}

/// The text of the first cause: the ones around it say little more than that there was one.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// What the server's own errors mean; `None` if it is not one of them.
fn etcd_says(at: At<'_>, number: Option<i32>, text: &str) -> Option<EtcdError> {
    let At { endpoint, settings, doing } = at;
    let says = |part: &str| text.contains(part);
    let no_user = "set `user` (name and password_file) for this cluster";
    let user = settings.user.as_ref();
    let name = user.map_or_else(|| "nobody".to_owned(), |user| format!("user `{}`", user.name));
    Some(if says("user name is empty") || (says("permission denied") && user.is_none()) {
        EtcdError::Refused(format!(
            "{endpoint} asks who we are ({doing}): {no_user}, or switch its authentication off"
        ))
    } else if says("authentication failed") || says("user name not found") {
        let file = user.map(|user| user.password_file.display().to_string()).unwrap_or_default();
        EtcdError::Refused(format!(
            "{endpoint} does not know {name} by that password: check the name, and the password \
             in {file}"
        ))
    } else if number == Some(code::UNAUTHENTICATED)
        || says("invalid auth token")
        || says("auth store is old")
    {
        EtcdError::Refused(format!("{endpoint} no longer takes our token; logging in again"))
    } else if says("authentication is not enabled") {
        EtcdError::Refused(format!("{endpoint} does not ask who we are: `user` is not needed"))
    } else if says("permission denied") || number == Some(code::PERMISSION_DENIED) {
        EtcdError::Refused(format!(
            "{endpoint}: {name} may not {doing}; allow it with `etcdctl role grant-permission`"
        ))
    } else if says("has been compacted") {
        EtcdError::Compacted(format!("{endpoint} has forgotten that revision ({doing})"))
    } else if says("future revision") {
        EtcdError::WentBack(format!("{endpoint} has not seen that revision ({doing})"))
    } else if says("request is too large") || says("message larger than max") {
        EtcdError::TooLarge(format!(
            "{endpoint} takes no message so large ({doing}): make the value smaller, or raise its \
             --max-request-bytes"
        ))
    } else if number == Some(code::OUT_OF_RANGE) && says("message length too large") {
        EtcdError::TooLarge(format!("{endpoint} answers with too large a message ({doing})"))
    } else if says("lease not found") && number.is_none_or(|number| number == code::NOT_FOUND) {
        lease_gone(at)
    } else if says("no leader") || says("leader changed") || says("not leader") {
        EtcdError::Unreachable(format!(
            "{endpoint} has no leader: start the members that are down, or mend the network \
             between them"
        ))
    } else if says("etcdserver: request timed out") {
        EtcdError::Unreachable(format!(
            "{endpoint} can't agree with the other members in time ({doing}): check their disks \
             and the network between them"
        ))
    } else if says("database space exceeded") {
        EtcdError::Other(format!(
            "{endpoint} is full ({doing}): compact and defragment it, then `etcdctl alarm disarm`"
        ))
    } else if let Some((_, own)) = text.split_once("etcdserver: ") {
        if ["server stopped", "too many requests", "unhealthy", "not capable"]
            .iter()
            .any(|part| own.contains(part))
        {
            EtcdError::Unreachable(format!("{endpoint}: {own}; check the member"))
        } else {
            other_error(at, own)
        }
    } else if number == Some(code::DEADLINE_EXCEEDED) {
        EtcdError::silent(at, CALL_TIMEOUT)
    } else {
        return None;
    })
}

/// What goes wrong before the server can say anything.
fn transport_says(at: At<'_>, cause: &str) -> EtcdError {
    let At { endpoint, settings, .. } = at;
    let says = |part: &str| cause.contains(part);
    if let Some((_, problem)) = cause.split_once("invalid peer certificate: ") {
        return bad_server(at, problem);
    }
    if let Some((_, alert)) = cause.split_once("received fatal alert: ") {
        return match &settings.tls.cert {
            None => EtcdError::Certificate(format!(
                "{endpoint} wants a certificate of us ({alert}): set tls.cert and tls.key"
            )),
            Some(cert) => EtcdError::Certificate(format!(
                "{endpoint} does not take the certificate in {} ({alert}): renew it if it has \
                 expired, and have it from an authority that the member trusts",
                cert.display()
            )),
        };
    }
    let what = if says("InvalidContentType") || says("handshake eof") {
        "it ended the TLS handshake; write http:// if it does not speak TLS".to_owned()
    } else if says("stream closed") && !endpoint.tls {
        "it hung up; check that the member runs, and write https:// if it speaks TLS".to_owned()
    } else if says("Connection refused") {
        "connection refused; check that etcd runs there and listens on that address".to_owned()
    } else if says("lookup address") || says("dns error") {
        "the name has no address; check it, and the name service".to_owned()
    } else if says("deadline has elapsed") || says("timed out") || says("Timeout") {
        format!(
            "no connection within {CONNECT_TIMEOUT:?}; check the address, that the member runs, \
             and that the network lets us through"
        )
    } else {
        format!("connection lost ({}); check that the member runs", one_line(cause))
    };
    EtcdError::Unreachable(format!("{endpoint}: {what}"))
}

/// The member's certificate was refused by us.
fn bad_server(at: At<'_>, problem: &str) -> EtcdError {
    let At { endpoint, settings, .. } = at;
    let ca = settings.tls.ca.as_ref().map(|ca| ca.display().to_string()).unwrap_or_default();
    let name = settings.tls.server_name.as_deref().unwrap_or(&endpoint.host);
    let says = |part: &str| problem.contains(part);
    // The times that the TLS library adds would make a new line of each try.
    let what = if says("UnknownIssuer") || says("BadSignature") {
        format!("comes from an authority that is not in {ca} (tls.ca): add that authority")
    } else if says("not valid yet") || says("NotValidYet") {
        "is not valid yet: check both clocks".to_owned()
    } else if says("expired") || says("Expired") {
        "has expired: renew it there, and check our clock".to_owned()
    } else if says("not valid for") || says("NotValidForName") {
        format!("is not for `{name}`: set tls.server_name to a name that it has")
    } else {
        format!("is no good ({}): renew it there, or check tls.ca ({ca})", one_line(problem))
    };
    EtcdError::Certificate(format!("{endpoint}: its certificate {what}"))
}

/// Our files were read but can't be used.
pub(super) fn tls_files(at: At<'_>, cause: &str) -> EtcdError {
    let tls = &at.settings.tls;
    let files = [("tls.ca", &tls.ca), ("tls.cert", &tls.cert), ("tls.key", &tls.key)];
    let named = files
        .iter()
        .filter_map(|(key, file)| file.as_ref().map(|file| format!("{key} ({})", file.display())));
    let named = named.collect::<Vec<_>>().join(", ");
    EtcdError::Certificate(format!(
        "{}: can't use {named}: {}; check that they are PEM and that the key belongs to the \
         certificate",
        at.endpoint,
        one_line(cause)
    ))
}

fn lease_gone(at: At<'_>) -> EtcdError {
    EtcdError::LeaseGone(format!("{} knows no such lease ({})", at.endpoint, at.doing))
}

fn other_error(at: At<'_>, text: &str) -> EtcdError {
    let At { endpoint, doing, .. } = at;
    EtcdError::Other(format!("{endpoint}: {} ({doing}); check the member's log", one_line(text)))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
