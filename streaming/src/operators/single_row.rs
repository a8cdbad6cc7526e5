//! Exactly one row out of at most one: a row of NULLs over no input, an error row over several (a scalar subquery).
//!
//! Rule    At the end of an epoch: the input's row if there is one, NULLs if there is none, an error and no row if
//!         there are several. The difference to what is out comes out.
//! State   `rows`: row -> count of the input. `started`: one entry once the first row is out.
//! Epochs  Emits at the seal.
//! Limits  None: two rows at most.

use arrow::array::{Int64Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable};

use crate::byte_table::hash_bytes;
use crate::counted_rows::CountedRows;
use crate::error::Result;
use crate::operator::{Exchange, Operator, Output, Progress, RowError, Seal, StateSize, Task, TaskContext};

/// Exactly one row out of at most one: a row of NULLs over no input, an error row over several (a scalar subquery).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SingleRow {
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for SingleRow {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Single]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let tables = [ctx.table("rows")?, ctx.table("started")?];
        let rows = CountedRows::load(&tables[0])?;
        let mut task = SingleRowTask { rows, tables, out: None, here: ctx.worker == 0, schema: self.schema.clone() };
        if !task.tables[1].is_new() {
            task.out = Some(task.state());
        }
        Ok(Box::new(task))
    }
    fn describe(&self) -> String {
        String::new()
    }
    fn state(&self) -> Option<String> {
        Some("the input: one row, unless it fails".into())
    }
}

/// What the input amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// No row: NULLs come out.
    Empty,
    /// One row.
    Row(Vec<u8>),
    /// Several: an error comes out.
    Several,
}

struct SingleRowTask {
    rows: CountedRows,
    tables: [StateTable; 2],
    /// What is out; nothing before the first epoch.
    out: Option<State>,
    /// Whether this worker has the row.
    here: bool,
    schema: SchemaRef,
}

impl Task for SingleRowTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        let keys = storage::row::encode_rows(delta.data().columns(), delta.num_rows())?;
        for row in 0..delta.num_rows() {
            let number = self.rows.add(hash_bytes(keys.get(row)), keys.get(row), 0, delta.diff(row));
            self.rows.collect(number);
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        if self.here {
            let new = self.state();
            if self.out.as_ref() != Some(&new) {
                if let Some(old) = self.out.take() {
                    self.emit(&old, -1, out)?;
                }
                self.emit(&new, 1, out)?;
                self.out = Some(new);
            }
        }
        if at.checkpoint {
            self.rows.save(&mut self.tables[0]);
            if self.here && self.tables[1].is_new() {
                self.tables[1].put(0, b"", b"");
            }
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        StateSize { rows: self.rows.len() as u64, bytes: self.rows.bytes() as u64 }
    }
}

impl SingleRowTask {
    fn state(&self) -> State {
        let mut rows = self.rows.iter().filter(|(_, count)| *count > 0);
        match (rows.next(), rows.next()) {
            (None, _) => State::Empty,
            (Some((row, 1)), None) => State::Row(row.to_vec()),
            _ => State::Several,
        }
    }

    fn emit(&self, state: &State, diff: i64, out: &mut Output) -> Result<()> {
        let columns = match state {
            State::Several => {
                out.error(RowError {
                    diff,
                    reason: "more than one row returned by a subquery used as an expression".into(),
                    sqlstate: "21000".into(),
                    ..RowError::default()
                });
                return Ok(());
            }
            State::Empty => self.schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect(),
            State::Row(row) => {
                let types: Vec<_> = self.schema.fields().iter().map(|f| f.data_type().clone()).collect();
                storage::row::decode(&types, std::iter::once(row.as_slice()))?
            }
        };
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let data = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        out.emit(Batch::new(data, (diff != 1).then(|| Int64Array::from(vec![diff]))));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::oracle;
    use crate::testing::{run, schema};

    fn node() -> SingleRow {
        SingleRow { schema: schema("a bigint, b text") }
    }

    #[test]
    fn no_row_is_nulls_and_several_are_an_error() {
        let script = "1 2 +(1,a) 3 +(2,b) 4 -(1,a) 5 -(2,b) 6 +2(1,a)";
        expect![[r#"
            1 +(NULL,NULL)
            2 +(1,a) -(NULL,NULL)
            3 -(1,a) +!21000 more than one row returned by a subquery used as an expression
            4 +(2,b) -!21000 more than one row returned by a subquery used as an expression
            5 -(2,b) +(NULL,NULL)
            6 -(NULL,NULL) +!21000 more than one row returned by a subquery used as an expression"#]]
        .assert_eq(&run(node(), &["a bigint, b text"], script));
    }

    // Over an input of at most one row.
    oracle!(single_row, AtMostOne, ["a bigint, b text"], "select max(a), max(b) from t0 where false");

    /// Lets no row through to the operator behind it.
    #[derive(Clone, Debug)]
    struct AtMostOne;

    impl Operator for AtMostOne {
        fn schema(&self) -> SchemaRef {
            node().schema()
        }
        fn inputs(&self) -> Vec<Exchange> {
            node().inputs()
        }
        fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
            struct Nothing(Box<dyn Task>);
            impl Task for Nothing {
                fn apply(&mut self, _: usize, _: &Batch, _: &mut Output) -> Result<Progress> {
                    Ok(Progress::Done)
                }
                fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
                    self.0.seal(at, out)
                }
            }
            Ok(Box::new(Nothing(node().start(ctx)?)))
        }
        fn describe(&self) -> String {
            node().describe()
        }
    }
}
