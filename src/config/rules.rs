//! What single values must be.

/// A test for a string, and what to say of a string that fails it.
pub(super) type Rule = (fn(&str) -> bool, &'static str);

pub(super) const ANY: Rule = (|_| true, "");

pub(super) const NAME: Rule = (is_name, "is not [A-Za-z0-9._-]{1,64}");

pub(super) const KEY_PREFIX: Rule = (|s| is_word(s, b"._:-"), "is not [A-Za-z0-9._:-]{1,64}");

pub(super) const CLUSTER: Rule = (
    |s| (1..=125).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic()),
    "is not 1..=125 printable ASCII characters without spaces",
);

pub(super) const USERNAME: Rule = (
    |s| !s.contains(|c: char| c.is_whitespace() || c.is_control()),
    "holds a space or a control character",
);

pub(super) const HOST: Rule = (
    |s| {
        (1..=253).contains(&s.len())
            && s.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    },
    "is not a host name in lower case, without a port",
);

pub(super) const COOKIE: Rule = (is_token, "is not a cookie name");

pub(super) const QUERY: Rule = (
    |s| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_graphic() && !b"&=#".contains(&b))
    },
    "is not a query parameter's name",
);

pub(super) const MATCH_VALUE: Rule = (
    |s| !s.is_empty() && !has_control_bytes(s),
    "is empty or holds a control byte",
);

/// What pools and accounts may be called.
pub(crate) fn is_name(s: &str) -> bool {
    is_word(s, b"._-")
}

fn is_word(s: &str, punctuation: &[u8]) -> bool {
    (1..=64).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || punctuation.contains(&b))
}

/// RFC 9110, 5.6.2.
fn is_token(s: &str) -> bool {
    !s.is_empty()
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether some byte may not stand in a header's value (RFC 9110, 5.5).
pub(super) fn has_control_bytes(s: &str) -> bool {
    s.bytes().any(|b| b.is_ascii_control() && b != b'\t')
}

pub(super) fn header_name(name: &str) -> Result<String, &'static str> {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        ":authority" | ":path" => Ok(name),
        "host" => Err("is not seen by a filter: use :authority"),
        _ if name.starts_with(':') => Err("is not one of the pseudo headers :authority, :path"),
        _ if is_token(&name) => Ok(name),
        _ => Err("is not a header name"),
    }
}
