//! Random FROM clauses: tables, joins of every kind, subqueries, table functions.

use super::expressions::{Column, Generator, Scope};
use super::kind::Kind;
use super::schema::{Table, order_of};
use super::sql::{Sql, list, maybe, parts, text};

/// Functions in FROM: the template, the name and type of each column, whether the arguments see the relations before.
const TABLE_FUNCTIONS: &[(&str, &[(&str, Kind)])] = &[
    ("generate_series(1, {1-3})", &[("g", Kind::Int)]),
    ("generate_series(0, least({I}, 4))", &[("g", Kind::Int)]),
    ("generate_series(1, 6, {2-3})", &[("g", Kind::Int)]),
    ("unnest({A})", &[("e", Kind::Int)]),
    ("unnest({X})", &[("e", Kind::Text)]),
    ("unnest(ARRAY[1, {I}, {I}])", &[("e", Kind::Int)]),
    ("regexp_split_to_table({T}, 'b')", &[("e", Kind::Text)]),
    ("string_to_table({T}, ' ')", &[("e", Kind::Text)]),
    ("jsonb_array_elements(CASE WHEN jsonb_typeof({@j}) = 'array' THEN {@} END)", &[("e", Kind::Jsonb)]),
    ("jsonb_array_elements_text(CASE WHEN jsonb_typeof({@j}) = 'array' THEN {@} END)", &[("e", Kind::Text)]),
    ("jsonb_object_keys(CASE WHEN jsonb_typeof({@j}) = 'object' THEN {@} END)", &[("e", Kind::Text)]),
    ("jsonb_each(CASE WHEN jsonb_typeof({@j}) = 'object' THEN {@} END)", &[("k", Kind::Text), ("v", Kind::Jsonb)]),
    ("jsonb_each_text(CASE WHEN jsonb_typeof({@j}) = 'object' THEN {@} END)", &[("k", Kind::Text), ("v", Kind::Text)]),
    ("unnest({A}, {X})", &[("e", Kind::Int), ("f", Kind::Text)]),
    ("unnest({A}) WITH ORDINALITY", &[("e", Kind::Int), ("o", Kind::Big)]),
    ("generate_series('2024-01-01'::timestamp, '2024-01-03', '1 day')", &[("g", Kind::Timestamp)]),
    ("generate_series(1::bigint, least({L}, 3))", &[("g", Kind::Big)]),
    ("generate_series(0.5, 2.0, 0.5)", &[("g", Kind::Numeric)]),
    ("generate_series(3, 1, -1) WITH ORDINALITY", &[("g", Kind::Int), ("o", Kind::Big)]),
    ("ROWS FROM (generate_series(1, {1-3}), unnest({X}))", &[("g", Kind::Int), ("e", Kind::Text)]),
    (
        "jsonb_to_recordset(jsonb_build_array(jsonb_build_object('e', {I}, 'f', {T}), '{{\"f\": \"q\"}}'::jsonb))",
        &[("e int", Kind::Int), ("f text", Kind::Text)],
    ),
];

/// A relation in FROM.
struct Relation {
    sql: Sql,
    /// Its columns, and an order of its rows.
    scope: Scope,
    /// Whether it names columns of the relations before it.
    lateral: bool,
}

impl Generator {
    /// A FROM clause without the word, and what it brings in sight.
    pub(super) fn from(&mut self, around: &Scope, depth: u32) -> (Sql, Scope) {
        let n_joins = if depth == 0 { self.up_to(2) } else { [0, 0, 1, 1, 1, 2, 2, 3][self.up_to(8)] };
        self.joined(around, depth, n_joins, true)
    }

    /// So many joins, some of them by a comma if that may be.
    fn joined(&mut self, around: &Scope, depth: u32, n_joins: usize, commas: bool) -> (Sql, Scope) {
        let first = self.relation(around, None, depth);
        let mut scope = Scope { outer: around.outer.clone(), subqueries: depth > 0, ..first.scope };
        let mut sql = first.sql;
        // Conditions see what is behind the last comma.
        let mut start = 0;
        for _ in 0..n_joins {
            let relation = self.relation(around, Some(&scope), depth);
            if commas && self.chance(12) {
                start = scope.columns.len();
                sql = parts([sql, maybe([text(", "), relation.sql])]);
            } else {
                let seen = Scope { columns: scope.columns[start..].to_vec(), ..scope.clone() };
                sql = self.join(sql, &seen, &relation, depth);
            }
            scope.columns.extend(relation.scope.columns);
            scope.total.extend(relation.scope.total);
        }
        (sql, scope)
    }

    fn join(&mut self, left: Sql, scope: &Scope, right: &Relation, depth: u32) -> Sql {
        if right.lateral {
            let words = *self.pick(&[" CROSS JOIN ", " CROSS JOIN ", " LEFT JOIN "]);
            let on = if words == " LEFT JOIN " { " ON true" } else { "" };
            return parts([left, maybe([text(words), right.sql.clone(), text(on)])]);
        }
        let words = match self.up_to(20) {
            0..7 => " JOIN ",
            7..12 => " LEFT JOIN ",
            12..15 => " RIGHT JOIN ",
            15..17 => " FULL JOIN ",
            17 => return parts([left, maybe([text(" CROSS JOIN "), right.sql.clone()])]),
            _ => {
                // By name: the two relations have it, or both servers say that they do not.
                let words = *self.pick(&[" JOIN ", " LEFT JOIN ", " FULL JOIN ", " RIGHT JOIN "]);
                return if self.chance(25) {
                    parts([left, maybe([text(format!(" NATURAL{words}")), right.sql.clone()])])
                } else {
                    let names = *self.pick(&[" USING (id)", " USING (i0)", " USING (t2)", " USING (i0, i1)"]);
                    parts([left, maybe([text(words), right.sql.clone(), text(names)])])
                };
            }
        };
        let mut conditions = Vec::new();
        if words == " FULL JOIN " || !self.chance(20) {
            conditions.push(self.equality(scope, &right.scope));
        }
        let both = Scope {
            columns: scope.columns.iter().chain(&right.scope.columns).cloned().collect(),
            outer: scope.outer.clone(),
            subqueries: depth > 0 && self.chance(15),
            ..Scope::default()
        };
        if conditions.is_empty() || self.chance(35) {
            let more =
                if self.chance(50) { self.comparison(scope, &right.scope) } else { self.value(Kind::Bool, &both, 2) };
            conditions.push(more);
        }
        let conditions = Sql::List { separator: " AND ", items: conditions, least: 1 };
        parts([left, maybe([text(words), right.sql.clone(), text(" ON "), conditions])])
    }

