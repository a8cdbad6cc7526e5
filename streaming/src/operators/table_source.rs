//! The changes that INSERT, UPDATE, DELETE and TRUNCATE make to a table.
//!
//! Rule    A change is in the synced log before it is here; all changes of one transaction are in one epoch.
//! State   The log's sequence number as of each sealed epoch.
//! Epochs  The epoch is fixed when the change is queued.

use std::sync::atomic::Ordering;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::driver::{JobContext, Leaf, Next};
use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// The changes that INSERT, UPDATE, DELETE and TRUNCATE make to a table. The driver runs it: it has no input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableSource {
    /// The table.
    pub relation: storage::RelationId,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for TableSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("a table's changes are read by the driver".into()))
    }
    fn describe(&self) -> String {
        "INSERT, UPDATE, DELETE".into()
    }
}

/// Takes a table's changes out of its queue, on one worker.
pub struct TableLeaf {
    ctx: JobContext,
    /// The last sequence number handed out, and the epochs of those that are not sealed yet.
    handed_out: Vec<(u64, u64)>,
}

impl TableLeaf {
    /// The leaf of one worker; the others have nothing to hand out.
    pub fn new(ctx: JobContext) -> TableLeaf {
        TableLeaf { ctx, handed_out: Vec::new() }
    }

    fn is_mine(&self) -> bool {
        self.ctx.job.relation.0 as usize % self.ctx.workers == self.ctx.worker
    }
}

impl Leaf for TableLeaf {
    fn next(&mut self, target: u64, sealed: u64) -> Next {
        let table = self.ctx.job.table.as_ref().expect("a table job");
        if !self.is_mine() {
            return Next::Nothing;
        }
        let mut queue = table.queue.lock();
        match queue.front() {
            Some((epoch, ..)) if target <= sealed || *epoch <= target => {
                let (epoch, sequence, batch) = queue.pop_front().expect("the front");
                self.handed_out.push((epoch, sequence));
                Next::Batch(epoch, batch)
            }
            _ => Next::Nothing,
        }
    }

    fn sealed(&mut self, target: u64, _checkpoint: bool) -> Result<()> {
        if let Some(table) = &self.ctx.job.table
            && self.is_mine()
        {
            let last = self.handed_out.iter().filter(|(epoch, _)| *epoch <= target).map(|(_, s)| *s).max();
            if let Some(sequence) = last {
                table.applied.fetch_max(sequence, Ordering::Release);
            }
            self.handed_out.retain(|(epoch, _)| *epoch > target);
        }
        Ok(())
    }
}
