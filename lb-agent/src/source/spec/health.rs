//! What a service says about the health of its backends: its checks, and what follows from them.

use crate::claims::Claims;
use crate::keys::{CHECK, EJECTION, EXEC, GRPC, HTTP, HTTPS, TCP, TIMING};
use crate::model::check::{Check, ExecProbe, GrpcProbe, HttpProbe, Probe, ProbeTls};
use crate::model::{EjectionPolicy, HealthPolicy};
use crate::yaml::{Field, Item, Reader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Shortest interval: below it a check is a load test.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Reads one of the keys of [`OF_SERVICE`](crate::keys::OF_SERVICE) into `policy`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    field: Field<'_>,
    claims: &Claims,
    policy: &mut HealthPolicy,
) {
    let (key, item) = (field.key, field.item);
    match key {
        "checks" => {
            let what = "a list for `checks`, such as `[tcp]` or `- http: {path: /healthz}`";
            for item in reader.list(item, what) {
                let before = reader.count();
                let check = read_check(reader, item, claims);
                policy.checks.extend(check.filter(|_| reader.count() == before).map(Arc::new));
            }
        }
        "ejection" => policy.ejection = read_ejection(reader, item),
        "panic_threshold" => policy.rule.panic_threshold = percent(reader, item, key, 0),
        "min_zone_healthy" => policy.rule.min_zone_healthy = Some(percent(reader, item, key, 1)),
        "slow_start" => {
            policy.slow_start = time(reader, item, key, Duration::ZERO).unwrap_or_default();
        }
        _ => policy.on_removal = reader.word(field).unwrap_or_default(),
    }
}

/// What can't be right given the rest of the service: `udp_only`: no frontend speaks TCP.
pub(super) fn suits(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    policy: &HealthPolicy,
    udp_only: bool,
) {
    let Some(list) = item.get("checks").filter(|_| udp_only) else { return };
    let needs =
        |check: &&Arc<Check>| check.port.is_none() && !matches!(check.probe, Probe::Exec(_));
    if let Some(check) = policy.checks.iter().find(needs) {
        let reason = format!(
            "check `{check}` needs TCP, but the service has UDP frontends only; give the check a \
             `port` of its own"
        );
        reader.reject(list.place, reason);
    }
}

fn read_check(reader: &mut Reader<'_>, item: Item<'_>, claims: &Claims) -> Option<Check> {
    if !item.is_mapping() {
        return match item.text() {
            Some("tcp") => Some(Check::new(Probe::Tcp)),
            Some("grpc") => Some(Check::new(grpc(false))),
            Some(kind @ ("http" | "https")) => {
                let reason =
                    format!("an {kind} check needs a `path`: `{kind}: {{path: /healthz}}`");
                reader.reject(item.place, reason);
                None
            }
            _ => {
                reader.mismatch(item, "`tcp`, `grpc`, or a check such as `http: {path: /healthz}`");
                None
            }
        };
    }
    let fields = reader.fields(item, "a check", &CHECK);
    let [field] = fields[..] else {
        if !fields.is_empty() {
            reader.reject(item.place, "one check per list item; give each a `-` of its own");
        }
        return None;
    };
    let (kind, item) = (field.key, field.item);
    let mapping = match kind {
        "tcp" => &TCP,
        "http" => &HTTP,
        "https" => &HTTPS,
        "grpc" => &GRPC,
        _ => &EXEC,
    };
    let probe = match kind {
        "tcp" => Probe::Tcp,
        "http" => Probe::Http(HttpProbe::default()),
        "https" => {
            Probe::Http(HttpProbe { tls: Some(ProbeTls::default()), ..HttpProbe::default() })
        }
        "grpc" => grpc(false),
        _ => Probe::Exec(ExecProbe { command: Vec::new() }),
    };
    let mut check = Check::new(probe);
    for field in reader.fields(item, "a mapping with the check's settings", mapping) {
        if TIMING.has(field.key) {
            read_timing(reader, field, &mut check);
        } else {
            read_own(reader, field.key, field.item, &mut check.probe);
        }
    }
    if kind.starts_with("http") && item.get("path").is_none() {
        reader.reject(item.place, format!("an {kind} check needs a `path`, such as `/healthz`"));
    }
    if let Probe::Exec(exec) = &check.probe {
        if exec.command.is_empty() {
            reader.reject(item.place, "an exec check needs a `command`, such as `[check-db, -q]`");
        }
        if !claims.exec {
            let reason = "exec checks run programs as the agent's user; set `allow_exec: true` for \
                          this source in the agent's configuration, or use another check";
            reader.reject(item.place, reason);
        }
    }
    if item.get("fast_interval").is_none() {
        check.fast_interval = check.fast_interval.min(check.interval);
    }
    if item.get("timeout").is_none() {
        check.timeout = check.timeout.min(check.interval);
    }
    if check.timeout > check.interval {
        let place = item.get("timeout").map_or(item.place, |timeout| timeout.place);
        let reason = format!(
            "timeout {} is longer than the interval {}; tries would overtake each other",
            humantime::format_duration(check.timeout),
            humantime::format_duration(check.interval),
        );
        reader.reject(place, reason);
    }
    Some(check)
}

