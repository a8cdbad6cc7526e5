//! The statements, one file each, and [`run`], which finds the file.

pub mod alter;
pub mod copy;
pub mod create_index;
pub mod create_materialized_view;
pub mod create_source;
pub mod create_table;
pub mod create_view;
pub mod cursor;
pub mod delete;
pub mod drop;
pub mod explain;
pub mod flush;
pub mod insert;
pub mod no_op;
pub mod on_conflict;
pub mod prepare;
pub mod select;
pub mod set;
pub mod show;
pub mod storage_parameters;
pub mod subscribe;
pub mod transaction;
pub mod truncate;
pub mod update;

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use planner::{ScalarValue, Statement};
use storage::SqlType;

use crate::error::{Error, Result};
use crate::pgwire::types::{Field, Style};
use crate::session::Session;

pub use cursor::Cursor;
use prepare::Prepared;

/// What a statement answers.
pub enum Outcome {
    /// It is done: the command tag.
    Done(String),
    /// Rows, as they come.
    Rows(Rows),
    /// It wants data.
    CopyIn(copy::CopyIn),
    /// It has data.
    CopyOut(copy::CopyOut),
}

/// Rows, as they come.
pub struct Rows {
    /// The columns.
    pub fields: Vec<Field>,
    /// The rows. Dropping them stops the query.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// The command tag.
    pub tag: RowsTag,
    /// Whether each batch is sent at once.
    pub flush: bool,
    /// How values are written.
    pub style: Style,
    /// Rows that are sent already.
    pub sent: u64,
}

impl Rows {
    /// Rows that are all there.
    pub fn ready(fields: Vec<Field>, batch: RecordBatch, tag: RowsTag, style: Style) -> Rows {
        let batches = Box::pin(futures::stream::iter([Ok(batch)]));
        Rows { fields, batches, tag, flush: false, style, sent: 0 }
    }
}

/// The command tag of a statement that returns rows.
#[derive(Clone, Debug, PartialEq)]
pub enum RowsTag {
    /// `SELECT n`
    Select,
    /// `FETCH n`
    Fetch,
    /// A tag without a number, such as `EXPLAIN`.
    Fixed(&'static str),
    /// A tag that is known before the rows, such as `INSERT 0 3`.
    Known(String),
}

impl RowsTag {
    /// The tag after `n` rows.
    pub fn text(&self, n: u64) -> String {
        match self {
            RowsTag::Select => format!("SELECT {n}"),
            RowsTag::Fetch => format!("FETCH {n}"),
            RowsTag::Fixed(tag) => (*tag).to_owned(),
            RowsTag::Known(tag) => tag.clone(),
        }
    }
}

/// The parameters that a statement is run with.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// Their types.
    pub types: Vec<SqlType>,
    /// Their values.
    pub values: Vec<ScalarValue>,
}

impl Parameters {
    /// The types as binding wants them.
    pub fn known(&self) -> Vec<Option<SqlType>> {
        self.types.iter().cloned().map(Some).collect()
    }
}

/// After an error nothing but the end of the transaction is accepted.
pub fn check_allowed(session: &Session, statement: &Statement) -> Result<()> {
    let ends = matches!(statement, Statement::Commit { .. } | Statement::Rollback { .. } | Statement::RollbackTo(_));
    if session.is_failed() && !ends {
        let message = "current transaction is aborted, commands ignored until end of transaction block";
        return Err(Error::new("25P02", message));
    }
    Ok(())
}

/// Runs a statement. `text` is its own text.
pub async fn run(session: &mut Session, statement: &Statement, text: &str, parameters: &Parameters) -> Result<Outcome> {
    match statement {
        Statement::Query(query) => select::run(session, query, parameters).await.map(Outcome::Rows),
        Statement::Insert(insert) => insert::run(session, insert, parameters).await,
        Statement::Update(update) => update::run(session, update, parameters).await,
        Statement::Delete(delete) => delete::run(session, delete, parameters).await,
        Statement::Truncate(truncate) => truncate::run(session, &truncate.tables).await,
        Statement::Copy(copy) => copy::run(session, copy).await,
        Statement::CreateTable(create) => create_table::run(session, create, text).await,
        Statement::CreateSource(create) => create_source::run(session, create, text).await,
        Statement::CreateMaterializedView(create) => create_materialized_view::run(session, create, text).await,
        Statement::CreateView(create) => create_view::run(session, create, text).await,
        Statement::CreateIndex(create) => create_index::run(session, create, text).await,
        Statement::CreateSink(_) => Err(Error::unsupported("CREATE SINK is not supported yet")),
        Statement::Drop(drop) => drop::run(session, drop).await,
        Statement::AlterRename(alter) => alter::rename(session, alter).await,
        Statement::Comment(comment) => alter::comment(session, comment).await,
        Statement::Explain(explain) => explain::run(session, explain, parameters).await,
        Statement::Show(what) => show::run(session, what),
        Statement::Describe(name) => show::columns(session, name),
        Statement::Set(set) => set::run(session, &set.name, set.value.as_deref(), set.local),
        Statement::Reset(name) => set::reset(session, name.as_deref()),
        Statement::Discard(what) => set::discard(session, what),
        Statement::Begin(begin) => transaction::begin(session, begin.read_only, begin.start),
        Statement::Commit { chain } => transaction::commit(session, *chain).await,
        Statement::Rollback { chain } => transaction::rollback(session, *chain),
        Statement::Savepoint(name) => transaction::savepoint(session, name),
        Statement::Release(name) => transaction::release(session, name),
        Statement::RollbackTo(name) => transaction::rollback_to(session, name),
        Statement::SetTransaction { read_only, session: whole } => transaction::set(session, *read_only, *whole),
        Statement::Subscribe(subscribe) => subscribe::run(session, subscribe).await,
        Statement::Flush => flush::run(session, "FLUSH").await,
        Statement::Wait => flush::run(session, "WAIT").await,
        Statement::Prepare(prepare) => prepare::declare(session, prepare),
        Statement::Execute(execute) => Box::pin(prepare::execute(session, execute)).await,
        Statement::Deallocate(name) => prepare::deallocate(session, name.as_deref()),
        Statement::Declare(declare) => cursor::declare(session, declare, text).await,
        Statement::Fetch(fetch) => cursor::fetch(session, fetch).await,
        Statement::Close(name) => cursor::close(session, name.as_deref()),
        Statement::NoOp { tag } => Ok(no_op::run(tag)),
        Statement::Unsupported { what } => Err(Error::unsupported(format!("{what} is not supported yet"))),
    }
}

/// Runs a prepared statement.
pub async fn run_prepared(session: &mut Session, prepared: &Prepared, parameters: &Parameters) -> Result<Outcome> {
    if let Some(ready) = &prepared.ready {
        return ready.rows(session, &parameters.values, RowsTag::Select).await.map(Outcome::Rows);
    }
    match &prepared.parsed {
        Some(parsed) => run(session, &parsed.statement, &parsed.text, parameters).await,
        None => Ok(Outcome::Done(String::new())),
    }
}
