//! Redis refuses the greeting: its own words reach Envoy's log, once, and the console; nothing secret does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{SOON, World, config, way};
use support::*;

const PASSWORD: &str = "5ecret-of-the-test";

fn with_password(config: EnvoyConfig) -> EnvoyConfig {
    config
        .env("REDIS_PASSWORD", PASSWORD)
        .plugin(|plugin| plugin["redis"]["password_env"] = json!("REDIS_PASSWORD"))
}

#[track_caller]
fn assert_said_once(world: &World, reason: &str, text: &str) {
    assert_eq!(assert_says_one_thing(world, reason), text);
}

/// Requests go the traditional way for a while, and the log holds one warning about it: what it says.
#[track_caller]
fn assert_says_one_thing(world: &World, reason: &str) -> String {
    let warnings = || {
        let log = world.envoy.log();
        log.lines()
            .filter(|line| {
                line.contains("[warning][wasm]") && line.contains("pipe to Redis is down: ")
            })
            // As it is when the server's last words get lost on the way.
            .filter(|line| !line.contains("the connection was closed or refused"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (until, patience) = (Duration::from_millis(2_500), SOON);
    let begin = Instant::now();
    // A busy machine may not have connected by then.
    while begin.elapsed() < until || (warnings().is_empty() && begin.elapsed() < patience) {
        assert_eq!(way(&world.get("/")), (200, "traditional"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let (log, warnings) = (world.envoy.log(), warnings());
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    let (_, said) = warnings[0].split_once("pipe to Redis is down: ").unwrap();
    assert!(!log.contains(PASSWORD), "{log}");
    // It goes on trying. Where the server's last words get lost again, it counts as closed.
    world.eventually_counts(&format!("pipe.lost;reason={reason}"), 1);
    eventually(SOON, || world.counters("pipe.lost") >= 2);
    said.to_owned()
}

#[track_caller]
fn assert_recovers(world: &World) {
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    assert!(world.envoy.log_contains("pipe to Redis is ready"));
    world.assert_all_free();
}

#[test]
fn no_room_for_one_more_client() {
    for password in [false, true] {
        let redis = Redis::start_with(&["--maxclients", "1"]);
        let mut taken = redis.connect();
        let config = config(&[("a", 5)]);
        let config = if password {
            with_password(config)
        } else {
            config
        };
        let world = World::with_redis(redis, config);
        assert_said_once(
            &world,
            "refused",
            r#"the connection was refused with "ERR max number of clients reached": see maxclients of Redis"#,
        );
        let mut set = |name: &str, value: &str| {
            redis::cmd("CONFIG")
                .arg(&["SET", name, value])
                .exec(&mut taken)
                .expect("OK");
        };
        if password {
            set("requirepass", PASSWORD);
        }
        set("maxclients", "100");
        if !password {
            assert_recovers(&world);
        } else {
            eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
        }
    }
}

/// Redis takes only what comes from 127.0.0.1 itself for local; Valkey can't be tested on one host.
#[test]
fn protected_mode() {
    for password in [false, true] {
        let redis = Redis::start_with(&["--protected-mode", "yes"]);
        if redis.is_valkey() {
            return;
        }
        let config = config(&[("a", 5)]).edit_cluster("redis", |cluster| {
            cluster["upstream_bind_config"] =
                json!({"source_address": {"address": "127.0.0.2", "port_value": 0}});
        });
        let config = if password {
            with_password(config)
        } else {
            config
        };
        let world = World::with_redis(redis, config);
        let said = assert_says_one_thing(&world, "refused");
        // Redis' words, or Valkey's.
        let words = said.strip_prefix("the connection was refused with \"");
        let words = words.and_then(|text| text.strip_suffix("...\": see protected-mode of Redis"));
        let words = words.unwrap_or_else(|| panic!("{said}"));
        assert!(
            words.starts_with("DENIED ") && words.contains("unning in protected mode"),
            "{said}"
        );
        assert_eq!(words.len(), 200);
        if !password {
            world
                .redis
                .run::<()>("CONFIG", &["SET", "protected-mode", "no"]);
            assert_recovers(&world);
        }
    }
}

#[test]
fn a_password_that_nobody_asked_for() {
    let world = World::with_redis(Redis::start(), with_password(config(&[("a", 5)])));
    assert_said_once(
        &world,
        "auth",
        r#"AUTH was refused with "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?": see redis.username and redis.password_env"#,
    );
}

/// Redis repeats the arguments of a command that it does not know.
#[test]
fn a_server_that_repeats_the_password() {
    let redis = Redis::start_with(&["--rename-command", "AUTH", "\"\""]);
    let world = World::with_redis(redis, with_password(config(&[("a", 5)])));
    assert_said_once(
        &world,
        "auth",
        r#"AUTH was refused with "ERR unknown command 'AUTH'""#,
    );
}

#[test]
fn a_user_without_rights() {
    let redis = Redis::start();
    let rules = |more: &[&str]| {
        let password = format!(">{PASSWORD}");
        let first = ["SETUSER", "app", "reset", "on", &password, "~slotgate:*"];
        redis.run::<()>("ACL", &[&first, more].concat());
    };
    let least = [
        "-@all",
        "+@hash",
        "+@sortedset",
        "+get",
        "+set",
        "+del",
        "+pexpire",
        "+pexpireat",
        "+time",
    ];
    rules(&least);
    let config = with_password(config(&[("a", 5)]))
        .plugin(|plugin| plugin["redis"]["username"] = json!("app"));
    let upstream = Upstream::start();
    let envoy = Envoy::start(config.redis(redis.addr()).upstream(upstream.addr()));
    // Redis says `this user has no`, Valkey `User app has no`.
    let says = |asked: &str, command: &str| {
        let begin = format!("pipe to Redis is down: {asked} was refused with \"NOPERM ");
        let end = format!(
            " has no permissions to run the '{command}' command\": see the rights of this user"
        );
        eventually(SOON, || {
            assert_eq!(way(&envoy.client().get("/", &[])), (200, "traditional"));
            let log = envoy.log();
            log.lines()
                .any(|line| line.contains(&begin) && line.ends_with(&end))
        });
    };
    says("SCRIPT LOAD", "script|load");
    // One right more, and the next one is missing.
    rules(&[&least[..], &["+script|load"]].concat());
    says("a command", "evalsha");
    rules(&[&least[..], &["+script|load", "+evalsha"]].concat());
    eventually(SOON, || {
        way(&envoy.client().get("/", &[])) == (200, "atomic")
    });
    assert!(!envoy.log_contains(PASSWORD));
}

/// The filter and the console, each by a pipe of its own.
#[test]
fn a_redis_below_7() {
    let redis = Redis::start_old();
    let version: String = redis.run("INFO", &["server"]);
    let (_, version) = version.split_once("redis_version:").expect("a version");
    let version = version.lines().next().expect("a line").to_owned();
    assert!(version.starts_with("6.2."), "{version}");
    let text = format!("Redis 7 or later is needed, this server is {version}");
    let world = World::with_redis(redis, config(&[("a", 5)]));
    assert_said_once(&world, "load", &text);

    // A user of its own with no rights but these: the version is no question of rights.
    let user = format!(">{PASSWORD}");
    let rules = ["SETUSER", "app", "on", &user, "~*", "-@all", "+script|load"];
    world.redis.run::<()>("ACL", &rules);
    let rightless = with_password(config(&[("a", 5)]))
        .plugin(|plugin| plugin["redis"]["username"] = json!("app"));
    let other = world.another(rightless);
    eventually(SOON, || {
        other.client().get("/", &[]);
        other.log_contains(&text)
    });

    let console = Envoy::start(
        config(&[("a", 5)])
            .console(|_| {})
            .redis(world.redis.addr())
            .upstream(world.upstream.addr()),
    );
    let reply = Client::new(console.addrs()[1]).get("/api/status", &[("host", "localhost:9902")]);
    let told: Value = serde_json::from_str(&reply.text()).expect("JSON");
    assert_eq!(told["error"]["message"], text.as_str(), "{told}");
}
