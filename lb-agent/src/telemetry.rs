//! Logging: structured, to standard error or to the journal. What is logged can be changed while the agent
//! runs: there is one log per process, and so one filter.

use crate::metrics::own;
use crate::shown::{clean, printable};
use clap::ValueEnum;
use nix::sys::stat::fstat;
use std::fmt::Debug;
use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing::field::Field;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// Bytes of a field of a line of text; what is longer is cut.
const LONGEST: usize = 4096;

const ITALIC: &str = "\x1b[3m";
const DIMMED: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// The filter in force, once logging has started.
static LOG: OnceLock<Log> = OnceLock::new();

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `journal` if systemd connected standard error to it, otherwise `text`
    #[default]
    Auto,
    /// For people
    Text,
    /// One JSON object a line
    Json,
    /// Fields in the journal: MESSAGE, PRIORITY, LB_SERVICE, ...
    Journal,
}

/// What is logged, and what was when the agent started.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Filters {
    /// Now.
    pub filter: String,
    /// At the start.
    pub started_with: String,
}

struct Log {
    handle: reload::Handle<Targets, Registry>,
    filters: Mutex<Filters>,
}

/// Counts what somebody should read.
struct Counting;

/// Starts logging. `level` is the level of the agent's own lines (libraries stay at `warn`), or a
/// filter such as `info,lb_agent::reconcile=debug`.
///
/// # Errors
///
/// If `level` is neither a level nor such a filter; nothing is started then. That the journal can't be reached is
/// no error: text goes to standard error.
pub fn start(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let (filter, handle) = reload::Layer::new(parse(level).map_err(anyhow::Error::msg)?);
    let (lines, complaint) = lines(format);
    tracing_subscriber::registry().with(filter).with(Counting).with(lines).init();
    if let Some(error) = complaint {
        tracing::warn!(%error, "the journal can't be reached; logging text to standard error");
    }
    let filters = Filters { filter: level.to_owned(), started_with: level.to_owned() };
    // `init` has panicked if this is the second time.
    drop(LOG.set(Log { handle, filters: Mutex::new(filters) }));
    Ok(())
}

/// What is logged; `None` in a process that has not started logging.
pub fn filters() -> Option<Filters> {
    LOG.get().map(|log| log.filters.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Logs what `filter` lets through from now on; without one, what was logged at the start. `None` as
/// for [`filters`].
pub fn change(filter: Option<&str>) -> Option<Result<Filters, String>> {
    let log = LOG.get()?;
    // Held to the end: two who change it at the same time must not leave one's filter in force and
    // the other's on show.
    let mut filters = log.filters.lock().unwrap_or_else(PoisonError::into_inner);
    let filter = filter.unwrap_or(&filters.started_with).to_owned();
    let changed = parse(&filter).and_then(|parsed| {
        log.handle.reload(parsed).map_err(|error| format!("the filter stays as it is: {error}"))
    });
    Some(changed.map(|()| {
        filters.filter = filter;
        filters.clone()
    }))
}

/// A level, or a filter by target.
fn parse(text: &str) -> Result<Targets, String> {
    if let Ok(level) = text.parse::<LevelFilter>() {
        // Not a number and not nothing: nobody means those.
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic()) {
            // The cluster's client warns of each watch that ends; what matters of that is the source's
            // to say.
            let libraries = Targets::new().with_default(LevelFilter::WARN);
            let libraries = libraries.with_target("kube_client", LevelFilter::ERROR);
            return Ok(libraries.with_target("lb_agent", level));
        }
    }
    let remedy = "use off, error, warn, info, debug, trace, or a filter such as \
                  info,lb_agent::reconcile=debug";
    if text.len() > 1024 || text.contains(char::is_control) {
        return Err(format!("this is no filter; {remedy}"));
    }
    if text.contains(['[', ']', '{', '}']) {
        return Err(format!("`{text}`: there are no filters by span or field; {remedy}"));
    }
    let level = |text: &str| match text.parse::<LevelFilter>() {
        Ok(level) if !text.is_empty() => Ok(level),
        _ => Err(format!("`{text}` is no level; {remedy}")),
    };
    let mut filter = Targets::new();
    for part in text.split(',').map(str::trim) {
        filter = match part.split_once('=') {
            Some((target, _)) if !target.starts_with(begins_a_target) => {
                return Err(format!("`{target}` is no target; {remedy}"));
            }
            Some((target, "")) => filter.with_target(target, LevelFilter::TRACE),
            Some((target, text)) => filter.with_target(target, level(text)?),
            None if part.starts_with("lb_agent") => filter.with_target(part, LevelFilter::TRACE),
            // Another word would be taken for a target, and silence all others.
            None => filter.with_default(level(part)?),
        };
    }
    Ok(filter)
}

fn begins_a_target(c: char) -> bool {
    c.is_alphanumeric() || ['-', ':', '_'].contains(&c)
}

/// What writes the lines; and why it is not what was asked for.
fn lines<S>(format: LogFormat) -> (Box<dyn Layer<S> + Send + Sync>, Option<std::io::Error>)
where
    S: Subscriber + for<'s> tracing_subscriber::registry::LookupSpan<'s>,
{
    let text = || {
        let colours = stderr().is_terminal();
        let layer = fmt::layer().with_writer(stderr).with_ansi(colours).with_target(false);
        layer.fmt_fields(debug_fn(field).delimited(" ")).boxed()
    };
    match format {
        LogFormat::Json => (fmt::layer().with_writer(|| Printable).json().boxed(), None),
        LogFormat::Auto if !is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) => {
            (text(), None)
        }
        LogFormat::Text => (text(), None),
        LogFormat::Auto | LogFormat::Journal => match tracing_journald::layer() {
            Ok(layer) => {
                let layer = layer
                    .with_field_prefix(Some("LB".to_owned()))
                    .with_syslog_identifier("lb-agent".to_owned());
                (layer.boxed(), None)
            }
            Err(error) => (text(), Some(error)),
        },
    }
}

