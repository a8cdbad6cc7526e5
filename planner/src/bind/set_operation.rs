//! UNION, INTERSECT, EXCEPT.

use std::sync::Arc;

use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Union};
use sqlparser::ast::{SetExpr, SetOperator, SetQuantifier};
use storage::SqlType;

use super::{Binder, BoundQuery, OutField, Typed, at};
use crate::error::{Error, Result};
use crate::functions::common_type;
use crate::nodes::SetOperation;
use crate::types::{self, CastContext};

impl Binder<'_> {
    pub(super) fn set_operation(
        &mut self,
        left: &SetExpr,
        op: SetOperator,
        quantifier: SetQuantifier,
        right: &SetExpr,
    ) -> Result<BoundQuery> {
        let what = match op {
            SetOperator::Union => "UNION",
            SetOperator::Intersect => "INTERSECT",
            SetOperator::Except | SetOperator::Minus => "EXCEPT",
        };
        let all = match quantifier {
            SetQuantifier::All => true,
            SetQuantifier::None | SetQuantifier::Distinct => false,
            _ => return Err(Error::unsupported(format!("{what} BY NAME is not supported"))),
        };
        let places = places_of(right);
        let (left, right) = (self.set_expr(left)?, self.set_expr(right)?);
        if left.fields.len() != right.fields.len() {
            let message = format!("each {what} query must have the same number of columns");
            return Err(at(Error::new("42601", message), places.first().copied().flatten()));
        }
        let mut fields = vec![];
        for (i, (a, b)) in left.fields.iter().zip(&right.fields).enumerate() {
            let ty = common_type(&[a.ty.clone(), b.ty.clone()]).ok_or_else(|| {
                let (a, b) = (types::name(&a.ty), types::name(&b.ty));
                let place = places.get(i).or(places.first()).copied().flatten();
                at(Error::new("42804", format!("{what} types {a} and {b} cannot be matched")), place)
            })?;
            let typmod = if a.ty == b.ty && a.typmod == b.typmod { a.typmod } else { -1 };
            fields.push(OutField { internal: self.fresh(), name: a.name.clone(), ty, typmod });
        }
        let left = self.matched(left, &fields)?;
        let right = self.matched(right, &fields)?;
        let plan = match (op, all) {
            (SetOperator::Union, _) => {
                let mut inputs = vec![];
                for side in [left, right] {
                    match side {
                        // UNION ALL of UNION ALL is one.
                        LogicalPlan::Union(union) if all => inputs.extend(union.inputs),
                        side => inputs.push(Arc::new(side)),
                    }
                }
                let schema = inputs[0].schema().clone();
                let union = LogicalPlan::Union(Union { inputs, schema });
                if all { union } else { self.distinct(union, &fields)? }
            }
            (op, all) => {
                // The two sides need names of their own.
                let names: Vec<String> = fields.iter().map(|_| self.fresh()).collect();
                let exprs = fields.iter().zip(&names).map(|(f, n)| f.expr().alias(n)).collect::<Vec<_>>();
                let right = LogicalPlanBuilder::from(right).project(exprs)?.build()?;
                let keys = fields.iter().zip(&names).map(|(f, n)| {
                    let right = crate::expr::column(n);
                    (Self::key_of(&f.ty, f.expr()), Self::key_of(&f.ty, right))
                });
                let keys = keys.collect();
                let mut order = vec![];
                for field in fields.iter().filter(|f| crate::functions::key(&f.ty).is_some()) {
                    order.push(self.look_of(field)?);
                }
                let names = [self.fresh(), self.fresh()];
                let intersect = op == SetOperator::Intersect;
                SetOperation { left, right, intersect, all, keys, order, names }.plan()
            }
        };
        Ok(BoundQuery { plan, fields })
    }

    /// What tells values apart that are equal: how they look.
    pub(super) fn look_of(&mut self, field: &OutField) -> Result<Expr> {
        let value = Typed { typmod: field.typmod, ..Typed::new(field.expr(), field.ty.clone()) };
        self.coerce(value, &SqlType::Text, -1, CastContext::Explicit)
    }

    /// The columns of one side under the names and in the types of the result.
    pub(super) fn matched(&mut self, query: BoundQuery, fields: &[OutField]) -> Result<LogicalPlan> {
        let mut exprs: Vec<Expr> = vec![];
        let literals = constants(&query.plan, query.fields.len());
        for (i, (from, to)) in query.fields.iter().zip(fields).enumerate() {
            let expr = match literals.as_ref().map(|l| &l[i]) {
                // An untyped literal takes the type of the other side.
                Some(Expr::Literal(value, _)) if from.ty == SqlType::Unknown => {
                    Typed::new(super::literal::literal(value.clone()), SqlType::Unknown)
                }
                _ => Typed { typmod: from.typmod, ..Typed::new(from.expr(), from.ty.clone()) },
            };
            exprs.push(self.implicit(expr, &to.ty)?.alias(&to.internal));
        }
        Ok(LogicalPlanBuilder::from(query.plan).project(exprs)?.build()?)
    }
}

/// What a plan selects, if it is a projection.
fn constants(plan: &LogicalPlan, n: usize) -> Option<Vec<Expr>> {
    let LogicalPlan::Projection(p) = plan else { return None };
    (p.expr.len() == n).then(|| p.expr.iter().map(|e| e.clone().unalias()).collect())
}

/// Where the columns of a query are written.
fn places_of(query: &SetExpr) -> Vec<Option<usize>> {
    match query {
        SetExpr::Select(select) => select.projection.iter().map(super::names::start_of).collect(),
        SetExpr::Query(query) => places_of(&query.body),
        SetExpr::SetOperation { left, .. } => places_of(left),
        SetExpr::Values(values) => {
            values.rows.first().map(|row| row.content.iter().map(super::names::start_of).collect()).unwrap_or_default()
        }
        _ => vec![],
    }
}
