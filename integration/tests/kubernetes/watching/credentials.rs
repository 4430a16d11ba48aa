//! Tokens, certificates and kubeconfigs: how the source gets in, and what it says when it does not.

use super::*;

/// A server that asks for a token, and the source's settings with a file that holds one.
fn secured(scratch: &TempDir, token: &str) -> (ApiServer, KubernetesSource, PathBuf) {
    let authority = Pki::create(scratch.path(), "authority");
    let api = ApiServer::start_tls(&authority);
    fill(&api);
    let (kubeconfig, file) = (scratch.path().join("kubeconfig"), scratch.path().join("token"));
    // Files end in a newline.
    std::fs::write(&file, format!("{token}\n")).expect("the scratch directory is writable");
    api.kubeconfig(&kubeconfig, Some(&file));
    let config = KubernetesSource { kubeconfig: Some(kubeconfig), ..KubernetesSource::default() };
    (api, config, file)
}

#[test]
fn a_token_is_read_again() {
    let scratch = TempDir::with_prefix("lb-").unwrap();
    let (mut api, config, file) = secured(&scratch, "first-secret");
    api.require_token(Some("first-secret"));
    let scene = Scene::start(config, fast());
    scene.expect(&["default/web:http 10.1.0.1:8080"]);

    // Replaced in time: nobody notices.
    std::fs::write(&file, "second-secret").unwrap();
    api.require_token(Some("second-secret"));
    put_slice(&api, "web", &["10.1.0.2"]);
    api.restart();
    put_slice(&api, "web", &["10.1.0.3"]);
    scene.expect(&["default/web:http 10.1.0.3:8080"]);

    // Expired: what was known serves, and a line says what to do.
    api.require_token(Some("third-secret"));
    api.restart();
    put_slice(&api, "web", &["10.1.0.4"]);
    let error = scene.expect_error("does not know us (401)");
    assert!(error.contains(&format!("the token in {} has expired", file.display())), "{error}");
    assert!(!error.contains("secret"), "{error}");
    assert!(scene.state().synced);
    scene.expect(&["default/web:http 10.1.0.3:8080"]);
    std::fs::write(&file, "third-secret\n").unwrap();
    scene.expect(&["default/web:http 10.1.0.4:8080"]);
    scene.expect_no_error();
}

#[test]
fn a_server_that_others_certified_is_not_believed() {
    let scratch = TempDir::with_prefix("lb-").unwrap();
    let (api, config, _) = secured(&scratch, "x");
    let other = Pki::create(scratch.path(), "other");
    let path = config.kubeconfig.clone().unwrap();
    let good = std::fs::read_to_string(&path).unwrap();
    let authority = scratch.path().join("authority/ca.pem");
    std::fs::write(&path, good.replace(authority.to_str().unwrap(), other.ca().to_str().unwrap()))
        .unwrap();
    let scene = Scene::start(config, fast());
    let error = scene.expect_error("its certificate comes from an authority");
    assert!(error.contains(&format!("the kubeconfig {}", path.display())), "{error}");
    // A kubeconfig that is corrected is read again.
    std::fs::write(&path, good).unwrap();
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    drop(api);
}

#[test]
fn a_kubeconfig_that_is_missing_or_broken_is_named_and_awaited() {
    let scratch = TempDir::with_prefix("lb-").unwrap();
    let (api, config, _) = secured(&scratch, "x");
    let path = config.kubeconfig.clone().unwrap();
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let scene = Scene::start(config, fast());
    let error = scene.expect_error("can't be used");
    assert!(error.starts_with(&format!("the kubeconfig {}", path.display())), "{error}");
    std::fs::write(&path, "a: [").unwrap();
    let error = scene.expect_error("can't be used");
    assert!(!error.contains('\n'), "{error}");
    std::fs::write(&path, good).unwrap();
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    drop(api);
}
