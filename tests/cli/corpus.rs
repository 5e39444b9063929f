//! Set-ups that are broken by a small change of a shipped file, in `tests/cli/check/`: what `check` says of each, and what a
//! real Envoy says and does. `UPDATE=1` writes both anew, and the table in the folder's README; `SETUP=failover` starts an Envoy
//! for those named so only.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::{Ran, run};
use support::{Client, Dir, Envoy, EnvoyConfig, Redis, Request, Upstream, root};

/// How many set-ups there are.
const SETUPS: usize = 75;
/// Enough that each of three accounts is chosen.
const REQUESTS: u64 = 40;
/// The shipped file with failover. Half of the requests come to an account that refuses them.
const LLM: &str = "envoy/llm.yaml";

/// One file of the folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setup {
    #[serde(skip)]
    name: String,
    what: String,
    /// The shipped files, with a space between; the first is changed.
    of: String,
    change: Vec<Change>,
    /// How many streams are held at once, before the requests one after the other.
    #[serde(default)]
    held: usize,
    /// Envoy's workers, where it is not one.
    #[serde(default)]
    workers: Option<u32>,
    /// The lines of `check`.
    says: Vec<String>,
    /// What Envoy says and does.
    envoy: String,
}

/// One step of a change. Places are JSON pointers; of a file with several documents `[1]` before it says which.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Change {
    Remove { remove: String },
    Set { set: String, to: Value },
    Insert { insert: String, to: Value },
    Move { r#move: String, before: String },
    Rename { rename: String, name: String },
}

fn folder() -> PathBuf {
    root().join("tests/cli/check")
}

fn updates() -> bool {
    std::env::var_os("UPDATE").is_some()
}

fn setups() -> Vec<Setup> {
    let mut all: Vec<Setup> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let setup: Setup = serde_yaml_ng::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            Setup { name, ..setup }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(all.len(), SETUPS);
    all
}

/// The documents of a shipped file.
fn documents(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    serde_yaml_ng::Deserializer::from_str(&text)
        .map(|part| Value::deserialize(part).unwrap())
        .collect()
}

/// The last name of a pointer and what holds it.
fn holder<'v>(documents: &'v mut [Value], place: &str) -> (&'v mut Value, String) {
    let (which, pointer) = match place
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((number, pointer)) => (number.parse().unwrap(), pointer),
        None => (0, place),
    };
    let (before, last) = pointer.rsplit_once('/').unwrap();
    let value = documents[which]
        .pointer_mut(before)
        .unwrap_or_else(|| panic!("no {before}"));
    (value, last.to_owned())
}

fn take(documents: &mut [Value], place: &str) -> Value {
    let (holder, last) = holder(documents, place);
    match holder {
        Value::Array(values) => values.remove(last.parse().unwrap()),
        Value::Object(map) => map.remove(&last).unwrap_or_else(|| panic!("no {place}")),
        _ => panic!("{place}"),
    }
}

fn put(documents: &mut [Value], place: &str, value: Value, insert: bool) {
    // What is elsewhere in the file.
    let value = match value.get("copy").and_then(Value::as_str) {
        Some(from) => documents[0].pointer(from).unwrap().clone(),
        None => value,
    };
    let (holder, last) = holder(documents, place);
    match holder {
        Value::Array(values) if insert => values.insert(last.parse().unwrap(), value),
        Value::Array(values) => values[last.parse::<usize>().unwrap()] = value,
        Value::Object(map) => drop(map.insert(last, value)),
        _ => panic!("{place}"),
    }
}

