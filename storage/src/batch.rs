//! A batch of changes: Arrow columns and an optional diff per row.
//!
//! A diff of +n says that a row came n times, -n that it left n times; an update is a -1 and a +1 in the same epoch.
//! Most batches are inserts only, so "no diffs" stands for +1 everywhere and costs nothing.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, Int64Builder, RecordBatch, RecordBatchOptions, UInt32Array,
    make_array,
};
use arrow::compute;
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_schema::{DataType, IntervalUnit, SchemaRef, TimeUnit};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::row;

/// The number of buckets that keys are placed in. A worker owns a contiguous range of them, so the number of workers
/// may change while what is on disk stays where it is.
pub const VNODES: usize = 256;

/// Rows with a diff each; without diffs every row is +1.
#[derive(Clone, Debug)]
pub struct Batch {
    data: RecordBatch,
    diffs: Option<Int64Array>,
}

impl Batch {
    /// Rows with their diffs.
    pub fn new(data: RecordBatch, diffs: Option<Int64Array>) -> Batch {
        debug_assert!(diffs.as_ref().is_none_or(|d| d.len() == data.num_rows() && d.null_count() == 0));
        Batch { data, diffs }
    }

    /// Rows that all came once.
    pub fn inserts(data: RecordBatch) -> Batch {
        Batch { data, diffs: None }
    }

    /// No rows.
    pub fn empty(schema: SchemaRef) -> Batch {
        Batch { data: RecordBatch::new_empty(schema), diffs: None }
    }

    /// The rows without their diffs.
    pub fn data(&self) -> &RecordBatch {
        &self.data
    }

    /// The diffs; `None` if every row is +1.
    pub fn diffs(&self) -> Option<&Int64Array> {
        self.diffs.as_ref()
    }

    /// The diff of one row.
    pub fn diff(&self, row: usize) -> i64 {
        self.diffs.as_ref().map_or(1, |d| d.value(row))
    }

    /// The columns' types.
    pub fn schema(&self) -> SchemaRef {
        self.data.schema()
    }

    /// The number of rows.
    pub fn num_rows(&self) -> usize {
        self.data.num_rows()
    }

    /// One column.
    pub fn column(&self, i: usize) -> &ArrayRef {
        self.data.column(i)
    }

    /// Whether no row leaves.
    pub fn is_append_only(&self) -> bool {
        self.diffs.as_ref().is_none_or(|d| d.values().iter().all(|d| *d > 0))
    }

