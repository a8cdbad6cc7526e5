//! Binding: the names and types of a statement as Postgres resolves them, to a typed logical plan.

mod aggregate;
mod dml;
mod expression;
mod from;
mod grouping;
mod hypothetical;
mod levels;
mod literal;
mod lookup;
pub(crate) mod names;
mod on_conflict;
mod order;
mod recursive;
mod row;
mod select;
mod series;
mod set_operation;
mod set_returning;
mod stream_join;
mod subquery;
mod system;
mod table_function;
#[cfg(test)]
mod tests;
mod window;
mod window_table;

use std::sync::Arc;

use datafusion::logical_expr::{Expr, LogicalPlan};
use sqlparser::ast;
use storage::{RelationId, SqlType};

use crate::catalog::{Catalog, Object, ObjectKind};
use crate::error::{Error, Result};
use crate::expr::column;
use crate::rules::Switches;
pub use crate::settings::Settings;
use crate::statement::{Delete, Insert, Query, Update};

pub(crate) use self::from::key_of;
pub use self::literal::relation_oid;
use self::names::Scope;
pub use self::on_conflict::{CONFLICTS, OnConflict};

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
    /// What the query itself names, views as such: a view's own relations are not among them.
    pub depends_on: Vec<RelationId>,
    /// The types of the parameters `$1`, `$2`, ...
    pub params: Vec<SqlType>,
    /// What `set_config()` sets when the query runs.
    pub sets: Vec<SetConfig>,
    /// The rules that the session has switched off, for views.
    pub switches: Switches,
}

/// A call of `set_config()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetConfig {
    /// The setting.
    pub name: String,
    /// Its new value.
    pub value: SettingValue,
    /// Whether only until the end of the transaction.
    pub local: bool,
}

/// The value of a `set_config()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingValue {
    /// A constant; NULL is the default.
    Constant(Option<String>),
    /// The value of a parameter; the first is 0.
    Parameter(usize),
}

/// The relation that the plan of a RETURNING clause reads: the new rows of an INSERT or UPDATE, the old rows of a
/// DELETE, with all columns of the table, hidden ones included, and behind them those of the tables of FROM or USING. Whoever runs the plan provides its rows.
pub const RETURNING: RelationId = RelationId(u32::MAX);

/// A bound INSERT: [`source`](BoundInsert::source) gives the new rows, all visible columns of the table in order, cast
/// and with defaults filled in. NOT NULL and keys are not checked.
#[derive(Clone, Debug)]
pub struct BoundInsert {
    /// The table.
    pub table: Arc<Object>,
    /// The new rows.
    pub source: Bound,
    /// What happens to a row whose key is there.
    pub on_conflict: Option<OnConflict>,
    /// RETURNING: a query over [`RETURNING`].
    pub returning: Option<Bound>,
    /// The types of all parameters of the statement.
    pub params: Vec<SqlType>,
}

/// A bound UPDATE: [`source`](BoundUpdate::source) gives for each row to change all old columns of the table, then all
/// new ones, hidden ones included, then the columns of the tables of FROM.
#[derive(Clone, Debug)]
pub struct BoundUpdate {
    /// The table.
    pub table: Arc<Object>,
    /// Old and new rows.
    pub source: Bound,
    /// Whether there is a FROM: a row that it meets several times is changed once.
    pub joins: bool,
    /// RETURNING: a query over [`RETURNING`].
    pub returning: Option<Bound>,
    /// The types of all parameters of the statement.
    pub params: Vec<SqlType>,
}

/// A bound DELETE: [`source`](BoundDelete::source) gives the rows to take away with all columns of the table, hidden
/// ones included, then the columns of the tables of USING.
#[derive(Clone, Debug)]
pub struct BoundDelete {
    /// The table.
    pub table: Arc<Object>,
    /// Old rows.
    pub source: Bound,
    /// Whether there is a USING: a row that it meets several times is taken away once.
    pub joins: bool,
    /// RETURNING: a query over [`RETURNING`].
    pub returning: Option<Bound>,
    /// The types of all parameters of the statement.
    pub params: Vec<SqlType>,
}

/// Binds a query for a read. `params` holds what is known of the parameters' types and learns the rest; what nothing
/// decides is text.
pub fn bind_query(
    catalog: &Catalog,
    settings: &Settings,
    query: &Query,
    params: &mut Vec<Option<SqlType>>,
) -> Result<Bound> {
    let mut binder = Binder::new(catalog, settings, params, &query.text);
    let bound = binder.query(&query.ast)?;
    binder.finish(bound)
}

/// Binds a query for a view: like [`bind_query`], but without parameters and without a now.
pub fn bind_view(catalog: &Catalog, settings: &Settings, query: &Query) -> Result<Bound> {
    let mut params = Vec::new();
    let mut binder = Binder::new(catalog, settings, &mut params, &query.text);
    binder.view = true;
    let bound = binder.query(&query.ast)?;
    binder.finish(bound)
}

/// Binds an INSERT.
pub fn bind_insert(
    catalog: &Catalog,
    settings: &Settings,
    insert: &Insert,
    params: &mut Vec<Option<SqlType>>,
) -> Result<BoundInsert> {
    Binder::new(catalog, settings, params, &insert.text).insert(insert)
}

