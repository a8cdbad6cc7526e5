//! `SET (name = value, ...)` of an object: `on_error`, `errors_kept_max`, `errors_kept_hours`, `memory`. And `WITH (name = value, ...)`
//! behind a table or a view: what Postgres and RisingWave know there besides `ttl`. None of the latter changes anything here,
//! and whoever sets it is told so.

use planner::catalog::Object;
use streaming::engine::{Keeping, OnError};

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

/// Takes `errors_kept_max` and `errors_kept_hours` out of options into `keeping`; true if there were some.
pub fn keeping(options: &mut Vec<(String, String)>, keeping: &mut Keeping) -> Result<bool> {
    let (mut found, mut failed) = (false, None);
    options.retain(|(name, value)| {
        let is_default = value.eq_ignore_ascii_case("default");
        let said = match name.to_ascii_lowercase().as_str() {
            _ if failed.is_some() => return true,
            "errors_kept_max" => value.parse().map(|max| keeping.max = Some(max)).ok(),
            "errors_kept_hours" => value.parse().map(|hours| keeping.hours = Some(hours)).ok(),
            _ => return true,
        };
        found = true;
        match (said, name.to_ascii_lowercase().as_str()) {
            (None, "errors_kept_max") if is_default => keeping.max = None,
            (None, _) if is_default => keeping.hours = None,
            (None, _) => {
                let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
                failed = Some(Error::new("22023", message).hint("It is a whole number, or 'default'."));
            }
            (Some(()), _) => {}
        }
        false
    });
    failed.map_or(Ok(found), Err)
}

/// Tells where rows of a new object go that fail or are late.
pub fn tell(session: &Session, object: &Object) {
    use planner::catalog::{ERRORS_SUFFIX, LATE_SUFFIX, ObjectKind};
    let Some(job) = &object.job else { return };
    let name = |suffix| format!("\"{}{suffix}\"", object.name);
    let kept = match object.kind {
        ObjectKind::Source => Some("records that cannot be decoded"),
        ObjectKind::MaterializedView => Some("rows that fail"),
        ObjectKind::Sink if sets_aside(job) => Some("rows that the target refuses"),
        _ => None,
    };
    let kept = kept.map(|what| format!("{what} are kept in {}", name(ERRORS_SUFFIX)));
    let late = job.late().map(|_| format!("late rows are kept in {}", name(LATE_SUFFIX)));
    let said: Vec<String> = kept.into_iter().chain(late).collect();
    if !said.is_empty() {
        session.notice(Error::notice(said.join(", ")));
    }
}

/// Whether a sink goes on without the rows that its target refuses.
fn sets_aside(job: &streaming::engine::JobSpec) -> bool {
    use streaming::operators::AnyOperator;
    let root = &job.plan.root().operator;
    matches!(root, AnyOperator::Sink(sink) if sink.spec.on_error == streaming::sink::OnError::Table)
}

/// A memory budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many bytes.
    Bytes(u64),
    /// The server's alone.
    None,
}

/// The least that a job can do with.
const BUDGET_MIN: u64 = 1 << 20;

/// Takes `memory = '512MB'` out of options; `'default'` is no budget.
pub fn memory(options: &[(String, String)]) -> Result<(Option<Budget>, Vec<(String, String)>)> {
    let (found, others): (Vec<_>, Vec<_>) = options.iter().cloned().partition(|(name, _)| name == "memory");
    Ok((found.last().map(|(_, value)| budget(value)).transpose()?, others))
}

fn budget(value: &str) -> Result<Budget> {
    if value == "default" {
        return Ok(Budget::None);
    }
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = (value[..digits].parse::<u64>().ok(), value[digits..].trim_start());
    let factor = match unit {
        "" | "B" => Some(1_u64),
        "kB" => Some(1 << 10),
        "MB" => Some(1 << 20),
        "GB" => Some(1 << 30),
        "TB" => Some(1 << 40),
        _ => None,
    };
    let Some(bytes) = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor)) else {
        return Err(Error::new("22023", format!("invalid value for parameter \"memory\": \"{value}\""))
            .hint("Say a size, with a unit or in bytes (B, kB, MB, GB, TB), or 'default' for no budget of its own."));
    };
    if bytes < BUDGET_MIN {
        return Err(Error::new("22023", format!("parameter \"memory\" must be at least 1MB, not \"{value}\"")));
    }
    Ok(Budget::Bytes(bytes))
}

impl Budget {
    /// In bytes, if it is one.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Budget::Bytes(bytes) => Some(bytes),
            Budget::None => None,
        }
    }
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
