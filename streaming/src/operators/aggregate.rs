//! Groups rows and keeps aggregates per group, under retraction. Without group columns: exactly one row, also over no
//! input.
//!
//! Rule    At the end of an epoch, for each group that changed: retract the row that is out, emit the new one, neither
//!         if they are equal. A group without rows has no row.
//! State   `groups`: group key -> number of rows, sums, counts. `values`: (aggregate, group key, value) -> count, for
//!         the aggregates that need every input (min and max under retraction, DISTINCT, string_agg, array_agg).
//!         Below the watermark of a group column nothing is kept: no row of those groups will come.
//! Epochs  Rows are added as they come; everything is emitted at the seal.
//! Memory  Groups that the store has leave it when the job is short of it, those that were not touched lately first, and
//!         come back with their next row.
//! Limits  The seal emits pieces of OUTPUT_ROWS_MAX rows and yields when the output is full; a checkpoint's step puts
//!         SAVE_MAX entries into the tables at most.

mod evict;
mod expire;
pub(in crate::operators) mod partial;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryBuilder, Int64Array, PrimitiveArray, RecordBatch,
    RecordBatchOptions,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, Date32Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};
use storage::types::NUMERIC_BYTES;
use storage::{Batch, StateTable};

use crate::aggregates::{self, Accumulator, AggregateCall, AggregateKind, Input};
use crate::byte_table::{ByteTable, LOOKUP_ROWS, hash_bytes, hash_i64};
use crate::error::{Error, Result};
use crate::evicted::Evicted;
use crate::int_table::IntTable;
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, RowError, Seal, StateSize, Task, TaskContext, WatermarkContext,
};
use crate::watermark::Watermarks;

/// Groups rows and keeps aggregates per group, under retraction. Without group columns: exactly one row, also over no input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Aggregate {
    /// The group columns of the input; they come out first, in this order.
    pub group: Vec<usize>,
    /// The aggregates; they come out behind the group columns.
    pub calls: Vec<AggregateCall>,
    /// Whether the planner proved that no row is ever retracted from the input.
    pub append_only: bool,
    /// The argument types of each aggregate if the input holds partial results of [`crate::operators::LocalAggregate`]:
    /// the group columns stand first there, and the arguments of the aggregates are columns of that operator's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partials: Option<Vec<Vec<DataType>>>,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Aggregate {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![if self.group.is_empty() { Exchange::Single } else { Exchange::Hash(self.group.clone()) }]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let layout = Layout::new(self, &ctx.inputs[0])?;
        let tables = [ctx.table("groups")?, ctx.table("values")?];
        let mut groups = Groups::new(layout)?;
        groups.load(&tables, ctx.memory_max)?;
        if self.group.is_empty() && ctx.worker == 0 && groups.next == 0 {
            groups.open(0, 0, false)?; // The row over no input.
        }
        Ok(Box::new(AggregateTask { groups, tables, sealing: None }))
    }
    fn describe(&self) -> String {
        let calls: Vec<String> = self.calls.iter().map(ToString::to_string).collect();
        let group: Vec<String> = self.group.iter().map(|i| format!("${i}")).collect();
        match (group.is_empty(), calls.is_empty()) {
            (true, _) => calls.join(", "),
            (false, true) => format!("group by {}", group.join(", ")),
            (false, false) => format!("group by {}: {}", group.join(", "), calls.join(", ")),
        }
    }
    fn state(&self) -> Option<String> {
        let all = self.calls.iter().any(|call| call.keeps_values(self.append_only));
        Some(
            if self.group.is_empty() { "one row" } else { "one row per group" }.to_string()
                + if all { " and every different aggregated value" } else { "" },
        )
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        let mut marks: Watermarks = self.group.iter().map(|&c| inputs[0].get(c).copied().flatten()).collect();
        marks.resize(self.schema.fields().len(), None);
        marks
    }
    fn expires_by(&self) -> Vec<(usize, usize)> {
        self.group.iter().map(|column| (0, *column)).collect()
    }
}

struct AggregateTask {
    groups: Groups,
    /// `groups` and `values`.
    tables: [StateTable; 2],
    /// While a seal is not finished: the next dirty group.
    sealing: Option<usize>,
}

impl Task for AggregateTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        self.groups.bring_back(delta, &self.tables)?;
        match self.groups.layout.partials {
            true => self.groups.merge_partials(delta)?,
            false => self.groups.apply(delta)?,
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        let mut next = self.sealing.unwrap_or(0);
        while next < self.groups.dirty.len() {
            if out.is_full() {
                self.sealing = Some(next);
                return Ok(Progress::More);
            }
            let end = (next + OUTPUT_ROWS_MAX / 2).min(self.groups.dirty.len());
            self.groups.emit(next..end, out)?;
            next = end;
        }
        self.sealing = None;
        self.groups.settle();
        if self.groups.expire(at, &mut self.tables)? == Progress::More {
            self.sealing = Some(0);
            return Ok(Progress::More);
        }
        if at.checkpoint && !self.groups.save(&mut self.tables)? {
            return Ok(Progress::More);
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        StateSize { rows: self.groups.len() as u64, bytes: self.groups.bytes() as u64 }
    }

    fn evict(&mut self, to: u64) -> Result<()> {
        self.groups.evict(to as usize)
    }
}

/// Entries that one step of a checkpoint puts into the tables.
const SAVE_MAX: usize = 65_536;
/// What a group costs in memory besides its key and its value, about.
const GROUP_BYTES: usize = 48;

/// Where an aggregate lives: in words of the group's record, or in an accumulator of its own.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// One word.
    Count(usize),
    /// Three words: low and high half of an `i128`, and the number of inputs. As bigint or as numeric.
    Sum { at: usize, numeric: bool },
    /// Like `Sum`.
    Avg(usize),
    /// Two words: whether there is a value, and the value. Of an input without retractions.
    Extreme { at: usize, max: bool },
    /// The accumulator at this position.
    Own(usize),
}

impl Place {
    /// Its words of the record.
    fn words(self) -> std::ops::Range<usize> {
        match self {
            Place::Count(at) => at..at + 1,
            Place::Sum { at, .. } | Place::Avg(at) => at..at + 3,
            Place::Extreme { at, .. } => at..at + 2,
            Place::Own(_) => 0..0,
        }
    }
}

/// How the records of an operator are laid out.
///
/// ```text
/// word  0 rows | 1 flags | 2 key (one integer column only) | aggregates ...
/// ```
struct Layout {
    group: Vec<usize>,
    calls: Vec<AggregateCall>,
    arg_types: Vec<Vec<DataType>>,
    places: Vec<Place>,
    append_only: bool,
    /// Whether the input holds partial results instead of rows.
    partials: bool,
    schema: SchemaRef,
    stride: usize,
    /// Calls with an accumulator of their own.
    own: Vec<usize>,
}

