//! Casts between types, and those that apply a type modifier.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringViewBuilder};
use arrow::datatypes::Field;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{ScalarUDF, Volatility};
use storage::SqlType;
use storage::numeric::Numeric;
use streaming::expr::EvalError;

use super::arithmetic::{bigint_range, integer_range, num, smallint_range};
use super::math::rint;
use super::rows::*;
use super::{Definition, by_symbol, functions, udf};
use crate::types::datetime::{self, DAY, Interval, Zone};
use crate::types::text::{self as form, Session};
use crate::types::{self, CastContext, cast_context, error, json};

/// One call of a cast: the function over the value and then these constants.
#[derive(Clone, Debug)]
pub struct CastStep {
    /// What plans call it.
    pub symbol: String,
    /// What runs it.
    pub implementation: Arc<ScalarUDF>,
    /// Its arguments behind the value: a time zone, a type modifier.
    pub extra: Vec<ScalarValue>,
    /// The type of the result.
    pub returns: SqlType,
}

/// The calls that cast a value of `from` to `to`, none if it is one as it stands; `cannot cast type a to b`
/// if Postgres does not do that in this context. `zone` is the session's time zone.
pub fn cast(
    from: &SqlType,
    to: &SqlType,
    typmod: i32,
    context: CastContext,
    zone: &str,
) -> Result<Vec<CastStep>, EvalError> {
    let cannot = || error("42846", format!("cannot cast type {} to {}", types::name(from), types::name(to)));
    if cast_context(from, to).is_none_or(|least| least > context) {
        return Err(cannot());
    }
    let mut steps = Vec::new();
    // A column of type unknown holds text.
    let from = if *from == SqlType::Unknown { &SqlType::Text } else { from };
    if !is_same(from, to) {
        let symbol = format!("cast[{},{}]", types::name(from), types::name(to));
        let implementation = by_symbol(&symbol).ok_or_else(cannot)?;
        let extra = if is_zoned(from, to) { vec![ScalarValue::Utf8View(Some(zone.to_string()))] } else { vec![] };
        steps.push(CastStep { symbol, implementation, extra, returns: to.clone() });
    }
    if let Some(step) = typmod_cast(to, typmod, context == CastContext::Explicit)? {
        steps.push(step);
    }
    Ok(steps)
}

/// The call that applies a type modifier; `None` if there is none. `explicit` cuts a text that is too long.
pub fn typmod_cast(ty: &SqlType, typmod: i32, explicit: bool) -> Result<Option<CastStep>, EvalError> {
    if typmod < 0 {
        return Ok(None);
    }
    let symbol = match ty {
        SqlType::Numeric => "numeric_typmod",
        SqlType::Varchar => "varchar_typmod",
        SqlType::Char => "bpchar_typmod",
        SqlType::Time => "time_typmod",
        SqlType::Timestamp => "timestamp_typmod",
        SqlType::TimestampTz => "timestamptz_typmod",
        SqlType::Interval => "interval_typmod",
        SqlType::Array(_) => {
            return Err(error("0A000", "type modifiers of array elements are not supported"));
        }
        _ => return Ok(None),
    };
    let mut extra = vec![ScalarValue::Int32(Some(typmod))];
    if matches!(ty, SqlType::Varchar | SqlType::Char) {
        extra.push(ScalarValue::Boolean(Some(explicit)));
    }
    let implementation = by_symbol(symbol).expect("it is in the table below");
    Ok(Some(CastStep { symbol: symbol.into(), implementation, extra, returns: ty.clone() }))
}

/// Whether the same bytes are a value of the other type.
fn is_same(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::*;
    match (from, to) {
        (a, b) if a == b => true,
        (Text | Varchar, Text | Varchar | Char) => true,
        (Name | QuotedChar | Char, Name | QuotedChar) => false,
        (Name | QuotedChar, Text | Varchar | Char) => true,
        (Jsonb, Text | Varchar) => true,
        (Oid, RegClass | RegType) | (RegClass | RegType, Oid) | (Oid | RegClass | RegType, BigInt) => true,
        (Array(a), Array(b)) => is_same(a, b),
        _ => false,
    }
}

/// Whether the cast depends on the time zone.
fn is_zoned(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::*;
    let local = |ty: &SqlType| matches!(ty, Timestamp | Date | Time) || types::category(ty) == 'S';
    match (from, to) {
        (Array(a), Array(b)) => is_zoned(a, b),
        (Array(a), b) if types::category(b) == 'S' => *types::innermost(a) == TimestampTz,
        (a, Array(b)) if types::category(a) == 'S' => *types::innermost(b) == TimestampTz,
        (TimestampTz, other) | (other, TimestampTz) => local(other),
        _ => false,
    }
}

