//! `SELECT`, `VALUES` and `TABLE`: rows as of one epoch, as they are computed.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use planner::batch::{Query, TableRows, Tables};
use planner::bind::SettingValue;
use planner::{Bound, ScalarValue, Statement};
use storage::{RelationId, SqlType};

use crate::error::{Error, Result};
use crate::fields::{self, Style};
use crate::outcome::{Parameters, Rows, RowsTag};
use crate::pg_catalog;
use crate::session::Session;
use crate::session::prepared::Ready;

/// The way to a query's rows that this session takes, and what that reads.
pub fn way<'a>(session: &Session, ready: &'a Ready) -> (&'a Query, &'a [RelationId]) {
    ready.way(|relation| !session.pending(relation).is_empty())
}

/// Begins to run it.
pub async fn rows(session: &mut Session, ready: &Ready, values: &[ScalarValue], tag: RowsTag) -> Result<Rows> {
    for set in &ready.sets {
        let value = match &set.value {
            SettingValue::Constant(value) => value.clone(),
            SettingValue::Parameter(i) => {
                values.get(*i).and_then(|v| planner::types::text::to_text(v, &SqlType::Text, &session.zone()))
            }
        };
        super::set::run(session, &set.name, value.as_deref(), set.local)?;
    }
    let (query, relations) = way(session, ready);
    let tables = tables(session, relations, false).await?;
    let batches = query.run(values, &tables, &session.shared.reads).await?.map_err(Error::from).boxed();
    Ok(Rows { fields: ready.fields.clone(), batches, tag, flush: false, style: style(session), sent: 0 })
}

/// Binds and runs a query.
pub async fn run(session: &mut Session, query: &planner::statement::Query, parameters: &Parameters) -> Result<Rows> {
    let (ready, _) = plan(session, query, parameters.known()).await?;
    rows(session, &ready, &parameters.values, RowsTag::Select).await
}

/// Binds and optimises a query, and tells its parameters' types.
pub async fn plan(
    session: &mut Session,
    query: &planner::statement::Query,
    mut types: Vec<Option<SqlType>>,
) -> Result<(Ready, Vec<SqlType>)> {
    let (catalog, settings, query) = (session.shared.catalogs.current(), session.bind_settings(), query.clone());
    on_a_thread(move || {
        let bound = planner::bind_query(&catalog, &settings, &query, &mut types)?;
        let parameters = bound.params.clone();
        Ok((Ready::new(bound, &catalog)?, parameters))
    })
    .await
}

/// Optimises a query against the catalog as of now.
pub async fn ready(session: &mut Session, bound: Bound) -> Result<Ready> {
    let catalog = session.shared.catalogs.current();
    on_a_thread(move || Ready::new(bound, &catalog)).await
}

/// Runs what may take its time where nobody else waits, so that whoever asked for it can stop waiting.
pub async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::terminated()),
        },
    }
}

/// Binds a query.
pub fn bind(session: &Session, query: &planner::statement::Query, parameters: &Parameters) -> Result<Bound> {
    let catalog = session.shared.catalogs.current();
    let mut types = parameters.known();
    Ok(planner::bind_query(&catalog, &session.bind_settings(), query, &mut types)?)
}

/// Binds a query of the server's own making.
pub fn bind_text(session: &Session, text: &str) -> Result<Bound> {
    let parsed = planner::parse(text)?.pop();
    match parsed.map(|p| p.statement) {
        Some(Statement::Query(query)) => bind(session, &query, &Parameters::default()),
        _ => Err(Error::new("42601", format!("not a query: {text}"))),
    }
}

/// How the session wants values written.
pub fn style(session: &Session) -> Style {
    let iso_intervals = session.settings.get("IntervalStyle").is_ok_and(|style| style == "iso_8601");
    Style { iso_intervals, zone: session.zone(), catalog: session.shared.catalogs.current() }
}

/// The relations that one query reads.
pub struct SessionTables {
    relations: BTreeMap<RelationId, TableRows>,
}

impl SessionTables {
    /// Adds rows, such as those that RETURNING reads.
    pub fn add(&mut self, relation: RelationId, rows: Vec<RecordBatch>) {
        self.relations.insert(relation, TableRows::Rows(rows));
    }
}

