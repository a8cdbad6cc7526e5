//! `SELECT .. FROM relation WHERE key = constant [AND more]`: straight to the store, without a planner.
//!
//! Prepared once: which value each key column has (a constant or a parameter), and the rest of the plan as steps over
//! the few rows that are found. A run is one lookup and these steps.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator, TableScan, TableSource};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use storage::{RelationId, RelationSnapshot};

use super::constant::one_batch;
use super::row_expr::{is_row_expr, param_index};
use super::{RelationSource, key_comparison};
use crate::error::{Error, Result};
use crate::expr::column;

/// A lookup by key that is ready to run.
pub struct PointLookup {
    relation: RelationId,
    name: String,
    /// The values of the key's columns, or of its first ones.
    key: Vec<Value>,
    key_types: Vec<DataType>,
    /// The relation's columns that the first step sees, before the parameters.
    columns: Vec<usize>,
    params: Vec<DataType>,
    steps: Vec<Step>,
    schema: SchemaRef,
}

enum Value {
    Constant(ScalarValue),
    Param(usize),
}

/// What happens to the rows that are found. Every step sees the parameters behind its columns.
enum Step {
    Filter(Arc<dyn PhysicalExpr>),
    Project(Vec<Arc<dyn PhysicalExpr>>),
}

impl PointLookup {
    /// The optimised plan as a lookup, if its key is given.
    pub fn prepare(plan: &LogicalPlan) -> Option<PointLookup> {
        let mut nodes = vec![];
        let mut node = plan;
        let scan: &TableScan = loop {
            match node {
                LogicalPlan::Projection(p) if p.expr.iter().all(is_row_expr) => {
                    nodes.push(node);
                    node = &p.input;
                }
                LogicalPlan::Filter(f) if is_row_expr(&f.predicate) => {
                    nodes.push(node);
                    node = &f.input;
                }
                LogicalPlan::SubqueryAlias(a) => node = &a.input,
                LogicalPlan::TableScan(scan) => break scan,
                _ => return None,
            }
        };
        if scan.fetch.is_some() {
            return None;
        }
        let source = RelationSource::of(scan)?;
        // The filters that were pushed to the scan are repeated above it.
        let equal = |k: usize| {
            scan.filters.iter().flat_map(split_conjunction).find_map(|filter| match key_comparison(source, filter) {
                Some((column, Operator::Eq, Expr::Literal(value, _))) if column == k => {
                    Some(Value::Constant(value.clone()))
                }
                Some((column, Operator::Eq, Expr::Placeholder(p))) if column == k => {
                    param_index(&p.id).map(Value::Param)
                }
                _ => None,
            })
        };
        let schema = TableSource::schema(source);
        let key: Vec<Value> = source.key().iter().map_while(|&k| equal(k)).collect();
        if key.is_empty() {
            return None;
        }
        let key_types = source.key().iter().map(|&k| schema.field(k).data_type().clone()).collect();

        // The parameters in the order of their numbers, each with the type that the binder gave it.
        let mut params: Vec<Option<DataType>> = vec![];
        for node in &nodes {
            for e in node.expressions() {
                e.apply(|e| {
                    if let Expr::Placeholder(p) = e
                        && let (Some(i), Some(field)) = (param_index(&p.id), &p.field)
                    {
                        params.resize(params.len().max(i + 1), None);
                        params[i] = Some(field.data_type().clone());
                    }
                    Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
                })
                .ok()?;
            }
        }
        let params: Vec<DataType> = params.into_iter().map(|p| p.unwrap_or(DataType::Null)).collect();

        let columns = scan.projection.clone().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let mut input = scan.projected_schema.as_ref().clone();
        let mut steps = vec![];
        for node in nodes.into_iter().rev() {
            let physical = |e: &Expr| physical(e, &input, &params);
            match node {
                LogicalPlan::Filter(f) => steps.push(Step::Filter(physical(&f.predicate)?)),
                LogicalPlan::Projection(p) => {
                    steps.push(Step::Project(p.expr.iter().map(physical).collect::<Option<_>>()?));
                    input = p.schema.as_ref().clone();
                }
                _ => return None,
            }
        }
        let fields: Vec<Field> =
            plan.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        Some(PointLookup {
            relation: source.relation(),
            name: source.name().to_string(),
            key,
            key_types,
            columns,
            params,
            steps,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// The relation that is looked into.
    pub fn relation(&self) -> RelationId {
        self.relation
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The columns that come out.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// All rows at once.
    pub fn run(&self, params: &[ScalarValue], snapshot: &RelationSnapshot) -> Result<RecordBatch> {
        let Some(key) = self.key(params)? else { return Ok(RecordBatch::new_empty(self.schema.clone())) };
        match snapshot.get(&key)? {
            Some(found) => self.rows(found.project(&self.columns)?, params),
            None => Ok(RecordBatch::new_empty(self.schema.clone())),
        }
    }

    /// The key as values; `None` if one of them is NULL, which equals nothing.
    fn key(&self, params: &[ScalarValue]) -> Result<Option<Vec<ArrayRef>>> {
        let mut key: Vec<ArrayRef> = Vec::with_capacity(self.key.len());
        for (value, data_type) in self.key.iter().zip(&self.key_types) {
            let value = match value {
                Value::Constant(value) => value,
                Value::Param(i) => params.get(*i).ok_or_else(|| no_param(*i))?,
            };
            if value.is_null() {
                return Ok(None);
            }
            if value.data_type() != *data_type {
                let message = format!("a key of type {data_type} is compared with {}", value.data_type());
                return Err(Error::new("XX000", message));
            }
            key.push(value.to_array_of_size(1)?);
        }
        Ok(Some(key))
    }

    /// What the steps make of the rows that were found.
    fn rows(&self, found: RecordBatch, params: &[ScalarValue]) -> Result<RecordBatch> {
        let mut rows = with_params(found, &self.params, params)?;
        let n_params = self.params.len();
        for step in &self.steps {
            match step {
                Step::Filter(predicate) => {
                    let keep = predicate.evaluate(&rows)?.into_array(rows.num_rows())?;
                    let keep = keep.as_boolean();
                    if keep.true_count() < rows.num_rows() {
                        rows = filter_record_batch(&rows, keep)?;
                    }
                    if rows.num_rows() == 0 {
                        return Ok(RecordBatch::new_empty(self.schema.clone()));
                    }
                }
                Step::Project(exprs) => {
                    let n = rows.num_rows();
                    let mut columns = Vec::with_capacity(exprs.len() + n_params);
                    for e in exprs {
                        columns.push(e.evaluate(&rows)?.into_array(n)?);
                    }
                    let first_param = rows.num_columns() - n_params;
                    columns.extend(rows.columns()[first_param..].iter().cloned());
                    rows = unnamed(columns, n)?;
                }
            }
        }
        let columns = rows.columns()[..rows.num_columns() - n_params].to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }

    /// The rows, as every query gives them. Those of a part of the key come one batch after the other.
    pub fn stream(
        self: &Arc<Self>,
        params: &[ScalarValue],
        snapshot: &RelationSnapshot,
    ) -> Result<SendableRecordBatchStream> {
        let spec = snapshot.spec();
        if self.key.len() == spec.key.len() && spec.unique {
            return Ok(one_batch(self.schema.clone(), self.run(params, snapshot)?));
        }
        let Some(key) = self.key(params)? else {
            return Ok(one_batch(self.schema.clone(), RecordBatch::new_empty(self.schema.clone())));
        };
        let options = &spec.key_options[..spec.key_options.len().min(key.len())];
        let prefix = storage::keys::encode_rows(&key, options, 1)?.get(0).to_vec();
        let found = snapshot.scan_range(Bound::Included(prefix.clone()), Bound::Included(prefix), Some(&self.columns));
        let (lookup, params) = (self.clone(), params.to_vec());
        let rows = found.map(move |batch| Ok(lookup.rows(batch.map_err(Error::from)?, &params)?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(rows))))
    }
}

fn no_param(i: usize) -> Error {
    Error::new("42P02", format!("there is no parameter ${}", i + 1))
}

/// The rows with each parameter as a column behind their own.
fn with_params(rows: RecordBatch, types: &[DataType], params: &[ScalarValue]) -> Result<RecordBatch> {
    let n = rows.num_rows();
    let mut columns = rows.columns().to_vec();
    for (i, data_type) in types.iter().enumerate() {
        columns.push(match data_type {
            DataType::Null => ScalarValue::Null.to_array_of_size(n)?,
            _ => params.get(i).ok_or_else(|| no_param(i))?.to_array_of_size(n)?,
        });
    }
    unnamed(columns, n)
}

/// A batch whose columns are found by position only.
fn unnamed(columns: Vec<ArrayRef>, n: usize) -> Result<RecordBatch> {
    let fields: Vec<Field> = columns.iter().map(|c| Field::new("", c.data_type().clone(), true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(n));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
}

/// The expression over the columns of `input` followed by the parameters.
fn physical(e: &Expr, input: &DFSchema, params: &[DataType]) -> Option<Arc<dyn PhysicalExpr>> {
    let param = |i: usize| format!("__param_{}", i + 1);
    let e = e.clone().transform_up(|e| match &e {
        Expr::Placeholder(p) => Ok(match param_index(&p.id) {
            Some(i) if i < params.len() => Transformed::yes(column(param(i))),
            _ => Transformed::no(e),
        }),
        _ => Ok(Transformed::no(e)),
    });
    let mut fields: Vec<_> = input.iter().map(|(q, f)| (q.cloned(), f.clone())).collect();
    fields.extend(params.iter().enumerate().map(|(i, t)| (None, Arc::new(Field::new(param(i), t.clone(), true)))));
    let schema = DFSchema::new_with_metadata(fields, Default::default()).ok()?;
    create_physical_expr(&e.ok()?.data, &schema, &ExecutionProps::new(), &PhysicalPlanningContext::default()).ok()
}