pub(super) fn make(symbol: &str, from: &SqlType, to: &SqlType) -> Option<Arc<ScalarUDF>> {
    let run = run(from, to)?;
    Some(udf(symbol.into(), vec![Some(from.arrow()), None], to.arrow(), true, Volatility::Immutable, run))
}

fn zone_of(args: &Args) -> Result<Zone, datafusion::common::DataFusionError> {
    match args.arrays.get(1) {
        Some(zone) => Zone::parse(zone.as_string_view().value(0)).map_err(external),
        None => Ok(datetime::UTC),
    }
}

/// Rounds a double to an integer as Postgres does: half to even, out of range refused.
fn to_integer(a: f64, low: f64, high: f64, range: fn() -> EvalError) -> Row<f64> {
    let rounded = rint(a);
    // `high` is one more than the largest value.
    if rounded >= low && rounded < high { Ok(rounded) } else { Err(range()) }
}

fn numeric_integer(a: &Numeric, type_name: &str) -> Row<i128> {
    if a.is_nan() {
        return Err(error("0A000", format!("cannot convert NaN to {type_name}")));
    }
    if a.is_infinite() {
        return Err(error("0A000", format!("cannot convert infinity to {type_name}")));
    }
    a.to_i128().ok_or_else(|| error("22003", format!("{type_name} out of range")))
}

fn double_to_real(a: f64) -> Row<f32> {
    let result = a as f32;
    super::arithmetic::float(result as f64, a.is_infinite(), a == 0.0)?;
    Ok(result)
}

fn numeric_to_real(a: Numeric) -> Row<f32> {
    let result = a.to_f64() as f32;
    if (result.is_infinite() && a.is_finite()) || (result == 0.0 && !a.is_zero()) {
        return Err(error("22003", format!("\"{a}\" is out of range for type real")));
    }
    Ok(result)
}

/// Midnight of a date; the infinities stay.
pub(super) fn date_to_timestamp(days: i32) -> Row<i64> {
    match days {
        i32::MAX => Ok(i64::MAX),
        i32::MIN => Ok(i64::MIN),
        days => (days as i64).checked_mul(DAY).ok_or_else(|| error("22008", "date out of range for timestamp")),
    }
}

/// The day of a timestamp; the infinities stay.
pub(super) fn timestamp_to_date(local: i64) -> i32 {
    match local {
        i64::MAX => i32::MAX,
        i64::MIN => i32::MIN,
        local => local.div_euclid(DAY) as i32,
    }
}

fn jsonb_cannot(text: &str, to: &str) -> EvalError {
    let kind = match text.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b'n') => "null",
        Some(b't' | b'f') => "boolean",
        _ => "numeric",
    };
    error("22023", format!("cannot cast jsonb {kind} to type {to}"))
}

fn jsonb_number(text: &str, to: &str) -> Row<Numeric> {
    match text.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => form::read_numeric(text),
        _ => Err(jsonb_cannot(text, to)),
    }
}