/// Standard error, for JSON that a person may look at: what JSON itself leaves as it is, and a terminal
/// would act on, is escaped as JSON escapes the rest.
struct Printable;

impl Write for Printable {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        stderr().write_all(printable(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        stderr().flush()
    }
}

/// Writes a field of a line of text. The one place where it is made sure that what others wrote (keys,
/// names, answers to checks) stays in its line and makes no terminal do anything; for JSON see [`Printable`],
/// and the journal's protocol carries any text as it is.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let value = clean(&format!("{value:?}"), LONGEST);
    match field.name() {
        "message" => write!(writer, "{value}"),
        // What a line of the `log` crate says of itself.
        name if name.starts_with("log.") => Ok(()),
        name => {
            let name = name.strip_prefix("r#").unwrap_or(name);
            if writer.has_ansi_escapes() {
                write!(writer, "{ITALIC}{name}{PLAIN}{DIMMED}={PLAIN}{value}")
            } else {
                write!(writer, "{name}={value}")
            }
        }
    }
}

/// Whether `JOURNAL_STREAM` names what standard error is: it is inherited also by those whose standard
/// error leads elsewhere.
fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    let Ok(file) = fstat(stderr()) else { return false };
    device.parse() == Ok(file.st_dev) && inode.parse() == Ok(file.st_ino)
}

