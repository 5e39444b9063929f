//! One connection to Redis: its greeting, the commands under way, the framing of replies, and when it is given up.
//!
//! Used by the scheduler's worker and by the console. Pure: what the host must do is left in [`Wire`].

use super::backoff::{Backoff, End};
use super::down::{Down, PipeOrder};
use super::greeting::{self, Refusal};
use crate::config::Redis;
use crate::ledger::fault::Fault;
use crate::ledger::resp::{self, Value, Values};
use crate::ledger::source::{Script, ScriptRef, Sha, Shas};
use fastrand::Rng;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

/// A connection is given up when no reply came for this long after its oldest command was found late, in ms.
const STUCK_MS: u64 = 50;

/// What the host must do with the connection.
#[derive(Debug, Default)]
pub struct Wire {
    /// To be opened or dropped, before `bytes` are sent.
    pub order: Option<PipeOrder>,
    /// To be sent.
    pub bytes: Vec<u8>,
}

/// A command under way.
#[derive(Debug)]
pub struct Sent<C> {
    /// The command.
    pub command: C,
    /// When it was sent, in ms.
    pub sent_ms: u64,
    /// How often it was sent before.
    pub tries: u8,
}

impl<C> Sent<C> {
    fn map<D>(self, change: impl FnOnce(C) -> D) -> Sent<D> {
        Sent {
            command: change(self.command),
            sent_ms: self.sent_ms,
            tries: self.tries,
        }
    }
}

/// What a reply, or the lack of one, means to the owner of the connection.
#[derive(Debug)]
pub enum Event<C> {
    /// The greeting was accepted: commands may be sent.
    Greeted,
    /// This command was answered; [`Reader::reply`] is the answer.
    Reply(Sent<C>),
    /// The connection is of no use: the owner must [`Connection::lose`] it.
    Broken(Down),
}

/// What is left of a connection that was lost.
#[derive(Debug)]
pub struct Loss<C> {
    /// Why, in the light of what the server last said.
    pub why: Down,
    /// The server's words, where they are the reason.
    pub refusal: Option<Refusal>,
    /// Whether it had served.
    pub served: bool,
    /// Whether no connection of this owner has ever served: then the way to Redis may be at fault.
    pub never_served: bool,
    /// Commands without a reply, in order.
    pub sent: Vec<Sent<C>>,
}

/// Bytes from the other side, read reply by reply.
#[derive(Debug)]
pub struct Reader<'a> {
    source: Cow<'a, [u8]>,
    reply: Range<usize>,
}

impl Reader<'_> {
    /// The reply that was read last.
    #[must_use]
    pub fn reply(&self) -> &[u8] {
        self.source.get(self.reply.clone()).unwrap_or_default()
    }

    fn rest(&self) -> &[u8] {
        self.source.get(self.reply.end..).unwrap_or_default()
    }

    fn advance(&mut self, length: usize) {
        let start = self.reply.end;
        self.reply = start..start.saturating_add(length);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody needs it; it is not opened before this time, in ms.
    Closed { until_ms: u64 },
    /// To be opened at this time, in ms.
    Waiting { until_ms: u64 },
    /// Ordered from the host.
    Ordered,
    /// Open; the greeting is under way.
    Greeting,
    /// The greeting was accepted, and the owner prepares.
    Greeted,
    /// Serving.
    Ready,
}

/// A command of the greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    Auth,
    Select,
    SetName,
    Load(Script),
    Version,
}

/// A command of the greeting or of the owner.
#[derive(Debug)]
enum Asked<C> {
    Greeting(Greeting),
    Command(C),
}

impl<C> Asked<C> {
    /// The name of the command in a refusal.
    fn name(&self) -> &'static str {
        match self {
            Self::Greeting(Greeting::Auth) => greeting::AUTH,
            Self::Greeting(Greeting::Select) => greeting::SELECT,
            Self::Greeting(Greeting::SetName) => greeting::SET_NAME,
            Self::Greeting(Greeting::Load(_) | Greeting::Version) => greeting::LOAD,
            Self::Command(_) => "a command",
        }
    }
}

/// A connection whose owner sends commands of type `C`.
#[derive(Debug)]
pub struct Connection<C> {
    /// The scripts that the greeting loads.
    scripts: &'static [Script],
    /// Whether a lost connection is opened again even when nobody asks for it.
    stays: bool,
    state: State,
    backoff: Backoff,
    /// What the server last said against the greeting, or against this connection.
    refusal: Option<Refusal>,
    /// When the oldest command was first found to have waited for too long, in ms; `None` after any reply.
    stuck_ms: Option<u64>,
    sent: VecDeque<Sent<Asked<C>>>,
    inbox: Vec<u8>,
    shas: Shas,
    ready_ms: u64,
    /// How often it became ready.
    served: u64,
    /// Whether a server ever answered with an error of its own: then there is one.
    answered: bool,
    wire: Wire,
}

