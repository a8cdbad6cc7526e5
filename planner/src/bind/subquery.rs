//! Subqueries in expressions. Correlated ones refer to columns of the queries around them as outer references; the
//! rules unnest them.

use std::sync::Arc;

use datafusion::common::{Column, ScalarValue, Spans};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit};
use sqlparser::ast;
use storage::SqlType;

use super::expression::{comparison, negate, row_items};
use super::names::start_of;
use super::{Binder, BoundQuery, Typed, at};
use crate::error::{Error, Result};
use crate::functions::resolve_comparison;

impl Binder<'_> {
    /// The plan of a query inside an expression, and its columns.
    fn inner(&mut self, query: &ast::Query) -> Result<BoundQuery> {
        let bound = self.query(query)?;
        self.without_unknowns(bound)
    }

    fn subquery(&self, plan: LogicalPlan) -> Subquery {
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
        let item = field.expr();
        let name = self.fresh();
        let call = datafusion::logical_expr::expr::AggregateFunction::new_udf(
            aggregate.implementation,
            vec![item],
            false,
            None,
            vec![],
            None,
        );
        let plan = LogicalPlanBuilder::from(bound.plan)
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
        if let Some(items) = row_items(e) {
            return self.row_in_subquery(items, query, negated, place);
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

    /// `(a, b) IN (SELECT x, y ...)` as EXISTS with the comparisons in WHERE, with NULL where that is not known:
    ///
    /// ```text
    /// CASE WHEN EXISTS (s WHERE a = x AND b = y) THEN true
    ///      WHEN EXISTS (s WHERE (a = x AND b = y) IS NULL) THEN NULL ELSE false END
    /// ```
    fn row_in_subquery(
        &mut self,
        items: &[ast::Expr],
        query: &ast::Query,
        negated: bool,
        place: Option<usize>,
    ) -> Result<Typed> {
        let values = items.iter().map(|i| self.expr(i)).collect::<Result<Vec<_>>>()?;
        let bound = self.inner(query)?;
        if bound.fields.len() != values.len() {
            let message = match bound.fields.len() < values.len() {
                true => "subquery has too few columns",
                false => "subquery has too many columns",
            };
            return Err(at(Error::new("42601", message), place));
        }
        let mut all: Option<Expr> = None;
        for (value, field) in values.into_iter().zip(&bound.fields) {
            let outer = Typed { expr: as_outer(value.expr.clone(), &value.ty)?, ..value };
            let column = Typed::new(field.expr(), field.ty.clone());
            let equal = self.compare(Operator::Eq, outer, column, place)?;
            all = Some(match all {
                Some(all) => all.and(equal),
                None => equal,
            });
        }
        let all = all.expect("a row has values");
        let exists = |condition: Expr| -> Result<Expr> {
            let plan = LogicalPlanBuilder::from(bound.plan.clone()).filter(condition)?.build()?;
            Ok(Expr::Exists(Exists::new(self.subquery(plan), false)))
        };
        let (equal, unknown) = (exists(all.clone())?, exists(all.is_null())?);
        let null = super::literal::literal(ScalarValue::Boolean(None));
        let (found, otherwise) = (lit(!negated), lit(negated));
        let value = datafusion::logical_expr::when(equal, found).when(unknown, null).otherwise(otherwise)?;
        Ok(Typed::new(value, SqlType::Boolean).at(place))
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

/// An expression of the outer query as the subquery sees it.
fn as_outer(e: Expr, ty: &SqlType) -> Result<Expr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    let _ = ty;
    if let Expr::Column(Column { name, .. }) = &e {
        let field = arrow_schema::Field::new(name, ty.arrow(), true);
        return Ok(Expr::OuterReferenceColumn(field.into(), Column::new_unqualified(name.clone())));
    }
    if e.any_column_refs() {
        return Err(Error::unsupported("IN of a row of expressions over columns is not supported")
            .with_hint("Write EXISTS with the comparisons in WHERE."));
    }
    Ok(e.transform(|e| Ok(Transformed::no(e)))?.data)
}
