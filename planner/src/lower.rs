//! A logical plan to the operators of a stream, one file per node family.
//!
//! Each lowered node has the columns of the logical node in their order, by position, possibly followed by columns that
//! nobody above reads. Nodes that are the same are made once: a CTE that is used twice, a self-join's two scans.

mod aggregate;
mod emit;
mod event_time;
mod expr;
mod filter;
mod join;
#[cfg(test)]
pub(crate) mod oracle;
mod pairs;
mod project;
mod range;
mod recursive;
mod scan;
mod set_ops;
mod sink;
mod subquery;
mod temporal_filter;
#[cfg(test)]
pub(crate) mod tests;
mod time_window;
mod top_n;
mod ttl;
mod two_phase;
mod unnest;
mod values;
mod view;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::{Expr as DfExpr, LogicalPlan};
use streaming::operator::{Operator, WatermarkContext};
use streaming::operators::{AnyOperator, Project};
use streaming::plan::{Plan, PlanNode};
use streaming::watermark::{Watermark, Watermarks};

use crate::error::{Error, Result};
use crate::rules::Switches;
use crate::{functions, nodes};
pub use event_time::plan_event_time;
pub use sink::sink_of;
pub use ttl::as_forgotten;
pub use view::{
    IndexPlan, Indexed, ViewPlan, plan_bound_view, plan_index, plan_source, plan_table, plan_view, view_of,
};

/// A lowered node.
#[derive(Clone)]
struct Node {
    index: usize,
    /// Its columns, the extra ones behind the logical node's own included.
    schema: SchemaRef,
    append_only: bool,
    /// Per column whether it has a watermark, and of what kind: values are unknown while planning.
    watermarks: Arc<Watermarks>,
}

impl Node {
    /// The watermark that column `column` has, if it has one.
    fn watermark(&self, column: usize) -> Option<Watermark> {
        self.watermarks.get(column).copied().flatten()
    }

    fn width(&self) -> usize {
        self.schema.fields().len()
    }

    fn name(&self, column: usize) -> &str {
        self.schema.field(column).name()
    }
}

/// A plan under construction.
#[derive(Default)]
struct Lowering {
    plan: Plan,
    known: HashMap<String, usize>,
    /// What stands for the last round of the recursive queries around, by their names.
    rounds: Vec<(String, Node)>,
    /// What is known of the columns of each node of the plan.
    watermarks: Vec<Arc<Watermarks>>,
    /// What the session wants of the plan.
    switches: Switches,
}

impl Lowering {
    #[::recursive::recursive]
    fn lower(&mut self, plan: &LogicalPlan) -> Result<Node> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Sort(sort) if sort.fetch.is_some() => {
                self.limit(&sort.input, &sort.expr, 0, sort.fetch.map(|n| n as u64))
            }
            // The rows of a view have no order.
            LogicalPlan::Sort(sort) => self.lower(&sort.input),
            LogicalPlan::Limit(limit) => self.limit_node(limit),
            LogicalPlan::EmptyRelation(empty) => self.empty(empty),
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::SubqueryAlias(alias) => self.lower(&alias.input),
            LogicalPlan::Distinct(_) => Err(unsupported("this form of DISTINCT")),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::RecursiveQuery(query) => self.recursive(query),
            LogicalPlan::Subquery(_) => Err(unsupported("this form of LATERAL")),
            LogicalPlan::Extension(_) => {
                if let Some(window) = nodes::node_of::<nodes::TimeWindow>(plan) {
                    self.time_window(window)
                } else if let Some(filter) = nodes::node_of::<nodes::TemporalFilter>(plan) {
                    self.temporal_filter(filter)
                } else if let Some(single) = nodes::node_of::<nodes::SingleRow>(plan) {
                    self.single_row(single)
                } else if let Some(top_n) = nodes::node_of::<nodes::TopN>(plan) {
                    self.top_n(top_n)
                } else if let Some(join) = nodes::node_of::<nodes::AsofJoin>(plan) {
                    self.asof_join(join)
                } else if let Some(join) = nodes::node_of::<nodes::TemporalJoin>(plan) {
                    self.temporal_join(join)
                } else if let Some(operation) = nodes::node_of::<nodes::SetOperation>(plan) {
                    self.set_operation(operation)
                } else {
                    Err(unsupported("this plan"))
                }
            }
            other => Err(unsupported(&format!("{} ", other.display()))),
        }
    }

    /// Adds an operator, or finds the same one over the same inputs.
    fn add(&mut self, operator: impl Into<AnyOperator>, inputs: &[usize], append_only: bool) -> Node {
        let operator = operator.into();
        let schema = operator.schema();
        let text = serde_json::to_string(&operator).expect("an operator is plain data");
        let index = match self.known.get(&format!("{inputs:?}{text}")) {
            Some(&index) => index,
            None => {
                self.watermarks.push(Arc::new(self.watermarks_of(&operator, inputs)));
                let index = self.plan.add(operator, inputs.to_vec());
                self.known.insert(format!("{inputs:?}{text}"), index);
                index
            }
        };
        Node { index, schema, append_only, watermarks: self.watermarks[index].clone() }
    }

    fn watermarks_of(&self, operator: &AnyOperator, inputs: &[usize]) -> Watermarks {
        if let AnyOperator::TapReader(reader) = operator {
            return reader.watermarks.clone();
        }
        let schemas: Vec<SchemaRef> = inputs.iter().map(|&n| self.plan.nodes[n].operator.schema()).collect();
        let known: Vec<Watermarks> = inputs.iter().map(|&n| self.watermarks[n].as_ref().clone()).collect();
        if known.iter().flatten().all(Option::is_none) {
            return Vec::new();
        }
        operator.watermarks(&known, &WatermarkContext { inputs: &schemas, functions: &functions::engine() })
    }

    /// The columns at `columns` of `input`, in this order, under their own names or under `names`.
    fn pick(&mut self, input: &Node, columns: &[usize], names: Option<&[String]>) -> Node {
        let fields: Vec<Field> = columns
            .iter()
            .enumerate()
            .map(|(i, &c)| field(names.map_or(input.name(c), |n| &n[i]), input.schema.field(c).data_type().clone()))
            .collect();
        let exprs = columns.iter().map(|&c| streaming::expr::Expr::Column(c)).collect();
        self.project(input, exprs, Arc::new(Schema::new(fields)))
    }

    /// The first `n` columns and no others; at least one.
    fn exactly(&mut self, input: Node, n: usize) -> Node {
        if input.width() == n || (n == 0 && input.width() == 1) {
            return input;
        }
        let columns: Vec<usize> = (0..n.max(1)).collect();
        self.pick(&input, &columns, None)
    }

    /// The finished plan, without the nodes that turned out to be needless. `root` is the last.
    fn finish(self, root: usize) -> Plan {
        let mut needed = BTreeMap::from([(root, 0)]);
        for index in (0..=root).rev() {
            if needed.contains_key(&index) {
                needed.extend(self.plan.nodes[index].inputs.iter().map(|&i| (i, 0)));
            }
        }
        for (new, index) in needed.values_mut().enumerate() {
            *index = new;
        }
        let kept = self.plan.nodes.into_iter().enumerate().filter(|(i, _)| needed.contains_key(i));
        let nodes = kept.map(|(_, node)| PlanNode {
            inputs: node.inputs.iter().map(|i| needed[i]).collect(),
            operator: node.operator,
        });
        without_ranks(Plan { nodes: nodes.collect() })
    }
}