fn apply(setup: &Setup, documents: &mut [Value]) {
    for change in &setup.change {
        match change {
            Change::Remove { remove } => drop(take(documents, remove)),
            Change::Set { set, to } => put(documents, set, to.clone(), false),
            Change::Insert { insert, to } => put(documents, insert, to.clone(), true),
            Change::Move { r#move, before } => {
                let value = take(documents, r#move);
                put(documents, before, value, true);
            }
            Change::Rename { rename, name } => {
                let value = take(documents, rename);
                let (holder, _) = holder(documents, rename);
                holder[name.as_str()] = value;
            }
        }
    }
}

/// What `check` says, with the changed file as FILE.
fn said(setup: &Setup) -> (Vec<String>, Ran) {
    let dir = Dir::temporary();
    let (changed, others) = match setup.of.split_once(' ') {
        Some((changed, others)) => (changed, others.split(' ').collect()),
        None => (setup.of.as_str(), Vec::new()),
    };
    let mut documents = documents(changed);
    apply(setup, &mut documents);
    let texts: Vec<String> = documents
        .iter()
        .map(|document| serde_yaml_ng::to_string(document).unwrap())
        .collect();
    let path = dir.join("changed.yaml");
    std::fs::write(&path, texts.join("---\n")).unwrap();
    let file = path.to_str().unwrap();
    let others: Vec<String> = others
        .into_iter()
        .map(|other: &str| root().join(other).to_str().unwrap().to_owned())
        .collect();
    let mut arguments = vec!["check", file];
    arguments.extend(others.iter().map(String::as_str));
    let ran = run(&arguments);
    assert_eq!(ran.err, "", "{}", setup.name);
    let lines = ran.out.lines().map(|line| {
        let line = line.replace(&format!("{file}: "), "");
        line.replace(&format!("{}/", root().display()), "")
    });
    // A plugin's own errors are indented, below a line with its path.
    let mut kept = Vec::new();
    let mut of_plugin = false;
    for line in lines {
        let own = line.starts_with("  ") && !line.starts_with("   ");
        of_plugin = match own {
            true => of_plugin,
            false => line.contains(" filter ") && line.contains(" error"),
        };
        let severities = ["error: ", "warning: ", "note: "];
        let finding = severities.iter().any(|severity| line.starts_with(severity));
        let error = of_plugin && own && !line.starts_with("  at ") && !line.starts_with("  try: ");
        if finding
            || severities
                .iter()
                .any(|severity| line.contains(&format!(": {severity}")))
        {
            kept.push(line);
        } else if error {
            kept.push(format!("error: {}", line.trim_start()));
        }
    }
    (kept, ran)
}

/// What `check` says of each is what the file says. An error is exit code 1; a warning is one with `--strict` only.
#[test]
fn check_names_what_is_broken() {
    for setup in setups() {
        let (lines, ran) = said(&setup);
        assert!(
            !lines.is_empty(),
            "{}: nothing is said: {}",
            setup.name,
            ran.out
        );
        let is_error = lines.iter().any(|line| line.contains("error: "));
        assert_eq!(ran.code, i32::from(is_error), "{}: {}", setup.name, ran.out);
        if updates() {
            write(&setup.name, |values| {
                values["says"] = serde_yaml_ng::to_value(&lines).unwrap();
            });
        } else {
            assert_eq!(lines, setup.says, "{}", setup.name);
        }
    }
}

/// The files that these are made of pass, also with `--strict`; what no set-up of slotgate is in is said to be so.
#[test]
fn every_shipped_file_passes() {
    let mut passed = BTreeSet::new();
    let mut stack = vec![root().join("envoy")];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let file = path.to_str().unwrap();
        let name = path
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let ran = run(&["check", "--strict", file]);
        let text = std::fs::read_to_string(&path).unwrap();
        // A role, not just a name: a cluster alone is no set-up.
        let roles = ["scheduler", "bridge", "upstream", "console"];
        if roles
            .iter()
            .any(|role| text.contains(&format!("role: {role}")))
        {
            ran.done();
            passed.insert(name);
        } else {
            let told = ran.failed(1);
            assert!(
                told.contains("without a slotgate filter")
                    || told.contains("has nothing of slotgate in it"),
                "{name}: {told}"
            );
        }
    }
    for name in [
        "envoy/slotgate.yaml",
        "envoy/clusters.yaml",
        "envoy/endpoints.yaml",
        "envoy/sidecar.yaml",
        "envoy/console.yaml",
        "envoy/compose/envoy.yaml",
        "envoy/istio/filter.yaml",
        "envoy/istio/pipe.yaml",
        "envoy/istio/wasmplugin.yaml",
    ] {
        assert!(passed.contains(name), "{name} of {passed:?}");
    }
}

