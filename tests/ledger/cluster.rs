//! Every script with every key it may have, where a key that is not declared, or of another slot, is refused: under an ACL
//! for one pool's keys, on a cluster's node, and through Envoy's `redis_proxy` on a cluster of three masters.

use crate::pipe::{Answer, Pipe, account, text};
use crate::support::{Envoy, EnvoyConfig, Ledger, PATIENCE, Port, Redis, Upstream, eventually};
use serde_json::json;
use slotgate::lease::LeaseIds;
use slotgate::ledger::script::{Fault, Mode, Reconciled, Renewed, Synced};

/// Each script in each mode, with a session and a scope.
fn exercise(pipe: &mut Pipe) {
    let mut ids = LeaseIds::new(1);
    let (session, scope) = ([1; 16], [2; 16]);
    assert_eq!(pipe.sync(1, 1, None), Ok(Synced::Wanted));
    assert_eq!(
        pipe.sync(1, 1, Some(&[account("a", 2)])),
        Ok(Synced::Replaced)
    );
    let lease = ids.mint();
    let granted = Ok(Answer::Granted("a".into()));
    assert_eq!(
        pipe.acquire(lease, Mode::Take, Some((&session, 1000))),
        granted
    );
    pipe.cooldown_in("a", 10, Some(&scope)).unwrap();
    for mode in [Mode::Dry, Mode::Pin("a"), Mode::Force("a")] {
        let sessions = Some((&session, 1000));
        pipe.acquire_in(ids.mint(), mode, sessions, Some(&scope), 4)
            .unwrap();
    }
    pipe.cooldown("a", 10).unwrap();
    let epoch = pipe.epoch;
    let lost = ids.mint();
    let renewed = pipe.renew(&[(lease, "a", epoch), (lost, "a", epoch + 1)]);
    assert_eq!(renewed, Ok(vec![Renewed::Renewed, Renewed::Readopted]));
    assert_eq!(pipe.release(&[lease, lost]), Ok(2));
    pipe.inspect().unwrap();
    for verb in ["drain", "undrain", "thaw"] {
        pipe.control(verb, "a", None).unwrap();
    }
    pipe.control("unbind", "", Some(&session)).unwrap();
    while matches!(pipe.reconcile("one", 1000, 10), Ok(Reconciled::Working(_))) {}
    assert_eq!(pipe.reconcile("two", 1000, 10), Ok(Reconciled::Elsewhere));
    assert_eq!(
        pipe.sync(2, 2, Some(&[account("b", 1)])),
        Ok(Synced::Replaced)
    );
    assert_eq!(
        pipe.acquire(ids.mint(), Mode::Take, None),
        Ok(Answer::Granted("b".into()))
    );
}

#[test]
fn every_key_is_declared_and_no_more_is_allowed() {
    let redis = Redis::start();
    let mut admin = Pipe::open(&redis, "p");
    let rule = "user slot on >pw ~slotgate:{p}:* -@all +evalsha +script|load +time +hget +hset +hdel +hmget \
                +hgetall +hexists +hincrby +hscan +zadd +zrem +zrange +zrangebyscore +zremrangebyscore +zscore \
                +zmscore +zcount +zcard +zscan +get +set +del +pexpire +pexpireat";
    let mut command: Vec<&[u8]> = vec![b"ACL", b"SETUSER"];
    command.extend(rule.split_whitespace().skip(1).map(str::as_bytes));
    assert_eq!(text(&admin.command(&command)), "+OK\r\n");
    let mut pipe = Pipe::open(&redis, "p");
    assert_eq!(text(&pipe.command(&[b"AUTH", b"slot", b"pw"])), "+OK\r\n");
    exercise(&mut pipe);
    let mut other = Pipe::open(&redis, "other");
    other.command(&[b"AUTH", b"slot", b"pw"]);
    assert_eq!(
        other.sync(1, 1, None),
        Err(Fault::Denied),
        "another pool's keys are denied"
    );
}

