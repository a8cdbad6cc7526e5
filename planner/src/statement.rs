//! The statements: what a user said, before any name in it is looked up.
//!
//! Every statement is one variant of [`Statement`]. Queries stay what sqlparser made of them, with spans that are
//! character offsets (see [`Query`]); everything else is plain data that the frontend runs.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlparser::ast;
use storage::SqlType;

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `SELECT`, `WITH`, `VALUES`, `TABLE`
    Query(Query),
    /// `INSERT`
    Insert(Insert),
    /// `UPDATE`
    Update(Update),
    /// `DELETE`
    Delete(Delete),
    /// `TRUNCATE [TABLE] t [, ...]`
    Truncate(Truncate),
    /// `COPY ... TO STDOUT`, `COPY ... FROM STDIN`
    Copy(Copy),
    /// `CREATE TABLE`, also `... AS query`
    CreateTable(CreateTable),
    /// `CREATE SOURCE`
    CreateSource(CreateSource),
    /// `CREATE MATERIALIZED VIEW`
    CreateMaterializedView(CreateMaterializedView),
    /// `CREATE [OR REPLACE] VIEW`
    CreateView(CreateView),
    /// `CREATE INDEX`
    CreateIndex(CreateIndex),
    /// `CREATE SINK`
    CreateSink(CreateSink),
    /// `CREATE SINK GROUP [IF NOT EXISTS] g WITH (...)`
    CreateSinkGroup {
        /// Its name.
        name: String,
        /// `IF NOT EXISTS`
        if_not_exists: bool,
        /// The options of all its sinks, in the order written.
        options: Vec<(String, String)>,
    },
    /// `DROP SINK GROUP [IF EXISTS] g`
    DropSinkGroup {
        /// Which.
        name: String,
        /// `IF EXISTS`
        if_exists: bool,
    },
    /// `DROP ...`
    Drop(Drop),
    /// `ALTER kind name RENAME TO name`
    AlterRename(AlterRename),
    /// `ALTER SINK name PAUSE | RESUME`
    AlterSink {
        /// Which.
        name: ObjectName,
        /// `PAUSE`
        pause: bool,
    },
    /// `ALTER kind name SET (option = value, ...)`
    AlterSet {
        /// Of what kind.
        kind: NamedKind,
        /// Which.
        name: ObjectName,
        /// The options.
        options: Vec<(String, String)>,
    },
    /// `ALTER kind name RESUME`
    AlterResume {
        /// Of what kind.
        kind: NamedKind,
        /// Which.
        name: ObjectName,
    },
    /// `ALTER SOURCE name FORMAT f ENCODE e (...)`
    AlterFormat {
        /// Which.
        name: ObjectName,
        /// The format.
        connection: Connection,
    },
    /// `RETRY ERRORS FROM name [WHERE ...]`
    RetryErrors {
        /// Whose.
        name: ObjectName,
        /// Which: their ids.
        query: Query,
    },
    /// `CREATE USER | ROLE`
    CreateRole(CreateRole),
    /// `ALTER USER | ROLE`
    AlterRole(AlterRole),
    /// `DROP USER | ROLE`
    DropRole(DropRole),
    /// `EXPLAIN`
    Explain(Explain),
    /// `SHOW`
    Show(Show),
    /// `DESCRIBE t`
    Describe(ObjectName),
    /// `SET`
    Set(Set),
    /// `RESET x`; `None` is ALL.
    Reset(Option<String>),
    /// `DISCARD what`, lower case
    Discard(String),
    /// `BEGIN`, `START TRANSACTION`
    Begin(Begin),
    /// `COMMIT`, `END`
    Commit {
        /// `AND CHAIN`
        chain: bool,
    },
    /// `ROLLBACK`, `ABORT`
    Rollback {
        /// `AND CHAIN`
        chain: bool,
    },
    /// `SAVEPOINT name`
    Savepoint(String),
    /// `RELEASE [SAVEPOINT] name`
    Release(String),
    /// `ROLLBACK TO [SAVEPOINT] name`
    RollbackTo(String),
    /// `SET TRANSACTION modes`, `SET SESSION CHARACTERISTICS AS TRANSACTION modes`
    SetTransaction {
        /// `READ ONLY` or `READ WRITE`, if said.
        read_only: Option<bool>,
        /// Whether it is for the session and not for this transaction.
        session: bool,
    },
    /// `SUBSCRIBE`
    Subscribe(Subscribe),
    /// `FLUSH`
    Flush,
    /// `WAIT`
    Wait,
    /// `BACKUP TO 'directory'`
    Backup(String),
    /// `CREATE SAVEPOINT POINT [IF NOT EXISTS] name`
    CreateSavepointPoint {
        /// What it is called.
        name: String,
        /// Whether one that is there already will do.
        if_not_exists: bool,
    },
    /// `DROP SAVEPOINT POINT [IF EXISTS] name`
    DropSavepointPoint {
        /// What it is called.
        name: String,
        /// Whether none is as good.
        if_exists: bool,
    },
    /// `PREPARE`
    Prepare(Prepare),
    /// `EXECUTE`
    Execute(Execute),
    /// `DEALLOCATE name`; `None` is ALL.
    Deallocate(Option<String>),
    /// `DECLARE c CURSOR FOR query`
    Declare(Declare),
    /// `FETCH`, `MOVE`
    Fetch(Fetch),
    /// `CLOSE name`; `None` is ALL.
    Close(Option<String>),
    /// `COMMENT ON kind name IS text`
    Comment(Comment),
    /// What is accepted and needs nothing done: `LISTEN`, `VACUUM`, ... with its command tag.
    NoOp {
        /// The command tag.
        tag: &'static str,
    },
    /// What is known and not there yet: answered with 0A000 when it is run.
    Unsupported {
        /// What it is: `CREATE USER`.
        what: String,
    },
}

