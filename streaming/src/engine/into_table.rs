//! A sink into a table of the same server: the rows, and in a table beside it how far they are, in one write.
//!
//! A row replaces the one with its key, whoever wrote that; a key that goes is deleted. So the table can be written by
//! clients and by other sinks too.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::compute::concat_batches;
use storage::{Batch, Column, RelationId, RelationSnapshot, SqlType};

use super::tables::Tables;
use crate::error::{Error, Result};
use crate::expr::row_text;
use crate::sink::{Changes, Delivered, Delivery, OnError, Position, REFUSED_MAX, Refused, Sink, SinkSpec};

/// What `connector = ...` is for these sinks.
pub const CONNECTOR: &str = "table";

/// A sink into a table.
#[derive(Clone)]
pub struct IntoTable {
    tables: Arc<Tables>,
    table: RelationId,
    progress: RelationId,
    key: Vec<usize>,
    on_error: OnError,
}

impl IntoTable {
    /// The sink that `spec` describes.
    pub fn new(spec: &SinkSpec, tables: Arc<Tables>) -> Result<IntoTable> {
        let relation = |name: &str| {
            let value =
                spec.options.iter().find(|(option, _)| option == name).and_then(|(_, value)| value.parse().ok());
            value.map(RelationId).ok_or_else(|| Error::Failed(format!("the sink has no option \"{name}\"")))
        };
        let (table, progress) = (relation("table")?, relation("progress")?);
        Ok(IntoTable { tables, table, progress, key: spec.key.clone(), on_error: spec.on_error })
    }

    fn read_progress(&self) -> Result<Option<RecordBatch>> {
        let view = self.tables.read_latest(&[self.progress])?;
        let key: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let row = view.relations[&self.progress].get(&[key])?;
        Ok(row.filter(|row| row.num_rows() > 0))
    }
}

impl Sink for IntoTable {
    fn prepare(&self) -> Result<()> {
        self.tables.columns(self.table).map(drop)
    }

    fn connect(&self) -> Result<Box<dyn Delivery>> {
        let row = self.read_progress()?;
        let position = row.as_ref().map(|row| row.column(1).as_string_view().value(0).parse()).transpose()?;
        Ok(Box::new(Connection { sink: self.clone(), position }))
    }
}

struct Connection {
    sink: IntoTable,
    position: Option<Position>,
}

impl Delivery for Connection {
    fn position(&self) -> Option<Position> {
        self.position
    }

    fn deliver(&mut self, changes: &mut Changes<'_>, until: Position) -> Result<Delivered> {
        let IntoTable { tables, table, progress, key, on_error } = &self.sink;
        let columns = tables.columns(*table)?;
        let batches: Vec<Batch> = changes.map(|change| change.map(|(_, batch)| batch)).collect::<Result<_>>()?;
        let lock = tables.lock_of(*table);
        let _guard = lock.blocking_lock();
        let mut refused = Vec::new();
        let rows = if key.is_empty() {
            appended(tables, &columns, &batches, &mut refused)?
        } else {
            let view = tables.read_latest(&[*table])?;
            replaced(&view.relations[table], &columns, key, &batches, &mut refused)?
        };
        match refused.first() {
            Some(first) if *on_error == OnError::Fail => return Err(Error::invalid("23502", first.reason.clone())),
            Some(_) => {
                refused.truncate(REFUSED_MAX);
                return Ok(Delivered::Refused(refused));
            }
            None => {}
        }
        let mut writes = Vec::new();
        if rows.num_rows() > 0 {
            writes.push((*table, rows));
        }
        let before = self.sink.read_progress()?;
        let schema =
            storage::types::arrow_schema(&[Column::new("id", SqlType::BigInt), Column::new("position", SqlType::Text)]);
        let position = StringViewArray::from(vec![until.to_string().as_str()]);
        let id: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let after = RecordBatch::try_new(schema.clone(), vec![id, Arc::new(position)])?;
        let diffs = Int64Array::from_iter_values(before.iter().map(|_| -1).chain([1]));
        let both = concat_batches(&schema, before.iter().chain([&after]))?;
        writes.push((*progress, Batch::new(both, Some(diffs))));
        tables.write_synced(writes)?;
        Ok(Delivered::All)
    }
}

