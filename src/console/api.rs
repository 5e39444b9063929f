//! What may be asked of the console, who may ask it, and the answers: everything that needs no Redis.

use super::page;
use crate::config::Console as Config;
use crate::json::Json;
use crate::ledger::changes::is_name;
use crate::ledger::commands::{AccountTerms, Change};
use crate::ledger::fault::Fault;
use crate::ledger::view::{Set, quoted};
use crate::request::gray::same;
use crate::request::headers::Headers;
use crate::worker::decisions;
use core::net::{Ipv4Addr, Ipv6Addr};
use serde_json::{Map, Value};
use std::rc::Rc;

/// No body may be longer, in bytes.
pub const MAX_BODY: usize = 4_096;
/// No id of a request or a lease may be longer, in bytes.
const MAX_ID: usize = 256;

/// Sent with every answer. The page loads nothing but its own parts, and nobody may frame it.
const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// An answer to the client.
#[derive(Debug, PartialEq, Default, Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: u32,
    /// Its media type.
    pub content_type: &'static str,
    /// One more header.
    pub header: Option<(&'static str, &'static str)>,
    /// The whole body: of a poll, one for all who share it.
    pub body: Rc<str>,
}

impl Response {
    /// Status 200.
    #[must_use]
    pub fn text(content_type: &'static str, body: Rc<str>) -> Self {
        Self {
            status: 200,
            content_type,
            header: None,
            body,
        }
    }

    /// JSON, with status 200.
    #[must_use]
    pub fn json(json: Json) -> Self {
        Self::text("application/json", json.into_text().into())
    }

    /// `kind` is for programs, `message` says in parts what and where, `hint` what to try.
    #[must_use]
    #[inline(never)]
    pub fn error(status: u32, kind: &str, message: &[&str], hint: &str) -> Self {
        let mut json = Json::default();
        json.raw("{").name("error").raw("{").name("kind").text(kind);
        json.name("message").text(&message.concat()).name("try");
        json.text_or_null(Some(hint).filter(|hint| !hint.is_empty()));
        json.raw("}").raw("}");
        Self {
            status,
            ..Self::json(json)
        }
    }

    /// All headers, in the layout of [`crate::request::headers`].
    #[must_use]
    pub fn headers(&self) -> Vec<u8> {
        let all: Vec<(&[u8], &[u8])> = HEADERS
            .iter()
            .chain(&[("content-type", self.content_type)])
            .chain(&self.header)
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        Headers::serialize(&all)
    }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// A part of the page.
    Part(&'static str, &'static str),
    /// Every pool.
    Status,
    /// What this Envoy knows without Redis.
    Envoy,
    /// Why accounts would be taken.
    Explain,
    /// Which way a request went.
    Recall,
    /// One of `control.lua`'s verbs on an account: the action's name and the verb.
    Account(&'static str, &'static str),
    /// One of `account.lua`'s changes of an account.
    Terms,
    /// The percentage.
    Percent,
    /// A session's account.
    Unbind,
    /// Whether the token is the right one: it changes nothing.
    Token,
}

/// All paths.
const ROUTES: [(&str, Route); 14] = [
    ("/", Route::Part("text/html; charset=utf-8", page::INDEX)),
    (
        "/style.css",
        Route::Part("text/css; charset=utf-8", page::STYLE),
    ),
    (
        "/main.js",
        Route::Part("text/javascript; charset=utf-8", page::SCRIPT),
    ),
    ("/api/status", Route::Status),
    ("/api/envoy", Route::Envoy),
    ("/api/explain", Route::Explain),
    ("/api/recall", Route::Recall),
    ("/api/drain", Route::Account("drain", "drain")),
    ("/api/undrain", Route::Account("undrain", "undrain")),
    (
        "/api/cooldown_clear",
        Route::Account("cooldown_clear", "thaw"),
    ),
    ("/api/account", Route::Terms),
    ("/api/percent", Route::Percent),
    ("/api/unbind", Route::Unbind),
    ("/api/token", Route::Token),
];

impl Route {
    fn is_get(self) -> bool {
        match self {
            Self::Part(..) | Self::Status | Self::Envoy => true,
            Self::Explain
            | Self::Recall
            | Self::Account(..)
            | Self::Terms
            | Self::Percent
            | Self::Unbind
            | Self::Token => false,
        }
    }

    /// Whether it takes the token. A question leaves a key for a few seconds, but nothing that an operator has set.
    #[must_use]
    pub fn changes(self) -> bool {
        match self {
            Self::Part(..) | Self::Status | Self::Envoy | Self::Explain | Self::Recall => false,
            Self::Account(..) | Self::Terms | Self::Percent | Self::Unbind | Self::Token => true,
        }
    }

