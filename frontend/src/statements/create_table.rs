//! `CREATE TABLE [IF NOT EXISTS] t (column type [NOT NULL] [DEFAULT e] [PRIMARY KEY], ..., [PRIMARY KEY (...)])` and
//! `CREATE TABLE t AS query`.

use planner::catalog::{Object, ObjectKind};
use planner::statement::{ColumnDef, CreateTable};
use storage::{Column, RelationId, SqlType};
use streaming::engine::{JobSpec, Keeping};
use streaming::operators::materialize::Materialize;
use streaming::operators::table_source::TableSource;
use streaming::plan::Plan;
use streaming::watermark::Watermark;

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statements::create::{check_unique, create, exists, query_columns, schema_of};
use crate::statements::ttl::{self, INSERTED_AT};
use crate::statements::{event_time, select, storage_parameters, writing};

/// The hidden column that tells equal rows of a table without a key apart.
pub const ROW_ID: &str = "_row_id";

/// Creates a table.
pub async fn run(session: &mut Session, statement: &CreateTable, text: &str) -> Result<Outcome> {
    const TAG: &str = "CREATE TABLE";
    session.before_ddl(TAG).await?;
    if statement.connection.options.iter().any(|(name, _)| name == "connector") {
        return Err(Error::unsupported("a table with a connector is not supported yet")
            .hint("Use CREATE SOURCE, and a materialized view over it to keep its rows."));
    }
    let mut options = statement.connection.options.clone();
    let of_time = event_time::Options::take(&mut options)?.of_table()?;
    let of_ttl = ttl::Options::take(&mut options)?;
    let mut keeping = Keeping::default();
    storage_parameters::keeping(&mut options, &mut keeping)?;
    storage_parameters::check(session, &options)?;
    if statement.on_conflict.is_some() {
        return Err(Error::unsupported("ON CONFLICT of a table is not supported yet")
            .hint("A second row with the same key is refused; UPDATE changes the first."));
    }
    if statement.columns.wildcard {
        return Err(Error::unsupported("* is not supported in a table yet"));
    }
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let name = statement.name.last();
    let schema = schema_of(session, &statement.name)?;
    if exists(session, &schema, name, statement.if_not_exists)? {
        return Ok(Outcome::Done(TAG.into()));
    }
    let query = match &statement.query {
        Some(query) => Some(select::bind(session, query, &Default::default())?),
        None => None,
    };
    let (columns, defaults) = match &query {
        Some(bound) => (query_columns(bound, &statement.query_columns)?, Vec::new()),
        None => declared(session, &statement.columns.columns)?,
    };
    check_unique(&columns)?;
    let primary_key = key(&columns, &statement.columns.primary_key)
        .map_err(|error| error.position(statement.columns.primary_key_position))?;
    let engine = shared.engine()?;
    let mut object = Object {
        id: engine.allocate_relation(),
        schema,
        name: name.to_owned(),
        kind: ObjectKind::Table,
        defaults,
        generated: (0..columns.len()).filter(|i| of_processing_time(statement.columns.columns.get(*i))).collect(),
        sql: text.to_owned(),
        errors: Some(engine.allocate_relation()),
        append_only: statement.append_only,
        stream_key: primary_key.clone(),
        primary_key,
        ..Default::default()
    };
    object.columns = columns;
    let ttl = of_ttl.of_table(&object.columns, &object.generated, object.append_only)?;
    if let Some((ttl, true)) = ttl {
        object.hidden = 1;
        object.generated.push(ttl.column);
        object.columns.push(Column { not_null: true, ..Column::new(INSERTED_AT, SqlType::TimestampTz) });
    }
    if object.primary_key.is_empty() {
        object.hidden += 1;
        object.stream_key = vec![object.columns.len()];
        object.columns.push(Column { not_null: true, ..Column::new(ROW_ID, SqlType::BigInt) });
    }
    let own = event_time::Relation {
        name,
        columns: &object.columns,
        visible: object.columns.len() - object.hidden,
        append_only: object.append_only,
    };
    let (settings, watermarks) = (session.bind_settings(), &statement.columns.watermarks);
    let event = event_time::event_time(&settings, &own, watermarks, of_time, || engine.allocate_relation())?;
    object.watermarks = event_time::watermarks(event.as_ref(), object.columns.len());
    // Without a watermark of its own, that of what is stamped is the clock.
    let visible = object.columns.len() - object.hidden;
    let is_stamped = |column: &usize| event.is_none() && *column < visible;
    let processing_time: Vec<usize> = object.generated.iter().copied().filter(is_stamped).collect();
    for &column in &processing_time {
        object.watermarks[column] = Some(Watermark::unknown(false, !object.append_only));
    }
    let (relation, schema) = (object.id, storage::types::arrow_schema(&object.columns));
    let ttl = ttl.map(|(ttl, _)| ttl);
    let source = TableSource { relation, event_time: event, ttl, processing_time, schema };
    object.job = Some(job(&object, source, keeping));
    create(&shared, object.clone(), None).await?;
    storage_parameters::tell(session, &object);
    let Some(bound) = query else { return Ok(Outcome::Done(TAG.into())) };
    let batches = select::collect(session, bound, &[], false).await?;
    let (n, _) = writing::append(session, &std::sync::Arc::new(object), batches).await?;
    Ok(Outcome::Done(format!("SELECT {n}")))
}

