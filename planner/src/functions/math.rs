//! Mathematical functions.
//!
//! `exp`, `ln`, `log` and `power` of numerics are computed in double precision where Postgres computes digit by digit:
//! they keep Postgres' scale and its first 15 digits. A power of an integer exponent that fits 38 digits is exact.

use storage::numeric::Numeric;

use super::arithmetic::{bigint_range, float, integer_range, num, smallint_range, zero};
use super::rows::{Float4, Float8, Int2, Int4, Int8, Num, Row};
use super::{Definition, functions};
use crate::types::error;

/// What a whole double is rounded to: the even one of two neighbours.
pub fn rint(a: f64) -> f64 {
    a.round_ties_even()
}

fn domain(sqlstate: &'static str, message: &str) -> streaming::expr::EvalError {
    error(sqlstate, message)
}

fn sqrt(a: f64) -> Row<f64> {
    if a < 0.0 {
        return Err(domain("2201F", "cannot take square root of a negative number"));
    }
    Ok(a.sqrt())
}

fn power(a: f64, b: f64) -> Row<f64> {
    if a == 0.0 && b < 0.0 {
        return Err(domain("2201F", "zero raised to a negative power is undefined"));
    }
    if a < 0.0 && b.is_finite() && b.fract() != 0.0 && a.is_finite() {
        return Err(domain("2201F", "a negative number raised to a non-integer power yields a complex result"));
    }
    let special = a.is_infinite() || b.is_infinite();
    float(a.powf(b), special, special || a == 0.0)
}

fn ln(a: f64, f: fn(f64) -> f64) -> Row<f64> {
    if a == 0.0 {
        return Err(domain("2201E", "cannot take logarithm of zero"));
    }
    if a < 0.0 {
        return Err(domain("2201E", "cannot take logarithm of a negative number"));
    }
    float(f(a), a.is_infinite(), a == 1.0)
}

/// A number that was computed in double precision, rounded to Postgres' scale for its size.
fn approximate(value: f64, scale_least: i32) -> Row<Numeric> {
    let exponent = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let scale = (16 - exponent).max(scale_least).clamp(0, 60);
    // More than 15 digits of a double are noise: they come out as zeros.
    num(num(Numeric::from_f64(value))?.round(scale))
}

fn numeric_ln(a: Numeric, base10: bool) -> Row<Numeric> {
    if a.is_zero() {
        return Err(domain("2201E", "cannot take logarithm of zero"));
    }
    if a.is_negative() {
        return Err(domain("2201E", "cannot take logarithm of a negative number"));
    }
    if !a.is_finite() {
        return Ok(a);
    }
    // A power of ten has an exact logarithm.
    if base10 && num(power_of_ten(a.exponent()))? == a {
        return num(num(Numeric::from_i128(a.exponent() as i128))?.round((a.scale() as i32).max(16)));
    }
    let value = if base10 { a.to_f64().log10() } else { a.to_f64().ln() };
    approximate(value, a.scale() as i32)
}

fn power_of_ten(exponent: i32) -> Result<Numeric, storage::numeric::NumericError> {
    Numeric::parse(&format!("1e{exponent}"))
}

fn numeric_exp(a: Numeric) -> Row<Numeric> {
    if a.is_nan() || (a.is_infinite() && !a.is_negative()) {
        return Ok(a);
    }
    if a.is_infinite() {
        return Ok(Numeric::ZERO);
    }
    if a.is_zero() {
        return num(Numeric::ONE.round((a.scale() as i32).max(16)));
    }
    approximate(a.to_f64().exp(), a.scale() as i32)
}

