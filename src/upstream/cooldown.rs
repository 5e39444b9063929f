//! Upstream pushback → how long its account should rest. Pure parsing; the caller brings the clock.
//!
//! Which headers are read, and how, is a table of the configuration (`cooldown.headers`). Its default is
//! `cooldown_headers.json`, beside this file. What providers send was looked up in 2026-11:
//!
//! | provider | headers | source |
//! |---|---|---|
//! | any | `retry-after` | RFC 9110, 10.2.3; with decimals from Groq and Cloudflare |
//! | OpenAI, Azure | `retry-after-ms`, `x-ratelimit-reset-requests`, `-tokens` | OpenAI's guide *Rate limits* (durations: `1s`, `6m0s`); Azure sends plain seconds, openai/openai-dotnet#838 |
//! | Groq | `x-ratelimit-reset-requests`, `-tokens` | Groq's docs *Rate limits* (`2m59.56s`) |
//! | Anthropic, API | `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-reset` with `-remaining` | Claude's docs *Rate limits* (RFC 3339); anthropics/anthropic-sdk-typescript#357 |
//! | Anthropic, subscriptions | `anthropic-ratelimit-unified-{5h,7d}-reset` with `-status`; `anthropic-ratelimit-unified-reset` | undocumented: anthropics/claude-code#12829, lidge-jun/opencodex#3809, router-for-me/CLIProxyAPI#5033 |
//! | Codex | `x-codex-{primary,secondary}-reset-after-seconds`, `-reset-at`, with `-used-percent` | openai/codex#4060, commit 0e08dd605; Menci/Floway#458 |
//! | Cerebras, SambaNova | `x-ratelimit-reset-tokens-minute`, `-requests-minute`, `-requests-day`, … with `-remaining-…` | Cerebras' docs *Rate limits* (`33011.382867`, seconds); SambaNova's (`4h17m`) |
//! | Mistral | `x-ratelimit-reset-req-minute`, `-tokens-minute`; formerly `ratelimitbysize-reset` | seen in clients: tidyllm, Prism, ellmer (seconds) |
//! | GitHub, OpenRouter | `x-ratelimit-reset` with `x-ratelimit-remaining` | GitHub's docs *Rate limits for the REST API* (seconds since 1970); OpenRouter sends ms |
//! | IETF drafts | `ratelimit`, `ratelimit-reset` | draft-ietf-httpapi-ratelimit-headers-00 to -10 |
//! | gRPC | `grpc-retry-pushback-ms` | gRFC A6 |

use crate::config::{Cooldown, WaitForm, WaitHeader};
use crate::pool;
use crate::request::headers::Headers;

/// How long an account should rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// In ms, 1..=`cooldown.max_ms`.
    pub ms: u64,
    /// Whether a header said how long.
    pub said: bool,
    /// Headers that say how long, and say it in no form known here: they were passed over.
    pub malformed: u64,
}

const MS: u64 = 1_000_000;
/// Numbers from here on are no delay in seconds (31 years) but a moment since 1970 (2001 or later); in ms.
const EPOCH_MS: u64 = 1_000_000_000_000;

/// How long to cool after a response that is pushback.
///
/// The first entry of `cooldown.headers` that says anything usable wins, else the default counts. A header that says zero,
/// or a time that is over, is not usable, but not malformed either.
///
/// Dates are compared with the response's own `date`, so that no clock of ours matters; without one with `now_unix_s`,
/// the caller's wall clock.
#[must_use]
pub fn rest(cooldown: &Cooldown, status: u16, headers: Headers, now_unix_s: u64) -> Rest {
    let (asked_ms, malformed) = asked(cooldown, status, headers, now_unix_s, false);
    let ms = asked_ms.unwrap_or(cooldown.default_ms);
    Rest {
        ms: ms.clamp(1, cooldown.max_ms.max(1)),
        said: asked_ms.is_some(),
        malformed,
    }
}

