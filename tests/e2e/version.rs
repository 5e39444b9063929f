//! Which version runs: in Envoy's log, as a metric, and in the console.

use serde_json::json;

use crate::support::*;
use crate::world::{SOON, World, config};

const VERSION: &str = slotgate::VERSION;

fn build_info(envoy: &Envoy) -> Option<u64> {
    envoy.filter_stat(&format!("build_info;version={VERSION}"))
}

#[test]
fn every_role_says_its_version_at_the_start() {
    let world = World::start(config(&[("a", 5)]).console(|_| {}));
    world.assert_serves();
    for role in ["scheduler", "bridge", "console"] {
        let said = format!("slotgate {VERSION}, role {role}");
        assert!(
            world.envoy.log_contains(&said),
            "{said}: {}",
            world.envoy.log()
        );
    }
    assert_eq!(build_info(&world.envoy), Some(1));
    let request = Request::get("/api/status").header("host", "localhost");
    let status = Client::new(world.envoy.addrs()[1]).send(request);
    assert_eq!(status.expect("a reply").json()["version"], json!(VERSION));
}

/// The dots and the plus sign of a version are its label's, not the metric's name.
#[test]
fn it_is_a_label_for_prometheus() {
    let world = World::start(config(&[("a", 5)]).workers(2));
    let page = world.envoy.admin_get("/stats/prometheus");
    let line = format!("slotgate_build_info{{version=\"{VERSION}\"}} 1");
    assert!(page.lines().any(|found| found == line), "{line}: {page}");
}

/// The old one, which is of the same version here, takes its part back when it ends.
#[test]
fn a_configuration_that_ends_leaves_the_next_ones_version() {
    let numbered = |revision| {
        config(&[("a", 5)])
            .plugin(|plugin| {
                plugin["pools"][0]["revision"] = json!(revision);
                plugin["control"] = json!({"poll_ms": 100});
            })
            .listeners_from_file()
            .args(&["--drain-time-s", "1"])
    };
    let world = World::start(numbered(1));
    let stream = world.client().open("/sse?events=100000", &[]);
    let pushed = numbered(2)
        .redis(world.redis.addr())
        .upstream(world.upstream.addr());
    world.envoy.reconfigure(pushed).expect("a good one");
    drop(stream);
    let pipes = || {
        let list: String = world.redis.run("CLIENT", &["LIST"]);
        list.matches("name=slotgate").count()
    };
    // The old one's pipe has gone, and the new one has looked at the ledger since.
    eventually(SOON, || {
        world.assert_serves();
        pipes() == 1
    });
    eventually(SOON, || build_info(&world.envoy) == Some(1));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(build_info(&world.envoy), Some(1));
}
