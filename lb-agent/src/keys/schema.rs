//! JSON schemas of the main file and of values in etcd.

use super::words::{plain, said};
use super::{
    Alternative, BACKEND_VALUE, Form, Key, MAIN, Mapping, Needs, Otherwise, SERVICE_VALUE,
};
use serde_json::{Map, Value as Json, json};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The schema of the main file, for editors and for programs that write it.
pub(crate) fn configuration() -> Json {
    let mut definitions = Map::new();
    let mut schema = mapping(&MAIN, &mut definitions);
    schema.insert("$schema".into(), DIALECT.into());
    schema.insert("title".into(), "The configuration of lb-agent".into());
    let what = "What `lb-agent run -c FILE` reads. docs/configuration.md says more.";
    schema.insert("description".into(), what.into());
    schema.insert("$defs".into(), definitions.into());
    schema.into()
}

/// The schema of the values of etcd's native layout.
pub(crate) fn values() -> Json {
    let mut definitions = Map::new();
    let service = reference(&SERVICE_VALUE, &mut definitions);
    let backend = reference(&BACKEND_VALUE, &mut definitions);
    json!({
        "$schema": DIALECT,
        "title": "Values of lb-agent's native layout in etcd",
        "description": "services/<name> is a #/$defs/service_value, backends/<service>/<id> a \
                        #/$defs/backend_value. Unknown fields are ignored with a warning.",
        "anyOf": [service, backend],
        "$defs": definitions,
    })
}

/// A definition, made where it is not there yet.
fn reference(of: &Mapping, definitions: &mut Map<String, Json>) -> Json {
    if !definitions.contains_key(of.id) {
        let schema = mapping(of, definitions);
        definitions.insert(of.id.to_owned(), schema.into());
    }
    json!({"$ref": format!("#/$defs/{}", of.id)})
}

fn mapping(of: &Mapping, definitions: &mut Map<String, Json>) -> Map<String, Json> {
    let properties: Map<String, Json> =
        of.keys().map(|key| (key.name.to_owned(), property(key, definitions))).collect();
    let required = of.keys().filter(|key| matches!(key.otherwise, Otherwise::Required));
    let required: Vec<&str> = required.map(|key| key.name).collect();
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("additionalProperties".into(), false.into());
    schema.insert("properties".into(), properties.into());
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    let (word, alternatives) = match of.needs {
        Needs::Nothing => return schema,
        Needs::Any(alternatives) => ("anyOf", alternatives),
        Needs::One(alternatives) => ("oneOf", alternatives),
    };
    schema.insert(word.into(), alternatives.iter().map(alternative).collect());
    schema
}

fn alternative(of: &Alternative) -> Json {
    let mut schema = Map::new();
    schema.insert("required".into(), of.with.into());
    if !of.without.is_empty() {
        let never = of.without.iter().map(|key| ((*key).to_owned(), false.into()));
        schema.insert("properties".into(), Json::Object(never.collect()));
    }
    schema.into()
}

fn property(key: &Key, definitions: &mut Map<String, Json>) -> Json {
    let mut schema = form(&key.form, definitions);
    schema.insert("description".into(), description(key).into());
    if let Otherwise::Is(default) = key.otherwise {
        schema.insert("default".into(), value(&key.form, default));
    }
    schema.into()
}

/// The meaning, with what the schema has no other words for.
fn description(key: &Key) -> String {
    let form = match &key.form {
        form @ (Form::Said(_) | Form::Time(..) | Form::List(..)) => format!(": {}", said(form)),
        _ => String::new(),
    };
    let otherwise = match key.otherwise {
        Otherwise::Says(words) => format!(" (default: {words})"),
        _ => String::new(),
    };
    plain(&format!("{}{form}{otherwise}", key.meaning))
}

/// A default as JSON has it.
fn value(form: &Form, text: &str) -> Json {
    let bare = match form {
        Form::Flag | Form::Number(..) => true,
        Form::Percent(_) => !text.ends_with('%'),
        Form::Or(forms) => forms.iter().any(|form| matches!(form, Form::Flag)),
        _ => false,
    };
    let parsed = if bare { serde_json::from_str(text).ok() } else { None };
    parsed.unwrap_or_else(|| text.into())
}

fn form(form: &Form, definitions: &mut Map<String, Json>) -> Map<String, Json> {
    let number = |low: u32, high: u32, pattern: &str| {
        json!({"anyOf": [
            {"type": "integer", "minimum": low, "maximum": high},
            {"type": "string", "pattern": pattern},
        ]})
    };
    let schema = match form {
        Form::Text | Form::Path | Form::Said(_) | Form::Time(..) => {
            json!({"type": "string", "minLength": 1})
        }
        Form::Short => json!({"type": "string", "minLength": 1, "maxLength": 253}),
        Form::Name => json!({"type": "string", "pattern": "^[A-Za-z0-9._/:-]{1,253}$"}),
        Form::Flag => json!({"type": "boolean"}),
        Form::Off => json!({"enum": ["off", false]}),
        Form::Words(words) => json!({"enum": words}),
        Form::Number(low, high) => number(*low, *high, "^[0-9]+$"),
        Form::Percent(low) => number(u32::from(*low), 100, "^[0-9]{1,3}%?$"),
        Form::Port => number(1, 65_535, "^[0-9]{1,5}(/(tcp|udp))?$"),
        Form::List(of, least, _) => {
            let mut list = json!({"type": "array", "items": self::form(of, definitions)});
            if *least > 0 {
                list["minItems"] = (*least).into();
            }
            list
        }
        Form::OneOrMore(of, _) => {
            let one = self::form(of, definitions);
            json!({"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]})
        }
        Form::Map(of) => reference(of, definitions),
        Form::Or(forms) => {
            let forms: Vec<_> = forms.iter().map(|of| self::form(of, definitions)).collect();
            json!({"anyOf": forms})
        }
    };
    match schema {
        Json::Object(schema) => schema,
        other => unreachable!("a schema is an object, not {other}"),
    }
}
