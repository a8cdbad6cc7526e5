//! `corr`, `covar_pop`, `covar_samp` and the `regr_` family over pairs `(y, x)` of doubles: from the exact sums of x, y,
//! x^2, y^2 and xy, see [`super::variance`]. Pairs with a NULL do not count.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Float64Type;
use datafusion::common::ScalarValue;

use super::exact_float::{ExactFloat, Moments};
use super::{Accumulator, AggregateKind, Input, bytes};
use crate::error::Result;

pub(super) struct Regression {
    kind: AggregateKind,
    /// x, y, x^2, y^2, xy
    sums: [ExactFloat; 5],
}

impl Regression {
    pub(super) fn new(kind: AggregateKind) -> Self {
        Regression { kind, sums: Default::default() }
    }

    fn result(&self) -> Result<Option<f64>> {
        use AggregateKind::*;
        let [x, y, xx, yy, xy] = &self.sums;
        let n = x.count();
        if n < 1 || self.kind == CovarSamp && n < 2 {
            return Ok(None);
        }
        let count = n as f64;
        let sxx = || Moments { n, x, y: x, xy: xx }.spread().map(|v| v / count);
        let syy = || Moments { n, x: y, y, xy: yy }.spread().map(|v| v / count);
        let sxy = || Moments { n, x, y, xy }.spread().map(|v| v / count);
        Ok(match self.kind {
            RegrAvgx => Some(x.value()? / count),
            RegrAvgy => Some(y.value()? / count),
            RegrSxx => Some(sxx()?),
            RegrSyy => Some(syy()?),
            RegrSxy => Some(sxy()?),
            CovarPop => Some(sxy()? / count),
            CovarSamp => Some(sxy()? / (count - 1.0)),
            Corr => {
                let (sxx, syy) = (sxx()?, syy()?);
                if sxx == 0.0 || syy == 0.0 { None } else { Some(sxy()? / (sxx * syy).sqrt()) }
            }
            RegrR2 => {
                let (sxx, syy, sxy) = (sxx()?, syy()?, sxy()?);
                match (sxx == 0.0, syy == 0.0) {
                    (true, _) => None,
                    (false, true) => Some(1.0),
                    (false, false) => Some((sxy * sxy) / (sxx * syy)),
                }
            }
            RegrSlope => {
                let sxx = sxx()?;
                if sxx == 0.0 { None } else { Some(sxy()? / sxx) }
            }
            _ => {
                let sxx = sxx()?;
                if sxx == 0.0 { None } else { Some((y.value()? - x.value()? * sxy()? / sxx) / count) }
            }
        })
    }
}

impl Accumulator for Regression {
    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        let [y, x] = [0, 1].map(|i| input.args[i].as_primitive::<Float64Type>());
        if y.is_null(row) || x.is_null(row) {
            return;
        }
        let (y, x) = (y.value(row), x.value(row));
        let [sx, sy, sxx, syy, sxy] = &mut self.sums;
        sx.add(x, diff);
        sy.add(y, diff);
        sxx.add_product(x, x, diff);
        syy.add_product(y, y, diff);
        sxy.add_product(x, y, diff);
    }

    fn value(&self) -> Result<ScalarValue> {
        match self.kind {
            AggregateKind::RegrCount => Ok(ScalarValue::Int64(Some(self.sums[0].count()))),
            _ => Ok(ScalarValue::Float64(self.result()?)),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        bytes::put_parts(out, |part, out| self.sums[part].encode(out), self.sums.len());
    }

    fn merge(&mut self, mut bytes: &[u8]) -> Result<()> {
        for sum in &mut self.sums {
            sum.merge(bytes::take_part(&mut bytes)?)?;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.sums.iter().map(ExactFloat::bytes).sum::<usize>()
    }
}
