//! FROM: tables, views, subqueries, functions and joins, and what the names in them mean.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit};
use sqlparser::ast;

use super::names::{Clause, Scope, ScopeColumn, ScopeTable, fold, object_name, position, start_of};
use super::window_table::WindowTable;
use super::{Binder, BoundQuery, OutField, Typed, VIEW_DEPTH_MAX, at};
use crate::batch::RelationSource;
use crate::catalog::{Object, ObjectKind};
use crate::error::{Error, Result};
use crate::expr::column;
use crate::statement::{ObjectName, Statement};

/// A part of a FROM clause.
pub(super) type From = (LogicalPlan, Scope);

impl Binder<'_> {
    /// Binds a FROM clause; its names become those of the innermost scope.
    pub(super) fn from(&mut self, items: &[ast::TableWithJoins]) -> Result<LogicalPlan> {
        let mut all: Option<From> = None;
        for item in items {
            all = Some(match all {
                None => self.table_with_joins(item)?,
                Some(left) => self.behind_comma(left, item)?,
            });
        }
        let (plan, scope) = match all {
            Some(from) => from,
            None => (LogicalPlanBuilder::empty(true).build()?, Scope::default()),
        };
        let here = self.scope();
        (here.tables, here.columns) = (scope.tables, scope.columns);
        Ok(plan)
    }

    /// `left, item`: the joins of the item are its own, and their conditions do not see what is left of the comma.
    fn behind_comma(&mut self, mut left: From, item: &ast::TableWithJoins) -> Result<From> {
        // A join that has rows which its left side does not have is not one of all that is left. The others are the same either
        // way, and what is lateral in them sees everything before it.
        let apart = item.joins.iter().rposition(|join| may_add_rows(&join.join_operator)).map_or(0, |last| last + 1);
        left.1.before_comma = (left.1.tables.len(), left.1.columns.len());
        let first = match apart {
            0 => self.join_factor(left, &item.relation, JoinType::Inner, &ast::JoinConstraint::None)?,
            n => {
                let joins = &item.joins[..n];
                let right = match is_lateral(&item.relation) || joins.iter().any(|join| is_lateral(&join.relation)) {
                    false => self.joined_alone(&item.relation, joins)?,
                    // As a subquery that depends on what is left of it.
                    true => {
                        let outer = Scope { clause: Clause::FromSubquery, ..left.1.clone() };
                        let inside = |b: &mut Self| {
                            b.scopes.push(Scope::default());
                            let right = b.joined_alone(&item.relation, joins);
                            b.scopes.pop();
                            right
                        };
                        self.with_scope(outer, inside)?.0
                    }
                };
                self.join(left, right, JoinType::Inner, &ast::JoinConstraint::None)?
            }
        };
        let mut joined = self.joins(first, &item.joins[apart..])?;
        joined.1.before_comma = (0, 0);
        Ok(joined)
    }

    fn table_with_joins(&mut self, item: &ast::TableWithJoins) -> Result<From> {
        self.joined_alone(&item.relation, &item.joins)
    }

    fn joined_alone(&mut self, first: &ast::TableFactor, joins: &[ast::Join]) -> Result<From> {
        let first = self.factor(first, None)?;
        self.joins(first, joins)
    }

    fn joins(&mut self, mut left: From, joins: &[ast::Join]) -> Result<From> {
        use ast::JoinOperator as J;
        for join in joins {
            // What the parser makes of ASOF JOIN.
            let asof = match &join.join_operator {
                J::RightSemi(constraint) => Some((false, constraint, None)),
                J::RightAnti(constraint) => Some((true, constraint, None)),
                J::AsOf { match_condition, constraint } => Some((false, constraint, Some(match_condition))),
                _ => None,
            };
            if let Some((outer, constraint, nearest)) = asof {
                left = self.asof_join(left, &join.relation, outer, constraint, nearest)?;
                continue;
            }
            let (kind, constraint) = match &join.join_operator {
                J::Join(c) | J::Inner(c) => (JoinType::Inner, c),
                J::CrossJoin(c) => (JoinType::Inner, c),
                J::Left(c) | J::LeftOuter(c) => (JoinType::Left, c),
                J::Right(c) | J::RightOuter(c) => (JoinType::Right, c),
                J::FullOuter(c) => (JoinType::Full, c),
                _ => {
                    let error = Error::unsupported("this form of JOIN is not supported");
                    return Err(at(error, start_of(&join.relation)));
                }
            };
            if matches!(constraint, ast::JoinConstraint::None) && !matches!(join.join_operator, J::CrossJoin(_)) {
                let error = Error::new("42601", "a JOIN needs ON, USING or NATURAL");
                return Err(at(error, start_of(&join.relation)));
            }
            left = self.join_factor(left, &join.relation, kind, constraint)?;
        }
        Ok(left)
    }

    /// `left JOIN factor`
    fn join_factor(
        &mut self,
        left: From,
        factor: &ast::TableFactor,
        kind: JoinType,
        constraint: &ast::JoinConstraint,
    ) -> Result<From> {
        if let Some(version) = version_of(factor) {
            return self.temporal_join(left, factor, version, kind, constraint);
        }
        if let Some(call) = function_of(factor).filter(|_| WindowTable::of(factor).is_none()) {
            return self.join_function(left, &call, kind, constraint);
        }
        let right = self.factor(factor, Some(&left))?;
        self.join(left, right, kind, constraint)
    }

    /// Binds with a scope of its own in place of the innermost one.
    pub(super) fn with_scope<T>(&mut self, scope: Scope, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, Scope)> {
        let before = std::mem::replace(self.scope(), scope);
        let result = f(self);
        let after = std::mem::replace(self.scope(), before);
        Ok((result?, after))
    }

    pub(super) fn join(
        &mut self,
        (left, left_scope): From,
        (right, right_scope): From,
        kind: JoinType,
        constraint: &ast::JoinConstraint,
    ) -> Result<From> {
        let names: Vec<String> = match constraint {
            ast::JoinConstraint::Using(names) => {
                let mut all = vec![];
                for name in names {
                    all.push(object_name(name)?.name);
                }
                all
            }
            ast::JoinConstraint::Natural => {
                let has = |scope: &Scope, name: &str| scope.columns.iter().any(|c| c.plain && c.field.name == name);
                let candidates = left_scope.own_columns().filter(|c| c.plain).map(|c| c.field.name.clone());
                candidates.filter(|n| has(&right_scope, n)).collect()
            }
            _ => vec![],
        };
        let (mut left, mut right) = (left, right);
        // Both columns of each name, and the type of what stands for them.
        let mut merged = vec![];
        let mut conditions: Vec<Expr> = vec![];
        let typed = |f: &OutField| Typed { expr: f.expr(), ty: f.ty.clone(), typmod: f.typmod, position: None };
        for name in &names {
            let a = the_column(&left_scope, name, "left")?;
            let b = the_column(&right_scope, name, "right")?;
            let (ty, typmod) = self.unify(&[typed(&a), typed(&b)], "JOIN/USING")?;
            merged.push((a, b, ty, typmod));
        }
        for (a, b, ..) in &merged {
            conditions.push(self.compare(Operator::Eq, typed(a), typed(b), None)?);
        }
        let mut scope = left_scope;
        scope.append(right_scope)?;
        if let ast::JoinConstraint::On(on) = constraint {
            let hidden = scope.hide_before_comma();
            let (condition, after) =
                self.with_scope(scope, |b| b.within(Clause::On, |b| b.condition(on, "JOIN/ON")))?;
            scope = after;
            scope.show_again(hidden);
            conditions.push(condition);
        }
        // A subquery that looks at its neighbour is marked as such.
        if right.all_out_ref_exprs().iter().any(|e| refers_to(e, &left)) {
            let outer_ref_columns = right.all_out_ref_exprs();
            right = LogicalPlan::Subquery(Subquery {
                subquery: Arc::new(right),
                outer_ref_columns,
                spans: Default::default(),
            });
        }
        left = match (conditions.is_empty(), kind) {
            (true, JoinType::Inner) => LogicalPlanBuilder::from(left).cross_join(right)?.build()?,
            // NATURAL, without a name in common.
            (true, _) => LogicalPlanBuilder::from(left).join_on(right, kind, [lit(true)])?.build()?,
            _ => LogicalPlanBuilder::from(left).join_on(right, kind, conditions)?.build()?,
        };
        // The columns of USING come first, once.
        let mut first = vec![];
        for (a, b, ty, typmod) in merged {
            for c in &mut scope.columns {
                if c.field.internal == a.internal || c.field.internal == b.internal {
                    c.plain = false;
                }
            }
            let either = match kind {
                // Whichever needs no cast: they are equal.
                JoinType::Inner if a.ty == ty || b.ty != ty => Merged::One(a.clone()),
                JoinType::Inner => Merged::One(b),
                JoinType::Left => Merged::One(a.clone()),
                JoinType::Right => Merged::One(b),
                _ => Merged::Either(a.clone(), b),
            };
            let expr = match either {
                Merged::One(field) if field.ty == ty => {
                    first.push(ScopeColumn { table: None, field: OutField { name: a.name, ..field }, plain: true });
                    continue;
                }
                Merged::One(field) => self.implicit(typed(&field), &ty)?,
                Merged::Either(a, b) => {
                    let (x, y) = (self.implicit(typed(&a), &ty)?, self.implicit(typed(&b), &ty)?);
                    datafusion::logical_expr::when(x.clone().is_not_null(), x).otherwise(y)?
                }
            };
            let internal = self.fresh();
            left = with_columns(left, vec![(expr, internal.clone())])?;
            let field = OutField { internal, name: a.name, ty, typmod };
            first.push(ScopeColumn { table: None, field, plain: true });
        }
        let start = scope.before_comma.1;
        scope.columns.splice(start..start, first);
        Ok((left, scope))
    }

    pub(super) fn factor(&mut self, factor: &ast::TableFactor, left: Option<&From>) -> Result<From> {
        if let Some(call) = WindowTable::of(factor) {
            return self.window_table(call);
        }
        if let Some(call) = function_of(factor) {
            return self.function_alone(&call);
        }
        match factor {
            ast::TableFactor::Table { name, alias, version: None, sample: None, .. } => {
                let name = object_name(name)?;
                self.relation(&name, alias.as_ref())
            }
            ast::TableFactor::Derived { lateral, subquery, alias, sample: None } => {
                let query = match (lateral, left) {
                    (true, Some((_, scope))) => {
                        let seen = Scope { clause: Clause::FromSubquery, ..scope.clone() };
                        self.with_scope(seen, |b| b.query(subquery))?.0
                    }
                    _ => self.with_scope(Scope::default(), |b| b.query(subquery))?.0,
                };
                let Some(alias) = alias else {
                    let what = match subquery.body.as_ref() {
                        ast::SetExpr::Values(_) => "VALUES in FROM must have an alias",
                        _ => "subquery in FROM must have an alias",
                    };
                    let hint = match subquery.body.as_ref() {
                        ast::SetExpr::Values(_) => "For example, FROM (VALUES ...) [AS] foo.",
                        _ => "For example, FROM (SELECT ...) [AS] foo.",
                    };
                    let place = start_of(subquery.as_ref()).map(|p| self.parenthesis_before(p));
                    return Err(at(Error::new("42601", what), place).with_hint(hint));
                };
                let query = self.without_unknowns(query)?;
                let fields = renamed(query.fields, &alias.columns, &fold(&alias.name))?;
                let mut scope = Scope::default();
                scope.add(ScopeTable::named(fold(&alias.name)), fields);
                Ok((query.plan, scope))
            }
            ast::TableFactor::NestedJoin { table_with_joins, alias } => {
                let (plan, scope) = self.table_with_joins(table_with_joins)?;
                let Some(alias) = alias else { return Ok((plan, scope)) };
                let fields: Vec<OutField> = scope.columns.into_iter().filter(|c| c.plain).map(|c| c.field).collect();
                let fields = renamed(fields, &alias.columns, &fold(&alias.name))?;
                let mut scope = Scope::default();
                scope.add(ScopeTable::named(fold(&alias.name)), fields);
                Ok((plan, scope))
            }
            other => {
                let error = Error::unsupported("this form of FROM is not supported");
                Err(at(error, start_of(other)))
            }
        }
    }

    pub(super) fn parenthesis_before(&self, position: usize) -> usize {
        let before: Vec<char> = self.text.chars().take(position - 1).collect();
        before.iter().rposition(|c| *c == '(').map_or(position, |i| i + 1)
    }

    /// A table, a view, a CTE, ... under its name or an alias.
    pub(super) fn relation(&mut self, name: &ObjectName, alias: Option<&ast::TableAlias>) -> Result<From> {
        let shown = alias.map_or_else(|| name.name.clone(), |a| fold(&a.name));
        let aliases = alias.map_or(&[][..], |a| &a.columns);
        let mut scope = Scope::default();
        if name.schema.is_none()
            && let Some(index) = self.ctes.iter().rposition(|c| c.name == name.name)
        {
            let query = self.cte(index)?;
            let fields = renamed(query.fields, aliases, &shown)?;
            scope.add(ScopeTable::named(shown), fields);
            return Ok((query.plan, scope));
        }
        let object = self.catalog.expect(name, self.settings)?.clone();
        self.depend(&object);
        let schema = alias.is_none().then(|| object.schema.clone());
        match object.kind {
            ObjectKind::View => {
                let query = self.view(&object).map_err(|e| at(e, name.position))?;
                let fields = renamed(query.fields, aliases, &shown)?;
                scope.add(ScopeTable { schema, ..ScopeTable::named(shown) }, fields);
                Ok((query.plan, scope))
            }
            ObjectKind::Index => {
                let error = Error::new("42809", format!("cannot open relation \"{}\"", object.name));
                let error = error.with_detail("This operation is not supported for indexes.");
                Err(at(error, name.position))
            }
            ObjectKind::Sink => {
                let error = Error::new("42809", format!("cannot open relation \"{}\"", object.name));
                let error = error.with_detail("This operation is not supported for sinks.");
                Err(at(error, name.position))
            }
            _ => {
                if object.lookup.is_some() && (!self.view || !std::mem::take(&mut self.looks_up)) {
                    let error = Error::unsupported(format!("\"{}\" is outside and is only looked up", object.name));
                    return Err(at(error, name.position).with_hint(
                        "Join it in a materialized view: JOIN it FOR SYSTEM_TIME AS OF PROCTIME() ON its key.",
                    ));
                }
                if object.kind == ObjectKind::Source && !self.view {
                    let error = Error::unsupported(format!("source \"{}\" keeps no rows to read", object.name));
                    return Err(at(error, name.position).with_hint("Create a materialized view over it and read that."));
                }
                let (plan, fields) = self.scan(&object)?;
                let visible = object.visible().len();
                let declared = object.kind == ObjectKind::Table;
                let key = object.primary_key.iter().filter(|_| declared).map(|&k| fields[k].internal.clone()).collect();
                let fields = renamed(fields.into_iter().take(visible).collect(), aliases, &shown)?;
                let relation = alias.map(|_| object.name.clone());
                scope.add(ScopeTable { relation, schema, key, ..ScopeTable::named(shown) }, fields);
                Ok((plan, scope))
            }
        }
    }

    /// A scan of all columns of a relation, hidden ones included.
    pub(super) fn scan(&mut self, object: &Object) -> Result<(LogicalPlan, Vec<OutField>)> {
        if object.lookup.is_none() {
            self.read(object.id);
        }
        let fields: Vec<OutField> = object
            .columns
            .iter()
            .map(|c| OutField { internal: self.fresh(), name: c.name.clone(), ty: c.ty.clone(), typmod: c.typmod })
            .collect();
        let arrow: Vec<Field> = fields.iter().map(|f| Field::new(&f.internal, f.ty.arrow(), true)).collect();
        let (key, unique) = key_of(object);
        let names = object.columns.iter().map(|c| c.name.clone()).collect();
        let plan = RelationSource::new(object.id, Arc::new(Schema::new(arrow)), key)
            .named(&object.name, names)
            .unique(unique)
            .append_only(object.append_only)
            .looked_up(object.lookup.clone())
            .watermarks(object.watermarks.clone())
            .scan_plan()?;
        Ok((plan, fields))
    }

    /// A view's query, bound in the view's own context.
    fn view(&mut self, object: &Object) -> Result<BoundQuery> {
        if self.expanding.contains(&object.id) || self.expanding.len() >= VIEW_DEPTH_MAX {
            let message = format!("infinite recursion detected in the definition of view \"{}\"", object.name);
            return Err(Error::new("42P17", message));
        }
        let query = match crate::parser::parse(&object.sql)?.pop().map(|p| p.statement) {
            Some(Statement::CreateView(view)) => view.query,
            Some(Statement::Query(query)) => query,
            _ => return Err(Error::new("XX000", format!("the definition of view \"{}\" is no query", object.name))),
        };
        let scopes = std::mem::take(&mut self.scopes);
        let ctes = std::mem::take(&mut self.ctes);
        let text = std::mem::replace(&mut self.text, query.text.clone());
        self.expanding.push(object.id);
        let bound = self.query(&query.ast).and_then(|q| self.without_unknowns(q));
        self.expanding.pop();
        (self.scopes, self.ctes, self.text) = (scopes, ctes, text);
        // Places in the view's text mean nothing in the statement's.
        let mut bound = bound.map_err(|e| Error { position: None, ..e })?;
        for (field, column) in bound.fields.iter_mut().zip(object.visible()) {
            field.name = column.name.clone();
        }
        Ok(bound)
    }
}

