//! Joins two changing inputs on equal keys. Without keys: every pair (the right side is broadcast).
//!
//! Rule    A pair (l, r) is emitted once, by the side that arrives second: Δl ⋈ R now, and a later Δr ⋈ (L + Δl).
//!         A row without a match comes out padded (outer), as it is (anti), or with false (mark); when the number of
//!         its matches leaves or reaches zero, that is taken back or emitted.
//! State   `left`, `right`: (join key, row) -> count, and with a condition the number of matches. The right side of a
//!         semi, anti or mark join without a condition keeps its keys only. Both grow with their inputs.
//! Epochs  Emits while the epoch is open; nothing to do at the seal but to save.
//! Limits  A key with many matches leaves in pieces of OUTPUT_ROWS_MAX, over as many activations as it takes.
//!
//! Both sides are linear in their diffs, so counts below zero, as they occur inside an epoch when a retraction overtakes
//! its insertion, cancel out in the output as they do in the state.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use arrow_schema::{DataType, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use storage::batch::worker_of_vnode;
use storage::keys::Keys;
use storage::{Batch, StateTable, row};

use crate::byte_table::{ByteTable, LOOKUP_ROWS, hash_bytes, hash_i64};
use crate::error::{Error, Result};
use crate::expr::{self, Evaluator, Expr};
use crate::operator::{Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext};
use crate::operators::with_schema;

/// Joins two changing inputs on equal keys. Without keys: every pair (the right side is broadcast).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HashJoin {
    /// Which rows come out.
    pub kind: JoinKind,
    /// Key columns of the left and the right input, equally many and of equal Arrow types.
    pub keys: [Vec<usize>; 2],
    /// Per key: whether NULL equals NULL (IS NOT DISTINCT FROM); in `=`, a NULL key matches nothing.
    pub null_equal: Vec<bool>,
    /// Further condition over the left columns followed by the right columns; part of the ON clause.
    pub condition: Option<Expr>,
    /// Per side: whether the planner proved that no row is ever retracted.
    pub append_only: [bool; 2],
    /// The output columns.
    pub schema: SchemaRef,
}

/// Which rows a join emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinKind {
    /// Every matching pair.
    Inner,
    /// Also each left row without a match, padded with NULLs.
    Left,
    /// Also each right row without a match.
    Right,
    /// Both.
    Full,
    /// The left rows that have a match; only the left columns come out.
    Semi,
    /// The left rows that have no match; only the left columns come out.
    Anti,
    /// NOT IN: like `Anti`, but no row comes out when the right side holds a NULL key, and a left NULL key only
    /// when the right side is empty.
    NullAwareAnti,
    /// The left columns and a boolean: whether there is a match.
    Mark,
}

impl JoinKind {
    /// Whether pairs come out.
    fn pairs(self) -> bool {
        matches!(self, JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full)
    }

    /// Whether it depends on the number of its matches what comes out for a row of `side`.
    fn counts_matches(self, side: usize) -> bool {
        match self {
            JoinKind::Inner => false,
            JoinKind::Right => side == 1,
            JoinKind::Full => true,
            _ => side == 0,
        }
    }
}

impl Operator for HashJoin {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        self.placements()
            .map(|placement| match placement {
                Placement::Key(columns) => Exchange::Hash(columns),
                Placement::Same => Exchange::Same,
                Placement::Broadcast => Exchange::Broadcast,
                Placement::Single => Exchange::Single,
            })
            .to_vec()
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Ok(Box::new(HashJoinTask::open(self, ctx)?))
    }
    fn describe(&self) -> String {
        let keys = self.keys[0].iter().zip(&self.keys[1]).zip(&self.null_equal);
        let mut terms: Vec<String> = keys
            .map(|((l, r), null)| format!("left.${l} {} right.${r}", if *null { "IS NOT DISTINCT FROM" } else { "=" }))
            .collect();
        terms.extend(self.condition.as_ref().map(ToString::to_string));
        let on = if terms.is_empty() { "every pair".into() } else { terms.join(" AND ") };
        format!("{}, {on}", format!("{:?}", self.kind).to_lowercase())
    }
    fn state(&self) -> Option<String> {
        Some(if keys_only(self) { "the left rows and the right keys" } else { "the rows of both inputs" }.into())
    }
}

impl HashJoin {
    fn placements(&self) -> [Placement; 2] {
        match self.kind {
            JoinKind::NullAwareAnti => [Placement::Key(self.keys[0].clone()), Placement::Broadcast],
            _ if !self.keys[0].is_empty() => self.keys.clone().map(Placement::Key),
            // An unmatched right row must know of all left rows.
            JoinKind::Right | JoinKind::Full => [Placement::Single, Placement::Single],
            _ => [Placement::Same, Placement::Broadcast],
        }
    }
}

/// Where the rows of a side are.
#[derive(Clone, Debug)]
enum Placement {
    /// On the worker of their key's vnode.
    Key(Vec<usize>),
    /// Where they came from: saved under a vnode of that worker.
    Same,
    /// Everywhere; each worker saves its share.
    Broadcast,
    /// On worker 0.
    Single,
}

