//! Mathematical functions.
//!
//! `exp`, `ln`, `log` and `power` of numerics are computed with 36 digits behind the point and rounded to Postgres' scale.

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

/// Fixed-point numbers with [`PLACES`] digits behind the point, for logarithms and powers of numerics.
mod fixed {
    use arrow::datatypes::i256;
    use storage::numeric::Numeric;

    /// A product of two has twice as many digits, which must stay below the 76 of an i256.
    pub const PLACES: i32 = 36;

    fn one() -> i256 {
        power(PLACES as u32)
    }

    pub fn power(n: u32) -> i256 {
        i256::from_i128(10).wrapping_pow(n)
    }

    fn mul(a: i256, b: i256) -> i256 {
        let product = a.wrapping_mul(b);
        let half = one().wrapping_div(i256::from_i128(2));
        product.wrapping_add(if product.is_negative() { half.wrapping_neg() } else { half }).wrapping_div(one())
    }

    /// From a decimal text.
    pub fn read(text: &str) -> i256 {
        let (negative, body) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
        let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(PLACES as usize).collect();
        let value = i256::from_string(&format!("{whole}{digits}")).unwrap_or(i256::ZERO);
        if negative { value.wrapping_neg() } else { value }
    }

    pub fn ln10() -> i256 {
        read("2.302585092994045684017991454684364208")
    }

    /// e^r for |r| < 4.
    pub fn exp(r: i256) -> i256 {
        let (mut sum, mut term, mut n) = (one(), one(), 0);
        while term != i256::ZERO {
            n += 1;
            term = mul(term, r).wrapping_div(i256::from_i128(n));
            sum = sum.wrapping_add(term);
        }
        sum
    }

    /// The natural logarithm of a number above zero.
    pub fn ln(a: &Numeric) -> i256 {
        let exponent = a.exponent();
        // a = m * 10^exponent with m in [1, 10).
        let digits: String = a.abs().to_string().chars().filter(char::is_ascii_digit).collect();
        let digits = digits.trim_start_matches('0');
        let (first, rest) = digits.split_at(1);
        let m = read(&format!("{first}.{rest}"));
        // A double is a good start; what is missing is the logarithm of a number very close to 1.
        let near = m.to_string().parse::<f64>().unwrap_or(1.0) / 1e36;
        let start = read(&format!("{:.18}", near.ln()));
        let d = mul(m, exp(start.wrapping_neg())).wrapping_sub(one());
        let d2 = mul(d, d);
        let correction = d.wrapping_sub(d2.wrapping_div(i256::from_i128(2)));
        start.wrapping_add(correction).wrapping_add(ln10().wrapping_mul(i256::from_i128(exponent as i128)))
    }

    /// A fixed-point number times 10^exponent, rounded to `scale` digits.
    pub fn numeric(value: i256, exponent: i32, scale: i32) -> Result<Numeric, storage::numeric::NumericError> {
        let overflow = storage::numeric::NumericError::Overflow;
        let drop = PLACES - exponent - scale;
        if !(0..=75).contains(&drop) {
            return Err(overflow);
        }
        let unit = power(drop as u32);
        let half = unit.wrapping_div(i256::from_i128(2));
        let rounded =
            value.wrapping_add(if value.is_negative() { half.wrapping_neg() } else { half }).wrapping_div(unit);
        let mantissa = rounded.to_i128().ok_or(overflow.clone())?;
        Numeric::new(mantissa, scale.try_into().map_err(|_| overflow)?)
    }

    /// `a / b`
    pub fn div(a: i256, b: i256) -> i256 {
        // Digits that fit before the division.
        a.wrapping_mul(one()).wrapping_div(b)
    }

    /// `value * factor`, the factor's digits beyond what fits being cut.
    pub fn times(value: i256, factor: &Numeric) -> i256 {
        mul(value, read(&factor.to_string()))
    }
}

fn check_logarithm(a: &Numeric) -> Row<()> {
    if a.is_zero() {
        return Err(domain("2201E", "cannot take logarithm of zero"));
    }
    if a.is_negative() {
        return Err(domain("2201E", "cannot take logarithm of a negative number"));
    }
    Ok(())
}

/// Postgres' estimate of the power of ten of ln(a).
fn logarithm_size(a: &Numeric) -> i32 {
    let value = a.to_f64();
    if (0.9..=1.1).contains(&value) {
        let distance = (a.sub(&Numeric::ONE)).map_or(0.0, |d| d.to_f64().abs());
        return if distance == 0.0 { 0 } else { distance.log10().floor() as i32 };
    }
    value.ln().abs().log10() as i32
}

fn numeric_ln(a: Numeric) -> Row<Numeric> {
    check_logarithm(&a)?;
    if !a.is_finite() {
        return Ok(a);
    }
    let scale = (16 - logarithm_size(&a)).max(a.scale() as i32).max(0);
    num(fixed::numeric(fixed::ln(&a), 0, scale))
}