    /// What its body may hold beside `pool`.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Part(..) | Self::Status | Self::Envoy | Self::Token => &[],
            Self::Explain => &["session", "scope"],
            Self::Recall => &["request", "lease"],
            Self::Account(..) => &["account", "by"],
            Self::Terms => &[
                "account",
                "change",
                "max_concurrency",
                "priority",
                "enabled",
                "pace",
                "by",
            ],
            Self::Percent => &["percent", "by"],
            Self::Unbind => &["session", "by"],
        }
    }
}

/// What a request asks for, as far as its headers tell.
///
/// # Errors
/// The answer that refuses it.
pub fn admit(config: &Config, headers: Headers) -> Result<Route, Response> {
    let header = |name: &str| value(headers, name);
    let authority = header(":authority");
    // A page elsewhere whose name was made to lead here (DNS rebinding) comes with that name.
    if !is_ours(config, authority) {
        let name = shown(authority);
        let hint = "its address, localhost, or a name listed in hosts";
        return Err(Response::error(
            403,
            "host",
            &[&name, " is not a name of this console"],
            hint,
        ));
    }
    let path = until(header(":path"), b'?');
    let Some((path, route)) = ROUTES.iter().find(|(known, _)| known.as_bytes() == path) else {
        return Err(Response::error(
            404,
            "no_path",
            &["there is nothing at ", &shown(path)],
            "/ or /api/status",
        ));
    };
    let method = header(":method");
    let (fits, allow) = if route.is_get() {
        (matches!(method, b"GET" | b"HEAD"), "GET, HEAD")
    } else {
        (method == b"POST", "POST")
    };
    if !fits {
        let message = [path, " takes ", allow, ", not ", &shown(method)];
        return Err(Response {
            header: Some(("allow", allow)),
            ..Response::error(405, "method", &message, "")
        });
    }
    if route.is_get() {
        return Ok(*route);
    }
    from_here(headers, authority)?;
    if route.changes() {
        may_change(config, header("authorization"))?;
    }
    Ok(*route)
}

#[inline(never)]
fn value<'a>(headers: Headers<'a>, name: &str) -> &'a [u8] {
    headers.get(name).unwrap_or_default()
}

/// The text before the first such byte, or all of it.
fn until(text: &[u8], byte: u8) -> &[u8] {
    text.split(|other| *other == byte).next().unwrap_or(text)
}

/// The answer to the right token.
#[must_use]
pub fn token_is_right() -> Response {
    let mut json = Json::default();
    json.raw("{").name("action").text("token").raw("}");
    Response::json(json)
}

/// The answer when too many ask at once.
#[must_use]
pub fn crowded() -> Response {
    unavailable("too many requests at once", false)
}

/// The answer when the body was not there in time.
#[must_use]
pub fn no_body() -> Response {
    let hint = "allow_on_headers_stop_iteration: true in the console's PluginConfig";
    Response::error(408, "no_body", &["the body did not arrive"], hint)
}

/// The answer to a body that is too long.
#[must_use]
pub fn too_long() -> Response {
    let most = MAX_BODY.to_string();
    let message = ["the body is longer than ", &most, " bytes"];
    Response::error(413, "too_long", &message, "")
}

/// Whether this console may be called so: by a plain address, which can't be a name that leads elsewhere, by `localhost`,
/// or by one of its own names; with a port or without.
fn is_ours(config: &Config, authority: &[u8]) -> bool {
    let text = std::str::from_utf8(authority).unwrap_or_default();
    if let Some(bracketed) = text.strip_prefix('[') {
        return bracketed
            .split_once(']')
            .is_some_and(|(address, port)| address.parse::<Ipv6Addr>().is_ok() && is_port(port));
    }
    let (host, port) = text
        .find(':')
        .and_then(|colon| text.split_at_checked(colon))
        .unwrap_or((text, ""));
    // To DNS a name is the same with a dot at its end.
    let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let name = plain(host);
    let known = || config.hosts.iter().any(|known| plain(known) == name);
    let is_host = host.parse::<Ipv4Addr>().is_ok() || name == "localhost" || known();
    !name.is_empty() && is_host && is_port(port)
}

/// Nothing, or a colon and a port.
fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':').unwrap_or("1");
    let is_number = digits.parse::<u16>().is_ok_and(|port| port > 0);
    (text.is_empty() || text.starts_with(':')) && !digits.starts_with('+') && is_number
}

