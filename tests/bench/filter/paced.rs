//! Latency at a fixed rate, coordinated omission accounted for: it counts from when a request was due, not from when it
//! could be sent.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use support::{spawn, wait};

/// Connections that share the rate.
const LANES: u32 = 8;

/// The median and the 99th percentile, in ms.
pub fn latency(addr: SocketAddr, rate: u32, length: Duration) -> (f64, f64) {
    let begin = Instant::now() + Duration::from_millis(50);
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| spawn(run(addr, begin, lane, rate, length)))
        .collect();
    let mut times = wait(async {
        let mut times = Vec::new();
        for lane in lanes {
            times.extend(lane.await.expect("a lane panicked"));
        }
        times
    });
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    (at(0.5), at(0.99))
}

async fn run(addr: SocketAddr, begin: Instant, lane: u32, rate: u32, length: Duration) -> Vec<f64> {
    let tcp = TcpStream::connect(addr).await.expect("a connection");
    tcp.set_nodelay(true).expect("a socket option");
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tcp));
    let (mut sender, connection) = handshake.await.expect("HTTP");
    spawn(connection);
    let apart = Duration::from_secs(1) / rate;
    let mut times = Vec::new();
    let mut due = begin + apart * lane;
    while due < begin + length {
        // The timer is coarse: what it sleeps too long is not the server's, but a request that is late because the one
        // before it was slow counts from when it was due.
        let start = if Instant::now() < due {
            tokio::time::sleep_until(due).await;
            Instant::now()
        } else {
            due
        };
        sender.ready().await.expect("the connection lives");
        let request = hyper::Request::get("/")
            .header("host", "test")
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.expect("a whole body");
        times.push(start.elapsed().as_secs_f64() * 1e3);
        due += apart * LANES;
    }
    times
}
