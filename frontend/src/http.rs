//! The HTTP door: `/healthz`, `/readyz` and `/metrics`.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use streaming::engine::JobState;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::server::Shared;

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
    name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Split {
    source: String,
    split: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperatorOf {
    name: String,
    operator: String,
}

/// Everything as of now; the engine counts, nothing is counted here.
fn measure(shared: &Shared) -> anyhow::Result<Registry> {
    let engine = shared.engine()?;
    let status = engine.status();
    let mut registry = Registry::with_prefix("headwater");
    let gauge = |value: u64| ConstGauge::new(value as i64);

    registry.register("epoch", "The last sealed epoch", gauge(status.epoch.0));
    registry.register("checkpoint_epoch", "The last durable epoch", gauge(status.checkpoint.0));
    registry.register("checkpoint_rows", "Rows that the last checkpoint wrote", gauge(status.checkpoint_rows));
    registry.register("checkpoints", "Checkpoints taken since the start", ConstCounter::new(status.checkpoints));
    let seconds = ConstGauge::new(status.checkpoint_duration.as_secs_f64());
    registry.register_with_unit("checkpoint_duration", "How long the last checkpoint took", Unit::Seconds, seconds);
    let failing = u64::from(status.checkpoint_error.is_some());
    registry.register("checkpoint_failing", "1 while checkpoints do not succeed", gauge(failing));
    registry.register("connections", "Clients", gauge(shared.activities.len() as u64));
    registry.register("starts", "How often a server was started on this directory", ConstCounter::new(shared.starts));
    let uptime = ConstGauge::new(shared.started_at.elapsed().as_secs_f64());
    registry.register_with_unit("uptime", "Time since the start", Unit::Seconds, uptime);
    registry.register_with_unit("memory", "Resident memory", Unit::Bytes, gauge(resident_bytes()));

    let rows_in = Family::<Job, Gauge>::default();
    let bytes_in = Family::<Job, Gauge>::default();
    let waiting = Family::<Job, Gauge>::default();
    let behind = Family::<Job, Gauge>::default();
    let up = Family::<Job, Gauge>::default();
    let state_bytes = Family::<OperatorOf, Gauge>::default();
    let state_rows = Family::<OperatorOf, Gauge>::default();
    let lag = Family::<Split, Gauge>::default();
    let offset = Family::<Split, Gauge>::default();
    for job in &status.jobs {
        let label = Job { name: job.name.clone() };
        rows_in.get_or_create(&label).set(job.rows_in as i64);
        if !job.splits.is_empty() {
            bytes_in.get_or_create(&label).set(job.bytes_in as i64);
        }
        waiting.get_or_create(&label).set(job.rows_waiting as i64);
        behind.get_or_create(&label).set(status.epoch.0.saturating_sub(job.epoch.0) as i64);
        up.get_or_create(&label).set(i64::from(job.state != JobState::Failed));
        for (node, operator, size) in &job.operators {
            let label = OperatorOf { name: job.name.clone(), operator: format!("{node}:{operator}") };
            state_bytes.get_or_create(&label).set(size.bytes as i64);
            state_rows.get_or_create(&label).set(size.rows as i64);
        }
        for split in &job.splits {
            let label = Split { source: job.name.clone(), split: split.id.clone() };
            offset.get_or_create(&label).set(split.offset);
            if let Some(end) = split.end {
                lag.get_or_create(&label).set((end - split.offset).max(0));
            }
        }
    }
    registry.register("job_rows_in", "Rows that came in since the start", rows_in);
    registry.register("source_bytes_in", "Bytes that came in from outside since the start", bytes_in);
    registry.register("job_rows_waiting", "Rows that wait in the job's inboxes", waiting);
    registry.register("job_epochs_behind", "Sealed epochs that the job does not show yet: its freshness", behind);
    registry.register("job_up", "0 if the job failed", up);
    registry.register("state_bytes", "State in memory", state_bytes);
    registry.register("state_rows", "Entries of state", state_rows);
    registry.register("split_lag_records", "Records of the split that are not read yet", lag);
    registry.register("split_offset", "The next record to read", offset);
    Ok(registry)
}

/// The process's resident memory.
pub fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}