/// A query and the text that it was written in. The spans of the AST hold character offsets into the text, the first
/// is 1, in `column`; `line` is 1, or 0 where nothing is known.
#[derive(Clone, Debug)]
pub struct Query {
    /// The query.
    pub ast: Box<ast::Query>,
    /// The statement's text.
    pub text: Arc<str>,
}

impl PartialEq for Query {
    fn eq(&self, other: &Query) -> bool {
        self.ast == other.ast
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ast.fmt(f)
    }
}

/// `[schema.]name`, case folded as Postgres does.
#[derive(Clone, Debug, Default)]
pub struct ObjectName {
    /// The schema, if written.
    pub schema: Option<String>,
    /// The name.
    pub name: String,
    /// Where it stands: characters, the first is 1.
    pub position: Option<usize>,
}

impl ObjectName {
    /// A name without a schema.
    pub fn new(name: impl Into<String>) -> ObjectName {
        ObjectName { name: name.into(), ..ObjectName::default() }
    }

    /// The schema, if written.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The name itself.
    pub fn last(&self) -> &str {
        &self.name
    }
}

impl PartialEq for ObjectName {
    fn eq(&self, other: &ObjectName) -> bool {
        self.schema == other.schema && self.name == other.name
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// `INSERT INTO t [(columns)] query [RETURNING ...]`
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    /// The table.
    pub table: ObjectName,
    /// The statement.
    pub ast: Box<ast::Insert>,
    /// The statement's text.
    pub text: Arc<str>,
}

/// `UPDATE t SET ... [WHERE ...] [RETURNING ...]`
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The table.
    pub table: ObjectName,
    /// The statement.
    pub ast: Box<ast::Update>,
    /// The statement's text.
    pub text: Arc<str>,
}

/// `DELETE FROM t [WHERE ...] [RETURNING ...]`
#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    /// The table.
    pub table: ObjectName,
    /// The statement.
    pub ast: Box<ast::Delete>,
    /// The statement's text.
    pub text: Arc<str>,
}

