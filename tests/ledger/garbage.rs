//! One pool's trouble is its own: whatever stands in a pool's keys, another pool serves, and after a recount and a sync the
//! pool is right again, or what is wrong with it is named.

use crate::pipe::{Answer, PREFIX, Pipe, account, source, text};
use crate::support::{Clock, Ledger, Redis};
use slotgate::ledger::commands::{AccountReport, Asked, Longest, Mode, Part, Step, SyncAccount};
use slotgate::ledger::commands::{Reconciled, Synced, reconciled, swept, synced};
use slotgate::ledger::fault::{Fault, garbage};
use slotgate::ledger::keys::{COMMON, key, session_digits, session_prefix, session_tag};
use slotgate::ledger::resp::{Value, Values};
use slotgate::ledger::source::Script;
use slotgate::request::lease::{LeaseId, LeaseIds};

const START_MS: u64 = 1_700_000_000_000;
const LONGEST: Longest = Longest {
    ttl_ms: 15_000,
    cooldown_ms: 60_000,
};
const IN_FORCE: (u64, u64) = (3, 7);
/// Bytes that are no text, no number and no id.
const BYTES: &[u8] = b"\xff\xfe\0\r\n \x1b[31m";

fn accounts() -> [SyncAccount<'static>; 3] {
    [account("a", 1), account("b", 2), account("c", 3)]
}

/// Two pools on one Redis; the broken one holds a lease.
struct Rig {
    redis: Redis,
    pipe: Pipe,
    other: Pipe,
    ledger: Ledger,
    ids: LeaseIds,
    lease: LeaseId,
    account: String,
}

