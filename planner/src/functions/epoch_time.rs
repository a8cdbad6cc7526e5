//! `now()` of a view: the time of an epoch. It stands in plans only until a rule has made temporal filters of it.

use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use storage::SqlType;

/// The time of the epoch, as timestamptz.
pub fn epoch_time() -> Expr {
    let function = ScalarUDF::new_from_impl(EpochTime { signature: Signature::nullary(Volatility::Stable) });
    Expr::ScalarFunction(ScalarFunction::new_udf(function.into(), vec![]))
}

/// Whether this is the time of the epoch.
pub fn is_epoch_time(e: &Expr) -> bool {
    matches!(e, Expr::ScalarFunction(call) if call.func.inner().downcast_ref::<EpochTime>().is_some())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct EpochTime {
    signature: Signature,
}

impl ScalarUDFImpl for EpochTime {
    fn name(&self) -> &str {
        "now"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _args: &[DataType]) -> Result<DataType> {
        Ok(SqlType::TimestampTz.arrow())
    }
    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        datafusion::common::internal_err!("the time of an epoch is known to temporal filters only")
    }
}
