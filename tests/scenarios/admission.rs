//! The request's transition table, written down a second time and compared for every phase, event and policy.

use proptest::prelude::*;
use slotgate::config::{OnFailure, OnSaturated, Otherwise, Queue, Traditional};
use slotgate::request::admission::{Effect, Effects, Event, Path, Phase, Policy, Reason};
use slotgate::request::lease::{LeaseId, LeaseIds};

fn lease() -> LeaseId {
    LeaseIds::new(7).mint(None)
}

/// The lease of a request's next try.
fn other() -> LeaseId {
    LeaseIds::new(8).mint(None)
}

fn phases() -> Vec<Phase> {
    let lease = lease();
    vec![
        Phase::Idle,
        Phase::Acquiring { lease },
        Phase::Waiting { lease },
        Phase::Holding {
            lease,
            account: 1,
            path: Path::Atomic,
        },
        Phase::Holding {
            lease,
            account: 1,
            path: Path::Local,
        },
        Phase::Traditional(Reason::PipeDown),
        Phase::Rejected(Reason::Saturated),
        Phase::Done,
    ]
}

fn events() -> Vec<Event> {
    vec![
        Event::Out(Reason::OutOfPercentage),
        Event::Out(Reason::NoPool),
        Event::In(lease()),
        Event::Unavailable(Reason::PipeDown),
        Event::Granted { account: 1 },
        Event::Saturated {
            reason: Reason::Saturated,
            retry_after_ms: 5,
        },
        Event::Saturated {
            reason: Reason::TenantLimit,
            retry_after_ms: 5,
        },
        Event::Waits,
        Event::WaitedTooLong { retry_after_ms: 5 },
        Event::Failed {
            reason: Reason::TimedOut,
            in_doubt: true,
        },
        Event::Failed {
            reason: Reason::Refused,
            in_doubt: false,
        },
        Event::ChosenLocally {
            lease: lease(),
            account: 1,
        },
        Event::FullLocally,
        Event::Pushback { cooldown_ms: 9 },
        Event::TriesAgain { lease: other() },
        Event::TriesNoMore(Reason::PipeDown),
        Event::Ended,
    ]
}

fn policies() -> Vec<Policy> {
    let mut all = Vec::new();
    let queue = |otherwise| {
        OnSaturated::Queue(Queue {
            max_wait_ms: 1,
            max_waiting: 1,
            otherwise,
        })
    };
    for saturated in [
        OnSaturated::Reject,
        OnSaturated::Traditional,
        queue(Otherwise::Reject),
        queue(Otherwise::Traditional),
    ] {
        for failure in [OnFailure::Reject, OnFailure::Traditional] {
            for traditional in [Traditional::Passthrough, Traditional::Local { share: 2 }] {
                all.push(Policy {
                    saturated,
                    failure,
                    traditional,
                });
            }
        }
    }
    all
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "Idle",
        Phase::Acquiring { .. } => "Acquiring",
        Phase::Waiting { .. } => "Waiting",
        Phase::Holding {
            path: Path::Local, ..
        } => "Holding locally",
        Phase::Holding { .. } => "Holding",
        Phase::Traditional(_) => "Traditional",
        Phase::Rejected(_) => "Rejected",
        Phase::Done => "Done",
    }
}

fn event_name(event: Event) -> &'static str {
    match event {
        Event::Out(Reason::NoPool) => "no pool",
        Event::Out(_) => "out",
        Event::In(_) => "in",
        Event::Unavailable(_) => "unavailable",
        Event::Granted { .. } => "granted",
        Event::Saturated {
            reason: Reason::TenantLimit,
            ..
        } => "tenant limit",
        Event::Saturated { .. } => "saturated",
        Event::Waits => "waits",
        Event::WaitedTooLong { .. } => "waited too long",
        Event::Failed { in_doubt: true, .. } => "failed in doubt",
        Event::Failed { .. } => "failed",
        Event::ChosenLocally { .. } => "chosen locally",
        Event::FullLocally => "full locally",
        Event::Pushback { .. } => "pushback",
        Event::TriesAgain { .. } => "tries again",
        Event::TriesNoMore(_) => "tries no more",
        Event::Ended => "ended",
    }
}

