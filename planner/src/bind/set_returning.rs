//! Functions that return several rows, and what a select list makes of them: all of its go on side by side.
//!
//! Each is one array per column, which the plan unnests. In a select list that happens above the aggregates (unless it is
//! grouped by) and below DISTINCT and ORDER BY; the shorter ones end in NULLs. One within the arguments of another is
//! unnested before it.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan};
use sqlparser::ast;
use storage::SqlType;

use super::literal::{literal, text};
use super::names::{Call, Clause, fold, position};
use super::{Binder, Typed, at};
use crate::error::{Error, Result};
use crate::expr::{column, unnested};
use crate::types::{self, CastContext};

/// The modifier of an integer array that stands for the record (x, n) of `_pg_expandarray`. No type has it otherwise.
const EXPANDED: i32 = -32;
/// The same of a text array for the record (key, value) of `jsonb_each`, and of `jsonb_each_text`.
const MEMBER: i32 = -36;
const TEXT_MEMBER: i32 = -37;

/// A column of the rows of a set-returning function.
pub(super) struct RowsColumn {
    /// Its name, if the function says it: else it is called as the function, or as its alias.
    pub(super) name: Option<String>,
    /// The array of the values.
    pub(super) list: Expr,
    /// The type of one.
    pub(super) item: SqlType,
    /// Its modifier.
    pub(super) typmod: i32,
}

impl RowsColumn {
    fn new(list: Expr, item: SqlType) -> RowsColumn {
        RowsColumn { name: None, list, item, typmod: -1 }
    }

    fn named(self, name: &str) -> RowsColumn {
        RowsColumn { name: Some(name.into()), ..self }
    }
}

