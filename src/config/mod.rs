//! The plugin configuration: JSON in, a checked [`Role`] out, or every error found.
//!
//! Nothing here talks to the host: environment variables come in as a function.

pub mod structpb;

use crate::units::millionths;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// What one plugin instance is told to be.
#[derive(Debug)]
pub enum Role {
    /// The HTTP filter that takes, holds and releases slots.
    Scheduler(Box<Config>),
    /// The network filter that strips and adds gRPC frames.
    Bridge,
    /// The HTTP filter that serves the operator's page and its JSON.
    Console(Box<Console>),
}

/// The console's whole configuration, checked.
#[derive(Debug)]
pub struct Console {
    /// How to reach Redis.
    pub redis: Redis,
    /// The pools it shows, by name, at least one.
    pub pools: Vec<String>,
    /// Who may change something says this; `None`: nobody may.
    pub token: Option<Secret>,
    /// Host names it may be called by, lower case, beside `localhost` and plain addresses.
    pub hosts: Vec<String>,
    /// The share that the schedulers are configured with, in basis points, to be shown.
    pub gray: Option<u16>,
    /// `score.random` in millionths, for explain.
    pub random: u64,
}

/// The scheduler's whole configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// How to reach Redis.
    pub redis: Redis,
    /// Who is in the gray release.
    pub gray: Gray,
    /// How long a lease lasts and how often it is renewed.
    pub lease: LeaseTimes,
    /// Weights of the score.
    pub score: Score,
    /// How priorities enter the score.
    pub priority_mode: PriorityMode,
    /// How sessions keep their account.
    pub affinity: Affinity,
    /// What to do when no account has a free slot.
    pub saturated: OnSaturated,
    /// What to do when the ledger cannot answer.
    pub failure: OnFailure,
    /// How requests that don't take a slot by the ledger are sent on.
    pub traditional: Traditional,
    /// What counts as upstream pushback and how long it lasts.
    pub cooldown: Cooldown,
    /// How often the operator's overrides are looked at, in ms, 100..=60000; 0: never.
    pub poll_ms: u64,
    /// When an account that fails fast is put behind the others.
    pub failing: Failing,
    /// Whether the client is told path and account.
    pub response_headers: bool,
    /// Whether the access log is told of each request.
    pub access_log: bool,
    /// How much is shown one by one.
    pub metrics: Metrics,
    /// The pools, at least one; at most the last one without match rules.
    pub pools: Vec<Pool>,
}

/// `redis.breaker`: when acquires that fail are no longer sent.
#[derive(Debug, Clone, Copy)]
pub struct Breaker {
    /// So many failed in a row.
    pub failures: u32,
    /// How long until one is sent as a probe, in ms; up to half of it is cut off at random.
    pub open_ms: u64,
}

/// `redis`: how to reach the ledger.
#[derive(Debug)]
pub struct Redis {
    /// Name of the cluster that leads to the bridge; 1..=125 bytes of printable ASCII.
    pub pipe_cluster: String,
    /// How long a request waits for its acquire, in ms.
    pub acquire_timeout_ms: u64,
    /// How long the oldest command may wait before the pipe is reset, in ms; at least `acquire_timeout_ms`.
    pub command_timeout_ms: u64,
    /// Greatest number of commands waiting for their reply, or for the pipe, at once.
    pub max_pending: usize,
    /// When to stop asking.
    pub breaker: Breaker,
    /// First part of every key; `[A-Za-z0-9._:-]{1,64}`.
    pub key_prefix: String,
    /// Logical database, 0..=15.
    pub database: u8,
    /// ACL user; empty: the default user.
    pub username: String,
    /// The password itself, read from the variable named by `password_env`; empty: no AUTH.
    pub password: Secret,
}

/// A value that never shows in logs.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `gray`: who is in.
#[derive(Debug)]
pub struct Gray {
    /// Share of sessions that are in, in basis points 0..=10000.
    pub basis_points: u16,
    /// Enforce or shadow.
    pub mode: GrayMode,
    /// Keys the bucket's hash.
    pub salt: String,
    /// Where the session comes from; the first non-empty one wins.
    pub session: Vec<SessionSource>,
    /// The header that forces a request in or out; `None` when no token is set.
    pub gray_override: Option<GrayOverride>,
}

/// `gray.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrayMode {
    /// Requests in the percentage take slots.
    Enforce,
    /// Requests in the percentage ask what would happen, take nothing and never wait.
    Shadow,
}

/// One entry of `gray.session`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionSource {
    /// A request header, lower case.
    Header(String),
    /// A cookie by name.
    Cookie(String),
    /// A query parameter by name.
    Query(String),
}

/// `gray.override` with its token resolved.
#[derive(Debug)]
pub struct GrayOverride {
    /// Header name, lower case.
    pub header: String,
    /// What must stand before `:on` or `:off`.
    pub token: Secret,
}

/// `lease`.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTimes {
    /// A lease not renewed for this long is over, in ms.
    pub ttl_ms: u64,
    /// Time between renewals, in ms; at most half of `ttl_ms`.
    pub renew_interval_ms: u64,
}

/// `affinity`.
#[derive(Debug, Clone, Copy)]
pub struct Affinity {
    /// How long a session keeps its account after its last lease, in ms; 0: no affinity.
    pub ttl_ms: u64,
    /// How much of Redis' memory the sessions of one pool may take, in MB of 2^20 bytes, 7..=256.
    pub max_mb: u64,
}

