//! What a worker says of itself when someone asks all of them: that it lives, and what it runs on.

use super::context::Context;
use crate::VERSION;
use crate::json::Json;

/// The word in a question that every worker answers.
pub const ASKED: &str = "workers";

/// The answer to `NONCE workers *`, as `slotgate doctor` asks it of each pool; `None`: it asks something else. `follows`: the
/// accounts in force are those of this configuration.
pub(super) fn answer(cx: &Context, pool: usize, follows: bool, question: &[u8]) -> Option<String> {
    let mut words = std::str::from_utf8(question).ok()?.split(' ');
    let nonce = words.next()?;
    if words.next() != Some(ASKED) {
        return None;
    }
    let configured = cx.pool(pool)?;
    let mut json = Json::default();
    json.raw("{").name("nonce").text(nonce);
    json.name("worker").text(&cx.name);
    json.name("version").text(VERSION);
    json.name("configuration").text(&cx.config.digest);
    json.name("revision").number(configured.revision);
    json.name("follows").flag(follows).raw("}");
    Some(json.into_text())
}
