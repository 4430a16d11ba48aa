//! An HTTP response is as expected. Whatever the other end sends, little memory is used: headers are
//! limited, and of a body only the first part is read, and only when text is expected in it.

use super::tls::{self, Trust};
use super::{Outcome, Stage, tcp};
use crate::model::check::HttpProbe;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};

/// Most bytes of headers.
const MAX_HEAD: usize = 32 * 1024;
/// Most headers.
const MAX_HEADERS: usize = 100;
/// Most bytes of a body that are searched.
const MAX_BODY: usize = 64 * 1024;

pub(super) async fn attempt(
    target: SocketAddr,
    probe: &HttpProbe,
    trust: &Trust,
    stage: &Stage,
) -> Outcome {
    let stream = match tcp::connect(target).await {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    let Some(settings) = &probe.tls else {
        stage.reach(Stage::EXCHANGE);
        return exchange(stream, target, probe).await;
    };
    stage.reach(Stage::TLS);
    let name = settings.server_name.as_deref().or(probe.host.as_deref());
    match tls::handshake(stream, target, name, settings, &[b"http/1.1"], trust).await {
        Ok(stream) => {
            stage.reach(Stage::EXCHANGE);
            exchange(stream, target, probe).await
        }
        Err(text) => Outcome::failing(text),
    }
}

async fn exchange<S>(stream: S, target: SocketAddr, probe: &HttpProbe) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let (mut sender, connection) = match client.handshake(TokioIo::new(stream)).await {
        Ok(ready) => ready,
        Err(error) => return garbled(&error),
    };
    let host = probe.host.clone().unwrap_or_else(|| target.to_string());
    let request = Request::builder()
        .method(probe.method.as_str())
        .uri(&probe.path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("lb-agent/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Outcome::failing(format!("L7RSP not a request: {error}")),
    };
    let answer = async {
        match sender.send_request(request).await {
            Ok(response) => judge(response, probe).await,
            Err(error) => garbled(&error),
        }
    };
    // Both on this task, so that giving up closes the connection.
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        outcome = &mut answer => outcome,
        // What the connection ended with is told to whoever waits for the answer.
        _ = &mut connection => answer.await,
    }
}

async fn judge(response: Response<Incoming>, probe: &HttpProbe) -> Outcome {
    let status = response.status().as_u16();
    if !probe.status.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
        return Outcome::failing(format!("L7STS {status}"));
    }
    match &probe.body {
        None => Outcome::passing(format!("L7OK {status}")),
        Some(text) => search(response.into_body(), text, status).await,
    }
}

async fn search(mut body: Incoming, text: &str, status: u16) -> Outcome {
    let mut read: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return garbled(&error),
        };
        // Only what is new is searched: the other end may send single bytes.
        let old = read.len().saturating_sub(text.len());
        read.extend(data.iter().take(MAX_BODY - read.len()));
        if contains(&read[old..], text) {
            return Outcome::passing(format!("L7OK {status}"));
        }
        if read.len() == MAX_BODY {
            let reason = "the first 64 KiB of the body lack the expected text";
            return Outcome::failing(format!("L7RSP {status}, {reason}"));
        }
    }
    Outcome::failing(format!("L7RSP {status}, the body lacks the expected text"))
}

fn contains(read: &[u8], text: &str) -> bool {
    text.is_empty() || read.windows(text.len()).any(|part| part == text.as_bytes())
}

fn garbled(error: &hyper::Error) -> Outcome {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Outcome::failing(format!("L7RSP {error}{}", cause.unwrap_or_default()))
}
