//! `ALTER kind name RENAME TO new`, `ALTER SINK name PAUSE | RESUME`, `COMMENT ON kind name IS text`

use planner::catalog::{Object, ObjectKind};
use planner::statement::{AlterRename, Comment, NamedKind, ObjectName};

use crate::catalog;
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::shared::Shared;

/// Renames an object.
pub async fn rename(session: &mut Session, alter: &AlterRename) -> Result<Outcome> {
    let tag = format!("ALTER {}", alter.kind.words());
    session.before_ddl(&tag).await?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let catalog = shared.catalogs.current();
    let object = catalog.expect(&alter.name, &session.bind_settings())?.clone();
    super::drop::check_kind(&object, alter.kind)?;
    let mut renamed = Object::clone(&object);
    if let Some(view) = catalog.dependents(object.id).iter().find(|o| o.kind == ObjectKind::View) {
        let message = format!("cannot rename {} while view {} reads it", object.name, view.name);
        return Err(Error::unsupported(message).hint("Drop the view and create it again."));
    }
    match &alter.column {
        Some(_) => return Err(Error::unsupported("renaming a column is not supported yet")),
        None => {
            if catalog.get(&object.schema, &alter.new_name).is_some() {
                return Err(Error::new("42P07", format!("relation \"{}\" already exists", alter.new_name)));
            }
            renamed.name = alter.new_name.clone();
        }
    }
    replace(&shared, renamed).await?;
    Ok(Outcome::Done(tag))
}

/// Holds the deliveries of a sink, or lets them go on.
pub async fn pause(session: &mut Session, name: &ObjectName, pause: bool) -> Result<Outcome> {
    const TAG: &str = "ALTER SINK";
    session.before_ddl(TAG).await?;
    let object = session.shared.catalogs.current().expect(name, &session.bind_settings())?.clone();
    super::drop::check_kind(&object, NamedKind::Relation(ObjectKind::Sink))?;
    session.shared.engine()?.pause_sink(object.id, pause).await?;
    Ok(Outcome::Done(TAG.into()))
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
