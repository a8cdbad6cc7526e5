//! The first rows of each partition in an order: ORDER BY ... LIMIT, and ROW_NUMBER/RANK/DENSE_RANK() <= n.
//!
//! Rule    At the end of an epoch, for each partition that changed: the rows in the window now, minus those that were.
//!         The window is `offset < number <= offset + limit`, where the number is the row's position, its rank or its
//!         dense rank. RANK without its number as a column is FETCH ... WITH TIES: `offset` skips positions, and the
//!         last row that is in takes its peers with it.
//! State   `rows`: (partition, order, row) -> count; every row of the input, since any may move into the window. Of an
//!         append-only input only the rows up to the window's end: what is behind it only moves further back.
//! Epochs  Emits at the seal.
//! Limits  Pieces of OUTPUT_ROWS_MAX. A change costs time in the size of its partition's window.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};
use storage::keys::{self, SortOption};
use storage::{Batch, StateTable, row};

use crate::byte_table::{ByteTable, hash_bytes};
use crate::error::{Error, Result};
use crate::operator::{Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext};

/// The first rows of each partition in an order: ORDER BY ... LIMIT, and ROW_NUMBER/RANK/DENSE_RANK() <= n.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TopN {
    /// The partition columns; empty for one partition.
    pub partition: Vec<usize>,
    /// The order within a partition; ties are broken by the whole row.
    pub order: Vec<SortKey>,
    /// Rows skipped.
    pub offset: u64,
    /// Rows kept behind the offset; `None` for all.
    pub limit: Option<u64>,
    /// Which rank is compared and, if it is an output column (the last one, bigint), that it comes out.
    pub rank: Rank,
    /// Whether no row of the input is ever taken back.
    pub append_only: bool,
    /// The output columns.
    pub schema: SchemaRef,
}

/// One column of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortKey {
    /// The column.
    pub column: usize,
    /// DESC
    pub descending: bool,
    /// NULLS FIRST
    pub nulls_first: bool,
}

/// How rows of a partition are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rank {
    /// The numbering.
    pub kind: RankKind,
    /// Whether the number comes out as the last column.
    pub output: bool,
}

/// ROW_NUMBER (also LIMIT), RANK (also FETCH ... WITH TIES) or DENSE_RANK.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RankKind {
    RowNumber,
    Rank,
    DenseRank,
}

impl Operator for TopN {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![if self.partition.is_empty() { Exchange::Single } else { Exchange::Hash(self.partition.clone()) }]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let table = ctx.table("rows")?;
        let types = ctx.inputs[0].fields().iter().map(|f| f.data_type().clone()).collect();
        let mut task = TopNTask {
            node: self.clone(),
            types,
            keys: ByteTable::default(),
            partitions: Vec::new(),
            dirty: Vec::new(),
            emptied: Vec::new(),
            changed: hashbrown::HashSet::new(),
            n_rows: 0,
            bytes: 0,
            sealing: None,
            table,
        };
        task.load()?;
        Ok(Box::new(task))
    }
    fn describe(&self) -> String {
        let order: Vec<String> = self.order.iter().map(ToString::to_string).collect();
        let mut terms = Vec::new();
        if !self.partition.is_empty() {
            let columns: Vec<String> = self.partition.iter().map(|i| format!("${i}")).collect();
            terms.push(format!("partition by {}", columns.join(", ")));
        }
        if !order.is_empty() {
            terms.push(format!("order by {}", order.join(", ")));
        }
        terms.extend(self.limit.map(|limit| format!("limit {limit}")));
        if self.offset > 0 {
            terms.push(format!("offset {}", self.offset));
        }
        match (self.rank.kind, self.rank.output) {
            (RankKind::RowNumber, false) => {}
            (RankKind::Rank, false) => terms.push("with ties".into()),
            (RankKind::DenseRank, false) => terms.push("by dense_rank".into()),
            (RankKind::RowNumber, true) => terms.push("with row_number".into()),
            (RankKind::Rank, true) => terms.push("with rank".into()),
            (RankKind::DenseRank, true) => terms.push("with dense_rank".into()),
        }
        terms.join(", ")
    }
    fn state(&self) -> Option<String> {
        let kept = match (self.append_only && self.limit.is_some(), self.partition.is_empty()) {
            (false, _) => "every row of the input",
            (true, true) => "the first rows only",
            (true, false) => "the first rows of each partition only",
        };
        Some(kept.into())
    }
}

