//! Role `bridge`: the network filter between the pipe and Redis.

use super::calls::{self, Buffer};
use crate::pipe::frames::{Deframer, frame_header};
use std::cell::RefCell;

/// One connection of the internal listener.
#[derive(Debug, Default)]
pub struct Bridge {
    deframer: RefCell<Deframer>,
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
            log::error!(
                "bridge: not a stream of gRPC frames; is something else using the internal listener?"
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
        let framed =
            frame_header(size).map(|header| calls::set_buffer(Buffer::Upstream, 0, &header));
        if !matches!(framed, Some(Ok(()))) {
            log::error!("bridge: from Redis: {size} bytes can't be framed: {framed:?}");
            calls::close_downstream();
            return false;
        }
        true
    }
}
