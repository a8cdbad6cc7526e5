//! `INSERT ... ON CONFLICT`: each row is inserted, left out, or changes the row that has its key.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Int64Type;
use planner::ScalarValue;
use planner::bind::{CONFLICTS, OnConflict};
use planner::catalog::Object;
use storage::{Batch, RelationSnapshot};

use crate::error::{Error, Result};
use crate::session::Session;
use crate::statements::{select, writing};

/// Inserts rows with all visible columns into a table with a primary key. Returns the rows that were inserted or
/// changed, with all columns, in the order of the rows that were to be inserted.
pub async fn insert(
    session: &mut Session,
    table: &Arc<Object>,
    rows: Vec<RecordBatch>,
    action: OnConflict,
    values: &[ScalarValue],
) -> Result<Vec<RecordBatch>> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let rows = concat_batches(&first.schema(), &rows)?;
    writing::check_not_null(table, &rows)?;
    session.lock(&[table.id]).await?;
    let stored = session.snapshots(&[table.id], true).await?.remove(&table.id);
    let stored = stored.ok_or_else(|| Error::new("XX000", "a table without rows to read"))?;
    let present = Present::new(table, stored, session.pending(table.id).to_vec())?;
    let keys = keys(table, &rows)?;

    // The keys that this statement has inserted or changed.
    let mut touched: HashSet<&[u8]> = HashSet::new();
    let mut inserted: Vec<u32> = Vec::new();
    let mut conflicts: Vec<Conflict> = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let is_new = !touched.contains(key.as_slice());
        let old = if is_new { present.row(session, key, &rows, number)? } else { None };
        match (&action, old) {
            (_, None) if is_new => {
                inserted.push(number as u32);
                touched.insert(key);
            }
            (OnConflict::DoUpdate(_), None) => return Err(second_time()),
            (OnConflict::DoUpdate(_), Some(old)) => conflicts.push(Conflict { number, key, old }),
            (OnConflict::DoNothing, _) => {}
        }
    }

    let new = take_record_batch(&rows, &UInt32Array::from(inserted.clone()))?;
    let new = writing::completed(session, table, &new)?;
    let mut numbers: Vec<i64> = inserted.iter().map(|&n| n.into()).collect();
    let mut written = vec![new.clone()];
    let mut changes = vec![Batch::inserts(new)];
    if let OnConflict::DoUpdate(update) = action {
        if !conflicts.is_empty() {
            writing::check_is_table(table, "update")?;
        }
        // Of several rows with one key, one comes after the other: an earlier one may have changed nothing.
        while !conflicts.is_empty() {
            if conflicts.iter().any(|c| touched.contains(c.key)) {
                return Err(second_time());
            }
            let mut seen = HashSet::new();
            let (now, later): (Vec<_>, Vec<_>) = conflicts.into_iter().partition(|c| seen.insert(c.key));
            conflicts = later;
            let input = input(table, &rows, &now)?;
            let width = table.columns.len();
            for batch in select::collect_over(session, update.clone(), CONFLICTS, vec![input], values).await? {
                let part = |columns: std::ops::Range<usize>| {
                    RecordBatch::try_new(
                        storage::types::arrow_schema(&table.columns),
                        batch.columns()[columns].to_vec(),
                    )
                };
                let (old, new) = (part(0..width)?, part(width..2 * width)?);
                writing::check_not_null(table, &new)?;
                let changed = arrow::array::AsArray::as_primitive::<Int64Type>(batch.column(2 * width).as_ref());
                for &number in changed.values() {
                    touched.insert(&keys[number as usize]);
                    numbers.push(number);
                }
                changes.push(Batch::inserts(old).negate());
                changes.push(Batch::inserts(new.clone()));
                written.push(new);
            }
        }
    }
    writing::apply(session, table, changes).await?;
    let written = concat_batches(&written[0].schema(), &written)?;
    let mut order: Vec<u32> = (0..numbers.len() as u32).collect();
    order.sort_by_key(|&i| numbers[i as usize]);
    Ok(vec![take_record_batch(&written, &UInt32Array::from(order))?])
}

/// A row to insert whose key is there.
struct Conflict<'a> {
    number: usize,
    key: &'a [u8],
    /// The row that is there.
    old: RecordBatch,
}

/// What the query of DO UPDATE reads.
fn input(table: &Object, rows: &RecordBatch, conflicts: &[Conflict<'_>]) -> Result<RecordBatch> {
    let schema = storage::types::arrow_schema(&table.columns);
    let old: Vec<&RecordBatch> = conflicts.iter().map(|c| &c.old).collect();
    let old = concat_batches(&old[0].schema(), old)?;
    let numbers: Vec<u32> = conflicts.iter().map(|c| c.number as u32).collect();
    let proposed = take_record_batch(rows, &UInt32Array::from(numbers))?;
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(conflicts.iter().map(|c| c.number as i64)));
    let fields: Vec<arrow::datatypes::Field> = (schema.fields().iter())
        .chain(proposed.schema().fields())
        .map(|f| f.as_ref().clone())
        .chain([arrow::datatypes::Field::new("number", arrow::datatypes::DataType::Int64, true)])
        .collect();
    let columns = old.columns().iter().chain(proposed.columns()).cloned().chain([numbers]).collect();
    Ok(RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns)?)
}

/// The rows of a table as the transaction sees them, by key.
struct Present {
    table: Arc<Object>,
    stored: RelationSnapshot,
    pending: Vec<Batch>,
    /// Where the transaction last wrote a row with a key.
    last: HashMap<Vec<u8>, (usize, usize)>,
}

impl Present {
    fn new(table: &Arc<Object>, stored: RelationSnapshot, pending: Vec<Batch>) -> Result<Present> {
        let mut last = HashMap::new();
        for (b, batch) in pending.iter().enumerate() {
            for (row, key) in keys(table, batch.data())?.into_iter().enumerate() {
                if batch.diff(row) > 0 {
                    last.insert(key, (b, row));
                }
            }
        }
        Ok(Present { table: table.clone(), stored, pending, last })
    }

    /// The row with the key of a row to insert.
    fn row(&self, session: &mut Session, key: &[u8], rows: &RecordBatch, number: usize) -> Result<Option<RecordBatch>> {
        let values: Vec<ArrayRef> = self.table.primary_key.iter().map(|&i| rows.column(i).slice(number, 1)).collect();
        let stored = self.stored.get(&values)?.filter(|rows| rows.num_rows() > 0);
        if session.key_count(self.table.id, key) + i64::from(stored.is_some()) <= 0 {
            return Ok(None);
        }
        Ok(match self.last.get(key) {
            Some(&(batch, row)) => Some(self.pending[batch].data().slice(row, 1)),
            None => stored,
        })
    }
}

/// The keys of rows that have the table's columns.
fn keys(table: &Object, rows: &RecordBatch) -> Result<Vec<Vec<u8>>> {
    let key: Vec<ArrayRef> = table.primary_key.iter().map(|&i| rows.column(i).clone()).collect();
    let encoded = storage::row::encode_rows(&key, rows.num_rows())?;
    Ok((0..rows.num_rows()).map(|row| encoded.get(row).to_vec()).collect())
}

fn second_time() -> Error {
    Error::new("21000", "ON CONFLICT DO UPDATE command cannot affect row a second time")
        .hint("Ensure that no rows proposed for insertion within the same command have duplicate constrained values.")
}