/// `TRUNCATE [TABLE] t [, ...] [CASCADE | RESTRICT]`
#[derive(Clone, Debug, PartialEq)]
pub struct Truncate {
    /// The tables.
    pub tables: Vec<ObjectName>,
    /// `CASCADE`
    pub cascade: bool,
}

/// What `COPY` reads or writes.
#[derive(Clone, Debug, PartialEq)]
pub enum CopySource {
    /// `t [(columns)]`
    Table(ObjectName, Vec<String>),
    /// `(query)`
    Query(Query),
}

/// The options of `COPY`.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyOptions {
    /// `text`, `csv` or `binary`
    pub format: String,
    /// `DELIMITER`
    pub delimiter: Option<char>,
    /// `NULL`
    pub null: Option<String>,
    /// `HEADER`
    pub header: bool,
    /// `QUOTE`
    pub quote: Option<char>,
    /// `ESCAPE`
    pub escape: Option<char>,
    /// What else was asked for, lower case names.
    pub others: Vec<(String, String)>,
}

impl Default for CopyOptions {
    fn default() -> CopyOptions {
        CopyOptions {
            format: "text".into(),
            delimiter: None,
            null: None,
            header: false,
            quote: None,
            escape: None,
            others: vec![],
        }
    }
}

/// `COPY t | (query) TO STDOUT`, `COPY t FROM STDIN`
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// What is read or written.
    pub source: CopySource,
    /// `TO`; otherwise `FROM`.
    pub to: bool,
    /// How.
    pub options: CopyOptions,
}

/// A declared column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: SqlType,
    /// The type's modifier.
    pub typmod: i32,
    /// `NOT NULL`
    pub not_null: bool,
    /// `PRIMARY KEY` behind the column
    pub primary_key: bool,
    /// `DEFAULT e`, as text
    pub default: Option<String>,
    /// Where that text stands.
    pub default_position: usize,
    /// `AS (e)`, as text: a generated column
    pub generated: Option<String>,
    /// Where it stands.
    pub position: usize,
}

/// `WATERMARK FOR column AS e`
#[derive(Clone, Debug, PartialEq)]
pub struct Watermark {
    /// The column.
    pub column: String,
    /// The expression's text.
    pub expr: String,
    /// Where it stands.
    pub position: usize,
    /// `WITH TTL`
    pub ttl: bool,
}

/// When the rows of a view leave: `EMIT ...` behind its query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// With every epoch.
    #[default]
    Immediately,
    /// Once the watermark has passed their window.
    OnWindowClose,
    /// At most once in this time while their window is open.
    Every(std::time::Duration),
}

/// `INCLUDE what ['key'] [AS name]`
#[derive(Clone, Debug, PartialEq)]
pub struct Include {
    /// `key`, `timestamp`, `partition`, `offset`, `header`, `payload`, ...
    pub what: String,
    /// The name behind it, if any: `header 'trace'`.
    pub key: Option<String>,
    /// The column's name.
    pub alias: Option<String>,
}

/// `WITH (...) [FORMAT f ENCODE e (...)]`: where rows come from or go to, and in which form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connection {
    /// The options in the order written: dotted names lower case, values without quotes.
    pub options: Vec<(String, String)>,
    /// `FORMAT f`, lower case
    pub format: Option<String>,
    /// `ENCODE e`, lower case
    pub encode: Option<String>,
    /// The options of `ENCODE e (...)`.
    pub encode_options: Vec<(String, String)>,
    /// `KEY ENCODE e`, lower case
    pub key_encode: Option<String>,
    /// `INCLUDE ...`
    pub includes: Vec<Include>,
}

/// The part in parentheses of a table or source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    /// The columns.
    pub columns: Vec<ColumnDef>,
    /// `PRIMARY KEY (...)`, or the columns that say so themselves.
    pub primary_key: Vec<String>,
    /// Where the key is declared.
    pub primary_key_position: Option<usize>,
    /// `WATERMARK FOR ...`
    pub watermarks: Vec<Watermark>,
    /// `*`: and the columns that the data has.
    pub wildcard: bool,
}

