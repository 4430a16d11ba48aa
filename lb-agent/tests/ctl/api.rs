//! The API as a program without our types would use it.

use crate::fixture::{Agent, DEADLINE, rejection};
use lb_agent::status::{OtherProgram, Place};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Status code and body of the answer to a request.
fn request(agent: &Agent, method: &str, path: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(agent.socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

fn get(agent: &Agent, path: &str) -> (u16, Value) {
    request(agent, "GET", path)
}

#[test]
fn readiness_lists_what_is_pending() {
    let agent = Agent::start();
    assert_eq!(get(&agent, "/livez"), (200, json!({ "live": true })));
    let ready = json!({ "ready": true, "pending": [], "others": [] });
    assert_eq!(get(&agent, "/readyz"), (200, ready));
    agent.change(|status, _| {
        status.ready = false;
        status.pending = vec!["attaching".to_owned()];
    });
    let pending = json!({ "ready": false, "pending": ["attaching"], "others": [] });
    assert_eq!(get(&agent, "/readyz"), (503, pending));
    assert_eq!(get(&agent, "/livez").0, 200);
}

/// Who else is at our hooks is told there as well, and keeps nobody waiting.
#[test]
fn readiness_names_programs_of_others() {
    let agent = Agent::start();
    agent.change(|status, _| {
        status.self_test.others = vec![OtherProgram {
            hook: "connect4".to_owned(),
            program_id: 7,
            name: Some("theirs".to_owned()),
            place: Place::Before,
        }];
    });
    let other = json!({ "hook": "connect4", "program_id": 7, "name": "theirs", "place": "before" });
    let ready = json!({ "ready": true, "pending": [], "others": [other] });
    assert_eq!(get(&agent, "/readyz"), (200, ready));
}

#[test]
fn services_come_with_counters_and_in_order() {
    let agent = Agent::start();
    let (status, services) = get(&agent, "/v1/services");
    assert_eq!(status, 200);
    let names: Vec<_> = services.as_array().unwrap().iter().map(|s| &s["name"]).collect();
    assert_eq!(names, ["default/dns:udp", "web"]);
    assert_eq!(services[1]["counters"]["connects"], 2000);

    let (status, one) = get(&agent, "/v1/services/default/dns:udp");
    assert_eq!((status, &one), (200, &services[0]));
    assert_eq!(get(&agent, "/v1/services/default%2Fdns%3Audp"), (200, services[0].clone()));
    assert_eq!(get(&agent, "/v1/status").1["pid"], 4242);
    assert_eq!(get(&agent, "/v1/maps").1[0]["name"], "FRONTENDS");

    // Thousands of them come in pieces, and are the same.
    agent.change(|_, services| {
        let many = (0..3000).map(|n| {
            let name = format!("service-{n:04}");
            lb_agent::status::ServiceStatus { name, ..services[1].clone() }
        });
        *services = many.collect();
    });
    let (status, services) = get(&agent, "/v1/services");
    let services = services.as_array().unwrap();
    assert_eq!((status, services.len()), (200, 3000));
    for (n, service) in services.iter().enumerate() {
        assert_eq!(service["name"], format!("service-{n:04}"));
        assert_eq!(service["counters"]["connects"], 2000);
    }
    assert_eq!(services[2999], get(&agent, "/v1/services/service-2999").1);
}

#[test]
fn errors_are_json_and_say_what_to_do() {
    let agent = Agent::start();
    agent.change(|status, _| status.rejections.push(rejection("shop")));
    for (method, path, status, part) in [
        ("GET", "/v1/services/wbe", 404, "did you mean `web`?"),
        ("GET", "/v1/services/shop", 404, "was refused: lb.yaml:12:5"),
        ("GET", "/v1/nonsense", 404, "there are /v1/status, /v1/services"),
        ("POST", "/v1/services", 405, "use GET"),
    ] {
        let (seen, body) = request(&agent, method, path);
        let error = body["error"].as_str().unwrap();
        assert_eq!(seen, status, "{path}");
        assert!(error.contains(part), "{path}: {error}");
    }
    agent.kernel.broken.store(true, Ordering::SeqCst);
    let (status, body) = get(&agent, "/v1/services");
    assert_eq!(
        (status, body),
        (500, json!({ "error": "cannot read the kernel tables: the table is gone" }))
    );
}

#[test]
fn a_stop_does_not_wait_for_idle_clients() {
    let mut agent = Agent::start();
    let mut idle = UnixStream::connect(agent.socket()).unwrap();
    // Half a request: the answer to it would never be under way.
    idle.write_all(b"GET /v1/status HT").unwrap();
    agent.stop();
    // A process that another test is about to start has a copy of every descriptor until it is.
    let end = Instant::now() + DEADLINE;
    while UnixStream::connect(agent.socket()).is_ok() {
        assert!(Instant::now() < end, "somebody still listens");
        std::thread::yield_now();
    }
    agent.resume();
    assert_eq!(get(&agent, "/livez").0, 200);
}
