//! GROUP BY and aggregates.
//!
//! Values that are equal need not be the same bytes (`1.0` and `1.00`). Such groups are formed by a key, and the value
//! shown for the group is one of its own:
//!
//! ```text
//! GROUP BY x   =>   Projection max(x) AS x
//!                     Aggregate groupBy [numeric_key(x)] aggr [max(x), ...]
//! ```

use std::collections::{BTreeSet, HashSet};

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use sqlparser::ast;
use storage::SqlType;
use storage::keys::SortOption;
use streaming::aggregates::AggregateKind;

use super::from::with_columns;
use super::grouping::{Grouping, cube, rollup};
use super::literal::literal;
use super::names::{Call, Clause, fold, refers_to, start_of};
use super::select::{Item, ordinal};
use super::{Binder, Typed, at};
use crate::error::{Error, Result};
use crate::expr::{column, subquery_of};
use crate::functions::{aggregate, array_order};
use crate::parser::GROUP_BY_DISTINCT;
use crate::types::CastContext;

/// `ROLLUP (...)` or `CUBE (...)` within GROUPING SETS, which is read as a call of a function; with its items.
fn nested(set: &[ast::Expr]) -> Option<(&'static str, Vec<Vec<ast::Expr>>)> {
    let [ast::Expr::Function(call)] = set else { return None };
    let [name] = call.name.0.as_slice() else { return None };
    let name = name.as_ident().filter(|ident| ident.quote_style.is_none())?;
    let kind = ["rollup", "cube"].into_iter().find(|kind| name.value.eq_ignore_ascii_case(kind))?;
    let ast::FunctionArguments::List(list) = &call.args else { return None };
    let items = list.args.iter().map(|arg| match arg {
        ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => Some(match e {
            ast::Expr::Tuple(items) => items.clone(),
            e => vec![e.clone()],
        }),
        _ => None,
    });
    Some((kind, items.collect::<Option<_>>()?))
}