/// Rewrites a set-up's file.
fn write(name: &str, change: impl FnOnce(&mut serde_yaml_ng::Value)) {
    let path = folder().join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut values: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    change(&mut values);
    // The change stays as it is written: a line for each step.
    let kept = text.split("\nsays:").next().unwrap();
    let rest = |field: &str| {
        let mut map = serde_yaml_ng::Mapping::new();
        map.insert(field.into(), values[field].clone());
        serde_yaml_ng::to_string(&map).unwrap()
    };
    std::fs::write(path, format!("{kept}\n{}{}", rest("says"), rest("envoy"))).unwrap();
}

/// What Envoy says to a set-up of slotgate.yaml, and what becomes of requests.
fn envoys(setup: &Setup, redis: &Redis) -> String {
    let (accounts, traditional) = (Upstream::start(), Upstream::start());
    let mut config = match setup.of.as_str() {
        "envoy/slotgate.yaml" => EnvoyConfig::from_example()
            .redis(redis.addr())
            .upstream(accounts.addr())
            .cluster("traditional", traditional.addr()),
        LLM => providers(redis, &accounts),
        _ => return "no bootstrap of its own".to_owned(),
    };
    let ask = match setup.of == LLM {
        true => refused_by_one,
        false => way,
    };
    let mut documents = [config.document.take()];
    apply(setup, &mut documents);
    let [document] = documents;
    config.document = document;
    config = config.built_wasm();
    // Of one that it is known to take, the start shows whether it still does.
    if (updates() || setup.envoy.starts_with("refuses: "))
        && let Err(log) = Envoy::validate(&config, &[])
    {
        return format!("refuses: {}", refusal(&log));
    }
    // Its address is that of a port that is another's here.
    if setup.name == "redis-is-the-admin" {
        return "takes it".to_owned();
    }
    let config = config.workers(setup.workers.unwrap_or(1));
    let envoy = Envoy::start(config.log_levels("warning", "wasm:info"));
    let client = envoy.client();
    // Long enough for a pipe to open, or to be given up.
    let first = ask(&client);
    std::thread::sleep(Duration::from_millis(1_300));
    let held = held(&client, setup.held);
    let mut ways = BTreeSet::new();
    // A machine that is busy with other things may be late for one of them.
    for _ in 0..3 {
        accounts.forget();
        traditional.forget();
        ways = (0..REQUESTS).map(|_| ask(&client)).collect();
        let both = ["200 with a slot", "200 without a slot"];
        if setup.workers.is_some() || !both.iter().all(|way| ways.contains(*way)) {
            break;
        }
    }
    // An account that refused the first request rests while the others are sent.
    if first.contains("with a slot") {
        ways.insert(first);
    }
    let ways: Vec<String> = ways.into_iter().collect();
    let mut text = held + &ways.join(" or ");
    let count = |upstream: &Upstream| upstream.snapshot().requests;
    let (with, without) = (count(&accounts), count(&traditional));
    if setup.of == LLM {
        // What is tried again is more than one.
    } else if with + without > REQUESTS {
        text.push_str(", two requests for one");
    } else if with == 0 && without > 0 && text.contains("with a slot") {
        text.push_str(", to the cluster for those without");
    }
    for line in warnings(&envoy.log()) {
        write!(text, "; \"{line}\"").unwrap();
    }
    text
}

/// `envoy/llm.yaml` with upstreams that say which account a request has, and rests that are over at once.
fn providers(redis: &Redis, accounts: &Upstream) -> EnvoyConfig {
    let mut config = EnvoyConfig::from_file(LLM)
        .redis(redis.addr())
        .upstream(accounts.addr())
        .host_env(|name| format!("of-{name}"))
        .plugin(|plugin| {
            plugin["response_headers"] = true.into();
            plugin["redis"]["acquire_timeout_ms"] = 20_000.into();
            plugin["cooldown"]["max_ms"] = 50.into();
        })
        .manager(|manager| {
            let host = &mut manager["route_config"]["virtual_hosts"][0];
            host["request_headers_to_remove"] = serde_json::json!(["x-provider"]);
        });
    for provider in ["openai", "anthropic"] {
        config = config.edit_cluster(provider, |cluster| {
            cluster.as_object_mut().unwrap().remove("transport_socket");
            let options = &mut cluster["typed_extension_protocol_options"];
            let options = &mut options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
            // It chooses the protocol by TLS.
            options.as_object_mut().unwrap().remove("auto_config");
            options["explicit_http_config"] = serde_json::json!({"http_protocol_options": {}});
        });
    }
    config
}

