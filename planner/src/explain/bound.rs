//! What bounds the state of an operator: the watermark that drops it, and how long after.

use arrow_schema::DataType;
use streaming::operator::Operator;
use streaming::plan::Plan;
use streaming::watermark::Watermark;

use super::duration;
use crate::functions;

/// A moment at which to look: the first of January 2024.
const MOMENT: i64 = 1_704_067_200_000_000;
/// How long is looked for the moment at which something is dropped: about a thousand years.
const LOOK: i64 = 1 << 55;

/// What bounds what the node `i` keeps, if watermarks do.
pub(super) fn of(plan: &Plan, i: usize) -> Option<String> {
    let node = &plan.nodes[i];
    let columns = node.operator.expires_by();
    let known = |at: i64| {
        let marks = plan.watermarks(&functions::engine(), &mut |_, reader| {
            let said = |mark: &Option<Watermark>| mark.map(|mark| Watermark { at, floor: at, ..mark });
            reader.watermarks.iter().map(said).collect()
        });
        columns
            .iter()
            .filter_map(|(input, column)| {
                let mark = marks[node.inputs[*input]].get(*column).copied().flatten()?;
                Some((*input, *column, mark))
            })
            .max_by_key(|(.., mark)| mark.bounds_state())
    };
    let (input, column, first) = known(MOMENT)?;
    if !first.bounds_state() && !node.operator.waits_for_watermark() {
        return Some("and grows: a table that is not APPEND ONLY can change old rows".into());
    }
    let lateness = if first.lateness { "the allowed lateness" } else { "" };
    let is_time = |data_type: &DataType| matches!(data_type, DataType::Timestamp(..));
    let schema = plan.nodes[node.inputs[input]].operator.schema();
    if !is_time(schema.field(column).data_type()) {
        return Some(format!("dropped as the watermark passes {}", schema.field(column).name()));
    }
    // What has this value is dropped when the watermark has passed it.
    let value = first.floor;
    let passed = |after: i64| known(MOMENT + after).is_some_and(|(.., mark)| mark.floor > value);
    let (mut low, mut high) = (0, LOOK);
    while low < high {
        let middle = low + (high - low) / 2;
        if passed(middle) { high = middle } else { low = middle + 1 }
    }
    let after = MOMENT + high - value;
    // A value is passed by the next one.
    let after = if after.rem_euclid(1000) == 1 { after - 1 } else { after }.max(0);
    Some(match (after, lateness) {
        (0, "") => "dropped as the watermark passes".into(),
        (0, lateness) => format!("dropped {lateness} after the watermark"),
        (after, "") => format!("dropped {} after the watermark", duration(after)),
        (after, lateness) => format!("dropped {} and {lateness} after the watermark", duration(after)),
    })
}
