//! Arguments in, and the words that answers are made of.

use crate::problem::Problem;
use serde_json::Value;
use slotgate::json::Json;
pub use slotgate::ledger::view::quoted;
use slotgate::printable::ascii;

/// A percentage in basis points.
pub fn basis_points(text: &str) -> Result<u16, Problem> {
    let rule = |rule: &str| Problem::usage(format!("percent {} {rule}", quoted(text)));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let unsigned = whole.strip_prefix('-').unwrap_or(whole);
    if unsigned.is_empty() || fraction.is_empty() || !digits(unsigned) || !digits(fraction) {
        return Err(rule("is not a number such as 12.5"));
    }
    if fraction.trim_end_matches('0').len() > 2 {
        return Err(rule("has more than two decimals"));
    }
    match text.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok((percent * 100.0).round() as u16),
        Ok(_) | Err(_) => Err(rule("is not in 0..=100")),
    }
}

/// Basis points as a percentage: `12.5`.
pub fn percent(basis_points: u16) -> f64 {
    f64::from(basis_points) / 100.0
}

/// JSON that the library writes, read back as a value.
pub fn document(write: impl FnOnce(&mut Json)) -> Value {
    let mut json = Json::default();
    write(&mut json);
    serde_json::from_str(&json.into_text()).unwrap_or_default()
}

/// The rule for the names of pools, accounts and leases, and with a colon for the prefix.
pub fn name(what: &str, text: &str) -> Result<(), Problem> {
    let punctuation: &[u8] = if what == "prefix" { b"._:-" } else { b"._-" };
    let holds = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || punctuation.contains(&byte));
    if holds {
        return Ok(());
    }
    let punctuation = if what == "prefix" { "._:-" } else { "._-" };
    Err(Problem::usage(format!(
        "{what} {} is not [A-Za-z0-9{punctuation}]{{1,64}}",
        quoted(text)
    )))
}

/// Bytes from Redis as text. Where they are no UTF-8, all but printable ASCII is shown as escapes.
pub fn text(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.unwrap_or_else(|_| ascii(bytes))
}

/// `1 lease`, `2 leases`.
pub fn count(number: u64, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

/// The time of day in UTC.
pub fn clock(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000 % 86_400;
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Those of `names` that someone may have meant, the likeliest first; all of them when they are few.
pub fn near<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    const MOST: usize = 5;
    let mut rated: Vec<(usize, &str)> = names.map(|name| (distance(wrong, name), name)).collect();
    rated.sort_unstable();
    let all = rated.len();
    if all > MOST {
        rated.retain(|(distance, _)| *distance <= wrong.len().div_ceil(3).max(1));
        rated.truncate(MOST);
    }
    let listed: Vec<&str> = rated.iter().map(|(_, name)| *name).collect();
    match listed.as_slice() {
        [] => None,
        _ if all <= MOST => Some(format!("one of: {}", listed.join(", "))),
        _ => Some(format!("did you mean {}?", listed.join(", "))),
    }
}

/// Levenshtein's distance in bytes, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, x) in a.bytes().enumerate() {
        let mut corner = line;
        let mut left = line.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (above, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let changed = corner.saturating_add(usize::from(!x.eq_ignore_ascii_case(&y)));
            corner = *above;
            left = changed
                .min(above.saturating_add(1))
                .min(left.saturating_add(1));
            *above = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotgate::ledger::view::duration;

    #[test]
    fn percentages() {
        for (text, expected) in [
            ("0", 0),
            ("100", 10_000),
            ("12.5", 1_250),
            ("0.07", 7),
            ("33.330", 3_333),
        ] {
            assert_eq!(basis_points(text).unwrap(), expected, "{text}");
        }
        for text in [
            "", "x", "101", "100.01", "-1", "-0.5", "1.234", "1e1", "NaN", "inf", "1.", ".5", "+5",
            "5%", "5 ",
        ] {
            assert!(basis_points(text).is_err(), "{text}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("acct-1", "ACCT-1", 0),
            ("ab", "", 2),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration(0), "0.0 s");
        assert_eq!(duration(4_210), "4.2 s");
        assert_eq!(duration(59_999), "1 min 0 s");
        assert_eq!(duration(3_600_000), "1 h 0 min");
        assert_eq!(clock(86_400_000 + 3_661_000), "01:01:01");
    }
}
