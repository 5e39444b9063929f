//! Upstream pushback → how long its account should rest. Pure parsing; the caller brings the clock.

use crate::config::Cooldown;

/// How long to cool for a response of this status, in ms; `None`: the status is no pushback.
///
/// `retry_after` is the header's value; without one, or with one that says nothing usable, the default counts.
/// `now_unix_s` is the caller's wall clock, for a `retry-after` that is a date.
#[must_use]
pub fn length_ms(
    cooldown: &Cooldown,
    status: u16,
    retry_after: Option<&[u8]>,
    now_unix_s: u64,
) -> Option<u64> {
    if !cooldown.statuses.contains(&status) {
        return None;
    }
    let asked = retry_after.and_then(|value| retry_after_ms(value, now_unix_s, cooldown.max_ms));
    Some(
        asked
            .unwrap_or(cooldown.default_ms)
            .clamp(1, cooldown.max_ms.max(1)),
    )
}

/// `retry-after` (RFC 9110, 10.2.3) in ms, at most `max_ms`.
///
/// `None` for: an empty value, anything but digits or an IMF-fixdate, a date in the past, zero seconds.
#[must_use]
pub fn retry_after_ms(value: &[u8], now_unix_s: u64, max_ms: u64) -> Option<u64> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    let seconds = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit mean longer than any bound.
        text.parse().unwrap_or(u64::MAX)
    } else {
        imf_fixdate(text)?.checked_sub(now_unix_s)?
    };
    Some(seconds.saturating_mul(1000).min(max_ms)).filter(|ms| *ms > 0)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970.
fn imf_fixdate(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day = number(parts.next()?, 31)?;
    let name = parts.next()?;
    let month = (1_u64..).zip(MONTHS).find(|(_, month)| *month == name)?.0;
    let year = number(parts.next()?, 9999).filter(|year| *year >= 1970)?;
    let mut clock = parts.next()?.split(':');
    let (hour, minute, second) = (
        number(clock.next()?, 23)?,
        number(clock.next()?, 59)?,
        number(clock.next()?, 60)?,
    );
    if parts.next()? != "GMT" || parts.next().is_some() || clock.next().is_some() || day == 0 {
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
    let seconds = hour
        .saturating_mul(3600)
        .saturating_add(minute.saturating_mul(60))
        .saturating_add(second);
    Some(days.saturating_mul(86_400).saturating_add(seconds))
}

fn number(text: &str, most: u64) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
        .filter(|number| *number <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT, RFC 9110's own example

    #[test]
    fn seconds_and_dates() {
        let ms = |value: &str| retry_after_ms(value.as_bytes(), NOW, 600_000);
        assert_eq!(ms("3"), Some(3_000));
        assert_eq!(ms(" 3 "), Some(3_000));
        assert_eq!(ms("99999999999999999999999"), Some(600_000));
        assert_eq!(ms("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10_000));
        assert_eq!(ms("Mon, 07 Nov 1994 00:00:00 GMT"), Some(600_000));
        for nothing in [
            "",
            "0",
            "-1",
            "1.5",
            "soon",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1993 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:47 GMT",
            "Sun, 06 Nov 1994 08:49:47",
            "Sun, 00 Nov 1994 08:49:47 GMT",
            ", GMT",
        ] {
            assert_eq!(ms(nothing), None, "{nothing:?}");
        }
        assert_eq!(retry_after_ms(b"\xff\xfe", NOW, 1), None);
    }

    #[test]
    fn dates_against_known_ones() {
        assert_eq!(imf_fixdate("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(imf_fixdate("Sun, 06 Nov 1994 08:49:37 GMT"), Some(NOW));
        assert_eq!(
            imf_fixdate("Thu, 29 Feb 2024 12:00:00 GMT"),
            Some(1_709_208_000)
        );
        assert_eq!(
            imf_fixdate("Fri, 31 Dec 9999 23:59:59 GMT"),
            Some(253_402_300_799)
        );
    }

    #[test]
    fn bounded_and_only_for_the_statuses() {
        let cooldown = Cooldown {
            statuses: vec![429, 529],
            default_ms: 5_000,
            max_ms: 60_000,
        };
        assert_eq!(length_ms(&cooldown, 200, Some(b"3"), NOW), None);
        assert_eq!(length_ms(&cooldown, 429, None, NOW), Some(5_000));
        assert_eq!(length_ms(&cooldown, 429, Some(b"soon"), NOW), Some(5_000));
        assert_eq!(length_ms(&cooldown, 529, Some(b"3"), NOW), Some(3_000));
        assert_eq!(length_ms(&cooldown, 529, Some(b"9999"), NOW), Some(60_000));
    }
}
