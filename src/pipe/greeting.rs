//! The greeting: the first commands on every connection to Redis, and how a server refuses them.

use crate::config::Redis;
use crate::ledger::resp::{Value, Values, push_command};
use crate::ledger::source::Script;
use crate::printable::ascii;
use std::fmt;

/// How a message names the login.
pub const AUTH: &str = "AUTH";
/// How a message names the choice of a database.
pub const SELECT: &str = "SELECT";
/// How a message names the naming of the connection.
pub const SET_NAME: &str = "CLIENT SETNAME";
/// How a message names the loading of the scripts.
pub const LOAD: &str = "SCRIPT LOAD";
/// How a message names the connection itself, when the server wants none.
pub const CONNECTION: &str = "the connection";

/// The longest version that is believed to be one, in bytes.
const MOST_VERSION: usize = 32;

/// `AUTH`
pub fn auth(out: &mut Vec<u8>, redis: &Redis) {
    let (user, password) = (redis.username.as_bytes(), redis.password.0.as_bytes());
    if user.is_empty() {
        push_command(out, &[b"AUTH", password]);
    } else {
        push_command(out, &[b"AUTH", user, password]);
    }
}

/// `SELECT`
pub fn select(out: &mut Vec<u8>, redis: &Redis) {
    push_command(out, &[b"SELECT", redis.database.to_string().as_bytes()]);
}

/// `CLIENT SETNAME`
pub fn set_name(out: &mut Vec<u8>) {
    push_command(out, &[b"CLIENT", b"SETNAME", b"slotgate"]);
}

/// `SCRIPT LOAD`
pub fn load(out: &mut Vec<u8>, script: Script) {
    push_command(out, &[b"SCRIPT", b"LOAD", script.source().as_bytes()]);
}

/// `HELLO` without arguments, to learn the server's version. It changes nothing, no ACL can deny it, and a server or a
/// proxy that does not know it answers with an error. It is sent only after [`Refusal::is_too_old`].
pub fn version(out: &mut Vec<u8>) {
    push_command(out, &[b"HELLO"]);
}

/// Why a server refused a part of the greeting. Every text in it is safe to print and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    asked: &'static str,
    said: String,
    hint: &'static str,
    is_too_old: bool,
    turned_away: bool,
    version: Option<String>,
}

impl Refusal {
    /// `asked` names the command and `error` is the server's reply to it. `password` is never repeated.
    #[must_use]
    pub fn new(asked: &'static str, error: &[u8], password: &str) -> Self {
        // A server that has no slot for one more client, or wants none from this address, answers before it is asked.
        let turned_away = [&b"ERR max number of clients"[..], b"DENIED"]
            .iter()
            .any(|words| error.starts_with(words));
        Self {
            asked: if turned_away { CONNECTION } else { asked },
            said: said(error, password),
            hint: hint(asked, error),
            // Redis 6.2 and older read the line that names a script's language as Lua.
            is_too_old: error.starts_with(b"ERR Error compiling script")
                && error.ends_with(b"near '#'"),
            turned_away,
            version: None,
        }
    }

    /// Whether the server does not know the scripts' first line, as before Redis 7. Its version is worth asking for then.
    #[must_use]
    pub fn is_too_old(&self) -> bool {
        self.is_too_old
    }

    /// Whether the server wanted no connection at all, whatever it was asked.
    #[must_use]
    pub fn turned_away(&self) -> bool {
        self.turned_away
    }

    /// Whether the server wants a login first, or another one.
    #[must_use]
    pub fn wants_login(&self) -> bool {
        self.said.starts_with("NOAUTH")
    }

    /// The connection was closed after this refusal. A name alone is no reason for that.
    pub fn set_closed(&mut self) {
        if self.asked == SET_NAME {
            self.asked = CONNECTION;
        }
    }

