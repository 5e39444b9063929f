use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::Pool;
use support::Snapshot;

const BAR: usize = 20;

/// The live view: refreshed in place on a terminal, else a line a second.
pub struct Table<'a> {
    pool: &'a Pool,
    terminal: bool,
    /// Lines to go up before the next refresh.
    height: usize,
    last: Option<Instant>,
}

/// What there is to show.
pub struct Moment<'a> {
    pub elapsed: Duration,
    /// From Redis.
    pub used: &'a BTreeMap<String, i64>,
    pub upstream: &'a Snapshot,
    /// From the clients: pool-level refusals, and whole answers by path.
    pub refused: usize,
    /// From Redis.
    pub waiting: usize,
    pub atomic: usize,
    pub traditional: usize,
}

impl<'a> Table<'a> {
    pub fn new(pool: &'a Pool) -> Table<'a> {
        Table {
            pool,
            terminal: std::io::stdout().is_terminal(),
            height: 0,
            last: None,
        }
    }

    pub fn show(&mut self, moment: &Moment, last: bool) {
        let mut text = String::new();
        if self.terminal {
            if self.height > 0 {
                let _ = write!(text, "\x1b[{}A", self.height);
            }
            let table = self.table(moment);
            self.height = table.lines().count();
            // Each line clears what a longer one left behind it.
            text.push_str(&table.replace('\n', "\x1b[K\n"));
        } else if last
            || self
                .last
                .is_none_or(|last| last.elapsed() >= Duration::from_secs(1))
        {
            text = self.line(moment);
            self.last = Some(Instant::now());
        }
        let mut out = std::io::stdout();
        // Whoever reads may be gone; the demo goes on to its verdict.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn table(&self, moment: &Moment) -> String {
        let mut text = format!(
            "{:<14}{:>11}  {:<BAR$}{:>9}{:>9}\n",
            "account", "used/limit", "", "granted", "refused"
        );
        let (mut used_all, mut slots_all, mut granted_all) = (0, 0, 0);
        for (id, slots) in &self.pool.accounts {
            let (used, granted) = (moment.used(id), moment.upstream.account(id).total);
            let count = format!("{used}/{slots}");
            let _ = writeln!(
                text,
                "{id:<14}{count:>11}  {}{granted:>9}",
                bar(used, *slots)
            );
            (used_all, slots_all, granted_all) =
                (used_all + used, slots_all + slots, granted_all + granted);
        }
        let (name, count) = (&self.pool.name, format!("{used_all}/{slots_all}"));
        let refused = moment.refused;
        let name = format!("pool {name}");
        let _ = writeln!(
            text,
            "{name:<14}{count:>11}  {}{granted_all:>9}{refused:>9}",
            bar(used_all, slots_all)
        );
        let _ = writeln!(text, "waiting       {:>11}", moment.waiting);
        let (share, answered) = (moment.gray_share(), moment.answered());
        let _ = writeln!(
            text,
            "gray share    {share:>9.1} % of {answered} answered, {:.1} s",
            moment.seconds()
        );
        text
    }

    fn line(&self, moment: &Moment) -> String {
        let mut text = format!("{:>5.1} s", moment.seconds());
        for (id, slots) in &self.pool.accounts {
            let _ = write!(text, "  {id} {}/{slots}", moment.used(id));
        }
        let granted: u64 = self
            .pool
            .accounts
            .iter()
            .map(|(id, _)| moment.upstream.account(id).total)
            .sum();
        let (refused, waiting) = (moment.refused, moment.waiting);
        let (share, answered) = (moment.gray_share(), moment.answered());
        let _ = writeln!(
            text,
            "  granted {granted}  refused {refused}  waiting {waiting}  gray {share:.1} % of {answered} answered"
        );
        text
    }
}

impl Moment<'_> {
    fn used(&self, id: &str) -> usize {
        self.used.get(id).map_or(0, |used| (*used).max(0) as usize)
    }

    fn answered(&self) -> usize {
        self.atomic + self.traditional
    }

    fn gray_share(&self) -> f64 {
        100.0 * self.atomic as f64 / self.answered().max(1) as f64
    }

    fn seconds(&self) -> f64 {
        self.elapsed.as_secs_f64()
    }
}

fn bar(used: usize, slots: usize) -> String {
    let full = (used * BAR).div_ceil(slots.max(1)).min(BAR);
    "█".repeat(full) + &"·".repeat(BAR - full)
}
