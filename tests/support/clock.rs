use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use super::{Dir, root};

/// The wall clock of a redis-server started with it: it stands still unless it is set, or runs beside the real one.
#[derive(Debug)]
pub struct Clock {
    file: File,
    dir: Dir,
}

impl Clock {
    /// Builds the shim with the C compiler that Rust links with.
    pub fn new(now_ms: u64) -> Clock {
        let dir = Dir::temporary();
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let status = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(dir.join("clock.so"))
            .arg(root().join("tests/support/clock.c"))
            .status()
            .expect("a C compiler");
        assert!(status.success(), "clock.c does not compile");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join("now"))
            .expect("the clock's file");
        let clock = Clock { file, dir };
        clock.set(now_ms);
        clock
    }

    /// One that runs, on time at first.
    pub fn running() -> Clock {
        Clock::new(0)
    }

    /// This far ahead of the real clock, or behind it; it runs on from there.
    pub fn shift(&self, by_ms: i64) {
        self.write(by_ms * 1000);
    }

    pub fn set(&self, now_ms: u64) {
        self.write(now_ms as i64 * 1000);
    }

    fn write(&self, microseconds: i64) {
        self.file
            .write_all_at(&microseconds.to_ne_bytes(), 0)
            .expect("the clock's file is writable");
    }

    /// What makes a program go by it.
    pub fn env(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("LD_PRELOAD", self.dir.join("clock.so")),
            ("SLOTGATE_CLOCK", self.dir.join("now")),
        ]
    }
}
