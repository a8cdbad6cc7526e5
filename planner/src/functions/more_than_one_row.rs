//! The error of a scalar subquery with several rows: plans put it where there must be one.

use arrow::array::new_empty_array;
use arrow::datatypes::DataType;
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use streaming::expr::EvalError;

/// The error of a scalar subquery with several rows, as a function of its argument's type.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct MoreThanOneRow {
    signature: Signature,
}

impl MoreThanOneRow {
    /// The function; its name in the registry is `more_than_one_row`.
    pub fn new() -> MoreThanOneRow {
        MoreThanOneRow { signature: Signature::any(1, Volatility::Volatile) }
    }
}

impl Default for MoreThanOneRow {
    fn default() -> Self {
        MoreThanOneRow::new()
    }
}

impl ScalarUDFImpl for MoreThanOneRow {
    fn name(&self) -> &str {
        "more_than_one_row"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        Ok(args[0].clone())
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        if args.number_rows == 0 {
            return Ok(ColumnarValue::Array(new_empty_array(args.return_type())));
        }
        Err(EvalError::external("21000", "more than one row returned by a subquery used as an expression"))
    }
}
