//! Finds the columns that identify a row of a plan, and carries them up to its output.
//!
//! | node              | key                                                                         |
//! |-------------------|-----------------------------------------------------------------------------|
//! | scan              | the relation's key, if it is unique                                         |
//! | filter, sort, ... | the input's                                                                 |
//! | project           | the input's; columns that are not selected are added behind the output      |
//! | aggregate         | the group columns; none without groups (one row)                            |
//! | inner, left join  | both sides' keys, or one side's if the other side is found by its whole key |
//! | full join         | both sides' keys, if neither can be NULL                                    |
//! | semi, anti, mark  | the left side's                                                             |
//! | top-n, tumble     | the input's                                                                 |
//! | hop, cumulate     | the input's and the window's bounds                                         |
//! | ASOF join         | the left side's                                                             |
//! | temporal join     | the left side's; as of now, if the right side is found by its whole key     |
//! | INTERSECT, EXCEPT | the whole row; none with ALL                                                |
//! | union, values     | none: rows are counted                                                      |

use datafusion::common::{Column, JoinType, Result as DfResult};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Projection};

use crate::batch::RelationSource;
use crate::error::Result;
use crate::nodes::{AsofJoin, SetOperation, SingleRow, TemporalFilter, TemporalJoin, TimeWindow, TopN, node_of};

/// Columns of a plan that are different for each of its rows. Empty: there is at most one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The columns.
    pub columns: Vec<Column>,
    /// Whether all of them can be NULL in one row, so that the padding of an outer join could be mistaken for it.
    nullable: bool,
}

/// The plan with the columns of its key behind its own where they were missing, and the key. No key: rows have to be
/// counted.
pub fn with_keys(plan: LogicalPlan) -> Result<(LogicalPlan, Option<Key>)> {
    Ok(rewrite(plan)?)
}

fn rewrite(plan: LogicalPlan) -> DfResult<(LogicalPlan, Option<Key>)> {
    match plan {
        LogicalPlan::TableScan(ref scan) => {
            let key = RelationSource::of(scan).filter(|source| source.is_unique()).map(|source| {
                let names = scan.source.schema();
                let names = source.key().iter().map(|&i| names.field(i).name().clone());
                Key { columns: names.map(|n| Column::new(Some(scan.table_name.clone()), n)).collect(), nullable: false }
            });
            // A pruned scan has lost columns; plans come here unpruned.
            let key = key.filter(|key| key.columns.iter().all(|c| scan.projected_schema.has_column(c)));
            Ok((plan, key))
        }
        LogicalPlan::EmptyRelation(_) => Ok((plan, Some(Key { columns: vec![], nullable: true }))),
        LogicalPlan::Projection(projection) => {
            let (input, key) = rewrite(projection.input.as_ref().clone())?;
            let mut exprs = projection.expr;
            let names = projection.schema.columns();
            let key = key.map(|key| {
                let columns = key.columns.into_iter().map(|column| {
                    let selected = exprs.iter().position(
                        |e| matches!(unaliased(e), Expr::Column(c) if *c == column || same(c, &column, &input)),
                    );
                    match selected {
                        Some(i) if i < names.len() => names[i].clone(),
                        _ => {
                            exprs.push(Expr::Column(column.clone()));
                            column
                        }
                    }
                });
                Key { columns: columns.collect(), nullable: key.nullable }
            });
            Ok((LogicalPlan::Projection(Projection::try_new(exprs, input.into())?), key))
        }
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) | LogicalPlan::Window(_) => {
            let (input, key) = rewrite(plan.inputs()[0].clone())?;
            Ok((plan.with_new_exprs(plan.expressions(), vec![input])?, key))
        }
        LogicalPlan::SubqueryAlias(ref alias) => {
            let (input, key) = rewrite(alias.input.as_ref().clone())?;
            let key = key.map(|key| Key {
                columns: key.columns.iter().map(|c| Column::new(Some(alias.alias.clone()), &c.name)).collect(),
                nullable: key.nullable,
            });
            Ok((plan.with_new_exprs(vec![], vec![input])?, key))
        }
        LogicalPlan::Aggregate(ref aggregate) => {
            if aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
                return Ok((plan, None));
            }
            // A constant tells no groups apart.
            let columns = aggregate.schema.columns().into_iter().zip(&aggregate.group_expr);
            let columns =
                columns.filter(|(_, e)| !matches!(unaliased(e), Expr::Literal(..))).map(|(column, _)| column).collect();
            Ok((plan, Some(Key { columns, nullable: true })))
        }
        LogicalPlan::Join(join) => rewrite_join(join),
        LogicalPlan::Extension(_) if node_of::<TopN>(&plan).is_some() || node_of::<TemporalFilter>(&plan).is_some() => {
            let (input, key) = rewrite(plan.inputs()[0].clone())?;
            Ok((plan.with_new_exprs(plan.expressions(), vec![input])?, key))
        }
        LogicalPlan::Extension(_) if node_of::<TimeWindow>(&plan).is_some() => {
            let (input, key) = rewrite(plan.inputs()[0].clone())?;
            let plan = plan.with_new_exprs(plan.expressions(), vec![input])?;
            let one = node_of::<TimeWindow>(&plan).is_some_and(|node| node.windows.shape.windows_max() == 1);
            let bounds = plan.schema().columns();
            let bounds = bounds[bounds.len() - 2..].iter().cloned().filter(|_| !one);
            let key = key.map(|key| Key {
                columns: key.columns.into_iter().chain(bounds).collect(),
                nullable: key.nullable && one,
            });
            Ok((plan, key))
        }
        LogicalPlan::Extension(_) if node_of::<SingleRow>(&plan).is_some() => {
            Ok((plan, Some(Key { columns: vec![], nullable: true })))
        }
        LogicalPlan::Extension(_) if node_of::<AsofJoin>(&plan).is_some() => {
            let [left, right] = plan.inputs()[..] else { return Ok((plan, None)) };
            let (right, (left, key)) = (right.clone(), rewrite(left.clone())?);
            Ok((plan.with_new_exprs(plan.expressions(), vec![left, right])?, key))
        }
        LogicalPlan::Extension(_) if node_of::<TemporalJoin>(&plan).is_some() => {
            let Some(join) = node_of::<TemporalJoin>(&plan) else { return Ok((plan, None)) };
            let ((left, key), (right, found)) = (rewrite(join.left.clone())?, rewrite(join.right.clone())?);
            let on: Vec<&Expr> = join.on.iter().map(|(_, r)| r).collect();
            // Of a key there is one version at a time.
            let one = join.versions.is_some() || found.is_some_and(|found| found_by(&found, &on, &right));
            let key = key.filter(|_| one);
            Ok((plan.with_new_exprs(plan.expressions(), vec![left, right])?, key))
        }
        LogicalPlan::Extension(_) if node_of::<SetOperation>(&plan).is_some_and(|operation| !operation.all) => {
            let columns = plan.schema().columns();
            Ok((plan, Some(Key { columns, nullable: true })))
        }
        plan => Ok((plan, None)),
    }
}

