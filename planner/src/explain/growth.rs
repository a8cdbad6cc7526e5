//! What bounds the state of an operator that no watermark bounds: the different values of columns, a limit, or the rows
//! of its inputs, which come and go, or only come.

use streaming::operator::Operator;
use streaming::operators::AnyOperator;
use streaming::operators::top_n::RankKind;
use streaming::plan::Plan;

use super::{append_only, names};

/// What bounds what the node `i` keeps, if what it keeps does not say so already.
pub(super) fn of(plan: &Plan, i: usize) -> Option<String> {
    let node = &plan.nodes[i];
    let schema = |n: usize| plan.nodes[node.inputs[n]].operator.schema();
    let rows = |sides: &[usize]| Some(rows(plan, sides.iter().map(|&side| node.inputs[side]).collect()));
    match &node.operator {
        AnyOperator::Aggregate(aggregate) => {
            let mut columns = aggregate.group.clone();
            let keeping = aggregate.calls.iter().filter(|call| call.keeps_values(aggregate.append_only));
            for &arg in keeping.flat_map(|call| &call.args) {
                if !columns.contains(&arg) {
                    columns.push(arg);
                }
            }
            (!columns.is_empty()).then(|| distinct(names(&columns, &schema(0))))
        }
        AnyOperator::Distinct(_) => Some(distinct(super::columns(&schema(0)))),
        AnyOperator::SetOperation(operation) => Some(distinct(names(&operation.keys[0], &schema(0)))),
        AnyOperator::TopN(top_n) => match (top_n.append_only, top_n.limit) {
            (true, Some(limit)) => {
                let most = match limit.saturating_add(top_n.offset) {
                    1 => "1 row".to_string(),
                    n => format!("{n} rows"),
                };
                let ties = if top_n.rank.kind == RankKind::RowNumber { "" } else { " and their ties" };
                Some(match names(&top_n.partition, &schema(0)).as_str() {
                    "" => format!("at most {most}{ties}"),
                    keys => format!("at most {most}{ties} per {keys}, grows with distinct {keys}"),
                })
            }
            _ => rows(&[0]),
        },
        AnyOperator::HashJoin(join) => {
            let interval = join
                .ranges
                .iter()
                .all(|range| range.as_ref().is_some_and(|range| range.above.is_some() && range.below.is_some()));
            let said = interval || join.expiry.iter().any(Option::is_some);
            if said { None } else { rows(&[0, 1]) }
        }
        AnyOperator::AsofJoin(_) => rows(&[0, 1]),
        AnyOperator::TemporalJoin(_) => rows(&[1]),
        AnyOperator::LookupJoin(join) if !join.append_only => rows(&[0]),
        AnyOperator::Window(_) => rows(&[0]),
        AnyOperator::TemporalFilter(filter) if !filter.rises => rows(&[0]),
        AnyOperator::Recursive(_) => Some("grows with the rows of all rounds".into()),
        _ => None,
    }
}

fn distinct(columns: String) -> String {
    format!("grows with distinct {columns}")
}

/// What bounds the rows of some inputs.
fn rows(plan: &Plan, inputs: Vec<usize>) -> String {
    let growing: Vec<bool> =
        inputs.into_iter().map(|input| append_only(plan, input) && !constant(plan, input)).collect();
    match growing[..] {
        [true, false] => "grows with every row of the left",
        [false, true] => "grows with every row of the right",
        [true, ..] => "grows with every row",
        _ => "as many as there are",
    }
    .into()
}

/// Whether a node's rows never change.
fn constant(plan: &Plan, i: usize) -> bool {
    let node = &plan.nodes[i];
    match &node.operator {
        AnyOperator::Values(_) => true,
        AnyOperator::Filter(_) | AnyOperator::Project(_) | AnyOperator::UnionAll(_) | AnyOperator::Distinct(_) => {
            node.inputs.iter().all(|&input| constant(plan, input))
        }
        _ => false,
    }
}
