//! `CREATE MATERIALIZED VIEW [IF NOT EXISTS] name [(columns)] [WITH (memory = '512MB')] AS query`: a job that reads its inputs' snapshots, then
//! follows them. While it reads, progress is told; a cancel request undoes everything.

use planner::catalog::{Object, ObjectKind};
use planner::lower::{ViewPlan, as_forgotten, view_of};
use planner::statement::CreateMaterializedView;
use storage::RelationId;
use streaming::engine::Keeping;

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statements::create::{create_within, exists, query_columns, schema_of};
use crate::statements::{select, storage_parameters, ttl};

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
    let mut options = statement.options.clone();
    ttl::Options::take(&mut options)?;
    let mut keeping = Keeping::default();
    storage_parameters::keeping(&mut options, &mut keeping)?;
    let (memory, options) = storage_parameters::memory(&options)?;
    let memory = memory.and_then(storage_parameters::Budget::bytes);
    storage_parameters::check(session, &options)?;
    let (mut plan, depends_on) = plan(session, statement).await?;
    plan.job.keeping = keeping;
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
        watermarks: plan.watermarks,
        stream_key: plan.stream_key,
        unique: plan.unique,
        job: Some(plan.job),
        ..Default::default()
    };
    // Others may create things while this one reads.
    let place = shared.catalogs.take_place(&object);
    storage_parameters::tell(session, &object);
    drop(changing);
    if session.settings.is_on("background_ddl") {
        let (shared, notices) = (shared.clone(), session.notices());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = create_within(&shared, object, memory, None).await {
                tracing::warn!(%error, "a view could not be created in the background");
                let _ = notices.try_send(Error::warning(&error.fields().sqlstate, error.to_string()));
            }
        });
        return Ok(Outcome::Done(TAG.into()));
    }
    create_within(&shared, object, memory, Some(session.notices())).await?;
    Ok(Outcome::Done(TAG.into()))
}

/// The job that maintains the view.
pub async fn plan(session: &mut Session, statement: &CreateMaterializedView) -> Result<(ViewPlan, Vec<RelationId>)> {
    let catalog = session.shared.catalogs.current();
    let engine = session.shared.engine()?;
    let settings = session.bind_settings();
    let (name, query) = (statement.name.last().to_owned(), statement.query.clone());
    let names = statement.columns.clone();
    let (id, errors) = (engine.allocate_relation(), engine.allocate_relation());
    let emit = statement.emit;
    let of_ttl = ttl::Options::take(&mut statement.options.clone())?.of_view()?;
    select::on_a_thread(move || {
        let seen = of_ttl.map(|_| as_forgotten(&catalog));
        let bound = planner::bind_view(seen.as_ref().unwrap_or(&catalog), &settings, &query)?;
        let columns = query_columns(&bound, &names)?;
        let depends_on = bound.depends_on;
        let view = view_of(&name, id, errors, bound.plan, bound.switches, columns)?;
        let view = view.emitting(emit)?;
        match of_ttl {
            None => Ok((view, depends_on)),
            Some(micros) => Ok((view.forgetting(micros, &ttl::text(micros), &catalog)?, depends_on)),
        }
    })
    .await
}
