//! `numeric`: exact decimal numbers of up to 38 significant digits, with a display scale, NaN and the infinities.
//!
//! In Arrow and on disk a numeric is 19 bytes, chosen so that the first 18 sort (and are equal) as the values do:
//!
//! ```text
//! | class 1 | exponent 1 | mantissa 16 (big endian)       | scale 1 |
//!   0 -Infinity  power of ten of    the digits, left-aligned to  digits shown
//!   1 negative   the first digit,   38 (1.50 is 15 followed by   after the
//!   2 zero       plus 128           36 zeros); for a negative    point
//!   3 positive                      number exponent and mantissa
//!   4 Infinity                      are complemented
//!   5 NaN
//! ```
//!
//! `1.0` and `1.00` differ in the last byte only: equality and order by SQL are those of [`Numeric::key`].
//!
//! Where Postgres computes with up to 131,072 digits, a result here that needs more than [`DIGITS_MAX`] significant
//! digits (or lies outside 1e-128 .. 1e128) is an error, never a rounded value.

pub mod wide;

use std::cmp::Ordering;
use std::fmt;

use arrow::datatypes::i256;

/// Significant digits that a numeric keeps.
pub const DIGITS_MAX: u32 = 38;
/// Bytes of a numeric in Arrow.
pub const BYTES: usize = 19;
/// Bytes of its value key.
pub const KEY_BYTES: usize = 18;
/// Postgres' least number of significant digits of a quotient, a root or a logarithm.
const SIGNIFICANT_DIGITS_MIN: i32 = 16;
/// Powers of ten of the first digit that fit the exponent byte.
const EXPONENT_MIN: i32 = -128;
const EXPONENT_MAX: i32 = 127;

const CLASS_NEGATIVE_INFINITY: u8 = 0;
const CLASS_NEGATIVE: u8 = 1;
const CLASS_ZERO: u8 = 2;
const CLASS_POSITIVE: u8 = 3;
const CLASS_INFINITY: u8 = 4;
const CLASS_NAN: u8 = 5;

/// What can go wrong with a numeric. The texts are Postgres'.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumericError {
    /// The text is not a number.
    #[error("invalid input syntax for type numeric: \"{0}\"")]
    Syntax(String),
    /// More digits than a numeric keeps.
    #[error("value overflows numeric format")]
    Overflow,
    /// The divisor is zero.
    #[error("division by zero")]
    DivisionByZero,
    /// The value does not fit `numeric(p, s)`; the text is the detail.
    #[error("numeric field overflow")]
    FieldOverflow(String),
    /// An argument outside the domain of a function, with its SQLSTATE.
    #[error("{1}")]
    Domain(&'static str, String),
}

impl NumericError {
    /// Its SQLSTATE.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            NumericError::Syntax(_) => "22P02",
            NumericError::Overflow | NumericError::FieldOverflow(_) => "22003",
            NumericError::DivisionByZero => "22012",
            NumericError::Domain(sqlstate, _) => sqlstate,
        }
    }

    /// Postgres' DETAIL line.
    pub fn detail(&self) -> Option<String> {
        match self {
            NumericError::FieldOverflow(detail) => Some(detail.clone()),
            NumericError::Overflow => Some(format!("A numeric keeps at most {DIGITS_MAX} significant digits.")),
            _ => None,
        }
    }
}

/// The result of an operation on numerics.
pub type Result<T = Numeric> = std::result::Result<T, NumericError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Finite,
    NaN,
    Infinity,
    NegativeInfinity,
}

/// A number: `mantissa * 10^-point`, shown with `scale` digits after the point.
///
/// `point` is `scale` unless the mantissa would then not fit (`1e100` has mantissa 1, point -100, scale 0); it is never
/// larger than `scale`: every digit that is kept is also shown.
#[derive(Clone, Copy, Debug)]
pub struct Numeric {
    kind: Kind,
    mantissa: i128,
    point: i16,
    scale: u8,
}

const POWERS: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut i = 1;
    while i < 39 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};
/// One more than the largest mantissa.
const LIMIT: i128 = POWERS[38];

fn power_wide(exponent: u32) -> i256 {
    match exponent {
        0..=38 => i256::from_i128(POWERS[exponent as usize]),
        39..=76 => i256::from_i128(POWERS[38]).wrapping_mul(i256::from_i128(POWERS[exponent as usize - 38])),
        _ => unreachable!("callers keep wide products below 10^76"),
    }
}

/// Decimal digits of `n`; 0 has none.
fn digits(n: u128) -> u32 {
    if n == 0 {
        return 0;
    }
    let guess = ((128 - n.leading_zeros()) * 1233) >> 12;
    if guess < 39 && n >= POWERS[guess as usize] as u128 { guess + 1 } else { guess }
}

fn wide_abs(n: i256) -> i256 {
    if n.is_negative() { n.wrapping_neg() } else { n }
}

/// `n / d` rounded half away from zero.
fn div_round(n: i128, d: i128) -> i128 {
    let (q, r) = (n / d, n % d);
    // 2|r| >= |d| without overflow: |r| >= |d| - |r|.
    if r.unsigned_abs() >= d.unsigned_abs() - r.unsigned_abs() {
        q + if (n < 0) == (d < 0) { 1 } else { -1 }
    } else {
        q
    }
}

