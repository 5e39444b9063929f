//! The page's files, as the console serves them: `index.html`, `style.css`, and all modules joined into one `main.js`, so
//! that a visit costs three requests.
//!
//! The files work as they are. `tests/scenarios/console/page.rs` checks that the modules can be joined.

use crate::joined::joined;

/// What the page's files say to readers only, and what joins the modules to each other.
const OMITTED: [(&str, &str); 5] = [
    ("//", "\n"),
    ("/*", "*/"),
    ("<!--", "-->"),
    ("import ", ";"),
    ("export ", " "),
];
/// The document.
pub const INDEX: &str = joined!(OMITTED, [include_str!("page/index.html")]);
/// Its look.
pub const STYLE: &str = joined!(OMITTED, [include_str!("page/style.css")]);
/// Its behaviour. Each module comes after those that it imports.
pub const SCRIPT: &str = joined!(
    OMITTED,
    [
        include_str!("page/dom.js"),
        include_str!("page/notice.js"),
        include_str!("page/api.js"),
        include_str!("page/changes.js"),
        include_str!("page/explain.js"),
        include_str!("page/words.js"),
        include_str!("page/history.js"),
        include_str!("page/sparkline.js"),
        include_str!("page/rates.js"),
        include_str!("page/counters.js"),
        include_str!("page/trends.js"),
        include_str!("page/account.js"),
        include_str!("page/queue.js"),
        include_str!("page/terms.js"),
        include_str!("page/log.js"),
        include_str!("page/phone.js"),
        include_str!("page/pools.js"),
        include_str!("page/main.js"),
    ]
);
