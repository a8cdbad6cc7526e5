//! `CREATE [OR REPLACE] VIEW v [(columns)] AS query`: a name for a query, bound again wherever it is used.

use planner::catalog::{Object, ObjectKind};
use planner::statement::CreateView;

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statements::create::{create, exists, query_columns, schema_of};

/// Creates a view.
pub async fn run(session: &mut Session, statement: &CreateView, text: &str) -> Result<Outcome> {
    const TAG: &str = "CREATE VIEW";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let catalog = shared.catalogs.current();
    let schema = schema_of(session, &statement.name)?;
    let name = statement.name.last();
    let before = catalog.get(&schema, name).filter(|_| statement.or_replace).cloned();
    match &before {
        None if exists(session, &schema, name, statement.if_not_exists)? => return Ok(Outcome::Done(TAG.into())),
        Some(before) if before.kind != ObjectKind::View => {
            return Err(Error::new("42809", format!("\"{name}\" is not a view")));
        }
        _ => (),
    }
    let settings = session.bind_settings();
    let bound = planner::bind_view(&catalog, &settings, &statement.query)?;
    let columns = query_columns(&bound, &statement.columns)?;
    if let Some(before) = &before
        && let Some(changed) = before.columns.iter().zip(&columns).find(|(a, b)| a.name != b.name || a.ty != b.ty)
    {
        let message = format!("cannot change column \"{}\" of view \"{name}\"", changed.0.name);
        return Err(Error::new("42P16", message));
    }
    if before.as_ref().is_some_and(|b| b.columns.len() > columns.len()) {
        return Err(Error::new("42P16", "cannot drop columns from view"));
    }
    let engine = shared.engine()?;
    let object = Object {
        id: before.map_or_else(|| engine.allocate_relation(), |b| b.id),
        schema,
        name: name.to_owned(),
        kind: ObjectKind::View,
        columns,
        sql: text.to_owned(),
        depends_on: bound.depends_on,
        ..Default::default()
    };
    create(&shared, object, None).await?;
    Ok(Outcome::Done(TAG.into()))
}
