//! What a connection to Redis begins with, whoever opens it.

use super::resp::push_command;
use super::script::Script;
use crate::config::Redis;

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
