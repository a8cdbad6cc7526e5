//! The plan of a sink's job: its query's operators, and the outbox.

use storage::types::arrow_schema;
use streaming::engine::JobSpec;
use streaming::operators::top_n::{Rank, RankKind};
use streaming::operators::{AnyOperator, Sink, TopN};
use streaming::sink::{SinkSpec, SinkType};

use super::ViewPlan;

/// Turns the plan of a view of the same query into that of a sink. Where `sink`'s key does not identify the rows, the first
/// row of each key, by its values, stands for all of them.
pub fn sink_of(view: ViewPlan, sink: SinkSpec, snapshot: bool, outbox_bytes_max: u64) -> JobSpec {
    let mut job = view.job;
    job.plan.nodes.pop();
    let schema = arrow_schema(&sink.columns);
    let identifies = view.unique && view.stream_key.iter().all(|column| sink.key.contains(column));
    let mut root = job.plan.nodes.len() - 1;
    let as_it_is =
        |op: &AnyOperator| matches!(op, AnyOperator::TapReader(_) | AnyOperator::Project(_) | AnyOperator::Filter(_));
    let direct = job.plan.nodes.iter().all(|node| as_it_is(&node.operator));
    if sink.kind != SinkType::AppendOnly && !identifies {
        let first = TopN {
            partition: sink.key.clone(),
            order: vec![],
            offset: 0,
            limit: Some(1),
            rank: Rank { kind: RankKind::RowNumber, output: false },
            append_only: view.append_only,
            schema: arrow_schema(&view.columns),
        };
        root = job.plan.add(first, vec![root]);
    }
    job.columns = sink.columns.clone();
    job.plan.add(Sink { spec: sink, snapshot, direct, outbox_bytes_max, schema }, vec![root]);
    job
}
