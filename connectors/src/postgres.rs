//! Changes into a table of a PostgreSQL server: the rows and how far they reach, in one transaction.
//!
//! ```text
//!  BEGIN ─▶ UPDATE headwater_progress, if it is where we left it ─▶ DELETE, INSERT ... ON CONFLICT ─▶ COMMIT
//! ```
//!
//! The row of the progress table is locked first, so whoever delivered for the sink before and is still at it comes to its end
//! before we begin, or finds the row changed and gives up. Rows that the table refuses are found in a transaction that is
//! taken back.

pub mod lookup;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use storage::{Batch, failpoint};
use streaming::error::{Error, Result};
use streaming::expr::Functions;
use streaming::sink::{
    Changes, Delivered, Delivery, OnError, Position, REFUSED_MAX, Refused, Sink, SinkSpec, SinkType,
};
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls};

use crate::encoding::Encoder;
use crate::options::{OptionDoc, Options, invalid_hint};
use crate::sinks::work::{Row, Work, is_of_a_row, of_each};
use crate::sinks::{self, SinkConnector};

/// The connector.
pub struct PostgresSinks;

/// The options that say which database is meant.
const PLACE: [OptionDoc; 6] = [
    OptionDoc { name: "host", default: "localhost", doc: "where the server is" },
    OptionDoc { name: "port", default: "5432", doc: "its port" },
    OptionDoc { name: "user", default: "postgres", doc: "who connects" },
    OptionDoc { name: "password", default: "", doc: "with which password" },
    OptionDoc { name: "database", default: "", doc: "to which database; required unless `jdbc.url` says it" },
    OptionDoc {
        name: "jdbc.url",
        default: "",
        doc: "the same in one: `jdbc:postgresql://host:port/database?user=u&password=p`",
    },
];

const OPTIONS: &[OptionDoc] = &[
    PLACE[0],
    PLACE[1],
    PLACE[2],
    PLACE[3],
    PLACE[4],
    PLACE[5],
    OptionDoc { name: "schema", default: "public", doc: "the table's schema (`schema.name` is the same)" },
    OptionDoc { name: "table", default: "", doc: "the table; required (`table.name` is the same)" },
    OptionDoc { name: "create_table_if_not_exists", default: "false", doc: "make the table if it is not there" },
    OptionDoc { name: "schema.name", default: "", doc: "see `schema`" },
    OptionDoc { name: "table.name", default: "", doc: "see `table`" },
    OptionDoc { name: "ssl.mode", default: "disable", doc: "only `disable`, and `prefer`, which does not" },
];

/// The table that holds how far sinks are.
const PROGRESS: &str = "headwater_progress";
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a transaction may take.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Rows of one statement.
const STATEMENT_ROWS: usize = 5000;

impl SinkConnector for PostgresSinks {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn options(&self) -> &'static [OptionDoc] {
        OPTIONS
    }

    fn sink(&self, spec: &SinkSpec, functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        self.group(std::slice::from_ref(spec), functions)
    }

    fn group(&self, specs: &[SinkSpec], functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        let targets: Result<Vec<Target>> = specs.iter().map(|spec| self.target(spec, functions.clone())).collect();
        Ok(Arc::new(PostgresSink(targets?.into())))
    }
}

impl PostgresSinks {
    fn target(&self, spec: &SinkSpec, functions: Arc<dyn Functions>) -> Result<Target> {
        let options = sinks::options(spec, self)?;
        sinks::refuse_encoding(spec, "postgres")?;
        if spec.kind == SinkType::Debezium {
            let message = "a postgres sink of type \"debezium\" is not supported";
            return Err(Error::Unsupported(format!("{message}\nHINT:  There are append-only and upsert.")));
        }
        let server = Server::of(&options)?;
        let create = options.boolean("create_table_if_not_exists", false)?;
        let encoder = Encoder::new(spec, functions.clone())?;
        Ok(Target { server, create, spec: spec.clone(), functions, encoder })
    }
}

fn config(options: &Options) -> Result<Config> {
    let mut config = match options.get("jdbc.url") {
        Some(url) => {
            let plain = url.strip_prefix("jdbc:").filter(|url| url.starts_with("postgresql:"));
            let bad = || options.bad("jdbc.url", "jdbc:postgresql://host:port/database");
            plain.ok_or_else(bad)?.parse::<Config>().map_err(|_| bad())?
        }
        None => {
            let mut config = Config::new();
            config.host(options.get("host").unwrap_or("localhost"));
            config.port(options.number("port", 5432)?);
            config.dbname(options.required("database")?);
            config
        }
    };
    if let Some(user) = options.get("user") {
        config.user(user);
    } else if config.get_user().is_none() {
        config.user("postgres");
    }
    if let Some(password) = options.get("password") {
        config.password(password);
    }
    config.application_name("headwater").connect_timeout(CONNECT_TIMEOUT).keepalives_idle(Duration::from_secs(10));
    config.options("-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c lock_timeout=30s");
    Ok(config)
}