/// Whether all that matters of a right row is that it is there.
fn keys_only(node: &HashJoin) -> bool {
    !node.kind.pairs() && node.condition.is_none()
}

/// Pairs looked at in one activation: a condition may reject them all, and then the output never fills.
const PAIRS_MAX: usize = 262_144;

struct HashJoinTask {
    kind: JoinKind,
    null_equal: Vec<bool>,
    condition: Option<Evaluator>,
    /// Left columns followed by right columns.
    joint: SchemaRef,
    schema: SchemaRef,
    inputs: [SchemaRef; 2],
    sides: [Side; 2],
    tables: [StateTable; 2],
    /// What is left of the batch in work.
    pending: Option<Pending>,
}

impl HashJoinTask {
    fn open(node: &HashJoin, ctx: &mut TaskContext) -> Result<HashJoinTask> {
        let inputs = [ctx.inputs[0].clone(), ctx.inputs[1].clone()];
        let fields: Vec<_> = inputs.iter().flat_map(|schema| schema.fields().iter().cloned()).collect();
        let joint: SchemaRef = Arc::new(Schema::new(fields));
        let condition = node.condition.as_ref().map(|e| expr::compile(e, &joint, ctx.functions)).transpose()?;
        if node.kind == JoinKind::NullAwareAnti && (node.keys[0].len() != 1 || condition.is_some()) {
            return Err(Error::Unsupported("NOT IN over several columns or with further conditions".into()));
        }
        let [left, right] = node.placements();
        let tracks = condition.is_some();
        let left = Side::new(&inputs[0], &node.keys[0], false, tracks, left, ctx);
        let right = Side::new(&inputs[1], &node.keys[1], keys_only(node), tracks, right, ctx);
        let mut sides = [left, right];
        let mut tables = [ctx.table("left")?, ctx.table("right")?];
        for (side, table) in sides.iter_mut().zip(&mut tables) {
            side.load(table)?;
        }
        Ok(HashJoinTask {
            kind: node.kind,
            null_equal: node.null_equal.clone(),
            condition,
            joint,
            schema: node.schema.clone(),
            inputs,
            sides,
            tables,
            pending: None,
        })
    }
}

impl Task for HashJoinTask {
    fn apply(&mut self, input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let delta = self.set_aside_unmatchable(input, delta, out)?;
        if delta.num_rows() == 0 {
            return Ok(Progress::Done);
        }
        let globals = self.globals();
        let by_key = self.condition.is_none() && self.kind.counts_matches(1 - input);
        let entered = self.sides[input].enter(&delta, by_key)?;
        let other_keys = self.sides[1 - input].find_keys(&entered.keys);
        self.pending = Some(Pending {
            input,
            matches: vec![0; delta.num_rows()],
            delta,
            entered,
            other_keys,
            globals,
            row: 0,
            link: None,
            touched: Vec::new(),
            flips: None,
            next_flip: 0,
        });
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        let Some(mut pending) = self.pending.take() else { return Ok(Progress::Done) };
        if self.go_on(&mut pending, out)? == Progress::More {
            self.pending = Some(pending);
            return Ok(Progress::More);
        }
        self.sides[pending.input].collect();
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, _out: &mut Output) -> Result<Progress> {
        if at.checkpoint {
            for (side, table) in self.sides.iter_mut().zip(&mut self.tables) {
                side.save(table)?;
            }
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        let size = |side: &Side| (side.rows.len() as u64, side.bytes() as u64);
        let (left, right) = (size(&self.sides[0]), size(&self.sides[1]));
        StateSize { rows: left.0 + right.0, bytes: left.1 + right.1 }
    }
}

/// A batch on its way through the join: its rows are in their side's state already.
struct Pending {
    input: usize,
    delta: Batch,
    entered: Entered,
    /// Per row the number of its key on the other side.
    other_keys: Vec<Option<u32>>,
    /// For NOT IN: what was known of the whole right side before the batch.
    globals: Globals,
    /// Number of matches per row, as far as looked at.
    matches: Vec<i64>,
    /// The next row to join, and the next row of the other side to join it with.
    row: usize,
    link: Option<u32>,
    /// Rows of the other side whose number of matches changed, and whether they had one before.
    touched: Vec<(u32, bool)>,
    /// Rows of the other side that come out or go: number and whether it has a match now.
    flips: Option<Vec<(u32, bool)>>,
    next_flip: usize,
}

/// What decides about all rows of a NOT IN: whether the right side has rows, and whether one is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Globals {
    some: bool,
    null: bool,
}

