//! `CREATE SINK [IF NOT EXISTS] s [INTO t [(columns)]] FROM rel | AS query [WITH (...)] [FORMAT f ENCODE e (...)]`: a job
//! whose result leaves, every change once.

use planner::catalog::{Object, ObjectKind, quote_ident};
use planner::lower::{ViewPlan, sink_of, view_of};
use planner::statement::{Connection, CreateSink, SinkFrom};
use storage::{Column, RelationId};
use streaming::engine::{JobSpec, Keeping};
use streaming::sink::{OnError, SinkSpec, SinkType};

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::statements::create::{create, exists, query_columns, schema_of};
use crate::statements::{sink_group, sink_into, storage_parameters};

/// Bytes that an outbox may hold unless its sink says otherwise.
const OUTBOX_BYTES_MAX: u64 = 16 << 30;

/// What is to be created.
pub struct SinkPlan {
    /// The job.
    pub job: JobSpec,
    /// What it reads, and the table that it writes.
    pub depends_on: Vec<RelationId>,
    /// Jobs that it needs besides.
    pub helpers: Vec<JobSpec>,
}

/// Creates a sink.
pub async fn run(session: &mut Session, statement: &CreateSink, text: &str) -> Result<Outcome> {
    const TAG: &str = "CREATE SINK";
    session.before_ddl(TAG).await?;
    let shared = session.shared.clone();
    let changing = shared.catalogs.lock().await;
    let schema = schema_of(session, &statement.name)?;
    if exists(session, &schema, statement.name.last(), statement.if_not_exists)? {
        return Ok(Outcome::Done(TAG.into()));
    }
    sink_group::begin(&shared, &statement.connection.options).await?;
    let SinkPlan { job, depends_on, helpers } = plan(session, statement)?;
    let object = Object {
        id: job.relation,
        schema,
        name: statement.name.last().to_owned(),
        kind: ObjectKind::Sink,
        columns: job.columns.clone(),
        sql: text.to_owned(),
        depends_on,
        errors: Some(job.errors),
        job: Some(job),
        helpers,
        ..Default::default()
    };
    // Others may create things while this one asks its target and reads.
    let _place = shared.catalogs.take_place(&object);
    storage_parameters::tell(session, &object);
    drop(changing);
    create(&shared, object, Some(session.notices())).await?;
    Ok(Outcome::Done(TAG.into()))
}

/// The job that fills the outbox.
pub fn plan(session: &Session, statement: &CreateSink) -> Result<SinkPlan> {
    let catalog = session.shared.catalogs.current();
    let engine = session.shared.engine()?;
    let settings = session.bind_settings();
    let mut said = Said::new(session, statement)?;
    let query = match &statement.from {
        SinkFrom::Relation(name) => {
            let object = catalog.expect(name, &settings)?;
            let text = format!("SELECT * FROM {}.{}", quote_ident(&object.schema), quote_ident(&object.name));
            planner::parser::parse_query(&text)?
        }
        SinkFrom::Query(_) if !said.snapshot => {
            return Err(Error::unsupported("snapshot = false is not supported with AS query")
                .hint("Create a materialized view of the query and a sink FROM it."));
        }
        SinkFrom::Query(query) => query.clone(),
    };
    let into = match &statement.into {
        Some(name) => Some(sink_into::target(session, name, &statement.into_columns, &query)?),
        None => None,
    };
    let query = into.as_ref().map_or(query, |into| into.query.clone());
    let bound = planner::bind_view(&catalog, &settings, &query)?;
    let columns = query_columns(&bound, &[])?;
    let mut depends_on = bound.depends_on;
    let (id, errors) = (engine.allocate_relation(), engine.allocate_relation());
    let name = statement.name.last();
    let view = view_of(name, id, errors, bound.plan, bound.switches, columns)?;
    let mut helpers = Vec::new();
    if let Some(into) = into {
        sink_into::refuse_cycle(&catalog, &into.table, &depends_on)?;
        if !depends_on.contains(&into.table.id) {
            depends_on.push(into.table.id);
        }
        let progress = sink_into::progress_table(&engine, name);
        said.into_table(&into.table, progress.relation);
        helpers.push(progress);
    }
    let asked = view.columns.len() - view.hidden;
    let spec = said.spec(name, &view.columns[..asked], &view, statement)?;
    let job = JobSpec { keeping: said.keeping, ..sink_of(view, spec, said.snapshot, said.outbox_bytes_max) };
    Ok(SinkPlan { job, depends_on, helpers })
}