fn div_round_wide(n: i256, d: i256) -> i256 {
    let (q, r) = (n.wrapping_div(d), n.wrapping_rem(d));
    let (r, d_abs) = (wide_abs(r), wide_abs(d));
    if r >= d_abs.wrapping_sub(r) {
        let one = i256::from_i128(1);
        if n.is_negative() == d.is_negative() { q.wrapping_add(one) } else { q.wrapping_sub(one) }
    } else {
        q
    }
}

impl Numeric {
    /// Not a number: equal to itself and larger than everything else.
    pub const NAN: Numeric = Numeric { kind: Kind::NaN, mantissa: 0, point: 0, scale: 0 };
    /// Positive infinity.
    pub const INFINITY: Numeric = Numeric { kind: Kind::Infinity, mantissa: 0, point: 0, scale: 0 };
    /// Negative infinity.
    pub const NEGATIVE_INFINITY: Numeric = Numeric { kind: Kind::NegativeInfinity, mantissa: 0, point: 0, scale: 0 };
    /// Zero, scale 0.
    pub const ZERO: Numeric = Numeric::finite(0, 0);
    /// One, scale 0.
    pub const ONE: Numeric = Numeric::finite(1, 0);

    const fn finite(mantissa: i128, scale: u8) -> Numeric {
        Numeric { kind: Kind::Finite, mantissa, point: scale as i16, scale }
    }

    /// `mantissa * 10^-scale` with that scale.
    pub fn new(mantissa: i128, scale: u8) -> Result {
        Numeric::build(i256::from_i128(mantissa), scale as i32, scale as i32)
    }

    /// A number from the result of an operation: `mantissa * 10^-point` shown with `scale >= point` digits.
    fn build(mut mantissa: i256, mut point: i32, scale: i32) -> Result {
        debug_assert!(point <= scale);
        let scale: u8 = scale.try_into().map_err(|_| NumericError::Overflow)?;
        let (limit, ten) = (i256::from_i128(LIMIT), i256::from_i128(10));
        while wide_abs(mantissa) >= limit {
            if mantissa.wrapping_rem(ten) != i256::ZERO {
                return Err(NumericError::Overflow);
            }
            mantissa = mantissa.wrapping_div(ten);
            point -= 1;
        }
        let mantissa = mantissa.to_i128().ok_or(NumericError::Overflow)?;
        Numeric::build_narrow(mantissa, point, scale)
    }

    /// The same for a mantissa that is already below [`LIMIT`].
    fn build_narrow(mantissa: i128, point: i32, scale: u8) -> Result {
        if mantissa == 0 {
            return Ok(Numeric::finite(0, scale));
        }
        let n = digits(mantissa.unsigned_abs());
        let exponent = n as i32 - 1 - point;
        if !(EXPONENT_MIN..=EXPONENT_MAX).contains(&exponent) {
            return Err(NumericError::Overflow);
        }
        let missing = scale as i32 - point;
        if missing > 0 && n as i32 + missing <= DIGITS_MAX as i32 {
            return Ok(Numeric::finite(mantissa * POWERS[missing as usize], scale));
        }
        Ok(Numeric { kind: Kind::Finite, mantissa, point: point as i16, scale })
    }

    /// `mantissa * 10^-point`, shown with `scale` digits after the point, which is at least `point`.
    pub fn from_parts(mantissa: i256, point: i32, scale: u8) -> Result {
        Numeric::build(mantissa, point, i32::from(scale))
    }

    /// Its digits and the power of ten under them: `mantissa * 10^-point`. Zero for NaN and the infinities.
    pub fn parts(&self) -> (i128, i32) {
        (self.mantissa, i32::from(self.point))
    }

    /// From an integer.
    pub fn from_i64(value: i64) -> Numeric {
        Numeric::finite(value as i128, 0)
    }

    /// From a wide integer.
    pub fn from_i128(value: i128) -> Result {
        Numeric::build(i256::from_i128(value), 0, 0)
    }

    /// From a double, as Postgres' cast: 15 significant digits.
    pub fn from_f64(value: f64) -> Result {
        Numeric::from_float(value, 15)
    }

    /// From a real, as Postgres' cast: 6 significant digits.
    pub fn from_f32(value: f32) -> Result {
        Numeric::from_float(value as f64, 6)
    }

    fn from_float(value: f64, precision: usize) -> Result {
        if value.is_nan() {
            return Ok(Numeric::NAN);
        }
        if value.is_infinite() {
            return Ok(if value > 0.0 { Numeric::INFINITY } else { Numeric::NEGATIVE_INFINITY });
        }
        let text = format!("{value:.*e}", precision - 1);
        let (mantissa, exponent) = text.split_once('e').expect("the format has an exponent");
        let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
        Numeric::parse(&format!("{mantissa}e{exponent}"))
    }

    /// The nearest double.
    pub fn to_f64(&self) -> f64 {
        match self.kind {
            Kind::NaN => f64::NAN,
            Kind::Infinity => f64::INFINITY,
            Kind::NegativeInfinity => f64::NEG_INFINITY,
            Kind::Finite => {
                if self.mantissa.unsigned_abs() < 1 << 53 && (0..=22).contains(&self.point) {
                    // Both are exact doubles, so that their quotient is the nearest one.
                    return self.mantissa as f64 / 10f64.powi(self.point as i32);
                }
                format!("{}e{}", self.mantissa, -(self.point as i32)).parse().expect("a number")
            }
        }
    }

    /// The nearest integer, half away from zero; `None` if there is none (NaN, infinity, too large).
    pub fn to_i128(&self) -> Option<i128> {
        if self.kind != Kind::Finite {
            return None;
        }
        let rounded = self.round(0).ok()?;
        if rounded.point == 0 {
            return Some(rounded.mantissa);
        }
        let missing = -(rounded.point as i32) as usize;
        POWERS.get(missing).and_then(|power| rounded.mantissa.checked_mul(*power))
    }

