//! The server's thread: accepts connections until it is told to stop, and drops them all then.

use super::serve::{Shared, router};
use axum::serve::Listener;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

/// A server that answers, until it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Accepts TLS. A handshake that takes its time holds up the next one, which tests can bear.
struct Secured {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

// === impl Running ===

impl Running {
    pub(super) fn start(
        listener: StdListener,
        tls: Option<&super::Secured>,
        shared: Arc<Shared>,
    ) -> Self {
        let acceptor = tls.map(acceptor);
        let (stop, stopped) = oneshot::channel();
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be made");
            runtime.block_on(async {
                listener.set_nonblocking(true).expect("a socket can be made non-blocking");
                let listener = TcpListener::from_std(listener).expect("the runtime runs");
                let serve = async {
                    match acceptor {
                        None => axum::serve(listener, router(shared)).await,
                        Some(acceptor) => {
                            axum::serve(Secured { listener, acceptor }, router(shared)).await
                        }
                    }
                };
                tokio::select! {
                    ended = serve => panic!("the API server ended by itself: {ended:?}"),
                    // The handle is gone, or says so.
                    _ = stopped => {}
                }
            });
            // With the runtime go all connections.
        };
        let thread = Builder::new().name("apiserver".into()).spawn(body);
        Self { stop: Some(stop), thread: Some(thread.expect("a thread can be started")) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the API server panicked");
        }
    }
}

fn acceptor(tls: &super::Secured) -> TlsAcceptor {
    let read = |path| fs::read(path).expect("the certificate's files are readable");
    let certificate = |path| CertificateDer::from_pem_slice(&read(path)).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(&read(&tls.pair.key)).expect("PEM");
    let builder = ServerConfig::builder();
    let builder = if tls.mutual {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&tls.authority)).expect("an authority's certificate");
        let clients = WebPkiClientVerifier::builder(Arc::new(roots)).build();
        builder.with_client_cert_verifier(clients.expect("there is an authority"))
    } else {
        builder.with_no_client_auth()
    };
    let config = builder
        .with_single_cert(vec![certificate(&tls.pair.cert)], key)
        .expect("the key belongs to the certificate");
    TlsAcceptor::from(Arc::new(config))
}

// === impl Secured ===

impl Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            // A client that does not like our certificate is not our problem.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
