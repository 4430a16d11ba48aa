//! The standard gRPC health service says `SERVING`.

use super::tls::{self, Trust};
use super::{Outcome, Stage, tcp};
use crate::model::check::GrpcProbe;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

/// Most bytes of an answer; it is a few.
const MAX_ANSWER: usize = 4 * 1024;

/// A connection with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(super) async fn attempt(
    target: SocketAddr,
    probe: &GrpcProbe,
    trust: &Arc<Trust>,
    stage: &Stage,
) -> Outcome {
    let endpoint = match endpoint(target, probe) {
        Ok(endpoint) => endpoint,
        Err(text) => return Outcome::failing(text),
    };
    // Connected here, so that what fails can be told apart.
    let stream: Box<dyn Stream> = match tcp::connect(target).await {
        Err(outcome) => return outcome,
        Ok(stream) => match &probe.tls {
            None => Box::new(stream),
            Some(settings) => {
                stage.reach(Stage::TLS);
                let name = settings.server_name.as_deref();
                match tls::handshake(stream, target, name, settings, &[b"h2"], trust).await {
                    Ok(stream) => Box::new(stream),
                    Err(text) => return Outcome::failing(text),
                }
            }
        },
    };
    stage.reach(Stage::EXCHANGE);
    let mut once = Some(stream);
    let connector = service_fn(move |_: Uri| {
        let stream = once.take().ok_or(io::ErrorKind::NotConnected);
        async move { Ok::<_, io::Error>(TokioIo::new(stream?)) }
    });
    let channel = match endpoint.connect_with_connector(connector).await {
        Ok(channel) => channel,
        Err(error) => return Outcome::failing(format!("L7RSP {error}")),
    };
    let mut client = HealthClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let request = HealthCheckRequest { service: probe.service.clone() };
    match client.check(request).await {
        Ok(response) => match response.into_inner().status() {
            ServingStatus::Serving => Outcome::passing("L7OK SERVING"),
            other => Outcome::failing(format!("L7STS {}", other.as_str_name())),
        },
        Err(status) => failure(&status, probe),
    }
}

/// What requests are addressed to. The stream is made elsewhere, so the library must not see that it
/// is a TLS one; the server must.
fn endpoint(target: SocketAddr, probe: &GrpcProbe) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{target}"));
    let endpoint = endpoint.map_err(|error| format!("L7RSP {error}"))?;
    let Some(settings) = &probe.tls else { return Ok(endpoint) };
    let host = settings.server_name.clone().unwrap_or_else(|| target.to_string());
    let origin = Uri::builder().scheme("https").authority(host).path_and_query("/").build();
    Ok(endpoint.origin(origin.map_err(|error| format!("L7RSP {error}"))?))
}

fn failure(status: &Status, probe: &GrpcProbe) -> Outcome {
    let text = match status.code() {
        Code::NotFound => format!("L7STS the health service knows no `{}`", probe.service),
        Code::Unimplemented => "L7STS there is no health service".to_owned(),
        code => format!("L7RSP {code:?}: {}", status.message()),
    };
    Outcome::failing(text)
}
