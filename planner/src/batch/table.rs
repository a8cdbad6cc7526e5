//! A relation's rows as DataFusion reads them: only the columns that are asked for, and only the part of the key that
//! the filters leave.

use std::collections::HashMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_record_batch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableSource, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use storage::{Batch, RelationSnapshot, keys, row};

use super::rows::TableRows;
use super::{RelationSource, key_comparison};

/// The vnodes that exist.
const VNODES: usize = 256;

/// A relation as of one read.
pub struct RelationTable {
    source: RelationSource,
    rows: TableRows,
}

impl RelationTable {
    pub fn new(source: &RelationSource, rows: TableRows) -> RelationTable {
        RelationTable { source: source.clone(), rows }
    }

    pub fn rows_estimate(&self) -> u64 {
        match &self.rows {
            TableRows::Snapshot(snapshot) | TableRows::Overlay { snapshot, .. } => snapshot.rows_estimate(),
            TableRows::Rows(batches) => batches.iter().map(|b| b.num_rows() as u64).sum(),
        }
    }
}

impl fmt::Debug for RelationTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

#[async_trait]
impl TableProvider for RelationTable {
    fn schema(&self) -> SchemaRef {
        TableSource::schema(&self.source)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        self.source.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = TableProvider::schema(self);
        let columns: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let schema = Arc::new(schema.project(&columns)?);
        let part = |rows: Part| -> Arc<dyn PartitionStream> {
            Arc::new(Partition {
                name: self.source.name().to_string(),
                schema: schema.clone(),
                columns: columns.clone(),
                rows,
                limit,
            })
        };
        let parts = match &self.rows {
            TableRows::Rows(batches) => vec![part(Part::Rows(batches.clone()))],
            TableRows::Snapshot(snapshot) => {
                if let Some((lower, upper)) = range(&self.source, snapshot, filters)? {
                    vec![part(Part::Range(snapshot.clone(), lower, upper))]
                } else {
                    // Vnodes are about equally full.
                    let n = if limit.is_some() { 1 } else { state.config().target_partitions().clamp(1, VNODES) };
                    let vnodes = (0..n).map(|i| i * VNODES / n..(i + 1) * VNODES / n);
                    vnodes.map(|vnodes| part(Part::Vnodes(snapshot.clone(), vnodes))).collect()
                }
            }
            TableRows::Overlay { snapshot, changes } => {
                let (lower, upper) =
                    range(&self.source, snapshot, filters)?.unwrap_or((Bound::Unbounded, Bound::Unbounded));
                vec![part(Part::Overlay(snapshot.clone(), lower, upper, changes.clone()))]
            }
        };
        Ok(Arc::new(StreamingTableExec::try_new(schema, parts, None, [], false, limit)?))
    }
}

type KeyBound = Bound<Vec<u8>>;

/// The part of the key that the filters leave; `None` for all of it.
fn range(
    source: &RelationSource,
    snapshot: &RelationSnapshot,
    filters: &[Expr],
) -> DfResult<Option<(KeyBound, KeyBound)>> {
    let spec = snapshot.spec();
    let comparisons: Vec<(usize, Operator, ArrayRef)> = filters
        .iter()
        .flat_map(split_conjunction)
        .filter_map(|filter| match key_comparison(source, filter)? {
            (column, op, Expr::Literal(value, _)) if !value.is_null() => {
                let fits = value.data_type() == *spec.schema.field(column).data_type();
                Some((column, op, value.to_array_of_size(1).ok().filter(|_| fits)?))
            }
            _ => None,
        })
        .collect();
    let find = |column: usize, ops: &[Operator]| {
        comparisons.iter().find(|(c, op, _)| *c == column && ops.contains(op)).map(|(_, op, v)| (*op, v.clone()))
    };
    let encode = |values: &[ArrayRef]| -> DfResult<Vec<u8>> {
        let options = &spec.key_options[..spec.key_options.len().min(values.len())];
        Ok(keys::encode_rows(values, options, 1).map_err(external)?.get(0).to_vec())
    };
    // Equalities fix the first columns of the key; the next one may be bounded.
    let mut prefix: Vec<ArrayRef> = vec![];
    for &column in &spec.key {
        let Some((_, value)) = find(column, &[Operator::Eq]) else { break };
        prefix.push(value);
    }
    let next = spec.key.get(prefix.len()).copied();
    let descending = spec.key_options.get(prefix.len()).is_some_and(|o| o.descending);
    let (mut from, mut to) = match next {
        Some(column) => (find(column, &[Operator::Gt, Operator::GtEq]), find(column, &[Operator::Lt, Operator::LtEq])),
        None => (None, None),
    };
    if descending {
        std::mem::swap(&mut from, &mut to);
    }
    if prefix.is_empty() && from.is_none() && to.is_none() {
        return Ok(None);
    }
    let bound = |end: Option<(Operator, ArrayRef)>| -> DfResult<KeyBound> {
        Ok(match end {
            None if prefix.is_empty() => Bound::Unbounded,
            None => Bound::Included(encode(&prefix)?),
            Some((op, value)) => {
                let key = encode(&[prefix.as_slice(), &[value]].concat())?;
                match op {
                    Operator::Lt | Operator::Gt => Bound::Excluded(key),
                    _ => Bound::Included(key),
                }
            }
        })
    };
    Ok(Some((bound(from)?, bound(to)?)))
}