    /// The nearest bigint, half away from zero.
    pub fn to_i64(&self) -> Option<i64> {
        self.to_i128()?.try_into().ok()
    }

    /// Digits shown after the point.
    pub fn scale(&self) -> u8 {
        self.scale
    }

    /// Whether it is NaN.
    pub fn is_nan(&self) -> bool {
        self.kind == Kind::NaN
    }

    /// Whether it is one of the infinities.
    pub fn is_infinite(&self) -> bool {
        matches!(self.kind, Kind::Infinity | Kind::NegativeInfinity)
    }

    /// Whether it is a number.
    pub fn is_finite(&self) -> bool {
        self.kind == Kind::Finite
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.kind == Kind::Finite && self.mantissa == 0
    }

    /// Whether it is less than zero.
    pub fn is_negative(&self) -> bool {
        self.kind == Kind::NegativeInfinity || self.mantissa < 0
    }

    /// -1, 0 or 1 (0 for NaN).
    pub fn signum(&self) -> i32 {
        match self.kind {
            Kind::NaN => 0,
            Kind::Infinity => 1,
            Kind::NegativeInfinity => -1,
            Kind::Finite => self.mantissa.signum() as i32,
        }
    }

    /// The power of ten of the first digit; 0 for zero.
    pub fn exponent(&self) -> i32 {
        if self.mantissa == 0 { 0 } else { digits(self.mantissa.unsigned_abs()) as i32 - 1 - self.point as i32 }
    }

