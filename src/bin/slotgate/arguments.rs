//! The commands and their arguments, as clap reads them.

use crate::problem::Problem;
use crate::server::Server;
use crate::status::Sort;
use clap::{Args, Parser, Subcommand};
use slotgate::ledger::changes::is_name;

/// Check slotgate configurations, and show and change its pools in Redis.
#[derive(Debug, Parser)]
#[command(
    name = "slotgate",
    version = slotgate::VERSION,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done; 1 no such thing, or errors found; 2 arguments or a file can't be read; 3 Redis can't be asked."
)]
pub struct Cli {
    #[command(flatten)]
    pub before: Before,
    /// Print JSON
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// How to reach Redis, where a command asks it.
#[derive(Debug, Clone, Default, Args)]
pub struct Connection {
    /// Redis: redis://[user@]host:port/database, or host:port [env: SLOTGATE_REDIS] [default: 127.0.0.1:6379]
    // The value may hold a password: never shown, not even as the variable's value.
    #[arg(long, value_name = "URL", display_order = 800)]
    pub redis: Option<String>,
    /// Variable that holds Redis' password, if the URL has none [default: SLOTGATE_REDIS_PASSWORD]
    #[arg(long, value_name = "NAME", display_order = 801)]
    pub password_env: Option<String>,
    /// First part of every key: redis.key_prefix of the configuration [env: SLOTGATE_PREFIX] [default: slotgate]
    #[arg(long, display_order = 802)]
    pub prefix: Option<String>,
}

/// The same before the command: it holds for those that ask Redis.
#[derive(Debug, Clone, Default, Args)]
pub struct Before {
    #[arg(id = "redis_before", long = "redis", hide = true)]
    pub redis: Option<String>,
    #[arg(id = "password_env_before", long = "password-env", hide = true)]
    pub password_env: Option<String>,
    #[arg(id = "prefix_before", long = "prefix", hide = true)]
    pub prefix: Option<String>,
}

impl Before {
    /// The connection to use: each setting as given after the command, else before it, else by the environment.
    pub fn and(&self, own: Connection) -> Connection {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Connection {
            redis: own
                .redis
                .or_else(|| self.redis.clone())
                .or_else(|| variable("SLOTGATE_REDIS")),
            password_env: own.password_env.or_else(|| self.password_env.clone()),
            prefix: own
                .prefix
                .or_else(|| self.prefix.clone())
                .or_else(|| variable("SLOTGATE_PREFIX")),
        }
    }
}

impl Connection {
    pub fn open(&self) -> Result<Server, Problem> {
        Server::open(
            self.redis.as_deref(),
            self.password_env.as_deref().unwrap_or(PASSWORD_ENV),
            self.prefix.as_deref().unwrap_or(PREFIX),
        )
    }
}

/// Who changes something.
#[derive(Debug, Args)]
pub struct Author {
    /// Who changes it, for slotgate log [env: SLOTGATE_BY] [default: USER]
    #[arg(long, value_name = "NAME", display_order = 790)]
    pub by: Option<String>,
}

impl Author {
    /// The connection, for changes by this one.
    pub fn open(&self, connection: &Connection) -> Result<Server, Problem> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let given = self.by.clone().or_else(|| variable("SLOTGATE_BY"));
        let who = match given {
            Some(name) if !is_name(&name) => {
                let rule =
                    "--by (or SLOTGATE_BY) is longer than 64 bytes, or has control characters";
                return Err(Problem::usage(rule));
            }
            Some(name) => Some(name),
            None => variable("USER").filter(|name| is_name(name)),
        };
        let mut server = connection.open()?;
        server.who = who.unwrap_or_default();
        Ok(server)
    }
}

/// Where Redis' password is, unless told.
pub const PASSWORD_ENV: &str = "SLOTGATE_REDIS_PASSWORD";
/// The first part of every key, unless told.
pub const PREFIX: &str = "slotgate";

/// The pool, where there is more than one.
#[derive(Debug, Args)]
pub struct OnePool {
    /// The pool; needed when there is more than one
    #[arg(long)]
    pub pool: Option<String>,
}

