//! What a job keeps of the rows and records that failed: `<name>$errors`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use storage::{Batch, Column};

use crate::error::Result;
use crate::operator::RowError;

/// The columns of every `<name>$errors`.
pub fn error_columns() -> Vec<Column> {
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
    columns
}

/// Errors kept of one epoch and worker: more are dropped, since a broken stream must not fill the disk in a second.
const ERRORS_PER_EPOCH_MAX: usize = 10_000;

/// The rows of `$errors` for what failed in an epoch. A retraction of a failed row is no new error.
pub fn error_batch(epoch: u64, worker: usize, errors: Vec<RowError>) -> Result<Batch> {
    let errors: Vec<RowError> = errors.into_iter().filter(|e| e.diff > 0).take(ERRORS_PER_EPOCH_MAX).collect();
    let n = errors.len();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
    let id = |i: usize| (epoch << 22 | (worker as u64 & 0xff) << 14 | i as u64) as i64;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values((0..n).map(id))),
        Arc::new(errors.iter().map(|e| e.split.as_deref()).collect::<StringViewArray>()),
        Arc::new(errors.iter().map(|e| e.offset).collect::<Int64Array>()),
        Arc::new(errors.iter().map(|e| e.raw.as_deref()).collect::<BinaryViewArray>()),
        Arc::new(errors.iter().map(|e| Some(e.reason.as_str())).collect::<StringViewArray>()),
        Arc::new(errors.iter().map(|e| Some(e.sqlstate.as_str())).collect::<StringViewArray>()),
        Arc::new(TimestampMicrosecondArray::from_value(now, n).with_timezone("UTC")),
    ];
    let schema = storage::types::arrow_schema(&error_columns());
    Ok(Batch::new(RecordBatch::try_new(schema, columns)?, None))
}
