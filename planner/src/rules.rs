//! Which rewrites a bound plan goes through: a chosen list of DataFusion's, and ours, one per file.
//!
//! Left out of DataFusion's list on purpose: `simplify_expressions` (folds stable functions and wraps on overflow; ours
//! is `fold`), `push_down_limit` for streams (which rows a limit keeps would depend on their arrival),
//! `propagate_empty_relation` and `eliminate_group_by_constant` (fold a stream away), `eliminate_join` (trusts keys),
//! `eliminate_cross_join` (joins what nothing connects before what equalities connect; ours is `join_order`),
//! `extract_equijoin_predicate` (takes NULLs for equal in an `=` beside IS NOT DISTINCT FROM; ours is `equalities`).

pub mod correlated;
pub mod dependent;
pub mod distinct_on;
pub mod equalities;
pub mod fold;
pub mod join_order;
pub mod keys;
pub mod mark_join;
pub mod not_in;
pub mod on_subqueries;
pub mod push_down;
pub mod scalar_subquery;
pub mod simple;
pub mod temporal_filter;
pub mod top_n;

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{InvariantLevel, LogicalPlan};
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::push_down_limit::PushDownLimit;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::{Optimizer, OptimizerContext, OptimizerRule};

use crate::error::{Error, Result};
use crate::expr::subquery_of;

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// The rules of streams that a session can switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Many joins are put into an order, see [`join_order`]; otherwise they stay in that of the query.
    pub join_order: bool,
    /// Rows are combined before they travel where they fall into few groups; otherwise nowhere.
    pub two_phase: bool,
    /// They are wherever the aggregates allow it.
    pub force_two_phase: bool,
    /// What DISTINCT counts once is spread over the workers where rows fall into few groups.
    pub split_distinct: bool,
    /// It is wherever the aggregates allow it.
    pub force_split_distinct: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Switches {
            join_order: true,
            two_phase: true,
            force_two_phase: false,
            split_distinct: true,
            force_split_distinct: false,
        }
    }
}

impl Switches {
    /// What a session's settings say.
    pub fn of(settings: &crate::settings::Settings) -> Switches {
        let is = |name: &str, value: &str| settings.values.get(name).is_some_and(|v| v == value);
        Switches {
            join_order: !is("enable_join_ordering", "off"),
            two_phase: !is("enable_two_phase_agg", "off"),
            force_two_phase: is("force_two_phase_agg", "on"),
            split_distinct: !is("enable_split_distinct_agg", "off"),
            force_split_distinct: is("force_split_distinct_agg", "on"),
        }
    }
}

/// A plan for streams: subqueries are joins, uncorrelated scalar subqueries single rows, top-n patterns top-n nodes.
/// The columns that identify a row stand behind the output's own; see [`keys`].
pub fn optimize_stream(plan: LogicalPlan, switches: Switches) -> Result<(LogicalPlan, Option<keys::Key>)> {
    let plan = unnest(plan)?;
    let plan = scalar_subquery::uncorrelated_to_single_row(plan)?;
    let plan = run(
        plan,
        vec![
            Arc::new(ReplaceDistinctWithAggregate::new()),
            // A condition without columns is not pushed below an aggregate over everything: that has a row for no rows.
            Arc::new(EliminateFilter::new()),
            Arc::new(push_down::PushDown::default()),
            Arc::new(equalities::Equalities),
        ],
    )?;
    let plan = temporal_filter::recognise(plan)?;
    let plan = top_n::recognise(plan)?;
    let (plan, key) = keys::with_keys(plan)?;
    let mut rules = tidy_rules();
    if switches.join_order {
        rules.push(Arc::new(join_order::JoinOrder));
    }
    rules.push(Arc::new(push_down::PushDown::default()));
    rules.push(Arc::new(CommonSubexprEliminate::new()));
    rules.push(Arc::new(OptimizeProjections::new()));
    let plan = run(plan, rules)?;
    refuse_subqueries(&plan)?;
    Ok((plan, key))
}

/// A plan for reads. Uncorrelated scalar subqueries stay: DataFusion runs each once.
pub fn optimize_batch(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = unnest(crate::nodes::for_reads(plan)?)?;
    let mut rules: Vec<Rule> = vec![Arc::new(ReplaceDistinctWithAggregate::new())];
    rules.extend(tidy_rules());
    rules.push(Arc::new(join_order::JoinOrder));
    // Filters cannot be pushed past limits: limits go first.
    rules.push(Arc::new(PushDownLimit::new()));
    rules.push(Arc::new(push_down::PushDown::default()));
    rules.push(Arc::new(CommonSubexprEliminate::new()));
    rules.push(Arc::new(OptimizeProjections::new()));
    run(plan, rules)
}

/// Constants folded, DISTINCT ON a ranking, correlated subqueries joins.
fn unnest(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = distinct_on::to_ranking(plan)?;
    let plan = fold::fold(plan)?;
    if !has_subqueries(&plan) {
        return Ok(plan);
    }
    let plan = on_subqueries::to_filters(plan)?;
    // DataFusion refuses scalar subqueries that are not aggregated: those come first.
    let plan = correlated::prepare(plan)?;
    let plan = RewriteSetComparison::new().rewrite(plan, &OptimizerContext::new())?.data;
    let plan = not_in::to_not_exists(plan)?;
    let mut n = 0;
    let plan = mark_join::to_mark_joins(plan, false, &mut n)?;
    // A form that DataFusion does not take is left for the general way.
    let simple: Vec<Rule> = vec![
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
    ];
    let plan = match plan.check_invariants(InvariantLevel::Executable) {
        Ok(()) => run_leniently(plan, simple)?,
        Err(_) => plan,
    };
    let plan = mark_join::to_mark_joins(plan, true, &mut n)?;
    dependent::unnest(plan, &mut n)
}

fn tidy_rules() -> Vec<Rule> {
    vec![
        Arc::new(equalities::Equalities),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateFilter::new()),
        Arc::new(EliminateOuterJoin::new()),
    ]
}

fn run(plan: LogicalPlan, rules: Vec<Rule>) -> Result<LogicalPlan> {
    let context = OptimizerContext::new().with_skip_failing_rules(false).with_max_passes(4);
    Ok(Optimizer::with_rules(rules).optimize(plan, &context, |_, _| {})?)
}

/// The same, but a rule that fails changes nothing.
fn run_leniently(plan: LogicalPlan, rules: Vec<Rule>) -> Result<LogicalPlan> {
    let context = OptimizerContext::new().with_skip_failing_rules(true).with_max_passes(4);
    Ok(Optimizer::with_rules(rules).optimize(plan, &context, |_, _| {})?)
}

/// Whether any expression of the plan holds a subquery.
fn has_subqueries(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let _ = plan.apply(|node| {
        node.apply_expressions(|e| {
            found |= e.exists(|e| Ok(subquery_of(e).is_some()))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        found |= matches!(node, LogicalPlan::Subquery(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// What could not be unnested is not run wrongly.
fn refuse_subqueries(plan: &LogicalPlan) -> Result<()> {
    if has_subqueries(plan) {
        return Err(Error::unsupported("this form of correlated subquery is not supported yet")
            .with_hint("Correlate by equality with columns of the outer query, or write it as a join."));
    }
    Ok(())
}

/// Rewrites every node of the plan, those inside subqueries first.
fn rewrite_nodes(
    plan: LogicalPlan,
    mut f: impl FnMut(LogicalPlan) -> DfResult<Transformed<LogicalPlan>>,
) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(&mut f)?.data)
}
