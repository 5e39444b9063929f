//! Which pool serves a request, and the choice of an account on this worker's own counts.

use crate::config;
use slotgate::pool::{AccountTable, Scale, bases, select};
use slotgate::request::headers::Headers;

#[test]
fn the_first_pool_with_a_rule_that_fits() {
    let config = config(|json| {
        let accounts = json["pools"][0]["accounts"].clone();
        json["pools"] = serde_json::json!([
            {"name": "exact", "match": [{"header": "X-Model", "exact": "gpt"}], "accounts": accounts},
            {"name": "ends", "match": [{"header": "x-model", "prefix": "claude-"}, {"header": "x-model", "suffix": "-pro"}], "accounts": accounts},
            {"name": "present", "match": [{"header": "x-any", "present": true}], "accounts": accounts},
            {"name": "rest", "accounts": accounts},
        ]);
    });
    let pool = |headers: &[(&[u8], &[u8])]| {
        let bytes = Headers::serialize(headers);
        select(&config.pools, Headers::new(&bytes)).map(|index| config.pools[index].name.as_str())
    };
    assert_eq!(pool(&[(b"x-model", b"gpt")]), Some("exact"));
    assert_eq!(pool(&[(b"x-model", b"gpt-4")]), Some("rest"));
    assert_eq!(pool(&[(b"x-model", b"claude-9")]), Some("ends"));
    assert_eq!(
        pool(&[(b"x-model", b"other"), (b"x-model", b"\xff-pro")]),
        Some("ends")
    );
    assert_eq!(pool(&[(b"x-any", b"")]), Some("present"));
    assert_eq!(pool(&[]), Some("rest"));
    assert_eq!(select(&config.pools[..3], Headers::new(&[])), None);
}

#[test]
fn priorities_in_the_score() {
    let of = |mode: &str| {
        let config = config(|json| {
            json["priority_mode"] = mode.into();
            json["pools"][0]["accounts"] = serde_json::json!([
                {"id": "x", "max_concurrency": 1, "priority": 3},
                {"id": "y", "max_concurrency": 1, "priority": 1},
                {"id": "z", "max_concurrency": 1, "priority": 2},
            ]);
        });
        let scale = Scale::of(&config.pools[0], config.score, config.priority_mode);
        bases(&config.pools[0].accounts, scale)
    };
    assert_eq!(of("weighted"), [500_000, 0, 250_000]);
    // A worse tier begins above all that load (0.3) and chance (0.2) can add.
    assert_eq!(of("strict"), [3_000_000, 0, 1_500_000]);
}

#[test]
fn accounts_are_found_by_their_ids() {
    for count in [1, 2, 3, 1_000, 5_000] {
        let config = config(|json| {
            let accounts = (0..count)
                .map(|n| serde_json::json!({"id": format!("acct-{n}"), "max_concurrency": 1}));
            json["pools"][0]["accounts"] = accounts.collect();
        });
        let counts = AccountTable::new(&config.pools[0], &config);
        for n in 0..count {
            assert_eq!(counts.index(format!("acct-{n}").as_bytes()), Some(n));
            assert_eq!(counts.index(format!("acct{n}").as_bytes()), None);
        }
        assert_eq!(counts.index(b""), None);
    }
}

#[test]
fn local_choice_fills_every_account_to_its_share() {
    let config = config(|_| {});
    let pool = &config.pools[0];
    let mut counts = AccountTable::new(pool, &config);
    let mut random = fastrand::Rng::with_seed(1);
    let mut taken = Vec::new();
    while let Some(account) = counts.choose(0, pool, config.score, 1, &mut random, |_| false) {
        counts.up(account);
        taken.push(account);
    }
    assert_eq!(taken.len(), 6);
    assert_eq!(taken.iter().filter(|account| **account == 0).count(), 2);
    counts.down(1);
    assert_eq!(
        counts.choose(0, pool, config.score, 1, &mut random, |_| false),
        Some(1)
    );
    // A share of 4 leaves one slot of each, at least.
    let counts = AccountTable::new(pool, &config);
    assert!(
        counts
            .choose(0, pool, config.score, 4, &mut random, |_| false)
            .is_some()
    );
    let mut counts = counts;
    counts.up(0);
    counts.up(1);
    assert_eq!(
        counts.choose(0, pool, config.score, 4, &mut random, |_| false),
        None
    );
}

#[test]
fn local_choice_prefers_less_load() {
    let config =
        config(|json| json["score"] = serde_json::json!({"priority": 0, "load": 1, "random": 0}));
    let mut counts = AccountTable::new(&config.pools[0], &config);
    counts.up(0); // 1 of 2, against 0 of 4
    let mut random = fastrand::Rng::with_seed(1);
    assert_eq!(
        counts.choose(0, &config.pools[0], config.score, 1, &mut random, |_| false),
        Some(1)
    );
    counts.up(1);
    assert_eq!(
        counts.choose(0, &config.pools[0], config.score, 1, &mut random, |_| false),
        Some(1),
        "1 of 4 against 1 of 2"
    );
}
