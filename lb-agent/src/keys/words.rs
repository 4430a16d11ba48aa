//! Values of a form, and lines of Markdown, in words.

use super::Form;
use std::time::Duration;

/// What a value looks like, in Markdown.
pub(super) fn said(form: &Form) -> String {
    let time = |time: &Duration| humantime::format_duration(*time).to_string();
    match form {
        Form::Text => "text".to_owned(),
        Form::Short => "text, at most 253 bytes".to_owned(),
        Form::Path => "path".to_owned(),
        Form::Name => "1 to 253 letters, digits and `- . _ / :`".to_owned(),
        Form::Said(words) => (*words).to_owned(),
        Form::Flag => "`true`, `false`".to_owned(),
        Form::Off => "`off`".to_owned(),
        Form::Words(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        Form::Number(_, u32::MAX) => "number".to_owned(),
        Form::Number(low, high) => format!("{low} to {high}"),
        Form::Percent(low) => format!("{low} to 100 percent"),
        // More than a lifetime is no limit.
        Form::Time(low, high) if high.as_secs() == u64::from(u32::MAX) => {
            format!("time, at least `{}`", time(low))
        }
        Form::Time(low, high) => format!("time, `{}` to `{}`", time(low), time(high)),
        Form::Port => "port".to_owned(),
        Form::List(_, _, words) | Form::OneOrMore(_, words) => (*words).to_owned(),
        Form::Map(_) => "mapping".to_owned(),
        Form::Or(forms) => forms.iter().map(said).collect::<Vec<_>>().join(", "),
    }
}

/// Markdown without its marks: links are their text.
pub(super) fn plain(markdown: &str) -> String {
    let mut text = String::with_capacity(markdown.len());
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once('[') {
        let link = after.split_once("](").and_then(|(shown, target)| {
            let (_, end) = target.split_once(')')?;
            // An address in brackets is none.
            (!shown.contains(['[', ']'])).then_some((shown, end))
        });
        text.push_str(before);
        let Some((shown, end)) = link else {
            text.push('[');
            rest = after;
            continue;
        };
        text.push_str(shown);
        rest = end;
    }
    text.push_str(rest);
    text.replace('`', "")
}