/// `score`: weights, each 0..=1000; not all 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Weight of the priority.
    pub priority: f64,
    /// Weight of used / max.
    pub load: f64,
    /// Weight of the random part.
    pub random: f64,
}

/// `priority_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriorityMode {
    /// Priority is normalised to 0..1 in the pool and weighted.
    Weighted,
    /// A better priority always wins while it has a free slot.
    Strict,
}

/// `saturated.action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSaturated {
    /// Answer 429 with `retry-after`.
    Reject,
    /// Send it the traditional way.
    Traditional,
}

/// `failure.action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Send it the traditional way.
    Traditional,
    /// Answer 503.
    Reject,
}

/// `traditional`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traditional {
    /// Leave the request as it is.
    Passthrough,
    /// Choose an account on this worker's own counts; each worker may use `max_concurrency / share`, at least 1.
    Local {
        /// How many workers share the accounts, 1..=100000.
        share: u32,
    },
}

/// `cooldown`.
#[derive(Debug)]
pub struct Cooldown {
    /// Upstream statuses that mean pushback; empty: no cooldowns.
    pub statuses: Vec<u16>,
    /// Used when the upstream names no time, in ms.
    pub default_ms: u64,
    /// No cooldown is longer, in ms.
    pub max_ms: u64,
    /// Whether an account that has cooled takes one request at a time until one succeeded.
    pub probe: bool,
    /// The request header, lower case, for whose value alone an account cools; `None`: it cools for all.
    pub scope: Option<String>,
    /// What is asked how long, in this order, at least one; the first that says anything wins.
    pub headers: Vec<WaitStep>,
}

/// One entry of `cooldown.headers`.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitStep {
    /// Statuses it is asked for; empty: for all.
    pub only: Vec<u16>,
    /// The headers; of several the one that says the longest counts.
    pub headers: Vec<WaitHeader>,
}

/// A response header that says how long an account should rest.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitHeader {
    /// Its name, lower case.
    pub name: String,
    /// How it says so.
    pub form: WaitForm,
    /// It counts only for a response whose headers fit this.
    pub when: Option<Match>,
}

/// `cooldown.headers[].form`. Numbers may have decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitForm {
    /// Milliseconds from now.
    Ms,
    /// Seconds from now.
    Seconds,
    /// RFC 9110, 10.2.3: seconds from now, or a date.
    SecondsOrDate,
    /// As Go prints one, and with days: `1d2h3m4.5s`; a bare number is seconds.
    Duration,
    /// Seconds since 1970, ms if it has twelve digits or more; or RFC 3339.
    UnixS,
    /// Milliseconds since 1970.
    UnixMs,
    /// RFC 3339.
    Rfc3339,
    /// `ratelimit` or `ratelimit-reset` of the IETF drafts.
    Ratelimit,
}

impl WaitForm {
    /// All of them, as they are written.
    pub const NAMES: [(&str, Self); 8] = [
        ("ms", Self::Ms),
        ("seconds", Self::Seconds),
        ("seconds_or_date", Self::SecondsOrDate),
        ("duration", Self::Duration),
        ("unix_s", Self::UnixS),
        ("unix_ms", Self::UnixMs),
        ("rfc3339", Self::Rfc3339),
        ("ratelimit", Self::Ratelimit),
    ];
}

/// `failing`.
#[derive(Debug, Clone, Copy)]
pub struct Failing {
    /// Share of the answers that are failures, in percent 0..=100; 0: no account is put behind.
    pub percent: u32,
    /// Within so long from a first failure, in ms.
    pub window_ms: u64,
    /// Of at least so many answers.
    pub min_requests: u32,
    /// Or so many failures in a row, however long that takes.
    pub consecutive: u32,
    /// How long the account is behind, in ms.
    pub behind_ms: u64,
}

/// `metrics`: how much is shown one by one.
#[derive(Debug, Clone, Copy)]
pub struct Metrics {
    /// Pools with counters of their own, the first ones, 0..=1000.
    pub max_pools: usize,
    /// Accounts of each such pool with counters of their own, the first ones, 0..=10000.
    pub max_accounts: usize,
}

/// One pool.
#[derive(Debug)]
pub struct Pool {
    /// Name; `[A-Za-z0-9._-]{1,64}`, unique.
    pub name: String,
    /// Any of these sends a request here; empty: takes what is left.
    pub rules: Vec<Match>,
    /// A higher one replaces the accounts in Redis; 1..=2^53-1.
    pub revision: u64,
    /// The accounts, at least one.
    pub accounts: Vec<Account>,
}

/// One entry of `pools[].match`, or a condition on a response's headers.
#[derive(Debug, PartialEq, Eq)]
pub struct Match {
    /// Header name, lower case.
    pub header: String,
    /// What its value must be.
    pub value: MatchValue,
}

/// How a header's value is compared, byte by byte.
#[derive(Debug, PartialEq, Eq)]
pub enum MatchValue {
    /// The whole value.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Whether the header is there (`true`) or not (`false`).
    Present(bool),
}

/// One account.
pub struct Account {
    /// Id; `[A-Za-z0-9._-]{1,64}`, unique in the pool.
    pub id: String,
    /// Slots, 1..=100000.
    pub max_concurrency: u32,
    /// Lower is preferred, 0..=1000000.
    pub priority: u32,
    /// Whether it takes new leases.
    pub enabled: bool,
    /// Request headers set when this account was chosen, lower-case names, variables filled in.
    pub set_headers: Vec<(String, String)>,
}

