//! The schemas in docs/ against the code: whether a value is as a schema says.

use serde_json::Value as Json;

/// Whether a value is as a schema says; as much of JSON Schema as ours uses, and no word more.
pub(crate) fn is_valid(root: &Json, schema: &Json, value: &Json) -> bool {
    let check = |schema: &Json| is_valid(root, schema, value);
    let number = |limit: &Json| limit.as_i64().unwrap();
    // `false`: there is no such value.
    let Some(words) = schema.as_object() else { return schema == true };
    words.iter().all(|(word, rule)| match word.as_str() {
        "$ref" => check(root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap()),
        "anyOf" => rule.as_array().unwrap().iter().any(check),
        "oneOf" => rule.as_array().unwrap().iter().filter(|rule| check(rule)).count() == 1,
        "enum" => rule.as_array().unwrap().contains(value),
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64(),
            "boolean" => value.is_boolean(),
            other => panic!("type {other}"),
        },
        "required" => {
            rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some())
        }
        "properties" => value.as_object().is_none_or(|fields| {
            let mut known = fields.iter().filter_map(|(key, field)| Some((rule.get(key)?, field)));
            known.all(|(rule, field)| is_valid(root, rule, field))
        }),
        "additionalProperties" => value
            .as_object()
            .is_none_or(|fields| fields.keys().all(|key| schema["properties"].get(key).is_some())),
        "items" => {
            value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(root, rule, item)))
        }
        "minItems" => value.as_array().is_none_or(|items| !items.is_empty() && number(rule) == 1),
        "minimum" => value.as_i64().is_none_or(|value| value >= number(rule)),
        "maximum" => value.as_i64().is_none_or(|value| value <= number(rule)),
        "minLength" => value.as_str().is_none_or(|text| !text.is_empty() && number(rule) == 1),
        "maxLength" => value.as_str().is_none_or(|text| text.len() <= 253 && number(rule) == 253),
        "pattern" => value.as_str().is_none_or(|text| {
            let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let digits =
                (1..=5).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
            match rule.as_str().unwrap() {
                "^[0-9]{1,3}%?$" => {
                    let bare = text.strip_suffix('%').unwrap_or(text);
                    (1..=3).contains(&bare.len()) && bare.bytes().all(|b| b.is_ascii_digit())
                }
                "^[0-9]+$" => !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()),
                "^[0-9]{1,5}(/(tcp|udp))?$" => digits && ["tcp", "udp"].contains(&protocol),
                "^[A-Za-z0-9._/:-]{1,253}$" => text.parse::<crate::model::ServiceName>().is_ok(),
                other => panic!("pattern {other}"),
            }
        }),
        "$schema" | "$defs" | "title" | "description" | "default" => true,
        other => panic!("the schema uses `{other}`"),
    })
}