impl HashJoinTask {
    /// Joins as much as one activation may.
    fn go_on(&mut self, pending: &mut Pending, out: &mut Output) -> Result<Progress> {
        let (own, other) = (pending.input, 1 - pending.input);
        let counts_own = self.kind.counts_matches(own);
        let by_pair = self.condition.is_some();
        if self.kind.pairs() || by_pair {
            let mut budget = PAIRS_MAX;
            while pending.row < pending.delta.num_rows() {
                if out.is_full() || budget == 0 {
                    return Ok(Progress::More);
                }
                let pairs = self.next_pairs(pending);
                budget = budget.saturating_sub(pairs.rows.len().max(1));
                self.join_pairs(pending, pairs, out)?;
            }
        }
        if pending.flips.is_none() {
            if counts_own {
                self.emit_own(pending, out)?;
            }
            pending.flips = Some(if !self.kind.counts_matches(other) {
                Vec::new()
            } else if by_pair {
                let links = &mut self.sides[other].links;
                let flipped = |(row, was): &(u32, bool)| {
                    let link = &mut links[*row as usize];
                    link.flags &= !TOUCHED;
                    let is = link.matches > 0;
                    (is != *was).then_some((*row, is))
                };
                pending.touched.iter().filter_map(flipped).collect()
            } else {
                self.flipped_by_key(pending)
            });
        }
        self.emit_flips(pending, out)
    }

    /// The next pairs of the batch with the other side, one piece.
    fn next_pairs(&self, pending: &mut Pending) -> Pairs {
        let other = &self.sides[1 - pending.input];
        let mut pairs = Pairs::default();
        while pending.row < pending.delta.num_rows() {
            let mut link = match (pending.link, pending.other_keys[pending.row]) {
                (Some(link), _) => link,
                (None, Some(key)) => other.infos[key as usize].head,
                (None, None) => NONE,
            };
            while link != NONE {
                if pairs.rows.len() == OUTPUT_ROWS_MAX {
                    pending.link = Some(link);
                    return pairs;
                }
                pairs.rows.push(pending.row as u32);
                pairs.links.push(link);
                link = other.links[link as usize].next;
            }
            pending.link = None;
            pending.row += 1;
        }
        pairs
    }

    fn join_pairs(&mut self, pending: &mut Pending, mut pairs: Pairs, out: &mut Output) -> Result<()> {
        if pairs.rows.is_empty() {
            return Ok(());
        }
        let (own, other) = (pending.input, 1 - pending.input);
        let mut joined = self.pair_batch(pending, &pairs)?;
        if let Some(condition) = &self.condition {
            let values = condition.evaluate_rows(&joined);
            expr::row_errors(&joined, &values.failures).into_iter().for_each(|error| out.error(error));
            let passed = values.array.as_boolean();
            let passed = BooleanArray::new(
                passed.nulls().map_or_else(|| passed.values().clone(), |nulls| passed.values() & nulls.inner()),
                None,
            );
            pairs.filter(&passed);
            if self.kind.pairs() {
                joined = joined.filter(&passed)?;
            }
            let (counts_own, counts_other) = (self.kind.counts_matches(own), self.kind.counts_matches(other));
            for (row, link) in pairs.rows.iter().zip(&pairs.links) {
                if counts_own {
                    pending.matches[*row as usize] += self.sides[other].links[*link as usize].count;
                }
                if counts_other {
                    let was = self.sides[other].add_matches(*link, pending.delta.diff(*row as usize));
                    pending.touched.extend(was.map(|was| (*link, was)));
                }
            }
        }
        if self.kind.pairs() {
            out.emit(with_schema(&joined, &self.schema)?);
        }
        Ok(())
    }

    /// Left and right columns of pairs, each with the product of the diffs.
    fn pair_batch(&self, pending: &Pending, pairs: &Pairs) -> Result<Batch> {
        let (own, other) = (pending.input, 1 - pending.input);
        let taken = pending.delta.take(&UInt32Array::from(pairs.rows.clone()))?;
        let decoded = self.sides[other].values(&pairs.links)?;
        let keys = self.sides[own].key_columns.iter().map(|i| taken.column(*i).clone()).collect();
        let other_columns = self.sides[other].assemble(keys, decoded);
        let own_columns = taken.data().columns().to_vec();
        let (mut columns, right) = if own == 0 { (own_columns, other_columns) } else { (other_columns, own_columns) };
        columns.extend(right);
        let counts = pairs.links.iter().map(|link| self.sides[other].links[*link as usize].count);
        let diffs: Vec<i64> =
            pairs.rows.iter().zip(counts).map(|(row, count)| pending.delta.diff(*row as usize) * count).collect();
        batch(&self.joint, columns, diffs)
    }

    /// What comes out for the rows of the batch themselves, apart from pairs.
    fn emit_own(&mut self, pending: &mut Pending, out: &mut Output) -> Result<()> {
        let own = pending.input;
        if self.condition.is_some() {
            for (row, matches) in pending.entered.rows.iter().zip(&pending.matches) {
                self.sides[own].set_matches(*row, *matches);
            }
        } else {
            let other = &self.sides[1 - own];
            for (matches, key) in pending.matches.iter_mut().zip(&pending.other_keys) {
                *matches = key.map_or(0, |key| other.infos[key as usize].total);
            }
        }
        let globals = self.globals();
        let null_keys = &pending.entered.null_keys;
        let matched: Vec<bool> = (0..pending.delta.num_rows())
            .map(|row| match self.kind {
                JoinKind::NullAwareAnti => globals.excludes(null_keys[row], pending.matches[row] > 0),
                _ => pending.matches[row] > 0,
            })
            .collect();
        let picked: Vec<u32> = (0..matched.len() as u32).filter(|row| self.shows(matched[*row as usize])).collect();
        let matched: Vec<bool> = picked.iter().map(|row| matched[*row as usize]).collect();
        let taken = pending.delta.take(&UInt32Array::from(picked))?;
        self.emit_alone(own, taken.data().columns().to_vec(), &matched, |row| taken.diff(row), out)
    }

