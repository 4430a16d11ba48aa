use super::*;
use crate::model::ServiceName;
use std::fs;
use tempfile::TempDir;

/// Hints only.
const WATCHED: Timing = Timing { poll: Duration::from_secs(3600), ..TIMING };

/// Polling only, quickly.
const POLLED: Timing = Timing {
    gather: Duration::ZERO,
    poll: Duration::from_millis(5),
    rest: Duration::from_millis(10),
};

struct Fixture {
    directory: TempDir,
    feed: Feed,
}

fn one(name: &str, octet: u8) -> String {
    format!("services:\n  - {{name: {name}, frontends: [\"10.96.0.{octet}:80\"]}}\n")
}

fn names(state: &SourceState) -> Vec<&str> {
    state.snapshot.iter().flat_map(|s| s.services.keys()).map(ServiceName::as_str).collect()
}

impl Fixture {
    /// A source of `services.yaml`, which has `text` if any.
    fn new(text: Option<&str>, main: bool, timing: Timing) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.yaml");
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        let watch = if timing.poll < TIMING.poll { Watch::none() } else { Watch::new(&path) };
        let feed = start(path, Claims::default(), main, None, watch, timing);
        Self { directory, feed }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("services.yaml")
    }

    fn now(&self) -> SourceState {
        self.feed.borrow().clone()
    }

    /// Waits for a state that fits.
    async fn until(&mut self, fits: impl FnMut(&SourceState) -> bool) -> SourceState {
        let deadline = Duration::from_secs(20);
        if let Ok(found) = tokio::time::timeout(deadline, self.feed.wait_for(fits)).await {
            return found.unwrap().clone();
        }
        panic!("still {:?}", self.now())
    }
}

#[tokio::test]
async fn the_first_state_already_has_the_file() {
    let fixture = Fixture::new(Some(&one("a", 1)), false, WATCHED);
    let state = fixture.now();
    assert_eq!(&*state.name, format!("file:{}", fixture.path().display()));
    assert_eq!(names(&state), ["a"]);
    assert!(state.synced && state.error.is_none() && state.delivered.is_some());
    assert_eq!(state.revision, 1);
}

#[tokio::test]
async fn what_is_missing_or_broken_is_said_in_the_first_state() {
    for (text, part) in [
        (None, "services.yaml: no such file; create it"),
        (Some("services: ["), "services.yaml:2:1: not valid YAML"),
        (Some(""), "services.yaml: there is no `services:`"),
    ] {
        let state = Fixture::new(text, false, WATCHED).now();
        assert!(state.snapshot.is_none() && !state.synced && state.revision == 0);
        assert!(state.error.as_ref().unwrap().contains(part), "{:?}", state.error);
    }
}

#[tokio::test]
async fn the_cache_serves_as_far_as_the_ranges_still_allow() {
    let directory = tempfile::tempdir().unwrap();
    let text = "services:
  - {name: a, frontends: ['10.96.0.1:80']}
  - {name: b, frontends: ['10.97.0.1:80']}";
    let cached = spec::translate("x", text, &Claims::default(), false).unwrap().snapshot;
    let claims =
        Claims { ranges: Some(vec!["10.96.0.0/16".parse().unwrap()]), ..Claims::default() };
    let feed = spawn(directory.path().join("absent"), claims, false, Some(Arc::new(cached)));
    let state = feed.borrow().clone();
    assert_eq!(names(&state), ["a"]);
    assert!(!state.synced && state.error.is_some());
}

#[tokio::test]
async fn every_way_to_change_a_file_is_seen_at_once() {
    let mut fixture = Fixture::new(Some(&one("a", 1)), false, WATCHED);
    let beside = fixture.directory.path().join("beside");

    fs::write(fixture.path(), one("written", 2)).unwrap();
    let state = fixture.until(|s| names(s) == ["written"]).await;
    assert!(state.revision >= 2);

    fs::write(&beside, one("renamed", 3)).unwrap();
    fs::rename(&beside, fixture.path()).unwrap();
    fixture.until(|s| names(s) == ["renamed"]).await;

    fs::remove_file(fixture.path()).unwrap();
    let state = fixture.until(|s| s.error.is_some()).await;
    assert_eq!(names(&state), ["renamed"], "the last good snapshot stays");

    fs::write(fixture.path(), one("renamed", 3)).unwrap();
    let state = fixture.until(|s| s.error.is_none()).await;
    assert_eq!(names(&state), ["renamed"]);
}

