//! Role `bridge`: the network filter between the pipe and Redis.

use super::calls::{self, Buffer};
use crate::pipe::frames::{Deframer, frame_header};
use crate::printable::ascii;
use std::cell::{Cell, RefCell};

thread_local! {
    /// Something came from Redis, or it was said that nothing does: it is not said again.
    static SETTLED: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether it was settled already.
fn settle() -> bool {
    SETTLED.try_with(|settled| settled.replace(true)) != Ok(false)
}

/// One connection of the internal listener.
#[derive(Debug, Default)]
pub struct Bridge {
    deframer: RefCell<Deframer>,
    /// Something came from Redis.
    heard: Cell<bool>,
}

impl Bridge {
    /// Towards Redis. Returns whether the bytes go on.
    pub fn on_downstream_data(&self, size: usize) -> bool {
        if size == 0 {
            return true;
        }
        let framed = calls::buffer(Buffer::Downstream, size);
        let mut bytes = Vec::with_capacity(framed.len());
        let stripped = self
            .deframer
            .try_borrow_mut()
            .is_ok_and(|mut deframer| deframer.strip(&framed, &mut bytes).is_ok());
        if !stripped {
            // It is not Redis who is silent.
            self.heard.set(true);
            log::error!(
                "bridge: not a stream of gRPC frames; is something else using the internal listener? Its cluster needs the upstream_config envoy.filters.connection_pools.http.tcp"
            );
            calls::close_downstream();
            return false;
        }
        if let Err(error) = calls::set_buffer(Buffer::Downstream, framed.len(), &bytes) {
            log::error!("bridge: towards Redis: {error:?}");
            calls::close_downstream();
            return false;
        }
        true
    }

    /// From Redis. Returns whether the bytes go on.
    pub fn on_upstream_data(&self, size: usize) -> bool {
        if size == 0 {
            return true;
        }
        if !self.heard.replace(true) {
            settle();
        }
        let framed =
            frame_header(size).map(|header| calls::set_buffer(Buffer::Upstream, 0, &header));
        if !matches!(framed, Some(Ok(()))) {
            log::error!("bridge: from Redis: {size} bytes can't be framed: {framed:?}");
            calls::close_downstream();
            return false;
        }
        true
    }
    /// It stands for a request, in the wrong filter: there is no Redis behind it.
    pub fn on_request(&self) {
        self.heard.set(true);
    }

    /// The connection is over. If nothing ever came from Redis, names who did not answer: the scheduler cannot know what is
    /// behind the bridge.
    pub fn on_done(&self) {
        if self.heard.get() || settle() {
            return;
        }
        let text = |path: &[u8]| ascii(&calls::property(path));
        let cluster = text(b"xds\0cluster_name");
        let address = text(b"upstream\0address");
        let failure = text(b"upstream\0transport_failure_reason");
        let or = |text: String, otherwise: &str| match text.is_empty() {
            true => otherwise.to_owned(),
            false => text,
        };
        log::warn!(
            "bridge: a connection ended before anything came from Redis: cluster {}, address {}{}{failure}",
            or(cluster, "unknown (is the one that tcp_proxy names there?)"),
            or(address, "none"),
            if failure.is_empty() { "" } else { ": " },
        );
    }
}
