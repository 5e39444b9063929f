//! Replies from Redis: each goes to the part that its command came from, and a command that failed goes out again or is given
//! up.

use super::acquires::{self, LostAcquire};
use super::command::{About, AcquireCommand, AcquireKind, Command};
use super::counters::Counter;
use super::notice::Notice;
use super::parts::Parts;
use super::requests::Known;
use super::sync::{self, Next};
use super::{presence, renewals};
use crate::ledger::commands::{self, Acquired};
use crate::ledger::fault::{self, Fault};
use crate::ledger::resp::{Value, Values};
use crate::pipe::connection::{Event, Sent};
use crate::pipe::down::Down;
use crate::request::admission::Reason;

/// How often a command is sent again when Redis lacked the script or the pool.
const RETRIES: u8 = 2;
/// The notice about an acquire or a renewal whose epoch is no number.
const EPOCH: &[u8] = b"accounts #epoch: not a whole number";
/// The notice about a sync whose revision is no number.
const REVISION: &[u8] = b"accounts #revision: not a whole number";

impl Parts {
    /// Bytes from Redis, cut anywhere.
    pub(super) fn on_pipe_bytes(&mut self, bytes: &[u8]) {
        let now_ms = self.cx.now_ms;
        let mut reader = self.pipe.reader(bytes);
        while let Some(event) = self.pipe.read(now_ms, &self.cx.config.redis, &mut reader) {
            match event {
                // No acquire goes ahead of its own accounts.
                Event::Greeted => {
                    for pool in 0..self.cx.config.pools.len() {
                        self.syncs.ask(&mut self.cx, pool);
                    }
                    self.send_commands();
                }
                Event::Reply(sent) => self.on_reply(sent, reader.reply()),
                // It listens to no channel.
                Event::Message => {}
                Event::Broken(why) => self.lose_pipe(why),
            }
        }
    }

    fn on_reply(&mut self, mut sent: Sent<Command>, reply: &[u8]) {
        let pool = sent.command.pool();
        if reply.first() == Some(&b'-')
            && let Some(Value::Error(error)) = Values::new(reply).value()
            && let Some(what) = fault::garbage(error)
            // An operator's key is told of where it is read.
            && !matches!(sent.command, Command::Poll { .. })
        {
            self.recounts.see_garbage(&mut self.cx, pool, what);
        }
        if let Command::Acquire(leases) = &sent.command {
            self.acquires.on_answered(leases.len());
        }
        if let Err(fault) = self.on_answer(&mut sent, reply) {
            self.on_fault(sent, fault, reply);
        }
        self.send_commands();
    }

    /// Gives a reply to the part that its command came from.
    fn on_answer(&mut self, sent: &mut Sent<Command>, reply: &[u8]) -> Result<(), Fault> {
        let (cx, sent_ms) = (&mut self.cx, sent.sent_ms);
        match &mut sent.command {
            Command::Acquire(leases) => return self.on_acquired(leases, sent_ms, reply),
            Command::Release { pool, releases } => {
                let handed = self.releases.on_reply(cx, *pool, releases.len(), reply)?;
                for handed in handed {
                    self.releases.see_waiting(self.cx.now_ms);
                    self.on_handed(handed);
                }
            }
            Command::Renew { pool, leases } => {
                let (epoch, answers) = renewals::read(leases, reply)?;
                let pool = *pool;
                let mut lost: usize = 0;
                for (answer, held) in answers.zip(leases.iter()) {
                    let at = (epoch, sent_ms);
                    let news = self.requests.on_renewed(cx, pool, held, answer, at);
                    lost = lost.saturating_add(usize::from(news));
                }
                if lost > 0 {
                    let pool = cx.pool_name(pool);
                    cx.notice(Notice::Lost { pool, leases: lost });
                }
                self.syncs.see_epoch(cx, pool, epoch);
            }
            Command::Sync { pool, step, .. } => {
                if let Next::Stray(id) = self.syncs.on_reply(cx, *pool, step, reply)? {
                    let what = not_configured(id.as_bytes());
                    self.recounts.note_garbage(cx, *pool, &what);
                }
                self.send_commands();
                self.serve_once_synced();
            }
            Command::Recount { pool, .. } => {
                if let Some(in_force) = self.recounts.on_reply(cx, *pool, reply)? {
                    self.syncs.see_in_force(cx, *pool, in_force);
                }
            }
            Command::Poll { pool } => {
                let question = self.overrides.on_reply(cx, *pool, sent_ms, reply)?;
                let pool = *pool;
                if let Some(question) = question {
                    self.answer_question(pool, &question);
                }
            }
            Command::Answer { .. } => {
                if let Some(Value::Error(error)) = Values::new(reply).value() {
                    return Err(Fault::of(error));
                }
            }
            Command::Report {
                slot,
                pool,
                account,
                report,
            } => {
                let changed = commands::number(reply)?;
                let request = (*slot, *pool);
                self.requests
                    .on_reported(cx, request, *account, *report, changed);
            }
        }
        Ok(())
    }