/// What an INSERT would refuse of a batch's row; `with` goes out with it.
fn check(
    columns: &[Column],
    key: &[usize],
    batches: &[Batch],
    at: (usize, usize),
    with: Option<usize>,
) -> Option<Refused> {
    let (batch, row) = at;
    let data = batches[batch].data();
    let is_missing =
        |(i, column): &(usize, &Column)| (column.not_null || key.contains(i)) && data.column(*i).is_null(row);
    let (_, column) = columns.iter().enumerate().take(data.num_columns()).find(is_missing)?;
    let reason = format!("null value in column \"{}\" of the table violates not-null constraint", column.name);
    let rows = with.into_iter().chain([row]).collect();
    Some(Refused { batch, rows, raw: row_text(data, row).into_bytes(), reason, sqlstate: "23502".into() })
}

/// Rows of a table without a key.
fn appended(tables: &Tables, columns: &[Column], batches: &[Batch], refused: &mut Vec<Refused>) -> Result<Batch> {
    let schema = storage::types::arrow_schema(columns);
    let mut all = Vec::new();
    for (b, batch) in batches.iter().enumerate() {
        let comes = (0..batch.num_rows()).filter(|row| batch.diff(*row) > 0);
        refused.extend(comes.filter_map(|row| check(columns, &[], batches, (b, row), None)));
        // A row that is there several times is several rows.
        let copies = (0..batch.num_rows()).flat_map(|r| std::iter::repeat_n(r as u32, batch.diff(r).max(0) as usize));
        let copies: Vec<u32> = copies.collect();
        let rows = batch.take(&copies.into())?;
        let n = rows.num_rows() as i64;
        let first = tables.allocate_row_ids(n as u64);
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + n));
        let arrays = rows.data().columns().iter().cloned().chain([ids]).take(columns.len()).collect();
        all.push(Batch::inserts(RecordBatch::try_new(schema.clone(), arrays)?));
    }
    Ok(Batch::concat(&schema, &all)?)
}

/// Rows of a table with a key: what comes replaces what is there.
fn replaced(
    stored: &RelationSnapshot,
    columns: &[Column],
    key: &[usize],
    batches: &[Batch],
    refused: &mut Vec<Refused>,
) -> Result<Batch> {
    let schema = storage::types::arrow_schema(columns);
    // The last word on each key: the row that comes, or none.
    let mut last: HashMap<Vec<u8>, (usize, usize, bool)> = HashMap::new();
    // The row that it replaces, where that is in the same batch.
    let mut before: HashMap<(usize, usize), usize> = HashMap::new();
    for (b, batch) in batches.iter().enumerate() {
        let arrays: Vec<ArrayRef> = key.iter().map(|k| batch.column(*k).clone()).collect();
        let keys = storage::row::encode_rows(&arrays, batch.num_rows())?;
        for comes in [false, true] {
            for row in (0..batch.num_rows()).filter(|row| (batch.diff(*row) > 0) == comes) {
                if let Some((batch, gone, false)) = last.insert(keys.get(row).to_vec(), (b, row, comes))
                    && batch == b
                {
                    before.insert((b, row), gone);
                }
            }
        }
    }
    let mut all = Vec::with_capacity(last.len() * 2);
    for (b, row, comes) in last.into_values() {
        let rows = batches[b].data();
        let values: Vec<ArrayRef> = key.iter().map(|k| rows.column(*k).slice(row, 1)).collect();
        if let Some(old) = stored.get(&values)?.filter(|old| old.num_rows() > 0) {
            all.push(Batch::inserts(RecordBatch::try_new(schema.clone(), old.columns().to_vec())?).negate());
        }
        if comes {
            refused.extend(check(columns, key, batches, (b, row), before.get(&(b, row)).copied()));
            let new = RecordBatch::try_new(schema.clone(), rows.slice(row, 1).columns().to_vec())?;
            all.push(Batch::inserts(new));
        }
    }
    if all.is_empty() {
        return Ok(Batch::empty(schema));
    }
    Ok(Batch::concat(&schema, &all)?.consolidate()?)
}
