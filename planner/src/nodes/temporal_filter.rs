//! A condition over the time as a node of streams: rows enter and leave as it passes.

use std::cmp::Ordering;
use std::fmt;

use datafusion::common::{DFSchemaRef, Result as DfResult};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use streaming::operators::temporal_filter::Comparison;

use super::extension;

/// `value <comparison> bound`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemporalFilter {
    /// The rows.
    pub input: LogicalPlan,
    /// What is compared, over the rows.
    pub value: Expr,
    /// How.
    pub comparison: Comparison,
    /// The bound, over the time of the epoch.
    pub bound: Expr,
    /// Whether the bound never falls.
    pub rises: bool,
}

impl TemporalFilter {
    /// The node as a plan.
    pub fn plan(input: LogicalPlan, value: Expr, comparison: Comparison, bound: Expr, rises: bool) -> LogicalPlan {
        extension(TemporalFilter { input, value, comparison, bound, rises })
    }
}

impl UserDefinedLogicalNodeCore for TemporalFilter {
    fn name(&self) -> &str {
        "TemporalFilter"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }
    // The bound is no expression over the rows: nobody shall compute parts of it before.
    fn expressions(&self) -> Vec<Expr> {
        vec![self.value.clone()]
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TemporalFilter: {} {} {}", self.value, self.comparison.sign(), self.bound)
    }
    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        Ok(TemporalFilter { input: inputs.swap_remove(0), value: exprs.swap_remove(0), ..self.clone() })
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

// Nodes have no order among each other; DataFusion asks for one.
impl PartialOrd for TemporalFilter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}
