//! What every statement that writes to a table obeys: who may be written to, NOT NULL, the primary key.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use planner::catalog::{Object, ObjectKind};
use storage::{Batch, RelationSnapshot};

use crate::error::{Error, Result};
use crate::pg_catalog::objects::{key_name, visible};
use crate::session::Session;
use crate::statements::create_table::ROW_ID;
use crate::statements::ttl::INSERTED_AT;

/// Only tables can be written to.
pub fn check_is_table(object: &Object, verb: &str) -> Result<()> {
    match object.kind {
        // Views over it keep less because its rows never go.
        ObjectKind::Table if object.append_only && !matches!(verb, "insert into" | "copy to") => {
            let message = format!("cannot {verb} append-only table \"{}\"", object.name);
            Err(Error::new("55000", message).hint("A table that is created without APPEND ONLY can be changed."))
        }
        ObjectKind::Table => Ok(()),
        ObjectKind::System => Err(Error::new("42501", format!("permission denied for table {}", object.name))),
        kind => {
            let message = format!("cannot {verb} {} \"{}\"", crate::catalog::kind_name(kind), object.name);
            Err(Error::new(if kind == ObjectKind::View { "55000" } else { "42809" }, message))
        }
    }
}

/// Inserts rows with all visible columns, checked; the table's lock is taken. Returns their number, and them with all
/// columns.
pub async fn append(
    session: &mut Session,
    table: &Arc<Object>,
    batches: Vec<RecordBatch>,
) -> Result<(u64, Vec<Batch>)> {
    let mut changes = Vec::with_capacity(batches.len());
    let mut n = 0;
    for batch in batches.iter().filter(|b| b.num_rows() > 0) {
        // A chance for whoever wants it to stop.
        tokio::task::yield_now().await;
        check_not_null(table, batch)?;
        changes.push(Batch::inserts(completed(session, table, batch)?));
        n += batch.num_rows() as u64;
    }
    apply(session, table, changes.clone()).await?;
    Ok((n, changes))
}

/// Rows with all visible columns, with the hidden ones too.
pub fn completed(session: &Session, table: &Object, rows: &RecordBatch) -> Result<RecordBatch> {
    let mut arrays = rows.columns().to_vec();
    let hidden = &table.columns[visible(table).len()..];
    if hidden.iter().any(|column| column.name == INSERTED_AT) {
        let now = TimestampMicrosecondArray::from_value(session.processing_time(), rows.num_rows());
        arrays.push(Arc::new(now.with_timezone("UTC")));
    }
    if hidden.iter().any(|column| column.name == ROW_ID) {
        let first = session.shared.engine()?.allocate_row_ids(rows.num_rows() as u64);
        arrays.push(Arc::new(Int64Array::from_iter_values((0..rows.num_rows() as i64).map(|i| first + i))));
    }
    Ok(RecordBatch::try_new(storage::types::arrow_schema(&table.columns), arrays)?)
}

/// Adds changes with all columns to the transaction, if the table's key allows them.
pub async fn apply(session: &mut Session, table: &Arc<Object>, changes: Vec<Batch>) -> Result<()> {
    session.lock(&[table.id]).await?;
    if !table.primary_key.is_empty() && changes.iter().any(|c| c.num_rows() > 0) {
        let mut snapshots = session.snapshots(&[table.id], true).await?;
        let snapshot =
            snapshots.remove(&table.id).ok_or_else(|| Error::new("XX000", "a table without rows to read"))?;
        check_key(session, table, &snapshot, &changes)?;
    }
    for batch in changes {
        session.write(table.id, batch)?;
    }
    Ok(())
}

/// NOT NULL, which a primary key implies.
pub fn check_not_null(table: &Object, batch: &RecordBatch) -> Result<()> {
    for (i, column) in visible(table).iter().enumerate() {
        if !(column.not_null || table.primary_key.contains(&i)) || batch.column(i).null_count() == 0 {
            continue;
        }
        let row = (0..batch.num_rows()).find(|&r| batch.column(i).is_null(r)).unwrap_or(0);
        let (name, relation) = (&column.name, &table.name);
        let message =
            format!("null value in column \"{name}\" of relation \"{relation}\" violates not-null constraint");
        let values: Vec<String> = (0..visible(table).len()).map(|c| shown(table, batch, c, row)).collect();
        return Err(Error::new("23502", message)
            .detail(format!("Failing row contains ({}).", values.join(", ")))
            .row(row)
            .constraint(&table.schema, relation, Some(name), None));
    }
    Ok(())
}

fn shown(table: &Object, batch: &RecordBatch, column: usize, row: usize) -> String {
    let array = batch.column(column).as_ref();
    let mut text = String::new();
    if array.is_null(row) {
        return "null".into();
    }
    planner::types::text::write(array, row, &table.columns[column].ty, &mut text);
    text
}

/// A key may be there once: counted over what is stored, what the transaction changed before, and the changes.
fn check_key(session: &mut Session, table: &Object, snapshot: &RelationSnapshot, changes: &[Batch]) -> Result<()> {
    let mut touched: HashMap<Vec<u8>, (usize, usize)> = HashMap::new();
    for (b, batch) in changes.iter().enumerate() {
        let key: Vec<ArrayRef> = table.primary_key.iter().map(|&i| batch.column(i).clone()).collect();
        let encoded = storage::row::encode_rows(&key, batch.num_rows())?;
        for row in 0..batch.num_rows() {
            let diff = batch.diff(row);
            let bytes = encoded.get(row);
            session.count_key(table.id, bytes, diff);
            if diff > 0 {
                touched.insert(bytes.to_vec(), (b, row));
            }
        }
    }
    // Of several the first is told.
    let mut touched: Vec<_> = touched.into_iter().collect();
    touched.sort_unstable_by_key(|(_, place)| *place);
    for (bytes, (b, row)) in touched {
        let own = session.key_count(table.id, &bytes);
        if own <= 0 {
            continue;
        }
        let batch = &changes[b];
        let key: Vec<ArrayRef> = table.primary_key.iter().map(|&i| batch.column(i).slice(row, 1)).collect();
        if own > 1 || snapshot.get(&key)?.is_some_and(|rows| rows.num_rows() > 0) {
            let names: Vec<&str> = table.primary_key.iter().map(|&i| table.columns[i].name.as_str()).collect();
            let values: Vec<String> = table.primary_key.iter().map(|&i| shown(table, batch.data(), i, row)).collect();
            let constraint = key_name(table);
            let message = format!("duplicate key value violates unique constraint \"{constraint}\"");
            let detail = format!("Key ({})=({}) already exists.", names.join(", "), values.join(", "));
            return Err(Error::new("23505", message).detail(detail).row(row).constraint(
                &table.schema,
                &table.name,
                None,
                Some(&constraint),
            ));
        }
    }
    Ok(())
}