    /// The 19 bytes drawn at the head of this file.
    pub fn to_bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[BYTES - 1] = self.scale;
        bytes[0] = match self.kind {
            Kind::NegativeInfinity => CLASS_NEGATIVE_INFINITY,
            Kind::Infinity => CLASS_INFINITY,
            Kind::NaN => CLASS_NAN,
            Kind::Finite if self.mantissa == 0 => CLASS_ZERO,
            Kind::Finite => {
                let magnitude = self.mantissa.unsigned_abs();
                let n = digits(magnitude);
                let exponent = (n as i32 - 1 - self.point as i32 - EXPONENT_MIN) as u8;
                let aligned = magnitude * POWERS[(DIGITS_MAX - n) as usize] as u128;
                let negative = self.mantissa < 0;
                bytes[1] = if negative { !exponent } else { exponent };
                bytes[2..18].copy_from_slice(&(if negative { !aligned } else { aligned }).to_be_bytes());
                if negative { CLASS_NEGATIVE } else { CLASS_POSITIVE }
            }
        };
        bytes
    }

    /// What compares as the value does.
    pub fn key(&self) -> [u8; KEY_BYTES] {
        self.to_bytes()[..KEY_BYTES].try_into().expect("18 of 19 bytes")
    }

    /// From the bytes of [`Numeric::to_bytes`].
    ///
    /// # Panics
    /// If there are not 19 of them: a column of another type is our own bug.
    pub fn from_bytes(bytes: &[u8]) -> Numeric {
        let bytes: &[u8; BYTES] = bytes.try_into().expect("a numeric has 19 bytes");
        let scale = bytes[BYTES - 1];
        let negative = match bytes[0] {
            CLASS_NEGATIVE_INFINITY => return Numeric::NEGATIVE_INFINITY,
            CLASS_ZERO => return Numeric::finite(0, scale),
            CLASS_INFINITY => return Numeric::INFINITY,
            CLASS_NAN => return Numeric::NAN,
            class => class == CLASS_NEGATIVE,
        };
        let (exponent, aligned) = (bytes[1], u128::from_be_bytes(bytes[2..18].try_into().expect("16 bytes")));
        let (exponent, aligned) = if negative { (!exponent, !aligned) } else { (exponent, aligned) };
        let point = DIGITS_MAX as i32 - 1 - (exponent as i32 + EXPONENT_MIN);
        let surplus = point - scale as i32;
        let (magnitude, point) = if surplus <= 0 {
            (aligned, point)
        } else if surplus <= DIGITS_MAX as i32 {
            (aligned / POWERS[surplus as usize] as u128, scale as i32)
        } else {
            (0, scale as i32)
        };
        let mantissa = if negative { -(magnitude as i128) } else { magnitude as i128 };
        Numeric { kind: Kind::Finite, mantissa, point: point as i16, scale }
    }

    /// Reads Postgres' text form: sign, digits, fraction, exponent; NaN, inf and infinity in any case.
    pub fn parse(text: &str) -> Result {
        let syntax = || NumericError::Syntax(text.to_string());
        let s = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        let (negative, body) = match s.as_bytes().first() {
            Some(b'-') => (true, &s[1..]),
            Some(b'+') => (false, &s[1..]),
            _ => (false, s),
        };
        if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return match body.to_ascii_lowercase().as_str() {
                "nan" if body.len() == s.len() => Ok(Numeric::NAN),
                "inf" | "infinity" if negative => Ok(Numeric::NEGATIVE_INFINITY),
                "inf" | "infinity" => Ok(Numeric::INFINITY),
                _ => Err(syntax()),
            };
        }
        let bytes = body.as_bytes();
        let (mut mantissa, mut point, mut fraction, mut any, mut dot) = (0i128, 0i32, 0i32, false, false);
        // Zeros are kept back until a digit follows, so that neither leading nor trailing ones use up digits.
        let (mut zeros, mut at) = (0i32, 0);
        while at < bytes.len() {
            match bytes[at] {
                b'.' if !dot => dot = true,
                digit @ b'0'..=b'9' => {
                    any = true;
                    fraction += dot as i32;
                    point += dot as i32;
                    zeros += 1;
                    if digit != b'0' {
                        if mantissa != 0 {
                            if digits(mantissa.unsigned_abs()) as i32 + zeros > DIGITS_MAX as i32 {
                                return Numeric::check_rest(&bytes[at..])
                                    .then_some(Err(NumericError::Overflow))
                                    .unwrap_or_else(|| Err(syntax()));
                            }
                            mantissa *= POWERS[zeros as usize];
                        }
                        mantissa += (digit - b'0') as i128;
                        zeros = 0;
                    }
                }
                _ => break,
            }
            at += 1;
        }
        if !any {
            return Err(syntax());
        }
        let mut power = 0i32;
        if at < bytes.len() {
            let rest = &body[at..];
            let exponent = rest.strip_prefix(['e', 'E']).ok_or_else(syntax)?;
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                return Err(syntax());
            }
            power = exponent.parse().map_err(|_| NumericError::Overflow)?;
            if power.abs() >= i32::MAX / 2 {
                return Err(NumericError::Overflow);
            }
        }
        let scale = (fraction - power).max(0);
        // A number with its kept-back zeros counts `zeros` powers of ten more, and its point sits after them.
        let point = point - zeros - power;
        let mantissa = if negative { -mantissa } else { mantissa };
        if mantissa == 0 {
            return Ok(Numeric::finite(0, scale.try_into().map_err(|_| NumericError::Overflow)?));
        }
        Numeric::build_narrow(mantissa, point, scale.try_into().map_err(|_| NumericError::Overflow)?)
    }

    /// Whether what follows a too long row of digits is still the text of a number.
    fn check_rest(rest: &[u8]) -> bool {
        rest.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
    }

    /// `-self`
    pub fn neg(&self) -> Numeric {
        match self.kind {
            Kind::NaN => *self,
            Kind::Infinity => Numeric::NEGATIVE_INFINITY,
            Kind::NegativeInfinity => Numeric::INFINITY,
            Kind::Finite => Numeric { mantissa: -self.mantissa, ..*self },
        }
    }

    /// The absolute value.
    pub fn abs(&self) -> Numeric {
        if self.is_negative() { self.neg() } else { *self }
    }

    /// `self + other`; the scale is the larger one.
    pub fn add(&self, other: &Numeric) -> Result {
        if self.kind != Kind::Finite || other.kind != Kind::Finite {
            return Ok(match (self.kind, other.kind) {
                (Kind::NaN, _) | (_, Kind::NaN) => Numeric::NAN,
                (Kind::Infinity, Kind::NegativeInfinity) | (Kind::NegativeInfinity, Kind::Infinity) => Numeric::NAN,
                (Kind::Finite, _) => *other,
                _ => *self,
            });
        }
        let scale = self.scale.max(other.scale);
        if self.point == other.point
            && self.point == scale as i16
            && let Some(sum) = self.mantissa.checked_add(other.mantissa)
            && sum.unsigned_abs() < LIMIT as u128
        {
            return Ok(Numeric::finite(sum, scale));
        }
        let (a, b, point) = align(self, other)?;
        Numeric::build(a.wrapping_add(b), point, scale as i32)
    }

    /// `self - other`
    pub fn sub(&self, other: &Numeric) -> Result {
        self.add(&other.neg())
    }

    /// `self * other`; the scale is the sum of the scales.
    pub fn mul(&self, other: &Numeric) -> Result {
        if self.kind != Kind::Finite || other.kind != Kind::Finite {
            if self.is_nan() || other.is_nan() {
                return Ok(Numeric::NAN);
            }
            return Ok(match self.signum() * other.signum() {
                0 => Numeric::NAN,
                1 => Numeric::INFINITY,
                _ => Numeric::NEGATIVE_INFINITY,
            });
        }
        let (scale, point) = (self.scale as i32 + other.scale as i32, self.point as i32 + other.point as i32);
        if scale == point
            && scale <= u8::MAX as i32
            && let Some(product) = self.mantissa.checked_mul(other.mantissa)
            && product.unsigned_abs() < LIMIT as u128
        {
            return Numeric::build_narrow(product, point, scale as u8);
        }
        let product = i256::from_i128(self.mantissa).wrapping_mul(i256::from_i128(other.mantissa));
        Numeric::build(product, point, scale)
    }

    /// `self / other` with Postgres' choice of the scale: at least 16 significant digits.
    pub fn div(&self, other: &Numeric) -> Result {
        if let Some(special) = self.div_special(other)? {
            return Ok(special);
        }
        self.div_to(other, div_scale(self, other))
    }

    /// `self / other` rounded to `scale` digits.
    pub fn div_rounded(&self, other: &Numeric, scale: i32) -> Result {
        match self.div_special(other)? {
            Some(special) => Ok(special),
            None => self.div_to(other, scale.max(0)),
        }
    }

    /// The quotient when NaN or an infinity takes part, or the error for a zero divisor.
    fn div_special(&self, other: &Numeric) -> Result<Option<Numeric>> {
        if self.is_nan() || other.is_nan() {
            return Ok(Some(Numeric::NAN));
        }
        if other.is_zero() {
            return Err(NumericError::DivisionByZero);
        }
        Ok(match (self.is_infinite(), other.is_infinite()) {
            (true, true) => Some(Numeric::NAN),
            (true, false) if self.signum() * other.signum() > 0 => Some(Numeric::INFINITY),
            (true, false) => Some(Numeric::NEGATIVE_INFINITY),
            (false, true) => Some(Numeric::ZERO),
            (false, false) => None,
        })
    }

    /// The quotient of two finite numbers rounded to `scale` digits.
    fn div_to(&self, other: &Numeric, scale: i32) -> Result {
        if self.mantissa == 0 {
            return Numeric::build_narrow(0, 0, scale.try_into().map_err(|_| NumericError::Overflow)?);
        }
        let shift = scale - self.point as i32 + other.point as i32;
        if shift < 0 {
            // The divisor grows instead of the dividend; a shift out of reach makes the quotient zero.
            let Some(power) = POWERS.get((-shift) as usize) else {
                return Numeric::build_narrow(0, 0, scale.try_into().map_err(|_| NumericError::Overflow)?);
            };
            let divisor = i256::from_i128(other.mantissa).wrapping_mul(i256::from_i128(*power));
            return Numeric::build(div_round_wide(i256::from_i128(self.mantissa), divisor), scale, scale);
        }
        if let Some(power) = POWERS.get(shift as usize)
            && let Some(dividend) = self.mantissa.checked_mul(*power)
        {
            let quotient = div_round(dividend, other.mantissa);
            return Numeric::build(i256::from_i128(quotient), scale, scale);
        }
        // Digits that the dividend has room for; beyond them only an exact quotient can be right.
        let room = 76 - digits(self.mantissa.unsigned_abs()) as i32;
        let step = shift.min(room);
        let dividend = i256::from_i128(self.mantissa).wrapping_mul(power_wide(step as u32));
        let divisor = i256::from_i128(other.mantissa);
        if step == shift {
            return Numeric::build(div_round_wide(dividend, divisor), scale, scale);
        }
        if dividend.wrapping_rem(divisor) != i256::ZERO {
            return Err(NumericError::Overflow);
        }
        Numeric::build(dividend.wrapping_div(divisor), scale - (shift - step), scale)
    }

    /// The integer part of `self / other`.
    pub fn div_trunc(&self, other: &Numeric) -> Result {
        if let Some(special) = self.div_special(other)? {
            return Ok(special);
        }
        let (a, b, _) = align(self, other)?;
        Numeric::build(a.wrapping_div(b), 0, 0)
    }

    /// `self % other`, with the sign of `self`.
    pub fn rem(&self, other: &Numeric) -> Result {
        if self.is_nan() || other.is_nan() {
            return Ok(Numeric::NAN);
        }
        if self.is_infinite() {
            return if other.is_zero() { Err(NumericError::DivisionByZero) } else { Ok(Numeric::NAN) };
        }
        if other.is_infinite() {
            return Ok(*self);
        }
        if other.is_zero() {
            return Err(NumericError::DivisionByZero);
        }
        let (a, b, point) = align(self, other)?;
        Numeric::build(a.wrapping_rem(b), point, self.scale.max(other.scale) as i32)
    }

    /// Rounds to `scale` digits after the point (before it, if negative), half away from zero.
    pub fn round(&self, scale: i32) -> Result {
        self.reduce(scale, div_round)
    }

    /// Drops the digits behind `scale`.
    pub fn trunc(&self, scale: i32) -> Result {
        self.reduce(scale, |n, d| n / d)
    }

    /// The largest integer that is not larger.
    pub fn floor(&self) -> Result {
        self.reduce(0, |n, d| n.div_euclid(d))
    }

    /// The smallest integer that is not smaller.
    pub fn ceil(&self) -> Result {
        self.reduce(0, |n, d| -((-n).div_euclid(d)))
    }

    fn reduce(&self, scale: i32, divide: fn(i128, i128) -> i128) -> Result {
        if self.kind != Kind::Finite {
            return Ok(*self);
        }
        let shown: u8 = scale.max(0).try_into().map_err(|_| NumericError::Overflow)?;
        let surplus = self.point as i32 - scale;
        if surplus <= 0 {
            return Numeric::build_narrow(self.mantissa, self.point as i32, shown);
        }
        let quotient = match POWERS.get(surplus as usize) {
            Some(power) => divide(self.mantissa, *power),
            // Less than half a unit: only floor and ceil see it.
            None => divide(self.mantissa.signum(), LIMIT),
        };
        Numeric::build(i256::from_i128(quotient), scale, shown as i32)
    }

    /// Without trailing zeros behind the point.
    pub fn trim_scale(&self) -> Numeric {
        let scale = self.scale_min();
        if self.kind == Kind::Finite { self.round(scale as i32).expect("fewer digits") } else { *self }
    }

    /// The digits behind the point that are needed to write the value.
    pub fn scale_min(&self) -> u8 {
        if self.kind != Kind::Finite || self.mantissa == 0 {
            return 0;
        }
        let (mut mantissa, mut point) = (self.mantissa, self.point);
        while point > 0 && mantissa % 10 == 0 {
            (mantissa, point) = (mantissa / 10, point - 1);
        }
        point.max(0) as u8
    }

    /// The square root, with Postgres' scale: at least 16 significant digits.
    pub fn sqrt(&self) -> Result {
        match self.kind {
            Kind::NaN | Kind::Infinity => return Ok(*self),
            _ if self.is_negative() => {
                return Err(NumericError::Domain("2201F", "cannot take square root of a negative number".into()));
            }
            _ => {}
        }
        let weight = self.exponent().div_euclid(4);
        let scale = (SIGNIFICANT_DIGITS_MIN - (weight * 2 + 1)).max(self.scale as i32).max(0);
        // root(m * 10^-p) = root(m * 10^(2s - p)) * 10^-s, then rounded by one look at the remainder.
        let shift = 2 * scale - self.point as i32;
        let room = 76 - digits(self.mantissa.unsigned_abs()) as i32;
        if shift < 0 || shift > room {
            return Err(NumericError::Overflow);
        }
        let n = i256::from_i128(self.mantissa).wrapping_mul(power_wide(shift as u32));
        let root = sqrt_floor(n);
        let rest = n.wrapping_sub(root.wrapping_mul(root));
        let root = if rest > root { root.wrapping_add(i256::from_i128(1)) } else { root };
        Numeric::build(root, scale, scale)
    }

    /// Rounds to `numeric(p, s)` and checks that it fits; -1 leaves the value alone.
    pub fn apply_typmod(&self, typmod: i32) -> Result {
        let Some((precision, scale)) = typmod_parts(typmod) else { return Ok(*self) };
        match self.kind {
            Kind::NaN => return Ok(*self),
            Kind::Infinity | Kind::NegativeInfinity => {
                return Err(NumericError::FieldOverflow(format!(
                    "A field with precision {precision}, scale {scale} cannot hold an infinite value."
                )));
            }
            Kind::Finite => {}
        }
        let rounded = self.round(scale)?;
        if rounded.mantissa != 0 && rounded.exponent() >= precision - scale {
            let limit = precision - scale;
            let limit = if limit == 0 { "1".to_string() } else { format!("10^{limit}") };
            return Err(NumericError::FieldOverflow(format!(
                "A field with precision {precision}, scale {scale} must round to an absolute value less than {limit}."
            )));
        }
        Ok(rounded)
    }
}

