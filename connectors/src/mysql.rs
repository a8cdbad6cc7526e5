//! Changes into a table of a MySQL or MariaDB server: the rows and how far they reach, in one transaction.
//!
//! ```text
//!  BEGIN ─▶ UPDATE headwater_progress, if it is where we left it ─▶ DELETE, INSERT ... ON DUPLICATE KEY ─▶ COMMIT
//! ```
//!
//! As with PostgreSQL, the row of the progress table is locked first, so only one delivers for a sink at a time; and rows that
//! the table refuses are found in a transaction that is taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mysql::prelude::Queryable as _;
use mysql::{Conn, Opts, OptsBuilder, Transaction, TxOpts, Value};
use storage::{Batch, failpoint};
use streaming::error::{Error, Result};
use streaming::expr::Functions;
use streaming::sink::{
    Changes, Delivered, Delivery, OnError, Position, REFUSED_MAX, Refused, Sink, SinkSpec, SinkType,
};

use crate::encoding::Encoder;
use crate::options::{OptionDoc, Options, invalid, invalid_hint};
use crate::sinks::work::{Row, Work, is_of_a_row, of_each};
use crate::sinks::{self, SinkConnector};

mod types;

/// The connector.
pub struct MysqlSinks;

const OPTIONS: &[OptionDoc] = &[
    OptionDoc { name: "host", default: "localhost", doc: "where the server is" },
    OptionDoc { name: "port", default: "3306", doc: "its port" },
    OptionDoc { name: "user", default: "root", doc: "who connects" },
    OptionDoc { name: "password", default: "", doc: "with which password" },
    OptionDoc { name: "database", default: "", doc: "to which database; required unless `jdbc.url` says it" },
    OptionDoc {
        name: "jdbc.url",
        default: "",
        doc: "the same in one: `jdbc:mysql://host:port/database?user=u&password=p`, or `jdbc:mariadb:`",
    },
    OptionDoc { name: "table", default: "", doc: "the table; required (`table.name` is the same)" },
    OptionDoc { name: "create_table_if_not_exists", default: "false", doc: "make the table if it is not there" },
    OptionDoc { name: "table.name", default: "", doc: "see `table`" },
    OptionDoc { name: "ssl.mode", default: "disable", doc: "only `disable`, and `prefer`, which does not" },
];

/// The table that holds how far sinks are.
const PROGRESS: &str = "headwater_progress";
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(300);
/// Rows of one statement, and values, of which the protocol takes 65535.
const STATEMENT_ROWS: usize = 500;
const STATEMENT_VALUES: usize = 60_000;
/// What a statement and a packet need besides the values.
const PACKET_OVERHEAD_BYTES: usize = 1 << 16;
/// Errors that speak of a row, and do not say so with their SQLSTATE: data truncated, a value that is none of the column's
/// type, CHECK constraints.
const OF_A_ROW: &[u16] = &[1265, 1366, 3819, 3140, 4025];

impl SinkConnector for MysqlSinks {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn options(&self) -> &'static [OptionDoc] {
        OPTIONS
    }

    fn sink(&self, spec: &SinkSpec, functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        self.group(std::slice::from_ref(spec), functions)
    }

    fn group(&self, specs: &[SinkSpec], functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        let targets: Result<Vec<Target>> = specs.iter().map(|spec| self.target(spec, functions.clone())).collect();
        Ok(Arc::new(MysqlSink(targets?.into())))
    }
}

impl MysqlSinks {
    fn target(&self, spec: &SinkSpec, functions: Arc<dyn Functions>) -> Result<Target> {
        let options = sinks::options(spec, self)?;
        sinks::refuse_encoding(spec, "mysql")?;
        if spec.kind == SinkType::Debezium {
            let message = "a mysql sink of type \"debezium\" is not supported";
            return Err(Error::Unsupported(format!("{message}\nHINT:  There are append-only and upsert.")));
        }
        options.choice("ssl.mode", &[("disable", ()), ("prefer", ())])?;
        let table = match options.get("table").or_else(|| options.get("table.name")) {
            Some(table) if !table.is_empty() => table.to_owned(),
            _ => options.required("table")?.to_owned(),
        };
        let (opts, database) = connection(&options)?;
        let create = options.boolean("create_table_if_not_exists", false)?;
        let encoder = Encoder::new(spec, functions.clone())?;
        Ok(Target { opts, database, table, create, spec: spec.clone(), functions, encoder })
    }
}