    /// Answers what someone asks beside the overrides, if it is for this worker.
    fn answer_question(&mut self, pool: usize, question: &[u8]) {
        let (cx, follows) = (&self.cx, !self.syncs.is_ignored(pool));
        let of_request = || self.requests.recall(cx, cx.now_ms, question);
        let of_worker = presence::answer(cx, pool, follows, question);
        let answer = of_worker.map(|text| (text, About::Worker));
        let answer = answer.or_else(|| Some((of_request()?, About::Request)));
        if let Some((text, about)) = answer {
            let command = Command::Answer { pool, text, about };
            self.cx.commands.push_back(command);
        }
    }

    fn on_acquired(
        &mut self,
        leases: &mut Vec<AcquireCommand>,
        sent_ms: u64,
        reply: &[u8],
    ) -> Result<(), Fault> {
        let (epoch, answers) = acquires::read(leases, reply)?;
        // One that came too late helps nobody, and must not keep the breaker closed.
        let took_ms = self.cx.now_ms.saturating_sub(sent_ms);
        if took_ms < self.cx.config.redis.acquire_timeout_ms {
            self.acquires_work();
        }
        for (acquire, answer) in std::mem::take(leases).into_iter().zip(answers) {
            let pool = acquire.pool;
            let traditional = match acquire.kind {
                AcquireKind::Dry => None,
                AcquireKind::DryBeside(account) => Some(account),
                AcquireKind::Bind => {
                    self.requests.put_right(&mut self.cx, &acquire, answer);
                    continue;
                }
                AcquireKind::Take | AcquireKind::Record(_) => {
                    self.on_granted(&acquire, answer, epoch, sent_ms);
                    continue;
                }
            };
            self.shadow
                .on_answer(&mut self.cx, pool, traditional, answer);
        }
        Ok(())
    }

    /// The ledger answered an acquire that takes or records a lease.
    pub(super) fn on_granted(
        &mut self,
        acquire: &AcquireCommand,
        answer: Acquired,
        epoch: u64,
        sent_ms: u64,
    ) {
        let (cx, pool) = (&mut self.cx, acquire.pool);
        self.full.see(cx, acquire, answer, sent_ms);
        let begins = self.requests.acquires(acquire.slot, acquire.lease);
        let known = self
            .requests
            .on_acquired(cx, acquire, answer, epoch, sent_ms);
        if let Acquired::Waits {
            order,
            retry_after_ms,
            wake_ms,
        } = answer
        {
            if begins.is_some() {
                let until_ms = self.requests.waits_until_ms(cx, acquire.slot);
                self.waiters.join(cx, acquire, order, until_ms);
                self.grants.want(cx.now_ms);
            }
            self.waiters.see(cx, pool, retry_after_ms, wake_ms);
            self.releases.see_waiting(cx.now_ms);
        }
        if let Acquired::Granted { account, .. } = answer {
            if known != Known::Late {
                self.recounts.see_right(cx, pool);
                self.syncs.see_epoch(cx, pool, epoch);
            }
            if known == Known::No && self.syncs.see_stray(cx, pool, account) {
                let what = not_configured(account);
                self.recounts.see_garbage(cx, pool, &what);
            }
        }
        self.do_tasks();
    }