/// Precision and scale of a type modifier; `None` if there is none.
pub fn typmod_parts(typmod: i32) -> Option<(i32, i32)> {
    if typmod < 4 {
        return None;
    }
    let packed = typmod - 4;
    Some(((packed >> 16) & 0xffff, ((packed & 0x7ff) ^ 1024) - 1024))
}

/// The type modifier of `numeric(precision, scale)`.
pub fn typmod(precision: i32, scale: i32) -> i32 {
    ((precision << 16) | (scale & 0x7ff)) + 4
}

/// Both mantissas at the finer of the two points. Numbers too far apart for an exact result are an overflow.
fn align(a: &Numeric, b: &Numeric) -> Result<(i256, i256, i32)> {
    let (wide_a, wide_b) = (i256::from_i128(a.mantissa), i256::from_i128(b.mantissa));
    if a.point == b.point {
        return Ok((wide_a, wide_b, a.point as i32));
    }
    if a.mantissa == 0 {
        return Ok((wide_a, wide_b, b.point as i32));
    }
    // A zero divisor never comes here, so a zero on the right is that of an addition.
    if b.mantissa == 0 {
        return Ok((wide_a, wide_b, a.point as i32));
    }
    let raise = |n: i256, m: i128, by: i32| {
        if by + digits(m.unsigned_abs()) as i32 > 76 {
            Err(NumericError::Overflow)
        } else {
            Ok(n.wrapping_mul(power_wide(by as u32)))
        }
    };
    let difference = a.point as i32 - b.point as i32;
    if difference > 0 {
        Ok((wide_a, raise(wide_b, b.mantissa, difference)?, a.point as i32))
    } else {
        Ok((raise(wide_a, a.mantissa, -difference)?, wide_b, b.point as i32))
    }
}

