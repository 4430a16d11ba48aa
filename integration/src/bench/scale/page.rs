//! The tables of docs/scale.md, made of the results. Pure.

use super::model::Resource;
use super::{ASKED, FLEETS, Figure, GROUP, LARGE, ROOM, SHORT};
use anyhow::{Context as _, ensure};

/// Fleets of which the page tells, by their places in [`FLEETS`].
const TOLD: [usize; 3] = [0, 1, 3];

/// Leases with 20 keys.
struct Crowded {
    /// How many times as long a renewal takes as that of one with one key.
    times: f64,
    /// What they take besides of the leading member, in percent.
    share: f64,
}

/// What is looked up in.
struct Found<'a>(&'a [Figure]);

/// The page with the tables of these figures between the lines `<!-- scale NAME: begin -->` and
/// `<!-- scale NAME: end -->`.
///
/// # Errors
///
/// If the page has no such lines, or there are no figures for a table.
pub fn filled(page: &str, figures: &[Figure]) -> anyhow::Result<String> {
    let found = Found(figures);
    let tables = [
        ("hosts", found.hosts()?),
        ("costs", found.costs()?),
        ("shares", found.shares()?),
        ("limits", found.limits()?),
    ];
    tables.into_iter().try_fold(page.to_owned(), |page, (name, table)| {
        let [begin, end] = ["begin", "end"].map(|which| format!("<!-- scale {name}: {which} -->"));
        let parts = page.split_once(&begin).and_then(|(before, rest)| {
            rest.split_once(&end).map(|(_, after)| format!("{before}{begin}\n{table}{end}{after}"))
        });
        parts.with_context(|| format!("there are no lines {begin} and {end}"))
    })
}

// === impl Found ===

