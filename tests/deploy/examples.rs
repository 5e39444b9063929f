//! Every example is taken by Envoy's own `--mode validate`, and what is wrong with one is named by whoever finds it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::world::{SOON, config, way};
use support::*;

/// For the variables that the examples take the password, the token and keys from.
const ENV: [(&str, &str); 8] = [
    ("SLOTGATE_REDIS_PASSWORD", "of-the-test"),
    ("OPENAI_KEY_1", "of-the-test"),
    ("OPENAI_KEY_2", "of-the-test"),
    ("OPENAI_KEY_TRADITIONAL", "of-the-test"),
    ("ANTHROPIC_KEY_1", "of-the-test"),
    ("ANTHROPIC_KEY_2", "of-the-test"),
    ("ANTHROPIC_KEY_TRADITIONAL", "of-the-test"),
    ("SLOTGATE_CONSOLE_TOKEN", "a token of enough bytes"),
];
/// With files of the test's own where the example names some below `/etc/envoy`.
fn with_files(config: EnvoyConfig, replace: &[(&str, &Path)]) -> EnvoyConfig {
    config.edit(|document| {
        let mut text = document.to_string();
        for (from, to) in replace {
            assert!(text.contains(from), "the example names {from}");
            text = text.replace(from, to.to_str().expect("a path"));
        }
        *document = serde_json::from_str(&text).expect("JSON");
    })
}

#[test]
fn every_example_is_valid() {
    let dir = Dir::temporary();
    for name in ["client", "ca"] {
        let made = Certificate::make(&dir, name);
        assert!(made.certificate.exists());
    }
    let file = EnvoyConfig::from_file;
    let part = |path: &str| file("envoy/slotgate.yaml").redis_as(path);
    let secrets = root().join("envoy/secrets");
    let examples = [
        ("slotgate.yaml", file("envoy/slotgate.yaml")),
        ("console.yaml", file("envoy/slotgate.yaml").console(|_| {})),
        (
            "llm.yaml",
            file("envoy/llm.yaml")
                .console(|plugin| plugin["pools"] = json!(["openai", "anthropic"])),
        ),
        ("compose/envoy.yaml", file("envoy/compose/envoy.yaml")),
        ("clusters.yaml", file("envoy/clusters.yaml")),
        ("endpoints.yaml", file("envoy/endpoints.yaml")),
        (
            "sidecar.yaml",
            with_files(
                file("envoy/sidecar.yaml"),
                &[("/etc/envoy/secrets", &secrets)],
            ),
        ),
        (
            "redis/tls.yaml",
            with_files(
                part("envoy/redis/tls.yaml"),
                &[("/etc/envoy/redis", dir.path())],
            ),
        ),
        ("redis/sentinel.yaml", part("envoy/redis/sentinel.yaml")),
        ("redis/cluster.yaml", part("envoy/redis/cluster.yaml")),
        (
            "istio/filter.yaml",
            crate::istio::gateway("envoy/istio/filter.yaml", "stable"),
        ),
        (
            "istio/wasmplugin.yaml",
            crate::istio::gateway("envoy/istio/wasmplugin.yaml", "stable"),
        ),
    ];
    for (name, config) in &examples {
        if let Err(log) = Envoy::validate(config, &ENV) {
            panic!("{name}: {log}");
        }
    }
    // None is left out. What goes to others than Envoy is looked at elsewhere.
    let mut seen: BTreeSet<String> = examples
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    seen.extend(
        [
            "istio/pipe.yaml",
            "istio/gateway.yaml",
            "istio/routes.yaml",
            "istio/kustomization.yaml",
            "secrets/account_one.yaml",
            "secrets/account_two.yaml",
        ]
        .map(String::from),
    );
    let mut there = BTreeSet::new();
    yaml_files(&root().join("envoy"), "", &mut there);
    // What is for a cluster is put together and run by envoy_gateway.rs and istio.rs.
    let others = |name: &String| {
        // Parts of the others: tests/fragments.rs.
        name.starts_with("fragments/")
            || name.starts_with("kubernetes/")
            || name.starts_with("grafana/")
            || name.starts_with("prometheus")
            || ["docker-compose.yaml", "alerts.yaml", "tracing.yaml"].contains(&name.as_str())
    };
    there.retain(|name| !others(name));
    assert_eq!(there, seen);
}

