//! Window functions: computed below the select list, each its own column.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, SortExpr};
use sqlparser::ast;
use storage::SqlType;
use storage::keys::SortOption;
use streaming::windows::{Bound, Exclude, Frame, Units, WindowCall, WindowKind};

use super::literal::literal;
use super::names::{Call, Clause, fold, position, start_of};
use super::{Binder, Typed, at};
use crate::error::{Error, Result};
use crate::expr::column;
use crate::functions::aggregate;
use crate::functions::window::{is_window, native_call};
use crate::parser::stream_windows::{SESSION_WITH_GAP, argument_of, exclusion};
use crate::types::{self, CastContext};

/// A window definition with its expressions bound.
struct Definition {
    partition_by: Vec<Expr>,
    order_by: Vec<(Typed, SortOption)>,
}

impl Binder<'_> {
    pub(super) fn window_call(&mut self, call: &ast::Function, name: &str, place: Option<usize>) -> Result<Typed> {
        if let Some(message) = self.scope().clause.no_windows() {
            return Err(at(Error::new("42P20", message), place));
        }
        let spec = match call.over.as_ref().expect("the caller has seen it") {
            ast::WindowType::WindowSpec(spec) => self.inherited(spec)?,
            ast::WindowType::NamedWindow(ident) => self.named_window(ident)?,
        };
        let mut definition = self.within(Clause::WindowDefinition, |b| b.definition(&spec))?;
        let (kind, args, returns, filter) = match is_window(name) {
            true => {
                let (kind, args, returns) = self.window_function(call, name, place)?;
                (kind, args, returns, None)
            }
            false => self.window_aggregate(call, name, place)?,
        };
        let mut exprs = args;
        let args = (0..exprs.len()).collect();
        let filter = filter.map(|e| {
            exprs.push(e);
            exprs.len() - 1
        });
        let frame = self.frame(&spec, &mut definition, &mut exprs, place)?;
        let order: Vec<(Expr, SortOption)> = definition
            .order_by
            .into_iter()
            .map(|(value, option)| (Self::order_of(&value.ty, value.expr), option))
            .collect();
        let call = WindowCall { kind, args, filter, frame, returns: returns.arrow() };
        let expr = native_call(call, exprs, definition.partition_by, order);
        let internal = match self.scope().windows.iter().find(|w| w.expr == expr) {
            Some(known) => known.internal.clone(),
            None => {
                let internal = self.fresh();
                self.scope().windows.push(Call { expr, internal: internal.clone() });
                internal
            }
        };
        Ok(Typed::new(column(internal), returns).at(place))
    }

    fn definition(&mut self, spec: &ast::WindowSpec) -> Result<Definition> {
        let mut definition = Definition { partition_by: vec![], order_by: vec![] };
        for e in spec.partition_by.iter().filter(|e| exclusion(e).is_none()) {
            let value = self.expr(e)?;
            let value = self.settle(value)?;
            definition.partition_by.push(Self::key_of(&value.ty, value.expr));
        }
        for by in &spec.order_by {
            let value = self.expr(&by.expr)?;
            let value = self.settle(value)?;
            let descending = by.options.asc == Some(false);
            let nulls_first = by.options.nulls_first.unwrap_or(descending);
            definition.order_by.push((value, SortOption { descending, nulls_first }));
        }
        Ok(definition)
    }

    /// An aggregate over a frame.
    fn window_aggregate(
        &mut self,
        call: &ast::Function,
        name: &str,
        place: Option<usize>,
    ) -> Result<(WindowKind, Vec<Expr>, SqlType, Option<Expr>)> {
        let unsupported = |message: String| Err(at(Error::unsupported(message), place));
        let Some(kind) = aggregate::kind(name) else {
            let refuse = |what: &str| {
                at(Error::new("42809", format!("{what} specified, but {name} is not an aggregate function")), place)
            };
            let args = self.within(Clause::WindowArgument, |b| b.call_arguments(call, &refuse))?;
            let types: Vec<SqlType> = args.iter().map(|a| a.ty.clone()).collect();
            crate::functions::resolve(name, &types).map_err(|e| at(e, place))?;
            let message = format!("OVER specified, but {name} is not a window function nor an aggregate function");
            return Err(at(Error::new("42809", message), place));
        };
        if aggregate::is_ordered_set(kind) {
            return unsupported(format!("OVER is not supported for ordered-set aggregate {name}"));
        }
        let (expr, ty) = self.aggregate_expr(call, name, place)?;
        let Expr::AggregateFunction(function) = expr else {
            return Err(Error::new("XX000", "an aggregate is expected"));
        };
        if function.params.distinct {
            return unsupported("DISTINCT is not implemented for window functions".into());
        }
        if aggregate::native(&function.func).is_some_and(|(_, order)| !order.is_empty()) {
            return unsupported("aggregate ORDER BY is not implemented for window functions".into());
        }
        let params = function.params;
        Ok((WindowKind::Aggregate(kind), params.args, ty, params.filter.map(|f| *f)))
    }

    /// A function that is a window function only, with its arguments.
    fn window_function(
        &mut self,
        call: &ast::Function,
        name: &str,
        place: Option<usize>,
    ) -> Result<(WindowKind, Vec<Expr>, SqlType)> {
        if call.filter.is_some() {
            let message = "FILTER is not implemented for non-aggregate window functions";
            return Err(at(Error::unsupported(message), place));
        }
        let refuse = |what: &str| {
            at(Error::new("42809", format!("{what} specified, but {name} is not an aggregate function")), place)
        };
        let args = self.within(Clause::WindowArgument, |b| b.call_arguments(call, &refuse))?;
        let shown: Vec<String> = args.iter().map(|a| types::name(&a.ty)).collect();
        let missing =
            || at(Error::new("42883", format!("function {name}({}) does not exist", shown.join(", "))), place);
        let ignore_nulls = call.null_treatment == Some(ast::NullTreatment::IgnoreNulls);
        if ignore_nulls && !matches!(name, "first_value" | "last_value" | "nth_value" | "lag" | "lead") {
            let error = Error::unsupported(format!("IGNORE NULLS of {name} is not supported"));
            return Err(at(error, place).with_hint("first_value, last_value, nth_value, lag and lead take it."));
        }
        let mut settled = vec![];
        for arg in args {
            settled.push(self.settle(arg)?);
        }
        let integer = |ty: &SqlType| {
            *ty == SqlType::Unknown
                || types::cast_context(ty, &SqlType::Int).is_some_and(|context| context == CastContext::Implicit)
        };
        let known = |ty: &SqlType| Self::known(ty.clone());
        let ranking = |kind, returns| match settled.is_empty() {
            true => Ok((kind, vec![], returns)),
            false => Err(missing()),
        };
        match (name, settled.as_slice()) {
            ("row_number", _) => ranking(WindowKind::RowNumber, SqlType::BigInt),
            ("rank", _) => ranking(WindowKind::Rank, SqlType::BigInt),
            ("dense_rank", _) => ranking(WindowKind::DenseRank, SqlType::BigInt),
            ("percent_rank", _) => ranking(WindowKind::PercentRank, SqlType::Double),
            ("cume_dist", _) => ranking(WindowKind::CumeDist, SqlType::Double),
            ("ntile", [n]) if integer(&n.ty) => {
                let n = self.coerce(n.clone(), &SqlType::BigInt, -1, CastContext::Implicit)?;
                Ok((WindowKind::Ntile, vec![n], SqlType::Int))
            }
            ("first_value" | "last_value", [value]) => {
                let ty = known(&value.ty);
                let value = self.implicit(value.clone(), &ty)?;
                let kind = match name {
                    "first_value" => WindowKind::FirstValue { ignore_nulls },
                    _ => WindowKind::LastValue { ignore_nulls },
                };
                Ok((kind, vec![value], ty))
            }
            ("nth_value", [value, n]) if integer(&n.ty) => {
                let ty = known(&value.ty);
                let value = self.implicit(value.clone(), &ty)?;
                let n = self.coerce(n.clone(), &SqlType::BigInt, -1, CastContext::Implicit)?;
                Ok((WindowKind::NthValue { ignore_nulls }, vec![value, n], ty))
            }
            ("lag" | "lead", [value, more @ ..])
                if more.len() <= 2 && more.first().is_none_or(|offset| integer(&offset.ty)) =>
            {
                let default = more.get(1).cloned();
                let ty = match &default {
                    Some(default) => self.unify(&[value.clone(), default.clone()], name).map_err(|_| missing())?.0,
                    None => known(&value.ty),
                };
                let mut exprs = vec![self.implicit(value.clone(), &ty)?];
                let mut reach = Some(1);
                if let Some(offset) = more.first() {
                    let offset = self.coerce(offset.clone(), &SqlType::BigInt, -1, CastContext::Implicit)?;
                    reach = match crate::expr::constant(&offset) {
                        Some(ScalarValue::Int64(Some(n))) => Some(n.unsigned_abs()),
                        _ => None,
                    };
                    exprs.push(offset);
                }
                if let Some(default) = default {
                    exprs.push(self.implicit(default, &ty)?);
                }
                let kind = match name {
                    "lag" => WindowKind::Lag { reach, ignore_nulls },
                    _ => WindowKind::Lead { reach, ignore_nulls },
                };
                Ok((kind, exprs, ty))
            }
            _ => Err(missing()),
        }
    }

    /// The frame; the values that bound a range are added to `exprs`.
    fn frame(
        &mut self,
        spec: &ast::WindowSpec,
        definition: &mut Definition,
        exprs: &mut Vec<Expr>,
        place: Option<usize>,
    ) -> Result<Frame> {
        let Some(frame) = &spec.window_frame else { return Ok(Frame::default()) };
        let exclude = spec.partition_by.iter().find_map(exclusion).unwrap_or_default();
        if let Some(gap) = session_gap(frame) {
            return self.session_frame(gap, definition, exprs, exclude, place);
        }
        let units = match frame.units {
            ast::WindowFrameUnits::Rows => Units::Rows,
            ast::WindowFrameUnits::Range => Units::Range,
            ast::WindowFrameUnits::Groups => Units::Groups,
        };
        let wrong = |message: &str| Err(at(Error::new("42P20", message), place));
        use ast::WindowFrameBound::{CurrentRow, Following, Preceding};
        let end = frame.end_bound.clone().unwrap_or(CurrentRow);
        match (&frame.start_bound, &end) {
            (Following(None), _) => return wrong("frame start cannot be UNBOUNDED FOLLOWING"),
            (_, Preceding(None)) => return wrong("frame end cannot be UNBOUNDED PRECEDING"),
            (CurrentRow, Preceding(_)) => return wrong("frame starting from current row cannot have preceding rows"),
            (Following(_), Preceding(_) | CurrentRow) => {
                return wrong("frame starting from following row cannot have preceding rows");
            }
            _ => {}
        }
        if units == Units::Groups && definition.order_by.is_empty() {
            return wrong("GROUPS mode requires an ORDER BY clause");
        }
        let has_offset = |bound: &ast::WindowFrameBound| matches!(bound, Preceding(Some(_)) | Following(Some(_)));
        if units == Units::Range
            && (has_offset(&frame.start_bound) || has_offset(&end))
            && definition.order_by.len() != 1
        {
            return wrong("RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column");
        }
        let mut bounds = [Bound::Unbounded; 2];
        let mut values: [Option<Typed>; 2] = [None, None];
        for (i, bound) in [&frame.start_bound, &end].into_iter().enumerate() {
            let (e, preceding) = match bound {
                CurrentRow => {
                    bounds[i] = Bound::Current;
                    continue;
                }
                Preceding(None) | Following(None) => continue,
                Preceding(Some(e)) => (e, true),
                Following(Some(e)) => (e, false),
            };
            if units == Units::Range {
                let (value, option) = &definition.order_by[0];
                values[i] = Some(self.range_bound(value.clone(), e, preceding != option.descending)?);
            } else {
                let n = self.frame_offset(e, if i == 0 { "starting" } else { "ending" })?;
                bounds[i] = if preceding { Bound::Preceding(n) } else { Bound::Following(n) };
            }
        }
        // Order and bounds are compared in one type.
        let wider = values.iter().flatten().map(|value| value.ty.clone()).find(|ty| *ty != definition.order_by[0].0.ty);
        if let Some(ty) = wider {
            let value = definition.order_by[0].0.clone();
            definition.order_by[0].0 = Typed::new(self.implicit(value, &ty)?, ty);
        }
        for (bound, value) in bounds.iter_mut().zip(values) {
            if let Some(value) = value {
                let ty = definition.order_by[0].0.ty.clone();
                exprs.push(Self::key_of(&ty, self.implicit(value, &ty)?));
                *bound = Bound::Value(exprs.len() - 1);
            }
        }
        Ok(Frame { units, start: bounds[0], end: bounds[1], exclude })
    }

    /// `SESSION WITH GAP gap`: the rows around a row that follow each other within the gap.
    fn session_frame(
        &mut self,
        gap: &ast::Expr,
        definition: &mut Definition,
        exprs: &mut Vec<Expr>,
        exclude: Exclude,
        place: Option<usize>,
    ) -> Result<Frame> {
        let [(value, option)] = definition.order_by.as_slice() else {
            return Err(at(Error::new("42P20", "SESSION WITH GAP requires exactly one ORDER BY column"), place));
        };
        let (order, descending) = (value.clone(), option.descending);
        let end = self.range_bound(order.clone(), gap, descending)?;
        let ty = end.ty.clone();
        if ty != order.ty {
            definition.order_by[0].0 = Typed::new(self.implicit(order, &ty)?, ty.clone());
        }
        exprs.push(Self::key_of(&ty, end.expr));
        let bound = Bound::Value(exprs.len() - 1);
        Ok(Frame { units: Units::Session, start: bound, end: bound, exclude })
    }

    /// The order column's value at `offset` before it (`minus`) or behind it.
    fn range_bound(&mut self, value: Typed, offset: &ast::Expr, minus: bool) -> Result<Typed> {
        let place = start_of(offset);
        let offset = self.constant_offset(offset)?;
        let zero = match &offset.ty {
            SqlType::Interval => None,
            _ => Some(Typed::new(literal(ScalarValue::Int32(Some(0))), SqlType::Int)),
        };
        if let Some(zero) = zero.filter(|_| offset.ty != SqlType::Unknown) {
            let negative = self.compare(datafusion::logical_expr::Operator::Lt, offset.clone(), zero, place)?;
            if matches!(crate::expr::constant(&negative), Some(ScalarValue::Boolean(Some(true)))) {
                let message = "invalid preceding or following size in window function";
                return Err(at(Error::new("22013", message), place));
            }
        }
        use SqlType::*;
        let (column, given) = (types::name(&value.ty), types::name(&offset.ty));
        let mut message = format!("RANGE with offset PRECEDING/FOLLOWING is not supported for column type {column}");
        let offset = match value.ty {
            SmallInt | Int | BigInt | Real | Double | Numeric if offset.ty != Interval => offset,
            Date | Time | Timestamp | TimestampTz | Interval if matches!(offset.ty, Interval | Unknown) => {
                Typed::new(self.implicit(offset, &Interval)?, Interval).at(place)
            }
            SmallInt | Int | BigInt | Real | Double | Numeric | Date | Time | Timestamp | TimestampTz | Interval => {
                message += &format!(" and offset type {given}");
                let error = Error::unsupported(message);
                return Err(at(error, place).with_hint("Cast the offset value to an appropriate type."));
            }
            _ => return Err(at(Error::unsupported(message), place)),
        };
        self.operator(if minus { "-" } else { "+" }, vec![value, offset], place)
    }

    fn constant_offset(&mut self, e: &ast::Expr) -> Result<Typed> {
        let place = start_of(e);
        let offset = self.within(Clause::WindowDefinition, |b| b.expr(e))?;
        if offset.expr.any_column_refs() {
            return Err(at(Error::new("42P10", "argument of ROWS, RANGE or GROUPS must not contain variables"), place));
        }
        Ok(offset)
    }

    /// A number of rows or groups.
    fn frame_offset(&mut self, e: &ast::Expr, which: &str) -> Result<u64> {
        let place = start_of(e);
        let offset = self.constant_offset(e)?;
        let expr = self.coerce(offset, &SqlType::BigInt, -1, CastContext::Implicit)?;
        match crate::expr::constant(&expr) {
            Some(ScalarValue::Int64(Some(n))) => {
                u64::try_from(n).map_err(|_| Error::new("22013", format!("frame {which} offset must not be negative")))
            }
            Some(_) => Err(Error::new("22004", format!("frame {which} offset must not be null"))),
            None => Err(at(Error::unsupported("frame offsets must be constants"), place)),
        }
    }

    fn named_window(&mut self, ident: &ast::Ident) -> Result<ast::WindowSpec> {
        let name = fold(ident);
        self.scope().used_windows.insert(name.clone());
        let found = self.scope().named_windows.iter().find(|w| fold(&w.0) == name).cloned();
        match found.map(|w| w.1) {
            Some(ast::NamedWindowExpr::WindowSpec(spec)) => self.inherited(&spec),
            Some(ast::NamedWindowExpr::NamedWindow(other)) if fold(&other) != name => self.named_window(&other),
            _ => {
                let message = format!("window \"{name}\" does not exist");
                Err(at(Error::new("42704", message), position(ident)))
            }
        }
    }

    /// What the windows of WINDOW are made of that nothing uses. They count all the same: by an aggregate in one, all rows are a group.
    pub(super) fn unused_windows(&mut self) -> Result<Vec<Expr>> {
        let mut parts = vec![];
        for ident in self.scope().named_windows.iter().map(|window| window.0.clone()).collect::<Vec<_>>() {
            if self.scope().used_windows.contains(&fold(&ident)) {
                continue;
            }
            let spec = self.named_window(&ident)?;
            let definition = self.within(Clause::WindowDefinition, |b| b.definition(&spec))?;
            parts.extend(definition.partition_by);
            parts.extend(definition.order_by.into_iter().map(|(value, _)| value.expr));
        }
        Ok(parts)
    }

    /// A definition with what it takes from the window that it names.
    fn inherited(&mut self, spec: &ast::WindowSpec) -> Result<ast::WindowSpec> {
        let Some(base) = &spec.window_name else { return Ok(spec.clone()) };
        let (name, place) = (fold(base), position(base));
        let from = self.named_window(base).map_err(|error| Error {
            position: place.map(|place| self.parenthesis_before(place)).or(error.position),
            ..error
        })?;
        let refuse = |what: String| Err(at(Error::new("42P20", what), place));
        if spec.partition_by.iter().any(|e| exclusion(e).is_none()) {
            return refuse(format!("cannot override PARTITION BY clause of window \"{name}\""));
        }
        if !spec.order_by.is_empty() && !from.order_by.is_empty() {
            return refuse(format!("cannot override ORDER BY clause of window \"{name}\""));
        }
        if from.window_frame.is_some() {
            return refuse(format!("cannot copy window \"{name}\" because it has a frame clause"));
        }
        let mut spec = spec.clone();
        spec.window_name = None;
        spec.partition_by.extend(from.partition_by);
        if spec.order_by.is_empty() {
            spec.order_by = from.order_by;
        }
        Ok(spec)
    }

    /// Puts the window functions of the innermost scope over the plan: those of one partition and order together.
    pub(super) fn windows(&mut self, mut plan: LogicalPlan) -> Result<LogicalPlan> {
        let mut calls = std::mem::take(&mut self.scope().windows);
        fn window(e: &Expr) -> Option<(&Vec<Expr>, &Vec<SortExpr>)> {
            match e {
                Expr::WindowFunction(f) => Some((&f.params.partition_by, &f.params.order_by)),
                _ => None,
            }
        }
        while !calls.is_empty() {
            let first = calls[0].expr.clone();
            let (same, rest) = calls.into_iter().partition(|call| window(&call.expr) == window(&first));
            calls = rest;
            let exprs: Vec<Expr> = same.into_iter().map(|call: Call| call.expr.alias(call.internal)).collect();
            plan = LogicalPlanBuilder::from(plan).window(exprs)?.build()?;
        }
        Ok(plan)
    }
}

/// The gap of a frame that is a session.
fn session_gap(frame: &ast::WindowFrame) -> Option<&ast::Expr> {
    match &frame.start_bound {
        ast::WindowFrameBound::Preceding(Some(bound)) => argument_of(bound, SESSION_WITH_GAP),
        _ => None,
    }
}
