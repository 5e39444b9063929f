//! One connection to Redis that speaks with the filter's own bytes.

#![allow(dead_code)]

use slotgate::ledger::commands::{
    AccountReport, AccountTerms, Acquire, Asked, Change, LedgerCommands, Longest, Mode, Order,
    Part, Step, Sync, SyncAccount, Waiting,
};
use slotgate::ledger::commands::{
    Acquired, Override, Reconciled, Renewed, Synced, acquired, number, overrides, reconciled,
    released, renewed, synced,
};
use slotgate::ledger::fault::Fault;
use slotgate::ledger::keys::{COMMON, key, session_account};
use slotgate::ledger::resp::{Value, Values, push_array, push_bulk, reply_length};
use slotgate::ledger::source::{Script, ScriptRef, Sha, Shas};
use slotgate::pool::Scale;
use slotgate::pool::state::State as AccountState;
use slotgate::request::lease::LeaseId;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use support::Redis;

/// Who changes something.
pub const WHO: &str = "tester";
pub const PREFIX: &str = "slotgate";

/// What syncs say of priorities: 0 to 10, half a unit apart at most.
pub const SCALE: Scale = Scale {
    best: 0,
    worst: 10,
    span: 10,
    weight: 500_000,
};

/// A script's source; of the folder LUA instead, when it is set: that is how mutants are tried (tests/mutate.rs).
pub fn source(script: Script) -> String {
    let Some(folder) = std::env::var_os("LUA") else {
        return script.source();
    };
    let read = |name: &str| {
        std::fs::read_to_string(Path::new(&folder).join(name)).expect("the mutant's file")
    };
    let own = script.source();
    let flags = own.lines().next().unwrap();
    let files: String = script
        .files()
        .iter()
        .map(|name| read(&format!("{name}.lua")))
        .collect();
    format!("{flags}\n{files}")
}

/// The same of the script that only `slotgate doctor` runs.
fn audit_source() -> String {
    let own = slotgate::ledger::source::audit();
    let Some(folder) = std::env::var_os("LUA") else {
        return own;
    };
    let read = |name| std::fs::read_to_string(Path::new(&folder).join(name)).unwrap();
    let files = ["ledger.lua", "audit.lua"].map(read);
    format!("{}\n{}", own.lines().next().unwrap(), files.concat())
}

/// What an acquire answered, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Granted(String),
    /// And the lease probes.
    Probes(String),
    Saturated(u64),
    NoAccount,
    /// Its order.
    Waits(Order),
    QueueFull(u64),
    TenantFull(u64),
}

impl Answer {
    pub fn of(answer: Acquired) -> Self {
        let id = |account: &[u8]| String::from_utf8(account.to_vec()).unwrap();
        match answer {
            Acquired::Granted {
                account,
                probes: false,
            } => Self::Granted(id(account)),
            Acquired::Granted { account, .. } => Self::Probes(id(account)),
            Acquired::Saturated { retry_after_ms } => Self::Saturated(retry_after_ms),
            Acquired::NoAccount => Self::NoAccount,
            Acquired::Waits { order, .. } => Self::Waits(order),
            Acquired::QueueFull { retry_after_ms } => Self::QueueFull(retry_after_ms),
            Acquired::TenantFull { retry_after_ms } => Self::TenantFull(retry_after_ms),
        }
    }
}

/// A pool's scripts on one connection.
pub struct Pipe {
    stream: TcpStream,
    pool: String,
    keys: LedgerCommands,
    shas: Shas,
    /// The epoch of the last grant, renewal or sync.
    pub epoch: u64,
    /// Given to the next acquires, one more each time.
    pub seed: u32,
    pub ttl_ms: u64,
    /// Weight of the random part, in millionths.
    pub random: u64,
    /// Whether the last lease granted is a probe.
    pub probes: bool,
    /// How much the sessions may take.
    pub session_mb: u64,
    /// What syncs and recounts say of the longest times.
    pub longest: Longest,
    /// How joins wait.
    pub waiting: Waiting<'static>,
    /// The accounts that the leases asked for must not get.
    pub tried: Vec<&'static str>,
    /// Whether syncs leave the accounts to the ledger.
    pub accounts_are_ledgers: bool,
    /// How low syncs let limits fall that adapt; 0: none does.
    pub adaptive: u32,
    /// What the last release handed on: cookie, lease and account.
    pub handed: Vec<(u64, String, String)>,
    /// How many bytes went out and came back, but for those of `exchange_many`.
    pub bytes: usize,
}

