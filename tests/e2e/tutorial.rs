//! What the tutorial shows, on a real Envoy.

use crate::world::{World, config};
use support::root;

/// The filter of its last command prints what the filter counts, and nothing of Envoy's own.
#[test]
fn its_filter_prints_the_counters_of_the_filter_alone() {
    let text = std::fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    let (_, rest) = text.split_once("/stats?filter=").unwrap();
    let (filter, _) = rest.split_once("&usedonly").unwrap();
    let world = World::start(config(&[("a", 5)]));
    for _ in 0..3 {
        world.get("/");
    }
    let encoded = filter.replace('^', "%5E").replace('|', "%7C");
    let stats = world
        .envoy
        .admin_get(&format!("/stats?filter={encoded}&usedonly"));
    let names: Vec<&str> = stats
        .lines()
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert!((3..=16).contains(&names.len()), "{stats}");
    for name in names {
        assert!(name.starts_with("wasmcustom.slotgate."), "{name}");
    }
}