/// What becomes of a request that one of two accounts would refuse.
fn refused_by_one(client: &Client) -> String {
    std::thread::sleep(Duration::from_millis(60));
    let request = Request::get("/refuse?accounts=anthropic-1&status=429");
    let Ok(reply) = client.send(request.header("anthropic-version", "2023-06-01")) else {
        return "every connection breaks".to_owned();
    };
    let path = reply.headers.get("x-slotgate-path");
    way_of(reply.status, path.map(|path| path.to_str().unwrap()))
}

/// What becomes of streams that are held at once.
fn held(client: &Client, count: usize) -> String {
    let open = |_| client.open("/sse?events=100000", &[]);
    let streams: Vec<_> = (0..count).map(open).collect();
    let ways: Vec<String> = streams
        .iter()
        .map(|stream| {
            let path = stream.headers.get("x-slotgate-path");
            way_of(stream.status, path.map(|path| path.to_str().unwrap()))
        })
        .collect();
    let kinds: BTreeSet<&String> = ways.iter().collect();
    let counted: Vec<String> = kinds
        .into_iter()
        .map(|kind| {
            let count = ways.iter().filter(|way| *way == kind).count();
            format!("{count} × {kind}")
        })
        .collect();
    match count {
        0 => String::new(),
        _ => format!("held at once: {}; then ", counted.join(", ")),
    }
}

/// What becomes of a request.
fn way(client: &Client) -> String {
    let Ok(reply) = client.send(Request::get("/")) else {
        return "every connection breaks".to_owned();
    };
    let path = reply.headers.get("x-slotgate-path");
    way_of(reply.status, path.map(|path| path.to_str().unwrap()))
}

fn way_of(status: u16, path: Option<&str>) -> String {
    let path = match path {
        Some("atomic") => "with a slot",
        Some("traditional") => "without a slot",
        Some("rejected") => "by slotgate",
        Some(other) => panic!("{other}"),
        None => "untouched by slotgate",
    };
    format!("{status} {path}")
}

/// What an operator reads of slotgate in the log, once each, with ports masked.
fn warnings(log: &str) -> BTreeSet<String> {
    log.lines()
        .filter(|line| line.contains("[warning][wasm]") || line.contains("[error][wasm]"))
        .filter_map(|line| {
            let said = ["pipe to Redis ", "bridge: "]
                .into_iter()
                .find_map(|begin| {
                    let at = line.rfind(begin)?;
                    Some(line[at..].trim().to_owned())
                })?;
            Some(masked(&said))
        })
        .collect()
}

/// `127.0.0.1:4711` → `127.0.0.1:PORT`
fn masked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("127.0.0.1:") {
        let (before, after) = rest.split_at(at + "127.0.0.1:".len());
        out.push_str(before);
        out.push_str("PORT");
        rest = after.trim_start_matches(|char: char| char.is_ascii_digit());
    }
    out + rest
}

/// Why Envoy does not start: the filter's own words where it is the filter, else Envoy's.
fn refusal(log: &str) -> String {
    let own = log
        .lines()
        .find_map(|line| Some(line.split_once(" configuration: ")?.1.to_owned()));
    let envoys = || {
        let (_, text) = log.split_once("error initializing configuration '")?;
        Some(text.split_once("': ")?.1.lines().next()?.to_owned())
    };
    own.or_else(envoys).unwrap_or_else(|| panic!("{log}"))
}

/// What Envoy says and does is what the files say. A quarter of them each, side by side: most of the time they wait.
mod envoy_says_and_does_what_is_written {
    use super::*;

