//! Redis, asked through the filter's own scripts, so that a user who may do what a worker does may do this.

use crate::doctor::Audit;
use crate::problem::{Exit, Problem};
use crate::words;
use redis::{
    Cmd, ConnectionLike, FromRedisValue, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    RedisError, RedisResult, Value,
};
use slotgate::ledger::commands::{AccountTerms, Change, LedgerCommands};
use slotgate::ledger::fault::garbage;
use slotgate::ledger::keys;
use slotgate::ledger::resp::{push_array, push_bulk};
use slotgate::ledger::source::{self, Script, ScriptRef, Sha, Shas};
use slotgate::ledger::view::Pool;
use slotgate::pipe::greeting::{self, Refusal};
use slotgate::printable;
use std::time::Duration;

/// How long Redis may take to be reached, and to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Accounts in one page of `inspect`.
const PAGE: u64 = 500;

/// A connection to Redis.
pub struct Server {
    connection: redis::Connection,
    /// Host and port, without what may be secret.
    pub name: String,
    pub prefix: String,
    /// Who changes something, as the log of changes is to name them; may be empty.
    pub who: String,
    /// Never shown.
    password: String,
    shas: Shas,
    loaded: Vec<Script>,
}

/// What came of an account's change, how it was, and how it is: `<max_concurrency> <priority> <disabled> <pace>`, or empty.
pub type Changed = (String, String, String);

/// Who a configuration is to Redis, where the URL does not say it.
#[derive(Debug, Default)]
pub struct Login {
    pub username: Option<String>,
    /// The variable with the password; empty: none.
    pub password_env: String,
    pub database: i64,
}

impl Server {
    pub fn open(url: Option<&str>, password_env: &str, prefix: &str) -> Result<Self, Problem> {
        Self::open_as(url, password_env, prefix, &Login::default())
    }

    /// With a login to fall back on.
    pub fn open_as(
        url: Option<&str>,
        password_env: &str,
        prefix: &str,
        otherwise: &Login,
    ) -> Result<Self, Problem> {
        words::name("prefix", prefix)?;
        let url = url
            .filter(|url| !url.is_empty())
            .unwrap_or("127.0.0.1:6379");
        if url.starts_with("rediss:") || url.starts_with("valkeys:") {
            return Err(
                Problem::usage("--redis: TLS is not built into this program").hint(
                    "redis:// to a tunnel that speaks TLS to Redis, such as stunnel or an Envoy of your own",
                ),
            );
        }
        let with_scheme = if url.contains("://") {
            url.to_owned()
        } else {
            format!("redis://{url}")
        };
        // What it holds is not repeated: there may be a password in it.
        let info = with_scheme.as_str().into_connection_info().map_err(|_| {
            Problem::usage("--redis (or SLOTGATE_REDIS) is not a URL of Redis")
                .hint("redis://host:6379, redis://user@host:6379/1 or host:6379")
        })?;
        let login = info.redis_settings();
        let own = login.username().map(str::to_owned);
        let username = own.or_else(|| otherwise.username.clone());
        let variables = [password_env, &otherwise.password_env];
        let mut variables = variables.into_iter().filter(|name| !name.is_empty());
        let password = match login.password() {
            Some(password) => password.to_owned(),
            None => variables
                .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
                .unwrap_or_default(),
        };
        if username.is_some() && password.is_empty() {
            return Err(
                Problem::usage("--redis names a user, but there is no password")
                    .hint(format!("put it into the variable {password_env}")),
            );
        }
        let database = match login.db() {
            0 => otherwise.database,
            own => own,
        };
        let name = info.addr().to_string();
        // The library would keep what Redis says against a login to itself: AUTH and SELECT are sent below.
        let settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        let open = || -> RedisResult<redis::Connection> {
            let client = redis::Client::open(info.set_redis_settings(settings))?;
            let connection = client.get_connection_with_timeout(PATIENCE)?;
            connection.set_read_timeout(Some(PATIENCE))?;
            connection.set_write_timeout(Some(PATIENCE))?;
            Ok(connection)
        };
        let connection = open().map_err(|error| refused(&name, &password, &error))?;
        let mut server = Self {
            connection,
            name,
            prefix: prefix.to_owned(),
            who: String::new(),
            password,
            shas: Shas([[0; 40]; Script::ALL.len()]),
            loaded: Vec::new(),
        };
        if !server.password.is_empty() {
            let mut auth = redis::cmd(greeting::AUTH);
            auth.arg(username).arg(&server.password);
            server.ask::<()>(&auth)?;
        }
        if database != 0 {
            server.ask::<()>(redis::cmd(greeting::SELECT).arg(database))?;
        }
        Ok(server)
    }

