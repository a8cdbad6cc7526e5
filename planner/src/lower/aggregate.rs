//! GROUP BY: the arguments of the aggregates are projected first, so that only they travel.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate as DfAggregate, Expr as DfExpr, LogicalPlan};
use streaming::aggregates::{AggregateCall, AggregateKind};
use streaming::expr::Expr;
use streaming::operators::{Aggregate, Distinct};

use super::{Lowering, Node, expr, field, unsupported};
use crate::error::Result;
use crate::functions::aggregate;

impl Lowering {
    pub(super) fn aggregate(&mut self, aggregate: &DfAggregate) -> Result<Node> {
        if aggregate.group_expr.iter().any(|e| matches!(e, DfExpr::GroupingSet(_))) {
            return Err(unsupported("GROUPING SETS, ROLLUP or CUBE"));
        }
        let input = self.lower(&aggregate.input)?;
        let mut arguments = Arguments { input: &input, plan: &aggregate.input, exprs: vec![], fields: vec![] };
        let mut group = Vec::with_capacity(aggregate.group_expr.len());
        for e in &aggregate.group_expr {
            group.push(arguments.column(e)?);
        }
        let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
        let mut names: Vec<String> = group.iter().map(|&c| arguments.fields[c].name().clone()).collect();
        let types = aggregate.schema.fields();
        for (i, e) in aggregate.aggr_expr.iter().enumerate() {
            let call = call_of(e)?;
            let returns = types[group.len() + i].data_type().clone();
            names.push(expr::label(e));
            calls.push(arguments.call(call, returns)?);
        }
        let (exprs, fields) = (arguments.exprs, arguments.fields);
        let projected = self.project(&input, exprs, Arc::new(Schema::new(fields)));
        let fields: Vec<Field> = names.iter().zip(types).map(|(n, f)| field(n, f.data_type().clone())).collect();
        let schema = Arc::new(Schema::new(fields));
        if calls.is_empty() && !group.is_empty() {
            let distinct = group.iter().copied().eq(0..projected.width());
            let projected = if distinct { projected } else { self.pick(&projected, &group, None) };
            let append_only = projected.append_only;
            return Ok(self.add(Distinct { schema: projected.schema }, &[projected.index], append_only));
        }
        if let Some(phases) = self.in_phases(&projected, &group, &calls, &schema) {
            return Ok(phases);
        }
        let append_only = projected.append_only;
        Ok(self.add(Aggregate { group, calls, append_only, partials: None, schema }, &[projected.index], false))
    }
}

/// The columns that the aggregate reads, each once.
struct Arguments<'a> {
    input: &'a Node,
    plan: &'a LogicalPlan,
    exprs: Vec<Expr>,
    fields: Vec<Field>,
}

impl Arguments<'_> {
    fn column(&mut self, e: &DfExpr) -> Result<usize> {
        let lowered = expr::lower(e, self.plan.schema())?;
        if let Some(known) = self.exprs.iter().position(|known| *known == lowered) {
            return Ok(known);
        }
        let data_type = datafusion::logical_expr::ExprSchemable::get_type(e, self.plan.schema())?;
        self.fields.push(field(&expr::name(&lowered, e, self.input), data_type));
        self.exprs.push(lowered);
        Ok(self.exprs.len() - 1)
    }

    fn call(&mut self, call: &AggregateFunction, returns: arrow_schema::DataType) -> Result<AggregateCall> {
        let name = call.func.name();
        // A function of DataFusion's own is known by its name.
        let native = aggregate::native(&call.func).or_else(|| aggregate::kind(name).map(|kind| (kind, &[][..])));
        let (kind, order) = native.ok_or_else(|| unsupported(&format!("the aggregate {name}")))?;
        if !call.params.order_by.is_empty() {
            return Err(unsupported(&format!("ORDER BY inside {name}")));
        }
        // count(1) counts rows, as count(*) does. Different ones are counted by their values.
        let counts_rows = kind == AggregateKind::Count && !call.params.distinct;
        let rows = |e: &&DfExpr| !(counts_rows && matches!(e, DfExpr::Literal(value, _) if !value.is_null()));
        let args: Vec<&DfExpr> = call.params.args.iter().filter(rows).collect();
        let args = args.into_iter().map(|e| self.column(e)).collect::<Result<Vec<_>>>()?;
        let filter = call.params.filter.as_deref().map(|e| self.column(e)).transpose()?;
        let distinct = call.params.distinct && !kind.is_idempotent();
        Ok(AggregateCall { kind, args, order: order.to_vec(), filter, distinct, returns })
    }
}

fn call_of(e: &DfExpr) -> Result<&AggregateFunction> {
    match e {
        DfExpr::Alias(alias) => call_of(&alias.expr),
        DfExpr::AggregateFunction(call) => Ok(call),
        e => Err(unsupported(&format!("the aggregate {e}"))),
    }
}
