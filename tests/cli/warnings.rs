//! What `check` warns of: Envoy would take it, and do something else than one might think.

use crate::run;
use serde_json::{Value, json};
use support::{Dir, EnvoyConfig};

/// What it warns of in a file of this content, and what it says for people.
fn warned(config: EnvoyConfig) -> (Vec<String>, String) {
    let dir = Dir::temporary();
    let path = dir.join("envoy.json");
    std::fs::write(&path, config.document.to_string()).unwrap();
    let file = path.to_str().unwrap();
    let answer: Value = serde_json::from_str(&run(&["check", file, "--json"]).done()).unwrap();
    assert_eq!(answer["ok"], true, "a warning is no error");
    let warnings = answer["warnings"].as_array().unwrap().iter();
    let paths = warnings.map(|warning| warning["path"].as_str().unwrap().to_owned());
    (paths.collect(), run(&["check", file]).done())
}

fn routed(field: &'static str, value: Value) -> EnvoyConfig {
    EnvoyConfig::from_example().manager(|manager| {
        manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"][field] = value.clone();
    })
}

const MANAGER: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";

#[test]
fn of_requests_that_have_no_slot_of_their_own() {
    let route = format!("{MANAGER}.route_config.virtual_hosts[0].routes[0].route");
    for (field, value, warns) in [
        (
            "hedge_policy",
            json!({"hedge_on_per_try_timeout": true}),
            true,
        ),
        ("hedgePolicy", json!({"hedgeOnPerTryTimeout": true}), true),
        (
            "hedge_policy",
            json!({"hedge_on_per_try_timeout": false}),
            false,
        ),
        (
            "request_mirror_policies",
            json!([{"cluster": "traditional"}]),
            true,
        ),
        (
            "requestMirrorPolicies",
            json!([{"cluster": "traditional"}]),
            true,
        ),
        ("request_mirror_policies", json!([]), false),
        // One after the other, so one slot is right.
        (
            "retry_policy",
            json!({"retry_on": "5xx", "num_retries": 3}),
            false,
        ),
    ] {
        let (paths, text) = warned(routed(field, value.clone()));
        let expected = if warns {
            vec![format!("{route}.{field}")]
        } else {
            vec![]
        };
        assert_eq!(paths, expected, "{field}: {value}");
        let line = format!("warning: {route}.{field}: ");
        assert_eq!(text.contains(&line), warns, "{text}");
    }
}

#[test]
fn of_a_timeout_that_cuts_silent_streams() {
    let unset = EnvoyConfig::from_example().manager(|manager| {
        manager
            .as_object_mut()
            .unwrap()
            .remove("stream_idle_timeout");
    });
    let (paths, _) = warned(unset);
    assert_eq!(paths, [format!("{MANAGER}.stream_idle_timeout")]);
    let chosen = EnvoyConfig::from_example()
        .manager(|manager| manager["stream_idle_timeout"] = json!("600s"));
    assert_eq!(warned(chosen).0, [""; 0], "someone meant it");
    // The console's streams take no slots.
    assert_eq!(
        warned(EnvoyConfig::from_example().console(|_| {})).0,
        [""; 0]
    );
}

#[test]
fn of_none_of_that_where_nothing_takes_slots() {
    let file = Dir::temporary();
    let path = file.join("pipe.json");
    let document = json!({
        "hedge_policy": {"hedge_on_per_try_timeout": true},
        "filter": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
            "config": {"name": "slotgate_bridge", "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": "{\"role\": \"bridge\"}",
            }},
        },
    });
    std::fs::write(&path, document.to_string()).unwrap();
    let out = run(&["check", path.to_str().unwrap()]).done();
    assert!(!out.contains("warning"), "{out}");
}
