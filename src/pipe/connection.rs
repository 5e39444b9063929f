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

/// How a message of a channel begins.
const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n";

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

/// What a reply, or the lack of one, means to the owner of the connection.
#[derive(Debug)]
pub enum Event<C> {
    /// The greeting was accepted: commands may be sent.
    Greeted,
    /// This command was answered; [`Reader::reply`] is the answer.
    Reply(Sent<C>),
    /// Something was said on a channel; [`Reader::reply`] has it. Only where the connection listens.
    Message,
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

impl Greeting {
    /// The name of the command in a refusal.
    fn name(self) -> &'static str {
        match self {
            Self::Auth => greeting::AUTH,
            Self::Select => greeting::SELECT,
            Self::SetName => greeting::SET_NAME,
            Self::Load(_) | Self::Version => greeting::LOAD,
        }
    }
}

/// The meaning of a reply.
enum Read {
    /// There is none, or not a whole one.
    Nothing,
    /// The greeting was accepted.
    Greeted,
    /// It is for the oldest of the owner's commands.
    Reply,
    /// It is for no command: something was said on a channel.
    Message,
    Broken(Down),
}

/// A connection whose owner sends commands of type `C`.
#[derive(Debug)]
pub struct Connection<C> {
    link: Link,
    /// The owner's commands that wait for their reply. None is sent during the greeting, so they all follow it.
    sent: VecDeque<Sent<C>>,
}

/// A connection whatever its owner sends: compiled once for all owners.
#[derive(Debug)]
struct Link {
    /// The scripts that the greeting loads.
    scripts: &'static [Script],
    /// Whether a lost connection is opened again even when nobody asks for it.
    stays: bool,
    /// Whether messages of channels may come, which answer no command.
    listens: bool,
    state: State,
    backoff: Backoff,
    /// What the server last said against the greeting, or against this connection.
    refusal: Option<Refusal>,
    /// When the oldest command was first found to have waited for too long, in ms; `None` after any reply.
    stuck_ms: Option<u64>,
    /// Commands of the greeting that wait for their reply, and when each was sent, in ms.
    greeting: VecDeque<(Greeting, u64)>,
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
            link: Link::new(scripts, stays),
            sent: VecDeque::new(),
        }
    }

    /// One that listens to channels, and runs no scripts. After a loss it is opened again when somebody asks for it.
    #[must_use]
    pub fn listening() -> Self {
        let mut connection = Self::new(&[], false);
        connection.link.listens = true;
        connection
    }

    /// What the host must do.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.link.wire
    }

    /// Whether the host has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.link.wire.bytes.is_empty() || self.link.wire.order.is_some()
    }

    /// Whether commands of the owner's business may be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.link.state == State::Ready
    }

    /// Whether the connection is needed and does not serve.
    #[must_use]
    pub fn is_down(&self) -> bool {
        !matches!(self.link.state, State::Ready | State::Closed { .. })
    }

    /// Whether the greeting was accepted, and [`Connection::serve`] was not called so far.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.link.state == State::Greeted
    }

    /// Whether the host has it open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.link.is_open()
    }

    /// How many attempts in a row have failed since it last served for a while.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.link.backoff.failures()
    }

    /// When it last became ready, in ms.
    #[must_use]
    pub fn ready_ms(&self) -> u64 {
        self.link.ready_ms
    }

    /// Whether another connection served before this one.
    #[must_use]
    pub fn is_reopened(&self) -> bool {
        self.link.served > 1
    }

    /// How many commands wait for their reply, the greeting's included.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.link.greeting.len().saturating_add(self.sent.len())
    }

    /// The owner's commands that wait for their reply, in order.
    pub fn commands(&self) -> impl Iterator<Item = &C> {
        self.sent.iter().map(|sent| &sent.command)
    }

    /// Whether nothing is under way but commands that nobody waits for.
    #[must_use]
    pub fn is_quiet(&self, unimportant: impl Fn(&C) -> bool) -> bool {
        self.link.greeting.is_empty() && self.commands().all(unimportant)
    }

    /// Opens the connection soon, if it is not open. Returns whether to wait for it: `false` right after a failure.
    pub fn want(&mut self, now_ms: u64) -> bool {
        self.link.want(now_ms)
    }

    /// When the oldest of the owner's commands was sent, in ms.
    fn oldest_ms(&self) -> Option<u64> {
        self.sent.front().map(|sent| sent.sent_ms)
    }

    /// When [`Connection::on_tick`] is wanted next, in ms.
    #[must_use]
    pub fn next_wake_ms(&self, redis: &Redis) -> Option<u64> {
        self.link.next_wake_ms(redis, self.oldest_ms())
    }

    /// Orders the connection when that is due. Returns why it must be given up, if it must.
    pub fn on_tick(&mut self, now_ms: u64, redis: &Redis) -> Option<Down> {
        let oldest_ms = self.oldest_ms();
        self.link.on_tick(now_ms, redis, oldest_ms)
    }

    /// The host opened it: the greeting goes out.
    pub fn on_open(&mut self, now_ms: u64, redis: &Redis) {
        self.link.on_open(now_ms, redis);
    }

    /// The owner has prepared itself: from now on the connection serves.
    pub fn serve(&mut self, now_ms: u64) {
        self.link.serve(now_ms);
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
            ScriptRef::Sha(&self.link.shas)
        };
        write(&sent.command, &mut self.link.wire.bytes, script);
        self.sent.push_back(sent);
    }

    /// Takes back a command whose reply did not fit it: it is lost together with the connection.
    pub fn put_back(&mut self, sent: Sent<C>) {
        self.sent.push_front(sent);
    }

    /// Begins to read bytes, cut anywhere; each event is then taken by [`Connection::read`].
    pub fn reader<'a>(&mut self, bytes: &'a [u8]) -> Reader<'a> {
        self.link.reader(bytes)
    }

    /// The next event in the bytes; `None`: there is none, or the connection was lost.
    pub fn read(&mut self, now_ms: u64, redis: &Redis, reader: &mut Reader) -> Option<Event<C>> {
        let waits = !self.sent.is_empty();
        match self.link.read(now_ms, redis, reader, waits) {
            Read::Nothing => None,
            Read::Greeted => Some(Event::Greeted),
            Read::Message => Some(Event::Message),
            Read::Broken(why) => Some(Event::Broken(why)),
            Read::Reply => self.sent.pop_front().map(Event::Reply),
        }
    }

    /// The connection is gone, or given up. Returns all that was under way; it is opened again after a while.
    pub fn lose(&mut self, now_ms: u64, why: Down, random: &mut Rng) -> Loss<C> {
        let never_served = self.link.served == 0 && !self.link.answered;
        let (why, refusal, served) = self.link.lose(now_ms, why, random);
        Loss {
            why,
            refusal,
            served,
            never_served,
            sent: std::mem::take(&mut self.sent).into(),
        }
    }

    /// Whether the host may report the connection as closed: it was ordered, and was not lost already.
    #[must_use]
    pub fn can_close(&self) -> bool {
        self.link.state == State::Ordered || self.is_open()
    }
}

