//! `SUBSCRIBE [TO] relation | (query) [WITH (snapshot = ..., progress = ...)]`: the rows as of an epoch, then every
//! change with its epoch and diff, sent as soon as the epoch is sealed.
//!
//! Columns: `epoch bigint`, `diff bigint`, then the relation's own. With progress a row with NULLs tells that
//! everything up to its epoch was sent. What nothing keeps (a query, a view) is maintained by a job that lives as long
//! as the subscription.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, new_null_array};
use futures::StreamExt;
use planner::catalog::{Object, ObjectKind};
use planner::statement::{Subscribe, SubscribeTo};
use planner::{Bound, Statement};
use storage::{Batch, RelationId, SqlType};
use streaming::engine::{Engine, JobState, Subscription};

use crate::catalog::{Place, kind_name, quote_ident};
use crate::error::{Error, Result};
use crate::fields::{self, Field};
use crate::outcome::{Outcome, Rows, RowsTag};
use crate::pg_catalog::objects::visible;
use crate::session::Session;
use crate::shared::Shared;
use crate::statements::create::{create_job, named_columns};
use crate::statements::select;

/// What is subscribed to.
pub enum Target {
    /// A relation that is kept.
    Kept(Arc<Object>),
    /// A query, or a view, whose rows nothing keeps.
    Query(Box<Bound>),
}

impl Target {
    /// The columns of the subscription.
    pub fn fields(&self) -> Vec<Field> {
        let own: Vec<Field> = match self {
            Target::Kept(object) => visible(object)
                .iter()
                .map(|c| Field { name: c.name.clone(), ty: c.ty.clone(), typmod: c.typmod })
                .collect(),
            Target::Query(bound) => fields::of(bound),
        };
        let both = [Field::new("epoch", SqlType::BigInt), Field::new("diff", SqlType::BigInt)];
        both.into_iter().chain(own).collect()
    }
}

/// What a SUBSCRIBE statement means.
pub fn target(session: &Session, subscribe: &Subscribe) -> Result<Target> {
    let catalog = session.shared.catalogs.current();
    let settings = session.bind_settings();
    let bind = |query| Ok(Target::Query(Box::new(planner::bind_view(&catalog, &settings, query)?)));
    let object = match &subscribe.to {
        SubscribeTo::Relation(name) => catalog.expect(name, &settings)?.clone(),
        SubscribeTo::Query(query) => return bind(query),
    };
    if object.kind == ObjectKind::View {
        let text = format!("SELECT * FROM {}.{}", quote_ident(&object.schema), quote_ident(&object.name));
        return match planner::parse(&text)?.pop().map(|parsed| parsed.statement) {
            Some(Statement::Query(query)) => bind(&query),
            _ => Err(Error::new("XX000", format!("not a query: {text}"))),
        };
    }
    if !crate::catalog::is_stored(&object) {
        let message = format!("cannot subscribe to {} \"{}\"", kind_name(object.kind), object.name);
        return Err(Error::new("42809", message).hint("Create a materialized view over it and subscribe to that."));
    }
    Ok(Target::Kept(object))
}

/// Subscribes.
pub async fn run(session: &mut Session, subscribe: &Subscribe) -> Result<Outcome> {
    if session.is_in_block() {
        return Err(Error::new("25001", "SUBSCRIBE cannot run inside a transaction block"));
    }
    session.before_ddl("SUBSCRIBE").await?;
    let shared = session.shared.clone();
    let changing = shared.catalogs.lock().await;
    let target = target(session, subscribe)?;
    let fields = target.fields();
    let engine = shared.engine()?;
    let (relation, job) = match target {
        Target::Kept(object) => {
            drop(changing);
            (object.id, None)
        }
        Target::Query(bound) => {
            let (id, errors) = (engine.allocate_relation(), engine.allocate_relation());
            let name = format!("subscription_{}", id.0);
            let depends_on = bound.depends_on.clone();
            let plan =
                planner::lower::view_of(&name, id, errors, bound.plan, bound.switches, named_columns(&fields[2..]))?;
            let object = Object { id, name, kind: ObjectKind::MaterializedView, depends_on, ..Default::default() };
            let place = shared.catalogs.take_place(&object);
            drop(changing);
            create_job(&engine, &plan.job, Vec::new(), Some(session.notices())).await?;
            (id, Some(Maintained { shared: shared.clone(), relation: id, place: Some(place) }))
        }
    };
    let subscription = engine.subscribe(relation, session.last_seen()).await?;
    let names: Vec<_> = fields.iter().map(|f| storage::Column::new(f.name.clone(), f.ty.clone())).collect();
    let form = Form {
        shared: shared.clone(),
        relation,
        columns: fields.len() - 2,
        schema: storage::types::arrow_schema(&names),
        _job: job,
    };
    let batches = stream(subscription, form, subscribe.snapshot, subscribe.progress).boxed();
    let tag = RowsTag::Fixed("SUBSCRIBE");
    Ok(Outcome::Rows(Rows { fields, batches, tag, flush: true, style: select::style(session), sent: 0 }))
}

