//! A query that is ready to run: optimised once, run as often as asked with other parameters and newer snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::provider_as_source;
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::async_func::AsyncFuncExec;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use storage::RelationId;
use tokio::runtime::Handle;

use super::RelationSource;
use super::constant::Constant;
use super::index::use_indexes;
use super::interrupt::{Interrupt, interruptible};
use super::point::PointLookup;
use super::reads::Reads;
use super::row_expr::param_index;
use super::rows::{TableRows, Tables};
use super::table::RelationTable;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::{nodes, rules};

/// The rows of a read, as they are computed. Dropping it cancels the read.
pub type RowStream = BoxStream<'static, Result<RecordBatch>>;

/// How many batches a read may be ahead of whoever takes its rows.
const BATCHES_AHEAD: usize = 2;
/// How many rows a read must have to be worth several threads.
const PARALLEL_ROWS_MIN: u64 = 50_000;

/// A query that is ready to run.
pub struct Query {
    plan: LogicalPlan,
    way: Way,
    has_params: bool,
    /// What is wrong with a constant in it: it fails even if there are no rows.
    wrong: Option<Error>,
}

enum Way {
    Constant(Constant),
    Point(Arc<PointLookup>),
    Plan,
}

impl Query {
    /// Optimises a bound plan, in which parameters may stand open.
    pub fn new(plan: LogicalPlan) -> Result<Query> {
        if let Some(constant) = Constant::prepare(&plan) {
            return Ok(Query { plan, way: Way::Constant(constant), has_params: true, wrong: None });
        }
        Query::optimised(rules::optimize_batch(plan)?)
    }

    fn optimised(plan: LogicalPlan) -> Result<Query> {
        let has_params = !plan.get_parameter_names()?.is_empty();
        let way = PointLookup::prepare(&plan).map_or(Way::Plan, |point| Way::Point(Arc::new(point)));
        let wrong = rules::fold::failing(&plan);
        Ok(Query { plan, way, has_params, wrong })
    }

    /// The same query through indexes, if there are any that find its rows sooner. It reads other relations, see
    /// [`Query::relations`], and so it does not see what the session's own transaction has changed in theirs.
    pub fn with_indexes(&self, catalog: &Catalog) -> Result<Option<Query>> {
        match self.way {
            Way::Constant(_) => Ok(None),
            _ => use_indexes(&self.plan, catalog)?.map(Query::optimised).transpose(),
        }
    }

    /// The relations that are read, each once.
    pub fn relations(&self) -> Vec<RelationId> {
        let mut relations = BTreeSet::new();
        let _ = self.plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                relations.extend(RelationSource::of(scan).map(RelationSource::relation));
            }
            Ok(TreeNodeRecursion::Continue)
        });
        relations.into_iter().collect()
    }

    /// The optimised plan.
    pub fn plan(&self) -> &LogicalPlan {
        &self.plan
    }

    /// The lookup by key that the query is, if it is one.
    pub fn point(&self) -> Option<&Arc<PointLookup>> {
        match &self.way {
            Way::Point(point) => Some(point),
            _ => None,
        }
    }

    /// Runs the query.
    pub async fn run(&self, params: &[ScalarValue], tables: &dyn Tables, reads: &Reads) -> Result<RowStream> {
        match &self.way {
            Way::Constant(constant) => return Ok(rows(constant.run(params)?)),
            Way::Point(point) => {
                if let TableRows::Snapshot(snapshot) = tables.table(point.relation())? {
                    return Ok(rows(point.stream(params, &snapshot)?));
                }
            }
            Way::Plan => {}
        }
        // On threads of the reads: whoever waits for it can stop waiting, however long a step of it takes.
        let (plan, state) = self.logical(params, tables, reads)?;
        let planned = state.clone();
        let threads = reads.threads();
        let planning = {
            let _on = threads.enter();
            SpawnedTask::spawn(async move { physical(&plan, &planned).await })
        };
        let physical = planning.join_unwind().await.map_err(|error| Error::new("57014", error.to_string()))??;
        let interrupt = Interrupt::default();
        let physical = interruptible(physical, &interrupt)?;
        let given_up = interrupt.on_drop();
        let rows = rows(buffered(physical, state.task_ctx(), threads));
        Ok(rows
            .map(move |batch| {
                let _while_wanted = &given_up;
                batch
            })
            .boxed())
    }

    /// DataFusion's physical plan over `tables`.
    pub async fn physical<'a>(
        &self,
        params: &[ScalarValue],
        tables: &dyn Tables,
        reads: &'a Reads,
    ) -> Result<(Arc<dyn ExecutionPlan>, &'a SessionState)> {
        let (plan, state) = self.logical(params, tables, reads)?;
        Ok((physical(&plan, state).await?, state))
    }

    /// The plan with its parameters' values over `tables`.
    fn logical<'a>(
        &self,
        params: &[ScalarValue],
        tables: &dyn Tables,
        reads: &'a Reads,
    ) -> Result<(LogicalPlan, &'a Arc<SessionState>)> {
        if let Some(error) = &self.wrong {
            return Err(error.clone());
        }
        let mut plan = self.plan.clone();
        if self.has_params {
            plan = with_params(plan, params)?;
        }
        let mut rows = 0;
        let plan = plan.transform_up_with_subqueries(|node| {
            if let Some(window) = nodes::node_of::<nodes::TimeWindow>(&node) {
                return Ok(Transformed::yes(window.to_unnest()?));
            }
            let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
            let Some(source) = RelationSource::of(&scan) else {
                return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
            };
            let table = RelationTable::new(source, tables.table(source.relation())?);
            rows += table.rows_estimate();
            scan.source = provider_as_source(Arc::new(table));
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        })?;
        let union = plan.data.exists(|node| Ok(matches!(node, LogicalPlan::Union(_))))?;
        Ok((plan.data, reads.session(rows >= PARALLEL_ROWS_MIN, union)))
    }
}

