//! How a function over SQL values becomes one over Arrow arrays.
//!
//! A family file writes closures over plain values; [`unary`], [`binary`] and their kin loop over the rows, skip NULLs
//! (all of these are strict) and read a constant argument from its single row.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BinaryViewBuilder, BooleanArray, BooleanBuilder, FixedSizeBinaryArray,
    FixedSizeBinaryBuilder, ListArray, ListBuilder, PrimitiveArray, PrimitiveBuilder, StringViewArray,
    StringViewBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use datafusion::common::DataFusionError;
use storage::SqlType;
use storage::numeric::Numeric;
use streaming::expr::EvalError;

use crate::types::datetime::Interval;

/// The result of one row.
pub type Row<T> = Result<T, EvalError>;

/// The arguments of one call: each an array, of one row if it is a constant.
pub struct Args {
    /// The values.
    pub arrays: Vec<ArrayRef>,
    /// Which of them are constants.
    pub constant: Vec<bool>,
    /// Rows of the result.
    pub rows: usize,
}

impl Args {
    /// Where the value of a row is in an argument.
    pub fn at(&self, arg: usize, row: usize) -> usize {
        if self.constant[arg] { 0 } else { row }
    }

    /// Whether an argument is NULL in a row.
    pub fn is_null(&self, arg: usize, row: usize) -> bool {
        self.arrays[arg].is_null(self.at(arg, row))
    }
}

/// The code of a function.
pub type Run = Arc<dyn Fn(&Args) -> Result<ArrayRef, DataFusionError> + Send + Sync>;

/// An error of a row as DataFusion carries it.
pub fn external(error: EvalError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A type of arguments.
pub trait Input: 'static {
    /// Its array.
    type Array: Array + 'static;
    /// One value.
    type Value<'a>;
    /// Its SQL type.
    fn sql() -> SqlType;
    /// The value of a row that is not NULL.
    fn get(array: &Self::Array, row: usize) -> Self::Value<'_>;
}

/// A type of results.
pub trait Output: 'static {
    /// One value.
    type Value;
    /// What collects them.
    type Builder;
    /// Its SQL type.
    fn sql() -> SqlType;
    /// An empty collection.
    fn builder(rows: usize) -> Self::Builder;
    /// Adds a value.
    fn push(builder: &mut Self::Builder, value: Self::Value) -> Row<()>;
    /// Adds a NULL.
    fn push_null(builder: &mut Self::Builder);
    /// The array.
    fn finish(builder: Self::Builder) -> ArrayRef;
}

