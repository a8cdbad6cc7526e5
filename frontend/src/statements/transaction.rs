//! `BEGIN`, `START TRANSACTION`, `COMMIT`, `END`, `ROLLBACK`, `ABORT`, `SET TRANSACTION`, and savepoints.

use crate::error::Result;
use crate::outcome::Outcome;
use crate::session::Session;

/// `BEGIN [READ ONLY | READ WRITE]`
pub fn begin(session: &mut Session, read_only: Option<bool>, start: bool) -> Result<Outcome> {
    session.begin(read_only)?;
    Ok(Outcome::Done(if start { "START TRANSACTION" } else { "BEGIN" }.into()))
}

/// `COMMIT [AND CHAIN]`
pub async fn commit(session: &mut Session, chain: bool) -> Result<Outcome> {
    let committed = session.commit().await?;
    if chain {
        session.begin(None)?;
    }
    // Of a failed transaction nothing is left to commit.
    Ok(Outcome::Done(if committed { "COMMIT" } else { "ROLLBACK" }.into()))
}

/// `SET TRANSACTION`, `SET SESSION CHARACTERISTICS AS TRANSACTION`
pub fn set(session: &mut Session, read_only: Option<bool>, whole: bool) -> Result<Outcome> {
    if let Some(read_only) = read_only {
        if whole {
            let value = if read_only { "on" } else { "off" };
            super::set::run(session, "default_transaction_read_only", Some(value), false)?;
        } else {
            session.set_read_only(read_only);
        }
    }
    Ok(Outcome::Done("SET".into()))
}

/// `ROLLBACK [AND CHAIN]`
pub fn rollback(session: &mut Session, chain: bool) -> Result<Outcome> {
    session.rollback();
    if chain {
        session.begin(None)?;
    }
    Ok(Outcome::Done("ROLLBACK".into()))
}

/// `SAVEPOINT name`
pub fn savepoint(session: &mut Session, name: &str) -> Result<Outcome> {
    session.savepoint(name)?;
    Ok(Outcome::Done("SAVEPOINT".into()))
}

/// `RELEASE SAVEPOINT name`
pub fn release(session: &mut Session, name: &str) -> Result<Outcome> {
    session.release(name)?;
    Ok(Outcome::Done("RELEASE".into()))
}

/// `ROLLBACK TO SAVEPOINT name`
pub fn rollback_to(session: &mut Session, name: &str) -> Result<Outcome> {
    session.rollback_to(name)?;
    Ok(Outcome::Done("ROLLBACK".into()))
}
