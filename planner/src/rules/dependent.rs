//! Unnests every correlated subquery that simpler rules left, after Neumann and Kemper ("Unnesting Arbitrary Queries").
//!
//! The subquery is computed once for all values that it depends on, instead of once per row. `D` holds these values,
//! each combination once; it is joined in where the subquery does not depend on anything yet, and goes up from there:
//!
//! ```text
//! Project (SELECT f FROM s WHERE s.a < o.x)      Project f
//!   o                                      =>      LeftJoin o.x IS NOT DISTINCT FROM d
//!                                                    o
//!                                                    Project f, d
//!                                                      Filter s.a < d
//!                                                        CrossJoin
//!                                                          D: Distinct o.x AS d
//!                                                          s
//! ```
//!
//! A value that comes from further out is passed on: `D` then refers to it itself, and the next level unnests that.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, NullEquality, Result as DfResult, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Distinct, Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr, lit, when,
};

use crate::error::{Error, Result};
use crate::expr::{column, integer};
use crate::functions::window::row_number;

/// Unnests the scalar subqueries and the LATERAL joins that are left. `n` numbers the names that are made up.
pub fn unnest(plan: LogicalPlan, n: &mut usize) -> Result<LogicalPlan> {
    super::rewrite_nodes(plan, |node| match node {
        LogicalPlan::Filter(_) | LogicalPlan::Projection(_) => scalar_subqueries(node, n),
        LogicalPlan::Join(join) if lateral(&join.right).is_some() => lateral_join(join, n).map(Transformed::yes),
        node => Ok(Transformed::no(node)),
    })
}

/// Whether a plan refers to columns of a query around it.
pub fn is_correlated(plan: &LogicalPlan) -> bool {
    !plan.all_out_ref_exprs().is_empty()
}

fn scalar_subqueries(node: LogicalPlan, n: &mut usize) -> DfResult<Transformed<LogicalPlan>> {
    let mut input = node.inputs()[0].clone();
    let outputs = node.schema().columns();
    let mut changed = false;
    let exprs = node.expressions().into_iter().enumerate().map(|(i, e)| {
        let e = e.transform_up(|e| {
            let Expr::ScalarSubquery(subquery) = &e else { return Ok(Transformed::no(e)) };
            if !is_correlated(&subquery.subquery) {
                return Ok(Transformed::no(e));
            }
            // Over the input as it was: over what was joined to it so far, plans would double each time.
            let (plan, on) = over_outer(&subquery.subquery, node.inputs()[0], n)?;
            *n += 1;
            let value = format!("dependent_value_{n}");
            let first = Expr::Column(subquery.subquery.schema().columns().swap_remove(0)).alias(&value);
            let keys = on.iter().map(|(_, d)| Expr::Column(d.clone()));
            let plan = LogicalPlanBuilder::from(plan).project(std::iter::once(first).chain(keys))?.build()?;
            let left = std::mem::take(&mut input);
            input = LogicalPlanBuilder::from(left).join_on(plan, JoinType::Left, null_safe(&on))?.build()?;
            changed = true;
            Ok(Transformed::yes(column(value)))
        })?;
        let renamed = e.transformed && matches!(node, LogicalPlan::Projection(_)) && !matches!(e.data, Expr::Alias(_));
        Ok(match outputs.get(i) {
            Some(name) if renamed => e.data.alias_qualified(name.relation.clone(), &name.name),
            _ => e.data,
        })
    });
    let exprs = exprs.collect::<DfResult<Vec<_>>>()?;
    if !changed {
        return Ok(Transformed::no(node));
    }
    let restore = matches!(node, LogicalPlan::Filter(_));
    let mut plan = node.with_new_exprs(exprs, vec![input])?;
    if restore {
        plan = LogicalPlanBuilder::from(plan).project(outputs.into_iter().map(Expr::Column))?.build()?;
    }
    Ok(Transformed::yes(plan))
}

/// The right side of a join as the subquery that depends on the left side, if it is one.
fn lateral(plan: &LogicalPlan) -> Option<&LogicalPlan> {
    match plan {
        LogicalPlan::Subquery(subquery) => Some(&subquery.subquery).map(Arc::as_ref),
        LogicalPlan::SubqueryAlias(alias) if lateral(&alias.input).is_some() => Some(plan),
        _ => None,
    }
}