    /// Redis TIME in ms.
    pub fn now_ms(&mut self) -> Result<u64, Problem> {
        let (s, us): (u64, u64) = self.ask(&redis::cmd("TIME"))?;
        Ok(s.saturating_mul(1_000).saturating_add(us / 1_000))
    }

    /// One plain command.
    pub fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Problem> {
        command
            .query(&mut self.connection)
            .map_err(|error| self.refused(&error))
    }

    /// The same of one pool's key, which may hold something else.
    pub fn ask_of<T: FromRedisValue>(&mut self, pool: &str, command: &Cmd) -> Result<T, Problem> {
        command
            .query(&mut self.connection)
            .map_err(|error| self.garbage_or_refused(pool, &error))
    }

    /// The problem that an error of Redis is for the user.
    fn refused(&mut self, error: &RedisError) -> Problem {
        self.too_old(error)
            .unwrap_or_else(|| refused(&self.name, &self.password, error))
    }

    /// A Redis below 7 does not take our scripts.
    fn too_old(&mut self, error: &RedisError) -> Option<Problem> {
        let said = words_of(error);
        let refusal = Refusal::new(greeting::LOAD, said.as_bytes(), &self.password);
        if !refusal.is_too_old() {
            return None;
        }
        // No more than a text if it fails.
        let hello: Vec<Value> = redis::cmd("HELLO")
            .query(&mut self.connection)
            .unwrap_or_default();
        let text = |value: &Value| String::from_redis_value_ref(value).ok();
        let version = hello
            .chunks_exact(2)
            .find(|pair| pair.first().and_then(text).as_deref() == Some("version"))
            .and_then(|pair| pair.last().and_then(text));
        let what = match version {
            Some(version) => {
                let version = greeting::said(version.as_bytes(), &self.password);
                format!("Redis 7 or later is needed, this server is {version}")
            }
            None => refusal.to_string(),
        };
        let what = format!("{what} ({})", self.name);
        Some(Problem::new(Exit::Redis, "version", what).hint("--redis URL with a newer server"))
    }

