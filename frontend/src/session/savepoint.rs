//! Savepoints: places in a transaction to go back to, also after an error.

use std::collections::{BTreeMap, BTreeSet};

use storage::RelationId;

use super::{Session, Transaction, Work};
use crate::error::{Error, Result};
use crate::settings::Values;

/// A place in a transaction that ROLLBACK TO goes back to.
pub(super) struct Savepoint {
    name: String,
    /// How many batches the transaction had written, by table.
    writes: BTreeMap<RelationId, usize>,
    /// The length of [`Work::counted`].
    counted: usize,
    cursors: BTreeSet<String>,
    settings: Values,
    local: BTreeSet<&'static str>,
    read_only: bool,
}

impl Work {
    /// Forgets what was written since a savepoint.
    fn rewind(&mut self, at: usize) {
        let savepoint = &self.savepoints[at];
        self.writes.retain(|table, batches| {
            batches.truncate(savepoint.writes.get(table).copied().unwrap_or(0));
            !batches.is_empty()
        });
        for (table, key, diff) in self.counted.drain(savepoint.counted..) {
            if let Some(count) = self.key_counts.get_mut(&table).and_then(|counts| counts.get_mut(&key)) {
                *count -= diff;
            }
        }
        self.local.clone_from(&savepoint.local);
        self.read_only = savepoint.read_only;
        self.savepoints.truncate(at + 1);
    }

    fn find_savepoint(&self, name: &str) -> Result<usize> {
        let missing = || Error::new("3B001", format!("savepoint \"{name}\" does not exist"));
        self.savepoints.iter().rposition(|savepoint| savepoint.name == name).ok_or_else(missing)
    }
}

impl Session {
    fn block(&mut self, command: &str) -> Result<&mut Work> {
        match &mut self.transaction {
            Transaction::Block(work) | Transaction::Failed(work) => Ok(work),
            _ => Err(Error::new("25P01", format!("{command} can only be used in transaction blocks"))),
        }
    }

    /// SAVEPOINT: a name may be used again, and then hides the older one.
    pub fn savepoint(&mut self, name: &str) -> Result<()> {
        let (settings, cursors) = (self.settings.clone(), self.cursors.keys().cloned().collect());
        let work = self.block("SAVEPOINT")?;
        work.savepoints.push(Savepoint {
            name: name.to_owned(),
            writes: work.writes.iter().map(|(table, batches)| (*table, batches.len())).collect(),
            counted: work.counted.len(),
            cursors,
            settings,
            local: work.local.clone(),
            read_only: work.read_only,
        });
        Ok(())
    }

    /// RELEASE SAVEPOINT: it and those after it are forgotten, not what was done since.
    pub fn release(&mut self, name: &str) -> Result<()> {
        let work = self.block("RELEASE SAVEPOINT")?;
        let at = work.find_savepoint(name)?;
        work.savepoints.truncate(at);
        if work.savepoints.is_empty() {
            work.counted.clear();
        }
        Ok(())
    }

    /// ROLLBACK TO SAVEPOINT: everything since is undone, errors too. Its locks stay until the transaction's end.
    pub fn rollback_to(&mut self, name: &str) -> Result<()> {
        let work = self.block("ROLLBACK TO SAVEPOINT")?;
        let at = work.find_savepoint(name)?;
        work.rewind(at);
        let (settings, cursors) = (work.savepoints[at].settings.clone(), work.savepoints[at].cursors.clone());
        self.transaction = match std::mem::replace(&mut self.transaction, Transaction::None) {
            Transaction::Failed(work) => Transaction::Block(work),
            other => other,
        };
        self.cursors.retain(|name, _| cursors.contains(name));
        self.restore_all(settings);
        Ok(())
    }
}
