use super::super::client::Server;
use super::*;
use crate::config::KubernetesSource;
use hyper::{Request as HttpRequest, Response};
use k8s_openapi::api::core::v1::Service;
use kube::client::Body;
use std::convert::Infallible;
use tokio::sync::mpsc::channel;

const GOOD: &str = r#"{"metadata":{"namespace":"shop","name":"web"}}"#;
const BAD: &str = r#"{"metadata":{"namespace":"shop","name":"bad"},"spec":{"ports":7}}"#;
const LISTED: &str = r#"{"type":"BOOKMARK","object":{"kind":"Service","apiVersion":"v1","metadata":
    {"resourceVersion":"8","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;

/// A server that answers a list with `page`, and a watch with these lines and its end.
fn server(page: String, lines: Vec<String>) -> Made {
    let client = kube::Client::new(
        tower::service_fn(move |request: HttpRequest<Body>| {
            let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let text = if watch { lines.concat() } else { page.clone() };
            async move { Ok::<_, Infallible>(Response::new(Body::from(text.into_bytes()))) }
        }),
        "default",
    );
    let server =
        Server { url: "https://192.0.2.1".into(), token: None, origin: "a kubeconfig".into() };
    Made { client, server: Arc::new(server) }
}

fn event(of: &str, object: &str) -> String {
    format!("{}\n", format!(r#"{{"type":"{of}","object":{object}}}"#).replace('\n', ""))
}

/// What is told in so many rounds, in short.
async fn told(made: Made, rounds: usize) -> Vec<String> {
    let (events, mut receiver) = channel(100);
    let what = What {
        resource: "services",
        group: "",
        labels: None,
        fields: None,
        optional: false,
        part: Some(0),
    };
    let common = Common {
        connection: Connection::new(Arc::new(KubernetesSource::default())),
        timing: Timing::default(),
        back: Arc::default(),
        heard: Heard::default(),
    };
    let mut watch = Watch::<Service, News<Service>> {
        what,
        common,
        events,
        wrap: |news| news,
        position: None,
        streaming: true,
        gap: false,
        down: false,
    };
    for _ in 0..rounds {
        // That it ends as soon as it begins is no matter here.
        let _ = watch.follow(&made).await;
    }
    drop(watch);
    let mut told = Vec::new();
    while let Some(news) = receiver.recv().await {
        let name = |object: Service| object.metadata.name.unwrap_or_default();
        told.push(match news {
            News::Change(Change::Begin, _) => "begin".to_owned(),
            News::Change(Change::Listed(object), _) => format!("listed {}", name(object)),
            News::Change(Change::Complete, _) => "complete".to_owned(),
            News::Change(Change::Put(object), _) => format!("put {}", name(object)),
            News::Change(Change::Forget(key), _) => format!("forget {key}"),
            News::Unreadable { key, changed, reason } => {
                assert!(reason.contains("is none"), "{reason}");
                let word = if changed.is_some() { "none any more:" } else { "none:" };
                format!("{word} {}", key.unwrap_or_default())
            }
            other => format!("{other:?}"),
        });
    }
    told
}

fn page() -> String {
    format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{BAD},{GOOD}]}}"#)
}

#[tokio::test]
async fn an_object_that_is_none_has_a_name_in_a_stream_as_in_pages() {
    let listed = format!("{}\n", LISTED.replace('\n', ""));
    let lines = vec![event("ADDED", GOOD), event("ADDED", BAD), listed.clone()];
    let told = told(server(page(), lines), 1).await;
    assert_eq!(told, ["begin", "listed web", "none: shop/bad", "complete"]);
    // Its line says nothing of what it is: there may be anything in it.
    let lines = vec![event("ADDED", GOOD), event("SHOUTED", GOOD), listed];
    let told = self::told(server(page(), lines), 2).await;
    assert_eq!(told[..2], ["begin", "listed web"], "{told:?}");
    let pages = ["begin", "none: shop/bad", "listed web", "complete"];
    assert_eq!(told[2..6], pages, "{told:?}");
}

#[tokio::test]
async fn an_object_that_is_none_any_more_is_left_out_at_once() {
    let listed = format!("{}\n", LISTED.replace('\n', ""));
    let lines =
        vec![listed, event("MODIFIED", BAD), event("MODIFIED", GOOD), event("DELETED", BAD)];
    let told = told(server(page(), lines), 2).await;
    let changes = ["none any more: shop/bad", "put web", "forget shop/bad"];
    assert_eq!(told[..2], ["begin", "complete"], "{told:?}");
    assert_eq!(told[2..5], changes, "{told:?}");
    assert_eq!(told[5], changes[0], "it is not listed again: {told:?}");
}

#[tokio::test]
async fn after_an_event_that_does_not_say_what_it_is_about_the_next_round_lists() {
    let listed = format!("{}\n", LISTED.replace('\n', ""));
    let nameless = r#"{"metadata":{"name":7}}"#;
    for line in [event("SHOUTED", GOOD), event("MODIFIED", nameless), event("DELETED", nameless)] {
        let lines = vec![event("ADDED", GOOD), listed.clone(), line, event("MODIFIED", GOOD)];
        let told = told(server(page(), lines), 2).await;
        let first = ["begin", "listed web", "complete"];
        assert_eq!(told[..3], first, "{told:?}");
        assert!(["none: ", "none any more: "].contains(&&*told[3]), "{told:?}");
        assert_eq!(told[4], "put web", "{told:?}");
        let second = ["begin", "none: shop/bad", "listed web", "complete"];
        assert_eq!(told[5..9], second, "{told:?}");
    }
}
