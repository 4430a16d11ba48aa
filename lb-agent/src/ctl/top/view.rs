//! What `lbctl top` looks like. Pure.

use super::line::{Line, Tone};
use super::state::{Column, Place, Screen, Top};
use crate::ctl::human::age;
use crate::shown::clean;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table};
use std::time::{Duration, SystemTime};

/// Columns of a screen from which on there is room for more than names that tell backends apart.
const FOR_RTT: u16 = 78;
const FOR_FAILED: u16 = 90;
const FOR_HEALTH: u16 = 120;
/// How much more a name takes with its service.
const SERVICE: u16 = 12;

const HELP: [(&str, &str); 12] = [
    ("↑ ↓ PgUp PgDn g G", "move"),
    ("Enter", "the backends of a service"),
    ("Esc", "back"),
    ("Tab", "services / all backends"),
    ("/", "filter; Esc clears it"),
    ("c", "sort by connects per second"),
    ("a", "sort by open sockets"),
    ("f", "sort by failures"),
    ("l", "sort by latency"),
    ("s n", "sort by state, by name"),
    ("r", "the other way round"),
    ("q Ctrl-C", "quit"),
];

/// What there is room for.
#[derive(Clone, Copy)]
struct Room {
    failed: bool,
    rtt: bool,
    health: bool,
}

/// Draws `top` as it is at `now`.
pub(super) fn draw(top: &mut Top, frame: &mut Frame<'_>, now: SystemTime) {
    let [head, notice, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(top, now)), head);
    let screen = list(top, frame, body);
    frame.render_widget(Paragraph::new(second(top, &screen)), notice);
    let keys = if top.typing {
        " Enter keeps the filter, Esc clears it"
    } else {
        " ? help  / filter  Enter backends  Esc back  c a f l s n sort  q quit"
    };
    frame.render_widget(Paragraph::new(keys).style(faint(top)), foot);
    if top.help {
        help(top, frame);
    }
}

/// The agent and all services in one line.
fn title(top: &Top, now: SystemTime) -> Text<'static> {
    let mut spans = vec![Span::styled(" lb ", Style::new().add_modifier(Modifier::BOLD))];
    if let Some(agent) = &top.agent {
        let (word, tone) = match (&top.absent, agent.ready) {
            (Some(_), _) => ("no answer", Tone::Bad),
            (None, true) => ("serving", Tone::Good),
            (None, false) => ("not ready", Tone::Bad),
        };
        spans.push(Span::styled(word, toned(top, tone)));
        spans.push(Span::raw(format!(
            "  {} conn/s  {} active  {} fail/s  {} services  {} backends",
            rate(top.total.rate),
            top.total.active,
            rate(top.total.failing),
            top.count(),
            top.total.backends,
        )));
        if top.total.troubled > 0 {
            let text = format!("  {} in trouble", top.total.troubled);
            spans.push(Span::styled(text, toned(top, Tone::Warn)));
        }
        let up = age(Some(agent.started), now);
        spans.push(Span::styled(format!("  up {up}"), faint(top)));
    }
    Text::from(spans)
}

/// What is wrong, or else where we are.
fn second(top: &Top, screen: &Screen) -> Text<'static> {
    if let Some(why) = &top.absent {
        let text = format!(" {why}; what is shown is as it was, and goes on when it is back");
        return Text::styled(text, toned(top, Tone::Bad));
    }
    if let Some(agent) = top.agent.as_ref().filter(|agent| !agent.ready) {
        let text = format!(" waits for: {}", clean(&agent.pending.join("; "), 300));
        return Text::styled(text, toned(top, Tone::Warn));
    }
    let place = match &top.place {
        Place::Services => " services".to_owned(),
        Place::Backends(None) => " all backends".to_owned(),
        Place::Backends(Some(service)) => format!(" {} > backends", clean(service, 300)),
    };
    let mut spans = vec![Span::styled(place, Style::new().add_modifier(Modifier::BOLD))];
    if top.typing || !top.filter.is_empty() {
        let cursor = if top.typing { "_" } else { "" };
        spans.push(Span::raw(format!("  /{}{cursor}", top.filter)));
    }
    let last = screen.first + screen.lines.len();
    if last > 0 {
        let text = format!("  {}-{last} of {}", screen.first + 1, screen.of);
        spans.push(Span::styled(text, faint(top)));
    }
    Text::from(spans)
}

