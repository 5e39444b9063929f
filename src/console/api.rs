//! What may be asked of the console, who may ask it, and the answers: everything that needs no Redis.

use crate::config::Console as Config;
use crate::gray::same;
use crate::headers::Headers;
use crate::ledger::script::Fault;
use crate::ledger::view::quoted;
use serde_json::{Map, Value as Json, json};
use std::borrow::Cow;

/// No body may be longer, in bytes.
pub const MAX_BODY: usize = 4_096;

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
#[derive(Debug, PartialEq)]
pub struct Response {
    /// The HTTP status.
    pub status: u32,
    /// Its media type.
    pub content_type: &'static str,
    /// One more header.
    pub header: Option<(&'static str, &'static str)>,
    /// The whole body.
    pub body: Cow<'static, [u8]>,
}

impl Response {
    /// JSON, with status 200.
    #[must_use]
    pub fn json(value: &Json) -> Self {
        Self {
            status: 200,
            content_type: "application/json",
            header: None,
            body: value.to_string().into_bytes().into(),
        }
    }

    /// `kind` is for programs, `message` says what and where, `hint` what to try.
    #[must_use]
    pub fn error(status: u32, kind: &str, message: &str, hint: Option<&str>) -> Self {
        let error = json!({"error": {"kind": kind, "message": message, "try": hint}});
        Self {
            status,
            ..Self::json(&error)
        }
    }

    /// All headers, in the layout of [`crate::headers`].
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
    /// Why accounts would be taken.
    Explain,
    /// One of `control.lua`'s verbs on an account: the action's name and the verb.
    Account(&'static str, &'static str),
    /// The percentage.
    Percent,
    /// A session's account.
    Unbind,
}

/// All paths.
const ROUTES: [(&str, Route); 10] = [
    (
        "/",
        Route::Part("text/html; charset=utf-8", include_str!("page.html")),
    ),
    (
        "/page.css",
        Route::Part("text/css; charset=utf-8", include_str!("page.css")),
    ),
    (
        "/page.js",
        Route::Part("text/javascript; charset=utf-8", include_str!("page.js")),
    ),
    ("/api/status", Route::Status),
    ("/api/explain", Route::Explain),
    ("/api/drain", Route::Account("drain", "drain")),
    ("/api/undrain", Route::Account("undrain", "undrain")),
    (
        "/api/cooldown_clear",
        Route::Account("cooldown_clear", "thaw"),
    ),
    ("/api/percent", Route::Percent),
    ("/api/unbind", Route::Unbind),
];

impl Route {
    fn is_get(self) -> bool {
        match self {
            Self::Part(..) | Self::Status => true,
            Self::Explain | Self::Account(..) | Self::Percent | Self::Unbind => false,
        }
    }

    fn changes(self) -> bool {
        match self {
            Self::Part(..) | Self::Status | Self::Explain => false,
            Self::Account(..) | Self::Percent | Self::Unbind => true,
        }
    }

    /// What its body may hold beside `pool`.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Part(..) | Self::Status => &[],
            Self::Explain => &["session", "scope"],
            Self::Account(..) => &["account"],
            Self::Percent => &["percent"],
            Self::Unbind => &["session"],
        }
    }
}

/// What a request asks for, as far as its headers tell.
///
/// # Errors
/// The answer that refuses it.
pub fn admit(config: &Config, headers: Headers) -> Result<Route, Response> {
    let header = |name: &str| headers.get(name).unwrap_or_default();
    let authority = header(":authority");
    // A page elsewhere whose name was made to lead here (DNS rebinding) comes with that name.
    if !is_ours(config, authority) {
        return Err(Response::error(
            403,
            "host",
            &format!(
                "{} is not a name of this console",
                shown(host_of(authority))
            ),
            Some("its address, localhost, or a name listed in hosts"),
        ));
    }
    let path = header(":path");
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let Some((_, route)) = ROUTES
        .into_iter()
        .find(|(known, _)| known.as_bytes() == path)
    else {
        return Err(Response::error(
            404,
            "no_path",
            &format!("there is nothing at {}", shown(path)),
            Some("/, /api/status"),
        ));
    };
    let method = header(":method");
    let (fits, allow) = if route.is_get() {
        (matches!(method, b"GET" | b"HEAD"), "GET, HEAD")
    } else {
        (method == b"POST", "POST")
    };
    if !fits {
        let message = format!("{} takes {allow}, not {}", shown(path), shown(method));
        return Err(Response {
            header: Some(("allow", allow)),
            ..Response::error(405, "method", &message, None)
        });
    }
    if route.is_get() {
        return Ok(route);
    }
    from_here(headers, authority)?;
    if route.changes() {
        may_change(config, header("authorization"))?;
    }
    let length = header("content-length");
    let length = std::str::from_utf8(length)
        .ok()
        .and_then(|digits| digits.parse::<usize>().ok());
    match length {
        Some(length) if length > MAX_BODY => Err(too_long()),
        Some(_) | None => Ok(route),
    }
}

