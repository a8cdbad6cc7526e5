//! Rows with a count each, found by hash, mirrored to a state table at checkpoints.
//!
//! ```text
//! in the store   row bytes -> count (8 bytes, little endian)
//! ```

use storage::StateTable;

use crate::byte_table::ByteTable;
use crate::error::{Error, Result};

/// The row changed since the last checkpoint.
const CHANGED: u8 = 1;
/// The store has the row.
const STORED: u8 = 2;
/// The number is in use.
const LIVE: u8 = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    count: i64,
    vnode: u8,
    flags: u8,
}

/// A multiset of byte strings.
#[derive(Debug, Default)]
pub struct CountedRows {
    rows: ByteTable,
    entries: Vec<Entry>,
    changed: Vec<u32>,
}

impl CountedRows {
    /// Reads what the last checkpoint wrote.
    pub fn load(table: &StateTable) -> Result<CountedRows> {
        let mut all = CountedRows::default();
        if table.is_new() {
            return Ok(all);
        }
        let mut broken = false;
        table.scan(&mut |vnode, key, value| {
            match value.try_into().map(i64::from_le_bytes) {
                Ok(count) => {
                    let number = all.add(crate::byte_table::hash_bytes(key), key, vnode, count);
                    all.entries[number as usize].flags = LIVE | STORED;
                }
                Err(_) => broken = true,
            }
            Ok(())
        })?;
        all.changed.clear();
        if broken { Err(Error::Failed("a row's count in the store is broken".into())) } else { Ok(all) }
    }

    /// Adds `diff` to the count of a row and returns its number. A row with count zero keeps its number until
    /// [`CountedRows::collect`] or [`CountedRows::save`].
    pub fn add(&mut self, hash: u64, row: &[u8], vnode: u8, diff: i64) -> u32 {
        let number = match self.rows.find(hash, row) {
            Some(number) => number,
            None => {
                let number = self.rows.insert(hash, row);
                if self.entries.len() <= number as usize {
                    self.entries.push(Entry::default());
                }
                self.entries[number as usize] = Entry { count: 0, vnode, flags: LIVE };
                number
            }
        };
        let entry = &mut self.entries[number as usize];
        entry.count += diff;
        if entry.flags & CHANGED == 0 {
            entry.flags |= CHANGED;
            self.changed.push(number);
        }
        number
    }

    /// How often the row with this number is there.
    pub fn count(&self, number: u32) -> i64 {
        self.entries[number as usize].count
    }

    /// The numbers of all rows.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        let live = self.entries.iter().enumerate().filter(|(_, e)| e.flags & LIVE != 0);
        live.map(|(i, _)| i as u32)
    }

    /// The row with this number is gone, however often it was there: also from `table`, with the next checkpoint.
    pub fn forget(&mut self, number: u32, table: &mut StateTable) {
        let entry = self.entries[number as usize];
        if entry.flags & LIVE == 0 {
            return;
        }
        if entry.flags & STORED != 0 {
            table.delete(entry.vnode, self.rows.get(number));
        }
        self.remove(number);
    }

    /// The bytes of the row with this number.
    pub fn row(&self, number: u32) -> &[u8] {
        self.rows.get(number)
    }

    /// The rows whose count is not zero.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.entries.iter().enumerate().filter(|(_, e)| e.count != 0).map(|(i, e)| (self.rows.get(i as u32), e.count))
    }

    /// Forgets `number` if nothing is left of it and the store does not know it.
    pub fn collect(&mut self, number: u32) {
        let entry = &self.entries[number as usize];
        if entry.count == 0 && entry.flags & (STORED | LIVE) == LIVE {
            self.remove(number);
        }
    }

    /// Puts what changed since the last checkpoint into `table`.
    pub fn save(&mut self, table: &mut StateTable) {
        for number in std::mem::take(&mut self.changed) {
            let entry = &mut self.entries[number as usize];
            if entry.flags & CHANGED == 0 {
                continue;
            }
            entry.flags = LIVE | STORED;
            let (vnode, count) = (entry.vnode, entry.count);
            if count == 0 {
                table.delete(vnode, self.rows.get(number));
                self.remove(number);
            } else {
                table.put(vnode, self.rows.get(number), &count.to_le_bytes());
            }
        }
    }

    /// Loads what the lookups of `hashes` look at first.
    pub fn touch(&self, hashes: &[u64]) {
        self.rows.touch(hashes);
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.rows.bytes() + self.entries.capacity() * size_of::<Entry>()
    }

    fn remove(&mut self, number: u32) {
        self.rows.remove(number);
        self.entries[number as usize] = Entry::default();
    }
}
