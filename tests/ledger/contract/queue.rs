//! Leases that wait: in which order, for how long, and what hands a slot on to them.

use super::rig::{Rig, pass};
use crate::pipe::{Answer, Pipe, account};
use slotgate::config::{TenantLimits, TenantName, Tenants};
use slotgate::ledger::commands::{
    AccountReport, Acquired, Asked, Handed, Mode, Order, Place, Renewed, SyncAccount, Terms,
    acquired,
};
use slotgate::request::lease::LeaseId;
use std::time::Duration;
use support::{Clock, Redis};

const NO_CAP: TenantLimits = TenantLimits::NONE;

/// Whether a lease is of this tenant.
fn is_of(lease: LeaseId, tenant: &TenantName) -> bool {
    lease.as_bytes().get(LeaseId::LEN + 1..) == Some(&tenant[..])
}

/// A pool on a clock of ours, and two workers.
struct Queue {
    rig: Rig,
    other: Pipe,
    clock: Clock,
    shift_ms: i64,
    cookie: u64,
}

impl Queue {
    /// Accounts by their slots.
    fn new(accounts: &[(&str, u32)]) -> Self {
        let clock = Clock::running();
        let mut rig = Rig::on(Redis::start_at(&clock, &[]));
        let list: Vec<SyncAccount> = accounts.iter().map(|(id, max)| account(id, *max)).collect();
        rig.pipe.sync(1, 1, Some(&list)).unwrap();
        let other = Pipe::open(&rig.redis, "p");
        Self {
            rig,
            other,
            clock,
            shift_ms: 0,
            cookie: 0,
        }
    }

    fn pass_ms(&mut self, ms: i64) {
        self.shift_ms += ms;
        self.clock.shift(self.shift_ms);
    }

    fn mint(&mut self, tenant: Option<&TenantName>) -> LeaseId {
        self.rig.ids.mint(tenant)
    }

    fn terms(&mut self, limits: TenantLimits) -> Terms {
        self.cookie += 1;
        Terms {
            limits,
            cookie: self.cookie,
            place: Place::Last,
        }
    }

    /// What a lease is told that joins, or asks again.
    fn ask(&mut self, lease: LeaseId) -> Answer {
        self.ask_of(lease, NO_CAP)
    }

    fn ask_of(&mut self, lease: LeaseId, limits: TenantLimits) -> Answer {
        let terms = self.terms(limits);
        self.rig
            .pipe
            .acquire(lease, Mode::Join(terms), None)
            .unwrap()
    }

    /// Several in one command.
    fn ask_all(&mut self, leases: &[LeaseId], limits: TenantLimits) -> Vec<Answer> {
        let asked: Vec<Asked> = leases
            .iter()
            .map(|lease| Asked {
                lease: *lease,
                mode: Mode::Join(self.terms(limits)),
                session: None,
                scope: None,
            })
            .collect();
        self.rig.pipe.acquire_all(&asked, 0, 1).unwrap()
    }

    fn ask_in(&mut self, lease: LeaseId, session: Option<&[u8; 16]>, scope: &[u8; 16]) -> Answer {
        let mode = Mode::Join(self.terms(NO_CAP));
        let session = session.map(|hash| (hash, 60_000));
        self.rig
            .pipe
            .acquire_in(lease, mode, session, Some(scope), 3)
            .unwrap()
    }

    /// A new lease that must wait.
    fn waiter(&mut self) -> LeaseId {
        self.waiter_of(None, NO_CAP)
    }

    fn waiter_of(&mut self, tenant: Option<&TenantName>, limits: TenantLimits) -> LeaseId {
        let lease = self.mint(tenant);
        let answer = self.ask_of(lease, limits);
        assert!(matches!(answer, Answer::Waits(_)), "{answer:?}");
        lease
    }

    /// A new lease that must get a slot.
    fn holder(&mut self) -> LeaseId {
        let lease = self.mint(None);
        let answer = self.ask(lease);
        assert!(matches!(answer, Answer::Granted(_)), "{answer:?}");
        lease
    }

    fn release(&mut self, lease: LeaseId) -> Vec<(u64, String, String)> {
        self.rig.pipe.release(&[lease]).unwrap();
        self.rig.ledger.assert_consistent();
        std::mem::take(&mut self.rig.pipe.handed)
    }

    /// Ends the lease; to whom its slot went.
    fn hand_on(&mut self, lease: LeaseId) -> Option<String> {
        let mut handed = self.release(lease);
        assert!(handed.len() < 2, "{handed:?}");
        handed.pop().map(|(_, lease, _)| lease)
    }

    fn owner(&self, lease: LeaseId) -> Option<String> {
        self.rig.ledger.owner().get(lease.as_str()).cloned()
    }

    #[track_caller]
    fn assert_holds(&self, lease: LeaseId, account: &str) {
        let state = self.rig.ledger.state();
        assert_eq!(self.owner(lease).as_deref(), Some(account), "{state:#?}");
        self.rig.ledger.assert_consistent();
    }

    #[track_caller]
    fn assert_waits(&self, lease: LeaseId) {
        let state = self.rig.ledger.state();
        assert!(state.waiting.contains_key(lease.as_str()), "{state:#?}");
        state.assert_consistent();
    }

    /// Nothing is left of the queue.
    #[track_caller]
    fn assert_nobody_waits(&self) {
        let state = self.rig.ledger.state();
        assert!(
            state.waiting.is_empty() && state.queue.is_empty(),
            "{state:#?}"
        );
        assert!(!state.meta.contains_key("#queue"), "{state:#?}");
        state.assert_consistent();
    }
}

fn tenant(name: &str) -> TenantName {
    Tenants::name(name.as_bytes())
}

fn texts(leases: &[LeaseId]) -> Vec<String> {
    leases.iter().map(LeaseId::to_string).collect()
}

#[test]
fn who_finds_no_slot_waits_and_is_handed_the_next_one() {
    let mut queue = Queue::new(&[("a", 1)]);
    let mut connection = queue.rig.redis.connect();
    let timeout = Some(Duration::from_secs(10));
    connection.set_read_timeout(timeout).unwrap();
    let mut subscribed = connection.as_pubsub();
    subscribed.subscribe("slotgate:grants").unwrap();

    let first = queue.holder();
    let (second, third) = (queue.waiter(), queue.waiter());
    let epoch = queue.rig.pipe.epoch;
    queue.assert_waits(second);
    assert_eq!(queue.rig.ledger.live(), 1);
    // To ask again changes nothing.
    let asked = [queue.ask(third), queue.ask(second), queue.ask(second)];
    let [
        Answer::Waits(place),
        Answer::Waits(before),
        Answer::Waits(again),
    ] = asked
    else {
        panic!("{asked:?}")
    };
    assert!(before < place);
    assert_eq!(before, again);

    // The same script that frees the slot gives it on, says so, and publishes it.
    let handed = queue.release(first);
    assert_eq!(handed, [(2, second.to_string(), "a".into())]);
    queue.assert_holds(second, "a");
    let message = subscribed.get_message().unwrap();
    let message = message.get_payload_bytes();
    let expected = Handed {
        cookie: 2,
        lease: second.as_bytes(),
        account: b"a",
        probes: false,
        epoch,
    };
    assert_eq!(Handed::read(message), Some(expected));
    // Its time to live is a lease's.
    let state = queue.rig.ledger.state();
    let left_ms = state.leases[second.as_str()] - state.now_ms;
    assert!((8_000.0..=10_000.0).contains(&left_ms), "{left_ms}");
    for _ in 0..2 {
        assert_eq!(queue.ask(second), Answer::Granted("a".into()));
    }
    assert!(matches!(queue.ask(third), Answer::Waits(_)));
    assert_eq!(queue.hand_on(second), Some(third.to_string()));
    queue.assert_nobody_waits();
    assert_eq!(queue.hand_on(third), None);
    assert_eq!(queue.rig.free(), "a");
    assert!(queue.rig.ledger.is_empty());
}

