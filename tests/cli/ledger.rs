//! What a configuration says beside what is in force in Redis, and what an operator has set.

use crate::Rig;
use crate::pipe::account;
use serde_json::{Value, json};
use slotgate::config::{Config, Role, parse};
use slotgate::ledger::commands::Synced;
use slotgate::worker::digest;
use support::Dir;

/// A scheduler with pool `p` as the rig has it, of this revision.
fn configuration(revision: u64) -> Value {
    json!({
        "role": "scheduler",
        "redis": {"key_prefix": crate::PREFIX},
        "priority_mode": "strict",
        "score": {"priority": 1, "load": 0.3, "random": 0.2},
        "pools": [{"name": "p", "revision": revision, "accounts": [
            {"id": "a", "max_concurrency": 1},
            {"id": "b", "max_concurrency": 2},
            {"id": "c", "max_concurrency": 3},
        ]}],
    })
}

fn parsed(value: &Value) -> Box<Config> {
    match parse(value.to_string().as_bytes(), &|_| None) {
        Ok(Role::Scheduler(config)) => config,
        other => panic!("{other:?}"),
    }
}

struct Files(Dir);

impl Files {
    fn write(&self, value: &Value) -> String {
        let path = self.0.join("plugin.json");
        std::fs::write(&path, value.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// A rig whose pool is what a filter with this configuration puts in force.
fn in_force(value: &Value) -> Rig {
    let mut rig = Rig::empty();
    let config = parsed(value);
    let pool = &config.pools[0];
    let accounts: Vec<_> = pool
        .accounts
        .iter()
        .map(|one| account(&one.id, one.max_concurrency))
        .collect();
    let sum = digest(pool, &config);
    assert_eq!(
        rig.pipe.sync(pool.revision, sum, Some(&accounts)),
        Ok(Synced::Replaced)
    );
    rig
}

#[test]
fn a_changed_limit_without_a_raised_revision_is_an_error() {
    let files = Files(Dir::temporary());
    let first = configuration(1);
    let rig = in_force(&first);
    let file = files.write(&first);
    let address = rig.redis.addr().to_string();
    let check = |file: &str| rig.run(&["check", file, "--redis", &address]);
    assert_eq!(
        check(&file).done(),
        format!("{file}: OK\n{file}: pool p: revision 1 is in force\n")
            .replace(": OK", ", role scheduler: OK")
    );

    let mut changed = first.clone();
    changed["pools"][0]["accounts"][0]["max_concurrency"] = json!(9);
    changed["pools"][0]["accounts"][1]["enabled"] = json!(false);
    changed["pools"][0]["accounts"][2]["id"] = json!("d");
    let file = files.write(&changed);
    let ran = check(&file);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let told = "pools[0].revision: pool p: Redis keeps other accounts under revision 1 (a: 1 slot in force, 9 here; \
        b: enabled in force, disabled here; d is only here; c is only in force); set revision: 2 to put these in force";
    assert_eq!(
        ran.out,
        format!("{file}, role scheduler: OK\n{file}: error: {told}\n")
    );
    // By the variable, too, and for programs.
    let ran = rig.run(&["check", &file, "--json", "--redis"]);
    let answer: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &answer["ok"]), (1, &json!(false)));
    assert_eq!(answer["errors"][0]["path"], "pools[0].revision");
    let pool = &answer["pools"][0];
    assert_eq!(pool["kept_out"], true);
    assert_eq!(
        (&pool["configured"], &pool["in_force"]),
        (&json!(1), &json!(1))
    );
    // Without it Redis is not asked.
    rig.run(&["check", &file]).done();

    // `status` says it where it is told what is configured.
    let status = rig.run(&["status", "--config", &file]).done();
    assert!(
        status.contains("\npool p: Redis keeps other accounts under revision 1 (a: 1 slot"),
        "{status}"
    );
    let json = rig.json(&["status", "--config", &file]);
    assert_eq!(json["configured"][0]["kept_out"], true);

    // The remedy.
    changed["pools"][0]["revision"] = json!(2);
    let file = files.write(&changed);
    let out = check(&file).done();
    assert!(
        out.contains("pool p: revision 2 is not in force yet, Redis holds revision 1; "),
        "{out}"
    );
}

#[test]
fn a_lower_revision_and_a_pool_that_is_not_there() {
    let files = Files(Dir::temporary());
    let rig = in_force(&configuration(7));
    let mut lower = configuration(3);
    let file = files.write(&lower);
    let out = rig.run(&["check", &file, "--redis"]).done();
    assert!(
        out.contains(
            "pool p: Redis holds revision 7 with the same accounts; a change here needs revision 8"
        ),
        "{out}"
    );
    // Weights alone.
    lower["score"]["load"] = json!(0.1);
    let file = files.write(&lower);
    let ran = rig.run(&["check", &file, "--redis"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out
            .contains("revision 3 is ignored, Redis holds revision 7 ("),
        "{}",
        ran.out
    );
    lower["pools"][0]["name"] = json!("q");
    let file = files.write(&lower);
    let out = rig.run(&["check", &file, "--redis"]).done();
    assert!(
        out.contains("pool q: not in Redis yet; the first request puts revision 3 in force"),
        "{out}"
    );
    // Another prefix is another ledger.
    lower["redis"]["key_prefix"] = json!("other");
    lower["pools"][0]["name"] = json!("p");
    let file = files.write(&lower);
    let out = rig.run(&["check", &file, "--redis"]).done();
    assert!(out.contains("pool p: not in Redis yet"), "{out}");
    let told = rig
        .run(&["check", &file, "--redis", "127.0.0.1:1"])
        .failed(3);
    assert!(
        told.starts_with("error: nothing listens at 127.0.0.1:1\n"),
        "{told}"
    );
}

#[test]
fn the_percentage_that_was_set() {
    let rig = Rig::new();
    let text = |rig: &Rig| rig.run(&["percent", "get"]).done();
    assert_eq!(text(&rig), "pool p: gray as configured\n");
    rig.run(&["percent", "set", "12.5"]).done();
    assert_eq!(text(&rig), "pool p: gray 12.5 % by override\n");
    assert_eq!(
        rig.json(&["percent", "get", "--pool", "p"]),
        json!({"action": "percent_get", "pools": [{"pool": "p", "percent": 12.5}]})
    );
    rig.run(&["percent", "clear"]).done();
    assert_eq!(
        rig.json(&["percent", "get"])["pools"],
        json!([{"pool": "p", "percent": null}])
    );
    let told = rig.run(&["percent", "get", "--pool", "x"]).failed(1);
    assert!(told.starts_with("error: there is no pool x"), "{told}");
}
