//! The plans of jobs: what a view, a table, a source and an index keep, and by which key.

use std::sync::Arc;

use ::arrow_schema::{DataType, Field, SchemaRef};
use datafusion::logical_expr::{Expr as DfExpr, LogicalPlan, LogicalPlanBuilder, cast};
use storage::keys::SortOption;
use storage::types::arrow_schema;
use storage::{Column, RelationId, SqlType};
use streaming::engine::{JobSpec, Keeping};
use streaming::operators::{Materialize, Source, TableSource, TapReader};
use streaming::plan::Plan;
use streaming::source::SourceSpec;
use streaming::watermark::Watermarks;

use super::lower;
use crate::bind::{Bound, Settings, bind_view};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::rules;
use crate::statement::Query;

/// What is to be created for `CREATE MATERIALIZED VIEW`.
#[derive(Clone, Debug)]
pub struct ViewPlan {
    /// The job.
    pub job: JobSpec,
    /// The relation's columns; the last `hidden` of them were not asked for.
    pub columns: Vec<Column>,
    /// The number of columns that are only there to tell rows apart.
    pub hidden: usize,
    /// The columns that rows are kept by.
    pub stream_key: Vec<usize>,
    /// Whether the key identifies a row; otherwise it is the whole row and rows are counted.
    pub unique: bool,
    /// Whether rows are never retracted.
    pub append_only: bool,
    /// Per column whether it has a watermark, and of what kind.
    pub watermarks: Watermarks,
    /// What it reads.
    pub depends_on: Vec<RelationId>,
}

/// Plans `CREATE MATERIALIZED VIEW name [(names)] AS query`. `allocate` gives ids for the view and for its errors.
pub fn plan_view(
    catalog: &Catalog,
    settings: &Settings,
    name: &str,
    names: &[String],
    query: &Query,
    allocate: &mut dyn FnMut() -> RelationId,
) -> Result<ViewPlan> {
    let bound = bind_view(catalog, settings, query)?;
    plan_bound_view(bound, name, names, allocate)
}

/// Plans a view of a bound query; the first columns are renamed to `names`.
pub fn plan_bound_view(
    bound: Bound,
    name: &str,
    names: &[String],
    allocate: &mut dyn FnMut() -> RelationId,
) -> Result<ViewPlan> {
    if names.len() > bound.columns.len() {
        return Err(Error::new("42601", "too many column names were specified"));
    }
    let mut columns: Vec<Column> = Vec::with_capacity(bound.columns.len());
    for (i, output) in bound.columns.into_iter().enumerate() {
        let name = names.get(i).cloned().unwrap_or(output.name);
        if columns.iter().any(|c| c.name == name) {
            return Err(Error::new("42701", format!("column \"{name}\" specified more than once")));
        }
        let ty = if output.ty == SqlType::Unknown { SqlType::Text } else { output.ty };
        columns.push(Column { name, ty, typmod: output.typmod, not_null: false });
    }
    let mut view = view_of(name, allocate(), allocate(), bound.plan, bound.switches, columns)?;
    view.depends_on = bound.relations;
    Ok(view)
}

/// Plans a view of the bound query `plan`, whose columns are to be called and typed as `columns` says.
pub fn view_of(
    name: &str,
    relation: RelationId,
    errors: RelationId,
    plan: LogicalPlan,
    switches: rules::Switches,
    mut columns: Vec<Column>,
) -> Result<ViewPlan> {
    let (plan, key) = rules::optimize_stream(plan, switches)?;
    let (plan, key) = match key {
        Some(key) => {
            let positions = key.columns.iter().map(|c| plan.schema().index_of_column(c));
            let key = positions.collect::<datafusion::common::Result<Vec<_>>>()?;
            (plan, Some(key))
        }
        None => (plan, None),
    };
    let visible = columns.len();
    let plan = storable(plan, visible)?;
    for (i, f) in plan.schema().fields().iter().enumerate().skip(visible) {
        let ty =
            sql_type(f.data_type()).ok_or_else(|| super::unsupported(&format!("a key of type {}", f.data_type())))?;
        columns.push(Column::new(format!("_key_{}", i - visible + 1), ty));
    }
    let names: Vec<String> = columns.iter().map(|c| c.name.clone()).collect();
    let lowered = lower(&plan, &names, switches)?;
    let schema = arrow_schema(&columns);
    for (i, (have, want)) in lowered.schema.fields().iter().zip(schema.fields()).enumerate() {
        if have.data_type() != want.data_type() {
            let column = &names[i];
            return Err(Error::new(
                "XX000",
                format!(
                    "column \"{column}\" has type {} in the plan and {} in the view",
                    have.data_type(),
                    want.data_type()
                ),
            ));
        }
    }
    let hidden = columns.len() - visible;
    let (stream_key, unique) = match key {
        Some(mut key) => {
            let mut seen = std::collections::BTreeSet::new();
            key.retain(|c| seen.insert(*c));
            (key, true)
        }
        None => ((0..columns.len()).collect(), false),
    };
    let mut plan = lowered.plan;
    let root = plan.nodes.len() - 1;
    let operator = Materialize { relation, key: stream_key.clone(), key_order: vec![], unique, schema };
    plan.add(operator, vec![root]);
    let job = JobSpec {
        relation,
        name: name.to_string(),
        plan,
        columns: columns.clone(),
        errors,
        keeping: Keeping::default(),
    };
    let (append_only, watermarks) = (lowered.append_only, lowered.watermarks);
    Ok(ViewPlan { job, columns, hidden, stream_key, unique, append_only, watermarks, depends_on: vec![] })
}

