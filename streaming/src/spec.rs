//! What the engine is told: how to run, and the jobs as plain data that the catalog keeps.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::{Column, RelationId};

use crate::event_time::EventTime;
use crate::memory::NO_BUDGET;
use crate::operators::AnyOperator;
use crate::plan::Plan;
use crate::row_errors::{ErrorsKept, Keeping};

/// How to run an engine.
pub struct EngineConfig {
    /// Worker threads.
    pub workers: usize,
    /// Epochs are never sealed closer than this (1 ms by default).
    pub epoch_interval_min: Duration,
    /// How often an epoch is made durable (1 s by default).
    pub checkpoint_interval: Duration,
    /// How often a job that fails starts again by itself within [`EngineConfig::restart_window`] (5 by default).
    pub restarts_max: usize,
    /// Failures longer ago than this are forgiven (10 minutes by default).
    pub restart_window: Duration,
    /// The pause before the first start; it doubles with each failure (200 ms by default).
    pub restart_pause: Duration,
    /// How many errors are kept of a job, and for how long (10,000 and a week by default).
    pub errors_kept: ErrorsKept,
    /// Bytes of memory for the state of all jobs and what waits for them (no limit by default).
    pub memory_bytes: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            workers: 2,
            epoch_interval_min: Duration::from_millis(1),
            checkpoint_interval: Duration::from_secs(1),
            restarts_max: 5,
            restart_window: Duration::from_secs(600),
            restart_pause: Duration::from_millis(200),
            errors_kept: ErrorsKept::default(),
            memory_bytes: NO_BUDGET,
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
    /// The relation that `<name>$errors` reads: columns [`Keeping::columns`], maintained by the same job.
    pub errors: RelationId,
    /// What it keeps of what it sets aside.
    #[serde(default = "Keeping::of_old")]
    pub keeping: Keeping,
}

impl JobSpec {
    /// The event time that a source or table was declared to have.
    pub fn event_time(&self) -> Option<&EventTime> {
        match &self.plan.nodes.first()?.operator {
            AnyOperator::Source(source) => source.event_time.as_ref(),
            AnyOperator::TableSource(table) => table.event_time.as_ref(),
            _ => None,
        }
    }

    /// The relation that `<name>$late` reads, if there is one.
    pub fn late(&self) -> Option<RelationId> {
        self.event_time().map(|event| event.late)
    }

    /// Whether `id` is what was set aside: `<name>$errors` or `<name>$late`.
    pub fn is_aside(&self, id: RelationId) -> bool {
        id == self.errors || self.late() == Some(id)
    }
}

/// Changes of keys of the catalog's part of the store: `None` deletes.
pub type CatalogChanges = Vec<(Vec<u8>, Option<Vec<u8>>)>;
