//! What names in queries mean: identifiers folded as Postgres folds them, columns found through the scopes.

use std::collections::{HashMap, HashSet};

use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::Expr;
use sqlparser::ast;
use storage::SqlType;

use super::{Binder, OutField, Typed, at};
use crate::error::{Error, Result};
use crate::expr::subquery_of;
pub(super) use crate::parser::names::{fold, object_name, position, start_of};

/// The part of a query that an expression stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Clause {
    #[default]
    Select,
    Where,
    On,
    GroupBy,
    Having,
    OrderBy,
    Values,
    Limit,
    Returning,
    Set,
    Default,
    FromFunction,
    /// A LATERAL subquery, as those see it that it looks at.
    FromSubquery,
    AggregateArgument,
    AggregateFilter,
    WindowArgument,
    WindowDefinition,
}

impl Clause {
    /// Why aggregates are not allowed here, if they are not.
    pub(super) fn no_aggregates(self) -> Option<&'static str> {
        Some(match self {
            Clause::Select | Clause::Having | Clause::OrderBy | Clause::WindowArgument | Clause::WindowDefinition => {
                return None;
            }
            Clause::Where => "aggregate functions are not allowed in WHERE",
            Clause::On => "aggregate functions are not allowed in JOIN conditions",
            Clause::GroupBy => "aggregate functions are not allowed in GROUP BY",
            Clause::Values => "aggregate functions are not allowed in VALUES",
            Clause::Limit => "aggregate functions are not allowed in LIMIT",
            Clause::Returning => "aggregate functions are not allowed in RETURNING",
            Clause::Set => "aggregate functions are not allowed in UPDATE",
            Clause::Default => "aggregate functions are not allowed in DEFAULT expressions",
            Clause::FromFunction => "aggregate functions are not allowed in functions in FROM",
            Clause::FromSubquery => "aggregate functions are not allowed in FROM clause of their own query level",
            Clause::AggregateArgument => "aggregate function calls cannot be nested",
            Clause::AggregateFilter => "aggregate functions are not allowed in FILTER",
        })
    }

    /// Why window functions are not allowed here, if they are not.
    pub(super) fn no_windows(self) -> Option<&'static str> {
        Some(match self {
            Clause::Select | Clause::OrderBy => return None,
            Clause::Where => "window functions are not allowed in WHERE",
            Clause::On => "window functions are not allowed in JOIN conditions",
            Clause::GroupBy => "window functions are not allowed in GROUP BY",
            Clause::Having => "window functions are not allowed in HAVING",
            Clause::Values => "window functions are not allowed in VALUES",
            Clause::Limit => "window functions are not allowed in LIMIT",
            Clause::Returning => "window functions are not allowed in RETURNING",
            Clause::Set => "window functions are not allowed in UPDATE",
            Clause::Default => "window functions are not allowed in DEFAULT expressions",
            Clause::FromFunction => "window functions are not allowed in functions in FROM",
            Clause::FromSubquery => "window functions are not allowed in FROM clause of their own query level",
            Clause::AggregateArgument => "aggregate function calls cannot contain window function calls",
            Clause::AggregateFilter => "window functions are not allowed in FILTER",
            Clause::WindowArgument => "window function calls cannot be nested",
            Clause::WindowDefinition => "window functions are not allowed in window definitions",
        })
    }
}

/// A table of a FROM clause under the name it has there.
#[derive(Clone, Debug)]
pub(crate) struct ScopeTable {
    pub(super) schema: Option<String>,
    pub(super) name: String,
    /// The relation's own name, if it has an alias.
    pub(super) relation: Option<String>,
    /// The key of the table, as unique names, if it identifies a row by declaration.
    pub(super) key: Vec<String>,
    /// The column that the table's name means as a value: the only one of a function that returns no record.
    pub(super) whole: Option<String>,
}

impl ScopeTable {
    /// A table that is known by this name only.
    pub(super) fn named(name: String) -> ScopeTable {
        ScopeTable { schema: None, name, relation: None, key: vec![], whole: None }
    }
}

/// A column that names may mean.
#[derive(Clone, Debug)]
pub(crate) struct ScopeColumn {
    /// Its table, as an index into the scope's; none for a merged column of USING.
    pub(super) table: Option<usize>,
    pub(super) field: OutField,
    /// Whether its name alone finds it, and `*` shows it: not if a merged column stands for it.
    pub(super) plain: bool,
}

/// An aggregate or window call of a query level, computed below the expressions that use it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(super) expr: Expr,
    pub(super) internal: String,
}

