//! The random steps: commands, and time passing.

use super::operator::Set;
use super::pace::Rate;
use proptest::prelude::*;
use slotgate::ledger::commands::Change;

pub const ACCOUNTS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// The last of these are of a tenant each (`tenant_of`).
pub const LEASES: usize = 26;
pub const SESSIONS: usize = 3;

/// The tenants, by the first of their leases: name, most leases, most that wait, weight.
pub const TENANTS: [(usize, &str, u32, u32, u32); 2] =
    [(12, "gold", 2, 0, 4), (19, "lead", 0, 3, 1)];

/// Which tenant a lease is of.
pub fn tenant_of(lease: usize) -> Option<usize> {
    TENANTS.iter().rposition(|(first, ..)| lease >= *first)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Take,
    Dry,
    Force,
    Join,
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
    pub wait: Wait,
    /// The accounts that were tried before, to take or to join.
    pub tried: Vec<usize>,
}

/// How those wait that join: how many may, for how long they are vouched for, on which of two channels they listen, and whether
/// they say where they stood before.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub most: u32,
    pub vouched_ms: u64,
    pub channel: usize,
    pub in_order: bool,
}

/// An account as a configuration lists it.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// 0: it does not.
    pub max: u32,
    pub base: u64,
    pub enabled: bool,
    pub pace: Option<Rate>,
}

impl Listed {
    pub fn new((max, base, enabled, pace): (u32, u64, bool, Option<Rate>)) -> Self {
        Self {
            max,
            base,
            enabled,
            pace,
        }
    }
}

/// With turns of whole µs.
const PACES: [Rate; 4] = [[1, 1_000, 1], [4, 2_000, 2], [10, 1_000, 5], [2, 30_000, 2]];

