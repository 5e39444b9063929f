//! `slotgate watch`

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::server::Server;
use crate::show::{Colours, Lines};
use crate::status::{self, Sort, View};
use crate::terminal::{self, Key, Keyboard, size};
use crate::words::clock;
use serde_json::Value;
use slotgate::ledger::view::Pool;
use std::io::IsTerminal;
use std::time::Duration;

/// The arguments of `watch`.
#[derive(Debug)]
pub struct Watch {
    pub pools: Vec<String>,
    pub rows: Option<usize>,
    pub tenant: Option<String>,
    pub sort: Sort,
    pub interval: f64,
    pub count: Option<u64>,
    pub json: bool,
}

/// Looks again and again, also past failures: Redis comes back. On a terminal each look replaces the one before, `s` sorts the
/// accounts otherwise, and `q` ends it.
pub fn run(open: &dyn Fn() -> Result<Server, Problem>, watch: &Watch) -> Result<Answer, Problem> {
    let in_place = std::io::stdout().is_terminal() && !watch.json;
    let keyboard = in_place.then(Keyboard::open).flatten();
    let done = |exit| Answer {
        text: Lines::default(),
        json: Value::Null,
        exit,
    };
    let mut server = None;
    let mut looks: u64 = 0;
    let mut sort = watch.sort;
    loop {
        let look = look(&mut server, open, watch, sort, in_place);
        looks = looks.saturating_add(1);
        let last = watch.count.is_some_and(|count| looks >= count);
        match look {
            Ok(text) if in_place => {
                crate::say(&text.in_place())?;
            }
            Ok(text) => crate::say(&text)?,
            Err(problem) if last || problem.exit == Exit::Usage => return Err(problem),
            Err(problem) => {
                server = None;
                if in_place {
                    crate::say(&fitted(&problem.text(), size()).in_place())?;
                } else {
                    problem.report(watch.json);
                }
            }
        }
        if last {
            return Ok(done(Exit::Done));
        }
        let pause = Duration::from_secs_f64(watch.interval);
        match terminal::wait(keyboard.as_ref(), pause) {
            Some(Key::Quit) => return Ok(done(Exit::Done)),
            Some(Key::Interrupt) => return Ok(done(Exit::Interrupted)),
            Some(Key::Sort) => sort = sort.next(),
            None => {}
        }
    }
}

fn look(
    server: &mut Option<Server>,
    open: &dyn Fn() -> Result<Server, Problem>,
    watch: &Watch,
    sort: Sort,
    in_place: bool,
) -> Result<Lines, Problem> {
    let server = match server {
        Some(server) => server,
        None => server.insert(open()?),
    };
    let pools = status::read(server, &watch.pools, watch.tenant.as_deref())?;
    if watch.json {
        return Ok(Lines::json(&status::json(&pools), false));
    }
    let time = pools.first().map_or(0, |pool| pool.now_ms);
    let head = format!("{} UTC  {}", clock(time), server.name);
    let view = View {
        rows: watch.rows,
        tenant: watch.tenant.as_deref(),
        sort,
        colours: Colours::for_stdout(),
        width: None,
    };
    if let (true, Some(size)) = (in_place, size()) {
        return Ok(on_screen(&head, &pools, view, size));
    }
    let mut lines = Lines::of(&head);
    lines.append(&status::text(&pools, view));
    if !in_place {
        lines.line("");
    }
    Ok(lines)
}

/// All that fits into so many columns and rows, with as many accounts of each pool as that leaves room for.
fn on_screen(head: &str, pools: &[Pool], view: View, (width, height): (usize, usize)) -> Lines {
    let most = view.rows.unwrap_or(height);
    let with = |rows| {
        let mut lines = Lines::of(head);
        let view = View {
            rows: Some(rows),
            width: Some(width),
            ..view
        };
        lines.append(&status::text(pools, view));
        lines.of_width(width)
    };
    // The cursor stands on the last row.
    let room = height.saturating_sub(1).max(1);
    let mut rows = most;
    loop {
        let lines = with(rows);
        let over = lines.count().saturating_sub(room);
        if over == 0 || rows <= 1 {
            return lines.of_height(room);
        }
        // Each pool gives up its part of what is too much.
        let less = over.div_ceil(pools.len().max(1)).max(1);
        rows = rows.saturating_sub(less).max(1);
    }
}

/// A text in so many columns and rows.
fn fitted(text: &Lines, size: Option<(usize, usize)>) -> Lines {
    match size {
        Some((width, height)) => text
            .of_width(width)
            .of_height(height.saturating_sub(1).max(1)),
        None => text.of_width(usize::MAX),
    }
}
