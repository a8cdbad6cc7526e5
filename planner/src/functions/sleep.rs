//! `pg_sleep`: the one function that waits. DataFusion awaits it, so no thread is held meanwhile, and a read that is
//! dropped (a cancel request, a timeout, a client that left) stops it.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, StringViewArray};
use arrow::datatypes::{DataType, Float64Type};
use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use storage::SqlType;

use super::{Body, Definition, Param};
use crate::types::error;

/// What Postgres, too, takes for "for ever".
const SECONDS_MAX: f64 = 1e9;

pub fn functions() -> Vec<Definition> {
    let body = Body::Own(|| {
        let signature = Signature::exact(vec![DataType::Float64], Volatility::Volatile);
        Arc::new(AsyncScalarUDF::new(Arc::new(Sleep { signature })).into_scalar_udf())
    });
    vec![Definition {
        name: "pg_sleep",
        symbol: "pg_sleep",
        params: vec![Param::Type(SqlType::Double)],
        variadic: false,
        returns: Param::Type(SqlType::Void),
        strict: true,
        volatility: Volatility::Volatile,
        zoned: false,
        body,
    }]
}

/// Whether an expression calls a function that waits.
pub fn waits(function: &ScalarUDF) -> bool {
    function.as_async().is_some()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sleep {
    signature: Signature,
}

impl ScalarUDFImpl for Sleep {
    fn name(&self) -> &str {
        "pg_sleep"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(super::rows::external(error("0A000", "pg_sleep() is supported in a select list and in WHERE only")))
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Sleep {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let seconds = args.args[0].to_array(rows)?;
        // One row after the other, as Postgres does.
        for seconds in seconds.as_primitive::<Float64Type>().iter().flatten().filter(|s| *s > 0.0) {
            tokio::time::sleep(Duration::from_secs_f64(seconds.min(SECONDS_MAX))).await;
        }
        let slept = (0..rows).map(|row| seconds.is_valid(row).then_some(""));
        Ok(ColumnarValue::Array(Arc::new(slept.collect::<StringViewArray>())))
    }
}
