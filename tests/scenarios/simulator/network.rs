//! The network between the workers and the ledger: two connections for each worker, one for commands and one on which it
//! hears of grants.

use super::ledger::text;
use super::run::{Event, Simulation};
use super::{STRAY_MS, WORKERS};
use fastrand::Rng;
use slotgate::ledger::resp::{Value, Values, reply_length};
use slotgate::pipe::connection::Wire;
use slotgate::pipe::down::PipeOrder;
use slotgate::worker::Worker;

/// Which of a worker's connections.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Way {
    Pipe,
    /// On which grants are heard.
    Grants,
}

impl Way {
    pub(super) const ALL: [Self; 2] = [Self::Pipe, Self::Grants];

    fn wire(self, worker: &mut Worker) -> &mut Wire {
        match self {
            Self::Pipe => worker.wire(),
            Self::Grants => worker.grants_wire(),
        }
    }

    pub(super) fn open(self, worker: &mut Worker, now_ms: u64) {
        match self {
            Self::Pipe => worker.on_pipe_open(now_ms),
            Self::Grants => worker.on_grants_open(now_ms),
        }
    }

    pub(super) fn close(self, worker: &mut Worker, now_ms: u64) {
        match self {
            Self::Pipe => worker.on_pipe_closed(now_ms),
            Self::Grants => worker.on_grants_closed(now_ms),
        }
    }

    pub(super) fn bytes(self, worker: &mut Worker, now_ms: u64, bytes: &[u8]) {
        match self {
            Self::Pipe => worker.on_pipe_bytes(now_ms, bytes),
            Self::Grants => worker.on_grants_bytes(now_ms, bytes),
        }
    }
}

/// A worker's end of one way.
#[derive(Default)]
pub(super) struct Line {
    /// The connection in use; 0: none.
    pub(super) connection: u64,
    /// Since when it is open, in ms.
    pub(super) since_ms: u64,
    /// When the last bytes of each direction arrive: nothing overtakes on one connection.
    arrives_ms: [u64; 2],
    /// Nothing gets through any more, and neither end knows.
    pub(super) is_mute: bool,
}

/// What goes wrong with connections in one run, as events.
pub(super) fn faults(random: &mut Rng, traffic_ms: u64, queues: bool) -> Vec<(u64, Event)> {
    let mut faults = Vec::new();
    for way in Way::ALL {
        for _ in 0..random.u64(..if queues { 8 } else { 12 }) {
            let reset = Event::Reset(random.usize(..WORKERS), way);
            faults.push((random.u64(..traffic_ms), reset));
        }
    }
    for _ in 0..random.u64(..3) {
        let mute = Event::Mute(random.usize(..WORKERS));
        faults.push((random.u64(..traffic_ms), mute));
    }
    faults
}

impl Simulation {
    /// Mostly quick, at times slower than an acquire may be.
    fn delay(&mut self) -> u64 {
        if self.random.u8(..20) == 0 {
            self.random.u64(..120)
        } else {
            self.random.u64(..4)
        }
    }

    pub(super) fn line(&mut self, place: usize, way: Way) -> &mut Line {
        &mut self.hosts[place].lines[way as usize]
    }

    /// Whether a worker's pipe has been the same one since then, and was open for a while.
    pub(super) fn is_pipe_since(&self, place: usize, at_ms: u64) -> bool {
        let line = &self.hosts[place].lines[Way::Pipe as usize];
        line.connection != 0 && line.since_ms <= at_ms
    }

    /// Since when a worker's pipe is open, in ms.
    pub(super) fn serves_since(&self, place: usize) -> Option<u64> {
        let line = &self.hosts[place].lines[Way::Pipe as usize];
        (line.connection != 0).then_some(line.since_ms)
    }

    /// When something that is sent now arrives. `back`: to the worker.
    fn arrival(&mut self, place: usize, way: Way, back: bool) -> u64 {
        let soon_ms = self.now_ms + self.delay();
        let last_ms = &mut self.line(place, way).arrives_ms[usize::from(back)];
        *last_ms = soon_ms.max(*last_ms);
        *last_ms
    }

    pub(super) fn reply(&mut self, place: usize, way: Way, connection: u64, reply: &[u8]) {
        if connection != self.line(place, way).connection {
            return;
        }
        let cut = self.random.usize(..=reply.len());
        for part in [&reply[..cut], &reply[cut..]] {
            let arrives_ms = self.arrival(place, way, true);
            let event = Event::ToWorker(place, way, connection, part.to_vec());
            self.at(arrives_ms, event);
        }
    }

