use super::root;

/// The words of the README's `ACL SETUSER slotgate`, after the user's name, as the shell would pass them on.
pub fn acl_rules() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    rules_in(&readme, "redis-cli ACL SETUSER slotgate ", "```")
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
