//! The first rows of each partition in an order: ORDER BY ... LIMIT, and ROW_NUMBER/RANK/DENSE_RANK() <= n.
//!
//! Rule    At the end of an epoch, for each partition that changed: the rows in the window now, minus those that were.
//!         The window is `offset < number <= offset + limit`, where the number is the row's position, its rank or its
//!         dense rank. RANK without its number as a column is FETCH ... WITH TIES: `offset` skips positions, and the
//!         last row that is in takes its peers with it.
//! State   `rows`: (partition, order, row) -> count; every row of the input, since any may move into the window. Over an
//!         input that never retracts, only what is in the window or before it: nothing else can come into it.
//! Epochs  Collects changes; everything is emitted at the seal.
//! Limits  Pieces of OUTPUT_ROWS_MAX. A change costs time in what it changes: the rows that enter the window and leave it,
//!         and where the number comes out those that it renumbers. Dense ranks are counted from the first.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};
use storage::Batch;
use storage::keys::{self, SortOption};

use crate::error::Result;
use crate::ordered_rows::{OrderedRows, Place};
use crate::partitions::{self, Kept, Partitions, Pending, Settled};
use crate::watermark::Watermarks;
use crate::operator::{Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext};

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
    /// Whether the input never retracts.
    #[serde(default)]
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
        let partitions = Partitions::open(&self.partition, &self.order, &ctx.inputs[0], table)?;
        Ok(Box::new(TopNTask { node: self.clone(), types, partitions, changes: Vec::new() }))
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
    fn expires_by(&self) -> Vec<(usize, usize)> {
        self.partition.iter().map(|column| (0, *column)).collect()
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        partitions::watermarks(&self.partition, self.schema.fields().len(), &inputs[0])
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

/// A row in the window.
#[derive(Clone, Debug)]
struct Shown {
    key: Arc<[u8]>,
    /// Bytes of the order columns.
    order: u32,
    /// Its number, if that comes out.
    number: i64,
    count: i64,
}

struct TopNTask {
    node: TopN,
    types: Vec<DataType>,
    partitions: Partitions<OrderedRows>,
    /// While a seal is not finished: what is not emitted yet. Counts are those of changes.
    changes: Vec<Shown>,
}

impl Kept for OrderedRows {
    fn is_empty(&self) -> bool {
        OrderedRows::is_empty(self)
    }
    fn find(&self, key: &[u8]) -> Option<(u32, u64)> {
        self.entry(key).map(|entry| (entry.order, entry.count))
    }
    fn load(&mut self, key: &[u8], order: u32, count: u64) -> Result<()> {
        self.change(&key.into(), order, count as i64).map(|_| ())
    }
    fn take_all(&mut self) -> Vec<Arc<[u8]>> {
        let rows = std::mem::take(self);
        rows.from(rows.first(|_| true)).map(|entry| entry.key.clone()).collect()
    }
}

impl Task for TopNTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        self.partitions.add(delta)?;
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        loop {
            while !self.changes.is_empty() {
                if out.is_full() {
                    return Ok(Progress::More);
                }
                let from = self.changes.len().saturating_sub(OUTPUT_ROWS_MAX);
                let changes = self.changes.split_off(from);
                self.emit(&changes, out)?;
            }
            let (node, changes) = (&self.node, &mut self.changes);
            while changes.len() < OUTPUT_ROWS_MAX
                && self.partitions.settle_next(|rows, pending| settle(node, rows, pending, changes))?
            {}
            if changes.is_empty() {
                break;
            }
        }
        self.partitions.drop_below(at)?;
        if at.checkpoint && !self.partitions.save() {
            return Ok(Progress::More);
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        self.partitions.size()
    }
}

