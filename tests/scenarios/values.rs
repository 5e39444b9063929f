//! Where a request's values come from, and the headers that a pool or the traditional way sets.

use slotgate::config::{Config, Pool, Role, SetHeaders, ValueSource, parse};
use slotgate::hash::hash128;
use slotgate::pool::{RoutedAccounts, select};
use slotgate::request::classify::classify;
use slotgate::request::gray::{Bucketer, session};
use slotgate::request::headers::Headers;
use slotgate::request::view::View;

fn config() -> Config {
    let json = include_bytes!("../config/good/values.json");
    let env = |name: &str| (name == "API_KEY").then(|| "5ecret".to_owned());
    match parse(json, &env) {
        Ok(Role::Scheduler(config)) => {
            assert!(!format!("{config:?}").contains("5ecret"));
            *config
        }
        other => panic!("{other:?}"),
    }
}

/// The properties of the file, in its order: session, model, route name.
fn properties(session: &[u8], model: &[u8], route: &[u8]) -> [Vec<u8>; 3] {
    [session.to_vec(), model.to_vec(), route.to_vec()]
}

#[test]
fn a_path_is_named_once_and_keeps_dots_in_names() {
    let config = config();
    assert_eq!(
        config.properties,
        [
            &b"metadata\0filter_metadata\0slotgate\0session"[..],
            b"metadata\0filter_metadata\0envoy.lb\0model",
            b"route_name",
        ]
    );
    assert_eq!(config.cooldown.scope, Some(ValueSource::Property(1)));
    assert_eq!(config.pools[0].rules[0].source, ValueSource::Property(1));
}

#[test]
fn a_pool_is_picked_by_any_source() {
    let config = config();
    let pool = |headers: &[(&[u8], &[u8])], model: &[u8], route: &[u8]| {
        let bytes = Headers::serialize(headers);
        let properties = properties(b"", model, route);
        select(&config.pools, View::new(Headers::new(&bytes), &properties))
    };
    assert_eq!(pool(&[], b"gpt-5", b""), Some(0));
    assert_eq!(pool(&[], b"claude", b"to-openai"), Some(0));
    assert_eq!(
        pool(&[(b"cookie", b"a=b; provider=openai")], b"", b""),
        Some(0)
    );
    assert_eq!(pool(&[(b":path", b"/?provider=")], b"", b""), Some(0));
    assert_eq!(pool(&[(b":path", b"/provider=x")], b"", b""), Some(1));
    assert_eq!(pool(&[(b"cookie", b"provider=other")], b"", b""), Some(1));
    // A number, a list or a message: bytes that fit nothing.
    assert_eq!(pool(&[], &42_f64.to_le_bytes(), b""), Some(1));
    let mut long = b"gpt-".to_vec();
    long.resize(9_000, b'x');
    assert_eq!(pool(&[], &long, b""), Some(1));
    // Nothing was read: as where nothing is there.
    assert_eq!(select(&config.pools, Headers::new(&[])), Some(1));
}

#[test]
fn session_and_scope_come_from_properties() {
    let config = config();
    let bytes = Headers::serialize(&[(b"x-session-id", b"of-the-header")]);
    let properties = properties(b"of-the-body", b"gpt-5", b"");
    let both = View::new(Headers::new(&bytes), &properties);
    let body = View::new(Headers::new(&[]), &properties);
    let sources = &config.gray.session;
    assert_eq!(session(sources, both), Some(&b"of-the-header"[..]));
    assert_eq!(session(sources, body), Some(&b"of-the-body"[..]));
    let class = classify(&config, &Bucketer::new(""), body, 10_000, 0);
    assert_eq!(class.session, Some(hash128(b"of-the-body")));
    assert_eq!(class.scope, Some(Box::new(hash128(b"gpt-5"))));
}

fn pairs(headers: &SetHeaders) -> Vec<(&str, String)> {
    headers.iter("").collect()
}

#[test]
fn an_accounts_headers_come_before_its_pools_and_a_pools_before_all() {
    let config = config();
    let [openai, rest] = config.pools.as_slice() else {
        panic!("two pools")
    };
    let set =
        |account: usize| -> Vec<_> { openai.headers_for(&openai.accounts[account]).collect() };
    let text = |name, value: &str| (name, value.to_owned());
    assert_eq!(
        set(0),
        [text("x-constant", "c"), text("x-upstream", "openai_a-1")]
    );
    assert_eq!(
        set(1),
        [
            text("x-constant", "c"),
            text("x-key", "pool 5ecret a-2a-2"),
            text("x-upstream", "openai_a-2")
        ]
    );
    assert_eq!(
        pairs(&openai.traditional_headers),
        [text("x-key", "openai 5ecret"), text("x-way", "all")]
    );
    for all in [&rest.traditional_headers, &config.traditional_headers] {
        assert_eq!(
            pairs(all),
            [text("x-key", "all 5ecret"), text("x-way", "all")]
        );
    }
}

/// In shadow mode a request names an account by what tells one from another; a header that is the same for all does not.
#[test]
fn a_request_names_an_account_by_the_pools_headers_too() {
    let config = config();
    let routed = RoutedAccounts::new(&config.pools[0]);
    let named = |headers: &[(&[u8], &[u8])]| {
        let bytes = Headers::serialize(headers);
        routed.routed_to(Headers::new(&bytes))
    };
    let first: [(&[u8], &[u8]); 2] = [(b"x-key", b"own"), (b"x-upstream", b"openai_a-1")];
    let second: [(&[u8], &[u8]); 2] = [
        (b"x-key", b"pool 5ecret a-2a-2"),
        (b"x-upstream", b"openai_a-2"),
    ];
    assert_eq!((named(&first), named(&second)), (Some(0), Some(1)));
    assert_eq!(named(&first[..1]), None);
    assert_eq!(named(&[(b"x-constant", b"c")]), None);
    let Pool { accounts, .. } = &config.pools[1];
    assert!(accounts[0].set_headers.is_empty());
}
