//! Values of settings: from text on the command line, from a field of the file, to what is worked
//! with. Durations are written as Go writes them.
//!
//! Pure.

use super::table::Kind;
use crate::shown::line;
use serde_json::{Map, Value};
use std::time::Duration;

/// What is told of settings, each on one line that any terminal can show.
pub(super) fn lines(texts: Vec<String>) -> Vec<String> {
    texts.into_iter().map(|text| line(&text).into_owned()).collect()
}

/// Reads a flag's value. The error says what was expected.
pub(super) fn read(kind: Kind, text: &str) -> Result<Value, String> {
    let expected = |what: &str| Err(format!("expected {what}, found `{text}`"));
    match kind {
        Kind::Flag => match text {
            "true" | "True" | "TRUE" | "t" | "T" | "1" => Ok(true.into()),
            "false" | "False" | "FALSE" | "f" | "F" | "0" => Ok(false.into()),
            _ => expected("true or false"),
        },
        Kind::Number(low, high) => match text.parse::<i64>() {
            Ok(number) => take(kind, &number.into()),
            Err(_) => expected(&format!("a whole number from {low} to {high}")),
        },
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(items.map(Value::from).collect())
        }
        Kind::Repeated => Ok(Value::Array(vec![text.into()])),
        Kind::Switches => {
            let mut switches = Map::new();
            for pair in text.split(',').filter(|pair| !pair.is_empty()) {
                let Some((name, value)) = pair.split_once('=') else {
                    return expected("name=true or name=false pairs");
                };
                switches.insert(name.trim().to_owned(), read(Kind::Flag, value.trim())?);
            }
            Ok(Value::Object(switches))
        }
        Kind::Text | Kind::Fraction | Kind::Duration | Kind::Anything => take(kind, &text.into()),
    }
}

/// Takes a field's value as it is worked with; `null` stays what it is: not set. The error says what
/// was expected.
pub(super) fn take(kind: Kind, value: &Value) -> Result<Value, String> {
    let expected = |what: &str| Err(format!("expected {what}, found {value}"));
    let good = match (kind, value) {
        (_, Value::Null)
        | (Kind::Anything, _)
        | (Kind::Flag, Value::Bool(_))
        | (Kind::Text, Value::String(_)) => true,
        // A name made of digits is still a name.
        (Kind::Text, Value::Number(number)) => return Ok(number.to_string().into()),
        (Kind::Text, _) => return expected("text"),
        (Kind::Flag, _) => return expected("true or false"),
        (Kind::Number(low, high), Value::Number(number)) => {
            match number.as_i64().filter(|number| (low..=high).contains(number)) {
                Some(_) => true,
                None => return expected(&format!("a whole number from {low} to {high}")),
            }
        }
        (Kind::Number(low, high), _) => {
            return expected(&format!("a whole number from {low} to {high}"));
        }
        (Kind::Fraction, Value::Number(_)) => true,
        (Kind::Fraction, Value::String(text)) => {
            match text.parse::<f64>().ok().filter(|number| number.is_finite()) {
                Some(number) => return Ok(number.into()),
                None => return expected("a number"),
            }
        }
        (Kind::Fraction, _) => return expected("a number"),
        (Kind::Duration, Value::String(text)) if duration(text).is_some() => true,
        (Kind::Duration, _) => return expected("a duration such as 30s or 1h30m"),
        (Kind::List | Kind::Repeated, Value::Array(items)) => items.iter().all(Value::is_string),
        (Kind::List | Kind::Repeated, _) => false,
        (Kind::Switches, Value::Object(switches)) => switches.values().all(Value::is_boolean),
        (Kind::Switches, _) => false,
    };
    match (good, kind) {
        (true, _) => Ok(value.clone()),
        (false, Kind::Switches) => expected("a mapping of names to true or false"),
        (false, _) => expected("a list of texts"),
    }
}

/// Adds what a flag says that was given before: lists grow, the rest is replaced.
pub(super) fn add(kind: Kind, before: Option<Value>, value: Value) -> Value {
    match (kind, before, value) {
        (Kind::List | Kind::Repeated, Some(Value::Array(mut all)), Value::Array(more)) => {
            all.extend(more);
            all.into()
        }
        (Kind::Switches, Some(Value::Object(mut all)), Value::Object(more)) => {
            all.extend(more);
            all.into()
        }
        (_, _, value) => value,
    }
}

/// Whether this says nothing: the zero values that tools write where nothing is set.
pub(super) fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || duration(text) == Some(Duration::ZERO),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_unset),
    }
}

/// A duration as Go writes it: `1h2m3.5s`, `0`. Not a negative one.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        if after.is_empty() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", Some(30_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1h0m0s", Some(3_600_000)),
            ("1m30.5s", Some(90_500)),
            ("+15m", Some(900_000)),
            ("100ms", Some(100)),
            ("5µs", Some(0)),
            ("", None),
            ("-1s", None),
            ("30", None),
            ("s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text).map(|d| d.as_millis()), millis, "{text}");
        }
    }

    #[test]
    fn values_of_flags() {
        let number = Kind::Number(0, 9);
        for (kind, text, value) in [
            (Kind::Flag, "true", Ok(json!(true))),
            (Kind::Flag, "yes", Err("expected true or false, found `yes`")),
            (number, "7", Ok(json!(7))),
            (number, "10", Err("expected a whole number from 0 to 9, found 10")),
            (number, "x", Err("expected a whole number from 0 to 9, found `x`")),
            (Kind::List, "a, b,", Ok(json!(["a", "b"]))),
            (Kind::Repeated, "a,b", Ok(json!(["a,b"]))),
            (Kind::Switches, "A=true,B=false", Ok(json!({"A": true, "B": false}))),
            (Kind::Switches, "A", Err("expected name=true or name=false pairs, found `A`")),
            (Kind::Fraction, "0.5", Ok(json!(0.5))),
            (Kind::Duration, "1m", Ok(json!("1m"))),
            (Kind::Duration, "1", Err("expected a duration such as 30s or 1h30m, found \"1\"")),
        ] {
            assert_eq!(read(kind, text), value.map_err(str::to_owned), "{kind:?} {text}");
        }
    }

    #[test]
    fn values_of_fields() {
        for (kind, value, good) in [
            (Kind::Text, json!(null), true),
            (Kind::Text, json!(12), true),
            (Kind::Text, json!([]), false),
            (Kind::Flag, json!("true"), false),
            (Kind::Number(0, 9), json!("3"), false),
            (Kind::Fraction, json!("0.5"), true),
            (Kind::Fraction, json!("NaN"), false),
            (Kind::List, json!(["a"]), true),
            (Kind::List, json!([1]), false),
            (Kind::List, json!("a"), false),
            (Kind::Switches, json!({"A": true}), true),
            (Kind::Switches, json!({"A": 1}), false),
            (Kind::Anything, json!({"A": [1]}), true),
        ] {
            assert_eq!(take(kind, &value).is_ok(), good, "{kind:?} {value}");
        }
    }

    #[test]
    fn zero_values_say_nothing() {
        let unset = json!({"a": null, "b": "", "c": 0, "d": "0s", "e": [], "f": {"g": false}});
        assert!(is_unset(&unset));
        for set in [json!(1), json!("x"), json!(["x"]), json!({"a": true}), json!("1s")] {
            assert!(!is_unset(&set), "{set}");
        }
    }
}
