//! Upstream pushback → how long its account should rest. Pure parsing; the caller brings the clock.

use crate::config::Cooldown;
use crate::headers::Headers;

/// How long an account should rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// In ms, 1..=`cooldown.max_ms`.
    pub ms: u64,
    /// Headers that say how long, and say it in no form known here: they were passed over.
    pub malformed: u64,
}

/// How a header says how long.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// Milliseconds from now.
    Ms,
    /// RFC 9110, 10.2.3: seconds from now, or a date.
    RetryAfter,
    /// Seconds since 1970, or RFC 3339.
    Moment,
    /// As Go prints one: `1h2m3.5s`.
    Duration,
}

/// An answer to this very request; it counts whatever the status is. The first that says anything wins.
const ANSWERS: [(&str, Form); 2] = [
    ("retry-after-ms", Form::Ms),
    ("retry-after", Form::RetryAfter),
];
/// When a window of the rate limit ends. These stand on every response, so beside a 503 they say nothing about it.
const WINDOW: [(&str, Form); 1] = [("anthropic-ratelimit-unified-reset", Form::Moment)];
/// The same, of two limits, one of which was hit: the longer counts, for after the shorter one the next request may be
/// refused again.
const WINDOWS: [(&str, Form); 2] = [
    ("x-ratelimit-reset-requests", Form::Duration),
    ("x-ratelimit-reset-tokens", Form::Duration),
];
/// The status that is about a rate limit.
const TOO_MANY_REQUESTS: u16 = 429;
const MS: u64 = 1_000_000;

/// How long to cool for a response of this status; `None`: the status is no pushback.
///
/// The first of these headers that says anything usable wins: `retry-after-ms`, `retry-after`; for a 429 then
/// `anthropic-ratelimit-unified-reset`, and the longer of `x-ratelimit-reset-requests` and `-tokens`; else the default
/// counts. One that says zero, or a time that is over, is not usable, but not malformed either.
///
/// Dates are compared with the response's own `date`, so that no clock of ours matters; without one with `now_unix_s`,
/// the caller's wall clock.
#[must_use]
pub fn rest(cooldown: &Cooldown, status: u16, headers: Headers, now_unix_s: u64) -> Option<Rest> {
    if !cooldown.statuses.contains(&status) {
        return None;
    }
    let mut malformed: u64 = 0;
    let now_unix_s = match headers.get("date").map(|date| http_date(date, now_unix_s)) {
        Some(Some(date)) => date,
        Some(None) => {
            malformed = 1;
            now_unix_s
        }
        None => now_unix_s,
    };
    let mut read = |(name, form): &(&str, Form)| {
        let value = headers.get(name)?.trim_ascii();
        let ms = match form {
            Form::Ms => decimal(value, MS).map(to_ms),
            Form::RetryAfter => retry_after_ms(value, now_unix_s),
            Form::Moment => instant_ms(value, now_unix_s),
            Form::Duration => duration_ms(value),
        };
        malformed = malformed.saturating_add(u64::from(ms.is_none()));
        ms.filter(|ms| *ms > 0)
    };
    let mut asked = ANSWERS.iter().find_map(&mut read);
    if asked.is_none() && status == TOO_MANY_REQUESTS {
        asked = WINDOW.iter().find_map(&mut read);
        if asked.is_none() {
            asked = WINDOWS.iter().filter_map(&mut read).max();
        }
    }
    let ms = asked
        .unwrap_or(cooldown.default_ms)
        .clamp(1, cooldown.max_ms.max(1));
    Some(Rest { ms, malformed })
}

/// `retry-after` in ms: whole seconds, or an HTTP date; 0 for one that is over. `None`: malformed.
#[must_use]
pub fn retry_after_ms(value: &[u8], now_unix_s: u64) -> Option<u64> {
    match seconds(value) {
        Some(seconds) => Some(seconds.saturating_mul(1000)),
        None => Some(until_ms(http_date(value, now_unix_s)?, now_unix_s)),
    }
}

