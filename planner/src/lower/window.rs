//! OVER: window functions of one partition and order.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr as DfExpr, Window as DfWindow, WindowFunctionDefinition};
use streaming::operators::Window;
use streaming::windows::{Bound, WindowCall};

use super::{Lowering, Node, expr, field, unsupported};
use crate::error::Result;
use crate::functions::window;

impl Lowering {
    pub(super) fn window(&mut self, plan: &DfWindow) -> Result<Node> {
        let functions = plan.window_expr.iter().map(function_of).collect::<Result<Vec<_>>>()?;
        let Some(first) = functions.first() else { return Err(unsupported("this form of OVER")) };
        let (partition_by, order_by) = (&first.params.partition_by, &first.params.order_by);
        let n = plan.input.schema().fields().len();
        let (node, partition, order) = self.ordered(&plan.input, partition_by, order_by)?;
        let mut exprs: Vec<_> = (0..node.width()).map(streaming::expr::Expr::Column).collect();
        let mut fields: Vec<Field> = node.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut calls = Vec::with_capacity(functions.len());
        let mut names = Vec::with_capacity(functions.len());
        for function in &functions {
            if function.params.partition_by != *partition_by || function.params.order_by != *order_by {
                return Err(unsupported("several windows in one plan node"));
            }
            let name = function.fun.name();
            let native = match &function.fun {
                WindowFunctionDefinition::WindowUDF(udf) => window::native(udf),
                WindowFunctionDefinition::AggregateUDF(_) => None,
            };
            let native = native.ok_or_else(|| unsupported(&format!("the window function {name}")))?;
            // The columns that it reads; what the partition is ordered by is among the operator's own.
            let n_args = function.params.args.len() - native.order.len();
            let mut columns = Vec::with_capacity(n_args);
            for e in &function.params.args[..n_args] {
                let lowered = expr::lower(e, plan.input.schema())?;
                columns.push(match exprs.iter().position(|known| *known == lowered) {
                    Some(known) => known,
                    None => {
                        let data_type = datafusion::logical_expr::ExprSchemable::get_type(e, plan.input.schema())?;
                        fields.push(field(&expr::label(e), data_type));
                        exprs.push(lowered);
                        exprs.len() - 1
                    }
                });
            }
            calls.push(placed(&native.call, &columns));
            names.push(name.to_string());
        }
        let input = self.project(&node, exprs, Arc::new(Schema::new(fields)));
        let mut fields = input.schema.fields().to_vec();
        fields.extend(calls.iter().zip(&names).map(|(call, name)| Arc::new(field(name, call.returns.clone()))));
        let n_calls = calls.len();
        let operator = Window { partition, order, calls, schema: Arc::new(Schema::new(fields)) };
        let width = input.width();
        let said = self.add(operator, &[input.index], false);
        // The input's own columns, then the values.
        let columns: Vec<usize> = (0..n).chain(width..width + n_calls).collect();
        Ok(if columns.len() == said.width() { said } else { self.pick(&said, &columns, None) })
    }
}

/// A call whose positions are columns.
fn placed(call: &WindowCall, columns: &[usize]) -> WindowCall {
    let mut call = call.clone();
    call.args.iter_mut().chain(&mut call.filter).for_each(|place| *place = columns[*place]);
    for bound in [&mut call.frame.start, &mut call.frame.end] {
        if let Bound::Value(place) = bound {
            *place = columns[*place];
        }
    }
    call
}

fn function_of(e: &DfExpr) -> Result<&WindowFunction> {
    match e {
        DfExpr::Alias(alias) => function_of(&alias.expr),
        DfExpr::WindowFunction(function) => Ok(function),
        e => Err(unsupported(&format!("the window function {e}"))),
    }
}