impl Pipe {
    pub fn open(redis: &Redis, pool: &str) -> Self {
        Self::open_at(redis.addr(), pool)
    }

    /// To Redis, or to what stands in front of it.
    pub fn open_at(addr: SocketAddr, pool: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        let keys = LedgerCommands::new(PREFIX, pool);
        let mut pipe = Self {
            stream,
            pool: pool.into(),
            keys,
            shas: Shas([[0; 40]; Script::ALL.len()]),
            epoch: 0,
            seed: 1,
            ttl_ms: 10_000,
            random: 200_000,
            probes: false,
            session_mb: 8,
            longest: Longest::default(),
            waiting: Waiting {
                most: 1000,
                vouched_ms: 6_000,
                channel: "slotgate:grants",
            },
            tried: Vec::new(),
            accounts_are_ledgers: false,
            adaptive: 0,
            handed: Vec::new(),
            bytes: 0,
        };
        for (place, script) in Script::ALL.into_iter().enumerate() {
            let reply = pipe.command(&[b"SCRIPT", b"LOAD", source(script).as_bytes()]);
            let sha = Values::new(&reply)
                .bulk()
                .unwrap_or_else(|| panic!("{script:?}: {}", text(&reply)));
            pipe.shas.0[place] = Sha::try_from(sha).unwrap();
        }
        pipe
    }

    /// One command, its raw reply.
    pub fn command(&mut self, arguments: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_array(&mut bytes, arguments.len());
        for argument in arguments {
            push_bulk(&mut bytes, argument);
        }
        self.exchange(&bytes)
    }

    /// Sends these bytes and reads one reply.
    pub fn exchange(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.stream.write_all(bytes).unwrap();
        let mut reply = Vec::new();
        let mut part = [0; 4096];
        loop {
            let size = self.stream.read(&mut part).unwrap();
            assert!(size > 0, "Redis hung up");
            reply.extend_from_slice(&part[..size]);
            if let Some(length) = reply_length(&reply).unwrap() {
                assert_eq!(length, reply.len(), "one reply");
                self.bytes += bytes.len() + length;
                return reply;
            }
        }
    }

    /// Sends these bytes and reads so many replies, one after another.
    pub fn exchange_many(&mut self, bytes: &[u8], replies: usize, mut each: impl FnMut(&[u8])) {
        self.stream.write_all(bytes).unwrap();
        let (mut inbox, mut part, mut seen) = (Vec::new(), [0; 65_536], 0);
        while seen < replies {
            let size = self.stream.read(&mut part).unwrap();
            assert!(size > 0, "Redis hung up");
            inbox.extend_from_slice(&part[..size]);
            let mut at = 0;
            while let Some(length) = reply_length(&inbox[at..]).unwrap() {
                let reply = &inbox[at..at + length];
                assert_ne!(reply[0], b'-', "{}", text(reply));
                each(reply);
                at += length;
                seen += 1;
            }
            inbox.drain(..at);
        }
    }

    pub fn encode(
        &self,
        out: &mut Vec<u8>,
        encode: impl FnOnce(&LedgerCommands, &mut Vec<u8>, ScriptRef),
    ) {
        encode(&self.keys, out, ScriptRef::Sha(&self.shas));
    }

    pub fn encode_acquire(&self, out: &mut Vec<u8>, lease: LeaseId, mode: Mode, seed: u32) {
        self.encode_acquires(out, &[lease], mode, seed);
    }

    /// Several leases in one command.
    pub fn encode_acquires(&self, out: &mut Vec<u8>, leases: &[LeaseId], mode: Mode, seed: u32) {
        let arguments = self.arguments(seed, 0, &[]);
        let asked = leases.iter().map(|lease| Asked {
            lease: *lease,
            mode,
            session: None,
            scope: None,
        });
        self.encode(out, |keys, out, by| {
            keys.acquire(out, by, &arguments, asked)
        });
    }