/// Header values may come from the environment: only their names are shown.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.set_headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Account")
            .field("id", &self.id)
            .field("max_concurrency", &self.max_concurrency)
            .field("priority", &self.priority)
            .field("enabled", &self.enabled)
            .field("set_headers", &headers)
            .finish()
    }
}

/// Every error found in one configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<String>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Errors {}

/// Reads a plugin configuration: JSON text, or a `google.protobuf.Struct` in its binary form. `env` answers what an
/// environment variable holds.
///
/// # Errors
/// All that is wrong with it, each as `path: value rule`; values of variables are never among them.
pub fn parse(json: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Role, Errors> {
    // A Struct begins with the tag of its first field, a line feed.
    let document = match json.first() {
        Some(b'\n') => structpb::decode(json),
        Some(_) | None => None,
    };
    match document {
        Some(document) => parse_struct(&document, env),
        None => {
            let document = serde_json::from_slice(json);
            read(
                &document.map_err(|e| Errors(vec![format!("not JSON: {e}")]))?,
                false,
                env,
            )
        }
    }
}

/// Reads what a `google.protobuf.Struct` holds. Envoy (1.40) makes a string of every number in its YAML that has a
/// fraction, an exponent or more than 31 bits, so a number may be its text here.
///
/// # Errors
/// As [`parse`].
pub fn parse_struct(
    document: &Value,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Role, Errors> {
    read(document, true, env)
}

fn read(
    document: &Value,
    numbers_as_text: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Role, Errors> {
    let mut found = Found {
        errors: vec![],
        numbers_as_text,
        env,
    };
    let role = role(At {
        path: Path::Root,
        value: document,
        found: &mut found,
    });
    if found.errors.is_empty() {
        Ok(role)
    } else {
        Err(Errors(found.errors))
    }
}

// The readers below always return something, so that one error never hides the next; `parse` throws the result away
// when there was any. Those called from many places are kept out of line, which takes 13 kB off the wasm.

fn role(at: At<'_, '_>) -> Role {
    let mut f = at.fields();
    f.needs(&["role"]);
    let kind = kind(&mut f);
    if kind == Kind::Bridge {
        for name in f
            .map
            .into_iter()
            .flat_map(Map::keys)
            .filter(|name| *name != "role")
        {
            f.error(name, "is not a field of role bridge");
        }
        return Role::Bridge;
    }
    f.needs(&["pools"]);
    // A console has these as the scheduler's own, so that a file may write each once and refer to it.
    let says_gray = f.map.is_some_and(|map| map.contains_key("gray"));
    let redis = redis(f.object("redis"));
    let gray = gray(f.object("gray"));
    let score = score(f.object("score"));
    if kind == Kind::Console {
        let gray = says_gray.then_some(gray.basis_points);
        return Role::Console(Box::new(console(f, redis, gray, score.random)));
    }
    let config = Config {
        redis,
        gray,
        score,
        lease: lease(f.object("lease")),
        priority_mode: f.choice(
            "priority_mode",
            &[
                ("weighted", PriorityMode::Weighted),
                ("strict", PriorityMode::Strict),
            ],
        ),
        affinity: {
            let mut f = f.object("affinity");
            let affinity = Affinity {
                ttl_ms: f.int("ttl_ms", 3_600_000, 0..=2_592_000_000),
                max_mb: f.int("max_mb", 8, 7..=256),
            };
            f.done();
            affinity
        },
        saturated: action(
            f.object("saturated"),
            &[
                ("reject", OnSaturated::Reject),
                ("traditional", OnSaturated::Traditional),
            ],
        ),
        failure: action(
            f.object("failure"),
            &[
                ("traditional", OnFailure::Traditional),
                ("reject", OnFailure::Reject),
            ],
        ),
        traditional: traditional(f.object("traditional")),
        cooldown: cooldown(f.object("cooldown")),
        poll_ms: {
            let mut f = f.object("control");
            let poll_ms: u64 = f.int("poll_ms", 1_000, 0..=60_000);
            if (1..100).contains(&poll_ms) {
                f.error(
                    "poll_ms",
                    format!("{poll_ms} is neither 0 nor in 100..=60000"),
                );
            }
            f.done();
            poll_ms
        },
        failing: failing(f.object("failing")),
        response_headers: f.flag("response_headers", false),
        access_log: f.flag("access_log", false),
        metrics: metrics(f.object("metrics")),
        pools: pools(&mut f),
    };
    f.done();
    Role::Scheduler(Box::new(config))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Scheduler,
    Bridge,
    Console,
}

fn kind(f: &mut Fields<'_, '_>) -> Kind {
    let Some(mut at) = f.at("role") else {
        return Kind::Scheduler;
    };
    match at.value.as_str() {
        Some("scheduler") => Kind::Scheduler,
        Some("bridge") => Kind::Bridge,
        Some("console") => Kind::Console,
        Some(_) | None => at
            .refuse("is not one of scheduler, bridge, console")
            .unwrap_or(Kind::Scheduler),
    }
}

#[inline(never)]
fn texts(
    f: &mut Fields<'_, '_>,
    name: &'static str,
    count: RangeInclusive<usize>,
    rule: Rule,
) -> Vec<String> {
    f.list(name, count, |mut at| at.text(rule))
        .unwrap_or_default()
}

fn console(mut f: Fields<'_, '_>, redis: Redis, gray: Option<u16>, random: f64) -> Console {
    let console = Console {
        redis,
        gray,
        random: millionths(random),
        pools: texts(&mut f, "pools", 1..=1_000, NAME),
        token: f.secret("token_env"),
        hosts: texts(&mut f, "hosts", 0..=64, HOST),
    };
    let short = |token: &Secret| token.0.len() < SHORTEST_TOKEN;
    if console.token.as_ref().is_some_and(short) {
        f.error(
            "token_env",
            format!("its variable holds less than {SHORTEST_TOKEN} bytes"),
        );
    }
    f.done();
    console
}

fn redis(mut f: Fields<'_, '_>) -> Redis {
    let before = f.mark();
    let acquire_timeout_ms = f.int("acquire_timeout_ms", 50, 1..=60_000);
    // A default must not contradict what the document says, so it gives way; the same in `lease` and `cooldown`.
    let command_timeout_ms = f.int(
        "command_timeout_ms",
        acquire_timeout_ms.max(1_000),
        1..=60_000,
    );
    if f.mark() == before && command_timeout_ms < acquire_timeout_ms {
        let rule = format!(
            "{command_timeout_ms} is less than redis.acquire_timeout_ms ({acquire_timeout_ms})"
        );
        f.error("command_timeout_ms", rule);
    }
    let before = f.mark();
    let username = f.text("username", "", USERNAME);
    let password = f.secret("password_env");
    // Without a password there is no AUTH, and Redis would take the commands as the default user's.
    if f.mark() == before && !username.is_empty() && password.is_none() {
        f.error(
            "username",
            format!("{} needs redis.password_env", quoted(&username)),
        );
    }
    let redis = Redis {
        pipe_cluster: f.text("pipe_cluster", "slotgate_pipe", CLUSTER),
        acquire_timeout_ms,
        command_timeout_ms,
        max_pending: f.int("max_pending", 4_096, 16..=1_000_000),
        breaker: breaker(f.object("breaker")),
        key_prefix: f.text("key_prefix", "slotgate", KEY_PREFIX),
        database: f.int("database", 0, 0..=15),
        username,
        password: password.unwrap_or_default(),
    };
    f.done();
    redis
}

fn breaker(mut f: Fields<'_, '_>) -> Breaker {
    let breaker = Breaker {
        failures: f.int("failures", 5, 1..=1_000),
        open_ms: f.int("open_ms", 1_000, 1..=60_000),
    };
    f.done();
    breaker
}

fn gray(mut f: Fields<'_, '_>) -> Gray {
    let gray = Gray {
        basis_points: f
            .at("percent")
            .and_then(|mut at| at.basis_points())
            .unwrap_or(0),
        mode: f.choice(
            "mode",
            &[("enforce", GrayMode::Enforce), ("shadow", GrayMode::Shadow)],
        ),
        salt: f.text("salt", "", ANY),
        session: f
            .list("session", 0..=16, session_source)
            .unwrap_or_else(|| vec![SessionSource::Header("x-session-id".into())]),
        gray_override: gray_override(f.object("override")),
    };
    f.done();
    gray
}

fn session_source(at: At<'_, '_>) -> Option<SessionSource> {
    let mut f = at.fields();
    let source = f
        .one_of(&["header", "cookie", "query"])
        .and_then(|(name, mut at)| match name {
            "header" => at.header().map(SessionSource::Header),
            "cookie" => at.text(COOKIE).map(SessionSource::Cookie),
            _ => at.text(QUERY).map(SessionSource::Query),
        });
    f.done();
    source
}

fn gray_override(mut f: Fields<'_, '_>) -> Option<GrayOverride> {
    let header = f
        .at("header")
        .and_then(|mut at| at.header())
        .unwrap_or_else(|| "x-slotgate-gray".into());
    // It is taken off every request, which can't do without these.
    if header.starts_with(':') {
        f.error("header", format!("{header:?} is a pseudo header"));
    }
    let token = f.secret("token_env");
    f.done();
    token.map(|token| GrayOverride { header, token })
}

fn lease(mut f: Fields<'_, '_>) -> LeaseTimes {
    let before = f.mark();
    let ttl_ms: u64 = f.int("ttl_ms", 15_000, 1_000..=3_600_000);
    let renew_interval_ms = f.int("renew_interval_ms", 5_000.min(ttl_ms / 3), 100..=1_800_000);
    if f.mark() == before && renew_interval_ms > ttl_ms / 2 {
        let rule = format!("{renew_interval_ms} is more than half of lease.ttl_ms ({ttl_ms})");
        f.error("renew_interval_ms", rule);
    }
    f.done();
    LeaseTimes {
        ttl_ms,
        renew_interval_ms,
    }
}

fn score(mut f: Fields<'_, '_>) -> Score {
    let before = f.mark();
    let [priority, load, random] =
        [("priority", 0.5), ("load", 0.3), ("random", 0.2)].map(|(name, default)| {
            f.at(name)
                .and_then(|mut at| at.number(0.0..=1_000.0))
                .unwrap_or(default)
        });
    if f.mark() == before && priority == 0.0 && load == 0.0 && random == 0.0 {
        f.found
            .error(&f.path, "priority, load and random are all 0");
    }
    f.done();
    Score {
        priority,
        load,
        random,
    }
}

fn action<T: Copy>(mut f: Fields<'_, '_>, choices: &[(&str, T); 2]) -> T {
    let action = f.choice("action", choices);
    f.done();
    action
}

fn traditional(mut f: Fields<'_, '_>) -> Traditional {
    let local = f.choice("mode", &[("passthrough", false), ("local", true)]);
    let share = f.int("share", 1, 1..=100_000);
    f.done();
    if local {
        Traditional::Local { share }
    } else {
        Traditional::Passthrough
    }
}

fn cooldown(mut f: Fields<'_, '_>) -> Cooldown {
    let before = f.mark();
    let max_ms = f.int("max_ms", 600_000, 1..=86_400_000);
    let default_ms = f.int("default_ms", 5_000.min(max_ms), 1..=86_400_000);
    if f.mark() == before && default_ms > max_ms {
        f.error(
            "default_ms",
            format!("{default_ms} is more than cooldown.max_ms ({max_ms})"),
        );
    }
    let statuses = f
        .list("statuses", 0..=500, status)
        .unwrap_or_else(|| vec![429, 503, 529]);
    let probe = f.flag("probe", true);
    let mut scope = f.object("scope");
    scope.needs(&["header"]);
    let header = scope.at("header").and_then(|mut at| at.header());
    scope.done();
    let headers = wait_steps(&mut f).unwrap_or_else(default_wait_steps);
    f.done();
    Cooldown {
        statuses,
        default_ms,
        max_ms,
        probe,
        scope: header,
        headers,
    }
}

/// `cooldown.headers` where the configuration does not say otherwise.
fn default_wait_steps() -> Vec<WaitStep> {
    let document = serde_json::from_slice(include_bytes!("../upstream/cooldown_headers.json"));
    let mut found = Found {
        errors: vec![],
        numbers_as_text: false,
        env: &|_| None,
    };
    let at = At {
        path: Path::Root,
        value: &document.unwrap_or_default(),
        found: &mut found,
    };
    wait_steps(&mut at.fields()).unwrap_or_default()
}

#[inline(never)]
fn wait_steps(f: &mut Fields<'_, '_>) -> Option<Vec<WaitStep>> {
    let before = f.mark();
    let steps = f.list("headers", 1..=64, wait_step)?;
    if f.mark() > before {
        return Some(steps);
    }
    let mut seen: Vec<(usize, &[u16], &WaitHeader)> = vec![];
    for (index, step) in steps.iter().enumerate() {
        for header in &step.headers {
            let mut earlier = seen.iter();
            let same = earlier.find(|(_, only, other)| *only == step.only && *other == header);
            if let Some((first, ..)) = same {
                let list = Path::Field(&f.path, "headers");
                let name = quoted(&header.name);
                let what = format!(
                    "{name} is read the same way by {}",
                    Path::Index(&list, *first)
                );
                f.found.error(&Path::Index(&list, index), what);
            }
            seen.push((index, &step.only, header));
        }
    }
    Some(steps)
}

fn wait_step(at: At<'_, '_>) -> Option<WaitStep> {
    let mut f = at.fields();
    let only = f.list("only", 1..=500, status).unwrap_or_default();
    let is_list = matches!(f.one_of(&["name", "longest_of"]), Some(("longest_of", _)));
    let headers = if is_list {
        f.list("longest_of", 2..=16, |at| {
            let mut f = at.fields();
            f.needs(&["name"]);
            let header = wait_header(&mut f);
            f.done();
            header
        })
    } else {
        wait_header(&mut f).map(|header| vec![header])
    };
    f.done();
    Some(WaitStep {
        only,
        headers: headers.unwrap_or_default(),
    })
}

fn status(mut at: At<'_, '_>) -> Option<u16> {
    at.int(100..=599)
}

#[inline(never)]
fn wait_header(f: &mut Fields<'_, '_>) -> Option<WaitHeader> {
    f.needs(&["form"]);
    let name = f.at("name").and_then(|mut at| at.header());
    let form = f.at("form").and_then(|mut at| {
        let word = at.value.as_str();
        let form = WaitForm::NAMES.iter().find(|(name, _)| word == Some(name));
        form.map(|(_, form)| *form).or_else(|| {
            let names = WaitForm::NAMES.map(|(name, _)| name).join(", ");
            at.refuse(format!("is not one of {names}"))
        })
    });
    let when = f.at("when").and_then(match_rule);
    for (field, header) in [
        ("name", name.as_ref()),
        ("when", when.as_ref().map(|when| &when.header)),
    ] {
        // A response has none of those that a configuration may name.
        if let Some(header) = header.filter(|header| header.starts_with(':')) {
            f.error(field, format!("{header:?} is a pseudo header"));
        }
    }
    Some(WaitHeader {
        name: name?,
        form: form?,
        when,
    })
}

fn failing(mut f: Fields<'_, '_>) -> Failing {
    let failing = Failing {
        percent: f.int("percent", 50, 0..=100),
        window_ms: f.int("window_ms", 10_000, 100..=3_600_000),
        min_requests: f.int("min_requests", 20, 1..=1_000_000),
        consecutive: f.int("consecutive", 5, 1..=1_000_000),
        behind_ms: f.int("behind_ms", 30_000, 1..=86_400_000),
    };
    f.done();
    failing
}

fn metrics(mut f: Fields<'_, '_>) -> Metrics {
    let metrics = Metrics {
        max_pools: f.int("max_pools", 20, 0..=1_000),
        max_accounts: f.int("max_accounts", 64, 0..=10_000),
    };
    f.done();
    metrics
}

fn pools(f: &mut Fields<'_, '_>) -> Vec<Pool> {
    let mut after = f.count("pools").unwrap_or(0);
    let mut names = BTreeMap::new();
    let pools = f.list("pools", 1..=1_000, |at| {
        after = after.saturating_sub(1);
        let mut f = at.fields();
        f.needs(&["name", "accounts"]);
        if after > 0 && f.count("match") == Some(0) {
            f.error(
                "match",
                "is empty, but only the last pool may take the rest",
            );
        }
        let mut ids = BTreeMap::new();
        let pool = Pool {
            name: f.unique("name", &mut names),
            rules: f.list("match", 0..=64, match_rule).unwrap_or_default(),
            revision: f.int("revision", 1, 1..=9_007_199_254_740_991),
            accounts: f
                .list("accounts", 1..=100_000, |at| Some(account(at, &mut ids)))
                .unwrap_or_default(),
        };
        f.done();
        Some(pool)
    });
    pools.unwrap_or_default()
}

fn match_rule(at: At<'_, '_>) -> Option<Match> {
    let mut f = at.fields();
    f.needs(&["header"]);
    let header = f.at("header").and_then(|mut at| at.header());
    let value = f
        .one_of(&["exact", "prefix", "suffix", "present"])
        .and_then(|(name, mut at)| match name {
            "exact" => at.text(MATCH_VALUE).map(MatchValue::Exact),
            "prefix" => at.text(MATCH_VALUE).map(MatchValue::Prefix),
            "suffix" => at.text(MATCH_VALUE).map(MatchValue::Suffix),
            _ => at.flag().map(MatchValue::Present),
        });
    f.done();
    Some(Match {
        header: header?,
        value: value?,
    })
}

fn account(at: At<'_, '_>, ids: &mut BTreeMap<String, usize>) -> Account {
    let mut f = at.fields();
    f.needs(&["id", "max_concurrency"]);
    let account = Account {
        id: f.unique("id", ids),
        max_concurrency: f.int("max_concurrency", 1, 1..=100_000),
        priority: f.int("priority", 1, 0..=1_000_000),
        enabled: f.flag("enabled", true),
        set_headers: set_headers(f.object("set_headers")),
    };
    f.done();
    account
}

fn set_headers(f: Fields<'_, '_>) -> Vec<(String, String)> {
    let mut headers = BTreeMap::new();
    for (name, value) in f.map.into_iter().flatten() {
        let value = At {
            path: Path::Field(&f.path, name),
            value,
            found: f.found,
        }
        .filled_in()
        .unwrap_or_default();
        let rule = match header_name(name) {
            Err(rule) => Some(rule),
            Ok(header) if header.starts_with("x-slotgate-") => {
                Some("begins with x-slotgate-, the filter's own")
            }
            Ok(header) => headers
                .insert(header, value)
                .map(|_| "is there twice: header names have no case"),
        };
        if let Some(rule) = rule {
            f.found.error(&f.path, format!("{} {rule}", quoted(name)));
        }
    }
    headers.into_iter().collect()
}

/// A test for a string, and what to say of one that fails it.
type Rule = (fn(&str) -> bool, &'static str);

const ANY: Rule = (|_| true, "");
const NAME: Rule = (is_name, "is not [A-Za-z0-9._-]{1,64}");
const KEY_PREFIX: Rule = (|s| is_word(s, b"._:-"), "is not [A-Za-z0-9._:-]{1,64}");
const CLUSTER: Rule = (
    |s| (1..=125).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic()),
    "is not 1..=125 printable ASCII characters without spaces",
);
const USERNAME: Rule = (
    |s| !s.contains(|c: char| c.is_whitespace() || c.is_control()),
    "holds a space or a control character",
);
const HOST: Rule = (
    |s| {
        (1..=253).contains(&s.len())
            && s.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    },
    "is not a host name in lower case, without a port",
);
/// A console's token that can't be guessed has at least so many bytes.
const SHORTEST_TOKEN: usize = 16;
const COOKIE: Rule = (is_token, "is not a cookie name");
const QUERY: Rule = (
    |s| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_graphic() && !b"&=#".contains(&b))
    },
    "is not a query parameter's name",
);
const MATCH_VALUE: Rule = (
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
fn has_control_bytes(s: &str) -> bool {
    s.bytes().any(|b| b.is_ascii_control() && b != b'\t')
}

fn header_name(name: &str) -> Result<String, &'static str> {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        ":authority" | ":path" => Ok(name),
        "host" => Err("is not seen by a filter: use :authority"),
        _ if name.starts_with(':') => Err("is not one of the pseudo headers :authority, :path"),
        _ if is_token(&name) => Ok(name),
        _ => Err("is not a header name"),
    }
}

