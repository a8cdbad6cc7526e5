//! The plan nodes that DataFusion does not have: time windows, a scalar subquery's single row, a top-n, and the joins
//! and set operations that are operators of their own.

mod asof;
mod pairs;
mod set_operation;
mod temporal;
mod temporal_filter;
mod time_window;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DFSchemaRef, Result as DfResult};
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, LogicalPlanBuilder, SortExpr, UserDefinedLogicalNodeCore, lit,
};
use storage::keys::SortOption;
use streaming::operators::top_n::RankKind;
use streaming::windows::{Frame, WindowCall, WindowKind};

pub use asof::{Asof, AsofJoin};
pub use pairs::reads_only;
pub use set_operation::SetOperation;
pub use temporal::{TemporalJoin, Versions};
pub use temporal_filter::TemporalFilter;
pub use time_window::TimeWindow;

use crate::expr::column;
use crate::functions::window::native_call;

/// A scalar subquery's rows: exactly one row comes out of at most one; several are error 21000.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SingleRow {
    /// The subquery.
    pub input: LogicalPlan,
}

impl SingleRow {
    /// The node as a plan.
    pub fn plan(input: LogicalPlan) -> LogicalPlan {
        extension(SingleRow { input })
    }
}

impl UserDefinedLogicalNodeCore for SingleRow {
    fn name(&self) -> &str {
        "SingleRow"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }
    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SingleRow")
    }
    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        Ok(SingleRow { input: inputs.swap_remove(0) })
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

/// The rows of each partition whose rank is in a range, and their rank behind the input's columns. Without a rank as a
/// column: `FETCH ... WITH TIES`, which skips rows, and takes the peers of the last one too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopN {
    /// The rows.
    pub input: LogicalPlan,
    /// The partition; empty for one.
    pub partition: Vec<Expr>,
    /// The order within a partition.
    pub order: Vec<SortExpr>,
    /// Which rank is compared.
    pub kind: RankKind,
    /// Rows skipped.
    pub offset: u64,
    /// Rows kept behind them.
    pub limit: Option<u64>,
    /// The rank's column, as the window function that it came from called and typed it.
    rank: Option<FieldRef>,
    schema: DFSchemaRef,
}

impl TopN {
    /// The same for reads: the rankings that say which rows are within the limit.
    pub fn to_ranking(&self) -> DfResult<LogicalPlan> {
        let call = |kind: WindowKind, name: &str| {
            let returns = DataType::Int64;
            let call = WindowCall { kind, args: vec![], filter: None, frame: Frame::default(), returns };
            let order = self.order.iter().map(|by| {
                let option = SortOption { descending: !by.asc, nulls_first: by.nulls_first };
                (by.expr.clone(), option)
            });
            native_call(call, vec![], self.partition.clone(), order.collect()).alias(name)
        };
        let (number, rank) = ("row_of_ties", "rank_of_ties");
        let bound = |n: u64| lit(i64::try_from(n).unwrap_or(i64::MAX));
        let mut condition = column(number).gt(bound(self.offset));
        if let Some(limit) = self.limit {
            let by = if limit == 0 { number } else { rank };
            condition = condition.and(column(by).lt_eq(bound(self.offset.saturating_add(limit))));
        }
        let columns = self.input.schema().columns().into_iter().map(Expr::Column);
        LogicalPlanBuilder::from(self.input.clone())
            .window(vec![call(WindowKind::RowNumber, number), call(WindowKind::Rank, rank)])?
            .filter(condition)?
            .project(columns)?
            .build()
    }

    /// The node as a plan.
    #[allow(clippy::too_many_arguments)]
    pub fn plan(
        input: LogicalPlan,
        partition: Vec<Expr>,
        order: Vec<SortExpr>,
        kind: RankKind,
        offset: u64,
        limit: Option<u64>,
        rank: Option<FieldRef>,
    ) -> DfResult<LogicalPlan> {
        let fields =
            input.schema().iter().map(|(q, f)| (q.cloned(), f.clone())).chain(rank.clone().map(|rank| (None, rank)));
        let schema = Arc::new(DFSchema::new_with_metadata(fields.collect(), Default::default())?);
        Ok(extension(TopN { input, partition, order, kind, offset, limit, rank, schema }))
    }
}

impl TopN {
    /// The type of the rank, if it is a column.
    pub fn rank_type(&self) -> Option<DataType> {
        self.rank.as_ref().map(|rank| rank.data_type().clone())
    }
}

impl UserDefinedLogicalNodeCore for TopN {
    fn name(&self) -> &str {
        "TopN"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        self.partition.iter().cloned().chain(self.order.iter().map(|s| s.expr.clone())).collect()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TopN: {:?} limit {:?} offset {}", self.kind, self.limit, self.offset)
    }
    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let order = exprs.split_off(self.partition.len());
        let order = order.into_iter().zip(&self.order).map(|(e, s)| SortExpr::new(e, s.asc, s.nulls_first)).collect();
        let input = inputs.swap_remove(0);
        let plan = TopN::plan(input, exprs, order, self.kind, self.offset, self.limit, self.rank.clone())?;
        node_of::<TopN>(&plan).cloned().ok_or_else(|| unreachable!())
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let n = self.input.schema().fields().len();
        Some(vec![output_columns.iter().copied().filter(|&i| i < n).collect()])
    }
}

fn extension<N: UserDefinedLogicalNodeCore>(node: N) -> LogicalPlan {
    LogicalPlan::Extension(Extension { node: Arc::new(node) })
}

/// The same plan for reads, without the nodes that only streams have operators for.
pub fn for_reads(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        Ok(match as_plain(&node) {
            Some(plain) => Transformed::yes(plain?),
            None => Transformed::no(node),
        })
    })?;
    Ok(plan.data)
}

/// What a node that only streams have an operator for is in terms of DataFusion's.
pub fn as_plain(node: &LogicalPlan) -> Option<DfResult<LogicalPlan>> {
    if let Some(join) = node_of::<AsofJoin>(node) {
        Some(join.to_ranking())
    } else if let Some(join) = node_of::<TemporalJoin>(node) {
        Some(join.to_join())
    } else if let Some(top_n) = node_of::<TopN>(node) {
        Some(top_n.to_ranking())
    } else {
        node_of::<SetOperation>(node).map(SetOperation::to_join)
    }
}

/// The node of type `N` that `plan` is, if it is one.
pub fn node_of<N: 'static>(plan: &LogicalPlan) -> Option<&N> {
    let LogicalPlan::Extension(extension) = plan else { return None };
    extension.node.as_any().downcast_ref::<N>()
}

fn last_names(schema: &DFSchema, n: usize) -> HashSet<String> {
    let fields = schema.fields();
    fields[fields.len() - n..].iter().map(|f| f.name().clone()).collect()
}

impl Hash for TopN {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.partition, &self.order, self.offset, self.limit).hash(state);
    }
}

// Nodes have no order among each other; DataFusion asks for one.
impl PartialOrd for SingleRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}
impl PartialOrd for TopN {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}
