//! Joins: equalities become key columns, comparisons ranges of an order, and what is no equality a condition on the
//! pairs.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr as DfExpr, Join, LogicalPlan, Operator};
use streaming::expr::Expr;
use streaming::operators::HashJoin;
use streaming::operators::hash_join::{Expiry, JoinKind, Range};

use super::range;
use super::{Lowering, Node, expr, field, unsupported};
use crate::error::Result;
use crate::nodes::reads_only;

/// An equality between a side and the other, and whether NULL equals NULL.
type Pair<'a> = (&'a DfExpr, &'a DfExpr, bool);

impl Lowering {
    pub(super) fn join(&mut self, join: &Join) -> Result<Node> {
        let null_equal = join.null_equality == NullEquality::NullEqualsNull;
        let mut pairs: Vec<Pair> = join.on.iter().map(|(l, r)| (l, r, null_equal)).collect();
        let terms = join.filter.iter().flat_map(split_conjunction);
        let (found, rest): (Vec<_>, Vec<_>) =
            terms.map(|t| (null_safe_pair(t, &join.left, &join.right), t)).partition(|(pair, _)| pair.is_some());
        pairs.extend(found.into_iter().filter_map(|(pair, _)| pair));
        let rest: Vec<&DfExpr> = rest.into_iter().map(|(_, term)| term).collect();

        let (kind, swapped) = match join.join_type {
            JoinType::LeftAnti if join.null_aware => (JoinKind::NullAwareAnti, false),
            JoinType::Inner => (JoinKind::Inner, false),
            JoinType::Left => (JoinKind::Left, false),
            JoinType::LeftSemi => (JoinKind::Semi, false),
            JoinType::LeftAnti => (JoinKind::Anti, false),
            JoinType::LeftMark => (JoinKind::Mark, false),
            JoinType::RightSemi => (JoinKind::Semi, true),
            JoinType::RightAnti => (JoinKind::Anti, true),
            JoinType::RightMark => (JoinKind::Mark, true),
            // Without keys the right side goes to every worker: the side whose rows are all kept has to be the left.
            JoinType::Right if pairs.is_empty() => (JoinKind::Left, true),
            JoinType::Right => (JoinKind::Right, false),
            JoinType::Full => (JoinKind::Full, false),
        };
        if kind == JoinKind::NullAwareAnti && (pairs.len() != 1 || !rest.is_empty()) {
            return Err(unsupported("NOT IN with a correlated subquery over columns that can be NULL")
                .with_hint("Use NOT EXISTS, or exclude NULL on both sides."));
        }

        let (first, second) = if swapped { (&join.right, &join.left) } else { (&join.left, &join.right) };
        if swapped {
            pairs = pairs.into_iter().map(|(l, r, null_equal)| (r, l, null_equal)).collect();
        }
        // Each side with its keys, then what the two orders read of it.
        let mut orders = range::orders(&rest, first, second);
        if !pairs.is_empty() {
            // Few rows share a key: an order pays where it leaves few of them.
            orders.iter_mut().for_each(|order| *order = order.take().filter(range::Order::is_bounded));
        }
        let mut left_exprs: Vec<&DfExpr> = pairs.iter().map(|p| p.0).collect();
        let mut right_exprs: Vec<&DfExpr> = pairs.iter().map(|p| p.1).collect();
        let limits = |o: &'_ Option<range::Order>| -> Vec<DfExpr> {
            o.iter().flat_map(|o| o.above.iter().chain(&o.below).map(|(e, _)| e.clone())).collect()
        };
        let (of_left, of_right) = (limits(&orders[1]), limits(&orders[0]));
        left_exprs.extend(orders[0].iter().map(|o| &o.by).chain(&of_left));
        right_exprs.extend(orders[1].iter().map(|o| &o.by).chain(&of_right));
        let (left, mut left_keys) = self.side(first, &left_exprs)?;
        let (right, mut right_keys) = self.side(second, &right_exprs)?;
        let mut left_ranges = left_keys.split_off(pairs.len()).into_iter();
        let mut right_ranges = right_keys.split_off(pairs.len()).into_iter();
        let columns =
            [orders[0].as_ref().and_then(|_| left_ranges.next()), orders[1].as_ref().and_then(|_| right_ranges.next())];
        let ranges = [
            columns[0].zip(orders[0].as_ref()).map(|(column, order)| order.over(column, &mut right_ranges)),
            columns[1].zip(orders[1].as_ref()).map(|(column, order)| order.over(column, &mut left_ranges)),
        ];

        // A condition sees the logical columns; behind each side's may stand key columns that were computed here.
        let (n_first, n_second) = (first.schema().fields().len(), second.schema().fields().len());
        let place = |column: usize| if column < n_first { column } else { left.width() + column - n_first };
        let condition = conjunction(rest.into_iter().cloned())
            .map(|condition| {
                let pair = first.schema().join(second.schema())?;
                Ok::<_, crate::error::Error>(expr::lower(&condition, &pair)?.map_columns(&place))
            })
            .transpose()?;

