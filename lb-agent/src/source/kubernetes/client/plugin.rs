//! Credential plugins: commands that a kubeconfig names, and that write an `ExecCredential` with a token, a
//! certificate or both. No terminal is offered to them, and they have a time limit.

use super::authorization::bearer;
use crate::shown::clean;
use crate::tls::Identity;
use crate::yaml::Document;
use hyper::header::HeaderValue;
use k8s_openapi::jiff::Timestamp;
use kube::config::{ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// What expires within this is asked for again.
const AHEAD: Duration = Duration::from_secs(60);
/// Most bytes of what a command writes.
const MOST: u64 = 1 << 20;
/// Most of its complaint that is repeated.
const SHOWN: usize = 200;

/// A plugin, and the token that it gave last.
pub(super) struct Plugin {
    exec: ExecConfig,
    patience: Duration,
    last: Mutex<Credential>,
}

/// What a plugin gave.
pub(super) struct Credential {
    token: Option<HeaderValue>,
    expires: Option<Timestamp>,
}

/// What a plugin writes; the rest of it is of no use here.
#[derive(Deserialize)]
struct ExecCredential {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<Timestamp>,
}

// === impl Plugin ===

impl Plugin {
    /// Runs the command once; the certificate that it gave, if it did, counts until there is another plugin.
    pub(super) async fn start(exec: ExecConfig) -> Result<(Self, Option<Identity>), String> {
        Self::start_with(exec, PATIENCE).await
    }

    async fn start_with(
        exec: ExecConfig,
        patience: Duration,
    ) -> Result<(Self, Option<Identity>), String> {
        let (last, identity) = run(&exec, patience).await?;
        Ok((Self { exec, patience, last: Mutex::new(last) }, identity))
    }

    /// The token for a request, a fresh one if the last is about to expire. If none can be had, the last one
    /// does while it lasts.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, String> {
        let mut last = self.last.lock().await;
        if last.expires_within(AHEAD) {
            match run(&self.exec, self.patience).await {
                Ok((fresh, _)) => *last = fresh,
                Err(error) if last.expires_within(Duration::ZERO) => return Err(error),
                Err(error) => tracing::warn!(%error, "the last token is used while it lasts"),
            }
        }
        Ok(last.token.clone())
    }
}

// === impl Credential ===

impl Credential {
    fn expires_within(&self, time: Duration) -> bool {
        self.expires.is_some_and(|at| at <= Timestamp::now() + time)
    }
}

async fn run(
    exec: &ExecConfig,
    patience: Duration,
) -> Result<(Credential, Option<Identity>), String> {
    let name = exec.command.as_deref().unwrap_or_default();
    let failed = |what: String| format!("the credential plugin `{}` {what}", clean(name, SHOWN));
    let written = match timeout(patience, output(exec)).await {
        Ok(written) => written.map_err(failed)?,
        Err(_) => return Err(failed(format!("has written nothing within {patience:?}"))),
    };
    credential(&written).map_err(failed)
}

/// What the command writes.
async fn output(exec: &ExecConfig) -> Result<Vec<u8>, String> {
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err("wants a terminal (interactiveMode: Always), and there is none".to_owned());
    }
    let name = exec.command.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or("has no name: set `command`")?;
    let mut spec = serde_json::json!({ "interactive": false });
    if exec.provide_cluster_info {
        let cluster = serde_json::to_value(&exec.cluster).map_err(|error| error.to_string())?;
        spec["cluster"] = cluster;
    }
    let info = serde_json::json!({
        "kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec,
    });
    let named = exec.env.iter().flatten();
    let environment = named.filter_map(|entry| Some((entry.get("name")?, entry.get("value")?)));
    let mut command = Command::new(name);
    command
        .args(exec.args.iter().flatten())
        .envs(environment)
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        let hint = exec.install_hint.iter().map(|hint| format!(": {}", clean(hint, SHOWN)));
        format!("can't be run: {error}; install it{}", hint.collect::<String>())
    })?;
    let (written, said) = (child.stdout.take(), child.stderr.take());
    let (written, said, status) = tokio::join!(all(written), all(said), child.wait());
    let status = status.map_err(|error| format!("can't be waited for: {error}"))?;
    if !status.success() {
        // Only its own complaint: what it was to write is secret.
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let said = if last.is_empty() { "nothing".to_owned() } else { clean(last.trim(), SHOWN) };
        return Err(format!("ended with {status} and said: {said}"));
    }
    Ok(written)
}

/// What can be read, up to a limit.
async fn all(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // A pipe that breaks has no more to say.
        drop(pipe.take(MOST).read_to_end(&mut bytes).await);
    }
    bytes
}