    /// Only `columns`, in that order. Names and types stay.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn project(&self, columns: &[usize]) -> Batch {
        Batch { data: project(&self.data, columns), diffs: self.diffs.clone() }
    }

    /// Other columns for the same rows, with the same diffs.
    pub fn with_data(&self, data: RecordBatch) -> Batch {
        Batch::new(data, self.diffs.clone())
    }

    /// The rows where `keep` is true (NULL is false).
    pub fn filter(&self, keep: &BooleanArray) -> Result<Batch> {
        let n = keep.true_count();
        if n == self.num_rows() {
            return Ok(self.clone());
        }
        if n == 0 {
            return Ok(Batch::empty(self.schema()));
        }
        let filter = compute::FilterBuilder::new(keep);
        let filter = if self.data.num_columns() > 1 { filter.optimize() } else { filter }.build();
        let columns = self.data.columns().iter().map(|c| filter.filter(c)).collect::<Result<_, _>>()?;
        let diffs = match &self.diffs {
            Some(diffs) => Some(filter.filter(diffs)?.as_primitive::<Int64Type>().clone()),
            None => None,
        };
        Ok(Batch::new(with_columns(self.schema(), columns, n)?, diffs))
    }

    /// `len` rows from `offset` on, without copying them.
    pub fn slice(&self, offset: usize, len: usize) -> Batch {
        Batch { data: self.data.slice(offset, len), diffs: self.diffs.as_ref().map(|d| d.slice(offset, len)) }
    }

    /// The rows at `indices`, in that order.
    pub fn take(&self, indices: &UInt32Array) -> Result<Batch> {
        let columns =
            self.data.columns().iter().map(|c| compute::take(c, indices, None)).collect::<Result<Vec<_>, _>>()?;
        let diffs = match &self.diffs {
            Some(diffs) => Some(compute::take(diffs, indices, None)?.as_primitive::<Int64Type>().clone()),
            None => None,
        };
        Ok(Batch::new(with_columns(self.schema(), columns, indices.len())?, diffs))
    }

    /// What undoes this batch: the same rows with the opposite diffs.
    pub fn negate(&self) -> Batch {
        let diffs = match &self.diffs {
            Some(diffs) => Int64Array::from_iter_values(diffs.values().iter().map(|d| -d)),
            None => Int64Array::from_value(-1, self.num_rows()),
        };
        Batch { data: self.data.clone(), diffs: Some(diffs) }
    }

    /// All rows of `batches`, one after the other.
    pub fn concat(schema: &SchemaRef, batches: &[Batch]) -> Result<Batch> {
        if batches.len() == 1 {
            return Ok(batches[0].clone());
        }
        let n = batches.iter().map(Batch::num_rows).sum();
        let columns = (0..schema.fields().len())
            .map(|i| {
                let parts: Vec<&dyn Array> = batches.iter().map(|b| b.column(i).as_ref()).collect();
                if parts.is_empty() {
                    Ok(arrow::array::new_empty_array(schema.field(i).data_type()))
                } else {
                    compute::concat(&parts)
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let diffs = batches.iter().any(|b| b.diffs.is_some()).then(|| {
            let mut diffs = Int64Builder::with_capacity(n);
            for batch in batches {
                match &batch.diffs {
                    Some(d) => diffs.append_slice(d.values()),
                    None => diffs.append_value_n(1, batch.num_rows()),
                }
            }
            diffs.finish()
        });
        Ok(Batch::new(with_columns(schema.clone(), columns, n)?, diffs))
    }

    /// Each different row once, with the sum of its diffs; rows whose diffs sum up to zero are gone. The order is
    /// unspecified.
    pub fn consolidate(&self) -> Result<Batch> {
        let n = self.num_rows();
        if n == 0 || (n == 1 && self.diff(0) != 0) {
            return Ok(self.clone());
        }
        let rows = row::encode_rows(self.data.columns(), n)?;
        let mut sums: Vec<i64> = Vec::with_capacity(n);
        let mut firsts: Vec<u32> = Vec::with_capacity(n);
        let mut table: HashTable<(u64, u32)> = HashTable::with_capacity(n);
        for i in 0..n {
            let bytes = rows.get(i);
            let hash = xxh3_64(bytes);
            let entry = table.entry(
                hash,
                |(h, at)| *h == hash && rows.get(firsts[*at as usize] as usize) == bytes,
                |(h, _)| *h,
            );
            match entry {
                hashbrown::hash_table::Entry::Occupied(entry) => sums[entry.get().1 as usize] += self.diff(i),
                hashbrown::hash_table::Entry::Vacant(entry) => {
                    entry.insert((hash, sums.len() as u32));
                    sums.push(self.diff(i));
                    firsts.push(i as u32);
                }
            }
        }
        if sums.len() == n && sums.iter().all(|s| *s != 0) {
            return Ok(self.clone());
        }
        let (mut indices, mut diffs) = (Vec::with_capacity(sums.len()), Vec::with_capacity(sums.len()));
        for (first, sum) in firsts.into_iter().zip(sums) {
            if sum != 0 {
                indices.push(first);
                diffs.push(sum);
            }
        }
        let rows = Batch::inserts(self.data.clone()).take(&UInt32Array::from(indices))?;
        let diffs = diffs.iter().any(|d| *d != 1).then(|| Int64Array::from(diffs));
        Ok(Batch { data: rows.data, diffs })
    }

    /// The part of each worker: the rows whose vnode of the columns `keys` is the worker's. Parts may be empty.
    pub fn split(&self, keys: &[usize], workers: usize) -> Result<Vec<Batch>> {
        if workers <= 1 {
            return Ok(vec![self.clone()]);
        }
        let columns: Vec<ArrayRef> = keys.iter().map(|k| self.column(*k).clone()).collect();
        let vnodes = vnodes(&columns, self.num_rows());
        // The rows of each worker, by one counting sort; then one `take` per part.
        let mut worker_of = [0u16; VNODES];
        for (vnode, worker) in worker_of.iter_mut().enumerate() {
            *worker = worker_of_vnode(vnode as u8, workers) as u16;
        }
        let mut counts = vec![0usize; workers];
        for vnode in &vnodes {
            counts[worker_of[*vnode as usize] as usize] += 1;
        }
        if let Some(only) = counts.iter().position(|c| *c == self.num_rows()) {
            let mut parts = vec![Batch::empty(self.schema()); workers];
            parts[only] = self.clone();
            return Ok(parts);
        }
        let mut parts: Vec<Vec<u32>> = counts.iter().map(|c| Vec::with_capacity(*c)).collect();
        for (row, vnode) in vnodes.iter().enumerate() {
            parts[worker_of[*vnode as usize] as usize].push(row as u32);
        }
        parts
            .into_iter()
            .map(|p| if p.is_empty() { Ok(Batch::empty(self.schema())) } else { self.take(&UInt32Array::from(p)) })
            .collect()
    }

    /// About how many bytes of memory the rows hold on to. A string view counts as its own bytes, not as the buffer
    /// that it shares with others.
    pub fn bytes(&self) -> usize {
        let columns: usize = self.data.columns().iter().map(array_bytes).sum();
        columns + self.diffs.as_ref().map_or(0, |d| d.len() * 8)
    }
}

/// The worker that a vnode belongs to.
pub fn worker_of_vnode(vnode: u8, workers: usize) -> usize {
    vnode as usize * workers / VNODES
}

/// The vnodes that belong to a worker.
pub fn vnodes_of_worker(worker: usize, workers: usize) -> std::ops::Range<usize> {
    (worker * VNODES).div_ceil(workers)..((worker + 1) * VNODES).div_ceil(workers)
}

/// The vnode of each row: a hash of `columns` that is the same on every machine and in every version, because state
/// on disk is placed by it. Integers of different width with the same value have the same vnode. Without columns
/// every row is in vnode 0.
pub fn vnodes(columns: &[ArrayRef], num_rows: usize) -> Vec<u8> {
    if columns.is_empty() {
        return vec![0; num_rows];
    }
    let mut hashes = vec![SEED; num_rows];
    for column in columns {
        debug_assert_eq!(column.len(), num_rows);
        hash_column(column, &mut hashes);
    }
    hashes.into_iter().map(|h| (h >> 56) as u8).collect()
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const NULL: u64 = 0x5bd1_e995_9bd1_e995;

/// Folded multiplication: one instruction on 64-bit machines, and every bit of both reaches every bit of the result.
#[inline(always)]
fn mix(hash: u64, value: u64) -> u64 {
    let product = u128::from(hash ^ value) * u128::from(0xa076_1d64_78bd_642f_u64);
    (product as u64) ^ ((product >> 64) as u64) ^ hash.rotate_left(23)
}

fn hash_values(array: &dyn Array, hashes: &mut [u64], value: impl Fn(usize) -> u64) {
    match array.logical_nulls() {
        Some(nulls) if nulls.null_count() > 0 => {
            for (i, hash) in hashes.iter_mut().enumerate() {
                *hash = mix(*hash, if nulls.is_valid(i) { value(i) } else { NULL });
            }
        }
        _ => hashes.iter_mut().enumerate().for_each(|(i, hash)| *hash = mix(*hash, value(i))),
    }
}

fn hash_column(array: &ArrayRef, hashes: &mut [u64]) {
    macro_rules! primitive {
        ($ty:ty, $to:expr) => {{
            let values = array.as_primitive::<$ty>().values();
            hash_values(array, hashes, |i| $to(values[i]))
        }};
    }
    match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean();
            hash_values(array, hashes, |i| values.value(i).into())
        }
        DataType::Int8 => primitive!(Int8Type, |v: i8| v as i64 as u64),
        DataType::Int16 => primitive!(Int16Type, |v: i16| v as i64 as u64),
        DataType::Int32 => primitive!(Int32Type, |v: i32| v as i64 as u64),
        DataType::Int64 => primitive!(Int64Type, |v: i64| v as u64),
        DataType::UInt8 => primitive!(UInt8Type, u64::from),
        DataType::UInt16 => primitive!(UInt16Type, u64::from),
        DataType::UInt32 => primitive!(UInt32Type, u64::from),
        DataType::UInt64 => primitive!(UInt64Type, |v: u64| v),
        DataType::Date32 => primitive!(Date32Type, |v: i32| v as i64 as u64),
        DataType::Time64(TimeUnit::Microsecond) => primitive!(Time64MicrosecondType, |v: i64| v as u64),
        DataType::Timestamp(TimeUnit::Microsecond, _) => primitive!(TimestampMicrosecondType, |v: i64| v as u64),
        // -0 is 0 and there is one NaN, as SQL compares them.
        DataType::Float32 => {
            primitive!(Float32Type, |v: f32| if v.is_nan() { NULL } else { f64::from(v + 0.0).to_bits() })
        }
        DataType::Float64 => primitive!(Float64Type, |v: f64| if v.is_nan() { NULL } else { (v + 0.0).to_bits() }),
        DataType::Decimal128(..) => primitive!(Decimal128Type, |v: i128| mix(v as u64, (v >> 64) as u64)),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let values = array.as_primitive::<IntervalMonthDayNanoType>().values();
            hash_values(array, hashes, |i| {
                let v = values[i];
                mix((v.months as u32 as u64) << 32 | v.days as u32 as u64, v.nanoseconds as u64)
            })
        }
        DataType::Utf8View => {
            let values = array.as_string_view();
            hash_values(array, hashes, |i| xxh3_64(values.value(i).as_bytes()))
        }
        DataType::BinaryView => {
            let values = array.as_binary_view();
            hash_values(array, hashes, |i| xxh3_64(values.value(i)))
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            hash_values(array, hashes, |i| xxh3_64(values.value(i).as_bytes()))
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            hash_values(array, hashes, |i| xxh3_64(values.value(i)))
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            hash_values(array, hashes, |i| xxh3_64(values.value(i)))
        }
        _ => {
            // Lists and whatever else: the hash of the encoded value.
            let rows = row::encode(std::slice::from_ref(array)).expect("a type of this system has an encoding");
            hash_values(array, hashes, |i| xxh3_64(rows.get(i)))
        }
    }
}

