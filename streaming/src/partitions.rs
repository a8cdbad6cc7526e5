//! Partitions of rows in an order, with their changes of an epoch and their place in the store: what top-n and window
//! functions share.
//!
//! ```text
//! in the store   [length of the partition's bytes 4, big endian][partition][order][row] -> [count 8][length of order 4]
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow_schema::{DataType, SchemaRef};
use storage::keys::{self, SortOption};
use storage::{Batch, StateTable, row};

use crate::byte_table::{ByteTable, hash_bytes};
use crate::error::{Error, Result};
use crate::operator::{Seal, StateSize};
use crate::operators::top_n::SortKey;
use crate::watermark::{self, Watermarks};

/// Entries that one step of a checkpoint puts into the table.
const SAVE_MAX: usize = 65_536;

/// Changes of an epoch: by the bytes of the order columns and the row, how many of them are the order's, and the sum of
/// the diffs.
pub type Pending = BTreeMap<Arc<[u8]>, (u32, i64)>;

/// How an operator keeps the rows of a partition.
pub trait Kept: Default {
    /// Whether there is none.
    fn is_empty(&self) -> bool;

    /// How often a row is there, and how many of its bytes are the order's.
    fn find(&self, key: &[u8]) -> Option<(u32, u64)>;

    /// Takes a row from the store; they come in their order.
    fn load(&mut self, key: &[u8], order: u32, count: u64) -> Result<()>;

    /// Takes all rows out: the bytes of each entry, or of each row, as the operator counts them.
    fn take_all(&mut self) -> Vec<Arc<[u8]>>;
}

struct Partition<R> {
    rows: R,
    pending: Pending,
    vnode: u8,
    /// Whether its number is in use.
    live: bool,
}

impl<R: Default> Default for Partition<R> {
    fn default() -> Self {
        Partition { rows: R::default(), pending: Pending::new(), vnode: 0, live: false }
    }
}

/// The partitions of an operator on one worker.
pub struct Partitions<R> {
    partition: Vec<usize>,
    /// The types of the partition columns.
    types: Vec<DataType>,
    /// The partition column that has a watermark, as a place in `partition`, once one is known; and the partitions by its
    /// value. Numbers that are in use for another partition by now may stand there too.
    timed: Option<usize>,
    by_time: BTreeMap<i64, Vec<u32>>,
    order: Vec<SortKey>,
    keys: ByteTable,
    /// By the numbers of `keys`.
    partitions: Vec<Partition<R>>,
    /// Partitions touched in this epoch, and how many of them are settled.
    dirty: Vec<u32>,
    settled: usize,
    /// Partitions found empty at a seal since the last checkpoint.
    emptied: Vec<u32>,
    /// Rows changed since the last checkpoint.
    changed: hashbrown::HashSet<(u32, Arc<[u8]>)>,
    /// Entries and bytes of all partitions, as the operator counts them.
    pub entries: usize,
    /// See `entries`.
    pub bytes: usize,
    table: StateTable,
}

impl<R: Kept> Partitions<R> {
    /// The partitions that are in the table.
    pub fn open(partition: &[usize], order: &[SortKey], input: &SchemaRef, table: StateTable) -> Result<Partitions<R>> {
        let types: Vec<DataType> = partition.iter().map(|i| input.field(*i).data_type().clone()).collect();
        let mut partitions = Partitions {
            partition: partition.to_vec(),
            timed: None,
            by_time: BTreeMap::new(),
            types,
            order: order.to_vec(),
            keys: ByteTable::default(),
            partitions: Vec::new(),
            dirty: Vec::new(),
            settled: 0,
            emptied: Vec::new(),
            changed: hashbrown::HashSet::new(),
            entries: 0,
            bytes: 0,
            table,
        };
        partitions.load()?;
        Ok(partitions)
    }

    /// How the order columns are sorted.
    pub fn options(&self) -> Vec<SortOption> {
        self.order.iter().map(SortKey::option).collect()
    }