/// Where a value stands in the document; written out only when there is an error.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => f.write_str("configuration"),
            Path::Field(Path::Root, name) => f.write_str(&cut(&name.escape_debug().to_string())),
            Path::Field(parent, name) => {
                write!(f, "{parent}.{}", cut(&name.escape_debug().to_string()))
            }
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// What all readers share.
struct Found<'d> {
    errors: Vec<String>,
    /// A number may be its text.
    numbers_as_text: bool,
    env: &'d dyn Fn(&str) -> Option<String>,
}

impl Found<'_> {
    #[inline(never)]
    fn error(&mut self, path: &Path<'_>, what: impl fmt::Display) {
        self.errors.push(format!("{path}: {what}"));
    }
}

/// A value and where it stands. Its readers answer `None` after they have noted an error.
struct At<'a, 'd> {
    path: Path<'a>,
    value: &'d Value,
    found: &'a mut Found<'d>,
}

impl<'a, 'd> At<'a, 'd> {
    #[inline(never)]
    fn error(&mut self, what: impl fmt::Display) {
        self.found.error(&self.path, what);
    }

    #[inline(never)]
    fn refuse<T>(&mut self, rule: impl fmt::Display) -> Option<T> {
        self.error(format!("{} {rule}", shown(self.value)));
        None
    }

