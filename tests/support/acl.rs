use super::root;

/// The words of `ACL SETUSER slotgate` in `docs/ledger.md`, after the user's name, as the shell would pass them on.
pub fn acl_rules() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/ledger.md")).expect("docs/ledger.md");
    rules_in(&page, "redis-cli ACL SETUSER slotgate ", "```")
}

/// From behind `begin` to `end`, without quotes and continued lines.
pub fn rules_in(text: &str, begin: &str, end: &str) -> Vec<String> {
    let rest = text.split_once(begin).expect("the rules begin").1;
    let rules = rest.split_once(end).expect("and end").0;
    let words = rules.split_whitespace().filter(|word| *word != "\\");
    words
        .map(|word| word.trim_matches(['\'', '"']).to_owned())
        .collect()
}
