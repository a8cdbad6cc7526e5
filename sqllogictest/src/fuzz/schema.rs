//! Random tables, and random changes of them.

use std::collections::BTreeSet;
use std::fmt;

use super::expressions::{Column, Generator, Scope};
use super::kind::Kind;
use super::sql::{Sql, list, maybe, parts, text};

/// A table, a view or a named query.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns: name, type, and how the type is written in CREATE TABLE.
    pub columns: Vec<TableColumn>,
    /// Whether `id` is its primary key.
    pub keyed: bool,
    /// Whether it is a table that can be written.
    pub writable: bool,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// How CREATE TABLE says it.
    pub declared: String,
    /// Whether equal values are written alike.
    pub exact: bool,
}

impl Table {
    /// A relation that a query makes.
    pub fn of_query(name: &str, kinds: &[Kind]) -> Table {
        let column = |(at, kind): (usize, &Kind)| TableColumn {
            name: format!("c{}", at + 1),
            kind: *kind,
            declared: kind.name().to_string(),
            exact: kind.is_exact(),
        };
        let columns = kinds.iter().enumerate().map(column).collect();
        Table { name: name.to_string(), columns, keyed: false, writable: false }
    }

    /// Its columns under an alias, and an order of its rows.
    pub fn scope(&self, alias: &str) -> (Vec<Column>, Vec<String>) {
        let columns: Vec<Column> = self
            .columns
            .iter()
            .map(|column| Column::new(format!("{alias}.{}", column.name), column.kind, column.exact))
            .collect();
        let total = if self.keyed { vec![format!("{alias}.id")] } else { columns.iter().flat_map(order_of).collect() };
        (columns, total)
    }

    /// `CREATE TABLE`.
    pub fn create(&self) -> String {
        let columns = self.columns.iter().map(|column| {
            let key = if column.name == "id" && self.keyed { " PRIMARY KEY" } else { "" };
            format!("{} {}{key}", column.name, column.declared)
        });
        format!("CREATE TABLE {} ({})", self.name, columns.collect::<Vec<_>>().join(", "))
    }
}

/// A statement that changes a table.
#[derive(Clone, Debug)]
pub enum Change {
    /// `INSERT INTO ... VALUES`.
    Insert {
        /// The table.
        table: String,
        /// The values of all columns.
        rows: Vec<Vec<String>>,
        /// `ON CONFLICT ...`, or nothing.
        conflict: String,
    },
    /// Another one.
    Other(Sql),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Insert { table, rows, conflict } => {
                let rows: Vec<String> = rows.iter().map(|row| format!("({})", row.join(", "))).collect();
                write!(f, "INSERT INTO {table} VALUES {}{conflict}", rows.join(", "))
            }
            Change::Other(sql) => sql.fmt(f),
        }
    }
}

impl Change {
    /// Whether it changes this table.
    pub fn changes(&self, name: &str) -> bool {
        match self {
            Change::Insert { table, .. } => table == name,
            Change::Other(sql) => {
                let sql = sql.to_string();
                let starts = |word: &&str| sql.starts_with(&format!("{word} {name} "));
                sql == format!("TRUNCATE {name}") || ["UPDATE", "DELETE FROM", "INSERT INTO"].iter().any(starts)
            }
        }
    }

    /// Leaves out a column of a table where all columns are written.
    pub fn drop_column(&mut self, name: &str, at: usize) {
        if let Change::Insert { table, rows, .. } = self
            && table == name
        {
            rows.iter_mut().for_each(|row| {
                row.remove(at);
            });
        }
    }

    /// The same with one cut in it.
    pub fn cuts(&self) -> Vec<Change> {
        match self {
            Change::Insert { table, rows, conflict } => {
                let n = rows.len();
                let mut kept: Vec<Vec<Vec<String>>> = Vec::new();
                if n >= 4 {
                    kept.push(rows[..n / 2].to_vec());
                    kept.push(rows[n / 2..].to_vec());
                }
                if n >= 2 {
                    kept.extend((0..n).map(|at| [&rows[..at], &rows[at + 1..]].concat()));
                }
                let shorter = kept.into_iter().map(|rows| Change::Insert {
                    table: table.clone(),
                    rows,
                    conflict: conflict.clone(),
                });
                shorter.collect()
            }
            Change::Other(sql) => sql.cuts().into_iter().map(Change::Other).collect(),
        }
    }
}