/// `CREATE TABLE [IF NOT EXISTS] t (...) [APPEND ONLY] [WITH (...)] [FORMAT ...]`, `CREATE TABLE t AS query`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTable {
    /// Its name.
    pub name: ObjectName,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// The columns.
    pub columns: Columns,
    /// `APPEND ONLY`
    pub append_only: bool,
    /// `ON CONFLICT DO NOTHING | UPDATE FULL | ...`, lower case words
    pub on_conflict: Option<String>,
    /// Where its rows come from; without options it is an ordinary table.
    pub connection: Connection,
    /// `AS query`
    pub query: Option<Query>,
    /// The names of the columns of `AS query`.
    pub query_columns: Vec<String>,
}

/// `CREATE SOURCE [IF NOT EXISTS] s [(...)] [INCLUDE ...] WITH (...) [FORMAT f ENCODE e (...)]`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateSource {
    /// Its name.
    pub name: ObjectName,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// The columns.
    pub columns: Columns,
    /// Where its rows come from.
    pub connection: Connection,
}

/// `CREATE MATERIALIZED VIEW [IF NOT EXISTS] v [(columns)] [WITH (...)] AS query`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateMaterializedView {
    /// Its name.
    pub name: ObjectName,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// The names of the columns; may be fewer than the query has.
    pub columns: Vec<String>,
    /// `WITH (...)`
    pub options: Vec<(String, String)>,
    /// The query.
    pub query: Query,
    /// `EMIT ...`
    pub emit: Emit,
}

/// `CREATE [OR REPLACE] VIEW [IF NOT EXISTS] v [(columns)] AS query`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    /// Its name.
    pub name: ObjectName,
    /// `OR REPLACE`
    pub or_replace: bool,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// The names of the columns; may be fewer than the query has.
    pub columns: Vec<String>,
    /// The query.
    pub query: Query,
}

/// One column of an index.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexColumn {
    /// The column.
    pub name: String,
    /// `DESC`
    pub descending: bool,
    /// `NULLS FIRST`, said or implied by `DESC`
    pub nulls_first: bool,
    /// Where it stands.
    pub position: usize,
}

/// `CREATE INDEX [IF NOT EXISTS] i ON rel (columns) [INCLUDE (...)]`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateIndex {
    /// Its name; Postgres makes one up if there is none.
    pub name: Option<ObjectName>,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// `UNIQUE`
    pub unique: bool,
    /// The indexed relation.
    pub relation: ObjectName,
    /// `USING method`
    pub using: Option<String>,
    /// The columns.
    pub columns: Vec<IndexColumn>,
    /// `INCLUDE (...)`
    pub include: Vec<String>,
}

/// What a sink writes.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkFrom {
    /// `FROM rel`
    Relation(ObjectName),
    /// `AS query`
    Query(Query),
}

/// `CREATE SINK [IF NOT EXISTS] s [INTO t [(columns)]] FROM rel | AS query [WITH (...)] [FORMAT f ENCODE e (...)]`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateSink {
    /// Its name.
    pub name: ObjectName,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// `INTO t`
    pub into: Option<ObjectName>,
    /// `INTO t (columns)`: which of its columns; empty for as many as come.
    pub into_columns: Vec<String>,
    /// What it writes.
    pub from: SinkFrom,
    /// Where to.
    pub connection: Connection,
}

/// What an object is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// `CREATE TABLE`
    #[default]
    Table,
    /// `CREATE SOURCE`
    Source,
    /// `CREATE VIEW`: its text is bound again wherever it is used.
    View,
    /// `CREATE MATERIALIZED VIEW`
    MaterializedView,
    /// `CREATE INDEX`
    Index,
    /// `CREATE SINK`
    Sink,
    /// A relation of `pg_catalog`, `information_schema` or `headwater_catalog`, or a `$errors` relation.
    System,
}

