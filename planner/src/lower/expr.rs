//! DataFusion's logical expressions to the engine's: columns become positions, functions names of the registry.

use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr as DfExpr, ExprSchemable, Operator};
use streaming::expr::{BinaryOp, Expr, Literal};

use crate::error::{Error, Result};

/// So many conditions in a row stay one.
const CHAIN_MAX: usize = 8;

/// Lowers an expression over the columns of `schema`.
#[::recursive::recursive]
pub fn lower(e: &DfExpr, schema: &DFSchema) -> Result<Expr> {
    let one = |e: &DfExpr| lower(e, schema);
    let boxed = |e: &DfExpr| lower(e, schema).map(Box::new);
    Ok(match e {
        DfExpr::Alias(alias) => one(&alias.expr)?,
        DfExpr::Column(column) => Expr::Column(schema.index_of_column(column)?),
        DfExpr::Literal(value, _) => literal(value)?,
        DfExpr::ScalarFunction(call) => Expr::Call {
            function: call.func.name().to_string(),
            args: call.args.iter().map(one).collect::<Result<_>>()?,
            returns: e.get_type(schema)?,
        },
        // What rules leave behind.
        DfExpr::BinaryExpr(b) if b.op == Operator::And && is_true(&b.left) => one(&b.right)?,
        DfExpr::BinaryExpr(b) if b.op == Operator::And && is_true(&b.right) => one(&b.left)?,
        DfExpr::BinaryExpr(chain) if matches!(chain.op, Operator::And | Operator::Or) => {
            let op = operator(chain.op).ok_or_else(|| unsupported(e))?;
            let terms = terms(e, chain.op).into_iter().map(one).collect::<Result<Vec<_>>>()?;
            chain_of(op, terms)
        }
        DfExpr::BinaryExpr(binary) => {
            let op = operator(binary.op).ok_or_else(|| unsupported(e))?;
            Expr::Binary { op, left: boxed(&binary.left)?, right: boxed(&binary.right)? }
        }
        DfExpr::Not(e) => Expr::Not(boxed(e)?),
        DfExpr::IsNull(e) | DfExpr::IsUnknown(e) => Expr::IsNull(boxed(e)?),
        DfExpr::IsNotNull(e) | DfExpr::IsNotUnknown(e) => Expr::Not(Box::new(Expr::IsNull(boxed(e)?))),
        DfExpr::IsTrue(e) => is(BinaryOp::IsNotDistinctFrom, one(e)?, true)?,
        DfExpr::IsFalse(e) => is(BinaryOp::IsNotDistinctFrom, one(e)?, false)?,
        DfExpr::IsNotTrue(e) => is(BinaryOp::IsDistinctFrom, one(e)?, true)?,
        DfExpr::IsNotFalse(e) => is(BinaryOp::IsDistinctFrom, one(e)?, false)?,
        DfExpr::Between(between) => {
            let low = binary(BinaryOp::GtEq, one(&between.expr)?, one(&between.low)?);
            let high = binary(BinaryOp::LtEq, one(&between.expr)?, one(&between.high)?);
            let inside = binary(BinaryOp::And, low, high);
            if between.negated { Expr::Not(Box::new(inside)) } else { inside }
        }
        DfExpr::Case(case) => {
            let base = case.expr.as_deref().map(one).transpose()?;
            let when = case.when_then_expr.iter().map(|(when, then)| {
                let when = one(when)?;
                let when = match &base {
                    Some(base) => binary(BinaryOp::Eq, base.clone(), when),
                    None => when,
                };
                Ok((when, one(then)?))
            });
            Expr::Case {
                when: when.collect::<Result<_>>()?,
                otherwise: case.else_expr.as_deref().map(boxed).transpose()?,
                returns: e.get_type(schema)?,
            }
        }
        DfExpr::InList(list) => Expr::InList {
            expr: boxed(&list.expr)?,
            list: list.list.iter().map(one).collect::<Result<_>>()?,
            negated: list.negated,
        },
        DfExpr::Cast(cast) => {
            let to = cast.field.data_type().clone();
            let inner = one(&cast.expr)?;
            if cast.expr.get_type(schema)? == to { inner } else { Expr::Cast { expr: Box::new(inner), to } }
        }
        DfExpr::Placeholder(placeholder) => {
            return Err(Error::new("42P02", format!("there is no parameter {}", placeholder.id)));
        }
        e => return Err(unsupported(e)),
    })
}