/// A table of a server.
struct Server {
    config: Config,
    schema: String,
    table: String,
}

struct Target {
    server: Server,
    create: bool,
    spec: SinkSpec,
    functions: Arc<dyn Functions>,
    /// Writes the rows that are refused.
    encoder: Encoder,
}

/// The tables of a group's sinks, or one: in one database.
struct PostgresSink(Arc<[Target]>);

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Server {
    fn of(options: &Options) -> Result<Server> {
        options.choice("ssl.mode", &[("disable", ()), ("prefer", ())])?;
        let either = |one: &str, other: &str| options.get(one).or_else(|| options.get(other)).map(str::to_owned);
        let schema = either("schema", "schema.name").unwrap_or_else(|| "public".into());
        let table = match either("table", "table.name") {
            Some(table) if !table.is_empty() => table,
            _ => options.required("table")?.to_owned(),
        };
        Ok(Server { config: config(options)?, schema, table })
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.table))
    }

    fn failed(&self, error: &tokio_postgres::Error) -> Error {
        let target = format!("PostgreSQL table \"{}\".\"{}\"", self.schema, self.table);
        Error::Unavailable(format!("{target}: {}", said(error)))
    }

    fn connect(&self) -> Result<(Runtime, Client)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Unavailable(format!("no thread for PostgreSQL: {error}")))?;
        let connected = runtime.block_on(async {
            let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.config.connect(NoTls));
            let no_answer = || Error::Unavailable("PostgreSQL does not answer".into());
            let (client, connection) = connecting.await.map_err(|_| no_answer())?.map_err(|e| self.failed(&e))?;
            // Its errors come out of the calls that it serves.
            tokio::spawn(connection);
            Ok::<_, Error>(client)
        });
        connected.map(|client| (runtime, client))
    }

    /// The types of the table's columns and their numbers.
    async fn columns(&self, client: &Client) -> Result<HashMap<String, (String, i32)>> {
        let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnum::int4 FROM pg_attribute a \
                   WHERE a.attrelid = to_regclass($1)::oid AND a.attnum > 0 AND NOT a.attisdropped";
        let rows = client.query(sql, &[&self.quoted()]).await.map_err(|error| self.failed(&error))?;
        Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
    }

    /// The types of the table's columns.
    async fn types(&self, client: &Client) -> Result<HashMap<String, String>> {
        let there = self.columns(client).await?;
        if there.is_empty() {
            return Err(Error::NotFound(self.missing()));
        }
        Ok(there.into_iter().map(|(name, (ty, _))| (name, ty)).collect())
    }

    fn missing(&self) -> String {
        format!("table \"{}\".\"{}\" does not exist in PostgreSQL", self.schema, self.table)
    }
}

impl Target {
    fn progress(&self) -> String {
        format!("{}.{}", quote(&self.server.schema), quote(PROGRESS))
    }

    /// The types of the sink's columns in the table, and whether the key is one of the table's.
    async fn columns(&self, client: &Client) -> Result<(Vec<String>, bool)> {
        let failed = |error| self.server.failed(&error);
        let there = self.server.columns(client).await?;
        if there.is_empty() {
            let message = self.server.missing();
            return Err(Error::NotFound(format!("{message}\nHINT:  Say create_table_if_not_exists = 'true'.")));
        }
        let mut types = Vec::new();
        for column in &self.spec.columns {
            let found = there.get(&column.name).ok_or_else(|| {
                let table = &self.server.table;
                let message = format!("column \"{}\" of table \"{table}\" does not exist in PostgreSQL", column.name);
                Error::invalid("42703", message)
            })?;
            types.push(found.0.clone());
        }
        let mut key: Vec<i32> = self.spec.key.iter().map(|k| there[&self.spec.columns[*k].name].1).collect();
        key.sort_unstable();
        let sql = "SELECT i.indkey::int2[]::int4[] FROM pg_index i WHERE i.indrelid = to_regclass($1)::oid \
                   AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL";
        let indexes = client.query(sql, &[&self.server.quoted()]).await.map_err(failed)?;
        let is_key = indexes.iter().any(|row| {
            let mut columns: Vec<i32> = row.get(0);
            columns.sort_unstable();
            columns == key
        });
        Ok((types, is_key))
    }

