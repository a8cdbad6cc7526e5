//! `WITH (ttl = '1 hour' [, ttl_column = 'at'])` of a table or a view, and RisingWave's `retention_seconds`.

use planner::catalog::{Object, ObjectKind};
use planner::statement::ObjectName;
use planner::types::datetime;
use storage::{Column, SqlType};
use streaming::operators::AnyOperator;
use streaming::ttl::Ttl;

use crate::catalog;
use crate::error::{Error, Result};
use crate::session::Session;

/// The hidden column with the time at which a row of a table with a ttl was inserted.
pub const INSERTED_AT: &str = "_inserted_at";

const TTL: &str = "ttl";
const RETENTION: &str = "retention_seconds";
const TTL_COLUMN: &str = "ttl_column";

/// What the options say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How old rows become, in microseconds.
    pub micros: Option<i64>,
    /// The column with the time that they are as old as.
    pub column: Option<String>,
}

impl Options {
    /// Takes them out of all options.
    pub fn take(options: &mut Vec<(String, String)>) -> Result<Options> {
        let mut own = Options::default();
        let mut failed = None;
        options.retain(|(name, value)| {
            match name.as_str() {
                TTL_COLUMN => own.column = Some(value.clone()),
                TTL | RETENTION => match micros(name, value) {
                    Ok(micros) if own.micros.is_none_or(|before| before == micros) => own.micros = Some(micros),
                    Ok(_) => {
                        let message = format!("options \"{TTL}\" and \"{RETENTION}\" say different times");
                        failed.get_or_insert(Error::new("22023", message));
                    }
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                },
                _ => return true,
            }
            false
        });
        if own.micros.is_none() && own.column.is_some() {
            failed.get_or_insert(Error::new("22023", format!("option \"{TTL_COLUMN}\" needs a \"{TTL}\"")));
        }
        failed.map_or(Ok(own), Err)
    }

    /// The ttl of a table with `columns`. One without a column that says when a row was inserted gets one, hidden; then
    /// true is returned with it.
    pub fn of_table(&self, columns: &[Column], generated: &[usize], append_only: bool) -> Result<Option<(Ttl, bool)>> {
        let Some(micros) = self.micros else { return Ok(None) };
        if append_only {
            return Err(Error::unsupported("ttl of an APPEND ONLY table is not supported")
                .hint("Views over such a table keep less because its rows never go: leave APPEND ONLY out."));
        }
        if let Some(name) = &self.column {
            let column = columns.iter().position(|column| column.name == *name);
            let column = column.ok_or_else(|| Error::new("42703", format!("ttl_column \"{name}\" does not exist")))?;
            if !matches!(columns[column].ty, SqlType::Timestamp | SqlType::TimestampTz) {
                let is = planner::types::format(&columns[column].ty, columns[column].typmod);
                let message = format!("ttl_column \"{name}\" is of type {is} but has to be a timestamp");
                return Err(Error::new("42804", message));
            }
            return Ok(Some((Ttl { column, micros, stamped: false }, false)));
        }
        // An UPDATE may set it to DEFAULT, which only makes the row younger.
        let (column, is_new) = match generated.first() {
            Some(column) => (*column, false),
            None => (columns.len(), true),
        };
        Ok(Some((Ttl { column, micros, stamped: true }, is_new)))
    }

    /// How long a view keeps what came, in microseconds.
    pub fn of_view(&self) -> Result<Option<i64>> {
        match &self.column {
            None => Ok(self.micros),
            Some(_) => Err(Error::unsupported(format!("option \"{TTL_COLUMN}\" of a view is not supported"))
                .hint("A view's rows are as old as they are in the view; or say WHERE at > now() - INTERVAL '1 day'.")),
        }
    }
}

fn micros(name: &str, value: &str) -> Result<i64> {
    let wrong = || {
        let message = format!("option \"{name}\" must be a time above zero, not \"{value}\"");
        let hint = if name == RETENTION { "Say how many seconds." } else { "As an interval: '1 hour', '7 days'." };
        Error::new("22023", message).hint(hint)
    };
    let micros = match name {
        RETENTION => value.parse::<i64>().ok().and_then(|seconds| seconds.checked_mul(datetime::SECOND)),
        // A bare number has no unit here.
        _ if value.parse::<f64>().is_ok() => None,
        _ => datetime::read_interval(value, -1).ok().and_then(|all| i64::try_from(all.total_micros()).ok()),
    };
    micros.filter(|micros| *micros > 0).ok_or_else(wrong)
}

/// As an interval.
pub fn text(micros: i64) -> String {
    let days = i32::try_from(micros / datetime::DAY).unwrap_or(i32::MAX);
    let mut text = String::new();
    datetime::write_interval(datetime::Interval { months: 0, days, micros: micros % datetime::DAY }, &mut text);
    text
}

/// `ALTER TABLE name SET (ttl = ...)`: of a table that has one.
pub async fn set(session: &mut Session, name: &ObjectName, options: &Options) -> Result<()> {
    let Some(micros) = options.micros else { return Ok(()) };
    let shared = session.shared.clone();
    let _changing = shared.catalogs.lock().await;
    let object = shared.catalogs.current().expect(name, &session.bind_settings())?.clone();
    let refused = || {
        Error::unsupported(format!("ttl of \"{}\" cannot be set", object.name))
            .hint("A table that is created WITH (ttl = ...) can get another one: create it again, with a ttl.")
    };
    if object.kind != ObjectKind::Table || options.column.is_some() {
        return Err(refused());
    }
    let mut changed = Object::clone(&object);
    let source = changed.job.as_mut().and_then(|job| job.plan.nodes.first_mut()).map(|node| &mut node.operator);
    let Some(AnyOperator::TableSource(source)) = source else { return Err(refused()) };
    let ttl = Ttl { micros, ..source.ttl.ok_or_else(refused)? };
    source.ttl = Some(ttl);
    changed.sql = planner::rename::option(&object.sql, &[TTL, RETENTION], TTL, &text(micros))?;
    shared.engine()?.set_ttl(object.id, ttl, catalog::keep(&changed)?).await?;
    shared.catalogs.add(changed);
    Ok(())
}
