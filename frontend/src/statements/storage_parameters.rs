//! `SET (name = value, ...)` of an object: `on_error`. And `WITH (name = value, ...)` behind a table or a view: what Postgres
//! and RisingWave know there besides `ttl`. None of the latter changes anything here, and whoever sets it is told so.

use streaming::engine::OnError;

use crate::error::{Error, Result};
use crate::session::Session;

/// Postgres' for tables, in every version that is in use.
const POSTGRES: &[&str] = &[
    "fillfactor",
    "log_autovacuum_min_duration",
    "parallel_workers",
    "toast_tuple_target",
    "user_catalog_table",
    "vacuum_index_cleanup",
    "vacuum_truncate",
];

/// RisingWave's for tables and materialized views.
const RISINGWAVE: &[&str] =
    &["backfill_order", "backfill_rate_limit", "dml_rate_limit", "parallelism", "source_rate_limit"];

/// Takes `on_error = 'table' | 'fail'` out of options.
pub fn on_error(options: &[(String, String)]) -> Result<(Option<OnError>, Vec<(String, String)>)> {
    let (found, others): (Vec<_>, Vec<_>) = options.iter().cloned().partition(|(name, _)| name == "on_error");
    let policy = |(_, value): &(String, String)| match value.as_str() {
        "table" => Ok(OnError::Table),
        "fail" => Ok(OnError::Fail),
        _ => Err(Error::new("22023", format!("invalid value for parameter \"on_error\": \"{value}\""))
            .hint("Available values: table, fail.")),
    };
    Ok((found.last().map(policy).transpose()?, others))
}

/// Refuses what nobody knows and tells what has no effect.
pub fn check(session: &Session, options: &[(String, String)]) -> Result<()> {
    for (name, _) in options {
        let plain = name.strip_prefix("toast.").unwrap_or(name);
        let is_known = POSTGRES.contains(&plain) || RISINGWAVE.contains(&plain) || plain.starts_with("autovacuum_");
        if !is_known {
            return Err(Error::new("22023", format!("unrecognized parameter \"{name}\"")));
        }
        session.notice(Error::notice(format!("parameter \"{name}\" has no effect")));
    }
    Ok(())
}
