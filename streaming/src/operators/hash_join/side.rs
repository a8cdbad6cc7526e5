//! What a join keeps of one input, in memory.

use arrow::array::ArrayRef;
use arrow_schema::{DataType, SchemaRef};
use storage::keys::Keys;
use storage::{Batch, row};

use super::range::{OrderedRows, Range, Values};
use super::Placement;
use crate::byte_table::{ByteTable, LOOKUP_ROWS, hash_bytes, hash_i64};
use crate::error::Result;
use crate::operator::TaskContext;

/// No row.
pub(super) const NONE: u32 = u32::MAX;

/// The row changed since the last checkpoint.
pub(super) const CHANGED: u8 = 1;
/// The store has the row.
pub(super) const STORED: u8 = 2;
/// The number is in use.
pub(super) const LIVE: u8 = 4;
/// In `touched` of the batch in work.
pub(super) const TOUCHED: u8 = 8;

/// A row of one side, as a link of its key's chain. Rows with count zero are in no chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) key: u32,
    pub(super) next: u32,
    previous: u32,
    pub(super) flags: u8,
    pub(super) count: i64,
    pub(super) matches: i64,
}

/// A join key of one side.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyInfo {
    /// The first row of the chain.
    pub(super) head: u32,
    /// Rows, those with count zero included.
    rows: u32,
    pub(super) vnode: u8,
    pub(super) null: bool,
    /// The sum of the rows' counts.
    pub(super) total: i64,
}

/// The state of one input.
///
/// ```text
/// keys    key bytes -> number -> first row, sum of counts
/// rows    (key number, bytes of the other columns) -> number -> count, matches, next and previous row of the key
/// order   (key number, ordering value) -> number
/// ```
pub(super) struct Side {
    pub(super) key_columns: Vec<usize>,
    /// The columns that are kept besides the key.
    value_columns: Vec<usize>,
    width: usize,
    pub(super) key_types: Vec<DataType>,
    value_types: Vec<DataType>,
    pub(super) tracks_matches: bool,
    pub(super) placement: Placement,
    pub(super) worker: usize,
    pub(super) workers: usize,
    pub(super) keys: ByteTable,
    pub(super) infos: Vec<KeyInfo>,
    pub(super) rows: ByteTable,
    pub(super) links: Vec<Link>,
    /// The order that rows are found in, if there is one.
    pub(super) range: Option<Range>,
    pub(super) order: OrderedRows,
    pub(super) changed: Vec<u32>,
    /// Rows whose count became zero since the last [`Side::collect`].
    pub(super) zero: Vec<u32>,
    pub(super) total: i64,
    pub(super) null_total: i64,
}

/// What [`Side::enter`] did.
pub(super) struct Entered {
    pub(super) keys: Keys,
    /// Per row of the batch: the number of the row in the state.
    pub(super) rows: Vec<u32>,
    /// Per row of the batch: whether a key column is NULL.
    pub(super) null_keys: Vec<bool>,
    /// If asked for: each key of the batch once, and whether the sum of its counts was above zero.
    pub(super) totals: Vec<(u32, bool)>,
}

/// What is kept of an input, and how.
pub(super) struct SideSpec<'a> {
    pub(super) schema: &'a SchemaRef,
    pub(super) key_columns: &'a [usize],
    pub(super) keys_only: bool,
    pub(super) tracks_matches: bool,
    pub(super) placement: Placement,
    pub(super) range: Option<Range>,
}

impl Side {
    pub(super) fn new(spec: SideSpec, ctx: &TaskContext) -> Side {
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
            range: spec.range,
            order: OrderedRows::default(),
            changed: Vec::new(),
            zero: Vec::new(),
            total: 0,
            null_total: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.rows.bytes()
            + self.order.bytes()
            + self.infos.capacity() * size_of::<KeyInfo>()
            + self.links.capacity() * size_of::<Link>()
    }