/// No page of another site may ask: it can neither send this media type unasked nor hide where it comes from.
fn from_here(headers: Headers, authority: &[u8]) -> Result<(), Response> {
    let header = |name: &str| value(headers, name);
    let (site, origin) = (header("sec-fetch-site"), header("origin"));
    let own = origin
        .strip_prefix(b"http://")
        .or(origin.strip_prefix(b"https://"))
        .is_none_or(|origin| origin != authority);
    if !matches!(site, b"" | b"same-origin" | b"none") || !origin.is_empty() && own {
        let message = "the request comes from a page of another site";
        return Err(Response::error(403, "cross_site", &[message], ""));
    }
    let media_type = until(header("content-type"), b';').trim_ascii();
    if !media_type.eq_ignore_ascii_case(b"application/json") {
        let message = "content-type is not application/json";
        return Err(Response::error(415, "media_type", &[message], ""));
    }
    Ok(())
}

fn may_change(config: &Config, authorization: &[u8]) -> Result<(), Response> {
    let Some(token) = &config.token else {
        let message = "this console only shows: it has no token";
        let hint = "token_env in its configuration";
        return Err(Response::error(403, "read_only", &[message], hint));
    };
    let given = authorization.split_at_checked(7);
    if given.is_some_and(|(scheme, given)| {
        scheme.eq_ignore_ascii_case(b"bearer ") && same(given, token.0.as_bytes())
    }) {
        return Ok(());
    }
    let message = if authorization.is_empty() {
        "a change needs a token, and there is none"
    } else {
        "the token is wrong"
    };
    Err(Response {
        header: Some(("www-authenticate", "Bearer")),
        ..Response::error(401, "token", &[message], "authorization: Bearer TOKEN")
    })
}

/// What a body asks for. The pool is an index.
#[derive(Debug, PartialEq)]
pub struct Ask {
    /// The pool.
    pub pool: usize,
    /// In the action's own name and in `control.lua`'s; empty: explain, or recall.
    pub action: (&'static str, &'static str),
    /// The account, or the basis points; empty: none.
    pub subject: String,
    /// The session.
    pub session: Option<String>,
    /// The scope whose cooldowns count too, for explain.
    pub scope: Option<String>,
    /// The request that is asked about.
    pub recall: Option<Recall>,
    /// What `account.lua` is asked to change.
    pub terms: Option<(Change, AccountTerms)>,
    /// Who changes something; empty: nobody says.
    pub by: String,
}

/// A question to the workers.
#[derive(Debug, PartialEq)]
pub struct Recall {
    /// `request` or `lease`.
    pub kind: &'static str,
    /// The request's id, or its lease's.
    pub id: String,
    /// A mark that the answer repeats: others may ask at the same time.
    pub nonce: String,
}

impl Recall {
    /// What is put into Redis; see [`decisions::DecisionLog::answer`].
    #[must_use]
    pub fn question(&self) -> String {
        [&self.nonce, " ", self.kind, " ", &self.id].concat()
    }

    /// A worker's answer; `None`: it is to another question, or none.
    #[must_use]
    pub fn told(&self, answer: &[u8]) -> Option<Response> {
        let answer: Value = parsed(answer).ok()?;
        let word = |name: &str| answer.get(name).and_then(Value::as_str);
        if word("nonce") != Some(&self.nonce) {
            return None;
        }
        let mut json = Json::default();
        json.raw("{").name("asked").raw("{").name(self.kind);
        json.text(&self.id).raw("}");
        for name in ["way", "reason", "pool", "account", "lease"] {
            json.name(name).text_or_null(word(name));
        }
        let number = |name: &str| answer.get(name).and_then(Value::as_u64);
        for name in ["bucket", "waited_ms", "ago_ms"] {
            json.name(name);
            match number(name) {
                Some(number) => json.number(number),
                None => json.raw("null"),
            };
        }
        let below = number("below").and_then(|below| u16::try_from(below).ok());
        json.name("percent").percent(below).raw("}");
        Some(Response::json(json))
    }

    /// Nobody answered.
    #[must_use]
    pub fn forgotten(&self) -> Response {
        let id = quoted(&self.id);
        let message = ["no worker remembers ", self.kind, " ", &id];
        Response::error(404, "not_remembered", &message, decisions::FORGETS)
    }
}

