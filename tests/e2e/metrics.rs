//! What Prometheus sees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use crate::world::{SOON, World, accounts_json, config, way};
use support::*;

/// One metric as Prometheus would take it.
#[derive(Debug, Default)]
struct Metric {
    kind: String,
    /// Labels and value of each series; of a histogram, only the counts of all.
    series: Vec<(BTreeMap<String, String>, f64)>,
}

/// The filter's, by name.
fn scrape(envoy: &Envoy) -> BTreeMap<String, Metric> {
    let mut all: BTreeMap<String, Metric> = BTreeMap::new();
    for line in envoy.admin_get("/stats/prometheus").lines() {
        if let Some(kind) = line.strip_prefix("# TYPE slotgate_") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            let metric = all.entry(format!("slotgate_{name}")).or_default();
            assert!(metric.kind.is_empty(), "{name} is there twice");
            metric.kind = kind.to_owned();
        } else if line.starts_with("slotgate_") {
            let (name, rest) = line.split_once('{').expect("labels");
            let (labels, value) = rest.rsplit_once("} ").expect("a value");
            let labels = labels.split_terminator(',').map(|label| {
                let (name, value) = label.split_once('=').expect("a label");
                (name.to_owned(), value.trim_matches('"').to_owned())
            });
            let name = match name.strip_suffix("_count") {
                None if name.ends_with("_bucket") || name.ends_with("_sum") => continue,
                base => base.unwrap_or(name),
            };
            let metric = all.get_mut(name).expect("its type stands before it");
            let value = value.parse().expect("a number");
            metric.series.push((labels.collect(), value));
        }
    }
    all
}

/// The sum over all series with these labels.
#[track_caller]
fn value(envoy: &Envoy, name: &str, labels: &[(&str, &str)]) -> f64 {
    let all = scrape(envoy);
    let metric = all.get(name).unwrap_or_else(|| panic!("no {name}"));
    let with = |(series, _): &&(BTreeMap<String, String>, f64)| {
        labels
            .iter()
            .all(|(label, value)| series.get(*label).is_some_and(|own| own == value))
    };
    let values: Vec<f64> = metric
        .series
        .iter()
        .filter(with)
        .map(|(_, value)| *value)
        .collect();
    assert!(!values.is_empty(), "no {name} with {labels:?}");
    values.iter().sum()
}

#[track_caller]
fn eventually_is(envoy: &Envoy, name: &str, labels: &[(&str, &str)], expected: f64) {
    let seen = poll(SOON, || {
        (value(envoy, name, labels) == expected).then_some(())
    });
    let now = value(envoy, name, labels);
    assert!(seen.is_some(), "{name}{labels:?} is {now}, not {expected}");
}

fn observability() -> String {
    std::fs::read_to_string(root().join("docs/observability.md")).expect("docs/observability.md")
}

/// Name, type and labels of each row in the table of metrics in `docs/observability.md`.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = observability();
    let rows = page.lines().filter(|line| line.starts_with("| `slotgate_"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let labels = cells[3].split(", ").filter(|label| *label != "–");
        assert!(!cells[4].is_empty() && !cells[5].is_empty(), "{row}");
        (
            cells[1].trim_matches('`').to_owned(),
            (cells[2].to_owned(), labels.map(str::to_owned).collect()),
        )
    })
    .collect()
}

