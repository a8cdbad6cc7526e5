//! LIMIT, OFFSET and FETCH FIRST.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection, Sort};
use sqlparser::ast;
use storage::SqlType;
use streaming::operators::top_n::RankKind;

use super::names::{Clause, Scope, start_of};
use super::{Binder, at};
use crate::error::{Error, Result};
use crate::nodes::TopN;
use crate::types::{self, CastContext};

impl Binder<'_> {
    pub(super) fn limit(&mut self, plan: LogicalPlan, query: &ast::Query) -> Result<LogicalPlan> {
        let (mut limit, mut offset) = (None, None);
        match &query.limit_clause {
            Some(ast::LimitClause::LimitOffset { limit: l, offset: o, limit_by }) => {
                if !limit_by.is_empty() {
                    return Err(Error::unsupported("LIMIT BY is not supported"));
                }
                limit = l.as_ref().map(|e| self.count(e, "LIMIT")).transpose()?;
                offset = o.as_ref().map(|o| self.count(&o.value, "OFFSET")).transpose()?;
            }
            Some(ast::LimitClause::OffsetCommaLimit { .. }) => {
                return Err(Error::new("42601", "LIMIT #,# syntax is not supported")
                    .with_hint("Use separate LIMIT and OFFSET clauses."));
            }
            None => {}
        }
        if let Some(fetch) = &query.fetch {
            if fetch.percent {
                return Err(Error::unsupported("FETCH FIRST with PERCENT is not supported"));
            }
            limit = Some(match &fetch.quantity {
                Some(e) => self.count(e, "LIMIT")?,
                None => super::literal::literal(ScalarValue::Int64(Some(1))),
            });
        }
        if query.fetch.as_ref().is_some_and(|fetch| fetch.with_ties) {
            let constant = |e: Option<Expr>, absent: u64| match e {
                None => Ok(absent),
                Some(Expr::Literal(ScalarValue::Int64(Some(n)), _)) => Ok(n.max(0) as u64),
                Some(_) => {
                    let error = Error::unsupported("WITH TIES without a constant is not supported");
                    Err(error.with_hint("Write the number of rows into the statement."))
                }
            };
            return with_ties(plan, constant(offset, 0)?, constant(limit, 1)?);
        }
        if limit.is_none() && offset.is_none() {
            return Ok(plan);
        }
        Ok(LogicalPlanBuilder::from(plan).limit_by_expr(offset, limit)?.build()?)
    }

    /// A number of rows.
    fn count(&mut self, e: &ast::Expr, what: &str) -> Result<Expr> {
        let place = start_of(e);
        self.scopes.push(Scope { clause: Clause::Limit, ..Scope::default() });
        let typed = self.expr(e);
        self.scopes.pop();
        let typed = typed?;
        if typed.expr.any_column_refs() {
            return Err(at(Error::new("42P10", format!("argument of {what} must not contain variables")), place));
        }
        let context = CastContext::Assignment;
        if typed.ty != SqlType::Unknown
            && types::cast_context(&typed.ty, &SqlType::BigInt).is_none_or(|least| least > context)
        {
            let message = format!("argument of {what} must be type bigint, not type {}", types::name(&typed.ty));
            return Err(at(Error::new("42804", message), place));
        }
        let expr = self.coerce(typed, &SqlType::BigInt, -1, context)?;
        let expr = match crate::expr::constant(&expr) {
            Some(value) => super::literal::literal(value),
            None => expr,
        };
        if let Expr::Literal(ScalarValue::Int64(Some(n)), _) = &expr
            && *n < 0
        {
            let sqlstate = if what == "LIMIT" { "2201W" } else { "2201X" };
            return Err(Error::new(sqlstate, format!("{what} must not be negative")));
        }
        if !matches!(expr, Expr::Literal(..) | Expr::Placeholder(_)) && expr.exists_subquery() {
            return Err(at(Error::unsupported(format!("{what} of a subquery is not supported")), place));
        }
        Ok(expr)
    }
}

/// The first rows of a sorted plan, with those that the order does not tell from the last one.
fn with_ties(plan: LogicalPlan, offset: u64, limit: u64) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Sort(sort) => {
            let input = sort.input.as_ref().clone();
            let first = TopN::plan(input, vec![], sort.expr.clone(), RankKind::Rank, offset, Some(limit), None)?;
            // Not by the builder, which takes the first rows' own expressions for columns.
            Ok(LogicalPlan::Sort(Sort { input: first.into(), ..sort }))
        }
        LogicalPlan::Projection(projection) => {
            let input = with_ties(projection.input.as_ref().clone(), offset, limit)?;
            Ok(LogicalPlan::Projection(Projection::try_new(projection.expr, input.into())?))
        }
        _ => Err(Error::new("42601", "WITH TIES cannot be specified without ORDER BY clause")),
    }
}

trait Contains {
    fn exists_subquery(&self) -> bool;
}

impl Contains for Expr {
    fn exists_subquery(&self) -> bool {
        use datafusion::common::tree_node::TreeNode;
        self.exists(|e| Ok(matches!(e, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_))))
            .unwrap_or(false)
    }
}
