use super::*;
use crate::names::records::tests::records;
use std::os::unix::fs::{lchown, symlink};

const ETC: &str = "127.0.0.1 localhost\n";

fn facts(services: &[(&str, &[&str])]) -> Facts {
    Facts { serial: 1, complete: true, records: records(services) }
}

fn hosts(path: &Path) -> Hosts {
    Hosts { path: path.to_owned(), left: None, in_place: false }
}

fn names_in(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| line.ends_with(".lb.internal"));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_block_comes_changes_and_goes_with_mode_and_owner_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hosts");
    fs::write(&path, ETC).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    // Only root may give files away.
    let owner =
        if nix::unistd::geteuid().is_root() { 4711 } else { fs::metadata(&path).unwrap().uid() };
    lchown(&path, Some(owner), None).unwrap();
    let mut hosts = hosts(&path);
    let web = facts(&[("web", &["10.0.0.1:80"])]);
    assert_eq!(hosts.sync(Some(&web)), Ok(true));
    assert_eq!(names_in(&path), ["10.0.0.1 web.lb.internal"]);
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.mode() & 0o7777, after.uid()), (0o640, owner));
    // What is as it should be is not written again.
    assert_eq!(hosts.sync(Some(&web)), Ok(false));
    assert_eq!(hosts.sync(Some(&web)), Ok(false));
    assert_eq!(fs::metadata(&path).unwrap().ino(), after.ino());
    let other = facts(&[("web", &["10.0.0.2:80"])]);
    hosts.left = None;
    assert_eq!(hosts.sync(Some(&other)), Ok(true));
    assert_eq!(names_in(&path), ["10.0.0.2 web.lb.internal"]);
    assert_eq!(remove(&path), Ok(true));
    assert_eq!(fs::read_to_string(&path).unwrap(), ETC);
    assert_eq!(remove(&path), Ok(false));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no draft is left");
}

#[test]
fn what_others_do_is_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hosts");
    let mut hosts = hosts(&path);
    let web = facts(&[("web", &["10.0.0.1:80"])]);
    // It is created if absent, readable for all.
    assert_eq!(hosts.sync(Some(&web)), Ok(true));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
    for edited in [ETC, "", "# BEGIN lb-agent\n6.6.6.6 web.lb.internal\n# END lb-agent\n1.1.1.1 x"]
    {
        fs::write(&path, edited).unwrap();
        assert_eq!(hosts.sync(Some(&web)), Ok(true), "{edited}");
        assert_eq!(names_in(&path), ["10.0.0.1 web.lb.internal"]);
        assert_eq!(hosts.sync(Some(&web)), Ok(false));
    }
    assert!(fs::read_to_string(&path).unwrap().ends_with("1.1.1.1 x"));
    // Damage is for a person to repair; nothing is guessed.
    fs::write(&path, "# BEGIN lb-agent\n").unwrap();
    let error = hosts.sync(Some(&web)).unwrap_err();
    assert!(error.contains("hosts: the block that begins on line 1 does not end"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "# BEGIN lb-agent\n");
    assert!(remove(&path).is_err());
}

#[test]
fn links_stay_links_and_a_killed_agents_draft_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let [real, link] = ["real", "link"].map(|name| directory.path().join(name));
    symlink("real", &link).unwrap();
    let web = facts(&[("web", &["10.0.0.1:80"])]);
    let error = hosts(&link).sync(Some(&web)).unwrap_err();
    assert!(error.contains("the link leads nowhere"), "{error}");
    fs::write(&real, ETC).unwrap();
    fs::write(directory.path().join(".real.lb-agent"), "half").unwrap();
    assert_eq!(hosts(&link).sync(Some(&web)), Ok(true));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(names_in(&real), ["10.0.0.1 web.lb.internal"]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn a_file_that_changed_meanwhile_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hosts");
    fs::write(&path, ETC).unwrap();
    let before = fs::metadata(&path).unwrap();
    fs::write(&path, "somebody else's\n").unwrap();
    assert_eq!(write(&path, Some(&before), b"ours").unwrap(), Wrote::Overtaken);
    assert_eq!(write(&path, None, b"ours").unwrap(), Wrote::Overtaken);
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody else's\n");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn errors_say_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let web = facts(&[("web", &["10.0.0.1:80"])]);
    for (path, part) in [
        (directory.path().join("absent/hosts"), "create its directory"),
        (directory.path().to_owned(), "this is no file"),
    ] {
        let error = hosts(&path).sync(Some(&web)).unwrap_err();
        assert!(error.contains(part) && error.contains("names.hosts"), "{error}");
    }
    assert_eq!(remove(&directory.path().join("absent/hosts")), Ok(false));
}

/// Shorter than before: nothing of the old text stays behind.
#[test]
fn in_place_cuts_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hosts");
    fs::write(&path, ETC).unwrap();
    assert_eq!(write_in_place(&path, b"short").unwrap(), Wrote::InPlace);
    assert_eq!(fs::read_to_string(&path).unwrap(), "short");
}
