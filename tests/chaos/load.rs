//! Steady load on every Envoy, and what became of each request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use support::*;

/// Clients on each Envoy; each has one request at a time.
const LANES: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took a slot.
    Atomic,
    /// The ledger said that all slots are taken.
    Saturated,
    Traditional,
    /// Nobody listened there.
    Refused,
    /// Any other status, a broken response, or none.
    Failed(String),
}

#[derive(Clone, Debug)]
pub struct Record {
    pub envoy: usize,
    pub start: Instant,
    pub end: Instant,
    pub outcome: Outcome,
}

pub struct Load {
    stop: Arc<AtomicBool>,
    records: Arc<Mutex<Vec<Record>>>,
    lanes: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(addrs: &[SocketAddr]) -> Load {
        let (stop, records) = (Arc::default(), Arc::default());
        let number = Arc::new(AtomicUsize::new(0));
        let lanes = (0..addrs.len() * LANES)
            .map(|lane| {
                let envoy = lane % addrs.len();
                spawn(run(
                    envoy,
                    Client::new(addrs[envoy]),
                    Arc::clone(&number),
                    Arc::clone(&stop),
                    Arc::clone(&records),
                ))
            })
            .collect();
        Load {
            stop,
            records,
            lanes,
        }
    }

    /// What has ended so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap().clone()
    }

    /// Waits for the requests under way.
    pub fn stop(self) -> Vec<Record> {
        self.stop.store(true, Ordering::Relaxed);
        wait(async {
            for lane in self.lanes {
                lane.await.expect("a lane panicked");
            }
        });
        std::mem::take(&mut *self.records.lock().unwrap())
    }
}

async fn run(
    envoy: usize,
    client: Client,
    number: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    records: Arc<Mutex<Vec<Record>>>,
) {
    while !stop.load(Ordering::Relaxed) {
        // One stream among seven short ones.
        let path = match number.fetch_add(1, Ordering::Relaxed) % 8 {
            0 => "/sse?events=20&interval_ms=40",
            _ => "/delay?ms=40",
        };
        let start = Instant::now();
        let outcome = match client.sending(Request::get(path)).await {
            Err(error) if is_refused(&error) => Outcome::Refused,
            Err(error) => Outcome::Failed(error.to_string()),
            Ok(reply) => match (reply.status, reply.header("x-slotgate-path")) {
                (200, "atomic") => Outcome::Atomic,
                (200, "traditional") => Outcome::Traditional,
                (429, _) => Outcome::Saturated,
                (status, path) => Outcome::Failed(format!("{status} {path}")),
            },
        };
        let rest = match outcome {
            Outcome::Saturated | Outcome::Refused | Outcome::Failed(_) => 20,
            Outcome::Atomic | Outcome::Traditional => 0,
        };
        let end = Instant::now();
        records.lock().unwrap().push(Record {
            envoy,
            start,
            end,
            outcome,
        });
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
}

fn is_refused(error: &Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}
