//! A system relation and the rows that fill it.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Float64Builder, Int16Builder, Int32Builder, Int64Builder, ListBuilder,
    RecordBatch, RecordBatchOptions, StringViewBuilder, TimestampMicrosecondBuilder,
};
use planner::catalog::Catalog;
use storage::{Column, SqlType};

use crate::error::Result;
use crate::shared::Shared;

/// A system relation.
pub struct SystemRelation {
    /// Its schema.
    pub schema: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its oid: Postgres' own where Postgres has one.
    pub oid: u32,
    /// `name:type` of each column, parted by spaces; see [`columns`].
    pub columns: &'static str,
    /// Adds its rows.
    pub fill: Fill,
}

/// Adds the rows of a relation.
pub type Fill = fn(&Context<'_>, &mut Rows) -> Result<()>;

impl SystemRelation {
    /// A relation of a schema.
    pub const fn new(
        schema: &'static str,
        name: &'static str,
        oid: u32,
        columns: &'static str,
        fill: Fill,
    ) -> SystemRelation {
        SystemRelation { schema, name, oid, columns, fill }
    }
}

/// A relation of `pg_catalog`.
pub const fn system(name: &'static str, oid: u32, columns: &'static str, fill: Fill) -> SystemRelation {
    SystemRelation::new("pg_catalog", name, oid, columns, fill)
}

/// What rows are made of.
pub struct Context<'a> {
    /// What exists.
    pub catalog: &'a Catalog,
    /// What goes on.
    pub shared: &'a Shared,
    /// The session's settings.
    pub settings: &'a crate::settings::Values,
    /// Who asks.
    pub user: &'a str,
}

/// The rows of a system relation.
pub fn rows(relation: &SystemRelation, context: &Context<'_>) -> Result<RecordBatch> {
    let mut rows = Rows::new(columns(relation.columns));
    (relation.fill)(context, &mut rows)?;
    rows.finish()
}

/// Parses a list of columns: `oid:oid relname:name indkey:int2[]`.
pub fn columns(text: &str) -> Vec<Column> {
    let column = |word: &str| {
        let (name, ty) = word.split_once(':').expect("name:type");
        let (ty, array) = match ty.strip_suffix("[]") {
            Some(item) => (item, true),
            None => (ty, false),
        };
        if let Some(item) = ty.strip_suffix("vector") {
            let item = if item == "oid" { SqlType::Oid } else { SqlType::SmallInt };
            let column = Column::new(name, SqlType::Array(Box::new(item)));
            return Column { typmod: planner::types::VECTOR, ..column };
        }
        let ty = match ty {
            "bool" => SqlType::Boolean,
            "int2" => SqlType::SmallInt,
            "int4" => SqlType::Int,
            "int8" => SqlType::BigInt,
            "float4" => SqlType::Real,
            "float8" => SqlType::Double,
            "text" => SqlType::Text,
            "name" => SqlType::Name,
            "char" => SqlType::QuotedChar,
            "oid" => SqlType::Oid,
            "timestamptz" => SqlType::TimestampTz,
            other => unreachable!("the type {other} of a system column"),
        };
        Column::new(name, if array { SqlType::Array(Box::new(ty)) } else { ty })
    };
    text.split_whitespace().map(column).collect()
}

/// A value of a system relation.
#[derive(Clone, Debug)]
pub enum Value {
    /// NULL
    Null,
    /// boolean
    Bool(bool),
    /// Any whole number, oid or timestamp (microseconds since 1970).
    Int(i64),
    /// real and double precision
    Float(f64),
    /// Any text.
    Text(String),
    /// An array of any whole numbers.
    Ints(Vec<i64>),
    /// An array of texts.
    Texts(Vec<String>),
}

macro_rules! values {
    ($($from:ty => |$v:ident| $to:expr,)*) => {
        $(impl From<$from> for Value { fn from($v: $from) -> Value { $to } })*
    };
}

