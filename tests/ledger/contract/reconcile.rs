//! A recount's passes: what they mend and count, and what they leave alone.

use super::rig::{Rig, pass};
use crate::pipe::{account, text};
use slotgate::config::Tenants;
use slotgate::ledger::commands::{Longest, Reconciled, Renewed, Step, SyncAccount};
use slotgate::request::lease::LeaseId;

#[test]
fn counts_of_accounts_that_are_gone_leave_nothing_behind() {
    let mut rig = Rig::new();
    let lease = rig.pinned("a");
    // The records are lost, the leases are not: a new revision knows nothing of `a`.
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("accounts")]);
    rig.pipe.sync(2, 2, Some(&[account("b", 1)])).unwrap();
    assert_eq!(rig.ledger.used("a"), 1);
    rig.pipe.release(&[lease]).unwrap();
    assert!(!rig.ledger.state().used.contains_key("a"));
}

#[test]
fn a_pass_whose_pool_was_lost_begins_again() {
    let mut rig = Rig::new();
    let leases = rig.fill();
    for _ in 0..2 {
        assert_eq!(
            rig.pipe.reconcile("one", 60_000, 1),
            Ok(Reconciled::Working(0))
        );
    }
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("accounts")]);
    rig.pipe
        .sync(
            2,
            2,
            Some(&[account("a", 1), account("b", 2), account("c", 3)]),
        )
        .unwrap();
    // Nobody told the old pass of this one.
    rig.pipe.release(&[leases[0].0]).unwrap();
    let end = (0..1000)
        .map(|_| rig.pipe.reconcile("one", 60_000, 10))
        .find(|step| !matches!(step, Ok(Reconciled::Working(_))));
    assert_eq!(end, Some(Ok(Reconciled::Done(0))));
    assert_eq!(
        rig.pipe.reconcile("two", 60_000, 10),
        Ok(Reconciled::Elsewhere),
        "between two passes as well"
    );
    rig.ledger.assert_consistent();
    assert_eq!(rig.ledger.live(), 5);
}

#[test]
fn a_lease_taken_during_a_pass_and_broken_by_hand_is_not_counted() {
    let mut rig = Rig::new();
    rig.fill();
    let leases: Vec<String> = rig.ledger.owner().into_keys().collect();
    assert_eq!(
        rig.pipe.reconcile("one", 60_000, 1),
        Ok(Reconciled::Working(0))
    );
    let lease = rig.pinned("c"); // marked from the start: the pass is under way
    let _: i64 = rig
        .redis
        .run("ZREM", &[&rig.ledger.key("leases"), lease.as_str()]);
    let end = (0..1000)
        .map(|_| rig.pipe.reconcile("one", 60_000, 10))
        .find(|step| !matches!(step, Ok(Reconciled::Working(_))));
    assert!(matches!(end, Some(Ok(Reconciled::Done(1..)))), "{end:?}");
    rig.ledger.assert_consistent();
    assert_eq!(rig.ledger.owner().into_keys().collect::<Vec<_>>(), leases);
}

/// A pool far beyond what a scan answers at once, busy while the pass runs.
#[test]
fn a_pass_over_a_large_busy_pool_finds_nothing() {
    const ACCOUNTS: usize = 1_500;
    let mut rig = Rig::bare(&[]);
    let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("a{n}")).collect();
    let list: Vec<SyncAccount> = names.iter().map(|id| account(id, 1)).collect();
    rig.pipe.sync(1, 1, Some(&list)).unwrap();
    rig.set_time_to_live(600_000);
    let mut held: std::collections::VecDeque<LeaseId> = (0..1_000).map(|_| rig.take().0).collect();
    let mut steps = 0;
    let end = loop {
        match rig.pipe.reconcile("one", 60_000, 100).unwrap() {
            Reconciled::Working(0) => steps += 1,
            other => break other,
        }
        for _ in 0..20 {
            held.push_back(rig.take().0);
            let over = held.pop_front().unwrap();
            rig.pipe.release(&[over]).unwrap();
        }
    };
    assert_eq!(end, Reconciled::Done(0));
    assert!(steps > 50, "in bounded steps: {steps}");
    rig.ledger.assert_consistent();
    assert!(
        rig.ledger.state().used.values().all(|used| *used <= 1),
        "never above a limit"
    );
}