    /// Handles a command that failed: it goes out again, or its part is told.
    fn on_fault(&mut self, sent: Sent<Command>, fault: Fault, reply: &[u8]) {
        let (pool, tries) = (sent.command.pool(), sent.tries);
        if fault == Fault::Garbage
            && reply.first() != Some(&b'-')
            && let Some(what) = number_of(&sent.command)
        {
            self.recounts.see_garbage(&mut self.cx, pool, what);
        }
        if fault == Fault::Mismatch {
            self.pipe.put_back(sent);
            return self.lose_pipe(Down::Mismatch);
        }
        // Without the right to poll, a worker can still do all else.
        let polls = matches!(sent.command, Command::Poll { .. });
        if !(polls && fault == Fault::Denied) {
            self.cx.counters.add(Counter::RedisError(fault));
        }
        if fault.is_wrong_server() && !(polls && fault == Fault::Denied) {
            self.lose_pipe(Down::WrongServer(fault));
            return self.on_failed(sent.command, sent.sent_ms, fault);
        }
        let command = sent.command;
        let retry = if tries < RETRIES && repeats(fault, &command) {
            self.wanted(command)
        } else {
            Err(command)
        };
        let failed = match (fault, retry) {
            (Fault::NoScript, Ok(command)) => {
                self.send(command, tries.saturating_add(1), true);
                return;
            }
            (Fault::NoPool, Ok(command)) => {
                self.syncs.on_no_pool(&mut self.cx, pool);
                self.send_commands();
                // The first part of a large pool does not know most of the leases that are renewed.
                let renews = matches!(command, Command::Renew { .. });
                if !(renews && sync::is_large(&self.cx, pool)) {
                    self.send(command, tries.saturating_add(1), false);
                    return;
                }
                command
            }
            // The script takes out of `free` whom it could not give a lease, so once more may be all that the others need.
            (_, Ok(command)) => {
                self.send(command, RETRIES, false);
                return;
            }
            (_, Err(command)) => command,
        };
        self.on_failed(failed, sent.sent_ms, fault);
    }

    /// Takes out of a command whatever nobody wants any more; `Err`: nothing is left.
    fn wanted(&self, mut command: Command) -> Result<Command, Command> {
        let left = match &mut command {
            Command::Acquire(leases) => {
                leases.retain(|acquire| self.requests.wants(acquire));
                leases.len()
            }
            Command::Release { releases, .. } => {
                releases.retain(|release| release.over_ms > self.cx.now_ms);
                releases.len()
            }
            Command::Renew { leases, .. } => {
                leases.retain(|held| self.requests.still_holds(held));
                leases.len()
            }
            Command::Sync { .. }
            | Command::Recount { .. }
            | Command::Poll { .. }
            | Command::Answer { .. }
            | Command::Report { .. } => 1,
        };
        if left > 0 { Ok(command) } else { Err(command) }
    }

    /// Tells a command's part that the command failed for good.
    fn on_failed(&mut self, command: Command, sent_ms: u64, fault: Fault) {
        let is_open = self.pipe.is_open();
        match command {
            Command::Acquire(leases) => {
                // One pool's fault says nothing of the others.
                if is_open && !matches!(fault, Fault::Garbage | Fault::NoPool) {
                    self.acquires_fail(Reason::Refused, Some(fault));
                }
                for acquire in leases {
                    self.lose_acquire(LostAcquire {
                        acquire,
                        reason: Reason::Refused,
                        in_doubt: fault.may_have_run(),
                    });
                }
            }
            Command::Release { mut releases, .. } => {
                releases.retain(|release| release.over_ms > self.cx.now_ms);
                self.releases.on_failed(&mut self.cx, releases);
            }
            Command::Sync { pool, .. } => {
                self.syncs.on_failed(pool);
                // A pipe that went down for it says why; so does what cannot be there.
                if is_open && fault != Fault::Garbage {
                    let pool = self.cx.pool_name(pool);
                    self.cx.notice(Notice::SyncFailed { pool, fault });
                }
                self.serve_once_synced();
            }
            Command::Recount { pool, .. } => self.recounts.on_failed(&mut self.cx, pool),
            Command::Poll { pool } if is_open => {
                self.overrides.on_failed(&mut self.cx, pool, sent_ms, fault);
            }
            // A lease renewed in vain is taken up by the next renewal; whoever asked for an answer asks again.
            Command::Poll { .. }
            | Command::Renew { .. }
            | Command::Answer { .. }
            | Command::Report { .. } => {}
        }
    }
}

/// Whether a command that failed so goes out again.
fn repeats(fault: Fault, command: &Command) -> bool {
    match fault {
        Fault::NoScript | Fault::NoPool => !matches!(command, Command::Answer { .. }),
        Fault::Garbage => matches!(command, Command::Acquire(_)),
        _ => false,
    }
}

/// The notice about a reply of this command without the number that belongs there; `None`: it has no such number.
fn number_of(command: &Command) -> Option<&'static [u8]> {
    match command {
        Command::Acquire(_) | Command::Renew { .. } => Some(EPOCH),
        Command::Sync { .. } => Some(REVISION),
        Command::Release { .. }
        | Command::Recount { .. }
        | Command::Poll { .. }
        | Command::Answer { .. }
        | Command::Report { .. } => None,
    }
}

/// The notice about an account that is in the ledger and in no configuration.
fn not_configured(account: &[u8]) -> Vec<u8> {
    [b"accounts ", account, b": not configured"].concat()
}