    /// Whether a row alone comes out, by whether it has a match.
    fn shows(&self, matched: bool) -> bool {
        match self.kind {
            JoinKind::Mark => true,
            JoinKind::Semi => matched,
            _ => !matched,
        }
    }

    /// Emits rows of one side alone: padded, as they are, or with their mark.
    fn emit_alone(
        &self,
        side: usize,
        own: Vec<ArrayRef>,
        matched: &[bool],
        diff: impl Fn(usize) -> i64,
        out: &mut Output,
    ) -> Result<()> {
        let n = matched.len();
        if n == 0 {
            return Ok(());
        }
        let nulls = |schema: &SchemaRef| schema.fields().iter().map(|f| new_null_array(f.data_type(), n)).collect();
        let columns: Vec<ArrayRef> = match self.kind {
            JoinKind::Semi | JoinKind::Anti | JoinKind::NullAwareAnti => own,
            JoinKind::Mark => {
                let mut columns = own;
                columns.push(Arc::new(BooleanArray::from(matched.to_vec())));
                columns
            }
            _ => {
                let padding: Vec<ArrayRef> = nulls(&self.inputs[1 - side]);
                let (mut columns, right) = if side == 0 { (own, padding) } else { (padding, own) };
                columns.extend(right);
                columns
            }
        };
        out.emit(batch(&self.schema, columns, (0..n).map(diff).collect())?);
        Ok(())
    }

    /// Rows of the other side that gained their first match by this batch or lost their last, without a condition.
    fn flipped_by_key(&self, pending: &Pending) -> Vec<(u32, bool)> {
        let (own, other) = (&self.sides[pending.input], &self.sides[1 - pending.input]);
        let mut flips = Vec::new();
        if self.kind == JoinKind::NullAwareAnti {
            let (before, after) = (pending.globals, self.globals());
            let was: hashbrown::HashMap<u32, bool> = pending.entered.totals.iter().copied().collect();
            let mut check = |other_key: u32, own_key: Option<u32>| {
                let null = other.infos[other_key as usize].null;
                let is_matched = own_key.is_some_and(|key| own.infos[key as usize].total > 0);
                let was_matched = own_key.and_then(|key| was.get(&key).copied()).unwrap_or(is_matched);
                let (was, is) = (before.excludes(null, was_matched), after.excludes(null, is_matched));
                if was != is {
                    other.each_row(other_key, |row| flips.push((row, is)));
                }
            };
            if before == after {
                pending.entered.totals.iter().for_each(|(key, _)| {
                    if let Some(other_key) = other.key_like(own, *key) {
                        check(other_key, Some(*key));
                    }
                });
            } else {
                other.each_key(|key| check(key, own.key_like(other, key)));
            }
            return flips;
        }
        for (key, was) in &pending.entered.totals {
            let is = own.infos[*key as usize].total > 0;
            if is != *was
                && let Some(other_key) = other.key_like(own, *key)
            {
                other.each_row(other_key, |row| flips.push((row, is)));
            }
        }
        flips
    }

    fn emit_flips(&self, pending: &mut Pending, out: &mut Output) -> Result<Progress> {
        let flips = pending.flips.as_ref().expect("collected before");
        let side = 1 - pending.input;
        while pending.next_flip < flips.len() {
            if out.is_full() {
                return Ok(Progress::More);
            }
            let end = flips.len().min(pending.next_flip + OUTPUT_ROWS_MAX / 2);
            let part = &flips[pending.next_flip..end];
            pending.next_flip = end;
            // A mark changes: the old row goes, the new one comes. Elsewhere one of the two is not shown.
            let mut rows = Vec::with_capacity(part.len() * 2);
            for (row, is) in part {
                rows.extend(self.shows(!is).then_some((*row, !is, -1)));
                rows.extend(self.shows(*is).then_some((*row, *is, 1)));
            }
            let links: Vec<u32> = rows.iter().map(|(row, ..)| *row).collect();
            let matched: Vec<bool> = rows.iter().map(|(_, matched, _)| *matched).collect();
            let columns = self.sides[side].columns(&links)?;
            let diff = |i: usize| rows[i].2 * self.sides[side].links[links[i] as usize].count;
            self.emit_alone(side, columns, &matched, diff, out)?;
        }
        Ok(Progress::Done)
    }

