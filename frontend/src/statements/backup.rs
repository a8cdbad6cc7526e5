//! `BACKUP TO 'directory'`: everything that was acknowledged before, as of one checkpoint, while the server runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::shared::Shared;

/// Makes the directory, which the server writes, wherever the client is.
pub async fn run(session: &mut Session, directory: &str) -> Result<Outcome> {
    const TAG: &str = "BACKUP";
    session.before_ddl(TAG).await?;
    check_role(session, "back up the server")?;
    let to = Path::new(directory);
    if !to.is_absolute() {
        let message = format!("relative path not allowed for BACKUP: \"{directory}\"");
        return Err(Error::new("42602", message).hint("The path is one of the server's machine, from its root."));
    }
    copy(session.shared.clone(), to.to_owned()).await?;
    Ok(Outcome::Done(TAG.into()))
}

/// A checkpoint that holds all that was acknowledged before, and a copy of it or of a later one.
pub async fn copy(shared: Arc<Shared>, to: PathBuf) -> Result<()> {
    shared.engine()?.change_catalog(Vec::new()).await?;
    let made = tokio::task::spawn_blocking(move || shared.store.copy_to(&to)).await;
    made.map_err(|error| Error::new("XX000", error.to_string()))?.map(drop).map_err(copy_error)
}

fn copy_error(error: storage::Error) -> Error {
    match error {
        storage::Error::Conflict(message) => Error::new("42710", message),
        other => other.into(),
    }
}

/// Who may make the server write files.
pub fn check_role(session: &Session, what: &str) -> Result<()> {
    if session.shared.roles.get(&session.user).is_some_and(|role| role.is_super) {
        return Ok(());
    }
    Err(Error::new("42501", format!("must be superuser to {what}")))
}
