//! Two pools on one Redis: one that is broken on purpose, and one that must serve all the while.

use crate::pipe::{Answer, PREFIX, Pipe, account, text};
use slotgate::config::{TenantLimits, Tenants};
use slotgate::ledger::commands::{
    AccountReport, Asked, Longest, Mode, Part, Place, Reconciled, Step, SyncAccount, Synced, Terms,
    reconciled,
};
use slotgate::ledger::fault::{Fault, garbage};
use slotgate::ledger::resp::{Value, Values};
use slotgate::request::lease::{LeaseId, LeaseIds};
use support::{Ledger, Redis};

pub const START_MS: u64 = 1_700_000_000_000;
pub const LONGEST: Longest = Longest {
    ttl_ms: 15_000,
    cooldown_ms: 60_000,
};

pub const IN_FORCE: (u64, u64) = (3, 7);

/// Bytes that are no text, no number and no id.
pub const BYTES: &[u8] = b"\xff\xfe\0\r\n \x1b[31m";

pub fn accounts() -> [SyncAccount<'static>; 3] {
    [account("a", 1), account("b", 2), account("c", 3)]
}

/// Two pools on one Redis; the broken one holds a lease.
pub struct Rig {
    pub redis: Redis,
    pub pipe: Pipe,
    pub other: Pipe,
    pub ledger: Ledger,
    pub ids: LeaseIds,
    pub lease: LeaseId,
    pub account: String,
}

impl Rig {
    pub fn new() -> Self {
        let redis = Redis::start();
        let mut pipe = Pipe::open(&redis, "p");
        let mut other = Pipe::open(&redis, "other");
        for pool in [&mut pipe, &mut other] {
            pool.longest = LONGEST;
            pool.ttl_ms = LONGEST.ttl_ms;
            let (revision, digest) = IN_FORCE;
            assert_eq!(
                pool.sync(revision, digest, Some(&accounts())),
                Ok(Synced::Replaced)
            );
        }
        let mut ids = LeaseIds::new(5);
        let lease = ids.mint(None);
        let account = pipe.take(lease);
        let ledger = Ledger::new(&redis, PREFIX, "p");
        Self {
            redis,
            pipe,
            other,
            ledger,
            ids,
            lease,
            account,
        }
    }

    /// As after a fresh start.
    pub fn again(&mut self) {
        self.redis.run::<()>("FLUSHALL", &[]);
        let (revision, digest) = IN_FORCE;
        for pool in [&mut self.pipe, &mut self.other] {
            pool.sync(revision, digest, Some(&accounts())).unwrap();
        }
        self.lease = self.ids.mint(None);
        self.account = self.pipe.take(self.lease);
    }

    pub fn key(&self, name: &str) -> Vec<u8> {
        self.ledger.key(name).into_bytes()
    }

    pub fn write(&mut self, command: &str, name: &str, rest: &[&[u8]]) {
        let key = self.key(name);
        let mut parts = vec![command.as_bytes(), &key];
        parts.extend(rest);
        let reply = self.pipe.command(&parts);
        assert_ne!(reply[0], b'-', "{}", text(&reply));
    }

    /// One step of a recount by a worker that saw what cannot be there: whether it goes on, and what it named.
    pub fn step(&mut self) -> (bool, String) {
        let reply = self.pipe.reconcile_raw(&Step {
            worker: "2.one",
            silence_ms: 90_000,
            count: 500,
            longest: LONGEST,
            soon: true,
        });
        let step = reconciled(&reply).unwrap_or_else(|_| panic!("{}", text(&reply)));
        let named = String::from_utf8(step.found.to_vec()).expect("it can be printed");
        match step.state {
            Reconciled::Working(_) => (true, named),
            Reconciled::Done(_) => (false, named),
            Reconciled::Elsewhere => panic!("nobody else runs it"),
        }
    }

    /// A whole recount; what it named.
    pub fn recount(&mut self) -> Vec<String> {
        let mut named = Vec::new();
        for _ in 0..200 {
            let (goes_on, more) = self.step();
            if !more.is_empty() {
                named.push(more);
            }
            if !goes_on {
                return named;
            }
        }
        panic!("the pass never ends: {named:?}")
    }

    /// What a worker does that hears of it: recounts, and syncs what is missing.
    pub fn mend(&mut self) -> Vec<String> {
        let named = self.recount();
        let (revision, digest) = IN_FORCE;
        if self.pipe.sync(revision, digest, None) == Ok(Synced::Wanted) {
            let put = self.pipe.sync(revision, digest, Some(&accounts()));
            assert_eq!(put, Ok(Synced::Replaced));
        }
        named
    }

