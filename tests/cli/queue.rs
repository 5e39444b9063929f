//! Who waits, as `status`, `watch`, `explain` and `lease` say it.

use crate::pipe::Answer;
use crate::{Rig, account, finish, program};
use serde_json::{Value, json};
use slotgate::config::{TenantLimits, TenantName, Tenants};
use slotgate::hash::hash128;
use slotgate::ledger::commands::{Mode, Place, Terms};
use slotgate::request::lease::LeaseId;
use support::{Envoy, EnvoyConfig, PATIENCE, Redis, Request, Upstream, eventually, spawn};

fn name_of(tenant: &str) -> TenantName {
    Tenants::name(tenant.as_bytes())
}

fn shown(name: &TenantName) -> &str {
    std::str::from_utf8(name).unwrap()
}

impl Rig {
    /// A lease of a tenant that takes a slot, or else waits, in a scope of its own if it has one.
    fn join(&mut self, tenant: Option<&TenantName>, scope: Option<&str>) -> (LeaseId, bool) {
        self.pipe.waiting.vouched_ms = 600_000;
        let lease = self.ids.mint(tenant);
        let limits = TenantLimits::NONE;
        let mode = Mode::Join(Terms {
            limits,
            cookie: 1,
            place: Place::Last,
        });
        let scope = scope.map(|scope| hash128(scope.as_bytes()));
        let answer = self.pipe.acquire_in(lease, mode, None, scope.as_ref(), 3);
        match answer.unwrap() {
            Answer::Granted(_) => (lease, false),
            Answer::Waits(_) => (lease, true),
            other => panic!("{other:?}"),
        }
    }
}

/// Two slots, both gold's; then gold, gold, silver and one without a tenant wait, and the last one of gold.
fn crowded() -> (Rig, Vec<LeaseId>) {
    let mut rig = Rig::empty();
    rig.pipe.sync(1, 1, Some(&[account("a", 2)])).unwrap();
    let (gold, silver) = (name_of("gold"), name_of("silver"));
    for _ in 0..2 {
        assert!(!rig.join(Some(&gold), None).1);
    }
    // Its scope has a line of its own.
    rig.pipe
        .cooldown_in("a", 600_000, Some(&hash128(b"model")))
        .unwrap();
    let order = [
        (Some(&gold), None),
        (Some(&gold), Some("model")),
        (Some(&silver), None),
        (None, None),
        (Some(&gold), None),
    ];
    let waits = order.map(|(tenant, scope)| {
        let (lease, waits) = rig.join(tenant, scope);
        assert!(waits);
        lease
    });
    (rig, waits.to_vec())
}

#[test]
fn status_shows_how_many_wait_and_for_how_long_by_tenant() {
    let (rig, _) = crowded();
    let (gold, silver) = (name_of("gold"), name_of("silver"));
    let (gold, silver) = (shown(&gold), shown(&silver));
    let out = rig.masked(&rig.run(&["status"]).done());
    let head = "\
pool p  2/2 slots  2 leases live  revision 1  gray as configured
5 waiting, the first for TIME
account  used                        state
a        2/2   ████████████████████  full
";
    let table = format!(
        "\
tenant            leases  waiting  the first for
{gold}  2       3        TIME
{silver}  0       1        TIME
"
    );
    assert_eq!(out, format!("{head}{table}"));
    let watched = rig.run(&["watch", "--count", "1"]).done();
    let watched = rig.masked(&watched);
    assert!(watched.ends_with(&format!("{head}{table}\n")), "{watched}");
    // Fewer rows are fewer of both.
    let few = rig.masked(&rig.run(&["status", "--rows", "1"]).done());
    assert!(few.ends_with("3        TIME\n… and 1 more\n"), "{few}");
    for command in [&["status"][..], &["watch", "--count", "1"]] {
        let out = rig.run(&[command, &["--tenant", "gold"]].concat()).done();
        let line = format!("tenant \"gold\" is {gold}: 2 leases, 3 waiting, the first for TIME\n");
        assert!(
            rig.masked(&out).trim_end().ends_with(line.trim_end()),
            "{out}"
        );
        assert!(!out.contains(silver), "{out}");
    }
    let out = rig.run(&["status", "--tenant", "nobody"]).done();
    assert!(out.ends_with(": 0 leases, none waiting\n"), "{out}");

    let queue = &rig.json(&["status"])["pools"][0]["queue"];
    let longest = |row: &Value| row["longest_wait_ms"].as_u64().unwrap();
    assert_eq!(queue["waiting"], 5);
    assert!((0..60_000).contains(&longest(queue)), "{queue}");
    let row = |place: usize, tenant: &str, leases: u64, waiting: u64| {
        let row = &queue["tenants"][place];
        let expected = json!({
            "tenant": tenant, "leases": leases, "waiting": waiting, "longest_wait_ms": longest(row),
        });
        assert_eq!(row, &expected);
    };
    row(0, gold, 2, 3);
    row(1, silver, 0, 1);
    let one = &rig.json(&["status", "--tenant", "silver"])["pools"][0]["queue"];
    assert_eq!(one["waiting"], 5);
    assert_eq!(one["tenants"].as_array().unwrap().len(), 1);
    assert_eq!(one["tenants"][0]["tenant"], silver);
    // Nothing of the table where nobody has a tenant.
    let mut rig = Rig::new();
    rig.take("c");
    assert!(!rig.run(&["status"]).done().contains("tenant"));
    assert_eq!(
        rig.json(&["status"])["pools"][0]["queue"],
        json!({"waiting": 0, "longest_wait_ms": 0, "tenants": []})
    );
}