/// So many masters that share all slots, and the ports they talk to each other on.
fn cluster(masters: u16) -> (Vec<Redis>, Vec<Port>) {
    let buses: Vec<Port> = (0..masters).map(|_| Port::free()).collect();
    let start = |bus: &Port| {
        let bus = bus.number().to_string();
        let timeout = ["--cluster-node-timeout", "2000"];
        Redis::start_with(
            &[
                &["--cluster-enabled", "yes", "--cluster-port", &bus],
                &timeout[..],
            ]
            .concat(),
        )
    };
    let nodes: Vec<Redis> = buses.iter().map(start).collect();
    for (place, node) in (0..).zip(&nodes) {
        let first = 16_384_u32 * place / u32::from(masters);
        let last = 16_384_u32 * (place + 1) / u32::from(masters) - 1;
        node.run::<()>(
            "CLUSTER",
            &["ADDSLOTSRANGE", &first.to_string(), &last.to_string()],
        );
        let (port, bus) = (nodes[0].port().to_string(), buses[0].number().to_string());
        node.run::<()>("CLUSTER", &["MEET", "127.0.0.1", &port, &bus]);
    }
    for node in &nodes {
        eventually(PATIENCE, || {
            let info: String = node.run("CLUSTER", &["INFO"]);
            info.contains("cluster_state:ok") && info.contains(&format!("cluster_size:{masters}\r"))
        });
    }
    (nodes, buses)
}

#[test]
fn a_cluster_node_takes_every_script() {
    let (nodes, _buses) = cluster(1);
    for pool in ["p", "other"] {
        exercise(&mut Pipe::open(&nodes[0], pool));
    }
}

/// The example's pipe with `redis_proxy` in `tcp_proxy`'s place.
fn through_redis_proxy(nodes: &[Redis]) -> EnvoyConfig {
    EnvoyConfig::from_example().redis(nodes[0].addr()).redis_proxy().edit(|document| {
        let resources = &mut document["static_resources"];
        let redis = resources["clusters"].as_array_mut().unwrap().iter_mut().find(|one| one["name"] == "redis");
        let redis = redis.unwrap();
        redis["lb_policy"] = json!("CLUSTER_PROVIDED");
        redis["cluster_type"] = json!({
            "name": "envoy.clusters.redis",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.redis.v3.RedisClusterConfig",
                "cluster_refresh_rate": "1s",
            },
        });
        let listeners = resources["listeners"].as_array_mut().unwrap();
        // And on a port, for the test's own commands.
        listeners.push(json!({
            "name": "redis",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
            "filter_chains": [{"filters": [EnvoyConfig::redis_proxy_filter()]}],
        }));
    })
}

#[test]
fn redis_proxy_takes_every_script_to_its_shard() {
    let (nodes, _buses) = cluster(3);
    let upstream = Upstream::start();
    let envoy = Envoy::start(through_redis_proxy(&nodes).upstream(upstream.addr()));
    for pool in ["p", "q", "r", "s", "t", "u"] {
        exercise(&mut Pipe::open_at(envoy.addrs()[1], pool));
    }
    for node in &nodes {
        assert!(node.run::<i64>("DBSIZE", &[]) > 0, "each shard has a pool");
    }
    // The filter's own pipe, and again when every node has forgotten the scripts.
    let served = || {
        let reply = envoy.client().get("/", &[]);
        assert_eq!(reply.status, 200);
        reply.header("x-slotgate-path") == "atomic"
    };
    let counter = |name: &str| envoy.stat(&format!("wasmcustom.slotgate.{name}"));
    eventually(PATIENCE, served);
    for node in &nodes {
        node.run::<()>("SCRIPT", &["FLUSH"]);
    }
    let errors = counter("redis_error.no_script");
    for _ in 0..20 {
        assert!(served());
    }
    eventually(PATIENCE, || counter("redis_error.no_script") > errors);
    let key = "slotgate:{demo}:accounts";
    let owner = nodes
        .iter()
        .find(|node| node.run::<Vec<String>>("KEYS", &[key]).len() == 1);
    let ledger = Ledger::new(owner.expect("a shard has it"), "slotgate", "demo");
    eventually(PATIENCE, || ledger.is_empty());
    assert_eq!(counter("pipe.lost.closed"), Some(0));
}
