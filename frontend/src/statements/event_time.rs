//! `WATERMARK FOR column AS expr` of CREATE SOURCE and CREATE TABLE, and the options that belong to it.

use std::time::Duration;

use planner::Settings;
use planner::statement::Watermark;
use storage::{Column, RelationId};
use streaming::event_time::EventTime;

use crate::error::{Error, Result};

const IDLE_TIMEOUT: &str = "watermark.idle_timeout";
const MAX_DRIFT: &str = "watermark.alignment.max_drift";
const LATENESS: &str = "allowed_lateness";

/// What `WITH (...)` says of the event time.
#[derive(Default)]
pub struct Options {
    idle_timeout: Option<Duration>,
    max_drift: Option<Duration>,
    lateness: Duration,
    given: Option<&'static str>,
}

impl Options {
    /// Takes the options of the event time out of `options`; the others are the connector's.
    pub fn take(options: &mut Vec<(String, String)>) -> Result<Options> {
        let mut own = Options::default();
        let mut failed = None;
        options.retain(|(name, value)| {
            let Some(known) =
                [IDLE_TIMEOUT, MAX_DRIFT, LATENESS].into_iter().find(|known| name.eq_ignore_ascii_case(known))
            else {
                return true;
            };
            own.given = Some(known);
            match connectors::options::parse_duration(value) {
                None => {
                    let message =
                        format!("option \"{known}\" must be a time with its unit, as 500ms or 5s, not \"{value}\"");
                    failed.get_or_insert(Error::new("22023", message));
                }
                Some(time) => match known {
                    IDLE_TIMEOUT => own.idle_timeout = Some(time),
                    MAX_DRIFT => own.max_drift = Some(time),
                    _ => own.lateness = time,
                },
            }
            false
        });
        failed.map_or(Ok(own), Err)
    }

    /// Refuses what only sources with several splits have.
    pub fn of_table(self) -> Result<Options> {
        match self.idle_timeout.map(|_| IDLE_TIMEOUT).or(self.max_drift.map(|_| MAX_DRIFT)) {
            None => Ok(self),
            Some(name) => Err(Error::new("22023", format!("option \"{name}\" is for sources: a table has no splits"))),
        }
    }
}

/// A source or table whose event time is declared.
pub struct Relation<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its columns, the hidden ones included.
    pub columns: &'a [Column],
    /// The number of those that are not hidden.
    pub visible: usize,
    /// Whether its rows are never changed.
    pub append_only: bool,
}

/// The event time that a statement declares, if any; `late` gives the relation of the late rows.
pub fn event_time(
    settings: &Settings,
    relation: &Relation,
    watermarks: &[Watermark],
    options: Options,
    late: impl FnOnce() -> RelationId,
) -> Result<Option<EventTime>> {
    let watermark = match watermarks {
        [] => {
            return match options.given {
                None => Ok(None),
                Some(name) => Err(Error::new("22023", format!("option \"{name}\" needs a watermark"))
                    .hint("Declare WATERMARK FOR ... AS ... among the columns.")),
            };
        }
        [one] => one,
        [_, second, ..] => {
            let error = Error::unsupported("more than one watermark of a relation is not supported");
            return Err(error.position(Some(second.position)).hint("Declare it for the column that windows are over."));
        }
    };
    if watermark.ttl {
        let error = Error::unsupported("WATERMARK ... WITH TTL is not supported");
        return Err(error.position(Some(watermark.position)).hint("Leave WITH TTL out: rows are kept."));
    }
    let visible = &relation.columns[..relation.visible];
    let (column, expr) = planner::lower::plan_event_time(settings, relation.name, visible, watermark)?;
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    Ok(Some(EventTime {
        column,
        expr,
        visible: relation.visible,
        append_only: relation.append_only,
        lateness: micros(options.lateness),
        idle_timeout: options.idle_timeout,
        max_drift: options.max_drift.map(micros),
        late: late(),
        stamped: true,
    }))
}

/// Which columns have a watermark, for the catalog.
pub fn watermarks(event: Option<&EventTime>, columns: usize) -> streaming::watermark::Watermarks {
    let mut marks = vec![None; columns];
    if let Some(event) = event {
        marks[event.column] = Some(event.watermark(i64::MIN));
    }
    marks
}
