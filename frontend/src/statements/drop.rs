//! `DROP TABLE | SOURCE | SINK | VIEW | MATERIALIZED VIEW | INDEX [IF EXISTS] name [, ...] [RESTRICT | CASCADE]`

use std::sync::Arc;

use planner::catalog::{Object, ObjectKind};
use planner::statement::{Drop, NamedKind};
use storage::RelationId;
use streaming::engine::Engine;

use crate::catalog::{self, kind_name};
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::shared::Shared;

/// Drops the named objects and, with CASCADE, what depends on them.
pub async fn run(session: &mut Session, statement: &Drop) -> Result<Outcome> {
    let Drop { kind, names, if_exists, cascade } = statement;
    let tag = format!("DROP {}", kind.words());
    let what = kind.words().to_lowercase();
    session.before_ddl(&tag).await?;
    let shared = session.shared.clone();
    let settings = session.bind_settings();
    let _changing = shared.catalogs.lock().await;
    let catalog = shared.catalogs.current();
    let mut named: Vec<Arc<Object>> = Vec::new();
    for name in names {
        let object = match catalog.find(name, &settings) {
            Some(object) => object,
            None if *if_exists => {
                let message = format!("{what} \"{}\" does not exist, skipping", name.last());
                session.notice(Error::notice(message));
                continue;
            }
            None => {
                let message = format!("{what} \"{}\" does not exist", name.last());
                return Err(Error::new("42P01", message));
            }
        };
        check_kind(object, *kind)?;
        named.push(object.clone());
    }
    let mut dropped: Vec<Object> = Vec::new();
    for object in &named {
        let dependents = catalog::dependents(&catalog, object.id);
        let ids = std::iter::once(object.id).chain(dependents.iter().map(|o| o.id));
        if let Some(creating) = ids.filter_map(|id| shared.catalogs.created_over(id)).next() {
            let (kind, what) = (kind_name(object.kind), kind_name(creating.kind));
            let error = Error::new("55006", format!("cannot drop {kind} {} because it is in use", object.name));
            return Err(error.detail(format!("{what} {} reads it.", creating.name)));
        }
        // An index goes with what it is on.
        let others: Vec<&Object> = dependents.iter().filter(|o| o.kind != ObjectKind::Index).collect();
        let is_named = |o: &Object| named.iter().any(|n| n.id == o.id);
        let unnamed: Vec<&Object> = others.iter().copied().filter(|o| !is_named(o)).collect();
        if !unnamed.is_empty() && !*cascade {
            return Err(depended_on(object, &unnamed, &catalog));
        }
        announce(session, &unnamed);
        for object in std::iter::once(object.as_ref().clone()).chain(dependents) {
            if !dropped.iter().any(|d| d.id == object.id) {
                dropped.push(object);
            }
        }
    }
    if !dropped.is_empty() {
        remove(shared.clone(), dropped).await?;
    }
    Ok(Outcome::Done(tag))
}

/// Forgets objects and stops their jobs.
pub async fn remove(shared: Arc<Shared>, dropped: Vec<Object>) -> Result<()> {
    let engine = shared.engine()?;
    let ids: Vec<RelationId> = dropped.iter().map(|o| o.id).collect();
    // Downstream before upstream.
    let order = catalog::in_order(&dropped).into_iter().rev();
    let jobs = order.flat_map(|o| o.job.iter().chain(&o.helpers).map(|job| job.relation));
    let jobs: Vec<RelationId> = jobs.collect();
    let changes = catalog::forget(&ids);
    // On a task of its own: once begun, it is finished even if the client goes away or cancels.
    let task = tokio::spawn(async move {
        if jobs.is_empty() {
            engine.change_catalog(changes).await?;
        } else {
            Engine::drop(&engine, jobs, changes).await?;
        }
        shared.catalogs.remove(&ids);
        Ok::<_, Error>(())
    });
    task.await.map_err(|e| Error::new("XX000", e.to_string()))?
}

/// Whether a statement may name an object of that kind.
pub fn check_kind(object: &Object, wanted: NamedKind) -> Result<()> {
    if wanted == NamedKind::Relation(object.kind) && object.kind != ObjectKind::System {
        return Ok(());
    }
    if object.kind == ObjectKind::System {
        let message = format!("permission denied: \"{}\" is a system catalog", object.name);
        return Err(Error::new("42501", message));
    }
    let wanted = wanted.words().to_lowercase();
    let article = if wanted.starts_with('i') { "an" } else { "a" };
    let error = Error::new("42809", format!("\"{}\" is not {article} {wanted}", object.name));
    let kind = kind_name(object.kind);
    let article = if object.kind == ObjectKind::Index { "an" } else { "a" };
    Err(error.hint(format!("Use DROP {} to remove {article} {kind}.", kind.to_uppercase())))
}

fn depended_on(object: &Object, dependents: &[&Object], catalog: &planner::catalog::Catalog) -> Error {
    let line = |o: &&Object| {
        let on = o.depends_on.iter().find_map(|id| {
            let upstream = catalog.by_id(*id)?;
            (upstream.id == object.id || dependents.iter().any(|d| d.id == upstream.id)).then_some(upstream)
        });
        let on = on.map_or_else(|| object.name.clone(), |u| format!("{} {}", kind_name(u.kind), u.name));
        format!("{} {} depends on {on}", kind_name(o.kind), o.name)
    };
    let lines: Vec<String> = dependents.iter().map(line).collect();
    let message = format!("cannot drop {} {} because other objects depend on it", kind_name(object.kind), object.name);
    Error::new("2BP01", message)
        .detail(lines.join("\n"))
        .hint("Use DROP ... CASCADE to drop the dependent objects too.")
}

fn announce(session: &Session, dependents: &[&Object]) {
    match dependents {
        [] => (),
        [one] => session.notice(Error::notice(format!("drop cascades to {} {}", kind_name(one.kind), one.name))),
        many => {
            let lines: Vec<String> =
                many.iter().map(|o| format!("drop cascades to {} {}", kind_name(o.kind), o.name)).collect();
            let message = format!("drop cascades to {} other objects", many.len());
            session.notice(Error::notice(message).detail(lines.join("\n")));
        }
    }
}
