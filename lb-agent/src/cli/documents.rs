//! `lb-agent documents DIR`: manual pages and shell completions of both programs, and the JSON schemas of
//! the configuration, for packagers. They are made from the command lines' own definitions, and from
//! the list of keys that the parser works by.

use crate::{ctl, keys};
use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use std::fs;
use std::path::Path;

/// The shells that packages have completions for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes `man/PAGE.SECTION`, `completions/SHELL/FILE` and `schemas/FILE` below the directory.
pub(super) fn write(directory: &Path) -> anyhow::Result<()> {
    let programs = [("lb-agent", "8", super::Cli::command()), ("lbctl", "1", ctl::command())];
    let schemas = directory.join("schemas");
    make(&schemas)?;
    for (name, schema) in keys::schemas() {
        let file = schemas.join(name);
        fs::write(&file, format!("{schema:#}\n"))
            .with_context(|| format!("{}: name a directory to write to", file.display()))?;
    }
    let man = directory.join("man");
    make(&man)?;
    for (name, section, command) in programs {
        for shell in SHELLS {
            let place = directory.join("completions").join(shell.to_string());
            make(&place)?;
            generate_to(shell, &mut command.clone(), name, &place)
                .with_context(|| format!("{}: name a directory to write to", place.display()))?;
        }
        let mut command = command.disable_help_subcommand(true);
        command.build();
        pages(&command, section, &man)
            .with_context(|| format!("{}: name a directory to write to", man.display()))?;
    }
    Ok(())
}

fn make(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("{}: name a directory to write to", directory.display()))
}

/// A page for the command, and one for each of its subcommands.
fn pages(command: &Command, section: &str, directory: &Path) -> std::io::Result<()> {
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages(below, section, directory)?;
    }
    let source = format!("lb {}", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).section(section).source(source).manual("lb");
    page.generate_to(directory)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_completions() {
        let directory = tempfile::tempdir().unwrap();
        super::write(directory.path()).unwrap();
        let read = |path: &str| {
            let text = fs::read_to_string(directory.path().join(path));
            text.unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        for (path, word) in [
            ("man/lb-agent.8", "lb\\-agent\\-run(8)"),
            ("man/lb-agent-run.8", "\\-\\-packet\\-path"),
            ("man/lb-agent-detach.8", "\\-\\-pin\\-dir"),
            ("man/lbctl.1", "LB_SOCKET"),
            ("man/lbctl-service-apply.1", "\\-\\-dry\\-run"),
            ("schemas/configuration.schema.json", "\"detach_on_exit\""),
            ("schemas/etcd-native.schema.json", "\"registered_by\""),
            ("completions/bash/lb-agent.bash", "--detach-on-exit"),
            ("completions/bash/lbctl.bash", "deregister"),
            ("completions/zsh/_lb-agent", "--detach-on-exit"),
            ("completions/zsh/_lbctl", "deregister"),
            ("completions/fish/lb-agent.fish", "detach-on-exit"),
            ("completions/fish/lbctl.fish", "deregister"),
        ] {
            assert!(read(path).contains(word), "{path} has no `{word}`");
        }
        assert!(!read("man/lb-agent.8").contains("documents"), "it is for packagers");
    }
}
