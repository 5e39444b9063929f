//! A pool's accounts are sent when Redis wants them, and what else may be in force there.

use super::rig::{
    COMING, CURRENT, NEWER, NOPOOL, REPLACED, Rig, Sent, WANTED, done, granted, reconcile, said,
    stray,
};
use slotgate::worker::notice::Notice;

/// No acquire goes ahead of its own accounts: it would be granted one that this configuration doesn't have.
#[test]
fn accounts_are_sent_when_wanted() {
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.open();
    rig.commands();
    rig.reply(WANTED);
    let sync = rig.commands();
    assert_eq!(sync.len(), 1);
    assert_eq!(sync[0].listed(), ["a", "2", "0", "0", "b", "4", "0", "0"]);
    assert_eq!(rig.request(&[]).1, None, "waits as well");
    assert!(rig.commands().is_empty());
    rig.reply(REPLACED);
    let sent = rig.commands();
    assert!(
        sent.len() == 1 && sent[0].is_acquire() && sent[0].arguments().len() == 7,
        "both in one: {sent:?}"
    );
    assert_eq!(
        rig.notices(),
        [Notice::Replaced {
            pool: "p".into(),
            revision: 1
        }]
    );
}

#[test]
fn accounts_that_redis_forgot_are_sent_once() {
    let mut rig = Rig::ready(|_| {});
    let leases = [rig.acquiring().1, rig.acquiring().1];
    rig.reply(NOPOOL);
    rig.reply(NOPOOL);
    let sent = rig.commands();
    assert_eq!(sent[0].listed()[0], "a", "the accounts first: {sent:?}");
    assert_eq!(
        sent[1..].iter().map(Sent::lease).collect::<Vec<_>>(),
        leases
    );
    rig.reply(REPLACED);
    rig.reply(&granted("b").repeat(2));
    assert_eq!(rig.answers().len(), 2);
}

#[test]
fn another_revision_in_force_is_said() {
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.open();
    rig.reply("*3\r\n$5\r\nnewer\r\n$1\r\n7\r\n$1\r\n9\r\n");
    assert_eq!(
        rig.notices(),
        [Notice::Newer {
            pool: "p".into(),
            revision: 1,
            in_force: 7
        }]
    );
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.open();
    rig.reply("*3\r\n$7\r\ndiffers\r\n$1\r\n1\r\n$1\r\n9\r\n");
    assert_eq!(
        rig.notices(),
        [Notice::Differs {
            pool: "p".into(),
            revision: 1
        }]
    );
}

/// Redis lost its data, and another worker synced the pool first, maybe with an older configuration.
#[test]
fn another_epoch_in_a_grant_asks_for_the_revision() {
    let mut rig = Rig::ready(|_| {});
    rig.acquiring();
    rig.reply("*2\r\n$2\r\n77\r\n$1\r\na\r\n");
    let sent = rig.commands();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        sent[0].arguments()[0],
        "1",
        "is revision 1 wanted? {sent:?}"
    );
    rig.reply(WANTED);
    assert_eq!(rig.commands()[0].listed()[0], "a");
}

/// Who once heard another answer than that its accounts are in force hears what came of it, and is told once.
#[test]
fn what_a_sync_answered_is_asked_for_again_when_something_else_is_in_force() {
    const DIFFERS: &str = "*3\r\n$7\r\ndiffers\r\n$1\r\n1\r\n$1\r\n9\r\n";
    let mut rig = Rig::new(|_| {});
    let (id, _) = rig.request(&[]);
    rig.open();
    let own = rig.commands()[0].arguments()[1].clone();
    rig.reply(COMING);
    rig.reply(&granted("a"));
    rig.worker.on_end(rig.now_ms, id);
    rig.commands_soon();
    rig.reply(":1\r\n");
    let mut said = Vec::new();
    for (revision, digest, answer) in [
        ("1", "5", Some(COMING)),
        ("1", "5", Some(DIFFERS)),
        ("1", "5", None),
        ("2", "5", Some(NEWER)),
        ("2", "6", None),
        ("1", own.as_str(), Some(CURRENT)),
        ("1", own.as_str(), None),
        ("1", "5", Some(DIFFERS)),
    ] {
        reconcile(&mut rig, 121_000).expect("a pass");
        rig.reply(&done("", revision, digest));
        let sent = rig.commands();
        let asks = sent.len() == 1 && sent[0].listed().is_empty();
        assert_eq!(asks, answer.is_some(), "{revision} {digest} {sent:?}");
        rig.reply(answer.unwrap_or_default());
        said.extend(self::said(&mut rig));
    }
    said.retain(|one| one.contains("holds"));
    assert_eq!(said.len(), 3, "{said:?}");
    // It may act on what only who is in force may act on.
    reconcile(&mut rig, 121_000).expect("a pass");
    rig.reply(&done("", "1", &own));
    rig.reply(CURRENT);
    rig.commands();
    assert_eq!(stray(&mut rig)[0].part(), "stray");
}