/// What the entries of `cooldown.headers` say that are asked, in ms, and how many lines have another form.
fn asked(
    cooldown: &Cooldown,
    status: u16,
    headers: Headers,
    now_unix_s: u64,
    always: bool,
) -> (Option<u64>, u64) {
    let mut malformed: u64 = 0;
    let now_unix_s = match headers.get("date").map(|date| http_date(date, now_unix_s)) {
        Some(Some(date)) => date,
        Some(None) => {
            malformed = 1;
            now_unix_s
        }
        None => now_unix_s,
    };
    let mut read = |rule: &WaitHeader| {
        let counts = rule
            .when
            .as_ref()
            .is_none_or(|when| pool::fits(when, headers));
        let mut longest = 0;
        for line in headers.all(&rule.name).filter(|_| counts) {
            let (ms, is_broken) = line_ms(rule.form, line, now_unix_s);
            longest = longest.max(ms);
            malformed = malformed.saturating_add(is_broken.into());
        }
        longest
    };
    let steps = cooldown.headers.iter();
    let asked_ms = steps
        .filter(|step| step.is_read_of(status) && (step.always || !always))
        .filter_map(|step| step.headers.iter().map(&mut read).max())
        .find(|ms| *ms > 0);
    (asked_ms, malformed)
}

/// Whether headers of an answer that is no pushback are read, if it has this status.
#[must_use]
pub fn is_paced(cooldown: &Cooldown, status: u16) -> bool {
    let mut steps = cooldown.headers.iter();
    steps.any(|step| step.always && step.is_read_of(status))
}

/// How long an account is out of pace after a response that is no pushback: what the entries say that are read of every
/// answer. `ms` is 0 if they say nothing.
#[must_use]
pub fn pace(cooldown: &Cooldown, status: u16, headers: Headers, now_unix_s: u64) -> Rest {
    let (asked_ms, malformed) = asked(cooldown, status, headers, now_unix_s, true);
    Rest {
        ms: asked_ms.unwrap_or(0).min(cooldown.max_ms),
        said: asked_ms.is_some(),
        malformed,
    }
}

/// The longest of what one line of a header says, in ms, and whether a part of it has another form. Proxies join several
/// lines to one, with commas.
fn line_ms(form: WaitForm, line: &[u8], now_unix_s: u64) -> (u64, bool) {
    if form == WaitForm::Ratelimit {
        let ms = wait_ms(form, line.trim_ascii(), now_unix_s);
        return (ms.unwrap_or(0), ms.is_none());
    }
    let (mut longest, mut is_broken, mut is_empty) = (0, false, true);
    let mut left = Some(line);
    while let Some(text) = left {
        let (part, after) = split_comma(text);
        left = after;
        if part.trim_ascii().is_empty() {
            continue;
        }
        is_empty = false;
        let mut ms = wait_ms(form, part.trim_ascii(), now_unix_s);
        if let (None, WaitForm::SecondsOrDate, Some(after)) = (ms, form, after) {
            // A date has a comma of its own.
            let (second, after) = split_comma(after);
            let length = part.len().saturating_add(second.len()).saturating_add(1);
            let both = text.get(..length).unwrap_or_default();
            ms = wait_ms(form, both.trim_ascii(), now_unix_s);
            if ms.is_some() {
                left = after;
            }
        }
        longest = longest.max(ms.unwrap_or(0));
        is_broken |= ms.is_none();
    }
    (longest, is_broken || is_empty)
}

/// The text before the first comma, and the text after it.
fn split_comma(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let (part, rest) = split_while(text, |byte| *byte != b',');
    (part, rest.get(1..))
}

/// What one value says, in ms from now; 0 for a time that is over. `None`: it has another form.
#[must_use]
pub fn wait_ms(form: WaitForm, value: &[u8], now_unix_s: u64) -> Option<u64> {
    let until_ms = |ms: u64| ms.saturating_sub(now_unix_s.saturating_mul(1000));
    let seconds = || decimal(value, 1000 * MS).map(to_ms);
    match form {
        WaitForm::Ms => decimal(value, MS).map(to_ms),
        WaitForm::Seconds => seconds(),
        WaitForm::SecondsOrDate => seconds().or_else(|| {
            let date = http_date(value, now_unix_s)?;
            Some(until_ms(date.saturating_mul(1000)))
        }),
        WaitForm::Duration => seconds().or_else(|| duration_ms(value)),
        WaitForm::UnixS => unix_ms(value)
            .or_else(|| Some(rfc3339(value)?.saturating_mul(1000)))
            .map(until_ms),
        WaitForm::UnixMs => decimal(value, 1).map(until_ms),
        WaitForm::Rfc3339 => rfc3339(value).map(|at| until_ms(at.saturating_mul(1000))),
        WaitForm::Ratelimit => match unix_ms(value) {
            Some(ms) if ms >= EPOCH_MS => Some(until_ms(ms)),
            Some(ms) => Some(ms),
            None => ratelimit_ms(value),
        },
    }
}

