//! `slotgate`, the operator's command line: checks configurations, and shows and changes pools in Redis.
//!
//! It speaks to Redis itself, through the filter's own scripts, so it works while every Envoy is down. Unlike the
//! library it reads clocks, files and sockets; what is worth testing without them is in functions of their own.

mod account;
mod act;
mod bucket;
mod check;
mod explain;
mod generate;
mod init;
mod problem;
mod queue;
mod recall;
mod server;
mod show;
mod status;
mod terminal;
mod watch;
mod words;

use clap::{Args, CommandFactory, Parser, Subcommand};
use problem::{Exit, Problem};
use recall::Asked;
use slotgate::ledger::commands::Change;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// Check slotgate configurations, and show and change its pools in Redis.
#[derive(Debug, Parser)]
#[command(
    name = "slotgate",
    version = slotgate::VERSION,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done; 1 no such thing, or errors found; 2 arguments or a file can't be read; 3 Redis can't be asked."
)]
struct Cli {
    #[command(flatten)]
    before: Before,
    /// Print JSON
    #[arg(long, global = true, display_order = 900)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// How to reach Redis, where a command asks it.
#[derive(Debug, Clone, Default, Args)]
struct Connection {
    /// Redis: redis://[user@]host:port/database, or host:port [env: SLOTGATE_REDIS] [default: 127.0.0.1:6379]
    // The value may hold a password: never shown, not even as the variable's value.
    #[arg(long, value_name = "URL", display_order = 800)]
    redis: Option<String>,
    /// Variable that holds Redis' password, if the URL has none [default: SLOTGATE_REDIS_PASSWORD]
    #[arg(long, value_name = "NAME", display_order = 801)]
    password_env: Option<String>,
    /// First part of every key: redis.key_prefix of the configuration [env: SLOTGATE_PREFIX] [default: slotgate]
    #[arg(long, display_order = 802)]
    prefix: Option<String>,
}

/// The same before the command: it holds for those that ask Redis.
#[derive(Debug, Clone, Default, Args)]
struct Before {
    #[arg(id = "redis_before", long = "redis", hide = true)]
    redis: Option<String>,
    #[arg(id = "password_env_before", long = "password-env", hide = true)]
    password_env: Option<String>,
    #[arg(id = "prefix_before", long = "prefix", hide = true)]
    prefix: Option<String>,
}

impl Before {
    /// The connection to use: each setting as given after the command, else before it, else by the environment.
    fn and(&self, own: Connection) -> Connection {
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
    fn open(&self) -> Result<server::Server, Problem> {
        server::Server::open(
            self.redis.as_deref(),
            self.password_env.as_deref().unwrap_or(PASSWORD_ENV),
            self.prefix.as_deref().unwrap_or(PREFIX),
        )
    }
}

/// Where Redis' password is, unless told.
pub const PASSWORD_ENV: &str = "SLOTGATE_REDIS_PASSWORD";
/// The first part of every key, unless told.
const PREFIX: &str = "slotgate";

/// The pool, where there is more than one.
#[derive(Debug, Args)]
struct OnePool {
    /// The pool; needed when there is more than one
    #[arg(long)]
    pool: Option<String>,
}

/// An account.
#[derive(Debug, Args)]
struct OneAccount {
    /// The account's id
    account: String,
    #[command(flatten)]
    pool: OnePool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
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
        /// Say too where Redis keeps other accounts than this configuration has
        #[arg(long, value_name = "FILE")]
        config: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show pools again and again; q ends it
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
enum Accounts {
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
struct PutAccounts {
    /// The account's id
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    account: Option<String>,
    #[command(flatten)]
    terms: Terms,
    /// Many at once, from a YAML file: accounts, each with id, max_concurrency, priority, enabled, pace; - reads standard input
    #[arg(long, value_name = "FILE")]
    from: Option<String>,
    #[command(flatten)]
    pool: OnePool,
    #[command(flatten)]
    connection: Connection,
}

/// What is set of an account.
#[derive(Debug, Args)]
struct Terms {
    /// Its slots, 1..=100000
    #[arg(long, conflicts_with = "from", allow_hyphen_values = true)]
    max_concurrency: Option<String>,
    /// Lower is preferred; within the pool's priority_range
    #[arg(long, conflicts_with = "from", allow_hyphen_values = true)]
    priority: Option<String>,
    /// Let it take leases
    #[arg(long, conflicts_with_all = ["from", "disable"])]
    enable: bool,
    /// No new leases; those that live finish
    #[arg(long, conflicts_with = "from")]
    disable: bool,
    /// At most so many requests in a time: 50/60s, 50/60s/10 with up to 10 at once, or none
    #[arg(long, conflicts_with = "from", allow_hyphen_values = true)]
    pace: Option<String>,
}

/// Accounts of one pool.
#[derive(Debug, Args)]
struct SomeAccounts {
    /// Their ids
    #[arg(required = true, value_name = "ACCOUNT")]
    accounts: Vec<String>,
    #[command(flatten)]
    pool: OnePool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Percent {
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
struct SomePools {
    #[command(flatten)]
    one: OnePool,
    /// Every pool
    #[arg(long, conflicts_with = "pool")]
    all_pools: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Cooldown {
    /// End an account's cooldown now
    Clear(OneAccount),
}

/// The result of a command, for people and for programs.
#[derive(Debug)]
pub struct Answer {
    /// For people.
    text: show::Lines,
    /// With `--json`; null: all is said.
    json: serde_json::Value,
    exit: Exit,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return shown(&error),
    };
    let json = cli.json;
    let result = run(cli).and_then(|answer| {
        if json && !answer.json.is_null() {
            say(&show::Lines::json(&answer.json, true))?;
        } else {
            say(&answer.text)?;
        }
        Ok(answer.exit)
    });
    let exit = result.unwrap_or_else(|problem| {
        if problem.exit != Exit::ReaderGone {
            problem.report(json);
        }
        problem.exit
    });
    ExitCode::from(exit.code())
}

/// clap's help, or what it says of the arguments, which it repeats as they came.
fn shown(error: &clap::Error) -> ExitCode {
    let mut lines = show::Lines::default();
    for line in error.render().to_string().lines() {
        lines.line(line);
    }
    if error.use_stderr() {
        lines.report();
    } else if let Err(problem) = say(&lines) {
        return ExitCode::from(problem.exit.code());
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Writes to standard output. Whoever reads may have seen enough (`slotgate watch | head`).
pub fn say(text: &show::Lines) -> Result<(), Problem> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => {
                Problem::new(Exit::ReaderGone, "output", "nobody reads the output")
            }
            _ => Problem::new(
                Exit::Usage,
                "output",
                format!("the output can't be written: {error}"),
            ),
        })
}

fn run(cli: Cli) -> Result<Answer, Problem> {
    let before = cli.before;
    let server = |connection: Connection| before.and(connection).open();
    match cli.command {
        Command::Check {
            files,
            require_env,
            strict,
            redis,
            password_env,
        } => {
            let redis = redis.map(|redis| {
                before.and(Connection {
                    redis: Some(redis).filter(|redis| !redis.is_empty()),
                    password_env,
                    prefix: None,
                })
            });
            let asked = redis.as_ref().map(|redis| check::Ledger {
                url: redis.redis.as_deref(),
                password_env: redis.password_env.as_deref(),
            });
            let options = check::Options {
                require_env,
                strict,
            };
            check::run(&texts(files)?, options, asked)
        }
        Command::Init {
            file,
            output,
            fragment,
            check,
            force,
        } => init::run(&init::Asked {
            file,
            output,
            fragment,
            check,
            force,
        }),
        Command::Bucket {
            session,
            percent,
            salt,
            config,
        } => {
            let percent = percent.as_deref().map(words::basis_points).transpose()?;
            let configured = match config {
                Some(file) => Some(check::gray(&file, &read(&file)?)?),
                None => None,
            };
            Ok(bucket::run(&session, percent, salt, configured))
        }
        Command::Status {
            pool,
            rows,
            tenant,
            config,
            connection,
        } => {
            let configured = match config {
                Some(file) => check::schedulers(&file, &read(&file)?)?,
                None => Vec::new(),
            };
            let mut server = server(connection)?;
            let tenant = tenant.as_deref();
            let pools = status::read(&mut server, &pool, tenant)?;
            let differences = check::differences(&mut server, &configured, &pools)?;
            Ok(Answer {
                text: status::with(
                    status::text(&pools, rows, tenant, show::Colours::for_stdout()),
                    &differences,
                ),
                json: status::json_with(&pools, &differences),
                exit: status::exit(&pools),
            })
        }
        Command::Watch {
            pool,
            rows,
            tenant,
            interval,
            count,
            connection,
        } => {
            if !(0.1..=3_600.0).contains(&interval) {
                return Err(Problem::usage(format!(
                    "--interval {interval} is not in 0.1..=3600 seconds"
                )));
            }
            let connection = before.and(connection);
            watch::run(
                &|| connection.open(),
                &watch::Watch {
                    pools: pool,
                    rows,
                    tenant,
                    interval,
                    count,
                    json: cli.json,
                },
            )
        }
        Command::Explain {
            pool,
            request,
            lease,
            session,
            scope,
            random,
            config,
            connection,
        } => {
            let asked = request.as_deref().map(Asked::Request);
            if let Some(asked) = asked.or_else(|| lease.as_deref().map(Asked::Lease)) {
                return recall::run(&mut server(connection)?, pool.pool.as_deref(), asked);
            }
            let random = match config {
                Some(file) => check::random_weight(&file, &read(&file)?)?,
                None => random.unwrap_or(0.2),
            };
            if !(0.0..=1_000.0).contains(&random) {
                return Err(Problem::usage(format!(
                    "--random {random} is not in 0..=1000"
                )));
            }
            let mut server = server(connection)?;
            let pool = server.one_pool(pool.pool.as_deref())?;
            explain::run(
                &mut server,
                &pool,
                session.as_deref(),
                scope.as_deref(),
                random,
            )
        }
        Command::Drain(one) => verb(&before, one, "drain"),
        Command::Undrain(one) => verb(&before, one, "undrain"),
        Command::Cooldown(Cooldown::Clear(one)) => verb(&before, one, "thaw"),
        Command::Account(Accounts::List { pool, connection }) => {
            account::list(&mut server(connection)?, pool.pool.as_deref())
        }
        Command::Account(Accounts::Add(put)) => put_accounts(&before, put, Change::Add),
        Command::Account(Accounts::Set(put)) => put_accounts(&before, put, Change::Set),
        Command::Account(Accounts::Remove(some)) => change_accounts(&before, some, Change::Remove),
        Command::Account(Accounts::Reset(some)) => change_accounts(&before, some, Change::Reset),
        Command::Percent(Percent::Get { pool, connection }) => {
            act::percent_set(&mut server(connection)?, &pool)
        }
        Command::Percent(Percent::Set { percent, pools }) => {
            let percent = words::basis_points(&percent)?;
            act::percent(
                &mut server(pools.connection)?,
                pools.one.pool.as_deref(),
                pools.all_pools,
                Some(percent),
            )
        }
        Command::Percent(Percent::Clear { pools }) => act::percent(
            &mut server(pools.connection)?,
            pools.one.pool.as_deref(),
            pools.all_pools,
            None,
        ),
        Command::Unbind {
            session,
            pool,
            connection,
        } => act::unbind(&mut server(connection)?, pool.pool.as_deref(), &session),
        Command::Lease {
            id,
            pool,
            connection,
        } => act::lease(&mut server(connection)?, pool.as_deref(), &id),
        Command::Generate { folder } => generate::run(Cli::command(), &folder),
    }
}

/// One of the verbs on an account.
fn verb(before: &Before, one: OneAccount, verb: &'static str) -> Result<Answer, Problem> {
    let mut server = before.and(one.connection).open()?;
    act::account(&mut server, &one.pool.pool, verb, &one.account)
}

/// Puts in, or sets, the account of the arguments, or those of a file.
fn put_accounts(before: &Before, put: PutAccounts, change: Change) -> Result<Answer, Problem> {
    let accounts = match put.from {
        Some(file) => account::from_file(&file, &read(&file)?)?,
        None => {
            let enabled = match (put.terms.enable, put.terms.disable) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            };
            let given = account::Given {
                id: put.account.unwrap_or_default(),
                max_concurrency: put.terms.max_concurrency,
                priority: put.terms.priority,
                enabled,
                pace: put.terms.pace,
            };
            vec![given.terms(change == Change::Add)?]
        }
    };
    let mut server = before.and(put.connection).open()?;
    account::put(&mut server, &put.pool.pool, change, &accounts)
}

/// Takes accounts away, or resets them.
fn change_accounts(before: &Before, some: SomeAccounts, change: Change) -> Result<Answer, Problem> {
    let accounts = account::named(&some.accounts)?;
    let mut server = before.and(some.connection).open()?;
    account::put(&mut server, &some.pool.pool, change, &accounts)
}

/// Files with their texts.
fn texts(files: Vec<String>) -> Result<Vec<check::File>, Problem> {
    let texts = files.into_iter().map(|file| {
        let text = read(&file)?;
        Ok((file, text))
    });
    texts.collect()
}

/// A file's text, or standard input's for `-`.
fn read(file: &str) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    let read = if file == "-" {
        std::io::stdin().read_to_end(&mut bytes).map(|_| ())
    } else {
        std::fs::read(Path::new(file)).map(|content| bytes = content)
    };
    read.map_err(|error| {
        Problem::new(
            Exit::Usage,
            "file",
            format!("{file} can't be read: {error}"),
        )
    })?;
    String::from_utf8(bytes)
        .map_err(|_| Problem::new(Exit::Usage, "file", format!("{file} is not UTF-8 text")))
}
