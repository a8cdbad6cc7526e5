//! A table of a PostgreSQL server that rows are looked up in: some keys at once, values as texts.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, RecordBatch};
use storage::{Column, row};
use streaming::error::{Error, Result};
use streaming::expr::Functions;
use streaming::lookup::answers::Answer;
use streaming::lookup::{Asking, CacheLimits, Lookup, LookupSpec};
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::{PLACE, Server, quote};
use crate::formats::Faults;
use crate::formats::fields::{self, BytesText, Epochs, Field, Kind, Rules};
use crate::options::{OptionDoc, Options, invalid};
use crate::sinks::work::is_of_a_row;

/// What `connector = '...'` says.
pub const NAME: &str = "postgres-lookup";

/// The options that it knows besides `connector`.
pub const OPTIONS: &[OptionDoc] = &[
    PLACE[0],
    PLACE[1],
    PLACE[2],
    PLACE[3],
    PLACE[4],
    PLACE[5],
    OptionDoc { name: "schema", default: "public", doc: "the table's schema (`schema.name` is the same)" },
    OptionDoc { name: "table", default: "", doc: "the table or view; required (`table.name` is the same)" },
    OptionDoc { name: "schema.name", default: "", doc: "see `schema`" },
    OptionDoc { name: "table.name", default: "", doc: "see `table`" },
    OptionDoc { name: "ssl.mode", default: "disable", doc: "only `disable`, and `prefer`, which does not" },
    OptionDoc {
        name: "lookup.cache.max_rows",
        default: "0",
        doc: "rows that each worker remembers of what it asked for; an answer without rows counts as one",
    },
    OptionDoc { name: "lookup.cache.ttl", default: "60s", doc: "how long it remembers them" },
    OptionDoc {
        name: "lookup.timeout",
        default: "10s",
        doc: "how long the server may take for an answer before it is asked again",
    },
];

/// Rows of one answer, at most.
const ROWS_MAX: usize = 1_000_000;

const RULES: Rules = Rules { untyped: true, epochs: Epochs::Refused, bytes: BytesText::Hex, quote: '"' };

struct Target {
    server: Server,
    spec: LookupSpec,
    keys: Vec<usize>,
    wanted: Vec<usize>,
    cache: CacheLimits,
    timeout: Duration,
    functions: Arc<dyn Functions>,
}

/// Opens the table that `spec` describes, to be asked for its columns `wanted` by its columns `keys`.
pub fn open(
    spec: &LookupSpec,
    keys: &[usize],
    wanted: &[usize],
    functions: Arc<dyn Functions>,
) -> Result<Arc<dyn Lookup>> {
    Ok(Arc::new(PostgresLookup(Arc::new(Target::new(spec, keys, wanted, functions)?))))
}

/// Asks the server whether the table has the columns.
///
/// # Errors
/// What is wrong with the options or the columns, and `Unavailable` if the server does not answer.
pub fn prepare(spec: &LookupSpec, functions: Arc<dyn Functions>) -> Result<()> {
    for column in &spec.columns {
        fields::check(column, &RULES)?;
    }
    let all: Vec<usize> = (0..spec.columns.len()).collect();
    let target = Target::new(spec, &all[..1], &all, functions)?;
    let (runtime, client) = target.server.connect()?;
    // Whether they can be compared and read is said by the statement.
    runtime.block_on(target.statement(&client)).map(drop)
}

impl Target {
    fn new(spec: &LookupSpec, keys: &[usize], wanted: &[usize], functions: Arc<dyn Functions>) -> Result<Target> {
        let options = Options::new(format!("connector \"{NAME}\""), &spec.options, &[crate::OPTIONS, OPTIONS])?;
        if spec.columns.is_empty() {
            let message = format!("a source of connector \"{NAME}\" needs columns");
            return Err(Error::invalid("42601", message));
        }
        let cache = CacheLimits {
            max_rows: options.number("lookup.cache.max_rows", 0)?,
            ttl: options.duration("lookup.cache.ttl", Duration::from_secs(60))?,
        };
        let timeout = options.duration("lookup.timeout", Duration::from_secs(10))?;
        if timeout.is_zero() {
            return Err(invalid("option \"lookup.timeout\" must be more than nothing"));
        }
        let server = Server::of(&options)?;
        let (keys, wanted) = (keys.to_vec(), wanted.to_vec());
        Ok(Target { server, spec: spec.clone(), keys, wanted, cache, timeout, functions })
    }

