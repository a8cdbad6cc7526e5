//! INTERSECT and EXCEPT as a node.

use std::cmp::Ordering;
use std::fmt;

use datafusion::common::{DFSchemaRef, JoinType, NullEquality, Result as DfResult};
use datafusion::logical_expr::{
    Expr, Join, JoinConstraint, LogicalPlan, LogicalPlanBuilder, SortExpr, UserDefinedLogicalNodeCore, lit,
};

use super::pairs::paired;
use crate::expr::column;
use crate::functions::window::row_number;

/// Rows of the left side, as often as the right one lets them be there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetOperation {
    /// The rows.
    pub left: LogicalPlan,
    /// What they are compared with.
    pub right: LogicalPlan,
    /// INTERSECT, or else EXCEPT.
    pub intersect: bool,
    /// Whether equal rows count.
    pub all: bool,
    /// What rows are compared by, over each side.
    pub keys: Vec<(Expr, Expr)>,
    /// Over the left side: of equal rows that look different, the first ones by this come out.
    pub order: Vec<Expr>,
    /// Names that are unique in the statement, for reads.
    pub names: [String; 2],
}

impl SetOperation {
    /// The node as a plan.
    pub fn plan(self) -> LogicalPlan {
        super::extension(self)
    }

    /// The same for reads: equal rows are numbered on both sides, and those of the same number meet.
    pub fn to_join(&self) -> DfResult<LogicalPlan> {
        let outputs: Vec<Expr> = self.left.schema().columns().into_iter().map(Expr::Column).collect();
        let (left_keys, right_keys): (Vec<Expr>, Vec<Expr>) = self.keys.iter().cloned().unzip();
        let mut on = self.keys.clone();
        let [left_number, right_number] = &self.names;
        // Of EXCEPT ALL those remain whose number the other side has not: the first ones are numbered last.
        let ascending = self.intersect || !self.all;
        let order = self.order.iter().map(|e| SortExpr::new(e.clone(), ascending, !ascending)).collect();
        let numbered = row_number(left_keys, order).alias(left_number);
        let left = LogicalPlanBuilder::from(self.left.clone());
        let mut right = LogicalPlanBuilder::from(self.right.clone());
        let left = match (self.all, self.order.is_empty()) {
            (true, _) => {
                right = right.window(vec![row_number(right_keys, vec![]).alias(right_number)])?;
                on.push((column(left_number), column(right_number)));
                left.window(vec![numbered])?
            }
            (false, true) => left.distinct()?,
            (false, false) => left.window(vec![numbered])?.filter(column(left_number).eq(lit(1_u64)))?,
        };
        let join = Join::try_new(
            left.build()?.into(),
            right.build()?.into(),
            on,
            None,
            if self.intersect { JoinType::LeftSemi } else { JoinType::LeftAnti },
            JoinConstraint::On,
            NullEquality::NullEqualsNull,
            false,
        )?;
        LogicalPlanBuilder::from(LogicalPlan::Join(join)).project(outputs)?.build()
    }
}

impl UserDefinedLogicalNodeCore for SetOperation {
    fn name(&self) -> &str {
        "SetOperation"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }
    fn schema(&self) -> &DFSchemaRef {
        self.left.schema()
    }
    fn expressions(&self) -> Vec<Expr> {
        let keys = self.keys.iter().flat_map(|(l, r)| [l.clone(), r.clone()]);
        keys.chain(self.order.iter().cloned()).collect()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", if self.intersect { "Intersect" } else { "Except" }, if self.all { " all" } else { "" })
    }
    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let order = exprs.split_off(2 * self.keys.len());
        let (Some(right), Some(left)) = (inputs.pop(), inputs.pop()) else {
            return datafusion::common::internal_err!("a set operation has two inputs");
        };
        Ok(SetOperation { left, right, keys: paired(exprs), order, ..self.clone() })
    }
    // Every column tells rows apart.
    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(self.inputs().into_iter().map(|input| (0..input.schema().fields().len()).collect()).collect())
    }
}

impl PartialOrd for SetOperation {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.left.partial_cmp(&other.left)
    }
}
