//! Endpoints that are going, seen from outside.

use integration::kubernetes::{PACKETS, Svc, endpoint, reaches, refused, silent};
use integration::packets::{self, PODS, Scene};
use integration::pods::Pod;
use serde_json::json;

fn service(policy: Option<&str>) -> Svc {
    policy.into_iter().fold(Scene::web(), |web, policy| web.with(policy, json!("Local")))
}

/// A pod on this node and one on the other.
fn pods(scene: &Scene<'_>) -> [Pod; 2] {
    [scene.pod("a", 8080), scene.far_pod("c", 8080)]
}

#[test]
fn falls_back_to_terminating_endpoints_external_cluster_for_other_hosts() {
    packets::run("packets-term-etc", PODS, |scene| {
        let [a, c] = pods(scene);
        let web = service(None);
        let check = |endpoints: &[_], who: &[&str]| {
            scene.put(&web, endpoints);
            reaches(&scene.client, PACKETS, scene.doors(), who);
        };
        check(&[endpoint(&a).terminating(), endpoint(&c)], &["c"]);
        check(&[endpoint(&a).terminating(), endpoint(&c).terminating()], &["a", "c"]);
        check(&[endpoint(&a).terminating(), endpoint(&c).unready()], &["a"]);
        scene.put(&web, &[endpoint(&a).conditions(false, false, true)]);
        refused(&scene.client, PACKETS, scene.doors());
    });
}

#[test]
fn falls_back_to_terminating_endpoints_external_local_for_other_hosts() {
    packets::run("packets-term-etl", PODS, |scene| {
        let [a, c] = pods(scene);
        let web = service(Some("externalTrafficPolicy"));
        let check = |endpoints: &[_], who: &[&str]| {
            scene.put(&web, endpoints);
            reaches(&scene.client, PACKETS, scene.doors(), who);
        };
        check(&[endpoint(&a), endpoint(&c)], &["a"]);
        // One here that is going is nearer than one elsewhere that is not.
        check(&[endpoint(&a).terminating(), endpoint(&c)], &["a"]);
        check(&[endpoint(&a).terminating(), endpoint(&c).terminating()], &["a"]);
        scene.put(&web, &[endpoint(&a).unready(), endpoint(&c).terminating()]);
        silent(&scene.client, PACKETS, scene.doors());
        reaches(&scene.guest, PACKETS, scene.doors(), &["c"]);
        scene.put(&web, &[endpoint(&a).unready()]);
        refused(&scene.client, PACKETS, scene.doors());
    });
}
