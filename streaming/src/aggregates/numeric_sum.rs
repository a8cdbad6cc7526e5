//! The exact sum of numerics: an integer per number of decimal places.
//!
//! The display scale of a sum is the largest of its inputs, so how many inputs have which scale is known too: after a
//! retraction both value and scale are as if the row had never been there.

use arrow::datatypes::i256;
use storage::numeric::{Numeric, NumericError, wide};

use super::bytes;
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug)]
struct Place {
    scale: u8,
    point: i32,
    count: i64,
    mantissa: i256,
}

/// A sum of numerics and how many there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct NumericSum {
    /// By display scale and decimal point; one entry as a rule.
    places: Vec<Place>,
    nans: i64,
    infinities: i64,
    negative_infinities: i64,
}

impl NumericSum {
    pub(crate) fn add(&mut self, value: &Numeric, diff: i64) {
        if value.is_nan() {
            self.nans += diff;
        } else if value.is_infinite() {
            let count = if value.is_negative() { &mut self.negative_infinities } else { &mut self.infinities };
            *count += diff;
        } else {
            let (mantissa, point) = value.parts();
            let amount = i256::from_i128(mantissa).wrapping_mul(i256::from_i128(i128::from(diff)));
            self.add_place(Place { scale: value.scale(), point, count: diff, mantissa: amount });
        }
    }

    /// Adds the square of a value, which may be wider than a numeric.
    pub(crate) fn add_square(&mut self, value: &Numeric, diff: i64) {
        if !value.is_finite() {
            return self.add(&value.abs(), diff);
        }
        let (mantissa, point) = value.parts();
        let wide = i256::from_i128(mantissa);
        let amount = wide.wrapping_mul(wide).wrapping_mul(i256::from_i128(i128::from(diff)));
        self.add_place(Place {
            scale: value.scale().saturating_mul(2),
            point: point * 2,
            count: diff,
            mantissa: amount,
        });
    }

    /// The sum of what is finite as `mantissa * 10^-point`, and the largest display scale.
    fn total(&self) -> Result<(i256, i32, i32), NumericError> {
        let point = self.places.iter().map(|p| p.point).max().unwrap_or(0);
        let scale = self.places.iter().map(|p| i32::from(p.scale)).max().unwrap_or(0);
        let mut total = i256::ZERO;
        for place in &self.places {
            let part = wide::scaled(place.mantissa, point - place.point)?;
            total = total.checked_add(part).ok_or(NumericError::Overflow)?;
        }
        Ok((total, point, scale))
    }

    fn add_place(&mut self, new: Place) {
        match self.places.iter().position(|p| (p.scale, p.point) == (new.scale, new.point)) {
            Some(i) => {
                let place = &mut self.places[i];
                place.count += new.count;
                place.mantissa = place.mantissa.wrapping_add(new.mantissa);
                if place.count == 0 && place.mantissa == i256::ZERO {
                    self.places.swap_remove(i);
                }
            }
            None => self.places.push(new),
        }
    }

    /// How many values, NaNs and infinities included.
    pub(crate) fn count(&self) -> i64 {
        self.places.iter().map(|p| p.count).sum::<i64>() + self.nans + self.infinities + self.negative_infinities
    }

    /// The sum.
    ///
    /// # Errors
    /// `Invalid` if it needs more digits than a numeric keeps.
    pub(crate) fn value(&self) -> Result<Numeric> {
        if self.nans > 0 || self.infinities > 0 && self.negative_infinities > 0 {
            return Ok(Numeric::NAN);
        }
        if self.infinities > 0 {
            return Ok(Numeric::INFINITY);
        }
        if self.negative_infinities > 0 {
            return Ok(Numeric::NEGATIVE_INFINITY);
        }
        let mut sum = Numeric::ZERO;
        for place in &self.places {
            let part = Numeric::from_parts(place.mantissa, place.point, place.scale).map_err(out_of_range)?;
            sum = sum.add(&part).map_err(out_of_range)?;
        }
        Ok(sum)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for n in [self.nans, self.infinities, self.negative_infinities] {
            out.extend(n.to_le_bytes());
        }
        for place in &self.places {
            out.push(place.scale);
            out.extend(place.point.to_le_bytes());
            out.extend(place.count.to_le_bytes());
            out.extend(place.mantissa.to_le_bytes());
        }
    }

