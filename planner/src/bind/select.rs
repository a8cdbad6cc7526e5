//! Queries and SELECT, in the order in which Postgres computes them: FROM, WHERE, GROUP BY, HAVING, the select list,
//! windows, DISTINCT, ORDER BY, LIMIT.

use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Sort, SortExpr};
use sqlparser::ast;
use storage::SqlType;

use super::grouping::Grouping;
use super::names::{Call, Clause, Scope, display_name, fold, object_name, refers_to, start_of};
use super::set_returning::expand_nested;
use super::{Binder, BoundQuery, Cte, OutField, Typed, at};
use crate::error::{Error, Result};
use crate::expr::column;

/// An item of a select list.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) value: Typed,
}

/// What a name of WITH means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CteKind {
    /// A query that does not read itself.
    Plain,
    /// A query of WITH RECURSIVE.
    Recursive,
    /// Inside of such a query, what its last round has found; it may be read once.
    LastRound,
}

impl Binder<'_> {
    /// A query with its CTEs, order and limit.
    #[::recursive::recursive]
    pub(super) fn query(&mut self, query: &ast::Query) -> Result<BoundQuery> {
        let ctes = self.ctes.len();
        let result = self.query_with(query);
        self.ctes.truncate(ctes);
        result
    }

    fn query_with(&mut self, query: &ast::Query) -> Result<BoundQuery> {
        if let Some(with) = &query.with {
            let kind = if with.recursive { CteKind::Recursive } else { CteKind::Plain };
            for cte in &with.cte_tables {
                self.declare_cte(cte, kind)?;
            }
        }
        let order = match &query.order_by {
            None => &[][..],
            Some(ast::OrderBy { kind: ast::OrderByKind::Expressions(exprs), .. }) => exprs,
            Some(_) => return Err(Error::new("42601", "syntax error at or near \"ALL\"")),
        };
        let mut bound = match query.body.as_ref() {
            ast::SetExpr::Select(select) => self.select(select, order)?,
            body => {
                let bound = self.set_expr(body)?;
                self.order_output(bound, order)?
            }
        };
        bound.plan = self.limit(bound.plan, query)?;
        Ok(bound)
    }

    fn declare_cte(&mut self, cte: &ast::Cte, kind: CteKind) -> Result<()> {
        let name = fold(&cte.alias.name);
        let columns: Vec<ast::Ident> = cte.alias.columns.iter().map(|c| c.name.clone()).collect();
        let scopes = std::mem::take(&mut self.scopes);
        let bound = self.cte_query(&name, &columns, &cte.query, kind);
        self.scopes = scopes;
        let bound = bound?;
        if columns.len() > bound.fields.len() {
            let (n, m) = (bound.fields.len(), columns.len());
            let message = format!("WITH query \"{name}\" has {n} columns available but {m} columns specified");
            return Err(at(Error::new("42P10", message), super::names::position(&cte.alias.name)));
        }
        self.ctes.push(Cte { name, columns, query: cte.query.clone(), bound: Some(bound), kind });
        Ok(())
    }

    /// The query of a CTE.
    fn cte_query(
        &mut self,
        name: &str,
        columns: &[ast::Ident],
        query: &ast::Query,
        kind: CteKind,
    ) -> Result<BoundQuery> {
        if kind == CteKind::Recursive
            && let Some(bound) = self.recursive(name, columns, query)?
        {
            return Ok(bound);
        }
        self.query(query).and_then(|q| self.without_unknowns(q))
    }

    /// One use of a CTE.
    pub(super) fn cte(&mut self, index: usize) -> Result<BoundQuery> {
        let bound = match self.ctes[index].bound.take() {
            Some(bound) => bound,
            None => {
                // It sees the CTEs before it, and nothing of where it is used.
                let Cte { name, columns, query, kind, .. } = self.ctes[index].clone();
                if kind == CteKind::LastRound {
                    let message = format!("recursive reference to query \"{name}\" must not appear more than once");
                    return Err(Error::new("42P19", message));
                }
                let later = self.ctes.split_off(index);
                let scopes = std::mem::take(&mut self.scopes);
                let bound = self.cte_query(&name, &columns, &query, kind);
                self.scopes = scopes;
                self.ctes.extend(later);
                bound?
            }
        };
        let mut bound = bound;
        for (field, name) in bound.fields.iter_mut().zip(&self.ctes[index].columns) {
            field.name = fold(name);
        }
        Ok(bound)
    }

    /// A body without order.
    pub(super) fn set_expr(&mut self, body: &ast::SetExpr) -> Result<BoundQuery> {
        match body {
            ast::SetExpr::Select(select) => self.select(select, &[]),
            ast::SetExpr::Query(query) => self.query(query),
            ast::SetExpr::Values(values) => self.values(values),
            ast::SetExpr::SetOperation { left, op, set_quantifier, right } => {
                self.set_operation(left, *op, *set_quantifier, right)
            }
            ast::SetExpr::Table(table) => {
                let name = ast::Ident::new(table.table_name.clone().unwrap_or_default());
                let mut parts: Vec<ast::Ident> = table.schema_name.iter().map(ast::Ident::new).collect();
                parts.push(name);
                let sql = parts.iter().map(|p| format!("\"{}\"", fold(p))).collect::<Vec<_>>().join(".");
                let query = crate::parser::parse_query(&format!("SELECT * FROM {sql}"))?;
                self.query(&query.ast)
            }
            _ => Err(Error::unsupported("INSERT, UPDATE and DELETE inside a query are not supported")),
        }
    }

    fn select(&mut self, select: &ast::Select, order: &[ast::OrderByExpr]) -> Result<BoundQuery> {
        self.scopes.push(Scope::default());
        let result = self.select_here(select, order);
        self.scopes.pop();
        result
    }

    fn select_here(&mut self, select: &ast::Select, order: &[ast::OrderByExpr]) -> Result<BoundQuery> {
        refuse_foreign_syntax(select)?;
        let mut plan = self.from(&select.from)?;
        // Postgres looks at the select list before WHERE: so errors come in its order.
        self.scope().named_windows = select.named_window.clone();
        let mut items = self.projection(&select.projection)?;
        if let Some(condition) = &select.selection {
            let condition = self.within(Clause::Where, |b| b.condition(condition, "WHERE"))?;
            plan = LogicalPlanBuilder::from(plan).filter(condition)?.build()?;
        }
        let group = self.group_by(&select.group_by, &select.projection, &items)?;
        let having = match &select.having {
            Some(e) => Some(self.within(Clause::Having, |b| b.condition(e, "HAVING"))?),
            None => None,
        };
        let on = match &select.distinct {
            Some(ast::Distinct::On(exprs)) => exprs.as_slice(),
            _ => &[],
        };
        let distinct = matches!(select.distinct, Some(ast::Distinct::Distinct));
        let visible = items.len();
        let on = on.iter().map(|e| self.output_expr(e, &select.projection, &mut items)).collect::<Result<Vec<_>>>()?;
        let mut sort = vec![];
        for by in order {
            let place = start_of(&by.expr);
            let index = self.output_expr(&by.expr, &select.projection, &mut items)?;
            if distinct && index >= visible {
                let message = "for SELECT DISTINCT, ORDER BY expressions must appear in select list";
                return Err(at(Error::new("42P10", message), place));
            }
            sort.push((index, by.options));
        }
        if !on.is_empty() {
            let prefix = sort.iter().take(on.len()).map(|(i, _)| *i).collect::<Vec<_>>();
            if !prefix.iter().all(|i| on.contains(i)) || (sort.len() > on.len() && prefix.len() < on.len()) {
                let message = "SELECT DISTINCT ON expressions must match initial ORDER BY expressions";
                return Err(at(Error::new("42P10", message), order.first().and_then(|o| start_of(&o.expr))));
            }
        }

        let mut unused = self.unused_windows()?;

        // Aggregates below the select list, and windows above them.
        let mut having = having;
        let mut sets = self.scope().sets.clone();
        let grouped_by = |set: &Call| group.iter().flat_map(|g| &g.exprs).any(|g| refers_to(&g.expr, &set.internal));
        if sets.iter().any(grouped_by) {
            plan = expand_nested(plan, std::mem::take(&mut sets))?;
        }
        let calls = !self.scope().aggregates.is_empty() || !self.scope().groupings.is_empty();
        let aggregated = group.is_some() || having.is_some() || calls;
        if aggregated {
            let mut exprs: Vec<&mut Expr> = items.iter_mut().map(|i| &mut i.value.expr).collect();
            exprs.extend(having.as_mut());
            exprs.extend(unused.iter_mut());
            exprs.extend(sets.iter_mut().map(|set| &mut set.expr));
            plan = self.aggregate(plan, group.unwrap_or_else(Grouping::none), exprs)?;
        }
        if let Some(condition) = having {
            plan = LogicalPlanBuilder::from(plan).filter(condition)?.build()?;
        }
        plan = self.windows(plan)?;
        plan = expand_nested(plan, sets)?;

        let fields: Vec<OutField> =
            items.iter().map(|i| (i.name.clone(), i.value.clone())).map(|(n, v)| self.out_field(n, &v)).collect();
        let exprs: Vec<Expr> = items.into_iter().zip(&fields).map(|(i, f)| i.value.expr.alias(&f.internal)).collect();
        let mut bound = BoundQuery { plan: LogicalPlanBuilder::from(plan).project(exprs)?.build()?, fields };
        if distinct {
            bound.plan = self.distinct(bound.plan, &bound.fields)?;
        }
        let sorts: Vec<SortExpr> = sort.iter().map(|(i, options)| sort_by(&bound.fields[*i], options)).collect();
        if !on.is_empty() {
            let keys: Vec<Expr> =
                on.iter().map(|&i| Self::order_of(&bound.fields[i].ty, bound.fields[i].expr())).collect();
            let all: Vec<Expr> = bound.fields.iter().map(OutField::expr).collect();
            // What is not in the order decides nothing, but the keys come first.
            let mut by = sorts.clone();
            for key in keys.iter().skip(by.len()) {
                by.push(SortExpr::new(key.clone(), true, false));
            }
            bound.plan = LogicalPlanBuilder::from(bound.plan).distinct_on(keys, all, Some(by))?.build()?;
        }
        if !sorts.is_empty() {
            // The builder would look for columns that are not there, and cannot rebuild a DISTINCT ON for that.
            bound.plan = LogicalPlan::Sort(Sort { expr: sorts, input: bound.plan.into(), fetch: None });
        }
        if bound.fields.len() > visible {
            bound.fields.truncate(visible);
            let exprs: Vec<Expr> = bound.fields.iter().map(OutField::expr).collect();
            bound.plan = LogicalPlanBuilder::from(bound.plan).project(exprs)?.build()?;
        }
        Ok(bound)
    }

    /// The items of a select list, `*` expanded.
    pub(super) fn projection(&mut self, projection: &[ast::SelectItem]) -> Result<Vec<Item>> {
        let mut items = vec![];
        for item in projection {
            match item {
                ast::SelectItem::UnnamedExpr(e) => {
                    let value = self.expr(e)?;
                    self.no_record(&value)?;
                    items.push(Item { name: display_name(e), value: self.settle(value)? });
                }
                ast::SelectItem::ExprWithAlias { expr, alias } => {
                    let value = self.expr(expr)?;
                    self.no_record(&value)?;
                    items.push(Item { name: fold(alias), value: self.settle(value)? });
                }
                ast::SelectItem::Wildcard(options) => {
                    let place = Some(options.wildcard_token.0.span.start.column as usize);
                    if self.scope().tables.is_empty() {
                        let error = Error::new("42601", "SELECT * with no tables specified is not valid");
                        return Err(at(error, place));
                    }
                    let excluded = excluded(options)?;
                    self.wildcard(None, &excluded, place, &mut items);
                }
                ast::SelectItem::QualifiedWildcard(ast::SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
                    let name = object_name(name)?;
                    let level = self.scopes.len() - 1;
                    let Some(table) = self.table_in(level, name.schema.as_ref(), &name.name) else {
                        let message = format!("missing FROM-clause entry for table \"{}\"", name.name);
                        return Err(at(Error::new("42P01", message), name.position));
                    };
                    let excluded = excluded(options)?;
                    self.wildcard(Some(table), &excluded, name.position, &mut items);
                }
                _ => return Err(Error::unsupported("this form of select item is not supported")),
            }
        }
        Ok(items)
    }

    fn wildcard(&mut self, table: Option<usize>, excluded: &[String], place: Option<usize>, items: &mut Vec<Item>) {
        let scope = self.scope();
        for c in &scope.columns {
            let shown = match table {
                Some(t) => c.table == Some(t),
                None => c.plain,
            };
            if shown && !excluded.contains(&c.field.name) {
                let f = &c.field;
                let value = Typed { expr: f.expr(), ty: f.ty.clone(), typmod: f.typmod, position: place };
                items.push(Item { name: f.name.clone(), value });
                if let Some(place) = place {
                    scope.referred.insert(c.field.internal.clone(), place);
                }
            }
        }
    }

    /// The item that ORDER BY or DISTINCT ON means: an output column by number or name, or an expression.
    fn output_expr(&mut self, e: &ast::Expr, projection: &[ast::SelectItem], items: &mut Vec<Item>) -> Result<usize> {
        let place = start_of(e);
        let shown = items.len();
        if let Some(number) = ordinal(e) {
            return match number.checked_sub(1).filter(|i| *i < shown) {
                Some(index) => Ok(index),
                None => {
                    let message = format!("ORDER BY position {number} is not in select list");
                    Err(at(Error::new("42P10", message), place))
                }
            };
        }
        if let ast::Expr::Value(v) = e
            && !matches!(v.value, ast::Value::Placeholder(_))
        {
            let message = match v.value {
                ast::Value::Number(..) | ast::Value::SingleQuotedString(_) | ast::Value::Boolean(_) => {
                    "non-integer constant in ORDER BY"
                }
                _ => "",
            };
            if !message.is_empty() {
                return Err(at(Error::new("42601", message), place));
            }
        }
        let _ = projection;
        if let ast::Expr::Identifier(ident) = e {
            let name = fold(ident);
            let mut named = (0..items.len()).filter(|i| items[*i].name == name);
            if let Some(first) = named.next() {
                if named.any(|i| items[i].value.expr != items[first].value.expr) {
                    let message = format!("ORDER BY \"{name}\" is ambiguous");
                    return Err(at(Error::new("42702", message), place));
                }
                return Ok(first);
            }
        }
        let value = self.within(Clause::OrderBy, |b| b.expr(e))?;
        let value = self.settle(value)?;
        if let Some(index) = items.iter().position(|i| i.value.expr == value.expr) {
            return Ok(index);
        }
        items.push(Item { name: String::new(), value });
        Ok(items.len() - 1)
    }

    /// ORDER BY over the columns of a set operation: names and numbers only.
    fn order_output(&mut self, mut bound: BoundQuery, order: &[ast::OrderByExpr]) -> Result<BoundQuery> {
        if order.is_empty() {
            return Ok(bound);
        }
        let mut sorts = vec![];
        for by in order {
            let place = start_of(&by.expr);
            let index =
                match &by.expr {
                    e if ordinal(e).is_some() => {
                        let number = ordinal(e).expect("just seen");
                        number.checked_sub(1).filter(|i| *i < bound.fields.len()).ok_or_else(|| {
                            let message = format!("ORDER BY position {number} is not in select list");
                            at(Error::new("42P10", message), place)
                        })?
                    }
                    ast::Expr::Identifier(ident) => {
                        let name = fold(ident);
                        bound.fields.iter().position(|f| f.name == name).ok_or_else(|| {
                            at(Error::new("42703", format!("column \"{name}\" does not exist")), place)
                        })?
                    }
                    _ => {
                        let error = Error::new("0A000", "invalid UNION/INTERSECT/EXCEPT ORDER BY clause");
                        return Err(at(error, place)
                            .with_detail("Only result column names can be used, not expressions or functions.")
                            .with_hint(
                                "Add the expression/function to every SELECT, or move the UNION into a FROM clause.",
                            ));
                    }
                };
            sorts.push(sort_by(&bound.fields[index], &by.options));
        }
        bound.plan = LogicalPlanBuilder::from(bound.plan).sort(sorts)?.build()?;
        Ok(bound)
    }

    /// Each row once. Rows are equal if their keys are.
    pub(super) fn distinct(&mut self, plan: LogicalPlan, fields: &[OutField]) -> Result<LogicalPlan> {
        if fields.iter().all(|f| crate::functions::key(&f.ty).is_none()) {
            return Ok(LogicalPlanBuilder::from(plan).distinct()?.build()?);
        }
        let group = fields.iter().map(|f| Typed { typmod: f.typmod, ..Typed::new(f.expr(), f.ty.clone()) }).collect();
        let (plan, _) = self.grouped(plan, group, vec![])?;
        Ok(LogicalPlanBuilder::from(plan).project(fields.iter().map(OutField::expr).collect::<Vec<_>>())?.build()?)
    }

    /// `VALUES (...), (...)`
    fn values(&mut self, values: &ast::Values) -> Result<BoundQuery> {
        self.scopes.push(Scope { clause: Clause::Values, ..Scope::default() });
        let rows = values.rows.iter().map(|row| row.content.iter().map(|e| self.expr(e)).collect::<Result<Vec<_>>>());
        let rows = rows.collect::<Result<Vec<_>>>();
        self.scopes.pop();
        let rows = rows?;
        let width = rows.first().map_or(0, Vec::len);
        if let Some(i) = rows.iter().position(|r| r.len() != width) {
            let place = rows[i].first().and_then(|t| t.position);
            return Err(at(Error::new("42601", "VALUES lists must all be the same length"), place));
        }
        let mut types = vec![];
        for i in 0..width {
            let column: Vec<Typed> = rows.iter().map(|r| r[i].clone()).collect();
            types.push(match rows.len() {
                // One row keeps what is untyped, for INSERT to type it.
                1 => (column[0].ty.clone(), column[0].typmod),
                _ if column.iter().all(|v| v.ty == SqlType::Unknown) => (SqlType::Unknown, -1),
                _ => self.unify(&column, "VALUES")?,
            });
        }
        self.values_of(rows, types)
    }

    /// Rows of constants or expressions without columns, cast to these types.
    pub(super) fn values_of(&mut self, rows: Vec<Vec<Typed>>, types: Vec<(SqlType, i32)>) -> Result<BoundQuery> {
        let mut exprs = vec![];
        for row in rows {
            let mut out = vec![];
            for (value, (ty, _)) in row.into_iter().zip(&types) {
                let ty = Self::known(ty.clone());
                let expr = self.implicit(value, &ty)?;
                out.push(match crate::expr::constant(&expr) {
                    Some(value) => super::literal::literal(value),
                    None => expr,
                });
            }
            exprs.push(out);
        }
        let fields: Vec<OutField> = types
            .into_iter()
            .enumerate()
            .map(|(i, (ty, typmod))| OutField {
                internal: self.fresh(),
                name: format!("column{}", i + 1),
                ty: Self::known(ty),
                typmod,
            })
            .collect();
        // Subqueries and the like cannot stand in a list of values.
        let simple = exprs.iter().flatten().all(|e| matches!(e, Expr::Literal(..) | Expr::Placeholder(_)));
        if !simple && exprs.len() == 1 {
            let row = exprs.pop().expect("there is one");
            let plan = LogicalPlanBuilder::empty(true)
                .project(row.into_iter().zip(&fields).map(|(e, f)| e.alias(&f.internal)).collect::<Vec<_>>())?
                .build()?;
            return Ok(BoundQuery { plan, fields });
        }
        let arrow: Vec<arrow_schema::Field> =
            fields.iter().map(|f| arrow_schema::Field::new(&f.internal, f.ty.arrow(), true)).collect();
        let schema = datafusion::common::DFSchema::from_unqualified_fields(arrow.into(), Default::default())?;
        let plan = LogicalPlan::Values(datafusion::logical_expr::Values { schema: schema.into(), values: exprs });
        Ok(BoundQuery { plan, fields })
    }
}