impl<C> Connection<C> {
    /// Opens nothing yet. `stays`: after a loss it is opened again even when nobody asks for it.
    #[must_use]
    pub fn new(scripts: &'static [Script], stays: bool) -> Self {
        Self {
            scripts,
            stays,
            state: State::Closed { until_ms: 0 },
            backoff: Backoff::default(),
            refusal: None,
            stuck_ms: None,
            sent: VecDeque::new(),
            inbox: Vec::new(),
            shas: Shas([[b'0'; 40]; Script::ALL.len()]),
            ready_ms: 0,
            served: 0,
            answered: false,
            wire: Wire::default(),
        }
    }

    /// What the host must do.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Whether the host has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.wire.bytes.is_empty() || self.wire.order.is_some()
    }

    /// Whether commands of the owner's business may be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether the connection is needed and does not serve.
    #[must_use]
    pub fn is_down(&self) -> bool {
        !matches!(self.state, State::Ready | State::Closed { .. })
    }

    /// Whether the greeting was accepted, and [`Connection::serve`] was not called so far.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.state == State::Greeted
    }

    /// Whether the host has it open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self.state {
            State::Greeting | State::Greeted | State::Ready => true,
            State::Closed { .. } | State::Waiting { .. } | State::Ordered => false,
        }
    }

    /// How many attempts in a row have failed since it last served for a while.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.backoff.failures()
    }

    /// When it last became ready, in ms.
    #[must_use]
    pub fn ready_ms(&self) -> u64 {
        self.ready_ms
    }

    /// Whether another connection served before this one.
    #[must_use]
    pub fn is_reopened(&self) -> bool {
        self.served > 1
    }

    /// How many commands wait for their reply, the greeting's included.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.sent.len()
    }

    /// The owner's commands that wait for their reply, in order.
    pub fn commands(&self) -> impl Iterator<Item = &C> {
        self.sent.iter().filter_map(|sent| match &sent.command {
            Asked::Command(command) => Some(command),
            Asked::Greeting(_) => None,
        })
    }

    /// Whether nothing is under way but commands that nobody waits for.
    #[must_use]
    pub fn is_quiet(&self, unimportant: impl Fn(&C) -> bool) -> bool {
        self.sent.iter().all(|sent| match &sent.command {
            Asked::Command(command) => unimportant(command),
            Asked::Greeting(_) => false,
        })
    }

    /// Opens the connection soon, if it is not open. Returns whether to wait for it: `false` right after a failure.
    pub fn want(&mut self, now_ms: u64) -> bool {
        match self.state {
            State::Closed { until_ms } if now_ms < until_ms && self.failures() > 0 => false,
            State::Closed { until_ms } => {
                let until_ms = until_ms.max(now_ms);
                self.state = State::Waiting { until_ms };
                true
            }
            State::Waiting { .. }
            | State::Ordered
            | State::Greeting
            | State::Greeted
            | State::Ready => true,
        }
    }

    /// When [`Connection::on_tick`] is wanted next, in ms.
    #[must_use]
    pub fn next_wake_ms(&self, redis: &Redis) -> Option<u64> {
        match self.state {
            State::Waiting { until_ms } => Some(until_ms),
            State::Closed { .. } | State::Ordered => None,
            State::Greeting | State::Greeted | State::Ready => match self.stuck_ms {
                Some(since_ms) => Some(since_ms.saturating_add(STUCK_MS)),
                None => self
                    .sent
                    .front()
                    .map(|sent| sent.sent_ms.saturating_add(redis.command_timeout_ms)),
            },
        }
    }

    /// Orders the connection when that is due. Returns why it must be given up, if it must.
    pub fn on_tick(&mut self, now_ms: u64, redis: &Redis) -> Option<Down> {
        // The host may not have dropped the last one so far.
        if let State::Waiting { until_ms } = self.state
            && until_ms <= now_ms
            && self.wire.order.is_none()
        {
            self.state = State::Ordered;
            self.wire.order = Some(PipeOrder::Open);
        }
        let late = |sent: &Sent<_>| now_ms.saturating_sub(sent.sent_ms) >= redis.command_timeout_ms;
        let stuck = self.is_open() && self.sent.front().is_some_and(late);
        // After this worker stood still itself, replies may lie unread: they take a few rounds of the event loop to get in.
        let since_ms = self.stuck_ms.filter(|_| stuck);
        if since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= STUCK_MS) {
            self.stuck_ms = None;
            return Some(Down::Stuck);
        }
        self.stuck_ms = stuck.then(|| since_ms.unwrap_or(now_ms));
        None
    }

    /// The host opened it: the greeting goes out.
    pub fn on_open(&mut self, now_ms: u64, redis: &Redis) {
        self.state = State::Greeting;
        self.refusal = None;
        if !redis.password.0.is_empty() {
            greeting::auth(&mut self.wire.bytes, redis);
            self.ask(now_ms, Greeting::Auth);
        }
        if redis.database != 0 {
            greeting::select(&mut self.wire.bytes, redis);
            self.ask(now_ms, Greeting::Select);
        }
        greeting::set_name(&mut self.wire.bytes);
        self.ask(now_ms, Greeting::SetName);
    }

    /// The owner has prepared itself: from now on the connection serves.
    pub fn serve(&mut self, now_ms: u64) {
        self.state = State::Ready;
        self.ready_ms = now_ms;
        self.served = self.served.saturating_add(1);
        self.refusal = None;
    }

    fn ask(&mut self, sent_ms: u64, greeting: Greeting) {
        self.sent.push_back(Sent {
            command: Asked::Greeting(greeting),
            sent_ms,
            tries: 0,
        });
    }

    /// Sends a command by its script's digest, or with its source where the server lacks it.
    pub fn send(
        &mut self,
        sent: Sent<C>,
        with_source: bool,
        write: impl FnOnce(&C, &mut Vec<u8>, ScriptRef),
    ) {
        let script = if with_source {
            ScriptRef::Source
        } else {
            ScriptRef::Sha(&self.shas)
        };
        write(&sent.command, &mut self.wire.bytes, script);
        self.sent.push_back(sent.map(Asked::Command));
    }

    /// Takes back a command whose reply did not fit it: it is lost together with the connection.
    pub fn put_back(&mut self, sent: Sent<C>) {
        self.sent.push_front(sent.map(Asked::Command));
    }

    /// Begins to read bytes, cut anywhere; each event is then taken by [`Connection::read`].
    pub fn reader<'a>(&mut self, bytes: &'a [u8]) -> Reader<'a> {
        // The usual case, whole replies and nothing left over from before, is read where it lies.
        let source = if self.inbox.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            let mut inbox = std::mem::take(&mut self.inbox);
            inbox.extend_from_slice(bytes);
            Cow::Owned(inbox)
        };
        Reader {
            source,
            reply: 0..0,
        }
    }

    /// The next event in the bytes; `None`: there is none, or the connection was lost.
    pub fn read(&mut self, now_ms: u64, redis: &Redis, reader: &mut Reader) -> Option<Event<C>> {
        while self.is_open() {
            match resp::reply_length(reader.rest()) {
                Ok(Some(length)) => reader.advance(length),
                Ok(None) if reader.rest().len() <= resp::MAX_REPLY => {
                    self.inbox = reader.rest().to_vec();
                    return None;
                }
                Ok(None) | Err(_) => return Some(Event::Broken(Down::Mismatch)),
            }
            self.stuck_ms = None;
            let Some(sent) = self.sent.pop_front() else {
                return Some(Event::Broken(Down::Mismatch));
            };
            let reply = reader.reply();
            if self.state != State::Ready || reply.first() == Some(&b'-') {
                self.note_refusal(&sent.command, reply, redis);
            }
            let event = match sent.command {
                Asked::Command(command) => Some(Event::Reply(Sent {
                    command,
                    sent_ms: sent.sent_ms,
                    tries: sent.tries,
                })),
                Asked::Greeting(asked) => self.on_greeting_reply(now_ms, asked, reply),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// Keeps the server's words until its next reply.
    #[inline(never)]
    fn note_refusal(&mut self, asked: &Asked<C>, reply: &[u8], redis: &Redis) {
        // The version belongs to the refusal before it.
        if matches!(asked, Asked::Greeting(Greeting::Version)) {
            return;
        }
        let opening = self.state != State::Ready;
        self.answered |= reply.first() == Some(&b'-');
        self.refusal = match Values::new(reply).value() {
            // Any other is an error of the moment.
            Some(Value::Error(error)) if opening || Fault::of(error).is_wrong_server() => {
                Some(Refusal::new(asked.name(), error, &redis.password.0))
            }
            Some(_) | None => None,
        };
    }

    fn on_greeting_reply(
        &mut self,
        now_ms: u64,
        asked: Greeting,
        reply: &[u8],
    ) -> Option<Event<C>> {
        let refusal = self.refusal.as_ref();
        let turned_away = refusal.is_some_and(Refusal::turned_away);
        let wants_login = refusal.is_some_and(Refusal::wants_login);
        let value = Values::new(reply).value();
        let is_ok = value == Some(Value::Simple(b"OK"));
        let (accepted, otherwise) = match asked {
            Greeting::Auth => (is_ok, Down::Auth),
            Greeting::Select => (is_ok, Down::Select),
            // Redis drops who sends more than 16 kB before it has logged in, and with it its own error. So the scripts wait
            // for the first reply. What the name itself comes to does not matter: what stands between us and Redis may not
            // know the command.
            Greeting::SetName if turned_away || wants_login => (false, Down::Auth),
            Greeting::SetName => {
                for script in self.scripts {
                    greeting::load(&mut self.wire.bytes, *script);
                    self.ask(now_ms, Greeting::Load(*script));
                }
                (true, Down::Load)
            }
            Greeting::Load(_) if refusal.is_some_and(Refusal::is_too_old) => {
                let version =
                    |sent: &Sent<_>| matches!(sent.command, Asked::Greeting(Greeting::Version));
                if !self.sent.iter().any(version) {
                    greeting::version(&mut self.wire.bytes);
                    self.ask(now_ms, Greeting::Version);
                }
                return None;
            }
            Greeting::Version => {
                if let Some(refusal) = &mut self.refusal {
                    refusal.set_version(reply);
                }
                return Some(Event::Broken(Down::Load));
            }
            Greeting::Load(script) => (self.is_loaded(script, value), wrong_server(value)),
        };
        if !accepted {
            return Some(Event::Broken(match (turned_away, wants_login) {
                (true, _) => Down::Refused,
                (false, true) => Down::Auth,
                (false, false) => otherwise,
            }));
        }
        if !self.sent.is_empty() {
            return None;
        }
        self.state = State::Greeted;
        Some(Event::Greeted)
    }

    /// Takes a script's digest. Returns whether the reply is one.
    fn is_loaded(&mut self, script: Script, value: Option<Value>) -> bool {
        let Some(Value::Bulk(sha)) = value else {
            return false;
        };
        let places = Script::ALL.iter().zip(&mut self.shas.0);
        let place = places.into_iter().find(|(other, _)| **other == script);
        match (Sha::try_from(sha), place) {
            (Ok(sha), Some((_, place))) => {
                *place = sha;
                true
            }
            (Ok(_) | Err(_), _) => false,
        }
    }

    /// The connection is gone, or given up. Returns all that was under way; it is opened again after a while.
    pub fn lose(&mut self, now_ms: u64, why: Down, random: &mut Rng) -> Loss<C> {
        if !matches!(why, Down::Closed | Down::Unopened) {
            self.wire.order = Some(PipeOrder::Reset);
        }
        let served = self.state == State::Ready;
        let (why, refusal) = self.refusal_for(why);
        let end = match (served, why) {
            (false, _) => End::Unserved,
            (true, Down::Closed) => End::Closed,
            (true, _) => End::Dropped {
                keeps: matches!(why, Down::WrongServer(_)),
            },
        };
        let served_ms = now_ms.saturating_sub(self.ready_ms);
        let wait_ms = self.backoff.wait_ms(end, served_ms, random);
        let until_ms = now_ms.saturating_add(wait_ms);
        self.state = if self.stays {
            State::Waiting { until_ms }
        } else {
            State::Closed { until_ms }
        };
        self.stuck_ms = None;
        self.inbox.clear();
        self.wire.bytes.clear();
        let sent = std::mem::take(&mut self.sent).into_iter();
        let sent = sent.filter_map(|sent| match sent.command {
            Asked::Command(command) => Some(Sent {
                command,
                sent_ms: sent.sent_ms,
                tries: sent.tries,
            }),
            Asked::Greeting(_) => None,
        });
        Loss {
            why,
            refusal,
            served,
            never_served: self.served == 0 && !self.answered,
            sent: sent.collect(),
        }
    }

    /// The reason in the light of what the server last said, and its words where they are the reason.
    fn refusal_for(&mut self, why: Down) -> (Down, Option<Refusal>) {
        let opening = self.state != State::Ready;
        match (why, self.refusal.take()) {
            // It did not say its version.
            (Down::Closed | Down::Stuck, Some(refusal)) if refusal.is_too_old() => {
                (Down::Load, Some(refusal))
            }
            (Down::Closed, Some(mut refusal)) if opening => {
                refusal.set_closed();
                (Down::Refused, Some(refusal))
            }
            (Down::Closed | Down::Unopened | Down::Stuck | Down::Mismatch, _) => (why, None),
            (
                Down::Auth | Down::Select | Down::Load | Down::WrongServer(_) | Down::Refused,
                refusal,
            ) => (why, refusal),
        }
    }

    /// Whether the host may report the connection as closed: it was ordered, and was not lost already.
    #[must_use]
    pub fn can_close(&self) -> bool {
        self.state == State::Ordered || self.is_open()
    }
}

/// Why the connection is of no use when a script was not loaded.
fn wrong_server(value: Option<Value>) -> Down {
    match value {
        Some(Value::Error(error)) if Fault::of(error).is_wrong_server() => {
            Down::WrongServer(Fault::of(error))
        }
        Some(_) | None => Down::Load,
    }
}
