//! Upstreams that give no answer, in each way that Envoy has a name for: the account is put behind the others.

use serde_json::json;

use crate::world::{World, config};
use support::*;

/// Of six requests, one after the other, the first three fail by the account that is preferred; then it is behind.
#[track_caller]
fn assert_put_behind(config: EnvoyConfig, status: u16) {
    let world = World::start(config);
    let replies: Vec<_> = (0..6)
        .map(|_| {
            let reply = world.get("/");
            world.assert_all_free();
            let account = reply.header("x-slotgate-account").to_owned();
            (account, reply.status)
        })
        .collect();
    let (bad, good) = (("bad".to_owned(), status), ("a".to_owned(), 200));
    assert_eq!(replies[..3], [bad.clone(), bad.clone(), bad]);
    assert_eq!(replies[3..], [good.clone(), good.clone(), good]);
    world.eventually_counts("behind", 1);
    assert_eq!(world.counter("cooldown"), 0, "nobody asked for a rest");
}

/// Its requests go there instead; a failure takes it out of use after three.
fn with_bad(header: &'static str, value: &'static str) -> EnvoyConfig {
    config(&[("a", 1), ("bad", 1)]).plugin(|plugin| {
        plugin["failing"] = json!({"consecutive": 3, "behind_ms": 60_000});
        plugin["pools"][0]["accounts"][0]["priority"] = json!(2);
        plugin["pools"][0]["accounts"][1]["set_headers"][header] = json!(value);
    })
}

#[test]
fn within_the_longest_that_a_stream_may_last() {
    let limited = with_bad(":path", "/hang").manager(|manager| {
        manager["common_http_protocol_options"] = json!({"max_stream_duration": "0.3s"});
    });
    assert_put_behind(limited, 504);
}

#[test]
fn for_as_long_as_a_stream_may_be_silent() {
    let limited = with_bad(":path", "/hang")
        .manager(|manager| manager["stream_idle_timeout"] = json!("0.3s"));
    assert_put_behind(limited, 504);
}

#[test]
fn because_its_name_has_no_address() {
    const DFP: &str = "type.googleapis.com/envoy.extensions";
    let cache = json!({"name": "cache", "dns_lookup_family": "V4_ONLY"});
    let unknown = with_bad("x-upstream", "forward")
        .plugin(|plugin| {
            let bad = &mut plugin["pools"][0]["accounts"][1]["set_headers"];
            bad[":authority"] = json!("nowhere.invalid");
        })
        .manager(|manager| {
            let filter = json!({
                "name": "envoy.filters.http.dynamic_forward_proxy",
                "typed_config": {
                    "@type": format!("{DFP}.filters.http.dynamic_forward_proxy.v3.FilterConfig"),
                    "dns_cache_config": cache,
                },
            });
            let filters = manager["http_filters"].as_array_mut().expect("filters");
            filters.insert(1, filter);
        })
        .edit(|document| {
            let cluster = json!({
                "name": "forward",
                "lb_policy": "CLUSTER_PROVIDED",
                "cluster_type": {
                    "name": "envoy.clusters.dynamic_forward_proxy",
                    "typed_config": {
                        "@type": format!("{DFP}.clusters.dynamic_forward_proxy.v3.ClusterConfig"),
                        "dns_cache_config": cache,
                    },
                },
            });
            let clusters = document["static_resources"]["clusters"].as_array_mut();
            clusters.expect("clusters").push(cluster);
        });
    assert_put_behind(unknown, 503);
}

/// The same timeout, but what is silent is the client: 408, and no failure of the account.
#[test]
fn but_a_client_that_stalls_is_no_failure() {
    let world = World::start(
        with_bad(":path", "/").manager(|manager| manager["stream_idle_timeout"] = json!("0.3s")),
    );
    for _ in 0..4 {
        let mut client = world.client().raw();
        client.send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n");
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 408"), "{head}");
        assert!(head.contains("x-slotgate-account: bad"), "{head}");
        world.assert_all_free();
    }
    assert_eq!(world.get("/").header("x-slotgate-account"), "bad");
    assert_eq!(world.counter("behind"), 0);
}
