//! What a server says against the greeting, and what an operator reads of it.

use super::rig::{CURRENT, Rig, SHA};
use slotgate::ledger::fault::Fault;
use slotgate::ledger::source::Script;
use slotgate::pipe::down::{Down, PipeOrder};
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::Notice;

/// Redis drops who sends more than 16 kB before it has logged in: what it has to say must be heard first.
#[test]
fn who_is_not_logged_in_sends_no_script() {
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_open(rig.now_ms);
    let sent = rig.worker.wire().bytes.len();
    assert!(sent < 1_000, "{sent}");
    rig.commands();
    rig.reply("-NOAUTH Authentication required.\r\n");
    assert_eq!(rig.count(Counter::PipeLost(Down::Auth)), 1);
    assert!(rig.commands().is_empty());
}

const PASSWORD: &str = "t0k";
const TOO_OLD: &str =
    "-ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'\r\n";

const MAX_CLIENTS: &str = "-ERR max number of clients reached\r\n";
const OK: &str = "+OK\r\n";

/// Why the pipe is down.
pub fn down(notice: &Notice) -> Down {
    match notice {
        Notice::PipeDown(down)
        | Notice::PipeRefused(down, _)
        | Notice::PipeNeverServed { why: down, .. } => *down,
        other => panic!("{other}"),
    }
}

/// What is said of a pipe that has not served so far.
pub fn never_served(why: Down) -> Notice {
    let cluster = "slotgate_pipe".to_owned();
    Notice::PipeNeverServed { why, cluster }
}

/// Who reads only the log is led to what is set up wrongly, as long as nothing has ever served.
#[test]
fn what_never_served_may_be_set_up_wrongly() {
    let mut rig = opened(false);
    rig.wait(1_100);
    rig.wait(100);
    let stuck = rig.notices();
    assert_eq!(stuck, [never_served(Down::Stuck)]);
    assert_eq!(
        stuck[0].to_string(),
        "pipe to Redis is down: no reply within redis.command_timeout_ms; it never served through cluster slotgate_pipe: \
         is the bridge before tcp_proxy in the internal listener? `slotgate check` on Envoy's configuration tells"
    );
    let mut rig = opened(false);
    rig.reply("HTTP/1.1 400 Bad Request\r\n\r\n");
    let mismatch = rig.notices();
    assert_eq!(mismatch, [never_served(Down::Mismatch)]);
    let text = mismatch[0].to_string();
    assert!(
        text.contains(
            ": is it Redis that answers, without TLS, behind the bridge? `slotgate check` "
        ),
        "{text}"
    );
    let mut rig = opened(false);
    rig.worker.on_pipe_closed(rig.now_ms);
    let closed = rig.notices();
    assert_eq!(closed, [never_served(Down::Closed)]);
    let text = closed[0].to_string();
    assert!(
        text.starts_with("pipe to Redis is down: the connection was closed or refused; "),
        "{text}"
    );
    assert!(
        text.contains("Redis at the address of the cluster behind it?"),
        "{text}"
    );
}

/// A worker whose pipe is open. With a password it sends AUTH, SELECT, CLIENT SETNAME and then the scripts, without one
/// CLIENT SETNAME comes first.
fn opened(password: bool) -> Rig {
    let mut rig = Rig::new(|json| {
        if password {
            json["redis"] = serde_json::json!({"password_env": "TOKEN", "database": 1});
        }
    });
    rig.request(&[]);
    open_again(&mut rig);
    rig
}

fn open_again(rig: &mut Rig) {
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_open(rig.now_ms);
    rig.commands();
}

/// Reasons and texts.
pub fn said(rig: &mut Rig) -> Vec<(Down, String)> {
    let notices = rig.notices();
    assert!(notices.iter().all(Notice::is_warning), "{notices:?}");
    let said = notices
        .iter()
        .map(|notice| (down(notice), notice.to_string()));
    said.collect()
}

