//! The contract between the engine and an operator: two traits, three verbs.

use std::fmt::Debug;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use storage::{Batch, Epoch, StateTable};

use crate::error::Result;
use crate::expr::Functions;
use crate::lookup::TaskLookups;
use crate::watermark::{Watermark, Watermarks};

/// A plan node: plain data. The planner builds it, the catalog stores it, EXPLAIN prints it, the engine opens it.
pub trait Operator: Debug + Send + Sync {
    /// The columns that come out.
    fn schema(&self) -> SchemaRef;

    /// How rows of each input must be placed on the workers. Its length is the number of inputs.
    fn inputs(&self) -> Vec<Exchange>;

    /// Opens the operator's state on one worker.
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>>;

    /// One line for EXPLAIN without the operator's name: keys, conditions, columns.
    fn describe(&self) -> String;

    /// What state the operator keeps and what bounds it, for EXPLAIN; `None` if it keeps none.
    fn state(&self) -> Option<String> {
        None
    }

    /// What is known of the columns that come out in later epochs, if that is known of each input's. Nothing unless the
    /// operator says so. Called with watermarks whose values are unknown yet when a plan is made ([`Plan::watermarks`]).
    ///
    /// [`Plan::watermarks`]: crate::plan::Plan::watermarks
    fn watermarks(&self, _inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        Vec::new()
    }

    /// The columns of inputs, as (input, column), each of which lets it drop what it keeps below that column's watermark.
    fn expires_by(&self) -> Vec<(usize, usize)> {
        Vec::new()
    }

    /// Whether a watermark alone makes it emit, without any change in the epoch: then its job runs for that.
    fn waits_for_watermark(&self) -> bool {
        false
    }

    /// Whether what it says depends on the epoch's time: then its job runs for every epoch, and there is one every second.
    fn follows_the_clock(&self) -> bool {
        false
    }

    /// How long after its last emission it wants to be sealed again, though nothing changed.
    fn emits_every(&self) -> Option<std::time::Duration> {
        None
    }
}

/// What an operator may ask when it says what is known of its output.
pub struct WatermarkContext<'a> {
    /// The columns of each input.
    pub inputs: &'a [SchemaRef],
    /// The SQL functions that expressions name.
    pub functions: &'a Arc<dyn Functions>,
}

/// One operator on one worker. The driver delivers epochs in order: `apply` for each batch of the oldest open epoch,
/// then `seal` once the epoch is complete on every input.
pub trait Task {
    /// Takes a batch of changes from `input`. `More` asks the driver to call [`Task::resume`] before anything else.
    fn apply(&mut self, input: usize, delta: &Batch, out: &mut Output) -> Result<Progress>;

    /// Goes on with what `apply` left: called in later activations until it says `Done`.
    fn resume(&mut self, _out: &mut Output) -> Result<Progress> {
        Ok(Progress::Done)
    }

    /// The epoch (and what lies below the watermarks in `at`) is complete on every input. Called again until it says `Done`.
    ///
    /// When `at.checkpoint` is set and `Done` is returned, every change up to this epoch must have been put into the
    /// task's state tables: the driver takes their dirty entries next.
    fn seal(&mut self, _at: &Seal, _out: &mut Output) -> Result<Progress> {
        Ok(Progress::Done)
    }

    /// Rows and bytes of state in memory, for `headwater_catalog`, metrics and budgets.
    fn state_size(&self) -> StateSize {
        StateSize::default()
    }

    /// Rows that it has forgotten since it started though they were not taken back.
    fn forgotten(&self) -> u64 {
        0
    }

    /// Drops from memory what the state tables have, the coldest first, until the state takes about `to` bytes there: it is
    /// read again when it is needed. Called between epochs, when the job is over its budget. What cannot leave stays.
    fn evict(&mut self, _to: u64) -> Result<()> {
        Ok(())
    }
}

/// Whether a call is finished or has to be continued in a later activation, so that one step stays short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything that the call had to emit is in the output.
    Done,
    /// The output is full: go on in the next activation.
    More,
    /// Something outside has to happen first: seal again when woken, or after a while. Only a seal may say so.
    Wait,
}

/// The end of an epoch.
#[derive(Clone, Debug)]
pub struct Seal {
    /// The epoch that is complete.
    pub epoch: Epoch,
    /// Whether this epoch is the job's cut for a checkpoint.
    pub checkpoint: bool,
    /// Per input, what is known of its columns in all later epochs. The same on all workers; empty if nothing is.
    pub watermarks: Vec<Arc<Watermarks>>,
    /// The wall clock when the epoch was sealed, in microseconds since 1970: the same for all jobs and workers, and never
    /// less than that of an epoch before, while the server runs.
    pub now: i64,
    /// What was visible before a restart is not visible again yet: nothing may be held back.
    pub recovering: bool,
}

