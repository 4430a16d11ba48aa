//! `lbctl trace`: a line for each decision and what becomes of it, for whoever asked, and nothing
//! that goes on when nobody does.

use aya::maps::{Array, Map, MapData};
use integration::agent::Agent;
use integration::cgroup::mount_point;
use integration::client::{self, begin, dial};
use integration::lab::{self, Lab};
use integration::netns;
use integration::process::{self, binary};
use integration::router::{Router, no_way, silent};
use integration::server::{Backends, closed};
use integration::spec::{service, services};
use integration::wait::{eventually, wait_for};
use lb_agent::trace::line::{Became, Decided, Line, Outcome, Verdict};
use lb_common::{LAYOUT_VERSION, control};
use socket2::Protocol;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const WEB: &str = "10.96.0.1:80";
const GONE: &str = "10.96.0.2:80";
const NONE: &str = "10.96.0.3:80";
const DNS: &str = "10.96.0.4:53";
const MOMENT: Duration = Duration::from_secs(20);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A running `lbctl trace`.
struct Trace {
    child: Child,
    out: PathBuf,
}

impl Trace {
    /// Begins, and waits until it has.
    #[track_caller]
    fn begin(lab: &Lab, name: &str, arguments: &[&str]) -> Self {
        let out = lab.scratch().join(name);
        let file = File::create(&out).expect("the scratch directory is writable");
        let child = Command::new(binary("lbctl"))
            .arg("trace")
            .args(arguments)
            .env("LB_SOCKET", lab.socket())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be duplicated"))
            .stderr(file)
            .spawn()
            .expect("lbctl can be started");
        let trace = Self { child, out };
        eventually("tracing to be on", MOMENT, || is_on(lab));
        trace
    }

