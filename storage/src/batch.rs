//! A batch of changes: Arrow columns and an optional diff per row.

use arrow::array::{Int64Array, RecordBatch};
use arrow_schema::SchemaRef;

/// Rows with a diff each; without diffs every row is +1.
#[derive(Clone, Debug)]
pub struct Batch {
    data: RecordBatch,
    diffs: Option<Int64Array>,
}

impl Batch {
    /// Rows with their diffs.
    pub fn new(data: RecordBatch, diffs: Option<Int64Array>) -> Batch {
        debug_assert!(diffs.as_ref().is_none_or(|d| d.len() == data.num_rows()));
        Batch { data, diffs }
    }
    /// The rows without their diffs.
    pub fn data(&self) -> &RecordBatch {
        &self.data
    }
    /// The diffs; `None` if every row is +1.
    pub fn diffs(&self) -> Option<&Int64Array> {
        self.diffs.as_ref()
    }
    /// The columns' types.
    pub fn schema(&self) -> SchemaRef {
        self.data.schema()
    }
    /// The number of rows.
    pub fn num_rows(&self) -> usize {
        self.data.num_rows()
    }
}
