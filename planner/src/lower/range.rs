//! Which comparisons between the two sides of a join find their rows by an order:
//!
//! ```text
//! a.x BETWEEN b.lo AND b.hi    a ordered by x: above b.lo, below b.hi
//!                              b ordered by lo: below a.x (hi is then compared row by row)
//! ```

use arrow_schema::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr as DfExpr, ExprSchemable, LogicalPlan, Operator, cast};

use crate::nodes::reads_only;

/// A side's order: its expression, and the other side's expressions that it is above and below, and whether it may be
/// equal to them.
pub(super) struct Order {
    pub(super) by: DfExpr,
    pub(super) above: Option<(DfExpr, bool)>,
    pub(super) below: Option<(DfExpr, bool)>,
}

impl Order {
    /// Whether it is bounded on both ends.
    pub(super) fn is_bounded(&self) -> bool {
        self.above.is_some() && self.below.is_some()
    }
}

/// For each side, the order by which `terms` find its rows, if there is one.
pub(super) fn orders(terms: &[&DfExpr], left: &LogicalPlan, right: &LogicalPlan) -> [Option<Order>; 2] {
    let comparisons: Vec<Comparison> = terms.iter().flat_map(|term| comparisons(term, left, right)).collect();
    [best(&comparisons, false), best(&comparisons, true)]
}

/// `left <op> right`, each over its side only.
struct Comparison {
    left: DfExpr,
    op: Operator,
    right: DfExpr,
}

fn comparisons(term: &DfExpr, left: &LogicalPlan, right: &LogicalPlan) -> Vec<Comparison> {
    let one = |a: &DfExpr, op: Operator, b: &DfExpr| {
        let (a, op, b) =
            match (reads_only(a, left) && reads_only(b, right), reads_only(b, left) && reads_only(a, right)) {
                (true, _) => (a, op, b),
                (_, true) => (b, op.swap()?, a),
                _ => return None,
            };
        Some(Comparison { left: ordered(a, left)?, op, right: ordered(b, right)? })
    };
    let one = |a: &DfExpr, op: Operator, b: &DfExpr| {
        let found = one(a, op, b);
        let shifted = found.as_ref().and_then(shifted);
        found.into_iter().chain(shifted)
    };
    match term {
        DfExpr::BinaryExpr(b) if matches!(b.op, Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq) => {
            one(&b.left, b.op, &b.right).collect()
        }
        DfExpr::Between(b) if !b.negated => {
            let low = one(&b.expr, Operator::GtEq, &b.low);
            low.chain(one(&b.expr, Operator::LtEq, &b.high)).collect()
        }
        _ => vec![],
    }
}

/// `a <= b + span` as `a - span <= b`: so both sides of an interval join have an order that is bounded on both ends.
fn shifted(comparison: &Comparison) -> Option<Comparison> {
    let Comparison { left, op, right } = comparison;
    match (span(left), span(right)) {
        (None, Some(shift)) => Some(Comparison { left: shift.back(left.clone())?, op: *op, right: shift.time.clone() }),
        (Some(shift), None) => {
            Some(Comparison { left: shift.time.clone(), op: *op, right: shift.back(right.clone())? })
        }
        _ => None,
    }
}

/// A time plus or minus a span of a fixed length.
struct Shift<'a> {
    time: &'a DfExpr,
    span: &'a DfExpr,
    /// The time zone, of a timestamptz.
    zone: Option<&'a DfExpr>,
    /// What takes the span away again.
    inverse: &'static str,
}

fn span(e: &DfExpr) -> Option<Shift<'_>> {
    let DfExpr::ScalarFunction(call) = e else { return None };
    let (time, span, inverse) = match call.func.name() {
        "timestamp_pl_interval" => (0, 1, "timestamp_mi_interval"),
        "timestamp_mi_interval" => (0, 1, "timestamp_pl_interval"),
        "interval_pl_timestamp" => (1, 0, "timestamp_mi_interval"),
        "timestamptz_pl_interval" => (0, 1, "timestamptz_mi_interval"),
        "timestamptz_mi_interval" => (0, 1, "timestamptz_pl_interval"),
        "interval_pl_timestamptz" => (1, 0, "timestamptz_mi_interval"),
        _ => return None,
    };
    let zone = call.args.get(2);
    let (time, span) = (call.args.get(time)?, call.args.get(span)?);
    match span {
        // Days of a time zone differ in length.
        DfExpr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), _)
            if value.months == 0 && (zone.is_none() || value.days == 0) =>
        {
            Some(Shift { time, span, zone, inverse })
        }
        _ => None,
    }
}

impl Shift<'_> {
    /// The same shift the other way, of another time.
    fn back(&self, time: DfExpr) -> Option<DfExpr> {
        let function = crate::functions::by_symbol(self.inverse)?;
        let args = [time, self.span.clone()].into_iter().chain(self.zone.cloned()).collect();
        Some(DfExpr::ScalarFunction(ScalarFunction::new_udf(function, args)))
    }
}

/// The expression in a type whose keys sort as its values are compared.
pub(super) fn ordered(e: &DfExpr, plan: &LogicalPlan) -> Option<DfExpr> {
    match e.get_type(plan.schema()).ok()? {
        DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Time64(TimeUnit::Microsecond)
        | DataType::Timestamp(TimeUnit::Microsecond, _)
        | DataType::Decimal128(..)
        | DataType::Utf8View => Some(e.clone()),
        // What numerics are compared by: bytes.
        DataType::FixedSizeBinary(n) if n != storage::types::NUMERIC_BYTES => {
            Some(cast(e.clone(), DataType::BinaryView))
        }
        _ => None,
    }
}

/// The order of one side that is bounded on both ends, or else the first.
fn best(comparisons: &[Comparison], right: bool) -> Option<Order> {
    let mut orders: Vec<Order> = vec![];
    for comparison in comparisons {
        let (by, op, other) = match right {
            false => (&comparison.left, comparison.op, &comparison.right),
            true => (&comparison.right, comparison.op.swap().expect("a comparison"), &comparison.left),
        };
        let at = orders.iter().position(|order| order.by == *by).unwrap_or_else(|| {
            orders.push(Order { by: by.clone(), above: None, below: None });
            orders.len() - 1
        });
        let limit = Some((other.clone(), matches!(op, Operator::GtEq | Operator::LtEq)));
        let end =
            if matches!(op, Operator::Gt | Operator::GtEq) { &mut orders[at].above } else { &mut orders[at].below };
        // Of two bounds on one end either finds all rows: the condition holds the other.
        if end.is_none() {
            *end = limit;
        }
    }
    let both = orders.iter().position(Order::is_bounded);
    (!orders.is_empty()).then(|| orders.swap_remove(both.unwrap_or(0)))
}