impl SortKey {
    /// How the column is sorted.
    pub fn option(&self) -> SortOption {
        SortOption { descending: self.descending, nulls_first: self.nulls_first }
    }
}

impl std::fmt::Display for SortKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "${}{}", self.column, if self.descending { " desc" } else { "" })?;
        if self.nulls_first != self.descending {
            f.write_str(if self.nulls_first { " nulls first" } else { " nulls last" })?;
        }
        Ok(())
    }
}

/// The rows of a partition: bytes of the order columns, then of the whole row.
///
/// ```text
/// in the store   [length of the partition's bytes 4, big endian][partition][order][row] -> [count 8][length of order 4]
/// ```
#[derive(Default)]
struct Partition {
    rows: BTreeMap<Box<[u8]>, Entry>,
    vnode: u8,
    /// Whether its number is in use.
    live: bool,
    /// The window as it was when the epoch first touched the partition.
    before: Option<Vec<Shown>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    count: i64,
    /// Bytes of the order columns.
    order: usize,
    /// Whether the store may know it.
    saved: bool,
}

/// A row in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    key: Box<[u8]>,
    order: usize,
    /// Its number, if that comes out.
    number: i64,
    count: i64,
}

struct TopNTask {
    node: TopN,
    types: Vec<DataType>,
    keys: ByteTable,
    /// By the numbers of `keys`.
    partitions: Vec<Partition>,
    /// Partitions touched in this epoch.
    dirty: Vec<u32>,
    /// Partitions found empty at a seal since the last checkpoint.
    emptied: Vec<u32>,
    /// Rows changed since the last checkpoint.
    changed: hashbrown::HashSet<(u32, Box<[u8]>)>,
    n_rows: usize,
    bytes: usize,
    sealing: Option<Sealing>,
    table: StateTable,
}

/// A seal under way: the next dirty partition, and changes of the last ones that are not emitted yet.
#[derive(Default)]
struct Sealing {
    next: usize,
    changes: Vec<(Shown, i64)>,
    emitted: usize,
}

impl Task for TopNTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        let n = delta.num_rows();
        let partition: Vec<ArrayRef> = self.node.partition.iter().map(|i| delta.column(*i).clone()).collect();
        let order: Vec<ArrayRef> = self.node.order.iter().map(|key| delta.column(key.column).clone()).collect();
        let options: Vec<SortOption> = self.node.order.iter().map(SortKey::option).collect();
        let partitions = row::encode_rows(&partition, n)?;
        let vnodes = storage::batch::vnodes(&partition, n);
        let order = keys::encode_rows(&order, &options, n)?;
        let rows = keys::encode_rows(delta.data().columns(), &[], n)?;
        for i in 0..n {
            let number = self.partition(partitions.get(i), vnodes[i]);
            self.touch(number);
            let key = [order.get(i), rows.get(i)].concat();
            self.add(number, key.into(), order.get(i).len(), delta.diff(i));
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        let mut sealing = self.sealing.take().unwrap_or_default();
        loop {
            while sealing.emitted < sealing.changes.len() {
                if out.is_full() {
                    self.sealing = Some(sealing);
                    return Ok(Progress::More);
                }
                let end = sealing.changes.len().min(sealing.emitted + OUTPUT_ROWS_MAX);
                self.emit(&sealing.changes[sealing.emitted..end], out)?;
                sealing.emitted = end;
            }
            (sealing.changes, sealing.emitted) = (Vec::new(), 0);
            while sealing.next < self.dirty.len() && sealing.changes.len() < OUTPUT_ROWS_MAX {
                let number = self.dirty[sealing.next] as usize;
                sealing.next += 1;
                let before = self.partitions[number].before.take().unwrap_or_default();
                let (after, behind) = window(&self.node, &self.partitions[number].rows);
                difference(before, after, &mut sealing.changes);
                if let (true, Some(behind)) = (self.node.append_only, behind) {
                    self.drop_behind(number, &behind);
                }
            }
            if sealing.changes.is_empty() {
                break;
            }
        }
        let partitions = &self.partitions;
        self.emptied.extend(self.dirty.drain(..).filter(|number| partitions[*number as usize].rows.is_empty()));
        if at.checkpoint {
            self.save();
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        let bytes = self.bytes + self.n_rows * 48 + self.keys.bytes();
        StateSize { rows: self.n_rows as u64, bytes: bytes as u64 }
    }
}

