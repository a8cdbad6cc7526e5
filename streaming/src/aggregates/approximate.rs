//! `approx_count_distinct(x)` and `approx_percentile(fraction [, error]) WITHIN GROUP (ORDER BY x)`.
//!
//! Both are sketches made of counts, so they take retractions exactly: what they say depends on the rows that are there
//! only. State is bounded whatever the number of rows.
//!
//! - The number of different values: a HyperLogLog of 4096 registers that counts, per register, how many rows have which
//!   rank. Standard error 1.04 / sqrt(4096) = 1.6 %.
//! - A percentile: buckets of doubles that grow by `(1 + error) / (1 - error)` (a DDSketch). The relative error is the
//!   one that was asked for, 1 % unless said otherwise.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Float64Type;
use datafusion::common::ScalarValue;
use storage::keys;

use super::distinct::identities;
use super::{Accumulator, Input, Multiset};
use crate::byte_table::hash_bytes;
use crate::error::{Error, Result};

const REGISTER_BITS: u32 = 12;
const REGISTERS: usize = 1 << REGISTER_BITS;

/// Register (2 bytes) and rank (1 byte) -> how many rows.
#[derive(Default)]
pub(super) struct CountDistinct {
    values: Multiset,
}

impl Accumulator for CountDistinct {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        let keys = keys::encode(&identities(&args[..1])?, &[])?;
        Ok(Input { args: args.to_vec(), keys: Some(keys), inner: None })
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if input.is_null(row) {
            return;
        }
        let hash = hash_bytes(input.key(row));
        let register = (hash >> (64 - REGISTER_BITS)) as u16;
        let rank = ((hash << REGISTER_BITS | 1 << (REGISTER_BITS - 1)).leading_zeros() + 1) as u8;
        let [high, low] = register.to_be_bytes();
        self.values.add(&[high, low, rank], diff);
    }

    fn value(&self) -> Result<ScalarValue> {
        let mut ranks = vec![0u8; REGISTERS];
        for (key, count) in self.values.iter() {
            // Ranks of a register ascend: the last one present is the largest.
            if let (true, [high, low, rank]) = (count > 0, key) {
                ranks[usize::from(u16::from_be_bytes([*high, *low]))] = *rank;
            }
        }
        let m = REGISTERS as f64;
        let harmonic: f64 = ranks.iter().map(|rank| 0.5_f64.powi(i32::from(*rank))).sum();
        let estimate = 0.7213 / (1.0 + 1.079 / m) * m * m / harmonic;
        let empty = ranks.iter().filter(|rank| **rank == 0).count();
        // Small numbers are better told by how many registers are empty.
        let estimate = if estimate <= 2.5 * m && empty > 0 { m * (m / empty as f64).ln() } else { estimate };
        Ok(ScalarValue::Int64(Some(estimate.round() as i64)))
    }

    fn encode(&self, _out: &mut Vec<u8>) {}

    fn merge(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn multiset(&mut self) -> Option<&mut Multiset> {
        Some(&mut self.values)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.values.bytes()
    }
}

/// Bucket (8 bytes, order-preserving), fraction and error (8 bytes each) -> how many rows.
#[derive(Default)]
pub(super) struct Percentile {
    values: Multiset,
}

/// Values nearer to zero than this are zero.
const SMALLEST: f64 = 1e-300;

/// Buckets of negative numbers are below zero, of positive ones above.
fn bucket(value: f64, gamma: f64) -> i64 {
    const OFFSET: i64 = 1 << 40;
    let index = |magnitude: f64| (magnitude.ln() / gamma.ln()).ceil() as i64 + OFFSET;
    match value {
        v if v.is_nan() => i64::MAX,
        f64::INFINITY => i64::MAX - 1,
        f64::NEG_INFINITY => i64::MIN,
        v if v.abs() < SMALLEST => 0,
        v if v > 0.0 => index(v),
        v => -index(-v),
    }
}

fn bucket_value(bucket: i64, gamma: f64) -> f64 {
    const OFFSET: i64 = 1 << 40;
    let magnitude = |index: i64| 2.0 * gamma.powf((index - OFFSET) as f64) / (gamma + 1.0);
    match bucket {
        i64::MAX => f64::NAN,
        b if b == i64::MAX - 1 => f64::INFINITY,
        i64::MIN => f64::NEG_INFINITY,
        0 => 0.0,
        b if b > 0 => magnitude(b),
        b => -magnitude(-b),
    }
}

