//! `+ - * / %` and the bit operators of the numbers. Overflow is an error, never a wrap.

use storage::numeric::{Numeric, NumericError};
use streaming::expr::EvalError;

use super::rows::{Float4, Float8, Int2, Int4, Int8, Num, Row};
use super::{Definition, functions};
use crate::types::error;
use crate::types::text::numeric_error;

/// `smallint out of range`
pub fn smallint_range() -> EvalError {
    error("22003", "smallint out of range")
}

/// `integer out of range`
pub fn integer_range() -> EvalError {
    error("22003", "integer out of range")
}

/// `bigint out of range`
pub fn bigint_range() -> EvalError {
    error("22003", "bigint out of range")
}

/// `division by zero`
pub fn zero() -> EvalError {
    error("22012", "division by zero")
}

/// Refuses a result that is infinite or zero though the operands say otherwise.
pub fn float(result: f64, infinite: bool, zero: bool) -> Row<f64> {
    if result.is_infinite() && !infinite {
        return Err(error("22003", "value out of range: overflow"));
    }
    if result == 0.0 && !zero {
        return Err(error("22003", "value out of range: underflow"));
    }
    Ok(result)
}

fn real(result: f32, infinite: bool, zero: bool) -> Row<f32> {
    float(result as f64, infinite, zero)?;
    Ok(result)
}

/// A numeric result with its error as functions return it.
pub fn num(result: Result<Numeric, NumericError>) -> Row<Numeric> {
    result.map_err(numeric_error)
}

macro_rules! integer_division {
    ($type:ty, $range:ident) => {
        |a: $type, b: $type| if b == 0 { Err(zero()) } else { a.checked_div(b).ok_or_else($range) }
    };
}

macro_rules! integer_remainder {
    ($type:ty) => {
        |a: $type, b: $type| if b == 0 { Err(zero()) } else { Ok(a.wrapping_rem(b)) }
    };
}

macro_rules! float_division {
    ($check:ident) => {
        |a, b| {
            if b == 0.0 && !a.is_nan() {
                return Err(zero());
            }
            $check(a / b, a.is_infinite(), a == 0.0 || b.is_infinite())
        }
    };
}

