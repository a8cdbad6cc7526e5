//! `SHOW name`, `SHOW ALL`, and `SHOW TABLES | SOURCES | SINKS | SINK GROUPS | MATERIALIZED VIEWS | VIEWS | INDEXES | JOBS |
//! SCHEMAS | DATABASES | COLUMNS FROM t | CREATE ... t` as RisingWave has them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use planner::catalog::{Object, ObjectKind};
use planner::statement::{ObjectName, Show};
use storage::SqlType;

use crate::catalog::kind_name;
use crate::error::{Error, Result};
use crate::fields::Field;
use crate::outcome::{Outcome, Rows, RowsTag};
use crate::pg_catalog::names::{DATABASE, SCHEMAS};
use crate::pg_catalog::objects::visible;
use crate::session::Session;
use crate::statements::select;

/// Shows what is asked for.
pub fn run(session: &mut Session, show: &Show) -> Result<Outcome> {
    let catalog = session.shared.catalogs.current();
    let settings = session.bind_settings();
    match show {
        Show::Setting(name) => setting(session, name),
        Show::All => all(session),
        Show::Objects { kind, schema, like } => objects(session, *kind, schema.as_deref(), like.as_deref()),
        Show::Other(what) if matches!(what.as_str(), "cluster" | "processlist" | "parameters") => {
            Err(Error::unsupported(format!("SHOW {} is not supported", what.to_uppercase()))
                .hint("pg_stat_activity tells who does what, headwater_catalog.settings how the server is set."))
        }
        // There are none.
        Show::Other(_) => texts(session, names_of(show), Vec::new()),
        Show::SinkGroups => {
            let groups = session.shared.catalogs.sink_groups();
            texts(session, names_of(show), groups.keys().map(|name| vec![Some(name.clone())]).collect())
        }
        Show::Schemas => texts(session, names_of(show), SCHEMAS.iter().map(|s| vec![Some(s.0.to_owned())]).collect()),
        Show::Databases => texts(session, names_of(show), vec![vec![Some(DATABASE.to_owned())]]),
        Show::Columns(name) => columns(session, name),
        Show::IndexesOf(name) => {
            let object = catalog.expect(name, &settings)?;
            let is_on = |o: &&Arc<Object>| o.kind == ObjectKind::Index && o.depends_on.contains(&object.id);
            let row = |o: &Arc<Object>| vec![Some(o.name.clone()), Some(object.name.clone()), Some(o.sql.clone())];
            texts(session, names_of(show), catalog.objects().filter(is_on).map(row).collect())
        }
        Show::Create(kind, name) => {
            let object = catalog.expect(name, &settings)?;
            super::drop::check_kind(object, *kind)?;
            let full = format!("{}.{}", object.schema, object.name);
            texts(session, names_of(show), vec![vec![Some(full), Some(object.sql.clone())]])
        }
        Show::Jobs => jobs(session),
    }
}

/// The columns of SHOW, for Describe.
pub fn fields(show: &Show) -> Result<Vec<Field>> {
    if let Show::Setting(name) = show {
        return Ok(vec![Field::new(shown_name(name)?, SqlType::Text)]);
    }
    Ok(names_of(show).iter().map(|name| Field::new(*name, SqlType::Text)).collect())
}

fn names_of(show: &Show) -> &'static [&'static str] {
    match show {
        Show::All => &["name", "setting", "description"],
        Show::Columns(_) => COLUMNS,
        Show::IndexesOf(_) => &["Name", "On", "Definition"],
        Show::Create(..) => &["Name", "Create Sql"],
        Show::Jobs => &["Id", "Name", "Kind", "State", "Progress", "Error"],
        _ => &["Name"],
    }
}

/// What DESCRIBE shows of a column.
pub const COLUMNS: &[&str] = &["Name", "Type", "Nullable", "Key", "Default"];

/// A setting's name as it heads its column.
fn shown_name(name: &str) -> Result<String> {
    let plain = name.to_lowercase();
    Ok(match plain.as_str() {
        "time zone" => "TimeZone".into(),
        "transaction isolation level" => "transaction_isolation".into(),
        "session authorization" => "session_authorization".into(),
        custom if custom.contains('.') => plain,
        _ => crate::settings::find(name)?.name.to_owned(),
    })
}

