//! `CREATE SAVEPOINT POINT [IF NOT EXISTS] name`, `DROP SAVEPOINT POINT [IF EXISTS] name`: named checkpoints, kept until
//! they are dropped. `headwater restore` makes a data directory of one.

use std::path::{Path, PathBuf};

use storage::store::copy::{self, CopyInfo};

use super::backup;
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;

/// Where they are, in the data directory.
const FOLDER: &str = "savepoints";
/// Bytes of a name, at most: Postgres' own limit for names.
const NAME_BYTES_MAX: usize = 63;

/// Creates one.
pub async fn create(session: &mut Session, name: &str, if_not_exists: bool) -> Result<Outcome> {
    const TAG: &str = "CREATE SAVEPOINT POINT";
    session.before_ddl(TAG).await?;
    backup::check_role(session, "create a savepoint point")?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let place = place(&shared.config.data_dir, name)?;
    if place.exists() {
        let message = format!("savepoint point \"{name}\" already exists");
        if !if_not_exists {
            return Err(Error::new("42710", message));
        }
        session.notice(Error::notice(format!("{message}, skipping")));
        return Ok(Outcome::Done(TAG.into()));
    }
    let folder = folder(&shared.config.data_dir);
    let failed =
        |error: std::io::Error| Error::new("58030", format!("could not make \"{}\": {error}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(failed)?;
    backup::copy(shared.clone(), place).await?;
    Ok(Outcome::Done(TAG.into()))
}

/// Drops one.
pub async fn drop(session: &mut Session, name: &str, if_exists: bool) -> Result<Outcome> {
    const TAG: &str = "DROP SAVEPOINT POINT";
    session.before_ddl(TAG).await?;
    backup::check_role(session, "drop a savepoint point")?;
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let place = place(&shared.config.data_dir, name)?;
    if !place.exists() {
        let message = format!("savepoint point \"{name}\" does not exist");
        if !if_exists {
            return Err(Error::new("42704", message));
        }
        session.notice(Error::notice(format!("{message}, skipping")));
        return Ok(Outcome::Done(TAG.into()));
    }
    let removed = tokio::task::spawn_blocking(move || copy::remove(&place)).await;
    removed.map_err(|error| Error::new("XX000", error.to_string()))??;
    Ok(Outcome::Done(TAG.into()))
}

/// Those that are there, by name; of one that is damaged, how.
pub fn all(data_dir: &Path) -> Vec<(String, Result<CopyInfo, storage::Error>)> {
    let entries = std::fs::read_dir(folder(data_dir)).into_iter().flatten().flatten();
    // What begins with a dot is not done, or half removed.
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|name| !name.starts_with('.'));
    let mut names: Vec<String> = names.collect();
    names.sort();
    let info = |name: String| {
        let info = copy::check(&folder(data_dir).join(&name));
        (name, info)
    };
    names.into_iter().map(info).collect()
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER)
}

/// Its directory. The name is a file's name too.
fn place(data_dir: &Path, name: &str) -> Result<PathBuf> {
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !is_plain {
        let message = format!("invalid name for a savepoint point: \"{name}\"");
        let hint = format!("It has letters, digits and underscores, at most {NAME_BYTES_MAX}.");
        return Err(Error::new("42602", message).hint(hint));
    }
    Ok(folder(data_dir).join(name))
}