/// Hidden key columns whose Arrow type no SQL type has (comparison keys of numerics and intervals) as their bytes.
fn storable(plan: LogicalPlan, visible: usize) -> Result<LogicalPlan> {
    let fits = |(i, f): (usize, &Arc<Field>)| i < visible || sql_type(f.data_type()).is_some();
    if plan.schema().fields().iter().enumerate().all(fits) {
        return Ok(plan);
    }
    let columns = plan.schema().columns();
    let exprs: Vec<DfExpr> = (columns.into_iter().zip(plan.schema().fields()).enumerate())
        .map(|(i, (column, f))| {
            let name = column.name.clone();
            let column = DfExpr::Column(column);
            match f.data_type() {
                _ if i < visible || sql_type(f.data_type()).is_some() => column,
                DataType::FixedSizeBinary(_) => cast(column, DataType::BinaryView).alias(name),
                DataType::Decimal128(..) => cast(column, DataType::Utf8View).alias(name),
                _ => column,
            }
        })
        .collect();
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// A SQL type that has this representation.
pub(super) fn sql_type(data_type: &DataType) -> Option<SqlType> {
    use SqlType::*;
    let candidates = [
        Boolean,
        SmallInt,
        Int,
        BigInt,
        Real,
        Double,
        Numeric,
        Text,
        Bytea,
        Date,
        Time,
        Timestamp,
        TimestampTz,
        Interval,
        Uuid,
    ];
    if let DataType::List(item) = data_type {
        return sql_type(item.data_type()).map(|item| Array(Box::new(item)));
    }
    candidates.into_iter().find(|ty| ty.arrow() == *data_type)
}

/// Plans a table: its changes, kept by its primary key. `columns` holds the hidden `_row_id` too if there is no key.
pub fn plan_table(
    name: &str,
    relation: RelationId,
    errors: RelationId,
    columns: Vec<Column>,
    key: Vec<usize>,
) -> JobSpec {
    let schema = arrow_schema(&columns);
    let mut plan = Plan::default();
    let changes = plan.add(
        TableSource { relation, event_time: None, ttl: None, processing_time: vec![], schema: schema.clone() },
        vec![],
    );
    plan.add(Materialize { relation, key, key_order: vec![], unique: true, schema }, vec![changes]);
    JobSpec { relation, name: name.to_string(), plan, columns, errors, keeping: Keeping::default() }
}

/// Plans a source: it is read by who taps it and kept nowhere. `columns` are the declared ones; the job's end with
/// the hidden `_row_id`.
pub fn plan_source(name: &str, relation: RelationId, errors: RelationId, spec: SourceSpec) -> JobSpec {
    let mut columns = spec.columns.clone();
    let mut row_id = Column::new("_row_id", SqlType::BigInt);
    row_id.not_null = true;
    columns.push(row_id);
    let mut plan = Plan::default();
    plan.add(Source { spec, event_time: None, schema: arrow_schema(&columns) }, vec![]);
    JobSpec { relation, name: name.to_string(), plan, columns, errors, keeping: Keeping::default() }
}

/// What is to be created for `CREATE INDEX`.
#[derive(Clone, Debug)]
pub struct IndexPlan {
    /// The job.
    pub job: JobSpec,
    /// Per column of the index the column of the indexed relation that it holds.
    pub source_columns: Vec<usize>,
    /// The columns of the index that its rows are ordered by: the indexed ones, then the relation's key.
    pub key: Vec<usize>,
}

/// An indexed relation.
pub struct Indexed<'a> {
    /// Its id.
    pub relation: RelationId,
    /// Its name.
    pub name: &'a str,
    /// Its columns, hidden ones included.
    pub columns: &'a [Column],
    /// Its key.
    pub key: &'a [usize],
    /// Whether the key identifies a row.
    pub unique: bool,
    /// Whether its rows are never retracted.
    pub append_only: bool,
}

/// Plans an index: all columns of the relation, the indexed ones first, ordered by them and the relation's key.
pub fn plan_index(
    name: &str,
    relation: RelationId,
    errors: RelationId,
    on: &Indexed,
    index_columns: &[(usize, SortOption)],
) -> IndexPlan {
    let key_order: Vec<SortOption> = index_columns.iter().map(|c| c.1).collect();
    let index_columns: Vec<usize> = index_columns.iter().map(|c| c.0).collect();
    let rest = (0..on.columns.len()).filter(|c| !index_columns.contains(c));
    let source_columns: Vec<usize> = index_columns.iter().copied().chain(rest).collect();
    let columns: Vec<Column> = source_columns.iter().map(|&c| on.columns[c].clone()).collect();
    let mut key: Vec<usize> = (0..index_columns.len()).collect();
    for k in on.key {
        let place = source_columns.iter().position(|c| c == k).expect("the index holds every column");
        if !key.contains(&place) {
            key.push(place);
        }
    }
    let schema: SchemaRef = arrow_schema(&columns);
    let mut plan = Plan::default();
    let reader = TapReader {
        relation: on.relation,
        name: on.name.to_string(),
        columns: source_columns.clone(),
        append_only: on.append_only,
        history: None,
        watermarks: vec![],
        schema: schema.clone(),
    };
    let reader = plan.add(reader, vec![]);
    plan.add(Materialize { relation, key: key.clone(), key_order, unique: on.unique, schema }, vec![reader]);
    let job = JobSpec { relation, name: name.to_string(), plan, columns, errors, keeping: Keeping::default() };
    IndexPlan { job, source_columns, key }
}