    /// Where no pool is, there may be none because Redis takes no script.
    fn can_have_pools(&mut self) -> Result<(), Problem> {
        let loaded = self.load(Script::Inspect);
        match loaded.err().and_then(|error| self.too_old(&error)) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// One script. Its own errors, NOPOOL and NOACCOUNT, are the caller's to explain.
    fn script<T: FromRedisValue>(
        &mut self,
        script: Script,
        encode: impl Fn(&mut Vec<u8>, ScriptRef),
    ) -> RedisResult<T> {
        if !self.loaded.contains(&script) {
            self.load(script)?;
        }
        let mut bytes = Vec::new();
        encode(&mut bytes, ScriptRef::Sha(&self.shas));
        // An error reply comes as a value.
        let send = |connection: &mut redis::Connection| {
            connection
                .req_packed_command(&bytes)
                .and_then(Value::extract_error)
        };
        let mut reply = send(&mut self.connection);
        // Redis was restarted, or someone flushed its scripts.
        if reply
            .as_ref()
            .is_err_and(|error| error.code() == Some("NOSCRIPT"))
        {
            self.load(script)?;
            reply = send(&mut self.connection);
        }
        Ok(T::from_redis_value(reply?)?)
    }

    fn load(&mut self, script: Script) -> RedisResult<()> {
        let sha: String = redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg(script.source())
            .query(&mut self.connection)?;
        let place = Script::ALL
            .into_iter()
            .zip(&mut self.shas.0)
            .find(|(other, _)| *other == script);
        if let (Some((_, place)), Ok(sha)) = (place, Sha::try_from(sha.as_bytes())) {
            *place = sha;
        }
        self.loaded.push(script);
        Ok(())
    }

    /// The names of all pools under the prefix, sorted.
    pub fn pools(&mut self) -> Result<Vec<String>, Problem> {
        let (before, after) = (format!("{}:{{", self.prefix), "}:accounts");
        let mut names = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor)
                .arg("MATCH")
                .arg(format!("{before}*{after}"))
                .arg("COUNT")
                .arg(1_000);
            // Anything may stand there; what is no text is no pool's.
            let (next, found): (String, Vec<Vec<u8>>) = self.ask(&scan)?;
            names.extend(found.iter().filter_map(|key| {
                let key = std::str::from_utf8(key).ok()?;
                let name = key.strip_prefix(&before)?.strip_suffix(after)?;
                words::name("pool", name).is_ok().then(|| name.to_owned())
            }));
            if next == "0" {
                break;
            }
            cursor = next;
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The pool that was named, or the only one.
    pub fn one_pool(&mut self, named: Option<&str>) -> Result<String, Problem> {
        if let Some(name) = named {
            self.must_exist(name)?;
            return Ok(name.to_owned());
        }
        let mut pools = self.some_pools(&[])?;
        match (pools.pop(), pools.len()) {
            (Some(only), 0) => Ok(only),
            (last, _) => {
                pools.extend(last);
                Err(
                    Problem::usage(format!("{} has {} pools", self.name, pools.len()))
                        .hint(format!("--pool with one of: {}", pools.join(", "))),
                )
            }
        }
    }

    /// The pools that were named, or all; at least one.
    pub fn some_pools(&mut self, named: &[String]) -> Result<Vec<String>, Problem> {
        if named.is_empty() {
            let pools = self.pools()?;
            return if pools.is_empty() {
                Err(self.no_pool_at_all())
            } else {
                Ok(pools)
            };
        }
        for name in named {
            self.must_exist(name)?;
        }
        Ok(named.to_vec())
    }

    fn must_exist(&mut self, pool: &str) -> Result<(), Problem> {
        words::name("pool", pool)?;
        let accounts = keys::key(&self.prefix, pool, "accounts");
        let mut epoch = redis::cmd("HEXISTS");
        epoch.arg(accounts).arg("#epoch");
        match epoch.query(&mut self.connection) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.no_pool(pool)),
            // It is there, and whoever reads it says what is wrong with it.
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(()),
            Err(error) => Err(self.refused(&error)),
        }
    }

    fn no_pool(&mut self, pool: &str) -> Problem {
        if let Err(problem) = self.can_have_pools() {
            return problem;
        }
        let problem = Problem::new(
            Exit::Wrong,
            "no_pool",
            format!(
                "there is no pool {pool} under the prefix {} at {}",
                self.prefix, self.name
            ),
        );
        // Whether SCAN is allowed or not: this is only the hint.
        let others = self.pools().unwrap_or_default();
        match words::near(pool, others.iter().map(String::as_str)) {
            Some(near) => problem.hint(near),
            None => problem.hint(NO_POOL),
        }
    }

    fn no_pool_at_all(&mut self) -> Problem {
        if let Err(problem) = self.can_have_pools() {
            return problem;
        }
        Problem::new(
            Exit::Wrong,
            "no_pool",
            format!(
                "there is no pool under the prefix {} at {}",
                self.prefix, self.name
            ),
        )
        .hint(NO_POOL)
    }

    fn keys(&self, pool: &str) -> LedgerCommands {
        LedgerCommands::new(&self.prefix, pool)
    }

    /// The digest of the configuration whose accounts are in force in a pool; `None`: the pool isn't there.
    pub fn digest(&mut self, pool: &str) -> Result<Option<u64>, Problem> {
        let accounts = keys::key(&self.prefix, pool, "accounts");
        let digest = self.ask_of(pool, redis::cmd("HGET").arg(accounts).arg("#digest"));
        let digest: Option<Vec<u8>> = digest?;
        Ok(digest.and_then(|digest| words::text(&digest).parse().ok()))
    }

    /// What does not fit together in a pool's keys, if it has no more accounts and leases than that.
    pub fn audit(&mut self, pool: &str, most: u64) -> Result<Audit, Problem> {
        let mut load = redis::cmd("SCRIPT");
        let sha: String = self.ask(load.arg("LOAD").arg(source::audit()))?;
        let mut run = redis::cmd("EVALSHA");
        run.arg(sha).arg(keys::COMMON.len());
        for name in keys::COMMON {
            run.arg(keys::key(&self.prefix, pool, name));
        }
        let (leases, accounts, findings): (i64, i64, _) = self.ask_of(pool, run.arg(most))?;
        Ok(Audit {
            counted: u64::try_from(leases).ok().zip(u64::try_from(accounts).ok()),
            findings,
        })
    }

    /// Everything about a pool.
    pub fn pool(&mut self, pool: &str) -> Result<Pool, Problem> {
        let keys = self.keys(pool);
        let mut seen = Pool::default();
        pool.clone_into(&mut seen.name);
        let mut cursor = "0".to_owned();
        loop {
            let page = self.script::<Value>(Script::Inspect, |out, by| {
                keys.inspect(out, by, &cursor, PAGE);
            });
            let page = match page {
                Ok(page) => page,
                Err(error) if error.code() == Some("NOPOOL") => return Err(self.no_pool(pool)),
                Err(error) => return Err(self.garbage_or_refused(pool, &error)),
            };
            let mut bytes = Vec::new();
            push_value(&mut bytes, &page);
            match seen.page(&bytes) {
                Ok(Some(next)) => cursor = next,
                Ok(None) => {
                    seen.accounts.sort_by(|a, b| a.id.cmp(&b.id));
                    return Ok(seen);
                }
                Err(_) => return Err(self.not_ours(pool)),
            }
        }
    }

    fn not_ours(&self, pool: &str) -> Problem {
        Problem::new(
            Exit::Redis,
            "not_understood",
            format!(
                "what {} holds of pool {pool} is not what this version writes",
                self.name
            ),
        )
        .hint("the slotgate of the same version as the filter")
    }

    /// `control.lua`: the old and the new value.
    pub fn control(
        &mut self,
        pool: &str,
        verb: &str,
        subject: &str,
        session: Option<&[u8; 16]>,
    ) -> Result<(String, String), Problem> {
        let (keys, who) = (self.keys(pool), self.who.clone());
        let reply: RedisResult<(Vec<u8>, Vec<u8>)> = self.script(Script::Control, |out, by| {
            keys.control(out, by, verb, subject, session, &who);
        });
        match reply {
            Ok((old, new)) => Ok((words::text(&old), words::text(&new))),
            Err(error) if error.code() == Some("NOACCOUNT") => Err(self.no_account(pool, subject)),
            Err(error) => Err(self.garbage_or_refused(pool, &error)),
        }
    }

    /// `account.lua`, for at most 500 accounts: what came of each, how it was, and how it is.
    pub fn account(
        &mut self,
        pool: &str,
        change: Change,
        only_check: bool,
        accounts: &[AccountTerms],
    ) -> Result<Vec<Changed>, Problem> {
        let (keys, who) = (self.keys(pool), self.who.clone());
        let reply: RedisResult<Vec<Changed>> = self.script(Script::Account, |out, by| {
            keys.account(out, by, change, only_check, accounts, &who);
        });
        reply.map_err(|error| {
            let code = error.code().unwrap_or_default();
            let said = error.detail().unwrap_or_default();
            match code {
                "NOACCOUNT" => {
                    let account = said.split(' ').next().unwrap_or_default().to_owned();
                    self.no_account(pool, &account)
                }
                "NOTLEDGER" => Problem::new(
                    Exit::Wrong,
                    "not_ledger",
                    format!("pool {pool} takes its accounts from its configuration: none is put in or taken away here"),
                )
                .hint("slotgate account set changes what they have; accounts_from: ledger in the pool's configuration hands them over"),
                "BADARG" => Problem::new(Exit::Wrong, "argument", format!("pool {pool}: {said}")),
                _ => self.garbage_or_refused(pool, &error),
            }
        })
    }

    /// The problem that an error is for the user: keys that hold what cannot be there, as a script found, or another error of Redis.
    fn garbage_or_refused(&mut self, pool: &str, error: &RedisError) -> Problem {
        let code = error.code().unwrap_or_default();
        let said = [code, " ", error.detail().unwrap_or_default()].concat();
        match garbage(said.as_bytes()) {
            Some(what) => Problem::new(
                Exit::Redis,
                "garbage",
                format!(
                    "pool {pool}: Redis at {} holds what cannot be there: {}",
                    self.name,
                    printable::ascii(what)
                ),
            )
            .hint("the next recount of a filter mends what can be derived; or is it another --prefix, whose keys belong to something else?"),
            None => self.refused(error),
        }
    }

    fn no_account(&mut self, pool: &str, account: &str) -> Problem {
        let problem = Problem::new(
            Exit::Wrong,
            "no_account",
            format!("pool {pool} has no account {account}"),
        );
        match self.pool(pool) {
            Ok(pool) => match words::near(account, pool.accounts.iter().map(|a| a.id.as_str())) {
                Some(near) => problem.hint(near),
                None => problem.hint(format!(
                    "slotgate status --pool {} lists all {}",
                    pool.name,
                    pool.accounts.len()
                )),
            },
            Err(_) => problem,
        }
    }
}

