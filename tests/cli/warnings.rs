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

/// What it says of `envoy/llm.yaml` after a change: warnings and notes, each by the end of its path.
fn of_llm(change: impl FnOnce(EnvoyConfig) -> EnvoyConfig) -> (Vec<String>, Vec<String>) {
    let dir = Dir::temporary();
    let path = dir.join("envoy.json");
    let config = change(EnvoyConfig::from_file("envoy/llm.yaml"));
    std::fs::write(&path, config.document.to_string()).unwrap();
    let answer = run(&["check", "--strict", "--json", path.to_str().unwrap()]).out;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let of = |name: &str| -> Vec<String> {
        let all = answer[name].as_array().unwrap().iter();
        all.map(|one| {
            let path = one["path"].as_str().unwrap();
            path.rsplit('.').next().unwrap().to_owned()
        })
        .collect()
    };
    assert_eq!(of("errors"), [""; 0]);
    // A note is no warning.
    assert_eq!(answer["ok"], of("warnings").is_empty());
    (of("warnings"), of("notes"))
}

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

#[test]
fn of_failover_wherever_envoy_takes_its_parts_from() {
    let none = || (vec![], vec![]);
    assert_eq!(of_llm(|config| config), none());
    // The router has filters for all clusters that have none.
    let in_router = |config: EnvoyConfig| {
        let mut filters = Value::Null;
        let config = ["openai", "anthropic"].iter().fold(config, |config, name| {
            config.edit_cluster(name, |cluster| {
                let options = &mut cluster["typed_extension_protocol_options"][OPTIONS];
                filters = options
                    .as_object_mut()
                    .unwrap()
                    .remove("http_filters")
                    .unwrap();
            })
        });
        config.manager(|manager| {
            manager["http_filters"][2]["typed_config"]["upstream_http_filters"] = filters.clone();
        })
    };
    assert_eq!(of_llm(in_router), none());
    // A virtual host's retry policy and limit are those of its routes.
    let of_host = |config: EnvoyConfig| {
        config.manager(|manager| {
            let host = &mut manager["route_config"]["virtual_hosts"][0];
            for route in [0, 1] {
                let route = &mut host["routes"][route];
                let route = route.as_object_mut().unwrap();
                let limit = route.remove("request_body_buffer_limit").unwrap();
                let action = route["route"].as_object_mut().unwrap();
                let policy = action.remove("retry_policy").unwrap();
                host["retry_policy"] = policy;
                host["request_body_buffer_limit"] = limit;
            }
        })
    };
    assert_eq!(of_llm(of_host), none());
    // A share of the requests bounds retries as well.
    let budget = |config: EnvoyConfig| {
        config.edit_cluster("openai", |cluster| {
            let bound = json!({"retry_budget": {"budget_percent": {"value": 50.0}}});
            cluster["circuit_breakers"] = json!({"thresholds": [bound]});
        })
    };
    assert_eq!(of_llm(budget), none());
    // Any answer that is an error, a connection that fails among them.
    let on = |on: &'static str| {
        move |config: EnvoyConfig| {
            config.manager(|manager| {
                let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
                routes[0]["route"]["retry_policy"]["retry_on"] = on.into();
            })
        }
    };
    assert_eq!(of_llm(on("retriable-headers, 5xx")), none());
    let note = (vec![], vec!["retry_on".to_owned()]);
    assert_eq!(of_llm(on("retriable-headers,connect-failure")), note);
    // Headers in which accounts differ and by which no route is chosen.
    let tier = |config: EnvoyConfig| {
        config.plugin(|plugin| {
            for pool in 0..2 {
                for account in 0..2 {
                    let account = &mut plugin["pools"][pool]["accounts"][account];
                    account["set_headers"]["x-tier"] = account["id"].clone();
                }
            }
        })
    };
    assert_eq!(of_llm(tier), none());
    let by_presence = |config: EnvoyConfig| {
        tier(config).manager(|manager| {
            let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
            let conditions = &mut routes[0]["match"]["headers"];
            let there = json!({"name": "x-tier", "present_match": true});
            conditions.as_array_mut().unwrap().push(there);
        })
    };
    let (warnings, notes) = of_llm(by_presence);
    // Clients can send it now.
    assert_eq!(
        (warnings.len(), notes.len()),
        (1, 0),
        "{warnings:?} {notes:?}"
    );
    let off = |config: EnvoyConfig| config.plugin(|plugin| plugin["failover"] = json!({}));
    assert_eq!(of_llm(off), (vec![], vec!["configuration".to_owned(); 2]));
}

