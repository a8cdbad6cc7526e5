//! Window functions: computed below the select list, each its own column.

use datafusion::functions_window::{
    rank::{dense_rank_udwf, rank_udwf},
    row_number::row_number_udwf,
};
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, SortExpr, WindowFrame, WindowFunctionDefinition,
};
use sqlparser::ast;
use storage::SqlType;

use super::names::{Call, Clause, fold};
use super::{Binder, Typed, at};
use crate::batch::column;
use crate::error::{Error, Result};

impl Binder<'_> {
    pub(super) fn window_call(&mut self, call: &ast::Function, name: &str, place: Option<usize>) -> Result<Typed> {
        if let Some(message) = self.scope().clause.no_windows() {
            return Err(at(Error::new("42P20", message), place));
        }
        let spec = match call.over.as_ref().expect("the caller has seen it") {
            ast::WindowType::WindowSpec(spec) => spec.clone(),
            ast::WindowType::NamedWindow(ident) => self.named_window(ident)?,
        };
        if let Some(base) = &spec.window_name {
            let _ = self.named_window(base)?;
            return Err(at(Error::unsupported("windows that extend named windows are not supported"), place));
        }
        let mut partition_by = vec![];
        let mut order_by = vec![];
        self.within(Clause::WindowDefinition, |b| {
            for e in &spec.partition_by {
                let value = b.expr(e)?;
                let value = b.settle(value)?;
                partition_by.push(Self::key_of(&value.ty, value.expr));
            }
            for by in &spec.order_by {
                let value = b.expr(&by.expr)?;
                let value = b.settle(value)?;
                let asc = by.options.asc.unwrap_or(true);
                let key = Self::key_of(&value.ty, value.expr);
                order_by.push(SortExpr::new(key, asc, by.options.nulls_first.unwrap_or(!asc)));
            }
            Ok(())
        })?;
        let ranking = match name {
            "row_number" => Some(row_number_udwf()),
            "rank" => Some(rank_udwf()),
            "dense_rank" => Some(dense_rank_udwf()),
            _ => None,
        };
        let frame = WindowFrame::new((!order_by.is_empty()).then_some(false));
        let (fun, args, ty, filter) = match ranking {
            Some(ranking) => {
                let args = self.call_arguments(call, &|what| {
                    at(Error::new("42809", format!("{what} specified, but {name} is not an aggregate function")), place)
                })?;
                if !args.is_empty() {
                    let types: Vec<String> = args.iter().map(|a| crate::types::name(&a.ty)).collect();
                    let message = format!("function {name}({}) does not exist", types.join(", "));
                    return Err(at(Error::new("42883", message), place));
                }
                (WindowFunctionDefinition::WindowUDF(ranking), vec![], SqlType::BigInt, None)
            }
            None if crate::functions::aggregate::is_aggregate(name) => {
                if spec.window_frame.is_some() {
                    return Err(at(Error::unsupported("window frames are not supported yet"), place));
                }
                let (expr, ty) = self.aggregate_expr(call, name, place)?;
                let Expr::AggregateFunction(aggregate) = expr else {
                    return Err(Error::new("XX000", "an aggregate is expected"));
                };
                if aggregate.params.distinct {
                    return Err(at(Error::unsupported("DISTINCT is not implemented for window functions"), place));
                }
                let params = aggregate.params;
                (WindowFunctionDefinition::AggregateUDF(aggregate.func), params.args, ty, params.filter)
            }
            None => {
                let error = Error::unsupported(format!("the window function {name} is not supported yet"));
                return Err(at(error, place).with_hint("row_number(), rank(), dense_rank() and aggregates are."));
            }
        };
        let function = WindowFunction {
            fun,
            params: WindowFunctionParams {
                args,
                partition_by,
                order_by,
                window_frame: frame,
                filter,
                null_treatment: None,
                distinct: false,
            },
        };
        let expr = Expr::WindowFunction(Box::new(function));
        let internal = match self.scope().windows.iter().find(|w| w.expr == expr) {
            Some(known) => known.internal.clone(),
            None => {
                let internal = self.fresh();
                self.scope().windows.push(Call { expr, internal: internal.clone() });
                internal
            }
        };
        // Rankings count in unsigned numbers.
        let value = match ranking_names(name) {
            true => datafusion::logical_expr::cast(column(internal), SqlType::BigInt.arrow()),
            false => column(internal),
        };
        Ok(Typed::new(value, ty).at(place))
    }

    fn named_window(&mut self, ident: &ast::Ident) -> Result<ast::WindowSpec> {
        let name = fold(ident);
        let found = self.scope().named_windows.iter().find(|w| fold(&w.0) == name).cloned();
        match found.map(|w| w.1) {
            Some(ast::NamedWindowExpr::WindowSpec(spec)) => Ok(spec),
            Some(ast::NamedWindowExpr::NamedWindow(other)) if fold(&other) != name => self.named_window(&other),
            _ => {
                let message = format!("window \"{name}\" does not exist");
                Err(at(Error::new("42704", message), super::names::position(ident)))
            }
        }
    }

    /// Puts the window functions of the innermost scope over the plan.
    pub(super) fn windows(&mut self, mut plan: LogicalPlan) -> Result<LogicalPlan> {
        let calls = std::mem::take(&mut self.scope().windows);
        // Each over the last: those with the same partition and order are sorted once anyway.
        for call in calls {
            plan = LogicalPlanBuilder::from(plan).window(vec![call.expr.alias(call.internal)])?.build()?;
        }
        Ok(plan)
    }
}

fn ranking_names(name: &str) -> bool {
    matches!(name, "row_number" | "rank" | "dense_rank")
}
