//! Rows as operands: `(a, b) < (c, d)`, `ROW(a, b) = ANY (SELECT ...)`, `(a, b) IS NULL`. A row is never a value of its own:
//! it is taken apart where it stands.

use std::borrow::Cow;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::Exists;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, Operator, lit, when};
use sqlparser::ast;
use storage::SqlType;

use super::literal::{boolean, literal};
use super::names::{fold, start_of};
use super::{Binder, BoundQuery, Typed, at};
use crate::error::{Error, Result};

/// A value, or a row of them.
#[derive(Clone)]
enum Value {
    One(Typed),
    Row(Vec<Value>),
}

/// The values of `(a, b)` or `ROW(a, b)`.
pub(super) fn row_items(e: &ast::Expr) -> Option<Cow<'_, [ast::Expr]>> {
    match e {
        ast::Expr::Tuple(items) => Some(Cow::Borrowed(items)),
        ast::Expr::Nested(e) => row_items(e),
        ast::Expr::Function(call) if call.name.0.len() == 1 => {
            let name = call.name.0[0].as_ident().filter(|ident| ident.quote_style.is_none()).map(fold)?;
            let ast::FunctionArguments::List(list) = &call.args else { return None };
            let item = |arg: &ast::FunctionArg| match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => Some(e.clone()),
                _ => None,
            };
            (name == "row").then(|| list.args.iter().map(item).collect::<Option<Vec<_>>>()).flatten().map(Cow::Owned)
        }
        _ => None,
    }
}

fn unequal(place: Option<usize>) -> Error {
    at(Error::new("42601", "unequal number of entries in row expressions"), place)
}