/// An account's header that one route asks for and another does not.
#[test]
fn of_accounts_that_choose_the_route() {
    let dir = Dir::temporary();
    let path = dir.join("envoy.json");
    for condition in [
        json!({"name": "x-tier", "present_match": true}),
        json!({"name": "x-tier", "string_match": {"exact": "gold"}}),
        json!({"name": "x-tier", "string_match": {"safe_regex": {"regex": "g.*"}}}),
        json!({"name": "X-Slotgate-Account", "string_match": {"prefix": "openai-1"}}),
    ] {
        let config = EnvoyConfig::from_file("envoy/llm.yaml")
            .plugin(|plugin| {
                let account = &mut plugin["pools"][1]["accounts"][0];
                account["set_headers"]["x-tier"] = "gold".into();
            })
            .manager(|manager| {
                let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
                let routes = routes.as_array_mut().unwrap();
                let mut route = routes[0].clone();
                let conditions = route["match"]["headers"].as_array_mut().unwrap();
                conditions.push(condition.clone());
                routes.insert(0, route);
            });
        std::fs::write(&path, config.document.to_string()).unwrap();
        let ran = run(&["check", path.to_str().unwrap()]);
        assert_eq!(ran.code, 1, "{condition}: {}", ran.out);
        let said = "routes[0].match.headers[1]: the accounts of pool openai differ in x-";
        assert!(ran.out.contains(said), "{}", ran.out);
    }
}

/// What it says of a set-up: each finding, by its kind and its text.
fn told(config: EnvoyConfig) -> Vec<String> {
    let dir = Dir::temporary();
    let path = dir.join("envoy.json");
    std::fs::write(&path, config.document.to_string()).unwrap();
    let answer = run(&["check", "--json", path.to_str().unwrap()]).out;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let kinds = ["errors", "warnings", "notes"].into_iter();
    kinds
        .flat_map(|kind| {
            let all = answer[kind].as_array().unwrap().iter();
            all.map(move |one| format!("{kind}: {}", one["problem"].as_str().unwrap()))
        })
        .collect()
}

fn of_endpoints(change: impl FnOnce(EnvoyConfig) -> EnvoyConfig) -> Vec<String> {
    told(change(EnvoyConfig::from_file("envoy/endpoints.yaml")))
}

/// The routes behind the inner listener are looked at as if they were the accounts' own.
#[test]
fn of_a_listener_that_chooses_the_cluster() {
    let file = || EnvoyConfig::from_file("envoy/clusters.yaml");
    assert_eq!(told(file()), [""; 0]);
    let only = |config: EnvoyConfig, starts: &str| {
        let found = told(config);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(starts), "{found:#?}");
    };
    let without = |config: EnvoyConfig, name: &str| {
        config.edit(|document| {
            let clusters = document["static_resources"]["clusters"].as_array_mut();
            clusters.unwrap().retain(|cluster| cluster["name"] != name);
        })
    };
    only(
        without(file(), "acct_2"),
        "warnings: there is no cluster acct_2 for acct-2 of pool demo",
    );
    let inner = |change: &dyn Fn(&mut Value)| {
        file().manager(|manager| {
            if manager["stat_prefix"] == "slotgate_accounts" {
                change(manager);
            }
        })
    };
    let silent = inner(&|manager| {
        manager
            .as_object_mut()
            .unwrap()
            .remove("stream_idle_timeout");
    });
    only(
        silent,
        "warnings: not set, so Envoy cuts a stream that is silent for 5 minutes",
    );
    let timed = inner(&|manager| {
        let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
        routes[0]["route"]
            .as_object_mut()
            .unwrap()
            .remove("timeout");
    });
    only(
        timed,
        "warnings: not set, so Envoy ends every answer after 15 s",
    );
    let many = file().plugin(|plugin| {
        plugin["pools"][0]["accounts"][1]["max_concurrency"] = json!(5_000);
    });
    only(
        many,
        "warnings: the accounts that lead here have 5000 slots",
    );
}