/// A call of `grouping()`: which of some group expressions a row was not grouped by.
#[derive(Clone, Debug)]
pub(crate) struct GroupingCall {
    pub(super) args: Vec<Typed>,
    pub(super) internal: String,
}

/// What the names of one query level mean, and what its expressions need computed below them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(super) tables: Vec<ScopeTable>,
    pub(super) columns: Vec<ScopeColumn>,
    pub(super) clause: Clause,
    pub(super) aggregates: Vec<Call>,
    pub(super) windows: Vec<Call>,
    /// Set-returning functions of the select list.
    pub(super) sets: Vec<Call>,
    /// What is being bound that is computed for some rows only, where no such function may stand.
    pub(super) conditional: Option<&'static str>,
    pub(super) named_windows: Vec<ast::NamedWindowDefinition>,
    /// The names of those that something refers to.
    pub(super) used_windows: HashSet<String>,
    pub(super) groupings: Vec<GroupingCall>,
    /// How many tables and columns stand before the comma that the joins being bound are behind.
    pub(super) before_comma: (usize, usize),
    /// Where each column was last referred to, for errors.
    pub(super) referred: HashMap<String, usize>,
}

impl Scope {
    /// Adds a table with its columns.
    pub(super) fn add(&mut self, table: ScopeTable, fields: impl IntoIterator<Item = OutField>) {
        let index = self.tables.len();
        self.tables.push(table);
        self.columns.extend(fields.into_iter().map(|field| ScopeColumn { table: Some(index), field, plain: true }));
    }

    /// The tables and columns of another part of the same FROM clause.
    pub(super) fn append(&mut self, other: Scope) -> Result<()> {
        for table in &other.tables {
            if self.tables.iter().any(|t| t.name == table.name && t.schema == table.schema) {
                return Err(duplicate(&table.name));
            }
        }
        let shift = self.tables.len();
        self.tables.extend(other.tables);
        self.columns.extend(other.columns.into_iter().map(|c| ScopeColumn { table: c.table.map(|t| t + shift), ..c }));
        Ok(())
    }

    /// The columns that a condition of a join sees: not those before the last comma.
    pub(super) fn own_columns(&self) -> impl Iterator<Item = &ScopeColumn> {
        self.columns.iter().skip(self.before_comma.1)
    }

    /// Takes out what stands before the last comma.
    pub(super) fn hide_before_comma(&mut self) -> (Vec<ScopeTable>, Vec<ScopeColumn>) {
        let (n_tables, n_columns) = self.before_comma;
        // The columns know their tables by number: the places stay.
        let nothing = || ScopeTable::named(String::new());
        let tables = self.tables[..n_tables].iter_mut().map(|table| std::mem::replace(table, nothing())).collect();
        (tables, self.columns.drain(..n_columns).collect())
    }

    /// Puts it back.
    pub(super) fn show_again(&mut self, (tables, columns): (Vec<ScopeTable>, Vec<ScopeColumn>)) {
        self.tables.splice(..tables.len(), tables);
        self.columns.splice(..0, columns);
    }

    /// `table.column` or `column`, for messages.
    pub(super) fn shown(&self, internal: &str) -> Option<String> {
        let column = self.columns.iter().find(|c| c.field.internal == internal)?;
        Some(match column.table {
            Some(t) => format!("{}.{}", self.tables[t].name, column.field.name),
            None => column.field.name.clone(),
        })
    }
}

fn duplicate(name: &str) -> Error {
    Error::new("42712", format!("table name \"{name}\" specified more than once"))
}

