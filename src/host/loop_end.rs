//! Calls back when Envoy's event loop has done all it woke up for.
//!
//! The way is a shared queue: what is put into one is told to its root by a callback that the event loop runs last. Envoy
//! keeps a queue for ever, so that its name is used again when its root is gone.

use super::calls;
use std::cell::{Cell, RefCell};

thread_local! {
    /// Names of queues whose roots are gone.
    static NAMES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Never asked for: the root of a configuration that is only tried needs no queue.
    New,
    Silent(u32),
    /// It will call back.
    Requested,
    /// A tick came first.
    Late,
    /// It does not call back, so that everything waits for ticks.
    Broken,
}

/// One root's.
#[derive(Debug)]
pub struct LoopEnd {
    name: String,
    state: Cell<State>,
}

impl LoopEnd {
    /// `name` must be no other root's.
    pub fn new(name: String) -> Self {
        let freed = NAMES.try_with(|names| names.try_borrow_mut().ok()?.pop());
        Self {
            name: freed.ok().flatten().unwrap_or(name),
            state: Cell::new(State::New),
        }
    }

    /// Asks for a callback, once.
    pub fn request(&self) {
        let queue = match self.state.get() {
            State::New => calls::open_queue(&self.name).ok(),
            State::Silent(queue) => Some(queue),
            State::Requested | State::Late | State::Broken => return,
        };
        if queue.is_some_and(|queue| calls::enqueue(queue).is_ok()) {
            self.state.set(State::Requested);
        } else {
            self.give_up();
        }
    }

    /// Whether it will call back, as far as anyone knows.
    pub fn is_requested(&self) -> bool {
        matches!(self.state.get(), State::Requested)
    }

    /// It has called back.
    pub fn answered(&self, queue: u32) {
        calls::dequeue(queue);
        if let State::Requested | State::Late = self.state.get() {
            self.state.set(State::Silent(queue));
        }
    }

    /// A tick may come first, but not twice.
    pub fn on_tick(&self) {
        match self.state.get() {
            State::Requested => self.state.set(State::Late),
            State::Late => self.give_up(),
            State::New | State::Silent(_) | State::Broken => {}
        }
    }

    fn give_up(&self) {
        log::warn!(
            "no callback from Envoy's shared queue: from now on every acquire waits for a tick"
        );
        self.state.set(State::Broken);
    }
}

impl Drop for LoopEnd {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        let _ = NAMES.try_with(|names| {
            if let Ok(mut names) = names.try_borrow_mut() {
                names.push(name);
            }
        });
    }
}
