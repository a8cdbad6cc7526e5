//! INSERT, UPDATE, DELETE: plans that give the rows to add and to take away, and RETURNING as a query over them.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use sqlparser::ast;
use storage::SqlType;

use super::names::{Clause, Scope, ScopeTable, fold, object_name, start_of};
use super::{Binder, BoundDelete, BoundInsert, BoundQuery, BoundUpdate, OutField, RETURNING, Typed, at};
use crate::batch::RelationSource;
use crate::catalog::{Object, ObjectKind};
use crate::error::{Error, Result};
use crate::statement::{Delete, Insert, ObjectName, Update};
use crate::types::{self, CastContext};

impl Binder<'_> {
    pub(super) fn insert(mut self, insert: &Insert) -> Result<BoundInsert> {
        let table = self.target(&insert.table, "insert into")?;
        let ast = &insert.ast;
        let visible = table.visible().len();
        let mut columns = vec![];
        let places: Vec<Option<usize>> =
            ast.columns.iter().map(|n| object_name(n).ok().and_then(|n| n.position)).collect();
        for name in &ast.columns {
            let name = object_name(name)?;
            let Some(index) = table.column(&name.name) else {
                let message = format!("column \"{}\" of relation \"{}\" does not exist", name.name, table.name);
                return Err(at(Error::new("42703", message), name.position));
            };
            if columns.contains(&index) {
                let message = format!("column \"{}\" specified more than once", name.name);
                return Err(at(Error::new("42701", message), name.position));
            }
            columns.push(index);
        }
        let listed = !columns.is_empty();
        if !listed {
            columns = (0..visible).collect();
        }
        let source = match &ast.source {
            None => {
                columns.clear();
                let plan = LogicalPlanBuilder::empty(true).build()?;
                BoundQuery { plan, fields: vec![] }
            }
            Some(query) => match query.body.as_ref() {
                ast::SetExpr::Values(values) if is_plain(query) => {
                    self.insert_values(&table, values, &mut columns, listed, &places)?
                }
                _ => {
                    if let Some(column) = columns.iter().find(|c| listed && table.generated.contains(c)) {
                        return Err(never_given(&table, *column));
                    }
                    let bound = self.query(query)?;
                    let items = match query.body.as_ref() {
                        ast::SetExpr::Select(select) => select.projection.as_slice(),
                        _ => &[],
                    };
                    let extra = items.get(columns.len()).and_then(start_of);
                    let missing = places.get(bound.fields.len()).copied().flatten();
                    check_width(bound.fields.len(), &mut columns, listed, extra.or(missing))?;
                    if let Some(column) = columns.iter().find(|c| table.generated.contains(c)) {
                        return Err(never_given(&table, *column));
                    }
                    bound
                }
            },
        };
        // Every visible column: what was given, or its default.
        let literals = projected(&source.plan, source.fields.len());
        let mut exprs = vec![];
        let mut fields = vec![];
        for (i, c) in table.visible().iter().enumerate() {
            let field = OutField { internal: self.fresh(), name: c.name.clone(), ty: c.ty.clone(), typmod: c.typmod };
            let expr = match columns.iter().position(|k| *k == i) {
                Some(given) => {
                    let f = &source.fields[given];
                    let expr = match literals.as_ref().map(|l| &l[given]) {
                        Some(Expr::Literal(value, _)) if f.ty == SqlType::Unknown => {
                            super::literal::literal(value.clone())
                        }
                        _ => f.expr(),
                    };
                    let mut value = Typed { typmod: f.typmod, ..Typed::new(expr, f.ty.clone()) };
                    if value.ty == SqlType::Unknown && !matches!(value.expr, Expr::Literal(..)) {
                        value.ty = SqlType::Text;
                    }
                    self.assign(value, &table, i)?
                }
                None => self.default_of(&table, i)?,
            };
            exprs.push(expr.alias(&field.internal));
            fields.push(field);
        }
        let plan = LogicalPlanBuilder::from(source.plan).project(exprs)?.build()?;
        let source = self.bound(BoundQuery { plan, fields });
        let alias = ast.table_alias.as_ref().map(|a| fold(&a.alias));
        let on_conflict = ast.on.as_ref().map(|on| self.on_conflict(&table, alias.as_ref(), on)).transpose()?;
        let returning = self.returning(&table, alias, ast.returning.as_deref(), Scope::default())?;
        Ok(BoundInsert { table, params: self.all_params(), source, on_conflict, returning })
    }

    /// `VALUES` of an INSERT: every value is typed by its column, DEFAULT is the column's.
    fn insert_values(
        &mut self,
        table: &Object,
        values: &ast::Values,
        columns: &mut Vec<usize>,
        listed: bool,
        places: &[Option<usize>],
    ) -> Result<BoundQuery> {
        let width = values.rows.first().map_or(0, |r| r.content.len());
        let extra = values.rows.first().and_then(|r| r.content.get(columns.len())).and_then(start_of);
        let missing = columns.get(width).and_then(|_| places.get(width).copied().flatten());
        check_width(width, columns, listed, extra.or(missing))?;
        self.scopes.push(Scope { clause: Clause::Values, ..Scope::default() });
        let rows = self.value_rows(table, values, columns, width);
        self.scopes.pop();
        let types = columns.iter().map(|&i| (table.columns[i].ty.clone(), table.columns[i].typmod)).collect();
        self.values_of(rows?, types)
    }

    fn value_rows(
        &mut self,
        table: &Object,
        values: &ast::Values,
        columns: &[usize],
        width: usize,
    ) -> Result<Vec<Vec<Typed>>> {
        let mut rows = vec![];
        for row in &values.rows {
            if row.content.len() != width {
                let place = row.content.first().and_then(start_of);
                return Err(at(Error::new("42601", "VALUES lists must all be the same length"), place));
            }
            let mut out = vec![];
            for (e, &i) in row.content.iter().zip(columns) {
                let c = &table.columns[i];
                let expr = match is_default(e) {
                    true => self.default_of(table, i)?,
                    false if table.generated.contains(&i) => return Err(at(never_given(table, i), start_of(e))),
                    false => {
                        let value = self.expr(e)?;
                        self.assign(value, table, i)?
                    }
                };
                out.push(Typed { typmod: c.typmod, ..Typed::new(expr, c.ty.clone()) });
            }
            rows.push(out);
        }
        Ok(rows)
    }

    pub(super) fn update(mut self, update: &Update) -> Result<BoundUpdate> {
        let table = self.target(&update.table, "update")?;
        let ast = &update.ast;
        let from = match &ast.from {
            Some(ast::UpdateTableFromKind::AfterSet(from)) => from.as_slice(),
            None => &[],
            Some(ast::UpdateTableFromKind::BeforeSet(_)) => {
                return Err(Error::new("42601", "syntax error at or near \"FROM\""));
            }
        };
        if !ast.table.joins.is_empty() {
            return Err(Error::new("42601", "syntax error at or near \"JOIN\""));
        }
        let alias = alias_of(&ast.table.relation);
        let (plan, old, others) = self.scanned_target(&table, alias.clone(), from, ast.selection.as_ref())?;
        let new = self.new_values(&table, &ast.assignments)?;
        let (mut exprs, mut fields) = self.old_and_new(&old, new);
        let more = fields_of(&others);
        exprs.extend(more.iter().map(OutField::expr));
        fields.extend(more);
        let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
        let source = self.bound(BoundQuery { plan, fields });
        let joins = !from.is_empty();
        let returning = self.returning(&table, alias, ast.returning.as_deref(), others)?;
        Ok(BoundUpdate { table, params: self.all_params(), source, joins, returning })
    }

    /// The new value of each column that is set.
    pub(super) fn new_values(&mut self, table: &Object, assignments: &[ast::Assignment]) -> Result<Vec<Option<Expr>>> {
        let mut new: Vec<Option<Expr>> = vec![None; table.columns.len()];
        for assignment in assignments {
            for (name, value) in self.assignments(assignment)? {
                let Some(index) = table.column(&name.name) else {
                    let message = format!("column \"{}\" of relation \"{}\" does not exist", name.name, table.name);
                    return Err(at(Error::new("42703", message), name.position));
                };
                if new[index].is_some() {
                    let message = format!("multiple assignments to same column \"{}\"", name.name);
                    return Err(at(Error::new("42601", message), name.position));
                }
                if table.generated.contains(&index) {
                    // Its default was given when the row came.
                    if is_default(&value) {
                        continue;
                    }
                    let message = format!("column \"{}\" can only be updated to DEFAULT", name.name);
                    return Err(at(generated(message, &name.name), name.position));
                }
                new[index] = Some(match is_default(&value) {
                    true => self.default_of(table, index)?,
                    false => {
                        let value = self.within(Clause::Set, |b| b.expr(&value))?;
                        self.assign(value, table, index)?
                    }
                });
            }
        }
        Ok(new)
    }

    fn assignments(&self, assignment: &ast::Assignment) -> Result<Vec<(ObjectName, ast::Expr)>> {
        match &assignment.target {
            ast::AssignmentTarget::ColumnName(name) => {
                let name = object_name(name)?;
                if let Some(schema) = &name.schema {
                    // `t.a` would be the field `a` of a column `t`.
                    let message = format!("column \"{schema}\" of relation does not exist");
                    return Err(at(Error::new("42703", message), name.position)
                        .with_hint("SET target columns cannot be qualified with the relation name."));
                }
                Ok(vec![(name, assignment.value.clone())])
            }
            ast::AssignmentTarget::Tuple(names) => {
                let values = match super::row::row_items(&assignment.value) {
                    Some(values) => values.to_vec(),
                    None if names.len() == 1 => vec![assignment.value.clone()],
                    None => {
                        let error = Error::unsupported("this form of assignment to several columns is not supported");
                        return Err(at(error, start_of(&assignment.value)));
                    }
                };
                if values.len() != names.len() {
                    let message = "number of columns does not match number of values";
                    return Err(at(Error::new("42601", message), start_of(&assignment.value)));
                }
                names.iter().zip(values).map(|(n, v)| Ok((object_name(n)?, v))).collect()
            }
        }
    }

    pub(super) fn delete(mut self, delete: &Delete) -> Result<BoundDelete> {
        let table = self.target(&delete.table, "delete from")?;
        let ast = &delete.ast;
        let alias = match &ast.from {
            ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from) => {
                from.first().and_then(|t| alias_of(&t.relation))
            }
        };
        let using = ast.using.as_deref().unwrap_or_default();
        let (plan, mut fields, others) = self.scanned_target(&table, alias.clone(), using, ast.selection.as_ref())?;
        fields.extend(fields_of(&others));
        let exprs: Vec<Expr> = fields.iter().map(OutField::expr).collect();
        let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
        let source = self.bound(BoundQuery { plan, fields });
        let joins = !using.is_empty();
        let returning = self.returning(&table, alias, ast.returning.as_deref(), others)?;
        Ok(BoundDelete { table, params: self.all_params(), source, joins, returning })
    }

    /// The table that is changed.
    fn target(&self, name: &ObjectName, verb: &str) -> Result<Arc<Object>> {
        let object = self.catalog.expect(name, self.settings)?.clone();
        let shown = &object.name;
        let refused = match object.kind {
            ObjectKind::Table => return Ok(object),
            ObjectKind::MaterializedView => {
                return Err(Error::new("42809", format!("cannot change materialized view \"{shown}\"")));
            }
            ObjectKind::View => {
                let error = Error::new("55000", format!("cannot {verb} view \"{shown}\""));
                return Err(error.with_hint("Change the tables that it reads."));
            }
            ObjectKind::Source => Error::new("42809", format!("cannot change source \"{shown}\""))
                .with_hint("Create a table with the same connector to change rows."),
            ObjectKind::Index => Error::new("42809", format!("cannot change index \"{shown}\"")),
            ObjectKind::Sink => Error::new("42809", format!("cannot change sink \"{shown}\"")),
            ObjectKind::System => Error::new("42501", format!("permission denied: \"{shown}\" is a system catalog")),
        };
        Err(at(refused, name.position))
    }

    /// A scan of the rows of the table that a condition chooses, joined with the other tables that it looks at; all of
    /// them are the innermost scope. Returns the table's columns and what the names of the other tables mean.
    fn scanned_target(
        &mut self,
        table: &Object,
        alias: Option<String>,
        from: &[ast::TableWithJoins],
        condition: Option<&ast::Expr>,
    ) -> Result<(LogicalPlan, Vec<OutField>, Scope)> {
        let (mut plan, fields) = self.scan(table)?;
        let mut scope = target_scope(table, alias, &fields);
        let mut others = Scope::default();
        if !from.is_empty() {
            self.scopes.push(Scope::default());
            let joined = self.from(from);
            others = self.scopes.pop().expect("just pushed");
            scope.append(others.clone())?;
            plan = LogicalPlanBuilder::from(plan).cross_join(joined?)?.build()?;
        }
        self.scopes.push(scope);
        if let Some(condition) = condition {
            let condition = self.within(Clause::Where, |b| b.condition(condition, "WHERE"))?;
            plan = LogicalPlanBuilder::from(plan).filter(condition)?.build()?;
        }
        Ok((plan, fields, others))
    }

    /// A value as one of a column's.
    fn assign(&mut self, value: Typed, table: &Object, index: usize) -> Result<Expr> {
        let c = &table.columns[index];
        let place = value.position;
        let fits = value.ty == SqlType::Unknown
            || types::cast_context(&value.ty, &c.ty).is_some_and(|least| least <= CastContext::Assignment);
        if !fits {
            let message = format!(
                "column \"{}\" is of type {} but expression is of type {}",
                c.name,
                types::name(&c.ty),
                types::name(&value.ty)
            );
            return Err(
                at(Error::new("42804", message), place).with_hint("You will need to rewrite or cast the expression.")
            );
        }
        self.coerce(value, &c.ty, c.typmod, CastContext::Assignment)
    }

    /// The default of a column, or NULL.
    fn default_of(&mut self, table: &Object, index: usize) -> Result<Expr> {
        let c = &table.columns[index];
        let Some(Some(text)) = table.defaults.get(index) else {
            return Ok(super::literal::literal(types::text::null(&c.ty)));
        };
        let e = crate::parser::parse_expr(text)?;
        self.scopes.push(Scope { clause: Clause::Default, ..Scope::default() });
        let value = self.expr(&e);
        self.scopes.pop();
        let value = value.and_then(|v| self.assign(Typed { position: None, ..v }, table, index));
        value.map_err(|e| Error { position: None, ..e })
    }

    fn returning(
        &mut self,
        table: &Object,
        alias: Option<String>,
        items: Option<&[ast::SelectItem]>,
        mut others: Scope,
    ) -> Result<Option<super::Bound>> {
        let Some(items) = items else { return Ok(None) };
        let mut fields: Vec<OutField> = table
            .columns
            .iter()
            .map(|c| OutField { internal: self.fresh(), name: c.name.clone(), ty: c.ty.clone(), typmod: c.typmod })
            .collect();
        let mut scope = target_scope(table, alias, &fields);
        for mut field in fields_of(&others) {
            let before = std::mem::replace(&mut field.internal, self.fresh());
            for c in others.columns.iter_mut().filter(|c| c.field.internal == before) {
                c.field.internal = field.internal.clone();
            }
            fields.push(field);
        }
        scope.append(others)?;
        scope.clause = Clause::Returning;
        let arrow: Vec<Field> = fields.iter().map(|f| Field::new(&f.internal, f.ty.arrow(), true)).collect();
        let names = fields.iter().map(|f| f.name.clone()).collect();
        let plan = RelationSource::new(RETURNING, Arc::new(Schema::new(arrow)), vec![])
            .named(&table.name, names)
            .scan_plan()?;
        let read = std::mem::replace(&mut self.relations, vec![RETURNING]);
        self.scopes.push(scope);
        let items = self.projection(items);
        self.scopes.pop();
        let items = items?;
        let fields: Vec<OutField> = items.iter().map(|i| self.out_field(i.name.clone(), &i.value)).collect();
        let exprs: Vec<Expr> = items.into_iter().zip(&fields).map(|(i, f)| i.value.expr.alias(&f.internal)).collect();
        let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
        let query = self.without_unknowns(BoundQuery { plan, fields })?;
        let bound = self.bound(query);
        self.relations = read;
        Ok(Some(bound))
    }

    fn all_params(&self) -> Vec<SqlType> {
        self.params.iter().map(|t| t.clone().unwrap_or(SqlType::Text)).collect()
    }
}

