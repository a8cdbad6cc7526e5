//! The HTTP door: `/healthz`, `/readyz` and `/metrics`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use streaming::engine::{EngineStatus, JobState};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::pg_catalog::headwater_catalog::{sink_lag, sink_state};
use crate::shared::Shared;

/// Answers until the server stops.
pub async fn serve(shared: Arc<Shared>, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared);
    let stopped = async move {
        let _ = stopping.changed().await;
    };
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the HTTP server failed");
    }
}

/// Ready when checkpoints succeed: before that, nothing that a client writes could be acknowledged.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(engine) = shared.engine() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    };
    match engine.status().checkpoint_error {
        None => "ready\n".into_response(),
        Some(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut text = String::new();
    match measure(&shared).and_then(|registry| Ok(encode(&mut text, &registry)?)) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            text.clear();
            let _ = writeln!(text, "{error}");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Job {
    job: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Source {
    source: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Sink {
    sink: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Split {
    source: String,
    split: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Operator {
    job: String,
    operator: String,
}

/// Everything as of now; the engine counts, nothing is counted here.
fn measure(shared: &Shared) -> anyhow::Result<Registry> {
    let engine = shared.engine()?;
    let status = engine.status();
    let mut registry = Registry::with_prefix("headwater");
    measure_server(shared, &status, &mut registry);
    measure_sources(&status, &mut registry);
    measure_jobs(&status, &mut registry);
    measure_sinks(&status, &mut registry);
    Ok(registry)
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(value as i64)
}

fn seconds(time: Duration) -> ConstGauge<f64> {
    ConstGauge::new(time.as_secs_f64())
}

fn measure_server(shared: &Shared, status: &EngineStatus, registry: &mut Registry) {
    registry.register("epoch", "The last sealed epoch", gauge(status.epoch.0));
    registry.register("checkpoint_epoch", "The last durable epoch", gauge(status.checkpoint.0));
    registry.register("checkpoint_rows", "Rows that the last checkpoint wrote", gauge(status.checkpoint_rows));
    registry.register("checkpoints", "Checkpoints taken since the start", ConstCounter::new(status.checkpoints));
    let help = "How long the last checkpoint took";
    registry.register_with_unit("checkpoint_duration", help, Unit::Seconds, seconds(status.checkpoint_duration));
    let failing = u64::from(status.checkpoint_error.is_some());
    registry.register("checkpoint_failing", "1 while checkpoints do not succeed", gauge(failing));
    registry.register("connections", "Clients that are connected", gauge(shared.activities.len() as u64));
    let restarts = ConstCounter::new(shared.starts.saturating_sub(1));
    registry.register("restarts", "How often a server was started again on this directory", restarts);
    let uptime = seconds(shared.started_at.elapsed());
    registry.register_with_unit("uptime", "Time since the start", Unit::Seconds, uptime);
    registry.register_with_unit("memory", "Resident memory of the server", Unit::Bytes, gauge(resident_bytes()));
    let (used, budgets) = (Family::<Kind, Gauge>::default(), Family::<Kind, Gauge>::default());
    for (kind, bytes, budget) in
        shared.memory().unwrap_or_default().into_iter().filter(|(kind, _, _)| *kind != "resident")
    {
        let label = Kind { kind: kind.into() };
        used.get_or_create(&label).set(bytes as i64);
        if let Some(budget) = budget {
            budgets.get_or_create(&label).set(budget as i64);
        }
    }
    registry.register_with_unit("memory_used", "Memory by what takes it", Unit::Bytes, used);
    registry.register_with_unit("memory_budget", "What it may take", Unit::Bytes, budgets);
}

fn measure_sources(status: &EngineStatus, registry: &mut Registry) {
    let rows = Family::<Source, Counter>::default();
    let bytes = Family::<Source, Counter>::default();
    let lag = Family::<Split, Gauge>::default();
    let offset = Family::<Split, Gauge>::default();
    let up = Family::<Split, Gauge>::default();
    measure_event_time(status, registry);
    for job in status.jobs.iter().filter(|job| !job.splits.is_empty()) {
        let label = Source { source: job.name.clone() };
        rows.get_or_create(&label).inc_by(job.rows_in);
        bytes.get_or_create(&label).inc_by(job.bytes_in);
        for split in &job.splits {
            let label = Split { source: job.name.clone(), split: split.id.clone() };
            offset.get_or_create(&label).set(split.offset);
            up.get_or_create(&label).set(i64::from(split.error.is_none()));
            if let Some(end) = split.end {
                lag.get_or_create(&label).set((end - split.offset).max(0));
            }
        }
    }
    registry.register("source_rows", "Rows that came in from outside since the start", rows);
    registry.register_with_unit("source", "Bytes that came in from outside since the start", Unit::Bytes, bytes);
    let help = "How far the split's end is ahead of what is read, in records of a topic or bytes of a file";
    registry.register("split_lag", help, lag);
    registry.register("split_offset", "Up to where the split is read, in the same unit as its lag", offset);
    registry.register("split_up", "0 while the outside system does not give this split", up);
}

fn measure_event_time(status: &EngineStatus, registry: &mut Registry) {
    let watermark = Family::<Job, Gauge<f64, AtomicU64>>::default();
    let (late, dropped) = (Family::<Source, Counter>::default(), Family::<Source, Counter>::default());
    for job in &status.jobs {
        let Some(rows) = job.late_rows else { continue };
        late.get_or_create(&Source { source: job.name.clone() }).inc_by(rows);
        dropped.get_or_create(&Source { source: job.name.clone() }).inc_by(job.late_dropped);
        if let Some(mark) = job.watermarks.iter().find_map(|(_, mark)| *mark) {
            watermark.get_or_create(&Job { job: job.name.clone() }).set(mark.at as f64 / 1e6);
        }
    }
    let help = "The watermark of the source or table, as seconds since 1970";
    registry.register_with_unit("watermark", help, Unit::Seconds, watermark);
    registry.register("late_rows", "Rows that were late since the start", late);
    registry.register("late_rows_dropped", "Rows of $late that were dropped since the start", dropped);
}

fn measure_jobs(status: &EngineStatus, registry: &mut Registry) {
    let rows_in = Family::<Job, Counter>::default();
    let waiting = Family::<Job, Gauge>::default();
    let behind = Family::<Job, Gauge>::default();
    let freshness = Family::<Job, Gauge<f64, AtomicU64>>::default();
    let up = Family::<Job, Gauge>::default();
    let restarts = Family::<Job, Counter>::default();
    let (failed, dropped) = (Family::<Job, Counter>::default(), Family::<Job, Counter>::default());
    let expired = Family::<Job, Counter>::default();
    let (job_bytes, job_rows) = (Family::<Job, Gauge>::default(), Family::<Job, Gauge>::default());
    let (bytes, rows) = (Family::<Operator, Gauge>::default(), Family::<Operator, Gauge>::default());
    let (job_memory, job_budget) = (Family::<Job, Gauge>::default(), Family::<Job, Gauge>::default());
    for job in &status.jobs {
        let label = Job { job: job.name.clone() };
        rows_in.get_or_create(&label).inc_by(job.rows_in);
        waiting.get_or_create(&label).set(job.rows_waiting as i64);
        behind.get_or_create(&label).set(status.epoch.0.saturating_sub(job.epoch.0) as i64);
        freshness.get_or_create(&label).set(job.behind.as_secs_f64());
        up.get_or_create(&label).set(i64::from(!matches!(job.state, JobState::Failed | JobState::Restarting)));
        restarts.get_or_create(&label).inc_by(job.restarts);
        failed.get_or_create(&label).inc_by(job.row_errors);
        dropped.get_or_create(&label).inc_by(job.row_errors_dropped);
        if let Some(ttl) = &job.ttl {
            expired.get_or_create(&label).inc_by(ttl.expired_rows);
        }
        job_bytes.get_or_create(&label).set(0);
        job_rows.get_or_create(&label).set(0);
        job_memory.get_or_create(&label).set(job.memory_bytes as i64);
        job_budget.get_or_create(&label).set(job.memory_budget.unwrap_or(0) as i64);
        for (node, operator, size) in &job.operators {
            job_bytes.get_or_create(&label).inc_by(size.bytes as i64);
            job_rows.get_or_create(&label).inc_by(size.rows as i64);
            let label = Operator { job: job.name.clone(), operator: format!("{node}:{operator}") };
            bytes.get_or_create(&label).set(size.bytes as i64);
            rows.get_or_create(&label).set(size.rows as i64);
        }
    }
    registry.register("job_rows_in", "Rows that came in since the start", rows_in);
    registry.register("job_rows_waiting", "Rows that wait in the job's inboxes", waiting);
    registry.register("job_epochs_behind", "Sealed epochs that the job does not show yet", behind);
    let help = "Freshness: how long ago the oldest change was sealed that the job does not show yet";
    registry.register_with_unit("job_freshness", help, Unit::Seconds, freshness);
    registry.register("job_up", "0 if the job failed", up);
    registry.register("job_row_errors", "Rows and records that failed since the start", failed);
    registry.register("job_row_errors_dropped", "Rows of $errors that were dropped since the start", dropped);
    registry.register("expired_rows", "Rows that have left for their ttl since the start", expired);
    registry.register("job_restarts", "Starts from the last checkpoint after a failure, since the start", restarts);
    let help = "Memory of the job: state and what waits in its inboxes";
    registry.register_with_unit("job_memory", help, Unit::Bytes, job_memory);
    registry.register_with_unit(
        "job_memory_budget",
        "The job's own memory budget, 0 without one",
        Unit::Bytes,
        job_budget,
    );
    registry.register_with_unit("job_state", "State that the job keeps in memory", Unit::Bytes, job_bytes);
    registry.register("job_state_rows", "Entries of the job's state", job_rows);
    registry.register_with_unit("operator_state", "State that the operator keeps in memory", Unit::Bytes, bytes);
    registry.register("operator_state_rows", "Entries of the operator's state", rows);
}

fn measure_sinks(status: &EngineStatus, registry: &mut Registry) {
    let (rows, transactions) = (Family::<Sink, Counter>::default(), Family::<Sink, Counter>::default());
    let (retries, refused) = (Family::<Sink, Counter>::default(), Family::<Sink, Counter>::default());
    let (waiting, bytes) = (Family::<Sink, Gauge>::default(), Family::<Sink, Gauge>::default());
    let epochs = Family::<Sink, Gauge>::default();
    let lag = Family::<Sink, Gauge<f64, AtomicU64>>::default();
    let up = Family::<Sink, Gauge>::default();
    for job in &status.jobs {
        let Some(sink) = &job.sink else { continue };
        let label = Sink { sink: job.name.clone() };
        rows.get_or_create(&label).inc_by(sink.rows);
        transactions.get_or_create(&label).inc_by(sink.transactions);
        retries.get_or_create(&label).inc_by(sink.retries);
        refused.get_or_create(&label).inc_by(sink.refused);
        waiting.get_or_create(&label).set((sink.rows_waiting + job.rows_waiting) as i64);
        bytes.get_or_create(&label).set(sink.bytes_waiting as i64);
        let (behind, seconds) = sink_lag(status, job, sink);
        epochs.get_or_create(&label).set(behind as i64);
        lag.get_or_create(&label).set(seconds);
        up.get_or_create(&label).set(i64::from(matches!(sink_state(job, sink), "running" | "creating")));
    }
    registry.register("sink_rows", "Rows that were delivered since the start", rows);
    registry.register("sink_transactions", "Transactions of the target since the start", transactions);
    registry.register("sink_retries", "Deliveries that failed since the start, and were tried again", retries);
    registry.register("sink_refused", "Rows that the target refused since the start", refused);
    registry.register("sink_rows_waiting", "Rows that wait in the outbox and in front of it", waiting);
    registry.register_with_unit("sink_outbox", "What waits in the outbox", Unit::Bytes, bytes);
    registry.register("sink_epochs_behind", "Sealed epochs that the target does not have yet", epochs);
    registry.register_with_unit("sink_lag", "For how long the oldest change waits", Unit::Seconds, lag);
    registry.register("sink_up", "0 while the target takes no changes, the sink is paused or has failed", up);
}

/// The process's resident memory.
pub fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}
