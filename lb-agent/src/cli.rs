//! The daemon's command line: what it takes, and what it answers with (0 done, 1 failed, 64 wrong
//! usage or configuration).

mod documents;
mod kubeproxy;

use crate::app::{self, Failure, Overrides};
use crate::dataplane;
use crate::shown::printable;
use crate::telemetry::{self, LogFormat};
use crate::version::VERSION;
use clap::{Args, Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Wrong usage or configuration, as in sysexits.h.
const EX_USAGE: u8 = 64;

/// Translates service addresses to backends when sockets connect.
#[derive(Debug, Parser)]
#[command(name = "lb-agent", version = VERSION, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fill the kernel tables from the configured sources, and keep them true
    Run(Run),
    /// Stand in for kube-proxy on this node, with its arguments (docs/kubernetes.md)
    #[command(disable_help_flag = true)]
    KubeProxy(KubeProxy),
    /// Read the configuration and print everything that is wrong with it
    Check(Check),
    /// Stop translating: remove programs and tables that a stopped agent left
    Detach(Detach),
    /// Write manual pages and shell completions of lb-agent and lbctl, for packagers
    #[command(hide = true)]
    Documents(Documents),
}

#[derive(Debug, Args)]
struct Run {
    /// The configuration file (docs/configuration.md)
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter
    #[arg(long, env = "LB_LOG", default_value = "info")]
    log_level: String,
}

#[derive(Debug, Args)]
struct KubeProxy {
    /// kube-proxy's flags, and a few of ours: see --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    arguments: Vec<String>,
}

#[derive(Debug, Args)]
struct Check {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Detach {
    /// Take the pin directory from this configuration file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The pin directory, if it is not the default
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pin_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Documents {
    /// Where `man/` and `completions/` are made
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            // If the terminal is gone there is nobody left to tell.
            drop(error.print());
            return if usage { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(problems)) => {
            for problem in problems {
                complain(&problem);
            }
            ExitCode::from(EX_USAGE)
        }
        Err(Failure::Other(error)) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(Run { config, overrides, log_format, log_level }) => {
            telemetry::start(log_format, &log_level).map_err(|error| {
                Failure::Configuration(vec![format!("--log-level {log_level}: {error}")])
            })?;
            dataplane::share_one_heap();
            dataplane::preflight::keep_capabilities()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime.block_on(app::run(&config, &overrides))
        }
        Command::KubeProxy(KubeProxy { arguments }) => kubeproxy::execute(&arguments),
        Command::Check(Check { config }) => {
            let (services, unasked) = app::check(&config, &Overrides::default())?;
            let mut out = std::io::stdout();
            let path = config.display().to_string();
            writeln!(out, "{}: {services} services, no problems", printable(&path))?;
            unasked.iter().try_for_each(|line| writeln!(out, "{}", printable(line)))?;
            Ok(())
        }
        Command::Detach(Detach { config, pin_dir }) => {
            let overrides = Overrides { pin_dir, ..Overrides::default() };
            let (found, left) = app::detach_all(config.as_deref(), &overrides)?;
            if let Some(line) = left {
                complain(&line);
            }
            let text = if found { "detached" } else { "nothing was attached" };
            writeln!(std::io::stdout(), "{text}")?;
            Ok(())
        }
        Command::Documents(Documents { directory }) => Ok(documents::write(&directory)?),
    }
}

fn complain(text: &str) {
    // If standard error is gone there is nobody left to tell.
    drop(writeln!(std::io::stderr(), "lb-agent: {}", printable(text)));
}
