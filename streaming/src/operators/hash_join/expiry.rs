//! Rows that nothing can meet any more: they leave as the watermarks pass.
//!
//! ```text
//! a.ts >= b.lo, and no b.lo below 12:00 will come        an a.ts below 12:00 meets nothing new
//! a.ts has the watermark 12:05                           and no such row is taken back
//! ```
//!
//! What came out stays as it is: a row without a match that is out padded will find none.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;
use serde::{Deserialize, Serialize};
use storage::{Batch, row};

use super::range::Values;
use super::side::{LIVE, Side};
use crate::error::Result;
use crate::operator::{OUTPUT_ROWS_MAX, Progress, Seal};
use crate::watermark;

/// When the rows of one side can be dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// The column of this side that is never below `other` in a pair: both have a watermark, or `own` is not needed.
    pub column: usize,
    /// The column of the other side.
    pub other: usize,
    /// Whether rows of this side may be taken back, so that its own watermark has to pass too.
    pub own: bool,
    /// Whether a NULL equals a NULL, so that rows with one never leave; otherwise they meet nothing.
    #[serde(default)]
    pub null_equal: bool,
}

impl Expiry {
    /// Below this a row of side `side` meets nothing and is not taken back.
    fn bound(&self, side: usize, at: &Seal) -> Option<i64> {
        let other = at.bound(1 - side, self.other)?;
        match self.own {
            true => Some(other.min(at.bound(side, self.column)?)),
            false => Some(other),
        }
    }
}

/// Rows of a side by the value that they expire by. An entry may be older than the row that has its number now.
pub(in crate::operators) struct Expiring {
    expiry: Expiry,
    due: BTreeMap<i64, Vec<u32>>,
    entries: usize,
}

/// Rows that one step looks at.
const STEP_ROWS_MAX: usize = 65_536;

impl Expiring {
    pub(in crate::operators) fn new(expiry: Expiry) -> Expiring {
        Expiring { expiry, due: BTreeMap::new(), entries: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries * size_of::<u32>() + self.due.len() * 64
    }

    pub(super) fn values(&self, delta: &Batch) -> Vec<i64> {
        self.numbers(delta.column(self.expiry.column))
    }

    pub(super) fn note(&mut self, value: i64, row: u32) {
        self.due.entry(value).or_default().push(row);
        self.entries += 1;
    }

    /// The values that rows expire by. A NULL is below all if it meets nothing.
    fn numbers(&self, column: &ArrayRef) -> Vec<i64> {
        let null = if self.expiry.null_equal { i64::MAX } else { i64::MIN };
        watermark::values(column).iter().map(|value| value.unwrap_or(null)).collect()
    }

    /// The next rows below `bound`.
    /// Forgets all rows: they get other numbers.
    pub(super) fn clear(&mut self) {
        self.due.clear();
        self.entries = 0;
    }

    fn take(&mut self, bound: i64) -> Vec<u32> {
        let mut rows = Vec::new();
        while rows.len() < STEP_ROWS_MAX
            && let Some(first) = self.due.first_entry()
            && *first.key() < bound
        {
            rows.append(&mut first.remove());
        }
        self.entries -= rows.len();
        rows
    }
}

impl Side {
    /// Drops the rows that the watermarks have passed, as many as one step may.
    pub(in crate::operators) fn expire(&mut self, side: usize, at: &Seal) -> Result<Progress> {
        let Some(bound) = self.expiring.as_ref().and_then(|e| e.expiry.bound(side, at)) else {
            return Ok(Progress::Done);
        };
        let Some(due) = self.expiring.as_mut().map(|e| e.take(bound)) else { return Ok(Progress::Done) };
        if due.is_empty() {
            return Ok(Progress::Done);
        }
        for due in due.chunks(OUTPUT_ROWS_MAX) {
            let live = |row: &u32| self.links[*row as usize].flags & LIVE != 0 && self.links[*row as usize].count != 0;
            let mut rows: Vec<u32> = due.iter().copied().filter(live).collect();
            rows.sort_unstable();
            rows.dedup();
            let values = self.expiring_values(&rows)?;
            let expired: Vec<u32> =
                rows.iter().zip(values).filter(|(_, value)| *value < bound).map(|(row, _)| *row).collect();
            self.drop_rows(&expired)?;
        }
        self.collect();
        Ok(Progress::More)
    }

    /// What some rows expire by.
    fn expiring_values(&self, rows: &[u32]) -> Result<Vec<i64>> {
        let Some(expiring) = &self.expiring else { return Ok(vec![]) };
        let column = expiring.expiry.column;
        let array = match self.key_columns.iter().position(|key| *key == column) {
            Some(key) => {
                let keys = rows.iter().map(|row| self.keys.get(self.links[*row as usize].key));
                row::decode(&self.key_types, keys)?.swap_remove(key)
            }
            None => self.columns(rows)?.swap_remove(column),
        };
        Ok(expiring.numbers(&array))
    }

    /// Takes rows out of the state, though they were not taken back.
    fn drop_rows(&mut self, rows: &[u32]) -> Result<()> {
        let order = match &self.order_by {
            Some(order_by) => Some(Values::of_columns(&self.columns(rows)?, order_by)?),
            None => None,
        };
        for (i, &number) in rows.iter().enumerate() {
            let link = self.links[number as usize];
            self.take_out(number);
            if let Some(value) = order.as_ref().and_then(|order| order.get(i)) {
                self.order.remove(link.key, value, number);
            }
        }
        Ok(())
    }

    /// Notes what rows that were read from the store expire by.
    pub(super) fn note_expiring(&mut self, numbers: &[u32]) -> Result<()> {
        if self.expiring.is_none() {
            return Ok(());
        }
        for numbers in numbers.chunks(OUTPUT_ROWS_MAX) {
            let values = self.expiring_values(numbers)?;
            if let Some(expiring) = &mut self.expiring {
                values.into_iter().zip(numbers).for_each(|(value, row)| expiring.note(value, *row));
            }
        }
        Ok(())
    }
}
