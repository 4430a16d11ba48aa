//! The files that say whom to trust and who we are. Read anew for each connection, so a file that
//! was replaced counts from the next one on; what is in them leaves this module only towards
//! whoever connects.

use super::error::{At, EtcdError, tls_files};
use super::settings::{Endpoint, Settings, User};
use super::tls::Identities;
use std::path::Path;

/// What the files say now. Has no `Debug`: there are secrets in it.
pub(super) struct Credentials {
    /// For a member that speaks TLS.
    pub(super) tls: Option<Identities>,
    /// Name and password.
    pub(super) user: Option<(String, String)>,
}

// === impl Credentials ===

impl Credentials {
    /// Reads what is needed for a connection to this member.
    pub(super) async fn read(settings: &Settings, to: &Endpoint) -> Result<Self, EtcdError> {
        let tls = if to.tls { Some(tls(settings, to).await?) } else { None };
        let user = match &settings.user {
            Some(user) => Some((user.name.clone(), password(user).await?)),
            None => None,
        };
        Ok(Self { tls, user })
    }
}

async fn tls(settings: &Settings, to: &Endpoint) -> Result<Identities, EtcdError> {
    let tls = &settings.tls;
    let ca = tls.ca.as_deref().ok_or_else(|| {
        EtcdError::Certificate(format!(
            "{to}: tls.ca is not set; name the PEM file of the authority that its certificate \
             comes from"
        ))
    })?;
    let authorities = pem("tls.ca", ca, "CERTIFICATE").await?;
    let own = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let cert = pem("tls.cert", cert, "CERTIFICATE").await?;
            Some((cert, pem("tls.key", key, "KEY").await?))
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let problem = "tls.cert and tls.key go together; set both or none".to_owned();
            return Err(EtcdError::Certificate(problem));
        }
    };
    let own = own.as_ref().map(|(cert, key)| (cert.as_slice(), key.as_slice()));
    let name = tls.server_name.as_deref().unwrap_or(&to.host);
    Identities::new(&authorities, own, name)
        .map_err(|cause| tls_files(At { endpoint: to, settings, doing: "connect" }, &cause))
}

/// The text of a PEM file that has a block of this kind.
async fn pem(setting: &str, file: &Path, kind: &str) -> Result<Vec<u8>, EtcdError> {
    let text = read(setting, file).await.map_err(EtcdError::Certificate)?;
    let has_block = String::from_utf8_lossy(&text)
        .lines()
        .any(|line| line.trim().starts_with("-----BEGIN ") && line.contains(kind));
    if !has_block {
        return Err(EtcdError::Certificate(format!(
            "{setting} ({}) has no PEM block of kind {kind}; check that it is the right file",
            file.display()
        )));
    }
    Ok(text)
}

async fn password(user: &User) -> Result<String, EtcdError> {
    let file = &user.password_file;
    let text = read("user.password_file", file).await.map_err(EtcdError::Refused)?;
    // The error of `from_utf8` would hold the password.
    let Ok(mut text) = String::from_utf8(text) else {
        return Err(EtcdError::Refused(format!(
            "user.password_file ({}) is not UTF-8; write the password as text",
            file.display()
        )));
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(EtcdError::Refused(format!(
            "user.password_file ({}) is empty; write the password of `{}` to it",
            file.display(),
            user.name
        )));
    }
    Ok(text)
}

async fn read(setting: &str, file: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(file).await.map_err(|error| {
        format!(
            "{setting} ({}) can't be read: {error}; check the path and its mode",
            file.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::settings::Tls;
    use std::path::PathBuf;

    async fn password_of(content: &[u8]) -> Result<String, EtcdError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, content).unwrap();
        password(&User { name: "lb".to_owned(), password_file: file }).await
    }

    #[tokio::test]
    async fn one_line_end_is_not_part_of_the_password() {
        for (content, want) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            (" a ", " a "),
            ("a\r", "a\r"),
        ] {
            assert_eq!(password_of(content.as_bytes()).await.unwrap(), want, "{content:?}");
        }
        for content in [&b""[..], b"\n", b"s\xffcret"] {
            let error = password_of(content).await.unwrap_err().to_string();
            assert!(error.contains("password_file") && !error.contains("cret"), "{error}");
        }
    }

    #[tokio::test]
    async fn files_that_cannot_do_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| -> PathBuf {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let cert = file("cert", "-----BEGIN CERTIFICATE-----\nsecret\n-----END CERTIFICATE-----\n");
        let text = file("text", "secret");
        let endpoint: Endpoint = "https://h:1".parse().unwrap();
        let set = |ca: Option<&PathBuf>, cert: Option<&PathBuf>, key: Option<&PathBuf>| Settings {
            endpoints: vec![endpoint.clone()],
            tls: Tls { ca: ca.cloned(), cert: cert.cloned(), key: key.cloned(), server_name: None },
            user: None,
        };
        let gone = directory.path().join("gone");
        for (settings, part) in [
            (set(None, None, None), "tls.ca is not set"),
            (set(Some(&gone), None, None), "can't be read"),
            (set(Some(&text), None, None), "no PEM block of kind CERTIFICATE"),
            (set(Some(&cert), Some(&cert), None), "go together"),
            (set(Some(&cert), Some(&cert), Some(&cert)), "no PEM block of kind KEY"),
            (set(Some(&cert), None, None), "check that they are PEM"),
        ] {
            let error = tls(&settings, &endpoint).await.map(drop).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
    }
}