impl Binder<'_> {
    pub(super) fn scope(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        self.scopes.last_mut().expect("just pushed")
    }

    /// Binds with another clause in force.
    pub(super) fn within<T>(&mut self, clause: Clause, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::replace(&mut self.scope().clause, clause);
        let result = f(self);
        self.scope().clause = before;
        result
    }

    /// A column by its name alone.
    pub(super) fn column_named(&mut self, ident: &ast::Ident) -> Result<Typed> {
        let name = fold(ident);
        let place = position(ident);
        for level in (0..self.scopes.len()).rev() {
            let mut found = self.scopes[level].columns.iter().filter(|c| c.plain && c.field.name == name);
            if let Some(first) = found.next() {
                if found.next().is_some() {
                    return Err(at(Error::new("42702", format!("column reference \"{name}\" is ambiguous")), place));
                }
                let field = first.field.clone();
                return Ok(self.reference(level, &field, place));
            }
        }
        for level in (0..self.scopes.len()).rev() {
            let scope = &self.scopes[level];
            let whole = scope.tables.iter().find(|t| t.name == name).and_then(|t| t.whole.as_ref());
            if let Some(column) = whole.and_then(|w| scope.columns.iter().find(|c| c.field.internal == *w)) {
                let field = column.field.clone();
                return Ok(self.reference(level, &field, place));
            }
        }
        let constants = ["current_schema", "current_role", "session_user", "current_user", "current_catalog", "user"];
        if ident.quote_style.is_none()
            && constants.contains(&name.as_str())
            && let Some(value) = self.constant(&name, &[], place)?
        {
            return Ok(value);
        }
        if ident.quote_style.is_none() && name == "default" {
            return Err(at(Error::new("42601", "DEFAULT is not allowed in this context"), place));
        }
        if ident.quote_style.is_none() && crate::parser::is_reserved(&name) {
            return Err(at(Error::new("42601", format!("syntax error at or near \"{}\"", ident.value)), place));
        }
        if self.scopes.iter().any(|s| s.tables.iter().any(|t| t.name == name)) {
            let error = Error::unsupported(format!("a whole row of \"{name}\" as a value is not supported"));
            return Err(at(error.with_hint("Name the columns."), place));
        }
        let error = Error::new("42703", format!("column \"{name}\" does not exist"));
        Err(at(self.with_similar(error, None, &name), place))
    }

    /// `table.column`, `schema.table.column`
    pub(super) fn column_of(&mut self, idents: &[ast::Ident]) -> Result<Typed> {
        let place = idents.first().and_then(position);
        let parts: Vec<String> = idents.iter().map(fold).collect();
        let (schema, table, name) = match parts.as_slice() {
            [table, name] => (None, table, name),
            [schema, table, name] | [_, schema, table, name] => (Some(schema), table, name),
            _ => {
                let message = format!("improper qualified name (too many dotted names): {}", parts.join("."));
                return Err(at(Error::new("42601", message), place));
            }
        };
        for level in (0..self.scopes.len()).rev() {
            let Some(t) = self.table_in(level, schema, table) else { continue };
            let scope = &self.scopes[level];
            let mut found = scope.columns.iter().filter(|c| c.table == Some(t) && c.field.name == *name);
            let Some(first) = found.next() else {
                let error = Error::new("42703", format!("column {table}.{name} does not exist"));
                return Err(at(self.with_similar(error, Some(table), name), place));
            };
            if found.next().is_some() {
                return Err(at(Error::new("42702", format!("column reference \"{name}\" is ambiguous")), place));
            }
            let field = first.field.clone();
            return Ok(self.reference(level, &field, place));
        }
        // Under an alias the table's own name is hidden.
        let aliased = self.scopes.iter().rev().flat_map(|s| &s.tables).find(|t| t.relation.as_ref() == Some(table));
        Err(match aliased {
            Some(t) => {
                let message = format!("invalid reference to FROM-clause entry for table \"{table}\"");
                let hint = format!("Perhaps you meant to reference the table alias \"{}\".", t.name);
                at(Error::new("42P01", message).with_hint(hint), place)
            }
            None => at(Error::new("42P01", format!("missing FROM-clause entry for table \"{table}\"")), place),
        })
    }

    /// The table that `[schema.]name` means at a level.
    pub(super) fn table_in(&self, level: usize, schema: Option<&String>, name: &str) -> Option<usize> {
        self.scopes[level]
            .tables
            .iter()
            .position(|t| t.name == name && schema.is_none_or(|s| t.schema.as_ref() == Some(s)))
    }

    fn reference(&mut self, level: usize, field: &OutField, place: Option<usize>) -> Typed {
        if let Some(place) = place {
            self.scopes[level].referred.insert(field.internal.clone(), place);
        }
        let expr = if level + 1 == self.scopes.len() {
            field.expr()
        } else {
            let arrow = arrow_schema::Field::new(&field.internal, field.ty.arrow(), true);
            Expr::OuterReferenceColumn(
                arrow.into(),
                datafusion::common::Column::new_unqualified(field.internal.clone()),
            )
        };
        Typed { expr, ty: field.ty.clone(), typmod: field.typmod, position: place }
    }

    /// Postgres' hint for a name that is nearly one.
    fn with_similar(&self, error: Error, table: Option<&str>, name: &str) -> Error {
        let Some(scope) = self.scopes.last() else { return error };
        let mut best: Option<(usize, Vec<String>)> = None;
        for c in &scope.columns {
            let Some(t) = c.table.map(|t| &scope.tables[t].name) else { continue };
            if table.is_some_and(|wanted| wanted != t) {
                continue;
            }
            let distance = distance(name, &c.field.name);
            if distance > 3 || distance * 2 > name.chars().count() {
                continue;
            }
            let similar = format!("{t}.{}", c.field.name);
            match &mut best {
                Some((least, _)) if distance > *least => {}
                Some((least, all)) if distance == *least => all.push(similar),
                _ => best = Some((distance, vec![similar])),
            }
        }
        match best.map(|b| b.1).as_deref() {
            Some([one]) => error.with_hint(format!("Perhaps you meant to reference the column \"{one}\".")),
            Some([one, two]) => {
                error.with_hint(format!("Perhaps you meant to reference the column \"{one}\" or the column \"{two}\"."))
            }
            _ => error,
        }
    }

    /// The output field for a typed expression in a projection.
    pub(super) fn out_field(&mut self, name: String, typed: &Typed) -> OutField {
        OutField { internal: self.fresh(), name, ty: typed.ty.clone(), typmod: typed.typmod }
    }

    /// Says of a type that it is text if nothing said anything better.
    pub(super) fn known(ty: SqlType) -> SqlType {
        if ty == SqlType::Unknown { SqlType::Text } else { ty }
    }
}

