//! The HTTP door.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Running, eventually};

async fn get(running: &Running, path: &str) -> String {
    let address = running.server.as_ref().unwrap().http_address().unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_are_told() {
    let running = Running::start().await;
    assert!(get(&running, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&running, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&running, "/nothing").await.starts_with("HTTP/1.1 404"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_is_measured_and_explained() {
    let running = Running::start().await;
    let client = running.connect().await;
    let source = "CREATE SOURCE s (a int) WITH (connector = 'datagen', datagen.rows = 1000, datagen.split.num = 2, \
                  datagen.rows.per.second = 100000)";
    client.batch_execute(source).await.unwrap();
    client
        .batch_execute("CREATE MATERIALIZED VIEW v AS SELECT a % 10 AS k, count(*) AS n FROM s GROUP BY a % 10")
        .await
        .unwrap();
    let read = "SELECT sum(n) FROM v";
    eventually(&client, read, "1000").await;
    // Where a file ends is known, and so how far behind its reader is.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.csv"), "1\n2\n").unwrap();
    let source = format!(
        "CREATE SOURCE f (a int) WITH (connector = 'file', path = '{}') FORMAT PLAIN ENCODE CSV",
        dir.path().display()
    );
    client.batch_execute(&source).await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW w AS SELECT count(*) AS n FROM f").await.unwrap();
    let known = "SELECT count(*) FROM headwater_catalog.splits WHERE source = 'f' AND lag = 0";
    eventually(&client, known, "1").await;
    client.batch_execute("FLUSH").await.unwrap();
    let metrics = get(&running, "/metrics").await;
    let value = |name: &str, label: &str| {
        let line = metrics
            .lines()
            .find(|l| l.split([' ', '{']).next() == Some(name) && label.split(' ').all(|part| l.contains(part)));
        let line = line.unwrap_or_else(|| panic!("no {name} with {label} in\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    // What must be there, with the unit that its name ends with, and what it is at least.
    for (name, label, least) in [
        ("headwater_epoch", "", 1.0),
        ("headwater_checkpoint_epoch", "", 1.0),
        ("headwater_checkpoints_total", "", 1.0),
        ("headwater_checkpoint_duration_seconds", "", 1e-9),
        ("headwater_checkpoint_failing", "", 0.0),
        ("headwater_connections", "", 1.0),
        ("headwater_restarts_total", "", 0.0),
        ("headwater_uptime_seconds", "", 1e-3),
        ("headwater_memory_bytes", "", 1e6),
        ("headwater_source_rows_total", "source=\"s\"", 1000.0),
        ("headwater_source_bytes_total", "source=\"s\"", 1000.0),
        ("headwater_split_offset", "split=\"0\"", 500.0),
        ("headwater_split_offset", "split=\"1\"", 500.0),
        ("headwater_split_lag", "source=\"f\"", 0.0),
        ("headwater_split_up", "split=\"1\"", 1.0),
        ("headwater_job_rows_in_total", "job=\"v\"", 1000.0),
        ("headwater_job_freshness_seconds", "job=\"v\"", 0.0),
        ("headwater_job_epochs_behind", "job=\"v\"", 0.0),
        ("headwater_job_rows_waiting", "job=\"v\"", 0.0),
        ("headwater_job_up", "job=\"v\"", 1.0),
        ("headwater_job_state_bytes", "job=\"v\"", 100.0),
        ("headwater_job_state_rows", "job=\"v\"", 10.0),
        ("headwater_operator_state_bytes", "job=\"v\" :Aggregate", 100.0),
        ("headwater_operator_state_rows", "job=\"v\" :Aggregate", 10.0),
    ] {
        assert!(value(name, label) >= least, "{name} {label}\n{metrics}");
        let described = name.strip_suffix("_total").unwrap_or(name);
        assert!(metrics.contains(&format!("# HELP {described} ")), "{name} is not explained\n{metrics}");
    }
    for unit in ["seconds", "bytes"] {
        let named = metrics.lines().filter(|l| l.starts_with("# TYPE") && l.split(' ').nth(2).unwrap().ends_with(unit));
        for line in named {
            let name = line.split(' ').nth(2).unwrap();
            assert!(metrics.contains(&format!("# UNIT {name} {unit}")), "{name} has no unit\n{metrics}");
        }
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    for starts in 0..3 {
        let running = Running::start_on(dir.path()).await;
        let metrics = get(&running, "/metrics").await;
        assert!(metrics.contains(&format!("headwater_restarts_total {starts}\n")), "{metrics}");
        running.stop().await;
    }
}
