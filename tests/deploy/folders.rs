//! The folders that `envoy/sidecar.yaml` needs are made by the commands that it shows, and by nothing else.

use std::path::Path;
use std::process::Command;

use support::*;

/// What stands indented between a word and the next line that is not, as one program.
fn commands(text: &str, prefix: &str) -> String {
    let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let lines: Vec<_> = lines.filter(|line| line.starts_with("install ")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    lines.join("\n")
}

/// The example as if `/etc/envoy` were in `etc`.
fn sidecar(etc: &Path) -> EnvoyConfig {
    EnvoyConfig::from_file("envoy/sidecar.yaml").edit(|document| {
        let text = document.to_string();
        assert!(text.contains("\"/etc/envoy/"));
        let text = text.replace("\"/etc/envoy/", &format!("\"{}/envoy/", etc.display()));
        *document = serde_json::from_str(&text).expect("JSON");
    })
}

#[test]
fn what_the_sidecar_shows_makes_what_it_needs() {
    let example = std::fs::read_to_string(root().join("envoy/sidecar.yaml")).expect("it");
    let page = std::fs::read_to_string(root().join("docs/deployment.md")).expect("it");
    let program = commands(&example, "#   ");
    assert_eq!(program, commands(&page, ""));
    let dir = Dir::temporary();
    // As the reader would see it who did not run them.
    let log = Envoy::start_expecting_failure(sidecar(dir.path()));
    assert!(log.contains("envoy/secrets"), "{log}");
    let program = program.replace("/etc/", &format!("{}/", dir.path().display()));
    let ran = Command::new("sh")
        .args(["-e", "-c", &program])
        .current_dir(root())
        .output();
    let ran = ran.expect("sh");
    assert!(ran.status.success(), "{ran:?}");
    let envoy = Envoy::start(sidecar(dir.path()));
    assert!(envoy.is_running());
}