impl Binder<'_> {
    /// The columns of a set-returning function in FROM; `None` if it is not one.
    pub(super) fn rows_of(
        &mut self,
        name: &str,
        args: &[Typed],
        place: Option<usize>,
    ) -> Result<Option<Vec<RowsColumn>>> {
        let columns = match name {
            "unnest" if args.len() > 1 => {
                let each = args.iter().map(|arg| self.unnested(std::slice::from_ref(arg), place));
                each.collect::<Result<_>>().map_err(|error| {
                    let message = error.message.replacen("function unnest(", "function pg_catalog.unnest(", 1);
                    Error { message, ..error }
                })?
            }
            "jsonb_each" | "jsonb_each_text" => {
                let value_type = if name == "jsonb_each" { SqlType::Jsonb } else { SqlType::Text };
                let keys = self.list(&format!("_{name}_keys"), name, args, place)?;
                let values = self.list(&format!("_{name}_values"), name, args, place)?;
                vec![
                    RowsColumn::new(keys, SqlType::Text).named("key"),
                    RowsColumn::new(values, value_type).named("value"),
                ]
            }
            "pg_options_to_table" => {
                let mut column = |list: &str, shown: &str| -> Result<RowsColumn> {
                    Ok(RowsColumn::new(self.list(list, name, args, place)?, SqlType::Text).named(shown))
                };
                vec![column("_option_names", "option_name")?, column("_option_values", "option_value")?]
            }
            _ => match self.only_column(name, args, place)? {
                Some(column) => vec![column],
                None => return Ok(None),
            },
        };
        Ok(Some(columns))
    }

    /// The column of a set-returning function that has one, or has a record in it.
    fn only_column(&mut self, name: &str, args: &[Typed], place: Option<usize>) -> Result<Option<RowsColumn>> {
        let texts = || SqlType::Array(Box::new(SqlType::Text));
        let (list, item, shown) = match name {
            "generate_series" => {
                let (list, item) = self.series(args.to_vec(), place)?;
                return Ok(Some(RowsColumn::new(list, item)));
            }
            "unnest" => return self.unnested(args, place).map(Some),
            "generate_subscripts" => ("array_subscripts", SqlType::Int, None),
            "regexp_split_to_table" => ("regexp_split_to_array", SqlType::Text, None),
            "regexp_matches" => ("_regexp_matches", texts(), None),
            "string_to_table" => ("string_to_array", SqlType::Text, None),
            "jsonb_object_keys" => ("_jsonb_object_keys", SqlType::Text, None),
            "jsonb_array_elements" => ("_jsonb_array_elements", SqlType::Jsonb, Some("value")),
            "jsonb_array_elements_text" => ("_jsonb_array_elements_text", SqlType::Text, Some("value")),
            "_pg_expandarray" => {
                let list = self.list(name, name, args, place)?;
                let item = SqlType::Array(Box::new(SqlType::Int));
                return Ok(Some(RowsColumn { typmod: EXPANDED, ..RowsColumn::new(list, item) }));
            }
            _ => return Ok(None),
        };
        let column = RowsColumn::new(self.list(list, name, args, place)?, item);
        Ok(Some(RowsColumn { name: shown.map(str::to_string), ..column }))
    }

    /// The array that a function of ours makes of the arguments of the function called `shown`.
    fn list(&mut self, name: &str, shown: &str, args: &[Typed], place: Option<usize>) -> Result<Expr> {
        let list = self.function(name, args.to_vec(), place).map_err(|error| {
            let message = error.message.replacen(&format!("function {name}("), &format!("function {shown}("), 1);
            Error { message, ..error }
        });
        Ok(list?.expr)
    }

    /// `unnest(array)`; of several dimensions all elements come.
    fn unnested(&mut self, args: &[Typed], place: Option<usize>) -> Result<RowsColumn> {
        let no_such = || {
            let types: Vec<String> = args.iter().map(|a| types::name(&a.ty)).collect();
            let message = format!("function unnest({}) does not exist", types.join(", "));
            at(Error::new("42883", message), place).with_hint(
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            )
        };
        let [array] = args else { return Err(no_such()) };
        match &array.ty {
            SqlType::Array(item) if matches!(**item, SqlType::Array(_)) => {
                Err(at(Error::unsupported("multidimensional arrays are not supported"), place))
            }
            SqlType::Array(item) => Ok(RowsColumn::new(array.expr.clone(), item.as_ref().clone())),
            SqlType::Unknown => Err(at(Error::new("42725", "function unnest(unknown) is not unique"), place)
                .with_hint("Could not choose a best candidate function. You might need to add explicit type casts.")),
            _ => Err(no_such()),
        }
    }

    /// `jsonb_to_record(value) AS t(a int, ...)` and `jsonb_to_recordset`: a column per name of the alias.
    pub(super) fn record_columns(
        &mut self,
        name: &str,
        args: &[Typed],
        definitions: &[ast::TableAliasColumnDef],
        place: Option<usize>,
    ) -> Result<Vec<RowsColumn>> {
        if definitions.is_empty() || definitions.iter().any(|d| d.data_type.is_none()) {
            let message = "a column definition list is required for functions returning \"record\"";
            return Err(at(Error::new("42601", message), place));
        }
        let mut args = args.to_vec();
        if name == "jsonb_to_record"
            && let [value] = args.as_slice()
        {
            // One row always, also of NULL.
            let value = self.implicit(value.clone(), &SqlType::Jsonb)?;
            let nothing = literal(ScalarValue::Utf8View(Some("{}".into())));
            let value = datafusion::logical_expr::when(value.clone().is_null(), nothing).otherwise(value)?;
            args = vec![Typed::new(value, SqlType::Jsonb)];
        }
        let mut columns = vec![];
        for definition in definitions {
            let Some(data_type) = &definition.data_type else { continue };
            let here = position(&definition.name);
            let (item, typmod) = types::from_ast(data_type).map_err(|e| at(e, here))?;
            let field = fold(&definition.name);
            let mut with_key = args.clone();
            with_key.push(Typed::new(text(&field), SqlType::Text));
            let list = match item {
                SqlType::Jsonb => self.list(&format!("_{name}_values"), name, &with_key, place)?,
                SqlType::Array(_) => self.list(&format!("_{name}_values"), name, &with_key, place)?,
                _ => self.list(&format!("_{name}_texts"), name, &with_key, place)?,
            };
            columns.push(RowsColumn { name: Some(field), list, item, typmod });
        }
        Ok(columns)
    }

    /// What a column of a record is made of, as its type.
    pub(super) fn record_value(&mut self, value: Expr, item: &SqlType, typmod: i32) -> Result<Expr> {
        let text = |expr| Typed::new(expr, SqlType::Text);
        Ok(match item {
            SqlType::Jsonb | SqlType::Text => value,
            SqlType::Array(_) => {
                let texts = self.function("_jsonb_array_texts", vec![Typed::new(value, SqlType::Jsonb)], None)?;
                self.coerce(texts, item, typmod, CastContext::Explicit)?
            }
            _ if types::category(item) == 'S' => self.coerce(text(value), item, typmod, CastContext::Assignment)?,
            _ => self.coerce(text(value), item, typmod, CastContext::Explicit)?,
        })
    }

    /// A set-returning function in a select list: the column of its rows. `None` if it is not one.
    pub(super) fn rows_in_select(&mut self, name: &str, args: &[Typed], place: Option<usize>) -> Result<Option<Typed>> {
        let column_here = match name {
            "pg_options_to_table" | "jsonb_to_record" | "jsonb_to_recordset" => {
                let error = Error::unsupported(format!("{name}() is supported in FROM only"));
                return Err(at(error.with_hint(format!("Write FROM {name}(...) AS t(a type, ...).")), place));
            }
            "jsonb_each" | "jsonb_each_text" => {
                let list = self.list(&format!("_{name}_members"), name, args, place)?;
                let typmod = if name == "jsonb_each" { MEMBER } else { TEXT_MEMBER };
                RowsColumn { typmod, ..RowsColumn::new(list, SqlType::Array(Box::new(SqlType::Text))) }
            }
            "unnest" if args.len() > 1 => {
                let error = Error::unsupported("unnest() of several arrays is supported in FROM only");
                return Err(at(error, place));
            }
            _ => match self.only_column(name, args, place)? {
                Some(column) => column,
                None => return Ok(None),
            },
        };
        let clause = match self.scope().clause {
            Clause::Select | Clause::OrderBy => self.scope().conditional,
            Clause::Where => Some("WHERE"),
            Clause::Having => Some("HAVING"),
            Clause::Limit => Some("LIMIT"),
            Clause::On => Some("JOIN conditions"),
            Clause::Values => Some("VALUES"),
            Clause::AggregateArgument => {
                let message = "aggregate function calls cannot contain set-returning function calls";
                return Err(at(Error::unsupported(message), place).with_hint(MOVE));
            }
            _ => Some("this place"),
        };
        if let Some(clause) = clause {
            let message = format!("set-returning functions are not allowed in {clause}");
            let error = at(Error::unsupported(message), place);
            return Err(if self.scope().conditional == Some(clause) { error.with_hint(MOVE) } else { error });
        }
        let internal = self.fresh();
        let RowsColumn { list, item, typmod, .. } = column_here;
        self.scope().sets.push(Call { expr: list, internal: internal.clone() });
        Ok(Some(Typed { expr: column(internal), ty: item, typmod, position: place }))
    }

    /// Binds what is computed for some rows only: CASE, COALESCE.
    pub(super) fn conditionally<T>(&mut self, what: &'static str, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.scope().conditional.replace(what);
        let result = f(self);
        self.scope().conditional = before;
        result
    }

    /// The fields of the record that a modifier stands for; none if it is no record.
    pub(super) fn record_fields(typmod: i32) -> &'static [&'static str] {
        match typmod {
            EXPANDED => &["x", "n"],
            MEMBER | TEXT_MEMBER => &["key", "value"],
            _ => &[],
        }
    }

    /// Refuses a record where a value goes on to the client.
    pub(super) fn no_record(&self, value: &Typed) -> Result<()> {
        if !matches!(value.typmod, MEMBER | TEXT_MEMBER) {
            return Ok(());
        }
        let error = Error::unsupported("a whole row of jsonb_each() as a value is not supported");
        Err(at(error, value.position)
            .with_hint("Put the function in FROM, or name a field of it: (jsonb_each(x)).key, (jsonb_each(x)).value."))
    }

    /// `(record).x` and `(record).n` of `_pg_expandarray`, `(record).key` and `(record).value` of `jsonb_each`.
    pub(super) fn record_field(&mut self, record: Typed, name: &str) -> Result<Typed> {
        let place = record.position;
        let fields = Self::record_fields(record.typmod);
        if fields.is_empty() {
            let message = format!(
                "column notation .{name} applied to type {}, which is not a composite type",
                types::name(&record.ty)
            );
            return Err(at(Error::new("42809", message), place));
        }
        let Some(index) = fields.iter().position(|f| *f == name) else {
            let message = format!("could not identify column \"{name}\" in record data type");
            return Err(at(Error::new("42703", message), place));
        };
        let to_jsonb = record.typmod == MEMBER && index == 1;
        let index = literal(ScalarValue::Int32(Some(index as i32 + 1)));
        let record = Typed { typmod: -1, ..record };
        let value = self.function("array_get", vec![record, Typed::new(index, SqlType::Int)], place)?;
        if !to_jsonb {
            return Ok(value);
        }
        let expr = self.coerce(value, &SqlType::Jsonb, -1, CastContext::Explicit)?;
        Ok(Typed { expr, ty: SqlType::Jsonb, typmod: -1, position: place })
    }
}

const MOVE: &str = "You might be able to move the set-returning function into a LATERAL FROM item.";

/// The set-returning functions of a select list: those within the arguments of others first.
pub(super) fn expand_nested(mut plan: LogicalPlan, mut sets: Vec<Call>) -> Result<LogicalPlan> {
    while !sets.is_empty() {
        let names: Vec<String> = sets.iter().map(|set| set.internal.clone()).collect();
        let waits = |set: &Call| set.expr.column_refs().into_iter().any(|c| names.contains(&c.name));
        let (later, now): (Vec<Call>, Vec<Call>) = sets.into_iter().partition(waits);
        plan = expand(plan, now, false)?;
        sets = later;
    }
    Ok(plan)
}

/// A row per element of the arrays, side by side. Where all are empty there is no row, or one of NULLs if `outer`.
pub(super) fn expand(plan: LogicalPlan, sets: Vec<Call>, outer: bool) -> Result<LogicalPlan> {
    if sets.is_empty() {
        return Ok(plan);
    }
    Ok(unnested(plan, sets.into_iter().map(|set| (set.internal, set.expr)).collect(), outer)?)
}
