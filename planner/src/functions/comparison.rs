//! Which types can be compared, and the keys by which some of them are.
//!
//! Comparisons are native expressions over equal Arrow types. Where the bytes of a type do not compare as its values do,
//! both sides go through a key function first ([`key`]).

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::logical_expr::ScalarUDF;
use storage::SqlType;
use storage::numeric::Numeric;
use streaming::expr::EvalError;

use super::rows::{Bytea, Char, Float4, Float8, IntervalKey, Jsonb, Num, NumericKey, Span, Text};
use super::{Definition, by_symbol, functions};
use crate::types::json::Json;
use crate::types::{self, CastContext, cast_context, error, name};

/// How two operands are compared.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The type that both are cast to.
    pub common: SqlType,
    /// What both go through then.
    pub key: Option<Arc<ScalarUDF>>,
}

/// The function whose results compare, hash and group as the values of that type do; `None` if they do so themselves.
pub fn key(ty: &SqlType) -> Option<Arc<ScalarUDF>> {
    if let SqlType::Array(item) = ty {
        key(item)?;
        return by_symbol(&format!("array_key[{}]", name(ty)));
    }
    by_symbol(match ty {
        SqlType::Numeric => "numeric_key",
        SqlType::Interval => "interval_key",
        SqlType::Real => "float4_key",
        SqlType::Double => "float8_key",
        SqlType::Char => "bpchar_key",
        SqlType::Jsonb => "jsonb_key",
        _ => return None,
    })
}

/// The Arrow type of a key function, where it is not that of its SQL type.
pub(super) fn key_type(symbol: &str) -> Option<DataType> {
    match symbol {
        "numeric_key" => Some(DataType::FixedSizeBinary(storage::numeric::KEY_BYTES as i32)),
        "interval_key" => Some(DataType::Decimal128(38, 0)),
        _ => None,
    }
}

/// The function whose bytes sort as the arrays of that type do.
pub fn array_order(ty: &SqlType) -> Option<Arc<ScalarUDF>> {
    by_symbol(&format!("array_order[{}]", name(ty)))
}

/// The type in which Postgres compares two types.
fn common(left: &SqlType, right: &SqlType) -> Option<SqlType> {
    use SqlType::*;
    let implicit = |from: &SqlType, to: &SqlType| cast_context(from, to) == Some(CastContext::Implicit);
    Some(match (left, right) {
        (Unknown, Unknown) => Text,
        // Varchar has no operators of its own.
        (Unknown, Varchar) | (Varchar, Unknown) | (Varchar, Varchar) => Text,
        (Unknown, other) | (other, Unknown) => other.clone(),
        (a, b) if a == b => a.clone(),
        // Arrays are compared with arrays of the same type only.
        (Array(_), Array(_)) => return None,
        (Char, Varchar | Name) | (Varchar | Name, Char) => Char,
        (a, b) if types::category(a) == 'S' && types::category(b) == 'S' => Text,
        // A real beside another number is compared in double precision.
        (Real, Double | SmallInt | Int | BigInt | Numeric) | (SmallInt | Int | BigInt | Numeric, Real) => Double,
        (QuotedChar, Text | Varchar | Char | Name) | (Text | Varchar | Char | Name, QuotedChar) => Text,
        (Oid | RegClass | RegType, Oid | RegClass | RegType | SmallInt | Int | BigInt)
        | (SmallInt | Int | BigInt, Oid | RegClass | RegType) => Oid,
        (a, b) if implicit(a, b) => b.clone(),
        (a, b) if implicit(b, a) => a.clone(),
        _ => return None,
    })
}

/// How `left <operator> right` compares; the operator is for the error only.
pub fn resolve_comparison(operator: &str, left: &SqlType, right: &SqlType) -> Result<Comparison, EvalError> {
    let common = common(left, right)
        .ok_or_else(|| error("42883", format!("operator does not exist: {} {operator} {}", name(left), name(right))))?;
    let key = match &common {
        // Arrow's order has NULL elements first; where only equality matters, there is no order.
        SqlType::Array(_) if !matches!(operator, "=" | "<>") => array_order(&common),
        _ => key(&common),
    };
    Ok(Comparison { common, key })
}

/// Bytes that sort as jsonb values do.
fn jsonb_key(json: &Json, out: &mut Vec<u8>) {
    let sized = |out: &mut Vec<u8>, rank: u8, n: usize| {
        out.push(rank);
        out.extend((n as u32).to_be_bytes());
    };
    match json {
        Json::Array(items) if items.is_empty() => out.push(0),
        Json::Null => out.push(1),
        Json::String(text) => {
            out.push(2);
            // No JSON string holds a zero byte.
            out.extend(text.as_bytes());
            out.push(0);
        }
        Json::Number(text) => {
            out.push(3);
            match Numeric::parse(text) {
                Ok(number) => out.extend(number.key()),
                Err(_) => out.extend(text.as_bytes()),
            }
        }
        Json::Bool(value) => out.extend([4, *value as u8]),
        Json::Array(items) => {
            sized(out, 5, items.len());
            for item in items {
                jsonb_key(item, out);
            }
        }
        Json::Object(members) => {
            sized(out, 6, members.len());
            for (key, value) in members {
                out.extend((key.len() as u32).to_be_bytes());
                out.extend(key.as_bytes());
                jsonb_key(value, out);
            }
        }
    }
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    functions! {
        "numeric_key" numeric_key (Num) -> NumericKey = |a| Ok(a.key());
        "interval_key" interval_key (Span) -> IntervalKey = |a| Ok(a.total_micros());
        "float4_key" float4_key (Float4) -> Float4 = |a| Ok(if a.is_nan() { f32::NAN } else { a + 0.0 });
        "float8_key" float8_key (Float8) -> Float8 = |a| Ok(if a.is_nan() { f64::NAN } else { a + 0.0 });
        "bpchar_key" bpchar_key (Char) -> Text = |a| Ok(a.trim_end_matches(' ').to_string());
        "jsonb_key" jsonb_key (Jsonb) -> Bytea = |a| {
            let mut out = Vec::new();
            jsonb_key(&Json::parse(a)?, &mut out);
            Ok(out)
        };
    }
}