/// How to connect, and to which database.
fn connection(options: &Options) -> Result<(Opts, String)> {
    let mut builder = match options.get("jdbc.url") {
        Some(text) => {
            let bad = || options.bad("jdbc.url", "jdbc:mysql://host:port/database");
            let rest = text.strip_prefix("jdbc:mysql://").or_else(|| text.strip_prefix("jdbc:mariadb://"));
            let (place, parameters) = match rest.ok_or_else(bad)?.split_once('?') {
                Some((place, parameters)) => (place, parameters),
                None => (rest.ok_or_else(bad)?, ""),
            };
            let mut builder = OptsBuilder::from_opts(Opts::from_url(&format!("mysql://{place}")).map_err(|_| bad())?);
            for (name, value) in parameters.split('&').filter_map(|parameter| parameter.split_once('=')) {
                match name {
                    "user" => builder = builder.user(Some(value)),
                    "password" => builder = builder.pass(Some(value)),
                    // What drivers are told of themselves.
                    _ => {}
                }
            }
            builder
        }
        None => {
            let builder = OptsBuilder::new().db_name(Some(options.required("database")?));
            builder
                .ip_or_hostname(Some(options.get("host").unwrap_or("localhost")))
                .tcp_port(options.number("port", 3306)?)
        }
    };
    if let Some(user) = options.get("user") {
        builder = builder.user(Some(user));
    }
    if let Some(password) = options.get("password") {
        builder = builder.pass(Some(password));
    }
    let opts = Opts::from(builder.clone());
    if opts.get_user().is_none() {
        builder = builder.user(Some("root"));
    }
    let Some(database) = opts.get_db_name().filter(|name| !name.is_empty()).map(str::to_owned) else {
        return Err(options.bad("jdbc.url", "jdbc:mysql://host:port/database"));
    };
    let session = [
        // A value that does not fit is an error, never another value.
        "SET sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_VALUE_ON_ZERO'",
        "SET time_zone = '+00:00'",
        "SET innodb_lock_wait_timeout = 30",
        "SET NAMES utf8mb4",
    ];
    let builder = builder
        .prefer_socket(false)
        .tcp_connect_timeout(Some(CONNECT_TIMEOUT))
        .read_timeout(Some(STATEMENT_TIMEOUT))
        .write_timeout(Some(STATEMENT_TIMEOUT))
        .tcp_keepalive_time_ms(Some(10_000))
        .init(session.to_vec());
    Ok((builder.into(), database))
}

struct Target {
    opts: Opts,
    database: String,
    table: String,
    create: bool,
    spec: SinkSpec,
    functions: Arc<dyn Functions>,
    /// Writes arrays, and the rows that are refused.
    encoder: Encoder,
}

/// The tables of a group's sinks, or one: in one database.
struct MysqlSink(Arc<[Target]>);

fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What the server says, or what else went wrong.
fn said(error: &mysql::Error) -> String {
    match error {
        mysql::Error::MySqlError(error) => error.message.clone(),
        error => error.to_string(),
    }
}

fn is_of_some_row(error: &mysql::Error) -> bool {
    match error {
        mysql::Error::MySqlError(error) => {
            is_of_a_row(&error.state) || error.state.starts_with("45") || OF_A_ROW.contains(&error.code)
        }
        _ => false,
    }
}

impl Target {
    fn table(&self) -> String {
        format!("{}.{}", quote(&self.database), quote(&self.table))
    }

    fn progress(&self) -> String {
        format!("{}.{}", quote(&self.database), quote(PROGRESS))
    }

    fn failed(&self, error: &mysql::Error) -> Error {
        Error::Unavailable(format!("MySQL table \"{}\".\"{}\": {}", self.database, self.table, said(error)))
    }

    fn connect(&self) -> Result<Conn> {
        Conn::new(self.opts.clone()).map_err(|error| self.failed(&error))
    }