/// The shift distance of Postgres' C: taken modulo the width.
fn distance(n: i32, width: u32) -> u32 {
    n as u32 % width
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    functions! {
        "+" int2pl (Int2, Int2) -> Int2 = |a, b| a.checked_add(b).ok_or_else(smallint_range);
        "+" int4pl (Int4, Int4) -> Int4 = |a, b| a.checked_add(b).ok_or_else(integer_range);
        "+" int8pl (Int8, Int8) -> Int8 = |a, b| a.checked_add(b).ok_or_else(bigint_range);
        "+" int24pl (Int2, Int4) -> Int4 = |a, b| (a as i32).checked_add(b).ok_or_else(integer_range);
        "+" int42pl (Int4, Int2) -> Int4 = |a, b| a.checked_add(b as i32).ok_or_else(integer_range);
        "+" int28pl (Int2, Int8) -> Int8 = |a, b| (a as i64).checked_add(b).ok_or_else(bigint_range);
        "+" int82pl (Int8, Int2) -> Int8 = |a, b| a.checked_add(b as i64).ok_or_else(bigint_range);
        "+" int48pl (Int4, Int8) -> Int8 = |a, b| (a as i64).checked_add(b).ok_or_else(bigint_range);
        "+" int84pl (Int8, Int4) -> Int8 = |a, b| a.checked_add(b as i64).ok_or_else(bigint_range);
        "+" float4pl (Float4, Float4) -> Float4 = |a, b| real(a + b, a.is_infinite() || b.is_infinite(), true);
        "+" float8pl (Float8, Float8) -> Float8 = |a, b| float(a + b, a.is_infinite() || b.is_infinite(), true);
        "+" float48pl (Float4, Float8) -> Float8 = |a, b| float(a as f64 + b, a.is_infinite() || b.is_infinite(), true);
        "+" float84pl (Float8, Float4) -> Float8 = |a, b| float(a + b as f64, a.is_infinite() || b.is_infinite(), true);
        "+" numeric_add (Num, Num) -> Num = |a, b| num(a.add(&b));
        "+" int2up (Int2) -> Int2 = Ok;
        "+" int4up (Int4) -> Int4 = Ok;
        "+" int8up (Int8) -> Int8 = Ok;
        "+" float4up (Float4) -> Float4 = Ok;
        "+" float8up (Float8) -> Float8 = Ok;
        "+" numeric_uplus (Num) -> Num = Ok;

        "-" int2mi (Int2, Int2) -> Int2 = |a, b| a.checked_sub(b).ok_or_else(smallint_range);
        "-" int4mi (Int4, Int4) -> Int4 = |a, b| a.checked_sub(b).ok_or_else(integer_range);
        "-" int8mi (Int8, Int8) -> Int8 = |a, b| a.checked_sub(b).ok_or_else(bigint_range);
        "-" int24mi (Int2, Int4) -> Int4 = |a, b| (a as i32).checked_sub(b).ok_or_else(integer_range);
        "-" int42mi (Int4, Int2) -> Int4 = |a, b| a.checked_sub(b as i32).ok_or_else(integer_range);
        "-" int28mi (Int2, Int8) -> Int8 = |a, b| (a as i64).checked_sub(b).ok_or_else(bigint_range);
        "-" int82mi (Int8, Int2) -> Int8 = |a, b| a.checked_sub(b as i64).ok_or_else(bigint_range);
        "-" int48mi (Int4, Int8) -> Int8 = |a, b| (a as i64).checked_sub(b).ok_or_else(bigint_range);
        "-" int84mi (Int8, Int4) -> Int8 = |a, b| a.checked_sub(b as i64).ok_or_else(bigint_range);
        "-" float4mi (Float4, Float4) -> Float4 = |a, b| real(a - b, a.is_infinite() || b.is_infinite(), true);
        "-" float8mi (Float8, Float8) -> Float8 = |a, b| float(a - b, a.is_infinite() || b.is_infinite(), true);
        "-" float48mi (Float4, Float8) -> Float8 = |a, b| float(a as f64 - b, a.is_infinite() || b.is_infinite(), true);
        "-" float84mi (Float8, Float4) -> Float8 = |a, b| float(a - b as f64, a.is_infinite() || b.is_infinite(), true);
        "-" numeric_sub (Num, Num) -> Num = |a, b| num(a.sub(&b));
        "-" int2um (Int2) -> Int2 = |a| a.checked_neg().ok_or_else(smallint_range);
        "-" int4um (Int4) -> Int4 = |a| a.checked_neg().ok_or_else(integer_range);
        "-" int8um (Int8) -> Int8 = |a| a.checked_neg().ok_or_else(bigint_range);
        "-" float4um (Float4) -> Float4 = |a| Ok(-a);
        "-" float8um (Float8) -> Float8 = |a| Ok(-a);
        "-" numeric_uminus (Num) -> Num = |a| Ok(a.neg());

        "*" int2mul (Int2, Int2) -> Int2 = |a, b| a.checked_mul(b).ok_or_else(smallint_range);
        "*" int4mul (Int4, Int4) -> Int4 = |a, b| a.checked_mul(b).ok_or_else(integer_range);
        "*" int8mul (Int8, Int8) -> Int8 = |a, b| a.checked_mul(b).ok_or_else(bigint_range);
        "*" int24mul (Int2, Int4) -> Int4 = |a, b| (a as i32).checked_mul(b).ok_or_else(integer_range);
        "*" int42mul (Int4, Int2) -> Int4 = |a, b| a.checked_mul(b as i32).ok_or_else(integer_range);
        "*" int28mul (Int2, Int8) -> Int8 = |a, b| (a as i64).checked_mul(b).ok_or_else(bigint_range);
        "*" int82mul (Int8, Int2) -> Int8 = |a, b| a.checked_mul(b as i64).ok_or_else(bigint_range);
        "*" int48mul (Int4, Int8) -> Int8 = |a, b| (a as i64).checked_mul(b).ok_or_else(bigint_range);
        "*" int84mul (Int8, Int4) -> Int8 = |a, b| a.checked_mul(b as i64).ok_or_else(bigint_range);
        "*" float4mul (Float4, Float4) -> Float4 = |a, b| real(a * b, a.is_infinite() || b.is_infinite(), a == 0.0 || b == 0.0);
        "*" float8mul (Float8, Float8) -> Float8 = |a, b| float(a * b, a.is_infinite() || b.is_infinite(), a == 0.0 || b == 0.0);
        "*" float48mul (Float4, Float8) -> Float8 = |a, b| float(a as f64 * b, a.is_infinite() || b.is_infinite(), a == 0.0 || b == 0.0);
        "*" float84mul (Float8, Float4) -> Float8 = |a, b| float(a * b as f64, a.is_infinite() || b.is_infinite(), a == 0.0 || b == 0.0);
        "*" numeric_mul (Num, Num) -> Num = |a, b| num(a.mul(&b));

        "/" int2div (Int2, Int2) -> Int2 = integer_division!(i16, smallint_range);
        "/" int4div (Int4, Int4) -> Int4 = integer_division!(i32, integer_range);
        "/" int8div (Int8, Int8) -> Int8 = integer_division!(i64, bigint_range);
        "/" int24div (Int2, Int4) -> Int4 = |a, b| if b == 0 { Err(zero()) } else { Ok(a as i32 / b) };
        "/" int42div (Int4, Int2) -> Int4 = |a, b| if b == 0 { Err(zero()) } else { a.checked_div(b as i32).ok_or_else(integer_range) };
        "/" int28div (Int2, Int8) -> Int8 = |a, b| if b == 0 { Err(zero()) } else { Ok(a as i64 / b) };
        "/" int82div (Int8, Int2) -> Int8 = |a, b| if b == 0 { Err(zero()) } else { a.checked_div(b as i64).ok_or_else(bigint_range) };
        "/" int48div (Int4, Int8) -> Int8 = |a, b| if b == 0 { Err(zero()) } else { Ok(a as i64 / b) };
        "/" int84div (Int8, Int4) -> Int8 = |a, b| if b == 0 { Err(zero()) } else { a.checked_div(b as i64).ok_or_else(bigint_range) };
        "/" float4div (Float4, Float4) -> Float4 = float_division!(real);
        "/" float8div (Float8, Float8) -> Float8 = float_division!(float);
        "/" float48div (Float4, Float8) -> Float8 = |a, b| {
            let a = a as f64;
            if b == 0.0 && !a.is_nan() { Err(zero()) } else { float(a / b, a.is_infinite(), a == 0.0 || b.is_infinite()) }
        };
        "/" float84div (Float8, Float4) -> Float8 = |a, b| {
            let b = b as f64;
            if b == 0.0 && !a.is_nan() { Err(zero()) } else { float(a / b, a.is_infinite(), a == 0.0 || b.is_infinite()) }
        };
        "/" numeric_div (Num, Num) -> Num = |a, b| num(a.div(&b));
        "div" numeric_div_trunc (Num, Num) -> Num = |a, b| num(a.div_trunc(&b));

        "%" int2mod (Int2, Int2) -> Int2 = integer_remainder!(i16);
        "%" int4mod (Int4, Int4) -> Int4 = integer_remainder!(i32);
        "%" int8mod (Int8, Int8) -> Int8 = integer_remainder!(i64);
        "%" numeric_mod (Num, Num) -> Num = |a, b| num(a.rem(&b));
        "mod" mod_int2 (Int2, Int2) -> Int2 = integer_remainder!(i16);
        "mod" mod_int4 (Int4, Int4) -> Int4 = integer_remainder!(i32);
        "mod" mod_int8 (Int8, Int8) -> Int8 = integer_remainder!(i64);
        "mod" mod_numeric (Num, Num) -> Num = |a, b| num(a.rem(&b));

        "&" int2and (Int2, Int2) -> Int2 = |a, b| Ok(a & b);
        "&" int4and (Int4, Int4) -> Int4 = |a, b| Ok(a & b);
        "&" int8and (Int8, Int8) -> Int8 = |a, b| Ok(a & b);
        "|" int2or (Int2, Int2) -> Int2 = |a, b| Ok(a | b);
        "|" int4or (Int4, Int4) -> Int4 = |a, b| Ok(a | b);
        "|" int8or (Int8, Int8) -> Int8 = |a, b| Ok(a | b);
        "#" int2xor (Int2, Int2) -> Int2 = |a, b| Ok(a ^ b);
        "#" int4xor (Int4, Int4) -> Int4 = |a, b| Ok(a ^ b);
        "#" int8xor (Int8, Int8) -> Int8 = |a, b| Ok(a ^ b);
        "~" int2not (Int2) -> Int2 = |a| Ok(!a);
        "~" int4not (Int4) -> Int4 = |a| Ok(!a);
        "~" int8not (Int8) -> Int8 = |a| Ok(!a);
        "<<" int2shl (Int2, Int4) -> Int2 = |a, n| Ok((a as i32).wrapping_shl(distance(n, 32)) as i16);
        "<<" int4shl (Int4, Int4) -> Int4 = |a, n| Ok(a.wrapping_shl(distance(n, 32)));
        "<<" int8shl (Int8, Int4) -> Int8 = |a, n| Ok(a.wrapping_shl(distance(n, 64)));
        ">>" int2shr (Int2, Int4) -> Int2 = |a, n| Ok((a as i32).wrapping_shr(distance(n, 32)) as i16);
        ">>" int4shr (Int4, Int4) -> Int4 = |a, n| Ok(a.wrapping_shr(distance(n, 32)));
        ">>" int8shr (Int8, Int4) -> Int8 = |a, n| Ok(a.wrapping_shr(distance(n, 64)));
    }
}
