//! SELECT: a bound plan run by DataFusion over snapshots of relations, all as of one epoch.
//!
//! A query without FROM and a lookup by key do not reach DataFusion's planner: see [`mod@constant`] and [`point`].

pub mod constant;
mod index;
mod interrupt;
pub mod point;
pub mod query;
pub mod reads;
pub(crate) mod row_expr;
pub mod rows;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, Operator, TableProviderFilterPushDown, TableScan, TableSource,
};
use storage::RelationId;
use streaming::lookup::LookupSpec;
use streaming::watermark::{Watermark, Watermarks};

pub use point::PointLookup;
pub use query::{Query, RowStream};
pub use reads::{ReadLimits, Reads};
pub use rows::{TableRows, Tables};

use crate::expr::column;

/// A relation as a plan names it: the binder makes one per scan, with a schema whose column names are unique in the
/// whole plan. Column `i` is column `i` of the relation, hidden ones included.
#[derive(Clone)]
pub struct RelationSource {
    relation: RelationId,
    schema: SchemaRef,
    key: Vec<usize>,
    unique: bool,
    append_only: bool,
    watermarks: Watermarks,
    name: String,
    columns: Vec<String>,
    lookup: Option<Arc<LookupSpec>>,
}

impl RelationSource {
    /// A scan of `relation`. `key` are the columns that the relation's rows are ordered and found by.
    pub fn new(relation: RelationId, schema: SchemaRef, key: Vec<usize>) -> RelationSource {
        let columns = schema.fields().iter().map(|f| f.name().clone()).collect();
        let name = format!("relation {}", relation.0);
        let unique = !key.is_empty();
        let watermarks = vec![];
        RelationSource { relation, schema, unique, key, append_only: false, watermarks, name, columns, lookup: None }
    }

    /// What EXPLAIN calls the relation and its columns.
    pub fn named(mut self, name: impl Into<String>, columns: Vec<String>) -> RelationSource {
        debug_assert_eq!(columns.len(), self.schema.fields().len());
        (self.name, self.columns) = (name.into(), columns);
        self
    }

    /// Whether the key identifies a row; it does unless said otherwise. Otherwise rows are counted.
    pub fn unique(mut self, unique: bool) -> RelationSource {
        self.unique = unique;
        self
    }

    /// Whether rows are never retracted; they may be unless said otherwise.
    pub fn append_only(mut self, append_only: bool) -> RelationSource {
        self.append_only = append_only;
        self
    }

    /// Which columns have a watermark, and of what kind; none unless said otherwise.
    pub fn watermarks(mut self, watermarks: Watermarks) -> RelationSource {
        self.watermarks = watermarks;
        self
    }

    /// Its rows are outside, and are only looked up.
    pub fn looked_up(mut self, lookup: Option<LookupSpec>) -> RelationSource {
        self.lookup = lookup.map(Arc::new);
        self
    }

    /// The table outside that it is, if it is one.
    pub fn lookup(&self) -> Option<&LookupSpec> {
        self.lookup.as_deref()
    }

    /// What is known of the watermark of a column, if it has one.
    pub fn watermark(&self, column: usize) -> Option<Watermark> {
        self.watermarks.get(column).copied().flatten()
    }

    /// The plan that reads every column under its unique name, unqualified.
    pub fn scan_plan(self) -> DfResult<LogicalPlan> {
        let table = format!("r{}", self.relation.0);
        let columns: Vec<Expr> = self.schema.fields().iter().map(|f| column(f.name())).collect();
        LogicalPlanBuilder::scan(table, Arc::new(self), None)?.project(columns)?.build()
    }

    /// The relation that `scan` reads.
    pub fn of(scan: &TableScan) -> Option<&RelationSource> {
        scan.source.downcast_ref::<RelationSource>()
    }

    /// Which relation.
    pub fn relation(&self) -> RelationId {
        self.relation
    }

    /// The columns that rows are ordered and found by.
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    /// Whether the key identifies a row.
    pub fn is_unique(&self) -> bool {
        self.unique
    }

    /// Whether rows are never retracted.
    pub fn is_append_only(&self) -> bool {
        self.append_only
    }

    /// Its name, for EXPLAIN.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The names of its columns, for EXPLAIN.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

/// The relation that a plan reads as it is: nothing but chosen columns of one scan.
pub fn scanned(plan: &LogicalPlan) -> Option<&RelationSource> {
    match plan {
        LogicalPlan::TableScan(scan) => RelationSource::of(scan).filter(|_| scan.filters.is_empty()),
        LogicalPlan::Projection(projection) => {
            let plain = projection.expr.iter().all(|e| matches!(e, Expr::Column(_)));
            scanned(&projection.input).filter(|_| plain)
        }
        _ => None,
    }
}

/// The same with the column of the relation that each column of the plan is.
pub fn scanned_columns(plan: &LogicalPlan) -> Option<(&RelationSource, Vec<usize>)> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let source = RelationSource::of(scan).filter(|_| scan.filters.is_empty())?;
            let all = || (0..source.columns.len()).collect();
            Some((source, scan.projection.clone().unwrap_or_else(all)))
        }
        LogicalPlan::Projection(projection) => {
            let (source, columns) = scanned_columns(&projection.input)?;
            let place = |expr: &Expr| match expr {
                Expr::Column(column) => Some(columns[projection.input.schema().maybe_index_of_column(column)?]),
                Expr::Alias(alias) => match &*alias.expr {
                    Expr::Column(column) => Some(columns[projection.input.schema().maybe_index_of_column(column)?]),
                    _ => None,
                },
                _ => None,
            };
            Some((source, projection.expr.iter().map(place).collect::<Option<_>>()?))
        }
        LogicalPlan::SubqueryAlias(alias) => scanned_columns(&alias.input),
        _ => None,
    }
}

impl TableSource for RelationSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Comparisons of key columns with constants choose what is read; the rows are filtered again behind the scan.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| match key_comparison(self, filter) {
                Some(_) => TableProviderFilterPushDown::Inexact,
                None => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }
}

/// `key column <op> constant or parameter`, either way round: the column's position, the operator as if the column
/// stood on the left, and the constant.
fn key_comparison<'a>(source: &RelationSource, filter: &'a Expr) -> Option<(usize, Operator, &'a Expr)> {
    let Expr::BinaryExpr(binary) = filter else { return None };
    let constant = |e: &Expr| matches!(e, Expr::Literal(..) | Expr::Placeholder(_));
    let (column, op, value) = match (&*binary.left, &*binary.right) {
        (Expr::Column(c), value) if constant(value) => (c, binary.op, value),
        (value, Expr::Column(c)) if constant(value) => (c, binary.op.swap()?, value),
        _ => return None,
    };
    if !matches!(op, Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq) {
        return None;
    }
    let index = source.schema.index_of(&column.name).ok()?;
    source.key.contains(&index).then_some((index, op, value))
}

impl fmt::Debug for RelationSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.relation.0)
    }
}
