//! The engine as the server sees it: jobs are created and dropped, tables written, relations read, at epochs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::{Batch, Column, Epoch, RelationId, RelationSnapshot, Store};

use crate::error::Result;
use crate::expr::Functions;
use crate::operator::StateSize;
use crate::plan::Plan;
use crate::source::Sources;

/// How to run an engine.
pub struct EngineConfig {
    /// Worker threads.
    pub workers: usize,
    /// Epochs are never sealed closer than this (1 ms by default).
    pub epoch_interval_min: Duration,
    /// How often an epoch is made durable (1 s by default).
    pub checkpoint_interval: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            workers: 2,
            epoch_interval_min: Duration::from_millis(1),
            checkpoint_interval: Duration::from_secs(1),
        }
    }
}

/// Everything that the engine needs to run a job, and to run it again after a restart. Plain data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobSpec {
    /// The relation that the job maintains; it names the job too.
    pub relation: RelationId,
    /// The object's name, for messages.
    pub name: String,
    /// The operators. The root is `Source` for a source, `Materialize` over `TableSource` for a table, `Materialize`
    /// over anything for a view or an index.
    pub plan: Plan,
    /// The relation's columns, hidden ones included.
    pub columns: Vec<Column>,
    /// The relation that `<name>$errors` reads: columns [`error_columns`], maintained by the same job.
    pub errors: RelationId,
}

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

/// Changes of keys of the catalog's part of the store: `None` deletes.
pub type CatalogChanges = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Several relations as of one epoch.
pub struct ReadView {
    /// The epoch.
    pub epoch: Epoch,
    /// A snapshot per relation that was asked for.
    pub relations: BTreeMap<RelationId, RelationSnapshot>,
}

/// The changes of one sealed epoch (or of several, merged) of a relation. Empty batches are progress.
pub struct Changes {
    /// All changes up to here are handed over.
    pub epoch: Epoch,
    /// What changed since the last message.
    pub batches: Vec<Batch>,
}

/// A running subscription.
pub struct Subscription {
    /// The snapshot that the changes follow.
    pub snapshot: RelationSnapshot,
    /// The epoch of the snapshot.
    pub epoch: Epoch,
    /// The changes. A reader that does not keep up gets them merged; dropping it ends the subscription.
    pub changes: tokio::sync::mpsc::Receiver<Changes>,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Reading its inputs' snapshots.
    Creating,
    /// Following its inputs.
    Running,
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
    /// The epoch that its relation can be read at.
    pub epoch: Epoch,
    /// Rows read of the snapshots while creating.
    pub rows_read: u64,
    /// Rows that the snapshots had, as far as known.
    pub rows_total: Option<u64>,
    /// Rows waiting in the job's inboxes.
    pub rows_waiting: u64,
    /// State per operator: node index, name, size over all workers.
    pub operators: Vec<(usize, &'static str, StateSize)>,
    /// Per source split: id, next offset, end offset if known, last error.
    pub splits: Vec<SplitStatus>,
    /// Rows that came in since the server started.
    pub rows_in: u64,
    /// Bytes that came in from outside since the server started.
    pub bytes_in: u64,
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
    /// The jobs.
    pub jobs: Vec<JobStatus>,
}

/// A running engine. All methods may be called from any thread; futures need no particular runtime.
pub struct Engine {
    _private: (),
}

#[allow(unused_variables, clippy::unused_async)]
impl Engine {
    /// Starts workers over `store` and takes up every job in `jobs` (those the catalog holds, upstream before
    /// downstream) at the last checkpoint. Returns when recovery has caught up with what was visible before.
    pub fn start(
        config: EngineConfig,
        store: Arc<Store>,
        functions: Arc<dyn Functions>,
        sources: Arc<dyn Sources>,
        jobs: Vec<JobSpec>,
    ) -> Result<Engine> {
        Err(crate::error::Error::Unsupported("engine".into()))
    }

    /// A relation id that was never used.
    pub fn allocate_relation(&self) -> RelationId {
        RelationId(0)
    }

    /// Creates a job and makes it and `catalog` durable in one step. Resolves when the job's relation can be read.
    /// Dropping the future cancels the job and undoes everything.
    pub async fn create(&self, job: JobSpec, catalog: CatalogChanges) -> Result<()> {
        Ok(())
    }

    /// Drops jobs (downstream before upstream) and makes that and `catalog` durable in one step.
    pub async fn drop(&self, jobs: Vec<RelationId>, catalog: CatalogChanges) -> Result<()> {
        Ok(())
    }

    /// Makes changes of the catalog durable that concern no job.
    pub async fn change_catalog(&self, catalog: CatalogChanges) -> Result<()> {
        Ok(())
    }

    /// Writes to tables, atomically: all changes in one epoch. The batches have the table's columns (hidden ones
    /// included) and diffs; the caller holds the tables' [`Engine::lock_tables`] since it read what they depend on.
    /// Resolves, with the epoch, once the changes are in the synced log; a read `at_least` that epoch sees them.
    pub async fn write(&self, changes: Vec<(RelationId, Batch)>) -> Result<Epoch> {
        Ok(Epoch(0))
    }

    /// Waits until nobody else writes to `tables` (sorted), and keeps it so until the guard is dropped.
    pub async fn lock_tables(&self, tables: &[RelationId]) -> TableLocks {
        TableLocks { _guards: Vec::new() }
    }

    /// A number that was never used for a row before, the first of `n` (hidden row ids of tables without a key).
    pub fn allocate_row_ids(&self, n: u64) -> i64 {
        0
    }

    /// Reads several relations as of one epoch that all can serve, at least `at_least`.
    pub async fn read(&self, relations: &[RelationId], at_least: Epoch) -> Result<ReadView> {
        Err(crate::error::Error::Unsupported("read".into()))
    }

    /// Subscribes to a relation's changes.
    pub async fn subscribe(&self, relation: RelationId, at_least: Epoch) -> Result<Subscription> {
        Err(crate::error::Error::Unsupported("subscribe".into()))
    }

    /// Waits until everything that was written or read from sources before the call is visible and durable.
    pub async fn flush(&self) -> Result<Epoch> {
        Ok(Epoch(0))
    }

    /// What is going on.
    pub fn status(&self) -> EngineStatus {
        EngineStatus {
            epoch: Epoch(0),
            checkpoint: Epoch(0),
            checkpoint_duration: Duration::ZERO,
            checkpoint_rows: 0,
            checkpoints: 0,
            checkpoint_error: None,
            jobs: Vec::new(),
        }
    }

    /// Takes a last checkpoint and stops the workers.
    pub fn shutdown(self) -> Result<()> {
        Ok(())
    }
}

/// The right to write to some tables.
pub struct TableLocks {
    _guards: Vec<tokio::sync::OwnedMutexGuard<()>>,
}