#[test]
fn first_in_first_out_whichever_worker_they_came_to() {
    let mut queue = Queue::new(&[("a", 1)]);
    let mut holder = queue.holder();
    let mut waiting = Vec::new();
    for number in 0..20 {
        if number % 3 == 0 {
            std::mem::swap(&mut queue.rig.pipe, &mut queue.other);
        }
        waiting.push(queue.waiter());
    }
    // Several in one command, in their order.
    let leases: Vec<LeaseId> = (0..5).map(|_| queue.mint(None)).collect();
    let answers = queue.ask_all(&leases, NO_CAP);
    assert!(answers.iter().all(|one| matches!(one, Answer::Waits(_))));
    waiting.extend(leases);
    let mut served = Vec::new();
    while let Some(next) = queue.hand_on(holder) {
        holder = *waiting.iter().find(|lease| lease.as_str() == next).unwrap();
        served.push(holder);
    }
    assert_eq!(texts(&served), texts(&waiting));
    queue.assert_nobody_waits();
}

#[test]
fn a_release_hands_on_all_that_it_frees() {
    let mut queue = Queue::new(&[("a", 2), ("b", 2)]);
    let holders: Vec<LeaseId> = (0..4).map(|_| queue.holder()).collect();
    let waiting: Vec<LeaseId> = (0..3).map(|_| queue.waiter()).collect();
    assert_eq!(queue.rig.pipe.release(&holders), Ok(4));
    let handed: Vec<String> = queue
        .rig
        .pipe
        .handed
        .iter()
        .map(|(_, lease, _)| lease.clone())
        .collect();
    assert_eq!(handed, texts(&waiting));
    assert_eq!(queue.rig.ledger.free().len(), 1);
    queue.assert_nobody_waits();
}

#[test]
fn a_waiter_that_is_released_leaves() {
    let mut queue = Queue::new(&[("a", 1)]);
    let holder = queue.holder();
    let waiting: Vec<LeaseId> = (0..5).map(|_| queue.waiter()).collect();
    // The first, one in the middle, the last. None of them held a slot.
    for at in [0, 2, 4] {
        assert_eq!(queue.rig.pipe.release(&[waiting[at]]), Ok(0));
        queue.rig.ledger.assert_consistent();
    }
    assert_eq!(queue.rig.pipe.release(&[waiting[0]]), Ok(0), "once more");
    assert_eq!(queue.hand_on(holder), Some(waiting[1].to_string()));
    // One that holds and one that waits, in one command.
    assert_eq!(queue.rig.pipe.release(&[waiting[3], waiting[1]]), Ok(1));
    assert!(queue.rig.pipe.handed.is_empty());
    queue.assert_nobody_waits();
    assert_eq!(queue.rig.free(), "a");
}

#[test]
fn waiters_of_the_dead_leave_and_leases_of_the_dead_are_handed_on() {
    let mut queue = Queue::new(&[("a", 1)]);
    queue.rig.pipe.ttl_ms = 20_000;
    let holder = queue.holder();
    let (dead, alive, other) = (queue.waiter(), queue.waiter(), queue.waiter());
    // Vouched for during 6 s, by asking again.
    queue.pass_ms(4_000);
    assert!(matches!(queue.ask(alive), Answer::Waits(_)));
    queue.pass_ms(4_000);
    assert!(matches!(queue.ask(alive), Answer::Waits(_)));
    assert_eq!(queue.hand_on(holder), Some(alive.to_string()));
    for lease in [dead, other] {
        assert_eq!(queue.owner(lease), None);
    }
    // One that was given up joins anew when its worker lives after all.
    assert!(matches!(queue.ask(dead), Answer::Waits(_)));
    // The holder dies; whoever asks for its waiter finds the slot.
    queue.rig.pipe.seed = 0;
    for _ in 0..5 {
        queue.pass_ms(4_500);
        let seed = 3;
        let mode = Mode::Join(queue.terms(NO_CAP));
        queue
            .rig
            .pipe
            .acquire_in(dead, mode, None, None, seed)
            .unwrap();
    }
    queue.assert_holds(dead, "a");
    queue.assert_nobody_waits();
}

#[test]
fn only_so_many_may_wait() {
    let mut queue = Queue::new(&[("a", 1)]);
    let (gold, lead) = (tenant("gold"), tenant("lead"));
    queue.rig.pipe.waiting.most = 4;
    let holder = queue.holder();
    let own = TenantLimits {
        max_waiting: 2,
        ..NO_CAP
    };
    let first = queue.waiter_of(Some(&gold), own);
    queue.waiter_of(Some(&gold), own);
    let third = queue.mint(Some(&gold));
    let full = queue.ask_of(third, own);
    assert!(
        matches!(full, Answer::QueueFull(1..=300_000)),
        "its own: {full:?}"
    );
    queue.waiter_of(Some(&lead), own);
    queue.waiter();
    let fifth = queue.mint(None);
    let full = queue.ask(fifth);
    assert!(matches!(full, Answer::QueueFull(_)), "the pool's: {full:?}");
    assert_eq!(queue.owner(fifth), None);
    // Those that wait are asked for all the same.
    assert!(matches!(queue.ask_of(first, own), Answer::Waits(_)));
    // A place becomes free.
    queue.rig.pipe.release(&[first]).unwrap();
    assert!(matches!(queue.ask_of(third, own), Answer::Waits(_)));
    assert!(matches!(queue.ask(fifth), Answer::QueueFull(_)));
    queue.hand_on(holder);
    assert!(matches!(queue.ask(fifth), Answer::Waits(_)));
    // Two in one command, room for one.
    queue.rig.pipe.waiting.most = 5;
    let asked = [queue.mint(None), queue.mint(None)].map(|lease| Asked {
        lease,
        mode: Mode::Join(queue.terms(NO_CAP)),
        session: None,
        scope: None,
    });
    let answers = queue.rig.pipe.acquire_all(&asked, 0, 1).unwrap();
    assert!(
        matches!(answers[..], [Answer::Waits(_), Answer::QueueFull(_)]),
        "{answers:?}"
    );
}