const ROWS: usize = 0;
const FLAGS: usize = 1;
const KEY: usize = 2;
const HEAD: usize = 3;

/// The record is in use.
const LIVE: i64 = 1;
/// Touched in this epoch; the old record is saved.
const DIRTY: i64 = 2;
/// Changed since the last checkpoint.
const CHANGED: i64 = 4;
/// The store has the group.
const STORED: i64 = 8;
/// A row (or an error) of the group is out.
const OUT: i64 = 16;
/// The group's only column is NULL.
const NULL_KEY: i64 = 32;
/// The group stands in [`Groups::expiry`].
const EXPIRES: i64 = 64;
/// Touched since groups last had to leave memory.
const USED: i64 = 128;

impl Layout {
    fn new(node: &Aggregate, input: &SchemaRef) -> Result<Layout> {
        let (mut places, mut arg_types, mut own, mut stride) = (Vec::new(), Vec::new(), Vec::new(), HEAD);
        for (i, call) in node.calls.iter().enumerate() {
            let types: Vec<DataType> = match &node.partials {
                Some(types) => types[i].clone(),
                None => call.args.iter().map(|a| input.field(*a).data_type().clone()).collect(),
            };
            let place = match (call.kind, types.first()) {
                (AggregateKind::Count, _) if !call.distinct => Place::Count(stride),
                (AggregateKind::Sum, Some(DataType::Int16 | DataType::Int32 | DataType::Int64)) if !call.distinct => {
                    Place::Sum { at: stride, numeric: call.returns != DataType::Int64 }
                }
                (AggregateKind::Avg, Some(DataType::Int16 | DataType::Int32 | DataType::Int64)) if !call.distinct => {
                    Place::Avg(stride)
                }
                (AggregateKind::Min | AggregateKind::Max, Some(ty)) if node.append_only && is_integer(ty) => {
                    Place::Extreme { at: stride, max: call.kind == AggregateKind::Max }
                }
                _ => {
                    own.push(i);
                    Place::Own(own.len() - 1)
                }
            };
            stride += place.words().len();
            places.push(place);
            arg_types.push(types);
        }
        Ok(Layout {
            group: node.group.clone(),
            calls: node.calls.clone(),
            arg_types,
            places,
            append_only: node.append_only,
            partials: node.partials.is_some(),
            schema: node.schema.clone(),
            stride,
            own,
        })
    }

    fn accumulator(&self, own: usize) -> Result<Box<dyn Accumulator>> {
        let call = self.own[own];
        if self.append_only {
            aggregates::append_only_accumulator(&self.calls[call], &self.arg_types[call])
        } else {
            aggregates::accumulator(&self.calls[call], &self.arg_types[call])
        }
    }

    fn group_types(&self) -> Vec<DataType> {
        self.schema.fields()[..self.group.len()].iter().map(|f| f.data_type().clone()).collect()
    }

    /// The table of the keys of no group.
    fn no_keys(&self) -> KeyTable {
        match self.group_types().as_slice() {
            [] => KeyTable::One,
            [one] if is_integer(one) => KeyTable::Int { table: IntTable::default(), null: None },
            _ => KeyTable::Bytes(ByteTable::default()),
        }
    }

    /// Whether two records say the same, as far as they are words.
    fn same(&self, old: &[i64], new: &[i64]) -> bool {
        self.places.iter().all(|place| match *place {
            Place::Count(at) => old[at] == new[at],
            Place::Sum { at, .. } => old[at..at + 2] == new[at..at + 2] && (old[at + 2] > 0) == (new[at + 2] > 0),
            Place::Avg(at) => old[at..at + 3] == new[at..at + 3],
            Place::Extreme { at, .. } => old[at..at + 2] == new[at..at + 2],
            Place::Own(_) => true,
        })
    }

    /// Why the words of a record have no representation, if so.
    fn check(&self, words: &[i64]) -> Result<()> {
        for place in &self.places {
            match *place {
                Place::Sum { at, numeric: false } => drop(aggregates::bigint_sum(wide(words, at))?),
                Place::Sum { at, numeric: true } => drop(aggregates::numeric_sum(wide(words, at))?),
                Place::Avg(at) if words[at + 2] > 0 => drop(aggregates::numeric_sum(wide(words, at))?),
                _ => {}
            }
        }
        Ok(())
    }

    /// The column of one aggregate over some records.
    fn column(&self, call: usize, records: &[&[i64]]) -> Result<ArrayRef> {
        let present = |at: usize| NullBuffer::from_iter(records.iter().map(|r| r[at] > 0));
        Ok(match self.places[call] {
            Place::Count(at) => Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r[at]))),
            Place::Sum { at, numeric: false } => {
                let values: Vec<i64> = records.iter().map(|r| r[at]).collect();
                Arc::new(Int64Array::new(values.into(), Some(present(at + 2))))
            }
            Place::Sum { at, numeric: true } => numerics(
                records
                    .iter()
                    .map(|r| if r[at + 2] > 0 { aggregates::numeric_sum(wide(r, at)).map(Some) } else { Ok(None) }),
            )?,
            Place::Avg(at) => numerics(records.iter().map(|r| {
                if r[at + 2] > 0 { aggregates::int_avg(wide(r, at), r[at + 2]).map(Some) } else { Ok(None) }
            }))?,
            Place::Extreme { at, .. } => {
                let values = records.iter().map(|r| r[at + 1]).collect();
                integers(&self.calls[call].returns, values, Some(present(at)))?
            }
            Place::Own(_) => return Err(Error::Failed("an accumulator's values are not in the record".into())),
        })
    }
}

/// Keeps a value if there is none yet or if it is smaller, or larger, than the one that is kept.
#[inline]
fn offer(words: &mut [i64], value: i64, max: bool) {
    if words[0] == 0 || (value > words[1]) == max && value != words[1] {
        words[0] = 1;
        words[1] = value;
    }
}

/// A sum in two words.
fn wide(words: &[i64], at: usize) -> i128 {
    i128::from(words[at] as u64) | (i128::from(words[at + 1]) << 64)
}

fn set_wide(words: &mut [i64], at: usize, value: i128) {
    words[at] = value as i64;
    words[at + 1] = (value >> 64) as i64;
}

fn numerics(values: impl Iterator<Item = Result<Option<storage::numeric::Numeric>>>) -> Result<ArrayRef> {
    let mut builder = FixedSizeBinaryBuilder::new(NUMERIC_BYTES);
    for value in values {
        match value? {
            Some(value) => builder.append_value(value.to_bytes())?,
            None => builder.append_null(),
        }
    }
    Ok(Arc::new(builder.finish()))
}

