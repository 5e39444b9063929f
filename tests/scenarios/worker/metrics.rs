//! What is measured of requests, shown of accounts, and told to the access log.

use super::rig::{Rig, granted};
use crate::config;
use slotgate::pool::state::State;
use slotgate::pool::{AccountTable, Seen};
use slotgate::request::admission::Reason;
use slotgate::request::verdict::Logged;
use slotgate::worker::counters::Counter;
use slotgate::worker::output::Gauges;

fn logged(json: &mut serde_json::Value) {
    json["access_log"] = true.into();
}

fn gauges(rig: &Rig) -> [u64; Gauges::NAMES.len()] {
    rig.worker.gauges().0
}

#[test]
fn a_wait_is_measured_from_the_headers_to_the_verdict() {
    let mut rig = Rig::ready(logged);
    rig.worker.output().waited_us.clear();
    rig.worker.set_clock_us(7_000_000);
    let (id, _) = rig.acquiring();
    assert_eq!(rig.worker.output().log, None, "not before the verdict");
    rig.worker.set_clock_us(7_001_250);
    rig.reply(&granted("a"));
    assert_eq!(rig.worker.output().waited_us, [(Some(0), 1_250)]);
    let answer = rig.worker.next_answer().unwrap();
    let logged = answer.log.unwrap();
    assert_eq!(
        (answer.request.stream, logged.acquire_us),
        (id.stream, Some(1_250))
    );
    assert_eq!(logged.acquire_ms().as_deref(), Some("1.250"));
    assert!(logged.bucket.is_some());

    // Whose client left is in neither.
    rig.worker.output().waited_us.clear();
    let (id, _) = rig.acquiring();
    rig.worker.on_end(rig.now_ms, id);
    rig.reply(&granted("a"));
    assert!(rig.worker.output().waited_us.is_empty() && rig.worker.next_answer().is_none());

    // Of a request that does not wait.
    let mut rig = Rig::new(|json| {
        self::logged(json);
        json["gray"]["percent"] = 0.into();
    });
    assert!(rig.request(&[]).1.is_some());
    let logged = rig.worker.output().log.unwrap();
    assert!(logged.bucket.is_some() && logged.acquire_us.is_none());
}

#[test]
fn milliseconds_have_three_decimals() {
    let mut logged = Logged {
        bucket: None,
        acquire_us: None,
    };
    for (us, text) in [
        (0, "0.000"),
        (7, "0.007"),
        (999, "0.999"),
        (61_040, "61.040"),
        (u64::MAX, "18446744073709551.615"),
    ] {
        logged.acquire_us = Some(us);
        assert_eq!(logged.acquire_ms().as_deref(), Some(text));
    }
    logged.acquire_us = None;
    assert_eq!(logged.acquire_ms(), None);
}

#[test]
fn without_the_setting_the_log_is_told_nothing() {
    let mut rig = Rig::ready(|_| {});
    rig.acquiring();
    rig.reply(&granted("a"));
    assert_eq!(rig.worker.next_answer().unwrap().log, None);
}

/// Nobody takes the waits of a host that never ticks: they must not pile up.
#[test]
fn waits_are_bounded() {
    let mut rig = Rig::ready(|json| json["saturated"]["refuse_ms"] = 0.into());
    for _ in 0..20_100 {
        let (id, _) = rig.acquiring();
        rig.reply("*2\r\n$1\r\n9\r\n:1\r\n");
        rig.worker.on_end(rig.now_ms, id);
        rig.answers();
    }
    assert_eq!(rig.worker.output().waited_us.len(), 20_000);
}