/// Reads a body.
///
/// # Errors
/// The answer that refuses it.
pub fn ask(config: &Config, route: Route, body: &[u8]) -> Result<Ask, Response> {
    let fields = match parsed(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err(bad("the body", " is not an object")),
        Err(error) => {
            let message = ["the body is not JSON: ", &error.to_string()];
            return Err(Response::error(400, "json", &message, ""));
        }
    };
    let known = route.fields();
    for name in fields.keys() {
        if name != "pool" && !known.contains(&name.as_str()) {
            return Err(bad(&quoted(name), " is not a field of this"));
        }
    }
    let mut ask = Ask {
        pool: pool(config, &fields)?,
        action: ("", ""),
        subject: String::new(),
        session: text(&fields, "session")?,
        scope: text(&fields, "scope")?,
        recall: None,
        terms: None,
        by: text(&fields, "by")?.unwrap_or_default(),
    };
    if !is_name(&ask.by) {
        let rule = " is longer than 64 bytes, or has control characters";
        return Err(bad("by", rule));
    }
    match route {
        Route::Terms => {
            let terms = account_terms(&fields)?;
            ask.subject.clone_from(&terms.1.id);
            ask.action = (terms.0.action(), "account");
            ask.terms = Some(terms);
        }
        Route::Account(action, verb) => {
            ask.action = (action, verb);
            match text(&fields, "account")? {
                Some(account) => ask.subject = account,
                None => return Err(bad("account", " is required")),
            }
        }
        Route::Percent => {
            ask.action = ("percent_clear", "percent");
            if let Some(set) = basis_points(&fields)? {
                ask.action = ("percent_set", "percent");
                ask.subject = set.to_string();
            }
        }
        Route::Unbind => {
            ask.action = ("unbind", "unbind");
            if ask.session.is_none() {
                return Err(bad("session", " is required"));
            }
        }
        Route::Recall => {
            let (kind, id) = match (text(&fields, "request")?, text(&fields, "lease")?) {
                (Some(id), None) => ("request", id),
                (None, Some(id)) => ("lease", id),
                (_, _) => return Err(bad("either request or lease", " is required")),
            };
            if id.len() > MAX_ID || id.bytes().any(|byte| byte.is_ascii_control()) {
                return Err(bad(kind, " is longer than 256 bytes, or no header's value"));
            }
            let nonce = String::new();
            ask.recall = Some(Recall { kind, id, nonce });
        }
        Route::Explain | Route::Part(..) | Route::Status | Route::Envoy | Route::Token => {}
    }
    Ok(ask)
}

/// The account that is to be changed, and how.
#[inline(never)]
fn account_terms(fields: &Map<String, Value>) -> Result<(Change, AccountTerms), Response> {
    let change = text(fields, "change")?.unwrap_or_default();
    let change = Change::ALL.into_iter().find(|one| one.as_str() == change);
    let change = change.ok_or_else(|| bad("change", " is not add, set, remove or reset"))?;
    let Some(id) = text(fields, "account")? else {
        return Err(bad("account", " is required"));
    };
    let number = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::Number(number)) if number.is_u64() => Ok(number.to_string()),
        Some(_) => Err(bad(name, " is not a whole number")),
    };
    let disabled = match fields.get("enabled") {
        None | Some(Value::Null) => "",
        Some(Value::Bool(true)) => "0",
        Some(Value::Bool(false)) => "1",
        Some(_) => return Err(bad("enabled", " is neither true nor false")),
    };
    let terms = AccountTerms {
        id,
        max_concurrency: number("max_concurrency")?,
        priority: number("priority")?,
        disabled: disabled.to_owned(),
        pace: text(fields, "pace")?.unwrap_or_default(),
    };
    Ok((change, terms))
}

#[inline(never)]
fn parsed(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(text)
}

#[inline(never)]
fn bad(what: &str, rule: &str) -> Response {
    Response::error(400, "field", &[what, rule], "")
}

/// A field's text; `None` when it is missing, null or empty.
#[inline(never)]
fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, Response> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(bad(name, " is not a string"))
        }
    }
}

/// The pool that is named, or the only one.
fn pool(config: &Config, fields: &Map<String, Value>) -> Result<usize, Response> {
    let Some(name) = text(fields, "pool")? else {
        return match config.pools.len() {
            1 => Ok(0),
            _ => Err(bad("pool", " is required")),
        };
    };
    let place = config.pools.iter().position(|known| *known == name);
    place.ok_or_else(|| {
        let message = ["pool ", &quoted(&name), " is none of this console's"];
        Response::error(404, "no_pool", &message, "/api/status lists them")
    })
}

