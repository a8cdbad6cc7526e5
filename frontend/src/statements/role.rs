//! `CREATE USER | ROLE name [WITH] [LOGIN | PASSWORD 'x' | VALID UNTIL 't' | SUPERUSER | CREATEDB | CREATEROLE ...]`,
//! `ALTER USER | ROLE name [WITH] options | RENAME TO name`, `DROP USER | ROLE [IF EXISTS] name [, ...]`

use planner::ScalarValue;
use planner::statement::{AlterRole, CreateRole, DropRole, RoleChange, RoleOptions};
use storage::SqlType;
use streaming::engine::CatalogChanges;

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::pgwire::password::verifier;
use crate::roles::{self, ROOT, Role};
use crate::session::Session;

/// Creates a role.
pub async fn create(session: &mut Session, statement: &CreateRole) -> Result<Outcome> {
    const TAG: &str = "CREATE ROLE";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let name = &statement.name;
    check_name(name)?;
    if shared.roles.get(name).is_some() {
        return Err(Error::new("42710", format!("role \"{name}\" already exists")));
    }
    let engine = shared.engine()?;
    let mut role = Role::new(engine.allocate_relation().0, name);
    change(session, &mut role, &statement.options)?;
    engine.change_catalog(role.keep()?).await?;
    shared.roles.put(role);
    session.notice(Error::notice("every role may do everything: privileges are not checked"));
    Ok(Outcome::Done(TAG.into()))
}

/// Changes a role.
pub async fn alter(session: &mut Session, statement: &AlterRole) -> Result<Outcome> {
    const TAG: &str = "ALTER ROLE";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let name = statement.name.clone().unwrap_or_else(|| session.user.clone());
    let mut role = shared.roles.get(&name).ok_or_else(|| missing(&name))?;
    let mut changes = CatalogChanges::default();
    match &statement.change {
        RoleChange::Options(options) => change(session, &mut role, options)?,
        RoleChange::Rename(new) => {
            check_name(new)?;
            if name == ROOT {
                return Err(Error::unsupported("role \"root\" cannot be renamed"));
            }
            if name == session.user {
                return Err(Error::unsupported("session user cannot be renamed"));
            }
            if shared.roles.get(new).is_some() {
                return Err(Error::new("42710", format!("role \"{new}\" already exists")));
            }
            changes = roles::forget(&name);
            role.name.clone_from(new);
        }
    }
    changes.extend(role.keep()?);
    shared.engine()?.change_catalog(changes).await?;
    if role.name != name {
        shared.roles.remove(&name);
    }
    shared.roles.put(role);
    Ok(Outcome::Done(TAG.into()))
}

/// Drops roles.
pub async fn drop(session: &mut Session, statement: &DropRole) -> Result<Outcome> {
    const TAG: &str = "DROP ROLE";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let mut dropped = Vec::new();
    for name in &statement.names {
        match shared.roles.get(name) {
            Some(_) if *name == session.user => return Err(Error::new("55006", "current user cannot be dropped")),
            Some(_) if name == ROOT => {
                let error = Error::new("2BP01", "cannot drop role root because it is required by the database system");
                return Err(error);
            }
            Some(_) => dropped.push(name),
            None if statement.if_exists => {
                session.notice(Error::notice(format!("role \"{name}\" does not exist, skipping")));
            }
            None => return Err(missing(name)),
        }
    }
    let changes = dropped.iter().flat_map(|name| roles::forget(name)).collect();
    shared.engine()?.change_catalog(changes).await?;
    dropped.iter().for_each(|name| shared.roles.remove(name));
    Ok(Outcome::Done(TAG.into()))
}

fn missing(name: &str) -> Error {
    Error::new("42704", format!("role \"{name}\" does not exist"))
}

fn check_name(name: &str) -> Result<()> {
    if name.starts_with("pg_") {
        let error = Error::new("42939", format!("role name \"{name}\" is reserved"));
        return Err(error.detail("Role names starting with \"pg_\" are reserved."));
    }
    if matches!(name, "public" | "none") {
        return Err(Error::new("42939", format!("role name \"{name}\" is reserved")));
    }
    Ok(())
}

fn change(session: &Session, role: &mut Role, options: &RoleOptions) -> Result<()> {
    role.can_login = options.can_login.unwrap_or(role.can_login);
    role.is_super = options.is_super.unwrap_or(role.is_super);
    role.creates_databases = options.creates_databases.unwrap_or(role.creates_databases);
    role.creates_roles = options.creates_roles.unwrap_or(role.creates_roles);
    match &options.password {
        None => (),
        // As in Postgres: whoever had one would be let in with nothing.
        Some(Some(password)) if password.is_empty() => {
            session.notice(Error::notice("empty string is not a valid password, clearing password"));
            role.password = None;
        }
        Some(password) => role.password = password.as_deref().map(verifier),
    }
    if let Some(text) = &options.valid_until {
        let value = planner::types::text::read_in(text, &SqlType::TimestampTz, -1, &session.text_session())?;
        role.valid_until = match value {
            // Infinity is no end.
            ScalarValue::TimestampMicrosecond(end, _) => end.filter(|end| *end != i64::MAX),
            _ => None,
        };
    }
    Ok(())
}
