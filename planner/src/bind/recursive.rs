//! WITH RECURSIVE: a query whose second part reads what the first one, and it itself, have found so far.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::common::JoinType;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, RecursiveQuery, Subquery};
use sqlparser::ast;

use super::names::{fold, start_of};
use super::select::CteKind;
use super::{Binder, BoundQuery, Cte, OutField, at};
use crate::error::{Error, Result};
use crate::expr::column;
use crate::expr::subquery_of;
use crate::functions::common_type;
use crate::types;

impl Binder<'_> {
    /// A query of WITH RECURSIVE. `None` if it does not look like one that reads itself.
    pub(super) fn recursive(
        &mut self,
        name: &str,
        columns: &[ast::Ident],
        query: &ast::Query,
    ) -> Result<Option<BoundQuery>> {
        let ast::SetExpr::SetOperation { left, op: ast::SetOperator::Union, set_quantifier, right } =
            query.body.as_ref()
        else {
            return Ok(None);
        };
        if query.with.is_some() {
            return Ok(None);
        }
        let distinct = !matches!(set_quantifier, ast::SetQuantifier::All);
        let first = self.set_expr(left)?;
        let first = self.without_unknowns(first)?;
        let mut fields: Vec<OutField> =
            first.fields.iter().map(|f| OutField { internal: self.fresh(), ..f.clone() }).collect();
        for (field, name) in fields.iter_mut().zip(columns) {
            field.name = fold(name);
        }
        let first = self.matched(first, &fields)?;
        // What the last round found, under the same names: the two never meet.
        let schema =
            Schema::new(fields.iter().map(|f| Field::new(&f.internal, f.ty.arrow(), true)).collect::<Vec<_>>());
        let work = self.fresh();
        let table = provider_as_source(Arc::new(CteWorkTable::new(&work, Arc::new(schema))));
        let scan = LogicalPlanBuilder::scan(&work, table, None)?
            .project(fields.iter().map(|f| column(&f.internal).alias(&f.internal)))?
            .build()?;
        let bound = BoundQuery { plan: scan, fields: fields.clone() };
        let (name_of, kind) = (name.to_string(), CteKind::LastRound);
        self.ctes.push(Cte { name: name_of, columns: vec![], query: query.clone().into(), bound: Some(bound), kind });
        let next = self.set_expr(right);
        let reads_itself = self.ctes.pop().is_some_and(|cte| cte.bound.is_none());
        let next = next?;
        if !reads_itself {
            return Ok(None);
        }
        if query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
            let error = Error::unsupported("ORDER BY and LIMIT in a recursive query are not implemented");
            return Err(at(error, start_of(query)));
        }
        let place = start_of(right.as_ref());
        if next.fields.len() != fields.len() {
            let error = Error::new("42601", "each UNION query must have the same number of columns");
            return Err(at(error, place));
        }
        for (i, (field, new)) in fields.iter().zip(&next.fields).enumerate() {
            let all = common_type(&[field.ty.clone(), new.ty.clone()]);
            if all.as_ref() != Some(&field.ty) {
                let (have, all) = (types::name(&field.ty), types::name(all.as_ref().unwrap_or(&new.ty)));
                let message = format!(
                    "recursive query \"{name}\" column {} has type {have} in non-recursive term but type {all} overall",
                    i + 1
                );
                return Err(at(Error::new("42804", message), start_of(left.as_ref()))
                    .with_hint("Cast the output of the non-recursive term to the correct type."));
            }
            if distinct && crate::functions::key(&field.ty).is_some() {
                let error = Error::unsupported(format!("a recursive UNION of type {}", types::name(&field.ty)));
                return Err(at(error, place).with_hint("Cast the column to another type, or write UNION ALL."));
            }
        }
        let next = self.matched(next, &fields)?;
        reads_row_by_row(&next, &work, name).map_err(|e| at(e, place))?;
        let plan = RecursiveQuery::try_new(work, first.into(), next.into(), distinct)?;
        Ok(Some(BoundQuery { plan: LogicalPlan::RecursiveQuery(plan), fields }))
    }
}

/// Checks that each row of the last round is looked at on its own: then what is found does not depend on how the rounds
/// are cut. Returns whether the plan reads the last round at all.
fn reads_row_by_row(plan: &LogicalPlan, work: &str, name: &str) -> Result<bool> {
    let mut reads = vec![];
    for input in plan.inputs() {
        reads.push(reads_row_by_row(input, work, name)?);
    }
    if let LogicalPlan::TableScan(scan) = plan {
        return Ok(scan.table_name.table() == work);
    }
    let in_subquery = plan.expressions().iter().any(|e| subquery_reads(e, work));
    let refused = |what: &str| {
        let message = format!("recursive reference to query \"{name}\" must not appear within {what}");
        Err(Error::new("42P19", message))
    };
    if in_subquery {
        return refused("a subquery");
    }
    if !reads.contains(&true) {
        return Ok(false);
    }
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => Ok(true),
        LogicalPlan::Join(join) => match (join.join_type, reads.as_slice()) {
            (JoinType::Inner, _) | (JoinType::Left, [true, false]) | (JoinType::Right, [false, true]) => Ok(true),
            _ => refused("an outer join"),
        },
        LogicalPlan::Aggregate(_) => {
            Err(Error::new("42P19", "aggregate functions are not allowed in a recursive query's recursive term"))
        }
        LogicalPlan::Subquery(_) => refused("a subquery"),
        _ => Err(Error::unsupported("this form of recursive query is not supported")
            .with_hint("The recursive term may select, filter and join.")),
    }
}

fn subquery_reads(e: &datafusion::logical_expr::Expr, work: &str) -> bool {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut found = false;
    let _ = e.apply(|e| {
        if let Some(Subquery { subquery: plan, .. }) = subquery_of(e) {
            plan.apply_with_subqueries(|node| {
                found |= matches!(node, LogicalPlan::TableScan(scan) if scan.table_name.table() == work);
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
