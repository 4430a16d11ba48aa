//! Settings: the main file, kube-proxy's file and arguments, a kubeconfig and what its plugin writes.

use super::check_shown;
use crate::config;
use crate::kubeproxy::{config as file, decision, flags};
use crate::model::Rejection;
use crate::source::kubernetes::client;
use std::path::Path;

/// A main file.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match config::parse(Path::new("/etc/f.yaml"), &text) {
        Ok(config) => {
            assert!(config.changed_settings(&config).is_empty());
            assert!(config.tables.connections.is_power_of_two());
            let paths = [&config.pin_dir, &config.state_dir, &config.socket];
            assert!(paths.iter().all(|path| path.is_absolute()), "{paths:?}");
        }
        Err(rejections) => {
            assert!(!rejections.is_empty(), "refused without a word");
            for Rejection { origin, service, reason } in &rejections {
                check_shown([origin, reason].into_iter().chain(service));
                assert!(origin.starts_with("/etc/f.yaml"), "{origin}: {reason}");
            }
        }
    }
}

/// A file of `--config`; its lines are also the arguments.
pub fn kube_proxy(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let arguments: Vec<&str> = text.lines().collect();
    let given = flags::parse(&arguments);
    if let Err(problems) = &given {
        check_problems(problems);
    }
    let parsed = file::parse("f", &text);
    match &parsed {
        Ok(parsed) => {
            check_shown(&parsed.warnings);
            let document = file::document(&parsed.given);
            let again = file::parse("f", &document.to_string());
            let again = again.unwrap_or_else(|problems| panic!("{problems:?} in {document}"));
            assert_eq!(file::document(&again.given), document, "the document reads otherwise");
        }
        Err(problems) => check_problems(problems),
    }
    match decision::decide(&given.unwrap_or_default(), parsed.as_ref().ok()) {
        Ok(decided) => check_shown(&decided.warnings),
        Err(problems) => check_problems(&problems),
    }
}

/// A kubeconfig.
pub fn kubeconfig(data: &[u8]) {
    if let Err(problem) = client::try_kubeconfig(&String::from_utf8_lossy(data)) {
        assert!(!problem.is_empty(), "refused without a word");
    }
}

/// What a credential plugin has written. It is secret, so no long word of it is repeated, nor a line as
/// numbers.
pub fn credential(data: &[u8]) {
    /// More than any word of our own has.
    const WORD: usize = 24;
    /// As much as any of the problems.
    const PROBLEM: usize = 200;
    if let Err(problem) = client::try_credential(data) {
        check_problems(std::slice::from_ref(&problem));
        assert!(problem.len() <= PROBLEM, "{problem}");
        let text = String::from_utf8_lossy(data);
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let repeated = words.find(|word| word.len() >= WORD && problem.contains(word));
        assert_eq!(repeated, None, "{problem}");
    }
}

fn check_problems(problems: &[String]) {
    assert!(!problems.is_empty(), "refused without a word");
    check_shown(problems);
}
