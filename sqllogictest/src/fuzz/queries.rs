//! Random queries: what is done with the rows of a FROM clause, and how queries are put together.

use super::expressions::{Column, Generator, Scope};
use super::grammar;
use super::kind::Kind;
use super::schema::Table;
use super::sql::{Sql, list, maybe, parts, text};

/// A query of a round.
#[derive(Clone, Debug)]
pub struct Query {
    /// Its text, as a tree.
    pub sql: Sql,
    /// The types of its columns.
    pub kinds: Vec<Kind>,
}

impl Generator {
    /// A whole query.
    pub fn query(&mut self) -> Query {
        self.n_names = 0;
        self.ctes.clear();
        match self.up_to(100) {
            0 | 1 => return self.failing(),
            2 | 3 => return self.star(),
            _ => {}
        }
        let mut named = Vec::new();
        let recursive = self.chance(4);
        if recursive {
            named.push(self.recursive());
        } else if self.chance(10) {
            for _ in 0..1 + self.up_to(2) {
                let (query, kinds) = self.query_inside(&Scope::default(), None, 1);
                let name = self.name("w");
                let hint = *self.pick(&["", "", "MATERIALIZED ", "NOT MATERIALIZED "]);
                named.push(parts([text(format!("{name} AS {hint}(")), query, text(")")]));
                self.ctes.push(Table::of_query(&name, &kinds));
            }
        }
        let (query, kinds) = self.query_inside(&Scope::default(), None, 2);
        let sql = if named.is_empty() {
            query
        } else {
            let word = if recursive { "WITH RECURSIVE " } else { "WITH " };
            Sql::Query(vec![maybe([text(word), list(named), text(" ")]), query])
        };
        Query { sql, kinds }
    }

    /// A query over one table whose only expression may fail.
    fn failing(&mut self) -> Query {
        // Not over a view: where its columns are constants, Postgres fails without reading a row.
        let tables: Vec<Table> = self.tables.iter().filter(|table| table.writable).cloned().collect();
        let table = self.pick(&tables).clone();
        let alias = self.name("r");
        let (columns, total) = table.scope(&alias);
        let scope = Scope { columns, total, ..Scope::default() };
        let (kind, template) = *self.pick(grammar::FAILING);
        let value = self.fill(kind, template, &scope, 1);
        let sql = Sql::Query(vec![text("SELECT "), value, text(format!(" AS c1 FROM {} AS {alias}", table.name))]);
        Query { sql, kinds: vec![kind] }
    }

    /// All columns of one of the relations.
    fn star(&mut self) -> Query {
        let (from, scope) = self.from(&Scope::default(), 2);
        let filter = self.filter(&scope, 1);
        let relation = |column: &Column| column.sql.to_string().split('.').next().unwrap_or_default().to_string();
        let alias = relation(self.pick(&scope.columns));
        let kinds = scope.columns.iter().filter(|column| relation(column) == alias).map(|column| column.kind).collect();
        let distinct = scope.columns.iter().all(|column| column.exact && column.kind.is_exact()) && self.chance(20);
        let select = if distinct { "SELECT DISTINCT" } else { "SELECT" };
        let sql = Sql::Query(vec![text(format!("{select} {alias}.* FROM ")), from, filter]);
        Query { sql, kinds }
    }

    /// Rows that are found from other rows, up to a distance.
    fn recursive(&mut self) -> Sql {
        let name = self.name("w");
        let table = self.pick(&self.tables.clone()).clone();
        let (start, next) = (self.name("r"), self.name("r"));
        let (columns, total) = table.scope(&start);
        let scope = Scope { columns, total, ..Scope::default() };
        let first = self.value(Kind::Int, &scope, 1);
        let filter = self.filter(&scope, 0);
        let column = |generator: &mut Generator, alias: &str| {
            let ints: Vec<&str> = table
                .columns
                .iter()
                .filter(|column| column.kind == Kind::Int)
                .map(|column| column.name.as_str())
                .collect();
            match ints.is_empty() {
                true => "1".to_string(),
                false => format!("{alias}.{}", generator.pick(&ints)),
            }
        };
        let (from, to) = (column(self, &next), column(self, &next));
        let all = if self.chance(30) { "UNION ALL" } else { "UNION" };
        let bound = 1 + self.up_to(3);
        let sql = parts([
            text(format!("{name}(n, d) AS (SELECT ")),
            first,
            text(format!(", 0 FROM {} AS {start}", table.name)),
            filter,
            text(format!(
                " {all} SELECT {to}, {name}.d + 1 FROM {name} JOIN {} AS {next} ON {from} = {name}.n WHERE {name}.d < {bound})",
                table.name
            )),
        ]);
        let mut made = Table::of_query(&name, &[Kind::Int, Kind::Int]);
        made.columns[0].name = "n".to_string();
        made.columns[1].name = "d".to_string();
        self.ctes.push(made);
        sql
    }