impl Link {
    fn new(scripts: &'static [Script], stays: bool) -> Self {
        Self {
            scripts,
            stays,
            listens: false,
            state: State::Closed { until_ms: 0 },
            backoff: Backoff::default(),
            refusal: None,
            stuck_ms: None,
            greeting: VecDeque::new(),
            inbox: Vec::new(),
            shas: Shas([[b'0'; 40]; Script::ALL.len()]),
            ready_ms: 0,
            served: 0,
            answered: false,
            wire: Wire::default(),
        }
    }

    fn is_open(&self) -> bool {
        match self.state {
            State::Greeting | State::Greeted | State::Ready => true,
            State::Closed { .. } | State::Waiting { .. } | State::Ordered => false,
        }
    }

    fn want(&mut self, now_ms: u64) -> bool {
        match self.state {
            State::Closed { until_ms } if now_ms < until_ms && self.backoff.failures() > 0 => false,
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

    /// When the oldest command was sent, in ms; `commands_ms`: the same of the owner's.
    fn oldest_ms(&self, commands_ms: Option<u64>) -> Option<u64> {
        let greeting = self.greeting.front().map(|(_, sent_ms)| *sent_ms);
        greeting.or(commands_ms)
    }

    fn next_wake_ms(&self, redis: &Redis, commands_ms: Option<u64>) -> Option<u64> {
        match self.state {
            State::Waiting { until_ms } => Some(until_ms),
            State::Closed { .. } | State::Ordered => None,
            State::Greeting | State::Greeted | State::Ready => match self.stuck_ms {
                Some(since_ms) => Some(since_ms.saturating_add(STUCK_MS)),
                None => self
                    .oldest_ms(commands_ms)
                    .map(|sent_ms| sent_ms.saturating_add(redis.command_timeout_ms)),
            },
        }
    }

    fn on_tick(&mut self, now_ms: u64, redis: &Redis, commands_ms: Option<u64>) -> Option<Down> {
        // The host may not have dropped the last one so far.
        if let State::Waiting { until_ms } = self.state
            && until_ms <= now_ms
            && self.wire.order.is_none()
        {
            self.state = State::Ordered;
            self.wire.order = Some(PipeOrder::Open);
        }
        let late = |sent_ms| now_ms.saturating_sub(sent_ms) >= redis.command_timeout_ms;
        let stuck = self.is_open() && self.oldest_ms(commands_ms).is_some_and(late);
        // After this worker stood still itself, replies may lie unread: they take a few rounds of the event loop to get in.
        let since_ms = self.stuck_ms.filter(|_| stuck);
        if since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= STUCK_MS) {
            self.stuck_ms = None;
            return Some(Down::Stuck);
        }
        self.stuck_ms = stuck.then(|| since_ms.unwrap_or(now_ms));
        None
    }

    fn on_open(&mut self, now_ms: u64, redis: &Redis) {
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

    fn serve(&mut self, now_ms: u64) {
        self.state = State::Ready;
        self.ready_ms = now_ms;
        self.served = self.served.saturating_add(1);
        self.refusal = None;
    }

    fn ask(&mut self, sent_ms: u64, greeting: Greeting) {
        self.greeting.push_back((greeting, sent_ms));
    }

    fn reader<'a>(&mut self, bytes: &'a [u8]) -> Reader<'a> {
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

    /// Reads the next reply; `waits`: whether a command of the owner waits for one.
    fn read(&mut self, now_ms: u64, redis: &Redis, reader: &mut Reader, waits: bool) -> Read {
        while self.is_open() {
            match resp::reply_length(reader.rest()) {
                Ok(Some(length)) => reader.advance(length),
                Ok(None) if reader.rest().len() <= resp::MAX_REPLY => {
                    self.inbox = reader.rest().to_vec();
                    return Read::Nothing;
                }
                Ok(None) | Err(_) => return Read::Broken(Down::Mismatch),
            }
            self.stuck_ms = None;
            if self.listens && reader.reply().starts_with(MESSAGE) {
                return Read::Message;
            }
            let greeting = self.greeting.pop_front().map(|(greeting, _)| greeting);
            if greeting.is_none() && !waits {
                return Read::Broken(Down::Mismatch);
            }
            let reply = reader.reply();
            if self.state != State::Ready || reply.first() == Some(&b'-') {
                self.note_refusal(greeting, reply, redis);
            }
            let Some(greeting) = greeting else {
                return Read::Reply;
            };
            if let Some(event) = self.on_greeting_reply(now_ms, greeting, reply) {
                return event;
            }
        }
        Read::Nothing
    }

    /// Keeps the server's words until its next reply. `asked`: the command of the greeting that it is for, if any.
    #[inline(never)]
    fn note_refusal(&mut self, asked: Option<Greeting>, reply: &[u8], redis: &Redis) {
        // The version belongs to the refusal before it.
        if asked == Some(Greeting::Version) {
            return;
        }
        let opening = self.state != State::Ready;
        self.answered |= reply.first() == Some(&b'-');
        self.refusal = match Values::new(reply).value() {
            // Any other is an error of the moment.
            Some(Value::Error(error)) if opening || Fault::of(error).is_wrong_server() => {
                let name = asked.map_or("a command", Greeting::name);
                Some(Refusal::new(name, error, &redis.password.0))
            }
            Some(_) | None => None,
        };
    }

    /// Goes on with the greeting; `None`: it waits for more replies.
    fn on_greeting_reply(&mut self, now_ms: u64, asked: Greeting, reply: &[u8]) -> Option<Read> {
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
                let version = |(asked, _): &(Greeting, u64)| *asked == Greeting::Version;
                if !self.greeting.iter().any(version) {
                    greeting::version(&mut self.wire.bytes);
                    self.ask(now_ms, Greeting::Version);
                }
                return None;
            }
            Greeting::Version => {
                if let Some(refusal) = &mut self.refusal {
                    refusal.set_version(reply);
                }
                return Some(Read::Broken(Down::Load));
            }
            Greeting::Load(script) => (self.is_loaded(script, value), wrong_server(value)),
        };
        if !accepted {
            return Some(Read::Broken(match (turned_away, wants_login) {
                (true, _) => Down::Refused,
                (false, true) => Down::Auth,
                (false, false) => otherwise,
            }));
        }
        if !self.greeting.is_empty() {
            return None;
        }
        self.state = State::Greeted;
        Some(Read::Greeted)
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

    /// The connection is gone, or given up. Returns why, the server's words where they are the reason, and whether it served.
    fn lose(&mut self, now_ms: u64, why: Down, random: &mut Rng) -> (Down, Option<Refusal>, bool) {
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
        self.greeting.clear();
        (why, refusal, served)
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
