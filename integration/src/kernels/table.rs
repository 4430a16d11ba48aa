//! The table of features by kernel in `docs/kernels.md`: read from there, compared with what guests
//! say, and written anew when that is asked for.

use std::collections::BTreeMap;

/// Lines between which the table stands.
const BEGIN: &str = "<!-- features: begin -->";
const END: &str = "<!-- features: end -->";

/// Whether a kernel has a feature, by feature and kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    kernels: Vec<String>,
    rows: Vec<(String, BTreeMap<String, bool>)>,
}

impl Table {
    /// The table that stands in a document; `None` if there is none.
    pub fn read(document: &str) -> Option<Self> {
        let (_, rest) = document.split_once(BEGIN)?;
        let (text, _) = rest.split_once(END)?;
        let mut lines = text.lines().filter(|line| line.starts_with('|')).map(cells);
        let kernels: Vec<String> = lines.next()?.into_iter().skip(1).collect();
        let rows = lines.skip(1).filter_map(|cells| {
            let (name, said) = cells.split_first()?;
            let said = kernels.iter().zip(said).filter_map(|(kernel, word)| match word.as_str() {
                "yes" => Some((kernel.clone(), true)),
                "no" => Some((kernel.clone(), false)),
                _ => None,
            });
            Some((name.trim_matches('`').to_owned(), said.collect()))
        });
        let rows = rows.collect();
        Some(Self { kernels, rows })
    }

    /// Takes over what a guest says of its kernel.
    pub fn set(&mut self, kernel: &str, features: &[(String, bool)]) {
        if !self.kernels.iter().any(|known| known == kernel) {
            self.kernels.push(kernel.to_owned());
        }
        self.rows.retain(|(name, _)| features.iter().any(|(known, _)| known == name));
        for (name, present) in features {
            let row = match self.rows.iter().position(|(known, _)| known == name) {
                Some(place) => place,
                None => {
                    self.rows.push((name.clone(), BTreeMap::new()));
                    self.rows.len() - 1
                }
            };
            self.rows[row].1.insert(kernel.to_owned(), *present);
        }
    }

    /// What the table says otherwise than a guest, a line each.
    pub fn differs(&self, kernel: &str, features: &[(String, bool)]) -> Vec<String> {
        let mut other = self.clone();
        other.set(kernel, features);
        let word = |present: Option<&bool>| match present {
            Some(true) => "yes",
            Some(false) => "no",
            None => "nothing",
        };
        let mut lines = Vec::new();
        for (name, present) in features {
            let row = self.rows.iter().find(|(known, _)| known == name);
            let said = row.and_then(|(_, row)| row.get(kernel));
            if said != Some(present) {
                let (said, is) = (word(said), word(Some(present)));
                lines.push(format!("{name} on {kernel}: the table says {said}, the kernel {is}"));
            }
        }
        let gone = self.rows.iter().filter(|(name, _)| !other.rows.iter().any(|(o, _)| o == name));
        lines.extend(gone.map(|(name, _)| format!("{name}: in the table, but no feature")));
        lines
    }

    /// The document with this table in it.
    pub fn write_into(&self, document: &str) -> Option<String> {
        let (before, rest) = document.split_once(BEGIN)?;
        let (_, after) = rest.split_once(END)?;
        let mut text = format!("| | {} |\n|---|{}\n", self.kernels.join(" | "), {
            "---|".repeat(self.kernels.len())
        });
        for (name, row) in &self.rows {
            let word = |kernel| match row.get(kernel) {
                Some(true) => "yes",
                Some(false) => "no",
                None => "?",
            };
            let words: Vec<_> = self.kernels.iter().map(word).collect();
            text += &format!("| `{name}` | {} |\n", words.join(" | "));
        }
        Some(format!("{before}{BEGIN}\n{text}{END}{after}"))
    }
}

fn cells(line: &str) -> Vec<String> {
    line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(mptcp: bool) -> Vec<(String, bool)> {
        vec![("set_retval".to_owned(), true), ("mptcp".to_owned(), mptcp)]
    }

    #[test]
    fn a_table_survives_the_document() {
        let empty = format!("# A\n\n{BEGIN}\n| | a |\n|---|---|\n{END}\n\nafter\n");
        let mut table = Table::read(&empty).unwrap();
        table.set("a", &features(true));
        table.set("b", &features(false));
        let document = table.write_into(&empty).unwrap();
        assert!(document.contains("| `mptcp` | yes | no |\n"), "{document}");
        assert!(document.starts_with("# A\n\n") && document.ends_with("\n\nafter\n"), "{document}");
        assert_eq!(Table::read(&document), Some(table));
        assert_eq!(Table::read("no table"), None);
        let unknown = document.replace("| yes | no |", "| yes | ? |");
        assert_eq!(Table::read(&unknown).unwrap().write_into(&unknown), Some(unknown));
    }

    #[test]
    fn what_differs_is_named() {
        let mut table = Table::default();
        table.set("a", &features(true));
        assert!(table.differs("a", &features(true)).is_empty());
        let differs = table.differs("a", &features(false));
        assert_eq!(differs, ["mptcp on a: the table says yes, the kernel no"]);
        let differs = table.differs("b", &features(true));
        assert_eq!(differs.len(), 2, "{differs:?}");
        assert!(differs[0].contains("the table says nothing"), "{differs:?}");
        let differs = table.differs("a", &features(true)[..1]);
        assert_eq!(differs, ["mptcp: in the table, but no feature"]);
    }
}