fn rewrite_join(join: Join) -> DfResult<(LogicalPlan, Option<Key>)> {
    let (left, left_key) = rewrite(join.left.as_ref().clone())?;
    if matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark) {
        let right = join.right.as_ref().clone();
        let plan = LogicalPlan::Join(join);
        return Ok((plan.with_new_exprs(plan.expressions(), vec![left, right])?, left_key));
    }
    if matches!(join.join_type, JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark) {
        return Ok((LogicalPlan::Join(join), None));
    }
    let (right, right_key) = rewrite(join.right.as_ref().clone())?;
    let kind = join.join_type;
    let key = match (left_key, right_key) {
        (Some(l), Some(r)) => {
            let (on_left, on_right): (Vec<&Expr>, Vec<&Expr>) = join.on.iter().map(|(l, r)| (l, r)).unzip();
            // Each row of the one side meets at most one of the other.
            let one_right = found_by(&r, &on_right, &right);
            let one_left = found_by(&l, &on_left, &left);
            match kind {
                JoinType::Inner | JoinType::Left if one_right => Some(l),
                JoinType::Inner | JoinType::Right if one_left => Some(r),
                JoinType::Full if l.nullable || r.nullable => None,
                _ => {
                    let columns = l.columns.into_iter().chain(r.columns).collect();
                    Some(Key { columns, nullable: l.nullable && r.nullable || kind == JoinType::Full })
                }
            }
        }
        _ => None,
    };
    let plan = LogicalPlan::Join(join);
    Ok((plan.with_new_exprs(plan.expressions(), vec![left, right])?, key))
}

/// Whether the equalities fix every column of the key.
fn found_by(key: &Key, on: &[&Expr], input: &LogicalPlan) -> bool {
    key.columns.iter().all(|k| on.iter().any(|e| matches!(e, Expr::Column(c) if same(c, k, input))))
}

/// Whether two references name the same column of `input`.
fn same(a: &Column, b: &Column, input: &LogicalPlan) -> bool {
    let schema = input.schema();
    matches!((schema.index_of_column(a), schema.index_of_column(b)), (Ok(a), Ok(b)) if a == b)
}

fn unaliased(e: &Expr) -> &Expr {
    match e {
        Expr::Alias(alias) => unaliased(&alias.expr),
        e => e,
    }
}
