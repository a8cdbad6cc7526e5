//! `UPDATE t SET ... [FROM ...] [WHERE ...] [RETURNING ...]`: the old rows go and the new ones come, in one epoch.

use std::collections::HashSet;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use planner::catalog::Object;
use storage::Batch;

use crate::error::Result;
use crate::outcome::{Outcome, Parameters};
use crate::session::Session;
use crate::statements::{select, writing};

/// Changes rows.
pub async fn run(
    session: &mut Session,
    update: &planner::statement::Update,
    parameters: &Parameters,
) -> Result<Outcome> {
    session.check_may_write("UPDATE")?;
    let catalog = session.shared.catalogs.current();
    let mut types = parameters.known();
    let mut bound = planner::bind_update(&catalog, &session.bind_settings(), update, &mut types)?;
    writing::check_is_table(&bound.table, "update")?;
    if session.stamp(&bound.table)? {
        bound = planner::bind_update(&catalog, &session.bind_settings(), update, &mut parameters.known())?;
    }
    session.lock(&[bound.table.id]).await?;
    let mut rows = select::collect(session, bound.source, &parameters.values, true).await?;
    let table = &bound.table;
    if bound.joins {
        rows = each_row_once(table, rows)?;
    }
    let schema = storage::types::arrow_schema(&table.columns);
    let width = table.columns.len();
    let (mut changes, mut written, mut n) = (Vec::new(), Vec::new(), 0);
    for batch in rows.iter().filter(|b| b.num_rows() > 0) {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let part = |columns: &[arrow::array::ArrayRef]| {
            RecordBatch::try_new_with_options(schema.clone(), columns.to_vec(), &options)
        };
        let (old, new) = (part(&batch.columns()[..width])?, part(&batch.columns()[width..2 * width])?);
        writing::check_not_null(table, &new)?;
        changes.push(Batch::inserts(old).negate());
        changes.push(Batch::inserts(new));
        written.push(batch.project(&(width..batch.num_columns()).collect::<Vec<_>>())?);
        n += batch.num_rows();
    }
    writing::apply(session, table, changes).await?;
    let tag = format!("UPDATE {n}");
    match bound.returning {
        None => Ok(Outcome::Done(tag)),
        Some(returning) => {
            select::returning(session, returning, written, &parameters.values, tag).await.map(Outcome::Rows)
        }
    }
}

/// Rows that begin with all columns of a table, each row of the table at most once: a join may meet it several times.
pub fn each_row_once(table: &Object, rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let key: Vec<usize> = match table.primary_key.as_slice() {
        // The hidden id of the row.
        [] => vec![table.columns.len() - 1],
        key => key.to_vec(),
    };
    let mut seen = HashSet::new();
    let mut once = Vec::with_capacity(rows.len());
    for batch in rows {
        let values: Vec<ArrayRef> = key.iter().map(|&i| batch.column(i).clone()).collect();
        let encoded = storage::row::encode_rows(&values, batch.num_rows())?;
        let first: BooleanArray =
            (0..batch.num_rows()).map(|row| Some(seen.insert(encoded.get(row).to_vec()))).collect();
        once.push(arrow::compute::filter_record_batch(&batch, &first)?);
    }
    Ok(once)
}
