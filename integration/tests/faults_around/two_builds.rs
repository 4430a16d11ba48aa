//! Two builds whose table layouts differ: what programs find in `BLOCKS` means something else to each, and
//! neither could serve by the other's.

use super::layouts::ids;
use super::upgrade::{Held, Scene, expect_new_programs, programs};
use integration::agent::Agent;
use integration::lab;
use integration::process::binary;
use integration::spec::{service, services};

/// There and back, and once more, under traffic: nothing fails, and what is open keeps its name and its count.
#[test]
#[ignore = "takes lb-agent-other-layout, which `make faults` builds"]
fn another_layouts_build_takes_over_and_hands_back() {
    lab::run("faults-two-builds", |lab| {
        let mut scene = Scene::new();
        // Before it, so that the block of `web` is not in row 1, with 1 backend: that word means the same to both.
        let aside = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
        let aside = service("aside").frontend("10.96.0.99:80").backends(aside);
        lab.write_config(&services(&[aside, scene.web()]));
        let [ours, other] = ["lb-agent", "lb-agent-other-layout"].map(binary);
        let mut agent = Agent::adopt(lab);
        scene.begin();
        let mut held = vec![Held::begin()];
        for (next, is_killed) in [(&other, false), (&ours, true), (&other, true), (&ours, false)] {
            let (before, ids_before) = (programs(&agent), ids(&agent));
            let pins = agent.status().pin_dir;
            match is_killed {
                true => agent.kill9(),
                false => assert!(agent.stop().success()),
            }
            scene.goes_on();
            agent = Agent::spawn_from(lab, next, &[]);
            agent.wait_ready();
            scene.goes_on();
            let status = agent.status();
            assert_ne!(status.pin_dir, pins, "the layout is another");
            assert!(!pins.exists(), "nothing is left of the one before");
            assert_eq!(status.self_test.earlier, []);
            expect_new_programs(&before, &programs(&agent));
            assert_eq!(ids(&agent), ids_before);
            held.iter_mut().for_each(Held::expect_names);
            // Those of the traffic come and go.
            let open = agent.service("web").backends[0].active;
            assert!(open >= 6 * held.len() as u64, "{open}");
            held.push(Held::begin());
        }
        drop(scene);
        agent.expect_active(30);
        drop(held);
        agent.expect_no_connections();
        assert_eq!(agent.status().self_test.problems, [""; 0]);
    });
}
