//! Limits that adapt to what an upstream takes.

use super::rig::{JOIN, Rig, pass};
use crate::pipe::{Answer, account};
use slotgate::ledger::commands::{AccountReport, AccountTerms, Change, Mode, Synced};
use slotgate::request::lease::LeaseId;
use std::time::Duration;

/// Account a with so many slots at most, which may fall to this.
fn adaptive(least: u32, most: u32) -> Rig {
    let mut rig = Rig::bare(&[]);
    rig.pipe.adaptive = least;
    assert_eq!(
        rig.pipe.sync(1, 1, Some(&[account("a", most)])),
        Ok(Synced::Replaced)
    );
    rig
}

impl Rig {
    fn limit(&self) -> String {
        let state = self.ledger.state();
        state.accounts["a"].split(' ').next().unwrap().to_owned()
    }

    /// Takes all that are free; their leases.
    fn fill_all(&mut self) -> Vec<LeaseId> {
        let mut leases = Vec::new();
        loop {
            let lease = self.mint();
            match self.pipe.acquire(lease, Mode::Take, None) {
                Ok(Answer::Granted(_)) => leases.push(lease),
                Ok(Answer::Saturated(_)) => return leases,
                other => panic!("{other:?}"),
            }
            assert!(leases.len() <= 1_000);
        }
    }
}

#[test]
fn a_limit_falls_once_for_all_that_were_under_way_together() {
    let mut rig = adaptive(2, 10);
    assert_eq!(rig.limit(), "10");
    assert_eq!(rig.pipe.heard("a", AccountReport::Less(0)), Ok(7));
    std::thread::sleep(Duration::from_millis(20));
    // Leases that were taken before that.
    for _ in 0..5 {
        assert_eq!(rig.pipe.heard("a", AccountReport::Less(10_000)), Ok(7));
    }
    for expected in [4, 2, 2] {
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(rig.pipe.heard("a", AccountReport::Less(1)), Ok(expected));
    }
    assert_eq!(rig.fill_all().len(), 2);
    assert_eq!(pass(&mut rig), 0);
    // Where none adapts nothing falls.
    let mut fixed = Rig::new();
    assert_eq!(fixed.pipe.heard("c", AccountReport::Less(0)), Ok(3));
}