macro_rules! primitive {
    ($($(#[$doc:meta])* $marker:ident $sql:ident $arrow:ident $native:ty;)*) => {$(
        $(#[$doc])*
        pub struct $marker;
        impl Input for $marker {
            type Array = PrimitiveArray<$arrow>;
            type Value<'a> = $native;
            fn sql() -> SqlType { SqlType::$sql }
            fn get(array: &Self::Array, row: usize) -> $native { array.value(row) }
        }
        impl Output for $marker {
            type Value = $native;
            type Builder = PrimitiveBuilder<$arrow>;
            fn sql() -> SqlType { SqlType::$sql }
            fn builder(rows: usize) -> Self::Builder { PrimitiveBuilder::with_capacity(rows) }
            fn push(builder: &mut Self::Builder, value: $native) -> Row<()> { builder.append_value(value); Ok(()) }
            fn push_null(builder: &mut Self::Builder) { builder.append_null(); }
            fn finish(mut builder: Self::Builder) -> ArrayRef { Arc::new(builder.finish()) }
        }
    )*};
}

primitive! {
    /// `smallint`
    Int2 SmallInt Int16Type i16;
    /// `integer`
    Int4 Int Int32Type i32;
    /// `bigint`
    Int8 BigInt Int64Type i64;
    /// `oid`
    Oid Oid Int64Type i64;
    /// `regtype`
    RegType RegType Int64Type i64;
    /// `real`
    Float4 Real Float32Type f32;
    /// `double precision`
    Float8 Double Float64Type f64;
    /// `date`
    Date Date Date32Type i32;
    /// `time`
    Time Time Time64MicrosecondType i64;
    /// `timestamp`
    Timestamp Timestamp TimestampMicrosecondType i64;
}

/// `timestamptz`
pub struct TimestampTz;

impl Input for TimestampTz {
    type Array = TimestampMicrosecondArray;
    type Value<'a> = i64;

    fn sql() -> SqlType {
        SqlType::TimestampTz
    }

    fn get(array: &Self::Array, row: usize) -> i64 {
        array.value(row)
    }
}

impl Output for TimestampTz {
    type Value = i64;
    type Builder = PrimitiveBuilder<TimestampMicrosecondType>;

    fn sql() -> SqlType {
        SqlType::TimestampTz
    }

    fn builder(rows: usize) -> Self::Builder {
        PrimitiveBuilder::with_capacity(rows).with_data_type(SqlType::TimestampTz.arrow())
    }

    fn push(builder: &mut Self::Builder, value: i64) -> Row<()> {
        builder.append_value(value);
        Ok(())
    }

    fn push_null(builder: &mut Self::Builder) {
        builder.append_null();
    }

    fn finish(mut builder: Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }
}

/// `interval`
pub struct Span;

impl Input for Span {
    type Array = PrimitiveArray<IntervalMonthDayNanoType>;
    type Value<'a> = Interval;

    fn sql() -> SqlType {
        SqlType::Interval
    }

    fn get(array: &Self::Array, row: usize) -> Interval {
        array.value(row).into()
    }
}

impl Output for Span {
    type Value = Interval;
    type Builder = PrimitiveBuilder<IntervalMonthDayNanoType>;

    fn sql() -> SqlType {
        SqlType::Interval
    }

    fn builder(rows: usize) -> Self::Builder {
        PrimitiveBuilder::with_capacity(rows)
    }

    fn push(builder: &mut Self::Builder, value: Interval) -> Row<()> {
        builder.append_value(value.to_arrow()?);
        Ok(())
    }

    fn push_null(builder: &mut Self::Builder) {
        builder.append_null();
    }

    fn finish(mut builder: Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }
}

/// `boolean`
pub struct Bool;

impl Input for Bool {
    type Array = BooleanArray;
    type Value<'a> = bool;

    fn sql() -> SqlType {
        SqlType::Boolean
    }

    fn get(array: &BooleanArray, row: usize) -> bool {
        array.value(row)
    }
}

impl Output for Bool {
    type Value = bool;
    type Builder = BooleanBuilder;

    fn sql() -> SqlType {
        SqlType::Boolean
    }

    fn builder(rows: usize) -> BooleanBuilder {
        BooleanBuilder::with_capacity(rows)
    }

    fn push(builder: &mut BooleanBuilder, value: bool) -> Row<()> {
        builder.append_value(value);
        Ok(())
    }

    fn push_null(builder: &mut BooleanBuilder) {
        builder.append_null();
    }

    fn finish(mut builder: BooleanBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
}

macro_rules! text {
    ($($(#[$doc:meta])* $marker:ident $sql:ident;)*) => {$(
        $(#[$doc])*
        pub struct $marker;
        impl Input for $marker {
            type Array = StringViewArray;
            type Value<'a> = &'a str;
            fn sql() -> SqlType { SqlType::$sql }
            fn get(array: &StringViewArray, row: usize) -> &str { array.value(row) }
        }
        impl Output for $marker {
            type Value = String;
            type Builder = StringViewBuilder;
            fn sql() -> SqlType { SqlType::$sql }
            fn builder(rows: usize) -> StringViewBuilder { StringViewBuilder::with_capacity(rows) }
            fn push(builder: &mut StringViewBuilder, value: String) -> Row<()> {
                builder.append_value(value);
                Ok(())
            }
            fn push_null(builder: &mut StringViewBuilder) { builder.append_null(); }
            fn finish(mut builder: StringViewBuilder) -> ArrayRef { Arc::new(builder.finish()) }
        }
    )*};
}

text! {
    /// `text`
    Text Text;
    /// `varchar`
    Varchar Varchar;
    /// `char(n)`
    Char Char;
    /// `name`
    Name Name;
    /// `jsonb`
    Jsonb Jsonb;
    /// `"char"`
    QuotedChar QuotedChar;
}

/// `bytea`
pub struct Bytea;

impl Input for Bytea {
    type Array = BinaryViewArray;
    type Value<'a> = &'a [u8];

    fn sql() -> SqlType {
        SqlType::Bytea
    }

    fn get(array: &BinaryViewArray, row: usize) -> &[u8] {
        array.value(row)
    }
}

impl Output for Bytea {
    type Value = Vec<u8>;
    type Builder = BinaryViewBuilder;

    fn sql() -> SqlType {
        SqlType::Bytea
    }

    fn builder(rows: usize) -> BinaryViewBuilder {
        BinaryViewBuilder::with_capacity(rows)
    }

    fn push(builder: &mut BinaryViewBuilder, value: Vec<u8>) -> Row<()> {
        builder.append_value(value);
        Ok(())
    }

    fn push_null(builder: &mut BinaryViewBuilder) {
        builder.append_null();
    }

    fn finish(mut builder: BinaryViewBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
}

/// Bytes of one length that are a value.
pub trait Fixed: 'static {
    /// The value.
    type Value;
    /// Its bytes.
    const BYTES: i32;
    /// Its SQL type.
    fn sql() -> SqlType;
    /// From bytes.
    fn decode(bytes: &[u8]) -> Self::Value;
    /// To bytes.
    fn encode(value: Self::Value) -> Vec<u8>;
}

macro_rules! fixed {
    ($($marker:ident)*) => {$(
        impl Input for $marker {
            type Array = FixedSizeBinaryArray;
            type Value<'a> = <$marker as Fixed>::Value;
            fn sql() -> SqlType { <$marker as Fixed>::sql() }
            fn get(array: &FixedSizeBinaryArray, row: usize) -> Self::Value<'_> { $marker::decode(array.value(row)) }
        }
        impl Output for $marker {
            type Value = <$marker as Fixed>::Value;
            type Builder = FixedSizeBinaryBuilder;
            fn sql() -> SqlType { <$marker as Fixed>::sql() }
            fn builder(rows: usize) -> FixedSizeBinaryBuilder {
                FixedSizeBinaryBuilder::with_capacity(rows, $marker::BYTES)
            }
            fn push(builder: &mut FixedSizeBinaryBuilder, value: <$marker as Fixed>::Value) -> Row<()> {
                builder.append_value($marker::encode(value)).expect("bytes of one length");
                Ok(())
            }
            fn push_null(builder: &mut FixedSizeBinaryBuilder) { builder.append_null(); }
            fn finish(mut builder: FixedSizeBinaryBuilder) -> ArrayRef { Arc::new(builder.finish()) }
        }
    )*};
}

/// `numeric`
pub struct Num;

impl Fixed for Num {
    type Value = Numeric;
    const BYTES: i32 = storage::numeric::BYTES as i32;

    fn sql() -> SqlType {
        SqlType::Numeric
    }

    fn decode(bytes: &[u8]) -> Numeric {
        Numeric::from_bytes(bytes)
    }

    fn encode(value: Numeric) -> Vec<u8> {
        value.to_bytes().to_vec()
    }
}

/// `uuid`
pub struct Uuid;

impl Fixed for Uuid {
    type Value = [u8; 16];
    const BYTES: i32 = 16;

    fn sql() -> SqlType {
        SqlType::Uuid
    }

    fn decode(bytes: &[u8]) -> [u8; 16] {
        bytes.try_into().expect("a uuid has 16 bytes")
    }

    fn encode(value: [u8; 16]) -> Vec<u8> {
        value.to_vec()
    }
}

fixed! { Num Uuid }

/// The 18 bytes by which numerics are compared; not a type of SQL.
pub struct NumericKey;

impl Output for NumericKey {
    type Value = [u8; 18];
    type Builder = FixedSizeBinaryBuilder;

    fn sql() -> SqlType {
        SqlType::Bytea
    }

    fn builder(rows: usize) -> FixedSizeBinaryBuilder {
        FixedSizeBinaryBuilder::with_capacity(rows, 18)
    }

    fn push(builder: &mut FixedSizeBinaryBuilder, value: [u8; 18]) -> Row<()> {
        builder.append_value(value).expect("18 bytes");
        Ok(())
    }

    fn push_null(builder: &mut FixedSizeBinaryBuilder) {
        builder.append_null();
    }

    fn finish(mut builder: FixedSizeBinaryBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
}

/// The microseconds by which intervals are compared; not a type of SQL.
pub struct IntervalKey;

impl Output for IntervalKey {
    type Value = i128;
    type Builder = PrimitiveBuilder<Decimal128Type>;

    fn sql() -> SqlType {
        SqlType::Interval
    }

    fn builder(rows: usize) -> Self::Builder {
        PrimitiveBuilder::with_capacity(rows).with_data_type(arrow::datatypes::DataType::Decimal128(38, 0))
    }

    fn push(builder: &mut Self::Builder, value: i128) -> Row<()> {
        builder.append_value(value);
        Ok(())
    }

    fn push_null(builder: &mut Self::Builder) {
        builder.append_null();
    }

    fn finish(mut builder: Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }
}

/// `text[]`
pub struct TextArray;

impl Input for TextArray {
    type Array = ListArray;
    type Value<'a> = StringViewArray;

    fn sql() -> SqlType {
        SqlType::Array(Box::new(SqlType::Text))
    }

    fn get(array: &ListArray, row: usize) -> StringViewArray {
        array.value(row).as_string_view().clone()
    }
}

impl Output for TextArray {
    type Value = Vec<Option<String>>;
    type Builder = ListBuilder<StringViewBuilder>;

    fn sql() -> SqlType {
        SqlType::Array(Box::new(SqlType::Text))
    }

    fn builder(_rows: usize) -> Self::Builder {
        ListBuilder::new(StringViewBuilder::new())
    }

    fn push(builder: &mut Self::Builder, value: Vec<Option<String>>) -> Row<()> {
        for item in value {
            builder.values().append_option(item);
        }
        builder.append(true);
        Ok(())
    }

    fn push_null(builder: &mut Self::Builder) {
        builder.append(false);
    }

    fn finish(mut builder: Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }
}

/// `jsonb[]`
pub struct JsonbArray;

impl Output for JsonbArray {
    type Value = Vec<Option<String>>;
    type Builder = ListBuilder<StringViewBuilder>;

    fn sql() -> SqlType {
        SqlType::Array(Box::new(SqlType::Jsonb))
    }

    fn builder(rows: usize) -> Self::Builder {
        TextArray::builder(rows)
    }

    fn push(builder: &mut Self::Builder, value: Vec<Option<String>>) -> Row<()> {
        TextArray::push(builder, value)
    }

    fn push_null(builder: &mut Self::Builder) {
        TextArray::push_null(builder);
    }

    fn finish(builder: Self::Builder) -> ArrayRef {
        TextArray::finish(builder)
    }
}

/// Several values of `text[]`.
pub struct TextArrays;

impl Output for TextArrays {
    type Value = Vec<Vec<Option<String>>>;
    type Builder = ListBuilder<ListBuilder<StringViewBuilder>>;

    fn sql() -> SqlType {
        SqlType::Array(Box::new(<TextArray as Output>::sql()))
    }

    fn builder(_rows: usize) -> Self::Builder {
        ListBuilder::new(ListBuilder::new(StringViewBuilder::new()))
    }

    fn push(builder: &mut Self::Builder, value: Vec<Vec<Option<String>>>) -> Row<()> {
        for array in value {
            TextArray::push(builder.values(), array)?;
        }
        builder.append(true);
        Ok(())
    }

    fn push_null(builder: &mut Self::Builder) {
        builder.append(false);
    }

    fn finish(mut builder: Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }
}

/// A result that may be NULL though no argument is.
pub struct Maybe<T>(PhantomData<T>);

impl<T: Output> Output for Maybe<T> {
    type Value = Option<T::Value>;
    type Builder = T::Builder;

    fn sql() -> SqlType {
        T::sql()
    }

    fn builder(rows: usize) -> T::Builder {
        T::builder(rows)
    }

    fn push(builder: &mut T::Builder, value: Option<T::Value>) -> Row<()> {
        match value {
            Some(value) => T::push(builder, value),
            None => {
                T::push_null(builder);
                Ok(())
            }
        }
    }

    fn push_null(builder: &mut T::Builder) {
        T::push_null(builder);
    }

    fn finish(builder: T::Builder) -> ArrayRef {
        T::finish(builder)
    }
}

fn column<A: Input>(args: &Args, arg: usize) -> Result<&A::Array, DataFusionError> {
    args.arrays[arg].as_any().downcast_ref::<A::Array>().ok_or_else(|| {
        DataFusionError::Internal(format!(
            "argument {} of a function is {} where {} was planned",
            arg + 1,
            args.arrays[arg].data_type(),
            A::sql().arrow()
        ))
    })
}

/// A function without arguments.
pub fn nullary<R: Output>(f: impl Fn() -> Row<R::Value> + Send + Sync + 'static) -> Run {
    Arc::new(move |args: &Args| {
        let mut out = R::builder(args.rows);
        for _ in 0..args.rows {
            R::push(&mut out, f().map_err(external)?).map_err(external)?;
        }
        Ok(R::finish(out))
    })
}

macro_rules! strict {
    ($($(#[$doc:meta])* $name:ident $($arg:ident $n:tt),+;)*) => {$(
        $(#[$doc])*
        #[allow(non_snake_case)]
        pub fn $name<$($arg: Input,)+ R: Output>(
            f: impl for<'a> Fn($($arg::Value<'a>),+) -> Row<R::Value> + Send + Sync + 'static,
        ) -> Run {
            Arc::new(move |args: &Args| {
                let columns = ($(column::<$arg>(args, $n)?,)+);
                let mut out = R::builder(args.rows);
                for row in 0..args.rows {
                    if $(columns.$n.is_null(args.at($n, row)))||+ {
                        R::push_null(&mut out);
                    } else {
                        let value = f($($arg::get(columns.$n, args.at($n, row))),+).map_err(external)?;
                        R::push(&mut out, value).map_err(external)?;
                    }
                }
                Ok(R::finish(out))
            })
        }
    )*};
}

strict! {
    /// A strict function of one argument.
    unary A 0;
    /// Of two.
    binary A 0, B 1;
    /// Of three.
    ternary A 0, B 1, C 2;
    /// Of four.
    quaternary A 0, B 1, C 2, D 3;
    /// Of five.
    quinary A 0, B 1, C 2, D 3, E 4;
    /// Of six.
    senary A 0, B 1, C 2, D 3, E 4, F 5;
    /// Of seven.
    septenary A 0, B 1, C 2, D 3, E 4, F 5, G 6;
}
