//! `make run`: the agent on `examples/quickstart.yaml`, in a cgroup of its own, with two small HTTP
//! backends, and requests to the service address. Nothing stays attached at the end.

use anyhow::{Context, bail};
use integration::cgroup::mount_point;
use integration::wait::within;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::thread;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const SERVICE: &str = "127.96.0.1:80";
const BACKENDS: [&str; 2] = ["127.0.0.1:18081", "127.0.0.1:18082"];
const CONFIG: &str = "examples/quickstart.yaml";
const PIN_DIR: &str = "/sys/fs/bpf/lb-quickstart";
const REQUESTS: usize = 9;

fn main() -> ExitCode {
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("quickstart: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn act() -> anyhow::Result<()> {
    match env::args().nth(1).as_deref() {
        None => quickstart(),
        Some("requests") => requests(&env::args().nth(2).context("which cgroup?")?),
        Some(other) => bail!("unknown argument `{other}`; run `make run`"),
    }
}

/// What is taken down at the end, in whatever way that comes.
struct Stage {
    cgroup: PathBuf,
    scratch: tempfile::TempDir,
    agent: Option<Child>,
}

fn quickstart() -> anyhow::Result<()> {
    if !Path::new(CONFIG).exists() {
        bail!("{CONFIG} is not here; run `make run` at the top of the repository");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Caught from here on, so that Ctrl-C always takes the way through `end`.
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };

    for address in BACKENDS {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("backend {address}: is another quickstart running?"))?;
        thread::spawn(move || serve(&listener, address));
    }
    let mut stage = Stage::new()?;
    say(&format!(
        "two backends answer on {} and {}; starting the agent ...",
        BACKENDS[0], BACKENDS[1]
    ));
    stage.start_agent()?;

    say(&format!("{REQUESTS} requests to the service address http://{SERVICE}/ :"));
    let own = env::current_exe()?;
    let status = Command::new(&own).arg("requests").arg(&stage.cgroup).status()?;
    if !status.success() {
        bail!("a request failed; the agent's messages are above");
    }
    say("lbctl backends:");
    stage.lbctl(&["backends"])?;

    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        let cgroup = stage.cgroup.join("cgroup.procs");
        let socket = stage.socket();
        say("still running; from another shell (as root), try:");
        say(&format!("  sh -c 'echo $$ > {}; exec curl http://{SERVICE}/'", cgroup.display()));
        say(&format!(
            "  {} --socket {} backends -w",
            own.with_file_name("lbctl").display(),
            socket.display()
        ));
        say("Ctrl-C ends it.");
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
    }
    stage.end()
}

impl Stage {
    fn new() -> anyhow::Result<Self> {
        let cgroup = mount_point().join("lb-quickstart");
        if !cgroup.exists() {
            fs::create_dir(&cgroup)
                .with_context(|| format!("{}: run `make run` as root", cgroup.display()))?;
        }
        Ok(Self { cgroup, scratch: tempfile::tempdir()?, agent: None })
    }

    fn socket(&self) -> PathBuf {
        self.scratch.path().join("agent.sock")
    }

    fn start_agent(&mut self) -> anyhow::Result<()> {
        let agent = Command::new(env::current_exe()?.with_file_name("lb-agent"))
            .args(["run", "--config", CONFIG, "--detach-on-exit", "--log-level", "warn"])
            .args(["--pin-dir", PIN_DIR])
            .arg("--cgroup")
            .arg(&self.cgroup)
            .arg("--state-dir")
            .arg(self.scratch.path())
            .arg("--socket")
            .arg(self.socket())
            .spawn()
            .context("starting lb-agent")?;
        let agent = self.agent.insert(agent);
        let socket = self.scratch.path().join("agent.sock");
        let ready = within(Duration::from_secs(20), || {
            let ended = agent.try_wait().ok().flatten().is_some();
            (ended || integration::http::get(&socket, "/readyz").is_ok_and(|(code, _)| code == 200))
                .then_some(!ended)
        });
        match ready {
            Some(true) => Ok(()),
            Some(false) => bail!("the agent ended; its message is above"),
            None => bail!("the agent was not ready within 20 s"),
        }
    }

    fn lbctl(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let status = Command::new(env::current_exe()?.with_file_name("lbctl"))
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .status()
            .context("running lbctl")?;
        if status.success() { Ok(()) } else { bail!("lbctl failed ({status})") }
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.stop_agent()?;
        if Path::new(PIN_DIR).exists() {
            bail!("{PIN_DIR} is still there: something stays attached");
        }
        say("ended; nothing stays attached.");
        Ok(())
    }

    fn stop_agent(&mut self) -> anyhow::Result<()> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        if agent.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(i32::try_from(agent.id())?), Signal::SIGTERM)?;
        let status = agent.wait()?;
        if status.success() { Ok(()) } else { bail!("the agent failed ({status})") }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.stop_agent() {
            say(&format!("stopping the agent: {error:#}"));
        }
        // Somebody's shell may still be in it; an empty cgroup does no harm.
        drop(fs::remove_dir(&self.cgroup));
    }
}

/// Answers every connection with this backend's own address.
fn serve(listener: &TcpListener, name: &str) {
    for stream in listener.incoming().flatten() {
        // A client that goes away is no concern of a backend's.
        drop(answer(stream, name));
    }
}

fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = [0; 1024];
    let _length = stream.read(&mut request)?;
    let body = format!("hello from {name}\n");
    let length = body.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// Run as a process of its own: joins the cgroup, then dials the service address.
fn requests(cgroup: &str) -> anyhow::Result<()> {
    fs::write(Path::new(cgroup).join("cgroup.procs"), std::process::id().to_string())
        .context("joining the cgroup")?;
    let address: SocketAddr = SERVICE.parse()?;
    for _ in 0..REQUESTS {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .with_context(|| format!("connecting to {SERVICE}"))?;
        let peer = stream.peer_addr()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: quickstart\r\nConnection: close\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let body = response.lines().last().unwrap_or("nothing");
        say(&format!("  connected to {peer}: {body}"));
    }
    Ok(())
}

fn say(line: &str) {
    // If nobody listens any more there is nothing to be done about it.
    drop(writeln!(std::io::stdout(), "{line}"));
}