#[test]
fn gauges_follow_the_pipe_the_queue_and_the_breaker() {
    let mut rig = Rig::new(|json| json["redis"]["breaker"] = serde_json::json!({"failures": 1}));
    assert_eq!(gauges(&rig), [0, 0, 0, 0, 0, 0], "no pipe is wanted yet");
    rig.request(&[]);
    assert_eq!(
        gauges(&rig),
        [0, 0, 1, 1, 0, 0],
        "it opens, and a request waits for it"
    );
    rig.reopen();
    rig.reply(&granted("a"));
    rig.commands();
    assert_eq!(gauges(&rig), [0, 1, 0, 0, 0, 0]);
    rig.acquiring();
    assert_eq!(gauges(&rig), [0, 1, 0, 1, 0, 0]);
    rig.wait(60);
    assert_eq!(gauges(&rig)[..3], [1, 1, 0], "it was too late");
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(gauges(&rig), [1, 0, 1, 0, 0, 0]);
    rig.reopen();
    assert_eq!(gauges(&rig)[..3], [0, 1, 0]);
}

#[test]
fn accounts_beyond_the_bound_are_shown_as_one() {
    let config = config(|json| {
        json["metrics"] = serde_json::json!({"max_accounts": 2});
        let account = |n: u32| serde_json::json!({"id": format!("a{n}"), "max_concurrency": n + 1});
        json["pools"][0]["accounts"] = (0..4).map(account).collect();
    });
    let mut counts = AccountTable::new(&config.pools[0], &config);
    let shown = |counts: &AccountTable| {
        let (shown, seen) = counts.shown();
        let each = shown
            .iter()
            .map(|one| (one.requests, one.held, one.used, one.max_concurrency));
        (each.collect::<Vec<_>>(), seen)
    };
    assert_eq!(
        shown(&counts),
        (vec![(0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 0, 7)], 0)
    );
    for account in [0, 2, 3, 3] {
        counts.up(account);
    }
    counts.down(3);
    assert_eq!(
        shown(&counts),
        (vec![(1, 1, 0, 1), (0, 0, 0, 2), (3, 2, 0, 7)], 0)
    );
    let seen = |id, used, max_concurrency, state| Seen {
        id,
        used,
        max_concurrency,
        state: Some(state),
    };
    let three = [
        seen(&b"a1"[..], 5, 6, State::Behind),
        seen(b"a2", 7, 8, State::Full),
        seen(b"a3", 9, 10, State::Full),
    ];
    counts.see(three.into_iter());
    let state = |counts: &AccountTable| {
        let (shown, _) = counts.shown();
        shown.iter().map(|one| one.state).collect::<Vec<_>>()
    };
    // By its place among all states; one that was not seen has none.
    assert_eq!(state(&counts)[..2], [0, 2]);
    assert_eq!(counts.states(), &[0, 1, 2, 0, 0, 0, 0, 0, 0, 0]);
    // The ledger has no account 0 any more.
    assert_eq!(
        shown(&counts),
        (vec![(1, 1, 0, 0), (0, 0, 5, 6), (3, 2, 16, 18)], 1)
    );
    counts.see(std::iter::empty());
    assert_eq!(shown(&counts).0[1], (0, 0, 5, 6), "what was known stays");
    assert_eq!(counts.states(), &[0; 10]);
    counts.see([seen(&b"a0"[..], 1, 2, State::Removed)].into_iter());
    assert_eq!(state(&counts)[..2], [10, 0]);
    assert_eq!(counts.states(), &[0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(
        shown(&counts),
        (vec![(1, 1, 1, 2), (0, 0, 0, 0), (3, 2, 0, 0)], 3)
    );
}

/// Both sides of the percentage are counted for the pool; what goes no further is counted too.
#[test]
fn in_and_out_are_counted_by_pool() {
    let mut rig = Rig::ready(|json| json["gray"]["percent"] = 50.into());
    let before = rig.count(Counter::In);
    for number in 0..200 {
        rig.request(&[("x-session-id", &format!("s{number}"))]);
    }
    let (inside, outside) = (rig.count(Counter::In) - before, rig.count(Counter::Out));
    assert_eq!(inside + outside, 200);
    assert!((70..=130).contains(&inside), "{inside}");
    let out = Counter::Traditional(Reason::OutOfPercentage);
    assert_eq!(rig.count(out), outside);
}
