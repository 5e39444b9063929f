//! Where a request's value comes from: one of `{header: …}`, `{cookie: …}`, `{query: …}`, `{property: …}`.

use super::error::{closest, quoted};
use super::fields::{Cursor, Fields};
use super::rules::{COOKIE, QUERY, has_control_bytes};

/// The fields of which a source has exactly one.
const KINDS: [&str; 4] = ["header", "cookie", "query", "property"];

/// The attributes of Envoy (1.40) that have parts: `extensions/filters/common/expr/context.h`, `common/wasm/context.cc`.
const WITH_PARTS: [&str; 15] = [
    "cluster_metadata",
    "connection",
    "destination",
    "filter_state",
    "listener_metadata",
    "metadata",
    "node",
    "request",
    "response",
    "route_metadata",
    "source",
    "upstream",
    "upstream_filter_state",
    "upstream_host_metadata",
    "xds",
];

/// Where one value of a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// A request header, lower case.
    Header(String),
    /// A cookie by name.
    Cookie(String),
    /// A query parameter by name.
    Query(String),
    /// A property of the stream, by its index in [`super::Config::properties`].
    Property(usize),
}

/// Reads the one field of these that is there; the caller rejects unknown fields.
#[inline(never)]
pub(super) fn read(f: &mut Fields<'_, '_>) -> Option<ValueSource> {
    let (name, mut at) = f.one_of(&KINDS)?;
    match name {
        "header" => at.header().map(ValueSource::Header),
        "cookie" => at.text(COOKIE).map(ValueSource::Cookie),
        "query" => at.text(QUERY).map(ValueSource::Query),
        _ => property(&mut at).map(ValueSource::Property),
    }
}

/// A list of at least so many sources.
#[inline(never)]
pub(super) fn list(
    f: &mut Fields<'_, '_>,
    name: &'static str,
    least: usize,
) -> Option<Vec<ValueSource>> {
    f.list(name, least..=16, |at| {
        let mut f = at.fields();
        let source = read(&mut f);
        f.reject_unknown();
        source
    })
}

/// The index of a property's path among those that the configuration names.
fn property(at: &mut Cursor<'_, '_>) -> Option<usize> {
    let parts: Vec<&str> = match at.value.as_str() {
        Some(text) => text.split('.').collect(),
        None if at.value.is_array() => {
            let parts = at.array(1..=16)?.iter().map_while(|part| part.as_str());
            parts.collect()
        }
        None => return at.refuse("is neither a string nor a list of strings"),
    };
    let whole = at
        .value
        .as_array()
        .is_none_or(|list| list.len() == parts.len());
    let bad = |part: &&str| part.is_empty() || has_control_bytes(part);
    if whole && parts.is_empty() {
        return None;
    }
    if !whole || parts.iter().any(bad) {
        return at.refuse("has a part that is no text, is empty or holds a control byte");
    }
    if let [root, _, ..] = parts.as_slice()
        && !WITH_PARTS.contains(root)
    {
        let hint = closest(root, &WITH_PARTS).map(|known| format!(" (did you mean {known}?)"));
        let hint = hint.unwrap_or_default();
        at.error(format!(
            "{} is no attribute of Envoy with parts{hint}",
            quoted(root)
        ));
        return None;
    }
    // `envoy.lb` and `wasm.name` are one name each, which would never be found in two.
    let cut_up =
        |pair: &[&str]| matches!(pair, ["filter_metadata" | "filter_state", "envoy" | "wasm"]);
    if at.value.is_string() && parts.windows(2).any(cut_up) {
        return at.refuse("is split at each dot: a name that holds dots needs the form of a list");
    }
    let path = parts.join("\0").into_bytes();
    let known = &mut at.collector.properties;
    let index = known.iter().position(|other| *other == path);
    Some(index.unwrap_or_else(|| {
        known.push(path);
        known.len().saturating_sub(1)
    }))
}