/// One command, or time passing.
#[derive(Debug, Clone)]
pub enum Step {
    Wait(u64),
    Acquire(Ask),
    Release(Vec<usize>),
    /// Leases with an account that they claim, whether their epoch is the present one, and whether they rather claim the account
    /// that they have, if they have one.
    Renew {
        leases: Vec<(usize, usize, bool, bool)>,
        ttl_ms: u64,
    },
    /// The revision against the one in force, each account, whether they are left to the operators, and how low limits may fall
    /// that adapt (0: none does).
    Sync {
        revision: i64,
        accounts: Vec<Listed>,
        ledgers: bool,
        adaptive: u32,
    },
    /// The account takes fewer requests, says an answer to a lease of this age.
    Less(usize, u64),
    /// An operator's change of some accounts, or only whether it would do.
    Change {
        change: Change,
        only_check: bool,
        accounts: Vec<(usize, Set)>,
    },
    Cooldown {
        account: usize,
        length_ms: u64,
        scope: Option<usize>,
    },
    CoolThenProbe(usize, u64),
    Behind(usize, u64),
    /// An answer takes the account out of use, for so long or (0) until it is let go.
    Disable(usize, u64),
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
        3 => Just(Way::Take),
        2 => Just(Way::Dry),
        2 => Just(Way::Force),
        9 => Just(Way::Join),
    ];
    let wait = (
        prop_oneof![1 => Just(0_u32), 1 => 1_u32..8, 6 => Just(1000)],
        prop_oneof![1 => 1_u64..2_000, 4 => 2_000_u64..30_000],
        0..2_usize,
        proptest::bool::weighted(0.7),
    )
        .prop_map(|(most, vouched_ms, channel, in_order)| Wait {
            most,
            vouched_ms,
            channel,
            in_order,
        });
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
    let pace = proptest::sample::select(PACES.to_vec());
    let accounts = proptest::collection::vec(
        (
            prop_oneof![1 => Just(0_u32), 6 => 1_u32..4],
            prop_oneof![Just(0_u64), Just(250_000), Just(3_000_000)],
            proptest::bool::weighted(0.9),
            proptest::option::weighted(0.3, pace.clone()),
        )
            .prop_map(Listed::new),
        ACCOUNTS.len(),
    );
    let set = (
        proptest::option::weighted(0.6, 1_u32..5),
        proptest::option::weighted(0.3, 0_u32..=10),
        proptest::option::weighted(0.3, any::<bool>()),
        proptest::option::weighted(0.3, proptest::option::weighted(0.7, pace)),
    )
        .prop_map(|(max, priority, disabled, pace)| Set {
            max,
            priority,
            disabled,
            pace,
        });
    let change = prop_oneof![
        4 => Just(Change::Set),
        4 => Just(Change::Add),
        2 => Just(Change::Remove),
        2 => Just(Change::Reset),
    ];
    let changed = (
        prop_oneof![3 => Just(1_usize), 1 => 2_usize..5],
        Just((0..ACCOUNTS.len()).collect::<Vec<_>>()).prop_shuffle(),
        proptest::collection::vec(set, ACCOUNTS.len()),
    )
        .prop_map(|(count, ids, sets)| ids.into_iter().zip(sets).take(count).collect::<Vec<_>>());
    let scope = proptest::option::weighted(0.4, 0..2_usize);
    let tried = prop_oneof![
        4 => Just(vec![]),
        1 => proptest::collection::vec(0..ACCOUNTS.len(), 1..4),
    ];
    prop_oneof![
        6 => prop_oneof![1_u64..100, 100_u64..3_000, 3_000_u64..30_000].prop_map(Step::Wait),
        34 => (items, way, proptest::bool::weighted(0.4), proptest::bool::weighted(0.3), ttl.clone(), any::<u32>(), wait, tried)
            .prop_map(|(items, way, sessions, scopes, ttl_ms, seed, wait, tried)| {
                let tried = if matches!(way, Way::Take | Way::Join) { tried } else { vec![] };
                Step::Acquire(Ask { items, way, sessions, scopes, ttl_ms, seed, wait, tried })
            }),
        16 => proptest::collection::vec(lease.clone(), 1..4).prop_map(Step::Release),
        8 => (proptest::collection::vec((lease, account.clone(), proptest::bool::weighted(0.8), proptest::bool::weighted(0.7)), 1..6), ttl)
            .prop_map(|(leases, ttl_ms)| Step::Renew { leases, ttl_ms }),
        4 => (-1_i64..3, accounts, proptest::bool::weighted(0.4), prop_oneof![2 => Just(0_u32), 3 => 1_u32..3])
            .prop_map(|(revision, accounts, ledgers, adaptive)| Step::Sync { revision, accounts, ledgers, adaptive }),
        5 => (account.clone(), prop_oneof![2 => Just(0_u64), 1 => 1_u64..20_000])
            .prop_map(|(account, age_ms)| Step::Less(account, age_ms)),
        8 => (change, proptest::bool::weighted(0.1), changed)
            .prop_map(|(change, only_check, accounts)| Step::Change { change, only_check, accounts }),
        4 => (account.clone(), 1_u64..20_000, scope).prop_map(|(account, length_ms, scope)| {
            Step::Cooldown { account, length_ms, scope }
        }),
        6 => (account.clone(), 1_u64..10_000).prop_map(|(account, ms)| Step::CoolThenProbe(account, ms)),
        3 => (account.clone(), 1_u64..20_000).prop_map(|(account, ms)| Step::Behind(account, ms)),
        3 => (account.clone(), prop_oneof![1 => Just(0_u64), 3 => 1_u64..20_000])
            .prop_map(|(account, ms)| Step::Disable(account, ms)),
        3 => (account.clone(), proptest::option::weighted(0.3, 0..LEASES))
            .prop_map(|(account, lease)| Step::Passed(account, lease)),
        1 => account.clone().prop_map(Step::Drain),
        1 => account.clone().prop_map(Step::Undrain),
        2 => account.prop_map(Step::Thaw),
        1 => (0..SESSIONS).prop_map(Step::Unbind),
        1 => proptest::option::of(0_u16..=10_000).prop_map(Step::Percent),
        8 => (proptest::bool::weighted(0.9), 1_u64..20).prop_map(|(by, count)| Step::Reconcile { by, count }),
        2 => Just(Step::Inspect),
        1 => proptest::bool::weighted(0.15).prop_map(|flush| if flush { Step::Flush } else { Step::Wait(1) }),
    ]
}
