//! WITH RECURSIVE: the operators that depend on the last round move into the recursive operator, and carry the round of
//! their rows as one more column.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::{RecursiveQuery, TableScan};
use streaming::expr::Expr;
use streaming::operator::Operator;
use streaming::operators::hash_join::{JoinKind, Range};
use streaming::operators::{AnyOperator, HashJoin, Project, Recursive, Values};
use streaming::plan::{Plan, PlanNode};

use super::{Lowering, Node, unsupported};
use crate::error::{Error, Result};

impl Lowering {
    pub(super) fn recursive(&mut self, query: &RecursiveQuery) -> Result<Node> {
        let n = query.schema.fields().len();
        let first = self.lower(&query.static_term)?;
        let first = self.exactly(first, n);
        // Stands for the last round until the body is cut out; the name keeps those of two queries apart.
        let metadata = HashMap::from([("round of".to_string(), query.name.clone())]);
        let schema = Arc::new(first.schema.as_ref().clone().with_metadata(metadata));
        let round = self.add(Values { rows: vec![], schema }, &[], false);
        self.rounds.push((query.name.clone(), round.clone()));
        let next = self.lower(&query.recursive_term);
        self.rounds.pop();
        let next = next?;
        let next = self.exactly(next, n);
        let mut body = Body::new(&self.plan, round.index);
        body.move_in(next.index)?;
        body.put_round_last(next.index, n);
        let Body { nodes, statics, .. } = body;
        let inputs: Vec<usize> = std::iter::once(first.index).chain(statics).collect();
        let operator =
            Recursive { body: nodes, n_inputs: inputs.len(), distinct: query.is_distinct, schema: first.schema };
        Ok(self.add(operator, &inputs, false))
    }

    /// The rows of the last round, if that is what a scan reads.
    pub(super) fn last_round(&mut self, scan: &TableScan) -> Option<Node> {
        let (_, node) = self.rounds.iter().find(|(name, _)| name == scan.table_name.table())?;
        let node = node.clone();
        Some(match &scan.projection {
            Some(columns) if !columns.is_empty() => self.pick(&node, columns, None),
            _ => node,
        })
    }
}

/// A node inside the body: its index there, and where its columns have gone.
#[derive(Clone)]
struct Moved {
    index: usize,
    /// The column with the round.
    round: usize,
    schema: SchemaRef,
}

impl Moved {
    /// Where a column that was at `column` is now: the round stands between some of them.
    fn place(&self, column: usize) -> usize {
        if column < self.round { column } else { column + 1 }
    }
}

struct Body<'a> {
    plan: &'a Plan,
    /// Nodes of the plan that depend on the last round.
    dependent: BTreeSet<usize>,
    moved: BTreeMap<usize, Moved>,
    nodes: Vec<PlanNode>,
    /// Nodes of the plan that the body reads.
    statics: Vec<usize>,
    n_leaves: usize,
}

