//! What the documentation tells people to type is typed here: each block of shell commands is run as it
//! stands on the page, against a real agent (and etcd, and an API server). Blocks that show a session name
//! commands and options that exist; what they show as configuration is good; links lead somewhere.

mod makefile;
mod page;
mod registrations;
mod results;
mod scene;
mod sessions;
mod targets;
mod units;

use integration::apiserver::ApiServer;
use integration::lab;
use integration::process::{Finished, binary, run};
use page::{ROOT, page, pages};
use scene::{ETCD, SERVING, Scene};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The scripts of the documentation, each with the test that plays it.
const PLAYED: [(&str, &str); 15] = [
    ("README.md", "try"),
    ("README.md", "install"),
    ("README.md", "file"),
    ("README.md", "etcd"),
    ("README.md", "kubernetes"),
    ("docs/etcd.md", "roles"),
    ("docs/etcd.md", "keys"),
    ("docs/health.md", "drain"),
    ("docs/kubernetes.md", "replace"),
    ("docs/migrating.md", "haproxy"),
    ("docs/migrating.md", "ipvs"),
    ("docs/migrating.md", "kube-proxy"),
    ("docs/operations.md", "service"),
    ("docs/operations.md", "drain"),
    ("docs/troubleshooting.md", "look"),
];

#[test]
fn every_script_is_played() {
    let commands = ["$", "sudo", "cd", "make", "cargo", "lb-agent", "lbctl", "kubectl", "etcdctl"];
    for page in pages() {
        for block in page.blocks() {
            let place = format!("{}:{}", page.name, block.line);
            if block.language.is_empty() {
                let first = block.text.split_whitespace().next().unwrap_or_default();
                assert!(!commands.contains(&first), "{place}: say `sh run=NAME` or `console`");
            }
            if block.language != "sh" {
                continue;
            }
            let Some(run) = block.run else {
                panic!("{place}: say `sh run=NAME`, and play it in a test");
            };
            assert!(
                PLAYED.contains(&(page.name.as_str(), run)),
                "{place}: no test plays run={run}"
            );
        }
    }
    for (name, run) in PLAYED {
        assert!(!page(name).script(run).is_empty());
    }
}

// === README ===

#[test]
fn readme_try() {
    lab::run("readme-try", |lab| {
        let shown = Scene::new(lab).play("README.md", "try");
        assert!(shown.contains("127.96.0.1:80/tcp"), "{shown}");
    });
}

#[test]
fn readme_install() {
    lab::run("readme-install", |lab| {
        Scene::new(lab).play("README.md", "install");
    });
}

#[test]
fn readme_file() {
    lab::run("readme-file", |lab| {
        let shown = Scene::new(lab).play("README.md", "file");
        for part in ["no problems", "answered by 10.0.0.", "Policy:", "75.0%", "detached"] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
    });
}

#[test]
fn readme_etcd() {
    lab::run("readme-etcd", |lab| {
        // What is registered goes on in the background there.
        let registered = "until etcdctl get --prefix /lb/backends/web/ | grep -q 10.0.0.5:8080\n\
                          do sleep 0.05\ndone\n";
        let script = page("README.md").script("etcd") + registered;
        let Finished { code, stdout: shown, stderr } = Scene::new(lab).with_etcd().run(&script);
        assert_eq!(code, Some(0), "{shown}\n{stderr}");
        assert!(shown.contains("web created\n"), "{shown}");
        let pool: Vec<Ipv4Addr> = shown.lines().filter_map(|line| line.parse().ok()).collect();
        // Of the page's `vip_pool`, 10.96.128.0/17.
        let good = |address: &Ipv4Addr| {
            let [a, b, c, _] = address.octets();
            (a, b) == (10, 96) && c >= 128
        };
        assert!(!pool.is_empty() && pool.iter().all(good), "{shown}");
    });
}

