//! One connection to Redis that speaks with the filter's own bytes.

use crate::support::Redis;
use slotgate::lease::LeaseId;
use slotgate::ledger::resp::{Value, Values, push_array, push_bulk, reply_length};
use slotgate::ledger::script::{
    Acquire, Acquired, By, Fault, Mode, PoolKeys, Renewed, Script, Sha, Shas, Sync, SyncAccount,
    Synced, acquired, number, renewed, synced,
};
use std::io::{Read, Write};
use std::net::TcpStream;

pub const PREFIX: &str = "slotgate";

/// What an acquire answered, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Granted(String),
    Saturated(u64),
}

/// A pool's scripts on one connection.
pub struct Pipe {
    stream: TcpStream,
    keys: PoolKeys,
    shas: Shas,
    /// The epoch of the last grant, renewal or sync.
    pub epoch: u64,
    /// Given to the next acquires, one more each time.
    pub seed: u32,
    pub ttl_ms: u64,
    /// Weight of the random part, in millionths.
    pub random: u64,
}

impl Pipe {
    pub fn open(redis: &Redis, pool: &str) -> Self {
        let stream = TcpStream::connect(redis.addr()).unwrap();
        stream.set_nodelay(true).unwrap();
        let keys = PoolKeys::new(PREFIX, pool);
        let mut pipe = Self {
            stream,
            keys,
            shas: Shas([[0; 40]; Script::ALL.len()]),
            epoch: 0,
            seed: 1,
            ttl_ms: 10_000,
            random: 200_000,
        };
        for (place, script) in Script::ALL.into_iter().enumerate() {
            let reply = pipe.command(&[b"SCRIPT", b"LOAD", script.source().as_bytes()]);
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
                return reply;
            }
        }
    }

    fn call(&mut self, encode: impl FnOnce(&PoolKeys, &mut Vec<u8>, By)) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&self.keys, &mut bytes, By::Sha(&self.shas));
        self.exchange(&bytes)
    }

    pub fn acquire_raw(
        &mut self,
        lease: LeaseId,
        mode: Mode,
        session: Option<(&[u8; 16], u64)>,
    ) -> Vec<u8> {
        self.seed = self
            .seed
            .wrapping_mul(747_796_405)
            .wrapping_add(2_891_336_453);
        let arguments = Acquire {
            lease,
            ttl_ms: self.ttl_ms,
            seed: self.seed,
            random: self.random,
            mode,
            session,
        };
        self.call(|keys, out, by| keys.acquire(out, by, &arguments))
    }

    pub fn acquire(
        &mut self,
        lease: LeaseId,
        mode: Mode,
        session: Option<(&[u8; 16], u64)>,
    ) -> Result<Answer, Fault> {
        let reply = self.acquire_raw(lease, mode, session);
        match acquired(&reply)? {
            Acquired::Granted { account, epoch } => {
                self.epoch = epoch;
                Ok(Answer::Granted(
                    String::from_utf8(account.to_vec()).unwrap(),
                ))
            }
            Acquired::Saturated { retry_after_ms } => Ok(Answer::Saturated(retry_after_ms)),
        }
    }

    /// A plain acquire that must be granted.
    pub fn take(&mut self, lease: LeaseId) -> String {
        match self.acquire(lease, Mode::Take, None) {
            Ok(Answer::Granted(account)) => account,
            other => panic!("{other:?}"),
        }
    }

    pub fn release(&mut self, leases: &[LeaseId]) -> Result<u64, Fault> {
        number(&self.call(|keys, out, by| keys.release(out, by, leases)))
    }

    pub fn renew(&mut self, leases: &[(LeaseId, &str, u64)]) -> Result<Vec<Renewed>, Fault> {
        let ttl_ms = self.ttl_ms;
        let reply = self.call(|keys, out, by| keys.renew(out, by, ttl_ms, leases.iter().copied()));
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
            accounts,
        };
        synced(&self.call(|keys, out, by| keys.sync(out, by, &sync)))
    }

    pub fn cooldown(&mut self, account: &str, length_ms: u64) -> Result<u64, Fault> {
        number(&self.call(|keys, out, by| keys.cooldown(out, by, account, length_ms)))
    }
}

/// An enabled account without priority.
pub fn account(id: &str, max_concurrency: u32) -> SyncAccount<'_> {
    SyncAccount {
        id,
        max_concurrency,
        base: 0,
        enabled: true,
    }
}

pub fn text(reply: &[u8]) -> String {
    match Values::new(reply).value() {
        Some(Value::Error(error)) => String::from_utf8_lossy(error).into_owned(),
        _ => String::from_utf8_lossy(reply).into_owned(),
    }
}
