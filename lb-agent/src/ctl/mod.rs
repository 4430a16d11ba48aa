//! `lbctl`: shows what is being served and how the agent does; writes services and registrations
//! to etcd.
//!
//! This file decides the command line and the exit codes: 0 for what was asked, 1 when it was not
//! found, failed, or is not healthy, 64 for bad usage. Where the answers come from is [`origin`]'s
//! to decide, what they look like is [`render`]'s, and when they are shown again is [`watch`]'s.
//! The verbs that work on etcd are [`register`], [`deregister`] and [`service`]; how they reach it
//! is in [`store`]. [`explain`] works on manifests.

mod admin;
pub(crate) mod backends;
mod client;
mod connections;
mod deregister;
mod details;
mod explain;
mod forecast;
mod human;
mod inspect;
mod log_level;
mod offline;
mod origin;
mod pieces;
mod register;
pub(crate) mod render;
pub(crate) mod report;
mod service;
mod store;
mod table;
mod top;
mod trace;
mod watch;

use crate::config::Config;
use crate::model::ServiceName;
use crate::shown::printable;
use crate::version::VERSION;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use origin::Origin;
use report::Report;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

/// `EX_USAGE` of sysexits(3).
const BAD_USAGE: u8 = 64;

/// Show what the load balancer serves, and how its agent does; register backends in etcd.
///
/// Asks the agent on its Unix socket. When no agent answers, says so and reads the pinned tables
/// itself. `register`, `deregister` and `service` need no agent: they work on etcd; nor does
/// `explain`, which works on manifests. Exit codes: 0 ok, 1 not found, failed or not healthy, 64 bad usage; `register` exits as its command does.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version = VERSION, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    output: Output,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    Show(Shown),
    /// Show what goes on in a live table: services and backends by new connections per second
    Top,
    #[command(flatten)]
    Inspect(inspect::Verb),
    /// Show what is decided, as it happens: a line for each connect, and for what becomes of it
    Trace(Box<trace::Trace>),
    #[command(flatten)]
    Steer(admin::Verb),
    /// Show or change what the agent logs, until it is restarted
    #[command(override_usage = "lbctl log-level [OPTIONS] [FILTER]")]
    LogLevel(log_level::LogLevel),
    /// Register a backend in etcd for as long as this, or a command, runs
    // clap would list the global options as required ones in the usage of an error.
    #[command(
        override_usage = "lbctl register [OPTIONS] --service NAME --address ADDRESS [-- COMMAND...]"
    )]
    Register(Box<register::Register>),
    /// Remove a backend's registration from etcd
    #[command(override_usage = "lbctl deregister [OPTIONS] --service NAME [--id ID]")]
    Deregister(deregister::Deregister),
    /// Write, list and delete the services in etcd
    #[command(subcommand)]
    Service(service::Verb),
}

/// What to show.
#[derive(Debug, Subcommand)]
enum Shown {
    /// List the services
    Services,
    /// List backends: where connections end up, how many, and since when
    Backends {
        /// Only the backends of this service
        service: Option<ServiceName>,
        /// Ask for the time that is left of leases, as `-o wide` always does
        #[arg(long)]
        leases: bool,
    },
    /// Show all there is to know about a service
    // clap would list the global options as required ones in the usage of an error.
    #[command(override_usage = "lbctl describe [OPTIONS] <SERVICE>")]
    Describe {
        /// The service's name
        service: ServiceName,
    },
    /// Show the agent: readiness, sources, hooks, refused items; exit code 1 unless it is ready
    Status,
    /// List the kernel tables: how full they are, and their memory
    Maps,
}

/// Where the agent is, or was.
#[derive(Debug, Args)]
struct Places {
    /// The agent's socket
    #[arg(long, global = true, env = "LB_SOCKET", value_name = "PATH")]
    #[arg(default_value_os_t = Config::default().socket)]
    socket: PathBuf,
    /// Where the tables are pinned; read when no agent answers
    #[arg(long, global = true, env = "LB_PIN_DIR", value_name = "DIR")]
    #[arg(default_value_os_t = Config::default().pin_dir)]
    pin_dir: PathBuf,
    /// Where the agent keeps its state file; read when no agent answers
    #[arg(long, global = true, env = "LB_STATE_DIR", value_name = "DIR")]
    #[arg(default_value_os_t = Config::default().state_dir)]
    state_dir: PathBuf,
}

/// How to show it.
#[derive(Debug, Args)]
struct Output {
    /// The form of the output
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM"
    )]
    form: Form,
    /// Leave out the lines with column names
    #[arg(long, global = true)]
    no_headers: bool,
    /// Show it again every second in a terminal, elsewhere whenever it changed; Ctrl-C ends it
    #[arg(short, long, global = true)]
    watch: bool,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Aligned columns
    #[default]
    Table,
    /// The table with more columns
    Wide,
    /// JSON, as the agent's API has it
    Json,
    /// The same as YAML
    Yaml,
    /// Names only, one per line
    Name,
}

/// The definition of the command line.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// The whole of `lbctl`, from the process's arguments to its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => {
            // Nobody is left to tell when even this cannot be printed.
            let _ = refused.print();
            return if refused.exit_code() == 0 { ExitCode::SUCCESS } else { BAD_USAGE.into() };
        }
    };
    // Two threads: the watch must end on Ctrl-C also while it is stuck writing to a full pipe.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { verb, places, output } = cli;
    if output.watch && !matches!(verb, Verb::Show(_)) {
        say("--watch is for the verbs that ask the agent; leave it out");
        return Ok(BAD_USAGE.into());
    }
    match verb {
        Verb::Show(verb) => show_from(places, verb, &output).await,
        Verb::Top => match top::refusal() {
            Some(refusal) => {
                say(refusal);
                Ok(BAD_USAGE.into())
            }
            None => top::run(places.socket).await,
        },
        Verb::Inspect(verb) => verb.run(places, &output).await,
        Verb::Trace(trace) => trace.run(places, &output).await,
        Verb::Steer(verb) => verb.run(places).await,
        Verb::LogLevel(verb) => verb.run(places).await,
        Verb::Register(register) => register.run().await,
        Verb::Deregister(deregister) => deregister.run().await,
        Verb::Service(verb) => verb.run(&output).await,
    }
}

async fn show_from(places: Places, mut verb: Shown, output: &Output) -> anyhow::Result<ExitCode> {
    if let Shown::Backends { leases, .. } = &mut verb {
        *leases |= output.form == Form::Wide;
    }
    let origin = Origin::new(places);
    if output.watch {
        return watch::watch(&origin, &verb, output).await;
    }
    if let Shown::Backends { service: None, leases } = verb
        && matches!(output.form, Form::Table | Form::Wide)
        && origin.backends(leases, output, say, show).await?
    {
        return Ok(ExitCode::SUCCESS);
    }
    let answer = origin.ask(&verb).await?;
    if let Some(note) = &answer.note {
        say(note);
    }
    show(&render::render(&answer.report, output, SystemTime::now())?)?;
    Ok(exit_code(&answer.report))
}

fn exit_code(report: &Report) -> ExitCode {
    if report.healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether somebody still reads what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Listening,
    Gone,
}

/// The one place that writes to standard output. `lbctl services | head` is no error. No text from
/// elsewhere makes the terminal do anything.
fn show(text: &str) -> io::Result<Reader> {
    let text = printable(text);
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Listening),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error),
    }
}

/// The one place that writes to standard error: a line about something that went wrong.
fn say(line: &str) {
    // Nobody is left to tell when even this cannot be printed.
    let _ = writeln!(io::stderr().lock(), "lbctl: {}", printable(line));
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
