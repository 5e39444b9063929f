use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Pool, console_token, on_stop, with_console};
use support::{Client, Dir, Envoy, EnvoyConfig, Port, Redis, Request, Upstream, eventually, root};

/// What listens, on which port, and the setting that moves it.
const PORTS: [(&str, u16, &str); 5] = [
    ("Envoy", 10_000, "SLOTGATE_ENVOY_PORT"),
    ("Envoy's admin interface", 9_901, "SLOTGATE_ADMIN_PORT"),
    ("Redis", 6_379, "SLOTGATE_REDIS_PORT"),
    ("the upstream", 8_080, "SLOTGATE_UPSTREAM_PORT"),
    ("the console", 9_902, "SLOTGATE_CONSOLE_PORT"),
];

pub fn up() -> ExitCode {
    let stop = on_stop();
    let folder = root().join(".run");
    let ready = folder.join("ready");
    let _ = std::fs::remove_file(&ready);
    let [
        envoy_port,
        admin_port,
        redis_port,
        upstream_port,
        console_port,
    ] = match ports() {
        Ok(ports) => ports,
        Err(problems) => {
            eprintln!("{}", problems.join("\n"));
            return ExitCode::FAILURE;
        }
    };

    let config = EnvoyConfig::from_example();
    let pool = Pool::of(&config);
    let redis = Redis::start_in(Dir::kept(&folder), Port::fixed(redis_port), &[]);
    let upstream = Upstream::start_on(Port::fixed(upstream_port));
    let token = console_token();
    let config = with_console(config, &token)
        .redis(redis.addr())
        .upstream(upstream.addr())
        .workers(2);
    let envoy = Envoy::start_in(
        Dir::kept(&folder),
        [envoy_port, console_port].map(Port::fixed),
        Port::fixed(admin_port),
        config,
    );

    let answers = |client: Client, path: &str| {
        client
            .send(Request::get(path))
            .is_ok_and(|reply| reply.status == 200)
    };
    eventually(Duration::from_secs(30), || answers(envoy.client(), "/echo"));
    eventually(Duration::from_secs(30), || {
        answers(Client::new(upstream.addr()), "/stats")
    });

    let (url, ledger) = (
        format!("http://{}", envoy.addr()),
        format!("{}:{{{}}}", pool.key_prefix, pool.name),
    );
    println!("slotgate is up; make down, SIGTERM or Ctrl-C stops it. Logs are in .run/\n");
    println!("which account a request gets:");
    println!("  curl -i -H 'x-session-id: alice' {url}/echo");
    println!("a stream, which holds its slot to its end:");
    println!("  curl -N -H 'x-session-id: alice' '{url}/sse?events=50&interval_ms=200'");
    println!("how many slots are used, and which leases there are:");
    println!("  redis-cli -p {redis_port} hgetall '{ledger}:used'");
    println!("  redis-cli -p {redis_port} hgetall '{ledger}:owner'");
    println!("the console, and the token that changes anything:");
    println!("  http://{}/  {token}", envoy.addrs()[1]);
    println!("what the upstream saw:");
    println!("  curl http://{}/stats", upstream.addr());
    println!("the filter's metrics:");
    println!(
        "  curl -s http://{}/stats | grep wasmcustom",
        envoy.admin_addr()
    );
    // `make up` prints it.
    let addresses = format!(
        "Envoy    {url}\nconsole  http://{}/  token {token}\n",
        envoy.addrs()[1]
    );
    std::fs::write(&ready, addresses).expect(".run/ready can be written");

    let mut code = ExitCode::SUCCESS;
    while !stop.load(Ordering::Relaxed) {
        if !envoy.is_running() || !redis.is_running() {
            eprintln!(
                "{} ended by itself; see .run/",
                if redis.is_running() { "Envoy" } else { "Redis" }
            );
            code = ExitCode::FAILURE;
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let _ = std::fs::remove_file(&ready);
    code
}

fn ports() -> Result<[u16; 5], Vec<String>> {
    let mut problems = Vec::new();
    let ports = PORTS.map(|(what, default, setting)| {
        let text = std::env::var(setting).unwrap_or_default();
        let Ok(port) = (if text.is_empty() {
            Ok(default)
        } else {
            text.parse()
        }) else {
            problems.push(format!("{setting}={text} is not a port"));
            return 0;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_err() {
            problems.push(format!(
                "port {port} is taken, {what} wants it: free it, or set {setting} to another"
            ));
        }
        port
    });
    if problems.is_empty() {
        Ok(ports)
    } else {
        Err(problems)
    }
}