impl TopNTask {
    fn emit(&self, changes: &[Shown], out: &mut Output) -> Result<()> {
        let rows = changes.iter().map(|shown| &shown.key[shown.order as usize..]);
        let mut columns = keys::decode(&self.types, &[], rows)?;
        if self.node.rank.output {
            columns.push(Arc::new(Int64Array::from_iter_values(changes.iter().map(|shown| shown.number))));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
        let data = RecordBatch::try_new_with_options(self.node.schema.clone(), columns, &options)?;
        let diffs: Vec<i64> = changes.iter().map(|shown| shown.count).collect();
        let all_new = diffs.iter().all(|diff| *diff == 1);
        out.emit(Batch::new(data, (!all_new).then(|| Int64Array::from(diffs))));
        Ok(())
    }
}

/// Applies a partition's changes, and notes what they change in its window.
fn settle(node: &TopN, rows: &mut OrderedRows, pending: &mut Pending, changes: &mut Vec<Shown>) -> Result<Settled> {
    let mut settled = Settled::default();
    if node.rank.output {
        let before = listed(node, rows, pending);
        apply(rows, pending, &mut settled)?;
        difference(before, listed(node, rows, pending), changes);
    } else {
        let before = [Cut::start(node, rows), Cut::end(node, rows)];
        apply(rows, pending, &mut settled)?;
        let after = [Cut::start(node, rows), Cut::end(node, rows)];
        let mut sums = BTreeMap::new();
        for (bound, sign) in [(1, 1), (0, -1)] {
            moved(rows, pending, [&before[bound], &after[bound]], sign, &mut sums);
        }
        let shown = sums.into_iter().filter(|(_, (_, diff))| *diff != 0);
        changes.extend(shown.map(|(key, (order, count))| Shown { key, order, number: 0, count }));
    }
    if node.append_only {
        forget(rows, pending, &Cut::end(node, rows), &mut settled)?;
    }
    Ok(settled)
}

fn apply(rows: &mut OrderedRows, pending: &Pending, settled: &mut Settled) -> Result<()> {
    for (key, (order, diff)) in pending {
        let entries = rows.change(key, *order, *diff)?;
        settled.entries += entries;
        settled.bytes += entries * key.len() as isize;
    }
    Ok(())
}

/// Forgets the rows behind a cut.
fn forget(rows: &mut OrderedRows, pending: &mut Pending, cut: &Cut, settled: &mut Settled) -> Result<()> {
    let Some(key) = &cut.key else { return Ok(()) };
    let behind: Vec<_> = rows.from(rows.lower_bound(key)).cloned().collect();
    for entry in behind {
        let gone = cut.rows(&entry.key, entry.count as i64) - entry.count as i64;
        let entries = rows.change(&entry.key, entry.order, gone)?;
        settled.entries += entries;
        settled.bytes += entries * entry.key.len() as isize;
        let new = pending.get(&entry.key).is_some_and(|(_, diff)| *diff == entry.count as i64);
        if new && entries < 0 {
            // Nobody has heard of it.
            pending.remove(&entry.key);
        } else {
            settled.forgotten.push(entry.key);
        }
    }
    Ok(())
}

/// The end of a first part of a partition's rows: all that are before `key`, and `copies` of it. Without a key: all rows.
struct Cut {
    key: Option<Arc<[u8]>>,
    copies: u64,
}

impl Cut {
    /// Behind the rows that are skipped.
    fn start(node: &TopN, rows: &OrderedRows) -> Cut {
        match node.rank.kind {
            RankKind::RowNumber | RankKind::Rank => Cut::behind_rows(rows, node.offset),
            RankKind::DenseRank => Cut::behind_groups(rows, node.offset),
        }
    }

    /// Behind the last row of the window.
    fn end(node: &TopN, rows: &OrderedRows) -> Cut {
        let Some(limit) = node.limit else { return Cut { key: None, copies: 0 } };
        let end = node.offset.saturating_add(limit);
        match node.rank.kind {
            RankKind::Rank if limit > 0 => match rows.nth(end - 1).and_then(|(place, _)| rows.get(place)) {
                // The last row takes its peers with it.
                Some(last) => Cut::before(rows, rows.first(|entry| entry.order() > last.order())),
                None => Cut { key: None, copies: 0 },
            },
            RankKind::RowNumber | RankKind::Rank => Cut::behind_rows(rows, end),
            RankKind::DenseRank => Cut::behind_groups(rows, end),
        }
    }

    fn behind_rows(rows: &OrderedRows, n: u64) -> Cut {
        match rows.nth(n) {
            Some((place, copies)) => Cut { copies, ..Cut::before(rows, place) },
            None => Cut { key: None, copies: 0 },
        }
    }

