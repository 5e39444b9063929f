//! What a connection to Redis begins with, whoever opens it.

use super::resp::{push_array, push_bulk, push_number};
use super::script::Script;
use crate::config::Redis;

/// `AUTH`
pub fn auth(out: &mut Vec<u8>, redis: &Redis) {
    let user = redis.username.as_bytes();
    push_array(out, if user.is_empty() { 2 } else { 3 });
    push_bulk(out, b"AUTH");
    if !user.is_empty() {
        push_bulk(out, user);
    }
    push_bulk(out, redis.password.0.as_bytes());
}

/// `SELECT`
pub fn select(out: &mut Vec<u8>, redis: &Redis) {
    push_array(out, 2);
    push_bulk(out, b"SELECT");
    push_number(out, u64::from(redis.database));
}

/// `CLIENT SETNAME`
pub fn set_name(out: &mut Vec<u8>) {
    push_array(out, 3);
    push_bulk(out, b"CLIENT");
    push_bulk(out, b"SETNAME");
    push_bulk(out, b"slotgate");
}

/// `SCRIPT LOAD`
pub fn load(out: &mut Vec<u8>, script: Script) {
    push_array(out, 3);
    push_bulk(out, b"SCRIPT");
    push_bulk(out, b"LOAD");
    push_bulk(out, script.source().as_bytes());
}