/// Postgres' `select_div_scale`: it counts in digits of base 10,000.
fn div_scale(a: &Numeric, b: &Numeric) -> i32 {
    let (weight_a, first_a) = leading(a);
    let (weight_b, first_b) = leading(b);
    let weight = weight_a - weight_b - (first_a <= first_b) as i32;
    (SIGNIFICANT_DIGITS_MIN - weight * 4).max(a.scale as i32).max(b.scale as i32).clamp(0, 1000)
}

/// The power of 10,000 and the value of the first non-zero digit of base 10,000.
fn leading(n: &Numeric) -> (i32, i32) {
    if n.mantissa == 0 {
        return (0, 0);
    }
    let exponent = n.exponent();
    let weight = exponent.div_euclid(4);
    let count = exponent - weight * 4 + 1;
    let magnitude = n.mantissa.unsigned_abs();
    let have = digits(magnitude) as i32;
    let first = if have >= count {
        magnitude / POWERS[(have - count) as usize] as u128
    } else {
        magnitude * POWERS[(count - have) as usize] as u128
    };
    (weight, first as i32)
}

/// The integer part of the root, by Newton's method from above.
fn sqrt_floor(n: i256) -> i256 {
    if n == i256::ZERO {
        return n;
    }
    let (one, two) = (i256::from_i128(1), i256::from_i128(2));
    let estimate = n.to_string().parse::<f64>().expect("a number").sqrt();
    let mut x = i256::from_string(&format!("{:.0}", estimate * 1.000001)).unwrap_or(one).wrapping_add(one);
    loop {
        let next = x.wrapping_add(n.wrapping_div(x)).wrapping_div(two);
        if next >= x {
            return x;
        }
        x = next;
    }
}

