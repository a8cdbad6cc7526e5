//! The first phase of an aggregation: combines the rows of an epoch per group on the worker where they are, so that a
//! group that many rows fall into costs the worker that owns it one row per worker and epoch.
//!
//! Rule    For each group that rows came for: how many rows more or less it has, and what they add to each aggregate, as
//!         bytes that [`crate::operators::Aggregate`] merges. Diffs of either sign are added alike, so that a
//!         retraction is exact.
//! State   The groups of the open epoch. Nothing is kept beyond it.
//! Epochs  Emits at the seal, and while the epoch is open if there are too many groups.
//! Limits  LOCAL_GROUPS_MAX groups are combined at most before they are handed on.

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use storage::Batch;

use super::Aggregate;
use super::aggregate::partial::{LOCAL_GROUPS_MAX, LocalGroups};
use crate::aggregates::AggregateCall;
use crate::error::Result;
use crate::operator::{Exchange, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext};
use crate::watermark::Watermarks;

/// The first phase of an aggregation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocalAggregate {
    /// The group columns of the input; they come out first, in this order.
    pub group: Vec<usize>,
    /// Per aggregate of the second phase the call over this input, if it says something of it.
    pub calls: Vec<Option<AggregateCall>>,
    /// Whether the input is never retracted.
    pub append_only: bool,
    /// Whether its rows are the groups' rows; otherwise others say how many rows a group has.
    pub counts_rows: bool,
    /// The output columns: [`LocalAggregate::columns`].
    pub schema: SchemaRef,
}

impl LocalAggregate {
    /// The columns of partial results: the group's, the number of rows, and one per aggregate.
    pub fn columns(group: Vec<Field>, aggregates: &[String]) -> SchemaRef {
        let mut fields = group;
        fields.push(Field::new("rows", DataType::Int64, false));
        fields.extend(aggregates.iter().map(|name| Field::new(name, DataType::BinaryView, true)));
        std::sync::Arc::new(Schema::new(fields))
    }
}

impl Operator for LocalAggregate {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let mut n = 0..;
        let columns = self.calls.iter().map(|call| call.as_ref().and_then(|_| n.next())).collect();
        let node = Aggregate {
            group: self.group.clone(),
            calls: self.calls.iter().flatten().cloned().collect(),
            append_only: self.append_only,
            partials: None,
            schema: self.schema.clone(),
        };
        let groups = LocalGroups::new(&node, columns, self.counts_rows, &ctx.inputs[0])?;
        Ok(Box::new(LocalAggregateTask { groups }))
    }
    fn describe(&self) -> String {
        let calls: Vec<String> = self.calls.iter().flatten().map(ToString::to_string).collect();
        calls.join(", ")
    }
    fn state(&self) -> Option<String> {
        Some(format!("the groups of the open epoch, at most {LOCAL_GROUPS_MAX}"))
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        let mut marks: Watermarks = self.group.iter().map(|&c| inputs[0].get(c).copied().flatten()).collect();
        marks.resize(self.schema.fields().len(), None);
        marks
    }
}

struct LocalAggregateTask {
    groups: LocalGroups,
}

impl Task for LocalAggregateTask {
    fn apply(&mut self, _input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        self.groups.apply(delta, out)?;
        Ok(Progress::Done)
    }

