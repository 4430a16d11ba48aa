//! `trace`: asks the agent for lines and shows them as they come.

use super::client::{AskError, Client};
use super::{BAD_USAGE, Form, Output, Places, Reader, say, show};
use crate::dataplane::preflight::cgroup2_mount;
use crate::model::ServiceName;
use crate::shown::clean;
use crate::trace::line::{Became, Decided, Filter, Line, Missed, Outcome, Target, Verdict};
use clap::Args;
use http_body_util::BodyExt as _;
use nix::unistd::{Uid, User};
use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

/// Longest line that an agent sends: paths are the longest part.
const LONGEST_LINE: usize = 1 << 16;
/// Widest that a column grows.
const WIDEST: usize = 48;

/// Which decisions; all that are given must hold.
#[derive(Debug, Args)]
pub(super) struct Trace {
    /// Only of this service
    #[arg(long)]
    service: Option<ServiceName>,
    /// Only those that led to this backend
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    backend: Option<Target>,
    /// Only of this process
    #[arg(long)]
    pid: Option<u32>,
    /// Only of this user, by name or number
    #[arg(long, value_name = "USER")]
    uid: Option<String>,
    /// Only of processes in this cgroup or below it: its path in the hierarchy, or its directory
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Only those that came to this
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
}

/// What turns lines into text.
struct Renderer {
    wide: bool,
    widths: [usize; 7],
    users: HashMap<u32, String>,
}

impl Trace {
    pub(super) async fn run(self, places: Places, output: &Output) -> anyhow::Result<ExitCode> {
        if !matches!(output.form, Form::Table | Form::Wide | Form::Json) {
            say("trace shows lines, `-o wide` ones, or JSON; choose one of these");
            return Ok(BAD_USAGE.into());
        }
        let uid = match self.uid.as_deref().map(uid) {
            None => None,
            Some(Ok(uid)) => Some(uid),
            Some(Err(problem)) => {
                say(&problem);
                return Ok(BAD_USAGE.into());
            }
        };
        let Self { service, backend, pid, uid: _, cgroup, verdict } = self;
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mount = cgroup2_mount(&mounts);
        let cgroup = cgroup.map(|cgroup| in_hierarchy(cgroup, mount.as_deref()));
        let path = path(&Filter { service, backend, pid, uid, cgroup, verdict });
        let mut body = match Client::new(places.socket).stream(&path).await {
            Ok(body) => body,
            Err(absent @ AskError::Absent { .. }) => {
                anyhow::bail!("{absent}; only an agent can read what the kernel decides: start it")
            }
            Err(error) => return Err(error.into()),
        };
        let mut renderer = Renderer::new(output.form == Form::Wide);
        if output.form != Form::Json
            && !output.no_headers
            && show(&renderer.head())? == Reader::Gone
        {
            return Ok(ExitCode::SUCCESS);
        }
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow::anyhow!("the agent is gone: {error}"))?;
            buffer.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
            let whole = buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let mut text = String::new();
            for line in buffer.drain(..whole).as_slice().split_inclusive(|byte| *byte == b'\n') {
                if output.form == Form::Json {
                    text.push_str(&String::from_utf8_lossy(line));
                } else {
                    text.push_str(&renderer.line(line)?);
                }
            }
            if show(&text)? == Reader::Gone {
                return Ok(ExitCode::SUCCESS);
            }
            anyhow::ensure!(buffer.len() < LONGEST_LINE, "the agent sends no lines");
        }
        anyhow::bail!("the agent has stopped; connections go on, and so does the next trace")
    }
}

fn uid(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(format!("there is no user `{}`; give a name or a number", clean(text, WIDEST))),
    }
}

/// The path in the hierarchy of what may be named by its directory below `mount`.
fn in_hierarchy(cgroup: String, mount: Option<&Path>) -> String {
    let inside = mount.and_then(|mount| Path::new(&cgroup).strip_prefix(mount).ok());
    match inside.and_then(Path::to_str) {
        Some(inside) => format!("/{inside}"),
        None => cgroup,
    }
}

