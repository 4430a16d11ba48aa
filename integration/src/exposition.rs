//! A strict reader of what Prometheus reads: more than one that is good-natured would take is an error.

use crate::http;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// Samples that have a name, a help and a type in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The name, as it stands in the format: in OpenMetrics, that of a counter has no `_total`.
    pub name: String,
    /// What it means.
    pub help: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// The samples.
    pub samples: Vec<Sample>,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The whole name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// All families of an answer, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Exposition(pub Vec<Family>);

// === impl Exposition ===

impl Exposition {
    /// What the agent of this network namespace has at its usual address.
    #[track_caller]
    pub fn of_agent() -> Self {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 9777));
        let answer = http::ask(at, "GET /metrics", "").expect("the agent answers");
        Self::parse(&answer.body, Format::Prometheus).expect("it is well-formed")
    }

    /// Reads a whole answer.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its line or its family's name: text that does not end as the format has
    /// it, a line that can't be read, a family that stands twice or is not as the format has it.
    pub fn parse(text: &str, format: Format) -> Result<Self, String> {
        let text = match format {
            Format::Prometheus => text,
            Format::OpenMetrics => text.strip_suffix("# EOF\n").ok_or("no `# EOF` at the end")?,
        };
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        let mut families: Vec<Family> = Vec::new();
        for (number, line) in text.split_terminator('\n').enumerate() {
            let told = |error: String| format!("line {}: {error}: {line:?}", number + 1);
            read_line(line, &mut families).map_err(told)?;
        }
        let mut names = BTreeSet::new();
        for family in &families {
            family.check(format).map_err(|error| format!("{}: {error}", family.name))?;
            if !names.insert(&family.name) {
                return Err(format!("{} stands twice", family.name));
            }
        }
        Ok(Self(families))
    }

    /// The names of all samples.
    pub fn names(&self) -> BTreeSet<&str> {
        self.samples().map(|sample| sample.name.as_str()).collect()
    }

    /// All samples.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter().flat_map(|family| &family.samples)
    }

    /// The value of the only sample with this name that has these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&Sample| {
            let label = |(key, value): &(&str, &str)| {
                sample.labels.get(*key).is_some_and(|found| found == value)
            };
            sample.name == name && labels.iter().all(label)
        };
        let mut found = self.samples().filter(has);
        let first = found.next()?;
        assert!(found.next().is_none(), "{name} {labels:?} are several samples");
        Some(first.value)
    }
}

// === impl Family ===

impl Family {
    fn check(&self, format: Format) -> Result<(), String> {
        if self.samples.is_empty() {
            return Err("no sample".to_owned());
        }
        let mut seen = BTreeSet::new();
        for Sample { name, labels, value } in &self.samples {
            let suffix = name.strip_prefix(&self.name).ok_or(format!("sample {name} in it"))?;
            let fits = match (self.kind.as_str(), format) {
                ("counter", Format::OpenMetrics) => suffix == "_total",
                ("counter", Format::Prometheus) => suffix.is_empty() && name.ends_with("_total"),
                ("gauge", _) => suffix.is_empty() && !name.ends_with("_total"),
                ("info", Format::OpenMetrics) => suffix == "_info" && *value == 1.0,
                ("histogram", _) => ["_sum", "_count", "_bucket"].contains(&suffix),
                _ => return Err(format!("type {}", self.kind)),
            };
            if !fits {
                return Err(format!("sample {name} does not fit type {}", self.kind));
            }
            if !seen.insert((name, labels)) {
                return Err(format!("{name} {labels:?} stands twice"));
            }
            if self.kind != "gauge" && (*value < 0.0 || !value.is_finite()) {
                return Err(format!("{name} is {value}"));
            }
        }
        if self.kind == "histogram" { self.check_histograms() } else { Ok(()) }
    }

    fn check_histograms(&self) -> Result<(), String> {
        /// Bounds with their counts, and the count of all.
        type Histogram = (Vec<(f64, f64)>, Option<f64>);
        let mut histograms: BTreeMap<BTreeMap<String, String>, Histogram> = BTreeMap::new();
        for Sample { name, labels, value } in &self.samples {
            let mut labels = labels.clone();
            let bound = labels.remove("le");
            let (buckets, count) = histograms.entry(labels).or_default();
            match bound {
                Some(bound) => buckets.push((number(&bound)?, *value)),
                None if name.ends_with("_count") => *count = Some(*value),
                None => {}
            }
        }
        for (labels, (buckets, count)) in histograms {
            let rising = buckets.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
            let last = buckets.last().copied();
            if !rising || last != count.map(|count| (f64::INFINITY, count)) {
                return Err(format!("{labels:?}: {buckets:?}, {count:?} in all"));
            }
        }
        Ok(())
    }
}

