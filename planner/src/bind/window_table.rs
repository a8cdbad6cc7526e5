//! The functions of FROM that put the rows of a table into windows.
//!
//! ```text
//! TUMBLE(t, time, size [, offset])               the window that the time falls into
//! HOP(t, time, slide, size [, offset])           every window of `size`; one begins each `slide`
//! CUMULATE(t, time, step, size [, offset])       windows that begin together and grow by `step` up to `size`
//! SESSION(t, time, gap [PARTITION BY ..])        rows of a partition that follow each other within `gap`
//! COUNT_WINDOW(t, size [, slide] [PARTITION BY ..] ORDER BY ..)   windows of `size` rows of a partition
//! ```
//!
//! Each also in Flink's form, `TABLE(TUMBLE(TABLE t, DESCRIPTOR(time), ...))`, with arguments by name too; that form has
//! a column more, `window_time`. The first three become a [`TimeWindow`] over `t`, a session two window functions, a count
//! window a [`TimeWindow`] over `row_number()`.

use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use sqlparser::ast;
use storage::SqlType;
use storage::keys::SortOption;
use streaming::operators::time_window::{Shape, Windows};
use streaming::windows::{Bound, Exclude, Frame, Units, WindowCall, WindowKind};

use super::from::{From, renamed, with_columns};
use super::literal::literal;
use super::names::{Clause, Scope, ScopeColumn, ScopeTable, fold, object_name, position, start_of};
use super::{Binder, OutField, Typed, at};
use crate::error::{Error, Result};
use crate::expr::column;
use crate::functions::window::native_call;
use crate::nodes::TimeWindow;
use crate::parser::stream_windows::{DESCENDING, WINDOW_TABLES, argument_of};
use crate::statement::ObjectName;
use crate::types;

/// Windows that a row may lie in: each is a row of its own.
const WINDOWS_MAX: i64 = 10_000;
/// A millisecond, in microseconds: Flink's times end that much before their window does.
const MILLISECOND: i64 = 1_000;

/// A call of one of the functions.
pub(super) struct WindowTable {
    /// Its name, lower case.
    name: String,
    /// In Flink's form.
    flink: bool,
    args: Vec<ast::Expr>,
    /// By lower-case name.
    named: Vec<(String, ast::Expr)>,
    alias: Option<ast::TableAlias>,
    position: Option<usize>,
}

impl WindowTable {
    /// The call that a part of FROM is, if it is one.
    pub(super) fn of(factor: &ast::TableFactor) -> Option<WindowTable> {
        let (name, args, alias, flink) = match factor {
            ast::TableFactor::Table { name, alias, args: Some(args), .. } => (name, &args.args, alias, false),
            ast::TableFactor::TableFunction { expr: ast::Expr::Function(function), alias } => match &function.args {
                ast::FunctionArguments::List(list) => (&function.name, &list.args, alias, true),
                _ => return None,
            },
            _ => return None,
        };
        let name = object_name(name).ok().filter(|name| name.schema.is_none())?;
        if !WINDOW_TABLES.contains(&name.name.as_str()) {
            return None;
        }
        let (mut unnamed, mut named) = (vec![], vec![]);
        for arg in args {
            match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => unnamed.push(e.clone()),
                ast::FunctionArg::Named { name, arg: ast::FunctionArgExpr::Expr(e), .. } => {
                    named.push((name.value.to_lowercase(), e.clone()));
                }
                ast::FunctionArg::ExprNamed {
                    name: ast::Expr::Identifier(name),
                    arg: ast::FunctionArgExpr::Expr(e),
                    ..
                } => named.push((name.value.to_lowercase(), e.clone())),
                _ => return None,
            }
        }
        let position = name.position;
        Some(WindowTable { name: name.name, flink, args: unnamed, named, alias: alias.clone(), position })
    }

    fn usage(&self) -> Error {
        let form = match self.name.as_str() {
            "tumble" => "TUMBLE(table, time, size [, offset])",
            "hop" => "HOP(table, time, slide, size [, offset])",
            "cumulate" => "CUMULATE(table, time, step, size [, offset])",
            "session" => "SESSION(table, time, gap [PARTITION BY columns])",
            _ => "COUNT_WINDOW(table, size [, slide] [PARTITION BY columns] ORDER BY columns)",
        };
        let name = self.name.to_uppercase();
        at(Error::new("42883", format!("wrong arguments of {name}")), self.position).with_hint(format!("Write {form}."))
    }

    /// The arguments in the order of `names`, by place or by name; the last `optional` may be missing.
    fn arguments(&mut self, names: &[&str], optional: usize) -> Result<Vec<Option<ast::Expr>>> {
        let mut found: Vec<Option<ast::Expr>> = std::mem::take(&mut self.args).into_iter().map(Some).collect();
        if found.len() > names.len() {
            return Err(self.usage());
        }
        found.resize(names.len(), None);
        for (name, e) in std::mem::take(&mut self.named) {
            match names.iter().position(|n| *n == name) {
                Some(place) if found[place].is_none() => found[place] = Some(e),
                _ => return Err(self.usage()),
            }
        }
        match found[..names.len() - optional].iter().all(Option::is_some) {
            true => Ok(found),
            false => Err(self.usage()),
        }
    }

    /// The columns of PARTITION BY or ORDER BY.
    fn list(&mut self, name: &str) -> Vec<ast::Expr> {
        let Some(place) = self.named.iter().position(|(n, _)| n == name) else { return vec![] };
        match self.named.remove(place).1 {
            ast::Expr::Array(array) => array.elem,
            e => vec![e],
        }
    }
}