#[test]
fn the_servers_words_are_kept() {
    for (password, good, reply, down, text) in [
        (
            true,
            0,
            "-WRONGPASS invalid username-password pair or user is disabled.",
            Down::Auth,
            r#"AUTH was refused with "WRONGPASS invalid username-password pair or user is disabled.": see redis.username and redis.password_env"#,
        ),
        (
            true,
            0,
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            Down::Auth,
            r#"AUTH was refused with "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?": see redis.username and redis.password_env"#,
        ),
        (
            true,
            0,
            "-ERR unknown command 'AUTH', with args beginning with: 't0k' ",
            Down::Auth,
            r#"AUTH was refused with "ERR unknown command 'AUTH'""#,
        ),
        (
            true,
            0,
            "-ERR do not know t0k",
            Down::Auth,
            r#"AUTH was refused with "an error that holds the password""#,
        ),
        (
            true,
            0,
            "+PONG",
            Down::Auth,
            "AUTH was not answered with OK",
        ),
        (
            true,
            0,
            "-ERR max number of clients reached",
            Down::Refused,
            r#"the connection was refused with "ERR max number of clients reached": see maxclients of Redis"#,
        ),
        (
            true,
            1,
            "-ERR DB index is out of range",
            Down::Select,
            r#"SELECT was refused with "ERR DB index is out of range": see redis.database"#,
        ),
        (
            true,
            1,
            "-NOAUTH Authentication required.",
            Down::Auth,
            r#"SELECT was refused with "NOAUTH Authentication required.": see redis.username and redis.password_env"#,
        ),
        (
            true,
            1,
            ":1",
            Down::Select,
            "SELECT was not answered with OK",
        ),
        (
            false,
            0,
            "-DENIED Redis is running in protected mode because protected mode is enabled.",
            Down::Refused,
            r#"the connection was refused with "DENIED Redis is running in protected mode because protected mode is enabled.": see protected-mode of Redis"#,
        ),
        (
            true,
            3,
            "-ERR unknown command 'script', with args beginning with: 'LOAD' ",
            Down::Load,
            r#"SCRIPT LOAD was refused with "ERR unknown command 'script'""#,
        ),
        (
            false,
            1,
            "-NOAUTH Authentication required.",
            Down::Auth,
            r#"SCRIPT LOAD was refused with "NOAUTH Authentication required.": see redis.username and redis.password_env"#,
        ),
        (
            false,
            1,
            "-NOPERM this user has no permissions to run the 'script|load' command",
            Down::WrongServer(Fault::Denied),
            r#"SCRIPT LOAD was refused with "NOPERM this user has no permissions to run the 'script|load' command": see the rights of this user"#,
        ),
        (
            false,
            1,
            "-LOADING Redis is loading the dataset in memory",
            Down::WrongServer(Fault::Loading),
            r#"SCRIPT LOAD was refused with "LOADING Redis is loading the dataset in memory""#,
        ),
        (
            false,
            1,
            "-MISCONF Errors writing to the AOF file: \x1b[2J",
            Down::Load,
            r#"SCRIPT LOAD was refused with "MISCONF Errors writing to the AOF file: \x1b[2J""#,
        ),
        (
            false,
            1,
            "$3\r\nabc",
            Down::Load,
            "SCRIPT LOAD was not answered with a digest",
        ),
        (
            false,
            8,
            "-NOPERM this user has no permissions to run the 'evalsha' command",
            Down::WrongServer(Fault::Denied),
            r#"a command was refused with "NOPERM this user has no permissions to run the 'evalsha' command": see the rights of this user"#,
        ),
    ] {
        let mut rig = opened(password);
        let names = if password { 3 } else { 1 };
        for greeting in 0..good {
            rig.reply(if greeting < names { OK } else { SHA });
        }
        rig.reply(&format!("{reply}\r\n"));
        assert_eq!(
            said(&mut rig),
            [(down, format!("pipe to Redis is down: {text}"))]
        );
        assert_eq!(rig.count(Counter::PipeLost(down)), 1, "{text}");
        assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset), "{text}");
        assert_eq!(rig.answers().len(), 1, "{text}");
    }
}