/// `SHOW name`
fn setting(session: &mut Session, name: &str) -> Result<Outcome> {
    let shown = shown_name(name)?;
    let value = session.settings.get(&shown)?.to_owned();
    texts(session, &[&shown], vec![vec![Some(value)]])
}

/// `SHOW ALL`
fn all(session: &mut Session) -> Result<Outcome> {
    let row = |s: &'static crate::settings::Setting| {
        vec![Some(s.name.to_owned()), Some(session.settings.of(s).to_owned()), Some(s.description.to_owned())]
    };
    let mut rows: Vec<_> = crate::settings::SETTINGS.iter().map(row).collect();
    rows.sort_by_key(|row| row[0].as_deref().map(str::to_lowercase));
    texts(session, &["name", "setting", "description"], rows)
}

/// `SHOW TABLES` and the like: the names of the objects of a kind.
fn objects(session: &mut Session, kind: ObjectKind, schema: Option<&str>, like: Option<&str>) -> Result<Outcome> {
    let catalog = session.shared.catalogs.current();
    let mut rows: Vec<_> = catalog
        .objects()
        .filter(|o| o.kind == kind && o.schema == schema.unwrap_or("public"))
        .filter(|o| like.is_none_or(|pattern| is_like(&o.name, pattern)))
        .map(|o| vec![Some(o.name.clone())])
        .collect();
    rows.sort();
    texts(session, &["Name"], rows)
}

/// `LIKE` without escapes.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '%' => text.char_indices().map(|(i, _)| i).chain([text.len()]).any(|i| is_like(&text[i..], rest)),
        _ => match text.chars().next() {
            Some(c) if first == '_' || c == first => is_like(&text[c.len_utf8()..], rest),
            _ => false,
        },
    }
}

/// `SHOW COLUMNS FROM t`, `DESCRIBE t`
pub fn columns(session: &mut Session, name: &ObjectName) -> Result<Outcome> {
    let catalog = session.shared.catalogs.current();
    let object = catalog.expect(name, &session.bind_settings())?;
    let rows = (visible(object).iter().enumerate())
        .map(|(i, c)| {
            let key = object.primary_key.contains(&i);
            let null = if c.not_null || key { "NO" } else { "YES" };
            vec![
                Some(c.name.clone()),
                Some(planner::types::format(&c.ty, c.typmod)),
                Some(null.to_owned()),
                Some(if key { "PRI" } else { "" }.to_owned()),
                object.defaults.get(i).cloned().flatten(),
            ]
        })
        .collect();
    texts(session, COLUMNS, rows)
}

/// `SHOW JOBS`
fn jobs(session: &mut Session) -> Result<Outcome> {
    let catalog = session.shared.catalogs.current();
    let status = session.shared.engine()?.status();
    let rows = (status.jobs.iter())
        .map(|job| {
            let kind = catalog.by_id(job.relation).map(|o| kind_name(o.kind).to_owned());
            let state = format!("{:?}", job.state).to_lowercase();
            let progress = match job.rows_total {
                Some(total) if total > 0 => Some(format!("{}/{total}", job.rows_read)),
                _ => None,
            };
            vec![
                Some(job.relation.0.to_string()),
                Some(job.name.clone()),
                kind,
                Some(state),
                progress,
                job.error.clone(),
            ]
        })
        .collect();
    texts(session, &["Id", "Name", "Kind", "State", "Progress", "Error"], rows)
}

/// Rows of text.
pub fn texts(session: &Session, names: &[&str], rows: Vec<Vec<Option<String>>>) -> Result<Outcome> {
    let fields = names.iter().map(|name| Field::new(*name, SqlType::Text)).collect();
    Ok(Outcome::Rows(Rows::ready(fields, text_batch(names, &rows)?, RowsTag::Fixed("SHOW"), select::style(session))))
}

/// A batch of text columns.
pub fn text_batch(names: &[&str], rows: &[Vec<Option<String>>]) -> Result<RecordBatch> {
    let column = |i: usize| {
        let values = rows.iter().map(|row| row.get(i).and_then(Option::as_deref));
        Arc::new(values.collect::<StringViewArray>()) as ArrayRef
    };
    let columns: Vec<_> = names.iter().map(|name| storage::Column::new(*name, SqlType::Text)).collect();
    let arrays = (0..names.len()).map(column).collect();
    RecordBatch::try_new(storage::types::arrow_schema(&columns), arrays).map_err(Error::from)
}