/// Whether a column of this type is whole numbers that fit a word and sort as such.
fn is_integer(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Time64(TimeUnit::Microsecond)
            | DataType::Timestamp(TimeUnit::Microsecond, _)
    )
}

/// A column for which [`is_integer`] holds as bigint.
fn words_of(array: &ArrayRef) -> Result<Int64Array> {
    fn widened<T: ArrowPrimitiveType>(array: &ArrayRef) -> Int64Array
    where
        T::Native: Into<i64>,
    {
        array.as_primitive::<T>().unary(Into::into)
    }
    Ok(match array.data_type() {
        DataType::Int16 => widened::<Int16Type>(array),
        DataType::Int32 => widened::<Int32Type>(array),
        DataType::Date32 => widened::<Date32Type>(array),
        DataType::Int64 => array.as_primitive::<Int64Type>().clone(),
        DataType::Time64(_) => array.as_primitive::<Time64MicrosecondType>().reinterpret_cast(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().reinterpret_cast()
        }
        other => return Err(Error::Failed(format!("{other} is not a column of integers"))),
    })
}

/// The inverse of [`words_of`].
fn integers(data_type: &DataType, values: Vec<i64>, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
    fn narrowed<T: ArrowPrimitiveType>(
        values: Vec<i64>,
        nulls: Option<NullBuffer>,
        f: fn(i64) -> T::Native,
    ) -> ArrayRef {
        Arc::new(PrimitiveArray::<T>::new(values.into_iter().map(f).collect(), nulls))
    }
    Ok(match data_type {
        DataType::Int16 => narrowed::<Int16Type>(values, nulls, |v| v as i16),
        DataType::Int32 => narrowed::<Int32Type>(values, nulls, |v| v as i32),
        DataType::Date32 => narrowed::<Date32Type>(values, nulls, |v| v as i32),
        DataType::Int64 => Arc::new(Int64Array::new(values.into(), nulls)),
        DataType::Time64(_) => Arc::new(PrimitiveArray::<Time64MicrosecondType>::new(values.into(), nulls)),
        DataType::Timestamp(_, zone) => {
            let array = PrimitiveArray::<TimestampMicrosecondType>::new(values.into(), nulls);
            Arc::new(array.with_timezone_opt(zone.clone()))
        }
        other => return Err(Error::Failed(format!("{other} is not a column of integers"))),
    })
}

/// The keys of the groups and the numbers of their records.
enum KeyTable {
    /// No group columns: record 0.
    One,
    /// One column of integers. The key is in the record; NULL has a record of its own.
    Int { table: IntTable, null: Option<u32> },
    /// Anything else, as row bytes.
    Bytes(ByteTable),
}

/// The records of all groups.
struct Groups {
    layout: Layout,
    keys: KeyTable,
    words: Vec<i64>,
    own: Vec<Option<Box<dyn Accumulator>>>,
    /// Prepares arguments; one per accumulator of a record.
    prototypes: Vec<Box<dyn Accumulator>>,
    /// Numbers that were given up (integer keys only; a [`ByteTable`] keeps its own).
    free: Vec<u32>,
    next: u32,
    live: usize,
    /// Groups touched in this epoch, and their records and values as they were.
    dirty: Vec<u32>,
    saved: Vec<i64>,
    saved_own: Vec<Vec<Result<ScalarValue>>>,
    /// Groups without a row that the store does not know either: removed when the seal is done.
    gone: Vec<u32>,
    /// Groups changed since the last checkpoint.
    changed: Vec<u32>,
    numbers: Vec<u32>,
    /// The groups by the column whose watermark drops them; `None` until one is known to have one.
    expiry: Option<expire::ByColumn>,
    /// Groups that are in the store only.
    evicted: Evicted,
}

impl Groups {
    fn new(layout: Layout) -> Result<Groups> {
        let keys = layout.no_keys();
        let prototypes = (0..layout.own.len()).map(|own| layout.accumulator(own)).collect::<Result<_>>()?;
        Ok(Groups {
            prototypes,
            layout,
            keys,
            words: Vec::new(),
            own: Vec::new(),
            free: Vec::new(),
            next: 0,
            live: 0,
            dirty: Vec::new(),
            saved: Vec::new(),
            saved_own: Vec::new(),
            gone: Vec::new(),
            changed: Vec::new(),
            numbers: Vec::new(),
            expiry: None,
            evicted: Evicted::default(),
        })
    }

    fn len(&self) -> usize {
        self.live
    }

    fn bytes(&self) -> usize {
        let keys = match &self.keys {
            KeyTable::One => 0,
            KeyTable::Int { table, .. } => table.bytes(),
            KeyTable::Bytes(table) => table.bytes(),
        };
        let lists = self.dirty.capacity() + self.changed.capacity() + self.free.capacity();
        keys + (self.words.capacity() + self.saved.capacity()) * 8
            + lists * size_of::<u32>()
            + self.evicted.bytes()
            + self.own.iter().flatten().map(|own| own.bytes()).sum::<usize>()
    }

    fn record(&self, number: u32) -> &[i64] {
        let stride = self.layout.stride;
        &self.words[number as usize * stride..][..stride]
    }

    /// Makes sure that the record `number` is in use and saved as it was before this epoch.
    #[inline]
    fn open(&mut self, number: u32, key: i64, null: bool) -> Result<()> {
        match self.words.get(number as usize * self.layout.stride + FLAGS) {
            Some(flags) if flags & DIRTY != 0 => Ok(()),
            _ => self.open_clean(number, key, null),
        }
    }

    fn open_clean(&mut self, number: u32, key: i64, null: bool) -> Result<()> {
        let stride = self.layout.stride;
        let base = number as usize * stride;
        if base >= self.words.len() {
            self.make_room(number);
        }
        let flags = self.words[base + FLAGS];
        if flags & LIVE == 0 {
            self.begin(number, key, null)?;
        }
        self.dirty.push(number);
        self.saved.extend_from_slice(&self.words[base..base + stride]);
        if !self.prototypes.is_empty() {
            let values = if flags & OUT != 0 { self.own_values(number) } else { Vec::new() };
            self.saved_own.push(values);
        }
        if flags & CHANGED == 0 {
            self.changed.push(number);
        }
        self.words[base + FLAGS] |= DIRTY | CHANGED | USED;
        Ok(())
    }

    fn make_room(&mut self, number: u32) {
        self.words.resize((number as usize + 1) * self.layout.stride, 0);
        self.next = self.next.max(number + 1);
    }

    /// Takes the record `number` into use.
    fn begin(&mut self, number: u32, key: i64, null: bool) -> Result<()> {
        let base = number as usize * self.layout.stride;
        self.live += 1;
        self.words[base + KEY] = key;
        self.words[base + FLAGS] = LIVE | if null { NULL_KEY } else { 0 };
        self.open_own(number)
    }