/// An account.
#[derive(Debug, Args)]
pub struct OneAccount {
    /// The account's id
    pub account: String,
    #[command(flatten)]
    pub pool: OnePool,
    #[command(flatten)]
    pub author: Author,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find every error in an Envoy configuration, or in a plugin's own configuration
    Check {
        /// YAML or JSON; - reads standard input. Parts in several files (Istio's patches, say) are checked together
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
        /// A variable that is not set here is an error too
        #[arg(long)]
        require_env: bool,
        /// A warning is an error too
        #[arg(long)]
        strict: bool,
        /// Compare the pools with what is in force in Redis: there, or at SLOTGATE_REDIS or 127.0.0.1:6379
        #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
        redis: Option<String>,
        /// Variable that holds Redis' password [default: SLOTGATE_REDIS_PASSWORD, or the configuration's]
        #[arg(long, value_name = "NAME", requires = "redis")]
        password_env: Option<String>,
    },
    /// Write an Envoy configuration from a short file of pools and accounts, or from answers
    Init {
        /// pools.yaml; - reads standard input [default: ask]
        file: Option<String>,
        /// Where to; - prints it [default: envoy.yaml, or fragment.yaml]
        #[arg(long, value_name = "FILE")]
        output: Option<String>,
        /// Only the pieces to merge into a configuration of your own
        #[arg(long)]
        fragment: bool,
        /// Write nothing: an error if the output is not what would be written
        #[arg(long, conflicts_with = "force")]
        check: bool,
        /// Overwrite what is there
        #[arg(long)]
        force: bool,
    },
    /// Whether a session is in the gray release, and why
    Bucket {
        /// The session as the filter reads it: the header's, cookie's or parameter's value
        #[arg(long)]
        session: String,
        /// Percentage, 0..=100 with at most two decimals
        #[arg(long, required_unless_present = "config", allow_hyphen_values = true)]
        percent: Option<String>,
        /// gray.salt
        #[arg(long)]
        salt: Option<String>,
        /// Take what isn't given from this file
        #[arg(long, value_name = "FILE")]
        config: Option<String>,
    },
    /// Show pools and their accounts
    Status {
        /// Only these pools
        #[arg(long)]
        pool: Vec<String>,
        /// At most so many accounts of each pool, the busiest first
        #[arg(long)]
        rows: Option<usize>,
        /// Of the tenants only this one, by its value: Redis has only its hash
        #[arg(long, value_name = "VALUE")]
        tenant: Option<String>,
        /// The order of the accounts
        #[arg(long, value_enum, default_value_t)]
        sort: Sort,
        /// Say too where Redis keeps other accounts than this configuration has
        #[arg(long, value_name = "FILE")]
        config: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show pools again and again; s sorts their accounts otherwise, q ends it
    Watch {
        /// Only these pools
        #[arg(long)]
        pool: Vec<String>,
        /// At most so many accounts of each pool [default: what the terminal holds]
        #[arg(long)]
        rows: Option<usize>,
        /// Of the tenants only this one, by its value: Redis has only its hash
        #[arg(long, value_name = "VALUE")]
        tenant: Option<String>,
        /// The order of the accounts
        #[arg(long, value_enum, default_value_t)]
        sort: Sort,
        /// Seconds between two looks
        #[arg(long, default_value = "1")]
        interval: f64,
        /// End after so many looks
        #[arg(long)]
        count: Option<u64>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Why each account would or would not be taken now, or which way a request went
    Explain {
        #[command(flatten)]
        pool: OnePool,
        /// Instead, which way this request went: its x-request-id
        #[arg(long, value_name = "ID", conflicts_with_all = ["lease", "session", "scope", "random", "config"])]
        request: Option<String>,
        /// The same by its x-slotgate-lease
        #[arg(long, value_name = "ID", conflicts_with_all = ["session", "scope", "random", "config"])]
        lease: Option<String>,
        /// As this session would see it
        #[arg(long)]
        session: Option<String>,
        /// With the cooldowns of this scope, a model say
        #[arg(long)]
        scope: Option<String>,
        /// score.random: Redis does not know it [default: 0.2]
        #[arg(long, conflicts_with = "config")]
        random: Option<f64>,
        /// Take score.random from this file
        #[arg(long, value_name = "FILE")]
        config: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// No new leases of an account; those that live finish
    Drain(OneAccount),
    /// Let a drained account take leases again
    Undrain(OneAccount),
    /// Show and change accounts while everything runs: in force with the next acquire of every Envoy
    #[command(subcommand)]
    Account(Accounts),
    /// Show or override the share of the gray release; filters follow within their control.poll_ms
    #[command(subcommand)]
    Percent(Percent),
    /// End an account's cooldown
    #[command(subcommand)]
    Cooldown(Cooldown),
    /// Forget which account a session is bound to
    Unbind {
        /// The session as the filter reads it
        #[arg(long)]
        session: String,
        #[command(flatten)]
        pool: OnePool,
        #[command(flatten)]
        author: Author,
        #[command(flatten)]
        connection: Connection,
    },
    /// Look at Redis, at the ledger and at every Envoy, and say what is wrong
    Doctor {
        /// Only these pools
        #[arg(long)]
        pool: Vec<String>,
        /// Seconds that workers may take to answer: more than control.poll_ms
        #[arg(long, default_value = "2.5")]
        wait: f64,
        /// How many workers there are: fewer that answer are a finding
        #[arg(long, value_name = "N")]
        workers: Option<usize>,
        #[command(flatten)]
        connection: Connection,
    },
    /// What was changed lately, and by whom
    Log {
        /// Only these pools
        #[arg(long)]
        pool: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Which account a lease holds, and until when
    Lease {
        /// The id, as in x-slotgate-lease
        id: String,
        /// Only this pool [default: look in all]
        #[arg(long)]
        pool: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Write shell completions and manual pages into a folder, for those who package slotgate
    #[command(hide = true)]
    Generate {
        /// Made where there is none
        folder: std::path::PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Accounts {
    /// Each account: its slots, its state, and what an operator has set of it
    List {
        #[command(flatten)]
        pool: OnePool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Put accounts in, or set what they have, in a pool with accounts_from: ledger
    Add(PutAccounts),
    /// Set what accounts have, whatever their configuration says
    Set(PutAccounts),
    /// Take accounts away, in a pool with accounts_from: ledger; their leases finish
    Remove(SomeAccounts),
    /// Forget what was set of accounts, and what upstreams' answers have said of them
    Reset(SomeAccounts),
}

/// An account and what is set of it, or many.
#[derive(Debug, Args)]
pub struct PutAccounts {
    /// The account's id
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub account: Option<String>,
    #[command(flatten)]
    pub terms: Terms,
    /// Many at once, from a YAML file: accounts, each with id, max_concurrency, priority, enabled, pace; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub from: Option<String>,
    #[command(flatten)]
    pub pool: OnePool,
    #[command(flatten)]
    pub author: Author,
    #[command(flatten)]
    pub connection: Connection,
}

/// What is set of an account.
#[derive(Debug, Args)]
pub struct Terms {
    /// Its slots, 1..=100000
    #[arg(long, conflicts_with = "from", allow_hyphen_values = true)]
    pub max_concurrency: Option<String>,
    /// Lower is preferred; within the pool's priority_range
    #[arg(long, conflicts_with = "from", allow_hyphen_values = true)]
    pub priority: Option<String>,
    /// Let it take leases
    #[arg(long, conflicts_with_all = ["from", "disable"])]
    pub enable: bool,
    /// No new leases; those that live finish
    #[arg(long, conflicts_with = "from")]
    pub disable: bool,
    /// At most so many requests in a time: 50/60s, 50/60s/10 with up to 10 at once, or none
    #[arg(long, conflicts_with = "from", allow_hyphen_values = true)]
    pub pace: Option<String>,
}

/// Accounts of one pool.
#[derive(Debug, Args)]
pub struct SomeAccounts {
    /// Their ids
    #[arg(required = true, value_name = "ACCOUNT")]
    pub accounts: Vec<String>,
    #[command(flatten)]
    pub pool: OnePool,
    #[command(flatten)]
    pub author: Author,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Subcommand)]
pub enum Percent {
    /// The percentage that an operator has set, of each pool
    Get {
        /// Only these pools
        #[arg(long)]
        pool: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Use this percentage instead of the configured one
    Set {
        /// 0..=100 with at most two decimals
        #[arg(allow_hyphen_values = true)]
        percent: String,
        #[command(flatten)]
        pools: SomePools,
    },
    /// Back to the configured one
    Clear {
        #[command(flatten)]
        pools: SomePools,
    },
}

/// One pool or all of them.
#[derive(Debug, Args)]
pub struct SomePools {
    #[command(flatten)]
    pub one: OnePool,
    /// Every pool
    #[arg(long, conflicts_with = "pool")]
    pub all_pools: bool,
    #[command(flatten)]
    pub author: Author,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Subcommand)]
pub enum Cooldown {
    /// End an account's cooldown now
    Clear(OneAccount),
}