impl Tables for SessionTables {
    fn table(&self, relation: RelationId) -> planner::Result<TableRows> {
        let missing = || planner::Error::new("55000", format!("relation {} was not read", relation.0));
        self.relations.get(&relation).cloned().ok_or_else(missing)
    }
}

/// What the relations hold for this session: stored ones as of one epoch, with the transaction's own changes; system
/// ones as of now.
pub async fn tables(session: &mut Session, relations: &[RelationId], to_change: bool) -> Result<SessionTables> {
    let catalog = session.shared.catalogs.current();
    let mut found = BTreeMap::new();
    let mut stored = Vec::new();
    for &id in relations {
        if id == planner::bind::RETURNING || id == planner::bind::CONFLICTS {
            continue;
        }
        if let Some(object) = catalog.by_id(id)
            && object.kind == planner::catalog::ObjectKind::Source
        {
            let message = format!("source \"{}\" keeps no rows that could be read", object.name);
            return Err(Error::unsupported(message).hint("Create a materialized view over it and read that."));
        }
        match pg_catalog::find(id) {
            Some(system) => {
                let context = pg_catalog::relation::Context {
                    catalog: &catalog,
                    shared: &session.shared,
                    settings: &session.settings,
                    user: &session.user,
                };
                found.insert(id, TableRows::Rows(vec![pg_catalog::relation::rows(system, &context)?]));
            }
            None => stored.push(id),
        }
    }
    for (id, snapshot) in session.snapshots(&stored, to_change).await? {
        let pending = session.pending(id);
        let rows = match pending {
            [] => TableRows::Snapshot(snapshot),
            pending => TableRows::Overlay { snapshot, changes: pending.to_vec() },
        };
        found.insert(id, rows);
    }
    Ok(SessionTables { relations: found })
}

/// All rows of a query of the server's own making.
pub async fn collect_text(session: &mut Session, query: &str) -> Result<Vec<RecordBatch>> {
    let bound = bind_text(session, query)?;
    collect(session, bound, &[], false).await
}

/// All rows of a bound query.
pub async fn collect(
    session: &mut Session,
    bound: Bound,
    values: &[ScalarValue],
    to_change: bool,
) -> Result<Vec<RecordBatch>> {
    let tables = tables(session, &bound.relations, to_change).await?;
    collect_from(session, bound, &tables, values).await
}

/// All rows of a bound query that reads, besides relations, rows of the statement's own under the id `own`.
pub async fn collect_over(
    session: &mut Session,
    bound: Bound,
    own: RelationId,
    rows: Vec<RecordBatch>,
    values: &[ScalarValue],
) -> Result<Vec<RecordBatch>> {
    let mut tables = tables(session, &bound.relations, true).await?;
    tables.add(own, rows);
    collect_from(session, bound, &tables, values).await
}

/// What is written stays in memory until the transaction's end, so there may only be so much of it.
async fn collect_from(
    session: &mut Session,
    bound: Bound,
    tables: &SessionTables,
    values: &[ScalarValue],
) -> Result<Vec<RecordBatch>> {
    let max = session.shared.config.transaction_bytes_max;
    let query = on_a_thread(move || Ok(Query::new(bound.plan)?)).await?;
    let mut stream = query.run(values, tables, &session.shared.reads).await?;
    let (mut batches, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = stream.try_next().await? {
        bytes += batch.get_array_memory_size();
        if bytes > max {
            return Err(Error::too_much_written(max));
        }
        batches.push(batch);
    }
    Ok(batches)
}

/// The rows of a RETURNING clause over the rows that were written.
pub async fn returning(
    session: &mut Session,
    bound: Bound,
    written: Vec<RecordBatch>,
    values: &[ScalarValue],
    tag: String,
) -> Result<Rows> {
    let others: Vec<RelationId> = bound.relations.iter().copied().filter(|r| *r != planner::bind::RETURNING).collect();
    let mut tables = tables(session, &others, false).await?;
    tables.add(planner::bind::RETURNING, written);
    let fields = fields::of(&bound);
    let batches =
        Query::new(bound.plan)?.run(values, &tables, &session.shared.reads).await?.map_err(Error::from).boxed();
    Ok(Rows { fields, batches, tag: RowsTag::Known(tag), flush: false, style: style(session), sent: 0 })
}