    /// A query that may be a set operation, or the first rows of one.
    pub(super) fn query_inside(&mut self, around: &Scope, wanted: Option<&[Kind]>, depth: u32) -> (Sql, Vec<Kind>) {
        if depth > 0 && self.chance(4) {
            // Named within the query that it stands in.
            let n_named = self.ctes.len();
            let (query, kinds) = self.select(&Scope::default(), None, depth - 1);
            let name = self.name("w");
            self.ctes.push(Table::of_query(&name, &kinds));
            let (body, kinds) = self.select(around, wanted, depth - 1);
            self.ctes.truncate(n_named);
            let with = maybe([text(format!("WITH {name} AS (")), query, text(") ")]);
            return (Sql::Query(vec![with, body]), kinds);
        }
        if depth == 0 || !self.chance(16) {
            return self.select(around, wanted, depth);
        }
        let kinds = match wanted {
            Some(kinds) => kinds.to_vec(),
            None => (0..1 + self.up_to(3)).map(|_| self.kind(true)).collect(),
        };
        let all_only = kinds.iter().any(|kind| !kind.is_exact());
        let mut query = self.select(around, Some(&kinds), depth - 1).0;
        for _ in 0..1 + usize::from(self.chance(25)) {
            let operations: &[&str] =
                &["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL", "UNION ALL"];
            let operation = if all_only { "UNION ALL" } else { *self.pick(operations) };
            let right = self.select(around, Some(&kinds), depth - 1).0;
            query = Sql::Query(vec![text("("), query, text(format!(") {operation} (")), right, text(")")]);
        }
        if self.chance(20) && !all_only {
            let limit = 1 + self.up_to(6);
            let order: Vec<String> = (1..=kinds.len()).map(|at| at.to_string()).collect();
            let order = text(format!(" ORDER BY {} LIMIT {limit}", order.join(", ")));
            query = Sql::Query(vec![query, maybe([order])]);
        }
        (query, kinds)
    }

    /// A SELECT.
    pub(super) fn select(&mut self, around: &Scope, wanted: Option<&[Kind]>, depth: u32) -> (Sql, Vec<Kind>) {
        // Those of the query around are its own.
        let named_windows = std::mem::take(&mut self.named_windows);
        let (from, scope) = self.from(around, depth);
        let filter = self.filter(&scope, depth);
        let body = vec![text(" FROM "), from, filter];
        let made = match self.up_to(20) {
            0..7 => self.groups(body, scope, wanted),
            7..10 => self.windows(body, scope, wanted),
            10 if wanted.is_none() => self.first_of_each(body, scope),
            11 if wanted.is_none() => self.top_of_each(body, scope),
            _ => self.rows(body, scope, wanted),
        };
        self.named_windows = named_windows;
        made
    }

    /// The types of the columns of a SELECT: those that are wanted, or mostly those of what is in sight.
    fn kinds(&mut self, scope: &Scope, wanted: Option<&[Kind]>) -> Vec<Kind> {
        if let Some(kinds) = wanted {
            return kinds.to_vec();
        }
        let n_columns = 1 + self.up_to(4);
        let mut kinds = Vec::new();
        for _ in 0..n_columns {
            let of_scope = !scope.columns.is_empty() && self.chance(70);
            kinds.push(if of_scope { self.pick(&scope.columns).kind } else { self.kind(false) });
        }
        kinds
    }

