//! What `lbctl top` knows and how keys change it. Pure: time and answers are given to it.

use super::line::{Line, Tone, backend_line, compare, service_line};
use crate::shown::clean;
use crate::status::{AgentStatus, ServiceStatus};
use crate::summary::{self, shares, summary};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a text that are shown.
pub(super) const LONGEST: usize = 300;

/// What the agent said.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) agent: Arc<AgentStatus>,
    pub(super) services: Vec<ServiceStatus>,
}

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Stay,
    Quit,
}

/// What is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Services,
    /// Those of one service, or of all.
    Backends(Option<String>),
}

/// What lines are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    State,
    Rate,
    Active,
    Failing,
    Rtt,
}

/// Sums of all services.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Total {
    pub(super) backends: usize,
    pub(super) rate: f64,
    pub(super) active: u64,
    pub(super) failing: f64,
    pub(super) troubled: usize,
}

/// A part of the list.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) lines: Vec<Line>,
    /// Which of them is chosen.
    pub(super) chosen: usize,
    /// How many lines are above it, and how long the list is.
    pub(super) first: usize,
    pub(super) of: usize,
}

/// The whole of it.
#[derive(Debug)]
pub(super) struct Top {
    pub(super) plain: bool,
    pub(super) agent: Option<Arc<AgentStatus>>,
    /// Why there is no answer.
    pub(super) absent: Option<String>,
    pub(super) place: Place,
    pub(super) sort: Column,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// Whether keys go to the filter.
    pub(super) typing: bool,
    pub(super) help: bool,
    pub(super) total: Total,
    services: Vec<Line>,
    backends: Vec<Line>,
    /// Connects and failures of each line at the last look, and when that was.
    counted: BTreeMap<String, (u64, u64)>,
    looked: Option<Duration>,
    /// The key of the line that is chosen.
    chosen: Option<String>,
    /// The line that was chosen where the list was left.
    left: Option<String>,
    /// The first line that is on the screen, and how many there is room for.
    first: usize,
    room: usize,
}

// === impl Top ===

impl Top {
    /// Nothing is known yet. `plain`: without colours.
    pub(super) fn new(plain: bool) -> Self {
        Self {
            plain,
            agent: None,
            absent: None,
            place: Place::Services,
            sort: Column::Rate,
            reversed: false,
            filter: String::new(),
            typing: false,
            help: false,
            total: Total::default(),
            services: Vec::new(),
            backends: Vec::new(),
            counted: BTreeMap::new(),
            looked: None,
            chosen: None,
            left: None,
            first: 0,
            room: 1,
        }
    }

    /// The agent answered at `at`, by a clock that is never set.
    pub(super) fn answered(&mut self, at: Duration, answer: Answer) {
        let Answer { agent, services } = answer;
        let span = self.looked.map(|looked| at.saturating_sub(looked).as_secs_f64());
        let before = std::mem::take(&mut self.counted);
        let mut counted = BTreeMap::new();
        let mut rates = |key: &str, connects: u64, failures: u64| {
            counted.insert(key.to_owned(), (connects, failures));
            let per_second = |now: u64, then: u64| match span {
                // A number that shrank began anew.
                Some(span) if span > 0.0 => now.saturating_sub(then) as f64 / span,
                _ => 0.0,
            };
            before.get(key).map_or((0.0, 0.0), |(then, failed)| {
                (per_second(connects, *then), per_second(failures, *failed))
            })
        };
        self.services.clear();
        self.backends.clear();
        for service in &services {
            let summary = summary(service);
            let by = rates(&service.name, service.counters.connects, summary.failures);
            self.services.push(service_line(service, summary, by));
            for (backend, share) in service.backends.iter().zip(shares(service)) {
                let key = format!("{} {}", service.name, backend.address);
                let by = rates(&key, backend.connects, summary::failures(backend));
                self.backends.push(backend_line(&service.name, backend, share, key, by));
            }
        }
        self.total = Total {
            backends: self.backends.len(),
            rate: self.services.iter().map(|line| line.rate).sum(),
            active: self.services.iter().map(|line| line.active).sum(),
            failing: self.services.iter().map(|line| line.failing).sum(),
            troubled: self.services.iter().filter(|line| line.tone >= Tone::Warn).count(),
        };
        self.counted = counted;
        self.looked = Some(at);
        self.agent = Some(agent);
        self.absent = None;
    }

    /// The agent did not answer; what it said last is shown on.
    pub(super) fn failed(&mut self, why: String) {
        self.absent = Some(clean(&why, LONGEST));
    }

    /// How many services there are.
    pub(super) fn count(&self) -> usize {
        self.services.len()
    }

