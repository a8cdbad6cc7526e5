//! Quotients of numbers that are wider than a numeric: what variances are made of.

use arrow::datatypes::i256;

use super::{Numeric, NumericError, Result, SIGNIFICANT_DIGITS_MIN, div_round_wide, sqrt_floor};

/// `n * 10^-point / d`, or its square root, rounded to the scale that Postgres gives a quotient whose dividend shows
/// `display` digits. Both are positive.
pub fn quotient(n: i256, point: i32, display: i32, d: i256, root: bool) -> Result {
    let ((weight_n, first_n), (weight_d, first_d)) = (leading(n, point), leading(d, 0));
    let weight = weight_n - weight_d - i32::from(first_n <= first_d);
    let scale = (SIGNIFICANT_DIGITS_MIN - weight * 4).max(display).clamp(0, 1000);
    let shift = scale - point;
    let (n, d) = if shift < 0 { (n, scaled(d, -shift)?) } else { (scaled(n, shift)?, d) };
    let quotient = div_round_wide(n, d);
    if !root {
        return Numeric::build(quotient, scale, scale);
    }
    let square = scaled(quotient, scale)?;
    let floor = sqrt_floor(square);
    let rest = square.wrapping_sub(floor.wrapping_mul(floor));
    let root = if rest > floor { floor.wrapping_add(i256::ONE) } else { floor };
    Numeric::build(root, scale, scale)
}

/// `n * 10^exponent`
pub fn scaled(mut n: i256, exponent: i32) -> std::result::Result<i256, NumericError> {
    for _ in 0..exponent {
        n = n.checked_mul(i256::from_i128(10)).ok_or(NumericError::Overflow)?;
    }
    Ok(n)
}

/// The power of 10,000 and the value of the first digit of base 10,000 of `n * 10^-point`.
fn leading(n: i256, point: i32) -> (i32, i32) {
    let text = n.to_string();
    let exponent = text.len() as i32 - 1 - point;
    let weight = exponent.div_euclid(4);
    let count = (exponent - weight * 4 + 1) as usize;
    let digit = format!("{text:0<4}")[..count].parse().unwrap_or(0);
    (weight, digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_have_the_scale_of_postgres() {
        let of = |n: i128, point, display, d: i128, root| {
            quotient(i256::from_i128(n), point, display, i256::from_i128(d), root).unwrap().to_string()
        };
        // var_samp, stddev_samp of 1, 2, 4: (3 * 21 - 49) / 6
        assert_eq!(of(14, 0, 0, 6, false), "2.3333333333333333");
        assert_eq!(of(14, 0, 0, 6, true), "1.5275252316519467");
        assert_eq!(of(2500, 4, 4, 2, false), "0.12500000000000000000");
    }
}