    /// Whether the table has what the sink needs.
    fn check(&self, conn: &mut Conn) -> Result<()> {
        let failed = |error: mysql::Error| self.failed(&error);
        let place = (&self.database, &self.table);
        let sql = "SELECT engine FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
        let engine: Option<Option<String>> = conn.exec_first(sql, place).map_err(failed)?;
        let Some(engine) = engine else {
            let message = format!("table \"{}\".\"{}\" does not exist in MySQL", self.database, self.table);
            return Err(Error::NotFound(format!("{message}\nHINT:  Say create_table_if_not_exists = 'true'.")));
        };
        if !engine.as_deref().is_some_and(|engine| engine.eq_ignore_ascii_case("innodb")) {
            let message = format!("MySQL table \"{}\" has no transactions", self.table);
            return Err(invalid_hint(message, "Its engine must be InnoDB."));
        }
        let sql = "SELECT column_name, extra FROM information_schema.columns WHERE table_schema = ? AND table_name = ?";
        let columns: Vec<(String, String)> = conn.exec(sql, place).map_err(failed)?;
        let columns: BTreeMap<String, String> =
            columns.into_iter().map(|(name, extra)| (name.to_lowercase(), extra)).collect();
        // Names of columns have no case there.
        let ours: Vec<String> = self.spec.columns.iter().map(|column| column.name.to_lowercase()).collect();
        if let Some(missing) = ours.iter().position(|name| !columns.contains_key(name)) {
            let name = &self.spec.columns[missing].name;
            let message = format!("column \"{name}\" of table \"{}\" does not exist in MySQL", self.table);
            return Err(Error::invalid("42703", message));
        }
        if self.spec.kind != SinkType::Upsert {
            return Ok(());
        }
        let sql = "SELECT index_name, column_name, sub_part FROM information_schema.statistics \
                   WHERE table_schema = ? AND table_name = ? AND non_unique = 0";
        let parts: Vec<(String, Option<String>, Option<u64>)> = conn.exec(sql, place).map_err(failed)?;
        let mut indexes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (index, column, part) in parts {
            // An index of an expression, or of the beginning of a text, is no key of ours.
            let column = column.filter(|_| part.is_none()).map_or("(part)".into(), |column| column.to_lowercase());
            indexes.entry(index).or_default().insert(column);
        }
        let key: BTreeSet<String> = self.spec.key.iter().map(|k| ours[*k].clone()).collect();
        if !indexes.values().any(|columns| *columns == key) {
            let message = format!("the key of the sink is not a unique key of MySQL table \"{}\"", self.table);
            return Err(invalid_hint(
                message,
                "Give the table a primary key or unique index of the sink's key columns.",
            ));
        }
        // A row that meets another one there would change that, whatever its key.
        let is_numbered = |column: &String| {
            columns.get(column).is_some_and(|e| e.contains("auto_increment")) && !ours.contains(column)
        };
        let other = indexes.iter().find(|(_, columns)| **columns != key && !columns.iter().any(is_numbered));
        if let Some((index, _)) = other {
            let message = format!("MySQL table \"{}\" has another unique index, \"{index}\"", self.table);
            return Err(invalid_hint(message, "A table that is upserted has one unique key, that of the sink."));
        }
        Ok(())
    }

    fn prepare(&self, conn: &mut Conn) -> Result<()> {
        let failed = |error: mysql::Error| self.failed(&error);
        if self.create {
            let version: Option<String> = conn.query_first("SELECT VERSION()").map_err(failed)?;
            let is_mariadb = version.is_some_and(|version| version.to_lowercase().contains("mariadb"));
            // By bytes, and blanks at the end count.
            let collation = if is_mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" };
            let mut items = Vec::new();
            for (c, column) in self.spec.columns.iter().enumerate() {
                let null = if self.spec.key.contains(&c) { "NOT NULL" } else { "NULL" };
                let ty = types::column_type(&self.spec, c, collation);
                items.push(format!("{} {ty} {null}", quote(&column.name)));
            }
            if !self.spec.key.is_empty() {
                let key: Vec<String> = self.spec.key.iter().map(|k| quote(&self.spec.columns[*k].name)).collect();
                items.push(format!("PRIMARY KEY ({})", key.join(", ")));
            }
            let sql = format!("CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = InnoDB", self.table(), items.join(", "));
            conn.query_drop(sql).map_err(failed)?;
        }
        self.check(conn)?;
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (sink VARCHAR(64) CHARACTER SET ascii PRIMARY KEY, name TEXT NOT NULL, \
             position VARCHAR(100), updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) \
             ON UPDATE CURRENT_TIMESTAMP(6)) ENGINE = InnoDB",
            self.progress()
        );
        conn.query_drop(sql).map_err(failed)?;
        let sql =
            format!("INSERT INTO {} (sink, name) VALUES (?, ?) ON DUPLICATE KEY UPDATE sink = sink", self.progress());
        conn.exec_drop(sql, (self.spec.progress_id(), &self.spec.name)).map_err(failed)
    }
}