impl PartialEq for Numeric {
    fn eq(&self, other: &Numeric) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Numeric {}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Numeric) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Numeric) -> Ordering {
        if self.kind == Kind::Finite && other.kind == Kind::Finite && self.point == other.point {
            return self.mantissa.cmp(&other.mantissa);
        }
        self.key().cmp(&other.key())
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::NaN => return f.write_str("NaN"),
            Kind::Infinity => return f.write_str("Infinity"),
            Kind::NegativeInfinity => return f.write_str("-Infinity"),
            Kind::Finite => {}
        }
        if self.mantissa < 0 {
            f.write_str("-")?;
        }
        let digits = self.mantissa.unsigned_abs().to_string();
        let (point, scale) = (self.point as i32, self.scale as usize);
        if point <= 0 {
            f.write_str(&digits)?;
            if self.mantissa != 0 {
                write!(f, "{:0<1$}", "", (-point) as usize)?;
            }
            if scale > 0 {
                write!(f, ".{:0<1$}", "", scale)?;
            }
            return Ok(());
        }
        let point = point as usize;
        let (whole, fraction) =
            if digits.len() > point { digits.split_at(digits.len() - point) } else { ("0", digits.as_str()) };
        let leading = point.saturating_sub(digits.len());
        write!(f, "{whole}.{:0<leading$}{fraction}{:0<trailing$}", "", "", trailing = scale - point)
    }
}

impl std::str::FromStr for Numeric {
    type Err = NumericError;

