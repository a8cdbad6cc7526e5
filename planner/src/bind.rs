//! Binding: the names and types of a statement as Postgres resolves them, to a typed logical plan.

pub(crate) mod names;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use storage::{RelationId, SqlType};

use crate::catalog::{Catalog, Object};
use crate::error::{Error, Result};
use crate::statement::{Delete, Insert, Query, Update};

/// What a session's statements depend on besides the catalog.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The session's time zone, as `SET TIME ZONE` has it.
    pub timezone: String,
    /// The schemas where names are looked up, `pg_catalog` first if it is not listed.
    pub search_path: Vec<String>,
    /// The transaction's time: microseconds since 1970-01-01 UTC.
    pub now: i64,
    /// Who asks.
    pub user: String,
    /// The database.
    pub database: String,
    /// The other settings, lower case names, for `current_setting()`.
    pub values: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            timezone: "UTC".into(),
            search_path: vec!["public".into()],
            now: 0,
            user: "root".into(),
            database: "dev".into(),
            values: BTreeMap::new(),
        }
    }
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputColumn {
    /// Its name as shown; need not be unique.
    pub name: String,
    /// Its type.
    pub ty: SqlType,
    /// The type's modifier; -1 for none.
    pub typmod: i32,
}

/// A bound query.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The plan; its columns are [`columns`](Bound::columns), in order, under unique names.
    pub plan: LogicalPlan,
    /// The columns.
    pub columns: Vec<OutputColumn>,
    /// The relations that are read, each once.
    pub relations: Vec<RelationId>,
    /// The types of the parameters `$1`, `$2`, ...
    pub params: Vec<SqlType>,
}

/// The relation that the plan of a RETURNING clause reads: the new rows of an INSERT or UPDATE, the old rows of a
/// DELETE, with all columns of the table, hidden ones included. Whoever runs the plan provides its rows.
pub const RETURNING: RelationId = RelationId(u32::MAX);

/// A bound INSERT: [`source`](BoundInsert::source) gives the new rows, all visible columns of the table in order, cast
/// and with defaults filled in. NOT NULL and keys are not checked.
#[derive(Clone, Debug)]
pub struct BoundInsert {
    /// The table.
    pub table: Arc<Object>,
    /// The new rows.
    pub source: Bound,
    /// RETURNING: a query over [`RETURNING`].
    pub returning: Option<Bound>,
    /// The types of all parameters of the statement.
    pub params: Vec<SqlType>,
}

/// A bound UPDATE: [`source`](BoundUpdate::source) gives for each row to change all old columns of the table, then all
/// new ones, hidden ones included.
#[derive(Clone, Debug)]
pub struct BoundUpdate {
    /// The table.
    pub table: Arc<Object>,
    /// Old and new rows.
    pub source: Bound,
    /// RETURNING: a query over [`RETURNING`].
    pub returning: Option<Bound>,
    /// The types of all parameters of the statement.
    pub params: Vec<SqlType>,
}

/// A bound DELETE: [`source`](BoundDelete::source) gives the rows to take away with all columns of the table, hidden
/// ones included.
#[derive(Clone, Debug)]
pub struct BoundDelete {
    /// The table.
    pub table: Arc<Object>,
    /// Old rows.
    pub source: Bound,
    /// RETURNING: a query over [`RETURNING`].
    pub returning: Option<Bound>,
    /// The types of all parameters of the statement.
    pub params: Vec<SqlType>,
}

/// Binds a query for a read. `params` holds what is known of the parameters' types and learns the rest; what nothing
/// decides stays `None` there and is text in [`Bound::params`].
pub fn bind_query(
    _catalog: &Catalog,
    _settings: &Settings,
    _query: &Query,
    _params: &mut Vec<Option<SqlType>>,
) -> Result<Bound> {
    Err(Error::unsupported("queries are not bound yet"))
}

/// Binds a query for a view: like [`bind_query`], but without parameters and without a now.
pub fn bind_view(_catalog: &Catalog, _settings: &Settings, _query: &Query) -> Result<Bound> {
    Err(Error::unsupported("queries are not bound yet"))
}

/// Binds an INSERT.
pub fn bind_insert(
    _catalog: &Catalog,
    _settings: &Settings,
    _insert: &Insert,
    _params: &mut Vec<Option<SqlType>>,
) -> Result<BoundInsert> {
    Err(Error::unsupported("INSERT is not bound yet"))
}

/// Binds an UPDATE.
pub fn bind_update(
    _catalog: &Catalog,
    _settings: &Settings,
    _update: &Update,
    _params: &mut Vec<Option<SqlType>>,
) -> Result<BoundUpdate> {
    Err(Error::unsupported("UPDATE is not bound yet"))
}

/// Binds a DELETE.
pub fn bind_delete(
    _catalog: &Catalog,
    _settings: &Settings,
    _delete: &Delete,
    _params: &mut Vec<Option<SqlType>>,
) -> Result<BoundDelete> {
    Err(Error::unsupported("DELETE is not bound yet"))
}
