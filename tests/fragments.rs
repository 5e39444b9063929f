//! `envoy/fragments/` holds each piece of a configuration once. The files that are shipped contain these pieces and no others
//! of their kind, but for what is listed here as to be set.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// A kind of piece: its file, how it is recognised, and what an operator sets in it, as JSON pointers; `*` is every element.
struct Kind {
    file: &'static str,
    is: fn(&Value) -> bool,
    set: &'static [&'static str],
}

const KINDS: [Kind; 13] = [
    Kind {
        file: "internal_listener",
        is: |value| typed(value, ".bootstrap.internal_listener.v3.InternalListener"),
        set: &[],
    },
    Kind {
        file: "stats",
        is: |value| value.get("stats_tags").is_some(),
        set: &[],
    },
    Kind {
        file: "header_mutation",
        is: |value| {
            typed(
                value,
                ".early_header_mutation.header_mutation.v3.HeaderMutation",
            )
        },
        set: &["/typed_config/mutations"],
    },
    Kind {
        file: "filter",
        is: |value| role(value) == Some("scheduler"),
        set: &[
            "/typed_config/config/name",
            "/typed_config/config/root_id",
            WASM,
            "/typed_config/config/vm_config/environment_variables",
            "/typed_config/config/configuration/value",
            "/typed_config/config/capability_restriction_config",
        ],
    },
    Kind {
        file: "bridge",
        is: |value| value.get("internal_listener").is_some() && !named(value, "slotgate_accounts"),
        set: &[
            "/filter_chains/0/filters/0/typed_config/config/vm_config/code/local/filename",
            "/filter_chains/0/filters/0/typed_config/config/capability_restriction_config",
            "/filter_chains/0/filters/1/typed_config/cluster",
        ],
    },
    Kind {
        file: "pipe",
        is: |value| named(value, "slotgate_pipe") && value.get("upstream_config").is_some(),
        set: &[],
    },
    Kind {
        file: "redis",
        is: |value| named(value, "redis") && value.get("load_assignment").is_some(),
        set: &[
            "/type",
            "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address",
        ],
    },
    Kind {
        file: "access_log",
        is: |value| typed(value, ".access_loggers.stream.v3.StdoutAccessLog"),
        // Words that are not slotgate's, from filters that only one file has, and of what only one file does.
        set: &[
            "/typed_config/log_format/json_format/model",
            "/typed_config/log_format/json_format/tries",
        ],
    },
    Kind {
        file: "upstream",
        is: |value| role(value) == Some("upstream"),
        set: &[WASM, "/typed_config/config/vm_config/environment_variables"],
    },
    Kind {
        file: "retry_policy",
        is: |value| value.get("retriable_headers").is_some(),
        set: &["/num_retries"],
    },
    Kind {
        file: "accounts_listener",
        is: |value| value.get("internal_listener").is_some() && named(value, "slotgate_accounts"),
        set: &[],
    },
    Kind {
        file: "accounts_cluster",
        is: |value| named(value, "slotgate_accounts") && value.get("load_assignment").is_some(),
        set: &[
            "/circuit_breakers/thresholds",
            HALFS_WASM,
            "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters/0/typed_config/config/vm_config/environment_variables",
        ],
    },
    Kind {
        file: "../console",
        is: |value| {
            let filters = value.pointer("/filter_chains/0/filters/0/typed_config/http_filters");
            filters.and_then(|filters| role(filters.get(0)?)) == Some("console")
        },
        set: &[
            "/address/socket_address",
            CONSOLE_WASM,
            "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/vm_config/environment_variables",
            "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/configuration/value",
        ],
    },
];

const WASM: &str = "/typed_config/config/vm_config/code/local/filename";
const HALFS_WASM: &str = "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters/0/typed_config/config/vm_config/code/local/filename";
const CONSOLE_WASM: &str = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/vm_config/code/local/filename";

/// Without one of these a whole configuration would give no slot, or no readable metrics.
const NEEDED: [&str; 6] = [
    "internal_listener",
    "stats",
    "filter",
    "bridge",
    "pipe",
    "redis",
];

/// Ways to Redis that are other clusters in the place of the fragment's.
const OTHER_REDIS: &str = "redis/";

fn typed(value: &Value, end: &str) -> bool {
    let kind = value.pointer("/typed_config/@type").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.ends_with(end))
}

fn named(value: &Value, name: &str) -> bool {
    value.get("name").and_then(Value::as_str) == Some(name)
}

/// An HTTP wasm filter's role.
fn role(value: &Value) -> Option<&str> {
    if !typed(value, ".filters.http.wasm.v3.Wasm") {
        return None;
    }
    let role = value.pointer("/typed_config/config/configuration/value/role");
    role?.as_str()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents of a file.
fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let documents = serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize);
    documents
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, into);
        } else if path.extension().is_some_and(|end| end == "yaml") {
            into.push(path);
        }
    }
}

/// The piece of a kind as its fragment has it.
fn fragment(kind: &Kind) -> Value {
    let path = root().join(format!("envoy/fragments/{}.yaml", kind.file));
    let mut documents = documents(&path);
    assert_eq!(documents.len(), 1, "{}", path.display());
    let piece = match documents.remove(0) {
        Value::Array(mut items) => {
            assert_eq!(items.len(), 1, "{}", path.display());
            items.remove(0)
        }
        piece => piece,
    };
    assert!((kind.is)(&piece), "{} is of another kind", path.display());
    piece
}

/// Without what is set.
fn bare(kind: &Kind, mut piece: Value) -> Value {
    for pointer in kind.set {
        let (around, name) = pointer.rsplit_once('/').unwrap();
        if let Some(Value::Object(around)) = piece.pointer_mut(around) {
            around.remove(name);
        }
    }
    piece
}

