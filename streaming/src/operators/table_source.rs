//! The changes that INSERT, UPDATE, DELETE and TRUNCATE make to a table.
//!
//! Rule    A change is in the synced log before it is here; all changes of one transaction are in one epoch.
//! State   The log's sequence number and the watermark as of each sealed epoch.
//! Epochs  The epoch is fixed when the change is queued.

use std::sync::atomic::Ordering;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::driver::{JobContext, Leaf, Next};
use crate::error::{Error, Result};
use crate::event_time::{EventTime, Judge, Progress};
use crate::operator::{Exchange, Operator, Task, TaskContext};
use crate::ttl::Ttl;

/// The changes that INSERT, UPDATE, DELETE and TRUNCATE make to a table. The driver runs it: it has no input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableSource {
    /// The table.
    pub relation: storage::RelationId,
    /// `WATERMARK FOR ...`
    #[serde(default)]
    pub event_time: Option<EventTime>,
    /// When rows leave by themselves.
    #[serde(default)]
    pub ttl: Option<Ttl>,
    /// Columns with the time at which a row was written: their watermark is the clock.
    #[serde(default)]
    pub processing_time: Vec<usize>,
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
    /// The epochs that are not sealed yet, their sequence numbers, and the watermark behind them.
    handed_out: Vec<(u64, u64, i64)>,
    /// Who is late, if the table has a watermark, and by which key rows are changed.
    judge: Option<(Judge, Vec<usize>)>,
    progress: Progress,
}

impl TableLeaf {
    /// The leaf of one worker; the others have nothing to hand out.
    pub fn new(ctx: JobContext, judge: Option<(Judge, Vec<usize>)>) -> TableLeaf {
        let event = ctx.job.table.as_ref().and_then(|table| table.event.as_ref());
        let at = event.map_or(i64::MIN, |event| event.at.load(Ordering::Acquire));
        TableLeaf { ctx, handed_out: Vec::new(), judge, progress: Progress::of_table(at) }
    }

    /// Sets the late rows of one write aside.
    fn judge(&mut self, epoch: u64, sequence: u64, batch: Batch) -> Result<Batch> {
        let Some((judge, key)) = &self.judge else { return Ok(batch) };
        let before = self.progress.at;
        let judged = judge.write(sequence, &mut self.progress, &batch, key)?;
        if let Some(history) = judge.history(before, &judged.taken, key)? {
            self.ctx.history.borrow_mut().push((epoch, history));
        }
        self.ctx.errors.borrow_mut().extend(judged.errors);
        if judged.late.num_rows() > 0 {
            if let Some(event) = self.ctx.job.table.as_ref().and_then(|table| table.event.as_ref()) {
                event.late_rows.fetch_add(judged.late.num_rows() as u64, Ordering::Relaxed);
            }
            self.ctx.late.borrow_mut().push((epoch, judged.late));
        }
        Ok(judged.taken)
    }

    fn is_mine(&self) -> bool {
        self.ctx.job.relation.0 as usize % self.ctx.workers == self.ctx.worker
    }
}

impl Leaf for TableLeaf {
    fn next(&mut self, target: u64, sealed: u64) -> Next {
        if !self.is_mine() {
            return Next::Nothing;
        }
        loop {
            let table = self.ctx.job.table.as_ref().expect("a table job");
            let is_open = |epoch: u64| target <= sealed || epoch <= target;
            let Some((epoch, sequence, batch)) = table.queue.lock().pop_front_if(|(epoch, ..)| is_open(*epoch)) else {
                return Next::Nothing;
            };
            match self.judge(epoch, sequence, batch) {
                Err(error) => return Next::Failed(error.to_string()),
                Ok(batch) => {
                    self.handed_out.push((epoch, sequence, self.progress.at));
                    if batch.num_rows() > 0 {
                        return Next::Batch(epoch, batch);
                    }
                }
            }
        }
    }

    fn sealed(&mut self, target: u64, _checkpoint: bool) -> Result<()> {
        if let Some(table) = &self.ctx.job.table
            && self.is_mine()
        {
            let last = self.handed_out.iter().filter(|(epoch, ..)| *epoch <= target).max_by_key(|(_, s, _)| *s);
            if let Some((_, sequence, at)) = last {
                table.applied.fetch_max(*sequence, Ordering::Release);
                table.at.store(*at, Ordering::Release);
            }
            self.handed_out.retain(|(epoch, ..)| *epoch > target);
        }
        Ok(())
    }
}