/// Redis says that it takes no more clients instead of an answer to the first command, and then closes.
#[test]
fn what_comes_before_the_end_of_a_connection_is_the_reason() {
    for first in ["-ERR some other reason\r\n", "-ERR\r\n"] {
        let mut rig = opened(false);
        rig.reply(first);
        assert_eq!(rig.notices(), [], "only a name, as far as one knows");
        rig.worker.on_pipe_closed(rig.now_ms);
        let words = first.trim_start_matches('-').trim_end();
        assert_eq!(
            said(&mut rig),
            [(
                Down::Refused,
                format!("pipe to Redis is down: the connection was refused with \"{words}\"")
            )]
        );
        assert_eq!(rig.worker.wire().order, None, "it is gone");
    }
    // A server that only does not take the name serves.
    let mut rig = opened(false);
    rig.reply("-ERR unknown command\r\n");
    rig.reply(&SHA.repeat(Script::FILTER.len()));
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(rig.notices(), [Notice::PipeDown(Down::Closed)]);
    open_again(&mut rig);
    rig.reply("-ERR unknown command\r\n");
    rig.reply(&SHA.repeat(Script::FILTER.len()));
    rig.reply(CURRENT);
    assert_eq!(rig.notices(), [Notice::PipeReady]);
    // What it said of the name has nothing to do with what happens later.
    rig.wait(2_000);
    rig.worker.on_pipe_closed(rig.now_ms);
    open_again(&mut rig);
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(rig.notices(), [Notice::PipeDown(Down::Closed)]);
}

#[test]
fn a_redis_below_7_is_asked_for_its_version() {
    let hello = "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.2.14\r\n";
    let unknown = "-ERR unknown command `HELLO`, with args beginning with: \r\n";
    let needed = "pipe to Redis is down: Redis 7 or later is needed, ";
    let refused = TOO_OLD.trim_start_matches('-').trim_end();
    let refused = format!("SCRIPT LOAD was refused with \"{refused}\"");
    for (reply, text) in [
        (hello, "this server is 6.2.14"),
        (unknown, refused.as_str()),
    ] {
        let mut rig = opened(false);
        rig.reply(OK);
        assert_eq!(rig.commands().len(), Script::FILTER.len());
        rig.reply(TOO_OLD);
        let sent = rig.commands();
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!(sent[0].0, ["HELLO"]);
        for _ in 1..Script::FILTER.len() {
            rig.reply(TOO_OLD);
        }
        assert_eq!(rig.commands().len(), 0, "asked once");
        rig.reply(reply);
        assert_eq!(said(&mut rig), [(Down::Load, format!("{needed}{text}"))]);
        assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
    }
    // It may give no answer, or go away.
    for closes in [false, true] {
        let mut rig = opened(false);
        rig.reply(OK);
        rig.reply(&TOO_OLD.repeat(Script::FILTER.len()));
        if closes {
            rig.worker.on_pipe_closed(rig.now_ms);
        } else {
            rig.wait(2_000);
            rig.worker.on_tick(rig.now_ms);
        }
        assert_eq!(said(&mut rig), [(Down::Load, format!("{needed}{refused}"))]);
    }
}

