//! A value that is sent twice: an empty one hides none that comes after it.

use crate::config;
use slotgate::request::gray::{Bucketer, Choice, session};
use slotgate::request::headers::Headers;

fn serialized(headers: &[(&str, &str)]) -> Vec<u8> {
    let pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect();
    Headers::serialize(&pairs)
}

#[test]
fn the_session_is_the_first_value_that_is_not_empty() {
    let config = config(|json| {
        json["gray"]["session"] =
            serde_json::json!([{"header": "x-sid"}, {"cookie": "sid"}, {"query": "s"}]);
    });
    for (headers, found) in [
        (
            &[("x-sid", ""), ("x-sid", "b"), ("x-sid", "c")][..],
            Some("b"),
        ),
        (&[("x-sid", ""), ("cookie", "sid=c")], Some("c")),
        (&[("cookie", "sid=; sid=c; sid=d")], Some("c")),
        (&[("cookie", "sid= ;sid=c")], Some("c")),
        (&[("cookie", "sid="), ("cookie", "sid=c")], Some("c")),
        (
            &[("cookie", "sid=; other=1"), (":path", "/?s=q")],
            Some("q"),
        ),
        (&[(":path", "/?s=&s=q&s=r")], Some("q")),
        (&[(":path", "/?s=&ss=q#s=r")], None),
        (
            &[("x-sid", ""), ("cookie", "sid="), (":path", "/?s=")],
            None,
        ),
    ] {
        let bytes = serialized(headers);
        let session = session(&config.gray.session, Headers::new(&bytes));
        assert_eq!(session, found.map(str::as_bytes), "{headers:?}");
    }
}

fn choice(headers: &[(&str, &str)], random: u64) -> Choice {
    let config = config(|json| {
        json["gray"]["percent"] = 50.into();
        json["gray"]["override"] =
            serde_json::json!({"header": "x-slotgate-gray", "token_env": "TOKEN"});
    });
    let bytes = serialized(headers);
    let headers = Headers::new(&bytes);
    let gate = Bucketer::new(&config.gray.salt);
    gate.choose(&config.gray, 5_000, headers, None, random).0
}

#[test]
fn so_is_the_request_id() {
    let out = (0..100).find(|n| choice(&[("x-request-id", &n.to_string())], 0) == Choice::Out);
    let out = out.expect("half of them").to_string();
    let twice = [("x-request-id", ""), ("x-request-id", out.as_str())];
    assert_eq!(choice(&twice, 0), Choice::Out);
}

#[test]
fn and_the_first_valid_override() {
    let name = "x-slotgate-gray";
    for (values, expected) in [
        (["", "t0k:off"], Choice::Out),
        (["wrong:on", "t0k:off"], Choice::Out),
        (["t0k:off", "t0k:on"], Choice::Out),
        (["t0k:on", "t0k:off"], Choice::In),
    ] {
        // Chance says the opposite.
        let random = if expected == Choice::In { 9_999 } else { 0 };
        let headers = values.map(|value| (name, value));
        assert_eq!(choice(&headers, random), expected, "{values:?}");
    }
}
