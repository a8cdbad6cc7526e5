//! The joins and set operations that are operators of their own: ASOF, temporal, INTERSECT and EXCEPT.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr as DfExpr, LogicalPlan, Operator};
use streaming::event_time::history_fields;
use streaming::expr::Expr;
use streaming::lookup::LookupSpec;
use streaming::operators::set_operation::SetKind;
use streaming::operators::{AnyOperator, AsofJoin, LookupJoin, SetOperation, TapReader, TemporalJoin, VersionedJoin};
use streaming::watermark::Watermark;

use super::{Lowering, Node, expr, field, range, unsupported};
use crate::batch::{RelationSource, scanned, scanned_columns};
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
        if let Some(versions) = &join.versions {
            return self.versioned_join(join, versions);
        }
        if let Some((source, columns)) = scanned_columns(&join.right)
            && let Some(table) = source.lookup()
        {
            return self.lookup_join(join, source, table, columns);
        }
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

    /// With a table outside, which has `columns` for the right side.
    fn lookup_join(
        &mut self,
        join: &nodes::TemporalJoin,
        source: &RelationSource,
        table: &LookupSpec,
        columns: Vec<usize>,
    ) -> Result<Node> {
        let (mut keys, mut table_keys, mut conditions) = (vec![], vec![], join.conditions.clone());
        for (l, r) in &join.on {
            match plain_column(&expr::lower(r, join.right.schema())?, join.right.schema()) {
                Some(column) => {
                    keys.push(l);
                    table_keys.push(columns[column]);
                }
                None => conditions.push(l.clone().eq(r.clone())),
            }
        }
        if keys.is_empty() {
            let message = format!("a join with \"{}\" without an equality of one of its columns", table.name);
            return Err(unsupported(&message).with_hint(
                "What is looked up is found by columns that are equal to something of the left side and of its type.",
            ));
        }
        let (left, keys) = self.side(&join.left, &keys)?;
        let (n_left, n_right) = (join.left.schema().fields().len(), columns.len());
        let condition = conjunction(conditions).map(|condition| {
            let pair = join.left.schema().join(join.right.schema())?;
            let place = |column: usize| if column < n_left { column } else { left.width() + column - n_left };
            Ok::<_, crate::error::Error>(expr::lower(&condition, &pair)?.map_columns(&place))
        });
        let types = datafusion::logical_expr::TableSource::schema(source);
        let right = columns.iter().map(|&c| field(&source.columns()[c], types.field(c).data_type().clone()));
        let fields: Vec<Arc<Field>> = left.schema.fields().iter().cloned().chain(right.map(Arc::new)).collect();
        let operator = LookupJoin {
            outer: join.outer,
            keys,
            table: table.clone(),
            table_keys,
            wanted: columns,
            condition: condition.transpose()?,
            append_only: left.append_only,
            schema: Arc::new(Schema::new(fields)),
        };
        let joined = self.add(operator, &[left.index], left.append_only);
        Ok(self.without_computed(joined, &left, n_left, n_right))
    }

    fn versioned_join(&mut self, join: &nodes::TemporalJoin, versions: &nodes::Versions) -> Result<Node> {
        let n = join.on.len();
        let left: Vec<&DfExpr> = join.on.iter().map(|(l, _)| l).chain([&versions.as_of]).collect();
        let right = join.on.iter().map(|(_, r)| r).chain([&versions.time]).chain(&versions.ties).collect::<Vec<_>>();
        let n_left = join.left.schema().fields().len();
        let n_right = join.right.schema().fields().len();
        let (left, left_columns) = self.side(&join.left, &left)?;
        if !left.append_only {
            return Err(unsupported("FOR SYSTEM_TIME AS OF a time beside rows that can change").with_hint(
                "The left side must be a source or a table that is APPEND ONLY: what a row met once is not kept.",
            ));
        }
        let changes = scanned(&join.right).is_some_and(|source| !source.is_append_only());
        let (right, right_columns) = match changes {
            false => self.side(&join.right, &right)?,
            true => {
                let history = self.history(&join.right, &versions.time)?;
                self.computed(history, &join.right, &right, n_right + 2)?
            }
        };
        let (time, deleted) = if changes { (n_right, Some(n_right + 1)) } else { (right_columns[n], None) };
        let bounded = |node: &Node, column: usize| node.watermark(column).is_some_and(|mark| mark.bounds_state());
        if !bounded(&left, left_columns[n]) || !bounded(&right, time) {
            let error = unsupported("FOR SYSTEM_TIME AS OF a time without a watermark on both sides");
            return Err(
                error.with_hint("A row waits until both sides are complete up to its time: declare WATERMARK FOR.")
            );
        }
        let pair = join.left.schema().join(join.right.schema())?;
        let place = |column: usize| if column < n_left { column } else { left.width() + column - n_left };
        let condition = conjunction(join.conditions.iter().cloned())
            .map(|condition| Ok::<_, crate::error::Error>(expr::lower(&condition, &pair)?.map_columns(&place)));
        let operator = VersionedJoin {
            outer: join.outer,
            keys: [left_columns[..n].to_vec(), right_columns[..n].to_vec()],
            times: [left_columns[n], time],
            deleted,
            ties: if changes { vec![] } else { right_columns[n + 1..].to_vec() },
            condition: condition.transpose()?,
            schema: both(&left, &right),
        };
        let joined = self.add(operator, &[left.index, right.index], true);
        Ok(self.without_computed(joined, &left, n_left, n_right))
    }

    /// What the rows of a table were from when on: its columns as `plan` has them, the time, and whether that is an end.
    fn history(&mut self, plan: &LogicalPlan, time: &DfExpr) -> Result<Node> {
        let rows = self.lower(plan)?;
        let streaming::expr::Expr::Column(column) = expr::lower(time, plan.schema())? else {
            return Err(unsupported("FOR SYSTEM_TIME AS OF over a computed time"));
        };
        let AnyOperator::TapReader(reader) = self.plan.nodes[rows.index].operator.clone() else {
            return Err(unsupported("FOR SYSTEM_TIME AS OF over a computed table"));
        };
        let data_type = reader.schema.field(column).data_type().clone();
        let behind = history_fields(&data_type).map(Arc::new);
        let fields: Vec<Arc<Field>> = reader.schema.fields().iter().cloned().chain(behind).collect();
        // A change below the watermark counts from the watermark on.
        let mark = reader.watermarks.get(column).copied().flatten();
        let mut watermarks = vec![None; reader.columns.len()];
        watermarks.extend([mark.map(|mark| Watermark { retracts: false, ..mark }), None]);
        let schema = Arc::new(Schema::new(fields));
        let reader = TapReader { history: Some(column), append_only: true, watermarks, schema, ..reader };
        Ok(self.add(reader, &[], true))
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
        let passes = |node: &Node, column: usize| node.watermark(column).is_some_and(|mark| mark.bounds_state());
        let expires = (0..n).find(|key| passes(&left, left_keys[*key]) && passes(&right, *key));
        let operator = SetOperation {
            kind: if operation.intersect { SetKind::Intersect } else { SetKind::Except },
            all: operation.all,
            keys: [left_keys, (0..n).collect()],
            order,
            expires,
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

/// The column that an expression is, under whatever name of its type.
fn plain_column(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(column) => Some(*column),
        Expr::Cast { expr, to } => plain_column(expr, schema).filter(|column| schema.field(*column).data_type() == to),
        _ => None,
    }
}

/// The columns of both sides.
fn both(left: &Node, right: &Node) -> Arc<Schema> {
    let fields: Vec<Arc<Field>> = left.schema.fields().iter().chain(right.schema.fields()).cloned().collect();
    Arc::new(Schema::new(fields))
}
