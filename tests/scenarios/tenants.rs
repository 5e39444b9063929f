//! Whose request it is: from any bytes of a client to the name that a lease id carries.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;
use slotgate::config::{Config, Role, TenantLimits, Tenants, parse};
use slotgate::request::classify::{Tenant, classify};
use slotgate::request::gray::Bucketer;
use slotgate::request::headers::Headers;
use slotgate::request::lease::{LeaseId, LeaseIds};
use slotgate::request::view::{MOST_PROPERTY_BYTES, View};

fn config(mode: &str) -> Config {
    let json = json!({
        "role": "scheduler",
        "traditional": {"mode": mode},
        "tenant": {
            "source": [{"header": "x-tenant"}, {"cookie": "tenant"}, {"property": "metadata.filter_metadata.a.tenant"}],
            "max_concurrency": 3,
            "overrides": [{"tenant": "alice", "weight": 4}],
        },
        "pools": [{"name": "p", "accounts": [{"id": "a", "max_concurrency": 1}]}],
    });
    match parse(json.to_string().as_bytes(), &|_| None) {
        Ok(Role::Scheduler(config)) => *config,
        other => panic!("{other:?}"),
    }
}

type Bytes<'a> = &'a [u8];
type Lines<'a> = &'a [(Bytes<'a>, Bytes<'a>)];

/// Of a request with these headers and this property, when so many basis points are in.
fn tenant(config: &Config, headers: Lines, property: &[u8], share: u16) -> Option<Tenant> {
    let bytes = Headers::serialize(headers);
    let properties = [property.to_vec()];
    let view = View::new(Headers::new(&bytes), &properties);
    let class = classify(config, &Bucketer::new(""), view, share, 0);
    class.tenant.map(|tenant| *tenant)
}

#[test]
fn classify_reads_the_first_tenant_that_is_not_empty() {
    let config = config("passthrough");
    let cookie: (Bytes, Bytes) = (b"cookie", b"a=b; tenant=of-the-cookie");
    let long = vec![b'x'; MOST_PROPERTY_BYTES + 1];
    let cases: [(Lines, Bytes, Option<Bytes>); 7] = [
        (&[], b"", None),
        (&[(b"x-tenant", b"")], b"", None),
        (&[], &long, None),
        (&[], b"of-the-body", Some(b"of-the-body")),
        (&[cookie], b"of-the-body", Some(b"of-the-cookie")),
        (&[(b"x-tenant", b""), cookie], b"", Some(b"of-the-cookie")),
        (
            &[(b"x-tenant", b""), (b"x-tenant", b"second"), cookie],
            b"",
            Some(b"second"),
        ),
    ];
    for (headers, property, expected) in cases {
        let found = tenant(&config, headers, property, 10_000);
        assert_eq!(found.map(|tenant| tenant.name), expected.map(Tenants::name));
    }
}

#[test]
fn classify_gives_a_tenant_its_own_limits() {
    let config = config("passthrough");
    let of = |value: &[u8]| tenant(&config, &[(b"x-tenant", value)], b"", 10_000).unwrap();
    let others = TenantLimits {
        max_concurrency: 3,
        max_waiting: 0,
        weight: 1,
    };
    assert_eq!(of(b"bob").limits, others);
    assert_eq!(of(b"Alice").limits, others);
    let alice = of(b"alice");
    assert_eq!(
        alice.limits,
        TenantLimits {
            weight: 4,
            ..others
        }
    );
    assert_eq!(of(&vec![0xff; 10_000_000]).limits, others);
    // As a session of this value is called in Redis: docs/ledger.md shows it.
    assert_eq!(&alice.name, b"b5a4ea9c1086f2b2");
}

#[test]
fn classify_reads_no_tenant_of_a_request_that_gets_no_account() {
    let headers: Lines = &[(b"x-tenant", b"alice")];
    let is_read = |mode, share| tenant(&config(mode), headers, b"", share).is_some();
    assert!(!is_read("passthrough", 0));
    assert!(is_read("passthrough", 10_000));
    assert!(is_read("local", 0));
}

static CONFIG: LazyLock<Config> = LazyLock::new(|| config("passthrough"));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever a client sends, and however much of it.
    #[test]
    fn classify_makes_a_name_of_any_bytes(
        value in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            (any::<u8>(), 0_usize..20_000).prop_map(|(byte, length)| vec![byte; length]),
        ],
        other in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let name = |value: &[u8]| {
            let found = tenant(&CONFIG, &[(b"x-tenant", value)], b"", 10_000);
            found.map(|tenant| tenant.name)
        };
        let own = name(&value);
        prop_assert_eq!(own, name(&value), "the same value, the same name");
        prop_assert_eq!(own.is_none(), value.is_empty());
        prop_assert_eq!(own == name(&other), value == other);
        let id = LeaseIds::new(7).mint(own.as_ref());
        let tenant_of_id = id.as_bytes().get(LeaseId::LEN + 1..);
        prop_assert_eq!(tenant_of_id, own.as_ref().map(|name| &name[..]));
        if let Some(name) = own {
            let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            prop_assert!(name.iter().all(hex), "{:?}", name);
            prop_assert_eq!(id.as_bytes().len(), LeaseId::LEN_WITH_TENANT);
            // Of what a client sent nothing is in it, but by chance a digit or two: before the name stands what it is without one.
            let plain = LeaseIds::new(7).mint(None);
            prop_assert_eq!(id.as_bytes().get(..LeaseId::LEN), Some(plain.as_bytes()));
            let holds_it = value.len() > 4 && name.windows(value.len()).any(|part| part == value);
            prop_assert!(!holds_it);
        }
    }
}