/// Seconds as ms. A number of twelve digits or more is ms already: in seconds it would be the year 5138.
fn unix_ms(value: &[u8]) -> Option<u64> {
    let ms = decimal(value, 1000)?;
    if ms < 100 * EPOCH_MS {
        Some(ms)
    } else {
        decimal(value, 1)
    }
}

/// The header `ratelimit` of the IETF drafts, in ms: `"burst";r=0;t=30, "day";r=9;t=3600` since the eighth,
/// `limit=100, remaining=0, reset=50` in the seventh. The longest of the limits that leave nothing, or do not say what
/// they leave: the others were not hit.
fn ratelimit_ms(value: &[u8]) -> Option<u64> {
    let mut limits = vec![(None, None)];
    for part in value.split(|byte| *byte == b',' || *byte == b';') {
        let (key, number) = split_while(part.trim_ascii(), |byte| *byte != b'=');
        let number = number.get(1..).map(|number| decimal(number, 1000 * MS));
        match (key, number, limits.last_mut()) {
            (b"r" | b"remaining", Some(number), Some(limit)) => limit.0 = number,
            (b"t" | b"reset", Some(number), Some(limit)) => limit.1 = number,
            // The name of the next limit.
            (_, None, _) => limits.push((None, None)),
            (_, Some(_), _) => {}
        }
    }
    let waits = limits.into_iter().filter_map(|(remaining, reset)| {
        let was_hit = remaining.unwrap_or(0) == 0;
        reset.map(|reset| if was_hit { to_ms(reset) } else { 0 })
    });
    waits.max()
}

/// A duration as Go prints it (`time.Duration.String`), and with days, in ms, rounded up: numbers, each with its unit.
/// `None`: malformed.
fn duration_ms(value: &[u8]) -> Option<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", MS),
        ("s", 1_000 * MS),
        ("m", 60_000 * MS),
        ("h", 3_600_000 * MS),
        ("d", 86_400_000 * MS),
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

