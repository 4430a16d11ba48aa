//! Who we are to the API server: what stands in each request's `Authorization`, and the certificate that we show.

use super::plugin::Plugin;
use crate::tls::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use kube::config::AuthInfo;
use secrecy::ExposeSecret as _;
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;

/// What requests are authorized by.
pub(super) enum Authorization {
    /// Nothing: by our certificate, if at all.
    None,
    /// The same for all.
    Fixed(HeaderValue),
    /// What a file holds.
    File(TokenFile),
    /// What a command gives.
    Plugin(Box<Plugin>),
}

/// A file that holds a token, and what it held last.
pub(super) struct TokenFile {
    path: PathBuf,
    last: Mutex<Option<HeaderValue>>,
}

/// Of a user in a kubeconfig, or of a pod. A token comes first, then a file that holds one, a password and a
/// plugin. The error quotes no credentials.
pub(super) async fn of(user: &AuthInfo) -> Result<(Authorization, Option<Identity>), String> {
    if user.auth_provider.is_some() {
        return Err(
            "`auth-provider` is not supported, as it is not by Kubernetes since 1.26; use a \
                    credential plugin (`exec`), a token or a certificate"
                .to_owned(),
        );
    }
    let own = identity(user)?;
    let token = user.token.as_ref().map(|token| token.expose_secret());
    let none = || "`token` is not one that can be sent".to_owned();
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        return Ok((Authorization::Fixed(bearer(token).ok_or_else(none)?), own));
    }
    if let Some(path) = user.token_file.as_deref().filter(|path| !path.is_empty()) {
        return Ok((Authorization::File(TokenFile::new(path)), own));
    }
    if let (Some(name), Some(password)) = (&user.username, &user.password) {
        let both = STANDARD.encode(format!("{name}:{}", password.expose_secret()));
        let header = sensitive(&format!("Basic {both}")).ok_or_else(none)?;
        return Ok((Authorization::Fixed(header), own));
    }
    if let Some(exec) = &user.exec {
        let (plugin, given) = Plugin::start(exec.clone()).await?;
        return Ok((Authorization::Plugin(Box::new(plugin)), own.or(given)));
    }
    Ok((Authorization::None, own))
}

/// The header for a token; none if it can't stand in one.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let token = token.trim();
    sensitive(&format!("Bearer {token}")).filter(|_| !token.is_empty())
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The certificate of a user, with its key.
fn identity(user: &AuthInfo) -> Result<Option<Identity>, String> {
    let chain = pem(
        "client-certificate",
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
    )?;
    let key = user.client_key_data.as_ref().map(|key| key.expose_secret());
    match (chain, pem("client-key", key, user.client_key.as_deref())?) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => Identity::from_pem(&chain, &key).map(Some).map_err(|error| {
            format!("`client-certificate` or `client-key` is no good ({error}): they are PEM")
        }),
        (None, Some(_)) => Err("`client-key` is there without `client-certificate`".to_owned()),
        (Some(_), None) => Err("`client-certificate` is there without `client-key`".to_owned()),
    }
}

/// What stands in the kubeconfig itself comes before what a file has.
fn pem(what: &str, data: Option<&str>, file: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let bad = |_| format!("`{what}-data` is not Base64");
        return STANDARD.decode(data).map(Some).map_err(bad);
    }
    let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(None) };
    std::fs::read(file).map(Some).map_err(|error| format!("`{what}`, {file}: {error}"))
}

// === impl Authorization ===

impl Authorization {
    /// What the next request has. The error is a line.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, String> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(header) => Ok(Some(header.clone())),
            Self::File(file) => file.header().await.map(Some),
            Self::Plugin(plugin) => plugin.header().await,
        }
    }

    /// The file that a token is read from.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(file) => Some(&file.path),
            _ => None,
        }
    }
}

// === impl TokenFile ===

impl TokenFile {
    fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), last: Mutex::default() }
    }

    /// Reads the file. One that can't be read or is no token, as while it is being replaced, leaves
    /// the last token in place.
    async fn header(&self) -> Result<HeaderValue, String> {
        let mut last = self.last.lock().await;
        let problem = match tokio::fs::read_to_string(&self.path).await {
            Ok(text) => match bearer(&text) {
                Some(header) => return Ok(last.insert(header).clone()),
                None => "it does not hold a token".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        let path = self.path.display();
        last.clone().ok_or_else(|| format!("the token file {path} can't be used: {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::config::AuthProviderConfig;

    fn user(json: serde_json::Value) -> AuthInfo {
        serde_json::from_value(json).unwrap()
    }

    async fn header(user: serde_json::Value) -> String {
        let (authorization, identity) = of(&self::user(user)).await.unwrap();
        assert!(identity.is_none());
        let header = authorization.header().await.unwrap();
        assert!(header.as_ref().is_none_or(HeaderValue::is_sensitive));
        header.map(|header| header.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[tokio::test]
    async fn what_authorizes_requests() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "filed\n").unwrap();
        let path = file.path().to_str().unwrap();
        let exec = serde_json::json!({
            "command": "echo", "args": ["{\"status\": {\"token\": \"given\"}}"],
        });
        for (user, expected) in [
            (serde_json::json!({}), ""),
            (serde_json::json!({"token": "t", "tokenFile": path}), "Bearer t"),
            (serde_json::json!({"token": "", "tokenFile": path, "exec": exec}), "Bearer filed"),
            (serde_json::json!({"username": "a", "password": "b", "exec": exec}), "Basic YTpi"),
            (serde_json::json!({"username": "a", "exec": exec}), "Bearer given"),
        ] {
            assert_eq!(header(user.clone()).await, expected, "{user}");
        }
    }

    #[tokio::test]
    async fn what_can_not_be_used_is_said() {
        let provider = AuthProviderConfig { name: "gcp".into(), ..AuthProviderConfig::default() };
        let provided = AuthInfo { auth_provider: Some(provider), ..AuthInfo::default() };
        let mut cases = vec![(provided, "`auth-provider` is not supported")];
        for (json, part) in [
            (serde_json::json!({"token": "s3cret\u{1}"}), "`token` is not one"),
            (serde_json::json!({"client-key-data": "cw=="}), "without `client-certificate`"),
            (serde_json::json!({"client-certificate-data": "cw=="}), "without `client-key`"),
            (serde_json::json!({"client-certificate-data": "s3cret!"}), "is not Base64"),
            (serde_json::json!({"client-key": "/nowhere/key"}), "/nowhere/key: No such file"),
            (
                serde_json::json!({"client-certificate-data": "cw==", "client-key-data": "cw=="}),
                "is no good",
            ),
        ] {
            cases.push((user(json), part));
        }
        for (user, part) in cases {
            let problem = of(&user).await.err().unwrap();
            assert!(problem.contains(part) && !problem.contains("s3cret"), "{part}: {problem}");
        }
    }

    #[tokio::test]
    async fn a_token_file_that_is_gone_leaves_the_last_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = TokenFile::new(file.path());
        let missing = token.header().await.unwrap_err();
        assert!(missing.contains("does not hold a token"), "{missing}");
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(token.header().await.unwrap(), "Bearer one");
        drop(file);
        assert_eq!(token.header().await.unwrap(), "Bearer one");
    }
}
