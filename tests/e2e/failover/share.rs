//! How many refusals reach the clients of accounts that refuse at random.

use std::collections::BTreeMap;

use serde_json::json;

use super::{assert_nothing_left, tries, watched};
use crate::world::World;
use support::*;

/// Each account refuses so many tries of a hundred.
const PERCENT: u64 = 10;
/// The requests' numbers, from which it is drawn which tries are refused: always the same ones. Three tries in a row are
/// refused in one of a thousand on average, so other numbers would have a few more or fewer.
const FIRST: u64 = 1_000_000;

/// Accounts enough: those that have just refused rest.
fn world(attempts: u32) -> World {
    let ids: Vec<String> = (0..50).map(|number| format!("a{number}")).collect();
    let accounts: Vec<_> = ids.iter().map(|id| (id.as_str(), 20)).collect();
    // The helper that makes routes try again wants more than one.
    let config = tries(&accounts, attempts.max(2))
        .plugin(|plugin| {
            plugin["failover"] = json!({"max_attempts": attempts});
            plugin["cooldown"] = json!({"max_ms": 20, "default_ms": 20});
        })
        .manager(|manager| {
            manager["route_config"]["virtual_hosts"][0]["include_request_attempt_count"] =
                json!(true);
        });
    watched(config)
}

#[test]
fn accounts_that_refuse_one_in_ten() {
    let requests: usize = std::env::var("REQUESTS").map_or(4_000, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("REQUESTS: {text:?}"))
    });
    let last = FIRST + requests as u64;
    for attempts in [1, 3] {
        let world = world(attempts);
        let replies = world.client().load(requests, 16, |number| {
            let number = FIRST + number as u64;
            Request::get(&format!("/refuse?percent={PERCENT}&number={number}"))
        });
        let statuses = count_statuses(&replies);
        let refused = requests - statuses.get(&200).copied().unwrap_or_default();
        let share = refused as f64 / requests as f64 * 100.0;
        println!("{attempts} tries: {refused} of {requests}, {share:.3} %: {statuses:?}");
        assert!(statuses.keys().all(|status| [200, 429].contains(status)));
        let seen = world.upstream.take_seen();
        let mut owners = BTreeMap::new();
        for one in &seen {
            assert_eq!(one.owner.as_ref(), Some(&one.account), "{one:?}");
            assert_eq!(one.key, format!("Bearer key-of-{}", one.account), "{one:?}");
            assert_eq!(owners.insert(&one.lease, &one.account), None, "{one:?}");
        }
        // Those that were refused as often as they could try, and no others.
        let all = |number: &u64| (1..=attempts).all(|one| drawn(*number, one.into(), PERCENT));
        assert_eq!(refused, (FIRST..last).filter(all).count());
        assert!(attempts < 3 || share <= 0.1, "{share}");
        assert_nothing_left(&world);
    }
}
