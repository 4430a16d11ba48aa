//! Numbers as people read them: ages, spans, times, bytes, percentages. Pure.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// How long ago `then` was, to two units: `3m12s`, `2d3h`; `-` when unknown.
pub(super) fn age(then: Option<SystemTime>, now: SystemTime) -> String {
    let Some(then) = then else {
        return "-".to_owned();
    };
    // Clocks are set back; a moment ago is the closest true statement then.
    let passed = now.duration_since(then).unwrap_or_default();
    compact(Duration::from_secs(passed.as_secs()), 2)
}

/// A configured span in full: `3h`, `1h30m`.
pub(super) fn span(seconds: u32) -> String {
    compact(Duration::from_secs(seconds.into()), usize::MAX)
}

/// A measured span of time: `850us`, `12.5ms`.
pub(super) fn micros(micros: u64) -> String {
    if micros == 0 {
        return "0us".to_owned();
    }
    format!("{:.1?}", Duration::from_micros(micros)).replace('µ', "u")
}

/// A moment, in UTC to the second; `-` when unknown.
pub(super) fn moment(then: Option<SystemTime>) -> String {
    then.map_or_else(|| "-".to_owned(), |then| humantime::format_rfc3339_seconds(then).to_string())
}

/// The time of day of a moment, in UTC to the second: `12:03:04Z`; `-` when unknown.
pub(super) fn time_of_day(then: Option<SystemTime>) -> String {
    let text = moment(then);
    text.split_once('T').map_or(text.as_str(), |(_, time)| time).to_owned()
}

/// `512B`, `4.0KiB`, `1.5GiB`.
pub(super) fn bytes(count: u64) -> String {
    let mut scaled = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{count}B") } else { format!("{scaled:.1}{unit}") }
}

/// `33.3%`.
pub(super) fn percent(percent: f64) -> String {
    format!("{percent:.1}%")
}

/// The largest `units` units that are not zero. A year and a month are mean ones.
fn compact(duration: Duration, units: usize) -> String {
    const UNITS: [(&str, u64); 6] =
        [("y", 31_557_600), ("mo", 2_630_016), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let mut rest = duration.as_secs();
    let mut text = String::new();
    let mut left = units;
    for (unit, seconds) in UNITS {
        let count = rest / seconds;
        rest %= seconds;
        if count > 0 && left > 0 {
            left -= 1;
            // Writing to a text does not fail.
            let _ = write!(text, "{count}{unit}");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (192, "3m12s"),
            (3600, "1h"),
            (3661, "1h1m"),
            (86400, "1d"),
            (2 * 86400 + 3 * 3600 + 59, "2d3h"),
            (45 * 86400, "1mo14d"),
            (400 * 86400, "1y1mo"),
        ] {
            let then = now - Duration::from_secs(seconds) - Duration::from_millis(300);
            assert_eq!(age(Some(then), now), expected, "{seconds}");
        }
        assert_eq!(age(Some(now + Duration::from_secs(5)), now), "0s");
        assert_eq!(age(None, now), "-");
    }

    #[test]
    fn spans_are_exact() {
        assert_eq!(span(10_800), "3h");
        assert_eq!(span(5_401), "1h30m1s");
    }

    #[test]
    fn measured_spans() {
        assert_eq!(micros(0), "0us");
        assert_eq!(micros(850), "850.0us");
        assert_eq!(micros(12_540), "12.5ms");
    }

    #[test]
    fn times_of_day() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 + 12 * 3600 + 184);
        assert_eq!(time_of_day(Some(then)), "12:03:04Z");
        assert_eq!(time_of_day(None), "-");
    }

    #[test]
    fn sizes() {
        for (count, expected) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (8 << 20, "8.0MiB"),
            (3 << 40, "3.0TiB"),
            (5 << 50, "5120.0TiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