/// Every piece in a value, by its kind's file.
fn pieces<'v>(value: &'v Value, found: &mut Vec<(usize, &'v Value)>) {
    let kinds = KINDS
        .iter()
        .enumerate()
        .filter(|(_, kind)| (kind.is)(value));
    found.extend(kinds.map(|(index, _)| (index, value)));
    match value {
        Value::Array(values) => values.iter().for_each(|value| pieces(value, found)),
        Value::Object(map) => map.values().for_each(|value| pieces(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Where two values differ.
fn difference(one: &Value, other: &Value, at: &str) -> Option<String> {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            names.iter().find_map(|name| {
                let (a, b) = (a.get(*name), b.get(*name));
                let at = format!("{at}/{name}");
                difference(a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null), &at)
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut all = a.iter().zip(b).enumerate();
            all.find_map(|(index, (a, b))| difference(a, b, &format!("{at}/{index}")))
        }
        _ => (one != other).then(|| format!("{at}: {one} in the file, {other} in the fragment")),
    }
}

#[test]
fn the_files_that_are_shipped_are_made_of_the_fragments() {
    let fragments: Vec<Value> = KINDS
        .iter()
        .map(|kind| bare(kind, fragment(kind)))
        .collect();
    let (mut files, mut wrong) = (vec![], vec![]);
    yaml_files(&root().join("envoy"), &mut files);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for file in &files {
        let name = file.strip_prefix(root().join("envoy")).unwrap();
        let name = name.to_str().unwrap();
        if name.starts_with("fragments/") {
            continue;
        }
        for document in documents(file) {
            let mut found = vec![];
            pieces(&document, &mut found);
            found.retain(|(index, _)| {
                KINDS[*index].file != "redis" || !name.starts_with(OTHER_REDIS)
            });
            for (index, piece) in &found {
                let kind = &KINDS[*index];
                *counts.entry(kind.file).or_default() += 1;
                let piece = bare(kind, (*piece).clone());
                if let Some(where_it_differs) = difference(&piece, &fragments[*index], "") {
                    wrong.push(format!("envoy/{name}: {}: {where_it_differs}", kind.file));
                }
            }
            let takes_slots = found
                .iter()
                .any(|(index, _)| KINDS[*index].file == "filter");
            if takes_slots && document.get("static_resources").is_some() {
                let there: Vec<&str> = found.iter().map(|(index, _)| KINDS[*index].file).collect();
                let missing = NEEDED.iter().filter(|needed| !there.contains(needed));
                wrong.extend(missing.map(|needed| format!("envoy/{name}: no {needed}")));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    // slotgate.yaml, sidecar.yaml, and those for compose and Istio at least.
    for kind in &KINDS {
        let least = match kind.file {
            "../console" | "accounts_listener" | "accounts_cluster" => 1,
            "access_log" | "upstream" | "retry_policy" => 2,
            _ => 3,
        };
        let count = counts.get(kind.file).copied().unwrap_or_default();
        assert!(count >= least, "{}: only {count} in the files", kind.file);
    }
}

/// Where a request may be tried with several accounts, the access log says with how many.
#[test]
fn with_failover_the_access_log_has_the_tries() {
    fn attempts(value: &Value) -> Option<u64> {
        let own = value
            .pointer("/failover/max_attempts")
            .and_then(Value::as_u64);
        own.or_else(|| match value {
            Value::Array(values) => values.iter().find_map(attempts),
            Value::Object(map) => map.values().find_map(attempts),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        })
    }
    let (mut files, mut seen) = (vec![], 0);
    yaml_files(&root().join("envoy"), &mut files);
    let access_log = KINDS.iter().position(|kind| kind.file == "access_log");
    for file in &files {
        for document in documents(file) {
            let mut found = vec![];
            pieces(&document, &mut found);
            found.retain(|(index, _)| Some(*index) == access_log);
            let tries = found.iter().filter_map(|(_, piece)| {
                piece.pointer("/typed_config/log_format/json_format/tries")
            });
            let tries: Vec<&Value> = tries.collect();
            let is_on = attempts(&document).is_some_and(|attempts| attempts > 1);
            let expected = match is_on && !found.is_empty() {
                true => vec!["%FILTER_STATE(wasm.slotgate.tries:PLAIN)%"],
                false => vec![],
            };
            seen += expected.len();
            assert_eq!(tries, expected, "{}", file.display());
        }
    }
    assert!(seen >= 2, "{seen}");
}

/// What is missing from a fragment is not made up for by the list of what is set.
#[test]
fn what_is_set_is_in_the_fragment_or_added_to_it() {
    const ADDED: [&str; 5] = [
        "environment_variables",
        "capability_restriction_config",
        "type",
        "model",
        "tries",
    ];
    for kind in &KINDS {
        let piece = fragment(kind);
        for pointer in kind.set {
            let name = pointer.rsplit('/').next().unwrap();
            let there = piece.pointer(pointer).is_some() || ADDED.contains(&name);
            assert!(there, "{}: there is no {pointer}", kind.file);
        }
    }
}

/// Every file of the folder is one of the kinds.
#[test]
fn every_fragment_is_looked_at() {
    let mut files = vec![];
    yaml_files(&root().join("envoy/fragments"), &mut files);
    let names: BTreeSet<String> = files
        .iter()
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let known: BTreeSet<String> = KINDS
        .iter()
        .filter(|kind| !kind.file.starts_with(".."))
        .map(|kind| kind.file.to_owned())
        .collect();
    assert_eq!(names, known);
}
