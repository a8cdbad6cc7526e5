//! Keeps the job's result as a relation that can be read and tapped. The root of every job but a source's.
//!
//! Rule    At the seal, what changed in the epoch is published once: to the relation, to the taps, to subscriptions.
//! State   The relation itself: its rows as of the checkpoint in the store, the changes since in memory.
//! Epochs  Collects while the epoch is open, consolidates and publishes at the seal.
//! Limits  A large epoch is published in pieces of PIECE_ROWS, over as many activations as it takes.

use std::collections::VecDeque;
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
/// Rows that are put into the relation in one activation, about.
const PIECE_ROWS: usize = 16_384;
/// Pieces that an epoch is divided into, at most: there are only so many vnodes.
const PIECES_MAX: usize = 256;

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

/// What one epoch says, in pieces that are not too long to be published in one activation each. Changes of equal rows are in
/// one piece, where they cancel out.
struct Pieces {
    /// What is not divided yet.
    whole: VecDeque<Batch>,
    /// Whether no row is taken back.
    all_new: bool,
    /// The columns that it is divided by; all if there are none.
    columns: Vec<usize>,
    /// None if it need not be divided.
    parts: VecDeque<Vec<Batch>>,
}

impl Pieces {
    fn of(batches: Vec<Batch>, columns: Vec<usize>) -> Pieces {
        let rows: usize = batches.iter().map(Batch::num_rows).sum();
        // Rows that are all new cancel nothing out.
        let all_new = batches.iter().all(Batch::is_append_only);
        let n = if all_new || rows <= PIECE_ROWS { 0 } else { rows.div_ceil(PIECE_ROWS).min(PIECES_MAX) };
        Pieces { whole: batches.into(), all_new, columns, parts: vec![Vec::new(); n].into() }
    }

    /// The next piece, which may be empty; `None` after the last.
    fn next(&mut self, schema: &SchemaRef) -> Result<Option<Batch>> {
        if !self.parts.is_empty() && !self.whole.is_empty() {
            self.divide()?;
            return Ok(Some(Batch::empty(schema.clone())));
        }
        let mut part = match self.parts.pop_front() {
            Some(part) => part,
            None => self.front(),
        };
        Ok(match part.len() {
            0 => (!self.is_done()).then(|| Batch::empty(schema.clone())),
            1 if self.all_new => part.pop(),
            _ if self.all_new => Some(Batch::concat(schema, &part)?),
            _ => {
                let piece = Batch::concat(schema, &part)?;
                Some(if piece.is_append_only() { piece } else { piece.consolidate()? })
            }
        })
    }

    /// All that is left, or so much of it as makes a piece if its rows need not meet.
    fn front(&mut self) -> Vec<Batch> {
        let (mut front, mut rows) = (Vec::new(), 0);
        while let Some(batch) = self.whole.front()
            && (!self.all_new || rows == 0 || rows + batch.num_rows() <= PIECE_ROWS)
        {
            rows += batch.num_rows();
            front.extend(self.whole.pop_front());
        }
        front
    }

    /// Puts some of the rows where the others of their key are.
    fn divide(&mut self) -> Result<()> {
        let (mut rows, n) = (0, self.parts.len());
        while rows < PIECE_ROWS
            && let Some(batch) = self.whole.pop_front()
        {
            rows += batch.num_rows();
            let all: Vec<usize> = (0..batch.data().num_columns()).collect();
            let columns = if self.columns.is_empty() { &all } else { &self.columns };
            for (part, batch) in self.parts.iter_mut().zip(batch.split(columns, n)?) {
                if batch.num_rows() > 0 {
                    part.push(batch);
                }
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.whole.is_empty() && self.parts.is_empty()
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
    /// What of the epoch in hand is not published yet, once it is complete.
    publishing: Option<Pieces>,
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
            publishing: None,
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
        if self.publishing.is_none() {
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
            *self.ctx.errors.borrow_mut() = errors;
            let pending = std::mem::take(&mut self.pending);
            self.publishing = Some(match &self.relation {
                Some(relation) => Pieces::of(pending, relation.spec().key.clone()),
                None => {
                    // They may have been read before the projection grew, and have other columns then.
                    pending.iter().for_each(|batch| self.publish(self.id, epoch, batch));
                    Pieces::of(Vec::new(), Vec::new())
                }
            });
        }
        while let Some(pieces) = &mut self.publishing {
            let Some(piece) = pieces.next(&self.schema)? else { break };
            let is_done = pieces.is_done();
            if piece.num_rows() > 0 {
                if let Some(relation) = &self.relation {
                    relation.publish(self.ctx.worker, Epoch(epoch), &piece)?;
                }
                self.publish(self.id, epoch, &piece);
                self.ctx.job.rows_published.fetch_add(piece.num_rows() as u64, Ordering::Relaxed);
            }
            if !is_done {
                return Ok(Progress::More);
            }
        }
        self.publishing = None;
        let errors = std::mem::take(&mut *self.ctx.errors.borrow_mut());
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
        let bytes = self.pending.iter().map(Batch::bytes).sum::<usize>() as u64;
        StateSize { rows: if self.ctx.worker == 0 { rows } else { 0 }, bytes }
    }
}
