//! `DELETE FROM t [USING ...] [WHERE ...] [RETURNING ...]`

use arrow::array::{RecordBatch, RecordBatchOptions};
use storage::Batch;

use crate::error::Result;
use crate::outcome::{Outcome, Parameters};
use crate::session::Session;
use crate::statements::{select, update, writing};

/// Takes rows away.
pub async fn run(
    session: &mut Session,
    delete: &planner::statement::Delete,
    parameters: &Parameters,
) -> Result<Outcome> {
    session.check_may_write("DELETE")?;
    let catalog = session.shared.catalogs.current();
    let mut types = parameters.known();
    let bound = planner::bind_delete(&catalog, &session.bind_settings(), delete, &mut types)?;
    writing::check_is_table(&bound.table, "delete from")?;
    session.lock(&[bound.table.id]).await?;
    let mut old = select::collect(session, bound.source, &parameters.values, true).await?;
    if bound.joins {
        old = update::each_row_once(&bound.table, old)?;
    }
    let n: usize = old.iter().map(|b| b.num_rows()).sum();
    let schema = storage::types::arrow_schema(&bound.table.columns);
    let mut changes = Vec::with_capacity(old.len());
    for batch in &old {
        // The query's columns have names of its own.
        let columns = batch.columns()[..schema.fields().len()].to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
        changes.push(Batch::inserts(batch).negate());
    }
    writing::apply(session, &bound.table, changes).await?;
    let tag = format!("DELETE {n}");
    match bound.returning {
        None => Ok(Outcome::Done(tag)),
        Some(returning) => select::returning(session, returning, old, &parameters.values, tag).await.map(Outcome::Rows),
    }
}