    fn seal(&mut self, _at: &Seal, out: &mut Output) -> Result<Progress> {
        self.groups.emit(out)?;
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        self.groups.size()
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType;
    use storage::Batch;
    use storage::keys::SortOption;
    use storage::types::NUMERIC_BYTES;

    use super::*;
    use crate::aggregates::AggregateKind;
    use crate::oracle;
    use crate::testing::{Counted, Random, TestTask, accumulate, batch, schema};

    const INPUT: &str = "k bigint, s text, i int, f double, p boolean, n numeric, at timestamp";

    /// Aggregates with their result types over [`INPUT`].
    fn calls(append_only: bool) -> Vec<AggregateCall> {
        use AggregateKind::*;
        let numeric = || DataType::FixedSizeBinary(NUMERIC_BYTES);
        let timestamp = schema(INPUT).field(6).data_type().clone();
        let mut kinds: Vec<(AggregateKind, Vec<usize>, DataType)> = vec![
            (Count, vec![], DataType::Int64),
            (Count, vec![1], DataType::Int64),
            (Sum, vec![0], numeric()),
            (Sum, vec![2], DataType::Int64),
            (Sum, vec![3], DataType::Float64),
            (Sum, vec![5], numeric()),
            (Avg, vec![2], numeric()),
            (Avg, vec![3], DataType::Float64),
            (BoolAnd, vec![4], DataType::Boolean),
            (BoolOr, vec![4], DataType::Boolean),
            (BitXor, vec![2], DataType::Int32),
            (StddevSamp, vec![3], DataType::Float64),
            (VarPop, vec![5], numeric()),
            (Corr, vec![3, 3], DataType::Float64),
        ];
        if append_only {
            kinds.extend([
                (Min, vec![0], DataType::Int64),
                (Max, vec![6], timestamp),
                (Max, vec![1], DataType::Utf8View),
                (FirstValue, vec![1, 0], DataType::Utf8View),
                (MaxBy, vec![0, 3], DataType::Int64),
            ]);
        }
        let of = |(kind, args, returns): (AggregateKind, Vec<usize>, DataType), filter| {
            let order = if kind == FirstValue { vec![SortOption::default()] } else { vec![] };
            assert!(kind.combines(append_only), "{}", kind.name());
            AggregateCall { kind, args, order, filter, distinct: false, returns }
        };
        let filtered = kinds.clone().into_iter().map(|call| of(call, Some(4)));
        kinds.into_iter().map(|call| of(call, None)).chain(filtered).collect()
    }

    /// What one operator says over random changes, and what the two phases say, with restarts.
    fn compare(group: &[usize], append_only: bool, workers: usize, seed: u64) {
        let input = schema(INPUT);
        let calls = calls(append_only);
        let keys: Vec<Field> = group.iter().map(|&c| input.field(c).clone()).collect();
        let mut fields = keys.clone();
        fields.extend(calls.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.returns.clone(), true)));
        let whole = Aggregate {
            group: group.to_vec(),
            calls: calls.clone(),
            append_only,
            partials: None,
            schema: std::sync::Arc::new(Schema::new(fields)),
        };
        let names: Vec<String> = calls.iter().map(ToString::to_string).collect();
        let partial = LocalAggregate::columns(keys, &names);
        // Half of the aggregates come from one operator, half from the other, which does not count rows.
        let half = |first: bool| LocalAggregate {
            group: group.to_vec(),
            calls: calls.iter().enumerate().map(|(i, c)| (i % 2 == usize::from(first)).then(|| c.clone())).collect(),
            append_only,
            counts_rows: first,
            schema: partial.clone(),
        };
        let types = calls.iter().map(|c| c.args.iter().map(|&a| input.field(a).data_type().clone()).collect());
        let global = Aggregate { group: (0..group.len()).collect(), partials: Some(types.collect()), ..whole.clone() };
        let mut one = TestTask::new(whole, std::slice::from_ref(&input), 1);
        let mut locals: Vec<TestTask> =
            [true, false].map(|first| TestTask::new(half(first), std::slice::from_ref(&input), workers)).into();
        let mut global = TestTask::new(global, std::slice::from_ref(&partial), workers);
        let mut random = Random::new(seed);
        let mut there: Vec<Vec<Option<String>>> = vec![];
        let (mut expected, mut said) = (Counted::new(), Counted::new());
        for epoch in 0..8 {
            for _ in 0..random.below(4) {
                let rows = (0..1 + random.below(8)).map(|_| {
                    if !append_only && !there.is_empty() && random.one_in(2) {
                        return (there.swap_remove(random.below(there.len())), -1);
                    }
                    let row: Vec<_> = input.fields().iter().map(|f| random.value(f.data_type())).collect();
                    there.push(row.clone());
                    (row, 1)
                });
                let delta = batch(&input, &rows.collect::<Vec<_>>());
                one.apply(0, &delta);
                locals.iter_mut().for_each(|local| local.apply(0, &delta));
            }
            let partials: Vec<Batch> = locals.iter_mut().flat_map(|local| local.seal(true).0).collect();
            partials.iter().for_each(|batch| global.apply(0, batch));
            let checkpoint = epoch == 4;
            accumulate(&mut expected, &one.seal(checkpoint).0);
            accumulate(&mut said, &global.seal(checkpoint).0);
            assert_eq!(said, expected, "{group:?}, {workers} workers, seed {seed}, epoch {epoch}");
            assert!(locals.iter().all(|local| local.state_rows() == 0), "the first phase keeps nothing");
            if checkpoint {
                global.restart(1 + workers % 3);
                locals.iter_mut().for_each(|local| local.restart(1 + workers % 3));
            }
        }
    }

    #[test]
    fn two_phases_say_what_one_says() {
        for (seed, workers) in [(0, 1), (1, 2), (2, 4)] {
            for group in [&[][..], &[0], &[1, 4]] {
                compare(group, false, workers, seed);
                compare(group, true, workers, seed);
            }
        }
    }

    /// Both phases on the worker of the group.
    #[derive(Clone, Debug)]
    struct Phases {
        local: LocalAggregate,
        global: Aggregate,
    }

    impl Operator for Phases {
        fn schema(&self) -> SchemaRef {
            self.global.schema()
        }
        fn inputs(&self) -> Vec<Exchange> {
            vec![Exchange::Hash(self.local.group.clone())]
        }
        fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
            let local = self.local.start(ctx)?;
            ctx.inputs = vec![self.local.schema()];
            Ok(Box::new(PhasesTask { local, global: self.global.start(ctx)? }))
        }
        fn describe(&self) -> String {
            self.global.describe()
        }
    }

    struct PhasesTask {
        local: Box<dyn Task>,
        global: Box<dyn Task>,
    }

    impl PhasesTask {
        fn hand_on(&mut self, mut partials: Output, out: &mut Output) -> Result<()> {
            partials.take_batches().iter().try_for_each(|batch| self.global.apply(0, batch, out).map(drop))
        }
    }

    impl Task for PhasesTask {
        fn apply(&mut self, _input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
            let mut partials = Output::default();
            self.local.apply(0, delta, &mut partials)?;
            self.hand_on(partials, out)?;
            Ok(Progress::Done)
        }
        fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
            let mut partials = Output::default();
            self.local.seal(at, &mut partials)?;
            self.hand_on(partials, out)?;
            self.global.seal(at, out)
        }
    }

    fn phases() -> Phases {
        let call = |kind, args: &[usize], returns| AggregateCall {
            kind,
            args: args.to_vec(),
            order: vec![],
            filter: None,
            distinct: false,
            returns,
        };
        let calls = vec![
            call(AggregateKind::Count, &[], DataType::Int64),
            call(AggregateKind::Count, &[1], DataType::Int64),
            call(AggregateKind::Sum, &[1], DataType::Int64),
            AggregateCall { filter: Some(3), ..call(AggregateKind::Sum, &[2], DataType::Float64) },
            call(AggregateKind::BoolOr, &[3], DataType::Boolean),
        ];
        let names: Vec<String> = calls.iter().map(ToString::to_string).collect();
        let local = LocalAggregate {
            group: vec![0],
            calls: calls.iter().cloned().map(Some).collect(),
            append_only: false,
            counts_rows: true,
            schema: LocalAggregate::columns(vec![Field::new("k", DataType::Int64, true)], &names),
        };
        let types = [vec![], vec![DataType::Int32], vec![DataType::Int32], vec![DataType::Float64], vec![DataType::Boolean]];
        let schema = schema("k bigint, n bigint, ni bigint, si bigint, sf double, p boolean");
        let global = Aggregate { group: vec![0], calls, append_only: false, partials: Some(types.into()), schema };
        Phases { local, global }
    }

    oracle!(
        both_phases,
        phases(),
        ["k bigint, i int, f double, p boolean"],
        "select k, count(*), count(i), sum(i), sum(f) filter (where p), bool_or(p) from t0 group by k"
    );

    #[test]
    fn many_groups_are_handed_on_before_the_epoch_ends() {
        let input = schema("k bigint");
        let call = AggregateCall {
            kind: AggregateKind::Count,
            args: vec![],
            order: vec![],
            filter: None,
            distinct: false,
            returns: DataType::Int64,
        };
        let schema = LocalAggregate::columns(vec![input.field(0).clone()], &["count(*)".into()]);
        let node =
            LocalAggregate { group: vec![0], calls: vec![Some(call)], append_only: true, counts_rows: true, schema };
        let mut task = TestTask::new(node, std::slice::from_ref(&input), 1);
        let n = LOCAL_GROUPS_MAX as i64 + 10_000;
        for first in (0..n).step_by(4096) {
            let rows: Vec<_> = (first..n.min(first + 4096)).map(|k| (vec![Some(k.to_string())], 1)).collect();
            task.apply(0, &batch(&input, &rows));
            assert!(task.state_rows() < LOCAL_GROUPS_MAX as u64);
        }
        let (batches, _) = task.seal(false);
        assert_eq!(batches.iter().map(Batch::num_rows).sum::<usize>() as i64, n);
    }
}