/// A point in time in ms from now: seconds since 1970, or RFC 3339; 0 for one that is over. `None`: malformed.
#[must_use]
pub fn instant_ms(value: &[u8], now_unix_s: u64) -> Option<u64> {
    let instant = seconds(value).or_else(|| rfc3339(value))?;
    Some(until_ms(instant, now_unix_s))
}

fn until_ms(instant: u64, now_unix_s: u64) -> u64 {
    instant.saturating_sub(now_unix_s).saturating_mul(1000)
}

/// A duration as Go prints it (`time.Duration.String`), in ms, rounded up: numbers, each with its unit. `None`: malformed.
#[must_use]
pub fn duration_ms(value: &[u8]) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", MS),
        ("s", 1_000 * MS),
        ("m", 60_000 * MS),
        ("h", 3_600_000 * MS),
    ];
    let mut rest = value;
    let mut sum: u64 = 0;
    while !rest.is_empty() {
        let is_number = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
        let (number, behind) = split_while(rest, is_number);
        let (unit, behind) = split_while(behind, |byte| !is_number(byte));
        let (_, unit) = UNITS.iter().find(|(name, _)| name.as_bytes() == unit)?;
        sum = sum.saturating_add(decimal(number, *unit)?);
        rest = behind;
    }
    Some(to_ms(sum)).filter(|_| !value.is_empty())
}

fn split_while(text: &[u8], holds: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    let length = text.iter().take_while(|byte| holds(byte)).count();
    text.split_at_checked(length).unwrap_or((text, &[]))
}

fn to_ms(ns: u64) -> u64 {
    ns.div_ceil(MS)
}

/// `12` or `12.5`, times the unit.
fn decimal(text: &[u8], unit: u64) -> Option<u64> {
    let (whole, behind) = split_while(text, u8::is_ascii_digit);
    let mut sum = seconds(whole)?.saturating_mul(unit);
    if let Some((_, fraction)) = behind.split_first().filter(|(dot, _)| **dot == b'.') {
        let mut place = unit;
        // Checked to be digits.
        seconds(fraction)?;
        for digit in fraction {
            place /= 10;
            sum = sum.saturating_add(u64::from(digit & 15).saturating_mul(place));
        }
    } else if !behind.is_empty() {
        return None;
    }
    Some(sum)
}

/// Digits and nothing else. More than fit mean longer than any bound.
fn seconds(text: &[u8]) -> Option<u64> {
    let all = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    all.then(|| {
        text.iter().fold(0_u64, |sum, digit| {
            sum.saturating_mul(10).saturating_add(u64::from(digit & 15))
        })
    })
}

/// An HTTP date (RFC 9110, 5.6.7) in any of its three forms, as seconds since 1970.
#[must_use]
pub fn http_date(value: &[u8], now_unix_s: u64) -> Option<u64> {
    // In Gregorian years of 365.2425 days: near enough to tell a century.
    let this_year = (now_unix_s / 31_556_952).saturating_add(1970);
    ["a, d n Y h:i:s GMT", "A, d-n-y h:i:s GMT", "a n e h:i:s Y"]
        .iter()
        .find_map(|form| read(value, form, this_year).filter(|(_, rest)| rest.is_empty()))
        .map(|(instant, _)| instant)
}

/// RFC 3339 (5.6) as seconds since 1970, a part of a second left out.
#[must_use]
pub fn rfc3339(value: &[u8]) -> Option<u64> {
    let (instant, mut rest) = read(value, "Y-m-dTh:i:s", 0)?;
    if let Some((_, fraction)) = rest.split_first().filter(|(dot, _)| **dot == b'.') {
        let (digits, behind) = split_while(fraction, u8::is_ascii_digit);
        seconds(digits)?;
        rest = behind;
    }
    match rest.split_first()? {
        (b'Z', []) => Some(instant),
        (sign @ (b'+' | b'-'), [h1, h2, b':', m1, m2]) => {
            let hours = seconds(&[*h1, *h2]).filter(|hours| *hours < 24)?;
            let minutes = seconds(&[*m1, *m2]).filter(|minutes| *minutes < 60)?;
            let offset = hours
                .saturating_mul(3600)
                .saturating_add(minutes.saturating_mul(60));
            if *sign == b'+' {
                instant.checked_sub(offset)
            } else {
                instant.checked_add(offset)
            }
        }
        _ => None,
    }
}

