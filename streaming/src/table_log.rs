//! What clients wrote to tables, as the synced log keeps it.
//!
//! ```text
//!  record   n u32 | n x ( relation u32 | length u32 | Arrow IPC stream, diffs as the last column )
//! ```

use std::sync::Arc;

use storage::log::Log;
use storage::{Batch, RelationId, Store};

use crate::checkpoint::TABLE_PREFIX;
use crate::dataflow::{decode_batch, encode_batch};
use crate::error::{Error, Result};

/// The log of all tables.
pub struct TableLog {
    log: Arc<Log>,
}

impl TableLog {
    /// The log of `store`.
    pub fn open(store: &Store) -> Result<TableLog> {
        // Also of tables that are dropped: their numbers are used up.
        let applied = store.meta_scan(TABLE_PREFIX)?;
        let number = |(_, value): (Vec<u8>, Vec<u8>)| value.try_into().ok().map(u64::from_be_bytes);
        let stored = applied.into_iter().filter_map(number).max().unwrap_or(0);
        Ok(TableLog { log: Log::open(store.dir(), stored)? })
    }

    /// Appends changes; `done` is called in the order of the sequence numbers once they are on the disk.
    pub fn append(
        &self,
        changes: &[(RelationId, Batch)],
        done: Box<dyn FnOnce(storage::Result<u64>) + Send>,
    ) -> Result<()> {
        let mut record = (changes.len() as u32).to_le_bytes().to_vec();
        for (relation, batch) in changes {
            let bytes = encode_batch(batch);
            record.extend(relation.0.to_le_bytes());
            record.extend((bytes.len() as u32).to_le_bytes());
            record.extend(bytes);
        }
        self.log.append_synced(record, done);
        Ok(())
    }

    /// Calls `f` with every record that is kept, in order.
    pub fn replay(&self, f: &mut dyn FnMut(u64, Vec<(RelationId, Batch)>) -> Result<()>) -> Result<()> {
        let mut failed = None;
        self.log.replay(0, &mut |sequence, record| {
            if failed.is_none() {
                failed = decode(record).and_then(|changes| f(sequence, changes)).err();
            }
            Ok(())
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Forgets the records before `sequence`.
    pub fn truncate_before(&self, sequence: u64) -> Result<()> {
        Ok(self.log.truncate_before(sequence)?)
    }
}

fn decode(record: &[u8]) -> Result<Vec<(RelationId, Batch)>> {
    let corrupt = || Error::Storage(storage::Error::Corrupt("a record of the table log is malformed".into()));
    let n = record.first_chunk::<4>().map(|n| u32::from_le_bytes(*n)).ok_or_else(corrupt)?;
    let mut changes = Vec::new();
    let mut rest = record.get(4..).ok_or_else(corrupt)?;
    for _ in 0..n {
        let (head, tail) = rest.split_first_chunk::<8>().ok_or_else(corrupt)?;
        let relation = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
        let length = u32::from_le_bytes(head[4..].try_into().expect("four bytes")) as usize;
        let body = tail.get(..length).ok_or_else(corrupt)?;
        changes.push((RelationId(relation), decode_batch(body)?));
        rest = &tail[length..];
    }
    Ok(changes)
}