impl Binder<'_> {
    /// What a row or a value is made of.
    fn row_value(&mut self, e: &ast::Expr) -> Result<Value> {
        Ok(match row_items(e) {
            None => Value::One(self.expr(e)?),
            Some(items) => Value::Row(items.iter().map(|item| self.row_value(item)).collect::<Result<_>>()?),
        })
    }

    /// `left <op> right`, at least one of which is a row; the other may be a subquery with a row.
    pub(super) fn row_comparison(
        &mut self,
        op: Operator,
        left: &ast::Expr,
        right: &ast::Expr,
        place: Option<usize>,
    ) -> Result<Typed> {
        let place = self.operator_position(left, start_of(right), &op.to_string()).or(place);
        let query = |e: &ast::Expr| match unnested(e) {
            ast::Expr::Subquery(query) => Some(query.as_ref().clone()),
            _ => None,
        };
        if let Some(query) = query(right).filter(|_| row_items(left).is_some()) {
            return self.row_and_subquery(left, op, &query, place);
        }
        if query(left).is_some() && row_items(right).is_some() {
            let error = Error::unsupported("a subquery with several columns on the left of a comparison");
            return Err(at(error, place).with_hint("Write the row on the left and the subquery on the right."));
        }
        let (a, b) = (self.row_value(left)?, self.row_value(right)?);
        Ok(Typed::new(self.compared(op, &a, &b, false, place)?, SqlType::Boolean).at(place))
    }

    fn compared(&mut self, op: Operator, a: &Value, b: &Value, inside: bool, place: Option<usize>) -> Result<Expr> {
        let (a, b) = match (a, b) {
            (Value::One(a), Value::One(b)) => return self.compare(op, a.clone(), b.clone(), place),
            // Postgres compares a row in a row as a value: NULLs in it are equal.
            (Value::Row(_), Value::Row(_)) if inside => {
                let op = match op {
                    Operator::Eq | Operator::IsNotDistinctFrom => Operator::IsNotDistinctFrom,
                    Operator::NotEq | Operator::IsDistinctFrom => Operator::IsDistinctFrom,
                    _ => {
                        let error = Error::unsupported("an order of rows in rows");
                        return Err(at(error, place).with_hint("Write their values into the row itself."));
                    }
                };
                return self.compared(op, a, b, false, place);
            }
            (Value::Row(a), Value::Row(b)) if a.len() == b.len() => (a, b),
            (Value::Row(_), Value::Row(_)) => return Err(unequal(place)),
            _ => {
                let error = Error::unsupported("a comparison of a row with a value");
                return Err(at(error, place).with_hint("Compare rows of equally many values."));
            }
        };
        if a.is_empty() {
            return Err(at(Error::unsupported("cannot compare rows of zero length"), place));
        }
        let pairs = || a.iter().zip(b);
        let parts = match op {
            Operator::Eq | Operator::IsNotDistinctFrom => {
                let parts = pairs().map(|(a, b)| self.compared(op, a, b, true, place)).collect::<Result<Vec<_>>>()?;
                parts.into_iter().reduce(Expr::and)
            }
            Operator::NotEq | Operator::IsDistinctFrom => {
                let parts = pairs().map(|(a, b)| self.compared(op, a, b, true, place)).collect::<Result<Vec<_>>>()?;
                parts.into_iter().reduce(Expr::or)
            }
            // a < x OR (a = x AND (b < y OR ...))
            op => {
                let strict = match op {
                    Operator::LtEq => Operator::Lt,
                    Operator::GtEq => Operator::Gt,
                    op => op,
                };
                let mut expr: Option<Expr> = None;
                for (a, b) in pairs().rev() {
                    expr = Some(match expr {
                        None => self.compared(op, a, b, true, place)?,
                        Some(rest) => {
                            let equal = self.compared(Operator::Eq, a, b, true, place)?;
                            self.compared(strict, a, b, true, place)?.or(equal.and(rest))
                        }
                    });
                }
                expr
            }
        };
        Ok(parts.unwrap_or_else(|| boolean(true)))
    }

    /// `(a, b) IS [NOT] NULL`: all of a row's values are, either way. A row in a row is not NULL, whatever is in it.
    pub(super) fn row_is_null(&mut self, items: &[ast::Expr], negated: bool) -> Result<Typed> {
        let mut all = boolean(true);
        for item in items {
            let one = match row_items(item) {
                Some(_) => {
                    self.row_value(item)?;
                    boolean(negated)
                }
                None => self.is_null(item, negated)?.expr,
            };
            all = all.and(one);
        }
        Ok(Typed::new(all, SqlType::Boolean))
    }

    /// A row as a subquery sees it, and the row that the subquery has.
    fn row_and_columns(
        &mut self,
        e: &ast::Expr,
        query: &ast::Query,
        place: Option<usize>,
    ) -> Result<(Value, Value, BoundQuery)> {
        let value = self.row_value(e)?;
        let bound = self.inner(query)?;
        let Value::Row(values) = &value else { return Err(unequal(place)) };
        if bound.fields.len() != values.len() {
            let message = match bound.fields.len() < values.len() {
                true => "subquery has too few columns",
                false => "subquery has too many columns",
            };
            return Err(at(Error::new("42601", message), place));
        }
        let columns = bound.fields.iter().map(|field| Value::One(Typed::new(field.expr(), field.ty.clone()))).collect();
        let outer = self.outside(value, place)?;
        Ok((outer, Value::Row(columns), bound))
    }

    /// `(a, b) <op> (SELECT x, y ...)` as `(SELECT (a, b) <op> (x, y) ...)`: no row is NULL, and several are an error.
    fn row_and_subquery(
        &mut self,
        e: &ast::Expr,
        op: Operator,
        query: &ast::Query,
        place: Option<usize>,
    ) -> Result<Typed> {
        let (value, columns, bound) = self.row_and_columns(e, query, place)?;
        let compared = self.compared(op, &value, &columns, false, place)?;
        let compared = self.function("headwater_nullable", vec![Typed::new(compared, SqlType::Boolean)], place)?;
        let name = self.fresh();
        let plan = LogicalPlanBuilder::from(bound.plan).project(vec![compared.expr.alias(name)])?.build()?;
        Ok(Typed::new(Expr::ScalarSubquery(self.subquery(plan)), SqlType::Boolean).at(place))
    }

    /// `(a, b) <op> ANY (SELECT x, y ...)` and ALL, with NULL where that is not known:
    ///
    /// ```text
    /// any   CASE WHEN EXISTS (s WHERE c) THEN true WHEN EXISTS (s WHERE c IS NULL) THEN NULL ELSE false END
    /// all   CASE WHEN EXISTS (s WHERE NOT c) THEN false WHEN EXISTS (s WHERE c IS NULL) THEN NULL ELSE true END
    /// ```
    pub(super) fn row_quantified(
        &mut self,
        e: &ast::Expr,
        op: Operator,
        query: &ast::Query,
        all: bool,
        place: Option<usize>,
    ) -> Result<Typed> {
        let (value, columns, bound) = self.row_and_columns(e, query, place)?;
        // NOT IN: what is equal decides.
        let opposite = all && op == Operator::NotEq;
        let condition = self.compared(if opposite { Operator::Eq } else { op }, &value, &columns, false, place)?;
        let decides = if all && !opposite { Expr::Not(Box::new(condition.clone())) } else { condition.clone() };
        let exists = |condition: Expr| -> Result<Expr> {
            let plan = LogicalPlanBuilder::from(bound.plan.clone()).filter(condition)?.build()?;
            Ok(Expr::Exists(Exists::new(self.subquery(plan), false)))
        };
        let (decided, unknown) = (exists(decides)?, exists(condition.is_null())?);
        let null = literal(ScalarValue::Boolean(None));
        let value = when(decided, lit(!all)).when(unknown, null).otherwise(lit(all))?;
        Ok(Typed::new(value, SqlType::Boolean).at(place))
    }

    /// Values of the outer query as a subquery sees them.
    fn outside(&self, value: Value, place: Option<usize>) -> Result<Value> {
        Ok(match value {
            Value::Row(values) => {
                Value::Row(values.into_iter().map(|value| self.outside(value, place)).collect::<Result<_>>()?)
            }
            Value::One(value) => {
                let mut known = true;
                let expr = value.expr.clone().transform(|e| {
                    known &= !matches!(
                        e,
                        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_)
                    );
                    let Expr::Column(Column { name, .. }) = &e else { return Ok(Transformed::no(e)) };
                    let column =
                        self.scopes.iter().rev().flat_map(|scope| &scope.columns).find(|c| c.field.internal == *name);
                    let ty = match (column, &value.expr) {
                        (Some(column), _) => Some(&column.field.ty),
                        (None, Expr::Column(_)) => Some(&value.ty),
                        _ => None,
                    };
                    let Some(ty) = ty else {
                        known = false;
                        return Ok(Transformed::no(e));
                    };
                    let field = arrow_schema::Field::new(name, ty.arrow(), true);
                    let outer = Expr::OuterReferenceColumn(field.into(), Column::new_unqualified(name.clone()));
                    Ok(Transformed::yes(outer))
                })?;
                if !known {
                    let error = Error::unsupported("a row of such expressions beside a subquery is not supported");
                    return Err(at(error, place).with_hint("Write EXISTS with the comparisons in WHERE."));
                }
                Value::One(Typed { expr: expr.data, ..value })
            }
        })
    }
}

fn unnested(e: &ast::Expr) -> &ast::Expr {
    match e {
        ast::Expr::Nested(e) => unnested(e),
        e => e,
    }
}
