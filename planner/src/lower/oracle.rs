//! The oracle of plans: after every epoch of random changes, a view holds what its query says in batch over the same
//! rows.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::logical_expr::LogicalPlan;
use futures::TryStreamExt;
use storage::{Batch, RelationId};
use streaming::expr::row_text;
use streaming::operator::Operator;
use streaming::operators::AnyOperator;
use streaming::plan::Plan;
use streaming::testing::{Counted, Random, TestTask, accumulate, batch};

use super::ViewPlan;
use crate::batch::{Query, ReadLimits, Reads, TableRows, Tables};
use crate::error::Result;

/// A relation with random rows: different in their key, if they have one.
struct Table {
    schema: SchemaRef,
    key: Vec<usize>,
    append_only: bool,
    rows: BTreeMap<Vec<Option<String>>, i64>,
}

struct Database(BTreeMap<RelationId, Table>);

impl Tables for Database {
    fn table(&self, relation: RelationId) -> Result<TableRows> {
        let table = &self.0[&relation];
        let rows: Vec<_> = table.rows.keys().map(|row| (row.clone(), 1)).collect();
        Ok(TableRows::Rows(vec![batch(&table.schema, &rows).data().clone()]))
    }
}

impl Database {
    /// The relations that a plan scans.
    fn of(plan: &LogicalPlan) -> Database {
        use datafusion::common::tree_node::TreeNodeRecursion;
        let mut tables = BTreeMap::new();
        let _ = plan.apply_with_subqueries(|node| {
            // A recursive query's own rows are no relation.
            if let LogicalPlan::TableScan(scan) = node
                && let Some(source) = crate::batch::RelationSource::of(scan)
            {
                tables.entry(source.relation()).or_insert_with(|| Table {
                    schema: scan.source.schema(),
                    key: source.key().to_vec(),
                    append_only: source.is_append_only(),
                    rows: BTreeMap::new(),
                });
            }
            Ok(TreeNodeRecursion::Continue)
        });
        Database(tables)
    }
}

impl Table {
    fn change(&mut self, random: &mut Random) -> Batch {
        let mut changes = vec![];
        for _ in 0..random.below(6) {
            if !self.append_only && !self.rows.is_empty() && random.one_in(3) {
                let row = self.rows.keys().nth(random.below(self.rows.len())).expect("a row").clone();
                self.rows.remove(&row);
                changes.push((row, -1));
                continue;
            }
            let row: Vec<Option<String>> = (0..self.schema.fields().len())
                .map(|i| {
                    let ty = self.schema.field(i).data_type().clone();
                    // A key is never NULL.
                    let value = random.value(&ty);
                    if self.key.contains(&i) { Some(value.unwrap_or_else(|| "7".into())) } else { value }
                })
                .collect();
            let same_key = |other: &&Vec<Option<String>>| self.key.iter().all(|&k| other[k] == row[k]);
            if let Some(old) = self.rows.keys().find(same_key).cloned() {
                if self.append_only {
                    continue;
                }
                self.rows.remove(&old);
                changes.push((old, -1));
            }
            self.rows.insert(row.clone(), 1);
            changes.push((row, 1));
        }
        batch(&self.schema, &changes)
    }
}

/// Runs a plan's operators one after the other, epoch by epoch.
struct Runner {
    plan: Plan,
    tasks: Vec<Option<TestTask>>,
}

impl Runner {
    fn new(plan: &Plan, workers: usize) -> Runner {
        let schema = |i: usize| plan.nodes[i].operator.schema();
        let tasks = plan.nodes.iter().map(|node| match &node.operator {
            AnyOperator::TapReader(_) | AnyOperator::Materialize(_) => None,
            operator => {
                let inputs: Vec<SchemaRef> = node.inputs.iter().map(|&i| schema(i)).collect();
                Some(TestTask::with_functions(operator.clone(), &inputs, workers, crate::functions()))
            }
        });
        Runner { tasks: tasks.collect(), plan: plan.clone() }
    }