#[test]
fn it_rises_by_one_when_as_many_as_it_says_were_taken_while_it_was_full() {
    let mut rig = adaptive(1, 4);
    rig.pipe.heard("a", AccountReport::Less(0)).unwrap();
    assert_eq!(rig.limit(), "2");
    let one = rig.take().0;
    let two = rig.take().0;
    assert_eq!(rig.limit(), "2");
    assert_eq!(rig.pipe.release(&[two]), Ok(1));
    // The second lease that fills it.
    let two = rig.take().0;
    assert_eq!((rig.limit().as_str(), rig.free().as_str()), ("3", "a"));
    assert_eq!(rig.pipe.release(&[one, two]), Ok(2));
    // Never above the highest.
    for _ in 0..20 {
        let held = rig.fill_all();
        assert!(held.len() <= 4);
        rig.pipe.release(&held).unwrap();
    }
    assert_eq!(rig.limit(), "4");
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn a_limit_that_rises_serves_who_waits_at_once() {
    let mut rig = adaptive(1, 10);
    rig.pipe.waiting.most = 10;
    rig.pipe.heard("a", AccountReport::Less(0)).unwrap();
    rig.pipe.heard("a", AccountReport::Less(0)).unwrap();
    let limit: usize = rig.limit().parse().unwrap();
    let mut held = rig.fill_all();
    assert_eq!(held.len(), limit);
    let waiters: Vec<_> = (0..10).map(|_| rig.mint()).collect();
    for lease in &waiters {
        rig.pipe.acquire(*lease, JOIN, None).unwrap();
    }
    // Each hand-off fills it again: after as many as its limit says it has one more, and nobody waits for that.
    let mut served = 0;
    while let Some(lease) = held.pop() {
        rig.pipe.release(&[lease]).unwrap();
        let owners = rig.pipe.owners(&waiters);
        served = owners.iter().filter(|owner| *owner == "a").count();
        assert_eq!((rig.free().as_str(), served < 10), ("", true), "{owners:?}");
    }
    assert_eq!(
        (served, rig.ledger.used("a")),
        (limit + 1, limit as i64 + 1)
    );
    rig.ledger.assert_consistent();
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn a_new_configuration_bounds_it_and_an_operator_resets_it() {
    let mut rig = adaptive(1, 10);
    rig.pipe.heard("a", AccountReport::Less(0)).unwrap();
    assert_eq!(rig.limit(), "7");
    assert_eq!(
        rig.pipe.sync(2, 2, Some(&[account("a", 20)])),
        Ok(Synced::Replaced)
    );
    assert_eq!(rig.limit(), "7");
    assert_eq!(
        rig.pipe.sync(3, 3, Some(&[account("a", 5)])),
        Ok(Synced::Replaced)
    );
    assert_eq!(rig.limit(), "5");
    rig.pipe.heard("a", AccountReport::Less(0)).unwrap();
    assert_eq!(rig.limit(), "3");
    let terms = AccountTerms {
        id: "a".into(),
        max_concurrency: "8".into(),
        ..AccountTerms::default()
    };
    let said = rig
        .pipe
        .change(Change::Set, false, std::slice::from_ref(&terms));
    assert_eq!(said.unwrap(), ["changed [5 - 0 -] [8 - 0 -]"]);
    assert_eq!((rig.limit().as_str(), pass(&mut rig)), ("3", 0));
    let said = rig.pipe.change(Change::Reset, false, &[terms]);
    assert_eq!(said.unwrap(), ["reset [8 - 0 -] [5 - 0 -]"]);
    assert_eq!(rig.limit(), "5");
    // What is no limit is put right.
    let key = rig.ledger.key("accounts");
    for garbage in ["", "x", "5", "5 0", "5 0 0 0"] {
        rig.redis.run::<u32>("HSET", &[&key, "#limit:a", garbage]);
        rig.take();
        rig.pipe.heard("a", AccountReport::Less(0)).unwrap();
        assert_eq!(pass(&mut rig), 1, "{garbage}");
        assert_eq!(
            rig.pipe.sync(3, 3, Some(&[account("a", 5)])),
            Ok(Synced::Replaced)
        );
        rig.pipe
            .change(
                Change::Reset,
                false,
                &[AccountTerms {
                    id: "a".into(),
                    ..AccountTerms::default()
                }],
            )
            .unwrap();
    }
    // Off again.
    rig.pipe.heard("a", AccountReport::Less(0)).unwrap();
    rig.pipe.adaptive = 0;
    assert_eq!(
        rig.pipe.sync(4, 4, Some(&[account("a", 5)])),
        Ok(Synced::Replaced)
    );
    assert_eq!(rig.limit(), "5");
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn limits_of_the_ledgers_own_accounts_begin_and_cease_to_adapt_with_a_revision() {
    let mut rig = adaptive(0, 10);
    rig.pipe.accounts_are_ledgers = true;
    rig.pipe.adaptive = 1;
    assert_eq!(rig.pipe.sync(2, 2, None), Ok(Synced::Replaced));
    assert_eq!(rig.pipe.heard("a", AccountReport::Less(0)), Ok(7));
    assert_eq!(rig.pipe.heard("a", AccountReport::Less(0)), Ok(4));
    // It rises again.
    for _ in 0..4 {
        let held = rig.fill_all();
        rig.pipe.release(&held).unwrap();
    }
    assert_eq!(rig.limit(), "5");
    assert_eq!(pass(&mut rig), 0);
    assert_eq!(rig.limit(), "5");
    rig.pipe.adaptive = 0;
    assert_eq!(rig.pipe.sync(3, 3, None), Ok(Synced::Replaced));
    // Those that wait are served by the recount that puts the highest back.
    let held = rig.fill_all();
    let lease = rig.mint();
    rig.pipe.waiting.most = 10;
    rig.pipe.acquire(lease, JOIN, None).unwrap();
    assert_eq!(pass(&mut rig), 0);
    assert_eq!(
        (rig.limit().as_str(), rig.ledger.used("a")),
        ("10", held.len() as i64 + 1)
    );
    assert!(rig.pipe.owners(&[lease])[0].starts_with("a:"));
    rig.ledger.assert_consistent();
}
