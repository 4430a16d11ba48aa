//! What operators say of a backend whose service is in the store: it is kept there, and every host
//! does it.

use crate::native::Host;
use crate::scene::{BOUND, backend, backend_key, frontends, one, service_key, who};
use integration::agent::Agent;
use integration::lab;
use integration::server::Backends;
use integration::wait::eventually;
use lb_agent::model::AdminState;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const WEB: &str = "10.96.0.10:80";

#[test]
fn every_host_does_what_is_said_to_one() {
    lab::run("overrides", |lab| {
        let (etcd, settings) = one(lab);
        let servers = Backends::tcp("127.0.0.1", ["a", "b"]);
        etcd.put(&service_key("web"), frontends(&[WEB]));
        etcd.put(&backend_key("web", "a"), backend(servers.tagged("a")));
        etcd.put(&backend_key("web", "b"), backend(servers.tagged("b")));
        lab.set_settings(&settings);
        let host = Host::create(lab);
        let first = Agent::start(lab, "services: []\n");
        let _other = host.agent(lab);
        let target = servers.tagged("a");
        let name = format!("web/{target}");
        let key = format!("/lb/overrides/web/{target}");
        let answers = |tags: &[&str]| {
            let wanted: BTreeSet<_> = tags.iter().map(|tag| Ok((*tag).to_owned())).collect();
            eventually(&format!("{tags:?} to answer"), BOUND, || {
                (0..16).map(|_| who(WEB)).collect::<BTreeSet<_>>() == wanted
            });
        };
        let everywhere = |first: &Agent<'_>, state: AdminState, weight: u16| {
            eventually(&format!("both to say {state:?}, {weight}"), BOUND, || {
                let of = |service: lb_agent::status::ServiceStatus| {
                    let found = service.backends.into_iter().find(|b| b.address == target)?;
                    Some((found.state, found.weight))
                };
                let there = host.service("web").and_then(of);
                of(first.service("web")) == Some((state, weight)) && there == Some((state, weight))
            });
        };
        answers(&["a", "b"]);

        let ran = lab.lbctl(&["drain", &name]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stdout.contains(&key), "{ran:?}");
        let kept: Value = serde_json::from_str(&etcd.get(&key).expect("it is kept")).unwrap();
        assert_eq!(kept, json!({"state": "drain"}));
        everywhere(&first, AdminState::Drain, 1);
        answers(&["b"]);
        let ran = lab.lbctl(&["weight", &name, "9"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        everywhere(&first, AdminState::Drain, 9);

        // It outlives the agent, and what it was told is not in its own file.
        first.kill9();
        let first = Agent::adopt(lab);
        let shown = first.backend("web", target);
        assert_eq!((shown.state, shown.weight), (AdminState::Drain, 9));
        answers(&["b"]);

        for arguments in [["undrain", &name, "--no-headers"], ["weight", &name, "default"]] {
            let ran = lab.lbctl(&arguments);
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
        eventually("both to serve it again", BOUND, || {
            let shown = first.backend("web", target);
            (shown.state, shown.weight) == (AdminState::Ready, 1)
        });
        answers(&["a", "b"]);
        assert_eq!(etcd.get(&key), None);

        // What others write there counts too; what makes no sense costs nothing.
        etcd.put(&key, r#"{"state":"disabled"}"#);
        answers(&["b"]);
        etcd.put(&key, r#"{"state":"asleep"}"#);
        eventually("a complaint", BOUND, || {
            first.complaints().iter().any(|complaint| complaint.contains("asleep"))
        });
        assert!(who(WEB).is_ok(), "the service goes on");
        etcd.delete(&key);
        answers(&["a", "b"]);
    });
}