    /// One in how many files a test is for.
    const PARTS: usize = 4;

    fn part(first: usize) {
        let redis = Redis::start();
        for setup in setups().iter().skip(first).step_by(PARTS) {
            let only = std::env::var("SETUP").unwrap_or_default();
            if !setup.name.contains(&only) {
                continue;
            }
            let _: String = redis.run("FLUSHALL", &[]);
            let does = envoys(setup, &redis);
            if updates() {
                write(&setup.name, |values| values["envoy"] = does.into());
            } else {
                assert_eq!(does, setup.envoy, "{}", setup.name);
            }
        }
    }

    #[test]
    fn first() {
        part(0);
    }

    #[test]
    fn second() {
        part(1);
    }

    #[test]
    fn third() {
        part(2);
    }

    #[test]
    fn fourth() {
        part(PARTS - 1);
    }
}

/// The table in the folder's README is made of the files.
#[test]
fn the_table_is_the_corpus() {
    let path = folder().join("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, _) = text.split_once("| set-up |").unwrap();
    let mut table = "| set-up | `slotgate check` | Envoy 1.40.0 |\n|---|---|---|\n".to_owned();
    let cell = |text: &str| text.replace('|', "\\|");
    for setup in setups() {
        let says: Vec<String> = setup.says.iter().map(|line| short(line)).collect();
        writeln!(
            table,
            "| {} ([{}]({}.yaml)) | {} | {} |",
            cell(&setup.what),
            setup.name,
            setup.name,
            cell(&says.join("<br>")),
            cell(&setup.envoy)
        )
        .unwrap();
    }
    let wanted = format!("{before}{table}");
    if updates() {
        std::fs::write(path, wanted).unwrap();
    } else {
        assert_eq!(text, wanted);
    }
}

/// A message whose path is cut to its last names.
fn short(line: &str) -> String {
    let Some((severity, rest)) = line.split_once(": ") else {
        return line.to_owned();
    };
    let (severity, rest) = match severity {
        "error" | "warning" | "note" => (severity.to_owned(), rest),
        // A file's name before it.
        file => match rest.split_once(": ") {
            Some((severity, rest)) => (format!("{file}: {severity}"), rest),
            None => return line.to_owned(),
        },
    };
    match rest.split_once(": ") {
        Some((path, problem)) if !path.contains(' ') => {
            let names: Vec<&str> = path.split('.').collect();
            let from = names.len().saturating_sub(2);
            format!("{severity}: …{}: {problem}", names[from..].join("."))
        }
        _ => format!("{severity}: {rest}"),
    }
}

/// A configuration of Envoy in a ConfigMap, and a second document beside it.
#[test]
fn a_text_in_a_config_map_is_read() {
    let dir = Dir::temporary();
    let path = dir.join("map.yaml");
    let file = path.to_str().unwrap();
    let example = std::fs::read_to_string(root().join("envoy/slotgate.yaml")).unwrap();
    let map = |text: &str| {
        let indented: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
        let map = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n---\napiVersion: v1\nkind: ConfigMap\n\
             metadata: {{name: envoy}}\ndata:\n  envoy.yaml: |\n{}\n",
            indented.join("\n")
        );
        std::fs::write(&path, map).unwrap();
        run(&["check", "--strict", file])
    };
    assert_eq!(
        map(&example).done(),
        format!(
            "{file}: http filter \"slotgate\", role scheduler: OK\n{file}: network filter \"slotgate_bridge\", role bridge: OK\n"
        )
    );
    let broken = example.replace("      - name: slotgate_bridge\n", "      - name: bridge\n");
    map(&broken).done();
    let broken = example.replace("cluster: redis\n", "cluster: reddis\n");
    let ran = map(&broken);
    assert_eq!(ran.code, 1);
    let at = "[1].data.envoy.yaml.static_resources.listeners[1].filter_chains[0].filters[1].typed_config.cluster";
    assert!(
        ran.out
            .contains(&format!("{file}: error: {at}: there is no cluster reddis")),
        "{}",
        ran.out
    );
}