/// What orders a column so that only values that are written alike are equal.
pub fn order_of(column: &Column) -> Vec<String> {
    let name = column.sql.to_string();
    if column.exact { vec![name] } else { vec![name.clone(), format!("{name}::text")] }
}

impl Generator {
    /// Makes the tables of a round.
    pub fn make_tables(&mut self) -> Vec<Table> {
        let n_tables = 2 + self.up_to(3);
        for name in ["a", "b", "c", "d"].into_iter().take(n_tables) {
            let mut columns =
                vec![TableColumn { name: "id".to_string(), kind: Kind::Int, declared: "int".to_string(), exact: true }];
            // There are always numbers and texts to join by.
            let mut kinds = vec![Kind::Int, Kind::Int, Kind::Text];
            for _ in 0..2 + self.up_to(4) {
                kinds.push(self.kind(false));
            }
            for (at, kind) in kinds.into_iter().enumerate() {
                let declared = match kind {
                    Kind::Numeric => "numeric(8,2)".to_string(),
                    Kind::Text if self.chance(15) => "varchar(8)".to_string(),
                    kind => kind.name().to_string(),
                };
                let letter = kind.name().chars().next().expect("a name");
                columns.push(TableColumn { name: format!("{letter}{at}"), kind, declared, exact: true });
            }
            let keyed = self.chance(65);
            self.tables.push(Table { name: name.to_string(), columns, keyed, writable: true });
        }
        self.tables.clone()
    }

    /// Some statements that change the tables.
    pub fn make_changes(&mut self, batch: usize) -> Vec<Change> {
        // Conditions read the tables only: a view that we cannot make would be missed.
        self.tables.retain(|table| table.writable);
        self.ctes.clear();
        let tables = self.tables.clone();
        let mut statements = Vec::new();
        if batch == 0 {
            for table in &tables {
                // An empty table is a case of its own.
                if !self.chance(10) {
                    let n_rows = 3 + self.up_to(10);
                    statements.push(self.insert(table, n_rows));
                }
            }
            return statements;
        }
        for _ in 0..1 + self.up_to(4) {
            let table = self.pick(&tables).clone();
            statements.push(match self.up_to(20) {
                0..7 => {
                    let n_rows = 1 + self.up_to(5);
                    self.insert(&table, n_rows)
                }
                7 => self.insert_again(&table),
                8 => self.update_from(&table),
                9 => self.delete_using(&table),
                10 if self.chance(20) => Change::Other(text(format!("TRUNCATE {}", table.name))),
                10..15 => self.update(&table),
                _ => self.delete(&table),
            });
        }
        statements
    }

    fn row(&mut self, table: &Table) -> Vec<String> {
        let mut values = vec![self.up_to(40).to_string()];
        for column in &table.columns[1..] {
            let value = if self.chance(15) { "NULL".to_string() } else { column.kind.value(&mut self.random) };
            values.push(value);
        }
        values
    }

    fn insert(&mut self, table: &Table, n_rows: usize) -> Change {
        let mut rows: Vec<Vec<String>> = (0..n_rows).map(|_| self.row(table)).collect();
        let mut conflict = String::new();
        if table.keyed {
            // Keys come again on purpose: ON CONFLICT says what happens then, but not for two rows of one statement.
            let mut seen = BTreeSet::new();
            rows.retain(|row| seen.insert(row[0].clone()));
            let column = self.pick(&table.columns[1..]).name.clone();
            conflict = match self.up_to(4) {
                0 => format!(" ON CONFLICT (id) DO UPDATE SET {column} = excluded.{column}"),
                1 => {
                    format!(" ON CONFLICT (id) DO UPDATE SET {column} = excluded.{column} WHERE {}.i0 > 0", table.name)
                }
                _ => " ON CONFLICT DO NOTHING".to_string(),
            };
        }
        Change::Insert { table: table.name.clone(), rows, conflict }
    }

    fn change_scope(&mut self, table: &Table) -> Scope {
        let (columns, total) = table.scope(&table.name);
        Scope { columns, total, subqueries: self.chance(15), ..Scope::default() }
    }