    /// Adds the rows of a batch; `by_key` asks for what becomes of its keys.
    pub(super) fn enter(&mut self, delta: &Batch, by_key: bool) -> Result<Entered> {
        let n = delta.num_rows();
        let columns = |indexes: &[usize]| indexes.iter().map(|i| delta.column(*i).clone()).collect::<Vec<_>>();
        let key_arrays = columns(&self.key_columns);
        let keys = row::encode_rows(&key_arrays, n)?;
        let values = row::encode_rows(&columns(&self.value_columns), n)?;
        let order = self.range.as_ref().map(|range| Values::of(delta, range.column, false)).transpose()?;
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
                    entered.totals.push((key, self.infos[key as usize].total > 0));
                }
                let order = order.as_ref().and_then(|order| order.get(row));
                entered.rows.push(self.add_row(key, hashes[row - first], values.get(row), order, delta.diff(row)));
            }
        }
        Ok(entered)
    }

    pub(super) fn find_keys(&self, keys: &Keys) -> Vec<Option<u32>> {
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
    pub(super) fn key_like(&self, other: &Side, key: u32) -> Option<u32> {
        let bytes = other.keys.get(key);
        self.keys.find(hash_bytes(bytes), bytes)
    }

    /// The number of a key; `null` says of a new one whether a column of it is NULL.
    pub(super) fn key_number(
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
        let info = KeyInfo { head: NONE, rows: 0, vnode, null, total: 0 };
        match self.infos.get_mut(number as usize) {
            Some(place) => *place = info,
            None => self.infos.push(info),
        }
        Ok(number)
    }

    /// Adds `diff` to the count of a row, whose ordering value is `order`, and returns its number.
    pub(super) fn add_row(&mut self, key: u32, hash: u64, values: &[u8], order: Option<&[u8]>, diff: i64) -> u32 {
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
        self.total += diff;
        if info.null {
            self.null_total += diff;
        }
        self.change(number);
        number
    }

    pub(super) fn change(&mut self, number: u32) {
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
    pub(super) fn add_matches(&mut self, number: u32, diff: i64) -> Option<bool> {
        self.change(number);
        let link = &mut self.links[number as usize];
        let had = link.matches > 0;
        let first = link.flags & TOUCHED == 0;
        link.flags |= TOUCHED;
        link.matches += diff;
        first.then_some(had)
    }

    /// Ends what [`Side::add_matches`] began for a row; whether it has a match now.
    pub(super) fn end_touch(&mut self, number: u32) -> bool {
        let link = &mut self.links[number as usize];
        link.flags &= !TOUCHED;
        link.matches > 0
    }

    pub(super) fn set_matches(&mut self, number: u32, matches: i64) {
        self.links[number as usize].matches = matches;
    }

    /// The kept columns besides the key, of some rows.
    pub(super) fn values(&self, rows: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(row::decode(&self.value_types, rows.iter().map(|row| self.rows.get(*row)))?)
    }

    /// All columns of some rows; only for a side that keeps them.
    pub(super) fn columns(&self, rows: &[u32]) -> Result<Vec<ArrayRef>> {
        let keys = rows.iter().map(|row| self.keys.get(self.links[*row as usize].key));
        Ok(self.assemble(row::decode(&self.key_types, keys)?, self.values(rows)?))
    }

    /// Puts key and other columns in the input's order.
    pub(super) fn assemble(&self, keys: Vec<ArrayRef>, values: Vec<ArrayRef>) -> Vec<ArrayRef> {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.width];
        let places = self.key_columns.iter().chain(&self.value_columns);
        places.zip(keys.into_iter().chain(values)).for_each(|(i, column)| columns[*i] = Some(column));
        columns.into_iter().flatten().collect()
    }

    /// Forgets rows of which nothing is left and that the store does not know.
    pub(super) fn collect(&mut self) {
        for number in std::mem::take(&mut self.zero) {
            let link = &self.links[number as usize];
            if link.count == 0 && link.flags & (LIVE | STORED) == LIVE {
                self.remove(number);
            }
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
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
pub(super) fn row_hash(key: u32, values: &[u8]) -> u64 {
    hash_i64(i64::from(key)) ^ hash_bytes(values)
}