    /// Whatever the filter, the command line or the console may ask of the pool. Each error is the pool's own, and names
    /// nothing that cannot be printed.
    pub fn ask_everything(&mut self) -> Vec<String> {
        let (session, scope) = ([1; 16], [2; 16]);
        let mut said = Vec::new();
        let mut hear = |reply: Vec<u8>| {
            assert!(reply.len() < 4_000, "{}", reply.len());
            if let Some(Value::Error(error)) = Values::new(&reply).value() {
                let fault = Fault::of(error);
                let own = matches!(fault, Fault::Garbage | Fault::NoPool | Fault::NoAccount);
                assert!(own, "{}", text(&reply));
                if let Some(what) = garbage(error) {
                    assert!(
                        what.iter().all(|byte| (b' '..=b'~').contains(byte)),
                        "{what:?}"
                    );
                    said.push(String::from_utf8_lossy(what).into_owned());
                }
            }
        };
        for mode in [Mode::Dry, Mode::Take, Mode::Force("a")] {
            for seed in 0..4 {
                let lease = self.ids.mint(None);
                let pipe = &mut self.pipe;
                hear(pipe.acquire_raw(lease, mode, Some((&session, 1_000)), Some(&scope), seed));
                hear(pipe.release_raw(&[lease]));
            }
        }
        let pair = [self.ids.mint(None), self.ids.mint(None)];
        let asked = pair.map(|lease| Asked {
            lease,
            mode: Mode::Take,
            session: None,
            scope: None,
        });
        hear(self.pipe.acquire_all_raw(&asked, 0, 3));
        hear(self.pipe.release_raw(&pair));
        // More than there are slots: some of them wait.
        let limits = TenantLimits {
            max_concurrency: 1,
            max_waiting: 2,
            weight: 2,
        };
        let gold = Tenants::name(b"gold");
        let crowd: Vec<LeaseId> = (0..10)
            .map(|at| self.ids.mint((at % 2 == 0).then_some(&gold)))
            .collect();
        for scope in [None, Some(&scope)] {
            let asked: Vec<Asked> = crowd
                .iter()
                .map(|lease| Asked {
                    lease: *lease,
                    mode: Mode::Join(Terms {
                        limits,
                        cookie: 1,
                        place: Place::Last,
                    }),
                    session: Some(&session),
                    scope,
                })
                .collect();
            for _ in 0..2 {
                hear(self.pipe.acquire_all_raw(&asked, 1_000, 3));
            }
            hear(self.pipe.release_raw(&crowd[..5]));
        }
        hear(self.pipe.release_raw(&crowd));
        let account = self.account.clone();
        let renewed = [(self.lease, account.as_str(), 1), (pair[0], "b", 1)];
        hear(self.pipe.renew_raw(&renewed));
        hear(self.pipe.release_raw(&[pair[0]]));
        for heard in [
            AccountReport::Cool(1, None),
            AccountReport::Cool(1, Some(scope)),
            AccountReport::CoolThenProbe(1),
            AccountReport::Behind(1),
            AccountReport::Disable(1, 401.into()),
            AccountReport::Passed(self.lease),
        ] {
            hear(self.pipe.heard_raw("a", heard));
        }
        hear(
            self.pipe
                .heard_raw("b", AccountReport::Disable(0, 403.into())),
        );
        for (verb, subject) in [
            ("drain", "a"),
            ("undrain", "a"),
            ("thaw", "a"),
            ("percent", ""),
        ] {
            hear(self.pipe.control_raw(verb, subject, None));
        }
        hear(self.pipe.control_raw("unbind", "", Some(&session)));
        hear(self.pipe.inspect_raw("0", 1_000));
        hear(self.pipe.look_raw(1_000, 64));
        hear(self.pipe.sync_part("one", IN_FORCE, Part::Whole, &[]));
        said
    }

    #[track_caller]
    pub fn other_serves(&mut self) {
        let lease = self.ids.mint(None);
        self.other.take(lease);
        assert_eq!(self.other.release(&[lease]), Ok(1));
        assert!(self.other.inspect().is_ok());
    }

    /// The counts are the leases', what should be free is, and slots are given, to the last one and no more.
    #[track_caller]
    pub fn assert_right(&mut self, what: &str) {
        let state = self.ledger.try_state();
        let state = state.unwrap_or_else(|error| panic!("{what}: {error}"));
        state.assert_consistent();
        assert!(
            state.accounts.keys().eq(["a", "b", "c"]),
            "{what}: {state:#?}"
        );
        assert_eq!(
            state.meta.get("#revision").map(String::as_str),
            Some("3"),
            "{what}"
        );
        let configured = |account: &&String| ["a", "b", "c"].contains(&account.as_str());
        let held = state.owner.values().filter(configured).count();
        assert!(held <= 1, "{what}: {state:#?}");
        let mut leases: Vec<LeaseId> = Vec::new();
        while let Ok(Answer::Granted(_)) = {
            let lease = self.ids.mint(None);
            leases.push(lease);
            self.pipe.acquire(lease, Mode::Take, None)
        } {
            assert!(leases.len() <= 6, "{what}: more than there are slots");
        }
        assert_eq!(
            leases.len() - 1,
            6 - held,
            "{what}: {:#?}",
            self.ledger.state()
        );
        self.pipe.release(&leases).unwrap();
        assert_eq!(self.pipe.inspect().map(|rows| rows.len()), Ok(3), "{what}");
        self.ledger.assert_consistent();
    }

    /// One thing broken: the other pool serves meanwhile, and it is right afterwards. Answers what was named.
    #[track_caller]
    pub fn check(&mut self, what: &str) -> String {
        self.other_serves();
        let said = self.ask_everything();
        self.other_serves();
        let named = self.mend();
        // A pass may end with what the next one puts right: cooldowns that were asked for here end, probes begin.
        std::thread::sleep(std::time::Duration::from_millis(3));
        for (verb, id) in [
            ("undrain", "a"),
            ("thaw", "a"),
            ("thaw", "b"),
            ("thaw", "c"),
        ] {
            let done = self.pipe.control(verb, id, None);
            done.unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
        }
        self.other_serves();
        self.assert_right(what);
        [said, named].concat().join("; ")
    }
}