    fn rows(&mut self, body: Vec<Sql>, scope: Scope, wanted: Option<&[Kind]>) -> (Sql, Vec<Kind>) {
        let mut kinds = self.kinds(&scope, wanted);
        let mut values: Vec<Sql> = kinds.iter().map(|kind| self.value(*kind, &scope, 2)).collect();
        let sets = wanted.is_none() && self.chance(5);
        if sets {
            let (kind, template) = *self.pick(grammar::SETS);
            // As parts: another expression of the type is no set.
            let Sql::Value(_, call) = self.fill(kind, template, &Scope { subqueries: false, ..scope.clone() }, 1)
            else {
                unreachable!("a template makes a value")
            };
            kinds.push(kind);
            values.push(Sql::Parts(call));
        }
        let distinct = kinds.iter().all(|kind| kind.is_exact()) && self.chance(12);
        let mut sql = vec![text(if distinct { "SELECT DISTINCT " } else { "SELECT " }), Generator::named(values)];
        sql.extend(body);
        if !distinct && !sets && self.chance(12) {
            sql.push(self.limit(&scope));
        }
        (Sql::Query(sql), kinds)
    }

    /// The first rows of an order that tells all rows apart.
    fn limit(&mut self, scope: &Scope) -> Sql {
        let first = match self.up_to(3) {
            0 => format!("{}{}, ", self.some_column(scope, true), self.direction()),
            _ => String::new(),
        };
        let order = format!(" ORDER BY {first}{}", scope.order());
        if scope.subqueries && self.chance(4) {
            // By what is found for each row.
            let inner = Scope { columns: scope.columns.clone(), outer: scope.outer.clone(), ..Scope::default() };
            let (query, _) = self.single(&inner.around(), Kind::Int, 0);
            let limit = 1 + self.up_to(4);
            return maybe([text(" ORDER BY ("), query, text(format!("), {} LIMIT {limit}", scope.order()))]);
        }
        if !first.is_empty() && self.chance(25) {
            // Ties stay together: the order need not tell them apart.
            let order = format!(" ORDER BY {}", first.trim_end_matches(", "));
            return maybe([text(format!("{order} FETCH FIRST {} ROWS WITH TIES", 1 + self.up_to(4)))]);
        }
        let offset = if self.chance(30) { format!(" OFFSET {}", self.up_to(3)) } else { String::new() };
        maybe([text(format!("{order} LIMIT {}{offset}", 1 + self.up_to(6)))])
    }

