//! Random expressions over the columns that are in sight.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::grammar;
use super::kind::{CHOICE, EXACT, Kind};
use super::schema::Table;
use super::sql::{Sql, list, maybe, parts, text};

/// A column, or what can stand for one: a group's key, an aggregate, a window function.
#[derive(Clone, Debug)]
pub struct Column {
    /// How it is written.
    pub sql: Sql,
    /// Its type.
    pub kind: Kind,
    /// Whether equal values are written alike.
    pub exact: bool,
    /// Whether a subquery may name it.
    pub plain: bool,
}

impl Column {
    /// A column of a relation.
    pub fn new(name: String, kind: Kind, exact: bool) -> Column {
        Column { sql: text(name), kind, exact, plain: true }
    }
}

/// What an expression can name.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The columns of this query.
    pub columns: Vec<Column>,
    /// The columns of the queries around it.
    pub outer: Vec<Column>,
    /// An order that tells apart all rows that are not the same.
    pub total: Vec<String>,
    /// Whether expressions may hold subqueries.
    pub subqueries: bool,
}

impl Scope {
    /// What a query inside of this one sees around it.
    pub fn around(&self) -> Scope {
        let mut outer = self.outer.clone();
        outer.extend(self.columns.iter().filter(|column| column.plain).cloned());
        Scope { outer, ..Scope::default() }
    }

    /// The total order as text; a constant where there is nothing to tell apart.
    pub fn order(&self) -> String {
        if self.total.is_empty() { "(1 + 0)".to_string() } else { self.total.join(", ") }
    }
}

/// Makes SQL of a seed.
pub struct Generator {
    pub(super) random: StdRng,
    /// The tables and the views over them.
    pub(super) tables: Vec<Table>,
    /// The named queries in sight.
    pub(super) ctes: Vec<Table>,
    /// How many names were given.
    pub(super) n_names: usize,
    /// The named windows of the query that is made.
    pub(super) named_windows: Vec<Sql>,
}

impl Generator {
    /// Of a seed, over no tables yet.
    pub fn new(seed: u64) -> Generator {
        Generator {
            random: StdRng::seed_from_u64(seed),
            tables: Vec::new(),
            ctes: Vec::new(),
            n_names: 0,
            named_windows: Vec::new(),
        }
    }

