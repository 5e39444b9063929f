use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::prometheus::Prometheus;
use support::*;

/// Two Envoys with two workers each, half of the sessions in the gray release, before one Redis; clients; Prometheus.
/// Where no slot is free the first Envoy answers with 429, and the second lets requests wait. The second one tries other accounts
/// where one refuses.
pub struct Run {
    pub prometheus: Prometheus,
    pub redis: Redis,
    envoys: [Envoy; 2],
    _upstream: Upstream,
    /// So many of the clients are at work.
    active: Arc<AtomicUsize>,
    lanes: usize,
    since: f64,
}

pub fn dashboard() -> Value {
    let path = root().join("envoy/grafana/dashboards/slotgate.json");
    let text = std::fs::read(path).expect("the dashboard");
    serde_json::from_slice(&text).expect("JSON")
}

/// Those of the dashboard, rows among them.
pub fn panels() -> Vec<Value> {
    dashboard()["panels"].as_array().expect("panels").clone()
}

fn now_s() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_secs_f64()
}

impl Run {
    pub fn start() -> Run {
        let (redis, upstream) = (Redis::start(), Upstream::start());
        let envoy = |file: &str, saturated: Value| {
            let config = EnvoyConfig::from_file(file).workers(2).plugin(|plugin| {
                plugin["saturated"] = saturated.clone();
                plugin["gray"]["percent"] = json!(50);
                plugin["redis"]["breaker"] = json!({"failures": 2});
            });
            Envoy::start(config.redis(redis.addr()).upstream(upstream.addr()))
        };
        let queue = json!({"max_wait_ms": 300});
        let envoys = [
            envoy("envoy/slotgate.yaml", json!({"action": "reject"})),
            envoy(
                "envoy/clusters.yaml",
                json!({"action": "queue", "queue": queue}),
            ),
        ];
        Run {
            prometheus: Prometheus::start(&[&envoys[0], &envoys[1]]),
            redis,
            envoys,
            _upstream: upstream,
            active: Arc::default(),
            lanes: 0,
            since: now_s(),
        }
    }

    /// So many clients from now on, each with one stream of half a second at a time.
    pub fn load(&mut self, clients: usize) {
        self.active.store(clients, Ordering::Relaxed);
        for lane in self.lanes..clients {
            let active = Arc::clone(&self.active);
            let client = self.envoys[lane % 2].client();
            drop(spawn(async move {
                for number in 0.. {
                    while active.load(Ordering::Relaxed) <= lane {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    let session = format!("session-{}", (lane * 31 + number * 7) % 200);
                    let request = Request::get("/sse?events=10&interval_ms=50");
                    let _ = client
                        .sending(request.header("x-session-id", session))
                        .await;
                    let pause = 20 + (lane * 13 + number * 29) % 100;
                    tokio::time::sleep(Duration::from_millis(pause as u64)).await;
                }
            }));
        }
        self.lanes = self.lanes.max(clients);
    }

    /// What `slotgate percent set` does.
    pub fn override_percent(&self, percent: u32) {
        let points = (percent * 100).to_string();
        let arguments = ["slotgate:{demo}:control", "percent", &points];
        let _: i64 = self.redis.run("HSET", &arguments);
    }

    /// The upstream answers so many requests that have an account with 429.
    pub fn push_back(&self, times: usize) {
        let client = self.envoys[0].client();
        let mut sessions = (0..).map(|number| format!("pushed-{number}"));
        for _ in 0..times {
            eventually(PATIENCE, || {
                let session = sessions.next().unwrap_or_default();
                let headers = [("x-session-id", session.as_str())];
                let reply = client.get("/status/429?retry-after=4", &headers);
                !reply.header("x-slotgate-account").is_empty()
            });
        }
        // One account refuses a request of the other Envoy, which another account then serves.
        let other = &self.envoys[1];
        let refused = || other.filter_stat("account.refused;account=acct-1");
        let before = refused();
        eventually(PATIENCE, || {
            let session = sessions.next().unwrap_or_default();
            let headers = [("x-session-id", session.as_str())];
            other.client().get("/refuse?accounts=acct-1", &headers);
            refused() > before
        });
    }

    pub fn wait(&self, seconds: u64) {
        std::thread::sleep(Duration::from_secs(seconds));
    }

    /// From the start to now, in s.
    pub fn range(&self) -> (f64, f64) {
        (self.since, now_s())
    }
}
