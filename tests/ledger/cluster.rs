//! Every script with every key it may have, where a key that is not declared, or of another slot, is refused: under an ACL
//! for one pool's keys, on a cluster's node, and through Envoy's `redis_proxy` on a cluster of three masters.

use crate::pipe::{Answer, Pipe, account, text};
use serde_json::json;
use slotgate::config::{TenantLimits, Tenants};
use slotgate::ledger::commands::{Asked, Mode, Place, Reconciled, Renewed, Synced, Terms};
use slotgate::ledger::fault::Fault;
use slotgate::request::lease::{LeaseId, LeaseIds};
use support::{
    Envoy, EnvoyConfig, Ledger, PATIENCE, Redis, RedisCluster, Upstream, acl_rules, eventually,
};

/// Each script in each mode, with a session and a scope.
fn exercise(pipe: &mut Pipe) {
    exercise_all(pipe, true);
}

/// `queue`: also with leases that wait.
fn exercise_all(pipe: &mut Pipe, queue: bool) {
    let mut ids = LeaseIds::new(1);
    let (session, scope) = ([1; 16], [2; 16]);
    assert_eq!(pipe.sync(1, 1, None), Ok(Synced::Wanted));
    assert_eq!(
        pipe.sync(1, 1, Some(&[account("a", 2)])),
        Ok(Synced::Replaced)
    );
    let lease = ids.mint(None);
    let granted = Ok(Answer::Granted("a".into()));
    assert_eq!(
        pipe.acquire(lease, Mode::Take, Some((&session, 1000))),
        granted
    );
    pipe.cooldown_in("a", 10, Some(&scope)).unwrap();
    for mode in [Mode::Dry, Mode::Force("a")] {
        let sessions = Some((&session, 1000));
        pipe.acquire_in(ids.mint(None), mode, sessions, Some(&scope), 4)
            .unwrap();
    }
    pipe.cooldown("a", 10).unwrap();
    let epoch = pipe.epoch;
    let lost = ids.mint(None);
    let renewed = pipe.renew(&[(lease, "a", epoch), (lost, "a", epoch + 1)]);
    assert_eq!(renewed, Ok(vec![Renewed::Renewed, Renewed::Readopted]));
    assert_eq!(pipe.release(&[lease, lost]), Ok(2));
    pipe.inspect().unwrap();
    pipe.look(10, 10).unwrap();
    pipe.answer("{}", 1000);
    for verb in ["drain", "undrain", "thaw"] {
        pipe.control(verb, "a", None).unwrap();
    }
    pipe.control("unbind", "", Some(&session)).unwrap();
    if queue {
        wait_in_line(pipe, &mut ids);
    }
    while matches!(pipe.reconcile("one", 1000, 10), Ok(Reconciled::Working(_))) {}
    assert_eq!(pipe.reconcile("two", 1000, 10), Ok(Reconciled::Elsewhere));
    assert_eq!(
        pipe.sync(2, 2, Some(&[account("b", 1)])),
        Ok(Synced::Replaced)
    );
    assert_eq!(
        pipe.acquire(ids.mint(None), Mode::Take, None),
        Ok(Answer::Granted("b".into()))
    );
}

/// Leases of a tenant and of none that wait, are handed slots, leave, and are recounted.
fn wait_in_line(pipe: &mut Pipe, ids: &mut LeaseIds) {
    let (session, scope) = ([1; 16], [2; 16]);
    let gold = Tenants::name(b"gold");
    pipe.cooldown_in("a", 10_000, Some(&[3; 16])).unwrap();
    // Until it cools in no other scope.
    std::thread::sleep(std::time::Duration::from_millis(15));
    let leases: Vec<LeaseId> = (0..8)
        .map(|at| ids.mint((at % 2 == 0).then_some(&gold)))
        .collect();
    let limits = TenantLimits {
        max_concurrency: 1,
        max_waiting: 5,
        weight: 3,
    };
    let asked: Vec<Asked> = leases
        .iter()
        .enumerate()
        .map(|(at, lease)| Asked {
            lease: *lease,
            mode: Mode::Join(Terms {
                limits,
                cookie: 1,
                place: Place::Last,
            }),
            session: Some(&session),
            scope: Some(if at < 6 { &scope } else { &[3; 16] }),
        })
        .collect();
    for _ in 0..2 {
        let answers = pipe.acquire_all(&asked, 1_000, 4).unwrap();
        let waits = answers
            .iter()
            .filter(|answer| matches!(answer, Answer::Waits(_)));
        assert_eq!(waits.count(), 7, "{answers:?}");
    }
    assert_eq!(pipe.release(&leases[7..]), Ok(0));
    assert_eq!(pipe.release(&leases[..1]), Ok(1));
    assert_eq!(pipe.handed.len(), 1);
    while matches!(pipe.reconcile("one", 1000, 10), Ok(Reconciled::Working(_))) {}
    pipe.inspect().unwrap();
    pipe.release(&leases).unwrap();
}

