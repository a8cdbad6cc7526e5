//! The `ttl` of tables: rows leave by themselves once they are older.

use arrow::array::{Array, Int64Array};
use serde::{Deserialize, Serialize};

/// When rows leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl {
    /// The column with the time that a row is as old as.
    pub column: usize,
    /// How old, in microseconds.
    pub micros: i64,
    /// Whether that is when the row was inserted: then none is due before this time has passed.
    pub stamped: bool,
}

impl Ttl {
    /// Whether the row with a time is older.
    pub fn is_over(&self, times: &Int64Array, row: usize, now: i64) -> bool {
        times.is_valid(row) && times.value(row).saturating_add(self.micros) < now
    }
}