    fn update(&mut self, table: &Table) -> Change {
        let scope = self.change_scope(table);
        let mut sets = Vec::new();
        let mut changed = BTreeSet::new();
        for _ in 0..1 + self.up_to(2) {
            let at = 1 + self.up_to(table.columns.len() - 1);
            let column = &table.columns[at];
            if !changed.insert(at) {
                continue;
            }
            // Values stay in the domain of the column: small, and each written in one way.
            let value = if self.chance(40) { self.column_of(&scope, column.kind) } else { None };
            let value = value.unwrap_or_else(|| column.kind.value(&mut self.random));
            sets.push(text(format!("{} = {value}", column.name)));
        }
        let filter = self.change_filter(&scope);
        Change::Other(parts([text(format!("UPDATE {} SET ", table.name)), list(sets), filter]))
    }

    /// Rows of the table once more, under other keys if it has one.
    fn insert_again(&mut self, table: &Table) -> Change {
        let names: Vec<&str> = table.columns[1..].iter().map(|column| column.name.as_str()).collect();
        let (names, shift, low) = (names.join(", "), 40 + self.up_to(40), self.up_to(36));
        let conflict = if table.keyed { " ON CONFLICT (id) DO NOTHING" } else { "" };
        Change::Other(text(format!(
            "INSERT INTO {} SELECT id + {shift}, {names} FROM {} WHERE id BETWEEN {low} AND {}{conflict}",
            table.name,
            table.name,
            low + 4
        )))
    }

    /// A table with a key, which finds at most one row, and its first number.
    fn keyed_table(&mut self) -> Option<String> {
        let keyed: Vec<String> =
            self.tables.iter().filter(|table| table.keyed).map(|table| table.name.clone()).collect();
        if keyed.is_empty() { None } else { Some(self.pick(&keyed).clone()) }
    }

    fn update_from(&mut self, table: &Table) -> Change {
        let Some(from) = self.keyed_table() else { return self.update(table) };
        let name = &table.name;
        let filter = maybe([text(" AND o.i0 > 0")]);
        Change::Other(parts([
            text(format!("UPDATE {name} SET i0 = o.i0 FROM {from} AS o WHERE o.id = {name}.id")),
            filter,
        ]))
    }

    fn delete_using(&mut self, table: &Table) -> Change {
        let Some(from) = self.keyed_table() else { return self.delete(table) };
        let name = &table.name;
        let low = self.up_to(36);
        let some = text(format!(" AND o.id BETWEEN {low} AND {}", low + 6));
        Change::Other(parts([text(format!("DELETE FROM {name} USING {from} AS o WHERE o.id = {name}.id")), some]))
    }

    fn column_of(&mut self, scope: &Scope, kind: Kind) -> Option<String> {
        let columns: Vec<&Column> = scope.columns.iter().filter(|column| column.kind == kind).collect();
        if columns.is_empty() { None } else { Some(self.pick(&columns).sql.to_string()) }
    }

    fn change_filter(&mut self, scope: &Scope) -> Sql {
        if self.chance(6) {
            return maybe([]);
        }
        let condition = if self.chance(50) {
            let low = self.up_to(36);
            text(format!("{}.id BETWEEN {low} AND {}", name_of(scope), low + 4))
        } else {
            self.value(Kind::Bool, scope, 2)
        };
        maybe([text(" WHERE "), condition])
    }

    fn delete(&mut self, table: &Table) -> Change {
        let scope = self.change_scope(table);
        // Only some of the rows that a condition finds, or nothing would be left to look at.
        let modulus = 2 + self.up_to(3);
        let filter = if self.chance(4) { maybe([]) } else { self.change_filter(&scope) };
        let some = match &filter {
            Sql::Maybe(parts) if parts.is_empty() => maybe([]),
            _ => maybe([text(format!(" AND {}.id % {modulus} = 0", table.name))]),
        };
        Change::Other(parts([text(format!("DELETE FROM {}", table.name)), filter, some]))
    }
}

fn name_of(scope: &Scope) -> String {
    let first = scope.columns.first().map(|column| column.sql.to_string()).unwrap_or_default();
    first.split('.').next().unwrap_or_default().to_string()
}
