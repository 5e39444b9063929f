//! What a release is made by: the workflows, Dependabot's file, and the scripts that they and `make install` run. Nobody
//! runs the workflows here; what they name must exist.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_yaml_ng::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A folder of the test's own, gone when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slotgate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn targets() -> BTreeSet<String> {
    let makefile = read("Makefile");
    let rules = makefile.lines().filter_map(|line| line.split_once(':'));
    rules
        .filter(|(name, _)| name.starts_with(char::is_alphabetic) && !name.contains(' '))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Every step of every job.
fn steps(workflow: &Value) -> Vec<Value> {
    let jobs = workflow["jobs"].as_object().expect("jobs");
    let steps = jobs.values().map(|job| {
        assert!(job["runs-on"].is_string() && job["timeout-minutes"].is_u64());
        job["steps"].as_array().expect("steps").clone()
    });
    steps.flatten().collect()
}

/// What follows `make`, and the files of `scripts/`, in the commands of some steps.
fn named(steps: &[Value]) -> (Vec<String>, Vec<String>) {
    let (mut made, mut scripts) = (vec![], vec![]);
    for step in steps {
        let Some(run) = step["run"].as_str() else {
            // An action has its version, so that it is not another one tomorrow.
            let (name, version) = step["uses"]
                .as_str()
                .expect("uses")
                .split_once('@')
                .expect("@");
            assert!(name.contains('/') && version.starts_with('v'), "{step}");
            continue;
        };
        for line in run.lines() {
            made.extend(line.trim().strip_prefix("make ").map(str::to_owned));
            let words = line.split(|c: char| !(c.is_alphanumeric() || "/._-".contains(c)));
            scripts.extend(
                words
                    .filter(|word| word.starts_with("scripts/"))
                    .map(str::to_owned),
            );
        }
    }
    (made, scripts)
}

#[test]
fn workflows_name_what_there_is() {
    let targets = targets();
    assert!(
        targets.contains("dist") && targets.contains("install"),
        "{targets:?}"
    );
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join(".github/workflows")).unwrap() {
        let name = format!(
            ".github/workflows/{}",
            entry.unwrap().file_name().to_string_lossy()
        );
        let workflow = yaml(&name);
        // In YAML 1.1 the key would be a truth value: YAML 1.2, as GitHub reads it.
        assert!(
            workflow["on"].is_object() && workflow["permissions"].is_object(),
            "{name}"
        );
        let steps = steps(&workflow);
        let (made, scripts) = named(&steps);
        for target in made.iter().filter(|target| !target.contains("${{")) {
            assert!(targets.contains(target), "{name}: make {target}");
            seen += 1;
        }
        for script in scripts {
            assert!(root().join(&script).exists(), "{name}: {script}");
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen}");
}

/// Nothing lands that CI on the project's own machines would not take, and the other way round.
#[test]
fn ci_is_what_must_pass() {
    let run = read(".ci/run");
    let wanted: Vec<_> = run
        .lines()
        .filter_map(|line| line.strip_prefix("make "))
        .collect();
    let ci = yaml(".github/workflows/ci.yml");
    let matrix = ci["jobs"]["make"]["strategy"]["matrix"]["target"]
        .as_array()
        .expect("targets");
    let matrix: Vec<_> = matrix
        .iter()
        .map(|target| target.as_str().unwrap())
        .collect();
    assert_eq!(matrix, wanted);
    let (made, _) = named(&steps(&ci));
    assert_eq!(made, ["${{ matrix.target }}"]);
}

/// The release publishes exactly what `make dist` says that it makes, after the tests, and pushes what exists.
#[test]
fn the_release_publishes_what_dist_makes() {
    let release = yaml(".github/workflows/release.yml");
    let steps = steps(&release);
    let (made, _) = named(&steps);
    assert_eq!(made, ["check", "test", "dist"]);
    let commands: String = steps
        .iter()
        .filter_map(|step| step["run"].as_str())
        .collect();
    let dist = read("scripts/dist.sh") + &read("scripts/dist.py");
    for file in ["SHA256SUMS", "slotgate.wasm.sha256", ".cdx.json", ".tar.gz"] {
        assert!(commands.contains(file) && dist.contains(file), "{file}");
    }
    assert!(
        commands.contains("oci:target/dist/oci:") && commands.contains("--file envoy/Dockerfile")
    );
    // The image: what it copies is made, and its Envoy is the one that compose runs.
    let dockerfile = read("envoy/Dockerfile");
    let from = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("FROM "))
        .expect("FROM");
    assert!(
        read("envoy/docker-compose.yaml").contains(&format!("image: {from}\n")),
        "{from}"
    );
    for copied in dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
    {
        let file = copied.split(' ').next().unwrap();
        assert!(
            dist.contains(&format!("\"$out/{file}\""))
                || dist.contains(&format!("/{file}\" \"$out/\"")),
            "{file}"
        );
    }
}

