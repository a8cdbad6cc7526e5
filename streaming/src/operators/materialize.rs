//! Keeps the job's result as a relation that can be read and tapped. The root of every job but a source's.
//!
//! Rule    At the seal, what changed in the epoch is published once: to the relation, to the taps, to subscriptions.
//! State   The relation itself: its rows as of the checkpoint in the store, the changes since in memory.
//! Epochs  Collects while the epoch is open, consolidates and publishes at the seal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::keys::SortOption;
use storage::{Batch, Epoch, Relation, RelationId};

use crate::driver::JobContext;
use crate::error::{Error, Result};
use crate::event_time::EventTime;
use crate::operator::{Exchange, Operator, Output, Progress, RowError, Seal, StateSize, Task, TaskContext, WatermarkContext};
use crate::owed::{Owed, PublishedErrors};
use crate::retention::{Retention, Tried};
use crate::row_errors::{Keeping, error_batch};
use crate::spec::JobSpec;
use crate::tap::Taps;
use crate::watermark::Watermarks;

/// Rows of one published batch.
const PUBLISHED_ROWS_MAX: usize = 8192;

/// Keeps the job's result as a relation that can be read and tapped. The root of every job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Materialize {
    /// The relation that is kept.
    pub relation: storage::RelationId,
    /// The columns that identify a row; the rows live on the worker of their hash. Empty: one partition.
    pub key: Vec<usize>,
    /// The order of the key columns in the store; empty: all ascending, NULLs last.
    #[serde(default)]
    pub key_order: Vec<SortOption>,
    /// Whether `key` is unique; otherwise rows are counted.
    pub unique: bool,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Materialize {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![if self.key.is_empty() { Exchange::Single } else { Exchange::Hash(self.key.clone()) }]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("a relation is kept by the driver".into()))
    }
    fn describe(&self) -> String {
        let name = |c: &usize| self.schema.field(*c).name().clone();
        let key: Vec<String> = self.key.iter().map(name).collect();
        match (key.is_empty(), self.unique) {
            (true, _) => "no key".into(),
            (false, true) => format!("key ({})", key.join(", ")),
            (false, false) => "key (whole row, counted)".into(),
        }
    }
    fn state(&self) -> Option<String> {
        Some("the view's rows".into())
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        inputs[0].clone()
    }
}

/// The root of a job on one worker.
pub struct Root {
    ctx: JobContext,
    taps: Taps,
    id: RelationId,
    /// `None` for a source, which keeps no rows.
    relation: Option<Arc<Relation>>,
    errors: (RelationId, Arc<Relation>),
    late: Option<(RelationId, Arc<Relation>)>,
    schema: SchemaRef,
    pending: Vec<Batch>,
    /// What it has published since the checkpoint that it started from, until the first epoch behind that.
    owed: Option<(u64, Owed)>,
    keeping: Keeping,
    /// Others may know of the job's changes up to here: what is taken out of what was set aside, is later.
    since: u64,
    retention: Retention,
    late_retention: Option<Retention>,
}

impl Root {
    /// The root of one worker.
    pub fn new(
        ctx: JobContext,
        taps: Taps,
        spec: &JobSpec,
        relation: Option<Arc<Relation>>,
        errors: (RelationId, Arc<Relation>),
        late: Option<(RelationId, Arc<Relation>)>,
        schema: SchemaRef,
        owed: Option<Owed>,
    ) -> Root {
        let owed = owed.map(|owed| (ctx.job.target.load(Ordering::Acquire), owed));
        let since = ctx.job.target.load(Ordering::Acquire).max(ctx.job.changed.load(Ordering::Acquire));
        let late_retention = spec.event_time().and_then(EventTime::late_at).map(Retention::of_late);
        Root {
            ctx,
            taps,
            id: spec.relation,
            relation,
            errors,
            late,
            schema,
            pending: Vec::new(),
            owed,
            keeping: spec.keeping,
            since,
            retention: Retention::of_errors(),
            late_retention,
        }
    }

    /// Publishes what failed, and what is to be known of failures no more.
    fn keep_errors(&mut self, at: Epoch, errors: Vec<RowError>) -> Result<()> {
        let job = self.ctx.job.clone();
        let (errors, dropped) = error_batch(self.keeping, &job.origin.lock(), at.0, self.ctx.worker, errors)?;
        let mut changes = vec![errors];
        let mut forgotten = 0;
        job.row_errors.fetch_add((changes[0].num_rows() + dropped) as u64, Ordering::Relaxed);
        if self.ctx.worker == 0 && at.0 > self.since {
            let tried = job.tried.lock().until(at.0);
            let outdated = self.retention.outdated(&self.errors.1, at, *job.kept.lock(), &tried)?;
            forgotten = outdated.dropped;
            changes.extend(outdated.changes);
        }
        job.row_errors_dropped.fetch_add((dropped + forgotten) as u64, Ordering::Relaxed);
        for changes in changes.iter().filter(|changes| changes.num_rows() > 0) {
            self.errors.1.publish(self.ctx.worker, at, changes)?;
            self.publish(self.errors.0, at.0, changes);
        }
        Ok(())
    }