    /// The reply to [`version`]. One that holds no version is passed over.
    pub fn set_version(&mut self, reply: &[u8]) {
        let mut values = Values::new(reply);
        while let Some(value) = values.value() {
            if value == Value::Bulk(b"version") {
                let version = values.bulk().and_then(|text| str::from_utf8(text).ok());
                self.version = version
                    .filter(|text| {
                        let known = |byte| matches!(byte, b'.' | b'-' | b'_');
                        let plain = |byte: u8| byte.is_ascii_alphanumeric() || known(byte);
                        text.len() <= MOST_VERSION && text.bytes().all(plain)
                    })
                    .map(str::to_owned);
                return;
            }
        }
    }

    /// The server's words without digits: what tells two refusals apart.
    #[must_use]
    pub fn gist(&self) -> String {
        self.said.replace(|c: char| c.is_ascii_digit(), "")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_too_old {
            f.write_str("Redis 7 or later is needed, ")?;
            if let Some(version) = &self.version {
                f.write_str("this server is ")?;
                return f.write_str(version);
            }
        }
        f.write_str(self.asked)?;
        f.write_str(" was refused with \"")?;
        f.write_str(&self.said)?;
        f.write_str("\"")?;
        f.write_str(self.hint)
    }
}

/// Where an operator finds the cause of a refusal, as the end of a message.
fn hint(asked: &str, error: &[u8]) -> &'static str {
    const HINTS: [(&str, &str); 8] = [
        ("WRONGPASS", LOGIN),
        ("NOAUTH", LOGIN),
        ("ERR AUTH", LOGIN),
        ("ERR Client sent AUTH", LOGIN),
        ("ERR invalid password", LOGIN),
        ("NOPERM", ": see the rights of this user"),
        ("ERR max number of clients", ": see maxclients of Redis"),
        ("DENIED", ": see protected-mode of Redis"),
    ];
    const LOGIN: &str = ": see redis.username and redis.password_env";
    let known = HINTS
        .iter()
        .find(|(words, _)| error.starts_with(words.as_bytes()));
    match known {
        Some((_, hint)) => hint,
        None if asked == SELECT => ": see redis.database",
        None => "",
    }
}