    /// What the ledger said on channels reaches those who listen, mostly.
    pub(super) fn publish(&mut self) {
        for (channel, said) in std::mem::take(&mut self.ledger.said) {
            let Some(&(place, connection)) = self.ledger.listeners.get(&channel) else {
                continue;
            };
            if self.random.u8(..20) == 0 {
                continue;
            }
            let message = ["message", &channel, &said].map(super::ledger::bulk);
            let message = format!("*3\r\n{}", message.concat());
            self.reply(place, Way::Grants, connection, message.as_bytes());
        }
    }

    /// What was on its way to Redis is lost, or arrives late.
    pub(super) fn drop_connection(&mut self, place: usize, way: Way) {
        self.note_away(place, way);
        let connection = std::mem::take(self.line(place, way)).connection;
        let (mut lost, stray_ms) = (self.random.bool(), self.random.u64(..STRAY_MS));
        let under_way: Vec<_> = self
            .events
            .iter()
            .filter(|(_, event)| matches!(event, Event::ToRedis(_, _, of, _) if *of == connection))
            .map(|(key, _)| *key)
            .collect();
        for key in under_way {
            let event = self.events.remove(&key).unwrap();
            lost |= self.random.u8(..4) == 0;
            if !lost {
                self.at(key.0.min(self.now_ms + 1) + stray_ms, event);
            }
        }
    }

    /// The other side closes a connection, if it is open.
    pub(super) fn cut(&mut self, place: usize, way: Way) {
        if self.line(place, way).connection != 0 {
            self.drop_connection(place, way);
            way.close(&mut self.hosts[place].worker, self.now_ms);
            self.carry_out(place);
        }
    }

    /// Drops the connections that the worker wants dropped.
    pub(super) fn reset(&mut self, place: usize) {
        for way in Way::ALL {
            let order = &mut way.wire(&mut self.hosts[place].worker).order;
            if *order == Some(PipeOrder::Reset) {
                *order = None;
                if self.line(place, way).connection != 0 {
                    self.drop_connection(place, way);
                }
            }
        }
    }

    /// The worker's event loop is done: what it wants of its connections happens.
    pub(super) fn flush(&mut self, place: usize) {
        let host = &mut self.hosts[place];
        host.rung = false;
        host.settled = 0;
        host.worker.flush(self.now_ms);
        self.reset(place);
        for way in Way::ALL {
            let wire = std::mem::take(way.wire(&mut self.hosts[place].worker));
            match wire.order {
                Some(PipeOrder::Open) => self.open(place, way),
                Some(PipeOrder::Reset) | None => self.send(place, way, &wire.bytes),
            }
        }
        self.carry_out(place);
    }

    /// A connection is gone, or could not be opened.
    pub(super) fn note_away(&mut self, place: usize, way: Way) {
        if way == Way::Pipe {
            self.hosts[place].away_ms.get_or_insert(self.now_ms);
        }
    }

    fn open(&mut self, place: usize, way: Way) {
        assert_eq!(self.line(place, way).connection, 0, "one is still open");
        self.connections += 1;
        let connection = self.connections;
        let open_ms = self.now_ms + self.delay();
        let line = self.line(place, way);
        line.connection = connection;
        line.since_ms = open_ms;
        self.at(open_ms, Event::Open(place, way, connection));
    }

    fn send(&mut self, place: usize, way: Way, mut rest: &[u8]) {
        let connection = self.line(place, way).connection;
        while let Some(length) = reply_length(rest).unwrap() {
            let (command, behind) = rest.split_at(length);
            rest = behind;
            let command = words(command);
            self.note_leases(place, &command);
            let arrives_ms = self.arrival(place, way, false);
            let event = Event::ToRedis(place, way, connection, command);
            self.at(arrives_ms, event);
        }
        assert!(rest.is_empty(), "half a command");
    }

    /// What a connection that only listens is told.
    pub(super) fn on_listener(&mut self, place: usize, connection: u64, command: &[Vec<u8>]) {
        let name = text(&command[0]);
        let reply = match name {
            "SUBSCRIBE" if self.ledger.refuses_listeners => {
                "-NOPERM No permissions to access a channel\r\n".to_owned()
            }
            "SUBSCRIBE" => {
                let channel = text(&command[1]).to_owned();
                let words = ["subscribe", &channel].map(super::ledger::bulk).concat();
                self.ledger.listeners.insert(channel, (place, connection));
                format!("*3\r\n{words}:1\r\n")
            }
            "PING" => "*2\r\n$4\r\npong\r\n$0\r\n\r\n".to_owned(),
            _ => "+OK\r\n".to_owned(),
        };
        self.reply(place, Way::Grants, connection, reply.as_bytes());
    }
}

fn words(command: &[u8]) -> Vec<Vec<u8>> {
    let mut values = Values::new(command);
    let Some(Value::Array(count)) = values.value() else {
        panic!("no command")
    };
    (0..count)
        .map(|_| values.bulk().unwrap().to_vec())
        .collect()
}