/// What stands in `DESCRIPTOR(...)`; anything else as it is.
fn described(e: &ast::Expr) -> &ast::Expr {
    let ast::Expr::Function(function) = e else { return e };
    let is_descriptor =
        function.name.0.first().and_then(|part| part.as_ident()).is_some_and(|i| fold(i) == "descriptor");
    match &function.args {
        ast::FunctionArguments::List(list) if is_descriptor => match list.args.as_slice() {
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(column))] => column,
            _ => e,
        },
        _ => e,
    }
}

impl Binder<'_> {
    /// Binds a table with the windows of its rows.
    pub(super) fn window_table(&mut self, mut call: WindowTable) -> Result<From> {
        let (partition, order) = (call.list("partition_by"), call.list("order_by"));
        let has_partition = matches!(call.name.as_str(), "session" | "count_window");
        if !partition.is_empty() && !has_partition || !order.is_empty() && call.name != "count_window" {
            return Err(call.usage());
        }
        let (plan, scope, bounds, ty) = match call.name.as_str() {
            "session" => self.session_table(&mut call, &partition)?,
            "count_window" => self.count_table(&mut call, &partition, &order)?,
            _ => self.time_table(&mut call)?,
        };
        self.with_bounds(plan, scope, bounds, ty, &call)
    }

    /// The table with the columns of its windows, under its alias.
    fn with_bounds(
        &mut self,
        mut plan: LogicalPlan,
        mut scope: Scope,
        [start, end]: [String; 2],
        ty: SqlType,
        call: &WindowTable,
    ) -> Result<From> {
        let mut added = vec![(start, "window_start"), (end.clone(), "window_end")];
        if call.flink && ty != SqlType::BigInt {
            let end = Typed::new(column(&end), ty.clone());
            let before = Typed::new(microseconds(MILLISECOND)?, SqlType::Interval);
            let time = self.operator("-", vec![end, before], call.position)?;
            let internal = self.fresh();
            plan = with_columns(plan, vec![(time.expr, internal.clone())])?;
            added.push((internal, "window_time"));
        }
        for (internal, name) in added {
            let field = OutField { internal, name: name.into(), ty: ty.clone(), typmod: -1 };
            scope.columns.push(ScopeColumn { table: Some(0), field, plain: true });
        }
        // A key of the table need not be one of its windows.
        scope.tables[0].key.clear();
        if let Some(alias) = &call.alias {
            scope.tables[0].name = fold(&alias.name);
            scope.tables[0].schema = None;
            let fields = scope.columns.iter().map(|c| c.field.clone()).collect();
            let fields = renamed(fields, &alias.columns, &fold(&alias.name))?;
            for (c, field) in scope.columns.iter_mut().zip(fields) {
                c.field = field;
            }
        }
        Ok((plan, scope))
    }

    /// TUMBLE, HOP and CUMULATE.
    fn time_table(&mut self, call: &mut WindowTable) -> Result<(LogicalPlan, Scope, [String; 2], SqlType)> {
        let (names, what): (&[&str], _) = match call.name.as_str() {
            "tumble" => (&["data", "timecol", "size", "offset"], ["", "the size of a window"]),
            "hop" => {
                (&["data", "timecol", "slide", "size", "offset"], ["the slide of a window", "the size of a window"])
            }
            _ => (&["data", "timecol", "step", "size", "offset"], ["the step of a window", "the size of a window"]),
        };
        let mut args = call.arguments(names, 1)?;
        let offset = args.pop().flatten();
        let place = call.position;
        let mut args = args.into_iter().flatten();
        let (Some(table), Some(time)) = (args.next(), args.next()) else { return Err(call.usage()) };
        let lengths: Vec<ast::Expr> = args.collect();
        let (plan, scope) = self.windowed(&table, call)?;
        let ((time, windows), scope) = self.with_scope(scope, |b| {
            b.within(Clause::FromFunction, |b| {
                let time = b.window_time(&time, call)?;
                let mut sizes = vec![];
                for (length, what) in lengths.iter().zip(&what[2 - lengths.len()..]) {
                    let micros = b.fixed_interval(length, what)?;
                    if micros <= 0 {
                        return Err(at(
                            Error::new("22023", format!("{what} must be positive")),
                            start_of(length).or(place),
                        ));
                    }
                    sizes.push(micros);
                }
                let shape = match sizes.as_slice() {
                    [size] => Shape::Tumble { size: *size },
                    [slide, size] if call.name == "hop" => Shape::Hop { slide: *slide, size: *size },
                    [step, size] if size % step == 0 => Shape::Cumulate { step: *step, size: *size },
                    _ => {
                        let message = "the size of a window that cumulates must be a multiple of its step";
                        return Err(at(Error::new("22023", message), place));
                    }
                };
                b.few_windows(shape, place)?;
                let offset = match &offset {
                    None => 0,
                    Some(offset) => b.fixed_interval(offset, "the offset of a window")?,
                };
                Ok((time, Windows { shape, offset }))
            })
        })?;
        let Expr::Column(column) = time.expr else { return Err(call.usage()) };
        let (plan, bounds) = self.window_bounds(plan, column, windows)?;
        Ok((plan, scope, bounds, time.ty))
    }

    fn few_windows(&self, shape: Shape, place: Option<usize>) -> Result<()> {
        if shape.windows_max() <= WINDOWS_MAX {
            return Ok(());
        }
        let message = format!("a row would lie in more than {WINDOWS_MAX} windows");
        Err(at(Error::new("54000", message), place).with_hint("Let windows begin less often, or make them shorter."))
    }

    fn window_bounds(
        &mut self,
        plan: LogicalPlan,
        time: Column,
        windows: Windows,
    ) -> Result<(LogicalPlan, [String; 2])> {
        let bounds = [self.fresh(), self.fresh()];
        let plan = TimeWindow::plan(plan, time, windows, [&bounds[0], &bounds[1]])?;
        Ok((plan, bounds))
    }

    /// SESSION: the first time of a session, and its last one and the gap.
    fn session_table(
        &mut self,
        call: &mut WindowTable,
        partition: &[ast::Expr],
    ) -> Result<(LogicalPlan, Scope, [String; 2], SqlType)> {
        let args = call.arguments(&["data", "timecol", "gap"], 0)?;
        let [table, time, gap] = args.as_slice() else { return Err(call.usage()) };
        let (Some(table), Some(time), Some(gap)) = (table, time, gap) else { return Err(call.usage()) };
        let (plan, scope) = self.windowed(table, call)?;
        let ((time, end, partition), scope) = self.with_scope(scope, |b| {
            b.within(Clause::FromFunction, |b| {
                let time = b.window_time(time, call)?;
                let micros = b.fixed_interval(gap, "the gap of a session")?;
                if micros < 0 {
                    let message = "the gap of a session must not be negative";
                    return Err(at(Error::new("22023", message), start_of(gap).or(call.position)));
                }
                let gap = Typed::new(microseconds(micros)?, SqlType::Interval);
                let end = b.operator("+", vec![time.clone(), gap], call.position)?;
                Ok((time, end, b.window_keys(partition)?))
            })
        })?;
        let plan = LogicalPlanBuilder::from(plan).filter(time.expr.clone().is_not_null())?.build()?;
        let frame =
            Frame { units: Units::Session, start: Bound::Value(1), end: Bound::Value(1), exclude: Exclude::NoOthers };
        let order = vec![(Self::key_of(&time.ty, time.expr.clone()), SortOption::default())];
        let bounds = [self.fresh(), self.fresh()];
        let kinds = [WindowKind::FirstValue { ignore_nulls: false }, WindowKind::LastValue { ignore_nulls: false }];
        let calls = kinds.into_iter().enumerate().map(|(arg, kind)| {
            let returns = time.ty.arrow();
            let call = WindowCall { kind, args: vec![arg], filter: None, frame: frame.clone(), returns };
            let args = vec![time.expr.clone(), end.expr.clone()];
            native_call(call, args, partition.clone(), order.clone()).alias(&bounds[arg])
        });
        let plan = LogicalPlanBuilder::from(plan).window(calls.collect::<Vec<_>>())?.build()?;
        Ok((plan, scope, bounds, time.ty))
    }

    /// COUNT_WINDOW: windows over the numbers of the rows.
    fn count_table(
        &mut self,
        call: &mut WindowTable,
        partition: &[ast::Expr],
        order: &[ast::Expr],
    ) -> Result<(LogicalPlan, Scope, [String; 2], SqlType)> {
        let args = call.arguments(&["data", "size", "slide"], 1)?;
        let [Some(table), Some(size), slide] = args.as_slice() else { return Err(call.usage()) };
        let place = call.position;
        if order.is_empty() {
            let error = Error::new("42601", "COUNT_WINDOW needs ORDER BY");
            return Err(at(error, place).with_hint("The order says which rows are counted into one window."));
        }
        let (plan, scope) = self.windowed(table, call)?;
        let columns: Vec<OutField> = scope.columns.iter().map(|c| c.field.clone()).collect();
        let ((windows, partition, mut order), scope) = self.with_scope(scope, |b| {
            b.within(Clause::FromFunction, |b| {
                let size = b.row_count(size)?;
                let shape = match slide {
                    None => Shape::Tumble { size },
                    Some(slide) => Shape::Hop { slide: b.row_count(slide)?, size },
                };
                b.few_windows(shape, place)?;
                let partition = b.window_keys(partition)?;
                let mut keys = vec![];
                for e in order {
                    let (e, descending) = match argument_of(e, DESCENDING) {
                        Some(e) => (e, true),
                        None => (e, false),
                    };
                    let value = b.expr(e)?;
                    let value = b.settle(value)?;
                    let option = SortOption { descending, nulls_first: descending };
                    keys.push((Self::order_of(&value.ty, value.expr), option));
                }
                // Rows are numbered from 1.
                Ok((Windows { shape, offset: 1 }, partition, keys))
            })
        })?;
        // What ties is told apart by its columns, so that a read numbers rows as a view does.
        for (_, field) in plan.schema().iter() {
            let known = columns.iter().find(|c| c.internal == *field.name());
            let expr = column(field.name());
            let key = known.map_or_else(|| expr.clone(), |c| Self::key_of(&c.ty, expr.clone()));
            if !order.iter().any(|(e, _)| *e == key) {
                order.push((key, SortOption::default()));
            }
        }
        let number = self.fresh();
        let returns = SqlType::BigInt.arrow();
        let row_number =
            WindowCall { kind: WindowKind::RowNumber, args: vec![], filter: None, frame: Frame::default(), returns };
        let numbered = native_call(row_number, vec![], partition, order).alias(&number);
        let plan = LogicalPlanBuilder::from(plan).window(vec![numbered])?.build()?;
        let (plan, bounds) = self.window_bounds(plan, Column::new_unqualified(number), windows)?;
        Ok((plan, scope, bounds, SqlType::BigInt))
    }

    /// A positive number of rows.
    fn row_count(&mut self, e: &ast::Expr) -> Result<i64> {
        let place = start_of(e);
        let typed = self.expr(e)?;
        let expr = self.implicit(typed, &SqlType::BigInt)?;
        match crate::expr::constant(&expr) {
            Some(ScalarValue::Int64(Some(n))) if n > 0 => Ok(n),
            _ => Err(at(Error::new("22023", "a window of rows needs a positive constant"), place)),
        }
    }

    fn window_keys(&mut self, columns: &[ast::Expr]) -> Result<Vec<Expr>> {
        let mut keys = vec![];
        for e in columns {
            let value = self.expr(e)?;
            let value = self.settle(value)?;
            keys.push(Self::key_of(&value.ty, value.expr));
        }
        Ok(keys)
    }

    /// The time column of a call.
    fn window_time(&mut self, e: &ast::Expr, call: &WindowTable) -> Result<Typed> {
        let time = self.expr(described(e))?;
        if matches!(time.ty, SqlType::Timestamp | SqlType::TimestampTz) && matches!(time.expr, Expr::Column(_)) {
            return Ok(time);
        }
        let (name, ty) = (call.name.to_uppercase(), types::name(&time.ty));
        let message = format!("{name} needs a column of type timestamp or timestamptz, not {ty}");
        Err(at(Error::new("42804", message), time.position))
    }

    /// The table of a call: a name, or a query in parentheses.
    fn windowed(&mut self, table: &ast::Expr, call: &WindowTable) -> Result<From> {
        let part = |ident: &ast::Ident| ObjectName { schema: None, name: fold(ident), position: position(ident) };
        let name = match table {
            ast::Expr::Identifier(ident) => part(ident),
            ast::Expr::CompoundIdentifier(idents) if idents.len() == 2 => {
                ObjectName { schema: Some(fold(&idents[0])), position: position(&idents[0]), ..part(&idents[1]) }
            }
            ast::Expr::Subquery(query) => {
                let query = self.with_scope(Scope::default(), |b| b.query(query))?.0;
                let query = self.without_unknowns(query)?;
                let mut scope = Scope::default();
                scope.add(ScopeTable::named(call.name.clone()), query.fields);
                return Ok((query.plan, scope));
            }
            _ => return Err(call.usage()),
        };
        self.relation(&name, None)
    }

    /// An interval of days and smaller units, in microseconds.
    fn fixed_interval(&mut self, e: &ast::Expr, what: &str) -> Result<i64> {
        let typed = self.expr(e)?;
        let place = typed.position;
        let expr = self.implicit(typed, &SqlType::Interval)?;
        let Ok(ScalarValue::IntervalMonthDayNano(Some(value))) = crate::expr::evaluate(&expr) else {
            return Err(at(Error::new("22023", format!("{what} must be a constant interval")), place));
        };
        if value.months != 0 {
            let error = Error::unsupported(format!("{what} cannot be given in months"));
            return Err(at(error, place).with_hint("Months differ in length: use days or smaller units."));
        }
        Ok(i64::from(value.days) * 86_400_000_000 + value.nanoseconds / 1000)
    }
}

/// An interval of so many microseconds.
fn microseconds(n: i64) -> Result<Expr> {
    let interval = types::datetime::Interval { months: 0, days: 0, micros: n };
    let interval = interval.to_arrow().map_err(|e| Error::new("22008", e.to_string()))?;
    Ok(literal(ScalarValue::IntervalMonthDayNano(Some(interval))))
}
