//! What a join keeps of one input, in memory: its rows by their key, and in an order if one is asked for.

use arrow::array::ArrayRef;
use arrow_schema::{DataType, SchemaRef};
use storage::keys::Keys;
use storage::{Batch, row};

use super::Placement;
use super::expiry::{Expiring, Expiry};
use super::range::{OrderBy, OrderedRows, Values};
use crate::byte_table::{ByteTable, LOOKUP_ROWS, hash_bytes, hash_i64};
use crate::error::Result;
use crate::evicted::Evicted;
use crate::operator::{StateSize, TaskContext};

/// No row.
pub(in crate::operators) const NONE: u32 = u32::MAX;

/// The row changed since the last checkpoint.
pub(in crate::operators) const CHANGED: u8 = 1;
/// The store has the row.
pub(in crate::operators) const STORED: u8 = 2;
/// The number is in use.
pub(in crate::operators) const LIVE: u8 = 4;
/// In `touched` of the batch in work.
pub(in crate::operators) const TOUCHED: u8 = 8;

/// A row of one side, as a link of its key's chain. Rows with count zero are in no chain.
#[derive(Clone, Copy, Debug)]
pub(in crate::operators) struct Link {
    pub(in crate::operators) key: u32,
    pub(in crate::operators) next: u32,
    previous: u32,
    pub(in crate::operators) flags: u8,
    pub(in crate::operators) count: i64,
    pub(in crate::operators) matches: i64,
}

/// A join key of one side.
#[derive(Clone, Copy, Debug)]
pub(in crate::operators) struct KeyInfo {
    /// The first row of the chain.
    pub(in crate::operators) head: u32,
    /// Rows, those with count zero included.
    rows: u32,
    pub(in crate::operators) vnode: u8,
    pub(in crate::operators) null: bool,
    /// Asked for since keys last had to leave memory.
    pub(in crate::operators) used: bool,
    /// The sum of the rows' counts.
    pub(in crate::operators) total: i64,
}

/// The state of one input.
///
/// ```text
/// keys    key bytes -> number -> first row, sum of counts
/// rows    (key number, bytes of the other columns) -> number -> count, matches, next and previous row of the key
/// order   (key number, ordering value) -> number
/// ```
pub(in crate::operators) struct Side {
    pub(in crate::operators) key_columns: Vec<usize>,
    /// The columns that are kept besides the key.
    value_columns: Vec<usize>,
    width: usize,
    pub(in crate::operators) key_types: Vec<DataType>,
    value_types: Vec<DataType>,
    pub(in crate::operators) tracks_matches: bool,
    pub(in crate::operators) placement: Placement,
    pub(in crate::operators) worker: usize,
    pub(in crate::operators) workers: usize,
    pub(in crate::operators) keys: ByteTable,
    pub(in crate::operators) infos: Vec<KeyInfo>,
    pub(in crate::operators) rows: ByteTable,
    pub(in crate::operators) links: Vec<Link>,
    /// The order that rows are found in, if there is one.
    pub(in crate::operators) order_by: Option<OrderBy>,
    pub(in crate::operators) order: OrderedRows,
    /// What its rows expire by, if they do.
    pub(in crate::operators) expiring: Option<Expiring>,
    pub(in crate::operators) changed: Vec<u32>,
    /// Rows whose count became zero since the last [`Side::collect`].
    pub(in crate::operators) zero: Vec<u32>,
    pub(in crate::operators) total: i64,
    pub(in crate::operators) null_total: i64,
    /// Keys whose rows are in the store only.
    pub(in crate::operators) evicted: Evicted,
}

/// What [`Side::enter`] did.
pub(in crate::operators) struct Entered {
    pub(in crate::operators) keys: Keys,
    /// Per row of the batch: the number of the row in the state.
    pub(in crate::operators) rows: Vec<u32>,
    /// Per row of the batch: whether a key column is NULL.
    pub(in crate::operators) null_keys: Vec<bool>,
    /// If asked for: each key of the batch once, and the sum of its counts before.
    pub(in crate::operators) totals: Vec<(u32, i64)>,
}

