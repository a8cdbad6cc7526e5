//! What the engine tells of itself, for the catalog and for metrics.

use std::time::Duration;

use serde::Serialize;
use storage::{Epoch, RelationId};

use crate::operator::StateSize;
pub use crate::outbox::SinkStatus;
use crate::row_errors::ErrorsKept;
use crate::watermark::Watermark;

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Reading its inputs' snapshots.
    Creating,
    /// Following its inputs.
    Running,
    /// Stopped by an error, and about to go on from its last checkpoint; its relation is as of its last epoch.
    Restarting,
    /// Stopped by an error; its relation is as of its last epoch.
    Failed,
}

/// One job, for `headwater_catalog.jobs` and metrics.
#[derive(Clone, Debug, Serialize)]
pub struct JobStatus {
    /// The job's relation.
    pub relation: RelationId,
    /// The object's name.
    pub name: String,
    /// What it is doing.
    pub state: JobState,
    /// Why it failed.
    pub error: Option<String>,
    /// Failures that are not forgiven yet.
    pub failures: u64,
    /// How often it has started again by itself since the server did.
    pub restarts: u64,
    /// What it failed of the last time, also if it runs again.
    pub last_failure: Option<String>,
    /// When it starts again, while it waits for that.
    pub restarts_in: Option<Duration>,
    /// The epoch that its relation can be read at.
    pub epoch: Epoch,
    /// For how long something has been sealed that its relation does not show.
    pub behind: Duration,
    /// Rows read of the snapshots while creating.
    pub rows_read: u64,
    /// Rows that the snapshots had, as far as known.
    pub rows_total: Option<u64>,
    /// Rows waiting in the job's inboxes.
    pub rows_waiting: u64,
    /// Bytes of memory: its operators' state and what waits in its inboxes.
    pub memory_bytes: u64,
    /// Its memory budget, if it has one of its own.
    pub memory_budget: Option<u64>,
    /// State per operator: node index, name, size over all workers.
    pub operators: Vec<(usize, &'static str, StateSize)>,
    /// Per source split: id, next offset, end offset if known, last error.
    pub splits: Vec<SplitStatus>,
    /// The columns of its relation that have a watermark, and what is known of them as of its epoch.
    pub watermarks: Vec<(usize, Option<Watermark>)>,
    /// Rows that were late since the server started, of a source or table with a watermark.
    pub late_rows: Option<u64>,
    /// When rows leave the relation by themselves, or the view keeps nothing of them any more.
    pub ttl: Option<TtlStatus>,
    /// Rows that came in since the server started.
    pub rows_in: u64,
    /// Bytes that came in from outside since the server started.
    pub bytes_in: u64,
    /// Rows and records that failed since the server started.
    pub row_errors: u64,
    /// Errors that were dropped since the server started: too many at once, or too old.
    pub row_errors_dropped: u64,
    /// Late rows that were dropped: too many, or too old.
    pub late_dropped: u64,
    /// How much is kept of what failed or was late.
    pub kept: ErrorsKept,
    /// How the delivery of a sink stands.
    pub sink: Option<SinkStatus>,
}

/// What `ttl` does to a table or a view.
#[derive(Clone, Debug, Serialize)]
pub struct TtlStatus {
    /// The column with the time that a row is as old as; `None` if that is when it came to the view.
    pub column: Option<usize>,
    /// How old a row becomes, in microseconds.
    pub micros: i64,
    /// Rows that have left since the server started.
    pub expired_rows: u64,
}

/// One split of a source.
#[derive(Clone, Debug, Serialize)]
pub struct SplitStatus {
    /// The split's id.
    pub id: String,
    /// The next record to read.
    pub offset: i64,
    /// The end of the split when it was last asked.
    pub end: Option<i64>,
    /// Its watermark, once there is one.
    pub watermark: Option<i64>,
    /// Whether it does not hold the source's watermark back.
    pub idle: bool,
    /// The last error, while the outside system does not answer.
    pub error: Option<String>,
}

/// The engine's clock and checkpoints.
#[derive(Clone, Debug, Serialize)]
pub struct EngineStatus {
    /// The last sealed epoch.
    pub epoch: Epoch,
    /// The last durable epoch.
    pub checkpoint: Epoch,
    /// How long the last checkpoint took.
    pub checkpoint_duration: Duration,
    /// Rows that the last checkpoint wrote.
    pub checkpoint_rows: u64,
    /// Checkpoints taken since the server started.
    pub checkpoints: u64,
    /// Why checkpoints do not succeed (a full disk), while they do not.
    pub checkpoint_error: Option<String>,
    /// What takes memory.
    pub memory: MemoryStatus,
    /// The jobs.
    pub jobs: Vec<JobStatus>,
}

/// Bytes of memory by what takes them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct MemoryStatus {
    /// State of operators.
    pub state: u64,
    /// What waits in inboxes, without what is spilled.
    pub inboxes: u64,
    /// What is visible and not durable yet.
    pub changes: u64,
    /// What a checkpoint under way has taken.
    pub checkpoint: u64,
    /// What inboxes have spilled: on the disk.
    pub spilled: u64,
    /// The budget for the first four, if there is one.
    pub budget: Option<u64>,
}