fn yaml_files(dir: &Path, prefix: &str, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            yaml_files(&entry.path(), &format!("{name}/"), into);
        } else if name.ends_with(".yaml") {
            into.insert(name);
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let missing = config(&[("a", 1)]).wasm(Path::new("/nowhere/slotgate.wasm"));
    let log = Envoy::validate(&missing, &[]).expect_err("there is no such file");
    assert!(log.contains("/nowhere/slotgate.wasm"), "{log}");
    // Not a wasm at all.
    let text = config(&[("a", 1)]).wasm(Path::new("README.md"));
    let log = Envoy::validate(&text, &[]).expect_err("it is not a wasm");
    assert!(log.contains("Failed to load Wasm"), "{log}");
}

#[test]
fn a_variable_that_is_not_passed_on_is_named() {
    let unset = EnvoyConfig::from_file("envoy/compose/envoy.yaml");
    let log = Envoy::validate(&unset, &[]).expect_err("there is no password");
    let reason = "configuration: redis.password_env: ";
    assert!(
        log.contains(reason) && log.contains("SLOTGATE_REDIS_PASSWORD"),
        "{log}"
    );
}

/// The wasm comes by HTTP, with the sum that it must have.
#[test]
fn a_wrong_sum_is_named_and_traffic_goes_by_the_failure_policy() {
    let wasm = std::env::var_os("SLOTGATE_WASM").unwrap_or("target/slotgate.wasm".into());
    let wasm = root().join(wasm);
    let server = FileServer::start(std::fs::read(&wasm).expect("make wasm"));
    let sum = Command::new("sha256sum")
        .arg(&wasm)
        .output()
        .expect("sha256sum");
    let right = String::from_utf8_lossy(&sum.stdout[..64]).into_owned();
    let wrong = "0".repeat(64);
    let remote = |sum: &str, policy: &str| {
        let config = config(&[("a", 1)]).manager(|manager| {
            let config = &mut manager["http_filters"][0]["typed_config"]["config"];
            config["failure_policy"] = json!(policy);
            config["vm_config"]["code"] = json!({"remote": {
                "sha256": sum,
                "http_uri": {"uri": "http://files/slotgate.wasm", "cluster": "files", "timeout": "5s"},
                "retry_policy": {"num_retries": 0},
            }});
        });
        config
            .edit(|document| {
                let files = json!({"name": "files", "load_assignment": {"cluster_name": "files"}});
                let clusters = document["static_resources"]["clusters"].as_array_mut();
                clusters.expect("clusters").push(files);
            })
            .log_levels("warning", "config:debug,wasm:warning")
    };
    let cases = [
        (&right, "FAIL_CLOSED", 200, "atomic"),
        (&wrong, "FAIL_CLOSED", 503, ""),
        (&wrong, "FAIL_OPEN", 200, ""),
    ];
    for (sum, policy, status, path) in cases {
        let (redis, upstream) = (Redis::start(), Upstream::start());
        let config = remote(sum, policy)
            .redis(redis.addr())
            .upstream(upstream.addr())
            .cluster("files", server.addr());
        let envoy = Envoy::start(config);
        eventually(SOON, || {
            way(&envoy.client().get("/", &[])) == (status, path)
        });
        if *sum == wrong {
            // The second only at `--component-log-level config:debug`.
            for said in [
                "Plugin slotgate failed to load",
                "[uri = http://files/slotgate.wasm]: data is invalid",
            ] {
                assert!(envoy.log_contains(said), "{said}: {}", envoy.log());
            }
        }
    }
}

/// Every request goes the failure's way, and Envoy's stats say which cluster there is not.
#[test]
fn without_a_cluster_on_the_way_to_redis() {
    for name in ["slotgate_pipe", "redis"] {
        let (redis, upstream) = (Redis::start(), Upstream::start());
        let without = config(&[("a", 1)])
            .redis(redis.addr())
            .upstream(upstream.addr())
            .edit(|document| {
                let clusters = document["static_resources"]["clusters"].as_array_mut();
                clusters
                    .expect("clusters")
                    .retain(|cluster| cluster["name"] != name);
            });
        let envoy = Envoy::start(without);
        for _ in 0..5 {
            assert_eq!(way(&envoy.client().get("/", &[])), (200, "traditional"));
        }
        eventually(SOON, || envoy.log_contains("pipe to Redis is down"));
        let no_route = envoy.stat("tcp.slotgate_pipe.downstream_cx_no_route");
        match name {
            "redis" => assert!(no_route >= Some(1), "{no_route:?}"),
            _ => {
                let said = "Envoy opens no stream through cluster slotgate_pipe";
                assert!(envoy.log_contains(said), "{}", envoy.log());
                let unopened = || envoy.filter_stat("pipe.lost;reason=unopened");
                eventually(SOON, || unopened() >= Some(1));
            }
        }
    }
}