    /// Two columns of the same type, one of each side.
    fn pair(&mut self, left: &Scope, right: &Scope) -> Option<(Column, Column)> {
        for _ in 0..8 {
            let (left, right) = (self.pick(&left.columns).clone(), self.pick(&right.columns).clone());
            if left.kind == right.kind {
                return Some((left, right));
            }
        }
        None
    }

    fn equality(&mut self, left: &Scope, right: &Scope) -> Sql {
        let Some((left, right)) = self.pair(left, right) else { return text("true") };
        let operator = if self.chance(8) { " IS NOT DISTINCT FROM " } else { " = " };
        Sql::Value(Kind::Bool, vec![left.sql, text(operator), right.sql])
    }

    fn comparison(&mut self, left: &Scope, right: &Scope) -> Sql {
        let Some((left, right)) = self.pair(left, right) else { return text("true") };
        let operator = *self.pick(&[" < ", " <= ", " > ", " >= ", " <> "]);
        if left.kind == Kind::Int && self.chance(40) {
            let (low, high) = (self.up_to(3), self.up_to(3));
            let between = text(format!("{} BETWEEN {} - {low} AND {} + {high}", left.sql, right.sql, right.sql));
            return Sql::Value(Kind::Bool, vec![between]);
        }
        Sql::Value(Kind::Bool, vec![left.sql, text(operator), right.sql])
    }

    fn relation(&mut self, around: &Scope, before: Option<&Scope>, depth: u32) -> Relation {
        let alias = self.name("r");
        match self.up_to(20) {
            0..3 if depth > 0 => {
                let lateral = before.is_some() && self.chance(40);
                let seen = match before {
                    Some(scope) if lateral => scope.around(),
                    _ => around.clone(),
                };
                let (query, kinds) = self.query_inside(&seen, None, depth - 1);
                let word = if lateral { "LATERAL (" } else { "(" };
                let table = Table::of_query(&alias, &kinds);
                Relation {
                    sql: parts([text(word), query, text(format!(") AS {alias}"))]),
                    scope: of_table(&table, &alias),
                    lateral,
                }
            }
            3 => self.values(alias),
            // Joins of their own.
            10 if depth > 0 && self.chance(50) => {
                let n_joins = 1 + self.up_to(2);
                let (sql, scope) = self.joined(around, depth - 1, n_joins, false);
                Relation { sql: parts([text("("), sql, text(")")]), scope, lateral: false }
            }
            4 | 5 => {
                let lateral = before.is_some();
                let seen = match before {
                    Some(scope) => Scope { subqueries: false, ..scope.clone() },
                    None => around.clone(),
                };
                let (template, columns) = *self.pick(TABLE_FUNCTIONS);
                let call = self.fill(columns[0].1, template, &seen, 1);
                let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
                // A name may be followed by its type.
                let name_of = |name: &str| name.split(' ').next().unwrap_or_default().to_string();
                let columns = columns
                    .iter()
                    .map(|(name, kind)| Column::new(format!("{alias}.{}", name_of(name)), *kind, kind.is_exact()));
                let columns: Vec<Column> = columns.collect();
                let total = columns.iter().flat_map(order_of).collect();
                // As parts: another expression of the type cannot stand in FROM.
                let Sql::Value(_, call) = call else { unreachable!("a template makes a value") };
                let sql = parts([Sql::Parts(call), text(format!(" AS {alias}({})", names.join(", ")))]);
                Relation { sql, scope: Scope { columns, total, ..Scope::default() }, lateral }
            }
            6..10 if !self.ctes.is_empty() => {
                let table = self.pick(&self.ctes.clone()).clone();
                named(&table, &alias)
            }
            _ => {
                let table = self.pick(&self.tables.clone()).clone();
                named(&table, &alias)
            }
        }
    }

    fn values(&mut self, alias: String) -> Relation {
        let kinds: Vec<Kind> = (0..1 + self.up_to(2)).map(|_| self.kind(true)).collect();
        let rows = (0..1 + self.up_to(3)).map(|_| {
            let values = kinds.iter().map(|kind| {
                if self.chance(10) { format!("NULL::{}", kind.name()) } else { kind.literal(&mut self.random) }
            });
            text(format!("({})", values.collect::<Vec<_>>().join(", ")))
        });
        let rows = list(rows.collect());
        let table = Table::of_query(&alias, &kinds);
        let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        let end = text(format!(") AS {alias}({})", names.join(", ")));
        Relation { sql: parts([text("(VALUES "), rows, end]), scope: of_table(&table, &alias), lateral: false }
    }
}

fn of_table(table: &Table, alias: &str) -> Scope {
    let (columns, total) = table.scope(alias);
    Scope { columns, total, ..Scope::default() }
}

fn named(table: &Table, alias: &str) -> Relation {
    Relation { sql: text(format!("{} AS {alias}", table.name)), scope: of_table(table, alias), lateral: false }
}