fn read_line(line: &str, families: &mut Vec<Family>) -> Result<(), String> {
    if line.contains(char::is_control) {
        return Err("a control character".to_owned());
    }
    if let Some(text) = line.strip_prefix("# HELP ") {
        let (name, help) = text.split_once(' ').ok_or("no help")?;
        if !is_name(name, true) || help.is_empty() || !help.ends_with('.') {
            return Err("a bad help".to_owned());
        }
        families.push(Family {
            name: name.to_owned(),
            help: help.to_owned(),
            kind: String::new(),
            samples: Vec::new(),
        });
        return Ok(());
    }
    let family = families.last_mut().ok_or("a line before the first help")?;
    if let Some(text) = line.strip_prefix("# TYPE ") {
        let (name, kind) = text.split_once(' ').ok_or("no type")?;
        if name != family.name || !family.kind.is_empty() {
            return Err("a type of another family".to_owned());
        }
        family.kind = kind.to_owned();
        return Ok(());
    }
    if line.starts_with('#') || family.kind.is_empty() {
        return Err("neither help, type nor sample".to_owned());
    }
    family.samples.push(read_sample(line)?);
    Ok(())
}

fn read_sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("a bad name".to_owned());
    }
    let mut labels = BTreeMap::new();
    if let Some(mut list) = rest.strip_prefix('{') {
        loop {
            let (key, value, after) = read_label(list)?;
            if labels.insert(key, value).is_some() {
                return Err("a label twice".to_owned());
            }
            match (after.strip_prefix(','), after.strip_prefix('}')) {
                (Some(more), _) => list = more,
                (_, Some(end)) => {
                    rest = end;
                    break;
                }
                _ => return Err("labels without an end".to_owned()),
            }
        }
    }
    let value = number(rest.strip_prefix(' ').ok_or("no value")?)?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// A label, and what follows it.
fn read_label(text: &str) -> Result<(String, String, &str), String> {
    let (key, text) = text.split_once("=\"").ok_or("no label")?;
    if !is_name(key, false) {
        return Err(format!("label {key:?}"));
    }
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((key.to_owned(), value, &text[at + 1..])),
            '\\' => value.push(match chars.next().map(|(_, c)| c) {
                Some('n') => '\n',
                Some(c @ ('\\' | '"')) => c,
                other => return Err(format!("escaped {other:?}")),
            }),
            c => value.push(c),
        }
    }
    Err("a label without an end".to_owned())
}

fn is_name(text: &str, colon: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
    !text.is_empty() && text.chars().all(fits) && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        text if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            text.parse().map_err(|_| format!("value {text:?}"))
        }
        _ => Err(format!("value {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Exposition, Format};

    #[test]
    fn what_is_not_well_formed_is_refused() {
        let good =
            "# HELP a_total A.\n# TYPE a_total counter\na_total{b=\"c\\\"\\\\\\n\",d=\"\"} 1\n";
        let read = Exposition::parse(good, Format::Prometheus).unwrap();
        assert_eq!(read.value("a_total", &[("b", "c\"\\\n"), ("d", "")]), Some(1.0));
        let head = "# HELP a A.\n# TYPE a gauge\n";
        for bad in [
            "a 1\n",
            "# HELP a A.\na 1\n",
            "# HELP a A\n# TYPE a gauge\na 1\n",
            "# HELP a A.\n# TYPE b gauge\nb 1\n",
            "# HELP a A.\n# TYPE a gauge\n",
            "# HELP a A.\n# TYPE a counter\na 1\n",
            "# HELP a_total A.\n# TYPE a_total counter\na_total -1\n",
            &format!("{head}a 1"),
            &format!("{head}a 1\n\n"),
            &format!("{head}a 1\na 1\n"),
            &format!("{head}b 1\n"),
            &format!("{head}a x\n"),
            &format!("{head}a  1\n"),
            &format!("{head}a 1 2\n"),
            &format!("{head}a{{}} 1\n"),
            &format!("{head}a{{b=\"c}} 1\n"),
            &format!("{head}a{{b=\"c\",b=\"d\"}} 1\n"),
            &format!("{head}a{{b=\"\\x\"}} 1\n"),
            &format!("{head}a{{b=\"c\"d\"}} 1\n"),
            &format!("{head}a{{b=\"\x1b\"}} 1\n"),
            &format!("{head}a{{1=\"c\"}} 1\n"),
            &format!("{head}a 1\n{head}a{{b=\"c\"}} 1\n"),
            "# HELP h H.\n# TYPE h histogram\nh_sum 1\nh_count 2\nh_bucket{le=\"+Inf\"} 1\n",
            "# HELP h H.\n# TYPE h histogram\nh_sum 1\nh_count 1\nh_bucket{le=\"1\"} 1\n",
        ] {
            assert!(Exposition::parse(bad, Format::Prometheus).is_err(), "{bad}");
        }
        Exposition::parse(&format!("{head}a 1\n# EOF\n"), Format::OpenMetrics).unwrap();
        assert!(Exposition::parse(&format!("{head}a 1\n"), Format::OpenMetrics).is_err());
    }
}
