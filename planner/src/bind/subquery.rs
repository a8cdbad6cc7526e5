//! Subqueries in expressions. Correlated ones refer to columns of the queries around them as outer references; the
//! rules unnest them.

use std::sync::Arc;

use datafusion::common::Spans;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::{Expr, Limit, LogicalPlan, LogicalPlanBuilder, Operator, SortExpr, Subquery};
use sqlparser::ast;
use storage::SqlType;
use storage::keys::SortOption;

use super::expression::{comparison, negate};
use super::names::start_of;
use super::row::row_items;
use super::{Binder, BoundQuery, Typed, at};
use crate::error::{Error, Result};
use crate::functions::resolve_comparison;

impl Binder<'_> {
    /// The plan of a query inside an expression, and its columns.
    pub(super) fn inner(&mut self, query: &ast::Query) -> Result<BoundQuery> {
        let bound = self.query(query)?;
        self.without_unknowns(bound)
    }

    pub(super) fn subquery(&self, plan: LogicalPlan) -> Subquery {
        let mut outer: Vec<Expr> = plan.all_out_ref_exprs();
        outer.dedup();
        Subquery { subquery: Arc::new(plan), outer_ref_columns: outer, spans: Spans::new() }
    }

    pub(super) fn exists(&mut self, query: &ast::Query, negated: bool) -> Result<Typed> {
        let bound = self.inner(query)?;
        let plan = if bound.fields.is_empty() {
            let name = self.fresh();
            LogicalPlanBuilder::from(bound.plan).project(vec![super::literal::boolean(true).alias(name)])?.build()?
        } else {
            bound.plan
        };
        let subquery = self.subquery(plan);
        Ok(Typed::new(Expr::Exists(Exists::new(subquery, negated)), SqlType::Boolean))
    }

    pub(super) fn scalar_subquery(&mut self, query: &ast::Query, place: Option<usize>) -> Result<Typed> {
        let bound = self.inner(query)?;
        let [field] = bound.fields.as_slice() else {
            return Err(at(Error::new("42601", "subquery must return only one column"), place));
        };
        let (ty, typmod) = (field.ty.clone(), field.typmod);
        // No row is NULL, whatever the column's values are.
        let plan = if bound.plan.schema().field(0).is_nullable() {
            bound.plan
        } else {
            let value = Typed::new(field.expr(), ty.clone());
            let nullable = self.function("headwater_nullable", vec![value], place)?;
            let name = self.fresh();
            LogicalPlanBuilder::from(bound.plan).project(vec![nullable.expr.alias(name)])?.build()?
        };
        let expr = Expr::ScalarSubquery(self.subquery(plan));
        Ok(Typed { expr, ty, typmod, position: place })
    }

    pub(super) fn array_subquery(&mut self, query: &ast::Query, place: Option<usize>) -> Result<Typed> {
        let bound = self.inner(query)?;
        let [field] = bound.fields.as_slice() else {
            return Err(at(Error::new("42601", "subquery must return only one column"), place));
        };
        let aggregate = crate::functions::aggregate::resolve("array_agg", std::slice::from_ref(&field.ty))
            .map_err(|e| at(e, place))?;
        // What collects the rows takes them as they come: it is told their order.
        let (rows, item, order) = in_order(bound.plan, field.expr())?;
        let sorts = order.iter().map(|by| SortOption { descending: !by.asc, nulls_first: by.nulls_first }).collect();
        let function = if order.is_empty() { aggregate.implementation.clone() } else { aggregate.ordered(sorts) };
        let args = std::iter::once(item).chain(order.into_iter().map(|by| by.expr)).collect();
        let name = self.fresh();
        let call =
            datafusion::logical_expr::expr::AggregateFunction::new_udf(function, args, false, None, vec![], None);
        let plan = LogicalPlanBuilder::from(rows)
            .aggregate(Vec::<Expr>::new(), vec![Expr::AggregateFunction(call).alias(&name)])?
            .build()?;
        let empty = Typed::new(
            Expr::Literal(
                datafusion::common::ScalarValue::List(datafusion::common::ScalarValue::new_list(
                    &[],
                    &field.ty.arrow(),
                    true,
                )),
                None,
            ),
            aggregate.returns.clone(),
        );
        let found = Expr::ScalarSubquery(self.subquery(plan));
        // array_agg of no rows is NULL, ARRAY(...) is empty.
        let expr = datafusion::logical_expr::when(found.clone().is_not_null(), found).otherwise(empty.expr)?;
        Ok(Typed::new(expr, aggregate.returns).at(place))
    }

    pub(super) fn in_subquery(
        &mut self,
        e: &ast::Expr,
        query: &ast::Query,
        negated: bool,
        place: Option<usize>,
    ) -> Result<Typed> {
        if row_items(e).is_some() {
            let sign = self.operator_position(e, start_of(query), "in");
            return self.row_quantified(e, if negated { Operator::NotEq } else { Operator::Eq }, query, negated, sign);
        }
        let value = self.expr(e)?;
        let sign = self.operator_position(e, start_of(query), "in");
        let (value, subquery) = self.comparable(value, "=", query, sign)?;
        let expr = Expr::InSubquery(InSubquery::new(Box::new(value), subquery, negated));
        Ok(Typed::new(expr, SqlType::Boolean).at(place))
    }

    /// A value and the only column of a query in the type that they are compared in, by their keys.
    fn comparable(
        &mut self,
        value: Typed,
        sign: &str,
        query: &ast::Query,
        place: Option<usize>,
    ) -> Result<(Expr, Subquery)> {
        let bound = self.query(query)?;
        let [field] = bound.fields.as_slice() else {
            let message = match bound.fields.is_empty() {
                true => "subquery has too few columns",
                false => "subquery has too many columns",
            };
            return Err(at(Error::new("42601", message), place));
        };
        let how = resolve_comparison(sign, &value.ty, &field.ty).map_err(|e| at(e, place))?;
        let value = self.implicit(value, &how.common)?;
        let column = Typed { expr: field.expr(), ty: field.ty.clone(), typmod: field.typmod, position: place };
        let column = self.implicit(column, &how.common)?;
        let column = Self::side_of(&how, column);
        let plan = if matches!(column, Expr::Column(_)) {
            bound.plan
        } else {
            let name = self.fresh();
            LogicalPlanBuilder::from(bound.plan).project(vec![column.alias(name)])?.build()?
        };
        Ok((Self::side_of(&how, value), self.subquery(plan)))
    }

    /// `value <op> ANY (...)`, `value <op> ALL (...)` over a query or an array.
    pub(super) fn quantified(
        &mut self,
        left: &ast::Expr,
        op: &ast::BinaryOperator,
        right: &ast::Expr,
        all: bool,
        place: Option<usize>,
    ) -> Result<Typed> {
        let sign = self.operator_position(left, start_of(right), &op.to_string());
        if let ast::Expr::Subquery(query) = right {
            let Some(op) = comparison(op) else {
                let message = format!("{op} ANY and ALL of a subquery are not supported");
                return Err(at(Error::unsupported(message), sign));
            };
            if row_items(left).is_some() {
                return self.row_quantified(left, op, query, all, sign);
            }
            match (op, all) {
                (Operator::Eq, false) => return self.in_subquery(left, query, false, place),
                (Operator::NotEq, true) => return self.in_subquery(left, query, true, place),
                _ => {}
            }
            let value = self.expr(left)?;
            let (value, subquery) = self.comparable(value, &op.to_string(), query, sign)?;
            let quantifier = if all { SetQuantifier::All } else { SetQuantifier::Any };
            let expr = Expr::SetComparison(SetComparison::new(Box::new(value), subquery, op, quantifier));
            return Ok(Typed::new(expr, SqlType::Boolean).at(place));
        }
        let value = self.expr(left)?;
        let array = self.expr(right)?;
        let Some(comparison) = comparison(op) else {
            return self.any_operator(value, op, array, all, sign);
        };
        let name = match comparison {
            Operator::Eq => "eq",
            Operator::NotEq => "ne",
            Operator::Lt => "lt",
            Operator::LtEq => "le",
            Operator::Gt => "gt",
            _ => "ge",
        };
        let mut array = array;
        if array.ty == SqlType::Unknown {
            let item = Self::known(value.ty.clone());
            let ty = SqlType::Array(Box::new(item));
            let at = array.position;
            array = Typed { expr: self.implicit(array, &ty)?, ty, typmod: -1, position: at };
        }
        let SqlType::Array(item) = &array.ty else {
            let message = format!("op ANY/ALL ({}) requires array on right side", "array");
            return Err(at(Error::new("42809", message), sign));
        };
        // Both in the type of the comparison.
        let how = resolve_comparison(&comparison.to_string(), &value.ty, item).map_err(|e| at(e, sign))?;
        let value_place = value.position;
        let value = Typed::new(self.implicit(value, &how.common)?, how.common.clone()).at(value_place);
        let ty = SqlType::Array(Box::new(how.common));
        let array = Typed::new(self.implicit(array, &ty)?, ty);
        let function = format!("{}_{name}", if all { "all" } else { "any" });
        self.function(&function, vec![value, array], place)
    }

    /// `value LIKE ANY (ARRAY[...])`: one by one over a constant array.
    fn any_operator(
        &mut self,
        value: Typed,
        op: &ast::BinaryOperator,
        array: Typed,
        all: bool,
        place: Option<usize>,
    ) -> Result<Typed> {
        use datafusion::common::ScalarValue;
        let array = match array.ty {
            SqlType::Unknown => {
                let ty = SqlType::Array(Box::new(SqlType::Text));
                Typed { expr: self.implicit(array, &ty)?, ty, typmod: -1, position: place }
            }
            _ => array,
        };
        let (SqlType::Array(item), Expr::Literal(ScalarValue::List(list), _)) = (&array.ty, &array.expr) else {
            let message = format!("{op} ANY and ALL need a constant array");
            return Err(at(Error::unsupported(message), place));
        };
        let values = list.value(0);
        let mut result: Option<Expr> = None;
        for i in 0..values.len() {
            let one = Typed::new(Expr::Literal(ScalarValue::try_from_array(&values, i)?, None), item.as_ref().clone());
            let one = self.operator(&op.to_string(), vec![value.clone(), one], place)?;
            let one = self.as_boolean(one, "ANY")?;
            result = Some(match result {
                None => one,
                Some(before) if all => before.and(one),
                Some(before) => before.or(one),
            });
        }
        Ok(negate(result.unwrap_or_else(|| super::literal::boolean(all)), false).at(place))
    }
}