// === impl Counting ===

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        match *event.metadata().level() {
            Level::ERROR => own::message("error"),
            Level::WARN => own::message("warn"),
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{LONGEST, field, is_journal, parse};
    use nix::sys::stat::fstat;
    use std::io::{self, Write, stderr};
    use std::sync::{Arc, Mutex};
    use tracing::Level;
    use tracing_subscriber::field::MakeExt as _;
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::fmt::format::debug_fn;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// What was written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged meanwhile, as it is written in text.
    pub(crate) fn logged(log: impl FnOnce()) -> String {
        line(false, log)
    }

    /// The same of one event, or in colours.
    fn line(coloured: bool, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(coloured)
            .with_target(false)
            .without_time()
            .fmt_fields(debug_fn(field).delimited(" "));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_a_line_whatever_others_wrote() {
        let evil = "a\n\x1b[2J\u{9b}1m\u{202e}\u{7f}\r\tb";
        let shown = "a\\n\\u{1b}[2J\\u{9b}1m\\u{202e}\\u{7f}\\r\\tb";
        let error = io::Error::other(evil);
        let log = || {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(key = %evil, text = evil, debug = ?evil, error, r#type = 1, "said {evil}");
        };
        let plain = line(false, log);
        let text = plain.trim_start().strip_suffix('\n').unwrap();
        assert_eq!(
            text,
            format!(
                "WARN said {shown} key={shown} text=\"{shown}\" debug=\"{shown}\" error={shown} type=1"
            )
        );
        // In colours, those are all that a terminal is told.
        let coloured = line(true, log);
        let without = coloured.replace("\x1b[0m", "").replace("\x1b[2m", "");
        let without = without.replace("\x1b[3m", "").replace("\x1b[33m", "");
        assert_eq!(without.trim_start(), plain.trim_start(), "{coloured:?}");
        let long = line(false, || tracing::info!(key = %"x".repeat(1_000_000), "long"));
        assert!(long.len() < LONGEST + 100 && long.ends_with("...\n"), "{}", long.len());
    }

    #[test]
    fn what_is_logged() {
        // The most detailed level that passes, by target.
        let targets = [
            "lb_agent",
            "lb_agent::reconcile",
            "lb_agent::reconcile::recall",
            "kube_client",
            "hyper",
        ];
        for (text, [agent, reconcile, below, cluster, library]) in [
            ("info", ["info", "info", "info", "error", "warn"]),
            ("DEBUG", ["debug", "debug", "debug", "error", "warn"]),
            ("off", ["off", "off", "off", "error", "warn"]),
            ("info,lb_agent::reconcile=debug", ["info", "debug", "debug", "info", "info"]),
            ("lb_agent::reconcile=debug , info", ["info", "debug", "debug", "info", "info"]),
            ("lb_agent=trace,lb_agent::rec=OFF", ["trace", "off", "off", "off", "off"]),
            ("lb_agent::reconcile,error", ["error", "trace", "trace", "error", "error"]),
            ("hyper=trace", ["off", "off", "off", "off", "trace"]),
            ("hyper=", ["off", "off", "off", "off", "trace"]),
            ("warn,hyper=info,hyper=3,hyper=4", ["warn", "warn", "warn", "warn", "debug"]),
            ("2,kube=0", ["warn", "warn", "warn", "off", "warn"]),
            ("info,warn", ["warn", "warn", "warn", "warn", "warn"]),
        ] {
            let filter = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let most = |target: &str| {
                let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
                let passes: Vec<_> =
                    levels.iter().filter(|level| filter.would_enable(target, level)).collect();
                assert!(passes.iter().copied().eq(&levels[..passes.len()]), "{text}: {passes:?}");
                let most = passes.last().map_or(LevelFilter::OFF, |level| (**level).into());
                most.to_string()
            };
            let found = targets.map(most);
            assert_eq!(found, [agent, reconcile, below, cluster, library], "{text}: {targets:?}");
        }
        let long = "x=info,".repeat(200);
        for (text, part) in [
            ("inof", "`inof` is no level; use off, error"),
            ("info,debgu", "`debgu` is no level"),
            ("", "`` is no level"),
            ("info,", "`` is no level"),
            ("lb_agent=loud", "`loud` is no level; use off, error"),
            ("lb_agent=info=debug", "`info=debug` is no level"),
            ("=debug", "`` is no target; use off, error"),
            ("*=debug", "`*` is no target"),
            ("a\x1b[2Jb=info", "this is no filter"),
            (&long, "this is no filter"),
            ("[pass]=debug", "`[pass]=debug`: there are no filters by span or field; use off"),
            ("info,lb_agent[{service=\"a\"}]=debug", "there are no filters by span or field"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
            assert!(error.ends_with("info,lb_agent::reconcile=debug"), "{text}: {error}");
        }
    }

    #[test]
    fn the_journal_is_told_by_the_file_itself() {
        let file = fstat(stderr()).unwrap();
        let (device, inode) = (file.st_dev, file.st_ino);
        assert!(is_journal(Some(&format!("{device}:{inode}"))));
        let other = format!("{device}:{}", inode + 1);
        for stream in [None, Some(""), Some(":"), Some("x:y"), Some(&other)] {
            assert!(!is_journal(stream), "{stream:?}");
        }
    }
}