    pub(crate) fn merge(&mut self, mut state: &[u8]) -> Result<()> {
        for n in [&mut self.nans, &mut self.infinities, &mut self.negative_infinities] {
            *n += bytes::take_i64(&mut state)?;
        }
        while !state.is_empty() {
            let scale = bytes::take(&mut state, 1)?[0];
            let point = i32::from_le_bytes(bytes::take(&mut state, 4)?.try_into().expect("four bytes"));
            let count = bytes::take_i64(&mut state)?;
            let mantissa = i256::from_le_bytes(bytes::take(&mut state, 32)?.try_into().expect("32 bytes"));
            self.add_place(Place { scale, point, count, mantissa });
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.places.capacity() * size_of::<Place>()
    }
}

/// The variance, or its square root, of values of which there is at least one (two for a sample).
pub(super) fn variance(
    values: &NumericSum,
    squares: &NumericSum,
    sample: bool,
    root: bool,
) -> Result<Numeric, NumericError> {
    if values.nans > 0 || values.infinities > 0 || values.negative_infinities > 0 {
        return Ok(Numeric::NAN);
    }
    let ((sum, point, scale), (squared, square_point, _)) = (values.total()?, squares.total()?);
    let common = point.max((square_point + 1).div_euclid(2));
    let sum = wide::scaled(sum, common - point)?;
    let squared = wide::scaled(squared, 2 * common - square_point)?;
    let n = values.count();
    let count = i256::from_i128(i128::from(n));
    let spread = (|| count.checked_mul(squared)?.checked_sub(sum.checked_mul(sum)?))().ok_or(NumericError::Overflow)?;
    if spread <= i256::ZERO {
        return Ok(Numeric::ZERO);
    }
    let divisor = i128::from(n) * i128::from(if sample { n - 1 } else { n });
    wide::quotient(spread, 2 * common, 2 * scale, i256::from_i128(divisor), root)
}

/// An error of a numeric as the engine says it.
pub(crate) fn out_of_range(error: storage::numeric::NumericError) -> Error {
    Error::invalid(error.sqlstate(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[(&str, i64)]) -> String {
        let mut all = NumericSum::default();
        values.iter().for_each(|(value, diff)| all.add(&Numeric::parse(value).unwrap(), *diff));
        let mut state = Vec::new();
        all.encode(&mut state);
        let mut copy = NumericSum::default();
        copy.merge(&state).unwrap();
        assert_eq!(copy.count(), all.count());
        copy.value().unwrap().to_string()
    }

    #[test]
    fn scale_and_value_follow_the_rows_that_are_there() {
        assert_eq!(sum(&[("1.5", 1), ("2.25", 1)]), "3.75");
        assert_eq!(sum(&[("1.5", 1), ("2.25", 1), ("2.25", -1)]), "1.5");
        assert_eq!(sum(&[("1.00", 1), ("1.0", -1), ("1.0", 1)]), "1.00");
        assert_eq!(sum(&[("0.1", 3)]), "0.3");
        assert_eq!(sum(&[]), "0");
    }

    #[test]
    fn large_values_do_not_stick() {
        let large = "99999999999999999999999999999999999999";
        assert_eq!(sum(&[(large, 5), ("1", 1), (large, -5)]), "1");
        assert_eq!(sum(&[("NaN", 1), ("1", 1), ("NaN", -1)]), "1");
        assert_eq!(sum(&[("Infinity", 1), ("-Infinity", 1)]), "NaN");
    }
}