impl Found<'_> {
    fn value(&self, metric: &str, cases: &[(&str, &str)]) -> anyhow::Result<f64> {
        let is_it = |figure: &&Figure| {
            figure.group == GROUP
                && figure.metric == metric
                && cases
                    .iter()
                    .all(|(name, value)| figure.case.get(*name).is_some_and(|known| known == value))
        };
        let figure = self.0.iter().find(is_it);
        figure.map(|figure| figure.value).with_context(|| format!("no {metric} of {cases:?}"))
    }

    fn of(&self, what: &str, metric: &str) -> anyhow::Result<f64> {
        self.value(metric, &[("what", what)])
    }

    /// Numbers of hosts that were on the store.
    fn steps(&self) -> Vec<&str> {
        let quiet = self.0.iter().filter(|figure| {
            figure.group == GROUP
                && figure.case.get("what").is_some_and(|what| what == "store, quiet")
        });
        quiet.filter_map(|figure| figure.case.get("hosts").map(String::as_str)).collect()
    }

    fn hosts(&self) -> anyhow::Result<String> {
        let mut text = "| hosts | etcd, nothing changes | etcd, memory | a change heard by half, by the last host | 100 changes in one transaction, by the last |\n|---|---|---|---|---|\n".to_owned();
        let steps = self.steps();
        ensure!(!steps.is_empty(), "no hosts were on the store");
        let mut lost = 0.0;
        for hosts in steps {
            let at =
                |what: &str, metric: &str| self.value(metric, &[("what", what), ("hosts", hosts)]);
            text += &format!(
                "| {} | {} % of a core | {} | {}, {} | {} |\n",
                grouped(hosts.parse()?),
                digits(at("store, quiet", "cpu")?),
                bytes(at("store", "memory")? * 1e6),
                time(at("change", "p50")? * 1e3),
                time(at("change, last host", "p50")? * 1e3),
                time(at("100 changes, last host", "p50")? * 1e3),
            );
            lost += at("store lost", "times")?;
        }
        text += &match lost {
            0.0 => "\nNo host lost the store.\n".to_owned(),
            lost => format!("\nHosts lost the store {lost} times.\n"),
        };
        Ok(text)
    }

    fn costs(&self) -> anyhow::Result<String> {
        let renewal = |keys: &str| {
            self.value("cpu", &[("what", "renewal of a lease"), ("keys", keys)]).map(time)
        };
        let list = |metric: &str| self.of("list", metric);
        let keys = self
            .0
            .iter()
            .find_map(|figure| figure.case.get("keys").filter(|_| figure.metric == "all read"));
        let keys = keys.context("no list of all keys")?;
        let at_once = self.0.iter().find(|figure| figure.metric == "all read");
        let hosts =
            at_once.and_then(|figure| figure.case.get("hosts")).context("no lists at once")?;
        let gave_up = match list("tries given up")? {
            0.0 => "none gave up a try".to_owned(),
            tries => format!("they gave up {tries} tries"),
        };
        Ok(format!(
            "| what | etcd, CPU | wire | etcd, memory |\n|---|---|---|---|\n\
             | a host, in a second in which nothing changes | {} | {} | {} for as long as it is there |\n\
             | a change told to a host | {} | {} | |\n\
             | a key listed | {} | {} | |\n\
             | a renewal of a lease with one key | {} | | {} for each registrar |\n\
             | a renewal of a lease with 10 keys | {} | | |\n\n\
             A list of {} keys took {}; {hosts} hosts that began at the same moment had it after {}, and {gave_up}. A TCP check \
             costs the host that makes it {}, some of which is the other side's.\n",
            time(self.of("host, quiet", "cpu")?),
            bytes(self.of("host, quiet", "network")?),
            bytes(self.of("host", "memory")? * 1e3),
            time(self.of("change told to a host", "cpu")?),
            bytes(self.of("change told to a host", "network")?),
            time(list("cpu per key")?),
            bytes(list("network per key")?),
            renewal("1")?,
            bytes(self.registrar()?),
            renewal("10")?,
            grouped(keys.parse()?),
            time(list("p50")? * 1e3),
            time(list("all read")? * 1e3),
            time(self.of("check", "cpu")?),
        ))
    }

    /// Bytes that a registrar takes.
    fn registrar(&self) -> anyhow::Result<f64> {
        Ok(self.value("memory", &[("what", "registrar"), ("keys", "1")])? * 1e3)
    }

    fn shares(&self) -> anyhow::Result<String> {
        let fleets = TOLD.map(|place| FLEETS[place].0);
        let mut text = format!("| | {} |\n|---|---|---|---|\n", fleets.join(" | "));
        let ends = [ASKED[0], ASKED[ASKED.len() - 1]].map(|hosts| hosts.to_string());
        for (resource, what) in [
            (Resource::StoreCpu, "CPU of the leading member"),
            (Resource::StoreMemory, "memory of a member"),
            (Resource::StoreNetwork, "network of a member"),
            (Resource::Checking, "CPU of a host, for checks"),
            (Resource::BeingChecked, "CPU of a backend, for being checked"),
        ] {
            text += &format!("| {what} |");
            for fleet in fleets {
                let share = |hosts: &String| {
                    let of = [("fleet", fleet), ("of", resource.name()), ("hosts", hosts)];
                    let share = self.value("share", &of)?;
                    let shown = format!("{} %", digits(share));
                    let is_short = share > SHORT * 100.0;
                    anyhow::Ok(if is_short { format!("**{shown}**") } else { shown })
                };
                text += &format!(" {}, {} |", share(&ends[0])?, share(&ends[1])?);
            }
            text.push('\n');
        }
        text += "| all hosts start at once: all have read it after |";
        for fleet in fleets {
            let start = |hosts: &str| {
                self.value("cold start", &[("fleet", fleet), ("hosts", hosts)])
                    .map(|s| time(s * 1e6))
            };
            text += &format!(" {}, {} |", start(&ends[0])?, start(&ends[1])?);
        }
        let crowded = self.crowded()?;
        let load = |hosts: &str| {
            let of = [("fleet", fleets[2]), ("of", Resource::StoreCpu.name()), ("hosts", hosts)];
            Ok::<_, anyhow::Error>(digits(self.value("share", &of)? + crowded.share))
        };
        text += &format!(
            "\n\nA lease with 20 keys is counted as one with one key there. By what was measured with 10, its renewal takes {} \
             times as long, and then the leading member's CPU is {} % and {} %.\n",
            digits(crowded.times),
            load(&ends[0])?,
            load(&ends[1])?,
        );
        Ok(text)
    }

    /// What leases with 20 keys are besides what the model has, which counts them as those with one key.
    fn crowded(&self) -> anyhow::Result<Crowded> {
        let renewal =
            |keys: &str| self.value("cpu", &[("what", "renewal of a lease"), ("keys", keys)]);
        let (one, ten) = (renewal("1")?, renewal("10")?);
        let twenty = one + 19.0 * (ten - one) / 9.0;
        let fleet = FLEETS[TOLD[2]].1;
        let share = fleet.leases / fleet.renewal * (twenty - one) / 1e6 / ROOM.cores * 100.0;
        Ok(Crowded { times: twenty / one, share })
    }

    fn limits(&self) -> anyhow::Result<String> {
        let mut text = "| what runs short | at |\n|---|---|\n".to_owned();
        let mut row = |what: &str, number: f64, of: &str| {
            text += &format!("| {what} | {} {of} |\n", grouped(rounded(number)));
        };
        let cores = ROOM.cores * SHORT;
        let micro = |value: f64| value / 1e6;
        let of = [("fleet", FLEETS[0].0), ("of", Resource::BeingChecked.name())];
        let being_checked = self.value("hosts until 70 %", &of)?;
        row("a backend, being checked", being_checked, "hosts, however few backends");
        let checks = ROOM.checking * SHORT * LARGE.interval / micro(self.of("check", "cpu")?);
        row("a host, checking", checks, "checked backends, however few hosts");
        let renewal = self.value("cpu", &[("what", "renewal of a lease"), ("keys", "1")])?;
        let leases = cores * LARGE.renewal / micro(renewal);
        row("the leading member, renewing leases", leases, "backends that have a lease each");
        let registrars = ROOM.memory * SHORT * ROOM.members / self.registrar()?;
        row("memory of the members, for registrars' connections", registrars, "registrars");
        let share = |hosts: f64| {
            let of = ("of", Resource::StoreCpu.name());
            self.value("share", &[("fleet", FLEETS[TOLD[2]].0), of, ("hosts", &hosts.to_string())])
        };
        let [least, most] = [ASKED[0], ASKED[ASKED.len() - 1]];
        let each = (share(most)? - share(least)?) / (most - least);
        let hosts = least + (SHORT * 100.0 - self.crowded()?.share - share(least)?) / each;
        let what = "the leading member, where registrars check and 20 backends share a lease";
        row(what, hosts, "hosts");
        let told = ASKED[ASKED.len() - 1] * micro(self.of("change told to a host", "cpu")?);
        row(
            "the members, telling 5,000 hosts of changes",
            cores * ROOM.members / told,
            "changes a second, and nothing else",
        );
        Ok(text)
    }
}

