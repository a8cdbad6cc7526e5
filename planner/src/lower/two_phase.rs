//! Aggregation in phases, where the rows of one moment fall into few groups: one worker would have them all.
//!
//! ```text
//! Aggregate by k: count(*), count(DISTINCT x)
//!
//! =>  Aggregate by k: from partial results        one row per group, worker and epoch comes here
//!       UnionAll
//!         LocalAggregate by k: count(*)           where the rows are
//!         LocalAggregate by k: count(x)
//!           Distinct k, x                         on the worker of (k, x)
//! ```
//!
//! A table's `k` may have any values, so rows are combined first where the planner knows that they have few at a time:
//! without GROUP BY, and where every group column is a boolean or has a watermark, as the windows of time have. The
//! session decides for other groups.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use streaming::aggregates::{AggregateCall, AggregateKind, has_forms};
use streaming::expr::Expr;
use streaming::operators::{Aggregate, Distinct, Filter, LocalAggregate, Project, UnionAll};

use super::{Lowering, Node};
use crate::explain;

impl Lowering {
    /// The aggregation of `input` in phases, if that is wanted and possible. `schema` is what comes out.
    pub(super) fn in_phases(
        &mut self,
        input: &Node,
        group: &[usize],
        calls: &[AggregateCall],
        schema: &SchemaRef,
    ) -> Option<Node> {
        let switches = self.switches;
        let few = group
            .iter()
            .all(|&c| *input.schema.field(c).data_type() == DataType::Boolean || input.watermark(c).is_some());
        let wanted = match calls.iter().any(|call| call.distinct) {
            true => switches.force_split_distinct || switches.split_distinct && few,
            false => switches.force_two_phase || few,
        };
        let combine = || calls.iter().all(|call| combines(call, input));
        if calls.is_empty() || !switches.two_phase || !wanted || !combine() {
            return None;
        }
        let names: Vec<String> = calls.iter().map(|call| explain::call(call, &input.schema)).collect();
        let keys: Vec<Field> = group.iter().map(|&c| input.schema.field(c).clone()).collect();
        let partials = LocalAggregate::columns(keys, &names);
        let plain = calls.iter().map(|call| (!call.distinct).then(|| call.clone())).collect();
        let first = LocalAggregate {
            group: group.to_vec(),
            calls: plain,
            append_only: input.append_only,
            counts_rows: true,
            schema: partials.clone(),
        };
        let mut parts = vec![self.add(first, &[input.index], false).index];
        let mut done: Vec<(&[usize], Option<usize>)> = vec![];
        for call in calls.iter().filter(|call| call.distinct) {
            let values = (call.args.as_slice(), call.filter);
            if !done.contains(&values) {
                done.push(values);
                parts.push(self.distinct_part(input, group, calls, values, &partials).index);
            }
        }
        let all = match parts[..] {
            [one] => one,
            _ => self.add(UnionAll { n_inputs: parts.len(), schema: partials }, &parts, false).index,
        };
        let type_of = |&arg: &usize| input.schema.field(arg).data_type().clone();
        let last = Aggregate {
            group: (0..group.len()).collect(),
            partials: Some(calls.iter().map(|call| call.args.iter().map(type_of).collect()).collect()),
            calls: calls.iter().map(|call| AggregateCall { distinct: false, filter: None, ..call.clone() }).collect(),
            append_only: input.append_only,
            schema: schema.clone(),
        };
        Some(self.add(last, &[all], false))
    }

    /// The partial results of the aggregates that count each of `values`, arguments and a filter, once.
    fn distinct_part(
        &mut self,
        input: &Node,
        group: &[usize],
        calls: &[AggregateCall],
        values: (&[usize], Option<usize>),
        partials: &SchemaRef,
    ) -> Node {
        let (args, filter) = values;
        let rows = match filter {
            None => input.clone(),
            Some(filter) => {
                let filter = Filter { predicate: Expr::Column(filter), schema: input.schema.clone() };
                self.add(filter, &[input.index], input.append_only)
            }
        };
        let mut columns: Vec<usize> = group.to_vec();
        for &arg in args {
            if !columns.contains(&arg) {
                columns.push(arg);
            }
        }
        let rows = self.only(&rows, &columns);
        let once = self.add(Distinct { schema: rows.schema.clone() }, &[rows.index], rows.append_only);
        let place = |&arg: &usize| columns.iter().position(|c| *c == arg).expect("it was picked");
        let own = |call: &AggregateCall| {
            (call.distinct && (call.args.as_slice(), call.filter) == values).then(|| AggregateCall {
                args: call.args.iter().map(place).collect(),
                distinct: false,
                filter: None,
                ..call.clone()
            })
        };
        let part = LocalAggregate {
            group: (0..group.len()).collect(),
            calls: calls.iter().map(own).collect(),
            append_only: once.append_only,
            counts_rows: false,
            schema: Arc::clone(partials),
        };
        self.add(part, &[once.index], false)
    }

    /// Some columns of a node that others read too: what it reads is read once.
    fn only(&mut self, input: &Node, columns: &[usize]) -> Node {
        if columns.iter().copied().eq(0..input.width()) {
            return input.clone();
        }
        let fields: Vec<Field> = columns.iter().map(|&c| input.schema.field(c).clone()).collect();
        let exprs = columns.iter().map(|&c| Expr::Column(c)).collect();
        let project = Project { exprs, schema: Arc::new(Schema::new(fields)) };
        self.add(project, &[input.index], input.append_only)
    }
}

/// Whether parts of the call's groups can be combined. Of values that are equal but look different one has to be
/// chosen, which needs all of them in one place; what is counted is a key that looks one way.
fn combines(call: &AggregateCall, input: &Node) -> bool {
    let one_form = |arg: &usize| !has_forms(input.schema.field(*arg).data_type());
    call.kind.combines(input.append_only)
        && (!call.distinct || call.kind == AggregateKind::Count || call.args.iter().all(one_form))
}
