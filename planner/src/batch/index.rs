//! Reads through an index where its first columns are compared with constants and the relation's own key is not.
//!
//! ```text
//! Filter city = 'Bern'                 Filter city = 'Bern'
//!   TableScan customers (key id)   =>    TableScan customers_city_idx (key city, id): city = 'Bern'
//! ```
//!
//! An index holds every column of its relation, so that it stands in for it under the same names.

use std::sync::Arc;

use arrow_schema::Schema;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Operator, TableScan, TableScanBuilder, TableSource};
use storage::RelationId;

use super::{RelationSource, key_comparison};
use crate::catalog::{Catalog, Object, ObjectKind};
use crate::error::Result;

/// The optimised plan with indexes in the place of relations where that reads less; `None` if there is no such place.
pub fn use_indexes(plan: &LogicalPlan, catalog: &Catalog) -> Result<Option<LogicalPlan>> {
    let plan = plan.clone().transform_up_with_subqueries(|node| {
        let LogicalPlan::Filter(filter) = &node else { return Ok(Transformed::no(node)) };
        let LogicalPlan::TableScan(scan) = filter.input.as_ref() else { return Ok(Transformed::no(node)) };
        let Some(source) = RelationSource::of(scan) else { return Ok(Transformed::no(node)) };
        let terms = split_conjunction(&filter.predicate);
        let mut best = (found_by(source, &terms), None);
        for index in indexes(catalog, source.relation()) {
            let candidate = stand_in(source, index);
            let score = found_by(&candidate, &terms);
            if score > best.0 {
                best = (score, Some(candidate));
            }
        }
        let (_, Some(index)) = best else { return Ok(Transformed::no(node)) };
        let scan = over(scan, index, &terms)?;
        let filter = Filter::try_new(filter.predicate.clone(), Arc::new(LogicalPlan::TableScan(scan)))?;
        Ok(Transformed::yes(LogicalPlan::Filter(filter)))
    })?;
    Ok(plan.transformed.then_some(plan.data))
}

fn indexes(catalog: &Catalog, relation: RelationId) -> impl Iterator<Item = &Arc<Object>> {
    let of = move |o: &&Arc<Object>| o.kind == ObjectKind::Index && o.depends_on.contains(&relation);
    catalog.objects().filter(of)
}

/// How much of the key the conditions fix: two for each column that is equal to a constant, one for a range behind.
fn found_by(source: &RelationSource, terms: &[&Expr]) -> usize {
    let compared = |column: usize, equal: bool| {
        let ops = terms.iter().filter_map(|t| key_comparison(source, t)).filter(|(c, ..)| *c == column);
        ops.map(|(_, op, _)| op).any(|op| (op == Operator::Eq) == equal)
    };
    let equal = source.key().iter().take_while(|&&c| compared(c, true)).count();
    let range = source.key().get(equal).is_some_and(|&c| compared(c, false));
    2 * equal + usize::from(range)
}

/// The index as a source whose columns are called as the relation's are.
fn stand_in(source: &RelationSource, index: &Object) -> RelationSource {
    let schema = TableSource::schema(source);
    let fields: Vec<_> = index.source_columns.iter().map(|&c| schema.field(c).clone()).collect();
    let names = index.source_columns.iter().map(|&c| source.columns()[c].clone()).collect();
    RelationSource::new(index.id, Arc::new(Schema::new(fields)), index.stream_key.clone())
        .named(&index.name, names)
        .unique(index.unique)
}

/// The scan of the index that gives the same columns as `scan`.
fn over(scan: &TableScan, index: RelationSource, terms: &[&Expr]) -> datafusion::common::Result<TableScan> {
    let schema = TableSource::schema(&index);
    let names = scan.projected_schema.fields().iter().map(|f| schema.index_of(f.name()));
    let projection = names.collect::<Result<Vec<_>, _>>()?;
    let filters = terms.iter().filter(|t| key_comparison(&index, t).is_some()).map(|t| (*t).clone()).collect();
    TableScanBuilder::new(scan.table_name.clone(), Arc::new(index))
        .with_projection(Some(projection))
        .with_filters(filters)
        .with_fetch(scan.fetch)
        .build()
}