values! {
    bool => |v| Value::Bool(v),
    i32 => |v| Value::Int(v.into()),
    i64 => |v| Value::Int(v),
    u32 => |v| Value::Int(v.into()),
    u64 => |v| Value::Int(v as i64),
    usize => |v| Value::Int(v as i64),
    f64 => |v| Value::Float(v),
    &str => |v| Value::Text(v.to_owned()),
    String => |v| Value::Text(v),
    &String => |v| Value::Text(v.clone()),
    Vec<i64> => |v| Value::Ints(v),
    Vec<String> => |v| Value::Texts(v),
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// Makes a row: `row!["pg_class", 1259, None::<i64>]`.
#[macro_export]
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::pg_catalog::relation::Value::from($value)),*] };
}

/// Rows on the way to a batch.
pub struct Rows {
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
}

impl Rows {
    fn new(columns: Vec<Column>) -> Rows {
        Rows { columns, rows: Vec::new() }
    }

    /// Adds a row. Values that are missing at its end are NULL.
    pub fn push(&mut self, mut row: Vec<Value>) {
        debug_assert!(row.len() <= self.columns.len(), "{row:?}");
        row.resize(self.columns.len(), Value::Null);
        self.rows.push(row);
    }

    fn finish(self) -> Result<RecordBatch> {
        let arrays = (self.columns.iter().enumerate())
            .map(|(i, column)| array(&column.ty, self.rows.iter().map(|row| &row[i])))
            .collect::<Vec<_>>();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        Ok(RecordBatch::try_new_with_options(storage::types::arrow_schema(&self.columns), arrays, &options)?)
    }
}

/// A column of values; one of another kind is NULL.
fn array<'a>(ty: &SqlType, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    let int = |v: &Value| if let Value::Int(v) = v { Some(*v) } else { None };
    let float = |v: &Value| match v {
        Value::Float(v) => Some(*v),
        Value::Int(v) => Some(*v as f64),
        _ => None,
    };
    macro_rules! build {
        ($builder:expr, $value:expr) => {{
            let mut builder = $builder;
            for value in values {
                builder.append_option($value(value));
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    match ty {
        SqlType::Boolean => {
            build!(BooleanBuilder::new(), |v: &Value| if let Value::Bool(v) = v { Some(*v) } else { None })
        }
        SqlType::SmallInt => build!(Int16Builder::new(), |v| int(v).map(|v| v as i16)),
        SqlType::Int => build!(Int32Builder::new(), |v| int(v).map(|v| v as i32)),
        SqlType::BigInt | SqlType::Oid => build!(Int64Builder::new(), int),
        SqlType::Real => build!(Float32Builder::new(), |v| float(v).map(|v| v as f32)),
        SqlType::Double => build!(Float64Builder::new(), float),
        SqlType::TimestampTz => build!(TimestampMicrosecondBuilder::new().with_timezone("UTC"), int),
        SqlType::Array(item) => {
            let field = arrow_schema::Field::new("item", item.arrow(), true);
            macro_rules! list {
                ($items:expr, $kind:path, $convert:expr) => {{
                    let mut builder = ListBuilder::new($items).with_field(field);
                    for value in values {
                        match value {
                            $kind(items) => {
                                for item in items {
                                    builder.values().append_value($convert(item));
                                }
                                builder.append(true);
                            }
                            _ => builder.append(false),
                        }
                    }
                    Arc::new(builder.finish()) as ArrayRef
                }};
            }
            match item.as_ref() {
                SqlType::SmallInt => list!(Int16Builder::new(), Value::Ints, |v: &i64| *v as i16),
                SqlType::BigInt | SqlType::Oid => list!(Int64Builder::new(), Value::Ints, |v: &i64| *v),
                _ => list!(StringViewBuilder::new(), Value::Texts, |v: &'a String| v.as_str()),
            }
        }
        _ => build!(StringViewBuilder::new(), |v: &'a Value| if let Value::Text(v) = v {
            Some(v.as_str())
        } else {
            None
        }),
    }
}
