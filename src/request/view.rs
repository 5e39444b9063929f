//! What a request's values are read from: its headers, and the properties that the configuration names.

use super::headers::Headers;
use crate::config::ValueSource;

/// A property of more bytes than this counts as missing. Headers are bounded by Envoy; what was taken out of a body is not.
pub const MOST_PROPERTY_BYTES: usize = 8 * 1024;

/// A view of one request.
#[derive(Clone, Copy)]
pub struct View<'a> {
    headers: Headers<'a>,
    properties: &'a [Vec<u8>],
}

impl<'a> From<Headers<'a>> for View<'a> {
    fn from(headers: Headers<'a>) -> Self {
        Self::new(headers, &[])
    }
}

impl<'a> View<'a> {
    /// `properties` holds what the host has for [`crate::config::Config::properties`], in that order; empty where it has nothing.
    #[must_use]
    pub fn new(headers: Headers<'a>, properties: &'a [Vec<u8>]) -> Self {
        Self {
            headers,
            properties,
        }
    }

    /// The headers alone.
    #[must_use]
    pub fn headers(self) -> Headers<'a> {
        self.headers
    }

    /// The first value of a source that is not empty: an empty one of the same name hides none that comes after it.
    #[must_use]
    pub fn filled(self, source: &ValueSource) -> Option<&'a [u8]> {
        match source {
            ValueSource::Header(name) => self.headers.filled(name),
            ValueSource::Cookie(_) | ValueSource::Query(_) | ValueSource::Property(_) => {
                self.find(source, &mut |value| !value.is_empty())
            }
        }
    }

    /// The first value of a source that passes a test. Those of cookies come without the spaces around them, those of query
    /// parameters as they stand in `:path`.
    #[inline(never)]
    pub fn find(
        self,
        source: &ValueSource,
        test: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Option<&'a [u8]> {
        match source {
            ValueSource::Header(name) => self.headers.all(name).find(|value| test(value)),
            ValueSource::Cookie(name) => self
                .headers
                .all("cookie")
                .find_map(|line| find_pair(line, b';', name, test)),
            ValueSource::Query(name) => {
                let path = self.headers.get(":path").unwrap_or_default();
                let start = path.iter().position(|byte| *byte == b'?')?;
                let query = path.get(start.saturating_add(1)..)?;
                let query = query.split(|byte| *byte == b'#').next()?;
                find_pair(query, b'&', name, test)
            }
            ValueSource::Property(index) => self.property(*index).filter(|value| test(value)),
        }
    }

    /// What the host has for a property; `None`: nothing, or too much.
    #[must_use]
    pub fn property(self, index: usize) -> Option<&'a [u8]> {
        let value = self.properties.get(index)?.as_slice();
        (1..=MOST_PROPERTY_BYTES)
            .contains(&value.len())
            .then_some(value)
    }
}

/// The value of the first pair of this name that passes a test.
#[inline(never)]
fn find_pair<'a>(
    pairs: &'a [u8],
    separator: u8,
    name: &str,
    test: &mut dyn FnMut(&[u8]) -> bool,
) -> Option<&'a [u8]> {
    let is_cookie = separator == b';';
    let trimmed = |text: &'a [u8]| if is_cookie { text.trim_ascii() } else { text };
    pairs.split(|byte| *byte == separator).find_map(|pair| {
        let rest = trimmed(pair).strip_prefix(name.as_bytes())?;
        let value = trimmed(rest.strip_prefix(b"=")?);
        test(value).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_bounded_and_never_empty() {
        let properties = [
            b"gpt".to_vec(),
            vec![],
            vec![b'x'; MOST_PROPERTY_BYTES],
            vec![b'x'; MOST_PROPERTY_BYTES + 1],
            // 42, as Envoy hands a number over.
            vec![0, 0, 0, 0, 0, 0, 0x45, 0x40],
        ];
        let view = View::new(Headers::new(&[]), &properties);
        let lengths: Vec<_> = (0..6)
            .map(|index| view.filled(&ValueSource::Property(index)).map(<[u8]>::len))
            .collect();
        let expected = [
            Some(3),
            None,
            Some(MOST_PROPERTY_BYTES),
            None,
            Some(8),
            None,
        ];
        assert_eq!(lengths, expected);
    }

    #[test]
    fn every_value_of_a_cookie_and_a_parameter_is_asked() {
        let bytes = Headers::serialize(&[
            (b":path", b"/a?b=&c=1&b=2?&b#b=3"),
            (b"cookie", b"b=; bb=1;b = 0;b= 2 "),
            (b"cookie", b"b=3"),
        ]);
        let view = View::from(Headers::new(&bytes));
        let values = |source: ValueSource| {
            let mut seen = vec![];
            let found = view.find(&source, &mut |value| {
                seen.push(value.to_vec());
                false
            });
            assert_eq!(found, None);
            seen
        };
        assert_eq!(values(ValueSource::Query("b".into())), [&b""[..], b"2?"]);
        assert_eq!(
            values(ValueSource::Cookie("b".into())),
            [&b""[..], b"2", b"3"]
        );
    }
}