#[test]
fn of_accounts_by_endpoint() {
    let none: Vec<String> = vec![];
    assert_eq!(of_endpoints(|config| config), none);
    // Accounts that only the ledger has are known by the pool's headers.
    let in_ledger = |config: EnvoyConfig| {
        config.plugin(|plugin| {
            let pool = plugin["pools"][0].as_object_mut().unwrap();
            pool.remove("accounts");
            pool.insert("accounts_from".into(), json!("ledger"));
        })
    };
    assert_eq!(of_endpoints(in_ledger), none);
    let policy = |cluster: &mut Value| {
        let policy = &mut cluster["load_balancing_policy"]["policies"][0];
        policy["typed_extension_config"]["typed_config"].take()
    };
    let only = |change: &dyn Fn(EnvoyConfig) -> EnvoyConfig, starts: &str| {
        let found = of_endpoints(change);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(starts), "{found:#?}");
    };
    // A later try does not read the header again.
    only(
        &|config| config.plugin(|plugin| plugin["failover"] = json!({"max_attempts": 2})),
        "errors: the accounts of pool replicas differ in x-endpoint, which chooses the endpoint of cluster replicas",
    );
    only(
        &|config| {
            let tries = config.plugin(|plugin| plugin["failover"] = json!({"max_attempts": 2}));
            in_ledger(tries)
        },
        "errors: the accounts of pool replicas differ in x-endpoint",
    );
    only(
        &|config| {
            in_ledger(config).manager(|manager| {
                let manager = manager.as_object_mut().unwrap();
                manager.remove("early_header_mutation_extensions");
            })
        },
        "warnings: does not take x-endpoint off requests",
    );
    only(
        &|config| {
            config.manager(|manager| {
                let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
                routes[0]["route"]["retry_policy"] = json!({"retry_on": "connect-failure"});
            })
        },
        "warnings: a second try does not go to the account's endpoint",
    );
    only(
        &|config| {
            config.plugin(|plugin| plugin["pools"][0]["accounts"][2]["id"] = json!("10.0.0.9"))
        },
        "warnings: no endpoint is 10.0.0.9:8000 of 10.0.0.9 of pool replicas",
    );
    only(
        &|config| {
            config.manager(|manager| {
                manager
                    .as_object_mut()
                    .unwrap()
                    .remove("early_header_mutation_extensions");
            })
        },
        "warnings: does not take x-endpoint off requests",
    );
    only(
        &|config| {
            config.edit_cluster("replicas", |cluster| {
                let mut chooses = policy(cluster);
                let subset = &mut chooses["fallback_policy"]["policies"][0]["typed_extension_config"];
                *subset = json!({"name": "any", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
                }});
                cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"] = chooses;
            })
        },
        "notes: a request whose x-endpoint is no endpoint of cluster replicas goes to any of them",
    );
    only(
        &|config| {
            config.edit_cluster("replicas", |cluster| {
                let mut chooses = policy(cluster);
                chooses["override_host_sources"] = json!([{"header": "x-endpiont"}]);
                cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"] = chooses;
            })
        },
        "errors: no account sets x-endpiont: the fallback_policy chooses the endpoint of each request",
    );
}