impl Sink for MysqlSink {
    fn prepare(&self) -> Result<()> {
        self.0.iter().try_for_each(|target| target.prepare(&mut target.connect()?))
    }

    fn connect(&self) -> Result<Box<dyn Delivery>> {
        let targets = self.0.clone();
        let target = &targets[0];
        let failed = |error: mysql::Error| target.failed(&error);
        let mut conn = target.connect()?;
        targets.iter().try_for_each(|target| target.check(&mut conn))?;
        // Whoever holds the row comes to an end first.
        let sql = format!("SELECT position FROM {} WHERE sink = ? FOR UPDATE", target.progress());
        let row: Option<Option<String>> = conn.exec_first(sql, (target.spec.progress_id(),)).map_err(failed)?;
        let kept =
            row.ok_or_else(|| Error::Unavailable(format!("MySQL table {} has no row of the sink", target.progress())))?;
        let packet: Option<usize> = conn.query_first("SELECT @@max_allowed_packet").map_err(failed)?;
        let position = kept.as_deref().map(str::parse).transpose()?;
        let packet = packet.unwrap_or(1 << 20);
        let statements = targets.iter().map(|target| Statements::new(target, packet)).collect();
        Ok(Box::new(Connection { targets, conn, statements, kept, position }))
    }

    fn forget(&self) {
        let target = &self.0[0];
        let removed = target.connect().and_then(|mut conn| {
            let sql = format!("DELETE FROM {} WHERE sink = ?", target.progress());
            conn.exec_drop(sql, (target.spec.progress_id(),)).map_err(|error| target.failed(&error))
        });
        if let Err(error) = removed {
            tracing::warn!("the progress of a dropped sink could not be removed: {error}");
        }
    }
}

/// The statements of a transaction: what stands before the rows of one, for each row, and behind.
struct Statements {
    progress: String,
    insert: [String; 3],
    delete: [String; 3],
    /// Bytes of values that one statement may have.
    bytes_max: usize,
}

impl Statements {
    fn new(target: &Target, packet_bytes_max: usize) -> Statements {
        let SinkSpec { columns, key, .. } = &target.spec;
        let names: Vec<String> = columns.iter().map(|c| quote(&c.name)).collect();
        let values: Vec<&str> = columns.iter().map(|c| types::placeholder(&c.ty)).collect();
        let keys: Vec<&str> = key.iter().map(|k| names[*k].as_str()).collect();
        let key_values: Vec<&str> = key.iter().map(|k| types::key_placeholder(&columns[*k].ty)).collect();
        let update = if target.spec.kind == SinkType::Upsert {
            let others = names.iter().enumerate().filter(|(i, _)| !key.contains(i));
            let mut set: Vec<String> = others.map(|(_, name)| format!("{name} = VALUES({name})")).collect();
            if set.is_empty() {
                set.push(format!("{0} = {0}", keys[0]));
            }
            format!(" ON DUPLICATE KEY UPDATE {}", set.join(", "))
        } else {
            String::new()
        };
        Statements {
            progress: format!("UPDATE {} SET position = ? WHERE sink = ? AND position <=> ?", target.progress()),
            insert: [
                format!("INSERT INTO {} ({}) VALUES ", target.table(), names.join(", ")),
                format!("({})", values.join(", ")),
                update,
            ],
            delete: [
                format!("DELETE FROM {} WHERE ({}) IN (", target.table(), keys.join(", ")),
                format!("({})", key_values.join(", ")),
                ")".into(),
            ],
            bytes_max: packet_bytes_max.saturating_sub(PACKET_OVERHEAD_BYTES).max(packet_bytes_max / 2),
        }
    }
}

/// Bytes of a row's values.
fn bytes(row: &Row) -> usize {
    row.values.iter().flatten().map(|value| value.len() + 9).sum()
}