    fn direction(&mut self) -> &'static str {
        *self.pick(&["", "", " DESC", " ASC NULLS FIRST", " DESC NULLS LAST"])
    }

    /// Groups and their aggregates.
    fn groups(&mut self, body: Vec<Sql>, scope: Scope, wanted: Option<&[Kind]>) -> (Sql, Vec<Kind>) {
        let mut keys: Vec<Column> = Vec::new();
        let exact: Vec<Column> = scope.columns.iter().filter(|column| column.exact).cloned().collect();
        for _ in 0..[0, 1, 1, 1, 2, 2, 3][self.up_to(7)] {
            if !exact.is_empty() && self.chance(75) {
                keys.push(self.pick(&exact).clone());
            } else {
                let kind = self.kind(true);
                let sql = self.value(kind, &Scope { subqueries: false, ..scope.clone() }, 1);
                // A constant is a position, or the same in all rows.
                let text = sql.to_string();
                if text.contains(".") && !text.starts_with('\'') {
                    keys.push(Column { sql: Sql::Text(text), kind, exact: true, plain: false });
                }
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        keys.retain(|key| seen.insert(key.sql.to_string()));
        // An aggregate over nothing but columns of the query around belongs to that one: mostly that is an error there.
        let subqueries = scope.subqueries && self.chance(4);
        let outer = if self.chance(4) { scope.outer.clone() } else { Vec::new() };
        let inside = Scope { subqueries, outer, ..scope.clone() };
        let mut columns: Vec<Column> = keys.clone();
        for _ in 0..1 + self.up_to(3) {
            columns.push(self.aggregate(&inside));
        }
        let (clause, sets) = self.grouping(&keys);
        if sets && let Some(key) = keys.first() {
            let arguments = match keys.get(1) {
                Some(other) if self.chance(40) => format!("{}, {}", key.sql, other.sql),
                _ => key.sql.to_string(),
            };
            let sql = text(format!("grouping({arguments})"));
            columns.push(Column { sql, kind: Kind::Int, exact: true, plain: false });
        }
        let total = keys.iter().map(|key| key.sql.to_string()).collect();
        let after =
            Scope { columns, total, outer: scope.outer.clone(), subqueries: scope.subqueries && self.chance(10) };
        // Window functions over the groups.
        let mut shown = after.clone();
        if !sets && self.chance(8) {
            let grouped = Scope { subqueries: false, outer: Vec::new(), ..after.clone() };
            let call = self.window(&grouped);
            shown.columns.extend([call.clone(), call]);
        }
        let mut kinds = self.kinds(&shown, wanted);
        let mut values: Vec<Sql> = kinds.iter().map(|kind| self.value(*kind, &shown, 1)).collect();
        let mut clause = clause;
        if let [key] = keys.as_slice()
            && wanted.is_none()
            && !sets
            && self.chance(12)
        {
            // The key is named by its place.
            kinds.insert(0, key.kind);
            values.insert(0, parts([key.sql.clone()]));
            clause = text(" GROUP BY 1");
        }
        let mut sql = vec![text("SELECT "), Generator::named(values)];
        sql.extend(body);
        sql.push(clause);
        if self.chance(20) {
            sql.push(maybe([text(" HAVING "), self.value(Kind::Bool, &after, 1)]));
        }
        sql.extend(self.windows_clause());
        if !sets && !after.total.is_empty() && self.chance(10) {
            let limit = 1 + self.up_to(4);
            sql.push(maybe([text(format!(" ORDER BY {} LIMIT {limit}", after.order()))]));
        }
        (Sql::Query(sql), kinds)
    }

    /// GROUP BY, and whether it has several grouping sets.
    fn grouping(&mut self, keys: &[Column]) -> (Sql, bool) {
        if keys.is_empty() {
            return (maybe([]), false);
        }
        let names: Vec<String> = keys.iter().map(|key| key.sql.to_string()).collect();
        let all = names.join(", ");
        let clause = match self.up_to(13) {
            0 => format!("ROLLUP ({all})"),
            1 => format!("CUBE ({all})"),
            2 => {
                let sets: Vec<String> = names.iter().map(|name| format!("({name})")).collect();
                format!("GROUPING SETS ({}, ())", sets.join(", "))
            }
            3 => format!("GROUPING SETS (({all}), ({}))", names[0]),
            5 => format!("GROUPING SETS (ROLLUP ({all}), ({}))", names[names.len() - 1]),
            4 if names.len() > 1 => format!("{}, ROLLUP ({})", names[0], names[1..].join(", ")),
            4 if self.chance(50) => format!("DISTINCT ROLLUP ({all}), CUBE ({})", names[0]),
            _ => return (text(format!(" GROUP BY {all}")), false),
        };
        (text(format!(" GROUP BY {clause}")), true)
    }

    fn aggregate(&mut self, scope: &Scope) -> Column {
        let table = if self.chance(70) { grammar::AGGREGATES } else { grammar::ORDERED_AGGREGATES };
        let (kind, template) = *self.pick(table);
        // Of equal values that are written alike, and where DISTINCT is not written yet.
        let exact = ["({i})", "({l})", "({s})", "({t})", "({d})", "({m})", "({b})", "({F}, {F})"];
        let distinct = exact.iter().any(|end| template.ends_with(end)) && self.chance(10);
        let template = if distinct { template.replacen('(', "(DISTINCT ", 1) } else { template.to_string() };
        let Sql::Value(_, mut call) = self.fill(kind, &template, scope, 1) else {
            unreachable!("a template makes a value")
        };
        if template.ends_with(')') && self.chance(18) {
            let condition = self.value(Kind::Bool, scope, 1);
            call.push(maybe([text(" FILTER (WHERE "), condition, text(")")]));
        }
        Column { sql: Sql::Value(kind, call), kind, exact: kind.is_exact(), plain: false }
    }

    /// Window functions beside the columns.
    fn windows(&mut self, body: Vec<Sql>, scope: Scope, wanted: Option<&[Kind]>) -> (Sql, Vec<Kind>) {
        let mut calls = Vec::new();
        // Of rows that nothing tells apart, each window may have another one first.
        let told_apart = scope.total.iter().all(|column| column.ends_with(".id"));
        for _ in 0..if told_apart { 1 + self.up_to(3) } else { 1 } {
            calls.push(self.window(&Scope { subqueries: false, outer: Vec::new(), ..scope.clone() }));
        }
        let mut columns = scope.columns.clone();
        for _ in 0..2 {
            columns.extend(calls.iter().cloned());
        }
        let after = Scope { columns, ..scope };
        let mut kinds = self.kinds(&after, wanted);
        let mut values: Vec<Sql> = kinds.iter().map(|kind| self.value(*kind, &after, 1)).collect();
        if wanted.is_none() {
            kinds.push(calls[0].kind);
            values.push(calls[0].sql.clone());
        }
        let mut sql = vec![text("SELECT "), Generator::named(values)];
        sql.extend(body);
        sql.extend(self.windows_clause());
        (Sql::Query(sql), kinds)
    }

    /// `WINDOW ...`, if any window of the query has a name.
    fn windows_clause(&mut self) -> Option<Sql> {
        let named = std::mem::take(&mut self.named_windows);
        if named.is_empty() { None } else { Some(parts([text(" WINDOW "), list(named)])) }
    }

    /// One window function with its window.
    fn window(&mut self, scope: &Scope) -> Column {
        let partition = match self.up_to(3) {
            0 => maybe([]),
            _ => maybe([text("PARTITION BY "), self.some_column(scope, true)]),
        };
        let first = format!("{}{}", self.some_column(scope, true), self.direction());
        let total = maybe([text(format!(" ORDER BY {}", scope.order()))]);
        let places = maybe([text(format!(" ORDER BY {first}"))]);
        let whole = Sql::Parts(vec![text(format!(" ORDER BY {first}, {}", scope.order()))]);
        let (kind, call, order) = match self.up_to(10) {
            0..2 => {
                let (kind, template) = *self.pick(grammar::WINDOWS);
                (kind, self.fill(kind, template, scope, 1), vec![whole])
            }
            2 => {
                let (kind, template) = *self.pick(grammar::RANKS);
                (kind, self.fill(kind, template, scope, 1), vec![places])
            }
            3..5 => {
                let (kind, template) = *self.pick(grammar::PICKS);
                let call = self.fill(kind, template, scope, 1);
                let unit = *self.pick(&[" ROWS ", " GROUPS "]);
                let frame = if self.chance(60) { self.frame(unit) } else { maybe([]) };
                (kind, call, vec![whole, frame])
            }
            _ => {
                let (kind, template) = *self.pick(grammar::AGGREGATES);
                let call = self.fill(kind, template, scope, 1);
                let call = if self.chance(15) {
                    let condition = self.value(Kind::Bool, scope, 1);
                    parts([call, maybe([text(" FILTER (WHERE "), condition, text(")")])])
                } else {
                    call
                };
                let order = match self.up_to(5) {
                    0 => vec![],
                    1 => vec![places],
                    2 if self.chance(30) => {
                        vec![places, maybe([text(*self.pick(grammar::VALUE_FRAMES))])]
                    }
                    2 => vec![places, self.frame(" GROUPS ")],
                    3 => self.range(scope),
                    _ => vec![total, self.frame(" ROWS ")],
                };
                (kind, call, order)
            }
        };
        let mut window = vec![text("(")];
        if self.chance(6) {
            // It goes on with one that has a name.
            let name = self.name("s");
            window.push(text(format!("{name} ")));
            self.named_windows.push(parts([text(format!("{name} AS (")), partition, text(")")]));
        } else {
            window.push(partition);
        }
        window.extend(order);
        window.push(text(")"));
        let mut sql = vec![call, text(" OVER ")];
        if self.chance(15) {
            let name = self.name("s");
            self.named_windows.push(parts([text(format!("{name} AS ")), Sql::Parts(window)]));
            sql.push(text(name));
        } else {
            sql.extend(window);
        }
        Column { sql: Sql::Value(kind, sql), kind, exact: kind.is_exact(), plain: false }
    }

    fn frame(&mut self, unit: &str) -> Sql {
        let frame = *self.pick(grammar::FRAMES);
        let Sql::Value(_, frame) = self.fill(Kind::Int, frame, &Scope::default(), 0) else {
            unreachable!("a template makes a value")
        };
        let exclusion = if self.chance(15) { *self.pick(grammar::EXCLUSIONS) } else { "" };
        maybe([text(unit), Sql::Parts(frame), text(exclusion)])
    }

    /// An order by one column with a frame of its values around.
    fn range(&mut self, scope: &Scope) -> Vec<Sql> {
        let ordered = |column: &&Column| {
            column.exact && matches!(column.kind, Kind::Int | Kind::Big | Kind::Numeric | Kind::Date | Kind::Timestamp)
        };
        let columns: Vec<&Column> = scope.columns.iter().filter(ordered).collect();
        if columns.is_empty() {
            return vec![];
        }
        let column = *self.pick(&columns);
        let offset = match column.kind {
            Kind::Date | Kind::Timestamp => {
                *self.pick(&["INTERVAL '1 day'", "INTERVAL '1 month'", "'2 days'::interval"])
            }
            _ => *self.pick(&["1", "2", "4"]),
        };
        let direction = self.direction();
        let frame = match self.up_to(3) {
            0 => format!("BETWEEN {offset} PRECEDING AND CURRENT ROW"),
            1 => format!("BETWEEN {offset} PRECEDING AND {offset} FOLLOWING"),
            _ => format!("BETWEEN CURRENT ROW AND {offset} FOLLOWING"),
        };
        vec![text(format!(" ORDER BY {}{direction}", column.sql)), maybe([text(format!(" RANGE {frame}"))])]
    }

    /// DISTINCT ON.
    fn first_of_each(&mut self, body: Vec<Sql>, scope: Scope) -> (Sql, Vec<Kind>) {
        let mut key = self.some_column(&scope, true).to_string();
        if self.chance(20) {
            key = format!("{key}, {}", self.some_column(&scope, true));
        }
        let kinds = self.kinds(&scope, None);
        let values = kinds.iter().map(|kind| self.value(*kind, &scope, 1)).collect();
        let direction = self.direction();
        let mut sql = vec![text(format!("SELECT DISTINCT ON ({key}) ")), Generator::named(values)];
        sql.extend(body);
        sql.push(text(format!(" ORDER BY {key}{direction}, {}", scope.order())));
        (Sql::Query(sql), kinds)
    }

    /// The first rows of each group by `row_number`, `rank` or `dense_rank`.
    fn top_of_each(&mut self, body: Vec<Sql>, scope: Scope) -> (Sql, Vec<Kind>) {
        let kinds = self.kinds(&scope, None);
        let values: Vec<Sql> = kinds.iter().map(|kind| self.value(*kind, &scope, 1)).collect();
        let key = self.some_column(&scope, true);
        let first = format!("{}{}", self.some_column(&scope, true), self.direction());
        let (call, order) = match self.up_to(3) {
            0 => ("rank()", first),
            1 => ("dense_rank()", first),
            _ => ("row_number()", format!("{first}, {}", scope.order())),
        };
        let alias = self.name("r");
        let place = text(format!(", {call} OVER (PARTITION BY {key} ORDER BY {order}) AS place"));
        let mut inner = vec![text("SELECT "), Generator::named(values), place];
        inner.extend(body);
        let names = (1..=kinds.len()).map(|at| text(format!("{alias}.c{at}"))).collect();
        let bound = 1 + self.up_to(3);
        let end = match self.up_to(3) {
            0 => format!(") AS {alias} WHERE {alias}.place = 1"),
            1 => format!(") AS {alias} WHERE {alias}.place < {}", bound + 1),
            _ => format!(") AS {alias} WHERE {alias}.place <= {bound}"),
        };
        (Sql::Query(vec![text("SELECT "), list(names), text(" FROM ("), Sql::Parts(inner), text(end)]), kinds)
    }
}