impl Seal {
    /// The end of `epoch` without watermarks.
    pub fn plain(epoch: Epoch, checkpoint: bool) -> Seal {
        Seal { epoch, checkpoint, watermarks: Vec::new(), now: 0, recovering: false }
    }

    /// What is known of a column of an input in all later epochs.
    pub fn watermark(&self, input: usize, column: usize) -> Option<Watermark> {
        self.watermarks.get(input)?.get(column).copied().flatten()
    }

    /// Below this no change of the column will come any more: what state holds below it can be dropped.
    pub fn bound(&self, input: usize, column: usize) -> Option<i64> {
        self.watermark(input, column)?.bound()
    }
}

/// Rows and bytes of an operator's state on one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StateSize {
    /// Entries.
    pub rows: u64,
    /// Bytes in memory.
    pub bytes: u64,
}

impl std::ops::Add for StateSize {
    type Output = StateSize;
    fn add(self, other: StateSize) -> StateSize {
        StateSize { rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
    }
}

/// How the rows of an input are placed on the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Rows stay on the worker they are on.
    Same,
    /// Rows go to the worker of the vnode of these columns.
    Hash(Vec<usize>),
    /// All rows go to every worker.
    Broadcast,
    /// All rows go to one worker.
    Single,
}

/// What a task may ask of the engine when it starts.
pub struct TaskContext<'a> {
    /// This worker's number.
    pub worker: usize,
    /// The number of workers.
    pub workers: usize,
    /// The columns of each input, as the operators that feed it declare them.
    pub inputs: Vec<SchemaRef>,
    /// The SQL functions that expressions name.
    pub functions: &'a Arc<dyn Functions>,
    /// Bytes of memory that what is read from the state tables may take; the rest is read when it is needed, by operators
    /// that can.
    pub memory_max: u64,
    /// For a lookup join: how it gets at the outside.
    pub lookups: Option<TaskLookups>,
    /// Opens a state table; provided by the driver.
    pub open_table: &'a mut dyn FnMut(&str) -> Result<StateTable>,
}

impl TaskContext<'_> {
    /// Opens the operator's state table `name`. The same name finds the same rows after a restart.
    pub fn table(&mut self, name: &str) -> Result<StateTable> {
        (self.open_table)(name)
    }
}

/// Rows of one emitted batch, at most: an operator with more to say emits several.
pub const OUTPUT_ROWS_MAX: usize = 8192;

/// Rows that a task may emit in one activation before it should return [`Progress::More`].
pub const ACTIVATION_ROWS_MAX: usize = 65_536;

/// Where a task puts what it has to say. The driver takes it after each call.
#[derive(Default)]
pub struct Output {
    batches: Vec<Batch>,
    errors: Vec<RowError>,
    rows: usize,
}

impl Output {
    /// Emits `batch`; an empty one is dropped.
    pub fn emit(&mut self, batch: Batch) {
        if batch.num_rows() > 0 {
            self.rows += batch.num_rows();
            self.batches.push(batch);
        }
    }

    /// A row that could not be processed: it goes to `<job>$errors` and stops nothing.
    pub fn error(&mut self, error: RowError) {
        self.errors.push(error);
    }

    /// Whether enough was emitted in this activation.
    pub fn is_full(&self) -> bool {
        self.rows >= ACTIVATION_ROWS_MAX
    }

    /// Takes the emitted batches and makes room for the next activation.
    pub fn take_batches(&mut self) -> Vec<Batch> {
        self.rows = 0;
        std::mem::take(&mut self.batches)
    }

    /// Takes the errors.
    pub fn take_errors(&mut self) -> Vec<RowError> {
        std::mem::take(&mut self.errors)
    }
}

/// A row or a record that failed, as data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowError {
    /// +1 when the row came, -1 when the same row was retracted.
    pub diff: i64,
    /// What failed, in the user's words.
    pub reason: String,
    /// Five characters, as Postgres would say (`22012` for a division by zero).
    pub sqlstate: String,
    /// The source's split, if the row is a record of a source.
    pub split: Option<String>,
    /// The record's offset in its split.
    pub offset: Option<i64>,
    /// The record as it came, or the row as text.
    pub raw: Option<Vec<u8>>,
}
