//! The types of `generate_series`.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::ScalarFunction;
use storage::SqlType;

use super::literal::{literal, text};
use super::{Binder, Typed, at};
use crate::error::{Error, Result};
use crate::functions::{self, series};

impl Binder<'_> {
    /// The array of a series, and the type of its elements.
    pub(super) fn series(&mut self, args: Vec<Typed>, place: Option<usize>) -> Result<(Expr, SqlType)> {
        let item = self.type_of_series(&args).ok_or_else(|| {
            let types: Vec<String> = args.iter().map(|a| crate::types::name(&a.ty)).collect();
            let message = format!("function generate_series({}) does not exist", types.join(", "));
            at(Error::new("42883", message), place).with_hint(
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            )
        })?;
        let timed = matches!(item, SqlType::Timestamp | SqlType::TimestampTz);
        let mut exprs = vec![];
        for (i, arg) in args.into_iter().enumerate() {
            let ty = if timed && i == 2 { SqlType::Interval } else { item.clone() };
            exprs.push(self.implicit(arg, &ty)?);
        }
        if exprs.len() == 2 {
            let one = Typed::new(literal(ScalarValue::Int32(Some(1))), SqlType::Int);
            exprs.push(self.implicit(one, &item)?);
        }
        if item == SqlType::TimestampTz {
            exprs.push(text(&self.settings.timezone));
        }
        let symbol = format!("{}[{}]", series::SYMBOL, crate::types::name(&item));
        let function = functions::by_symbol(&symbol)
            .ok_or_else(|| Error::new("XX000", format!("the function {symbol} is not there")))?;
        Ok((Expr::ScalarFunction(ScalarFunction::new_udf(function, exprs)), item))
    }

    /// The overload that the arguments choose.
    fn type_of_series(&self, args: &[Typed]) -> Option<SqlType> {
        if !(2..=3).contains(&args.len()) {
            return None;
        }
        let types: Vec<SqlType> = args.iter().map(|a| a.ty.clone()).collect();
        let timed = |ty: SqlType| {
            let fits = args.len() == 3 && matches!(types[2], SqlType::Interval | SqlType::Unknown);
            fits.then_some(ty)
        };
        match functions::common_type(&types[..2])? {
            SqlType::Timestamp => timed(SqlType::Timestamp),
            SqlType::TimestampTz | SqlType::Date => timed(SqlType::TimestampTz),
            _ => match functions::common_type(&types)? {
                SqlType::SmallInt | SqlType::Int => Some(SqlType::Int),
                SqlType::BigInt => Some(SqlType::BigInt),
                SqlType::Numeric => Some(SqlType::Numeric),
                SqlType::Text if types.iter().all(|t| *t == SqlType::Unknown) => Some(SqlType::Int),
                _ => None,
            },
        }
    }
}
