//! `make bench-probes`: what checks of many targets cost the agent. The servers are another process;
//! on the loopback device the kernel's work for both ends is charged to whoever sends, so that the
//! agent pays for some of the servers' too.

use anyhow::Context;
use clap::Parser;
use integration::agent::Agent;
use integration::lab::{self, Lab};
use integration::large::spent;
use integration::process::Memory;
use integration::spec::{service, services};
use integration::wait::let_pass;
use serde::Serialize;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Backends of one service.
const EACH: usize = 100;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";

#[derive(Parser)]
struct Cli {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Targets
    #[arg(long, default_value_t = 10_000)]
    targets: usize,
    /// Seconds for which the agent is watched
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Be the servers: `tcp` or `http`; the port is printed
    #[arg(long, hide = true)]
    serve: Option<String>,
}

#[derive(Serialize)]
struct Row {
    check: &'static str,
    /// Tries a second, as the servers count them.
    tries: f64,
    /// Share of one core, in percent.
    core: f64,
    /// Time on a CPU for one try, in microseconds.
    micros: f64,
    /// Resident memory in MB.
    resident: f64,
    /// What `core` must stay below, if there is such a bound.
    bound: Option<f64>,
}

/// The servers' process.
struct Servers {
    child: Child,
    port: u16,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(kind) = &cli.serve {
        return serve(kind == "http");
    }
    let mut rows = Vec::new();
    for (kind, check, bound) in [
        ("tcp", "none", None),
        ("tcp", "tcp", Some(25.0)),
        ("http", "{http: {path: /healthz}}", None),
    ] {
        let mut row = None;
        lab::run("bench-probes", |lab| row = Some(measure(lab, &cli, kind, check, bound)));
        rows.push(row.context("the lab did not run")??);
    }
    let mut out = std::io::stdout().lock();
    if cli.json {
        for row in rows {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        }
        return Ok(());
    }
    writeln!(out, "{} targets, one check of each every 2 s\n", cli.targets)?;
    let head = ["CHECK", "TRIES/S", "CORE", "PER TRY", "MEMORY", "BOUND"];
    let [check, tries, core, each, memory, bound] = head;
    writeln!(out, "{check:<8} {tries:>8} {core:>8} {each:>9} {memory:>9} {bound:>7}")?;
    for Row { check, tries, core, micros, resident, bound } in rows {
        let bound = bound.map_or_else(|| "-".to_owned(), |bound| format!("{bound}%"));
        let (core, micros) = (format!("{core:.1}%"), format!("{micros:.1}us"));
        let memory = format!("{resident:.1}MB");
        writeln!(out, "{check:<8} {tries:>8.0} {core:>8} {micros:>9} {memory:>9} {bound:>7}")?;
    }
    Ok(())
}

fn measure(
    lab: &Lab,
    cli: &Cli,
    kind: &'static str,
    check: &str,
    bound: Option<f64>,
) -> anyhow::Result<Row> {
    let servers = Servers::start(kind)?;
    let targets: Vec<SocketAddr> = (0..cli.targets)
        .map(|n| {
            let ip = u32::from(Ipv4Addr::new(127, 1, 0, 1)) + u32::try_from(n).unwrap_or(u32::MAX);
            SocketAddr::from((Ipv4Addr::from(ip), servers.port))
        })
        .collect();
    let all: Vec<_> = targets
        .chunks(EACH)
        .enumerate()
        .map(|(n, backends)| {
            let spec = service(format!("s{n}"))
                .frontend(format!("10.96.{}.{}:80", n / 250, 1 + n % 250))
                .backends(backends);
            if check == "none" { spec } else { spec.with(format!("checks: [{check}]")) }
        })
        .collect();
    let agent = Agent::start(lab, &services(&all));
    // All have had their first result, and what starting has left behind is done.
    let_pass(Duration::from_secs(8));
    let (begin, before, opened) = (Instant::now(), spent(agent.pid()), accepted()?);
    let_pass(Duration::from_secs(cli.seconds));
    let (used, tries) = (spent(agent.pid()) - before, accepted()? - opened);
    let span = begin.elapsed().as_secs_f64();
    let used = used.as_secs_f64();
    let name = match check.split_once(':') {
        Some(_) => "http",
        None if check == "none" => "none",
        None => "tcp",
    };
    Ok(Row {
        check: name,
        tries: tries as f64 / span,
        core: 100.0 * used / span,
        micros: if tries == 0 { 0.0 } else { 1e6 * used / tries as f64 },
        resident: Memory::of(agent.pid()).now as f64 / 1024.0,
        bound,
    })
}

/// Connections that servers of this network namespace have accepted.
fn accepted() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "PassiveOpens").context("PassiveOpens")?;
    Ok(value.parse()?)
}

/// Answers at one port of all addresses.
fn serve(http: bool) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    out.flush()?;
    let mut request = [0; 4096];
    loop {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        if http {
            // The client may have gone.
            let read = stream.read(&mut request);
            if read.is_ok_and(|length| length > 0) {
                drop(stream.write_all(ANSWER));
            }
        }
    }
}

// === impl Servers ===

impl Servers {
    fn start(kind: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", kind])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut port = String::new();
        let mut told = std::io::BufReader::new(child.stdout.take().context("a pipe")?);
        std::io::BufRead::read_line(&mut told, &mut port)?;
        Ok(Self { child, port: port.trim().parse()? })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