/// `* EXCEPT (a, b)`
fn excluded(options: &ast::WildcardAdditionalOptions) -> Result<Vec<String>> {
    if options.opt_ilike.is_some() || options.opt_replace.is_some() || options.opt_rename.is_some() {
        return Err(Error::unsupported("this form of * is not supported"));
    }
    let mut names = vec![];
    if let Some(except) = &options.opt_except {
        names.push(fold(&except.first_element));
        names.extend(except.additional_elements.iter().map(fold));
    }
    Ok(names)
}

fn refuse_foreign_syntax(select: &ast::Select) -> Result<()> {
    let foreign = select.top.is_some()
        || select.into.is_some()
        || !select.lateral_views.is_empty()
        || select.prewhere.is_some()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty()
        || select.qualify.is_some()
        || !select.connect_by.is_empty()
        || select.value_table_mode.is_some();
    if foreign {
        return Err(at(Error::unsupported("this form of SELECT is not supported"), start_of(select)));
    }
    Ok(())
}

/// The number that an output column is named by.
pub(super) fn ordinal(e: &ast::Expr) -> Option<usize> {
    match e {
        ast::Expr::Value(v) => match &v.value {
            ast::Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// How a column is sorted: by its key, NULLs last unless it is descending.
pub(super) fn sort_by(field: &OutField, options: &ast::OrderByOptions) -> SortExpr {
    let asc = options.asc.unwrap_or(true);
    SortExpr::new(Binder::order_of(&field.ty, column(&field.internal)), asc, options.nulls_first.unwrap_or(!asc))
}