fn is_true(e: &DfExpr) -> bool {
    matches!(e, DfExpr::Literal(ScalarValue::Boolean(Some(true)), _))
}

fn is(op: BinaryOp, e: Expr, value: bool) -> Result<Expr> {
    Ok(binary(op, e, literal(&ScalarValue::Boolean(Some(value)))?))
}

/// The operands of `a AND b AND c`, in their order.
fn terms(e: &DfExpr, op: Operator) -> Vec<&DfExpr> {
    let (mut terms, mut rest) = (Vec::new(), e);
    loop {
        match rest {
            DfExpr::BinaryExpr(b) if b.op == op => {
                terms.push(b.right.as_ref());
                rest = &b.left;
            }
            first => {
                terms.push(first);
                terms.reverse();
                return terms;
            }
        }
    }
}

/// `a AND b AND c`. The longer it is, the more it is a tree: how deep a plan can be is bounded where it is kept.
fn chain_of(op: BinaryOp, mut terms: Vec<Expr>) -> Expr {
    if terms.len() > CHAIN_MAX {
        let right = terms.split_off(terms.len() / 2);
        return binary(op, chain_of(op, terms), chain_of(op, right));
    }
    let first = terms.remove(0);
    terms.into_iter().fold(first, |left, right| binary(op, left, right))
}

pub(super) fn binary(op: BinaryOp, left: Expr, right: Expr) -> Expr {
    Expr::Binary { op, left: Box::new(left), right: Box::new(right) }
}

pub(super) fn literal(value: &ScalarValue) -> Result<Expr> {
    Ok(Expr::Literal(Literal::from_scalar(value).map_err(Error::from)?))
}

fn operator(op: Operator) -> Option<BinaryOp> {
    Some(match op {
        Operator::Eq => BinaryOp::Eq,
        Operator::NotEq => BinaryOp::NotEq,
        Operator::Lt => BinaryOp::Lt,
        Operator::LtEq => BinaryOp::LtEq,
        Operator::Gt => BinaryOp::Gt,
        Operator::GtEq => BinaryOp::GtEq,
        Operator::And => BinaryOp::And,
        Operator::Or => BinaryOp::Or,
        Operator::IsDistinctFrom => BinaryOp::IsDistinctFrom,
        Operator::IsNotDistinctFrom => BinaryOp::IsNotDistinctFrom,
        _ => return None,
    })
}

fn unsupported(e: &DfExpr) -> Error {
    match e {
        DfExpr::ScalarSubquery(_) | DfExpr::Exists(_) | DfExpr::InSubquery(_) | DfExpr::OuterReferenceColumn(..) => {
            super::unsupported("this form of correlated subquery")
        }
        e => super::unsupported(&format!("the expression {e}")),
    }
}

/// What EXPLAIN calls the value of an expression that is not a column.
pub(super) fn label(e: &DfExpr) -> String {
    match e {
        DfExpr::Alias(alias) => label(&alias.expr),
        DfExpr::Cast(cast) => label(&cast.expr),
        DfExpr::Column(column) => column.name.clone(),
        DfExpr::ScalarFunction(call) => call.func.name().to_string(),
        DfExpr::AggregateFunction(call) => call.func.name().to_string(),
        DfExpr::WindowFunction(call) => call.fun.name().to_string(),
        DfExpr::Case(_) => "case".to_string(),
        DfExpr::Literal(..) => "constant".to_string(),
        _ => "expr".to_string(),
    }
}

/// Whether an expression reads a column.
pub(super) fn reads(e: &Expr, column: usize) -> bool {
    let found = std::cell::Cell::new(false);
    e.map_columns(&|c| {
        found.set(found.get() || c == column);
        c
    });
    found.get()
}

/// The display name of an expression's value: a column keeps its own.
pub(super) fn name(lowered: &Expr, e: &DfExpr, input: &super::Node) -> String {
    match lowered {
        Expr::Column(c) => input.name(*c).to_string(),
        Expr::Cast { expr, .. } => name(expr, e, input),
        _ => label(e),
    }
}
