//! The exact sum of doubles: one long fixed-point number that every finite double fits into (after Kulisch).
//!
//! ```text
//! bit 0 stands for 2^-1074, the smallest double; bit 2097 for the largest one's first digit;
//! 206 bits above it hold the sum of more rows than there can be, and the sign (two's complement)
//! ```
//!
//! So addition is exact, commutative and associative, a retraction leaves nothing behind, and the result is the
//! mathematical sum rounded once. NaNs and infinities are counted beside it.

use super::bytes;
use crate::error::{Error, Result};

const LIMBS: usize = 36;
/// The weight of bit 0 as a power of two.
const EXPONENT_MIN: i32 = -1074;
const MANTISSA_BITS: usize = 53;

/// A sum of doubles and how many there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExactFloat {
    /// Little endian, two's complement; absent while everything added was zero.
    limbs: Option<Box<[u64; LIMBS]>>,
    count: i64,
    nans: i64,
    infinities: i64,
    negative_infinities: i64,
}

impl ExactFloat {
    pub(crate) fn add(&mut self, value: f64, diff: i64) {
        self.count += diff;
        if value.is_nan() {
            self.nans += diff;
        } else if value == f64::INFINITY {
            self.infinities += diff;
        } else if value == f64::NEG_INFINITY {
            self.negative_infinities += diff;
        } else if value != 0.0 {
            self.add_finite(value, diff);
        }
    }

    /// Adds `a * b` without rounding it. A product too large for a double is an infinity, one too small for the last
    /// bits of its exact value loses those.
    pub(crate) fn add_product(&mut self, a: f64, b: f64, diff: i64) {
        let product = a * b;
        self.add(product, diff);
        if product.is_finite() {
            let rest = a.mul_add(b, -product);
            if rest != 0.0 {
                self.add_finite(rest, diff);
            }
        }
    }

    /// Whether no NaN and no infinity is among the values.
    pub(crate) fn is_finite(&self) -> bool {
        self.nans == 0 && self.infinities == 0 && self.negative_infinities == 0
    }

    /// Doubles that add up to the sum exactly, the largest first.
    fn components(&self) -> Result<Vec<f64>> {
        let (mut rest, mut parts) = (self.clone(), Vec::new());
        loop {
            let part = rest.value()?;
            if part == 0.0 || !part.is_finite() {
                return Ok(parts);
            }
            parts.push(part);
            rest.add_finite(part, -1);
        }
    }

    fn add_finite(&mut self, value: f64, diff: i64) {
        let bits = value.to_bits();
        let exponent = (bits >> 52) & 0x7ff;
        let fraction = bits & ((1 << 52) - 1);
        // A subnormal number has the weight of the first normal exponent and no hidden bit.
        let (mantissa, position) =
            if exponent == 0 { (fraction, 0) } else { (fraction | (1 << 52), exponent as usize - 1) };
        let signed = if value < 0.0 { -i128::from(mantissa) } else { i128::from(mantissa) };
        self.add_at(signed * i128::from(diff), position);
    }

    /// Adds `amount * 2^position`.
    fn add_at(&mut self, amount: i128, position: usize) {
        let limbs = self.limbs.get_or_insert_with(|| Box::new([0; LIMBS]));
        let (limb, shift) = (position / 64, position % 64);
        let extension = (amount >> 127) as u64;
        let (low, middle) = (amount as u64, (amount >> 64) as u64);
        let words = if shift == 0 {
            [low, middle, extension]
        } else {
            [low << shift, (middle << shift) | (low >> (64 - shift)), (extension << shift) | (middle >> (64 - shift))]
        };
        let mut carry = false;
        for (i, place) in limbs.iter_mut().enumerate().skip(limb) {
            let word = words.get(i - limb).copied().unwrap_or(extension);
            // Behind the three words only a carry or a sign still has an effect.
            if i - limb >= 3 && word == 0 && !carry || i - limb >= 3 && word == u64::MAX && carry {
                break;
            }
            let (sum, over) = place.overflowing_add(word);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            (*place, carry) = (sum, over || over_again);
        }
    }

    /// How many values, NaNs and infinities included.
    pub(crate) fn count(&self) -> i64 {
        self.count
    }

