//! The SQL types that exist and the one Arrow representation of each.
//!
//! What Postgres knows of a type (its OID, its casts, its text form) is in the planner; here is only what the bytes
//! need: two crates that do not know each other agree on a column by this page.

use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use serde::{Deserialize, Serialize};

/// Bytes of a `numeric` in Arrow: see [`crate::numeric`].
pub const NUMERIC_BYTES: i32 = 19;

/// A SQL type without its modifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SqlType {
    /// `boolean`
    Boolean,
    /// `smallint`
    SmallInt,
    /// `integer`
    Int,
    /// `bigint`
    BigInt,
    /// `real`
    Real,
    /// `double precision`
    Double,
    /// `numeric`, with or without precision and scale: 19 order-preserving bytes, see [`crate::numeric`].
    Numeric,
    /// `text`
    Text,
    /// `varchar` and `varchar(n)`
    Varchar,
    /// `char(n)` (`bpchar`), blank-padded
    Char,
    /// `name`, the catalog's identifier type
    Name,
    /// `bytea`
    Bytea,
    /// `date`: days since 1970-01-01; `i32::MAX` and `i32::MIN` are the infinities.
    Date,
    /// `time`: microseconds since midnight
    Time,
    /// `timestamp`: microseconds since 1970-01-01; `i64::MAX` and `i64::MIN` are the infinities.
    Timestamp,
    /// `timestamptz`: the same, in UTC
    TimestampTz,
    /// `interval`: months, days, microseconds (the nanosecond field of Arrow's form is always a multiple of 1,000)
    Interval,
    /// `jsonb`: Postgres' canonical text of the value
    Jsonb,
    /// `uuid`: 16 bytes
    Uuid,
    /// `oid` and the `reg*` types: an unsigned 32-bit number kept in a bigint
    Oid,
    /// `regclass`
    RegClass,
    /// `regtype`
    RegType,
    /// `"char"`: one byte, kept as text
    QuotedChar,
    /// `void`: what a function returns that is called for what it does. Always the empty text.
    Void,
    /// The type of a quoted literal until its context decides.
    Unknown,
    /// An array of any of these (one dimension in Arrow; nested for more).
    Array(Box<SqlType>),
}

impl SqlType {
    /// The Arrow type that a column of this type has everywhere inside the process.
    pub fn arrow(&self) -> DataType {
        match self {
            SqlType::Boolean => DataType::Boolean,
            SqlType::SmallInt => DataType::Int16,
            SqlType::Int => DataType::Int32,
            SqlType::BigInt | SqlType::Oid | SqlType::RegClass | SqlType::RegType => DataType::Int64,
            SqlType::Real => DataType::Float32,
            SqlType::Double => DataType::Float64,
            SqlType::Numeric => DataType::FixedSizeBinary(NUMERIC_BYTES),
            SqlType::Text
            | SqlType::Varchar
            | SqlType::Char
            | SqlType::Name
            | SqlType::Jsonb
            | SqlType::QuotedChar
            | SqlType::Void
            | SqlType::Unknown => DataType::Utf8View,
            SqlType::Bytea => DataType::BinaryView,
            SqlType::Date => DataType::Date32,
            SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            SqlType::Uuid => DataType::FixedSizeBinary(16),
            SqlType::Array(item) => DataType::List(Field::new("item", item.arrow(), true).into()),
        }
    }
}

/// A column of a source, a table or a view, as the user declared it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// Its name, case kept.
    pub name: String,
    /// Its type.
    pub ty: SqlType,
    /// Postgres' type modifier (`numeric(p,s)` is `((p << 16) | s) + 4`, `varchar(n)` is `n + 4`), -1 for none.
    pub typmod: i32,
    /// Whether NULL is refused.
    pub not_null: bool,
}

impl Column {
    /// A nullable column without a modifier.
    pub fn new(name: impl Into<String>, ty: SqlType) -> Column {
        Column { name: name.into(), ty, typmod: -1, not_null: false }
    }
}

/// The Arrow schema of `columns`. All fields are nullable: that a column is NOT NULL is checked where rows enter.
pub fn arrow_schema(columns: &[Column]) -> arrow_schema::SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|c| Field::new(&c.name, c.ty.arrow(), true)).collect();
    std::sync::Arc::new(arrow_schema::Schema::new(fields))
}