#[test]
fn a_pass_counts_what_it_mends_of_accounts_that_are_gone() {
    let mut rig = Rig::new();
    let lease = rig.pinned("a");
    let (used, free) = (rig.ledger.key("used"), rig.ledger.key("free"));
    rig.redis
        .run::<()>("HDEL", &[&rig.ledger.key("accounts"), "a"]);
    rig.redis.run::<()>("ZREM", &[&free, "a"]);
    assert_eq!(pass(&mut rig), 0, "one lease, one counted");
    assert_eq!(rig.ledger.used("a"), 1);
    rig.redis.run::<()>("HSET", &[&used, "a", "5"]);
    assert_eq!(pass(&mut rig), 1);
    assert_eq!(rig.ledger.used("a"), 1);
    rig.pipe.release(&[lease]).unwrap();
    assert!(!rig.ledger.state().used.contains_key("a"));
}

#[test]
fn a_pass_counts_what_it_mends_of_the_free_accounts() {
    let mut rig = Rig::new();
    let free = rig.ledger.key("free");
    rig.redis.run::<()>("ZREM", &[&free, "b"]);
    assert_eq!(pass(&mut rig), 1);
    assert_eq!(rig.free(), "a b c");
    rig.redis.run::<()>("ZADD", &[&free, "7", "b"]);
    assert_eq!(pass(&mut rig), 1);
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn cooldowns_of_a_scope_that_are_over_leave_nothing_behind() {
    let mut rig = Rig::new();
    let scope = [5; 16];
    rig.pipe.cooldown_in("a", 60_000, Some(&scope)).unwrap();
    rig.pipe.cooldown_in("b", 60_000, Some(&scope)).unwrap();
    let keys: Vec<String> = rig.redis.run("KEYS", &["*cooldown:*"]);
    // It ends, and the next one takes it away.
    rig.redis.run::<()>("ZADD", &[&keys[0], "1", "a"]);
    rig.pipe.cooldown_in("c", 60_000, Some(&scope)).unwrap();
    let cooling: Vec<String> = rig.redis.run("ZRANGE", &[&keys[0], "0", "-1"]);
    assert_eq!(cooling, ["b", "c"]);
}

#[test]
fn a_pass_mends_flags_that_say_what_is_not_so() {
    let mut rig = Rig::new();
    rig.pipe.cooldown("a", 60_000).unwrap();
    rig.pipe.control("drain", "b", None).unwrap();
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("cooldown")]);
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("control")]);
    assert_eq!(rig.free(), "c");
    assert_eq!(pass(&mut rig), 2);
    assert_eq!(rig.free(), "a b c");
    assert!(!rig.ledger.state().meta.contains_key("#wake"));
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn a_lease_that_lost_its_expiry_gets_a_new_one() {
    let mut rig = Rig::new();
    let (lease, account) = rig.take();
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("leases")]);
    let epoch = rig.pipe.epoch;
    assert_eq!(
        rig.pipe.renew(&[(lease, &account, epoch)]),
        Ok(vec![Renewed::Readopted])
    );
    assert_eq!(rig.ledger.live(), 1);
    rig.ledger.assert_consistent();
}

/// During an upgrade the older version takes no part: it would mend what it does not know.
#[test]
fn who_knows_more_of_the_ledger_takes_the_passes_over() {
    let mut rig = Rig::new();
    let mut ask = |by: &str| rig.pipe.reconcile(by, 60_000, 1).unwrap() != Reconciled::Elsewhere;
    let asked = [
        "0ld", "1.new", "0ld", "1.other", "2.newer", "1.new", "2.newer",
    ]
    .map(&mut ask);
    assert_eq!(asked, [true, true, false, false, true, false, true]);
    // It ends although it was begun by another.
    let ended = (0..1_000).any(|_| {
        matches!(
            rig.pipe.reconcile("2.newer", 60_000, 100),
            Ok(Reconciled::Done(0))
        )
    });
    assert!(ended);
}

/// What the older one has counted is not all that is to be counted: the pass begins anew.
#[test]
fn a_pass_that_is_taken_over_counts_tenants_from_the_beginning() {
    let mut rig = Rig::bare(&["--hash-max-listpack-entries", "1"]);
    rig.pipe.sync(1, 1, Some(&[account("a", 100)])).unwrap();
    let gold = Tenants::name(b"gold");
    for _ in 0..30 {
        let lease = rig.ids.mint(Some(&gold));
        rig.pipe.take(lease);
    }
    // As a version does that knows no tenants.
    for steps in 1..30 {
        for _ in 0..steps {
            rig.pipe.reconcile("2.older", 60_000, 1).unwrap();
        }
        let tenants = rig.ledger.key("tenants");
        let counted = format!("#{}", std::str::from_utf8(&gold).unwrap());
        rig.redis.run::<()>("HDEL", &[&tenants, &counted]);
        let ended = (0..1_000)
            .map(|_| rig.pipe.reconcile("3.newer", 60_000, 100).unwrap())
            .find(|step| !matches!(step, Reconciled::Working(_)));
        assert_eq!(ended, Some(Reconciled::Done(0)), "after {steps}");
        rig.ledger.assert_consistent();
        rig.redis.run::<()>("DEL", &[&rig.ledger.key("pass")]);
    }
}