/// All of them are there before anything happened, with the type and the labels of `docs/observability.md`, and no others.
#[test]
fn what_is_documented_is_scraped_and_what_is_scraped_is_documented() {
    let world = World::start(config(&[("a", 5)]));
    assert_eq!(way(&world.get("/")), (200, "atomic"));
    // Histograms come with Envoy's own flush.
    let flushed = || value(&world.envoy, "slotgate_acquire_us", &[]) >= 1.0;
    eventually(SOON, flushed);
    let seen = scrape(&world.envoy).into_iter().map(|(name, metric)| {
        let labels = metric.series.iter().flat_map(|(labels, _)| labels.keys());
        (name, (metric.kind, labels.cloned().collect()))
    });
    let seen: BTreeMap<String, (String, BTreeSet<String>)> = seen.collect();
    assert_eq!(seen, documented());
    assert!(seen.len() > 30, "{}", seen.len());
    // Every reason and error has its row or its word.
    let page = observability();
    for (name, metric) in scrape(&world.envoy) {
        for (labels, _) in metric.series {
            if let Some(reason) = labels.get("reason") {
                assert!(page.contains(&format!("`{reason}`")), "{name} {reason}");
            }
        }
    }
}

/// By account, over two workers: the requests held now, the leases that the ledger counts, its slots; and down again.
#[test]
fn accounts_and_latency_over_all_workers() {
    let configuration = config(&[("a", 4), ("b", 3)]).workers(2).plugin(|plugin| {
        plugin["gray"]["percent"] = json!(50);
        plugin["gray"]["salt"] = json!("s");
        plugin["control"] = json!({"poll_ms": 100});
    });
    let world = World::start(configuration);
    let gate = slotgate::request::gray::Bucketer::new("s");
    let sessions: Vec<String> = (0..60).map(|number| format!("session-{number}")).collect();
    let (inside, outside): (Vec<_>, Vec<_>) = sessions
        .iter()
        .partition(|session| gate.bucket(session.as_bytes()) < 5_000);
    for session in &outside {
        world.client().get("/", &[("x-session-id", session)]);
    }
    let streams: Vec<_> = inside[..7]
        .iter()
        .map(|session| {
            world
                .client()
                .open("/sse?events=100000", &[("x-session-id", session)])
        })
        .collect();
    assert_eq!(
        world
            .client()
            .get("/", &[("x-session-id", inside[7])])
            .status,
        429
    );
    let is = |name: &str, labels: &[(&str, &str)], expected: f64| {
        eventually_is(&world.envoy, &format!("slotgate_{name}"), labels, expected);
    };
    for (account, slots) in [("a", 4.0), ("b", 3.0)] {
        let labels = [("pool", "demo"), ("account", account)];
        is("account_held", &labels, slots);
        is("account_used", &labels, slots);
        is("account_limit", &labels, slots);
        is("account_requests", &labels, slots);
    }
    is("requests", &[("outcome", "atomic")], 7.0);
    is(
        "requests",
        &[("outcome", "rejected"), ("reason", "saturated")],
        1.0,
    );
    is(
        "requests",
        &[("outcome", "traditional")],
        outside.len() as f64,
    );
    is("gray_requests", &[("choice", "in"), ("pool", "demo")], 8.0);
    is(
        "gray_requests",
        &[("choice", "out"), ("pool", "demo")],
        outside.len() as f64,
    );
    is("gray_asked_basis_points", &[("pool", "demo")], 5_000.0);
    // All that waited, and nobody else.
    is("acquire_us", &[("pool", "demo")], 8.0);

    // A lease of another Envoy is in `used`, and not in `held`.
    drop(streams);
    is("account_held", &[], 0.0);
    is("account_used", &[], 0.0);
    let other = world.another(config(&[("a", 4), ("b", 3)]));
    let held = other.client().open("/sse?events=100000", &[]);
    is("account_used", &[], 1.0);
    is("account_held", &[], 0.0);
    drop(held);
    world.assert_all_free();
}

