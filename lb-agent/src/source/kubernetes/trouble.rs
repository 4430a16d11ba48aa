//! What can go wrong with the API server, as one line that says where, what, and what to do. No line
//! holds a token.

use super::client::Server;
use crate::shown::clean;
use kube::core::Status;
use std::error::Error;

/// Longest part of a line that comes from somebody else.
const SHOWN: usize = 300;

/// Something did not go well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    /// For people.
    pub(super) text: String,
}

/// What to do next depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The server can't be reached, or not in a way that works; files may have to be read anew.
    Unreachable,
    /// It does not know us.
    Unauthorized,
    /// It does not let us, or has no such resource.
    Withheld,
    /// It has forgotten what we ask for.
    Expired,
    /// It does not understand the request.
    NotUnderstood,
    /// Anything else.
    Other,
}

/// What was being done.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) server: &'a Server,
    /// `list` or `watch`.
    pub(super) verb: &'static str,
    /// `endpointslices`.
    pub(super) resource: &'static str,
    /// `discovery.k8s.io`; empty for the core group.
    pub(super) group: &'static str,
}

// === impl Trouble ===

impl Trouble {
    pub(super) fn unreachable(text: String) -> Self {
        Self { kind: Kind::Unreachable, text }
    }

    /// From the client library's error.
    pub(super) fn of(at: At<'_>, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::said(at, status),
            // The library's text may quote what it could not read.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::malformed(at),
            error => Self::transport(at, &innermost(error)),
        }
    }

    /// What the server sent is not what was asked for.
    pub(super) fn malformed(at: At<'_>) -> Self {
        let At { server, verb, resource, .. } = at;
        let text = format!(
            "{}: the answer to {verb} {resource} is malformed, or an object in it is; correct that \
             object, and check that this is an API server",
            server.url
        );
        Self { kind: Kind::Other, text }
    }

    /// No answer in time.
    pub(super) fn silent(at: At<'_>, patience: std::time::Duration) -> Self {
        let At { server, verb, resource, .. } = at;
        Self::unreachable(format!(
            "{}: no answer within {patience:?} ({verb} {resource}); check that the API server runs \
             and that the network lets us through",
            server.url
        ))
    }

    /// The server answered, with an error.
    pub(super) fn said(at: At<'_>, status: &Status) -> Self {
        let At { server, verb, resource, group } = at;
        let (url, code) = (&server.url, status.code);
        let message = one_line(&status.message);
        let (kind, text) = match code {
            401 => (Kind::Unauthorized, format!("{url} does not know us (401): {}", renew(server))),
            403 => {
                let group = if group.is_empty() { "\"\"" } else { group };
                let text = format!(
                    "{url} does not let us {verb} {resource} (403); allow it in a ClusterRole: \
                     apiGroups: [{group}], resources: [{resource}], verbs: [list, watch]"
                );
                (Kind::Withheld, text)
            }
            404 => {
                let text = format!(
                    "{url} has no {resource} (404); check that it is a Kubernetes API server, and \
                     its version"
                );
                (Kind::Withheld, text)
            }
            410 => (Kind::Expired, format!("{url} has forgotten that version of {resource}")),
            400 | 422 => {
                let text = format!("{url} does not understand us ({verb} {resource}): {message}");
                (Kind::NotUnderstood, text)
            }
            429 => {
                let text = format!(
                    "{url} has too much to do (429, {verb} {resource}); check its load and its \
                     priority levels"
                );
                (Kind::Other, text)
            }
            code => {
                let text = format!(
                    "{url} answers {code} ({verb} {resource}): {message}; check the API server's log"
                );
                (Kind::Other, text)
            }
        };
        Self { kind, text }
    }

    /// What goes wrong before the server can say anything, or while it speaks.
    pub(super) fn transport(at: At<'_>, cause: &str) -> Self {
        let At { server, verb, resource, .. } = at;
        let says = |part: &str| cause.contains(part);
        let what = if let Some((_, problem)) = cause.split_once("invalid peer certificate: ") {
            bad_certificate(server, problem)
        } else if says("received fatal alert") {
            let origin = &server.origin;
            let cause = one_line(cause);
            format!("it ended the TLS handshake ({cause}); renew the certificate in {origin}")
        } else if says("InvalidContentType") || says("corrupt message") {
            "it does not speak TLS; write http:// if that is meant".to_owned()
        } else if says("Connection refused") {
            "connection refused; check that the API server runs there".to_owned()
        } else if says("lookup address") || says("has no address") {
            "the name has no address; check it, and the name service".to_owned()
        } else if says("no connection within") || says("timed out") || says("unreachable") {
            let cause = one_line(cause);
            format!("{cause}; check the address, and that the network lets us through")
        } else if says("token file") {
            format!("{}; see that the file is there and readable", one_line(cause))
        } else if says("credential plugin") {
            format!("{}; run it by hand to see more", one_line(cause))
        } else {
            format!(
                "connection lost ({}, {verb} {resource}); check that the API server runs",
                one_line(cause)
            )
        };
        Self::unreachable(format!("{}: {what}", server.url))
    }

    /// A watch or a list that ends as none should.
    pub(super) fn ended(at: At<'_>, how: &str) -> Self {
        let At { server, verb, resource, .. } = at;
        let text =
            format!("{}: {verb} of {resource} {how}; check the API server's log", server.url);
        Self { kind: Kind::Other, text }
    }
}