    fn open_own(&mut self, number: u32) -> Result<()> {
        let n = self.prototypes.len();
        if n == 0 {
            return Ok(());
        }
        let end = (number as usize + 1) * n;
        if self.own.len() < end {
            self.own.resize_with(end, || None);
        }
        for own in 0..n {
            let mut accumulator = self.layout.accumulator(own)?;
            if let Some(multiset) = accumulator.multiset() {
                multiset.track_changes();
            }
            self.own[end - n + own] = Some(accumulator);
        }
        Ok(())
    }

    fn own_of(&self, number: u32) -> &[Option<Box<dyn Accumulator>>] {
        let n = self.prototypes.len();
        &self.own[number as usize * n..][..n]
    }

    fn own_values(&self, number: u32) -> Vec<Result<ScalarValue>> {
        self.own_of(number).iter().flatten().map(|own| own.value()).collect()
    }

    fn apply(&mut self, delta: &Batch) -> Result<()> {
        let prepared = Prepared::new(&self.layout, &self.prototypes, delta)?;
        let keys = GroupKeys::new(&self.layout, &self.keys, delta)?;
        let mut numbers = std::mem::take(&mut self.numbers);
        for first in (0..delta.num_rows()).step_by(LOOKUP_ROWS) {
            let n = LOOKUP_ROWS.min(delta.num_rows() - first);
            numbers.clear();
            self.find(&keys, first, n, &mut numbers)?;
            self.add(&prepared, first, &numbers);
        }
        self.numbers = numbers;
        Ok(())
    }

    /// Finds or opens the records of `n` rows from `first` on.
    fn find(&mut self, keys: &GroupKeys, first: usize, n: usize, numbers: &mut Vec<u32>) -> Result<()> {
        match keys {
            GroupKeys::One => {
                self.open(0, 0, false)?;
                numbers.resize(n, 0);
            }
            GroupKeys::Int(column) => {
                let KeyTable::Int { table, null } = &mut self.keys else { unreachable!("integer keys") };
                let values = &column.values()[first..first + n];
                let mut hashes = [0; LOOKUP_ROWS];
                hashes.iter_mut().zip(values).for_each(|(hash, value)| *hash = hash_i64(*value));
                table.touch(&hashes[..n]);
                let mut fresh = || {
                    self.free.pop().unwrap_or_else(|| {
                        self.next += 1;
                        self.next - 1
                    })
                };
                for i in 0..n {
                    numbers.push(if column.is_null(first + i) {
                        *null.get_or_insert_with(&mut fresh)
                    } else {
                        table.find_or_insert(hashes[i], values[i], &mut fresh)
                    });
                }
                self.touch(numbers);
                for i in 0..n {
                    let null = column.is_null(first + i);
                    self.open(numbers[i], if null { 0 } else { values[i] }, null)?;
                }
            }
            GroupKeys::Bytes(rows) => {
                let KeyTable::Bytes(table) = &mut self.keys else { unreachable!("byte keys") };
                let mut hashes = [0; LOOKUP_ROWS];
                (0..n).for_each(|i| hashes[i] = hash_bytes(rows.get(first + i)));
                table.touch(&hashes[..n]);
                for i in 0..n {
                    let key = rows.get(first + i);
                    numbers.push(table.find(hashes[i], key).unwrap_or_else(|| table.insert(hashes[i], key)));
                }
                self.touch(numbers);
                for number in numbers.iter() {
                    self.open(*number, 0, false)?;
                }
            }
        }
        Ok(())
    }

    /// Loads the records, so that their cache misses overlap.
    fn touch(&self, numbers: &[u32]) {
        let stride = self.layout.stride;
        let load = |number: &u32| self.words.get(*number as usize * stride).copied().unwrap_or(0);
        std::hint::black_box(numbers.iter().fold(0, |all, number| all ^ load(number)));
    }

    /// Adds rows from `first` on to the records `numbers`.
    fn add(&mut self, prepared: &Prepared, first: usize, numbers: &[u32]) {
        let stride = self.layout.stride;
        let words = self.words.as_mut_slice();
        let base = |i: usize| numbers[i] as usize * stride;
        for i in 0..numbers.len() {
            words[base(i) + ROWS] += prepared.diff(first + i);
        }
        for (place, arg) in self.layout.places.iter().zip(&prepared.args) {
            let rows = (0..numbers.len()).filter(|i| arg.counts(first + i));
            match *place {
                Place::Count(at) if arg.live.is_none() && prepared.diffs.is_none() => {
                    (0..numbers.len()).for_each(|i| words[base(i) + at] += 1);
                }
                Place::Count(at) => rows.for_each(|i| words[base(i) + at] += prepared.diff(first + i)),
                Place::Sum { at, .. } | Place::Avg(at) => rows.for_each(|i| {
                    let record = &mut words[base(i)..][..stride];
                    let diff = prepared.diff(first + i);
                    let sum = wide(record, at) + i128::from(arg.ints[first + i]) * i128::from(diff);
                    set_wide(record, at, sum);
                    record[at + 2] += diff;
                }),
                Place::Extreme { at, max } => rows.for_each(|i| {
                    offer(&mut words[base(i) + at..][..2], arg.ints[first + i], max);
                }),
                Place::Own(own) => {
                    let n = self.prototypes.len();
                    let input = arg.input.as_ref().expect("prepared for the accumulator");
                    rows.for_each(|i| {
                        let accumulator = self.own[numbers[i] as usize * n + own].as_mut().expect("record is open");
                        accumulator.add(input, first + i, prepared.diff(first + i));
                    });
                }
            }
        }
    }

