use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range from which systems take ports for outgoing connections, so nothing takes one while its server is
/// restarted.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A TCP port on 127.0.0.1 that is its owner's alone among all test processes, whether or not anything listens on it.
///
/// The claim is a UDP socket bound to the same number: exclusive on the whole machine, gone with the process.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: Option<UdpSocket>,
}

impl Port {
    pub fn free() -> Port {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Processes begin apart from one another, so that they seldom try the same number.
        let begin = std::process::id().wrapping_mul(7919);
        for _ in 0..COUNT {
            let step = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = FIRST + (step % u32::from(COUNT)) as u16;
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Port {
                    number,
                    _claim: Some(claim),
                };
            }
        }
        panic!("no free port in {FIRST}..{}", FIRST + COUNT);
    }

    /// A given number, unclaimed.
    pub fn fixed(number: u16) -> Port {
        Port {
            number,
            _claim: None,
        }
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}
