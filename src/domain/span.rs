//! Durations as people write them: `30s 45m 2h30m 1d`, and ISO 8601 `PT2H30M`.

use super::refusal::{Code, Refusal};
use super::text::shown;

/// The longest duration that anything here may have: 366 days, in seconds.
pub const MAX_SPAN_S: u64 = 366 * 86_400;

/// How many characters of a bad duration an answer repeats.
const SHOWN_CHARS: usize = 40;

/// Reads a duration of whole seconds: more than none, at most [`MAX_SPAN_S`].
///
/// Units stand from the largest to the smallest, each once: `d h m s`, or ISO 8601 `P1DT2H30M5S` without years, months, weeks and fractions.
///
/// # Errors
/// [`Code::BAD_DURATION`] for everything else: signs, spaces, fractions, digits that are not ASCII, zero, too much.
pub fn parse_span(text: &str) -> Result<u64, Refusal> {
    let refuse = |why: &str| {
        let start: String = text.chars().take(SHOWN_CHARS).collect();
        Refusal::new(Code::BAD_DURATION, format!("\"{}\" is no duration: {why}.", shown(&start)))
    };
    let total = match text.strip_prefix('P') {
        Some(iso) => iso_span(iso),
        None => units(text, &[('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)]),
    };
    match total {
        None => Err(refuse("write it like 30m, 2h30m, 1d or PT2H30M")),
        Some(0) => Err(refuse("it must be more than zero")),
        Some(s) if s > MAX_SPAN_S => Err(refuse("at most 366 days are possible")),
        Some(s) => Ok(s),
    }
}

/// Writes seconds as [`parse_span`] reads them, shortest form: `2h30m`; `0s` for none.
pub fn show_span(span_s: u64) -> String {
    let mut left = span_s;
    let mut out = String::new();
    for (unit, worth) in [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)] {
        let count = left / worth;
        left %= worth;
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// What follows the `P` of ISO 8601: days, then `T` and the time of day, at least one of the two.
fn iso_span(text: &str) -> Option<u64> {
    const DAYS: &[(char, u64)] = &[('D', 86_400)];
    const TIME: &[(char, u64)] = &[('H', 3600), ('M', 60), ('S', 1)];
    match text.split_once('T') {
        None => units(text, DAYS),
        Some(("", time)) => units(time, TIME),
        Some((days, time)) => Some(units(days, DAYS)?.saturating_add(units(time, TIME)?)),
    }
}

/// Sums `NUMBER UNIT` pairs whose units come in the given order. A number too large to hold counts as the largest.
fn units(text: &str, allowed: &[(char, u64)]) -> Option<u64> {
    let mut total = 0u64;
    let mut number: Option<u64> = None;
    let mut left = allowed.iter();
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(u64::from(digit)));
        } else {
            let (_, worth) = left.find(|(unit, _)| *unit == c)?;
            total = total.saturating_add(number.take()?.saturating_mul(*worth));
        }
    }
    (number.is_none() && !text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, seconds) in [
            ("30s", 30),
            ("45m", 2700),
            ("2h30m", 9000),
            ("1d", 86_400),
            ("1d2h3m4s", 93_784),
            ("90m", 5400),
            ("366d", MAX_SPAN_S),
            ("PT2H30M", 9000),
            ("P1D", 86_400),
            ("P1DT1S", 86_401),
            ("0h5m", 300),
        ] {
            assert_eq!(parse_span(text).unwrap(), seconds, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "0s",
            "0",
            "-5m",
            "+5m",
            "5",
            "5 m",
            " 5m",
            "5m ",
            "m",
            "5m5",
            "5m5m",
            "5m1h",
            "1.5h",
            "1,5h",
            "5M",
            "5min",
            "1w",
            "18446744073709551616s",
            "99999999999999999999999d",
            "367d",
            "31622401s",
            "٥m",
            "5ｍ",
            "１h",
            "P",
            "PT",
            "P1DT",
            "PT5m",
            "P1M",
            "P1Y",
            "P1W",
            "PT1.5S",
            "pt5m",
            "T5M",
            "PP1D",
            "P-1D",
            "5m\n",
            "5m\0",
        ] {
            let refusal = parse_span(text).unwrap_err();
            assert_eq!(refusal.code, Code::BAD_DURATION, "{text:?}");
            assert!(!refusal.message.chars().any(super::super::text::deceptive), "{text:?}");
        }
        assert_eq!(parse_span("0s").unwrap_err().message, "\"0s\" is no duration: it must be more than zero.");
        assert_eq!(parse_span("400d").unwrap_err().message, "\"400d\" is no duration: at most 366 days are possible.");
        assert_eq!(
            parse_span("soon").unwrap_err().message,
            "\"soon\" is no duration: write it like 30m, 2h30m, 1d or PT2H30M."
        );
        assert!(parse_span(&"9".repeat(1 << 20)).unwrap_err().message.len() < 200);
    }

    #[test]
    fn spans_are_shown_short() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (9000, "2h30m"), (86_400, "1d"), (90_061, "1d1h1m1s")]
        {
            assert_eq!(show_span(seconds), text);
        }
    }

    proptest! {
        #[test]
        fn shown_spans_are_read_back(seconds in 1..=MAX_SPAN_S) {
            prop_assert_eq!(parse_span(&show_span(seconds)).unwrap(), seconds);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_span(&text);
        }
    }
}
