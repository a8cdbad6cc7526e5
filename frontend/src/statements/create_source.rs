//! `CREATE SOURCE [IF NOT EXISTS] s (columns) WITH (connector = '...', ...) [FORMAT f ENCODE e (...)]`

use connectors::postgres::lookup;
use planner::catalog::{Object, ObjectKind};
use planner::statement::CreateSource;
use storage::{Column, SqlType};
use streaming::engine::{JobSpec, Keeping};
use streaming::lookup::LookupSpec;
use streaming::operators::source::Source;
use streaming::plan::Plan;
use streaming::source::SourceSpec;

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statements::create::{check_unique, create, exists, schema_of};
use crate::statements::create_table::ROW_ID;
use crate::statements::{event_time, storage_parameters};

/// Creates a source.
pub async fn run(session: &mut Session, statement: &CreateSource, text: &str) -> Result<Outcome> {
    const TAG: &str = "CREATE SOURCE";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let changing = shared.catalogs.lock().await;
    let schema = schema_of(session, &statement.name)?;
    if exists(session, &schema, statement.name.last(), statement.if_not_exists)? {
        return Ok(Outcome::Done(TAG.into()));
    }
    // Asking the outside system may take its time.
    drop(changing);
    let mut options = statement.connection.options.clone();
    let of_time = event_time::Options::take(&mut options)?;
    if let Some(lookup) = lookup(statement, &options)? {
        return create_lookup(session, statement, text, lookup).await;
    }
    let mut keeping = Keeping::default();
    storage_parameters::keeping(&mut options, &mut keeping)?;
    let spec = spec(statement, options)?;
    let asked = tokio::task::spawn_blocking(move || connectors::Connectors.prepare(&spec));
    let spec = asked.await.map_err(|e| Error::new("XX000", e.to_string()))??;
    check_unique(&spec.columns)?;

    let _changing = shared.catalogs.lock().await;
    if exists(session, &schema, statement.name.last(), statement.if_not_exists)? {
        return Ok(Outcome::Done(TAG.into()));
    }
    let engine = shared.engine()?;
    let mut columns = spec.columns.clone();
    columns.push(Column { not_null: true, ..Column::new(ROW_ID, SqlType::BigInt) });
    let id = engine.allocate_relation();
    let errors = engine.allocate_relation();
    let name = statement.name.last().to_owned();
    let own = event_time::Relation { name: &name, columns: &columns, visible: columns.len() - 1, append_only: true };
    let (settings, watermarks) = (session.bind_settings(), &statement.columns.watermarks);
    let event = event_time::event_time(&settings, &own, watermarks, of_time, || engine.allocate_relation())?;
    let watermarks = event_time::watermarks(event.as_ref(), columns.len());
    let mut plan = Plan::default();
    plan.add(Source { spec, event_time: event, schema: storage::types::arrow_schema(&columns) }, vec![]);
    let job = JobSpec { relation: id, name: name.clone(), plan, columns: columns.clone(), errors, keeping };
    let object = Object {
        id,
        schema,
        name,
        kind: ObjectKind::Source,
        stream_key: vec![columns.len() - 1],
        columns,
        hidden: 1,
        sql: text.to_owned(),
        job: Some(job),
        errors: Some(errors),
        append_only: true,
        watermarks,
        ..Default::default()
    };
    create(&shared, object.clone(), None).await?;
    storage_parameters::tell(session, &object);
    Ok(Outcome::Done(TAG.into()))
}

