//! Certificates and passwords, right and wrong, before and while the store is followed. What is
//! wrong is said with the file's name and never with what is in it.

use crate::mirror::{Mirror, one, password_file, settings, with_password};
use integration::etcd::Etcd;
use integration::etcd::pki::{Pair, Pki};
use integration::lab::{self, Lab};
use lb_agent::etcd::{Settings, Tls};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A copy of a certificate and its key under names of our own, to be replaced by others.
fn own_copy(lab: &Lab, pair: &Pair) -> Pair {
    let own = Pair { cert: lab.scratch().join("own.pem"), key: lab.scratch().join("own.key") };
    own.replace_with(pair);
    own
}

fn own_ca(lab: &Lab, ca: &Path) -> PathBuf {
    let own = lab.scratch().join("own-ca.pem");
    fs::copy(ca, &own).expect("the scratch directory is writable");
    own
}

fn secured(etcd: &Etcd, ca: &Path, client: Option<&Pair>) -> Settings {
    let mut settings = one(etcd);
    settings.tls = Tls {
        ca: Some(ca.to_owned()),
        cert: client.map(|client| client.cert.clone()),
        key: client.map(|client| client.key.clone()),
        server_name: None,
    };
    settings
}

#[test]
fn our_authority_is_another_one() {
    lab::run("etcd-ca", |lab| {
        let (pki, other) =
            (Pki::create(lab.scratch(), "ours"), Pki::create(lab.scratch(), "other"));
        let etcd = Etcd::with_tls(lab.scratch(), &pki.server(), None);
        etcd.put("/lb/a", "1");
        let ca = own_ca(lab, &other.ca());
        let mut mirror = Mirror::follow(secured(&etcd, &ca, None));
        mirror.until_down("own-ca.pem (tls.ca): add that authority");
        fs::write(&ca, "nothing").unwrap();
        mirror.until_down("no PEM block of kind CERTIFICATE");
        fs::remove_file(&ca).unwrap();
        mirror.until_down("own-ca.pem) can't be read");
        fs::copy(pki.ca(), &ca).unwrap();
        mirror.until_same(&etcd);
        assert_eq!(mirror.told()[3..], ["up", "listed"]);
    });
}

#[test]
fn the_servers_certificate() {
    lab::run("etcd-server-cert", |lab| {
        let pki = Pki::create(lab.scratch(), "ours");
        let mut etcd = Etcd::with_tls(lab.scratch(), &pki.expired_server(), None);
        etcd.put("/lb/a", "1");
        let mut mirror = Mirror::follow(secured(&etcd, &pki.ca(), None));
        mirror.until_down("its certificate has expired");
        mirror.listen(Duration::from_secs(2));
        assert_eq!(mirror.told().len(), 1, "it is said once");
        etcd.set_tls(&pki.server_named("elsewhere.example"), None);
        etcd.restart();
        mirror.until_down("is not for `127.0.0.1`: set tls.server_name");
        let mut named = secured(&etcd, &pki.ca(), None);
        named.tls.server_name = Some("elsewhere.example".to_owned());
        Mirror::follow(named).until_same(&etcd);
        etcd.set_tls(&pki.server(), None);
        etcd.restart();
        mirror.until_same(&etcd);
        assert_eq!(mirror.told()[1..].last().unwrap(), "listed");
    });
}

#[test]
fn our_certificate() {
    lab::run("etcd-client-cert", |lab| {
        let (pki, other) =
            (Pki::create(lab.scratch(), "ours"), Pki::create(lab.scratch(), "other"));
        let mut etcd = Etcd::with_tls(lab.scratch(), &pki.server(), Some(&pki.ca()));
        etcd.put("/lb/a", "1");
        Mirror::follow(secured(&etcd, &pki.ca(), None)).until_down("set tls.cert and tls.key");
        for bad in [pki.expired_client(), other.client()] {
            let own = own_copy(lab, &bad);
            let mut mirror = Mirror::follow(secured(&etcd, &pki.ca(), Some(&own)));
            let line = mirror.until_down("does not take the certificate in");
            assert!(line.contains("own.pem"), "{line}");
            own.replace_with(&pki.client());
            mirror.until_same(&etcd);
        }
        // The files change while the connection lives: it goes on; the next one uses them.
        let own = own_copy(lab, &pki.client());
        let mut mirror = Mirror::follow(secured(&etcd, &pki.ca(), Some(&own)));
        mirror.until_same(&etcd);
        own.replace_with(&other.client());
        etcd.put("/lb/a", "2");
        mirror.until_same(&etcd);
        assert_eq!(mirror.told(), ["listed"]);
        etcd.restart();
        mirror.until_down("does not take the certificate in");
        fs::write(&own.key, fs::read(pki.client().key).unwrap()).unwrap();
        mirror.until_down("the key belongs to the certificate");
        own.replace_with(&pki.client());
        etcd.put("/lb/a", "3");
        mirror.until_same(&etcd);
        assert_eq!(mirror.told().last().unwrap(), "up");
    });
}

