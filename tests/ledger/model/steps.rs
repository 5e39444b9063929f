//! The random steps: commands, and time passing.

use proptest::prelude::*;

pub const ACCOUNTS: [&str; 5] = ["a", "b", "c", "d", "e"];
pub const LEASES: usize = 20;
pub const SESSIONS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Take,
    Dry,
    Force,
}

/// One lease of an acquire, by index: its session, its scope and, to be forced, its account.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    pub lease: usize,
    pub session: usize,
    pub scope: usize,
    pub account: usize,
}

/// An acquire's arguments.
#[derive(Debug, Clone)]
pub struct Ask {
    pub items: Vec<Item>,
    pub way: Way,
    pub sessions: bool,
    pub scopes: bool,
    pub ttl_ms: u64,
    pub seed: u32,
}

/// One command, or time passing.
#[derive(Debug, Clone)]
pub enum Step {
    Wait(u64),
    Acquire(Ask),
    Release(Vec<usize>),
    /// Leases with the account they claim and whether their epoch is the present one.
    Renew {
        leases: Vec<(usize, usize, bool)>,
        ttl_ms: u64,
    },
    /// The revision against the one in force; each account's slots (0: not in it), base and whether it is enabled.
    Sync {
        revision: i64,
        accounts: Vec<(u32, u64, bool)>,
    },
    Cooldown {
        account: usize,
        length_ms: u64,
        scope: Option<usize>,
    },
    CoolThenProbe(usize, u64),
    Behind(usize, u64),
    /// The account's last probe passes, or another lease pretends to be it.
    Passed(usize, Option<usize>),
    Drain(usize),
    Undrain(usize),
    Thaw(usize),
    Unbind(usize),
    Percent(Option<u16>),
    Reconcile {
        by: bool,
        count: u64,
    },
    Inspect,
    Flush,
}

pub fn steps() -> impl Strategy<Value = Step> {
    let account = 0..ACCOUNTS.len();
    let lease = 0..LEASES;
    let ttl = prop_oneof![4 => 1_000_u64..20_000, 1 => 1_u64..50];
    let way = prop_oneof![
        8 => Just(Way::Take),
        2 => Just(Way::Dry),
        2 => Just(Way::Force),
    ];
    // Mostly one lease, as when requests come one at a time.
    let items = (
        prop_oneof![3 => 1..2_usize, 2 => 2..7_usize],
        Just((0..LEASES).collect::<Vec<_>>()).prop_shuffle(),
        proptest::collection::vec((0..SESSIONS, 0..2_usize, 0..ACCOUNTS.len()), 6),
    )
        .prop_map(|(count, leases, rest)| {
            let items = leases.into_iter().zip(rest).take(count);
            items
                .map(|(lease, (session, scope, account))| Item {
                    lease,
                    session,
                    scope,
                    account,
                })
                .collect::<Vec<_>>()
        });
    let accounts = proptest::collection::vec(
        (
            prop_oneof![1 => Just(0_u32), 6 => 1_u32..4],
            prop_oneof![Just(0_u64), Just(250_000), Just(3_000_000)],
            proptest::bool::weighted(0.9),
        ),
        ACCOUNTS.len(),
    );
    let scope = proptest::option::weighted(0.2, 0..2_usize);
    prop_oneof![
        6 => prop_oneof![1_u64..100, 100_u64..3_000, 3_000_u64..30_000].prop_map(Step::Wait),
        30 => (items, way, proptest::bool::weighted(0.4), proptest::bool::weighted(0.2), ttl.clone(), any::<u32>())
            .prop_map(|(items, way, sessions, scopes, ttl_ms, seed)| Step::Acquire(Ask { items, way, sessions, scopes, ttl_ms, seed })),
        16 => proptest::collection::vec(lease.clone(), 1..4).prop_map(Step::Release),
        8 => (proptest::collection::vec((lease, account.clone(), proptest::bool::weighted(0.8)), 1..6), ttl)
            .prop_map(|(leases, ttl_ms)| Step::Renew { leases, ttl_ms }),
        4 => (-1_i64..3, accounts).prop_map(|(revision, accounts)| Step::Sync { revision, accounts }),
        4 => (account.clone(), 1_u64..20_000, scope).prop_map(|(account, length_ms, scope)| {
            Step::Cooldown { account, length_ms, scope }
        }),
        6 => (account.clone(), 1_u64..10_000).prop_map(|(account, ms)| Step::CoolThenProbe(account, ms)),
        3 => (account.clone(), 1_u64..20_000).prop_map(|(account, ms)| Step::Behind(account, ms)),
        3 => (account.clone(), proptest::option::weighted(0.3, 0..LEASES))
            .prop_map(|(account, lease)| Step::Passed(account, lease)),
        1 => account.clone().prop_map(Step::Drain),
        1 => account.clone().prop_map(Step::Undrain),
        1 => account.prop_map(Step::Thaw),
        1 => (0..SESSIONS).prop_map(Step::Unbind),
        1 => proptest::option::of(0_u16..=10_000).prop_map(Step::Percent),
        8 => (proptest::bool::weighted(0.9), 1_u64..20).prop_map(|(by, count)| Step::Reconcile { by, count }),
        2 => Just(Step::Inspect),
        1 => proptest::bool::weighted(0.15).prop_map(|flush| if flush { Step::Flush } else { Step::Wait(1) }),
    ]
}