fn job(object: &Object, source: TableSource, keeping: Keeping) -> JobSpec {
    let schema = source.schema.clone();
    let mut plan = Plan::default();
    let source = plan.add(source, vec![]);
    let key = object.stream_key.clone();
    plan.add(Materialize { relation: object.id, key, key_order: Vec::new(), unique: true, schema }, vec![source]);
    JobSpec {
        relation: object.id,
        name: object.name.clone(),
        plan,
        columns: object.columns.clone(),
        errors: object.errors.unwrap_or(RelationId(0)),
        keeping,
    }
}

/// The columns and their defaults, which must be expressions of the column's type.
fn declared(session: &Session, columns: &[ColumnDef]) -> Result<(Vec<Column>, Vec<Option<String>>)> {
    for column in columns {
        if column.generated.is_some() && !of_processing_time(Some(column)) {
            let message = format!("generated column \"{}\" is not supported yet", column.name);
            return Err(Error::unsupported(message)
                .position(Some(column.position))
                .hint("A column can be AS PROCTIME(); compute others in a view."));
        }
        if column.generated.is_some() && column.ty != SqlType::TimestampTz {
            let is = planner::types::format(&column.ty, column.typmod);
            let message = format!(
                "column \"{}\" is of type {is} but PROCTIME() is of type timestamp with time zone",
                column.name
            );
            return Err(Error::new("42804", message).position(Some(column.position)));
        }
        if let Some(hidden) = [ROW_ID, INSERTED_AT].into_iter().find(|hidden| column.name == *hidden) {
            let message = format!("column name \"{hidden}\" conflicts with a system column name");
            return Err(Error::new("42701", message).position(Some(column.position)));
        }
        if let Some(default) = &column.default {
            let ty = planner::types::format(&column.ty, column.typmod);
            const BEFORE: &str = "SELECT CAST(";
            select::bind_text(session, &format!("{BEFORE}{default} AS {ty})")).map_err(|error| {
                let inside = error.fields().position.and_then(|at| at.checked_sub(BEFORE.len() + 1));
                error.position(Some(column.default_position + inside.unwrap_or(0)))
            })?;
        }
    }
    let plain = |c: &ColumnDef| Column {
        name: c.name.clone(),
        ty: c.ty.clone(),
        typmod: c.typmod,
        not_null: c.not_null || c.primary_key,
    };
    let default = |c: &ColumnDef| c.generated.as_ref().map(|_| PROCTIME.to_string()).or_else(|| c.default.clone());
    Ok((columns.iter().map(plain).collect(), columns.iter().map(default).collect()))
}

/// What a column of processing time is stamped with.
const PROCTIME: &str = "proctime()";

/// Whether a column is `AS PROCTIME()`.
fn of_processing_time(column: Option<&ColumnDef>) -> bool {
    let text = column.and_then(|column| column.generated.as_ref()).map(|text| text.to_lowercase());
    let text = text.map(|text| text.split_whitespace().collect::<String>());
    text.is_some_and(|text| text.trim_start_matches('(').trim_end_matches(')') == PROCTIME.trim_end_matches(')'))
}

fn key(columns: &[Column], names: &[String]) -> Result<Vec<usize>> {
    let mut key = Vec::with_capacity(names.len());
    for name in names {
        let at = columns.iter().position(|c| c.name == *name);
        let at = at.ok_or_else(|| Error::new("42703", format!("column \"{name}\" named in key does not exist")))?;
        if key.contains(&at) {
            let message = format!("column \"{name}\" appears twice in primary key constraint");
            return Err(Error::new("42701", message));
        }
        key.push(at);
    }
    Ok(key)
}
