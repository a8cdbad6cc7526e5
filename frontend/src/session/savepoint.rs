//! Savepoints: places in a transaction to go back to, also after an error.

use super::Session;
use super::transaction::{Savepoint, Transaction, Work};
use crate::error::{Error, Result};

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