#[test]
fn without_a_queue_a_tenant_has_its_cap_all_the_same() {
    let mut queue = Queue::new(&[("a", 3)]);
    queue.rig.pipe.waiting.most = 0;
    let gold = tenant("gold");
    let cap = TenantLimits {
        max_concurrency: 2,
        ..NO_CAP
    };
    let leases: Vec<LeaseId> = (0..3).map(|_| queue.mint(Some(&gold))).collect();
    assert_eq!(queue.ask_of(leases[0], cap), Answer::Granted("a".into()));
    assert_eq!(queue.ask_of(leases[1], cap), Answer::Granted("a".into()));
    let full = queue.ask_of(leases[2], cap);
    assert!(matches!(full, Answer::TenantFull(1..=60_000)), "{full:?}");
    assert_eq!(queue.ask_of(leases[1], cap), Answer::Granted("a".into()));
    queue.rig.ledger.assert_consistent();
    assert_eq!(
        queue.rig.ledger.state().tenants[std::str::from_utf8(&gold).unwrap()],
        2
    );
    // Another tenant, and nobody's request, take what is free; then all is.
    let other = queue.mint(Some(&tenant("lead")));
    assert_eq!(queue.ask_of(other, cap), Answer::Granted("a".into()));
    let plain = queue.mint(None);
    assert!(matches!(queue.ask(plain), Answer::Saturated(1..=60_000)));
    assert!(matches!(
        queue.ask_of(leases[2], cap),
        Answer::TenantFull(_)
    ));
    assert_eq!(queue.hand_on(leases[0]), None);
    assert_eq!(queue.ask_of(leases[2], cap), Answer::Granted("a".into()));
    // Together in one command, and one of another tenant.
    let all: Vec<LeaseId> = queue
        .rig
        .ledger
        .owner()
        .keys()
        .filter_map(|id| {
            [&leases[..], &[other]]
                .concat()
                .into_iter()
                .find(|lease| lease.as_str() == id)
        })
        .collect();
    queue.rig.pipe.release(&all).unwrap();
    assert!(queue.rig.ledger.state().tenants.is_empty());
    let answers = queue.ask_all(&leases, cap);
    assert!(
        matches!(
            answers[..],
            [
                Answer::Granted(_),
                Answer::Granted(_),
                Answer::TenantFull(_)
            ]
        ),
        "{answers:?}"
    );
    queue.assert_nobody_waits();
}

#[test]
fn a_tenant_at_its_cap_waits_beside_a_free_slot() {
    let mut queue = Queue::new(&[("a", 4)]);
    let gold = tenant("gold");
    let cap = TenantLimits {
        max_concurrency: 2,
        ..NO_CAP
    };
    let held: Vec<LeaseId> = (0..2).map(|_| queue.mint(Some(&gold))).collect();
    for lease in &held {
        assert_eq!(queue.ask_of(*lease, cap), Answer::Granted("a".into()));
    }
    let waiting: Vec<LeaseId> = (0..3).map(|_| queue.waiter_of(Some(&gold), cap)).collect();
    // Newcomers take what it may not; when nothing is left, they wait too.
    let (one, two) = (queue.holder(), queue.holder());
    let late = queue.waiter();
    assert_eq!(queue.hand_on(one), Some(late.to_string()));
    assert_eq!(queue.hand_on(two), None);
    queue.assert_waits(waiting[0]);
    // Below its cap again: its first is served by the script that ended its lease, with another's slot as well.
    assert_eq!(queue.hand_on(held[0]), Some(waiting[0].to_string()));
    // Two at once.
    queue.rig.pipe.release(&[held[1], waiting[0]]).unwrap();
    let handed: Vec<String> = queue
        .rig
        .pipe
        .handed
        .iter()
        .map(|(_, lease, _)| lease.clone())
        .collect();
    assert_eq!(handed, texts(&waiting[1..]));
    queue.assert_nobody_waits();
    assert_eq!(queue.rig.ledger.used("a"), 3);
}

/// Serves this many of two tenants of which 100 wait each, one after another: how many of the first were served.
fn share(weights: [u32; 2], serve: usize) -> (usize, Vec<bool>) {
    let mut queue = Queue::new(&[("a", 1)]);
    let tenants = [tenant("gold"), tenant("lead")];
    let mut holder = queue.holder();
    let mut all = Vec::new();
    for _ in 0..100 {
        for (tenant, weight) in tenants.iter().zip(weights) {
            let limits = TenantLimits { weight, ..NO_CAP };
            all.push(queue.waiter_of(Some(tenant), limits));
        }
    }
    let mut turns = Vec::new();
    for _ in 0..serve {
        queue.rig.pipe.release(&[holder]).unwrap();
        let [(_, next, _)] = &queue.rig.pipe.handed[..] else {
            panic!("{:?}", queue.rig.pipe.handed)
        };
        holder = *all.iter().find(|lease| lease.as_str() == next).unwrap();
        turns.push(is_of(holder, &tenants[0]));
    }
    queue.rig.ledger.assert_consistent();
    (turns.iter().filter(|gold| **gold).count(), turns)
}

#[test]
fn freed_slots_are_shared_by_weight() {
    let (gold, _) = share([4, 1], 100);
    assert!((77..=83).contains(&gold), "{gold} of 100");
    let (gold, _) = share([1, 1000], 90);
    assert!(gold <= 2, "{gold} of 90");
    // Equal ones take turns, the first that came first.
    let (_, turns) = share([1, 1], 50);
    assert!(
        turns.chunks(2).all(|pair| pair == [true, false]),
        "{turns:?}"
    );
}

/// One that has many waiting keeps another's first waiting for one turn.
#[test]
fn a_tenant_that_comes_later_is_not_behind_all_of_anothers() {
    let mut queue = Queue::new(&[("a", 1)]);
    let (gold, lead) = (tenant("gold"), tenant("lead"));
    let mut holder = queue.holder();
    let mut all = Vec::new();
    for _ in 0..30 {
        all.push(queue.waiter_of(Some(&gold), NO_CAP));
    }
    let serve = |queue: &mut Queue, holder: &mut LeaseId, all: &[LeaseId]| {
        let next = queue.hand_on(*holder).unwrap();
        *holder = *all.iter().find(|lease| lease.as_str() == next).unwrap();
        *holder
    };
    for _ in 0..10 {
        serve(&mut queue, &mut holder, &all);
    }
    all.push(queue.waiter_of(Some(&lead), NO_CAP));
    all.push(queue.waiter_of(Some(&lead), NO_CAP));
    let turns: Vec<bool> = (0..4)
        .map(|_| is_of(serve(&mut queue, &mut holder, &all), &lead))
        .collect();
    assert!(turns[..2].contains(&true), "{turns:?}");
    assert!(turns[2..].contains(&true), "{turns:?}");
}

