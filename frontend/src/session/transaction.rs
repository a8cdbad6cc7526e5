//! What a transaction has done and seen so far, and the places in it to go back to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use storage::{Batch, RelationId, RelationSnapshot};
use streaming::engine::{Stamp, TableLocks};

use crate::error::{Error, Result};
use crate::settings::Values;

/// Where the session is between BEGIN and COMMIT.
pub enum Transaction {
    /// Nowhere.
    None,
    /// In a statement, or in several of one message, without BEGIN.
    Implicit(Box<Work>),
    /// After BEGIN.
    Block(Box<Work>),
    /// After an error after BEGIN: what there is to go back to.
    Failed(Box<Work>),
}

/// What a transaction has done and seen so far.
pub struct Work {
    /// What `now()` is.
    pub now: i64,
    /// Changes that nobody else sees yet.
    pub writes: BTreeMap<RelationId, Vec<Batch>>,
    /// The memory of all that was written.
    pub bytes: usize,
    /// By table and encoded key: how many rows the transaction adds.
    pub key_counts: BTreeMap<RelationId, HashMap<Vec<u8>, i64>>,
    /// The right to write to them.
    pub locks: Vec<TableLocks>,
    /// The tables that it holds.
    pub locked: BTreeSet<RelationId>,
    /// What a block reads, all as of one epoch.
    pub snapshots: BTreeMap<RelationId, RelationSnapshot>,
    /// Whether the block's epoch is chosen.
    pub reads: bool,
    /// The settings to go back to: after ROLLBACK all of them, after COMMIT those that were SET LOCAL.
    pub before: Values,
    /// Settings that were SET LOCAL.
    pub local: BTreeSet<&'static str>,
    /// Whether it must not write.
    pub read_only: bool,
    /// The places to go back to, oldest first.
    pub savepoints: Vec<Savepoint>,
    /// What `key_counts` counted since the first savepoint.
    pub counted: Vec<(RelationId, Vec<u8>, i64)>,
    /// What PROCTIME() is, once it writes to a table that has it.
    pub stamp: Option<Stamp>,
}

/// A place in a transaction that ROLLBACK TO goes back to.
pub struct Savepoint {
    /// Its name.
    pub name: String,
    /// How many batches the transaction had written, by table.
    pub writes: BTreeMap<RelationId, usize>,
    /// The length of [`Work::counted`].
    pub counted: usize,
    /// The cursors there were.
    pub cursors: BTreeSet<String>,
    /// The settings there were.
    pub settings: Values,
    /// Those that were SET LOCAL.
    pub local: BTreeSet<&'static str>,
    /// Whether the transaction could write.
    pub read_only: bool,
}

impl Work {
    /// Forgets what was written since a savepoint.
    pub fn rewind(&mut self, at: usize) {
        let savepoint = &self.savepoints[at];
        self.writes.retain(|table, batches| {
            batches.truncate(savepoint.writes.get(table).copied().unwrap_or(0));
            !batches.is_empty()
        });
        let memory = |batch: &Batch| batch.data().get_array_memory_size();
        self.bytes = self.writes.values().flatten().map(memory).sum();
        for (table, key, diff) in self.counted.drain(savepoint.counted..) {
            if let Some(count) = self.key_counts.get_mut(&table).and_then(|counts| counts.get_mut(&key)) {
                *count -= diff;
            }
        }
        self.local.clone_from(&savepoint.local);
        self.read_only = savepoint.read_only;
        self.savepoints.truncate(at + 1);
    }

    /// The newest savepoint with a name.
    pub fn find_savepoint(&self, name: &str) -> Result<usize> {
        let missing = || Error::new("3B001", format!("savepoint \"{name}\" does not exist"));
        self.savepoints.iter().rposition(|savepoint| savepoint.name == name).ok_or_else(missing)
    }
}
