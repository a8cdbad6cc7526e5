//! The window functions: the engine's, as DataFusion calls them in reads.
//!
//! A view and its query run the same code over the same order. What a function sees besides its arguments stands behind
//! them: the columns of FILTER and of the frame's bounds, and what the partition is ordered by.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_empty_array};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    Expr, PartitionEvaluator, Signature, SortExpr, Volatility, WindowFrame, WindowFunctionDefinition, WindowUDF,
    WindowUDFImpl,
};
use storage::keys::{self, Keys, SortOption};
use streaming::expr::EvalError;
use streaming::windows::{Rows, WindowCall, evaluate};

/// A window function of one call. The positions in `call` are those of its arguments; the last ones, one per option of
/// `order`, are what the partition is ordered by.
#[derive(Clone, Debug)]
pub struct NativeWindow {
    /// The call.
    pub call: WindowCall,
    /// How each of the last arguments is sorted.
    pub order: Vec<SortOption>,
    signature: Signature,
}

impl NativeWindow {
    /// As DataFusion's function.
    pub fn function(call: WindowCall, order: Vec<SortOption>) -> Arc<WindowUDF> {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(WindowUDF::new_from_impl(NativeWindow { call, order, signature }))
    }
}

/// The engine's call behind a function that [`NativeWindow::function`] made.
pub fn native(function: &WindowUDF) -> Option<&NativeWindow> {
    function.inner().downcast_ref::<NativeWindow>()
}

/// `function(args) OVER (PARTITION BY ... ORDER BY ...)`. The frame is the function's own: DataFusion hands it whole
/// partitions.
pub(crate) fn over(
    function: Arc<WindowUDF>,
    args: Vec<Expr>,
    partition_by: Vec<Expr>,
    order_by: Vec<SortExpr>,
) -> Expr {
    let params = WindowFunctionParams {
        args,
        partition_by,
        window_frame: WindowFrame::new((!order_by.is_empty()).then_some(false)),
        order_by,
        filter: None,
        null_treatment: None,
        distinct: false,
    };
    Expr::WindowFunction(Box::new(WindowFunction { fun: WindowFunctionDefinition::WindowUDF(function), params }))
}

/// The engine's window function as DataFusion's. The positions in `call` are those of `args`; what the partition is
/// ordered by is added to them.
pub(crate) fn native_call(
    call: WindowCall,
    mut args: Vec<Expr>,
    partition_by: Vec<Expr>,
    order: Vec<(Expr, SortOption)>,
) -> Expr {
    args.extend(order.iter().map(|(key, _)| key.clone()));
    let options = order.iter().map(|(_, option)| *option).collect();
    let order_by: Vec<SortExpr> =
        order.into_iter().map(|(key, o)| SortExpr::new(key, !o.descending, o.nulls_first)).collect();
    over(NativeWindow::function(call, options), args, partition_by, order_by)
}

/// `row_number() OVER (PARTITION BY ... ORDER BY ...)`
pub(crate) fn row_number(partition_by: Vec<Expr>, order_by: Vec<SortExpr>) -> Expr {
    over(row_number_udwf(), vec![], partition_by, order_by)
}

/// The names of the functions that are window functions only.
pub fn is_window(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "row_number",
        "rank",
        "dense_rank",
        "percent_rank",
        "cume_dist",
        "ntile",
        "lag",
        "lead",
        "first_value",
        "last_value",
        "nth_value",
    ];
    NAMES.contains(&name)
}

impl PartialEq for NativeWindow {
    fn eq(&self, other: &NativeWindow) -> bool {
        (&self.call, &self.order) == (&other.call, &other.order)
    }
}

impl Eq for NativeWindow {}

impl Hash for NativeWindow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.call, &self.order).hash(state);
    }
}

impl WindowUDFImpl for NativeWindow {
    fn name(&self) -> &str {
        self.call.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn partition_evaluator(&self, _args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(self.clone()))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(args.name(), self.call.returns.clone(), true)))
    }
}

impl PartitionEvaluator for NativeWindow {
    fn evaluate_all(&mut self, values: &[ArrayRef], num_rows: usize) -> Result<ArrayRef> {
        let order = &values[values.len() - self.order.len()..];
        let failed = |e: storage::Error| DataFusionError::External(Box::new(e));
        let order = keys::encode_rows(order, &self.order, num_rows).map_err(failed)?;
        let rows = Whole { order, columns: values, num_rows };
        let option = self.order.first().copied().unwrap_or_default();
        let results = evaluate(&self.call, &rows, option, 0..num_rows).map_err(error)?;
        if results.is_empty() {
            return Ok(new_empty_array(&self.call.returns));
        }
        let values: Result<Vec<ScalarValue>> = results.into_iter().map(|value| value.map_err(error)).collect();
        ScalarValue::iter_to_array(values?)
    }
}

fn error(error: streaming::Error) -> DataFusionError {
    match error {
        streaming::Error::Invalid { sqlstate, message } => EvalError::external(sqlstate, message),
        streaming::Error::Unsupported(message) => EvalError::external("0A000", message),
        other => DataFusionError::External(Box::new(other)),
    }
}

/// A partition that a read has sorted.
struct Whole<'a> {
    order: Keys,
    columns: &'a [ArrayRef],
    num_rows: usize,
}

impl Rows for Whole<'_> {
    fn len(&self) -> usize {
        self.num_rows
    }
    fn order(&self, row: usize) -> &[u8] {
        self.order.get(row)
    }
    fn columns(&self, rows: Range<usize>) -> streaming::Result<Vec<ArrayRef>> {
        Ok(self.columns.iter().map(|column| column.slice(rows.start, rows.len())).collect())
    }
}