#[test]
fn a_waiter_whose_scope_cools_is_passed_over_not_moved_back() {
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    let (opus, haiku) = ([7; 16], [8; 16]);
    let holders = [queue.rig.pinned("a"), queue.rig.pinned("b")];
    queue.rig.pipe.cooldown_in("a", 5_000, Some(&opus)).unwrap();
    let leases: Vec<LeaseId> = (0..4).map(|_| queue.mint(None)).collect();
    for (lease, scope) in leases.iter().zip([&opus, &opus, &haiku, &haiku]) {
        let answer = queue.ask_in(*lease, None, scope);
        assert!(matches!(answer, Answer::Waits(_)), "{answer:?}");
    }
    // Not for the two before it.
    assert_eq!(queue.hand_on(holders[0]), Some(leases[2].to_string()));
    // The other account serves its first.
    assert_eq!(queue.hand_on(holders[1]), Some(leases[0].to_string()));
    assert_eq!(queue.hand_on(leases[2]), Some(leases[3].to_string()));
    assert_eq!(queue.hand_on(leases[3]), None);
    assert_eq!(queue.rig.free(), "a");
    queue.assert_waits(leases[1]);
    // Someone new takes what it may not, or waits behind it.
    let (late, later) = (queue.mint(None), queue.mint(None));
    assert_eq!(
        queue.ask_in(late, None, &haiku),
        Answer::Granted("a".into())
    );
    let answer = queue.ask_in(later, None, &opus);
    assert!(matches!(answer, Answer::Waits(_)), "{answer:?}");
    assert_eq!(queue.hand_on(late), None);
    // The end of its scope's cooldown serves it, whoever comes by.
    queue.pass_ms(5_000);
    let other = queue.mint(None);
    let answer = queue.ask_in(other, None, &haiku);
    assert!(matches!(answer, Answer::Waits(_)), "{answer:?}");
    queue.assert_holds(leases[1], "a");
    assert_eq!(queue.hand_on(leases[1]), Some(later.to_string()));
    assert_eq!(queue.hand_on(later), Some(other.to_string()));
    queue.assert_nobody_waits();
}

#[test]
fn a_session_gets_its_own_account_if_that_is_free() {
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    let (session, scope) = ([1; 16], [9; 16]);
    let holders = ["a", "b"].map(|account| queue.rig.pinned(account));
    // Nobody's account so far: it is bound once it asks for what it was given.
    let first = queue.mint(None);
    assert!(matches!(
        queue.ask_in(first, Some(&session), &scope),
        Answer::Waits(_)
    ));
    assert_eq!(queue.hand_on(holders[1]), Some(first.to_string()));
    assert_eq!(queue.rig.pipe.bound(&session), None);
    let again = queue.ask_in(first, Some(&session), &scope);
    assert_eq!(again, Answer::Granted("b".into()));
    assert_eq!(queue.rig.pipe.bound(&session), Some("b".into()));
    // Both come free at once: its own, whichever is better. And what it has is written anew.
    for (id, other) in [("a", "b"), ("b", "a")] {
        queue
            .rig
            .pipe
            .control("unbind", "", Some(&session))
            .unwrap();
        let held: Vec<LeaseId> = queue
            .rig
            .ledger
            .owner()
            .into_keys()
            .map(|id| {
                let all = [holders[0], holders[1], first];
                *all.iter().find(|lease| lease.as_str() == id).unwrap()
            })
            .collect();
        if !held.is_empty() {
            queue.rig.pipe.release(&held).unwrap();
        }
        assert_eq!(queue.rig.free(), "a b");
        let rest = queue.rig.pinned(other);
        let bind = queue.mint(None);
        assert_eq!(
            queue.ask_in(bind, Some(&session), &scope),
            Answer::Granted(id.into())
        );
        queue
            .rig
            .pipe
            .heard(id, AccountReport::Behind(100))
            .unwrap();
        queue.rig.pipe.control("thaw", id, None).unwrap();
        let waiter = queue.mint(None);
        assert!(matches!(
            queue.ask_in(waiter, Some(&session), &scope),
            Answer::Waits(_)
        ));
        queue.rig.pipe.release(&[rest, bind]).unwrap();
        queue.assert_holds(waiter, id);
        queue.pass_ms(30_000);
        let again = queue.ask_in(waiter, Some(&session), &scope);
        // Its lease was over by then, and no other waits.
        assert_eq!(again, Answer::Granted(id.into()));
        queue.rig.pipe.release(&[waiter]).unwrap();
        queue
            .rig
            .pipe
            .control("unbind", "", Some(&session))
            .unwrap();
    }
}

#[test]
fn a_session_that_spills_stays_where_it_is() {
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    let (session, scope) = ([1; 16], [9; 16]);
    let other = queue.rig.pinned("a");
    let bind = queue.mint(None);
    let answer = queue.ask_in(bind, Some(&session), &scope);
    assert_eq!(answer, Answer::Granted("b".into()));
    let waiter = queue.mint(None);
    queue.ask_in(waiter, Some(&session), &scope);
    assert_eq!(queue.hand_on(other), Some(waiter.to_string()));
    let answer = queue.ask_in(waiter, Some(&session), &scope);
    assert_eq!(answer, Answer::Granted("a".into()));
    assert_eq!(queue.rig.pipe.bound(&session), Some("b".into()));
    // One that is gone for good gives way.
    let next = queue.mint(None);
    queue.ask_in(next, Some(&session), &scope);
    queue.rig.pipe.sync(2, 2, Some(&[account("a", 1)])).unwrap();
    assert_eq!(queue.hand_on(waiter), Some(next.to_string()));
    let answer = queue.ask_in(next, Some(&session), &scope);
    assert_eq!(answer, Answer::Granted("a".into()));
    assert_eq!(queue.rig.pipe.bound(&session), Some("a".into()));
}

/// A session whose requests all wait is remembered for as long as one whose requests don't.
#[test]
fn a_session_that_waits_for_its_own_account_is_remembered_for_longer() {
    let mut queue = Queue::new(&[("a", 1)]);
    let (session, scope) = ([1; 16], [9; 16]);
    queue.rig.pipe.ttl_ms = 600_000;
    let mut holder = queue.mint(None);
    queue.ask_in(holder, Some(&session), &scope);
    for _ in 0..5 {
        let waiter = queue.mint(None);
        queue.ask_in(waiter, Some(&session), &scope);
        queue.pass_ms(4_000);
        queue.ask_in(waiter, Some(&session), &scope);
        assert_eq!(queue.hand_on(holder), Some(waiter.to_string()));
        let answer = queue.ask_in(waiter, Some(&session), &scope);
        assert_eq!(answer, Answer::Granted("a".into()));
        holder = waiter;
        queue.pass_ms(15_000);
    }
    assert_eq!(queue.rig.pipe.bound(&session), Some("a".into()));
}

/// At the cap of its tenant too, a session waits for its own account.
#[test]
fn a_session_of_a_tenant_at_its_cap_waits_for_its_own_account() {
    let mut queue = Queue::new(&[("a", 1), ("b", 3)]);
    let session = [1; 16];
    let gold = tenant("gold");
    let cap = TenantLimits {
        max_concurrency: 1,
        ..NO_CAP
    };
    let block = queue.rig.pinned("b");
    let bind = queue.mint(Some(&gold));
    let with = Some((&session, 60_000));
    let ask = |queue: &mut Queue, lease| {
        let mode = Mode::Join(queue.terms(cap));
        queue.rig.pipe.acquire(lease, mode, with).unwrap()
    };
    // `a` is the better one, with all of its slots free.
    assert_eq!(ask(&mut queue, bind), Answer::Granted("a".into()));
    queue.rig.pipe.release(&[block]).unwrap();
    let waiter = queue.mint(Some(&gold));
    assert!(matches!(ask(&mut queue, waiter), Answer::Waits(_)));
    assert_eq!(queue.hand_on(bind), Some(waiter.to_string()));
    queue.assert_holds(waiter, "a");
}