/// The columns that rows of a relation are found by, and whether they identify one.
pub(crate) fn key_of(object: &Object) -> (Vec<usize>, bool) {
    if object.lookup.is_some() {
        // Nobody here sees to what is unique there.
        return (vec![], false);
    }
    if !object.stream_key.is_empty() {
        return (object.stream_key.clone(), object.unique);
    }
    if !object.primary_key.is_empty() {
        return (object.primary_key.clone(), true);
    }
    if object.hidden > 0 {
        return (vec![object.columns.len() - 1], true);
    }
    (vec![], false)
}

/// The columns under the names of an alias, which may be fewer.
pub(super) fn renamed(
    mut fields: Vec<OutField>,
    names: &[ast::TableAliasColumnDef],
    table: &str,
) -> Result<Vec<OutField>> {
    if names.len() > fields.len() {
        let (n, m) = (fields.len(), names.len());
        let message = format!("table \"{table}\" has {n} columns available but {m} columns specified");
        return Err(at(Error::new("42P10", message), names.first().and_then(|c| position(&c.name))));
    }
    for (field, name) in fields.iter_mut().zip(names) {
        field.name = fold(&name.name);
    }
    // A function's only column is called as its alias; the caller has named it so.
    Ok(fields)
}

/// The column that USING means.
fn the_column(scope: &Scope, name: &str, side: &str) -> Result<OutField> {
    let mut found = scope.own_columns().filter(|c| c.plain && c.field.name == name);
    let Some(first) = found.next() else {
        let message = format!("column \"{name}\" specified in USING clause does not exist in {side} table");
        return Err(Error::new("42703", message));
    };
    if found.next().is_some() {
        let message = format!("common column name \"{name}\" appears more than once in {side} table");
        return Err(Error::new("42702", message));
    }
    Ok(first.field.clone())
}