fn lateral_join(join: Join, n: &mut usize) -> DfResult<LogicalPlan> {
    let outputs: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
    let right = lateral(&join.right).expect("checked before");
    let mut conditions = conditions(&join);
    if conditions.is_empty() {
        // Without any, only an inner join can be made.
        conditions.push(lit(true));
    }
    if !is_correlated(right) {
        return LogicalPlanBuilder::from(join.left.as_ref().clone())
            .join_on(without_subquery(right)?, join.join_type, conditions)?
            .build();
    }
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return Err(Error::new("42P10", "a LATERAL item can only be the right side of an inner or a left join").into());
    }
    let (plan, on) = over_outer(right, &join.left, n)?;
    conditions.extend(null_safe(&on));
    LogicalPlanBuilder::from(join.left.as_ref().clone())
        .join_on(plan, join.join_type, conditions)?
        .project(outputs)?
        .build()
}

fn without_subquery(plan: &LogicalPlan) -> DfResult<LogicalPlan> {
    Ok(plan
        .clone()
        .transform_up(|node| match node {
            LogicalPlan::Subquery(subquery) => Ok(Transformed::yes(Arc::unwrap_or_clone(subquery.subquery))),
            node => Ok(Transformed::no(node)),
        })?
        .data)
}

/// `subquery` for all values of `outer` that it depends on: its columns, and behind them one per value; with the
/// expression over `outer` that each of those is to be compared with.
pub(super) fn over_outer(
    subquery: &LogicalPlan,
    outer: &LogicalPlan,
    n: &mut usize,
) -> DfResult<(LogicalPlan, Vec<(Expr, Column)>)> {
    let references: Vec<Expr> = subquery.all_out_ref_exprs();
    let mut values = Vec::with_capacity(references.len());
    let mut names = Vec::with_capacity(references.len());
    for reference in &references {
        let Expr::OuterReferenceColumn(_, column) = reference else { continue };
        *n += 1;
        names.push((column.clone(), format!("dependent_{n}")));
        // What the outer query does not have either comes from further out.
        values.push(if outer.schema().has_column(column) { Expr::Column(column.clone()) } else { reference.clone() });
    }
    let domain = LogicalPlanBuilder::from(outer.clone())
        .project(values.iter().zip(&names).map(|(value, (_, name))| value.clone().alias(name)))?
        .distinct()?
        .build()?;
    let mut push = Push { domain, names, n };
    let Dependent { plan, columns } = push.push(subquery)?;
    Ok((plan, values.into_iter().zip(columns).collect()))
}

fn null_safe(on: &[(Expr, Column)]) -> Vec<Expr> {
    let equal =
        |(value, d): &(Expr, Column)| binary_expr(value.clone(), Operator::IsNotDistinctFrom, Expr::Column(d.clone()));
    on.iter().map(equal).collect()
}

/// The conditions of a join, as ON has them.
pub(super) fn conditions(join: &Join) -> Vec<Expr> {
    let op = match join.null_equality {
        NullEquality::NullEqualsNull => Operator::IsNotDistinctFrom,
        NullEquality::NullEqualsNothing => Operator::Eq,
    };
    let on = join.on.iter().map(|(l, r)| binary_expr(l.clone(), op, r.clone()));
    on.chain(join.filter.clone()).collect()
}

/// A plan with the values that it depends on as columns.
struct Dependent {
    plan: LogicalPlan,
    /// One per value, in the order of [`Push::names`].
    columns: Vec<Column>,
}

struct Push<'a> {
    /// The values, each combination once.
    domain: LogicalPlan,
    /// The outer columns and what the domain calls them.
    names: Vec<(Column, String)>,
    n: &'a mut usize,
}