    /// Emits what changed in the dirty groups of `range`.
    fn emit(&mut self, range: std::ops::Range<usize>, out: &mut Output) -> Result<()> {
        let stride = self.layout.stride;
        let global = self.layout.group.is_empty();
        let (mut numbers, mut diffs, mut own) = (Vec::new(), Vec::new(), vec![Vec::new(); self.prototypes.len()]);
        let mut records: Vec<&[i64]> = Vec::new();
        let mut flags: Vec<(u32, bool)> = Vec::new();
        for at in range {
            let number = self.dirty[at];
            let old = &self.saved[at * stride..][..stride];
            let new = self.record(number);
            if new[ROWS] < 0 {
                return Err(Error::Failed("more rows of a group were retracted than were inserted".into()));
            }
            let (was, is) = (old[FLAGS] & OUT != 0, new[ROWS] > 0 || global);
            flags.push((number, is));
            let old_own: &[Result<ScalarValue>] = self.saved_own.get(at).map_or(&[], Vec::as_slice);
            let new_own = if is { self.own_values(number) } else { Vec::new() };
            if was && is && self.layout.same(old, new) && same_values(old_own, &new_own) {
                continue;
            }
            for (present, record, values, diff) in [(was, old, old_own, -1), (is, new, new_own.as_slice(), 1)] {
                if !present {
                    continue;
                }
                let failure = self.layout.check(record).err().or_else(|| values.iter().find_map(|v| v.clone().err()));
                if let Some(failure) = failure {
                    out.error(self.group_error(number, diff, &failure)?);
                    continue;
                }
                numbers.push(number);
                records.push(record);
                diffs.push(diff);
                values.iter().zip(&mut own).for_each(|(value, column)| column.extend(value.as_ref().ok().cloned()));
            }
        }
        if !numbers.is_empty() {
            let mut columns = self.key_columns(&numbers)?;
            for (call, place) in self.layout.places.iter().enumerate() {
                columns.push(match *place {
                    Place::Own(i) => ScalarValue::iter_to_array(std::mem::take(&mut own[i]))
                        .map_err(|e| Error::Failed(e.to_string()))?,
                    _ => self.layout.column(call, &records)?,
                });
            }
            let options = RecordBatchOptions::new().with_row_count(Some(numbers.len()));
            let data = RecordBatch::try_new_with_options(self.layout.schema.clone(), columns, &options)?;
            let all_new = diffs.iter().all(|d| *d == 1);
            let n = diffs.len();
            let batch = Batch::new(data, (!all_new).then(|| Int64Array::from(diffs)));
            for first in (0..n).step_by(OUTPUT_ROWS_MAX) {
                out.emit(batch.slice(first, OUTPUT_ROWS_MAX.min(n - first)));
            }
        }
        if let Some(expiry) = &mut self.expiry {
            expiry.fresh.extend(flags.iter().filter(|(_, is)| *is).map(|(number, _)| *number));
        }
        for (number, is) in flags {
            let flags = &mut self.words[number as usize * stride + FLAGS];
            *flags = (*flags & !DIRTY & !OUT) | if is { OUT } else { 0 };
            if !is && *flags & STORED == 0 {
                self.gone.push(number);
            }
        }
        Ok(())
    }

    fn group_error(&self, number: u32, diff: i64, error: &Error) -> Result<RowError> {
        let sqlstate = match error {
            Error::Invalid { sqlstate, .. } => sqlstate,
            _ => "XX000",
        };
        let keys: Vec<String> =
            self.key_columns(&[number])?.iter().map(|column| crate::expr::value_text(column, 0)).collect();
        Ok(RowError {
            diff,
            reason: error.to_string(),
            sqlstate: sqlstate.to_string(),
            raw: Some(format!("({})", keys.join(",")).into_bytes()),
            ..RowError::default()
        })
    }

