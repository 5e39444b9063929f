//! Rules: the text of a field → its value, or the problem with it.

use super::plan::{Endpoint, Layout, Upstream};
use crate::words::{basis_points, quoted};
use std::net::Ipv6Addr;

pub fn holds(text: &str, most: usize, punctuation: &str) -> bool {
    let fits = |char: char| char.is_ascii_alphanumeric() || punctuation.contains(char);
    (1..=most).contains(&text.len()) && text.chars().all(fits)
}

pub fn layout(text: &str) -> Result<Layout, String> {
    let found = Layout::ALL.iter().find(|(name, _)| *name == text);
    let found = found.map(|(_, layout)| *layout);
    found.ok_or_else(|| {
        let names = Layout::ALL.map(|(name, _)| name).join(", ");
        format!("{} is none of {names}", quoted(text))
    })
}

pub fn name(text: &str) -> Result<String, String> {
    match holds(text, 64, "._-") {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is not [A-Za-z0-9._-]{{1,64}}", quoted(text))),
    }
}

/// A cluster's name: a header's value, so it may not be empty or hold anything odd.
pub fn cluster_name(text: &str) -> Result<String, String> {
    match holds(text, 256, "._-|:/") {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is not [A-Za-z0-9._|:/-]{{1,256}}",
            quoted(text)
        )),
    }
}

pub fn variable(text: &str) -> Result<String, String> {
    let begins = text.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
    match begins && holds(text, 256, "_") {
        true => Ok(text.to_owned()),
        // Someone may have written the key itself: it is not said again.
        false => Err("is not the name of a variable, [A-Za-z_][A-Za-z0-9_]*; the key itself is never written here".into()),
    }
}

pub fn whole(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if digits && (least..=most).contains(&number) => Ok(number),
        _ => Err(format!(
            "{} is not a whole number in {least}..={most}",
            quoted(text)
        )),
    }
}

pub fn limit(text: &str) -> Result<u64, String> {
    whole(text, 1, 100_000)
}

pub fn percentage(text: &str) -> Result<u16, String> {
    basis_points(text).map_err(|problem| {
        let what = problem.what;
        what.strip_prefix("percent ").unwrap_or(&what).to_owned()
    })
}

pub fn header(text: &str) -> Result<String, String> {
    match holds(text, 128, "-_") && !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is not a header's name in lower case",
            quoted(text)
        )),
    }
}

pub fn key_header(text: &str) -> Result<String, String> {
    /// Headers that mean something to Envoy or HTTP itself.
    const OTHERS: [&str; 8] = [
        "connection",
        "content-length",
        "host",
        "te",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
        super::filter::ROUTED_BY,
    ];
    let name = header(text)?;
    match OTHERS.contains(&text) || name.starts_with("x-slotgate-") {
        true => Err(format!("{} is not for a key", quoted(text))),
        false => Ok(name),
    }
}

/// The text ahead of a key, like `Bearer `. Envoy takes a percent sign in it, and the filter a dollar, for a variable.
pub fn key_prefix(text: &str) -> Result<String, String> {
    let fits = |byte: u8| (b' '..=b'~').contains(&byte) && !b"%$\"\\".contains(&byte);
    match text.len() <= 128 && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is not printable ASCII without % $ \" and \\",
            quoted(text)
        )),
    }
}

pub fn printable(text: &str) -> Result<String, String> {
    let fits = |byte: u8| (b' '..=b'~').contains(&byte);
    match (1..=256).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is not 1 to 256 bytes of printable ASCII",
            quoted(text)
        )),
    }
}

pub fn login(text: &str) -> Result<String, String> {
    match printable(text)?.contains(' ') {
        true => Err(format!("{} has a space", quoted(text))),
        false => Ok(text.to_owned()),
    }
}

pub fn file(text: &str) -> Result<String, String> {
    let fits = |byte: u8| (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte);
    match (1..=1024).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is not a path of printable ASCII", quoted(text))),
    }
}

pub fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(format!("port {} is not in 1..=65535", quoted(text))),
    }
}

/// `host:port`, `[::1]:port`; without a port where one is usual.
pub fn endpoint(text: &str, usual: Option<u16>) -> Result<Endpoint, String> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => (host, rest),
            _ => {
                return Err(format!(
                    "{} is not an address of IPv6 in brackets",
                    quoted(text)
                ));
            }
        },
        None => match text.find(':') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        },
    };
    let in_brackets = text.starts_with('[');
    if !in_brackets && (!holds(host, 253, ".-_") || host.starts_with('-')) {
        return Err(format!(
            "{} does not begin with a host's name or address",
            quoted(text)
        ));
    }
    let port = match (rest.strip_prefix(':'), usual) {
        (Some(digits), _) => port(digits)?,
        (None, Some(usual)) if rest.is_empty() => usual,
        (None, _) if rest.is_empty() => return Err(format!("{} has no port", quoted(text))),
        (None, _) => return Err(format!("{} is not host:port", quoted(text))),
    };
    let host = host.to_owned();
    Ok(Endpoint { host, port })
}

/// A listener's: a port on the loopback interface, or an address and a port.
pub fn listen(text: &str) -> Result<Endpoint, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return port(text).map(Endpoint::local);
    }
    let at = endpoint(text, None)?;
    match at.is_name() {
        true => Err(format!(
            "{} is not a port, or an address and a port",
            quoted(text)
        )),
        false => Ok(at),
    }
}

/// `https://host`, `http://host:port`.
pub fn upstream(text: &str) -> Result<Upstream, String> {
    let form = || {
        format!(
            "{} is not https://host, https://host:port or http://host:port",
            quoted(text)
        )
    };
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(form()),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        return Err(format!(
            "{} has a path: clients send it, so leave it out",
            quoted(text)
        ));
    }
    if rest.contains('@') {
        return Err("has a login in it: keys come from `key_env`".into());
    }
    let usual = if tls { 443 } else { 80 };
    let at = endpoint(rest, Some(usual)).map_err(|_| form())?;
    Ok(Upstream::Host { at, tls })
}
