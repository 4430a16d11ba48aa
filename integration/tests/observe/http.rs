//! The HTTP listener: what it serves, what it refuses, and that nobody can hold it up.

use integration::agent::Agent;
use integration::http::get;
use integration::http::{ask, exchange};
use integration::lab;
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::{eventually, wait_for};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);

/// Where an agent listens if nothing is said.
fn default_address() -> SocketAddr {
    ([127, 0, 0, 1], 9777).into()
}

#[test]
fn shows_what_the_socket_shows_and_changes_nothing() {
    lab::run("http-shows", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["a"]);
        let web = service("ns/web:80").frontend("10.96.0.10:80").backend(backends.at(0));
        let agent = Agent::start(lab, &services(&[web]));
        let at = default_address();
        for path in ["/livez", "/readyz", "/v1/services", "/v1/services/ns/web:80"] {
            let answer = ask(at, &format!("GET {path}"), "").unwrap();
            let (code, body) = get(&lab.socket(), path).unwrap();
            assert_eq!((answer.code, answer.body), (code, body), "{path}");
            assert!(answer.head.contains("x-content-type-options: nosniff"), "{}", answer.head);
            assert!(answer.head.contains("cache-control: no-store"), "{}", answer.head);
            let head = ask(at, &format!("HEAD {path}"), "").unwrap();
            assert_eq!((head.code, head.body.as_str()), (code, ""), "{path}");
        }
        let change = format!(
            "{{\"service\": \"ns/web:80\", \"backend\": \"{}\", \"state\": \"drain\"}}",
            backends.at(0)
        );
        let length =
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", change.len());
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            for path in ["/v1/overrides", "/v1/log-level", "/v1/services", "/metrics", "/none"] {
                let request = format!("{method} {path} HTTP/1.0\r\n{length}\r\n{change}");
                let answer = exchange(at, request.as_bytes()).unwrap();
                assert_eq!(answer.code, 405, "{method} {path}: {answer:?}");
                assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
            }
        }
        // Nor are the endpoints that change something there to be read.
        assert_eq!(ask(at, "GET /v1/overrides", "").unwrap().code, 404);
        assert_eq!(ask(at, "GET /v1/log-level", "").unwrap().code, 404);
        // What tells of processes and users is for the agent's own socket.
        for path in ["/v1/trace", "/v1/connections", "/v1/explain/10.96.0.1:80"] {
            assert_eq!(ask(at, &format!("GET {path}"), "").unwrap().code, 404, "{path}");
        }
        let answer = ask(at, "GET /v1/servises", "").unwrap();
        assert_eq!(answer.code, 404);
        assert!(answer.body.contains("/metrics, /livez, /readyz, /v1/status"), "{}", answer.body);
        let answer = ask(at, "GET /v1/services/ns/wbe:80", "").unwrap();
        assert!(answer.body.contains("did you mean `ns/web:80`?"), "{}", answer.body);
        assert_eq!(agent.backend("ns/web:80", backends.at(0)).said, None);
    });
}

#[test]
fn a_name_that_is_not_this_hosts_gets_nothing() {
    lab::run("http-names", |lab| {
        let _agent = Agent::start(lab, "services: []\n");
        let with = |host: &str| {
            let request = format!("GET /v1/status HTTP/1.0\r\nHost: {host}\r\n\r\n");
            exchange(default_address(), request.as_bytes()).unwrap().code
        };
        assert_eq!(with("127.0.0.1:9777"), 200);
        assert_eq!(with("localhost:9777"), 200);
        assert_eq!(with("rebound.example:9777"), 421);
    });
}