    /// The sum rounded to the nearest double, halves to even.
    ///
    /// # Errors
    /// `Invalid` if finite values add up to more than a double holds.
    pub(crate) fn value(&self) -> Result<f64> {
        if self.nans > 0 || self.infinities > 0 && self.negative_infinities > 0 {
            return Ok(f64::NAN);
        }
        if self.infinities > 0 {
            return Ok(f64::INFINITY);
        }
        if self.negative_infinities > 0 {
            return Ok(f64::NEG_INFINITY);
        }
        let Some(limbs) = &self.limbs else { return Ok(0.0) };
        let negative = limbs[LIMBS - 1] >> 63 == 1;
        let magnitude = if negative { negated(limbs) } else { **limbs };
        let value = rounded(&magnitude);
        if value.is_infinite() {
            return Err(Error::invalid("22003", "value out of range: overflow"));
        }
        Ok(if negative { -value } else { value })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for n in [self.count, self.nans, self.infinities, self.negative_infinities] {
            out.extend(n.to_le_bytes());
        }
        if let Some(limbs) = &self.limbs {
            // Zeros below and copies of the sign above are left out.
            let sign = ((limbs[LIMBS - 1] as i64) >> 63) as u64;
            let first = limbs.iter().position(|l| *l != 0).unwrap_or(0);
            let end = limbs.iter().rposition(|l| *l != sign).map_or(first, |last| last + 1).max(first);
            out.extend([first as u8, (end - first) as u8, sign as u8]);
            limbs[first..end].iter().for_each(|limb| out.extend(limb.to_le_bytes()));
        }
    }

    pub(crate) fn merge(&mut self, mut state: &[u8]) -> Result<()> {
        for n in [&mut self.count, &mut self.nans, &mut self.infinities, &mut self.negative_infinities] {
            *n += bytes::take_i64(&mut state)?;
        }
        if state.is_empty() {
            return Ok(());
        }
        let head = bytes::take(&mut state, 3)?;
        let (first, n, sign) = (head[0] as usize, head[1] as usize, i64::from(head[2] as i8) as u64);
        let mut other = [0; LIMBS];
        for limb in other.iter_mut().skip(first).take(n) {
            *limb = bytes::take_i64(&mut state)? as u64;
        }
        other[(first + n).min(LIMBS)..].fill(sign);
        let limbs = self.limbs.get_or_insert_with(|| Box::new([0; LIMBS]));
        let mut carry = false;
        for (place, word) in limbs.iter_mut().zip(other) {
            let (sum, over) = place.overflowing_add(word);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            (*place, carry) = (sum, over || over_again);
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.limbs.as_ref().map_or(0, |_| LIMBS * 8)
    }
}

/// Sums over `n` pairs of doubles: of each side and of their products.
pub(crate) struct Moments<'a> {
    pub(crate) n: i64,
    pub(crate) x: &'a ExactFloat,
    pub(crate) y: &'a ExactFloat,
    pub(crate) xy: &'a ExactFloat,
}

impl Moments<'_> {
    /// `n * sum(xy) - sum(x) * sum(y)`, rounded once; NaN if NaN or an infinity is among the values.
    pub(crate) fn spread(&self) -> Result<f64> {
        if !self.x.is_finite() || !self.y.is_finite() {
            return Ok(f64::NAN);
        }
        let overflow = || Error::invalid("22003", "value out of range: overflow");
        if !self.xy.is_finite() {
            return Err(overflow());
        }
        let mut spread = ExactFloat::default();
        for part in self.xy.components()? {
            spread.add_product(part, self.n as f64, 1);
        }
        for x in self.x.components()? {
            for y in self.y.components()? {
                spread.add_product(x, y, -1);
            }
        }
        if !spread.is_finite() {
            return Err(overflow());
        }
        spread.value()
    }
}

fn negated(limbs: &[u64; LIMBS]) -> [u64; LIMBS] {
    let mut out = limbs.map(|limb| !limb);
    for limb in &mut out {
        let (sum, over) = limb.overflowing_add(1);
        *limb = sum;
        if !over {
            break;
        }
    }
    out
}