/// The pipe, the queue behind a Redis that does not answer, and the breaker.
#[test]
fn gauges_of_the_pipe_follow_it_down_and_up() {
    let world = World::start(config(&[("a", 50)]).plugin(|plugin| {
        plugin["redis"]["acquire_timeout_ms"] = json!(100);
        plugin["redis"]["command_timeout_ms"] = json!(10_000);
        plugin["redis"]["breaker"] = json!({"failures": 1, "open_ms": 500});
        plugin["control"] = json!({"poll_ms": 0});
    }));
    let is = |name: &str, expected: f64| {
        eventually_is(&world.envoy, &format!("slotgate_{name}"), &[], expected);
    };
    is("pipe_workers_ready", 0.0);
    is("pipe_workers_down", 0.0);
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    is("pipe_workers_ready", 1.0);
    is("queue_commands", 0.0);
    world.redis.sigstop();
    assert_eq!(way(&world.get("/")), (200, "traditional"));
    is("breaker_open", 1.0);
    let waits = || value(&world.envoy, "slotgate_queue_commands", &[]) >= 2.0;
    eventually(SOON, waits);
    world.redis.sigcont();
    is("queue_commands", 0.0);
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    is("breaker_open", 0.0);
    world.redis.kill();
    is("pipe_workers_down", 1.0);
    is("pipe_workers_ready", 0.0);
    world.redis.start_again();
    is("pipe_workers_down", 0.0);
    is("pipe_workers_ready", 1.0);
}

/// What is beyond the bounds is summed, and nothing is lost.
#[test]
fn pools_and_accounts_beyond_the_bounds_are_others() {
    let world = World::start(config(&[("a", 1)]).plugin(|plugin| {
        plugin["metrics"] = json!({"max_pools": 1, "max_accounts": 2});
        plugin["control"] = json!({"poll_ms": 100});
        let four = [("a", 1), ("b", 2), ("c", 3), ("d", 4)];
        let by = |name: &str| json!([{"header": "x-model", "exact": name}]);
        plugin["pools"] = json!([
            {"name": "demo", "match": by("demo"), "accounts": accounts_json(&four)},
            {"name": "two", "match": by("two"), "accounts": accounts_json(&four)},
            {"name": "three", "match": by("three"), "accounts": accounts_json(&four)},
        ]);
    }));
    let streams: Vec<_> = (0..10)
        .map(|_| {
            world
                .client()
                .open("/sse?events=100000", &[("x-model", "demo")])
        })
        .collect();
    for model in ["two", "three", "none"] {
        assert_eq!(world.client().get("/", &[("x-model", model)]).status, 200);
    }
    let is = |name: &str, labels: &[(&str, &str)], expected: f64| {
        eventually_is(&world.envoy, &format!("slotgate_{name}"), labels, expected);
    };
    for (account, slots) in [("a", 1.0), ("b", 2.0), ("(other)", 7.0)] {
        is(
            "account_held",
            &[("pool", "demo"), ("account", account)],
            slots,
        );
        is(
            "account_used",
            &[("pool", "demo"), ("account", account)],
            slots,
        );
        is(
            "account_limit",
            &[("pool", "demo"), ("account", account)],
            slots,
        );
    }
    is("account_held", &[], 10.0);
    is("requests", &[("pool", "demo"), ("outcome", "atomic")], 10.0);
    is(
        "requests",
        &[("pool", "(other)"), ("outcome", "atomic")],
        2.0,
    );
    is(
        "requests",
        &[("pool", "(other)"), ("reason", "no_pool")],
        1.0,
    );
    let all = scrape(&world.envoy);
    let series = all.values().flat_map(|metric| &metric.series);
    let pools: BTreeSet<_> = series
        .filter_map(|(labels, _)| labels.get("pool"))
        .collect();
    assert_eq!(
        pools,
        BTreeSet::from([&"demo".to_owned(), &"(other)".to_owned()])
    );
    drop(streams);
    is("account_held", &[], 0.0);
    eventually(SOON, || {
        Ledger::new(&world.redis, "slotgate", "demo").is_empty()
    });
}