impl<'a> Body<'a> {
    fn new(plan: &'a Plan, leaf: usize) -> Body<'a> {
        let mut dependent = BTreeSet::from([leaf]);
        for (i, node) in plan.nodes.iter().enumerate() {
            if node.inputs.iter().any(|input| dependent.contains(input)) {
                dependent.insert(i);
            }
        }
        let schema = plan.nodes[leaf].operator.schema();
        let round = schema.fields().len();
        let moved = BTreeMap::from([(leaf, Moved { index: 0, round, schema: with_round(&schema, round) })]);
        Body { plan, dependent, moved, nodes: vec![], statics: vec![], n_leaves: 0 }
    }

    /// Moves a node and what it needs into the body.
    fn move_in(&mut self, root: usize) -> Result<()> {
        let mut needed = BTreeSet::from([root]);
        for i in (0..=root).rev().filter(|i| self.dependent.contains(i)) {
            if needed.contains(&i) {
                needed.extend(self.plan.nodes[i].inputs.iter().copied());
            }
        }
        self.statics = needed.iter().copied().filter(|i| !self.dependent.contains(i)).collect();
        self.n_leaves = 1 + self.statics.len();
        let inside: Vec<usize> = needed.into_iter().filter(|i| self.dependent.contains(i)).collect();
        for i in inside {
            if !self.moved.contains_key(&i) {
                self.move_node(i)?;
            }
        }
        Ok(())
    }

    fn move_node(&mut self, i: usize) -> Result<()> {
        let node = &self.plan.nodes[i];
        let depends: Vec<usize> =
            (0..node.inputs.len()).filter(|&n| self.dependent.contains(&node.inputs[n])).collect();
        let [side] = depends[..] else {
            return Err(Error::new("42P19", "a recursive reference must not appear more than once"));
        };
        let input = self.moved[&node.inputs[side]].clone();
        let (operator, round): (AnyOperator, usize) = match &node.operator {
            AnyOperator::Filter(filter) => {
                let mut filter = filter.clone();
                filter.predicate = filter.predicate.map_columns(&|c| input.place(c));
                filter.schema = with_round(&filter.schema, input.round);
                (filter.into(), input.round)
            }
            AnyOperator::Project(project) => {
                let mut exprs: Vec<Expr> = project.exprs.iter().map(|e| e.map_columns(&|c| input.place(c))).collect();
                exprs.push(Expr::Column(input.round));
                let round = project.schema.fields().len();
                (Project { exprs, schema: with_round(&project.schema, round) }.into(), round)
            }
            AnyOperator::HashJoin(join) => {
                let left = match side {
                    0 => input.schema.fields().len() - 1,
                    _ => self.plan.nodes[node.inputs[0]].operator.schema().fields().len(),
                };
                moved_join(join, side, &input, left)?
            }
            other => return Err(unsupported(&format!("{} in the recursive term of a query", other.name()))),
        };
        let inputs = node.inputs.iter().map(|input| match self.moved.get(input) {
            Some(moved) => moved.index,
            None => 1 + self.statics.iter().position(|s| s == input).expect("it was collected before"),
        });
        let inputs = inputs.collect();
        let moved = Moved { index: self.n_leaves + self.nodes.len(), round, schema: operator.schema() };
        self.nodes.push(PlanNode { operator, inputs });
        self.moved.insert(i, moved);
        Ok(())
    }

    /// Ends the body with the first `n` columns of a node and the round behind them.
    fn put_round_last(&mut self, root: usize, n: usize) {
        let last = self.moved[&root].clone();
        let is_last = last.index + 1 == self.n_leaves + self.nodes.len() && !self.nodes.is_empty();
        if is_last && last.round == n && last.schema.fields().len() == n + 1 {
            return;
        }
        let columns = (0..n).map(|c| last.place(c)).chain([last.round]);
        let exprs: Vec<Expr> = columns.clone().map(Expr::Column).collect();
        let fields: Vec<Arc<Field>> = columns.map(|c| last.schema.fields()[c].clone()).collect();
        let operator = Project { exprs, schema: Arc::new(Schema::new(fields)) };
        self.nodes.push(PlanNode { operator: operator.into(), inputs: vec![last.index] });
    }
}

/// A join with the round among the columns of one side. `left` is the left side's width without it.
fn moved_join(join: &HashJoin, side: usize, input: &Moved, left: usize) -> Result<(AnyOperator, usize)> {
    let allowed = match join.kind {
        JoinKind::Inner => true,
        JoinKind::Right => side == 1,
        JoinKind::Full => false,
        _ => side == 0,
    };
    if !allowed {
        let message = "a recursive reference must not appear within an outer join or a subquery";
        return Err(Error::new("42P19", message));
    }
    let round = if side == 0 { input.round } else { left + input.round };
    let place = |column: usize| if column < round { column } else { column + 1 };
    let mut moved = join.clone();
    moved.alone = true;
    moved.append_only = [false; 2];
    moved.keys[side].iter_mut().for_each(|key| *key = input.place(*key));
    if let Some(range) = &mut moved.ranges[side] {
        range.column = input.place(range.column);
    }
    if let Some(Range { above, below, .. }) = &mut moved.ranges[1 - side] {
        [above, below].into_iter().flatten().for_each(|(column, _)| *column = input.place(*column));
    }
    moved.condition = join.condition.as_ref().map(|condition| condition.map_columns(&place));
    moved.schema = with_round(&join.schema, round);
    Ok((moved.into(), round))
}

/// A schema with the round's column put in at `at`.
fn with_round(schema: &SchemaRef, at: usize) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.insert(at, Arc::new(Field::new("round", DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}
