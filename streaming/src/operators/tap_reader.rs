//! Reads another job's relation: its rows as of one epoch first, then its changes, epoch by epoch.
//!
//! Rule    snapshot as of S, then every change after S: together the relation, at every epoch.
//! State   What waits in the inbox for a later target.
//! Epochs  Everything up to the target is handed out in the target's epoch: a reader that is behind gets it merged.
//! Limits  Small batches are joined up to BATCH_ROWS.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::Int64Type;
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::driver::{JobContext, Leaf, Next};
use crate::error::{Error, Result};
use crate::event_time::{Judge, Progress};
use crate::inbox::Inbox;
use crate::job::{SplitState, Start, Stretch};
use crate::operator::{Exchange, Operator, Task, TaskContext};
use crate::reader::{self, Message, Reader};
use crate::source::{Offset, Source};
use crate::watermark::Watermarks;


/// Rows up to which small batches are joined.
const BATCH_ROWS: usize = 4096;
/// Rows of one batch at most.
const BATCH_ROWS_MAX: usize = 8192;
/// Rows of several epochs that are consolidated at once.
const MERGE_ROWS: usize = 65_536;

/// Reads another job's relation: its snapshot first, then its changes, epoch by epoch. The driver runs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TapReader {
    /// What is read.
    pub relation: storage::RelationId,
    /// Its name, for EXPLAIN.
    pub name: String,
    /// The columns of the relation that come out, in this order.
    pub columns: Vec<usize>,
    /// Whether the relation only ever grows.
    pub append_only: bool,
    /// Reads what a table's rows were at which times instead: each change of a row as one more row, with the time from
    /// which it counts and whether it was deleted then behind `columns`. The output column with the row's own time.
    #[serde(default)]
    pub history: Option<usize>,
    /// Per output column whether it has a watermark, and of what kind; its value is unknown here.
    #[serde(default)]
    pub watermarks: Watermarks,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for TapReader {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("a tap is read by the driver".into()))
    }
    fn describe(&self) -> String {
        let names: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let kind = match (self.history, self.append_only) {
            (Some(_), _) => ", every version",
            (None, true) => ", append-only",
            (None, false) => "",
        };
        format!("{} ({}){kind}", self.name, names.join(", "))
    }
}

impl TapReader {
    /// The column of the relation whose watermark holds of an output column, and whether rows below it may change.
    pub(crate) fn watermarked_by(&self, output: usize) -> Option<(usize, bool)> {
        match self.history {
            None => self.columns.get(output).map(|column| (*column, true)),
            // A change below the watermark counts from the watermark on.
            Some(time) => (output == self.columns.len()).then(|| (self.columns[time], false)),
        }
    }
}

/// Reads a tap on one worker.
pub struct TapLeaf {
    ctx: JobContext,
    node: usize,
    columns: Vec<usize>,
    append_only: bool,
    history: Option<usize>,
    schema: SchemaRef,
    inbox: Rc<RefCell<Inbox>>,
    /// Changes that are taken and not handed out yet.
    merged: VecDeque<Batch>,
    wake: Arc<dyn Fn() + Send + Sync>,
    /// Changes up to here are in what was read first; `None` before the start.
    start: Option<u64>,
    first: First,
    /// Which records of a source are late: those that its shared readers set aside.
    judge: Option<Arc<Judge>>,
    /// It has nothing to say up to this epoch.
    not_before: u64,
}

/// What is read before the changes.
enum First {
    Done,
    Rows(Box<dyn Iterator<Item = storage::Result<RecordBatch>> + Send>),
    Records(Vec<CatchUp>),
}

struct CatchUp {
    reader: Reader,
    until: Offset,
    /// Position of `_row_id` in what the reader returns.
    row_id: usize,
    /// Output column -> column of what the reader returns.
    columns: Vec<usize>,
    /// What the split says of late rows, from its beginning on.
    progress: Progress,
}

