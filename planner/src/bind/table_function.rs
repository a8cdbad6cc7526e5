//! Functions in FROM: `f(...)`, several as `ROWS FROM (f(...), g(...))`, `WITH ORDINALITY`, over what stands before them.

use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder, Subquery};
use sqlparser::ast;
use storage::SqlType;

use super::from::{From, FunctionInFrom, renamed};
use super::names::{Call, Clause, Scope, ScopeTable, fold, object_name, position, start_of};
use super::set_returning::{RowsColumn, expand};
use super::{Binder, OutField, Typed, at};
use crate::error::{Error, Result};
use crate::parser::ROWS_FROM;

impl Binder<'_> {
    /// A function that nothing stands before, or that may not look at it.
    pub(super) fn function_alone(&mut self, call: &FunctionInFrom) -> Result<From> {
        let one = LogicalPlanBuilder::empty(true).build()?;
        self.function_over((one, Scope::default()), call, false)
    }

    /// `left JOIN f(...)`: the function may look at what stands before it.
    pub(super) fn join_function(
        &mut self,
        left: From,
        call: &FunctionInFrom,
        kind: JoinType,
        constraint: &ast::JoinConstraint,
    ) -> Result<From> {
        let always = match constraint {
            ast::JoinConstraint::None => true,
            ast::JoinConstraint::On(on) => is_true(on),
            _ => false,
        };
        match (kind, constraint) {
            (JoinType::Inner | JoinType::Left, _) if always => self.function_over(left, call, kind == JoinType::Left),
            (JoinType::Inner, ast::JoinConstraint::On(on)) => {
                let (plan, mut scope) = self.function_over(left, call, false)?;
                let hidden = scope.hide_before_comma();
                let (plan, mut scope) = self.with_scope(scope, |b| {
                    let condition = b.within(Clause::On, |b| b.condition(on, "JOIN/ON"))?;
                    Ok(LogicalPlanBuilder::from(plan).filter(condition)?.build()?)
                })?;
                scope.show_again(hidden);
                Ok((plan, scope))
            }
            (JoinType::Inner | JoinType::Left, _) => {
                // As a subquery that depends on the left side.
                let ((right, of_function), _) = self.with_scope(left.1.clone(), |b| {
                    b.scopes.push(Scope::default());
                    let right = b.function_alone(call);
                    b.scopes.pop();
                    right
                })?;
                let outer_ref_columns = right.all_out_ref_exprs();
                let right = match outer_ref_columns.is_empty() {
                    true => right,
                    false => LogicalPlan::Subquery(Subquery {
                        subquery: right.into(),
                        outer_ref_columns,
                        spans: Default::default(),
                    }),
                };
                self.join(left, (right, of_function), kind, constraint)
            }
            _ => {
                let tables: Vec<String> = left.1.tables.iter().map(|t| t.name.clone()).collect();
                let right = self.with_scope(Scope::default(), |b| b.function_alone(call));
                let (right, _) = right.map_err(|error| {
                    // It names what stands before it, which only the other joins allow.
                    let missing = |t: &&String| error.message == format!("missing FROM-clause entry for table \"{t}\"");
                    let Some(table) = tables.iter().find(missing) else { return error };
                    let message = format!("invalid reference to FROM-clause entry for table \"{table}\"");
                    let detail = "The combining JOIN type must be INNER or LEFT for a LATERAL reference.";
                    Error { position: error.position, ..Error::new("42P10", message).with_detail(detail) }
                })?;
                self.join(left, right, kind, constraint)
            }
        }
    }

    /// Where a word last stands before a place.
    fn word_before(&self, position: usize, word: &str) -> Option<usize> {
        let before: String = self.text.chars().take(position - 1).collect();
        let at = before.to_ascii_lowercase().rfind(word)?;
        Some(before[..at].chars().count() + 1)
    }

    /// The function's rows for each row of what stands before it.
    fn function_over(&mut self, (plan, scope): From, call: &FunctionInFrom, outer: bool) -> Result<From> {
        let place = match call.unnest {
            // Its name is a keyword, whose place the tree does not have.
            true => call.position.and_then(|p| self.word_before(p, "unnest")),
            false => call.position,
        };
        let alias = call.alias.as_ref();
        let definitions = alias.map_or(&[][..], |a| &a.columns);
        let name = if call.name == ROWS_FROM { String::new() } else { call.name.to_lowercase() };
        let table = alias.map_or_else(|| name.clone(), |a| fold(&a.name));
        let ((columns, whole), mut scope) = self.with_scope(scope, |b| {
            b.within(Clause::FromFunction, |b| match call.name == ROWS_FROM {
                true => Ok((b.rows_from(&call.args)?, false)),
                false => {
                    let args = call.args.iter().map(|a| b.expr(a)).collect::<Result<Vec<_>>>()?;
                    b.columns_of(&name, args, definitions, place)
                }
            })
        })?;
        let mut sets = vec![];
        let mut fields = vec![];
        for RowsColumn { name, list, item, typmod } in columns {
            let name = name.unwrap_or_else(|| table.clone());
            let field = OutField { internal: self.fresh(), name, ty: item, typmod };
            sets.push(Call { expr: list, internal: field.internal.clone() });
            fields.push(field);
        }
        let whole = fields.first().filter(|_| whole && !call.with_ordinality).map(|f| f.internal.clone());
        if call.with_ordinality {
            let lists = sets.iter().zip(&fields);
            let lists = lists.map(|(set, f)| Typed::new(set.expr.clone(), SqlType::Array(Box::new(f.ty.clone()))));
            let numbers = self.function("_list_numbers", lists.collect(), place)?;
            let internal = self.fresh();
            sets.push(Call { expr: numbers.expr, internal: internal.clone() });
            fields.push(OutField { internal, name: "ordinality".into(), ty: SqlType::BigInt, typmod: -1 });
        }
        let mut plan = expand(plan, sets, outer)?;
        if is_record(&name) {
            // The lists hold what the record's columns are made of.
            let mut exprs: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
            let first = exprs.len() - fields.len();
            for (field, expr) in fields.iter_mut().zip(&mut exprs[first..]).take(definitions.len()) {
                field.internal = self.fresh();
                *expr = self.record_value(expr.clone(), &field.ty, field.typmod)?.alias(&field.internal);
            }
            plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
        }
        let fields = renamed(fields, definitions, &table)?;
        let mut of_function = Scope::default();
        of_function.add(ScopeTable { whole, ..ScopeTable::named(table) }, fields);
        scope.append(of_function)?;
        Ok((plan, scope))
    }

    /// The columns of one function, and whether its name as a value means its only column.
    fn columns_of(
        &mut self,
        name: &str,
        args: Vec<Typed>,
        definitions: &[ast::TableAliasColumnDef],
        place: Option<usize>,
    ) -> Result<(Vec<RowsColumn>, bool)> {
        if is_record(name) {
            return Ok((self.record_columns(name, &args, definitions, place)?, false));
        }
        if let Some(definition) = definitions.iter().find(|d| d.data_type.is_some()) {
            let message = "a column definition list is only allowed for functions returning \"record\"";
            return Err(at(Error::new("42601", message), position(&definition.name)));
        }
        if let Some(columns) = self.rows_of(name, &args, place)? {
            if columns.iter().any(|c| !Self::record_fields(c.typmod).is_empty()) {
                return Err(at(Error::unsupported(format!("{name}() is supported in a select list only")), place));
            }
            let whole = columns.len() == 1;
            return Ok((columns, whole));
        }
        // Any other function gives one row.
        let value = match self.constant(name, &args, place)? {
            Some(value) => value,
            None => self.function(name, args, place)?,
        };
        let (item, typmod) = (value.ty.clone(), value.typmod);
        let list = self.function("_list_of_one", vec![value], place)?;
        Ok((vec![RowsColumn { name: None, list: list.expr, item, typmod }], true))
    }

    /// The functions of ROWS FROM, side by side.
    fn rows_from(&mut self, calls: &[ast::Expr]) -> Result<Vec<RowsColumn>> {
        let mut all = vec![];
        for call in calls {
            let place = start_of(call);
            let ast::Expr::Function(call) = call else {
                return Err(at(Error::new("42601", "ROWS FROM takes function calls"), place));
            };
            let name = object_name(&call.name)?.name.to_lowercase();
            let not_an_aggregate = |what: &str| {
                at(Error::new("42809", format!("{what} specified, but {name} is not an aggregate function")), place)
            };
            let args = self.call_arguments(call, &not_an_aggregate)?;
            if is_record(&name) {
                let error = Error::unsupported(format!("{name}() in ROWS FROM is not supported"));
                return Err(at(error.with_hint("Make it an item of FROM of its own."), place));
            }
            let (columns, _) = self.columns_of(&name, args, &[], place)?;
            all.extend(columns.into_iter().map(|c| RowsColumn { name: c.name.or(Some(name.clone())), ..c }));
        }
        Ok(all)
    }
}

/// Whether the alias says what columns the function has.
fn is_record(name: &str) -> bool {
    matches!(name, "jsonb_to_record" | "jsonb_to_recordset")
}

/// `ON true`
fn is_true(on: &ast::Expr) -> bool {
    match on {
        ast::Expr::Nested(e) => is_true(e),
        ast::Expr::Value(v) => v.value == ast::Value::Boolean(true),
        _ => false,
    }
}