/// An error's first line, bounded, in printable ASCII, without arguments that the server repeats and without the password.
#[must_use]
pub fn said(error: &[u8], password: &str) -> String {
    // Behind these words an unknown command's arguments are repeated, or it is said where in a script it was.
    const ENDS: [&[u8]; 2] = [b"with args beginning with", b" script: "];
    let line = error.split(|byte| *byte == b'\n').next();
    let line = line.unwrap_or_default();
    let ends = ENDS.iter().filter_map(|end| find(line, end));
    let line = line.get(..ends.min().unwrap_or(line.len()));
    let line = line.unwrap_or_default();
    let line = line.trim_ascii_end();
    let line = line.strip_suffix(b",").unwrap_or(line);
    if !password.is_empty() && find(line, password.as_bytes()).is_some() {
        return "an error that holds the password".to_owned();
    }
    ascii(line)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(asked: &'static str, error: &str) -> String {
        Refusal::new(asked, error.as_bytes(), "5ecret").to_string()
    }

    #[test]
    fn the_servers_own_words() {
        for (asked, error, text) in [
            (
                "AUTH",
                "WRONGPASS invalid username-password pair or user is disabled.",
                r#"AUTH was refused with "WRONGPASS invalid username-password pair or user is disabled.": see redis.username and redis.password_env"#,
            ),
            (
                "AUTH",
                "ERR Client sent AUTH, but no password is set",
                r#"AUTH was refused with "ERR Client sent AUTH, but no password is set": see redis.username and redis.password_env"#,
            ),
            (
                "AUTH",
                "ERR max number of clients reached",
                r#"the connection was refused with "ERR max number of clients reached": see maxclients of Redis"#,
            ),
            (
                "AUTH",
                "LOADING Redis is loading the dataset in memory",
                r#"AUTH was refused with "LOADING Redis is loading the dataset in memory""#,
            ),
            (
                "SELECT",
                "ERR DB index is out of range",
                r#"SELECT was refused with "ERR DB index is out of range": see redis.database"#,
            ),
            (
                "SELECT",
                "NOAUTH Authentication required.",
                r#"SELECT was refused with "NOAUTH Authentication required.": see redis.username and redis.password_env"#,
            ),
            (
                "SCRIPT LOAD",
                "NOPERM User app has no permissions to run the 'script|load' command",
                r#"SCRIPT LOAD was refused with "NOPERM User app has no permissions to run the 'script|load' command": see the rights of this user"#,
            ),
        ] {
            assert_eq!(shown(asked, error), text);
        }
    }

    /// Redis up to 6.2 and from 7.0 on quote differently; both repeat what they were sent.
    #[test]
    fn what_a_server_repeats_of_a_command_is_cut() {
        for error in [
            "ERR unknown command `AUTH`, with args beginning with: `usr`, `5ecret`, ",
            "ERR unknown command 'AUTH', with args beginning with: 'usr' '5ecret' ",
            "ERR unknown command 'AUTH', with args beginning with: 'usr' '5ecr",
        ] {
            let shown = shown("AUTH", error).replace('`', "'");
            assert_eq!(
                shown,
                r#"AUTH was refused with "ERR unknown command 'AUTH'""#
            );
        }
        for error in ["ERR 5ecret", "5ecret", "ERR no 5ecret here\nsecond line"] {
            assert_eq!(
                shown("AUTH", error),
                r#"AUTH was refused with "an error that holds the password""#
            );
        }
        assert_eq!(said(b"ERR other", ""), "ERR other");
    }

    #[test]
    fn bounded_and_printable() {
        assert_eq!(
            said(b"ERR \x1b[2J\x07\x7f\0\xff \xe2\x80\xae\ttab\nsecond", ""),
            r"ERR \x1b[2J\x07\x7f\x00\xff \xe2\x80\xae\ttab"
        );
        assert_eq!(said(b"", "x"), "");
        assert_eq!(
            said(b"NOPERM no 'hget' script: 4cab, on @user_script:12.", ""),
            "NOPERM no 'hget'"
        );
        assert_eq!(said(&[b'a'; 200], ""), "a".repeat(200));
        assert_eq!(said(&[b'a'; 201], ""), "a".repeat(200) + "...");
        assert_eq!(said(&[0; 100_000], ""), r"\x00".repeat(50) + "...");
        // The end of what is shown must not cut the password in two.
        let mut long = vec![b'a'; 197];
        long.extend_from_slice(b"5ecret");
        assert_eq!(said(&long, "5ecret"), "an error that holds the password");
    }

    const TOO_OLD: &str =
        "ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'";

    #[test]
    fn a_redis_below_7() {
        let mut old = Refusal::new("SCRIPT LOAD", TOO_OLD.as_bytes(), "");
        assert!(old.is_too_old());
        let unknown =
            format!("Redis 7 or later is needed, SCRIPT LOAD was refused with \"{TOO_OLD}\"");
        for reply in [
            &b"-ERR unknown command `HELLO`, with args beginning with: \r\n"[..],
            b"*2\r\n$7\r\nversion\r\n:6\r\n",
            b"*2\r\n$7\r\nversion\r\n$5\r\n6\x1b[2J\r\n",
            b"*1\r\n$7\r\nversion\r\n",
        ] {
            old.set_version(reply);
            assert_eq!(old.to_string(), unknown);
        }
        old.set_version(b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.2.14\r\n");
        assert_eq!(
            old.to_string(),
            "Redis 7 or later is needed, this server is 6.2.14"
        );
        for other in [
            "ERR Error compiling script (new function): user_script:3: '=' expected near 'x'",
            "ERR Unexpected engine in script shebang: lua",
        ] {
            assert!(!Refusal::new("SCRIPT LOAD", other.as_bytes(), "").is_too_old());
        }
    }

    proptest::proptest! {
        /// Whatever a server says: bounded, printable, and the password is not in it.
        #[test]
        fn any_words(error in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), at in 0..400_usize) {
            let mut error = error;
            let at = at.min(error.len());
            error.splice(at..at, *b"5ecret");
            let text = said(&error, "5ecret");
            assert!(text.len() <= crate::printable::MOST_ASCII + 3 && text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text:?}");
            assert!(!text.contains("5ecret"));
        }
    }
}
