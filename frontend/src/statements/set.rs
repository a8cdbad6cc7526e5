//! `SET [LOCAL] name = value`, `RESET name`, `RESET ALL`, `DISCARD ALL`, `SET TIME ZONE`.

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;

/// `SET name = value`; `None` is DEFAULT.
pub fn run(session: &mut Session, name: &str, value: Option<&str>, local: bool) -> Result<Outcome> {
    if local && !session.is_in_block() {
        session.notice(Error::warning("25P01", "SET LOCAL can only be used in transaction blocks"));
        return Ok(Outcome::Done("SET".into()));
    }
    let set = match value {
        Some(value) => session.settings.set(name, value)?,
        None => session.settings.reset(name)?,
    };
    if let Some((setting, value)) = set {
        session.report(setting, &value);
        if local {
            session.set_local(setting);
        }
        if setting.name == "transaction_read_only" && session.is_in_block() {
            session.set_read_only(value == "on");
        }
    }
    Ok(Outcome::Done("SET".into()))
}

/// `RESET name`, `RESET ALL`
pub fn reset(session: &mut Session, name: Option<&str>) -> Result<Outcome> {
    match name {
        Some(name) => {
            run(session, name, None, false)?;
        }
        None => reset_all(session),
    }
    Ok(Outcome::Done("RESET".into()))
}

/// `DISCARD ALL`
pub fn discard(session: &mut Session, what: &str) -> Result<Outcome> {
    if what.eq_ignore_ascii_case("all") {
        if session.is_in_block() {
            return Err(Error::new("25001", "DISCARD ALL cannot run inside a transaction block"));
        }
        reset_all(session);
        session.prepared.clear();
        session.cursors.clear();
    }
    Ok(Outcome::Done(format!("DISCARD {}", what.to_uppercase())))
}

fn reset_all(session: &mut Session) {
    let before = session.settings.clone();
    session.settings.reset_all();
    for setting in crate::settings::SETTINGS.iter() {
        let value = session.settings.of(setting).to_owned();
        if before.of(setting) != value {
            session.report(setting, &value);
        }
    }
}
