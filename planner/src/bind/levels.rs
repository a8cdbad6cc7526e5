//! Which query an aggregate belongs to: the innermost one that any column in it is of.
//!
//! ```text
//! SELECT (SELECT max(o.x) FROM s) FROM o GROUP BY o.y     one maximum per group of o
//! ```

use std::collections::HashSet;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::Expr;
use storage::SqlType;

use super::names::Call;
use super::{Binder, at};
use crate::error::{Error, Result};
use crate::expr::{column, subquery_of};

impl Binder<'_> {
    /// The level of the query that the parts of an aggregate make it one of; `what` is not allowed everywhere in that query.
    pub(super) fn level_of<'a>(
        &mut self,
        parts: impl IntoIterator<Item = &'a Expr>,
        what: &str,
        place: Option<usize>,
    ) -> Result<usize> {
        self.scope();
        let here = self.scopes.len() - 1;
        let mut names = HashSet::new();
        let mut own = false;
        for part in parts {
            own |= part.any_column_refs();
            part.apply(|e| {
                let inside = subquery_of(e).map(|s| s.outer_ref_columns.as_slice()).unwrap_or_default();
                names.extend(inside.iter().chain([e]).filter_map(outer_name).cloned());
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        let level = match own || names.is_empty() {
            true => here,
            false => (0..here).rev().find(|level| names.iter().any(|name| self.has(*level, name))).unwrap_or(here),
        };
        if level < here && names.iter().any(|name| self.computes(level, name)) {
            return Err(at(Error::new("42803", "aggregate function calls cannot be nested"), place));
        }
        match self.scopes[level].clause.no_aggregates() {
            Some(message) => Err(at(Error::new("42803", message.replace("aggregate functions", what)), place)),
            None => Ok(level),
        }
    }

    /// Whether a level has a column, or computes it.
    fn has(&self, level: usize, name: &str) -> bool {
        self.scopes[level].columns.iter().any(|c| c.field.internal == name) || self.computes(level, name)
    }

    fn computes(&self, level: usize, name: &str) -> bool {
        self.scopes[level].aggregates.iter().any(|call| call.internal == name)
    }

    /// An expression of this query as the query at a level sees it, which has all columns in it.
    pub(super) fn at_level(&self, e: Expr, level: usize) -> Result<Expr> {
        if level + 1 == self.scopes.len() {
            return Ok(e);
        }
        let e = e.transform_up(|e| {
            Ok(match outer_name(&e).filter(|name| self.has(level, name)) {
                Some(name) => Transformed::yes(column(name)),
                None => Transformed::no(e),
            })
        })?;
        Ok(e.data)
    }

    /// A column that the query at a level computes, as this query sees it.
    pub(super) fn computed(&self, level: usize, internal: String, ty: &SqlType) -> Expr {
        if level + 1 == self.scopes.len() {
            return column(internal);
        }
        let field = arrow_schema::Field::new(&internal, ty.arrow(), true);
        Expr::OuterReferenceColumn(field.into(), Column::new_unqualified(internal))
    }

    /// The column of an aggregate that is bound here and belongs to a level.
    pub(super) fn aggregate_column(&mut self, expr: Expr, ty: &SqlType, level: usize) -> Result<Expr> {
        let expr = self.at_level(expr, level)?;
        let internal = match self.scopes[level].aggregates.iter().find(|a| a.expr == expr) {
            Some(known) => known.internal.clone(),
            None => {
                let internal = self.fresh();
                self.scopes[level].aggregates.push(Call { expr, internal: internal.clone() });
                internal
            }
        };
        Ok(self.computed(level, internal, ty))
    }
}

fn outer_name(e: &Expr) -> Option<&String> {
    match e {
        Expr::OuterReferenceColumn(_, column) => Some(&column.name),
        _ => None,
    }
}