#[test]
fn one_side_without_tls() {
    lab::run("etcd-half-tls", |lab| {
        let pki = Pki::create(lab.scratch(), "ours");
        let plain = Etcd::start(lab.scratch());
        let mut tls = secured(&plain, &pki.ca(), None);
        tls.endpoints[0].tls = true;
        Mirror::follow(tls).until_down("write http:// if it does not speak TLS");
        let secured = Etcd::with_tls(lab.scratch(), &pki.server(), None);
        let plain = settings([secured.endpoint().replace("https", "http")]);
        Mirror::follow(plain).until_down("write https:// if it speaks TLS");
        let mut no_ca = one(&secured);
        no_ca.tls = Tls::default();
        Mirror::follow(no_ca).until_down("tls.ca is not set");
    });
}

#[test]
fn authentication_is_switched_on_and_off() {
    lab::run("etcd-auth-on", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put("/lb/a", "1");
        let mut nobody = Mirror::follow(one(&etcd));
        let settings = with_password(one(&etcd), lab.scratch(), "right-word\n");
        let mut known = Mirror::follow(settings);
        nobody.until_same(&etcd);
        known.until_same(&etcd);
        etcd.enable_auth("lb", "right-word");
        nobody.until_down("asks who we are");
        etcd.put("/lb/a", "2");
        known.until_same(&etcd);
        known.listen(Duration::from_secs(12));
        assert_eq!(known.told(), ["listed"], "who has a password sees nothing of it");
        etcd.disable_auth();
        etcd.put("/lb/a", "3");
        known.until_same(&etcd);
        nobody.until_same(&etcd);
        known.listen(Duration::from_secs(6));
        assert_eq!(known.told(), [""; 0]);
        let story = nobody.told();
        assert_eq!((story[0].as_str(), story.last().unwrap().as_str()), ("listed", "up"));
        assert!(!story.contains(&"gap".to_owned()), "{story:?}");
    });
}

#[test]
fn passwords_that_change() {
    lab::run("etcd-passwords", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put("/lb/a", "1");
        etcd.enable_auth("lb", "right-word");
        let settings = with_password(one(&etcd), lab.scratch(), "wrong-word\n");
        let file = password_file(&settings);
        let mut mirror = Mirror::follow(settings);
        let mut lines = vec![mirror.until_down("does not know user `lb` by that password")];
        assert!(lines[0].contains(&file.display().to_string()), "{lines:?}");
        fs::remove_file(&file).unwrap();
        lines.push(mirror.until_down("can't be read"));
        fs::write(&file, "right-word").unwrap();
        mirror.until_same(&etcd);
        etcd.set_password("lb", "other-word");
        lines.push(mirror.until_down("does not know user `lb`"));
        fs::write(&file, "other-word\n").unwrap();
        etcd.put("/lb/a", "2");
        mirror.until_same(&etcd);
        mirror.told();
        // Both are changed before anybody looks.
        fs::write(&file, "third-word\n").unwrap();
        etcd.set_password("lb", "third-word");
        mirror.listen(Duration::from_secs(6));
        etcd.put("/lb/a", "3");
        mirror.until_same(&etcd);
        assert_eq!(mirror.told(), [""; 0], "it logs in again by itself");
        etcd.forbid("lb");
        lines.push(mirror.until_down("user `lb` may not"));
        etcd.allow("lb");
        etcd.put("/lb/a", "4");
        mirror.until_same(&etcd);
        assert!(!lines.iter().any(|line| line.contains("-word")), "{lines:?}");
    });
}