/// A cluster as kubeadm makes it, with a DNS service.
fn cluster(scratch: &Path) -> (ApiServer, String) {
    let api = ApiServer::start();
    let kubeadm = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubernetes/kubeadm.yaml");
    let dns = format!("{ROOT}/integration/tests/documents/dns.yaml");
    for file in [kubeadm, &dns] {
        let finished = api.kubectl(scratch, &["create", "-f", file]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
    let kubeconfig = scratch.join("kubectl.conf");
    (api, kubeconfig.display().to_string())
}

/// `examples` where the script runs.
fn with_examples(scene: &Scene<'_>) {
    let examples = Path::new(ROOT).join("examples");
    std::os::unix::fs::symlink(examples, scene.home().join("examples"))
        .expect("a link can be made");
}

#[test]
fn readme_kubernetes() {
    lab::run("readme-kubernetes", |lab| {
        let (_api, kubeconfig) = cluster(lab.scratch());
        let scene = Scene::new(lab).variable("KUBECONFIG", kubeconfig);
        with_examples(&scene);
        let shown = scene.play("README.md", "kubernetes");
        assert!(shown.contains("kube-system/kube-dns"), "{shown}");
    });
}

// === docs ===

#[test]
fn kubernetes_replace() {
    lab::run("kubernetes-replace", |lab| {
        let (api, kubeconfig) = cluster(lab.scratch());
        let scene = Scene::new(lab).variable("KUBECONFIG", kubeconfig);
        with_examples(&scene);
        scene.play("docs/kubernetes.md", "replace");
        let set = api.get("daemonsets", "kube-system", "kube-proxy").expect("it is back");
        let image = set["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
        assert!(image.is_some_and(|image| image.contains("kube-proxy")), "{image:?}");
    });
}

#[test]
fn etcd_roles() {
    lab::run("etcd-roles", |lab| {
        Scene::new(lab).with_etcd().play("docs/etcd.md", "roles");
    });
}

#[test]
fn etcd_keys() {
    lab::run("etcd-keys", |lab| {
        let scene = Scene::new(lab).with_etcd().variable("LB_ETCD_ENDPOINTS", ETCD);
        scene.play("docs/etcd.md", "keys");
        // What is shown as a value is one, to who reads them.
        let page = page("docs/etcd.md");
        let blocks = page.blocks();
        let values: Vec<_> = blocks.iter().filter(|block| block.language == "json").collect();
        assert!(!values.is_empty());
        for value in values {
            let named = value.text.replacen('{', "{\"name\": \"shown\", ", 1);
            fs::write(scene.home().join("shown.json"), named).expect("the directory is writable");
            let finished = scene.run("lbctl service apply --dry-run -f shown.json");
            assert_eq!(finished.code, Some(0), "docs/etcd.md:{}: {finished:?}", value.line);
        }
    });
}

#[test]
fn health_drain() {
    lab::run("health-drain", |lab| {
        let scene = Scene::new(lab);
        fs::write(scene.home().join("services.yaml"), WEB).expect("the directory is writable");
        let script = page("docs/health.md").script("drain");
        let finished = scene.run(&format!("{SERVING}{script}"));
        assert_eq!(finished.code, Some(0), "{finished:?}");
    });
}

/// The service of the pages.
const WEB: &str = "services:\n  - name: web\n    frontends: [\"10.96.0.10:80\"]\n    \
                   backends: [\"10.0.0.5:8080\", \"10.0.0.6:8080\"]\n";

#[test]
fn migrating_from_haproxy() {
    lab::run("migrating-haproxy", |lab| {
        let shown = Scene::new(lab).with_etcd().play("docs/migrating.md", "haproxy");
        assert!(shown.contains("answered by 10.0.0."), "{shown}");
    });
}

#[test]
fn migrating_from_ipvs() {
    lab::run("migrating-ipvs", |lab| {
        let shown = Scene::new(lab).play("docs/migrating.md", "ipvs");
        assert!(shown.contains("answered by 10.0.0."), "{shown}");
    });
}

#[test]
fn migrating_from_kube_proxy() {
    lab::run("migrating-kube-proxy", |lab| {
        let (_api, kubeconfig) = cluster(lab.scratch());
        let scene = Scene::new(lab).variable("KUBECONFIG", kubeconfig);
        let shown = scene.play("docs/migrating.md", "kube-proxy");
        assert!(shown.contains("kube-system/kube-dns"), "{shown}");
    });
}

#[test]
fn operations_service() {
    lab::run("operations-service", |lab| {
        let shown = Scene::new(lab).play("docs/operations.md", "service");
        assert!(shown.contains("answered by 10.0.0."), "{shown}");
        assert!(shown.contains("detached"), "{shown}");
    });
}

#[test]
fn operations_drain() {
    lab::run("operations-drain", |lab| {
        let scene = Scene::new(lab);
        fs::write(scene.home().join("services.yaml"), WEB).expect("the directory is writable");
        let script = page("docs/operations.md").script("drain");
        let finished = scene.run(&format!("{SERVING}{script}"));
        assert_eq!(finished.code, Some(0), "{finished:?}");
    });
}

#[test]
fn troubleshooting_look() {
    lab::run("troubleshooting-look", |lab| {
        let scene = Scene::new(lab);
        fs::write(scene.home().join("services.yaml"), WEB).expect("the directory is writable");
        let script = page("docs/troubleshooting.md").script("look");
        let finished = scene.run(&format!("{SERVING}{script}"));
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(finished.stdout.contains("10.0.0.5:8080"), "{finished:?}");
    });
}

// === what is only shown ===

/// Programs in sessions that are not ours; what is said of `make` is looked at in [`targets`].
const OTHERS: [&str; 4] = ["cat", "etcdctl", "kubectl", "make"];

#[test]
fn sessions_name_commands_that_exist() {
    let scratch = TempDir::with_prefix("lb-").expect("a directory can be made");
    let mut seen = 0;
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.language == "console") {
            let typed = block
                .text
                .lines()
                .filter_map(|line| line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")));
            for typed in typed {
                let command = typed.split(" | ").find(|command| command.starts_with("lb"));
                let Some(command) = command else {
                    let program = typed.split(' ').next().unwrap_or_default();
                    let place = format!("{}:{}", page.name, block.line);
                    assert!(OTHERS.contains(&program), "{place}: nobody looks after `{typed}`");
                    continue;
                };
                // What follows `--` is another program's.
                let mut words = command.split(" -- ").next().unwrap_or_default().split_whitespace();
                let program = words.next().unwrap_or_default();
                let mut command = Command::new(binary(program));
                // Nothing is done, but verbs and options must be known.
                command.args(words).arg("--help");
                let finished = run(&mut command, scratch.path());
                let place = format!("{}:{}", page.name, block.line);
                assert_eq!(finished.code, Some(0), "{place}: {typed}\n{finished:?}");
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "{seen} commands were found");
}

#[test]
fn configuration_that_is_shown_is_good() {
    let scratch = TempDir::with_prefix("lb-").expect("a directory can be made");
    let file = scratch.path().join("shown.yaml");
    // A source that a page names.
    fs::write(scratch.path().join("team-b.yaml"), "services: []\n").expect("it is writable");
    let mut seen = 0;
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.language == "yaml") {
            let has = |key: &str| block.text.lines().any(|line| line.starts_with(key));
            let rest = if has("sources:") || has("services:") { "" } else { "services: []\n" };
            fs::write(&file, format!("{}{rest}", block.text)).expect("the directory is writable");
            let finished = run(
                Command::new(binary("lb-agent")).args(["check", "-c"]).arg(&file),
                scratch.path(),
            );
            assert_eq!(finished.code, Some(0), "{}:{}: {finished:?}", page.name, block.line);
            seen += 1;
        }
    }
    assert!(seen > 8, "{seen} blocks were found");
}

#[test]
fn what_the_examples_put_is_served() {
    lab::run("examples-put", |lab| {
        let examples = Path::new(ROOT).join("examples/etcd/native");
        let scene = Scene::new(lab).with_etcd();
        let agent = fs::read_to_string(examples.join("agent.yaml")).expect("the example is there");
        let agent = agent.replace("127.0.0.1", "10.0.0.1");
        fs::write(scene.home().join("agent.yaml"), agent).expect("the directory is writable");
        let put = examples.join("put.sh");
        let put = put.display();
        let finished = scene.run(&format!(
            "sh {put}\nlb-agent run -c agent.yaml &\n\
             timeout 60 lbctl status -w -o name | grep -qx serving\nlbctl backends -o name\nsh {put} delete"
        ));
        let Finished { code, stdout, stderr } = finished;
        assert_eq!(code, Some(0), "{stdout}\n{stderr}");
        assert!(stdout.lines().any(|line| line.starts_with("web/")), "{stdout}");
        assert!(stdout.lines().any(|line| line == "delete /lb/services/web"), "{stdout}");
    });
}

#[test]
fn links_lead_somewhere() {
    let all = pages();
    for from in &all {
        for (line, link) in from.links() {
            let place = format!("{}:{line}: {link}", from.name);
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let directory = Path::new(&from.name).parent().unwrap_or(Path::new(""));
            let target =
                if path.is_empty() { Path::new(&from.name).into() } else { directory.join(path) };
            let target = Path::new(ROOT).join(target);
            let real = target.canonicalize().unwrap_or_else(|error| panic!("{place}: {error}"));
            if anchor.is_empty() {
                continue;
            }
            let to = all.iter().find(|page| {
                Path::new(ROOT).join(&page.name).canonicalize().is_ok_and(|path| path == real)
            });
            let to = to.unwrap_or_else(|| panic!("{place}: not a page"));
            assert!(to.anchors().contains(anchor), "{place}: no such heading in {}", to.name);
        }
    }
}
