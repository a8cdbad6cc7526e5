//! GROUPING SETS, ROLLUP, CUBE and `grouping()`.
//!
//! Each set is an aggregation of its own over the same input; what is not in a set is NULL there:
//!
//! ```text
//! GROUP BY ROLLUP (a)   =>   Union
//!                              Projection a, 0 AS grouping      Aggregate [a]
//!                              Projection NULL, 1 AS grouping   Aggregate []
//! ```

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Union};
use sqlparser::ast;
use storage::SqlType;

use super::literal::literal;
use super::names::{Call, Clause, GroupingCall};
use super::{Binder, Typed, at};
use crate::error::{Error, Result};
use crate::expr::column;
use crate::types;

/// Sets that Postgres allows.
const SETS_MAX: usize = 4096;

/// What a query is grouped by.
#[derive(Debug)]
pub(super) struct Grouping {
    /// The group expressions, each once.
    pub(super) exprs: Vec<Typed>,
    /// The grouping sets, as positions in `exprs`; one with all of them as a rule.
    pub(super) sets: Vec<Vec<usize>>,
}

impl Grouping {
    /// One group of everything.
    pub(super) fn none() -> Grouping {
        Grouping { exprs: vec![], sets: vec![vec![]] }
    }

    /// The position of an expression, added if it is new.
    pub(super) fn position(&mut self, typed: Typed) -> usize {
        match self.exprs.iter().position(|known| known.expr == typed.expr) {
            Some(known) => known,
            None => {
                self.exprs.push(typed);
                self.exprs.len() - 1
            }
        }
    }

    /// Combines each set so far with each of `alternatives`.
    pub(super) fn cross(&mut self, alternatives: &[Vec<usize>], place: Option<usize>) -> Result<()> {
        if self.sets.len() * alternatives.len() > SETS_MAX {
            let message = format!("too many grouping sets present (maximum {SETS_MAX})");
            return Err(at(Error::new("54001", message), place));
        }
        let combined = self.sets.iter().flat_map(|set| {
            alternatives.iter().map(move |more| {
                let mut both = set.clone();
                more.iter().filter(|i| !set.contains(i)).for_each(|i| both.push(*i));
                both
            })
        });
        self.sets = combined.collect();
        Ok(())
    }
}

/// `ROLLUP (a, b)`: `(a, b)`, `(a)` and `()`.
pub(super) fn rollup(items: &[Vec<usize>]) -> Vec<Vec<usize>> {
    (0..=items.len()).rev().map(|n| items[..n].concat()).collect()
}

/// `CUBE (a, b)`: every subset.
pub(super) fn cube(items: &[Vec<usize>], place: Option<usize>) -> Result<Vec<Vec<usize>>> {
    if items.len() > 12 {
        return Err(at(Error::new("54011", "CUBE is limited to 12 elements"), place));
    }
    let subsets = (0..1_usize << items.len()).rev();
    Ok(subsets
        .map(|bits| {
            let n = items.len();
            (0..n).filter(|i| bits >> (n - 1 - i) & 1 == 1).flat_map(|i| items[i].clone()).collect()
        })
        .collect())
}

impl Binder<'_> {
    /// `grouping(a, b)`: one bit per argument, the last the lowest; set where the row was not grouped by it.
    pub(super) fn grouping_call(&mut self, call: &ast::Function, place: Option<usize>) -> Result<Typed> {
        let refuse =
            |what: &str| at(Error::new("42601", format!("{what} specified, but grouping is not a function")), place);
        let args = self.within(Clause::AggregateArgument, |b| b.call_arguments(call, &refuse))?;
        if args.is_empty() || args.len() > 31 {
            return Err(at(Error::new("54023", "GROUPING must have between 1 and 31 arguments"), place));
        }
        let level = self.level_of(args.iter().map(|arg| &arg.expr), "grouping operations", place)?;
        let args = args.into_iter().map(|arg| Ok(Typed { expr: self.at_level(arg.expr, level)?, ..arg }));
        let args = args.collect::<Result<Vec<_>>>()?;
        let internal = self.fresh();
        self.scopes[level].groupings.push(GroupingCall { args, internal: internal.clone() });
        Ok(Typed::new(self.computed(level, internal, &SqlType::Int), SqlType::Int).at(place))
    }

    /// The aggregation of each set, and what stands for the group expressions above them.
    pub(super) fn grouping_sets(
        &mut self,
        plan: LogicalPlan,
        grouping: Grouping,
        calls: Vec<Call>,
        groupings: Vec<GroupingCall>,
    ) -> Result<(LogicalPlan, Vec<(Expr, String)>)> {
        let Grouping { exprs: group, sets } = grouping;
        // For each call of grouping(), the positions of its arguments.
        let mut bits = vec![];
        for call in &groupings {
            let mut positions = vec![];
            for arg in &call.args {
                let found = group.iter().position(|g| g.expr == arg.expr).ok_or_else(|| {
                    let message = "arguments to GROUPING must be grouping expressions of the associated query level";
                    at(Error::new("42803", message), arg.position)
                })?;
                positions.push(found);
            }
            bits.push(positions);
        }
        let mut names = vec![];
        let mut replaced = vec![];
        for item in &group {
            names.push(match &item.expr {
                Expr::Column(c) => c.name.clone(),
                other => {
                    let name = self.fresh();
                    replaced.push((other.clone(), name.clone()));
                    name
                }
            });
        }
        let mut inputs = vec![];
        for set in &sets {
            let members: Vec<Typed> = set.iter().map(|i| group[*i].clone()).collect();
            let (plan, own) = self.grouped(plan.clone(), members, calls.clone())?;
            let value = |i: usize| match (&group[i].expr, set.contains(&i)) {
                (_, false) => literal(types::text::null(&group[i].ty)),
                (Expr::Column(c), true) => column(&c.name),
                (expr, true) => column(own.iter().find(|(from, _)| from == expr).map_or(&names[i], |(_, name)| name)),
            };
            let mut exprs: Vec<Expr> = (0..group.len()).map(|i| value(i).alias(&names[i])).collect();
            exprs.extend(calls.iter().map(|call| column(&call.internal).alias(&call.internal)));
            for (call, positions) in groupings.iter().zip(&bits) {
                let mask = positions.iter().fold(0_i32, |mask, i| mask << 1 | i32::from(!set.contains(i)));
                exprs.push(literal(ScalarValue::Int32(Some(mask))).alias(&call.internal));
            }
            if exprs.is_empty() {
                // Rows without columns still count.
                exprs.push(literal(ScalarValue::Int32(Some(0))).alias("no_column"));
            }
            inputs.push(Arc::new(LogicalPlanBuilder::from(plan).project(exprs)?.build()?));
        }
        let plan = match inputs.len() {
            1 => inputs.swap_remove(0).as_ref().clone(),
            _ => {
                let schema = inputs[0].schema().clone();
                LogicalPlan::Union(Union { inputs, schema })
            }
        };
        Ok((plan, replaced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_rollup_and_cube() {
        let items = [vec![0], vec![1, 2]];
        assert_eq!(rollup(&items), [vec![0, 1, 2], vec![0], vec![]]);
        assert_eq!(cube(&items, None).unwrap(), [vec![0, 1, 2], vec![0], vec![1, 2], vec![]]);
    }
}