    fn number(&mut self, range: RangeInclusive<f64>) -> Option<f64> {
        let number = match self.value.as_str() {
            Some(text) if self.found.numbers_as_text => {
                let number = serde_json::from_slice::<Value>(text.as_bytes());
                number.ok().and_then(|number| number.as_f64())
            }
            Some(_) | None => self.value.as_f64(),
        };
        match number {
            None => self.refuse("is not a number"),
            Some(number) if range.contains(&number) => Some(number),
            // Every bound is a whole number. Written out as floats they would bring 15 kB of code.
            Some(_) => {
                let (low, high) = (*range.start() as i64, *range.end() as i64);
                self.refuse(format!("is not in {low}..={high}"))
            }
        }
    }

    /// Goes by way of f64, since a protobuf Struct writes 10 as 10.0 and may write 3600000 as 3.6e6; no bound is above
    /// 2^53-1, so nothing in range is rounded. The range must fit `T`.
    #[inline(never)]
    fn int<T: TryFrom<u64>>(&mut self, range: RangeInclusive<u64>) -> Option<T> {
        let number = self.number(*range.start() as f64..=*range.end() as f64)?;
        if number.fract() != 0.0 {
            return self.refuse("is not a whole number");
        }
        T::try_from(number as u64).ok()
    }

