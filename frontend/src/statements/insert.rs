//! `INSERT INTO t [(columns)] VALUES ... | SELECT ... [RETURNING ...]`

use arrow::array::RecordBatch;

use crate::error::Result;
use crate::outcome::{Outcome, Parameters};
use crate::session::Session;
use crate::statements::writing::{append, check_is_table};
use crate::statements::{on_conflict, select};

/// `INSERT`
pub async fn run(
    session: &mut Session,
    insert: &planner::statement::Insert,
    parameters: &Parameters,
) -> Result<Outcome> {
    session.check_may_write("INSERT")?;
    let catalog = session.shared.catalogs.current();
    let mut types = parameters.known();
    let mut bound = planner::bind_insert(&catalog, &session.bind_settings(), insert, &mut types)?;
    check_is_table(&bound.table, "insert into")?;
    if session.stamp(&bound.table)? {
        bound = planner::bind_insert(&catalog, &session.bind_settings(), insert, &mut parameters.known())?;
    }
    let batches = select::collect(session, bound.source, &parameters.values, false).await?;
    let written: Vec<RecordBatch> = match bound.on_conflict {
        Some(action) if !bound.table.primary_key.is_empty() => {
            on_conflict::insert(session, &bound.table, batches, action, &parameters.values).await?
        }
        _ => append(session, &bound.table, batches).await?.1.iter().map(|b| b.data().clone()).collect(),
    };
    let n: usize = written.iter().map(|b| b.num_rows()).sum();
    let tag = format!("INSERT 0 {n}");
    match bound.returning {
        None => Ok(Outcome::Done(tag)),
        Some(returning) => {
            select::returning(session, returning, written, &parameters.values, tag).await.map(Outcome::Rows)
        }
    }
}