#[test]
fn the_place_of_a_lease_that_waits() {
    let (mut rig, waits) = crowded();
    let gold = name_of("gold");
    let of_gold = format!(" of its tenant {}", shown(&gold));
    let silver = name_of("silver");
    let of_silver = format!(" of its tenant {}", shown(&silver));
    let expected = [
        (0, &of_gold),
        (1, &of_gold),
        (0, &of_silver),
        (0, &String::new()),
        (2, &of_gold),
    ];
    for (lease, (ahead, of)) in waits.iter().zip(expected) {
        let id = lease.as_str();
        let out = rig.run(&["lease", id]).done();
        let words = format!("{ahead}{of} ahead of it, 5 waiting in the pool");
        assert_eq!(
            out,
            format!("lease {id} waits for a slot of pool p: {words}\n")
        );
        let told = rig.json(&["lease", id]);
        assert_eq!(
            (&told["account"], &told["ahead"]),
            (&Value::Null, &json!(ahead))
        );
    }
    let out = rig.run(&["explain"]).done();
    let last = "next: saturated, so saturated.action: 429, on without a slot, or it waits behind 5 others\n";
    assert!(out.ends_with(last), "{out}");
    assert_eq!(rig.json(&["explain"])["queue"]["waiting"], 5);
    // With all but the one whose scope cools served, a slot is free that it can't use.
    rig.pipe.sync(2, 2, Some(&[account("a", 20)])).unwrap();
    let out = rig.run(&["explain"]).done();
    assert!(
        out.ends_with("1 waiting request can use none of these now\n"),
        "{out}"
    );
    let told = rig.json(&["lease", waits[0].as_str()]);
    assert_eq!(
        (&told["account"], &told["ahead"]),
        (&json!("a"), &Value::Null)
    );
}

/// A request that waits in a real Envoy.
#[test]
fn a_request_that_waits_is_explained_with_its_place() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let config = EnvoyConfig::from_example().plugin(|plugin| {
        plugin["gray"]["percent"] = json!(100);
        plugin["pools"][0]["accounts"] = json!([
            {"id": "a", "max_concurrency": 1, "set_headers": {"x-upstream": "acct_1"}},
        ]);
        plugin["saturated"] = json!({"action": "queue"});
        plugin["redis"]["acquire_timeout_ms"] = json!(20_000);
    });
    let envoy = Envoy::start(config.redis(redis.addr()).upstream(upstream.addr()));
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments);
        command.arg("--redis").arg(redis.addr().to_string());
        finish(command, "")
    };
    let holder = envoy.client().open("/sse?events=100000", &[]);
    let leases = || -> usize { redis.run("ZCARD", &["slotgate:{demo}:leases"]) };
    eventually(PATIENCE, || leases() == 1);
    let waiting = || -> usize { redis.run("ZLEXCOUNT", &["slotgate:{demo}:queue", "[w:", "(w;"]) };
    let mut requests = Vec::new();
    for number in 0..3 {
        let client = envoy.client();
        // Of an address of one's own Envoy keeps the id.
        let request = Request::get("/echo")
            .header("x-forwarded-for", "127.0.0.1")
            .header("x-request-id", format!("request-{number}"));
        requests.push(spawn(async move { client.sending(request).await }));
        eventually(PATIENCE, || waiting() == number + 1);
    }
    let told = run(&["explain", "--request", "request-2"]).done();
    let first = "request \"request-2\" waits for a slot of pool demo: 2 ahead of it, 3 waiting in the pool\nlease ";
    assert!(told.starts_with(first), "{told}");
    assert!(
        told.contains("; it came ") && told.ends_with(" ago\n"),
        "{told}"
    );
    let told = run(&["explain", "--json", "--request", "request-1"]).done();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["way"], &told["ahead"]),
        (&json!("waiting"), &json!(1))
    );
    let lease = told["lease"].as_str().unwrap();
    let by_lease = run(&["explain", "--lease", lease]).done();
    assert!(
        by_lease.contains(" waits for a slot of pool demo: 1 ahead"),
        "{by_lease}"
    );
    drop(holder);
    for request in requests {
        let reply = support::wait(request)
            .expect("it did not panic")
            .expect("an answer");
        assert_eq!(reply.status, 200);
    }
    let told = run(&["explain", "--request", "request-2"]).done();
    assert!(told.contains("took a slot of a of pool demo"), "{told}");
}
