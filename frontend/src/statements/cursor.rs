//! `DECLARE c CURSOR FOR query`, `FETCH`, `MOVE`, `CLOSE`: forward only, rows as they are asked for.

use arrow::array::RecordBatch;
use futures::StreamExt;
use planner::statement::{Declare, Fetch};

use crate::error::{Error, Result};
use crate::outcome::{Outcome, Rows, RowsTag};
use crate::session::Session;
use crate::session::cursor::Cursor;
use crate::statements::select;

/// `DECLARE`: the query is bound and begun.
pub async fn declare(session: &mut Session, declare: &Declare, text: &str) -> Result<Outcome> {
    let name = &declare.name;
    if !session.is_in_block() && !declare.hold {
        return Err(Error::new("25P01", "DECLARE CURSOR can only be used in transaction blocks"));
    }
    if session.cursors.contains_key(name) {
        return Err(Error::new("42P03", format!("cursor \"{name}\" already exists")));
    }
    let rows = select::run(session, &declare.query, &Default::default()).await?;
    let cursor = Cursor::new(rows, declare.hold, text);
    session.cursors.insert(name.clone(), cursor);
    Ok(Outcome::Done("DECLARE CURSOR".into()))
}

fn find<'a>(session: &'a mut Session, name: &str) -> Result<&'a mut Cursor> {
    let missing = || Error::new("34000", format!("cursor \"{name}\" does not exist"));
    session.cursors.get_mut(name).ok_or_else(missing)
}

/// `FETCH`, `MOVE`
pub async fn fetch(session: &mut Session, fetch: &Fetch) -> Result<Outcome> {
    let cursor = find(session, &fetch.cursor)?;
    let batches = cursor.fetch(fetch.count).await?;
    if fetch.is_move {
        let n: usize = batches.iter().map(RecordBatch::num_rows).sum();
        return Ok(Outcome::Done(format!("MOVE {n}")));
    }
    let rows = Rows {
        fields: cursor.rows.fields.clone(),
        batches: futures::stream::iter(batches.into_iter().map(Ok)).boxed(),
        tag: RowsTag::Fetch,
        flush: false,
        style: cursor.rows.style.clone(),
        sent: 0,
    };
    Ok(Outcome::Rows(rows))
}

/// `CLOSE name`, `CLOSE ALL`
pub fn close(session: &mut Session, name: Option<&str>) -> Result<Outcome> {
    match name {
        Some(name) => {
            find(session, name)?;
            session.cursors.remove(name);
            Ok(Outcome::Done("CLOSE CURSOR".into()))
        }
        None => {
            session.cursors.clear();
            Ok(Outcome::Done("CLOSE CURSOR ALL".into()))
        }
    }
}