fn list(top: &mut Top, frame: &mut Frame<'_>, area: Rect) -> Screen {
    let screen = top.screen(usize::from(area.height.saturating_sub(1)));
    if screen.lines.is_empty() {
        let text = match (top.filter.is_empty(), &top.place) {
            (false, _) => " nothing fits the filter; Esc clears it",
            (true, Place::Services) => " no services",
            (true, Place::Backends(_)) => " no backends",
        };
        frame.render_widget(Paragraph::new(text).style(faint(top)), area);
        return screen;
    }
    let whole = top.place == Place::Backends(None);
    let spare = area.width.saturating_sub(if whole { SERVICE } else { 0 });
    let room = Room {
        failed: spare >= FOR_FAILED,
        rtt: spare >= FOR_RTT,
        health: area.width >= FOR_HEALTH,
    };
    let rows: Vec<Row<'_>> = screen
        .lines
        .iter()
        .enumerate()
        .map(|(at, line)| row(top, line, whole, room, screen.chosen == at))
        .collect();
    let part = if top.place == Place::Services { "BACKENDS" } else { "SHARE" };
    let name = if top.place == Place::Services { " SERVICE" } else { " BACKEND" };
    let mut heads = vec![
        (name, Some(Column::Name), false, Constraint::Fill(3)),
        ("STATE", Some(Column::State), false, Constraint::Length(11)),
        (part, None, true, Constraint::Length(8)),
        ("CONN/S", Some(Column::Rate), true, Constraint::Length(8)),
        ("ACTIVE", Some(Column::Active), true, Constraint::Length(8)),
        ("FAIL/S", Some(Column::Failing), true, Constraint::Length(8)),
    ];
    if room.failed {
        heads.push(("FAILED", None, true, Constraint::Length(8)));
    }
    if room.rtt {
        heads.push(("RTT", Some(Column::Rtt), true, Constraint::Length(9)));
    }
    if room.health {
        heads.push(("HEALTH", None, false, Constraint::Fill(2)));
    }
    let header = heads.iter().map(|(name, column, right, _)| {
        let mark = match (*column == Some(top.sort), top.reversed) {
            (false, _) => "",
            (true, false) => "*",
            (true, true) => "^",
        };
        cell(format!("{name}{mark}"), *right)
    });
    let header = Row::new(header).style(faint(top).add_modifier(Modifier::BOLD));
    let widths = heads.iter().map(|(.., width)| *width);
    frame.render_widget(Table::new(rows, widths).header(header).column_spacing(1), area);
    screen
}

fn row(top: &Top, line: &Line, whole: bool, room: Room, chosen: bool) -> Row<'static> {
    let name = if whole { format!("{} {}", line.service, line.name) } else { line.name.clone() };
    let failing = if line.failing > 0.0 { toned(top, Tone::Bad) } else { Style::new() };
    let mut cells = vec![
        Cell::from(format!(" {name}")),
        Cell::from(Span::styled(line.state, toned(top, line.tone))),
        cell(line.part.clone(), true),
        cell(rate(line.rate), true),
        cell(line.active.to_string(), true),
        cell(rate(line.failing), true).style(failing),
    ];
    if room.failed {
        cells.push(cell(line.failed.to_string(), true));
    }
    if room.rtt {
        cells.push(cell(line.rtt.map_or_else(|| "-".to_owned(), latency), true));
    }
    if room.health {
        cells.push(Cell::from(Span::styled(line.health.clone(), faint(top))));
    }
    let style = if chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    Row::new(cells).style(style)
}

fn help(top: &Top, frame: &mut Frame<'_>) {
    let height = u16::try_from(HELP.len()).unwrap_or(u16::MAX).saturating_add(2);
    let area = frame.area();
    let (width, height) = (52.min(area.width), height.min(area.height));
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let lines: Vec<Text<'_>> = HELP
        .iter()
        .map(|(keys, what)| {
            let keys =
                Span::styled(format!(" {keys:<18} "), Style::new().add_modifier(Modifier::BOLD));
            Text::from(vec![keys, Span::raw(*what)])
        })
        .collect();
    let block = Block::bordered().title(" keys ").border_style(faint(top));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

fn cell(text: String, right: bool) -> Cell<'static> {
    let alignment = if right { Alignment::Right } else { Alignment::Left };
    Cell::from(Text::from(text).alignment(alignment))
}

/// Tenths while it is small.
fn rate(number: f64) -> String {
    if number == 0.0 {
        "0".to_owned()
    } else if number < 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

fn latency(span: Duration) -> String {
    format!("{:.2}ms", span.as_secs_f64() * 1e3)
}

/// Without colours, what is bad is bold.
fn toned(top: &Top, tone: Tone) -> Style {
    let style = Style::new();
    match (tone, top.plain) {
        (Tone::Good | Tone::Quiet, true) => style,
        (Tone::Warn | Tone::Bad, true) => style.add_modifier(Modifier::BOLD),
        (Tone::Good, false) => style.fg(Color::Green),
        (Tone::Quiet, false) => style.add_modifier(Modifier::DIM),
        (Tone::Warn, false) => style.fg(Color::Yellow),
        (Tone::Bad, false) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

fn faint(top: &Top) -> Style {
    if top.plain { Style::new() } else { Style::new().add_modifier(Modifier::DIM) }
}

#[cfg(test)]
mod tests;
