//! Where answers come from: the agent, or, when none answers, the pinned tables. Decides when to
//! turn to the tables and what to tell the user about it; nothing about looks.

use super::client::{AskError, Client};
use super::offline::Leftovers;
use super::report::{NoAgent, Report};
use super::{Form, Output, Places, Reader, Shown};
use crate::api::closest;
use crate::model::ServiceName;
use crate::status::{AgentStatus, ServiceStatus};
use hyper::StatusCode;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// The agent, and the places where it leaves its tables and its state.
#[derive(Debug)]
pub(super) struct Origin {
    client: Client,
    pin_dir: PathBuf,
    state_dir: PathBuf,
}

/// What there is to show, and what must be said about where it is from.
#[derive(Debug)]
pub(super) struct Answer {
    /// What to show.
    pub(super) report: Report,
    /// A line for standard error.
    pub(super) note: Option<String>,
}

// === impl Origin ===

impl Origin {
    pub(super) fn new(places: Places) -> Self {
        let Places { socket, pin_dir, state_dir } = places;
        Self { client: Client::new(socket), pin_dir, state_dir }
    }

    /// The answer to `verb`.
    pub(super) async fn ask(&self, verb: &Shown) -> anyhow::Result<Answer> {
        match self.ask_agent(verb).await {
            Ok(answer) => Ok(answer),
            Err(absent @ AskError::Absent { .. }) => self.ask_tables(verb, &absent),
            Err(error) => Err(error.into()),
        }
    }

    /// The table of all backends, drawn by the agent: says first what must be said about it, and shows it
    /// as it comes. `false` when no agent answers, or one of a version that doesn't draw.
    pub(super) async fn backends(
        &self,
        leases: bool,
        output: &Output,
        say: impl Fn(&str),
        mut show: impl FnMut(&str) -> io::Result<Reader>,
    ) -> anyhow::Result<bool> {
        let wanted = [
            ("wide", output.form == Form::Wide),
            ("no_headers", output.no_headers),
            ("leases", leases),
        ];
        let wanted = wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name);
        let path = format!("/v1/backends?{}", wanted.collect::<Vec<_>>().join("&"));
        let (table, note) = match self.client.stream_noted(&path).await {
            Ok(answer) => answer,
            Err(
                AskError::Absent { .. } | AskError::Refused { status: StatusCode::NOT_FOUND, .. },
            ) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        note.iter().for_each(|note| say(note));
        let show = |text: &str| match show(text)? {
            Reader::Listening => Ok(ControlFlow::Continue(())),
            Reader::Gone => anyhow::Ok(ControlFlow::Break(())),
        };
        self.client.pour(table, show).await?;
        Ok(true)
    }

    async fn ask_agent(&self, verb: &Shown) -> Result<Answer, AskError> {
        let client = &self.client;
        let mut note = None;
        let report = match verb {
            Shown::Services => Report::services(client.get("/v1/services").await?),
            Shown::Backends { service, leases } => {
                let path = service.as_ref().map_or_else(|| "/v1/services".to_owned(), service_path);
                let path = if *leases { path + "?leases" } else { path };
                Report::backends(match service {
                    None => noted(client.get_noted(&path).await?, &mut note),
                    Some(_) => vec![noted(client.get_noted(&path).await?, &mut note)],
                })
            }
            Shown::Describe { service: name } => {
                let service: ServiceStatus = client.get(&service_path(name)).await?;
                let agent: AgentStatus = client.get("/v1/status").await?;
                Report::service(service, agent.rejections)
            }
            Shown::Status => Report::Status(Box::new(client.get("/v1/status").await?)),
            Shown::Maps => Report::Maps(client.get("/v1/maps").await?),
        };
        Ok(Answer { report, note })
    }

    fn ask_tables(&self, verb: &Shown, absent: &AskError) -> anyhow::Result<Answer> {
        let leftovers = Leftovers::open(&self.pin_dir, &self.state_dir);
        if let Shown::Status = verb {
            return Ok(Answer { report: self.no_agent(absent, leftovers), note: None });
        }
        let leftovers = leftovers.map_err(|error| {
            anyhow::anyhow!(
                "{absent}, and {error:#}; start the agent with `lb-agent run -c FILE`, or name its \
                 socket with --socket"
            )
        })?;
        let named = leftovers.nameless.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
        let note =
            format!("{absent}; reading the tables pinned in {}{named}", self.pin_dir.display());
        let one = |name| {
            let found = find(leftovers.services()?, name);
            found.map_err(|error| anyhow::anyhow!("{error:#} ({note})"))
        };
        let report = match verb {
            Shown::Maps => Report::Maps(leftovers.tables()?),
            Shown::Backends { service: Some(name), .. } => Report::backends(vec![one(name)?]),
            Shown::Describe { service: name } => Report::service(one(name)?, Vec::new()),
            Shown::Backends { service: None, .. } => Report::backends(leftovers.services()?),
            Shown::Services | Shown::Status => Report::services(leftovers.services()?),
        };
        Ok(Answer { report, note: Some(note) })
    }

    fn no_agent(&self, absent: &AskError, leftovers: anyhow::Result<Leftovers>) -> Report {
        let served = leftovers.and_then(|leftovers| leftovers.services());
        Report::NoAgent(NoAgent {
            ready: false,
            pending: vec![absent.to_string()],
            pin_dir: self.pin_dir.clone(),
            pinned_services: served.as_ref().ok().map(Vec::len),
            pinned_error: served.err().map(|error| format!("{error:#}")),
        })
    }
}

fn noted<T>((answer, missing): (T, Option<String>), note: &mut Option<String>) -> T {
    *note = missing;
    answer
}

fn service_path(name: &ServiceName) -> String {
    // A service name has no character that a path could not carry.
    format!("/v1/services/{name}")
}

fn find(services: Vec<ServiceStatus>, name: &ServiceName) -> anyhow::Result<ServiceStatus> {
    let names = services.iter().map(|service| service.name.as_str());
    let hint = match closest(name.as_str(), names) {
        Some(other) => format!("; did you mean `{other}`?"),
        None => String::new(),
    };
    services
        .into_iter()
        .find(|service| service.name == name.as_str())
        .ok_or_else(|| anyhow::anyhow!("no service `{name}`{hint}"))
}
