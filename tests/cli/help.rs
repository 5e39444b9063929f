//! The help: options in one order, and only where they apply. And the screen of `watch`.

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use crate::{Rig, finish, program, run};
use support::{Redis, eventually};

/// The options that a command's help lists, in order.
fn options(command: &[&str]) -> Vec<String> {
    let help = run(&[command, &["--help"]].concat()).done();
    let options = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let long = line.strip_prefix("-h, ").unwrap_or(line);
        let name = long.strip_prefix("--")?;
        let end = name.find(|char: char| !(char.is_ascii_alphanumeric() || char == '-'));
        Some(name[..end.unwrap_or(name.len())].to_owned())
    });
    options.collect()
}

#[test]
fn own_options_first_then_redis_then_the_form() {
    for (command, own, asks) in [
        (
            &["check"][..],
            &["require-env", "strict", "redis", "password-env"][..],
            false,
        ),
        (
            &["bucket"],
            &["session", "percent", "salt", "config"],
            false,
        ),
        (
            &["status"],
            &["pool", "rows", "tenant", "sort", "config"],
            true,
        ),
        (
            &["watch"],
            &["pool", "rows", "tenant", "sort", "interval", "count"],
            true,
        ),
        (
            &["explain"],
            &[
                "pool", "request", "lease", "session", "scope", "random", "config",
            ],
            true,
        ),
        (&["drain"], &["pool", "by"], true),
        (&["undrain"], &["pool", "by"], true),
        (&["percent", "get"], &["pool"], true),
        (&["percent", "set"], &["pool", "all-pools", "by"], true),
        (&["percent", "clear"], &["pool", "all-pools", "by"], true),
        (&["cooldown", "clear"], &["pool", "by"], true),
        (&["log"], &["pool"], true),
        (&["doctor"], &["pool", "wait", "workers"], true),
        (&["unbind"], &["session", "pool", "by"], true),
        (&["lease"], &["pool"], true),
    ] {
        let mut wanted = own.to_vec();
        if asks {
            wanted.extend(["redis", "password-env", "prefix"]);
        }
        wanted.extend(["json", "help"]);
        assert_eq!(options(command), wanted, "{command:?}");
    }
    run(&["bucket", "--session", "s", "--percent", "5", "--redis", "x"]).failed(2);
}

/// As it was possible before options had a place: before the command.
#[test]
fn redis_may_be_named_before_the_command() {
    let rig = Rig::new();
    let address = rig.redis.addr().to_string();
    let prefix = crate::PREFIX;
    let before = run(&["--redis", &address, "--prefix", prefix, "status"]).done();
    let behind = run(&["status", "--redis", &address, "--prefix", prefix]).done();
    assert_eq!(before, behind);
    // What stands behind the command holds, and both are more than the variable.
    let mut command = program();
    command.env("SLOTGATE_REDIS", "127.0.0.1:1").args([
        "--redis",
        "127.0.0.1:2",
        "status",
        "--redis",
        &address,
    ]);
    finish(command, "").done();
}

/// A terminal of this size, with `watch` on it.
struct Screen {
    child: std::process::Child,
    ours: std::fs::File,
    seen: String,
}

