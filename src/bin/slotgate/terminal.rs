//! The terminal that `slotgate watch` is read on: its size, and keys typed there.

use std::time::Duration;

/// The meaning of a key that was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `q`, or the end of the input.
    Quit,
    /// Ctrl-C.
    Interrupt,
    /// `s`
    Sort,
}

/// Columns and rows, where standard output is a terminal.
pub fn size() -> Option<(usize, usize)> {
    let (width, height) = terminal_size::terminal_size()?;
    Some((usize::from(width.0), usize::from(height.0)))
}

#[cfg(unix)]
mod keys {
    use super::Key;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::termios::{
        LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcsetattr,
    };
    use std::time::{Duration, Instant};

    /// A keyboard that is read key by key. When it is dropped the terminal is as it was.
    #[derive(Debug)]
    pub struct Keyboard(Termios);

    impl Keyboard {
        /// Standard input, where it is a terminal.
        pub fn open() -> Option<Self> {
            let input = rustix::stdio::stdin();
            if !isatty(input) {
                return None;
            }
            let before = tcgetattr(input).ok()?;
            let mut keys = before.clone();
            // Ctrl-C comes as a key too: whoever ends us by it gets the terminal back as it was.
            keys.local_modes
                .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
            keys.special_codes[SpecialCodeIndex::VMIN] = 1;
            keys.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(input, OptionalActions::Now, &keys).ok()?;
            Some(Self(before))
        }

        /// Waits so long for a key that means something.
        pub fn wait(&self, time: Duration) -> Option<Key> {
            let until = Instant::now().checked_add(time)?;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let timeout = Timespec::try_from(left).ok()?;
                let input = rustix::stdio::stdin();
                let mut waited = [PollFd::new(&input, PollFlags::IN)];
                match poll(&mut waited, Some(&timeout)) {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(_) => return None,
                }
                let mut bytes = [0_u8; 16];
                let count = rustix::io::read(input, &mut bytes).unwrap_or(0);
                match bytes.get(..count).unwrap_or_default() {
                    [] => return Some(Key::Quit),
                    typed if typed.contains(&3) => return Some(Key::Interrupt),
                    typed if typed.iter().any(|key| matches!(key, b'q' | b'Q' | 4)) => {
                        return Some(Key::Quit);
                    }
                    typed if typed.contains(&b's') => return Some(Key::Sort),
                    _ => {}
                }
            }
        }
    }

    impl Drop for Keyboard {
        fn drop(&mut self) {
            // Nothing can be done about a terminal that has gone.
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.0);
        }
    }
}

#[cfg(not(unix))]
mod keys {
    use super::Key;
    use std::time::Duration;

    /// Keys are not read here.
    #[derive(Debug)]
    pub struct Keyboard;

    impl Keyboard {
        pub fn open() -> Option<Self> {
            None
        }

        pub fn wait(&self, _time: Duration) -> Option<Key> {
            None
        }
    }
}

pub use keys::Keyboard;

/// Waits so long, or until a key comes that means something.
pub fn wait(keyboard: Option<&Keyboard>, time: Duration) -> Option<Key> {
    match keyboard {
        Some(keyboard) => keyboard.wait(time),
        None => {
            std::thread::sleep(time);
            None
        }
    }
}