/// Ranks that nobody reads are not put out: each change would renumber all rows behind it.
fn without_ranks(mut plan: Plan) -> Plan {
    for i in 0..plan.nodes.len() {
        let AnyOperator::TopN(top_n) = &plan.nodes[i].operator else { continue };
        if !top_n.rank.output {
            continue;
        }
        let rank = top_n.schema.fields().len() - 1;
        let unread = plan.nodes.iter().filter(|n| n.inputs.contains(&i)).all(|reader| match &reader.operator {
            AnyOperator::Project(Project { exprs, .. }) => !exprs.iter().any(|e| expr::reads(e, rank)),
            _ => false,
        });
        let AnyOperator::TopN(top_n) = &mut plan.nodes[i].operator else { continue };
        if unread && rank > 0 {
            top_n.rank.output = false;
            let fields: Vec<_> = top_n.schema.fields().iter().take(rank).cloned().collect();
            top_n.schema = Arc::new(Schema::new(fields));
        }
    }
    plan
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn unsupported(what: &str) -> Error {
    Error::unsupported(format!("{what} is not supported in a materialized view yet"))
}

/// What a stream's plan lowers to before it is given a root: the operators, and what is known of their output.
pub struct Lowered {
    /// The operators; the last one has the columns that were asked for.
    pub plan: Plan,
    /// Its columns.
    pub schema: SchemaRef,
    /// Whether it never retracts.
    pub append_only: bool,
    /// Per column whether it has a watermark, and of what kind.
    pub watermarks: Watermarks,
}

/// Lowers an optimised plan. `names` are what its columns are called.
pub fn lower(plan: &LogicalPlan, names: &[String], switches: Switches) -> Result<Lowered> {
    let mut lowering = Lowering { switches, ..Lowering::default() };
    let node = lowering.lower(plan)?;
    let columns: Vec<usize> = (0..names.len()).collect();
    let node = if node.width() == names.len() && columns.iter().all(|&c| node.name(c) == names[c]) {
        node
    } else {
        lowering.pick(&node, &columns, Some(names))
    };
    let watermarks = columns.iter().map(|&c| node.watermark(c)).collect();
    Ok(Lowered { schema: node.schema, append_only: node.append_only, watermarks, plan: lowering.finish(node.index) })
}

/// The columns that an expression of an operator's input computes, as a stream's expressions.
fn all(exprs: &[DfExpr], input: &LogicalPlan) -> Result<Vec<streaming::expr::Expr>> {
    exprs.iter().map(|e| expr::lower(e, input.schema())).collect()
}
