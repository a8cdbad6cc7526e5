//! `PREPARE`, `EXECUTE`, `DEALLOCATE`, and the prepared statements of the extended protocol.

use std::sync::Arc;

use planner::catalog::Catalog;
use planner::statement::{Execute, Prepare};
use planner::{Parsed, ScalarValue, Statement};
use storage::SqlType;

use crate::error::{Error, Result};
use crate::fields::{self, Field, Format};
use crate::outcome::{Outcome, Parameters};
use crate::session::Session;
use crate::session::prepared::{Prepared, Ready};
use crate::statements::select;

/// Binds a statement as far as that is possible before it runs.
pub async fn prepare(session: &mut Session, parsed: Option<Parsed>, given: Vec<Option<SqlType>>) -> Result<Prepared> {
    let catalog = session.shared.catalogs.current();
    let bound_with = bound_with(session)?;
    let mut types = given.clone();
    let described = match &parsed {
        Some(parsed) => describe(session, &catalog, &parsed.statement, &mut types).await?,
        None => Description::default(),
    };
    // What nothing decides is text, as in Postgres.
    let parameters = match described.parameters {
        Some(parameters) => parameters,
        None => types.into_iter().map(|t| t.unwrap_or(SqlType::Text)).collect(),
    };
    let (ready, fields) = (described.ready, described.fields);
    Ok(Prepared { parsed, ready, parameters, given, fields, catalog, bound_with })
}

/// Whether a text may contain a function or a constant whose value is fixed when it is bound.
fn depends_on_moment(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "now",
        "current_",
        "localtime",
        "_timestamp",
        "today",
        "tomorrow",
        "yesterday",
        "age",
        "user",
        "pg_get_",
        "description",
        "pg_backend_pid",
        "pg_postmaster",
        "regclass",
        "set_config",
    ];
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

fn bound_with(session: &Session) -> Result<(String, String)> {
    Ok((session.settings.get("search_path")?.to_owned(), session.settings.get("TimeZone")?.to_owned()))
}

/// What is known of a statement before it runs.
#[derive(Default)]
struct Description {
    ready: Option<Ready>,
    fields: Option<Vec<Field>>,
    parameters: Option<Vec<SqlType>>,
}

async fn describe(
    session: &mut Session,
    catalog: &Catalog,
    statement: &Statement,
    types: &mut Vec<Option<SqlType>>,
) -> Result<Description> {
    let settings = session.bind_settings();
    let rows = |fields: Vec<Field>| Description { fields: Some(fields), ..Default::default() };
    let written = |returning: Option<planner::Bound>, params: Vec<SqlType>| Description {
        ready: None,
        fields: returning.as_ref().map(fields::of),
        parameters: Some(params),
    };
    Ok(match statement {
        Statement::Query(query) => {
            let (ready, parameters) = select::plan(session, query, std::mem::take(types)).await?;
            let fields = Some(ready.fields.clone());
            // What is read out of the catalog or the clock when it is bound must be bound again for each run.
            let ready = Some(ready).filter(|_| !depends_on_moment(&query.text));
            Description { fields, ready, parameters: Some(parameters) }
        }
        Statement::Insert(insert) => {
            let bound = planner::bind_insert(catalog, &settings, insert, types)?;
            written(bound.returning, bound.params)
        }
        Statement::Update(update) => {
            let bound = planner::bind_update(catalog, &settings, update, types)?;
            written(bound.returning, bound.params)
        }
        Statement::Delete(delete) => {
            let bound = planner::bind_delete(catalog, &settings, delete, types)?;
            written(bound.returning, bound.params)
        }
        Statement::Explain(_) => rows(super::explain::fields()),
        Statement::Show(show) => rows(super::show::fields(show)?),
        Statement::Describe(_) => {
            rows(super::show::COLUMNS.iter().map(|name| Field::new(*name, SqlType::Text)).collect())
        }
        Statement::Subscribe(subscribe) => rows(super::subscribe::target(session, subscribe)?.fields()),
        Statement::Fetch(fetch) if !fetch.is_move => {
            session.cursors.get(&fetch.cursor).map_or_else(Description::default, |c| rows(c.fields().to_vec()))
        }
        Statement::Execute(execute) => Description {
            fields: session.prepared.get(&execute.name).and_then(|p| p.fields.clone()),
            ..Default::default()
        },
        _ => Description::default(),
    })
}