fn grpc(tls: bool) -> Probe {
    let tls = tls.then(ProbeTls::default);
    Probe::Grpc(GrpcProbe { tls, service: String::new() })
}

fn read_timing(reader: &mut Reader<'_>, field: Field<'_>, check: &mut Check) {
    let (key, item) = (field.key, field.item);
    let mut duration = |default| time(reader, item, key, SHORTEST).unwrap_or(default);
    match key {
        "interval" => check.interval = duration(check.interval),
        "fast_interval" => check.fast_interval = duration(check.fast_interval),
        "timeout" => check.timeout = duration(check.timeout),
        "port" => {
            let port = reader.number(field);
            check.port = u16::try_from(port).ok();
        }
        "rise" => check.rise = reader.number(field),
        "fall" => check.fall = reader.number(field),
        "jitter" => check.jitter = percent(reader, item, key, 0),
        _ => check.initial = reader.word(field).unwrap_or_default(),
    }
}

fn read_own(reader: &mut Reader<'_>, key: &str, item: Item<'_>, probe: &mut Probe) {
    match probe {
        Probe::Tcp => {}
        Probe::Exec(exec) => {
            let what = "a list for `command`: the program and its arguments";
            let items: Vec<Item<'_>> = reader.list(item, what).collect();
            let text = |item| reader.parse(item, "text", |text| Ok::<_, String>(text.to_owned()));
            exec.command = items.into_iter().filter_map(text).collect();
        }
        Probe::Grpc(grpc) => match key {
            "service" => grpc.service = word(reader, item, key),
            "tls" => {
                let on = reader.flag(item, key);
                grpc.tls = grpc.tls.take().or(on.then(ProbeTls::default));
            }
            _ => read_tls(reader, key, item, grpc.tls.get_or_insert_default()),
        },
        Probe::Http(http) => match key {
            "method" => {
                http.method =
                    reader.parse(item, "a method such as `GET`", read_method).unwrap_or_default();
            }
            "path" => {
                http.path =
                    reader.parse(item, "a path such as `/healthz`", read_path).unwrap_or_default();
            }
            "host" => http.host = Some(word(reader, item, key)),
            "status" => {
                let what = "statuses such as `200` or `200-299,404`";
                http.status = reader.parse(item, what, read_statuses).unwrap_or_default();
            }
            "body" => http.body = Some(word(reader, item, key)),
            _ => read_tls(reader, key, item, http.tls.get_or_insert_default()),
        },
    }
}