    async fn prepare(&self, client: &Client) -> Result<()> {
        let failed = |error| self.server.failed(&error);
        if self.create {
            let column = |(column, ty): (&storage::Column, &String)| format!("{} {ty}", quote(&column.name));
            let mut items: Vec<String> = self.spec.columns.iter().zip(&self.spec.types).map(column).collect();
            if !self.spec.key.is_empty() {
                let key: Vec<String> = self.spec.key.iter().map(|k| quote(&self.spec.columns[*k].name)).collect();
                items.push(format!("PRIMARY KEY ({})", key.join(", ")));
            }
            let sql = format!("CREATE TABLE IF NOT EXISTS {} ({})", self.server.quoted(), items.join(", "));
            client.batch_execute(&sql).await.map_err(failed)?;
        }
        let (_, is_key) = self.columns(client).await?;
        if self.spec.kind == SinkType::Upsert && !is_key {
            let message =
                format!("the key of the sink is not a unique key of PostgreSQL table \"{}\"", self.server.table);
            return Err(invalid_hint(
                message,
                "Give the table a primary key or unique index of the sink's key columns.",
            ));
        }
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (sink text PRIMARY KEY, name text NOT NULL, position text, \
             updated_at timestamptz NOT NULL DEFAULT now())",
            self.progress()
        );
        // Two sinks that begin at once may both find it missing.
        if let Err(error) = client.batch_execute(&sql).await
            && error.code() != Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION)
        {
            return Err(failed(error));
        }
        let sql = format!("INSERT INTO {} (sink, name) VALUES ($1, $2) ON CONFLICT DO NOTHING", self.progress());
        client.execute(&sql, &[&self.spec.progress_id(), &self.spec.name]).await.map_err(failed)?;
        Ok(())
    }
}

impl Sink for PostgresSink {
    fn prepare(&self) -> Result<()> {
        for target in &*self.0 {
            let (runtime, client) = target.server.connect()?;
            runtime.block_on(target.prepare(&client))?;
        }
        Ok(())
    }

    fn connect(&self) -> Result<Box<dyn Delivery>> {
        let targets = self.0.clone();
        let target = &targets[0];
        let (runtime, client) = target.server.connect()?;
        let found = runtime.block_on(async {
            let mut statements = Vec::new();
            for target in &*targets {
                let (types, _) = target.columns(&client).await?;
                statements.push(Statements::new(target, &types));
            }
            // Whoever holds the row comes to an end first.
            let sql = format!("SELECT position FROM {} WHERE sink = $1 FOR UPDATE", target.progress());
            let rows = client.query(&sql, &[&target.spec.progress_id()]).await.map_err(|e| target.server.failed(&e))?;
            let row = rows.first().ok_or_else(|| {
                Error::Unavailable(format!("PostgreSQL table {} has no row of the sink", target.progress()))
            })?;
            let position: Option<String> = row.get(0);
            Ok::<_, Error>((statements, position))
        });
        let (statements, kept) = found?;
        let position = kept.as_deref().map(str::parse).transpose()?;
        Ok(Box::new(Connection { targets, runtime, client, statements, kept, position }))
    }

    fn forget(&self) {
        let target = &self.0[0];
        let removed = target.server.connect().and_then(|(runtime, client)| {
            let sql = format!("DELETE FROM {} WHERE sink = $1", target.progress());
            let removed = runtime.block_on(client.execute(&sql, &[&target.spec.progress_id()]));
            removed.map_err(|error| target.server.failed(&error))
        });
        if let Err(error) = removed {
            tracing::warn!("the progress of a dropped sink could not be removed: {error}");
        }
    }
}

/// The statements of a transaction.
struct Statements {
    progress: String,
    insert: String,
    delete: String,
}

