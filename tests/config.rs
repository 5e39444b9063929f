//! Configurations in, checked values or exact error messages out. One bad file per rule, beside it what must be said.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use slotgate::config::{
    Action, AnswerRule, Config, Error, Errors, Failing, GrayMode, Match, MatchValue, OnFailure,
    OnSaturated, Otherwise, PriorityMode, Queue, Role, Score, TenantLimits, Tenants, Traditional,
    ValueSource, WaitForm, WaitHeader, WaitStep, parse, parse_struct,
};

/// No fewer files than these: raise it now and then, lower it only when a rule goes.
const BAD_FILES: usize = 265;

/// Part of every variable's value that must stay hidden.
const SECRET: &str = "5ecret";

fn env(name: &str) -> Option<String> {
    let value = match name {
        "REDIS_PASSWORD" => "5ecret-password",
        "GRAY_TOKEN" => "5ecret-token",
        "API_KEY" => "5ecret-key",
        "API_KEY_16" => "5ecret-of-16-bytes",
        "REGION" => "5ecret-region",
        "PORT" => "443",
        "TWO_LINES" => "5ecret\nand more",
        "EMPTY" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

/// Parses, and asserts what must hold for every document: no secret shows, every error is one line.
fn check(json: &[u8]) -> Result<Role, Errors> {
    let result = parse(json, &env);
    assert!(
        !format!("{result:?}").contains(SECRET),
        "a secret shows in {result:?}"
    );
    if let Err(errors) = &result {
        assert!(
            !errors.to_string().contains(SECRET),
            "a secret shows in {errors}"
        );
        assert!(!errors.0.is_empty(), "refused without a reason");
        assert!(
            errors
                .0
                .iter()
                .all(|error| error.to_string().lines().count() == 1),
            "more than a line: {errors}"
        );
    }
    result
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config")
        .join(name)
}

fn good(name: &str) -> Config {
    match check(&fs::read(directory("good").join(name)).unwrap()) {
        Ok(Role::Scheduler(config)) => *config,
        other => panic!("{name}: {other:?}"),
    }
}

fn errors(document: &Value) -> Vec<String> {
    check(document.to_string().as_bytes()).map_or_else(lines, |_| vec![])
}

fn lines(Errors(errors): Errors) -> Vec<String> {
    errors.iter().map(Error::to_string).collect()
}

fn full() -> Value {
    serde_json::from_slice(&fs::read(directory("good/full.json")).unwrap()).unwrap()
}

#[test]
fn a_console() {
    let json = fs::read(directory("good").join("console.json")).unwrap();
    let Ok(Role::Console(console)) = check(&json) else {
        panic!("not a console");
    };
    assert_eq!(console.pools, ["claude", "gpt"]);
    assert_eq!(console.hosts, ["console.example"]);
    assert_eq!(console.redis.pipe_cluster, "pipe");
    assert_eq!(console.redis.command_timeout_ms, 500);
    assert_eq!((console.gray, console.random), (Some(1_250), 100_000));
    assert!(
        console
            .token
            .is_some_and(|token| token.0 == "5ecret-of-16-bytes")
    );
    let Ok(Role::Console(console)) = check(br#"{"role": "console", "pools": ["p"]}"#) else {
        panic!("not a console");
    };
    assert_eq!((console.gray, console.random), (None, 200_000));
    assert!(console.token.is_none() && console.hosts.is_empty());
}

#[test]
fn every_bad_file_is_refused_with_its_exact_errors() {
    let files: Vec<PathBuf> = fs::read_dir(directory("bad"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let stems = |extension: &str| -> BTreeSet<PathBuf> {
        let files = files
            .iter()
            .filter(|file| file.extension().is_some_and(|found| found == extension));
        files.map(|file| file.with_extension("")).collect()
    };
    let (documents, expectations) = (stems("json"), stems("txt"));
    assert_eq!(
        documents, expectations,
        "each .json needs its .txt, and the other way round"
    );
    assert_eq!(
        documents.len() * 2,
        files.len(),
        "only .json and .txt belong there"
    );
    assert!(
        documents.len() >= BAD_FILES,
        "{} files, there were {BAD_FILES}",
        documents.len()
    );
    let mut wrong = vec![];
    for stem in documents {
        let expected = fs::read_to_string(stem.with_extension("txt")).unwrap();
        let found = match check(&fs::read(stem.with_extension("json")).unwrap()) {
            Ok(_) => "accepted\n".to_owned(),
            Err(errors) => errors.0.iter().map(|error| format!("{error}\n")).collect(),
        };
        if found != expected {
            let name = stem.file_name().unwrap().display().to_string();
            wrong.push(format!(
                "{name}:\n--- expected\n{expected}--- found\n{found}"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn many_errors_are_told_at_once_and_joined_in_one_line() {
    let Errors(found) = check(&fs::read(directory("bad/many_errors.json")).unwrap()).unwrap_err();
    assert!(found.len() >= 30, "{} errors", found.len());
    let error = |path: &str, problem: &str| Error {
        path: path.into(),
        problem: problem.into(),
    };
    assert_eq!(
        Errors(vec![error("a", "b"), error("", "c")]).to_string(),
        "a: b; c"
    );
}

#[test]
fn an_error_is_a_path_and_a_problem() {
    let Errors(found) = check(br#"{"role": "bridge", "a: b": 1, "c.d": {}}"#).unwrap_err();
    let found: Vec<_> = found
        .iter()
        .map(|error| (error.path.as_str(), error.problem.as_str()))
        .collect();
    let problem = "is not a field of role bridge";
    assert_eq!(found, [("a: b", problem), ("c.d", problem)]);
    let Errors(found) = check(b"[1").unwrap_err();
    assert_eq!(found[0].path, "");
    assert!(found[0].problem.starts_with("not JSON: "), "{found:?}");
}

#[test]
fn bridge_is_a_role_alone() {
    assert!(matches!(
        check(&fs::read(directory("good/bridge.json")).unwrap()),
        Ok(Role::Bridge)
    ));
}

#[test]
fn minimal_has_every_default() {
    let config = good("minimal.json");
    assert_eq!(config.redis.pipe_cluster, "slotgate_pipe");
    assert_eq!(config.redis.acquire_timeout_ms, 50);
    assert_eq!(config.redis.command_timeout_ms, 1_000);
    assert_eq!(config.redis.max_pending, 4_096);
    assert_eq!(config.redis.breaker.failures, 5);
    assert_eq!(config.redis.breaker.open_ms, 1_000);
    assert_eq!(config.redis.key_prefix, "slotgate");
    assert_eq!(config.redis.database, 0);
    assert_eq!(config.redis.username, "");
    assert_eq!(config.redis.password.0, "");
    assert_eq!(config.gray.basis_points, 0);
    assert_eq!(config.gray.mode, GrayMode::Enforce);
    assert_eq!(config.gray.salt, "");
    assert_eq!(
        config.gray.session,
        [ValueSource::Header("x-session-id".into())]
    );
    assert!(config.gray.gray_override.is_none());
    assert_eq!(
        (config.lease.ttl_ms, config.lease.renew_interval_ms),
        (15_000, 5_000)
    );
    assert_eq!(
        config.score,
        Score {
            priority: 0.5,
            load: 0.3,
            random: 0.2
        }
    );
    assert_eq!(config.priority_mode, PriorityMode::Weighted);
    assert_eq!(config.affinity.ttl_ms, 3_600_000);
    assert_eq!(config.affinity.max_mb, 8);
    assert_eq!(config.saturated, OnSaturated::Reject);
    assert_eq!(config.refuse_ms, 5);
    assert!(config.traditional_path_header);
    assert!(config.tenant.is_none());
    assert_eq!(config.failure, OnFailure::Traditional);
    assert_eq!(config.traditional, Traditional::Passthrough);
    assert_eq!(config.cooldown.statuses, [429, 503, 529]);
    assert_eq!(
        (config.cooldown.default_ms, config.cooldown.max_ms),
        (5_000, 600_000)
    );
    assert_eq!(config.poll_ms, 1_000);
    assert!(config.cooldown.probe && config.cooldown.scope.is_none());
    assert_eq!(config.cooldown.headers.len(), 12);
    assert!(config.cooldown.headers.iter().all(|step| !step.always));
    assert!(config.upstream.rules.is_empty() && !config.upstream.sse_errors);
    assert_eq!(config.upstream.longest_disable_ms(), 600_000);
    assert_eq!(failing(config.failing), (50, 10_000, 20, 5, 30_000));
    assert!(!config.response_headers && !config.access_log);
    let shown = (config.metrics.max_pools, config.metrics.max_accounts);
    assert_eq!(shown, (20, 64));
    let [pool] = config.pools.as_slice() else {
        panic!("{:?}", config.pools)
    };
    assert_eq!(
        (pool.name.as_str(), pool.rules.len(), pool.revision),
        ("rest", 0, 1)
    );
    let [account] = pool.accounts.as_slice() else {
        panic!("{:?}", pool.accounts)
    };
    assert_eq!(
        (
            account.id.as_str(),
            account.max_concurrency,
            account.priority
        ),
        ("a", 1, 1)
    );
    assert!(account.enabled && account.set_headers.is_empty());
}

fn failing(failing: Failing) -> (u32, u64, u32, u32, u64) {
    (
        failing.percent,
        failing.window_ms,
        failing.min_requests,
        failing.consecutive,
        failing.behind_ms,
    )
}

#[test]
fn full_has_every_value() {
    let config = good("full.json");
    assert_eq!(config.redis.pipe_cluster, "other_pipe");
    assert_eq!(config.redis.acquire_timeout_ms, 40);
    assert_eq!(config.redis.command_timeout_ms, 2_000);
    assert_eq!(config.redis.max_pending, 64);
    assert_eq!(config.redis.breaker.failures, 3);
    assert_eq!(config.redis.breaker.open_ms, 500);
    assert_eq!(config.redis.key_prefix, "sg:v1");
    assert_eq!(config.redis.database, 3);
    assert_eq!(config.redis.username, "app");
    assert_eq!(config.redis.password.0, "5ecret-password");
    assert_eq!(config.gray.basis_points, 3_333);
    assert_eq!(config.gray.mode, GrayMode::Shadow);
    assert_eq!(config.gray.salt, "pepper");
    let session = [
        ValueSource::Header("x-session-id".into()),
        ValueSource::Cookie("sid".into()),
        ValueSource::Query("session".into()),
    ];
    assert_eq!(config.gray.session, session);
    let gray_override = config.gray.gray_override.unwrap();
    assert_eq!(
        (
            gray_override.header.as_str(),
            gray_override.token.0.as_str()
        ),
        ("x-gray", "5ecret-token")
    );
    assert_eq!(
        (config.lease.ttl_ms, config.lease.renew_interval_ms),
        (20_000, 10_000)
    );
    assert_eq!(
        config.score,
        Score {
            priority: 1.0,
            load: 2.5,
            random: 0.0
        }
    );
    assert_eq!(config.priority_mode, PriorityMode::Strict);
    assert_eq!(config.affinity.ttl_ms, 0);
    assert_eq!(config.affinity.max_mb, 256);
    let queue = Queue {
        max_wait_ms: 3_600_000,
        max_waiting: 100_000,
        otherwise: Otherwise::Traditional,
    };
    assert_eq!(config.saturated, OnSaturated::Queue(queue));
    let tenants = config.tenant.unwrap();
    let source = [
        ValueSource::Header("x-tenant".into()),
        ValueSource::Cookie("tenant".into()),
        ValueSource::Query("tenant".into()),
        ValueSource::Property(0),
    ];
    assert_eq!(tenants.source, source);
    assert_eq!(
        config.properties,
        [b"metadata\0filter_metadata\0slotgate\0tenant"]
    );
    let limits = |max_concurrency, max_waiting, weight| TenantLimits {
        max_concurrency,
        max_waiting,
        weight,
    };
    assert_eq!(tenants.limits, limits(8, 50, 2));
    for (tenant, own) in [
        ("gold", limits(100_000, 50, 1_000)),
        ("Größe XL", limits(0, 0, 2)),
        ("plain", limits(8, 50, 2)),
        ("Gold", limits(8, 50, 2)),
        ("", limits(8, 50, 2)),
    ] {
        let name = Tenants::name(tenant.as_bytes());
        assert_eq!(tenants.limits_of(&name), own, "{tenant}");
    }
    assert_eq!(tenants.overrides.len(), 3);
    assert_eq!(config.failure, OnFailure::Reject);
    assert_eq!(config.traditional, Traditional::Local { share: 4 });
    assert!(!config.traditional_path_header);
    assert_eq!(config.cooldown.statuses, [429, 500]);
    assert_eq!(
        (config.cooldown.default_ms, config.cooldown.max_ms),
        (1_000, 2_000)
    );
    assert_eq!(config.poll_ms, 250);
    assert!(!config.cooldown.probe);
    assert_eq!(
        config.cooldown.scope,
        Some(ValueSource::Header("x-model".into()))
    );
    let header = |name: &str, form, when| WaitHeader {
        name: name.into(),
        form,
        when,
    };
    let when = Match {
        header: "x-left-state".into(),
        value: MatchValue::Exact("none".into()),
    };
    let steps = [
        WaitStep {
            only: vec![429, 500],
            always: true,
            headers: vec![header("x-wait", WaitForm::UnixMs, None)],
        },
        WaitStep {
            only: vec![],
            always: false,
            headers: vec![
                header("x-wait", WaitForm::Ms, None),
                header("x-left", WaitForm::Rfc3339, Some(when)),
            ],
        },
    ];
    assert_eq!(config.cooldown.headers, steps);
    assert_eq!(config.upstream.rules, rules());
    assert!(config.upstream.sse_errors);
    assert_eq!(failing(config.failing), (20, 5_000, 10, 3, 60_000));
    assert!(config.response_headers && config.access_log);
    let shown = (config.metrics.max_pools, config.metrics.max_accounts);
    assert_eq!(shown, (0, 10_000));
    let [claude, rest] = config.pools.as_slice() else {
        panic!("{:?}", config.pools)
    };
    assert_eq!((claude.name.as_str(), claude.revision), ("claude", 7));
    let header = |source: &ValueSource| match source {
        ValueSource::Header(name) => name.clone(),
        other => panic!("{other:?}"),
    };
    let rules: Vec<_> = claude
        .rules
        .iter()
        .map(|rule| (header(&rule.source), &rule.value))
        .collect();
    let rules: Vec<_> = rules
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    assert!(matches!(
        rules.as_slice(),
        [
            ("x-model", MatchValue::Prefix(prefix)),
            ("x-model", MatchValue::Suffix(suffix)),
            (":authority", MatchValue::Exact(exact)),
            ("x-claude", MatchValue::Present(true)),
            ("x-other", MatchValue::Present(false)),
        ] if prefix == "claude-" && suffix == "-claude" && exact == "claude.internal"
    ));
    let [first, second] = claude.accounts.as_slice() else {
        panic!("{:?}", claude.accounts)
    };
    assert_eq!(
        (first.id.as_str(), first.max_concurrency, first.priority),
        ("acct-1", 10, 2)
    );
    assert!(!first.enabled && second.enabled);
    let headers: Vec<_> = first
        .set_headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let expected = [
        (":authority", "5ecret-region.example.com:443"),
        ("authorization", "Bearer 5ecret-key"),
        ("x-dollars", "$5 {x}\t$$"),
        ("x-upstream", "acct_1"),
    ];
    assert_eq!(headers, expected);
    assert_eq!(
        (second.id.as_str(), second.max_concurrency, second.priority),
        ("acct-2", 100_000, 1)
    );
    assert_eq!(
        (
            rest.name.as_str(),
            rest.rules.len(),
            rest.accounts[0].id.as_str()
        ),
        ("rest", 0, "acct-1")
    );
}

#[test]
fn integers_may_come_as_floats() {
    let config = good("protobuf_struct.json");
    assert_eq!(
        (config.redis.acquire_timeout_ms, config.redis.database),
        (50, 1)
    );
    assert_eq!(config.gray.basis_points, 1_000);
    assert_eq!(config.affinity.ttl_ms, 3_600_000);
    assert_eq!(config.cooldown.statuses, [429]);
    assert_eq!(
        (
            config.pools[0].revision,
            config.pools[0].accounts[0].max_concurrency
        ),
        ((1 << 53) - 1, 10)
    );
}

/// As Envoy hands over what YAML's `12.5` and `2147483648` are.
#[test]
fn numbers_of_a_struct_may_come_as_text() {
    let document = |percent: &str| {
        let account = json!({"id": "a", "max_concurrency": "10"});
        json!({
            "role": "scheduler",
            "gray": {"percent": percent},
            "pools": [{"name": "p", "revision": "2147483648", "accounts": [account]}],
        })
    };
    match parse_struct(&document("12.5"), &env) {
        Ok(Role::Scheduler(config)) => {
            assert_eq!(config.gray.basis_points, 1_250);
            assert_eq!(config.pools[0].revision, 1 << 31);
            assert_eq!(config.pools[0].accounts[0].max_concurrency, 10);
        }
        other => panic!("{other:?}"),
    }
    for (percent, rule) in [
        ("100.5", "is not in 0..=100"),
        ("12.345", "has more than two decimals"),
        ("1e999", "is not a number"),
        ("", "is not a number"),
        ("[1]", "is not a number"),
        ("5 5", "is not a number"),
    ] {
        let error = format!("gray.percent: {percent:?} {rule}");
        assert_eq!(
            lines(parse_struct(&document(percent), &env).unwrap_err()),
            [error]
        );
    }
    // JSON has numbers of its own.
    assert_eq!(errors(&document("12.5")).len(), 3);
}

#[test]
fn defaults_give_way_to_what_is_set() {
    let config = good("edges.json");
    assert_eq!(config.redis.command_timeout_ms, 60_000);
    assert_eq!(config.lease.renew_interval_ms, 333);
    assert_eq!(config.cooldown.default_ms, 1);
    assert_eq!(config.gray.basis_points, 10_000);
    assert!(config.gray.session.is_empty() && config.cooldown.statuses.is_empty());
}

#[test]
fn every_percentage_of_two_decimals_becomes_its_basis_points() {
    for basis_points in 0..=10_000_u16 {
        let percent = format!("{}.{:02}", basis_points / 100, basis_points % 100);
        let json = format!(
            r#"{{"role":"scheduler","gray":{{"percent":{percent}}},
            "pools":[{{"name":"a","accounts":[{{"id":"x","max_concurrency":1}}]}}]}}"#
        );
        let Ok(Role::Scheduler(config)) = parse(json.as_bytes(), &env) else {
            panic!("{percent} is refused")
        };
        assert_eq!(config.gray.basis_points, basis_points);
    }
}

/// Those of `full.json`.
fn rules() -> [AnswerRule; 5] {
    let rule = |status: &[u16], headers: Vec<Match>, action| AnswerRule {
        status: status.to_vec(),
        grpc_status: vec![],
        headers,
        action,
    };
    let when = |header: &str, value| Match {
        header: header.into(),
        value,
    };
    [
        rule(
            &[401, 403],
            vec![
                when("x-why", MatchValue::Exact("key".into())),
                when("x-hint", MatchValue::Present(false)),
            ],
            Action::Disable { for_ms: 86_400_000 },
        ),
        AnswerRule {
            grpc_status: vec![16],
            ..rule(&[], vec![], Action::Disable { for_ms: 600_000 })
        },
        rule(
            &[],
            vec![
                when("x-a", MatchValue::Exact("1".into())),
                when("x-b", MatchValue::Prefix("2".into())),
                when("x-c", MatchValue::Suffix("3".into())),
            ],
            Action::Cooldown,
        ),
        rule(&[404], vec![], Action::Failing),
        rule(&[100, 599], vec![], Action::Ignore),
    ]
}

/// A scheduler with these settings beside its pool.
fn with(settings: Value) -> Config {
    let mut document = json!({"role": "scheduler", "pools": [{"name": "a", "accounts": [{"id": "x", "max_concurrency": 1}]}]});
    let settings = settings.as_object().unwrap().clone();
    document.as_object_mut().unwrap().extend(settings);
    match check(document.to_string().as_bytes()) {
        Ok(Role::Scheduler(config)) => *config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_action_queue_has_a_queue() {
    let queue = Queue {
        max_wait_ms: 30_000,
        max_waiting: 1_000,
        otherwise: Otherwise::Reject,
    };
    let waits = json!({"max_wait_ms": 1, "max_waiting": 1, "otherwise": "reject"});
    for (saturated, expected) in [
        (json!({"action": "queue"}), OnSaturated::Queue(queue)),
        (
            json!({"action": "queue", "queue": {}}),
            OnSaturated::Queue(queue),
        ),
        (
            json!({"action": "reject", "queue": waits}),
            OnSaturated::Reject,
        ),
        (json!({"queue": waits}), OnSaturated::Reject),
        (
            json!({"action": "traditional", "queue": waits}),
            OnSaturated::Traditional,
        ),
        (
            json!({"action": "queue", "queue": waits}),
            OnSaturated::Queue(Queue {
                max_wait_ms: 1,
                max_waiting: 1,
                ..queue
            }),
        ),
    ] {
        let config = with(json!({ "saturated": saturated }));
        assert_eq!(config.saturated, expected, "{saturated}");
        let is_queue = saturated["action"] == "queue";
        assert_eq!(config.saturated.queue().is_some(), is_queue, "{saturated}");
    }
}

#[test]
fn a_thousand_tenants_are_found_by_name() {
    let no_cap = TenantLimits {
        max_concurrency: 0,
        max_waiting: 0,
        weight: 1,
    };
    let source = json!([{"header": "x-tenant"}]);
    let overrides: Vec<_> = (1..=1_000)
        .map(|i| json!({"tenant": format!("t{i}"), "weight": i}))
        .collect();
    let config = with(json!({"tenant": {"source": source, "overrides": overrides}}));
    let tenants = config.tenant.unwrap();
    assert_eq!(tenants.limits, no_cap);
    assert_eq!(tenants.overrides.len(), 1_000);
    for weight in 1..=1_000 {
        let name = Tenants::name(format!("t{weight}").as_bytes());
        assert_eq!(tenants.limits_of(&name), TenantLimits { weight, ..no_cap });
    }
    assert_eq!(tenants.limits_of(&Tenants::name(b"t1001")), no_cap);
}

#[test]
fn a_hundred_thousand_accounts_are_checked_quickly() {
    let mut accounts: Vec<_> = (0..100_000)
        .map(|i| json!({"id": format!("a{i}"), "max_concurrency": 1}))
        .collect();
    let document = |accounts: &[Value]| json!({"role": "scheduler", "pools": [{"name": "a", "accounts": accounts}]});
    let took = |accounts: &[Value]| {
        let document = document(accounts);
        let start = Instant::now();
        assert!(errors(&document).is_empty());
        start.elapsed().as_secs_f64()
    };
    let (tenth, all) = (took(&accounts[..10_000]), took(&accounts));
    // Comparing each with each would take a hundred times as long.
    assert!(
        all < 40.0 * tenth,
        "{all} s for ten times what takes {tenth} s"
    );
    accounts[99_999]["id"] = "a0".into();
    let twice = r#"pools[0].accounts[99999].id: "a0" is already used by pools[0].accounts[0]"#;
    assert_eq!(errors(&document(&accounts)), [twice]);
    accounts.push(json!({"id": "b", "max_concurrency": 1}));
    assert_eq!(
        errors(&document(&accounts)),
        [
            "pools[0].accounts: has 100001 entries, not 1..=100000",
            twice
        ]
    );
}

/// JSON pointers to every value, the document itself included.
fn pointers(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(name, value)| pointers(value, format!("{at}/{name}"), all)),
        Value::Array(entries) => {
            entries
                .iter()
                .enumerate()
                .for_each(|(index, value)| pointers(value, format!("{at}/{index}"), all));
        }
        _ => {}
    }
    all.push(at);
}

fn changed(document: &Value, pointer: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut copy = document.clone();
    change(copy.pointer_mut(pointer).unwrap());
    copy
}

#[test]
fn an_unknown_field_is_found_in_every_object() {
    let full = full();
    let mut all = vec![];
    pointers(&full, String::new(), &mut all);
    let open = ["/set_headers", "/header"];
    all.retain(|at| {
        full.pointer(at).unwrap().is_object() && !open.iter().any(|end| at.ends_with(end))
    });
    assert!(all.len() > 20, "{all:?}");
    for at in all {
        let found = errors(&changed(&full, &at, |object| object["zebra"] = true.into()));
        assert_eq!(found.len(), 1, "{at}: {found:?}");
        assert!(
            found[0].ends_with("zebra: unknown field"),
            "{at}: {found:?}"
        );
    }
}

#[test]
fn no_value_anywhere_makes_it_panic() {
    let full = full();
    let mut all = vec![];
    pointers(&full, String::new(), &mut all);
    let odd = json!([
        null,
        true,
        -1,
        1e300,
        u64::MAX,
        "",
        "\u{0}",
        "${",
        "${API_KEY}",
        "\u{10ffff}".repeat(100),
        [],
        {}
    ]);
    let mut refused = 0;
    for at in &all {
        for value in odd.as_array().unwrap() {
            refused += usize::from(
                !errors(&changed(&full, at, |place| *place = value.clone())).is_empty(),
            );
        }
    }
    assert!(refused > all.len() * 6, "only {refused} refused");
}

#[test]
fn no_truncation_or_broken_byte_makes_it_panic() {
    let text = fs::read(directory("good/full.json")).unwrap();
    let end = text.trim_ascii_end().len();
    let empty = lines(check(b"").unwrap_err());
    let expected =
        "configuration: is empty: it needs a role, scheduler, bridge, upstream or console";
    assert_eq!(empty, [expected]);
    for cut in 1..end {
        let found = lines(check(&text[..cut]).unwrap_err());
        assert!(
            found.len() == 1 && found[0].starts_with("not JSON: "),
            "{cut}: {found:?}"
        );
        assert!(
            found[0].contains(" at line ") && found[0].contains(" column "),
            "{found:?}"
        );
        for byte in [0x00, 0xff, b'"', b'{', b'9', b' '] {
            let mut text = text.clone();
            text[cut] = byte;
            drop(check(&text));
        }
    }
    assert!(check(&b"[".repeat(100_000)).is_err());
}