    /// The group columns of some records.
    fn key_columns(&self, numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        let types = self.layout.group_types();
        Ok(match &self.keys {
            KeyTable::One => Vec::new(),
            KeyTable::Int { .. } => {
                let values = numbers.iter().map(|n| self.record(*n)[KEY]).collect();
                let valid: BooleanBuffer = numbers.iter().map(|n| self.record(*n)[FLAGS] & NULL_KEY == 0).collect();
                let nulls = Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0);
                vec![integers(&types[0], values, nulls)?]
            }
            KeyTable::Bytes(table) => storage::row::decode(&types, numbers.iter().map(|n| table.get(*n)))?,
        })
    }

    /// Forgets what belonged to the epoch.
    fn settle(&mut self) {
        self.dirty.clear();
        self.saved.clear();
        self.saved_own.clear();
        for number in std::mem::take(&mut self.gone) {
            self.remove(number);
        }
    }

    /// Forgets a group that has no row. Its number may still stand in `changed`.
    fn remove(&mut self, number: u32) {
        let stride = self.layout.stride;
        let n = self.prototypes.len();
        let (key, flags) = (self.record(number)[KEY], self.record(number)[FLAGS]);
        match &mut self.keys {
            KeyTable::One => return,
            KeyTable::Int { null, .. } if flags & NULL_KEY != 0 => *null = None,
            KeyTable::Int { table, .. } => table.remove(key),
            KeyTable::Bytes(table) => table.remove(number),
        }
        if let KeyTable::Int { .. } = self.keys {
            self.free.push(number);
        }
        self.words[number as usize * stride..][..stride].fill(0);
        self.own.iter_mut().skip(number as usize * n).take(n).for_each(|own| *own = None);
        self.live -= 1;
    }

    /// Puts what changed since the last checkpoint into the state tables, [`SAVE_MAX`] entries at most. Returns whether
    /// that was all.
    fn save(&mut self, tables: &mut [StateTable; 2]) -> Result<bool> {
        let stride = self.layout.stride;
        let global = self.layout.group.is_empty();
        let mut budget = SAVE_MAX;
        while budget > 0 && !self.changed.is_empty() {
            let from = self.changed.len() - budget.min(OUTPUT_ROWS_MAX).min(self.changed.len());
            let mut numbers = self.changed.split_off(from);
            numbers.retain(|number| self.record(*number)[FLAGS] & CHANGED != 0);
            if numbers.is_empty() {
                continue;
            }
            budget -= numbers.len();
            let vnodes = storage::batch::vnodes(&self.key_columns(&numbers)?, numbers.len());
            for (i, (&number, vnode)) in numbers.iter().zip(vnodes).enumerate() {
                let at = number as usize * stride;
                if self.words[at + FLAGS] & CHANGED == 0 {
                    continue; // Twice in the list: the number was given up and used again.
                }
                let key = self.key_bytes(number);
                if !self.save_values(number, vnode, &key, &mut tables[1], &mut budget) {
                    self.changed.extend_from_slice(&numbers[i..]);
                    return Ok(false);
                }
                self.words[at + FLAGS] &= !CHANGED;
                if self.words[at + ROWS] > 0 || global {
                    tables[0].put(vnode, &key, &self.encode_record(number));
                    self.words[at + FLAGS] |= STORED;
                } else {
                    tables[0].delete(vnode, &key);
                    self.remove(number);
                }
            }
        }
        Ok(self.changed.is_empty())
    }

    /// Puts a group's changed values into the table; false if the budget did not suffice.
    fn save_values(
        &mut self,
        number: u32,
        vnode: u8,
        key: &[u8],
        table: &mut StateTable,
        budget: &mut usize,
    ) -> bool {
        let n = self.prototypes.len();
        for own in 0..n {
            let accumulator = self.own[number as usize * n + own].as_mut().expect("record is open");
            if let Some(multiset) = accumulator.multiset() {
                let mut entry = values_prefix(own, key);
                let prefix = entry.len();
                let all = multiset.take_changes(budget, &mut |value, count| {
                    entry.truncate(prefix);
                    entry.extend(value);
                    if count == 0 {
                        table.delete(vnode, &entry);
                    } else {
                        table.put(vnode, &entry, &count.to_le_bytes());
                    }
                });
                if !all {
                    return false;
                }
            }
        }
        true
    }

    /// A group's key in the store.
    fn key_bytes(&self, number: u32) -> Vec<u8> {
        match &self.keys {
            KeyTable::One => Vec::new(),
            KeyTable::Int { .. } if self.record(number)[FLAGS] & NULL_KEY != 0 => Vec::new(),
            KeyTable::Int { .. } => self.record(number)[KEY].to_be_bytes().to_vec(),
            KeyTable::Bytes(table) => table.get(number).to_vec(),
        }
    }

    /// A group's value in the store: the words without flags and key, then each accumulator behind its length.
    fn encode_record(&self, number: u32) -> Vec<u8> {
        let record = self.record(number);
        let mut out = record[ROWS].to_le_bytes().to_vec();
        record[HEAD..].iter().for_each(|word| out.extend(word.to_le_bytes()));
        for own in self.own_of(number).iter().flatten() {
            let at = out.len();
            out.extend([0; 4]);
            own.encode(&mut out);
            let len = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&len.to_le_bytes());
        }
        out
    }

    /// Reads what the last checkpoint wrote: as many groups as `max` bytes hold.
    fn load(&mut self, tables: &[StateTable; 2], max: u64) -> Result<()> {
        if tables[0].is_new() {
            return Ok(());
        }
        let (mut failure, mut bytes) = (None, 0);
        tables[0].scan(&mut |_, key, value| {
            bytes += (key.len() + value.len() + GROUP_BYTES) as u64;
            if bytes > max && !key.is_empty() {
                self.evicted.add(self.hash_of(key));
            } else {
                failure = failure.take().or(self.load_record(key, value).err());
            }
            Ok(())
        })?;
        tables[1].scan(&mut |_, entry, count| {
            failure = failure.take().or(self.load_value(entry, count).err());
            Ok(())
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        for own in self.own.iter_mut().flatten() {
            own.restored()?;
            if let Some(multiset) = own.multiset() {
                multiset.track_changes();
            }
        }
        Ok(())
    }

    /// The hash by which a key of the store is found.
    fn hash_of(&self, key: &[u8]) -> u64 {
        match (&self.keys, <[u8; 8]>::try_from(key)) {
            (KeyTable::Int { .. }, Ok(bytes)) => hash_i64(i64::from_be_bytes(bytes)),
            _ => hash_bytes(key),
        }
    }

    /// Whether the group of a key of the store is in memory.
    fn is_here(&self, key: &[u8]) -> bool {
        match (&self.keys, <[u8; 8]>::try_from(key)) {
            (KeyTable::One, _) => self.live > 0,
            (KeyTable::Int { table, .. }, Ok(bytes)) => {
                table.find(self.hash_of(key), i64::from_be_bytes(bytes)).is_some()
            }
            (KeyTable::Int { null, .. }, Err(_)) => null.is_some(),
            (KeyTable::Bytes(table), _) => table.find(hash_bytes(key), key).is_some(),
        }
    }

    /// The record of a key of the store; opened if need be.
    fn number_of(&mut self, key: &[u8]) -> Result<u32> {
        let mut int = 0;
        let mut is_null = false;
        let number = match &mut self.keys {
            KeyTable::One => 0,
            KeyTable::Int { table, null } => {
                let mut fresh = || {
                    self.free.pop().unwrap_or_else(|| {
                        self.next += 1;
                        self.next - 1
                    })
                };
                match <[u8; 8]>::try_from(key) {
                    Ok(bytes) => {
                        int = i64::from_be_bytes(bytes);
                        table.find_or_insert(hash_i64(int), int, fresh)
                    }
                    Err(_) => {
                        is_null = true;
                        *null.get_or_insert_with(&mut fresh)
                    }
                }
            }
            KeyTable::Bytes(table) => {
                let hash = hash_bytes(key);
                table.find(hash, key).unwrap_or_else(|| table.insert(hash, key))
            }
        };
        if number as usize * self.layout.stride >= self.words.len() {
            self.make_room(number);
        }
        if self.record(number)[FLAGS] & LIVE == 0 {
            self.begin(number, int, is_null)?;
        }
        Ok(number)
    }

    fn load_record(&mut self, key: &[u8], value: &[u8]) -> Result<u32> {
        let cut_short = || Error::Failed("a group in the store is cut short".into());
        let number = self.number_of(key)?;
        let stride = self.layout.stride;
        let record = &mut self.words[number as usize * stride..][..stride];
        let (words, mut rest) = value.split_at_checked((stride - HEAD + 1) * 8).ok_or_else(cut_short)?;
        let mut words = words.chunks_exact(8).map(|w| i64::from_le_bytes(w.try_into().expect("eight bytes")));
        record[ROWS] = words.next().unwrap_or(0);
        record[HEAD..].iter_mut().zip(words).for_each(|(word, value)| *word = value);
        record[FLAGS] = record[FLAGS] & NULL_KEY | LIVE | OUT | STORED;
        let n = self.prototypes.len();
        for own in self.own.iter_mut().skip(number as usize * n).take(n).flatten() {
            let (len, tail) = rest.split_at_checked(4).ok_or_else(cut_short)?;
            let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
            let (state, tail) = tail.split_at_checked(len).ok_or_else(cut_short)?;
            own.merge(state)?;
            rest = tail;
        }
        Ok(number)
    }

    fn load_value(&mut self, entry: &[u8], count: &[u8]) -> Result<()> {
        let broken = || Error::Failed("an aggregated value in the store is broken".into());
        let (head, tail) = entry.split_at_checked(5).ok_or_else(broken)?;
        let len = u32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize;
        let (key, value) = tail.split_at_checked(len).ok_or_else(broken)?;
        let count = i64::from_le_bytes(count.try_into().map_err(|_| broken())?);
        if !self.evicted.is_empty() && !self.is_here(key) {
            return Ok(());
        }
        let number = self.number_of(key)?;
        let n = self.prototypes.len();
        let own = self.own.get_mut(number as usize * n + head[0] as usize).and_then(Option::as_mut);
        own.and_then(|own| own.multiset()).ok_or_else(broken)?.load(value, count);
        Ok(())
    }
}

/// What the entries of a group's accumulator begin with, in the store.
fn values_prefix(own: usize, key: &[u8]) -> Vec<u8> {
    let mut prefix = vec![own as u8];
    prefix.extend((key.len() as u32).to_be_bytes());
    prefix.extend(key);
    prefix
}

fn same_values(old: &[Result<ScalarValue>], new: &[Result<ScalarValue>]) -> bool {
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| match (old, new) {
            (Ok(old), Ok(new)) => old == new,
            (Err(old), Err(new)) => old.to_string() == new.to_string(),
            _ => false,
        })
}