    fn basis_points(&mut self) -> Option<u16> {
        let exact = self.number(0.0..=100.0)? * 100.0;
        if (exact - exact.round()).abs() > 1e-6 {
            return self.refuse("has more than two decimals");
        }
        Some(exact.round() as u16)
    }

    fn flag(&mut self) -> Option<bool> {
        self.value
            .as_bool()
            .or_else(|| self.refuse("is not true or false"))
    }

    fn string(&mut self) -> Option<&'d str> {
        self.value
            .as_str()
            .or_else(|| self.refuse("is not a string"))
    }

    fn text(&mut self, (holds, rule): Rule) -> Option<String> {
        let text = self.string()?;
        if holds(text) {
            Some(text.to_owned())
        } else {
            self.refuse(rule)
        }
    }

    #[inline(never)]
    fn array(&mut self, count: RangeInclusive<usize>) -> Option<&'d [Value]> {
        let Some(entries) = self.value.as_array() else {
            return self.refuse("is not an array");
        };
        if !count.contains(&entries.len()) {
            let (least, most) = (count.start(), count.end());
            self.error(format!(
                "has {} entries, not {least}..={most}",
                entries.len()
            ));
        }
        Some(entries)
    }

    #[inline(never)]
    fn header(&mut self) -> Option<String> {
        header_name(self.string()?).map_or_else(|rule| self.refuse(rule), Some)
    }

    /// What the variable holds. Neither that nor an impossible name is shown: people put the secret itself there.
    fn variable(&mut self, name: &str) -> Option<String> {
        let names_one = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && name.starts_with(|c: char| !c.is_ascii_digit());
        if !names_one {
            self.error("does not name a variable: [A-Za-z_][A-Za-z0-9_]*");
            return None;
        }
        let value = (self.found.env)(name).filter(|value| !value.is_empty());
        match value {
            None => self.error(format!("variable {} is not set or empty", cut(name))),
            Some(value) if has_control_bytes(&value) => {
                self.error(format!("variable {} holds a control byte", cut(name)));
            }
            value => return value,
        }
        None
    }

    /// The text with every `${NAME}` replaced. It is never shown, for it may be a secret as it stands.
    fn filled_in(&mut self) -> Option<String> {
        let mut rest = self.string()?;
        let mut text = String::new();
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else {
                self.error("holds ${ without }");
                break;
            };
            text.push_str(before);
            text.push_str(&self.variable(name).unwrap_or_default());
            rest = after;
        }
        text.push_str(rest);
        if has_control_bytes(&text) {
            self.error("holds a control byte");
        }
        Some(text)
    }

    #[inline(never)]
    fn fields(mut self) -> Fields<'a, 'd> {
        let map = self
            .value
            .as_object()
            .or_else(|| self.refuse("is not an object"));
        Fields {
            path: self.path,
            map,
            asked: vec![],
            found: self.found,
        }
    }
}