    /// The lines that are asked for, in their order.
    pub(super) fn lines(&self) -> Vec<&Line> {
        let wanted = self.filter.to_lowercase();
        let terms: Vec<&str> = wanted.split_whitespace().collect();
        let fits = |line: &Line| {
            let text = format!("{} {} {} {}", line.service, line.name, line.state, line.health);
            let text = text.to_lowercase();
            terms.iter().all(|term| text.contains(term))
        };
        let mut lines: Vec<&Line> = match &self.place {
            Place::Services => self.services.iter().collect(),
            Place::Backends(None) => self.backends.iter().collect(),
            Place::Backends(Some(of)) => {
                self.backends.iter().filter(|line| line.service == *of).collect()
            }
        };
        lines.retain(|line| terms.is_empty() || fits(line));
        lines.sort_by(|a, b| {
            let order = compare(a, b, self.sort);
            let order = if self.reversed { order.reverse() } else { order };
            order.then_with(|| a.key.cmp(&b.key))
        });
        lines
    }

    /// What is on a screen with room for `room` lines.
    pub(super) fn screen(&mut self, room: usize) -> Screen {
        let lines: Vec<Line> = self.lines().into_iter().cloned().collect();
        let chosen = self.place_of(&lines);
        self.chosen = chosen.map(|at| lines[at].key.clone());
        self.room = room.max(1);
        let chosen = chosen.unwrap_or_default();
        // As little as needed is moved.
        let first = self.first.min(chosen).max((chosen + 1).saturating_sub(self.room));
        self.first = first.min(lines.len().saturating_sub(self.room));
        let of = lines.len();
        let lines = lines.into_iter().skip(self.first).take(self.room).collect();
        Screen { lines, chosen: chosen - self.first, first: self.first, of }
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Then {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Then::Quit } else { Then::Stay };
        }
        if self.typing {
            self.typed(key.code);
            return Then::Stay;
        }
        if self.help {
            self.help = false;
            return Then::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('n') => self.sort_by(Column::Name),
            KeyCode::Char('s') => self.sort_by(Column::State),
            KeyCode::Char('c') => self.sort_by(Column::Rate),
            KeyCode::Char('a') => self.sort_by(Column::Active),
            KeyCode::Char('f') => self.sort_by(Column::Failing),
            KeyCode::Char('l') => self.sort_by(Column::Rtt),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-isize::try_from(self.room).unwrap_or(isize::MAX)),
            KeyCode::PageDown => self.step(isize::try_from(self.room).unwrap_or(isize::MAX)),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            KeyCode::Enter | KeyCode::Right => self.enter(),
            KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => self.back(),
            KeyCode::Tab => match self.place {
                Place::Services => self.go(Place::Backends(None)),
                Place::Backends(_) => self.back(),
            },
            _ => {}
        }
        Then::Stay
    }

    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.len() < LONGEST && !c.is_control() => {
                self.filter.push(c)
            }
            _ => {}
        }
    }

    /// Sorts by a column; again, the other way round.
    fn sort_by(&mut self, column: Column) {
        self.reversed = self.sort == column && !self.reversed;
        self.sort = column;
        self.first = 0;
        self.chosen = None;
    }

    fn step(&mut self, by: isize) {
        let lines = self.lines();
        let Some(last) = lines.len().checked_sub(1) else { return };
        let at = self.place_of(&lines).unwrap_or_default();
        let key = lines[at.saturating_add_signed(by).min(last)].key.clone();
        self.chosen = Some(key);
    }

    /// From a service to its backends.
    fn enter(&mut self) {
        if self.place == Place::Services
            && let Some(chosen) = self.chosen.clone()
        {
            self.go(Place::Backends(Some(chosen)));
        }
    }

    /// What was asked for last goes first: the filter, then the backends.
    fn back(&mut self) {
        if !self.filter.is_empty() {
            self.filter.clear();
        } else if self.place != Place::Services {
            self.place = Place::Services;
            self.chosen = self.left.take();
            self.first = 0;
        }
    }

    fn go(&mut self, place: Place) {
        self.place = place;
        self.left = self.chosen.take();
        self.filter.clear();
        self.first = 0;
    }

    /// Where the chosen line is; if it is gone, the one that the cursor is on now.
    fn place_of(&self, lines: &[impl std::borrow::Borrow<Line>]) -> Option<usize> {
        let last = lines.len().checked_sub(1)?;
        let Some(chosen) = &self.chosen else { return Some(0) };
        let found = lines.iter().position(|line| line.borrow().key == *chosen);
        Some(found.unwrap_or(self.first.min(last)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
