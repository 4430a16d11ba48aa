//! Which test programs run in a guest, and how they are shared out among guests.

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// A test program that makes sense in a guest: none that needs a store, a browser, or speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Tests that don't run there, by parts of their names.
    pub skip: &'static [&'static str],
    /// What of it `make test` runs, too.
    pub short: Short,
    /// What it is worth when work is shared out, in seconds that all of it takes in a guest, roughly.
    pub seconds: u64,
}

/// What `make test` runs of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// Everything.
    All,
    /// Tests with one of these parts in their names.
    Only(&'static [&'static str]),
    /// Nothing.
    Nothing,
}

/// What a guest is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The test program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

const fn program(name: &'static str, short: Short, seconds: u64) -> Program {
    Program { name, skip: &[], short, seconds }
}

/// All of them.
pub const PROGRAMS: [Program; 30] = [
    program("bad_input", Short::Nothing, 15),
    program("bad_start", Short::Nothing, 30),
    program("confined", Short::All, 45),
    program("connections", Short::All, 30),
    program("degraded", Short::All, 30),
    program("detach", Short::Nothing, 45),
    program("events", Short::Nothing, 15),
    program("exclude", Short::Nothing, 60),
    program("faults_around", Short::Only(&["beside::", "self_test::", "upgrade::"]), 240),
    program("fixtures", Short::All, 5),
    Program {
        // Emulated, `ss` takes longer to start than the kernel waits before it repeats a SYN, and who
        // had no answer by then counts as unanswered, too.
        skip: &["by_ss_kill"],
        ..program("given_up", Short::Nothing, 30)
    },
    Program {
        // How sockets are ended is the kernel's matter; probes and ejection are the agent's alone.
        skip: &["checked::", "probes::", "programs::", "secured::", "steered::", "storms::"],
        ..program("health", Short::Nothing, 30)
    },
    program("killed", Short::Nothing, 60),
    program("limits", Short::All, 30),
    program("no_backend", Short::All, 15),
    program("outcomes", Short::All, 60),
    program("outcomes_agent", Short::Nothing, 45),
    Program {
        // It has its services from etcd.
        skip: &["an_exposed_service_of_a_store"],
        ..program("packet_path", Short::Nothing, 420)
    },
    program("pick", Short::Nothing, 60),
    program("pods", Short::All, 15),
    program("publish", Short::All, 15),
    program("reach", Short::All, 15),
    program("reload", Short::Nothing, 60),
    program("restart", Short::All, 120),
    program("reuse", Short::Nothing, 60),
    program("scope", Short::Nothing, 30),
    program("soak", Short::Nothing, 420),
    program("tcp", Short::All, 45),
    program("udp", Short::All, 60),
    program("unanswered", Short::Nothing, 30),
];

/// The programs of these names, or all of them.
///
/// # Errors
///
/// If there is no program of a name; the error lists those that there are.
pub fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Program>> {
    for name in names {
        let known = PROGRAMS.map(|program| program.name);
        ensure!(
            known.contains(&&**name),
            "no test `{name}` runs in a guest; there are {}",
            known.join(" ")
        );
    }
    let wanted = |program: &&Program| names.is_empty() || names.iter().any(|n| n == program.name);
    Ok(PROGRAMS.iter().filter(wanted).collect())
}

/// Shares out among as many guests what is to run, so that they take about as long. A guest without
/// anything to do is left out.
pub fn shared_out(programs: &[&Program], short: bool, guests: usize) -> Vec<Vec<Job>> {
    let mut programs: Vec<_> = programs.to_vec();
    programs.sort_by_key(|program| std::cmp::Reverse(program.seconds));
    let mut shares = vec![(0, Vec::new()); guests.max(1)];
    for program in programs {
        let Some(job) = program.job(short) else { continue };
        // There is one at least.
        let Some((seconds, jobs)) = shares.iter_mut().min_by_key(|(seconds, _)| *seconds) else {
            continue;
        };
        *seconds += program.seconds;
        jobs.push(job);
    }
    shares.into_iter().map(|(_, jobs)| jobs).filter(|jobs| !jobs.is_empty()).collect()
}

// === impl Program ===

impl Program {
    /// What a guest is to run of it, if anything.
    fn job(&self, short: bool) -> Option<Job> {
        let parts = match self.short {
            Short::Nothing if short => return None,
            Short::Only(parts) if short => parts,
            _ => &[],
        };
        let skipped = self.skip.iter().flat_map(|part| ["--skip", part]);
        let arguments = parts.iter().copied().chain(skipped).map(str::to_owned).collect();
        Some(Job { program: self.name.to_owned(), arguments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(jobs: &[Job]) -> Vec<&str> {
        jobs.iter().map(|job| job.program.as_str()).collect()
    }

    #[test]
    fn guests_are_given_as_much_to_do() {
        let [a, b, c, d] = [("a", 10), ("b", 50), ("c", 30), ("d", 20)]
            .map(|(name, seconds)| program(name, Short::All, seconds));
        let shares = shared_out(&[&a, &b, &c, &d], false, 2);
        let shares: Vec<_> = shares.iter().map(|jobs| names(jobs)).collect();
        assert_eq!(shares, [vec!["b", "a"], vec!["c", "d"]]);
        assert_eq!(shared_out(&[&a], false, 2).len(), 1, "a guest without anything to do");
        assert_eq!(shared_out(&[&a], false, 0).len(), 1, "one guest at least");
    }

    #[test]
    fn what_runs_of_a_program() {
        let whole = program("whole", Short::All, 1);
        let part = Program { skip: &["x"], ..program("part", Short::Only(&["y", "z"]), 1) };
        let never = program("never", Short::Nothing, 1);
        let arguments = |program: &Program, short| Some(program.job(short)?.arguments.join(" "));
        assert_eq!(arguments(&whole, true).as_deref(), Some(""));
        assert_eq!(arguments(&part, true).as_deref(), Some("y z --skip x"));
        assert_eq!(arguments(&part, false).as_deref(), Some("--skip x"));
        assert_eq!(arguments(&never, true), None);
        assert_eq!(arguments(&never, false).as_deref(), Some(""));
    }

    #[test]
    fn programs_are_chosen_by_name() {
        assert_eq!(chosen(&[]).unwrap().len(), PROGRAMS.len());
        let two = chosen(&["udp".to_owned(), "tcp".to_owned()]).unwrap();
        assert_eq!(two.iter().map(|program| program.name).collect::<Vec<_>>(), ["tcp", "udp"]);
        let error = chosen(&["nothing".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`nothing`") && error.contains("udp"), "{error}");
    }
}
