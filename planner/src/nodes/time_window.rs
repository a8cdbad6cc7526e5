//! TUMBLE, HOP and CUMULATE: the input's columns, and the start and the end of each window that a row lies in.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::ListArray;
use arrow::buffer::OffsetBuffer;
use arrow_schema::{DataType, Field};
use datafusion::common::{Column, DFSchema, DFSchemaRef, ExprSchema, Result as DfResult};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    UserDefinedLogicalNodeCore, Volatility,
};
use streaming::operators::time_window::{self, Windows};

use super::{extension, last_names, node_of};
use crate::expr::unnested;

/// The input's columns, and the start and the end of each window that `time` falls into. Rows without a time are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimeWindow {
    /// The rows.
    pub input: LogicalPlan,
    /// The column with the event time: timestamp or timestamptz; or with the row's number: bigint.
    pub time: Column,
    /// The windows.
    pub windows: Windows,
    schema: DFSchemaRef,
}

impl TimeWindow {
    /// The window table function as a plan. `names` are the unique names of the two new columns.
    pub fn plan(input: LogicalPlan, time: Column, windows: Windows, names: [&str; 2]) -> DfResult<LogicalPlan> {
        let time_field = input.schema().field_from_column(&time)?;
        let added = names.map(|name| (None, Arc::new(time_field.as_ref().clone().with_name(name).with_nullable(true))));
        let fields = input.schema().iter().map(|(q, f)| (q.cloned(), f.clone())).chain(added).collect();
        let schema = Arc::new(DFSchema::new_with_metadata(fields, Default::default())?);
        Ok(extension(TimeWindow { input, time, windows, schema }))
    }

    /// The same for reads: the rows with a time, two lists of bounds, and a row for each of their elements.
    pub fn to_unnest(&self) -> DfResult<LogicalPlan> {
        let time = Expr::Column(self.time.clone());
        let n = self.schema.fields().len();
        let bounds = [false, true].map(|end| {
            let name = self.schema.field(n - 2 + usize::from(end)).name();
            let function = ScalarUDF::new_from_impl(WindowBounds::new(self.windows, end));
            (name.clone(), function.call(vec![time.clone()]))
        });
        let input = LogicalPlanBuilder::from(self.input.clone()).filter(time.is_not_null())?.build()?;
        unnested(input, bounds.to_vec(), false)
    }
}

/// The starts or the ends of the windows that a time falls into.
#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowBounds {
    windows: Windows,
    end: bool,
    signature: Signature,
}

impl WindowBounds {
    fn new(windows: Windows, end: bool) -> WindowBounds {
        WindowBounds { windows, end, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WindowBounds {
    fn name(&self) -> &str {
        if self.end { "window_ends" } else { "window_starts" }
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::new_list(args[0].clone(), true))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let times = args.args[0].to_array(args.number_rows)?;
        let (mut bounds, mut lengths) = (Vec::new(), Vec::new());
        for time in &time_window::integers(&times) {
            let before = bounds.len();
            if let Some(time) = time {
                self.windows.of(time, |start, end| bounds.push(if self.end { end } else { start }));
            }
            lengths.push(bounds.len() - before);
        }
        let field = Arc::new(Field::new_list_field(times.data_type().clone(), true));
        let bounds = time_window::times(bounds, times.data_type());
        let lists = ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), bounds, None)?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

impl UserDefinedLogicalNodeCore for TimeWindow {
    fn name(&self) -> &str {
        "TimeWindow"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.time.clone())]
    }
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        last_names(&self.schema, 2)
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TimeWindow: {} {:?}", self.time, self.windows)
    }
    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let Some(Expr::Column(time)) = exprs.into_iter().next() else {
            return datafusion::common::internal_err!("the time of a window is a column");
        };
        let n = self.schema.fields().len();
        let names = [self.schema.field(n - 2).name().as_str(), self.schema.field(n - 1).name().as_str()];
        let plan = TimeWindow::plan(inputs.swap_remove(0), time, self.windows, names)?;
        node_of::<TimeWindow>(&plan).cloned().ok_or_else(|| unreachable!())
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let n = self.input.schema().fields().len();
        Some(vec![output_columns.iter().copied().filter(|&i| i < n).collect()])
    }
}

// Nodes have no order among each other; DataFusion asks for one.
impl PartialOrd for TimeWindow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}
