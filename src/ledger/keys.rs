//! Every key format there is.
//!
//! All keys of a pool are `<key_prefix>:{<pool>}:<name>`. The braces are a hash tag: Redis Cluster hashes only what
//! stands between them, so a pool's keys live on one shard and a script may use them together.

/// The six keys that every script is given first, in this order (`lua/ledger.lua` names them).
pub const COMMON: [&str; 6] = ["accounts", "free", "used", "leases", "owner", "cooldown"];

/// A key of a pool by its name.
#[must_use]
pub fn key(prefix: &str, pool: &str, name: &str) -> String {
    format!("{prefix}:{{{pool}}}:{name}")
}

/// The operator's overrides of a pool.
#[must_use]
pub fn control(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "control")
}

/// What a session's key begins with; its hash in 32 hex digits follows.
#[must_use]
pub fn session_prefix(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "session:")
}

/// What the key of a scope's cooldowns begins with; the scope's hash in 32 hex digits follows.
#[must_use]
pub fn scope_prefix(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "cooldown:")
}

/// What someone asks about a request.
#[must_use]
pub fn question(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "question")
}

/// What a worker answered.
#[must_use]
pub fn answer(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "answer")
}

/// The reconcile pass under way.
#[must_use]
pub fn pass(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "pass")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        assert_eq!(
            key("slotgate", "claude", "leases"),
            "slotgate:{claude}:leases"
        );
        assert_eq!(control("sg", "a.b"), "sg:{a.b}:control");
        assert_eq!(session_prefix("sg", "p"), "sg:{p}:session:");
        assert_eq!(question("sg", "p"), "sg:{p}:question");
        assert_eq!(answer("sg", "p"), "sg:{p}:answer");
    }
}