/// Rows in parts that one statement takes.
fn parts(rows: &[Row], bytes_max: usize) -> Vec<&[Row]> {
    let (mut parts, mut from, mut size) = (Vec::new(), 0, 0);
    for (at, row) in rows.iter().enumerate() {
        let bytes = bytes(row);
        let rows_max = STATEMENT_ROWS.min(STATEMENT_VALUES / row.values.len().max(1)).max(1);
        if at > from && (at - from >= rows_max || size + bytes > bytes_max) {
            parts.push(&rows[from..at]);
            (from, size) = (at, 0);
        }
        size += bytes;
    }
    parts.push(&rows[from..]);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Runs a statement over rows.
fn run(
    transaction: &mut Transaction<'_>,
    target: &Target,
    statement: &[String; 3],
    columns: &[usize],
    rows: &[Row],
) -> mysql::Result<()> {
    let [before, each, behind] = statement;
    let sql = format!("{before}{}{behind}", vec![each.as_str(); rows.len()].join(", "));
    let types: Vec<_> = columns.iter().map(|c| &target.spec.columns[*c].ty).collect();
    let values = rows.iter().flat_map(|row| row.values.iter().zip(&types));
    let params: Vec<Value> = values.map(|(value, ty)| types::value(ty, value.as_deref())).collect();
    transaction.exec_drop(sql, params)
}

struct Connection {
    targets: Arc<[Target]>,
    conn: Conn,
    statements: Vec<Statements>,
    /// The position as the progress table has it.
    kept: Option<String>,
    position: Option<Position>,
}

/// What is deleted, and what is inserted: the statement, its columns, its rows.
fn steps<'a>(
    target: &Target,
    statements: &'a Statements,
    work: &'a Work,
) -> [(&'a [String; 3], Vec<usize>, &'a [Row]); 2] {
    let all = (0..target.spec.columns.len()).collect();
    [(&statements.delete, target.spec.key.clone(), &work.deletes), (&statements.insert, all, &work.inserts)]
}

impl Connection {
    /// One transaction; false if the progress is not where it was left.
    fn transact(&mut self, works: &[Work], new: &str) -> mysql::Result<bool> {
        let Connection { targets, conn, statements, kept, .. } = self;
        let mut transaction = conn.start_transaction(TxOpts::default())?;
        transaction.exec_drop(&statements[0].progress, (new, targets[0].spec.progress_id(), &*kept))?;
        if transaction.affected_rows() != 1 {
            transaction.rollback()?;
            return Ok(false);
        }
        for ((target, statements), work) in targets.iter().zip(statements).zip(works) {
            for (statement, columns, rows) in steps(target, statements, work) {
                for part in parts(rows, statements.bytes_max) {
                    run(&mut transaction, target, statement, &columns, part)?;
                }
            }
        }
        failpoint::before("mysql/commit");
        transaction.commit()?;
        failpoint::after("mysql/commit");
        Ok(true)
    }

    /// Finds the rows that the tables refuse, in a transaction that is taken back: where some fail together, each half is
    /// tried. None if a sink is to be held by them.
    fn refused(&mut self, works: &[Work]) -> mysql::Result<Vec<Refused>> {
        let Connection { targets, conn, statements, .. } = self;
        let mut transaction = conn.start_transaction(TxOpts::default())?;
        let mut found = Vec::new();
        for ((target, statements), work) in targets.iter().zip(statements).zip(works) {
            for (statement, columns, rows) in steps(target, statements, work) {
                let mut left: Vec<&[Row]> = parts(rows, statements.bytes_max);
                left.reverse();
                while let Some(part) = left.pop().filter(|_| found.len() < REFUSED_MAX) {
                    transaction.query_drop("SAVEPOINT part")?;
                    let Err(error) = run(&mut transaction, target, statement, &columns, part) else { continue };
                    let mysql::Error::MySqlError(said) = &error else { return Err(error) };
                    if !is_of_some_row(&error) {
                        return Err(error);
                    }
                    transaction.query_drop("ROLLBACK TO SAVEPOINT part")?;
                    match part {
                        [_] if target.spec.on_error == OnError::Fail => return Ok(Vec::new()),
                        [row] => {
                            // What has no class of its own says that the data are wrong.
                            let sqlstate = if is_of_a_row(&said.state) { &said.state } else { "22000" };
                            found.push(work.refused(row, &target.encoder, said.message.clone(), sqlstate.to_owned()));
                        }
                        part => {
                            let (first, second) = part.split_at(part.len() / 2);
                            left.extend([second, first]);
                        }
                    }
                }
            }
        }
        transaction.rollback()?;
        Ok(found)
    }