/// What the options say that is no connector's business.
struct Said {
    /// The others.
    options: Vec<(String, String)>,
    kind: Option<SinkType>,
    primary_key: Option<Vec<String>>,
    force_append_only: bool,
    snapshot: bool,
    outbox_bytes_max: u64,
    on_error: OnError,
    keeping: Keeping,
    /// The id of its group.
    group: Option<String>,
}

/// Options of RisingWave's whose effect is always there, or that there is no need for.
const WITHOUT_EFFECT: &[&str] = &[
    "commit_checkpoint_interval",
    "sink_rate_limit",
    "properties.retry.max",
    "properties.retry.interval",
    "sink_decouple",
];

impl Said {
    fn new(session: &Session, statement: &CreateSink) -> Result<Said> {
        let Connection { options, format, .. } = &statement.connection;
        let mut said = Said {
            options: Vec::new(),
            kind: None,
            primary_key: None,
            force_append_only: false,
            snapshot: true,
            outbox_bytes_max: OUTBOX_BYTES_MAX,
            on_error: OnError::Table,
            keeping: Keeping::default(),
            group: None,
        };
        let mut group = None;
        let mut options = options.clone();
        storage_parameters::keeping(&mut options, &mut said.keeping)?;
        if !statement.connection.includes.is_empty() {
            return Err(Error::unsupported("INCLUDE is not supported for a sink"));
        }
        let is_true = |name: &str, value: &str| match value.to_lowercase().as_str() {
            "true" | "t" | "on" | "1" => Ok(true),
            "false" | "f" | "off" | "0" => Ok(false),
            _ => Err(Error::new("22023", format!("option \"{name}\" must be true or false, not \"{value}\""))),
        };
        let mut plain = None;
        for (name, value) in &options {
            match name.as_str() {
                "type" => plain = Some(kind(value)?),
                "primary_key" => {
                    said.primary_key = Some(value.split(',').map(|column| column.trim().to_owned()).collect());
                }
                "force_append_only" => said.force_append_only = is_true(name, value)?,
                "snapshot" => said.snapshot = is_true(name, value)?,
                "group" => group = Some(value),
                "on_error" => {
                    said.on_error = match value.to_lowercase().as_str() {
                        "table" => OnError::Table,
                        "fail" => OnError::Fail,
                        _ => {
                            let message = format!("option \"on_error\" must be table or fail, not \"{value}\"");
                            return Err(Error::new("22023", message));
                        }
                    };
                }
                "outbox.limit" => said.outbox_bytes_max = bytes(name, value)?,
                other if WITHOUT_EFFECT.contains(&other) => {
                    session.notice(Error::notice(format!("parameter \"{name}\" has no effect")));
                }
                _ => said.options.push((name.clone(), value.clone())),
            }
        }
        if group.is_some() && statement.into.is_some() {
            return Err(Error::new("22023", "a sink into a table takes no option \"group\""));
        }
        if let Some(name) = group {
            let groups = session.shared.catalogs.sink_groups();
            let missing = || Error::new("42704", format!("sink group \"{name}\" does not exist"));
            let group = groups.get(name).ok_or_else(missing)?;
            said.options = sink_group::options_in(group, &said.options)?;
            said.group = Some(group.id.clone());
        }
        let of_format = match format.as_deref() {
            None => None,
            Some("plain") => Some(SinkType::AppendOnly),
            Some("upsert") => Some(SinkType::Upsert),
            Some("debezium") => Some(SinkType::Debezium),
            Some(other) => {
                let message = format!("FORMAT {} is not supported for a sink", other.to_uppercase());
                return Err(Error::unsupported(message).hint("There are PLAIN, UPSERT and DEBEZIUM."));
            }
        };
        if let (Some(kind), Some(of_format)) = (plain, of_format)
            && kind != of_format
        {
            let format = format.as_deref().unwrap_or_default().to_uppercase();
            let message = format!("type = '{}' contradicts FORMAT {format}", kind.name());
            return Err(Error::new("22023", message));
        }
        said.kind = plain.or(of_format);
        if statement.into.is_some() {
            if let Some((name, _)) = said.options.first() {
                return Err(Error::new("22023", format!("a sink into a table takes no option \"{name}\"")));
            }
        } else if !said.options.iter().any(|(name, _)| name == "connector") {
            let error = Error::new("22023", "the option \"connector\" is missing");
            return Err(error.hint("The connectors of sinks are: blackhole, file, kafka, mysql, postgres, print."));
        }
        Ok(said)
    }