    /// What the root is told in an epoch with these changes.
    fn epoch(&mut self, changes: &BTreeMap<RelationId, Batch>) -> Vec<Batch> {
        let mut said: Vec<Vec<Batch>> = vec![];
        for (node, task) in self.plan.nodes.iter().zip(&mut self.tasks) {
            let out = match (&node.operator, task) {
                (AnyOperator::TapReader(reader), _) => {
                    let changes = changes[&reader.relation].project(&reader.columns);
                    let named = RecordBatch::try_new(reader.schema.clone(), changes.data().columns().to_vec());
                    vec![changes.with_data(named.expect("columns of the relation"))]
                }
                (AnyOperator::Materialize(_), _) => said[node.inputs[0]].clone(),
                (operator, Some(task)) => {
                    for (n, &input) in node.inputs.iter().enumerate() {
                        said[input].iter().filter(|b| b.num_rows() > 0).for_each(|b| task.apply(n, b));
                    }
                    let (batches, errors) = task.seal(false);
                    assert!(errors.is_empty(), "{errors:?}");
                    for batch in &batches {
                        assert_eq!(batch.schema().fields().len(), operator.schema().fields().len(), "{operator:?}");
                        for (have, want) in batch.schema().fields().iter().zip(operator.schema().fields()) {
                            assert_eq!(have.data_type(), want.data_type(), "{operator:?}");
                        }
                    }
                    batches
                }
                _ => unreachable!("every other operator has a task"),
            };
            said.push(out);
        }
        said.pop().expect("a plan has a root")
    }
}

/// Checks a view's plan against its query.
pub(crate) fn check(view: &ViewPlan, query: LogicalPlan, total_order: bool) {
    let mut text = format!("{}", query.display_indent());
    let visible: Vec<usize> = (0..view.columns.len() - view.hidden).collect();
    // Which rows a limit keeps among equals is not said: only their number is compared.
    // (A test with a total order says so by ordering by id last; its rows must be the same.)
    let ties = ["Limit", "WindowAggr", "DistinctOn"].iter().any(|n| text.contains(n)) && !total_order;
    let query = Query::new(query).unwrap_or_else(|error| panic!("the query cannot be read: {error}"));
    text += &crate::explain::explain_stream(&view.job.plan);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let reads = Reads::new(ReadLimits::default()).expect("nothing is spilled yet");
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let mut tables = Database::of(query.plan());
        let mut runner = Runner::new(&view.job.plan, [1, 2, 4, 2][seed as usize]);
        let (mut rows, mut whole, mut keys) = (Counted::new(), Counted::new(), Counted::new());
        for epoch in 0..6 {
            let changes: BTreeMap<RelationId, Batch> =
                tables.0.iter_mut().map(|(id, table)| (*id, table.change(&mut random))).collect();
            let out = runner.epoch(&changes);
            accumulate(&mut whole, &out);
            if view.append_only {
                assert!(out.iter().all(|b| b.is_append_only()), "retracts although append-only\n{text}");
            }
            let shown: Vec<Batch> = out.iter().map(|b| b.project(&visible)).collect();
            accumulate(&mut rows, &shown);
            if view.unique && !view.stream_key.is_empty() {
                let keyed: Vec<Batch> = out.iter().map(|b| b.project(&view.stream_key)).collect();
                accumulate(&mut keys, &keyed);
                assert!(keys.values().all(|n| *n == 1), "a key is there twice: {keys:?}\n{text}");
            }
            let expected = runtime.block_on(async {
                let batches: Vec<RecordBatch> =
                    query.run(&[], &tables, &reads).await.unwrap().try_collect().await.unwrap();
                let mut expected = Counted::new();
                for batch in batches {
                    for row in 0..batch.num_rows() {
                        *expected.entry(row_text(&batch, row)).or_default() += 1;
                    }
                }
                expected
            });
            assert!(whole.values().all(|n| *n > 0), "a count below zero: {whole:?}\n{text}");
            if ties {
                assert_eq!(
                    rows.values().sum::<i64>(),
                    expected.values().sum::<i64>(),
                    "seed {seed}, epoch {epoch}\n{text}"
                );
            } else {
                assert_eq!(rows, expected, "seed {seed}, epoch {epoch}\n{text}");
            }
        }
    }
}