/// The kinds of objects that DROP, ALTER and COMMENT name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedKind {
    /// A relation of the catalog.
    Relation(ObjectKind),
    /// A column of a relation (COMMENT only).
    Column,
    /// A schema.
    Schema,
    /// A database.
    Database,
}

impl NamedKind {
    /// In upper case, as in a command tag.
    pub fn words(self) -> &'static str {
        match self {
            NamedKind::Relation(ObjectKind::Table | ObjectKind::System) => "TABLE",
            NamedKind::Relation(ObjectKind::Source) => "SOURCE",
            NamedKind::Relation(ObjectKind::View) => "VIEW",
            NamedKind::Relation(ObjectKind::MaterializedView) => "MATERIALIZED VIEW",
            NamedKind::Relation(ObjectKind::Index) => "INDEX",
            NamedKind::Relation(ObjectKind::Sink) => "SINK",
            NamedKind::Column => "COLUMN",
            NamedKind::Schema => "SCHEMA",
            NamedKind::Database => "DATABASE",
        }
    }
}

/// What is said of a role; `None` is what holds already.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoleOptions {
    /// `LOGIN`
    pub can_login: Option<bool>,
    /// `SUPERUSER`
    pub is_super: Option<bool>,
    /// `CREATEDB`
    pub creates_databases: Option<bool>,
    /// `CREATEROLE`
    pub creates_roles: Option<bool>,
    /// `PASSWORD 'x'`; inside `None` for `PASSWORD NULL`
    pub password: Option<Option<String>>,
    /// `VALID UNTIL 'timestamp'`
    pub valid_until: Option<String>,
}

/// `CREATE USER | ROLE name [WITH] options`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateRole {
    /// Its name.
    pub name: String,
    /// What is said of it.
    pub options: RoleOptions,
}

/// `ALTER USER | ROLE name ...`
#[derive(Clone, Debug, PartialEq)]
pub struct AlterRole {
    /// Its name; `None` is who asks.
    pub name: Option<String>,
    /// What changes.
    pub change: RoleChange,
}

/// What ALTER ROLE changes.
#[derive(Clone, Debug, PartialEq)]
pub enum RoleChange {
    /// `[WITH] options`
    Options(RoleOptions),
    /// `RENAME TO name`
    Rename(String),
}

/// `DROP USER | ROLE [IF EXISTS] name [, ...]`
#[derive(Clone, Debug, PartialEq)]
pub struct DropRole {
    /// The names.
    pub names: Vec<String>,
    /// `IF EXISTS`
    pub if_exists: bool,
}

/// `DROP kind [IF EXISTS] name [, ...] [CASCADE | RESTRICT]`
#[derive(Clone, Debug, PartialEq)]
pub struct Drop {
    /// What is dropped.
    pub kind: NamedKind,
    /// The names.
    pub names: Vec<ObjectName>,
    /// `IF EXISTS`
    pub if_exists: bool,
    /// `CASCADE`
    pub cascade: bool,
}

/// `ALTER kind name RENAME TO new`
#[derive(Clone, Debug, PartialEq)]
pub struct AlterRename {
    /// What it is.
    pub kind: NamedKind,
    /// Its name.
    pub name: ObjectName,
    /// `RENAME COLUMN column TO new`: that column.
    pub column: Option<String>,
    /// The new name.
    pub new_name: String,
}

/// `EXPLAIN [(options)] statement`
#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    /// `ANALYZE`
    pub analyze: bool,
    /// The other options, lower case: `verbose`, `costs off`, ...
    pub options: Vec<(String, String)>,
    /// What is explained.
    pub statement: Box<Statement>,
}

