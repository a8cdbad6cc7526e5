//! Functions that return several rows: in FROM, and in a select list, where all of them go on side by side.
//!
//! Each is an array that the plan unnests. In a select list that happens above the aggregates (unless it is grouped by)
//! and below DISTINCT and ORDER BY; the shorter ones end in NULLs.

use datafusion::common::{Column, NullHandling, UnnestOptions};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use storage::SqlType;

use super::names::{Call, Clause};
use super::{Binder, Typed, at};
use crate::batch::column;
use crate::error::{Error, Result};
use crate::types;

/// The modifier of an integer array that stands for the record (x, n) of `_pg_expandarray`. No type has it otherwise.
pub(super) const EXPANDED: i32 = -32;

/// The rows of a set-returning function.
pub(super) struct Rows {
    /// The array of them.
    pub(super) list: Expr,
    /// The type of one.
    pub(super) item: SqlType,
    /// Its modifier.
    pub(super) typmod: i32,
}

impl Binder<'_> {
    /// The rows of a set-returning function; `None` if it is not one.
    pub(super) fn rows_of(&mut self, name: &str, args: &[Typed], place: Option<usize>) -> Result<Option<Rows>> {
        let rows = |list: Expr, item: SqlType| Ok(Some(Rows { list, item, typmod: -1 }));
        match name {
            "generate_series" => {
                let (list, item) = self.series(args.to_vec(), place)?;
                rows(list, item)
            }
            "unnest" => {
                let [array] = args else {
                    return Err(at(Error::unsupported("unnest() of several arrays is not supported"), place));
                };
                match array.ty.clone() {
                    SqlType::Array(item) => rows(array.expr.clone(), item.as_ref().clone()),
                    SqlType::Unknown => {
                        let message = "could not determine polymorphic type because input has type unknown";
                        Err(at(Error::new("42804", message), place))
                    }
                    ty => {
                        let message = format!("function unnest({}) does not exist", types::name(&ty));
                        Err(at(Error::new("42883", message), place).with_hint(
                            "No function matches the given name and argument types. You might need to add explicit \
                             type casts.",
                        ))
                    }
                }
            }
            "generate_subscripts" => {
                let array = self.function("array_subscripts", args.to_vec(), place)?;
                rows(array.expr, SqlType::Int)
            }
            "regexp_split_to_table" => {
                let array = self.function("regexp_split_to_array", args.to_vec(), place)?;
                rows(array.expr, SqlType::Text)
            }
            "pg_options_to_table" => match args {
                [options] => {
                    rows(self.implicit(options.clone(), &SqlType::Array(Box::new(SqlType::Text)))?, SqlType::Text)
                }
                _ => Err(at(Error::new("42883", "pg_options_to_table() takes one array"), place)),
            },
            "_pg_expandarray" => {
                let array = self.function("_pg_expandarray", args.to_vec(), place)?;
                let item = SqlType::Array(Box::new(SqlType::Int));
                Ok(Some(Rows { list: array.expr, item, typmod: EXPANDED }))
            }
            _ => Ok(None),
        }
    }

    /// A set-returning function in a select list: the column of its rows. `None` if it is not one.
    pub(super) fn rows_in_select(&mut self, name: &str, args: &[Typed], place: Option<usize>) -> Result<Option<Typed>> {
        if name == "pg_options_to_table" {
            return Err(at(Error::unsupported("pg_options_to_table() is supported in FROM only"), place));
        }
        let Some(rows) = self.rows_of(name, args, place)? else { return Ok(None) };
        let clause = match self.scope().clause {
            Clause::Select => None,
            Clause::Where => Some("WHERE"),
            Clause::Having => Some("HAVING"),
            Clause::Limit => Some("LIMIT"),
            Clause::On => Some("JOIN conditions"),
            _ => Some("this place"),
        };
        if let Some(clause) = clause {
            let message = format!("set-returning functions are not allowed in {clause}");
            return Err(at(Error::unsupported(message), place));
        }
        let nested = |c: &Column| self.scopes.last().is_some_and(|s| s.sets.iter().any(|set| set.internal == c.name));
        if rows.list.column_refs().into_iter().any(nested) {
            return Err(at(Error::unsupported("nested set-returning functions are not supported"), place));
        }
        let internal = self.fresh();
        self.scope().sets.push(Call { expr: rows.list, internal: internal.clone() });
        Ok(Some(Typed { expr: column(internal), ty: rows.item, typmod: rows.typmod, position: place }))
    }

    /// `(record).x` and `(record).n` of `_pg_expandarray`.
    pub(super) fn expanded_field(&mut self, record: Typed, name: &str) -> Result<Typed> {
        let place = record.position;
        let index = match name {
            _ if record.typmod != EXPANDED => {
                let message = format!(
                    "column notation .{name} applied to type {}, which is not a composite type",
                    types::name(&record.ty)
                );
                return Err(at(Error::new("42809", message), place));
            }
            "x" => 1,
            "n" => 2,
            _ => {
                let message = format!("could not identify column \"{name}\" in record data type");
                return Err(at(Error::new("42703", message), place));
            }
        };
        let index = super::literal::literal(datafusion::common::ScalarValue::Int32(Some(index)));
        self.function("array_get", vec![Typed { typmod: -1, ..record }, Typed::new(index, SqlType::Int)], place)
    }
}

/// A row per element of the arrays, side by side; no row where all are empty.
pub(super) fn expand(plan: LogicalPlan, sets: Vec<Call>) -> Result<LogicalPlan> {
    if sets.is_empty() {
        return Ok(plan);
    }
    let names: Vec<Column> = sets.iter().map(|set| Column::new_unqualified(&set.internal)).collect();
    let all: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let lists = sets.into_iter().map(|set| set.expr.alias(set.internal));
    let options = UnnestOptions { null_handling: NullHandling::Drop, ..UnnestOptions::default() };
    let plan = LogicalPlanBuilder::from(plan).project(all.into_iter().chain(lists))?;
    Ok(plan.unnest_columns_with_options(names, options)?.build()?)
}