        let mut fields: Vec<Arc<Field>> = left.schema.fields().to_vec();
        let outputs: Vec<usize> = match kind {
            JoinKind::Semi | JoinKind::Anti | JoinKind::NullAwareAnti => (0..n_first).collect(),
            JoinKind::Mark => {
                fields.push(Arc::new(field("mark", DataType::Boolean)));
                (0..n_first).chain([left.width()]).collect()
            }
            _ => {
                fields.extend(right.schema.fields().iter().cloned());
                let all: Vec<usize> = (0..n_first + n_second).map(place).collect();
                // Back to the order of the logical node.
                if swapped { [&all[n_first..], &all[..n_first]].concat() } else { all }
            }
        };
        let keeps = match kind {
            JoinKind::Inner | JoinKind::Semi => left.append_only && right.append_only,
            _ => false,
        };
        let mut operator = HashJoin {
            kind,
            keys: [left_keys, right_keys],
            null_equal: pairs.iter().map(|p| p.2).collect(),
            ranges,
            expiry: [None, None],
            condition,
            append_only: [left.append_only, right.append_only],
            alone: false,
            schema: Arc::new(Schema::new(fields)),
        };
        operator.expiry = expiry(&operator, [&left, &right]);
        let joined = self.add(operator, &[left.index, right.index], keeps);
        if outputs.iter().copied().eq(0..joined.width()) || outputs.is_empty() {
            return Ok(joined);
        }
        Ok(self.pick(&joined, &outputs, None))
    }

    /// One side, with the keys that are not columns computed behind its columns, and where the keys stand.
    pub(super) fn side(&mut self, plan: &LogicalPlan, keys: &[&DfExpr]) -> Result<(Node, Vec<usize>)> {
        let node = self.lower(plan)?;
        self.computed(node, plan, keys, plan.schema().fields().len())
    }

    /// The first `n` columns of `node`, which lowers `plan`, and behind them those of `keys` that are not columns.
    pub(super) fn computed(
        &mut self,
        node: Node,
        plan: &LogicalPlan,
        keys: &[&DfExpr],
        n: usize,
    ) -> Result<(Node, Vec<usize>)> {
        let mut exprs: Vec<Expr> = (0..n).map(Expr::Column).collect();
        let mut fields: Vec<Field> = node.schema.fields().iter().take(n).map(|f| f.as_ref().clone()).collect();
        let mut columns = Vec::with_capacity(keys.len());
        for key in keys {
            let lowered = expr::lower(key, plan.schema())?;
            let known = exprs.iter().position(|e| *e == lowered);
            columns.push(match known {
                Some(column) => column,
                None => {
                    let data_type = datafusion::logical_expr::ExprSchemable::get_type(*key, plan.schema())?;
                    fields.push(field(&expr::label(key), data_type));
                    exprs.push(lowered);
                    exprs.len() - 1
                }
            });
        }
        if exprs.len() == n {
            return Ok((node, columns));
        }
        Ok((self.project(&node, exprs, Arc::new(Schema::new(fields))), columns))
    }
}

/// Per side, by which watermarks its rows leave.
fn expiry(join: &HashJoin, inputs: [&Node; 2]) -> [Option<Expiry>; 2] {
    let of = |side: usize| {
        if join.kind == JoinKind::NullAwareAnti {
            return None;
        }
        let bounds = |side: usize, column: usize| inputs[side].watermark(column).is_some_and(|w| w.bounds_state());
        // Where only keys are counted, a key has to leave on both sides at once.
        let stays = join.append_only[side] && (join.kind == JoinKind::Inner || join.condition.is_some());
        let passed = |(column, other): &(usize, usize)| bounds(1 - side, *other) && (stays || bounds(side, *column));
        let found = join.lower_bounds(side).into_iter().find(passed);
        found.map(|(column, other)| Expiry { column, other, own: !stays, null_equal: false })
    };
    [of(0), of(1)]
}

/// `l IS NOT DISTINCT FROM r`, l over the left columns and r over the right ones, or the other way round.
fn null_safe_pair<'a>(term: &'a DfExpr, left: &LogicalPlan, right: &LogicalPlan) -> Option<Pair<'a>> {
    let DfExpr::BinaryExpr(binary) = term else { return None };
    if binary.op != Operator::IsNotDistinctFrom {
        return None;
    }
    let (l, r) = (binary.left.as_ref(), binary.right.as_ref());
    if reads_only(l, left) && reads_only(r, right) {
        Some((l, r, true))
    } else if reads_only(r, left) && reads_only(l, right) {
        Some((r, l, true))
    } else {
        None
    }
}

impl range::Order {
    /// The order as the operator has it: by `column`, between columns of the other side, of which `limits` gives those
    /// that this order was said to need.
    fn over(&self, column: usize, limits: &mut impl Iterator<Item = usize>) -> Range {
        let mut limit = |end: &Option<(DfExpr, bool)>| {
            end.as_ref().and_then(|(_, inclusive)| limits.next().map(|column| (column, *inclusive)))
        };
        let above = limit(&self.above);
        Range { column, above, below: limit(&self.below) }
    }
}