/// Binds an UPDATE.
pub fn bind_update(
    catalog: &Catalog,
    settings: &Settings,
    update: &Update,
    params: &mut Vec<Option<SqlType>>,
) -> Result<BoundUpdate> {
    Binder::new(catalog, settings, params, &update.text).update(update)
}

/// Binds a DELETE.
pub fn bind_delete(
    catalog: &Catalog,
    settings: &Settings,
    delete: &Delete,
    params: &mut Vec<Option<SqlType>>,
) -> Result<BoundDelete> {
    Binder::new(catalog, settings, params, &delete.text).delete(delete)
}

/// How deep views may be made of views.
const VIEW_DEPTH_MAX: usize = 64;

/// A typed expression.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    expr: Expr,
    ty: SqlType,
    typmod: i32,
    position: Option<usize>,
}

impl Typed {
    fn new(expr: Expr, ty: SqlType) -> Typed {
        Typed { expr, ty, typmod: -1, position: None }
    }

    fn at(mut self, position: Option<usize>) -> Typed {
        self.position = position.or(self.position);
        self
    }

    fn is_null(&self) -> bool {
        matches!(&self.expr, Expr::Literal(value, _) if value.is_null())
    }
}

/// A column of a bound query.
#[derive(Clone, Debug)]
pub(crate) struct OutField {
    /// Its unique name in the plan.
    internal: String,
    /// Its name as shown.
    name: String,
    ty: SqlType,
    typmod: i32,
}

impl OutField {
    fn expr(&self) -> Expr {
        column(&self.internal)
    }
}

/// A bound query inside a statement.
#[derive(Clone, Debug)]
pub(crate) struct BoundQuery {
    plan: LogicalPlan,
    fields: Vec<OutField>,
}

/// A CTE that names may mean.
#[derive(Clone)]
struct Cte {
    name: String,
    columns: Vec<ast::Ident>,
    query: Box<ast::Query>,
    /// The first use takes it; each further use binds the query again, so that its names stay unique.
    bound: Option<BoundQuery>,
    kind: select::CteKind,
}

/// Binds one statement.
pub(crate) struct Binder<'a> {
    catalog: &'a Catalog,
    settings: &'a Settings,
    params: &'a mut Vec<Option<SqlType>>,
    text: Arc<str>,
    /// For a view: no parameters, no now.
    view: bool,
    /// The table that is named next may be one outside.
    looks_up: bool,
    next: usize,
    relations: Vec<RelationId>,
    /// What the query itself names.
    depends_on: Vec<RelationId>,
    settings_set: Vec<SetConfig>,
    /// What names mean, innermost last.
    scopes: Vec<Scope>,
    ctes: Vec<Cte>,
    /// Views that are being expanded.
    expanding: Vec<RelationId>,
    text_session: crate::types::text::Session,
}

impl<'a> Binder<'a> {
    fn new(
        catalog: &'a Catalog,
        settings: &'a Settings,
        params: &'a mut Vec<Option<SqlType>>,
        text: &Arc<str>,
    ) -> Binder<'a> {
        use crate::types::datetime::{UTC, Zone};
        let zone = Zone::parse(&settings.timezone).unwrap_or(UTC);
        Binder {
            catalog,
            settings,
            params,
            text: text.clone(),
            view: false,
            looks_up: false,
            next: 0,
            relations: vec![],
            depends_on: vec![],
            settings_set: vec![],
            scopes: vec![],
            ctes: vec![],
            expanding: vec![],
            text_session: crate::types::text::Session { zone, now: Some(settings.now) },
        }
    }

    /// A column name that the plan does not have yet.
    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("c{}", self.next)
    }

    fn read(&mut self, relation: RelationId) {
        if !self.relations.contains(&relation) {
            self.relations.push(relation);
        }
    }

    /// Notes that the query stands or falls with an object. System relations are always there, and an error table is
    /// there as long as the relation whose errors it holds.
    fn depend(&mut self, object: &Object) {
        let id = match object.kind {
            _ if !self.expanding.is_empty() => return,
            ObjectKind::System => match object.depends_on.first() {
                Some(owner) => *owner,
                None => return,
            },
            _ => object.id,
        };
        if !self.depends_on.contains(&id) {
            self.depends_on.push(id);
        }
    }

    /// A query as a statement's result: what is still untyped is text.
    fn finish(mut self, query: BoundQuery) -> Result<Bound> {
        let query = self.without_unknowns(query)?;
        Ok(self.bound(query))
    }

    fn bound(&mut self, query: BoundQuery) -> Bound {
        let columns = query.fields.into_iter().map(|f| OutputColumn { name: f.name, ty: f.ty, typmod: f.typmod });
        Bound {
            plan: query.plan,
            columns: columns.collect(),
            relations: self.relations.clone(),
            depends_on: self.depends_on.clone(),
            params: self.params.iter().map(|t| t.clone().unwrap_or(SqlType::Text)).collect(),
            sets: self.settings_set.clone(),
            switches: Switches::of(self.settings),
        }
    }
}

/// An error with the place that it is about, if that is known.
fn at(error: impl Into<Error>, position: Option<usize>) -> Error {
    let error = error.into();
    match position {
        Some(position) => error.at(position),
        None => error,
    }
}
