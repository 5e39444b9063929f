//! `slotgate log`: what was changed, and by whom.

use crate::pipe::{Pipe, account};
use crate::{Rig, finish};
use serde_json::Value;

/// `by` and text of each line, the newest first.
fn logged(rig: &Rig) -> Vec<(Option<String>, String)> {
    let log = rig.json(&["log"]);
    let line = |line: &Value| {
        assert_eq!(line["pool"], "p");
        let change = &line["change"];
        assert!(change["at_ms"].as_u64().unwrap() > 1_700_000_000_000);
        let by = change["by"].as_str().map(str::to_owned);
        (by, change["text"].as_str().unwrap().to_owned())
    };
    log.as_array().unwrap().iter().map(line).collect()
}

#[test]
fn each_change_is_told_with_its_author() {
    let rig = Rig::new();
    rig.run(&["drain", "a", "--by", "Anna Lytics, ☎ 12"]).done();
    let with = |name: &str, value: &str, arguments: &[&str]| {
        let mut command = rig.command(arguments);
        command
            .env_remove("SLOTGATE_BY")
            .env_remove("USER")
            .env(name, value);
        finish(command, "")
    };
    with("SLOTGATE_BY", "bob", &["undrain", "a"]).done();
    with("USER", "carol", &["percent", "set", "12.5"]).done();
    with("USER", "a\tb", &["percent", "clear"]).done();
    let file = "accounts:\n- {id: a, max_concurrency: 9}\n- {id: b, priority: 3}\n";
    let from = rig.command(&["account", "set", "--from", "-", "--by", "dora"]);
    finish(from, file).done();
    rig.run(&["drain", "c"]).done();
    let line = |by: &str, text: &str| (Some(by.to_owned()), text.to_owned());
    let said = logged(&rig);
    assert_eq!(
        said[1..],
        [
            line(
                "dora",
                "b: max_concurrency 2, priority 3, enabled, was max_concurrency 2, enabled"
            ),
            line(
                "dora",
                "a: max_concurrency 9, enabled, was max_concurrency 1, enabled"
            ),
            (None, "gray share as configured, was 12.5 %".to_owned()),
            line("carol", "gray share 12.5 %, was as configured"),
            line("bob", "a takes requests again"),
            line("Anna Lytics, ☎ 12", "a drained"),
            (None, "revision 7".to_owned()),
        ]
    );
    let table = rig.run(&["log", "--pool", "p"]).done();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 9, "{table}");
    assert!(lines[0].starts_with("when"), "{table}");
    assert!(
        lines[2].contains("dora") && lines[2].contains(" s "),
        "{table}"
    );
    assert!(lines[8].contains("a configuration"), "{table}");
    // The newest are in status too.
    let status = rig.json(&["status"]);
    assert_eq!(status["pools"][0]["changes"][1]["by"], "dora");
}

#[test]
fn a_name_that_can_not_be_kept_changes_nothing() {
    let rig = Rig::new();
    for name in ["a\tb", &"é".repeat(33)] {
        let said = rig.run(&["drain", "a", "--by", name]).failed(2);
        assert!(said.contains("--by (or SLOTGATE_BY)"), "{said}");
    }
    rig.run(&["log", "--pool", "q"]).failed(1);
    assert_eq!(logged(&rig).len(), 1);
    assert_eq!(rig.ledger().free().len(), 3);
}

/// What others write there is left out, whatever it is.
#[test]
fn lines_of_others_are_left_out() {
    let rig = Rig::new();
    let key = rig.ledger().key("changes");
    let long = format!("1\t{}\tdrain\ta\t\t", "x".repeat(600));
    for line in [
        "253402300800000\t\tdrain\ta\t\t",
        "18446744073709551615\t\tdrain\ta\t\t",
        "",
        &long,
    ] {
        rig.redis.run::<()>("LPUSH", &[&key, line]);
    }
    assert_eq!(logged(&rig).len(), 1);
    rig.run(&["log"]).done();
}

/// One pool's log that is none hides no other's.
#[test]
fn several_pools_are_one_log() {
    let rig = Rig::new();
    let mut other = Pipe::open(&rig.redis, "q");
    other.sync(3, 1, Some(&[account("z", 1)])).unwrap();
    let all = rig.json(&["log"]);
    let pools: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["pool"].as_str().unwrap())
        .collect();
    assert_eq!(pools, ["q", "p"]);
    let key = rig.ledger().key("changes");
    rig.redis.run::<()>("DEL", &[&key]);
    rig.redis.run::<()>("SET", &[&key, "x"]);
    let ran = rig.run(&["log"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out.contains("pool p: ") && ran.out.contains("revision 3"),
        "{}",
        ran.out
    );
}