/// How many letters have to be changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The name that Postgres gives a column that was not named.
pub(super) fn display_name(e: &ast::Expr) -> String {
    figure(e).map_or_else(|| "?column?".to_string(), |(name, _)| name)
}

/// The name and whether it is a strong one: of a column or a function.
fn figure(e: &ast::Expr) -> Option<(String, bool)> {
    use ast::Expr::*;
    let strong = |name: &str| Some((name.to_string(), true));
    let weak = |name: &str| Some((name.to_string(), false));
    match e {
        Identifier(ident) => Some((fold(ident), true)),
        CompoundIdentifier(idents) => idents.last().map(|i| (fold(i), true)),
        CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|a| match a {
                ast::AccessExpr::Dot(Identifier(ident)) => Some((fold(ident), true)),
                _ => None,
            });
            field.or_else(|| figure(root))
        }
        Nested(e) | Collate { expr: e, .. } => figure(e),
        Function(f) => f.name.0.last().and_then(|p| p.as_ident()).map(|i| (fold(i), true)),
        Cast { expr, data_type, .. } => figure(expr).filter(|(_, strong)| *strong).or_else(|| type_name(data_type)),
        TypedString(t) => type_name(&t.data_type),
        Interval(_) => weak("interval"),
        Case { else_result, .. } => {
            else_result.as_deref().and_then(figure).filter(|(_, strong)| *strong).or_else(|| weak("case"))
        }
        Exists { .. } => strong("exists"),
        Subquery(query) => match query.body.as_ref() {
            ast::SetExpr::Select(select) => match select.projection.first()? {
                ast::SelectItem::UnnamedExpr(e) => figure(e),
                ast::SelectItem::ExprWithAlias { alias, .. } => Some((fold(alias), true)),
                _ => None,
            },
            ast::SetExpr::Values(_) => strong("column1"),
            _ => None,
        },
        Array(_) => strong("array"),
        Tuple(_) => strong("row"),
        Extract { .. } => strong("extract"),
        Position { .. } => strong("position"),
        Substring { .. } => strong("substring"),
        Overlay { .. } => strong("overlay"),
        Ceil { .. } => strong("ceil"),
        Floor { .. } => strong("floor"),
        Trim { trim_where, .. } => match trim_where {
            Some(ast::TrimWhereField::Leading) => strong("ltrim"),
            Some(ast::TrimWhereField::Trailing) => strong("rtrim"),
            _ => strong("btrim"),
        },
        AtTimeZone { .. } => strong("timezone"),
        _ => None,
    }
}

fn type_name(data_type: &ast::DataType) -> Option<(String, bool)> {
    let (ty, _) = crate::types::from_ast(data_type).ok()?;
    Some((crate::types::typname(crate::types::innermost(&ty)), false))
}

/// Whether an expression, its subqueries included, refers to a column.
pub(super) fn refers_to(e: &Expr, name: &str) -> bool {
    e.column_refs().iter().any(|c| c.name == name)
        || e.exists(|e| {
            Ok(subquery_of(e).is_some_and(|s| {
                s.outer_ref_columns.iter().any(|e| matches!(e, Expr::OuterReferenceColumn(_, c) if c.name == name))
            }))
        })
        .unwrap_or(false)
}