    /// Emits the rows that cannot match because a key is NULL, and returns the others. They need no state. (NOT IN
    /// keeps them: its right side may become empty.)
    fn set_aside_unmatchable(&self, input: usize, delta: &Batch, out: &mut Output) -> Result<Batch> {
        if self.kind == JoinKind::NullAwareAnti {
            return Ok(delta.clone());
        }
        let mut matchable = None;
        for (column, null_equal) in self.sides[input].key_columns.iter().zip(&self.null_equal) {
            let nulls = delta.column(*column).logical_nulls().filter(|n| !null_equal && n.null_count() > 0);
            if let Some(nulls) = nulls {
                matchable = Some(match matchable {
                    None => nulls.inner().clone(),
                    Some(matchable) => &matchable & nulls.inner(),
                });
            }
        }
        let Some(matchable) = matchable else { return Ok(delta.clone()) };
        if self.kind.counts_matches(input) && self.shows(false) {
            let alone = delta.filter(&BooleanArray::new(!&matchable, None))?;
            let matched = vec![false; alone.num_rows()];
            self.emit_alone(input, alone.data().columns().to_vec(), &matched, |row| alone.diff(row), out)?;
        }
        Ok(delta.filter(&BooleanArray::new(matchable, None))?)
    }

    fn globals(&self) -> Globals {
        let right = &self.sides[1];
        Globals { some: right.total > 0, null: right.null_total > 0 }
    }
}

impl Globals {
    /// Whether NOT IN keeps a left row from coming out.
    fn excludes(self, null_key: bool, matched: bool) -> bool {
        self.some && (null_key || self.null || matched)
    }
}

#[derive(Default)]
struct Pairs {
    /// Rows of the batch.
    rows: Vec<u32>,
    /// Rows of the other side.
    links: Vec<u32>,
}

impl Pairs {
    fn filter(&mut self, keep: &BooleanArray) {
        let mut at = (0..).map(|i| keep.value(i));
        self.rows.retain(|_| at.next().unwrap_or(false));
        let mut at = (0..).map(|i| keep.value(i));
        self.links.retain(|_| at.next().unwrap_or(false));
    }
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, diffs: Vec<i64>) -> Result<Batch> {
    let options = RecordBatchOptions::new().with_row_count(Some(diffs.len()));
    let data = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
    let all_new = diffs.iter().all(|diff| *diff == 1);
    Ok(Batch::new(data, (!all_new).then(|| Int64Array::from(diffs))))
}

const NONE: u32 = u32::MAX;

/// The row changed since the last checkpoint.
const CHANGED: u8 = 1;
/// The store has the row.
const STORED: u8 = 2;
/// The number is in use.
const LIVE: u8 = 4;
/// In `touched` of the batch in work.
const TOUCHED: u8 = 8;

/// A row of one side, as a link of its key's chain. Rows with count zero are in no chain.
#[derive(Clone, Copy, Debug)]
struct Link {
    key: u32,
    next: u32,
    previous: u32,
    flags: u8,
    count: i64,
    matches: i64,
}

/// A join key of one side.
#[derive(Clone, Copy, Debug)]
struct KeyInfo {
    /// The first row of the chain.
    head: u32,
    /// Rows, those with count zero included.
    rows: u32,
    vnode: u8,
    null: bool,
    /// The sum of the rows' counts.
    total: i64,
}

/// The state of one input.
///
/// ```text
/// keys   key bytes -> number -> first row, sum of counts
/// rows   (key number, bytes of the other columns) -> number -> count, matches, next and previous row of the key
/// store  [length of the key bytes 4, big endian][key bytes][bytes of the other columns] -> [count 8][matches 8]
/// ```
struct Side {
    key_columns: Vec<usize>,
    /// The columns that are kept besides the key.
    value_columns: Vec<usize>,
    width: usize,
    key_types: Vec<DataType>,
    value_types: Vec<DataType>,
    tracks_matches: bool,
    placement: Placement,
    worker: usize,
    workers: usize,
    keys: ByteTable,
    infos: Vec<KeyInfo>,
    rows: ByteTable,
    links: Vec<Link>,
    changed: Vec<u32>,
    /// Rows whose count became zero since the last [`Side::collect`].
    zero: Vec<u32>,
    total: i64,
    null_total: i64,
}

/// What [`Side::enter`] did.
struct Entered {
    keys: Keys,
    /// Per row of the batch: the number of the row in the state.
    rows: Vec<u32>,
    /// Per row of the batch: whether a key column is NULL.
    null_keys: Vec<bool>,
    /// If asked for: each key of the batch once, and whether the sum of its counts was above zero.
    totals: Vec<(u32, bool)>,
}

impl Side {
    fn new(
        schema: &SchemaRef,
        key_columns: &[usize],
        keys_only: bool,
        tracks_matches: bool,
        placement: Placement,
        ctx: &TaskContext,
    ) -> Side {
        let width = schema.fields().len();
        let value_columns: Vec<usize> =
            if keys_only { Vec::new() } else { (0..width).filter(|i| !key_columns.contains(i)).collect() };
        let types = |columns: &[usize]| columns.iter().map(|i| schema.field(*i).data_type().clone()).collect();
        Side {
            key_columns: key_columns.to_vec(),
            key_types: types(key_columns),
            value_types: types(&value_columns),
            value_columns,
            width,
            tracks_matches,
            placement,
            worker: ctx.worker,
            workers: ctx.workers,
            keys: ByteTable::default(),
            infos: Vec::new(),
            rows: ByteTable::default(),
            links: Vec::new(),
            changed: Vec::new(),
            zero: Vec::new(),
            total: 0,
            null_total: 0,
        }
    }

    fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.rows.bytes()
            + self.infos.capacity() * size_of::<KeyInfo>()
            + self.links.capacity() * size_of::<Link>()
    }

    /// Adds the rows of a batch; `by_key` asks for what becomes of its keys.
    fn enter(&mut self, delta: &Batch, by_key: bool) -> Result<Entered> {
        let n = delta.num_rows();
        let columns = |indexes: &[usize]| indexes.iter().map(|i| delta.column(*i).clone()).collect::<Vec<_>>();
        let key_arrays = columns(&self.key_columns);
        let keys = row::encode_rows(&key_arrays, n)?;
        let values = row::encode_rows(&columns(&self.value_columns), n)?;
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
                    self.key_number(hashes[row - first], entered.keys.get(row), vnodes[row], null)
                })
                .collect();
            let hashes: Vec<u64> = (first..end).map(|row| row_hash(numbers[row - first], values.get(row))).collect();
            self.rows.touch(&hashes);
            for row in first..end {
                let key = numbers[row - first];
                if by_key && seen.insert(key) {
                    entered.totals.push((key, self.infos[key as usize].total > 0));
                }
                let diff = delta.diff(row);
                entered.rows.push(self.add_row(key, hashes[row - first], values.get(row), diff));
            }
        }
        Ok(entered)
    }

    fn find_keys(&self, keys: &Keys) -> Vec<Option<u32>> {
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
    fn key_like(&self, other: &Side, key: u32) -> Option<u32> {
        let bytes = other.keys.get(key);
        self.keys.find(hash_bytes(bytes), bytes)
    }

    fn key_number(&mut self, hash: u64, key: &[u8], vnode: u8, null: bool) -> u32 {
        if let Some(number) = self.keys.find(hash, key) {
            return number;
        }
        let number = self.keys.insert(hash, key);
        let info = KeyInfo { head: NONE, rows: 0, vnode, null, total: 0 };
        match self.infos.get_mut(number as usize) {
            Some(place) => *place = info,
            None => self.infos.push(info),
        }
        number
    }

    fn add_row(&mut self, key: u32, hash: u64, values: &[u8], diff: i64) -> u32 {
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
        } else if before != 0 && after == 0 {
            self.unchain(number);
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

    fn change(&mut self, number: u32) {
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

    fn each_row(&self, key: u32, mut f: impl FnMut(u32)) {
        let mut link = self.infos[key as usize].head;
        while link != NONE {
            f(link);
            link = self.links[link as usize].next;
        }
    }

    fn each_key(&self, mut f: impl FnMut(u32)) {
        (0..self.infos.len()).filter(|key| self.infos[*key].head != NONE).for_each(|key| f(key as u32));
    }

    /// Adds to a row's number of matches; says whether it had one if this is the first change by this batch.
    fn add_matches(&mut self, number: u32, diff: i64) -> Option<bool> {
        self.change(number);
        let link = &mut self.links[number as usize];
        let had = link.matches > 0;
        let first = link.flags & TOUCHED == 0;
        link.flags |= TOUCHED;
        link.matches += diff;
        first.then_some(had)
    }

    fn set_matches(&mut self, number: u32, matches: i64) {
        self.links[number as usize].matches = matches;
    }

    /// The kept columns besides the key, of some rows.
    fn values(&self, rows: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(row::decode(&self.value_types, rows.iter().map(|row| self.rows.get(*row)))?)
    }

    /// All columns of some rows; only for a side that keeps them.
    fn columns(&self, rows: &[u32]) -> Result<Vec<ArrayRef>> {
        let keys = rows.iter().map(|row| self.keys.get(self.links[*row as usize].key));
        Ok(self.assemble(row::decode(&self.key_types, keys)?, self.values(rows)?))
    }

    /// Puts key and other columns in the input's order.
    fn assemble(&self, keys: Vec<ArrayRef>, values: Vec<ArrayRef>) -> Vec<ArrayRef> {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.width];
        let places = self.key_columns.iter().chain(&self.value_columns);
        places.zip(keys.into_iter().chain(values)).for_each(|(i, column)| columns[*i] = Some(column));
        columns.into_iter().flatten().collect()
    }

    /// Forgets rows of which nothing is left and that the store does not know.
    fn collect(&mut self) {
        for number in std::mem::take(&mut self.zero) {
            let link = &self.links[number as usize];
            if link.count == 0 && link.flags & (LIVE | STORED) == LIVE {
                self.remove(number);
            }
        }
    }

    fn remove(&mut self, number: u32) {
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

    /// Puts what changed since the last checkpoint into `table`.
    fn save(&mut self, table: &mut StateTable) -> Result<()> {
        let mut entry = Vec::new();
        for number in std::mem::take(&mut self.changed) {
            let link = self.links[number as usize];
            if link.flags & CHANGED == 0 {
                continue; // Given up since.
            }
            let key = self.keys.get(link.key);
            entry.clear();
            entry.extend((key.len() as u32).to_be_bytes());
            entry.extend(key);
            entry.extend(self.rows.get(number));
            if let Some(vnode) = self.saved_under(link.key, &entry) {
                if link.count == 0 {
                    table.delete(vnode, &entry);
                } else {
                    let mut value = link.count.to_le_bytes().to_vec();
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
        Ok(())
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

    /// Reads what the last checkpoint wrote.
    fn load(&mut self, table: &mut StateTable) -> Result<()> {
        if table.is_new() {
            return Ok(());
        }
        let mut loaded = Vec::new();
        let mut take = |vnode: u8, entry: &[u8], value: &[u8]| {
            loaded.push((vnode, entry.to_vec(), value.to_vec()));
            Ok(())
        };
        match self.placement {
            Placement::Broadcast => table.scan_all(&mut take)?,
            _ => table.scan(&mut take)?,
        }
        let mut moved = Vec::new();
        for (vnode, entry, value) in loaded {
            let number = self.load_row(vnode, &entry, &value)?;
            // Another worker's row, placed where it came from, is saved anew under a vnode of this worker.
            if matches!(self.placement, Placement::Same) && vnode != first_vnode(self.worker, self.workers) {
                table.delete(vnode, &entry);
                moved.push(number);
            }
        }
        self.links.iter_mut().for_each(|link| link.flags = LIVE | STORED);
        self.changed.clear();
        self.zero.clear();
        moved.into_iter().for_each(|number| self.change(number));
        Ok(())
    }

    fn load_row(&mut self, vnode: u8, entry: &[u8], value: &[u8]) -> Result<u32> {
        let broken = || Error::Failed("a row of a join in the store is broken".into());
        let (len, tail) = entry.split_at_checked(4).ok_or_else(broken)?;
        let len = u32::from_be_bytes(len.try_into().expect("four bytes")) as usize;
        let (key, values) = tail.split_at_checked(len).ok_or_else(broken)?;
        let number_at =
            |at: usize| value.get(at..at + 8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")));
        let null = row::decode(&self.key_types, std::iter::once(key))?.iter().any(|column| column.is_null(0));
        let key = self.key_number(hash_bytes(key), key, vnode, null);
        let number = self.add_row(key, row_hash(key, values), values, number_at(0).ok_or_else(broken)?);
        if self.tracks_matches {
            self.links[number as usize].matches = number_at(8).ok_or_else(broken)?;
        }
        Ok(number)
    }
}

/// The hash of a row beside its key's number.
fn row_hash(key: u32, values: &[u8]) -> u64 {
    hash_i64(i64::from(key)) ^ hash_bytes(values)
}

fn first_vnode(worker: usize, workers: usize) -> u8 {
    storage::batch::vnodes_of_worker(worker, workers).start as u8
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;
    use expect_test::expect;

    use super::*;
    use crate::expr::BinaryOp;
    use crate::oracle;
    use crate::testing::{div, run, schema};

    const LEFT: &str = "k bigint, a text";
    const RIGHT: &str = "b text, j bigint";

    fn node(kind: JoinKind) -> HashJoin {
        let line = match kind {
            JoinKind::Semi | JoinKind::Anti | JoinKind::NullAwareAnti => LEFT.to_string(),
            JoinKind::Mark => format!("{LEFT}, m boolean"),
            _ => format!("{LEFT}, {RIGHT}"),
        };
        HashJoin {
            kind,
            keys: [vec![0], vec![1]],
            null_equal: vec![false],
            condition: None,
            append_only: [false; 2],
            schema: schema(&line),
        }
    }

    /// `a <> b`
    fn with_condition(kind: JoinKind) -> HashJoin {
        let column = |i| Box::new(Expr::Column(i));
        let condition = Expr::Binary { op: BinaryOp::NotEq, left: column(1), right: column(2) };
        HashJoin { condition: Some(condition), ..node(kind) }
    }

    fn without_keys(join: HashJoin) -> HashJoin {
        HashJoin { keys: [vec![], vec![]], null_equal: vec![], ..join }
    }

    #[test]
    fn retracts_a_match() {
        let script = "1 L +(1,a) R +(x,1) 2 L -(1,a) 3 R -(x,1)";
        expect![[r#"
            1 +(1,a,x,1)
            2 -(1,a,x,1)
            3"#]]
        .assert_eq(&run(node(JoinKind::Inner), &[LEFT, RIGHT], script));
    }

    #[test]
    fn diffs_multiply() {
        let script = "1 L +2(1,a) R +3(x,1) 2 R -(x,1)";
        expect![[r#"
            1 +6(1,a,x,1)
            2 -2(1,a,x,1)"#]]
        .assert_eq(&run(node(JoinKind::Inner), &[LEFT, RIGHT], script));
    }

    #[test]
    fn a_padded_row_goes_when_a_match_comes() {
        let script = "1 L +2(1,a) +(NULL,n) 2 R +(x,1) +(y,1) 3 R -(x,1) 4 R -(y,1)";
        expect![[r#"
            1 +2(1,a,NULL,NULL) +(NULL,n,NULL,NULL)
            2 -2(1,a,NULL,NULL) +2(1,a,x,1) +2(1,a,y,1)
            3 -2(1,a,x,1)
            4 +2(1,a,NULL,NULL) -2(1,a,y,1)"#]]
        .assert_eq(&run(node(JoinKind::Left), &[LEFT, RIGHT], script));
    }

    #[test]
    fn a_null_on_the_right_empties_not_in() {
        let script = "1 L +(1,a) +(NULL,n) 2 R +(x,2) 3 R +(y,NULL) 4 R -(y,NULL) 5 R -(x,2)";
        expect![[r#"
            1 +(1,a) +(NULL,n)
            2 -(NULL,n)
            3 -(1,a)
            4 +(1,a)
            5 +(NULL,n)"#]]
        .assert_eq(&run(node(JoinKind::NullAwareAnti), &[LEFT, RIGHT], script));
    }

    #[test]
    fn a_condition_that_fails_is_an_error_and_no_match() {
        let one = Expr::Literal(crate::expr::Literal::from_scalar(&ScalarValue::Int64(Some(1))).unwrap());
        let condition = Expr::Binary { op: BinaryOp::Gt, left: Box::new(div(1, 2)), right: Box::new(one) };
        let join = HashJoin {
            condition: Some(condition),
            keys: [vec![0], vec![1]],
            schema: schema("k bigint, a bigint, b bigint, j bigint"),
            ..node(JoinKind::Left)
        };
        let said =
            run(join, &["k bigint, a bigint", "b bigint, j bigint"], "1 R +2(0,1) L +(1,4) 2 R +(2,1) 3 R -2(0,1)");
        expect![[r#"
            1 +(1,4,NULL,NULL) +2!22012 division by zero
            2 +(1,4,2,1) -(1,4,NULL,NULL)
            3 -2!22012 division by zero"#]]
        .assert_eq(&said);
    }

    #[test]
    fn a_key_with_many_matches_leaves_in_pieces() {
        let mut task = crate::testing::TestTask::new(node(JoinKind::Inner), &[schema(LEFT), schema(RIGHT)], 1);
        let row = |i: usize, left: bool| {
            let (key, text) = (Some("7".to_string()), Some(format!("row {i}")));
            (if left { vec![key, text] } else { vec![text, key] }, 1)
        };
        let left: Vec<_> = (0..600).map(|i| row(i, true)).collect();
        let right: Vec<_> = (0..600).map(|i| row(i, false)).collect();
        task.apply(0, &crate::testing::batch(&schema(LEFT), &left));
        task.apply(1, &crate::testing::batch(&schema(RIGHT), &right));
        let (batches, _) = task.seal(false);
        assert_eq!(batches.iter().map(Batch::num_rows).sum::<usize>(), 360_000);
    }

    macro_rules! oracles {
        ($($name:ident, $kind:ident, $sql:expr;)*) => {
            mod plain { use super::*; $(oracle!($name, node(JoinKind::$kind), [LEFT, RIGHT], &$sql.replace("ON", "k = j"));)* }
            mod conditional { use super::*; $(oracle!($name, with_condition(JoinKind::$kind), [LEFT, RIGHT],
                &$sql.replace("ON", "k = j and a <> b"));)* }
            mod keyless { use super::*; $(oracle!($name, without_keys(with_condition(JoinKind::$kind)), [LEFT, RIGHT],
                &$sql.replace("ON", "a <> b"));)* }
            mod every_pair { use super::*; $(oracle!($name, without_keys(node(JoinKind::$kind)), [LEFT, RIGHT],
                &$sql.replace("ON", "true"));)* }
        };
    }

    oracles! {
        inner, Inner, "select * from t0 join t1 on ON";
        left, Left, "select * from t0 left join t1 on ON";
        right, Right, "select * from t0 right join t1 on ON";
        full, Full, "select * from t0 full join t1 on ON";
        semi, Semi, "select * from t0 where exists (select 1 from t1 where ON)";
        anti, Anti, "select * from t0 where not exists (select 1 from t1 where ON)";
        mark, Mark, "select k, a, true from t0 where exists (select 1 from t1 where ON)
            union all select k, a, false from t0 where not exists (select 1 from t1 where ON)";
    }

    oracle!(
        null_aware_anti,
        node(JoinKind::NullAwareAnti),
        [LEFT, RIGHT],
        "select * from t0 where (select count(*) from t1) = 0 or (k is not null
         and (select count(*) from t1 where j is null) = 0 and not exists (select 1 from t1 where k = j))"
    );
    oracle!(
        null_equal,
        HashJoin { null_equal: vec![true], ..node(JoinKind::Full) },
        [LEFT, RIGHT],
        "select * from t0 full join t1 on k is not distinct from j"
    );
}
