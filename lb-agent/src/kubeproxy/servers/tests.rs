//! Real HTTP on loopback.

use super::*;
use crate::kubeproxy::applied::tests::{applied, applied_within, published};
use crate::kubeproxy::listen::PATIENCE;
use crate::source::kubernetes::cluster::{Facts, Work};
use crate::source::kubernetes::progress::Queued;
use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Status, head and body.
pub(in crate::kubeproxy) async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_ascii_lowercase(), body.to_owned())
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(crate::serving::serve(listener, router, PATIENCE, pending()));
    address
}

#[tokio::test]
async fn the_health_port() {
    // Whatever waits at all has waited for too long.
    let (applied, progress, facts) = applied_within(Duration::ZERO);
    let address = serve(health(Arc::clone(&applied))).await;
    let codes = async || (get(address, "/healthz").await.0, get(address, "/livez").await.0);
    assert_eq!(codes().await, (200, 200), "nothing is late at the start");
    let (_, head, body) = get(address, "/healthz").await;
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["nodeEligible"], &body["healthy"]), (&json!(true), &json!(true)));
    assert_eq!(body["lastUpdated"], body["currentTime"]);

    let (since, heard) = (Instant::now(), SystemTime::now());
    progress.note(Queued { revision: 1, heard, since, work: Work::default() });
    assert_eq!(codes().await, (503, 503), "an update has waited for too long");
    applied.look(&published(1, 1, None), SystemTime::now());
    assert_eq!(codes().await, (200, 200));
    let (_, _, body) = get(address, "/livez").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"]["IPv6"]["healthy"], json!(true));
    assert_eq!(body.get("nodeEligible"), None);

    facts.send_replace(Arc::new(Facts::default()));
    assert_eq!(codes().await, (503, 200), "nothing is known of the node");
    assert_eq!(get(address, "/").await.0, 404);
    let text = applied.metrics().text(applied.changes()).unwrap();
    assert!(text.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 2"), "{text}");
    assert!(text.contains("kubeproxy_proxy_livez_total{code=\"200\"} 4"), "{text}");
}

#[tokio::test]
async fn the_metrics_port() {
    let (applied, _progress, _facts) = applied();
    let document = Arc::new(json!({"mode": "nftables"}));
    let flags = [("config", "/etc/k.conf".to_owned())].into();
    let start = Arc::new(Start { at: SystemTime::now(), flags });
    let address = serve(metrics(Shown { applied, start, mode: "nftables", document })).await;
    let (code, head, body) = get(address, "/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\nkubeproxy_sync_proxy_rules_service_changes_total 0\n"), "{body}");
    let (code, head, body) = get(address, "/proxyMode").await;
    assert_eq!((code, body.as_str()), (200, "nftables"));
    assert!(head.contains("content-type: text/plain; charset=utf-8"), "{head}");
    assert_eq!(get(address, "/healthz").await.2, "ok");
    let (_, _, body) = get(address, "/configz").await;
    assert_eq!(body, r#"{"kubeproxy.config.k8s.io":{"mode":"nftables"}}"#);
    let (code, head, body) = get(address, "/flagz").await;
    assert!(code == 200 && head.contains("content-type: text/plain"), "{head}");
    assert!(body.ends_with("\n\nconfig=/etc/k.conf\n"), "{body}");
    let (code, _, body) = get(address, "/statusz").await;
    assert!(code == 200 && body.contains("\nUp: "), "{body}");
    let (code, head, body) = get(address, "/metrics/slis").await;
    assert!(code == 200 && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1"), "{body}");
    for path in ["/debug/pprof", "/debug/pprof/", "/debug/pprof/profile?seconds=5"] {
        let (code, _, body) = get(address, path).await;
        assert_eq!((code, body.as_str()), (404, pages::NO_PROFILER), "{path}");
    }
    assert_eq!(get(address, "/debug").await.0, 404);
}
