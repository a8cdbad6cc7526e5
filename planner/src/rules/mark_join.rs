//! EXISTS and IN whose value is used otherwise than as a condition of WHERE on its own: a mark join adds the value as
//! a column.
//!
//! ```text
//! Project EXISTS (s)         =>  Project m
//!   input                          MarkJoin m: correlation of s
//!                                    input
//!                                    s
//! x IN (s)  =>  CASE WHEN EXISTS (s WHERE s.c = x) THEN true
//!                    WHEN NOT EXISTS (s) THEN false
//!                    WHEN x IS NULL OR EXISTS (s WHERE s.c IS NULL) THEN NULL
//!                    ELSE false END
//! ```
//!
//! A condition on its own, possibly negated, is left: it becomes a semi or an anti join.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr_rewriter::replace_col;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr, lit, not, when,
};
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;

use super::dependent;
use super::simple::is_simple;
use crate::error::Result;

/// Rewrites the plan, and its subqueries.
///
/// `n` numbers the names that are made up. With `all`, conditions on their own too: those that did not become semi or anti joins.
pub fn to_mark_joins(plan: LogicalPlan, all: bool, n: &mut usize) -> Result<LogicalPlan> {
    super::rewrite_nodes(plan, |node| match node {
        LogicalPlan::Filter(filter) => {
            let mut marks = Marks::over(&filter.input, n);
            let terms = split_conjunction_owned(filter.predicate.clone()).into_iter();
            let terms =
                terms.map(|term| if !all && is_condition(&term, &filter.input) { Ok(term) } else { marks.value(term) });
            let terms = terms.collect::<DfResult<Vec<_>>>()?;
            let (true, Some(predicate)) = (marks.changed, conjunction(terms)) else {
                return Ok(Transformed::no(LogicalPlan::Filter(filter)));
            };
            let columns: Vec<Expr> = filter.input.schema().columns().into_iter().map(Expr::Column).collect();
            let plan = LogicalPlanBuilder::from(marks.plan).filter(predicate)?.project(columns)?.build()?;
            Ok(Transformed::yes(plan))
        }
        LogicalPlan::Projection(projection) => {
            let mut marks = Marks::over(&projection.input, n);
            let mut exprs = Vec::with_capacity(projection.expr.len());
            for (e, (qualifier, field)) in projection.expr.iter().zip(projection.schema.iter()) {
                let value = marks.value(e.clone())?;
                exprs.push(if value == *e || matches!(value, Expr::Alias(_)) {
                    value
                } else {
                    value.alias_qualified(qualifier.cloned(), field.name())
                });
            }
            if !marks.changed {
                return Ok(Transformed::no(LogicalPlan::Projection(projection)));
            }
            Ok(Transformed::yes(LogicalPlanBuilder::from(marks.plan).project(exprs)?.build()?))
        }
        node => Ok(Transformed::no(node)),
    })
}

/// EXISTS or IN alone, possibly under NOT, of a subquery that refers to `input` only.
fn is_condition(term: &Expr, input: &LogicalPlan) -> bool {
    match term {
        Expr::Not(e) => is_condition(e, input),
        Expr::Exists(e) => !passes_on(&e.subquery.subquery, input) && is_simple(&e.subquery.subquery),
        Expr::InSubquery(e) => !passes_on(&e.subquery.subquery, input) && is_simple(&e.subquery.subquery),
        _ => false,
    }
}

/// Whether a subquery over `input` refers to a query further out.
fn passes_on(subquery: &LogicalPlan, input: &LogicalPlan) -> bool {
    let further = |e: &Expr| matches!(e, Expr::OuterReferenceColumn(_, c) if !input.schema().has_column(c));
    subquery.all_out_ref_exprs().iter().any(further)
}

/// The input of a node, with a mark join for each subquery that was met so far.
struct Marks<'a> {
    n: &'a mut usize,
    /// The input itself.
    input: LogicalPlan,
    plan: LogicalPlan,
    changed: bool,
}

