//! A stream that may last for hours is cut by nobody: not by a route's timeout, not for being silent.

use serde_json::{Value, json};

use crate::world::{World, config, way};
use support::*;

const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Every HTTP connection manager whose requests take slots. A console's streams take none, and are short.
fn managers<'d>(value: &'d Value, into: &mut Vec<&'d Value>) {
    match value {
        Value::Object(fields) => {
            if value["@type"] == MANAGER && schedules(&value["http_filters"]) {
                into.push(value);
            }
            fields.values().for_each(|field| managers(field, into));
        }
        Value::Array(entries) => entries.iter().for_each(|entry| managers(entry, into)),
        _ => {}
    }
}

fn schedules(filters: &Value) -> bool {
    let text = filters.to_string();
    text.contains("slotgate") && !text.contains(r#""role":"console""#)
}

#[test]
fn no_shipped_connection_manager_cuts_a_silent_stream() {
    let file = EnvoyConfig::from_file;
    for (name, config, count) in [
        ("slotgate.yaml", file("envoy/slotgate.yaml"), 1),
        (
            "console.yaml",
            file("envoy/slotgate.yaml").console(|_| {}),
            1,
        ),
        ("compose/envoy.yaml", file("envoy/compose/envoy.yaml"), 1),
        ("clusters.yaml", file("envoy/clusters.yaml"), 1),
        ("endpoints.yaml", file("envoy/endpoints.yaml"), 1),
        ("llm.yaml", file("envoy/llm.yaml"), 1),
        ("sidecar.yaml", file("envoy/sidecar.yaml"), 2),
        (
            "istio/filter.yaml",
            crate::istio::gateway("envoy/istio/filter.yaml", "stable"),
            1,
        ),
        (
            "istio/filter.yaml, canary",
            crate::istio::gateway("envoy/istio/filter.yaml", "canary"),
            1,
        ),
        (
            "istio/wasmplugin.yaml",
            crate::istio::gateway("envoy/istio/wasmplugin.yaml", "stable"),
            1,
        ),
    ] {
        let mut document = Value::Null;
        let _ = config.edit(|edited| document = edited.clone());
        let mut found = vec![];
        managers(&document, &mut found);
        assert_eq!(found.len(), count, "{name}");
        for manager in found {
            assert_eq!(manager["stream_idle_timeout"], "0s", "{name}");
            let hosts = manager["route_config"]["virtual_hosts"].as_array();
            let routes = hosts.expect("virtual hosts").iter();
            for route in routes.flat_map(|host| host["routes"].as_array().expect("routes")) {
                // A direct response takes no time.
                let Some(route) = route.get("route") else {
                    continue;
                };
                assert_eq!(route["idle_timeout"], Value::Null, "{name}: {route}");
                assert_eq!(route["timeout"], "0s", "{name}: {route}");
            }
        }
    }
}

/// Three events, a second apart: with a limit of 0.3 s the first is the last, with the file's own all come.
#[test]
fn a_silent_stream_lives() {
    let events = |config: EnvoyConfig| {
        let world = World::start(config);
        let mut stream = world.client().open("/sse?events=3&interval_ms=1000", &[]);
        let mut events = 0;
        while let Ok(Some(_)) = stream.next_event() {
            events += 1;
        }
        drop(stream);
        world.assert_all_free();
        assert_eq!(way(&world.get("/")), (200, "atomic"));
        events
    };
    let limited =
        config(&[("a", 1)]).manager(|manager| manager["stream_idle_timeout"] = json!("0.3s"));
    assert!(events(limited) < 3);
    assert!(events(config(&[("a", 1)])) >= 3);
}
