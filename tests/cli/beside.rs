//! What stands in one pool's keys keeps nobody from the others.

use crate::pipe::{Pipe, account};
use crate::{Rig, finish, program};
use serde_json::Value;

/// No text in any way.
const BYTES: &[u8] = b"\xff\x1b[31m\xfe";

/// Pool `p`, and two that are looked at before and after it.
fn three_pools() -> Rig {
    let rig = Rig::new();
    for name in ["o", "q"] {
        let mut pipe = Pipe::open(&rig.redis, name);
        pipe.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    }
    rig
}

fn put(rig: &Rig, command: &str, key: &[u8], arguments: &[&[u8]]) {
    let mut cmd = redis::cmd(command);
    cmd.arg(key).arg(arguments);
    let _: redis::Value = cmd.query(&mut rig.redis.connect()).unwrap();
}

#[test]
fn a_lease_is_found_behind_a_pool_that_cannot_be_asked() {
    let mut rig = three_pools();
    let lease = rig.take("b");
    put(&rig, "SET", b"slotgate:{o}:owner", &[b"x"]);
    let told = rig.run(&["lease", &lease]).done();
    assert!(
        told.contains(" a slot of b of pool p; it expires in "),
        "{told}"
    );
    // Not found, but there is a pool that nobody could ask.
    let told = rig.run(&["lease", "nobody"]).failed(3);
    assert!(
        told.contains("pool o: ") && told.contains("WRONGTYPE"),
        "{told}"
    );
    let told = rig.run(&["lease", "nobody", "--pool", "q"]).failed(1);
    assert!(
        told.starts_with("error: no lease nobody in pool q"),
        "{told}"
    );
    // Its expiry stands elsewhere.
    put(&rig, "DEL", b"slotgate:{p}:leases", &[]);
    put(&rig, "SET", b"slotgate:{p}:leases", &[b"x"]);
    let told = rig.run(&["lease", &lease]).done();
    assert!(told.contains("its expiry is lost"), "{told}");
    put(&rig, "HSET", b"slotgate:{p}:owner", &[b"1234", BYTES]);
    let told = rig.run(&["lease", "1234"]).done();
    assert!(
        told.contains(r"a slot of \xff\x1b[31m\xfe of pool p"),
        "{told}"
    );
}

#[test]
fn a_key_that_is_no_text_is_no_pool() {
    let mut rig = three_pools();
    let lease = rig.take("a");
    let key = [b"slotgate:{", BYTES, b"}:accounts"].concat();
    put(&rig, "SET", &key, &[b"x"]);
    let shown = rig.json(&["status"]);
    let names = shown["pools"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|pool| pool["pool"].as_str().unwrap()).collect();
    assert_eq!(names, ["o", "p", "q"]);
    rig.run(&["lease", &lease]).done();
    rig.run(&["percent", "set", "3", "--all-pools"]).done();
}

#[test]
fn a_pool_without_an_epoch_is_named_and_the_others_are_shown() {
    let rig = three_pools();
    put(&rig, "HDEL", b"slotgate:{o}:accounts", &[b"#epoch"]);
    let shown = rig.run(&["status"]);
    assert_eq!((shown.code, shown.err.as_str()), (1, ""));
    for part in ["no pool o under", "pool p  0/6 slots", "pool q  0/1 slots"] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
}

#[test]
fn what_is_changed_is_said_whatever_stood_there() {
    let mut rig = Rig::new();
    let control = b"slotgate:{p}:control";
    for verb in [&["percent", "set", "4"][..], &["percent", "clear"]] {
        put(&rig, "HSET", control, &[b"percent", BYTES]);
        let told = rig.run(verb).done();
        assert!(told.ends_with(", was as configured\n"), "{told}");
    }
    put(&rig, "HSET", control, &[b"drain:a", BYTES]);
    rig.run(&["undrain", "a"]).done();
    rig.take("a");
    put(&rig, "HSET", b"slotgate:{p}:used", &[b"a", b"-1.5"]);
    let told = rig.run(&["drain", "a"]).done();
    assert_eq!(
        told,
        "a of pool p is drained: it takes no new leases; its leases will finish\n"
    );
}

/// Only the pools that could be asked are, and what stands in place of an answer is none.
#[test]
fn a_request_is_asked_for_in_all_pools() {
    let rig = three_pools();
    put(&rig, "HSET", b"slotgate:{o}:answer", &[b"x", b"y"]);
    put(&rig, "SET", b"slotgate:{p}:answer", &[BYTES]);
    let addr = rig.redis.addr().to_string();
    let asking = std::thread::spawn(move || {
        let mut command = program();
        command.args(["explain", "--request", "r-1", "--json", "--redis", &addr]);
        finish(command, "")
    });
    let question = loop {
        let key = slotgate::ledger::keys::question("slotgate", "q");
        let question: Option<String> = rig.redis.run("GET", &[&key]);
        match question {
            Some(question) => break question,
            None => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    let (nonce, _) = question.split_once(' ').unwrap();
    let answer = serde_json::json!({"nonce": nonce, "way": "traditional", "pool": "q", "bucket": 1, "below": 0});
    put(
        &rig,
        "SET",
        b"slotgate:{q}:answer",
        &[answer.to_string().as_bytes()],
    );
    let told = asking.join().unwrap().done();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["pool"], "q");
    let told = rig.run(&["explain", "--request", "r-2"]).failed(1);
    assert!(told.contains("no worker remembers"), "{told}");
}
