//! `slotgate`, the operator's command line: checks configurations, and shows and changes pools in Redis.
//!
//! It speaks to Redis itself, through the filter's own scripts, so it works while every Envoy is down. Unlike the
//! library it reads clocks, files and sockets; what is worth testing without them is in functions of their own.

mod account;
mod act;
mod arguments;
mod bucket;
mod check;
mod doctor;
mod explain;
mod generate;
mod init;
mod log;
mod problem;
mod queue;
mod recall;
mod server;
mod show;
mod status;
mod terminal;
mod watch;
mod words;

use arguments::{
    Accounts, Before, Cli, Command, Connection, Cooldown, OneAccount, Percent, PutAccounts,
    SomeAccounts, SomePools,
};
use clap::{CommandFactory, Parser};
use problem::{Exit, Problem};
use recall::Asked;
use slotgate::ledger::commands::Change;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;

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
            sort,
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
                    status::text(
                        &pools,
                        status::View {
                            rows,
                            tenant,
                            sort,
                            colours: show::Colours::for_stdout(),
                            width: None,
                        },
                    ),
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
            sort,
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
                    sort,
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
            percent_of(&before, pools, Some(words::basis_points(&percent)?))
        }
        Command::Percent(Percent::Clear { pools }) => percent_of(&before, pools, None),
        Command::Unbind {
            session,
            pool,
            author,
            connection,
        } => {
            let mut server = author.open(&before.and(connection))?;
            act::unbind(&mut server, pool.pool.as_deref(), &session)
        }
        Command::Doctor {
            pool,
            wait,
            workers,
            connection,
        } => {
            if !(0.1..=120.0).contains(&wait) {
                return Err(Problem::usage(format!(
                    "--wait {wait} is not in 0.1..=120 seconds"
                )));
            }
            if workers.is_some_and(|workers| !(1..=doctor::MOST_WORKERS).contains(&workers)) {
                return Err(Problem::usage(format!(
                    "--workers is not in 1..={}",
                    doctor::MOST_WORKERS
                )));
            }
            let wait = std::time::Duration::from_secs_f64(wait);
            doctor::run(&mut server(connection)?, &pool, wait, workers)
        }
        Command::Log { pool, connection } => log::run(&mut server(connection)?, &pool),
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
    let mut server = one.author.open(&before.and(one.connection))?;
    act::account(&mut server, &one.pool.pool, verb, &one.account)
}

/// Sets the percentage of one pool or of all; `None`: back to the configured one.
fn percent_of(before: &Before, pools: SomePools, set: Option<u16>) -> Result<Answer, Problem> {
    let mut server = pools.author.open(&before.and(pools.connection))?;
    act::percent(&mut server, pools.one.pool.as_deref(), pools.all_pools, set)
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
    let mut server = put.author.open(&before.and(put.connection))?;
    account::put(&mut server, &put.pool.pool, change, &accounts)
}

/// Takes accounts away, or resets them.
fn change_accounts(before: &Before, some: SomeAccounts, change: Change) -> Result<Answer, Problem> {
    let accounts = account::named(&some.accounts)?;
    let mut server = some.author.open(&before.and(some.connection))?;
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
