//! Which account a request gets: by its pool, and by its session.

use serde_json::{Value, json};

use crate::world::{World, accounts_json, config, way};
use support::*;

const SESSION: &str = "x-session-id";

fn sessions(world: &World) -> Vec<String> {
    world.redis.run("KEYS", &[&world.ledger.key("session:*")])
}

#[test]
fn a_session_stays_with_its_account() {
    let world = World::start(config(&[("a", 20), ("b", 20), ("c", 20), ("d", 20)]).workers(2));
    let account = |session: &str| {
        let reply = world.client().get("/", &[(SESSION, session)]);
        assert_eq!(way(&reply), (200, "atomic"));
        reply.header("x-slotgate-account").to_owned()
    };
    let mut seen = std::collections::BTreeSet::new();
    for session in 0..20 {
        let session = format!("session-{session}");
        let first = account(&session);
        for _ in 0..5 {
            assert_eq!(account(&session), first, "{session}");
        }
        seen.insert(first);
    }
    assert!(seen.len() > 1, "the score says otherwise: all on {seen:?}");
    let keys = sessions(&world);
    assert_eq!(keys.len(), 20);
    assert!(
        keys.iter().all(|key| !key.contains("session-")),
        "not their own text: {keys:?}"
    );
    world.assert_all_free();
}

#[test]
fn without_a_session_no_affinity_is_written() {
    let world = World::start(config(&[("a", 5), ("b", 5)]));
    for headers in [&[][..], &[(SESSION, "")], &[("x-request-id", "r")]] {
        for _ in 0..3 {
            assert_eq!(way(&world.client().get("/", headers)), (200, "atomic"));
        }
    }
    assert_eq!(sessions(&world), Vec::<String>::new());

    let off = config(&[("a", 5)]).plugin(|plugin| plugin["affinity"] = json!({"ttl_ms": 0}));
    let off = World::start(off);
    assert_eq!(
        way(&off.client().get("/", &[(SESSION, "s")])),
        (200, "atomic")
    );
    assert_eq!(sessions(&off), Vec::<String>::new());
}

/// Another account serves while the session's own is full, and the session comes back to its own.
#[test]
fn a_full_account_spills_without_rebinding() {
    let world = World::start(config(&[("a", 1), ("b", 1)]));
    let headers = [(SESSION, "s")];
    let own = world.client().open("/sse?events=100000", &headers);
    let id = own.header("x-slotgate-account").to_owned();
    for _ in 0..3 {
        let spilt = world.client().get("/", &headers);
        assert_eq!(way(&spilt), (200, "atomic"));
        assert_ne!(spilt.header("x-slotgate-account"), id);
        world.ledger.assert_consistent();
    }
    drop(own);
    world.assert_all_free();
    for _ in 0..3 {
        assert_eq!(
            world
                .client()
                .get("/", &headers)
                .header("x-slotgate-account"),
            id
        );
    }
}

/// The sources of a session, the first one that is not empty.
#[test]
fn a_session_by_header_cookie_or_query() {
    let world = World::start(config(&[("a", 50)]).plugin(|plugin| {
        plugin["gray"]["session"] =
            json!([{"header": SESSION}, {"cookie": "sid"}, {"query": "session"}]);
    }));
    let mut known = 0;
    for (path, headers, fresh) in [
        ("/", vec![(SESSION, "one")], true),
        ("/", vec![("cookie", "a=b; sid=two")], true),
        ("/?x=1&session=three", vec![], true),
        ("/?session=two", vec![], false),
        (
            "/?session=four",
            vec![(SESSION, ""), ("cookie", "sid=one")],
            false,
        ),
        ("/", vec![(SESSION, "three"), ("cookie", "sid=five")], false),
    ] {
        world.client().get(path, &headers);
        known += usize::from(fresh);
        assert_eq!(sessions(&world).len(), known, "{path} {headers:?}");
    }
}

#[test]
fn the_pool_is_chosen_by_header() {
    let pool = |name: &str, rules: Value, account: &str| json!({"name": name, "match": rules, "accounts": accounts_json(&[(account, 5)])});
    let world = World::start(config(&[]).plugin(|plugin| {
        plugin["pools"] = json!([
            pool("claude", json!([{"header": "x-model", "prefix": "claude-"}]), "c"),
            pool("gpt", json!([{"header": "x-model", "exact": "gpt"}, {"header": ":path", "suffix": "/gpt"}]), "g"),
        ]);
    }));
    for (path, model, account) in [
        ("/", "claude-opus", "c"),
        ("/", "gpt", "g"),
        ("/status/200?x=/gpt", "other", "g"),
        ("/status/200?x=/gpt", "claude-", "c"),
        ("/", "gpt-5", ""),
        ("/", "", ""),
    ] {
        let reply = world.client().get(path, &[("x-model", model)]);
        let expected = if account.is_empty() {
            "traditional"
        } else {
            "atomic"
        };
        assert_eq!(way(&reply), (200, expected), "{path} {model}");
        assert_eq!(
            reply.header("x-slotgate-account"),
            account,
            "{path} {model}"
        );
    }
    world.eventually_counts("requests;outcome=traditional;reason=no_pool", 2);
    for pool in ["claude", "gpt"] {
        let ledger = Ledger::new(&world.redis, "slotgate", pool);
        eventually(crate::world::SOON, || ledger.is_empty());
        assert_eq!(ledger.state().accounts.len(), 1);
    }
}