fn effect_names(effects: Effects) -> String {
    let name = |effect| match effect {
        Effect::Forward {
            path: Path::Traditional,
            holds: None,
        } => "as it is",
        Effect::Forward {
            holds: Some((held, 1)),
            ..
        } if held == lease() => "forward",
        Effect::Forward { .. } => "WRONG forward",
        Effect::RejectSaturated { .. } => "429",
        Effect::RejectUnavailable => "503",
        Effect::ChooseLocally => "choose",
        Effect::CountUp { account: 1 } => "up",
        Effect::CountDown { account: 1 } => "down",
        Effect::CountUp { .. } | Effect::CountDown { .. } => "WRONG account",
        Effect::Record { .. } => "record",
        Effect::Cool {
            account: 1,
            cooldown_ms: 9,
        } => "cool",
        Effect::Cool { .. } => "WRONG cool",
        Effect::Release { lease: held, .. } if held != lease() => "WRONG release",
        Effect::Release { in_doubt: true, .. } => "release in doubt",
        Effect::Release {
            in_doubt: false, ..
        } => "release",
    };
    effects.into_iter().map(name).collect::<Vec<_>>().join(", ")
}

/// from | event | under which policy | to | effects. What isn't here must change nothing.
const TABLE: &str = "
Idle        | out             |                   | Traditional     | as it is
Idle        | out             | local             | Traditional     | choose
Idle        | no pool         |                   | Traditional     | as it is
Idle        | no pool         | local             | Traditional     | as it is
Idle        | in              | any               | Acquiring       |
Idle        | unavailable     | 503               | Rejected        | 503
Idle        | unavailable     | fail over         | Traditional     | as it is
Idle        | unavailable     | fail over, local  | Traditional     | choose
Idle        | saturated       | 429               | Rejected        | 429
Idle        | saturated       | spill             | Traditional     | as it is
Idle        | saturated       | spill, local      | Traditional     | choose
Idle        | tenant limit    | any               | Rejected        | 429
Idle        | ended           | any               | Done            |
Acquiring   | granted         | any               | Holding         | up, forward
Acquiring   | saturated       | 429               | Rejected        | 429
Acquiring   | saturated       | spill             | Traditional     | as it is
Acquiring   | saturated       | spill, local      | Traditional     | choose
Acquiring   | tenant limit    | any               | Rejected        | 429
Acquiring   | waits           | any               | Waiting         |
Waiting     | granted         | any               | Holding         | up, forward
Waiting     | saturated       | 429               | Rejected        | 429
Waiting     | saturated       | spill             | Traditional     | as it is
Waiting     | saturated       | spill, local      | Traditional     | choose
Waiting     | tenant limit    | any               | Rejected        | 429
Waiting     | waited too long | 429               | Rejected        | release, 429
Waiting     | waited too long | spill             | Traditional     | release, as it is
Waiting     | waited too long | spill, local      | Traditional     | release, choose
Waiting     | failed          | 503               | Rejected        | 503
Waiting     | failed          | fail over         | Traditional     | as it is
Waiting     | failed          | fail over, local  | Traditional     | choose
Waiting     | failed in doubt | 503               | Rejected        | release in doubt, 503
Waiting     | failed in doubt | fail over         | Traditional     | release in doubt, as it is
Waiting     | failed in doubt | fail over, local  | Traditional     | release in doubt, choose
Waiting     | ended           | any               | Done            | release
Acquiring   | failed          | 503               | Rejected        | 503
Acquiring   | failed          | fail over         | Traditional     | as it is
Acquiring   | failed          | fail over, local  | Traditional     | choose
Acquiring   | failed in doubt | 503               | Rejected        | release in doubt, 503
Acquiring   | failed in doubt | fail over         | Traditional     | release in doubt, as it is
Acquiring   | failed in doubt | fail over, local  | Traditional     | release in doubt, choose
Acquiring   | ended           | any               | Done            | release in doubt
Holding     | pushback        | any               | Holding         | cool
Holding     | tries again     | any               | Acquiring       | down, release
Holding     | tries no more   | any               | Rejected        | down, release, 503
Holding     | ended           | any               | Done            | down, release
Holding locally | pushback    | any               | Holding locally | cool
Holding locally | tries again | any               | Acquiring       | down, release
Holding locally | tries no more | any             | Rejected        | down, release, 503
Holding locally | ended       | any               | Done            | down, release
Traditional | chosen locally  | any               | Holding locally | up, record, forward
Traditional | full locally    | 429               | Rejected        | 429
Traditional | full locally    | spill             | Traditional     | as it is
Traditional | full locally    | spill, local      | Traditional     | as it is
Traditional | ended           | any               | Done            |
Rejected    | ended           | any               | Done            |
";

/// Whether a row's policy column speaks of this policy.
fn speaks_of(column: &str, policy: Policy) -> bool {
    let local = policy.traditional != Traditional::Passthrough;
    match column {
        "any" => true,
        "503" => policy.failure == OnFailure::Reject,
        "429" => policy.saturated.rejects(),
        other => {
            let way = match other.split(", ").next() {
                Some("fail over") => policy.failure == OnFailure::Traditional,
                Some("spill") => !policy.saturated.rejects(),
                Some("" | "local") => true,
                odd => panic!("{odd:?}"),
            };
            way && local == other.ends_with("local")
        }
    }
}

