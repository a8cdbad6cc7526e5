//! `CREATE MATERIALIZED VIEW [IF NOT EXISTS] name [(columns)] AS query`: a job that reads its inputs' snapshots, then
//! follows them. While it reads, progress is told; a cancel request undoes everything.

use std::sync::Arc;
use std::time::Duration;

use planner::catalog::{Object, ObjectKind};
use planner::lower::{ViewPlan, view_of};
use planner::statement::{CreateMaterializedView, ObjectName};
use storage::RelationId;
use streaming::engine::{CatalogChanges, Engine, JobSpec};
use tokio::sync::mpsc;

use crate::catalog;
use crate::error::{Error, Result};
use crate::session::Session;
use crate::statements::create_table::query_columns;
use crate::statements::{Outcome, storage_parameters};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Creates the view.
pub async fn run(session: &mut Session, statement: &CreateMaterializedView, text: &str) -> Result<Outcome> {
    const TAG: &str = "CREATE MATERIALIZED VIEW";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let changing = shared.catalogs.lock().await;
    let schema = schema_of(session, &statement.name)?;
    if exists(session, &schema, statement.name.last(), statement.if_not_exists)? {
        return Ok(Outcome::Done(TAG.into()));
    }
    storage_parameters::check(session, &statement.options)?;
    let (plan, depends_on) = plan(session, statement)?;
    let object = Object {
        id: plan.job.relation,
        schema,
        name: statement.name.last().to_owned(),
        kind: ObjectKind::MaterializedView,
        columns: plan.columns,
        hidden: plan.hidden,
        sql: text.to_owned(),
        depends_on,
        errors: Some(plan.job.errors),
        append_only: plan.append_only,
        stream_key: plan.stream_key,
        unique: plan.unique,
        job: Some(plan.job),
        ..Default::default()
    };
    // Others may create things while this one reads.
    let place = shared.catalogs.take_place(&object);
    drop(changing);
    if session.settings.is_on("background_ddl") {
        let (shared, notices) = (shared.clone(), session.notices());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = create(&shared, object, None).await {
                tracing::warn!(%error, "a view could not be created in the background");
                let _ = notices.try_send(Error::warning(&error.fields().sqlstate, error.to_string()));
            }
        });
        return Ok(Outcome::Done(TAG.into()));
    }
    create(&shared, object, Some(session.notices())).await?;
    Ok(Outcome::Done(TAG.into()))
}

/// The job that maintains the view.
pub fn plan(session: &Session, statement: &CreateMaterializedView) -> Result<(ViewPlan, Vec<RelationId>)> {
    if statement.emit_on_window_close {
        return Err(Error::unsupported("EMIT ON WINDOW CLOSE is not supported yet"));
    }
    let catalog = session.shared.catalogs.current();
    let engine = session.shared.engine()?;
    let settings = session.bind_settings();
    let name = statement.name.last();
    let bound = planner::bind_view(&catalog, &settings, &statement.query)?;
    let columns = query_columns(&bound, &statement.columns)?;
    let (id, errors) = (engine.allocate_relation(), engine.allocate_relation());
    let depends_on = bound.depends_on;
    let plan = view_of(name, id, errors, bound.plan, bound.switches, columns)?;
    Ok((plan, depends_on))
}

/// Makes an object and its job durable and shows it to everybody. Dropping the future undoes it.
pub async fn create(
    shared: &Arc<crate::server::Shared>,
    object: Object,
    tell: Option<mpsc::Sender<Error>>,
) -> Result<()> {
    let engine = shared.engine()?;
    let changes = catalog::keep(&object)?;
    match &object.job {
        None => engine.change_catalog(changes).await?,
        Some(job) => create_job(&engine, job, changes, tell).await?,
    }
    shared.catalogs.add(object);
    Ok(())
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
        Some(schema) if crate::pg_catalog::objects::SCHEMAS.iter().any(|(s, _)| *s == schema) => {
            Err(Error::new("42501", format!("permission denied for schema {schema}")))
        }
        Some(schema) => Err(Error::new("3F000", format!("schema \"{schema}\" does not exist"))),
    }
}