/// The code of a cast that is not [`is_same`].
fn run(from: &SqlType, to: &SqlType) -> Option<Run> {
    use SqlType::{
        Array, BigInt, Boolean, Char as BpChar, Double, Int, Interval as IntervalType, Name as NameType, Numeric as N,
        Oid as O, QuotedChar as Q, Real, RegClass as RC, RegType as RT, SmallInt, Time as TimeType, Timestamp as Ts,
        TimestampTz as Tz,
    };
    let range = |ok: bool, f: fn() -> EvalError| if ok { Ok(()) } else { Err(f()) };
    Some(match (from, to) {
        (SmallInt, Int) => unary::<Int2, Int4>(|a| Ok(a as i32)),
        (SmallInt, BigInt) => unary::<Int2, Int8>(|a| Ok(a as i64)),
        (Int, BigInt) => unary::<Int4, Int8>(|a| Ok(a as i64)),
        (Int, SmallInt) => unary::<Int4, Int2>(|a| i16::try_from(a).map_err(|_| smallint_range())),
        (BigInt, SmallInt) => unary::<Int8, Int2>(|a| i16::try_from(a).map_err(|_| smallint_range())),
        (BigInt, Int) => unary::<Int8, Int4>(|a| i32::try_from(a).map_err(|_| integer_range())),
        (SmallInt, Real) => unary::<Int2, Float4>(|a| Ok(a as f32)),
        (Int, Real) => unary::<Int4, Float4>(|a| Ok(a as f32)),
        (BigInt, Real) => unary::<Int8, Float4>(|a| Ok(a as f32)),
        (SmallInt, Double) => unary::<Int2, Float8>(|a| Ok(a as f64)),
        (Int, Double) => unary::<Int4, Float8>(|a| Ok(a as f64)),
        (BigInt, Double) => unary::<Int8, Float8>(|a| Ok(a as f64)),
        (SmallInt, N) => unary::<Int2, Num>(|a| Ok(Numeric::from_i64(a as i64))),
        (Int, N) => unary::<Int4, Num>(|a| Ok(Numeric::from_i64(a as i64))),
        (BigInt, N) => unary::<Int8, Num>(|a| Ok(Numeric::from_i64(a))),
        (Int, Boolean) => unary::<Int4, Bool>(|a| Ok(a != 0)),
        (Boolean, Int) => unary::<Bool, Int4>(|a| Ok(a as i32)),
        (Real, Double) => unary::<Float4, Float8>(|a| Ok(a as f64)),
        (Double, Real) => unary::<Float8, Float4>(double_to_real),
        (Real, SmallInt) => {
            unary::<Float4, Int2>(|a| Ok(to_integer(a as f64, -32768.0, 32768.0, smallint_range)? as i16))
        }
        (Real, Int) => {
            unary::<Float4, Int4>(|a| Ok(to_integer(a as f64, -2147483648.0, 2147483648.0, integer_range)? as i32))
        }
        (Real, BigInt) => unary::<Float4, Int8>(|a| {
            Ok(to_integer(a as f64, -9223372036854775808.0, 9223372036854775808.0, bigint_range)? as i64)
        }),
        (Double, SmallInt) => unary::<Float8, Int2>(|a| Ok(to_integer(a, -32768.0, 32768.0, smallint_range)? as i16)),
        (Double, Int) => {
            unary::<Float8, Int4>(|a| Ok(to_integer(a, -2147483648.0, 2147483648.0, integer_range)? as i32))
        }
        (Double, BigInt) => unary::<Float8, Int8>(|a| {
            Ok(to_integer(a, -9223372036854775808.0, 9223372036854775808.0, bigint_range)? as i64)
        }),
        (Real, N) => unary::<Float4, Num>(|a| num(Numeric::from_f32(a))),
        (Double, N) => unary::<Float8, Num>(|a| num(Numeric::from_f64(a))),
        (N, SmallInt) => {
            unary::<Num, Int2>(|a| i16::try_from(numeric_integer(&a, "smallint")?).map_err(|_| smallint_range()))
        }
        (N, Int) => unary::<Num, Int4>(|a| i32::try_from(numeric_integer(&a, "integer")?).map_err(|_| integer_range())),
        (N, BigInt) => {
            unary::<Num, Int8>(|a| i64::try_from(numeric_integer(&a, "bigint")?).map_err(|_| bigint_range()))
        }
        (N, Real) => unary::<Num, Float4>(numeric_to_real),
        (N, Double) => unary::<Num, Float8>(|a| Ok(a.to_f64())),

        (SmallInt, O | RC | RT) => unary::<Int2, Oid>(|a| Ok(a as i64)),
        (Int, O | RC | RT) => unary::<Int4, Oid>(|a| Ok(a as u32 as i64)),
        (BigInt, O | RC | RT) => unary::<Int8, Oid>(move |a| {
            range((0..=u32::MAX as i64).contains(&a), || error("22003", "OID out of range"))?;
            Ok(a)
        }),
        (O | RC | RT, Int) => unary::<Oid, Int4>(|a| Ok(a as u32 as i32)),

        (SqlType::Date, Ts) => unary::<Date, Timestamp>(date_to_timestamp),
        (SqlType::Date, Tz) => zoned::<Date, TimestampTz>(|a, zone| Ok(zone.to_utc(date_to_timestamp(a)?))),
        (Ts, SqlType::Date) => unary::<Timestamp, Date>(|a| Ok(timestamp_to_date(a))),
        (Tz, SqlType::Date) => zoned::<TimestampTz, Date>(|a, zone| Ok(timestamp_to_date(zone.to_local(a)))),
        (Ts, Tz) => zoned::<Timestamp, TimestampTz>(|a, zone| Ok(zone.to_utc(a))),
        (Tz, Ts) => zoned::<TimestampTz, Timestamp>(|a, zone| Ok(zone.to_local(a))),
        (Ts, TimeType) => {
            unary::<Timestamp, Maybe<Time>>(|a| Ok((!datetime::is_infinite(a)).then(|| a.rem_euclid(DAY))))
        }
        (Tz, TimeType) => zoned::<TimestampTz, Maybe<Time>>(|a, zone| {
            Ok((!datetime::is_infinite(a)).then(|| zone.to_local(a).rem_euclid(DAY)))
        }),
        (IntervalType, TimeType) => unary::<Span, Time>(|a| Ok(a.micros.rem_euclid(DAY))),
        (TimeType, IntervalType) => unary::<Time, Span>(|a| Ok(Interval { months: 0, days: 0, micros: a })),

        (SqlType::Jsonb, Boolean) => unary::<Jsonb, Bool>(|a| match a {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(jsonb_cannot(other, "boolean")),
        }),
        (SqlType::Jsonb, SmallInt) => unary::<Jsonb, Int2>(|a| {
            let n = numeric_integer(&jsonb_number(a, "smallint")?, "smallint")?;
            i16::try_from(n).map_err(|_| smallint_range())
        }),
        (SqlType::Jsonb, Int) => unary::<Jsonb, Int4>(|a| {
            let n = numeric_integer(&jsonb_number(a, "integer")?, "integer")?;
            i32::try_from(n).map_err(|_| integer_range())
        }),
        (SqlType::Jsonb, BigInt) => unary::<Jsonb, Int8>(|a| {
            let n = numeric_integer(&jsonb_number(a, "bigint")?, "bigint")?;
            i64::try_from(n).map_err(|_| bigint_range())
        }),
        (SqlType::Jsonb, Real) => unary::<Jsonb, Float4>(|a| numeric_to_real(jsonb_number(a, "real")?)),
        (SqlType::Jsonb, Double) => unary::<Jsonb, Float8>(|a| Ok(jsonb_number(a, "double precision")?.to_f64())),
        (SqlType::Jsonb, N) => unary::<Jsonb, Num>(|a| jsonb_number(a, "numeric")),

        (Boolean, to) if types::category(to) == 'S' => {
            unary::<Bool, Text>(|a| Ok(if a { "true" } else { "false" }.to_string()))
        }
        // Blanks at the end are no part of a char(n).
        (BpChar, SqlType::Text | SqlType::Varchar) => unary::<Char, Text>(|a| Ok(a.trim_end_matches(' ').to_string())),
        (BpChar, NameType) => unary::<Char, Name>(|a| Ok(form::truncate_name(a.trim_end_matches(' ')).to_string())),
        (Q, Int) => unary::<QuotedChar, Int4>(|a| Ok(a.bytes().next().unwrap_or(0) as i8 as i32)),
        (SqlType::Text | SqlType::Varchar, N) => unary::<Text, Num>(form::read_numeric),
        (SqlType::Text | SqlType::Varchar, SmallInt) => unary::<Text, Int2>(|a| form::read_integer(a, "smallint")),
        (SqlType::Text | SqlType::Varchar, Int) => unary::<Text, Int4>(|a| form::read_integer(a, "integer")),
        (SqlType::Text | SqlType::Varchar, BigInt) => unary::<Text, Int8>(|a| form::read_integer(a, "bigint")),
        (SqlType::Text | SqlType::Varchar, Double) => unary::<Text, Float8>(form::read_double),
        (SqlType::Text | SqlType::Varchar, Boolean) => unary::<Text, Bool>(form::read_boolean),
        (SqlType::Text | SqlType::Varchar, SqlType::Jsonb) => unary::<Text, Jsonb>(json::canonical),
        (SqlType::Text | SqlType::Varchar, Ts) => unary::<Text, Timestamp>(|a| datetime::read_timestamp(a, -1, None)),
        (SqlType::Text | SqlType::Varchar, Tz) => {
            zoned::<Text, TimestampTz>(|a, zone| datetime::read_timestamptz(a, -1, zone, None))
        }
        (SqlType::Text | SqlType::Varchar, SqlType::Date) => unary::<Text, Date>(|a| datetime::read_date(a, None)),
        (Array(a), Array(b)) => items(a, b)?,
        (from, to) if types::category(to) == 'S' => write(from, to),
        (from, to) if types::category(from) == 'S' => read(to),
        _ => return None,
    })
}