    /// [`begin`](Self::begin), for people to read, and waits until it listens: tracing may be on for another.
    #[track_caller]
    fn begin_text(lab: &Lab, name: &str, arguments: &[&str]) -> Self {
        let trace = Self::begin(lab, name, arguments);
        eventually("the names of the columns", MOMENT, || trace.text().starts_with("TIME "));
        trace
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    fn lines(&self) -> Vec<Line> {
        let text = self.text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The sockets about which decisions have been told.
    fn decided(&self) -> BTreeSet<u64> {
        let decided = self.lines().into_iter().filter_map(|line| match line {
            Line::Decision(decided) => Some(decided.cookie),
            _ => None,
        });
        decided.collect()
    }

    /// The decision about a socket.
    #[track_caller]
    fn decision(&self, cookie: u64) -> Decided {
        wait_for("a decision", MOMENT, || {
            self.lines().into_iter().find_map(|line| match line {
                Line::Decision(decided) if decided.cookie == cookie => Some((*decided).clone()),
                _ => None,
            })
        })
    }

    /// What became of a socket's connect.
    #[track_caller]
    fn outcome(&self, cookie: u64, became: Became) -> Outcome {
        wait_for(&format!("{became:?}"), MOMENT, || {
            self.lines().into_iter().find_map(|line| match line {
                Line::Outcome(outcome)
                    if outcome.decided.cookie == cookie && outcome.became == became =>
                {
                    Some(outcome)
                }
                _ => None,
            })
        })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        process::kill(&mut self.child);
    }
}

fn control(lab: &Lab, index: u32) -> u64 {
    let pin = lab.pin_dir().join(LAYOUT_VERSION.to_string()).join("CONTROL");
    let map = MapData::from_pin(pin).expect("the table is pinned");
    let table: Array<MapData, u64> = Map::Array(map).try_into().expect("an array of words");
    table.get(&index, 0).expect("the table can be read")
}

fn is_on(lab: &Lab) -> bool {
    control(lab, control::TRACING) != 0
}

fn spec(web: SocketAddr, gone: SocketAddr, dns: SocketAddr) -> String {
    services(&[
        service("web").frontend(WEB).backend(web),
        service("gone").frontend(GONE).backend(gone),
        service("none").frontend(NONE).with("no_backend: unreachable"),
        service("dns").udp(DNS).backend(dns),
    ])
}

#[test]
fn a_line_for_each_decision_and_its_outcome() {
    lab::run("trace-lines", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let resolver = Backends::udp("127.0.0.1", ["dns"]);
        let _agent = Agent::start(lab, &spec(server.at(0), closed("127.0.0.1"), resolver.at(0)));
        assert!(!is_on(lab));
        let trace = Trace::begin(lab, "all", &["-o", "json"]);

        let mut call = dial(addr(WEB)).unwrap();
        let cookie = client::cookie(&call.stream);
        let decided = trace.decision(cookie);
        let cgroup = lab.cgroup().path().strip_prefix(mount_point()).unwrap().to_owned();
        assert_eq!(decided.pid, std::process::id());
        assert_eq!(decided.comm, "trace-lines", "the thread's name");
        assert_eq!(decided.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(decided.cgroup_path.as_deref(), Some(format!("/{}", cgroup.display()).as_str()));
        assert_eq!((&*decided.service, decided.frontend), ("web", WEB.parse().unwrap()));
        assert_eq!((decided.backend, decided.verdict), (Some(server.at(0)), Verdict::Translated));
        assert!((1..1_000_000_000).contains(&decided.took_ns), "{decided:?}");
        let age = std::time::SystemTime::now().duration_since(decided.time).unwrap();
        assert!(age < MOMENT, "{age:?}");
        let established = trace.outcome(cookie, Became::Established);
        assert!(established.after < MOMENT && established.sent.is_none(), "{established:?}");
        assert_eq!(*established.decided, decided);
        assert!(call.echoes("0123456789"));
        // The client's close is a reset here, so no FIN blurs the count.
        let greeting = format!("web {}\n", call.stream.local_addr().unwrap());
        drop(call);
        let closed = trace.outcome(cookie, Became::Closed);
        let bytes = (closed.sent, closed.received);
        assert_eq!(bytes, (Some(10), Some(10 + greeting.len() as u64)), "{closed:?}");

        let socket = begin(addr(GONE), Protocol::TCP);
        client::ended(&socket).unwrap_err();
        let cookie = client::cookie(&socket);
        assert_eq!(&*trace.outcome(cookie, Became::Refused).decided.service, "gone");

        let socket = client::stream(addr(NONE), Protocol::TCP);
        socket.connect(&addr(NONE).into()).unwrap_err();
        let decided = trace.decision(client::cookie(&socket));
        assert_eq!((decided.verdict, decided.backend), (Verdict::Unreachable, None));

        let udp = client::udp("127.0.0.1:0");
        client::ask(&udp, addr(DNS)).unwrap();
        client::ask(&udp, addr(DNS)).unwrap();
        let cookie = client::cookie(&udp);
        assert_eq!(trace.decision(cookie).backend, Some(resolver.at(0)));
        let about = |line: &Line| matches!(line, Line::Decision(d) if d.cookie == cookie);
        assert_eq!(trace.lines().iter().filter(|line| about(line)).count(), 1, "it stays");

        drop(trace);
        eventually("tracing to be off", MOMENT, || !is_on(lab));
    });
}

/// Nobody answers: the first packet is lost, and then the application or the kernel gives up.
#[test]
fn what_is_not_answered() {
    lab::run("trace-unanswered", |lab| {
        let _router = Router::start();
        let _agent =
            Agent::start(lab, &spec(silent(true), closed("127.0.0.1"), addr("127.0.0.1:9")));
        let trace = Trace::begin(lab, "all", &["-o", "json", "--service", "web"]);
        let given_up = begin(addr(WEB), Protocol::TCP);
        let cookie = client::cookie(&given_up);
        let unanswered = trace.outcome(cookie, Became::Unanswered);
        assert!(unanswered.after >= Duration::from_millis(900), "{unanswered:?}");
        drop(given_up);
        trace.outcome(cookie, Became::Abandoned);
        // The fewest packets that the kernel can be content with: it gives up after seconds.
        netns::sysctl("ipv4/tcp_syn_retries", "1");
        let socket = begin(addr(WEB), Protocol::TCP);
        assert_eq!(client::ended(&socket).unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
        let timed_out = trace.outcome(client::cookie(&socket), Became::Timedout);
        assert!(timed_out.after >= Duration::from_secs(1), "{timed_out:?}");
    });
}

/// A router says that there is no way, at once or, if nobody could listen just then, with the last
/// timeout.
#[test]
fn what_there_is_no_way_to() {
    lab::run("trace-no-way", |lab| {
        let router = Router::start();
        netns::sysctl("ipv4/tcp_syn_retries", "1");
        let v6 = "[fd00:96::1]:80";
        let spec = services(&[
            service("four").frontend(WEB).backend(no_way(true)),
            service("six").frontend(v6).backend(no_way(false)),
        ]);
        let _agent = Agent::start(lab, &spec);
        let trace = Trace::begin(lab, "all", &["-o", "json"]);
        let shown = Trace::begin_text(lab, "text", &[]);
        for (frontend, busy) in [(WEB, true), (v6, true), (WEB, false)] {
            if busy {
                router.keep_busy();
            }
            let socket = begin(addr(frontend), Protocol::TCP);
            let error = client::ended(&socket).unwrap_err().raw_os_error();
            assert!(matches!(error, Some(libc::EHOSTUNREACH | libc::ENETUNREACH)), "{error:?}");
            let outcome = trace.outcome(client::cookie(&socket), Became::Unreachable);
            assert_eq!(outcome.decided.frontend.address, addr(frontend));
        }
        let three = |text: &String| text.matches("unreachable after ").count() == 3;
        wait_for("three lines", MOMENT, || Some(shown.text()).filter(three));
    });
}

#[test]
fn each_reads_what_it_asked_for() {
    lab::run("trace-filters", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let agent =
            Agent::start(lab, &spec(server.at(0), closed("127.0.0.1"), addr("127.0.0.1:9")));
        let cgroup = lab.cgroup().path().strip_prefix(mount_point()).unwrap();
        let cgroup = format!("/{}", cgroup.display());
        let pid = std::process::id().to_string();
        let to = server.at(0).to_string();
        let kept: [&[&str]; 7] = [
            &["--service", "web"],
            &["--backend", &to],
            &["--pid", &pid],
            &["--uid", "root"],
            &["--cgroup", &cgroup],
            &["--verdict", "translated"],
            &["--backend", "127.0.0.1", "--service", "web"],
        ];
        let others: [&[&str]; 6] = [
            &["--service", "dns"],
            &["--backend", "127.0.0.2"],
            &["--pid", "1"],
            &["--uid", "4000000000"],
            &["--cgroup", "/not-there"],
            &["--verdict", "refuse"],
        ];
        let begin = |(number, arguments): (usize, &&[&str])| {
            let arguments = [arguments, &["-o", "json"][..]].concat();
            Trace::begin(lab, &format!("kept-{number}"), &arguments)
        };
        let begin_other = |(number, arguments): (usize, &&[&str])| {
            Trace::begin_text(lab, &format!("other-{number}"), arguments)
        };
        let all = Trace::begin_text(lab, "trace-all", &[]);
        let kept: Vec<_> = kept.iter().enumerate().map(begin).collect();
        let others: Vec<_> = others.iter().enumerate().map(begin_other).collect();
        // The first dials may come before some of them, and none is read before it is written.
        let mut cookies = Vec::new();
        eventually("all to read the same", MOMENT, || {
            let call = dial(addr(WEB)).unwrap();
            cookies.push(client::cookie(&call.stream));
            let seen: Vec<BTreeSet<u64>> = kept.iter().map(Trace::decided).collect();
            cookies.iter().any(|cookie| seen.iter().all(|seen| seen.contains(cookie)))
        });
        let has_both =
            |text: &String| text.contains("translated in ") && text.contains("established after ");
        let text = wait_for("both", MOMENT, || Some(all.text()).filter(has_both));
        assert!(text.starts_with("TIME "), "{text}");
        let line = text.lines().find(|line| line.contains("translated in ")).expect("a decision");
        for part in [&to, "web", WEB, "root", &format!("trace-filters/{pid}")] {
            assert!(line.contains(part), "no {part} in {line}");
        }

        for (arguments, code, part) in [
            (&["trace", "--service", "wbe"][..], 1, "did you mean `web`"),
            (&["trace", "--uid", "nobody-here"], 64, "no user"),
            (&["trace", "-o", "yaml"], 64, "choose"),
            (&["trace", "--backend", "x"], 64, "x"),
        ] {
            let refused = lab.lbctl(arguments);
            assert_eq!(refused.code, Some(code), "{refused:?}");
            assert!(refused.stderr.contains(part), "{refused:?}");
        }

        // What was sent to them before the agent stopped has been read when they end.
        assert!(agent.stop().success());
        for mut other in others {
            process::exit_of(&mut other.child, MOMENT).expect("it ends with the agent");
            let text = other.text();
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(text.contains("lbctl: the agent has stopped"), "{text}");
        }
    });
}

/// A process chooses its own name.
#[test]
fn hostile_names_are_written_out() {
    lab::run("trace-hostile", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let _agent =
            Agent::start(lab, &spec(server.at(0), closed("127.0.0.1"), addr("127.0.0.1:9")));
        let shown = Trace::begin(lab, "text", &[]);
        let json = Trace::begin(lab, "json", &["-o", "json"]);
        let comm = format!("/proc/self/task/{}/comm", nix::unistd::gettid());
        let mut file = fs::OpenOptions::new().write(true).open(comm).unwrap();
        file.write_all(b"\x1b[2J\n<b>\xff").unwrap();
        eventually("both to tell", MOMENT, || {
            dial(addr(WEB)).unwrap();
            shown.text().contains("<b>") && json.text().contains("<b>")
        });
        for text in [shown.text(), json.text()] {
            assert!(!text.contains('\x1b'), "{text:?}");
        }
        assert!(shown.text().contains("\\u{1b}[2J\\n<b>\u{fffd}/"), "{}", shown.text());
    });
}

/// Whoever traces may die at any moment, and so may the agent.
#[test]
fn it_ends_with_those_who_asked() {
    lab::run("trace-ends", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let agent =
            Agent::start(lab, &spec(server.at(0), closed("127.0.0.1"), addr("127.0.0.1:9")));
        let first = Trace::begin(lab, "first", &["-o", "json"]);
        let second = Trace::begin(lab, "second", &["-o", "json"]);
        drop(first);
        wait_for("the second to read on", MOMENT, || {
            dial(addr(WEB)).unwrap();
            (!second.lines().is_empty()).then_some(())
        });
        assert!(is_on(lab));
        // An agent that is killed leaves the switch, which has an end of its own; the next one
        // switches off at once.
        agent.kill9();
        let until = control(lab, control::TRACING);
        let now = lb_agent::dataplane::monotonic_now().as_nanos();
        assert!(until != 0 && u128::from(until) < now + 6_000_000_000, "{until} {now}");
        let mut second = second;
        let ended = process::exit_of(&mut second.child, MOMENT).expect("the trace ends");
        assert_eq!(ended.code(), Some(1));
        assert!(second.text().contains("the agent "), "{}", second.text());
        let agent = Agent::adopt(lab);
        assert!(!is_on(lab));
        let absent = lab.lbctl(&["trace", "--socket", "/nowhere/agent.sock"]);
        assert_eq!(absent.code, Some(1));
        assert!(absent.stderr.contains("no agent answers"), "{absent:?}");

        // An agent that is stopped does not wait for those who trace.
        let third = Trace::begin(lab, "third", &["-o", "json"]);
        let begun = std::time::Instant::now();
        assert!(agent.stop().success());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(!is_on(lab));
        drop(third);
    });
}