    fn behind_groups(rows: &OrderedRows, n: u64) -> Cut {
        Cut::before(rows, groups(rows).nth(clipped(n)).unwrap_or_else(|| rows.first(|_| false)))
    }

    fn before(rows: &OrderedRows, place: Place) -> Cut {
        Cut { key: rows.get(place).map(|entry| entry.key.clone()), copies: 0 }
    }

    /// How many rows equal to `key`, of which there are `count`, are before the cut.
    fn rows(&self, key: &[u8], count: i64) -> i64 {
        match self.key.as_deref().map(|cut| key.cmp(cut)) {
            None | Some(Ordering::Less) => count,
            Some(Ordering::Equal) => count.min(self.copies as i64),
            Some(Ordering::Greater) => 0,
        }
    }
}

fn clipped(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Where the rows of each order begin.
fn groups(rows: &OrderedRows) -> impl Iterator<Item = Place> {
    std::iter::successors(Some(rows.first(|_| true)), |place| {
        let order = rows.get(*place)?.order();
        Some(rows.first(|entry| entry.order() > order))
    })
    .take_while(|place| rows.get(*place).is_some())
}

/// What the rows before a cut are now, minus what they were, times `sign`.
fn moved(
    rows: &OrderedRows,
    pending: &Pending,
    [before, after]: [&Cut; 2],
    sign: i64,
    sums: &mut BTreeMap<Arc<[u8]>, (u32, i64)>,
) {
    let mut note = |key: &Arc<[u8]>, order: u32, count: i64, diff: i64| {
        let change = after.rows(key, count) - before.rows(key, count - diff);
        if change != 0 {
            sums.entry(key.clone()).or_insert((order, 0)).1 += sign * change;
        }
    };
    for (key, (order, diff)) in pending {
        note(key, *order, rows.count(key) as i64, *diff);
    }
    // What the cut moved over.
    let from = match (&before.key, &after.key) {
        (None, None) => return,
        (Some(key), None) | (None, Some(key)) => key,
        (Some(a), Some(b)) => a.min(b),
    };
    let to = before.key.as_ref().zip(after.key.as_ref()).map(|(a, b)| a.max(b));
    let between = rows.from(rows.lower_bound(from)).take_while(|entry| to.is_none_or(|to| entry.key <= *to));
    for entry in between.filter(|entry| !pending.contains_key(&entry.key)) {
        note(&entry.key, entry.order, entry.count as i64, 0);
    }
}

/// The rows in the window that changes may renumber, with their numbers.
fn listed(node: &TopN, rows: &OrderedRows, pending: &Pending) -> Vec<Shown> {
    let mut shown = Vec::new();
    let (Some((first, (order, _))), Some((last, (last_order, _)))) = (pending.first_key_value(), pending.last_key_value())
    else {
        return shown;
    };
    let end = node.limit.map_or(i64::MAX, |limit| i64::try_from(node.offset.saturating_add(limit)).unwrap_or(i64::MAX));
    let offset = i64::try_from(node.offset).unwrap_or(i64::MAX);
    // If as many came as went, nothing behind the last change is renumbered.
    let same_count = pending.values().map(|(_, diff)| diff).sum::<i64>() == 0;
    let last_order = &last[..*last_order as usize];
    let place = rows.lower_bound(first);
    let first_order = &first[..*order as usize];
    let group = rows.first(|entry| entry.order() >= first_order);
    // Rows before this one; the rank and the dense rank of its peers, and their order columns.
    let mut position = rows.rows_before(place) as i64;
    let mut rank = rows.rows_before(group) as i64 + 1;
    let mut peers = (group != place).then_some(first_order);
    let mut dense = match node.rank.kind {
        RankKind::DenseRank => {
            let before = groups(rows).take(clipped(end as u64)).take_while(|place| *place != group).count() as i64;
            before + i64::from(peers.is_some())
        }
        _ => 0,
    };
    for entry in rows.from(place) {
        let behind = match node.rank.kind {
            RankKind::RowNumber => same_count && entry.key > *last,
            RankKind::Rank => same_count && entry.order() > last_order,
            RankKind::DenseRank => false,
        };
        if peers != Some(entry.order()) {
            (rank, dense, peers) = (position + 1, dense + 1, Some(entry.order()));
        }
        let number = match node.rank.kind {
            RankKind::RowNumber => position + 1,
            RankKind::Rank => rank,
            RankKind::DenseRank => dense,
        };
        if behind || number > end || end == offset {
            break;
        }
        let count = entry.count as i64;
        let mut show = |number: i64, count: i64| {
            shown.push(Shown { key: entry.key.clone(), order: entry.order, number, count });
        };
        match node.rank.kind {
            RankKind::RowNumber => {
                let first = (position + 1).max(offset.saturating_add(1));
                (first..=end.min(position + count)).for_each(|number| show(number, 1));
            }
            _ if number > offset => show(number, count),
            _ => {}
        }
        position += count;
    }
    shown
}

/// What turns one window into another: rows with the change of their count.
fn difference(before: Vec<Shown>, after: Vec<Shown>, changes: &mut Vec<Shown>) {
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
        let count = come.as_ref().map_or(0, |row| row.count) - gone.as_ref().map_or(0, |row| row.count);
        if let (true, Some(row)) = (count != 0, come.or(gone)) {
            changes.push(Shown { count, ..row });
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
    oracle!(
        rank_without_numbers,
        node(RankKind::Rank, false, 0, Some(2)),
        [INPUT],
        &sql("rank()", "", 0, 2).replace("select p, o, s, n from", "select p, o, s from")
    );
    oracle!(
        dense_rank_without_numbers,
        node(RankKind::DenseRank, false, 1, Some(2)),
        [INPUT],
        &sql("dense_rank()", "", 1, 3).replace("select p, o, s, n from", "select p, o, s from")
    );
    oracle!(
        with_ties,
        node(RankKind::Rank, false, 2, Some(2)),
        [INPUT],
        "select p, o, s from (select p, o, s, rank() over (partition by p order by o desc nulls first) k,
         row_number() over (partition by p order by o desc nulls first, s nulls last) n from t0) where n > 2 and k <= 4"
    );
    oracle!(
        ranks_of_what_only_grows,
        TopN { append_only: true, ..node(RankKind::DenseRank, false, 1, Some(2)) },
        [INPUT],
        &sql("dense_rank()", "", 1, 3).replace("select p, o, s, n from", "select p, o, s from"),
        append_only
    );

    #[test]
    fn what_only_grows_is_kept_up_to_the_window() {
        let mut task = crate::testing::TestTask::new(
            TopN { append_only: true, partition: vec![], ..node(RankKind::RowNumber, false, 0, Some(3)) },
            &[schema(INPUT)],
            1,
        );
        for epoch in 0..5_i64 {
            let rows: Vec<_> = (0..100)
                .map(|i| (vec![Some("1".into()), Some((epoch * 37 + i * 7 % 90).to_string()), None], 1))
                .collect();
            task.apply(0, &crate::testing::batch(&schema(INPUT), &rows));
            let _ = task.seal(epoch % 2 == 0);
            assert_eq!(task.state_rows(), 3);
        }
    }

    #[test]
    fn partitions_below_the_watermark_are_forgotten() {
        use crate::watermark::Watermark;
        let mut task = crate::testing::TestTask::new(node(RankKind::RowNumber, true, 0, Some(2)), &[schema(INPUT)], 2);
        let mark = |at| vec![vec![Some(Watermark { at, floor: at, lateness: false, retracts: false }), None, None]];
        for epoch in 0..20_i64 {
            let rows: Vec<_> = (0..6)
                .map(|i| (vec![Some((epoch + i % 2).to_string()), Some((i * 7).to_string()), Some("a".into())], 1))
                .collect();
            task.apply(0, &crate::testing::batch(&schema(INPUT), &rows));
            let (_, errors) = task.seal_with(epoch % 3 == 0, mark(epoch));
            assert!(errors.is_empty());
            // What is below the watermark is gone: the partitions of this epoch and the next one are left.
            assert!(task.state_rows() <= 12, "{} rows in epoch {epoch}", task.state_rows());
            if epoch == 9 {
                task.seal_with(true, mark(epoch));
                task.restart(3);
                assert!(task.state_rows() <= 12);
            }
        }
    }
}