impl Binder<'_> {
    /// What is grouped by; `None` without GROUP BY.
    pub(super) fn group_by(
        &mut self,
        group_by: &ast::GroupByExpr,
        projection: &[ast::SelectItem],
        items: &[Item],
    ) -> Result<Option<Grouping>> {
        let exprs = match group_by {
            ast::GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => exprs,
            _ => return Err(Error::unsupported("this form of GROUP BY is not supported")),
        };
        let (distinct, exprs) = match exprs.split_first() {
            Some((ast::Expr::Identifier(word), rest)) if word.value == GROUP_BY_DISTINCT => (true, rest),
            _ => (false, exprs.as_slice()),
        };
        if exprs.is_empty() {
            return Ok(None);
        }
        let mut grouping = Grouping::none();
        for e in exprs {
            let place = start_of(e);
            let mut tuples = |b: &mut Self, tuples: &[Vec<ast::Expr>]| -> Result<Vec<Vec<usize>>> {
                let mut sets = vec![];
                for tuple in tuples {
                    let mut set = vec![];
                    for e in tuple {
                        let typed = b.group_item(e, projection, items, start_of(e))?;
                        set.extend(typed.into_iter().map(|t| grouping.position(t)));
                    }
                    sets.push(set);
                }
                Ok(sets)
            };
            let alternatives = match e {
                ast::Expr::GroupingSets(sets) => {
                    let mut all = vec![];
                    for set in sets {
                        all.extend(match nested(set) {
                            Some(("rollup", items)) => rollup(&tuples(self, &items)?),
                            Some((_, items)) => cube(&tuples(self, &items)?, place)?,
                            None => tuples(self, std::slice::from_ref(set))?,
                        });
                    }
                    all
                }
                ast::Expr::Rollup(items) => rollup(&tuples(self, items)?),
                ast::Expr::Cube(items) => cube(&tuples(self, items)?, place)?,
                e => tuples(self, &[vec![e.clone()]])?,
            };
            grouping.cross(&alternatives, place)?;
        }
        if distinct {
            let mut seen = BTreeSet::new();
            grouping.sets.retain(|set| seen.insert(BTreeSet::from_iter(set.iter().copied())));
        }
        Ok(Some(grouping))
    }

    fn group_item(
        &mut self,
        e: &ast::Expr,
        projection: &[ast::SelectItem],
        items: &[Item],
        place: Option<usize>,
    ) -> Result<Vec<Typed>> {
        let internals: Vec<String> = self.scope().aggregates.iter().map(|a| a.internal.clone()).collect();
        let item = |index: usize| -> Result<Vec<Typed>> {
            let value = items[index].value.clone();
            if value.expr.column_refs().iter().any(|c| internals.contains(&c.name)) {
                let error = Error::new("42803", "aggregate functions are not allowed in GROUP BY");
                return Err(at(error, value.position));
            }
            Ok(vec![value])
        };
        if let Some(number) = ordinal(e) {
            return match number.checked_sub(1).filter(|i| *i < items.len()) {
                Some(index) => item(index),
                None => {
                    let message = format!("GROUP BY position {number} is not in select list");
                    Err(at(Error::new("42P10", message), place))
                }
            };
        }
        match e {
            ast::Expr::GroupingSets(_) | ast::Expr::Cube(_) | ast::Expr::Rollup(_) => {
                Err(at(Error::unsupported("nested grouping sets are not supported"), place)
                    .with_hint("Write each set out: GROUPING SETS ((a, b), (a), ())."))
            }
            ast::Expr::Tuple(exprs) => {
                let mut all = vec![];
                for e in exprs {
                    all.extend(self.group_item(e, projection, items, start_of(e))?);
                }
                Ok(all)
            }
            ast::Expr::Value(v) if !matches!(v.value, ast::Value::Placeholder(_)) => {
                Err(at(Error::new("42601", "non-integer constant in GROUP BY"), place))
            }
            ast::Expr::Identifier(ident) => {
                // A column of the input comes before a name of the output.
                let name = fold(ident);
                let input = self.scope().columns.iter().any(|c| c.plain && c.field.name == name);
                let mut outputs = (0..items.len()).filter(|i| items[*i].name == name);
                match outputs.next() {
                    Some(index) if !input => item(index),
                    _ => self.within(Clause::GroupBy, |b| Ok(vec![b.expr(e)?])),
                }
            }
            e => self.within(Clause::GroupBy, |b| {
                let value = b.expr(e)?;
                Ok(vec![b.settle(value)?])
            }),
        }
    }

    /// A call of an aggregate: computed below, its value is a column here.
    pub(super) fn aggregate_call(&mut self, call: &ast::Function, name: &str, place: Option<usize>) -> Result<Typed> {
        let (expr, ty) = self.aggregate_expr(call, name, place)?;
        let level = self.level_of([&expr], "aggregate functions", place)?;
        Ok(Typed::new(self.aggregate_column(expr, &ty, level)?, ty).at(place))
    }

    /// The column of `count(*)`, or of `count(DISTINCT value)`, over the rows of a level for which `filter` holds.
    pub(super) fn counted(&mut self, filter: Option<Expr>, distinct: Option<Expr>, level: usize) -> Result<Expr> {
        let count = aggregate::resolve("count", &[SqlType::BigInt]).expect("count is there").implementation.clone();
        let one = literal(ScalarValue::Int64(Some(1)));
        let (args, distinct) = match distinct {
            Some(value) => (vec![value], true),
            None => (vec![one], false),
        };
        let call = AggregateFunction::new_udf(count, args, distinct, filter.map(Box::new), vec![], None);
        self.aggregate_column(Expr::AggregateFunction(call), &SqlType::BigInt, level)
    }

    /// The call itself, with arguments as the aggregate takes them.
    pub(super) fn aggregate_expr(
        &mut self,
        call: &ast::Function,
        name: &str,
        place: Option<usize>,
    ) -> Result<(Expr, SqlType)> {
        let kind = aggregate::kind(name)
            .ok_or_else(|| at(Error::new("42883", format!("function {name} does not exist")), place))?;
        let ordered_set = aggregate::is_ordered_set(kind);
        let none = ast::FunctionArgumentList { duplicate_treatment: None, args: vec![], clauses: vec![] };
        let list = match &call.args {
            ast::FunctionArguments::List(list) => list,
            _ => &none,
        };
        let is_star = matches!(
            list.args.as_slice(),
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Wildcard | ast::FunctionArgExpr::WildcardWithOptions(_))]
        );
        if is_star && name != "count" {
            return Err(at(Error::new("42809", format!("{name}(*) specified, but {name} is not count")), place));
        }
        if list.args.is_empty() && name == "count" {
            let message = "count(*) must be used to call a parameterless aggregate function";
            return Err(at(Error::new("42809", message), place));
        }
        let distinct = list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct);
        let args = match is_star {
            true => vec![],
            false => self
                .within(if call.over.is_some() { Clause::WindowArgument } else { Clause::AggregateArgument }, |b| {
                    list.args.iter().map(|a| b.argument(a)).collect::<Result<Vec<_>>>()
                })?,
        };
        let mut by: &[ast::OrderByExpr] = &call.within_group;
        for clause in &list.clauses {
            let ast::FunctionArgumentClause::OrderBy(inside) = clause else {
                return Err(at(Error::unsupported(format!("{clause} is not supported")), place));
            };
            if !call.within_group.is_empty() {
                return Err(at(Error::new("42601", "cannot use multiple ORDER BY clauses with WITHIN GROUP"), place));
            }
            by = inside;
        }
        let mut sorted = vec![];
        for by in by {
            let value = self.within(Clause::AggregateArgument, |b| b.expr(&by.expr))?;
            let value = self.settle(value)?;
            let descending = by.options.asc == Some(false);
            let nulls_first = by.options.nulls_first.unwrap_or(descending);
            sorted.push((value, SortOption { descending, nulls_first }));
        }
        let mut args = args;
        if ordered_set == call.within_group.is_empty() || ordered_set && sorted.len() != 1 {
            let types = args.iter().chain(sorted.iter().map(|(value, _)| value)).map(|a| crate::types::name(&a.ty));
            let types = types.collect::<Vec<_>>().join(", ");
            return Err(at(Error::new("42883", format!("function {name}({types}) does not exist")), place));
        }
        if ordered_set {
            if distinct {
                return Err(at(Error::new("42601", "cannot use DISTINCT with WITHIN GROUP"), place));
            }
            args = self.ordered_set_arguments(kind, args, &sorted[0].0, place)?;
        } else if distinct && sorted.iter().any(|(value, _)| args.iter().all(|a| a.expr != value.expr)) {
            let message = "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list";
            return Err(at(Error::new("42P10", message), sorted.first().and_then(|(value, _)| value.position)));
        }
        let (mut kind, mut name) = (kind, name);
        match kind {
            AggregateKind::Min | AggregateKind::Max
                if matches!(args.as_slice(), [Typed { ty: SqlType::Array(_), .. }]) =>
            {
                // Arrays are not stored in their order.
                let order = array_order(&args[0].ty);
                let order = order.ok_or_else(|| at(Error::unsupported(format!("{name} of this array")), place))?;
                args.push(Typed::new(order.call(vec![args[0].expr.clone()]), SqlType::Bytea));
                let by_order = [(AggregateKind::MinBy, "min_by"), (AggregateKind::MaxBy, "max_by")];
                (kind, name) = by_order[usize::from(kind == AggregateKind::Max)];
            }
            AggregateKind::JsonbAgg | AggregateKind::JsonbObjectAgg => {
                args = self.json_arguments(kind, args, place)?;
            }
            AggregateKind::MinBy | AggregateKind::MaxBy if args.len() == 2 => {
                args[1].expr = Self::order_of(&args[1].ty, args[1].expr.clone());
            }
            _ => {}
        }
        let types: Vec<SqlType> = args.iter().map(|a| a.ty.clone()).collect();
        let resolved = aggregate::resolve(name, &types).map_err(|e| at(e, place))?;
        let by_key = matches!(kind, AggregateKind::MinBy | AggregateKind::MaxBy);
        let mut exprs = vec![];
        for (i, (arg, ty)) in args.into_iter().zip(&resolved.casts).enumerate() {
            if by_key && i == 1 {
                exprs.push(arg.expr);
                continue;
            }
            let expr = self.implicit(arg, ty)?;
            // What is counted once is counted once by its value.
            exprs.push(if distinct && name == "count" { Self::key_of(ty, expr) } else { expr });
        }
        if exprs.is_empty() {
            exprs.push(literal(ScalarValue::Int64(Some(1))));
        }
        let filter = match &call.filter {
            Some(e) => Some(Box::new(self.within(Clause::AggregateFilter, |b| b.condition(e, "FILTER"))?)),
            None => None,
        };
        let mut function = resolved.implementation.clone();
        let sorts = aggregate::is_ordered(kind) || matches!(kind, AggregateKind::PercentileDisc | AggregateKind::Mode);
        if !sorted.is_empty() && (sorts || kind == AggregateKind::PercentileCont) {
            function = resolved.ordered(sorted.iter().map(|(_, option)| *option).collect());
            for (value, _) in sorted {
                let key = match kind {
                    // Sorted as the double that it is interpolated as.
                    AggregateKind::PercentileCont if value.ty != SqlType::Interval => exprs[0].clone(),
                    _ => Self::order_of(&value.ty, value.expr),
                };
                exprs.push(key);
            }
        }
        let call = AggregateFunction::new_udf(function, exprs, distinct, filter, vec![], None);
        Ok((Expr::AggregateFunction(call), resolved.returns))
    }

    /// `percentile_cont(0.5) WITHIN GROUP (ORDER BY x)`: the value that is sorted, then the direct arguments.
    fn ordered_set_arguments(
        &mut self,
        kind: AggregateKind,
        direct: Vec<Typed>,
        value: &Typed,
        place: Option<usize>,
    ) -> Result<Vec<Typed>> {
        let name = kind.name();
        if direct.iter().any(|arg| arg.expr.any_column_refs()) {
            let error = Error::unsupported(format!("the direct arguments of {name} must be constants"));
            return Err(at(error, place).with_hint("Compute one aggregate per fraction."));
        }
        let mut args = vec![value.clone()];
        args.extend(direct);
        for arg in args.iter_mut().skip(1).filter(|arg| arg.ty == SqlType::Unknown) {
            let expr = self.implicit(arg.clone(), &SqlType::Double)?;
            *arg = Typed::new(expr, SqlType::Double).at(arg.position);
        }
        if kind == AggregateKind::ApproxPercentile && args.len() == 2 {
            args.push(Typed::new(literal(ScalarValue::Float64(Some(0.01))), SqlType::Double));
        }
        Ok(args)
    }

    /// Names as text, values as jsonb.
    fn json_arguments(&mut self, kind: AggregateKind, args: Vec<Typed>, place: Option<usize>) -> Result<Vec<Typed>> {
        let mut out = vec![];
        for (i, arg) in args.into_iter().enumerate() {
            let arg = self.settle(arg)?;
            let arg = match arg.ty {
                SqlType::Unknown => Typed::new(self.implicit(arg, &SqlType::Text)?, SqlType::Text),
                _ => arg,
            };
            out.push(if kind == AggregateKind::JsonbObjectAgg && i == 0 {
                Typed::new(self.coerce(arg, &SqlType::Text, -1, CastContext::Explicit)?, SqlType::Text)
            } else {
                self.function("to_jsonb", vec![arg], place)?
            });
        }
        Ok(out)
    }

    /// Puts the aggregates of the innermost scope over the plan, and makes `exprs` refer to their results.
    pub(super) fn aggregate(
        &mut self,
        plan: LogicalPlan,
        mut grouping: Grouping,
        exprs: Vec<&mut Expr>,
    ) -> Result<LogicalPlan> {
        let calls = std::mem::take(&mut self.scope().aggregates);
        let groupings = std::mem::take(&mut self.scope().groupings);
        let mut windows = std::mem::take(&mut self.scope().windows);
        let above = windows.iter().chain(&self.scope().sets).map(|call| call.internal.clone());
        let window_names: HashSet<String> = above.collect();
        let mut exprs: Vec<&mut Expr> = exprs.into_iter().chain(windows.iter_mut().map(|w| &mut w.expr)).collect();
        // Columns of a table whose key is grouped by are one value per group.
        let grouped: HashSet<String> = grouping.exprs.iter().filter_map(|g| plain_column(&g.expr)).collect();
        let scope = self.scope();
        let keyed: Vec<usize> = (0..scope.tables.len())
            .filter(|t| {
                let key = &scope.tables[*t].key;
                grouping.sets.len() == 1 && !key.is_empty() && key.iter().all(|k| grouped.contains(k))
            })
            .collect();
        for c in scope.columns.iter().filter(|c| c.table.is_some_and(|t| keyed.contains(&t))) {
            let f = &c.field;
            if !grouped.contains(&f.internal) && exprs.iter().any(|e| refers_to(e, &f.internal)) {
                let i = grouping.position(Typed::new(f.expr(), f.ty.clone()));
                grouping.sets[0].push(i);
            }
        }
        let (plan, replaced) = match grouping.sets.len() {
            1 if groupings.is_empty() => self.grouped(plan, grouping.exprs, calls)?,
            _ => self.grouping_sets(plan, grouping, calls, groupings)?,
        };
        let known: HashSet<String> = plan.schema().columns().into_iter().map(|c| c.name).collect();
        for e in &mut exprs {
            let rewritten = std::mem::take(*e).transform_down(|e| {
                Ok(match replaced.iter().find(|(from, _)| *from == e) {
                    Some((_, to)) => Transformed::new(column(to), true, TreeNodeRecursion::Jump),
                    None => Transformed::no(e),
                })
            })?;
            **e = rewritten.data;
        }
        for e in &exprs {
            self.check_grouped(e, &known, &window_names)?;
        }
        self.scope().windows = windows;
        Ok(plan)
    }

    /// That an expression above the groups sees nothing that differs inside a group.
    pub(super) fn check_grouped(&self, e: &Expr, known: &HashSet<String>, windows: &HashSet<String>) -> Result<()> {
        for c in e.column_refs() {
            if known.contains(&c.name) || windows.contains(&c.name) {
                continue;
            }
            let scope = self.scopes.last().expect("the query's own");
            let shown = scope.shown(&c.name).unwrap_or_else(|| c.name.clone());
            let message =
                format!("column \"{shown}\" must appear in the GROUP BY clause or be used in an aggregate function");
            return Err(at(Error::new("42803", message), scope.referred.get(&c.name).copied()));
        }
        // Subqueries see the groups too.
        let mut outer = vec![];
        e.apply(|e| {
            if let Some(s) = subquery_of(e) {
                outer.extend(s.outer_ref_columns.iter().cloned());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        for e in outer {
            let Expr::OuterReferenceColumn(_, c) = e else { continue };
            let scope = self.scopes.last().expect("the query's own");
            if let Some(shown) = scope.shown(&c.name)
                && !known.contains(&c.name)
            {
                let message = format!("subquery uses ungrouped column \"{shown}\" from outer query");
                return Err(at(Error::new("42803", message), scope.referred.get(&c.name).copied()));
            }
        }
        Ok(())
    }

    /// The aggregation itself: plain columns keep their names; for each other group expression the name of its column.
    pub(super) fn grouped(
        &mut self,
        plan: LogicalPlan,
        group: Vec<Typed>,
        calls: Vec<Call>,
    ) -> Result<(LogicalPlan, Vec<(Expr, String)>)> {
        let mut computed = vec![];
        let mut keys = vec![];
        let mut values: Vec<(Expr, String)> = vec![];
        let mut output: Vec<(String, String)> = vec![];
        let mut replaced = vec![];
        for item in group {
            let name = match plain_column(&item.expr) {
                Some(name) => name,
                None => {
                    let name = self.fresh();
                    computed.push((item.expr.clone(), name.clone()));
                    replaced.push((item.expr, name.clone()));
                    name
                }
            };
            if crate::functions::key(&item.ty).is_none() {
                keys.push(column(&name));
                output.push((name.clone(), name));
                continue;
            }
            let key = self.fresh();
            keys.push(Self::key_of(&item.ty, column(&name)).alias(&key));
            if matches!(item.ty, SqlType::Real | SqlType::Double) {
                // The key is a value of the group itself.
                output.push((key, name));
                continue;
            }
            let shown = self.fresh();
            let as_text = match item.ty {
                SqlType::Jsonb => SqlType::Text,
                ty => ty,
            };
            let max = aggregate::resolve("max", &[as_text]).map_err(Error::from)?;
            let max = AggregateFunction::new_udf(max.implementation, vec![column(&name)], false, None, vec![], None);
            values.push((Expr::AggregateFunction(max), shown.clone()));
            output.push((shown, name));
        }
        let plan = with_columns(plan, computed)?;
        let calls: Vec<(Expr, String)> = calls.into_iter().map(|c| (c.expr, c.internal)).collect();
        output.extend(calls.iter().map(|(_, name)| (name.clone(), name.clone())));
        let aggregates: Vec<Expr> = calls.into_iter().chain(values).map(|(e, name)| e.alias(name)).collect();
        let renames = output.iter().any(|(from, to)| from != to);
        if keys.is_empty() && aggregates.is_empty() {
            // HAVING alone: one group of everything.
            let name = self.fresh();
            let count = aggregate::resolve("count", &[]).map_err(Error::from)?;
            let one = vec![literal(ScalarValue::Int64(Some(1)))];
            let count = AggregateFunction::new_udf(count.implementation, one, false, None, vec![], None);
            let count = Expr::AggregateFunction(count).alias(name);
            let plan = LogicalPlanBuilder::from(plan).aggregate(Vec::<Expr>::new(), vec![count])?.build()?;
            return Ok((plan, replaced));
        }
        let plan = LogicalPlanBuilder::from(plan).aggregate(keys, aggregates)?.build()?;
        if !renames {
            return Ok((plan, replaced));
        }
        let exprs: Vec<Expr> = output
            .into_iter()
            .map(|(from, to)| if from == to { column(from) } else { column(from).alias(to) })
            .collect();
        Ok((LogicalPlanBuilder::from(plan).project(exprs)?.build()?, replaced))
    }
}

fn plain_column(e: &Expr) -> Option<String> {
    match e {
        Expr::Column(c) => Some(c.name.clone()),
        _ => None,
    }
}