#[test]
fn where_it_listens() {
    lab::run("http-where", |lab| {
        // An address that was asked for and can't be had is an error, the default one is not.
        let taken = TcpListener::bind(default_address()).unwrap();
        let agent = Agent::start(lab, "services: []\n");
        let warnings = agent.status().warnings;
        let named = |warning: &String| {
            warning.contains("127.0.0.1:9777") && warning.contains("set `http` to another address")
        };
        assert_eq!(warnings.iter().filter(|warning| named(warning)).count(), 1, "{warnings:?}");
        assert!(agent.stop().success());
        lab.set_settings("http: 127.0.0.1:9777");
        lab.write_config("services: []\n");
        let finished = lab.lb_agent_on_config("run");
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("cannot listen on 127.0.0.1:9777"), "{finished:?}");
        assert!(last.contains("set `http` to a free address of this host"), "{finished:?}");
        drop(taken);
        // Both families; and the command line goes before the file.
        let answers = |at: SocketAddr| ask(at, "GET /livez", "").map(|answer| answer.code);
        let v6: SocketAddr = "[::1]:9778".parse().unwrap();
        let mut agent = Agent::spawn(lab, &["--http", &v6.to_string()]);
        agent.wait_ready();
        assert_eq!(answers(v6).unwrap(), 200);
        assert_eq!(answers(default_address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(agent.stop().success());
        lab.set_settings("http: off");
        let agent = Agent::start(lab, "services: []\n");
        assert_eq!(answers(default_address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        drop(agent);
        for (wrong, part) in [("9777", "is not an address and a port"), ("no", "or `off`")] {
            let config = lab.config_file();
            let config = config.to_string_lossy();
            let finished = lab.lb_agent(&["run", "-c", &config, "--http", wrong]);
            assert_eq!(finished.code, Some(64), "{finished:?}");
            assert!(finished.stderr.contains(part), "{finished:?}");
        }
    });
}

#[test]
fn not_ready_until_every_source_has_delivered() {
    lab::run("http-ready", |lab| {
        lab.set_settings("sources: [{file: more.yaml}]");
        lab.write_config("services: []\n");
        let mut agent = Agent::spawn(lab, &[]);
        let readyz = || ask(default_address(), "GET /readyz", "").ok();
        let answer = wait_for("an answer that names the file only", DEADLINE, || {
            readyz().filter(|answer| !answer.body.contains("not attached"))
        });
        assert_eq!(answer.code, 503, "{answer:?}");
        assert!(answer.body.contains("more.yaml"), "{answer:?}");
        let metrics = ask(default_address(), "GET /metrics", "").unwrap();
        assert!(metrics.body.contains("\nlb_ready 0\n"), "{}", metrics.body);
        lab.write_by_rename(&lab.scratch().join("more.yaml"), "services: []\n");
        agent.wait_ready();
        let answer = readyz().unwrap();
        let ready = "{\"others\":[],\"pending\":[],\"ready\":true}";
        assert_eq!((answer.code, &*answer.body), (200, ready));
    });
}

#[test]
fn large_and_broken_requests_are_refused() {
    lab::run("http-large", |lab| {
        let _agent = Agent::start(lab, "services: []\n");
        let at = default_address();
        let long = "x".repeat(100_000);
        let many: String = (0..200).map(|number| format!("H{number}: x\r\n")).collect();
        for (request, codes) in [
            (format!("GET /{long} HTTP/1.0\r\n\r\n"), [414, 431]),
            (format!("GET / HTTP/1.0\r\nA: {long}\r\n\r\n"), [431, 431]),
            (format!("GET / HTTP/1.0\r\n{many}\r\n"), [431, 431]),
            ("GET / HTTP/9.9\r\n\r\n".to_owned(), [400, 400]),
            ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), [400, 400]),
            ("GET /\u{0} HTTP/1.0\r\n\r\n".to_owned(), [400, 400]),
        ] {
            let short: String = request.chars().take(40).collect();
            // What was sent beyond the limit may reset the connection before the answer is read.
            match exchange(at, request.as_bytes()) {
                Ok(answer) => assert!(codes.contains(&answer.code), "{short}: {answer:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{short}"),
            }
        }
        // A name that does not exist is said back without what it is made of.
        let answer = ask(at, "GET /%0a%1b%3Cscript%3E", "").unwrap();
        assert_eq!(answer.code, 404);
        assert!(!answer.body.contains(['\n', '\u{1b}', '<']), "{answer:?}");
        assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
        assert_eq!(ask(at, "GET /livez", "").unwrap().code, 200);
    });
}

#[test]
fn clients_that_say_nothing_hold_nobody_up_for_long() {
    lab::run("http-slow", |lab| {
        let agent = Agent::start(lab, "services: []\n");
        let at = default_address();
        // More than may be connected at a time, with half a request each.
        let mut silent: Vec<TcpStream> = (0..100)
            .map(|_| {
                let mut stream = TcpStream::connect(at).unwrap();
                stream.write_all(b"GET /livez HTTP/1.1\r\nHost: loc").unwrap();
                stream
            })
            .collect();
        let begin = Instant::now();
        assert_eq!(ask(at, "GET /livez", "").unwrap().code, 200);
        assert!(begin.elapsed() < DEADLINE, "answered after {:?}", begin.elapsed());
        // The socket, the loop and the way out are not theirs to hold up at all.
        assert!(agent.status().ready);
        let begin = Instant::now();
        assert!(agent.stop().success());
        assert!(begin.elapsed() < Duration::from_secs(10), "stopped after {:?}", begin.elapsed());
        eventually("the connections to end", DEADLINE, || {
            silent.iter_mut().all(|stream| {
                let end = stream.read(&mut [0; 1024]);
                matches!(end, Ok(0)) || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
            })
        });
    });
}