fn path(filter: &Filter) -> String {
    let Filter { service, backend, pid, uid, cgroup, verdict } = filter;
    let verdict = verdict.map(|verdict| match verdict {
        Verdict::Translated => "translated",
        Verdict::Refuse => "refuse",
        Verdict::Unreachable => "unreachable",
        Verdict::Pass => "pass",
    });
    let given = [
        ("service", service.as_ref().map(ToString::to_string)),
        ("backend", backend.map(|backend| backend.to_string())),
        ("pid", pid.map(|pid| pid.to_string())),
        ("uid", uid.map(|uid| uid.to_string())),
        ("cgroup", cgroup.clone()),
        ("verdict", verdict.map(str::to_owned)),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let given: Vec<_> = given.map(|(name, value)| format!("{name}={}", encoded(&value))).collect();
    format!("/v1/trace?{}", given.join("&"))
}

/// Text as a part of a URL.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

// === impl Renderer ===

impl Renderer {
    fn new(wide: bool) -> Self {
        Self { wide, widths: [15, 18, 8, 14, 16, 20, 20], users: HashMap::new() }
    }

    fn head(&mut self) -> String {
        let names = ["TIME", "PROCESS", "USER", "CGROUP", "SERVICE", "FRONTEND", "BACKEND"];
        self.columns(names.map(str::to_owned), "RESULT")
    }

    fn line(&mut self, line: &[u8]) -> anyhow::Result<String> {
        let line = serde_json::from_slice(line).map_err(|error| {
            anyhow::anyhow!("cannot read the agent's line: {error}; use the lbctl of its version")
        })?;
        Ok(match line {
            Line::Decision(decided) => {
                let result = decision(&decided);
                self.told(&decided, decided.time, &result)
            }
            Line::Outcome(outcome) => {
                let result = became(&outcome);
                self.told(&outcome.decided, outcome.at, &result)
            }
            Line::Missed(missed) => {
                say(&missing(&missed));
                String::new()
            }
        })
    }

    fn told(&mut self, decided: &Decided, time: SystemTime, result: &str) -> String {
        let Decided { pid, comm, uid, cgroup, cgroup_path, service, frontend, backend, .. } =
            decided;
        let time = humantime::format_rfc3339_micros(time).to_string();
        let time = time.get(11..26).unwrap_or(&time).to_owned();
        let cgroup = cgroup_path.as_deref().map_or_else(|| cgroup.to_string(), |p| self.place(p));
        let cells = [
            time,
            format!("{}/{pid}", clean(comm, WIDEST)),
            self.user(*uid),
            cgroup,
            service.to_string(),
            frontend.to_string(),
            backend.map_or_else(|| "-".to_owned(), |backend| backend.to_string()),
        ];
        self.columns(cells, result)
    }

    /// A cgroup as a person knows it: the pod it is of, or its own name.
    fn place(&self, path: &str) -> String {
        if self.wide {
            return clean(path, 4 * WIDEST);
        }
        let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("/");
        clean(&pod(path).unwrap_or_else(|| name.to_owned()), WIDEST)
    }

    fn user(&mut self, uid: u32) -> String {
        let name = self.users.entry(uid).or_insert_with(|| {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| uid.to_string(), |user| clean(&user.name, WIDEST))
        });
        name.clone()
    }

    /// Columns grow with what was in them, so that lines stay in step.
    fn columns(&mut self, cells: [String; 7], last: &str) -> String {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&mut self.widths) {
            let length = cell.chars().count();
            *width = (*width).max(length.min(WIDEST));
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(length) + 2));
        }
        text + last + "\n"
    }
}

/// The pod of a cgroup below the kubelet's: `pod` and its uid.
fn pod(path: &str) -> Option<String> {
    path.split('/').find_map(|part| {
        let (before, rest) = part.rsplit_once("pod")?;
        let uid = rest.strip_suffix(".slice").unwrap_or(rest).replace('_', "-");
        let is_uid = uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let fits = is_uid && (before.is_empty() || before.starts_with("kubepods"));
        fits.then(|| format!("pod {uid}"))
    })
}

fn missing(Missed { lost, dropped, lapsed }: &Missed) -> String {
    let counted = format!(
        "missing so far: {lost} events that the kernel had no room for, {dropped} lines that came \
         too fast; a filter leaves fewer"
    );
    match lapsed.is_zero() {
        true => counted,
        false => format!(
            "{counted}. For {lapsed:.1?} nothing was recorded at all, because the agent did not get \
             to run"
        ),
    }
}