impl Statements {
    /// Values travel as texts and are cast there: every type has a text.
    fn new(target: &Target, types: &[String]) -> Statements {
        let SinkSpec { columns, key, .. } = &target.spec;
        let unnest = |n: usize| {
            let params: Vec<String> = (1..=n).map(|i| format!("${i}::text[]")).collect();
            let names: Vec<String> = (0..n).map(|i| format!("c{i}")).collect();
            format!("unnest({}) AS s({})", params.join(", "), names.join(", "))
        };
        let names: Vec<String> = columns.iter().map(|c| quote(&c.name)).collect();
        let values: Vec<String> = types.iter().enumerate().map(|(i, ty)| format!("s.c{i}::{ty}")).collect();
        let conflict = if target.spec.kind == SinkType::Upsert {
            let others: Vec<String> = (names.iter().enumerate())
                .filter(|(i, _)| !key.contains(i))
                .map(|(_, name)| format!("{name} = EXCLUDED.{name}"))
                .collect();
            let keys: Vec<&str> = key.iter().map(|k| names[*k].as_str()).collect();
            let update = if others.is_empty() { "NOTHING".into() } else { format!("UPDATE SET {}", others.join(", ")) };
            format!(" ON CONFLICT ({}) DO {update}", keys.join(", "))
        } else {
            String::new()
        };
        let matches: Vec<String> =
            key.iter().enumerate().map(|(i, k)| format!("t.{} = s.c{i}::{}", names[*k], types[*k])).collect();
        Statements {
            progress: format!(
                "UPDATE {} SET position = $2, updated_at = now() WHERE sink = $1 AND position IS NOT DISTINCT FROM $3",
                target.progress()
            ),
            insert: format!(
                "INSERT INTO {} ({}) SELECT {} FROM {}{conflict}",
                target.server.quoted(),
                names.join(", "),
                values.join(", "),
                unnest(columns.len())
            ),
            delete: format!(
                "DELETE FROM {} t USING {} WHERE {}",
                target.server.quoted(),
                unnest(key.len()),
                matches.join(" AND ")
            ),
        }
    }
}

struct Connection {
    targets: Arc<[Target]>,
    runtime: Runtime,
    client: Client,
    statements: Vec<Statements>,
    /// The position as the progress table has it.
    kept: Option<String>,
    position: Option<Position>,
}

/// Runs a statement over rows, some at a time.
async fn run(
    transaction: &tokio_postgres::Transaction<'_>,
    sql: &str,
    rows: &[Row],
) -> std::result::Result<(), tokio_postgres::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let statement = transaction.prepare(sql).await?;
    for rows in rows.chunks(STATEMENT_ROWS) {
        let texts = |c: usize| rows.iter().map(|row| row.values[c].as_deref()).collect();
        let columns: Vec<Vec<Option<&str>>> = (0..rows[0].values.len()).map(texts).collect();
        let params: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        transaction.execute(&statement, &params).await?;
    }
    Ok(())
}

impl Delivery for Connection {
    fn position(&self) -> Option<Position> {
        self.position
    }

    fn deliver(&mut self, changes: &mut Changes<'_>, until: Position) -> Result<Delivered> {
        let batches = of_each(changes, self.targets.len())?;
        let works = self.targets.iter().zip(batches).map(|(target, batches)| {
            // Every type has a text, as it is written there too.
            let text = |batch: &Batch, row: usize, c: usize| {
                let mut text = String::new();
                target.functions.write_text(batch.column(c).as_ref(), row, &target.spec.columns[c].ty, &mut text);
                text
            };
            Work::new(batches, &target.spec, &text)
        });
        let works: Vec<Work> = works.collect::<Result<_>>()?;
        let new = until.to_string();
        let Connection { targets, runtime, client, statements, kept, .. } = self;
        let first = &targets[0];
        let no_answer = || Error::Unavailable("PostgreSQL does not answer".into());
        let moved = runtime.block_on(async {
            let params: [&(dyn ToSql + Sync); 3] = [&first.spec.progress_id(), &new, &*kept];
            let moved = tokio::time::timeout(TRANSACTION_TIMEOUT, async {
                let transaction = client.transaction().await?;
                let moved = transaction.execute(&statements[0].progress, &params).await?;
                if moved == 1 {
                    for (statements, work) in statements.iter().zip(&works) {
                        run(&transaction, &statements.delete, &work.deletes).await?;
                        run(&transaction, &statements.insert, &work.inserts).await?;
                    }
                    failpoint::before("postgres/commit");
                    transaction.commit().await?;
                    failpoint::after("postgres/commit");
                }
                Ok::<_, tokio_postgres::Error>(moved)
            });
            moved.await.map_err(|_| no_answer())
        })?;
        match moved {
            Ok(1) => {
                self.kept = Some(new);
                Ok(Delivered::All)
            }
            Ok(_) => {
                let message = "somebody else delivers for the sink, or its progress was changed";
                Err(Error::Unavailable(message.into()))
            }
            Err(error) if is_of_some_row(&error) => {
                let refused = runtime.block_on(async {
                    let refused =
                        tokio::time::timeout(TRANSACTION_TIMEOUT, refused(targets, client, statements, &works));
                    refused.await.map_err(|_| no_answer())?.map_err(|error| first.server.failed(&error))
                })?;
                // Whoever is to blame has gone meanwhile, or is to hold its sink.
                if refused.is_empty() { Err(first.server.failed(&error)) } else { Ok(Delivered::Refused(refused)) }
            }
            Err(error) => Err(first.server.failed(&error)),
        }
    }
}

