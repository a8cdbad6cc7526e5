//! The joins and set operations that are operators of their own: ASOF, temporal, INTERSECT and EXCEPT.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr as DfExpr, Operator};
use streaming::operators::set_operation::SetKind;
use streaming::operators::{AsofJoin, SetOperation, TemporalJoin};

use super::{Lowering, Node, expr, range, unsupported};
use crate::error::Result;
use crate::nodes;

impl Lowering {
    pub(super) fn asof_join(&mut self, join: &nodes::AsofJoin) -> Result<Node> {
        let how = &join.how;
        let times = (range::ordered(&how.times.0, &join.left), range::ordered(&how.times.1, &join.right));
        let (Some(left_time), Some(right_time)) = times else {
            return Err(unsupported("an ASOF JOIN by a type without an order"));
        };
        let n = how.on.len();
        let left: Vec<&DfExpr> = how.on.iter().map(|(l, _)| l).chain([&left_time]).collect();
        let right = how.on.iter().map(|(_, r)| r).chain([&right_time]).chain(&how.ties).collect::<Vec<_>>();
        let (left, left_columns) = self.side(&join.left, &left)?;
        let (right, right_columns) = self.side(&join.right, &right)?;
        let operator = AsofJoin {
            outer: how.outer,
            keys: [left_columns[..n].to_vec(), right_columns[..n].to_vec()],
            times: [left_columns[n], right_columns[n]],
            forward: matches!(how.sign, Operator::Lt | Operator::LtEq),
            inclusive: matches!(how.sign, Operator::LtEq | Operator::GtEq),
            ties: right_columns[n + 1..].to_vec(),
            schema: both(&left, &right),
        };
        let joined = self.add(operator, &[left.index, right.index], false);
        Ok(self.without_computed(joined, &left, join.left.schema().fields().len(), join.right.schema().fields().len()))
    }

    pub(super) fn temporal_join(&mut self, join: &nodes::TemporalJoin) -> Result<Node> {
        if join.on.is_empty() {
            return Err(unsupported("FOR SYSTEM_TIME AS OF PROCTIME() without an equality between the two sides"));
        }
        let left: Vec<&DfExpr> = join.on.iter().map(|(l, _)| l).collect();
        let right: Vec<&DfExpr> = join.on.iter().map(|(_, r)| r).collect();
        let (left, left_keys) = self.side(&join.left, &left)?;
        let (right, right_keys) = self.side(&join.right, &right)?;
        if !left.append_only {
            return Err(unsupported("FOR SYSTEM_TIME AS OF PROCTIME() beside rows that can change").with_hint(
                "The left side must be a source or a table that is APPEND ONLY: what a row met once is not kept.",
            ));
        }
        let (n_left, n_right) = (join.left.schema().fields().len(), join.right.schema().fields().len());
        let condition = conjunction(join.conditions.iter().cloned()).map(|condition| {
            let pair = join.left.schema().join(join.right.schema())?;
            let place = |column: usize| if column < n_left { column } else { left.width() + column - n_left };
            Ok::<_, crate::error::Error>(expr::lower(&condition, &pair)?.map_columns(&place))
        });
        let operator = TemporalJoin {
            outer: join.outer,
            keys: [left_keys, right_keys],
            condition: condition.transpose()?,
            schema: both(&left, &right),
        };
        let joined = self.add(operator, &[left.index, right.index], true);
        Ok(self.without_computed(joined, &left, n_left, n_right))
    }

    pub(super) fn set_operation(&mut self, operation: &nodes::SetOperation) -> Result<Node> {
        let n = operation.keys.len();
        let left = operation.keys.iter().map(|(l, _)| l).chain(&operation.order).collect::<Vec<_>>();
        let right: Vec<&DfExpr> = operation.keys.iter().map(|(_, r)| r).collect();
        let (left, mut left_keys) = self.side(&operation.left, &left)?;
        let (right, right_keys) = self.side(&operation.right, &right)?;
        let order = left_keys.split_off(n);
        let right = self.pick(&right, &right_keys, None);
        let keeps = operation.intersect && left.append_only && right.append_only;
        let operator = SetOperation {
            kind: if operation.intersect { SetKind::Intersect } else { SetKind::Except },
            all: operation.all,
            keys: [left_keys, (0..n).collect()],
            order,
            schema: left.schema.clone(),
        };
        let node = self.add(operator, &[left.index, right.index], keeps);
        Ok(self.exactly(node, operation.left.schema().fields().len()))
    }

    /// The columns of a join that its logical node has: those that were computed for it stand behind each side's.
    fn without_computed(&mut self, joined: Node, left: &Node, n_left: usize, n_right: usize) -> Node {
        let columns: Vec<usize> = (0..n_left).chain(left.width()..left.width() + n_right).collect();
        if columns.is_empty() || columns.iter().copied().eq(0..joined.width()) {
            return joined;
        }
        self.pick(&joined, &columns, None)
    }
}

/// The columns of both sides.
fn both(left: &Node, right: &Node) -> Arc<Schema> {
    let fields: Vec<Arc<Field>> = left.schema.fields().iter().chain(right.schema.fields()).cloned().collect();
    Arc::new(Schema::new(fields))
}