    fn from_str(text: &str) -> Result {
        Numeric::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn n(text: &str) -> Numeric {
        Numeric::parse(text).unwrap()
    }

    /// Expected values are those of PostgreSQL 15.
    #[test]
    fn computes_as_postgres() {
        for (a, op, b, expected) in [
            ("1", "/", "3", "0.33333333333333333333"),
            ("1", "/", "3.0", "0.33333333333333333333"),
            ("2", "/", "3", "0.66666666666666666667"),
            ("10", "/", "2", "5.0000000000000000"),
            ("1", "/", "7000", "0.00014285714285714286"),
            ("123456789", "/", "7", "17636684.142857142857"),
            ("100000000", "/", "0.0003", "333333333333.33333333"),
            ("1.0", "*", "2.50", "2.500"),
            ("1.1", "+", "2.25", "3.35"),
            ("1.1", "-", "2.25", "-1.15"),
            ("-7", "%", "2", "-1"),
            ("7.5", "%", "-2", "1.5"),
            ("Infinity", "-", "Infinity", "NaN"),
            ("NaN", "+", "1", "NaN"),
            ("0", "*", "Infinity", "NaN"),
            ("1", "/", "Infinity", "0"),
            ("99999999999999999999999999999999999999", "-", "1", "99999999999999999999999999999999999998"),
            ("1e50", "+", "0", "100000000000000000000000000000000000000000000000000"),
        ] {
            let (x, y) = (n(a), n(b));
            let result = match op {
                "+" => x.add(&y),
                "-" => x.sub(&y),
                "*" => x.mul(&y),
                "/" => x.div(&y),
                _ => x.rem(&y),
            };
            assert_eq!(result.unwrap().to_string(), expected, "{a} {op} {b}");
        }
    }

    #[test]
    fn reads_and_writes_text() {
        for (text, expected) in [
            ("0", "0"),
            ("-0.00", "0.00"),
            (" 1.50 ", "1.50"),
            ("1e3", "1000"),
            ("1.5e-3", "0.0015"),
            ("1.50e1", "15.0"),
            (".5", "0.5"),
            ("5.", "5"),
            ("0e10", "0"),
            ("0.0e-3", "0.0000"),
            ("000123", "123"),
            ("+7", "7"),
            ("nan", "NaN"),
            ("-inf", "-Infinity"),
            ("Infinity", "Infinity"),
            ("1e40", "10000000000000000000000000000000000000000"),
            ("100000000000000000000000000000000000000000.0", "100000000000000000000000000000000000000000.0"),
            ("0.00000000000000000000000000000000000000000000015", "0.00000000000000000000000000000000000000000000015"),
        ] {
            let number = n(text);
            assert_eq!(number.to_string(), expected, "{text}");
            assert_eq!(Numeric::from_bytes(&number.to_bytes()).to_string(), expected, "bytes of {text}");
        }
        for text in ["", "x", "1x", "1e", "--1", "-NaN", "1.2.3", "1 2", ".", "e5", "infi"] {
            assert_eq!(Numeric::parse(text).unwrap_err().sqlstate(), "22P02", "{text}");
        }
        for text in ["1e400", "123456789012345678901234567890123456789", "1e-300"] {
            assert_eq!(Numeric::parse(text).unwrap_err().sqlstate(), "22003", "{text}");
        }
    }

    #[test]
    fn rounds_half_away_from_zero() {
        for (text, scale, round, trunc) in [
            ("2.5", 0, "3", "2"),
            ("-2.5", 0, "-3", "-2"),
            ("2.345", 2, "2.35", "2.34"),
            ("155", -1, "160", "150"),
            ("1", 3, "1.000", "1.000"),
            ("44", -2, "0", "0"),
            ("50", -2, "100", "0"),
        ] {
            assert_eq!(n(text).round(scale).unwrap().to_string(), round);
            assert_eq!(n(text).trunc(scale).unwrap().to_string(), trunc);
        }
        assert_eq!(n("-1.5").floor().unwrap().to_string(), "-2");
        assert_eq!(n("-1.5").ceil().unwrap().to_string(), "-1");
        assert_eq!(n("1.2").ceil().unwrap().to_string(), "2");
        assert_eq!(n("0.000000000000000000000000000000000000000000001").ceil().unwrap().to_string(), "1");
    }

    #[test]
    fn takes_roots_as_postgres() {
        for (text, expected) in [
            ("2", "1.414213562373095"),
            ("4", "2.000000000000000"),
            ("0.0", "0.000000000000000"),
            ("0.0001", "0.01000000000000000"),
            ("12345", "111.1080555135405"),
            ("1e-9", "0.000031622776601683793"),
        ] {
            assert_eq!(n(text).sqrt().unwrap().to_string(), expected, "{text}");
        }
        assert_eq!(n("-1").sqrt().unwrap_err().sqlstate(), "2201F");
    }

    #[test]
    fn applies_precision_and_scale() {
        assert_eq!(n("1.005").apply_typmod(typmod(10, 2)).unwrap().to_string(), "1.01");
        assert_eq!(n("1234").apply_typmod(typmod(2, -2)).unwrap().to_string(), "1200");
        let error = n("100").apply_typmod(typmod(4, 2)).unwrap_err();
        assert_eq!(error.to_string(), "numeric field overflow");
        assert_eq!(
            error.detail().unwrap(),
            "A field with precision 4, scale 2 must round to an absolute value less than 10^2."
        );
        assert!(n("99.995").apply_typmod(typmod(4, 2)).is_err());
        assert!(Numeric::NAN.apply_typmod(typmod(4, 2)).unwrap().is_nan());
        assert!(Numeric::INFINITY.apply_typmod(typmod(4, 2)).is_err());
    }

    #[test]
    fn converts_floats_as_postgres() {
        for (value, expected) in [(0.1, "0.1"), (1e20, "100000000000000000000"), (1.0 / 3.0, "0.333333333333333")] {
            assert_eq!(Numeric::from_f64(value).unwrap().to_string(), expected);
        }
        assert_eq!(Numeric::from_f32(1.0 / 3.0).unwrap().to_string(), "0.333333");
        assert_eq!(n("12345678901234567890.5").to_f64(), 12345678901234567890.5);
        assert_eq!(n("2.5").to_i64(), Some(3));
        assert_eq!(n("1e30").to_i64(), None);
    }

    fn small() -> impl Strategy<Value = (i128, u8)> {
        (-(10i128.pow(17))..10i128.pow(17), 0u8..18)
    }

    fn any_numeric() -> impl Strategy<Value = Numeric> {
        prop_oneof![
            8 => (-(LIMIT - 1)..LIMIT, 0u8..40).prop_map(|(m, s)| Numeric::new(m, s).unwrap()),
            8 => small().prop_map(|(m, s)| Numeric::new(m, s).unwrap()),
            1 => Just(Numeric::NAN),
            1 => Just(Numeric::INFINITY),
            1 => Just(Numeric::NEGATIVE_INFINITY),
        ]
    }

    proptest! {
        #[test]
        fn bytes_and_text_round_trip(x in any_numeric()) {
            let text = x.to_string();
            prop_assert_eq!(Numeric::from_bytes(&x.to_bytes()).to_string(), &text[..]);
            prop_assert_eq!(Numeric::parse(&text).unwrap().to_string(), text);
        }

        // The model: the same operation on integers at a common scale.
        #[test]
        fn agrees_with_integers((a, s) in small(), (b, t) in small()) {
            let (x, y) = (Numeric::new(a, s).unwrap(), Numeric::new(b, t).unwrap());
            let scale = s.max(t);
            let (wide_a, wide_b) = (a * POWERS[(scale - s) as usize], b * POWERS[(scale - t) as usize]);
            let same = |x: Numeric, m: i128, s: u8| x.to_string() == Numeric::new(m, s).unwrap().to_string();
            prop_assert!(same(x.add(&y).unwrap(), wide_a + wide_b, scale));
            prop_assert!(same(x.sub(&y).unwrap(), wide_a - wide_b, scale));
            prop_assert!(same(x.mul(&y).unwrap(), a * b, s + t));
            prop_assert_eq!(x.cmp(&y), wide_a.cmp(&wide_b));
            prop_assert_eq!(x.key().cmp(&y.key()), wide_a.cmp(&wide_b));
            if b != 0 {
                prop_assert!(same(x.rem(&y).unwrap(), wide_a % wide_b, scale));
                // A quotient is within half a unit of its last digit.
                let q = x.div(&y).unwrap();
                let half = Numeric::new(5, q.scale() + 1).unwrap();
                if let Ok(back) = q.mul(&y) && let Ok(bound) = half.mul(&y.abs()) {
                    prop_assert!(back.sub(&x).unwrap().abs() <= bound);
                }
            }
        }

        #[test]
        fn keys_sort_as_values(x in any_numeric(), y in any_numeric()) {
            prop_assert_eq!(x.key().cmp(&y.key()), x.cmp(&y));
            if let (Ok(difference), true) = (x.sub(&y), x.is_finite() && y.is_finite()) {
                prop_assert_eq!(difference.signum(), x.cmp(&y) as i32);
            }
        }

        #[test]
        fn roots_square_back((m, s) in (0i128..10i128.pow(17), 0u8..10)) {
            let x = Numeric::new(m, s).unwrap();
            let root = x.sqrt().unwrap();
            let exact = x.to_f64().sqrt();
            prop_assert!((root.to_f64() - exact).abs() <= exact * 1e-14);
        }
    }
}