const NO_POOL: &str = "a filter creates it at its first request; another --prefix, another database in the URL, or another Redis?";

/// A reply as it came, for those who read it so.
fn push_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Int(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Value::BulkString(bytes) => push_bulk(out, bytes),
        Value::SimpleString(text) => push_bulk(out, text.as_bytes()),
        Value::Array(values) => {
            push_array(out, values.len());
            for value in values {
                push_value(out, value);
            }
        }
        _ => out.extend_from_slice(b"$-1\r\n"),
    }
}

/// The words of an error reply.
fn words_of(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, Some(detail)) => detail.to_owned(),
        (None, None) => error.category().to_owned(),
    }
}

/// The problem that an error of Redis, or of the connection to it, is for the user.
fn refused(name: &str, password: &str, error: &RedisError) -> Problem {
    let problem = |kind, what: String| Problem::new(Exit::Redis, kind, what);
    if error.is_timeout() {
        return problem(
            "timeout",
            format!(
                "Redis at {name} did not answer within {} s",
                PATIENCE.as_secs()
            ),
        )
        .hint("is it paused, or busy with a slow command? redis-cli --latency");
    }
    if error.is_connection_refusal() {
        return problem("unreachable", format!("nothing listens at {name}"))
            .hint("is Redis up? Is it --redis URL, or the variable SLOTGATE_REDIS?");
    }
    if error.is_io_error() {
        return problem(
            "unreachable",
            format!("Redis at {name} can't be reached: {error}"),
        )
        .hint("host and port in --redis, or the variable SLOTGATE_REDIS");
    }
    let words = words_of(error);
    let said = greeting::said(words.as_bytes(), password);
    let hint = match error.code().unwrap_or_default() {
        "NOPERM" => Some(
            "a user who may do what the ACL in docs/ledger.md allows, and SCAN, unless --pool names the pool",
        ),
        "NOAUTH" | "WRONGPASS" => Some(LOGIN),
        "READONLY" => Some("the primary: this is a replica, which may only be looked at"),
        "MOVED" | "ASK" => Some("--redis with the node it names: the pool's keys are there"),
        "LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" => {
            Some("the same again in a moment")
        }
        "WRONGTYPE" => Some("another --prefix: keys of this one belong to something else"),
        "DENIED" => Some("a password for Redis, or its settings protected-mode and bind"),
        _ if words.starts_with("ERR max number of clients") => {
            Some("fewer clients, or a higher maxclients of Redis")
        }
        _ if words.starts_with("ERR AUTH") || words.starts_with("ERR Client sent AUTH") => {
            Some(LOGIN)
        }
        _ => None,
    };
    let kind = match hint {
        Some(LOGIN) => "login",
        Some(_) | None => "refused",
    };
    let problem = problem(kind, format!("Redis at {name} refused: {said}"));
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

const LOGIN: &str =
    "the user in --redis redis://user@host, the password in the variable SLOTGATE_REDIS_PASSWORD";