fn is_of_some_row(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| is_of_a_row(code.code()))
}

/// Finds the rows that the tables refuse, in a transaction that is taken back: where some fail together, each half is tried.
/// None if a sink is to be held by them.
async fn refused(
    targets: &[Target],
    client: &mut Client,
    statements: &[Statements],
    works: &[Work],
) -> std::result::Result<Vec<Refused>, tokio_postgres::Error> {
    let mut transaction = client.transaction().await?;
    // What is checked at the commit has to be said of a row too.
    transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
    let mut found = Vec::new();
    for ((target, Statements { insert, delete, .. }), work) in targets.iter().zip(statements).zip(works) {
        for (sql, rows) in [(delete, &work.deletes), (insert, &work.inserts)] {
            let mut parts: Vec<&[Row]> = rows.chunks(STATEMENT_ROWS).rev().collect();
            while let Some(part) = parts.pop().filter(|_| found.len() < REFUSED_MAX) {
                let savepoint = transaction.transaction().await?;
                match (run(&savepoint, sql, part).await, part) {
                    (Ok(()), _) => savepoint.commit().await?,
                    (Err(error), _) if !is_of_some_row(&error) => return Err(error),
                    (Err(_), [_]) if target.spec.on_error == OnError::Fail => return Ok(Vec::new()),
                    (Err(error), [row]) => {
                        savepoint.rollback().await?;
                        let code = error.code().map_or("22000", |code| code.code()).to_owned();
                        found.push(work.refused(row, &target.encoder, said(&error), code));
                    }
                    (Err(_), part) => {
                        savepoint.rollback().await?;
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                }
            }
        }
    }
    transaction.rollback().await?;
    Ok(found)
}

/// What the server says, which says more than that it said something.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => match error.detail() {
            Some(detail) => format!("{}: {detail}", error.message()),
            None => error.message().to_owned(),
        },
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::tests::{Plain, spec};

    fn open(kind: SinkType, options: &[(&str, &str)]) -> Result<Arc<dyn Sink>> {
        PostgresSinks.sink(&spec("postgres", kind, options), Arc::new(Plain))
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        let error = |options: &[(&str, &str)]| open(SinkType::Upsert, options).err().unwrap().to_string();
        let owner = "connector \"postgres\" of a sink needs the option";
        assert_eq!(error(&[("database", "d")]), format!("{owner} \"table\""));
        assert_eq!(error(&[("table", "t")]), format!("{owner} \"database\""));
        let message = error(&[("table", "t"), ("jdbc.url", "jdbc:mysql://x")]);
        assert!(message.starts_with("option \"jdbc.url\" must be jdbc:postgresql:"), "{message}");
        assert!(error(&[("table", "t"), ("database", "d"), ("ssl.mode", "require")]).contains("ssl.mode"));
        let url = "jdbc:postgresql://127.0.0.1:1/d?user=u&password=p";
        let sink = open(SinkType::Upsert, &[("table.name", "t"), ("jdbc.url", url)]).unwrap();
        let error = sink.prepare().unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert!(open(SinkType::Debezium, &[("table", "t"), ("database", "d")]).is_err());
    }

    #[test]
    fn statements_cast_texts_to_the_types_of_the_table() {
        let spec = spec("postgres", SinkType::Upsert, &[]);
        let target = Target {
            server: Server { config: Config::new(), schema: "public".into(), table: "a\"b".into() },
            create: false,
            encoder: Encoder::new(&spec, Arc::new(Plain)).unwrap(),
            spec,
            functions: Arc::new(Plain),
        };
        let statements = Statements::new(&target, &["bigint".into(), "character varying(5)".into()]);
        assert_eq!(
            statements.insert,
            "INSERT INTO \"public\".\"a\"\"b\" (\"id\", \"name\") SELECT s.c0::bigint, s.c1::character varying(5) FROM \
             unnest($1::text[], $2::text[]) AS s(c0, c1) ON CONFLICT (\"id\") DO UPDATE SET \"name\" = EXCLUDED.\"name\""
        );
        assert_eq!(
            statements.delete,
            "DELETE FROM \"public\".\"a\"\"b\" t USING unnest($1::text[]) AS s(c0) WHERE t.\"id\" = s.c0::bigint"
        );
    }
}