/// `PREPARE`
pub async fn declare(session: &mut Session, statement: &Prepare) -> Result<Outcome> {
    if session.prepared.contains_key(&statement.name) {
        let message = format!("prepared statement \"{}\" already exists", statement.name);
        return Err(Error::new("42P05", message));
    }
    let parsed = Parsed {
        statement: statement.statement.as_ref().clone(),
        text: statement.text.clone(),
        offset: statement.offset,
    };
    let prepared = prepare(session, Some(parsed), statement.types.clone()).await;
    let prepared = prepared.map_err(|e| e.shifted(statement.offset))?;
    session.prepared.insert(statement.name.clone(), Arc::new(prepared));
    Ok(Outcome::Done("PREPARE".into()))
}

/// `EXECUTE`: what is to run, and with what.
pub async fn execute(session: &mut Session, statement: &Execute) -> Result<(Arc<Prepared>, Parameters)> {
    let name = &statement.name;
    let prepared = session.prepared.get(name).cloned();
    let prepared =
        prepared.ok_or_else(|| Error::new("26000", format!("prepared statement \"{name}\" does not exist")))?;
    let prepared = refresh(session, prepared, Some(name)).await?;
    let mut values = Vec::new();
    if let Some(query) = &statement.values {
        let bound = select::bind(session, query, &Parameters::default())?;
        let columns = fields::of(&bound);
        let batches = select::collect(session, bound, &[], false).await?;
        let row = batches.iter().find(|b| b.num_rows() > 0);
        let row = row.ok_or_else(|| Error::new("XX000", "no values for the parameters"))?;
        for (i, (field, ty)) in columns.iter().zip(&prepared.parameters).enumerate() {
            let value = ScalarValue::try_from_array(row.column(i), 0).map_err(planner::Error::from)?;
            values.push(convert(session, value, &field.ty, ty)?);
        }
    }
    let given = statement.values.as_ref().map_or(0, |_| values.len());
    if given != prepared.parameters.len() {
        let message = format!("wrong number of parameters for prepared statement \"{name}\"");
        let detail = format!("Expected {} parameters but got {given}.", prepared.parameters.len());
        return Err(Error::new("42601", message).detail(detail));
    }
    let parameters = Parameters { types: prepared.parameters.clone(), values };
    Ok((prepared, parameters))
}

/// A value of another type as the parameter's, by its text.
fn convert(session: &Session, value: ScalarValue, from: &SqlType, to: &SqlType) -> Result<ScalarValue> {
    if from == to {
        return Ok(value);
    }
    match planner::types::text::to_text(&value, from, &session.zone()) {
        Some(text) => Ok(planner::types::text::read_in(&text, to, -1, &session.text_session())?),
        None => Ok(planner::types::text::null(to)),
    }
}

/// `DEALLOCATE`
pub fn deallocate(session: &mut Session, name: Option<&str>) -> Result<Outcome> {
    match name {
        Some(name) => {
            let missing = || Error::new("26000", format!("prepared statement \"{name}\" does not exist"));
            session.prepared.remove(name).ok_or_else(missing)?;
            Ok(Outcome::Done("DEALLOCATE".into()))
        }
        None => {
            session.prepared.clear();
            Ok(Outcome::Done("DEALLOCATE ALL".into()))
        }
    }
}

/// The same statement bound again if something was created, dropped or set since.
pub async fn refresh(session: &mut Session, prepared: Arc<Prepared>, name: Option<&str>) -> Result<Arc<Prepared>> {
    let catalog = session.shared.catalogs.current();
    if Arc::ptr_eq(&catalog, &prepared.catalog) && bound_with(session)? == prepared.bound_with {
        return Ok(prepared);
    }
    let again = prepare(session, prepared.parsed.clone(), prepared.given.clone()).await?;
    if again.fields != prepared.fields {
        return Err(Error::new("0A000", "cached plan must not change result type"));
    }
    let again = Arc::new(again);
    session.prepared.insert(name.unwrap_or_default().to_owned(), again.clone());
    Ok(again)
}

/// The value of a parameter as it came over the wire.
pub fn read_parameter(
    bytes: Option<&[u8]>,
    ty: &SqlType,
    format: Format,
    number: usize,
    session: &planner::types::text::Session,
) -> Result<ScalarValue> {
    let Some(bytes) = bytes else { return Ok(planner::types::text::null(ty)) };
    match format {
        Format::Text => {
            let text = std::str::from_utf8(bytes)
                .map_err(|_| Error::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
            Ok(planner::types::text::read_in(text, ty, -1, session)?)
        }
        Format::Binary => planner::types::binary::read(bytes, ty).map_err(|_| {
            let message = format!("incorrect binary data format in bind parameter {number}");
            Error::new("22P03", message)
        }),
    }
}
