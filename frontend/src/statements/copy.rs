//! `COPY t [(columns)] TO STDOUT | FROM STDIN [WITH (FORMAT text | csv, HEADER, DELIMITER, NULL, QUOTE, ESCAPE)]` and
//! `COPY (query) TO STDOUT`.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use planner::catalog::{Object, ObjectKind};
use planner::statement::{Copy, CopySource};

use crate::catalog::quote_ident;
use crate::copy_format::{Line, LineReader, Options};
use crate::error::{Error, Result};
use crate::outcome::{CopyIn, CopyOut, Outcome, RowsTag};
use crate::pg_catalog::objects::visible;
use crate::session::Session;
use crate::statements::select;
use crate::statements::writing::{append, check_is_table};

/// Begins a COPY.
pub async fn run(session: &mut Session, copy: &Copy) -> Result<Outcome> {
    let options = Options::new(&copy.options)?;
    match &copy.source {
        CopySource::Query(query) if copy.to => {
            let rows = select::run(session, query, &Default::default()).await?;
            Ok(Outcome::CopyOut(CopyOut { rows, options }))
        }
        CopySource::Query(_) => Err(Error::new("42601", "cannot copy from a query")),
        CopySource::Table(name, columns) => {
            let catalog = session.shared.catalogs.current();
            let object = catalog.expect(name, &session.bind_settings())?.clone();
            let listed = columns;
            let (generated, columns): (Vec<usize>, Vec<usize>) =
                positions(&object, listed)?.into_iter().partition(|column| object.generated.contains(column));
            if let (Some(&column), false) = (generated.first(), listed.is_empty()) {
                let message = format!("column \"{}\" is a generated column", object.columns[column].name);
                return Err(Error::new("42P10", message).detail("Generated columns cannot be used in COPY."));
            }
            if copy.to {
                if object.kind == ObjectKind::View {
                    let message = format!("cannot copy from view \"{}\"", object.name);
                    return Err(Error::new("42809", message).hint("Try the COPY (SELECT ...) TO variant."));
                }
                let names: Vec<String> = columns.iter().map(|&i| quote_ident(&object.columns[i].name)).collect();
                let names = names.join(", ");
                let query =
                    format!("SELECT {names} FROM {}.{}", quote_ident(&object.schema), quote_ident(&object.name));
                let ready = select::ready(session, select::bind_text(session, &query)?).await?;
                let rows = select::rows(session, &ready, &[], RowsTag::Select).await?;
                return Ok(Outcome::CopyOut(CopyOut { rows, options }));
            }
            check_is_table(&object, "copy to")?;
            session.check_may_write("COPY FROM")?;
            let names = columns.iter().map(|&i| object.columns[i].name.clone()).collect();
            let lines = LineReader::new(options, object.name.clone(), names);
            Ok(Outcome::CopyIn(CopyIn { table: object, columns, lines, rows: 0 }))
        }
    }
}

/// The positions of named columns; without names all visible ones.
fn positions(object: &Object, names: &[String]) -> Result<Vec<usize>> {
    if names.is_empty() {
        return Ok((0..object.visible().len()).collect());
    }
    let mut found = Vec::new();
    for name in names {
        let at = object.column(name).ok_or_else(|| {
            let message = format!("column \"{name}\" of relation \"{}\" does not exist", object.name);
            Error::new("42703", message)
        })?;
        if found.contains(&at) {
            return Err(Error::new("42701", format!("column \"{name}\" specified more than once")));
        }
        found.push(at);
    }
    Ok(found)
}

/// Takes more of the data.
pub async fn push(session: &mut Session, input: &mut CopyIn, data: &[u8]) -> Result<()> {
    let rows = input.lines.push(data)?;
    write(session, input, rows).await
}

/// Takes the last line and tells how many rows came.
pub async fn finish(session: &mut Session, input: &mut CopyIn) -> Result<String> {
    let rows = input.lines.finish()?;
    write(session, input, rows).await?;
    Ok(format!("COPY {}", input.rows))
}

async fn write(session: &mut Session, input: &mut CopyIn, rows: Vec<Line>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let first = input.lines.line() - rows.len() + 1;
    insert_texts(input, session, &rows, first).await?;
    input.rows += rows.len() as u64;
    Ok(())
}

/// Inserts rows that are written as text; `line` is that of the first.
async fn insert_texts(input: &CopyIn, session: &mut Session, rows: &[Line], line: usize) -> Result<()> {
    let style = session.text_session();
    let n = rows.len();
    session.stamp(&input.table)?;
    let defaults = defaults(input, session, n).await?;
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (at, column) in visible(&input.table).iter().enumerate() {
        let Some(i) = input.columns.iter().position(|&c| c == at) else {
            arrays.push(match defaults.get(&at) {
                Some(values) => values.clone(),
                None => arrow::array::new_null_array(&column.ty.arrow(), n),
            });
            continue;
        };
        let mut values = Vec::with_capacity(n);
        for (r, row) in rows.iter().enumerate() {
            values.push(match &row[i] {
                None => planner::types::text::null(&column.ty),
                Some(text) => planner::types::text::read_in(text, &column.ty, column.typmod, &style).map_err(|e| {
                    let place =
                        format!("COPY {}, line {}, column {}: \"{text}\"", input.table.name, line + r, column.name);
                    Error::from(e).context(place)
                })?,
            });
        }
        arrays.push(planner::ScalarValue::iter_to_array(values).map_err(planner::Error::from)?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(n));
    let schema = storage::types::arrow_schema(visible(&input.table));
    let batch = RecordBatch::try_new_with_options(schema, arrays, &options)?;
    append(session, &input.table, vec![batch]).await.map(drop).map_err(|e| match e.fields().row {
        Some(row) => e.context(format!("COPY {}, line {}", input.table.name, line + row)),
        None => e,
    })
}

/// `n` values of each column that is left out and has a default.
async fn defaults(input: &CopyIn, session: &mut Session, n: usize) -> Result<BTreeMap<usize, ArrayRef>> {
    let left_out = |i: &usize| !input.columns.contains(i);
    let wanted: Vec<(usize, &String)> = (0..visible(&input.table).len())
        .filter(left_out)
        .filter_map(|i| Some((i, input.table.defaults.get(i)?.as_ref()?)))
        .collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    // One row per row to come: nextval and the like must differ.
    let expressions: Vec<String> = (wanted.iter())
        .map(|&(i, default)| {
            let column = &input.table.columns[i];
            format!("CAST({default} AS {})", planner::types::format(&column.ty, column.typmod))
        })
        .collect();
    let query = format!("SELECT {} FROM generate_series(1, {n})", expressions.join(", "));
    let batches = select::collect_text(session, &query).await?;
    let schema = batches.first().map(|b| b.schema()).ok_or_else(|| Error::new("XX000", "no default values"))?;
    let batch = arrow::compute::concat_batches(&schema, &batches)?;
    Ok(wanted.iter().enumerate().map(|(at, &(i, _))| (i, batch.column(at).clone())).collect())
}