/// Once for each change: not again while it stays so, and not by turns when the words sometimes get lost.
#[test]
fn said_once_for_each_change() {
    let mut rig = opened(false);
    let mut notices = Vec::new();
    for attempt in 0..40 {
        if attempt % 3 > 0 {
            rig.reply(MAX_CLIENTS);
        } else {
            rig.worker.on_pipe_closed(rig.now_ms);
        }
        notices.extend(said(&mut rig).into_iter().map(|(down, _)| down));
        open_again(&mut rig);
    }
    assert_eq!(notices, [Down::Closed, Down::Refused]);
    // Another reason, and the first one again a while later.
    for attempt in 0..40 {
        rig.reply("-DENIED no\r\n");
        assert_eq!(rig.notices().len(), usize::from(attempt == 0));
        open_again(&mut rig);
    }
    rig.reply(MAX_CLIENTS);
    assert_eq!(said(&mut rig).len(), 1);
    open_again(&mut rig);
    // Words that differ by numbers alone are the same.
    for attempt in 0..40 {
        rig.reply(&format!("-DENIED client {attempt}\r\n"));
        assert_eq!(rig.notices().len(), usize::from(attempt == 0));
        open_again(&mut rig);
    }
    rig.reply(OK);
    rig.reply(&SHA.repeat(Script::FILTER.len()));
    rig.reply(CURRENT);
    assert_eq!(rig.notices(), [Notice::PipeReady]);
}

/// A server that stops serving says the same of an acquire and of the next greeting. Errors that are none of that, and a
/// denied look, have nothing to do with the end of a connection.
#[test]
fn a_server_that_stops_serving_is_said_once() {
    const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";
    let mut rig = Rig::ready(|_| {});
    rig.wait(2_000);
    rig.commands();
    rig.acquiring();
    rig.reply(&READONLY.replace("\r\n", " script: 4cab, on @user_script:7.\r\n"));
    let text = "pipe to Redis is down: a command was refused with \"READONLY You can't write against a read only replica.\"";
    let readonly = Down::WrongServer(Fault::ReadOnly);
    assert_eq!(said(&mut rig), [(readonly, text.into())]);
    rig.worker.wire().order = None;
    for _ in 0..20 {
        rig.open();
        rig.commands();
        rig.reply(READONLY);
        rig.worker.wire().order = None;
        assert_eq!(rig.notices(), []);
    }

    for error in ["-OOM no\r\n", "-ERR no\r\n"] {
        let mut rig = Rig::ready(|_| {});
        rig.wait(2_000);
        rig.commands();
        rig.acquiring();
        rig.reply(error);
        rig.worker.on_pipe_closed(rig.now_ms);
        open_again(&mut rig);
        rig.worker.on_pipe_closed(rig.now_ms);
        assert_eq!(rig.notices(), [Notice::PipeDown(Down::Closed)], "{error}");
    }
}

/// A server that says something else each time does not fill the log.
#[test]
fn ever_new_words_are_bounded() {
    let mut rig = opened(false);
    let began_ms = rig.now_ms;
    let mut said = 0;
    for attempt in 0..200_u8 {
        let word: String = (0..8)
            .map(|bit| if attempt >> bit & 1 == 1 { 'x' } else { 'o' })
            .collect();
        rig.reply(&format!("-DENIED {word}\r\n"));
        said += rig.notices().len() as u64;
        open_again(&mut rig);
    }
    let rounds = (rig.now_ms - began_ms) / 10_000 + 1;
    assert!(
        rounds > 5 && said <= 8 * rounds,
        "{said} in {rounds} rounds"
    );
}

#[test]
fn the_password_is_never_said() {
    for words in [
        format!("-ERR unknown command 'AUTH', with args beginning with: '{PASSWORD}' \r\n"),
        format!("-WRONGPASS {PASSWORD}\r\n"),
        format!("-{PASSWORD}\r\n"),
        format!("-{}{PASSWORD}\r\n", "a".repeat(198)),
    ] {
        let mut rig = opened(true);
        rig.reply(&words);
        let notices = rig.notices();
        assert_eq!(notices.len(), 1);
        assert!(!notices[0].to_string().contains(PASSWORD), "{}", notices[0]);
        assert!(!format!("{notices:?}").contains(PASSWORD), "{notices:?}");
    }
}