fn numeric_log(base: Numeric, a: Numeric) -> Row<Numeric> {
    check_logarithm(&base)?;
    check_logarithm(&a)?;
    if !a.is_finite() || !base.is_finite() {
        return num(Numeric::from_f64(a.to_f64().ln() / base.to_f64().ln()));
    }
    let (below, above) = (fixed::ln(&base), fixed::ln(&a));
    if below == arrow::datatypes::i256::ZERO {
        return Err(zero());
    }
    let size = logarithm_size(&a) - logarithm_size(&base);
    let scale = (16 - size).max(base.scale() as i32).max(a.scale() as i32).max(0);
    num(fixed::numeric(fixed::div(above, below), 0, scale))
}

/// e^x of a fixed-point number, rounded to a scale.
fn exp_to(x: arrow::datatypes::i256, scale: i32) -> Row<Numeric> {
    let ten = fixed::ln10();
    let exponent = x.wrapping_div(ten);
    let rest = x.wrapping_sub(exponent.wrapping_mul(ten));
    let exponent = exponent.to_i128().and_then(|e| i32::try_from(e).ok()).unwrap_or(i32::MAX);
    if exponent > 130 {
        return Err(error("22003", "value overflows numeric format"));
    }
    if exponent < -130 {
        return num(Numeric::ZERO.round(scale.min(200)));
    }
    num(fixed::numeric(fixed::exp(rest), exponent, scale))
}

/// Postgres' scale of a power whose logarithm to the base 10 is about that.
fn power_scale(log10: f64, least: i32) -> i32 {
    (16 - log10 as i32).max(least).max(0)
}

fn numeric_exp(a: Numeric) -> Row<Numeric> {
    if a.is_nan() || (a.is_infinite() && !a.is_negative()) {
        return Ok(a);
    }
    if a.is_infinite() {
        return Ok(Numeric::ZERO);
    }
    let size = a.to_f64() * std::f64::consts::LOG10_E;
    if size > 128.0 {
        return Err(error("22003", "value overflows numeric format"));
    }
    exp_to(fixed::read(&a.to_string()), power_scale(size.max(-150.0), a.scale() as i32))
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
    if let (true, Some(n)) = (whole, b.to_i64()) {
        let scale = 16.max(a.scale() as i32);
        if let Some(exact) = whole_power(&a, n.unsigned_abs()) {
            return if n >= 0 {
                num(exact.round(scale))
            } else {
                num(num(Numeric::ONE.div_rounded(&exact, scale))?.round(scale))
            };
        }
    }
    if a.is_zero() {
        return num(Numeric::ZERO.round(16.max(a.scale().max(b.scale()) as i32)));
    }
    let size = b.to_f64() * a.to_f64().abs().log10();
    if size > 128.0 {
        return Err(error("22003", "value overflows numeric format"));
    }
    let scale = if whole { 16.max(a.scale() as i32) } else { power_scale(size, a.scale().max(b.scale()) as i32) };
    let result = exp_to(fixed::times(fixed::ln(&a.abs()), &b), scale)?;
    Ok(if a.is_negative() && b.to_i128().is_some_and(|n| n % 2 != 0) { result.neg() } else { result })
}

/// `a^n` if it fits the digits of a numeric.
fn whole_power(a: &Numeric, n: u64) -> Option<Numeric> {
    if n > 130 && a.abs() != Numeric::ONE && !a.is_zero() {
        return None;
    }
    // Without trailing zeros, so that only real digits count.
    let (base, mut product) = (a.trim_scale(), Numeric::ONE);
    for _ in 0..if a.abs() == Numeric::ONE || a.is_zero() { n.min(2 - n % 2) } else { n } {
        product = product.mul(&base).ok()?.trim_scale();
    }
    Some(product)
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
        "cbrt" dcbrt (Float8) -> Float8 = |a| Ok(super::cube_root::cbrt(a));
        "||/" dcbrt_op (Float8) -> Float8 = |a| Ok(super::cube_root::cbrt(a));
        "power" dpow (Float8, Float8) -> Float8 = power;
        "power" numeric_power (Num, Num) -> Num = numeric_power;
        "pow" dpow_short (Float8, Float8) -> Float8 = power;
        "pow" numeric_pow (Num, Num) -> Num = numeric_power;
        "^" dpow_op (Float8, Float8) -> Float8 = power;
        "^" numeric_power_op (Num, Num) -> Num = numeric_power;
        "exp" dexp (Float8) -> Float8 = |a| float(a.exp(), a.is_infinite(), a.is_infinite());
        "exp" numeric_exp (Num) -> Num = numeric_exp;
        "ln" dlog1 (Float8) -> Float8 = |a| ln(a, f64::ln);
        "ln" numeric_ln (Num) -> Num = numeric_ln;
        "log" dlog10 (Float8) -> Float8 = |a| ln(a, f64::log10);
        "log" numeric_log10 (Num) -> Num = |a| numeric_log(Numeric::from_i64(10), a);
        "log10" dlog10_long (Float8) -> Float8 = |a| ln(a, f64::log10);
        "log10" numeric_log10_long (Num) -> Num = |a| numeric_log(Numeric::from_i64(10), a);
        "log" numeric_log (Num, Num) -> Num = numeric_log;
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