/// The group columns of a batch in the form that the [`KeyTable`] looks up.
enum GroupKeys {
    One,
    Int(Int64Array),
    Bytes(storage::keys::Keys),
}

impl GroupKeys {
    fn new(layout: &Layout, keys: &KeyTable, delta: &Batch) -> Result<GroupKeys> {
        Ok(match keys {
            KeyTable::One => GroupKeys::One,
            KeyTable::Int { .. } => GroupKeys::Int(words_of(delta.column(layout.group[0]))?),
            KeyTable::Bytes(_) => {
                let columns: Vec<ArrayRef> = layout.group.iter().map(|i| delta.column(*i).clone()).collect();
                GroupKeys::Bytes(storage::row::encode(&columns)?)
            }
        })
    }
}

/// The arguments of all aggregates for one batch.
struct Prepared<'a> {
    diffs: Option<&'a [i64]>,
    args: Vec<Arg>,
}

struct Arg {
    /// The rows that count, by FILTER and (for aggregates in words) because the argument is not NULL; all if absent.
    live: Option<BooleanBuffer>,
    /// The argument, for aggregates in words.
    ints: arrow::buffer::ScalarBuffer<i64>,
    /// The argument, for an accumulator.
    input: Option<Input>,
}

impl Arg {
    #[inline]
    fn counts(&self, row: usize) -> bool {
        self.live.as_ref().is_none_or(|live| live.value(row))
    }
}

