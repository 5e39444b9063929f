//! Many clients at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use support::*;

/// Sends requests until it is told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<Vec<Result<Reply, Error>>>>,
}

impl Load {
    /// `lanes` clients, each with one request at a time.
    pub fn start(client: Client, lanes: usize, make: fn() -> Request) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let lane = || {
            let stop = Arc::clone(&stop);
            spawn(async move {
                let mut replies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    replies.push(client.sending(make()).await);
                }
                replies
            })
        };
        let lanes = (0..lanes).map(|_| lane()).collect();
        Load { stop, lanes }
    }

    /// Every reply, in no order.
    pub fn stop(self) -> Vec<Result<Reply, Error>> {
        self.stop.store(true, Ordering::Relaxed);
        wait(async {
            let mut replies = Vec::new();
            for lane in self.lanes {
                replies.extend(lane.await.expect("a lane panicked"));
            }
            replies
        })
    }
}

/// Requests that are sent again after a 429, until all were served.
pub struct Insistent(Vec<JoinHandle<BTreeMap<u16, usize>>>);

impl Insistent {
    pub fn start(client: Client, clients: usize, each: usize, path: &'static str) -> Insistent {
        let one = |number: usize| {
            spawn(async move {
                let mut statuses = BTreeMap::new();
                for round in 0..each {
                    loop {
                        let reply = client.sending(Request::get(path)).await;
                        let status = reply.as_ref().map_or(0, |reply| reply.status);
                        *statuses.entry(status).or_default() += 1;
                        if status != 429 {
                            break;
                        }
                        let pause = 10 + (number * 7 + round * 3) % 30;
                        tokio::time::sleep(Duration::from_millis(pause as u64)).await;
                    }
                }
                statuses
            })
        };
        Insistent((0..clients).map(one).collect())
    }

    pub fn is_finished(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }

    /// How many of each status; 0: no response.
    pub fn finish(self) -> BTreeMap<u16, usize> {
        wait(async {
            let mut statuses = BTreeMap::new();
            for client in self.0 {
                for (status, count) in client.await.expect("a client panicked") {
                    *statuses.entry(status).or_default() += count;
                }
            }
            statuses
        })
    }
}