    /// Rows that no packet takes.
    ///
    /// # Errors
    /// If a sink is to be held by one.
    fn too_large(&self, works: &[Work]) -> Result<Vec<Refused>> {
        let mut found = Vec::new();
        for ((target, statements), work) in self.targets.iter().zip(&self.statements).zip(works) {
            let max = statements.bytes_max;
            for row in work.inserts.iter().chain(&work.deletes).filter(|row| bytes(row) > max) {
                let reason =
                    format!("a row of {} bytes is too large: max_allowed_packet of the server takes {max}", bytes(row));
                if target.spec.on_error == OnError::Fail {
                    return Err(invalid(reason));
                }
                if found.len() < REFUSED_MAX {
                    found.push(work.refused(row, &target.encoder, reason, "54000".into()));
                }
            }
        }
        Ok(found)
    }
}

impl Delivery for Connection {
    fn position(&self) -> Option<Position> {
        self.position
    }

    fn deliver(&mut self, changes: &mut Changes<'_>, until: Position) -> Result<Delivered> {
        let targets = self.targets.clone();
        let works = targets.iter().zip(of_each(changes, targets.len())?).map(|(target, batches)| {
            let text = |batch: &Batch, row: usize, c: usize| {
                types::text(&*target.functions, &target.encoder, &target.spec, batch, row, c)
            };
            Work::new(batches, &target.spec, &text)
        });
        let works: Vec<Work> = works.collect::<Result<_>>()?;
        let too_large = self.too_large(&works)?;
        if !too_large.is_empty() {
            return Ok(Delivered::Refused(too_large));
        }
        let new = until.to_string();
        match self.transact(&works, &new) {
            Ok(true) => {
                self.kept = Some(new);
                Ok(Delivered::All)
            }
            Ok(false) => {
                let message = "somebody else delivers for the sink, or its progress was changed";
                Err(Error::Unavailable(message.into()))
            }
            Err(error) if is_of_some_row(&error) => {
                let refused = self.refused(&works).map_err(|error| targets[0].failed(&error))?;
                // Whoever is to blame has gone meanwhile, or is to hold its sink.
                if refused.is_empty() { Err(targets[0].failed(&error)) } else { Ok(Delivered::Refused(refused)) }
            }
            Err(error) => Err(targets[0].failed(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::tests::{Plain, spec};

    fn open(kind: SinkType, options: &[(&str, &str)]) -> Result<Arc<dyn Sink>> {
        MysqlSinks.sink(&spec("mysql", kind, options), Arc::new(Plain))
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        let error = |options: &[(&str, &str)]| open(SinkType::Upsert, options).err().unwrap().to_string();
        let owner = "connector \"mysql\" of a sink needs the option";
        assert_eq!(error(&[("database", "d")]), format!("{owner} \"table\""));
        assert_eq!(error(&[("table", "t")]), format!("{owner} \"database\""));
        let message = error(&[("table", "t"), ("jdbc.url", "jdbc:postgresql://x/d")]);
        assert!(message.starts_with("option \"jdbc.url\" must be jdbc:mysql:"), "{message}");
        assert!(error(&[("table", "t"), ("database", "d"), ("ssl.mode", "require")]).contains("ssl.mode"));
        let url = "jdbc:mariadb://127.0.0.1:1/d?user=u&password=p&useSSL=false";
        let sink = open(SinkType::Upsert, &[("table.name", "t"), ("jdbc.url", url)]).unwrap();
        assert!(matches!(sink.prepare().unwrap_err(), Error::Unavailable(_)));
        assert!(open(SinkType::Debezium, &[("table", "t"), ("database", "d")]).is_err());
    }

    #[test]
    fn statements_name_the_key_and_the_rest() {
        let spec = spec("mysql", SinkType::Upsert, &[]);
        let target = Target {
            opts: Opts::default(),
            database: "d".into(),
            table: "a`b".into(),
            create: false,
            encoder: Encoder::new(&spec, Arc::new(Plain)).unwrap(),
            spec,
            functions: Arc::new(Plain),
        };
        let statements = Statements::new(&target, 1 << 20);
        assert_eq!(
            statements.insert.concat(),
            "INSERT INTO `d`.`a``b` (`id`, `name`) VALUES (?, ?) ON DUPLICATE KEY UPDATE `name` = VALUES(`name`)"
        );
        assert_eq!(statements.delete.concat(), "DELETE FROM `d`.`a``b` WHERE (`id`) IN ((?))");
        assert_eq!(
            types::column_type(&target.spec, 1, "utf8mb4_bin"),
            "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        );
    }
}