/// An object's fields; those never asked for are unknown. `map` is `None` when there is no object: all is default then.
struct Fields<'a, 'd> {
    path: Path<'a>,
    map: Option<&'d Map<String, Value>>,
    asked: Vec<&'static str>,
    found: &'a mut Found<'d>,
}

impl<'d> Fields<'_, 'd> {
    #[inline(never)]
    fn error(&mut self, name: &str, what: impl fmt::Display) {
        self.found.error(&Path::Field(&self.path, name), what);
    }

    /// Changes with every error: rules about two fields hold their tongue when one of them is wrong by itself.
    fn mark(&self) -> usize {
        self.found.errors.len()
    }

    #[inline(never)]
    fn needs(&mut self, names: &[&str]) {
        for name in names {
            if self.map.is_some_and(|map| !map.contains_key(*name)) {
                self.error(name, "is required");
            }
        }
    }

    #[inline(never)]
    fn at(&mut self, name: &'static str) -> Option<At<'_, 'd>> {
        self.asked.push(name);
        let value = self.map?.get(name)?;
        Some(At {
            path: Path::Field(&self.path, name),
            value,
            found: self.found,
        })
    }

    #[inline(never)]
    fn int<T: TryFrom<u64>>(
        &mut self,
        name: &'static str,
        default: T,
        range: RangeInclusive<u64>,
    ) -> T {
        self.at(name)
            .and_then(|mut at| at.int(range))
            .unwrap_or(default)
    }

    #[inline(never)]
    fn flag(&mut self, name: &'static str, default: bool) -> bool {
        self.at(name)
            .and_then(|mut at| at.flag())
            .unwrap_or(default)
    }

    #[inline(never)]
    fn text(&mut self, name: &'static str, default: &str, rule: Rule) -> String {
        self.at(name)
            .and_then(|mut at| at.text(rule))
            .unwrap_or_else(|| default.to_owned())
    }

    /// What the variable named here holds; `None` when none is named.
    fn secret(&mut self, name: &'static str) -> Option<Secret> {
        let mut at = self.at(name)?;
        let variable = at.string().filter(|variable| !variable.is_empty())?;
        at.variable(variable).map(Secret)
    }

    /// The first choice is the default.
    fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T); 2]) -> T {
        let [(first, default), (second, other)] = *choices;
        let Some(mut at) = self.at(name) else {
            return default;
        };
        match at.value.as_str() {
            Some(word) if word == first => default,
            Some(word) if word == second => other,
            _ => at
                .refuse(format!("is not one of {first}, {second}"))
                .unwrap_or(default),
        }
    }

    /// A name that no other entry of the same array has; `seen` says which entry had it first.
    fn unique(&mut self, name: &'static str, seen: &mut BTreeMap<String, usize>) -> String {
        let Some(text) = self.at(name).and_then(|mut at| at.text(NAME)) else {
            return String::new();
        };
        if let Path::Index(list, index) = self.path {
            let first = *seen.entry(text.clone()).or_insert(index);
            if first != index {
                self.error(
                    name,
                    format!(
                        "{} is already used by {}",
                        quoted(&text),
                        Path::Index(list, first)
                    ),
                );
            }
        }
        text
    }

    #[inline(never)]
    fn object(&mut self, name: &'static str) -> Fields<'_, 'd> {
        self.asked.push(name);
        let path = Path::Field(&self.path, name);
        match self.map.and_then(|map| map.get(name)) {
            Some(value) => At {
                path,
                value,
                found: self.found,
            }
            .fields(),
            None => Fields {
                path,
                map: None,
                asked: vec![],
                found: self.found,
            },
        }
    }

    /// How many entries an array has, 0 when it is not there; `None` when it is something else.
    fn count(&self, name: &str) -> Option<usize> {
        self.map?
            .get(name)
            .map_or(Some(0), |value| value.as_array().map(Vec::len))
    }

    fn list<T>(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        mut read: impl FnMut(At<'_, 'd>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut at = self.at(name)?;
        let entries = at.array(count)?;
        let read = |(index, value)| {
            read(At {
                path: Path::Index(&at.path, index),
                value,
                found: at.found,
            })
        };
        Some(entries.iter().enumerate().filter_map(read).collect())
    }

    /// The one field of these that is there.
    fn one_of(&mut self, names: &[&'static str]) -> Option<(&'static str, At<'_, 'd>)> {
        self.asked.extend(names);
        let map = self.map?;
        let mut given = names.iter().filter(|name| map.contains_key(**name));
        match (given.next(), given.next()) {
            (Some(name), None) => Some((name, self.at(name)?)),
            _ => {
                self.found.error(
                    &self.path,
                    format!("needs exactly one of {}", names.join(", ")),
                );
                None
            }
        }
    }

    #[inline(never)]
    fn done(self) {
        for name in self.map.into_iter().flat_map(Map::keys) {
            if !self.asked.contains(&name.as_str()) {
                let hint =
                    closest(name, &self.asked).map(|known| format!(" (did you mean {known}?)"));
                let path = Path::Field(&self.path, name);
                self.found
                    .error(&path, format!("unknown field{}", hint.unwrap_or_default()));
            }
        }
    }
}

/// The name that differs least, if only one short run of letters does.
fn closest<'n>(wrong: &str, names: &[&'n str]) -> Option<&'n str> {
    let candidates = names.iter().filter_map(|name| {
        let (shorter, longer) = (wrong.len().min(name.len()), wrong.len().max(name.len()));
        let head = wrong
            .bytes()
            .zip(name.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        let tails = wrong
            .bytes()
            .rev()
            .zip(name.bytes().rev())
            .take(shorter.saturating_sub(head));
        let same = head.saturating_add(tails.take_while(|(a, b)| a == b).count());
        let different = longer.saturating_sub(same);
        (different <= same.min(4)).then_some((different, *name))
    });
    candidates.min().map(|(_, name)| name)
}

/// Arrays and objects are not written out: a secret may stand in them.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
        // From a Struct every number is a float: 0 is shown as it was written, not as 0.0.
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.abs() < 1e16 && float.fract() == 0.0 => (float as i64).to_string(),
            _ => number.to_string(),
        },
        Value::Null | Value::Bool(_) => value.to_string(),
    }
}

fn quoted(text: &str) -> String {
    cut(&format!("{text:?}"))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