impl Rig {
    fn new() -> Self {
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
        let lease = ids.mint();
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
    fn again(&mut self) {
        self.redis.run::<()>("FLUSHALL", &[]);
        let (revision, digest) = IN_FORCE;
        for pool in [&mut self.pipe, &mut self.other] {
            pool.sync(revision, digest, Some(&accounts())).unwrap();
        }
        self.lease = self.ids.mint();
        self.account = self.pipe.take(self.lease);
    }

    fn key(&self, name: &str) -> Vec<u8> {
        self.ledger.key(name).into_bytes()
    }

    fn write(&mut self, command: &str, name: &str, rest: &[&[u8]]) {
        let key = self.key(name);
        let mut parts = vec![command.as_bytes(), &key];
        parts.extend(rest);
        let reply = self.pipe.command(&parts);
        assert_ne!(reply[0], b'-', "{}", text(&reply));
    }

    /// One step of a recount by a worker that saw what cannot be there: whether it goes on, and what it named.
    fn step(&mut self) -> (bool, String) {
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
    fn recount(&mut self) -> Vec<String> {
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
    fn mend(&mut self) -> Vec<String> {
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
    fn ask_everything(&mut self) -> Vec<String> {
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
                let lease = self.ids.mint();
                let pipe = &mut self.pipe;
                hear(pipe.acquire_raw(lease, mode, Some((&session, 1_000)), Some(&scope), seed));
                hear(pipe.release_raw(&[lease]));
            }
        }
        let pair = [self.ids.mint(), self.ids.mint()];
        let asked = pair.map(|lease| Asked {
            lease,
            mode: Mode::Take,
            session: None,
            scope: None,
        });
        hear(self.pipe.acquire_all_raw(&asked, 0, 3));
        hear(self.pipe.release_raw(&pair));
        let account = self.account.clone();
        let renewed = [(self.lease, account.as_str(), 1), (pair[0], "b", 1)];
        hear(self.pipe.renew_raw(&renewed));
        hear(self.pipe.release_raw(&[pair[0]]));
        for heard in [
            AccountReport::Cool(1, None),
            AccountReport::Cool(1, Some(scope)),
            AccountReport::CoolThenProbe(1),
            AccountReport::Behind(1),
            AccountReport::Passed(self.lease),
        ] {
            hear(self.pipe.heard_raw("a", heard));
        }
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
    fn other_serves(&mut self) {
        let lease = self.ids.mint();
        self.other.take(lease);
        assert_eq!(self.other.release(&[lease]), Ok(1));
        assert!(self.other.inspect().is_ok());
    }

    /// The counts are the leases', what should be free is, and slots are given, to the last one and no more.
    #[track_caller]
    fn assert_right(&mut self, what: &str) {
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
            let lease = self.ids.mint();
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
    fn check(&mut self, what: &str) -> String {
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

/// Types that a key can be of, and the command that makes it so.
const TYPES: [(&str, &[&[u8]]); 4] = [
    ("SET", &[b"text"]),
    ("LPUSH", &[b"1"]),
    ("HSET", &[b"x", b"y"]),
    ("ZADD", &[b"1", b"x"]),
];

#[test]
fn a_key_of_another_type() {
    let mut rig = Rig::new();
    for name in [
        "accounts", "free", "used", "leases", "owner", "cooldown", "pass",
    ] {
        for (command, rest) in TYPES {
            let right = if ["free", "leases", "cooldown"].contains(&name) {
                "ZADD"
            } else {
                "HSET"
            };
            if command == right {
                continue;
            }
            rig.again();
            rig.write("DEL", name, &[]);
            rig.write(command, name, rest);
            let what = format!("{name} by {command}");
            // The command line and the console hear which key it is.
            let named = format!("WRONGTYPE {name} is no ");
            if name != "pass" {
                for reply in [
                    rig.pipe.inspect_raw("0", 10),
                    rig.pipe.control_raw("drain", "a", None),
                ] {
                    assert!(text(&reply).starts_with(&named), "{}", text(&reply));
                }
            }
            let said = rig.check(&what);
            assert!(said.contains(&format!("{name} is no ")), "{what}: {said}");
            if name == "leases" {
                assert_eq!(
                    rig.ledger.live(),
                    1,
                    "its owner is known, so the lease lives"
                );
            }
        }
    }
}

/// What belongs to one request or to an operator is nobody else's trouble; only `control` stays until someone mends it.
#[test]
fn a_key_of_another_type_beside_the_ledger() {
    let mut rig = Rig::new();
    let hash = |byte: &str| byte.repeat(16);
    for name in [
        format!("session:{}", hash("01")),
        format!("cooldown:{}", hash("02")),
        "question".into(),
        "answer".into(),
    ] {
        for (command, rest) in TYPES {
            rig.again();
            rig.write(command, &name, rest);
            rig.check(&format!("{name} by {command}"));
        }
    }
    rig.again();
    rig.pipe.control("drain", "b", None).unwrap();
    rig.write("DEL", "control", &[]);
    rig.write("SET", "control", &[b"x"]);
    let said = rig.ask_everything().join("; ");
    assert!(said.contains("control is no hash"), "{said}");
    rig.mend();
    // What was drained stays so, through a sync too.
    let more = rig.pipe.sync(4, 8, Some(&accounts()));
    assert_eq!(more, Ok(Synced::Replaced));
    assert_eq!(rig.pipe.inspect().unwrap()["b"].1, "drained");
    rig.other_serves();
}

#[test]
fn fields_of_the_accounts() {
    let mut rig = Rig::new();
    for (field, named) in [
        ("#revision", true),
        ("#digest", true),
        ("#epoch", true),
        // Put right by who meets it, or never a trouble.
        ("#wake", false),
        ("#ttl", false),
        ("#rest", false),
        ("#coming", false),
        ("#pass", false),
        ("#probe:a", false),
        ("#probe:nobody", false),
        ("#table", false),
        ("#", false),
    ] {
        for value in [
            &b"abc"[..],
            b"",
            b"-1",
            b"1e300",
            b"99999999999999999999999",
            BYTES,
        ] {
            // Nobody reads these.
            if value == BYTES && ["#", "#table"].contains(&field) {
                continue;
            }
            rig.again();
            rig.write("HSET", "accounts", &[field.as_bytes(), value]);
            let what = format!("{field} = {value:?}");
            let said = rig.check(&what);
            assert!(!named || said.contains(field), "{what}: {said}");
        }
    }
    for missing in ["#epoch", "#revision", "#digest"] {
        rig.again();
        rig.write("HDEL", "accounts", &[missing.as_bytes()]);
        rig.check(&format!("no {missing}"));
    }
}

#[test]
fn records() {
    let mut rig = Rig::new();
    for value in [
        &b""[..],
        b"x",
        b"1 2 3",
        b"1 2 3 4 5",
        b"-1 0 0 0",
        b"0 0 0 0",
        b"1.5 0 0 0",
        b"100001 0 0 0",
        b"1 0 0 16",
        b"1 9999999999999999999999 0 0",
        b"1 0 9999999999999999999999 0",
        b"99999999999999999999999999 0 0 0",
        BYTES,
    ] {
        for field in ["a", "b", "c", "extra"] {
            rig.again();
            rig.write("HSET", "accounts", &[field.as_bytes(), value]);
            rig.write("ZADD", "free", &[b"-1000000", field.as_bytes()]);
            let what = format!("{field} = {:?}", String::from_utf8_lossy(value));
            let said = rig.check(&what);
            assert!(
                said.contains(&format!("accounts {field}: not an account")),
                "{what}: {said}"
            );
        }
    }
    // Right in itself, under a name that is none.
    for field in [
        &b""[..],
        b"a b",
        b"behind:a",
        b"a:probe",
        BYTES,
        &[b'x'; 65],
        // 32 of these in one reply, or one of those, are more than the filter takes.
        &[b'x'; 33_000],
        &[b'x'; LONG],
    ] {
        rig.again();
        rig.write("HSET", "accounts", &[field, b"1 0 0 0"]);
        rig.write("ZADD", "free", &[b"-1000000", field]);
        let named = String::from_utf8_lossy(&field[..field.len().min(65)]).into_owned();
        let said = rig.check(&named);
        assert!(said.contains("accounts "), "{named:?}: {said}");
    }
}

/// A pass that is past the accounts when such a name comes into them does not hide it: an acquire meets it in `free`, or it
/// is gone from both.
#[test]
fn a_name_that_is_none_comes_in_the_middle_of_a_pass() {
    let mut rig = Rig::new();
    let name = [b'x'; 65];
    for before in 0.. {
        rig.again();
        let steps = (0..before).take_while(|_| rig.step().0).count();
        if steps < before {
            assert!(before > 6, "all stages: {before}");
            return;
        }
        rig.write("HSET", "accounts", &[&name, b"9 0 0 0"]);
        rig.write("HSET", "used", &[&name, b"3"]);
        rig.write("ZADD", "free", &[b"-9000000", &name]);
        rig.recount();
        let left = |rig: &mut Rig, command: &[u8], name_of: &str| {
            let key = rig.key(name_of);
            let reply = rig.pipe.command(&[command, &key, &name]);
            !["$-1\r\n", "_\r\n"].contains(&text(&reply).as_str())
        };
        let met = left(&mut rig, b"ZSCORE", "free");
        for key in ["accounts", "used"] {
            assert_eq!(left(&mut rig, b"HGET", key), met, "{key}, after {before}");
        }
    }
}

/// Longer than any reply may be.
const LONG: usize = 1_100_000;

/// Whatever a field holds, a reply that carries it is short: a long one would end the pipe, which all pools share.
#[test]
fn no_reply_carries_a_long_field() {
    let mut rig = Rig::new();
    let long = vec![b'7'; LONG];
    let with = |before: &str, after: &str| [before.as_bytes(), &long, after.as_bytes()].concat();
    // A record whose limit is long.
    rig.write("HSET", "accounts", &[b"b", &with("", " 0 0 0")]);
    rig.check("a record");
    // The revision of a sync in parts.
    rig.again();
    let now_ms = rig.ledger.state().now_ms;
    let after = format!(" 1 two {:.0} 3/7", now_ms + 9_000.0);
    rig.write("HSET", "accounts", &[b"#coming", &with("", &after)]);
    let asked = rig.pipe.sync_part("one", (4, 1), Part::Whole, &[]);
    assert_eq!(synced(&asked), Ok(Synced::Wanted));
    rig.check("#coming");
    // Whose a lease is, to the one that asks again, and to the one that ends it.
    let owner = |rig: &mut Rig, lease: LeaseId| {
        rig.write("HSET", "owner", &[lease.as_bytes(), &long]);
        rig.write("HSET", "used", &[&long, b"many"]);
    };
    rig.again();
    let lease = rig.lease;
    owner(&mut rig, lease);
    for mode in [Mode::Take, Mode::Force("a")] {
        let reply = rig.pipe.acquire_raw(lease, mode, None, None, 1);
        let said = text(&reply);
        assert!(said.contains(": not an account"), "{said:.200}");
    }
    let reply = rig.pipe.release_raw(&[lease]);
    assert!(text(&reply).contains("GARBAGE used 777"));
    assert!(reply.len() < 300, "{}", reply.len());
    rig.check("owner");
    // What an operator's key held before.
    rig.again();
    rig.write("HSET", "control", &[b"drain:b", &long, b"percent", &long]);
    let old = |rig: &mut Rig, verb, subject| rig.pipe.control(verb, subject, None).unwrap().0;
    assert_eq!(old(&mut rig, "undrain", "b"), "?");
    assert_eq!(old(&mut rig, "percent", "100"), "?");
    assert_eq!(old(&mut rig, "percent", ""), "100");
    // The account of a session.
    rig.again();
    let session = [1; 16];
    let tag = String::from_utf8(session_tag(&session).to_vec()).unwrap();
    let mut name = session_prefix(PREFIX, "p").into_bytes();
    name.extend(session_digits(&session));
    let value = with(&format!("={tag},"), " 9999999999999");
    rig.pipe.command(&[b"SET", &name, &value]);
    let was = rig.pipe.control("unbind", "", Some(&session));
    assert_eq!(was, Ok((String::new(), String::new())));
    rig.other_serves();
}

#[test]
fn members_of_free() {
    let mut rig = Rig::new();
    for member in [&b"ghost"[..], b"", b"#epoch", b"#table", b"a:1", BYTES] {
        for score in [&b"-inf"[..], b"-1e300", b"0", b"inf"] {
            rig.again();
            rig.write("ZADD", "free", &[score, member]);
            let what = format!("{member:?} at {score:?}");
            let said = rig.check(&what);
            // One that is never chosen is found by the recount alone.
            assert!(said.contains("not an account"), "{what}: {said}");
        }
    }
    for score in [&b"-inf"[..], b"inf", b"1e300", b"-5"] {
        rig.again();
        for member in [&b"a"[..], b"b", b"c"] {
            rig.write("ZADD", "free", &[score, member]);
        }
        rig.check(&format!("all at {score:?}"));
    }
    // Each costs one request, which says so; the next is right.
    rig.again();
    rig.write("ZADD", "free", &[b"-1e300", b"ghost"]);
    let lease = rig.ids.mint();
    assert_eq!(
        rig.pipe.acquire(lease, Mode::Take, None),
        Err(Fault::Garbage)
    );
    assert!(rig.pipe.acquire(lease, Mode::Take, None).is_ok());
}

#[test]
fn counts() {
    let mut rig = Rig::new();
    for value in [
        &b"abc"[..],
        b"",
        b"-3",
        b"1.5",
        b"nan",
        b"inf",
        b"1e300",
        b"99999999999999999999",
        BYTES,
    ] {
        for field in [&b"a"[..], b"b", b"c", b"#a", b"#b", b"ghost", b"", BYTES] {
            rig.again();
            rig.write("HSET", "used", &[field, value]);
            rig.check(&format!("used {field:?} = {value:?}"));
        }
    }
}

#[test]
fn leases_and_owners() {
    let mut rig = Rig::new();
    for score in [&b"-inf"[..], b"-1", b"9e17", b"inf"] {
        for member in [&b"stray"[..], b"", BYTES] {
            rig.again();
            rig.write("ZADD", "leases", &[score, member]);
            rig.check(&format!("leases {member:?} at {score:?}"));
        }
    }
    for value in [
        &b"nobody"[..],
        b"",
        b":",
        b":1",
        b"#epoch",
        b"a:b:c",
        b"a b",
        BYTES,
    ] {
        for owned in [true, false] {
            rig.again();
            let expiry = (rig.ledger.state().now_ms as u64 + 10).to_string();
            rig.write("HSET", "owner", &[b"stray", value]);
            if owned {
                rig.write("ZADD", "leases", &[expiry.as_bytes(), b"stray"]);
            }
            let held = rig.lease;
            rig.write("HSET", "owner", &[held.as_bytes(), value]);
            std::thread::sleep(std::time::Duration::from_millis(12));
            rig.check(&format!("owner = {value:?}, {owned}"));
        }
    }
}

#[test]
fn cooldowns_and_control() {
    let mut rig = Rig::new();
    for member in [&b"nobody"[..], b"behind:nobody", b"behind:", b"", BYTES] {
        for score in [&b"-inf"[..], b"-5", b"1.5", b"9e17", b"inf"] {
            rig.again();
            rig.write("ZADD", "cooldown", &[score, member]);
            rig.check(&format!("cooldown {member:?} at {score:?}"));
        }
    }
    for (field, value) in [
        (&b"percent"[..], BYTES),
        (b"percent", b"999999999"),
        (b"drain:", b"1"),
        (b"drain:\xff", b"1"),
        (BYTES, BYTES),
    ] {
        rig.again();
        rig.write("HSET", "control", &[field, value]);
        rig.check(&format!("control {field:?}"));
    }
}

#[test]
fn the_pass() {
    let mut rig = Rig::new();
    for field in ["by", "until", "stage", "cursor", "drift", "last", "revive"] {
        for value in [
            &b"abc"[..],
            b"",
            b"-1",
            b"1e300",
            b"99999999999999999999999",
            b"count",
            b"free",
            BYTES,
        ] {
            for begun in [false, true] {
                rig.again();
                if begun {
                    rig.pipe.reconcile("2.one", 90_000, 1).unwrap();
                    rig.pipe.reconcile("2.one", 90_000, 1).unwrap();
                }
                rig.write("HSET", "pass", &[field.as_bytes(), value]);
                rig.check(&format!("pass {field} = {value:?}, {begun}"));
            }
        }
    }
    // What someone writes for it while it runs makes it begin anew, not count wrongly.
    for (name, field) in [("accounts", "#pass"), ("used", "#a"), ("used", "#c")] {
        for at in 1..12 {
            rig.again();
            for _ in 0..at {
                rig.pipe.reconcile("2.one", 90_000, 1).unwrap();
            }
            rig.write("HSET", name, &[field.as_bytes(), b"abc"]);
            rig.check(&format!("{name} {field} at step {at}"));
        }
    }
}

/// Anything at all, in any key, several at once.
#[test]
fn whatever_bytes_there_are() {
    let mut rig = Rig::new();
    let mut random = fastrand::Rng::with_seed(17);
    for round in 0..150 {
        rig.again();
        let mut written = Vec::new();
        for _ in 0..random.usize(1..6) {
            let mut word = |fields: &[&str]| -> Vec<u8> {
                match random.u8(0..3) {
                    0 => (0..random.usize(0..40)).map(|_| random.u8(..)).collect(),
                    1 => random.u64(..).to_string().into_bytes(),
                    _ => fields[random.usize(..fields.len())].into(),
                }
            };
            let fields = [
                "a",
                "b",
                "#epoch",
                "#revision",
                "#digest",
                "#wake",
                "#pass",
                "#probe:b",
                "behind:c",
                "1 2 3 4",
            ];
            let (field, value) = (word(&fields), word(&fields));
            let score = ["-inf", "inf", "0", "-7", "1e300", "1700000000000"][random.usize(..6)];
            let name = [
                "accounts", "free", "used", "leases", "owner", "cooldown", "pass",
            ][random.usize(..7)];
            if ["free", "leases", "cooldown"].contains(&name) {
                rig.write("ZADD", name, &[score.as_bytes(), &field]);
            } else {
                rig.write("HSET", name, &[&field, &value]);
            }
            written.push((name, field, value, score));
        }
        // An account of this pool's configuration cannot be told from another's: a stray that is right in itself is the sync's.
        rig.mend();
        let extra: Vec<String> = rig
            .ledger
            .state()
            .accounts
            .into_keys()
            .filter(|id| !["a", "b", "c"].contains(&id.as_str()))
            .collect();
        rig.pipe
            .sync_part("one", IN_FORCE, Part::Stray(&extra), &[]);
        rig.check(&format!("round {round}: {written:?}"));
    }
}

/// An account that nobody configured, and whose record is right, is taken out when a worker meets it.
#[test]
fn a_stray_account_is_taken_out_by_who_knows_the_accounts() {
    let mut rig = Rig::new();
    rig.write("HSET", "accounts", &[b"ghost", b"5 0 0 0"]);
    rig.write("ZADD", "free", &[b"-1000000", b"ghost"]);
    let lease = rig.ids.mint();
    assert_eq!(rig.pipe.take(lease), "ghost");
    let ghost = ["ghost".to_owned()];
    for other in [(2, 7), (3, 8), (4, 7)] {
        rig.pipe.sync_part("one", other, Part::Stray(&ghost), &[]);
        let record = rig.ledger.state().accounts["ghost"].clone();
        assert_eq!(record, "5 0 0 0", "{other:?}");
    }
    // While others come in parts, it may be one of those.
    let new = ["new".to_owned()];
    rig.pipe
        .sync_part("two", (4, 1), Part::First, &[account("new", 1)]);
    for answer in [Synced::Coming, Synced::Current] {
        let reply = rig.pipe.sync_part("one", IN_FORCE, Part::Stray(&new), &[]);
        assert_eq!(synced(&reply), Ok(answer));
        let is_there = rig.ledger.state().accounts.contains_key("new");
        assert_eq!(is_there, answer == Synced::Coming);
        rig.redis
            .run::<()>("HDEL", &[&rig.ledger.key("accounts"), "#coming"]);
    }
    let reply = rig
        .pipe
        .sync_part("one", IN_FORCE, Part::Stray(&ghost), &[]);
    assert_eq!(synced(&reply), Ok(Synced::Current));
    assert_eq!(
        rig.ledger.state().accounts["ghost"],
        "5 0 0 8",
        "its lease finishes"
    );
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    rig.assert_right("ghost");
}

/// What the scripts themselves do about it, before anyone recounts.
#[test]
fn each_script_fails_before_it_writes_or_puts_it_right() {
    let mut rig = Rig::new();
    // No lease is taken whose epoch nobody could tell.
    for epoch in [
        &b"abc"[..],
        b"",
        b"-1",
        b"1e3",
        b"0x10",
        b" 7",
        b"1.5",
        b"12345678901234567890123",
    ] {
        rig.write("HSET", "accounts", &[b"#epoch", epoch]);
        for mode in [Mode::Take, Mode::Force("a"), Mode::Dry] {
            let lease = rig.ids.mint();
            let reply = rig.pipe.acquire_raw(lease, mode, None, None, 1);
            let named = "GARBAGE accounts #epoch: not a whole number";
            assert!(text(&reply).starts_with(named), "{}", text(&reply));
        }
        assert_eq!(rig.ledger.live(), 1, "{epoch:?}");
    }
    // What is there is renewed, and nothing is taken up above a limit.
    rig.again();
    let a = [rig.ids.mint(), rig.ids.mint()];
    rig.pipe.acquire(a[0], Mode::Force("a"), None).unwrap();
    rig.write("HSET", "accounts", &[b"#epoch", b"abc"]);
    rig.pipe.ttl_ms = 60_000;
    let before = rig.ledger.state().leases[a[0].as_str()];
    let renewed = rig.pipe.renew(&[(a[1], "a", 1), (a[0], "a", 1)]);
    assert_eq!(renewed, Err(Fault::Garbage));
    let state = rig.ledger.state();
    assert!(!state.leases.contains_key(a[1].as_str()));
    assert!(state.leases[a[0].as_str()] > before + 30_000.0);
    rig.pipe.ttl_ms = LONGEST.ttl_ms;
    // The time of the next wake: an acquire ends what has cooled, and writes it anew.
    for wake in [&b"abc"[..], b"nan", b"9999999999999999"] {
        rig.again();
        rig.pipe.cooldown("a", 1).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(3));
        rig.write("HSET", "accounts", &[b"#wake", wake]);
        let lease = rig.ids.mint();
        rig.pipe.take(lease);
        assert!(!rig.ledger.state().meta.contains_key("#wake"), "{wake:?}");
        assert_ne!(rig.pipe.inspect().unwrap()["a"].1, "cooling");
    }
    // A count of the pass under way: who takes and who ends leases goes on.
    rig.again();
    for field in ["#a", "#b", "#c"] {
        rig.write("HSET", "used", &[field.as_bytes(), b"abc"]);
    }
    rig.write("HSET", "accounts", &[b"#pass", b"1"]);
    let lease = rig.ids.mint();
    rig.pipe.take(lease);
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    rig.write("HDEL", "used", &[b"#a", b"#b", b"#c"]);
    rig.ledger.assert_consistent();
    // A sync takes what cannot be there for what is not there.
    for (field, value) in [
        ("#revision", "1e300"),
        ("#revision", "abc"),
        ("#epoch", "abc"),
        ("#epoch", "1e3"),
        ("#digest", "abc"),
    ] {
        rig.again();
        rig.write("HSET", "accounts", &[field.as_bytes(), value.as_bytes()]);
        let (revision, digest) = IN_FORCE;
        assert_eq!(rig.pipe.sync(revision, digest, None), Ok(Synced::Wanted));
        let put = rig.pipe.sync(revision, digest, Some(&accounts()));
        assert_eq!(put, Ok(Synced::Replaced), "{field} {value}");
        rig.assert_right(field);
    }
    // While the counts are made anew, nobody takes a slot that may be in use.
    rig.again();
    rig.write("DEL", "used", &[]);
    rig.write("SET", "used", &[b"text"]);
    assert!(matches!(
        rig.pipe.reconcile("2.one", 90_000, 1),
        Ok(Reconciled::Working(1))
    ));
    let lease = rig.ids.mint();
    let answer = rig.pipe.acquire(lease, Mode::Take, None);
    assert!(matches!(answer, Ok(Answer::Saturated(_))), "{answer:?}");
    rig.recount();
    rig.assert_right("used");
    // And a recount by itself gives the pool an epoch.
    rig.again();
    rig.write("HSET", "accounts", &[b"#epoch", b"abc"]);
    rig.recount();
    rig.assert_right("#epoch");
}

/// A pass that goes on over many steps begins anew rather than count wrongly.
#[test]
fn a_pass_under_way_is_not_led_astray() {
    let spread = [
        "--hash-max-listpack-entries",
        "1",
        "--zset-max-listpack-entries",
        "1",
    ];
    let redis = Redis::start_with(&spread);
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let mut pipe = Pipe::open(&redis, "p");
    let mut ids = LeaseIds::new(9);
    let wide = [account("a", 100), account("b", 100), account("c", 100)];
    pipe.sync(3, 7, Some(&wide)).unwrap();
    for _ in 0..60 {
        pipe.take(ids.mint());
    }
    let broken: [(&str, &[&str]); 4] = [
        ("HSET", &["accounts", "#pass", "abc"]),
        ("HSET", &["used", "#a", "abc", "a", "7"]),
        (
            "HSET",
            &["used", "#a", "1.5", "#b", "x", "#c", "", "b", "7"],
        ),
        ("SET", &["used", "text"]),
    ];
    for (command, rest) in broken {
        for at in [1, 5, 10, 20, 30, 40, 50] {
            for _ in 0..at {
                pipe.reconcile("2.one", 90_000, 1).unwrap();
            }
            let key = ledger.key(rest[0]);
            let mut arguments = vec![key.as_str()];
            arguments.extend(&rest[1..]);
            redis.run::<()>(command, &arguments);
            loop {
                let step = pipe.reconcile("2.one", 90_000, 1);
                let step = step.unwrap_or_else(|fault| panic!("{rest:?} at {at}: {fault:?}"));
                if matches!(step, Reconciled::Done(_)) {
                    break;
                }
            }
            ledger.assert_consistent();
            assert_eq!(ledger.state().leases.len(), 60);
        }
    }
}

/// The clock of Redis is set back by an hour, or a replica whose clock is slow takes over.
#[test]
fn nothing_lives_longer_than_it_may_after_the_clock_was_set_back() {
    const HOUR: u64 = 3_600_000;
    let clock = Clock::new(START_MS + HOUR);
    let redis = Redis::start_at(&clock, &[]);
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let mut pipe = Pipe::open(&redis, "p");
    let mut ids = LeaseIds::new(6);
    pipe.longest = LONGEST;
    pipe.ttl_ms = LONGEST.ttl_ms;
    let scope = [2; 16];
    let latest = |key: &str| ledger_latest(&redis, &ledger.key(key));
    for recounts in [false, true] {
        redis.run::<()>("FLUSHALL", &[]);
        clock.set(START_MS + HOUR);
        pipe.sync(1, 1, Some(&accounts())).unwrap();
        for _ in 0..3 {
            pipe.take(ids.mint());
        }
        for id in ["a", "b", "c"] {
            pipe.heard(id, AccountReport::Cool(50_000, None)).unwrap();
        }
        pipe.heard("a", AccountReport::Behind(40_000)).unwrap();
        pipe.cooldown_in("a", 30_000, Some(&scope)).unwrap();
        clock.set(START_MS);
        assert!(
            latest("leases") > START_MS + HOUR,
            "nobody has met it so far"
        );
        // Who only looks shows what it will be.
        let mut shown = slotgate::ledger::view::Pool::default();
        shown.page(&pipe.inspect_raw("0", 100)).unwrap();
        assert!(
            shown
                .accounts
                .iter()
                .all(|one| one.cooling_ms <= LONGEST.cooldown_ms),
            "{shown:?}"
        );
        if recounts {
            while pipe.reconcile("one", 90_000, 10) != Ok(Reconciled::Done(0)) {}
        } else {
            // One that finds no free slot.
            let lease = ids.mint();
            let answer = pipe.acquire_in(lease, Mode::Take, None, Some(&scope), 1);
            assert!(matches!(answer, Ok(Answer::Saturated(_))), "{answer:?}");
            let key = format!("cooldown:{}", "02".repeat(16));
            assert_eq!(latest(&key), START_MS + LONGEST.cooldown_ms);
            let left: u64 = redis.run("PTTL", &[&ledger.key(&key)]);
            assert!(left <= LONGEST.cooldown_ms);
        }
        assert_eq!(latest("leases"), START_MS + LONGEST.ttl_ms);
        assert_eq!(latest("cooldown"), START_MS + LONGEST.cooldown_ms);
        let wake: u64 = redis.run("HGET", &[&ledger.key("accounts"), "#wake"]);
        assert!(wake <= START_MS + LONGEST.cooldown_ms);
        ledger.assert_consistent();
        // And then all slots are there again.
        clock.set(START_MS + LONGEST.cooldown_ms + 1);
        let taken = (0..6).filter(|_| {
            pipe.acquire(ids.mint(), Mode::Take, None)
                .is_ok_and(|answer| matches!(answer, Answer::Granted(_)))
        });
        assert_eq!(taken.count(), 6, "{recounts}");
    }
    // A new cooldown ends in time too, and so does one of a scope.
    redis.run::<()>("FLUSHALL", &[]);
    clock.set(START_MS + HOUR);
    pipe.sync(1, 1, Some(&accounts())).unwrap();
    pipe.cooldown("a", 50_000).unwrap();
    pipe.cooldown_in("a", 50_000, Some(&scope)).unwrap();
    clock.set(START_MS);
    assert_eq!(pipe.cooldown("a", 1_000), Ok(LONGEST.cooldown_ms));
    assert_eq!(
        pipe.cooldown_in("a", 1_000, Some(&scope)),
        Ok(LONGEST.cooldown_ms)
    );
}

fn ledger_latest(redis: &Redis, key: &str) -> u64 {
    let last: Vec<String> = redis.run("ZRANGE", &[key, "-1", "-1", "WITHSCORES"]);
    last.get(1).map_or(0, |score| score.parse().unwrap())
}

/// An Envoy with a shorter time to live, and one that lets cool for less, cut nothing that another one's may last.
#[test]
fn the_longest_times_of_all_envoys_count() {
    let clock = Clock::new(START_MS);
    let redis = Redis::start_at(&clock, &[]);
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let mut short = Pipe::open(&redis, "p");
    let mut long = Pipe::open(&redis, "p");
    (short.ttl_ms, short.longest) = (
        1_000,
        Longest {
            ttl_ms: 1_000,
            cooldown_ms: 2_000,
        },
    );
    (long.ttl_ms, long.longest) = (
        600_000,
        Longest {
            ttl_ms: 600_000,
            cooldown_ms: 500_000,
        },
    );
    short.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    long.sync(1, 1, None).unwrap();
    short.sync(1, 1, None).unwrap();
    let mut ids = LeaseIds::new(7);
    long.take(ids.mint());
    long.cooldown("a", 400_000).unwrap();
    let recount =
        |pipe: &mut Pipe| while pipe.reconcile("one", 90_000, 10) != Ok(Reconciled::Done(0)) {};
    let latest = |name: &str| ledger_latest(&redis, &ledger.key(name));
    for _ in 0..2 {
        recount(&mut short);
        short.acquire(ids.mint(), Mode::Take, None).unwrap();
        assert_eq!(latest("leases"), START_MS + 600_000);
        assert_eq!(latest("cooldown"), START_MS + 400_000);
    }
    // Set back: the long one's times still count, although it has not said them again.
    clock.set(START_MS - 3_600_000);
    recount(&mut short);
    assert_eq!(latest("leases"), START_MS - 3_600_000 + 600_000);
    assert_eq!(latest("cooldown"), START_MS - 3_600_000 + 500_000);
    // Five minutes after it was last heard of, they do not.
    clock.set(START_MS - 3_600_000 + 300_001);
    short.sync(1, 1, None).unwrap();
    recount(&mut short);
    assert_eq!(latest("leases"), START_MS - 3_600_000 + 301_001);
}

/// Who saw what cannot be there need not wait for its turn, but never disturbs a pass that goes on.
#[test]
fn a_recount_that_is_wanted_soon() {
    let clock = Clock::new(START_MS);
    let redis = Redis::start_at(&clock, &[]);
    let mut pipe = Pipe::open(&redis, "p");
    pipe.sync(1, 1, Some(&accounts())).unwrap();
    let mut ask = |worker: &str, soon: bool| {
        let (silence_ms, count, longest) = (90_000, 500, LONGEST);
        let reply = pipe.reconcile_raw(&Step {
            worker,
            silence_ms,
            count,
            longest,
            soon,
        });
        reconciled(&reply).unwrap().state
    };
    while ask("2.one", false) != Reconciled::Done(0) {}
    assert_eq!(ask("2.two", false), Reconciled::Elsewhere);
    assert_eq!(ask("2.two", true), Reconciled::Working(0));
    assert_eq!(ask("2.one", true), Reconciled::Elsewhere, "it is under way");
    clock.set(START_MS + 5_001);
    assert_eq!(ask("2.one", false), Reconciled::Elsewhere);
    assert_eq!(ask("2.one", true), Reconciled::Working(0), "it was silent");
    // Whoever ran it before the clock was set back is not waited for.
    clock.set(START_MS - 3_600_000);
    assert_eq!(ask("2.two", false), Reconciled::Working(0));
}

fn swept_all(pipe: &mut Pipe, by: &str, set: (u64, u64), known: &[SyncAccount]) -> Vec<u8> {
    let (mut cursor, mut gone) = ("0".to_owned(), Vec::new());
    loop {
        let reply = pipe.sync_part(by, set, Part::Sweep(&cursor, &gone), &[]);
        if synced(&reply) != Ok(Synced::Part) {
            return reply;
        }
        let (next, ids) = swept(&reply);
        gone = ids
            .filter(|id| known.iter().all(|one| one.id != *id))
            .map(str::to_owned)
            .collect();
        next.clone_into(&mut cursor);
        if cursor == "0" {
            return pipe.sync_part(by, set, Part::Last(&gone), &[]);
        }
    }
}

/// Accounts 0..count, in force by parts.
#[test]
fn a_large_pool_is_put_in_force_in_parts() {
    let redis = Redis::start();
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let (mut one, mut two) = (Pipe::open(&redis, "p"), Pipe::open(&redis, "p"));
    let mut ids = LeaseIds::new(8);
    let names: Vec<String> = (0..3_000).map(|n| format!("a{n}")).collect();
    let list: Vec<SyncAccount> = names.iter().map(|id| account(id, 2)).collect();
    let (first, rest) = list.split_at(1_000);
    let ask = |pipe: &mut Pipe, by: &str, set, part, accounts: &[SyncAccount]| {
        synced(&pipe.sync_part(by, set, part, accounts))
    };
    // An empty pool takes leases of what is there so far, under revision 0.
    assert_eq!(
        ask(&mut one, "one", (2, 9), Part::Whole, &[]),
        Ok(Synced::Wanted)
    );
    assert_eq!(
        ask(&mut one, "one", (2, 9), Part::First, first),
        Ok(Synced::Part)
    );
    let early = ids.mint();
    assert!(matches!(
        one.acquire(early, Mode::Take, None),
        Ok(Answer::Granted(_))
    ));
    assert_eq!(one.release(&[early]), Ok(1));
    // Another worker waits for it, asks what it asks, and does not disturb it.
    assert_eq!(
        ask(&mut two, "two", (2, 9), Part::Whole, &[]),
        Ok(Synced::Coming)
    );
    assert_eq!(
        ask(&mut two, "two", (1, 9), Part::First, first),
        Ok(Synced::Coming)
    );
    assert_eq!(
        ask(&mut two, "two", (2, 9), Part::More, first),
        Ok(Synced::Coming)
    );
    assert_eq!(
        ask(&mut one, "one", (2, 9), Part::More, rest),
        Ok(Synced::Part)
    );
    assert_eq!(
        synced(&swept_all(&mut one, "one", (2, 9), &list)),
        Ok(Synced::Replaced)
    );
    assert_eq!(
        ask(&mut two, "two", (2, 9), Part::Whole, &[]),
        Ok(Synced::Current)
    );
    let state = ledger.state();
    assert_eq!((state.accounts.len(), state.free.len()), (3_000, 3_000));
    assert!(!state.meta.contains_key("#coming"));

    // A new revision: leases go on, those of accounts that vanish finish, and it serves all the while.
    let (kept, gone) = (&list[..2_000], &list[2_000..]);
    let lease = ids.mint();
    two.acquire(lease, Mode::Force(gone[0].id), None).unwrap();
    assert_eq!(
        ask(&mut one, "one", (3, 1), Part::First, &kept[..1_000]),
        Ok(Synced::Part)
    );
    let taken = ids.mint();
    two.take(taken);
    // It died; who comes after it begins from the first, and a lower revision never does.
    assert_eq!(
        ask(&mut two, "two", (2, 9), Part::Whole, &[]),
        Ok(Synced::Current)
    );
    redis.run::<()>(
        "HSET",
        &[&ledger.key("accounts"), "#coming", "3 1 one 1 2/9"],
    );
    assert_eq!(
        ask(&mut two, "two", (3, 1), Part::More, &kept[1_000..]),
        Ok(Synced::Wanted)
    );
    assert_eq!(
        ask(&mut two, "two", (3, 1), Part::First, &kept[..1_000]),
        Ok(Synced::Part)
    );
    // Back again: two do it at once, one of them waits.
    assert_eq!(
        ask(&mut one, "one", (3, 1), Part::More, &kept[1_000..]),
        Ok(Synced::Coming)
    );
    assert_eq!(
        ask(&mut two, "two", (3, 1), Part::More, &kept[1_000..]),
        Ok(Synced::Part)
    );
    assert_eq!(
        synced(&swept_all(&mut two, "two", (3, 1), kept)),
        Ok(Synced::Replaced)
    );
    let state = ledger.state();
    assert_eq!(state.accounts.len(), 2_001);
    assert!(state.accounts[gone[0].id].ends_with(" 8"));
    assert_eq!(two.release(&[lease, taken]), Ok(2));
    assert_eq!(ledger.state().accounts.len(), 2_000);
    ledger.assert_consistent();

    // A higher revision takes over at once; whoever was at the lower one hears of it.
    assert_eq!(
        ask(&mut one, "one", (4, 1), Part::First, first),
        Ok(Synced::Part)
    );
    assert_eq!(
        ask(&mut two, "two", (5, 1), Part::First, first),
        Ok(Synced::Part)
    );
    assert_eq!(
        ask(&mut one, "one", (4, 1), Part::More, first),
        Ok(Synced::Coming)
    );
    // Who knows nothing of the parts, as an older filter's scripts, may change what is in force.
    let meta = ledger.key("accounts");
    redis.run::<()>("HSET", &[&meta, "#revision", "4", "#digest", "9"]);
    assert_eq!(
        ask(&mut two, "two", (5, 1), Part::More, first),
        Ok(Synced::Wanted)
    );
    redis.run::<()>("HSET", &[&meta, "#revision", "3", "#digest", "1"]);
    // So does one in a single call, as an older filter sends it, and the parts begin anew, or end.
    assert_eq!(older_sync(&mut one, 4, &accounts()), Ok(Synced::Replaced));
    assert_eq!(
        ask(&mut two, "two", (5, 1), Part::More, first),
        Ok(Synced::Wanted)
    );
    assert_eq!(
        ask(&mut two, "two", (5, 1), Part::First, first),
        Ok(Synced::Part)
    );
    assert_eq!(older_sync(&mut one, 6, &accounts()), Ok(Synced::Replaced));
    let late = two.sync_part("two", (5, 1), Part::Last(&[]), &[]);
    assert_eq!(synced(&late), Ok(Synced::Newer(6)));
    // Those that the broken off parts left are strays of the revision in force.
    let state = ledger.state();
    assert!(
        state.accounts.keys().eq(["a", "b", "c"]),
        "{}",
        state.accounts.len()
    );
}

/// All accounts in one call, as filters before 0.2 send them.
fn older_sync(pipe: &mut Pipe, revision: u64, list: &[SyncAccount]) -> Result<Synced, Fault> {
    let mut words = vec!["EVAL".to_owned(), source(Script::Sync), "7".to_owned()];
    let names = COMMON.iter().chain(&["control"]);
    words.extend(names.map(|name| key(PREFIX, "p", name)));
    words.extend([revision, 1, 5, 300_000].map(|number| number.to_string()));
    for one in list {
        let (max, base) = (one.max_concurrency, one.base);
        words.extend([
            one.id.to_owned(),
            max.to_string(),
            base.to_string(),
            "0".to_owned(),
        ]);
    }
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    synced(&pipe.command(&words))
}

/// A few accounts in place of many: what vanishes is taken away in parts too, whatever the new configuration's size.
#[test]
fn a_pool_that_shrinks_goes_in_parts() {
    let redis = Redis::start();
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let mut pipe = Pipe::open(&redis, "p");
    let names: Vec<String> = (0..2_000).map(|n| format!("a{n}")).collect();
    let list: Vec<SyncAccount> = names.iter().map(|id| account(id, 2)).collect();
    assert_eq!(pipe.sync(1, 1, Some(&list)), Ok(Synced::Replaced));
    let few = accounts();
    assert_eq!(pipe.sync(2, 1, Some(&few)), Ok(Synced::Wanted));
    assert_eq!(ledger.state().accounts.len(), 2_000, "nothing changed");
    let first = pipe.sync_part("one", (2, 1), Part::First, &few);
    assert_eq!(synced(&first), Ok(Synced::Part));
    let last = swept_all(&mut pipe, "one", (2, 1), &few);
    assert_eq!(synced(&last), Ok(Synced::Replaced));
    assert!(ledger.state().accounts.keys().eq(["a", "b", "c"]));
    ledger.assert_consistent();
    // As many as go in one call, each with its probe, still do.
    let (small, others) = list[..1_000].split_at(500);
    assert_eq!(pipe.sync(3, 1, Some(small)), Ok(Synced::Replaced));
    for one in small {
        pipe.heard(one.id, AccountReport::CoolThenProbe(60_000))
            .unwrap();
    }
    assert_eq!(pipe.sync(4, 1, Some(others)), Ok(Synced::Replaced));
    assert_eq!(ledger.state().accounts.len(), 500);
}

/// How long Redis stands still for others while 100,000 accounts are put in force: in one call, and in parts as the worker
/// sends them. Run by hand: `cargo test --release --test ledger large_sync -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_long_a_large_sync_keeps_others_waiting() {
    const ACCOUNTS: usize = 100_000;
    const PART: usize = 500;
    let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("acct-{n}")).collect();
    let list: Vec<SyncAccount> = names.iter().map(|id| account(id, 10)).collect();
    let redis = Redis::start_with(&["--slowlog-log-slower-than", "2000"]);
    let measure = |what: &str, act: &mut dyn FnMut()| {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let began = std::time::Instant::now();
        let (longest, took) = std::thread::scope(|scope| {
            let pings = scope.spawn(|| {
                let mut connection = redis.connect();
                let mut longest = std::time::Duration::ZERO;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let sent = std::time::Instant::now();
                    redis::cmd("PING").query::<()>(&mut connection).unwrap();
                    longest = longest.max(sent.elapsed());
                }
                longest
            });
            act();
            let took = began.elapsed();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            (pings.join().unwrap(), took)
        });
        // Each: id, time, µs, arguments.
        let slow: Vec<Vec<redis::Value>> = redis.run("SLOWLOG", &["GET", "500"]);
        redis.run::<()>("SLOWLOG", &["RESET"]);
        let us = slow.iter().map(|entry| match entry[2] {
            redis::Value::Int(us) => us,
            _ => 0,
        });
        let (count, most) = (slow.len(), us.max().unwrap_or(0));
        println!(
            "{what}: longest PING {longest:?}, in all {took:?}; {count} commands above 2 ms, the longest {most} us"
        );
    };
    let mut pipe = Pipe::open(&redis, "whole");
    measure("one call", &mut || {
        assert_eq!(pipe.sync(1, 1, Some(&list)), Ok(Synced::Replaced));
    });
    let mut pipe = Pipe::open(&redis, "parts");
    for (revision, what) in [(1, "parts, empty"), (2, "parts, a new revision")] {
        measure(what, &mut || {
            for (at, part) in list.chunks(PART).enumerate() {
                let kind = if at == 0 { Part::First } else { Part::More };
                let reply = pipe.sync_part("one", (revision, 1), kind, part);
                assert_eq!(synced(&reply), Ok(Synced::Part));
            }
            let mut cursor = "0".to_owned();
            loop {
                let reply = pipe.sync_part("one", (revision, 1), Part::Sweep(&cursor, &[]), &[]);
                swept(&reply).0.clone_into(&mut cursor);
                if cursor == "0" {
                    break;
                }
            }
            let last = pipe.sync_part("one", (revision, 1), Part::Last(&[]), &[]);
            assert_eq!(synced(&last), Ok(Synced::Replaced));
        });
    }
}