/// Basis points; `None`: back to the configured ones.
fn basis_points(fields: &Map<String, Value>) -> Result<Option<u16>, Response> {
    let (given, percent) = match fields.get("percent") {
        None => return Err(bad("percent", " is required: a number, or null")),
        Some(Value::Null) => return Ok(None),
        Some(value) => match value.as_f64() {
            Some(percent) => (value, percent),
            None => return Err(bad("percent", " is not a number")),
        },
    };
    let exact = percent * 100.0;
    let rule = if !(0.0..=100.0).contains(&percent) {
        " is not in 0..=100"
    } else if (exact - exact.round()).abs() > 1e-6 {
        " has more than two decimals"
    } else {
        return Ok(Some(exact.round() as u16));
    };
    // As it was given: to write out a float would bring 15 kB of code.
    let message = ["percent: ", &given.to_string(), rule];
    Err(Response::error(422, "percent", &message, ""))
}

/// What came of a change, from the old and the new value.
#[must_use]
pub fn changed(ask: &Ask, pool: &str, old: &str, new: &str) -> Response {
    let (action, verb) = ask.action;
    let mut json = Json::default();
    json.raw("{").name("action").text(action);
    if verb == "percent" {
        json.name("pools").raw("[").raw("{");
    }
    json.name("pool").text(pool);
    match verb {
        "percent" => {
            json.name("old").percent(old.parse().ok());
            json.name("new").percent(new.parse().ok());
            json.raw("}").raw("]");
        }
        "unbind" => {
            let was = Some(old).filter(|was| !was.is_empty());
            json.name("changed").flag(was.is_some());
            json.name("was").text_or_null(was);
        }
        _ => {
            json.name("account").text(&ask.subject);
            json.name("changed").flag(old != new);
        }
    }
    json.raw("}");
    Response::json(json)
}

/// What came of an account's change, how it was, and how it is.
#[must_use]
pub fn account_changed(ask: &Ask, pool: &str, [what, before, now]: [&str; 3]) -> Response {
    let mut json = Json::default();
    json.raw("{").name("action").text(ask.action.0);
    json.name("pool").text(pool);
    json.name("account").text(&ask.subject);
    json.name("outcome").text(what);
    json.name("changed")
        .flag(what != "same" && what != "missing");
    for (name, text) in [("before", before), ("now", now)] {
        json.name(name);
        match Set::of(text) {
            Some(set) => set.write(&mut json),
            None => {
                json.raw("null");
            }
        }
    }
    json.raw("}");
    Response::json(json)
}

/// What `account.lua` refuses, in its words.
#[must_use]
pub fn account_refused(error: &str) -> Option<Response> {
    let (kind, what) = [("argument", "BADARG "), ("not_ledger", "NOTLEDGER ")]
        .into_iter()
        .find_map(|(kind, code)| Some((kind, error.strip_prefix(code)?)))?;
    Some(Response::error(422, kind, &[what], ""))
}

/// Redis' error, or what came in its place.
#[must_use]
pub fn refused(fault: Fault, pool: &str, ask: Option<&Ask>) -> Response {
    let subject = ask.map(|ask| quoted(&ask.subject)).unwrap_or_default();
    match fault {
        Fault::NoPool => {
            let hint = "a filter creates it at its first request";
            Response::error(
                404,
                "no_pool",
                &["pool ", pool, " is not in Redis yet"],
                hint,
            )
        }
        Fault::NoAccount => {
            let message = ["pool ", pool, " has no account ", &subject];
            Response::error(404, "no_account", &message, "/api/status lists them")
        }
        Fault::BadArgument => bad(&subject, " can't be the name of an account"),
        Fault::NoScript
        | Fault::ReadOnly
        | Fault::MasterDown
        | Fault::Loading
        | Fault::Moved
        | Fault::Denied
        | Fault::OutOfMemory
        | Fault::Busy
        | Fault::Disk
        | Fault::NoReplicas
        | Fault::TryAgain
        | Fault::Unknown
        | Fault::Garbage
        | Fault::Forbidden
        | Fault::Mismatch => {
            let changes = ask.is_some_and(|ask| !ask.action.0.is_empty());
            let why = ["Redis refused: ", fault.as_str()].concat();
            unavailable(&why, changes && fault.may_have_run())
        }
    }
}

/// Redis can't be asked. `in_doubt`: what was to be changed may have been changed; otherwise nothing was.
#[must_use]
pub fn unavailable(why: &str, in_doubt: bool) -> Response {
    if in_doubt {
        let message = [why, "; the change may have been made nevertheless"];
        return Response::error(503, "in_doubt", &message, "look, then try again");
    }
    Response::error(503, "redis", &[why], "try again in a moment")
}

fn shown(bytes: &[u8]) -> String {
    quoted(std::str::from_utf8(bytes).unwrap_or("�"))
}
