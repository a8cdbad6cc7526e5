//! A row for each element of a list.
//!
//! Rule    A change comes out once per element, with its diff and the element in the list's place. Several lists go on
//!         side by side: the shorter ones end in NULLs. A row whose lists are all empty or NULL says nothing, or comes once with NULLs.
//! State   None.
//! Epochs  Emits while the epoch is open.
//! Limits  A long list is said in several activations.

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::error::Result;
use crate::operator::{
    ACTIVATION_ROWS_MAX, Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Task, TaskContext, WatermarkContext,
};
use crate::watermark::Watermarks;

/// A row for each element of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unnest {
    /// The columns with the lists.
    pub lists: Vec<usize>,
    /// Whether a row whose lists are all empty comes out once, with NULLs in their places.
    #[serde(default)]
    pub outer: bool,
    /// The output columns: the input's, elements for lists.
    pub schema: SchemaRef,
}

impl Operator for Unnest {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Ok(Box::new(UnnestTask { node: self.clone(), left: None }))
    }
    fn describe(&self) -> String {
        let names = self.lists.iter().map(|&c| self.schema.field(c).name().as_str());
        names.collect::<Vec<_>>().join(", ")
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        (0..self.schema.fields().len())
            .map(|column| inputs[0].get(column).copied().flatten().filter(|_| !self.lists.contains(&column)))
            .collect()
    }
}

struct UnnestTask {
    node: Unnest,
    left: Option<Left>,
}

/// What is still to be said of a batch: the elements from `element` of `row`, and the rows behind it.
struct Left {
    batch: Batch,
    row: usize,
    element: usize,
}

impl Task for UnnestTask {
    fn apply(&mut self, _input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        self.left = Some(Left { batch: delta.clone(), row: 0, element: 0 });
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        let Some(left) = &mut self.left else { return Ok(Progress::Done) };
        for _ in 0..ACTIVATION_ROWS_MAX / OUTPUT_ROWS_MAX {
            match next(&self.node, left)? {
                Some(batch) => out.emit(batch),
                None => {
                    self.left = None;
                    return Ok(Progress::Done);
                }
            }
        }
        Ok(Progress::More)
    }
}

/// The next rows; `None` when all are said.
fn next(node: &Unnest, left: &mut Left) -> Result<Option<Batch>> {
    let lists: Vec<&ListArray> = node.lists.iter().map(|&c| left.batch.column(c).as_list::<i32>()).collect();
    // The input's row of each output row, and the place of its element in each list's values.
    let mut rows: Vec<u32> = Vec::new();
    let mut places: Vec<Vec<Option<u32>>> = vec![Vec::new(); lists.len()];
    while rows.len() < OUTPUT_ROWS_MAX && left.row < left.batch.num_rows() {
        let (row, element) = (left.row, left.element);
        let longest = lists.iter().map(|list| length(list, row)).max().unwrap_or(0);
        if element >= longest.max(usize::from(node.outer)) {
            (left.row, left.element) = (row + 1, 0);
            continue;
        }
        rows.push(row as u32);
        for (list, places) in lists.iter().zip(&mut places) {
            let place = list.value_offsets()[row] as usize + element;
            places.push((element < length(list, row)).then_some(place as u32));
        }
        left.element += 1;
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let elements = lists.iter().zip(places);
    let elements = elements.map(|(list, places)| arrow::compute::take(list.values(), &UInt32Array::from(places), None));
    let elements = elements.collect::<Result<Vec<ArrayRef>, _>>()?;
    // The lists themselves are not repeated.
    let kept: Vec<usize> = (0..node.schema.fields().len()).filter(|c| !node.lists.contains(c)).collect();
    let n = rows.len();
    let repeated = left.batch.project(&kept).take(&UInt32Array::from(rows))?;
    let mut others = repeated.data().columns().iter();
    let columns = (0..node.schema.fields().len()).filter_map(|c| match node.lists.iter().position(|list| *list == c) {
        Some(list) => Some(elements[list].clone()),
        None => others.next().cloned(),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(n));
    let data = RecordBatch::try_new_with_options(node.schema.clone(), columns.collect(), &options)?;
    Ok(Some(repeated.with_data(data)))
}

fn length(list: &ListArray, row: usize) -> usize {
    if list.is_null(row) { 0 } else { list.value_length(row) as usize }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::Int64Type;
    use arrow_schema::{DataType, Field, Schema};

    use super::*;
    use crate::oracle;
    use crate::testing::schema;

    fn batch(lists: Vec<Option<Vec<Option<i64>>>>, more: Vec<Option<Vec<Option<i64>>>>, diffs: Vec<i64>) -> Batch {
        let ids = Int64Array::from_iter_values(1..=diffs.len() as i64);
        let lists = [lists, more].map(ListArray::from_iter_primitive::<Int64Type, _, _>);
        let field = |name: &str, of: &dyn Array| Field::new(name, of.data_type().clone(), true);
        let fields = vec![field("a", &lists[0]), Field::new("id", DataType::Int64, true), field("b", &lists[1])];
        let [a, b] = lists;
        let columns: Vec<ArrayRef> = vec![Arc::new(a), Arc::new(ids), Arc::new(b)];
        let data = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        Batch::new(data, Some(Int64Array::from(diffs)))
    }

    fn said(batch: Batch) -> Vec<(Option<i64>, i64, Option<i64>, i64)> {
        let node = Unnest { lists: vec![0, 2], outer: false, schema: schema("a bigint, id bigint, b bigint") };
        let mut left = Left { batch, row: 0, element: 0 };
        let mut rows = vec![];
        while let Some(batch) = next(&node, &mut left).unwrap() {
            assert!(batch.num_rows() <= OUTPUT_ROWS_MAX);
            let column = |c: usize| batch.column(c).as_primitive::<Int64Type>();
            let value = |c: usize, row| (!column(c).is_null(row)).then(|| column(c).value(row));
            rows.extend((0..batch.num_rows()).map(|r| (value(0, r), column(1).value(r), value(2, r), batch.diff(r))));
        }
        rows
    }

    oracle!(
        unnest,
        Unnest { lists: vec![0], outer: false, schema: schema("a bigint, b text") },
        ["a bigint[], b text"],
        "select unnest(a), b from t0"
    );

    #[test]
    fn lists_go_on_side_by_side() {
        let some = |values: &[i64]| Some(values.iter().map(|v| Some(*v)).collect::<Vec<_>>());
        let lists = vec![some(&[1, 2]), None, some(&[]), some(&[3])];
        let more = vec![some(&[7]), some(&[]), None, some(&[8, 9])];
        let rows = said(batch(lists, more, vec![1, 1, -1, -2]));
        let expected =
            [(Some(1), 1, Some(7), 1), (Some(2), 1, None, 1), (Some(3), 4, Some(8), -2), (None, 4, Some(9), -2)];
        assert_eq!(rows, expected);
    }

    oracle!(
        outer,
        Unnest { lists: vec![0], outer: true, schema: schema("a bigint, b text") },
        ["a bigint[], b text"],
        "select unnest(case when cardinality(a) > 0 then a else [null] end), b from t0"
    );

    #[test]
    fn a_long_list_is_said_in_several_batches() {
        let n = OUTPUT_ROWS_MAX as i64 + 5;
        let lists = vec![Some((0..n).map(Some).collect()), Some(vec![None])];
        let rows = said(batch(lists, vec![None, None], vec![1, 3]));
        assert_eq!(rows.len() as i64, n + 1);
        assert_eq!((rows[(n - 1) as usize], rows[n as usize]), ((Some(n - 1), 1, None, 1), (None, 2, None, 3)));
    }
}
