//! What the console is looked at in: Envoy, Redis and an upstream, with as many accounts as told, under real load.
//!
//! Prints one line of JSON with the addresses and the token, and ends with its standard input.

#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::io::Read;

use serde_json::{Value, json};
use support::{Client, Envoy, EnvoyConfig, Redis, Request, Upstream, eventually, spawn};

const TOKEN: &str = "the stage's own token";
const TENANTS: [&str; 3] = ["red", "green", "blue"];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| {
        arguments
            .next()
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (accounts, lanes): (u32, usize) = (number(3), number(24) as usize);
    let workers = number(2);
    let account = |n: u32| {
        json!({
            "id": format!("acct-{n}"),
            "max_concurrency": 4u32 << (n % 3),
            "priority": 1,
            "enabled": n % 50 != 49,
            "set_headers": {"x-upstream": "acct_1"},
        })
    };
    let accounts: Vec<Value> = (1..=accounts).map(account).collect();
    let redis = Redis::start();
    let upstream = Upstream::start();
    let config = EnvoyConfig::from_example()
        .plugin(|plugin| {
            plugin["gray"]["percent"] = json!(80);
            plugin["pools"][0]["accounts"] = json!(accounts);
            plugin["saturated"] = json!({"action": "queue", "queue": {"max_wait_ms": 20_000}});
            plugin["tenant"] = json!({"source": [{"header": "x-tenant"}]});
        })
        .console(|console| {
            console["token_env"] = json!("SLOTGATE_CONSOLE_TOKEN");
            console["gray"] = json!({"percent": 80});
        })
        .env("SLOTGATE_CONSOLE_TOKEN", TOKEN);
    let envoy = Envoy::start(
        config
            .redis(redis.addr())
            .upstream(upstream.addr())
            .workers(workers),
    );
    eventually(support::PATIENCE, || {
        let reply = envoy.client().get("/", &[("x-session-id", "alice")]);
        reply.header("x-slotgate-path") == "atomic"
    });
    for lane in 0..lanes {
        spawn(drive(envoy.client(), lane));
    }
    println!(
        "{}",
        json!({
            "console": format!("http://{}/", envoy.addrs()[1]),
            "envoy": envoy.addr().to_string(),
            "redis": redis.addr().to_string(),
            "pids": [envoy.pid(), redis.pid()],
            "token": TOKEN,
        })
    );
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// One client after another: streams of several seconds, and now and then a 429.
async fn drive(client: Client, lane: usize) {
    for turn in lane.. {
        let events = 20 + turn * 7 % 60;
        let path = match turn % 23 {
            22 => "/status/429?retry-after=6".to_owned(),
            _ => format!("/sse?events={events}&interval_ms=50"),
        };
        let session = format!("session-{}", turn * 31 % 4_000);
        let request = Request::get(&path).header("x-session-id", session);
        let request = request.header("x-tenant", TENANTS[lane % TENANTS.len()]);
        let refused = client
            .sending(request)
            .await
            .is_ok_and(|reply| reply.status == 429);
        if refused {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }
}
