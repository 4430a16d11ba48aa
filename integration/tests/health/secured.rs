//! HTTPS and gRPC checks on real servers, with certificates good and bad.

use crate::trial::{Server, check, hang, hasty, http, nothing_is_left, request, says, tried};
use integration::etcd::pki::{Pair, Pki};
use integration::lab;
use lb_agent::health::board::CheckResult::{self, Failing, Passing};
use lb_agent::model::check::{Check, GrpcProbe, HttpProbe, Probe, ProbeTls};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, ServerTlsConfig};
use tonic_health::ServingStatus;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn config(pair: &Pair, protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&pair.cert)
        .expect("certificates fit")
        .map(|one| one.expect("a certificate"))
        .collect();
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("certificates fit");
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .expect("certificates fit")
        .with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).expect("certificates fit");
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn https(pair: &Pair) -> Server {
    let config = config(pair, &[b"http/1.1"]);
    Server::start(move |stream| {
        let session = ServerConnection::new(Arc::clone(&config)).expect("certificates fit");
        let mut stream = StreamOwned::new(session, stream);
        request(&mut stream);
        // The client may have gone.
        let _ = stream.write_all(OK).and_then(|()| stream.flush());
        hang(&mut stream);
    })
}

fn trusting(ca: PathBuf) -> ProbeTls {
    ProbeTls { ca: Some(ca), ..ProbeTls::default() }
}

#[test]
fn certificates() {
    lab::run("probe-https", |lab| {
        let (ours, theirs) =
            (Pki::create(lab.scratch(), "ours"), Pki::create(lab.scratch(), "theirs"));
        let good = https(&ours.server());
        let named = https(&ours.server_named("web.internal"));
        let expired = https(&ours.expired_server());
        let unknown = https(&theirs.server());
        let deaf = Server::start(|mut stream| hang(&mut stream));
        let plain = Server::start(|mut stream| {
            let _ = stream.write_all(OK);
            hang(&mut stream);
        });
        let name = |name: &str| Some(name.to_owned());
        let over = |tls: ProbeTls| HttpProbe { tls: Some(tls), ..http() };
        let ca = || trusting(ours.ca());
        let anybody = || ProbeTls { verify: false, ..ProbeTls::default() };
        let no_file = || trusting(lab.scratch().join("no.pem"));
        let called = HttpProbe { host: name("web.internal:8443"), ..over(ca()) };
        let expected: Vec<(HttpProbe, &Server, CheckResult, &str)> = vec![
            (over(ca()), &good, Passing, "L7OK 200"),
            (over(ProbeTls::default()), &good, Failing, "L6RSP *UnknownIssuer"),
            (over(ca()), &unknown, Failing, "L6RSP *UnknownIssuer"),
            (over(ca()), &named, Failing, "L6RSP *not valid for"),
            (
                over(ProbeTls { server_name: name("web.internal"), ..ca() }),
                &named,
                Passing,
                "L7OK 200",
            ),
            (
                over(ProbeTls { server_name: name("other.internal"), ..ca() }),
                &named,
                Failing,
                "L6RSP *not valid for",
            ),
            (called, &named, Passing, "L7OK 200"),
            (over(ca()), &expired, Failing, "L6RSP *expired"),
            (over(anybody()), &good, Passing, "L7OK 200"),
            (over(anybody()), &named, Passing, "L7OK 200"),
            (over(anybody()), &expired, Passing, "L7OK 200"),
            (over(anybody()), &unknown, Passing, "L7OK 200"),
            (over(ca()), &plain, Failing, "L6RSP *"),
            (over(no_file()), &good, Failing, "L6RSP *no.pem"),
        ];
        let cases: Vec<(Check, SocketAddr)> = expected
            .iter()
            .map(|(probe, server, ..)| (check(Probe::Http(probe.clone())), server.address))
            .collect();
        for (report, (_, _, result, text)) in tried(&cases).iter().zip(&expected) {
            let (begin, part) = text.split_once('*').unwrap_or((text, ""));
            says(report, *result, &format!("{begin}*"));
            assert!(report.text.contains(part), "no `{part}`: {report:?}");
        }
        let stuck = tried(&[(hasty(Probe::Http(over(ca()))), deaf.address)]);
        says(&stuck[0], Failing, "L6TOUT no answer within 300ms");
        nothing_is_left();
    });
}

