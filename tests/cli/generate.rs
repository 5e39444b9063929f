//! What is made for those who package slotgate: completions that complete, and a page for each command.

use crate::run;
use crate::support::Dir;
use std::path::Path;
use std::process::Command;

/// What `--help` lists below a command, and its long options.
fn listed(words: &[&str]) -> (Vec<String>, Vec<String>) {
    let help = run(&[words, &["--help"]].concat()).done();
    let (mut commands, mut options, mut of_commands) = (vec![], vec![], false);
    for line in help.lines() {
        if !line.starts_with(' ') {
            of_commands = line == "Commands:";
        }
        let word = line.split_whitespace().next().unwrap_or_default();
        if of_commands && line.starts_with("  ") && !line.starts_with("   ") && word != "help" {
            commands.push(word.to_owned());
        }
        let names = line.trim_start();
        if !of_commands && names.starts_with('-') {
            let long = names.split([' ', ',']).find(|word| word.starts_with("--"));
            options.extend(long.map(str::to_owned));
        }
    }
    (commands, options)
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Follows the help down.
fn each(words: &[&str], look: &mut impl FnMut(&[&str], &[String], &[String])) {
    let (commands, options) = listed(words);
    look(words, &commands, &options);
    for command in &commands {
        each(&[words, &[command]].concat(), look);
    }
}

#[test]
fn every_command_and_option_has_its_place() {
    let dir = Dir::temporary();
    let folder = dir.path().join("made/on the way");
    let said = run(&["generate", folder.to_str().unwrap()]).done();
    let bash = read(&folder, "share/bash-completion/completions/slotgate");
    let zsh = read(&folder, "share/zsh/site-functions/_slotgate");
    let fish = read(&folder, "share/fish/vendor_completions.d/slotgate.fish");
    let mut pages = 0;
    each(&[], &mut |words, commands, options| {
        let name = [&["slotgate"], words].concat().join("-");
        let page = format!("share/man/man1/{name}.1");
        assert!(said.contains(&page), "{page}: {said}");
        let text = read(&folder, &page).replace("\\-", "-");
        let version = format!("slotgate {}", slotgate::VERSION);
        let title = text.lines().find(|line| line.starts_with(".TH ")).unwrap();
        assert!(title.contains(&version), "{title}");
        pages += 1;
        for option in options {
            assert!(text.contains(option), "{page}: {option}");
            assert!(bash.contains(option.as_str()), "bash: {option}");
            assert!(zsh.contains(option.as_str()), "zsh: {option}");
            let fish_option = format!("-l {}", option.trim_start_matches("--"));
            assert!(fish.contains(&fish_option), "fish: {fish_option}");
        }
        for command in commands {
            assert!(
                text.contains(&format!("{name}-{command}(1)")),
                "{page}: {command}"
            );
            assert!(zsh.contains(&format!("{command}:")), "zsh: {command}");
            assert!(fish.contains(&format!("\"{command}\"")), "fish: {command}");
        }
    });
    assert!(pages > 12, "{pages}");
    assert_eq!(said.lines().count(), pages + 3, "{said}");
    // What makes them is for packagers, and shown nowhere.
    let main = read(&folder, "share/man/man1/slotgate.1");
    for text in [&bash, &zsh, &fish, &main, &run(&["--help"]).done()] {
        assert!(!text.contains("generate"), "{text}");
    }
}

#[test]
fn bash_completes_by_it() {
    let dir = Dir::temporary();
    run(&["generate", dir.path().to_str().unwrap()]).done();
    let script = dir
        .path()
        .join("share/bash-completion/completions/slotgate");
    let complete = |words: &[&str]| {
        let last = words.len() - 1;
        let program = format!(
            "source '{}'; COMP_WORDS=({}); COMP_CWORD={last}; _slotgate slotgate '{}' '{}'; echo \"${{COMPREPLY[*]}}\"",
            script.display(),
            words.join(" "),
            words[last],
            words[last - 1],
        );
        let out = Command::new("bash")
            .args(["-c", &program])
            .output()
            .unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete(&["slotgate", "und"]), "undrain");
    assert_eq!(complete(&["slotgate", "percent", "cl"]), "clear");
    assert_eq!(complete(&["slotgate", "check", "--req"]), "--require-env");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let message = run(&["generate", "/dev/null/x"]).failed(2);
    assert!(
        message.contains("/dev/null/x/share") && message.contains("can't be written"),
        "{message}"
    );
}
