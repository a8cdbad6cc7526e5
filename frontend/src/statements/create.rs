//! What every CREATE does: its name is free, its columns have names of their own, it becomes durable together with its
//! job, and then everybody sees it.

use std::sync::Arc;
use std::time::Duration;

use planner::catalog::Object;
use planner::statement::ObjectName;
use storage::{Column, RelationId, SqlType};
use streaming::engine::{CatalogChanges, Engine, JobSpec, memory_change};
use tokio::sync::mpsc;

use crate::catalog;
use crate::error::{Error, Result};
use crate::fields::{self, Field};
use crate::session::Session;
use crate::shared::Shared;

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Makes an object and its job durable and shows it to everybody. Dropping the future undoes it.
pub async fn create(shared: &Arc<Shared>, object: Object, tell: Option<mpsc::Sender<Error>>) -> Result<()> {
    create_within(shared, object, None, tell).await
}

/// The same for a job with a memory budget of its own.
pub async fn create_within(
    shared: &Arc<Shared>,
    object: Object,
    memory: Option<u64>,
    tell: Option<mpsc::Sender<Error>>,
) -> Result<()> {
    let engine = shared.engine()?;
    let mut changes = catalog::keep(&object)?;
    changes.extend(memory.map(|bytes| memory_change(object.id, Some(bytes))));
    match &object.job {
        None => engine.change_catalog(changes).await?,
        Some(job) => {
            let mut helpers = Helpers { engine: engine.clone(), made: Vec::new() };
            let created = async {
                for helper in &object.helpers {
                    helpers.made.push(helper.relation);
                    engine.create(helper.clone(), Vec::new()).await?;
                }
                create_job(&engine, job, changes, tell).await
            };
            match created.await {
                Ok(()) => helpers.made.clear(),
                Err(error) => {
                    helpers.undo().await?;
                    return Err(error);
                }
            }
        }
    }
    shared.catalogs.add(object);
    Ok(())
}

/// The jobs that were made for another one, which is not there yet: they go if it does not come.
struct Helpers {
    engine: Arc<Engine>,
    made: Vec<RelationId>,
}

impl Helpers {
    async fn undo(&mut self) -> Result<()> {
        let made = std::mem::take(&mut self.made);
        if !made.is_empty() {
            Engine::drop(&self.engine, made, Vec::new()).await?;
        }
        Ok(())
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        if self.made.is_empty() {
            return;
        }
        // The statement was cancelled, or its client is gone: nobody waits for this.
        let mut helpers = Helpers { engine: self.engine.clone(), made: std::mem::take(&mut self.made) };
        tokio::spawn(async move {
            if let Err(error) = helpers.undo().await {
                tracing::warn!("what a cancelled statement had made could not be removed: {error}");
            }
        });
    }
}

/// Starts a job and waits until it has read its inputs, telling of progress. Dropping the future undoes it.
pub async fn create_job(
    engine: &Engine,
    job: &JobSpec,
    changes: CatalogChanges,
    tell: Option<mpsc::Sender<Error>>,
) -> Result<()> {
    let creating = engine.create(job.clone(), changes);
    tokio::pin!(creating);
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    ticks.tick().await;
    loop {
        tokio::select! {
            biased;
            created = &mut creating => return Ok(created?),
            _ = ticks.tick() => {
                if let Some(tell) = &tell
                    && let Some(message) = progress(engine, job.relation, &job.name)
                {
                    let _ = tell.try_send(Error::notice(message));
                }
            }
        }
    }
}

fn progress(engine: &Engine, relation: RelationId, name: &str) -> Option<String> {
    let status = engine.status();
    let job = status.jobs.iter().find(|j| j.relation == relation)?;
    Some(match job.rows_total {
        Some(total) if total > 0 => {
            let percent = (job.rows_read * 100 / total).min(100);
            format!("creating \"{name}\": {} of {total} rows read ({percent} %)", job.rows_read)
        }
        _ => format!("creating \"{name}\": {} rows read", job.rows_read),
    })
}

/// Whether a name is taken: an error, or a notice with IF NOT EXISTS.
pub fn exists(session: &Session, schema: &str, name: &str, if_not_exists: bool) -> Result<bool> {
    let catalog = session.shared.catalogs.current();
    if catalog.get(schema, name).is_none() && !session.shared.catalogs.is_name_taken(schema, name) {
        return Ok(false);
    }
    let message = format!("relation \"{name}\" already exists");
    if if_not_exists {
        let error = Error::notice(format!("{message}, skipping"));
        session.notice(error);
        return Ok(true);
    }
    Err(Error::new("42P07", message))
}

/// Where a new object goes: its schema, or the first of the search path.
pub fn schema_of(session: &Session, name: &ObjectName) -> Result<String> {
    let path = session.bind_settings().search_path;
    match name.schema().or(path.first().map(String::as_str)) {
        None => Err(Error::new("3F000", "no schema has been selected to create in").position(name.position)),
        Some("public") => Ok("public".into()),
        Some(schema) if crate::pg_catalog::names::SCHEMAS.iter().any(|(s, _)| *s == schema) => {
            Err(Error::new("42501", format!("permission denied for schema {schema}")))
        }
        Some(schema) => Err(Error::new("3F000", format!("schema \"{schema}\" does not exist"))),
    }
}

/// The columns of a query, some or all renamed.
pub fn query_columns(bound: &planner::Bound, names: &[String]) -> Result<Vec<Column>> {
    if names.len() > bound.columns.len() {
        return Err(Error::new("42601", "too many column names were specified"));
    }
    let mut fields = fields::of(bound);
    for (field, name) in fields.iter_mut().zip(names) {
        field.name = name.clone();
    }
    let columns = named_columns(&fields);
    check_unique(&columns)?;
    Ok(columns)
}

/// The columns of a relation that holds a query's rows.
pub fn named_columns(fields: &[Field]) -> Vec<Column> {
    let column = |f: &Field| Column {
        name: f.name.clone(),
        ty: if f.ty == SqlType::Unknown { SqlType::Text } else { f.ty.clone() },
        typmod: f.typmod,
        not_null: false,
    };
    fields.iter().map(column).collect()
}

/// Columns of a relation have names of their own.
pub fn check_unique(columns: &[Column]) -> Result<()> {
    for (i, column) in columns.iter().enumerate() {
        if columns[..i].iter().any(|c| c.name == column.name) {
            return Err(Error::new("42701", format!("column \"{}\" specified more than once", column.name)));
        }
    }
    Ok(())
}
