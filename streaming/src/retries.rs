//! Records of a source that are put through again: they are a split of their own, kept in the store.
//!
//! ```text
//!  $errors ─ RETRY ERRORS: decoded once more ─▶ a checkpoint: engine/retried/<source>/<n> ─▶ split "$retried", offset n
//!                                                                              ─▶ rows in an epoch, which takes the error out
//! ```
//!
//! A split is read by all that read the source, from its offset in the checkpoint, and by views that are created later from
//! its beginning. So a record that was put through again is a row once, however the server ends meanwhile. What is in here is
//! left out where it was read first: it may be decoded there now, if the source's format was mended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::Int64Type;
use parking_lot::RwLock;
use storage::{Batch, Column, RelationId, Store};

use crate::error::Result;
use crate::source::{FailedRecord, Offset, Read, Records, Source, Split, SplitReader};

/// The split of what was put through again.
pub const RETRIED: &str = "$retried";

/// The bits of a row id that are the offset.
const OFFSET_MASK: i64 = (1 << 48) - 1;

/// What the keys of a source's records begin with.
pub fn retried_prefix(relation: RelationId) -> Vec<u8> {
    format!("engine/retried/{}/", relation.0).into_bytes()
}

/// The key of the `n`th record that was put through again.
pub fn retried_key(relation: RelationId, n: usize) -> Vec<u8> {
    format!("engine/retried/{}/{n:012}", relation.0).into_bytes()
}

/// The key of the records that had failed when the format was mended.
pub fn set_aside_key(relation: RelationId) -> Vec<u8> {
    format!("engine/set_aside/{}", relation.0).into_bytes()
}

/// What is known of a source's records besides the source.
#[derive(Default)]
struct Log {
    records: Vec<Arc<FailedRecord>>,
    /// By split: these are rows only if they are in `records`.
    left_out: BTreeMap<String, BTreeSet<i64>>,
}

/// A source with the records of it that were put through again.
pub struct Retrying {
    inner: RwLock<Arc<dyn Source>>,
    columns: Vec<Column>,
    log: Arc<RwLock<Log>>,
}

impl Retrying {
    /// A source with what `store` knows of it.
    ///
    /// # Errors
    /// `Corrupt` if that cannot be read.
    pub fn open(source: Arc<dyn Source>, store: &Store, relation: RelationId) -> Result<Retrying> {
        let corrupt = |error: serde_json::Error| storage::Error::Corrupt(format!("a record tried again: {error}"));
        let retrying = Retrying { columns: source.columns().to_vec(), inner: RwLock::new(source), log: Arc::default() };
        let mut records = Vec::new();
        for (_, bytes) in store.meta_scan(&retried_prefix(relation))? {
            records.push(serde_json::from_slice(&bytes).map_err(corrupt)?);
        }
        retrying.add(records);
        if let Some(bytes) = store.meta_get(&set_aside_key(relation))? {
            let left_out: Vec<(String, i64)> = serde_json::from_slice(&bytes).map_err(corrupt)?;
            retrying.leave_out(left_out);
        }
        Ok(retrying)
    }

    /// The source without them.
    pub fn inner(&self) -> Arc<dyn Source> {
        self.inner.read().clone()
    }

    /// Goes on with the same source in another format.
    pub fn replace(&self, source: Arc<dyn Source>) {
        *self.inner.write() = source;
    }

    /// How many records were put through again.
    pub fn len(&self) -> usize {
        self.log.read().records.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The place of a record among those that were put through again.
    pub fn place(&self, split: &str, offset: i64) -> Option<usize> {
        self.log.read().records.iter().position(|record| record.split == split && record.offset == offset)
    }

    /// More records, which are durable.
    pub fn add(&self, records: Vec<FailedRecord>) {
        let mut log = self.log.write();
        for record in records {
            log.left_out.entry(record.split.clone()).or_default().insert(record.offset);
            log.records.push(Arc::new(record));
        }
    }

    /// These records are no rows unless they are put through again.
    pub fn leave_out(&self, records: Vec<(String, i64)>) {
        let mut log = self.log.write();
        for (split, offset) in records {
            log.left_out.entry(split).or_default().insert(offset);
        }
    }

    /// All records that are no rows of the split that they were read from.
    pub fn left_out(&self) -> Vec<(String, i64)> {
        let log = self.log.read();
        log.left_out.iter().flat_map(|(split, at)| at.iter().map(|at| (split.clone(), *at))).collect()
    }
}

impl Source for Retrying {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn splits(&self) -> Result<Vec<Split>> {
        let mut splits = self.inner().splits()?;
        if !self.is_empty() {
            splits.push(Split { id: RETRIED.into(), start: Offset(0) });
        }
        Ok(splits)
    }

