//! Pieces of DataFusion's expressions and plans that the parts of the planner share.

use std::sync::Arc;

use arrow::array::RecordBatchOptions;
use arrow::record_batch::RecordBatch;
use arrow_schema::Schema;
use datafusion::common::{Column, DFSchema, NullHandling, Result as DfResult, ScalarValue, UnnestOptions};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery, Volatility};
use datafusion::physical_expr::create_physical_expr;

/// A reference to the column with the plan's unique name `name`.
pub fn column(name: impl Into<String>) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// The subquery that an expression is, if it is one.
pub fn subquery_of(e: &Expr) -> Option<&Subquery> {
    match e {
        Expr::ScalarSubquery(subquery) => Some(subquery),
        Expr::Exists(e) => Some(&e.subquery),
        Expr::InSubquery(e) => Some(&e.subquery),
        Expr::SetComparison(e) => Some(&e.subquery),
        _ => None,
    }
}

/// An expression without its names and changes of representation.
pub fn seen_as(e: &Expr) -> &Expr {
    match e {
        Expr::Alias(a) => seen_as(&a.expr),
        Expr::Cast(c) => seen_as(&c.expr),
        e => e,
    }
}

/// The integer that `e` is.
pub fn integer(e: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = seen_as(e) else { return None };
    match value {
        ScalarValue::Int16(v) => v.map(i64::from),
        ScalarValue::Int32(v) => v.map(i64::from),
        ScalarValue::Int64(v) => *v,
        ScalarValue::UInt64(v) => v.and_then(|v| i64::try_from(v).ok()),
        _ => None,
    }
}

/// The value of `e` if it is a constant, or a call or an operator whose operands are constants and that does not fail.
pub fn constant(e: &Expr) -> Option<ScalarValue> {
    match e {
        Expr::Literal(value, _) => Some(value.clone()),
        e if is_foldable(e) => evaluate(e).ok(),
        _ => None,
    }
}

/// Whether it is a call or an operator whose operands are constants: what [`evaluate`] can compute.
pub fn is_foldable(e: &Expr) -> bool {
    let literal = |e: &Expr| matches!(e, Expr::Literal(..));
    match e {
        Expr::ScalarFunction(f) => f.func.signature().volatility == Volatility::Immutable && f.args.iter().all(literal),
        Expr::BinaryExpr(b) => literal(&b.left) && literal(&b.right),
        Expr::Cast(c) => literal(&c.expr),
        Expr::Not(e) | Expr::IsNull(e) | Expr::IsNotNull(e) | Expr::IsTrue(e) | Expr::IsFalse(e) => literal(e),
        Expr::IsUnknown(e) | Expr::IsNotTrue(e) | Expr::IsNotFalse(e) | Expr::IsNotUnknown(e) => literal(e),
        Expr::InList(list) => literal(&list.expr) && list.list.iter().all(literal),
        Expr::Between(b) => [&b.expr, &b.low, &b.high].into_iter().all(|e| literal(e)),
        Expr::Case(c) => {
            let whens = c.when_then_expr.iter().flat_map(|(when, then)| [when, then]);
            whens.chain(&c.expr).chain(&c.else_expr).all(|e| literal(e))
        }
        _ => false,
    }
}

/// The value of an expression without columns.
pub fn evaluate(e: &Expr) -> DfResult<ScalarValue> {
    let props = ExecutionProps::new();
    let expr = create_physical_expr(e, &DFSchema::empty(), &props, &PhysicalPlanningContext::default())?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)?;
    let array = expr.evaluate(&batch)?.into_array(1)?;
    ScalarValue::try_from_array(&array, 0)
}

/// The plan with a row per element of some lists, which come out under these names.
pub fn unnested(plan: LogicalPlan, lists: Vec<(String, Expr)>, outer: bool) -> DfResult<LogicalPlan> {
    let names: Vec<Column> = lists.iter().map(|(name, _)| Column::new_unqualified(name)).collect();
    let all: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let lists = lists.into_iter().map(|(name, list)| list.alias(name));
    let null_handling = if outer { NullHandling::PreserveAndExpandEmpty } else { NullHandling::Drop };
    let options = UnnestOptions { null_handling, ..UnnestOptions::default() };
    let plan = LogicalPlanBuilder::from(plan).project(all.into_iter().chain(lists))?;
    plan.unnest_columns_with_options(names, options)?.build()
}
