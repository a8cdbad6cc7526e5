//! `rank(v) WITHIN GROUP (ORDER BY x)` and its family: the place that a row would have among those of the group, counted.
//!
//! ```text
//! rank(v)          1 + count(*) FILTER (WHERE x sorts before v)
//! dense_rank(v)    1 + count(DISTINCT x) FILTER (WHERE x sorts before v)
//! percent_rank(v)  (rank - 1) / count(*), 0 over no rows
//! cume_dist(v)     (1 + count(*) FILTER (WHERE x does not sort behind v)) / (1 + count(*))
//! ```

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator, when};
use sqlparser::ast;
use storage::SqlType;

use super::literal::{boolean, literal};
use super::names::Clause;
use super::{Binder, Typed, at};
use crate::error::{Error, Result};

/// Whether a call is one of these: their names are those of window functions.
pub(super) fn is_hypothetical(name: &str, call: &ast::Function) -> bool {
    matches!(name, "rank" | "dense_rank" | "percent_rank" | "cume_dist") && !call.within_group.is_empty()
}

/// The value of a sorted column, the hypothetical row's, and how they are sorted.
struct Key {
    value: Typed,
    given: Typed,
    descending: bool,
    nulls_first: bool,
}

impl Binder<'_> {
    pub(super) fn hypothetical(&mut self, call: &ast::Function, name: &str, place: Option<usize>) -> Result<Typed> {
        if call.over.is_some() {
            let message = format!("OVER is not supported for hypothetical-set aggregate {name}");
            return Err(at(Error::unsupported(message), place));
        }
        let refuse = |what: &str| at(Error::new("42601", format!("cannot use {what} with WITHIN GROUP")), place);
        let given = self.within(Clause::AggregateArgument, |b| b.call_arguments(call, &refuse))?;
        let mut sorted = vec![];
        for by in &call.within_group {
            let value = self.within(Clause::AggregateArgument, |b| b.expr(&by.expr))?;
            let descending = by.options.asc == Some(false);
            sorted.push((self.settle(value)?, descending, by.options.nulls_first.unwrap_or(descending)));
        }
        if given.len() != sorted.len() {
            let types = given.iter().chain(sorted.iter().map(|s| &s.0)).map(|t| crate::types::name(&t.ty));
            let types = types.collect::<Vec<_>>().join(", ");
            let error = Error::new("42883", format!("function {name}({types}) does not exist"));
            let hint = format!(
                "To use the hypothetical-set aggregate {name}, the number of hypothetical direct arguments (here {}) must \
                 match the number of ordering columns (here {}).",
                given.len(),
                sorted.len()
            );
            return Err(at(error.with_hint(hint), place));
        }
        let mut keys = vec![];
        for (given, (value, descending, nulls_first)) in given.into_iter().zip(sorted) {
            if given.expr.any_column_refs() {
                let error = Error::unsupported(format!("the direct arguments of {name} must be constants"));
                return Err(at(error, given.position).with_hint("Count the rows that sort before with FILTER."));
            }
            let (ty, _) = self.unify(&[value.clone(), given.clone()], "WITHIN GROUP")?;
            let value = Typed::new(self.implicit(value, &ty)?, ty.clone());
            let given = Typed::new(self.implicit(given, &ty)?, ty);
            keys.push(Key { value, given, descending, nulls_first });
        }
        let filter = match &call.filter {
            Some(e) => Some(self.within(Clause::AggregateFilter, |b| b.condition(e, "FILTER"))?),
            None => None,
        };
        let level =
            self.level_of(keys.iter().map(|key| &key.value.expr).chain(&filter), "aggregate functions", place)?;
        let which = |condition: Option<Expr>| match (condition, filter.clone()) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b),
        };
        let bigint = |expr: Expr| Typed::new(expr, SqlType::BigInt);
        let one = || bigint(literal(ScalarValue::Int64(Some(1))));
        let (before, equal) = self.sorts_before(&keys)?;
        let value = match name {
            "rank" => {
                let n = self.counted(which(Some(before)), None, level)?;
                self.operator("+", vec![bigint(n), one()], place)?
            }
            "dense_rank" => {
                // As an array of them: NULLs count, and several columns are one value.
                let values = keys.iter().map(|key| key.value.clone()).collect();
                let row = self.function("jsonb_build_array", values, place)?;
                let row = Self::key_of(&SqlType::Jsonb, row.expr);
                let n = self.counted(which(Some(before)), Some(row), level)?;
                self.operator("+", vec![bigint(n), one()], place)?
            }
            "percent_rank" => {
                let n = self.counted(which(Some(before)), None, level)?;
                let all = self.counted(which(None), None, level)?;
                let share = self.share(bigint(n), bigint(all.clone()), place)?;
                let zero = literal(ScalarValue::Float64(Some(0.0)));
                let none = all.eq(literal(ScalarValue::Int64(Some(0))));
                Typed::new(when(none, zero).otherwise(share.expr)?, SqlType::Double)
            }
            _ => {
                let n = self.counted(which(Some(before.or(equal))), None, level)?;
                let all = self.counted(which(None), None, level)?;
                let n = self.operator("+", vec![bigint(n), one()], place)?;
                let all = self.operator("+", vec![bigint(all), one()], place)?;
                self.share(n, all, place)?
            }
        };
        Ok(value.at(place))
    }

    fn share(&mut self, part: Typed, all: Typed, place: Option<usize>) -> Result<Typed> {
        let part = self.implicit(part, &SqlType::Double)?;
        let all = self.implicit(all, &SqlType::Double)?;
        self.operator("/", vec![Typed::new(part, SqlType::Double), Typed::new(all, SqlType::Double)], place)
    }

    /// Whether a row sorts before the hypothetical one, and whether beside it.
    fn sorts_before(&mut self, keys: &[Key]) -> Result<(Expr, Expr)> {
        let (mut before, mut equal) = (boolean(false), boolean(true));
        for key in keys.iter().rev() {
            let op = if key.descending { Operator::Gt } else { Operator::Lt };
            let first = self.compare(op, key.value.clone(), key.given.clone(), None)?;
            let same = self.compare(Operator::IsNotDistinctFrom, key.value.clone(), key.given.clone(), None)?;
            let (value_null, given_null) = (key.value.expr.clone().is_null(), key.given.expr.clone().is_null());
            let by_null = match key.nulls_first {
                true => value_null.clone().and(given_null.clone().is_false()),
                false => value_null.clone().is_false().and(given_null.clone()),
            };
            let first = when(value_null.or(given_null), by_null).otherwise(first)?;
            before = first.or(same.clone().and(before));
            equal = same.and(equal);
        }
        Ok((before, equal))
    }
}
