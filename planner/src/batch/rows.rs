//! The rows that a read sees of each relation.

use arrow::array::RecordBatch;
use storage::{Batch, RelationId, RelationSnapshot};

use crate::error::Result;

/// The rows that a read sees, per relation.
pub trait Tables: Send + Sync {
    /// The rows of `relation`. Its columns are the relation's, hidden ones included.
    fn table(&self, relation: RelationId) -> Result<TableRows>;
}

/// The rows of a relation.
#[derive(Clone)]
pub enum TableRows {
    /// As of an epoch.
    Snapshot(RelationSnapshot),
    /// Made up for the read: a system table.
    Rows(Vec<RecordBatch>),
    /// As of an epoch, with what the transaction has changed since.
    Overlay {
        /// As of an epoch.
        snapshot: RelationSnapshot,
        /// The changes, in the relation's columns.
        changes: Vec<Batch>,
    },
}