/// The double nearest to a non-negative number.
fn rounded(limbs: &[u64; LIMBS]) -> f64 {
    let Some(top) = limbs.iter().rposition(|l| *l != 0) else { return 0.0 };
    let high_bit = top * 64 + 63 - limbs[top].leading_zeros() as usize;
    let low_bit = (high_bit + 1).saturating_sub(MANTISSA_BITS);
    let bit = |i: usize| limbs[i / 64] >> (i % 64) & 1;
    let mut mantissa = (low_bit..=high_bit).rev().fold(0u64, |m, i| m << 1 | bit(i));
    if low_bit > 0 && bit(low_bit - 1) == 1 {
        let below = low_bit - 1;
        let sticky = limbs[..below / 64].iter().any(|l| *l != 0) || limbs[below / 64] & ((1 << (below % 64)) - 1) != 0;
        if sticky || mantissa & 1 == 1 {
            mantissa += 1;
        }
    }
    // Two steps, because 2^-1074 alone is below the normal range: each product is exact or overflows.
    let exponent = low_bit as i32 + EXPONENT_MIN;
    if exponent > 971 + 1 {
        return f64::INFINITY;
    }
    let half = exponent / 2;
    mantissa as f64 * 2f64.powi(half) * 2f64.powi(exponent - half)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn sum(values: &[(f64, i64)]) -> f64 {
        let mut all = ExactFloat::default();
        values.iter().for_each(|(value, diff)| all.add(*value, *diff));
        all.value().unwrap()
    }

    #[test]
    fn one_value_is_itself() {
        let edge = [0.0, 1.0, -1.0, 0.1, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, -5e-324, 1e308, 2.5e-310];
        edge.iter().for_each(|value| assert_eq!(sum(&[(*value, 1)]), *value));
        let mut random = StdRng::seed_from_u64(3);
        for _ in 0..20_000 {
            let value = f64::from_bits(random.random());
            if value.is_finite() {
                assert_eq!(sum(&[(value, 1)]).to_bits(), (value + 0.0).to_bits(), "{value:e}");
            }
        }
    }

    #[test]
    fn small_values_survive_large_ones() {
        assert_eq!(sum(&[(1e300, 1), (1.0, 1), (-1e300, 1)]), 1.0);
        assert_eq!(sum(&[(0.1, 1), (0.2, 1), (0.3, 1), (0.1, -1), (0.2, -1)]), 0.3);
        assert_eq!(sum(&[(0.1, 10)]), 1.0);
        assert_eq!(sum(&[(1.0, 1 << 60), (-1.0, 1 << 60)]), 0.0);
    }

    #[test]
    fn two_values_round_as_the_processor_does() {
        let mut random = StdRng::seed_from_u64(4);
        for _ in 0..20_000 {
            let (a, b) = (random.random_range(-1e9..1e9), random.random_range(-1e3..1e3));
            assert_eq!(sum(&[(a, 1), (b, 1)]), a + b);
        }
    }

    #[test]
    fn specials_come_and_go() {
        assert!(sum(&[(f64::NAN, 1), (1.0, 1)]).is_nan());
        assert_eq!(sum(&[(f64::NAN, 1), (1.0, 1), (f64::NAN, -1)]), 1.0);
        assert_eq!(sum(&[(f64::INFINITY, 1), (1.0, 1)]), f64::INFINITY);
        assert!(sum(&[(f64::INFINITY, 1), (f64::NEG_INFINITY, 1)]).is_nan());
        let mut all = ExactFloat::default();
        all.add(f64::MAX, 2);
        assert!(all.value().is_err());
    }

    #[test]
    fn states_merge() {
        let mut random = StdRng::seed_from_u64(5);
        for _ in 0..500 {
            let (mut whole, mut parts) = (ExactFloat::default(), ExactFloat::default());
            for _ in 0..3 {
                let mut part = ExactFloat::default();
                for _ in 0..random.random_range(0..4) {
                    let value = random.random_range(-1.0..1.0) * 10f64.powi(random.random_range(-300..300));
                    whole.add(value, -2);
                    part.add(value, -2);
                }
                let mut state = Vec::new();
                part.encode(&mut state);
                parts.merge(&state).unwrap();
            }
            assert_eq!(whole.value().unwrap(), parts.value().unwrap());
            assert_eq!(whole.count(), parts.count());
        }
    }
}