/// What is left of an account that is gone, or was never there, goes; and nobody is accused of it.
#[test]
fn a_pass_clears_what_belongs_to_no_account() {
    let mut rig = Rig::new();
    let accounts = rig.ledger.key("accounts");
    let fields = ["#pace:ghost", "5/1000/5 0", "#limit:ghost", "3 0 0"];
    rig.redis
        .run::<()>("HSET", &[&[accounts.as_str()], &fields[..]].concat());
    // What operators have set of an account that this configuration does not have brings none into the pool.
    let roster = rig.ledger.key("roster");
    let entry = "7 - - - 1 0 0 -";
    rig.redis.run::<()>("HSET", &[&roster, "ghost", entry]);
    assert_eq!(pass(&mut rig), 0);
    let state = rig.ledger.state();
    assert!(
        !state.meta.keys().any(|field| field.ends_with("ghost")),
        "{state:?}"
    );
    assert_eq!(state.accounts.len(), 3);
    assert_eq!(rig.redis.run::<u64>("EXISTS", &[&roster]), 0);
}

/// Each wrong count is one entry, and what is no number is named.
#[test]
fn a_pass_counts_each_wrong_count_once() {
    let mut rig = Rig::new();
    let (used, tenants) = (rig.ledger.key("used"), rig.ledger.key("tenants"));
    rig.redis.run::<()>("HINCRBY", &[&used, "a", "3"]);
    assert_eq!(pass(&mut rig), 1);
    rig.redis
        .run::<()>("HSET", &[&tenants, "0123456789abcdef", "4"]);
    assert_eq!(pass(&mut rig), 1);
    assert_eq!(rig.redis.run::<u64>("EXISTS", &[&tenants]), 0);
    rig.redis.run::<()>("HSET", &[&used, "b", "many"]);
    let mut said = String::new();
    while !said.contains("done") {
        said += &text(&rig.pipe.reconcile_raw(&Step {
            worker: "one",
            silence_ms: 60_000,
            count: 10,
            longest: Longest::default(),
            soon: false,
        }));
    }
    assert!(said.contains("used b: not a number"), "{said}");
    rig.ledger.assert_consistent();
}

/// A scan may show an entry twice: a lease that was counted, and has lost its expiry since, is counted no more.
#[test]
fn a_lease_that_went_after_it_was_counted_is_taken_off_again() {
    let mut rig = Rig::new();
    let (lease, account) = rig.take();
    let (used, key) = (rig.ledger.key("used"), rig.ledger.key("pass"));
    let counted = format!("#{account}");
    let is_counted = |rig: &Rig| {
        rig.redis
            .run::<Option<String>>("HGET", &[&used, &counted])
            .is_some()
    };
    while !is_counted(&rig) {
        assert_eq!(
            rig.pipe.reconcile("one", 60_000, 1),
            Ok(Reconciled::Working(0))
        );
    }
    rig.redis
        .run::<()>("ZREM", &[&rig.ledger.key("leases"), lease.as_str()]);
    rig.redis
        .run::<()>("HSET", &[&key, "stage", "count", "cursor", "0"]);
    pass(&mut rig);
    rig.ledger.assert_consistent();
    assert_eq!(rig.ledger.used(&account), 0);
}

/// What someone writes where a pass counts tenants is not taken for a count: the pass begins anew.
#[test]
fn a_tenants_count_that_is_none_begins_the_pass_anew() {
    let mut rig = Rig::new();
    let tenant = "0123456789abcdef";
    let tenants = rig.ledger.key("tenants");
    let key = rig.ledger.key("pass");
    rig.pipe.reconcile("one", 60_000, 10).unwrap();
    rig.redis
        .run::<()>("HSET", &[&tenants, tenant, "2", &format!("#{tenant}"), "x"]);
    rig.redis
        .run::<()>("HSET", &[&key, "stage", "tenants", "cursor", "0"]);
    pass(&mut rig);
    assert_eq!(rig.redis.run::<u64>("EXISTS", &[&tenants]), 0);
}