/// Several files are one answer; what is missing in one is looked for in the others.
#[test]
fn several_files_together() {
    let file = |name: &str| root().join(name).to_str().unwrap().to_owned();
    let (filter, pipe) = (
        file("envoy/istio/filter.yaml"),
        file("envoy/istio/pipe.yaml"),
    );
    let alone = run(&["check", &filter]).done();
    assert!(
        alone.contains("not here, so not checked: cluster slotgate_pipe"),
        "{alone}"
    );
    let both = run(&["check", &filter, &pipe]).done();
    assert!(!both.contains("cluster slotgate_pipe"), "{both}");
    let answer = run(&["check", &filter, &pipe, "--json"]).done();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["files"][1]["file"], Value::from(pipe));
    let stray = run(&["check", &filter, &file("envoy/alerts.yaml")]).failed(1);
    assert!(
        stray.contains("alerts.yaml has nothing of slotgate in it"),
        "{stray}"
    );
}

/// A warning is an error for those who ask for it.
#[test]
fn strict() {
    let dir = Dir::temporary();
    let path = dir.join("envoy.yaml");
    let file = path.to_str().unwrap();
    let example = std::fs::read_to_string(root().join("envoy/slotgate.yaml")).unwrap();
    let without = example.replace("          stream_idle_timeout: 0s\n", "");
    assert_ne!(without, example);
    std::fs::write(&path, without).unwrap();
    run(&["check", file]).done();
    let ran = run(&["check", "--strict", file, "--json"]);
    let answer: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &answer["ok"]), (1, &Value::from(false)));
}

/// What is missing is shown as lines that can be pasted: with them the set-up is whole.
#[test]
fn the_lines_to_add_mend_it() {
    for (name, under) in [
        ("pipe-cluster-forgotten", "/static_resources/clusters"),
        ("redis-cluster-forgotten", "/static_resources/clusters"),
        ("listener-forgotten", "/static_resources/listeners"),
        ("extension-forgotten", "/bootstrap_extensions"),
        (
            "bridge-forgotten",
            "/static_resources/listeners/1/filter_chains/0/filters",
        ),
    ] {
        let setup = setups()
            .into_iter()
            .find(|setup| setup.name == name)
            .unwrap();
        let mut documents = documents(&setup.of);
        apply(&setup, &mut documents);
        let dir = Dir::temporary();
        let path = dir.join("envoy.yaml");
        let file = path.to_str().unwrap();
        let write = |document: &Value| {
            std::fs::write(&path, serde_yaml_ng::to_string(document).unwrap()).unwrap();
        };
        write(&documents[0]);
        let ran = run(&["check", file, "--json"]);
        let answer: Value = serde_json::from_str(&ran.out).unwrap();
        let lines = answer["errors"][0]["add"]["lines"].as_str().unwrap();
        let added: Value = serde_yaml_ng::from_str(lines).unwrap();
        if documents[0].pointer(under).is_none() {
            documents[0]["bootstrap_extensions"] = Value::Array(Vec::new());
        }
        let place = documents[0]
            .pointer_mut(under)
            .unwrap()
            .as_array_mut()
            .unwrap();
        for (at, element) in added.as_array().unwrap().iter().enumerate() {
            place.insert(at, element.clone());
        }
        write(&documents[0]);
        run(&["check", "--strict", file]).done();
    }
}

