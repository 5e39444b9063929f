use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that can still be asked about, and reset, after hyper took it.
pub(super) struct Io {
    stream: TcpStream,
    line: Arc<Line>,
}

/// What is known of a connection from outside.
pub(super) struct Line {
    /// `None` once it is closed: the number may be another's by then.
    fd: Mutex<Option<RawFd>>,
    reset: AtomicBool,
}

impl Io {
    pub(super) fn new(stream: TcpStream) -> (Io, Arc<Line>) {
        let line = Arc::new(Line {
            fd: Mutex::new(Some(stream.as_raw_fd())),
            reset: AtomicBool::new(false),
        });
        (
            Io {
                stream,
                line: Arc::clone(&line),
            },
            line,
        )
    }
}

impl Line {
    /// The connection ends with a TCP reset instead of a plain close.
    pub(super) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// Whether the peer has closed or reset it: the kernel knows before our task is run.
    pub(super) fn peer_closed(&self) -> bool {
        let fd = self.fd.lock().unwrap();
        let Some(fd) = *fd else { return true };
        #[cfg(target_os = "linux")]
        const CLOSED: libc::c_short = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
        #[cfg(not(target_os = "linux"))]
        const CLOSED: libc::c_short = libc::POLLHUP | libc::POLLERR;
        let mut poll = libc::pollfd {
            fd,
            events: CLOSED,
            revents: 0,
        };
        // SAFETY: one valid pollfd, and the descriptor stays open while the lock is held.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & CLOSED != 0 }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        *self.line.fd.lock().unwrap() = None;
        if self.line.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
