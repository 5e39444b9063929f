//! Grants as they come: a second connection of the worker listens to what scripts say when they hand a slot on to a lease of
//! this worker that waits.
//!
//! It is opened when the first request waits. What is not heard, the next heartbeat finds out (`waiters`).

use crate::config::Redis;
use crate::ledger::resp::{Value, Values, push_command};
use crate::pipe::connection::{Connection, Event, Sent, Wire};
use crate::pipe::down::Down;
use fastrand::Rng;

/// After a server that does not let us listen, it is asked again no sooner than this, in ms.
const REFUSED_MS: u64 = 60_000;

/// The command of this connection: to listen to the channel. Sent again it changes nothing, and its answer shows that the
/// connection is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subscribe;

/// The connection.
#[derive(Debug)]
pub(super) struct Grants {
    connection: Connection<Subscribe>,
    channel: String,
    /// The server does not let us listen until then, in ms.
    refused_until_ms: u64,
}

impl Grants {
    pub(super) fn new(channel: String) -> Self {
        Self {
            connection: Connection::listening(),
            channel,
            refused_until_ms: 0,
        }
    }

    pub(super) fn wire(&mut self) -> &mut Wire {
        self.connection.wire()
    }

    pub(super) fn has_work(&self) -> bool {
        self.connection.has_work()
    }

    /// Whether grants are heard.
    pub(super) fn listens(&self) -> bool {
        self.connection.is_ready()
    }

    pub(super) fn next_wake_ms(&self, redis: &Redis) -> Option<u64> {
        self.connection.next_wake_ms(redis)
    }

    /// Somebody waits: listens, and sees whether it still does.
    pub(super) fn want(&mut self, now_ms: u64) {
        if now_ms < self.refused_until_ms {
            return;
        }
        self.connection.want(now_ms);
        if self.listens() && self.connection.under_way() == 0 {
            self.send(now_ms);
        }
    }

    fn send(&mut self, sent_ms: u64) {
        let sent = Sent {
            command: Subscribe,
            sent_ms,
            tries: 0,
        };
        let channel = self.channel.as_bytes();
        self.connection.send(sent, false, |Subscribe, out, _| {
            push_command(out, &[b"SUBSCRIBE", channel]);
        });
    }

    pub(super) fn on_tick(&mut self, now_ms: u64, redis: &Redis, random: &mut Rng) {
        if let Some(why) = self.connection.on_tick(now_ms, redis) {
            self.lose(now_ms, why, random);
        }
    }

    pub(super) fn on_open(&mut self, now_ms: u64, redis: &Redis) {
        self.connection.on_open(now_ms, redis);
    }

    pub(super) fn on_closed(&mut self, now_ms: u64, why: Down, random: &mut Rng) {
        if self.connection.can_close() {
            self.lose(now_ms, why, random);
        }
    }

    fn lose(&mut self, now_ms: u64, why: Down, random: &mut Rng) {
        self.connection.lose(now_ms, why, random);
    }

    /// Bytes from Redis, cut anywhere; the text of each message among them is given to `heard`.
    pub(super) fn on_bytes(
        &mut self,
        now_ms: u64,
        (redis, random): (&Redis, &mut Rng),
        bytes: &[u8],
        mut heard: impl FnMut(&[u8]),
    ) {
        let mut reader = self.connection.reader(bytes);
        while let Some(event) = self.connection.read(now_ms, redis, &mut reader) {
            match event {
                Event::Greeted => self.send(now_ms),
                // Whoever stands between us and Redis may know no channels, or a user may have no right to them.
                Event::Reply(_) if is_error(reader.reply()) => {
                    self.refused_until_ms = now_ms.saturating_add(REFUSED_MS);
                    self.lose(now_ms, Down::Refused, random);
                }
                Event::Reply(_) if self.listens() => {}
                Event::Reply(_) => self.connection.serve(now_ms),
                Event::Message => {
                    if let Some(text) = message(reader.reply()) {
                        heard(text);
                    }
                }
                Event::Broken(why) => self.lose(now_ms, why, random),
            }
        }
    }
}

fn is_error(reply: &[u8]) -> bool {
    matches!(Values::new(reply).value(), Some(Value::Error(_)))
}

/// The text of `message <channel> <text>`.
fn message(reply: &[u8]) -> Option<&[u8]> {
    let mut values = Values::new(reply);
    let Some(Value::Array(3)) = values.value() else {
        return None;
    };
    values.bulk()?;
    values.bulk()?;
    values.bulk()
}