/// A cast whose second argument is the time zone.
fn zoned<A: Input, R: Output>(f: impl for<'a> Fn(A::Value<'a>, &Zone) -> Row<R::Value> + Send + Sync + 'static) -> Run {
    let f = Arc::new(f);
    Arc::new(move |args: &Args| {
        let (zone, f) = (zone_of(args)?, f.clone());
        let value = Args { arrays: vec![args.arrays[0].clone()], constant: vec![args.constant[0]], rows: args.rows };
        loop_rows::<A, R>(&value, |a| f(a, &zone))
    })
}

fn loop_rows<A: Input, R: Output>(
    args: &Args,
    f: impl for<'a> Fn(A::Value<'a>) -> Row<R::Value>,
) -> Result<ArrayRef, datafusion::common::DataFusionError> {
    let array = args.arrays[0].as_any().downcast_ref::<A::Array>().expect("the planned type");
    let mut out = R::builder(args.rows);
    for row in 0..args.rows {
        let at = args.at(0, row);
        if array.is_null(at) {
            R::push_null(&mut out);
        } else {
            R::push(&mut out, f(A::get(array, at)).map_err(external)?).map_err(external)?;
        }
    }
    Ok(R::finish(out))
}

/// Any type to a text type.
fn write(from: &SqlType, to: &SqlType) -> Run {
    let (from, name) = (from.clone(), *to == SqlType::Name);
    Arc::new(move |args: &Args| {
        let zone = zone_of(args)?;
        let (mut out, mut text) = (StringViewBuilder::with_capacity(args.rows), String::new());
        for row in 0..args.rows {
            if args.is_null(0, row) {
                out.append_null();
                continue;
            }
            text.clear();
            form::write_in(&args.arrays[0], args.at(0, row), &from, &zone, &mut text);
            out.append_value(if name { form::truncate_name(&text) } else { &text });
        }
        Ok(Arc::new(out.finish()))
    })
}