/// The table outside that is only looked up, if the statement says one.
fn lookup(statement: &CreateSource, options: &[(String, String)]) -> Result<Option<LookupSpec>> {
    let is_connector = |(name, value): &(String, String)| {
        name.eq_ignore_ascii_case("connector") && value.eq_ignore_ascii_case(lookup::NAME)
    };
    if !options.iter().any(is_connector) {
        return Ok(None);
    }
    let (columns, connection) = (&statement.columns, &statement.connection);
    let refused = |what: &str| Err(Error::unsupported(format!("{what} of a source of connector \"{}\"", lookup::NAME)));
    if !columns.watermarks.is_empty() {
        return refused("a watermark");
    }
    if columns.wildcard || columns.columns.iter().any(|c| c.generated.is_some() || c.default.is_some()) {
        return refused("*, or a default or generated column,");
    }
    if connection.format.is_some() || connection.key_encode.is_some() || !connection.includes.is_empty() {
        return refused("a FORMAT or INCLUDE clause");
    }
    if let Some(name) = columns.primary_key.iter().find(|name| !columns.columns.iter().any(|c| c.name == **name)) {
        let error = Error::new("42703", format!("column \"{name}\" named in key does not exist"));
        return Err(error.position(columns.primary_key_position));
    }
    let columns = columns.columns.iter().map(column).collect();
    Ok(Some(LookupSpec { name: statement.name.last().to_owned(), options: options.to_vec(), columns }))
}

/// Creates a source that is only looked up: nothing runs for it before a view joins it.
async fn create_lookup(
    session: &mut Session,
    statement: &CreateSource,
    text: &str,
    lookup: LookupSpec,
) -> Result<Outcome> {
    const TAG: &str = "CREATE SOURCE";
    let shared = session.shared.clone();
    check_unique(&lookup.columns)?;
    let (spec, functions) = (lookup.clone(), planner::functions());
    let asked = tokio::task::spawn_blocking(move || lookup::prepare(&spec, functions));
    asked.await.map_err(|e| Error::new("XX000", e.to_string()))??;
    let _changing = shared.catalogs.lock().await;
    let schema = schema_of(session, &statement.name)?;
    if exists(session, &schema, statement.name.last(), statement.if_not_exists)? {
        return Ok(Outcome::Done(TAG.into()));
    }
    let object = Object {
        id: shared.engine()?.allocate_relation(),
        schema,
        name: lookup.name.clone(),
        kind: ObjectKind::Source,
        columns: lookup.columns.clone(),
        sql: text.to_owned(),
        unique: false,
        lookup: Some(lookup),
        ..Default::default()
    };
    create(&shared, object, None).await?;
    Ok(Outcome::Done(TAG.into()))
}

fn column(c: &planner::statement::ColumnDef) -> Column {
    Column { name: c.name.clone(), ty: c.ty.clone(), typmod: c.typmod, not_null: c.not_null }
}

/// What the statement says, for the connector.
fn spec(statement: &CreateSource, mut options: Vec<(String, String)>) -> Result<SourceSpec> {
    let columns = &statement.columns;
    let connection = &statement.connection;
    if !columns.primary_key.is_empty() {
        return Err(Error::unsupported("a primary key of a source is not supported yet")
            .hint("A source only appends: keep the newest row of each key in a materialized view."));
    }
    if let Some(column) = columns.columns.iter().find(|c| c.generated.is_some() || c.default.is_some()) {
        let message = format!("a default or generated column \"{}\" of a source is not supported yet", column.name);
        return Err(Error::unsupported(message).position(Some(column.position)).hint(
            "A source is read again after a crash: its rows have the times that they bring, and tables can have a column AS PROCTIME().",
        ));
    }
    if let Some(encode) = &connection.key_encode {
        return Err(Error::unsupported(format!("KEY ENCODE {} is not supported yet", encode.to_uppercase())));
    }
    // `INCLUDE partition AS p` is an option of the connector, which adds the column.
    for include in &connection.includes {
        let what = include.key.iter().fold(include.what.clone(), |what, key| format!("{what}.{key}"));
        let column = include.alias.clone().unwrap_or_else(|| format!("_rw_{}", what.replace('.', "_")));
        options.push((format!("include.{what}"), column));
    }
    Ok(SourceSpec {
        options,
        format: connection.format.clone().unwrap_or_else(|| "plain".into()),
        encode: connection.encode.clone().unwrap_or_else(|| "json".into()),
        encode_options: connection.encode_options.clone(),
        columns: columns.columns.iter().map(column).collect(),
    })
}
