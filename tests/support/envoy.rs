use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::envoy_config::{Watched, socket_address};
use super::{Client, Dir, EnvoyConfig, PATIENCE, Port, Process, Reply, Request, poll, root};

const LOG: &str = "envoy.log";
const STDOUT: &str = "stdout.log";

/// A real Envoy: `ENVOY` names the program; without it, the one that `make setup` puts into `.venv`.
pub struct Envoy {
    process: Process,
    listeners: Vec<Port>,
    admin: Port,
    watched: Option<Watched>,
    dir: Dir,
}

impl Envoy {
    /// Starts it and waits until it serves.
    pub fn start(config: EnvoyConfig) -> Envoy {
        Envoy::start_in(Dir::temporary(), None, Port::free(), config)
    }

    /// In a given folder; `listeners`: ports of the first listeners.
    pub fn start_in(
        dir: Dir,
        listeners: impl IntoIterator<Item = Port>,
        admin: Port,
        config: EnvoyConfig,
    ) -> Envoy {
        let envoy = Envoy::launch(dir, listeners, admin, config);
        let live = poll(PATIENCE, || {
            let ended = envoy.process.exited().is_some();
            (ended || envoy.is_live()).then_some(!ended)
        });
        match live {
            Some(true) => envoy,
            Some(false) => panic!("Envoy ended at once: {}", envoy.log_tail(60)),
            None => panic!("Envoy did not become live: {}", envoy.log_tail(60)),
        }
    }

    /// Starts it with something it must refuse, and returns its log once it has ended with an error.
    pub fn start_expecting_failure(config: EnvoyConfig) -> String {
        let envoy = Envoy::launch(Dir::temporary(), None, Port::free(), config);
        let refused = poll(PATIENCE, || match envoy.process.exited() {
            Some(status) => Some(!status.success()),
            None => envoy.is_live().then_some(false),
        });
        assert_eq!(
            refused,
            Some(true),
            "Envoy took the configuration: {}",
            envoy.log_tail(60)
        );
        envoy.log()
    }