/// Reads a date by its form, letter by letter. Returns seconds since 1970 and the rest of the text.
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
            ("99999999999999999999999", Some(u64::MAX / MS + 1)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10_000)),
            ("Sun Nov  6 08:49:47 1994", Some(10_000)),
            ("Sun Nov 06 08:49:47 1994", Some(10_000)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1993 08:49:37 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", Some(1_500)),
            ("299.997", Some(299_997)),
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
            assert_eq!(
                wait_ms(WaitForm::SecondsOrDate, value.as_bytes(), NOW),
                expected,
                "{value:?}"
            );
        }
        assert_eq!(wait_ms(WaitForm::SecondsOrDate, b"\xff\xfe", NOW), None);
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
            ("784111778.5", Some(1_500)),
            // Twelve digits and more: ms.
            ("784111778000", Some(1_000)),
            ("784111778500", Some(1_500)),
            ("", None),
        ] {
            assert_eq!(
                wait_ms(WaitForm::UnixS, value.as_bytes(), NOW),
                expected,
                "{value:?}"
            );
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
            // A bare number is seconds.
            ("30", Some(30_000)),
            ("33011.382867", Some(33_011_383)),
            ("0", Some(0)),
            ("1d", Some(86_400_000)),
            ("1d2h", Some(93_600_000)),
            ("s", None),
            ("1d2", None),
            ("1w", None),
            ("1.s", None),
            (".5s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("1 s", None),
            ("1sm", None),
        ] {
            assert_eq!(
                wait_ms(WaitForm::Duration, value.as_bytes(), NOW),
                expected,
                "{value:?}"
            );
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

    #[test]
    fn ms_and_seconds() {
        for (value, in_ms, in_seconds) in [
            ("1500", Some(1_500), Some(1_500_000)),
            ("1500.2", Some(1_501), Some(1_500_200)),
            ("0", Some(0), Some(0)),
            ("-5", None, None),
            ("1e3", None, None),
            ("", None, None),
        ] {
            let read = |form| wait_ms(form, value.as_bytes(), NOW);
            assert_eq!(
                (read(WaitForm::Ms), read(WaitForm::Seconds)),
                (in_ms, in_seconds),
                "{value:?}"
            );
        }
    }

    #[test]
    fn moments_that_have_one_form_only() {
        for (value, unix_ms, rfc3339) in [
            ("784111778500", Some(1_500), None),
            ("784111778", Some(0), None),
            ("1994-11-06T08:49:47Z", None, Some(10_000)),
            ("1994-11-06T08:49:27Z", None, Some(0)),
            ("soon", None, None),
        ] {
            let read = |form| wait_ms(form, value.as_bytes(), NOW);
            assert_eq!(
                (read(WaitForm::UnixMs), read(WaitForm::Rfc3339)),
                (unix_ms, rfc3339),
                "{value:?}"
            );
        }
    }

    #[test]
    fn the_drafts_of_the_ietf() {
        let later = "1294111777"; // NOW and 510,000,000 s
        for (value, expected) in [
            // ratelimit-reset, to the sixth draft; some send a moment.
            ("50", Some(50_000)),
            ("0", Some(0)),
            (later, Some(510_000_000_000)),
            // The seventh.
            ("limit=100, remaining=0, reset=50", Some(50_000)),
            ("limit=100, remaining=50, reset=50", Some(0)),
            ("limit=100,reset=7", Some(7_000)),
            // Since the eighth.
            (r#""default";r=0;t=30"#, Some(30_000)),
            (r#""default";t=30;r=5"#, Some(0)),
            (r#""default";t=30"#, Some(30_000)),
            (r#""burst";r=0;t=5, "day";r=999;t=86400"#, Some(5_000)),
            (r#""burst";r=0;t=5, "day";r=0;t=86400"#, Some(86_400_000)),
            (r#""burst" ; r=0 ; t=5,"day";r=0"#, Some(5_000)),
            (r#"default;r=0;t=30;pk=:cHJvamVjdA==:"#, Some(30_000)),
            (r#""default";r=0"#, None),
            (r#""default";r=0;t=soon"#, None),
            ("soon", None),
            ("", None),
            (";;,,==", None),
        ] {
            let read = wait_ms(WaitForm::Ratelimit, value.as_bytes(), NOW);
            assert_eq!(read, expected, "{value:?}");
        }
    }

    #[test]
    fn of_a_joined_list_the_longest() {
        use WaitForm::{Duration, SecondsOrDate, UnixS};
        for (form, line, expected) in [
            (SecondsOrDate, "3, 7", (7_000, false)),
            (SecondsOrDate, "7,3,", (7_000, false)),
            (SecondsOrDate, "3, soon", (3_000, true)),
            (SecondsOrDate, "3,,7", (7_000, false)),
            (
                SecondsOrDate,
                "3, Sun, 06 Nov 1994 08:49:47 GMT, 7",
                (10_000, false),
            ),
            (
                SecondsOrDate,
                "Sun, 06 Nov 1994 08:49:47 GMT, Sun, 06 Nov 1994 08:49:57 GMT",
                (20_000, false),
            ),
            (SecondsOrDate, "Sun, 3", (3_000, true)),
            (SecondsOrDate, "", (0, true)),
            (SecondsOrDate, " , ", (0, true)),
            (Duration, "20ms, 6m0s", (360_000, false)),
            (UnixS, "784111778, 1994-11-06T08:49:47Z", (10_000, false)),
        ] {
            assert_eq!(line_ms(form, line.as_bytes(), NOW), expected, "{line:?}");
        }
    }
}