fn numeric_power(a: Numeric, b: Numeric) -> Row<Numeric> {
    if a.is_nan() || b.is_nan() {
        return Ok(if a == Numeric::ONE || b.is_zero() { Numeric::ONE } else { Numeric::NAN });
    }
    if a.is_zero() && b.is_negative() {
        return Err(domain("2201F", "zero raised to a negative power is undefined"));
    }
    let whole = num(b.trunc(0))? == b;
    if a.is_negative() && !whole {
        return Err(domain("2201F", "a negative number raised to a non-integer power yields a complex result"));
    }
    if !a.is_finite() || !b.is_finite() {
        return num(Numeric::from_f64(a.to_f64().powf(b.to_f64())));
    }
    let size = a.to_f64().abs().powf(b.to_f64());
    let exponent = if size > 0.0 && size.is_finite() { size.log10() as i32 } else { 0 };
    let scale =
        if whole { 16.max(a.scale() as i32) } else { (16 - exponent).max(a.scale().max(b.scale()) as i32).max(0) };
    if let (true, Some(n)) = (whole, b.to_i64())
        && (0..=130).contains(&n)
    {
        // Without its trailing zeros, so that only real digits count against the 38.
        let (base, mut product) = (a.trim_scale(), Numeric::ONE);
        let mut exact = true;
        for _ in 0..n {
            match product.mul(&base) {
                Ok(next) => product = next.trim_scale(),
                Err(_) => {
                    exact = false;
                    break;
                }
            }
        }
        if exact {
            return num(product.round(scale));
        }
    }
    let sign = if a.is_negative() && b.to_i128().is_some_and(|n| n % 2 != 0) { -1.0 } else { 1.0 };
    num(num(Numeric::from_f64(sign * size))?.round(scale))
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

fn lcm(a: i128, b: i128) -> i128 {
    if a == 0 || b == 0 { 0 } else { (a / gcd(a, b) * b).abs() }
}

fn factorial(n: i64) -> Row<Numeric> {
    if n < 0 {
        return Err(error("22003", "factorial of a negative number is undefined"));
    }
    let mut product = Numeric::ONE;
    for i in 2..=n {
        product = num(product.mul(&Numeric::from_i64(i)))?;
    }
    Ok(product)
}

fn width_bucket(operand: f64, low: f64, high: f64, count: i32) -> Row<i32> {
    if count <= 0 {
        return Err(error("2201G", "count must be greater than zero"));
    }
    if operand.is_nan() || low.is_nan() || high.is_nan() {
        return Err(error("2201G", "operand, lower bound, and upper bound cannot be NaN"));
    }
    if !low.is_finite() || !high.is_finite() {
        return Err(error("2201G", "lower and upper bounds must be finite"));
    }
    if low == high {
        return Err(error("2201G", "lower bound cannot equal upper bound"));
    }
    let (outside_low, outside_high, share) = if low < high {
        (operand < low, operand >= high, (operand - low) / (high - low))
    } else {
        (operand > low, operand <= high, (low - operand) / (low - high))
    };
    if outside_low {
        Ok(0)
    } else if outside_high {
        count.checked_add(1).ok_or_else(integer_range)
    } else {
        Ok((share * count as f64) as i32 + 1)
    }
}

/// Refuses an infinite angle, as the C library's trigonometry makes NaN of it.
fn finite(a: f64, f: fn(f64) -> f64) -> Row<f64> {
    if a.is_infinite() { Err(error("22003", "input is out of range")) } else { Ok(f(a)) }
}

fn unit(a: f64, f: fn(f64) -> f64) -> Row<f64> {
    if a.is_nan() || (-1.0..=1.0).contains(&a) { Ok(f(a)) } else { Err(error("22003", "input is out of range")) }
}

#[rustfmt::skip]
pub fn functions() -> Vec<Definition> {
    let mut list = functions! {
        "abs" int2abs (Int2) -> Int2 = |a| a.checked_abs().ok_or_else(smallint_range);
        "abs" int4abs (Int4) -> Int4 = |a| a.checked_abs().ok_or_else(integer_range);
        "abs" int8abs (Int8) -> Int8 = |a| a.checked_abs().ok_or_else(bigint_range);
        "abs" float4abs (Float4) -> Float4 = |a| Ok(a.abs());
        "abs" float8abs (Float8) -> Float8 = |a| Ok(a.abs());
        "abs" numeric_abs (Num) -> Num = |a| Ok(a.abs());
        "@" int2_at (Int2) -> Int2 = |a| a.checked_abs().ok_or_else(smallint_range);
        "@" int4_at (Int4) -> Int4 = |a| a.checked_abs().ok_or_else(integer_range);
        "@" int8_at (Int8) -> Int8 = |a| a.checked_abs().ok_or_else(bigint_range);
        "@" float8_at (Float8) -> Float8 = |a| Ok(a.abs());
        "@" numeric_at (Num) -> Num = |a| Ok(a.abs());
        "ceil" dceil (Float8) -> Float8 = |a| Ok(a.ceil());
        "ceil" numeric_ceil (Num) -> Num = |a| num(a.ceil());
        "ceiling" dceiling (Float8) -> Float8 = |a| Ok(a.ceil());
        "ceiling" numeric_ceiling (Num) -> Num = |a| num(a.ceil());
        "floor" dfloor (Float8) -> Float8 = |a| Ok(a.floor());
        "floor" numeric_floor (Num) -> Num = |a| num(a.floor());
        "round" dround (Float8) -> Float8 = |a| Ok(rint(a));
        "round" numeric_round0 (Num) -> Num = |a| num(a.round(0));
        "round" numeric_round (Num, Int4) -> Num = |a, n| num(a.round(n.clamp(-1000, 200)));
        "trunc" dtrunc (Float8) -> Float8 = |a| Ok(a.trunc());
        "trunc" numeric_trunc0 (Num) -> Num = |a| num(a.trunc(0));
        "trunc" numeric_trunc (Num, Int4) -> Num = |a, n| num(a.trunc(n.clamp(-1000, 200)));
        "sign" dsign (Float8) -> Float8 = |a| Ok(if a > 0.0 { 1.0 } else if a < 0.0 { -1.0 } else { 0.0 });
        "sign" numeric_sign (Num) -> Num = |a| Ok(if a.is_nan() { a } else { Numeric::from_i64(a.signum() as i64) });
        "sqrt" dsqrt (Float8) -> Float8 = sqrt;
        "sqrt" numeric_sqrt (Num) -> Num = |a| num(a.sqrt());
        "|/" dsqrt_op (Float8) -> Float8 = sqrt;
        "cbrt" dcbrt (Float8) -> Float8 = |a| Ok(a.cbrt());
        "||/" dcbrt_op (Float8) -> Float8 = |a| Ok(a.cbrt());
        "power" dpow (Float8, Float8) -> Float8 = power;
        "power" numeric_power (Num, Num) -> Num = numeric_power;
        "pow" dpow_short (Float8, Float8) -> Float8 = power;
        "pow" numeric_pow (Num, Num) -> Num = numeric_power;
        "^" dpow_op (Float8, Float8) -> Float8 = power;
        "^" numeric_power_op (Num, Num) -> Num = numeric_power;
        "exp" dexp (Float8) -> Float8 = |a| float(a.exp(), a.is_infinite(), a.is_infinite());
        "exp" numeric_exp (Num) -> Num = numeric_exp;
        "ln" dlog1 (Float8) -> Float8 = |a| ln(a, f64::ln);
        "ln" numeric_ln (Num) -> Num = |a| numeric_ln(a, false);
        "log" dlog10 (Float8) -> Float8 = |a| ln(a, f64::log10);
        "log" numeric_log10 (Num) -> Num = |a| numeric_ln(a, true);
        "log10" dlog10_long (Float8) -> Float8 = |a| ln(a, f64::log10);
        "log10" numeric_log10_long (Num) -> Num = |a| numeric_ln(a, true);
        "log" numeric_log (Num, Num) -> Num = |base, a| {
            let (divisor, dividend) = (numeric_ln(base, false)?, numeric_ln(a, false)?);
            if divisor.is_zero() {
                return Err(zero());
            }
            approximate(dividend.to_f64() / divisor.to_f64(), base.scale().max(a.scale()) as i32)
        };
        "degrees" degrees (Float8) -> Float8 = |a| float(a.to_degrees(), a.is_infinite(), a == 0.0);
        "radians" radians (Float8) -> Float8 = |a| Ok(a.to_radians());
        "pi" dpi () -> Float8 = || Ok(std::f64::consts::PI);
        "sin" dsin (Float8) -> Float8 = |a| finite(a, f64::sin);
        "cos" dcos (Float8) -> Float8 = |a| finite(a, f64::cos);
        "tan" dtan (Float8) -> Float8 = |a| finite(a, f64::tan);
        "cot" dcot (Float8) -> Float8 = |a| finite(a, |a| 1.0 / a.tan());
        "asin" dasin (Float8) -> Float8 = |a| unit(a, f64::asin);
        "acos" dacos (Float8) -> Float8 = |a| unit(a, f64::acos);
        "atan" datan (Float8) -> Float8 = |a| Ok(a.atan());
        "atan2" datan2 (Float8, Float8) -> Float8 = |a, b| Ok(a.atan2(b));
        "sinh" dsinh (Float8) -> Float8 = |a| Ok(a.sinh());
        "cosh" dcosh (Float8) -> Float8 = |a| Ok(a.cosh());
        "tanh" dtanh (Float8) -> Float8 = |a| Ok(a.tanh());
        "gcd" int4gcd (Int4, Int4) -> Int4 = |a, b| i32::try_from(gcd(a as i128, b as i128)).map_err(|_| integer_range());
        "gcd" int8gcd (Int8, Int8) -> Int8 = |a, b| i64::try_from(gcd(a as i128, b as i128)).map_err(|_| bigint_range());
        "lcm" int4lcm (Int4, Int4) -> Int4 = |a, b| i32::try_from(lcm(a as i128, b as i128)).map_err(|_| integer_range());
        "lcm" int8lcm (Int8, Int8) -> Int8 = |a, b| i64::try_from(lcm(a as i128, b as i128)).map_err(|_| bigint_range());
        "factorial" numeric_fac (Int8) -> Num = factorial;
        "scale" numeric_scale (Num) -> super::rows::Maybe<Int4> = |a| Ok(a.is_finite().then_some(a.scale() as i32));
        "min_scale" numeric_min_scale (Num) -> super::rows::Maybe<Int4> = |a| Ok(a.is_finite().then_some(a.scale_min() as i32));
        "trim_scale" numeric_trim_scale (Num) -> Num = |a| Ok(a.trim_scale());
        "width_bucket" width_bucket_float8 (Float8, Float8, Float8, Int4) -> Int4 = width_bucket;
    };
    list.extend(functions! {
        "random" drandom () -> Float8 = || Ok(rand::random::<f64>());
    }.into_iter().map(Definition::volatile));
    list
}
