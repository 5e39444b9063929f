//! Leases are renewed for as long as their streams live, and what a renewal answers.

use super::rig::{CURRENT, Rig, granted};
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::Notice;
use std::collections::BTreeMap;

#[test]
fn leases_are_renewed_for_as_long_as_the_stream_lives() {
    let mut rig = Rig::ready(|_| {});
    let holders: Vec<_> = (0..250).map(|_| rig.holding()).collect();
    let mut last_ms = vec![rig.now_ms; holders.len()];
    let mut largest = 0;
    for _ in 0..4_000 {
        let before_ms = rig.now_ms;
        rig.wait(10);
        for command in rig.commands() {
            if command.is_reconcile() {
                rig.reply("*2\r\n$9\r\nelsewhere\r\n:0\r\n");
                continue;
            }
            let leases: Vec<_> = command.arguments()[1..]
                .chunks(3)
                .map(|lease| lease[0].clone())
                .collect();
            largest = largest.max(leases.len());
            for lease in &leases {
                let holder = holders.iter().position(|(_, held)| held == lease).unwrap();
                assert!(
                    rig.now_ms - last_ms[holder] <= 7_500 + 10,
                    "well within the time to live of 15 s"
                );
                last_ms[holder] = before_ms;
            }
            rig.reply(&format!(
                "*2\r\n$1\r\n9\r\n${}\r\n{}\r\n",
                leases.len(),
                "r".repeat(leases.len())
            ));
        }
    }
    assert!(
        last_ms.iter().all(|last_ms| rig.now_ms - last_ms <= 7_510),
        "none forgotten"
    );
    assert!(largest <= 100);
    for (id, _) in &holders {
        rig.worker.on_end(rig.now_ms, *id);
    }
    let sent = rig.commands_soon();
    for (_, lease) in &holders {
        let releases = sent.iter().filter(|command| command.is_release_of(lease));
        assert_eq!(releases.count(), 1);
    }
    let sizes: Vec<_> = sent
        .iter()
        .map(|command| command.arguments().len())
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
    for size in sizes {
        rig.reply(&format!(":{size}\r\n"));
    }
    assert_eq!(rig.count(Counter::Released), 251);
    rig.wait(10_000);
    assert!(rig.commands().is_empty(), "nothing is renewed for the dead");
}

/// Answers every command, and notes when each lease had its last renewal.
fn renew(rig: &mut Rig, last_ms: &mut BTreeMap<String, u64>, longest_ms: &mut u64) {
    for command in rig.commands() {
        if command.is_reconcile() {
            rig.reply("*2\r\n$9\r\nelsewhere\r\n:0\r\n"); // a reconcile
            continue;
        }
        let leases: Vec<_> = command.arguments()[1..].chunks(3).collect();
        for lease in &leases {
            let last_ms = last_ms.insert(lease[0].clone(), rig.now_ms).unwrap();
            *longest_ms = (*longest_ms).max(rig.now_ms - last_ms);
        }
        rig.reply(&format!(
            "*2\r\n$1\r\n9\r\n${}\r\n{}\r\n",
            leases.len(),
            "r".repeat(leases.len())
        ));
    }
}

#[test]
fn renewals_keep_their_pace_when_every_tick_is_late() {
    let mut rig = Rig::ready(|json| {
        json["lease"] = serde_json::json!({"ttl_ms": 1_000, "renew_interval_ms": 400});
    });
    let (_, lease) = rig.holding();
    let mut last_ms = [(lease, rig.now_ms)].into();
    let mut longest_ms = 0;
    while rig.now_ms < 100_000 {
        rig.now_ms = rig.worker.next_wake_ms().unwrap().max(rig.now_ms) + 25;
        rig.worker.on_tick(rig.now_ms);
        renew(&mut rig, &mut last_ms, &mut longest_ms);
    }
    assert!(longest_ms <= 650, "{longest_ms}");
}

#[test]
fn no_renewal_is_left_out_while_requests_grow_more() {
    let mut rig = Rig::ready(|json| {
        json["lease"] = serde_json::json!({"ttl_ms": 10_000, "renew_interval_ms": 5_000});
    });
    let mut last_ms = BTreeMap::new();
    let mut longest_ms = 0;
    while last_ms.len() < 600 {
        let (_, lease) = rig.acquiring();
        last_ms.insert(lease, rig.now_ms);
        rig.reply(&granted("a"));
        rig.answers();
        let end_ms = rig.now_ms + 57;
        while rig.worker.next_wake_ms().unwrap() <= end_ms {
            rig.now_ms = rig.worker.next_wake_ms().unwrap().max(rig.now_ms);
            rig.worker.on_tick(rig.now_ms);
            renew(&mut rig, &mut last_ms, &mut longest_ms);
        }
        rig.now_ms = end_ms;
    }
    assert!(longest_ms <= 7_600, "{longest_ms}");
}

#[test]
fn renewal_answers() {
    let mut rig = Rig::ready(|_| {});
    let leases = [rig.holding().1, rig.holding().1, rig.holding().1];
    // The first is renewed, the second was forgotten and is taken up again, the third is lost.
    let mut epochs = vec![Vec::new(); 3];
    let mut asked = 0;
    for _ in 0..1_300 {
        rig.wait(10);
        for command in rig.commands() {
            if command.arguments()[0] == "1" {
                // The epoch is another: are the accounts wanted again?
                asked += 1;
                rig.reply(CURRENT);
                continue;
            }
            let mut letters = String::new();
            for lease in command.arguments()[1..].chunks(3) {
                let which = leases.iter().position(|held| *held == lease[0]).unwrap();
                letters.push(['r', 'a', 'l'][which]);
                epochs[which].push(lease[2].clone());
            }
            rig.reply(&format!(
                "*2\r\n$2\r\n10\r\n${}\r\n{letters}\r\n",
                letters.len()
            ));
        }
    }
    // Each renewal names the epoch that the last one answered; the lost one is asked for again as it was granted.
    assert_eq!(epochs, [["9", "10"], ["9", "10"], ["9", "9"]]);
    assert_eq!(rig.count(Counter::Renewed), 2);
    assert_eq!(rig.count(Counter::Readopted), 2);
    assert_eq!(rig.count(Counter::Lost), 1, "counted and said once");
    assert_eq!(asked, 1);
    assert_eq!(
        rig.notices(),
        [Notice::Lost {
            pool: "p".into(),
            leases: 1
        }]
    );
}

#[test]
fn a_pool_redis_forgot_is_synced_and_the_leases_taken_up_again() {
    let mut rig = Rig::ready(|_| {});
    let (_, lease) = rig.holding();
    rig.wait(7_500);
    assert_eq!(rig.commands()[0].arguments()[1], lease);
    rig.reply("-NOPOOL no accounts are synced for this pool\r\n");
    let sent = rig.commands();
    assert_eq!(sent[0].listed()[0], "a", "the accounts first: {sent:?}");
    assert_eq!(sent[1].arguments()[1..], [lease, "a".into(), "9".into()]);
}
