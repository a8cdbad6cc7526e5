//! A side of a join in its state table.
//!
//! ```text
//! [length of the key bytes 4, big endian][key bytes][bytes of the other columns] -> [count 8][matches 8]
//! ```

use storage::batch::worker_of_vnode;
use storage::{StateTable, row};

use super::Placement;
use super::range::Values;
use super::side::{CHANGED, LIVE, STORED, Side, SideSpec, row_hash};
use crate::byte_table::hash_bytes;
use crate::error::{Error, Result};
use crate::operator::{OUTPUT_ROWS_MAX, Progress, Seal, TaskContext};

/// Rows that one step of a checkpoint saves.
const SAVED_ROWS_MAX: usize = 65_536;
/// What a row costs in memory besides its bytes, about.
const ROW_BYTES: usize = 80;

/// Opens both sides of a join in its tables `left` and `right`.
pub(in crate::operators) fn open(specs: [SideSpec; 2], ctx: &mut TaskContext) -> Result<([Side; 2], [StateTable; 2])> {
    open_part(specs, ctx, u64::MAX)
}

/// The same for a join that can bring keys back: reads as many rows as `memory_max` bytes hold.
pub(in crate::operators) fn open_part(
    specs: [SideSpec; 2],
    ctx: &mut TaskContext,
    memory_max: u64,
) -> Result<([Side; 2], [StateTable; 2])> {
    let mut sides = specs.map(|spec| Side::new(spec, ctx));
    let tables = [ctx.table("left")?, ctx.table("right")?];
    for (side, table) in sides.iter_mut().zip(&tables) {
        side.load(table, memory_max / 2)?;
    }
    Ok((sides, tables))
}

/// Saves both sides at a checkpoint, as much as one step may.
pub(in crate::operators) fn seal(sides: &mut [Side; 2], tables: &[StateTable; 2], at: &Seal) -> Progress {
    let saved = |(side, table): (&mut Side, _)| !at.checkpoint || side.save(table) == Progress::Done;
    if sides.iter_mut().zip(tables).all(saved) { Progress::Done } else { Progress::More }
}

impl Side {
    /// Puts what changed since the last checkpoint into `table`, as much as one step may.
    fn save(&mut self, table: &StateTable) -> Progress {
        let mut entry = Vec::new();
        let mut value = Vec::new();
        for _ in 0..SAVED_ROWS_MAX {
            let Some(number) = self.changed.pop() else { break };
            let link = self.links[number as usize];
            if link.flags & CHANGED == 0 {
                continue; // Given up since.
            }
            let key = self.keys.get(link.key);
            entry.clear();
            put_key(key, &mut entry);
            entry.extend(self.rows.get(number));
            if let Some(vnode) = self.saved_under(link.key, &entry) {
                if link.count == 0 {
                    table.delete(vnode, &entry);
                } else {
                    value.clear();
                    value.extend(link.count.to_le_bytes());
                    if self.tracks_matches {
                        value.extend(link.matches.to_le_bytes());
                    }
                    table.put(vnode, &entry, &value);
                }
            }
            self.links[number as usize].flags = LIVE | STORED;
            if link.count == 0 {
                self.remove(number);
            }
        }
        if self.changed.is_empty() { Progress::Done } else { Progress::More }
    }

    /// The vnode under which this worker saves a row, if it does.
    fn saved_under(&self, key: u32, entry: &[u8]) -> Option<u8> {
        match self.placement {
            Placement::Key(_) => Some(self.infos[key as usize].vnode),
            Placement::Single => Some(0),
            Placement::Same => Some(first_vnode(self.worker, self.workers)),
            Placement::Broadcast => {
                let vnode = (hash_bytes(entry) >> 56) as u8;
                (worker_of_vnode(vnode, self.workers) == self.worker).then_some(vnode)
            }
        }
    }