/// The same of failover's parts: filters of a cluster, and fields.
#[test]
fn the_lines_to_add_mend_failover() {
    let options = "/static_resources/clusters/3/typed_extension_protocol_options\
                   /envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let route = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config\
                 /virtual_hosts/0/routes/1/route";
    for (name, under) in [
        ("failover-filter-forgotten", options),
        ("failover-no-retry-policy", route),
        ("failover-another-mark", route),
        ("failover-few-at-once", "/static_resources/clusters/3"),
    ] {
        let setup = setups().into_iter().find(|setup| setup.name == name);
        let setup = setup.unwrap();
        let mut documents = documents(&setup.of);
        apply(&setup, &mut documents);
        let dir = Dir::temporary();
        let path = dir.join("envoy.yaml");
        let file = path.to_str().unwrap();
        std::fs::write(&path, documents[0].to_string()).unwrap();
        let ran = run(&["check", file, "--json"]).done();
        let answer: Value = serde_json::from_str(&ran).unwrap();
        let lines = answer["warnings"][0]["add"]["lines"].as_str().unwrap();
        let place = documents[0].pointer_mut(under).unwrap();
        match serde_yaml_ng::from_str(lines).unwrap() {
            Value::Object(fields) => place.as_object_mut().unwrap().extend(fields),
            filters => place["http_filters"] = filters,
        }
        std::fs::write(&path, documents[0].to_string()).unwrap();
        let told = run(&["check", "--strict", file]).done();
        assert!(!told.contains("note:"), "{told}");
    }
}

/// What is read of the body must be read before slotgate asks for it.
#[test]
fn metadata_that_comes_too_late() {
    let dir = Dir::temporary();
    let path = dir.join("envoy.json");
    let file = path.to_str().unwrap();
    let warned = |place: usize| {
        let config = EnvoyConfig::from_example()
            .plugin(|plugin| {
                plugin["gray"]["session"] = serde_json::json!([{"property": "metadata.filter_metadata.llm.user"}]);
            })
            .manager(|manager| {
                let filter = serde_json::json!({
                    "name": "envoy.filters.http.json_to_metadata",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata"},
                });
                manager["http_filters"].as_array_mut().unwrap().insert(place, filter);
            });
        std::fs::write(&path, config.document.to_string()).unwrap();
        let answer: Value = serde_json::from_str(&run(&["check", file, "--json"]).out).unwrap();
        answer["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|warning| warning["problem"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(warned(0), [""; 0]);
    let late = warned(1);
    assert!(late[0].contains("move it before slotgate"), "{late:?}");
    assert_eq!(late.len(), 1);
}

/// What is not plain: no error where there is none.
#[test]
fn other_ways_that_are_right() {
    let dir = Dir::temporary();
    let path = dir.join("envoy.json");
    let file = path.to_str().unwrap();
    let strict = |config: EnvoyConfig| {
        std::fs::write(&path, config.document.to_string()).unwrap();
        run(&["check", "--strict", file]).done()
    };
    // Redis by a socket of the file system.
    strict(
        EnvoyConfig::from_example().edit_cluster("redis", |cluster| {
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] =
                serde_json::json!({"pipe": {"path": "/run/redis.sock"}});
        }),
    );
    // The other chain of a listener, and names in the other case.
    strict(EnvoyConfig::from_example().edit(|document| {
        let listener = document["static_resources"]["listeners"][1]
            .as_object_mut()
            .unwrap();
        let mut chains = listener.remove("filter_chains").unwrap();
        listener.insert("default_filter_chain".to_owned(), chains[0].take());
        let internal = listener.remove("internal_listener").unwrap();
        listener.insert("internalListener".to_owned(), internal);
    }));
    // Somebody else's routes beside the accounts'.
    strict(EnvoyConfig::from_example().manager(|manager| {
        let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap();
        routes.insert(0, serde_json::json!({"match": {"prefix": "/theirs"}, "route": {"cluster_header": "x-theirs", "timeout": "0s"}}));
    }));
    // Clusters that come by discovery are not missing; that they were not looked at is said.
    let text = strict(EnvoyConfig::from_example().edit(|document| {
        document["dynamic_resources"] = serde_json::json!({"cds_config": {"ads": {}}});
        document["static_resources"]
            .as_object_mut()
            .unwrap()
            .remove("clusters");
    }));
    assert!(
        text.contains("not here, so not checked: cluster slotgate_pipe"),
        "{text}"
    );
    // Envoy Gateway's way to the same filter.
    let policy = serde_json::json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyExtensionPolicy",
        "metadata": {"name": "x"},
        "spec": {"wasm": [{"name": "slotgate", "env": {"hostKeys": ["K"]}, "config": {
            "role": "scheduler",
            "pools": [{"name": "p", "accounts": [{"id": "a", "max_concurrency": 0, "set_headers": {"x-key": "${K}"}}]}],
        }}]},
    });
    std::fs::write(&path, policy.to_string()).unwrap();
    let ran = run(&["check", file]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out.contains(
            "at spec.wasm[0].config\n  pools[0].accounts[0].max_concurrency: 0 is not in"
        ),
        "{}",
        ran.out
    );
}