/// Two significant digits, or all those before the point.
fn digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let decimals = match value {
        10.0.. => return grouped(value),
        1.0.. => 1,
        0.1.. => 2,
        0.01.. => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// With two significant digits.
fn rounded(value: f64) -> f64 {
    let unit = 10f64.powf(value.max(1.0).log10().floor() - 1.0).max(1.0);
    (value / unit).round() * unit
}

/// Of microseconds.
fn time(micros: f64) -> String {
    let (value, unit) = match micros {
        ..1e3 => (micros, "µs"),
        ..1e6 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    format!("{} {unit}", digits(value))
}

fn bytes(value: f64) -> String {
    let (value, unit) = match value {
        ..1e3 => (value, "B"),
        ..1e6 => (value / 1e3, "kB"),
        ..1e9 => (value / 1e6, "MB"),
        _ => (value / 1e9, "GB"),
    };
    format!("{} {unit}", digits(value))
}

/// A whole number with commas.
fn grouped(value: f64) -> String {
    let whole = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Results;
    use std::path::Path;

    #[test]
    fn numbers_for_people() {
        for (value, expected) in [
            (0.0, "0"),
            (0.0097, "0.0097"),
            (1.84, "1.8"),
            (9.96, "10.0"),
            (12.4, "12"),
            (1163.3, "1,163"),
        ] {
            assert_eq!(digits(value), expected);
        }
        assert_eq!([7521.0, 24_261.0, 63.5, 3.0].map(rounded), [7500.0, 24_000.0, 64.0, 3.0]);
        assert_eq!([1.84, 1001.8, 2_384_440.0].map(time), ["1.8 µs", "1.0 ms", "2.4 s"]);
        assert_eq!([213.0, 245_211.0, 1.729e9].map(bytes), ["213 B", "245 kB", "1.7 GB"]);
        assert_eq!([7.0, 110_000.0, 1_234_567.0].map(grouped), ["7", "110,000", "1,234,567"]);
    }

    #[test]
    fn a_page_without_the_lines_or_a_run_without_figures_is_refused() {
        let why = |figures: &[Figure]| filled("nothing", figures).unwrap_err().to_string();
        assert!(why(&[]).contains("no hosts"), "{}", why(&[]));
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bench");
        let published = Results::read(&docs).expect("there are published results");
        let error = why(&published.figures);
        assert!(error.contains("no lines <!-- scale hosts: begin -->"), "{error}");
    }
}