    fn discovery_interval(&self) -> Option<Duration> {
        self.inner().discovery_interval()
    }

    fn open(&self, split: &str, split_number: u16, from: Offset, projection: &[usize]) -> Result<Box<dyn SplitReader>> {
        let (inner, log) = (self.inner(), self.log.clone());
        if split == RETRIED {
            let row_ids = i64::from(split_number) << 48;
            return Ok(Box::new(Again { inner, log, next: from.0, row_ids, projection: projection.to_vec() }));
        }
        if !self.log.read().left_out.contains_key(split) {
            return inner.open(split, split_number, from, projection);
        }
        // Which record a row is of, its row id tells: the last column.
        let row_id = self.columns.len();
        let asked = projection.last() == Some(&row_id);
        let mut all = projection.to_vec();
        if !asked {
            all.push(row_id);
        }
        let reader = inner.open(split, split_number, from, &all)?;
        Ok(Box::new(Without { reader, log, split: split.to_owned(), from: from.0, asked }))
    }

    fn end(&self, split: &str) -> Result<Option<Offset>> {
        if split == RETRIED { Ok(Some(Offset(self.len() as i64))) } else { self.inner().end(split) }
    }

    fn committed(&self, offsets: &[(String, Offset)]) {
        let outside: Vec<_> = offsets.iter().filter(|(split, _)| split != RETRIED).cloned().collect();
        self.inner().committed(&outside);
    }
}

/// Reads what was put through again.
struct Again {
    inner: Arc<dyn Source>,
    log: Arc<RwLock<Log>>,
    next: i64,
    row_ids: i64,
    projection: Vec<usize>,
}

impl SplitReader for Again {
    fn read(&mut self, rows_max: usize, _timeout: Duration) -> Result<Read> {
        let from = self.next as usize;
        let taken: Vec<Arc<FailedRecord>> = self.log.read().records.iter().skip(from).take(rows_max).cloned().collect();
        // Whoever adds some opens a new reader.
        if taken.is_empty() {
            return Ok(Read::End { next: Offset(self.next) });
        }
        let mut batches: Vec<Batch> = Vec::new();
        let (mut errors, mut again) = (Vec::new(), Vec::new());
        for record in &taken {
            let decoded = self.inner.decode(record, self.row_ids | self.next, &self.projection)?;
            errors.extend(decoded.errors);
            again.push((record.split.clone(), record.offset));
            batches.push(decoded.batch);
            self.next += 1;
        }
        let bytes = taken.iter().filter_map(|record| record.value.as_ref()).map(Vec::len).sum();
        // Without columns there is nothing to put together but the number of rows.
        let rows = batches.iter().map(Batch::num_rows).sum();
        let batch = match batches[0].data().num_columns() {
            0 => {
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                Batch::inserts(RecordBatch::try_new_with_options(batches[0].schema(), Vec::new(), &options)?)
            }
            _ => Batch::concat(&batches[0].schema(), &batches)?,
        };
        Ok(Read::Records(Records { batch, errors, next: Offset(self.next), records: taken.len(), bytes, again }))
    }
}

/// Reads a split without the records that are rows only if they are put through again.
struct Without {
    reader: Box<dyn SplitReader>,
    log: Arc<RwLock<Log>>,
    split: String,
    from: i64,
    /// Whether the row ids were asked for.
    asked: bool,
}

impl SplitReader for Without {
    fn read(&mut self, rows_max: usize, timeout: Duration) -> Result<Read> {
        let mut records = match self.reader.read(rows_max, timeout)? {
            Read::Records(records) => records,
            other => return Ok(other),
        };
        let left_out: BTreeSet<i64> = {
            let log = self.log.read();
            let of_split = log.left_out.get(&self.split);
            of_split.map(|all| all.range(self.from..records.next.0).copied().collect()).unwrap_or_default()
        };
        self.from = records.next.0;
        if !left_out.is_empty() {
            let data = records.batch.data();
            let ids = data.column(data.num_columns() - 1).as_primitive::<Int64Type>();
            let keep: BooleanArray =
                ids.values().iter().map(|id| Some(!left_out.contains(&(id & OFFSET_MASK)))).collect();
            records.batch = records.batch.filter(&keep)?;
            records.errors.retain(|error| error.offset.is_none_or(|offset| !left_out.contains(&offset)));
        }
        if !self.asked {
            let columns: Vec<usize> = (0..records.batch.data().num_columns() - 1).collect();
            records.batch = records.batch.project(&columns);
        }
        Ok(Read::Records(records))
    }
}
