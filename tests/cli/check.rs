//! `check`: what it says of a file is what the filter says of it.

use crate::{Ran, finish, program, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Dir, EnvoyConfig, root};

/// What the files of tests/config name.
const VARIABLES: [(&str, &str); 8] = [
    ("REDIS_PASSWORD", "5ecret-password"),
    ("GRAY_TOKEN", "5ecret-token"),
    ("API_KEY", "5ecret-key"),
    ("API_KEY_16", "5ecret-of-16-bytes"),
    ("REGION", "5ecret-region"),
    ("PORT", "443"),
    ("TWO_LINES", "5ecret\nand more"),
    ("EMPTY", ""),
];

fn check_with(variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut command = program();
    for (name, _) in VARIABLES {
        command.env_remove(name);
    }
    command
        .envs(variables.iter().copied())
        .arg("check")
        .args(arguments);
    let ran = finish(command, "");
    assert!(
        !format!("{ran:?}").contains("5ecret"),
        "a secret shows: {ran:?}"
    );
    ran
}

/// A file beside nothing else.
struct Scratch(Dir);

impl Scratch {
    fn new() -> Self {
        Self(Dir::temporary())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("tests/config").join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn every_bad_configuration_is_refused_with_every_error() {
    for path in files("bad") {
        let wanted = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        let file = path.to_str().unwrap();
        // Text that isn't JSON may be YAML by any other name.
        if wanted.starts_with("not JSON") {
            let told = check_with(&VARIABLES, &[file]).failed(1);
            assert!(
                told.starts_with(&format!("error: {file} is not JSON: ")),
                "{told}"
            );
            continue;
        }
        let ran = check_with(&VARIABLES, &["--require-env", file]);
        assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{file}");
        let told: Vec<&str> = ran
            .out
            .lines()
            .skip(1)
            .map(|line| line.trim_start_matches("  "))
            .collect();
        assert_eq!(told, wanted.lines().collect::<Vec<_>>(), "{file}");
        let json = check_with(&VARIABLES, &["--require-env", "--json", file]);
        let json: Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(json["ok"], false);
        let texts: Vec<&str> = json["plugins"][0]["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["text"].as_str().unwrap())
            .collect();
        assert_eq!(texts, told);
    }
}

/// Also where a name looks like the end of a path.
#[test]
fn json_has_path_and_problem_of_each_error() {
    let scratch = Scratch::new();
    let errors = |text: &str| {
        let file = scratch.file("wrong.json", text);
        let ran = check_with(&VARIABLES, &["--json", &file]);
        let json: Value = serde_json::from_str(&ran.out).unwrap();
        json["plugins"][0]["errors"].clone()
    };
    let problem = "is not a field of role bridge";
    assert_eq!(
        errors(r#"{"role": "bridge", "a: b": 1}"#),
        json!([{"path": "a: b", "problem": problem, "text": format!("a: b: {problem}")}])
    );
    let broken = wasm(
        "http",
        json!({"name": "slotgate", "configuration": string_value("{")}),
    );
    let found = errors(&json!({"resources": [&broken]}).to_string());
    assert_eq!(found[0]["path"], "");
    assert_eq!(found[0]["problem"], found[0]["text"]);
}

#[test]
fn every_good_configuration_is_taken_as_json_and_as_yaml() {
    let scratch = Scratch::new();
    for path in files("good") {
        let file = path.to_str().unwrap();
        check_with(&VARIABLES, &["--require-env", file]).done();
        let document: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let yaml = scratch.file("good.yaml", &serde_yaml_ng::to_string(&document).unwrap());
        let out = check_with(&VARIABLES, &["--require-env", &yaml]).done();
        let role = document["role"].as_str().unwrap();
        assert_eq!(out, format!("{yaml}, role {role}: OK\n"));
    }
}

#[test]
fn variables_that_are_not_set_here() {
    let file = "tests/config/good/full.json";
    assert_eq!(
        check_with(&[("PORT", "443")], &[file]).done(),
        format!(
            "{file}, role scheduler: OK\n  not set here, so not checked: API_KEY, GRAY_TOKEN, REDIS_PASSWORD, REGION\n"
        )
    );
    let ran = check_with(&[("PORT", "443")], &["--require-env", file]);
    assert_eq!(ran.code, 1);
    for name in ["API_KEY", "GRAY_TOKEN", "REDIS_PASSWORD", "REGION"] {
        assert!(
            ran.out
                .contains(&format!("variable {name} is not set or empty\n")),
            "{}",
            ran.out
        );
    }
    assert!(!ran.out.contains("PORT"), "{}", ran.out);
}

#[test]
fn the_example_is_good() {
    let file = "envoy/slotgate.yaml";
    assert_eq!(
        run(&["check", file]).done(),
        format!(
            "{file}: http filter \"slotgate\", role scheduler: OK\n\
            {file}: network filter \"slotgate_bridge\", role bridge: OK\n"
        )
    );
    let out = run(&["check", file, "--json"]).done();
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (
            &answer["ok"],
            &answer["file"],
            answer["plugins"].as_array().unwrap().len()
        ),
        (&json!(true), &json!(file), 2)
    );
    assert_eq!(
        answer["plugins"][1],
        json!({
            "filter": "network",
            "name": "slotgate_bridge",
            "at": "static_resources.listeners[1].filter_chains[0].filters[0].typed_config.config.configuration",
            "role": "bridge",
            "errors": [], "hints": [], "unset_variables": [],
        })
    );
    // From standard input, too.
    let mut command = program();
    command.args(["check", "-"]);
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    assert!(
        finish(command, &text)
            .done()
            .starts_with("-: http filter \"slotgate\", role scheduler: OK\n")
    );
}

/// The errors a real Envoy logs when it is to use this file.
fn envoys_errors(file: &Path) -> Vec<String> {
    let envoy = std::env::var_os("ENVOY").map_or_else(|| root().join(".venv/envoy"), PathBuf::from);
    let output = Command::new(envoy)
        .args(["--mode", "validate", "-l", "error", "-c"])
        .arg(file)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<String> = log
        .lines()
        .filter_map(|line| Some(line.split_once(" configuration: ")?.1.to_owned()))
        .collect();
    assert_eq!(output.status.success(), errors.is_empty(), "{log}");
    errors
}

/// YAML as people write it, and how Envoy reads it.
#[test]
fn check_says_what_envoy_says() {
    let scratch = Scratch::new();
    let example = std::fs::read_to_string(root().join("envoy/slotgate.yaml")).unwrap();
    let wasm = std::env::var("SLOTGATE_WASM").unwrap_or_else(|_| {
        root()
            .join("target/slotgate.wasm")
            .to_str()
            .unwrap()
            .to_owned()
    });
    let example = example.replace("target/slotgate.wasm", &wasm);
    let mut refused = 0;
    for (from, to) in [
        ("percent: 100", "percent: 100"),
        ("percent: 100", "percent: 100.0"),
        ("percent: 100", "percent: 12.5"),
        ("percent: 100", "percent: '12'"),
        ("percent: 100", "percent: 100.5"),
        ("percent: 100", "percent: 12.345"),
        ("percent: 100", "percent: twelve"),
        ("percent: 100", "percent: '0x10'"),
        ("percent: 100", "percent: ~"),
        ("percent: 100", "percent: 0x10"),
        ("revision: 1", "revision: 2147483647"),
        ("revision: 1", "revision: 2147483648"),
        ("revision: 1", "revision: 9007199254740993"),
        ("revision: 1", "revision: -1"),
        ("max_concurrency: 20", "max_concurrency: 0"),
        ("max_concurrency: 20", "max_concurency: 20"),
        ("response_headers: true", "response_headers: \"true\""),
        ("id: acct-2", "id: acct-1"),
        ("{role: bridge}", "{role: bridge, redis: {}}"),
        (
            "set_headers: {x-upstream: acct_1}",
            "set_headers: {x-upstream: \"${NOWHERE}\"}",
        ),
    ] {
        assert!(example.contains(from), "{from}");
        let file = scratch.file("envoy.yaml", &example.replace(from, to));
        let envoys = envoys_errors(Path::new(&file));
        let ran = run(&["check", &file, "--json"]);
        let answer: Value = serde_json::from_str(&ran.out).unwrap();
        let errors: Vec<String> = answer["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|plugin| plugin["errors"].as_array().unwrap().iter())
            .map(|error| error["text"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ran.code, i32::from(!envoys.is_empty()), "{to}");
        // Envoy ends with the first plugin it refuses, and logs all its errors on one line.
        assert_eq!(errors.join("; "), envoys.join("; "), "{to}");
        refused += usize::from(!envoys.is_empty());
    }
    assert!((8..=13).contains(&refused), "{refused} refused");
}

/// A fraction is one in JSON, and in YAML, where Envoy makes a string of it.
#[test]
fn a_fraction_in_either_syntax() {
    let scratch = Scratch::new();
    let config =
        EnvoyConfig::from_example().plugin(|plugin| plugin["gray"]["percent"] = json!(12.5));
    let file = scratch.file("envoy.json", &config.document.to_string());
    run(&["check", &file]).done();
    assert_eq!(envoys_errors(Path::new(&file)), [""; 0]);
    let yaml = scratch.file("envoy.yaml", &config.document.to_string());
    run(&["check", &yaml]).done();
    assert_eq!(envoys_errors(Path::new(&yaml)), [""; 0]);
}

/// A wasm filter's message around a plugin.
fn wasm(message: &str, config: Value) -> Value {
    json!({"@type": format!("type.googleapis.com/envoy.extensions.filters.{message}.wasm.v3.Wasm"), "config": config})
}

fn string_value(text: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text})
}

const MINIMAL: &str =
    r#"{"role":"scheduler","pools":[{"name":"p","accounts":[{"id":"a","max_concurrency":1}]}]}"#;

#[test]
fn other_forms_and_other_filters() {
    let scratch = Scratch::new();
    let check = |document: Value| {
        let file = scratch.file("envoy.json", &document.to_string());
        let ran = run(&["check", &file]);
        (ran.code, (ran.out + &ran.err).replace(&file, "FILE"))
    };
    // Another's plugin has another's configuration.
    let other = wasm(
        "http",
        json!({"name": "jwt", "configuration": string_value("{\"issuer\": 1}")}),
    );
    let own = wasm(
        "http",
        json!({"name": "mine", "configuration": string_value(MINIMAL)}),
    );
    assert_eq!(
        check(json!({"resources": [&other, &own]})),
        (
            0,
            "FILE: http filter \"mine\", role scheduler: OK\n".to_owned()
        )
    );
    let (code, text) = check(json!({"resources": [&other]}));
    assert_eq!(code, 1);
    assert!(
        text.starts_with(
            "error: FILE is a configuration of Envoy without a slotgate filter\n  try: "
        ),
        "{text}"
    );
    let (code, text) = check(json!({"static_resources": {}}));
    assert!(
        code == 1 && text.starts_with("error: FILE is a configuration of Envoy without"),
        "{text}"
    );
    // What names itself slotgate is held to it.
    let broken = wasm(
        "http",
        json!({"name": "slotgate", "configuration": string_value("{")}),
    );
    let (code, text) = check(json!({"resources": [&broken]}));
    assert_eq!(code, 1);
    assert!(
        text.starts_with("FILE: http filter \"slotgate\": 1 error\n  at resources[0].config.configuration\n  not JSON: "),
        "{text}"
    );
    let missing = wasm("network", json!({"name": "slotgate"}));
    assert_eq!(check(json!({"resources": [&missing]})).0, 1);
    let typed = json!({
        "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
        "type_url": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
        "value": {"config": {"name": "b", "configuration": string_value("{\"role\": \"bridge\", \"x\": 1}")}},
    });
    assert_eq!(
        check(json!({"resources": [typed]})),
        (
            1,
            "FILE: network filter \"b\": 1 error\n  at resources[0].value.config.configuration\n  x: is not a field of role bridge\n".to_owned()
        )
    );
}

#[test]
fn what_the_vm_does_not_see() {
    let scratch = Scratch::new();
    let check = |vm: Value, variables: &[(&str, &str)], arguments: &[&str]| {
        let text = MINIMAL.replace(
            "{\"role\"",
            "{\"redis\":{\"password_env\":\"REDIS_PASSWORD\"},\"role\"",
        );
        let config =
            json!({"name": "slotgate", "vm_config": vm, "configuration": string_value(&text)});
        let file = scratch.file(
            "envoy.json",
            &json!({"resources": [wasm("http", config)]}).to_string(),
        );
        let ran = check_with(variables, &[arguments, &[file.as_str()]].concat());
        assert_eq!(ran.err, "");
        (ran.code, ran.out.replace(&file, "FILE"))
    };
    let set = [("REDIS_PASSWORD", "5ecret")];
    let unseen = "FILE: http filter \"slotgate\": 1 error\n  at resources[0].config.configuration\n  \
        redis.password_env: variable REDIS_PASSWORD is not set or empty\n  \
        try: add REDIS_PASSWORD to vm_config.environment_variables.host_env_keys: a VM sees no other variables\n";
    assert_eq!(check(json!({}), &set, &[]), (1, unseen.to_owned()));
    let host = json!({"environment_variables": {"host_env_keys": ["REDIS_PASSWORD"]}});
    let good = "FILE: http filter \"slotgate\", role scheduler: OK\n";
    assert_eq!(
        check(host.clone(), &set, &["--require-env"]),
        (0, good.to_owned())
    );
    assert_eq!(
        check(host.clone(), &[], &[]),
        (
            0,
            format!("{good}  not set here, so not checked: REDIS_PASSWORD\n")
        )
    );
    assert_eq!(check(host, &[], &["--require-env"]).0, 1);
    let given = json!({"environment_variables": {"key_values": {"REDIS_PASSWORD": "5ecret"}}});
    assert_eq!(check(given, &[], &["--require-env"]), (0, good.to_owned()));
}

#[test]
fn what_is_no_configuration_at_all() {
    let scratch = Scratch::new();
    let told = run(&["check", "no/such/file"]).failed(2);
    assert!(
        told.starts_with("error: no/such/file can't be read: "),
        "{told}"
    );
    let binary = scratch.0.join("x.yaml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    let binary = binary.to_str().unwrap();
    assert_eq!(
        run(&["check", binary]).failed(2),
        format!("error: {binary} is not UTF-8 text\n")
    );
    let yaml = scratch.file("a.yaml", "a: [1\nb: 2\n");
    let told = run(&["check", &yaml]).failed(1);
    assert!(
        told.starts_with(&format!("error: {yaml} is not YAML: ")) && told.contains("line"),
        "{told}"
    );
    // A key that is there twice, of which one would be lost in silence.
    let twice = scratch.file("b.yaml", "role: bridge\nrole: scheduler\n");
    let told = run(&["check", &twice]).failed(1);
    assert!(told.contains("duplicate entry with key \"role\""), "{told}");
    let list = scratch.file("c.yaml", "- 1\n");
    let ran = run(&["check", &list]);
    assert_eq!(
        (ran.code, ran.out),
        (
            1,
            format!("{list}: 1 error\n  configuration: an array is not an object\n")
        )
    );
    run(&["check"]).failed(2);
}
