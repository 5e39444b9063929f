//! A Redis of its own with one pool, and what the contract's tests do with it.

use crate::pipe::{Answer, PREFIX, Pipe, account};
use slotgate::config::TenantLimits;
use slotgate::ledger::commands::{Asked, Mode, Place, Reconciled, Synced, Terms};
use slotgate::request::lease::{LeaseId, LeaseIds};
use support::{Ledger, Redis};

pub struct Rig {
    pub redis: Redis,
    pub pipe: Pipe,
    pub ledger: Ledger,
    pub ids: LeaseIds,
}

impl Rig {
    /// Accounts a, b, c with 1, 2, 3 slots.
    pub fn new() -> Self {
        let mut rig = Self::bare(&[]);
        let accounts = [account("a", 1), account("b", 2), account("c", 3)];
        assert_eq!(rig.pipe.sync(1, 1, Some(&accounts)), Ok(Synced::Replaced));
        rig
    }

    /// Without accounts.
    pub fn bare(arguments: &[&str]) -> Self {
        Self::on(Redis::start_with(arguments))
    }

    /// The same, in this Redis.
    pub fn on(redis: Redis) -> Self {
        let pipe = Pipe::open(&redis, "p");
        let ledger = Ledger::new(&redis, PREFIX, "p");
        Self {
            redis,
            pipe,
            ledger,
            ids: LeaseIds::new(1),
        }
    }

    pub fn mint(&mut self) -> LeaseId {
        self.ids.mint(None)
    }

    pub fn take(&mut self) -> (LeaseId, String) {
        let lease = self.mint();
        (lease, self.pipe.take(lease))
    }

    pub fn pinned(&mut self, account: &str) -> LeaseId {
        let lease = self.mint();
        assert_eq!(
            self.pipe.acquire(lease, Mode::Force(account), None),
            Ok(Answer::Granted(account.into()))
        );
        lease
    }

    pub fn fill(&mut self) -> Vec<(LeaseId, String)> {
        (0..6).map(|_| self.take()).collect()
    }

    pub fn free(&self) -> String {
        self.ledger.free().into_iter().collect::<Vec<_>>().join(" ")
    }

    pub fn set_time_to_live(&mut self, ttl_ms: u64) {
        self.pipe.ttl_ms = ttl_ms;
    }
}

/// One whole pass: how many entries it mended.
pub fn pass(rig: &mut Rig) -> u64 {
    for _ in 0..1000 {
        match rig.pipe.reconcile("one", 60_000, 10) {
            Ok(Reconciled::Working(_)) => {}
            Ok(Reconciled::Done(entries)) => return entries,
            other => panic!("{other:?}"),
        }
    }
    panic!("it never ends")
}

/// Of a request that waits for its slot, and no tenant's.
pub const JOIN: Mode = Mode::Join(Terms {
    limits: TenantLimits {
        max_concurrency: 0,
        max_waiting: 0,
        weight: 1,
    },
    cookie: 1,
    place: Place::Last,
});

/// A lease without session or scope.
pub fn plain(lease: LeaseId) -> Asked<'static> {
    Asked {
        lease,
        mode: Mode::Take,
        session: None,
        scope: None,
    }
}
