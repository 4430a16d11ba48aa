//! The verbs that look into the kernel: `explain` and `connections`. Asks the agent, or looks
//! itself when none answers. What the answers look like is [`super::explain`]'s and
//! [`super::connections`]'s to decide.

use super::client::{AskError, Client};
use super::offline::Leftovers;
use super::render::Look;
use super::trace::encoded;
use super::{Form, Output, Places, connections, explain, forecast, say, show};
use crate::explain::Explanation;
use crate::model::{Frontend, ServiceName};
use crate::sockets::{Listing, Order};
use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// How long looking through all namespaces and processes may take.
const ALL_NAMESPACES: Duration = Duration::from_secs(30);

/// What to look at.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Explain what a connect to an address does: which backends, with which shares, and who is left
    /// out, why; exit code 1 if it is no frontend. With --manifests: what a Kubernetes node would do
    // clap would list the global options as required ones in the usage of an error.
    #[command(override_usage = "lbctl explain [OPTIONS] <ADDRESS:PORT[/udp]>\n       \
                          lbctl explain [OPTIONS] --manifests <FILE> --node <NAME> <ADDRESS:PORT[/udp]>")]
    Explain {
        /// What a client would dial: 10.96.0.10:53/udp
        #[arg(value_name = "ADDRESS:PORT[/udp]")]
        address: Frontend,
        #[command(flatten)]
        manifests: forecast::Manifests,
    },
    /// List the open sockets that were sent to backends, with their processes and ages
    Connections {
        /// Only those that dialled this service
        service: Option<ServiceName>,
        /// What comes first; by age: the oldest
        #[arg(long, value_enum, default_value_t)]
        sort: Order,
    },
}

impl Verb {
    pub(super) async fn run(self, places: Places, output: &Output) -> anyhow::Result<ExitCode> {
        let client = Client::new(places.socket.clone());
        match self {
            Self::Explain { address, manifests } if manifests.are_given() => {
                manifests.run(address, output)
            }
            Self::Explain { address, .. } => {
                let path = format!("/v1/explain/{}", encoded(&address.to_string()));
                let explained: Explanation = match client.get(&path).await {
                    Ok(explained) => explained,
                    Err(absent @ AskError::Absent { .. }) => {
                        leftovers(&places, &absent)?.explain(address)?
                    }
                    Err(error) => return Err(error.into()),
                };
                show(&written(&explained, output, explain::text, explain::name)?)?;
                let found = explained.walk.is_some();
                Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Self::Connections { service, sort } => {
                let wanted = service.as_ref().map(ServiceName::as_str);
                let mut query = Vec::new();
                query.extend(wanted.map(|name| format!("service={}", encoded(name))));
                query.extend((sort == Order::Age).then(|| "sort=age".to_owned()));
                let path = format!("/v1/connections?{}", query.join("&"));
                let client = client.patient(ALL_NAMESPACES);
                let listing: Listing = match client.get(&path).await {
                    Ok(listing) => listing,
                    Err(absent @ AskError::Absent { .. }) => {
                        let services = leftovers(&places, &absent)?.services()?;
                        if let Some(name) = wanted
                            && !services.iter().any(|service| service.name == name)
                        {
                            anyhow::bail!("no service `{name}`");
                        }
                        let found = crate::dataplane::connections::list(&places.pin_dir)?;
                        found.named(&services, wanted, sort)
                    }
                    Err(error) => return Err(error.into()),
                };
                for problem in &listing.problems {
                    say(problem);
                }
                let more = listing.total.saturating_sub(listing.sockets.len());
                if more > 0 {
                    say(&format!("{more} more are open; name a service to see fewer"));
                }
                show(&written(&listing, output, connections::text, connections::name)?)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// What an agent left behind, after saying that it is this that is looked at.
fn leftovers(places: &Places, absent: &AskError) -> anyhow::Result<Leftovers> {
    let leftovers = Leftovers::open(&places.pin_dir, &places.state_dir).map_err(|error| {
        anyhow::anyhow!(
            "{absent}, and {error:#}; start the agent with `lb-agent run -c FILE`, or name its \
             socket with --socket"
        )
    })?;
    let named = leftovers.nameless.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
    say(&format!("{absent}; reading the tables pinned in {}{named}", places.pin_dir.display()));
    Ok(leftovers)
}

fn written<T: Serialize>(
    answer: &T,
    output: &Output,
    text: impl FnOnce(&T, Look) -> String,
    name: impl FnOnce(&T) -> String,
) -> anyhow::Result<String> {
    let look = Look {
        wide: output.form == Form::Wide,
        headers: !output.no_headers,
        now: SystemTime::now(),
    };
    Ok(match output.form {
        Form::Table | Form::Wide => text(answer, look),
        Form::Json => {
            serde_json::to_string_pretty(answer).context("cannot write this as JSON")? + "\n"
        }
        Form::Yaml => serde_saphyr::to_string(answer).context("cannot write this as YAML")?,
        Form::Name => name(answer),
    })
}