pub(super) fn target_scope(table: &Object, alias: Option<String>, fields: &[OutField]) -> Scope {
    let schema = alias.is_none().then(|| table.schema.clone());
    let mut scope = Scope::default();
    let visible = fields[..table.visible().len()].iter().cloned();
    let relation = alias.as_ref().map(|_| table.name.clone());
    let name = alias.unwrap_or_else(|| table.name.clone());
    scope.add(ScopeTable { relation, schema, ..ScopeTable::named(name) }, visible);
    scope
}

/// The columns of a scope, each once.
fn fields_of(scope: &Scope) -> Vec<OutField> {
    let mut fields: Vec<OutField> = vec![];
    for c in &scope.columns {
        if !fields.iter().any(|f| f.internal == c.field.internal) {
            fields.push(c.field.clone());
        }
    }
    fields
}

fn alias_of(factor: &ast::TableFactor) -> Option<String> {
    match factor {
        ast::TableFactor::Table { alias: Some(alias), .. } => Some(fold(&alias.name)),
        _ => None,
    }
}

/// A value for a column that gets its own.
fn never_given(table: &Object, index: usize) -> Error {
    let name = &table.columns[index].name;
    generated(format!("cannot insert a non-DEFAULT value into column \"{name}\""), name)
}

fn generated(message: String, column: &str) -> Error {
    Error::new("428C9", message).with_detail(format!("Column \"{column}\" is a generated column."))
}

/// The keyword DEFAULT in place of a value.
fn is_default(e: &ast::Expr) -> bool {
    matches!(e, ast::Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"))
}

/// A query that is nothing but its VALUES.
fn is_plain(query: &ast::Query) -> bool {
    query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none() && query.fetch.is_none()
}

/// As many values as columns; without a list of columns there may be fewer.
fn check_width(width: usize, columns: &mut Vec<usize>, listed: bool, place: Option<usize>) -> Result<()> {
    if width > columns.len() {
        return Err(at(Error::new("42601", "INSERT has more expressions than target columns"), place));
    }
    if width < columns.len() {
        if listed {
            return Err(at(Error::new("42601", "INSERT has more target columns than expressions"), place));
        }
        columns.truncate(width);
    }
    Ok(())
}

/// What a plan selects, if it is a projection.
fn projected(plan: &LogicalPlan, n: usize) -> Option<Vec<Expr>> {
    let LogicalPlan::Projection(p) = plan else { return None };
    (p.expr.len() == n).then(|| p.expr.iter().map(|e| e.clone().unalias()).collect())
}