    /// Several leases in one command, each with its session.
    pub fn encode_with_sessions(
        &self,
        out: &mut Vec<u8>,
        leases: &[LeaseId],
        sessions: &[[u8; 16]],
        session_ttl_ms: u64,
        seed: u32,
    ) {
        let arguments = self.arguments(seed, session_ttl_ms, &[]);
        let asked = leases.iter().zip(sessions).map(|(lease, session)| Asked {
            lease: *lease,
            mode: Mode::Take,
            session: Some(session),
            scope: None,
        });
        self.encode(out, |keys, out, by| {
            keys.acquire(out, by, &arguments, asked)
        });
    }

    fn arguments<'a>(
        &self,
        seed: u32,
        session_ttl_ms: u64,
        tried: &'a [&'static str],
    ) -> Acquire<'a> {
        Acquire {
            ttl_ms: self.ttl_ms,
            seed,
            random: self.random,
            session_ttl_ms,
            session_mb: self.session_mb,
            waiting: self.waiting,
            tried,
        }
    }

    /// The account of each lease, as the ledger has it.
    pub fn owners(&mut self, leases: &[LeaseId]) -> Vec<String> {
        let key = key(PREFIX, &self.pool, "owner");
        leases
            .iter()
            .map(|lease| {
                let reply = self.command(&[b"HGET", key.as_bytes(), lease.as_bytes()]);
                String::from_utf8(
                    Values::new(&reply)
                        .bulk()
                        .expect("it has an owner")
                        .to_vec(),
                )
                .unwrap()
            })
            .collect()
    }

    pub fn meta_epoch(&mut self) -> u64 {
        let key = key(PREFIX, &self.pool, "accounts");
        let reply = self.command(&[b"HGET", key.as_bytes(), b"#epoch"]);
        Values::new(&reply).number().expect("synced")
    }

    /// Bytes of the pool's keys, from MEMORY USAGE.
    pub fn memory(&mut self) -> u64 {
        COMMON
            .iter()
            .map(|name| {
                let key = key(PREFIX, &self.pool, name);
                let reply = self.command(&[b"MEMORY", b"USAGE", key.as_bytes(), b"SAMPLES", b"0"]);
                Values::new(&reply).number().unwrap_or(0)
            })
            .sum()
    }

    /// What was published on the channels that this connection subscribes to, in order: channel and message.
    pub fn published(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut bytes = Vec::new();
        push_array(&mut bytes, 1);
        push_bulk(&mut bytes, b"PING");
        self.stream.write_all(&bytes).unwrap();
        let (mut inbox, mut part, mut messages) = (Vec::new(), [0; 4096], Vec::new());
        loop {
            let size = self.stream.read(&mut part).unwrap();
            assert!(size > 0, "Redis hung up");
            inbox.extend_from_slice(&part[..size]);
            let mut at = 0;
            while let Some(length) = reply_length(&inbox[at..]).unwrap() {
                let mut values = Values::new(&inbox[at..at + length]);
                at += length;
                values.value();
                match values.bulk() {
                    Some(b"pong") => {
                        assert_eq!(at, inbox.len());
                        return messages;
                    }
                    Some(b"message") => {
                        let channel = values.bulk().unwrap().to_vec();
                        let message = values.bulk().unwrap().to_vec();
                        messages.push((String::from_utf8(channel).unwrap(), message));
                    }
                    other => panic!("{other:?}"),
                }
            }
            inbox.drain(..at);
        }
    }

    fn call(&mut self, encode: impl FnOnce(&LedgerCommands, &mut Vec<u8>, ScriptRef)) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&self.keys, &mut bytes, ScriptRef::Sha(&self.shas));
        self.exchange(&bytes)
    }

    pub fn acquire_raw(
        &mut self,
        lease: LeaseId,
        mode: Mode,
        session: Option<(&[u8; 16], u64)>,
        scope: Option<&[u8; 16]>,
        seed: u32,
    ) -> Vec<u8> {
        let session_ttl_ms = session.map_or(0, |(_, ttl_ms)| ttl_ms);
        let asked = Asked {
            lease,
            mode,
            session: session.map(|(hash, _)| hash),
            scope,
        };
        self.acquire_all_raw(&[asked], session_ttl_ms, seed)
    }

    pub fn acquire_all_raw(&mut self, asked: &[Asked], session_ttl_ms: u64, seed: u32) -> Vec<u8> {
        let tried = self.tried.clone();
        let arguments = self.arguments(seed, session_ttl_ms, &tried);
        self.call(|keys, out, by| keys.acquire(out, by, &arguments, asked.iter().copied()))
    }

    /// Several leases at once, all of one mode, with a session each or none, a scope each or none.
    pub fn acquire_all(
        &mut self,
        asked: &[Asked],
        session_ttl_ms: u64,
        seed: u32,
    ) -> Result<Vec<Answer>, Fault> {
        let reply = self.acquire_all_raw(asked, session_ttl_ms, seed);
        let (epoch, answers) = acquired(&reply, asked.len())?;
        self.epoch = epoch;
        Ok(answers.map(Answer::of).collect())
    }

    pub fn acquire_in(
        &mut self,
        lease: LeaseId,
        mode: Mode,
        session: Option<(&[u8; 16], u64)>,
        scope: Option<&[u8; 16]>,
        seed: u32,
    ) -> Result<Answer, Fault> {
        let reply = self.acquire_raw(lease, mode, session, scope, seed);
        let (epoch, mut answers) = acquired(&reply, 1)?;
        self.epoch = epoch;
        self.probes = false;
        match Answer::of(answers.next().unwrap()) {
            Answer::Probes(account) => {
                self.probes = true;
                Ok(Answer::Granted(account))
            }
            Answer::NoAccount => Err(Fault::NoAccount),
            answer => Ok(answer),
        }
    }

    pub fn acquire(
        &mut self,
        lease: LeaseId,
        mode: Mode,
        session: Option<(&[u8; 16], u64)>,
    ) -> Result<Answer, Fault> {
        self.seed = self
            .seed
            .wrapping_mul(747_796_405)
            .wrapping_add(2_891_336_453);
        self.acquire_in(lease, mode, session, None, self.seed)
    }

    /// A plain acquire that must be granted.
    pub fn take(&mut self, lease: LeaseId) -> String {
        match self.acquire(lease, Mode::Take, None) {
            Ok(Answer::Granted(account)) => account,
            other => panic!("{other:?}"),
        }
    }

    pub fn release_raw(&mut self, leases: &[LeaseId]) -> Vec<u8> {
        self.call(|keys, out, by| keys.release(out, by, leases.iter().copied()))
    }

    pub fn release(&mut self, leases: &[LeaseId]) -> Result<u64, Fault> {
        let reply = self.release_raw(leases);
        let (live, handed) = released(&reply)?;
        let own = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
        self.handed = handed
            .map(|grant| (grant.cookie, own(grant.lease), own(grant.account)))
            .collect();
        Ok(live)
    }

    pub fn renew_raw(&mut self, leases: &[(LeaseId, &str, u64)]) -> Vec<u8> {
        let ttl_ms = self.ttl_ms;
        self.call(|keys, out, by| keys.renew(out, by, ttl_ms, leases.iter().copied()))
    }

    pub fn renew(&mut self, leases: &[(LeaseId, &str, u64)]) -> Result<Vec<Renewed>, Fault> {
        let reply = self.renew_raw(leases);
        let (epoch, answers) = renewed(&reply, leases.len())?;
        self.epoch = epoch;
        Ok(answers.collect())
    }

    pub fn sync(
        &mut self,
        revision: u64,
        digest: u64,
        accounts: Option<&[SyncAccount]>,
    ) -> Result<Synced, Fault> {
        let epoch = u64::from(self.seed);
        let sync = Sync {
            revision,
            digest,
            epoch,
            load: 300_000,
            scale: SCALE,
            accounts_are_ledgers: self.accounts_are_ledgers,
            adaptive: self.adaptive,
            accounts,
            part: Part::Whole,
            longest: self.longest,
            by: "test",
        };
        synced(&self.call(|keys, out, by| keys.sync(out, by, &sync)))
    }

    /// A step of a sync in parts, as its reply.
    pub fn sync_part(
        &mut self,
        by: &str,
        (revision, digest): (u64, u64),
        part: Part,
        accounts: &[SyncAccount],
    ) -> Vec<u8> {
        let sync = Sync {
            revision,
            digest,
            epoch: 5,
            load: 300_000,
            scale: SCALE,
            accounts_are_ledgers: self.accounts_are_ledgers,
            adaptive: self.adaptive,
            accounts: Some(accounts),
            part,
            longest: self.longest,
            by,
        };
        self.call(|keys, out, by| keys.sync(out, by, &sync))
    }

    pub fn cooldown(&mut self, account: &str, length_ms: u64) -> Result<u64, Fault> {
        self.cooldown_in(account, length_ms, None)
    }

    pub fn cooldown_in(
        &mut self,
        account: &str,
        length_ms: u64,
        scope: Option<&[u8; 16]>,
    ) -> Result<u64, Fault> {
        self.heard(account, AccountReport::Cool(length_ms, scope.copied()))
    }

    pub fn heard_raw(&mut self, account: &str, heard: AccountReport) -> Vec<u8> {
        self.call(|keys, out, by| keys.cooldown(out, by, account, heard))
    }

    pub fn heard(&mut self, account: &str, heard: AccountReport) -> Result<u64, Fault> {
        number(&self.heard_raw(account, heard))
    }

    pub fn reconcile(
        &mut self,
        worker: &str,
        silence_ms: u64,
        count: u64,
    ) -> Result<Reconciled, Fault> {
        let longest = self.longest;
        let reply = self.reconcile_raw(&Step {
            worker,
            silence_ms,
            count,
            longest,
            soon: false,
        });
        Ok(reconciled(&reply)?.state)
    }

    pub fn reconcile_raw(&mut self, step: &Step) -> Vec<u8> {
        self.call(|keys, out, by| keys.reconcile(out, by, step))
    }

    /// Old and new value.
    pub fn control(
        &mut self,
        verb: &str,
        subject: &str,
        session: Option<&[u8; 16]>,
    ) -> Result<(String, String), Fault> {
        let reply = self.control_raw(verb, subject, session);
        let mut values = Values::new(&reply);
        match values.value() {
            Some(Value::Array(2)) => {
                let word =
                    |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
                Ok((word(values.bulk()), word(values.bulk())))
            }
            Some(Value::Error(error)) => Err(Fault::of(error)),
            other => panic!("{other:?}"),
        }
    }

    /// What `account.lua` says of each account: what came of it, how it was, and how it is.
    pub fn change(
        &mut self,
        change: Change,
        only_check: bool,
        accounts: &[AccountTerms],
    ) -> Result<Vec<String>, Fault> {
        let reply = self.change_raw(change, only_check, accounts);
        let mut values = Values::new(&reply);
        let count = match values.value() {
            Some(Value::Array(count)) => count,
            other => return Err(Fault::in_place_of(other)),
        };
        let mut said = Vec::new();
        for _ in 0..count {
            assert_eq!(values.value(), Some(Value::Array(3)));
            let mut word = || String::from_utf8(values.bulk().unwrap().to_vec()).unwrap();
            said.push(format!("{} [{}] [{}]", word(), word(), word()));
        }
        Ok(said)
    }

    pub fn change_raw(
        &mut self,
        change: Change,
        only_check: bool,
        accounts: &[AccountTerms],
    ) -> Vec<u8> {
        self.call(|keys, out, by| keys.account(out, by, change, only_check, accounts, WHO))
    }

    /// The account that a session is bound to.
    pub fn bound(&mut self, session: &[u8; 16]) -> Option<String> {
        let reply = self.call(|keys, out, _| keys.session(out, session));
        let value = Values::new(&reply).bulk()?;
        let account = session_account(value, session, self.now_ms())?;
        Some(String::from_utf8(account.to_vec()).unwrap())
    }

    /// Redis TIME.
    fn now_ms(&mut self) -> u64 {
        let reply = self.command(&[b"TIME"]);
        let mut values = Values::new(&reply);
        values.value();
        values.number().unwrap() * 1000 + values.number().unwrap() / 1000
    }

    pub fn control_raw(
        &mut self,
        verb: &str,
        subject: &str,
        session: Option<&[u8; 16]>,
    ) -> Vec<u8> {
        self.call(|keys, out, by| keys.control(out, by, verb, subject, session, WHO))
    }

    pub fn look_raw(&mut self, drained: u64, used: u64) -> Vec<u8> {
        self.call(|keys, out, by| keys.overrides(out, by, drained, used))
    }

    pub fn answer(&mut self, text: &str, keep_ms: u64) -> Vec<u8> {
        self.call(|keys, out, _| keys.answer(out, text, keep_ms))
    }

    /// The percentage, the drained accounts (`-`: too many), and the use of accounts in the order of their ids.
    pub fn look(&mut self, drained: u64, used: u64) -> Result<(Override, String, String), Fault> {
        let reply = self.look_raw(drained, used);
        let overrides = overrides(&reply)?;
        let of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut uses: Vec<_> = overrides
            .seen()
            .map(|one| format!("{} {}/{}", of(one.id), one.used, one.max_concurrency))
            .collect();
        uses.sort();
        let drained = overrides.drained.map_or_else(|| "-".to_owned(), of);
        Ok((overrides.percent, drained, uses.join(" ")))
    }

    /// Each account's state as a worker hears it; `?`: it is not told.
    pub fn states(&mut self) -> BTreeMap<String, String> {
        let reply = self.look_raw(10, 100);
        let all = overrides(&reply).unwrap();
        let seen = all.seen();
        let seen = seen.map(|one| {
            let state = one.state.map_or("?", AccountState::as_str);
            (
                String::from_utf8(one.id.to_vec()).unwrap(),
                state.to_owned(),
            )
        });
        seen.collect()
    }

    /// What does not fit together in the pool's keys: `key field: what stands there, not what the others say`.
    pub fn audit(&mut self) -> Vec<String> {
        let keys = COMMON.map(|name| key(PREFIX, &self.pool, name));
        let source = audit_source();
        let mut words: Vec<&[u8]> = vec![b"EVAL", source.as_bytes(), b"8"];
        words.extend(keys.iter().map(|key| key.as_bytes()));
        words.push(b"100000");
        let reply = self.command(&words);
        let mut values = Values::new(&reply);
        assert_eq!(values.value(), Some(Value::Array(3)), "{}", text(&reply));
        values.value();
        values.value();
        let Some(Value::Array(count)) = values.value() else {
            panic!("{}", text(&reply))
        };
        let mut found = Vec::new();
        for _ in 0..count {
            assert_eq!(values.value(), Some(Value::Array(4)));
            let mut word = || String::from_utf8_lossy(values.bulk().unwrap()).into_owned();
            found.push(format!("{} {}: {}, not {}", word(), word(), word(), word()));
        }
        found
    }

    pub fn inspect_raw(&mut self, cursor: &str, count: u64) -> Vec<u8> {
        self.call(|keys, out, by| keys.inspect(out, by, cursor, count))
    }

    /// Each account's live leases and state.
    pub fn inspect(&mut self) -> Result<BTreeMap<String, (u32, String)>, Fault> {
        let reply = self.inspect_raw("0", 1000);
        let mut values = Values::new(&reply);
        match values.value() {
            Some(Value::Array(9 | 11)) => {}
            Some(Value::Error(error)) => return Err(Fault::of(error)),
            other => panic!("{other:?}"),
        }
        assert_eq!(values.bulk(), Some(&b"0"[..]), "one page");
        for _ in 0..3 {
            values.bulk().unwrap();
        }
        let (all, expired) = (values.number().unwrap(), values.number().unwrap());
        assert!(expired <= all);
        values.value().unwrap();
        let Some(Value::Array(rows)) = values.value() else {
            panic!("{}", text(&reply))
        };
        let mut accounts = BTreeMap::new();
        for _ in 0..rows {
            assert_eq!(values.value(), Some(Value::Array(12)));
            let id = String::from_utf8(values.bulk().unwrap().to_vec()).unwrap();
            values.number().unwrap();
            let used = u32::try_from(values.number().unwrap()).unwrap();
            values.number().unwrap();
            values.number().unwrap();
            let state = String::from_utf8(values.bulk().unwrap().to_vec()).unwrap();
            values.number().unwrap();
            values.number().unwrap();
            for _ in 0..4 {
                values.bulk().unwrap();
            }
            accounts.insert(id, (used, state));
        }
        Ok(accounts)
    }

    /// Everything of the pool, in one round trip.
    pub fn state(&mut self) -> State {
        let mut bytes = Vec::new();
        let names = COMMON;
        let (hash, set): (&[&str], &[&str]) = (&["HGETALL"], &["ZRANGE", "0", "-1", "WITHSCORES"]);
        let reads = [hash, set, hash, set, hash, set, set, hash];
        for (name, read) in names.into_iter().zip(reads) {
            push_array(&mut bytes, read.len() + 1);
            push_bulk(&mut bytes, read[0].as_bytes());
            push_bulk(&mut bytes, key(PREFIX, &self.pool, name).as_bytes());
            for argument in &read[1..] {
                push_bulk(&mut bytes, argument.as_bytes());
            }
        }
        push_array(&mut bytes, 2);
        push_bulk(&mut bytes, b"HGETALL");
        push_bulk(&mut bytes, key(PREFIX, &self.pool, "roster").as_bytes());
        let sessions = [[1; 16], [2; 16], [3; 16]];
        for session in &sessions {
            self.keys.session(&mut bytes, session);
        }
        let mut replies = Vec::new();
        self.exchange_many(&bytes, names.len() + 1 + sessions.len(), |reply| {
            replies.push(reply.to_vec())
        });
        let now_ms = self.now_ms();
        let maps: Vec<BTreeMap<String, String>> = replies[..=names.len()]
            .iter()
            .map(|reply| {
                let mut values = Values::new(reply);
                let Some(Value::Array(length)) = values.value() else {
                    panic!("{}", text(reply))
                };
                let mut word = || String::from_utf8(values.bulk().unwrap().to_vec()).unwrap();
                (0..length / 2).map(|_| (word(), word())).collect()
            })
            .collect();
        let float = |map: &BTreeMap<String, String>| {
            map.iter()
                .map(|(member, score)| (member.clone(), score.parse().unwrap()))
                .collect()
        };
        let (meta, accounts) = maps[0]
            .clone()
            .into_iter()
            .partition(|(name, _)| name.starts_with('#'));
        let (waiting, owner): (BTreeMap<_, _>, BTreeMap<_, _>) = maps[4]
            .clone()
            .into_iter()
            .partition(|(_, owner)| owner.starts_with('~'));
        let mut leases: BTreeMap<String, f64> = float(&maps[3]);
        let waiting = waiting
            .into_iter()
            .map(|(lease, text)| {
                let until = leases.remove(&lease).unwrap_or_default();
                (lease, (text, until))
            })
            .collect();
        assert!(maps[6].values().all(|score| score == "0"), "{:?}", maps[6]);
        let (tags, tenants) = maps[7]
            .clone()
            .into_iter()
            .filter(|(field, _)| !field.starts_with('#'))
            .partition(|(field, _)| field.starts_with('@'));
        State {
            accounts,
            meta,
            waiting,
            queue: maps[6].keys().cloned().collect(),
            tags,
            tenants,
            free: float(&maps[1]),
            used: maps[2]
                .iter()
                .filter(|(id, _)| !id.starts_with('#'))
                .map(|(id, used)| (id.clone(), used.parse().unwrap()))
                .collect(),
            leases,
            owner: owner
                .iter()
                .map(|(lease, owner)| (lease.clone(), owner.split(':').next().unwrap().to_string()))
                .collect(),
            cooldown: float(&maps[5]),
            roster: maps[names.len()].clone(),
            sessions: sessions
                .iter()
                .zip(&replies[names.len() + 1..])
                .map(|(session, reply)| {
                    let account = session_account(Values::new(reply).bulk()?, session, now_ms)?;
                    Some(String::from_utf8(account.to_vec()).unwrap())
                })
                .collect(),
        }
    }
}