#[test]
fn whatever_frees_a_slot_serves_who_waits() {
    type Freeing<'f> = &'f mut dyn FnMut(&mut Queue);
    let frees: [(&str, Freeing); 9] = [
        ("a thaw of one that was out of use", &mut |queue| {
            let off = AccountReport::Disable(0, 401.into());
            queue.rig.pipe.heard("c", off).unwrap();
            queue.rig.pipe.control("thaw", "c", None).unwrap();
        }),
        ("undrain", &mut |queue| {
            queue.rig.pipe.control("undrain", "b", None).unwrap();
        }),
        ("thaw", &mut |queue| {
            queue.rig.pipe.control("thaw", "c", None).unwrap();
        }),
        ("a cooldown's end, met by a newcomer", &mut |queue| {
            queue.pass_ms(3_000);
            let lease = queue.mint(None);
            assert!(matches!(queue.ask(lease), Answer::Waits(_)));
            queue.rig.pipe.release(&[lease]).unwrap();
        }),
        ("a cooldown's end, met by an older worker", &mut |queue| {
            queue.pass_ms(3_000);
            let lease = queue.mint(None);
            let answer = queue.rig.pipe.acquire(lease, Mode::Take, None);
            assert!(matches!(answer, Ok(Answer::Saturated(_))), "{answer:?}");
        }),
        ("a raised limit", &mut |queue| {
            let list = [account("a", 2), account("b", 1), account("c", 1)];
            queue.rig.pipe.sync(2, 2, Some(&list)).unwrap();
        }),
        ("a new account", &mut |queue| {
            let list = [account("a", 1), account("d", 1)];
            queue.rig.pipe.sync(2, 2, Some(&list)).unwrap();
        }),
        ("a recount that finds a slot", &mut |queue| {
            let key = queue.rig.ledger.key("cooldown");
            queue.rig.redis.run::<i64>("ZREM", &[&key, "c"]);
            assert!(pass(&mut queue.rig) > 0);
        }),
        ("a recount that finds a dead lease", &mut |queue| {
            let key = queue.rig.ledger.key("leases");
            let holder = queue.rig.ledger.owner().into_keys().next().unwrap();
            queue.rig.redis.run::<i64>("ZREM", &[&key, &holder]);
            assert!(pass(&mut queue.rig) > 0);
        }),
    ];
    for (what, free) in frees {
        let mut queue = Queue::new(&[("a", 1), ("b", 1), ("c", 1)]);
        queue.rig.pipe.control("drain", "b", None).unwrap();
        queue.rig.pipe.cooldown("c", 3_000).unwrap();
        queue.holder();
        let (first, second) = (queue.waiter(), queue.waiter());
        free(&mut queue);
        let state = queue.rig.ledger.state();
        let served = state.owner.contains_key(first.as_str());
        assert!(served, "{what}: {state:#?}");
        assert!(state.waiting.contains_key(second.as_str()), "{what}");
        state.assert_consistent();
    }
}

#[test]
fn a_probe_is_handed_on_and_what_follows_when_it_passes() {
    let mut queue = Queue::new(&[("a", 2)]);
    let mut connection = queue.rig.redis.connect();
    let mut subscribed = connection.as_pubsub();
    subscribed.subscribe("slotgate:grants").unwrap();
    queue
        .rig
        .pipe
        .heard("a", AccountReport::CoolThenProbe(2_000))
        .unwrap();
    let (first, second) = (queue.waiter(), queue.waiter());
    queue.pass_ms(2_000);
    let late = queue.waiter();
    queue.assert_holds(first, "a");
    queue.assert_waits(second);
    let message = subscribed.get_message().unwrap();
    let handed = Handed::read(message.get_payload_bytes()).unwrap();
    assert!(handed.probes && handed.lease == first.as_bytes());
    assert_eq!(queue.ask(first), Answer::Granted("a".into()));
    assert!(queue.rig.pipe.probes);
    // Without a word: the next one's turn to probe.
    assert_eq!(queue.hand_on(first), Some(second.to_string()));
    let handed = subscribed.get_message().unwrap();
    assert!(Handed::read(handed.get_payload_bytes()).is_some_and(|handed| handed.probes));
    let passed = queue.rig.pipe.heard("a", AccountReport::Passed(second));
    assert_eq!(passed, Ok(1));
    queue.assert_holds(late, "a");
    queue.assert_nobody_waits();
}

#[test]
fn after_a_data_loss_they_stand_as_before() {
    let mut queue = Queue::new(&[("a", 1)]);
    queue.holder();
    let places: Vec<(LeaseId, Order)> = (0..6)
        .map(|_| {
            let lease = queue.mint(None);
            let Answer::Waits(order) = queue.ask(lease) else {
                panic!()
            };
            (lease, order)
        })
        .collect();
    assert!(places.is_sorted_by_key(|(_, order)| *order));
    queue.rig.redis.run::<()>("FLUSHALL", &[]);
    queue.rig.pipe.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    // Two newcomers come first, and few may wait: no matter.
    let mut holder = queue.holder();
    let newcomer = queue.waiter();
    queue.rig.pipe.waiting.most = 1;
    for at in [3, 0, 5, 1, 4, 2] {
        let (lease, order) = places[at];
        let mut terms = queue.terms(NO_CAP);
        terms.place = Place::At(order);
        let answer = queue.rig.pipe.acquire(lease, Mode::Join(terms), None);
        assert_eq!(answer, Ok(Answer::Waits(order)));
    }
    let mut served = Vec::new();
    while let Some(next) = queue.hand_on(holder) {
        let all = places.iter().map(|(lease, _)| *lease).chain([newcomer]);
        holder = all
            .into_iter()
            .find(|lease| lease.as_str() == next)
            .unwrap();
        served.push(holder);
    }
    let mut expected: Vec<LeaseId> = places.iter().map(|(lease, _)| *lease).collect();
    expected.push(newcomer);
    assert_eq!(texts(&served), texts(&expected));
}

/// Workers of a version that knows no queue take what is free, and hand nothing on.
#[test]
fn an_older_worker_beside_it_breaks_no_limit() {
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    let holders = [queue.holder(), queue.holder()];
    let (first, second) = (queue.waiter(), queue.waiter());
    let lease = queue.mint(None);
    let answer = queue.rig.pipe.acquire(lease, Mode::Take, None);
    assert!(matches!(answer, Ok(Answer::Saturated(_))), "{answer:?}");
    // A lease that waits is not granted because someone asks in the older way.
    let answer = queue.rig.pipe.acquire(first, Mode::Take, None);
    assert!(matches!(answer, Ok(Answer::Saturated(1000))), "{answer:?}");
    queue.assert_waits(first);
    let dry = queue.rig.pipe.acquire(first, Mode::Dry, None);
    assert!(matches!(dry, Ok(Answer::Saturated(_))), "{dry:?}");
    // What an older release does.
    let older = |queue: &mut Queue, lease: LeaseId| {
        let account = queue.owner(lease).unwrap();
        let key = |name: &str| queue.rig.ledger.key(name);
        let redis = &queue.rig.redis;
        redis.run::<i64>("ZREM", &[&key("leases"), lease.as_str()]);
        redis.run::<i64>("HDEL", &[&key("owner"), lease.as_str()]);
        redis.run::<i64>("HINCRBY", &[&key("used"), &account, "-1"]);
        redis.run::<i64>("ZADD", &[&key("free"), "0", &account]);
    };
    older(&mut queue, holders[0]);
    let (taken, _) = queue.rig.take();
    assert_eq!(queue.rig.free(), "");
    older(&mut queue, taken);
    // Those that ask again are served first.
    assert!(matches!(queue.ask(second), Answer::Waits(_)));
    queue.rig.ledger.assert_consistent();
    assert!(matches!(queue.ask(first), Answer::Granted(_)));
    assert_eq!(queue.rig.free(), "");
    assert_eq!(queue.hand_on(holders[1]), Some(second.to_string()));
    queue.assert_nobody_waits();
}