fn external(error: storage::Error) -> DataFusionError {
    crate::Error::from(error).into()
}

/// One part of a scan, read by one thread.
struct Partition {
    name: String,
    schema: SchemaRef,
    columns: Vec<usize>,
    rows: Part,
    limit: Option<usize>,
}

enum Part {
    Rows(Vec<RecordBatch>),
    Vnodes(RelationSnapshot, Range<usize>),
    Range(RelationSnapshot, KeyBound, KeyBound),
    Overlay(RelationSnapshot, KeyBound, KeyBound, Vec<Batch>),
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

type Batches = Box<dyn Iterator<Item = storage::Result<RecordBatch>> + Send>;

impl Partition {
    fn batches(&self) -> storage::Result<Batches> {
        let columns = Some(self.columns.as_slice());
        Ok(match &self.rows {
            Part::Rows(batches) => {
                let columns = self.columns.clone();
                Box::new(batches.clone().into_iter().map(move |b| Ok(b.project(&columns)?)))
            }
            Part::Vnodes(snapshot, vnodes) => snapshot.scan(columns, vnodes.clone()),
            Part::Range(snapshot, lower, upper) => snapshot.scan_range(lower.clone(), upper.clone(), columns),
            Part::Overlay(snapshot, lower, upper, changes) => {
                overlaid(snapshot, lower.clone(), upper.clone(), changes, self.columns.clone())?
            }
        })
    }
}

impl PartitionStream for Partition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.batches().unwrap_or_else(|error| Box::new(std::iter::once(Err(error))));
        let schema = self.schema.clone();
        let mut left = self.limit.unwrap_or(usize::MAX);
        let named = batches
            .map(move |batch| {
                let batch = batch.map_err(external)?;
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let batch = RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)?;
                let batch = if batch.num_rows() > left { batch.slice(0, left) } else { batch };
                left -= batch.num_rows();
                Ok((batch, left == 0))
            })
            .scan(false, |done, item: DfResult<(RecordBatch, bool)>| {
                if *done {
                    return None;
                }
                *done = !matches!(item, Ok((_, false)));
                Some(item.map(|(batch, _)| batch))
            });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(named)))
    }
}

/// A snapshot's rows with a transaction's changes: rows that were taken away are skipped, rows that came follow.
fn overlaid(
    snapshot: &RelationSnapshot,
    lower: KeyBound,
    upper: KeyBound,
    changes: &[Batch],
    columns: Vec<usize>,
) -> storage::Result<Batches> {
    let changes = Batch::concat(&snapshot.schema(), changes)?.consolidate()?;
    let encoded = row::encode_rows(changes.data().columns(), changes.num_rows())?;
    let mut gone: HashMap<Vec<u8>, i64> = HashMap::new();
    let mut came: Vec<u32> = vec![];
    for i in 0..changes.num_rows() {
        match changes.diff(i) {
            diff if diff < 0 => {
                gone.insert(encoded.get(i).to_vec(), -diff);
            }
            diff => came.extend(std::iter::repeat_n(i as u32, diff as usize)),
        }
    }
    let came = take_record_batch(changes.data(), &UInt32Array::from(came))?;
    let kept_columns = columns.clone();
    let kept = snapshot.scan_range(lower, upper, None).map(move |batch| {
        let batch = batch?;
        if gone.is_empty() {
            return Ok(batch.project(&kept_columns)?);
        }
        let encoded = row::encode_rows(batch.columns(), batch.num_rows())?;
        let mut keep: Vec<u32> = Vec::with_capacity(batch.num_rows());
        for i in 0..batch.num_rows() {
            match gone.get_mut(encoded.get(i)) {
                Some(n) if *n > 0 => *n -= 1,
                _ => keep.push(i as u32),
            }
        }
        // Rows are taken while there are columns: of none, none can be.
        let all = keep.len() == batch.num_rows();
        let batch = if all { batch } else { take_record_batch(&batch, &UInt32Array::from(keep))? };
        Ok(batch.project(&kept_columns)?)
    });
    Ok(Box::new(kept.chain(std::iter::once_with(move || Ok(came.project(&columns)?)))))
}
