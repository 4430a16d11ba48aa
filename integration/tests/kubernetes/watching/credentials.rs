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

#[test]
fn a_client_certificate_is_shown() {
    let scratch = TempDir::with_prefix("lb-").unwrap();
    let authority = Pki::create(scratch.path(), "authority");
    let api = ApiServer::start_mutual_tls(&authority);
    fill(&api);
    let Pair { cert, key } = authority.client();
    // Relative to where the kubeconfig lies.
    let beside = |path: &Path| path.strip_prefix(scratch.path()).unwrap().to_owned();
    let user = json!({"client-certificate": beside(&cert), "client-key": beside(&key)});
    let path = scratch.path().join("kubeconfig");
    api.kubeconfig_of(&path, json!({}));
    let config = KubernetesSource { kubeconfig: Some(path.clone()), ..KubernetesSource::default() };
    let scene = Scene::start(config, fast());
    scene.expect_error("renew the certificate in the kubeconfig");
    api.kubeconfig_of(&path, user);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    scene.expect_no_error();
}

#[test]
fn a_plugin_gives_the_token_and_is_asked_again() {
    let scratch = TempDir::with_prefix("lb-").unwrap();
    let (mut api, config, file) = secured(&scratch, "first-secret");
    let credential =
        |token: &str| json!({"kind": "ExecCredential", "status": {"token": token}}).to_string();
    std::fs::write(&file, credential("first-secret")).unwrap();
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "cat",
        "args": [file], "interactiveMode": "Never"});
    let path = config.kubeconfig.clone().unwrap();
    api.kubeconfig_of(&path, json!({ "exec": exec }));
    api.require_token(Some("first-secret"));
    let scene = Scene::start(config, fast());
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    // What has no time to expire is asked for again when the server does not take it.
    std::fs::write(&file, credential("second-secret")).unwrap();
    api.require_token(Some("second-secret"));
    put_slice(&api, "web", &["10.1.0.2"]);
    api.restart();
    scene.expect(&["default/web:http 10.1.0.2:8080"]);
    // A token that the server takes is used on, so that the plugin is only asked when it is refused.
    std::fs::write(&file, "third-secret").unwrap();
    api.require_token(Some("third-secret"));
    api.restart();
    let error = scene.expect_error("the credential plugin `cat` wrote no ExecCredential");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn who_the_server_must_be_is_for_the_kubeconfig_to_say() {
    let scratch = TempDir::with_prefix("lb-").unwrap();
    let (api, config, _) = secured(&scratch, "x");
    let path = config.kubeconfig.clone().unwrap();
    let good = std::fs::read_to_string(&path).unwrap();
    let authority =
        format!("\"certificate-authority\":{:?},", scratch.path().join("authority/ca.pem"));
    assert!(good.contains(&authority), "{good}");
    let with = |line: &str| {
        std::fs::write(&path, good.replace(&authority, &format!("{authority}{line}"))).unwrap();
    };
    with("\"tls-server-name\":\"elsewhere.example.org\",");
    let scene = Scene::start(config, fast());
    scene.expect_error("is not for this address");
    with("\"tls-server-name\":\"localhost\",");
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    // Nobody known has signed it, and nobody asks.
    let careless = good.replace(&authority, "\"insecure-skip-tls-verify\":true,");
    std::fs::write(&path, careless).unwrap();
    let careless = KubernetesSource { kubeconfig: Some(path), ..KubernetesSource::default() };
    Scene::start(careless, fast()).expect(&["default/web:http 10.1.0.1:8080"]);
    drop(api);
}
