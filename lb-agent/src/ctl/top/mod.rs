//! `lbctl top`: what goes on, in a terminal, once a second. This file joins the terminal, the agent and
//! the clock; what keys do is in [`state`], what it looks like in [`view`].

mod line;
mod state;
mod view;

use super::client::{AskError, Client};
use crate::status::{AgentStatus, ServiceStatus};
use anyhow::Context as _;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use state::{Answer, Top};
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How often the agent is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// An agent with very much to tell is asked less often: telling takes this part of the time at most.
const PART: u32 = 3;

/// What an attempt to ask came to.
type Asked = Result<Answer, AskError>;

/// Whether there is a terminal to show it in; if not, what to use in its place.
pub(super) fn refusal() -> Option<&'static str> {
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    (!terminal || dumb)
        .then_some("`top` needs a terminal that can move its cursor; use `lbctl backends -w` here")
}

/// Shows the agent behind `socket` until somebody has seen enough.
pub(super) async fn run(socket: PathBuf) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket);
    // An agent that was never there is a mistake; one that goes away will be back.
    let first = ask(&client).await?;
    // As no-color.org has it: set to anything, there are none.
    let mut top = Top::new(std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()));
    let began = Instant::now();
    let mut answers = ask_again(client);
    let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .into_iter()
        .map(signal)
        .collect::<io::Result<Vec<_>>>()
        .context("cannot wait for signals")?;
    let [interrupt, terminate, hangup] = ends.as_mut_slice() else {
        anyhow::bail!("cannot wait for signals");
    };
    top.answered(Duration::ZERO, first);
    // It gives the terminal back when somebody panics, too.
    let mut terminal = Restored(ratatui::try_init().context("cannot set up the terminal")?);
    let mut keys = keys();
    loop {
        let now = SystemTime::now();
        terminal.0.draw(|frame| view::draw(&mut top, frame, now)).context("cannot draw")?;
        tokio::select! {
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if top.key(key) == state::Then::Quit {
                        break;
                    }
                }
                // Whatever else happened, it is drawn again.
                Some(_) => {}
                // The terminal is gone.
                None => break,
            },
            Some(asked) = answers.recv() => match asked {
                Ok(answer) => top.answered(began.elapsed(), answer),
                Err(error) => top.failed(error.to_string()),
            },
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A terminal that is given back as it was.
struct Restored(DefaultTerminal);

impl Drop for Restored {
    fn drop(&mut self) {
        // Nothing more can be done for it.
        drop(ratatui::try_restore());
    }
}

/// Asks once a second, apart from the keys: a slow answer must not hold them up.
fn ask_again(client: Client) -> Receiver<Asked> {
    let (sender, receiver) = channel(1);
    tokio::spawn(async move {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, and the first answer is there already.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let started = Instant::now();
            if sender.send(ask(&client).await).await.is_err() {
                return;
            }
            sleep((started.elapsed() * PART).saturating_sub(PERIOD)).await;
        }
    });
    receiver
}

async fn ask(client: &Client) -> Asked {
    let agent: AgentStatus = client.get("/v1/status").await?;
    let services: Vec<ServiceStatus> = client.get("/v1/services").await?;
    Ok(Answer { agent: Arc::new(agent), services })
}

/// Keys and changes of size. Reading them blocks, so it has a thread of its own, which ends with the
/// process.
fn keys() -> Receiver<Event> {
    let (sender, receiver): (Sender<Event>, _) = channel(64);
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