/// A pool as Redis holds it, without the marks of a reconcile pass.
#[derive(Debug)]
pub struct State {
    pub accounts: BTreeMap<String, String>,
    pub meta: BTreeMap<String, String>,
    pub free: BTreeMap<String, f64>,
    pub used: BTreeMap<String, i64>,
    pub leases: BTreeMap<String, f64>,
    pub owner: BTreeMap<String, String>,
    pub cooldown: BTreeMap<String, f64>,
    /// What an operator has set of accounts.
    pub roster: BTreeMap<String, String>,
    pub sessions: Vec<Option<String>>,
    /// Lease → what `owner` says of one that waits, and until when it is vouched for.
    pub waiting: BTreeMap<String, (String, f64)>,
    pub queue: Vec<String>,
    /// What `tenants` holds beside the counts.
    pub tags: BTreeMap<String, String>,
    pub tenants: BTreeMap<String, String>,
}

/// An enabled account without priority.
pub fn account(id: &str, max_concurrency: u32) -> SyncAccount<'_> {
    SyncAccount {
        id,
        max_concurrency,
        base: 0,
        enabled: true,
        pace: None,
    }
}

pub fn text(reply: &[u8]) -> String {
    match Values::new(reply).value() {
        Some(Value::Error(error)) => String::from_utf8_lossy(error).into_owned(),
        _ => String::from_utf8_lossy(reply).into_owned(),
    }
}