/// An account that is no more has no slots; what the others show stays, and streams of the old configuration count. With
/// looks at the ledger the workers set it right once a second; without them it has to be right by itself.
#[test]
fn a_new_configuration_takes_the_place_of_the_old_in_the_gauges() {
    for poll_ms in [100, 0] {
        let of = |accounts: &[(&str, u32)], revision: u32| {
            let config = config(accounts).workers(2).filter_from_file();
            config.plugin(|plugin| {
                plugin["pools"][0]["revision"] = json!(revision);
                plugin["control"] = json!({"poll_ms": poll_ms});
            })
        };
        let world = World::start(of(&[("a", 4), ("b", 3)], 1));
        let is = |name: &str, account: &str, expected: f64| {
            let name = format!("slotgate_account_{name}");
            eventually_is(&world.envoy, &name, &[("account", account)], expected);
        };
        let asked = || {
            eventually_is(
                &world.envoy,
                "slotgate_gray_asked_basis_points",
                &[],
                10_000.0,
            )
        };
        is("limit", "b", 3.0);
        let held: Vec<_> = (0..7)
            .map(|_| world.client().open("/sse?events=100000", &[]))
            .collect();
        is("held", "b", 3.0);
        world
            .envoy
            .reconfigure(of(&[("a", 5)], 2))
            .expect("it is taken");
        eventually(SOON, || world.get("/").status == 200);
        is("limit", "a", 5.0);
        is("held", "a", 4.0);
        is("held", "b", 3.0);
        drop(held);
        is("held", "a", 0.0);
        is("held", "b", 0.0);
        is("limit", "b", 0.0);
        is("used", "b", 0.0);
        // The last root of the old configuration may end after that.
        std::thread::sleep(Duration::from_secs(1));
        is("limit", "a", 5.0);
        asked();
        eventually_is(&world.envoy, "slotgate_pipe_workers_down", &[], 0.0);
        let ready = || value(&world.envoy, "slotgate_pipe_workers_ready", &[]) <= 2.0;
        eventually(SOON, ready);
    }
}

/// How many wait, whether their worker listens, and how long it took, in the buckets of the shipped configuration.
#[test]
fn requests_that_wait() {
    let configuration = config(&[("a", 1)]).plugin(|plugin| {
        plugin["saturated"] = json!({"action": "queue"});
    });
    let world = World::start(configuration);
    let is = |name: &str, labels: &[(&str, &str)], expected: f64| {
        eventually_is(&world.envoy, &format!("slotgate_{name}"), labels, expected);
    };
    let holder = world.client().open("/sse?events=100000", &[]);
    is("acquire_us", &[], 1.0);
    let client = world.client();
    let served = std::thread::spawn(move || client.get("/", &[]).status);
    let left = world.client().start("/", &[]);
    is("queue_waiting", &[], 2.0);
    is("queue_pool_waiting", &[("pool", "demo")], 2.0);
    is("queue_workers_listening", &[], 1.0);
    left.reset();
    is("queue_waiting", &[], 1.0);
    is("queue_pool_waiting", &[("pool", "demo")], 1.0);
    std::thread::sleep(Duration::from_millis(300));
    drop(holder);
    assert_eq!(served.join().expect("it waited"), 200);
    for (outcome, count) in [("granted", 1.0), ("left", 1.0), ("timed_out", 0.0)] {
        is(
            "queue_requests",
            &[("pool", "demo"), ("outcome", outcome)],
            count,
        );
    }
    is("queue_waiting", &[], 0.0);
    is("queue_pool_waiting", &[("pool", "demo")], 0.0);
    is("queue_wait_us", &[("pool", "demo")], 1.0);
    // It waited in the queue, so it is not among those that waited for their acquire alone.
    is("acquire_us", &[], 1.0);
    let all = world.envoy.admin_get("/stats/prometheus");
    let within = |bound: &str| {
        let bucket = format!("slotgate_queue_wait_us_bucket{{pool=\"demo\",le=\"{bound}\"}} ");
        let line = all.lines().find_map(|line| line.strip_prefix(&bucket));
        line.unwrap_or_else(|| panic!("no {bucket}")).to_owned()
    };
    assert_eq!(
        (within("250000").as_str(), within("3600000000").as_str()),
        ("0", "1")
    );
    world.assert_all_free();
}
