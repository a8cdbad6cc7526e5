//! `ALTER kind name RENAME TO new`, `ALTER kind name SET (...)`, `ALTER kind name RESUME`, `ALTER SINK name PAUSE | RESUME`, `COMMENT ON kind name IS text`

use planner::catalog::{ERRORS_SUFFIX, LATE_SUFFIX, Object, ObjectKind};
use planner::rename::Renamed;
use planner::statement::{AlterRename, Comment, NamedKind, ObjectName};
use storage::RelationId;
use streaming::engine::{JobSpec, Keeping, OnError};

use crate::catalog;
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::shared::Shared;
use crate::statements::{storage_parameters, ttl};

/// Renames an object, and names it anew in the definitions of those that read it.
pub async fn rename(session: &mut Session, alter: &AlterRename) -> Result<Outcome> {
    let tag = format!("ALTER {}", alter.kind.words());
    session.before_ddl(&tag).await?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let catalog = shared.catalogs.current();
    let object = catalog.expect(&alter.name, &session.bind_settings())?.clone();
    super::drop::check_kind(&object, alter.kind)?;
    if alter.column.is_some() {
        return Err(Error::unsupported("renaming a column is not supported yet"));
    }
    let new = &alter.new_name;
    if catalog.get(&object.schema, new).is_some() || shared.catalogs.is_name_taken(&object.schema, new) {
        return Err(Error::new("42P07", format!("relation \"{new}\" already exists")));
    }
    // What is set aside of it has its name too.
    let suffixes = ["", ERRORS_SUFFIX, LATE_SUFFIX];
    let names: Vec<Renamed> = (suffixes.iter())
        .map(|suffix| Renamed {
            schema: object.schema.clone(),
            old: format!("{}{suffix}", object.name),
            new: format!("{new}{suffix}"),
        })
        .collect();
    let ids: Vec<RelationId> = names.iter().filter_map(|n| Some(catalog.get(&n.schema, &n.old)?.id)).collect();
    if let Some(creating) = ids.iter().filter_map(|id| shared.catalogs.created_over(*id)).next() {
        let message = format!("cannot rename {} because it is in use", object.name);
        let detail = format!("{} {} reads it.", catalog::kind_name(creating.kind), creating.name);
        return Err(Error::new("55006", message).detail(detail));
    }
    let mut changed = vec![renamed(&object, new)?];
    for id in ids {
        for reader in catalog.dependents(id) {
            if !changed.iter().any(|o| o.id == reader.id) {
                let sql = planner::rename::reader(&reader.sql, &names)?;
                changed.push(Object { sql, ..Object::clone(&reader) });
            }
        }
    }
    let mut kept = Vec::new();
    for object in &changed {
        kept.extend(catalog::keep(object)?);
    }
    let engine = shared.engine()?;
    engine.change_catalog(kept).await?;
    let jobs = changed[0].job.iter().chain(&changed[0].helpers);
    jobs.for_each(|job| engine.rename(job.relation, &job.name));
    changed.into_iter().for_each(|object| shared.catalogs.add(object));
    Ok(Outcome::Done(tag))
}

/// The object under a new name.
fn renamed(object: &Object, new: &str) -> Result<Object> {
    let mut renamed = object.clone();
    renamed.sql = planner::rename::definition(&object.sql, new)?;
    for job in renamed.job.iter_mut().chain(&mut renamed.helpers) {
        // A helper's name begins with that of its object.
        let rest = job.name.strip_prefix(&object.name).unwrap_or_default();
        job.name = format!("{new}{rest}");
    }
    renamed.name = new.to_owned();
    Ok(renamed)
}

/// Holds the deliveries of a sink, or lets them go on.
pub async fn pause(session: &mut Session, name: &ObjectName, pause: bool) -> Result<Outcome> {
    const TAG: &str = "ALTER SINK";
    session.before_ddl(TAG).await?;
    let object = session.shared.catalogs.current().expect(name, &session.bind_settings())?.clone();
    super::drop::check_kind(&object, NamedKind::Relation(ObjectKind::Sink))?;
    session.shared.engine()?.pause_sink(object.id, pause).await?;
    if !pause {
        session.shared.engine()?.resume_job(object.id).await?;
    }
    Ok(Outcome::Done(TAG.into()))
}