#[test]
fn inspect_says_who_waits() {
    let mut queue = Queue::new(&[("a", 3)]);
    queue.rig.pipe.ttl_ms = 60_000;
    let look = |queue: &mut Queue| {
        let mut pool = slotgate::ledger::view::Pool::default();
        pool.page(&queue.rig.pipe.inspect_raw("0", 10)).unwrap();
        pool
    };
    let pool = look(&mut queue);
    assert_eq!((pool.waiting, pool.longest_wait_ms), (0, 0));
    assert!(pool.tenants.is_empty());
    let (gold, lead, idle) = (tenant("gold"), tenant("lead"), tenant("idle"));
    for tenant in [&gold, &gold, &idle] {
        let lease = queue.mint(Some(tenant));
        assert!(matches!(queue.ask_of(lease, NO_CAP), Answer::Granted(_)));
    }
    queue.waiter_of(Some(&lead), NO_CAP);
    queue.pass_ms(2_000);
    for tenant in [Some(&gold), Some(&gold), None, None, None] {
        queue.waiter_of(tenant, NO_CAP);
    }
    queue.pass_ms(1_000);
    let pool = look(&mut queue);
    assert_eq!((pool.live, pool.expired, pool.waiting), (3, 0, 6));
    assert!((3_000..3_900).contains(&pool.longest_wait_ms), "{pool:?}");
    let rows: Vec<_> = pool
        .tenants
        .iter()
        .map(|one| {
            (
                one.name.as_bytes(),
                one.leases,
                one.waiting,
                one.longest_wait_ms / 1_000,
            )
        })
        .collect();
    let expected = [(gold, 2, 2, 1), (lead, 0, 1, 3), (idle, 1, 0, 0)];
    let expected = expected
        .each_ref()
        .map(|(name, a, b, c)| (&name[..], *a, *b, *c));
    assert_eq!(rows, expected);
    // The dead are neither leases nor expired ones.
    queue.pass_ms(10_000);
    let pool = look(&mut queue);
    assert_eq!((pool.live, pool.expired, pool.waiting), (3, 0, 6));
    queue.pass_ms(60_000);
    let pool = look(&mut queue);
    assert_eq!((pool.live, pool.expired, pool.waiting), (0, 3, 6));

    // Many tenants: fifty of them.
    let mut queue = Queue::new(&[("a", 1)]);
    queue.rig.pipe.waiting.vouched_ms = 60_000;
    queue.holder();
    for number in 0..130 {
        let tenant = tenant(&number.to_string());
        for _ in 0..=u32::from(number == 77) {
            queue.waiter_of(Some(&tenant), NO_CAP);
        }
    }
    let pool = look(&mut queue);
    assert_eq!((pool.waiting, pool.tenants.len()), (131, 50));
    let most = pool.tenants.iter().map(|one| one.waiting).max();
    assert_eq!(Some(pool.tenants[0].waiting), most);

    // A page that is not the first says nothing of it, and a reply of before can be read.
    let reply = queue.rig.pipe.inspect_raw("1", 10);
    assert!(
        reply.starts_with(b"*9\r\n"),
        "{}",
        String::from_utf8_lossy(&reply)
    );
    let mut pool = slotgate::ledger::view::Pool::default();
    assert_eq!(pool.page(&reply).map(|next| next.is_none()), Ok(true));
}

/// A script hands on a bounded number of slots; the next acquires go on with it, before any newcomer is served.
#[test]
fn many_slots_that_come_free_at_once_are_handed_on_in_order() {
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    queue.rig.pipe.waiting.most = 10_000;
    queue.rig.pipe.ttl_ms = 60_000;
    queue.rig.pipe.waiting.vouched_ms = 60_000;
    let first = queue.holder();
    queue.holder();
    let waiting: Vec<LeaseId> = (0..1_700).map(|_| queue.mint(None)).collect();
    for part in waiting.chunks(1_000) {
        let asked: Vec<Asked> = part
            .iter()
            .map(|lease| Asked {
                lease: *lease,
                mode: Mode::Join(queue.terms(NO_CAP)),
                session: None,
                scope: None,
            })
            .collect();
        queue.rig.pipe.acquire_all(&asked, 0, 1).unwrap();
    }
    let served = |queue: &Queue| {
        let owner = queue.rig.ledger.owner();
        let held = |lease: &LeaseId| owner.contains_key(lease.as_str());
        let count = waiting.iter().take_while(|lease| held(lease)).count();
        assert!(!waiting[count..].iter().any(held), "in their order");
        count
    };
    let list = [account("a", 2_000), account("b", 2_000)];
    queue.rig.pipe.sync(2, 2, Some(&list)).unwrap();
    assert_eq!(served(&queue), 500);
    // A release goes on with its own slot only; whoever comes new waits behind the rest, or goes on with it.
    queue.rig.pipe.release(&[first]).unwrap();
    let before = served(&queue);
    assert!((501..=1_000).contains(&before), "{before}");
    let newcomer = queue.mint(None);
    let told = queue.ask(newcomer);
    let now = served(&queue);
    assert!(now > before, "{now}");
    assert_eq!(
        matches!(told, Answer::Waits(_)),
        now < 1_700,
        "{told:?}, {now}"
    );
    let last = queue.mint(None);
    assert!(matches!(queue.ask(last), Answer::Granted(_)));
    assert_eq!(served(&queue), 1_700);
    assert!(queue.owner(newcomer).is_some());
    queue.assert_nobody_waits();
}

/// Whoever gives up is told when to come back; whoever waits, when a cooldown ends that may serve it.
#[test]
fn those_that_wait_are_told_how_long_it_may_take() {
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    let told = |queue: &mut Queue, lease| {
        let mode = Mode::Join(queue.terms(NO_CAP));
        let reply = queue.rig.pipe.acquire_raw(lease, mode, None, None, 3);
        match acquired(&reply, 1).unwrap().1.next().unwrap() {
            Acquired::Waits {
                retry_after_ms,
                wake_ms,
                ..
            } => (retry_after_ms, wake_ms),
            other => panic!("{other:?}"),
        }
    };
    // Nothing but cooldowns, nobody was ever served: the first end.
    queue.rig.pipe.cooldown("a", 40_000).unwrap();
    queue.rig.pipe.cooldown("b", 50_000).unwrap();
    queue.rig.pipe.waiting.vouched_ms = 1_000_000;
    queue.rig.pipe.ttl_ms = 1_000_000;
    let lease = queue.mint(None);
    let other = queue.mint(None);
    for again in [false, true] {
        let (retry_ms, wake_ms) = told(&mut queue, other);
        assert!((39_000..=40_000).contains(&retry_ms), "{retry_ms}");
        assert!((39_000..=40_000).contains(&wake_ms), "{again}: {wake_ms}");
    }
    queue.rig.pipe.release(&[other]).unwrap();
    queue.rig.pipe.control("thaw", "a", None).unwrap();
    let mut holder = queue.holder();
    let (retry_ms, wake_ms) = told(&mut queue, lease);
    assert!((1..=1_000).contains(&retry_ms), "{retry_ms}");
    assert!((39_000..=50_000).contains(&wake_ms), "{wake_ms}");
    queue.rig.pipe.control("drain", "b", None).unwrap();
    queue.rig.pipe.control("thaw", "b", None).unwrap();
    assert_eq!(told(&mut queue, lease).1, 0);
    // One slot each two seconds, ten before it.
    let mut waiting: Vec<LeaseId> = (0..21).map(|_| queue.waiter()).collect();
    waiting.insert(0, lease);
    for _ in 0..12 {
        queue.pass_ms(2_000);
        queue.rig.pipe.release(&[holder]).unwrap();
        holder = waiting.remove(0);
    }
    let last = queue.mint(None);
    let (retry_ms, _) = told(&mut queue, last);
    assert!((18_000..=22_500).contains(&retry_ms), "{retry_ms}");
    queue.rig.pipe.waiting.most = 3;
    let more = queue.mint(None);
    let full = queue.ask(more);
    assert!(
        matches!(full, Answer::QueueFull(18_000..=24_000)),
        "{full:?}"
    );
}