/// Nothing of it is quoted.
pub(super) fn credential(written: &[u8]) -> Result<(Credential, Option<Identity>), String> {
    let wrong = || "wrote no ExecCredential with a status".to_owned();
    let text = std::str::from_utf8(written).map_err(|_| wrong())?;
    let document = Document::parse("", text).map_err(|_| wrong())?;
    let credential: ExecCredential =
        serde_json::from_value(document.item().json()).map_err(|_| wrong())?;
    let Status { token, client_certificate_data, client_key_data, expiration_timestamp } =
        credential.status.ok_or_else(wrong)?;
    let identity = match (client_certificate_data, client_key_data) {
        (Some(chain), Some(key)) => {
            let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes());
            Some(identity.map_err(|error| format!("gave a certificate that is no good: {error}"))?)
        }
        (None, None) => None,
        _ => return Err("gave a certificate without a key, or a key without one".to_owned()),
    };
    if token.is_none() && identity.is_none() {
        return Err("gave neither a token nor a certificate".to_owned());
    }
    let token = token.map(|token| bearer(&token).ok_or("gave a token that is none"));
    Ok((Credential { token: token.transpose()?, expires: expiration_timestamp }, identity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shell(script: &str) -> ExecConfig {
        ExecConfig {
            api_version: Some("client.authentication.k8s.io/v1".into()),
            command: Some("sh".into()),
            args: Some(vec!["-c".into(), script.into()]),
            ..ExecConfig::default()
        }
    }

    async fn refused(exec: ExecConfig) -> String {
        Plugin::start_with(exec, Duration::from_millis(300)).await.err().unwrap()
    }

    #[tokio::test]
    async fn it_is_told_who_asks_and_its_token_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let script = format!(
            "printf %s \"$KUBERNETES_EXEC_INFO\" > {}; \
             printf '{{\"kind\":\"ExecCredential\",\"status\":{{\"token\":\"%s\"}}}}' \"$WHO\"",
            told.display()
        );
        let who = [("name", "WHO"), ("value", "me")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let exec = ExecConfig { env: Some(vec![who.into()]), ..shell(&script) };
        let (plugin, identity) = Plugin::start(exec).await.unwrap();
        assert!(identity.is_none());
        let header = plugin.header().await.unwrap().unwrap();
        assert!(header == "Bearer me" && header.is_sensitive());
        let told: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(told).unwrap()).unwrap();
        assert_eq!(told["apiVersion"], "client.authentication.k8s.io/v1");
        assert_eq!(told["spec"]["interactive"], false);
    }

    /// Each run counts: one more line in a file, whose number is the token.
    fn counting(file: &Path, seconds: i64) -> ExecConfig {
        let expires = Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_secs(seconds);
        let file = file.display();
        shell(&format!(
            "test -e {file}.broken && exit 7; echo >> {file}; \
             echo \"status: {{token: \\\"$(wc -l < {file})\\\", expirationTimestamp: '{expires}'}}\""
        ))
    }

    #[tokio::test]
    async fn what_is_about_to_expire_is_asked_for_again() {
        for (seconds, tokens) in [(3600, ["Bearer 1", "Bearer 1"]), (30, ["Bearer 2", "Bearer 3"])]
        {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("runs");
            let (plugin, _) = Plugin::start(counting(&file, seconds)).await.unwrap();
            for token in tokens {
                assert_eq!(plugin.header().await.unwrap().unwrap(), token);
            }
            // What it gave before does while it lasts.
            std::fs::write(directory.path().join("runs.broken"), "").unwrap();
            assert_eq!(plugin.header().await.unwrap().unwrap(), tokens[1]);
        }
        let directory = tempfile::tempdir().unwrap();
        let (plugin, _) =
            Plugin::start(counting(&directory.path().join("runs"), -1)).await.unwrap();
        std::fs::write(directory.path().join("runs.broken"), "").unwrap();
        let error = plugin.header().await.unwrap_err();
        assert!(error.contains("ended with exit status: 7 and said: nothing"), "{error}");
    }

    #[tokio::test]
    async fn what_it_does_wrong_is_said_and_not_quoted() {
        for (script, part) in [
            ("echo s3cret; echo why >&2; exit 3", "ended with exit status: 3 and said: why"),
            ("echo s3cret", "wrote no ExecCredential"),
            ("echo '{\"status\": {\"token\": [\"s3cret\"]}}'", "wrote no ExecCredential"),
            ("echo '{\"status\": {}}'", "neither a token nor a certificate"),
            ("echo '{\"status\": {\"token\": \"s3cret\\u0001\"}}'", "a token that is none"),
            ("echo '{\"status\": {\"clientKeyData\": \"s3cret\"}}'", "without a key, or a key"),
            (
                "echo '{\"status\": {\"clientKeyData\": \"s3cret\", \"clientCertificateData\": \"x\"}}'",
                "a certificate that is no good",
            ),
            // A key that has lost its line ends.
            (
                "echo '{\"status\": {\"clientCertificateData\": \"\", \"clientKeyData\": \
                 \"-----BEGIN PRIVATE KEY-----s3cret-----END PRIVATE KEY-----\"}}'",
                "put back the line ends",
            ),
            ("exec sleep 1000", "has written nothing within 300ms"),
        ] {
            let error = if script.contains("sleep") {
                refused(shell(script)).await
            } else {
                Plugin::start(shell(script)).await.err().unwrap()
            };
            assert!(error.starts_with("the credential plugin `sh` "), "{error}");
            assert!(error.contains(part) && !error.contains("s3cret"), "{script}: {error}");
            assert!(!error.contains("45, 45"), "bytes of it: {error}");
        }
        let missing = ExecConfig {
            command: Some("/nowhere/login".into()),
            install_hint: Some("get it\u{1b}[2J there".into()),
            ..ExecConfig::default()
        };
        let error = refused(missing).await;
        assert!(error.contains("can't be run: No such file"), "{error}");
        assert!(error.contains("get it") && !error.contains('\u{1b}'), "{error}");
        let always =
            ExecConfig { interactive_mode: Some(ExecInteractiveMode::Always), ..shell("exit 0") };
        assert!(refused(always).await.contains("wants a terminal"));
    }
}