/// What a merged column of USING is.
enum Merged {
    One(OutField),
    /// The first that is not NULL.
    Either(OutField, OutField),
}

/// Whether a join has rows that its left side does not have.
fn may_add_rows(operator: &ast::JoinOperator) -> bool {
    use ast::JoinOperator as J;
    matches!(operator, J::Right(_) | J::RightOuter(_) | J::FullOuter(_))
}

/// Whether it may look at what stands before it.
fn is_lateral(factor: &ast::TableFactor) -> bool {
    match factor {
        ast::TableFactor::Derived { lateral, .. } => *lateral,
        factor => function_of(factor).is_some(),
    }
}

/// The version that a table is joined as of, if it says one.
fn version_of(factor: &ast::TableFactor) -> Option<&ast::TableVersion> {
    match factor {
        ast::TableFactor::Table { version, .. } => version.as_ref(),
        _ => None,
    }
}

fn refers_to(outer: &Expr, plan: &LogicalPlan) -> bool {
    matches!(outer, Expr::OuterReferenceColumn(_, c) if plan.schema().index_of_column(&Column::new_unqualified(&c.name)).is_ok())
}

/// A function in FROM.
pub(super) struct FunctionInFrom {
    pub(super) name: String,
    pub(super) args: Vec<ast::Expr>,
    pub(super) alias: Option<ast::TableAlias>,
    pub(super) with_ordinality: bool,
    /// Where it stands, or where its first argument does.
    pub(super) position: Option<usize>,
    /// Whether it was read as the keyword UNNEST.
    pub(super) unnest: bool,
}