/// `columns` of `data`. Unlike Arrow's, this keeps the number of rows when there are no columns.
pub(crate) fn project(data: &RecordBatch, columns: &[usize]) -> RecordBatch {
    let schema = data.schema().project(columns).expect("the projection names columns of the batch");
    let arrays = columns.iter().map(|c| data.column(*c).clone()).collect();
    with_columns(Arc::new(schema), arrays, data.num_rows()).expect("the columns are those of the schema")
}

/// A record batch that knows its number of rows even without columns.
pub(crate) fn with_columns(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    Ok(RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))?)
}

fn array_bytes(array: &ArrayRef) -> usize {
    let long =
        |views: &[u128]| views.iter().map(|v| 16 + if *v as u32 > 12 { *v as u32 as usize } else { 0 }).sum::<usize>();
    match array.data_type() {
        DataType::Utf8View => long(array.as_string_view().views()),
        DataType::BinaryView => long(array.as_binary_view().views()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            let (from, to) = (offsets[0] as usize, offsets[list.len()] as usize);
            list.len() * 4 + array_bytes(&make_array(list.values().slice(from, to - from).to_data()))
        }
        _ => array.to_data().get_slice_memory_size().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, StringViewArray};
    use arrow_schema::{Field, Schema};
    use std::collections::BTreeMap;

    fn batch(rows: &[(i64, Option<&str>, i64)]) -> Batch {
        let schema =
            Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8View, true)]);
        let a: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
        let b: ArrayRef = Arc::new(StringViewArray::from_iter(rows.iter().map(|r| r.1)));
        let diffs = Int64Array::from_iter_values(rows.iter().map(|r| r.2));
        Batch::new(RecordBatch::try_new(Arc::new(schema), vec![a, b]).unwrap(), Some(diffs))
    }

    fn sums(batch: &Batch) -> BTreeMap<(i64, Option<String>), i64> {
        let (a, b) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string_view());
        let mut sums = BTreeMap::new();
        for i in 0..batch.num_rows() {
            let b = b.is_valid(i).then(|| b.value(i).to_string());
            *sums.entry((a.value(i), b)).or_insert(0) += batch.diff(i);
        }
        sums
    }

    #[test]
    fn consolidates_equal_rows() {
        let b = batch(&[(1, Some("x"), 1), (2, None, 1), (1, Some("x"), -1), (2, None, 2), (3, Some("y"), -1)]);
        let c = b.consolidate().unwrap();
        assert_eq!(c.num_rows(), 2);
        assert_eq!(sums(&c), BTreeMap::from([((2, None), 3), ((3, Some("y".into())), -1)]));
        assert_eq!(b.consolidate().unwrap().schema(), b.schema());
    }

    #[test]
    fn splits_by_vnode_and_loses_nothing() {
        let rows: Vec<_> =
            (0..1000).map(|i| (i % 100, if i % 7 == 0 { None } else { Some("some long string value") }, 1)).collect();
        let b = batch(&rows);
        for workers in [1, 2, 3, 7, 256] {
            let parts = b.split(&[0], workers).unwrap();
            assert_eq!(parts.len(), workers);
            assert_eq!(sums(&Batch::concat(&b.schema(), &parts).unwrap()), sums(&b));
            for (worker, part) in parts.iter().enumerate() {
                for vnode in vnodes(&[part.column(0).clone()], part.num_rows()) {
                    assert_eq!(worker_of_vnode(vnode, workers), worker);
                    assert!(vnodes_of_worker(worker, workers).contains(&(vnode as usize)));
                }
            }
        }
        let used: std::collections::BTreeSet<u8> = vnodes(&[b.column(0).clone()], 1000).into_iter().collect();
        assert!(used.len() > 70, "100 keys are spread over {} vnodes", used.len());
    }

    #[test]
    fn vnodes_never_change() {
        // State on disk is placed by these: a change of this test is a change of the format.
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(-1), Some(1000), None]));
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec![
            Some(""),
            Some("a"),
            Some("headwater"),
            Some("streaming database"),
            None,
        ]));
        let small: ArrayRef = Arc::new(Int32Array::from(vec![Some(0), Some(1), Some(-1), Some(1000), None]));
        assert_eq!(vnodes(&[ints.clone()], 5), vnodes(&[small], 5));
        expect_test::expect!["[187, 220, 186, 110, 23] [110, 124, 69, 124, 11]"].assert_eq(&format!(
            "{:?} {:?}",
            vnodes(&[ints.clone()], 5),
            vnodes(&[ints, texts], 5)
        ));
    }

    #[test]
    fn keeps_the_number_of_rows_without_columns() {
        let b = batch(&[(1, None, 2), (2, None, 1)]).project(&[]);
        assert_eq!(b.num_rows(), 2);
        assert_eq!(b.filter(&BooleanArray::from(vec![true, false])).unwrap().num_rows(), 1);
        assert_eq!(Batch::concat(&b.schema(), &[b.clone(), b.clone()]).unwrap().num_rows(), 4);
        let c = b.consolidate().unwrap();
        assert_eq!((c.num_rows(), c.diff(0)), (1, 3));
    }

    #[test]
    fn negates_and_filters_diffs() {
        let b = batch(&[(1, Some("x"), 1), (2, None, -2), (3, None, 1)]);
        assert_eq!(b.negate().diffs().unwrap().values().as_ref(), &[-1, 2, -1]);
        let f = b.filter(&BooleanArray::from(vec![Some(true), Some(true), None])).unwrap();
        assert_eq!(f.diffs().unwrap().values().as_ref(), &[1, -2]);
        assert!(!f.is_append_only());
        assert!(f.slice(0, 1).is_append_only());
    }
}