    /// True in so many of a hundred cases.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    pub(super) fn up_to(&mut self, n: usize) -> usize {
        self.random.random_range(0..n)
    }

    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.random.random_range(0..items.len())]
    }

    pub(super) fn name(&mut self, prefix: &str) -> String {
        self.n_names += 1;
        format!("{prefix}{}", self.n_names)
    }

    /// A type: exact ones only, if equal values must be written alike.
    pub(super) fn kind(&mut self, exact: bool) -> Kind {
        *self.pick(if exact { EXACT } else { CHOICE })
    }

    /// An expression of a type.
    pub fn value(&mut self, kind: Kind, scope: &Scope, depth: u32) -> Sql {
        if depth == 0 || self.chance(35) {
            return self.atom(kind, scope);
        }
        if scope.subqueries && self.chance(if kind == Kind::Bool { 20 } else { 5 }) {
            return self.subquery(kind, scope, depth - 1);
        }
        let own: Vec<&str> =
            grammar::SCALARS.iter().filter(|(given, _)| *given == kind).map(|(_, template)| *template).collect();
        if own.is_empty() || self.chance(15) {
            let template = *self.pick(grammar::ANY_KIND);
            return self.fill(kind, template, scope, depth);
        }
        let template = *self.pick(&own);
        self.fill(kind, template, scope, depth)
    }

    /// A column or a literal.
    pub fn atom(&mut self, kind: Kind, scope: &Scope) -> Sql {
        let near: Vec<&Column> = scope.columns.iter().filter(|column| column.kind == kind).collect();
        let far: Vec<&Column> = scope.outer.iter().filter(|column| column.kind == kind).collect();
        let sql = match (near.is_empty(), far.is_empty()) {
            (_, false) if near.is_empty() || self.chance(25) => self.pick(&far).sql.clone(),
            (false, _) if !self.chance(15) => self.pick(&near).sql.clone(),
            _ => text(if self.chance(8) { format!("NULL::{}", kind.name()) } else { kind.literal(&mut self.random) }),
        };
        match sql {
            Sql::Value(..) => sql,
            other => Sql::Value(kind, vec![other]),
        }
    }

    /// A template with its holes filled.
    pub fn fill(&mut self, kind: Kind, template: &str, scope: &Scope, depth: u32) -> Sql {
        let mut made = Vec::new();
        let mut named = String::new();
        let mut rest = template;
        while let Some(start) = rest.find('{') {
            if rest[start + 1..].starts_with('{') {
                let end = start + rest[start..].find("}}").expect("a template closes its braces");
                made.push(text(format!("{}{}", &rest[..start], &rest[start + 1..end + 1])));
                rest = &rest[end + 2..];
                continue;
            }
            let end = start + rest[start..].find('}').expect("a template closes its holes");
            made.push(text(&rest[..start]));
            let hole = &rest[start + 1..end];
            rest = &rest[end + 1..];
            made.push(match hole {
                "#" => self.value(kind, scope, depth.saturating_sub(1)),
                "any" => self.some_column(scope, false),
                "exact" => self.some_column(scope, true),
                "total" => text(scope.order()),
                "@" => text(named.clone()),
                _ => {
                    let letter = hole.chars().next_back().expect("a hole has a name");
                    if letter.is_ascii_digit() {
                        let (low, high) = hole.split_once('-').expect("a range of numbers");
                        let bound = |text: &str| text.parse::<u32>().expect("a number");
                        text(self.random.random_range(bound(low)..=bound(high)).to_string())
                    } else {
                        let wanted = Kind::of_letter(letter.to_ascii_lowercase()).expect("a letter of a type");
                        if hole.starts_with('@') {
                            named = self.exact_column(wanted, scope);
                            text(named.clone())
                        } else if letter.is_ascii_uppercase() {
                            self.atom(wanted, scope)
                        } else {
                            self.value(wanted, scope, depth.saturating_sub(1))
                        }
                    }
                }
            });
        }
        made.push(text(rest));
        Sql::Value(kind, made)
    }

    /// The text of a column of a type whose equal values are written alike, or of a literal.
    fn exact_column(&mut self, kind: Kind, scope: &Scope) -> String {
        let columns: Vec<&Column> = scope.columns.iter().filter(|column| column.kind == kind && column.exact).collect();
        if columns.is_empty() { kind.literal(&mut self.random) } else { self.pick(&columns).sql.to_string() }
    }

    pub(super) fn some_column(&mut self, scope: &Scope, exact: bool) -> Sql {
        let columns: Vec<&Column> = scope.columns.iter().filter(|column| column.exact || !exact).collect();
        if columns.is_empty() { text("1") } else { self.pick(&columns).sql.clone() }
    }

    /// A subquery as an expression.
    fn subquery(&mut self, kind: Kind, scope: &Scope, depth: u32) -> Sql {
        let around = scope.around();
        let wanted = if kind == Kind::Bool && self.chance(85) { None } else { Some(kind) };
        let made = match wanted {
            Some(Kind::Ints | Kind::Texts) if self.chance(50) => {
                let item = if kind == Kind::Ints { Kind::Int } else { Kind::Text };
                let (from, scope) = self.from(&around, depth);
                let filter = self.filter(&scope, depth);
                let value = self.value(item, &scope, depth.min(1));
                let order = text(format!(" ORDER BY {})", scope.order()));
                vec![text("ARRAY(SELECT "), value, text(" FROM "), from, filter, order]
            }
            Some(kind) => {
                let (query, _) = self.single(&around, kind, depth);
                vec![text("("), query, text(")")]
            }
            None => {
                let compared = *self.pick(&[Kind::Int, Kind::Int, Kind::Int, Kind::Text, Kind::Big, Kind::Numeric]);
                match self.up_to(10) {
                    0..4 => {
                        let not = if self.chance(40) { "(NOT EXISTS (" } else { "(EXISTS (" };
                        let (query, _) = self.query_inside(&around, None, depth);
                        vec![text(not), query, text("))")]
                    }
                    4..7 => {
                        let left = self.value(compared, scope, depth);
                        let not = if self.chance(50) { " NOT IN (" } else { " IN (" };
                        let (query, _) = self.query_inside(&around, Some(&[compared]), depth);
                        vec![text("("), left, text(not), query, text("))")]
                    }
                    7 => {
                        let left = self.atom(Kind::Int, scope);
                        let right = self.atom(Kind::Text, scope);
                        let not = if self.chance(40) { ") NOT IN (" } else { ") IN (" };
                        let (query, _) = self.query_inside(&around, Some(&[Kind::Int, Kind::Text]), depth);
                        vec![text("(("), left, text(", "), right, text(not), query, text("))")]
                    }
                    _ => {
                        let left = self.value(compared, scope, depth);
                        let operator = *self.pick(&[" = ", " <> ", " < ", " >= ", " > "]);
                        let quantifier = *self.pick(&["ANY (", "ALL ("]);
                        let (query, _) = self.query_inside(&around, Some(&[compared]), depth);
                        vec![text("("), left, text(operator), text(quantifier), query, text("))")]
                    }
                }
            }
        };
        Sql::Value(kind, made)
    }

    /// A query of one column and at most one row.
    pub(super) fn single(&mut self, around: &Scope, kind: Kind, depth: u32) -> (Sql, Kind) {
        let (from, scope) = self.from(around, depth);
        let filter = self.filter(&scope, depth);
        let aggregates: Vec<&str> =
            grammar::AGGREGATES.iter().filter(|(given, _)| *given == kind).map(|(_, template)| *template).collect();
        if aggregates.is_empty() || self.chance(25) {
            let value = self.value(kind, &scope, depth.min(1));
            let order = maybe([text(format!(" ORDER BY {}", scope.order()))]);
            return (
                Sql::Query(vec![text("SELECT "), value, text(" FROM "), from, filter, order, text(" LIMIT 1")]),
                kind,
            );
        }
        let template = *self.pick(&aggregates);
        // An aggregate over nothing but columns of the query around belongs to that one.
        let outer = if self.chance(4) { scope.outer.clone() } else { Vec::new() };
        let value = self.fill(kind, template, &Scope { subqueries: false, outer, ..scope }, 1);
        (Sql::Query(vec![text("SELECT "), value, text(" FROM "), from, filter]), kind)
    }

    /// A condition, or none.
    pub(super) fn filter(&mut self, scope: &Scope, depth: u32) -> Sql {
        if self.chance(45) {
            return maybe([]);
        }
        let mut conditions = vec![self.value(Kind::Bool, scope, depth.min(2) + 1)];
        if !scope.outer.is_empty() && self.chance(60) {
            conditions.push(self.correlation(scope));
        }
        maybe([text(" WHERE "), Sql::List { separator: " AND ", items: conditions, least: 1 }])
    }

    /// A condition between a column of this query and one around it.
    fn correlation(&mut self, scope: &Scope) -> Sql {
        let kind = self.pick(&scope.outer).kind;
        let far: Vec<&Column> = scope.outer.iter().filter(|column| column.kind == kind).collect();
        let far = self.pick(&far).sql.clone();
        let operator = *self.pick(&[" = ", " = ", " = ", " < ", " >= ", " <> ", " IS NOT DISTINCT FROM "]);
        let near = self.atom(kind, &Scope { outer: Vec::new(), ..scope.clone() });
        Sql::Value(Kind::Bool, vec![text("("), near, text(operator), Sql::Value(kind, vec![far]), text(")")])
    }

    /// Several expressions with names `c1`, `c2` and so on.
    pub(super) fn named(values: Vec<Sql>) -> Sql {
        let name = |(at, value)| parts([value, text(format!(" AS c{}", at + 1))]);
        list(values.into_iter().enumerate().map(name).collect())
    }
}