/// A tenant that comes back below its cap may use what was free before, whatever its lease held.
#[test]
fn a_tenant_below_its_cap_again_gets_what_was_free_all_along() {
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    let (gold, scope) = (tenant("gold"), [7; 16]);
    let cap = TenantLimits {
        max_concurrency: 1,
        ..NO_CAP
    };
    queue
        .rig
        .pipe
        .cooldown_in("a", 50_000, Some(&scope))
        .unwrap();
    let block = queue.rig.pinned("b");
    let held = queue.mint(Some(&gold));
    assert_eq!(queue.ask_of(held, cap), Answer::Granted("a".into()));
    queue.rig.pipe.release(&[block]).unwrap();
    let waiter = queue.mint(Some(&gold));
    let mode = Mode::Join(queue.terms(cap));
    let answer = queue
        .rig
        .pipe
        .acquire_in(waiter, mode, None, Some(&scope), 3);
    assert!(matches!(answer, Ok(Answer::Waits(_))), "{answer:?}");
    assert_eq!(queue.rig.free(), "b");
    assert_eq!(queue.hand_on(held), Some(waiter.to_string()));
    queue.assert_holds(waiter, "b");
}

/// However many are free that it may not use.
#[test]
fn a_waiter_finds_the_one_account_that_its_scope_leaves_it() {
    let names: Vec<String> = (0..40).map(|n| format!("a{n}")).collect();
    let mut accounts: Vec<(&str, u32)> = names.iter().map(|id| (id.as_str(), 1)).collect();
    accounts.push(("z", 1));
    let mut queue = Queue::new(&accounts);
    let scope = [7; 16];
    for id in &names {
        queue
            .rig
            .pipe
            .cooldown_in(id, 50_000, Some(&scope))
            .unwrap();
    }
    let held = queue.rig.pinned("z");
    let waiter = queue.mint(None);
    let answer = queue.ask_in(waiter, None, &scope);
    assert!(matches!(answer, Answer::Waits(_)), "{answer:?}");
    assert_eq!(queue.rig.ledger.free().len(), 40);
    // Others' releases do not read their way through those.
    let other = queue.rig.pinned("a7");
    let _: String = queue.rig.redis.run("CONFIG", &["RESETSTAT"]);
    assert_eq!(queue.hand_on(other), None);
    let stats: String = queue.rig.redis.run("INFO", &["commandstats"]);
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_zscore:calls="));
    let reads: u32 = line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap());
    assert!(reads < 6, "{reads}");
    assert_eq!(queue.hand_on(held), Some(waiter.to_string()));
    queue.assert_holds(waiter, "z");
}

/// Of several that come free at once, chance decides as it does for an acquire.
#[test]
fn a_hand_off_chooses_as_an_acquire_does() {
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    let mut chosen = [0, 0];
    for _ in 0..40 {
        let holders = [queue.rig.pinned("a"), queue.rig.pinned("b")];
        let waiter = queue.waiter();
        queue.rig.pipe.release(&holders).unwrap();
        let account = queue.owner(waiter).unwrap();
        chosen[usize::from(account == "b")] += 1;
        queue.rig.pipe.release(&[waiter]).unwrap();
    }
    assert!(chosen.iter().all(|count| *count > 4), "{chosen:?}");
    // Without chance the best one: by load, and those that are behind last.
    let list = [account("a", 4), account("b", 4)];
    queue.rig.pipe.sync(2, 2, Some(&list)).unwrap();
    queue.rig.pipe.random = 0;
    let a: Vec<LeaseId> = (0..4).map(|_| queue.rig.pinned("a")).collect();
    let b: Vec<LeaseId> = (0..4).map(|_| queue.rig.pinned("b")).collect();
    for (freed, expected) in [(vec![a[0], b[0], b[1]], "b"), (vec![a[1], a[2], b[2]], "a")] {
        let waiter = queue.waiter();
        queue.rig.pipe.release(&freed).unwrap();
        queue.assert_holds(waiter, expected);
        while let Answer::Granted(_) = {
            let lease = queue.mint(None);
            let answer = queue.ask(lease);
            if matches!(answer, Answer::Waits(_)) {
                queue.rig.pipe.release(&[lease]).unwrap();
            }
            answer
        } {}
    }
    queue
        .rig
        .pipe
        .heard("a", AccountReport::Behind(60_000))
        .unwrap();
    let waiter = queue.waiter();
    queue.rig.pipe.release(&[a[3], b[3]]).unwrap();
    queue.assert_holds(waiter, "b");
}

/// How long nobody waited says nothing of how fast slots come free.
#[test]
fn idle_times_are_no_pace() {
    let mut queue = Queue::new(&[("a", 1)]);
    queue.rig.pipe.ttl_ms = 1_000_000;
    let mut holder = queue.holder();
    for round in 0..6 {
        // Two waiters a second apart, then none for a minute.
        let next = [queue.waiter(), queue.waiter()];
        for lease in next {
            queue.pass_ms(1_000);
            assert_eq!(queue.hand_on(holder), Some(lease.to_string()), "{round}");
            holder = lease;
        }
        queue.pass_ms(60_000);
    }
    let waiter = queue.mint(None);
    queue.rig.pipe.waiting.most = 1;
    assert!(matches!(queue.ask(waiter), Answer::Waits(_)));
    let full = queue.mint(None);
    let full = queue.ask(full);
    assert!(matches!(full, Answer::QueueFull(..=3_000)), "{full:?}");
}