#[test]
fn every_key_is_declared_and_no_more_is_allowed() {
    let redis = Redis::start();
    let mut admin = Pipe::open(&redis, "p");
    // The user of `docs/ledger.md`, for one pool's keys only and without what no script needs.
    let rules: Vec<String> = acl_rules()
        .into_iter()
        .filter(|rule| !matches!(rule.as_str(), "+select" | "+client|setname"))
        .map(|rule| match rule.as_str() {
            ">secret" => ">pw".into(),
            "~slotgate:*" => "~slotgate:{p}:*".into(),
            _ => rule,
        })
        .collect();
    let mut command: Vec<&[u8]> = vec![b"ACL", b"SETUSER", b"slot"];
    command.extend(rules.iter().map(String::as_bytes));
    assert_eq!(text(&admin.command(&command)), "+OK\r\n");
    let mut pipe = Pipe::open(&redis, "p");
    assert_eq!(text(&pipe.command(&[b"AUTH", b"slot", b"pw"])), "+OK\r\n");
    let mut listeners = [Pipe::open(&redis, "p"), Pipe::open(&redis, "p")];
    listeners[0].command(&[b"AUTH", b"slot", b"pw"]);
    for listener in &mut listeners {
        let reply = listener.command(&[b"SUBSCRIBE", pipe.waiting.channel.as_bytes()]);
        assert_eq!(reply[0], b'*', "{}", text(&reply));
    }
    exercise(&mut pipe);
    assert!(!listeners[1].published().is_empty());
    // Without a queue its rights are not needed.
    let dropped = admin.command(&[
        b"ACL",
        b"SETUSER",
        b"slot",
        b"resetchannels",
        b"-zrangebylex",
        b"-zlexcount",
        b"-publish",
        b"-subscribe",
    ]);
    assert_eq!(text(&dropped), "+OK\r\n");
    admin.command(&[b"FLUSHALL"]);
    let mut older = Pipe::open(&redis, "p");
    older.command(&[b"AUTH", b"slot", b"pw"]);
    exercise_all(&mut older, false);
    let mut other = Pipe::open(&redis, "other");
    other.command(&[b"AUTH", b"slot", b"pw"]);
    assert_eq!(
        other.sync(1, 1, None),
        Err(Fault::Denied),
        "another pool's keys are denied"
    );
}

#[test]
fn a_cluster_node_takes_every_script() {
    let cluster = RedisCluster::start(1);
    for pool in ["p", "other"] {
        exercise(&mut Pipe::open(&cluster.nodes[0], pool));
    }
}

/// The example through `envoy/redis/cluster.yaml`, and its `redis_proxy` on a port for the test's own commands.
fn through_redis_proxy(nodes: &[Redis]) -> EnvoyConfig {
    let config = EnvoyConfig::from_example().redis_as("envoy/redis/cluster.yaml");
    let config = config
        .redis(nodes[0].addr())
        .edit_cluster("redis", |redis| {
            redis
                .as_object_mut()
                .expect("a cluster")
                .remove("typed_extension_protocol_options");
        });
    config.edit(|document| {
        let listeners = document["static_resources"]["listeners"]
            .as_array_mut()
            .unwrap();
        let pipe = listeners.iter().find(|one| one["name"] == "slotgate_pipe");
        let proxy = pipe.unwrap()["filter_chains"][0]["filters"][1].clone();
        listeners.push(json!({
            "name": "redis",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
            "filter_chains": [{"filters": [proxy]}],
        }));
    })
}

#[test]
fn redis_proxy_takes_every_script_to_its_shard() {
    let cluster = RedisCluster::start(3);
    let nodes = &cluster.nodes;
    let upstream = Upstream::start();
    let envoy = Envoy::start(through_redis_proxy(nodes).upstream(upstream.addr()));
    for pool in ["p", "q", "r", "s", "t", "u"] {
        exercise(&mut Pipe::open_at(envoy.addrs()[1], pool));
    }
    for node in nodes {
        assert!(node.run::<i64>("DBSIZE", &[]) > 0, "each shard has a pool");
    }
    // The filter's own pipe, and again when every node has forgotten the scripts.
    let served = || {
        let reply = envoy.client().get("/", &[]);
        assert_eq!(reply.status, 200);
        reply.header("x-slotgate-path") == "atomic"
    };
    let counter = |name: &str| envoy.filter_stat(name);
    eventually(PATIENCE, served);
    for node in nodes {
        node.run::<()>("SCRIPT", &["FLUSH"]);
    }
    let errors = counter("redis_error;reason=no_script");
    for _ in 0..20 {
        assert!(served());
    }
    eventually(PATIENCE, || {
        counter("redis_error;reason=no_script") > errors
    });
    let key = "slotgate:{demo}:accounts";
    let owner = nodes
        .iter()
        .find(|node| node.run::<Vec<String>>("KEYS", &[key]).len() == 1);
    let ledger = Ledger::new(owner.expect("a shard has it"), "slotgate", "demo");
    eventually(PATIENCE, || ledger.is_empty());
    assert_eq!(counter("pipe.lost;reason=closed"), Some(0));
}
