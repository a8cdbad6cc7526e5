//! The temporal join in processing time as a node: each left row, once, with what the right side holds when it comes.

use std::cmp::Ordering;
use std::fmt;

use datafusion::common::{DFSchemaRef, JoinType, Result as DfResult};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore};

use super::pairs::{needed, paired, schema_of};

/// `left JOIN right FOR SYSTEM_TIME AS OF PROCTIME() ON ...`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemporalJoin {
    /// The rows that are joined once.
    pub left: LogicalPlan,
    /// What they are joined with.
    pub right: LogicalPlan,
    /// Equal expressions over each side.
    pub on: Vec<(Expr, Expr)>,
    /// Further conditions over both sides.
    pub conditions: Vec<Expr>,
    /// Whether a left row without a match comes out too.
    pub outer: bool,
    schema: DFSchemaRef,
}

impl TemporalJoin {
    /// The node as a plan.
    pub fn plan(
        left: LogicalPlan,
        right: LogicalPlan,
        on: Vec<(Expr, Expr)>,
        conditions: Vec<Expr>,
        outer: bool,
    ) -> DfResult<LogicalPlan> {
        Ok(super::extension(TemporalJoin::of(left, right, on, conditions, outer)?))
    }

    fn of(
        left: LogicalPlan,
        right: LogicalPlan,
        on: Vec<(Expr, Expr)>,
        conditions: Vec<Expr>,
        outer: bool,
    ) -> DfResult<TemporalJoin> {
        let schema = schema_of(&left, &right, outer)?;
        Ok(TemporalJoin { left, right, on, conditions, outer, schema })
    }

    /// The same for reads: a join with what is there now.
    pub fn to_join(&self) -> DfResult<LogicalPlan> {
        let kind = if self.outer { JoinType::Left } else { JoinType::Inner };
        let equal = self.on.iter().map(|(l, r)| l.clone().eq(r.clone()));
        let on = equal.chain(self.conditions.iter().cloned());
        LogicalPlanBuilder::from(self.left.clone()).join_on(self.right.clone(), kind, on)?.build()
    }
}

impl UserDefinedLogicalNodeCore for TemporalJoin {
    fn name(&self) -> &str {
        "TemporalJoin"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        let on = self.on.iter().flat_map(|(l, r)| [l.clone(), r.clone()]);
        on.chain(self.conditions.iter().cloned()).collect()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TemporalJoin")
    }
    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let conditions = exprs.split_off(2 * self.on.len());
        let (Some(right), Some(left)) = (inputs.pop(), inputs.pop()) else {
            return datafusion::common::internal_err!("a join has two inputs");
        };
        TemporalJoin::of(left, right, paired(exprs), conditions, self.outer)
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(needed(self.left.schema(), output_columns))
    }
}

impl PartialOrd for TemporalJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.left.partial_cmp(&other.left)
    }
}