#[test]
fn every_phase_event_and_policy() {
    let rows: Vec<Vec<&str>> = TABLE
        .trim()
        .lines()
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let mut hits = vec![0; rows.len()];
    for phase in phases() {
        for event in events() {
            for policy in policies() {
                let (next, effects) = phase.step(event, &policy);
                let told = format!("{} + {} under {policy:?}", name(phase), event_name(event));
                let found: Vec<usize> = (0..rows.len())
                    .filter(|row| {
                        rows[*row][0] == name(phase) && rows[*row][1] == event_name(event)
                    })
                    .filter(|row| speaks_of(rows[*row][2], policy))
                    .collect();
                assert!(found.len() < 2, "two rows for {told}");
                match found.first() {
                    None => {
                        assert_eq!(next, phase, "{told}");
                        assert_eq!(effect_names(effects), "", "{told}");
                    }
                    Some(row) => {
                        hits[*row] += 1;
                        assert_eq!(
                            (name(next), effect_names(effects).as_str()),
                            (rows[*row][3], rows[*row][4]),
                            "{told}"
                        );
                    }
                }
            }
        }
    }
    for (row, hits) in rows.iter().zip(hits) {
        assert!(hits > 0, "never reached: {row:?}");
    }
}

#[test]
fn reasons_are_kept() {
    let policy = policies()
        .into_iter()
        .find(|p| p.failure == OnFailure::Traditional)
        .unwrap();
    let (phase, _) = Phase::Idle.step(Event::Unavailable(Reason::QueueFull), &policy);
    assert_eq!(phase.reason(), Some(Reason::QueueFull));
    assert_eq!(phase.path(), Some(Path::Traditional));
    let (phase, _) =
        Phase::Acquiring { lease: lease() }.step(Event::Granted { account: 1 }, &policy);
    assert_eq!(
        (phase.reason(), phase.path(), phase.holds()),
        (None, Some(Path::Atomic), Some((lease(), 1)))
    );
}

proptest! {
    /// Whatever happens in whatever order: one answer at most, counts even, and no lease without its release.
    #[test]
    fn any_order_of_events(
        order in proptest::collection::vec(0..events().len(), 0..12), which in 0..policies().len(), full: bool,
    ) {
        let mut policy = policies()[which];
        let mut phase = Phase::Idle;
        // Each try may have an answer.
        let (mut answers, mut tries, mut count, mut may_hold) = (0, 1, 0, false);
        // The worker answers `ChooseLocally` at once, and says these two at no other time.
        let unasked = |event: &Event| !matches!(event, Event::ChosenLocally { .. } | Event::FullLocally);
        let mut coming: std::collections::VecDeque<Event> =
            order.into_iter().map(|index| events()[index]).filter(unasked).chain([Event::Ended]).collect();
        while let Some(event) = coming.pop_front() {
            if let (Phase::Idle, Event::In(_)) | (Phase::Traditional(_), Event::ChosenLocally { .. }) = (phase, event) {
                may_hold = true;
            }
            if let (Phase::Acquiring { .. } | Phase::Waiting { .. }, Event::Saturated { .. } | Event::Failed { in_doubt: false, .. }) = (phase, event) {
                may_hold = false;
            }
            let (next, effects) = phase.step(event, &policy);
            let tries_again = matches!((phase, event), (Phase::Holding { .. }, Event::TriesAgain { .. }));
            if tries_again || matches!((phase, event), (Phase::Holding { .. }, Event::TriesNoMore(_))) {
                tries += 1;
                policy = policy.of_later_try();
            }
            phase = next;
            for effect in effects {
                match effect {
                    Effect::Forward { path: Path::Traditional, .. } | Effect::ChooseLocally if tries > 1 => {
                        prop_assert!(false, "the traditional way, after an account");
                    }
                    Effect::Forward { .. } | Effect::RejectSaturated { .. } | Effect::RejectUnavailable => answers += 1,
                    Effect::CountUp { .. } => count += 1,
                    Effect::CountDown { .. } => count -= 1,
                    Effect::Release { .. } => {
                        prop_assert!(may_hold, "released what was never taken");
                        may_hold = false;
                    }
                    Effect::ChooseLocally => {
                        let chosen = Event::ChosenLocally { lease: lease(), account: 1 };
                        coming.push_front(if full { Event::FullLocally } else { chosen });
                    }
                    Effect::Record { .. } | Effect::Cool { .. } => {}
                }
            }
            may_hold |= tries_again;
        }
        prop_assert!(answers <= tries, "answered {answers} times in {tries} tries");
        prop_assert_eq!(phase, Phase::Done);
        prop_assert!(!may_hold, "a lease was left behind");
        prop_assert_eq!(count, 0);
    }
}