fn gamma(error: f64) -> f64 {
    (1.0 + error) / (1.0 - error)
}

impl Accumulator for Percentile {
    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        let [value, fraction, error] = [0, 1, 2].map(|i| input.args[i].as_primitive::<Float64Type>());
        if value.is_null(row) {
            return;
        }
        let fraction = if fraction.is_null(row) { f64::NAN } else { fraction.value(row) };
        let error = if error.is_null(row) { f64::NAN } else { error.value(row) };
        let bucket = if error > 0.0 && error < 1.0 { bucket(value.value(row), gamma(error)) } else { 0 };
        let mut key = [0; 24];
        key[..8].copy_from_slice(&((bucket as u64) ^ (1 << 63)).to_be_bytes());
        key[8..16].copy_from_slice(&fraction.to_bits().to_be_bytes());
        key[16..].copy_from_slice(&error.to_bits().to_be_bytes());
        self.values.add(&key, diff);
    }

    fn value(&self) -> Result<ScalarValue> {
        let present = || self.values.iter().filter(|(_, count)| *count > 0);
        let n: i64 = present().map(|(_, count)| count).sum();
        let word = |key: &[u8], at: usize| u64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes"));
        let Some((last, _)) = present().next_back() else { return Ok(ScalarValue::Float64(None)) };
        let (fraction, error) = (f64::from_bits(word(last, 8)), f64::from_bits(word(last, 16)));
        if fraction.is_nan() {
            return Ok(ScalarValue::Float64(None));
        }
        if !(0.0..=1.0).contains(&fraction) {
            let message = format!("percentile value {fraction} is not between 0 and 1");
            return Err(Error::invalid("22003", message));
        }
        if !(error > 0.0 && error < 1.0) {
            return Err(Error::invalid("22003", "the relative error of approx_percentile must be between 0 and 1"));
        }
        let rank = ((fraction * n as f64).ceil() as i64).max(1);
        let mut seen = 0;
        let bucket = present().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        let (key, _) = bucket.unwrap_or((last, 0));
        let bucket = (word(key, 0) ^ (1 << 63)) as i64;
        Ok(ScalarValue::Float64(Some(bucket_value(bucket, gamma(error)))))
    }

    fn encode(&self, _out: &mut Vec<u8>) {}

    fn merge(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn multiset(&mut self) -> Option<&mut Multiset> {
        Some(&mut self.values)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.values.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array};

    use super::*;

    #[test]
    fn different_values_are_counted_within_the_error() {
        for n in [0_i64, 1, 100, 5_000, 60_000] {
            let mut sketch = CountDistinct::default();
            let values: ArrayRef = Arc::new(Int64Array::from_iter_values((0..n).chain(0..n)));
            sketch.apply_all(&[values], 2 * n as usize, None).unwrap();
            let ScalarValue::Int64(Some(estimate)) = sketch.value().unwrap() else { panic!("a bigint") };
            assert!((estimate - n).abs() as f64 <= 0.05 * n as f64, "{estimate} of {n}");
            // What is gone leaves nothing.
            let extra: ArrayRef = Arc::new(Int64Array::from_iter_values(n..n + 500));
            sketch.apply_all(&[extra.clone()], 500, None).unwrap();
            sketch.apply_all(&[extra], 500, Some(&Int64Array::from(vec![-1; 500]))).unwrap();
            assert_eq!(sketch.value().unwrap(), ScalarValue::Int64(Some(estimate)));
        }
    }

    #[test]
    fn percentiles_are_within_the_error() {
        let n = 10_001;
        let values: Vec<f64> = (0..n).map(|i| (f64::from(i) - 3000.0) * 1.7).collect();
        for (fraction, error) in [(0.0, 0.01), (0.25, 0.01), (0.5, 0.001), (0.99, 0.05), (1.0, 0.01)] {
            let mut sketch = Percentile::default();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Float64Array::from(values.clone())),
                Arc::new(Float64Array::from(vec![fraction; values.len()])),
                Arc::new(Float64Array::from(vec![error; values.len()])),
            ];
            sketch.apply_all(&columns, values.len(), None).unwrap();
            let ScalarValue::Float64(Some(said)) = sketch.value().unwrap() else { panic!("a double") };
            let exact = values[((fraction * f64::from(n)).ceil() as usize).max(1) - 1];
            assert!((said - exact).abs() <= error * exact.abs() + 1e-9, "{said} for {exact} at {fraction}");
        }
    }
}