impl<'a> Prepared<'a> {
    fn new(layout: &Layout, prototypes: &[Box<dyn Accumulator>], delta: &'a Batch) -> Result<Prepared<'a>> {
        let mut args = Vec::with_capacity(layout.calls.len());
        for (call, place) in layout.calls.iter().zip(&layout.places) {
            let mut live = call.filter.map(|i| true_rows(delta.column(i).as_boolean()));
            let columns: Vec<ArrayRef> = call.args.iter().map(|i| delta.column(*i).clone()).collect();
            let mut arg = Arg { live: None, ints: Vec::new().into(), input: None };
            match place {
                Place::Own(own) => arg.input = Some(prototypes[*own].prepare(&columns)?),
                Place::Count(_) => and_valid(&mut live, columns.first().and_then(|c| c.logical_nulls())),
                _ => {
                    let ints = words_of(&columns[0])?;
                    and_valid(&mut live, ints.nulls().cloned());
                    arg.ints = ints.values().clone();
                }
            }
            arg.live = live;
            args.push(arg);
        }
        Ok(Prepared { diffs: delta.diffs().map(|d| d.values().as_ref()), args })
    }

    #[inline]
    fn diff(&self, row: usize) -> i64 {
        self.diffs.map_or(1, |diffs| diffs[row])
    }
}

fn true_rows(filter: &BooleanArray) -> BooleanBuffer {
    match filter.nulls() {
        Some(nulls) => filter.values() & nulls.inner(),
        None => filter.values().clone(),
    }
}

fn and_valid(live: &mut Option<BooleanBuffer>, nulls: Option<NullBuffer>) {
    if let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) {
        *live = Some(match live.take() {
            Some(live) => &live & nulls.inner(),
            None => nulls.inner().clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use storage::keys::SortOption;

    use super::*;
    use crate::oracle;
    use crate::testing::{run, schema};

    fn call(kind: AggregateKind, args: &[usize], returns: DataType) -> AggregateCall {
        AggregateCall { kind, args: args.to_vec(), order: vec![], filter: None, distinct: false, returns }
    }

    fn count() -> AggregateCall {
        call(AggregateKind::Count, &[], DataType::Int64)
    }

    fn distinct(call: AggregateCall) -> AggregateCall {
        AggregateCall { distinct: true, ..call }
    }

    fn node(group: &[usize], calls: &[AggregateCall], schema_line: &str) -> Aggregate {
        let (group, calls) = (group.to_vec(), calls.to_vec());
        Aggregate { group, calls, append_only: false, partials: None, schema: schema(schema_line) }
    }

    fn sum(arg: usize, returns: DataType) -> AggregateCall {
        call(AggregateKind::Sum, &[arg], returns)
    }

    fn numeric() -> DataType {
        DataType::FixedSizeBinary(NUMERIC_BYTES)
    }

    #[test]
    fn a_group_is_retracted_and_replaced() {
        let node = node(&[0], &[count(), sum(1, numeric())], "k bigint, n bigint, s numeric");
        let said = run(
            node,
            &["k bigint, v bigint"],
            "1 +(1,10) +(2,NULL) 2 +(1,5) -(2,NULL) 3 +(1,7) -(1,7) 4 +(NULL,1) 5 -(NULL,1) -(1,10) -(1,5)",
        );
        expect![[r#"
            1 +(1,1,10) +(2,1,NULL)
            2 -(1,1,10) +(1,2,15) -(2,1,NULL)
            3
            4 +(NULL,1,1)
            5 -(1,2,15) -(NULL,1,1)"#]]
        .assert_eq(&said);
    }

    #[test]
    fn over_no_input_there_is_one_row() {
        let node = node(&[], &[count(), sum(0, DataType::Int64)], "n bigint, s bigint");
        expect![[r#"
            1 +(0,NULL)
            2 -(0,NULL) +(1,4)
            3
            4 +(0,NULL) -(1,4)"#]]
        .assert_eq(&run(node, &["v int"], "1 2 +(4) 3 4 -(4)"));
    }

    #[test]
    fn averages_of_integers_are_numeric() {
        let node = node(&[], &[call(AggregateKind::Avg, &[0], numeric())], "a numeric");
        expect![[r#"
            1 +(1.5000000000000000)
            2 -(1.5000000000000000) +(2.0000000000000000)"#]]
        .assert_eq(&run(node, &["v int"], "1 +(1) +(2) 2 +(3)"));
    }

    #[test]
    fn a_sum_that_overflows_is_an_error_until_it_fits() {
        let node = node(&[0], &[sum(1, DataType::Int64)], "k text, s bigint");
        let said =
            run(node, &["k text, v bigint"], "1 +(a,9223372036854775807) 2 +(a,1) 3 -(a,1) 4 -(a,9223372036854775807)");
        expect![[r#"
            1 +(a,9223372036854775807)
            2 -(a,9223372036854775807) +!22003 bigint out of range
            3 +(a,9223372036854775807) -!22003 bigint out of range
            4 -(a,9223372036854775807)"#]]
        .assert_eq(&said);
    }

    #[test]
    fn floats_leave_no_residue() {
        let node = node(&[0], &[sum(1, DataType::Float64)], "k int, s double");
        expect![[r#"
            1 +(1,1e300)
            2 +(1,0.1) -(1,1e300)"#]]
        .assert_eq(&run(node, &["k int, v double"], "1 +(1,1e300) +(1,0.1) 2 -(1,1e300)"));
    }

    #[test]
    fn texts_and_arrays_are_in_the_order_of_their_values() {
        let list = DataType::List(Arc::new(arrow_schema::Field::new("item", DataType::Utf8View, true)));
        let calls = [
            call(AggregateKind::StringAgg, &[1, 2], DataType::Utf8View),
            call(AggregateKind::ArrayAgg, &[1], list.clone()),
            distinct(call(AggregateKind::Count, &[1], DataType::Int64)),
        ];
        let mut node = node(&[0], &calls, "k int, s text");
        let mut fields = node.schema.fields().to_vec();
        fields.push(Arc::new(arrow_schema::Field::new("a", list, true)));
        fields.push(Arc::new(arrow_schema::Field::new("n", DataType::Int64, true)));
        node.schema = Arc::new(arrow_schema::Schema::new(fields));
        let said =
            run(node, &["k int, v text, d text"], "1 +(1,b,;) +(1,NULL,;) +2(1,a,-) 2 -(1,a,-) 3 -(1,b,;) -(1,a,-)");
        expect![[r#"
            1 +(1,a-a;b,[a, a, b, ],2)
            2 -(1,a-a;b,[a, a, b, ],2) +(1,a;b,[a, b, ],2)
            3 +(1,NULL,[],0) -(1,a;b,[a, b, ],2)"#]]
        .assert_eq(&said);
    }

    const INPUT: &str = "k bigint, s text, i int, b bigint, f double, p boolean";

    fn many() -> Vec<AggregateCall> {
        vec![
            count(),
            call(AggregateKind::Count, &[1], DataType::Int64),
            sum(2, DataType::Int64),
            sum(3, numeric()),
            sum(4, DataType::Float64),
            call(AggregateKind::Min, &[1], DataType::Utf8View),
            call(AggregateKind::Max, &[3], DataType::Int64),
            AggregateCall { filter: Some(5), ..sum(3, numeric()) },
        ]
    }

    const MANY: &str = "n bigint, m bigint, si bigint, sb numeric, sf double, lo text, hi bigint, fb numeric";
    const MANY_SQL: &str =
        "count(*), count(s), sum(i), sum(b), sum(f), min(s), max(b), sum(b) filter (where p) from t0";

    fn group_by(group: &[usize], columns: &str) -> Aggregate {
        node(group, &many(), &format!("{columns}{MANY}"))
    }

    oracle!(by_one_integer, group_by(&[0], "k bigint, "), [INPUT], &format!("select k, {MANY_SQL} group by k"));
    oracle!(by_text, group_by(&[1], "s text, "), [INPUT], &format!("select s, {MANY_SQL} group by s"));
    oracle!(
        by_several_columns,
        group_by(&[1, 2, 5], "s text, i int, p boolean, "),
        [INPUT],
        &format!("select s, i, p, {MANY_SQL} group by s, i, p")
    );
    oracle!(of_everything, group_by(&[], ""), [INPUT], &format!("select {MANY_SQL}"));
    oracle!(
        growing_inputs_keep_one_value,
        Aggregate { append_only: true, ..group_by(&[2], "i int, ") },
        [INPUT],
        &format!("select i, {MANY_SQL} group by i"),
        append_only
    );
    oracle!(
        each_value_once,
        node(
            &[0],
            &[
                distinct(call(AggregateKind::Count, &[1], DataType::Int64)),
                distinct(sum(3, numeric())),
                call(AggregateKind::BoolAnd, &[5], DataType::Boolean),
                call(AggregateKind::BoolOr, &[5], DataType::Boolean)
            ],
            "k bigint, n bigint, s numeric, a boolean, o boolean"
        ),
        [INPUT],
        "select k, count(distinct s), sum(distinct b), bool_and(p), bool_or(p) from t0 group by k"
    );
    fn ordered(kind: AggregateKind, args: &[usize], descending: bool, returns: DataType) -> AggregateCall {
        let order = vec![SortOption { descending, nulls_first: false }];
        AggregateCall { order, ..call(kind, args, returns) }
    }

    fn list_of(item: DataType) -> DataType {
        DataType::List(Arc::new(arrow_schema::Field::new("item", item, true)))
    }

    fn collecting() -> Aggregate {
        let calls = [
            ordered(AggregateKind::ArrayAgg, &[1, 3], true, list_of(DataType::Utf8View)),
            ordered(AggregateKind::FirstValue, &[1, 3], false, DataType::Utf8View),
            ordered(AggregateKind::LastValue, &[1, 3], false, DataType::Utf8View),
            call(AggregateKind::BitAnd, &[2], DataType::Int32),
            call(AggregateKind::BitOr, &[3], DataType::Int64),
            call(AggregateKind::BitXor, &[2], DataType::Int32),
            AggregateCall { filter: Some(5), ..call(AggregateKind::BitXor, &[3], DataType::Int64) },
        ];
        let mut node = node(&[0], &calls, "k bigint");
        let mut fields = node.schema.fields().to_vec();
        fields.extend(calls.iter().enumerate().map(|(i, call)| {
            Arc::new(arrow_schema::Field::new(format!("c{i}"), call.returns.clone(), true))
        }));
        node.schema = Arc::new(arrow_schema::Schema::new(fields));
        node
    }

    const COLLECTING: &str = "select k, array_agg(s order by b desc nulls last, s nulls last),
        first_value(s order by b nulls last, s nulls last), last_value(s order by b nulls last, s nulls last),
        bit_and(i), bit_or(b), bit_xor(i), bit_xor(b) filter (where p) from t0 group by k";

    oracle!(in_an_order, collecting(), [INPUT], COLLECTING);
    oracle!(
        in_an_order_of_growing_inputs,
        Aggregate { append_only: true, ..collecting() },
        [INPUT],
        COLLECTING,
        append_only
    );

    #[test]
    fn equal_values_of_different_form_count_once() {
        let node = node(&[0], &[distinct(call(AggregateKind::Sum, &[1], numeric()))], "k int, s numeric");
        let script = "1 +(1,1.00) 2 +(1,1.0) 3 -(1,1.0) +(1,2) 4 -(1,1.00)";
        expect![[r#"
            1 +(1,1.00)
            2 +(1,1.0) -(1,1.00)
            3 -(1,1.0) +(1,3.00)
            4 +(1,2) -(1,3.00)"#]]
        .assert_eq(&run(node, &["k int, v numeric"], script));
    }

    oracle!(no_aggregate, node(&[1], &[], "s text"), [INPUT], "select distinct s from t0");
}