    /// The target is a table of this server.
    fn into_table(&mut self, table: &Object, progress: RelationId) {
        let option = |name: &str, value: String| (name.to_owned(), value);
        self.options = vec![
            option("connector", "table".into()),
            option("table", table.id.0.to_string()),
            option("progress", progress.0.to_string()),
        ];
        let key = table.primary_key.iter().map(|&at| table.columns[at].name.clone()).collect::<Vec<_>>();
        self.kind = self.kind.or(Some(if key.is_empty() { SinkType::AppendOnly } else { SinkType::Upsert }));
        self.primary_key = Some(key);
    }

    /// The sink of `view`, whose first columns are delivered.
    fn spec(&self, name: &str, columns: &[Column], view: &ViewPlan, statement: &CreateSink) -> Result<SinkSpec> {
        let kind = match self.kind {
            Some(kind) => kind,
            None if view.append_only || self.force_append_only => SinkType::AppendOnly,
            None => {
                return Err(Error::new("22023", "the option \"type\" is missing")
                    .hint("Rows of the query change or go: say type = 'upsert' or type = 'debezium'."));
            }
        };
        if kind == SinkType::AppendOnly && !view.append_only && !self.force_append_only {
            return Err(Error::new("22023", "the sink cannot be append-only: rows of the query change or go")
                .hint("Say type = 'upsert', or force_append_only = 'true' to deliver only the new rows."));
        }
        let key = match &self.primary_key {
            Some(names) => {
                let at = |name: &String| {
                    let at = columns.iter().position(|column| column.name == *name);
                    at.ok_or_else(|| Error::new("42703", format!("column \"{name}\" named in key does not exist")))
                };
                names.iter().map(at).collect::<Result<Vec<usize>>>()?
            }
            None if view.unique && view.stream_key.iter().all(|&at| at < columns.len()) => view.stream_key.clone(),
            None => vec![],
        };
        if kind != SinkType::AppendOnly && key.is_empty() {
            let message = format!("a sink of type \"{}\" needs the option \"primary_key\"", kind.name());
            return Err(Error::new("22023", message).hint("Name the columns that identify a row of the query."));
        }
        // A key that was not asked for has no place in rows that are only added.
        let key = if kind == SinkType::AppendOnly && self.primary_key.is_none() { vec![] } else { key };
        Ok(SinkSpec {
            name: name.to_owned(),
            id: uuid::Uuid::new_v4().simple().to_string(),
            options: self.options.clone(),
            kind,
            encode: statement.connection.encode.clone().unwrap_or_else(|| "json".into()),
            encode_options: statement.connection.encode_options.clone(),
            key_encode: statement.connection.key_encode.clone(),
            types: columns.iter().map(|column| planner::types::format(&column.ty, column.typmod)).collect(),
            columns: columns.to_vec(),
            key,
            on_error: self.on_error,
            group: self.group.clone(),
        })
    }
}

fn kind(value: &str) -> Result<SinkType> {
    let kinds = [SinkType::AppendOnly, SinkType::Upsert, SinkType::Debezium];
    kinds.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(value)).ok_or_else(|| {
        let message = format!("option \"type\" must be one of append-only, upsert, debezium, not \"{value}\"");
        Error::new("22023", message)
    })
}

/// A number of bytes with its unit.
fn bytes(name: &str, value: &str) -> Result<u64> {
    let text = value.trim().to_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim() {
        "" | "b" => Some(0),
        "kb" => Some(10),
        "mb" => Some(20),
        "gb" => Some(30),
        "tb" => Some(40),
        _ => None,
    };
    let number: Option<u64> = text[..digits].parse().ok();
    let bytes = number.zip(unit).and_then(|(number, shift)| number.checked_mul(1 << shift)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| {
        let message = format!("option \"{name}\" must be a size as 512MB or 4GB, not \"{value}\"");
        Error::new("22023", message)
    })
}