impl TapLeaf {
    /// The leaf of one worker.
    pub fn new(
        ctx: JobContext,
        node: usize,
        tap: &TapReader,
        inbox: Rc<RefCell<Inbox>>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> TapLeaf {
        TapLeaf {
            ctx,
            node,
            columns: tap.columns.clone(),
            append_only: tap.append_only,
            history: tap.history,
            schema: tap.schema.clone(),
            inbox,
            merged: VecDeque::new(),
            wake,
            start: None,
            first: First::Done,
            judge: None,
            not_before: 0,
        }
    }

    fn begin(&mut self) -> Result<bool> {
        let Some(start) = self.ctx.job.starts.lock().get(&self.node).cloned() else { return Ok(false) };
        let (worker, workers) = (self.ctx.worker, self.ctx.workers);
        match start {
            Start::Resume { epoch } => self.start = Some(epoch),
            Start::Snapshot { snapshot, epoch } => {
                let vnodes = storage::batch::vnodes_of_worker(worker, workers);
                self.first = First::Rows(snapshot.scan(Some(&self.columns), vnodes));
                self.start = Some(epoch);
            }
            Start::Records { source, splits, columns, judge, epoch } => {
                let whole = |split: SplitState| Stretch {
                    id: split.id,
                    number: split.number,
                    from: split.start,
                    until: split.offset,
                    progress: Progress::from_start(split.progress.raises),
                    columns: columns.to_vec(),
                };
                let stretches = splits.into_iter().map(whole).collect();
                self.first = First::Records(self.catch_ups(&source, stretches));
                self.judge = judge;
                self.start = Some(epoch);
            }
            Start::Again { source, stretches, judge, epoch } => {
                self.first = First::Records(self.catch_ups(&source, stretches));
                self.judge = judge;
                self.start = Some(epoch);
                self.not_before = epoch;
            }
        }
        Ok(true)
    }

    /// Readers of the records of this worker's splits.
    fn catch_ups(&self, source: &Arc<dyn Source>, stretches: Vec<Stretch>) -> Vec<CatchUp> {
        let (worker, workers) = (self.ctx.worker, self.ctx.workers);
        let hidden = source.columns().len();
        let is_mine = |stretch: &Stretch| stretch.number as usize % workers == worker && stretch.from < stretch.until;
        let catch_up = |stretch: Stretch| {
            let Stretch { id, number, from, until, progress, columns } = stretch;
            let mut projection = self.columns.clone();
            projection.extend(columns);
            projection.push(hidden);
            projection.sort_unstable();
            projection.dedup();
            let projection = Arc::new(projection);
            let place = |column: usize| projection.binary_search(&column).expect("projected");
            let wake = self.wake.clone();
            let reader = reader::start(source.clone(), id, number, from, projection.clone(), Box::new(move || wake()));
            let columns = self.columns.iter().map(|c| place(*c)).collect();
            CatchUp { reader, until, row_id: place(hidden), columns, progress }
        };
        stretches.into_iter().filter(is_mine).map(catch_up).collect()
    }

    fn rename(&self, data: &RecordBatch, columns: impl Iterator<Item = usize>) -> Result<RecordBatch> {
        let columns = columns.map(|c| data.column(c).clone()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(data.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }

    /// What is there when a history begins to be read counts from its own time on.
    fn first_versions(&self, data: &RecordBatch, time: usize) -> Result<RecordBatch> {
        let n = data.num_rows();
        let mut columns = data.columns().to_vec();
        columns.push(columns[time].clone());
        columns.push(Arc::new(BooleanArray::from(vec![false; n])));
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }

    fn next_batch(&mut self, target: u64) -> Result<Next> {
        if self.start.is_none() && !self.begin()? {
            return Ok(Next::Later);
        }
        if target <= self.not_before {
            return Ok(Next::Nothing);
        }
        let start = self.start.expect("begun");
        match &mut self.first {
            First::Done => {}
            First::Rows(rows) => match rows.next() {
                Some(data) => {
                    let data = data?;
                    self.ctx.job.rows_read.fetch_add(data.num_rows() as u64, Ordering::Relaxed);
                    let data = match self.history {
                        None => self.rename(&data, 0..data.num_columns())?,
                        Some(time) => self.first_versions(&data, time)?,
                    };
                    return Ok(Next::Batch(target, Batch::new(data, None)));
                }
                None => self.first = First::Done,
            },
            First::Records(catch_ups) => {
                for i in 0..catch_ups.len() {
                    let catch_up = &mut catch_ups[i];
                    let end: Option<()> = match catch_up.reader.messages.try_recv() {
                        Err(_) => continue,
                        Ok(Message::Failed(error)) => return Ok(Next::Failed(error)),
                        Ok(Message::Unavailable(_)) => continue,
                        Ok(Message::Position(next) | Message::End(next)) => (next >= catch_up.until).then_some(()),
                        Ok(Message::Records(records)) => {
                            let done = records.next >= catch_up.until;
                            let mut batch = before(&records.batch, catch_up.row_id, catch_up.until)?;
                            if let Some(judge) = &self.judge {
                                let last = records.next.0.min(catch_up.until.0) - 1;
                                // Its late rows and errors are set aside by the source's own job.
                                batch = judge.records("", &mut catch_up.progress, &batch, Some(last))?.taken;
                            }
                            let columns = catch_up.columns.clone();
                            let data = self.rename(batch.data(), columns.into_iter())?;
                            let batch = Batch::new(data, batch.diffs().cloned());
                            let First::Records(catch_ups) = &mut self.first else { unreachable!() };
                            if done {
                                catch_ups.swap_remove(i);
                            }
                            self.ctx.job.rows_read.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                            if batch.num_rows() > 0 {
                                return Ok(Next::Batch(target, batch));
                            }
                            return Ok(Next::Later);
                        }
                    };
                    if end.is_some() {
                        catch_ups.swap_remove(i);
                        return Ok(Next::Later);
                    }
                }
                if !catch_ups.is_empty() {
                    return Ok(Next::Later);
                }
                self.first = First::Done;
            }
        }
        loop {
            if let Some(batch) = self.merged.pop_front() {
                return Ok(Next::Batch(target, batch));
            }
            let until = target.min(self.ctx.job.take.load(Ordering::Acquire));
            let Some(batch) = self.changes(until, start)? else { return Ok(Next::Nothing) };
            let rows = batch.num_rows();
            for offset in (0..rows).step_by(BATCH_ROWS_MAX) {
                self.merged.push_back(batch.slice(offset, BATCH_ROWS_MAX.min(rows - offset)));
            }
        }
    }

    /// The next changes up to `until` that are not in what was read first. Of a relation whose rows come and go,
    /// several epochs are consolidated: that is never more than the old rows and the new ones together.
    fn changes(&mut self, until: u64, start: u64) -> Result<Option<Batch>> {
        let mut inbox = self.inbox.borrow_mut();
        let (_, several) = inbox.waiting(until);
        let merge = several && !self.append_only;
        let enough = if merge { MERGE_ROWS } else { BATCH_ROWS };
        let mut parts: Vec<Batch> = Vec::new();
        let mut rows = 0;
        while rows < enough {
            let Some((epoch, batch)) = inbox.pop(until)? else { break };
            if epoch > start {
                rows += batch.num_rows();
                parts.push(batch);
            }
        }
        Ok(match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ if merge => Some(Batch::concat(&self.schema, &parts)?.consolidate()?),
            _ => Some(Batch::concat(&self.schema, &parts)?),
        })
    }
}

/// The rows whose record lies before `until`.
fn before(batch: &Batch, row_id: usize, until: Offset) -> Result<Batch> {
    const OFFSET_MASK: i64 = (1 << 48) - 1;
    let ids = batch.data().column(row_id).as_primitive::<Int64Type>();
    if ids.values().last().is_none_or(|id| id & OFFSET_MASK < until.0) {
        return Ok(batch.clone());
    }
    let keep: BooleanArray = ids.values().iter().map(|id| Some(id & OFFSET_MASK < until.0)).collect();
    Ok(batch.filter(&keep)?)
}

impl Leaf for TapLeaf {
    fn next(&mut self, target: u64, sealed: u64) -> Next {
        if target <= sealed {
            return Next::Nothing;
        }
        self.next_batch(target).unwrap_or_else(|error| Next::Failed(error.to_string()))
    }

    fn sealed(&mut self, _target: u64, checkpoint: bool) -> Result<()> {
        if checkpoint && let Some(limit) = self.ctx.job.cut_limits.lock().get(&self.node).copied() {
            self.inbox.borrow_mut().store(limit)?;
        }
        Ok(())
    }
}
