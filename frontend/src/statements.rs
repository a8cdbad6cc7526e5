//! The statements, one file each, and [`run`], which finds the file.

pub mod alter;
pub mod backup;
pub mod copy;
pub mod create;
pub mod create_index;
pub mod create_materialized_view;
pub mod create_sink;
pub mod create_source;
pub mod create_table;
pub mod create_view;
pub mod cursor;
pub mod delete;
pub mod drop;
pub mod event_time;
pub mod explain;
pub mod flush;
pub mod insert;
pub mod no_op;
pub mod on_conflict;
pub mod prepare;
pub mod retry_errors;
pub mod role;
pub mod savepoint_point;
pub mod select;
pub mod set;
pub mod show;
pub mod sink_group;
pub mod sink_into;
pub mod storage_parameters;
pub mod subscribe;
pub mod transaction;
pub mod truncate;
pub mod ttl;
pub mod update;
pub mod writing;

use planner::Statement;

use crate::error::{Error, Result};
use crate::outcome::{Outcome, Parameters, RowsTag};
use crate::session::Session;
use crate::session::prepared::Prepared;

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
        Statement::CreateSink(create) => create_sink::run(session, create, text).await,
        Statement::CreateSinkGroup { name, if_not_exists, options } => {
            sink_group::create(session, name, *if_not_exists, options).await
        }
        Statement::DropSinkGroup { name, if_exists } => sink_group::drop(session, name, *if_exists).await,
        Statement::Drop(drop) => drop::run(session, drop).await,
        Statement::AlterRename(alter) => alter::rename(session, alter).await,
        Statement::AlterSet { kind, name, options } => alter::set(session, *kind, name, options).await,
        Statement::AlterResume { kind, name } => alter::resume(session, *kind, name).await,
        Statement::AlterFormat { name, connection } => retry_errors::reformat(session, name, connection).await,
        Statement::RetryErrors { name, query } => retry_errors::run(session, name, query, parameters).await,
        Statement::AlterSink { name, pause } => alter::pause(session, name, *pause).await,
        Statement::Comment(comment) => alter::comment(session, comment).await,
        Statement::CreateRole(create) => role::create(session, create).await,
        Statement::AlterRole(alter) => role::alter(session, alter).await,
        Statement::DropRole(drop) => role::drop(session, drop).await,
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
        Statement::Backup(directory) => backup::run(session, directory).await,
        Statement::CreateSavepointPoint { name, if_not_exists } => {
            savepoint_point::create(session, name, *if_not_exists).await
        }
        Statement::DropSavepointPoint { name, if_exists } => savepoint_point::drop(session, name, *if_exists).await,
        Statement::Prepare(prepare) => prepare::declare(session, prepare).await,
        Statement::Execute(execute) => {
            let (prepared, parameters) = prepare::execute(session, execute).await?;
            Box::pin(run_prepared(session, &prepared, &parameters)).await
        }
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
        return select::rows(session, ready, &parameters.values, RowsTag::Select).await.map(Outcome::Rows);
    }
    match &prepared.parsed {
        Some(parsed) => run(session, &parsed.statement, &parsed.text, parameters).await,
        None => Ok(Outcome::Done(String::new())),
    }
}