/// Redis lost its data, and what was on its way before came after it.
#[test]
fn a_renewal_brings_a_lease_back_from_the_queue() {
    let gold = tenant("gold");
    let limits = TenantLimits {
        max_concurrency: 2,
        ..NO_CAP
    };
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    queue.holder();
    queue.holder();
    let epoch = queue.rig.pipe.epoch;
    let alone = queue.waiter();
    let first = queue.waiter_of(Some(&gold), limits);
    let next = queue.waiter_of(Some(&gold), limits);
    // Another epoch than the present one: its request has held a slot of `a` since before the loss.
    let answer = queue.rig.pipe.renew(&[(first, "a", epoch + 1)]);
    assert_eq!(answer, Ok(vec![Renewed::Readopted]));
    queue.assert_holds(first, "a");
    assert_eq!(queue.rig.ledger.used("a"), 2);
    let name = String::from_utf8(gold.to_vec()).unwrap();
    assert_eq!(queue.rig.ledger.state().tenants[&name], 1);
    let answer = queue.rig.pipe.renew(&[(alone, "b", epoch + 1)]);
    assert_eq!(answer, Ok(vec![Renewed::Readopted]));
    queue.assert_holds(alone, "b");
    // Without a loss, and without a free slot, it is lost: it waits no longer either.
    let answer = queue.rig.pipe.renew(&[(next, "a", epoch)]);
    assert_eq!(answer, Ok(vec![Renewed::Lost]));
    assert_eq!(queue.owner(next), None);
    queue.assert_nobody_waits();
    // It is over the limit now; the first slot that comes free is nobody's.
    assert_eq!(queue.hand_on(first), None);
    assert_eq!(queue.rig.free(), "");
    assert_eq!(pass(&mut queue.rig), 0);
}

#[test]
fn a_renewal_brings_a_lease_back_from_another_account() {
    let mut queue = Queue::new(&[("a", 1), ("b", 2)]);
    let on_a = queue.rig.pinned("a");
    let epoch = queue.rig.pipe.epoch;
    let gold = tenant("gold");
    let (moved, kept) = (queue.mint(Some(&gold)), queue.rig.pinned("b"));
    queue
        .rig
        .pipe
        .acquire(moved, Mode::Force("b"), None)
        .unwrap();
    let (waiter, capped) = (
        queue.waiter(),
        queue.waiter_of(
            Some(&gold),
            TenantLimits {
                max_concurrency: 1,
                ..NO_CAP
            },
        ),
    );
    // Its slot of `b` goes on to who waits for one, not to its own tenant, which holds as much as before.
    let answer = queue
        .rig
        .pipe
        .renew(&[(moved, "a", epoch + 1), (kept, "b", epoch)]);
    assert_eq!(answer, Ok(vec![Renewed::Readopted, Renewed::Renewed]));
    queue.assert_holds(moved, "a");
    queue.assert_holds(waiter, "b");
    queue.assert_waits(capped);
    assert_eq!(queue.rig.ledger.used("a"), 2);
    // Asked again, nothing changes.
    let answer = queue.rig.pipe.renew(&[(moved, "a", epoch)]);
    assert_eq!(answer, Ok(vec![Renewed::Renewed]));
    queue.assert_holds(moved, "a");
    // Without a loss since then, nobody takes more than there is: it is lost, and what it had elsewhere is handed on.
    let answer = queue
        .rig
        .pipe
        .renew(&[(moved, "b", epoch), (on_a, "a", epoch)]);
    assert_eq!(answer, Ok(vec![Renewed::Lost, Renewed::Renewed]));
    assert_eq!(queue.owner(moved), None);
    queue.assert_waits(capped);
    assert_eq!(queue.rig.ledger.used("a"), 1);
    assert_eq!(queue.hand_on(on_a), Some(capped.to_string()));
    assert_eq!(pass(&mut queue.rig), 0);
}

/// A recount that has counted a lease already, or not yet, is told where it went.
#[test]
fn a_renewal_that_moves_a_lease_does_not_disturb_a_recount() {
    let gold = tenant("gold");
    let mut queue = Queue::new(&[]);
    for steps in 0..16 {
        queue.rig.redis.run::<()>("FLUSHALL", &[]);
        let accounts = ["a", "b"].map(|id| account(id, 3));
        queue.rig.pipe.sync(1, 1, Some(&accounts)).unwrap();
        let epoch = queue.rig.pipe.epoch;
        let leases: Vec<LeaseId> = (0..3).map(|_| queue.mint(Some(&gold))).collect();
        for lease in &leases {
            queue
                .rig
                .pipe
                .acquire(*lease, Mode::Force("b"), None)
                .unwrap();
        }
        for _ in 0..steps {
            queue.rig.pipe.reconcile("one", 60_000, 1).unwrap();
        }
        let claims: Vec<_> = leases.iter().map(|lease| (*lease, "a", epoch)).collect();
        let answer = queue.rig.pipe.renew(&claims);
        assert_eq!(answer, Ok(vec![Renewed::Readopted; 3]));
        queue.rig.ledger.assert_consistent();
        assert_eq!(pass(&mut queue.rig), 0, "after {steps} steps");
        assert_eq!(pass(&mut queue.rig), 0, "after {steps} steps");
        queue.rig.ledger.assert_consistent();
    }
}

/// The account that a moved lease probed is free for another probe.
#[test]
fn a_renewal_that_moves_a_probe_lets_another_one_probe() {
    let mut queue = Queue::new(&[("a", 2), ("b", 2)]);
    let epoch = queue.rig.pipe.epoch;
    let report = AccountReport::CoolThenProbe(100);
    queue.rig.pipe.heard("b", report).unwrap();
    queue.rig.pipe.control("drain", "a", None).unwrap();
    queue.pass_ms(200);
    let lease = queue.mint(None);
    assert_eq!(queue.ask(lease), Answer::Granted("b".into()));
    assert!(queue.rig.pipe.probes);
    assert_eq!(queue.rig.free(), "");
    let waiter = queue.waiter();
    let answer = queue.rig.pipe.renew(&[(lease, "a", epoch)]);
    assert_eq!(answer, Ok(vec![Renewed::Readopted]));
    queue.assert_holds(lease, "a");
    queue.assert_holds(waiter, "b");
    assert_eq!(
        queue.rig.ledger.state().meta["#probe:b"],
        waiter.to_string()
    );
}

#[test]
fn a_renewal_that_frees_several_accounts_hands_each_on_in_order() {
    let mut queue = Queue::new(&[("a", 1), ("b", 1)]);
    let scope = [7; 16];
    let holders = [queue.holder(), queue.holder()];
    let of = |queue: &Queue, account: &str| {
        let owner = |lease: &&LeaseId| queue.owner(**lease).as_deref() == Some(account);
        *holders.iter().find(owner).unwrap()
    };
    let (on_a, on_b) = (of(&queue, "a"), of(&queue, "b"));
    queue
        .rig
        .pipe
        .cooldown_in("b", 60_000, Some(&scope))
        .unwrap();
    // The first can use a alone, and stands in a line of its own.
    let first = queue.mint(None);
    let answer = queue.ask_in(first, None, &scope);
    assert!(matches!(answer, Answer::Waits(_)), "{answer:?}");
    let second = queue.waiter();
    // One lease moves from a to b, and b's own is lost: a is free, and b is not.
    let epoch = queue.rig.pipe.epoch;
    let renewed = queue
        .rig
        .pipe
        .renew(&[(on_a, "b", epoch + 1), (on_b, "zz", epoch)]);
    assert_eq!(renewed, Ok(vec![Renewed::Readopted, Renewed::Lost]));
    queue.assert_holds(first, "a");
    queue.assert_waits(second);
    queue.rig.ledger.assert_consistent();
}