impl TopNTask {
    fn partition(&mut self, key: &[u8], vnode: u8) -> u32 {
        let hash = hash_bytes(key);
        if let Some(number) = self.keys.find(hash, key) {
            return number;
        }
        let number = self.keys.insert(hash, key);
        let partition = Partition { vnode, live: true, ..Partition::default() };
        match self.partitions.get_mut(number as usize) {
            Some(place) => *place = partition,
            None => self.partitions.push(partition),
        }
        number
    }

    fn touch(&mut self, number: u32) {
        let partition = &mut self.partitions[number as usize];
        if partition.before.is_none() {
            partition.before = Some(window(&self.node, &partition.rows).0);
            self.dirty.push(number);
        }
    }

    fn add(&mut self, number: u32, key: Box<[u8]>, order: usize, diff: i64) {
        let rows = &mut self.partitions[number as usize].rows;
        self.changed.insert((number, key.clone()));
        match rows.get_mut(&key) {
            Some(entry) => {
                entry.count += diff;
                if entry.count == 0 {
                    rows.remove(&key);
                    self.n_rows -= 1;
                    self.bytes -= key.len();
                }
            }
            None => {
                self.n_rows += 1;
                self.bytes += key.len();
                rows.insert(key, Entry { count: diff, order, saved: false });
            }
        }
    }

    /// Forgets the rows from a key on, which can never come into the window.
    fn drop_behind(&mut self, number: usize, behind: &[u8]) {
        let dropped = self.partitions[number].rows.split_off(behind);
        self.n_rows -= dropped.len();
        for (key, entry) in dropped {
            self.bytes -= key.len();
            let key = (number as u32, key);
            if entry.saved {
                self.changed.insert(key);
            } else {
                self.changed.remove(&key);
            }
        }
    }

