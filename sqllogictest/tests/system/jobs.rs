//! The life of jobs as a client sees it: progress, cancel, what others feel of it, and what HTTP tells.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use slt::process::{Process, Start};
use slt::run::ask;
use tokio_postgres::NoTls;

use crate::orders::{eventually, rows};

/// A view over a big input tells how far it is, stalls nobody, and is gone without a trace when it is cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_in_the_making_can_be_cancelled() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    let run = async |sql: &str| ask(&client, sql).await.map_err(|f| anyhow!("{} {}\n{sql}", f.code, f.message));
    run("CREATE TABLE big (id int PRIMARY KEY, g int)").await?;
    for at in 0..6 {
        let (from, to) = (at * 50_000, (at + 1) * 50_000 - 1);
        run(&format!("INSERT INTO big SELECT x, x % 200 FROM generate_series({from}, {to}) AS s(x)")).await?;
    }
    run("CREATE TABLE small (a int)").await?;
    run("CREATE MATERIALIZED VIEW quick AS SELECT count(*) AS n FROM small").await?;

    // Each of 300,000 rows has 1,500 partners: this takes minutes.
    let maker = server.connect().await?;
    let token = maker.cancel_token();
    let making = tokio::spawn(async move {
        ask(&maker, "CREATE MATERIALIZED VIEW exploding AS SELECT count(*) AS n, sum(a.id * 2 - b.id) AS s FROM big AS a JOIN big AS b ON a.g = b.g").await
    });
    eventually(&client, "SELECT state FROM headwater_catalog.jobs WHERE name = 'exploding'", &["creating"]).await?;
    // Told by order and not by time: all of this is done long before the other view is.
    for n in 1..=20 {
        run(&format!("INSERT INTO small VALUES ({n})")).await?;
        assert_eq!(rows(&client, "SELECT n FROM quick").await?, [n.to_string()]);
    }
    let state = "SELECT state FROM headwater_catalog.jobs WHERE name = 'exploding'";
    assert_eq!(rows(&client, state).await?, ["creating"], "twenty writes waited for a view in the making");
    token.cancel_query(NoTls).await?;
    let failure = tokio::time::timeout(Duration::from_secs(120), making).await??.err().context("it was cancelled")?;
    assert_eq!(failure.code, "57014", "{}", failure.message);
    assert_eq!(rows(&client, "SELECT count(*) FROM headwater_catalog.jobs WHERE name = 'exploding'").await?, ["0"]);
    // A sink into a table has a second job, which goes with it.
    run("CREATE TABLE pairs (n bigint PRIMARY KEY, s bigint)").await?;
    let maker = server.connect().await?;
    let token = maker.cancel_token();
    let making = tokio::spawn(async move {
        ask(&maker, "CREATE SINK exploding INTO pairs AS SELECT a.id, b.id FROM big AS a JOIN big AS b ON a.g = b.g WHERE a.id * 2 < b.id").await
    });
    eventually(&client, state, &["creating"]).await?;
    token.cancel_query(NoTls).await?;
    let failure = tokio::time::timeout(Duration::from_secs(120), making).await??.err().context("it was cancelled")?;
    assert_eq!(failure.code, "57014", "{}", failure.message);
    eventually(&client, "SELECT count(*) FROM headwater_catalog.jobs WHERE name LIKE 'exploding%'", &["0"]).await?;
    run("DROP TABLE pairs").await?;
    run("CREATE MATERIALIZED VIEW exploding AS SELECT count(*) AS n FROM big").await?;
    assert_eq!(rows(&client, "SELECT n FROM exploding").await?, ["300000"]);
    drop(client);
    server.stop().await
}

/// Dropping gives back what a job held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_jobs_are_freed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    let run = async |sql: &str| ask(&client, sql).await.map_err(|f| anyhow!("{} {}\n{sql}", f.code, f.message));
    run("CREATE TABLE t (a int, b text)").await?;
    run("INSERT INTO t SELECT x, 'some text of a length ' || x FROM generate_series(1, 20000) AS s(x)").await?;
    let mut after_first = 0;
    for round in 0..12 {
        run("CREATE MATERIALIZED VIEW v AS SELECT b, count(*) AS n FROM t GROUP BY b").await?;
        run("CREATE MATERIALIZED VIEW w AS SELECT v.b, t.a FROM v JOIN t ON v.b = t.b").await?;
        assert_eq!(rows(&client, "SELECT count(*) FROM w").await?, ["20000"]);
        run("DROP MATERIALIZED VIEW v CASCADE").await?;
        if round == 3 {
            after_first = server.memory_bytes()?;
        }
    }
    let grown = server.memory_bytes()?.saturating_sub(after_first);
    assert!(grown < 100 << 20, "eight rounds of CREATE and DROP grew memory by {} MB", grown >> 20);
    drop(client);
    server.stop().await
}

/// The HTTP door.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_tells_health_and_metrics() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    client.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1); FLUSH").await?;
    assert_eq!(server.get("/healthz").await?.0, 200);
    assert_eq!(server.get("/readyz").await?.0, 200);
    let (_, metrics) = server.get("/metrics").await?;
    for name in ["epoch", "checkpoint", "memory", "state_bytes", "starts"] {
        assert!(metrics.lines().any(|line| line.starts_with("headwater_") && line.contains(name)), "{name}\n{metrics}");
    }
    assert_eq!(server.get("/nothing").await?.0, 404);
    drop(client);
    server.stop().await
}

/// An idle server waits; it does not spin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_uses_no_cpu() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Start::new(directory.path().join("data")).start().await?;
    let client = server.connect().await?;
    client.batch_execute("CREATE TABLE t (a int, b int)").await?;
    for at in 0..20 {
        client
            .batch_execute(&format!("CREATE MATERIALIZED VIEW v{at} AS SELECT a, count(*) AS n FROM t GROUP BY a"))
            .await?;
    }
    client.batch_execute("INSERT INTO t VALUES (1, 2); FLUSH").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = cpu_seconds(&server)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let share = (cpu_seconds(&server)? - before) / 5.0;
    // One that spins takes a whole core or two; what a release build takes is in bench/results.
    assert!(share < 0.25, "{:.1} % of a core", share * 100.0);
    drop(client);
    server.stop().await
}

fn cpu_seconds(server: &Process) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.id()))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("no process name")?.1.split(' ').collect();
    let (user, system): (f64, f64) = (fields[11].parse()?, fields[12].parse()?);
    Ok((user + system) / 100.0)
}