impl Screen {
    fn open(redis: &Redis, width: u16, height: u16) -> Screen {
        let (mut ours, mut theirs) = (0, 0);
        let size = libc::winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the two places are ours, and no name or settings are asked for.
        let opened = unsafe {
            libc::openpty(
                &mut ours,
                &mut theirs,
                std::ptr::null_mut(),
                std::ptr::null(),
                &size,
            )
        };
        assert_eq!(opened, 0);
        // SAFETY: both were just opened, and nobody else has them.
        let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        // SAFETY: it is open.
        unsafe {
            use std::os::fd::AsRawFd;
            libc::fcntl(ours.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        }
        let mut command = program();
        command
            .args(["watch", "--interval", "30"])
            .env("SLOTGATE_REDIS", redis.addr().to_string())
            .env("SLOTGATE_PREFIX", crate::PREFIX)
            .stdin(Stdio::from(theirs.try_clone().unwrap()))
            .stdout(Stdio::from(theirs))
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        drop(command);
        let ours = ours.into();
        Screen {
            child,
            ours,
            seen: String::new(),
        }
    }

    /// What it shows: the last look, without what commands the terminal.
    fn lines(&mut self) -> Vec<String> {
        eventually(Duration::from_secs(20), || {
            let mut bytes = [0; 65_536];
            if let Ok(count) = self.ours.read(&mut bytes) {
                self.seen += &String::from_utf8_lossy(&bytes[..count]);
            }
            self.seen.ends_with("\u{1b}[J")
        });
        let (_, look) = self.seen.rsplit_once("\u{1b}[H").unwrap();
        let mut text = String::new();
        let mut hidden = false;
        for char in look.chars() {
            hidden |= char == '\u{1b}';
            if !hidden && char != '\r' {
                text.push(char);
            }
            hidden &= !(char.is_ascii_alphabetic());
        }
        text.lines().map(str::to_owned).collect()
    }

    /// What comes next is another look.
    fn press(&mut self, key: &[u8]) {
        self.seen.clear();
        self.ours.write_all(key).unwrap();
    }

    fn code_after(&mut self, key: &[u8]) -> i32 {
        self.ours.write_all(key).unwrap();
        let mut code = None;
        eventually(Duration::from_secs(20), || {
            let status = self.child.try_wait().unwrap();
            code = status.map(|status| status.code().expect("no signal"));
            code.is_some()
        });
        code.unwrap()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No line is longer than the screen is wide, and no more than it is high: a terminal would break or scroll them.
#[test]
fn watch_fits_the_screen_and_q_ends_it() {
    let mut rig = Rig::new();
    rig.take("c");
    for (width, height) in [(80, 24), (40, 10), (24, 8), (12, 4)] {
        let mut screen = Screen::open(&rig.redis, width, height);
        let lines = screen.lines();
        assert!(
            lines.len() < usize::from(height),
            "{width}x{height}: {lines:#?}"
        );
        for line in &lines {
            assert!(
                line.chars().count() <= usize::from(width),
                "{width}x{height}: {lines:#?}"
            );
        }
        let text = lines.join("\n");
        match (width, height) {
            (80, 24) => assert!(
                text.contains("c        1/3   ███████·············  free"),
                "{text}"
            ),
            (40, 10) => {
                for id in ["a ", "b ", "c "] {
                    assert!(lines.iter().any(|line| line.starts_with(id)), "{text}");
                }
                assert!(
                    text.contains("\n  revision 7  gray as configured\n"),
                    "{text}"
                );
                assert!(text.contains("███"), "{text}");
            }
            _ => assert!(text.contains("more"), "{text}"),
        }
        assert_eq!(screen.code_after(b"q"), 0, "{width}x{height}");
    }
    let mut screen = Screen::open(&rig.redis, 40, 10);
    screen.lines();
    assert_eq!(screen.code_after(b"x\x03"), 130, "as if by a signal");
}

/// `s` sorts the accounts otherwise at once, though the next look is half a minute away.
#[test]
fn a_key_sorts_what_watch_shows() {
    let mut rig = Rig::new();
    rig.take("c");
    rig.pipe.control("drain", "b", None).unwrap();
    let mut screen = Screen::open(&rig.redis, 80, 24);
    let order = |screen: &mut Screen| {
        let lines = screen.lines();
        let ids = lines
            .iter()
            .filter_map(|line| line.split_whitespace().next());
        let ids: Vec<_> = ids.filter(|word| word.len() == 1).collect();
        ids.concat()
    };
    assert_eq!(order(&mut screen), "abc");
    for expected in ["cab", "bca", "abc"] {
        screen.press(b"s");
        assert_eq!(order(&mut screen), expected);
    }
    assert_eq!(screen.code_after(b"q"), 0);
    for (sort, expected) in [
        ("name", ["a", "b", "c"]),
        ("use", ["c", "a", "b"]),
        ("state", ["b", "c", "a"]),
    ] {
        let out = rig.run(&["status", "--sort", sort]).done();
        let ids = out
            .lines()
            .skip(2)
            .map(|line| line.split(' ').next().unwrap());
        assert_eq!(ids.collect::<Vec<_>>(), expected, "{out}");
    }
}
