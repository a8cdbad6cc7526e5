//! `headwater_catalog`: the jobs and what they do, the sources and how far they are read, the sinks and how far
//! they are delivered, checkpoints, memory, settings.

use storage::SqlType;
use streaming::engine::{EngineStatus, JobState, JobStatus, SinkStatus};

use crate::pg_catalog::relation::{Fill, SystemRelation};
use crate::row;

const fn relation(name: &'static str, oid: u32, columns: &'static str, fill: Fill) -> SystemRelation {
    SystemRelation::new("headwater_catalog", name, oid, columns, fill)
}

/// The relations of this file.
pub const RELATIONS: &[SystemRelation] = &[
    relation(
        "jobs",
        13_200,
        "relation:oid name:text kind:text state:text error:text epoch:int8 epochs_behind:int8 rows_read:int8 \
         rows_total:int8 progress:float8 rows_in:int8 rows_waiting:int8 state_rows:int8 state_bytes:int8 \
         seconds_behind:float8 failures:int8 restarts:int8 last_error:text next_attempt_seconds:float8 \
         row_errors:int8 row_errors_dropped:int8 errors_kept_max:int8 errors_kept_hours:int8 \
         memory_bytes:int8 memory_budget:int8",
        |context, rows| {
            let status = context.shared.engine()?.status();
            for job in &status.jobs {
                let kind = context.catalog.by_id(job.relation).map(|o| crate::catalog::kind_name(o.kind));
                let progress = match (job.state, job.rows_total) {
                    (JobState::Running, _) => Some(1.0),
                    (_, Some(total)) if total > 0 => Some((job.rows_read as f64 / total as f64).min(1.0)),
                    _ => None,
                };
                let state = match job.state {
                    JobState::Creating => "creating",
                    JobState::Running => "running",
                    JobState::Restarting => "restarting",
                    JobState::Failed => "failed",
                };
                let (state_rows, state_bytes) =
                    job.operators.iter().fold((0, 0), |sum, (_, _, size)| (sum.0 + size.rows, sum.1 + size.bytes));
                rows.push(row![
                    job.relation.0,
                    &job.name,
                    kind,
                    state,
                    job.error.clone(),
                    job.epoch.0,
                    status.epoch.0.saturating_sub(job.epoch.0),
                    job.rows_read,
                    job.rows_total,
                    progress,
                    job.rows_in,
                    job.rows_waiting,
                    state_rows,
                    state_bytes,
                    job.behind.as_secs_f64(),
                    job.failures,
                    job.restarts,
                    job.last_failure.clone(),
                    job.restarts_in.map(|left| left.as_secs_f64()),
                    job.row_errors,
                    job.row_errors_dropped,
                    job.kept.max as u64,
                    job.kept.time.as_secs() / 3600,
                    job.memory_bytes,
                    job.memory_budget
                ]);
            }
            Ok(())
        },
    ),
    relation(
        "operators",
        13_201,
        "relation:oid name:text node:int4 operator:text state_rows:int8 state_bytes:int8",
        |context, rows| {
            for job in &context.shared.engine()?.status().jobs {
                for (node, operator, size) in &job.operators {
                    rows.push(row![job.relation.0, &job.name, *node, *operator, size.rows, size.bytes]);
                }
            }
            Ok(())
        },
    ),
    relation(
        "sources",
        13_202,
        "relation:oid name:text connector:text splits:int4 rows_in:int8 bytes_in:int8 lag:int8 error:text",
        |context, rows| {
            for job in context.shared.engine()?.status().jobs.iter().filter(|j| !j.splits.is_empty()) {
                let ends = job.splits.iter().filter_map(|s| Some((s.end? - s.offset).max(0)));
                let lag: Option<i64> = ends.fold(None, |sum, lag| Some(sum.unwrap_or(0) + lag));
                let error = job.splits.iter().find_map(|s| s.error.clone());
                let connector =
                    context.catalog.by_id(job.relation).and_then(|o| crate::catalog::connector(o).map(str::to_owned));
                rows.push(row![
                    job.relation.0,
                    &job.name,
                    connector,
                    job.splits.len(),
                    job.rows_in,
                    job.bytes_in,
                    lag,
                    error
                ]);
            }
            Ok(())
        },
    ),
    relation(
        "splits",
        13_203,
        "relation:oid source:text split:text offset:int8 end:int8 lag:int8 error:text",
        |context, rows| {
            for job in &context.shared.engine()?.status().jobs {
                for split in &job.splits {
                    let lag = split.end.map(|end| (end - split.offset).max(0));
                    rows.push(row![
                        job.relation.0,
                        &job.name,
                        &split.id,
                        split.offset,
                        split.end,
                        lag,
                        split.error.clone()
                    ]);
                }
            }
            Ok(())
        },
    ),
    relation(
        "sinks",
        13_207,
        "relation:oid name:text connector:text type:text state:text epochs_behind:int8 seconds_behind:float8 \
         rows_waiting:int8 bytes_waiting:int8 rows:int8 transactions:int8 retries:int8 refused:int8 \
         last_error:text sink_group:text",
        |context, rows| {
            let status = context.shared.engine()?.status();
            for job in &status.jobs {
                let Some(sink) = &job.sink else { continue };
                let object = context.catalog.by_id(job.relation);
                let spec = object.and_then(|o| crate::catalog::sink_spec(o));
                let connector = spec.and_then(crate::catalog::sink_connector).map(str::to_owned);
                let groups = context.shared.catalogs.sink_groups();
                let group = object.and_then(|o| groups.values().find(|group| crate::catalog::is_in_group(o, group)));
                let (epochs, seconds) = sink_lag(&status, job, sink);
                rows.push(row![
                    job.relation.0,
                    object.map_or(&job.name, |o| &o.name),
                    connector,
                    spec.map(|spec| spec.kind.name()),
                    sink_state(job, sink),
                    epochs,
                    seconds,
                    sink.rows_waiting + job.rows_waiting,
                    sink.bytes_waiting,
                    sink.rows,
                    sink.transactions,
                    sink.retries,
                    sink.refused,
                    job.error.clone().or(sink.last_error.clone()),
                    group.map(|group| group.name.clone())
                ]);
            }
            Ok(())
        },
    ),
    relation("errors", 13_204, "relation:oid name:text error:text", |context, rows| {
        let status = context.shared.engine()?.status();
        for job in &status.jobs {
            if let Some(error) = &job.error {
                rows.push(row![job.relation.0, &job.name, error]);
            }
            if let Some(sink) = job.sink.as_ref().filter(|sink| matches!(sink.state, "retrying" | "full")) {
                rows.push(row![job.relation.0, &job.name, sink.last_error.clone()]);
            }
            for split in job.splits.iter() {
                if let Some(error) = &split.error {
                    rows.push(row![job.relation.0, &job.name, format!("split {}: {error}", split.id)]);
                }
            }
        }
        if let Some(error) = &status.checkpoint_error {
            rows.push(row![None::<i64>, "checkpoint", error]);
        }
        Ok(())
    }),
    relation(
        "checkpoints",
        13_205,
        "epoch:int8 checkpoint:int8 duration_ms:float8 rows:int8 checkpoints:int8 error:text",
        |context, rows| {
            let s = context.shared.engine()?.status();
            let ms = s.checkpoint_duration.as_secs_f64() * 1e3;
            rows.push(row![s.epoch.0, s.checkpoint.0, ms, s.checkpoint_rows, s.checkpoints, s.checkpoint_error]);
            Ok(())
        },
    ),
    relation(
        "watermarks",
        13_208,
        "relation:oid name:text kind:text column:text split:text watermark:text idle:bool late_rows:int8 late_rows_dropped:int8",
        |context, rows| {
            for job in &context.shared.engine()?.status().jobs {
                let Some(object) = context.catalog.by_id(job.relation) else { continue };
                let kind = crate::catalog::kind_name(object.kind);
                for (column, mark) in &job.watermarks {
                    let Some(column) = object.columns.get(*column) else { continue };
                    let text = |at: i64| watermark_text(at, &column.ty);
                    rows.push(row![
                        job.relation.0,
                        &job.name,
                        kind,
                        &column.name,
                        None::<String>,
                        mark.map(|mark| text(mark.at)),
                        None::<bool>,
                        job.late_rows,
                        job.late_rows.map(|_| job.late_dropped)
                    ]);
                    for split in job.splits.iter().filter(|_| job.late_rows.is_some()) {
                        let at = split.watermark.map(text);
                        let name = &column.name;
                        rows.push(row![job.relation.0, &job.name, kind, name, &split.id, at, split.idle]);
                    }
                }
            }
            Ok(())
        },
    ),
    relation(
        "ttl",
        13_210,
        "relation:oid name:text kind:text column:text ttl:text expired_rows:int8",
        |context, rows| {
            for job in &context.shared.engine()?.status().jobs {
                let (Some(ttl), Some(object)) = (&job.ttl, context.catalog.by_id(job.relation)) else { continue };
                let column = ttl.column.and_then(|column| object.visible().get(column)).map(|column| &column.name);
                rows.push(row![
                    job.relation.0,
                    &job.name,
                    crate::catalog::kind_name(object.kind),
                    column.cloned(),
                    crate::statements::ttl::text(ttl.micros),
                    ttl.expired_rows
                ]);
            }
            Ok(())
        },
    ),
    relation(
        "savepoint_points",
        13_209,
        "name:text epoch:int8 created:timestamptz bytes:int8 error:text",
        |context, rows| {
            for (name, info) in crate::statements::savepoint_point::all(&context.shared.config.data_dir) {
                match info {
                    Ok(info) => rows.push(row![name, info.epoch.0, info.made, info.bytes, None::<String>]),
                    Err(error) => {
                        rows.push(row![name, None::<i64>, None::<i64>, None::<i64>, error.to_string()]);
                    }
                }
            }
            Ok(())
        },
    ),
    relation("sink_groups", 13_212, "name:text connector:text sinks:int8", |context, rows| {
        for group in context.shared.catalogs.sink_groups().values() {
            let sinks = context.catalog.objects().filter(|o| crate::catalog::is_in_group(o, group)).count() as i64;
            rows.push(row![&group.name, group.connector().map(str::to_owned), sinks]);
        }
        Ok(())
    }),
    relation("memory", 13_211, "kind:text bytes:int8 budget:int8", |context, rows| {
        for (kind, bytes, budget) in context.shared.memory()? {
            rows.push(row![kind, bytes, budget]);
        }
        Ok(())
    }),
    relation("settings", 13_206, "name:text setting:text description:text", |context, rows| {
        for setting in crate::settings::SETTINGS.iter() {
            rows.push(row![setting.name, context.settings.of(setting), setting.description]);
        }
        let config = &context.shared.config;
        for (name, value, description) in [
            ("data_dir", config.data_dir.display().to_string(), "Where everything is kept."),
            ("listen", config.listen.to_string(), "Where Postgres clients connect."),
            ("workers", config.workers.to_string(), "Worker threads."),
            ("connections_max", config.connections_max.to_string(), "Client connections at the same time."),
            ("message_bytes_max", config.message_bytes_max.to_string(), "The largest message of a client."),
            ("memory_bytes", config.memory_bytes.to_string(), "Memory of the server: state, what waits, reads."),
            (
                "read_memory_bytes",
                config.read_memory().to_string(),
                "Memory of all reads together; beyond it they spill.",
            ),
            (
                "checkpoint_interval_ms",
                config.checkpoint_interval.as_millis().to_string(),
                "How often changes are made durable.",
            ),
            (
                "errors_kept_max",
                config.errors_kept.max.to_string(),
                "How many rows each $errors and $late keeps, the newest.",
            ),
            ("errors_kept_hours", (config.errors_kept.time.as_secs() / 3600).to_string(), "How long they are kept."),
            (
                "job_restarts_max",
                config.job_restarts_max.to_string(),
                "How often a failed job starts again by itself within 10 minutes.",
            ),
            (
                "job_restart_pause_ms",
                config.job_restart_pause.as_millis().to_string(),
                "The pause before the first of these starts; it doubles each time.",
            ),
        ] {
            rows.push(row![name, value, description]);
        }
        Ok(())
    }),
];

/// What a sink is doing.
pub fn sink_state(job: &JobStatus, sink: &SinkStatus) -> &'static str {
    match job.state {
        JobState::Creating => "creating",
        JobState::Running => sink.state,
        JobState::Restarting => "restarting",
        JobState::Failed => "failed",
    }
}

/// How far a sink's target is behind: sealed epochs, and seconds.
pub fn sink_lag(status: &EngineStatus, job: &JobStatus, sink: &SinkStatus) -> (u64, f64) {
    let has = sink.oldest_epoch.map_or(job.epoch.0, |oldest| oldest - 1);
    (status.epoch.0.saturating_sub(has), job.behind.max(sink.waiting).as_secs_f64())
}

/// A watermark as its column's values are written, timestamptz in UTC.
fn watermark_text(at: i64, ty: &SqlType) -> String {
    use planner::types::datetime;
    let mut text = String::new();
    match ty {
        SqlType::Timestamp => datetime::write_timestamp(at, &mut text),
        SqlType::TimestampTz => datetime::write_timestamptz(at, &datetime::UTC, &mut text),
        SqlType::Date => datetime::write_date(at as i32, &mut text),
        _ => text = at.to_string(),
    }
    text
}