fn read_tls(reader: &mut Reader<'_>, key: &str, item: Item<'_>, tls: &mut ProbeTls) {
    match key {
        "verify" => tls.verify = reader.flag(item, key),
        "server_name" => tls.server_name = Some(word(reader, item, key)),
        _ => {
            let absolute = |text: &str| match PathBuf::from(text) {
                path if path.is_absolute() => Ok(path),
                _ => Err(format!("`{text}`: write the whole path of the file")),
            };
            tls.ca = reader.parse(item, "the path of a PEM file", absolute);
        }
    }
}

fn read_ejection(reader: &mut Reader<'_>, item: Item<'_>) -> EjectionPolicy {
    let mut policy = EjectionPolicy::default();
    if !item.is_mapping() && matches!(item.text(), Some("off" | "false")) {
        return EjectionPolicy { failures: 0, ..policy };
    }
    let second = Duration::from_secs(1);
    for field in reader.fields(item, "a mapping for `ejection`, or `off`", &EJECTION) {
        let (key, item) = (field.key, field.item);
        match key {
            "failures" => policy.failures = reader.number(field),
            "time" => policy.time = time(reader, item, key, second).unwrap_or(policy.time),
            "max_time" => {
                policy.max_time = time(reader, item, key, second).unwrap_or(policy.max_time);
            }
            _ => policy.max_ejected = percent(reader, item, key, 1),
        }
    }
    policy.max_time = policy.max_time.max(policy.time);
    policy
}

fn word(reader: &mut Reader<'_>, item: Item<'_>, key: &str) -> String {
    let what = format!("text for `{key}`");
    reader.parse(item, &what, |text| Ok::<_, String>(text.to_owned())).unwrap_or_default()
}

/// `50` or `50%`.
fn percent(reader: &mut Reader<'_>, item: Item<'_>, key: &str, least: u8) -> u8 {
    let what = format!("a percentage from {least} to 100 for `{key}`");
    let read = |text: &str| {
        let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<u8>().ok();
        let fits = number.filter(|number| (least..=100).contains(number));
        fits.ok_or_else(|| format!("`{text}` is not {what}"))
    };
    reader.parse(item, &what, read).unwrap_or_default()
}

fn time(reader: &mut Reader<'_>, item: Item<'_>, key: &str, least: Duration) -> Option<Duration> {
    let what = format!("a time such as `2s` or `500ms` for `{key}`");
    let read = |text: &str| {
        let time = humantime::parse_duration(text)
            .map_err(|error| format!("`{text}` is no time such as `2s` or `500ms`: {error}"))?;
        if (least..=LONGEST).contains(&time) {
            return Ok(time);
        }
        let (least, most) =
            (humantime::format_duration(least), humantime::format_duration(LONGEST));
        Err(format!("`{key}` of {text} is out of range; use {least} to {most}"))
    };
    reader.parse(item, &what, read)
}

fn read_method(text: &str) -> Result<String, String> {
    let good = text.bytes().all(|b| b.is_ascii_uppercase()) && text.len() <= 20;
    good.then(|| text.to_owned()).ok_or_else(|| format!("`{text}` is not a method such as `GET`"))
}

fn read_path(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'#';
    let good = text.starts_with('/') && text.bytes().all(plain);
    good.then(|| text.to_owned()).ok_or_else(|| {
        format!("`{text}` is not a path such as `/healthz?full=1`: begin with `/`, escape the rest")
    })
}

/// `200`, `200-399`, `200-299,404`.
fn read_statuses(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let bad = || format!("`{text}` is no set of statuses such as `200` or `200-299,404`");
    let status = |text: &str| {
        let number = text.trim().parse::<u16>().ok();
        number.filter(|n| (100..=599).contains(n)).ok_or_else(bad)
    };
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (status(low)?, status(high)?);
        if low <= high { Ok((low, high)) } else { Err(bad()) }
    };
    text.split(',').map(range).collect()
}

#[cfg(test)]
mod tests;