/// The rows of a query with all columns that its ORDER BY looks at, a value of the query's row in terms of them, and their order.
fn in_order(plan: LogicalPlan, value: Expr) -> Result<(LogicalPlan, Expr, Vec<SortExpr>)> {
    match plan {
        LogicalPlan::Sort(sort) => {
            let order = sort.expr.clone();
            Ok((LogicalPlan::Sort(sort), value, order))
        }
        LogicalPlan::Limit(limit) => {
            let (rows, value, order) = in_order(limit.input.as_ref().clone(), value)?;
            Ok((LogicalPlan::Limit(Limit { input: rows.into(), ..limit }), value, order))
        }
        LogicalPlan::Projection(projection) => {
            let inner = value.clone().transform(|e| {
                Ok(match &e {
                    Expr::Column(column) => {
                        let at = projection.schema.index_of_column(column)?;
                        Transformed::yes(projection.expr[at].clone().unalias())
                    }
                    _ => Transformed::no(e),
                })
            })?;
            let (rows, inner, order) = in_order(projection.input.as_ref().clone(), inner.data)?;
            match order.is_empty() {
                true => Ok((LogicalPlan::Projection(projection), value, order)),
                false => Ok((rows, inner, order)),
            }
        }
        plan => Ok((plan, value, vec![])),
    }
}
