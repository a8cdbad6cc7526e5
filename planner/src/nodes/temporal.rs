//! The temporal join as a node: each left row, once, with what the right side holds when it comes (in processing time), or
//! with the version that its key had at the row's own time (in event time).

use std::cmp::Ordering;
use std::fmt;

use datafusion::common::{DFSchemaRef, JoinType, Result as DfResult};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator, UserDefinedLogicalNodeCore, when};

use super::asof::{Asof, AsofJoin};
use super::pairs::{needed, paired, schema_of};

/// `left JOIN right FOR SYSTEM_TIME AS OF ... ON ...`
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
    /// In event time: as of when; otherwise as of now.
    pub versions: Option<Versions>,
    schema: DFSchemaRef,
}

/// Which version of a right row is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The time of a left row.
    pub as_of: Expr,
    /// The time from which on a right row is its key's version: a column of the right side.
    pub time: Expr,
    /// Over the right side: of versions of the same time, the last one by these counts.
    pub ties: Vec<Expr>,
    /// Names that are unique in the statement, for reads.
    pub names: [String; 2],
}

impl TemporalJoin {
    /// The node as a plan.
    pub fn plan(
        left: LogicalPlan,
        right: LogicalPlan,
        on: Vec<(Expr, Expr)>,
        conditions: Vec<Expr>,
        outer: bool,
        versions: Option<Versions>,
    ) -> DfResult<LogicalPlan> {
        Ok(super::extension(TemporalJoin::of(left, right, on, conditions, outer, versions)?))
    }

    fn of(
        left: LogicalPlan,
        right: LogicalPlan,
        on: Vec<(Expr, Expr)>,
        conditions: Vec<Expr>,
        outer: bool,
        versions: Option<Versions>,
    ) -> DfResult<TemporalJoin> {
        let schema = schema_of(&left, &right, outer)?;
        Ok(TemporalJoin { left, right, on, conditions, outer, versions, schema })
    }

    /// The same for reads: a join with what is there now.
    pub fn to_join(&self) -> DfResult<LogicalPlan> {
        if let Some(versions) = &self.versions {
            return self.to_versions(versions);
        }
        let kind = if self.outer { JoinType::Left } else { JoinType::Inner };
        let equal = self.on.iter().map(|(l, r)| l.clone().eq(r.clone()));
        let on = equal.chain(self.conditions.iter().cloned());
        LogicalPlanBuilder::from(self.left.clone()).join_on(self.right.clone(), kind, on)?.build()
    }

    /// Each row there is a version from its time on; the conditions are asked of the one that is found.
    fn to_versions(&self, versions: &Versions) -> DfResult<LogicalPlan> {
        let how = Asof {
            on: self.on.clone(),
            times: (versions.as_of.clone(), versions.time.clone()),
            sign: Operator::GtEq,
            ties: versions.ties.clone(),
            outer: self.outer,
            names: versions.names.clone(),
        };
        let found = AsofJoin::plan(self.left.clone(), self.right.clone(), how)?;
        let found = super::as_plain(&found).unwrap_or(Ok(found))?;
        let Some(condition) = conjunction(self.conditions.iter().cloned()) else { return Ok(found) };
        if !self.outer {
            return LogicalPlanBuilder::from(found).filter(condition)?.build();
        }
        let n = self.left.schema().fields().len();
        let columns = self.schema.columns().into_iter().enumerate().map(|(i, column)| {
            if i < n {
                return Ok(Expr::Column(column));
            }
            let (relation, name) = (column.relation.clone(), column.name.clone());
            Ok(when(condition.clone(), Expr::Column(column)).end()?.alias_qualified(relation, name))
        });
        LogicalPlanBuilder::from(found).project(columns.collect::<DfResult<Vec<_>>>()?)?.build()
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
        let versions = self.versions.iter().flat_map(|versions| {
            [&versions.as_of, &versions.time].into_iter().chain(&versions.ties).cloned().collect::<Vec<_>>()
        });
        on.chain(self.conditions.iter().cloned()).chain(versions).collect()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.versions {
            None => write!(f, "TemporalJoin"),
            Some(versions) => write!(f, "TemporalJoin: as of {}", versions.as_of),
        }
    }
    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let mut versions = exprs.split_off(2 * self.on.len() + self.conditions.len()).into_iter();
        let conditions = exprs.split_off(2 * self.on.len());
        let versions = self
            .versions
            .clone()
            .zip(versions.next().zip(versions.next()))
            .map(|(before, (as_of, time))| Versions { as_of, time, ties: versions.collect(), ..before });
        let (Some(right), Some(left)) = (inputs.pop(), inputs.pop()) else {
            return datafusion::common::internal_err!("a join has two inputs");
        };
        TemporalJoin::of(left, right, paired(exprs), conditions, self.outer, versions)
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
