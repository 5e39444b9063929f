//! Writes JSON text piece by piece: a status of thousands of accounts each second needs no tree.

use crate::printable::is_harmful;

/// A document under way. Commas come by themselves.
#[derive(Debug, Default)]
pub struct Json(String);

impl Json {
    /// The text so far.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }

    /// Text that is JSON already: a bracket, `true`, a value made elsewhere.
    #[inline(never)]
    pub fn raw(&mut self, text: &str) -> &mut Self {
        let closes = text.starts_with(['}', ']']);
        if !closes && !self.0.is_empty() && !self.0.ends_with(['{', '[', ':']) {
            self.0.push(',');
        }
        self.0.push_str(text);
        self
    }

    /// A field's name; its value follows.
    #[inline(never)]
    pub fn name(&mut self, name: &str) -> &mut Self {
        self.text(name);
        self.0.push(':');
        self
    }

    /// A string.
    #[inline(never)]
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.raw("\"");
        for char in text.chars() {
            match char {
                '"' | '\\' => {
                    self.0.push('\\');
                    self.0.push(char);
                }
                // None of them needs more than four digits.
                char if is_harmful(char) => {
                    let mut digits = [0; 4];
                    crate::hash::hex(u64::from(char), &mut digits);
                    self.0.push_str("\\u");
                    self.0
                        .push_str(std::str::from_utf8(&digits).unwrap_or("0020"));
                }
                _ => self.0.push(char),
            }
        }
        self.0.push('"');
        self
    }

    /// A string, or null.
    pub fn text_or_null(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.raw("null"),
        }
    }

    /// A whole number.
    pub fn number_or_null(&mut self, number: Option<u64>) -> &mut Self {
        match number {
            Some(number) => self.number(number),
            None => self.raw("null"),
        }
    }

    /// A whole number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_string())
    }

    /// `true` or `false`.
    pub fn flag(&mut self, flag: bool) -> &mut Self {
        self.raw(if flag { "true" } else { "false" })
    }

    /// Millionths as a decimal fraction.
    pub fn millionths(&mut self, millionths: u64) -> &mut Self {
        let text = decimal(millionths, 1_000_000);
        self.raw(&text)
    }

    /// A number of 0..=1, to twelve decimals.
    pub fn share(&mut self, share: f64) -> &mut Self {
        let text = decimal((share * 1e12) as u64, 1_000_000_000_000);
        self.raw(&text)
    }

    /// Basis points as a percentage, or null.
    pub fn percent(&mut self, basis_points: Option<u16>) -> &mut Self {
        match basis_points {
            Some(set) => self.raw(&decimal(u64::from(set), 100)),
            None => self.raw("null"),
        }
    }
}

/// `parts / whole` with as many decimals as needed, at least one; `whole` a power of ten.
#[must_use]
#[inline(never)]
pub fn decimal(parts: u64, whole: u64) -> String {
    let mut text = parts.checked_div(whole).unwrap_or(0).to_string();
    let mut place = whole;
    let mut rest = parts.checked_rem(whole).unwrap_or(0);
    text.push('.');
    if rest == 0 {
        text.push('0');
    }
    while rest > 0 {
        place /= 10;
        let digit = rest.checked_div(place).unwrap_or(0);
        text.push(char::from(b'0' | (digit as u8)));
        rest = rest.checked_rem(place).unwrap_or(0);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        for (parts, whole, expected) in [
            (0, 100, "0.0"),
            (10_000, 100, "100.0"),
            (1_250, 100, "12.5"),
            (7, 100, "0.07"),
            (260_000, 1_000_000, "0.26"),
            (1, 1_000_000, "0.000001"),
        ] {
            assert_eq!(decimal(parts, whole), expected);
        }
    }

    proptest::proptest! {
        /// A parser reads back what was written, and nothing in it commands a terminal.
        #[test]
        fn read_back(name in ".*", text in "[\0-\u{2fff}]*", number: u64, flag: bool, percent in 0_u16..=10_000) {
            proptest::prop_assume!(name != "2");
            let mut json = Json::default();
            json.raw("{").name(&name).raw("[").text(&text).number(number).raw("{").raw("}").raw("]");
            json.name("2").raw("{").name("a").flag(flag).name("b").text_or_null(None);
            json.name("c").percent(Some(percent)).raw("}").raw("}");
            let written = json.into_text();
            assert!(!written.contains(is_harmful), "{written:?}");
            let read: serde_json::Value = serde_json::from_str(&written).unwrap();
            assert_eq!(read[&name], serde_json::json!([text, number, {}]));
            assert_eq!(read["2"]["a"], flag);
            assert_eq!(read["2"]["c"].as_f64(), Some(f64::from(percent) / 100.0));
        }
    }
}