/// A gRPC server on a thread of its own.
struct Grpc {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the server offers.
#[derive(Clone, Copy, PartialEq)]
enum Offer {
    Health,
    Nothing,
}

impl Grpc {
    fn start(offer: Offer, pair: Option<&Pair>) -> Self {
        let identity = pair.map(|pair| {
            Identity::from_pem(
                fs::read(&pair.cert).expect("a server can be started"),
                fs::read(&pair.key).expect("a server can be started"),
            )
        });
        let (told, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a server can be started");
            runtime.block_on(async {
                let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address"))
                    .expect("a server can be started");
                told.send(incoming.local_addr().expect("a server can be started"))
                    .expect("a server can be started");
                tokio::select! {
                    () = serve(incoming, offer, identity) => {}
                    _ = stopped => {}
                }
            });
        });
        let address = address.recv().expect("a server can be started");
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(incoming: TcpIncoming, offer: Offer, identity: Option<Identity>) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("good", ServingStatus::Serving).await;
    reporter.set_service_status("bad", ServingStatus::NotServing).await;
    reporter.set_service_status("odd", ServingStatus::Unknown).await;
    let mut server = tonic::transport::Server::builder();
    if let Some(identity) = identity {
        server = server
            .tls_config(ServerTlsConfig::new().identity(identity))
            .expect("a server can be started");
    }
    let router = server.add_optional_service((offer == Offer::Health).then_some(health));
    router.serve_with_incoming(incoming).await.expect("a server can be started");
}

fn grpc(service: &str, tls: Option<ProbeTls>) -> Probe {
    Probe::Grpc(GrpcProbe { tls, service: service.to_owned() })
}

#[test]
fn grpc_health() {
    lab::run("probe-grpc", |lab| {
        let (ours, theirs) =
            (Pki::create(lab.scratch(), "ours"), Pki::create(lab.scratch(), "theirs"));
        let plain = Grpc::start(Offer::Health, None);
        let without = Grpc::start(Offer::Nothing, None);
        let secured = Grpc::start(Offer::Health, Some(&ours.server()));
        let named = Grpc::start(Offer::Health, Some(&ours.server_named("grpc.internal")));
        let deaf = Server::start(|mut stream| hang(&mut stream));
        let other = Server::answering(OK);
        let ca = || Some(trusting(ours.ca()));
        let name = Some("grpc.internal".to_owned());
        let called = Some(ProbeTls { server_name: name, ..trusting(ours.ca()) });
        let anybody = Some(ProbeTls { verify: false, ..ProbeTls::default() });
        let expected = [
            (check(grpc("", None)), plain.address, Passing, "L7OK SERVING"),
            (check(grpc("good", None)), plain.address, Passing, "L7OK SERVING"),
            (check(grpc("bad", None)), plain.address, Failing, "L7STS NOT_SERVING"),
            (check(grpc("odd", None)), plain.address, Failing, "L7STS UNKNOWN"),
            (
                check(grpc("none", None)),
                plain.address,
                Failing,
                "L7STS the health service knows no `none`",
            ),
            (check(grpc("", None)), without.address, Failing, "L7STS there is no health service"),
            (check(grpc("good", ca())), secured.address, Passing, "L7OK SERVING"),
            (check(grpc("bad", ca())), secured.address, Failing, "L7STS NOT_SERVING"),
            (check(grpc("", Some(trusting(theirs.ca())))), secured.address, Failing, "L6RSP *"),
            (check(grpc("", ca())), named.address, Failing, "L6RSP *"),
            (check(grpc("", called)), named.address, Passing, "L7OK SERVING"),
            (check(grpc("", anybody)), named.address, Passing, "L7OK SERVING"),
            (check(grpc("", ca())), plain.address, Failing, "L6RSP *"),
            (hasty(grpc("", None)), deaf.address, Failing, "L7TOUT no answer within 300ms"),
            (hasty(grpc("", ca())), deaf.address, Failing, "L6TOUT no answer within 300ms"),
            (check(grpc("", None)), other.address, Failing, "L7*"),
        ];
        let cases: Vec<_> =
            expected.iter().map(|(check, address, ..)| (check.clone(), *address)).collect();
        for (report, (_, _, result, text)) in tried(&cases).iter().zip(&expected) {
            says(report, *result, text);
        }
        nothing_is_left();
    });
}