    fn emit(&self, changes: &[(Shown, i64)], out: &mut Output) -> Result<()> {
        let rows = changes.iter().map(|(shown, _)| &shown.key[shown.order..]);
        let mut columns = keys::decode(&self.types, &[], rows)?;
        if self.node.rank.output {
            columns.push(Arc::new(Int64Array::from_iter_values(changes.iter().map(|(shown, _)| shown.number))));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
        let data = RecordBatch::try_new_with_options(self.node.schema.clone(), columns, &options)?;
        let diffs: Vec<i64> = changes.iter().map(|(_, diff)| *diff).collect();
        let all_new = diffs.iter().all(|diff| *diff == 1);
        out.emit(Batch::new(data, (!all_new).then(|| Int64Array::from(diffs))));
        Ok(())
    }

    /// Puts what changed since the last checkpoint into the table.
    fn save(&mut self) {
        for (number, key) in std::mem::take(&mut self.changed) {
            let partition = &mut self.partitions[number as usize];
            let prefix = self.keys.get(number);
            let entry = [(prefix.len() as u32).to_be_bytes().as_slice(), prefix, &key].concat();
            match partition.rows.get_mut(&key) {
                None => self.table.delete(partition.vnode, &entry),
                Some(Entry { count, order, saved }) => {
                    *saved = true;
                    let value = [count.to_le_bytes().as_slice(), &(*order as u32).to_le_bytes()].concat();
                    self.table.put(partition.vnode, &entry, &value);
                }
            }
        }
        // Partitions that were emptied waited for their rows to be deleted.
        for number in std::mem::take(&mut self.emptied) {
            let partition = &mut self.partitions[number as usize];
            if partition.live && partition.rows.is_empty() {
                *partition = Partition::default();
                self.keys.remove(number);
            }
        }
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
        self.changed.clear();
        Ok(())
    }

    fn load_row(&mut self, vnode: u8, entry: &[u8], value: &[u8]) -> Result<()> {
        let broken = || Error::Failed("a row of a top-n in the store is broken".into());
        let (len, tail) = entry.split_at_checked(4).ok_or_else(broken)?;
        let len = u32::from_be_bytes(len.try_into().expect("four bytes")) as usize;
        let (partition, key) = tail.split_at_checked(len).ok_or_else(broken)?;
        let (count, order) = value.split_at_checked(8).ok_or_else(broken)?;
        let count = i64::from_le_bytes(count.try_into().expect("eight bytes"));
        let order = u32::from_le_bytes(order.try_into().map_err(|_| broken())?) as usize;
        if order > key.len() {
            return Err(broken());
        }
        let number = self.partition(partition, vnode);
        self.add(number, key.into(), order, count);
        if let Some(entry) = self.partitions[number as usize].rows.get_mut(key) {
            entry.saved = true;
        }
        Ok(())
    }
}

/// The rows in the window, in order, and the first one behind its end.
fn window(node: &TopN, rows: &BTreeMap<Box<[u8]>, Entry>) -> (Vec<Shown>, Option<Box<[u8]>>) {
    let end = node.limit.map_or(i64::MAX, |limit| i64::try_from(node.offset.saturating_add(limit)).unwrap_or(i64::MAX));
    let offset = i64::try_from(node.offset).unwrap_or(i64::MAX);
    let Rank { kind, output } = node.rank;
    let mut shown = Vec::new();
    // Rows before this one; the rank and the dense rank of its peers, and their order columns.
    let (mut position, mut rank, mut dense, mut peers) = (0, 0, 0, None);
    for (key, entry) in rows.iter().filter(|(_, entry)| entry.count > 0) {
        let order = &key[..entry.order];
        if peers != Some(order) {
            (rank, dense, peers) = (position + 1, dense + 1, Some(order));
        }
        let number = match kind {
            RankKind::RowNumber => position + 1,
            RankKind::Rank => rank,
            RankKind::DenseRank => dense,
        };
        if number > end || end == offset {
            return (shown, Some(key.clone()));
        }
        let mut show = |number: i64, count: i64| {
            shown.push(Shown { key: key.clone(), order: entry.order, number: if output { number } else { 0 }, count });
        };
        match (kind, output) {
            (RankKind::RowNumber, true) => {
                let first = (position + 1).max(offset.saturating_add(1));
                (first..=end.min(position + entry.count)).for_each(|number| show(number, 1));
            }
            (RankKind::RowNumber, false) => {
                let count = end.min(position + entry.count) - position.max(offset);
                if count > 0 {
                    show(0, count);
                }
            }
            (RankKind::Rank, false) => {
                let count = position + entry.count - position.max(offset);
                if count > 0 {
                    show(0, count);
                }
            }
            (RankKind::Rank, true) | (RankKind::DenseRank, _) => {
                if number > offset {
                    show(number, entry.count);
                }
            }
        }
        position += entry.count;
    }
    (shown, None)
}

/// What turns one window into another: rows with the change of their count.
fn difference(before: Vec<Shown>, after: Vec<Shown>, changes: &mut Vec<(Shown, i64)>) {
    let (mut old, mut new) = (before.into_iter().peekable(), after.into_iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.key.cmp(&new.key).then(old.number.cmp(&new.number)),
        };
        let gone = if order.is_le() { old.next() } else { None };
        let come = if order.is_ge() { new.next() } else { None };
        let diff = come.as_ref().map_or(0, |row| row.count) - gone.as_ref().map_or(0, |row| row.count);
        if let (true, Some(row)) = (diff != 0, come.or(gone)) {
            changes.push((row, diff));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::oracle;
    use crate::testing::{run, schema};

    const INPUT: &str = "p bigint, o bigint, s text";

    fn node(kind: RankKind, output: bool, offset: u64, limit: Option<u64>) -> TopN {
        let order = vec![SortKey { column: 1, descending: true, nulls_first: true }];
        let line = if output { "p bigint, o bigint, s text, n bigint" } else { INPUT };
        TopN { partition: vec![0], order, offset, limit, rank: Rank { kind, output }, append_only: false, schema: schema(line) }
    }

    #[test]
    fn a_row_that_leaves_lets_the_next_one_in() {
        let script = "1 +(1,10,a) +(1,20,b) +(1,30,c) 2 -(1,30,c) 3 +(1,5,d) 4 -(1,20,b) -(1,10,a) -(1,5,d)";
        expect![[r#"
            1 +(1,20,b,2) +(1,30,c,1)
            2 +(1,10,a,2) +(1,20,b,1) -(1,20,b,2) -(1,30,c,1)
            3
            4 -(1,10,a,2) -(1,20,b,1)"#]]
        .assert_eq(&run(node(RankKind::RowNumber, true, 0, Some(2)), &[INPUT], script));
    }

    #[test]
    fn peers_of_the_last_row_come_too() {
        let script = "1 +(1,30,a) +(1,20,b) +(1,20,c) +(1,10,d) 2 -(1,30,a)";
        expect![[r#"
            1 +(1,20,b) +(1,20,c) +(1,30,a)
            2 -(1,30,a)"#]]
        .assert_eq(&run(node(RankKind::Rank, false, 0, Some(2)), &[INPUT], script));
    }

    const NUMBERED: &str = "select p, o, s, n from (select p, o, s, {} over (partition by p order by o desc nulls first, {}) n from t0) where n > {} and n <= {}";

    fn sql(function: &str, more: &str, offset: u64, end: u64) -> String {
        let order = if more.is_empty() { "1".to_string() } else { more.to_string() };
        NUMBERED
            .replacen("{}", function, 1)
            .replacen("{}", &order, 1)
            .replacen("{}", &offset.to_string(), 1)
            .replacen("{}", &end.to_string(), 1)
    }

    // Ties by the whole row: o, then p, o, s ascending with NULLs last.
    oracle!(row_number, node(RankKind::RowNumber, true, 1, Some(3)), [INPUT], &sql("row_number()", "s nulls last", 1, 4));
    oracle!(rank, node(RankKind::Rank, true, 0, Some(3)), [INPUT], &sql("rank()", "", 0, 3));
    oracle!(dense_rank, node(RankKind::DenseRank, true, 1, Some(2)), [INPUT], &sql("dense_rank()", "", 1, 3));
    oracle!(
        limit,
        TopN { partition: vec![], ..node(RankKind::RowNumber, false, 2, Some(5)) },
        [INPUT],
        "select * from t0 order by o desc nulls first, p nulls last, s nulls last limit 5 offset 2"
    );
    oracle!(
        append_only_row_number,
        TopN { append_only: true, ..node(RankKind::RowNumber, true, 1, Some(3)) },
        [INPUT],
        &sql("row_number()", "s nulls last", 1, 4),
        append_only
    );
    oracle!(
        append_only_rank,
        TopN { append_only: true, ..node(RankKind::Rank, true, 1, Some(2)) },
        [INPUT],
        &sql("rank()", "", 1, 3),
        append_only
    );
    oracle!(
        append_only_dense_rank,
        TopN { append_only: true, ..node(RankKind::DenseRank, true, 0, Some(2)) },
        [INPUT],
        &sql("dense_rank()", "", 0, 2),
        append_only
    );
    oracle!(
        append_only_limit,
        TopN { append_only: true, partition: vec![], ..node(RankKind::RowNumber, false, 2, Some(5)) },
        [INPUT],
        "select * from t0 order by o desc nulls first, p nulls last, s nulls last limit 5 offset 2",
        append_only
    );
    oracle!(
        everything_numbered,
        node(RankKind::RowNumber, true, 0, None),
        [INPUT],
        &sql("row_number()", "s nulls last", 0, 1_000_000)
    );
}
