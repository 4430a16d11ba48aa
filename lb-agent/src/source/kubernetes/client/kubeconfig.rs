//! Kubeconfigs, read by our own reader of YAML into the library's types. Nothing of a file is quoted:
//! there are credentials in it.

use crate::yaml::{Document, Item};
use kube::config::Kubeconfig;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What is true or false; all other values are text, quoted or not.
const SWITCHES: [&str; 4] =
    ["colors", "disable-compression", "insecure-skip-tls-verify", "provideClusterInfo"];
/// What is below belongs to others, and is left as it is.
const FOREIGN: &str = "extension";

/// Reads a file. Paths in it are relative to where it lies.
pub(super) fn read(file: &Path) -> Result<Kubeconfig, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let mut kubeconfig = parse(&text)?;
    if let Some(directory) = file.parent() {
        resolve(&mut kubeconfig, directory);
    }
    Ok(kubeconfig)
}

/// The text of a file. The error names the line.
pub(super) fn parse(text: &str) -> Result<Kubeconfig, String> {
    let document = Document::parse("line ", text).map_err(|rejection| {
        let place = rejection.origin.strip_prefix("line :").unwrap_or_default();
        let line = place.split(':').next().and_then(|line| line.parse().ok()).unwrap_or_default();
        refused(line)
    })?;
    let whole = document.item();
    serde_json::from_value(value("", &whole)).map_err(|_| refused(line_of_the_problem(&whole)))
}

fn refused(line: usize) -> String {
    let line = if line == 0 { String::new() } else { format!("line {line}: ") };
    format!("{line}not a kubeconfig, or not in plain YAML (one document without anchors and tags)")
}

/// Of what has the wrong type: each part is tried by itself.
fn line_of_the_problem(whole: &Item<'_>) -> usize {
    for (key, part) in whole.entries() {
        let is_good =
            |part: Value| serde_json::from_value::<Kubeconfig>(json!({ key: part })).is_ok();
        if is_good(value(key, &part)) {
            continue;
        }
        let mut items = part.items().into_iter().flatten();
        let bad = items.find(|item| !is_good(json!([value("", item)])));
        return bad.unwrap_or(part).place.line;
    }
    0
}

fn value(key: &str, item: &Item<'_>) -> Value {
    if key == FOREIGN {
        return item.json();
    }
    if item.is_mapping() {
        let entries = item.entries().map(|(key, item)| (key.to_owned(), value(key, &item)));
        return Value::Object(entries.collect::<Map<_, _>>());
    }
    if let Some(items) = item.items() {
        return Value::Array(items.map(|item| value("", &item)).collect());
    }
    match item.json() {
        Value::Null => Value::Null,
        Value::Bool(on) if SWITCHES.contains(&key) => Value::Bool(on),
        _ => Value::from(item.text().unwrap_or_default()),
    }
}

fn resolve(kubeconfig: &mut Kubeconfig, directory: &Path) {
    // An absolute path stays as it is.
    let absolute = |path: &mut Option<String>| {
        if let Some(path) = path.as_mut().filter(|path| !path.is_empty())
            && let Some(joined) = directory.join(&*path).to_str()
        {
            *path = joined.to_owned();
        }
    };
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        absolute(&mut cluster.certificate_authority);
    }
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        absolute(&mut user.client_certificate);
        absolute(&mut user.client_key);
        absolute(&mut user.token_file);
        // A bare name is looked for in PATH.
        if let Some(exec) = &mut user.exec
            && exec.command.as_ref().is_some_and(|command| command.contains('/'))
        {
            absolute(&mut exec.command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_text_but_for_switches() {
        let kubeconfig = parse(
            "apiVersion: v1\nkind: Config\ncurrent-context: 7\npreferences: {}\n\
             clusters:\n- name: 7\n  cluster:\n    server: https://192.0.2.1\n    \
             insecure-skip-tls-verify: true\n    extensions:\n    - name: e\n      \
             extension: {n: 7, on: true}\n\
             users:\n- name: u\n  user:\n    token: 0123\n    exec:\n      command: login\n      \
             args: [true, 7]\n      provideClusterInfo: true\n      env:\n      \
             - {name: A, value: true}\n",
        )
        .unwrap();
        assert_eq!(kubeconfig.current_context.as_deref(), Some("7"));
        let cluster = kubeconfig.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.insecure_skip_tls_verify, Some(true));
        let extension = &cluster.extensions.as_ref().unwrap()[0].extension;
        assert_eq!(*extension, json!({"n": 7, "on": true}));
        let user = kubeconfig.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(serde_json::to_value(user).unwrap()["token"], "0123");
        let exec = user.exec.as_ref().unwrap();
        assert_eq!(exec.args.as_deref(), Some(["true".to_owned(), "7".to_owned()].as_slice()));
        assert_eq!(exec.env.as_ref().unwrap()[0]["value"], "true");
        assert!(exec.provide_cluster_info);
    }

    #[test]
    fn nothing_is_a_kubeconfig_without_anything() {
        for text in ["", "users: null\nclusters:\ncontexts: []\n", "---\n{}\n"] {
            assert!(parse(text).unwrap().auth_infos.is_empty(), "{text}");
        }
    }

    #[test]
    fn the_line_is_named_and_not_quoted() {
        for (text, line) in [
            ("users:\n- {name: a}\n- name: u\n  user: {token: [s3cret]}\n", "line 3: "),
            ("users:\n- name: a\n- s3cret\n", "line 3: "),
            ("current-context: c\nusers: s3cret\n", "line 2: "),
            ("a: 1\nusers: &s3cret []\n", "line 2: "),
            ("a: [s3cret\n---\nb: 1\n", "line 2: "),
            ("s3cret: 1\ns3cret: 2\n", "line 2: "),
            ("s3cret", "line 1: "),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.starts_with(line) && !problem.contains("s3cret"), "{text}: {problem}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kubeconfig");
        let text = "clusters: [{name: c, cluster: {certificate-authority: ca.pem}}]\n\
                    users: [{name: u, user: {tokenFile: /run/token, client-key: k/key.pem, \
                    exec: {command: ./login}}}, {name: v, user: {exec: {command: login}}}]\n";
        std::fs::write(&file, text).unwrap();
        let Kubeconfig { clusters, auth_infos, .. } = read(&file).unwrap();
        let inside = |name: &str| Some(directory.path().join(name).to_str().unwrap().to_owned());
        let authority = &clusters[0].cluster.as_ref().unwrap().certificate_authority;
        assert_eq!(*authority, inside("ca.pem"));
        let user = auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(user.token_file.as_deref(), Some("/run/token"));
        assert_eq!(user.client_key, inside("k/key.pem"));
        assert_eq!(user.client_certificate, None);
        assert_eq!(user.exec.as_ref().unwrap().command, inside("./login"));
        let other = auth_infos[1].auth_info.as_ref().unwrap();
        assert_eq!(other.exec.as_ref().unwrap().command.as_deref(), Some("login"));
    }
}
