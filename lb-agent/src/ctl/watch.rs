//! `--watch`: decides when something is shown again. In a terminal the picture is repainted every
//! second, so that ages run; elsewhere a block follows the last one only when something other than
//! the clock changed. A failure after the first answer is told once and waited out: agents restart.

use super::origin::{Answer, Origin};
use super::render::render;
use super::{Form, Output, Reader, Shown, say, show};
use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// How often the agent is asked.
const PERIOD: Duration = Duration::from_secs(1);

/// Where a repaint begins and what it clears: each line's rest, and all below the last line.
const HOME: &str = "\x1b[H";
const CLEAR_REST_OF_LINE: &str = "\x1b[K\n";
const CLEAR_BELOW: &str = "\x1b[J";

/// Shows the answer to `verb` again and again, until Ctrl-C or until nobody reads it any more.
pub(super) async fn watch(
    origin: &Origin,
    verb: &Shown,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    tokio::spawn(async move {
        interrupt.recv().await;
        // From here, since the other thread may be stuck writing to a pipe that nobody empties.
        std::process::exit(0);
    });
    let terminal = io::stdout().is_terminal();
    let mut told = Told::default();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        ticks.tick().await;
        let answer = match origin.ask(verb).await {
            Err(error) if first => return Err(error),
            answer => answer,
        };
        first = false;
        let text = if terminal {
            Some(picture(&answer, output)?)
        } else {
            let News { remark, block } = told.news(&answer, output)?;
            remark.iter().for_each(|remark| say(remark));
            block
        };
        let reader = match text {
            Some(text) => show(&text)?,
            None => listening(),
        };
        if reader == Reader::Gone {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// What a terminal shows: everything that there is to say, over what was there.
fn picture(answer: &anyhow::Result<Answer>, output: &Output) -> anyhow::Result<String> {
    let text = match answer {
        Ok(Answer { report, note }) => {
            let note = note.as_ref().map(|note| format!("{note}\n\n")).unwrap_or_default();
            note + &render(report, output, SystemTime::now())?
        }
        Err(error) => format!("{error:#}\n"),
    };
    Ok(format!("{HOME}{}{CLEAR_BELOW}", text.replace('\n', CLEAR_REST_OF_LINE)))
}

/// What a reader that is no terminal was told last.
#[derive(Debug, Default)]
struct Told {
    report: Option<String>,
    remark: Option<String>,
}

/// What it has not been told yet.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    /// For standard error: where the answer is from, or why there is none.
    remark: Option<String>,
    /// For standard output.
    block: Option<String>,
}

// === impl Told ===

impl Told {
    /// What `answer` adds to what was told.
    fn news(&mut self, answer: &anyhow::Result<Answer>, output: &Output) -> anyhow::Result<News> {
        let mut news = News::default();
        let remark = match answer {
            Ok(answer) => answer.note.clone(),
            Err(error) => Some(format!("{error:#}")),
        };
        if remark != self.remark {
            news.remark.clone_from(&remark);
            self.remark = remark;
        }
        let Ok(Answer { report, .. }) = answer else {
            return Ok(news);
        };
        // The data and not the text is compared: in the text, ages change every second.
        let mut data = serde_json::to_value(report)?;
        stop_clocks(&mut data);
        let data = Some(data.to_string());
        if data != self.report {
            let block = render(report, output, SystemTime::now())?;
            let separator = match (&self.report, output.form) {
                (None, _) => "",
                (Some(_), Form::Yaml) => "---\n",
                (Some(_), _) => "\n",
            };
            self.report = data;
            news.block = Some(format!("{separator}{block}"));
        }
        Ok(news)
    }
}

/// Takes out what is different at every look.
fn stop_clocks(data: &mut Value) {
    match data {
        Value::Object(fields) => {
            fields.remove("lease_left");
            fields.values_mut().for_each(stop_clocks);
        }
        Value::Array(items) => items.iter_mut().for_each(stop_clocks),
        _ => {}
    }
}

/// Whether the other end of standard output is still open: without this, `lbctl -w | grep -m1 x`
/// would stay until the next change.
fn listening() -> Reader {
    let out = io::stdout();
    let mut polled = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let asked = poll(&mut polled, PollTimeout::ZERO);
    let closed = polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
    if asked.is_ok() && closed { Reader::Gone } else { Reader::Listening }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::report::Report;

    fn output(form: Form) -> Output {
        Output { form, no_headers: true, watch: true }
    }

    fn maps(name: &str, note: Option<&str>) -> anyhow::Result<Answer> {
        let table = serde_json::from_value(serde_json::json!({
            "name": name, "kind": "hash", "id": 1, "key_size": 4, "value_size": 4,
            "max_entries": 9, "used": null, "memory": null
        }));
        Ok(Answer { report: Report::Maps(vec![table?]), note: note.map(str::to_owned) })
    }

    #[test]
    fn a_picture_covers_what_was_there() {
        let clear = "\x1b[K\n";
        for (answer, expected) in [
            (maps("A", None), format!("\x1b[HA{clear}\x1b[J")),
            (maps("A", Some("note")), format!("\x1b[Hnote{clear}{clear}A{clear}\x1b[J")),
            (Err(anyhow::anyhow!("gone")), format!("\x1b[Hgone{clear}\x1b[J")),
        ] {
            assert_eq!(picture(&answer, &output(Form::Name)).unwrap(), expected);
        }
    }

    #[test]
    fn only_news_is_told() {
        let mut told = Told::default();
        let mut news = |answer, form| {
            let News { remark, block } = told.news(&answer, &output(form)).unwrap();
            (remark.unwrap_or_default(), block.unwrap_or_default())
        };
        let gone = || Err(anyhow::anyhow!("gone"));
        for (answer, remark, block) in [
            (maps("A", None), "", "A\n"),
            (maps("A", None), "", ""),
            (maps("B", None), "", "\nB\n"),
            (gone(), "gone", ""),
            (gone(), "", ""),
            (maps("B", Some("pinned")), "pinned", ""),
            (maps("B", None), "", ""),
            (gone(), "gone", ""),
        ] {
            assert_eq!(news(answer, Form::Name), (remark.to_owned(), block.to_owned()));
        }
        let (_, yaml) = news(maps("C", None), Form::Yaml);
        assert!(yaml.starts_with("---\n- name: C\n"), "{yaml}");
    }
}