#[tokio::test]
async fn a_symlink_swap_as_in_a_config_map_is_seen() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (version, name) in [("..1", "first"), ("..2", "second")] {
        fs::create_dir(root.join(version)).unwrap();
        fs::write(root.join(version).join("s.yaml"), one(name, 1)).unwrap();
    }
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/s.yaml", root.join("s.yaml")).unwrap();
    let path = root.join("s.yaml");
    let watch = Watch::new(&path);
    let feed = start(path, Claims::default(), false, None, watch, WATCHED);
    let mut fixture = Fixture { directory, feed };
    assert_eq!(names(&fixture.now()), ["first"]);
    let root = fixture.directory.path();
    symlink("..2", root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    fixture.until(|s| names(s) == ["second"]).await;
}

#[tokio::test]
async fn polling_sees_what_the_watch_misses() {
    let mut fixture = Fixture::new(Some(&one("a", 1)), false, POLLED);
    fs::write(fixture.path(), one("b", 1)).unwrap();
    fixture.until(|s| names(s) == ["b"]).await;
    // The same length, soon after: only the text differs.
    fs::write(fixture.path(), one("c", 1)).unwrap();
    fixture.until(|s| names(s) == ["c"]).await;
}

#[tokio::test]
async fn a_broken_change_keeps_the_last_good_snapshot() {
    let mut fixture = Fixture::new(Some(&one("a", 1)), false, WATCHED);
    let good = fixture.now().snapshot.unwrap();
    fs::write(fixture.path(), "services:\n  - name: b\n    x: y: z").unwrap();
    let state = fixture.until(|s| s.error.is_some()).await;
    assert!(Arc::ptr_eq(state.snapshot.as_ref().unwrap(), &good));
    assert!(state.synced && state.revision == 1);
    assert!(state.error.unwrap().contains("services.yaml:3:"));
    fs::write(fixture.path(), "services:\n  - {name: a, frontends: ['10.96.0.1:0']}\n").unwrap();
    let state = fixture.until(|s| s.error.is_none()).await;
    assert_eq!(names(&state), ["a"], "a refused service keeps its last good version");
    assert_eq!((state.revision, state.rejections.len(), state.refused), (2, 1, 1));
    fs::write(fixture.path(), one("a", 2)).unwrap();
    let state = fixture.until(|s| s.rejections.is_empty()).await;
    assert_eq!(state.refused, 1, "what was refused once has been");
}

#[tokio::test]
async fn changed_settings_are_reported_and_services_still_delivered() {
    let first = format!("pin_dir: /a\n{}", one("a", 1));
    let mut fixture = Fixture::new(Some(&first), true, WATCHED);
    assert!(fixture.now().rejections.is_empty());
    fs::write(fixture.path(), format!("pin_dir: /b\n{}", one("b", 1))).unwrap();
    let state = fixture.until(|s| names(s) == ["b"]).await;
    let [rejection] = &state.rejections[..] else { panic!("{:?}", state.rejections) };
    assert_eq!(rejection.origin, fixture.path().display().to_string());
    assert_eq!(rejection.reason, "the setting `pin_dir` changed; restart the agent to apply it");
    fs::write(fixture.path(), format!("pin_dir: [\n{}", one("c", 1))).unwrap();
    fixture.until(|s| s.error.is_some()).await;
    fs::write(fixture.path(), format!("pin_dir: []\n{}", one("d", 1))).unwrap();
    let state = fixture.until(|s| names(s) == ["d"]).await;
    assert!(state.rejections[0].reason.contains("expected a path for `pin_dir`"));
    fs::write(fixture.path(), format!("pin_dir: /a\n{}", one("e", 1))).unwrap();
    let state = fixture.until(|s| names(s) == ["e"]).await;
    assert!(state.rejections.is_empty(), "back to what the agent was started with");
}

#[tokio::test]
async fn a_text_that_means_the_same_keeps_the_snapshot_itself() {
    let mut fixture = Fixture::new(Some(&one("a", 1)), false, WATCHED);
    let before = fixture.now().snapshot.unwrap();
    fs::write(fixture.path(), format!("# a comment\n{}", one("a", 1))).unwrap();
    let state = fixture.until(|s| s.revision == 2).await;
    assert!(Arc::ptr_eq(&before, state.snapshot.as_ref().unwrap()));
}

#[test]
fn checking_reads_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.yaml");
    let error = read(&path, &Claims::default(), false).unwrap_err();
    assert_eq!(error.origin, path.display().to_string());
    assert_eq!(error.reason, "no such file; create it or correct its path");
    fs::write(&path, one("a", 1)).unwrap();
    assert_eq!(read(&path, &Claims::default(), false).unwrap().snapshot.services.len(), 1);
}