    /// What Envoy says to a configuration offline, with these variables in its environment: an error is its whole log.
    /// Ports and addresses stay as they are.
    pub fn validate(config: &EnvoyConfig, env: &[(&str, &str)]) -> Result<(), String> {
        let dir = Dir::temporary();
        let path = dir.join("envoy.json");
        std::fs::write(&path, format!("{:#}", config.document))
            .expect("the configuration can be written");
        let mut command = Command::new(program());
        command
            .args(["--mode", "validate", "--config-path"])
            .arg(path);
        let output = command.envs(env.iter().copied()).output();
        let output = output.expect("Envoy runs");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(log)
        }
    }

    fn launch(
        dir: Dir,
        listeners: impl IntoIterator<Item = Port>,
        admin: Port,
        mut config: EnvoyConfig,
    ) -> Envoy {
        for file in config.wasm_files() {
            assert!(
                file.exists(),
                "{} is missing: build it first (make wasm)",
                file.display()
            );
        }
        config.document["admin"] = json!({"address": socket_address(admin.addr())});
        let mut given = listeners.into_iter();
        let listeners: Vec<Port> = config
            .outer_listeners()
            .map(|outer| match given.next() {
                Some(port) => port,
                // A claim is a UDP socket.
                None if is_udp(outer) => Port::fixed(Port::free().number()),
                None => Port::free(),
            })
            .collect();
        place_listeners(&mut config, &listeners);
        if let Some(watched) = config.watched {
            write_watched(&dir, &mut config, watched);
        }
        let path = dir.join("envoy.json");
        std::fs::write(&path, format!("{:#}", config.document))
            .expect("the configuration can be written");
        // The log goes to stderr, which is a file, rather than by --log-path: nothing of it is kept back in a buffer
        // when Envoy is killed, and a crash's backtrace is in it too.
        let log = File::create(dir.join(LOG)).expect("a log file");
        let stdout = File::create(dir.join(STDOUT)).expect("a log file");
        let mut command = Command::new(program());
        command.arg("--config-path").arg(&path);
        command.args([
            "--concurrency",
            &config.workers.to_string(),
            "--disable-hot-restart",
        ]);
        command.args([
            "--service-cluster",
            "slotgate",
            "--service-node",
            "slotgate",
        ]);
        command.args([
            "--log-level",
            &config.log_level,
            "--component-log-level",
            &config.component_log_level,
        ]);
        // Access logs; the default is ten seconds.
        command.args(["--file-flush-interval-msec", "50"]);
        command.args(&config.args);
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        Envoy {
            process: Process::start(command),
            listeners,
            admin,
            watched: config.watched,
            dir,
        }
    }

    /// Pushes another configuration's listeners or filter into the running Envoy, which was started from one with
    /// `listeners_from_file` or `filter_from_file`. Says whether Envoy took it, or else the end of its log.
    pub fn reconfigure(&self, mut config: EnvoyConfig) -> Result<(), String> {
        place_listeners(&mut config, &self.listeners);
        let seen = |name: &str| self.stat(name).unwrap_or_default();
        let watched = self.watched.expect("it was started so");
        let [success, rejected] = watched.stats();
        let before = (seen(success), seen(rejected));
        write_watched(&self.dir, &mut config, watched);
        let taken = poll(PATIENCE, || match (seen(success), seen(rejected)) {
            (now, _) if now > before.0 => Some(true),
            (_, now) if now > before.1 => Some(false),
            _ => None,
        });
        match taken {
            Some(true) => Ok(()),
            _ => Err(self.log_tail(60)),
        }
    }

    /// Address of the first listener.
    pub fn addr(&self) -> SocketAddr {
        self.listeners[0].addr()
    }

    /// Addresses of all listeners, in the configuration's order.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Port::addr).collect()
    }

    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    pub fn client(&self) -> Client {
        Client::new(self.addr())
    }

    #[track_caller]
    pub fn admin_get(&self, path: &str) -> String {
        Client::new(self.admin.addr()).get(path, &[]).text()
    }

    /// Changes something by the admin interface, which wants a POST: `/drain_listeners?graceful`.
    #[track_caller]
    pub fn admin_post(&self, path: &str) -> Reply {
        Client::new(self.admin.addr()).post(path, &[], "")
    }

    /// Counters and gauges by name.
    #[track_caller]
    pub fn stats(&self) -> BTreeMap<String, u64> {
        let text = self.admin_get("/stats");
        let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
        pairs
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// `None`: there is no such counter or gauge (so a misspelt one is not taken for 0).
    #[track_caller]
    pub fn stat(&self, name: &str) -> Option<u64> {
        self.stats().get(name).copied()
    }

    /// The filter's counters and gauges by what follows `slotgate.`, each summed over its pools:
    /// `requests;outcome=atomic`.
    #[track_caller]
    pub fn filter_stats(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (name, value) in self.stats() {
            // Up to some version of Envoy they are their VM's first plugin's, which may be one of a cluster.
            if let Some((_, name)) = name.split_once("wasmcustom.slotgate.") {
                let labels = name.split(';').filter(|part| !part.starts_with("pool="));
                let name = labels.collect::<Vec<_>>().join(";");
                *all.entry(name).or_default() += value;
            }
        }
        all
    }

    /// One of them; `None`: there is none such.
    #[track_caller]
    pub fn filter_stat(&self, name: &str) -> Option<u64> {
        self.filter_stats().get(name).copied()
    }

    /// As in `1.40.0`.
    #[track_caller]
    pub fn version(&self) -> String {
        let info: Value =
            serde_json::from_str(&self.admin_get("/server_info")).expect("/server_info is JSON");
        let version = info["version"]
            .as_str()
            .and_then(|all| all.split('/').nth(1));
        version.expect("a version").to_owned()
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        read(self.dir.join(LOG))
    }

    pub fn log_contains(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// What it wrote to its standard output: access logs, in most configurations.
    pub fn stdout(&self) -> String {
        read(self.dir.join(STDOUT))
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// SIGTERM; does not wait.
    pub fn terminate(&self) {
        self.process.signal(libc::SIGTERM);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) {
        self.process.kill();
    }

    pub fn signal(&self, signal: libc::c_int) {
        self.process.signal(signal);
    }

    pub fn is_running(&self) -> bool {
        self.process.exited().is_none()
    }

    pub fn wait_exit(&self, timeout: Duration) -> Option<ExitStatus> {
        self.process.wait_exit(timeout)
    }

    fn is_live(&self) -> bool {
        let ready = Client::new(self.admin.addr()).send(Request::get("/ready"));
        ready.is_ok_and(|reply| reply.status == 200 && reply.text().starts_with("LIVE"))
    }

    /// Its last lines.
    pub fn log_tail(&self, count: usize) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ended = self
                .process
                .exited()
                .map(|status| format!(" ({status})"))
                .unwrap_or_default();
            eprintln!("--- end of Envoy's log{ended}\n{}\n---", self.log_tail(60));
        }
    }
}

fn place_listeners(config: &mut EnvoyConfig, ports: &[Port]) {
    for (listener, port) in config.outer_listeners().zip(ports) {
        let is_udp = is_udp(listener);
        listener["address"] = socket_address(port.addr());
        if is_udp {
            listener["address"]["socket_address"]["protocol"] = json!("UDP");
        }
    }
}

fn is_udp(listener: &Value) -> bool {
    listener["address"]["socket_address"]["protocol"] == "UDP"
}

fn write_watched(dir: &Dir, config: &mut EnvoyConfig, watched: Watched) {
    let resources = config.take_watched(watched, dir.path());
    // Envoy watches for a file moved into place: one being written would be read half.
    let fresh = dir.join("fresh.json");
    std::fs::write(&fresh, json!({"resources": resources}).to_string())
        .expect("the resources can be written");
    std::fs::rename(fresh, dir.join(watched.file())).expect("they can be moved into place");
}

fn read(path: PathBuf) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("ENVOY") {
        return path.into();
    }
    let own = root().join(".venv");
    let versions = std::fs::read_dir(own.join("lib"))
        .into_iter()
        .flatten()
        .flatten();
    let wheels = versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    let mut programs = std::iter::once(own.join("envoy")).chain(wheels);
    let found = programs.find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!(
            "no Envoy in {}: run make setup, or name one in ENVOY",
            own.display()
        )
    })
}
