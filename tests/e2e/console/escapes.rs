//! What stands in Redis and in headers, on its way out of the console.

use super::*;
use slotgate::printable::is_harmful;

const HOSTILE: &str = "x\x1b]0;y\x07\u{9b}31m\n\u{202e}\u{2066}\u{200b}\u{2028}\x7f<b>\"";

#[track_caller]
fn harmless(reply: &Reply) -> Value {
    let text = reply.text();
    assert!(!text.contains(is_harmful), "{text:?}");
    for (name, value) in &reply.headers {
        let value = value.to_str().expect("ASCII");
        assert!(!value.contains(is_harmful), "{name}: {value:?}");
    }
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn what_others_wrote_is_escaped() {
    let rig = Rig::start();
    let accounts = rig.world.ledger.key("accounts");
    let record: String = rig.world.redis.run("HGET", &[&accounts, "b"]);
    // The ledger takes no such id for an account: the pool cannot be read, and that is said.
    let put = [accounts.as_str(), HOSTILE, record.as_str()];
    rig.world.redis.run::<()>("HSET", &put);
    let said = harmless(&rig.get("/api/status"));
    let error = said["pools"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("accounts x??0?y???31m?"), "{said}");
    harmless(&rig.send(post("explain", "{}")));
    rig.world.redis.run::<()>("HDEL", &put[..2]);
    let said = harmless(&rig.send(post("explain", json!({"session": HOSTILE}).to_string())));
    assert_eq!(said["accounts"].as_array().unwrap().len(), 2, "{said}");
    let said = harmless(&hostile_answer(&rig));
    assert_eq!(said["account"], HOSTILE);
    for request in [
        signed("drain", json!({"account": HOSTILE}).to_string()),
        signed("drain", json!({HOSTILE: HOSTILE}).to_string()),
        signed(
            "drain",
            json!({"account": "a", "pool": HOSTILE}).to_string(),
        ),
        post("recall", json!({"request": HOSTILE}).to_string()),
        post(
            "recall",
            json!({"request": "nobody's\u{9b}\u{202e}"}).to_string(),
        ),
    ] {
        harmless(&rig.send(request));
    }
}

/// What is told of a request when somebody else answers in a worker's place.
fn hostile_answer(rig: &Rig) -> Reply {
    let client = Client::new(rig.console);
    let reply = spawn(client.sending(post("recall", r#"{"request": "r"}"#)));
    let redis = &rig.world.redis;
    let question = rig.world.ledger.key("question");
    let asked = || redis.run::<Option<String>>("GET", &[&question]);
    eventually(SOON, || asked().is_some());
    let asked = asked().unwrap();
    let nonce = asked.split(' ').next().unwrap();
    let answer = json!({"nonce": nonce, "way": "atomic", "account": HOSTILE});
    let key = rig.world.ledger.key("answer");
    redis.run::<()>("SET", &[&key, &answer.to_string()]);
    wait(async { reply.await.unwrap() }).unwrap()
}

#[test]
fn what_a_configuration_holds_is_one_harmless_line_of_the_log() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let config = config(&[("a", 1)]).plugin(|plugin| {
        plugin[HOSTILE] = json!(1);
        plugin["redis"]["password_env"] = json!(HOSTILE);
    });
    let log = Envoy::start_expecting_failure(config.redis(redis.addr()).upstream(upstream.addr()));
    let said: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" configuration: "))
        .collect();
    assert!(said.len() >= 2, "{log}");
    for line in said {
        assert!(!line.contains(is_harmful), "{line:?}");
    }
    assert!(log.contains(r"x\u{1b}]0;y\u{7}\u{9b}31m\n"), "{log}");
    assert!(
        !log.contains('\u{9b}') && !log.contains('\u{202e}'),
        "{log:?}"
    );
}