/// The job of a subscription to a query. It ends with the subscription; a server that ends before forgets it too,
/// because the catalog never knew it.
struct Maintained {
    shared: Arc<Shared>,
    relation: RelationId,
    place: Option<Place>,
}

impl Drop for Maintained {
    fn drop(&mut self) {
        let (relation, place) = (self.relation, self.place.take());
        // A server that stops takes its jobs with it.
        let (Ok(engine), Ok(runtime)) = (self.shared.engine(), tokio::runtime::Handle::try_current()) else { return };
        runtime.spawn(async move {
            if let Err(error) = Engine::drop(&engine, vec![relation], Vec::new()).await {
                tracing::warn!(%error, "the job of a subscription could not be dropped");
            }
            drop(place);
        });
    }
}

/// What rows are made of, and what must live as long as they come.
struct Form {
    shared: Arc<Shared>,
    relation: RelationId,
    /// The relation's own columns that are shown.
    columns: usize,
    schema: arrow_schema::SchemaRef,
    _job: Option<Maintained>,
}

impl Form {
    fn changed(&self, epoch: i64, changes: &Batch) -> Result<RecordBatch> {
        let n = changes.num_rows();
        let epochs: ArrayRef = Arc::new(Int64Array::from(vec![epoch; n]));
        let diffs: ArrayRef = Arc::new(changes.diffs().cloned().unwrap_or_else(|| Int64Array::from(vec![1; n])));
        let own = changes.data().columns()[..self.columns].iter().cloned();
        Ok(RecordBatch::try_new(self.schema.clone(), [epochs, diffs].into_iter().chain(own).collect())?)
    }

    fn progress(&self, epoch: i64) -> Result<RecordBatch> {
        let epochs: ArrayRef = Arc::new(Int64Array::from(vec![epoch]));
        let rest = self.schema.fields()[1..].iter().map(|f| new_null_array(f.data_type(), 1));
        Ok(RecordBatch::try_new(self.schema.clone(), std::iter::once(epochs).chain(rest).collect())?)
    }

    /// One batch per message, so that it is flushed once; `None` if there is nothing to tell.
    fn message(&self, epoch: i64, changes: &[Batch], with_progress: bool) -> Result<Option<RecordBatch>> {
        let changed = changes.iter().filter(|b| b.num_rows() > 0).map(|b| self.changed(epoch, b));
        let progress = with_progress.then(|| self.progress(epoch));
        let batches = changed.chain(progress).collect::<Result<Vec<_>>>()?;
        if batches.is_empty() {
            return Ok(None);
        }
        Ok(Some(arrow::compute::concat_batches(&self.schema, &batches)?))
    }

    /// Why no more changes come.
    fn ended(&self) -> Error {
        let status = match self.shared.engine() {
            Ok(engine) => engine.status(),
            Err(stopping) => return stopping,
        };
        match status.jobs.into_iter().find(|job| job.relation == self.relation) {
            Some(job) if job.state == JobState::Failed => {
                Error::new("55000", format!("what is subscribed to has failed: {}", job.error.unwrap_or_default()))
            }
            Some(_) => Error::new("55000", "the subscription was ended"),
            None => Error::new("55000", "what was subscribed to was dropped"),
        }
    }
}

/// The snapshot's batches, then each message's.
fn stream(
    subscription: Subscription,
    form: Form,
    snapshot: bool,
    with_progress: bool,
) -> impl futures::Stream<Item = Result<RecordBatch>> + Send {
    let epoch = subscription.epoch.0 as i64;
    let wanted: Vec<usize> = (0..form.columns).collect();
    let scan = snapshot.then(|| subscription.snapshot.scan(Some(&wanted), 0..256));
    let rows = scan.into_iter().flatten().map(|rows| Ok(Batch::inserts(rows?)));
    struct State<I> {
        rows: I,
        told: bool,
        subscription: Subscription,
        form: Form,
        over: bool,
    }
    let state = State { rows, told: !with_progress, subscription, form, over: false };
    futures::stream::unfold(state, move |mut state| async move {
        if state.over {
            return None;
        }
        if let Some(rows) = state.rows.next() {
            let batch = rows.and_then(|rows: Batch| state.form.changed(epoch, &rows));
            return Some((batch, state));
        }
        if !state.told {
            state.told = true;
            return Some((state.form.progress(epoch), state));
        }
        loop {
            let Some(message) = state.subscription.changes.recv().await else {
                state.over = true;
                return Some((Err(state.form.ended()), state));
            };
            match state.form.message(message.epoch.0 as i64, &message.batches, with_progress) {
                Ok(None) => (),
                Ok(Some(batch)) => return Some((Ok(batch), state)),
                Err(error) => return Some((Err(error), state)),
            }
        }
    })
}
