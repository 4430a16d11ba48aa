//! The verbs that steer backends: `drain`, `undrain`, `disable`, `weight`. They tell the agent, and
//! wait until it does what it was told.

use super::client::{AskError, Client};
use super::{Places, say, show};
use crate::admin::{Change, Kept};
use crate::model::{AdminState, ServiceName, parse_socket_addr};
use crate::status::{BackendStatus, ServiceStatus};
use clap::{Args, Subcommand};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long the agent may take to do as it was told.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// The same while connections are waited for.
const LONG_PAUSE: Duration = Duration::from_millis(500);

/// What to tell the agent of a backend.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Send no new connections to a backend; open ones live on
    #[command(override_usage = "lbctl drain [OPTIONS] <SERVICE/ADDRESS>")]
    Drain(Leave),
    /// Take a backend out; the service decides whether its connections are ended (`on_removal`)
    #[command(override_usage = "lbctl disable [OPTIONS] <SERVICE/ADDRESS>")]
    Disable(Leave),
    /// Take back a `drain` or `disable`
    #[command(override_usage = "lbctl undrain [OPTIONS] <SERVICE/ADDRESS>")]
    Undrain {
        /// The backend: web/10.0.0.5:8080
        backend: BackendName,
    },
    /// Give a backend another weight, or with `default` the one that its source says
    #[command(override_usage = "lbctl weight [OPTIONS] <SERVICE/ADDRESS> <WEIGHT>")]
    Weight {
        /// The backend: web/10.0.0.5:8080
        backend: BackendName,
        /// 1 to 65535, or `default`
        weight: Weight,
    },
}

/// A backend that is to be left alone.
#[derive(Debug, Args)]
pub(super) struct Leave {
    /// The backend: web/10.0.0.5:8080
    backend: BackendName,
    /// Wait until no connection is open to it any more
    #[arg(long)]
    wait: bool,
    /// How long to wait; exit code 1 when the time is over
    #[arg(long, requires = "wait", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// `SERVICE/ADDRESS`.
#[derive(Clone, Debug)]
pub(super) struct BackendName {
    service: ServiceName,
    address: SocketAddr,
}

/// A weight, or the source's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight(Option<u16>);

// === impl BackendName ===

impl FromStr for BackendName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An address has no `/`, so the last one parts the two.
        let (service, address) = text
            .rsplit_once('/')
            .ok_or_else(|| format!("`{text}` is not a backend; write web/10.0.0.5:8080"))?;
        Ok(Self {
            service: service.parse().map_err(|error| format!("{error}"))?,
            address: parse_socket_addr(address).map_err(|error| error.to_string())?,
        })
    }
}

impl std::fmt::Display for BackendName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.service, self.address)
    }
}

// === impl Weight ===

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<u16>()) {
            ("default", _) => Ok(Self(None)),
            (_, Ok(0)) => Err("0 is not a share; use `lbctl drain`".to_owned()),
            (_, Ok(weight)) => Ok(Self(Some(weight))),
            (_, Err(_)) => Err(format!("`{text}` is not a weight; use 1 to 65535 or `default`")),
        }
    }
}

// === impl Verb ===

impl Verb {
    /// Tells the agent, and waits.
    pub(super) async fn run(self, places: Places) -> anyhow::Result<ExitCode> {
        let client = Client::new(places.socket);
        match self {
            Self::Drain(leave) => leave.run(&client, AdminState::Drain).await,
            Self::Disable(leave) => leave.run(&client, AdminState::Disabled).await,
            Self::Undrain { backend } => {
                let said = |b: &BackendStatus| b.said.and_then(|said| said.state).is_none();
                let (kept, now) = tell(&client, &backend, Some(None), None, said).await?;
                show(&format!("{backend} is {}{}\n", word(now.state), place(&kept)))?;
                if now.state != AdminState::Ready {
                    say("that is what its source says; change it there");
                    return Ok(ExitCode::FAILURE);
                }
                Ok(ExitCode::SUCCESS)
            }
            Self::Weight { backend, weight: Weight(weight) } => {
                let said = |b: &BackendStatus| b.said.and_then(|said| said.weight) == weight;
                let (kept, now) = tell(&client, &backend, None, Some(weight), said).await?;
                show(&format!("{backend} has weight {}{}\n", now.weight, place(&kept)))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

// === impl Leave ===

impl Leave {
    async fn run(self, client: &Client, state: AdminState) -> anyhow::Result<ExitCode> {
        let Self { backend, wait, timeout } = self;
        let said = |b: &BackendStatus| b.state == state;
        let (kept, now) = tell(client, &backend, Some(Some(state)), None, said).await?;
        let open = |count: u64| match count {
            1 => "1 connection is open".to_owned(),
            count => format!("{count} connections are open"),
        };
        show(&format!("{backend} is {}, {}{}\n", word(state), open(now.active), place(&kept)))?;
        if !wait {
            return Ok(ExitCode::SUCCESS);
        }
        let end = Instant::now() + timeout;
        loop {
            let now = find(client, &backend).await?;
            if now.active == 0 {
                show(&format!("{backend} is idle\n"))?;
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() >= end {
                say(&format!("{backend}: {} still", open(now.active)));
                return Ok(ExitCode::FAILURE);
            }
            sleep(LONG_PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }
}

/// Tells the agent, and waits until what it shows of the backend is so.
async fn tell(
    client: &Client,
    backend: &BackendName,
    state: Option<Option<AdminState>>,
    weight: Option<Option<u16>>,
    so: impl Fn(&BackendStatus) -> bool,
) -> anyhow::Result<(Kept, BackendStatus)> {
    let BackendName { service, address } = backend.clone();
    let change = Change { service, backend: address, state, weight };
    let kept: Kept = match client.post("/v1/overrides", &change).await {
        Err(absent @ AskError::Absent { .. }) => anyhow::bail!(
            "{absent}; start it with `lb-agent run -c FILE`, or name its socket with --socket"
        ),
        answer => answer?,
    };
    let end = Instant::now() + PATIENCE;
    loop {
        let now = find(client, backend).await?;
        if so(&now) {
            return Ok((kept, now));
        }
        if Instant::now() >= end {
            anyhow::bail!(
                "{backend}: written to {}, but the agent does not follow yet; see `lbctl status`",
                kept.place
            );
        }
        sleep(PAUSE).await;
    }
}

async fn find(client: &Client, backend: &BackendName) -> anyhow::Result<BackendStatus> {
    let service: ServiceStatus = client.get(&format!("/v1/services/{}", backend.service)).await?;
    let found = service.backends.into_iter().find(|b| b.address == backend.address);
    found.ok_or_else(|| anyhow::anyhow!("{backend} is gone from its service"))
}

fn word(state: AdminState) -> &'static str {
    match state {
        AdminState::Ready => "ready",
        AdminState::Drain => "draining",
        AdminState::Disabled => "disabled",
    }
}

fn place(kept: &Kept) -> String {
    format!(" (kept in {})", kept.place)
}