/// Settings or files that can't be used.
pub(super) fn of_config(origin: &str, cause: &str) -> Trouble {
    Trouble::unreachable(format!(
        "{origin} can't be used: {}; see that it is readable and names a server, a user and the \
         current context",
        one_line(cause)
    ))
}

fn renew(server: &Server) -> String {
    match &server.token {
        Some(token) => format!(
            "the token in {} has expired or is of another cluster; put a good one there, it is \
             read again at each try",
            token.display()
        ),
        None => format!("check the credentials in {}", server.origin),
    }
}

fn bad_certificate(server: &Server, problem: &str) -> String {
    let says = |part: &str| problem.contains(part);
    let origin = &server.origin;
    let what = if says("UnknownIssuer") || says("BadSignature") {
        format!("comes from an authority that {origin} does not name: add it there")
    } else if says("not valid yet") || says("NotValidYet") {
        "is not valid yet: check both clocks".to_owned()
    } else if says("expired") || says("Expired") {
        "has expired: renew it there, and check our clock".to_owned()
    } else if says("not valid for") || says("NotValidForName") {
        "is not for this address: use one that it names, or set tls-server-name in the kubeconfig"
            .to_owned()
    } else {
        format!("is no good ({}): renew it there", one_line(problem))
    };
    format!("its certificate {what}")
}

/// The text of the first cause: the ones around it say little more than that there was one.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Somebody else's words, on one line that no terminal acts on.
fn one_line(text: &str) -> String {
    // Of what is endless, no more is looked at than can be shown.
    let words = text.split_whitespace().take(SHOWN);
    let mut folded = String::new();
    for word in words {
        if folded.len() > SHOWN {
            break;
        }
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
    }
    clean(&folded, SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(token: Option<&str>) -> Server {
        Server {
            url: "https://10.0.0.1:6443".into(),
            token: token.map(Into::into),
            origin: "the kubeconfig /k".into(),
        }
    }

    #[test]
    fn what_the_server_says() {
        let server = server(Some("/run/token"));
        let at = At {
            server: &server,
            verb: "watch",
            resource: "endpointslices",
            group: "discovery.k8s.io",
        };
        for (code, kind, part) in [
            (401, Kind::Unauthorized, "the token in /run/token has expired"),
            (403, Kind::Withheld, "apiGroups: [discovery.k8s.io], resources: [endpointslices]"),
            (404, Kind::Withheld, "has no endpointslices (404)"),
            (410, Kind::Expired, "has forgotten"),
            (422, Kind::NotUnderstood, "does not understand us"),
            (429, Kind::Other, "too much to do"),
            (503, Kind::Other, "answers 503 (watch endpointslices): two lines; check"),
        ] {
            let status = Status { code, message: "two\nlines".into(), ..Status::default() };
            let trouble = Trouble::said(at, &status);
            assert_eq!(trouble.kind, kind, "{code}");
            assert!(trouble.text.starts_with("https://10.0.0.1:6443 "), "{}", trouble.text);
            assert!(trouble.text.contains(part), "{}", trouble.text);
            assert!(!trouble.text.contains('\n'), "{}", trouble.text);
        }
    }

    #[test]
    fn what_the_way_there_says() {
        let server = server(None);
        let at = At { server: &server, verb: "list", resource: "services", group: "" };
        for (cause, part) in [
            ("Connection refused (os error 111)", "check that the API server runs there"),
            ("invalid peer certificate: UnknownIssuer", "that the kubeconfig /k does not name"),
            ("invalid peer certificate: certificate expired: x", "has expired: renew it"),
            ("failed to lookup address information: x", "the name has no address"),
            ("10.0.0.1:6443: no connection within 5s", "the network lets us through"),
            ("received corrupt message of type InvalidContentType", "does not speak TLS"),
            ("the token file /t can't be used: gone", "see that the file is there"),
            ("the credential plugin `x` ended with exit status: 1 and said: no", "by hand"),
            ("end of file before message length reached", "connection lost (end of file"),
        ] {
            let trouble = Trouble::transport(at, cause);
            assert_eq!(trouble.kind, Kind::Unreachable);
            assert!(trouble.text.contains(part), "{}", trouble.text);
        }
    }

    #[test]
    fn a_servers_words_are_bounded_and_act_on_no_terminal() {
        let server = server(None);
        let at = At { server: &server, verb: "list", resource: "services", group: "" };
        for message in ["\u{1b}[2J".repeat(1 << 18), "\u{1b} ".repeat(1 << 19), "a".repeat(1 << 20)]
        {
            let status = Status { code: 500, message: message.clone(), ..Status::default() };
            for text in [Trouble::said(at, &status).text, Trouble::transport(at, &message).text] {
                assert!(text.len() < 600, "{}", text.len());
                assert!(!text.contains(char::is_control), "{text:?}");
            }
        }
    }

    #[test]
    fn an_object_of_the_wrong_type_is_no_lost_connection() {
        let server = server(None);
        let at = At { server: &server, verb: "list", resource: "services", group: "" };
        let error = serde_json::from_str::<u8>("\"s3cret\"").unwrap_err();
        let trouble = Trouble::of(at, &kube::Error::SerdeError(error));
        assert_eq!(trouble.kind, Kind::Other);
        assert!(trouble.text.contains("an object in it is; correct that object"), "{trouble:?}");
        assert!(!trouble.text.contains("s3cret"), "{trouble:?}");
    }
}
