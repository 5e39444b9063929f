//! Which headers a request is given: its account's and its pool's, or those of the traditional way.

use serde_json::{Value, json};

use crate::world::{SOON, World, config};
use support::*;

/// One account with one slot; every header says who set it.
fn labelled(change: impl Fn(&mut Value)) -> World {
    let config = config(&[("a", 1)]).plugin(|plugin| {
        let pool = &mut plugin["pools"][0];
        pool["match"] = json!([{"header": "x-model", "present": true}]);
        pool["set_headers"] =
            json!({"x-key": "pool ${account}", "x-pool": "pool", "x-upstream": "of-the-pool"});
        pool["traditional"] = json!({"set_headers": {"x-key": "traditional of the pool"}});
        plugin["traditional"] = json!({"set_headers": {"x-key": "traditional", "x-all": "all"}});
        change(plugin);
    });
    World::start(config)
}

/// Way, `x-key`, `x-pool` and `x-all` as the upstream saw them.
fn seen(reply: &Reply) -> [String; 4] {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let headers = reply.json()["headers"].clone();
    ["x-slotgate-path", "x-key", "x-pool", "x-all"]
        .map(|name| headers[name].as_str().unwrap_or("-").to_owned())
}

impl World {
    fn seen(&self, headers: &[(&'static str, &str)]) -> [String; 4] {
        // The client's own are replaced.
        let own = [("x-key", "of-the-client"), ("x-key", "again")];
        let headers = [headers, &own].concat();
        seen(&self.envoy.client().get("/echo", &headers))
    }

    /// While someone else has the only slot.
    fn seen_when_full(&self) -> [String; 4] {
        let held = self
            .envoy
            .client()
            .open("/sse?events=100000", &[("x-model", "m")]);
        let seen = self.seen(&[("x-model", "m")]);
        drop(held);
        eventually(SOON, || self.ledger.is_empty());
        seen
    }
}

const MODEL: [(&str, &str); 1] = [("x-model", "m")];
const ACCOUNT: [&str; 4] = ["atomic", "pool a", "pool", "-"];
const OF_POOL: [&str; 4] = ["traditional", "traditional of the pool", "-", "all"];

#[test]
fn with_a_slot_and_without() {
    let world = labelled(|plugin| plugin["saturated"] = json!({"action": "traditional"}));
    assert_eq!(world.seen(&MODEL), ACCOUNT);
    // The account's own header comes before its pool's: `of-the-pool` is no cluster.
    assert_eq!(world.upstream.snapshot().account("a").total, 1);
    assert_eq!(world.seen_when_full(), OF_POOL);
    // No pool: what is set for all, and the client's own stay where nothing is set.
    let [way, key, pool, all] = world.seen(&[("x-pool", "of-the-client")]);
    let expected = ["traditional", "traditional", "of-the-client", "all"];
    assert_eq!([way, key, pool, all], expected);
    world.redis.kill();
    eventually(SOON, || world.seen(&MODEL) == OF_POOL);
}

#[test]
fn out_of_the_percentage_or_shadowed() {
    for gray in [
        json!({"percent": 0}),
        json!({"percent": 100, "mode": "shadow"}),
    ] {
        let world = labelled(|plugin| plugin["gray"] = gray.clone());
        assert_eq!(world.seen(&MODEL), OF_POOL, "{gray}");
    }
}

/// A local choice has an account, so it has the account's headers; only where none has room are the others set.
#[test]
fn chosen_locally() {
    let world = labelled(|plugin| {
        plugin["gray"]["percent"] = json!(0);
        plugin["traditional"]["mode"] = json!("local");
        plugin["saturated"] = json!({"action": "traditional"});
    });
    assert_eq!(world.seen(&MODEL), ["local", "pool a", "pool", "-"]);
    assert_eq!(world.seen_when_full(), OF_POOL);
}