impl<'a> Marks<'a> {
    fn over(input: &LogicalPlan, n: &'a mut usize) -> Marks<'a> {
        Marks { n, input: input.clone(), plan: input.clone(), changed: false }
    }

    /// The expression over the marks.
    fn value(&mut self, e: Expr) -> DfResult<Expr> {
        let e = e.transform_up(|e| match e {
            Expr::Exists(exists) => match self.mark(exists.subquery.subquery.as_ref())? {
                Some(mark) => Ok(Transformed::yes(if exists.negated { not(mark) } else { mark })),
                None => Ok(Transformed::no(Expr::Exists(exists))),
            },
            Expr::InSubquery(test) => {
                let before = self.plan.clone();
                match self.member(&test.expr, &test.subquery.subquery)? {
                    Some(value) => Ok(Transformed::yes(if test.negated { not(value) } else { value })),
                    None => {
                        self.plan = before;
                        Ok(Transformed::no(Expr::InSubquery(test)))
                    }
                }
            }
            e => Ok(Transformed::no(e)),
        })?;
        self.changed |= e.transformed;
        Ok(e.data)
    }

    /// `x IN (subquery)`, with NULL where that is not known.
    fn member(&mut self, x: &Expr, subquery: &Arc<LogicalPlan>) -> DfResult<Option<Expr>> {
        let member = Expr::Column(subquery.schema().columns().swap_remove(0));
        let filtered = |condition: Expr| LogicalPlanBuilder::from(subquery.as_ref().clone()).filter(condition)?.build();
        let equal = filtered(member.clone().eq(self.outer(x)?))?;
        let unknown = filtered(member.is_null())?;
        let (Some(equal), Some(any), Some(unknown)) = (self.mark(&equal)?, self.mark(subquery)?, self.mark(&unknown)?)
        else {
            return Ok(None);
        };
        let null = lit(ScalarValue::Boolean(None));
        let value = when(equal, lit(true))
            .when(not(any), lit(false))
            .when(x.clone().is_null().or(unknown), null)
            .otherwise(lit(false))?;
        Ok(Some(value))
    }

    /// A column that says whether the subquery has rows; `None` if its correlation cannot be taken out of it.
    fn mark(&mut self, subquery: &LogicalPlan) -> DfResult<Option<Expr>> {
        *self.n += 1;
        let alias = format!("mark_{}", self.n);
        if passes_on(subquery, &self.plan) || !is_simple(subquery) {
            return self.dependent_mark(subquery, alias).map(Some);
        }
        let mut pull_up = PullUpCorrelatedExpr::new().with_exists_sub_query(true);
        // What it cannot rewrite, it may also fail at.
        let plan = match subquery.clone().rewrite(&mut pull_up) {
            Ok(plan) if pull_up.can_pull_up => plan.data,
            _ => return self.dependent_mark(subquery, alias).map(Some),
        };
        let correlated: BTreeSet<Column> = pull_up.correlated_subquery_cols_map.values().flatten().cloned().collect();
        let condition = match conjunction(pull_up.join_filters) {
            Some(filter) => {
                // What the subquery's columns are called above it.
                let named: Vec<Column> = correlated.iter().map(|c| Column::new(Some(&alias), &c.name)).collect();
                replace_col(filter, &correlated.iter().zip(&named).collect::<HashMap<_, _>>())?
            }
            None => lit(true),
        };
        let right = LogicalPlanBuilder::from(plan).alias(alias.clone())?.build()?;
        let left = std::mem::take(&mut self.plan);
        self.plan = LogicalPlanBuilder::from(left).join_on(right, JoinType::LeftMark, Some(condition))?.build()?;
        Ok(Some(Expr::Column(Column::new(Some(alias), "mark"))))
    }

    /// The same for a correlation that only [`dependent`] takes out.
    fn dependent_mark(&mut self, subquery: &LogicalPlan, alias: String) -> DfResult<Expr> {
        // Over the input alone if it has what is asked for: over what was joined to it so far, plans would double each time.
        let known = |e: &Expr| match e {
            Expr::OuterReferenceColumn(_, c) => self.input.schema().has_column(c) || !self.plan.schema().has_column(c),
            _ => true,
        };
        let outer = if subquery.all_out_ref_exprs().iter().all(known) { &self.input } else { &self.plan };
        let (plan, on) = dependent::over_outer(subquery, outer, self.n)?;
        let keys = on.iter().map(|(_, d)| Expr::Column(d.clone()));
        let right = LogicalPlanBuilder::from(plan).project(keys)?.alias(alias.clone())?.build()?;
        let equal = on.iter().map(|(value, d)| {
            let d = Expr::Column(Column::new(Some(&alias), &d.name));
            binary_expr(value.clone(), Operator::IsNotDistinctFrom, d)
        });
        let condition = conjunction(equal.collect::<Vec<_>>()).unwrap_or_else(|| lit(true));
        let left = std::mem::take(&mut self.plan);
        self.plan = LogicalPlanBuilder::from(left).join_on(right, JoinType::LeftMark, Some(condition))?.build()?;
        Ok(Expr::Column(Column::new(Some(alias), "mark")))
    }

    /// An expression of the outer query as the subquery sees it.
    fn outer(&self, e: &Expr) -> DfResult<Expr> {
        let e = e.clone().transform_up(|e| match e {
            Expr::Column(c) => {
                let (_, field) = Expr::Column(c.clone()).to_field(self.plan.schema())?;
                Ok(Transformed::yes(Expr::OuterReferenceColumn(field, c)))
            }
            e => Ok(Transformed::no(e)),
        })?;
        Ok(e.data)
    }
}