#[test]
fn dependabot_looks_where_there_is_something() {
    let document = yaml(".github/dependabot.yml");
    assert_eq!(document["version"], 2);
    let updates = document["updates"].as_array().expect("updates");
    for update in updates {
        let file = match update["package-ecosystem"].as_str().expect("a kind") {
            "cargo" => "Cargo.toml",
            "docker" => "Dockerfile",
            "docker-compose" => "docker-compose.yaml",
            "github-actions" => ".github/workflows",
            other => panic!("{other}"),
        };
        let folders = update["directories"].as_array().cloned();
        for folder in folders.unwrap_or_else(|| vec![update["directory"].clone()]) {
            let folder = folder
                .as_str()
                .expect("a folder")
                .trim_start_matches('/')
                .to_owned();
            assert!(root().join(&folder).join(file).exists(), "{folder}/{file}");
        }
    }
    // And every lock file is looked after.
    let text = document.to_string();
    for lock in ["tests/bench/limitador", "tests/fuzz", "tests/guard"] {
        assert!(
            root().join(lock).join("Cargo.lock").exists() && text.contains(lock),
            "{lock}"
        );
    }
}

/// A checkout with this version and this changelog.
fn version_of(changelog: &str, arguments: &[&str]) -> Output {
    let folder = Folder::new(&format!("release-{}", arguments.join("-")));
    std::fs::create_dir_all(folder.0.join("scripts")).unwrap();
    std::fs::copy(
        root().join("scripts/release-version.sh"),
        folder.0.join("scripts/release-version.sh"),
    )
    .unwrap();
    std::fs::copy(root().join("Cargo.toml"), folder.0.join("Cargo.toml")).unwrap();
    std::fs::write(folder.0.join("CHANGELOG.md"), changelog).unwrap();
    Command::new(folder.0.join("scripts/release-version.sh"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_tag_releases_its_own_version_or_none() {
    let number = env!("CARGO_PKG_VERSION");
    let tag = format!("v{number}");
    let dated = format!(
        "# Log\n\n## [{number}] - 2026-12-01\n\n- this\n\n## [0.0.1] - 2025-01-01\n\n- that\n"
    );
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let good = version_of(&dated, &[&tag]);
    assert!(good.status.success(), "{good:?}");
    assert_eq!(text(&good.stdout), number);
    let notes = version_of(&dated, &["--notes", &tag]);
    assert_eq!(text(&notes.stdout), "- this");
    for (changelog, tag, said) in [
        (dated.clone(), "v9.9.9", "the version in Cargo.toml"),
        (dated.clone(), number, "the version in Cargo.toml"),
        (
            dated.replace("2026-12-01", "unreleased"),
            &tag,
            "needs the date",
        ),
        (String::new(), &tag, "no section"),
    ] {
        let bad = version_of(&changelog, &[tag]);
        assert!(!bad.status.success() && bad.stdout.is_empty(), "{bad:?}");
        assert!(text(&bad.stderr).contains(said), "{bad:?}");
    }
}

/// `make install`, with a program and a wasm that are there already.
#[test]
fn install_puts_everything_below_destdir_and_prefix() {
    let folder = Folder::new("install dir");
    let wasm = folder.0.join("a.wasm");
    std::fs::write(&wasm, "not a wasm").unwrap();
    let install = |prefix: &str, program: &str| {
        Command::new(root().join("scripts/install.sh"))
            .args([program, wasm.to_str().unwrap()])
            .env("DESTDIR", folder.path())
            .env("PREFIX", prefix)
            .output()
            .unwrap()
    };
    let done = install("/opt/slot gate", env!("CARGO_BIN_EXE_slotgate"));
    assert!(done.status.success(), "{done:?}");
    let to = folder.0.join("opt/slot gate");
    for name in [
        "bin/slotgate",
        "share/slotgate/slotgate.wasm",
        "share/man/man1/slotgate.1",
        "share/man/man1/slotgate-percent-set.1",
        "share/bash-completion/completions/slotgate",
        "share/zsh/site-functions/_slotgate",
        "share/fish/vendor_completions.d/slotgate.fish",
    ] {
        assert!(to.join(name).is_file(), "{name}: {done:?}");
    }
    let ran = Command::new(to.join("bin/slotgate"))
        .arg("--version")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout).trim(),
        format!("slotgate {}", slotgate::VERSION)
    );
    for (prefix, program, said) in [
        (
            "relative",
            env!("CARGO_BIN_EXE_slotgate"),
            "not a path from /",
        ),
        ("/opt", "/nowhere/slotgate", "there is no /nowhere/slotgate"),
    ] {
        let refused = install(prefix, program);
        assert!(!refused.status.success(), "{refused:?}");
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains(said),
            "{refused:?}"
        );
    }
    assert!(!root().join("relative").exists());
}