impl Push<'_> {
    /// The domain under names of its own: it may stand on both sides of a join.
    fn fresh(&mut self) -> DfResult<Dependent> {
        *self.n += 1;
        let suffix = *self.n;
        let named: Vec<String> = self.names.iter().map(|(_, name)| format!("{name}_{suffix}")).collect();
        let exprs = self.names.iter().zip(&named).map(|((_, name), new)| column(name).alias(new));
        let plan = LogicalPlanBuilder::from(self.domain.clone()).project(exprs)?.build()?;
        Ok(Dependent { plan, columns: named.into_iter().map(Column::new_unqualified).collect() })
    }

    /// Replaces references to the outer query.
    fn substitute(&self, e: Expr, columns: &[Column]) -> DfResult<Expr> {
        let by_outer: HashMap<&Column, &Column> = self.names.iter().map(|(outer, _)| outer).zip(columns).collect();
        Ok(e.transform_up(|e| match &e {
            Expr::OuterReferenceColumn(_, outer) => Ok(match by_outer.get(outer) {
                Some(d) => Transformed::yes(Expr::Column((*d).clone())),
                None => Transformed::no(e),
            }),
            _ => Ok(Transformed::no(e)),
        })?
        .data)
    }

    /// The same, under the name that the expression had.
    fn substitute_named(&self, e: Expr, columns: &[Column], name: &Column) -> DfResult<Expr> {
        let new = self.substitute(e.clone(), columns)?;
        let changed = new != e && !matches!(new, Expr::Alias(_));
        Ok(if changed { new.alias_qualified(name.relation.clone(), &name.name) } else { new })
    }

    #[::recursive::recursive]
    fn push(&mut self, plan: &LogicalPlan) -> DfResult<Dependent> {
        if !is_correlated(plan) {
            let Dependent { plan: domain, columns } = self.fresh()?;
            let plan = LogicalPlanBuilder::from(plan.clone()).cross_join(domain)?.build()?;
            return Ok(Dependent { plan, columns });
        }
        if let Some(plain) = crate::nodes::as_plain(plan) {
            return self.push(&plain?);
        }
        match plan {
            LogicalPlan::Projection(projection) => {
                let Dependent { plan: input, columns } = self.push(&projection.input)?;
                let names = projection.schema.columns();
                let mut exprs = Vec::with_capacity(names.len() + columns.len());
                for (e, name) in projection.expr.iter().zip(&names) {
                    exprs.push(self.substitute_named(e.clone(), &columns, name)?);
                }
                exprs.extend(columns.iter().cloned().map(Expr::Column));
                Ok(Dependent { plan: LogicalPlanBuilder::from(input).project(exprs)?.build()?, columns })
            }
            LogicalPlan::Filter(filter) => {
                let Dependent { plan: input, columns } = self.push(&filter.input)?;
                let predicate = self.substitute(filter.predicate.clone(), &columns)?;
                Ok(Dependent { plan: LogicalPlanBuilder::from(input).filter(predicate)?.build()?, columns })
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let Dependent { plan: input, columns } = self.push(&alias.input)?;
                let columns = columns.iter().map(|c| Column::new(Some(alias.alias.clone()), &c.name)).collect();
                Ok(Dependent { plan: LogicalPlanBuilder::from(input).alias(alias.alias.clone())?.build()?, columns })
            }
            LogicalPlan::Subquery(subquery) => self.push(&subquery.subquery),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let Dependent { plan: input, columns } = self.push(input)?;
                Ok(Dependent { plan: LogicalPlanBuilder::from(input).distinct()?.build()?, columns })
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.push(&sort.input),
            LogicalPlan::Limit(limit) => {
                let number = |e: &Option<Box<Expr>>| match e {
                    None => Ok(None),
                    Some(e) => integer(e).map(Some).ok_or_else(|| refused("LIMIT without a constant")),
                };
                let (skip, fetch) = (number(&limit.skip)?.unwrap_or(0), number(&limit.fetch)?);
                self.limit(&limit.input, skip, fetch)
            }
            LogicalPlan::Aggregate(aggregate) => {
                let Dependent { plan: input, columns } = self.push(&aggregate.input)?;
                let names = aggregate.schema.columns();
                let n_group = aggregate.group_expr.len();
                let mut group = Vec::with_capacity(n_group + columns.len());
                for (e, name) in aggregate.group_expr.iter().zip(&names) {
                    group.push(self.substitute_named(e.clone(), &columns, name)?);
                }
                group.extend(columns.iter().cloned().map(Expr::Column));
                let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
                for (e, name) in aggregate.aggr_expr.iter().zip(&names[n_group..]) {
                    calls.push(self.substitute_named(e.clone(), &columns, name)?);
                }
                let grouped = LogicalPlanBuilder::from(input).aggregate(group, calls)?.build()?;
                if n_group > 0 {
                    return Ok(Dependent { plan: grouped, columns });
                }
                self.with_empty_groups(grouped, columns, &aggregate.aggr_expr, &names)
            }
            LogicalPlan::Window(window) => {
                let Dependent { plan: input, columns } = self.push(&window.input)?;
                let n_input = window.input.schema().fields().len();
                let names = window.schema.columns().split_off(n_input);
                let mut exprs = Vec::with_capacity(names.len());
                for (e, name) in window.window_expr.iter().zip(&names) {
                    let e = self.substitute(e.clone(), &columns)?;
                    let e = e.transform_up(|e| match e {
                        Expr::WindowFunction(mut function) => {
                            function.params.partition_by.extend(columns.iter().cloned().map(Expr::Column));
                            Ok(Transformed::yes(Expr::WindowFunction(function)))
                        }
                        e => Ok(Transformed::no(e)),
                    })?;
                    exprs.push(e.data.unalias().alias_qualified(name.relation.clone(), &name.name));
                }
                Ok(Dependent { plan: LogicalPlanBuilder::from(input).window(exprs)?.build()?, columns })
            }
            LogicalPlan::Union(union) => {
                let n = union.schema.fields().len();
                let mut all: Option<LogicalPlanBuilder> = None;
                for input in &union.inputs {
                    let Dependent { plan, columns } = self.push(input)?;
                    let exprs = input.schema().columns().into_iter().chain(columns).map(Expr::Column);
                    let branch = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
                    all = Some(match all {
                        None => LogicalPlanBuilder::from(branch),
                        Some(before) => before.union(branch)?,
                    });
                }
                let plan = all.ok_or_else(|| refused("an empty UNION"))?.build()?;
                let columns = plan.schema().columns().split_off(n);
                Ok(Dependent { plan, columns })
            }
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Unnest(_) | LogicalPlan::Extension(_) => {
                let Dependent { plan: input, columns } = self.push(plan.inputs()[0])?;
                let exprs = plan.expressions().into_iter().map(|e| self.substitute(e, &columns));
                let exprs = exprs.collect::<DfResult<Vec<_>>>()?;
                Ok(Dependent { plan: plan.with_new_exprs(exprs, vec![input])?, columns })
            }
            _ => Err(refused("this form of correlated subquery")),
        }
    }

    /// An aggregate over everything has a row for each value, also where no row was found.
    fn with_empty_groups(
        &mut self,
        grouped: LogicalPlan,
        columns: Vec<Column>,
        calls: &[Expr],
        names: &[Column],
    ) -> DfResult<Dependent> {
        *self.n += 1;
        let found = format!("dependent_found_{}", self.n);
        let kept = grouped.schema().columns().into_iter().map(Expr::Column);
        let grouped_schema = grouped.schema().clone();
        let marked = LogicalPlanBuilder::from(grouped).project(kept.chain([lit(true).alias(&found)]))?.build()?;
        let domain = self.fresh()?;
        let on: Vec<(Expr, Column)> = domain.columns.iter().cloned().map(Expr::Column).zip(columns).collect();
        let joined = LogicalPlanBuilder::from(domain.plan).join_on(marked, JoinType::Left, null_safe(&on))?;
        let mut exprs = Vec::with_capacity(names.len() + domain.columns.len());
        for (call, name) in calls.iter().zip(names) {
            let value = Expr::Column(name.clone());
            let empty = match call.clone().unalias() {
                Expr::AggregateFunction(f) => f.func.default_value(&value.get_type(grouped_schema.as_ref())?)?,
                _ => ScalarValue::Null,
            };
            exprs.push(if empty.is_null() {
                value
            } else {
                when(column(&found).is_null(), lit(empty))
                    .otherwise(value)?
                    .alias_qualified(name.relation.clone(), &name.name)
            });
        }
        exprs.extend(domain.columns.iter().cloned().map(Expr::Column));
        Ok(Dependent { plan: joined.project(exprs)?.build()?, columns: domain.columns })
    }

    /// The first rows of each value.
    fn limit(&mut self, input: &LogicalPlan, skip: i64, fetch: Option<i64>) -> DfResult<Dependent> {
        if let LogicalPlan::Projection(projection) = input {
            // A projection changes no row's place.
            let limited = self.limit(&projection.input, skip, fetch)?;
            let names = projection.schema.columns();
            let mut exprs = Vec::with_capacity(names.len() + limited.columns.len());
            for (e, name) in projection.expr.iter().zip(&names) {
                exprs.push(self.substitute_named(e.clone(), &limited.columns, name)?);
            }
            exprs.extend(limited.columns.iter().cloned().map(Expr::Column));
            let plan = LogicalPlanBuilder::from(limited.plan).project(exprs)?.build()?;
            return Ok(Dependent { plan, columns: limited.columns });
        }
        let (input, order) = match input {
            LogicalPlan::Sort(sort) => (sort.input.as_ref(), sort.expr.clone()),
            other => (other, vec![]),
        };
        let Dependent { plan, columns } = self.push(input)?;
        *self.n += 1;
        let rank = format!("dependent_rank_{}", self.n);
        let order = order.into_iter().map(|mut s| {
            s.expr = self.substitute(s.expr, &columns)?;
            Ok(s)
        });
        let partition_by = columns.iter().cloned().map(Expr::Column).collect();
        let ranked = row_number(partition_by, order.collect::<DfResult<_>>()?).alias(&rank);
        let outputs: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
        let mut kept = vec![column(&rank).gt(lit(skip as u64))];
        kept.extend(fetch.map(|fetch| column(&rank).lt_eq(lit((skip + fetch) as u64))));
        let kept = conjunction(kept).expect("at least one");
        let plan = LogicalPlanBuilder::from(plan).window(vec![ranked])?.filter(kept)?.project(outputs)?.build()?;
        Ok(Dependent { plan, columns })
    }

    fn join(&mut self, join: &Join) -> DfResult<Dependent> {
        if join.null_aware {
            return Err(refused("NOT IN over a correlated subquery"));
        }
        let (left_depends, right_depends) = (is_correlated(&join.left), is_correlated(&join.right));
        let only_left =
            matches!(join.join_type, JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark);
        let unchanged = |plan: &Arc<LogicalPlan>| Dependent { plan: plan.as_ref().clone(), columns: vec![] };
        let (left, right) = match join.join_type {
            JoinType::Inner => {
                let left = if left_depends || !right_depends { self.push(&join.left)? } else { unchanged(&join.left) };
                let right = if right_depends { self.push(&join.right)? } else { unchanged(&join.right) };
                (left, right)
            }
            // The side whose rows are all kept has to have the values.
            _ if only_left => {
                let left = self.push(&join.left)?;
                (left, if right_depends { self.push(&join.right)? } else { unchanged(&join.right) })
            }
            JoinType::Right => {
                let right = self.push(&join.right)?;
                (if left_depends { self.push(&join.left)? } else { unchanged(&join.left) }, right)
            }
            _ => return Err(refused("a correlated subquery in this form of JOIN")),
        };
        let kept = if left.columns.is_empty() || join.join_type == JoinType::Right {
            right.columns.clone()
        } else {
            left.columns.clone()
        };
        let mut all = Vec::new();
        for condition in conditions(join) {
            all.push(self.substitute(condition, &kept)?);
        }
        let both = left.columns.iter().cloned().map(Expr::Column).zip(right.columns.iter().cloned());
        all.extend(null_safe(&both.collect::<Vec<_>>()));
        if all.is_empty() {
            all.push(lit(true));
        }
        let plan = LogicalPlanBuilder::from(left.plan).join_on(right.plan, join.join_type, all)?.build()?;
        Ok(Dependent { plan, columns: kept })
    }
}

fn refused(what: &str) -> DataFusionError {
    Error::unsupported(format!("{what} is not supported yet"))
        .with_hint("Correlate by equality with columns of the outer query, or write it as a join.")
        .into()
}
