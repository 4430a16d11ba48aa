//! Listening on an address, if need be later: one that is taken may become free.

use axum::Router;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long to wait before an address is tried again.
const PAUSE: Duration = Duration::from_secs(5);

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
        self.serve_with(PAUSE, router, complain).await
    }

    async fn serve_with(
        self,
        pause: Duration,
        router: Router,
        mut complain: impl FnMut(&ListenError),
    ) -> ListenError {
        let mut complained = false;
        loop {
            let error = match TcpListener::bind(self.address).await {
                Ok(listener) => {
                    let (what, address) = (self.what, self.address);
                    tracing::info!(%address, "{what} listens");
                    complained = false;
                    match axum::serve(listener, router.clone()).await {
                        Ok(()) => io::Error::from(io::ErrorKind::ConnectionAborted),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            let Self { what, setting, address, hard_fail } = self;
            let error = ListenError { what, setting, address, source: error };
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
            server.serve_with(pause, Router::new(), move |_| tell.send(()).unwrap()).await
        });
        told.recv().await.unwrap();
        drop(taken);
        let answers = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), answers).await.unwrap();
        serving.abort();
    }
}