fn decision(decided: &Decided) -> String {
    let verdict = match decided.verdict {
        Verdict::Translated => "translated",
        Verdict::Refuse => "no backend: refused",
        Verdict::Unreachable => "no backend: unreachable",
        Verdict::Pass => "no backend: left alone",
    };
    format!("{verdict} in {}ns", decided.took_ns)
}

fn became(outcome: &Outcome) -> String {
    let Outcome { decided: _, became, after, sent, received, .. } = outcome;
    let after = format!("{after:.1?}").replace('µ', "u");
    match became {
        Became::Established => format!("established after {after}"),
        Became::Refused => format!("refused by the backend after {after}"),
        Became::Unanswered => format!("unanswered for {after}"),
        Became::Timedout => format!("timed out after {after}"),
        Became::Unreachable => format!("unreachable after {after}"),
        Became::Abandoned => format!("abandoned after {after}"),
        Became::Closed => match (sent, received) {
            (Some(sent), Some(received)) => {
                format!("closed after {after}, sent {sent} B, received {received} B")
            }
            _ => format!("closed after {after}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_may_be_named_by_its_directory() {
        let mount = Some(Path::new("/sys/fs/cgroup"));
        for (given, mount, expected) in [
            ("/sys/fs/cgroup/a/b", mount, "/a/b"),
            ("/sys/fs/cgroup/", mount, "/"),
            ("/sys/fs/cgroups", mount, "/sys/fs/cgroups"),
            ("/a/b", mount, "/a/b"),
            ("a", mount, "a"),
            ("/sys/fs/cgroup/a", None, "/sys/fs/cgroup/a"),
        ] {
            assert_eq!(in_hierarchy(given.to_owned(), mount), expected);
        }
    }

    #[test]
    fn urls_and_pods() {
        let filter = Filter {
            service: Some("default/web:http".parse().unwrap()),
            backend: Some("[fd00::1]:80".parse().unwrap()),
            cgroup: Some("/a b&c=%\u{e4}".to_owned()),
            verdict: Some(Verdict::Pass),
            ..Filter::default()
        };
        assert_eq!(
            path(&filter),
            "/v1/trace?service=default/web:http&backend=%5Bfd00::1%5D:80\
             &cgroup=/a%20b%26c%3D%25%C3%A4&verdict=pass"
        );
        let uid = "0f9a1c3e-1b2d-4c5e-8f70-123456789abc";
        let slice = format!(
            "/kubepods.slice/kubepods-pod{}.slice/cri-containerd-abc.scope",
            uid.replace('-', "_")
        );
        assert_eq!(pod(&slice), Some(format!("pod {uid}")));
        assert_eq!(pod(&format!("/kubepods/burstable/pod{uid}/abc")), Some(format!("pod {uid}")));
        assert_eq!(pod("/system.slice/podman.service"), None);
        assert_eq!(super::uid("0"), Ok(0));
        let refused = super::uid("nobody-of-that-name\u{1b}").unwrap_err();
        assert!(refused.contains("\\u{1b}"), "{refused}");
    }

    #[test]
    fn hostile_lines() {
        let line = serde_json::json!({
            "event": "decision", "time": "2026-01-01T10:20:30.123456789Z", "pid": 7,
            "comm": "a\n\u{1b}[2J", "uid": 4_000_000_000u32, "cgroup": 5,
            "cgroup_path": "/x\u{9b}y", "cookie": 1, "service": "web",
            "frontend": "10.96.0.1:80/tcp", "verdict": "refuse", "took_ns": 300,
        });
        let mut renderer = Renderer::new(false);
        let text = renderer.line(line.to_string().as_bytes()).unwrap();
        let words: Vec<_> = text.split("  ").map(str::trim).filter(|w| !w.is_empty()).collect();
        assert_eq!(
            words,
            [
                "10:20:30.123456",
                "a\\n\\u{1b}[2J/7",
                "4000000000",
                "x\\u{9b}y",
                "web",
                "10.96.0.1:80/tcp",
                "-",
                "no backend: refused in 300ns",
            ]
        );
        assert!(renderer.line(b"{}").is_err());
    }
}
