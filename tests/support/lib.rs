//! What the tests and the demo share: real processes on free ports, an upstream that counts, clients, a ledger reader.
//!
//! Everything here is used from plain blocking code (`#[test]`, not an async test): servers and clients run on one
//! runtime of their own. Whatever was started is stopped by `Drop`, and by the kernel when the test process is killed.

mod acl;
mod certificate;
mod client;
mod clock;
mod dir;
mod envoy;
mod envoy_config;
mod fault_proxy;
mod file_server;
mod ledger;
mod port;
mod process;
mod redis_cluster;
mod redis_server;
mod refuse;
mod upstream;
mod upstream_io;
mod usage;

pub use acl::{acl_rules, rules_in};
pub use certificate::Certificate;
pub use client::{Client, EventStream, Protocol, RawConnection, Reply, Request, count_statuses};
pub use clock::Clock;
pub use dir::Dir;
pub use envoy::Envoy;
pub use envoy_config::EnvoyConfig;
pub use fault_proxy::{FaultProxy, Way};
pub use file_server::FileServer;
pub use ledger::{Ledger, LedgerState};
pub use port::Port;
pub use process::Process;
pub use redis_cluster::RedisCluster;
pub use redis_server::{HASHED, Redis, redis_program};
pub use refuse::{Seen, drawn};
pub use upstream::{AccountCount, Snapshot, Upstream};
pub use usage::Usage;

use std::future::Future;
use std::path::PathBuf;
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

/// Long enough for a loaded 2-core machine; what waits for it polls, so a quick machine doesn't wait.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Waits until `condition` holds, and panics at the caller's line when it doesn't in time.
#[track_caller]
pub fn eventually(timeout: Duration, mut condition: impl FnMut() -> bool) {
    eventually_some(timeout, || condition().then_some(()));
}

/// Waits until `look` finds something.
#[track_caller]
pub fn eventually_some<T>(timeout: Duration, look: impl FnMut() -> Option<T>) -> T {
    poll(timeout, look).unwrap_or_else(|| panic!("did not become true within {timeout:?}"))
}

/// The same without the panic.
pub fn poll<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        // Looked at once more after the deadline: the machine may have slept through it.
        let late = Instant::now() >= deadline;
        if let Some(found) = look() {
            return Some(found);
        }
        if late {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The project's root folder.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .canonicalize()
        .expect("the project's folder")
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("support")
        .enable_all()
        .build()
        .expect("a tokio runtime")
});

/// Runs a task beside the test.
pub fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    RUNTIME.spawn(task)
}

/// The runtime, for a `JoinSet`.
pub fn runtime() -> tokio::runtime::Handle {
    RUNTIME.handle().clone()
}

/// Runs a task to its end. Not `block_on`: that panics inside another runtime.
pub fn wait<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> T {
    let (send, receive) = mpsc::sync_channel(1);
    spawn(async move {
        let _ = send.send(task.await);
    });
    receive.recv().expect("the task panicked")
}

/// Ten thousand clients and the upstream's side of them are in this process. As many as a superuser or the limit allows.
pub fn allow_open_files() {
    const WANTED: libc::rlim_t = 40_000;
    for hard in [WANTED, 0] {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the structure is ours.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
        limit.rlim_max = limit.rlim_max.max(hard);
        limit.rlim_cur = limit.rlim_max.min(WANTED);
        // SAFETY: as above.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } == 0 {
            break;
        }
    }
}