/// What is kept of an input, and how.
pub(in crate::operators) struct SideSpec<'a> {
    pub(in crate::operators) schema: &'a SchemaRef,
    pub(in crate::operators) key_columns: &'a [usize],
    pub(in crate::operators) keys_only: bool,
    pub(in crate::operators) tracks_matches: bool,
    pub(in crate::operators) placement: Placement,
    pub(in crate::operators) order_by: Option<OrderBy>,
    pub(in crate::operators) expiry: Option<Expiry>,
}

impl Side {
    pub(in crate::operators) fn new(spec: SideSpec, ctx: &TaskContext) -> Side {
        let width = spec.schema.fields().len();
        let others = (0..width).filter(|i| !spec.key_columns.contains(i));
        let value_columns: Vec<usize> = if spec.keys_only { Vec::new() } else { others.collect() };
        let types = |columns: &[usize]| columns.iter().map(|i| spec.schema.field(*i).data_type().clone()).collect();
        Side {
            key_columns: spec.key_columns.to_vec(),
            key_types: types(spec.key_columns),
            value_types: types(&value_columns),
            value_columns,
            width,
            tracks_matches: spec.tracks_matches,
            placement: spec.placement,
            worker: ctx.worker,
            workers: ctx.workers,
            keys: ByteTable::default(),
            infos: Vec::new(),
            rows: ByteTable::default(),
            links: Vec::new(),
            order_by: spec.order_by,
            order: OrderedRows::default(),
            expiring: spec.expiry.map(Expiring::new),
            changed: Vec::new(),
            zero: Vec::new(),
            total: 0,
            null_total: 0,
            evicted: Evicted::default(),
        }
    }

    pub(in crate::operators) fn size(&self) -> StateSize {
        StateSize { rows: self.rows.len() as u64, bytes: self.bytes() as u64 }
    }

    fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.rows.bytes()
            + self.order.bytes()
            + self.expiring.as_ref().map_or(0, Expiring::bytes)
            + self.evicted.bytes()
            + (self.changed.capacity() + self.zero.capacity()) * size_of::<u32>()
            + self.infos.capacity() * size_of::<KeyInfo>()
            + self.links.capacity() * size_of::<Link>()
    }

    /// Adds the rows of a batch; `by_key` asks for what becomes of its keys.
    pub(in crate::operators) fn enter(&mut self, delta: &Batch, by_key: bool) -> Result<Entered> {
        let n = delta.num_rows();
        let columns = |indexes: &[usize]| indexes.iter().map(|i| delta.column(*i).clone()).collect::<Vec<_>>();
        let key_arrays = columns(&self.key_columns);
        let keys = row::encode_rows(&key_arrays, n)?;
        let values = row::encode_rows(&columns(&self.value_columns), n)?;
        let order = self.order_by.as_ref().map(|order| Values::of(delta, order)).transpose()?;
        let expiring = self.expiring.as_ref().map(|expiring| expiring.values(delta));
        let vnodes = storage::batch::vnodes(&key_arrays, n);
        let nulls: Vec<_> = key_arrays.iter().filter_map(|array| array.logical_nulls()).collect();
        let null_keys: Vec<bool> = (0..n).map(|row| nulls.iter().any(|nulls| nulls.is_null(row))).collect();
        let mut entered = Entered { keys, rows: Vec::with_capacity(n), null_keys, totals: Vec::new() };
        let mut seen = hashbrown::HashSet::new();
        for first in (0..n).step_by(LOOKUP_ROWS) {
            let end = n.min(first + LOOKUP_ROWS);
            let hashes: Vec<u64> = (first..end).map(|row| hash_bytes(entered.keys.get(row))).collect();
            self.keys.touch(&hashes);
            let numbers: Vec<u32> = (first..end)
                .map(|row| {
                    let null = entered.null_keys[row];
                    self.key_number(hashes[row - first], entered.keys.get(row), vnodes[row], |_| Ok(null))
                })
                .collect::<Result<_>>()?;
            let hashes: Vec<u64> = (first..end).map(|row| row_hash(numbers[row - first], values.get(row))).collect();
            self.rows.touch(&hashes);
            for row in first..end {
                let key = numbers[row - first];
                if by_key && seen.insert(key) {
                    entered.totals.push((key, self.infos[key as usize].total));
                }
                let order = order.as_ref().and_then(|order| order.get(row));
                let number = self.add_row(key, hashes[row - first], values.get(row), order, delta.diff(row));
                if let Some(values) = &expiring
                    && self.links[number as usize].count == delta.diff(row)
                    && let Some(expiring) = &mut self.expiring
                {
                    expiring.note(values[row], number);
                }
                entered.rows.push(number);
            }
        }
        Ok(entered)
    }

    /// What [`Side::enter`] finds out about a batch, without keeping its rows.
    pub(in crate::operators) fn look_at(&self, delta: &Batch) -> Result<Entered> {
        let keys: Vec<ArrayRef> = self.key_columns.iter().map(|i| delta.column(*i).clone()).collect();
        let keys = row::encode_rows(&keys, delta.num_rows())?;
        Ok(Entered { keys, rows: Vec::new(), null_keys: vec![false; delta.num_rows()], totals: Vec::new() })
    }

    pub(in crate::operators) fn find_keys(&self, keys: &Keys) -> Vec<Option<u32>> {
        let mut found = Vec::with_capacity(keys.len());
        for first in (0..keys.len()).step_by(LOOKUP_ROWS) {
            let end = keys.len().min(first + LOOKUP_ROWS);
            let hashes: Vec<u64> = (first..end).map(|row| hash_bytes(keys.get(row))).collect();
            self.keys.touch(&hashes);
            found.extend((first..end).map(|row| self.keys.find(hashes[row - first], keys.get(row))));
        }
        found
    }

    /// The number here of the key that has number `key` at the other side.
    pub(in crate::operators) fn key_like(&self, other: &Side, key: u32) -> Option<u32> {
        let bytes = other.keys.get(key);
        self.keys.find(hash_bytes(bytes), bytes)
    }

    /// The number of a key; `null` says of a new one whether a column of it is NULL.
    pub(in crate::operators) fn key_number(
        &mut self,
        hash: u64,
        key: &[u8],
        vnode: u8,
        null: impl FnOnce(&Side) -> Result<bool>,
    ) -> Result<u32> {
        if let Some(number) = self.keys.find(hash, key) {
            return Ok(number);
        }
        let null = null(self)?;
        let number = self.keys.insert(hash, key);
        let info = KeyInfo { head: NONE, rows: 0, vnode, null, used: true, total: 0 };
        match self.infos.get_mut(number as usize) {
            Some(place) => *place = info,
            None => self.infos.push(info),
        }
        Ok(number)
    }

    /// Adds `diff` to the count of a row, whose ordering value is `order`, and returns its number.
    pub(in crate::operators) fn add_row(
        &mut self,
        key: u32,
        hash: u64,
        values: &[u8],
        order: Option<&[u8]>,
        diff: i64,
    ) -> u32 {
        let found = self.rows.find_if(hash, values, |number| self.links[number as usize].key == key);
        let number = found.unwrap_or_else(|| {
            let number = self.rows.insert(hash, values);
            let link = Link { key, next: NONE, previous: NONE, flags: LIVE, count: 0, matches: 0 };
            match self.links.get_mut(number as usize) {
                Some(place) => *place = link,
                None => self.links.push(link),
            }
            self.infos[key as usize].rows += 1;
            number
        });
        let before = self.links[number as usize].count;
        let after = before + diff;
        self.links[number as usize].count = after;
        if before == 0 && after != 0 {
            self.chain(number);
            if let Some(value) = order {
                self.order.insert(key, value, number);
            }
        } else if before != 0 && after == 0 {
            self.unchain(number);
            if let Some(value) = order {
                self.order.remove(key, value, number);
            }
        }
        if after == 0 {
            self.zero.push(number);
        }
        let info = &mut self.infos[key as usize];
        info.total += diff;
        info.used = true;
        self.total += diff;
        if info.null {
            self.null_total += diff;
        }
        self.change(number);
        number
    }

    /// Makes a row's count zero without anything coming out for it. The order is the caller's to mend.
    pub(super) fn take_out(&mut self, number: u32) {
        let Link { key, count, .. } = self.links[number as usize];
        self.unchain(number);
        self.links[number as usize].count = 0;
        self.zero.push(number);
        let info = &mut self.infos[key as usize];
        info.total -= count;
        self.total -= count;
        if info.null {
            self.null_total -= count;
        }
        self.change(number);
    }

    pub(in crate::operators) fn change(&mut self, number: u32) {
        let link = &mut self.links[number as usize];
        if link.flags & CHANGED == 0 {
            link.flags |= CHANGED;
            self.changed.push(number);
        }
    }

    fn chain(&mut self, number: u32) {
        let key = self.links[number as usize].key as usize;
        let head = std::mem::replace(&mut self.infos[key].head, number);
        let link = &mut self.links[number as usize];
        (link.next, link.previous) = (head, NONE);
        if head != NONE {
            self.links[head as usize].previous = number;
        }
    }

    fn unchain(&mut self, number: u32) {
        let Link { key, next, previous, .. } = self.links[number as usize];
        match previous {
            NONE => self.infos[key as usize].head = next,
            previous => self.links[previous as usize].next = next,
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
    }

    /// Adds to a row's number of matches; says whether it had one if this is the first change by this batch.
    pub(in crate::operators) fn add_matches(&mut self, number: u32, diff: i64) -> Option<bool> {
        self.change(number);
        let link = &mut self.links[number as usize];
        let had = link.matches > 0;
        let first = link.flags & TOUCHED == 0;
        link.flags |= TOUCHED;
        link.matches += diff;
        first.then_some(had)
    }

    /// Ends what [`Side::add_matches`] began for a row; whether it has a match now.
    pub(in crate::operators) fn end_touch(&mut self, number: u32) -> bool {
        let link = &mut self.links[number as usize];
        link.flags &= !TOUCHED;
        link.matches > 0
    }

    pub(in crate::operators) fn set_matches(&mut self, number: u32, matches: i64) {
        self.links[number as usize].matches = matches;
    }

    /// The kept columns besides the key, of some rows.
    pub(in crate::operators) fn values(&self, rows: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(row::decode(&self.value_types, rows.iter().map(|row| self.rows.get(*row)))?)
    }

    /// All columns of some rows; only for a side that keeps them.
    pub(in crate::operators) fn columns(&self, rows: &[u32]) -> Result<Vec<ArrayRef>> {
        let keys = rows.iter().map(|row| self.keys.get(self.links[*row as usize].key));
        Ok(self.assemble(row::decode(&self.key_types, keys)?, self.values(rows)?))
    }

    /// Puts key and other columns in the input's order.
    pub(in crate::operators) fn assemble(&self, keys: Vec<ArrayRef>, values: Vec<ArrayRef>) -> Vec<ArrayRef> {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.width];
        let places = self.key_columns.iter().chain(&self.value_columns);
        places.zip(keys.into_iter().chain(values)).for_each(|(i, column)| columns[*i] = Some(column));
        columns.into_iter().flatten().collect()
    }

    /// Forgets rows of which nothing is left and that the store does not know.
    pub(in crate::operators) fn collect(&mut self) {
        for number in std::mem::take(&mut self.zero) {
            let link = &self.links[number as usize];
            if link.count == 0 && link.flags & (LIVE | STORED) == LIVE {
                self.remove(number);
            }
        }
    }

    pub(in crate::operators) fn remove(&mut self, number: u32) {
        let key = self.links[number as usize].key;
        self.rows.remove(number);
        self.links[number as usize].flags = 0;
        let info = &mut self.infos[key as usize];
        info.rows -= 1;
        if info.rows == 0 {
            self.keys.remove(key);
            info.head = NONE;
        }
    }
}

/// The hash of a row beside its key's number.
pub(in crate::operators) fn row_hash(key: u32, values: &[u8]) -> u64 {
    hash_i64(i64::from(key)) ^ hash_bytes(values)
}