/// Lets what has failed go on from its last checkpoint, now.
pub async fn resume(session: &mut Session, kind: NamedKind, name: &ObjectName) -> Result<Outcome> {
    let tag = format!("ALTER {}", kind.words());
    session.before_ddl(&tag).await?;
    let object = session.shared.catalogs.current().expect(name, &session.bind_settings())?.clone();
    super::drop::check_kind(&object, kind)?;
    if object.kind == ObjectKind::View {
        let hint = "A view that is not materialized runs nothing by itself.";
        return Err(Error::new("42809", format!("\"{}\" cannot be resumed", object.name)).hint(hint));
    }
    session.shared.engine()?.resume_job(object.id).await?;
    Ok(Outcome::Done(tag))
}

/// Chooses what becomes of rows that fail, and how much memory its job may take.
pub async fn set(
    session: &mut Session,
    kind: NamedKind,
    name: &ObjectName,
    options: &[(String, String)],
) -> Result<Outcome> {
    let tag = format!("ALTER {}", kind.words());
    session.before_ddl(&tag).await?;
    let object = session.shared.catalogs.current().expect(name, &session.bind_settings())?.clone();
    super::drop::check_kind(&object, kind)?;
    let (on_error, mut others) = storage_parameters::on_error(options)?;
    let of_ttl = ttl::Options::take(&mut others)?;
    let mut keeping = object.job.as_ref().map(|job| job.keeping).unwrap_or_default();
    let keeps = storage_parameters::keeping(&mut others, &mut keeping)?;
    let (memory, others) = storage_parameters::memory(&others)?;
    storage_parameters::check(session, &others)?;
    if memory.is_some() && object.kind == ObjectKind::View {
        let hint = "A view that is not materialized runs nothing by itself.";
        return Err(Error::new("42809", format!("\"{}\" keeps nothing in memory", object.name)).hint(hint));
    }
    if keeps {
        set_keeping(&session.shared.clone(), object.id, keeping).await?;
    }
    match (on_error, object.kind) {
        (None, _) => {}
        (Some(OnError::Fail), ObjectKind::Table | ObjectKind::Sink) => {
            let message = format!("on_error = 'fail' for a {} is not supported", kind.words().to_lowercase());
            let hint = "A row that fails in an INSERT fails the INSERT; let the view fail that a sink reads.";
            return Err(Error::unsupported(message).hint(hint));
        }
        (Some(_), ObjectKind::View) => {
            let hint = "A view that is not materialized runs nothing by itself.";
            return Err(Error::new("42809", format!("\"{}\" has no rows that could fail", object.name)).hint(hint));
        }
        (Some(on_error), _) => session.shared.engine()?.set_on_error(object.id, on_error).await?,
    }
    ttl::set(session, name, &of_ttl).await?;
    if let Some(memory) = memory {
        session.shared.engine()?.set_memory(object.id, memory.bytes()).await?;
    }
    Ok(Outcome::Done(tag))
}

/// Chooses how much is kept of what an object sets aside.
async fn set_keeping(shared: &Shared, id: RelationId, keeping: Keeping) -> Result<()> {
    let _changing = shared.catalogs.lock().await;
    let object = shared.catalogs.current().by_id(id).map(|object| Object::clone(object));
    let Some((mut object, job)) = object.and_then(|object| Some((object.clone(), object.job?))) else {
        let hint = "A view that is not materialized runs nothing by itself.";
        return Err(Error::new("42809", "there is nothing that sets rows aside").hint(hint));
    };
    object.job = Some(JobSpec { keeping, ..job });
    replace(shared, object).await?;
    shared.engine()?.set_keeping(id, keeping);
    Ok(())
}

/// Keeps a comment.
pub async fn comment(session: &mut Session, comment: &Comment) -> Result<Outcome> {
    const TAG: &str = "COMMENT";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    if comment.kind == NamedKind::Column {
        return Err(Error::unsupported("a comment on a column is not supported yet"));
    }
    if let NamedKind::Relation(_) = comment.kind {
        let object = shared.catalogs.current().expect(&comment.name, &session.bind_settings())?.clone();
        super::drop::check_kind(&object, comment.kind)?;
        let mut commented = Object::clone(&object);
        commented.comment = comment.text.clone();
        replace(&shared, commented).await?;
    }
    Ok(Outcome::Done(TAG.into()))
}

async fn replace(shared: &Shared, object: Object) -> Result<()> {
    shared.engine()?.change_catalog(catalog::keep(&object)?).await?;
    shared.catalogs.add(object);
    Ok(())
}
