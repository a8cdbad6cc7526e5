//! `SUBSCRIBE [TO] relation [WITH (snapshot = ..., progress = ...)]`: the rows as of an epoch, then every change with
//! its epoch and diff, sent as soon as the epoch is sealed.
//!
//! Columns: `epoch bigint`, `diff bigint`, then the relation's own. With progress a row with NULLs tells that
//! everything up to its epoch was sent.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, new_null_array};
use futures::StreamExt;
use planner::catalog::Object;
use planner::statement::{Subscribe, SubscribeTo};
use storage::{Batch, SqlType};
use streaming::engine::Subscription;

use crate::error::{Error, Result};
use crate::pg_catalog::objects::visible;
use crate::pgwire::types::Field;
use crate::session::Session;
use crate::statements::{Outcome, Rows, RowsTag, select};

/// The columns of a subscription.
pub fn fields(object: &Object) -> Vec<Field> {
    let own = visible(object).iter().map(|c| Field { name: c.name.clone(), ty: c.ty.clone(), typmod: c.typmod });
    [Field::new("epoch", SqlType::BigInt), Field::new("diff", SqlType::BigInt)].into_iter().chain(own).collect()
}

/// The relation of a SUBSCRIBE statement.
pub fn relation(session: &Session, subscribe: &Subscribe) -> Result<Arc<Object>> {
    match &subscribe.to {
        SubscribeTo::Relation(name) => {
            Ok(session.shared.catalogs.current().expect(name, &session.bind_settings())?.clone())
        }
        SubscribeTo::Query(_) => Err(Error::unsupported("SUBSCRIBE to a query is not supported yet")
            .hint("Create a materialized view of it and subscribe to that.")),
    }
}

/// Subscribes to a relation.
pub async fn run(session: &mut Session, subscribe: &Subscribe) -> Result<Outcome> {
    let object = relation(session, subscribe)?;
    let object = &object;
    if !crate::catalog::is_stored(object) {
        let message = format!("cannot subscribe to {} \"{}\"", crate::catalog::kind_name(object.kind), object.name);
        return Err(Error::new("42809", message).hint("Create a materialized view over it and subscribe to that."));
    }
    if session.is_in_block() {
        return Err(Error::new("25001", "SUBSCRIBE cannot run inside a transaction block"));
    }
    session.before_ddl("SUBSCRIBE").await?;
    let engine = session.shared.engine()?;
    let subscription = engine.subscribe(object.id, session.last_seen()).await?;
    let columns = visible(object).len();
    let fields = fields(object);
    let names: Vec<_> = fields.iter().map(|f| storage::Column::new(f.name.clone(), f.ty.clone())).collect();
    let schema = storage::types::arrow_schema(&names);
    let batches = stream(subscription, columns, schema, subscribe.snapshot, subscribe.progress).boxed();
    let tag = RowsTag::Fixed("SUBSCRIBE");
    Ok(Outcome::Rows(Rows { fields, batches, tag, flush: true, style: select::style(session), sent: 0 }))
}

/// The snapshot's batches, then each message's, one merged batch per epoch so that it is flushed once.
fn stream(
    subscription: Subscription,
    columns: usize,
    schema: arrow_schema::SchemaRef,
    snapshot: bool,
    with_progress: bool,
) -> impl futures::Stream<Item = Result<RecordBatch>> + Send {
    let epoch = subscription.epoch.0 as i64;
    let wanted: Vec<usize> = (0..columns).collect();
    let scan = snapshot.then(|| subscription.snapshot.scan(Some(&wanted), 0..256));
    struct State {
        scan: Option<storage::relation::Scan>,
        subscription: Subscription,
        waiting: VecDeque<RecordBatch>,
        told: bool,
    }
    let state = State { scan, subscription, waiting: VecDeque::new(), told: !with_progress };
    futures::stream::unfold(state, move |mut state| {
        let schema = schema.clone();
        async move {
            if let Some(scan) = &mut state.scan {
                match scan.next() {
                    Some(Ok(rows)) => {
                        let changes = Batch::inserts(rows);
                        let batch = changed(&schema, epoch, &changes, columns);
                        return Some((batch, state));
                    }
                    Some(Err(error)) => return Some((Err(error.into()), state)),
                    None => state.scan = None,
                }
            }
            if !state.told {
                state.told = true;
                return Some((progress(&schema, epoch), state));
            }
            loop {
                if let Some(batch) = state.waiting.pop_front() {
                    return Some((Ok(batch), state));
                }
                let message = state.subscription.changes.recv().await?;
                let epoch = message.epoch.0 as i64;
                let mut batches = Vec::new();
                for changes in message.batches.iter().filter(|b| b.num_rows() > 0) {
                    match changed(&schema, epoch, changes, columns) {
                        Ok(batch) => batches.push(batch),
                        Err(error) => return Some((Err(error), state)),
                    }
                }
                if with_progress {
                    match progress(&schema, epoch) {
                        Ok(batch) => batches.push(batch),
                        Err(error) => return Some((Err(error), state)),
                    }
                }
                match batches.len() {
                    0 => (),
                    1 => state.waiting.extend(batches),
                    _ => match arrow::compute::concat_batches(&schema, &batches) {
                        Ok(batch) => state.waiting.push_back(batch),
                        Err(error) => return Some((Err(error.into()), state)),
                    },
                }
            }
        }
    })
}

fn changed(schema: &arrow_schema::SchemaRef, epoch: i64, changes: &Batch, columns: usize) -> Result<RecordBatch> {
    let n = changes.num_rows();
    let epochs: ArrayRef = Arc::new(Int64Array::from(vec![epoch; n]));
    let diffs: ArrayRef = Arc::new(changes.diffs().cloned().unwrap_or_else(|| Int64Array::from(vec![1; n])));
    let own = changes.data().columns()[..columns].iter().cloned();
    Ok(RecordBatch::try_new(schema.clone(), [epochs, diffs].into_iter().chain(own).collect())?)
}

fn progress(schema: &arrow_schema::SchemaRef, epoch: i64) -> Result<RecordBatch> {
    let epochs: ArrayRef = Arc::new(Int64Array::from(vec![epoch]));
    let rest = schema.fields()[1..].iter().map(|f| new_null_array(f.data_type(), 1));
    Ok(RecordBatch::try_new(schema.clone(), std::iter::once(epochs).chain(rest).collect())?)
}