    /// Publishes what was late, and lets the old of that go.
    fn keep_late(&mut self, at: Epoch) -> Result<()> {
        let Some((id, relation)) = self.late.clone() else { return Ok(()) };
        let due = self.ctx.late.borrow_mut().extract_if(.., |(e, _)| *e <= at.0).collect::<Vec<_>>();
        let mut changes: Vec<Batch> = due.into_iter().map(|(_, batch)| batch).collect();
        if let Some(retention) = self.late_retention.as_mut().filter(|_| self.ctx.worker == 0 && at.0 > self.since) {
            let outdated = retention.outdated(&relation, at, *self.ctx.job.kept.lock(), &Tried::default())?;
            self.ctx.job.late_dropped.fetch_add(outdated.dropped as u64, Ordering::Relaxed);
            changes.extend(outdated.changes);
        }
        for changes in &changes {
            relation.publish(self.ctx.worker, at, changes)?;
            self.publish(id, at.0, changes);
        }
        Ok(())
    }

    fn publish(&self, id: RelationId, epoch: u64, batch: &Batch) {
        // A batch may have been read before the projection grew.
        let source = self.ctx.job.source.as_ref().filter(|_| id == self.id);
        let projection = source.and_then(|s| s.projections.lock().get(&batch.data().num_columns()).cloned());
        let mut offset = 0;
        while offset < batch.num_rows() {
            let length = PUBLISHED_ROWS_MAX.min(batch.num_rows() - offset);
            let part = if length == batch.num_rows() { batch.clone() } else { batch.slice(offset, length) };
            self.taps.publish(id, epoch, &part, projection.as_ref().map(|p| p.as_slice()));
            self.ctx.job.publish(id, epoch, &part);
            offset += length;
        }
        self.ctx.job.changed.fetch_max(epoch, Ordering::Release);
    }
}

impl Task for Root {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        self.pending.push(delta.clone());
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, _out: &mut Output) -> Result<Progress> {
        let epoch = at.epoch.0;
        let mut known = PublishedErrors::default();
        if let Some((_, owed)) = self.owed.take_if(|(since, _)| epoch > *since) {
            let (rows, errors) = owed.settle(&self.schema)?;
            self.pending.extend(rows.iter().map(Batch::negate));
            known = errors;
        }
        let errors = known.new_of(std::mem::take(&mut *self.ctx.errors.borrow_mut()));
        if self.ctx.job.fails_on_error.load(Ordering::Acquire)
            && let Some(error) = errors.iter().find(|error| error.diff > 0)
        {
            return Err(Error::Failed(format!("a row failed, and on_error is 'fail': {}", error.reason)));
        }
        let pending = std::mem::take(&mut self.pending);
        match &self.relation {
            None => {
                for batch in &pending {
                    self.publish(self.id, epoch, batch);
                }
            }
            Some(relation) if !pending.is_empty() => {
                let all = match &pending[..] {
                    [one] => one.clone(),
                    many => Batch::concat(&self.schema, many)?,
                };
                let batch = if all.is_append_only() { all } else { all.consolidate()? };
                if batch.num_rows() > 0 {
                    relation.publish(self.ctx.worker, Epoch(epoch), &batch)?;
                    self.publish(self.id, epoch, &batch);
                }
            }
            Some(_) => {}
        }
        self.keep_errors(at.epoch, errors)?;
        self.keep_late(at.epoch)?;
        let due: Vec<(u64, Batch)> = self.ctx.history.borrow_mut().extract_if(.., |(e, _)| *e <= epoch).collect();
        for (_, batch) in due {
            self.taps.publish_history(self.id, epoch, &batch);
            self.ctx.job.changed.fetch_max(epoch, Ordering::Release);
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        let rows = |r: &Arc<Relation>| r.snapshot(r.newest()).map_or(0, |snapshot| snapshot.rows_estimate());
        let rows = self.relation.as_ref().map_or(0, rows);
        StateSize { rows: if self.ctx.worker == 0 { rows } else { 0 }, bytes: 0 }
    }
}