/// A flood costs what the ring holds; what does not fit is counted and told.
#[test]
fn what_is_lost_is_told() {
    lab::run("trace-flood", |lab| {
        let shut = closed("127.0.0.1");
        let agent = Agent::start(lab, &spec(shut, shut, addr("127.0.0.1:9")));
        let trace = Trace::begin(lab, "all", &["-o", "json", "--service", "dns"]);
        let flood = || {
            for _ in 0..20_000 {
                UdpSocket::bind("127.0.0.1:0").unwrap().connect(addr(DNS)).unwrap();
            }
        };
        // Tracing is on a moment before there is an answer, which nobody waits for that long.
        eventually("the first line", MOMENT, || {
            UdpSocket::bind("127.0.0.1:0").unwrap().connect(addr(DNS)).unwrap();
            !trace.lines().is_empty()
        });
        // The agent stands still, so that the ring fills up for sure.
        let pid = nix::unistd::Pid::from_raw(agent.pid().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        flood();
        let lost = control(lab, control::LOST_EVENTS);
        // Until nothing is recorded any more, which takes five seconds.
        let now = || lb_agent::dataplane::monotonic_now().as_nanos();
        eventually("the agent's word to lapse", MOMENT, || {
            now() > u128::from(control(lab, control::TRACING))
        });
        flood();
        assert_eq!(control(lab, control::LOST_EVENTS), lost, "nothing is written, nothing counted");
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        assert!(lost > 0, "a ring of 256 KiB can't hold 20,000 records");
        let missed = || {
            trace.lines().into_iter().rev().find_map(|line| match line {
                // All so far: that the word had lapsed may be known a moment after what was lost.
                Line::Missed(missed) if missed.lost >= lost && !missed.lapsed.is_zero() => {
                    Some(missed)
                }
                _ => None,
            })
        };
        wait_for("word of it", MOMENT, missed);
        let read = || trace.lines().iter().filter(|l| matches!(l, Line::Decision(_))).count();
        wait_for("the rest", MOMENT, || (read() > 1_000).then_some(()));
    });
}