/// A factor of FROM as a function, if it is one.
fn function_of(factor: &ast::TableFactor) -> Option<FunctionInFrom> {
    let exprs = |args: &[ast::FunctionArg]| {
        args.iter()
            .map(|a| match a {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => Some(e.clone()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
    };
    let named = |name: &ast::ObjectName, args: &[ast::FunctionArg], alias: &Option<ast::TableAlias>, numbered: bool| {
        let name = object_name(name).ok()?;
        Some(FunctionInFrom {
            position: name.position,
            name: name.name,
            args: exprs(args)?,
            alias: alias.clone(),
            with_ordinality: numbered,
            unnest: false,
        })
    };
    match factor {
        ast::TableFactor::Table { name, alias, args: Some(args), with_ordinality, .. } => {
            named(name, &args.args, alias, *with_ordinality)
        }
        ast::TableFactor::Function { name, args, alias, with_ordinality, .. } => {
            named(name, args, alias, *with_ordinality)
        }
        ast::TableFactor::TableFunction { expr: ast::Expr::Function(f), alias } => {
            let ast::FunctionArguments::List(list) = &f.args else { return None };
            named(&f.name, &list.args, alias, false)
        }
        ast::TableFactor::UNNEST { alias, array_exprs, with_ordinality, .. } => Some(FunctionInFrom {
            position: array_exprs.first().and_then(start_of),
            name: "unnest".into(),
            args: array_exprs.clone(),
            alias: alias.clone(),
            with_ordinality: *with_ordinality,
            unnest: true,
        }),
        _ => None,
    }
}

/// A projection that keeps all columns and adds some.
pub(super) fn with_columns(plan: LogicalPlan, added: Vec<(Expr, String)>) -> Result<LogicalPlan> {
    if added.is_empty() {
        return Ok(plan);
    }
    let all: Vec<Expr> = plan.schema().columns().into_iter().map(|c| column(c.name)).collect();
    let added = added.into_iter().map(|(e, name)| e.alias(name));
    Ok(LogicalPlanBuilder::from(plan).project(all.into_iter().chain(added))?.build()?)
}
