use super::*;
use crate::etcd::settings::{Tls, User};
use std::path::PathBuf;

fn settings(user: bool, cert: bool) -> Settings {
    let file = |there: bool, name: &str| there.then(|| PathBuf::from(name));
    Settings {
        endpoints: vec!["https://etcd-1:2379".parse().unwrap()],
        tls: Tls {
            ca: Some(PathBuf::from("/ca.pem")),
            cert: file(cert, "/cert.pem"),
            key: file(cert, "/key.pem"),
            server_name: None,
        },
        user: user
            .then(|| User { name: "lb".to_owned(), password_file: PathBuf::from("/password") }),
    }
}

fn kind(error: &EtcdError) -> &'static str {
    match error {
        EtcdError::Unreachable(_) => "unreachable",
        EtcdError::Refused(_) => "refused",
        EtcdError::Certificate(_) => "certificate",
        EtcdError::Compacted(_) => "compacted",
        EtcdError::WentBack(_) => "went back",
        EtcdError::TooLarge(_) => "too large",
        EtcdError::LeaseGone(_) => "lease gone",
        EtcdError::Other(_) => "other",
    }
}

#[test]
fn what_the_server_says() {
    for (number, text, user, want, part) in [
        (3, "etcdserver: user name is empty", false, "refused", "set `user`"),
        (7, "etcdserver: permission denied", false, "refused", "set `user`"),
        (7, "etcdserver: permission denied", true, "refused", "user `lb` may not list /lb/"),
        (
            3,
            "etcdserver: authentication failed, invalid user ID or password",
            true,
            "refused",
            "/password",
        ),
        (16, "etcdserver: invalid auth token", true, "refused", "logging in again"),
        (3, "etcdserver: revision of auth store is old", true, "refused", "logging in again"),
        (
            11,
            "etcdserver: mvcc: required revision has been compacted",
            false,
            "compacted",
            "forgotten",
        ),
        (11, "etcdserver: mvcc: required revision is a future revision", false, "went back", ""),
        (3, "etcdserver: request is too large", false, "too large", "--max-request-bytes"),
        (
            8,
            "trying to send message larger than max (4 vs. 3)",
            false,
            "too large",
            "make the value smaller",
        ),
        (
            11,
            "Error, decoded message length too large: found 5264830 bytes, the limit is: 4194304",
            false,
            "too large",
            "answers",
        ),
        (5, "etcdserver: requested lease not found", false, "lease gone", "no such lease"),
        (14, "etcdserver: no leader", false, "unreachable", "has no leader"),
        (14, "etcdserver: leader changed", false, "unreachable", "has no leader"),
        (14, "etcdserver: request timed out", false, "unreachable", "can't agree"),
        (14, "etcdserver: server stopped", false, "unreachable", "server stopped"),
        (8, "etcdserver: too many requests", false, "unreachable", "too many requests"),
        (8, "etcdserver: mvcc: database space exceeded", false, "other", "alarm disarm"),
        (
            3,
            "etcdserver: duplicate key given in txn request",
            false,
            "other",
            "duplicate key given in txn request (list /lb/)",
        ),
    ] {
        let settings = settings(user, false);
        let at = At { endpoint: &settings.endpoints[0], settings: &settings, doing: "list /lb/" };
        let error = etcd_says(at, Some(number), text).unwrap();
        assert_eq!(kind(&error), want, "{text}");
        let line = error.to_string();
        assert!(line.contains(part) && line.contains("etcd-1:2379"), "{text}: {line}");
    }
}

#[test]
fn what_the_connection_says() {
    for (cause, cert, want, part) in [
        ("invalid peer certificate: UnknownIssuer", false, "certificate", "/ca.pem"),
        ("invalid peer certificate: BadSignature", false, "certificate", "/ca.pem"),
        (
            "invalid peer certificate: certificate expired: verified at time 1700000000 (UNIX)",
            false,
            "certificate",
            "has expired",
        ),
        (
            "invalid peer certificate: certificate not valid for name \"etcd-1\"; certificate is \
             only valid for DnsName(\"x\")",
            false,
            "certificate",
            "is not for `etcd-1`",
        ),
        ("received fatal alert: CertificateRequired", false, "certificate", "set tls.cert"),
        ("received fatal alert: BadCertificate", true, "certificate", "/cert.pem"),
        ("Connection refused (os error 111)", false, "unreachable", "connection refused"),
        ("failed to lookup address information", false, "unreachable", "no address"),
        ("deadline has elapsed", false, "unreachable", "no connection within 2s"),
        ("received corrupt message of type InvalidContentType", false, "unreachable", "http://"),
        ("tls handshake eof", false, "unreachable", "write http://"),
        ("broken\npipe", false, "unreachable", "connection lost (broken pipe)"),
    ] {
        let settings = settings(false, cert);
        let at = At { endpoint: &settings.endpoints[0], settings: &settings, doing: "list /lb/" };
        let error = transport_says(at, cause);
        assert_eq!(kind(&error), want, "{cause}");
        let line = error.to_string();
        assert!(line.contains(part) && line.starts_with("https://etcd-1:2379"), "{line}");
        assert!(!line.contains("17000"), "no times, each would be a new line: {line}");
    }
}
