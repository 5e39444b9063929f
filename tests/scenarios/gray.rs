//! Who is in: golden buckets, shares over a million sessions, sources of the session, the override.

use crate::config;
use slotgate::request::gray::{Bucketer, Choice, session};
use slotgate::request::headers::Headers;

/// Computed by an independent implementation in Python, itself checked against SipHash's published vectors (see `src/request/gray.rs` for the rule).
const GOLDEN: &[(&str, &str, u16)] = &[
    ("", "", 4932),
    ("", "a", 2022),
    ("", "session-1", 8289),
    ("salt", "session-1", 8257),
    ("salt", "7f9c2ba4e88f827d616045507605853e", 9582),
    ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "ünï", 8887),
];

#[test]
fn golden_buckets() {
    assert!(!GOLDEN.is_empty());
    for (salt, session, bucket) in GOLDEN {
        assert_eq!(
            Bucketer::new(salt).bucket(session.as_bytes()),
            *bucket,
            "{salt:?} {session:?}"
        );
    }
}

#[test]
fn shares_over_a_million_sessions() {
    const SESSIONS: u32 = 1_000_000;
    let gate = Bucketer::new("salt");
    let buckets: Vec<u16> = (0..SESSIONS)
        .map(|n| gate.bucket(format!("session-{n}").as_bytes()))
        .collect();
    let mut before = 0;
    for percent in [0.0, 0.01, 1.0, 5.0, 10.0, 50.0, 99.99, 100.0] {
        let points = config(|json| json["gray"]["percent"] = percent.into())
            .gray
            .basis_points;
        let inside = buckets.iter().filter(|bucket| **bucket < points).count();
        let share = inside as f64 * 100.0 / f64::from(SESSIONS);
        assert!(
            (share - percent).abs() <= 0.2,
            "{percent} % let {share} % in"
        );
        if percent == 0.0 || percent == 100.0 {
            assert_eq!(share, percent, "exactly none, exactly all");
        }
        // The bucket alone decides, so whoever was in at a smaller percentage stays in.
        assert!(inside >= before);
        before = inside;
    }
}

#[test]
fn another_salt_is_another_draw() {
    let (one, two) = (Bucketer::new("one"), Bucketer::new("two"));
    let both = (0..10_000).filter(|n| {
        let session = format!("s{n}");
        one.bucket(session.as_bytes()) < 1000 && two.bucket(session.as_bytes()) < 1000
    });
    let both = both.count();
    assert!(
        (40..180).contains(&both),
        "10 % of 10 % of 10,000 expected, {both} seen"
    );
}

fn choose(
    change: impl FnOnce(&mut serde_json::Value),
    headers: &[(&str, &str)],
    random: u64,
) -> Choice {
    let config = config(change);
    let pairs: Vec<_> = headers
        .iter()
        .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
        .collect();
    let bytes = Headers::serialize(&pairs);
    let headers = Headers::new(&bytes);
    Bucketer::new(&config.gray.salt)
        .choose(
            &config.gray,
            config.gray.basis_points,
            headers,
            session(&config.gray.session, headers),
            random,
        )
        .0
}

#[test]
fn without_a_session_the_request_id_then_chance() {
    let half = |json: &mut serde_json::Value| json["gray"]["percent"] = 50.into();
    // Never bucket 0 by accident: with nothing to go by, the random number decides.
    assert_eq!(choose(half, &[], 4_999), Choice::In);
    assert_eq!(choose(half, &[], 5_000), Choice::Out);
    assert_eq!(
        choose(half, &[("x-session-id", ""), ("x-request-id", "")], 5_000),
        Choice::Out
    );
    let by_id = |n: u32| choose(half, &[("x-request-id", &format!("r{n}"))], 0);
    let inside = (0..1000).filter(|n| by_id(*n) == Choice::In).count();
    assert!((400..600).contains(&inside), "{inside}");
    let by_session = |random: u64| {
        choose(
            half,
            &[("x-session-id", "s"), ("x-request-id", &random.to_string())],
            random,
        )
    };
    assert!(
        (0..100).all(|random| by_session(random) == by_session(0)),
        "the session alone decides"
    );
}

#[test]
fn the_first_source_that_is_not_empty() {
    let config = config(|json| {
        json["gray"]["session"] =
            serde_json::json!([{"header": "X-Sid"}, {"cookie": "sid"}, {"query": "session"}]);
    });
    let found = |headers: &[(&str, &str)]| {
        let pairs: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
            .collect();
        let bytes = Headers::serialize(&pairs);
        session(&config.gray.session, Headers::new(&bytes))
            .map(|s| String::from_utf8_lossy(s).into_owned())
    };
    let path = (":path", "/v1/chat?a=1&session=q%20q&session=2#session=3");
    let cookie = ("cookie", "other=1; sid=c=c ; x");
    assert_eq!(found(&[path, cookie, ("x-sid", "h")]).as_deref(), Some("h"));
    assert_eq!(
        found(&[path, cookie, ("x-sid", "")]).as_deref(),
        Some("c=c")
    );
    assert_eq!(
        found(&[path, ("cookie", "sid="), ("cookie", "ssid=1")]).as_deref(),
        Some("q%20q")
    );
    assert_eq!(found(&[(":path", "/?session")]), None);
    assert_eq!(found(&[(":path", "/")]), None);
    assert_eq!(found(&[]), None);
}

#[test]
fn the_override_needs_its_token() {
    let with_token = |json: &mut serde_json::Value| {
        json["gray"]["percent"] = 0.into();
        json["gray"]["override"] =
            serde_json::json!({"header": "x-slotgate-gray", "token_env": "TOKEN"});
    };
    let full = |json: &mut serde_json::Value| {
        with_token(json);
        json["gray"]["percent"] = 100.into();
    };
    assert_eq!(
        choose(with_token, &[("x-slotgate-gray", "t0k:on")], 0),
        Choice::In
    );
    assert_eq!(
        choose(full, &[("x-slotgate-gray", "t0k:off")], 0),
        Choice::Out
    );
    for wrong in [
        "t0K:on",
        "t0k",
        "t0k:",
        "t0k:ON",
        ":on",
        "on",
        "",
        "xt0k:on",
        "t0k:on:on",
    ] {
        assert_eq!(
            choose(with_token, &[("x-slotgate-gray", wrong)], 0),
            Choice::Out,
            "{wrong:?}"
        );
    }
    let without = |json: &mut serde_json::Value| json["gray"]["percent"] = 0.into();
    assert_eq!(
        choose(without, &[("x-slotgate-gray", ":on")], 0),
        Choice::Out
    );
}