    /// Reads what the last checkpoint wrote: the keys whose rows `max` bytes hold.
    fn load(&mut self, table: &StateTable, max: u64) -> Result<()> {
        if table.is_new() {
            return Ok(());
        }
        let own = first_vnode(self.worker, self.workers);
        let everywhere = matches!(self.placement, Placement::Broadcast);
        let from_others = matches!(self.placement, Placement::Same);
        let (mut moved, mut failed) = (Vec::new(), None);
        let max = if self.can_evict() { max } else { u64::MAX };
        let mut bytes = 0;
        let mut take = |vnode: u8, entry: &[u8], value: &[u8]| {
            bytes += (entry.len() + ROW_BYTES) as u64;
            if bytes > max && !self.is_here(entry) {
                failed = failed.take().or(self.count_evicted(entry, value).err());
                return Ok(());
            }
            match self.load_row(vnode, entry, value) {
                // Another worker's row, placed where it came from, is saved anew under a vnode of this worker.
                Ok(number) if from_others && vnode != own => moved.push((number, vnode, entry.to_vec())),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
            Ok(())
        };
        if everywhere {
            table.scan_all(&mut take)?
        } else {
            table.scan(&mut take)?
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.links.iter_mut().filter(|link| link.flags & LIVE != 0).for_each(|link| link.flags = LIVE | STORED);
        self.changed.clear();
        self.zero.clear();
        for (number, vnode, entry) in moved {
            table.delete(vnode, &entry);
            self.change(number);
        }
        let numbers: Vec<u32> = (0..self.links.len() as u32).filter(|n| self.links[*n as usize].count != 0).collect();
        self.order_rows(&numbers)?;
        self.note_expiring(&numbers)
    }

    /// Whether the key of an entry is in memory.
    fn is_here(&self, entry: &[u8]) -> bool {
        key_of(entry).is_some_and(|key| self.keys.find(hash_bytes(key), key).is_some())
    }

    /// A row stays in the store. It counts for what is known of the whole side.
    fn count_evicted(&mut self, entry: &[u8], value: &[u8]) -> Result<()> {
        let broken = || Error::Failed("a row of a join in the store is broken".into());
        let key = key_of(entry).ok_or_else(broken)?;
        let count = value.first_chunk().map(|count| i64::from_le_bytes(*count)).ok_or_else(broken)?;
        self.evicted.add(hash_bytes(key));
        self.total += count;
        if row::decode(&self.key_types, std::iter::once(key))?.iter().any(|column| column.is_null(0)) {
            self.null_total += count;
        }
        Ok(())
    }

    pub(super) fn load_row(&mut self, vnode: u8, entry: &[u8], value: &[u8]) -> Result<u32> {
        let broken = || Error::Failed("a row of a join in the store is broken".into());
        let key = key_of(entry).ok_or_else(broken)?;
        let values = &entry[4 + key.len()..];
        let number_at =
            |at: usize| value.get(at..at + 8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")));
        let key = self.key_number(hash_bytes(key), key, vnode, |side| {
            Ok(row::decode(&side.key_types, std::iter::once(key))?.iter().any(|column| column.is_null(0)))
        })?;
        let number = self.add_row(key, row_hash(key, values), values, None, number_at(0).ok_or_else(broken)?);
        if self.tracks_matches {
            self.links[number as usize].matches = number_at(8).ok_or_else(broken)?;
        }
        Ok(number)
    }

    /// Orders rows that were read.
    pub(super) fn order_rows(&mut self, numbers: &[u32]) -> Result<()> {
        let Some(order_by) = self.order_by.clone() else { return Ok(()) };
        for numbers in numbers.chunks(OUTPUT_ROWS_MAX) {
            let values = Values::of_columns(&self.columns(numbers)?, &order_by)?;
            for (i, number) in numbers.iter().enumerate() {
                if let Some(value) = values.get(i) {
                    self.order.insert(self.links[*number as usize].key, value, *number);
                }
            }
        }
        Ok(())
    }
}

/// What the entries of a key begin with.
pub(super) fn key_prefix(key: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(4 + key.len());
    put_key(key, &mut prefix);
    prefix
}

fn put_key(key: &[u8], entry: &mut Vec<u8>) {
    entry.extend((key.len() as u32).to_be_bytes());
    entry.extend(key);
}

/// The key of an entry; `None` if the entry is broken.
fn key_of(entry: &[u8]) -> Option<&[u8]> {
    let (len, tail) = entry.split_at_checked(4)?;
    tail.get(..u32::from_be_bytes(len.try_into().expect("four bytes")) as usize)
}

fn first_vnode(worker: usize, workers: usize) -> u8 {
    storage::batch::vnodes_of_worker(worker, workers).start as u8
}