    /// The statement: each row with the number of the key that it belongs to.
    async fn statement(&self, client: &Client) -> Result<Statement> {
        let there = self.server.types(client).await?;
        let column = |c: &usize| -> Result<(String, &str)> {
            let name = &self.spec.columns[*c].name;
            let found = there.get(name).ok_or_else(|| {
                let message =
                    format!("column \"{name}\" of table \"{}\" does not exist in PostgreSQL", self.server.table);
                Error::invalid("42703", message)
            })?;
            Ok((quote(name), found.as_str()))
        };
        let (mut params, mut names, mut equal) = (Vec::new(), Vec::new(), Vec::new());
        for (i, key) in self.keys.iter().enumerate() {
            let (name, ty) = column(key)?;
            params.push(format!("${}::text[]", i + 1));
            names.push(format!("c{i}"));
            equal.push(format!("t.{name} = k.c{i}::{ty}"));
        }
        let wanted =
            self.wanted.iter().map(|c| Ok(format!(", t.{}::text", column(c)?.0))).collect::<Result<String>>()?;
        let sql = format!(
            "SELECT k.n{wanted} FROM unnest({}) WITH ORDINALITY AS k({}, n) JOIN {} t ON {} LIMIT {}",
            params.join(", "),
            names.join(", "),
            self.server.quoted(),
            equal.join(" AND "),
            ROWS_MAX + 1
        );
        client.prepare(&sql).await.map_err(|error| self.server.failed(&error))
    }

    /// The keys as texts, one list per column.
    fn texts(&self, keys: &RecordBatch) -> Vec<Vec<Option<String>>> {
        let text = |c: usize, row: usize| {
            let (values, mut text) = (keys.column(c), String::new());
            if values.is_null(row) {
                return None;
            }
            self.functions.write_text(values.as_ref(), row, &self.spec.columns[self.keys[c]].ty, &mut text);
            Some(text)
        };
        (0..self.keys.len()).map(|c| (0..keys.num_rows()).map(|row| text(c, row)).collect()).collect()
    }

    /// The answers that the rows of a result are.
    fn answers(&self, n: usize, rows: &[tokio_postgres::Row]) -> Result<Vec<Answer>> {
        let mut faults = Faults::default();
        let mut columns = Vec::with_capacity(self.wanted.len());
        for (place, c) in self.wanted.iter().enumerate() {
            let (mut text, mut fields) = (String::new(), Vec::with_capacity(rows.len()));
            for row in rows {
                let value: Option<&str> = row.get(place + 1);
                let start = text.len() as u32;
                text.push_str(value.unwrap_or_default());
                let kind = if value.is_some() { Kind::Text } else { Kind::Null };
                fields.push(Field { start, len: text.len() as u32 - start, kind, exact: true });
            }
            let column: &Column = &self.spec.columns[*c];
            columns.push(fields::column(column, &RULES, &text, &fields, &|i| i, &mut faults));
        }
        let encoded = row::encode_rows(&columns, rows.len())?;
        let key = |i: usize| -> usize { rows[i].get::<_, i64>(0) as usize - 1 };
        let mut answers = vec![Answer::default(); n];
        (0..rows.len()).for_each(|i| answers[key(i)].rows.push(encoded.get(i).to_vec()));
        for (i, fault) in faults {
            let reason = format!("table \"{}\": {}", self.spec.name, fault.reason);
            answers[key(i)] = Answer { rows: Vec::new(), refused: Some((reason, fault.sqlstate.to_owned())) };
        }
        // An answer is the same whatever the order in which the server found its rows.
        answers.iter_mut().for_each(|answer| answer.rows.sort_unstable());
        Ok(answers)
    }
}

struct PostgresLookup(Arc<Target>);

impl Lookup for PostgresLookup {
    fn connect(&self) -> Result<Box<dyn Asking>> {
        let target = self.0.clone();
        let (runtime, client) = target.server.connect()?;
        let statement = runtime.block_on(target.statement(&client))?;
        Ok(Box::new(Connection { target, runtime, client, statement }))
    }

    fn cache(&self) -> CacheLimits {
        self.0.cache
    }
}

struct Connection {
    target: Arc<Target>,
    runtime: Runtime,
    client: Client,
    statement: Statement,
}

impl Asking for Connection {
    fn ask(&mut self, keys: &RecordBatch) -> Result<Vec<Answer>> {
        let Connection { target, runtime, client, statement } = self;
        let texts = target.texts(keys);
        let params: Vec<&(dyn ToSql + Sync)> = texts.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        let rows = runtime.block_on(async {
            let rows = tokio::time::timeout(target.timeout, client.query(&*statement, &params));
            rows.await.map_err(|_| Error::Unavailable("PostgreSQL does not answer".into()))
        })?;
        let n = keys.num_rows();
        let refused = match rows {
            Ok(rows) if rows.len() <= ROWS_MAX => return target.answers(n, &rows),
            Ok(_) => {
                (format!("table \"{}\" has more than {ROWS_MAX} rows of the key", target.spec.name), "54000".to_owned())
            }
            // A key that the table's type cannot be.
            Err(error) if error.code().is_some_and(|code| is_of_a_row(code.code())) => {
                let code = error.code().map_or("22000", |code| code.code()).to_owned();
                (format!("table \"{}\": {}", target.spec.name, super::said(&error)), code)
            }
            Err(error) => return Err(target.server.failed(&error)),
        };
        if n == 1 {
            return Ok(vec![Answer { rows: Vec::new(), refused: Some(refused) }]);
        }
        let mut answers = self.ask(&keys.slice(0, n / 2))?;
        answers.extend(self.ask(&keys.slice(n / 2, n - n / 2))?);
        Ok(answers)
    }
}
