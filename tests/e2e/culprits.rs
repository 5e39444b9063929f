//! Who is named in the log when Redis can't be reached.

use crate::world::{SOON, config, way};
use support::*;

/// The scheduler knows the cluster of the pipe, and the bridge what is behind it: together they lead to the address that is
/// wrong. Both say it once.
#[test]
fn an_address_where_nothing_listens_is_named() {
    let nobody = Port::free();
    let upstream = Upstream::start();
    let envoy = Envoy::start(
        config(&[("a", 5)])
            .redis(nobody.addr())
            .upstream(upstream.addr()),
    );
    let begin = format!(
        "bridge: a connection ended before anything came from Redis: cluster redis, address {}: ",
        nobody.addr()
    );
    eventually(SOON, || {
        assert_eq!(way(&envoy.client().get("/", &[])), (200, "traditional"));
        envoy.filter_stat("pipe.lost;reason=closed") >= Some(3)
    });
    let log = envoy.log();
    assert_eq!(log.matches(&begin).count(), 1, "{log}");
    assert!(log.contains("Connection refused"), "{log}");
    let down = "pipe to Redis is down: the connection was closed or refused; it never served through cluster slotgate_pipe: ";
    assert_eq!(log.matches(down).count(), 1, "{log}");
    assert!(
        log.contains("`slotgate check` on Envoy's configuration tells"),
        "{log}"
    );
}

/// Where all is well the bridge says nothing, and a Redis that goes away later is no fault of the set-up.
#[test]
fn a_redis_that_has_served_is_not_blamed_on_the_set_up() {
    let redis = Redis::start();
    let addr = redis.addr();
    let upstream = Upstream::start();
    let envoy = Envoy::start(config(&[("a", 5)]).redis(addr).upstream(upstream.addr()));
    eventually(SOON, || {
        way(&envoy.client().get("/", &[])) == (200, "atomic")
    });
    assert!(!envoy.log_contains("bridge: bridge: "), "{}", envoy.log());
    drop(redis);
    eventually(SOON, || {
        envoy.client().get("/", &[]);
        envoy.log_contains("pipe to Redis is down: the connection was closed or refused")
    });
    assert!(!envoy.log_contains("it never served"), "{}", envoy.log());
}