/// `SHOW ...`
#[derive(Clone, Debug, PartialEq)]
pub enum Show {
    /// `SHOW name`
    Setting(String),
    /// `SHOW ALL`
    All,
    /// `SHOW TABLES | SOURCES | VIEWS | MATERIALIZED VIEWS | INDEXES | SINKS [FROM schema] [LIKE pattern]`
    Objects {
        /// Which.
        kind: ObjectKind,
        /// `FROM schema`
        schema: Option<String>,
        /// `LIKE pattern`
        like: Option<String>,
    },
    /// `SHOW SINK GROUPS`
    SinkGroups,
    /// `SHOW SCHEMAS`
    Schemas,
    /// `SHOW DATABASES`
    Databases,
    /// `SHOW COLUMNS FROM t`
    Columns(ObjectName),
    /// `SHOW INDEXES FROM t`
    IndexesOf(ObjectName),
    /// `SHOW CREATE kind name`
    Create(NamedKind, ObjectName),
    /// `SHOW JOBS`
    Jobs,
    /// Anything else that is known and always empty or not there: its words, lower case.
    Other(String),
}

/// `SET [SESSION | LOCAL] name TO | = value`
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    /// The setting; `timezone` for `SET TIME ZONE`.
    pub name: String,
    /// The value without quotes, lists joined by `, `; `None` is DEFAULT.
    pub value: Option<String>,
    /// `LOCAL`
    pub local: bool,
}

/// `BEGIN [modes]`, `START TRANSACTION [modes]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// `READ ONLY` or `READ WRITE`, if said.
    pub read_only: Option<bool>,
    /// `START TRANSACTION`
    pub start: bool,
}

/// What is subscribed to.
#[derive(Clone, Debug, PartialEq)]
pub enum SubscribeTo {
    /// A relation.
    Relation(ObjectName),
    /// `(query)`
    Query(Query),
}

/// `SUBSCRIBE [TO] rel | (query) [WITH (SNAPSHOT = true, PROGRESS = false)]`
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// To what.
    pub to: SubscribeTo,
    /// Whether the rows that are there come first.
    pub snapshot: bool,
    /// Whether progress is told.
    pub progress: bool,
}

/// `PREPARE name [(types)] AS statement`
#[derive(Clone, Debug, PartialEq)]
pub struct Prepare {
    /// Its name.
    pub name: String,
    /// The parameters' types, as far as given.
    pub types: Vec<Option<SqlType>>,
    /// The statement.
    pub statement: Box<Statement>,
    /// The statement's own text.
    pub text: String,
    /// Where its text starts in the whole statement: characters, the first is 0.
    pub offset: usize,
}

/// `EXECUTE name [(values)]`
#[derive(Clone, Debug, PartialEq)]
pub struct Execute {
    /// Which.
    pub name: String,
    /// The values: `SELECT value, ...`, without columns.
    pub values: Option<Query>,
}

/// `DECLARE c [options] CURSOR [WITH HOLD] FOR query`
#[derive(Clone, Debug, PartialEq)]
pub struct Declare {
    /// Its name.
    pub name: String,
    /// `WITH HOLD`
    pub hold: bool,
    /// `BINARY`
    pub binary: bool,
    /// `SCROLL`
    pub scroll: bool,
    /// The query.
    pub query: Query,
}

/// How far FETCH goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchCount {
    /// So many rows forward.
    Next(u64),
    /// All that are left.
    All,
}

/// `FETCH [count] FROM c`, `MOVE [count] FROM c`
#[derive(Clone, Debug, PartialEq)]
pub struct Fetch {
    /// The cursor.
    pub cursor: String,
    /// How far.
    pub count: FetchCount,
    /// `MOVE`: rows are passed over.
    pub is_move: bool,
}

/// `COMMENT ON kind name IS text`
#[derive(Clone, Debug, PartialEq)]
pub struct Comment {
    /// What is commented on.
    pub kind: NamedKind,
    /// Its name; for a column that of its relation.
    pub name: ObjectName,
    /// The column.
    pub column: Option<String>,
    /// The text; `None` takes it away.
    pub text: Option<String>,
}