const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// Reads a date by its form, letter by letter, and answers seconds since 1970 and what is left of the text.
///
/// `a`, `A`: the weekday, short or long (which one is not checked); `d`: day, `e` with a space for a 0; `n`: month by name,
/// `m` by number; `Y`: year, `y`: its last two digits, of the century that puts it at most 50 years ahead of `this_year`;
/// `h`, `i`, `s`: hour, minute, second. Any other letter is itself.
fn read<'t>(mut text: &'t [u8], form: &str, this_year: u64) -> Option<(u64, &'t [u8])> {
    let [mut year, mut month, mut day, mut second] = [0_u64; 4];
    for letter in form.bytes() {
        let width = match letter {
            b'Y' => 4,
            b'a' | b'n' => 3,
            b'd' | b'e' | b'm' | b'y' | b'h' | b'i' | b's' => 2,
            b'A' => text.iter().take_while(|byte| **byte != b',').count(),
            _ => 1,
        };
        let (part, rest) = text.split_at_checked(width)?;
        text = rest;
        let number = |most: u64| seconds(part).filter(|number| *number <= most);
        let add = |unit: u64, more: u64| second.saturating_add(more.saturating_mul(unit));
        match letter {
            b'a' => DAYS
                .iter()
                .find(|name| name.as_bytes().starts_with(part))
                .map(|_| ())?,
            b'A' => DAYS
                .iter()
                .find(|name| name.as_bytes() == part)
                .map(|_| ())?,
            b'n' => {
                month = (1..)
                    .zip(MONTHS.chunks_exact(3))
                    .find(|(_, name)| *name == part)?
                    .0;
            }
            b'm' => month = number(12)?,
            b'd' => day = number(31)?,
            b'e' => day = seconds(part.trim_ascii_start())?,
            b'Y' => year = number(9999)?,
            b'y' => {
                year = (this_year / 100)
                    .saturating_mul(100)
                    .saturating_add(number(99)?);
                if year > this_year.saturating_add(50) {
                    year = year.saturating_sub(100);
                }
            }
            b'h' => second = add(3600, number(23)?),
            b'i' => second = add(60, number(59)?),
            // A leap second is the next one's first.
            b's' => second = add(1, number(60)?),
            _ if part != [letter] => return None,
            _ => {}
        }
    }
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last = match month {
        2 => 28_u64.saturating_add(u64::from(leap)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=last).contains(&day) || month == 0 || year < 1970 {
        return None;
    }
    // Days from civil, after Howard Hinnant's chrono-compatible date algorithms: years begin in March.
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month.saturating_sub(3))
    } else {
        (year.saturating_sub(1), month.saturating_add(9))
    };
    let day_of_year = shifted_month.saturating_mul(153).saturating_add(2) / 5;
    let days = shifted_year
        .saturating_mul(365)
        .saturating_add(shifted_year / 4)
        .saturating_sub(shifted_year / 100)
        .saturating_add(shifted_year / 400)
        .saturating_add(day_of_year)
        .saturating_add(day)
        .checked_sub(719_469)?;
    Some((days.saturating_mul(86_400).saturating_add(second), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT, RFC 9110's own example

    #[test]
    fn seconds_and_dates() {
        for (value, expected) in [
            ("3", Some(3_000)),
            ("0", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10_000)),
            ("Sun Nov  6 08:49:47 1994", Some(10_000)),
            ("Sun Nov 06 08:49:47 1994", Some(10_000)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1993 08:49:37 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("1 ", None),
            ("soon", None),
            ("Sun, 06 Foo 1994 08:49:47 GMT", None),
            ("Sun, 06 Nov 1994 08:49:47", None),
            ("Sun, 06 Nov 1994 08:49:47 GMT ", None),
            ("Sun, 06 Nov 1994 08:49:47 UTC", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:60:00 GMT", None),
            ("Sun, 00 Nov 1994 08:49:47 GMT", None),
            ("Thu, 31 Nov 1994 08:49:47 GMT", None),
            ("Wed, 29 Feb 1995 08:49:47 GMT", None),
            ("Foo, 06 Nov 1994 08:49:47 GMT", None),
            ("Sun, 6 Nov 1994 08:49:47 GMT", None),
            ("Sun, 06-Nov-94 08:49:47 GMT", None),
            ("Sunday, 06 Nov 1994 08:49:47 GMT", None),
            ("Sun Nov 6 08:49:47 1994", None),
            ("Sun, 06 Nov 1969 08:49:47 GMT", None),
            (", GMT", None),
        ] {
            assert_eq!(retry_after_ms(value.as_bytes(), NOW), expected, "{value:?}");
        }
        assert_eq!(retry_after_ms(b"\xff\xfe", NOW), None);
    }

    #[test]
    fn instants() {
        for (value, expected) in [
            ("784111778", Some(1_000)),
            ("784111777", Some(0)),
            ("3", Some(0)),
            ("1994-11-06T08:49:47Z", Some(10_000)),
            ("1994-11-06T08:49:47.999Z", Some(10_000)),
            ("1994-11-06T09:49:47+01:00", Some(10_000)),
            ("1994-11-06T03:19:47-05:30", Some(10_000)),
            ("1994-11-06T08:49:47", None),
            ("1994-11-06T08:49:47.Z", None),
            ("1994-11-06 08:49:47Z", None),
            ("1994-13-06T08:49:47Z", None),
            ("1994-00-06T08:49:47Z", None),
            ("1994-11-06T08:49:47+0100", None),
            ("1994-11-06T08:49:47+24:00", None),
            ("1970-01-01T00:00:00+01:00", None),
            ("784111778.5", None),
            ("", None),
        ] {
            assert_eq!(instant_ms(value.as_bytes(), NOW), expected, "{value:?}");
        }
    }

    #[test]
    fn durations() {
        for (value, expected) in [
            ("1s", Some(1_000)),
            ("6m0s", Some(360_000)),
            ("20ms", Some(20)),
            ("1h2m3.5s", Some(3_723_500)),
            ("7.66s", Some(7_660)),
            ("1.0001s", Some(1_001)),
            ("0.5ms", Some(1)),
            ("500us", Some(1)),
            ("500\u{b5}s", Some(1)),
            ("1ns", Some(1)),
            ("0s", Some(0)),
            ("99999999999999999999h", Some(u64::MAX / MS + 1)),
            ("1.99999999999999999999999999s", Some(2_000)),
            ("", None),
            ("30", None),
            ("s", None),
            ("1d", None),
            ("1.s", None),
            (".5s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("1 s", None),
            ("1sm", None),
        ] {
            assert_eq!(duration_ms(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn dates_against_known_ones() {
        let imf = |text: &str| http_date(text.as_bytes(), NOW);
        assert_eq!(imf("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(imf("Sun, 06 Nov 1994 08:49:37 GMT"), Some(NOW));
        assert_eq!(imf("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(imf("Fri, 31 Dec 9999 23:59:59 GMT"), Some(253_402_300_799));
        // Two digits of a year: at most 50 years ahead.
        let year = |text: &str, now: u64| http_date(text.as_bytes(), now);
        let in_2026 = 1_780_000_000;
        let (y1980, y2070, y2030) = (315_532_800, 3_155_760_000, 1_893_456_000);
        assert_eq!(
            year("Tuesday, 01-Jan-80 00:00:00 GMT", in_2026),
            Some(y1980)
        );
        assert_eq!(
            year("Wednesday, 01-Jan-70 00:00:00 GMT", in_2026),
            Some(y2070)
        );
        assert_eq!(
            year("Tuesday, 01-Jan-30 00:00:00 GMT", in_2026),
            Some(y2030)
        );
    }

    fn cooldown() -> Cooldown {
        Cooldown {
            statuses: vec![429, 529],
            default_ms: 5_000,
            max_ms: 60_000,
            probe: true,
            scope: None,
        }
    }

    fn rested(status: u16, headers: &[(&str, &str)]) -> Option<(u64, u64)> {
        let pairs: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        let rest = rest(
            &cooldown(),
            status,
            Headers::new(&Headers::serialize(&pairs)),
            NOW,
        )?;
        Some((rest.ms, rest.malformed))
    }

    #[test]
    fn the_most_specific_header_that_says_anything_wins() {
        let ms = ("retry-after-ms", "1500.2");
        let after = ("retry-after", "3");
        let unified = ("anthropic-ratelimit-unified-reset", "784111787");
        let requests = ("x-ratelimit-reset-requests", "20ms");
        let tokens = ("x-ratelimit-reset-tokens", "6.5s");
        for (status, headers, expected) in [
            (200, &[after][..], None),
            (429, &[], Some((5_000, 0))),
            (
                429,
                &[tokens, requests, unified, after, ms],
                Some((1_501, 0)),
            ),
            (429, &[tokens, requests, unified, after], Some((3_000, 0))),
            (429, &[tokens, requests, unified], Some((10_000, 0))),
            (429, &[tokens, requests], Some((6_500, 0))),
            (429, &[requests], Some((20, 0))),
            (429, &[(after.0, "9999")], Some((60_000, 0))),
            // Of an overload the windows say nothing.
            (529, &[tokens, requests, unified], Some((5_000, 0))),
            (529, &[tokens, after], Some((3_000, 0))),
            // Zero, and what is over: nothing said, nothing wrong.
            (429, &[(ms.0, "0"), after], Some((3_000, 0))),
            (429, &[(after.0, "0")], Some((5_000, 0))),
            (429, &[(unified.0, "1")], Some((5_000, 0))),
            // Malformed: passed over and counted.
            (429, &[(ms.0, "soon"), after], Some((3_000, 1))),
            (
                429,
                &[(ms.0, "-5"), (after.0, "1.5"), unified],
                Some((10_000, 2)),
            ),
            (
                429,
                &[(ms.0, ""), (requests.0, "30"), tokens],
                Some((6_500, 2)),
            ),
            (429, &[(after.0, "soon")], Some((5_000, 1))),
            // One that is not looked at is not judged.
            (429, &[after, (unified.0, "soon")], Some((3_000, 0))),
        ] {
            assert_eq!(rested(status, headers), expected, "{status} {headers:?}");
        }
    }

    #[test]
    fn a_date_is_compared_with_the_upstreams_own_clock() {
        let after = ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT");
        let date = |text| ("date", text);
        // A minute ahead of us; an hour behind; without a clock that can be read ours counts.
        let ahead = date("Sun, 06 Nov 1994 08:50:27 GMT");
        assert_eq!(rested(429, &[ahead, after]), Some((10_000, 0)));
        let behind = date("Sun, 06 Nov 1994 07:50:17 GMT");
        assert_eq!(rested(429, &[behind, after]), Some((60_000, 0)));
        assert_eq!(rested(429, &[date("noon"), after]), Some((60_000, 1)));
        let unified = ("anthropic-ratelimit-unified-reset", "784111847");
        assert_eq!(rested(429, &[ahead, unified]), Some((20_000, 0)));
    }
}
