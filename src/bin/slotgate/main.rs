//! `slotgate`, the operator's command line: checks configurations, and shows and changes pools in Redis.
//!
//! It speaks to Redis itself, through the filter's own scripts, so it works while every Envoy is down. Unlike the
//! library it reads clocks, files and sockets; what is worth testing without them is in functions of their own.

mod act;
mod bucket;
mod check;
mod explain;
mod generate;
mod init;
mod problem;
mod recall;
mod server;
mod show;
mod status;
mod words;

use clap::{Args, CommandFactory, Parser, Subcommand};
use problem::{Exit, Problem};
use recall::Asked;
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
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What all subcommands take.
#[derive(Debug, Args)]
struct Common {
    /// Redis: redis://[user@]host:port/database, or host:port [default: 127.0.0.1:6379]
    // The value may hold a password: never shown, not even as the variable's value.
    #[arg(
        long,
        global = true,
        env = "SLOTGATE_REDIS",
        hide_env_values = true,
        value_name = "URL"
    )]
    redis: Option<String>,
    /// Variable that holds Redis' password, if the URL has none
    #[arg(
        long,
        global = true,
        default_value = "SLOTGATE_REDIS_PASSWORD",
        value_name = "NAME"
    )]
    password_env: String,
    /// First part of every key: redis.key_prefix of the configuration
    #[arg(
        long,
        global = true,
        env = "SLOTGATE_PREFIX",
        default_value = "slotgate"
    )]
    prefix: String,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

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
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find every error in an Envoy configuration, or in a plugin's own configuration
    Check {
        /// YAML or JSON; - reads standard input
        file: String,
        /// A variable that is not set here is an error too
        #[arg(long)]
        require_env: bool,
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
    },
    /// Show pools again and again
    Watch {
        /// Only these pools
        #[arg(long)]
        pool: Vec<String>,
        /// At most so many accounts of each pool [default: what the terminal holds]
        #[arg(long)]
        rows: Option<usize>,
        /// Seconds between two looks
        #[arg(long, default_value = "1")]
        interval: f64,
        /// End after so many looks
        #[arg(long)]
        count: Option<u64>,
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
    },
    /// No new leases of an account; those that live finish
    Drain(OneAccount),
    /// Let a drained account take leases again
    Undrain(OneAccount),
    /// Override the share of the gray release; filters follow within their control.poll_ms
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
    },
    /// Which account a lease holds, and until when
    Lease {
        /// The id, as in x-slotgate-lease
        id: String,
        /// Only this pool [default: look in all]
        #[arg(long)]
        pool: Option<String>,
    },
    /// Write shell completions and manual pages into a folder, for those who package slotgate
    #[command(hide = true)]
    Generate {
        /// Made where there is none
        folder: std::path::PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Percent {
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
}

#[derive(Debug, Subcommand)]
enum Cooldown {
    /// End an account's cooldown now
    Clear(OneAccount),
}

/// What a command has to say.
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
    let json = cli.common.json;
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
    let common = &cli.common;
    let server = || {
        server::Server::open(
            common.redis.as_deref(),
            &common.password_env,
            &common.prefix,
        )
    };
    match cli.command {
        Command::Check { file, require_env } => {
            let text = read(&file)?;
            check::run(&file, &text, require_env)
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
        Command::Status { pool, rows } => {
            let mut server = server()?;
            let pools = status::read(&mut server, &pool)?;
            Ok(Answer {
                text: status::text(&pools, rows, show::Colours::for_stdout()),
                json: status::json(&pools),
                exit: status::exit(&pools),
            })
        }
        Command::Watch {
            pool,
            rows,
            interval,
            count,
        } => {
            if !(0.1..=3_600.0).contains(&interval) {
                return Err(Problem::usage(format!(
                    "--interval {interval} is not in 0.1..=3600 seconds"
                )));
            }
            status::watch(
                &server,
                &status::Watch {
                    pools: pool,
                    rows,
                    interval,
                    count,
                    json: common.json,
                },
            )
        }
        Command::Explain {
            pool,
            request: Some(id),
            ..
        } => recall::run(&mut server()?, pool.pool.as_deref(), Asked::Request(&id)),
        Command::Explain {
            pool,
            lease: Some(id),
            ..
        } => recall::run(&mut server()?, pool.pool.as_deref(), Asked::Lease(&id)),
        Command::Explain {
            pool,
            request: None,
            lease: None,
            session,
            scope,
            random,
            config,
        } => {
            let random = match config {
                Some(file) => check::random_weight(&file, &read(&file)?)?,
                None => random.unwrap_or(0.2),
            };
            if !(0.0..=1_000.0).contains(&random) {
                return Err(Problem::usage(format!(
                    "--random {random} is not in 0..=1000"
                )));
            }
            let mut server = server()?;
            let pool = server.one_pool(pool.pool.as_deref())?;
            explain::run(
                &mut server,
                &pool,
                session.as_deref(),
                scope.as_deref(),
                random,
            )
        }
        Command::Drain(one) => act::account(&mut server()?, &one.pool.pool, "drain", &one.account),
        Command::Undrain(one) => {
            act::account(&mut server()?, &one.pool.pool, "undrain", &one.account)
        }
        Command::Cooldown(Cooldown::Clear(one)) => {
            act::account(&mut server()?, &one.pool.pool, "thaw", &one.account)
        }
        Command::Percent(Percent::Set { percent, pools }) => {
            let percent = words::basis_points(&percent)?;
            act::percent(
                &mut server()?,
                pools.one.pool.as_deref(),
                pools.all_pools,
                Some(percent),
            )
        }
        Command::Percent(Percent::Clear { pools }) => act::percent(
            &mut server()?,
            pools.one.pool.as_deref(),
            pools.all_pools,
            None,
        ),
        Command::Unbind { session, pool } => {
            act::unbind(&mut server()?, pool.pool.as_deref(), &session)
        }
        Command::Lease { id, pool } => act::lease(&mut server()?, pool.as_deref(), &id),
        Command::Generate { folder } => generate::run(Cli::command(), &folder),
    }
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
