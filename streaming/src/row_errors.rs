//! What a job keeps of the rows and records that failed: `<name>$errors`, so many and for so long; or that it stops at one

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BinaryViewArray, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use serde::{Deserialize, Serialize};
use storage::{Batch, Column, RelationId};

use crate::error::Result;
use crate::operator::RowError;

/// Columns of `<name>$errors`, by their place.
pub const ERROR_ID: usize = 0;
/// See [`ERROR_ID`].
pub const SPLIT: usize = 1;
/// See [`ERROR_ID`].
pub const OFFSET: usize = 2;
/// See [`ERROR_ID`].
pub const RAW: usize = 3;
/// See [`ERROR_ID`].
pub const REASON: usize = 4;
/// See [`ERROR_ID`].
pub const SQLSTATE: usize = 5;
/// See [`ERROR_ID`].
pub const AT: usize = 6;
/// See [`ERROR_ID`]. From the second form on.
pub const ATTEMPTS: usize = 8;

/// What is kept of what a job sets aside: in which columns, how much, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeping {
    /// Which columns there are: a job keeps those that it was created with. The first form lacks where a row came from and how
    /// often it was tried.
    form: u8,
    /// How many of each, if it was said.
    pub max: Option<usize>,
    /// For how many hours, if it was said.
    pub hours: Option<u32>,
}

impl Default for Keeping {
    fn default() -> Keeping {
        Keeping { form: 2, max: None, hours: None }
    }
}

impl Keeping {
    /// Of a job that was created before there was a choice.
    pub fn of_old() -> Keeping {
        Keeping { form: 1, max: None, hours: None }
    }

    /// The columns of `<name>$errors`.
    pub fn columns(&self) -> Vec<Column> {
        use storage::SqlType::*;
        let mut columns = vec![
            Column::new("error_id", BigInt),
            Column::new("split", Text),
            Column::new("offset", BigInt),
            Column::new("raw", Bytea),
            Column::new("reason", Text),
            Column::new("sqlstate", Text),
            Column::new("at", TimestampTz),
        ];
        columns[0].not_null = true;
        if self.form > 1 {
            columns.extend([Column::new("source", Text), Column::new("attempts", Int)]);
        }
        columns
    }

    /// How much that is where `default` is what the server says.
    pub fn kept(&self, default: ErrorsKept) -> ErrorsKept {
        let time = self.hours.map_or(default.time, |hours| Duration::from_secs(u64::from(hours) * 3600));
        ErrorsKept { max: self.max.unwrap_or(default.max), time }
    }
}

/// The key of what becomes of a job's rows that fail; without it they go to the table.
pub fn on_error_key(relation: RelationId) -> Vec<u8> {
    format!("engine/on_error/{}", relation.0).into_bytes()
}

/// What becomes of a row that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It goes to `<name>$errors`, and the job goes on.
    #[default]
    Table,
    /// The job stops.
    Fail,
}

/// How many errors are kept of a job, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorsKept {
    /// So many, the newest.
    pub max: usize,
    /// No longer than this.
    pub time: Duration,
}

impl Default for ErrorsKept {
    fn default() -> ErrorsKept {
        ErrorsKept { max: 10_000, time: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// Errors kept of one epoch and worker: more are dropped, since a broken stream must not fill the disk in a second.
const ERRORS_PER_EPOCH_MAX: usize = 10_000;
/// What is kept of a record that failed.
pub const RAW_BYTES_MAX: usize = 64 << 10;

/// The wall clock, in microseconds since 1970.
pub fn now_us() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

/// The rows of `$errors` for what failed in an epoch, and how many were too many. `source` is where the rows come from. A
/// retraction of a failed row is no new error.
pub fn error_batch(
    keeping: Keeping,
    source: &str,
    epoch: u64,
    worker: usize,
    errors: Vec<RowError>,
) -> Result<(Batch, usize)> {
    let mut errors: Vec<RowError> = errors.into_iter().filter(|e| e.diff > 0).collect();
    let dropped = errors.len().saturating_sub(ERRORS_PER_EPOCH_MAX);
    errors.truncate(ERRORS_PER_EPOCH_MAX);
    let n = errors.len();
    let id = |i: usize| (epoch << 22 | (worker as u64 & 0xff) << 14 | i as u64) as i64;
    let raw = |e: &RowError| e.raw.as_deref().map(|raw| raw[..raw.len().min(RAW_BYTES_MAX)].to_vec());
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values((0..n).map(id))),
        Arc::new(errors.iter().map(|e| e.split.as_deref()).collect::<StringViewArray>()),
        Arc::new(errors.iter().map(|e| e.offset).collect::<Int64Array>()),
        Arc::new(errors.iter().map(raw).collect::<BinaryViewArray>()),
        Arc::new(errors.iter().map(|e| Some(e.reason.as_str())).collect::<StringViewArray>()),
        Arc::new(errors.iter().map(|e| Some(e.sqlstate.as_str())).collect::<StringViewArray>()),
        Arc::new(TimestampMicrosecondArray::from_value(now_us(), n).with_timezone("UTC")),
        Arc::new((0..n).map(|_| Some(source)).collect::<StringViewArray>()),
        Arc::new(Int32Array::from_value(1, n)),
    ];
    let declared = keeping.columns();
    columns.truncate(declared.len());
    let schema = storage::types::arrow_schema(&declared);
    Ok((Batch::new(RecordBatch::try_new(schema, columns)?, None), dropped))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    fn error(reason: &str) -> RowError {
        RowError { reason: reason.into(), sqlstate: "22012".into(), diff: 1, ..RowError::default() }
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let batch = |errors| error_batch(Keeping::default(), "s", 1, 0, errors).unwrap();
        let (flood, dropped) = batch(vec![error("a"); ERRORS_PER_EPOCH_MAX + 5]);
        assert_eq!((flood.num_rows(), dropped), (ERRORS_PER_EPOCH_MAX, 5));
        let long = RowError { raw: Some(vec![b'x'; RAW_BYTES_MAX + 1]), ..error("a") };
        let (long, _) = batch(vec![long]);
        assert_eq!(long.column(RAW).as_binary_view().value(0).len(), RAW_BYTES_MAX);
    }

    #[test]
    fn a_job_keeps_the_columns_that_it_was_created_with() {
        let (old, _) = error_batch(Keeping::of_old(), "s", 1, 0, vec![error("a")]).unwrap();
        let (new, _) = error_batch(Keeping::default(), "s", 1, 0, vec![error("a")]).unwrap();
        assert_eq!((old.data().num_columns(), new.data().num_columns()), (7, 9));
        let said = Keeping { max: Some(3), hours: Some(2), ..Keeping::default() };
        assert_eq!(said.kept(ErrorsKept::default()), ErrorsKept { max: 3, time: Duration::from_secs(7200) });
        assert_eq!(Keeping::of_old().kept(ErrorsKept::default()), ErrorsKept::default());
    }
}
