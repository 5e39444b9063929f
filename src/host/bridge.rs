//! Role `bridge`: the network filter between the pipe and Redis.

use super::calls::{self, Buffer};
use crate::bridge::{Deframer, frame_header};
use proxy_wasm::traits::{Context, StreamContext};
use proxy_wasm::types::Action;

/// One connection of the internal listener.
#[derive(Debug, Default)]
pub struct Bridge {
    deframer: Deframer,
    out: Vec<u8>,
}

impl Context for Bridge {}

impl StreamContext for Bridge {
    fn on_downstream_data(&mut self, size: usize, _end: bool) -> Action {
        if size == 0 {
            return Action::Continue;
        }
        let framed = calls::buffer(Buffer::Downstream, size);
        self.out.clear();
        if self.deframer.strip(&framed, &mut self.out).is_err() {
            log::error!(
                "bridge: not a stream of gRPC frames; is something else using the internal listener?"
            );
            calls::close_downstream();
            return Action::Pause;
        }
        if let Err(error) = calls::set_buffer(Buffer::Downstream, framed.len(), &self.out) {
            log::error!("bridge: towards Redis: {error:?}");
            calls::close_downstream();
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_upstream_data(&mut self, size: usize, _end: bool) -> Action {
        if size == 0 {
            return Action::Continue;
        }
        let framed =
            frame_header(size).map(|header| calls::set_buffer(Buffer::Upstream, 0, &header));
        if !matches!(framed, Some(Ok(()))) {
            log::error!("bridge: from Redis: {size} bytes can't be framed: {framed:?}");
            calls::close_downstream();
            return Action::Pause;
        }
        Action::Continue
    }
}
