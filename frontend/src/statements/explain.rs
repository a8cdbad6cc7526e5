//! `EXPLAIN [(options)] statement`: the operators of a view with what each keeps, or the plan of a read.

use planner::Statement;
use planner::explain;
use storage::SqlType;

use crate::error::{Error, Result};
use crate::fields::Field;
use crate::outcome::{Outcome, Parameters, Rows, RowsTag};
use crate::session::Session;
use crate::statements::{create_materialized_view, create_sink, select, show};

/// The column of a plan.
pub fn fields() -> Vec<Field> {
    vec![Field::new("QUERY PLAN", SqlType::Text)]
}

/// Explains a statement.
pub async fn run(
    session: &mut Session,
    statement: &planner::statement::Explain,
    parameters: &Parameters,
) -> Result<Outcome> {
    if statement.analyze {
        return Err(Error::unsupported("EXPLAIN ANALYZE is not supported yet")
            .hint("headwater_catalog.operators shows what the operators of running views keep."));
    }
    let format = statement.options.iter().find(|(name, _)| name == "format").map(|(_, value)| value.to_lowercase());
    let json = match format.as_deref() {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => {
            let message = format!("unrecognized value for EXPLAIN option \"format\": \"{other}\"");
            return Err(Error::new("22023", message));
        }
    };
    let text = match statement.statement.as_ref() {
        Statement::CreateMaterializedView(create) => {
            let plan = create_materialized_view::plan(session, create).await?.0.job.plan;
            if json { explain::explain_stream_json(&plan) } else { explain::explain_stream(&plan) }
        }
        Statement::CreateSink(create) => {
            let plan = create_sink::plan(session, create)?.job.plan;
            if json { explain::explain_stream_json(&plan) } else { explain::explain_stream(&plan) }
        }
        Statement::Query(query) => read(session, select::bind(session, query, parameters)?, json).await?,
        Statement::Insert(insert) => {
            let catalog = session.shared.catalogs.current();
            let mut types = parameters.known();
            let bound = planner::bind_insert(&catalog, &session.bind_settings(), insert, &mut types)?;
            format!("Insert into {}\n{}", bound.table.name, read(session, bound.source, json).await?)
        }
        Statement::Update(update) => {
            let catalog = session.shared.catalogs.current();
            let mut types = parameters.known();
            let bound = planner::bind_update(&catalog, &session.bind_settings(), update, &mut types)?;
            format!("Update {}\n{}", bound.table.name, read(session, bound.source, json).await?)
        }
        Statement::Delete(delete) => {
            let catalog = session.shared.catalogs.current();
            let mut types = parameters.known();
            let bound = planner::bind_delete(&catalog, &session.bind_settings(), delete, &mut types)?;
            format!("Delete from {}\n{}", bound.table.name, read(session, bound.source, json).await?)
        }
        _ => return Err(Error::unsupported("EXPLAIN of this statement is not supported")),
    };
    let lines: Vec<Vec<Option<String>>> = if json {
        vec![vec![Some(text)]]
    } else {
        text.trim_end().lines().map(|line| vec![Some(line.to_owned())]).collect()
    };
    let batch = show::text_batch(&["QUERY PLAN"], &lines)?;
    Ok(Outcome::Rows(Rows::ready(fields(), batch, RowsTag::Fixed("EXPLAIN"), select::style(session))))
}

async fn read(session: &mut Session, bound: planner::Bound, json: bool) -> Result<String> {
    let ready = select::ready(session, bound).await?;
    let (query, relations) = select::way(session, &ready);
    let tables = select::tables(session, relations, false).await?;
    Ok(if json {
        explain::explain_read_json(query, &tables, &session.shared.reads).await?
    } else {
        explain::explain_read(query, &tables, &session.shared.reads).await?
    })
}