async fn physical(plan: &LogicalPlan, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
    match DefaultPhysicalPlanner::default().create_physical_plan(plan, state).await {
        // DataFusion puts a sort below a hash join where an equality of the join makes up for a part of the order, but does
        // not keep that equality when it compares NULLs too; its own check refuses the plan. A merge join has no such place.
        Err(error) if error.to_string().contains("does not satisfy order requirements") => {
            let mut merging = state.clone();
            let options = merging.config_mut().options_mut();
            options.optimizer.prefer_hash_join = false;
            options.execution.target_partitions = options.execution.target_partitions.max(2);
            Ok(DefaultPhysicalPlanner::default().create_physical_plan(plan, &merging).await?)
        }
        planned => Ok(planned?),
    }
}

/// Runs a plan on a thread of its own, which ends when nobody wants its rows any more. What only waits needs none.
fn buffered(plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>, threads: &Handle) -> SendableRecordBatchStream {
    let mut builder = RecordBatchReceiverStream::builder(plan.schema(), BATCHES_AHEAD);
    let sender = builder.tx();
    let waits = plan.exists(|node| Ok(node.is::<AsyncFuncExec>())).unwrap_or(false);
    let run = async move {
        let mut batches = execute_stream(plan, context)?;
        while let Some(batch) = batches.next().await {
            if sender.send(batch).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    if waits {
        builder.spawn_on(run, threads);
    } else {
        let here = threads.clone();
        builder.spawn_blocking_on(move || here.block_on(run), threads);
    }
    builder.build()
}

fn rows(stream: SendableRecordBatchStream) -> RowStream {
    stream.map_err(Error::from).boxed()
}

/// The plan with its parameters' values, and with what they make constant computed.
fn with_params(plan: LogicalPlan, params: &[ScalarValue]) -> Result<LogicalPlan> {
    // Not by DataFusion's own `replace_params_with_values`: it names the columns of VALUES anew.
    let replaced = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|e| {
            e.transform_up(|e| {
                let Expr::Placeholder(placeholder) = &e else { return Ok(Transformed::no(e)) };
                match param_index(&placeholder.id).and_then(|i| params.get(i)) {
                    Some(value) => Ok(Transformed::yes(Expr::Literal(value.clone(), None))),
                    None => Err(Error::new("42P02", format!("there is no parameter {}", placeholder.id)).into()),
                }
            })
        })
    })?;
    rules::fold::fold(replaced.data)
}
