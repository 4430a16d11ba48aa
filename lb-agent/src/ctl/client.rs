//! Asks the agent on its Unix socket, and decides what a failure means: nobody there (the pinned
//! tables can be read instead), no permission, or an answer that is an error.

use super::pieces::Pieces;
use crate::api::NOTE;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::http::request::Builder;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// From connecting to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the agent that listens on one socket.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
    patience: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// No agent there, or none that answers.
    #[error("no agent answers on {}: {reason}", .socket.display())]
    Absent {
        /// The socket.
        socket: PathBuf,
        /// What was seen.
        reason: String,
    },
    /// The socket is there, and not for us.
    #[error("permission denied on {}: run lbctl as root or as a member of {group}", .socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// The group that may connect, as far as can be told.
        group: String,
    },
    /// The agent answered with an error.
    #[error("{error}")]
    Refused {
        /// Which kind of error.
        status: StatusCode,
        /// What it said.
        error: String,
    },
    /// The agent began to answer.
    #[error("the answer of the agent on {} broke off: {reason}; ask again", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What was seen.
        reason: String,
    },
    /// The agent answered with something else.
    #[error("cannot read the answer of the agent on {}: {reason}; use the lbctl of the agent's version", .socket.display())]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The body of every error.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

// === impl Client ===

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, patience: PATIENCE }
    }

    /// Waits for answers as long as this.
    pub(super) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The answer to `GET path`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AskError> {
        Ok(self.get_noted(path).await?.0)
    }

    /// The answer to `GET path`, and what is missing in it.
    pub(super) async fn get_noted<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<(T, Option<String>), AskError> {
        self.answer(Request::get(path), Bytes::new()).await
    }

    /// The answer to `POST path` with `body` as JSON.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, AskError> {
        let body = serde_json::to_vec(body).map_err(|error| self.garbled(error))?;
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        Ok(self.answer(request, body.into()).await?.0)
    }

    /// The answer to `GET path` piece by piece, as it comes.
    pub(super) async fn stream(&self, path: &str) -> Result<Incoming, AskError> {
        Ok(self.stream_noted(path).await?.0)
    }

    /// The same, and what is missing of it.
    pub(super) async fn stream_noted(
        &self,
        path: &str,
    ) -> Result<(Incoming, Option<String>), AskError> {
        let request = Request::get(path)
            .header(HOST, "lb-agent")
            .body(Full::new(Bytes::new()))
            .map_err(|error| self.garbled(error))?;
        let response =
            tokio::time::timeout(self.patience, self.begin(request)).await.unwrap_or_else(
                |_| Err(self.absent(format!("no answer within {:?}", self.patience))),
            )?;
        if response.status().is_success() {
            let note = noted(&response);
            return Ok((response.into_body(), note));
        }
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| self.absent(e))?;
        match serde_json::from_slice(&body.to_bytes()) {
            Ok(ErrorBody { error }) => Err(AskError::Refused { status, error }),
            Err(_) => Err(self.garbled(format!("status {status}"))),
        }
    }

    /// Hands on the text of such an answer as it comes, for as long as it is wanted.
    pub(super) async fn pour<E: From<AskError>>(
        &self,
        mut body: Incoming,
        mut show: impl FnMut(&str) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let mut pieces = Pieces::default();
        while let Some(piece) = self.piece(&mut body).await? {
            let shown = pieces.add(&piece, &mut show).map_err(|error| self.garbled(error))?;
            if shown?.is_break() {
                return Ok(());
            }
        }
        if pieces.is_broken() {
            return Err(self.broken("it ends within a character").into());
        }
        Ok(())
    }

    /// The next piece of such an answer, or `None` at its end.
    async fn piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, AskError> {
        loop {
            let frame = tokio::time::timeout(self.patience, body.frame()).await;
            let silent = |_| self.broken(format!("nothing more within {:?}", self.patience));
            let Some(frame) = frame.map_err(silent)? else { return Ok(None) };
            // Trailers are of no interest.
            if let Ok(data) = frame.map_err(|error| self.broken(error))?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: Builder,
        body: Bytes,
    ) -> Result<(T, Option<String>), AskError> {
        let (body, note) = self.body(request, body).await?;
        let answer = serde_json::from_slice(&body).map_err(|error| self.garbled(error))?;
        Ok((answer, note))
    }

    async fn body(
        &self,
        request: Builder,
        body: Bytes,
    ) -> Result<(Bytes, Option<String>), AskError> {
        let request = request
            .header(HOST, "lb-agent")
            .body(Full::new(body))
            .map_err(|error| self.garbled(error))?;
        let (status, note, body) =
            tokio::time::timeout(self.patience, self.fetch(request)).await.unwrap_or_else(
                |_| Err(self.absent(format!("no answer within {:?}", self.patience))),
            )?;
        if status.is_success() {
            return Ok((body, note));
        }
        match serde_json::from_slice(&body) {
            Ok(ErrorBody { error }) => Err(AskError::Refused { status, error }),
            Err(_) => Err(self.garbled(format!("status {status}"))),
        }
    }

    async fn fetch(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Option<String>, Bytes), AskError> {
        let response = self.begin(request).await?;
        let status = response.status();
        let note = noted(&response);
        let body = response.into_body().collect().await.map_err(|e| self.absent(e))?;
        Ok((status, note, body.to_bytes()))
    }

    /// The head of the answer.
    async fn begin(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, AskError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.absent(e))?;
        // Its errors reach us through the request; it ends with the answer once the sender is gone.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|e| self.absent(e))
    }

    fn unreachable(&self, error: io::Error) -> AskError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                AskError::Denied { socket: self.socket.clone(), group: group_of(&self.socket) }
            }
            io::ErrorKind::NotFound => self.absent("no such socket"),
            io::ErrorKind::ConnectionRefused => self.absent("nobody listens"),
            _ => self.absent(error),
        }
    }

    fn absent(&self, reason: impl ToString) -> AskError {
        AskError::Absent { socket: self.socket.clone(), reason: reason.to_string() }
    }

    fn broken(&self, reason: impl ToString) -> AskError {
        AskError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }

    fn garbled(&self, reason: impl ToString) -> AskError {
        AskError::Garbled { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

/// What the agent says is missing of its answer.
fn noted(response: &Response<Incoming>) -> Option<String> {
    let note = response.headers().get(NOTE).and_then(|note| note.to_str().ok());
    note.map(str::to_owned)
}

/// The group that may connect to `socket`, in words. Its directory may be closed to us as well.
fn group_of(socket: &Path) -> String {
    let Ok(metadata) = std::fs::metadata(socket) else {
        return "its group".to_owned();
    };
    match Group::from_gid(Gid::from_raw(metadata.gid())) {
        Ok(Some(group)) => format!("group `{}`", group.name),
        _ => format!("group {}", metadata.gid()),
    }
}