    /// Takes up changes of the open epoch.
    pub fn add(&mut self, delta: &Batch) -> Result<()> {
        let n = delta.num_rows();
        let partition: Vec<ArrayRef> = self.partition.iter().map(|i| delta.column(*i).clone()).collect();
        let order: Vec<ArrayRef> = self.order.iter().map(|key| delta.column(key.column).clone()).collect();
        let partitions = row::encode_rows(&partition, n)?;
        let vnodes = storage::batch::vnodes(&partition, n);
        let order = keys::encode_rows(&order, &self.options(), n)?;
        let rows = keys::encode_rows(delta.data().columns(), &[], n)?;
        for i in 0..n {
            let number = self.number(partitions.get(i), vnodes[i])?;
            let key: Arc<[u8]> = [order.get(i), rows.get(i)].concat().into();
            let partition = &mut self.partitions[number as usize];
            if partition.pending.is_empty() {
                self.dirty.push(number);
            }
            partition.pending.entry(key).or_insert((order.get(i).len() as u32, 0)).1 += delta.diff(i);
        }
        Ok(())
    }

    /// Hands the rows of the next partition with changes, as they were, and the changes to `settle`, which applies them, and
    /// takes those out that came to nothing. Returns `false` if there is no more such partition.
    pub fn settle_next(&mut self, settle: impl FnOnce(&mut R, &mut Pending) -> Result<Settled>) -> Result<bool> {
        let Some(&number) = self.dirty.get(self.settled) else {
            self.settled = 0;
            let partitions = &self.partitions;
            let empty = |number: &u32| partitions[*number as usize].rows.is_empty();
            self.emptied.extend(self.dirty.drain(..).filter(empty));
            return Ok(false);
        };
        self.settled += 1;
        let partition = &mut self.partitions[number as usize];
        let mut pending = std::mem::take(&mut partition.pending);
        pending.retain(|_, (_, diff)| *diff != 0);
        if pending.is_empty() {
            return Ok(true);
        }
        let settled = settle(&mut partition.rows, &mut pending)?;
        self.changed.extend(pending.into_keys().map(|key| (number, key)));
        self.changed.extend(settled.forgotten.into_iter().map(|key| (number, key)));
        self.entries = self.entries.saturating_add_signed(settled.entries);
        self.bytes = self.bytes.saturating_add_signed(settled.bytes);
        Ok(true)
    }

    /// Forgets the partitions to which nothing will happen any more, as the watermark of a partition column says.
    pub fn drop_below(&mut self, at: &Seal) -> Result<()> {
        let bounds = self.partition.iter().map(|column| at.bound(0, *column)).enumerate();
        let Some((place, bound)) = bounds.filter_map(|(place, bound)| Some((place, bound?))).next() else {
            return Ok(());
        };
        if self.timed != Some(place) {
            self.timed = Some(place);
            self.by_time.clear();
            for number in self.numbers() {
                if let Some(time) = self.time_of(self.keys.get(number))? {
                    self.by_time.entry(time).or_default().push(number);
                }
            }
        }
        while let Some(first) = self.by_time.first_entry().filter(|first| *first.key() < bound) {
            for number in first.remove() {
                let live = self.partitions[number as usize].live;
                if !live || self.time_of(self.keys.get(number))?.is_none_or(|time| time >= bound) {
                    continue;
                }
                let gone = self.partitions[number as usize].rows.take_all();
                self.forget(number, gone);
            }
        }
        Ok(())
    }

    /// The partition that [`Partitions::settle_next`] is about to settle.
    pub fn next_dirty(&self) -> Option<u32> {
        self.dirty.get(self.settled).copied()
    }

    /// The numbers of all partitions.
    pub fn numbers(&self) -> Vec<u32> {
        (0..self.partitions.len() as u32).filter(|n| self.partitions[*n as usize].live).collect()
    }

    /// The rows of a partition that is there.
    pub fn rows_of(&mut self, number: u32) -> Option<&mut R> {
        self.partitions.get_mut(number as usize).filter(|partition| partition.live).map(|partition| &mut partition.rows)
    }

    /// Rows that were taken out of a partition, although nobody retracted them.
    pub fn forget(&mut self, number: u32, gone: Vec<Arc<[u8]>>) {
        self.entries = self.entries.saturating_sub(gone.len());
        self.bytes = self.bytes.saturating_sub(gone.iter().map(|key| key.len()).sum());
        self.changed.extend(gone.into_iter().map(|key| (number, key)));
        if self.partitions[number as usize].rows.is_empty() {
            self.emptied.push(number);
        }
    }

    /// The value of the column that may have a watermark.
    fn time_of(&self, key: &[u8]) -> Result<Option<i64>> {
        let Some(place) = self.timed else { return Ok(None) };
        let columns = row::decode(&self.types, std::iter::once(key))?;
        let times = watermark::values(&columns[place]);
        Ok(times.is_valid(0).then(|| times.value(0)))
    }