/// Which accounts lead to a cluster, and which of its bounds count.
#[test]
fn bounds_of_clusters() {
    let dir = Dir::temporary();
    let path = dir.join("envoy.json");
    let file = path.to_str().unwrap();
    let warned = |config: EnvoyConfig| {
        std::fs::write(&path, config.document.to_string()).unwrap();
        let answer: Value = serde_json::from_str(&run(&["check", file, "--json"]).out).unwrap();
        let warnings = answer["warnings"].as_array().unwrap().iter();
        let lines = warnings.map(|warning| {
            let text = warning["text"].as_str().unwrap();
            let add = warning["add"]["lines"].as_str().unwrap().to_owned();
            (text.split(": requests").next().unwrap().to_owned(), add)
        });
        lines.collect::<Vec<_>>()
    };
    // 2005 slots, of them 2000 of acct-3.
    let many = || {
        EnvoyConfig::from_example().plugin(|plugin| {
            let accounts = plugin["pools"][0]["accounts"].as_array_mut().unwrap();
            accounts.remove(1);
            accounts[1]["max_concurrency"] = 2000.into();
        })
    };
    let told = warned(many());
    let at = "static_resources.clusters[4].circuit_breakers: the accounts that lead here have";
    let all = "Envoy's own bound is 1024 (max_connections, max_pending_requests, max_requests)";
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, format!("{at} 2000 slots, and {all}"));
    // The lines that are shown are enough.
    let mended: Value = serde_yaml_ng::from_str(&told[0].1).unwrap();
    let breakers = &mended["circuit_breakers"];
    let with = |breakers: &Value| {
        many().edit_cluster("acct_3", |cluster| {
            cluster["circuit_breakers"] = breakers.clone();
        })
    };
    assert_eq!(warned(with(breakers)), []);
    // Those of another priority are not.
    let mut other = breakers.clone();
    other["thresholds"][0]["priority"] = "HIGH".into();
    assert_eq!(warned(with(&other)).len(), 1);
    // Over HTTP/2 one connection has many requests.
    let mut without = breakers.clone();
    let threshold = without["thresholds"][0].as_object_mut().unwrap();
    threshold.remove("max_connections");
    assert_eq!(warned(with(&without)).len(), 1);
    let http2 = with(&without).edit_cluster("acct_3", |cluster| {
        cluster["typed_extension_protocol_options"] = serde_json::json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    });
    assert_eq!(warned(http2), []);
    // By slotgate's own header, and those that are left by a route for all.
    let routed = |header: Value| {
        many().manager(|manager| {
            let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
            *routes = serde_json::json!([
                {"match": {"prefix": "/", "headers": [header]}, "route": {"cluster": "acct_1", "timeout": "0s"}},
                {"match": {"prefix": "/"}, "route": {"cluster": "acct_2", "timeout": "0s"}},
            ]);
        })
    };
    let at = |place: usize| {
        format!(
            "static_resources.clusters[{place}].circuit_breakers: the accounts that lead here have"
        )
    };
    let exact = |name: &str| serde_json::json!({"name": "x-slotgate-account", "string_match": {"exact": name}});
    let told = warned(routed(exact("acct-3")));
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, format!("{} 2000 slots, and {all}", at(2)));
    let told = warned(routed(exact("acct-1")));
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, format!("{} 2000 slots, and {all}", at(3)));
    // A client's header may lead all of them to either.
    let told = warned(routed(
        serde_json::json!({"name": "x-mine", "present_match": true}),
    ));
    let texts: Vec<&str> = told.iter().map(|(text, _)| text.as_str()).collect();
    let both = [2, 3].map(|place| format!("{} 2005 slots, and {all}", at(place)));
    assert_eq!(texts, both);
}