/// The answer to a body that is too long.
#[must_use]
pub fn too_long() -> Response {
    Response::error(
        413,
        "too_long",
        &format!("the body is longer than {MAX_BODY} bytes"),
        None,
    )
}

/// The host's part of `host:port`.
fn host_of(authority: &[u8]) -> &[u8] {
    let colon = authority.iter().rposition(|byte| *byte == b':');
    match colon.and_then(|colon| authority.split_at_checked(colon)) {
        Some((host, port)) if !port.contains(&b']') => host,
        Some(_) | None => authority,
    }
}

/// A plain address can't be a name that leads elsewhere.
fn is_ours(config: &Config, authority: &[u8]) -> bool {
    let host = host_of(authority).to_ascii_lowercase();
    let is_address = host.starts_with(b"[")
        || !host.is_empty()
            && host
                .iter()
                .all(|byte| byte.is_ascii_digit() || *byte == b'.');
    is_address || host == b"localhost" || config.hosts.iter().any(|known| known.as_bytes() == host)
}

/// No page of another site may ask: it can neither send this media type unasked nor hide where it comes from.
fn from_here(headers: Headers, authority: &[u8]) -> Result<(), Response> {
    let header = |name: &str| headers.get(name).unwrap_or_default();
    let (site, origin) = (header("sec-fetch-site"), header("origin"));
    let own = [&b"http://"[..], b"https://"]
        .iter()
        .any(|scheme| origin.strip_prefix(*scheme) == Some(authority));
    if !matches!(site, b"" | b"same-origin" | b"none") || !origin.is_empty() && !own {
        return Err(Response::error(
            403,
            "cross_site",
            "the request comes from a page of another site",
            None,
        ));
    }
    let media_type = header("content-type");
    let media_type = media_type
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    if !media_type
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
    {
        return Err(Response::error(
            415,
            "media_type",
            "content-type is not application/json",
            None,
        ));
    }
    Ok(())
}

fn may_change(config: &Config, authorization: &[u8]) -> Result<(), Response> {
    let Some(token) = &config.token else {
        return Err(Response::error(
            403,
            "read_only",
            "this console only shows: it has no token",
            Some("token_env in its configuration"),
        ));
    };
    let given = authorization.split_at_checked(7).map(|(scheme, given)| {
        scheme.eq_ignore_ascii_case(b"bearer ") && same(given, token.0.as_bytes())
    });
    if given == Some(true) {
        return Ok(());
    }
    let message = if authorization.is_empty() {
        "a change needs a token, and there is none"
    } else {
        "the token is wrong"
    };
    Err(Response {
        header: Some(("www-authenticate", "Bearer")),
        ..Response::error(401, "token", message, Some("authorization: Bearer TOKEN"))
    })
}

/// What a body asks for. The pool is an index.
#[derive(Debug, PartialEq)]
pub enum Ask {
    /// Why accounts would be taken.
    Explain {
        /// The pool.
        pool: usize,
        /// As this session would see it.
        session: Option<String>,
        /// With the cooldowns of this scope.
        scope: Option<String>,
    },
    /// Something of `control.lua`.
    Change(Change),
}

/// What an operator wants changed.
#[derive(Debug, PartialEq)]
pub struct Change {
    /// Its name.
    pub action: &'static str,
    /// Its name in `control.lua`.
    pub verb: &'static str,
    /// The pool.
    pub pool: usize,
    /// The account, or the basis points; empty: none.
    pub subject: String,
    /// The session, for unbind.
    pub session: Option<String>,
}

/// Reads a body.
///
/// # Errors
/// The answer that refuses it.
pub fn ask(config: &Config, route: Route, body: &[u8]) -> Result<Ask, Response> {
    let document = serde_json::from_slice::<Json>(body).map_err(|error| {
        let message = if body.is_empty() {
            "the body is empty, not JSON".to_owned()
        } else {
            format!("the body is not JSON: {error}")
        };
        Response::error(400, "json", &message, None)
    })?;
    let Json::Object(fields) = document else {
        return Err(bad("the body", "is not an object"));
    };
    let known = route.fields();
    if let Some(name) = fields
        .keys()
        .find(|name| *name != "pool" && !known.contains(&name.as_str()))
    {
        let message = format!("{} is not a field", quoted(name));
        let hint = format!("pool, {}", known.join(", "));
        return Err(Response::error(400, "field", &message, Some(&hint)));
    }
    let pool = pool(config, &fields)?;
    let change = |action, verb, subject, session| {
        Ok(Ask::Change(Change {
            action,
            verb,
            pool,
            subject,
            session,
        }))
    };
    match route {
        Route::Account(action, verb) => change(action, verb, needed(&fields, "account")?, None),
        Route::Percent => {
            let set = basis_points(&fields)?;
            let action = if set.is_some() {
                "percent_set"
            } else {
                "percent_clear"
            };
            let subject = set.map(|set| set.to_string()).unwrap_or_default();
            change(action, "percent", subject, None)
        }
        Route::Unbind => change(
            "unbind",
            "unbind",
            String::new(),
            Some(needed(&fields, "session")?),
        ),
        Route::Explain | Route::Part(..) | Route::Status => Ok(Ask::Explain {
            pool,
            session: text(&fields, "session")?,
            scope: text(&fields, "scope")?,
        }),
    }
}

