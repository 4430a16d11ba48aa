//! Label and field selectors.

use serde_json::Value;

/// What a list or a watch is limited to.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    namespace: Option<String>,
    labels: Vec<Term>,
    fields: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

// === impl Selector ===

impl Selector {
    /// From the parameters of a request; an error is a sentence for the client.
    pub(super) fn parse(
        namespace: Option<&str>,
        labels: &str,
        fields: &str,
    ) -> Result<Self, String> {
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            labels: parse(labels)?,
            fields: parse(fields)?,
        })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let namespace =
            self.namespace.as_deref().is_none_or(|wanted| metadata["namespace"] == wanted);
        let label = |term: &Term| term.holds(metadata["labels"][term.key.as_str()].as_str());
        // A field that is not there is empty.
        let field = |term: &Term| {
            let place = term.key.split('.').fold(object, |value, part| &value[part]);
            term.holds(Some(place.as_str().unwrap_or_default()))
        };
        namespace && self.labels.iter().all(label) && self.fields.iter().all(field)
    }
}

// === impl Term ===

impl Term {
    fn holds(&self, value: Option<&str>) -> bool {
        let among = |values: &[String]| value.is_some_and(|v| values.iter().any(|w| w == v));
        match &self.test {
            Test::In(values) => among(values),
            Test::NotIn(values) => !among(values),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
        }
    }
}

fn parse(text: &str) -> Result<Vec<Term>, String> {
    terms(text).into_iter().filter(|term| !term.is_empty()).map(parse_term).collect()
}

/// Splits at commas outside of parentheses.
fn terms(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let split = text.split(move |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    split.map(str::trim).collect()
}

fn parse_term(term: &str) -> Result<Term, String> {
    let one = |value: &str| vec![value.trim().to_owned()];
    let (key, test) = if let Some((key, value)) = term.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Test::In(one(value)))
    } else if let Some((key, values)) = term.split_once(" notin ") {
        (key, Test::NotIn(set(values)?))
    } else if let Some((key, values)) = term.split_once(" in ") {
        (key, Test::In(set(values)?))
    } else if let Some(key) = term.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (term, Test::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(format!("unable to parse requirement: `{term}`"));
    }
    Ok(Term { key: key.to_owned(), test })
}

fn set(text: &str) -> Result<Vec<String>, String> {
    let inside = text.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let inside = inside.ok_or_else(|| format!("unable to parse requirement: `{text}`"))?;
    Ok(inside.split(',').map(|value| value.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_is_selected() {
        let object = json!({
            "metadata": {"name": "a", "namespace": "n", "labels": {"app": "web", "x/y": ""}},
            "spec": {"clusterIP": "None"}
        });
        for (labels, fields, expected) in [
            ("", "", true),
            ("app=web", "", true),
            ("app==web,x/y", "", true),
            ("app!=web", "", false),
            ("other!=web", "", true),
            ("app in (db, web)", "metadata.name=a", true),
            ("app notin (db,web),x/y", "", false),
            ("other notin (db)", "", true),
            ("!app", "", false),
            ("!other", "", true),
            ("other", "", false),
            ("", "spec.clusterIP!=None", false),
            ("", "spec.clusterIP=None,metadata.namespace!=m", true),
            ("", "spec.type!=x", true),
        ] {
            let selector = Selector::parse(Some("n"), labels, fields).unwrap();
            assert_eq!(selector.matches(&object), expected, "{labels} {fields}");
        }
        assert!(!Selector::parse(Some("m"), "", "").unwrap().matches(&object));
        assert!(Selector::parse(None, "", "").unwrap().matches(&object));
        assert!(Selector::parse(None, "a b", "").is_err());
        assert!(Selector::parse(None, "a in b", "").is_err());
    }
}