    fn number(&mut self, key: &[u8], vnode: u8) -> Result<u32> {
        let hash = hash_bytes(key);
        if let Some(number) = self.keys.find(hash, key) {
            return Ok(number);
        }
        let number = self.keys.insert(hash, key);
        if let Some(time) = self.time_of(key)? {
            self.by_time.entry(time).or_default().push(number);
        }
        let partition = Partition { vnode, live: true, ..Partition::default() };
        match self.partitions.get_mut(number as usize) {
            Some(place) => *place = partition,
            None => self.partitions.push(partition),
        }
        Ok(number)
    }

    /// Puts what changed since the last checkpoint into the table, [`SAVE_MAX`] entries at most. Returns whether that was
    /// all.
    pub fn save(&mut self) -> bool {
        let (partitions, keys, table) = (&self.partitions, &self.keys, &mut self.table);
        let some: Vec<_> = self.changed.iter().take(SAVE_MAX).cloned().collect();
        for (number, key) in some {
            let partition = &partitions[number as usize];
            let prefix = keys.get(number);
            let entry = [(prefix.len() as u32).to_be_bytes().as_slice(), prefix, &key].concat();
            match partition.rows.find(&key) {
                None => table.delete(partition.vnode, &entry),
                Some((order, count)) => {
                    let value = [(count as i64).to_le_bytes().as_slice(), &order.to_le_bytes()].concat();
                    table.put(partition.vnode, &entry, &value);
                }
            }
            self.changed.remove(&(number, key));
        }
        if !self.changed.is_empty() {
            return false;
        }
        // Partitions that were emptied waited for their rows to be deleted.
        for number in std::mem::take(&mut self.emptied) {
            let partition = &mut self.partitions[number as usize];
            if partition.live && partition.rows.is_empty() && partition.pending.is_empty() {
                *partition = Partition::default();
                self.keys.remove(number);
            }
        }
        true
    }

    /// What the partitions take in memory.
    pub fn size(&self) -> StateSize {
        let bytes = self.bytes + self.entries * 48 + self.keys.bytes();
        StateSize { rows: self.entries as u64, bytes: bytes as u64 }
    }

    fn load(&mut self) -> Result<()> {
        if self.table.is_new() {
            return Ok(());
        }
        let mut rows = Vec::new();
        self.table.scan(&mut |vnode, entry, value| {
            rows.push((vnode, entry.to_vec(), value.to_vec()));
            Ok(())
        })?;
        for (vnode, entry, value) in rows {
            self.load_row(vnode, &entry, &value)?;
        }
        Ok(())
    }

    fn load_row(&mut self, vnode: u8, entry: &[u8], value: &[u8]) -> Result<()> {
        let broken = || Error::Failed("a row of a partition in the store is broken".into());
        let (len, tail) = entry.split_at_checked(4).ok_or_else(broken)?;
        let len = u32::from_be_bytes(len.try_into().expect("four bytes")) as usize;
        let (partition, key) = tail.split_at_checked(len).ok_or_else(broken)?;
        let (count, order) = value.split_at_checked(8).ok_or_else(broken)?;
        let count = i64::from_le_bytes(count.try_into().expect("eight bytes"));
        let order = u32::from_le_bytes(order.try_into().map_err(|_| broken())?);
        let count = u64::try_from(count).ok().filter(|_| order as usize <= key.len()).ok_or_else(broken)?;
        let number = self.number(partition, vnode)?;
        self.partitions[number as usize].rows.load(key, order, count)?;
        self.entries += 1;
        self.bytes += key.len();
        Ok(())
    }
}

/// What is known of the output of an operator that changes partitions only to which something happens.
pub fn watermarks(partition: &[usize], columns: usize, input: &Watermarks) -> Watermarks {
    (0..columns).map(|i| input.get(i).copied().flatten().filter(|_| partition.contains(&i))).collect()
}

/// What a partition is after its changes.
#[derive(Default)]
pub struct Settled {
    /// Rows that are kept no longer, although nobody retracted them.
    pub forgotten: Vec<Arc<[u8]>>,
    /// By how much the number of entries changed.
    pub entries: isize,
    /// By how much their bytes changed.
    pub bytes: isize,
}
