//! ASOF JOIN as a node: each left row with the one right row that is nearest in time.

use std::cmp::Ordering;
use std::fmt;

use datafusion::common::{DFSchemaRef, JoinType, Result as DfResult};
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, Operator, SortExpr, UserDefinedLogicalNodeCore, binary_expr, lit,
};

use super::pairs::{needed, paired, schema_of};
use crate::expr::column;
use crate::functions::window::row_number;

/// Each left row with the last right row of its key that stands before it, or the first one behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AsofJoin {
    /// The rows that look for another.
    pub left: LogicalPlan,
    /// The rows that are found.
    pub right: LogicalPlan,
    /// What is compared how.
    pub how: Asof,
    schema: DFSchemaRef,
}

/// What an [`AsofJoin`] is made of besides its inputs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asof {
    /// Equal expressions over each side.
    pub on: Vec<(Expr, Expr)>,
    /// What is compared over each side.
    pub times: (Expr, Expr),
    /// `left <sign> right`: `>=`, `>`, `<=` or `<`.
    pub sign: Operator,
    /// Over the right side: of rows of the same time, the last one by these counts.
    pub ties: Vec<Expr>,
    /// Whether a left row without a match comes out too.
    pub outer: bool,
    /// Names that are unique in the statement, for reads.
    pub names: [String; 2],
}

impl AsofJoin {
    /// The node as a plan.
    pub fn plan(left: LogicalPlan, right: LogicalPlan, how: Asof) -> DfResult<LogicalPlan> {
        Ok(super::extension(AsofJoin::of(left, right, how)?))
    }

    fn of(left: LogicalPlan, right: LogicalPlan, how: Asof) -> DfResult<AsofJoin> {
        let schema = schema_of(&left, &right, how.outer)?;
        Ok(AsofJoin { left, right, how, schema })
    }

    /// The same for reads: a join with all that could match, of which the first by the order is kept.
    pub fn to_ranking(&self) -> DfResult<LogicalPlan> {
        let Asof { on, times, sign, ties, outer, names: [id, rank] } = &self.how;
        let left: Vec<Expr> = self.left.schema().columns().into_iter().map(Expr::Column).collect();
        let numbered = row_number(vec![], vec![]).alias(id);
        let numbered = LogicalPlanBuilder::from(self.left.clone()).window(vec![numbered])?.build()?;
        debug_assert_eq!(numbered.schema().fields().len(), left.len() + 1);
        let equal = on.iter().map(|(l, r)| l.clone().eq(r.clone()));
        let near = binary_expr(times.0.clone(), *sign, times.1.clone());
        let kind = if *outer { JoinType::Left } else { JoinType::Inner };
        let forward = matches!(sign, Operator::Lt | Operator::LtEq);
        let first = SortExpr::new(times.1.clone(), forward, false);
        let ties = ties.iter().map(|e| SortExpr::new(e.clone(), false, true));
        let order = std::iter::once(first).chain(ties).collect();
        let outputs: Vec<Expr> = self.schema.columns().into_iter().map(Expr::Column).collect();
        LogicalPlanBuilder::from(numbered)
            .join_on(self.right.clone(), kind, equal.chain([near]))?
            .window(vec![row_number(vec![column(id)], order).alias(rank)])?
            .filter(column(rank).eq(lit(1_u64)))?
            .project(outputs)?
            .build()
    }
}

impl UserDefinedLogicalNodeCore for AsofJoin {
    fn name(&self) -> &str {
        "AsofJoin"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        let (l, r) = self.how.times.clone();
        let on = self.how.on.iter().flat_map(|(l, r)| [l.clone(), r.clone()]);
        [l, r].into_iter().chain(on).chain(self.how.ties.iter().cloned()).collect()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "AsofJoin: {} {} {}", self.how.times.0, self.how.sign, self.how.times.1)
    }
    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let ties = exprs.split_off(2 + 2 * self.how.on.len());
        let on = paired(exprs.split_off(2));
        let (Some(r), Some(l)) = (exprs.pop(), exprs.pop()) else {
            return datafusion::common::internal_err!("an ASOF join compares two times");
        };
        let (Some(right), Some(left)) = (inputs.pop(), inputs.pop()) else {
            return datafusion::common::internal_err!("a join has two inputs");
        };
        AsofJoin::of(left, right, Asof { on, times: (l, r), ties, ..self.how.clone() })
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(needed(self.left.schema(), output_columns))
    }
}

impl PartialOrd for AsofJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.left.partial_cmp(&other.left)
    }
}
