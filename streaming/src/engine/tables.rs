//! Writing to tables: by clients, and by sinks into tables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use storage::{Batch, Column, Epoch, RelationId};

use super::{ReadView, enqueue, wait};
use crate::coordinator::Coordinator;
use crate::error::{Error, Result};

/// What writers of tables share.
pub struct Tables {
    pub(super) coordinator: Arc<Coordinator>,
    next_row_id: AtomicI64,
    locks: Mutex<BTreeMap<RelationId, Arc<tokio::sync::Mutex<()>>>>,
    /// The newest epoch that somebody's write is in.
    last_write: AtomicU64,
}

impl Tables {
    /// Row ids from `next_row_id` on were never used.
    pub fn new(coordinator: Arc<Coordinator>, next_row_id: i64) -> Tables {
        let next_row_id = AtomicI64::new(next_row_id);
        Tables { coordinator, next_row_id, locks: Mutex::default(), last_write: AtomicU64::new(0) }
    }

    /// See [`super::Engine::write`].
    pub fn write(
        self: &Arc<Self>,
        changes: Vec<(RelationId, Batch)>,
    ) -> Result<tokio::sync::oneshot::Receiver<storage::Result<Epoch>>> {
        let controls: Vec<_> = {
            let state = self.coordinator.state.lock();
            if let Some(error) = &state.checkpoint_error {
                return Err(error.clone().into());
            }
            let control = |(id, batch): &(RelationId, Batch)| {
                let job = state.jobs.get(id).filter(|job| job.control.table.is_some());
                let job = job.ok_or_else(|| Error::NotFound("the table does not exist any more".into()))?;
                Ok((job.control.clone(), batch.clone()))
            };
            changes.iter().map(control).collect::<Result<_>>()?
        };
        let (send, receive) = tokio::sync::oneshot::channel();
        let tables = self.clone();
        self.coordinator.log.append(
            &changes,
            Box::new(move |result| {
                let epoch = result.map(|sequence| Epoch(enqueue(&tables.coordinator.clock, &controls, sequence)));
                if let Ok(epoch) = &epoch {
                    tables.last_write.fetch_max(epoch.0, Ordering::AcqRel);
                }
                let _ = send.send(epoch);
            }),
        )?;
        Ok(receive)
    }

    /// The lock of a table.
    pub fn lock_of(&self, table: RelationId) -> Arc<tokio::sync::Mutex<()>> {
        self.locks.lock().entry(table).or_default().clone()
    }

    /// See [`super::Engine::allocate_row_ids`].
    pub fn allocate_row_ids(&self, n: u64) -> i64 {
        self.next_row_id.fetch_add(n as i64, Ordering::Relaxed)
    }

    /// The tables as of everything that was written to any of them, or who will answer with that.
    pub fn try_read_latest(
        &self,
        tables: &[RelationId],
    ) -> Result<std::result::Result<ReadView, tokio::sync::oneshot::Receiver<Result<ReadView>>>> {
        self.coordinator.read(tables, self.last_write.load(Ordering::Acquire))
    }

    /// The same; blocks.
    pub fn read_latest(&self, tables: &[RelationId]) -> Result<ReadView> {
        match self.try_read_latest(tables)? {
            Ok(view) => Ok(view),
            Err(waits) => wait(waits)?,
        }
    }

    /// Writes and waits until it is in the synced log.
    pub fn write_synced(self: &Arc<Self>, changes: Vec<(RelationId, Batch)>) -> Result<Epoch> {
        wait(self.write(changes)?)?.map_err(Error::from)
    }

    /// The columns of a table, hidden ones included.
    pub fn columns(&self, table: RelationId) -> Result<Vec<Column>> {
        let state = self.coordinator.state.lock();
        let job = state.jobs.get(&table).filter(|job| job.control.table.is_some());
        let job = job.ok_or_else(|| Error::NotFound("the table does not exist any more".into()))?;
        Ok(job.spec.columns.clone())
    }
}
