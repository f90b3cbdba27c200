//! Counts by status and reason, of one worker: one writer, without a lock, and no more rows than it has. Reasons are texts of
//! the program: nothing that a client sent enters.

use std::array;
use std::sync::OnceLock;

use super::counters::Counter;

/// More than there are reasons in the program: what finds no row is counted as `other`.
const ROWS: usize = 128;

/// A status, or 0 where there is none, and why.
pub type Reason = (u16, &'static str);

#[derive(Debug)]
pub struct ReasonTable {
    /// Taken from the first, each by the first event of its reason.
    rows: [Row; ROWS],
    other: Counter,
}

#[derive(Debug, Default)]
struct Row {
    reason: OnceLock<Reason>,
    count: Counter,
}

impl Default for ReasonTable {
    fn default() -> Self {
        ReasonTable { rows: array::from_fn(|_| Row::default()), other: Counter::default() }
    }
}

impl ReasonTable {
    /// Single writer.
    pub fn count(&self, status: u16, why: &'static str) {
        let row = self.rows.iter().find(|row| *row.reason.get_or_init(|| (status, why)) == (status, why));
        row.map_or(&self.other, |row| &row.count).count();
    }

    pub fn each(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        let rows = self.rows.iter().map_while(|row| Some((*row.reason.get()?, row.count.value())));
        let other = Some(((0, "other"), self.other.value())).filter(|(_, count)| *count > 0);
        rows.chain(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_row_and_what_finds_none_is_other() {
        let table = ReasonTable::default();
        assert_eq!(table.each().count(), 0);
        table.count(400, "b");
        table.count(503, "a");
        table.count(400, "b");
        table.count(502, "b");
        assert_eq!(table.each().collect::<Vec<_>>(), [((400, "b"), 2), ((503, "a"), 1), ((502, "b"), 1)]);
        (1..=ROWS as u16).for_each(|status| table.count(status, "c"));
        assert_eq!(table.each().count(), ROWS + 1);
        assert_eq!(table.each().last(), Some(((0, "other"), 3)));
    }
}
