//! Listening on an address, if need be later: one that is taken may become free.

use crate::serving::{self, Patience};
use axum::Router;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long to wait before an address is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// With whoever asks one of kube-proxy's servers. Load balancers and Prometheus that keep their connections ask every
/// 30 seconds or more often: none is closed just as they do.
pub(super) const PATIENCE: Patience = Patience {
    head: Duration::from_secs(40),
    take: Duration::from_secs(10),
    last_answers: Duration::from_secs(1),
};

/// A server that one of kube-proxy's addresses is for.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// What it is, for messages: `the health server`.
    pub what: &'static str,
    /// The setting that says where: `healthzBindAddress`.
    pub setting: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// Whether to give up at once if the address can't be had.
    pub hard_fail: bool,
}

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} can't listen on {address}: {source}; free that port, or set `{setting}` to another"
)]
pub struct ListenError {
    what: &'static str,
    setting: &'static str,
    address: SocketAddr,
    source: io::Error,
}

// === impl Server ===

impl Server {
    /// Answers requests as `router` does, for ever. `complain` hears of the first of several failures
    /// to listen. Ends only if it must give up.
    pub async fn serve(self, router: Router, complain: impl FnMut(&ListenError)) -> ListenError {
        self.serve_with(PAUSE, PATIENCE, router, complain).await
    }

    async fn serve_with(
        self,
        pause: Duration,
        patience: Patience,
        router: Router,
        mut complain: impl FnMut(&ListenError),
    ) -> ListenError {
        let mut complained = false;
        loop {
            let Self { what, setting, address, hard_fail } = self;
            let source = match TcpListener::bind(address).await {
                Ok(listener) => {
                    tracing::info!(%address, "{what} listens");
                    complained = false;
                    // Nothing ever stops it.
                    serving::serve(listener, router.clone(), patience, pending()).await;
                    continue;
                }
                Err(error) => error,
            };
            let error = ListenError { what, setting, address, source };
            if !complained {
                complain(&error);
                complained = true;
            }
            if hard_fail {
                return error;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serving::tests::{expect_let_go, short};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_taken_address_is_served_once_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let mut server = Server { what: "x", setting: "y", address, hard_fail: true };
        let mut heard = Vec::new();
        let error = server.serve(Router::new(), |error| heard.push(error.to_string())).await;
        let text = error.to_string();
        assert_eq!(heard, [text.as_str()]);
        assert!(text.starts_with(&format!("x can't listen on {address}: ")), "{text}");
        assert!(text.ends_with("free that port, or set `y` to another"), "{text}");

        server.hard_fail = false;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            let pause = Duration::from_millis(10);
            let complain = move |_: &ListenError| tell.send(()).unwrap();
            server.serve_with(pause, PATIENCE, Router::new(), complain).await
        });
        told.recv().await.unwrap();
        drop(taken);
        let answers = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), answers).await.unwrap();
        serving.abort();
    }

    #[tokio::test]
    async fn who_sends_half_a_head_is_let_go() {
        // An address that is free once the server is to have it.
        let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = held.local_addr().unwrap();
        let server = Server { what: "x", setting: "y", address, hard_fail: false };
        let pause = Duration::from_millis(10);
        let patience = short(PATIENCE);
        let serving = tokio::spawn(server.serve_with(pause, patience, Router::new(), |_| {}));
        drop(held);
        let connected = async {
            loop {
                match TcpStream::connect(address).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let stream = tokio::time::timeout(Duration::from_secs(20), connected).await.unwrap();
        expect_let_go(stream).await;
        serving.abort();
    }
}