fn bad(what: &str, rule: &str) -> Response {
    Response::error(400, "field", &format!("{what} {rule}"), None)
}

/// A field's text; `None` when it is missing, null or empty.
fn text(fields: &Map<String, Json>, name: &str) -> Result<Option<String>, Response> {
    match fields.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_)) => {
            Err(bad(name, "is not a string"))
        }
    }
}

fn needed(fields: &Map<String, Json>, name: &str) -> Result<String, Response> {
    text(fields, name)?.ok_or_else(|| bad(name, "is required"))
}

/// The pool that is named, or the only one.
fn pool(config: &Config, fields: &Map<String, Json>) -> Result<usize, Response> {
    let Some(name) = text(fields, "pool")? else {
        return if config.pools.len() == 1 {
            Ok(0)
        } else {
            Err(bad("pool", "is required"))
        };
    };
    let place = config.pools.iter().position(|known| *known == name);
    place.ok_or_else(|| {
        Response::error(
            404,
            "no_pool",
            &format!("pool {} is none of this console's", quoted(&name)),
            Some(&config.pools.join(", ")),
        )
    })
}

/// Basis points; `None`: back to the configured ones.
fn basis_points(fields: &Map<String, Json>) -> Result<Option<u16>, Response> {
    let percent = match fields.get("percent") {
        None => return Err(bad("percent", "is required: a number, or null")),
        Some(Json::Null) => return Ok(None),
        Some(value) => value
            .as_f64()
            .ok_or_else(|| bad("percent", "is not a number"))?,
    };
    let exact = percent * 100.0;
    let rule = if !(0.0..=100.0).contains(&percent) {
        "is not in 0..=100"
    } else if (exact - exact.round()).abs() > 1e-6 {
        "has more than two decimals"
    } else {
        return Ok(Some(exact.round() as u16));
    };
    let message = format!("percent: {percent} {rule}");
    Err(Response::error(422, "percent", &message, None))
}

/// What came of a change, from the old and the new value.
#[must_use]
pub fn changed(change: &Change, pool: &str, old: &str, new: &str) -> Response {
    let percent = |digits: &str| digits.parse().ok().map(crate::ledger::view::percent);
    Response::json(&match change.verb {
        "percent" => json!({
            "action": change.action,
            "pools": [{"pool": pool, "old": percent(old), "new": percent(new)}],
        }),
        "unbind" => {
            let was = (!old.is_empty()).then_some(old);
            json!({"action": "unbind", "pool": pool, "changed": was.is_some(), "was": was})
        }
        _ => json!({
            "action": change.action,
            "pool": pool,
            "account": change.subject,
            "changed": old != new,
        }),
    })
}

/// Redis' error, or what came in its place. `change` is what was asked for, if it was one.
#[must_use]
pub fn refused(fault: Fault, pool: &str, change: Option<&Change>) -> Response {
    match (fault, change) {
        (Fault::NoPool, _) => Response::error(
            404,
            "no_pool",
            &format!("pool {pool} is not in Redis yet"),
            Some("a filter creates it at its first request"),
        ),
        (Fault::NoAccount, Some(change)) => Response::error(
            404,
            "no_account",
            &format!("pool {pool} has no account {}", quoted(&change.subject)),
            None,
        ),
        (Fault::BadArgument, Some(change)) => Response::error(
            400,
            "field",
            &format!("account: {} is no name of one", quoted(&change.subject)),
            None,
        ),
        (_, _) => unavailable(
            &format!("Redis refused: {}", fault.as_str()),
            fault.may_have_run() && change.is_some(),
        ),
    }
}

/// Redis can't be asked. `in_doubt`: what was to be changed may have been changed; otherwise nothing was.
#[must_use]
pub fn unavailable(why: &str, in_doubt: bool) -> Response {
    if in_doubt {
        let message = format!("{why}; the change may have been made nevertheless");
        return Response::error(503, "in_doubt", &message, Some("look, then try again"));
    }
    Response::error(503, "redis", why, Some("try again in a moment"))
}

fn shown(bytes: &[u8]) -> String {
    quoted(&String::from_utf8_lossy(bytes))
}