/// A text type to any type.
fn read(to: &SqlType) -> Run {
    let to = to.clone();
    Arc::new(move |args: &Args| {
        let session = Session { zone: zone_of(args)?, now: None };
        let array = args.arrays[0].as_string_view();
        let texts = (0..args.rows).map(|row| {
            let at = args.at(0, row);
            array.is_valid(at).then(|| array.value(at))
        });
        form::read_column(texts, &to, -1, &session).map_err(external)
    })
}

/// An array by its elements.
fn items(from: &SqlType, to: &SqlType) -> Option<Run> {
    let (element, to) = (run(from, to)?, to.arrow());
    Some(Arc::new(move |args: &Args| {
        let array = args.arrays[0].as_list::<i32>();
        let values = array.values();
        let mut arrays = vec![values.clone()];
        arrays.extend(args.arrays.get(1).cloned());
        let constant = vec![false, true][..arrays.len()].to_vec();
        let values = element(&Args { arrays, constant, rows: values.len() })?;
        let field = Arc::new(Field::new("item", to.clone(), true));
        Ok(Arc::new(ListArray::new(field, array.offsets().clone(), values, array.nulls().cloned())))
    }))
}

#[rustfmt::skip]
pub(super) fn functions() -> Vec<Definition> {
    functions! {
        "numeric_typmod" numeric_typmod (Num, Int4) -> Num = |a, typmod| num(a.apply_typmod(typmod));
        "varchar_typmod" varchar_typmod (Varchar, Int4, Bool) -> Varchar = |a, typmod, explicit| {
            Ok(form::apply_length(a, &SqlType::Varchar, typmod, explicit)?.into_owned())
        };
        "bpchar_typmod" bpchar_typmod (Char, Int4, Bool) -> Char = |a, typmod, explicit| {
            Ok(form::apply_length(a, &SqlType::Char, typmod, explicit)?.into_owned())
        };
        "time_typmod" time_typmod (Time, Int4) -> Time = |a, typmod| Ok(datetime::round_to(a, typmod).min(DAY));
        "timestamp_typmod" timestamp_typmod (Timestamp, Int4) -> Timestamp = |a, typmod| Ok(datetime::round_to(a, typmod));
        "timestamptz_typmod" timestamptz_typmod (TimestampTz, Int4) -> TimestampTz = |a, typmod| Ok(datetime::round_to(a, typmod));
        "interval_typmod" interval_typmod (Span, Int4) -> Span = datetime::apply_interval_typmod;
    }
}
