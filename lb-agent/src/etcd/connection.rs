//! A connection to one member. Never to several at once: a balanced channel goes on sending calls to
//! members that are dead or hang.

use super::credentials::Credentials;
use super::error::{At, EtcdError};
use super::settings::{CALL_TIMEOUT, CONNECT_TIMEOUT, Endpoint, Settings};
use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, WatchClient};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport;

/// A member that is pinged more often than every five seconds hangs up.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
/// A transaction of the store's default limit of 128 operations, each of the largest size that
/// anybody configures, still fits.
const LARGEST_MESSAGE: usize = 64 << 20;

/// A connection to one member. Made without waiting for it, unless we must log in.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
    settings: Arc<Settings>,
    member: usize,
}

/// Why a call came to nothing.
pub(super) enum Failure {
    /// What the crate says.
    Theirs(etcd_client::Error),
    /// What we say.
    Ours(EtcdError),
}

// === impl Connection ===

impl Connection {
    /// Connects to a member, with what the credential files say now.
    pub(super) async fn open(settings: &Arc<Settings>, member: usize) -> Result<Self, EtcdError> {
        let endpoint = &settings.endpoints[member];
        let at = At { endpoint, settings, doing: "log in" };
        let Credentials { tls, user } = Credentials::read(settings, endpoint).await?;
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING, PONG)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        let channel = tls.map(|identities| identities.channel(endpoint, tuned));
        let channel = channel.transpose().map_err(|error| EtcdError::of(at, &error))?;
        let connect = async |options| {
            let connecting = async {
                match &channel {
                    Some(channel) => Client::from_channel(channel.clone(), Some(options)).await,
                    None => Client::connect([endpoint.to_string()], Some(options)).await,
                }
            };
            match timeout(CALL_TIMEOUT, connecting).await {
                Ok(connected) => connected.map_err(Failure::Theirs),
                Err(_) => Err(Failure::Ours(EtcdError::silent(at, CALL_TIMEOUT))),
            }
        };
        let connected = match user {
            None => connect(options).await,
            Some((name, password)) => {
                match connect(options.clone().with_user(name, password)).await {
                    // It was switched off; we go on without until it is on again.
                    Err(failure) if failure.is_needless_login() => connect(options).await,
                    connected => connected,
                }
            }
        };
        let client = connected.map_err(|failure| failure.at(at))?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(LARGEST_MESSAGE),
            watch: client.watch_client().max_decoding_message_size(LARGEST_MESSAGE),
            lease: client.lease_client(),
            settings: Arc::clone(settings),
            member,
        })
    }

    /// What an error on this connection says about where it happened.
    pub(super) fn at<'a>(&'a self, doing: &'a str) -> At<'a> {
        At { endpoint: self.endpoint(), settings: &self.settings, doing }
    }

    /// The member.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.settings.endpoints[self.member]
    }
}

/// The limits of a channel that is not the client library's own.
fn tuned(endpoint: transport::Endpoint) -> transport::Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true)
}

// === impl Failure ===

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        Self::Theirs(error)
    }
}

impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Self {
        Self::Ours(error)
    }
}

impl Failure {
    /// As our error.
    pub(super) fn at(self, at: At<'_>) -> EtcdError {
        match self {
            Self::Theirs(error) => EtcdError::of(at, &error),
            Self::Ours(error) => error,
        }
    }

    fn is_needless_login(&self) -> bool {
        matches!(self, Self::Theirs(etcd_client::Error::GRpcStatus(status))
            if status.message().contains("authentication is not enabled"))
    }
}
