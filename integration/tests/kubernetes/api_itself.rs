//! The API server of the tests is one, as far as kubectl and the kube client can tell.

use integration::apiserver::ApiServer;
use k8s_openapi::api::core::v1::Service;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  clusterIP: 10.96.0.10
  ports:
  - {name: http, port: 80, protocol: TCP, targetPort: 8080}
  - {name: https, port: 443, protocol: TCP, targetPort: 8443}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.1.0.1]}]
";

/// Runs kubectl, which must succeed; what it printed.
#[track_caller]
fn kubectl(api: &ApiServer, scratch: &Path, arguments: &[&str]) -> String {
    let finished = api.kubectl(scratch, arguments);
    assert_eq!(finished.code, Some(0), "kubectl {arguments:?}: {finished:?}");
    finished.stdout
}

#[test]
fn kubectl_applies_lists_and_deletes() {
    let (api, scratch) = (ApiServer::start(), TempDir::with_prefix("lb-").unwrap());
    api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    let manifest = scratch.path().join("manifest.yaml");
    let file = manifest.to_str().unwrap();
    for flags in [&["--server-side=false"][..], &["--server-side", "--force-conflicts"]] {
        std::fs::write(&manifest, MANIFEST).unwrap();
        let apply = [&["apply", "-f", file], flags].concat();
        let said = kubectl(&api, scratch.path(), &apply);
        assert!(said.contains("service/web"), "{said}");
        let listed = kubectl(&api, scratch.path(), &["get", "svc,endpointslices", "-A"]);
        assert!(listed.contains("service/web") && listed.contains("web-1"), "{listed}");
        let listed = kubectl(&api, scratch.path(), &["-n", "shop", "get", "svc", "-l", "app!=web"]);
        assert_eq!(listed, "");

        let changed = MANIFEST.replace("8443", "9443").replace("[10.1.0.1]", "[10.1.0.2]");
        std::fs::write(&manifest, changed.replace(", labels: {app: web}", "")).unwrap();
        kubectl(&api, scratch.path(), &apply);
        let service = api.get("services", "shop", "web").unwrap();
        let targets: Vec<&Value> = service["spec"]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| &port["targetPort"])
            .collect();
        assert_eq!(targets, [8080, 9443], "{service}");
        let slice = api.get("endpointslices", "shop", "web-1").unwrap();
        assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.1.0.2"]));

        kubectl(&api, scratch.path(), &["delete", "-f", file]);
        assert_eq!(api.list("services"), Vec::<Value>::new());
    }
    let finished = api.kubectl(scratch.path(), &["-n", "shop", "get", "svc", "web"]);
    assert!(finished.stderr.contains("services \"web\" not found"), "{finished:?}");
}

#[tokio::test]
async fn the_kube_client_meets_conflicts() {
    let api = ApiServer::start();
    let client = Client::try_from(Config::new(api.url().parse().unwrap())).unwrap();
    let services: Api<Service> = Api::namespaced(client, "default");
    let service = |port: u16| -> Service {
        serde_json::from_value(
            json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": port}]}}),
        )
        .unwrap()
    };
    let first = services.create(&PostParams::default(), &service(1)).await.unwrap();
    let again = services.create(&PostParams::default(), &service(1)).await.unwrap_err();
    assert!(matches!(&again, kube::Error::Api(status) if status.reason == "AlreadyExists"));
    let patch = Patch::Merge(json!({"spec": {"clusterIP": "10.96.0.1"}}));
    services.patch("a", &PatchParams::default(), &patch).await.unwrap();
    // `first` has an old version by now.
    let stale = services.replace("a", &PostParams::default(), &first).await.unwrap_err();
    assert!(matches!(&stale, kube::Error::Api(status) if status.code == 409), "{stale}");
    let found = services.list(&ListParams::default().fields("spec.clusterIP!=None")).await.unwrap();
    assert_eq!(found.items.len(), 1);
    let none = services.list(&ListParams::default().fields("spec.clusterIP=None")).await.unwrap();
    assert_eq!(none.items.len(), 0);
    services.delete("a", &kube::api::DeleteParams::default()).await.unwrap();
    assert_eq!(api.get("Service", "default", "a"), None);
}
