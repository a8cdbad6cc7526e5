//! Joins each row of the left input, once, with the rows that the right one has in the epoch in which it comes: the
//! temporal join in processing time.
//!
//! Rule    A left row meets the right side as it is at the end of its epoch. What changes there later leaves what came
//!         out as it is, so the output is append-only.
//! State   `right`: (join key, row) -> count. Nothing of the left input.
//! Epochs  Left rows wait for the seal, since the right side's changes may come behind them.
//! Limits  What a seal emits leaves in pieces, over as many activations as it takes.

use std::collections::VecDeque;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use super::hash_join::task::HashJoinTask;
use super::hash_join::{HashJoin, JoinKind};
use crate::error::Result;
use crate::expr::Expr;
use crate::operator::{
    Exchange, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext,
};
use crate::watermark::Watermarks;

/// Joins each left row, once, with the right rows of its epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TemporalJoin {
    /// Whether a left row without a match comes out too, padded with NULLs.
    pub outer: bool,
    /// Key columns of the left and the right input, equally many and of equal Arrow types.
    pub keys: [Vec<usize>; 2],
    /// Further condition over the left columns followed by the right columns.
    pub condition: Option<Expr>,
    /// The output columns: left columns followed by right columns.
    pub schema: SchemaRef,
}

impl TemporalJoin {
    /// The join of what is there in an epoch.
    fn join(&self) -> HashJoin {
        HashJoin {
            kind: if self.outer { JoinKind::Left } else { JoinKind::Inner },
            keys: self.keys.clone(),
            null_equal: vec![false; self.keys[0].len()],
            ranges: [None, None],
            expiry: [None, None],
            condition: self.condition.clone(),
            append_only: [true, false],
            alone: false,
            schema: self.schema.clone(),
        }
    }
}

impl Operator for TemporalJoin {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        self.join().inputs()
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let join = HashJoinTask::open(&self.join(), ctx, u64::MAX)?;
        Ok(Box::new(TemporalJoinTask { join, waiting: VecDeque::new(), joining: false }))
    }
    fn describe(&self) -> String {
        self.join().describe()
    }
    fn state(&self) -> Option<String> {
        Some("the rows of the right input".into())
    }
    fn watermarks(&self, inputs: &[Watermarks], ctx: &WatermarkContext) -> Watermarks {
        // What comes out comes with a left row, and stays.
        let mark = |column: usize| inputs[0].get(column).copied().flatten();
        let n_left = ctx.inputs[0].fields().len();
        (0..self.schema.fields().len()).map(|column| mark(column).filter(|_| column < n_left)).collect()
    }
}

struct TemporalJoinTask {
    join: HashJoinTask,
    /// Left rows of the open epoch.
    waiting: VecDeque<Batch>,
    /// Whether the last one taken from there is still in work.
    joining: bool,
}

impl Task for TemporalJoinTask {
    fn apply(&mut self, input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        match input {
            0 => self.waiting.push_back(delta.clone()),
            _ => self.join.keep(delta)?,
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        loop {
            let progress = if std::mem::take(&mut self.joining) {
                self.join.resume(out)?
            } else if let Some(delta) = self.waiting.pop_front() {
                self.join.probe(&delta, out)?
            } else {
                return self.join.seal(at, out);
            };
            self.joining = progress == Progress::More;
            if self.joining || out.is_full() {
                return Ok(Progress::More);
            }
        }
    }

    fn state_size(&self) -> StateSize {
        let kept = self.join.state_size();
        StateSize { bytes: kept.bytes + self.waiting.iter().map(Batch::bytes).sum::<usize>() as u64, ..kept }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;

    use super::*;
    use crate::expr::BinaryOp;
    use crate::testing::{Counted, Random, TestTask, accumulate, batch, run, schema};

    const LEFT: &str = "k bigint, a text";
    const RIGHT: &str = "b text, j bigint";

    fn node(outer: bool) -> TemporalJoin {
        let schema = schema("k bigint, a text, b text, j bigint");
        TemporalJoin { outer, keys: [vec![0], vec![1]], condition: None, schema }
    }

    #[test]
    fn a_row_meets_what_its_epoch_ends_with() {
        let script = "1 L +(1,a) R +(x,1) 2 R -(x,1) +(y,1) 3 L +2(1,b) +(NULL,c) 4 L +(1,d) R -(y,1) 5 L +(2,e)";
        expect![[r#"
            1 +(1,a,x,1)
            2
            3 +2(1,b,y,1) +(NULL,c,NULL,NULL)
            4 +(1,d,NULL,NULL)
            5 +(2,e,NULL,NULL)"#]]
        .assert_eq(&run(node(true), &[LEFT, RIGHT], script));
        let condition =
            Expr::Binary { op: BinaryOp::NotEq, left: Box::new(Expr::Column(1)), right: Box::new(Expr::Column(2)) };
        let node = TemporalJoin { condition: Some(condition), ..node(false) };
        expect![[r#"
            1 +(1,a,x,1)
            2
            3 +(1,a,y,1)"#]]
        .assert_eq(&run(node, &[LEFT, RIGHT], "1 L +(1,a) +(1,x) R +(x,1) 2 R -(x,1) +(y,1) 3 L +(1,a) +(1,y)"));
    }

    /// Against a model that remembers what each left row met.
    fn check(seed: u64, workers: usize, restart: Option<usize>) {
        let inputs = [schema(LEFT), schema(RIGHT)];
        let mut task = TestTask::new(node(true), &inputs, workers);
        let mut random = Random::new(seed);
        let mut right: BTreeMap<(String, String), i64> = BTreeMap::new();
        let (mut said, mut expected) = (Counted::new(), Counted::new());
        for epoch in 0..12 {
            let mut came = Vec::new();
            for _ in 0..random.below(5) {
                if random.one_in(2) {
                    let row = (random.below(4).to_string(), format!("row {}", random.below(3)));
                    task.apply(0, &batch(&inputs[0], &[(vec![Some(row.0.clone()), Some(row.1.clone())], 1)]));
                    came.push(row);
                    continue;
                }
                let row = (format!("r{}", random.below(3)), random.below(4).to_string());
                let count = right.entry(row.clone()).or_default();
                let diff = if *count > 0 && random.one_in(2) { -1 } else { 1 };
                *count += diff;
                task.apply(1, &batch(&inputs[1], &[(vec![Some(row.0), Some(row.1)], diff)]));
            }
            for (k, a) in came {
                let met: Vec<_> = right.iter().filter(|((_, j), n)| *j == k && **n > 0).collect();
                for ((b, j), n) in &met {
                    *expected.entry(format!("({k},{a},{b},{j})")).or_default() += **n;
                }
                if met.is_empty() {
                    *expected.entry(format!("({k},{a},NULL,NULL)")).or_default() += 1;
                }
            }
            let restarts = restart.filter(|_| epoch == 6);
            let (batches, errors) = task.seal(restarts.is_some());
            assert!(errors.is_empty() && batches.iter().all(Batch::is_append_only));
            accumulate(&mut said, &batches);
            assert_eq!(said, expected, "seed {seed}, {workers} workers, epoch {epoch}");
            if let Some(workers) = restarts {
                task.restart(workers);
            }
        }
    }

    #[test]
    fn agrees_with_a_model() {
        for seed in 0..6 {
            check(seed, 1, None);
            check(seed, 2, Some(3));
            check(seed, 3, Some(1));
        }
    }
}
